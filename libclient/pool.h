/* A payload pool: the segment that a client shares with those who get its large messages
 * (PROTOCOL.md section 11). Layout and sizes only; floor 0.
 *
 * The client makes it, and it alone writes to it. Behind the header lie the payloads. The
 * words of the header are for the broker: which deliveries the client has given back, what it waits
 * for, and which batches it has taken out of its outbox. The broker reads them through a guarded
 * mapping and believes none of them (rules S1, S7, S8). How the space behind the header is given
 * out is the owner's own business, and nowhere to be seen (libclient/slots.h). */
#ifndef MQBROKER_LIBCLIENT_POOL_H
#define MQBROKER_LIBCLIENT_POOL_H

#include <stdatomic.h>
#include <stdint.h>

#include "libclient/outbox.h"
#include "libclient/wire.h"

#define POOL_MAGIC UINT32_C(0x5051424d) /* "MBQP" */

enum {
    POOL_LAYOUT = 1,
    POOL_RING = 2048,  /* names in the release ring */
    POOL_HELD = 1024,  /* deliveries that the broker lets a session hold at once: fewer, so it never
                        * fills up */
    POOL_SLOTS = 2048, /* places that an owner may have given out at once: what comes back fits the
                        * outbox's ring twice */
};

struct pool_header {
    uint32_t magic;
    uint32_t layout;
    uint64_t nonce; /* of its name */

    /* Names of deliveries given back, ever: ring[released % POOL_RING] is the next to be written.
     */
    _Alignas(64) _Atomic uint64_t released;

    /* Above 0: asleep for want of space until the outbox says so many have come back. */
    _Alignas(64) _Atomic uint64_t wants;

    /* Above 0: in a call that waits for room, and reads nothing to its user before it has some. Bit
     * 0: for space in the pool, not for the window; the rest tells this wait from those before. The
     * other two are what it knew when it found none: what it has published in all; and its grant,
     * or how many places had come back. */
    _Atomic uint64_t waits;
    _Atomic uint64_t waits_sent;
    _Atomic uint64_t waits_seen;

    /* For each buffer of the outbox the number of the last batch that was taken out of it. */
    _Alignas(64) _Atomic uint64_t taken[OUTBOX_BUFFERS];

    _Alignas(4096) _Atomic uint64_t ring[POOL_RING];
};

_Static_assert(sizeof(struct pool_header) == 4096 + 8 * POOL_RING, "layout");

/* Payloads begin here. */
enum { POOL_PAYLOADS = sizeof(struct pool_header) };

_Static_assert(POOL_PAYLOADS % WIRE_SLOT_UNIT == 0, "layout");

#endif
