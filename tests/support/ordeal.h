/* A broker that is traced and the scenario that is played beside it: what is common to the tests
 * that do something to the broker at one of its system calls.
 *
 * All functions fail the test when something goes wrong. */
#ifndef MQBROKER_TESTS_SUPPORT_ORDEAL_H
#define MQBROKER_TESTS_SUPPORT_ORDEAL_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/proof.h"
#include "tests/support/scenario.h"
#include "tests/support/tracer.h"
#include "tools/bench-folder.h"

enum { ORDEAL_NEVER = UINT32_MAX };

struct ordeal {
    struct daemon *daemon;
    struct scenario *scenario;
    struct tracer tracer;
    struct actor actor;
    struct folder journal; /* of ordeal_write() */
    char where[96];        /* what was done, for who reads that it was too much */
};

/* `state` is that of a cmocka test with daemon.h's fixtures. MQB_BROKER in the environment names
 * another broker: one with a fault planted in it, say. */
void ordeal_init(struct ordeal *o, void *state);
void ordeal_deinit(struct ordeal *o);

/* Have the broker keep a journal, and the scenario use it. Before the first start. */
void ordeal_write(struct ordeal *o);

/* Run the broker on, up to its call number `k` from here: it stands before that. How many it made
 * if there are fewer, else `k`. There are fewer when the scenario is over, or, while it `starts`,
 * when the broker serves and sleeps. */
unsigned ordeal_run(struct ordeal *o, unsigned k, bool starts);

/* Start the broker and run it to call number `k`, counted from where it opens its configuration:
 * what is before that is the C library's start. */
unsigned ordeal_start(struct ordeal *o, unsigned k);

/* The broker is going to be killed, or to be away for another reason, at call number `k`: clients
 * that wait do so since now. */
void ordeal_mark(struct ordeal *o, unsigned k, const char *what);

/* Everybody is gone, and nothing of them is left; then the broker goes, and nothing of it is. */
void ordeal_expect_nothing_left(struct ordeal *o);

/* The scenario comes to its end, and all was right. */
void ordeal_finish(struct ordeal *o, struct proof *p);

#endif
