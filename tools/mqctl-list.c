/* mqctl clients, mqctl groups: who is connected, and what groups there are.
 *
 * Read from the board, without a message to the broker. mqstat shows how much goes on; this shows
 * who is who, and how groups are set. The JSON is that of mqstat. */
#include "tools/mqctl.h"

#include <err.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tools/look.h"
#include "tools/options.h"
#include "tools/snapshot.h"
#include "tools/statistics.h"
#include "tools/table.h"
#include "tools/text.h"

enum { KEY_JSON = OPTIONS_KEY_LONG };

#define EXIT_STATUS "Exit status: 0 shown, 1 error (no such broker), 2 wrong usage."

static const struct options_entry entries[] = {
    {KEY_JSON, "json", NULL, "JSON, with the keys of mqstat --json"},
    {0},
};

/* What is listed. */
struct list {
    struct options_program program;
    enum statistics_section section;
    void (*print)(const struct snapshot *snapshot);
};

static int run(const struct list *list, int argc, char **argv)
{
    struct options options;
    struct snapshot snapshot;
    const char *instance, *failure;
    bool json = false;

    options_begin(&options, &list->program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;)
        json |= key == KEY_JSON;
    options_no_rest(&options);
    instance = options_instance(&options);
    failure = look_at(&snapshot, instance);
    if (failure != NULL)
        errx(EXIT_FAILURE, "%s: %s", instance, failure);
    if (json) {
        statistics_print(&snapshot, list->section, false, stdout);
    } else {
        if (!snapshot.alive)
            warnx("%s: its broker (pid %u) is not alive; this is how it left things", instance,
                  snapshot.pid);
        list->print(&snapshot);
    }
    snapshot_deinit(&snapshot);
    if (fflush(stdout) != 0)
        err(EXIT_FAILURE, "standard output");
    return EXIT_SUCCESS;
}

/* ---- Clients ---- */

static void put_user(uint32_t uid)
{
    const struct passwd *user = getpwuid(uid);

    if (user != NULL)
        printf("  %-10s", user->pw_name);
    else
        printf("  %-10u", uid);
}

static void put_date(uint64_t nanoseconds)
{
    time_t when = (time_t)(nanoseconds / 1000000000);
    char text[32];
    struct tm tm;

    localtime_r(&when, &tm);
    strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &tm);
    fputs(text, stdout);
}

static void put_client(const struct snapshot_client *client)
{
    printf("%7u%9u", client->session, client->info.pid);
    put_user(client->info.uid);
    put_date(client->info.since);
    table_put_number(stdout, 6, client->words.subscriptions);
    table_put_number(stdout, 8, client->words.groups);
    table_put_number(stdout, 10, client->words.waiting);
    table_put_number(stdout, 9, client->words.unacknowledged);
    table_put_number(stdout, 9, client->words.missed);
    fputs("  ", stdout);
    text_put_visible(stdout, client->info.name, strlen(client->info.name), false);
    if (client->info.state != BOARD_ROW_LIVE)
        printf(" (%s)", statistics_row_state(client->info.state));
    if (client->words.stalled != 0)
        fputs(" (stalled)", stdout);
    if (client->info.publish_only)
        fputs(" (publishes only)", stdout);
    putchar('\n');
}

static void print_clients(const struct snapshot *snapshot)
{
    printf("session      pid  user      since                subs  groups   waiting  unacked   "
           "missed  name\n");
    for (size_t i = 0; i < snapshot->n_clients; i++)
        put_client(&snapshot->clients[i]);
}

int mqctl_clients(int argc, char **argv)
{
    static const struct list clients = {
        .program =
            {
                .name = "mqctl clients",
                .usage = "[--json] [--instance NAME]",
                .purpose =
                    "Show who is connected. The broker is not asked: this works while it hangs,\n"
                    "too. mqstat clients shows how much each sends and receives.",
                .entries = entries,
                .more = "waiting   deliveries that wait in the broker\n"
                        "unacked   messages of groups that it has yet to acknowledge\n"
                        "missed    messages that were dropped for it\n"
                        "\n" EXIT_STATUS,
            },
        .section = STATISTICS_CLIENTS,
        .print = print_clients,
    };

    return run(&clients, argc, argv);
}

/* ---- Groups ---- */

/* "30s", "250ms". */
static void put_milliseconds(int width, uint64_t milliseconds)
{
    bool whole = milliseconds % 1000 == 0;
    char text[32];

    snprintf(text, sizeof text, "%" PRIu64 "%s", whole ? milliseconds / 1000 : milliseconds,
             whole ? "s" : "ms");
    printf("%*s", width, text);
}

static void put_group(const struct snapshot_group *group)
{
    bool limited = group->words.delivery_limit != UINT64_MAX;

    table_put_number(stdout, 7, group->words.members);
    table_put_number(stdout, 10, group->words.waiting);
    table_put_number(stdout, 9, group->words.unacknowledged);
    table_put_number(stdout, 9, group->words.dead);
    table_put_number(stdout, 10, group->words.on_disk);
    table_put_number(stdout, 14, group->words.waiting_bytes);
    fputs(" of ", stdout);
    table_put_number(stdout, 12, group->words.size_max);
    if (limited)
        table_put_number(stdout, 7, group->words.delivery_limit);
    else
        printf("%7s", "-");
    put_milliseconds(9, group->words.ack_timeout_ms);
    fputs("  ", stdout);
    text_put_visible(stdout, group->info.name, strlen(group->info.name), false);
    if (group->info.durable)
        fputs(" (durable)", stdout);
    if (group->info.state != BOARD_GROUP_LIVE)
        printf(" (%s)", statistics_group_state(group->info.state));
    putchar('\n');
}

static void print_groups(const struct snapshot *snapshot)
{
    printf("members   waiting  unacked     dead   on disk      bytes in memory, at most  tries  "
           "timeout  name\n");
    for (size_t i = 0; i < snapshot->n_groups; i++)
        put_group(&snapshot->groups[i]);
}

int mqctl_groups(int argc, char **argv)
{
    static const struct list groups = {
        .program =
            {
                .name = "mqctl groups",
                .usage = "[--json] [--instance NAME]",
                .purpose = "Show the consumer groups, what they hold and how they are set. The "
                           "broker is not\nasked: this works while it hangs, too. mqstat groups "
                           "shows how much goes through.",
                .entries = entries,
                .more = "waiting   messages that have yet to be delivered\n"
                        "unacked   delivered, and not acknowledged yet\n"
                        "dead      dead letters: see mqctl peek and mqctl requeue\n"
                        "on disk   those whose payload is in the journal alone\n"
                        "tries     deliveries of a message before it becomes a dead letter\n"
                        "timeout   how long a member has to acknowledge\n"
                        "\n" EXIT_STATUS,
            },
        .section = STATISTICS_GROUPS,
        .print = print_groups,
    };

    return run(&groups, argc, argv);
}
