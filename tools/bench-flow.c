/* How it is measured: the clock runs at the subscriber, from the first message that was sent after
 * the warm-up to the last; processor time is read at the same two messages, of the subscriber and
 * of the hub (broker or relay), and at the sending of them of the publisher. */
#include "tools/bench-flow.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/bench-carrier.h"
#include "tools/bench-crew.h"
#include "tools/bench-stream.h"
#include "tools/bench-usage.h"
#include "tools/bench.h"

enum {
    PRIORITY = 8,
    CLOCK_EVERY = 64,         /* messages between two looks at the clock … */
    CLOCK_ALWAYS_FROM = 4096, /* … unless they are so large that a look is nothing beside them */
};

const struct bench_figure flow_figures[FLOW_N_FIGURES] = {
    [FLOW_MESSAGES_PER_SECOND] = {"messages_per_second", "messages/s", 0, BENCH_MEDIAN},
    [FLOW_MEGABYTES_PER_SECOND] = {"megabytes_per_second", "MB/s", 1, BENCH_MEDIAN},
    [FLOW_DELIVERIES_PER_SECOND] = {"deliveries_per_second", "deliveries/s", 0, BENCH_MEDIAN},
    [FLOW_PUBLISHER_CPU] = {"publisher_cpu_ns", "publisher ns", 0, BENCH_MEDIAN},
    [FLOW_HUB_CPU] = {"hub_cpu_ns", "broker ns", 0, BENCH_MEDIAN},
    [FLOW_SUBSCRIBER_CPU] = {"subscriber_cpu_ns", "subscriber ns", 0, BENCH_MEDIAN},
    [FLOW_PUBLISHER_SWITCHES] = {"publisher_switches", NULL, 3, BENCH_MEDIAN},
    [FLOW_HUB_SWITCHES] = {"hub_switches", "broker switches", 3, BENCH_MEDIAN},
    [FLOW_SUBSCRIBER_SWITCHES] = {"subscriber_switches", NULL, 3, BENCH_MEDIAN},
    [FLOW_SUBSCRIBE_MS] = {"subscribe_ms", "subscribe ms", 1, BENCH_MEDIAN},
    [FLOW_PUBLISHED] = {"published", NULL, 0, BENCH_MEDIAN},
    [FLOW_RECEIVED] = {"received", NULL, 0, BENCH_MEDIAN},
    [FLOW_LOST] = {"lost", "lost", 0, BENCH_FAULTS},
    [FLOW_TWICE] = {"twice", "twice", 0, BENCH_FAULTS},
    [FLOW_DISORDERED] = {"disordered", "disordered", 0, BENCH_FAULTS},
    [FLOW_DAMAGED] = {"damaged", NULL, 0, BENCH_FAULTS},
};

const struct bench_way flow_ways[FLOW_N_WAYS] = {
    {.key = "broker_batched", .name = "mqbroker, batched", .batch = BENCH_YES},
    {.key = "bare_batched", .name = "bare queues, batched", .bare = true, .batch = BENCH_YES},
    {.key = "broker_loaned",
     .name = "mqbroker, batched, on loan",
     .batch = BENCH_YES,
     .loan = true},
    {.key = "broker_single", .name = "mqbroker, one call a message", .batch = BENCH_NO},
    {.key = "bare_single",
     .name = "bare queues, one call a message",
     .bare = true,
     .batch = BENCH_NO},
    {.key = "broker_single_loaned",
     .name = "mqbroker, one call a message, on loan",
     .batch = BENCH_NO,
     .loan = true},
};

const struct bench_ratio flow_ratios[FLOW_N_RATIOS] = {
    {"batched_to_bare", "messages/s, batched: mqbroker to bare queues", "broker_batched",
     "bare_batched", "messages_per_second"},
    {"single_to_bare", "messages/s, one call a message: mqbroker to bare queues", "broker_single",
     "bare_single", "messages_per_second"},
};

const char flow_note[] = "ns: processor time a message. broker: over bare queues it is the relay. "
                         "switches: context switches a message.";

/* What the workers of a run know. */
struct run {
    const struct bench_options *options;
    const struct bench_way *way;
    struct carrier carrier;
    unsigned n_publishers;
    unsigned n_subscribers;
};

struct published {
    uint64_t messages;
    uint64_t measured;
    struct usage used;
};

struct subscribed {
    uint64_t subscribing; /* ns that it took to subscribe */
    uint64_t received;
    uint64_t measured; /* from the first measured one on */
    uint64_t lost;
    uint64_t twice;
    uint64_t disordered;
    uint64_t damaged;
    uint64_t began; /* bench_now(), of the first measured one and of the last */
    uint64_t ended;
    struct usage used;
    struct usage hub_used;
};

union outcome {
    struct published published;
    struct subscribed subscribed;
};

/* ---- publisher ---- */

/* Send one: copied out of `payload`, or written into memory on loan. */
static int publish_one(struct carrier_end *end, const struct run *run, unsigned channel,
                       unsigned char *payload, const struct stream_head *head)
{
    size_t size = run->options->size;

    if (run->way->loan) {
        void *bytes;

        if (carrier_loan(end, channel, size, &bytes) < 0) {
            return -1;
        }
        stream_mark(bytes, size, head);
        return carrier_send_loan(end, channel, bytes, size, PRIORITY);
    }
    stream_stamp(payload, head);
    return carrier_send(end, channel, payload, size, PRIORITY);
}

static int publish_all(struct carrier_end *end, const struct run *run, unsigned char *payload,
                       struct stream *stream, struct published *published)
{
    unsigned clock_every = run->options->size < CLOCK_ALWAYS_FROM ? CLOCK_EVERY : 1;
    struct usage from = usage_of(0);
    unsigned n_channels = run->carrier.n_filters > 0 ? run->carrier.n_channels : 1;
    unsigned channel = 0;

    do {
        bool was_measuring = stream->measuring;

        stream_next(stream, published->messages % clock_every == 0 ? bench_now() : 0);
        if (stream->measuring && !was_measuring) {
            from = usage_of(0);
        }
        if (publish_one(end, run, channel, payload, &stream->head) < 0) {
            return -1;
        }
        channel = channel + 1 < n_channels ? channel + 1 : 0;
        published->messages++;
        published->measured += stream->measuring;
    } while ((stream->head.flags & STREAM_LAST) == 0);
    if (carrier_flush(end) < 0) {
        return -1;
    }

    struct usage to = usage_of(0);
    published->used = usage_between(&from, &to);
    return 0;
}

/* After it has joined, which says whether such a size is possible at all. */
static int publish(struct carrier_end *end, struct crew_place *place, const struct run *run)
{
    unsigned char *payload = NULL;
    struct stream stream;

    if (!run->way->loan) {
        payload = malloc(run->options->size);
        if (payload == NULL) {
            return bench_fail("out of memory");
        }
        stream_fill(payload, run->options->size, place->index);
    }
    crew_ready(place);
    stream_begin(&stream, run->options, place->index);

    int r = publish_all(end, run, payload, &stream, place->result);
    free(payload);
    return r;
}

static int publisher(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    unsigned use = CARRIER_SEND | (run->way->batch == BENCH_YES ? CARRIER_BATCH : 0u);
    struct carrier_end end;

    int r = carrier_join(&end, &run->carrier, use, 0);
    if (r == 0) {
        r = publish(&end, place, run);
    }
    carrier_leave(&end);
    return r;
}

/* ---- subscriber ---- */

static int receive_all(struct carrier_end *end, const struct run *run, struct tally *tally,
                       struct subscribed *subscribed)
{
    struct usage from = {0};
    struct usage hub_from = {0};
    uint64_t before = 0;

    while (tally->n_open > 0) {
        struct carrier_message message;

        if (carrier_receive(end, &message) < 0 ||
            tally_take(tally, message.bytes, message.size, run->options->size) < 0) {
            return -1;
        }
        if (tally->measured == 1 && before == 0) {
            before = tally->received;
            hub_from = usage_of(run->carrier.hub);
            from = usage_of(0);
        }
    }

    struct usage to = usage_of(0);
    struct usage hub_to = usage_of(run->carrier.hub);
    *subscribed = (struct subscribed){
        .subscribing = end->subscribing,
        .received = tally->received,
        .measured = tally->received - before,
        .lost = tally_lost(tally),
        .twice = tally->twice,
        .disordered = tally->disordered,
        .damaged = tally->damaged,
        .began = from.at,
        .ended = to.at,
        .used = usage_between(&from, &to),
        .hub_used = usage_between(&hub_from, &hub_to),
    };
    return 0;
}

static int subscriber(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    struct carrier_end end;
    struct tally tally;

    if (tally_init(&tally, run->n_publishers) < 0) {
        return -1;
    }

    int r = carrier_join(&end, &run->carrier, CARRIER_RECEIVE, place->index);
    if (r == 0) {
        crew_ready(place);
        r = receive_all(&end, run, &tally, place->result);
    }
    carrier_leave(&end);
    tally_deinit(&tally);
    return r;
}

/* ---- the run ---- */

static void add_subscribers(const struct run *run, const struct crew *crew, unsigned first,
                            double *out)
{
    double slowest = INFINITY;
    double measured = 0;
    uint64_t began = UINT64_MAX;
    uint64_t ended = 0;

    for (unsigned i = 0; i < run->n_subscribers; i++) {
        const struct subscribed *one = crew_result(crew, first + i);
        double rate = (double)one->measured * 1e9 / (double)(one->used.at > 0 ? one->used.at : 1);

        slowest = rate < slowest ? rate : slowest;
        measured += (double)one->measured;
        began = one->began < began ? one->began : began;
        ended = one->ended > ended ? one->ended : ended;
        out[FLOW_SUBSCRIBER_CPU] += usage_cpu_per(&one->used, one->measured) / run->n_subscribers;
        out[FLOW_SUBSCRIBER_SWITCHES] +=
            usage_switches_per(&one->used, one->measured) / run->n_subscribers;
        out[FLOW_SUBSCRIBE_MS] += (double)one->subscribing / 1e6 / run->n_subscribers;
        out[FLOW_RECEIVED] += (double)one->received;
        out[FLOW_LOST] += (double)one->lost;
        out[FLOW_TWICE] += (double)one->twice;
        out[FLOW_DISORDERED] += (double)one->disordered;
        out[FLOW_DAMAGED] += (double)one->damaged;
        if (i == 0) {
            out[FLOW_HUB_CPU] = usage_cpu_per(&one->hub_used, one->measured);
            out[FLOW_HUB_SWITCHES] = usage_switches_per(&one->hub_used, one->measured);
        }
    }
    out[FLOW_MESSAGES_PER_SECOND] = slowest;
    out[FLOW_MEGABYTES_PER_SECOND] = slowest * (double)run->options->size / 1e6;
    out[FLOW_DELIVERIES_PER_SECOND] = measured * 1e9 / (double)(ended > began ? ended - began : 1);
}

static void add_publishers(const struct run *run, const struct crew *crew, unsigned first,
                           double *out)
{
    for (unsigned i = 0; i < run->n_publishers; i++) {
        const struct published *one = crew_result(crew, first + i);

        out[FLOW_PUBLISHER_CPU] += usage_cpu_per(&one->used, one->measured) / run->n_publishers;
        out[FLOW_PUBLISHER_SWITCHES] +=
            usage_switches_per(&one->used, one->measured) / run->n_publishers;
        out[FLOW_PUBLISHED] += (double)one->messages;
    }
}

/* Subscribers are the first members, but for the relay that the carrier may have added before. */
static void add_up(const struct run *run, const struct crew *crew, unsigned first, double *out)
{
    for (unsigned f = 0; f < FLOW_N_FIGURES; f++) {
        out[f] = 0;
    }
    add_subscribers(run, crew, first, out);
    add_publishers(run, crew, first + run->n_subscribers, out);
}

static int add_workers(struct crew *crew, const struct run *run)
{
    for (unsigned i = 0; i < run->n_subscribers; i++) {
        if (crew_add(crew, "subscriber", i, false, subscriber, run) < 0) {
            return -1;
        }
    }
    for (unsigned i = 0; i < run->n_publishers; i++) {
        if (crew_add(crew, "publisher", i, false, publisher, run) < 0) {
            return -1;
        }
    }
    return 0;
}

int flow_run(const struct bench_options *options, const struct bench_way *way, double *out)
{
    static const unsigned channels[BENCH_WORKERS_MAX]; /* all listen to channel 0 */
    struct run run = {
        .options = options,
        .way = way,
        .n_publishers = options->publishers,
        .n_subscribers = options->subscribers,
    };
    struct crew crew;
    unsigned first = 0;

    int r = crew_init(&crew, sizeof(union outcome));
    if (r == 0) {
        r = carrier_open(&run.carrier, &crew, options, way, channels, run.n_subscribers);
        first = crew.n_members;
    }
    if (r == 0) {
        r = add_workers(&crew, &run);
    }
    if (r == 0) {
        r = crew_run(&crew);
    }
    if (r == 0) {
        add_up(&run, &crew, first, out);
    }
    crew_deinit(&crew);
    carrier_close(&run.carrier);
    return r;
}

void flow_describe(const struct bench_options *options, char *out, size_t size)
{
    snprintf(out, size,
             "%u publisher%s messages of %zu bytes as fast as they may to %u subscriber%s, "
             "who check%s each.",
             options->publishers, options->publishers == 1 ? " sends" : "s send", options->size,
             options->subscribers, options->subscribers == 1 ? "" : "s",
             options->subscribers == 1 ? "s" : "");
}
