/* Knots: clients that wait for room, and for each other (rule P5). Pure; floor 3.
 *
 * A client that waits for room reads on into its inbox, so that those who wait for it can go on.
 * But a payload in a pool, or a message of a group, is still wanted back from who has only read it
 * into an inbox; so clients can come to wait for each other, and one for itself. Such a wait ends
 * when one of their users reads, which none does before his call returns: it is to return -EDEADLK.
 *
 * No client can know this, and a wait that will end must not look like it, however long it takes.
 * So each says in its pool that it waits (pool.h), and what is done with that is here. */
#ifndef MQBROKER_BROKER_KNOTS_H
#define MQBROKER_BROKER_KNOTS_H

#include "broker/engine.h"

/* Look for knots, and tell their members on the board and by a batch. One is believed when it was
 * seen twice, so that whatever stood in the request queues at first has been routed. Goes through
 * the references if some of those who wait have something unread, and then takes the longer to come
 * again. */
void knots_look(struct engine *e);

/* When that is due, in nanoseconds of CLOCK_BOOTTIME; UINT64_MAX: nobody waits. */
uint64_t knots_next_look(const struct engine *e);

/* Somebody seems to have begun to wait: it is due soon. */
void knots_expect(struct engine *e);

#endif
