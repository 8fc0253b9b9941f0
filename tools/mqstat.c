/* mqstat: the statistics of a broker, read from its board.
 *
 * The broker is never asked (tools/look.h): so mqstat works while it hangs or is stopped, and after
 * it was killed. */
#include <err.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tools/interrupt.h"
#include "tools/look.h"
#include "tools/options.h"
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
    arguments->instance = options_instance(options);
}

/* ---- Showing ---- */

static void show(const struct arguments *arguments, const struct snapshot *now,
                 const struct snapshot *before)
{
    switch (arguments->output) {
    case OUTPUT_PROMETHEUS:
        statistics_prometheus(now, arguments->sections, stdout);
        break;
    case OUTPUT_TABLE:
        table_print(now, before, arguments->sections, stdout);
        break;
    default:
        statistics_print(now, arguments->sections, arguments->watch > 0, stdout);
    }
    if (fflush(stdout) != 0)
        err(EXIT_FAILURE, "standard output");
}

static void look_or_fail(struct snapshot *snapshot, const struct arguments *arguments)
{
    const char *failure;

    snapshot_deinit(snapshot);
    failure = look_at(snapshot, arguments->instance);
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
