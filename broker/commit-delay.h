/* When to hand over what a journal has gathered: at once, or a little later together with more, so
 * that one sync serves all of it. Pure. Floor 0. */
#ifndef MQBROKER_BROKER_COMMIT_DELAY_H
#define MQBROKER_BROKER_COMMIT_DELAY_H

#include <stdbool.h>
#include <stdint.h>

/* Zeros begin. Times in nanoseconds of any one clock. */
struct commit_delay {
    uint32_t n;      /* gathered when it was asked last */
    uint64_t first;  /* since when there is any */
    uint64_t latest; /* … since when there are so many */
    uint32_t most;   /* in a commit of this round */
    uint32_t before; /* … of the one before */
    uint32_t commits;
    uint64_t took; /* what a commit takes, about */
};

/* `n` are gathered now: better to wait for more? */
bool commit_delay_waits(struct commit_delay *d, uint32_t n, uint64_t now);

/* So many were handed over; that took so long. */
void commit_delay_handed(struct commit_delay *d, uint32_t n);
void commit_delay_took(struct commit_delay *d, uint64_t duration);

#endif
