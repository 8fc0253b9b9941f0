/* mqctl: administration of a broker. A table of verbs, each with options of its own; what they do
 * is in files of their own (mqctl-*.c). */
#include "tools/mqctl.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "tools/options.h"

static const struct verb {
    const char *name;
    const char *summary;
    int (*run)(int argc, char **argv); /* argv[0] is the verb; returns the exit status */
} verbs[] = {
    {"clients", "show who is connected", mqctl_clients},
    {"groups", "show the consumer groups, and how they are set", mqctl_groups},
    {"peek", "show the messages that wait in a group, and leave them there", mqctl_peek},
    {"purge", "throw them away", mqctl_purge},
    {"requeue", "give a group its dead letters back", mqctl_requeue},
    {"remove", "end a group, with all that it has", mqctl_remove},
    {"kick", "end a client's session", mqctl_kick},
    {"reload", "have the broker read its configuration again", mqctl_reload},
    {"handover", "replace the broker by its program as it is installed now", mqctl_handover},
    {"journal", "check or show what a broker has on disk", mqctl_journal},
    {"cleanup", "remove what a dead broker left", mqctl_cleanup},
};

static const struct options_entry no_entries[] = {{0}};

static struct options_program program = {
    .name = "mqctl",
    .usage = "VERB [OPTIONS]\nVERB --help",
    .purpose = "Administer the mqbroker of this machine.",
    .entries = no_entries,
};

/* The list of verbs stands below the options. */
static void list_verbs(char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "Verbs:");

    for (size_t i = 0; i < sizeof verbs / sizeof *verbs && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "\n  %-24s  %s", verbs[i].name, verbs[i].summary);
}

/* Their names in a line. */
static void name_verbs(char *out, size_t size)
{
    size_t n = 0;

    for (size_t i = 0; i < sizeof verbs / sizeof *verbs && n < size; i++)
        n += (size_t)snprintf(out + n, size - n, "%s%s", i > 0 ? ", " : "", verbs[i].name);
}

int main(int argc, char **argv)
{
    static char list[2048];
    char names[256];
    struct options options;

    list_verbs(list, sizeof list);
    name_verbs(names, sizeof names);
    program.more = list;
    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(argc - 1, argv + 1);
    options_begin(&options, &program, argc, argv);
    while (options_next(&options) != -1)
        ;
    if (*options_rest(&options) == NULL)
        options_usage(&options, "no verb: %s", names);
    options_usage(&options, "there is no verb '%s' here; a verb stands first: %s",
                  *options_rest(&options), names);
}
