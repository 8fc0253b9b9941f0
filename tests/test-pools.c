/* Payload pools (rules S1, S7): which places come back to their owners, when, and what nobody can
 * make of the words that clients write. How much of them there is to have: test-pool-room; what
 * becomes of them when somebody dies: test-pool-ends.
 *
 * What every test ends with (pooled_expect_places, pooled_teardown) is the property of all this: no
 * place is lost, none comes back while somebody may read it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/engine-expect.h"
#include "tests/support/engine-pooled.h"

/* ---- What comes back ---- */

static void S7_a_place_comes_back_when_its_receiver_gave_it_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t name;

    pooled_publish(r, p, "t", 11);
    pooled_expect_places(r, p, 0, 1);
    name = pooled_expect(r, a, 11);
    pooled_expect_places(r, p, 0, 1);
    assert_int_equal(board_get(&board_row(r->memory.board, a)->held), 1);
    assert_int_equal(board_get(&board_row(r->memory.board, a)->held_bytes), SEGMENTS_PLACE);
    rig_release(r, a, name);
    pooled_expect_places(r, p, 1, 0);
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
    pooled_publish(r, p, "t", 11);
    rig_turn(r);
    for (int i = 0; i < 2; i++)
        names[i] = pooled_expect(r, rows[i], 11);
    for (int i = 0; i < 2; i++)
        rig_release(r, rows[i], names[i]);
    pooled_expect_places(r, p, 0, 1); /* the third has not even read it */
    names[2] = pooled_expect(r, rows[2], 11);
    rig_release(r, rows[2], names[2]);
    pooled_expect_places(r, p, 1, 0);
}

static void places_come_back_in_the_order_of_their_release(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t names[50];

    for (int round = 0; round < 100; round++) { /* around both rings */
        for (uint32_t i = 0; i < 50; i++)
            pooled_publish(r, p, "t", 100 + i);
        rig_turn(r);
        for (uint32_t i = 0; i < 50; i++)
            names[i] = pooled_expect(r, a, 100 + i);
        for (uint32_t i = 0; i < 50; i++)
            rig_release(r, a, names[i * 7 % 50]);
        pooled_expect_places(r, p, 50, 0);
    }
    assert_int_equal(atomic_load(&r->segments[p]->outbox->returned), 5000);
    assert_int_equal(atomic_load(&r->segments[a]->outbox->collected), 5000);
}

static void what_reaches_nobody_comes_back_at_once(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");

    pooled_publish(r, p, "nobody/there", 11);
    assert_int_equal(rig_look(r, p), 1);
    assert_int_equal(r->engine.store.cell_pool.n_used, 0);
    pooled_publish(r, p, "@nobody", 12);
    pooled_expect_places(r, p, 1, 0);
}

static void what_is_refused_comes_back_at_once(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "#");
    struct wire_slot slot = pooled_put(r, p, 1);

    pooled_publish_with(r, p, "t", WIRE_F_CONFIRM, r->engine.now - 1, &slot);
    pooled_expect_places(r, p, 1, 0);
    expect_answer(r, p, WIRE_C_TIMEOUT, 7, 1);

    slot = pooled_put(r, p, 2);
    pooled_publish_with(r, p, "$SYS/x", WIRE_F_CONFIRM, 0, &slot);
    pooled_expect_places(r, p, 1, 0);
    expect_answer(r, p, WIRE_C_BAD_TOPIC, 7, 1);

    pooled_block(r, a);
    while (board_get(&r->memory.board->refusals.window) == 0)
        pooled_publish(r, p, "t", 3);
    pooled_expect_places(r, p, 1, (uint32_t)(r->engine.window / WIRE_CELL_SIZE));
    rig_kill(r, a);
    pooled_expect_places(r, p, (uint32_t)(r->engine.window / WIRE_CELL_SIZE), 0);
}

/* It has its sender's own word for where it is. */
static void S1_what_is_not_in_the_senders_pool_is_refused(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "#");
    struct wire_slot good = pooled_put(r, p, 1);
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
        pooled_publish_with(r, p, "t", WIRE_F_CONFIRM, 0, &bad[i]);
        rig_turn(r);
        expect_answer(r, p, WIRE_C_BAD_SLOT, 7, 1);
        assert_int_equal(board_get(&r->memory.board->refusals.bad_slot), i + 1);
    }
    expect_nothing(r, a);
    pooled_publish_with(r, p, "t", 0, 0, &good);
    rig_turn(r);
    rig_release(r, a, pooled_expect(r, a, 1));
    pooled_expect_places(r, p, 1, 0);
}

static void what_expired_or_was_dropped_comes_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct wire_slot slot = pooled_put(r, p, 1);

    pooled_block(r, a);
    pooled_publish_with(r, p, "t", 0, r->engine.now + 1000, &slot);
    pooled_expect_places(r, p, 0, 1);
    r->engine.now += RIG_SECOND;
    life_tick(&r->engine);
    pooled_expect_places(r, p, 1, 0);

    for (uint64_t i = 0; i < r->engine.window / WIRE_CELL_SIZE; i++)
        pooled_publish(r, p, "t", 3);
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

    pooled_publish(r, p, "t", 11);
    rig_turn(r);
    name = pooled_expect(r, a, 11);
    others = pooled_expect(r, b, 11);
    rig_release(r, a, others);
    rig_release(r, a, name + 1);
    rig_release(r, a, name ^ UINT64_C(1) << 40);
    rig_release(r, a, 0);
    rig_release(r, a, UINT64_MAX);
    rig_release(r, a, (uint64_t)4000 << 40 | 1);
    pooled_expect_places(r, p, 0, 1);
    rig_release(r, a, name);
    rig_release(r, a, name);
    pooled_expect_places(r, p, 0, 1);
    rig_release(r, b, others);
    rig_release(r, b, others);
    pooled_expect_places(r, p, 1, 0);
    pooled_publish(r, p, "t", 12); /* in the slots of the two: the old names are not theirs */
    rig_turn(r);
    rig_release(r, a, name);
    rig_release(r, b, others);
    pooled_expect_places(r, p, 0, 1);
    rig_release(r, a, pooled_expect(r, a, 12));
    rig_release(r, b, pooled_expect(r, b, 12));
    pooled_expect_places(r, p, 1, 0);
}

/* What waits has a name, too, that was told to nobody. */
static void S7_what_was_not_sent_cannot_be_given_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");

    pooled_block(r, a);
    pooled_publish(r, p, "t", 11);
    rig_turn(r);
    for (uint32_t slot = 1; slot < r->engine.store.reference_pool.high; slot++)
        rig_release(r, a, ref_name(slot, engine_reference(&r->engine, slot)->age));
    pools_look_at(&r->engine, a); /* it holds nothing yet */
    pooled_expect_places(r, p, 0, 1);
    assert_int_equal(atomic_load(&r->segments[a]->outbox->collected),
                     atomic_load(&r->segments[a]->pool->released));
    pooled_unblock(r, a);
    rig_release(r, a, pooled_expect(r, a, 11));
    pooled_expect_places(r, p, 1, 0);
}

static void S1_a_ring_that_makes_no_sense_ends_its_session(void **state)
{
    static const uint64_t counts[] = {POOL_RING + 1, UINT64_MAX, UINT64_C(1) << 63};
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");

    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        uint16_t a = expect_subscriber(r, "a", "t");
        uint8_t code;

        pooled_publish(r, p, "t", 11);
        rig_turn(r);
        pooled_expect(r, a, 11);
        atomic_store(&r->segments[a]->pool->released, counts[i]);
        rig_collect(r);
        assert_int_equal(engine_row(&r->engine, a)->state, ROW_ENDING);
        assert_true(life_wants_farewell(&r->engine, a, &code));
        assert_int_equal(code, WIRE_C_BAD_POOL);
        rig_kill(r, a);
        pooled_expect_places(r, p, 1, 0);
    }
}

/* As many as the ring holds make sense, whatever they are. */
static void S1_a_ring_full_of_nonsense_costs_its_reading(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t name;

    pooled_publish(r, p, "t", 11);
    rig_turn(r);
    name = pooled_expect(r, a, 11);
    for (uint32_t i = 0; i < POOL_RING; i++)
        atomic_store(&r->segments[a]->pool->ring[i], (uint64_t)i << 40 | i);
    atomic_store(&r->segments[a]->pool->released, POOL_RING);
    pooled_expect_places(r, p, 0, 1);
    assert_int_equal(atomic_load(&r->segments[a]->outbox->collected), POOL_RING);
    assert_int_equal(engine_row(&r->engine, a)->state, ROW_LIVE);
    rig_release(r, a, name);
    pooled_expect_places(r, p, 1, 0);
}

/* ---- Retained messages ---- */

static void a_kept_message_keeps_its_place_until_it_is_replaced(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    struct wire_slot first = pooled_put(r, p, 1);
    struct wire_slot second = pooled_put(r, p, 2);

    pooled_publish_with(r, p, "k", WIRE_F_RETAIN, 0, &first);
    pooled_expect_places(r, p, 0, 2);
    assert_true(r->engine.retained_bytes == WIRE_CELL_SIZE + SEGMENTS_PLACE);
    pooled_publish_with(r, p, "k", WIRE_F_RETAIN, 0, &second);
    pooled_expect_places(r, p, 1, 1);
    rig_message(r, p,
                &(struct rig_message){
                    .type = WIRE_PUBLISH, .priority = 5, .flags = WIRE_F_RETAIN, .topic = "k"});
    pooled_expect_places(r, p, 1, 0);
    assert_int_equal(r->engine.retained_bytes, 0);
}

static void a_kept_message_that_is_read_keeps_its_place_until_it_is_given_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_session(r, "a");
    struct wire_slot first = pooled_put(r, p, 1);
    struct wire_slot second = pooled_put(r, p, 2);
    struct wire_frame f;

    pooled_publish_with(r, p, "k", WIRE_F_RETAIN, 0, &first);
    rig_begin(r, a);
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 4, "k");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_OK, 4, 1);
    f = expect_frame(r, a, WIRE_MESSAGE);
    assert_int_equal(f.flags, WIRE_F_POOLED | WIRE_F_RETAIN);
    assert_int_equal(rig_payload(r, &f), 1);
    pooled_publish_with(r, p, "k", WIRE_F_RETAIN, 0, &second);
    pooled_expect_places(r, p, 0, 2);
    rig_release(r, a, f.slot.name);
    pooled_expect_places(r, p, 1, 1);
    rig_release(r, a, pooled_expect(r, a, 2));
    pooled_expect_places(r, p, 0, 1); /* is kept */
}

static void what_finds_no_room_to_be_kept_comes_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "b");
    struct wire_slot slot = pooled_put(r, p, 1);

    slot.size = (uint32_t)r->settings.retained_size;
    pooled_publish_with(r, p, "a", WIRE_F_RETAIN | WIRE_F_CONFIRM, 0, &slot);
    pooled_expect_places(r, p, 1, 0);
    expect_answer(r, p, WIRE_C_RETAINED_FULL, 7, 1);

    slot = pooled_put(r, p, 2);
    slot.size = (uint32_t)r->settings.retained_size;
    pooled_publish_with(r, p, "b", WIRE_F_RETAIN, 0,
                        &slot); /* but there is somebody who reads it */
    pooled_expect_places(r, p, 0, 1);
    rig_release(r, a, pooled_expect(r, a, 2));
    pooled_expect_places(r, p, 1, 0);
}

static void a_kept_message_whose_time_is_over_gives_its_place_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    struct wire_slot slot = pooled_put(r, p, 1);

    pooled_publish_with(r, p, "k", WIRE_F_RETAIN, r->engine.now + RIG_SECOND, &slot);
    pooled_expect_places(r, p, 0, 1);
    r->engine.now += 2 * RIG_SECOND;
    life_tick(&r->engine);
    pooled_expect_places(r, p, 1, 0);
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

        pooled_request(r, c, "t", 11);
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
        pooled_expect_places(r, c, 0, 1);
        expect_sound(r);
        if (first == 0)
            rig_release(r, s, name);
        else
            rig_reply(r, s, number, "done");
        pooled_expect_places(r, c, 1, 0);
        expect_message(r, c, "", "done");
        rig_reply(r, s, number, "again");
        rig_release(r, s, name);
        pooled_expect_places(r, c, 0, 0);
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

    pooled_request(r, c, "t", 11);
    rig_turn(r);
    f = expect_frame(r, s, WIRE_MESSAGE);
    rig_reply(r, s, f.number, "one");
    rig_reply(r, s, f.number, "two");
    rig_turn(r);
    expect_message(r, c, "", "one");
    expect_nothing(r, c);
    assert_int_equal(board_get(&r->memory.board->refusals.stray), 1);
    rig_release(r, s, f.slot.name);
    pooled_expect_places(r, c, 1, 0);
}

static void the_timeout_of_a_request_takes_nothing_from_who_reads_it(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");
    struct wire_frame f;

    pooled_request(r, c, "t", 11);
    rig_turn(r);
    f = expect_frame(r, s, WIRE_MESSAGE);
    r->engine.now += 2 * RIG_SECOND;
    life_tick(&r->engine);
    pooled_expect_places(r, c, 0, 1);
    assert_int_equal(rig_payload(r, &f), 11);
    rig_reply(r, s, f.number, "too late");
    rig_turn(r);
    assert_int_equal(board_get(&r->memory.board->refusals.stray), 1);
    rig_release(r, s, f.slot.name);
    pooled_expect_places(r, c, 1, 0);
}

static void a_request_nobody_took_gives_its_place_back_with_the_answer(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");

    pooled_request(r, c, "nobody", 11);
    pooled_expect_places(r, c, 1, 0);
    expect_answer(r, c, WIRE_C_NO_SUBSCRIBER, 3, 1);
    pooled_request(r, c, "t", 12);
    rig_turn(r);
    rig_kill(r, s);
    pooled_expect_places(r, c, 1, 0);
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
    pooled_reply(r, s, f.number, 21);
    pooled_reply(r, s, f.number, 22); /* stray: comes back */
    pooled_expect_places(r, s, 1, 1);
    f = expect_frame(r, c, WIRE_MESSAGE);
    assert_int_equal(f.flags, WIRE_F_POOLED | WIRE_F_REPLY);
    assert_int_equal(f.number, 3);
    assert_int_equal(rig_payload(r, &f), 21);
    rig_release(r, c, f.slot.name);
    pooled_expect_places(r, s, 1, 0);
}

static void a_reply_to_one_who_has_gone_comes_back(void **state)
{
    struct rig *r = *state;
    uint16_t c = expect_session(r, "c");
    uint16_t s = expect_subscriber(r, "s", "t");
    struct wire_frame f;

    pooled_request(r, c, "t", 11);
    rig_turn(r);
    f = expect_frame(r, s, WIRE_MESSAGE);
    rig_kill(r, c);
    pooled_reply(r, s, f.number, 21);
    pooled_expect_places(r, s, 1, 0);
    assert_int_equal(rig_payload(r, &f), 11); /* it reads the dead one's pool still */
    rig_release(r, s, f.slot.name);
    rig_turn(r);
    assert_null(rig_pool(r, f.slot.pool));
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

    pooled_publish(r, p, "t", 1);
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
    pooled_expect_places(r, p, 0, 1); /* until it says that it is done */

    rig_fetch(r, b, name); /* another's */
    rig_turn(r);
    assert_int_equal(expect_frame(r, b, WIRE_LENT).code, WIRE_C_NO_COPY);
    pooled_expect(r, b, 1);
    rig_release(r, a, name);
    pooled_expect_places(r, p, 0, 1);
    rig_fetch(r, a, name); /* over */
    rig_turn(r);
    lent = expect_frame(r, a, WIRE_LENT);
    assert_int_equal(lent.code, WIRE_C_NO_COPY);
    assert_int_equal(lent.number, name);
    rig_kill(r, b);
    pooled_expect_places(r, p, 1, 0);

    do { /* until another has the old one's slot */
        assert_true(n < 16);
        pooled_publish(r, p, "t", 2);
        rig_turn(r);
        others[n] = pooled_expect(r, a, 2);
    } while (others[n++] >> 40 != name >> 40);
    rig_fetch(r, a, name);
    rig_turn(r);
    assert_int_equal(expect_frame(r, a, WIRE_LENT).code, WIRE_C_NO_COPY);
    for (uint32_t i = 0; i < n; i++)
        rig_release(r, a, others[i]);
    pooled_expect_places(r, p, n, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        POOLED_TEST(S7_a_place_comes_back_when_its_receiver_gave_it_back),
        POOLED_TEST(S7_a_place_comes_back_once_after_the_last_receiver),
        POOLED_TEST(places_come_back_in_the_order_of_their_release),
        POOLED_TEST(what_reaches_nobody_comes_back_at_once),
        POOLED_TEST(what_is_refused_comes_back_at_once),
        POOLED_TEST(S1_what_is_not_in_the_senders_pool_is_refused),
        POOLED_TEST(what_expired_or_was_dropped_comes_back),
        POOLED_TEST(S7_a_name_gives_back_once_and_only_what_was_held),
        POOLED_TEST(S7_what_was_not_sent_cannot_be_given_back),
        POOLED_TEST(S1_a_ring_that_makes_no_sense_ends_its_session),
        POOLED_TEST(S1_a_ring_full_of_nonsense_costs_its_reading),
        POOLED_TEST(a_kept_message_keeps_its_place_until_it_is_replaced),
        POOLED_TEST(a_kept_message_that_is_read_keeps_its_place_until_it_is_given_back),
        POOLED_TEST(what_finds_no_room_to_be_kept_comes_back),
        POOLED_TEST(a_kept_message_whose_time_is_over_gives_its_place_back),
        POOLED_TEST(a_request_that_was_answered_is_read_until_it_is_given_back),
        POOLED_TEST(a_request_without_a_place_cannot_be_given_back),
        POOLED_TEST(a_second_reply_to_a_request_that_is_still_held_is_stray),
        POOLED_TEST(the_timeout_of_a_request_takes_nothing_from_who_reads_it),
        POOLED_TEST(a_request_nobody_took_gives_its_place_back_with_the_answer),
        POOLED_TEST(a_reply_lies_in_the_servers_pool),
        POOLED_TEST(a_reply_to_one_who_has_gone_comes_back),
        POOLED_TEST(what_is_held_is_lent),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
