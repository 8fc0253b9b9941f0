/* A table is a list of columns, a column a work and what of it is shown; its rows are the systems
 * that did any of these works. */
#include "tests/peers/report.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/peers/backlog.h"
#include "tools/bench-flow.h"
#include "tools/bench-report.h"

enum {
    CELL_SIZE = 64,
};

static const char unknown[] = "–";

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
    "* Durable: so many messages are sent, then all of their confirms are waited for, and so on; "
    "mqbroker with `sync = \"always\"`, to a durable group; Redis with `appendonly yes` and "
    "`appendfsync always`, its file not rewritten meanwhile, RPUSH to a list or XADD to a stream, "
    "which its consumer groups stand on; it syncs for each 16 KiB that it reads of a connection; "
    "the file is written in records as large as mqbroker's, "
    "in place, and synced when as many have gathered.\n"
    "* NATS, ZeroMQ, Redis and Mosquitto lose messages, or grow without bound, where a subscriber "
    "is slower than its publishers. So at most 4 MiB (at least 16 messages of each publisher) are "
    "under way, which publishers and subscribers see to through shared memory, at no cost to the "
    "peer.\n";

/* ---- cells ---- */

/* Takes the figures of a row and writes text. */
typedef void (*show_cell)(char *out, size_t size, const struct bench_result *result,
                          const struct bench_row *row);

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

/* The first figures of the durable mode are its rate, and the median of its confirms. */
static void show_durable(char *out, size_t size, const struct bench_result *result,
                         const struct bench_row *row)
{
    char rate[CELL_SIZE];

    (void)result;
    write_rate(rate, sizeof rate, row->figures[0]);
    if (isnan(row->figures[1])) {
        snprintf(out, size, "%s", rate);
    } else {
        snprintf(out, size, "%s (%.0f µs)", rate, row->figures[1]);
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

/* ---- tables ---- */

struct column {
    const struct done *done;
    const char *heading;
    show_cell show;
};

struct table {
    const char *title;
    struct column columns[WORKS_MAX];
    size_t n_columns;
};

static void add_column(struct table *table, const struct done *done, const char *heading,
                       show_cell show)
{
    table->columns[table->n_columns++] = (struct column){done, heading, show};
}

static const struct bench_row *row_of(const struct bench_result *result, const char *system)
{
    for (size_t i = 0; i < result->n_rows; i++) {
        if (strcmp(result->rows[i].way->key, system) == 0) {
            return &result->rows[i];
        }
    }
    return NULL;
}

static bool is_in(const struct table *table, const char *system)
{
    for (size_t c = 0; c < table->n_columns; c++) {
        if (row_of(&table->columns[c].done->result, system) != NULL) {
            return true;
        }
    }
    return false;
}

static void print_row(const struct table *table, const struct bench_way *system)
{
    printf("| %s |", system->name);
    for (size_t c = 0; c < table->n_columns; c++) {
        const struct column *column = &table->columns[c];
        const struct bench_result *result = &column->done->result;
        const struct bench_row *row = row_of(result, system->key);
        char cell[CELL_SIZE] = "";

        if (row != NULL) {
            column->show(cell, sizeof cell, result, row);
        }
        printf(" %s |", cell);
    }
    printf("\n");
}

static void print_table(const struct table *table)
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
    for (size_t i = 0; i < n_systems; i++) {
        if (is_in(table, systems[i].key)) {
            print_row(table, &systems[i]);
        }
    }
    printf("\n");
}

static void add_backlog(struct table *memory, const struct done *done)
{
    add_column(memory, done, "idle, MiB", show_idle);
    add_column(memory, done, "under backlog, MiB", show_full);
    add_column(memory, done, "of it taken, MiB", show_taken);
    add_column(memory, done, "start, ms", show_start);
}

void report_print(const struct done *all, size_t n, const struct bench_options *asked)
{
    struct table streams = {.title = "Messages a second, one publisher to one subscriber:"};
    struct table fans = {.title = "Fan-out in deliveries a second, fan-in in messages a second:"};
    struct table durable = {.title = "Durable messages that are confirmed, a second, and the "
                                     "median from publish to confirm:"};
    struct table cpu = {
        .title = "Processor time of all processes, seconds for a million messages published:"};
    struct table memory = {
        .title = "Memory of the broker while a subscriber does not read, at most 32 MiB of 1 KiB "
                 "messages being sent to it; start until the first client could connect:"};

    for (const struct done *done = all; done < all + n; done++) {
        const struct work *work = done->work;

        if (work->mode == &backlog_mode) {
            add_backlog(&memory, done);
        } else if (work->mode == &bench_durable) {
            add_column(&durable, done, work->heading, show_durable);
        } else if (work->mode == &bench_latency) {
            add_column(&fans, done, work->heading, show_round_trip);
        } else if (work->mode == &bench_fanout) {
            add_column(&fans, done, work->heading, show_deliveries);
        } else {
            add_column(work->mode == &bench_fanin ? &fans : &streams, done, work->heading,
                       show_messages);
        }
        if (work->flow) {
            add_column(&cpu, done, work->heading, show_cpu);
        }
    }
    printf("Medians of %u runs of %g s, the systems taken in turn; each message counted and "
           "checked. A dash: it failed, and standard error says how.\n\n",
           asked->repeat, asked->seconds);
    print_table(&streams);
    print_table(&fans);
    print_table(&durable);
    print_table(&cpu);
    print_table(&memory);
    fputs(settings, stdout);
}

/* ---- JSON ---- */

int report_write(const struct done *all, size_t n, const char *path)
{
    json_t *whole = json_object();

    for (const struct done *done = all; done < all + n; done++) {
        json_object_set_new(whole, done->work->key, report_object(&done->result));
    }

    int r = json_dump_file(whole, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    int saved = errno;
    json_decref(whole);
    return r == 0 ? 0 : bench_fail("cannot write %s: %s", path, strerror(saved));
}
