/* Overflow (rule P7), in broker/pump: what is dropped of the backlog of a session that does not
 * read, by each policy, and how much of it; and what is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "tests/support/engine-expect.h"

static void stall(struct rig *r)
{
    rig_turn(r); /* notices who is over */
    r->engine.now += r->settings.stall_timeout;
    life_tick(&r->engine);
}

static void P7_a_stalled_session_loses_the_oldest_of_its_lowest_priority(void **state)
{
    static const struct rig_options small = {.settings = {.backlog_size = 30 * WIRE_CELL_SIZE}};
    struct rig *r;
    uint16_t a, publisher;
    char payload[8];
    uint64_t missed;
    uint32_t waiting;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &small), 0);
    publisher = expect_session(r, "publisher");
    a = expect_subscriber(r, "a", "t");
    r->queues[a].refuse = UINT32_MAX; /* its queue is full for good */
    for (int i = 0; i < 10; i++)
        rig_publish(r, publisher, 20, "t", "high");
    for (int i = 0; i < 40; i++) {
        snprintf(payload, sizeof(payload), "%d", i);
        rig_publish(r, publisher, 5, "t", payload);
    }
    pump_room(&r->engine, a, 0);
    rig_turn(r);
    assert_int_equal(engine_row(&r->engine, a)->missed, 0); /* over its quota, not yet stalled */
    stall(r);
    assert_int_equal(r->engine.n_stalled, 1);
    r->queues[a].refuse = 0;
    pump_edge(&r->engine, a);
    pump_room(&r->engine, a, 0);
    rig_pump(r, a);
    missed = engine_row(&r->engine, a)->missed;
    waiting = (uint32_t)(r->settings.backlog_size / 2 / WIRE_CELL_SIZE);
    assert_int_equal(missed, 50 - waiting); /* down to half of the quota, no further */
    assert_int_equal(r->engine.sessions[a].n_waiting, waiting);
    assert_int_equal(board_get(&r->memory.board->drops.overflow), missed);
    assert_int_equal(board_get(&r->memory.board->priorities[5].drops.overflow), missed);
    pump_edge(&r->engine, a);
    rig_turn(r);
    for (int i = 0; i < 10; i++)
        expect_message(r, a, "t", "high");
    assert_int_equal(r->queues[a].header.missed, missed);
    for (uint32_t i = 35; i < 40; i++) { /* the youngest of the low ones */
        snprintf(payload, sizeof(payload), "%u", i);
        expect_message(r, a, "t", payload);
    }
    expect_nothing(r, a);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void P7_only_messages_of_publishers_out_of_room_are_dropped_within_the_quota(void **state)
{
    struct rig *r = *state;
    uint16_t hasty = expect_session(r, "hasty");
    uint16_t calm = expect_session(r, "calm");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint32_t n = (uint32_t)(r->engine.window / WIRE_CELL_SIZE);

    pump_edge(&r->engine, a);
    pump_room(&r->engine, a, 0); /* it does not read */
    rig_publish(r, calm, 0, "t", "calm");
    for (uint32_t i = 0; i < n; i++)
        rig_publish(r, hasty, 0, "t", "hasty");
    rig_publish(r, calm, 0, "t", "calm");
    stall(r);
    assert_int_equal(r->engine.n_short, 1);
    assert_int_equal(r->engine.n_stalled, 1);
    rig_turn(r);
    assert_int_equal(r->engine.sessions[calm].charged, 2 * WIRE_CELL_SIZE);
    assert_int_equal(r->engine.sessions[hasty].charged, r->engine.window / 2); /* and no more */
    assert_int_equal(r->engine.n_short, 0);
    assert_int_equal(engine_row(&r->engine, a)->missed, n / 2);
    pump_edge(&r->engine, a);
    rig_turn(r);
    expect_message(r, a, "t", "calm");
}

/* Its queue, full so far, is still full, but is looked at. */
static void pump_blocked(struct rig *r, uint16_t row)
{
    pump_edge(&r->engine, row);
    pump_room(&r->engine, row, 0);
    rig_turn(r);
}

static void P7_drop_newest_keeps_what_came_first_up_to_the_quota(void **state)
{
    enum { QUOTA = 30, HIGH = 10 };
    static const struct rig_options small = {
        .settings = {.backlog_size = QUOTA * WIRE_CELL_SIZE, .overflow = ENGINE_DROP_NEWEST}};
    struct rig *r;
    uint16_t a, publisher;
    char payload[8];

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &small), 0);
    publisher = expect_session(r, "publisher");
    a = expect_subscriber(r, "a", "t");
    pump_blocked(r, a);
    for (int i = 0; i < HIGH; i++)
        rig_publish(r, publisher, 20, "t", "high");
    for (int i = 0; i < 40; i++) {
        snprintf(payload, sizeof(payload), "%d", i);
        rig_publish(r, publisher, 5, "t", payload);
    }
    stall(r);
    assert_int_equal(r->engine.n_stalled, 1);
    pump_blocked(r, a);
    assert_int_equal(r->engine.sessions[a].n_waiting, QUOTA);
    assert_int_equal(engine_row(&r->engine, a)->missed, 20);
    rig_publish(r, publisher, 5, "t", "late"); /* above the quota from the beginning */
    rig_turn(r);
    assert_int_equal(r->engine.sessions[a].n_waiting, QUOTA);
    rig_publish(r, publisher, 31, "t", "urgent"); /* goes in the place of a low one */
    rig_turn(r);
    assert_int_equal(r->engine.sessions[a].n_waiting, QUOTA);
    assert_int_equal(engine_row(&r->engine, a)->missed, 22);
    assert_int_equal(board_get(&r->memory.board->priorities[5].drops.overflow), 22);
    pump_edge(&r->engine, a);
    rig_turn(r);
    expect_message(r, a, "t", "urgent");
    assert_int_equal(r->queues[a].header.missed, 22);
    for (int i = 0; i < HIGH; i++)
        expect_message(r, a, "t", "high");
    for (uint32_t i = 0; i < QUOTA - HIGH - 1; i++) { /* the oldest of the low ones */
        snprintf(payload, sizeof(payload), "%u", i);
        expect_message(r, a, "t", payload);
        rig_turn(r);
    }
    expect_nothing(r, a);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void P7_drop_newest_lets_a_publisher_go_on_with_what_it_published_first_kept(void **state)
{
    static const struct rig_options newest = {.settings = {.overflow = ENGINE_DROP_NEWEST}};
    struct rig *r;
    uint16_t hasty, a;
    char payload[16];
    uint32_t n;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &newest), 0);
    hasty = expect_session(r, "hasty");
    a = expect_subscriber(r, "a", "t");
    n = (uint32_t)(r->engine.window / WIRE_CELL_SIZE);
    pump_blocked(r, a);
    for (uint32_t i = 0; i < n; i++) {
        snprintf(payload, sizeof(payload), "%u", i);
        rig_publish(r, hasty, 5, "t", payload);
    }
    stall(r);
    rig_turn(r);
    assert_int_equal(r->engine.sessions[hasty].charged, r->engine.window / 2);
    assert_int_equal(r->engine.n_short, 0);
    assert_int_equal(engine_row(&r->engine, a)->missed, n - n / 2);
    pump_edge(&r->engine, a);
    for (uint32_t i = 0; i < n / 2; i++) {
        rig_turn(r);
        snprintf(payload, sizeof(payload), "%u", i);
        expect_message(r, a, "t", payload);
    }
    expect_nothing(r, a);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void P7_what_is_in_doubt_is_not_dropped_by_either_policy(void **state)
{
    static const enum engine_overflow policies[] = {ENGINE_DROP_OLDEST, ENGINE_DROP_NEWEST};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        struct rig_options small = {
            .settings = {.backlog_size = WIRE_CELL_SIZE, .overflow = policies[i]}};
        struct pump_batch batch;
        struct rig *r;
        uint16_t a;

        assert_int_equal(expect_setup_with((void **)&r, &small), 0);
        a = expect_subscriber(r, "a", "t");
        for (int n = 0; n < 4; n++)
            rig_publish(r, a, 5, "t", "x");
        pump_edge(&r->engine, a);
        pump_room(&r->engine, a, RIG_DEPTH);
        assert_int_equal(rig_next(r, a, &batch), PUMP_BATCH);
        assert_int_equal(rig_restart(r), 0); /* killed with all four in doubt */
        pump_room(&r->engine, a, 0);
        stall(r);
        assert_int_equal(r->engine.n_stalled, 1);
        rig_turn(r);
        assert_int_equal(engine_row(&r->engine, a)->missed, 0);
        pump_edge(&r->engine, a);
        rig_turn(r);
        for (int n = 0; n < 4; n++)
            expect_message(r, a, "t", "x");
        expect_nothing(r, a);
        assert_int_equal(expect_teardown((void **)&r), 0);
    }
}

static void P7_a_request_thrown_out_is_answered_dropped(void **state)
{
    static const struct rig_options small = {.settings = {.backlog_size = WIRE_CELL_SIZE}};
    struct rig *r;
    uint16_t client, a;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &small), 0);
    client = expect_session(r, "client");
    a = expect_subscriber(r, "a", "t");
    pump_edge(&r->engine, a);
    pump_room(&r->engine, a, 0);
    for (uint32_t i = 0; i < 2; i++)
        rig_request(r, client, "t", i, r->engine.now + 100 * RIG_SECOND);
    stall(r);
    rig_turn(r);
    expect_answer(r, client, WIRE_C_DROPPED, 0, 1);
    expect_answer(r, client, WIRE_C_DROPPED, 1, 1);
    assert_int_equal(engine_row(&r->engine, a)->missed, 2);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void who_reads_a_queue_s_worth_is_no_longer_stalled(void **state)
{
    struct rig *r = *state;
    uint16_t hasty = expect_session(r, "hasty");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint32_t n =
        (uint32_t)(r->engine.window / wire_charge((uint32_t)wire_message_size(1, RIG_LARGE)));
    struct wire_frame f;

    for (uint32_t i = 0; i < n; i++)
        rig_publish_large(r, hasty, 0, "x");
    stall(r);
    engine_show(&r->engine);
    assert_int_equal(board_get(&board_row(r->memory.board, a)->stalled), 1);
    assert_int_equal(board_get(&board_row(r->memory.board, a)->stalled_times), 1);
    for (uint32_t i = 0; i < RIG_DEPTH; i++) {
        assert_int_equal(r->engine.n_stalled, 1);
        assert_true(rig_read(r, a, &f));
        rig_turn(r);
    }
    assert_int_equal(r->engine.n_stalled, 0);
    assert_int_equal(board_get(&board_row(r->memory.board, a)->stalled), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, expect_setup, expect_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(P7_a_stalled_session_loses_the_oldest_of_its_lowest_priority),
        cmocka_unit_test(P7_drop_newest_keeps_what_came_first_up_to_the_quota),
        cmocka_unit_test(P7_drop_newest_lets_a_publisher_go_on_with_what_it_published_first_kept),
        cmocka_unit_test(P7_what_is_in_doubt_is_not_dropped_by_either_policy),
        TEST(P7_only_messages_of_publishers_out_of_room_are_dropped_within_the_quota),
        cmocka_unit_test(P7_a_request_thrown_out_is_answered_dropped),
        TEST(who_reads_a_queue_s_worth_is_no_longer_stalled),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
