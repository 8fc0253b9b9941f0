/* Throughput: how many messages a second come through, and what one costs whom. */
#include "tools/bench-flow.h"

static const struct bench_ratio ratios[] = {
    {"batched_to_bare", "messages/s, batched: mqbroker to bare queues", "broker_batched",
     "bare_batched", "messages_per_second"},
    {"single_to_bare", "messages/s, one call a message: mqbroker to bare queues", "broker_single",
     "bare_single", "messages_per_second"},
};

const struct bench_mode bench_throughput = {
    .name = "throughput",
    .purpose = "messages a second from publishers to subscribers, and what a message costs",
    .seconds = 1,
    .size = 64,
    .publishers = 1,
    .subscribers = 1,
    .note = "ns: processor time a message. broker: over bare queues it is the relay. switches: "
            "context switches a message.",
    .batches = true,
    .ways = flow_ways,
    .n_ways = FLOW_N_WAYS,
    .figures = flow_figures,
    .n_figures = FLOW_N_FIGURES,
    .json_only = FLOW_BIT(FLOW_DELIVERIES_PER_SECOND),
    .ratios = ratios,
    .n_ratios = sizeof ratios / sizeof *ratios,
    .describe = flow_describe,
    .run = flow_run,
};
