/* The broker's memory: ledger, store and board of an instance, and the lock that makes one broker
 * per instance. Floor 4.
 *
 * What a broker that was killed left is adopted, with its geometry; what is of another layout is
 * refused and not touched; what a clean stop began to remove is removed (K8, K9). */
#ifndef MQBROKER_BROKER_MEMORY_H
#define MQBROKER_BROKER_MEMORY_H

#include <stdbool.h>

#include "broker/config.h"
#include "broker/engine.h"
#include "broker/plan.h"
#include "libclient/segment.h"

struct memory {
    const char *instance;
    struct segment ledger; /* its descriptor holds the lock */
    struct segment store;
    struct segment board;
    bool adopted; /* another broker left it */
};

/* Lock the instance and map its memory, fresh or adopted. Returns 0 or -errno: -EBUSY another
 * broker holds it, -EACCES it belongs to another user, -EPROTO it is of another layout. On failure
 * a sentence is logged, and nothing is held. `instance` must stay. */
int memory_open(struct memory *m, const char *instance, const struct config *config,
                const struct plan *plan);

static inline struct ledger *memory_ledger(const struct memory *m)
{
    return m->ledger.base;
}

static inline struct board_header *memory_board(const struct memory *m)
{
    return m->board.base;
}

/* Put memory behind the next megabyte of references or cells, as the engine wants it, as often as
 * it does. 0 or -ENOSPC: the tmpfs is full (the engine then refuses publishes). */
int memory_grow(struct memory *m, struct engine *e);

/* Unlink what sessions have: reply queues, outboxes, and all pools that there are. */
void memory_remove_sessions(const struct memory *m);

/* Unlink all three. The ledger last, so that the instance is held until the end. */
void memory_remove(struct memory *m);

/* Unmap, and give the lock back. Fine on what was never opened. */
void memory_close(struct memory *m);

#endif
