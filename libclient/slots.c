/* Places in a pool.
 *
 * The range is cut into blocks as places are asked for, from its beginning; what was never needed
 * lies behind `top` and costs nothing. A block that comes back goes to the front of the list of its
 * size class, whole, and the next place of about that size is that block: no search, no splitting,
 * and the memory that was used last, which is worth a factor of two with large messages. Only when
 * nothing fits are free neighbours merged, all at once, and larger blocks split. So a client whose
 * messages have some few sizes never merges anything, and one whose sizes change gets everything
 * back that is free.
 *
 * Blocks lie in one growing array and name each other by index. Those below `top` form a list in
 * order of offset, which has no gaps: where one ends the next begins. Each is also in one of the
 * lists by class (free) or by hash of its offset (given out). */
#include "libclient/slots.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct slots_block {
    uint32_t offset; /* both in units */
    uint32_t size;
    uint32_t after; /* next one in order of offset; 0: it ends at `top` */
    uint32_t next;  /* in its list; 0: the last */
    uint32_t generation;
    uint32_t tag;
    bool given;
};

enum {
    FIRST_CAPACITY = 64,
    EXACT = 16,  /* smaller sizes have a class each */
    STEPS_2 = 3, /* two to the power of this are the classes of a doubling */
    GLANCES = 8, /* blocks of a class looked at; where sizes vary one of them fits */
    WHOLE = 8,   /* what is left of a block is not cut off if it is below an eighth of it */
};

static uint32_t in_units(uint64_t bytes)
{
    return (uint32_t)((bytes + WIRE_SLOT_UNIT - 1) / WIRE_SLOT_UNIT);
}

static uint64_t in_bytes(uint32_t units)
{
    return (uint64_t)units * WIRE_SLOT_UNIT;
}

static unsigned class_of(uint32_t size)
{
    unsigned doubling;

    if (size < EXACT)
        return size;
    doubling = 31u - (unsigned)__builtin_clz(size);
    return EXACT + ((doubling - 4) << STEPS_2) +
           ((size >> (doubling - STEPS_2)) & ((1u << STEPS_2) - 1));
}

_Static_assert(EXACT + ((31 - 4 + 1) << STEPS_2) == SLOTS_CLASSES, "classes up to 2^32 units");

static uint32_t *bucket(struct slots *s, uint32_t offset)
{
    return &s->given[(offset * UINT32_C(2654435769)) >> 22];
}

_Static_assert(SLOTS_BUCKETS == 1 << (32 - 22), "buckets");

void slots_init(struct slots *s, uint64_t begin, uint64_t end)
{
    assert(begin % WIRE_SLOT_UNIT == 0 && begin <= end && end / WIRE_SLOT_UNIT <= UINT32_MAX);
    memset(s, 0, sizeof(*s));
    s->top = in_units(begin);
    s->end = (uint32_t)(end / WIRE_SLOT_UNIT);
}

void slots_deinit(struct slots *s)
{
    free(s->blocks);
    s->blocks = NULL;
}

void slots_grow(struct slots *s, uint64_t end)
{
    assert(end / WIRE_SLOT_UNIT >= s->end && end / WIRE_SLOT_UNIT <= UINT32_MAX);
    s->end = (uint32_t)(end / WIRE_SLOT_UNIT);
}

/* ---- Blocks ---- */

/* Make sure that the next new_block() has one. */
static int reserve_block(struct slots *s)
{
    uint32_t capacity = s->capacity > 0 ? 2 * s->capacity : FIRST_CAPACITY;
    struct slots_block *more;

    if (s->unused != 0 || (s->n_blocks < s->capacity && s->n_blocks > 0))
        return 0;
    more = realloc(s->blocks, capacity * sizeof(*more));
    if (more == NULL)
        return -ENOMEM;
    s->blocks = more;
    s->capacity = capacity;
    if (s->n_blocks == 0)
        s->blocks[s->n_blocks++] = (struct slots_block){.given = true};
    return 0;
}

/* A block of its own right behind `before`. */
static uint32_t new_block(struct slots *s, uint32_t before, uint32_t offset, uint32_t size)
{
    uint32_t b = s->unused;

    if (b != 0)
        s->unused = s->blocks[b].next;
    else
        b = s->n_blocks++;
    s->blocks[b] =
        (struct slots_block){.offset = offset, .size = size, .after = s->blocks[before].after};
    s->blocks[before].after = b;
    if (before == s->last)
        s->last = b;
    return b;
}

static void forget_block(struct slots *s, uint32_t b)
{
    s->blocks[b].next = s->unused;
    s->unused = b;
}

static void push_free(struct slots *s, uint32_t b)
{
    unsigned c = class_of(s->blocks[b].size);

    s->blocks[b].next = s->free[c];
    s->free[c] = b;
    s->map[c / 64] |= UINT64_C(1) << c % 64;
}

/* Take the block that `link` leads to out of the list of class `c`. */
static uint32_t pop_free(struct slots *s, unsigned c, uint32_t *link)
{
    uint32_t b = *link;

    *link = s->blocks[b].next;
    if (s->free[c] == 0)
        s->map[c / 64] &= ~(UINT64_C(1) << c % 64);
    return b;
}

/* ---- Where to find one ---- */

/* A free one of the size's own class; 0: none among the first so many. */
static uint32_t take_from_class(struct slots *s, uint32_t size, unsigned glances)
{
    unsigned c = class_of(size);

    for (uint32_t *link = &s->free[c]; *link != 0 && glances-- > 0; link = &s->blocks[*link].next)
        if (s->blocks[*link].size >= size)
            return pop_free(s, c, link);
    return 0;
}

/* What was never used, or has all come back. */
static uint32_t take_from_top(struct slots *s, uint32_t size)
{
    uint32_t b;

    if (s->end - s->top < size)
        return 0;
    b = new_block(s, s->last, s->top, size);
    s->top += size;
    return b;
}

/* The lowest class from `c` on that has a block; SLOTS_CLASSES: none. */
static unsigned class_from(const struct slots *s, unsigned c)
{
    while (c < SLOTS_CLASSES) {
        uint64_t rest = s->map[c / 64] >> c % 64;

        if (rest != 0)
            return c + (unsigned)__builtin_ctzll(rest);
        c = (c / 64 + 1) * 64;
    }
    return SLOTS_CLASSES;
}

/* One of the next larger class, without what it has too much. */
static uint32_t take_from_larger(struct slots *s, uint32_t size)
{
    unsigned c = class_from(s, class_of(size) + 1);
    uint32_t b, rest;

    if (c == SLOTS_CLASSES)
        return 0;
    b = pop_free(s, c, &s->free[c]);
    rest = s->blocks[b].size - size;
    if (rest > s->blocks[b].size / WHOLE) {
        push_free(s, new_block(s, b, s->blocks[b].offset + size, rest));
        s->blocks[b].size = size;
    }
    return b;
}

/* Make one block of all free ones that lie side by side, and none of those at the top. */
static void merge(struct slots *s)
{
    uint32_t before = 0, b, after;

    memset(s->free, 0, sizeof(s->free));
    memset(s->map, 0, sizeof(s->map));
    for (b = s->blocks[0].after; b != 0; before = b, b = s->blocks[b].after) {
        if (s->blocks[b].given)
            continue;
        while ((after = s->blocks[b].after) != 0 && !s->blocks[after].given) {
            s->blocks[b].size += s->blocks[after].size;
            s->blocks[b].after = s->blocks[after].after;
            forget_block(s, after);
        }
        if (after != 0) {
            push_free(s, b);
            continue;
        }
        s->top = s->blocks[b].offset;
        s->blocks[before].after = 0;
        forget_block(s, b);
        b = before;
        break;
    }
    s->last = b != 0 ? b : before;
    s->scattered = false;
}

static uint32_t find(struct slots *s, uint32_t size)
{
    uint32_t b = take_from_class(s, size, GLANCES);

    if (b == 0)
        b = take_from_top(s, size);
    if (b == 0)
        b = take_from_larger(s, size);
    if (b == 0)
        b = take_from_class(s, size, UINT32_MAX);
    return b;
}

/* ---- Out and back ---- */

int slots_take(struct slots *s, uint64_t size, struct slots_place *place)
{
    uint32_t units, b, *list;
    struct slots_block *block;

    assert(size > 0);
    if (s->n_given == POOL_SLOTS)
        return -EBUSY;
    if (size > in_bytes(s->end)) {
        if (s->scattered)
            merge(s); /* how far it is to grow depends on where the top is */
        return -ENOSPC;
    }
    if (reserve_block(s) < 0)
        return -ENOMEM;
    units = in_units(size);
    b = find(s, units);
    if (b == 0 && s->scattered) {
        merge(s);
        b = find(s, units);
    }
    if (b == 0)
        return -ENOSPC;
    block = &s->blocks[b];
    block->given = true;
    block->generation = ++s->generation;
    block->tag = 0;
    list = bucket(s, block->offset);
    block->next = *list;
    *list = b;
    s->n_given++;
    *place = (struct slots_place){.offset = in_bytes(block->offset),
                                  .size = in_bytes(block->size),
                                  .generation = block->generation};
    return 0;
}

bool slots_at_hand(const struct slots *s, uint64_t size)
{
    uint32_t units = in_units(size);
    uint32_t b = s->free[class_of(units)];

    return b != 0 && s->blocks[b].size >= units;
}

uint64_t slots_end_wanted(const struct slots *s, uint64_t size)
{
    return in_bytes(s->top) + in_bytes(in_units(size));
}

/* The link that leads to the block that was given out at this offset, or to nothing. */
static uint32_t *find_given(struct slots *s, uint64_t offset)
{
    uint32_t units = (uint32_t)(offset / WIRE_SLOT_UNIT);
    uint32_t *link = bucket(s, units);

    while (*link != 0 && s->blocks[*link].offset != units)
        link = &s->blocks[*link].next;
    return link;
}

bool slots_give(struct slots *s, uint64_t offset, uint32_t generation)
{
    uint32_t *link = find_given(s, offset);
    uint32_t b = *link;

    if (b == 0 || s->blocks[b].generation != generation)
        return false;
    *link = s->blocks[b].next;
    s->blocks[b].given = false;
    push_free(s, b);
    s->n_given--;
    s->scattered = true;
    return true;
}

bool slots_find(const struct slots *s, uint64_t offset, struct slots_place *place)
{
    uint32_t b = *find_given((struct slots *)(uintptr_t)s, offset);
    const struct slots_block *block;

    if (b == 0 || offset % WIRE_SLOT_UNIT != 0)
        return false;
    block = &s->blocks[b];
    *place = (struct slots_place){.offset = offset,
                                  .size = in_bytes(block->size),
                                  .generation = block->generation,
                                  .tag = block->tag};
    return true;
}

void slots_tag(struct slots *s, uint64_t offset, uint32_t tag)
{
    uint32_t b = *find_given(s, offset);

    assert(b != 0);
    s->blocks[b].tag = tag;
}
