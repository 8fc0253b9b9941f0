/* Knots (rule P5): who waits in vain is told, whoever may still come by room is not. On the rig,
 * whose clients say that they wait as session_wait() does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "broker/knots.h"
#include "tests/support/engine-expect.h"

static const struct rig_options usual = {.n_buffers = RIG_BUFFERS};

static int setup(void **state)
{
    return expect_setup_with(state, &usual);
}

/* A pooled message; its receivers have read it into their inboxes. */
static void give(struct rig *r, uint16_t from, const char *topic)
{
    assert_true(rig_publish_pooled(r, from, 5, topic, 1));
    rig_turn(r);
}

enum kind { WINDOW, SPACE };

/* It found no room of this kind, and says so. */
static void wait_for(struct rig *r, uint16_t row, enum kind kind)
{
    const struct segments *s = r->segments[row];
    uint64_t seen = kind == SPACE ? atomic_load(&s->outbox->returned)
                                  : board_get(&board_row(r->memory.board, row)->grant);

    atomic_store(&s->pool->waits_sent, engine_row(&r->engine, row)->received);
    atomic_store(&s->pool->waits_seen, seen);
    atomic_store(&s->pool->waits, (atomic_load(&s->pool->waits) / 2 + 1) * 2 + kind);
}

static void look(struct rig *r)
{
    rig_turn(r);
    knots_look(&r->engine);
    rig_turn(r);
}

static bool is_told(const struct rig *r, uint16_t row)
{
    uint32_t stuck = atomic_load(&board_row(r->memory.board, row)->stuck);

    return stuck != 0 && stuck == atomic_load(&r->segments[row]->pool->waits);
}

static void look_twice(struct rig *r)
{
    look(r);
    look(r);
}

static bool is_told_when_it_waits(struct rig *r, uint16_t row, enum kind kind)
{
    wait_for(r, row, kind);
    look_twice(r);
    return is_told(r, row);
}

static void who_waits_for_itself_is_told(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    give(r, a, "t");
    assert_true(is_told_when_it_waits(r, a, SPACE));
}

static void told_is_who_sleeps_by_a_batch_too(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    give(r, a, "t");
    assert_int_equal(rig_drain(r, a), 1);
    wait_for(r, a, SPACE);
    look_twice(r);
    assert_int_equal(r->queues[a].n, 1);
    look(r);
    assert_int_equal(r->queues[a].n, 1); /* once */
}

static void who_is_awake_is_not_told(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    give(r, a, "t");
    look_twice(r);
    assert_int_equal(atomic_load(&board_row(r->memory.board, a)->stuck), 0);
}

static void who_has_nothing_to_read_is_not_told(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint16_t b = expect_subscriber(r, "b", "t");

    give(r, a, "t");
    assert_false(is_told_when_it_waits(r, a, SPACE));
    give(r, b, "t"); /* b comes to wait for itself, and a for b */
    wait_for(r, b, SPACE);
    look_twice(r);
    assert_false(is_told(r, a));
    assert_true(is_told(r, b));
}

static void P5_two_who_wait_for_each_other_are_told(void **state)
{
    static const enum kind kinds[][2] = {
        {SPACE, SPACE}, {WINDOW, WINDOW}, {SPACE, WINDOW}, {WINDOW, SPACE}};
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "to/a");
    uint16_t b = expect_subscriber(r, "b", "to/b");

    give(r, a, "to/b");
    give(r, b, "to/a");
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        wait_for(r, a, kinds[i][0]);
        look_twice(r);
        assert_false(is_told(r, a));
        wait_for(r, b, kinds[i][1]);
        look_twice(r);
        assert_true(is_told(r, a));
        assert_true(is_told(r, b));
        atomic_store(&r->segments[b]->pool->waits, 2 * i); /* its call has returned */
        atomic_store(&r->segments[b]->pool->waits_seen, UINT64_MAX);
    }
}

/* b -> a -> c: c is slow. */
static void P5_a_slow_reader_is_no_knot(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "to/a");
    uint16_t b = expect_session(r, "b");
    uint16_t c = expect_subscriber(r, "c", "to/c");

    give(r, b, "to/a");
    give(r, a, "to/c");
    wait_for(r, b, SPACE);
    assert_false(is_told_when_it_waits(r, a, SPACE));
    assert_false(is_told(r, b));
    give(r, c, "to/a"); /* now there is a ring, once it waits as well */
    look_twice(r);
    assert_false(is_told(r, a));
    wait_for(r, c, SPACE);
    look_twice(r);
    assert_true(is_told(r, a));
    assert_true(is_told(r, c));
    assert_false(is_told(r, b)); /* has nothing to read */
}

static void one_who_reads_is_hope_for_all_in_a_ring(void **state)
{
    struct rig *r = *state;
    uint16_t rows[3];
    uint16_t d = expect_subscriber(r, "d", "to/0/d");

    for (int i = 0; i < 3; i++)
        rows[i] = expect_subscriber(r, (const char *[]){"a", "b", "c"}[i],
                                    (const char *[]){"to/2", "to/0/#", "to/1"}[i]);
    give(r, rows[0], "to/0/d"); /* for d as well */
    give(r, rows[1], "to/1");
    give(r, rows[2], "to/2");
    for (int i = 0; i < 3; i++)
        wait_for(r, rows[i], WINDOW);
    look_twice(r);
    for (int i = 0; i < 3; i++)
        assert_false(is_told(r, rows[i]));
    rig_kill(r, d);
    look_twice(r);
    for (int i = 0; i < 3; i++)
        assert_true(is_told(r, rows[i]));
}

static void a_knot_is_believed_when_it_was_seen_twice_in_a_row(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    give(r, a, "t");
    wait_for(r, a, SPACE);
    look(r);
    assert_false(is_told(r, a));
    wait_for(r, a, SPACE); /* has been away */
    look(r);
    assert_false(is_told(r, a));
    look(r);
    assert_true(is_told(r, a));
}

static void who_has_not_seen_the_news_is_not_told(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct pool_header *pool;

    give(r, a, "t");
    pool = r->segments[a]->pool;
    wait_for(r, a, SPACE);
    atomic_fetch_sub(&pool->waits_seen, 1); /* a place came back meanwhile */
    look_twice(r);
    assert_false(is_told(r, a));
    wait_for(r, a, WINDOW);
    atomic_fetch_sub(&pool->waits_seen, 256); /* some of its window */
    look_twice(r);
    assert_false(is_told(r, a));
    wait_for(r, a, WINDOW);
    atomic_fetch_add(&pool->waits_sent, 256); /* what it sent stands in the request queue */
    look_twice(r);
    assert_false(is_told(r, a));
    assert_true(is_told_when_it_waits(r, a, WINDOW));
}

static void what_only_charges_the_window_is_no_hope_for_space(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t c = expect_subscriber(r, "c", "slow");

    give(r, a, "t");
    while (rig_pump(r, c) != PUMP_BLOCKED)
        rig_publish(r, a, 5, "slow", "waits for room in its queue");
    assert_false(is_told_when_it_waits(r, a, WINDOW));
    assert_true(is_told_when_it_waits(r, a, SPACE));
}

static void what_is_kept_for_good_is_no_hope(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct wire_slot slot;

    assert_true(segments_put(r->segments[a], 1, SEGMENTS_PLACE, &slot));
    rig_message(r, a,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = 5,
                                      .flags = WIRE_F_RETAIN,
                                      .topic = "kept",
                                      .slot = &slot});
    give(r, a, "t");
    assert_true(is_told_when_it_waits(r, a, SPACE));
}

static void what_waits_for_who_is_sated_is_no_hope(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    for (int i = 0; i < 5; i++)
        assert_true(rig_publish_pooled(r, a, 5, "t", 1));
    r->engine.settings.pool_max = 4 * SEGMENTS_PLACE; /* it may hold two */
    rig_turn(r);
    assert_int_equal(rig_drain(r, a), 2);
    assert_int_equal(r->engine.n_sated, 1);
    assert_true(is_told_when_it_waits(r, a, SPACE));
}

static void what_time_ends_is_hope(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    struct wire_slot slot;

    give(r, a, "t");
    rig_request(r, a, "t", 1, r->engine.now + RIG_SECOND); /* it is its own server */
    assert_false(is_told_when_it_waits(r, a, WINDOW));
    r->engine.now += 2 * RIG_SECOND;
    life_tick(&r->engine);
    rig_turn(r);
    assert_true(is_told_when_it_waits(r, a, WINDOW));

    assert_true(segments_put(r->segments[a], 1, SEGMENTS_PLACE, &slot));
    rig_message(r, a,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = 5,
                                      .topic = "t",
                                      .expiry = r->engine.now + RIG_SECOND,
                                      .slot = &slot});
    r->engine.settings.pool_max = 2 * SEGMENTS_PLACE; /* it may hold no more */
    rig_turn(r);
    assert_int_equal(r->engine.n_sated, 1);
    assert_false(is_told_when_it_waits(r, a, SPACE));
}

static void join(struct rig *r, uint16_t row, uint16_t prefetch)
{
    const struct wire_frame join = {.number = 1,
                                    .prefetch = prefetch,
                                    .group = "g",
                                    .group_size = 1,
                                    .text = "t",
                                    .text_size = 1};
    uint8_t bytes[256];

    rig_begin(r, row);
    rig_add_bytes(r, bytes, wire_put_join(bytes, &join));
    rig_send(r);
    rig_turn(r);
    expect_answer(r, row, WIRE_C_OK, 1, 1);
}

static void another_member_of_a_group_is_hope(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint16_t b;

    join(r, a, 1);
    give(r, a, "t"); /* this one it has read into its inbox, */
    give(r, a, "t"); /* and this one waits for the acknowledgement of that */
    assert_true(is_told_when_it_waits(r, a, SPACE));

    b = expect_session(r, "b");
    join(r, b, 1);
    assert_false(is_told_when_it_waits(r, a, SPACE));
    wait_for(r, b, WINDOW); /* all the same: the group's messages do not charge it */
    give(r, a, "t");
    assert_true(is_told_when_it_waits(r, a, SPACE));
}

static void who_gets_the_row_next_is_told_nothing(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    give(r, a, "t");
    assert_true(is_told_when_it_waits(r, a, SPACE));
    rig_kill(r, a);
    assert_int_equal(expect_subscriber(r, "a", "t"), a);
    assert_int_equal(atomic_load(&board_row(r->memory.board, a)->stuck), 0);
}

static void it_is_looked_for_while_somebody_waits(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    assert_true(knots_next_look(&r->engine) == UINT64_MAX);
    give(r, a, "t");
    atomic_store(&r->segments[a]->pool->wants, 1);
    wait_for(r, a, SPACE);
    rig_turn(r);
    for (int i = 0; i < 2; i++) {
        assert_true(knots_next_look(&r->engine) <= r->engine.now + RIG_SECOND / 10);
        r->engine.now = knots_next_look(&r->engine);
        life_tick(&r->engine);
    }
    assert_true(is_told(r, a));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, expect_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(who_waits_for_itself_is_told),
        TEST(told_is_who_sleeps_by_a_batch_too),
        TEST(who_is_awake_is_not_told),
        TEST(who_has_nothing_to_read_is_not_told),
        TEST(P5_two_who_wait_for_each_other_are_told),
        TEST(P5_a_slow_reader_is_no_knot),
        TEST(one_who_reads_is_hope_for_all_in_a_ring),
        TEST(a_knot_is_believed_when_it_was_seen_twice_in_a_row),
        TEST(who_has_not_seen_the_news_is_not_told),
        TEST(what_only_charges_the_window_is_no_hope_for_space),
        TEST(what_is_kept_for_good_is_no_hope),
        TEST(what_waits_for_who_is_sated_is_no_hope),
        TEST(what_time_ends_is_hope),
        TEST(another_member_of_a_group_is_hope),
        TEST(who_gets_the_row_next_is_told_nothing),
        TEST(it_is_looked_for_while_somebody_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
