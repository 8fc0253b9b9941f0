/* Large payloads: from publish to receive, one at a time, and how many a second.
 *
 * Two measurements in one run. First alone: a message is sent when the one before it has been
 * answered, and its time runs from just before the call that publishes it until the subscriber has
 * it. Copied in, the copy is in that time; on loan, the payload was written before it. Then as a
 * stream, by the same code as throughput's.
 *
 * If no size is asked for, each of a row of sizes is measured, as far as the broker allows and the
 * machine has memory for three of them; the others show as unknown. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "tools/bench-carrier.h"
#include "tools/bench-crew.h"
#include "tools/bench-flow.h"
#include "tools/bench-stream.h"
#include "tools/bench.h"
#include "tools/histogram.h"

enum {
    PRIORITY = 8,
    CHANNEL_BACK = 0, /* answers, to the publisher */
    CHANNEL_THERE = 1,
};

enum figure {
    P50,
    P90,
    P99,
    P999,
    MAX,
    TIMES,
    MESSAGES_PER_SECOND,
    MEGABYTES_PER_SECOND,
    PUBLISHER_CPU,
    HUB_CPU,
    SUBSCRIBER_CPU,
    LOST,
    TWICE,
    DISORDERED,
    DAMAGED,
    WRONG,
    N_FIGURES,
};

static const struct bench_figure figures[N_FIGURES] = {
    [P50] = {"receive_p50_us", "p50 us", 1, BENCH_MEDIAN},
    [P90] = {"receive_p90_us", NULL, 1, BENCH_MEDIAN},
    [P99] = {"receive_p99_us", "p99 us", 1, BENCH_MEDIAN},
    [P999] = {"receive_p99_9_us", NULL, 1, BENCH_MEDIAN},
    [MAX] = {"receive_max_us", "max us", 1, BENCH_MAX},
    [TIMES] = {"received_alone", "alone", 0, BENCH_MEDIAN},
    [MESSAGES_PER_SECOND] = {"messages_per_second", "messages/s", 0, BENCH_MEDIAN},
    [MEGABYTES_PER_SECOND] = {"megabytes_per_second", "MB/s", 0, BENCH_MEDIAN},
    [PUBLISHER_CPU] = {"publisher_cpu_ns", "publisher ns", 0, BENCH_MEDIAN},
    [HUB_CPU] = {"hub_cpu_ns", "broker ns", 0, BENCH_MEDIAN},
    [SUBSCRIBER_CPU] = {"subscriber_cpu_ns", "subscriber ns", 0, BENCH_MEDIAN},
    [LOST] = {"lost", "lost", 0, BENCH_FAULTS},
    [TWICE] = {"twice", NULL, 0, BENCH_FAULTS},
    [DISORDERED] = {"disordered", NULL, 0, BENCH_FAULTS},
    [DAMAGED] = {"damaged", NULL, 0, BENCH_FAULTS},
    [WRONG] = {"wrong", NULL, 0, BENCH_FAULTS},
};

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

#define COPIED(size_key, size_name, bytes)                                                         \
    {                                                                                              \
        .key = "copied" size_key, .name = size_name "copied in", .batch = BENCH_YES,               \
        .size = (bytes)                                                                            \
    }
#define LOANED(size_key, size_name, bytes)                                                         \
    {                                                                                              \
        .key = "loaned" size_key, .name = size_name "on loan", .batch = BENCH_YES, .loan = true,   \
        .size = (bytes)                                                                            \
    }

static const struct bench_way ways[] = {
    COPIED("", "", 0),
    LOANED("", "", 0),
    COPIED("_8k", "8 KiB, ", 8 * KIB),
    LOANED("_8k", "8 KiB, ", 8 * KIB),
    COPIED("_64k", "64 KiB, ", 64 * KIB),
    LOANED("_64k", "64 KiB, ", 64 * KIB),
    COPIED("_1m", "1 MiB, ", MIB),
    LOANED("_1m", "1 MiB, ", MIB),
    COPIED("_8m", "8 MiB, ", 8 * MIB),
    LOANED("_8m", "8 MiB, ", 8 * MIB),
    COPIED("_64m", "64 MiB, ", 64 * MIB),
    LOANED("_64m", "64 MiB, ", 64 * MIB),
    COPIED("_1g", "1 GiB, ", 1024 * MIB),
    LOANED("_1g", "1 GiB, ", 1024 * MIB),
};

static const struct bench_ratio ratios[] = {
    {"loaned_64m_to_8k", "median from publish to receive, on loan: 64 MiB to 8 KiB", "loaned_64m",
     "loaned_8k", "receive_p50_us"},
    {"loaned_to_copied_1m", "messages/s, 1 MiB: on loan to copied in", "loaned_1m", "copied_1m",
     "messages_per_second"},
};

struct run {
    const struct bench_options *options; /* with the size of the way */
    const struct bench_way *way;
    struct carrier carrier;
};

struct published {
    uint64_t wrong; /* answers that were not the one to what was sent */
};

struct subscribed {
    struct histogram times; /* ns, from publish to receive */
    uint64_t lost;
    uint64_t twice;
    uint64_t disordered;
    uint64_t damaged;
};

union outcome {
    struct published published;
    struct subscribed subscribed;
};

/* ---- alone: publisher ---- */

static int publish_one(struct carrier_end *end, const struct run *run, unsigned char *payload,
                       struct stream_head *head)
{
    size_t size = run->options->size;
    void *bytes;

    if (!run->way->loan) {
        head->sent_at = bench_now();
        stream_stamp(payload, head);
        return carrier_send(end, CHANNEL_THERE, payload, size, PRIORITY);
    }
    if (carrier_loan(end, CHANNEL_THERE, size, &bytes) < 0) {
        return -1;
    }
    head->sent_at = bench_now();
    stream_mark(bytes, size, head);
    return carrier_send_loan(end, CHANNEL_THERE, bytes, size, PRIORITY);
}

static int publish_all(struct carrier_end *end, const struct run *run, unsigned char *payload,
                       struct published *published)
{
    struct stream stream;

    stream_begin(&stream, run->options, 0);
    do {
        struct carrier_message answer;

        stream_next(&stream, bench_now());
        if (publish_one(end, run, payload, &stream.head) < 0 || carrier_receive(end, &answer) < 0) {
            return -1;
        }
        published->wrong +=
            answer.size != sizeof stream.head || !stream_same(answer.bytes, &stream.head);
    } while ((stream.head.flags & STREAM_LAST) == 0);
    return 0;
}

/* After it has joined, which says whether such a size is possible at all. */
static int publish(struct carrier_end *end, struct crew_place *place, const struct run *run)
{
    unsigned char *payload = NULL;

    if (!run->way->loan) {
        payload = malloc(run->options->size);
        if (payload == NULL) {
            return bench_fail("out of memory");
        }
        stream_fill(payload, run->options->size, 0);
    }
    crew_ready(place);

    int r = publish_all(end, run, payload, place->result);
    free(payload);
    return r;
}

static int publisher(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    struct carrier_end end;

    int r = carrier_join(&end, &run->carrier, CARRIER_SEND | CARRIER_RECEIVE, CHANNEL_BACK);
    if (r == 0) {
        r = publish(&end, place, run);
    }
    carrier_leave(&end);
    return r;
}

/* ---- alone: subscriber ---- */

static int receive_all(struct carrier_end *end, const struct run *run, struct tally *tally,
                       struct subscribed *subscribed)
{
    while (tally->n_open > 0) {
        struct carrier_message message;

        if (carrier_receive(end, &message) < 0) {
            return -1;
        }

        uint64_t now = bench_now();
        if (tally_take(tally, message.bytes, message.size, run->options->size) < 0) {
            return -1;
        }
        if ((tally->head.flags & STREAM_MEASURED) != 0) {
            histogram_record(&subscribed->times, now - tally->head.sent_at);
        }
        if (carrier_send(end, CHANNEL_BACK, &tally->head, sizeof tally->head, PRIORITY) < 0) {
            return -1;
        }
    }
    subscribed->lost = tally_lost(tally);
    subscribed->twice = tally->twice;
    subscribed->disordered = tally->disordered;
    subscribed->damaged = tally->damaged;
    return 0;
}

static int subscriber(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    struct carrier_end end;
    struct tally tally;

    if (tally_init(&tally, 1) < 0) {
        return -1;
    }

    int r = carrier_join(&end, &run->carrier, CARRIER_SEND | CARRIER_RECEIVE, CHANNEL_THERE);
    if (r == 0) {
        crew_ready(place);
        r = receive_all(&end, run, &tally, place->result);
    }
    carrier_leave(&end);
    tally_deinit(&tally);
    return r;
}

/* ---- does it fit ---- */

static uint64_t memory_available(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *meminfo = fopen("/proc/meminfo", "re");

    if (meminfo == NULL) {
        return UINT64_MAX;
    }
    while (fgets(line, sizeof line, meminfo) != NULL &&
           sscanf(line, "MemAvailable: %llu kB", &kib) != 1) {
    }
    fclose(meminfo);
    return kib > 0 ? kib * KIB : UINT64_MAX;
}

static uint64_t shm_available(void)
{
    struct statvfs shm;

    return statvfs("/dev/shm", &shm) == 0 ? (uint64_t)shm.f_bavail * shm.f_frsize : UINT64_MAX;
}

/* The publisher's own copy, the message under way, and the next one. */
static bool memory_allows(size_t size)
{
    return memory_available() / 3 >= size && shm_available() / 3 >= size;
}

/* ---- the run ---- */

static void add_alone(const struct crew *crew, unsigned first, double *out)
{
    const struct subscribed *subscribed = crew_result(crew, first);
    const struct published *published = crew_result(crew, first + 1);
    const struct histogram *times = &subscribed->times;

    out[P50] = (double)histogram_percentile(times, 500) / 1e3;
    out[P90] = (double)histogram_percentile(times, 900) / 1e3;
    out[P99] = (double)histogram_percentile(times, 990) / 1e3;
    out[P999] = (double)histogram_percentile(times, 999) / 1e3;
    out[MAX] = (double)times->max / 1e3;
    out[TIMES] = (double)times->count;
    out[LOST] = (double)subscribed->lost;
    out[TWICE] = (double)subscribed->twice;
    out[DISORDERED] = (double)subscribed->disordered;
    out[DAMAGED] = (double)subscribed->damaged;
    out[WRONG] = (double)published->wrong;
}

/* Only the sizes of the row are left out where they do not fit: who asks for one is told. Returns
 * 1, 0 if it is left out, or -1. */
static int fits(const struct run *run)
{
    size_t most;

    if (run->way->size == 0) {
        return 1;
    }
    if (carrier_payload_max(&run->carrier, &most) < 0) {
        return -1;
    }
    return run->options->size <= most;
}

/* Returns 1, 0 if the size is left out, or -1. */
static int measure_alone(const struct bench_options *options, const struct bench_way *way,
                         double *out)
{
    static const unsigned channels[] = {CHANNEL_BACK, CHANNEL_THERE}; /* each listens to its own */
    struct run run = {.options = options, .way = way};
    struct crew crew;
    unsigned first = 0;

    int r = crew_init(&crew, sizeof(union outcome));
    if (r == 0) {
        r = carrier_open(&run.carrier, &crew, options, way, channels, 2);
        first = crew.n_members;
    }
    if (r == 0) {
        r = fits(&run);
    }
    if (r > 0 &&
        (crew_add(&crew, "subscriber", 0, false, subscriber, &run) < 0 ||
         crew_add(&crew, "publisher", 0, false, publisher, &run) < 0 || crew_run(&crew) < 0)) {
        r = -1;
    }
    if (r > 0) {
        add_alone(&crew, first, out);
    }
    crew_deinit(&crew);
    carrier_close(&run.carrier);
    return r;
}

static int measure_stream(const struct bench_options *options, const struct bench_way *way,
                          double *out)
{
    double flow[FLOW_N_FIGURES];

    if (flow_run(options, way, flow) < 0) {
        return -1;
    }
    out[MESSAGES_PER_SECOND] = flow[FLOW_MESSAGES_PER_SECOND];
    out[MEGABYTES_PER_SECOND] = flow[FLOW_MEGABYTES_PER_SECOND];
    out[PUBLISHER_CPU] = flow[FLOW_PUBLISHER_CPU];
    out[HUB_CPU] = flow[FLOW_HUB_CPU];
    out[SUBSCRIBER_CPU] = flow[FLOW_SUBSCRIBER_CPU];
    out[LOST] += flow[FLOW_LOST];
    out[TWICE] += flow[FLOW_TWICE];
    out[DISORDERED] += flow[FLOW_DISORDERED];
    out[DAMAGED] += flow[FLOW_DAMAGED];
    return 0;
}

static int run_once(const struct bench_options *options, const struct bench_way *way, double *out)
{
    struct bench_options sized = *options;
    int r = 0;

    for (unsigned f = 0; f < N_FIGURES; f++) {
        out[f] = figures[f].fold == BENCH_FAULTS ? 0 : (double)NAN;
    }
    if (way->size > 0) {
        sized.size = way->size;
        if (!memory_allows(way->size)) {
            return 0;
        }
    }
    sized.publishers = 1;
    sized.subscribers = 1;
    r = measure_alone(&sized, way, out);
    return r <= 0 ? r : measure_stream(&sized, way, out);
}

static void describe(const struct bench_options *options, char *out, size_t size)
{
    char what[64] = "payloads of each size";

    if (options->size > 0) {
        snprintf(what, sizeof what, "payloads of %zu bytes", options->size);
    }
    snprintf(out, size,
             "A publisher sends %s to a subscriber, who checks each: one after the other, then as "
             "fast as it may.",
             what);
}

const struct bench_mode bench_large = {
    .name = "large",
    .purpose = "large payloads, copied in and on loan: publish to receive, messages a second",
    .seconds = 0.5,
    .note = "us: from publish to receive, of messages sent one at a time. ns: processor time a "
            "message, of the stream.\n"
            "A dash: more than the broker allows, or than there is memory for.",
    .sizes = true,
    .ways = ways,
    .n_ways = sizeof ways / sizeof *ways,
    .figures = figures,
    .n_figures = N_FIGURES,
    .ratios = ratios,
    .n_ratios = sizeof ratios / sizeof *ratios,
    .describe = describe,
    .run = run_once,
};
