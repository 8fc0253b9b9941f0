/* mqbroker beside its peers: the same work, by the same code, in the same run.
 *
 * A peer is a carrier (tools/bench-carrier.h) like the broker and the bare queues of mqbench, so
 * that counting, checking, clocks and statistics are mqbench's own for all of them. bench_run()
 * takes the systems in turn and folds the runs. A table goes as Markdown to standard output, all
 * figures as JSON to a file. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/peers/report.h"
#include "tests/peers/works.h"
#include "tools/bench-crew.h"
#include "tools/bench.h"
#include "tools/options.h"

enum key {
    KEY_JSON = OPTIONS_KEY_LONG,
    KEY_BROKER,
    KEY_WORK,
    KEY_SYSTEM,
    KEY_DIRECTORY,
};

enum {
    KEYS_SIZE = 512, /* of all works, or of all systems, in a sentence */
};

static const struct options_entry entries[] = {
    {'d', "duration", "DURATION", "length of a run; 1s if not said"},
    {'n', "count", "N", "messages of a run; if this and a duration are given, what comes first"},
    {'r', "repeat", "N", "runs of each; 3 if not said"},
    {KEY_WORK, "work", "KEY", "only this work; what is none lists them"},
    {KEY_SYSTEM, "system", "KEY", "only systems whose key begins so; what is none lists them"},
    {KEY_BROKER, "broker", "FILE", "the mqbroker to start"},
    {KEY_DIRECTORY, "directory", "DIR", "where durable messages go; /var/tmp if not said"},
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

/* Add a word to a list of them, as far as there is room. */
static void list_word(char *list, size_t room, const char *word)
{
    size_t used = strlen(list);

    snprintf(list + used, room - used, "%s%s", used > 0 ? ", " : "", word);
}

static const char *need_work(const struct options *options)
{
    char keys[KEYS_SIZE] = "";

    for (size_t i = 0; i < n_works; i++) {
        if (strcmp(works[i].key, options->value) == 0) {
            return options->value;
        }
        list_word(keys, sizeof keys, works[i].key);
    }
    options_usage(options, "there is no work '%s', but %s", options->value, keys);
}

static const char *need_system(const struct options *options)
{
    char keys[KEYS_SIZE] = "";

    for (size_t i = 0; i < n_systems; i++) {
        if (strncmp(systems[i].key, options->value, strlen(options->value)) == 0) {
            return options->value;
        }
        list_word(keys, sizeof keys, systems[i].key);
    }
    options_usage(options, "no system begins with '%s', but there are %s", options->value, keys);
}

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
        asked->work = need_work(options);
        break;
    case KEY_SYSTEM:
        asked->system = need_system(options);
        break;
    case KEY_BROKER:
        asked->bench.broker = options->value;
        break;
    case KEY_DIRECTORY:
        asked->bench.directory = options->value;
        break;
    case KEY_JSON:
        asked->json = options->value;
        break;
    default:
        break;
    }
}

/* What was done; in one place, for each refers to itself. */
static struct done all[WORKS_MAX];
static size_t n_done;

static int measure(const struct asked *asked)
{
    if (crew_catch_signals() < 0) {
        return -1;
    }
    for (size_t i = 0; i < n_works; i++) {
        if (asked->work != NULL && strcmp(asked->work, works[i].key) != 0) {
            continue;
        }
        fprintf(stderr, "peers: %s\n", works[i].key);
        if (works_do(&all[n_done], &works[i], &asked->bench, asked->system) < 0) {
            return -1;
        }
        n_done++;
    }
    report_print(all, n_done, &asked->bench);
    return report_write(all, n_done, asked->json);
}

int main(int argc, char **argv)
{
    struct asked asked = {
        .bench = {.batch = BENCH_UNSAID,
                  .loan = true,
                  .broker_poll_usec = BENCH_UNSAID,
                  .seconds = 1,
                  .sync = "always",
                  .directory = "/var/tmp",
                  .repeat = 3},
        .json = "peers.json",
    };
    struct options options;

    options_begin(&options, &program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;) {
        take_option(&options, key, &asked);
    }
    options_no_rest(&options);

    int r = measure(&asked);
    if (r < 0) {
        fprintf(stderr, "peers: %s\n", bench_error());
    }
    for (size_t i = 0; i < n_done; i++) {
        bench_result_free(&all[i].result);
    }
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
