/* The helper thread.
 *
 * Records are put together in a buffer and written in runs as long as possible: one pwrite and one
 * fdatasync is what a commit costs. (Opened with O_DSYNC, a file takes as long to write, and a
 * commit of several writes much longer.) A record that is larger than the buffer is written in
 * pieces, its head last: before that is there, nothing is. What a client's pool is to supply may
 * be gone by now: then the record becomes a VOID of the same length, for its place in the segment
 * is given out.
 *
 * A job either succeeds as a whole or says why not: the owner decides what then (rule J3). Nothing
 * is tried twice here, but what was interrupted or written in part.
 *
 * A segment in making is filled a piece at a time, each synced, and jobs go first: who waits for a
 * commit waits for one piece at most, and for none if there are segments enough; then the next one
 * is made while nobody has a job. Zeros are really written, so that later syncs need write no
 * metadata. */
#include "broker/scribe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "broker/journal-fault.h"

enum {
#ifdef JOURNAL_FAULTS /* small, so that tests reach what is larger */
    STAGE_SIZE = 4 << 10,
    WINDOW_SIZE = 256,
    FILL_STEP = 48 << 10,
#else
    STAGE_SIZE = 1 << 20,
    WINDOW_SIZE = 64 << 10,
    FILL_STEP = 256 << 10,
#endif
    READ_AT_ONCE = 4096, /* of a record whose size is not known yet */
    GAP_MAX = 128,       /* bytes between two sources that are read with them */
    IDLE = 20000000,     /* nanoseconds without a job */
    SECOND = 1000000000,
};

/* ---- Jobs ---- */

void scribe_job_clear(struct scribe_job *job)
{
    job->n_bytes = 0;
    job->n_entries = 0;
    job->source_bytes = 0;
    job->n_files = 0;
    job->n_reads = 0;
    job->n_read_bytes = 0;
    job->result = 0;
    job->unrescued = 0;
    job->n_syncs = 0;
    job->sync = false;
}

void scribe_job_deinit(struct scribe_job *job)
{
    free(job->bytes);
    free(job->entries);
    free(job->files);
    free(job->read_bytes);
    memset(job, 0, sizeof(*job));
}

/* ---- All of it, or an error ---- */

static int write_all(const struct journal_files *files, int fd, const uint8_t *from, size_t size,
                     uint64_t offset)
{
    while (size > 0) {
        ssize_t n = files->pwrite(fd, from, size, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        from += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

/* -ENODATA: the file ends before. */
static int read_all(const struct journal_files *files, int fd, uint8_t *to, size_t size,
                    uint64_t offset)
{
    while (size > 0) {
        ssize_t n = files->pread(fd, to, size, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -ENODATA;
        to += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int sync_file(const struct journal_files *files, int fd)
{
    int r;

    if (JOURNAL_FAULT(JOURNAL_FAULT_NO_SYNC))
        return 0;
    do
        r = files->fdatasync(fd);
    while (r < 0 && errno == EINTR);
    if (r < 0 && JOURNAL_FAULT(JOURNAL_FAULT_SYNC_AGAIN))
        r = files->fdatasync(fd);
    return r < 0 ? -errno : 0;
}

/* ---- Writing ---- */

/* What was read of a source, and of those behind it. */
struct window {
    int fd; /* -1: nothing */
    uint64_t from;
    uint64_t to;
};

/* What is put together: `used` bytes of the stage belong at `offset` of the file. */
struct run {
    const struct scribe *scribe;
    const struct scribe_job *job;
    const struct scribe_file *file;
    uint64_t offset;
    size_t used;
    struct window window;
};

static int flush(struct run *run)
{
    size_t size = run->used;

    run->used = 0;
    return size == 0 ? 0
                     : write_all(run->scribe->files, run->file->fd, run->scribe->stage, size,
                                 run->offset);
}

/* `room` bytes of the stage for what belongs at `offset`, which must not be more than it has. */
static int reserve(struct run *run, uint32_t offset, uint32_t room, uint8_t **out)
{
    int r = 0;

    if (run->used > 0 && (run->offset + run->used != offset || room > STAGE_SIZE - run->used))
        r = flush(run);
    if (run->used == 0)
        run->offset = offset;
    *out = run->scribe->stage + run->used;
    run->used += room;
    return r;
}

/* The head of a record whose bytes follow it in memory, with its checksum. */
static void seal(const struct run *run, uint8_t *head, const struct record *record, uint32_t offset)
{
    const struct record_header *header = &run->file->header;

    record_put_head(head, record, header, offset, run->job->synced);
    record_put_crc(
        head, record_crc(record_crc_begin(head, header), head + RECORD_HEAD_SIZE, record->size));
}

/* A record with all of its bytes; it fits the stage. */
static int put_whole(struct run *run, const struct record *record, const uint8_t *bytes,
                     uint32_t offset)
{
    uint32_t room = record_room(record->size);
    uint8_t *to;
    int r = reserve(run, offset, room, &to);

    if (r < 0)
        return r;
    memset(to + room - RECORD_UNIT, 0, RECORD_UNIT); /* what is behind its end */
    if (bytes != NULL)
        memcpy(to + RECORD_HEAD_SIZE, bytes, record->size);
    else
        memset(to + RECORD_HEAD_SIZE, 0, record->size);
    seal(run, to, record, offset);
    return 0;
}

static struct record void_record(uint32_t size)
{
    return (struct record){.kind = RECORD_VOID, .size = size};
}

/* Is it beside what the window is to show already, and small enough? Then that too. */
static bool widen(struct window *w, const struct scribe_entry *entry)
{
    uint64_t from = entry->source_offset, to = from + entry->source_size;
    bool above = from >= w->to && from - w->to <= GAP_MAX;
    bool below = to <= w->from && w->from - to <= GAP_MAX;

    if (above && to - w->from <= WINDOW_SIZE)
        w->to = to;
    else if (below && w->to - from <= WINDOW_SIZE)
        w->from = from;
    else
        return false;
    return true;
}

/* Payloads that were published one after the other mostly lie beside each other in their pool, in
 * this order or in the opposite one: one read brings many. If that fails, each is read by itself,
 * or it would be lost with another. */
static bool see(struct run *run, const struct scribe_entry *entry)
{
    const struct scribe_entry *end = run->job->entries + run->job->n_entries, *next = entry + 1;
    struct window *w = &run->window;
    uint64_t from = entry->source_offset, to = from + entry->source_size;

    if (w->fd == entry->source_fd && from >= w->from && to <= w->to)
        return true;
    *w = (struct window){.fd = -1, .from = from, .to = to};
    while (next < end && next->source_size > 0 && next->source_fd == entry->source_fd &&
           widen(w, next))
        next++;
    if (next == entry + 1 || read_all(run->scribe->files, entry->source_fd, run->scribe->window,
                                      w->to - w->from, w->from) < 0)
        return false;
    w->fd = entry->source_fd;
    return true;
}

static int read_source(struct run *run, const struct scribe_entry *entry, uint8_t *to)
{
    if (!see(run, entry))
        return read_all(run->scribe->files, entry->source_fd, to, entry->source_size,
                        entry->source_offset);
    memcpy(to, run->scribe->window + (entry->source_offset - run->window.from), entry->source_size);
    return 0;
}

/* One that fits the stage; its source is read into that. */
static int put_staged(struct run *run, struct scribe_entry *entry)
{
    uint32_t room = record_room(entry->record.size);
    struct record nothing = void_record(entry->record.size);
    uint8_t *to, *source;
    int r = reserve(run, entry->offset, room, &to);

    if (r < 0)
        return r;
    memset(to + room - RECORD_UNIT, 0, RECORD_UNIT);
    source = to + RECORD_HEAD_SIZE + entry->size;
    if (entry->size > 0)
        memcpy(to + RECORD_HEAD_SIZE, run->job->bytes + entry->at, entry->size);
    if (entry->source_size > 0)
        entry->result = read_source(run, entry, source);
    if (entry->result < 0)
        memset(to + RECORD_HEAD_SIZE, 0, entry->record.size);
    seal(run, to, entry->result < 0 ? &nothing : &entry->record, entry->offset);
    return 0;
}

/* `size` bytes of the source, or zeros, are written at `offset`; *crc goes on over them. -ENODATA
 * and the like: entry->result, and it is to be begun again. */
static int stream(struct run *run, struct scribe_entry *entry, uint64_t offset, uint32_t size,
                  uint32_t *crc)
{
    uint8_t *stage = run->scribe->stage;
    bool zeros = entry->result < 0;
    int r = 0;

    if (zeros)
        memset(stage, 0, STAGE_SIZE);
    for (uint32_t done = 0, piece; done < size && r == 0; done += piece) {
        piece = size - done < STAGE_SIZE ? size - done : STAGE_SIZE;
        if (!zeros)
            entry->result = read_all(run->scribe->files, entry->source_fd, stage, piece,
                                     entry->source_offset + done);
        if (!zeros && entry->result < 0)
            return 0;
        *crc = record_crc(*crc, stage, piece);
        r = write_all(run->scribe->files, run->file->fd, stage, piece, offset + done);
    }
    return r;
}

/* One that does not: pieces, and then its head. */
static int put_large(struct run *run, struct scribe_entry *entry)
{
    const struct scribe_file *file = run->file;
    const uint8_t *bytes = run->job->bytes + entry->at;
    uint8_t head[RECORD_HEAD_SIZE];
    uint64_t behind = (uint64_t)entry->offset + RECORD_HEAD_SIZE + entry->size;
    struct record nothing = void_record(entry->record.size);
    uint32_t crc;
    int r = flush(run);

    if (r < 0)
        return r;
    record_put_head(head, &entry->record, &file->header, entry->offset, run->job->synced);
    crc = record_crc(record_crc_begin(head, &file->header), bytes, entry->size);
    r = stream(run, entry, behind, entry->source_size, &crc);
    if (r == 0 && entry->result == 0)
        r = write_all(run->scribe->files, file->fd, bytes, entry->size,
                      entry->offset + RECORD_HEAD_SIZE);
    if (r == 0 && entry->result < 0) {
        record_put_head(head, &nothing, &file->header, entry->offset, run->job->synced);
        crc = record_crc_begin(head, &file->header);
        r = stream(run, entry, entry->offset + RECORD_HEAD_SIZE, nothing.size, &crc);
    }
    record_put_crc(head, crc);
    return r < 0 ? r : write_all(run->scribe->files, file->fd, head, sizeof(head), entry->offset);
}

static int put_entry(struct run *run, struct scribe_entry *entry)
{
    entry->result = 0;
    if (record_room(entry->record.size) <= STAGE_SIZE)
        return put_staged(run, entry);
    return put_large(run, entry);
}

static int put_begin(struct run *run)
{
    uint8_t bytes[RECORD_BEGIN_SIZE];
    struct record record = {
        .kind = RECORD_BEGIN,
        .age = run->file->highest,
        .size = sizeof(bytes),
    };

    record_put_begin(bytes, &run->file->begin);
    return put_whole(run, &record, bytes, RECORD_HEADER_SIZE);
}

/* ---- Rescue ---- */

/* A record that lies in memory, larger than the stage or not. */
static int put_again(struct run *run, const struct record *record, uint32_t offset)
{
    uint8_t head[RECORD_HEAD_SIZE];
    int r;

    if (record_room(record->size) <= STAGE_SIZE)
        return put_whole(run, record, record->bytes, offset);
    r = flush(run);
    if (r == 0)
        r = write_all(run->scribe->files, run->file->fd, record->bytes, record->size,
                      offset + RECORD_HEAD_SIZE);
    record_put_head(head, record, &run->file->header, offset, run->job->synced);
    record_put_crc(
        head, record_crc(record_crc_begin(head, &run->file->header), record->bytes, record->size));
    return r < 0 ? r : write_all(run->scribe->files, run->file->fd, head, sizeof(head), offset);
}

/* What was written to the other segment, and perhaps never got to the disk: most likely it is still
 * in the page cache. What is not is a gap, which a VOID bridges. */
static int rescue(struct run *run, struct scribe_job *job)
{
    const struct scribe_file *file = run->file;
    uint32_t offset = file->rescue_from, to = file->rescue_to;
    uint8_t *old = calloc(1, to);
    int r = 0;

    if (old == NULL)
        return -ENOMEM;
    if (read_all(run->scribe->files, file->rescue_fd, old + offset, to - offset, offset) < 0)
        memset(old + offset, 0, to - offset);
    while (offset < to && r == 0) {
        struct record record;
        uint32_t gap = offset;

        if (record_get(old, &file->rescue, offset, to, &record) == RECORD_OK) {
            r = put_again(run, &record, offset);
            offset += record_room(record.size);
            continue;
        }
        do
            gap += RECORD_UNIT;
        while (gap < to && record_get(old, &file->rescue, gap, to, &record) != RECORD_OK);
        memset(old + offset, 0, gap - offset);
        record = void_record(gap - offset - RECORD_HEAD_SIZE);
        record.bytes = old + offset + RECORD_HEAD_SIZE;
        r = put_again(run, &record, offset);
        offset = gap;
        job->unrescued++;
    }
    free(old);
    return r;
}

/* ---- Commit ---- */

static int write_file(struct scribe *s, struct scribe_job *job, const struct scribe_file *file,
                      uint32_t *entry)
{
    struct run run = {.scribe = s, .job = job, .file = file, .window.fd = -1};
    bool instead = file->begins && file->begin.instead != 0;
    int r = 0;

    if (file->begins && !instead)
        r = put_begin(&run);
    if (r == 0 && file->rescue_fd >= 0)
        r = rescue(&run, job);
    while (r == 0 && *entry < job->n_entries && job->entries[*entry].slot == file->header.slot)
        r = put_entry(&run, &job->entries[(*entry)++]);
    if (r == 0)
        r = flush(&run);
    if (r == 0 && instead) { /* until now, what is in the other segment counts */
        r = put_begin(&run);
        if (r == 0)
            r = flush(&run);
    }
    return r;
}

static int sync_files(struct scribe *s, struct scribe_job *job)
{
    int r = 0;

    for (uint32_t i = 0; i < job->n_files && r == 0; i++) {
        r = sync_file(s->files, job->files[i].fd);
        job->n_syncs++;
    }
    return r;
}

static int commit(struct scribe *s, struct scribe_job *job)
{
    uint32_t entry = 0;
    int r = 0;

    job->n_syncs = 0;
    job->unrescued = 0;
    if (JOURNAL_FAULT(JOURNAL_FAULT_SYNC_FIRST) && job->sync)
        r = sync_files(s, job);
    for (uint32_t i = 0; i < job->n_files && r == 0; i++)
        r = write_file(s, job, &job->files[i], &entry);
    if (r == 0 && job->sync && !JOURNAL_FAULT(JOURNAL_FAULT_SYNC_FIRST))
        r = sync_files(s, job);
    return r;
}

/* ---- Reading back ---- */

/* `size` bytes more in job.read_bytes; they may move. */
static int grow_reads(struct scribe_job *job, size_t size)
{
    size_t capacity = job->read_capacity == 0 ? READ_AT_ONCE : job->read_capacity;
    uint8_t *bytes;

    while (size > capacity - job->n_read_bytes)
        capacity *= 2;
    if (capacity == job->read_capacity)
        return 0;
    bytes = realloc(job->read_bytes, capacity);
    if (bytes == NULL)
        return -ENOMEM;
    job->read_bytes = bytes;
    job->read_capacity = capacity;
    return 0;
}

/* The checksum of `size` bytes from `offset` of the file on. */
static int crc_on(struct scribe *s, int fd, uint64_t offset, uint32_t size, uint32_t *crc)
{
    int r = 0;

    for (uint32_t done = 0, piece; done < size && r == 0; done += piece) {
        piece = size - done < STAGE_SIZE ? size - done : STAGE_SIZE;
        r = read_all(s->files, fd, s->stage, piece, offset + done);
        *crc = record_crc(*crc, s->stage, piece);
    }
    return r;
}

static int read_record(struct scribe *s, struct scribe_job *job, struct scribe_read *read)
{
    uint32_t offset = record_offset(read->location);
    uint32_t limit = read->header.size - RECORD_HEADER_SIZE;
    uint32_t piece, kept, crc;
    uint8_t *bytes;
    int r;

    if (offset >= limit)
        return -EBADMSG;
    piece = limit - offset < READ_AT_ONCE ? limit - offset : READ_AT_ONCE;
    r = grow_reads(job, RECORD_HEAD_SIZE + JOURNAL_READ_MAX);
    if (r < 0)
        return r;
    bytes = job->read_bytes + job->n_read_bytes;
    r = read_all(s->files, read->fd, bytes, piece, offset);
    if (r < 0)
        return r;
    if (record_get_head(bytes, &read->header, offset, limit, &read->record) != RECORD_OK)
        return -EBADMSG;
    kept = read->record.size < JOURNAL_READ_MAX ? read->record.size : JOURNAL_READ_MAX;
    if (RECORD_HEAD_SIZE + kept > piece)
        r = read_all(s->files, read->fd, bytes + piece, RECORD_HEAD_SIZE + kept - piece,
                     (uint64_t)offset + piece);
    if (r < 0)
        return r;
    crc = record_crc(record_crc_begin(bytes, &read->header), bytes + RECORD_HEAD_SIZE, kept);
    r = crc_on(s, read->fd, (uint64_t)offset + RECORD_HEAD_SIZE + kept, read->record.size - kept,
               &crc);
    if (r < 0 || crc != record_head_crc(bytes))
        return r < 0 ? r : -EBADMSG;
    read->at = job->n_read_bytes + RECORD_HEAD_SIZE;
    job->n_read_bytes += RECORD_HEAD_SIZE + kept;
    return 0;
}

static int copy_record(struct scribe *s, const struct scribe_read *read)
{
    uint64_t from = (uint64_t)record_offset(read->location) + RECORD_HEAD_SIZE + read->offset;
    int r = 0;

    for (uint32_t done = 0, piece; done < read->size && r == 0; done += piece) {
        piece = read->size - done < STAGE_SIZE ? read->size - done : STAGE_SIZE;
        r = read_all(s->files, read->fd, s->stage, piece, from + done);
        if (r == 0)
            r = write_all(s->files, read->to_fd, s->stage, piece, read->to + done);
    }
    return r;
}

/* What is written comes first: somebody waits for its confirm. */
static void do_job(struct scribe *s, struct scribe_job *job)
{
    job->result = commit(s, job);
    if (job->result < 0)
        return;
    for (uint32_t i = 0; i < job->n_reads; i++) {
        struct scribe_read *read = &job->reads[i];

        read->result = read->to_fd < 0 ? read_record(s, job, read) : copy_record(s, read);
    }
}

/* ---- Making a segment ---- */

static int put_header(const struct journal_files *files, const struct scribe_making *m,
                      uint32_t offset)
{
    uint8_t bytes[RECORD_HEADER_SIZE];

    record_put_header(bytes, &m->header);
    return write_all(files, m->fd, bytes, sizeof(bytes), offset);
}

/* The next piece of zeros. 1: there are more. */
static int fill(const struct journal_files *files, struct scribe_making *m)
{
    static const uint8_t zeros[FILL_STEP];
    uint32_t left = m->header.size - m->filled;
    uint32_t piece = left < FILL_STEP ? left : FILL_STEP;
    int r = write_all(files, m->fd, zeros, piece, m->filled);

    if (r == 0)
        r = sync_file(files, m->fd);
    m->filled += piece;
    return r < 0 ? r : 1;
}

/* A file that was used before: with its new header, what else is in it is no record any more. So
 * that comes first; only then may its size change, or a later segment be made. */
static int mark(const struct journal_files *files, struct scribe_making *m)
{
    int r = put_header(files, m, 0);

    m->marked = true;
    m->filled = m->size < m->header.size ? m->size : m->header.size;
    if (r == 0)
        r = sync_file(files, m->fd);
    if (r == 0 && m->size > m->header.size && files->truncate(m->fd, m->header.size) < 0)
        r = -errno;
    return r < 0 ? r : 1;
}

/* The two headers are never under way at once in a file that counts. */
static int finish(const struct journal_files *files, int folder, struct scribe_making *m)
{
    int r = put_header(files, m, m->header.size - RECORD_HEADER_SIZE);

    if (r == 0 && !m->marked)
        r = put_header(files, m, 0);
    if (r == 0 && !JOURNAL_FAULT(JOURNAL_FAULT_HEADER_UNSYNCED))
        r = sync_file(files, m->fd);
    if (r == 0 && m->made && !JOURNAL_FAULT(JOURNAL_FAULT_NO_FOLDER_SYNC) &&
        files->fsync(folder) < 0)
        r = -errno;
    return r;
}

static int open_new(const struct journal_files *files, int folder, struct scribe_making *m)
{
    char name[RECORD_NAME_MAX];

    record_segment_name(name, m->header.slot);
    m->fd = files->open(folder, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    m->made = true;
    return m->fd < 0 ? -errno : 1;
}

static int make_step(const struct journal_files *files, int folder, struct scribe_making *m)
{
    if (m->fd < 0)
        return open_new(files, folder, m);
    if (m->size > 0 && !m->marked)
        return mark(files, m);
    if (m->filled < m->header.size)
        return fill(files, m);
    return finish(files, folder, m);
}

/* A full disk is not to be kept full by a file that is of no use. */
static void take_away(const struct journal_files *files, int folder, struct scribe_making *m)
{
    char name[RECORD_NAME_MAX];

    record_segment_name(name, m->header.slot);
    files->close(m->fd);
    files->unlink(folder, name);
    m->fd = -1;
}

int scribe_make(const struct journal_files *files, int folder, struct scribe_making *making)
{
    int r = make_step(files, folder, making);

    if (r < 0 && making->made && making->fd >= 0)
        take_away(files, folder, making);
    making->result = r < 0 ? r : 0;
    return r;
}

/* ---- The thread ---- */

int scribe_init(struct scribe *s, const struct journal_files *files, int folder)
{
    pthread_condattr_t monotonic;

    memset(s, 0, sizeof(*s));
    s->files = files;
    s->folder = folder;
    s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->event_fd < 0)
        return -errno;
    s->stage = malloc(STAGE_SIZE + WINDOW_SIZE);
    if (s->stage == NULL) {
        close(s->event_fd);
        s->event_fd = -1;
        return -ENOMEM;
    }
    s->window = s->stage + STAGE_SIZE;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    return 0;
}

static uint64_t clock_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

static void ring(struct scribe *s)
{
    uint64_t one = 1;

    atomic_store(&s->rung, true);
    while (write(s->event_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* With the mutex held, which is free meanwhile: who is woken by it needs it at once. */
static void tell(struct scribe *s)
{
    pthread_mutex_unlock(&s->mutex);
    ring(s);
    pthread_mutex_lock(&s->mutex);
}

/* When there is something to do that nobody will signal; 0: never. */
static uint64_t next_time(const struct scribe *s)
{
    uint64_t idle_at = s->idle_since + IDLE;

    if (!s->making_active || (s->alarm != 0 && s->alarm < idle_at))
        return s->alarm;
    return idle_at;
}

/* Nothing to do: wait, at most until the alarm. */
static void wait_for_work(struct scribe *s)
{
    uint64_t at = next_time(s);
    struct timespec until = {.tv_sec = (time_t)(at / SECOND), .tv_nsec = (long)(at % SECOND)};

    if (at == 0)
        pthread_cond_wait(&s->wake, &s->mutex);
    else if (pthread_cond_timedwait(&s->wake, &s->mutex, &until) == ETIMEDOUT && at == s->alarm) {
        s->alarm = 0;
        ring(s);
    }
}

/* With the mutex held, which is free while it works. */
static void do_handed(struct scribe *s)
{
    struct scribe_job *job = s->job;

    pthread_mutex_unlock(&s->mutex);
    do_job(s, job);
    pthread_mutex_lock(&s->mutex);
    s->finished = true;
    s->idle_since = clock_now();
    tell(s);
}

static void do_making(struct scribe *s)
{
    int r;

    pthread_mutex_unlock(&s->mutex);
    r = scribe_make(s->files, s->folder, &s->making);
    pthread_mutex_lock(&s->mutex);
    if (r == 1)
        return;
    s->making_active = false;
    s->making_done = true;
    tell(s);
}

/* With the mutex held. */
static bool work(struct scribe *s)
{
    bool job = s->job != NULL && !s->finished;

    if (job)
        do_handed(s);
    if (s->stop || !s->making_active || (s->job != NULL && !s->finished))
        return job;
    if (!s->making.pressing && s->started && clock_now() - s->idle_since < IDLE)
        return job;
    do_making(s);
    return true;
}

bool scribe_work(struct scribe *s)
{
    bool any;

    pthread_mutex_lock(&s->mutex);
    any = work(s);
    pthread_mutex_unlock(&s->mutex);
    return any;
}

int scribe_wait(struct scribe *s)
{
    struct pollfd ready = {.fd = s->event_fd, .events = POLLIN};
    int r;

    if (!s->started)
        return scribe_work(s) ? 0 : -EDEADLK;
    do
        r = poll(&ready, 1, -1);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

static void *run_scribe(void *context)
{
    struct scribe *s = context;

    pthread_mutex_lock(&s->mutex);
    while (!s->stop) {
        if (!work(s))
            wait_for_work(s);
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

/* Signals are the loop's. */
int scribe_start(struct scribe *s)
{
    sigset_t all, before;
    int r;

    if (JOURNAL_BY_HAND)
        return 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&s->thread, NULL, run_scribe, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    s->started = r == 0;
    return -r;
}

void scribe_deinit(struct scribe *s)
{
    if (s->stage == NULL)
        return;
    if (s->started) {
        pthread_mutex_lock(&s->mutex);
        s->stop = true;
        pthread_cond_signal(&s->wake);
        pthread_mutex_unlock(&s->mutex);
        pthread_join(s->thread, NULL);
        s->started = false;
    }
    if (s->making_active && s->making.made && s->making.fd >= 0)
        s->files->close(s->making.fd);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->mutex);
    close(s->event_fd);
    s->event_fd = -1;
    free(s->stage);
    s->stage = NULL;
}

bool scribe_rang(struct scribe *s)
{
    uint64_t rings;

    if (!atomic_load_explicit(&s->rung, memory_order_relaxed) || !atomic_exchange(&s->rung, false))
        return false;
    while (read(s->event_fd, &rings, sizeof(rings)) < 0 && errno == EINTR)
        ;
    return true;
}

void scribe_submit(struct scribe *s, struct scribe_job *job)
{
    pthread_mutex_lock(&s->mutex);
    s->job = job;
    s->finished = false;
    pthread_mutex_unlock(&s->mutex);
    pthread_cond_signal(&s->wake); /* it need not wait for the mutex then */
}

struct scribe_job *scribe_finished(struct scribe *s)
{
    struct scribe_job *job = NULL;

    pthread_mutex_lock(&s->mutex);
    if (s->finished) {
        job = s->job;
        s->job = NULL;
        s->finished = false;
    }
    pthread_mutex_unlock(&s->mutex);
    return job;
}

void scribe_order(struct scribe *s, const struct scribe_making *making)
{
    pthread_mutex_lock(&s->mutex);
    s->making = *making;
    s->making_active = true;
    s->making_done = false;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->mutex);
}

void scribe_press(struct scribe *s)
{
    pthread_mutex_lock(&s->mutex);
    if (!s->making.pressing) {
        s->making.pressing = true;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->mutex);
}

bool scribe_made(struct scribe *s, struct scribe_making *out)
{
    bool done;

    pthread_mutex_lock(&s->mutex);
    done = s->making_done;
    if (done) {
        *out = s->making;
        s->making_done = false;
    }
    pthread_mutex_unlock(&s->mutex);
    return done;
}

void scribe_set_alarm(struct scribe *s, uint64_t at)
{
    pthread_mutex_lock(&s->mutex);
    if (s->alarm != at) {
        s->alarm = at;
        if (at != 0)
            pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->mutex);
}
