/* Waiting for what other processes do, in tests: look, and look again a millisecond later, until it
 * is so or patience is at an end. Nothing is assumed about how long anything takes; only that
 * nothing takes for ever. */
#ifndef MQBROKER_TESTS_SUPPORT_PATIENCE_H
#define MQBROKER_TESTS_SUPPORT_PATIENCE_H

#include <stdint.h>

enum { PATIENCE_MS = 40000 };

/* Milliseconds of CLOCK_MONOTONIC. */
uint64_t patience_now(void);

/* Wait a moment; fails the test, naming `what`, if that has gone on since `begun` for too long. */
void patience_spend(uint64_t begun, const char *what);

/* Wait until the condition holds. Evaluates it again and again. */
#define PATIENCE_UNTIL(condition)                                                                  \
    do {                                                                                           \
        uint64_t patience_begun = patience_now();                                                  \
        while (!(condition))                                                                       \
            patience_spend(patience_begun, #condition);                                            \
    } while (0)

#endif
