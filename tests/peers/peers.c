/* mqbroker beside its peers: the same work, by the same code, in the same run.
 *
 * A peer is a carrier (tools/bench-carrier.h) like the broker and the bare queues of mqbench, so
 * that counting, checking, clocks and statistics are mqbench's own for all of them. This program
 * names the works and the systems, lets bench_run() take the systems in turn and fold the runs, and
 * writes a table as Markdown to standard output, and all figures as JSON to a file.
 *
 * A system that fails (or loses a message, which is a failure) gets a dash in the table and a
 * sentence on standard error; the others go on. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/peers/backlog.h"
#include "tests/peers/peers.h"
#include "tools/bench-crew.h"
#include "tools/bench-flow.h"
#include "tools/bench-report.h"
#include "tools/bench.h"
#include "tools/options.h"

enum {
    LOAN_FROM = 64 << 10, /* smaller payloads are only copied in */
    CELL_SIZE = 64,
};

static const char unknown[] = "–";

/* ---- the systems ---- */

static const struct bench_way systems[] = {
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
};

enum {
    N_SYSTEMS = sizeof systems / sizeof *systems,
};

/* ---- the works ---- */

/* What a cell shows; takes the figures of a row and writes text. */
typedef void (*show_cell)(char *out, size_t size, const struct bench_result *result,
                          const struct bench_row *row);

struct work {
    const char *key;
    const char *heading;
    const struct bench_mode *mode;
    size_t size;
    unsigned publishers;
    unsigned subscribers;
    bool flow;      /* its figures are those of tools/bench-flow.h */
    show_cell show; /* NULL: its columns are named in print_all() */
};

static void write_rate(char *out, size_t size, double rate)
{
    if (isnan(rate)) {
        snprintf(out, size, "%s", unknown);
    } else if (rate >= 1e6) {
        snprintf(out, size, "%.*f M", rate < 1e7 ? 2 : 1, rate / 1e6);
    } else if (rate >= 1e3) {
        snprintf(out, size, "%.*f k", rate < 1e4 ? 1 : 0, rate / 1e3);
    } else {
        snprintf(out, size, "%.0f", rate);
    }
}

static void write_number(char *out, size_t size, double value, int decimals)
{
    if (isnan(value)) {
        snprintf(out, size, "%s", unknown);
    } else {
        snprintf(out, size, "%.*f", decimals, value);
    }
}

static void show_messages(char *out, size_t size, const struct bench_result *result,
                          const struct bench_row *row)
{
    (void)result;
    write_rate(out, size, row->figures[FLOW_MESSAGES_PER_SECOND]);
}

static void show_deliveries(char *out, size_t size, const struct bench_result *result,
                            const struct bench_row *row)
{
    (void)result;
    write_rate(out, size, row->figures[FLOW_DELIVERIES_PER_SECOND]);
}

/* Of all processes that take part: publishers, broker, subscribers. */
static void show_cpu(char *out, size_t size, const struct bench_result *result,
                     const struct bench_row *row)
{
    double ns = row->figures[FLOW_PUBLISHER_CPU] + row->figures[FLOW_HUB_CPU] +
                row->figures[FLOW_SUBSCRIBER_CPU] * result->options->subscribers;

    write_number(out, size, ns / 1e3, ns < 1e4 ? 2 : 0);
}

/* The first figures of the latency mode are percentiles 50, 90, 99. */
static void show_round_trip(char *out, size_t size, const struct bench_result *result,
                            const struct bench_row *row)
{
    (void)result;
    if (isnan(row->figures[0])) {
        snprintf(out, size, "%s", unknown);
    } else {
        snprintf(out, size, "%.1f / %.1f", row->figures[0], row->figures[2]);
    }
}

static void show_idle(char *out, size_t size, const struct bench_result *result,
                      const struct bench_row *row)
{
    (void)result;
    write_number(out, size, row->figures[BACKLOG_IDLE_MIB], 1);
}

static void show_full(char *out, size_t size, const struct bench_result *result,
                      const struct bench_row *row)
{
    (void)result;
    write_number(out, size, row->figures[BACKLOG_FULL_MIB], 1);
}

static void show_taken(char *out, size_t size, const struct bench_result *result,
                       const struct bench_row *row)
{
    (void)result;
    write_number(out, size, row->figures[BACKLOG_TAKEN_MIB], 1);
}

static void show_start(char *out, size_t size, const struct bench_result *result,
                       const struct bench_row *row)
{
    (void)result;
    write_number(out, size, row->figures[BACKLOG_START_MS], 0);
}

static const struct work works[] = {
    {"64", "64 B", &bench_throughput, 64, 1, 1, true, show_messages},
    {"256", "256 B", &bench_throughput, 256, 1, 1, true, show_messages},
    {"1k", "1 KiB", &bench_throughput, 1024, 1, 1, true, show_messages},
    {"8000", "8,000 B", &bench_throughput, 8000, 1, 1, true, show_messages},
    {"64k", "64 KiB", &bench_throughput, 64 << 10, 1, 1, true, show_messages},
    {"1m", "1 MiB", &bench_throughput, 1 << 20, 1, 1, true, show_messages},
    {"fanout-1k", "1→8, 1 KiB", &bench_fanout, 1024, 1, 8, true, show_deliveries},
    {"fanout-1m", "1→8, 1 MiB", &bench_fanout, 1 << 20, 1, 8, true, show_deliveries},
    {"fanin-64", "8→1, 64 B", &bench_fanin, 64, 8, 1, true, show_messages},
    {"latency", "round trip 64 B, p50 / p99, µs", &bench_latency, 64, 0, 0, false, show_round_trip},
    {"backlog", "memory", &backlog_mode, 1024, 1, 1, false, NULL},
};

enum {
    N_WORKS = sizeof works / sizeof *works,
};

/* What a reader needs in order to judge. The sources of each peer say why. */
static const char settings[] =
    "Settings: each system freshly started for each run, on this machine, in the same minute.\n\n"
    "* mqbroker: its defaults; batches by `mqc_set_batching`; loaned by `mqc_loan`: only the head "
    "of a payload and its last byte are written.\n"
    "* iceoryx: publishers wait for slow subscribers; queues of 4 MiB, 4 to 256 messages, and no "
    "more chunks than that takes; subscribers look again for 50 µs before they sleep on a wait "
    "set; its memory is allocated at the start.\n"
    "* NATS: TCP over the loopback, as it has no Unix socket; PUB lines in writes of up to 256 "
    "KiB, spoken by hand.\n"
    "* ZeroMQ: a process with `zmq_proxy` of XPUB and XSUB; ipc://; no high-water marks; a "
    "backlog gathers at the subscriber, not in the proxy.\n"
    "* Redis: Unix socket, no persistence, output buffers unlimited; RESP spoken by hand, up to "
    "256 commands under way, or one.\n"
    "* Mosquitto: Unix socket, no persistence, queues unlimited; MQTT spoken by hand, PUBLISH in "
    "writes of up to 128 KiB; QoS 1 with up to 256 unconfirmed.\n"
    "* NATS, ZeroMQ, Redis and Mosquitto lose messages, or grow without bound, where a subscriber "
    "is slower than its publishers. So at most 4 MiB (at least 16 messages of each publisher) are "
    "under way, which publishers and subscribers see to through shared memory, at no cost to the "
    "peer.\n";

/* ---- run ---- */

static const struct bench_mode *mode_run; /* whose run() is wrapped */

/* A system that fails has no figures; only an interrupt ends the measurement. */
static int run_or_leave_out(const struct bench_options *options, const struct bench_way *way,
                            double *figures)
{
    int r = mode_run->run(options, way, figures);

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
    if (system->loan) {
        return work->flow && work->size >= LOAN_FROM;
    }
    /* Elsewhere it makes no difference. */
    return work->flow || system->batch == BENCH_YES;
}

/* A work's own mode: its ways are the systems. */
static int run_work(const struct work *work, const struct bench_options *asked, const char *only,
                    struct bench_result *result, struct bench_options *options,
                    struct bench_mode *mode, struct bench_way *ways)
{
    *mode = *work->mode;
    mode_run = work->mode;
    mode->run = run_or_leave_out;
    mode->ways = ways;
    mode->n_ways = 0;
    mode->n_ratios = 0;
    for (size_t i = 0; i < N_SYSTEMS; i++) {
        if (takes_part(work, &systems[i], only)) {
            ways[mode->n_ways++] = systems[i];
        }
    }
    *options = *asked;
    options->size = work->size;
    options->publishers = work->publishers;
    options->subscribers = work->subscribers;
    fprintf(stderr, "peers: %s\n", work->key);
    return bench_run(mode, options, result);
}

/* ---- report ---- */

static const struct bench_row *row_of(const struct bench_result *result, const char *key)
{
    for (size_t i = 0; i < result->n_rows; i++) {
        if (strcmp(result->rows[i].way->key, key) == 0) {
            return &result->rows[i];
        }
    }
    return NULL;
}

/* All that a run of the program gathers. */
struct measured {
    struct bench_result results[N_WORKS];
    struct bench_options options[N_WORKS];
    struct bench_mode modes[N_WORKS];
    struct bench_way ways[N_WORKS][N_SYSTEMS];
    bool done[N_WORKS];
};

/* A column of a table: a work, and what of it. */
struct column {
    size_t work;
    const char *heading;
    show_cell show;
};

struct table {
    const char *title;
    struct column columns[N_WORKS + 1];
    size_t n_columns;
};

static void add_column(struct table *table, const struct measured *measured, size_t work,
                       const char *heading, show_cell show)
{
    if (measured->done[work]) {
        table->columns[table->n_columns++] = (struct column){work, heading, show};
    }
}

static bool is_in(const struct table *table, const struct measured *measured, const char *key)
{
    for (size_t c = 0; c < table->n_columns; c++) {
        if (row_of(&measured->results[table->columns[c].work], key) != NULL) {
            return true;
        }
    }
    return false;
}

static void print_row(const struct table *table, const struct measured *measured,
                      const struct bench_way *system)
{
    printf("| %s |", system->name);
    for (size_t c = 0; c < table->n_columns; c++) {
        const struct column *column = &table->columns[c];
        const struct bench_result *result = &measured->results[column->work];
        const struct bench_row *row = row_of(result, system->key);
        char cell[CELL_SIZE] = "";

        if (row != NULL) {
            column->show(cell, sizeof cell, result, row);
        }
        printf(" %s |", cell);
    }
    printf("\n");
}

static void print_table(const struct table *table, const struct measured *measured)
{
    if (table->n_columns == 0) {
        return;
    }
    printf("%s\n\n| system |", table->title);
    for (size_t c = 0; c < table->n_columns; c++) {
        printf(" %s |", table->columns[c].heading);
    }
    printf("\n| --- |");
    for (size_t c = 0; c < table->n_columns; c++) {
        printf(" --- |");
    }
    printf("\n");
    for (size_t i = 0; i < N_SYSTEMS; i++) {
        if (is_in(table, measured, systems[i].key)) {
            print_row(table, measured, &systems[i]);
        }
    }
    printf("\n");
}

static void print_all(const struct measured *measured, const struct bench_options *options)
{
    struct table streams = {.title = "Messages a second, one publisher to one subscriber:"};
    struct table others = {.title = "Fan-out in deliveries a second, fan-in in messages a second:"};
    struct table cpu = {
        .title = "Processor time of all processes, seconds for a million messages published:"};
    struct table memory = {
        .title = "Memory of the broker while a subscriber does not read, at most 32 MiB of 1 KiB "
                 "messages being sent to it; start until the first client could connect:"};

    for (size_t w = 0; w < N_WORKS; w++) {
        const struct work *work = &works[w];

        if (work->mode == &backlog_mode) {
            add_column(&memory, measured, w, "idle, MiB", show_idle);
            add_column(&memory, measured, w, "under backlog, MiB", show_full);
            add_column(&memory, measured, w, "of it taken, MiB", show_taken);
            add_column(&memory, measured, w, "start, ms", show_start);
        } else {
            add_column(work->mode == &bench_throughput ? &streams : &others, measured, w,
                       work->heading, work->show);
        }
        if (work->flow) {
            add_column(&cpu, measured, w, work->heading, show_cpu);
        }
    }
    printf("Medians of %u runs of %g s, the systems taken in turn; each message counted and "
           "checked. A dash: it failed, and standard error says how.\n\n",
           options->repeat, options->seconds);
    print_table(&streams, measured);
    print_table(&others, measured);
    print_table(&cpu, measured);
    print_table(&memory, measured);
    fputs(settings, stdout);
}

static int write_json(const struct measured *measured, const char *path)
{
    json_t *whole = json_object();
    int r = 0;

    for (size_t w = 0; w < N_WORKS; w++) {
        if (measured->done[w]) {
            json_object_set_new(whole, works[w].key, report_object(&measured->results[w]));
        }
    }
    if (json_dump_file(whole, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) != 0) {
        r = bench_fail("cannot write %s: %s", path, strerror(errno));
    }
    json_decref(whole);
    return r;
}

/* ---- main ---- */

enum key {
    KEY_JSON = OPTIONS_KEY_LONG,
    KEY_BROKER,
    KEY_WORK,
    KEY_SYSTEM,
};

static const struct options_entry entries[] = {
    {'d', "duration", "DURATION", "length of a run; 1s if not said"},
    {'n', "count", "N", "messages of a run; if this and a duration are given, what comes first"},
    {'r', "repeat", "N", "runs of each; 3 if not said"},
    {KEY_WORK, "work", "KEY", "only this work"},
    {KEY_SYSTEM, "system", "KEY", "only systems whose key begins so"},
    {KEY_BROKER, "broker", "FILE", "the mqbroker to start"},
    {KEY_JSON, "json", "FILE", "write all figures there; peers.json if not said"},
    {0},
};

static const struct options_program program = {
    .name = "peers",
    .usage = "[OPTION]...",
    .purpose = "Measure mqbroker beside its peers.\n",
    .entries = entries,
};

struct asked {
    struct bench_options bench;
    const char *json;
    const char *work;
    const char *system;
};

static void take_option(const struct options *options, int key, struct asked *asked)
{
    switch (key) {
    case 'd':
        asked->bench.seconds = (double)options_duration(options) / 1e9;
        break;
    case 'n':
        asked->bench.count = options_number(options, 1, UINT32_MAX / 2);
        break;
    case 'r':
        asked->bench.repeat = (unsigned)options_number(options, 1, BENCH_REPEAT_MAX);
        break;
    case KEY_WORK:
        asked->work = options->value;
        break;
    case KEY_SYSTEM:
        asked->system = options->value;
        break;
    case KEY_BROKER:
        asked->bench.broker = options->value;
        break;
    case KEY_JSON:
        asked->json = options->value;
        break;
    default:
        break;
    }
}

static int measure(const struct asked *asked, struct measured *measured)
{
    if (crew_catch_signals() < 0) {
        return -1;
    }
    for (size_t w = 0; w < N_WORKS; w++) {
        if (asked->work != NULL && strcmp(asked->work, works[w].key) != 0) {
            continue;
        }
        if (run_work(&works[w], &asked->bench, asked->system, &measured->results[w],
                     &measured->options[w], &measured->modes[w], measured->ways[w]) < 0) {
            return -1;
        }
        measured->done[w] = true;
    }
    print_all(measured, &asked->bench);
    return write_json(measured, asked->json);
}

int main(int argc, char **argv)
{
    static struct measured measured;
    struct asked asked = {
        .bench = {.batch = BENCH_UNSAID,
                  .loan = true,
                  .broker_poll_usec = BENCH_UNSAID,
                  .seconds = 1,
                  .repeat = 3},
        .json = "peers.json",
    };
    struct options options;

    options_begin(&options, &program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;) {
        take_option(&options, key, &asked);
    }

    int r = measure(&asked, &measured);
    if (r < 0) {
        fprintf(stderr, "peers: %s\n", bench_error());
    }
    for (size_t w = 0; w < N_WORKS; w++) {
        bench_result_free(&measured.results[w]);
    }
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
