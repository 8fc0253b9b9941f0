/* Random steps over a journal: things are appended, ended and moved, commits handed over, carried
 * out and collected, while the disk may refuse, write in part, be interrupted or be full. What the
 * steps do to things is kept in the model.
 *
 * Before the first step stands what a broker does at its start. After a power loss, what the
 * journal found is what there is. After a kill the store has survived: it knows what lives, and all
 * that was not done yet is appended again. */
#include "tests/support/journal-life.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "broker/journal-fault.h"
#include "broker/journal-state.h"

enum {
    PATIENCE = 500, /* rounds until a segment that is coming is there */
    SECOND = 1000000000,
};

static unsigned below(struct life *l, unsigned n)
{
    return chance_below(&l->chance, n);
}

/* ---- Events ---- */

/* It was read: append it anew, some of it right from where it lies. */
static void move_on(struct life *l, const struct journal_event *event)
{
    struct model *m = &l->model;
    struct model_thing *t = &m->things[event->tag];
    uint32_t old = event->location, size = event->record.size;
    struct journal_source source = {.fd = -1, .location = old};

    t->moving = false;
    if (t->end != 0 || model_location(t) != old)
        return;
    if (event->result < 0 || size != t->size ||
        record_crc(0, event->record.bytes, size) != t->crc) {
        model_wrong(m, "age %u was read back as something else: %d", (unsigned)event->tag,
                    event->result);
        return;
    }
    memcpy(m->bytes, event->record.bytes, size);
    if (size > 64 && below(l, 2) == 0) {
        source.offset = size / 2;
        source.size = size - size / 2;
    }
    if (model_append(m, (unsigned)event->tag, source.size > 0 ? &source : NULL, size - source.size,
                     JOURNAL_RESERVED) < 0)
        return;
    l->n_moves++;
    journal_drop(m->journal, old);
}

static void take_event(void *context, const struct journal_event *event)
{
    struct life *l = context;

    if (event->type == JOURNAL_READ)
        move_on(l, event);
    else
        model_take_event(&l->model, event);
}

/* What the machine's crash must not take: what is synced. */
static void note_promise(struct life *l)
{
    const struct journal *j = l->model.journal;
    uint64_t done = journal_done(j), synced = journal_synced(j);

    if (synced > done)
        model_wrong(&l->model, "synced %" PRIu64 " above done %" PRIu64, synced, done);
    fake_disk_note(MODEL_PROMISED, done, j->sync == JOURNAL_ALWAYS ? done : synced);
}

static void collect(struct life *l)
{
    journal_collect(l->model.journal, take_event, l);
    note_promise(l);
}

/* ---- Steps ---- */

/* One whose END was refused at the start: nothing else empties its segment. */
static void end_late(struct model *m, uint64_t age)
{
    struct model_thing *t = &m->things[age];

    t->unsure = model_end(m, &age, 1) < 0;
}

/* Empty the segment that wants to be. */
static void move_things(struct life *l)
{
    struct model *m = &l->model;
    unsigned n = 0;
    uint32_t slot;

    if (!journal_wants(m->journal, &slot))
        return;
    for (unsigned age = 1; age <= m->n_things && n < 10; age++) {
        struct model_thing *t = &m->things[age];
        uint32_t location = model_location(t);

        if (t->end != 0 || t->moving || t->lost || t->gone || location == 0 ||
            record_slot(location) != slot)
            continue;
        if (t->unsure) {
            end_late(m, age);
            continue;
        }
        if (t->places[t->n_places - 1].number > journal_written(m->journal))
            continue;
        if (journal_read(m->journal, location, age) < 0)
            break;
        t->moving = true;
        n++;
    }
}

/* A segment is said to be coming: without anything new or ended, it does, if the disk does not
 * refuse meanwhile; then it may be needed in the place of a spoiled one. Else -EAGAIN. */
static int append_in_time(struct life *l, unsigned age, const struct journal_source *source,
                          uint32_t size, enum journal_claim claim)
{
    struct model *m = &l->model;
    int r = model_append(m, age, source, size, claim);

    for (unsigned i = 0; r == -EAGAIN && i < PATIENCE; i++) {
        journal_commit(m->journal);
        scribe_work(&m->journal->scribe);
        collect(l);
        move_things(l);
        model_make_bytes(m, age);
        r = model_append(m, age, source, size, claim);
        if (r == -ENOSPC && m->journal->making_result == 0 && m->journal->spoiled.n == 0)
            model_wrong(m, "age %u waited for room that did not come", age);
    }
    return r;
}

static uint32_t some_size(struct life *l)
{
    switch (below(l, 8)) {
    case 0:
        return 9 + below(l, 20);
    case 1:
        return 1000 + below(l, MODEL_SIZE_MAX - 1000);
    default:
        return 40 + below(l, 400);
    }
}

/* Where in the pool the last bytes of a thing lie: half of the time beside those of the last thing
 * that had some there. */
static uint32_t some_place(struct life *l, unsigned age, uint32_t size)
{
    const struct model_thing *things = l->model.things;
    uint32_t gap = below(l, 201), from, to;

    do
        age--;
    while (age > 0 && things[age].pool == 0);
    from = things[age].pool_offset;
    to = from + things[age].pool;
    switch (below(l, 4)) {
    case 0:
        if (size + gap <= FAKE_POOL_SIZE - to)
            return to + gap;
        break;
    case 1:
        if (size + gap <= from)
            return from - gap - size;
        break;
    }
    return below(l, FAKE_POOL_SIZE - size);
}

static void put_thing(struct life *l)
{
    static const uint8_t kinds[] = {RECORD_PUT,  RECORD_PUT,   RECORD_PUT,
                                    RECORD_KEPT, RECORD_GROUP, RECORD_FILTER};
    struct model *m = &l->model;
    unsigned age = m->n_things + 1;
    struct journal_source source = {.fd = FAKE_POOL};
    struct model_thing *t = &m->things[age];
    int r;

    if (age == MODEL_THINGS)
        return;
    *t = (struct model_thing){.owner = 100};
    t->size = some_size(l);
    t->kind = kinds[below(l, sizeof(kinds))];
    if (below(l, 3) == 0) {
        source.size = t->pool = 1 + below(l, t->size - 1);
        source.offset = t->pool_offset = some_place(l, age, t->pool);
        t->lost = source.offset + source.size > fake_pool_size;
    }
    model_make_bytes(m, age);
    r = append_in_time(l, age, source.size > 0 ? &source : NULL, t->size - source.size,
                       JOURNAL_NEW);
    t->put = journal_appended(m->journal);
    if (r == 0)
        m->n_things = age;
    else if (r == -ENOSPC)
        l->n_full++;
    else if (r != -EIO)
        model_wrong(m, "append: %s", strerror(-r));
}

/* An age; 0: there was none to be found. */
static unsigned some_living(struct life *l)
{
    const struct model *m = &l->model;

    for (unsigned i = 0; i < 20 && m->n_things > 0; i++) {
        unsigned age = 1 + below(l, m->n_things);
        const struct model_thing *t = &m->things[age];

        if (t->end == 0 && t->n_places > 0 && !t->lost && !t->gone && !t->unsure)
            return age;
    }
    return 0;
}

static void end_some(struct life *l)
{
    uint64_t ages[20];
    uint32_t n = 0, wanted = below(l, 8) == 0 ? 20 : 1 + below(l, 3);

    for (uint32_t i = 0; i < wanted; i++) {
        unsigned age = some_living(l);
        bool again = age == 0;

        for (uint32_t k = 0; k < n; k++)
            again |= ages[k] == age;
        if (!again)
            ages[n++] = age;
    }
    if (n > 0)
        model_end(&l->model, ages, n);
}

static void move_owner(struct life *l)
{
    unsigned age = some_living(l);
    struct model_thing *t = &l->model.things[age];

    if (age == 0 || t->owner == 200 || model_move(&l->model, age, 200) < 0)
        return;
    t->owner_before = t->owner;
    t->owner = 200;
}

static void step(struct life *l)
{
    struct journal *j = l->model.journal;
    unsigned what = below(l, 100);

    journal_now += what < 1 ? 2 * SECOND : below(l, 1000000);
    if (what < 40) {
        if (!journal_busy(j) || below(l, 4) == 0)
            put_thing(l);
    } else if (what < 60) {
        end_some(l);
    } else if (what < 65) {
        move_owner(l);
    } else if (what < 75) {
        journal_commit(j);
    } else if (what < 88) {
        scribe_work(&j->scribe);
    } else {
        move_things(l);
        collect(l);
    }
}

/* ---- The start ---- */

/* After a power loss, what was found is what there is. */
static void believe_found(struct model *m)
{
    for (unsigned age = 1; age <= m->n_things; age++) {
        struct model_thing *t = &m->things[age];
        const struct model_found *f = &m->found[age];

        t->gone = !f->here;
        t->unsure = t->again = false;
        t->put = t->end = t->moved = 0;
        t->owner = f->owner;
        t->n_places = 1;
        t->places[0] = (struct model_place){0, f->location, t->owner};
    }
}

/* Places that were done are good; no other is. */
static void keep_done(struct model *m, uint64_t done)
{
    for (unsigned age = 1; age <= m->n_things; age++) {
        struct model_thing *t = &m->things[age];
        const struct model_place *good = model_place_at(t, done);

        t->gone |= t->end != 0 && t->end <= done && !t->again;
        t->n_places = 0;
        if (t->gone || t->lost || good == NULL)
            continue;
        t->places[t->n_places++] = (struct model_place){0, good->location, t->owner};
        journal_keep(m->journal, t->places[0].location);
    }
}

/* Append a thing once more, from the store. */
static void put_again(struct life *l, unsigned age)
{
    struct model *m = &l->model;
    struct model_thing *t = &m->things[age];

    model_make_bytes(m, age);
    t->again = true;
    t->unsure = append_in_time(l, age, NULL, t->size, JOURNAL_TAKEN) < 0;
    t->put = journal_appended(m->journal);
}

/* After a kill the store knows what lives. What was not done is appended again: things, MOVEs,
 * ENDs. */
static void believe_store(struct life *l, uint64_t done)
{
    struct model *m = &l->model;

    keep_done(m, done);
    for (unsigned age = 1; age <= m->n_things; age++) {
        struct model_thing *t = &m->things[age];
        uint64_t ended = t->end != 0 ? age : 0;

        if (t->gone || t->lost)
            continue;
        t->again = t->unsure || t->end > 0;
        t->put = 0;
        t->end = 0;
        if (ended != 0) {
            t->again = true;
            t->unsure = model_end(m, &ended, 1) < 0;
        } else if (t->n_places == 0) {
            put_again(l, age);
        } else if (t->moved > done && model_move(m, age, t->owner) == 0) {
            t->again = true;
            continue;
        }
        t->moved = 0;
    }
}

/* After a scan all that it found is promised: the numbers of this life begin behind it. */
void life_live(struct life *l, const struct life_begin *begin, enum journal_sync sync,
               const struct fake_troubles *troubles, unsigned steps)
{
    struct model *m = &l->model;
    struct fake_image copy = {0};

    model_begin_life(m);
    fake_disk_mount(begin->image, NULL, chance_draw(&l->chance));
    if (begin->image != NULL)
        fake_image_copy(&copy, begin->image);
    if (model_open(m, sync, !begin->kill, &copy)) {
        model_expect_no_damage(m);
        fake_disk_note(MODEL_PROMISED, 0, 0);
        if (begin->kill)
            believe_store(l, begin->done);
        else
            believe_found(m);
        fake_disk_set_troubles(troubles);
        for (unsigned i = 0; i < steps && m->wrong[0] == '\0'; i++)
            step(l);
        fake_disk_set_troubles(NULL);
        m->journal = journal_close(m->journal);
    }
    m->image = NULL;
    fake_image_deinit(&copy);
}
