/* The journal's space: which segment is written to, which are made ahead, what lives where, and
 * when a segment is used again.
 *
 * Segments are used again in the order in which they were used. That is what makes ENDs need no
 * care: the END of a thing lies in the same segment as the thing or in a younger one, and when that
 * one's turn comes, the thing's segment is long overwritten. The new header of a segment is synced
 * before the next is made: so after a power loss, too, what is missing is always the oldest.
 *
 * Three segments at least are made ahead; two are a reserve for ENDs and for what is moved.
 * Emptying the oldest takes one at most, and then gives it back. Whether that leads anywhere is
 * computed before: what all segments but the last would gain by being packed anew, at worst, must
 * be a segment.
 *
 * What a thing takes is remembered in two bytes for each 128 of the segment, together with whether
 * it lives: a place names no size, and a thing that lives costs no more memory here than that. */
#include "broker/journal-state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "broker/journal-fault.h"

enum {
    SECOND = 1000000000,
    UNKNOWN_ROOM = 1024, /* what a thing is taken to need if nothing is known */
};

uint64_t journal_clock(void)
{
    struct timespec now;

    if (JOURNAL_BY_HAND)
        return JOURNAL_NOW;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

/* ---- Lists ---- */

void slot_list_push(struct slot_list *list, uint32_t slot)
{
    list->slots[list->n++] = (uint16_t)slot;
}

uint32_t slot_list_take(struct slot_list *list, uint32_t i)
{
    uint32_t slot = list->slots[i];

    list->n--;
    memmove(list->slots + i, list->slots + i + 1, (list->n - i) * sizeof(*list->slots));
    return slot;
}

/* ---- What lives ---- */

/* A weight: 1 lives | 1 coarse | 14 units, of which a coarse one has 64. 0: not known. */
enum { WEIGHT_LIVES = 0x8000, WEIGHT_COARSE = 0x4000, WEIGHT_MAX = 0x3fff, COARSE_UNITS = 64 };

static uint16_t weight_of(uint32_t room)
{
    uint32_t units = room / RECORD_UNIT;

    if (units <= WEIGHT_MAX)
        return (uint16_t)units;
    units = (units + COARSE_UNITS - 1) / COARSE_UNITS;
    return (uint16_t)(WEIGHT_COARSE | (units < WEIGHT_MAX ? units : WEIGHT_MAX));
}

static uint32_t room_of(uint16_t weight)
{
    uint32_t units = weight & WEIGHT_MAX;

    return (weight & WEIGHT_COARSE ? units * COARSE_UNITS : units) * RECORD_UNIT;
}

int slot_make_weights(struct slot *s)
{
    if (s->weights == NULL)
        s->weights = calloc(s->header.size / JOURNAL_THING_MIN, sizeof(*s->weights));
    return s->weights == NULL ? -ENOMEM : 0;
}

void slot_weigh(struct slot *s, uint32_t offset, uint32_t room)
{
    s->weights[offset / JOURNAL_THING_MIN] = weight_of(room);
    s->things++;
    s->bytes += room;
}

struct slot *journal_find(struct journal *j, uint32_t location, uint32_t *offset)
{
    struct slot *s;

    *offset = record_offset(location);
    if (record_slot(location) >= RECORD_SLOTS_MAX)
        return NULL;
    s = &j->slots[record_slot(location)];
    while (s->successor >= 0 && *offset >= s->succeeded_from)
        s = &j->slots[s->successor];
    return s->state == SLOT_USED && *offset >= JOURNAL_START && *offset < s->end ? s : NULL;
}

void journal_keep(struct journal *j, uint32_t location)
{
    uint32_t offset, room;
    struct slot *s = journal_find(j, location, &offset);
    uint16_t *weight = s == NULL ? NULL : &s->weights[offset / JOURNAL_THING_MIN];

    if (weight == NULL || (*weight & WEIGHT_LIVES) != 0)
        return;
    if (*weight == 0) /* appended before the kill: what the others there take on average */
        *weight = weight_of(s->things > 0 ? (uint32_t)(s->bytes / s->things) : UNKNOWN_ROOM);
    room = room_of(*weight);
    *weight |= WEIGHT_LIVES;
    s->live++;
    s->live_bytes += room;
    if (room > s->largest)
        s->largest = room;
    j->things++;
    j->live_bytes += room;
}

void journal_drop(struct journal *j, uint32_t location)
{
    uint32_t offset;
    struct slot *s = journal_find(j, location, &offset);
    uint16_t *weight = s == NULL ? NULL : &s->weights[offset / JOURNAL_THING_MIN];

    if (weight == NULL || (*weight & WEIGHT_LIVES) == 0)
        return;
    *weight &= (uint16_t)~WEIGHT_LIVES;
    s->live--;
    s->live_bytes -= room_of(*weight);
    j->things--;
    j->live_bytes -= room_of(*weight);
    if (s->live == 0)
        s->emptied = j->appended;
}

/* A thing takes two units at least, so none that begins below `offset`, where a record ends, shares
 * a weight with one that begins there. */
void slot_move_live(struct slot *from, struct slot *to, uint32_t offset)
{
    uint32_t n = from->header.size / JOURNAL_THING_MIN;

    for (uint32_t i = offset / JOURNAL_THING_MIN; i < n; i++) {
        uint16_t weight = from->weights[i];

        if (weight == 0)
            continue;
        to->weights[i] = weight;
        from->weights[i] = 0;
        to->things++;
        to->bytes += room_of(weight);
        if ((weight & WEIGHT_LIVES) == 0)
            continue;
        from->live--;
        from->live_bytes -= room_of(weight);
        to->live++;
        to->live_bytes += room_of(weight);
    }
    to->largest = from->largest;
}

/* ---- Making segments ---- */

void journal_count_file(struct journal *j, uint32_t slot, int more)
{
    j->figures.segments += (uint32_t)more;
    if (slot < j->n_slots)
        j->n_files += (uint32_t)more;
}

uint32_t journal_available(const struct journal *j)
{
    uint32_t n = j->ready.n + j->making;

    if (j->making_result == 0)
        n += j->n_slots - j->n_files;
    for (uint32_t i = 0; i < j->idle.n; i++)
        n += j->idle.slots[i] < j->n_slots;
    return n;
}

/* The first slot that has no file; RECORD_SLOTS_MAX: all have. */
static uint32_t find_unmade(const struct journal *j, uint32_t limit)
{
    uint32_t slot = 0;

    while (slot < limit && j->slots[slot].state != SLOT_NONE)
        slot++;
    return slot < limit ? slot : RECORD_SLOTS_MAX;
}

static uint32_t choose_slot(struct journal *j, bool beyond)
{
    for (uint32_t i = 0; i < j->idle.n; i++) {
        if (j->idle.slots[i] < j->n_slots)
            return slot_list_take(&j->idle, i);
    }
    return find_unmade(j, beyond ? RECORD_SLOTS_MAX : j->n_slots);
}

static uint32_t random_seed(void)
{
    uint32_t seed = 0;

    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        seed = (uint32_t)journal_clock() * UINT32_C(2654435761);
    return seed;
}

bool journal_choose_making(struct journal *j, bool beyond, struct scribe_making *out)
{
    uint32_t slot = choose_slot(j, beyond);
    struct slot *s;

    if (slot == RECORD_SLOTS_MAX)
        return false;
    s = &j->slots[slot];
    if (s->state == SLOT_NONE)
        journal_count_file(j, slot, 1);
    s->state = SLOT_MAKING;
    *out = (struct scribe_making){
        .header = {.generation = ++j->generation,
                   .oldest = j->used.n > 0 ? j->slots[j->used.slots[0]].header.generation : 0,
                   .slot = slot,
                   .size = j->segment_size,
                   .seed = random_seed()},
        .fd = s->fd,
        .size = s->file_size,
        .pressing = j->ready.n < JOURNAL_READY,
    };
    j->pressing = out->pressing;
    j->making = true;
    j->making_generation = out->header.generation;
    return true;
}

/* Idle segments that there may not be any more (the settings were changed) go when a newer header
 * says that they are not needed. */
static void remove_surplus(struct journal *j)
{
    for (uint32_t i = 0; i < j->idle.n;) {
        uint32_t slot = j->idle.slots[i];
        struct slot *s = &j->slots[slot];
        char name[RECORD_NAME_MAX];

        if (slot < j->n_slots || s->freed >= j->making_generation) {
            i++;
            continue;
        }
        record_segment_name(name, slot);
        j->files->close(s->fd);
        j->files->unlink(j->folder, name);
        journal_count_file(j, slot, -1);
        *s = SLOT_NOTHING;
        slot_list_take(&j->idle, i);
    }
}

void journal_made(struct journal *j, const struct scribe_making *making)
{
    uint32_t slot = making->header.slot;
    struct slot *s = &j->slots[slot];

    j->making = false;
    j->making_result = making->result;
    s->fd = making->fd;
    if (making->result < 0) {
        j->making_again = journal_clock() + SECOND;
        if (s->fd < 0) { /* there is no file */
            *s = SLOT_NOTHING;
            journal_count_file(j, slot, -1);
        } else {
            journal_make_idle(j, slot);
        }
        return;
    }
    free(s->weights);
    *s = (struct slot){
        .state = SLOT_READY,
        .fd = making->fd,
        .file_size = making->header.size,
        .header = making->header,
        .rescue = -1,
        .successor = -1,
    };
    slot_list_push(&j->ready, slot);
    j->making_again = 0;
    remove_surplus(j);
}

void journal_order(struct journal *j)
{
    struct scribe_making making;

    if (j->making && !j->pressing && j->ready.n < JOURNAL_READY) {
        scribe_press(&j->scribe);
        j->pressing = true;
    }
    if (j->making || j->ready.n >= j->n_ready ||
        (j->making_again != 0 && journal_clock() < j->making_again))
        return;
    if (journal_choose_making(j, false, &making))
        scribe_order(&j->scribe, &making);
}

/* ---- Taking room ---- */

int journal_begin_segment(struct journal *j)
{
    struct slot *s = &j->slots[j->ready.slots[0]];

    if (slot_make_weights(s) < 0)
        return -ENOMEM;
    s->begin = (struct record_begin){.start = JOURNAL_START};
    if (j->used.n > 0) {
        const struct slot *before = journal_current(j);

        s->begin.previous = before->header.generation;
        s->begin.end = before->end;
        s->begin.things = before->things;
        s->begin.bytes = before->bytes;
    }
    s->begins = true;
    s->state = SLOT_USED;
    s->end = s->begin.start;
    slot_list_push(&j->used, slot_list_take(&j->ready, 0));
    if (j->running)
        journal_order(j);
    return 0;
}

/* One that brings the reserve up is none. And after one could not be made, the next is believed
 * when it is there. */
bool journal_has_more_coming(const struct journal *j)
{
    uint32_t n = journal_available(j) + journal_reuse_waits(j);
    uint32_t slot;

    if (j->held)
        return false;
    if (j->making_result == 0 && n > j->ready.n && n > JOURNAL_RESERVE)
        return true;
    return j->ready.n > 0 && journal_wants(j, &slot);
}

void journal_space(const struct journal *j, struct record_space *out)
{
    const struct slot *s = &j->slots[j->used.slots[j->used.n - 1]];

    out->rest = slot_limit(s) - s->end;
    out->segment = record_room(record_size_max(j->segment_size));
    if (journal_has_more_coming(j))
        out->segments = UINT32_MAX;
    else
        out->segments = j->ready.n > JOURNAL_RESERVE ? j->ready.n - JOURNAL_RESERVE : 0;
}

void journal_short_of_room(struct journal *j)
{
    j->trouble = -ENOSPC;
    j->refused = false;
    if (j->making_result < 0)
        snprintf(j->sentence, sizeof(j->sentence),
                 "the journal %.300s cannot grow: %s; make room on its disk, or set journal_size "
                 "lower",
                 j->path, strerror(-j->making_result));
    else
        snprintf(j->sentence, sizeof(j->sentence),
                 "the journal %.300s is full: all of its %llu bytes are in use; acknowledge or "
                 "purge what waits there, or set journal_size higher",
                 j->path, (unsigned long long)j->n_slots * j->segment_size);
}

void journal_look_for_room(struct journal *j)
{
    if (j->trouble == -ENOSPC && !j->refused &&
        (j->ready.n > JOURNAL_RESERVE || journal_has_more_coming(j)))
        j->trouble = 0;
}

int journal_find_room(struct journal *j, uint32_t room, enum journal_claim claim)
{
    static const uint32_t kept[] = {
        [JOURNAL_NEW] = JOURNAL_RESERVE,
        [JOURNAL_TAKEN] = 1,
        [JOURNAL_RESERVED] = 0,
    };
    struct slot *s = journal_current(j);

    if (room <= slot_limit(s) - s->end)
        return 0;
    if (j->ready.n <= (claim == JOURNAL_RESERVED ? 0 : JOURNAL_RESERVE) &&
        journal_has_more_coming(j))
        return -EAGAIN;
    if (j->ready.n > kept[claim])
        return journal_begin_segment(j);
    journal_short_of_room(j);
    return -ENOSPC;
}

/* ---- Using segments again ---- */

void journal_make_idle(struct journal *j, uint32_t slot)
{
    struct slot *s = &j->slots[slot];

    free(s->weights);
    s->weights = NULL;
    s->successor = -1;
    s->state = SLOT_IDLE;
    s->freed = j->generation;
    slot_list_push(&j->idle, slot);
}

static bool may_go(const struct journal *j, uint32_t i)
{
    const struct slot *s = &j->slots[j->used.slots[i]];

    return s->live == 0 && (j->synced >= s->emptied || JOURNAL_FAULT(JOURNAL_FAULT_EARLY_REUSE));
}

void journal_reap(struct journal *j)
{
    while (j->used.n > 1 && may_go(j, 0))
        journal_make_idle(j, slot_list_take(&j->used, 0));
    if (JOURNAL_FAULT(JOURNAL_FAULT_ANY_ORDER)) {
        for (uint32_t i = 1; i + 1 < j->used.n;) {
            if (may_go(j, i))
                journal_make_idle(j, slot_list_take(&j->used, i));
            else
                i++;
        }
    }
}

bool journal_reuse_waits(const struct journal *j)
{
    const struct slot *oldest = &j->slots[j->used.slots[0]];

    return j->used.n > 1 && oldest->live == 0 && j->synced < oldest->emptied &&
           journal_available(j) <= JOURNAL_RESERVE + 1;
}

/* What packing all but the last segment anew would gain at least. A thing that does not fit the
 * rest of a segment leaves that empty: so much is lost at worst. */
static int64_t gain(const struct journal *j)
{
    int64_t sum = 0;

    for (uint32_t i = 0; i + 1 < j->used.n; i++) {
        const struct slot *s = &j->slots[j->used.slots[i]];
        uint64_t lost = s->largest < s->live_bytes ? s->largest : s->live_bytes;

        sum += (int64_t)s->header.size - (int64_t)s->live_bytes - (int64_t)lost;
    }
    return sum;
}

bool journal_wants(const struct journal *j, uint32_t *slot)
{
    if (j->used.n < 2 || journal_available(j) > JOURNAL_RESERVE + 1)
        return false;
    *slot = j->used.slots[0];
    return j->slots[*slot].live > 0 && gain(j) >= (int64_t)j->segment_size;
}
