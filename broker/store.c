/* The broker's message memory.
 *
 * Two pools of slots: references, which say what must still happen, and cells, which hold the
 * bytes. Only a reference's word is ever believed. Taking and freeing a slot is a few instructions:
 * the newest freed one first, then the next that was never used. Filling a cell needs no care about
 * the order of stores, since nobody reaches it before a reference that is committed. */
#include "broker/store.h"

#define PAGE 4096u

size_t store_cells_offset(uint32_t n_references)
{
    size_t bytes = n_references * sizeof(struct reference);

    return (bytes + PAGE - 1) / PAGE * PAGE;
}

size_t store_size(uint32_t n_references, uint32_t n_cells)
{
    return store_places_offset(n_references, n_cells) + n_references * sizeof(uint32_t);
}

size_t store_places_offset(uint32_t n_references, uint32_t n_cells)
{
    return store_cells_offset(n_references) + n_cells * sizeof(struct cell);
}

void store_init(struct store *s, void *base, uint32_t n_references, uint32_t n_cells,
                uint32_t references_allocated, uint32_t cells_allocated)
{
    *s = (struct store){
        .references = base,
        .cells = (struct cell *)((char *)base + store_cells_offset(n_references)),
        .places = (uint32_t *)((char *)base + store_places_offset(n_references, n_cells)),
        .reference_pool = {.max = n_references, .allocated = references_allocated, .high = 1},
        .cell_pool = {.max = n_cells, .allocated = cells_allocated, .high = 1},
    };
}

uint32_t store_take(struct store *s)
{
    struct store_pool *p = &s->reference_pool;
    uint32_t slot = p->free;

    if (slot != 0) {
        p->free = s->references[slot].next;
        __builtin_prefetch(&s->references[p->free], 1);
    } else if (p->high < p->allocated) {
        slot = p->high++;
    } else {
        return 0;
    }
    p->n_used++;
    return slot;
}

void store_free(struct store *s, uint32_t slot)
{
    struct store_pool *p = &s->reference_pool;
    struct reference *r = &s->references[slot];

    persist_word(r, REF_WORD(REF_FREE, 0, 0, 0, 0, 0));
    r->next = p->free;
    p->free = slot;
    p->n_used--;
}

/* The next one to be filled is on its way into the cache meanwhile: most messages write its first
 * three lines. */
static void warm_cell(struct cell *c)
{
    __builtin_prefetch(c, 1);
    __builtin_prefetch((char *)c + 64, 1);
    __builtin_prefetch((char *)c + 128, 1);
}

static uint32_t take_cell(struct store *s)
{
    struct store_pool *p = &s->cell_pool;
    uint32_t cell = p->free;

    if (cell != 0) {
        p->free = s->cells[cell].next;
        warm_cell(&s->cells[p->free]);
    } else {
        cell = p->high++;
    }
    p->n_used++;
    return cell;
}

static struct cell_more *more(const struct store *s, uint32_t cell)
{
    return (struct cell_more *)&s->cells[cell];
}

uint32_t store_put(struct store *s, const uint8_t *frame, uint32_t size, uint16_t account,
                   uint64_t born)
{
    if (wire_cells(size) > store_pool_ready(&s->cell_pool))
        return 0;

    uint32_t first = take_cell(s);
    struct cell *c = &s->cells[first];
    uint32_t part = size < WIRE_FIRST_CELL ? size : WIRE_FIRST_CELL;
    uint32_t *link = &c->next;

    c->size = (uint16_t)size;
    c->answered = 0;
    c->born = born;
    c->account = account;
    c->pool = 0;
    c->refs = 0;
    c->pins = 0;
    c->topic = 0;
    persist_bytes(c->bytes, frame, part);
    while (part < size) {
        uint32_t cell = take_cell(s);
        uint32_t rest = size - part < WIRE_NEXT_CELL ? size - part : WIRE_NEXT_CELL;

        persist_bytes(more(s, cell)->bytes, frame + part, rest);
        persist_u32(link, cell);
        link = &more(s, cell)->next;
        part += rest;
    }
    persist_u32(link, 0);
    return first;
}

void store_get(const struct store *s, uint32_t cell, uint8_t *out)
{
    const struct cell *c = &s->cells[cell];
    uint32_t size = c->size;
    uint32_t part = size < WIRE_FIRST_CELL ? size : WIRE_FIRST_CELL;

    memcpy(out, c->bytes, part);
    for (uint32_t next = c->next; part < size; next = more(s, next)->next) {
        uint32_t rest = size - part < WIRE_NEXT_CELL ? size - part : WIRE_NEXT_CELL;

        memcpy(out + part, more(s, next)->bytes, rest);
        part += rest;
    }
}

void store_release(struct store *s, uint32_t cell)
{
    struct store_pool *p = &s->cell_pool;
    uint32_t last = cell;
    uint32_t n = 1;

    while (s->cells[last].next != 0) {
        last = s->cells[last].next;
        n++;
    }
    s->cells[last].next = p->free;
    p->free = cell;
    p->n_used -= n;
}

size_t store_marks_size(const struct store *s)
{
    return (s->cell_pool.allocated + 7) / 8;
}

/* Mark a chain; false if it is damaged. */
static bool mark_chain(struct store *s, uint32_t cell, uint8_t *marks)
{
    for (uint32_t next = cell; next != 0; next = s->cells[next].next) {
        if (next >= s->cell_pool.allocated || (marks[next / 8] & 1u << next % 8) != 0)
            return false;
        marks[next / 8] |= (uint8_t)(1u << next % 8);
        s->cell_pool.n_used++;
    }
    return true;
}

/* Everything below the highest used slot that is not in use goes to the free list, lowest first to
 * be taken. */
static void adopt_references(struct store *s)
{
    struct store_pool *p = &s->reference_pool;

    for (uint32_t slot = p->allocated - 1; slot > 0; slot--) {
        struct reference *r = &s->references[slot];

        if (ref_state(r) != REF_FREE) {
            p->n_used++;
            if (p->high <= slot)
                p->high = slot + 1;
        } else if (p->high > slot) {
            r->next = p->free;
            p->free = slot;
        }
    }
}

static void adopt_cells(struct store *s, const uint8_t *marks)
{
    struct store_pool *p = &s->cell_pool;

    for (uint32_t cell = p->allocated - 1; cell > 0; cell--) {
        if ((marks[cell / 8] & 1u << cell % 8) != 0) {
            if (p->high <= cell)
                p->high = cell + 1;
        } else if (p->high > cell) {
            s->cells[cell].next = p->free;
            p->free = cell;
        }
    }
}

int store_adopt(struct store *s, uint8_t *marks)
{
    adopt_references(s);
    for (uint32_t slot = 1; slot < s->reference_pool.high; slot++) {
        struct reference *r = &s->references[slot];

        if (ref_state(r) == REF_FREE || !store_has_cell(r) || ref_on_disk(r))
            continue;
        if (r->cell == 0 || r->cell >= s->cell_pool.allocated)
            return -1;
        if ((marks[r->cell / 8] & 1u << r->cell % 8) == 0) { /* the first to reach it */
            s->cells[r->cell].refs = 0;
            s->cells[r->cell].pins = 0;
            s->cells[r->cell].pool = 0;
            if (!mark_chain(s, r->cell, marks))
                return -1;
        }
        s->cells[r->cell].refs++;
    }
    adopt_cells(s, marks);
    return 0;
}
