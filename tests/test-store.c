/* broker/store: cells and references over a range of memory. */
#include "broker/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { N_REFERENCES = 64, N_CELLS = 128, ACCOUNT = 7 };

struct memory {
    void *base;
    struct store store;
};

static void open_again(struct memory *m)
{
    store_init(&m->store, m->base, N_REFERENCES, N_CELLS, N_REFERENCES, N_CELLS);
}

static int setup(void **state)
{
    static struct memory m;

    m.base = calloc(1, store_size(N_REFERENCES, N_CELLS));
    open_again(&m);
    *state = &m;
    return 0;
}

static int teardown(void **state)
{
    free(((struct memory *)*state)->base);
    return 0;
}

static void fill(uint8_t *frame, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        frame[i] = (uint8_t)(i * 31 + size);
}

static uint32_t put(struct store *s, uint32_t size)
{
    uint8_t frame[WIRE_QUEUE_MAX];

    fill(frame, size);
    return store_put(s, frame, size, ACCOUNT, 99);
}

static uint32_t refer(struct store *s, uint32_t cell, uint64_t age)
{
    uint32_t slot = store_take(s);

    persist_reference(store_reference(s, slot), age, cell, 0, REF_WORD(REF_WAIT, 0, 0, 0, 0, 0));
    return slot;
}

static int adopt(struct memory *m)
{
    uint8_t marks[N_CELLS / 8] = {0};

    open_again(m);
    assert_true(sizeof(marks) >= store_marks_size(&m->store));
    return store_adopt(&m->store, marks);
}

/* ---- Cells ---- */

static void a_frame_comes_out_as_it_went_in(void **state)
{
    struct memory *m = *state;
    uint8_t in[WIRE_QUEUE_MAX];

    for (uint32_t size = 1; size <= WIRE_QUEUE_MAX; size++) {
        uint8_t *out = malloc(size); /* exactly: one byte more is seen */
        uint32_t cell = put(&m->store, size);

        fill(in, size);
        assert_int_not_equal(cell, 0);
        assert_int_equal(store_cell(&m->store, cell)->size, size);
        assert_int_equal(store_cell(&m->store, cell)->account, ACCOUNT);
        assert_int_equal(store_cell(&m->store, cell)->born, 99);
        assert_int_equal(store_cell(&m->store, cell)->refs, 0);
        assert_int_equal(store_cell(&m->store, cell)->pins, 0);
        store_get(&m->store, cell, out);
        assert_memory_equal(in, out, size);
        store_release(&m->store, cell);
        assert_int_equal(m->store.cell_pool.n_used, 0);
        free(out);
    }
}

static void a_frame_takes_exactly_the_cells_that_it_is_charged_for(void **state)
{
    static const struct {
        uint32_t size, cells;
    } sizes[] = {{1, 1},   {223, 1}, {224, 1}, {225, 2},  {476, 2},
                 {477, 3}, {728, 3}, {729, 4}, {8192, 33}};
    struct memory *m = *state;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint32_t cell = put(&m->store, sizes[i].size);

        assert_int_equal(wire_cells(sizes[i].size), sizes[i].cells);
        assert_int_equal(m->store.cell_pool.n_used, sizes[i].cells);
        store_release(&m->store, cell);
    }
}

static void frames_do_not_share_cells(void **state)
{
    struct memory *m = *state;
    uint32_t cells[8];
    uint8_t in[WIRE_QUEUE_MAX], out[WIRE_QUEUE_MAX];

    for (uint32_t i = 0; i < 8; i++)
        cells[i] = put(&m->store, 200 + 300 * i);
    store_release(&m->store, cells[2]);
    store_release(&m->store, cells[5]);
    cells[2] = put(&m->store, 200 + 300 * 2);
    cells[5] = put(&m->store, 200 + 300 * 5);
    for (uint32_t i = 0; i < 8; i++) {
        fill(in, 200 + 300 * i);
        store_get(&m->store, cells[i], out);
        assert_memory_equal(in, out, 200 + 300 * i);
    }
}

static void a_full_store_takes_nothing_and_leaves_nothing_behind(void **state)
{
    struct memory *m = *state;
    uint32_t n = 0;
    struct store_pool before;

    while (put(&m->store, 225) != 0) /* two cells each; an odd one is left */
        n++;
    assert_int_equal(n, (N_CELLS - 1) / 2);
    assert_int_equal(store_pool_ready(&m->store.cell_pool), 1);
    assert_int_equal(store_pool_room(&m->store.cell_pool), 1);
    before = m->store.cell_pool;
    assert_int_equal(put(&m->store, 225), 0);
    assert_memory_equal(&before, &m->store.cell_pool, sizeof(before));
    assert_int_not_equal(put(&m->store, 224), 0);
    assert_int_equal(put(&m->store, 1), 0);
}

/* ---- References ---- */

static void the_newest_freed_slot_is_taken_first(void **state)
{
    struct memory *m = *state;
    uint32_t a = store_take(&m->store);
    uint32_t b = store_take(&m->store);
    uint32_t c = store_take(&m->store);

    assert_int_equal(a, 1); /* slot 0 is nobody's */
    store_free(&m->store, a);
    store_free(&m->store, c);
    store_free(&m->store, b);
    assert_int_equal(store_take(&m->store), b);
    assert_int_equal(store_take(&m->store), c);
    assert_int_equal(store_take(&m->store), a);
    assert_int_equal(store_take(&m->store), 4);
}

static void the_newest_freed_cells_are_taken_first(void **state)
{
    struct memory *m = *state;
    uint32_t a = put(&m->store, 1);
    uint32_t b = put(&m->store, 1);

    store_release(&m->store, a);
    store_release(&m->store, b);
    assert_int_equal(put(&m->store, 1), b);
    assert_int_equal(put(&m->store, 1), a);
}

static void references_run_out_and_come_back(void **state)
{
    struct memory *m = *state;
    uint32_t n = 0;
    uint32_t last = 0;

    for (uint32_t slot; (slot = store_take(&m->store)) != 0; n++)
        last = slot;
    assert_int_equal(n, N_REFERENCES - 1);
    assert_int_equal(store_pool_ready(&m->store.reference_pool), 0);
    assert_int_equal(store_pool_room(&m->store.reference_pool), 0);
    assert_int_equal(store_take(&m->store), 0);
    store_free(&m->store, last);
    assert_int_equal(store_take(&m->store), last);
}

static void only_slots_with_memory_behind_them_are_taken(void **state)
{
    struct memory *m = *state;

    store_init(&m->store, m->base, N_REFERENCES, N_CELLS, 3, 5);
    assert_int_equal(store_pool_ready(&m->store.reference_pool), 2);
    assert_int_equal(store_pool_room(&m->store.reference_pool), N_REFERENCES - 1);
    assert_int_not_equal(store_take(&m->store), 0);
    assert_int_not_equal(store_take(&m->store), 0);
    assert_int_equal(store_take(&m->store), 0);
    assert_int_equal(put(&m->store, 1000), 0); /* five cells: there are four */
    assert_int_not_equal(put(&m->store, 980), 0);
    m->store.reference_pool.allocated = 4;
    m->store.cell_pool.allocated = 6;
    assert_int_not_equal(store_take(&m->store), 0);
    assert_int_not_equal(put(&m->store, 1), 0);
    assert_int_equal(put(&m->store, 1), 0);
}

/* ---- Adoption ---- */

static void what_references_reach_is_in_use_and_nothing_else(void **state)
{
    struct memory *m = *state;
    uint32_t held = put(&m->store, 1000);
    uint32_t lost = put(&m->store, 1000); /* by a death before its reference was made */
    uint32_t gone = put(&m->store, 700);  /* by a death after its reference was freed */
    uint32_t a = refer(&m->store, held, 1);
    uint32_t b = refer(&m->store, held, 2);
    uint32_t c = refer(&m->store, gone, 3);
    uint8_t in[1000], out[1000];

    (void)lost;
    store_free(&m->store, c);
    assert_int_equal(adopt(m), 0);
    assert_int_equal(m->store.reference_pool.n_used, 2);
    assert_int_equal(m->store.cell_pool.n_used, wire_cells(1000));
    assert_int_equal(store_cell(&m->store, held)->refs, 2);
    assert_int_equal(store_cell(&m->store, held)->pins, 0);
    fill(in, 1000);
    store_get(&m->store, held, out);
    assert_memory_equal(in, out, 1000);

    /* All the rest can be taken, once. */
    for (uint32_t i = 2; i < N_REFERENCES - 1; i++) {
        uint32_t slot = store_take(&m->store);

        assert_int_not_equal(slot, 0);
        assert_true(slot != a && slot != b);
    }
    assert_int_equal(store_take(&m->store), 0);
    for (uint32_t i = wire_cells(1000); i < N_CELLS - 1; i++)
        assert_int_not_equal(put(&m->store, 224), 0);
    assert_int_equal(put(&m->store, 1), 0);
    store_get(&m->store, held, out);
    assert_memory_equal(in, out, 1000);
}

static void an_adopted_store_touches_no_fresh_memory(void **state)
{
    struct memory *m = *state;
    uint32_t first = refer(&m->store, put(&m->store, 1), 1);
    uint32_t third;

    refer(&m->store, put(&m->store, 1), 2);
    third = refer(&m->store, put(&m->store, 300), 3);
    store_free(&m->store, first);
    assert_int_equal(adopt(m), 0);
    assert_int_equal(m->store.reference_pool.high, third + 1);
    assert_int_equal(m->store.cell_pool.high, 5);
    assert_int_equal(store_take(&m->store), first); /* the lowest one first */
    assert_int_equal(store_take(&m->store), third + 1);
}

static void answers_without_bytes_reach_no_cell(void **state)
{
    struct memory *m = *state;
    uint32_t slot = store_take(&m->store);

    persist_reference(store_reference(&m->store, slot), 1, UINT32_MAX, 0,
                      REF_WORD(REF_WAIT, REF_ANSWER | REF_BARE, PERSIST_CONTROL, 0, 0, 0));
    assert_int_equal(adopt(m), 0);
    assert_int_equal(m->store.reference_pool.n_used, 1);
    assert_int_equal(m->store.cell_pool.n_used, 0);
}

static void a_damaged_chain_is_refused(void **state)
{
    struct memory *m = *state;
    uint32_t cell = put(&m->store, 700);
    uint32_t second = store_cell(&m->store, cell)->next;
    uint32_t third = store_cell(&m->store, second)->next;
    uint32_t slot = refer(&m->store, cell, 1);
    uint32_t other = refer(&m->store, put(&m->store, 300), 2);

    store_cell(&m->store, third)->next = second; /* a loop */
    assert_int_equal(adopt(m), -1);
    store_cell(&m->store, third)->next = cell;
    assert_int_equal(adopt(m), -1);
    store_cell(&m->store, third)->next = N_CELLS; /* out of the store */
    assert_int_equal(adopt(m), -1);
    store_cell(&m->store, third)->next = UINT32_MAX;
    assert_int_equal(adopt(m), -1);
    store_cell(&m->store, third)->next = 0;
    assert_int_equal(adopt(m), 0);

    store_cell(&m->store, store_reference(&m->store, other)->cell)->next = third; /* into another */
    assert_int_equal(adopt(m), -1);
    store_free(&m->store, other);
    store_reference(&m->store, slot)->cell = 0;
    assert_int_equal(adopt(m), -1);
    store_reference(&m->store, slot)->cell = N_CELLS;
    assert_int_equal(adopt(m), -1);
    store_reference(&m->store, slot)->cell = cell;
    assert_int_equal(adopt(m), 0);
}

static void cells_begin_at_a_page(void **state)
{
    (void)state;
    assert_int_equal(store_cells_offset(1), 4096);
    assert_int_equal(store_cells_offset(128), 4096);
    assert_int_equal(store_cells_offset(129), 8192);
    assert_int_equal(store_size(128, 3), 4096 + 3 * 256 + 128 * 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_frame_comes_out_as_it_went_in, setup, teardown),
        cmocka_unit_test_setup_teardown(a_frame_takes_exactly_the_cells_that_it_is_charged_for,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(frames_do_not_share_cells, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_store_takes_nothing_and_leaves_nothing_behind, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_newest_freed_slot_is_taken_first, setup, teardown),
        cmocka_unit_test_setup_teardown(the_newest_freed_cells_are_taken_first, setup, teardown),
        cmocka_unit_test_setup_teardown(references_run_out_and_come_back, setup, teardown),
        cmocka_unit_test_setup_teardown(only_slots_with_memory_behind_them_are_taken, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(what_references_reach_is_in_use_and_nothing_else, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_adopted_store_touches_no_fresh_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(answers_without_bytes_reach_no_cell, setup, teardown),
        cmocka_unit_test_setup_teardown(a_damaged_chain_is_refused, setup, teardown),
        cmocka_unit_test(cells_begin_at_a_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
