/* Fuzz target: the input is a script for the engine on its rig: sessions come, subscribe, publish,
 * ask, answer, send nonsense, read or do not, die; the broker dies too, between turns, with an
 * envelope in the landing, or with a batch under way. Payloads lie in pools as well, and clients
 * may lie: what they write there for the broker (release ring, its count, which buffers they
 * emptied, what they wait for) is what the script says. It holds after each step that
 *
 *   - everything derived is what the references say (engine_fault);
 *   - what is granted to a session never shrinks;
 *   - a broker that dies between turns leaves another that derives the same;
 *   - what a session reads of one priority comes in the order in which it was routed, and once;
 *   - what it reads in a pool stays as it is until it is given back, whoever else lies;
 *
 * and at the end that what waits can be delivered, that each place in a pool has come back, and
 * that sessions which end leave nothing. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/engine-check.h"
#include "tests/support/engine-rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    ROWS = 4,
    N_NAMES = 16,       /* of requests that were read, to be answered */
    N_READINGS = 64,    /* payloads that a session reads in place */
    FRAMES = 12,        /* in an envelope at most */
    SLOW_STEPS = 300,   /* longer scripts find nothing more */
    DRAIN_TURNS = 2000, /* more than what the store holds can need */
};

/* What our messages begin with, so that they are not taken for nonsense that came through. */
#define MARK UINT64_C(0x5eed5eed0badf00d)

struct stamp {
    uint64_t mark;
    uint64_t sequence; /* rises from message to message */
};

/* A payload that is read where it lies. */
struct reading {
    struct wire_slot slot;
    uint64_t payload;
};

struct run {
    struct rig rig;
    const uint8_t *at;
    size_t left;
    uint64_t sequence;
    uint64_t names[N_NAMES];
    uint32_t n_names;
    bool forged; /* nonsense with our mark was sent: order tells nothing any more */
    bool lost;   /* nonsense was sent: places in what stood behind it were never told of */
    struct {
        uint64_t age; /* of the session that these are about */
        uint64_t grant;
        uint64_t last[WIRE_LEVELS];
        bool lies;
        bool gone; /* dead, or has said goodbye: it reads nothing any more */
        struct reading readings[N_READINGS];
        uint32_t n_readings;
        uint64_t old_name; /* that it has given back already */
    } rows[ROWS];
};

static void must(bool condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "fuzz-engine: %s\n", what);
        abort();
    }
}

static uint8_t next(struct run *run)
{
    if (run->left == 0)
        return 0;
    run->left--;
    return *run->at++;
}

static uint16_t next_row(struct run *run)
{
    return (uint16_t)(next(run) % ROWS);
}

static const char *next_topic(struct run *run)
{
    static const char *const topics[] = {"a",  "a/b",  "a/b/c", "b",   "b/b", "c/d/e", "@ann",
                                         "@x", "c//d", "$SYS",  "a/#", "f",   "g",     "h"};

    return topics[next(run) % (sizeof(topics) / sizeof(topics[0]))];
}

static const char *next_filter(struct run *run)
{
    static const char *const filters[] = {"a",   "a/#", "#", "+",  "+/b", "a/+/c", "b", "a/b",
                                          "c/#", "$#",  "",  "a#", "+/+", "@ann",  "f", "c//d"};

    return filters[next(run) % (sizeof(filters) / sizeof(filters[0]))];
}

/* Short, long, gone already, none. */
static uint64_t next_expiry(struct run *run)
{
    uint64_t now = run->rig.engine.now;

    switch (next(run) % 5) {
    case 0:
        return now + 20000000;
    case 1:
        return now + 3 * RIG_SECOND;
    case 2:
        return now - 1;
    default:
        return 0;
    }
}

/* ---- Payloads in pools ---- */

static bool has_pool(const struct run *run, uint16_t row)
{
    return run->rig.segments[row] != NULL && run->rig.segments[row]->pool != NULL;
}

static void give_back(struct run *run, uint16_t row, uint32_t i)
{
    struct reading *readings = run->rows[row].readings;

    run->rows[row].old_name = readings[i].slot.name;
    rig_release(&run->rig, row, readings[i].slot.name);
    readings[i] = readings[--run->rows[row].n_readings];
}

static void begin_reading(struct run *run, uint16_t row, const struct wire_frame *f)
{
    if (run->rows[row].lies || run->rows[row].gone)
        return;
    if (run->rows[row].n_readings == N_READINGS)
        give_back(run, row, 0);
    run->rows[row].readings[run->rows[row].n_readings++] =
        (struct reading){.slot = f->slot, .payload = rig_payload(&run->rig, f)};
}

static void leave(struct run *run, uint16_t row)
{
    run->rows[row].gone = true;
    run->rows[row].n_readings = 0;
}

/* Give back in any order, and one of them once more. */
static void give_back_some(struct run *run)
{
    uint16_t row = next_row(run);
    uint8_t how = next(run);

    if (how > 127 && has_pool(run, row) && !run->rows[row].lies)
        rig_release(&run->rig, row, run->rows[row].old_name);
    for (int n = how % 8; n >= 0 && run->rows[row].n_readings > 0; n--)
        give_back(run, row, next(run) % run->rows[row].n_readings);
}

static void give_back_all(struct run *run, uint16_t row)
{
    while (run->rows[row].n_readings > 0)
        give_back(run, row, 0);
}

/* A name of which the script knows something: the slot, or all of what another reads. */
static uint64_t next_name(struct run *run)
{
    uint16_t row = next_row(run);
    uint32_t n = run->rows[row].n_readings;
    uint8_t which = next(run);

    if (n > 0 && which % 3 != 0)
        return run->rows[row].readings[which % n].slot.name ^ (which % 3 == 1 ? next(run) : 0);
    return ref_name(which, next(run));
}

static uint64_t next_word(struct run *run)
{
    uint64_t word = 0;

    for (int i = 0; i < 8; i++)
        word = word << 8 | next(run);
    return word;
}

/* From now on it answers for nothing. */
static void lie(struct run *run)
{
    uint16_t row = next_row(run);
    uint8_t what = next(run);
    struct pool_header *pool;
    struct outbox_header *outbox;
    uint64_t released;

    if (!has_pool(run, row))
        return;
    pool = run->rig.segments[row]->pool;
    outbox = run->rig.segments[row]->outbox;
    run->rows[row].lies = true;
    run->rows[row].n_readings = 0;
    run->rig.queues[row].lies = true;
    switch (what % 6) {
    case 0:
        atomic_store(&pool->released, next_word(run));
        break;
    case 1:
        atomic_store(&pool->wants, next_word(run));
        break;
    case 2:
        atomic_store(&pool->taken[next(run) % OUTBOX_BUFFERS], next_word(run));
        break;
    case 3: /* as if it had emptied a buffer */
        what = next(run) % OUTBOX_BUFFERS;
        atomic_store(&pool->taken[what], atomic_load(&outbox->sent[what]));
        break;
    default:
        released = atomic_load(&pool->released);
        for (int n = next(run) % 8; n >= 0; n--)
            atomic_store(&pool->ring[released++ % POOL_RING], next_name(run));
        atomic_store(&pool->released, released);
        break;
    }
}

/* Wait for so many places, or not any more. */
static void wait_for_places(struct run *run)
{
    uint16_t row = next_row(run);
    uint8_t n = next(run) % 8;

    if (has_pool(run, row))
        atomic_store(&run->rig.segments[row]->pool->wants,
                     n == 0 ? 0 : atomic_load(&run->rig.segments[row]->outbox->returned) + n);
}

static void check_readings(struct run *run)
{
    for (uint16_t row = 0; row < ROWS; row++) {
        for (uint32_t i = 0; i < run->rows[row].n_readings; i++) {
            struct reading *reading = &run->rows[row].readings[i];
            struct wire_frame f = {.flags = WIRE_F_POOLED, .slot = reading->slot};

            must(rig_payload(&run->rig, &f) == reading->payload,
                 "a payload changed under its reader");
        }
    }
}

/* Owners look whenever they like: here, always. */
static void check_pools(struct run *run)
{
    if (run->forged)
        return;
    for (uint32_t i = 0; i < RIG_POOLS; i++) {
        struct segments *s = run->rig.pools[i];

        if (s != NULL && s->outbox != NULL)
            segments_look(s);
    }
    check_readings(run);
    for (uint32_t i = 0; i < RIG_POOLS; i++) {
        const struct segments *s = run->rig.pools[i];

        must(s == NULL || s->fault == NULL, s == NULL ? "" : s->fault);
    }
    must(run->rig.fault == NULL, run->rig.fault);
}

/* Nothing waits and nobody reads: what is out are kept messages. */
static void check_places(struct run *run)
{
    const struct engine *e = &run->rig.engine;

    check_pools(run);
    for (uint16_t row = 0; row < ROWS; row++) {
        if (run->forged || run->lost || run->rows[row].lies)
            return;
    }
    for (uint16_t row = 0; row < ROWS; row++) {
        if (has_pool(run, row) && engine_row(e, row)->state == ROW_LIVE)
            must(run->rig.segments[row]->n_given == e->pools[engine_row(e, row)->pool_slot].refs,
                 "a place is lost");
    }
}

/* ---- Invariants ---- */

static void check(struct run *run)
{
    struct engine *e = &run->rig.engine;
    const char *fault;

    engine_show(e);
    fault = engine_fault(e);
    must(fault == NULL, fault);
    for (uint16_t row = 0; row < ROWS; row++) {
        uint64_t grant = board_get(&board_row(e->board, row)->grant);

        must(engine_row(e, row)->state != ROW_FREE || run->rows[row].n_readings == 0,
             "a row is free whose client still reads");
        if (engine_row(e, row)->state != ROW_LIVE)
            continue;
        if (run->rows[row].age != engine_row(e, row)->age) {
            memset(&run->rows[row], 0, sizeof(run->rows[row]));
            run->rows[row].age = engine_row(e, row)->age;
        }
        must(grant >= run->rows[row].grant, "a grant shrank");
        run->rows[row].grant = grant;
    }
    check_pools(run);
}

static void check_order(struct run *run, uint16_t row, const struct wire_frame *f)
{
    struct stamp stamp;

    if (run->forged || (f->flags & WIRE_F_RETAIN) != 0)
        return;
    if ((f->flags & WIRE_F_POOLED) != 0 && !run->rows[row].lies)
        stamp = (struct stamp){MARK, rig_payload(&run->rig, f)};
    else if ((f->flags & WIRE_F_POOLED) == 0 && f->payload_size >= sizeof(stamp))
        memcpy(&stamp, f->payload, sizeof(stamp));
    else
        return;
    if (stamp.mark != MARK)
        return;
    must(stamp.sequence > run->rows[row].last[f->priority], "read twice, or out of order");
    run->rows[row].last[f->priority] = stamp.sequence;
}

/* ---- Envelopes ---- */

static void add_message(struct run *run, uint16_t row, uint8_t type)
{
    static char payload[RIG_FRAME_MAX];
    struct stamp stamp = {MARK, ++run->sequence};
    uint8_t shape = next(run);
    struct wire_slot slot;
    struct rig_message m = {
        .type = type,
        .priority = next(run) % WIRE_LEVELS,
        .expiry = next_expiry(run),
        .payload = payload,
        .payload_size = sizeof(stamp) + (shape & 3) * 250u,
    };

    memcpy(payload, &stamp, sizeof(stamp));
    if (type == WIRE_REPLY) {
        m.number = run->names[next(run) % N_NAMES];
    } else {
        m.topic = next_topic(run);
        m.number = run->sequence;
    }
    if (type == WIRE_REQUEST && m.expiry == 0)
        m.expiry = run->rig.engine.now + RIG_SECOND;
    if (type == WIRE_PUBLISH) {
        m.flags = (uint16_t)(shape >> 2 & (WIRE_F_RETAIN | WIRE_F_CONFIRM));
        if ((m.flags & WIRE_F_CONFIRM) == 0)
            m.number = 0;
        if ((m.flags & WIRE_F_RETAIN) != 0 && (shape & 0x30) == 0)
            m.payload = NULL, m.payload_size = 0;
    }
    if ((shape & 0x40) != 0 && m.payload != NULL && has_pool(run, row) &&
        segments_put(run->rig.segments[row], stamp.sequence, 1u << (shape % 3 * 9), &slot))
        m.slot = &slot;
    rig_add(&run->rig, &m);
}

static void add_nonsense(struct run *run)
{
    static const uint64_t mark = MARK;
    size_t size = next(run);

    if (size > run->left)
        size = run->left;
    run->forged = run->forged || memmem(run->at, size, &mark, sizeof(mark)) != NULL;
    run->lost = true;
    rig_add_bytes(&run->rig, run->at, size);
    run->at += size;
    run->left -= size;
}

static void add_fetch(struct run *run)
{
    uint8_t frame[WIRE_FETCH_SIZE];
    uint64_t name = next_name(run);

    run->lost = run->lost || name == 0; /* malformed: the broker reads no further */
    rig_add_bytes(&run->rig, frame, wire_put_fetch(frame, name));
}

static void add_frame(struct run *run, uint16_t row)
{
    struct rig *r = &run->rig;
    uint8_t kind = next(run);

    switch (kind % 13) {
    case 0:
        rig_add_text(r, WIRE_SUBSCRIBE, kind & WIRE_F_NO_RETAINED, kind, next_filter(run));
        break;
    case 1:
        rig_add_text(r, WIRE_SUBSCRIBE, 0, kind, next_filter(run));
        break;
    case 2:
        rig_add_text(r, WIRE_UNSUBSCRIBE, 0, kind, next_filter(run));
        break;
    case 3:
        rig_add_text(r, WIRE_REPORT, 0, kind, next_topic(run));
        break;
    case 4:
        run->rows[row].lies = true; /* it may say goodbye, and read on */
        run->rows[row].n_readings = 0;
        run->rig.queues[row].lies = true;
        add_nonsense(run);
        break;
    case 5:
    case 6:
        add_message(run, row, WIRE_REQUEST);
        break;
    case 7:
    case 8:
        add_message(run, row, WIRE_REPLY);
        break;
    case 12:
        add_fetch(run);
        break;
    default:
        add_message(run, row, WIRE_PUBLISH);
        break;
    }
}

/* An envelope of a session, or of who says to be it. */
static void build(struct run *run)
{
    struct rig *r = &run->rig;
    uint8_t n = next(run);
    uint16_t row = next_row(run);

    run->lost = run->lost || engine_row(&r->engine, row)->state != ROW_LIVE;
    rig_begin(r, row);
    for (int i = 0; i <= n % FRAMES && r->envelope_size < WIRE_QUEUE_MAX - 2 * RIG_FRAME_MAX; i++)
        add_frame(run, row);
    if (r->envelope_size == WIRE_ENVELOPE_SIZE) {
        r->envelope_size += wire_put_bye(r->envelope + r->envelope_size);
        leave(run, row);
    }
    wire_store32(r->envelope + WIRE_AT_ENVELOPE_LENGTH, (uint32_t)r->envelope_size);
}

static void send_envelope(struct run *run)
{
    build(run);
    rig_send(&run->rig);
}

static void send_noise(struct run *run)
{
    uint8_t kind = next(run);
    size_t size = run->left < 200 ? run->left : 200;

    if (kind % 2 == 0 || size == 0) { /* an envelope with one byte changed */
        build(run);
        run->rig.envelope[next(run) % 40] ^= kind | 1;
        run->forged = true;
        for (uint16_t row = 0; row < ROWS; row++)
            run->rows[row].n_readings = 0;
        rig_route(&run->rig, run->rig.envelope, run->rig.envelope_size);
    } else {
        rig_route(&run->rig, run->at, size);
        run->at += size;
        run->left -= size;
    }
}

static void register_one(struct run *run)
{
    static const char *const names[] = {"", "ann", "bob", "", "a/b", "ann", "", ""};
    uint8_t kind = next(run);

    rig_register(&run->rig, 1 + kind % 16u + (kind & 0x40 ? run->sequence * 16 : 0),
                 names[kind % 8], kind >> 7);
}

/* ---- Reading ---- */

static bool read_one(struct run *run, uint16_t row)
{
    struct wire_frame f;

    if (!rig_read(&run->rig, row, &f))
        return false;
    if (f.type == WIRE_MESSAGE) {
        check_order(run, row, &f);
        if (f.flags & WIRE_F_POOLED)
            begin_reading(run, row, &f);
        if (f.flags & WIRE_F_REQUEST)
            run->names[run->n_names++ % N_NAMES] = f.number;
    }
    must(run->rows[row].lies ||
             run->rig.queues[row].header.missed <= engine_row(&run->rig.engine, row)->missed,
         "more was missed than dropped");
    return true;
}

static void read_some(struct run *run)
{
    uint16_t row = next_row(run);
    int n = 1 + next(run) % 32;

    while (n-- > 0 && read_one(run, row))
        ;
}

/* ---- Deaths ---- */

static void restart(struct run *run)
{
    must(rig_restart(&run->rig) == 0, "the next broker does not start");
}

static void die_between_turns(struct run *run)
{
    char *before = engine_describe(&run->rig.engine);
    char *after;

    restart(run);
    engine_show(&run->rig.engine);
    after = engine_describe(&run->rig.engine);
    if (strcmp(before, after) != 0)
        fprintf(stderr, "before:\n%safter:\n%s", before, after);
    must(strcmp(before, after) == 0, "the next broker derives something else");
    free(before);
    free(after);
}

static void die_with_an_envelope(struct run *run)
{
    build(run);
    rig_land(&run->rig, run->rig.envelope, run->rig.envelope_size);
    restart(run);
}

static void die_while_sending(struct run *run)
{
    struct rig *r = &run->rig;
    uint16_t row = next_row(run);
    bool gone = next(run) % 2 != 0;
    struct pump_batch batch;

    if (rig_next(r, row, &batch) == PUMP_BATCH && gone)
        rig_queue_put(r, row, &batch);
    restart(run);
}

/* ---- The script ---- */

static void pass_time(struct run *run)
{
    static const uint64_t steps[] = {1, 1000000, 30000000, RIG_SECOND, 6 * RIG_SECOND};

    run->rig.engine.now += steps[next(run) % 5];
    life_tick(&run->rig.engine);
    rig_carry_out(&run->rig);
}

static void end_one(struct run *run)
{
    uint16_t row = next_row(run);

    switch (next(run) % 3) {
    case 0:
        leave(run, row);
        life_died(&run->rig.engine, row);
        break;
    case 1:
        life_leave(&run->rig.engine, row, WIRE_C_KICKED);
        break;
    default:
        if (engine_row(&run->rig.engine, row)->state != ROW_LIVE)
            break;
        leave(run, row);
        rig_bye(&run->rig, row);
        break;
    }
}

static void carry_out(struct run *run)
{
    life_quiet(&run->rig.engine);
    rig_carry_out(&run->rig);
}

static void step(struct run *run)
{
    uint8_t what = next(run);

    switch (what % 24) {
    case 0:
        register_one(run);
        break;
    case 1:
        rig_carry_out(&run->rig);
        break;
    case 2:
        rig_pump(&run->rig, next_row(run));
        break;
    case 3:
    case 4:
        rig_turn(&run->rig);
        break;
    case 5:
    case 6:
        read_some(run);
        break;
    case 7:
        pass_time(run);
        break;
    case 8:
        end_one(run);
        break;
    case 9:
        carry_out(run);
        break;
    case 10:
        die_between_turns(run);
        break;
    case 11:
        die_with_an_envelope(run);
        break;
    case 12:
        die_while_sending(run);
        break;
    case 13:
        run->rig.queues[next_row(run)].refuse = next(run) % 4;
        break;
    case 14:
        send_noise(run);
        break;
    case 15:
        lie(run);
        break;
    case 16:
        give_back_some(run);
        break;
    case 17:
        wait_for_places(run);
        break;
    case 18:
        rig_collect(&run->rig);
        break;
    default:
        send_envelope(run);
        break;
    }
}

/* Who reads gets all that waits for it. */
static void drain(struct run *run)
{
    struct engine *e = &run->rig.engine;
    bool more = true;

    for (int turn = 0; more; turn++) {
        more = false;
        rig_turn(&run->rig);
        for (uint16_t row = 0; row < ROWS; row++) {
            while (read_one(run, row))
                more = true;
            more = more || run->rows[row].n_readings > 0;
            give_back_all(run, row);
        }
        more = more || e->touched.n > 0;
        must(turn < DRAIN_TURNS, "what waits is not delivered");
    }
    for (uint16_t row = 0; row < ROWS; row++) {
        if (engine_row(e, row)->state != ROW_LIVE || run->rows[row].lies ||
            (run->forged && e->sessions[row].sated))
            continue; /* who lies, or forgot what it reads, may have to wait for what it holds */
        must(e->sessions[row].n_waiting == 0, "something waits for ever");
        must(!row_in_doubt(engine_row(e, row)), "a doubt remains");
    }
    check_places(run);
}

/* When all have gone, only retained messages are left. */
static void end_all(struct run *run)
{
    struct engine *e = &run->rig.engine;
    uint32_t n_pools = 0;

    rig_carry_out(&run->rig);
    for (uint16_t row = 0; row < ROWS; row++)
        life_died(e, row);
    carry_out(run);
    must(e->n_live == 0 && e->filters.n == 0, "a session remains");
    must(e->store.reference_pool.n_used == e->n_retained, "a reference remains");
    must((uint64_t)e->store.cell_pool.n_used * WIRE_CELL_SIZE <= e->retained_bytes,
         "a cell remains");
    for (uint32_t i = 0; i < RIG_POOLS; i++)
        n_pools += run->rig.pools[i] != NULL;
    must(n_pools == e->n_orphans, "a pool remains");
}

/* Two sessions that talk to each other, and read what the one has put into its pool: a script need
 * not find its way to that first. */
static void begin(struct run *run)
{
    int ann = rig_session(&run->rig, "ann");
    int bob = rig_session(&run->rig, "bob");

    must(ann >= 0 && bob >= 0, "no session begins");
    rig_subscribe(&run->rig, (uint16_t)ann, "#");
    rig_subscribe(&run->rig, (uint16_t)bob, "a/#");
    rig_turn(&run->rig);
    check(run);
    for (int i = 0; i < 2 && has_pool(run, (uint16_t)ann); i++)
        rig_publish_pooled(&run->rig, (uint16_t)ann, 5, "a", ++run->sequence);
    rig_turn(&run->rig);
    while (read_one(run, (uint16_t)ann) || read_one(run, (uint16_t)bob))
        ;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct rig_options options = {
        .n_rows = ROWS,
        .n_topics = 6,
        .n_references = 256,
        .n_cells = 2048, /* windows of 64 KiB: the smallest that a configuration can ask for */
        .settings = {.backlog_size = 12288, .retained_size = 65536, .max_subscriptions = 5},
    };
    static const uint32_t buffers[] = {0, RIG_BUFFERS, 3, RIG_BUFFERS};
    static struct run run;
    struct rig_options o = options;
    uint8_t kind;

    memset(&run, 0, sizeof(run));
    run.at = data;
    run.left = size;
    kind = next(&run);
    o.settings.overflow = (enum engine_overflow)(kind % 4);
    o.n_buffers = buffers[kind / 4 % 4]; /* without any neither pools */
    o.width = kind / 4 % 4 == 1 ? 464 : 0;
    must(rig_init(&run.rig, &o) == 0, "out of memory");
    begin(&run);
    for (int i = 0; i < SLOW_STEPS && run.left > 0; i++) {
        step(&run);
        check(&run);
    }
    drain(&run);
    check(&run);
    end_all(&run);
    check(&run);
    rig_deinit(&run.rig);
    return 0;
}
