/* Peeking into a broker's memory: a ledger and a store in plain memory, made as the broker makes
 * them, also one that changes while it is looked at, and one that lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/persist.h"
#include "broker/store.h"
#include "libclient/wire.h"
#include "tools/peek.h"

enum { N_ROWS = 2, N_GROUPS = 3, N_REFERENCES = 64, N_CELLS = 32 };
enum { ORDERS = N_ROWS + 1, DEAD_ORDERS = ORDERS + N_GROUPS };

struct fixture {
    struct ledger *ledger;
    size_t ledger_size;
    void *memory; /* the store's */
    size_t memory_size;
    struct store store;
    struct peek peek;
    uint64_t age; /* of the next reference */
};

static uint8_t frame[PEEK_FRAME_MAX];

static void *zeroed(size_t size)
{
    void *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);

    assert_non_null(memory);
    return memset(memory, 0, size);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->ledger_size = ledger_size(N_ROWS, N_GROUPS);
    f->ledger = zeroed(f->ledger_size);
    f->ledger->header = (struct ledger_header){
        .magic = PERSIST_MAGIC,
        .layout = PERSIST_LAYOUT,
        .n_rows = N_ROWS,
        .n_groups = N_GROUPS,
        .n_references = N_REFERENCES,
        .references_allocated = N_REFERENCES,
        .n_cells = N_CELLS,
        .cells_allocated = N_CELLS,
        .committed = 1000,
    };
    f->memory_size = store_size(N_REFERENCES, N_CELLS);
    f->memory = zeroed(f->memory_size);
    store_init(&f->store, f->memory, N_REFERENCES, N_CELLS, N_REFERENCES, N_CELLS);
    ledger_groups(f->ledger)[1] = (struct group_row){.state = GROUP_LIVE, .name = "orders"};
    ledger_groups(f->ledger)[2] = (struct group_row){.state = GROUP_LIVE, .name = "order"};
    f->age = 1;
    assert_int_equal(peek_init(&f->peek, f->ledger, f->ledger_size, f->memory, f->memory_size),
                     PEEK_OK);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    free(f->ledger);
    free(f->memory);
    free(f);
    return 0;
}

/* A message whose payload is `size` times a letter. */
static uint32_t add(struct fixture *f, unsigned state, unsigned level, uint16_t owner, char letter,
                    size_t size)
{
    uint8_t bytes[2048], payload[2000];
    uint32_t slot = store_take(&f->store), cell;

    memset(payload, letter, size);
    cell = store_put(&f->store, bytes,
                     (uint16_t)wire_put_message(bytes, WIRE_MESSAGE, (uint8_t)level, 0, 0, 0, "t",
                                                1, payload, size),
                     0, 7000 + f->age);
    assert_int_not_equal(slot, 0);
    assert_int_not_equal(cell, 0);
    persist_reference(store_reference(&f->store, slot), f->age++, cell, 0,
                      REF_WORD(state, REF_ACK, level, 0, owner, REF_NOBODY));
    return slot;
}

/* The letters of what waits with this owner. */
static const char *letters(struct fixture *f, uint16_t owner)
{
    static char out[N_REFERENCES];
    struct peek_entry *all;
    size_t n, n_out = 0;

    assert_int_equal(peek_collect(&f->peek, owner, &all, &n), 0);
    for (size_t i = 0; i < n; i++) {
        struct wire_frame view;
        uint32_t size;
        uint64_t born;

        assert_int_equal(peek_copy(&f->peek, &all[i], frame, &size, &born), PEEK_OK);
        assert_int_equal(wire_get_delivery(frame, size, &view), WIRE_OK);
        assert_int_equal(born, 7000 + all[i].age);
        for (uint32_t j = 1; j < view.payload_size; j++)
            assert_int_equal(view.payload[j], view.payload[0]);
        out[n_out++] = (char)view.payload[0];
    }
    free(all);
    out[n_out] = '\0';
    return out;
}

/* ---- Order, and what belongs to it ---- */

static void what_waits_comes_by_priority_then_age(void **state)
{
    struct fixture *f = *state;

    add(f, REF_WAIT, 8, ORDERS, 'b', 1);
    add(f, REF_WAIT, 0, ORDERS, 'd', 1500);
    add(f, REF_WAIT, 31, ORDERS, 'a', 300);
    add(f, REF_WAIT, 8, ORDERS, 'c', 200);
    assert_string_equal(letters(f, ORDERS), "abcd");
}

static void what_was_returned_with_a_delay_comes_last(void **state)
{
    struct fixture *f = *state;
    uint32_t slot = add(f, REF_LATER, 31, ORDERS, 'z', 1);

    persist_u32(&store_reference(&f->store, slot)->when, 500);
    slot = add(f, REF_LATER, 0, ORDERS, 'y', 1);
    persist_u32(&store_reference(&f->store, slot)->when, 499);
    add(f, REF_WAIT, 0, ORDERS, 'a', 1);
    assert_string_equal(letters(f, ORDERS), "ayz");
}

static void only_messages_that_wait_in_that_group_are_shown(void **state)
{
    struct fixture *f = *state;

    add(f, REF_WAIT, 8, 0, 'x', 1);          /* a session's */
    add(f, REF_WAIT, 8, ORDERS + 1, 'x', 1); /* another group's */
    add(f, REF_OUT, 8, ORDERS, 'x', 1);
    add(f, REF_DROPPED, 8, ORDERS, 'x', 1);
    add(f, REF_FILTER, 8, ORDERS, 'x', 1);
    add(f, REF_WAIT, 8, DEAD_ORDERS, 'd', 1);
    add(f, REF_WAIT, 8, ORDERS, 'a', 1);
    assert_string_equal(letters(f, ORDERS), "a");
    assert_string_equal(letters(f, DEAD_ORDERS), "d");
}

static void K1_what_was_not_committed_is_not_shown(void **state)
{
    struct fixture *f = *state;

    add(f, REF_WAIT, 8, ORDERS, 'a', 1);
    persist_commit(f->ledger, f->age);
    add(f, REF_WAIT, 8, ORDERS, 'x', 1);
    assert_string_equal(letters(f, ORDERS), "a");
}

static void a_group_is_found_by_its_whole_name(void **state)
{
    struct fixture *f = *state;
    uint16_t owner = 0;

    assert_true(peek_find(&f->peek, "orders", &owner));
    assert_int_equal(owner, ORDERS);
    assert_true(peek_find(&f->peek, "$dead/orders", &owner));
    assert_int_equal(owner, DEAD_ORDERS);
    assert_true(peek_find(&f->peek, "order", &owner));
    assert_int_equal(owner, ORDERS + 1);
    assert_false(peek_find(&f->peek, "ord", &owner));
    assert_false(peek_find(&f->peek, "", &owner)); /* the name of a free row */
    assert_false(peek_find(&f->peek, "$dead/", &owner));
}

/* ---- The broker goes on meanwhile ---- */

static struct peek_entry only(struct fixture *f)
{
    struct peek_entry *all, entry;
    size_t n;

    assert_int_equal(peek_collect(&f->peek, ORDERS, &all, &n), 0);
    assert_int_equal(n, 1);
    entry = all[0];
    free(all);
    return entry;
}

static int copy(struct fixture *f, struct peek_entry *entry)
{
    uint32_t size;
    uint64_t born;

    return peek_copy(&f->peek, entry, frame, &size, &born);
}

static void what_was_delivered_meanwhile_is_gone(void **state)
{
    struct fixture *f = *state;
    uint32_t slot = add(f, REF_WAIT, 8, ORDERS, 'a', 1);
    struct peek_entry entry = only(f);

    persist_word(store_reference(&f->store, slot), REF_WORD(REF_OUT, REF_ACK, 8, 0, ORDERS, 1));
    assert_false(peek_holds(&f->peek, &entry));
    assert_int_equal(copy(f, &entry), PEEK_E_GONE);
}

static void what_went_and_came_back_meanwhile_is_shown_as_it_is_now(void **state)
{
    struct fixture *f = *state;
    uint32_t slot = add(f, REF_WAIT, 8, ORDERS, 'a', 1);
    struct peek_entry entry = only(f);
    uint64_t word = REF_WORD(REF_WAIT, REF_ACK, 8, 1, ORDERS, REF_NOBODY);

    persist_word(store_reference(&f->store, slot), word);
    assert_int_equal(copy(f, &entry), PEEK_OK);
    assert_int_equal(entry.word, word);
}

static void another_message_in_the_same_slot_is_not_taken_for_it(void **state)
{
    struct fixture *f = *state;
    uint32_t slot = add(f, REF_WAIT, 8, ORDERS, 'a', 1);
    struct peek_entry entry = only(f);

    store_release(&f->store, store_reference(&f->store, slot)->cell);
    store_free(&f->store, slot);
    assert_int_equal(add(f, REF_WAIT, 8, ORDERS, 'x', 1), slot);
    assert_int_equal(copy(f, &entry), PEEK_E_GONE);
}

static void what_left_for_the_disk_is_named_by_its_place_there(void **state)
{
    struct fixture *f = *state;
    uint32_t slot = add(f, REF_WAIT, 8, ORDERS, 'a', 1);
    struct reference *r = store_reference(&f->store, slot);
    struct peek_entry entry;

    persist_word(r, REF_WORD(REF_WAIT, REF_ACK | REF_DURABLE, 8, 0, ORDERS, REF_NOBODY));
    entry = only(f);
    assert_int_equal(copy(f, &entry), PEEK_OK); /* durable, and still in memory */
    persist_u32(&r->cell, REF_ON_DISK | 77);
    assert_false(peek_holds(&f->peek, &entry));
    assert_int_equal(copy(f, &entry), PEEK_E_ON_DISK);
    assert_int_equal(entry.cell, REF_ON_DISK | 77);
}

/* ---- Lies ---- */

static void memory_of_another_make_is_not_read(void **state)
{
    struct fixture *f = *state;
    struct peek peek;

    assert_int_equal(peek_init(&peek, f->ledger, f->ledger_size - 1, f->memory, f->memory_size),
                     PEEK_E_SIZE);
    assert_int_equal(peek_init(&peek, f->ledger, f->ledger_size, f->memory, f->memory_size + 1),
                     PEEK_E_SIZE);
    assert_int_equal(peek_init(&peek, f->ledger, 64, f->memory, f->memory_size), PEEK_E_SIZE);
    f->ledger->header.n_references = STORE_SLOTS_MAX + 1;
    assert_int_equal(peek_init(&peek, f->ledger, f->ledger_size, f->memory, f->memory_size),
                     PEEK_E_SIZE);
    f->ledger->header.layout++;
    assert_int_equal(peek_init(&peek, f->ledger, f->ledger_size, f->memory, f->memory_size),
                     PEEK_E_LAYOUT);
    f->ledger->header.magic = 0;
    assert_int_equal(peek_init(&peek, f->ledger, f->ledger_size, f->memory, f->memory_size),
                     PEEK_E_SIZE);
}

static void a_damaged_chain_of_cells_leads_nowhere(void **state)
{
    struct fixture *f = *state;
    uint32_t slot = add(f, REF_WAIT, 8, ORDERS, 'a', 1500);
    struct reference *r = store_reference(&f->store, slot);
    struct peek_entry entry = only(f);

    f->ledger->header.references_allocated = UINT32_MAX; /* not believed either */
    store_cell(&f->store, r->cell)->next = N_CELLS;
    assert_int_equal(copy(f, &entry), PEEK_E_GONE);
    store_cell(&f->store, r->cell)->next = r->cell; /* it ends, when as much was copied */
    assert_int_equal(copy(f, &entry), PEEK_OK);
    persist_u32(&r->cell, N_CELLS);
    entry = only(f);
    assert_int_equal(copy(f, &entry), PEEK_E_GONE);
    persist_u32(&r->cell, 0);
    entry = only(f);
    assert_int_equal(copy(f, &entry), PEEK_E_GONE);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_waits_comes_by_priority_then_age),
        TEST(what_was_returned_with_a_delay_comes_last),
        TEST(only_messages_that_wait_in_that_group_are_shown),
        TEST(K1_what_was_not_committed_is_not_shown),
        TEST(a_group_is_found_by_its_whole_name),
        TEST(what_was_delivered_meanwhile_is_gone),
        TEST(what_went_and_came_back_meanwhile_is_shown_as_it_is_now),
        TEST(another_message_in_the_same_slot_is_not_taken_for_it),
        TEST(what_left_for_the_disk_is_named_by_its_place_there),
        TEST(memory_of_another_make_is_not_read),
        TEST(a_damaged_chain_of_cells_leads_nowhere),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
