/* Appends, commits and what comes of them.
 *
 * Two jobs take turns: one gathers, the other is the scribe's. All that the scribe needs is in the
 * job, all that decides is here, in one thread; so nothing but handing over is locked.
 *
 * When the disk refuses (rule J3), nothing is asked of that segment again: after a failed fdatasync
 * the kernel takes the pages for clean, and a second one would succeed and mean nothing. All that
 * is not known to be synced goes to fresh segments, each record to the same offset there: from
 * memory what the failed job had, from the page cache what was written before it. The spoiled
 * segments are left alone until that is synced. If there are not enough fresh segments, the job is
 * held, and tried again every second; meanwhile nothing is done, and nothing appended. */
#include "broker/journal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/journal-fault.h"
#include "broker/journal-state.h"

enum {
    SECOND = 1000000000,
    GATHER_MUCH = 1 << 20, /* bytes gathered that make it busy */
};

/* ---- Append ---- */

static int grow(void **list, uint32_t *capacity, uint32_t n, size_t size)
{
    uint32_t wanted = *capacity == 0 ? 64 : 2 * *capacity;
    void *more;

    if (n < *capacity)
        return 0;
    more = reallocarray(*list, wanted, size);
    if (more == NULL)
        return -ENOMEM;
    *list = more;
    *capacity = wanted;
    return 0;
}

static int grow_bytes(struct scribe_job *job, size_t size)
{
    size_t capacity = job->capacity == 0 ? 4096 : job->capacity;
    uint8_t *bytes;

    while (size > capacity - job->n_bytes)
        capacity *= 2;
    if (capacity == job->capacity)
        return 0;
    bytes = realloc(job->bytes, capacity);
    if (bytes == NULL)
        return -ENOMEM;
    job->bytes = bytes;
    job->capacity = capacity;
    return 0;
}

static int add_entry(struct journal *j, const struct record *record,
                     const struct journal_source *source)
{
    struct scribe_job *job = j->gather;
    const struct slot *s = journal_current(j);
    uint32_t offset;
    struct scribe_entry entry = {
        .slot = s->header.slot,
        .offset = s->end,
        .record = *record,
        .at = job->n_bytes,
        .size = record->size,
        .source_fd = -1,
    };

    if (source != NULL) {
        entry.record.size += source->size;
        entry.source_fd = source->fd;
        entry.source_offset = source->offset;
        entry.source_size = source->size;
    }
    if (source != NULL && source->fd < 0) {
        const struct slot *from = journal_find(j, source->location, &offset);

        if (from == NULL)
            return -EBADMSG;
        entry.source_fd = from->fd;
        entry.source_offset += offset + RECORD_HEAD_SIZE;
    }
    if (grow((void **)&job->entries, &job->entries_capacity, job->n_entries, sizeof(entry)) < 0 ||
        grow_bytes(job, record->size) < 0)
        return -ENOMEM;
    if (record->size > 0)
        memcpy(job->bytes + job->n_bytes, record->bytes, record->size);
    job->n_bytes += record->size;
    job->source_bytes += entry.source_size;
    job->entries[job->n_entries++] = entry;
    return 0;
}

int journal_append(struct journal *j, const struct record *record,
                   const struct journal_source *source, enum journal_claim claim,
                   uint32_t *location)
{
    uint32_t most = record_size_max(j->segment_size);
    uint32_t more = source != NULL ? source->size : 0;
    uint32_t room;
    struct slot *s;
    int r;

    if (record->size > most || more > most - record->size)
        return -EMSGSIZE;
    if (j->held)
        return -EIO;
    room = record_room(record->size + more);
    if (record_is_thing(record->kind) && room < JOURNAL_THING_MIN)
        return -EINVAL;
    r = journal_find_room(j, room, claim);
    if (r == 0)
        r = add_entry(j, record, source);
    if (r < 0)
        return r;
    s = journal_current(j);
    *location = record_location(s->header.slot, s->end);
    if (record_is_thing(record->kind))
        slot_weigh(s, s->end, room);
    if (record->age > j->highest)
        j->highest = record->age;
    s->end += room;
    j->appended++;
    return 0;
}

bool journal_busy(const struct journal *j)
{
    const struct slot *s = &j->slots[j->used.slots[j->used.n - 1]];

    if (j->gather->n_bytes + j->gather->source_bytes > GATHER_MUCH)
        return true;
    if (j->ready.n > JOURNAL_RESERVE || slot_limit(s) - s->end >= s->header.size / 2)
        return false;
    return journal_has_more_coming(j);
}

uint64_t journal_appended(const struct journal *j)
{
    return j->appended;
}

uint64_t journal_written(const struct journal *j)
{
    return j->written;
}

uint64_t journal_synced(const struct journal *j)
{
    return j->synced;
}

uint64_t journal_done(const struct journal *j)
{
    return j->sync == JOURNAL_ALWAYS ? j->synced : j->written;
}

int journal_trouble(const struct journal *j, const char **sentence)
{
    *sentence = j->trouble == 0 ? NULL : j->sentence;
    return j->trouble;
}

int journal_fd(const struct journal *j)
{
    return j->scribe.event_fd;
}

/* ---- Handing over ---- */

/* The first segment in which something is not known to be synced. */
static uint32_t first_dirty(const struct journal *j)
{
    uint32_t i = j->used.n;

    while (i > 0) {
        const struct slot *s = &j->slots[j->used.slots[i - 1]];

        if (s->end <= s->synced_end)
            break;
        i--;
    }
    return i;
}

static struct scribe_file file_of(const struct journal *j, const struct slot *s)
{
    struct scribe_file file = {
        .fd = s->fd,
        .header = s->header,
        .begins = s->begins,
        .begin = s->begin,
        .highest = j->highest,
        .rescue_fd = -1,
    };

    if (s->rescue >= 0 && !JOURNAL_FAULT(JOURNAL_FAULT_NO_RESCUE)) {
        file.rescue_fd = j->slots[s->rescue].fd;
        file.rescue = j->slots[s->rescue].header;
        file.rescue_from = s->rescue_from;
        file.rescue_to = s->rescue_to;
    }
    return file;
}

/* Where the first entry of a segment in this job is; `none` if it has none. */
static uint32_t first_entry(const struct scribe_job *job, const struct slot *s, uint32_t none)
{
    for (uint32_t i = 0; i < job->n_entries; i++) {
        if (job->entries[i].slot == s->header.slot)
            return job->entries[i].offset;
    }
    return none;
}

/* All that is not synced: what the job writes to, and what it syncs. If it failed before, more may
 * have been gathered since, which is not in it: what is listed is all that the disk has then, and a
 * segment that was begun after it must not begin on disk. */
static int list_files(struct journal *j, struct scribe_job *job)
{
    job->n_files = 0;
    job->synced = j->synced_position;
    for (uint32_t i = first_dirty(j); i < j->used.n; i++) {
        struct slot *s = &j->slots[j->used.slots[i]];

        if (grow((void **)&job->files, &job->files_capacity, job->n_files, sizeof(*job->files)) < 0)
            return -ENOMEM;
        job->files[job->n_files++] = file_of(j, s);
        s->submitted = job == j->gather ? s->end : first_entry(j->gather, s, s->end);
        job->position = record_position(s->header.generation, s->submitted);
        if (s->submitted < s->end)
            break;
    }
    return 0;
}

static bool needs_sync(const struct journal *j, const struct scribe_job *job)
{
    return j->sync == JOURNAL_ALWAYS || j->sync_wanted || job->n_files > 1 ||
           journal_reuse_waits(j) || (j->sync_due != 0 && journal_clock() >= j->sync_due);
}

static bool anything_to_do(const struct journal *j)
{
    if (j->gather->n_entries > 0 || j->gather->n_reads > 0)
        return true;
    if (first_dirty(j) == j->used.n)
        return false;
    return j->sync_wanted || journal_reuse_waits(j) ||
           (j->sync_due != 0 && journal_clock() >= j->sync_due);
}

/* Who waits for something read back is not delayed. */
bool journal_awaits_more(struct journal *j)
{
    if (j->under_way != NULL || j->gather->n_reads > 0 || j->sync != JOURNAL_ALWAYS)
        return false;
    return commit_delay_waits(&j->delay, j->gather->n_entries, journal_clock());
}

void journal_commit(struct journal *j)
{
    struct scribe_job *job = j->gather;

    if (j->under_way != NULL || !anything_to_do(j) || list_files(j, job) < 0)
        return;
    job->sync = needs_sync(j, job);
    job->synced = j->synced_position;
    job->last = j->appended;
    job->position = record_position(journal_current(j)->header.generation, journal_current(j)->end);
    j->under_way = job;
    j->gather = job == &j->jobs[0] ? &j->jobs[1] : &j->jobs[0];
    j->handed_over = journal_clock();
    if (job->n_entries > 0)
        commit_delay_handed(&j->delay, job->n_entries);
    scribe_submit(&j->scribe, job);
}

/* ---- The disk refuses ---- */

static void say_refused(struct journal *j, int result)
{
    j->trouble = result;
    j->refused = true;
    snprintf(j->sentence, sizeof(j->sentence),
             "the disk of the journal %.300s refuses: %s; nothing durable is confirmed until it "
             "takes what waits, which is tried again every second",
             j->path, strerror(-result));
}

/* From where on a segment's records are to be somewhere else. */
static uint32_t first_unsynced(const struct slot *s)
{
    return s->synced_end > s->begin.start ? s->synced_end : s->begin.start;
}

static void rename_in_job(struct scribe_job *job, const struct slot *from, const struct slot *to)
{
    for (uint32_t i = 0; i < job->n_entries; i++) {
        if (job->entries[i].slot == from->header.slot)
            job->entries[i].slot = to->header.slot;
    }
    for (uint32_t i = 0; i < job->n_reads; i++) {
        struct scribe_read *read = &job->reads[i];
        uint32_t offset = record_offset(read->location);

        if (record_slot(read->location) != from->header.slot || offset < to->begin.start)
            continue;
        read->location = record_location(to->header.slot, offset);
        read->fd = to->fd;
        read->header = to->header;
    }
}

/* All of `from` that is not synced is `to`'s from now on. `before` ends where `to` begins; NULL:
 * what was before `from` is before `to`. */
static void replace(struct journal *j, struct slot *from, struct slot *to,
                    const struct slot *before)
{
    uint32_t start = first_unsynced(from);
    uint32_t written = first_entry(j->under_way, from, first_entry(j->gather, from, from->end));

    to->begin = from->begin;
    if (before != NULL) {
        to->begin.previous = before->header.generation;
        to->begin.end = before->end;
        to->begin.things = before->things;
        to->begin.bytes = before->bytes;
    }
    to->begin.start = start;
    to->begin.instead = 1 + from->header.slot;
    to->begins = true;
    to->end = from->end;
    to->rescue = from->rescue;
    to->rescue_from = from->rescue_from;
    to->rescue_to = from->rescue_to;
    if (to->rescue < 0 && written > start) {
        to->rescue = (int)from->header.slot;
        to->rescue_from = start;
        to->rescue_to = written;
    }
    to->state = SLOT_USED;
    to->emptied = j->appended; /* if nothing lives in it, that may not be synced yet */
    from->successor = (int)to->header.slot;
    from->succeeded_from = start;
    slot_move_live(from, to, start);
    rename_in_job(j->under_way, from, to);
    rename_in_job(j->gather, from, to);
}

/* Put fresh segments in the place of the dirty ones, from used.slots[first] on. The first of these
 * stays, up to where it is synced. There are enough. */
static void replace_dirty(struct journal *j, uint32_t first)
{
    uint32_t n = j->used.n - first;
    uint16_t dirty[RECORD_SLOTS_MAX];
    const struct slot *before = NULL;

    memcpy(dirty, j->used.slots + first, n * sizeof(*dirty));
    j->used.n = first;
    for (uint32_t i = 0; i < n; i++) {
        struct slot *from = &j->slots[dirty[i]];
        struct slot *to = &j->slots[slot_list_take(&j->ready, 0)];

        if (from->synced_end > from->begin.start) {
            slot_list_push(&j->used, dirty[i]);
            replace(j, from, to,
                    &(struct slot){.header = from->header,
                                   .end = from->synced_end,
                                   .things = from->things,
                                   .bytes = from->bytes});
            from->end = from->synced_end;
            from->emptied = j->appended;
        } else {
            replace(j, from, to, before);
            from->state = SLOT_SPOILED;
            slot_list_push(&j->spoiled, dirty[i]);
        }
        slot_list_push(&j->used, to->header.slot);
        before = to;
    }
}

static bool make_all_weights(struct journal *j, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (slot_make_weights(&j->slots[j->ready.slots[i]]) < 0)
            return false;
    }
    return true;
}

/* The job under way failed: write all that is not synced to other segments, or hold it. */
static void write_elsewhere(struct journal *j, struct scribe_job *job)
{
    uint32_t first = first_dirty(j);
    uint32_t n = j->used.n - first;

    if (j->ready.n < n || !make_all_weights(j, n)) {
        j->held = true;
        j->held_until = journal_clock() + SECOND;
        say_refused(j, job->result);
        return;
    }
    j->refusal = job->result;
    j->relocated = true;
    replace_dirty(j, first);
    j->held = list_files(j, job) < 0;
    if (j->held)
        return;
    job->sync = true;
    scribe_submit(&j->scribe, job);
}

/* ---- Collecting ---- */

static void mark_written(struct journal *j, const struct scribe_job *job)
{
    for (uint32_t i = 0; i < job->n_files; i++) {
        struct slot *s = &j->slots[job->files[i].header.slot];

        s->begins = false;
        s->rescue = -1;
        if (job->sync)
            s->synced_end = s->submitted;
    }
    j->written = job->last;
    if (!job->sync)
        return;
    j->synced = job->last;
    j->synced_position = job->position;
    j->sync_due = 0;
    j->sync_wanted = false;
}

/* What is elsewhere now is synced there: its owner may know, and the spoiled segments are free. */
static void tell_relocated(struct journal *j, void (*event)(void *, const struct journal_event *),
                           void *context)
{
    for (uint32_t i = 0; i < RECORD_SLOTS_MAX && event != NULL; i++) {
        const struct slot *from = &j->slots[i], *to = from;
        struct journal_event moved = {.type = JOURNAL_RELOCATED, .result = j->refusal};

        if (from->successor < 0)
            continue;
        while (to->successor >= 0)
            to = &j->slots[to->successor];
        moved.location = record_location(i, from->succeeded_from);
        moved.to = record_location(to->header.slot, from->succeeded_from);
        event(context, &moved);
    }
    for (uint32_t i = 0; i < RECORD_SLOTS_MAX; i++)
        j->slots[i].successor = -1;
    while (j->spoiled.n > 0)
        journal_make_idle(j, slot_list_take(&j->spoiled, 0));
    j->relocated = false;
}

static void tell(const struct scribe_job *job, void (*event)(void *, const struct journal_event *),
                 void *context)
{
    for (uint32_t i = 0; i < job->n_entries; i++) {
        const struct scribe_entry *entry = &job->entries[i];
        struct journal_event lost = {
            .type = JOURNAL_LOST,
            .result = entry->result,
            .location = record_location(entry->slot, entry->offset),
            .record = entry->record,
        };

        if (entry->result < 0)
            event(context, &lost);
    }
    for (uint32_t i = 0; i < job->n_reads; i++) {
        const struct scribe_read *read = &job->reads[i];
        struct journal_event done = {
            .type = read->to_fd < 0 ? JOURNAL_READ : JOURNAL_COPIED,
            .result = read->result,
            .tag = read->tag,
            .location = read->location,
            .record = read->record,
        };

        if (read->to_fd < 0 && read->result == 0)
            done.record.bytes = job->read_bytes + read->at;
        event(context, &done);
    }
}

static void finish(struct journal *j, struct scribe_job *job,
                   void (*event)(void *, const struct journal_event *), void *context)
{
    j->figures.syncs += job->n_syncs;
    if (job->result < 0) {
        j->figures.failures++;
        write_elsewhere(j, job);
        return;
    }
    j->figures.commits += job->n_entries > 0;
    if (job->n_entries > 0)
        commit_delay_took(&j->delay, journal_clock() - j->handed_over);
    j->figures.damages += job->unrescued;
    if (j->refused)
        j->trouble = 0;
    j->refused = false;
    mark_written(j, job);
    if (j->relocated && job->sync)
        tell_relocated(j, event, context);
    if (event != NULL)
        tell(job, event, context);
    scribe_job_clear(job);
    j->under_way = NULL;
}

/* What rang may have been the one that was set. */
static void set_alarm(struct journal *j, bool rang)
{
    uint64_t at = j->held ? j->held_until : j->sync_due;

    if (!j->making && j->making_again != 0 && (at == 0 || j->making_again < at))
        at = j->making_again;
    if (at != j->alarm || rang)
        scribe_set_alarm(&j->scribe, at);
    j->alarm = at;
}

bool journal_collect(struct journal *j, void (*event)(void *context, const struct journal_event *),
                     void *context)
{
    struct scribe_making making;
    struct scribe_job *job = NULL;
    bool rang = scribe_rang(&j->scribe);
    bool made = rang && scribe_made(&j->scribe, &making);

    if (made)
        journal_made(j, &making);
    if (rang)
        job = scribe_finished(&j->scribe);
    if (job != NULL)
        finish(j, job, event, context);
    if (j->held && j->under_way != NULL && journal_clock() >= j->held_until) {
        j->held = false;
        write_elsewhere(j, j->under_way);
    }
    if (j->sync == JOURNAL_INTERVAL && j->sync_due == 0 && first_dirty(j) < j->used.n)
        j->sync_due = journal_clock() + j->interval;
    journal_reap(j);
    journal_order(j);
    journal_look_for_room(j);
    if (rang)
        journal_commit(j);
    set_alarm(j, rang);
    return made || job != NULL;
}

/* ---- Read back ---- */

static int add_read(struct journal *j, const struct scribe_read *read)
{
    struct scribe_job *job = j->gather;
    uint32_t offset;
    const struct slot *s = journal_find(j, read->location, &offset);

    if (s == NULL)
        return -EBADMSG;
    if (job->n_reads == JOURNAL_READS)
        return -EAGAIN;
    job->reads[job->n_reads] = *read;
    job->reads[job->n_reads].fd = s->fd;
    job->reads[job->n_reads].header = s->header;
    job->reads[job->n_reads].location = record_location(s->header.slot, offset);
    job->n_reads++;
    return 0;
}

int journal_read(struct journal *j, uint32_t location, uint64_t tag)
{
    return add_read(j, &(struct scribe_read){.location = location, .tag = tag, .to_fd = -1});
}

int journal_copy(struct journal *j, uint32_t location, uint32_t offset, uint32_t size, int fd,
                 uint64_t to, uint64_t tag)
{
    return add_read(j, &(struct scribe_read){.location = location,
                                             .tag = tag,
                                             .to_fd = fd,
                                             .to = to,
                                             .offset = offset,
                                             .size = size});
}

/* ---- The end ---- */

void journal_figures(const struct journal *j, struct journal_figures *out)
{
    *out = j->figures;
    out->bytes_max = (uint64_t)j->n_slots * j->segment_size;
    out->things = j->things;
    out->bytes_live = j->live_bytes;
    out->ready = j->ready.n;
    for (uint32_t i = 0; i < j->used.n; i++)
        out->bytes_used += j->slots[j->used.slots[i]].header.size;
}

/* Until all that was gathered is synced, or the disk refuses. */
static void drain(struct journal *j)
{
    while (j->synced < j->appended && !j->held) {
        j->sync_wanted = true;
        journal_commit(j);
        if (j->under_way == NULL || scribe_wait(&j->scribe) < 0)
            return; /* no memory */
        journal_collect(j, NULL, NULL);
    }
}

/* Its last word: up to here all was synced. Without it, damage to the last commit would be taken
 * for a torn tail. */
static void say_synced(struct journal *j)
{
    struct record mark = {.kind = RECORD_MARK};
    uint32_t location;

    if (j->appended > 0 && j->synced == j->appended &&
        journal_append(j, &mark, NULL, JOURNAL_RESERVED, &location) == 0)
        drain(j);
}

struct journal *journal_close(struct journal *j)
{
    if (j == NULL)
        return NULL;
    if (j->running && !j->held) {
        drain(j);
        if (!j->held)
            say_synced(j);
    }
    scribe_deinit(&j->scribe);
    for (uint32_t i = 0; i < RECORD_SLOTS_MAX; i++) {
        if (j->slots[i].fd >= 0)
            j->files->close(j->slots[i].fd);
        free(j->slots[i].weights);
    }
    scribe_job_deinit(&j->jobs[0]);
    scribe_job_deinit(&j->jobs[1]);
    if (j->folder >= 0)
        j->files->close(j->folder);
    free(j);
    return NULL;
}
