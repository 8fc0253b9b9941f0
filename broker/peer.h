/* A session's kernel objects: its reply queue and its process (floor 4). */
#ifndef MQBROKER_BROKER_PEER_H
#define MQBROKER_BROKER_PEER_H

#include "broker/shell.h"

enum { PEER_LOOK_AFTER = 500000000 }; /* nanoseconds between looks at processes without a pidfd */

/* A session that registered (engine.making): watch its process, make its queue and its outbox, or
 * refuse it. */
void peer_make(struct broker *b, uint16_t row);

/* A session that a killed broker left: its queue must be the one that was made (K8), else it ends.
 * 0; -errno: it cannot be opened now, and is left as it is. */
int peer_adopt(struct broker *b, uint16_t row);

/* A session that is over (engine.leaving): tell it why, if anybody is there to read it; then its
 * queue goes, and what it shared with the broker, as soon as nobody reads it any more. */
void peer_remove(struct broker *b, uint16_t row);

/* Close its descriptors; the queue stays. Fine on one that has none. */
void peer_close(struct broker *b, struct peer *peer);

/* See whether those live whose death no descriptor tells; now and then. */
void peers_look_after(struct broker *b);

/* Send what waits for the sessions that are touched (engine.touched), each up to what its queue
 * holds. */
void peers_pump(struct broker *b);

#endif
