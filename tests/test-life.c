/* broker/life and broker/start: how sessions begin, stall and end, what deadlines do, and that a
 * broker may die at any time between turns without anybody's noticing. */
#include "broker/life.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/engine-check.h"
#include "tests/support/engine-expect.h"

enum { ENDING_LIMIT = 200000000 }; /* nanoseconds (L1) */

/* From now on nothing is sent to it: its queue is full for good. */
static void block(struct rig *r, uint16_t row)
{
    pump_edge(&r->engine, row);
    pump_room(&r->engine, row, 0);
}

static void unblock(struct rig *r, uint16_t row)
{
    pump_edge(&r->engine, row);
    rig_turn(r);
}

static uint32_t row_state(const struct rig *r, uint16_t row)
{
    return engine_row(&r->engine, row)->state;
}

static uint64_t count(const _Atomic uint64_t *word)
{
    return board_get(word);
}

/* ---- Beginning ---- */

static void K7_a_session_is_live_when_its_queue_is_made(void **state)
{
    struct rig *r = *state;
    const struct row *row = engine_row(&r->engine, 0);
    struct board_client_info info;
    struct wire_frame f;
    uint8_t token[WIRE_TOKEN_SIZE];

    rig_register(r, 4444, "ann", WIRE_F_PUBLISH_ONLY);
    assert_int_equal(row->state, ROW_MAKING);
    assert_int_equal(r->engine.making.n, 1);
    assert_int_equal(r->engine.n_live, 0);
    r->engine.making.n = 0;
    life_made(&r->engine, 0, 99, 10, 1280);
    r->queues[0].open = true;
    assert_int_equal(row->state, ROW_LIVE);
    assert_int_equal(row->inode, 99);
    assert_int_equal(rig_posted(r, 4444), -1); /* not before WELCOME is in its queue */
    rig_turn(r);
    assert_int_equal(rig_posted(r, 4444), WIRE_C_OK);
    memcpy(token, row->token, sizeof(token));
    f = expect_frame(r, 0, WIRE_WELCOME);
    assert_int_equal(f.nonce, 4444);
    assert_memory_equal(f.token, token, sizeof(token));
    assert_int_equal(f.session, 0);
    assert_int_equal(f.depth, 10);
    assert_int_equal(f.width, 1280);
    assert_int_equal(f.frame_max, RIG_FRAME_MAX);
    assert_int_equal(f.window, r->engine.window);
    assert_true(board_read_identity(board_row(r->memory.board, 0), &info));
    assert_int_equal(info.state, BOARD_ROW_LIVE);
    assert_int_equal(info.nonce, 4444);
    assert_string_equal(info.name, "ann");
    assert_int_equal(info.pid, 4711);
    assert_true(info.publish_only);
    assert_int_equal(count(&r->memory.board->totals.registered), 1);
}

static void a_session_whose_queue_cannot_be_made_leaves_nothing(void **state)
{
    static const uint8_t nothing[WIRE_TOKEN_SIZE];
    struct rig *r = *state;
    const struct board_posting *p = &r->memory.board->board_postings[0];

    rig_register(r, 4444, "ann", 0);
    r->engine.making.n = 0;
    life_refused(&r->engine, 0, WIRE_C_QUEUE_MEMORY, 13760, 819200);
    assert_int_equal(rig_posted(r, 4444), WIRE_C_QUEUE_MEMORY);
    assert_int_equal(atomic_load(&p->number1), 13760);
    assert_int_equal(board_get(&p->number2), 819200);
    assert_int_equal(row_state(r, 0), ROW_FREE);
    assert_memory_equal(engine_row(&r->engine, 0)->token, nothing, sizeof(nothing));
    assert_int_equal(r->engine.store.reference_pool.n_used, 0);
    assert_int_equal(expect_session(r, "ann"), 0);
}

static void what_the_board_says_of_a_row_is_about_its_session_alone(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct board_row *row = board_row(r->memory.board, a);

    rig_publish(r, a, 5, "t", "x");
    rig_publish(r, a, 5, "$bad", "x");
    rig_turn(r);
    assert_int_equal(count(&row->in), 1);
    assert_int_equal(count(&row->refusals.bad_topic), 1);
    assert_int_equal(count(&row->subscriptions), 1);
    rig_kill(r, a);
    assert_int_equal(expect_session(r, "b"), a);
    engine_show(&r->engine);
    assert_int_equal(count(&row->in), 0);
    assert_int_equal(count(&row->out), 0);
    assert_int_equal(count(&row->refusals.bad_topic), 0);
    assert_int_equal(count(&row->subscriptions), 0);
    assert_int_equal(count(&row->missed), 0);
    assert_int_equal(count(&row->grant), r->engine.window);
    assert_int_equal(atomic_load(&row->level[5]), 0);
}

/* ---- Ending ---- */

static void L1_a_death_takes_effect_when_the_request_queues_were_empty(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");

    life_died(&r->engine, a);
    life_died(&r->engine, a);
    assert_int_equal(row_state(r, a), ROW_ENDING);
    assert_int_equal(r->engine.leaving.n, 0);
    rig_publish(r, a, 5, "t", "sent before it died"); /* its token is good until then */
    rig_turn(r);
    expect_message(r, b, "t", "sent before it died");
    expect_nothing(r, a);
    life_quiet(&r->engine);
    assert_int_equal(count(&r->memory.board->totals.died), 1);
    assert_int_equal(r->engine.leaving.n, 1);
    assert_int_equal(r->engine.leaving.rows[0], a);
    rig_turn(r);
    assert_int_equal(row_state(r, a), ROW_FREE);
    rig_publish(r, b, 5, "t", "to those who are left");
    rig_turn(r);
    expect_message(r, b, "t", "to those who are left");
    assert_int_equal(r->engine.sessions[a].n_waiting, 0);
}

static void L1_a_death_waits_200_ms_at_most(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint16_t b = expect_session(r, "b");

    assert_true(life_next_tick(&r->engine) == UINT64_MAX);
    life_died(&r->engine, a);
    assert_true(life_next_tick(&r->engine) == r->engine.now + ENDING_LIMIT);
    r->engine.now += ENDING_LIMIT / 2;
    rig_bye(r, b);
    r->engine.now += ENDING_LIMIT / 2 - 1;
    life_tick(&r->engine);
    assert_int_equal(r->engine.leaving.n, 0);
    r->engine.now += 1;
    life_tick(&r->engine);
    assert_int_equal(r->engine.leaving.n, 1);
    assert_int_equal(r->engine.ending.n, 1);
    r->engine.now += ENDING_LIMIT / 2;
    life_tick(&r->engine);
    rig_carry_out(r);
    assert_int_equal(row_state(r, a), ROW_FREE);
    assert_int_equal(row_state(r, b), ROW_FREE);
}

static void L1_time_in_which_requests_wait_for_the_disk_does_not_count(void **state)
{
    struct rig *r = *state;
    struct engine *e = &r->engine;
    uint16_t row = expect_session(r, "a");

    life_died(e, row);
    e->now += ENDING_LIMIT - 1;
    life_postpone(e, ENDING_LIMIT / 2);
    e->now += ENDING_LIMIT / 2;
    life_tick(e);
    assert_int_equal(engine_row(e, row)->state, ROW_ENDING);
    assert_int_equal(life_next_tick(e), e->now + 1);
    life_postpone(e, UINT64_MAX); /* it began to end meanwhile */
    assert_int_equal(life_next_tick(e), e->now + ENDING_LIMIT);
    e->now += ENDING_LIMIT;
    life_tick(e);
    assert_int_equal(e->leaving.n, 1);
    rig_carry_out(r);
}

static void a_session_that_ends_leaves_nothing(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t/#");
    uint16_t b = expect_session(r, "b");

    block(r, a);
    for (int i = 0; i < 20; i++)
        rig_publish(r, b, (uint8_t)i, "t/x", "x");
    rig_subscribe(r, a, "u");
    rig_request(r, a, "t/self", 1, r->engine.now + RIG_SECOND);
    rig_kill(r, a);
    rig_turn(r);
    assert_int_equal(r->engine.store.reference_pool.n_used, 0);
    assert_int_equal(r->engine.store.cell_pool.n_used, 0);
    assert_int_equal(r->engine.filters.n, 0);
    assert_int_equal(r->engine.timers.n, 0);
    assert_int_equal(r->engine.sessions[b].charged, 0);
    assert_int_equal(count(&r->memory.board->drops.gone), 21);
    assert_int_equal(count(&r->memory.board->priorities[3].drops.gone), 1);
}

static void a_retained_message_outlives_its_publisher(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    rig_message(r, a,
                &(struct rig_message){
                    .type = WIRE_PUBLISH, .flags = WIRE_F_RETAIN, .topic = "t", .payload = "x"});
    rig_kill(r, a);
    a = expect_session(r, "b");
    rig_begin(r, a);
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 1, "t");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_OK, 1, 1);
    expect_message(r, a, "t", "x");
}

static void requests_of_a_dead_server_are_answered_peer_died(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t server = expect_subscriber(r, "server", "t");
    uint64_t later = r->engine.now + RIG_SECOND;

    rig_request(r, client, "t", 1, later); /* is out */
    rig_turn(r);
    expect_frame(r, server, WIRE_MESSAGE);
    block(r, server);
    rig_request(r, client, "t", 2, later); /* waits for it */
    rig_kill(r, server);
    rig_turn(r);
    expect_answer(r, client, WIRE_C_PEER_DIED, 2, 1);
    expect_answer(r, client, WIRE_C_PEER_DIED, 1, 1);
    expect_nothing(r, client);
    assert_int_equal(r->engine.timers.n, 0);
    assert_int_equal(r->engine.sessions[client].charged, 0);
}

static void as_long_as_one_server_lives_nobody_is_told(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t first = expect_subscriber(r, "first", "t");
    uint16_t second = expect_subscriber(r, "second", "t");
    uint64_t name;

    rig_request(r, client, "t", 1, r->engine.now + RIG_SECOND);
    rig_turn(r);
    rig_kill(r, first);
    rig_turn(r);
    expect_nothing(r, client);
    name = expect_frame(r, second, WIRE_MESSAGE).number;
    rig_reply(r, second, name, "here");
    rig_turn(r);
    expect_frame(r, client, WIRE_MESSAGE);

    rig_request(r, client, "t", 2, r->engine.now + RIG_SECOND);
    rig_turn(r);
    rig_kill(r, second); /* the last one */
    rig_turn(r);
    expect_answer(r, client, WIRE_C_PEER_DIED, 2, 1);
    expect_nothing(r, client);
}

/* The failure would overtake the reply, which waits at the request's own priority. */
static void L2_who_has_a_reply_is_not_told_that_another_server_died(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t first = expect_subscriber(r, "first", "t");
    uint16_t second = expect_subscriber(r, "second", "t");

    rig_request(r, client, "t", 1, r->engine.now + RIG_SECOND);
    rig_turn(r);
    expect_frame(r, first, WIRE_MESSAGE);
    rig_reply(r, second, expect_frame(r, second, WIRE_MESSAGE).number, "here");
    rig_turn(r);
    assert_int_equal(rig_restart(r), 0);
    rig_kill(r, first);
    rig_turn(r);
    assert_int_equal(expect_frame(r, client, WIRE_MESSAGE).number, 1);
    expect_nothing(r, client);
    assert_int_equal(r->engine.timers.n, 0);
}

static void nobody_answers_a_requester_who_has_gone(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t server = expect_subscriber(r, "server", "t");

    rig_request(r, client, "t", 1, r->engine.now + RIG_SECOND);
    rig_turn(r);
    rig_kill(r, client);
    while (expect_session(r, "") != client) /* another one has its row */
        ;
    rig_kill(r, server);
    rig_turn(r);
    expect_nothing(r, client);
    assert_int_equal(r->engine.store.cell_pool.n_used, 0);
}

static void P4_what_the_dead_left_is_charged_to_the_next_in_their_row(void **state)
{
    static const struct rig_options two = {.n_rows = 2};
    struct rig *r;
    uint16_t publisher, sleeper;
    struct board_row *row;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &two), 0);
    publisher = expect_session(r, "publisher");
    sleeper = expect_subscriber(r, "sleeper", "t");
    row = board_row(r->memory.board, publisher);
    block(r, sleeper);
    for (int i = 0; i < 10; i++)
        rig_publish(r, publisher, 5, "t", "x");
    rig_kill(r, publisher);
    assert_int_equal(expect_session(r, "next"), publisher);
    engine_show(&r->engine);
    assert_int_equal(r->engine.sessions[publisher].charged, 10 * WIRE_CELL_SIZE);
    assert_int_equal(count(&row->grant), r->engine.window - 10 * WIRE_CELL_SIZE);
    unblock(r, sleeper);
    assert_int_equal(count(&row->grant), r->engine.window);
    rig_drain(r, sleeper);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void P4_the_row_with_the_least_under_way_is_given_first(void **state)
{
    struct rig *r = *state;
    uint16_t sleeper = expect_subscriber(r, "sleeper", "t");
    uint16_t a = expect_session(r, "a");
    uint16_t b = expect_session(r, "b");

    block(r, sleeper);
    rig_publish(r, a, 5, "t", "x");
    rig_kill(r, a);
    rig_kill(r, b);
    for (int i = 0; i < 6; i++)
        assert_int_not_equal(expect_session(r, ""), a);
    assert_int_equal(expect_session(r, ""), a); /* the last one left */
}

static void a_farewell_is_for_the_living_that_did_not_go_by_themselves(void **state)
{
    struct rig *r = *state;
    uint16_t gone = expect_session(r, "gone");
    uint16_t dead = expect_session(r, "dead");
    uint16_t kicked = expect_session(r, "kicked");
    uint8_t code;

    rig_bye(r, gone);
    life_died(&r->engine, dead);
    life_leave(&r->engine, kicked, WIRE_C_KICKED);
    assert_false(life_wants_farewell(&r->engine, gone, &code));
    assert_false(life_wants_farewell(&r->engine, dead, &code));
    assert_true(life_wants_farewell(&r->engine, kicked, &code));
    assert_int_equal(code, WIRE_C_KICKED);
    life_died(&r->engine, kicked); /* meanwhile */
    assert_false(life_wants_farewell(&r->engine, kicked, &code));
    life_quiet(&r->engine);
    assert_int_equal(count(&r->memory.board->totals.ended), 1);
    assert_int_equal(count(&r->memory.board->totals.died), 1);
    assert_int_equal(count(&r->memory.board->totals.said_bye), 1);
    rig_carry_out(r);
    assert_int_equal(r->engine.n_live, 0);
}

static void a_goodbye_that_is_found_after_the_death_is_no_death(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    life_died(&r->engine, a);
    rig_bye(r, a);
    life_quiet(&r->engine);
    assert_int_equal(count(&r->memory.board->totals.said_bye), 1);
    assert_int_equal(count(&r->memory.board->totals.died), 0);
    rig_carry_out(r);
}

static void who_leaves_too_many_answers_unread_is_ended(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint8_t code = 0;
    uint32_t n = 0;

    block(r, a);
    while (row_state(r, a) == ROW_LIVE && n++ < 5000)
        rig_subscribe(r, a, "t");
    assert_int_equal(n, 1025);
    assert_true(life_wants_farewell(&r->engine, a, &code));
    assert_int_equal(code, WIRE_C_UNREAD_ANSWERS);
    life_quiet(&r->engine);
    rig_carry_out(r);
    assert_int_equal(r->engine.store.reference_pool.n_used, 0);
}

/* ---- Deadlines ---- */

static void a_request_that_is_not_answered_in_time_is_answered_timeout(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t server = expect_subscriber(r, "server", "t");
    uint64_t expiry = r->engine.now + RIG_SECOND;
    uint64_t name;

    rig_request(r, client, "t", 7, expiry);
    rig_turn(r);
    name = expect_frame(r, server, WIRE_MESSAGE).number;
    assert_true(life_next_tick(&r->engine) > expiry);
    assert_true(life_next_tick(&r->engine) <= expiry + 10000000);
    r->engine.now = expiry - 1;
    life_tick(&r->engine);
    rig_turn(r);
    expect_nothing(r, client);
    r->engine.now = life_next_tick(&r->engine);
    life_tick(&r->engine);
    rig_turn(r);
    expect_answer(r, client, WIRE_C_TIMEOUT, 7, 1);
    expect_nothing(r, client);
    assert_true(life_next_tick(&r->engine) == UINT64_MAX);
    rig_reply(r, server, name, "too late");
    rig_turn(r);
    expect_nothing(r, client);
    assert_int_equal(count(&r->memory.board->refusals.stray), 1);
}

static void what_waits_is_dropped_when_its_time_has_come(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    block(r, a);
    for (uint64_t i = 1; i <= 10; i++)
        rig_message(r, a,
                    &(struct rig_message){.type = WIRE_PUBLISH,
                                          .expiry = r->engine.now + i * RIG_SECOND,
                                          .topic = "t",
                                          .payload = "x"});
    for (uint64_t i = 1; i <= 10; i++) {
        r->engine.now += RIG_SECOND;
        assert_true(life_next_tick(&r->engine) <= r->engine.now + 10000000);
        r->engine.now += 10000000;
        life_tick(&r->engine);
        r->engine.now -= 10000000;
        assert_int_equal(engine_row(&r->engine, a)->missed, i);
        assert_int_equal(count(&r->memory.board->drops.expired), i);
    }
    assert_int_equal(r->engine.store.cell_pool.n_used, 1); /* the filter's */
    unblock(r, a);
    expect_nothing(r, a);
}

/* ---- Stalls ---- */

static void stall(struct rig *r)
{
    engine_show(&r->engine);
    r->engine.now += r->settings.stall_timeout;
    life_tick(&r->engine);
}

static void P7_who_is_over_its_quota_long_enough_is_stalled(void **state)
{
    static const struct rig_options small = {.settings = {.backlog_size = 10 * WIRE_CELL_SIZE}};
    struct rig *r;
    uint16_t a, b;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &small), 0);
    a = expect_subscriber(r, "a", "t");
    b = expect_subscriber(r, "b", "t");
    block(r, a);
    block(r, b);
    for (int i = 0; i < 10; i++)
        rig_publish(r, a, 5, "t", "x");
    unblock(r, b);
    stall(r);
    assert_int_equal(r->engine.n_stalled, 0); /* at the quota is not over it */
    rig_publish(r, a, 5, "t", "x");
    engine_show(&r->engine);
    assert_true(life_next_tick(&r->engine) != UINT64_MAX);
    r->engine.now += r->settings.stall_timeout - 1;
    life_tick(&r->engine);
    assert_int_equal(r->engine.n_stalled, 0);
    r->engine.now += r->settings.stall_timeout / 8 + 1;
    life_tick(&r->engine);
    assert_int_equal(r->engine.n_stalled, 1);
    assert_true(r->engine.sessions[a].stalled > 0);
    assert_int_equal(r->engine.sessions[b].stalled, 0);
    unblock(r, a);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void P7_who_comes_back_under_its_quota_in_time_is_not(void **state)
{
    static const struct rig_options small = {.settings = {.backlog_size = 10 * WIRE_CELL_SIZE}};
    struct rig *r;
    uint16_t a;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &small), 0);
    a = expect_subscriber(r, "a", "t");
    for (int round = 0; round < 5; round++) {
        block(r, a);
        for (int i = 0; i < 11; i++)
            rig_publish(r, a, 5, "t", "x");
        engine_show(&r->engine);
        r->engine.now += r->settings.stall_timeout / 2;
        life_tick(&r->engine);
        unblock(r, a);
        assert_int_equal(rig_drain(r, a), 11);
    }
    assert_int_equal(r->engine.n_stalled, 0);
    assert_int_equal(count(&r->memory.board->drops.overflow), 0);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void P7_who_holds_up_a_publisher_out_of_room_is_stalled(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t slow = expect_subscriber(r, "slow", "t");
    uint16_t fast = expect_subscriber(r, "fast", "t");
    uint16_t other = expect_subscriber(r, "other", "u");
    uint32_t n = (uint32_t)(r->engine.window / WIRE_CELL_SIZE);

    block(r, slow);
    block(r, other);
    for (uint32_t i = 0; i < n; i++) {
        rig_publish(r, publisher, 5, "t", "x");
        rig_pump(r, fast);
        rig_drain(r, fast);
    }
    rig_publish(r, fast, 5, "u", "x"); /* waits as well, but keeps nobody waiting */
    stall(r);
    assert_true(r->engine.sessions[slow].stalled > 0);
    assert_int_equal(r->engine.n_stalled, 1);
    rig_turn(r); /* the pump trims it: the publisher has half of its window again */
    assert_int_equal(r->engine.sessions[publisher].charged, r->engine.window / 2);
    unblock(r, other);
}

static void P7_who_is_stalled_has_no_patience_left(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t slow = expect_subscriber(r, "slow", "t");

    block(r, slow);
    while (r->engine.sessions[publisher].charged < r->engine.window)
        rig_publish(r, publisher, 5, "t", "x");
    stall(r);
    rig_turn(r);
    for (int round = 0; round < 3; round++) { /* the publisher runs out of room again: at once */
        assert_int_equal(r->engine.sessions[publisher].charged, r->engine.window / 2);
        while (r->engine.sessions[publisher].charged < r->engine.window)
            rig_publish(r, publisher, 5, "t", "x");
        rig_turn(r); /* sees it */
        rig_turn(r);
    }
    assert_int_equal(count(&board_row(r->memory.board, slow)->stalled_times), 1);
    rig_drain(r, publisher);
}

static void P5_a_publisher_that_waits_is_told_of_room_before_half_is_back(void **state)
{
    static const struct rig_options wide = {.n_rows = 2};
    struct rig *r;
    uint16_t publisher, a;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &wide), 0);
    publisher = expect_session(r, "publisher");
    a = expect_subscriber(r, "a", "t");
    block(r, a);
    while (r->engine.sessions[publisher].charged < r->engine.window)
        rig_publish(r, publisher, 5, "t", "x");
    rig_turn(r);
    rig_drain(r, publisher);
    unblock(r, a);
    while (!engine_has_room(&r->engine, publisher)) {
        expect_message(r, a, "t", "x");
        rig_turn(r);
    }
    assert_true(r->engine.sessions[publisher].charged > r->engine.window / 2);
    assert_int_equal(r->queues[publisher].n, 0);
    r->engine.now += r->settings.stall_timeout / 8;
    life_tick(&r->engine);
    rig_turn(r);
    assert_int_equal(r->queues[publisher].n, 1);
    assert_int_equal(r->queues[publisher].batches[0].size, WIRE_BATCH_SIZE);
    do
        rig_turn(r);
    while (rig_drain(r, a) > 0);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void P7_what_came_after_the_publisher_ran_out_holds_nobody_up(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t slow = expect_subscriber(r, "slow", "t");
    uint16_t late = expect_subscriber(r, "late", "t/late");
    uint32_t n = (uint32_t)(r->engine.window / WIRE_CELL_SIZE);

    block(r, slow);
    block(r, late);
    for (uint32_t i = 0; i < n - 1; i++)
        rig_publish(r, publisher, 5, "t", "x");
    engine_show(&r->engine);
    r->engine.now += RIG_SECOND;
    rig_publish(r, publisher, 31, "t/late", "x");
    r->engine.now += r->settings.stall_timeout - RIG_SECOND;
    life_tick(&r->engine);
    assert_true(r->engine.sessions[slow].stalled > 0);
    assert_int_equal(r->engine.sessions[late].stalled, 0);
    unblock(r, late);
}

static void P7_disconnect_ends_the_session(void **state)
{
    static const struct rig_options small = {
        .settings = {.backlog_size = WIRE_CELL_SIZE, .overflow = ENGINE_DISCONNECT}};
    struct rig *r;
    uint16_t a;
    uint8_t code;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &small), 0);
    a = expect_subscriber(r, "a", "t");
    block(r, a);
    for (int i = 0; i < 3; i++)
        rig_publish(r, a, 5, "t", "x");
    stall(r);
    assert_int_equal(row_state(r, a), ROW_ENDING);
    assert_true(life_wants_farewell(&r->engine, a, &code));
    assert_int_equal(code, WIRE_C_OVERFLOW);
    assert_int_equal(r->engine.n_stalled, 0);
    life_quiet(&r->engine);
    rig_turn(r);
    assert_int_equal(count(&r->memory.board->drops.gone), 3);
    assert_int_equal(count(&r->memory.board->drops.overflow), 0);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void P7_block_drops_nothing_and_says_that_it_is_stalled(void **state)
{
    static const struct rig_options blocking = {
        .settings = {.backlog_size = 10 * WIRE_CELL_SIZE, .overflow = ENGINE_BLOCK}};
    struct rig *r;
    uint16_t publisher, slow;
    uint32_t n;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &blocking), 0);
    publisher = expect_session(r, "publisher");
    slow = expect_subscriber(r, "slow", "t");
    n = (uint32_t)(r->engine.window / WIRE_CELL_SIZE);
    block(r, slow);
    for (uint32_t i = 0; i < n; i++)
        rig_publish(r, publisher, 5, "t", "x");
    for (int round = 0; round < 3; round++) { /* over its quota, its publisher out of room */
        stall(r);
        rig_turn(r);
    }
    assert_int_equal(row_state(r, slow), ROW_LIVE);
    assert_int_equal(count(&board_row(r->memory.board, slow)->stalled), 1);
    assert_int_equal(count(&board_row(r->memory.board, slow)->stalled_times), 1);
    assert_int_equal(count(&r->memory.board->drops.overflow), 0);
    assert_int_equal(r->engine.sessions[publisher].charged, r->engine.window);
    unblock(r, slow);
    for (uint32_t i = 0; i < n; i++) {
        rig_turn(r);
        expect_message(r, slow, "t", "x");
    }
    assert_int_equal(r->engine.sessions[publisher].charged, 0);
    rig_turn(r);
    rig_drain(r, publisher);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

/* ---- Starting on what another left ---- */

/* The broker dies now: what the next one derives is the same, and sound. */
static void expect_same_after_a_start(struct rig *r)
{
    char *before, *after;

    expect_sound(r);
    before = engine_describe(&r->engine);
    assert_int_equal(rig_restart(r), 0);
    expect_sound(r);
    after = engine_describe(&r->engine);
    assert_string_equal(after, before);
    free(before);
    free(after);
}

static void an_empty_broker_starts_again_empty(void **state)
{
    struct rig *r = *state;

    expect_same_after_a_start(r);
    assert_int_equal(expect_session(r, "a"), 0);
}

static void sessions_carry_on_with_the_same_token(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_session(r, "b");

    expect_same_after_a_start(r);
    rig_publish(r, b, 5, "t", "x");
    rig_publish(r, b, 5, "@a", "y");
    rig_turn(r);
    expect_message(r, a, "t", "x");
    expect_message(r, a, "@a", "y");
    assert_int_equal(r->engine.n_live, 2);
}

static void what_waits_waits_in_the_same_order(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    char payload[8];

    for (int i = 0; i < 60; i++)
        rig_publish(r, a, 5, "t", "x");
    rig_turn(r);
    rig_drain(r, a); /* their slots are free, and come back in another order */
    block(r, a);
    for (int i = 0; i < 60; i++) {
        snprintf(payload, sizeof(payload), "%d", i);
        rig_publish(r, a, (uint8_t)(i % 3), "t", payload);
        if (i % 7 == 0)
            expect_same_after_a_start(r);
        block(r, a);
    }
    expect_same_after_a_start(r);
    rig_turn(r);
    for (int level = 2; level >= 0; level--) {
        for (int i = level; i < 60; i += 3) {
            snprintf(payload, sizeof(payload), "%d", i);
            expect_message(r, a, "t", payload);
        }
    }
}

static void requests_of_all_kinds_survive(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t server = expect_subscriber(r, "server", "t");
    uint64_t later = r->engine.now + RIG_SECOND;
    uint64_t name;

    rig_request(r, client, "t", 1, later);
    rig_turn(r);
    name = expect_frame(r, server, WIRE_MESSAGE).number;
    block(r, server);
    rig_request(r, client, "t", 2, later);
    block(r, client);
    rig_request(r, client, "nobody", 3, later); /* its answer waits */
    expect_same_after_a_start(r);
    rig_reply(r, server, name, "reply");
    block(r, client);
    expect_same_after_a_start(r);
    rig_turn(r);
    expect_answer(r, client, WIRE_C_NO_SUBSCRIBER, 3, 1);
    assert_int_equal(expect_frame(r, client, WIRE_MESSAGE).number, 1);
    expect_frame(r, server, WIRE_MESSAGE);
    expect_same_after_a_start(r);
    r->engine.now = later + RIG_SECOND;
    life_tick(&r->engine);
    expect_same_after_a_start(r); /* the delivery has become the answer */
    rig_turn(r);
    expect_answer(r, client, WIRE_C_TIMEOUT, 2, 1);
    expect_nothing(r, client);
}

static void retained_messages_and_their_deliveries_survive(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    struct wire_frame f;

    for (int i = 0; i < 3; i++)
        rig_message(r, a,
                    &(struct rig_message){.type = WIRE_PUBLISH,
                                          .flags = WIRE_F_RETAIN,
                                          .topic = i < 2 ? "t" : "u",
                                          .payload = i == 0 ? "old" : "new"});
    block(r, a);
    rig_begin(r, a);
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 1, "t");
    rig_send(r);
    rig_message(r, a,
                &(struct rig_message){.type = WIRE_PUBLISH, .flags = WIRE_F_RETAIN, .topic = "t"});
    expect_same_after_a_start(r); /* forgotten meanwhile, its delivery waits */
    rig_turn(r);
    expect_answer(r, a, WIRE_C_OK, 1, 1);
    f = expect_frame(r, a, WIRE_MESSAGE);
    assert_int_equal(f.flags, WIRE_F_RETAIN);
    assert_memory_equal(f.payload, "new", 3);
    expect_message(r, a, "t", ""); /* the one that forgot it */
    expect_same_after_a_start(r);
    assert_int_equal(r->engine.n_retained, 1);
}

static void windows_and_charges_survive(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");
    uint64_t grant;

    block(r, a);
    for (int i = 0; i < 20; i++)
        rig_publish(r, publisher, 5, "t", "x");
    rig_pump(r, b);
    engine_show(&r->engine);
    grant = count(&board_row(r->memory.board, publisher)->grant);
    assert_int_equal(grant, r->engine.window); /* 20 received, 20 under way */
    expect_same_after_a_start(r);
    engine_show(&r->engine);
    assert_int_equal(count(&board_row(r->memory.board, publisher)->grant), grant);
    rig_kill(r, publisher);
    expect_same_after_a_start(r);
    rig_turn(r);
    assert_int_equal(r->engine.sessions[publisher].charged, 0);
}

static void endings_under_way_are_carried_out(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");

    rig_request(r, b, "t", 1, r->engine.now + RIG_SECOND);
    rig_turn(r);
    life_died(&r->engine, a);
    rig_bye(r, b);
    expect_same_after_a_start(r);
    assert_int_equal(r->engine.ending.n, 2);
    life_quiet(&r->engine);
    expect_same_after_a_start(r); /* and a second time */
    life_quiet(&r->engine);
    rig_turn(r);
    assert_int_equal(row_state(r, a), ROW_FREE);
    assert_int_equal(row_state(r, b), ROW_FREE);
    assert_int_equal(r->engine.store.reference_pool.n_used, 0);
}

static void K7_a_session_whose_queue_was_not_made_is_made(void **state)
{
    struct rig *r = *state;
    uint8_t token[WIRE_TOKEN_SIZE];

    rig_register(r, 4444, "ann", 0);
    memcpy(token, engine_row(&r->engine, 0)->token, sizeof(token));
    expect_same_after_a_start(r);
    assert_int_equal(r->engine.making.n, 1);
    rig_register(r, 4444, "ann", 0); /* again, for want of an answer */
    assert_int_equal(r->engine.making.n, 1);
    rig_turn(r);
    assert_memory_equal(expect_frame(r, 0, WIRE_WELCOME).token, token, sizeof(token));
    expect_nothing(r, 0);
}

static void K4_an_envelope_in_the_landing_is_routed_once(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    rig_begin(r, a);
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "x"});
    wire_store32(r->envelope + WIRE_AT_ENVELOPE_LENGTH, (uint32_t)r->envelope_size);
    rig_land(r, r->envelope, r->envelope_size);
    assert_int_equal(rig_restart(r), 0);
    expect_sound(r);
    assert_int_equal(rig_restart(r), 0);
    rig_turn(r);
    expect_message(r, a, "t", "x");
    expect_nothing(r, a);
    assert_int_equal(engine_row(&r->engine, a)->received, WIRE_CELL_SIZE);
}

static void K4_noise_in_the_landing_is_cleared(void **state)
{
    struct rig *r = *state;
    uint8_t noise[WIRE_QUEUE_MAX];

    memset(noise, 0xff, sizeof(noise)); /* claims more than there is */
    rig_land(r, noise, sizeof(noise));
    assert_int_equal(rig_restart(r), 0);
    expect_sound(r);
    memset(noise, 0, 4);
    noise[100] = 1; /* no magic: stale bytes behind an empty landing */
    rig_land(r, noise, sizeof(noise));
    assert_int_equal(rig_restart(r), 0);
    expect_sound(r);
}

/* The broker dies after the commit of an envelope and before what it ends was ended: two references
 * keep the same subscription then. */
static void K1_a_subscription_renewed_as_the_broker_died_holds(void **state)
{
    struct rig *r = *state;
    struct engine *e = &r->engine;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint32_t old = e->sessions[a].filters.head;
    uint8_t frame[64];
    uint32_t size = (uint32_t)wire_put_text(frame, WIRE_SUBSCRIBE, 0, 0, "t", 1);
    uint32_t fresh = store_take(&e->store);

    persist_reference(engine_reference(e, fresh), e->ledger->header.committed,
                      store_put(&e->store, frame, size, a, e->now), 0,
                      REF_WORD(REF_FILTER, 0, 0, 0, a, 0));
    rig_begin(r, a);
    rig_add_text(r, WIRE_UNSUBSCRIBE, 0, 0, "t");
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 0, "t");
    rig_land(r, r->envelope, r->envelope_size);
    e->landing->row = a;
    e->landing->received = 0;
    e->landing->ends[0] = old;
    e->landing->n_ends = 1;
    persist_commit(e->ledger, e->ledger->header.committed + 1);

    assert_int_equal(rig_restart(r), 0);
    expect_sound(r);
    assert_int_equal(r->engine.sessions[a].filters.head, fresh);
    rig_publish(r, a, 5, "t", "x");
    rig_turn(r);
    expect_message(r, a, "t", "x");
}

static void K1_what_was_not_committed_never_was(void **state)
{
    struct rig *r = *state;
    struct engine *e = &r->engine;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint8_t frame[64];
    uint32_t size = (uint32_t)wire_put_message(frame, WIRE_MESSAGE, 5, 0, 0, 0, "t", 1, "x", 1);
    uint32_t slot = store_take(&e->store);

    persist_reference(engine_reference(e, slot), e->ledger->header.committed,
                      store_put(&e->store, frame, size, a, e->now), 0,
                      REF_WORD(REF_WAIT, 0, 5, 0, a, 0));
    engine_row(e, 5)->age = e->ledger->header.committed; /* and a registration under way */
    engine_row(e, 5)->state = ROW_MAKING;
    engine_row(e, 5)->pool = 77;
    engine_row(e, 5)->pool_slot = 5;
    ledger_pools(e->ledger)[5] = 77;
    assert_int_equal(rig_restart(r), 0);
    expect_sound(r);
    assert_int_equal(row_state(r, 5), ROW_FREE);
    assert_int_equal(ledger_pools(e->ledger)[5], 0); /* and it may come again: S7 */
    assert_int_equal(r->engine.unlinked.n, 0);
    assert_int_equal(r->engine.making.n, 0);
    rig_turn(r);
    expect_nothing(r, a);
}

/* A delivery was being given up: counted already, or not yet. */
static void K11_a_drop_under_way_is_counted_once(void **state)
{
    struct rig *r = *state;
    struct engine *e = &r->engine;
    uint16_t a = expect_subscriber(r, "a", "t");

    for (uint32_t counted = 0; counted < 2; counted++) {
        struct row *row = engine_row(&r->engine, a);
        struct reference *ref;
        uint64_t missed = row->missed;

        block(r, a);
        rig_publish(r, a, 5, "t", "x");
        ref = engine_reference(e, e->sessions[a].waiting.lists[5].head);
        ref->when = (uint32_t)(missed + 1);
        ref->word = REF_WORD(REF_DROPPED, 0, 5, DROP_overflow, a, 0);
        row->missed += counted;
        assert_int_equal(rig_restart(r), 0);
        expect_sound(r);
        assert_int_equal(engine_row(&r->engine, a)->missed, missed + 1);
        assert_int_equal(r->engine.sessions[a].n_waiting, 0);
    }
}

static void a_damaged_store_is_refused(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct reference *filter = engine_reference(&r->engine, r->engine.sessions[a].filters.head);
    uint32_t cell = filter->cell;

    filter->cell = UINT32_MAX;
    assert_int_equal(rig_restart(r), -EBADMSG);
    filter->cell = cell;
    assert_int_equal(rig_restart(r), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, expect_setup, expect_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(K7_a_session_is_live_when_its_queue_is_made),
        TEST(a_session_whose_queue_cannot_be_made_leaves_nothing),
        TEST(what_the_board_says_of_a_row_is_about_its_session_alone),
        TEST(L1_a_death_takes_effect_when_the_request_queues_were_empty),
        TEST(L1_a_death_waits_200_ms_at_most),
        TEST(L1_time_in_which_requests_wait_for_the_disk_does_not_count),
        TEST(a_session_that_ends_leaves_nothing),
        TEST(a_retained_message_outlives_its_publisher),
        TEST(requests_of_a_dead_server_are_answered_peer_died),
        TEST(L2_who_has_a_reply_is_not_told_that_another_server_died),
        TEST(as_long_as_one_server_lives_nobody_is_told),
        TEST(nobody_answers_a_requester_who_has_gone),
        cmocka_unit_test(P4_what_the_dead_left_is_charged_to_the_next_in_their_row),
        TEST(P4_the_row_with_the_least_under_way_is_given_first),
        TEST(a_farewell_is_for_the_living_that_did_not_go_by_themselves),
        TEST(a_goodbye_that_is_found_after_the_death_is_no_death),
        TEST(who_leaves_too_many_answers_unread_is_ended),
        TEST(a_request_that_is_not_answered_in_time_is_answered_timeout),
        TEST(what_waits_is_dropped_when_its_time_has_come),
        cmocka_unit_test(P7_who_is_over_its_quota_long_enough_is_stalled),
        cmocka_unit_test(P7_who_comes_back_under_its_quota_in_time_is_not),
        TEST(P7_who_holds_up_a_publisher_out_of_room_is_stalled),
        TEST(P7_who_is_stalled_has_no_patience_left),
        cmocka_unit_test(P5_a_publisher_that_waits_is_told_of_room_before_half_is_back),
        TEST(P7_what_came_after_the_publisher_ran_out_holds_nobody_up),
        cmocka_unit_test(P7_disconnect_ends_the_session),
        cmocka_unit_test(P7_block_drops_nothing_and_says_that_it_is_stalled),
        TEST(an_empty_broker_starts_again_empty),
        TEST(sessions_carry_on_with_the_same_token),
        TEST(what_waits_waits_in_the_same_order),
        TEST(requests_of_all_kinds_survive),
        TEST(retained_messages_and_their_deliveries_survive),
        TEST(windows_and_charges_survive),
        TEST(endings_under_way_are_carried_out),
        TEST(K7_a_session_whose_queue_was_not_made_is_made),
        TEST(K4_an_envelope_in_the_landing_is_routed_once),
        TEST(K4_noise_in_the_landing_is_cleared),
        TEST(K1_a_subscription_renewed_as_the_broker_died_holds),
        TEST(K1_what_was_not_committed_never_was),
        TEST(K11_a_drop_under_way_is_counted_once),
        TEST(a_damaged_store_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
