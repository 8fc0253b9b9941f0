/* Latency: round trips between two clients.
 *
 * One process sends to the other and waits, the other sends back: through the broker, that is four
 * kernel queue messages, and four wake-ups if everybody sleeps. Both ways of waiting are measured,
 * because they differ by more than anything else does: sleeping at once, and looking again for a
 * while before sleeping. */
#include <stdio.h>
#include <stdlib.h>

#include "tools/bench-carrier.h"
#include "tools/bench-crew.h"
#include "tools/bench-stream.h"
#include "tools/bench-usage.h"
#include "tools/bench.h"
#include "tools/histogram.h"

enum {
    PRIORITY = 8,
    CHANNEL_BACK = 0, /* to the one who asks */
    CHANNEL_THERE = 1,
};

enum figure {
    P50,
    P90,
    P99,
    P999,
    MAX,
    ROUND_TRIPS,
    HUB_CPU,
    HUB_SWITCHES,
    WRONG,
    N_FIGURES,
};

static const struct bench_figure figures[N_FIGURES] = {
    [P50] = {"round_trip_p50_us", "p50 us", 1, BENCH_MEDIAN},
    [P90] = {"round_trip_p90_us", "p90 us", 1, BENCH_MEDIAN},
    [P99] = {"round_trip_p99_us", "p99 us", 1, BENCH_MEDIAN},
    [P999] = {"round_trip_p99_9_us", "p99.9 us", 1, BENCH_MEDIAN},
    [MAX] = {"round_trip_max_us", "max us", 1, BENCH_MAX},
    [ROUND_TRIPS] = {"round_trips", "round trips", 0, BENCH_MEDIAN},
    [HUB_CPU] = {"hub_cpu_ns", "broker ns", 0, BENCH_MEDIAN},
    [HUB_SWITCHES] = {"hub_switches", "broker switches", 2, BENCH_MEDIAN},
    [WRONG] = {"wrong", "wrong", 0, BENCH_FAULTS},
};

static const struct bench_way ways[] = {
    {.key = "broker_sleeping",
     .name = "mqbroker, sleeping",
     .batch = BENCH_UNSAID,
     .wait = BENCH_SLEEP},
    {.key = "bare_sleeping",
     .name = "bare queues, sleeping",
     .bare = true,
     .batch = BENCH_UNSAID,
     .wait = BENCH_SLEEP},
    {.key = "broker_looking",
     .name = "mqbroker, looking again",
     .batch = BENCH_UNSAID,
     .wait = BENCH_LOOK},
    {.key = "bare_looking",
     .name = "bare queues, looking again",
     .bare = true,
     .batch = BENCH_UNSAID,
     .wait = BENCH_LOOK},
};

static const struct bench_ratio ratios[] = {
    {"sleeping_p50_to_bare", "median, sleeping: mqbroker to bare queues", "broker_sleeping",
     "bare_sleeping", "round_trip_p50_us"},
    {"looking_p50_to_bare", "median, looking again: mqbroker to bare queues", "broker_looking",
     "bare_looking", "round_trip_p50_us"},
};

struct run {
    const struct bench_options *options;
    struct carrier carrier;
};

struct pinged {
    struct histogram times;
    uint64_t wrong;
    struct usage hub_used;
};

/* One trip there and back. Returns 1 if what came back is what was sent, 0 if not, or -1. */
static int travel(struct carrier_end *end, const struct run *run, unsigned char *payload,
                  const struct stream_head *head)
{
    struct carrier_message message;

    stream_stamp(payload, head);
    if (carrier_send(end, CHANNEL_THERE, payload, run->options->size, PRIORITY) < 0 ||
        carrier_receive(end, &message) < 0) {
        return -1;
    }
    return message.size == run->options->size && stream_same(message.bytes, head);
}

static int ping_all(struct carrier_end *end, const struct run *run, unsigned char *payload,
                    struct stream *stream, struct pinged *pinged)
{
    struct usage hub_from = {0};
    uint64_t now = bench_now();

    do {
        bool was_measuring = stream->measuring;

        stream_next(stream, now);
        if (stream->measuring && !was_measuring) {
            hub_from = usage_of(run->carrier.hub);
        }

        uint64_t began = bench_now();
        int same = travel(end, run, payload, &stream->head);
        if (same < 0) {
            return -1;
        }
        now = bench_now();
        pinged->wrong += same == 0;
        if (stream->measuring) {
            histogram_record(&pinged->times, now - began);
        }
    } while ((stream->head.flags & STREAM_LAST) == 0);

    struct usage hub_to = usage_of(run->carrier.hub);
    pinged->hub_used = usage_between(&hub_from, &hub_to);
    return 0;
}

static int pinger(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    unsigned char *payload = malloc(run->options->size);
    struct carrier_end end;
    struct stream stream;

    if (payload == NULL) {
        return bench_fail("out of memory");
    }
    stream_fill(payload, run->options->size, 0);

    int r = carrier_join(&end, &run->carrier, CARRIER_SEND | CARRIER_RECEIVE, CHANNEL_BACK);
    if (r == 0) {
        crew_ready(place);
        stream_begin(&stream, run->options, 0);
        r = ping_all(&end, run, payload, &stream, place->result);
    }
    carrier_leave(&end);
    free(payload);
    return r;
}

static int pong_all(struct carrier_end *end)
{
    struct stream_head head = {0};

    do {
        struct carrier_message message;

        if (carrier_receive(end, &message) < 0 ||
            stream_read(&head, message.bytes, message.size) < 0 ||
            carrier_send(end, CHANNEL_BACK, message.bytes, message.size, PRIORITY) < 0) {
            return -1;
        }
    } while ((head.flags & STREAM_LAST) == 0);
    return 0;
}

static int ponger(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    struct carrier_end end;

    int r = carrier_join(&end, &run->carrier, CARRIER_SEND | CARRIER_RECEIVE, CHANNEL_THERE);
    if (r == 0) {
        crew_ready(place);
        r = pong_all(&end);
    }
    carrier_leave(&end);
    return r;
}

static void add_up(const struct pinged *pinged, double *out)
{
    const struct histogram *times = &pinged->times;

    out[P50] = (double)histogram_percentile(times, 500) / 1e3;
    out[P90] = (double)histogram_percentile(times, 900) / 1e3;
    out[P99] = (double)histogram_percentile(times, 990) / 1e3;
    out[P999] = (double)histogram_percentile(times, 999) / 1e3;
    out[MAX] = (double)times->max / 1e3;
    out[ROUND_TRIPS] = (double)times->count;
    out[HUB_CPU] = usage_cpu_per(&pinged->hub_used, times->count);
    out[HUB_SWITCHES] = usage_switches_per(&pinged->hub_used, times->count);
    out[WRONG] = (double)pinged->wrong;
}

static int run_once(const struct bench_options *options, const struct bench_way *way, double *out)
{
    static const unsigned channels[] = {CHANNEL_BACK, CHANNEL_THERE}; /* each listens to its own */
    struct run run = {.options = options};
    struct crew crew;
    unsigned first = 0;

    int r = crew_init(&crew, sizeof(struct pinged));
    if (r == 0) {
        r = carrier_open(&run.carrier, &crew, options, way, channels, 2);
        first = crew.n_members;
    }
    if (r == 0 && (crew_add(&crew, "pinger", 0, false, pinger, &run) < 0 ||
                   crew_add(&crew, "ponger", 0, false, ponger, &run) < 0)) {
        r = -1;
    }
    if (r == 0) {
        r = crew_run(&crew);
    }
    if (r == 0) {
        add_up(crew_result(&crew, first), out);
    }
    crew_deinit(&crew);
    carrier_close(&run.carrier);
    return r;
}

static void describe(const struct bench_options *options, char *out, size_t size)
{
    snprintf(out, size,
             "A client sends %zu bytes to another, who sends them back: time there and back.",
             options->size);
}

const struct bench_mode bench_latency = {
    .name = "latency",
    .purpose = "time of a round trip between two clients, sleeping and looking again",
    .seconds = 1,
    .size = 64,
    .note = "broker ns: its processor time a round trip; over bare queues it is the relay's. "
            "switches: context switches.",
    .ways = ways,
    .n_ways = sizeof ways / sizeof *ways,
    .figures = figures,
    .n_figures = N_FIGURES,
    .ratios = ratios,
    .n_ratios = sizeof ratios / sizeof *ratios,
    .describe = describe,
    .run = run_once,
};
