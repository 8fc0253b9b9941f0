/* broker/pump: from references to batches, and what a full queue, a dead broker and a slow reader
 * do about it. */
#include "broker/pump.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/engine-expect.h"

enum { LARGE = 640 }; /* bytes of payload: two such frames do not fit a batch */

static void publish_large(struct rig *r, uint16_t row, uint8_t priority, const char *payload)
{
    char bytes[LARGE] = {0};

    strcpy(bytes, payload);
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = priority,
                                      .topic = "t",
                                      .payload = bytes,
                                      .payload_size = sizeof(bytes)});
}

static void expect_large(struct rig *r, uint16_t row, uint8_t priority, const char *payload)
{
    struct wire_frame f = expect_frame(r, row, WIRE_MESSAGE);

    assert_int_equal(f.priority, priority);
    assert_string_equal((const char *)f.payload, payload);
}

static uint64_t number_in_queue(const struct rig *r, uint16_t row, uint32_t i)
{
    struct wire_batch b;
    const struct rig_batch *batch = &r->queues[row].batches[i];

    assert_int_equal(wire_get_batch(batch->bytes, batch->size, &b), WIRE_OK);
    assert_int_equal(b.level, batch->level);
    assert_int_equal(b.session, row);
    return b.number;
}

/* ---- Order ---- */

static void the_highest_priority_goes_first(void **state)
{
    static const uint8_t priorities[] = {3, 31, 8, 0, 8, 24};
    static const uint8_t sorted[] = {31, 24, 8, 3, 0};
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    for (size_t i = 0; i < sizeof(priorities); i++)
        rig_publish(r, a, priorities[i], "t", "x");
    rig_pump(r, a);
    assert_int_equal(r->queues[a].n, sizeof(sorted)); /* both of 8 in one batch */
    for (size_t i = 0; i < sizeof(sorted); i++)
        assert_int_equal(r->queues[a].batches[i].level, sorted[i]);
}

static void answers_go_before_messages(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    rig_publish(r, a, 31, "t", "x");
    rig_begin(r, a);
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 1, "u");
    rig_send(r);
    rig_pump(r, a);
    assert_int_equal(r->queues[a].batches[0].level, WIRE_CONTROL);
    assert_int_equal(r->queues[a].batches[1].level, 31);
}

static void within_a_priority_first_in_is_first_out(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    char payload[8];
    uint32_t n = 0;

    for (int i = 0; i < 40; i++) {
        snprintf(payload, sizeof(payload), "%d", i);
        publish_large(r, a, (uint8_t)(i % 2), payload);
    }
    for (uint8_t odd = 2; odd > 0; odd--) {
        for (int i = odd - 1; i < 40; i += 2, n++) {
            rig_turn(r);
            snprintf(payload, sizeof(payload), "%d", i);
            expect_large(r, a, (uint8_t)(odd - 1), payload);
        }
    }
    assert_int_equal(n, 40);
    expect_nothing(r, a);
}

static void numbers_rise_from_batch_to_batch(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    for (int i = 0; i < 5; i++)
        publish_large(r, a, 5, "x");
    rig_pump(r, a);
    for (uint32_t i = 1; i < 5; i++)
        assert_true(number_in_queue(r, a, i) > number_in_queue(r, a, i - 1));
}

/* ---- Batches ---- */

static void batches_fill_up_to_the_width_and_no_further(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    char bytes[1200] = {0};
    uint32_t first[RIG_DEPTH]; /* size of each batch's first frame */
    unsigned seed = 3;

    for (int round = 0; round < 50; round++) {
        for (int i = 0; i < 30; i++)
            rig_message(r, a,
                        &(struct rig_message){.type = WIRE_PUBLISH,
                                              .topic = "t",
                                              .payload = bytes,
                                              .payload_size = 1 + (size_t)rand_r(&seed) % 600});
        rig_turn(r);
        for (uint32_t i = 0; i < r->queues[a].n; i++) {
            const struct rig_batch *b = &r->queues[a].batches[i];

            assert_true(b->size <= r->width);
            first[i] = wire_frame_size(b->bytes + WIRE_BATCH_SIZE);
            if (i > 0)
                assert_true(r->queues[a].batches[i - 1].size + first[i] > r->width);
        }
        do
            rig_drain(r, a);
        while (rig_turn(r), r->queues[a].n > 0);
    }
}

static void a_frame_as_large_as_the_width_allows_goes_alone(void **state)
{
    static char bytes[RIG_FRAME_MAX];
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    memset(bytes, 'x', sizeof(bytes));
    rig_publish(r, a, 5, "t", "small");
    rig_message(r, a,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = 5,
                                      .topic = "t",
                                      .payload = bytes,
                                      .payload_size = RIG_FRAME_MAX - wire_message_size(1, 0)});
    rig_publish(r, a, 5, "t", "small");
    rig_pump(r, a);
    assert_int_equal(r->queues[a].n, 3);
    assert_int_equal(r->queues[a].batches[1].size, r->width);
}

static void a_batch_has_frames_of_one_priority(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct wire_frame f;

    for (int i = 0; i < 64; i++)
        rig_publish(r, a, (uint8_t)(i % 4), "t", "x");
    rig_turn(r);
    for (uint32_t n = 0; n < 64; n++) {
        f = expect_frame(r, a, WIRE_MESSAGE);
        assert_int_equal(f.priority, r->queues[a].header.level);
    }
}

/* ---- Room ---- */

static void P2_places_are_kept_for_higher_priorities(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch farewell;

    for (int i = 0; i < 20; i++)
        publish_large(r, a, 23, "low");
    assert_int_equal(rig_pump(r, a), PUMP_BLOCKED);
    assert_int_equal(r->queues[a].n, RIG_DEPTH - 3);
    for (int i = 0; i < 20; i++)
        publish_large(r, a, 24, "urgent");
    assert_int_equal(rig_pump(r, a), PUMP_BLOCKED);
    assert_int_equal(r->queues[a].n, RIG_DEPTH - 1);
    rig_subscribe(r, a, "u"); /* an answer finds no place either */
    assert_int_equal(rig_pump(r, a), PUMP_BLOCKED);
    assert_int_equal(r->queues[a].n, RIG_DEPTH - 1);

    pump_farewell(&r->engine, a, WIRE_STOPPED, WIRE_C_STOPPING, &farewell); /* K9 */
    assert_int_equal(farewell.level, 0);
    assert_true(rig_queue_put(r, a, &farewell));
    assert_int_equal(r->queues[a].n, RIG_DEPTH);
    rig_kill(r, a);
}

static void a_kept_place_is_not_lost_by_being_asked_for_low_ones(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    for (int i = 0; i < 20; i++)
        publish_large(r, a, 0, "low");
    rig_pump(r, a);
    for (int i = 0; i < 3; i++) { /* one after the other, as they come */
        publish_large(r, a, 31, "urgent");
        rig_pump(r, a);
    }
    assert_int_equal(r->queues[a].n, RIG_DEPTH - 1);
    for (int i = 0; i < 2; i++)
        expect_large(r, a, 31, "urgent");
    rig_turn(r);
    expect_large(r, a, 31, "urgent");
}

static void each_reading_makes_room_for_one_more(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    char payload[8];

    for (int i = 0; i < 30; i++) {
        snprintf(payload, sizeof(payload), "%d", i);
        publish_large(r, a, 5, payload);
    }
    rig_turn(r);
    for (int i = 0; i < 30; i++) {
        snprintf(payload, sizeof(payload), "%d", i);
        expect_large(r, a, 5, payload);
        rig_turn(r); /* touched by the edge */
        assert_int_equal(r->queues[a].n, i < 23 ? RIG_DEPTH - 3 : 29 - i);
    }
}

static void room_is_asked_for_and_believed_until_the_edge(void **state)
{
    struct rig *r = *state;
    struct engine *e = &r->engine;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;

    publish_large(r, a, 5, "x");
    pump_edge(e, a); /* nothing is known */
    assert_int_equal(pump_next(e, a, &batch), PUMP_ASK);
    pump_room(e, a, 3);
    assert_int_equal(pump_next(e, a, &batch), PUMP_BLOCKED);
    assert_int_equal(pump_next(e, a, &batch), PUMP_BLOCKED); /* not asked again */
    pump_edge(e, a);
    assert_int_equal(pump_next(e, a, &batch), PUMP_ASK);
    pump_room(e, a, 4);
    assert_int_equal(pump_next(e, a, &batch), PUMP_BATCH);
    pump_sent(e, a);
    assert_int_equal(pump_next(e, a, &batch), PUMP_NOTHING);
}

static void a_queue_found_full_takes_the_number_back(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t number = row_number(engine_row(&r->engine, a));

    publish_large(r, a, 5, "x");
    r->queues[a].refuse = 2;
    rig_pump(r, a);
    assert_int_equal(board_get(&r->memory.board->totals.full_queues), 2);
    assert_int_equal(number_in_queue(r, a, 0), number + 1);
    assert_int_equal(row_number(engine_row(&r->engine, a)), number + 1);
    assert_false(row_in_doubt(engine_row(&r->engine, a)));
    expect_large(r, a, 5, "x");
    expect_nothing(r, a);
}

static void what_was_not_sent_is_still_there(void **state)
{
    struct rig *r = *state;
    struct engine *e = &r->engine;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;

    rig_publish(r, a, 5, "t", "one");
    rig_request(r, a, "t", 1, e->now + RIG_SECOND);
    pump_edge(e, a);
    assert_int_equal(pump_next(e, a, &batch), PUMP_ASK);
    pump_room(e, a, RIG_DEPTH);
    assert_int_equal(pump_next(e, a, &batch), PUMP_BATCH);
    pump_full(e, a);
    expect_sound(r);
    rig_publish(r, a, 31, "t", "urgent"); /* goes first now, under the number that was not used */
    rig_pump(r, a);
    expect_message(r, a, "t", "urgent");
    assert_int_equal(expect_frame(r, a, WIRE_MESSAGE).flags, WIRE_F_REQUEST); /* priority 8 */
    expect_message(r, a, "t", "one");
    expect_nothing(r, a);
}

/* ---- Time to live ---- */

static void publish_until(struct rig *r, uint16_t row, uint8_t priority, uint64_t expiry,
                          const char *payload)
{
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = priority,
                                      .expiry = expiry,
                                      .topic = "t",
                                      .payload = payload});
}

static void expired_messages_are_dropped_and_counted(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct board_header *b = r->memory.board;

    publish_until(r, a, 5, r->engine.now + 100, "short");
    publish_until(r, a, 5, r->engine.now + 200, "long");
    publish_until(r, a, 5, 0, "for ever");
    publish_until(r, a, 9, r->engine.now + 100, "short and alone in its list");
    r->engine.now += 100;
    rig_turn(r);
    expect_message(r, a, "t", "long");
    assert_int_equal(r->queues[a].header.missed, 2);
    expect_message(r, a, "t", "for ever");
    expect_nothing(r, a);
    assert_int_equal(engine_row(&r->engine, a)->missed, 2);
    assert_int_equal(board_get(&board_row(b, a)->missed), 2);
    assert_int_equal(board_get(&b->drops.expired), 2);
    assert_int_equal(board_get(&board_row(b, a)->drops.expired), 2);
    assert_int_equal(board_get(&board_topic(b, 0)->drops.expired), 2);
    assert_int_equal(board_get(&b->priorities[5].drops.expired), 1);
    assert_int_equal(board_get(&b->priorities[9].drops.expired), 1);
}

static void an_expired_request_is_answered_timeout(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");

    rig_request(r, client, "t", 12, r->engine.now + 100);
    r->engine.now += 100;
    rig_turn(r);
    expect_nothing(r, a);
    expect_nothing(r, b);
    expect_answer(r, client, WIRE_C_TIMEOUT, 12, 1); /* once, not for each server */
    expect_nothing(r, client);
    assert_int_equal(board_get(&r->memory.board->drops.expired), 2);
    assert_int_equal(r->engine.sessions[client].charged, 0);
}

/* ---- The header ---- */

static void P4_grant_and_missed_stand_in_each_batch(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_subscriber(r, "publisher", "to/publisher");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t received;

    publish_large(r, publisher, 5, "x"); /* under way */
    rig_publish(r, a, 5, "to/publisher", "x");
    rig_pump(r, publisher);
    expect_message(r, publisher, "to/publisher", "x");
    received = engine_row(&r->engine, publisher)->received;
    assert_int_equal(received, wire_charge((uint32_t)wire_message_size(1, LARGE)));
    assert_int_equal(r->queues[publisher].header.grant, r->engine.window);
    rig_pump(r, a); /* delivered: the window comes back */
    rig_publish(r, a, 5, "to/publisher", "x");
    rig_pump(r, publisher);
    expect_message(r, publisher, "to/publisher", "x");
    assert_int_equal(r->queues[publisher].header.grant, r->engine.window + received);
}

/* Publish and deliver until so many bytes of the window have come back. */
static void spend(struct rig *r, uint16_t publisher, uint16_t receiver, uint64_t bytes)
{
    for (uint64_t spent = 0; spent < bytes; spent += WIRE_CELL_SIZE) {
        rig_publish(r, publisher, 5, "t", "x");
        rig_pump(r, receiver);
        rig_drain(r, receiver);
    }
}

static void P5_a_batch_without_frames_wakes_a_publisher_whose_window_came_back(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t half = r->engine.window / 2;

    rig_turn(r);
    spend(r, publisher, a, half - WIRE_CELL_SIZE);
    rig_turn(r);
    rig_turn(r);
    assert_int_equal(r->queues[publisher].n, 0); /* not yet half of it */
    spend(r, publisher, a, WIRE_CELL_SIZE);
    rig_turn(r); /* shows the grant */
    rig_turn(r);
    assert_int_equal(r->queues[publisher].n, 1);
    assert_int_equal(r->queues[publisher].batches[0].size, WIRE_BATCH_SIZE);
    assert_int_equal(r->queues[publisher].batches[0].level, WIRE_CONTROL);
    expect_nothing(r, publisher); /* no frames in it */
    assert_int_equal(r->queues[publisher].header.grant, r->engine.window + half);
    rig_turn(r);
    assert_int_equal(r->queues[publisher].n, 0); /* once */
}

static void P5_who_has_something_to_read_is_not_woken(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_subscriber(r, "publisher", "u");
    uint16_t a = expect_subscriber(r, "a", "t");

    rig_turn(r);
    rig_publish(r, a, 5, "u", "x");
    rig_pump(r, publisher);
    spend(r, publisher, a, r->engine.window);
    rig_turn(r);
    rig_turn(r);
    assert_int_equal(r->queues[publisher].n, 1);
    expect_message(r, publisher, "u", "x");
    expect_nothing(r, publisher);
}

/* ---- What readers keep order by ---- */

static void P1_the_board_says_what_waits_and_what_was_sent(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct board_row *row = board_row(r->memory.board, a);
    uint64_t number = row_number(engine_row(&r->engine, a));

    assert_int_equal(atomic_load(&row->tide), number);
    for (int i = 0; i < 10; i++)
        publish_large(r, a, 3, "x");
    publish_large(r, a, 20, "x");
    assert_int_equal(atomic_load(&row->tide),
                     (UINT64_C(1) << 3 | UINT64_C(1) << 20) << 32 | number);
    rig_pump(r, a);
    assert_int_equal(atomic_load(&row->level[20]), number + 1);
    assert_int_equal(atomic_load(&row->level[3]), number + 7);
    assert_int_equal(atomic_load(&row->tide), UINT64_C(1) << 3 << 32 | (number + 7));
    for (int i = 0; i < 11; i++) {
        expect_frame(r, a, WIRE_MESSAGE);
        rig_turn(r);
    }
    assert_int_equal(atomic_load(&row->level[3]), number + 11);
    assert_int_equal(atomic_load(&row->tide), number + 11); /* nothing waits */
    assert_int_equal(atomic_load(&row->level[WIRE_CONTROL]), number);
}

static void P1_answers_do_not_count_as_waiting(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    rig_subscribe(r, a, "t");
    assert_int_equal(atomic_load(&board_row(r->memory.board, a)->tide) >> 32, 0);
    rig_pump(r, a);
    rig_drain(r, a);
}

/* ---- Overflow ---- */

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
    uint32_t n = (uint32_t)(r->engine.window / wire_charge((uint32_t)wire_message_size(1, LARGE)));
    struct wire_frame f;

    for (uint32_t i = 0; i < n; i++)
        publish_large(r, hasty, 0, "x");
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

/* ---- Batches that go by the outbox ---- */

static int setup_narrow(void **state)
{
    static const struct rig_options narrow = {
        .width = 464, .n_buffers = RIG_BUFFERS, .n_cells = 16384};

    return expect_setup_with(state, &narrow);
}

static void publish_many(struct rig *r, uint16_t row, int first, int end)
{
    for (int i = first; i < end; i++) {
        char payload[12];

        snprintf(payload, sizeof(payload), "%d", i);
        rig_publish(r, row, 5, "t", payload);
    }
}

static void expect_many(struct rig *r, uint16_t row, int first, int end)
{
    for (int i = first; i < end; i++) {
        char payload[12];

        snprintf(payload, sizeof(payload), "%d", i);
        expect_message(r, row, "t", payload);
    }
}

static uint64_t sent_in(const struct rig *r, uint16_t row, uint32_t buffer)
{
    return atomic_load(&r->segments[row]->outbox->sent[buffer]);
}

static void what_does_not_fit_the_queue_goes_by_the_outbox(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    publish_many(r, a, 0, 200);
    rig_turn(r);
    assert_int_equal(r->queues[a].n, 1); /* as many a queue message as on the widest queue */
    assert_int_equal(r->queues[a].batches[0].size, WIRE_BATCH_SIZE + WIRE_BOXED_SIZE);
    assert_int_equal(r->queues[a].batches[0].level, 5);
    assert_int_equal(sent_in(r, a, 0), number_in_queue(r, a, 0));
    expect_many(r, a, 0, 200);
    expect_nothing(r, a);
    assert_int_equal(r->queues[a].n_boxed, 1);
    assert_int_equal(board_get(&r->memory.board->totals.boxed), 1);
}

static void what_fits_the_queue_uses_up_no_buffer(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    publish_many(r, a, 0, 10);
    rig_turn(r);
    expect_many(r, a, 0, 10);
    assert_int_equal(r->queues[a].n_boxed, 0);
    for (uint32_t b = 0; b < RIG_BUFFERS; b++)
        assert_int_equal(sent_in(r, a, b), 0);
}

static void a_buffer_is_filled_to_the_brim_and_no_further(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    for (int i = 0; i < 20; i++)
        publish_large(r, a, 5, "x");
    rig_turn(r);
    for (uint32_t i = 0; i < r->queues[a].n; i++) {
        const uint8_t *box = (const uint8_t *)r->segments[a]->outbox + outbox_buffer_offset(i);

        assert_true(wire_envelope_length(box) <= OUTBOX_BUFFER);
        if (i + 1 < r->queues[a].n)
            assert_true(wire_envelope_length(box) + wire_message_size(1, LARGE) > OUTBOX_BUFFER);
    }
    for (int i = 0; i < 20; i++)
        expect_large(r, a, 5, "x");
}

/* Unread batches lie in buffers of their own; a buffer that was emptied is the first to be filled
 * again. */
static void a_buffer_is_used_again_when_it_was_taken_and_not_before(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    for (int i = 0; i < 4; i++) {
        publish_many(r, a, 100 * i, 100 * (i + 1));
        rig_turn(r);
    }
    assert_int_equal(r->queues[a].n, 4);
    for (uint32_t b = 0; b < 4; b++)
        assert_int_equal(sent_in(r, a, b), number_in_queue(r, a, b));
    expect_many(r, a, 0, 200); /* the first two are taken */
    publish_many(r, a, 400, 500);
    rig_turn(r);
    assert_int_equal(sent_in(r, a, 0), number_in_queue(r, a, 2));
    expect_many(r, a, 200, 500);
    expect_nothing(r, a);
    assert_int_equal(sent_in(r, a, 4), 0); /* never needed */
}

/* More than are read: the queue is full before the buffers are. */
static void buffers_suffice_for_a_full_queue(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    int n = 0;

    for (int round = 0; round < 15; round++) {
        publish_many(r, a, n, n + 60);
        n += 60;
        rig_turn(r);
    }
    assert_int_equal(r->queues[a].n, RIG_DEPTH - 3);
    for (int i = 0; i < n; i++) {
        char payload[12];

        rig_turn(r);
        snprintf(payload, sizeof(payload), "%d", i);
        expect_message(r, a, "t", payload);
    }
    expect_nothing(r, a);
    assert_true(r->segments[a]->outbox->n_buffers <= RIG_BUFFERS);
}

/* A client that says it never took anything has itself to blame; others do not notice. */
static void who_empties_no_buffer_gets_what_fits_its_queue(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");
    struct wire_frame f;

    for (int i = 0; i < 30; i++) {
        publish_many(r, b, 100 * i, 100 * (i + 1));
        rig_turn(r);
        while (rig_read(r, a, &f)) {
            for (uint32_t k = 0; k < RIG_BUFFERS; k++) /* what it took, it takes back */
                atomic_store(&r->segments[a]->pool->taken[k], UINT64_MAX);
            rig_turn(r);
        }
        expect_many(r, b, 100 * i, 100 * (i + 1));
    }
    assert_int_equal(r->queues[a].n_boxed, RIG_BUFFERS);
    assert_int_equal(engine_row(&r->engine, a)->missed, 0);
}

static void a_box_that_found_the_queue_full_is_nobody_s(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t number = row_number(engine_row(&r->engine, a));

    publish_many(r, a, 0, 100);
    r->queues[a].refuse = 1;
    rig_turn(r);
    assert_int_equal(sent_in(r, a, 0), number + 1); /* it went when room was asked for again */
    assert_int_equal(r->queues[a].n, 1);
    assert_int_equal(number_in_queue(r, a, 0), number + 1);
    expect_many(r, a, 0, 100);

    publish_many(r, a, 0, 100);
    engine_attach(&r->engine, a, r->segments[a]->outbox, r->segments[a]->pool);
    for (int i = 0; i < 3; i++) {
        struct pump_batch batch;

        pump_room(&r->engine, a, RIG_DEPTH);
        assert_int_equal(pump_next(&r->engine, a, &batch), PUMP_BATCH);
        assert_int_equal(sent_in(r, a, 0), number + 2);
        pump_full(&r->engine, a);
        assert_int_equal(sent_in(r, a, 0), 0);
    }
    rig_turn(r);
    expect_many(r, a, 0, 100);
}

/* ---- The broker dies while it sends (K3) ---- */

/* As far as the intent; what is sent is up to the test. */
static struct pump_batch intend(struct rig *r, uint16_t row)
{
    struct pump_batch batch;

    pump_room(&r->engine, row, RIG_DEPTH);
    assert_int_equal(pump_next(&r->engine, row, &batch), PUMP_BATCH);
    assert_true(row_in_doubt(engine_row(&r->engine, row)));
    return batch;
}

static void K3_a_batch_that_had_not_gone_goes_again_under_its_number(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t number = row_number(engine_row(&r->engine, a)) + 1;

    rig_publish(r, a, 5, "t", "one");
    rig_publish(r, a, 5, "t", "two");
    intend(r, a);
    assert_int_equal(rig_restart(r), 0);
    rig_publish(r, a, 5, "t", "three");   /* is not part of it */
    rig_publish(r, a, 31, "t", "urgent"); /* waits until the doubt is gone */
    rig_turn(r);
    assert_int_equal(number_in_queue(r, a, 0), number);
    assert_int_equal(r->queues[a].batches[0].level, 5);
    assert_int_equal(number_in_queue(r, a, 1), number + 1);
    assert_int_equal(r->queues[a].batches[1].level, 31);
    expect_message(r, a, "t", "urgent");
    expect_message(r, a, "t", "one");
    expect_message(r, a, "t", "two");
    expect_message(r, a, "t", "three");
    expect_nothing(r, a);
}

static void K3_a_batch_that_had_gone_goes_again_and_the_reader_drops_it(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;

    rig_publish(r, a, 5, "t", "one");
    batch = intend(r, a);
    assert_true(rig_queue_put(r, a, &batch));
    assert_int_equal(rig_restart(r), 0);
    rig_publish(r, a, 5, "t", "two");
    rig_turn(r);
    expect_message(r, a, "t", "one");
    expect_message(r, a, "t", "two");
    expect_nothing(r, a);
    assert_int_equal(r->queues[a].n_repeats, 1);
}

static void K3_what_waits_in_doubt_does_not_expire(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    publish_until(r, a, 5, r->engine.now + 100, "x");
    intend(r, a);
    r->engine.now += RIG_SECOND;
    assert_int_equal(rig_restart(r), 0);
    life_tick(&r->engine);
    assert_int_equal(board_get(&r->memory.board->drops.expired), 0);
    rig_turn(r);
    expect_message(r, a, "t", "x"); /* it may have been read before the broker died */
}

static void K3_a_full_queue_does_not_end_the_doubt(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;

    rig_publish(r, a, 5, "t", "one");
    batch = intend(r, a);
    assert_true(rig_queue_put(r, a, &batch));
    expect_message(r, a, "t", "one");
    assert_int_equal(rig_restart(r), 0);
    rig_publish(r, a, 5, "t", "two");
    r->queues[a].refuse = 3;
    rig_turn(r);
    expect_message(r, a, "t", "two"); /* under a number of its own, not in the batch dropped */
    expect_nothing(r, a);
    assert_int_equal(r->queues[a].n_repeats, 1);
    assert_false(row_in_doubt(engine_row(&r->engine, a)));
}

static void K3_a_name_that_comes_back_settles_the_doubt(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;
    uint64_t name;

    rig_request(r, client, "t", 3, r->engine.now + RIG_SECOND);
    rig_message(r, client,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = WIRE_DEFAULT_PRIORITY,
                                      .topic = "t",
                                      .payload = "in the same batch"});
    batch = intend(r, a);
    assert_true(rig_queue_put(r, a, &batch));
    name = expect_frame(r, a, WIRE_MESSAGE).number;
    assert_int_equal(rig_restart(r), 0);
    rig_reply(r, a, name, "before the doubt was resent");
    rig_turn(r);
    assert_int_equal(expect_frame(r, client, WIRE_MESSAGE).number, 3);
    expect_message(r, a, "t", "in the same batch"); /* from the first batch */
    expect_nothing(r, a);
    assert_int_equal(r->queues[a].n_repeats, 0); /* it was not sent again */
    expect_sound(r);
}

/* It may be read just now: the repeat points to the same buffer, and that is left alone. */
static void K3_a_boxed_batch_in_doubt_stays_where_it_is(void **state)
{
    struct rig *r = *state;

    for (int gone = 0; gone < 2; gone++) {
        uint16_t a = expect_subscriber(r, gone ? "a" : "b", "t");
        struct pump_batch batch;
        uint64_t number;
        uint8_t before[OUTBOX_BUFFER];
        const uint8_t *box = (const uint8_t *)r->segments[a]->outbox + outbox_buffer_offset(0);

        publish_many(r, a, 0, 100);
        batch = intend(r, a);
        number = row_number(engine_row(&r->engine, a));
        if (gone)
            assert_true(rig_queue_put(r, a, &batch));
        memcpy(before, box, sizeof(before));
        assert_int_equal(rig_restart(r), 0);
        publish_many(r, a, 100, 200);
        rig_turn(r);
        assert_memory_equal(box, before, sizeof(before));
        assert_int_equal(sent_in(r, a, 0), number);
        assert_int_equal(number_in_queue(r, a, 0), number);
        expect_many(r, a, 0, 200);
        expect_nothing(r, a);
        assert_int_equal(r->queues[a].n_repeats, gone);
        rig_kill(r, a);
    }
}

/* The first of its requests was marked as sent: had the buffer been filled again, that would not be
 * in it. */
static void K3_a_boxed_batch_that_was_half_marked_is_read_whole(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;
    uint32_t first;

    for (uint32_t i = 1; i <= 50; i++)
        rig_request(r, client, "t", i, r->engine.now + RIG_SECOND);
    batch = intend(r, a);
    assert_true(rig_queue_put(r, a, &batch));
    first = r->engine.batch[0];
    engine_change(&r->engine, first,
                  REF_WORD(REF_OUT, REF_REQUEST, WIRE_DEFAULT_PRIORITY, 0, a, a));
    assert_int_equal(rig_restart(r), 0);
    rig_turn(r);
    assert_int_equal(r->queues[a].n, 2);
    for (uint32_t i = 1; i <= 50; i++)
        rig_reply(r, a, expect_frame(r, a, WIRE_MESSAGE).number, "done");
    expect_nothing(r, a);
    rig_turn(r);
    for (uint32_t i = 1; i <= 50; i++)
        assert_int_equal(expect_frame(r, client, WIRE_MESSAGE).number, i);
}

/* A repeat that is read after a younger batch was put into its buffer: whoever takes it must not
 * say that the younger one is still to be taken. */
static void K3_a_late_repeat_loses_no_buffer(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;

    publish_many(r, a, 0, 100);
    batch = intend(r, a);
    assert_true(rig_queue_put(r, a, &batch));
    expect_many(r, a, 0, 100); /* taken */
    assert_int_equal(rig_restart(r), 0);
    assert_int_equal(rig_pump(r, a), PUMP_NOTHING); /* the repeat stands in the queue */
    for (int i = 0; i < 100; i++)
        rig_publish(r, a, 31, "t", "urgent");
    rig_turn(r); /* into the same buffer */
    for (int i = 0; i < 100; i++)
        expect_message(r, a, "t", "urgent");
    expect_nothing(r, a);
    assert_int_equal(r->queues[a].n_repeats, 1);
    for (uint32_t b = 0; b < r->segments[a]->outbox->n_buffers; b++)
        assert_int_equal(atomic_load(&r->segments[a]->pool->taken[b]), sent_in(r, a, b));
}

static void K3_an_empty_batch_in_doubt_leaves_nothing(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;

    rig_turn(r);
    spend(r, publisher, a, r->engine.window);
    engine_show(&r->engine);
    batch = intend(r, publisher);
    assert_int_equal(batch.size, WIRE_BATCH_SIZE);
    assert_int_equal(rig_restart(r), 0);
    rig_turn(r);
    assert_false(row_in_doubt(engine_row(&r->engine, publisher)));
    assert_int_equal(r->queues[publisher].n, 1); /* who may sleep is woken after a start */
}

/* ---- Counting ---- */

static void what_goes_out_is_counted(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct board_header *b = r->memory.board;
    uint64_t batches = board_get(&b->totals.batches_out);
    uint32_t size = (uint32_t)wire_message_size(1, 1);

    for (int i = 0; i < 3; i++)
        rig_publish(r, a, 7, "t", "x");
    r->engine.now += 5000; /* 5 us in the broker: bucket 3, below 8 us */
    rig_turn(r);
    assert_int_equal(board_get(&b->totals.messages_out), 3);
    assert_int_equal(board_get(&b->totals.bytes_out), 3 * size);
    assert_int_equal(board_get(&b->totals.batches_out), batches + 1);
    assert_int_equal(board_get(&b->priorities[7].out), 3);
    assert_int_equal(board_get(&b->priorities[7].wait[3]), 3);
    assert_int_equal(board_get(&board_row(b, a)->out), 3);
    assert_int_equal(board_get(&board_row(b, a)->bytes_out), 3 * size);
    assert_int_equal(board_get(&board_topic(b, 0)->out), 3);
    assert_int_equal(board_get(&board_topic(b, 0)->waiting), 0);
}

#define TEST(name)   cmocka_unit_test_setup_teardown(name, expect_setup, expect_teardown)
#define NARROW(name) cmocka_unit_test_setup_teardown(name, setup_narrow, expect_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_highest_priority_goes_first),
        TEST(answers_go_before_messages),
        TEST(within_a_priority_first_in_is_first_out),
        TEST(numbers_rise_from_batch_to_batch),
        TEST(batches_fill_up_to_the_width_and_no_further),
        TEST(a_frame_as_large_as_the_width_allows_goes_alone),
        TEST(a_batch_has_frames_of_one_priority),
        TEST(P2_places_are_kept_for_higher_priorities),
        TEST(a_kept_place_is_not_lost_by_being_asked_for_low_ones),
        TEST(each_reading_makes_room_for_one_more),
        TEST(room_is_asked_for_and_believed_until_the_edge),
        TEST(a_queue_found_full_takes_the_number_back),
        TEST(what_was_not_sent_is_still_there),
        TEST(expired_messages_are_dropped_and_counted),
        TEST(an_expired_request_is_answered_timeout),
        TEST(P4_grant_and_missed_stand_in_each_batch),
        TEST(P5_a_batch_without_frames_wakes_a_publisher_whose_window_came_back),
        TEST(P5_who_has_something_to_read_is_not_woken),
        TEST(P1_the_board_says_what_waits_and_what_was_sent),
        TEST(P1_answers_do_not_count_as_waiting),
        cmocka_unit_test(P7_a_stalled_session_loses_the_oldest_of_its_lowest_priority),
        cmocka_unit_test(P7_drop_newest_keeps_what_came_first_up_to_the_quota),
        cmocka_unit_test(P7_drop_newest_lets_a_publisher_go_on_with_what_it_published_first_kept),
        cmocka_unit_test(P7_what_is_in_doubt_is_not_dropped_by_either_policy),
        TEST(P7_only_messages_of_publishers_out_of_room_are_dropped_within_the_quota),
        cmocka_unit_test(P7_a_request_thrown_out_is_answered_dropped),
        TEST(who_reads_a_queue_s_worth_is_no_longer_stalled),
        TEST(K3_a_batch_that_had_not_gone_goes_again_under_its_number),
        TEST(K3_a_batch_that_had_gone_goes_again_and_the_reader_drops_it),
        TEST(K3_what_waits_in_doubt_does_not_expire),
        TEST(K3_a_full_queue_does_not_end_the_doubt),
        TEST(K3_a_name_that_comes_back_settles_the_doubt),
        TEST(K3_an_empty_batch_in_doubt_leaves_nothing),
        TEST(what_goes_out_is_counted),
        NARROW(what_does_not_fit_the_queue_goes_by_the_outbox),
        NARROW(what_fits_the_queue_uses_up_no_buffer),
        NARROW(a_buffer_is_filled_to_the_brim_and_no_further),
        NARROW(a_buffer_is_used_again_when_it_was_taken_and_not_before),
        NARROW(buffers_suffice_for_a_full_queue),
        NARROW(who_empties_no_buffer_gets_what_fits_its_queue),
        NARROW(a_box_that_found_the_queue_full_is_nobody_s),
        NARROW(K3_a_boxed_batch_in_doubt_stays_where_it_is),
        NARROW(K3_a_boxed_batch_that_was_half_marked_is_read_whole),
        NARROW(K3_a_late_repeat_loses_no_buffer),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
