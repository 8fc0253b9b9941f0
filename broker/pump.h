/* Pump: from references to batches (core-sketch section 3; K3, P1, P2, P5, P7). Pure; floor 3.
 *
 * A send is two verbs: the engine says what is next, the shell sends it and says how that went
 * (E2):
 *
 *     while ((what = pump_next(e, row, &batch)) != PUMP_NOTHING && what != PUMP_BLOCKED)
 *         if (what == PUMP_ASK)  pump_room(e, row, free places in its queue)
 *         else                   mq_send(batch) == 0 ? pump_sent(e, row) : pump_full(e, row)
 *
 * Nothing else may be done with the engine between pump_next() and pump_sent() or pump_full(). */
#ifndef MQBROKER_BROKER_PUMP_H
#define MQBROKER_BROKER_PUMP_H

#include "broker/engine.h"

enum pump_outcome {
    PUMP_NOTHING = 0, /* nothing waits for this session */
    PUMP_BATCH,       /* send `batch` */
    PUMP_ASK,         /* ask the kernel how much room there is, and say pump_room() */
    PUMP_BLOCKED,     /* no room: wait for the queue's edge (P2), then pump_edge() */
    PUMP_WANTS_POOL, /* map its pool and engine_attach() it, or end the session (WIRE_C_BAD_POOL) */
};

struct pump_batch {
    const uint8_t *bytes; /* the engine's; until pump_sent() or pump_full() */
    uint32_t size;
    uint8_t level; /* kernel priority */
};

int pump_next(struct engine *e, uint16_t row, struct pump_batch *batch);
void pump_room(struct engine *e, uint16_t row, uint32_t room);
void pump_sent(struct engine *e, uint16_t row);
void pump_full(struct engine *e, uint16_t row);

/* How many buffers its outbox may come to have. */
uint32_t pump_buffers(const struct row *row);

/* The queue's reader has taken something. */
void pump_edge(struct engine *e, uint16_t row);

/* The delivery that a name stands for, if the session was really sent it and something is still to
 * come back for it; 0: none. If it was in doubt, that it comes back settles it. */
uint32_t pump_named(struct engine *e, uint16_t row, uint64_t name);

/* A name from the batch in doubt has come back: it had gone. Mark it as sent. */
void pump_settle(struct engine *e, uint16_t row);

/* The last batch of a session: STOPPED or ENDED with a code. It takes the last place of the queue
 * (K9). */
void pump_farewell(struct engine *e, uint16_t row, uint8_t type, uint8_t code,
                   struct pump_batch *batch);

#endif
