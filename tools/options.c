/* Options: see options.h. Values are parsed digit by digit and not by strtod and strtoull, which
 * take signs, blanks, hexadecimal numbers, infinity, and the decimal comma of a locale. */
#include "tools/options.h"

#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/mqclient.h"
#include "libclient/names.h"

#define STRING_OF(x)        #x
#define VERSION_OF(a, b, c) STRING_OF(a) "." STRING_OF(b) "." STRING_OF(c)
#define VERSION             VERSION_OF(MQC_VERSION_MAJOR, MQC_VERSION_MINOR, MQC_VERSION_PATCH)

enum { KEY_INSTANCE = INT_MAX, KEY_HELP = 'h', KEY_VERSION = 'V' };

static const struct options_entry common[] = {
    {KEY_INSTANCE, "instance", "NAME",
     "talk to the broker of this name\n(default: $MQBROKER_INSTANCE, or \"default\")"},
    {KEY_HELP, "help", NULL, "show this help and exit"},
    {KEY_VERSION, "version", NULL, "show the version and exit"},
    {0},
};

static void add(struct options *options, const struct options_entry *entries, size_t *n)
{
    char *letter = options->letters + strlen(options->letters);

    for (; entries->name != NULL && *n < OPTIONS_ENTRIES_MAX - 1; entries++) {
        options->longs[(*n)++] = (struct option){
            .name = entries->name,
            .has_arg = entries->argument != NULL ? required_argument : no_argument,
            .val = entries->key,
        };
        if (entries->key >= OPTIONS_KEY_LONG)
            continue;
        *letter++ = (char)entries->key;
        if (entries->argument != NULL)
            *letter++ = ':';
    }
}

void options_begin(struct options *options, const struct options_program *program, int argc,
                   char **argv)
{
    size_t n = 0;

    *options = (struct options){.program = program, .argc = argc, .argv = argv};
    add(options, program->entries, &n);
    add(options, common, &n);
    optind = 0; /* start anew: a second command line may be read in this process (mqctl's verbs,
                   tests) */
}

/* ---- Help and wrong usage ---- */

static void print_usage(const struct options_program *program, FILE *out)
{
    const char *line = program->usage;
    const char *lead = "Usage:";

    for (;;) {
        size_t size = strcspn(line, "\n");

        fprintf(out, "%s %s %.*s\n", lead, program->name, (int)size, line);
        if (line[size] == '\0')
            break;
        line += size + 1;
        lead = "      ";
    }
}

static void print_entry(const struct options_entry *entry, FILE *out)
{
    enum { COLUMN = 28 };
    const char *help = entry->help;
    int width = entry->key < OPTIONS_KEY_LONG ? fprintf(out, "  -%c, --%s", entry->key, entry->name)
                                              : fprintf(out, "      --%s", entry->name);

    if (entry->argument != NULL)
        width += fprintf(out, " %s", entry->argument);
    if (width > COLUMN - 2) {
        fputc('\n', out);
        width = 0;
    }
    for (;;) {
        size_t size = strcspn(help, "\n");

        fprintf(out, "%*s%.*s\n", COLUMN - width, "", (int)size, help);
        if (help[size] == '\0')
            break;
        help += size + 1;
        width = 0;
    }
}

void options_print_help(const struct options_program *program, FILE *out)
{
    print_usage(program, out);
    fprintf(out, "%s\n\nOptions:\n", program->purpose);
    for (const struct options_entry *entry = program->entries; entry->name != NULL; entry++)
        print_entry(entry, out);
    for (const struct options_entry *entry = common; entry->name != NULL; entry++)
        print_entry(entry, out);
    if (program->more != NULL)
        fprintf(out, "\n%s\n", program->more);
}

static _Noreturn void point_to_help(const struct options *options)
{
    fprintf(stderr, "Try '%s --help'.\n", options->program->name);
    exit(OPTIONS_EXIT_USAGE);
}

void options_usage(const struct options *options, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "%s: ", options->program->name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    point_to_help(options);
}

/* ---- The command line ---- */

static const struct options_entry *find(const struct options_entry *entries, int key)
{
    while (entries->name != NULL && entries->key != key)
        entries++;
    return entries->name != NULL ? entries : NULL;
}

static void set_instance(struct options *options)
{
    if (!names_instance_valid(optarg))
        options_usage(options,
                      "--instance: '%s' is not a name: 1 to %d letters, digits, '_' and '-'",
                      optarg, NAMES_INSTANCE_MAX);
    options->instance = optarg;
}

int options_next(struct options *options)
{
    for (;;) {
        char *own_name = options->argv[0];
        int key;

        options->argv[0] = (char *)(uintptr_t)options->program->name; /* for getopt's sentences */
        key = getopt_long(options->argc, options->argv, options->letters, options->longs, NULL);
        options->argv[0] = own_name;
        switch (key) {
        case KEY_INSTANCE:
            set_instance(options);
            break;
        case KEY_HELP:
            options_print_help(options->program, stdout);
            exit(fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
        case KEY_VERSION:
            printf("%s (mqbroker) %s\n", options->program->name, VERSION);
            exit(fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
        case '?':
            point_to_help(options);
        default:
            options->entry = find(options->program->entries, key);
            options->value = optarg;
            return key;
        }
    }
}

const char *options_instance(const struct options *options)
{
    const char *instance = names_instance(options->instance);

    if (!names_instance_valid(instance))
        options_usage(options, "$MQBROKER_INSTANCE: '%s' is not a name", instance);
    return instance;
}

char **options_rest(const struct options *options)
{
    return options->argv + optind;
}

const char *options_operand(const struct options *options, const char *what)
{
    char **rest = options_rest(options);

    if (rest[0] == NULL || rest[0][0] == '\0')
        options_usage(options, "%s is missing", what);
    if (rest[1] != NULL)
        options_usage(options, "'%s' is too much: only %s is expected", rest[1], what);
    return rest[0];
}

void options_no_rest(const struct options *options)
{
    const char *first = *options_rest(options);

    if (first != NULL)
        options_usage(options, "'%s' is not an option, and nothing else is expected", first);
}

/* ---- Values ---- */

uint64_t options_number(const struct options *options, uint64_t least, uint64_t most)
{
    uint64_t number = 0;

    if (!options_parse_number(options->value, least, most, &number)) {
        if (most == UINT64_MAX)
            options_usage(options, "--%s: '%s' is not a number from %llu up", options->entry->name,
                          options->value, (unsigned long long)least);
        options_usage(options, "--%s: '%s' is not a number from %llu to %llu", options->entry->name,
                      options->value, (unsigned long long)least, (unsigned long long)most);
    }
    return number;
}

uint64_t options_duration(const struct options *options)
{
    uint64_t nanoseconds = 0;

    if (!options_parse_duration(options->value, &nanoseconds))
        options_usage(options,
                      "--%s: '%s' is not a duration, such as 5 (seconds), 1.5s, 200ms, 2m or 1h",
                      options->entry->name, options->value);
    return nanoseconds;
}

uint64_t options_size(const struct options *options)
{
    uint64_t size = 0;

    if (!options_parse_size(options->value, &size))
        options_usage(options, "--%s: '%s' is not a size, such as 64, 4K or 1M",
                      options->entry->name, options->value);
    return size;
}

int options_milliseconds(uint64_t nanoseconds)
{
    uint64_t milliseconds = nanoseconds / 1000000 + (nanoseconds % 1000000 != 0);

    return milliseconds < INT_MAX ? (int)milliseconds : INT_MAX;
}

/* Digits at *text, which is moved behind them. False: there are none, or the number is too large.
 */
static bool digits(const char **text, uint64_t *out)
{
    const char *at = *text;
    uint64_t number = 0;

    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(number, 10, &number) ||
            __builtin_add_overflow(number, (uint64_t)(*at - '0'), &number))
            return false;
    if (at == *text)
        return false;
    *text = at;
    *out = number;
    return true;
}

bool options_parse_number(const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    uint64_t number;

    if (!digits(&text, &number) || *text != '\0' || number < least || number > most)
        return false;
    *out = number;
    return true;
}

static uint64_t unit_of_duration(const char *unit)
{
    static const struct {
        const char *name;
        uint64_t nanoseconds;
    } units[] = {
        {"", 1000000000},
        {"s", 1000000000},
        {"ms", 1000000},
        {"us", 1000},
        {"ns", 1},
        {"m", 60ull * 1000000000},
        {"h", 3600ull * 1000000000},
        {"d", 86400ull * 1000000000},
    };

    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(unit, units[i].name) == 0)
            return units[i].nanoseconds;
    return 0;
}

/* The digits behind a decimal point, as billionths; further digits are cut off. Fine where there is
 * no point. */
static bool billionths(const char **text, uint64_t *out)
{
    uint64_t value = 0, place = 100000000;
    const char *at = *text;

    *out = 0;
    if (*at != '.')
        return true;
    for (at++; *at >= '0' && *at <= '9'; at++, place /= 10)
        value += place * (uint64_t)(*at - '0');
    if (at == *text + 1)
        return false;
    *text = at;
    *out = value;
    return true;
}

bool options_parse_duration(const char *text, uint64_t *out)
{
    uint64_t whole, fraction, unit;

    if (!digits(&text, &whole) || !billionths(&text, &fraction))
        return false;
    unit = unit_of_duration(text);
    if (unit == 0 || __builtin_mul_overflow(whole, unit, &whole))
        return false;
    /* The longest unit is 86,400 s: the product takes 77 bits. */
    fraction = (uint64_t)((unsigned __int128)fraction * unit / 1000000000);
    if (__builtin_add_overflow(whole, fraction, &whole))
        return false;
    *out = whole;
    return true;
}

bool options_parse_size(const char *text, uint64_t *out)
{
    static const char units[] = "KMG";
    uint64_t size;
    const char *unit;

    if (!digits(&text, &size))
        return false;
    if (*text != '\0') {
        unit = strchr(units, *text >= 'a' ? *text - 'a' + 'A' : *text);
        if (unit == NULL || text[1] != '\0' ||
            __builtin_mul_overflow(size, UINT64_C(1) << 10 * (unit - units + 1), &size))
            return false;
    }
    *out = size;
    return true;
}
