/* The beginning of a journal: the folder, the segments in it, and what they say.
 *
 * After a reboot all is read, and writing goes on in a fresh segment: what a torn tail left behind
 * stays where it is, and the fresh one's BEGIN says that it does not count. After a kill of the
 * process the page cache has every write in the order in which it was made, so only the last
 * segment is read, and writing goes on where it ends. Either way, what was found is synced first:
 * nobody knows which of it was. */
#include "broker/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/history.h"
#include "broker/journal-state.h"
#include "broker/survivors.h"

/* ---- The system's files ---- */

/* A new folder's name is to outlive a power loss, too. */
static int sync_parent(const char *path)
{
    char parent[PATH_MAX];
    int fd, r;

    snprintf(parent, sizeof(parent), "%s", path);
    fd = open(dirname(parent), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    r = fsync(fd);
    close(fd);
    return r;
}

/* Ours, and writable by nobody else: who can write there can make up durable messages. */
static int open_folder(const char *path)
{
    struct stat status;
    int fd;

    if (mkdir(path, 0700) == 0) {
        if (sync_parent(path) < 0)
            return -1;
    } else if (errno != EEXIST) {
        return -1;
    }
    fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (fstat(fd, &status) < 0 || status.st_uid != geteuid() || (status.st_mode & 022) != 0) {
        close(fd);
        errno = EPERM;
        return -1;
    }
    return fd;
}

static int lock_folder(int folder)
{
    return flock(folder, LOCK_EX | LOCK_NB);
}

static int open_file(int folder, const char *name, int flags, mode_t mode)
{
    return openat(folder, name, flags, mode);
}

static off_t file_size(int fd)
{
    struct stat status;

    if (fstat(fd, &status) < 0)
        return -1;
    if (!S_ISREG(status.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    return status.st_size;
}

static int remove_file(int folder, const char *name)
{
    return unlinkat(folder, name, 0);
}

static const struct journal_files system_files = {
    .folder = open_folder,
    .lock = lock_folder,
    .open = open_file,
    .close = close,
    .size = file_size,
    .pread = pread,
    .pwrite = pwrite,
    .truncate = ftruncate,
    .fdatasync = fdatasync,
    .fsync = fsync,
    .unlink = remove_file,
};

/* ---- Opening ---- */

__attribute__((format(printf, 3, 4))) static int fail(char *sentence, int error, const char *format,
                                                      ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(sentence, JOURNAL_SENTENCE, format, arguments);
    va_end(arguments);
    return error;
}

static int check_settings(const struct journal_settings *s, char *sentence)
{
    uint64_t size = s->segment_size;

    if (size < RECORD_SEGMENT_MIN || size > RECORD_SEGMENT_MAX || (size & (size - 1)) != 0)
        return fail(sentence, -EINVAL,
                    "journal_segment: %llu bytes is not a power of two from %u to %u",
                    (unsigned long long)size, RECORD_SEGMENT_MIN, RECORD_SEGMENT_MAX);
    if (s->total_size / size < JOURNAL_SEGMENTS_MIN || s->total_size / size > RECORD_SLOTS_MAX)
        return fail(sentence, -EINVAL,
                    "journal_size: %llu bytes is not %u to %u times journal_segment (%llu)",
                    (unsigned long long)s->total_size, JOURNAL_SEGMENTS_MIN, RECORD_SLOTS_MAX,
                    (unsigned long long)size);
    return 0;
}

static int enter_folder(struct journal *j, const struct journal_settings *s, char *sentence)
{
    int n = snprintf(j->path, sizeof(j->path), "%s/%s", s->directory, s->instance);

    if (n < 0 || (size_t)n >= sizeof(j->path))
        return fail(sentence, -ENAMETOOLONG, "journal: the path of its directory is too long");
    j->folder = j->files->folder(j->path);
    if (j->folder < 0 && errno == ENOENT)
        return fail(sentence, -ENOENT,
                    "journal: there is no directory %.300s: make it, or name "
                    "another",
                    s->directory);
    if (j->folder < 0 && errno == EPERM)
        return fail(sentence, -EPERM,
                    "journal: %.300s must belong to the broker's user, and be writable by nobody "
                    "else: chmod 700 it",
                    j->path);
    if (j->folder < 0)
        return fail(sentence, -errno, "journal: %.300s: %s", j->path, strerror(errno));
    if (j->files->lock(j->folder) == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        return fail(sentence, -EWOULDBLOCK,
                    "journal: another process uses %.300s: stop that broker, or name another "
                    "directory",
                    j->path);
    return fail(sentence, -errno, "journal: %.300s cannot be locked: %s", j->path, strerror(errno));
}

/* Bytes of a segment; what cannot be read, or is not there, is zeros. */
static int load(void *context, uint32_t slot, uint32_t offset, uint32_t size, uint8_t *to)
{
    struct journal *j = context;
    enum { PIECE = 4096 };

    for (uint32_t done = 0; done < size;) {
        ssize_t n =
            j->files->pread(j->slots[slot].fd, to + done, size - done, (off_t)offset + done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0) {
            memset(to + done, 0, size - done);
            break;
        }
        if (n < 0) {
            n = size - done < PIECE ? size - done : PIECE;
            memset(to + done, 0, (size_t)n);
        }
        done += (uint32_t)n;
    }
    return 0;
}

/* Its header, or the copy at its end. RECORD_OK or what is wrong with it. */
static int find_header(struct journal *j, uint32_t slot, struct record_header *out)
{
    uint8_t bytes[RECORD_HEADER_SIZE];
    uint32_t size = j->slots[slot].file_size;
    int outcome;

    load(j, slot, 0, sizeof(bytes), bytes);
    outcome = record_get_header(bytes, out);
    if (outcome == RECORD_OK || outcome == RECORD_E_LAYOUT || size < 2 * RECORD_HEADER_SIZE)
        return outcome;
    load(j, slot, size - RECORD_HEADER_SIZE, sizeof(bytes), bytes);
    if (record_get_header(bytes, out) == RECORD_OK)
        return RECORD_OK;
    return outcome;
}

static int open_segment(struct journal *j, uint32_t slot, char *sentence)
{
    struct slot *s = &j->slots[slot];
    char name[RECORD_NAME_MAX];
    off_t size;

    record_segment_name(name, slot);
    s->fd = j->files->open(j->folder, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0);
    if (s->fd < 0 && errno == ENOENT)
        return 0;
    if (s->fd < 0)
        return fail(sentence, -errno, "journal: %.300s/%s: %s", j->path, name, strerror(errno));
    size = j->files->size(s->fd);
    if (size < 0 || size > UINT32_MAX)
        return fail(sentence, -EINVAL, "journal: %.300s/%s is not a segment: move it away", j->path,
                    name);
    s->file_size = (uint32_t)size;
    s->state = SLOT_IDLE;
    journal_count_file(j, slot, 1);
    if (find_header(j, slot, &s->header) == RECORD_E_LAYOUT)
        return fail(sentence, -EPROTO,
                    "journal: %.300s/%s was written by another version of mqbroker: use that one, "
                    "or name another directory",
                    j->path, name);
    return 0;
}

static int open_segments(struct journal *j, char *sentence)
{
    int r = 0;

    for (uint32_t slot = 0; slot < RECORD_SLOTS_MAX && r == 0; slot++)
        r = open_segment(j, slot, sentence);
    return r;
}

int journal_open(struct journal **out, const struct journal_settings *settings,
                 char sentence[JOURNAL_SENTENCE])
{
    struct journal *j;
    int r = check_settings(settings, sentence);

    *out = NULL;
    if (r < 0)
        return r;
    j = calloc(1, sizeof(*j));
    if (j == NULL)
        return fail(sentence, -ENOMEM, "journal: no memory");
    j->files = settings->files != NULL ? settings->files : &system_files;
    j->segment_size = (uint32_t)settings->segment_size;
    j->n_slots = (uint32_t)(settings->total_size / settings->segment_size);
    j->n_ready =
        (uint32_t)((settings->ready_size + settings->segment_size - 1) / settings->segment_size);
    if (j->n_ready < JOURNAL_READY)
        j->n_ready = JOURNAL_READY;
    j->sync = settings->sync;
    j->interval = settings->interval;
    j->folder = -1;
    j->gather = &j->jobs[0];
    for (uint32_t i = 0; i < RECORD_SLOTS_MAX; i++)
        j->slots[i] = SLOT_NOTHING;
    r = enter_folder(j, settings, sentence);
    if (r == 0)
        r = open_segments(j, sentence);
    if (r == 0) {
        r = scribe_init(&j->scribe, j->files, j->folder);
        if (r < 0)
            fail(sentence, r, "journal: %s", strerror(-r));
    }
    if (r < 0)
        journal_close(j);
    else
        *out = j;
    return r;
}

/* ---- Reading ---- */

struct reading {
    struct journal *j;
    const struct journal_reader *reader;
    struct survivors survivors;
};

static void report(struct reading *reading, const char *what)
{
    char sentence[JOURNAL_SENTENCE];

    reading->j->figures.damages++;
    if (reading->reader == NULL || reading->reader->damage == NULL)
        return;
    snprintf(sentence, sizeof(sentence), "journal %.300s: %.190s", reading->j->path, what);
    reading->reader->damage(reading->reader->context, sentence);
}

static void take_damage(void *context, const struct history_damage *damage)
{
    char what[JOURNAL_SENTENCE];

    history_sentence(what, sizeof(what), damage);
    report(context, what);
}

static int load_segment(void *context, uint32_t slot, uint32_t offset, uint32_t size, uint8_t *to)
{
    return load(((struct reading *)context)->j, slot, offset, size, to);
}

static int take_record(void *context, const struct history_segment *segment, uint32_t offset,
                       const struct record *record)
{
    struct reading *reading = context;
    struct slot *s = &reading->j->slots[segment->header.slot];

    if (record->age > reading->j->highest)
        reading->j->highest = record->age;
    if (slot_make_weights(s) < 0)
        return -ENOMEM;
    if (record_is_thing(record->kind))
        slot_weigh(s, offset, record_room(record->size));
    return survivors_record(&reading->survivors, record,
                            record_location(segment->header.slot, offset));
}

/* Is there nothing but zeros between the headers? Then its making was interrupted. */
static bool is_blank(struct journal *j, uint32_t slot)
{
    uint8_t bytes[4096];
    uint32_t end = j->slots[slot].file_size;
    bool blank = true;

    for (uint32_t at = RECORD_HEADER_SIZE; at < end && blank; at += sizeof(bytes)) {
        uint32_t left = end - at - (end - at > RECORD_HEADER_SIZE ? RECORD_HEADER_SIZE : 0);
        uint32_t size = left < sizeof(bytes) ? left : sizeof(bytes);

        load(j, slot, at, size, bytes);
        for (uint32_t i = 0; i < size && blank; i++)
            blank = bytes[i] == 0;
    }
    return blank;
}

static void report_header(struct reading *reading, uint32_t slot, int outcome)
{
    char what[128], name[RECORD_NAME_MAX];

    if (outcome == RECORD_OK || outcome == RECORD_E_EMPTY || is_blank(reading->j, slot))
        return;
    record_segment_name(name, slot);
    snprintf(what, sizeof(what), "%s: its header is damaged (%s): all that it had is lost", name,
             record_outcome_name(outcome));
    report(reading, what);
}

/* A file that is shorter than its header says was cut off, if anything was written to it; else its
 * making was interrupted. */
static void report_cut(struct reading *reading, uint32_t slot, const struct record_header *header)
{
    uint8_t bytes[RECORD_HEADER_SIZE + RECORD_BEGIN_ROOM];
    char what[160], name[RECORD_NAME_MAX];
    struct record record;

    load(reading->j, slot, 0, sizeof(bytes), bytes);
    if (record_get(bytes, header, RECORD_HEADER_SIZE, sizeof(bytes), &record) != RECORD_OK)
        return;
    record_segment_name(name, slot);
    snprintf(what, sizeof(what),
             "%s: it was cut off, %u of %u bytes are there: all that it had is lost", name,
             reading->j->slots[slot].file_size, header->size);
    report(reading, what);
}

/* Those with a header, as history_read() wants them. Damaged ones are reported, and idle. */
static uint32_t list_segments(struct reading *reading, struct history_segment *out)
{
    struct journal *j = reading->j;
    uint32_t n = 0;

    for (uint32_t slot = 0; slot < RECORD_SLOTS_MAX; slot++) {
        struct slot *s = &j->slots[slot];
        int outcome;

        if (s->state == SLOT_NONE)
            continue;
        outcome = find_header(j, slot, &s->header);
        if (outcome == RECORD_OK && s->header.slot == slot && s->header.size <= s->file_size) {
            out[n++] = (struct history_segment){.header = s->header};
            if (s->header.generation > j->generation)
                j->generation = s->header.generation;
            continue;
        }
        if (outcome == RECORD_OK && s->header.slot == slot)
            report_cut(reading, slot, &s->header);
        else
            report_header(reading, slot, outcome);
        s->header = (struct record_header){0};
    }
    return n;
}

/* Was it finished: does it have its header at the end, too? */
static bool is_finished(struct journal *j, const struct slot *s)
{
    uint8_t bytes[RECORD_HEADER_SIZE];
    struct record_header other;

    load(j, s->header.slot, s->header.size - RECORD_HEADER_SIZE, sizeof(bytes), bytes);
    return record_get_header(bytes, &other) == RECORD_OK &&
           other.generation == s->header.generation;
}

/* What each segment is from now on; they are in order of generation. One that is only prepared can
 * be used as it is if all of it was looked at: whoever was killed while it wrote to one instead of
 * another may have left records there, before its BEGIN. */
static int take_roles(struct journal *j, const struct history_segment *segments, uint32_t n,
                      enum history_extent extent)
{
    uint64_t newest = 0; /* that has records */

    for (uint32_t i = 0; i < n; i++) {
        if (segments[i].role != HISTORY_IDLE)
            newest = segments[i].header.generation;
    }
    for (uint32_t i = 0; i < n; i++) {
        const struct history_segment *h = &segments[i];
        struct slot *s = &j->slots[h->header.slot];

        if (h->role == HISTORY_PART) {
            s->state = SLOT_USED;
            s->begin = h->begin;
            s->end = s->synced_end = h->end;
            slot_list_push(&j->used, h->header.slot);
            if (slot_make_weights(s) < 0)
                return -ENOMEM;
        } else if (extent == HISTORY_ALL && h->role == HISTORY_IDLE &&
                   h->header.generation > newest && h->header.size == j->segment_size &&
                   h->header.slot < j->n_slots && is_finished(j, s)) {
            s->state = SLOT_READY;
            slot_list_push(&j->ready, h->header.slot);
        }
    }
    /* How much a segment has, when its records were not read, the next one says. */
    for (uint32_t i = 0; i + 1 < j->used.n; i++) {
        struct slot *s = &j->slots[j->used.slots[i]];
        const struct slot *next = &j->slots[j->used.slots[i + 1]];

        if (s->things == 0 && next->begin.previous == s->header.generation) {
            s->things = next->begin.things;
            s->bytes = next->begin.bytes;
        }
    }
    return 0;
}

/* A process that was killed may not have been told where the disk's refusal led. */
static void take_successors(struct journal *j)
{
    for (uint32_t i = 0; i < j->used.n; i++) {
        const struct slot *s = &j->slots[j->used.slots[i]];
        uint32_t other = s->begin.instead - 1;

        if (s->begin.instead == 0 || other >= RECORD_SLOTS_MAX ||
            j->slots[other].header.generation > s->header.generation)
            continue;
        j->slots[other].successor = (int)s->header.slot;
        j->slots[other].succeeded_from = s->begin.start;
        j->relocated = true;
    }
}

static void take_idle(struct journal *j, const struct history_segment *segments, uint32_t n)
{
    for (uint32_t slot = 0; slot < RECORD_SLOTS_MAX; slot++) {
        if (j->slots[slot].state == SLOT_IDLE && j->slots[slot].header.generation == 0)
            slot_list_push(&j->idle, slot);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (j->slots[segments[i].header.slot].state == SLOT_IDLE)
            slot_list_push(&j->idle, segments[i].header.slot);
    }
}

static int read_history(struct reading *reading, enum history_extent extent)
{
    struct journal *j = reading->j;
    struct history_segment *segments = calloc(RECORD_SLOTS_MAX, sizeof(*segments));
    const struct history_reader reader = {
        .load = load_segment,
        .record = take_record,
        .damage = take_damage,
        .context = reading,
    };
    uint32_t n;
    int r;

    if (segments == NULL)
        return -ENOMEM;
    n = list_segments(reading, segments);
    r = history_read(segments, n, extent, &reader);
    if (r == 0)
        r = take_roles(j, segments, n, extent);
    if (r == 0) {
        take_idle(j, segments, n);
        if (extent == HISTORY_LAST)
            take_successors(j);
    }
    free(segments);
    return r;
}

static int sync_found(struct journal *j)
{
    for (uint32_t i = 0; i < j->used.n; i++) {
        if (j->files->fdatasync(j->slots[j->used.slots[i]].fd) < 0)
            return -errno;
    }
    return 0;
}

/* A fresh segment to write to. */
static int make_now(struct journal *j)
{
    struct scribe_making making;
    int r = 0;

    if (j->ready.n == 0) {
        if (!journal_choose_making(j, true, &making))
            return -ENOSPC;
        do
            r = scribe_make(j->files, j->folder, &making);
        while (r == 1);
        journal_made(j, &making);
    }
    return r < 0 ? r : journal_begin_segment(j);
}

/* Begin to write: in a fresh segment, or where the last one ends. */
static int begin(struct journal *j, bool fresh, char *sentence)
{
    int r = sync_found(j);

    if (r < 0)
        return fail(sentence, r, "journal: %.300s: what is there cannot be synced: %s", j->path,
                    strerror(-r));
    if (j->used.n > 0)
        j->synced_position =
            record_position(journal_current(j)->header.generation, journal_current(j)->end);
    if (fresh || j->used.n == 0)
        r = make_now(j);
    if (r < 0)
        return fail(sentence, r, "journal: %.300s: no segment can be made: %s", j->path,
                    strerror(-r));
    r = scribe_start(&j->scribe);
    if (r < 0)
        return fail(sentence, r, "journal: no thread: %s", strerror(-r));
    j->running = true;
    journal_order(j);
    return 0;
}

/* ---- Things that live ---- */

/* The first bytes of a record. */
static int load_bytes(struct journal *j, const struct survivor *thing, uint8_t *to)
{
    uint32_t size = thing->size < JOURNAL_READ_MAX ? thing->size : JOURNAL_READ_MAX;

    return load(j, record_slot(thing->location), record_offset(thing->location) + RECORD_HEAD_SIZE,
                size, to);
}

static int tell_thing(struct reading *reading, const struct survivor *thing, uint8_t *bytes)
{
    struct record record = {
        .age = thing->age,
        .owner = thing->owner,
        .when = thing->when,
        .kind = thing->kind,
        .level = thing->level,
        .flags = thing->flags,
        .tries = thing->tries,
        .size = thing->size,
    };
    struct journal *j = reading->j;

    journal_keep(j, thing->location);
    if (thing->kind != RECORD_PUT) {
        load_bytes(j, thing, bytes);
        record.bytes = bytes;
    }
    return reading->reader->thing(reading->reader->context, &record, thing->location);
}

static int tell_things(struct reading *reading)
{
    uint8_t *bytes = malloc(JOURNAL_READ_MAX);
    int r = bytes == NULL ? -ENOMEM : survivors_settle(&reading->survivors);

    for (size_t i = 0; i < reading->survivors.n && r == 0; i++)
        r = tell_thing(reading, &reading->survivors.list[i], bytes);
    free(bytes);
    return r;
}

int journal_scan(struct journal *j, const struct journal_reader *reader, uint64_t *highest,
                 char sentence[JOURNAL_SENTENCE])
{
    struct reading reading = {.j = j, .reader = reader};
    int r;

    survivors_init(&reading.survivors);
    r = read_history(&reading, HISTORY_ALL);
    if (r == 0)
        r = tell_things(&reading);
    if (reading.survivors.highest > j->highest)
        j->highest = reading.survivors.highest;
    survivors_deinit(&reading.survivors);
    *highest = j->highest;
    if (r < 0)
        return fail(sentence, r, "journal: %.300s cannot be read: %s", j->path, strerror(-r));
    return begin(j, true, sentence);
}

int journal_continue(struct journal *j, const struct journal_reader *reader,
                     char sentence[JOURNAL_SENTENCE])
{
    struct reading reading = {.j = j, .reader = reader};
    int r;

    survivors_init(&reading.survivors);
    r = read_history(&reading, HISTORY_LAST);
    survivors_deinit(&reading.survivors);
    if (r < 0)
        return fail(sentence, r, "journal: %.300s cannot be read: %s", j->path, strerror(-r));
    return begin(j, false, sentence);
}
