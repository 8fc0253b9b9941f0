/* A flow: publishers send numbered messages as fast as they may, subscribers check each.
 *
 * It is what the modes throughput, fanout, fanin and filters do, and large in part. They differ in
 * how many take part, in what is subscribed to, and in the figures that matter, so each is a table
 * that names what is here. */
#ifndef MQBROKER_TOOLS_BENCH_FLOW_H
#define MQBROKER_TOOLS_BENCH_FLOW_H

#include <stddef.h>

#include "tools/bench.h"

enum flow_figure {
    FLOW_MESSAGES_PER_SECOND, /* at the slowest subscriber */
    FLOW_MEGABYTES_PER_SECOND,
    FLOW_DELIVERIES_PER_SECOND, /* to all of them, from the first to the last anywhere */
    FLOW_PUBLISHER_CPU,
    FLOW_HUB_CPU,
    FLOW_SUBSCRIBER_CPU,
    FLOW_PUBLISHER_SWITCHES,
    FLOW_HUB_SWITCHES,
    FLOW_SUBSCRIBER_SWITCHES,
    FLOW_SUBSCRIBE_MS,
    FLOW_PUBLISHED,
    FLOW_RECEIVED,
    FLOW_LOST,
    FLOW_TWICE,
    FLOW_DISORDERED,
    FLOW_DAMAGED,
    FLOW_N_FIGURES,
};

/* For the `json_only` of a mode. */
#define FLOW_BIT(figure) (UINT32_C(1) << (figure))

enum {
    FLOW_N_WAYS = 6,
    FLOW_N_RATIOS = 2,
};

extern const struct bench_figure flow_figures[FLOW_N_FIGURES];

/* Batched and with one call a message, through the broker, copied in and on loan, and over bare
 * queues. */
extern const struct bench_way flow_ways[FLOW_N_WAYS];

/* Messages a second, through the broker to over bare queues. */
extern const struct bench_ratio flow_ratios[FLOW_N_RATIOS];

extern const char flow_note[];

/* The `describe` and the `run` of a mode. */
void flow_describe(const struct bench_options *options, char *out, size_t size);
int flow_run(const struct bench_options *options, const struct bench_way *way, double *figures);

#endif
