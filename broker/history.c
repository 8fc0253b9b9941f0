/* Which of the bytes count.
 *
 * Segments form a chain: the first record of each, BEGIN, names the generation before it, and where
 * that ended. So what a torn tail left behind, in that segment or in whole ones after it, is not
 * believed by a later start either, however good it looks. The chain is followed from its newest
 * segment down to the oldest that was still needed.
 *
 * A place where no record can be read is one of two things (rule J1). Every record says up to where
 * the journal was known to be synced when it was written. If any says so of that place, the place
 * was synced and is damaged: it is reported, and reading goes on with the next good record. If none
 * does, it is where writing was interrupted: everything from there on is cut, for what follows may
 * be there in part, in any order. */
#include "broker/history.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/journal-fault.h"

enum {
    NONE = UINT32_MAX,
    START = RECORD_HEADER_SIZE, /* of BEGIN */
};

struct history {
    struct history_segment *segments;
    uint32_t n;
    const struct history_reader *reader;
    uint64_t oldest;  /* no older generation is needed */
    uint32_t *chain;  /* indices of segments, oldest first */
    uint32_t n_chain; /* while it is followed, it is built backwards */
    uint8_t *bytes;   /* of one segment: */
    uint32_t loaded;
};

static struct history_segment *part(const struct history *h, uint32_t i)
{
    return &h->segments[h->chain[i]];
}

/* Where its records end at the latest. */
static uint32_t limit_of(const struct history_segment *s)
{
    return s->header.size - RECORD_HEADER_SIZE;
}

static int load(struct history *h, const struct history_segment *s)
{
    uint32_t index = (uint32_t)(s - h->segments);
    int r;

    if (h->loaded == index)
        return 0;
    h->loaded = NONE;
    r = h->reader->load(h->reader->context, s->header.slot, 0, s->header.size, h->bytes);
    if (r == 0)
        h->loaded = index;
    return r;
}

/* The first good record from `offset` on in the segment that is loaded; `limit` if there is none.
 */
static uint32_t next_good(const struct history *h, const struct history_segment *s, uint32_t offset,
                          uint32_t limit)
{
    struct record record;

    for (; offset < limit; offset += RECORD_UNIT) {
        if (record_get(h->bytes, &s->header, offset, limit, &record) == RECORD_OK)
            return offset;
    }
    return limit;
}

/* Where the record behind this one is. */
static uint32_t step(const struct record *record, uint32_t offset, uint32_t limit)
{
    struct record_begin begin;

    if (record->kind == RECORD_BEGIN && record_get_begin(record, &begin) == RECORD_OK &&
        begin.start > offset && begin.start <= limit && begin.start % RECORD_UNIT == 0)
        return begin.start;
    return offset + record_room(record->size);
}

/* Does a good record of this segment, from `offset` on, say that `position` was synced? */
static bool says_synced(const struct history *h, const struct history_segment *s, uint32_t offset,
                        uint64_t position)
{
    uint32_t limit = limit_of(s);
    struct record record;

    if (JOURNAL_FAULT(JOURNAL_FAULT_NO_SYNCED))
        return false;
    while ((offset = next_good(h, s, offset, limit)) < limit) {
        if (record_head_synced(h->bytes + offset) > position)
            return true;
        record_get(h->bytes, &s->header, offset, limit, &record);
        offset = step(&record, offset, limit);
    }
    return false;
}

/* ---- The chain ---- */

static int compare(const void *left, const void *right)
{
    const struct history_segment *a = left, *b = right;

    return a->header.generation < b->header.generation
               ? -1
               : a->header.generation > b->header.generation;
}

/* Its BEGIN, if that is good. */
static int read_begin(struct history *h, struct history_segment *s)
{
    struct record record;
    int r =
        h->reader->load(h->reader->context, s->header.slot, 0, START + RECORD_BEGIN_ROOM, h->bytes);

    h->loaded = NONE;
    if (r < 0)
        return r;
    s->begun =
        record_get(h->bytes, &s->header, START, START + RECORD_BEGIN_ROOM, &record) == RECORD_OK &&
        record.kind == RECORD_BEGIN && record_get_begin(&record, &s->begin) == RECORD_OK;
    return 0;
}

/* Is there anything in it? Without its BEGIN, it would have to be searched. 1, 0 or -errno. */
static int has_records(struct history *h, struct history_segment *s, enum history_extent extent)
{
    int r = read_begin(h, s);

    if (r < 0 || s->begun || extent == HISTORY_LAST)
        return r < 0 ? r : s->begun;
    r = load(h, s);
    if (r < 0)
        return r;
    return next_good(h, s, START, limit_of(s)) < limit_of(s);
}

static void report_missing(const struct history *h, uint64_t generation)
{
    struct history_damage damage = {
        .generation = generation,
        .slot = RECORD_SLOTS_MAX,
    };

    h->reader->damage(h->reader->context, &damage);
}

/* The segment before this one: its index, NONE if there is none. The one that it names, also if
 * nothing can be read in that: then reading it tells why. If that is not there, the next older one.
 */
static uint32_t find_previous(const struct history *h, uint32_t index)
{
    const struct history_segment *s = &h->segments[index];
    uint64_t wanted = s->begun ? s->begin.previous : s->header.generation - 1;
    uint32_t found = NONE;

    if (wanted == 0 || wanted < h->oldest)
        return NONE;
    for (uint32_t i = index; i-- > 0 && found == NONE;) {
        const struct history_segment *older = &h->segments[i];

        if (older->header.generation == wanted ||
            (older->header.generation < wanted && older->role != HISTORY_IDLE))
            found = i;
    }
    if (s->begun && (found == NONE || h->segments[found].header.generation != wanted))
        report_missing(h, wanted);
    return found;
}

/* Those that have something in them are CUT until the chain reaches them. */
static int follow_chain(struct history *h, enum history_extent extent)
{
    uint32_t newest = NONE;

    for (uint32_t i = 0; i < h->n; i++) {
        struct history_segment *s = &h->segments[i];
        int r = s->header.generation < h->oldest ? 0 : has_records(h, s, extent);

        if (r < 0)
            return r;
        s->role = r > 0 ? HISTORY_CUT : HISTORY_IDLE;
        if (r > 0)
            newest = i;
    }
    for (uint32_t i = newest; i != NONE; i = find_previous(h, i)) {
        h->segments[i].role = HISTORY_PART;
        h->chain[h->n_chain++] = i;
    }
    for (uint32_t i = 0; i < h->n_chain / 2; i++) {
        uint32_t other = h->chain[i];

        h->chain[i] = h->chain[h->n_chain - 1 - i];
        h->chain[h->n_chain - 1 - i] = other;
    }
    return 0;
}

/* ---- Reading ---- */

/* Was this place, in the i-th of the chain, synced? 1, 0 or -errno. The i-th is loaded again. */
static int was_synced(struct history *h, uint32_t i, uint32_t offset)
{
    uint64_t position = record_position(part(h, i)->header.generation, offset);
    bool synced = says_synced(h, part(h, i), offset, position);
    int r = 0;

    for (uint32_t later = i + 1; later < h->n_chain && !synced && r == 0; later++) {
        r = load(h, part(h, later));
        if (r == 0)
            synced = says_synced(h, part(h, later), START, position);
    }
    if (r == 0)
        r = load(h, part(h, i));
    return r < 0 ? r : synced;
}

static void cut(struct history *h, uint32_t i)
{
    for (uint32_t later = i + 1; later < h->n_chain; later++)
        part(h, later)->role = HISTORY_CUT;
    h->n_chain = i + 1;
}

/* There is no record at `*offset`: go on behind the damage, or end here. 1: go on. */
static int pass_gap(struct history *h, uint32_t i, uint32_t *offset, uint32_t limit, int outcome)
{
    struct history_segment *s = part(h, i);
    struct history_damage damage;
    uint32_t next;
    int r = was_synced(h, i, *offset);

    if (r <= 0) {
        if (r == 0)
            cut(h, i);
        return r;
    }
    next = next_good(h, s, *offset + RECORD_UNIT, limit);
    if (next == limit && !s->end_known && i + 1 < h->n_chain) {
        /* Its end, most likely: the segment that knew is reported already. */
        *offset = limit;
        return 1;
    }
    damage = (struct history_damage){
        .generation = s->header.generation,
        .slot = s->header.slot,
        .offset = *offset,
        .outcome = outcome,
    };
    *offset = next;
    damage.size = *offset - damage.offset;
    h->reader->damage(h->reader->context, &damage);
    return 1;
}

/* All records of the i-th of the chain. */
static int read_segment(struct history *h, uint32_t i)
{
    struct history_segment *s = part(h, i);
    uint32_t limit = s->end, offset = START;
    int r = load(h, s);

    while (r == 0 && offset < limit) {
        struct record record;
        int outcome = record_get(h->bytes, &s->header, offset, limit, &record);

        if (outcome == RECORD_OK) {
            r = h->reader->record(h->reader->context, s, offset, &record);
            offset = step(&record, offset, limit);
            continue;
        }
        r = pass_gap(h, i, &offset, limit, outcome);
        if (r <= 0)
            break;
        r = 0;
    }
    s->end = offset < limit ? offset : limit;
    return r;
}

/* Where each ends, as the next one says. */
static void set_ends(struct history *h)
{
    for (uint32_t i = 0; i < h->n_chain; i++) {
        struct history_segment *s = part(h, i);
        const struct history_segment *next = i + 1 < h->n_chain ? part(h, i + 1) : NULL;

        s->end = limit_of(s);
        s->end_known = next != NULL && next->begun &&
                       next->begin.previous == s->header.generation && next->begin.end <= s->end &&
                       !JOURNAL_FAULT(JOURNAL_FAULT_NO_END);
        if (s->end_known)
            s->end = next->begin.end;
    }
}

static int read_chain(struct history *h, enum history_extent extent)
{
    int r = follow_chain(h, extent);

    if (r < 0 || h->n_chain == 0)
        return r;
    set_ends(h);
    for (uint32_t i = extent == HISTORY_ALL ? 0 : h->n_chain - 1; i < h->n_chain && r == 0; i++)
        r = read_segment(h, i);
    return r;
}

int history_read(struct history_segment *segments, uint32_t n, enum history_extent extent,
                 const struct history_reader *reader)
{
    struct history h = {.segments = segments, .n = n, .reader = reader, .loaded = NONE};
    uint32_t largest = RECORD_SEGMENT_MIN;
    int r;

    if (n == 0)
        return 0;
    qsort(segments, n, sizeof(*segments), compare);
    for (uint32_t i = 0; i < n; i++) {
        if (segments[i].header.size > largest)
            largest = segments[i].header.size;
        if (segments[i].header.oldest > h.oldest)
            h.oldest = segments[i].header.oldest;
    }
    h.chain = calloc(n, sizeof(*h.chain));
    h.bytes = malloc(largest);
    r = h.chain == NULL || h.bytes == NULL ? -ENOMEM : read_chain(&h, extent);
    free(h.chain);
    free(h.bytes);
    return r;
}

void history_sentence(char *out, size_t size, const struct history_damage *damage)
{
    char name[RECORD_NAME_MAX];

    if (damage->slot == RECORD_SLOTS_MAX) {
        snprintf(out, size, "the segment of generation %llu is missing: all that it had is lost",
                 (unsigned long long)damage->generation);
        return;
    }
    record_segment_name(name, damage->slot);
    snprintf(out, size, "%s: %u bytes from offset %u on are damaged (%s): what they had is lost",
             name, damage->size, damage->offset, record_outcome_name(damage->outcome));
}
