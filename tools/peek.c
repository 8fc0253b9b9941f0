/* Peeking: see peek.h. A reference is freed, and its slot taken again, by stores in a known order:
 * word, then age, cell, when, word. Read in the same order, and word and age once more at the end,
 * two references cannot be taken for one. */
#include "tools/peek.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store.h"

enum { TRIES = 100 };

/* ---- What is there ---- */

int peek_init(struct peek *p, const void *ledger, size_t ledger_size_, const void *store,
              size_t store_size_)
{
    const struct ledger *l = ledger;
    struct ledger_header h;

    if (ledger_size_ < sizeof(struct ledger))
        return PEEK_E_SIZE;
    h = l->header;
    if (h.magic != PERSIST_MAGIC)
        return PEEK_E_SIZE;
    if (h.layout != PERSIST_LAYOUT)
        return PEEK_E_LAYOUT;
    if (ledger_size(h.n_rows, h.n_groups) != ledger_size_ || h.n_references > STORE_SLOTS_MAX ||
        store_size(h.n_references, h.n_cells) != store_size_)
        return PEEK_E_SIZE;
    *p = (struct peek){
        .ledger = l,
        .references = store,
        .cells = (const struct cell *)(const void *)((const char *)store +
                                                     store_cells_offset(h.n_references)),
        .n_references = h.n_references,
        .n_cells = h.n_cells,
        .n_rows = h.n_rows,
        .n_groups = h.n_groups,
    };
    return PEEK_OK;
}

bool peek_find(const struct peek *p, const char *group, uint16_t *owner)
{
    bool dead = strncmp(group, WIRE_DEAD_PREFIX, strlen(WIRE_DEAD_PREFIX)) == 0;
    const char *name = dead ? group + strlen(WIRE_DEAD_PREFIX) : group;

    for (uint32_t i = 0; i < p->n_groups; i++) {
        const struct group_row *row = &ledger_groups(p->ledger)[i];

        if (__atomic_load_n(&row->state, __ATOMIC_ACQUIRE) != GROUP_FREE &&
            strncmp(row->name, name, sizeof row->name) == 0) {
            *owner = (uint16_t)(p->n_rows + i + (dead ? p->n_groups : 0));
            return true;
        }
    }
    return false;
}

/* ---- References ---- */

static void load(const struct peek *p, uint32_t slot, struct peek_entry *out)
{
    const struct reference *r = &p->references[slot];

    out->slot = slot;
    out->word = __atomic_load_n(&r->word, __ATOMIC_ACQUIRE);
    out->age = __atomic_load_n(&r->age, __ATOMIC_ACQUIRE);
    out->cell = __atomic_load_n(&r->cell, __ATOMIC_ACQUIRE);
    out->when = __atomic_load_n(&r->when, __ATOMIC_ACQUIRE);
}

bool peek_holds(const struct peek *p, const struct peek_entry *entry)
{
    const struct reference *r = &p->references[entry->slot];

    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return __atomic_load_n(&r->cell, __ATOMIC_ACQUIRE) == entry->cell &&
           __atomic_load_n(&r->age, __ATOMIC_ACQUIRE) == entry->age &&
           __atomic_load_n(&r->word, __ATOMIC_ACQUIRE) == entry->word;
}

/* The words of an entry, by the inline functions for references. */
static struct reference as_reference(const struct peek_entry *entry)
{
    return (struct reference){.word = entry->word, .age = entry->age, .cell = entry->cell};
}

static unsigned state_of(const struct peek_entry *entry)
{
    struct reference r = as_reference(entry);

    return ref_state(&r);
}

static unsigned level_of(const struct peek_entry *entry)
{
    struct reference r = as_reference(entry);

    return ref_level(&r);
}

static bool waits(const struct peek_entry *entry, uint16_t owner)
{
    struct reference r = as_reference(entry);

    return (ref_state(&r) == REF_WAIT || ref_state(&r) == REF_LATER) && ref_owner(&r) == owner;
}

static int compare(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

static int by_delivery(const void *a, const void *b)
{
    const struct peek_entry *x = a, *y = b;
    bool x_later = state_of(x) == REF_LATER, y_later = state_of(y) == REF_LATER;

    if (x_later != y_later)
        return x_later ? 1 : -1;
    if (x_later && x->when != y->when)
        return compare(x->when, y->when);
    if (level_of(x) != level_of(y))
        return compare(level_of(y), level_of(x));
    return compare(x->age, y->age);
}

int peek_collect(const struct peek *p, uint16_t owner, struct peek_entry **entries, size_t *n)
{
    uint64_t committed = __atomic_load_n(&p->ledger->header.committed, __ATOMIC_ACQUIRE);
    uint32_t allocated = p->ledger->header.references_allocated;
    struct peek_entry *all = NULL;
    size_t size = 0;

    *entries = NULL;
    *n = 0;
    if (allocated > p->n_references)
        allocated = p->n_references;
    for (uint32_t slot = 1; slot < allocated; slot++) {
        struct peek_entry entry;

        load(p, slot, &entry);
        /* What is not committed is not real (rule K1). */
        if (!waits(&entry, owner) || entry.age >= committed || !peek_holds(p, &entry))
            continue;
        if (*n == size) {
            struct peek_entry *more = realloc(all, (size = size * 2 + 64) * sizeof *all);

            if (more == NULL) {
                free(all);
                *n = 0;
                return -ENOMEM;
            }
            all = more;
        }
        all[(*n)++] = entry;
    }
    if (*n > 0)
        qsort(all, *n, sizeof *all, by_delivery);
    *entries = all;
    return 0;
}

/* ---- Bytes ---- */

/* Copy a chain of cells, which may change under our eyes: no step leaves the store, and there are
 * only as many as the size, a u16, asks for. False: it cannot be one. */
static bool copy_chain(const struct peek *p, uint32_t first, uint8_t *out, uint32_t *size,
                       uint64_t *born)
{
    uint32_t part, next;
    struct cell head;

    if (first == 0 || first >= p->n_cells)
        return false;
    memcpy(&head, &p->cells[first], sizeof head);
    *size = head.size;
    *born = head.born;
    part = head.size < WIRE_FIRST_CELL ? head.size : WIRE_FIRST_CELL;
    memcpy(out, head.bytes, part);
    for (next = head.next; part < head.size;) {
        uint32_t rest = head.size - part < WIRE_NEXT_CELL ? head.size - part : WIRE_NEXT_CELL;
        struct cell_more more;

        if (next == 0 || next >= p->n_cells)
            return false;
        memcpy(&more, &p->cells[next], sizeof more);
        memcpy(out + part, more.bytes, rest);
        next = more.next;
        part += rest;
    }
    return true;
}

/* It may have been out and come back, or its bytes have left for the disk: then it is another word,
 * or another place, of the same age. */
static bool still_waits(const struct peek *p, struct peek_entry *entry)
{
    struct reference was = as_reference(entry);
    uint64_t age = entry->age;

    load(p, entry->slot, entry);
    return entry->age == age && waits(entry, ref_owner(&was)) && peek_holds(p, entry);
}

int peek_copy(const struct peek *p, struct peek_entry *entry, uint8_t frame[PEEK_FRAME_MAX],
              uint32_t *size, uint64_t *born)
{
    for (unsigned i = 0; i < TRIES && still_waits(p, entry); i++) {
        struct reference r = as_reference(entry);

        if (ref_on_disk(&r))
            return PEEK_E_ON_DISK;
        if (copy_chain(p, entry->cell, frame, size, born) && peek_holds(p, entry))
            return PEEK_OK;
    }
    return PEEK_E_GONE;
}
