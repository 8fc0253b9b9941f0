/* A subscriber joins and never receives; a publisher sends as much as it gets rid of, at most 32
 * MiB. An observer sees when it does not go on any more, and looks at the broker's memory then.
 *
 * Memory is what the broker's process has of its own (its resident pages less the shared ones) and
 * what stands in /dev/shm, whoever wrote it there: that is where mqbroker and iceoryx keep
 * messages. The kernel's buffers, of sockets and of queues, are not in it. */
#include "tests/peers/backlog.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "tools/bench-carrier.h"
#include "tools/bench-crew.h"
#include "tools/bench-stream.h"

enum {
    PRIORITY = 8,
    MIB = 1 << 20,
    BACKLOG = 32 * MIB,
    LOOK_MS = 100,
    STILL_LOOKS = 10, /* without progress: it does not go on */
};

static const struct bench_figure figures[BACKLOG_N_FIGURES] = {
    [BACKLOG_START_MS] = {"start_ms", "start ms", 1, BENCH_MEDIAN},
    [BACKLOG_IDLE_MIB] = {"idle_mib", "MiB idle", 1, BENCH_MEDIAN},
    [BACKLOG_TAKEN_MIB] = {"taken_mib", "MiB taken", 1, BENCH_MEDIAN},
    [BACKLOG_FULL_MIB] = {"full_mib", "MiB then", 1, BENCH_MEDIAN},
};

struct run {
    const struct bench_options *options;
    const struct bench_way *way;
    struct carrier carrier;
    const struct crew *crew;
    unsigned first;    /* the publisher's place in the crew; the observer's comes next */
    double shm_before; /* what stood in /dev/shm before the broker was started */
};

struct published {
    _Atomic uint64_t messages;
};

struct observed {
    double idle;
    double full;
    double taken;
};

union outcome {
    struct published published;
    struct observed observed;
};

/* ---- memory ---- */

static double shm_used(void)
{
    struct statvfs shm;

    if (statvfs("/dev/shm", &shm) < 0) {
        return NAN;
    }
    return (double)(shm.f_blocks - shm.f_bfree) * (double)shm.f_frsize;
}

static double own_memory(pid_t pid)
{
    char path[64];
    char line[256];
    long anonymous = 0;
    long file = 0;

    snprintf(path, sizeof path, "/proc/%ld/status", (long)pid);
    FILE *status = fopen(path, "re");
    if (status == NULL) {
        return NAN;
    }
    while (fgets(line, sizeof line, status) != NULL) {
        sscanf(line, "RssAnon: %ld kB", &anonymous);
        sscanf(line, "RssFile: %ld kB", &file);
    }
    fclose(status);
    return 1024.0 * (double)(anonymous + file);
}

static double memory(const struct run *run)
{
    return (own_memory(run->carrier.hub) + shm_used() - run->shm_before) / MIB;
}

static void nap(long ms)
{
    struct timespec moment = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};

    nanosleep(&moment, NULL);
}

/* ---- the three ---- */

/* It stands still: killed at the end of the run. */
static int subscriber(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    struct carrier_end end;

    if (carrier_join(&end, &run->carrier, CARRIER_RECEIVE, 0) < 0) {
        return -1;
    }
    crew_ready(place);
    for (;;) {
        pause();
    }
}

static int publish_backlog(struct carrier_end *end, const struct run *run,
                           struct published *published)
{
    size_t size = run->options->size;
    unsigned char *payload = malloc(size);
    struct stream_head head = {0}; /* all have number 0: no window holds them */

    if (payload == NULL) {
        return bench_fail("out of memory");
    }
    stream_fill(payload, size, 0);
    stream_stamp(payload, &head);

    int r = 0;
    for (size_t i = 0; i < BACKLOG / size && r == 0; i++) {
        r = carrier_send(end, 0, payload, size, PRIORITY);
        if (r == 0) {
            atomic_fetch_add_explicit(&published->messages, 1, memory_order_relaxed);
        }
    }
    if (r == 0) {
        r = carrier_flush(end);
    }
    free(payload);
    return r;
}

/* Stays, because a publisher's end may be what its messages wait for. */
static int publisher(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    struct carrier_end end;

    if (carrier_join(&end, &run->carrier, CARRIER_SEND | CARRIER_BATCH, 0) < 0) {
        return -1;
    }
    crew_ready(place);
    nap(2 * LOOK_MS); /* the observer looks at the idle broker */
    if (publish_backlog(&end, run, place->result) < 0) {
        return -1;
    }
    for (;;) {
        pause();
    }
}

static int observer(struct crew_place *place, const void *context)
{
    const struct run *run = context;
    struct published *published = crew_result(run->crew, run->first);
    struct observed *observed = place->result;
    uint64_t before = 0;

    crew_ready(place);
    nap(LOOK_MS);
    observed->idle = memory(run);
    nap(2 * LOOK_MS);
    for (unsigned still = 0; still < STILL_LOOKS; still++) {
        uint64_t now = atomic_load(&published->messages);

        if (now != before) {
            still = 0;
        }
        before = now;
        nap(LOOK_MS);
    }
    observed->full = memory(run);
    observed->taken = (double)(before * run->options->size) / MIB;
    return 0;
}

/* ---- the run ---- */

static int add_workers(struct crew *crew, struct run *run)
{
    run->crew = crew;
    run->first = crew->n_members;
    return crew_add(crew, "publisher", 0, true, publisher, run) < 0 ||
                   crew_add(crew, "observer", 0, false, observer, run) < 0 ||
                   crew_add(crew, "subscriber", 0, true, subscriber, run) < 0
               ? -1
               : 0;
}

static int backlog_run(const struct bench_options *options, const struct bench_way *way,
                       double *out)
{
    static const unsigned channels[1];
    struct run run = {.options = options, .way = way, .shm_before = shm_used()};
    struct crew crew;

    int r = crew_init(&crew, sizeof(union outcome));
    if (r == 0) {
        r = carrier_open(&run.carrier, &crew, options, way, channels, 1);
    }
    if (r == 0) {
        r = add_workers(&crew, &run);
    }
    if (r == 0) {
        r = crew_run(&crew);
    }
    if (r == 0) {
        const struct observed *observed = crew_result(&crew, run.first + 1);

        out[BACKLOG_START_MS] = (double)run.carrier.starting / 1e6;
        out[BACKLOG_IDLE_MIB] = observed->idle;
        out[BACKLOG_TAKEN_MIB] = observed->taken;
        out[BACKLOG_FULL_MIB] = observed->full;
    }
    crew_deinit(&crew);
    carrier_close(&run.carrier);
    return r;
}

static void describe(const struct bench_options *options, char *out, size_t size)
{
    snprintf(out, size,
             "A publisher sends messages of %zu bytes, up to 32 MiB, to a subscriber that does not "
             "read.",
             options->size);
}

const struct bench_mode backlog_mode = {
    .name = "backlog",
    .purpose = "the broker's memory while a subscriber does not read",
    .size = 1024,
    .publishers = 1,
    .subscribers = 1,
    .figures = figures,
    .n_figures = BACKLOG_N_FIGURES,
    .describe = describe,
    .run = backlog_run,
};
