/* The memory that a session and the broker share: its outbox, which the broker makes, and the
 * header of its pool, which the client makes and nobody here believes (floor 4). */
#ifndef MQBROKER_BROKER_SHARE_H
#define MQBROKER_BROKER_SHARE_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/guard.h"
#include "libclient/segment.h"

struct broker;

struct share {
    struct segment outbox;
    struct guard pool;
    uint64_t missed; /* since when its pool is looked for, nanoseconds of CLOCK_BOOTTIME; 0: not */
    bool waits;      /* for its pool, or for memory for its outbox: broker.share_retry */
};

#define SHARE_NONE ((struct share){.outbox = SEGMENT_CLOSED})

/* Make the outbox of a session that registers, and attach it to the engine. 0 or -errno; -ENOSPC:
 * /dev/shm is full. */
int share_make(struct broker *b, uint16_t row);

/* The outbox that a killed broker left, before life_start(). One that is not the one that was made
 * is not attached: the session is to end. -errno: it cannot be opened now. */
int share_adopt(struct broker *b, uint16_t row);

/* The pump found no free buffer in the outbox: look into the session's pool what it has taken, and
 * put memory behind one more. */
void share_provide(struct broker *b, uint16_t row);

/* Try once more in a while. */
void share_try_later(struct broker *b, uint16_t row);

/* Collect the release rings of all sessions that hold something. Once a turn, and before sleeping.
 */
void shares_collect(struct broker *b);

/* What is due: what share_try_later() put off, and the end of sessions whose pools were cut off. */
void shares_check(struct broker *b);

/* How many pools there are, on the board: whenever sessions have come or gone. */
void shares_show(struct broker *b);

/* Unlink the pools of ended sessions that nothing needs any more (engine.unlinked). */
void shares_unlink(struct broker *b);

/* The session is over, its row not free yet: its outbox goes, and its pool unless it is needed
 * still. */
void share_remove(struct broker *b, uint16_t row);

/* It was refused: there was no pool yet. */
void share_discard(struct broker *b, uint16_t row);

/* Unmap; the segments stay. Fine on one that has none. */
void share_close(struct share *share);

#endif
