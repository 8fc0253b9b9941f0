/* Fan-out: one publisher, many subscribers, each of which gets every message. */
#include "tools/bench-flow.h"

static const struct bench_ratio ratios[] = {
    {"batched_to_bare", "deliveries/s, batched: mqbroker to bare queues", "broker_batched",
     "bare_batched", "deliveries_per_second"},
    {"single_to_bare", "deliveries/s, one call a message: mqbroker to bare queues", "broker_single",
     "bare_single", "deliveries_per_second"},
};

const struct bench_mode bench_fanout = {
    .name = "fanout",
    .purpose = "deliveries a second from one publisher to many subscribers",
    .seconds = 1,
    .size = 1024,
    .publishers = 1,
    .subscribers = 8,
    .note = "messages/s: at the slowest subscriber. ns: processor time a message, of the broker or "
            "relay for all its deliveries.",
    .batches = true,
    .loans = true,
    .ways = flow_ways,
    .n_ways = FLOW_N_WAYS,
    .figures = flow_figures,
    .n_figures = FLOW_N_FIGURES,
    .json_only = FLOW_BIT(FLOW_MEGABYTES_PER_SECOND) | FLOW_BIT(FLOW_SUBSCRIBE_MS),
    .ratios = ratios,
    .n_ratios = sizeof ratios / sizeof *ratios,
    .describe = flow_describe,
    .run = flow_run,
};
