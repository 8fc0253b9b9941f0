/* Payload pools (rules S7, P4, P5, P7): how much of them one session may hold, and who waits for
 * places that others hold. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/engine-expect.h"
#include "tests/support/engine-pooled.h"

/* For who holds a thousand: a window for as many. */
static int setup_large(void **state)
{
    static const struct rig_options large = {
        .n_buffers = RIG_BUFFERS, .n_cells = 65536, .n_references = 16384};

    return expect_setup_with(state, &large);
}

#define LARGE_TEST(name) cmocka_unit_test_setup_teardown(name, setup_large, pooled_teardown)

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
        pooled_publish(r, p, "t", 1 + i);
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
    pooled_expect_places(r, p, total, 0);
}

static void S7_a_session_holds_half_of_the_largest_pool_or_one_message(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct wire_slot slots[3];
    uint64_t name;

    for (int i = 0; i < 3; i++) {
        slots[i] = pooled_put(r, p, 1 + (uint64_t)i);
        slots[i].size = SEGMENTS_POOL / 4 * (i == 0 ? 3 : 1); /* no rig looks at the end of it */
        pooled_publish_with(r, p, "t", 0, 0, &slots[i]);
    }
    rig_publish(r, p, 5, "t", "behind them");
    rig_publish(r, p, 7, "t", "above them");
    rig_turn(r);
    expect_message(r, a, "t", "above them");
    name = pooled_expect(r, a, 1); /* too much, but the only one */
    expect_nothing(r, a);
    rig_turn(r);
    expect_nothing(r, a);
    rig_release(r, a, name);
    rig_turn(r);
    name = pooled_expect(r, a, 2);
    rig_release(r, a, pooled_expect(r, a, 3));
    expect_message(r, a, "t", "behind them");
    rig_release(r, a, name);
    pooled_expect_places(r, p, 3, 0);
}

/* What it could not have has expired since: it is not sated any more, and gets the rest. */
static void who_was_sated_gets_what_is_no_payload(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    struct wire_slot first = pooled_put(r, p, 1);
    struct wire_slot second = pooled_put(r, p, 2);
    uint64_t name;

    first.size = second.size = SEGMENTS_POOL / 4 * 3;
    pooled_publish_with(r, p, "t", 0, 0, &first);
    pooled_publish_with(r, p, "t", 0, r->engine.now + 1000, &second);
    rig_turn(r);
    name = pooled_expect(r, a, 1);
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
    pooled_expect_places(r, p, 2, 0);
}

/* It is charged while somebody reads it, like what waits (P4). */
static void P4_what_is_held_is_charged_to_its_publisher(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");
    uint64_t name;

    pooled_publish(r, p, "t", 11);
    rig_turn(r);
    name = pooled_expect(r, a, 11);
    assert_int_equal(r->engine.sessions[p].charged, WIRE_CELL_SIZE);
    rig_release(r, a, name);
    rig_turn(r);
    assert_int_equal(r->engine.sessions[p].charged, 0);
    rig_look(r, p);
}

/* ---- Who waits for space ---- */

/* A publisher whose pool is full, and one who has all of it. */
static void fill(struct rig *r, uint16_t p, uint16_t a, uint64_t *names, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        pooled_publish(r, p, "t", 1 + i);
    rig_turn(r);
    for (uint32_t i = 0; i < n; i++)
        names[i] = pooled_expect(r, a, 1 + i);
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
    pooled_expect_places(r, p, 4, 0);
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
    pooled_expect_places(r, p, 4, 0);
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
    pooled_expect_places(r, p, 4, 0);
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
    pooled_expect_places(r, p, 4, 0);
}

/* Who waits for places counts as out of room: P7 lets others not wait for ever for a receiver that
 * does not read. */
static void P7_who_reads_nothing_does_not_keep_a_pool_full(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t a = expect_subscriber(r, "a", "t");

    pooled_block(r, a);
    for (uint32_t i = 0; i < 4; i++)
        pooled_publish(r, p, "t", 1 + i);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        LARGE_TEST(S7_a_session_holds_so_many_and_gets_more_when_it_gave_back),
        POOLED_TEST(S7_a_session_holds_half_of_the_largest_pool_or_one_message),
        POOLED_TEST(who_was_sated_gets_what_is_no_payload),
        POOLED_TEST(P4_what_is_held_is_charged_to_its_publisher),
        POOLED_TEST(P5_who_waits_for_places_is_woken_when_as_many_came_back),
        POOLED_TEST(P5_who_comes_too_late_to_wait_is_woken_at_once),
        POOLED_TEST(P5_who_gave_up_waiting_is_forgotten),
        POOLED_TEST(P5_a_start_wakes_who_waits_for_places),
        POOLED_TEST(P7_who_reads_nothing_does_not_keep_a_pool_full),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
