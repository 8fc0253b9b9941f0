/* Durable messages: how many a second are on disk and confirmed, and how soon.
 *
 * One publisher publishes to a durable group that has no members, so that all of it stays: so many
 * messages, then it waits until all of them are confirmed, and so on. One alone shows what a sync
 * of the disk takes; many, how well they share one. The baseline writes records of the same size to
 * a file in the same directory, and syncs it for as many. */
#include <math.h>
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
    CHANNEL = 0,
    MANY = 128,
};

enum figure {
    MESSAGES_PER_SECOND,
    P50,
    P90,
    P99,
    P999,
    MAX,
    CONFIRMED,
    PUBLISHER_CPU,
    HUB_CPU,
    LOST,
    N_FIGURES,
};

static const struct bench_figure figures[N_FIGURES] = {
    [MESSAGES_PER_SECOND] = {"messages_per_second", "messages/s", 0, BENCH_MEDIAN},
    [P50] = {"confirm_p50_us", "p50 us", 0, BENCH_MEDIAN},
    [P90] = {"confirm_p90_us", NULL, 0, BENCH_MEDIAN},
    [P99] = {"confirm_p99_us", "p99 us", 0, BENCH_MEDIAN},
    [P999] = {"confirm_p99_9_us", NULL, 0, BENCH_MEDIAN},
    [MAX] = {"confirm_max_us", "max us", 0, BENCH_MAX},
    [CONFIRMED] = {"confirmed", "confirmed", 0, BENCH_MEDIAN},
    [PUBLISHER_CPU] = {"publisher_cpu_ns", "publisher ns", 0, BENCH_MEDIAN},
    [HUB_CPU] = {"hub_cpu_ns", "broker ns", 0, BENCH_MEDIAN},
    [LOST] = {"lost", "lost", 0, BENCH_FAULTS},
};

#define BROKER(key_, name_, outstanding_)                                                          \
    {                                                                                              \
        .key = (key_), .name = (name_), .batch = BENCH_UNSAID, .durable = true,                    \
        .outstanding = (outstanding_)                                                              \
    }
#define DISK(key_, name_, outstanding_)                                                            \
    {                                                                                              \
        .key = (key_), .name = (name_), .batch = BENCH_UNSAID, .bare = true,                       \
        .carrier = &carrier_file, .outstanding = (outstanding_)                                    \
    }

static const struct bench_way ways[] = {
    BROKER("durable", "mqbroker", 0),
    DISK("file", "a file, synced as often", 0),
    BROKER("durable_1", "mqbroker, 1 unconfirmed", 1),
    DISK("file_1", "a file, each synced", 1),
    BROKER("durable_128", "mqbroker, 128 unconfirmed", MANY),
    DISK("file_128", "a file, each 128 synced", MANY),
};

static const struct bench_ratio ratios[] = {
    {"durable_to_file", "messages/s: mqbroker to the file", "durable", "file",
     "messages_per_second"},
    {"durable_to_file_1", "messages/s, 1 unconfirmed: mqbroker to the file", "durable_1", "file_1",
     "messages_per_second"},
    {"durable_to_file_128", "messages/s, 128 unconfirmed: mqbroker to the file", "durable_128",
     "file_128", "messages_per_second"},
};

struct run {
    const struct bench_options *options;
    struct carrier carrier;
};

struct published {
    struct histogram times; /* ns, from publish to confirm */
    uint64_t sent;          /* in all */
    uint64_t measured;
    uint64_t duration; /* ns, of what was measured, until the last was confirmed */
    struct usage used;
    struct usage hub_used;
};

/* ---- the publisher ---- */

/* When each of the unconfirmed was sent; 0: before measuring. */
struct sent {
    uint64_t *at;
    unsigned most;
    unsigned n;
};

/* Wait until all are confirmed. */
static int await(struct carrier_end *end, struct sent *sent, struct published *published)
{
    uint64_t now;

    if (carrier_confirm(end, 0) < 0) {
        return -1;
    }
    now = bench_now();
    for (unsigned i = 0; i < sent->n; i++) {
        if (sent->at[i] != 0) {
            histogram_record(&published->times, now - sent->at[i]);
        }
    }
    sent->n = 0;
    return 0;
}

static int publish_all(struct carrier_end *end, const struct run *run, unsigned char *payload,
                       struct sent *sent, struct published *published)
{
    struct usage from = {0}, hub_from = {0}, to, hub_to;
    struct stream stream;
    uint64_t began = 0;

    stream_begin(&stream, run->options, 0);
    do {
        bool was_measuring = stream.measuring;
        uint64_t now;

        if (sent->n == sent->most && await(end, sent, published) < 0) {
            return -1;
        }
        now = bench_now();
        stream_next(&stream, now);
        if (stream.measuring && !was_measuring) {
            began = now;
            from = usage_of(0);
            hub_from = usage_of(run->carrier.hub);
        }
        published->sent++;
        published->measured += stream.measuring;
        sent->at[sent->n++] = stream.measuring ? now : 0;
        stream_stamp(payload, &stream.head);
        if (carrier_send(end, CHANNEL, payload, run->options->size, PRIORITY) < 0) {
            return -1;
        }
    } while ((stream.head.flags & STREAM_LAST) == 0);
    if (await(end, sent, published) < 0) {
        return -1;
    }
    published->duration = bench_now() - began;
    to = usage_of(0);
    hub_to = usage_of(run->carrier.hub);
    published->used = usage_between(&from, &to);
    published->hub_used = usage_between(&hub_from, &hub_to);
    return 0;
}

static int publish(struct crew_place *place, const struct run *run, unsigned char *payload,
                   struct sent *sent)
{
    unsigned use = CARRIER_SEND | CARRIER_CONFIRM | (sent->most > 1 ? CARRIER_BATCH : 0);
    struct carrier_end end;

    stream_fill(payload, run->options->size, 0);

    int r = carrier_join(&end, &run->carrier, use, 0);
    if (r == 0) {
        crew_ready(place);
        r = publish_all(&end, run, payload, sent, place->result);
    }
    carrier_leave(&end);
    return r;
}

static int publisher(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    struct sent sent = {.most = run->carrier.outstanding};
    unsigned char *payload = malloc(run->options->size);
    int r = -1;

    sent.at = calloc(sent.most, sizeof *sent.at);
    if (sent.at != NULL && payload != NULL) {
        r = publish(place, run, payload, &sent);
    } else {
        bench_fail("out of memory");
    }
    free(payload);
    free(sent.at);
    return r;
}

/* ---- the run ---- */

/* What was confirmed and is not there is lost. */
static int add_up(const struct run *run, const struct published *published, double *out)
{
    const struct histogram *times = &published->times;
    uint64_t held = published->sent;

    if (run->carrier.kind->held != NULL && run->carrier.kind->held(&run->carrier, &held) < 0) {
        return -1;
    }
    out[MESSAGES_PER_SECOND] = published->duration > 0
                                   ? (double)published->measured * 1e9 / (double)published->duration
                                   : (double)NAN;
    out[P50] = (double)histogram_percentile(times, 500) / 1e3;
    out[P90] = (double)histogram_percentile(times, 900) / 1e3;
    out[P99] = (double)histogram_percentile(times, 990) / 1e3;
    out[P999] = (double)histogram_percentile(times, 999) / 1e3;
    out[MAX] = (double)times->max / 1e3;
    out[CONFIRMED] = (double)published->measured;
    out[PUBLISHER_CPU] = usage_cpu_per(&published->used, published->measured);
    out[HUB_CPU] = run->carrier.hub != 0 ? usage_cpu_per(&published->hub_used, published->measured)
                                         : (double)NAN;
    out[LOST] = held < published->sent ? (double)(published->sent - held) : 0;
    return 0;
}

static int run_once(const struct bench_options *options, const struct bench_way *way, double *out)
{
    struct run run = {.options = options};
    struct crew crew;
    unsigned first = 0;

    int r = crew_init(&crew, sizeof(struct published));
    if (r == 0) {
        r = carrier_open(&run.carrier, &crew, options, way, NULL, 0);
        first = crew.n_members;
    }
    if (r == 0 && crew_add(&crew, "publisher", 0, false, publisher, &run) < 0) {
        r = -1;
    }
    if (r == 0) {
        r = crew_run(&crew);
    }
    if (r == 0) {
        r = add_up(&run, crew_result(&crew, first), out);
    }
    crew_deinit(&crew);
    carrier_close(&run.carrier);
    return r;
}

static void describe(const struct bench_options *options, char *out, size_t size)
{
    int n = snprintf(out, size,
                     "A publisher sends messages of %zu bytes to a durable group, and waits until "
                     "they are confirmed; files in %s",
                     options->size, options->directory);

    if (options->instance == NULL && n > 0 && (size_t)n < size) {
        snprintf(out + n, size - (size_t)n, ", sync = %s.", options->sync);
    }
}

const struct bench_mode bench_durable = {
    .name = "durable",
    .purpose = "durable messages, confirmed: messages a second, and how soon",
    .seconds = 2,
    .size = 64,
    .note = "us: from publish to confirm. ns: processor time a message.",
    .durable = true,
    .ways = ways,
    .n_ways = sizeof ways / sizeof *ways,
    .figures = figures,
    .n_figures = N_FIGURES,
    .ratios = ratios,
    .n_ratios = sizeof ratios / sizeof *ratios,
    .describe = describe,
    .run = run_once,
};
