/* Clients that load a broker while something is done to it: publishers of stamped payloads at all
 * priorities, subscribers that read them all, and somebody who asks questions that somebody else
 * answers. Each is a process. Nothing may be lost, come twice or out of order, and no call of
 * theirs may fail: what is done to the broker is to them a pause. */
#ifndef MQBROKER_TESTS_SUPPORT_LOAD_H
#define MQBROKER_TESTS_SUPPORT_LOAD_H

#include "tests/support/actor.h"
#include "tests/support/daemon.h"

enum {
    LOAD_PUBLISHERS = 3,
    LOAD_SUBSCRIBERS = 2,
    LOAD_LARGEST = 200000, /* bytes of a payload at most */
};

struct load_part {
    const char *instance;
    uint32_t publisher;
    uint32_t largest; /* payload, in bytes: from sizeof(struct stamp) to LOAD_LARGEST */
    int batching;
};

struct load {
    struct actor publishers[LOAD_PUBLISHERS];
    struct actor subscribers[LOAD_SUBSCRIBERS];
    struct actor server;
    struct actor asker;
};

/* All of them, and the end of it: each subscriber has read all that was published. Returns how many
 * that were. Questions are asked and answered as well. */
void load_begin(struct load *l, const struct daemon *d, uint32_t largest);
uint64_t load_end(struct load *l);

/* Return when the broker has taken more messages than now: some number below `most`, by chance. */
void load_wait(const struct daemon *d, uint32_t *random, uint32_t most);

/* An actor by itself: publishes to "load" until it hears something; then says how many. */
void load_publish(struct actor *self, const void *part);

/* An actor: reads "load" until it has read as many as it hears there are, and says so. */
void load_read(struct actor *self, const void *part);

#endif
