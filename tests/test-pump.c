/* broker/pump: from references to batches, and what a full queue, a dead broker and a slow reader
 * do about it. What a reader loses that is too slow for good: test-overflow; batches that go by
 * shared memory: test-boxes. */
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
        rig_publish_large(r, a, (uint8_t)(i % 2), payload);
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
        rig_publish_large(r, a, 5, "x");
    rig_pump(r, a);
    for (uint32_t i = 1; i < 5; i++)
        assert_true(expect_number(r, a, i) > expect_number(r, a, i - 1));
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
        rig_publish_large(r, a, 23, "low");
    assert_int_equal(rig_pump(r, a), PUMP_BLOCKED);
    assert_int_equal(r->queues[a].n, RIG_DEPTH - 3);
    for (int i = 0; i < 20; i++)
        rig_publish_large(r, a, 24, "urgent");
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
        rig_publish_large(r, a, 0, "low");
    rig_pump(r, a);
    for (int i = 0; i < 3; i++) { /* one after the other, as they come */
        rig_publish_large(r, a, 31, "urgent");
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
        rig_publish_large(r, a, 5, payload);
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

    rig_publish_large(r, a, 5, "x");
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

    rig_publish_large(r, a, 5, "x");
    r->queues[a].refuse = 2;
    rig_pump(r, a);
    assert_int_equal(board_get(&r->memory.board->totals.full_queues), 2);
    assert_int_equal(expect_number(r, a, 0), number + 1);
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

    rig_publish_large(r, publisher, 5, "x"); /* under way */
    rig_publish(r, a, 5, "to/publisher", "x");
    rig_pump(r, publisher);
    expect_message(r, publisher, "to/publisher", "x");
    received = engine_row(&r->engine, publisher)->received;
    assert_int_equal(received, wire_charge((uint32_t)wire_message_size(1, RIG_LARGE)));
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
        rig_publish_large(r, a, 3, "x");
    rig_publish_large(r, a, 20, "x");
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

/* ---- The broker dies while it sends (K3) ---- */

static void K3_a_batch_that_had_not_gone_goes_again_under_its_number(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t number = row_number(engine_row(&r->engine, a)) + 1;

    rig_publish(r, a, 5, "t", "one");
    rig_publish(r, a, 5, "t", "two");
    expect_intent(r, a);
    assert_int_equal(rig_restart(r), 0);
    rig_publish(r, a, 5, "t", "three");   /* is not part of it */
    rig_publish(r, a, 31, "t", "urgent"); /* waits until the doubt is gone */
    rig_turn(r);
    assert_int_equal(expect_number(r, a, 0), number);
    assert_int_equal(r->queues[a].batches[0].level, 5);
    assert_int_equal(expect_number(r, a, 1), number + 1);
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
    batch = expect_intent(r, a);
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
    expect_intent(r, a);
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
    batch = expect_intent(r, a);
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
    batch = expect_intent(r, a);
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

static void K3_an_empty_batch_in_doubt_leaves_nothing(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;

    rig_turn(r);
    spend(r, publisher, a, r->engine.window);
    engine_show(&r->engine);
    batch = expect_intent(r, publisher);
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

#define TEST(name) cmocka_unit_test_setup_teardown(name, expect_setup, expect_teardown)

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
        TEST(K3_a_batch_that_had_not_gone_goes_again_under_its_number),
        TEST(K3_a_batch_that_had_gone_goes_again_and_the_reader_drops_it),
        TEST(K3_what_waits_in_doubt_does_not_expire),
        TEST(K3_a_full_queue_does_not_end_the_doubt),
        TEST(K3_a_name_that_comes_back_settles_the_doubt),
        TEST(K3_an_empty_batch_in_doubt_leaves_nothing),
        TEST(what_goes_out_is_counted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
