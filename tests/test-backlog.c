/* broker/backlog: lists of references and the map of the non-empty ones. */
#include "broker/backlog.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { SLOTS = 256, STEPS = 20000 };

struct fixture {
    struct store store;
    struct backlog backlog;
};

static int setup(void **state)
{
    static struct fixture f;

    f = (struct fixture){0};
    store_init(&f.store, calloc(1, store_size(SLOTS, 2)), SLOTS, 2, SLOTS, 2);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    free(((struct fixture *)*state)->store.references);
    return 0;
}

/* The list holds exactly these, in this order, read in both directions. */
static void expect_list(const struct fixture *f, unsigned level, const uint32_t *slots, uint32_t n)
{
    const struct list *l = &f->backlog.lists[level];
    uint32_t slot = l->head;

    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(slot, slots[i]);
        slot = store_reference(&f->store, slot)->next;
    }
    assert_int_equal(slot, 0);
    slot = l->tail;
    for (uint32_t i = n; i > 0; i--) {
        assert_int_equal(slot, slots[i - 1]);
        slot = store_reference(&f->store, slot)->prev;
    }
    assert_int_equal(slot, 0);
    assert_int_equal(f->backlog.map >> level & 1, n > 0);
}

static void an_empty_backlog_has_no_highest_list(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(backlog_highest(&f->backlog), -1);
    backlog_push(&f->backlog, &f->store, 0, 1);
    assert_int_equal(backlog_highest(&f->backlog), 0);
    backlog_unlink(&f->backlog, &f->store, 0, 1);
    assert_int_equal(backlog_highest(&f->backlog), -1);
}

static void answers_stand_above_all_priorities(void **state)
{
    struct fixture *f = *state;

    backlog_push(&f->backlog, &f->store, WIRE_LEVELS - 1, 1);
    backlog_push(&f->backlog, &f->store, PERSIST_CONTROL, 2);
    assert_int_equal(backlog_highest(&f->backlog), PERSIST_CONTROL);
    backlog_unlink(&f->backlog, &f->store, PERSIST_CONTROL, 2);
    assert_int_equal(backlog_highest(&f->backlog), WIRE_LEVELS - 1);
}

static void any_place_of_a_list_can_be_taken_out(void **state)
{
    struct fixture *f = *state;

    for (uint32_t slot = 1; slot <= 5; slot++)
        backlog_push(&f->backlog, &f->store, 3, slot);
    expect_list(f, 3, (const uint32_t[]){1, 2, 3, 4, 5}, 5);
    backlog_unlink(&f->backlog, &f->store, 3, 3); /* middle */
    expect_list(f, 3, (const uint32_t[]){1, 2, 4, 5}, 4);
    backlog_unlink(&f->backlog, &f->store, 3, 1); /* head */
    expect_list(f, 3, (const uint32_t[]){2, 4, 5}, 3);
    backlog_unlink(&f->backlog, &f->store, 3, 5); /* tail */
    expect_list(f, 3, (const uint32_t[]){2, 4}, 2);
    backlog_push(&f->backlog, &f->store, 3, 1);
    expect_list(f, 3, (const uint32_t[]){2, 4, 1}, 3);
}

/* The same steps on plain arrays. */
struct model {
    uint32_t slots[BACKLOG_LISTS][SLOTS];
    uint32_t n[BACKLOG_LISTS];
    int level_of[SLOTS]; /* -1: in no list */
};

static void model_remove(struct model *m, unsigned level, uint32_t slot)
{
    uint32_t i = 0;

    while (m->slots[level][i] != slot)
        i++;
    memmove(&m->slots[level][i], &m->slots[level][i + 1],
            (m->n[level] - i - 1) * sizeof(m->slots[level][0]));
    m->n[level]--;
}

static int model_highest(const struct model *m)
{
    for (int level = BACKLOG_LISTS - 1; level >= 0; level--) {
        if (m->n[level] > 0)
            return level;
    }
    return -1;
}

static void lists_and_map_follow_a_model(void **state)
{
    static struct model m;
    struct fixture *f = *state;
    unsigned seed = 1;

    memset(m.level_of, 0xff, sizeof(m.level_of));
    for (unsigned step = 0; step < STEPS; step++) {
        uint32_t slot = 1 + (uint32_t)rand_r(&seed) % (SLOTS - 1);
        unsigned level = (unsigned)rand_r(&seed) % BACKLOG_LISTS;

        if (m.level_of[slot] >= 0) {
            level = (unsigned)m.level_of[slot];
            backlog_unlink(&f->backlog, &f->store, level, slot);
            model_remove(&m, level, slot);
            m.level_of[slot] = -1;
        } else {
            backlog_push(&f->backlog, &f->store, level, slot);
            m.slots[level][m.n[level]++] = slot;
            m.level_of[slot] = (int)level;
        }
        expect_list(f, level, m.slots[level], m.n[level]);
        assert_int_equal(backlog_highest(&f->backlog), model_highest(&m));
    }
}

/* Slots 1 to `n`, whose ages are their numbers, put in as `order` says, stand in order of age. */
static void expect_in_order(struct fixture *f, const uint32_t *order, uint32_t n)
{
    uint32_t sorted[SLOTS];

    f->backlog = (struct backlog){0};
    for (uint32_t i = 0; i < n; i++) {
        sorted[i] = i + 1;
        store_reference(&f->store, order[i])->age = order[i];
        backlog_insert(&f->backlog, &f->store, 8, order[i]);
    }
    expect_list(f, 8, sorted, n);
}

static void what_comes_back_finds_its_place_by_age(void **state)
{
    struct fixture *f = *state;
    uint32_t order[SLOTS];

    for (uint32_t n = 1; n <= 40; n++) {
        for (uint32_t i = 0; i < n; i++)
            order[i] = n - i;
        expect_in_order(f, order, n);
        srand(n);
        for (uint32_t i = n - 1; i > 0; i--) {
            uint32_t j = (uint32_t)rand() % (i + 1), held = order[i];

            order[i] = order[j];
            order[j] = held;
        }
        expect_in_order(f, order, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_empty_backlog_has_no_highest_list, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_stand_above_all_priorities, setup, teardown),
        cmocka_unit_test_setup_teardown(any_place_of_a_list_can_be_taken_out, setup, teardown),
        cmocka_unit_test_setup_teardown(lists_and_map_follow_a_model, setup, teardown),
        cmocka_unit_test_setup_teardown(what_comes_back_finds_its_place_by_age, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
