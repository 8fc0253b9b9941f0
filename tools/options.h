/* The command line of our programs: one table of options per program, from which both getopt_long
 * and the help are made, so that they cannot disagree; and the values that people write there:
 * numbers, durations, sizes.
 *
 *     static const struct options_entry entries[] = {
 *         {'t', "topic", "TOPIC", "publish to this topic"},
 *         {KEY_TTL, "ttl", "DURATION", "drop it if it is not delivered within this"},
 *         {0},
 *     };
 *     static const struct options_program program = {"mqpub", "-t TOPIC …", "Publish …", entries,
 * examples};
 *
 *     struct options options;
 *     options_begin(&options, &program, argc, argv);
 *     for (int key; (key = options_next(&options)) != -1;)
 *         switch (key) …
 *
 * --help, --version and --instance are added to each program and dealt with here. Wrong usage is
 * said in a line, then the process exits with OPTIONS_EXIT_USAGE: only programs use this. */
#ifndef MQBROKER_TOOLS_OPTIONS_H
#define MQBROKER_TOOLS_OPTIONS_H

#include <getopt.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* Beside EXIT_SUCCESS and EXIT_FAILURE. */
enum options_exit {
    OPTIONS_EXIT_USAGE = 2,
    OPTIONS_EXIT_TIMEOUT = 3,
};

enum {
    OPTIONS_KEY_LONG =
        256, /* keys from here on have no letter; a program numbers its own from here */
    OPTIONS_ENTRIES_MAX = 48,
};

struct options_entry {
    int key; /* what options_next() returns; below OPTIONS_KEY_LONG also the option's letter */
    const char *name;     /* the long option; NULL ends the table */
    const char *argument; /* what the help calls its argument; NULL: it takes none */
    const char *help;     /* a phrase; after a '\n' it goes on, indented, in the next line */
};

struct options_program {
    const char *name;    /* as it is typed: "mqpub", "mqctl cleanup" */
    const char *usage;   /* what follows the name; each line is a way to call it */
    const char *purpose; /* a paragraph */
    const struct options_entry *entries;
    const char *more; /* stands below the options: examples, exit codes; or NULL */
};

struct options {
    const struct options_program *program;
    int argc;
    char **argv;
    const char *instance;              /* --instance; NULL if not said */
    const struct options_entry *entry; /* the option that options_next() returned */
    const char *value;                 /* its argument */
    struct option longs[OPTIONS_ENTRIES_MAX];
    char letters[2 * OPTIONS_ENTRIES_MAX + 2];
};

/* Begin with the command line of main(). Everything is borrowed. */
void options_begin(struct options *options, const struct options_program *program, int argc,
                   char **argv);

/* The next option's key, or -1 when there is none left; --instance is checked and kept. Exits on
 * --help, --version and wrong usage. */
int options_next(struct options *options);

/* The instance to talk to: what --instance said, or the environment does; what is no name there is
 * wrong usage. After options_next() returned -1. */
const char *options_instance(const struct options *options);

/* What stands on the command line beside options: NULL-terminated; after options_next() returned
 * -1. */
char **options_rest(const struct options *options);

/* For programs that take one word beside options: it. `what` it is, for the sentence if it is
 * missing; more is wrong usage, too. */
const char *options_operand(const struct options *options, const char *what);

/* For programs that take nothing beside options: it is wrong usage if there is. */
void options_no_rest(const struct options *options);

/* Wrong usage: say it in one line, point to --help, exit. */
_Noreturn void options_usage(const struct options *options, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

void options_print_help(const struct options_program *program, FILE *out);

/* The value of the option that options_next() just returned; what is not one is wrong usage. */
uint64_t options_number(const struct options *options, uint64_t least, uint64_t most);
uint64_t options_duration(const struct options *options); /* nanoseconds */
uint64_t options_size(const struct options *options);     /* bytes */

/* A duration as the whole milliseconds that a timeout takes: rounded up, at most INT_MAX. */
int options_milliseconds(uint64_t nanoseconds);

/* The same for any text. They take all of it or return false, and leave `out` alone then. Pure. */

/* Decimal digits; a number from `least` to `most`. */
bool options_parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *out);

/* "5s", "200ms", "1.5" (seconds): units ns, us, ms, s, m, h, d. To nanoseconds; what is below one
 * is cut off. */
bool options_parse_duration(const char *text, uint64_t *out);

/* "4096", "64K", "1M", "2G": powers of 1,024. */
bool options_parse_size(const char *text, uint64_t *out);

#endif
