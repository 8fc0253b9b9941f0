/* Payload pools, as the engine sees them (rules S1, S7, P8). Pure; floor 3.
 *
 * A cell whose message is POOLED names a place in its publisher's pool. While the cell lives the
 * place is not used again; when its last reference has ended, the place is handed back through the
 * ring in its owner's outbox, first, and then the reference is ended: a kill between hands it back
 * twice, and the owner knows by the generation. What receivers have done with comes in through the
 * release rings in their pools, which nobody here believes.
 *
 * The ledger has the nonces of all pools there are. One whose session has ended stays, as an
 * *orphan*, until no cell names a place in it. */
#ifndef MQBROKER_BROKER_POOLS_H
#define MQBROKER_BROKER_POOLS_H

#include "broker/engine.h"

/* One of the ledger's pools, by slot. Derived. */
struct pool {
    uint32_t refs;  /* cells that name a place in it */
    uint16_t owner; /* row; REF_NOBODY: an orphan, or there is none */
};

/* A free place for a pool; UINT32_MAX: none. */
uint32_t pools_free_slot(const struct engine *e);

/* The pool of this nonce, as cells have it: 1 + slot; 0: there is none. */
uint16_t pools_find(const struct engine *e, uint64_t nonce);

/* A cell names a place in pool `pool` (1 + slot) from now on. */
void pools_join(struct engine *e, struct cell *c, uint16_t pool);

/* Its last reference is about to end: hand the place back. */
void pools_leave(struct engine *e, struct cell *c);

/* The cell goes before anything refers to it; somebody else sees to the place. */
void pools_part(struct engine *e, struct cell *c);

/* Hand a place back to its owner: offset << 32 | generation. */
void pools_hand_back(struct engine *e, uint16_t row, uint64_t place);

/* The place of a pooled message, as it is handed back. */
static inline uint64_t pools_place(const struct wire_slot *slot)
{
    return (uint64_t)slot->offset << 32 | (uint32_t)slot->name;
}

/* Look at this session's pool from now on: it holds something, or something of it was lent. */
void pools_look_at(struct engine *e, uint16_t row);

/* Take what stands in the release rings of the sessions that hold something (e->holders) and whose
 * pools are attached. One that makes no sense ends its session. Wakes owners that wait for places.
 */
void pools_collect(struct engine *e);

/* True: somebody waits for what a ring may bring; the board is to say BOARD_LISTENING. */
bool pools_listen(const struct engine *e);

/* A fresh row gets the pool slot `slot` (pools_free_slot) for the pool of this nonce. */
void pools_adopt(struct engine *e, uint16_t row, uint32_t slot, uint64_t nonce);

/* At a start: whose pools there are, before references are linked; and what nobody needs any more,
 * after. */
void pools_start(struct engine *e);
void pools_started(struct engine *e);

/* The session's row is about to be free. True: nothing needs its pool, it is to be unlinked now
 * (and pools_gone() to be said). False: an orphan; it comes in e->unlinked when its time has come.
 */
bool pools_orphan(struct engine *e, uint16_t row);

/* It is unlinked: its place in the ledger is free. */
void pools_gone(struct engine *e, uint32_t slot);

/* Does this session hold that delivery? Its payload's place, if so (the pool's nonce, offset,
 * size). */
bool pools_holds(const struct engine *e, uint16_t row, uint64_t name, struct wire_slot *slot);

/* The answer to a FETCH (the shell finds them in e->fetching, session.fetch): the copy lies at
 * `offset` of the session's outbox; or code WIRE_C_NO_COPY. */
void pools_lend(struct engine *e, uint16_t row, uint8_t code, uint64_t name, uint64_t offset,
                uint64_t size);

#endif
