/* libclient/inbox: batches in order of level and arrival, repeats dropped, buffers recycled, bounds
 * seen. */
#include "libclient/inbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { DEPTH = 4, WIDTH = 256 };

static int setup(void **state)
{
    static struct inbox inbox;

    inbox_init(&inbox, DEPTH, WIDTH);
    *state = &inbox;
    return 0;
}

static int teardown(void **state)
{
    inbox_deinit(*state);
    return 0;
}

static struct inbox_batch *push(struct inbox *inbox, unsigned level, uint32_t size)
{
    struct inbox_batch *batch = inbox_blank(inbox);

    assert_non_null(batch);
    inbox_push(inbox, batch, level, 40, 40 + size);
    return batch;
}

static void empty_inbox_has_no_best_level(void **state)
{
    assert_int_equal(inbox_best(*state), -1);
    assert_null(inbox_first(*state, 0));
}

static void best_is_the_highest_level_with_something(void **state)
{
    struct inbox *inbox = *state;

    push(inbox, 0, 10);
    assert_int_equal(inbox_best(inbox), 0);
    push(inbox, 32, 10);
    push(inbox, 31, 10);
    assert_int_equal(inbox_best(inbox), 32);
    inbox_advance(inbox, 32, 10);
    assert_int_equal(inbox_best(inbox), 31);
    inbox_advance(inbox, 31, 10);
    assert_int_equal(inbox_best(inbox), 0);
    inbox_advance(inbox, 0, 10);
    assert_int_equal(inbox_best(inbox), -1);
}

static void first_in_is_first_out_within_a_level(void **state)
{
    struct inbox *inbox = *state;
    struct inbox_batch *first = push(inbox, 5, 10);
    struct inbox_batch *second = push(inbox, 5, 10);
    struct inbox_batch *third;

    assert_ptr_equal(inbox_first(inbox, 5), first);
    inbox_advance(inbox, 5, 10);
    third = push(inbox, 5, 10);
    assert_ptr_equal(third, first); /* its buffer again */
    assert_ptr_equal(inbox_first(inbox, 5), second);
    inbox_advance(inbox, 5, 10);
    assert_ptr_equal(inbox_first(inbox, 5), third);
}

static void reading_on_stays_in_the_batch_until_it_is_used_up(void **state)
{
    struct inbox *inbox = *state;
    struct inbox_batch *batch = push(inbox, 5, 30);

    inbox_advance(inbox, 5, 10);
    inbox_advance(inbox, 5, 10);
    assert_ptr_equal(inbox_first(inbox, 5), batch);
    assert_int_equal(batch->at, 60);
    inbox_advance(inbox, 5, 10);
    assert_null(inbox_first(inbox, 5));
    assert_int_equal(inbox->n, 0);
}

static void advancing_past_the_end_uses_the_batch_up(void **state)
{
    push(*state, 5, 30);
    inbox_advance(*state, 5, UINT32_MAX);
    assert_int_equal(inbox_best(*state), -1);
}

static void a_buffer_is_not_used_again_while_a_message_of_it_is_held(void **state)
{
    struct inbox *inbox = *state;
    struct inbox_batch *held = push(inbox, 5, 20), *other;

    inbox_hold(held);
    inbox_hold(held);
    inbox_advance(inbox, 5, 20);
    other = inbox_blank(inbox);
    assert_ptr_not_equal(other, held);
    inbox_release(other);
    inbox_release(held);
    assert_int_equal(held->holds, 1);
    inbox_release(held);
    assert_ptr_equal(inbox_blank(inbox), held);
}

static void batches_that_come_and_go_need_one_buffer(void **state)
{
    struct inbox *inbox = *state;

    for (int i = 0; i < 1000; i++) {
        push(inbox, (unsigned)i % INBOX_LEVELS, 10);
        inbox_advance(inbox, (unsigned)i % INBOX_LEVELS, 10);
    }
    assert_non_null(inbox->made);
    assert_null(inbox->made->made);
}

static void deinit_frees_what_is_held_and_what_is_unread(void **state)
{
    struct inbox *inbox = *state;

    inbox_hold(push(inbox, 5, 20));
    push(inbox, 7, 20);
    inbox_advance(inbox, 5, 20);
    inbox_deinit(inbox); /* the address sanitizer looks on */
    assert_int_equal(inbox_best(inbox), -1);
}

static void K3_a_number_not_above_the_last_one_is_a_repeat(void **state)
{
    struct inbox *inbox = *state;

    assert_true(inbox_fresh(inbox, 3, 7));
    assert_false(inbox_fresh(inbox, 3, 7));
    assert_false(inbox_fresh(inbox, 3, 6));
    assert_true(inbox_fresh(inbox, 3, 100)); /* gaps are fine */
    assert_true(inbox_fresh(inbox, 3, UINT64_MAX));
}

static void K3_levels_are_compared_apart(void **state)
{
    struct inbox *inbox = *state;

    assert_true(inbox_fresh(inbox, WIRE_CONTROL, 9));
    assert_true(inbox_fresh(inbox, 0, 8)); /* overtaken by a higher one, not repeated */
    assert_false(inbox_fresh(inbox, 0, 8));
}

static void crowded_when_one_level_holds_a_queue_of_batches(void **state)
{
    struct inbox *inbox = *state;

    for (unsigned i = 1; i < DEPTH; i++) {
        push(inbox, 3, 10);
        push(inbox, 4, 10);
    }
    assert_false(inbox_crowded(inbox));
    push(inbox, 3, 10);
    assert_true(inbox_crowded(inbox));
    push(inbox, 3, 10); /* further than that counts once */
    inbox_advance(inbox, 3, 10);
    assert_true(inbox_crowded(inbox));
    inbox_advance(inbox, 3, 10);
    assert_false(inbox_crowded(inbox));
}

static void full_when_all_levels_together_hold_a_queue_each(void **state)
{
    struct inbox *inbox = *state;

    for (unsigned i = 0; i < DEPTH * INBOX_LEVELS; i++) {
        assert_false(inbox_full(inbox));
        push(inbox, 3, 10);
    }
    assert_true(inbox_full(inbox));
    inbox_advance(inbox, 3, 10);
    assert_false(inbox_full(inbox));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(empty_inbox_has_no_best_level),
        TEST(best_is_the_highest_level_with_something),
        TEST(first_in_is_first_out_within_a_level),
        TEST(reading_on_stays_in_the_batch_until_it_is_used_up),
        TEST(advancing_past_the_end_uses_the_batch_up),
        TEST(a_buffer_is_not_used_again_while_a_message_of_it_is_held),
        TEST(batches_that_come_and_go_need_one_buffer),
        TEST(deinit_frees_what_is_held_and_what_is_unread),
        TEST(K3_a_number_not_above_the_last_one_is_a_repeat),
        TEST(K3_levels_are_compared_apart),
        TEST(crowded_when_one_level_holds_a_queue_of_batches),
        TEST(full_when_all_levels_together_hold_a_queue_each),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
