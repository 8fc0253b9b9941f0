/* broker/timers: a heap of deadlines that knows where each slot stands. */
#include "broker/timers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

enum { SLOTS = 300, STEPS = 60000 };

static int setup(void **state)
{
    static struct timers t;

    *state = &t;
    return timers_init(&t, SLOTS);
}

static int teardown(void **state)
{
    timers_deinit(*state);
    return 0;
}

static void expect_first(const struct timers *t, uint32_t when, uint32_t slot)
{
    struct timers_entry first;

    assert_true(timers_first(t, &first));
    assert_int_equal(first.when, when);
    assert_int_equal(first.slot, slot);
}

static void the_earliest_comes_first(void **state)
{
    struct timers *t = *state;
    struct timers_entry first;

    assert_false(timers_first(t, &first));
    timers_set(t, 5, 30);
    timers_set(t, 6, 10);
    timers_set(t, 7, 20);
    expect_first(t, 10, 6);
    timers_clear(t, 6);
    expect_first(t, 20, 7);
    timers_clear(t, 7);
    timers_clear(t, 5);
    assert_false(timers_first(t, &first));
}

static void a_deadline_can_be_moved_both_ways(void **state)
{
    struct timers *t = *state;

    timers_set(t, 1, 10);
    timers_set(t, 2, 20);
    timers_set(t, 1, 30);
    expect_first(t, 20, 2);
    timers_set(t, 1, 5);
    expect_first(t, 5, 1);
    assert_int_equal(t->n, 2);
}

static void clearing_what_is_not_there_changes_nothing(void **state)
{
    struct timers *t = *state;

    timers_clear(t, 3);
    timers_set(t, 1, 10);
    timers_clear(t, 3);
    timers_clear(t, 1);
    timers_clear(t, 1);
    assert_int_equal(t->n, 0);
}

static void expect_heap(const struct timers *t, const uint32_t *model, uint32_t n)
{
    uint32_t first = UINT32_MAX;
    struct timers_entry entry;

    assert_int_equal(t->n, n);
    for (uint32_t i = 0; i < t->n; i++) {
        if (i > 0)
            assert_true(t->heap[(i - 1) / 2].when <= t->heap[i].when);
        assert_int_equal(t->place[t->heap[i].slot], i + 1);
        assert_int_equal(t->heap[i].when, model[t->heap[i].slot]);
    }
    for (uint32_t slot = 1; slot < SLOTS; slot++) {
        assert_int_equal(t->place[slot] != 0, model[slot] != 0);
        if (model[slot] != 0 && model[slot] < first)
            first = model[slot];
    }
    assert_int_equal(timers_first(t, &entry), n > 0);
    if (n > 0)
        assert_int_equal(entry.when, first);
}

/* The model is the deadline of each slot; 0: none. Few different deadlines, so that many are equal.
 */
static void the_heap_follows_a_model(void **state)
{
    struct timers *t = *state;
    uint32_t model[SLOTS] = {0};
    uint32_t n = 0;
    unsigned seed = 1;

    for (unsigned step = 0; step < STEPS; step++) {
        uint32_t slot = 1 + (uint32_t)rand_r(&seed) % (SLOTS - 1);
        uint32_t when = 1 + (uint32_t)rand_r(&seed) % 100;
        bool filling = step / 1000 % 2 == 0; /* nearly full and nearly empty in turn */
        bool set = rand_r(&seed) % 4 != 0 ? filling : !filling;

        n += (uint32_t)(set && model[slot] == 0) - (uint32_t)(!set && model[slot] != 0);
        model[slot] = set ? when : 0;
        if (set)
            timers_set(t, slot, when);
        else
            timers_clear(t, slot);
        expect_heap(t, model, n);
    }
}

static void deadlines_come_out_sorted(void **state)
{
    struct timers *t = *state;
    struct timers_entry first;
    uint32_t last = 0;
    uint32_t n = 0;

    for (uint32_t slot = 1; slot < SLOTS; slot++)
        timers_set(t, slot, slot * 7919 % 1009);
    while (timers_first(t, &first)) {
        assert_true(first.when >= last);
        last = first.when;
        timers_clear(t, first.slot);
        n++;
    }
    assert_int_equal(n, SLOTS - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_earliest_comes_first, setup, teardown),
        cmocka_unit_test_setup_teardown(a_deadline_can_be_moved_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(clearing_what_is_not_there_changes_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_heap_follows_a_model, setup, teardown),
        cmocka_unit_test_setup_teardown(deadlines_come_out_sorted, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
