/* Payloads that this client cannot map, and has asked the broker to copy (floor 2, pure).
 *
 * One message waits at the front of each priority at most, and beside them the reply to the call
 * (mqc_request), so that many are asked for at once. */
#ifndef MQBROKER_LIBCLIENT_FETCHES_H
#define MQBROKER_LIBCLIENT_FETCHES_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/wire.h"

enum {
    FETCHES_CALL = WIRE_LEVELS, /* the place of the reply to the call */
    FETCHES_PLACES = WIRE_LEVELS + 1,
};

enum fetch_state {
    FETCH_NONE = 0, /* not asked for */
    FETCH_ASKED,
    FETCH_LENT, /* it lies in the outbox */
    FETCH_LOST, /* it cannot be had any more */
};

struct fetch {
    uint64_t name;  /* of the delivery */
    uint64_t again; /* when to ask again; the caller's */
    uint64_t offset;
    uint64_t size;
    uint8_t state;
};

struct fetches {
    struct fetch places[FETCHES_PLACES];
};

/* The one of the delivery that waits at this place. What another delivery left there is forgotten.
 */
struct fetch *fetches_at(struct fetches *f, unsigned place, uint64_t name);

/* LENT came. False: nothing of this name is waited for. */
bool fetches_answer(struct fetches *f, const struct wire_frame *lent);

#endif
