/* A run of a death test: random steps of clients and broker from a seed, its end, and what must be
 * so then. */
#ifndef MQBROKER_TESTS_SUPPORT_DEATH_RUN_H
#define MQBROKER_TESTS_SUPPORT_DEATH_RUN_H

#include <stdint.h>

/* The memory of all runs. */
void run_init(void);
void run_deinit(void);

/* One run. What was wrong, valid until the next; NULL: nothing. */
const char *run(uint64_t seed);

#endif
