/* A deadline, and a millisecond's rest between two looks. */
#include "tests/support/patience.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

uint64_t patience_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void patience_spend(uint64_t begun, const char *what)
{
    const struct timespec moment = {.tv_nsec = 1000000};

    if (patience_now() - begun > PATIENCE_MS)
        fail_msg("waited %d s in vain for: %s", PATIENCE_MS / 1000, what);
    nanosleep(&moment, NULL);
}
