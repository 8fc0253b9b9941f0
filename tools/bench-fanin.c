/* Fan-in: many publishers, one subscriber, who checks the order of each. */
#include "tools/bench-flow.h"

const struct bench_mode bench_fanin = {
    .name = "fanin",
    .purpose = "messages a second from many publishers to one subscriber",
    .seconds = 1,
    .size = 64,
    .publishers = 8,
    .subscribers = 1,
    .note = flow_note,
    .batches = true,
    .loans = true,
    .ways = flow_ways,
    .n_ways = FLOW_N_WAYS,
    .figures = flow_figures,
    .n_figures = FLOW_N_FIGURES,
    .json_only = FLOW_BIT(FLOW_DELIVERIES_PER_SECOND) | FLOW_BIT(FLOW_SUBSCRIBE_MS),
    .ratios = flow_ratios,
    .n_ratios = FLOW_N_RATIOS,
    .describe = flow_describe,
    .run = flow_run,
};
