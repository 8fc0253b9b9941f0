/* Payload pools (rules S1, S7, P8): which places come back to their owners, when, and what nobody
 * can make of the words that clients write. On the rig, whose payloads are single words: who reads
 * a place that was given out again reads another word.
 *
 * What every test ends with (expect_places, teardown) is the property of all this: no place is
 * lost, none comes back while somebody may read it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "tests/support/engine-expect.h"

static const struct rig_options usual = {.n_buffers = RIG_BUFFERS};

static int setup(void **state)
{
    return expect_setup_with(state, &usual);
}

/* For who holds a thousand: a window for as many. */
static int setup_large(void **state)
{
    static const struct rig_options large = {
        .n_buffers = RIG_BUFFERS, .n_cells = 65536, .n_references = 16384};

    return expect_setup_with(state, &large);
}

static int teardown(void **state)
{
    struct rig *r = *state;
    const char *fault = r->fault;

    for (uint32_t i = 0; i < RIG_POOLS && fault == NULL; i++)
        fault = r->pools[i] != NULL ? r->pools[i]->fault : NULL;
    if (fault != NULL)
        print_error("at the end: %s\n", fault);
    return expect_teardown(state) == 0 && fault == NULL ? 0 : -1;
}

/* A pooled message with this payload is next; its name. */
static uint64_t expect_pooled(struct rig *r, uint16_t row, uint64_t payload)
{
    struct wire_frame f = expect_frame(r, row, WIRE_MESSAGE);

    assert_int_equal(f.flags & WIRE_F_POOLED, WIRE_F_POOLED);
    assert_int_equal(rig_payload(r, &f), payload);
    return f.slot.name;
}

/* So many places of this session come back, and so many are still out. */
static void expect_places(struct rig *r, uint16_t row, uint32_t back, uint32_t out)
{
    rig_turn(r);
    assert_int_equal(rig_look(r, row), back);
    assert_int_equal(r->segments[row]->n_given, out);
    assert_int_equal(r->segments[row]->n_repeats, 0);
}

/* Fill the queue of one who is subscribed to "t", so that what comes next waits. */
static void block(struct rig *r, uint16_t row)
{
    while (rig_pump(r, row) != PUMP_BLOCKED)
        rig_publish(r, row, 5, "t", "filler");
}

/* All that was published for that has been read. */
static void unblock(struct rig *r, uint16_t row)
{
    while (r->queues[row].n > 0)
        expect_message(r, row, "t", "filler");
    rig_turn(r);
    expect_message(r, row, "t", "filler");
}

static struct wire_slot put(struct rig *r, uint16_t row, uint64_t payload)
{
    struct wire_slot slot;

    assert_true(segments_put(r->segments[row], payload, SEGMENTS_PLACE, &slot));
    return slot;
}

static void publish(struct rig *r, uint16_t row, const char *topic, uint64_t payload)
{
    assert_true(rig_publish_pooled(r, row, 5, topic, payload));
}

static void publish_with(struct rig *r, uint16_t row, const char *topic, uint16_t flags,
                         uint64_t expiry, const struct wire_slot *slot)
{
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = 5,
                                      .flags = flags,
                                      .number = flags & WIRE_F_CONFIRM ? 7 : 0,
                                      .expiry = expiry,
                                      .topic = topic,
                                      .slot = slot});
}

static void request(struct rig *r, uint16_t row, const char *topic, uint64_t payload)
{
    struct wire_slot slot = put(r, row, payload);

    rig_message(r, row,
                &(struct rig_message){.type = WIRE_REQUEST,
                                      .priority = 5,
                                      .number = 3,
                                      .expiry = r->engine.now + RIG_SECOND,
                                      .topic = topic,
                                      .slot = &slot});
}

static void reply(struct rig *r, uint16_t row, uint64_t name, uint64_t payload)
{
    struct wire_slot slot = put(r, row, payload);

    rig_message(
        r, row,
        &(struct rig_message){.type = WIRE_REPLY, .priority = 5, .number = name, .slot = &slot});
}

/* ---- What comes back ---- */

static void S7_a_place_comes_back_when_its_receiver_gave_it_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t name;

    publish(r, p, "t", 11);
    expect_places(r, p, 0, 1);
    name = expect_pooled(r, a, 11);
    expect_places(r, p, 0, 1);
    assert_int_equal(board_get(&board_row(r->memory.board, a)->held), 1);
    assert_int_equal(board_get(&board_row(r->memory.board, a)->held_bytes), SEGMENTS_PLACE);
    rig_release(r, a, name);
    expect_places(r, p, 1, 0);
    assert_int_equal(board_get(&board_row(r->memory.board, a)->held), 0);
}

static void S7_a_place_comes_back_once_after_the_last_receiver(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t rows[3];
    uint64_t names[3];

    for (int i = 0; i < 3; i++)
        rows[i] = expect_subscriber(r, (const char *[]){"a", "b", "c"}[i], "t");
    publish(r, p, "t", 11);
    rig_turn(r);
    for (int i = 0; i < 2; i++)
        names[i] = expect_pooled(r, rows[i], 11);
    for (int i = 0; i < 2; i++)
        rig_release(r, rows[i], names[i]);
    expect_places(r, p, 0, 1); /* the third has not even read it */
    names[2] = expect_pooled(r, rows[2], 11);
    rig_release(r, rows[2], names[2]);
    expect_places(r, p, 1, 0);
}

static void places_come_back_in_the_order_of_their_release(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t names[50];

    for (int round = 0; round < 100; round++) { /* around both rings */
        for (uint32_t i = 0; i < 50; i++)
            publish(r, p, "t", 100 + i);
        rig_turn(r);
        for (uint32_t i = 0; i < 50; i++)
            names[i] = expect_pooled(r, a, 100 + i);
        for (uint32_t i = 0; i < 50; i++)
            rig_release(r, a, names[i * 7 % 50]);
        expect_places(r, p, 50, 0);
    }
    assert_int_equal(atomic_load(&r->segments[p]->outbox->returned), 5000);
    assert_int_equal(atomic_load(&r->segments[a]->outbox->collected), 5000);
}

static void what_reaches_nobody_comes_back_at_once(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");

    publish(r, p, "nobody/there", 11);
    assert_int_equal(rig_look(r, p), 1);
    assert_int_equal(r->engine.store.cell_pool.n_used, 0);
    publish(r, p, "@nobody", 12);
    expect_places(r, p, 1, 0);
}

static void what_is_refused_comes_back_at_once(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "#");
    struct wire_slot slot = put(r, p, 1);

    publish_with(r, p, "t", WIRE_F_CONFIRM, r->engine.now - 1, &slot);
    expect_places(r, p, 1, 0);
    expect_answer(r, p, WIRE_C_TIMEOUT, 7, 1);

    slot = put(r, p, 2);
    publish_with(r, p, "$SYS/x", WIRE_F_CONFIRM, 0, &slot);
    expect_places(r, p, 1, 0);
    expect_answer(r, p, WIRE_C_BAD_TOPIC, 7, 1);

    block(r, a);
    while (board_get(&r->memory.board->refusals.window) == 0)
        publish(r, p, "t", 3);
    expect_places(r, p, 1, (uint32_t)(r->engine.window / WIRE_CELL_SIZE));
    rig_kill(r, a);
    expect_places(r, p, (uint32_t)(r->engine.window / WIRE_CELL_SIZE), 0);
}

/* It has its sender's own word for where it is. */
static void S1_what_is_not_in_the_senders_pool_is_refused(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "#");
    struct wire_slot good = put(r, p, 1);
    const struct wire_slot bad[] = {
        {.pool = r->segments[a]->nonce, .offset = good.offset, .size = 1, .name = 1},
        {.pool = good.pool, .offset = 0, .size = 1, .name = 1},
        {.pool = good.pool, .offset = POOL_PAYLOADS / WIRE_SLOT_UNIT - 1, .size = 1, .name = 1},
        {.pool = good.pool, .offset = UINT32_MAX, .size = 1, .name = 1},
        {.pool = good.pool, .offset = good.offset, .size = SEGMENTS_POOL, .name = 1},
        {.pool = good.pool, .offset = good.offset, .size = UINT32_MAX, .name = 1},
        {.pool = good.pool, .offset = SEGMENTS_POOL / WIRE_SLOT_UNIT, .size = 1, .name = 1},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        publish_with(r, p, "t", WIRE_F_CONFIRM, 0, &bad[i]);
        rig_turn(r);
        expect_answer(r, p, WIRE_C_BAD_SLOT, 7, 1);
        assert_int_equal(board_get(&r->memory.board->refusals.bad_slot), i + 1);
    }
    expect_nothing(r, a);
    publish_with(r, p, "t", 0, 0, &good);
    rig_turn(r);
    rig_release(r, a, expect_pooled(r, a, 1));
    expect_places(r, p, 1, 0);
}

static void what_expired_or_was_dropped_comes_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct wire_slot slot = put(r, p, 1);

    block(r, a);
    publish_with(r, p, "t", 0, r->engine.now + 1000, &slot);
    expect_places(r, p, 0, 1);
    r->engine.now += RIG_SECOND;
    life_tick(&r->engine);
    expect_places(r, p, 1, 0);

    for (uint64_t i = 0; i < r->engine.window / WIRE_CELL_SIZE; i++)
        publish(r, p, "t", 3);
    rig_turn(r);
    for (int i = 0; i < 20; i++) {
        r->engine.now += RIG_SECOND;
        life_tick(&r->engine);
        rig_turn(r);
    }
    rig_turn(r);
    assert_int_equal(rig_look(r, p),
                     r->engine.window / WIRE_CELL_SIZE / 2); /* P7: as many as need be */
}

/* ---- Names that are wrong ---- */

static void S7_a_name_gives_back_once_and_only_what_was_held(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");
    uint64_t name, others;

    publish(r, p, "t", 11);
    rig_turn(r);
    name = expect_pooled(r, a, 11);
    others = expect_pooled(r, b, 11);
    rig_release(r, a, others);
    rig_release(r, a, name + 1);
    rig_release(r, a, name ^ UINT64_C(1) << 40);
    rig_release(r, a, 0);
    rig_release(r, a, UINT64_MAX);
    rig_release(r, a, (uint64_t)4000 << 40 | 1);
    expect_places(r, p, 0, 1);
    rig_release(r, a, name);
    rig_release(r, a, name);
    expect_places(r, p, 0, 1);
    rig_release(r, b, others);
    rig_release(r, b, others);
    expect_places(r, p, 1, 0);
    publish(r, p, "t", 12); /* in the slots of the two: the old names are not theirs */
    rig_turn(r);
    rig_release(r, a, name);
    rig_release(r, b, others);
    expect_places(r, p, 0, 1);
    rig_release(r, a, expect_pooled(r, a, 12));
    rig_release(r, b, expect_pooled(r, b, 12));
    expect_places(r, p, 1, 0);
}

/* What waits has a name, too, that was told to nobody. */
static void S7_what_was_not_sent_cannot_be_given_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");

    block(r, a);
    publish(r, p, "t", 11);
    rig_turn(r);
    for (uint32_t slot = 1; slot < r->engine.store.reference_pool.high; slot++)
        rig_release(r, a, ref_name(slot, engine_reference(&r->engine, slot)->age));
    pools_look_at(&r->engine, a); /* it holds nothing yet */
    expect_places(r, p, 0, 1);
    assert_int_equal(atomic_load(&r->segments[a]->outbox->collected),
                     atomic_load(&r->segments[a]->pool->released));
    unblock(r, a);
    rig_release(r, a, expect_pooled(r, a, 11));
    expect_places(r, p, 1, 0);
}

static void S1_a_ring_that_makes_no_sense_ends_its_session(void **state)
{
    static const uint64_t counts[] = {POOL_RING + 1, UINT64_MAX, UINT64_C(1) << 63};
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        uint16_t a = expect_subscriber(r, "a", "t");
        uint8_t code;

        publish(r, p, "t", 11);
        rig_turn(r);
        expect_pooled(r, a, 11);
        atomic_store(&r->segments[a]->pool->released, counts[i]);
        rig_collect(r);
        assert_int_equal(engine_row(&r->engine, a)->state, ROW_ENDING);
        assert_true(life_wants_farewell(&r->engine, a, &code));
        assert_int_equal(code, WIRE_C_BAD_POOL);
        rig_kill(r, a);
        expect_places(r, p, 1, 0);
    }
}

/* As many as the ring holds make sense, whatever they are. */
static void S1_a_ring_full_of_nonsense_costs_its_reading(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t name;

    publish(r, p, "t", 11);
    rig_turn(r);
    name = expect_pooled(r, a, 11);
    for (uint32_t i = 0; i < POOL_RING; i++)
        atomic_store(&r->segments[a]->pool->ring[i], (uint64_t)i << 40 | i);
    atomic_store(&r->segments[a]->pool->released, POOL_RING);
    expect_places(r, p, 0, 1);
    assert_int_equal(atomic_load(&r->segments[a]->outbox->collected), POOL_RING);
    assert_int_equal(engine_row(&r->engine, a)->state, ROW_LIVE);
    rig_release(r, a, name);
    expect_places(r, p, 1, 0);
}

/* ---- How much a session holds ---- */

static void S7_a_session_holds_so_many_and_gets_more_when_it_gave_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    static uint64_t names[POOL_HELD + 76];
    const uint32_t total = POOL_HELD + 76;
    uint32_t n = 0;
    struct wire_frame f;

    r->settings.pool_max = r->engine.settings.pool_max = UINT64_C(1) << 32;
    for (uint32_t i = 0; i < total; i++) {
        publish(r, p, "t", 1 + i);
        if (i % 100 == 0)
            rig_turn(r);
    }
    for (bool more = true; more;) {
        rig_turn(r);
        for (more = false; rig_read(r, a, &f); more = true)
            names[n++] = f.slot.name;
    }
    assert_int_equal(n, POOL_HELD);
    assert_true(pools_listen(&r->engine));
    rig_begin(r, a); /* answers are no matter of this */
    rig_add_text(r, WIRE_UNSUBSCRIBE, 0, 5, "x");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_NOT_SUBSCRIBED, 5, 1);
    for (uint32_t i = 0; i < POOL_HELD / 2; i++)
        rig_release(r, a, names[i]);
    for (bool more = true; more;) {
        rig_turn(r);
        for (more = false; rig_read(r, a, &f); more = true)
            names[n++] = f.slot.name;
    }
    assert_int_equal(n, total);
    assert_false(pools_listen(&r->engine));
    for (uint32_t i = POOL_HELD / 2; i < total; i++)
        rig_release(r, a, names[i]);
    expect_places(r, p, total, 0);
}

static void S7_a_session_holds_half_of_the_largest_pool_or_one_message(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct wire_slot slots[3];
    uint64_t name;

    for (int i = 0; i < 3; i++) {
        slots[i] = put(r, p, 1 + (uint64_t)i);
        slots[i].size = SEGMENTS_POOL / 4 * (i == 0 ? 3 : 1); /* no rig looks at the end of it */
        publish_with(r, p, "t", 0, 0, &slots[i]);
    }
    rig_publish(r, p, 5, "t", "behind them");
    rig_publish(r, p, 7, "t", "above them");
    rig_turn(r);
    expect_message(r, a, "t", "above them");
    name = expect_pooled(r, a, 1); /* too much, but the only one */
    expect_nothing(r, a);
    rig_turn(r);
    expect_nothing(r, a);
    rig_release(r, a, name);
    rig_turn(r);
    name = expect_pooled(r, a, 2);
    rig_release(r, a, expect_pooled(r, a, 3));
    expect_message(r, a, "t", "behind them");
    rig_release(r, a, name);
    expect_places(r, p, 3, 0);
}

/* What it could not have has expired since: it is not sated any more, and gets the rest. */
static void who_was_sated_gets_what_is_no_payload(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct wire_slot first = put(r, p, 1);
    struct wire_slot second = put(r, p, 2);
    uint64_t name;

    first.size = second.size = SEGMENTS_POOL / 4 * 3;
    publish_with(r, p, "t", 0, 0, &first);
    publish_with(r, p, "t", 0, r->engine.now + 1000, &second);
    rig_turn(r);
    name = expect_pooled(r, a, 1);
    assert_true(pools_listen(&r->engine));
    r->engine.now += RIG_SECOND;
    life_tick(&r->engine);
    rig_message(r, p,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = 9,
                                      .expiry = r->engine.now + 1000,
                                      .topic = "t",
                                      .payload = "not in time"});
    rig_publish(r, p, 5, "t", "below it");
    r->engine.now += 2000; /* no deadline is looked at so often */
    rig_turn(r);
    expect_message(r, a, "t", "below it");
    assert_false(pools_listen(&r->engine));
    rig_release(r, a, name);
    expect_places(r, p, 2, 0);
}

/* It is charged while somebody reads it, like what waits (P4). */
static void P4_what_is_held_is_charged_to_its_publisher(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t name;

    publish(r, p, "t", 11);
    rig_turn(r);
    name = expect_pooled(r, a, 11);
    assert_int_equal(r->engine.sessions[p].charged, WIRE_CELL_SIZE);
    rig_release(r, a, name);
    rig_turn(r);
    assert_int_equal(r->engine.sessions[p].charged, 0);
    rig_look(r, p);
}

/* ---- Retained messages ---- */

static void a_kept_message_keeps_its_place_until_it_is_replaced(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    struct wire_slot first = put(r, p, 1);
    struct wire_slot second = put(r, p, 2);

    publish_with(r, p, "k", WIRE_F_RETAIN, 0, &first);
    expect_places(r, p, 0, 2);
    assert_true(r->engine.retained_bytes == WIRE_CELL_SIZE + SEGMENTS_PLACE);
    publish_with(r, p, "k", WIRE_F_RETAIN, 0, &second);
    expect_places(r, p, 1, 1);
    rig_message(r, p,
                &(struct rig_message){
                    .type = WIRE_PUBLISH, .priority = 5, .flags = WIRE_F_RETAIN, .topic = "k"});
    expect_places(r, p, 1, 0);
    assert_int_equal(r->engine.retained_bytes, 0);
}

static void a_kept_message_that_is_read_keeps_its_place_until_it_is_given_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_session(r, "a");
    struct wire_slot first = put(r, p, 1);
    struct wire_slot second = put(r, p, 2);
    struct wire_frame f;

    publish_with(r, p, "k", WIRE_F_RETAIN, 0, &first);
    rig_begin(r, a);
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 4, "k");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_OK, 4, 1);
    f = expect_frame(r, a, WIRE_MESSAGE);
    assert_int_equal(f.flags, WIRE_F_POOLED | WIRE_F_RETAIN);
    assert_int_equal(rig_payload(r, &f), 1);
    publish_with(r, p, "k", WIRE_F_RETAIN, 0, &second);
    expect_places(r, p, 0, 2);
    rig_release(r, a, f.slot.name);
    expect_places(r, p, 1, 1);
    rig_release(r, a, expect_pooled(r, a, 2));
    expect_places(r, p, 0, 1); /* is kept */
}

static void what_finds_no_room_to_be_kept_comes_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "b");
    struct wire_slot slot = put(r, p, 1);

    slot.size = (uint32_t)r->settings.retained_size;
    publish_with(r, p, "a", WIRE_F_RETAIN | WIRE_F_CONFIRM, 0, &slot);
    expect_places(r, p, 1, 0);
    expect_answer(r, p, WIRE_C_RETAINED_FULL, 7, 1);

    slot = put(r, p, 2);
    slot.size = (uint32_t)r->settings.retained_size;
    publish_with(r, p, "b", WIRE_F_RETAIN, 0, &slot); /* but there is somebody who reads it */
    expect_places(r, p, 0, 1);
    rig_release(r, a, expect_pooled(r, a, 2));
    expect_places(r, p, 1, 0);
}

static void a_kept_message_whose_time_is_over_gives_its_place_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    struct wire_slot slot = put(r, p, 1);

    publish_with(r, p, "k", WIRE_F_RETAIN, r->engine.now + RIG_SECOND, &slot);
    expect_places(r, p, 0, 1);
    r->engine.now += 2 * RIG_SECOND;
    life_tick(&r->engine);
    expect_places(r, p, 1, 0);
}

/* ---- Requests ---- */

static void a_request_that_was_answered_is_read_until_it_is_given_back(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");

    for (int first = 0; first < 2; first++) { /* reply first, or release first */
        uint64_t name, number;
        struct wire_frame f;

        request(r, c, "t", 11);
        rig_turn(r);
        f = expect_frame(r, s, WIRE_MESSAGE);
        assert_int_equal(f.flags, WIRE_F_POOLED | WIRE_F_REQUEST);
        assert_int_equal(rig_payload(r, &f), 11);
        name = f.slot.name;
        number = f.number;
        assert_int_equal(name, number);
        if (first == 0)
            rig_reply(r, s, number, "done");
        else
            rig_release(r, s, name);
        expect_places(r, c, 0, 1);
        expect_sound(r);
        if (first == 0)
            rig_release(r, s, name);
        else
            rig_reply(r, s, number, "done");
        expect_places(r, c, 1, 0);
        expect_message(r, c, "", "done");
        rig_reply(r, s, number, "again");
        rig_release(r, s, name);
        expect_places(r, c, 0, 0);
        expect_nothing(r, c);
    }
}

/* Its name is no name of a payload. */
static void a_request_without_a_place_cannot_be_given_back(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");
    uint64_t name;

    rig_request(r, c, "t", 3, r->engine.now + RIG_SECOND);
    rig_turn(r);
    name = expect_frame(r, s, WIRE_MESSAGE).number;
    rig_release(r, s, name);
    pools_look_at(&r->engine, s);
    rig_turn(r);
    rig_reply(r, s, name, "still owed");
    rig_turn(r);
    expect_message(r, c, "", "still owed");
}

static void a_second_reply_to_a_request_that_is_still_held_is_stray(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");
    struct wire_frame f;

    request(r, c, "t", 11);
    rig_turn(r);
    f = expect_frame(r, s, WIRE_MESSAGE);
    rig_reply(r, s, f.number, "one");
    rig_reply(r, s, f.number, "two");
    rig_turn(r);
    expect_message(r, c, "", "one");
    expect_nothing(r, c);
    assert_int_equal(board_get(&r->memory.board->refusals.stray), 1);
    rig_release(r, s, f.slot.name);
    expect_places(r, c, 1, 0);
}

static void the_timeout_of_a_request_takes_nothing_from_who_reads_it(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");
    struct wire_frame f;

    request(r, c, "t", 11);
    rig_turn(r);
    f = expect_frame(r, s, WIRE_MESSAGE);
    r->engine.now += 2 * RIG_SECOND;
    life_tick(&r->engine);
    expect_places(r, c, 0, 1);
    assert_int_equal(rig_payload(r, &f), 11);
    rig_reply(r, s, f.number, "too late");
    rig_turn(r);
    assert_int_equal(board_get(&r->memory.board->refusals.stray), 1);
    rig_release(r, s, f.slot.name);
    expect_places(r, c, 1, 0);
}

static void a_request_nobody_took_gives_its_place_back_with_the_answer(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");

    request(r, c, "nobody", 11);
    expect_places(r, c, 1, 0);
    expect_answer(r, c, WIRE_C_NO_SUBSCRIBER, 3, 1);
    request(r, c, "t", 12);
    rig_turn(r);
    rig_kill(r, s);
    expect_places(r, c, 1, 0);
    expect_answer(r, c, WIRE_C_PEER_DIED, 3, 1);
}

static void a_reply_lies_in_the_servers_pool(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");
    struct wire_frame f;

    rig_request(r, c, "t", 3, r->engine.now + RIG_SECOND);
    rig_turn(r);
    f = expect_frame(r, s, WIRE_MESSAGE);
    reply(r, s, f.number, 21);
    reply(r, s, f.number, 22); /* stray: comes back */
    expect_places(r, s, 1, 1);
    f = expect_frame(r, c, WIRE_MESSAGE);
    assert_int_equal(f.flags, WIRE_F_POOLED | WIRE_F_REPLY);
    assert_int_equal(f.number, 3);
    assert_int_equal(rig_payload(r, &f), 21);
    rig_release(r, c, f.slot.name);
    expect_places(r, s, 1, 0);
}

static void a_reply_to_one_who_has_gone_comes_back(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");
    struct wire_frame f;

    request(r, c, "t", 11);
    rig_turn(r);
    f = expect_frame(r, s, WIRE_MESSAGE);
    rig_kill(r, c);
    reply(r, s, f.number, 21);
    expect_places(r, s, 1, 0);
    assert_int_equal(rig_payload(r, &f), 11); /* it reads the dead one's pool still */
    rig_release(r, s, f.slot.name);
    rig_turn(r);
    assert_null(rig_pool(r, f.slot.pool));
}

/* ---- Ends ---- */

static void L1_what_a_dead_receiver_had_comes_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");

    for (uint64_t i = 0; i < 30; i++)
        publish(r, p, "t", i);
    rig_turn(r);
    for (uint64_t i = 0; i < 20; i++)
        expect_pooled(r, a, i);
    block(r, a);
    publish(r, p, "t", 99);
    expect_places(r, p, 0, 31);
    rig_kill(r, a);
    expect_places(r, p, 31, 0);
}

static void a_pool_that_nobody_needs_goes_with_its_session(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t nonce = r->segments[p]->nonce;

    publish(r, p, "t", 1);
    rig_turn(r);
    rig_release(r, a, expect_pooled(r, a, 1));
    rig_turn(r);
    assert_non_null(rig_pool(r, nonce));
    rig_kill(r, p);
    assert_null(rig_pool(r, nonce));
    assert_int_equal(r->engine.n_orphans, 0);
}

static void a_dead_publishers_pool_goes_with_the_last_that_needs_it(void **state)
{
    struct rig *r = *state;

    for (int restarts = 0; restarts < 2; restarts++) {
        uint16_t p = expect_session(r, "p");
        uint16_t a = expect_subscriber(r, "a", "t");
        uint64_t nonce = r->segments[p]->nonce;
        struct wire_slot kept = put(r, p, 3);
        uint64_t name;

        publish_with(r, p, "k", WIRE_F_RETAIN, 0, &kept);
        publish(r, p, "t", 1);
        rig_turn(r);
        name = expect_pooled(r, a, 1);
        r->queues[a].refuse = 1;
        publish(r, p, "t", 2);
        rig_kill(r, p);
        if (restarts)
            assert_int_equal(rig_restart(r), 0);
        assert_int_equal(r->engine.n_orphans, 1);
        assert_true(pools_listen(&r->engine));
        rig_turn(r);
        rig_release(r, a, name);
        rig_release(r, a, expect_pooled(r, a, 2)); /* also to be had after its end */
        rig_turn(r);
        assert_non_null(rig_pool(r, nonce)); /* for who may subscribe to k */
        rig_message(r, a,
                    &(struct rig_message){
                        .type = WIRE_PUBLISH, .priority = 5, .flags = WIRE_F_RETAIN, .topic = "k"});
        rig_turn(r);
        assert_null(rig_pool(r, nonce));
        assert_int_equal(r->engine.n_orphans, 0);
        assert_int_equal(r->engine.unlinked.n, 0);
        assert_false(pools_listen(&r->engine));
        rig_kill(r, a);
    }
}

/* Whoever gets a dead publisher's row has nothing to do with its pool. */
static void S7_the_next_owner_of_a_row_gets_nothing_of_the_last_ones(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t p = expect_session(r, "p");
    uint64_t name;
    uint16_t q;

    publish(r, p, "t", 1);
    rig_turn(r);
    name = expect_pooled(r, a, 1);
    rig_kill(r, p);
    for (q = expect_session(r, ""); q != p;)
        q = expect_session(r, "");
    rig_release(r, a, name);
    expect_places(r, q, 0, 0);
    assert_int_equal(atomic_load(&r->segments[q]->outbox->returned), 0);
}

/* The broker ends a session, not a process: what that reads stays as it is. */
static void S7_who_was_ended_keeps_what_it_reads(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");

    for (int how = 0; how < 3; how++) {
        uint16_t a = expect_subscriber(r, "a", "t");
        struct segments *mine = r->segments[a];
        struct wire_frame f, g;

        publish(r, p, "t", 1);
        publish(r, p, "t", 2);
        rig_turn(r);
        f = expect_frame(r, a, WIRE_MESSAGE);
        g = expect_frame(r, a, WIRE_MESSAGE);
        f.bytes = g.bytes = NULL;
        life_leave(&r->engine, a, WIRE_C_KICKED);
        life_quiet(&r->engine);
        expect_places(r, p, 0, 2);
        assert_int_equal(engine_row(&r->engine, a)->state, ROW_ENDING);
        assert_int_equal(rig_payload(r, &f), 1);
        if (how == 1) {
            assert_int_equal(rig_restart(r), 0);
            life_quiet(&r->engine);
            expect_places(r, p, 0, 2);
        }
        if (how == 2) {
            rig_kill(r, a);
        } else {
            segments_release(mine, g.slot.name);
            expect_places(r, p, 1, 1);
            assert_int_equal(engine_row(&r->engine, a)->state, ROW_ENDING);
            segments_release(mine, f.slot.name);
            rig_turn(r);
        }
        assert_int_equal(engine_row(&r->engine, a)->state, ROW_FREE);
        expect_places(r, p, how == 2 ? 2 : 1, 0);
    }
}

/* A batch may have gone when the broker died, and before that is known the next ends the session.
 */
static void S7_who_was_ended_in_doubt_keeps_what_it_may_read(void **state)
{
    struct rig *r = *state;

    for (int gone = 0; gone < 2; gone++) {
        uint16_t p = expect_session(r, "p");
        uint16_t a = expect_subscriber(r, "a", "t");
        struct pump_batch batch;
        struct wire_frame f;

        publish(r, p, "t", 1);
        pump_room(&r->engine, a, RIG_DEPTH);
        assert_int_equal(pump_next(&r->engine, a, &batch), PUMP_BATCH);
        if (gone)
            assert_true(rig_queue_put(r, a, &batch));
        assert_int_equal(rig_restart(r), 0);
        if (gone) {
            f = expect_frame(r, a, WIRE_MESSAGE);
            assert_int_equal(rig_payload(r, &f), 1);
        }
        life_leave(&r->engine, a, WIRE_C_KICKED);
        life_quiet(&r->engine);
        expect_places(r, p, 0, 1);
        if (gone)
            segments_release(r->segments[a], f.slot.name);
        else
            life_died(&r->engine, a); /* it cannot give back what it never got */
        expect_places(r, p, 1, 0);
        assert_int_equal(engine_row(&r->engine, a)->state, ROW_FREE);
        rig_kill(r, p);
    }
}

/* It lingered, then it died, and what it sent meanwhile is received before its row is free. */
static void L1_what_is_sent_after_the_end_is_nobodys(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t rejected = board_get(&r->engine.board->rejects.session);

    publish(r, p, "t", 1);
    rig_turn(r);
    expect_pooled(r, a, 1);
    life_leave(&r->engine, a, WIRE_C_KICKED);
    life_quiet(&r->engine);
    rig_carry_out(r);
    assert_int_equal(engine_row(&r->engine, a)->state, ROW_ENDING);
    life_died(&r->engine, a);
    rig_begin(r, a);
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 7, "#");
    rig_send(r);
    assert_int_equal(board_get(&r->engine.board->rejects.session), rejected + 1);
    rig_carry_out(r);
    assert_int_equal(engine_row(&r->engine, a)->state, ROW_FREE);
    assert_int_equal(r->engine.sessions[a].n_waiting, 0);
    assert_int_equal(r->engine.filters.n, 0);
}

static void who_says_goodbye_has_put_down_what_it_read(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");

    publish(r, p, "t", 1);
    rig_turn(r);
    expect_pooled(r, a, 1);
    rig_bye(r, a);
    life_quiet(&r->engine);
    expect_places(r, p, 1, 0);
    assert_int_equal(engine_row(&r->engine, a)->state, ROW_FREE);
}

static void a_pool_has_one_session(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint8_t frame[64];
    uint8_t envelope[128];
    static const uint8_t no_token[WIRE_TOKEN_SIZE];
    size_t size = wire_put_register(frame, 0, 4444, 1, 1, r->segments[a]->nonce, "", 0);

    wire_put_envelope(envelope, WIRE_NO_SESSION, no_token, (uint32_t)(WIRE_ENVELOPE_SIZE + size));
    memcpy(envelope + WIRE_ENVELOPE_SIZE, frame, size);
    rig_route(r, envelope, WIRE_ENVELOPE_SIZE + size);
    assert_int_equal(rig_posted(r, 4444), WIRE_C_BAD_POOL);
    assert_int_equal(r->engine.making.n, 0);
}

/* The broker is killed when it has unlinked a dead session's pool, and before its row is free. */
static void S7_a_slot_of_the_ledger_is_free_when_its_last_row_is(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint32_t slot = engine_row(&r->engine, a)->pool_slot;
    uint16_t b;

    life_died(&r->engine, a);
    life_quiet(&r->engine);
    pools_gone(&r->engine, slot);
    assert_int_equal(rig_restart(r), 0);
    b = expect_session(r, "b");
    assert_int_not_equal(engine_row(&r->engine, b)->pool_slot, slot);
    life_quiet(&r->engine);
    rig_turn(r);
    assert_int_equal(engine_row(&r->engine, a)->state, ROW_FREE);
    assert_non_null(rig_pool(r, r->segments[b]->nonce));
    b = expect_session(r, "c");
    assert_int_equal(engine_row(&r->engine, b)->pool_slot, slot);
}

static void there_is_an_end_to_pools_of_the_dead(void **state)
{
    struct rig *r = *state;
    uint64_t *nonces = ledger_pools(r->engine.ledger);

    for (uint32_t i = 0; i < r->engine.n_pools; i++)
        nonces[i] = 1000000 + i;
    rig_register(r, 4444, "a", 0);
    assert_int_equal(rig_posted(r, 4444), WIRE_C_POOLS_FULL);
    nonces[77] = 0;
    rig_register(r, 4445, "a", 0);
    rig_carry_out(r);
    assert_int_equal(rig_posted(r, 4445), -1); /* nothing against it: its WELCOME is on the way */
    rig_turn(r);
    assert_int_equal(rig_posted(r, 4445), WIRE_C_OK);
    for (uint32_t i = 0; i < r->engine.n_pools; i++)
        nonces[i] = i == 77 ? nonces[i] : 0;
}

/* ---- Who waits for space ---- */

/* A publisher whose pool is full, and one who has all of it. */
static void fill(struct rig *r, uint16_t p, uint16_t a, uint64_t *names, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        publish(r, p, "t", 1 + i);
    rig_turn(r);
    for (uint32_t i = 0; i < n; i++)
        names[i] = expect_pooled(r, a, 1 + i);
    rig_turn(r);
    rig_drain(r, p);
}

static void P5_who_waits_for_places_is_woken_when_as_many_came_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t names[4];

    fill(r, p, a, names, 4);
    assert_false(pools_listen(&r->engine));
    atomic_store(&r->segments[p]->pool->wants, 2);
    rig_turn(r);
    assert_true(pools_listen(&r->engine));
    rig_release(r, a, names[0]);
    rig_turn(r);
    assert_int_equal(r->queues[p].n, 0);
    rig_release(r, a, names[1]);
    rig_turn(r);
    assert_int_equal(r->queues[p].n, 1); /* a batch without frames */
    assert_int_equal(rig_drain(r, p), 0);
    assert_false(pools_listen(&r->engine));
    rig_release(r, a, names[2]);
    rig_turn(r);
    assert_int_equal(r->queues[p].n, 0); /* once */
    atomic_store(&r->segments[p]->pool->wants, 0);
    rig_release(r, a, names[3]);
    expect_places(r, p, 4, 0);
}

static void P5_who_comes_too_late_to_wait_is_woken_at_once(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t names[4];

    fill(r, p, a, names, 4);
    rig_release(r, a, names[0]);
    rig_turn(r);
    atomic_store(&r->segments[p]->pool->wants, 1);
    rig_turn(r);
    assert_int_equal(r->queues[p].n, 1);
    for (int i = 1; i < 4; i++)
        rig_release(r, a, names[i]);
    expect_places(r, p, 4, 0);
}

static void P5_who_gave_up_waiting_is_forgotten(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t names[4];

    fill(r, p, a, names, 4);
    atomic_store(&r->segments[p]->pool->wants, 2);
    rig_turn(r);
    assert_true(pools_listen(&r->engine));
    atomic_store(&r->segments[p]->pool->wants, 0);
    rig_turn(r);
    assert_false(pools_listen(&r->engine));
    for (int i = 0; i < 4; i++)
        rig_release(r, a, names[i]);
    expect_places(r, p, 4, 0);
    assert_int_equal(r->queues[p].n, 0);
}

static void P5_a_start_wakes_who_waits_for_places(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t names[4];

    fill(r, p, a, names, 4);
    atomic_store(&r->segments[p]->pool->wants, 1);
    rig_turn(r);
    rig_release(r, a, names[0]);
    pools_collect(&r->engine); /* the place is back; it dies before it wakes anybody */
    assert_int_equal(r->queues[p].n, 0);
    assert_int_equal(rig_restart(r), 0);
    rig_turn(r);
    assert_int_equal(r->queues[p].n, 1);
    for (int i = 1; i < 4; i++)
        rig_release(r, a, names[i]);
    expect_places(r, p, 4, 0);
}

/* Who waits for places counts as out of room: P7 lets others not wait for ever for a receiver that
 * does not read. */
static void P7_who_reads_nothing_does_not_keep_a_pool_full(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");

    block(r, a);
    for (uint32_t i = 0; i < 4; i++)
        publish(r, p, "t", 1 + i);
    rig_turn(r);
    atomic_store(&r->segments[p]->pool->wants, 1);
    for (int i = 0; i < 20; i++) {
        rig_turn(r);
        r->engine.now += RIG_SECOND;
        life_tick(&r->engine);
    }
    rig_turn(r);
    assert_true(rig_look(r, p) > 0);
    assert_true(engine_row(&r->engine, a)->missed > 0);
}

/* ---- After a kill ---- */

static void K1_a_start_knows_who_holds_what(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");
    uint64_t names[2];

    publish(r, p, "t", 1);
    rig_turn(r);
    names[0] = expect_pooled(r, a, 1);
    names[1] = expect_pooled(r, b, 1);
    rig_release(r, a, names[0]); /* not collected yet */
    assert_int_equal(rig_restart(r), 0);
    expect_sound(r);
    expect_places(r, p, 0, 1);
    assert_int_equal(rig_restart(r), 0);
    rig_release(r, a, names[0]);
    expect_places(r, p, 0, 1);
    rig_release(r, b, names[1]);
    assert_int_equal(rig_restart(r), 0);
    expect_places(r, p, 1, 0);
}

static void K1_what_a_landing_returns_comes_back_after_its_death(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    struct wire_slot slot = put(r, p, 1);

    rig_begin(r, p);
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "nobody", .slot = &slot});
    wire_store32(r->envelope + WIRE_AT_ENVELOPE_LENGTH, (uint32_t)r->envelope_size);
    rig_land(r, r->envelope, r->envelope_size); /* before it was routed */
    assert_int_equal(rig_restart(r), 0);
    expect_places(r, p, 1, 0);

    slot = put(r, p, 2);
    rig_begin(r, p);
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "nobody", .slot = &slot});
    wire_store32(r->envelope + WIRE_AT_ENVELOPE_LENGTH, (uint32_t)r->envelope_size);
    rig_land(r, r->envelope, r->envelope_size); /* after its commit: what is to do stands there */
    r->engine.landing->row = p;
    r->engine.landing->received = engine_row(&r->engine, p)->received;
    r->engine.landing->n_returns = 1;
    r->engine.landing->returns[0] = pools_place(&slot);
    r->engine.ledger->header.committed++;
    assert_int_equal(rig_restart(r), 0);
    expect_places(r, p, 1, 0);
}

/* A death between the two leaves a place handed back and a delivery that says it is needed. */
static void S7_a_place_handed_back_twice_is_taken_once(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t name;

    publish(r, p, "t", 1);
    rig_turn(r);
    name = expect_pooled(r, a, 1);
    pools_hand_back(&r->engine, p, (uint64_t)(POOL_PAYLOADS / WIRE_SLOT_UNIT) << 32 | 1);
    assert_int_equal(rig_look(r, p), 1);
    publish(r, p, "t", 2); /* in the same place */
    rig_release(r, a, name);
    rig_turn(r);
    assert_int_equal(rig_look(r, p), 0);
    assert_int_equal(r->segments[p]->n_repeats, 1);
    rig_release(r, a, expect_pooled(r, a, 2));
    rig_turn(r);
    assert_int_equal(rig_look(r, p), 1);
}

/* A name that comes back tells that the batch had gone, like a reply. */
static void K3_a_release_settles_the_doubt(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pump_batch batch;
    uint64_t name;

    publish(r, p, "t", 1);
    rig_turn(r);
    name = expect_pooled(r, a, 1); /* so that its ring is looked at */
    publish(r, p, "t", 2);
    publish(r, p, "t", 3);
    pump_room(&r->engine, a, RIG_DEPTH);
    assert_int_equal(pump_next(&r->engine, a, &batch), PUMP_BATCH);
    assert_true(rig_queue_put(r, a, &batch));
    assert_int_equal(rig_restart(r), 0);
    rig_release(r, a, expect_pooled(r, a, 2));
    expect_places(r, p, 1, 2);
    rig_release(r, a, expect_pooled(r, a, 3));
    rig_release(r, a, name);
    expect_places(r, p, 2, 0);
    expect_nothing(r, a);
    assert_int_equal(r->queues[a].n_repeats, 0); /* it was not sent again */
}

/* ---- Copies ---- */

static void what_is_held_is_lent(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");
    struct wire_frame f, lent;
    uint64_t name, others[16];
    uint32_t n = 0;

    publish(r, p, "t", 1);
    rig_turn(r);
    f = expect_frame(r, a, WIRE_MESSAGE);
    name = f.slot.name;
    rig_fetch(r, a, name);
    rig_carry_out(r);
    assert_int_equal(r->engine.sessions[a].charged, 0); /* its window is for what it publishes */
    rig_turn(r);
    lent = expect_frame(r, a, WIRE_LENT);
    assert_int_equal(r->queues[a].header.level, WIRE_CONTROL);
    assert_int_equal(lent.code, WIRE_C_OK);
    assert_int_equal(lent.number, name);
    assert_int_equal(lent.lent_offset, OUTBOX_COPIES);
    assert_int_equal(lent.lent_size, SEGMENTS_PLACE);
    expect_places(r, p, 0, 1); /* until it says that it is done */

    rig_fetch(r, b, name); /* another's */
    rig_turn(r);
    assert_int_equal(expect_frame(r, b, WIRE_LENT).code, WIRE_C_NO_COPY);
    expect_pooled(r, b, 1);
    rig_release(r, a, name);
    expect_places(r, p, 0, 1);
    rig_fetch(r, a, name); /* over */
    rig_turn(r);
    lent = expect_frame(r, a, WIRE_LENT);
    assert_int_equal(lent.code, WIRE_C_NO_COPY);
    assert_int_equal(lent.number, name);
    rig_kill(r, b);
    expect_places(r, p, 1, 0);

    do { /* until another has the old one's slot */
        assert_true(n < 16);
        publish(r, p, "t", 2);
        rig_turn(r);
        others[n] = expect_pooled(r, a, 2);
    } while (others[n++] >> 40 != name >> 40);
    rig_fetch(r, a, name);
    rig_turn(r);
    assert_int_equal(expect_frame(r, a, WIRE_LENT).code, WIRE_C_NO_COPY);
    for (uint32_t i = 0; i < n; i++)
        rig_release(r, a, others[i]);
    expect_places(r, p, n, 0);
}

#define TEST(name)       cmocka_unit_test_setup_teardown(name, setup, teardown)
#define LARGE_TEST(name) cmocka_unit_test_setup_teardown(name, setup_large, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(S7_a_place_comes_back_when_its_receiver_gave_it_back),
        TEST(S7_a_place_comes_back_once_after_the_last_receiver),
        TEST(places_come_back_in_the_order_of_their_release),
        TEST(what_reaches_nobody_comes_back_at_once),
        TEST(what_is_refused_comes_back_at_once),
        TEST(S1_what_is_not_in_the_senders_pool_is_refused),
        TEST(what_expired_or_was_dropped_comes_back),
        TEST(S7_a_name_gives_back_once_and_only_what_was_held),
        TEST(S7_what_was_not_sent_cannot_be_given_back),
        TEST(S1_a_ring_that_makes_no_sense_ends_its_session),
        TEST(S1_a_ring_full_of_nonsense_costs_its_reading),
        LARGE_TEST(S7_a_session_holds_so_many_and_gets_more_when_it_gave_back),
        TEST(S7_a_session_holds_half_of_the_largest_pool_or_one_message),
        TEST(who_was_sated_gets_what_is_no_payload),
        TEST(P4_what_is_held_is_charged_to_its_publisher),
        TEST(a_kept_message_keeps_its_place_until_it_is_replaced),
        TEST(a_kept_message_that_is_read_keeps_its_place_until_it_is_given_back),
        TEST(what_finds_no_room_to_be_kept_comes_back),
        TEST(a_kept_message_whose_time_is_over_gives_its_place_back),
        TEST(a_request_that_was_answered_is_read_until_it_is_given_back),
        TEST(a_request_without_a_place_cannot_be_given_back),
        TEST(a_second_reply_to_a_request_that_is_still_held_is_stray),
        TEST(the_timeout_of_a_request_takes_nothing_from_who_reads_it),
        TEST(a_request_nobody_took_gives_its_place_back_with_the_answer),
        TEST(a_reply_lies_in_the_servers_pool),
        TEST(a_reply_to_one_who_has_gone_comes_back),
        TEST(L1_what_a_dead_receiver_had_comes_back),
        TEST(a_pool_that_nobody_needs_goes_with_its_session),
        TEST(a_dead_publishers_pool_goes_with_the_last_that_needs_it),
        TEST(S7_the_next_owner_of_a_row_gets_nothing_of_the_last_ones),
        TEST(S7_who_was_ended_keeps_what_it_reads),
        TEST(S7_who_was_ended_in_doubt_keeps_what_it_may_read),
        TEST(L1_what_is_sent_after_the_end_is_nobodys),
        TEST(who_says_goodbye_has_put_down_what_it_read),
        TEST(a_pool_has_one_session),
        TEST(S7_a_slot_of_the_ledger_is_free_when_its_last_row_is),
        TEST(there_is_an_end_to_pools_of_the_dead),
        TEST(P5_who_waits_for_places_is_woken_when_as_many_came_back),
        TEST(P5_who_comes_too_late_to_wait_is_woken_at_once),
        TEST(P5_who_gave_up_waiting_is_forgotten),
        TEST(P5_a_start_wakes_who_waits_for_places),
        TEST(P7_who_reads_nothing_does_not_keep_a_pool_full),
        TEST(K1_a_start_knows_who_holds_what),
        TEST(K1_what_a_landing_returns_comes_back_after_its_death),
        TEST(S7_a_place_handed_back_twice_is_taken_once),
        TEST(K3_a_release_settles_the_doubt),
        TEST(what_is_held_is_lent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
