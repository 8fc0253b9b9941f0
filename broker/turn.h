/* A turn of the broker, and the rest between two (floor 4). */
#ifndef MQBROKER_BROKER_TURN_H
#define MQBROKER_BROKER_TURN_H

#include "broker/shell.h"

enum { TURN_PAYING_MAX = 8 }; /* how well looking again has paid, at best: broker.paying */

/* What is next: a turn, another look, or sleep until there is an event. 0, a number of events, or
 * -errno: there is no way to go on. */
int turn_next(struct broker *b);

#endif
