/* Who has which part of a pool: places of any size in a range of offsets (floor 2, pure).
 *
 * It works on numbers and never looks at the memory that it gives out, so what others do to that
 * memory cannot hurt it. A client has one for its pool, the broker one for the copies in each
 * outbox. */
#ifndef MQBROKER_LIBCLIENT_SLOTS_H
#define MQBROKER_LIBCLIENT_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/pool.h"

enum {
    SLOTS_CLASSES = 240, /* of sizes: eight to a doubling */
    SLOTS_BUCKETS = 1024,
};

/* Something given out. */
struct slots_place {
    uint64_t offset;     /* a multiple of WIRE_SLOT_UNIT */
    uint64_t size;       /* at least what was asked for */
    uint32_t generation; /* another one each time */
    uint32_t tag;        /* the owner's; 0 at first */
};

struct slots_block;

struct slots {
    /* All of it in units of WIRE_SLOT_UNIT bytes. */
    uint32_t top; /* nothing was ever given out from here on, or it has come back, */
    uint32_t end; /* up to here */

    struct slots_block *blocks; /* those below `top`, in no order; [0] is before all others */
    uint32_t n_blocks;
    uint32_t capacity;
    uint32_t last;   /* block that ends at `top` */
    uint32_t unused; /* list of unused members of `blocks` */

    uint32_t n_given;
    uint32_t generation;
    bool scattered; /* something came back since free neighbours were merged */
    uint64_t map[(SLOTS_CLASSES + 63) / 64]; /* bit c: free[c] is not empty */
    uint32_t free[SLOTS_CLASSES];            /* lists of free blocks, the newest first */
    uint32_t given[SLOTS_BUCKETS]; /* lists of blocks given out, by hash of their offset */
};

/* Places between these offsets, multiples of WIRE_SLOT_UNIT. Allocates nothing. */
void slots_init(struct slots *s, uint64_t begin, uint64_t end);
void slots_deinit(struct slots *s);

/* There is more at the end now. */
void slots_grow(struct slots *s, uint64_t end);

/* Give out a place of `size` bytes, at least 1. In its stride that is the one of this size that
 * came back last, for it is still in the processor's cache. 0; -ENOSPC: none is free that large;
 * -EBUSY: POOL_SLOTS are given out; -ENOMEM. */
int slots_take(struct slots *s, uint64_t size, struct slots_place *place);

/* Has one of this size come back that slots_take() would give out again at once? */
bool slots_at_hand(const struct slots *s, uint64_t size);

/* Where it ends. */
static inline uint64_t slots_end(const struct slots *s)
{
    return (uint64_t)s->end * WIRE_SLOT_UNIT;
}

/* Where that would have to be for slots_take() to succeed, after it said -ENOSPC. */
uint64_t slots_end_wanted(const struct slots *s, uint64_t size);

/* A place came back. False: nothing is given out there under this generation; then nothing is
 * changed. */
bool slots_give(struct slots *s, uint64_t offset, uint32_t generation);

/* What is given out at this offset; false: nothing. And give it another tag. */
bool slots_find(const struct slots *s, uint64_t offset, struct slots_place *place);
void slots_tag(struct slots *s, uint64_t offset, uint32_t tag);

#endif
