/* The keeper, once a turn:
 *
 *   1. what the helper of the journal has synced is told the engine: confirms go out
 *   2. what the engine made and what ended is appended, and handed to the helper
 *   3. payloads that are wanted are asked for, and what lives in a segment that is to be used again
 *   4. when all that is on its way to clients, what was written leaves the store
 *
 * Nothing here waits for the disk but a start. What is lost with the process is in the store, or in
 * the ledger's ring of ends, and is appended again by the next one. */
#include "broker/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/durable.h"
#include "broker/groups.h"
#include "broker/journal.h"
#include "broker/pools.h"
#include "broker/shell.h"
#include "libclient/names.h"

enum {
    ENDS = 1000,   /* ages in one record at most */
    MOVES = 16,    /* records on their way out of a segment at once */
    RETIRED = 256, /* descriptors of pools that the helper may still read from */
    SECOND = 1000000000,
};

enum purpose { NOTHING, LOAD, MOVE, KEEP };

/* A record that is being read back. */
struct reading {
    enum purpose purpose;
    uint16_t group; /* LOAD: whose message it is */
    uint32_t slot;  /* of the reference; MOVE: or group */
    uint64_t age;
    uint32_t location;
    struct durable_item item; /* MOVE: as it is now */
    /* Its payload is on its way into a pool of our own: */
    struct segment pool;
    uint64_t nonce;
    uint32_t pool_slot;
    uint8_t frame[WIRE_QUEUE_MAX]; /* … as it will be delivered */
    uint32_t size;
    struct record record; /* KEEP */
};

struct pool_descriptor {
    uint64_t nonce;
    int fd; /* negative: none */
};

/* A retained message with a large payload, which is brought back when all else is there. */
struct large {
    struct record record; /* without bytes */
    uint32_t location;
};

struct keeper {
    struct journal *journal;
    struct loop_source source;
    struct reading readings[JOURNAL_READS];
    uint32_t n_moving;
    bool emptying;                       /* a segment */
    uint32_t segment;                    /* … this one */
    uint32_t cursor;                     /* … has been looked at so far; UINT32_MAX: to its end */
    uint64_t emptied;                    /* number of the last record that was moved */
    struct pool_descriptor *descriptors; /* by row */
    struct {
        int fd;
        uint64_t number; /* until it was written */
    } retired[RETIRED];
    uint32_t n_retired;
    struct large *large;
    uint32_t n_large;
    uint64_t shown;   /* number of the last append when the board was written */
    bool awaits_more; /* before it commits */
    bool postponed;   /* something due: a segment is being made or emptied */
    uint64_t wall;    /* CLOCK_REALTIME less CLOCK_BOOTTIME, nanoseconds */
    struct log_limit trouble_limit;
    struct log_limit damage_limit;
};

/* ---- Time ---- */

/* Expiries in the journal outlive the machine's clock since boot: in seconds of CLOCK_REALTIME. */
static uint32_t when_of(const struct keeper *k, uint64_t expiry)
{
    return expiry == 0 ? 0 : (uint32_t)((expiry + k->wall + SECOND - 1) / SECOND);
}

static uint64_t expiry_of(const struct keeper *k, uint32_t when)
{
    uint64_t wall = (uint64_t)when * SECOND;

    if (when == 0)
        return 0;
    return wall > k->wall ? wall - k->wall : 1; /* before this boot */
}

/* ---- Descriptors of pools ---- */

static void close_written(struct keeper *k)
{
    uint64_t written = journal_written(k->journal);
    uint32_t kept = 0;

    for (uint32_t i = 0; i < k->n_retired; i++) {
        if (k->retired[i].number <= written)
            close(k->retired[i].fd);
        else
            k->retired[kept++] = k->retired[i];
    }
    k->n_retired = kept;
}

/* The helper may have it to read still, for the record of this number. */
static void retire(struct keeper *k, int fd, uint64_t number)
{
    if (fd < 0)
        return;
    if (k->n_retired == RETIRED)
        close_written(k);
    if (k->n_retired == RETIRED) { /* the record that it is for is lost, and said to be */
        close(fd);
        return;
    }
    k->retired[k->n_retired].fd = fd;
    k->retired[k->n_retired++].number = number;
}

/* By its name, checked like all that a client makes (S1). -errno if it is not there, or not one. */
static int open_pool(const struct broker *b, uint64_t nonce)
{
    char name[NAMES_MAX];
    struct stat status;
    int fd;

    names_pool(name, b->instance, nonce);
    fd = shm_open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_nlink == 1 &&
        status.st_uid == b->engine.uid)
        return fd;
    close(fd);
    return -EBADF;
}

/* A publisher's is kept open. NULL: this pool has no publisher any more. */
static struct pool_descriptor *publishers_pool(struct broker *b, uint64_t nonce)
{
    struct keeper *k = b->keeper;
    uint16_t pool = pools_find(&b->engine, nonce);
    uint16_t owner = pool == 0 ? REF_NOBODY : b->engine.pools[pool - 1].owner;
    struct pool_descriptor *d;

    if (owner == REF_NOBODY)
        return NULL;
    d = &k->descriptors[owner];
    if (d->fd >= 0 && d->nonce == nonce)
        return d;
    retire(k, d->fd, journal_appended(k->journal));
    *d = (struct pool_descriptor){.nonce = nonce, .fd = open_pool(b, nonce)};
    return d;
}

/* Else a pool would keep its memory after its name has gone. */
void keeper_forget(struct broker *b, uint16_t row)
{
    struct keeper *k = b->keeper;

    if (k == NULL)
        return;
    retire(k, k->descriptors[row].fd, journal_appended(k->journal));
    k->descriptors[row].fd = -1;
}

/* ---- To the journal ---- */

/* What the engine may claim: the space that there is now. */
static void give_space(struct broker *b)
{
    struct keeper *k = b->keeper;
    struct record_space space;
    const char *sentence;
    int trouble;

    if (durable_was_short(&b->engine))
        journal_short_of_room(k->journal);
    trouble = journal_trouble(k->journal, &sentence);
    journal_space(k->journal, &space);
    durable_give_space(&b->engine, &space,
                       trouble == 0         ? WIRE_C_OK
                       : trouble == -ENOSPC ? WIRE_C_JOURNAL_FULL
                                            : WIRE_C_JOURNAL_ERROR);
}

static void say_trouble(struct broker *b)
{
    struct keeper *k = b->keeper;
    const char *sentence;
    int trouble = journal_trouble(k->journal, &sentence);

    board_set(&b->engine.board->journal.full, trouble != 0);
    if (trouble != 0)
        log_limited(&k->trouble_limit, b->engine.now, CONFIG_LOG_WARNING,
                    "%s; durable messages are refused", sentence);
}

static enum journal_claim claim_of(const struct durable_item *item)
{
    if (item->record.kind == RECORD_MOVE)
        return JOURNAL_RESERVED;
    return item->inherited ? JOURNAL_TAKEN : JOURNAL_NEW;
}

/* Append it, with what the helper is to read of its payload. As journal_append(), or why its pool
 * cannot be opened. */
static int append_record(struct broker *b, const struct durable_item *item, uint32_t *location)
{
    struct keeper *k = b->keeper;
    struct pool_descriptor *d;
    struct journal_source source = {.offset = (uint64_t)item->place.offset * WIRE_SLOT_UNIT,
                                    .size = item->place.size};
    int r;

    if (item->place.size == 0)
        return journal_append(k->journal, &item->record, NULL, claim_of(item), location);
    d = publishers_pool(b, item->place.pool);
    source.fd = d != NULL ? d->fd : open_pool(b, item->place.pool);
    if (source.fd < 0)
        return source.fd;
    r = journal_append(k->journal, &item->record, &source, claim_of(item), location);
    if (d == NULL && r < 0)
        close(source.fd);
    else if (d == NULL)
        retire(k, source.fd, journal_appended(k->journal));
    return r;
}

/* False: no more now. */
static bool append_item(struct broker *b, struct durable_item *item)
{
    struct keeper *k = b->keeper;
    uint32_t location;
    int r;

    item->record.when = when_of(k, item->expiry);
    r = append_record(b, item, &location);
    switch (r) {
    case 0:
        if (item->record.kind != RECORD_MOVE)
            journal_keep(k->journal, location);
        durable_appended(&b->engine, item, location, journal_appended(k->journal));
        return true;
    case -EAGAIN:
        durable_postponed(&b->engine);
        return false;
    case -ENOSPC:
    case -EIO:
    case -ENOMEM:
    case -EMFILE:
    case -ENFILE:
        durable_passed_over(&b->engine, item);
        return true;
    default:
        log_limited(&k->trouble_limit, b->engine.now, CONFIG_LOG_WARNING,
                    "something durable cannot be written to the journal: %s", strerror(-r));
        durable_refused(&b->engine, item, WIRE_C_JOURNAL_ERROR);
        return true;
    }
}

/* What has ended, many in a record. */
static void append_ends(struct broker *b)
{
    struct keeper *k = b->keeper;
    uint64_t ages[ENDS];
    uint32_t locations[ENDS];
    uint32_t n;

    while ((n = durable_ended(&b->engine, ages, locations, ENDS)) > 0) {
        struct record record = {.kind = RECORD_END,
                                .age = ages[0],
                                .size = n * (uint32_t)sizeof(*ages),
                                .bytes = (const uint8_t *)ages};
        uint32_t location;

        if (journal_append(k->journal, &record, NULL, JOURNAL_RESERVED, &location) < 0)
            return; /* they stay in the ledger's ring */
        for (uint32_t i = 0; i < n; i++) {
            if (locations[i] != 0)
                journal_drop(k->journal, locations[i]);
        }
        durable_ended_appended(&b->engine, n, journal_appended(k->journal));
    }
}

void keeper_append(struct broker *b)
{
    struct keeper *k = b->keeper;
    struct durable_item item;

    if (k == NULL)
        return;
    k->postponed = false;
    for (uint64_t n = durable_due(&b->engine);
         n > 0 && !k->postponed && durable_next(&b->engine, &item); n--)
        k->postponed = !append_item(b, &item);
    if (!k->postponed) /* what goes on in another record is in that before this one ends */
        append_ends(b);
    if (durable_due(&b->engine) == 0)
        durable_stamp(&b->engine, journal_appended(k->journal));
    give_space(b);
}

/* ---- Read back ---- */

static struct reading *find_free(struct keeper *k)
{
    for (uint32_t i = 0; i < JOURNAL_READS; i++) {
        if (k->readings[i].purpose == NOTHING)
            return &k->readings[i];
    }
    return NULL;
}

static uint64_t tag_of(const struct keeper *k, const struct reading *r)
{
    return (uint64_t)(r - k->readings);
}

static void end_reading(struct broker *b, struct reading *r)
{
    if (r->purpose == LOAD)
        groups_loaded(&b->engine, r->group);
    if (r->purpose == MOVE)
        b->keeper->n_moving--;
    segment_close(&r->pool);
    r->purpose = NOTHING;
}

static void log_damage(struct broker *b, const char *what)
{
    log_limited(&b->keeper->damage_limit, b->engine.now, CONFIG_LOG_ERROR,
                "the journal cannot be read: %s; see mqctl journal check", what);
    board_add(&b->engine.board->journal.counters.damaged, 1);
}

/* False: not now. A place that the journal does not have is damage like any other: it is lost. */
static bool ask(struct broker *b, struct reading *r)
{
    int status = journal_read(b->keeper->journal, r->location, tag_of(b->keeper, r));

    if (status < 0)
        r->purpose = NOTHING;
    if (status == -EBADMSG && r->slot != 0) {
        log_damage(b, "a place that is not in it");
        durable_lost(&b->engine, r->slot, r->age);
    }
    return status == 0;
}

/* Those that the engine wants: messages whose turn has come. */
static void ask_for_loads(struct broker *b)
{
    struct engine *e = &b->engine;
    struct slots_due *due = &e->loading;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < due->n; i++) {
        uint32_t slot = due->slots[i].slot;
        const struct reference *ref = engine_reference(e, slot);
        uint32_t location = durable_location(e, slot, due->slots[i].age);
        struct reading *r = find_free(b->keeper);

        if (location == 0 || !ref_on_disk(ref)) { /* not any more */
            groups_loaded(e, due->slots[i].group);
            continue;
        }
        if (r == NULL) {
            due->slots[kept++] = due->slots[i];
            continue;
        }
        r->purpose = LOAD;
        r->slot = slot;
        r->age = due->slots[i].age;
        r->location = location;
        r->group = due->slots[i].group;
        if (ask(b, r))
            continue;
        if (durable_location(e, slot, due->slots[i].age) == 0)
            groups_loaded(e, due->slots[i].group);
        else
            due->slots[kept++] = due->slots[i];
    }
    due->n = kept;
}

/* Its expiry as it is in this boot. */
static void patch_expiry(const struct engine *e, uint32_t slot, uint8_t *frame)
{
    wire_store64(frame + WIRE_AT_EXPIRY,
                 (uint64_t)engine_reference(e, slot)->when * UINT64_C(10000000));
}

/* A message with its payload in the frame. */
static void bring_in(struct broker *b, const struct reading *r, uint8_t *frame, uint32_t size)
{
    patch_expiry(&b->engine, r->slot, frame);
    groups_bring_in(&b->engine, &(struct groups_payload){
                                    .slot = r->slot, .age = r->age, .frame = frame, .size = size});
    board_add(&b->engine.board->journal.counters.loads, 1);
}

/* A pool of our own for one payload, named in the ledger before it is made: no kill leaves it
 * behind.
 */
static int make_pool(struct broker *b, struct reading *r, uint64_t payload)
{
    struct engine *e = &b->engine;
    char name[NAMES_MAX];
    struct pool_header *header;
    int status;

    r->pool_slot = pools_free_slot(e);
    if (r->pool_slot == UINT32_MAX)
        return -ENFILE;
    if (getrandom(&r->nonce, sizeof(r->nonce), 0) != (ssize_t)sizeof(r->nonce) || r->nonce == 0)
        return -EAGAIN;
    pools_adopt(e, REF_NOBODY, r->pool_slot, r->nonce);
    names_pool(name, b->instance, r->nonce);
    status = segment_create(&r->pool, name, POOL_PAYLOADS + payload, 0600);
    if (status == 0)
        status = segment_allocate(&r->pool, 0, POOL_PAYLOADS + payload);
    if (status < 0) {
        segment_close(&r->pool);
        shm_unlink(name);
        pools_gone(e, r->pool_slot);
        return status;
    }
    header = r->pool.base;
    header->magic = POOL_MAGIC;
    header->layout = POOL_LAYOUT;
    header->nonce = r->nonce;
    return 0;
}

/* Nobody came to need it. */
static void unmake_pool(struct broker *b, const struct reading *r)
{
    char name[NAMES_MAX];

    if (b->engine.pools[r->pool_slot].refs > 0)
        return;
    names_pool(name, b->instance, r->nonce);
    shm_unlink(name);
    pools_gone(&b->engine, r->pool_slot);
}

/* Its payload is too large for a frame: it is copied into a pool. False: no room; it is asked for
 * again. */
static bool fetch_payload(struct broker *b, struct reading *r, const uint8_t *bytes,
                          uint32_t payload)
{
    struct wire_frame f;

    r->size = wire_frame_size(bytes);
    memcpy(r->frame, bytes, r->size);
    if (wire_get_delivery(r->frame, r->size, &f) != WIRE_OK || make_pool(b, r, payload) < 0)
        return false;
    f.slot = (struct wire_slot){
        .pool = r->nonce, .offset = POOL_PAYLOADS / WIRE_SLOT_UNIT, .size = payload, .name = 1};
    wire_store64(r->frame + WIRE_AT_SLOT, f.slot.pool);
    wire_store32(r->frame + WIRE_AT_SLOT + 8, f.slot.offset);
    wire_store32(r->frame + WIRE_AT_SLOT + 12, f.slot.size);
    wire_store64(r->frame + WIRE_AT_SLOT_NAME, f.slot.name);
    if (journal_copy(b->keeper->journal, r->location, r->size, payload, r->pool.fd, POOL_PAYLOADS,
                     tag_of(b->keeper, r)) == 0)
        return true;
    unmake_pool(b, r);
    return false;
}

static void loaded(struct broker *b, struct reading *r, const struct journal_event *event)
{
    static uint8_t frame[WIRE_QUEUE_MAX];
    const struct record *record = &event->record;
    uint32_t size;

    if (event->result < 0 || record->size < WIRE_MESSAGE_SIZE ||
        (size = wire_frame_size(record->bytes)) > sizeof(frame)) {
        log_damage(b, "a message of a group");
        durable_lost(&b->engine, r->slot, r->age);
        end_reading(b, r);
        return;
    }
    if (size < record->size && fetch_payload(b, r, record->bytes, record->size - size))
        return; /* JOURNAL_COPIED says the rest */
    if (size == record->size) {
        memcpy(frame, record->bytes, size);
        bring_in(b, r, frame, size);
    }
    end_reading(b, r);
}

/* A large retained message is there again. */
static void keep_again(struct broker *b, struct reading *r)
{
    r->record.bytes = r->frame;
    r->record.size = r->size;
    if (memory_grow(&b->memory, &b->engine) < 0 ||
        durable_restore(&b->engine, &r->record, expiry_of(b->keeper, r->record.when), r->location) <
            0)
        log_damage(b, "a retained message");
}

static void copied(struct broker *b, struct reading *r, const struct journal_event *event)
{
    if (event->result < 0)
        log_damage(b, "a large payload");
    else if (r->purpose == KEEP)
        keep_again(b, r);
    else
        bring_in(b, r, r->frame, r->size);
    unmake_pool(b, r);
    end_reading(b, r);
}

/* ---- Moving out of a segment ---- */

static void move_on(struct broker *b, struct reading *r, const struct journal_event *event)
{
    struct keeper *k = b->keeper;
    struct record record = event->record;
    struct journal_source rest = {.fd = -1, .location = r->location};
    uint32_t location;

    if (event->result < 0) {
        log_damage(b, "something that is to be moved");
        journal_drop(k->journal, r->location);
        durable_lost(&b->engine, r->slot, r->age);
        end_reading(b, r);
        return;
    }
    record.owner = r->item.record.owner;
    record.tries = r->item.record.tries;
    if (record.size > JOURNAL_READ_MAX) {
        rest.offset = JOURNAL_READ_MAX;
        rest.size = record.size - JOURNAL_READ_MAX;
        record.size = JOURNAL_READ_MAX;
    }
    if (durable_location(&b->engine, r->slot, r->age) == r->location &&
        journal_append(k->journal, &record, rest.size > 0 ? &rest : NULL, JOURNAL_RESERVED,
                       &location) == 0) {
        journal_keep(k->journal, location);
        durable_moved(&b->engine, r->slot, r->age, location, journal_appended(k->journal));
        k->emptied = journal_appended(k->journal);
        board_add(&b->engine.board->journal.counters.moves, 1);
    }
    end_reading(b, r);
}

static void empty_segment(struct broker *b)
{
    struct keeper *k = b->keeper;

    if (!k->emptying || k->cursor == UINT32_MAX) {
        uint32_t segment;

        if (!journal_wants(k->journal, &segment)) {
            k->emptying = false;
            return;
        }
        if (k->n_moving > 0 || journal_written(k->journal) < k->emptied)
            return; /* what the round before moved keeps its old place until it is written */
        k->emptying = true;
        k->segment = segment;
        k->cursor = 0;
    }
    while (k->n_moving < MOVES) {
        struct reading *r = find_free(k);

        if (r == NULL)
            return;
        if (!durable_next_in(&b->engine, k->segment, &k->cursor, &r->item, &r->location)) {
            k->cursor = UINT32_MAX;
            return;
        }
        r->purpose = MOVE;
        r->slot = r->item.slot;
        r->age = r->item.record.age;
        if (!ask(b, r)) {
            k->cursor = 0; /* from the start again, next time */
            return;
        }
        k->n_moving++;
    }
}

/* ---- What the helper did ---- */

static void on_journal_event(void *context, const struct journal_event *event)
{
    struct broker *b = context;
    struct reading *r = &b->keeper->readings[event->tag % JOURNAL_READS];

    switch (event->type) {
    case JOURNAL_READ:
        if (r->purpose == MOVE)
            move_on(b, r, event);
        else if (r->purpose == LOAD)
            loaded(b, r, event);
        else if (event->result < 0 ||
                 !fetch_payload(b, r, event->record.bytes,
                                event->record.size - wire_frame_size(event->record.bytes)))
            end_reading(b, r);
        break;
    case JOURNAL_COPIED:
        copied(b, r, event);
        break;
    case JOURNAL_LOST:
        durable_unwritten(&b->engine, event->location);
        journal_drop(b->keeper->journal, event->location);
        break;
    case JOURNAL_RELOCATED:
        durable_relocated(&b->engine, event->location, event->to);
        for (uint32_t i = 0; i < JOURNAL_READS; i++)
            b->keeper->readings[i].location =
                durable_shifted(b->keeper->readings[i].location, event->location, event->to);
        break;
    }
}

static void drop_place(void *context, uint32_t location)
{
    journal_drop(context, location);
}

static bool collect(struct broker *b)
{
    struct keeper *k = b->keeper;
    bool any = journal_collect(k->journal, on_journal_event, b);

    durable_done(&b->engine, journal_done(k->journal));
    return any;
}

/* The event only says that a turn will find something. */
static void on_readable(struct loop_source *source, uint32_t events)
{
    (void)source;
    (void)events;
}

/* ---- A turn ---- */

static void show(struct broker *b)
{
    struct board_journal *board = &b->engine.board->journal;
    struct journal_figures f;

    b->keeper->shown = journal_appended(b->keeper->journal);
    journal_figures(b->keeper->journal, &f);
    board_set(&board->size_max, f.bytes_max);
    board_set(&board->size, f.bytes_used);
    board_set(&board->live, f.bytes_live);
    board_set(&board->segments, f.segments);
    board_set(&board->ready, f.ready);
    board_set(&board->unsynced,
              journal_appended(b->keeper->journal) - journal_synced(b->keeper->journal));
    board_set(&board->counters.records, journal_appended(b->keeper->journal));
    board_set(&board->counters.commits, f.commits);
    board_set(&board->counters.syncs, f.syncs);
    board_set(&board->counters.failures, f.failures);
}

void keeper_step(struct broker *b)
{
    struct keeper *k = b->keeper;
    bool collected;

    if (k == NULL)
        return;
    collected = collect(b);
    keeper_append(b);
    ask_for_loads(b);
    empty_segment(b);
    k->awaits_more = journal_awaits_more(k->journal);
    if (!k->awaits_more)
        journal_commit(k->journal);
    say_trouble(b);
    if (collected || k->shown != journal_appended(k->journal))
        show(b);
}

void keeper_settle(struct broker *b)
{
    struct keeper *k = b->keeper;

    if (k == NULL)
        return;
    durable_written(&b->engine, journal_written(k->journal), drop_place, k->journal);
    close_written(k);
    if (b->engine.loading.n == 0)
        return;
    ask_for_loads(b);
    journal_commit(k->journal);
}

bool keeper_is_busy(const struct broker *b)
{
    return b->keeper != NULL &&
           (b->keeper->postponed || journal_busy(b->keeper->journal) || keeper_is_behind(b));
}

bool keeper_awaits_more(const struct broker *b)
{
    return b->keeper != NULL && b->keeper->awaits_more;
}

bool keeper_is_behind(const struct broker *b)
{
    return durable_is_behind(&b->engine);
}

/* ---- Begin and end ---- */

int keeper_open(struct broker *b)
{
    static const enum journal_sync syncs[] = {
        [CONFIG_SYNC_ALWAYS] = JOURNAL_ALWAYS,
        [CONFIG_SYNC_INTERVAL] = JOURNAL_INTERVAL,
        [CONFIG_SYNC_NEVER] = JOURNAL_NEVER,
    };
    const struct config *c = &b->config;
    struct journal_settings settings = {
        .directory = c->journal,
        .instance = b->instance,
        .segment_size = (uint64_t)c->journal_segment,
        .total_size = (uint64_t)c->journal_size,
        .ready_size = (uint64_t)c->journal_ready,
        .sync = syncs[c->sync],
        .interval = (uint64_t)c->sync_interval * 1000000u,
    };
    char sentence[JOURNAL_SENTENCE];
    struct keeper *k;
    int r;

    if (c->journal[0] == '\0') {
        if (memory_ledger(&b->memory)->header.journal == LEDGER_VOLATILE)
            return 0;
        log_error("instance \"%s\" was left with durable messages in a journal: set `journal` to "
                  "where it is, or remove them with mqctl cleanup",
                  b->instance);
        return -EPROTO;
    }
    k = calloc(1, sizeof(*k));
    if (k == NULL || (k->descriptors = calloc(b->engine.n_rows, sizeof(*k->descriptors))) == NULL) {
        free(k);
        return -ENOMEM;
    }
    k->source = LOOP_SOURCE_NONE;
    k->wall = shell_clock(CLOCK_REALTIME) - shell_clock(CLOCK_BOOTTIME);
    for (uint32_t i = 0; i < b->engine.n_rows; i++)
        k->descriptors[i].fd = -1;
    for (uint32_t i = 0; i < JOURNAL_READS; i++)
        k->readings[i].pool = SEGMENT_CLOSED;
    b->keeper = k;
    r = journal_open(&k->journal, &settings, sentence);
    if (r < 0) {
        log_error("%s", sentence);
        return r;
    }
    return durable_init(&b->engine);
}

static void report_damage(void *context, const char *sentence)
{
    struct broker *b = context;

    log_error("%s", sentence);
    board_add(&b->engine.board->journal.counters.damaged, 1);
}

/* A retained message whose payload is too large for a frame comes when the journal runs. */
static bool put_off(struct keeper *k, const struct record *record, uint32_t location)
{
    struct large *more;

    if (record->kind != RECORD_KEPT || record->size < WIRE_MESSAGE_SIZE ||
        wire_frame_size(record->bytes) == record->size)
        return false;
    more = reallocarray(k->large, k->n_large + 1, sizeof(*more));
    if (more == NULL)
        return true;
    k->large = more;
    k->large[k->n_large] = (struct large){.record = *record, .location = location};
    k->large[k->n_large++].record.bytes = NULL;
    return true;
}

static int restore(void *context, const struct record *record, uint32_t location)
{
    struct broker *b = context;
    struct keeper *k = b->keeper;
    int r = memory_grow(&b->memory, &b->engine);

    if (b->engine.ledger->header.committed > 1)
        return -EEXIST;
    if (r < 0 || put_off(k, record, location))
        return r;
    r = durable_restore(&b->engine, record, expiry_of(k, record->when), location);
    if (r == -EBADMSG)
        report_damage(b, "a record of the journal makes no sense: it is passed over");
    if (r == 1)
        report_damage(b, "the record of a group is lost: what it had is in a group that is called "
                         "\"lost-\" and a number");
    return r == -EBADMSG || r == 1 ? 0 : r;
}

static bool is_reading(const struct keeper *k)
{
    for (uint32_t i = 0; i < JOURNAL_READS; i++) {
        if (k->readings[i].purpose != NOTHING)
            return true;
    }
    return false;
}

/* Read large retained messages back into pools, and wait for it. */
static int restore_large(struct broker *b)
{
    struct keeper *k = b->keeper;
    struct pollfd ready = {.fd = journal_fd(k->journal), .events = POLLIN};
    uint32_t n = 0;

    while (n < k->n_large || is_reading(k)) {
        struct reading *r = n < k->n_large ? find_free(k) : NULL;

        if (r != NULL) {
            r->purpose = KEEP;
            r->slot = 0;
            r->record = k->large[n].record;
            r->location = k->large[n++].location;
            if (ask(b, r))
                continue;
            n--;
        }
        journal_commit(k->journal);
        if (poll(&ready, 1, -1) < 0 && errno != EINTR)
            return -errno;
        journal_collect(k->journal, on_journal_event, b);
    }
    return 0;
}

static int fill_store(struct broker *b)
{
    struct keeper *k = b->keeper;
    struct journal_reader reader = {.thing = restore, .damage = report_damage, .context = b};
    char sentence[JOURNAL_SENTENCE] = "";
    uint64_t highest = 0;
    uint64_t since = shell_clock(CLOCK_MONOTONIC);
    int r;

    persist_u64(&b->engine.ledger->header.journal, LEDGER_FILLING);
    r = journal_scan(k->journal, &reader, &highest, sentence);
    if (r == 0)
        r = restore_large(b);
    if (r == -ENOSPC) {
        log_error("what is in the journal of instance \"%s\" does not fit: raise max_groups, "
                  "references or store_size, or make room in /dev/shm",
                  b->instance);
        return r;
    }
    if (r == -EEXIST)
        log_error("instance \"%s\" was left by a broker without a journal, and there is one with "
                  "something in it: start it without `journal` and stop it cleanly first",
                  b->instance);
    else if (r < 0)
        log_error("%s", sentence[0] != '\0' ? sentence : strerror(-r));
    if (r < 0)
        return r;
    durable_restored(&b->engine, highest);
    persist_u64(&b->engine.ledger->header.journal, LEDGER_JOURNAL);
    if (b->engine.n_grouped > 0 || b->engine.n_retained > 0)
        log_info("%" PRIu32 " messages of groups and %" PRIu32
                 " retained ones from the journal, in %" PRIu64 " ms",
                 b->engine.n_grouped, b->engine.n_retained,
                 (shell_clock(CLOCK_MONOTONIC) - since) / 1000000);
    return 0;
}

static void keep_place(void *context, uint32_t location)
{
    journal_keep(context, location);
}

/* Places that the store still knows; the rest is appended again. */
static int go_on(struct broker *b)
{
    struct journal_reader reader = {.damage = report_damage, .context = b};
    char sentence[JOURNAL_SENTENCE];
    int r = journal_continue(b->keeper->journal, &reader, sentence);

    if (r < 0) {
        log_error("%s", sentence);
        return r;
    }
    durable_each_place(&b->engine, keep_place, b->keeper->journal);
    return 0;
}

/* Is there a store already? */
static bool is_filled(const struct ledger_header *h)
{
    return h->journal == LEDGER_JOURNAL || (h->journal == LEDGER_FILLING && h->committed > 1);
}

int keeper_start(struct broker *b)
{
    struct keeper *k = b->keeper;
    int r;

    if (k == NULL)
        return 0;
    if (is_filled(&b->engine.ledger->header)) {
        persist_u64(&b->engine.ledger->header.journal, LEDGER_JOURNAL);
        r = go_on(b);
    } else {
        r = fill_store(b);
    }
    if (r == 0)
        r = loop_add(&b->loop, &k->source, journal_fd(k->journal), EPOLLIN, on_readable);
    board_set(&b->engine.board->journal.enabled, 1);
    return r;
}

void keeper_close(struct broker *b)
{
    struct keeper *k = b->keeper;

    if (k == NULL)
        return;
    if (k->journal != NULL && b->engine.durable != NULL)
        keeper_append(b);
    loop_remove(&b->loop, &k->source);
    journal_close(k->journal);
    for (uint32_t i = 0; i < k->n_retired; i++)
        close(k->retired[i].fd);
    for (uint32_t i = 0; i < b->engine.n_rows; i++) {
        if (k->descriptors[i].fd >= 0)
            close(k->descriptors[i].fd);
    }
    for (uint32_t i = 0; i < JOURNAL_READS; i++)
        segment_close(&k->readings[i].pool);
    free(k->descriptors);
    free(k->large);
    free(k);
    b->keeper = NULL;
}
