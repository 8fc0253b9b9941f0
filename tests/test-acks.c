/* libclient/acks: decisions go out in their order, as few frames as there can be, none lost. */
#include "libclient/acks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "libclient/wire.h"

enum { ROOM = 1280 - WIRE_ENVELOPE_SIZE };

static struct acks acks;
static uint8_t bytes[ROOM];
static uint32_t n_put;

static int setup(void **state)
{
    (void)state;
    memset(&acks, 0, sizeof(acks));
    return 0;
}

/* The frame at `at`; returns where the next one is. */
static size_t expect_frame(size_t at, size_t size, uint8_t type, struct wire_frame *frame)
{
    assert_int_equal(wire_get_request(bytes + at, size - at, frame), WIRE_OK);
    assert_int_equal(frame->type, type);
    return at + frame->size;
}

static void those_in_a_row_share_a_frame(void **state)
{
    struct wire_frame frame;
    size_t size;

    (void)state;
    for (uint64_t name = 1; name <= 3; name++)
        assert_true(acks_add(&acks, name, ACKS_DONE, 0));
    size = acks_put(&acks, bytes, ROOM, &n_put);
    assert_int_equal(n_put, 3);
    assert_int_equal(expect_frame(0, size, WIRE_ACK, &frame), size);
    assert_int_equal(frame.n_names, 3);
    for (uint64_t i = 0; i < 3; i++)
        assert_int_equal(wire_load64(frame.names + 8 * i), i + 1);
}

static void decisions_keep_their_order(void **state)
{
    struct wire_frame frame;
    size_t size, at;

    (void)state;
    acks_add(&acks, 1, ACKS_DONE, 0);
    acks_add(&acks, 2, ACKS_AGAIN, 500);
    acks_add(&acks, 3, ACKS_DEAD, 0);
    acks_add(&acks, 4, ACKS_DONE, 0);
    size = acks_put(&acks, bytes, ROOM, &n_put);
    assert_int_equal(n_put, 4);
    at = expect_frame(0, size, WIRE_ACK, &frame);
    assert_int_equal(wire_load64(frame.names), 1);
    at = expect_frame(at, size, WIRE_NACK, &frame);
    assert_int_equal(frame.number, 2);
    assert_int_equal(frame.delay, 500);
    assert_int_equal(frame.flags, 0);
    at = expect_frame(at, size, WIRE_NACK, &frame);
    assert_int_equal(frame.number, 3);
    assert_int_equal(frame.flags, WIRE_F_DEAD);
    at = expect_frame(at, size, WIRE_ACK, &frame);
    assert_int_equal(wire_load64(frame.names), 4);
    assert_int_equal(at, size);
}

/* Count the names that come out of so much room at a time. */
static uint32_t drain(size_t room)
{
    uint64_t next = 1;

    while (acks.n > 0) {
        size_t size = acks_put(&acks, bytes, room, &n_put);

        assert_true(size <= room);
        assert_true(n_put > 0);
        for (size_t at = 0; at < size;) {
            struct wire_frame frame;

            assert_int_equal(wire_get_request(bytes + at, size - at, &frame), WIRE_OK);
            if (frame.type == WIRE_NACK)
                assert_int_equal(frame.number, next++);
            for (uint32_t i = 0; frame.type == WIRE_ACK && i < frame.n_names; i++)
                assert_int_equal(wire_load64(frame.names + 8 * i), next++);
            at += frame.size;
        }
        acks_drop(&acks, n_put, 0);
    }
    return (uint32_t)next - 1;
}

static void what_does_not_fit_goes_with_the_next(void **state)
{
    (void)state;
    for (uint64_t name = 1; name <= ACKS_MAX; name++)
        acks_add(&acks, name, name % 2 == 0 ? ACKS_DONE : ACKS_AGAIN, 0);
    assert_int_equal(drain(ROOM), ACKS_MAX);
    for (uint64_t name = 1; name <= ACKS_MAX; name++)
        acks_add(&acks, name, ACKS_DONE, 0);
    assert_int_equal(drain(100), ACKS_MAX);
}

static void a_full_one_takes_no_more(void **state)
{
    (void)state;
    for (uint64_t name = 1; name <= ACKS_MAX; name++) {
        assert_false(acks_full(&acks));
        assert_true(acks_add(&acks, name, ACKS_DONE, 0));
    }
    assert_true(acks_full(&acks));
    assert_false(acks_add(&acks, 65, ACKS_DONE, 0));
    assert_int_equal(acks.n, ACKS_MAX);
}

static void they_gather_behind_one_that_was_sent_a_moment_ago(void **state)
{
    const uint64_t now = 5 * (uint64_t)ACKS_GATHER_NS;

    (void)state;
    assert_false(acks_due(&acks, now));
    acks_add(&acks, 1, ACKS_DONE, 0);
    assert_true(acks_due(&acks, now));
    acks_drop(&acks, 1, now);
    acks_add(&acks, 2, ACKS_DONE, 0);
    assert_false(acks_due(&acks, now));
    assert_false(acks_due(&acks, now + ACKS_GATHER_NS - 1));
    assert_true(acks_due(&acks, now + ACKS_GATHER_NS));
    while (!acks_full(&acks))
        acks_add(&acks, 3, ACKS_DONE, 0);
    assert_true(acks_due(&acks, now));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(those_in_a_row_share_a_frame, setup),
        cmocka_unit_test_setup(decisions_keep_their_order, setup),
        cmocka_unit_test_setup(what_does_not_fit_goes_with_the_next, setup),
        cmocka_unit_test_setup(a_full_one_takes_no_more, setup),
        cmocka_unit_test_setup(they_gather_behind_one_that_was_sent_a_moment_ago, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
