/* The store: references and cells over a range of memory that it is given. Pure; floor 2.
 *
 * Slot 0 of both is never used, so that 0 can say "none". A freed slot is the next to be taken: it
 * is still in the cache. Slots that were never used lie above a high-water mark, so that a fresh
 * store touches no memory at all. Free lists and marks are derived: store_adopt() builds them from
 * what the references say. */
#ifndef MQBROKER_BROKER_STORE_H
#define MQBROKER_BROKER_STORE_H

#include "broker/persist.h"

struct store_pool {     /* slots of one kind */
    uint32_t max;       /* slots there can be */
    uint32_t allocated; /* slots with memory behind them */
    uint32_t high;      /* first slot that was never used */
    uint32_t free;      /* head of the free list; linked through `next` */
    uint32_t n_used;
};

struct store {
    struct reference *references;
    struct cell *cells;
    uint32_t *places; /* by reference: where a durable one's record is in the journal, once it is
                         written; 0: nowhere */
    struct store_pool reference_pool;
    struct store_pool cell_pool;
};

/* Bytes of a store's segment; references first, cells from a page boundary on, then places. */
size_t store_size(uint32_t n_references, uint32_t n_cells);
size_t store_cells_offset(uint32_t n_references);
size_t store_places_offset(uint32_t n_references, uint32_t n_cells);

/* Over `base`, of which so many slots of each kind, at least one, have memory behind them. An empty
 * store: everything behind it is zero. */
void store_init(struct store *s, void *base, uint32_t n_references, uint32_t n_cells,
                uint32_t references_allocated, uint32_t cells_allocated);

static inline struct reference *store_reference(const struct store *s, uint32_t slot)
{
    return &s->references[slot];
}

static inline struct cell *store_cell(const struct store *s, uint32_t cell)
{
    return &s->cells[cell];
}

/* Slots that can be taken without more memory, and at all. */
static inline uint32_t store_pool_ready(const struct store_pool *p)
{
    return p->allocated > p->n_used + 1 ? p->allocated - 1 - p->n_used : 0;
}

static inline uint32_t store_pool_room(const struct store_pool *p)
{
    return p->max - 1 - p->n_used;
}

/* Take a reference slot; 0: none ready. Its members are the caller's to fill (persist_reference).
 */
uint32_t store_take(struct store *s);

/* Free a reference: one store makes it so. Its cell is not looked at. */
void store_free(struct store *s, uint32_t slot);

/* Copy a frame into fresh cells, which nobody reaches yet. Returns the first cell; 0: not enough
 * ready. */
uint32_t store_put(struct store *s, const uint8_t *frame, uint32_t size, uint16_t account,
                   uint64_t born);

/* Copy the frame at `cell` to `out`, which holds its size. */
void store_get(const struct store *s, uint32_t cell, uint8_t *out);

/* Give a frame's cells back. Nothing is stored: nobody reaches them any more. */
void store_release(struct store *s, uint32_t cell);

/* A start: build the free lists from the references whose state is not FREE; all others are free,
 * and so is each cell that none of them reaches. Before it, the caller has made FREE what is not
 * real. `marks` is zeroed scratch memory of at least store_marks_size() bytes. Returns 0, or -1 if
 * a chain of cells is damaged (it loops, or leaves the store), which no kill can bring about. */
size_t store_marks_size(const struct store *s);
int store_adopt(struct store *s, uint8_t *marks);

/* Whether a reference's `cell` is one. */
static inline bool store_has_cell(const struct reference *r)
{
    return (ref_flags(r) & REF_BARE) == 0;
}

#endif
