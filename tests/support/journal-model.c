/* What was appended, by its number, and what of it must be found.
 *
 * A crash leaves a prefix of what was appended. So each thing that is found, and each that is not,
 * says something about how long that prefix is at least, or at most; it is right if there is a
 * length that agrees with all of them, and with what was promised. */
#include "tests/support/journal-model.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "broker/journal-fault.h"

enum journal_fault journal_fault;
bool journal_by_hand = true;
uint64_t journal_now = 1;

void model_init(struct model *m)
{
    memset(m, 0, sizeof(*m));
}

void model_wrong(struct model *m, const char *format, ...)
{
    va_list arguments;

    if (m->wrong[0] != '\0')
        return;
    va_start(arguments, format);
    vsnprintf(m->wrong, sizeof(m->wrong), format, arguments);
    va_end(arguments);
}

struct journal_settings model_settings(enum journal_sync sync)
{
    return (struct journal_settings){
        .directory = "/fake",
        .instance = "test",
        .segment_size = MODEL_SEGMENT,
        .total_size = MODEL_SEGMENTS * MODEL_SEGMENT,
        .sync = sync,
        .interval = 1000000,
        .files = &fake_files,
    };
}

/* ---- What was appended ---- */

const struct model_place *model_place_at(const struct model_thing *t, uint64_t number)
{
    const struct model_place *best = NULL;

    for (unsigned i = 0; i < t->n_places; i++) {
        if (t->places[i].number <= number)
            best = &t->places[i];
    }
    return best;
}

uint32_t model_location(const struct model_thing *t)
{
    return t->n_places > 0 ? t->places[t->n_places - 1].location : 0;
}

void model_make_bytes(struct model *m, unsigned age)
{
    struct model_thing *t = &m->things[age];
    uint64_t z = age * UINT64_C(0x9e3779b97f4a7c15);

    for (uint32_t i = 0; i < t->size; i++) {
        z = z * UINT64_C(6364136223846793005) + 1;
        m->bytes[i] = (uint8_t)(z >> 56);
    }
    memcpy(m->bytes + t->size - t->pool, fake_pool + t->pool_offset, t->pool);
    t->crc = record_crc(0, m->bytes, t->size);
}

static void note_append(const struct model *m)
{
    fake_disk_note(MODEL_APPENDED, journal_appended(m->journal), 0);
}

static void add_place(struct model *m, struct model_thing *t, uint32_t location)
{
    if (t->n_places == MODEL_PLACES) { /* the oldest is far behind what is promised */
        memmove(t->places, t->places + 1, (MODEL_PLACES - 1) * sizeof(*t->places));
        t->n_places--;
    }
    t->places[t->n_places++] =
        (struct model_place){journal_appended(m->journal), location, t->owner};
    note_append(m);
}

int model_append(struct model *m, unsigned age, const struct journal_source *source, uint32_t size,
                 enum journal_claim claim)
{
    struct model_thing *t = &m->things[age];
    struct record record = {
        .age = age,
        .owner = t->owner,
        .when = age * 3,
        .kind = t->kind,
        .level = age % 32,
        .flags = (uint8_t)(age % 7),
        .size = size,
        .bytes = m->bytes,
    };
    uint32_t location;
    int r = journal_append(m->journal, &record, source, claim, &location);

    if (r < 0)
        return r;
    add_place(m, t, location);
    journal_keep(m->journal, location);
    return 0;
}

int model_move(struct model *m, unsigned age, uint64_t owner)
{
    struct record record = {.age = age, .owner = owner, .tries = 5, .kind = RECORD_MOVE};
    uint32_t location;
    int r = journal_append(m->journal, &record, NULL, JOURNAL_RESERVED, &location);

    if (r < 0)
        return r;
    m->things[age].moved = journal_appended(m->journal);
    note_append(m);
    return 0;
}

/* The END first, then its place is given up: the END's segment is the younger one. */
int model_end(struct model *m, const uint64_t *ages, uint32_t n)
{
    struct record record = {
        .kind = RECORD_END, .size = n * (uint32_t)sizeof(*ages), .bytes = (const uint8_t *)ages};
    uint32_t location;
    int r = journal_append(m->journal, &record, NULL, JOURNAL_RESERVED, &location);

    if (r < 0)
        return r;
    note_append(m);
    for (uint32_t i = 0; i < n; i++) {
        struct model_thing *t = &m->things[ages[i]];

        t->end = journal_appended(m->journal);
        journal_drop(m->journal, model_location(t));
    }
    return 0;
}

static void relocate_place(struct model *m, unsigned age, struct model_place *p, uint32_t to)
{
    if (m->n_relocations == MODEL_RELOCATIONS) {
        model_wrong(m, "more places were relocated than can be remembered");
        return;
    }
    m->relocations[m->n_relocations++] = (struct model_relocation){age, p->number, p->location};
    p->location = to;
}

void model_begin_life(struct model *m)
{
    m->n_relocations = 0;
}

void model_undo_relocations(struct model *m, uint32_t n)
{
    while (m->n_relocations > n) {
        const struct model_relocation *back = &m->relocations[--m->n_relocations];
        struct model_thing *t = &m->things[back->age];

        for (unsigned i = 0; i < t->n_places; i++) {
            if (t->places[i].number == back->number)
                t->places[i].location = back->location;
        }
    }
}

static void relocate(struct model *m, const struct journal_event *event)
{
    m->n_relocated++;
    for (unsigned age = 1; age <= m->n_things; age++) {
        struct model_thing *t = &m->things[age];

        for (unsigned i = 0; i < t->n_places; i++) {
            struct model_place *p = &t->places[i];

            if (record_slot(p->location) == record_slot(event->location) &&
                p->location >= event->location)
                relocate_place(m, age, p, p->location - event->location + event->to);
        }
    }
    fake_disk_note(MODEL_RELOCATED, m->n_relocations, 0);
}

void model_take_event(void *context, const struct journal_event *event)
{
    struct model *m = context;

    switch (event->type) {
    case JOURNAL_RELOCATED:
        relocate(m, event);
        break;
    case JOURNAL_LOST:
        m->n_lost++;
        if (!m->things[event->record.age].lost)
            model_wrong(m, "age %u is said to be lost", (unsigned)event->record.age);
        journal_drop(m->journal, event->location);
        break;
    default:
        model_wrong(m, "event %d", event->type);
    }
}

/* ---- What is found ---- */

/* Its record, straight from the disk. */
static bool same_bytes(const struct model *m, const struct model_thing *t, uint32_t location)
{
    char name[RECORD_NAME_MAX];
    struct fake_file *file;
    struct record_header header;
    struct record record;

    record_segment_name(name, record_slot(location));
    file = fake_image_find(m->image, name);
    if (file == NULL ||
        (record_get_header(file->bytes, &header) != RECORD_OK &&
         record_get_header(file->bytes + MODEL_SEGMENT - RECORD_HEADER_SIZE, &header) != RECORD_OK))
        return false;
    return record_get(file->bytes, &header, record_offset(location), MODEL_SEGMENT, &record) ==
               RECORD_OK &&
           record.size == t->size && record_crc(0, record.bytes, record.size) == t->crc;
}

struct reading {
    struct model *model;
    uint64_t last; /* age that was found */
};

static int take_thing(void *context, const struct record *record, uint32_t location)
{
    struct reading *reading = context;
    struct model *m = reading->model;
    const struct model_thing *t;

    if (record->age == 0 || record->age > m->n_things) {
        model_wrong(m, "age %" PRIu64 " was never given", record->age);
        return 0;
    }
    t = &m->things[record->age];
    if (record->age <= reading->last)
        model_wrong(m, "age %" PRIu64 " comes after %" PRIu64, record->age, reading->last);
    reading->last = record->age;
    if (record->kind != t->kind || record->size != t->size || record->when != record->age * 3 ||
        record->level != record->age % 32 || record->flags != record->age % 7 ||
        !same_bytes(m, t, location))
        model_wrong(m, "age %" PRIu64 " is not what was appended: kind %u for %u, size %u for %u",
                    record->age, record->kind, t->kind, record->size, t->size);
    if (record->kind != RECORD_PUT && record_crc(0, record->bytes, record->size) != t->crc)
        model_wrong(m, "age %" PRIu64 " comes with other bytes", record->age);
    m->found[record->age] = (struct model_found){true, location, record->owner};
    m->n_found++;
    return 0;
}

static void take_damage(void *context, const char *sentence)
{
    struct reading *reading = context;
    struct model *m = reading->model;

    m->n_damages++;
    snprintf(m->last_damage, sizeof(m->last_damage), "%s", sentence);
}

bool model_open(struct model *m, enum journal_sync sync, bool scan, struct fake_image *image)
{
    struct journal_settings settings = model_settings(sync);
    char sentence[JOURNAL_SENTENCE];
    struct reading reading = {.model = m};
    struct journal_reader reader = {take_thing, take_damage, &reading};
    uint64_t highest;
    int r;

    memset(m->found, 0, (m->n_things + 1) * sizeof(*m->found));
    m->n_found = m->n_damages = 0;
    m->image = image;
    r = journal_open(&m->journal, &settings, sentence);
    if (r == 0)
        r = scan ? journal_scan(m->journal, &reader, &highest, sentence)
                 : journal_continue(m->journal, &reader, sentence);
    if (r == 0)
        return true;
    model_wrong(m, "%s", sentence);
    m->journal = journal_close(m->journal);
    return false;
}

void model_expect_no_damage(struct model *m)
{
    if (m->n_damages > 0)
        model_wrong(m, "a crash was taken for damage: %s", m->last_damage);
}

/* What must have been appended, if so much was, seeing what became of this thing. */
static uint64_t least_for(struct model *m, unsigned age, uint64_t least)
{
    const struct model_thing *t = &m->things[age];

    if (m->found[age].here) {
        if (t->put > least && !t->again)
            least = t->put;
        if (t->moved > least && m->found[age].owner == t->owner && !t->again)
            least = t->moved;
        return least;
    }
    if (t->put > least)
        return least;
    if (t->end == 0)
        model_wrong(m, "age %u is lost: appended as %" PRIu64 ", found up to %" PRIu64, age, t->put,
                    least);
    return t->end > least && !t->again ? t->end : least;
}

void model_compare(struct model *m, uint64_t appended, uint64_t promised)
{
    uint64_t least = promised, most = appended, before;

    do {
        before = least;
        for (unsigned age = 1; age <= m->n_things; age++) {
            const struct model_thing *t = &m->things[age];
            const struct model_found *f = &m->found[age];

            if (f->here && (t->gone || t->lost))
                model_wrong(m, "age %u was found, which is %s", age, t->gone ? "gone" : "lost");
            if (t->gone || t->lost || t->unsure)
                continue;
            least = least_for(m, age, least);
            if (f->here && t->end != 0 && t->end <= most)
                most = t->end - 1;
            if (f->here && t->moved != 0 && t->moved <= promised && f->owner != t->owner)
                model_wrong(m, "age %u is with its old owner", age);
        }
    } while (least != before);
    if (least > appended)
        model_wrong(m, "found up to %" PRIu64 ", but appended only up to %" PRIu64, least,
                    appended);
    if (least > most)
        model_wrong(m,
                    "what was ended as %" PRIu64 " lives, promised up to %" PRIu64
                    ", found up to %" PRIu64,
                    most + 1, promised, least);
}
