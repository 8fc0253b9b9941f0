/* Who has heard whom, for peers that do not say when a subscription holds: before a run each sender
 * sends probes until every receiver has marked that one came.
 *
 * A probe is a payload of two bytes, which nothing else is. One that comes late is to be skipped.
 */
#ifndef MQBROKER_TESTS_PEERS_MEETING_H
#define MQBROKER_TESTS_PEERS_MEETING_H

#include <stdbool.h>
#include <stddef.h>

#include "tools/bench-carrier.h"

struct meeting;

/* In the parent, before workers are added. Returns NULL with bench_error() set. */
struct meeting *meeting_new(const struct carrier *carrier);

/* NULL is fine; returns NULL. */
struct meeting *meeting_free(struct meeting *meeting);

static inline bool meeting_is_probe(size_t size)
{
    return size == sizeof(unsigned short);
}

/* `end` has received a probe. */
void meeting_take(struct meeting *meeting, const struct carrier_end *end, const void *probe);

/* In a worker: send and receive probes until all have met. `receive` takes what has come and hands
 * probes to meeting_take(). Returns 0 or -1. */
int meeting_attend(struct meeting *meeting, struct carrier_end *end,
                   int (*receive)(struct carrier_end *end));

#endif
