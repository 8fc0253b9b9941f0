/* The configuration file, read by libconfig and checked against one table.
 *
 * A configuration that is silently half understood is worse than none, so everything has to be in
 * the table, of the right kind and in its range, and the first thing that is not is the one error,
 * with its place and what would be right. The result is handed over only when all of it holds; a
 * reload that fails leaves the broker as it was.
 *
 * libconfig does two things in silence that we do not want. Release 1.5 wraps an integer that is
 * too large (4294967297 is 1), and any `@include` opens a file, by a path and under a name in
 * errors that differ from release to release. Neither can be seen in what it returns, so the text
 * is looked over first, by scan(): such numbers are errors, and so are includes, which a dozen keys
 * do not need. For the same reason the file is read here and not by libconfig. */
#include "broker/config.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libconfig.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/journal.h"

#define KIB (INT64_C(1) << 10)
#define MIB (INT64_C(1) << 20)
#define GIB (INT64_C(1) << 30)
#define DAY INT64_C(86400000) /* milliseconds */

enum {
    FILE_MAX = 1 << 20, /* bytes of a file; more is not a configuration */
    /* Bytes that a publisher must be able to have under way (eight full queue messages), and what
     * more does not make faster (rule P4). */
    WINDOW_MIN = 64 << 10,
    WINDOW_MAX = 1 << 20,
    /* An eighth is kept for control frames (rule P6): 8 for each client. */
    REFERENCES_PER_CLIENT = 64,
};

/* ---- The table ---- */

enum kind { INTEGER, SIZE, DURATION, CHOICE, PATH };

struct unit {
    const char *name;
    int64_t value;
};

static const struct unit size_units[] = {{"G", GIB}, {"M", MIB}, {"K", KIB}, {"", 1}, {NULL, 0}};
static const struct unit duration_units[] = {
    {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}, {NULL, 0}};

static const char *const overflow_choices[] = {"drop-oldest", "drop-newest", "block", "disconnect",
                                               NULL};
static const char *const group_overflow_choices[] = {"drop-oldest", "drop-newest", "block", NULL};
static const char *const sync_choices[] = {"always", "interval", "never", NULL};
static const char *const log_choices[] = {"error", "warning", "info", "debug", NULL};

struct key {
    const char *name;
    enum kind kind;
    int64_t min;
    int64_t max;
    int64_t fallback;
    size_t offset;    /* in struct config */
    const char *zero; /* what 0 says, if it is allowed besides the range */
    bool reloadable;  /* may change while the broker runs */
    const char *const *choices;
};

static const char chosen[] = "to have it chosen";

#define AT(member) .name = #member, .offset = offsetof(struct config, member)

static const struct key keys[] = {
    {AT(max_clients), .kind = INTEGER, .min = 1, .max = 4096, .fallback = 32},
    {AT(queue_depth), .kind = INTEGER, .min = 4, .max = 1024, .zero = chosen},
    {AT(store_size), .kind = SIZE, .min = MIB, .max = 8 * GIB, .fallback = 64 * MIB},
    {AT(references), .kind = INTEGER, .min = 4096, .max = 16777000, .fallback = 2097152},
    {AT(pool_max), .kind = SIZE, .min = MIB, .max = 64 * GIB, .fallback = 256 * MIB},
    {AT(topic_rows), .kind = INTEGER, .min = 1, .max = 65536, .fallback = 1024},
    {AT(max_groups), .kind = INTEGER, .min = 0, .max = 1024, .fallback = 64},
    {AT(journal), .kind = PATH},
    {AT(journal_segment), .kind = SIZE, .min = RECORD_SEGMENT_MIN, .max = RECORD_SEGMENT_MAX,
     .fallback = 16 * MIB},
    {AT(journal_size), .kind = SIZE, .min = 320 * KIB, .max = 64 * GIB, .fallback = GIB},
    {AT(journal_ready), .kind = SIZE, .max = 64 * GIB},
    {AT(sync), .kind = CHOICE, .fallback = CONFIG_SYNC_ALWAYS, .choices = sync_choices},
    {AT(max_subscriptions), .kind = INTEGER, .min = 1, .max = 1000000, .fallback = 16384,
     .reloadable = true},
    {AT(backlog_size), .kind = SIZE, .min = 64 * KIB, .max = 8 * GIB, .fallback = 8 * MIB,
     .reloadable = true},
    {AT(stall_timeout), .kind = DURATION, .min = 10, .max = 3600000, .fallback = 5000,
     .reloadable = true},
    {AT(retained_size), .kind = SIZE, .min = 4 * KIB, .max = 4 * GIB, .zero = chosen,
     .reloadable = true},
    {AT(poll_usec), .kind = INTEGER, .min = 0, .max = 1000, .fallback = 50, .reloadable = true},
    {AT(overflow), .kind = CHOICE, .fallback = CONFIG_DROP_OLDEST, .choices = overflow_choices,
     .reloadable = true},
    {AT(log_level), .kind = CHOICE, .fallback = CONFIG_LOG_INFO, .choices = log_choices,
     .reloadable = true},
    {AT(group_size), .kind = SIZE, .min = 4 * KIB, .max = 64 * GIB, .fallback = 16 * MIB,
     .reloadable = true},
    {AT(group_overflow), .kind = CHOICE, .fallback = CONFIG_DROP_NEWEST,
     .choices = group_overflow_choices, .reloadable = true},
    {AT(ack_timeout), .kind = DURATION, .min = 10, .max = DAY, .fallback = 30000,
     .reloadable = true},
    {AT(delivery_limit), .kind = INTEGER, .min = 0, .max = 255, .fallback = 5, .reloadable = true},
    {AT(group_linger), .kind = DURATION, .min = 0, .max = DAY, .fallback = 60000,
     .reloadable = true},
    {AT(aging), .kind = DURATION, .min = 10, .max = DAY, .zero = "for never", .reloadable = true},
    {AT(sync_interval), .kind = DURATION, .min = 1, .max = 3600000, .fallback = 100,
     .reloadable = true},
};

enum { N_KEYS = sizeof(keys) / sizeof(keys[0]) };

static int64_t *value_of(struct config *config, const struct key *key)
{
    return (int64_t *)(void *)((char *)config + key->offset);
}

/* What of the struct is the key's. Paths are zero to their end. */
static size_t size_of(const struct key *key)
{
    return key->kind == PATH ? CONFIG_PATH_MAX : sizeof(int64_t);
}

static bool same_value(const struct config *a, const struct config *b, const struct key *key)
{
    return memcmp((const char *)a + key->offset, (const char *)b + key->offset, size_of(key)) == 0;
}

static void copy_value(struct config *to, const struct config *from, const struct key *key)
{
    memcpy((char *)to + key->offset, (const char *)from + key->offset, size_of(key));
}

static const struct key *find_key(const char *name)
{
    for (const struct key *key = keys; key < keys + N_KEYS; key++)
        if (strcmp(key->name, name) == 0)
            return key;
    return NULL;
}

void config_default(struct config *config)
{
    memset(config, 0, sizeof(*config));
    for (const struct key *key = keys; key < keys + N_KEYS; key++)
        if (key->kind != PATH)
            *value_of(config, key) = key->fallback;
}

/* ---- Errors ---- */

/* A place in a file; line 0: the whole of it. */
struct place {
    const char *file;
    unsigned line;
};

/* Writes "FILE:LINE: sentence" and returns -EINVAL. */
__attribute__((format(printf, 3, 4))) static int fail(struct config_error *error,
                                                      struct place place, const char *format, ...)
{
    va_list arguments;
    /* The sentence matters more than the beginning of a long path. */
    size_t room = sizeof(error->text) / 2;
    size_t length = strlen(place.file);
    const char *file = length > room ? place.file + length - room : place.file;
    int n = place.line == 0
                ? snprintf(error->text, sizeof(error->text), "%s: ", file)
                : snprintf(error->text, sizeof(error->text), "%s:%u: ", file, place.line);

    va_start(arguments, format);
    vsnprintf(error->text + n, sizeof(error->text) - (size_t)n, format, arguments);
    va_end(arguments);
    return -EINVAL;
}

/* The letters to insert, delete or replace to make one word of the other, of which only the first
 * 31 count. */
static unsigned edit_distance(const char *a, const char *b)
{
    unsigned row[32];
    size_t n = strnlen(b, 31);

    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 1; i < 32 && a[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            unsigned above = row[j];
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);

            best = above + 1 < best ? above + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            diagonal = above;
        }
    }
    return row[n];
}

static int fail_unknown(struct config_error *error, struct place place, const char *name)
{
    const struct key *nearest = NULL;
    unsigned distance = 4;

    for (const struct key *key = keys; key < keys + N_KEYS; key++) {
        unsigned d = edit_distance(name, key->name);

        if (d < distance) {
            distance = d;
            nearest = key;
        }
    }
    if (nearest != NULL)
        return fail(error, place, "key \"%.40s\" is not known; did you mean \"%s\"?", name,
                    nearest->name);
    return fail(error, place, "key \"%.40s\" is not known; mqbroker.conf(5) lists those that are",
                name);
}

/* ---- Values ---- */

/* A number with a unit of the list right behind it; nothing needs no unit. False: it is not that,
 * or larger than an int64_t. */
static bool parse_units(const char *text, const struct unit *units, int64_t *out)
{
    int64_t n = 0;
    const char *p = text;

    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *p - '0', &n))
            return false;
    if (p == text)
        return false;
    if (n == 0 && *p == '\0') {
        *out = 0;
        return true;
    }
    for (; units->name != NULL; units++)
        if (strcmp(p, units->name) == 0)
            return !__builtin_mul_overflow(n, units->value, out);
    return false;
}

/* The way a person would write a value of this key: "64M". */
static const char *print_value(char out[32], const struct key *key, int64_t value)
{
    const struct unit *unit = key->kind == DURATION ? duration_units : size_units;

    if (key->kind == INTEGER)
        snprintf(out, 32, "%" PRId64, value);
    else if (value == 0)
        snprintf(out, 32, "\"0\"");
    else {
        while (value % unit->value != 0)
            unit++;
        snprintf(out, 32, "\"%" PRId64 "%s\"", value / unit->value, unit->name);
    }
    return out;
}

static int set_number(struct config *config, const struct key *key, int64_t value,
                      struct place place, struct config_error *error)
{
    char min[32], max[32];

    if ((value < key->min || value > key->max) && !(key->zero != NULL && value == 0))
        return fail(error, place, "%s must be from %s to %s%s%s", key->name,
                    print_value(min, key, key->min), print_value(max, key, key->max),
                    key->zero != NULL ? ", or 0 " : "", key->zero != NULL ? key->zero : "");
    *value_of(config, key) = value;
    return 0;
}

static int set_choice(struct config *config, const struct key *key, const char *word,
                      struct place place, struct config_error *error)
{
    char list[128];
    size_t n = 0;

    for (int i = 0; key->choices[i] != NULL; i++) {
        if (word != NULL && strcmp(word, key->choices[i]) == 0) {
            *value_of(config, key) = i;
            return 0;
        }
        n += (size_t)snprintf(list + n, sizeof(list) - n, "%s\"%s\"", i == 0 ? "" : ", ",
                              key->choices[i]);
    }
    return fail(error, place, "%s must be one of %s", key->name, list);
}

static int set_path(struct config *config, const struct key *key, const char *path,
                    struct place place, struct config_error *error)
{
    if (path == NULL || (path[0] != '/' && path[0] != '\0'))
        return fail(error, place, "%s must be a path from the root on, in quotes, or \"\" for none",
                    key->name);
    if (strlen(path) >= CONFIG_PATH_MAX)
        return fail(error, place, "%s is a path of %zu bytes, and %d are allowed", key->name,
                    strlen(path), CONFIG_PATH_MAX - 1);
    strncpy((char *)config + key->offset, path, CONFIG_PATH_MAX);
    return 0;
}

static int set_value(struct config *config, const struct key *key, const config_setting_t *setting,
                     struct place place, struct config_error *error)
{
    int type = config_setting_type(setting);
    bool integer = type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64;
    const char *word = type == CONFIG_TYPE_STRING ? config_setting_get_string(setting) : NULL;
    int64_t value;

    switch (key->kind) {
    case INTEGER:
        if (!integer)
            return fail(error, place, "%s must be an integer, without quotes or unit", key->name);
        return set_number(config, key, config_setting_get_int64(setting), place, error);
    case SIZE:
        if (integer)
            return set_number(config, key, config_setting_get_int64(setting), place, error);
        if (word == NULL || !parse_units(word, size_units, &value))
            return fail(error, place,
                        "%s must be a number of bytes, or one with K, M or G in quotes: \"64M\"",
                        key->name);
        return set_number(config, key, value, place, error);
    case DURATION:
        if (word == NULL || !parse_units(word, duration_units, &value))
            return fail(error, place, "%s must be a number with ms, s, m or h in quotes: \"5s\"",
                        key->name);
        return set_number(config, key, value, place, error);
    case CHOICE:
        return set_choice(config, key, word, place, error);
    case PATH:
        return set_path(config, key, word, place, error);
    }
    return -EINVAL;
}

/* ---- Values that have to fit each other ---- */

/* The key to blame is the first of these that the file sets; of those that it does not, the default
 * holds. */
static struct place blame(const struct place places[N_KEYS], const char *first, const char *second)
{
    const struct place *place = &places[find_key(first) - keys];

    return place->line != 0 ? *place : places[find_key(second) - keys];
}

static int64_t window(const struct config *config)
{
    int64_t share = config->store_size / 2 / config->max_clients;

    return share < WINDOW_MAX ? share : WINDOW_MAX;
}

static bool retained_fits(const struct config *config)
{
    return config->retained_size <= config->store_size / 2;
}

static int check_fit(const struct config *config, const struct place places[N_KEYS],
                     struct config_error *error)
{
    int64_t references = config->max_clients * REFERENCES_PER_CLIENT;

    if (window(config) < WINDOW_MIN)
        return fail(error, blame(places, "store_size", "max_clients"),
                    "store_size is too small for max_clients: half of %" PRId64
                    " bytes leaves each of %" PRId64 " clients a window of %" PRId64
                    " bytes, and %d are needed; make it at least \"%" PRId64 "K\"",
                    config->store_size, config->max_clients, window(config), WINDOW_MIN,
                    config->max_clients * 2 * WINDOW_MIN / KIB);
    if (config->references < references)
        return fail(error, blame(places, "references", "max_clients"),
                    "references is too small for max_clients: %" PRId64 " for %" PRId64
                    " clients, and each needs %d; make it at least %" PRId64,
                    config->references, config->max_clients, REFERENCES_PER_CLIENT, references);
    if (!retained_fits(config))
        return fail(error, blame(places, "retained_size", "store_size"),
                    "retained_size is %" PRId64
                    " bytes, and must be at most half of store_size, which is %" PRId64
                    "; the other half is for messages under way",
                    config->retained_size, config->store_size);
    if ((config->journal_segment & (config->journal_segment - 1)) != 0)
        return fail(error, blame(places, "journal_segment", "journal_segment"),
                    "journal_segment is %" PRId64
                    " bytes, and must be a power of two, such as \"1M\" or \"16M\"",
                    config->journal_segment);
    if (config->journal_size / RECORD_SLOTS_MAX > config->journal_segment)
        return fail(error, blame(places, "journal_size", "journal_segment"),
                    "journal_size is %" PRId64
                    " bytes, and must be at most %d times journal_segment, which is %" PRId64,
                    config->journal_size, RECORD_SLOTS_MAX, config->journal_segment);
    if (config->journal_size / JOURNAL_SEGMENTS_MIN < config->journal_segment)
        return fail(error, blame(places, "journal_size", "journal_segment"),
                    "journal_size is %" PRId64
                    " bytes, and must be at least %d times journal_segment, which is %" PRId64,
                    config->journal_size, JOURNAL_SEGMENTS_MIN, config->journal_segment);
    if (config->journal_ready > config->journal_size)
        return fail(error, blame(places, "journal_ready", "journal_size"),
                    "journal_ready is %" PRId64
                    " bytes, and must be at most journal_size, which is %" PRId64,
                    config->journal_ready, config->journal_size);
    return 0;
}

/* ---- The text ---- */

/* A place in a text that is being looked over. */
struct scanner {
    const char *at;
    struct place place;
};

static void step(struct scanner *s, size_t n)
{
    for (; n > 0 && *s->at != '\0'; n--)
        s->place.line += *s->at++ == '\n';
}

static void skip_string(struct scanner *s)
{
    for (step(s, 1); *s->at != '\0' && *s->at != '"';)
        step(s, *s->at == '\\' ? 2 : 1);
    step(s, 1);
}

static void skip_comment(struct scanner *s)
{
    if (s->at[0] == '/' && s->at[1] == '*') {
        const char *end = strstr(s->at + 2, "*/");

        step(s, end == NULL ? strlen(s->at) : (size_t)(end + 2 - s->at));
    } else {
        step(s, strcspn(s->at, "\n"));
    }
}

/* A number that libconfig could not hold is an error. */
static int skip_number(struct scanner *s, struct config_error *error)
{
    bool hex = s->at[0] == '0' && (s->at[1] == 'x' || s->at[1] == 'X');
    unsigned long long value;
    char *end;

    errno = 0;
    value = strtoull(s->at, &end, hex ? 16 : 10);
    if (errno == ERANGE || value > (*end == 'L' ? LLONG_MAX : INT_MAX))
        return fail(
            error, s->place, "the number %.*s%s is too large; write sizes with a unit, like \"8G\"",
            (int)(end - s->at < 24 ? end - s->at : 24), s->at, end - s->at > 24 ? "..." : "");
    s->at = end;
    return 0;
}

/* Look over what libconfig would accept in silence. */
static int scan(const char *text, const char *name, struct config_error *error)
{
    struct scanner s = {.at = text, .place = {name, 1}};
    int r = 0;

    while (r == 0 && *s.at != '\0') {
        if (*s.at == '"')
            skip_string(&s);
        else if (*s.at == '#' || (*s.at == '/' && (s.at[1] == '/' || s.at[1] == '*')))
            skip_comment(&s);
        else if (isdigit((unsigned char)*s.at))
            r = skip_number(&s, error);
        else if (isalpha((unsigned char)*s.at) || *s.at == '*')
            step(&s,
                 strspn(s.at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-*"));
        else if (*s.at == '@')
            r = fail(error, s.place, "a configuration is one file: @include is not taken");
        else
            step(&s, 1);
    }
    return r;
}

/* Up to `size` bytes of a file, a pipe or what else `fd` is. Returns how many, or -errno. */
static int read_all(int fd, char *out, int size)
{
    int n = 0;
    ssize_t r;

    while (n < size && (r = read(fd, out + n, (size_t)(size - n))) != 0) {
        if (r > 0)
            n += (int)r;
        else if (errno != EINTR)
            return -errno;
    }
    return n;
}

/* The text of a file, NUL-terminated. 0 or -errno with `error` set. The text is the caller's to
 * free in either case. */
static int read_text(const char *path, char **textp, struct config_error *error)
{
    struct place place = {path, 0};
    const char *wrong = NULL;
    char *text = *textp = malloc(FILE_MAX + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    int n = text == NULL ? -ENOMEM : fd < 0 ? -errno : read_all(fd, text, FILE_MAX + 1);

    if (fd >= 0)
        close(fd);
    if (n < 0) {
        fail(error, place, "cannot be read: %s", strerror(-n));
        return n;
    }
    if (n > FILE_MAX)
        wrong = "is larger than a configuration can be";
    else if (memchr(text, '\0', (size_t)n) != NULL)
        wrong = "is not a text: it has a NUL byte";
    if (wrong != NULL) {
        fail(error, place, "%s", wrong);
        return -EINVAL;
    }
    text[n] = '\0';
    return 0;
}

/* ---- The whole ---- */

/* Each setting into `config`. */
static int apply(struct config *config, const config_t *parsed, const char *name,
                 struct config_error *error)
{
    const config_setting_t *root = config_root_setting(parsed);
    struct place places[N_KEYS];
    int r = 0;

    for (int i = 0; i < N_KEYS; i++)
        places[i] = (struct place){name, 0};
    for (int i = 0; r == 0 && i < config_setting_length(root); i++) {
        const config_setting_t *setting = config_setting_get_elem(root, (unsigned)i);
        struct place place = {name, config_setting_source_line(setting)};
        const struct key *key = find_key(config_setting_name(setting));

        if (key == NULL)
            return fail_unknown(error, place, config_setting_name(setting));
        places[key - keys] = place;
        r = set_value(config, key, setting, place, error);
    }
    return r < 0 ? r : check_fit(config, places, error);
}

int config_parse(struct config *config, const char *text, const char *name,
                 struct config_error *error)
{
    struct config fresh;
    config_t parsed;
    int r = scan(text, name, error);

    if (r < 0)
        return r;
    config_default(&fresh);
    config_init(&parsed);
    if (config_read_string(&parsed, text))
        r = apply(&fresh, &parsed, name, error);
    else
        r = fail(error, (struct place){name, (unsigned)config_error_line(&parsed)}, "%s",
                 config_error_text(&parsed));
    config_destroy(&parsed);
    if (r == 0)
        *config = fresh;
    return r;
}

int config_load(struct config *config, const char *path, struct config_error *error)
{
    char *text;
    int r = read_text(path, &text, error);

    if (r == 0)
        r = config_parse(config, text, path, error);
    free(text);
    return r;
}

void config_reload(struct config *config, const struct config *fresh,
                   void (*kept)(const char *key, void *context), void *context)
{
    struct config next = *config;

    for (const struct key *key = keys; key < keys + N_KEYS; key++)
        if (!same_value(fresh, config, key)) {
            if (key->reloadable)
                copy_value(&next, fresh, key);
            else
                kept(key->name, context);
        }
    /* What fits in the file may not fit what stays from the last start. */
    if (!retained_fits(&next)) {
        next.retained_size = config->retained_size;
        kept("retained_size", context);
    }
    *config = next;
}
