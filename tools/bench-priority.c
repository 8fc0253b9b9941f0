/* Priority: how long an urgent message takes while others flood.
 *
 * Many processes send at priority 0 as fast as they may, one sends a message at 31 every
 * millisecond, and one receiver reads all of it: the hard case, as the urgent ones have to overtake
 * in its own queue. The time of an urgent message runs from before it is sent to after it was
 * received. The same without a flood says what the machine takes anyway. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tools/bench-carrier.h"
#include "tools/bench-crew.h"
#include "tools/bench-stream.h"
#include "tools/bench.h"
#include "tools/histogram.h"

enum {
    URGENT = 31,
    FLOOD = 0,
    SENDER_URGENT = 0, /* numbers of streams; the flood's begin at 1 */
    INTERVAL_NS = 1000000,
};

enum figure {
    P50,
    P90,
    P99,
    MAX,
    MESSAGES,
    FLOOD_PER_SECOND,
    LOST,
    TWICE,
    DISORDERED,
    DAMAGED,
    N_FIGURES,
};

static const struct bench_figure figures[N_FIGURES] = {
    [P50] = {"urgent_p50_us", "p50 us", 1, BENCH_MEDIAN},
    [P90] = {"urgent_p90_us", "p90 us", 1, BENCH_MEDIAN},
    [P99] = {"urgent_p99_us", "p99 us", 1, BENCH_MEDIAN},
    [MAX] = {"urgent_max_us", "max us", 1, BENCH_MAX},
    [MESSAGES] = {"urgent_messages", "messages", 0, BENCH_MEDIAN},
    [FLOOD_PER_SECOND] = {"flood_per_second", "flood/s", 0, BENCH_MEDIAN},
    [LOST] = {"lost", "lost", 0, BENCH_FAULTS},
    [TWICE] = {"twice", "twice", 0, BENCH_FAULTS},
    [DISORDERED] = {"disordered", "disordered", 0, BENCH_FAULTS},
    [DAMAGED] = {"damaged", NULL, 0, BENCH_FAULTS},
};

static const struct bench_way ways[] = {
    {.key = "broker_idle", .name = "mqbroker, no flood", .batch = BENCH_UNSAID},
    {.key = "bare_idle", .name = "bare queues, no flood", .bare = true, .batch = BENCH_UNSAID},
    {.key = "broker_flood",
     .name = "mqbroker, flood, one call a message",
     .batch = BENCH_NO,
     .flood = true},
    {.key = "bare_flood",
     .name = "bare queues, flood, one call a message",
     .bare = true,
     .batch = BENCH_NO,
     .flood = true},
    {.key = "broker_flood_batched",
     .name = "mqbroker, batched flood",
     .batch = BENCH_YES,
     .flood = true},
    {.key = "bare_flood_batched",
     .name = "bare queues, batched flood",
     .bare = true,
     .batch = BENCH_YES,
     .flood = true},
};

static const struct bench_ratio ratios[] = {
    {"flood_to_idle", "p99, mqbroker: flood to no flood", "broker_flood", "broker_idle",
     "urgent_p99_us"},
    {"flood_batched_to_idle", "p99, mqbroker: batched flood to no flood", "broker_flood_batched",
     "broker_idle", "urgent_p99_us"},
    {"bare_flood_to_idle", "p99, bare queues: flood to no flood", "bare_flood", "bare_idle",
     "urgent_p99_us"},
    {"bare_flood_batched_to_idle", "p99, bare queues: batched flood to no flood",
     "bare_flood_batched", "bare_idle", "urgent_p99_us"},
};

struct run {
    const struct bench_options *options;
    const struct bench_way *way;
    struct carrier carrier;
    unsigned n_flooders;
};

struct received {
    struct histogram times;
    uint64_t flood; /* messages of the flood while urgent ones were measured */
    uint64_t flood_time;
    uint64_t lost;
    uint64_t twice;
    uint64_t disordered;
    uint64_t damaged;
};

/* ---- senders ---- */

static void sleep_until(uint64_t moment)
{
    struct timespec time = {
        .tv_sec = (time_t)(moment / 1000000000u),
        .tv_nsec = (long)(moment % 1000000000u),
    };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) != 0) {
    }
}

static int send_urgent(struct carrier_end *end, const struct run *run, unsigned char *payload,
                       struct stream *stream)
{
    uint64_t next = bench_now();

    for (;;) {
        stream_next(stream, bench_now());
        stream->head.sent_at = bench_now();
        stream_stamp(payload, &stream->head);
        if (carrier_send(end, 0, payload, run->options->size, URGENT) < 0) {
            return -1;
        }
        if ((stream->head.flags & STREAM_LAST) != 0) {
            return 0;
        }
        /* One that was held up is not made up for by a burst. */
        uint64_t now = bench_now();
        next = next + INTERVAL_NS > now ? next + INTERVAL_NS : now;
        sleep_until(next);
    }
}

static int flood(struct carrier_end *end, const struct run *run, unsigned char *payload,
                 struct stream *stream, const struct crew_place *place)
{
    do {
        if (crew_stopped(place)) {
            stream_cut(stream);
        }
        stream_next(stream, 0);
        stream_stamp(payload, &stream->head);
        if (carrier_send(end, 0, payload, run->options->size, FLOOD) < 0) {
            return -1;
        }
    } while ((stream->head.flags & STREAM_LAST) == 0);
    return carrier_flush(end);
}

static int sender(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    bool urgent = place->index == SENDER_URGENT;
    bool batch = !urgent && run->way->batch == BENCH_YES;
    unsigned char *payload = malloc(run->options->size);
    struct carrier_end end;
    struct stream stream;

    if (payload == NULL) {
        return bench_fail("out of memory");
    }
    stream_fill(payload, run->options->size, place->index);

    int r = carrier_join(&end, &run->carrier, CARRIER_SEND | (batch ? CARRIER_BATCH : 0u), 0);
    if (r == 0) {
        crew_ready(place);
    }
    if (r == 0 && urgent) {
        stream_begin(&stream, run->options, place->index);
        r = send_urgent(&end, run, payload, &stream);
        crew_stop(place);
    } else if (r == 0) {
        stream_begin_endless(&stream, place->index);
        r = flood(&end, run, payload, &stream, place);
    }
    carrier_leave(&end);
    free(payload);
    return r;
}

/* ---- receiver ---- */

static int receive_all(struct carrier_end *end, const struct run *run, struct tally *tally,
                       struct received *received)
{
    uint64_t first_at = 0;
    uint64_t flood_before = 0;

    while (tally->n_open > 0) {
        struct carrier_message message;

        if (carrier_receive(end, &message) < 0 ||
            tally_take(tally, message.bytes, message.size, run->options->size) < 0) {
            return -1;
        }
        if ((tally->head.flags & STREAM_MEASURED) == 0 || tally->head.sender != SENDER_URGENT) {
            continue;
        }

        uint64_t now = bench_now();
        histogram_record(&received->times, now - tally->head.sent_at);
        if (first_at == 0) {
            first_at = now;
            flood_before = tally->received - tally->measured;
        }
        received->flood = tally->received - tally->measured - flood_before;
        received->flood_time = now - first_at;
    }
    received->lost = tally_lost(tally);
    received->twice = tally->twice;
    received->disordered = tally->disordered;
    received->damaged = tally->damaged;
    return 0;
}

static int receiver(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    struct carrier_end end;
    struct tally tally;

    if (tally_init(&tally, 1 + run->n_flooders) < 0) {
        return -1;
    }

    int r = carrier_join(&end, &run->carrier, CARRIER_RECEIVE, 0);
    if (r == 0) {
        crew_ready(place);
        r = receive_all(&end, run, &tally, place->result);
    }
    carrier_leave(&end);
    tally_deinit(&tally);
    return r;
}

/* ---- the run ---- */

static void add_up(const struct received *received, double *out)
{
    const struct histogram *times = &received->times;

    out[P50] = (double)histogram_percentile(times, 500) / 1e3;
    out[P90] = (double)histogram_percentile(times, 900) / 1e3;
    out[P99] = (double)histogram_percentile(times, 990) / 1e3;
    out[MAX] = (double)times->max / 1e3;
    out[MESSAGES] = (double)times->count;
    out[FLOOD_PER_SECOND] =
        received->flood_time > 0 ? (double)received->flood * 1e9 / (double)received->flood_time : 0;
    out[LOST] = (double)received->lost;
    out[TWICE] = (double)received->twice;
    out[DISORDERED] = (double)received->disordered;
    out[DAMAGED] = (double)received->damaged;
}

static int add_workers(struct crew *crew, const struct run *run)
{
    if (crew_add(crew, "receiver", 0, false, receiver, run) < 0) {
        return -1;
    }
    for (unsigned i = 0; i <= run->n_flooders; i++) {
        const char *role = i == SENDER_URGENT ? "urgent" : "flooder";

        if (crew_add(crew, role, i, false, sender, run) < 0) {
            return -1;
        }
    }
    return 0;
}

static int run_once(const struct bench_options *options, const struct bench_way *way, double *out)
{
    static const unsigned channels[] = {0};
    struct run run = {
        .options = options,
        .way = way,
        .n_flooders = way->flood ? options->publishers : 0,
    };
    struct crew crew;
    unsigned first = 0;

    int r = crew_init(&crew, sizeof(struct received));
    if (r == 0) {
        r = carrier_open(&run.carrier, &crew, options, way, channels, 1);
        first = crew.n_members;
    }
    if (r == 0) {
        r = add_workers(&crew, &run);
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
             "%u processes flood with messages of %zu bytes at priority 0, one sends a message at "
             "31 every millisecond: time of the latter to the receiver of both.",
             options->publishers, options->size);
}

const struct bench_mode bench_priority = {
    .name = "priority",
    .purpose = "time of urgent messages while others flood (--publishers), and without them",
    .seconds = 1,
    .size = 64,
    .publishers = 8,
    .batches = true,
    .ways = ways,
    .n_ways = sizeof ways / sizeof *ways,
    .figures = figures,
    .n_figures = N_FIGURES,
    .ratios = ratios,
    .n_ratios = sizeof ratios / sizeof *ratios,
    .describe = describe,
    .run = run_once,
};
