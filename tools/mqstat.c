/* mqstat: the statistics of a broker, read from its board.
 *
 * The board is mapped read-only, and the broker is never asked: it does not notice, and need not be
 * able to answer. So mqstat works while the broker hangs or is stopped, and after it was killed;
 * whether it lives is seen in /proc. How full the kernel queues are is the kernel's word, where we
 * may open them; nothing is ever received from them. */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libclient/board.h"
#include "libclient/names.h"
#include "libclient/queue.h"
#include "libclient/segment.h"
#include "tools/interrupt.h"
#include "tools/options.h"
#include "libclient/process.h"
#include "tools/screen.h"
#include "tools/snapshot.h"
#include "tools/statistics.h"
#include "tools/table.h"

enum {
    KEY_JSON = OPTIONS_KEY_LONG,
    KEY_PROMETHEUS,
    KEY_TABLE,
};

static const struct options_entry entries[] = {
    {KEY_JSON, "json", NULL, "JSON, an object a look (default but on a terminal)"},
    {KEY_TABLE, "table", NULL, "tables (default on a terminal)"},
    {KEY_PROMETHEUS, "prometheus", NULL, "Prometheus' text format"},
    {'w', "watch", "SECONDS",
     "look again and again, so many seconds apart; tables\nthen also show what happened a "
     "second; on a terminal\n'q' ends it"},
    {0},
};

static const struct options_program program = {
    .name = "mqstat",
    .usage = "[OPTIONS] [SECTION...]",
    .purpose = "Show the statistics of a broker without asking it: also while it hangs, and\n"
               "after it died. Sections: broker, totals, priorities, queues, clients, topics,\n"
               "groups, journal, limits (default: all).",
    .entries = entries,
    .more = "Examples:\n"
            "  mqstat\n"
            "  mqstat --watch 1 clients topics\n"
            "  mqstat --json | jq '.priorities[] | {priority, waiting}'\n"
            "\n"
            "Exit status: 0 shown, 1 error (no such broker), 2 wrong usage.",
};

enum output { OUTPUT_DEFAULT, OUTPUT_JSON, OUTPUT_TABLE, OUTPUT_PROMETHEUS };

struct arguments {
    const char *instance;
    enum output output;
    unsigned sections;
    uint64_t watch; /* nanoseconds; 0: once */
};

/* ---- Arguments ---- */

static void set_output(const struct options *options, struct arguments *arguments,
                       enum output output)
{
    if (arguments->output != OUTPUT_DEFAULT && arguments->output != output)
        options_usage(options, "only one of --json, --table and --prometheus");
    arguments->output = output;
}

static void take_option(const struct options *options, int key, struct arguments *arguments)
{
    switch (key) {
    case KEY_JSON:
        set_output(options, arguments, OUTPUT_JSON);
        break;
    case KEY_TABLE:
        set_output(options, arguments, OUTPUT_TABLE);
        break;
    case KEY_PROMETHEUS:
        set_output(options, arguments, OUTPUT_PROMETHEUS);
        break;
    case 'w':
        arguments->watch = options_duration(options);
        if (arguments->watch == 0)
            options_usage(options, "--watch: without a pause there is no end of it");
        break;
    }
}

static void check_arguments(const struct options *options, struct arguments *arguments)
{
    for (char **name = options_rest(options); *name != NULL; name++) {
        unsigned section = statistics_section(*name);

        if (section == 0)
            options_usage(options,
                          "there is no section '%s': broker, totals, priorities, queues, clients, "
                          "topics, groups, journal and limits are",
                          *name);
        arguments->sections |= section;
    }
    if (arguments->sections == 0)
        arguments->sections = STATISTICS_ALL;
    if (arguments->output == OUTPUT_DEFAULT)
        arguments->output = isatty(STDOUT_FILENO) ? OUTPUT_TABLE : OUTPUT_JSON;
    if (arguments->output == OUTPUT_PROMETHEUS && arguments->watch > 0)
        options_usage(options, "--prometheus is for one look: the scraper comes again by itself");
    arguments->instance = names_instance(options->instance);
    if (!names_instance_valid(arguments->instance))
        options_usage(options, "$MQBROKER_INSTANCE: '%s' is not a name", arguments->instance);
}

/* ---- Looking ---- */

static uint64_t clock_now(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* A queue of another make than the board says is not the one that the board speaks of. */
static void ask_kernel(struct snapshot_queue *queue, const char *name)
{
    struct queue q;
    int standing;

    if (queue->depth == 0 || queue_open(&q, name, O_RDONLY | O_NONBLOCK) < 0)
        return;
    standing = queue_standing(&q);
    if (standing >= 0 && q.depth == queue->depth && q.width == queue->width) {
        queue->standing = (uint32_t)standing;
        queue->asked = true;
    }
    queue_close(&q);
}

static void ask_kernel_for_all(struct snapshot *s)
{
    char name[NAMES_MAX];

    names_request_queue(name, s->instance);
    ask_kernel(&s->request, name);
    names_urgent_queue(name, s->instance);
    ask_kernel(&s->urgent, name);
    for (size_t i = 0; i < s->n_clients; i++) {
        names_reply_queue(name, s->instance, s->clients[i].info.nonce);
        ask_kernel(&s->clients[i].queue, name);
    }
}

static const char *check_sentence(int outcome, const struct board_header *board)
{
    static char sentence[160];

    switch (outcome) {
    case BOARD_E_LAYOUT:
        snprintf(
            sentence, sizeof sentence,
            "its board has layout %u, and this mqstat knows layout %u: use the mqstat that came "
            "with that broker",
            board->layout, (unsigned)BOARD_LAYOUT);
        return sentence;
    case BOARD_E_MAGIC:
        return "what has the name of its board is something else";
    default:
        return "its board is cut off";
    }
}

/* Take a snapshot. Returns NULL, or a sentence that says why there is none. */
static const char *look(struct snapshot *snapshot, const char *instance)
{
    struct segment segment;
    char name[NAMES_MAX];
    const char *failure = NULL;
    int r;

    *snapshot = (struct snapshot){.instance = instance};
    names_board(name, instance);
    r = segment_open(&segment, name, 0);
    if (r == -ENOENT)
        return "there is no such broker; start it with mqbroker, or name another with --instance";
    if (r < 0)
        return strerror(-r);
    r = board_check(segment.base, segment.size);
    if (r != BOARD_OK)
        failure = check_sentence(r, segment.base);
    else if (snapshot_take(snapshot, segment.base) < 0)
        failure = strerror(ENOMEM);
    segment_close(&segment);
    if (failure != NULL)
        return failure;
    snapshot->now = clock_now(CLOCK_REALTIME);
    snapshot->boot_now = clock_now(CLOCK_BOOTTIME);
    snapshot->monotonic = clock_now(CLOCK_MONOTONIC);
    snapshot->alive = process_alive(snapshot->pid, snapshot->pid_start);
    ask_kernel_for_all(snapshot);
    return NULL;
}

/* ---- Showing ---- */

static void show(const struct arguments *arguments, const struct snapshot *now,
                 const struct snapshot *before)
{
    json_t *json;

    switch (arguments->output) {
    case OUTPUT_PROMETHEUS:
        statistics_prometheus(now, arguments->sections, stdout);
        break;
    case OUTPUT_TABLE:
        table_print(now, before, arguments->sections, stdout);
        break;
    default:
        json = statistics_json(now, arguments->sections);
        json_dumpf(json, stdout,
                   JSON_REAL_PRECISION(9) |
                       (arguments->watch > 0 ? (size_t)JSON_COMPACT : JSON_INDENT(2)));
        fputc('\n', stdout);
        json_decref(json);
    }
    if (fflush(stdout) != 0)
        err(EXIT_FAILURE, "standard output");
}

static void look_or_fail(struct snapshot *snapshot, const struct arguments *arguments)
{
    const char *failure;

    snapshot_deinit(snapshot);
    failure = look(snapshot, arguments->instance);
    if (failure == NULL)
        return;
    screen_close();
    errx(EXIT_FAILURE, "%s: %s", arguments->instance, failure);
}

/* On the whole terminal. */
static void show_on_screen(const struct arguments *arguments, const struct snapshot *now,
                           const struct snapshot *before)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out == NULL)
        return;
    table_print(now, before, arguments->sections, out);
    if (fclose(out) == 0)
        screen_show(text);
    free(text);
}

/* Look again and again, at most until 'q' is pressed. `looks` hold the newest and the one before
 * it. */
static void watch(const struct arguments *arguments, struct snapshot looks[2])
{
    int pause = options_milliseconds(arguments->watch);
    bool on_screen = arguments->output == OUTPUT_TABLE && screen_open();

    for (unsigned i = 0; !interrupt_seen(); i++) {
        const struct snapshot *now = &looks[i % 2], *before = i > 0 ? &looks[(i + 1) % 2] : NULL;

        if (on_screen) {
            show_on_screen(arguments, now, before);
            if (!screen_wait(pause))
                break;
        } else {
            if (i > 0 && arguments->output == OUTPUT_TABLE)
                fputc('\n', stdout);
            show(arguments, now, before);
            if (interrupt_poll(NULL, 0, pause) < 0)
                break;
        }
        look_or_fail(&looks[(i + 1) % 2], arguments);
    }
    screen_close();
}

int main(int argc, char **argv)
{
    struct snapshot looks[2] = {0};
    struct arguments arguments = {0};
    struct options options;

    options_begin(&options, &program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;)
        take_option(&options, key, &arguments);
    check_arguments(&options, &arguments);
    look_or_fail(&looks[0], &arguments);
    if (arguments.watch > 0) {
        interrupt_catch();
        watch(&arguments, looks);
    } else {
        show(&arguments, &looks[0], NULL);
    }
    snapshot_deinit(&looks[0]);
    snapshot_deinit(&looks[1]);
    return EXIT_SUCCESS;
}
