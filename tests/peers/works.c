/* The same work for all: the modes of mqbench, with systems instead of its own ways. */
#include "tests/peers/works.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/peers/backlog.h"
#include "tests/peers/peers.h"
#include "tools/bench-crew.h"

enum {
    LOAN_FROM = 64 << 10, /* smaller payloads are only copied in */
};

const struct bench_way systems[] = {
    {.key = "mqbroker", .name = "mqbroker", .batch = BENCH_YES},
    {.key = "mqbroker_loaned", .name = "mqbroker, loaned", .batch = BENCH_YES, .loan = true},
    {.key = "mqbroker_single", .name = "mqbroker, one call a message", .batch = BENCH_NO},
    {.key = "iceoryx", .name = "iceoryx", .carrier = &peer_iceoryx, .batch = BENCH_YES},
    {.key = "iceoryx_loaned",
     .name = "iceoryx, loaned",
     .carrier = &peer_iceoryx,
     .batch = BENCH_YES,
     .loan = true},
    {.key = "nats", .name = "NATS", .carrier = &peer_nats, .batch = BENCH_YES},
    {.key = "zeromq", .name = "ZeroMQ proxy", .carrier = &peer_zeromq, .batch = BENCH_YES},
    {.key = "redis", .name = "Redis, 256 pipelined", .carrier = &peer_redis, .batch = BENCH_YES},
    {.key = "redis_single",
     .name = "Redis, one at a time",
     .carrier = &peer_redis,
     .batch = BENCH_NO},
    {.key = "mosquitto_0",
     .name = "Mosquitto, QoS 0",
     .carrier = &peer_mosquitto_0,
     .batch = BENCH_YES},
    {.key = "mosquitto_1",
     .name = "Mosquitto, QoS 1",
     .carrier = &peer_mosquitto_1,
     .batch = BENCH_YES},
    {.key = "mqbroker_durable", .name = "mqbroker, durable", .durable = true},
    {.key = "redis_durable",
     .name = "Redis, RPUSH to a list, appendfsync always",
     .carrier = &peer_redis_list,
     .durable = true},
    {.key = "redis_stream_durable",
     .name = "Redis, XADD to a stream, appendfsync always",
     .carrier = &peer_redis_stream,
     .durable = true},
    {.key = "disk", .name = "a file, synced as often", .carrier = &carrier_file, .durable = true},
};

const size_t n_systems = sizeof systems / sizeof *systems;
_Static_assert(sizeof systems / sizeof *systems <= SYSTEMS_MAX, "struct done has room for them");

const struct work works[] = {
    {"64", "64 B", &bench_throughput, 64, 1, 1, true, 0},
    {"256", "256 B", &bench_throughput, 256, 1, 1, true, 0},
    {"1k", "1 KiB", &bench_throughput, 1024, 1, 1, true, 0},
    {"8000", "8,000 B", &bench_throughput, 8000, 1, 1, true, 0},
    {"64k", "64 KiB", &bench_throughput, 64 << 10, 1, 1, true, 0},
    {"1m", "1 MiB", &bench_throughput, 1 << 20, 1, 1, true, 0},
    {"fanout-1k", "1→8, 1 KiB", &bench_fanout, 1024, 1, 8, true, 0},
    {"fanout-1m", "1→8, 1 MiB", &bench_fanout, 1 << 20, 1, 8, true, 0},
    {"fanin-64", "8→1, 64 B", &bench_fanin, 64, 8, 1, true, 0},
    {"latency", "round trip 64 B, p50 / p99, µs", &bench_latency, 64, 0, 0, false, 0},
    {"backlog", "memory", &backlog_mode, 1024, 1, 1, false, 0},
    {"durable-1", "64 B, 1 unconfirmed", &bench_durable, 64, 1, 0, false, 1},
    {"durable-128", "64 B, 128 unconfirmed", &bench_durable, 64, 1, 0, false, 128},
    {"durable-1-1k", "1 KiB, 1 unconfirmed", &bench_durable, 1024, 1, 0, false, 1},
    {"durable-128-1k", "1 KiB, 128 unconfirmed", &bench_durable, 1024, 1, 0, false, 128},
};

const size_t n_works = sizeof works / sizeof *works;
_Static_assert(sizeof works / sizeof *works <= WORKS_MAX, "callers have room for them");

static const struct bench_mode *mode_run; /* whose run() is wrapped */

/* Messages that were lost, came twice, out of order or damaged in this run. */
static double faults_in(const double *figures)
{
    double sum = 0;

    for (size_t f = 0; f < mode_run->n_figures; f++) {
        sum += mode_run->figures[f].fold == BENCH_FAULTS ? figures[f] : 0;
    }
    return sum;
}

/* A system that fails has no figures; only an interrupt ends the measurement. */
static int run_or_leave_out(const struct bench_options *options, const struct bench_way *way,
                            double *figures)
{
    int r = mode_run->run(options, way, figures);

    if (r == 0 && faults_in(figures) > 0) {
        r = bench_fail("%.0f messages were lost, came twice, out of order or damaged",
                       faults_in(figures));
    }
    if (r < 0 && crew_signal() == 0) {
        fprintf(stderr, "peers: %s, %s, %zu bytes: %s\n", way->name, mode_run->name, options->size,
                bench_error());
        for (size_t f = 0; f < mode_run->n_figures; f++) {
            figures[f] = (double)NAN;
        }
        return 0;
    }
    return r;
}

static bool takes_part(const struct work *work, const struct bench_way *system, const char *only)
{
    if (only != NULL && strncmp(system->key, only, strlen(only)) != 0) {
        return false;
    }
    if (system->durable != work->mode->durable) {
        return false;
    }
    if (system->durable) {
        return true;
    }
    if (system->loan) {
        return work->flow && work->size >= LOAN_FROM;
    }
    /* Elsewhere it makes no difference. */
    return work->flow || system->batch == BENCH_YES;
}

int works_do(struct done *done, const struct work *work, const struct bench_options *asked,
             const char *only)
{
    *done = (struct done){.work = work, .mode = *work->mode, .options = *asked};
    mode_run = work->mode;
    done->mode.run = run_or_leave_out;
    done->mode.ways = done->ways;
    done->mode.n_ways = 0;
    done->mode.n_ratios = 0;
    for (size_t i = 0; i < n_systems; i++) {
        if (takes_part(work, &systems[i], only)) {
            done->ways[done->mode.n_ways++] = systems[i];
        }
    }
    done->options.size = work->size;
    done->options.publishers = work->publishers;
    done->options.subscribers = work->subscribers;
    done->options.outstanding = work->outstanding;
    return bench_run(&done->mode, &done->options, &done->result);
}
