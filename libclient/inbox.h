/* The inbox: batches that were read from the reply queue and are not used up (floor 2, pure).
 *
 * A batch is one buffer as wide as the reply queue. It is received into in place, its messages are
 * handed out in place, and it goes back to the free buffers when the last of them was freed:
 * nothing is copied and nothing allocated for a message. */
#ifndef MQBROKER_LIBCLIENT_INBOX_H
#define MQBROKER_LIBCLIENT_INBOX_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/wire.h"

enum { INBOX_LEVELS = WIRE_CONTROL + 1 }; /* kernel priorities: those of messages, and control */

struct inbox_batch {
    struct inbox *inbox;
    struct inbox_batch *next; /* in its level's list, or among the free ones */
    struct inbox_batch *made; /* made before this one */
    uint32_t
        holds; /* messages handed out and not freed, and one while the inbox or its filler has it */
    uint32_t at; /* not yet handed out: bytes[at, end) */
    uint32_t end;
    uint8_t bytes[]; /* `width` of the inbox */
};

struct inbox_list {
    struct inbox_batch *first;
    struct inbox_batch *last;
    uint32_t n;
};

struct inbox {
    uint64_t map; /* bit l: levels[l] is not empty */
    uint32_t depth;
    uint32_t width;
    uint32_t n;         /* batches in all lists */
    uint32_t n_crowded; /* levels that hold `depth` or more */
    struct inbox_list levels[INBOX_LEVELS];
    uint64_t seen[INBOX_LEVELS]; /* number of the last batch read at each kernel priority */
    struct inbox_batch *free;
    struct inbox_batch *made; /* all of them, for inbox_deinit() */
};

/* For a reply queue of so many messages of so many bytes. Allocates nothing. */
void inbox_init(struct inbox *inbox, uint32_t depth, uint32_t width);

/* Frees every buffer, also those whose messages are still held. */
void inbox_deinit(struct inbox *inbox);

/* A buffer to receive into, with one hold: pass it to inbox_push() or to inbox_release(). NULL: no
 * memory. */
struct inbox_batch *inbox_blank(struct inbox *inbox);

/* Rule K3: is a batch of this number new at this kernel priority (at most WIRE_CONTROL)? Then it is
 * remembered as the last one read there. */
bool inbox_fresh(struct inbox *inbox, unsigned level, uint64_t number);

/* Append a batch whose frames are bytes[at, end), at least one; the caller's hold passes to the
 * inbox. */
void inbox_push(struct inbox *inbox, struct inbox_batch *batch, unsigned level, uint32_t at,
                uint32_t end);

/* The highest level that has something, or -1. */
static inline int inbox_best(const struct inbox *inbox)
{
    return inbox->map == 0 ? -1 : 63 - __builtin_clzll(inbox->map);
}

/* The batch that is read at a level; NULL: none. */
static inline struct inbox_batch *inbox_first(const struct inbox *inbox, unsigned level)
{
    return inbox->levels[level].first;
}

/* Go on by `size` bytes in the first batch of a level, at most to its end. When it is used up it
 * leaves the list, and the inbox gives up its hold: a caller who goes on reading it has taken one
 * before. */
void inbox_advance(struct inbox *inbox, unsigned level, uint32_t size);

/* One more, or one less, that reads in this batch. The last one returns it to the free buffers. */
static inline void inbox_hold(struct inbox_batch *batch)
{
    batch->holds++;
}

void inbox_release(struct inbox_batch *batch);

/* Some level holds as many batches as fit the queue: who waits for room reads no further (rule P5).
 */
static inline bool inbox_crowded(const struct inbox *inbox)
{
    return inbox->n_crowded > 0;
}

/* The bound for everybody: the memory of `depth` batches a level. Looking for a higher priority
 * (rule P1) may go past `depth` in one level, for every rise under a flood leaves a lower batch
 * behind, but not past this. */
static inline bool inbox_full(const struct inbox *inbox)
{
    return inbox->n >= inbox->depth * INBOX_LEVELS;
}

#endif
