/* Payload pools (rules S7, L1, K1, K3): what becomes of places when a session ends, and of pools;
 * and when the broker dies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "tests/support/engine-expect.h"
#include "tests/support/engine-pooled.h"

/* ---- Ends ---- */

static void L1_what_a_dead_receiver_had_comes_back(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");

    for (uint64_t i = 0; i < 30; i++)
        pooled_publish(r, p, "t", i);
    rig_turn(r);
    for (uint64_t i = 0; i < 20; i++)
        pooled_expect(r, a, i);
    pooled_block(r, a);
    pooled_publish(r, p, "t", 99);
    pooled_expect_places(r, p, 0, 31);
    rig_kill(r, a);
    pooled_expect_places(r, p, 31, 0);
}

static void a_pool_that_nobody_needs_goes_with_its_session(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t nonce = r->segments[p]->nonce;

    pooled_publish(r, p, "t", 1);
    rig_turn(r);
    rig_release(r, a, pooled_expect(r, a, 1));
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
        struct wire_slot kept = pooled_put(r, p, 3);
        uint64_t name;

        pooled_publish_with(r, p, "k", WIRE_F_RETAIN, 0, &kept);
        pooled_publish(r, p, "t", 1);
        rig_turn(r);
        name = pooled_expect(r, a, 1);
        r->queues[a].refuse = 1;
        pooled_publish(r, p, "t", 2);
        rig_kill(r, p);
        if (restarts)
            assert_int_equal(rig_restart(r), 0);
        assert_int_equal(r->engine.n_orphans, 1);
        assert_true(pools_listen(&r->engine));
        rig_turn(r);
        rig_release(r, a, name);
        rig_release(r, a, pooled_expect(r, a, 2)); /* also to be had after its end */
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

    pooled_publish(r, p, "t", 1);
    rig_turn(r);
    name = pooled_expect(r, a, 1);
    rig_kill(r, p);
    for (q = expect_session(r, ""); q != p;)
        q = expect_session(r, "");
    rig_release(r, a, name);
    pooled_expect_places(r, q, 0, 0);
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

        pooled_publish(r, p, "t", 1);
        pooled_publish(r, p, "t", 2);
        rig_turn(r);
        f = expect_frame(r, a, WIRE_MESSAGE);
        g = expect_frame(r, a, WIRE_MESSAGE);
        f.bytes = g.bytes = NULL;
        life_leave(&r->engine, a, WIRE_C_KICKED);
        life_quiet(&r->engine);
        pooled_expect_places(r, p, 0, 2);
        assert_int_equal(engine_row(&r->engine, a)->state, ROW_ENDING);
        assert_int_equal(rig_payload(r, &f), 1);
        if (how == 1) {
            assert_int_equal(rig_restart(r), 0);
            life_quiet(&r->engine);
            pooled_expect_places(r, p, 0, 2);
        }
        if (how == 2) {
            rig_kill(r, a);
        } else {
            segments_release(mine, g.slot.name);
            pooled_expect_places(r, p, 1, 1);
            assert_int_equal(engine_row(&r->engine, a)->state, ROW_ENDING);
            segments_release(mine, f.slot.name);
            rig_turn(r);
        }
        assert_int_equal(engine_row(&r->engine, a)->state, ROW_FREE);
        pooled_expect_places(r, p, how == 2 ? 2 : 1, 0);
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

        pooled_publish(r, p, "t", 1);
        batch = expect_intent(r, a);
        if (gone)
            assert_true(rig_queue_put(r, a, &batch));
        assert_int_equal(rig_restart(r), 0);
        if (gone) {
            f = expect_frame(r, a, WIRE_MESSAGE);
            assert_int_equal(rig_payload(r, &f), 1);
        }
        life_leave(&r->engine, a, WIRE_C_KICKED);
        life_quiet(&r->engine);
        pooled_expect_places(r, p, 0, 1);
        if (gone)
            segments_release(r->segments[a], f.slot.name);
        else
            life_died(&r->engine, a); /* it cannot give back what it never got */
        pooled_expect_places(r, p, 1, 0);
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

    pooled_publish(r, p, "t", 1);
    rig_turn(r);
    pooled_expect(r, a, 1);
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

    pooled_publish(r, p, "t", 1);
    rig_turn(r);
    pooled_expect(r, a, 1);
    rig_bye(r, a);
    life_quiet(&r->engine);
    pooled_expect_places(r, p, 1, 0);
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

/* ---- After a kill ---- */

static void K1_a_start_knows_who_holds_what(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");
    uint64_t names[2];

    pooled_publish(r, p, "t", 1);
    rig_turn(r);
    names[0] = pooled_expect(r, a, 1);
    names[1] = pooled_expect(r, b, 1);
    rig_release(r, a, names[0]); /* not collected yet */
    assert_int_equal(rig_restart(r), 0);
    expect_sound(r);
    pooled_expect_places(r, p, 0, 1);
    assert_int_equal(rig_restart(r), 0);
    rig_release(r, a, names[0]);
    pooled_expect_places(r, p, 0, 1);
    rig_release(r, b, names[1]);
    assert_int_equal(rig_restart(r), 0);
    pooled_expect_places(r, p, 1, 0);
}

static void K1_what_a_landing_returns_comes_back_after_its_death(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    struct wire_slot slot = pooled_put(r, p, 1);

    rig_begin(r, p);
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "nobody", .slot = &slot});
    wire_store32(r->envelope + WIRE_AT_ENVELOPE_LENGTH, (uint32_t)r->envelope_size);
    rig_land(r, r->envelope, r->envelope_size); /* before it was routed */
    assert_int_equal(rig_restart(r), 0);
    pooled_expect_places(r, p, 1, 0);

    slot = pooled_put(r, p, 2);
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
    pooled_expect_places(r, p, 1, 0);
}

/* A death between the two leaves a place handed back and a delivery that says it is needed. */
static void S7_a_place_handed_back_twice_is_taken_once(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t name;

    pooled_publish(r, p, "t", 1);
    rig_turn(r);
    name = pooled_expect(r, a, 1);
    pools_hand_back(&r->engine, p, (uint64_t)(POOL_PAYLOADS / WIRE_SLOT_UNIT) << 32 | 1);
    assert_int_equal(rig_look(r, p), 1);
    pooled_publish(r, p, "t", 2); /* in the same place */
    rig_release(r, a, name);
    rig_turn(r);
    assert_int_equal(rig_look(r, p), 0);
    assert_int_equal(r->segments[p]->n_repeats, 1);
    rig_release(r, a, pooled_expect(r, a, 2));
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

    pooled_publish(r, p, "t", 1);
    rig_turn(r);
    name = pooled_expect(r, a, 1); /* so that its ring is looked at */
    pooled_publish(r, p, "t", 2);
    pooled_publish(r, p, "t", 3);
    batch = expect_intent(r, a);
    assert_true(rig_queue_put(r, a, &batch));
    assert_int_equal(rig_restart(r), 0);
    rig_release(r, a, pooled_expect(r, a, 2));
    pooled_expect_places(r, p, 1, 2);
    rig_release(r, a, pooled_expect(r, a, 3));
    rig_release(r, a, name);
    pooled_expect_places(r, p, 2, 0);
    expect_nothing(r, a);
    assert_int_equal(r->queues[a].n_repeats, 0); /* it was not sent again */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        POOLED_TEST(L1_what_a_dead_receiver_had_comes_back),
        POOLED_TEST(a_pool_that_nobody_needs_goes_with_its_session),
        POOLED_TEST(a_dead_publishers_pool_goes_with_the_last_that_needs_it),
        POOLED_TEST(S7_the_next_owner_of_a_row_gets_nothing_of_the_last_ones),
        POOLED_TEST(S7_who_was_ended_keeps_what_it_reads),
        POOLED_TEST(S7_who_was_ended_in_doubt_keeps_what_it_may_read),
        POOLED_TEST(L1_what_is_sent_after_the_end_is_nobodys),
        POOLED_TEST(who_says_goodbye_has_put_down_what_it_read),
        POOLED_TEST(a_pool_has_one_session),
        POOLED_TEST(S7_a_slot_of_the_ledger_is_free_when_its_last_row_is),
        POOLED_TEST(there_is_an_end_to_pools_of_the_dead),
        POOLED_TEST(K1_a_start_knows_who_holds_what),
        POOLED_TEST(K1_what_a_landing_returns_comes_back_after_its_death),
        POOLED_TEST(S7_a_place_handed_back_twice_is_taken_once),
        POOLED_TEST(K3_a_release_settles_the_doubt),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
