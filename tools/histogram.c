/* Buckets as in HdrHistogram: logarithmic in the large, linear in the small.
 *
 * A value's leading one says in which power of two it lies, the HISTOGRAM_BITS bits after it in
 * which of that power's buckets. What is below 2^HISTOGRAM_BITS has a bucket of its own. Recording
 * is a count of leading zeros, a shift and an increment: cheap enough to stand inside a measured
 * loop, which sorting or storing every sample is not. */
#include "tools/histogram.h"

#include <stddef.h>

static size_t bucket_of(uint64_t value)
{
    if (value >> HISTOGRAM_BITS == 0) {
        return (size_t)value;
    }

    unsigned shift = 63u - (unsigned)__builtin_clzll(value) - HISTOGRAM_BITS;

    /* value >> shift lies in [2^BITS, 2^(BITS+1)): its leading one is what makes the rows follow
     * each other without a gap. */
    return ((size_t)shift << HISTOGRAM_BITS) + (size_t)(value >> shift);
}

/* The largest value that falls into a bucket. */
static uint64_t bucket_top(size_t bucket)
{
    if (bucket >> HISTOGRAM_BITS == 0) {
        return bucket;
    }

    unsigned shift = (unsigned)(bucket >> HISTOGRAM_BITS) - 1;
    uint64_t leading = bucket - ((size_t)shift << HISTOGRAM_BITS);

    return (leading << shift) | ((UINT64_C(1) << shift) - 1);
}

void histogram_record(struct histogram *histogram, uint64_t value)
{
    histogram->buckets[bucket_of(value)]++;
    histogram->count++;
    if (value > histogram->max) {
        histogram->max = value;
    }
}

void histogram_merge(struct histogram *histogram, const struct histogram *other)
{
    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        histogram->buckets[i] += other->buckets[i];
    }
    histogram->count += other->count;
    if (other->max > histogram->max) {
        histogram->max = other->max;
    }
}

uint64_t histogram_percentile(const struct histogram *histogram, unsigned per_mille)
{
    /* In whole numbers: 99.9 % of 1,000 must be 999, whatever a double makes of it. */
    uint64_t thousands = histogram->count / 1000;
    uint64_t rest = histogram->count % 1000;
    uint64_t rank = thousands * per_mille + (rest * per_mille + 999) / 1000;
    uint64_t seen = 0;

    for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->buckets[i];
        if (seen >= rank && seen > 0) {
            uint64_t top = bucket_top(i);
            return top < histogram->max ? top : histogram->max;
        }
    }
    return histogram->max;
}
