/* An outbox: the segment in which the broker writes for one client (PROTOCOL.md section 11). Layout
 * and sizes only; floor 0.
 *
 * The broker makes it with the session, and it alone writes to it; the client maps it read-only. It
 * has three parts. A ring of places in the client's own pool that nobody reads any more, so that
 * they can be used again. Buffers for batches too large for the reply queue: the queue message then
 * only says which buffer, and that goes at the price of a small one whatever the queue's width. And
 * behind them copies of payloads that the client could not map.
 *
 * A buffer is free when pool.taken[b] == outbox.sent[b]: each word has one writer, so no death of
 * either leaves it in doubt. */
#ifndef MQBROKER_LIBCLIENT_OUTBOX_H
#define MQBROKER_LIBCLIENT_OUTBOX_H

#include <stdatomic.h>
#include <stdint.h>

#include "libclient/wire.h"

#define OUTBOX_MAGIC UINT32_C(0x4f51424d) /* "MBQO" */

enum {
    OUTBOX_LAYOUT = 1,
    OUTBOX_BUFFERS = 64, /* at most; a session has two more than its queue holds messages */
    OUTBOX_BUFFER = WIRE_BATCH_MAX, /* bytes of each */
    OUTBOX_RING = 4096,             /* places handed back */
};

struct outbox_header {
    uint32_t magic;
    uint32_t layout;
    uint64_t nonce; /* of the session */
    uint32_t n_buffers;
    uint32_t buffer_size;

    /* Places of the client's pool handed back, ever: offset << 32 | generation, the next one goes
     * to ring[returned % OUTBOX_RING]. One may come twice, across a start of the broker: its
     * generation tells. */
    _Alignas(64) _Atomic uint64_t returned;

    /* Names taken out of the pool's release ring, ever. */
    _Alignas(64) _Atomic uint64_t collected;

    /* Number of the batch that was put into each buffer last; 0: none yet. */
    _Alignas(64) _Atomic uint64_t sent[OUTBOX_BUFFERS];

    _Alignas(4096) _Atomic uint64_t ring[OUTBOX_RING];
};

_Static_assert(sizeof(struct outbox_header) == 4096 + 8 * OUTBOX_RING, "layout");

/* Where buffer b begins, and the copies. */
static inline uint64_t outbox_buffer_offset(uint32_t b)
{
    return sizeof(struct outbox_header) + (uint64_t)b * OUTBOX_BUFFER;
}

enum { OUTBOX_COPIES = sizeof(struct outbox_header) + OUTBOX_BUFFERS * OUTBOX_BUFFER };

#endif
