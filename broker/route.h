/* Route: from an envelope in the landing to references, made real by one store (core-sketch section
 * 2; K1, K2, K4, P6, L2, L3). Pure; floor 3. */
#ifndef MQBROKER_BROKER_ROUTE_H
#define MQBROKER_BROKER_ROUTE_H

#include "broker/engine.h"

/* Before an envelope is received into e->landing->bytes: say which queue it comes from. */
void route_expect(struct engine *e, enum landing_from from);

/* Route what was received: `size` bytes as the kernel said; 0 at a start, where the envelope's own
 * length is believed. Clears the landing. The shell has seen to memory (engine_wants_references,
 * engine_wants_cells) and to a fresh token. */
void route(struct engine *e, size_t size);

/* Something that the broker does by itself, as one change: what is made between route_begin() and
 * route_commit() becomes real together, what was named with route_end() ends in route_finish(),
 * also if the broker is killed in between (K6). Not while an envelope is in the landing. */
void route_begin(struct engine *e);
void route_commit(struct engine *e);
void route_finish(struct engine *e);

/* End this reference after the commit, also of an envelope's landing. */
void route_end(struct engine *e, uint32_t slot);

/* Publish a session's last will, and end the reference that kept it. */
void route_will(struct engine *e, uint16_t row);

/* A start: bring what was in the landing when the broker was killed to its end. True if there was
 * an envelope. */
bool route_resume(struct engine *e);

#endif
