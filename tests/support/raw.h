/* A session by hand: what PROTOCOL.md says, word by word, without the client library. So a test can
 * do what an honest client never does, or leave out what it always does.
 *
 * All functions fail the test when something goes wrong. */
#ifndef MQBROKER_TESTS_SUPPORT_RAW_H
#define MQBROKER_TESTS_SUPPORT_RAW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libclient/outbox.h"
#include "libclient/pool.h"
#include "libclient/queue.h"
#include "libclient/segment.h"
#include "libclient/wire.h"
#include "tests/support/daemon.h"

struct raw {
    const struct daemon *daemon;
    uint64_t nonce;
    uint64_t pool_nonce;
    uint16_t session;
    uint8_t token[WIRE_TOKEN_SIZE];
    struct wire_frame welcome;
    struct queue normal, urgent, reply;
    struct segment outbox; /* read-only */
    struct segment pool;   /* once raw_make_pool() made it */

    /* What was read last. */
    struct wire_batch batch;
    uint8_t bytes[WIRE_BATCH_MAX];
    size_t at; /* the next frame, from the batch's first */
    bool boxed;
    unsigned n_boxed;
    uint64_t taken[OUTBOX_BUFFERS]; /* as it stands in the pool, or will */
};

/* Register, and read WELCOME. The pool is only announced. */
void raw_open(struct raw *r, const struct daemon *d, const char *name);

/* Make the pool: its header, and so many bytes for payloads. */
void raw_make_pool(struct raw *r, size_t payloads);
struct pool_header *raw_pool(const struct raw *r);
const struct outbox_header *raw_outbox(const struct raw *r);

/* Say goodbye if `bye`, and close everything; the broker removes it. */
void raw_close(struct raw *r, bool bye);

/* Send an envelope with this frame: control frames, and messages of a priority. */
void raw_control(struct raw *r, const void *frame, size_t size);
void raw_message(struct raw *r, const void *frame, size_t size, unsigned priority);
void raw_subscribe(struct raw *r, const char *filter); /* and read the answer */
void raw_publish(struct raw *r, const char *topic, uint32_t offset, uint32_t size,
                 uint32_t generation); /* pooled; `offset` in units */

/* Wait for the next frame. What stood in a buffer was taken out. */
void raw_next(struct raw *r, struct wire_frame *frame);

/* The same, but only of this type: others are passed over. */
void raw_next_of(struct raw *r, uint8_t type, struct wire_frame *frame);

/* Give a delivery back, and nudge if somebody waits for it. */
void raw_release(struct raw *r, uint64_t name);

#endif
