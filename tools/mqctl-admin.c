/* mqctl kick, purge, requeue, remove: what the broker does at the word of a client (mqclient.h,
 * Administration). */
#include "tools/mqctl.h"

#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/mqclient.h"
#include "tools/look.h"
#include "tools/options.h"
#include "tools/snapshot.h"

enum { KEY_FORCE = OPTIONS_KEY_LONG };

#define EXIT_STATUS "2 wrong\nusage, 3 the broker does not answer."

static const struct options_entry no_entries[] = {{0}};

struct verb {
    struct options_program program;
    const char *operand; /* what it takes, for a sentence */
    int64_t (*act)(struct mqc *client, const char *whom);
    void (*tell)(const struct verb *verb, const char *whom, int64_t count);
    const char *one; /* what it was done to, counted: "message was removed" */
    const char *many;
};

static const char *counted(const struct verb *verb, int64_t count)
{
    return count == 1 ? verb->one : verb->many;
}

static int act(const struct verb *verb, const char *instance, const char *whom)
{
    const struct mqc_options options = {.instance = instance, .flags = MQC_PUBLISH_ONLY};
    struct mqc *client;
    int64_t count = mqc_open(&client, &options);

    if (count == 0)
        count = verb->act(client, whom);
    if (count < 0)
        warnx("%s", mqc_last_error());
    mqc_close(client);
    if (count < 0)
        return count == -ETIMEDOUT ? OPTIONS_EXIT_TIMEOUT : EXIT_FAILURE;
    verb->tell(verb, whom, count);
    if (fflush(stdout) != 0)
        err(EXIT_FAILURE, "standard output");
    return EXIT_SUCCESS;
}

/* Run a verb that takes nothing but whom it is about. */
static int run(const struct verb *verb, int argc, char **argv)
{
    struct options options;
    const char *whom;

    options_begin(&options, &verb->program, argc, argv);
    while (options_next(&options) != -1)
        ;
    whom = options_operand(&options, verb->operand);
    return act(verb, options_instance(&options), whom);
}

/* ---- Kick ---- */

static void tell_kicked(const struct verb *verb, const char *whom, int64_t count)
{
    (void)verb;
    (void)count;
    printf("%s: its session was ended\n", whom);
}

int mqctl_kick(int argc, char **argv)
{
    static const struct verb kick = {
        .program =
            {
                .name = "mqctl kick",
                .usage = "[--instance NAME] NAME\n"
                         "[--instance NAME] '#SESSION'",
                .purpose = "End a client's session: the client is told so, its last will is "
                           "published, and what\nit has not acknowledged goes back to its groups. "
                           "It may connect again.",
                .entries = no_entries,
                .more = "mqctl clients lists names and sessions.\n"
                        "\n"
                        "Exit status: 0 done, 1 error (such as: no such client), " EXIT_STATUS,
            },
        .operand = "a client's name, or # and the number of its session",
        .act = mqc_kick,
        .tell = tell_kicked,
    };

    return run(&kick, argc, argv);
}

/* ---- Groups ---- */

#define EXIT_STATUS_GROUP "\nExit status: 0 done, 1 error (such as: no such group), " EXIT_STATUS

/* Of a verb that takes no options. */
#define GROUP_PROGRAM(its_name, its_purpose, see)                                                  \
    {                                                                                              \
        .name = (its_name), .usage = "[--instance NAME] GROUP", .purpose = (its_purpose),          \
        .entries = no_entries, .more = see EXIT_STATUS_GROUP,                                      \
    }

static void tell_count(const struct verb *verb, const char *group, int64_t count)
{
    printf("%s: %" PRId64 " %s\n", group, count, counted(verb, count));
}

int mqctl_purge(int argc, char **argv)
{
    static const struct verb purge = {
        .program = GROUP_PROGRAM("mqctl purge",
                                 "Throw away the messages that wait in a group, or with "
                                 "'$dead/GROUP' its dead\nletters. Those that a member has at this "
                                 "moment stay.",
                                 "mqctl peek shows what would go."),
        .operand = "the group",
        .act = mqc_purge,
        .tell = tell_count,
        .one = "message was removed",
        .many = "messages were removed",
    };

    return run(&purge, argc, argv);
}

int mqctl_requeue(int argc, char **argv)
{
    static const struct verb requeue = {
        .program = GROUP_PROGRAM("mqctl requeue",
                                 "Give a group its dead letters back, as if they had never been "
                                 "tried: they are\ndelivered again.",
                                 "mqctl peek '$dead/GROUP' shows them."),
        .operand = "the group",
        .act = mqc_requeue,
        .tell = tell_count,
        .one = "dead letter is back",
        .many = "dead letters are back",
    };

    return run(&requeue, argc, argv);
}

/* ---- Remove ---- */

/* What would go with a group. */
static uint64_t messages_of(const char *instance, const char *group)
{
    struct snapshot snapshot;
    const char *failure = look_at(&snapshot, instance);
    uint64_t n = 0;

    if (failure != NULL)
        errx(EXIT_FAILURE, "%s: %s", instance, failure);
    for (size_t i = 0; i < snapshot.n_groups; i++)
        if (strcmp(snapshot.groups[i].info.name, group) == 0)
            n = snapshot.groups[i].words.waiting + snapshot.groups[i].words.unacknowledged +
                snapshot.groups[i].words.dead;
    snapshot_deinit(&snapshot);
    return n;
}

static void tell_removed(const struct verb *verb, const char *group, int64_t count)
{
    printf("%s: removed", group);
    if (count > 0)
        printf(", with %" PRId64 " %s", count, counted(verb, count));
    putchar('\n');
}

static const struct options_entry remove_entries[] = {
    {KEY_FORCE, "force", NULL, "also if it has messages, which go with it"},
    {0},
};

int mqctl_remove(int argc, char **argv)
{
    static const struct verb verb = {
        .program =
            {
                .name = "mqctl remove",
                .usage = "[--force] [--instance NAME] GROUP",
                .purpose = "End a group: its filters, its messages and its dead letters. Its "
                           "members stay\nconnected, but are in it no more.",
                .entries = remove_entries,
                .more = "mqctl groups shows what it has." EXIT_STATUS_GROUP,
            },
        .operand = "the group",
        .act = mqc_remove_group,
        .tell = tell_removed,
        .one = "message",
        .many = "messages",
    };
    struct options options;
    const char *group, *instance;
    bool force = false;
    uint64_t n;

    options_begin(&options, &verb.program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;)
        force |= key == KEY_FORCE;
    group = options_operand(&options, verb.operand);
    instance = options_instance(&options);
    n = messages_of(instance, group);
    if (n > 0 && !force)
        errx(EXIT_FAILURE, "%s: it has %" PRIu64 " message%s, which would go with it: use --force",
             group, n, n == 1 ? "" : "s");
    return act(&verb, instance, group);
}
