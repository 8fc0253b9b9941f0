/* Chance that can be had again: numbers from a seed (splitmix64). */
#ifndef MQBROKER_TESTS_SUPPORT_CHANCE_H
#define MQBROKER_TESTS_SUPPORT_CHANCE_H

#include <stdint.h>

struct chance {
    uint64_t state; /* begins as the seed */
};

static inline uint64_t chance_draw(struct chance *c)
{
    uint64_t z = (c->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* One of 0 … n - 1. */
static inline uint32_t chance_below(struct chance *c, uint32_t n)
{
    return (uint32_t)(chance_draw(c) % n);
}

#endif
