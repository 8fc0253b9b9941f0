/* libclient/confirms: each number keeps its own outcome, answered in any order, bounded. */
#include "libclient/confirms.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static struct confirms confirms;

static int setup(void **state)
{
    (void)state;
    confirms_init(&confirms);
    return 0;
}

static void numbers_begin_at_one_and_wait(void **state)
{
    (void)state;
    assert_int_equal(confirms_look(&confirms, 1), CONFIRMS_UNKNOWN);
    assert_int_equal(confirms_take(&confirms), 1);
    assert_int_equal(confirms_take(&confirms), 2);
    assert_int_equal(confirms_look(&confirms, 1), CONFIRMS_WAITING);
    assert_int_equal(confirms_look(&confirms, 3), CONFIRMS_UNKNOWN);
    assert_int_equal(confirms_look(&confirms, 0), CONFIRMS_UNKNOWN);
}

static void one_answer_covers_a_range(void **state)
{
    (void)state;
    for (int i = 0; i < 10; i++)
        confirms_take(&confirms);
    confirms_answer(&confirms, 3, 4, 7);
    for (uint64_t n = 1; n <= 10; n++)
        assert_int_equal(confirms_look(&confirms, n), n >= 3 && n < 7 ? 7 : CONFIRMS_WAITING);
}

static void answers_come_in_any_order_and_the_first_counts(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++)
        confirms_take(&confirms);
    confirms_answer(&confirms, 3, 1, 0);
    confirms_answer(&confirms, 1, 3, 4);
    assert_int_equal(confirms_look(&confirms, 3), 0);
    assert_int_equal(confirms_look(&confirms, 1), 4);
    assert_int_equal(confirms_look(&confirms, 2), 4);
}

static void an_answer_to_what_was_never_asked_changes_nothing(void **state)
{
    (void)state;
    confirms_take(&confirms);
    confirms_answer(&confirms, 2, 1, 4);
    confirms_answer(&confirms, 0, 1, 4);
    confirms_answer(&confirms, UINT32_C(0x7ffffff0), UINT32_MAX, 4);
    confirms_answer(&confirms, 1, 0, 4);
    assert_int_equal(confirms_look(&confirms, 1), CONFIRMS_WAITING);
    confirms_answer(&confirms, 1, UINT32_MAX, 4); /* claims more than there are */
    assert_int_equal(confirms_look(&confirms, 1), 4);
    assert_int_equal(confirms_look(&confirms, 2), CONFIRMS_UNKNOWN);
}

static void there_is_no_room_while_the_oldest_place_waits(void **state)
{
    (void)state;
    for (int i = 0; i < CONFIRMS_KEPT; i++) {
        assert_true(confirms_room(&confirms));
        confirms_take(&confirms);
    }
    assert_false(confirms_room(&confirms));
    confirms_answer(&confirms, 2, 1, 0);
    assert_false(confirms_room(&confirms));
    confirms_answer(&confirms, 1, 1, 0);
    assert_true(confirms_room(&confirms));
}

static void the_newest_1024_are_remembered(void **state)
{
    (void)state;
    for (int i = 0; i < CONFIRMS_KEPT + 5; i++)
        confirms_answer(&confirms, confirms_wire(confirms_take(&confirms)), 1, (uint8_t)(i % 3));
    assert_int_equal(confirms_look(&confirms, 5), CONFIRMS_UNKNOWN);
    assert_int_equal(confirms_look(&confirms, 6), 5 % 3);
    assert_int_equal(confirms_look(&confirms, CONFIRMS_KEPT + 5), (CONFIRMS_KEPT + 4) % 3);
}

static void numbers_on_the_wire_go_round_without_zero(void **state)
{
    (void)state;
    confirms.next = CONFIRMS_WIRE_MASK - 1;
    for (int i = 0; i < 5; i++) {
        uint64_t number = confirms_take(&confirms);

        assert_int_not_equal(confirms_wire(number), 0);
        assert_true(confirms_wire(number) <= CONFIRMS_WIRE_MASK);
    }
    /* 7ffffffe, 7fffffff, then 1, 2, 3 */
    confirms_answer(&confirms, CONFIRMS_WIRE_MASK, 1, 9);
    confirms_answer(&confirms, 2, 1, 8);
    assert_int_equal(confirms_look(&confirms, CONFIRMS_WIRE_MASK - 1), CONFIRMS_WAITING);
    assert_int_equal(confirms_look(&confirms, CONFIRMS_WIRE_MASK), 9);
    assert_int_equal(confirms_look(&confirms, UINT64_C(0x80000001)), CONFIRMS_WAITING);
    assert_int_equal(confirms_look(&confirms, UINT64_C(0x80000002)), 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(numbers_begin_at_one_and_wait, setup),
        cmocka_unit_test_setup(one_answer_covers_a_range, setup),
        cmocka_unit_test_setup(answers_come_in_any_order_and_the_first_counts, setup),
        cmocka_unit_test_setup(an_answer_to_what_was_never_asked_changes_nothing, setup),
        cmocka_unit_test_setup(there_is_no_room_while_the_oldest_place_waits, setup),
        cmocka_unit_test_setup(the_newest_1024_are_remembered, setup),
        cmocka_unit_test_setup(numbers_on_the_wire_go_round_without_zero, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
