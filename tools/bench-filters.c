/* Filters: does the number of subscriptions cost a publish?
 *
 * A subscriber holds ten filters, or many; the same messages reach it in both ways, each by one of
 * the first ten. Their topics change from message to message, and there are more of them than the
 * broker remembers the receivers of, so that each message but a few has to be matched anew. */
#include <stdio.h>

#include "tools/bench-carrier.h"
#include "tools/bench-flow.h"

static const struct bench_way ways[] = {
    {.key = "few_filters", .name = "10 filters", .batch = BENCH_YES, .filters = BENCH_FEW_FILTERS},
    {.key = "many_filters",
     .name = "many filters",
     .batch = BENCH_YES,
     .filters = BENCH_MANY_FILTERS},
};

static const struct bench_ratio ratios[] = {
    {"many_to_few", "broker ns, many filters to 10", "many_filters", "few_filters", "hub_cpu_ns"},
};

static void describe(const struct bench_options *options, char *out, size_t size)
{
    snprintf(out, size,
             "Batched messages of %zu bytes to %d topics in turn, to a subscriber with %d filters "
             "and to one with %u.",
             options->size, CARRIER_FILTERED_CHANNELS, CARRIER_FILTERS_FEW, options->filters);
}

const struct bench_mode bench_filters = {
    .name = "filters",
    .purpose = "what a publish costs when a subscriber holds 10 filters, and 10,000 (--filters)",
    .seconds = 1,
    .size = 64,
    .publishers = 1,
    .subscribers = 1,
    .filters = 10000,
    .note = "ns: processor time a message. subscribe ms: until the last filter was confirmed, one "
            "after the other.",
    .ways = ways,
    .n_ways = sizeof ways / sizeof *ways,
    .figures = flow_figures,
    .n_figures = FLOW_N_FIGURES,
    .json_only = FLOW_BIT(FLOW_MEGABYTES_PER_SECOND) | FLOW_BIT(FLOW_DELIVERIES_PER_SECOND) |
                 FLOW_BIT(FLOW_HUB_SWITCHES),
    .ratios = ratios,
    .n_ratios = sizeof ratios / sizeof *ratios,
    .describe = describe,
    .run = flow_run,
};
