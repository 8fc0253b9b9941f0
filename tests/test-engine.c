/* broker/engine: what the parts of the engine share; here its bounds on memory. What it does with
 * references is held by test-route, test-pump and test-life. */
#include "broker/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "tests/support/engine-expect.h"

static void deadlines_are_never_early(void **state)
{
    (void)state;
    assert_int_equal(engine_when(0), 0);
    for (uint64_t expiry = 1; expiry < 100000000; expiry += 999983)
        assert_true(engine_when(expiry) * UINT64_C(10000000) >= expiry);
    assert_int_equal(engine_when(UINT64_MAX), 0); /* beyond what can be told: for ever */
    assert_int_equal(engine_when(UINT64_C(10000000) * UINT32_MAX), 0);
    assert_int_equal(engine_when(UINT64_C(10000000) * UINT32_MAX - 1), UINT32_MAX);
}

static void P6_the_window_is_half_of_the_cells_divided_by_the_rows(void **state)
{
    struct rig r;
    struct rig_options o = {.n_rows = 2, .n_cells = 4096};

    (void)state;
    assert_int_equal(rig_init(&r, &o), 0);
    assert_int_equal(r.engine.window, 4096 * 256 / 2 / 2);
    rig_deinit(&r);
    o.n_cells = 65536;
    assert_int_equal(rig_init(&r, &o), 0);
    assert_int_equal(r.engine.window, 1048576); /* and no more */
    rig_deinit(&r);
}

static void P6_below_an_eighth_free_the_normal_queue_waits(void **state)
{
    struct rig *r = *state;
    struct store_pool *cells = &r->engine.store.cell_pool;
    struct store_pool *references = &r->engine.store.reference_pool;
    uint32_t n_cells = cells->n_used;
    uint32_t n_references = references->n_used;

    assert_false(engine_is_tight(&r->engine));
    cells->n_used = cells->max - 1 - cells->max / 8;
    assert_false(engine_is_tight(&r->engine));
    cells->n_used++;
    assert_true(engine_is_tight(&r->engine));
    cells->n_used = n_cells;
    references->n_used = references->max - references->max / 8;
    assert_true(engine_is_tight(&r->engine));
    references->n_used = n_references;
}

static void P6_publishes_leave_a_sixteenth_for_control_frames(void **state)
{
    struct rig *r = *state;
    struct store_pool *cells = &r->engine.store.cell_pool;
    uint32_t n_used = cells->n_used;
    uint32_t share = cells->max / 16;

    cells->n_used = cells->max - 1 - share - 5;
    assert_int_equal(engine_free_cells(&r->engine), 5);
    cells->n_used += 5;
    assert_int_equal(engine_free_cells(&r->engine), 0);
    cells->n_used += 5;
    assert_int_equal(engine_free_cells(&r->engine), 0);
    cells->n_used = n_used;
    cells->allocated = n_used + 4; /* no more has memory behind it */
    assert_int_equal(engine_free_cells(&r->engine), 3);
    cells->allocated = cells->max;
}

/* Grown as long as the next envelope could ask for more than is ready, and there is more. */
static void memory_is_asked_for_before_it_is_needed(void **state)
{
    struct rig *r = *state;
    struct store_pool *cells = &r->engine.store.cell_pool;
    struct store_pool *references = &r->engine.store.reference_pool;

    assert_false(engine_wants_cells(&r->engine)); /* all of it is there */
    assert_false(engine_wants_references(&r->engine));
    cells->allocated = 2;
    references->allocated = 2;
    assert_true(engine_wants_cells(&r->engine));
    assert_true(engine_wants_references(&r->engine));
    assert_false(engine_has_plenty(&r->engine));
    while (engine_wants_cells(&r->engine))
        cells->allocated++;
    while (engine_wants_references(&r->engine))
        references->allocated++;
    assert_true(cells->allocated < cells->max);
    assert_true(references->allocated < references->max);
    cells->allocated = cells->max;
    references->allocated = references->max;
}

static void an_answer_for_which_there_is_no_room_is_not_made(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    struct store_pool *references = &r->engine.store.reference_pool;

    references->allocated = references->high; /* all taken but those freed */
    while (store_pool_ready(references) > 0)
        rig_subscribe(r, a, "bad+");
    rig_subscribe(r, a, "bad+");
    references->allocated = references->max;
    rig_turn(r);
    rig_drain(r, a);
    expect_sound(r);
    expect_subscribed(r, a, "t");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, expect_setup, expect_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(deadlines_are_never_early),
        cmocka_unit_test(P6_the_window_is_half_of_the_cells_divided_by_the_rows),
        TEST(P6_below_an_eighth_free_the_normal_queue_waits),
        TEST(P6_publishes_leave_a_sixteenth_for_control_frames),
        TEST(memory_is_asked_for_before_it_is_needed),
        TEST(an_answer_for_which_there_is_no_room_is_not_made),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
