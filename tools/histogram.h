/* A histogram of times with a bounded relative error, in fixed memory. Pure.
 *
 * Values are 64-bit numbers, here nanoseconds. A bucket is at most 1/128 as wide as the values it
 * holds, so a percentile read from it is never below the true one and at most 0.8 % above.
 * Zero-initialised memory is an empty histogram, so it may lie in shared memory; it has one writer.
 */
#ifndef MQBROKER_TOOLS_HISTOGRAM_H
#define MQBROKER_TOOLS_HISTOGRAM_H

#include <stdint.h>

enum {
    HISTOGRAM_BITS = 7, /* each power of two is cut into 2^7 buckets */
    HISTOGRAM_BUCKETS = (64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS,
};

struct histogram {
    uint64_t count;
    uint64_t max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_record(struct histogram *histogram, uint64_t value);

/* Add all that `other` has recorded. */
void histogram_merge(struct histogram *histogram, const struct histogram *other);

/* The smallest recorded value that at least `per_mille` thousandths of the values do not exceed
 * (500: the median, 999: the 99.9th percentile), rounded up within its bucket. 0 if nothing was
 * recorded. */
uint64_t histogram_percentile(const struct histogram *histogram, unsigned per_mille);

#endif
