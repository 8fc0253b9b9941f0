/* Makes mqbroker-faulty of a broker: one of the faults of broker/persist.h is planted, the one that
 * the environment variable MQB_FAULT names. Without it this broker is as good as any.
 *
 * With MQB_STRETCH=N it also rests, before one in N of the stores to what outlives it. Such a
 * broker spends a good part of its life between two of those stores, and that is where a random
 * kill then finds it; another is mostly asleep in the kernel, where a kill does no harm. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/support/faults.h"
#include "tests/support/stamp.h"

enum { STRETCH_NS = 50000 };

enum persist_fault persist_fault = FAULT_NONE;
static uint32_t stretch; /* rests before one in so many stores; 0: never */
static uint32_t chance;

void persist_point(void)
{
    const struct timespec rest = {.tv_nsec = STRETCH_NS};

    if (stretch != 0 && stamp_random(&chance) % stretch == 0)
        nanosleep(&rest, NULL);
}

__attribute__((constructor)) static void plant(void)
{
    const char *name = getenv(FAULTS_VARIABLE);
    const char *one_in = getenv(FAULTS_STRETCH);
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    chance = (uint32_t)now.tv_nsec | 1;
    if (one_in != NULL)
        stretch = (uint32_t)strtoul(one_in, NULL, 10);
    if (name == NULL)
        return;
    persist_fault = faults_find(name);
    if (persist_fault == FAULT_NONE) {
        fprintf(stderr, "mqbroker-faulty: there is no fault called \"%s\"\n", name);
        exit(EXIT_FAILURE);
    }
}
