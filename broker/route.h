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

/* A start: bring what was in the landing when the broker was killed to its end. True if there was
 * an envelope. */
bool route_resume(struct engine *e);

#endif
