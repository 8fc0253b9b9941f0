/* The history of a journal: which segments belong together, in which order, where each ends, which
 * records they have, and what in them is damaged. Pure: who calls it brings the bytes. Floor 0. */
#ifndef MQBROKER_BROKER_HISTORY_H
#define MQBROKER_BROKER_HISTORY_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/record.h"

enum history_role {
    HISTORY_IDLE = 0, /* nothing in it counts: prepared, or free to be used again */
    HISTORY_PART,
    HISTORY_CUT, /* it has records behind a torn tail: they never counted */
};

struct history_segment {
    struct record_header header; /* the caller's; all else is found */
    enum history_role role;
    bool begun;                /* its BEGIN is good: */
    struct record_begin begin; /* what that says */
    bool end_known;            /* the next segment says where it ends */
    uint32_t end;              /* of a PART: where its records end */
};

/* Something that was synced, and cannot be read. */
struct history_damage {
    uint64_t generation;
    uint32_t slot;   /* of that generation; RECORD_SLOTS_MAX: no segment has it */
    uint32_t offset; /* from here */
    uint32_t size;   /* so many bytes */
    int outcome;     /* enum record_outcome of what stands first there */
};

struct history_reader {
    /* Bytes of a segment's file; what cannot be read is to be zeros. 0 or -errno: that ends it. */
    int (*load)(void *context, uint32_t slot, uint32_t offset, uint32_t size, uint8_t *to);
    /* The next record; lent. 0 or -errno. */
    int (*record)(void *context, const struct history_segment *segment, uint32_t offset,
                  const struct record *record);
    void (*damage)(void *context, const struct history_damage *damage);
    void *context;
};

enum history_extent {
    HISTORY_ALL,  /* every record */
    HISTORY_LAST, /* those of the last segment; of the others only where they end */
};

/* Read it. `segments` have good headers, each another generation; they are sorted by it. 0, or
 * -errno of a callback, or -ENOMEM. */
int history_read(struct history_segment *segments, uint32_t n, enum history_extent extent,
                 const struct history_reader *reader);

/* A damage as a sentence. */
void history_sentence(char *out, size_t size, const struct history_damage *damage);

#endif
