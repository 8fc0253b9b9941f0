/* The journal over a disk that is cut off.
 *
 * A run is made of lives. In each, a stand-in for the engine appends things, ends them, moves them,
 * while the disk may refuse, write in part, be interrupted or be full. Every operation of the disk
 * is remembered, together with what the engine had appended and what it had been promised. Then the
 * disk is cut off after any operation, in every way there is, and a new journal reads what is left:
 *
 *   - what was promised to be done is there, and what was promised to be ended is not;
 *   - what is there is a prefix of what was appended, byte for byte; nothing is invented;
 *   - a torn tail is no damage.
 *
 * The next life goes on from one of these images, after a power loss (scan) or a kill of the
 * process (continue). The same runs with faults planted in the journal must fail, or the test is
 * worth nothing.
 *
 *     test-journal [RUNS [SEED]]
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/journal-fault.h"
#include "broker/journal-state.h"
#include "broker/journal.h"
#include "tests/support/fake_disk.h"

enum journal_fault journal_fault;
bool journal_by_hand = true;
uint64_t journal_now = 1;

enum {
    SEGMENT = 64 << 10,
    SEGMENTS = 7,
    THINGS = 4096,  /* in a run */
    PLACES = 12,    /* records of a thing that are remembered */
    PATIENCE = 500, /* rounds until a segment that is coming is there */
    SIZE_MAX_ = 5000,
    SECOND = 1000000000,
};

/* ---- Chance ---- */

static uint64_t chance_state;

static uint64_t chance(void) /* splitmix64 */
{
    uint64_t z = (chance_state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static unsigned below(unsigned n)
{
    return (unsigned)(chance() % n);
}

/* ---- What must be ---- */

struct place {
    uint64_t number; /* of the append */
    uint32_t location;
    uint64_t owner;
};

/* A durable thing; its age is its index. */
struct thing {
    uint32_t size;
    uint32_t crc;  /* of its bytes */
    uint32_t pool; /* so many of them, the last ones, came from the pool, from here: */
    uint32_t pool_offset;
    uint8_t kind;
    bool gone;      /* it must never be found again */
    bool lost;      /* its source had gone */
    bool unsure;    /* it was refused, and may be there all the same */
    bool again;     /* what happened to it is appended a second time: it may be there already */
    bool moving;    /* a read for its move is under way */
    uint64_t put;   /* number of its first append */
    uint64_t end;   /* number of its END; 0: it lives */
    uint64_t moved; /* number of its MOVE; 0: none */
    uint64_t owner;
    uint64_t owner_before;
    struct place places[PLACES]; /* its records, newest last */
    unsigned n_places;
};

static struct thing things[THINGS];
static unsigned n_things; /* ages are 1 … n_things */
static struct journal *journal;
static uint8_t bytes[SIZE_MAX_ + 8];
static char wrong[1024]; /* what was found to be wrong; empty: nothing */
static uint64_t n_images, n_moves, n_relocated, n_full, n_lost;

__attribute__((format(printf, 1, 2))) static void say_wrong(const char *format, ...)
{
    va_list arguments;

    if (wrong[0] != '\0')
        return;
    va_start(arguments, format);
    vsnprintf(wrong, sizeof(wrong), format, arguments);
    va_end(arguments);
}

enum note { NOTE_APPENDED = 1, NOTE_PROMISED };

static struct journal_settings settings_of(enum journal_sync sync)
{
    return (struct journal_settings){
        .directory = "/fake",
        .instance = "test",
        .segment_size = SEGMENT,
        .total_size = SEGMENTS * SEGMENT,
        .sync = sync,
        .interval = 1000000,
        .files = &fake_files,
    };
}

/* The newest place of a thing whose append has at most this number; NULL: none. */
static const struct place *place_at(const struct thing *t, uint64_t number)
{
    const struct place *best = NULL;

    for (unsigned i = 0; i < t->n_places; i++) {
        if (t->places[i].number <= number)
            best = &t->places[i];
    }
    return best;
}

static uint32_t location_of(const struct thing *t)
{
    return t->n_places > 0 ? t->places[t->n_places - 1].location : 0;
}

static void add_place(struct thing *t, uint32_t location)
{
    if (t->n_places == PLACES) { /* the oldest is far behind what is promised */
        memmove(t->places, t->places + 1, (PLACES - 1) * sizeof(*t->places));
        t->n_places--;
    }
    t->places[t->n_places++] = (struct place){journal_appended(journal), location, t->owner};
    fake_disk_note(NOTE_APPENDED, journal_appended(journal), 0);
}

/* ---- A life: steps ---- */

/* Bytes that the age determines, but for those that come from the pool. */
static void make_bytes(unsigned age)
{
    struct thing *t = &things[age];
    uint64_t z = age * UINT64_C(0x9e3779b97f4a7c15);

    for (uint32_t i = 0; i < t->size; i++) {
        z = z * UINT64_C(6364136223846793005) + 1;
        bytes[i] = (uint8_t)(z >> 56);
    }
    memcpy(bytes + t->size - t->pool, fake_pool + t->pool_offset, t->pool);
    t->crc = record_crc(0, bytes, t->size);
}

static uint32_t some_size(void)
{
    switch (below(8)) {
    case 0:
        return 9 + below(20);
    case 1:
        return 1000 + below(SIZE_MAX_ - 1000);
    default:
        return 40 + below(400);
    }
}

/* Append its record; from the pool, if that is where its last bytes are. */
static int append_thing(unsigned age, const struct journal_source *source, uint32_t size,
                        enum journal_claim claim)
{
    struct thing *t = &things[age];
    struct record record = {
        .age = age,
        .owner = t->owner,
        .when = age * 3,
        .kind = t->kind,
        .level = age % 32,
        .flags = (uint8_t)(age % 7),
        .size = size,
        .bytes = bytes,
    };
    uint32_t location;
    int r = journal_append(journal, &record, source, claim, &location);

    if (r < 0)
        return r;
    add_place(t, location);
    journal_keep(journal, location);
    return 0;
}

static void collect(void);
static void move_things(void);

/* A segment is said to be coming: without anything new or ended, it does. Else -EAGAIN. */
static int append_in_time(unsigned age, const struct journal_source *source, uint32_t size,
                          enum journal_claim claim)
{
    int r = append_thing(age, source, size, claim);

    for (unsigned i = 0; r == -EAGAIN && i < PATIENCE; i++) {
        journal_commit(journal);
        scribe_work(&journal->scribe);
        collect();
        move_things();
        make_bytes(age);
        r = append_thing(age, source, size, claim);
        if (r == -ENOSPC && journal->making_result == 0)
            say_wrong("age %u waited for room that did not come", age);
    }
    return r;
}

/* Where in the pool the last bytes of a thing lie: half of the time beside those of the last thing
 * that had some there. */
static uint32_t some_place(unsigned age, uint32_t size)
{
    uint32_t gap = below(201), from, to;

    do
        age--;
    while (age > 0 && things[age].pool == 0);
    from = things[age].pool_offset;
    to = from + things[age].pool;
    switch (below(4)) {
    case 0:
        if (size + gap <= FAKE_POOL_SIZE - to)
            return to + gap;
        break;
    case 1:
        if (size + gap <= from)
            return from - gap - size;
        break;
    }
    return below(FAKE_POOL_SIZE - size);
}

static void put_thing(void)
{
    static const uint8_t kinds[] = {RECORD_PUT,  RECORD_PUT,   RECORD_PUT,
                                    RECORD_KEPT, RECORD_GROUP, RECORD_FILTER};
    unsigned age = n_things + 1;
    struct journal_source source = {.fd = FAKE_POOL};
    struct thing *t = &things[age];
    int r;

    if (age == THINGS)
        return;
    *t = (struct thing){.size = some_size(), .kind = kinds[below(sizeof(kinds))], .owner = 100};
    if (below(3) == 0) {
        source.size = t->pool = 1 + below(t->size - 1);
        source.offset = t->pool_offset = some_place(age, t->pool);
        t->lost = source.offset + source.size > fake_pool_size;
    }
    make_bytes(age);
    r = append_in_time(age, source.size > 0 ? &source : NULL, t->size - source.size, JOURNAL_NEW);
    t->put = journal_appended(journal);
    if (r == 0)
        n_things = age;
    else if (r == -ENOSPC)
        n_full++;
    else if (r != -EIO)
        say_wrong("append: %s", strerror(-r));
}

static unsigned some_living(void)
{
    for (unsigned i = 0; i < 20 && n_things > 0; i++) {
        unsigned age = 1 + below(n_things);

        const struct thing *t = &things[age];

        if (t->end == 0 && t->n_places > 0 && !t->lost && !t->gone && !t->unsure)
            return age;
    }
    return 0;
}

/* The END first, then its place is given up: the END's segment is the younger one. */
static int end_things(const uint64_t *ages, uint32_t n)
{
    struct record record = {
        .kind = RECORD_END, .size = n * (uint32_t)sizeof(*ages), .bytes = (const uint8_t *)ages};
    uint32_t location;
    int r = journal_append(journal, &record, NULL, JOURNAL_RESERVED, &location);

    if (r < 0)
        return r;
    fake_disk_note(NOTE_APPENDED, journal_appended(journal), 0);
    for (uint32_t i = 0; i < n; i++) {
        things[ages[i]].end = journal_appended(journal);
        journal_drop(journal, location_of(&things[ages[i]]));
    }
    return 0;
}

static void end_some(void)
{
    uint64_t ages[20];
    uint32_t n = 0, wanted = below(8) == 0 ? 20 : 1 + below(3);

    for (uint32_t i = 0; i < wanted; i++) {
        unsigned age = some_living();
        bool again = age == 0;

        for (uint32_t k = 0; k < n; k++)
            again |= ages[k] == age;
        if (!again)
            ages[n++] = age;
    }
    if (n > 0)
        end_things(ages, n);
}

static void move_owner(void)
{
    unsigned age = some_living();
    struct record record = {.age = age, .owner = 200, .tries = 5, .kind = RECORD_MOVE};
    uint32_t location;

    if (age == 0 || things[age].owner == 200 ||
        journal_append(journal, &record, NULL, JOURNAL_RESERVED, &location) < 0)
        return;
    things[age].owner_before = things[age].owner;
    things[age].owner = 200;
    things[age].moved = journal_appended(journal);
    fake_disk_note(NOTE_APPENDED, journal_appended(journal), 0);
}

/* Empty the segment that wants to be. */
static void move_things(void)
{
    unsigned n = 0;
    uint32_t slot;

    if (!journal_wants(journal, &slot))
        return;
    for (unsigned age = 1; age <= n_things && n < 10; age++) {
        struct thing *t = &things[age];

        if (t->end != 0 || t->moving || t->lost || t->gone || t->unsure ||
            record_slot(location_of(t)) != slot || location_of(t) == 0 ||
            t->places[t->n_places - 1].number > journal_written(journal))
            continue;
        if (journal_read(journal, location_of(t), age) < 0)
            break;
        t->moving = true;
        n++;
    }
}

/* It was read: append it anew, some of it right from where it lies. */
static void moved(const struct journal_event *event)
{
    struct thing *t = &things[event->tag];
    uint32_t old = event->location, size = event->record.size;
    struct journal_source source = {.fd = -1, .location = old};

    t->moving = false;
    if (t->end != 0 || location_of(t) != old)
        return;
    if (event->result < 0 || size != t->size ||
        record_crc(0, event->record.bytes, size) != t->crc) {
        say_wrong("age %u was read back as something else: %d", (unsigned)event->tag,
                  event->result);
        return;
    }
    memcpy(bytes, event->record.bytes, size);
    if (size > 64 && below(2) == 0) {
        source.offset = size / 2;
        source.size = size - size / 2;
    }
    if (append_thing((unsigned)event->tag, source.size > 0 ? &source : NULL, size - source.size,
                     JOURNAL_RESERVED) < 0)
        return;
    n_moves++;
    journal_drop(journal, old);
}

static void relocated(const struct journal_event *event)
{
    n_relocated++;
    for (unsigned age = 1; age <= n_things; age++) {
        for (unsigned i = 0; i < things[age].n_places; i++) {
            struct place *p = &things[age].places[i];

            if (record_slot(p->location) == record_slot(event->location) &&
                p->location >= event->location)
                p->location = p->location - event->location + event->to;
        }
    }
}

static void take_event(void *context, const struct journal_event *event)
{
    (void)context;
    switch (event->type) {
    case JOURNAL_READ:
        moved(event);
        break;
    case JOURNAL_RELOCATED:
        relocated(event);
        break;
    case JOURNAL_LOST:
        n_lost++;
        if (!things[event->record.age].lost)
            say_wrong("age %u is said to be lost", (unsigned)event->record.age);
        journal_drop(journal, event->location);
        break;
    default:
        say_wrong("event %d", event->type);
    }
}

/* What the machine's crash must not take: what is synced. */
static void note_promise(void)
{
    uint64_t done = journal_done(journal), synced = journal_synced(journal);

    if (synced > done)
        say_wrong("synced %" PRIu64 " above done %" PRIu64, synced, done);
    fake_disk_note(NOTE_PROMISED, done, journal->sync == JOURNAL_ALWAYS ? done : synced);
}

static void collect(void)
{
    journal_collect(journal, take_event, NULL);
    note_promise();
}

static void step(void)
{
    unsigned what = below(100);

    journal_now += what < 1 ? 2 * SECOND : below(1000000);
    if (what < 40) {
        if (!journal_busy(journal) || below(4) == 0)
            put_thing();
    } else if (what < 60) {
        end_some();
    } else if (what < 65) {
        move_owner();
    } else if (what < 75) {
        journal_commit(journal);
    } else if (what < 88) {
        scribe_work(&journal->scribe);
    } else {
        move_things();
        collect();
    }
}

/* ---- What a crash left ---- */

struct found {
    bool here;
    uint32_t location;
    uint64_t owner;
};

static struct found found[THINGS];
static unsigned n_found;
static struct fake_image *image; /* that is read */

/* Its record, straight from the disk. */
static bool same_bytes(const struct thing *t, uint32_t location)
{
    char name[RECORD_NAME_MAX];
    struct fake_file *file;
    struct record_header header;
    struct record record;

    record_segment_name(name, record_slot(location));
    file = fake_image_find(image, name);
    if (file == NULL ||
        (record_get_header(file->bytes, &header) != RECORD_OK &&
         record_get_header(file->bytes + SEGMENT - RECORD_HEADER_SIZE, &header) != RECORD_OK))
        return false;
    return record_get(file->bytes, &header, record_offset(location), SEGMENT, &record) ==
               RECORD_OK &&
           record.size == t->size && record_crc(0, record.bytes, record.size) == t->crc;
}

static int take_thing(void *context, const struct record *record, uint32_t location)
{
    uint64_t *last = context;
    const struct thing *t = &things[record->age < THINGS ? record->age : 0];

    if (record->age == 0 || record->age > n_things) {
        say_wrong("age %" PRIu64 " was never given", record->age);
        return 0;
    }
    if (record->age <= *last)
        say_wrong("age %" PRIu64 " comes after %" PRIu64, record->age, *last);
    *last = record->age;
    if (record->kind != t->kind || record->size != t->size || record->when != record->age * 3 ||
        record->level != record->age % 32 || record->flags != record->age % 7 ||
        !same_bytes(t, location))
        say_wrong("age %" PRIu64 " is not what was appended: kind %u for %u, size %u for %u",
                  record->age, record->kind, t->kind, record->size, t->size);
    if (record->kind != RECORD_PUT && record_crc(0, record->bytes, record->size) != t->crc)
        say_wrong("age %" PRIu64 " comes with other bytes", record->age);
    found[record->age] = (struct found){true, location, record->owner};
    n_found++;
    return 0;
}

static unsigned n_damages;
static char last_damage[JOURNAL_SENTENCE];

static void take_damage(void *context, const char *sentence)
{
    (void)context;
    n_damages++;
    snprintf(last_damage, sizeof(last_damage), "%s", sentence);
}

/* What must have been appended, if so much was, seeing what became of this thing. */
static uint64_t least_for(unsigned age, uint64_t least)
{
    const struct thing *t = &things[age];

    if (found[age].here) {
        if (t->put > least && !t->again)
            least = t->put;
        if (t->moved > least && found[age].owner == t->owner && !t->again)
            least = t->moved;
        return least;
    }
    if (t->put > least)
        return least;
    if (t->end == 0)
        say_wrong("age %u is lost: appended as %" PRIu64 ", found up to %" PRIu64, age, t->put,
                  least);
    return t->end > least && !t->again ? t->end : least;
}

/* What was found must be what there was after some append, from `promised` to `appended`. */
static void compare(uint64_t appended, uint64_t promised)
{
    uint64_t least = promised, most = appended, before;

    do {
        before = least;
        for (unsigned age = 1; age <= n_things; age++) {
            const struct thing *t = &things[age];

            if (found[age].here && (t->gone || t->lost))
                say_wrong("age %u was found, which is %s", age, t->gone ? "gone" : "lost");
            if (t->gone || t->lost || t->unsure)
                continue;
            least = least_for(age, least);
            if (found[age].here && t->end != 0 && t->end <= most)
                most = t->end - 1;
            if (found[age].here && t->moved != 0 && t->moved <= promised &&
                found[age].owner != t->owner)
                say_wrong("age %u is with its old owner", age);
        }
    } while (least != before);
    if (least > appended)
        say_wrong("found up to %" PRIu64 ", but appended only up to %" PRIu64, least, appended);
    if (least > most)
        say_wrong("what was ended as %" PRIu64 " lives, promised up to %" PRIu64
                  ", found up to %" PRIu64,
                  most + 1, promised, least);
}

/* Open what is on the disk now; the journal stays open. */
static bool open_disk(enum journal_sync sync, bool scan)
{
    struct journal_settings settings = settings_of(sync);
    char sentence[JOURNAL_SENTENCE];
    uint64_t last = 0, highest;
    struct journal_reader reader = {take_thing, take_damage, &last};
    int r;

    memset(found, 0, (n_things + 1) * sizeof(*found));
    n_found = n_damages = 0;
    r = journal_open(&journal, &settings, sentence);
    if (r == 0)
        r = scan ? journal_scan(journal, &reader, &highest, sentence)
                 : journal_continue(journal, &reader, sentence);
    if (r < 0)
        say_wrong("%s", sentence);
    if (n_damages > 0)
        say_wrong("a crash was taken for damage: %s", last_damage);
    if (r < 0)
        journal = journal_close(journal);
    return r == 0;
}

static void check_image(struct fake_image *crashed, uint64_t appended, uint64_t promised)
{
    struct fake_log log;

    n_images++;
    image = crashed;
    fake_disk_mount(crashed, NULL, 1);
    if (open_disk(JOURNAL_ALWAYS, true)) {
        compare(appended, promised);
        journal = journal_close(journal);
    }
    fake_disk_unmount(&log);
    fake_log_deinit(&log);
}

/* ---- From life to life ---- */

struct moment { /* of a log */
    uint64_t appended, done, synced;
};

static void take_note(struct moment *m, const struct fake_op *op)
{
    if (op->type != FAKE_NOTE)
        return;
    if (op->note[0] == NOTE_APPENDED) {
        m->appended = op->note[1];
    } else {
        m->done = op->note[1];
        m->synced = op->note[2];
    }
}

/* Look at a life from every side: after most operations, in every way. Then leave in *next the
 * image at one of them, which is where the next life begins. */
static void look_at_life(const struct fake_log *log, const struct fake_image *begin, bool kill,
                         unsigned every, struct fake_image *next, struct moment *then)
{
    struct fake_replay replay;
    struct moment m = {0};
    size_t end = log->n - below((unsigned)(log->n / 3 + 1));

    fake_replay_init(&replay, log, begin);
    while (replay.at < end) {
        fake_replay_step(&replay);
        take_note(&m, &log->ops[replay.at - 1]);
        if (wrong[0] != '\0' || below(every) != 0 || log->ops[replay.at - 1].type == FAKE_NOTE)
            continue;
        for (enum fake_crash kind = 0; kind < N_FAKE_CRASHES && wrong[0] == '\0'; kind++) {
            struct fake_image crashed;

            fake_replay_crash(&replay, kind, chance(), &crashed);
            check_image(&crashed, m.appended, kind == FAKE_EVERYTHING ? m.done : m.synced);
            fake_image_deinit(&crashed);
        }
    }
    fake_replay_crash(&replay, kill ? FAKE_EVERYTHING : (enum fake_crash)below(N_FAKE_CRASHES),
                      chance(), next);
    *then = m;
    fake_replay_deinit(&replay);
}

/* What was appended after the end of that life was never. */
static void forget_beyond(uint64_t appended)
{
    for (unsigned age = 1; age <= n_things; age++) {
        struct thing *t = &things[age];

        while (t->n_places > 0 && t->places[t->n_places - 1].number > appended)
            t->n_places--;
        if (t->put > appended && !t->again)
            t->gone = true;
        if (t->end > appended)
            t->end = 0;
        if (t->moved > appended) {
            t->moved = 0;
            t->owner = t->owner_before;
        }
        t->moving = false;
    }
}

/* After a power loss, what was found is what there is. */
static void believe_found(void)
{
    for (unsigned age = 1; age <= n_things; age++) {
        struct thing *t = &things[age];

        t->gone = !found[age].here;
        t->unsure = t->again = false;
        t->put = t->end = t->moved = 0;
        t->owner = found[age].owner;
        t->n_places = 1;
        t->places[0] = (struct place){0, found[age].location, t->owner};
    }
}

/* Append a thing once more, from the store. */
static void append_again(unsigned age)
{
    struct thing *t = &things[age];

    make_bytes(age);
    t->again = true;
    t->unsure = append_in_time(age, NULL, t->size, JOURNAL_TAKEN) < 0;
    t->put = journal_appended(journal);
}

/* After a kill the store knows what lives. Places that were done are good, everything else is
 * appended again: things, MOVEs, ENDs. */
static void believe_store(uint64_t done)
{
    for (unsigned age = 1; age <= n_things; age++) {
        struct thing *t = &things[age];
        const struct place *good = place_at(t, done);

        t->gone |= t->end != 0 && t->end <= done && !t->again;
        t->n_places = 0;
        if (t->gone || t->lost || good == NULL)
            continue;
        t->places[t->n_places++] = (struct place){0, good->location, t->owner};
        journal_keep(journal, t->places[0].location);
    }
    for (unsigned age = 1; age <= n_things; age++) {
        struct thing *t = &things[age];
        struct record move = {.age = age, .owner = t->owner, .tries = 5, .kind = RECORD_MOVE};
        uint64_t ended = t->end != 0 ? age : 0;
        uint32_t location;

        if (t->gone || t->lost)
            continue;
        t->again = t->unsure || t->end > 0;
        t->put = 0;
        t->end = 0;
        if (ended != 0) {
            t->again = true;
            t->unsure = end_things(&ended, 1) < 0;
        } else if (t->n_places == 0) {
            append_again(age);
        } else if (t->moved > done &&
                   journal_append(journal, &move, NULL, JOURNAL_RESERVED, &location) == 0) {
            t->again = true;
            fake_disk_note(NOTE_APPENDED, journal_appended(journal), 0);
            t->moved = journal_appended(journal);
            continue;
        }
        t->moved = 0;
    }
}

/* After a scan all that it found is promised: the numbers of this life begin behind it. */
static void live(const struct fake_image *begin, bool kill, uint64_t done, enum journal_sync sync,
                 const struct fake_troubles *troubles, unsigned steps)
{
    struct fake_image copy = {0};

    fake_disk_mount(begin, NULL, chance());
    if (begin != NULL)
        fake_image_copy(&copy, begin);
    image = &copy;
    if (open_disk(sync, !kill)) {
        fake_disk_note(NOTE_PROMISED, 0, 0);
        if (kill)
            believe_store(done);
        else
            believe_found();
        fake_disk_set_troubles(troubles);
        for (unsigned i = 0; i < steps && wrong[0] == '\0'; i++)
            step();
        fake_disk_set_troubles(NULL);
        journal = journal_close(journal);
    }
    fake_image_deinit(&copy);
}

static void run(uint64_t seed, unsigned lives, unsigned steps, unsigned every)
{
    struct fake_image begin = {0}, next;
    struct moment then = {0};
    bool kill = false, first = true;

    chance_state = seed;
    journal_now = 1;
    n_things = 0;
    memset(things, 0, sizeof(things));
    for (uint32_t i = 0; i < FAKE_POOL_SIZE; i++)
        fake_pool[i] = (uint8_t)chance();
    for (unsigned i = 0; i < lives && wrong[0] == '\0'; i++) {
        enum journal_sync sync = below(2) == 0 ? JOURNAL_ALWAYS : (enum journal_sync)below(3);
        struct fake_troubles troubles = {
            .write_error = below(3) == 0 ? 60 : 0,
            .sync_error = below(3) == 0 ? 30 : 0,
            .short_write = below(3) == 0 ? 5 : 0,
            .interrupt = below(3) == 0 ? 5 : 0,
            .open_error = below(3) == 0 ? 2 : 0,
            .space = below(4) == 0 ? SEGMENT * 5 : 0,
        };
        struct fake_log log;

        fake_pool_size = below(4) == 0 ? FAKE_POOL_SIZE / 2 : FAKE_POOL_SIZE;
        live(first ? NULL : &begin, kill, then.done, sync, &troubles, steps);
        fake_disk_unmount(&log);
        kill = below(2) == 0;
        if (wrong[0] == '\0') {
            look_at_life(&log, first ? NULL : &begin, kill, every, &next, &then);
            fake_image_deinit(&begin);
            begin = next;
            forget_beyond(then.appended);
        }
        fake_log_deinit(&log);
        first = false;
    }
    fake_image_deinit(&begin);
}

/* ---- Single cases ---- */

/* Do all there is to do, and take it. */
static void settle(void)
{
    do
        journal_collect(journal, take_event, NULL);
    while (scribe_work(&journal->scribe));
    journal_collect(journal, take_event, NULL);
}

static void begin_case(enum journal_sync sync)
{
    wrong[0] = '\0';
    chance_state = 1;
    n_things = 0;
    memset(things, 0, sizeof(things));
    fake_pool_size = FAKE_POOL_SIZE;
    fake_disk_mount(NULL, NULL, 1);
    image = NULL;
    assert_true(open_disk(sync, true));
    settle();
}

/* A message of `size` bytes, and `pooled` more that are in the pool at `offset`. */
static void put_pooled(uint32_t size, uint32_t offset, uint32_t pooled)
{
    struct journal_source source = {.fd = FAKE_POOL, .offset = offset, .size = pooled};
    struct thing *t = &things[++n_things];

    *t = (struct thing){.size = size + pooled,
                        .kind = RECORD_PUT,
                        .owner = 100,
                        .pool = pooled,
                        .pool_offset = offset,
                        .lost = offset + pooled > fake_pool_size};
    make_bytes(n_things);
    assert_int_equal(append_thing(n_things, pooled > 0 ? &source : NULL, size, JOURNAL_NEW), 0);
    t->put = journal_appended(journal);
}

static void put_message(uint32_t size)
{
    put_pooled(size, 0, 0);
}

/* Read it, and say how many things there are; damages are counted. */
static unsigned read_image(struct fake_image *crashed)
{
    struct fake_log log;
    unsigned n;

    image = crashed;
    fake_disk_mount(crashed, NULL, 1);
    assert_true(open_disk(JOURNAL_ALWAYS, true));
    journal = journal_close(journal);
    fake_disk_unmount(&log);
    fake_log_deinit(&log);
    n = n_found;
    return n;
}

static struct fake_file *file_of_thing(struct fake_image *crashed, unsigned age)
{
    char name[RECORD_NAME_MAX];

    record_segment_name(name, record_slot(location_of(&things[age])));
    return fake_image_find(crashed, name);
}

static void close_cleanly(struct fake_image *out)
{
    struct fake_log log;
    struct fake_replay replay;

    journal = journal_close(journal);
    fake_disk_unmount(&log);
    fake_replay_init(&replay, &log, NULL);
    while (replay.at < log.n)
        fake_replay_step(&replay);
    fake_replay_crash(&replay, FAKE_NOTHING, 1, out);
    fake_replay_deinit(&replay);
    fake_log_deinit(&log);
}

static void J1_damage_is_named_and_the_rest_is_served(void **state)
{
    struct fake_image left;
    char name[RECORD_NAME_MAX];

    (void)state;
    begin_case(JOURNAL_ALWAYS);
    for (unsigned i = 0; i < 300; i++) {
        put_message(200 + i);
        journal_commit(journal);
        settle();
    }
    close_cleanly(&left);
    for (unsigned age = 1; age <= n_things; age += 37) {
        uint8_t *byte =
            file_of_thing(&left, age)->bytes + record_offset(location_of(&things[age])) + age % 200;

        *byte ^= 0x10;
        wrong[0] = '\0';
        assert_int_equal(read_image(&left), n_things - 1);
        assert_false(found[age].here);
        assert_int_equal(n_damages, 1);
        record_segment_name(name, record_slot(location_of(&things[age])));
        assert_non_null(strstr(last_damage, name));
        journal_fault = JOURNAL_FAULT_NO_SYNCED; /* all behind it is cut */
        read_image(&left);
        assert_true(n_damages == 0 && n_found < age);
        journal_fault = JOURNAL_FAULT_NONE;
        *byte ^= 0x10;
    }
    wrong[0] = '\0';
    assert_int_equal(read_image(&left), n_things);
    assert_string_equal(wrong, "");
    fake_image_deinit(&left);
}

/* A journal with one thing in it, after a clean end. */
static void leave_one_message(struct fake_image *left)
{
    begin_case(JOURNAL_ALWAYS);
    put_message(100);
    journal_commit(journal);
    settle();
    close_cleanly(left);
}

static void damage_to_the_last_commit_before_a_clean_end_is_no_torn_tail(void **state)
{
    struct fake_image left;

    (void)state;
    leave_one_message(&left);
    file_of_thing(&left, 1)->bytes[record_offset(location_of(&things[1])) + 60] ^= 1;
    assert_int_equal(read_image(&left), 0);
    assert_int_equal(n_damages, 1);
    wrong[0] = '\0';
    fake_image_deinit(&left);
}

static void header_that_is_damaged_is_read_from_its_copy(void **state)
{
    struct fake_image left;
    struct fake_file *file;

    (void)state;
    leave_one_message(&left);
    file = file_of_thing(&left, 1);
    file->bytes[9] ^= 1;
    assert_int_equal(read_image(&left), 1);
    assert_int_equal(n_damages, 0);
    file->bytes[SEGMENT - RECORD_HEADER_SIZE + 9] ^= 1;
    assert_int_equal(read_image(&left), 0);
    assert_true(n_damages > 0);
    wrong[0] = '\0';
    fake_image_deinit(&left);
}

static void segment_that_is_missing_is_named(void **state)
{
    struct fake_image left;

    (void)state;
    begin_case(JOURNAL_ALWAYS);
    while (n_things < 60) {
        put_message(3000);
        journal_commit(journal);
        settle();
    }
    close_cleanly(&left);
    assert_int_not_equal(record_slot(location_of(&things[30])),
                         record_slot(location_of(&things[1])));
    file_of_thing(&left, 30)->exists = false;
    assert_true(read_image(&left) < n_things);
    assert_int_equal(n_damages, 1);
    assert_non_null(strstr(last_damage, "missing"));
    wrong[0] = '\0';
    fake_image_deinit(&left);
}

/* The image `beyond` operations after the note of that number. */
static void crash_after_note(uint64_t note, unsigned beyond, const struct fake_image *begin,
                             struct fake_image *out)
{
    struct fake_log log;
    struct fake_replay replay;

    fake_disk_unmount(&log);
    fake_replay_init(&replay, &log, begin);
    while (log.ops[replay.at].type != FAKE_NOTE || log.ops[replay.at].note[0] != note)
        fake_replay_step(&replay);
    for (unsigned i = 0; i < 1 + beyond; i++)
        fake_replay_step(&replay);
    fake_replay_crash(&replay, FAKE_EVERYTHING, 1, out);
    fake_replay_deinit(&replay);
    fake_log_deinit(&log);
}

enum { NOTE_HERE = 77 };

/* A client knows where its payload will lie, and fills it with a record for that place, all of it
 * right but for the seed, which it takes for 0. The process is killed when that payload is written,
 * but not yet the head of its record. Returns the offset of the forgery in its segment. */
static uint32_t forge(struct fake_image *killed)
{
    struct record forged = {.age = 3, .owner = 100, .kind = RECORD_PUT, .size = 100};
    struct record_header header;
    uint8_t *head = fake_pool + 1024 - RECORD_HEAD_SIZE;
    uint32_t offset;

    begin_case(JOURNAL_ALWAYS);
    put_message(100);
    journal_commit(journal);
    settle();
    offset = journal_current(journal)->end + 1024;
    header = journal_current(journal)->header;
    header.seed = 0;
    memset(head + RECORD_HEAD_SIZE, 'x', forged.size);
    record_put_head(head, &forged, &header, offset, 0);
    record_put_crc(
        head, record_crc(record_crc_begin(head, &header), head + RECORD_HEAD_SIZE, forged.size));
    put_pooled(0, 0, 4900); /* in pieces, its head last */
    journal_commit(journal);
    fake_disk_note(NOTE_HERE, 0, 0);
    settle();
    journal = journal_close(journal);
    crash_after_note(NOTE_HERE, 2, NULL, killed);
    return offset;
}

/* The next process writes over the front of that payload, up to where the forgery begins. How many
 * things are there after a power loss? */
static unsigned things_after_forgery(enum journal_fault fault)
{
    struct fake_image killed, left;
    uint32_t offset;
    unsigned n;

    journal_fault = fault;
    offset = forge(&killed);
    journal_fault = fault;
    fake_disk_mount(&killed, NULL, 1);
    image = &killed;
    assert_true(open_disk(JOURNAL_ALWAYS, false));
    assert_true(journal_current(journal)->end < offset);
    n_things = 1;
    put_message(offset - journal_current(journal)->end - RECORD_HEAD_SIZE);
    journal_commit(journal);
    scribe_work(&journal->scribe);
    fake_disk_note(NOTE_HERE, 0, 0);
    journal = journal_close(journal);
    crash_after_note(NOTE_HERE, 0, &killed, &left);
    n_things = 3; /* the forged one, should it be believed */
    n = read_image(&left);
    wrong[0] = '\0';
    journal_fault = JOURNAL_FAULT_NONE;
    fake_image_deinit(&left);
    fake_image_deinit(&killed);
    return n;
}

static void J1_payload_cannot_pretend_to_be_a_record(void **state)
{
    (void)state;
    assert_int_equal(things_after_forgery(JOURNAL_FAULT_NONE), 2);
    assert_int_equal(things_after_forgery(JOURNAL_FAULT_NO_SEED), 3); /* so the forgery is one */
}

/* ---- Payloads that are read together ---- */

enum { ROW = 12, ROW_STEP = 40, ROW_PAYLOAD = 30 };

static void fill_pool(uint8_t with)
{
    for (uint32_t i = 0; i < FAKE_POOL_SIZE; i++)
        fake_pool[i] = (uint8_t)(with + i * 7 + i / 256);
}

/* The message whose payload is number `i` of the row. */
static void put_of_row(unsigned i)
{
    put_pooled(20, 1000 + i * ROW_STEP, ROW_PAYLOAD);
}

/* All that was put is there as it was, but for what is lost. */
static void expect_all_but(unsigned lost)
{
    struct fake_image left;

    close_cleanly(&left);
    assert_int_equal(read_image(&left), n_things - lost);
    for (unsigned age = 1; age <= n_things; age++)
        assert_true(found[age].here != things[age].lost);
    assert_string_equal(wrong, "");
    fake_image_deinit(&left);
}

static void payloads_beside_each_other_are_read_together_in_either_order(void **state)
{
    (void)state;
    for (int down = 0; down < 2; down++) {
        uint64_t before;

        begin_case(JOURNAL_ALWAYS);
        fill_pool(1);
        before = fake_pool_reads;
        for (unsigned i = 0; i < ROW; i++)
            put_of_row(down ? ROW - 1 - i : i);
        journal_commit(journal);
        settle();
        assert_true(fake_pool_reads - before <= ROW / 4);
        expect_all_but(0);
    }
}

static void payload_that_has_gone_is_lost_alone(void **state)
{
    static const unsigned orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {0, 3, 2, 1}, {1, 3, 0, 2}};

    (void)state;
    for (size_t k = 0; k < sizeof(orders) / sizeof(*orders); k++) {
        begin_case(JOURNAL_ALWAYS);
        fill_pool(1);
        fake_pool_size = 1000 + 3 * ROW_STEP + ROW_PAYLOAD / 2;
        n_lost = 0;
        for (unsigned i = 0; i < 4; i++)
            put_of_row(orders[k][i]);
        journal_commit(journal);
        settle();
        assert_int_equal(n_lost, 1);
        expect_all_but(1);
    }
}

/* Who publishes may say what he likes. */
static void payloads_that_overlap_arrive_whole(void **state)
{
    (void)state;
    begin_case(JOURNAL_ALWAYS);
    fill_pool(1);
    put_pooled(20, 1000, 30);
    put_pooled(20, 1040, 30);
    put_pooled(20, 990, 30);
    put_pooled(20, 1000, 30);
    put_pooled(20, 1040, 30);
    put_pooled(20, 1050, 30);
    put_pooled(20, 980, 100);
    journal_commit(journal);
    settle();
    expect_all_but(0);
}

/* A message is moved within the journal, and its place there is between those of two payloads in
 * their pool. */
static void payload_comes_from_its_own_file(void **state)
{
    struct journal_source source = {.fd = -1, .offset = 20, .size = 80};
    uint32_t place;

    (void)state;
    begin_case(JOURNAL_ALWAYS);
    fill_pool(1);
    put_message(100);
    journal_commit(journal);
    settle();
    source.location = location_of(&things[1]);
    place = record_offset(source.location) + RECORD_HEAD_SIZE + 20;
    put_pooled(20, place - 30, 30);
    put_pooled(20, place + 80, 30);
    make_bytes(1);
    assert_int_equal(append_thing(1, &source, 20, JOURNAL_RESERVED), 0);
    journal_drop(journal, source.location);
    journal_commit(journal);
    settle();
    expect_all_but(0);
}

/* A place that came back is filled anew. */
static void payload_is_what_lies_there_when_its_message_is_committed(void **state)
{
    (void)state;
    begin_case(JOURNAL_ALWAYS);
    for (uint8_t round = 1; round <= 3; round++) {
        fill_pool(round);
        for (unsigned i = 0; i < 4; i++)
            put_of_row(i);
        journal_commit(journal);
        settle();
    }
    expect_all_but(0);
}

static void full_journal_refuses_what_is_new_and_takes_ends(void **state)
{
    const char *sentence;
    struct fake_log log;
    uint64_t age = 1;

    (void)state;
    begin_case(JOURNAL_ALWAYS);
    while (n_things < 1000) {
        unsigned next = n_things + 1;

        things[next] = (struct thing){.size = 2000, .kind = RECORD_PUT, .owner = 100};
        make_bytes(next);
        if (append_thing(next, NULL, 2000, JOURNAL_NEW) < 0)
            break;
        n_things = next;
        journal_commit(journal);
        settle();
    }
    assert_true(n_things > 100 && n_things < 250);
    assert_int_equal(journal_trouble(journal, &sentence), -ENOSPC);
    assert_non_null(strstr(sentence, "full"));
    for (; age <= n_things; age++) {
        assert_int_equal(end_things(&age, 1), 0);
        journal_commit(journal);
        settle();
    }
    put_message(2000);
    assert_int_equal(journal_trouble(journal, &sentence), 0);
    assert_null(sentence);
    journal = journal_close(journal);
    fake_disk_unmount(&log);
    fake_log_deinit(&log);
}

static void settings_that_cannot_be_are_refused_with_a_sentence(void **state)
{
    struct journal_settings settings = settings_of(JOURNAL_ALWAYS);
    char sentence[JOURNAL_SENTENCE];
    struct journal *j;

    (void)state;
    settings.segment_size = 100000;
    assert_int_equal(journal_open(&j, &settings, sentence), -EINVAL);
    assert_non_null(strstr(sentence, "journal_segment"));
    settings.segment_size = SEGMENT;
    settings.total_size = 4 * SEGMENT;
    assert_int_equal(journal_open(&j, &settings, sentence), -EINVAL);
    assert_non_null(strstr(sentence, "journal_size"));
    assert_null(j);
}

/* ---- Real files, a real thread ---- */

static char real_directory[64];

static struct journal_settings real_settings(enum journal_sync sync)
{
    struct journal_settings settings = settings_of(sync);

    settings.directory = real_directory;
    settings.files = NULL;
    return settings;
}

static void wait_until_done(uint64_t number)
{
    struct pollfd ready = {.fd = journal_fd(journal), .events = POLLIN};

    while (journal_done(journal) < number) {
        journal_commit(journal);
        assert_int_equal(poll(&ready, 1, 20000), 1);
        journal_collect(journal, take_event, NULL);
    }
}

static int count_thing(void *context, const struct record *record, uint32_t location)
{
    (void)record;
    (void)location;
    ++*(unsigned *)context;
    return 0;
}

static void real_journal_keeps_what_was_confirmed(void **state)
{
    char sentence[JOURNAL_SENTENCE], path[128], command[160];
    unsigned n = 0;
    struct journal_reader reader = {count_thing, take_damage, &n};
    struct journal_settings settings;
    struct journal *other;
    struct stat status;
    uint64_t highest;

    (void)state;
    journal_by_hand = false;
    snprintf(real_directory, sizeof(real_directory), "/tmp/test-journal-%d", getpid());
    settings = real_settings(JOURNAL_ALWAYS);
    assert_int_equal(journal_open(&journal, &settings, sentence), -ENOENT);
    assert_non_null(strstr(sentence, real_directory));
    assert_int_equal(mkdir(real_directory, 0700), 0);
    n_things = 0;
    for (enum journal_sync sync = JOURNAL_ALWAYS; sync <= JOURNAL_NEVER; sync++) {
        settings = real_settings(sync);
        n = n_damages = 0;
        assert_int_equal(journal_open(&journal, &settings, sentence), 0);
        assert_int_equal(journal_open(&other, &settings, sentence), -EWOULDBLOCK);
        assert_int_equal(journal_scan(journal, &reader, &highest, sentence), 0);
        assert_int_equal(n, n_things);
        assert_int_equal(highest, n_things);
        assert_int_equal(n_damages, 0);
        for (unsigned i = 0; i < 50; i++) {
            put_message(300);
            if (i % 5 == 0)
                wait_until_done(journal_appended(journal));
        }
        wait_until_done(journal_appended(journal));
        journal = journal_close(journal);
    }
    snprintf(path, sizeof(path), "%s/test", real_directory);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    assert_int_equal(chmod(path, 0777), 0);
    assert_int_equal(journal_open(&journal, &settings, sentence), -EPERM);
    snprintf(command, sizeof(command), "rm -r %s", real_directory);
    assert_int_equal(system(command), 0);
    journal_by_hand = true;
}

/* ---- The tests ---- */

static unsigned long n_runs = 8, first_seed = 1;

static void J1_J3_whatever_a_crash_leaves_is_a_prefix_with_all_that_was_promised(void **state)
{
    (void)state;
    journal_fault = JOURNAL_FAULT_NONE;
    n_lost = 0; /* in the cases above */
    for (unsigned long i = 0; i < n_runs && wrong[0] == '\0'; i++) {
        run(first_seed + i, 4, 600, 25);
        if (wrong[0] != '\0')
            print_error("seed %lu: %s\n", first_seed + i, wrong);
    }
    assert_string_equal(wrong, "");
    print_message("%" PRIu64 " images, %" PRIu64 " moves, %" PRIu64 " relocations, %" PRIu64
                  " times full, %" PRIu64 " lost sources\n",
                  n_images, n_moves, n_relocated, n_full, n_lost);
    assert_true(n_runs < 8 || (n_moves > 0 && n_relocated > 0 && n_full > 0 && n_lost > 0));
}

static void every_planted_fault_is_found(void **state)
{
    unsigned missed = 0;

    (void)state;
    for (enum journal_fault fault = 1; fault < N_JOURNAL_FAULTS; fault++) {
        unsigned long i = 0;

        /* Chance neither forges nor damages: see the cases above. */
        if (fault == JOURNAL_FAULT_NO_SEED || fault == JOURNAL_FAULT_NO_SYNCED)
            continue;
        wrong[0] = '\0';
        journal_fault = fault;
        while (i < 40 && wrong[0] == '\0')
            run(1000 + i++, 4, 600, 10);
        if (wrong[0] == '\0') {
            print_error("fault %d was not found\n", (int)fault);
            missed++;
        } else {
            print_message("fault %d: run %lu: %s\n", (int)fault, i, wrong);
        }
    }
    wrong[0] = '\0';
    journal_fault = JOURNAL_FAULT_NONE;
    assert_int_equal(missed, 0);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(J1_damage_is_named_and_the_rest_is_served),
        cmocka_unit_test(damage_to_the_last_commit_before_a_clean_end_is_no_torn_tail),
        cmocka_unit_test(header_that_is_damaged_is_read_from_its_copy),
        cmocka_unit_test(segment_that_is_missing_is_named),
        cmocka_unit_test(J1_payload_cannot_pretend_to_be_a_record),
        cmocka_unit_test(payloads_beside_each_other_are_read_together_in_either_order),
        cmocka_unit_test(payload_that_has_gone_is_lost_alone),
        cmocka_unit_test(payloads_that_overlap_arrive_whole),
        cmocka_unit_test(payload_comes_from_its_own_file),
        cmocka_unit_test(payload_is_what_lies_there_when_its_message_is_committed),
        cmocka_unit_test(full_journal_refuses_what_is_new_and_takes_ends),
        cmocka_unit_test(settings_that_cannot_be_are_refused_with_a_sentence),
        cmocka_unit_test(real_journal_keeps_what_was_confirmed),
        cmocka_unit_test(J1_J3_whatever_a_crash_leaves_is_a_prefix_with_all_that_was_promised),
        cmocka_unit_test(every_planted_fault_is_found),
    };

    if (argc > 1)
        n_runs = strtoul(argv[1], NULL, 10);
    if (argc > 2)
        first_seed = strtoul(argv[2], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
