/* Batches that do not fit the queue and go by the outbox, in broker/pump: which buffer they are in,
 * when it is used again, and that a broker that dies while it sends leaves them as they are (K3).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/engine-expect.h"

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

/* ---- Buffers ---- */

static void what_does_not_fit_the_queue_goes_by_the_outbox(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    publish_many(r, a, 0, 200);
    rig_turn(r);
    assert_int_equal(r->queues[a].n, 1); /* as many a queue message as on the widest queue */
    assert_int_equal(r->queues[a].batches[0].size, WIRE_BATCH_SIZE + WIRE_BOXED_SIZE);
    assert_int_equal(r->queues[a].batches[0].level, 5);
    assert_int_equal(sent_in(r, a, 0), expect_number(r, a, 0));
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
        rig_publish_large(r, a, 5, "x");
    rig_turn(r);
    for (uint32_t i = 0; i < r->queues[a].n; i++) {
        const uint8_t *box = (const uint8_t *)r->segments[a]->outbox + outbox_buffer_offset(i);

        assert_true(wire_envelope_length(box) <= OUTBOX_BUFFER);
        if (i + 1 < r->queues[a].n)
            assert_true(wire_envelope_length(box) + wire_message_size(1, RIG_LARGE) >
                        OUTBOX_BUFFER);
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
        assert_int_equal(sent_in(r, a, b), expect_number(r, a, b));
    expect_many(r, a, 0, 200); /* the first two are taken */
    publish_many(r, a, 400, 500);
    rig_turn(r);
    assert_int_equal(sent_in(r, a, 0), expect_number(r, a, 2));
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
    assert_int_equal(expect_number(r, a, 0), number + 1);
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
        batch = expect_intent(r, a);
        number = row_number(engine_row(&r->engine, a));
        if (gone)
            assert_true(rig_queue_put(r, a, &batch));
        memcpy(before, box, sizeof(before));
        assert_int_equal(rig_restart(r), 0);
        publish_many(r, a, 100, 200);
        rig_turn(r);
        assert_memory_equal(box, before, sizeof(before));
        assert_int_equal(sent_in(r, a, 0), number);
        assert_int_equal(expect_number(r, a, 0), number);
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
    batch = expect_intent(r, a);
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
    batch = expect_intent(r, a);
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

#define NARROW(name) cmocka_unit_test_setup_teardown(name, setup_narrow, expect_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
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
