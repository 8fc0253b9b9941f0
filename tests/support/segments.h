/* The two segments of a session, pool and outbox, in plain memory; and what an honest client does
 * with them (PROTOCOL.md section 11).
 *
 * A pool here has as many places as one may have, all of one size, and a payload is one word: who
 * reads a place reads what its owner put there last, so a place that was given out again too early
 * shows itself. Nothing here asserts; what is wrong is counted in `fault`, and a test looks at
 * that. */
#ifndef MQBROKER_TESTS_SUPPORT_SEGMENTS_H
#define MQBROKER_TESTS_SUPPORT_SEGMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libclient/outbox.h"
#include "libclient/pool.h"
#include "libclient/wire.h"

enum {
    SEGMENTS_PLACES = POOL_SLOTS,
    SEGMENTS_PLACE = 1024, /* bytes from one to the next */
    SEGMENTS_POOL = POOL_PAYLOADS + SEGMENTS_PLACES * SEGMENTS_PLACE,
};

struct segments {
    uint64_t nonce;               /* of the pool */
    bool linked;                  /* the pool's name is there */
    struct outbox_header *outbox; /* both NULL once the session has ended */
    struct pool_header *pool;
    uint32_t max_buffers; /* that the outbox has memory for; it says one to begin with, or none */

    /* The owner's part. */
    uint64_t n_looked;  /* places handed back, as far as it has looked */
    uint32_t n_given;   /* places that it has given out */
    uint32_t n_repeats; /* handed back under a generation that is not theirs any more */
    const char *fault;  /* the first thing that cannot be; NULL: nothing */
    struct {
        uint64_t payload;
        uint32_t generation;
        bool given;
    } places[SEGMENTS_PLACES];
};

/* A pool by this nonce, and an outbox with memory for so many buffers. NULL: no memory. */
struct segments *segments_new(uint64_t nonce, uint64_t session, uint32_t max_buffers);

/* The broker has put memory behind one more buffer, if it may have more. */
void segments_grow(struct segments *s);

/* Its session has ended: outbox and header are gone, what is in the places is still mapped. */
void segments_end(struct segments *s);

struct segments *segments_free(struct segments *s);

/* ---- The owner ---- */

/* Put a payload of `size` bytes into a free place, the one that came back last. False: none. */
bool segments_put(struct segments *s, uint64_t payload, uint32_t size, struct wire_slot *slot);

/* See what came back. Returns how many places are free again by it. */
uint32_t segments_look(struct segments *s);

/* ---- The receiver ---- */

/* What lies in a place of the pool `s`, which must have been given out; else 0, and a fault. */
uint64_t segments_payload(struct segments *s, const struct wire_slot *slot);

/* Give a delivery back. */
void segments_release(struct segments *s, uint64_t name);

/* A copy of the batch that a queue message with BOXED names, exactly `boxed->boxed_size` bytes; the
 * buffer is the broker's again. The caller frees it. NULL: there is no such buffer, or no memory.
 */
uint8_t *segments_unbox(struct segments *s, const struct wire_frame *boxed, uint64_t number);

#endif
