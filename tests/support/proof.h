/* What it came to, when something was done to a broker at each of many points: for the reader of a
 * test's output, and for docs/reliability.md. */
#ifndef MQBROKER_TESTS_SUPPORT_PROOF_H
#define MQBROKER_TESTS_SUPPORT_PROOF_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/support/tally.h"
#include "tools/histogram.h"

struct proof {
    unsigned points;
    struct tally_figures figures;
    struct histogram waits; /* the longest of a client over each point, nanoseconds */
};

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t proof_now(void);

/* Are all points to be tried, and not some of them? (MQB_LONG in the environment.) */
bool proof_is_long(void);

/* The step from one point to the next, if there are `all` and the short form tries `few`. */
unsigned proof_stride(unsigned all, unsigned few);

/* A point was tried, and all was right. `wait` 0: nobody had to. */
void proof_add(struct proof *p, const struct tally_figures *figures, uint64_t wait);

/* One line on standard output: "<what>: 120 kills, …". */
void proof_report(const struct proof *p, const char *what, const char *points);

#endif
