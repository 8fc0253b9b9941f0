/* mqctl journal: is what a broker has on disk whole, and what is it.
 *
 * The segments are read as a broker reads them after a reboot (broker/history.h), and only read. A
 * broker may be writing meanwhile, and use a segment again that was half read: so what looks
 * damaged while it does is looked at again, and believed if it stays. */
#include "tools/mqctl.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/history.h"
#include "broker/record.h"
#include "broker/survivors.h"
#include "libclient/names.h"
#include "tools/look.h"
#include "tools/options.h"
#include "tools/stored.h"

enum { KEY_JSON = OPTIONS_KEY_LONG };
enum { LOOKS = 5 }; /* at a journal in use, until it seems whole */

struct reading {
    struct stored stored;
    bool in_use;
    bool dump, json;
    int fds[RECORD_SLOTS_MAX];
    struct history_segment segments[RECORD_SLOTS_MAX];
    uint32_t n_segments;
    uint64_t records[RECORD_VOID + 1]; /* by kind; 0: of others */
    uint64_t live[RECORD_VOID + 1];
    uint64_t live_bytes;
    struct survivors survivors;
    char **damages; /* sentences */
    size_t n_damages;
};

static const struct options_entry check_entries[] = {{0}};

static const struct options_program check_program = {
    .name = "mqctl journal check",
    .usage = "[--instance NAME] [DIRECTORY]",
    .purpose = "Read a broker's journal, and say which places in it are damaged. DIRECTORY is the\n"
               "broker's setting 'journal'; without it, the broker that runs is looked for.\n"
               "Nothing is changed; the broker may be at work.",
    .entries = check_entries,
    .more = "Exit status: 0 whole, 1 damaged or an error, 2 wrong usage.",
};

static const struct options_entry dump_entries[] = {
    {KEY_JSON, "json", NULL, "an object a line"},
    {0},
};

static const struct options_program dump_program = {
    .name = "mqctl journal dump",
    .usage = "[--json] [--instance NAME] [DIRECTORY]",
    .purpose = "Show every record of a broker's journal that counts, in the order in which they\n"
               "were written, and whether what it is about lives.",
    .entries = dump_entries,
    .more = "Exit status: 0 whole, 1 damaged or an error, 2 wrong usage.",
};

static _Noreturn void no_memory(void)
{
    errx(EXIT_FAILURE, "no memory");
}

/* ---- Segments ---- */

static int load(void *context, uint32_t slot, uint32_t offset, uint32_t size, uint8_t *to)
{
    const struct reading *r = context;

    for (uint32_t done = 0; done < size;) {
        ssize_t n = pread(r->fds[slot], to + done, size - done, (off_t)offset + done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) { /* what cannot be read is zeros */
            uint32_t page = n == 0 || size - done < 4096 ? size - done : 4096;

            memset(to + done, 0, page);
            n = page;
        }
        done += (uint32_t)n;
    }
    return 0;
}

static void add_damage(struct reading *r, const char *sentence)
{
    char **more = reallocarray(r->damages, r->n_damages + 1, sizeof *more);

    if (more == NULL)
        no_memory();
    r->damages = more;
    r->damages[r->n_damages] = strdup(sentence);
    if (r->damages[r->n_damages++] == NULL)
        no_memory();
}

/* A segment, by its header or the copy at its end. */
static void open_segment(struct reading *r, uint32_t slot)
{
    uint8_t bytes[RECORD_HEADER_SIZE];
    struct record_header header;
    char name[RECORD_NAME_MAX], sentence[128];
    struct stat status;
    int outcome;

    record_segment_name(name, slot);
    r->fds[slot] = openat(r->stored.folder, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (r->fds[slot] < 0 && errno != ENOENT)
        err(EXIT_FAILURE, "%s", name);
    if (r->fds[slot] < 0 || fstat(r->fds[slot], &status) < 0)
        return;
    load(r, slot, 0, sizeof bytes, bytes);
    outcome = record_get_header(bytes, &header);
    if (outcome == RECORD_E_LAYOUT)
        errx(EXIT_FAILURE, "%s: written by another version of mqbroker", name);
    if (outcome != RECORD_OK && status.st_size >= RECORD_SEGMENT_MIN) {
        load(r, slot, (uint32_t)status.st_size - RECORD_HEADER_SIZE, sizeof bytes, bytes);
        if (record_get_header(bytes, &header) == RECORD_OK)
            outcome = RECORD_OK;
    }
    if (outcome == RECORD_OK && header.slot == slot && header.size <= status.st_size) {
        r->segments[r->n_segments++] = (struct history_segment){.header = header};
    } else if (outcome == RECORD_OK && header.slot == slot) {
        snprintf(sentence, sizeof sentence,
                 "%s: it was cut off, %lld of %u bytes are there: all that it had is lost", name,
                 (long long)status.st_size, header.size);
        add_damage(r, sentence);
    } else if (outcome != RECORD_OK && outcome != RECORD_E_EMPTY) {
        snprintf(sentence, sizeof sentence,
                 "%s: its header is damaged (%s): all that it had is lost", name,
                 record_outcome_name(outcome));
        add_damage(r, sentence);
    }
}

/* ---- Records ---- */

static bool lives(const struct reading *r, uint64_t age, uint32_t location)
{
    size_t low = 0, high = r->survivors.n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (r->survivors.list[middle].age < age)
            low = middle + 1;
        else
            high = middle;
    }
    return low < r->survivors.n && r->survivors.list[low].age == age &&
           r->survivors.list[low].location == location;
}

static json_t *ages_json(const struct record *record)
{
    json_t *ages = json_array();

    for (uint32_t i = 0; i < record->size / sizeof(uint64_t); i++)
        json_array_append_new(ages, json_integer((json_int_t)record_end_age(record, i)));
    return ages;
}

static void print_json(const char *file, uint32_t offset, const struct history_segment *segment,
                       const struct record *record, bool alive)
{
    json_t *o = json_pack(
        "{s:s, s:I, s:I, s:s, s:I, s:I, s:i, s:i, s:i, s:I, s:I}", "file", file, "offset",
        (json_int_t)offset, "generation", (json_int_t)segment->header.generation, "kind",
        record_kind_name(record->kind), "age", (json_int_t)record->age, "owner",
        (json_int_t)record->owner, "level", record->level, "flags", record->flags, "tries",
        record->tries, "when", (json_int_t)record->when, "size", (json_int_t)record->size);

    if (o == NULL)
        no_memory();
    if (record_is_thing(record->kind))
        json_object_set_new(o, "lives", json_boolean(alive));
    if (record->kind == RECORD_END)
        json_object_set_new(o, "ages", ages_json(record));
    json_dumpf(o, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(o);
}

static void print_line(const char *file, uint32_t offset, const struct record *record, bool alive)
{
    printf("%s %8u  %-6s", file, offset, record_kind_name(record->kind));
    if (record->kind == RECORD_END) {
        for (uint32_t i = 0; i < record->size / sizeof(uint64_t); i++)
            printf(" %" PRIu64, record_end_age(record, i));
        putchar('\n');
        return;
    }
    printf(" age %" PRIu64, record->age);
    if (record->owner != 0)
        printf(" owner %" PRIu64, record->owner);
    if (record_is_thing(record->kind))
        printf(" level %u flags %u tries %u when %u size %u %s", record->level, record->flags,
               record->tries, record->when, record->size, alive ? "lives" : "ended");
    putchar('\n');
}

static int take_record(void *context, const struct history_segment *segment, uint32_t offset,
                       const struct record *record)
{
    struct reading *r = context;
    uint32_t location = record_location(segment->header.slot, offset);

    r->records[record->kind <= RECORD_VOID ? record->kind : 0]++;
    return survivors_record(&r->survivors, record, location);
}

static int print_record(void *context, const struct history_segment *segment, uint32_t offset,
                        const struct record *record)
{
    const struct reading *r = context;
    bool alive = lives(r, record->age, record_location(segment->header.slot, offset));
    char file[RECORD_NAME_MAX];

    record_segment_name(file, segment->header.slot);
    if (r->json)
        print_json(file, offset, segment, record, alive);
    else
        print_line(file, offset, record, alive);
    return ferror(stdout) ? -EIO : 0;
}

static void take_damage(void *context, const struct history_damage *damage)
{
    char sentence[256];

    history_sentence(sentence, sizeof sentence, damage);
    add_damage(context, sentence);
}

static void ignore_damage(void *context, const struct history_damage *damage)
{
    (void)context;
    (void)damage;
}

/* ---- Reading ---- */

static void forget(struct reading *r)
{
    for (uint32_t slot = 0; slot < RECORD_SLOTS_MAX; slot++) {
        if (r->fds[slot] >= 0)
            close(r->fds[slot]);
        r->fds[slot] = -1;
    }
    for (size_t i = 0; i < r->n_damages; i++)
        free(r->damages[i]);
    free(r->damages);
    r->damages = NULL;
    r->n_damages = 0;
    r->n_segments = 0;
    memset(r->records, 0, sizeof r->records);
    memset(r->live, 0, sizeof r->live);
    r->live_bytes = 0;
    survivors_deinit(&r->survivors);
}

static void read_once(struct reading *r)
{
    const struct history_reader reader = {load, take_record, take_damage, r};
    int result;

    forget(r);
    for (uint32_t slot = 0; slot < RECORD_SLOTS_MAX; slot++)
        open_segment(r, slot);
    result = history_read(r->segments, r->n_segments, HISTORY_ALL, &reader);
    if (result == 0)
        result = survivors_settle(&r->survivors);
    if (result < 0)
        errx(EXIT_FAILURE, "%s", strerror(-result));
    for (size_t i = 0; i < r->survivors.n; i++) {
        r->live[r->survivors.list[i].kind]++;
        r->live_bytes += record_room(r->survivors.list[i].size);
    }
}

static void read_journal(struct reading *r)
{
    unsigned looks = 0;

    r->in_use = flock(r->stored.folder, LOCK_SH | LOCK_NB) < 0;
    do
        read_once(r);
    while (r->n_damages > 0 && r->in_use && ++looks < LOOKS);
    flock(r->stored.folder, LOCK_UN);
}

static void open_journal(struct reading *r, const struct options *options, const char *directory)
{
    const char *instance = names_instance(options->instance);
    struct snapshot snapshot = {0};
    uint32_t pid = 0;
    int result;

    if (!names_instance_valid(instance))
        options_usage(options, "$MQBROKER_INSTANCE: '%s' is not a name", instance);
    if (directory == NULL && look_at(&snapshot, instance) == NULL)
        pid = snapshot.pid;
    snapshot_deinit(&snapshot);
    if (directory == NULL && pid == 0)
        options_usage(options, "no broker of %s runs: say in which directory the journal is",
                      instance);
    result = stored_open(&r->stored, instance, directory, pid);
    if (result == 0)
        return;
    if (directory != NULL)
        errx(EXIT_FAILURE, "%s/%s: %s", directory, instance, strerror(-result));
    errx(EXIT_FAILURE, "the broker of %s has no journal, or is another user's", instance);
}

/* ---- What is said ---- */

static void print_damages(const struct reading *r, FILE *out)
{
    for (size_t i = 0; i < r->n_damages; i++)
        fprintf(out, "damaged: %s\n", r->damages[i]);
}

static void print_summary(const struct reading *r)
{
    uint32_t used = 0;

    for (uint32_t i = 0; i < r->n_segments; i++)
        used += r->segments[i].role == HISTORY_PART;
    printf("%u segments, %u in use%s\n", r->n_segments, used,
           r->in_use ? "; a broker is writing to it" : "");
    for (unsigned kind = RECORD_PUT; kind <= RECORD_VOID; kind++) {
        if (r->records[kind] == 0)
            continue;
        printf("%8" PRIu64 " %s", r->records[kind], record_kind_name(kind));
        if (record_is_thing(kind))
            printf(", %" PRIu64 " live", r->live[kind]);
        putchar('\n');
    }
    if (r->records[0] != 0)
        printf("%8" PRIu64 " of a kind that is not known here\n", r->records[0]);
    printf("%zu things live, in %" PRIu64 " bytes\n", r->survivors.n, r->live_bytes);
    print_damages(r, stdout);
    puts(r->n_damages == 0 ? "whole" : "damaged: see docs/journal.md for what to do");
}

static void print_records(struct reading *r)
{
    const struct history_reader reader = {load, print_record, ignore_damage, r};

    history_read(r->segments, r->n_segments, HISTORY_ALL, &reader);
    print_damages(r, stderr);
}

static int run(int argc, char **argv, const struct options_program *program, bool dump)
{
    static struct reading reading;
    struct reading *r = &reading;
    struct options options;
    char **rest;
    bool whole;

    options_begin(&options, program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;)
        r->json |= key == KEY_JSON;
    rest = options_rest(&options);
    if (rest[0] != NULL && rest[1] != NULL)
        options_usage(&options, "one directory, not '%s' as well", rest[1]);
    memset(r->fds, -1, sizeof r->fds);
    open_journal(r, &options, rest[0]);
    read_journal(r);
    if (dump)
        print_records(r);
    else
        print_summary(r);
    whole = r->n_damages == 0;
    forget(r);
    stored_close(&r->stored);
    return whole ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* ---- Verbs ---- */

static const struct options_entry no_entries[] = {{0}};

static const struct options_program program = {
    .name = "mqctl journal",
    .usage = "check | dump [OPTIONS] [DIRECTORY]",
    .purpose = "Look at what a broker has on disk.",
    .entries = no_entries,
    .more = "Verbs:\n"
            "  check    is it whole\n"
            "  dump     every record\n"
            "Each has --help.",
};

int mqctl_journal(int argc, char **argv)
{
    struct options options;

    if (argc > 1 && strcmp(argv[1], "check") == 0)
        return run(argc - 1, argv + 1, &check_program, false);
    if (argc > 1 && strcmp(argv[1], "dump") == 0)
        return run(argc - 1, argv + 1, &dump_program, true);
    options_begin(&options, &program, argc, argv);
    while (options_next(&options) != -1)
        ;
    options_usage(&options, "say what to do with it: check or dump");
}
