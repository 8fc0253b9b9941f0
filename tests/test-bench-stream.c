/* The tally finds what went wrong with a stream, and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/bench-stream.h"
#include "tools/bench.h"

enum { SIZE = 40 };

static struct tally tally;

static int two_senders(void **state)
{
    (void)state;
    return tally_init(&tally, 2);
}

static int gone(void **state)
{
    (void)state;
    tally_deinit(&tally);
    return 0;
}

static void take(unsigned sender, uint32_t number, unsigned flags)
{
    unsigned char payload[SIZE];
    struct stream_head head = {
        .number = number, .sender = (uint16_t)sender, .flags = (uint16_t)flags};

    stream_fill(payload, sizeof payload, sender);
    stream_stamp(payload, &head);
    assert_int_equal(tally_take(&tally, payload, sizeof payload, SIZE), 0);
}

static void a_perfect_stream_has_no_faults(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 100; i++) {
        take(0, i, i == 99 ? STREAM_LAST : 0);
        take(1, i, i == 99 ? STREAM_LAST : 0);
    }
    assert_int_equal(tally.n_open, 0);
    assert_int_equal(tally.received, 200);
    assert_int_equal(tally_lost(&tally), 0);
    assert_int_equal(tally.twice, 0);
    assert_int_equal(tally.disordered, 0);
    assert_int_equal(tally.damaged, 0);
}

/* Of a payload on loan only the head and the last byte are written. */
static void a_marked_payload_is_whole(void **state)
{
    unsigned char payload[SIZE] = {0};
    struct stream_head head = {.number = 0, .sender = 1};

    (void)state;
    stream_mark(payload, sizeof payload, &head);
    assert_int_equal(tally_take(&tally, payload, sizeof payload, SIZE), 0);
    stream_mark(payload, sizeof head, &head); /* no byte but the head */
    assert_true(stream_same(payload, &head));
    assert_int_equal(tally.damaged, 0);
}

static void a_missing_message_is_lost(void **state)
{
    (void)state;
    take(0, 0, 0);
    take(0, 2, 0);
    take(0, 5, STREAM_LAST);
    assert_int_equal(tally_lost(&tally), 3);
    assert_int_equal(tally.disordered, 0);
}

static void a_message_that_comes_late_is_disordered_and_not_lost(void **state)
{
    (void)state;
    take(1, 1, 0);
    take(1, 0, 0);
    take(1, 2, STREAM_LAST);
    assert_int_equal(tally_lost(&tally), 0);
    assert_int_equal(tally.disordered, 1);
}

static void a_message_that_comes_twice_does_not_stand_in_for_another(void **state)
{
    (void)state;
    take(0, 0, 0);
    take(0, 0, 0);
    take(0, 2, STREAM_LAST);
    take(0, 2, STREAM_LAST);
    assert_int_equal(tally.twice, 2);
    assert_int_equal(tally_lost(&tally), 1);
    assert_int_equal(tally.n_open, 1); /* the other sender */
}

static void senders_are_told_apart(void **state)
{
    (void)state;
    take(0, 0, STREAM_LAST);
    take(1, 0, 0);
    take(1, 1, STREAM_LAST);
    assert_int_equal(tally.n_open, 0);
    assert_int_equal(tally.twice, 0);
    assert_int_equal(tally_lost(&tally), 0);
}

static void a_changed_or_cut_payload_is_damaged(void **state)
{
    unsigned char payload[SIZE];
    struct stream_head head = {.number = 0};

    (void)state;
    stream_fill(payload, sizeof payload, 0);
    stream_stamp(payload, &head);
    assert_int_equal(tally_take(&tally, payload, SIZE - 1, SIZE), 0);
    assert_int_equal(tally.damaged, 1);
    payload[SIZE - 1] ^= 1;
    assert_int_equal(tally_take(&tally, payload, SIZE, SIZE), 0);
    assert_int_equal(tally.damaged, 2);
}

static void what_is_no_message_of_ours_is_an_error(void **state)
{
    unsigned char payload[SIZE] = {0};
    struct stream_head head = {.sender = 2};

    (void)state;
    assert_int_equal(tally_take(&tally, payload, sizeof head - 1, SIZE), -1);
    stream_stamp(payload, &head);
    assert_int_equal(tally_take(&tally, payload, SIZE, SIZE), -1);
}

/* Send until the last one; how many were measured comes back. */
static uint64_t run_out(struct stream *stream, uint64_t *total)
{
    uint64_t measured = 0;
    uint32_t expected = 0;

    do {
        stream_next(stream, 0);
        assert_int_equal(stream->head.number, expected++);
        measured += (stream->head.flags & STREAM_MEASURED) != 0;
    } while ((stream->head.flags & STREAM_LAST) == 0);
    *total = expected;
    return measured;
}

static void a_count_is_measured_after_a_fifth_for_warming_up(void **state)
{
    struct bench_options options = {.count = 50};
    struct stream stream;
    uint64_t total;

    (void)state;
    stream_begin(&stream, &options, 0);
    assert_int_equal(run_out(&stream, &total), 50);
    assert_int_equal(total, 60);
}

static void a_count_of_one_is_one_message(void **state)
{
    struct bench_options options = {.count = 1};
    struct stream stream;
    uint64_t total;

    (void)state;
    stream_begin(&stream, &options, 0);
    assert_int_equal(run_out(&stream, &total), 1);
    assert_int_equal(total, 1);
}

static void warming_up_for_a_count_is_bounded(void **state)
{
    struct bench_options options = {.count = 1000000};
    struct stream stream;
    uint64_t total;

    (void)state;
    stream_begin(&stream, &options, 0);
    assert_int_equal(run_out(&stream, &total), 1000000);
    assert_int_equal(total, 1020000);
}

static void a_duration_ends_after_a_fifth_and_itself(void **state)
{
    struct bench_options options = {.seconds = 10};
    struct stream stream;

    (void)state;
    stream_begin(&stream, &options, 0);
    stream_next(&stream, stream.began + 1999999999);
    assert_false(stream.measuring);
    stream_next(&stream, stream.began + 2000000000);
    assert_true(stream.measuring);
    stream_next(&stream, stream.began + 9999999999);
    assert_int_equal(stream.head.flags & STREAM_LAST, 0);
    stream_next(&stream, stream.began + 10000000000);
    assert_int_equal(stream.head.flags & STREAM_LAST, STREAM_LAST);
}

static void an_endless_stream_ends_when_it_is_cut(void **state)
{
    struct stream stream;

    (void)state;
    stream_begin_endless(&stream, 3);
    for (int i = 0; i < 1000; i++) {
        stream_next(&stream, 0);
        assert_int_equal(stream.head.flags, 0);
    }
    stream_cut(&stream);
    stream_next(&stream, 0);
    assert_int_equal(stream.head.flags, STREAM_LAST);
    assert_int_equal(stream.head.number, 1000);
    assert_int_equal(stream.head.sender, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_perfect_stream_has_no_faults, two_senders, gone),
        cmocka_unit_test_setup_teardown(a_marked_payload_is_whole, two_senders, gone),
        cmocka_unit_test_setup_teardown(a_missing_message_is_lost, two_senders, gone),
        cmocka_unit_test_setup_teardown(a_message_that_comes_late_is_disordered_and_not_lost,
                                        two_senders, gone),
        cmocka_unit_test_setup_teardown(a_message_that_comes_twice_does_not_stand_in_for_another,
                                        two_senders, gone),
        cmocka_unit_test_setup_teardown(senders_are_told_apart, two_senders, gone),
        cmocka_unit_test_setup_teardown(a_changed_or_cut_payload_is_damaged, two_senders, gone),
        cmocka_unit_test_setup_teardown(what_is_no_message_of_ours_is_an_error, two_senders, gone),
        cmocka_unit_test(a_count_is_measured_after_a_fifth_for_warming_up),
        cmocka_unit_test(a_count_of_one_is_one_message),
        cmocka_unit_test(warming_up_for_a_count_is_bounded),
        cmocka_unit_test(a_duration_ends_after_a_fifth_and_itself),
        cmocka_unit_test(an_endless_stream_ends_when_it_is_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
