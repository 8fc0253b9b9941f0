/* Small payloads of messages that wait in groups: out of their publishers' pools, into the store
 * (floor 4). So a group may have a long backlog, and no publisher waits for its places. */
#ifndef MQBROKER_BROKER_SETTLE_H
#define MQBROKER_BROKER_SETTLE_H

#include <stdbool.h>
#include <stdint.h>

struct broker;

/* The pool that was read from last. */
struct settler {
    uint64_t nonce; /* 0: none */
    int fd;
};

/* Bring in some of those that are due (engine.settling). After sessions were pumped: what could be
 * delivered at once was. */
void settle_step(struct broker *b);

void settle_close(struct broker *b);

#endif
