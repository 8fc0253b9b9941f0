/* mqbench: how fast, how soon, how fair; and how much of that is the kernel's and how much the
 * broker's.
 *
 * Each mode is a table entry here and a file of its own (tools/bench-<mode>.c); tools/bench.h says
 * what one consists of. Without an instance, a private broker is started for each run and stopped
 * after it, so that the first command anybody tries just works. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/bench-carrier.h"
#include "tools/bench-crew.h"
#include "tools/bench-report.h"
#include "tools/bench-stream.h"
#include "tools/bench.h"
#include "tools/options.h"

static const struct bench_mode *const modes[] = {
    &bench_throughput, &bench_fanout,   &bench_fanin,   &bench_large, &bench_filters,
    &bench_latency,    &bench_priority, &bench_durable, NULL,
};

enum key {
    KEY_BATCH = OPTIONS_KEY_LONG,
    KEY_NO_BATCH,
    KEY_LOAN,
    KEY_PUBLISHERS,
    KEY_SUBSCRIBERS,
    KEY_FILTERS,
    KEY_OUTSTANDING,
    KEY_SYNC,
    KEY_DIRECTORY,
    KEY_POLL,
    KEY_SLEEP,
    KEY_BROKER,
    KEY_BROKER_POLL,
    KEY_JSON,
};

static const struct options_entry entries[] = {
    {'s', "size", "BYTES",
     "payload of a message (64, 8K, 1M, 1G), at least 16; if not said 64,\n1,024 for fanout, for "
     "large each from 8K to 1G"},
    {'n', "count", "N", "messages of a run, besides those for warming up"},
    {'d', "duration", "DURATION",
     "length of a run (2s, 500ms), likewise; if a count is given too,\nwhat is reached first"},
    {'r', "repeat", "N", "runs of each kind, 5 if not said; medians are shown"},
    {'b', "baseline", NULL, "the same work over bare kernel queues, in turn with ours"},
    {KEY_BATCH, "batch", NULL, "only batched"},
    {KEY_NO_BATCH, "no-batch", NULL, "only one call a message"},
    {KEY_LOAN, "loan", NULL, "besides copying payloads in, write them into memory on loan"},
    {KEY_PUBLISHERS, "publishers", "N", "sending processes"},
    {KEY_SUBSCRIBERS, "subscribers", "N", "receiving processes; each gets every message"},
    {KEY_FILTERS, "filters", "N", "subscriptions that are many; 10,000 if not said, at least 10"},
    {KEY_OUTSTANDING, "outstanding", "N",
     "durable messages that are unconfirmed at a time; if not said 1,\nthen 128"},
    {KEY_SYNC, "sync", "MODE", "always (if not said), interval or never"},
    {KEY_DIRECTORY, "directory", "DIR",
     "where the files of durable messages are; /var/tmp if not said"},
    {KEY_POLL, "poll", "USEC", "look again for so long before sleeping"},
    {KEY_SLEEP, "sleep", NULL, "never look again: sleep at once"},
    {KEY_BROKER, "broker", "FILE", "the mqbroker to start"},
    {KEY_BROKER_POLL, "broker-poll", "USEC", "how long that one looks again; 0: never"},
    {KEY_JSON, "json", NULL, "print JSON"},
    {0},
};

enum { OUTSTANDING_MAX = 1000 }; /* the library remembers the outcomes of 1,024 */

static const char more[] =
    "Without --instance or MQBROKER_INSTANCE a private broker is started for each run: there is "
    "no\n"
    "default one. Exit status: 0, or 1 on an error or if a message was lost, came twice, out of\n"
    "order or damaged; 2 on wrong usage.";

/* What the help says is made of the table of modes. `purpose` is for its text. */
static struct options_program make_program(char *purpose, size_t size)
{
    size_t used = (size_t)snprintf(purpose, size, "Measure mqbroker, and check each message.\n");

    for (const struct bench_mode *const *mode = modes; *mode != NULL && used < size; mode++) {
        used += (size_t)snprintf(purpose + used, size - used, "\n  %-12s%s", (*mode)->name,
                                 (*mode)->purpose);
    }
    return (struct options_program){
        .name = "mqbench",
        .usage = "MODE [OPTION]...",
        .purpose = purpose,
        .entries = entries,
        .more = more,
    };
}

static const struct bench_mode *find_mode(const struct options *options, const char *name)
{
    for (const struct bench_mode *const *mode = modes; *mode != NULL; mode++) {
        if (strcmp((*mode)->name, name) == 0) {
            return *mode;
        }
    }
    options_usage(options, "there is no mode \"%s\"", name);
}

static size_t payload_size(const struct options *options)
{
    uint64_t size = options_size(options);

    if (size < sizeof(struct stream_head)) {
        options_usage(options, "--size must be at least %zu: each message is numbered",
                      sizeof(struct stream_head));
    }
    return (size_t)size;
}

static const char *sync_mode(const struct options *options)
{
    static const char *const modes_of_sync[] = {"always", "interval", "never"};

    for (size_t i = 0; i < sizeof modes_of_sync / sizeof *modes_of_sync; i++) {
        if (strcmp(options->value, modes_of_sync[i]) == 0) {
            return modes_of_sync[i];
        }
    }
    options_usage(options, "--sync: '%s' is not one of always, interval and never", options->value);
}

/* As the broker's configuration has it. */
static const char *directory(const struct options *options)
{
    static char path[PATH_MAX];

    if (realpath(options->value, path) == NULL) {
        options_usage(options, "--directory: %s: %s", options->value, strerror(errno));
    }
    return path;
}

static void take_option(const struct options *options, int key, struct bench_options *bench,
                        bool *json)
{
    switch (key) {
    case 's':
        bench->size = payload_size(options);
        break;
    case 'n':
        bench->count = options_number(options, 1, UINT32_MAX / 2);
        break;
    case 'd':
        bench->seconds = (double)options_duration(options) / 1e9;
        break;
    case 'r':
        bench->repeat = (unsigned)options_number(options, 1, BENCH_REPEAT_MAX);
        break;
    case 'b':
        bench->baseline = true;
        break;
    case KEY_BATCH:
        bench->batch = BENCH_YES;
        break;
    case KEY_NO_BATCH:
        bench->batch = BENCH_NO;
        break;
    case KEY_LOAN:
        bench->loan = true;
        break;
    case KEY_PUBLISHERS:
        bench->publishers = (unsigned)options_number(options, 1, BENCH_WORKERS_MAX);
        break;
    case KEY_SUBSCRIBERS:
        bench->subscribers = (unsigned)options_number(options, 1, BENCH_WORKERS_MAX);
        break;
    case KEY_FILTERS:
        bench->filters = (unsigned)options_number(options, CARRIER_FILTERS_FEW, 1000000);
        break;
    case KEY_OUTSTANDING:
        bench->outstanding = (unsigned)options_number(options, 1, OUTSTANDING_MAX);
        break;
    case KEY_SYNC:
        bench->sync = sync_mode(options);
        break;
    case KEY_DIRECTORY:
        bench->directory = directory(options);
        break;
    case KEY_POLL:
        bench->wait = BENCH_LOOK;
        bench->poll_usec = (unsigned)options_number(options, 1, 1000000);
        break;
    case KEY_SLEEP:
        bench->wait = BENCH_SLEEP;
        break;
    case KEY_BROKER:
        bench->broker = options->value;
        break;
    case KEY_BROKER_POLL:
        bench->broker_poll_usec = (int)options_number(options, 0, 1000);
        break;
    case KEY_JSON:
        *json = true;
        break;
    default:
        break;
    }
}

/* What the mode decides if nothing is said, and what it refuses. */
static void suit_mode(const struct options *options, const struct bench_mode *mode,
                      struct bench_options *bench)
{
    const char *instance = getenv("MQBROKER_INSTANCE");

    if (bench->publishers > 0 && mode->publishers == 0) {
        options_usage(options, "--publishers has no meaning for %s", mode->name);
    }
    if (bench->subscribers > 0 && mode->subscribers == 0) {
        options_usage(options, "--subscribers has no meaning for %s", mode->name);
    }
    if (bench->filters > 0 && mode->filters == 0) {
        options_usage(options, "--filters has no meaning for %s", mode->name);
    }
    if (bench->batch != BENCH_UNSAID && !mode->batches) {
        options_usage(options, "--batch and --no-batch have no meaning for %s", mode->name);
    }
    if (bench->loan && !mode->loans) {
        options_usage(options, "--loan has no meaning for %s", mode->name);
    }
    if (!mode->durable &&
        (bench->outstanding > 0 || bench->sync != NULL || bench->directory != NULL)) {
        options_usage(options, "--outstanding, --sync and --directory have no meaning for %s",
                      mode->name);
    }
    bool sync_said = bench->sync != NULL;
    bench->sync = sync_said ? bench->sync : "always";
    bench->directory = bench->directory != NULL ? bench->directory : "/var/tmp";
    if (bench->seconds <= 0 && bench->count == 0) {
        bench->seconds = mode->seconds;
    }
    bench->size = bench->size > 0 ? bench->size : mode->size;
    bench->publishers = bench->publishers > 0 ? bench->publishers : mode->publishers;
    bench->subscribers = bench->subscribers > 0 ? bench->subscribers : mode->subscribers;
    bench->filters = bench->filters > 0 ? bench->filters : mode->filters;
    bench->instance = options->instance;
    if (bench->instance == NULL && instance != NULL && instance[0] != '\0') {
        bench->instance = instance;
    }
    if (bench->instance != NULL &&
        (bench->broker != NULL || bench->broker_poll_usec >= 0 || sync_said)) {
        options_usage(options,
                      "--broker, --broker-poll and --sync are for a private broker, not for that "
                      "of instance \"%s\"",
                      bench->instance);
    }
}

/* Die of the signal that interrupted us, as whoever started us expects. */
static void pass_signal_on(void)
{
    if (crew_signal() != 0) {
        signal(crew_signal(), SIG_DFL);
        crew_release_signals();
        raise(crew_signal());
    }
}

static int measure(const struct bench_mode *mode, const struct bench_options *options, bool json)
{
    struct bench_result result;

    if (crew_catch_signals() < 0 || bench_run(mode, options, &result) < 0) {
        return -1;
    }

    int r = 0;
    if (json) {
        r = report_json(&result, stdout);
    } else {
        report_table(&result, stdout);
    }
    if (r == 0 && (fflush(stdout) != 0 || ferror(stdout))) {
        r = bench_fail("cannot write: %s", strerror(errno));
    }
    if (r == 0 && bench_faults(&result) > 0) {
        r = bench_fail("%llu messages were lost, came twice, out of order or damaged",
                       (unsigned long long)bench_faults(&result));
    }
    bench_result_free(&result);
    return r;
}

int main(int argc, char **argv)
{
    struct bench_options bench = {
        .batch = BENCH_UNSAID,
        .broker_poll_usec = BENCH_UNSAID,
        .repeat = 5,
    };
    char purpose[1024];
    struct options_program program = make_program(purpose, sizeof purpose);
    bool json = false;
    struct options options;

    options_begin(&options, &program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;) {
        take_option(&options, key, &bench, &json);
    }

    char **rest = options_rest(&options);
    if (rest[0] == NULL) {
        options_usage(&options, "say which mode");
    }
    if (rest[1] != NULL) {
        options_usage(&options, "one mode at a time: \"%s\" is too much", rest[1]);
    }

    const struct bench_mode *mode = find_mode(&options, rest[0]);
    suit_mode(&options, mode, &bench);
    if (measure(mode, &bench, json) < 0) {
        fprintf(stderr, "mqbench: %s\n", bench_error());
        pass_signal_on();
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
