/* What is measured: the systems, the works, and what came of each work. */
#ifndef MQBROKER_TESTS_PEERS_WORKS_H
#define MQBROKER_TESTS_PEERS_WORKS_H

#include <stdbool.h>
#include <stddef.h>

#include "tools/bench.h"

enum {
    SYSTEMS_MAX = 16,
    WORKS_MAX = 16,
};

/* The ways of every work, in the order of the tables. */
extern const struct bench_way systems[];
extern const size_t n_systems;

struct work {
    const char *key;
    const char *heading;
    const struct bench_mode *mode;
    size_t size;
    unsigned publishers;
    unsigned subscribers;
    bool flow;            /* its figures are those of tools/bench-flow.h */
    unsigned outstanding; /* durable messages that may be unconfirmed */
};

extern const struct work works[];
extern const size_t n_works;

/* A work that was done. Its mode is the work's, with the systems for ways. */
struct done {
    const struct work *work;
    struct bench_mode mode;
    struct bench_way ways[SYSTEMS_MAX];
    struct bench_options options;
    struct bench_result result;
};

/* Do it with the systems whose key begins with `only` (NULL: all). `done` must stay where it is.
 * Returns 0, and done->result is to be freed; or -1 with bench_error() set, only if interrupted or
 * out of memory: a system that fails has no figures and a sentence on standard error. */
int works_do(struct done *done, const struct work *work, const struct bench_options *asked,
             const char *only);

#endif
