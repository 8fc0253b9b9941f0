/* The death test: the real engine over a fake kernel, killed at single stores, started again, and
 * held to a model.
 *
 * The engine is compiled with a place to die before every store to what survives it
 * (broker/persist.h). A run is made of random steps from a seed: clients register, subscribe,
 * publish, ask, answer, read, die; the broker takes an envelope, routes, pumps, lets time pass. Any
 * step of the broker may be its last: the process is "killed" by a longjmp out of the middle,
 * everything derived is thrown away, and a new engine starts on the same ledger and store, which
 * may be killed in its start as well. The queues, being the kernel's, live on.
 *
 * The model knows what each client must get: what is read must be the next of its (subscriber,
 * priority), in the order in which the kernel gave the broker its envelopes; nothing lost, nothing
 * twice, nothing out of order, drops counted exactly; at the end nothing is left over. Some
 * payloads lie in pools, most batches in outboxes, for the queues are narrow: a place that is read
 * must not be given out again, each comes back in the end, and so does each pool. The same runs
 * with faults planted in the engine must fail, or the test is worth nothing.
 *
 *     test-deaths [DEATHS [SEED]]     so many deaths from this seed on; by default 120,000 from 1
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/engine.h"
#include "broker/life.h"
#include "broker/pools.h"
#include "broker/pump.h"
#include "broker/route.h"
#include "tests/support/chance.h"
#include "tests/support/kernel-queue.h"
#include "tests/support/segments.h"

enum {
    CLIENTS = 4,
    ROWS = 5,
    DEPTH = 6,
    FRAME_MAX = 472,
    POOLS = 128, /* in a run at once */
    REFERENCES = 4096,
    CELLS = 4096,
    TOPICS = 3,
    GROUPS = 2,
    LEVELS = 4, /* of the priorities used: 0, 8, 24, 31 */
    EXPECTED_MAX = 2048,
    IDS_MAX = 4096,     /* messages in a run */
    HELD_MAX = 64,      /* requests that a client has and may answer */
    READINGS_MAX = 512, /* payloads that a client reads in place */
    READINGS_MANY = 256,
    OLD_NAMES = 64,
    UNREAD_MAX = 250,
    STEPS = 200, /* in a run */
    SECOND = 1000000000,
};

static const uint8_t priorities[LEVELS] = {0, 8, 24, 31};
static const char *const topics[TOPICS] = {"a/x", "a/y", "b"};

/* ---- Death ---- */

enum persist_fault persist_fault;

static jmp_buf killed;
static long until_death; /* stores until the next; 0: none comes */
static uint64_t n_deaths, n_points;
static uint64_t n_boxed, n_back, n_repeats; /* batches in boxes; places handed back, and again */

void persist_point(void)
{
    n_points++;
    if (until_death > 0 && --until_death == 0) {
        n_deaths++;
        longjmp(killed, 1);
    }
}

/* ---- Chance ---- */

static struct chance luck;

static uint64_t chance(void)
{
    return chance_draw(&luck);
}

static unsigned below(unsigned n)
{
    return (unsigned)(chance() % n);
}

/* ---- The world ---- */

struct expected {
    uint32_t id; /* of the message; of a reply: of the request it answers */
    uint64_t expiry;
    bool retained;
    bool reply;
};

struct line { /* what a client must get at one level, in order */
    struct expected list[EXPECTED_MAX];
    unsigned head, tail;
};

/* A payload that a client reads where it lies. */
struct reading {
    struct wire_slot slot;
    uint64_t payload;
};

struct client {
    uint64_t nonce;
    bool alive, registered;
    bool lingers; /* the broker ended its session; the process is still there */
    bool subscribed[TOPICS];
    int row;
    uint64_t seen[WIRE_LEVELS + 1];
    uint64_t missed;  /* as the last batch said */
    uint64_t skipped; /* what the model saw missing */
    struct line lines[WIRE_LEVELS];
    uint32_t confirms_sent, confirms_got;
    uint64_t held[HELD_MAX]; /* names of requests that it may answer */
    uint32_t held_id[HELD_MAX];
    unsigned n_held;
    unsigned unread;
    struct reading readings[READINGS_MAX];
    unsigned n_readings;
    uint64_t old_names[OLD_NAMES]; /* that it gave back before */
    unsigned n_old;
    struct { /* received, and its box not opened yet */
        uint8_t bytes[WIRE_QUEUE_MAX];
        uint32_t size; /* 0: there is none */
        unsigned level;
    } letter;
};

struct request { /* by message id */
    bool is_one;
    bool taken; /* by the broker */
    int asker;
    uint32_t incarnation; /* of the asker */
    unsigned owners;      /* a bit for each client */
    unsigned replies, answers;
    uint64_t expiry;
    bool server_died;
    bool pooled; /* who was sent it may hold it, and owes nothing more when its time is over */
};

static struct world {
    void *ledger_memory, *store_memory, *board_memory;
    struct engine engine;
    struct kernel_queue request;
    struct kernel_queue replies[ROWS];
    bool queue_made[ROWS];
    struct segments *segments[ROWS]; /* of the row's session */
    struct segments *pools[POOLS];   /* all that are there */
    uint32_t width, max_buffers;
    struct client clients[CLIENTS];
    uint32_t incarnation[CLIENTS];
    struct request requests[IDS_MAX];
    uint32_t last_id;
    uint32_t kept_id[TOPICS]; /* 0: none */
    uint8_t kept_level[TOPICS];
    uint64_t kept_pool[TOPICS]; /* where its payload lies; 0: in its frame */
    uint64_t now;
    const char *fault; /* the first thing that was wrong; NULL: nothing */
    char fault_text[256];
} w;

static void wrong(const char *format, ...)
{
    va_list arguments;

    if (w.fault != NULL)
        return;
    va_start(arguments, format);
    vsnprintf(w.fault_text, sizeof(w.fault_text), format, arguments);
    va_end(arguments);
    w.fault = w.fault_text;
}

/* ---- Pools ---- */

static uint64_t pool_of(const struct client *c)
{
    return c->nonce ^ UINT64_C(0xb001000000000000);
}

static struct segments *find_pool(uint64_t nonce)
{
    for (unsigned i = 0; i < POOLS; i++) {
        if (w.pools[i] != NULL && w.pools[i]->nonce == nonce)
            return w.pools[i];
    }
    return NULL;
}

static void remove_pool(uint64_t nonce)
{
    for (unsigned i = 0; i < POOLS; i++) {
        if (w.pools[i] != NULL && w.pools[i]->nonce == nonce)
            w.pools[i] = segments_free(w.pools[i]);
    }
}

/* The word that lies there, as who has the message sees it. */
static uint64_t payload_at(const struct wire_slot *slot)
{
    struct segments *pool = find_pool(slot->pool);
    uint64_t payload;

    if (pool == NULL) {
        wrong("a message is in a pool that is gone");
        return 0;
    }
    payload = segments_payload(pool, slot);
    if (pool->fault != NULL)
        wrong("%s", pool->fault);
    return payload;
}

/* What came back to its owner. */
static void look(struct segments *s)
{
    uint32_t before = s->n_repeats;

    n_back += segments_look(s);
    n_repeats += s->n_repeats - before;
    if (s->fault != NULL)
        wrong("%s", s->fault);
}

static void expect(struct client *c, uint8_t level, struct expected what)
{
    struct line *line = &c->lines[level];

    if (line->tail == EXPECTED_MAX)
        fail_msg("the run is too long for the model");
    line->list[line->tail++] = what;
    c->unread++;
}

/* ---- The broker, and its deaths ---- */

static const struct engine_settings settings = {
    .backlog_size = 1 << 30,
    .stall_timeout = (uint64_t)1000 * SECOND,
    .retained_size = 1 << 30,
    .pool_max = SEGMENTS_POOL, /* half of it one may hold: a dozen of ours */
    .max_subscriptions = 16,
    .overflow = ENGINE_DROP_OLDEST,
};

static void start_engine(void)
{
    struct engine *e = &w.engine;
    struct engine_memory memory = {w.ledger_memory, w.store_memory, w.board_memory};

    assert_int_equal(engine_init(e, &memory, &settings), 0);
    e->now = w.now;
    for (uint16_t i = 0; i < ROWS; i++) {
        if (w.segments[i] != NULL && engine_row(e, i)->state != ROW_FREE)
            engine_attach(e, i, w.segments[i]->outbox, NULL);
    }
    for (unsigned i = 0; i < WIRE_TOKEN_SIZE; i++)
        e->fresh_token[i] = (uint8_t)chance();
    if (life_start(e) != 0) {
        wrong("the store is damaged at a start");
        return;
    }
    route_resume(e);
    e->token_used = false;
}

/* What stands in the landing and is not committed will be routed again: nothing of it may have come
 * back. */
static void check_landing(void)
{
    const struct landing *landing = &((struct ledger *)w.ledger_memory)->landing;
    struct wire_envelope envelope;
    struct wire_frame f;

    if (wire_get_envelope(landing->bytes, wire_envelope_length(landing->bytes), &envelope) !=
            WIRE_OK ||
        landing->age < ((struct ledger *)w.ledger_memory)->header.committed)
        return;
    for (size_t at = 0; at < envelope.size; at += f.size) {
        struct segments *pool;

        assert_int_equal(wire_get_request(envelope.frames + at, envelope.size - at, &f), WIRE_OK);
        if (f.type > WIRE_REPLY || (f.flags & WIRE_F_POOLED) == 0)
            continue;
        pool = find_pool(f.slot.pool);
        if (pool == NULL || pool->outbox == NULL)
            continue;
        look(pool);
        payload_at(&f.slot);
    }
}

/* Start again, and again if that is cut off too. */
static void restart(void)
{
    volatile long next = until_death;

    for (;;) {
        engine_deinit(&w.engine);
        check_landing();
        until_death = next;
        if (setjmp(killed) == 0) {
            start_engine();
            break;
        }
        next = below(2) == 0 ? 1 + (long)below(40) : 0;
    }
}

/* One act of the broker's; it may die in it. True: it was finished. */
static bool act(void (*f)(void *), void *argument)
{
    if (setjmp(killed) == 0) {
        f(argument);
        return true;
    }
    until_death = below(3) == 0 ? 1 + (long)below(60) : 0;
    restart();
    until_death = 1 + (long)below(120);
    return false;
}

static struct client *client_of_row(uint16_t row)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        const struct row *r = engine_row(&w.engine, row);

        if (w.clients[i].nonce == r->nonce && r->state != ROW_FREE)
            return &w.clients[i];
    }
    return NULL;
}

/* ---- What the model makes of an envelope ---- */

static unsigned topic_index(const char *text)
{
    for (unsigned i = 0; i < TOPICS; i++) {
        if (strcmp(topics[i], text) == 0)
            return i;
    }
    fail_msg("a topic that is none: %s", text);
    return 0;
}

static uint32_t payload_id(const struct wire_frame *f)
{
    uint32_t id = 0;

    if ((f->flags & WIRE_F_POOLED) != 0)
        return (uint32_t)payload_at(&f->slot);
    if (f->payload_size >= sizeof(id))
        memcpy(&id, f->payload, sizeof(id));
    return id;
}

static void model_message(struct client *from, const struct wire_frame *f)
{
    unsigned topic = topic_index(f->text);
    uint32_t id = payload_id(f);
    struct expected what = {.id = id, .expiry = f->expiry};
    bool late = f->expiry != 0 && f->expiry <= w.now;
    struct request *request = f->type == WIRE_REQUEST ? &w.requests[id] : NULL;

    if (request != NULL) {
        request->taken = true;
        request->pooled = (f->flags & WIRE_F_POOLED) != 0;
    }
    for (unsigned i = 0; i < CLIENTS && !late; i++) {
        if (!w.clients[i].alive || !w.clients[i].subscribed[topic])
            continue;
        expect(&w.clients[i], f->priority, what);
        if (request != NULL)
            request->owners |= 1u << i;
    }
    if (!late && (f->flags & WIRE_F_RETAIN) != 0) {
        w.kept_id[topic] = f->payload_size == 0 ? 0 : id;
        w.kept_level[topic] = f->priority;
        w.kept_pool[topic] = (f->flags & WIRE_F_POOLED) != 0 ? f->slot.pool : 0;
    }
    if (f->flags & WIRE_F_CONFIRM)
        from->confirms_sent++;
}

static void model_subscribe(struct client *c, const struct wire_frame *f)
{
    unsigned topic = topic_index(f->text);

    c->subscribed[topic] = f->type == WIRE_SUBSCRIBE;
    if (f->type == WIRE_SUBSCRIBE && w.kept_id[topic] != 0)
        expect(c, w.kept_level[topic], (struct expected){.id = w.kept_id[topic], .retained = true});
}

static void model_reply(struct client *server, const struct wire_frame *f)
{
    for (unsigned i = 0; i < server->n_held; i++) {
        struct request *request = &w.requests[server->held_id[i]];

        if (server->held[i] != f->number)
            continue;
        server->held[i] = server->held[server->n_held - 1];
        server->held_id[i] = server->held_id[--server->n_held];
        request->replies++;
        if (w.incarnation[request->asker] == request->incarnation &&
            w.clients[request->asker].alive)
            expect(&w.clients[request->asker], f->priority,
                   (struct expected){.id = (uint32_t)(request - w.requests), .reply = true});
        return;
    }
}

/* The kernel has handed this envelope over: from now on it counts, whatever happens to the broker.
 */
static void model_envelope(const uint8_t *bytes, uint32_t size)
{
    struct wire_envelope envelope;
    struct client *c;
    struct wire_frame f;

    assert_int_equal(wire_get_envelope(bytes, size, &envelope), WIRE_OK);
    if (envelope.session == WIRE_NO_SESSION)
        return;
    c = client_of_row(envelope.session);
    if (c == NULL || !c->alive)
        return;
    for (size_t at = 0; at < envelope.size; at += f.size) {
        assert_int_equal(wire_get_request(envelope.frames + at, envelope.size - at, &f), WIRE_OK);
        if (f.type == WIRE_PUBLISH || f.type == WIRE_REQUEST)
            model_message(c, &f);
        else if (f.type == WIRE_SUBSCRIBE || f.type == WIRE_UNSUBSCRIBE)
            model_subscribe(c, &f);
        else if (f.type == WIRE_REPLY)
            model_reply(c, &f);
    }
}

/* ---- What the broker does ---- */

static void set_now(void)
{
    w.engine.now = w.now;
}

static void broker_take(void *unused)
{
    struct engine *e = &w.engine;
    uint32_t size;
    unsigned level;

    (void)unused;
    set_now();
    route_expect(e, LANDING_NORMAL);
    if (!kernel_queue_receive(&w.request, e->landing->bytes, &size, &level))
        return;
    model_envelope(e->landing->bytes, size);
    route(e, size);
}

static void attach_pool(uint16_t row)
{
    if (w.segments[row] != NULL && w.segments[row]->pool != NULL)
        engine_attach(&w.engine, row, w.segments[row]->outbox, w.segments[row]->pool);
}

static void provide(uint16_t row)
{
    if (w.segments[row] != NULL && w.segments[row]->outbox != NULL)
        segments_grow(w.segments[row]);
    attach_pool(row);
}

static void broker_collect(void *unused)
{
    const struct rows *holders = &w.engine.holders;

    (void)unused;
    set_now();
    for (uint32_t i = 0; i < holders->n; i++)
        attach_pool(holders->rows[i]);
    pools_collect(&w.engine);
}

static void broker_pump(void *row_argument)
{
    uint16_t row = *(uint16_t *)row_argument;
    struct engine *e = &w.engine;
    struct pump_batch batch;
    int outcome;

    set_now();
    while ((outcome = pump_next(e, row, &batch)) != PUMP_NOTHING && outcome != PUMP_BLOCKED) {
        if (outcome == PUMP_ASK)
            pump_room(e, row, DEPTH - w.replies[row].n);
        else if (outcome == PUMP_WANTS_POOL)
            provide(row);
        else if (below(8) > 0 &&
                 kernel_queue_send(&w.replies[row], batch.bytes, batch.size, batch.level))
            pump_sent(e, row);
        else
            pump_full(e, row);
        if (below(12) == 0)
            break;
    }
    if (outcome == PUMP_BLOCKED)
        pump_edge(e, row);
    e->touched.n = 0;
    for (unsigned i = 0; i < ROWS; i++)
        e->sessions[i].touched = false;
}

/* Another broker may have made them before it died; its client was not told. */
static void make_segments(uint16_t row)
{
    const struct row *ours = engine_row(&w.engine, row);
    unsigned i = 0;

    remove_pool(ours->pool);
    while (w.pools[i] != NULL && ++i < POOLS)
        ;
    if (i == POOLS)
        fail_msg("the run has too many pools");
    w.pools[i] = segments_new(ours->pool, ours->nonce, w.max_buffers);
    assert_non_null(w.pools[i]);
    w.segments[row] = w.pools[i];
}

static void unlink_pool(uint32_t slot)
{
    uint64_t nonce = ledger_pools(w.engine.ledger)[slot];
    const struct segments *pool = nonce == 0 ? NULL : find_pool(nonce);

    if (pool != NULL && pool->outbox != NULL)
        wrong("the pool of a session is unlinked");
    for (unsigned i = 0; i < CLIENTS; i++) {
        for (unsigned k = 0; k < w.clients[i].n_readings; k++) {
            if (w.clients[i].readings[k].slot.pool == nonce)
                wrong("a pool is unlinked that client %u reads", i);
        }
    }
    if (nonce != 0)
        remove_pool(nonce);
    pools_gone(&w.engine, slot);
}

/* A process that has gone cannot read on: whoever sees that says so. */
static void remove_session(uint16_t row)
{
    struct engine *e = &w.engine;
    const struct client *c = client_of_row(row);

    w.queue_made[row] = false;
    if (life_lingers(e, row)) {
        if (c == NULL || !c->lingers)
            life_died(e, row);
        return;
    }
    w.replies[row].n = 0;
    if (w.segments[row] != NULL)
        segments_end(w.segments[row]);
    w.segments[row] = NULL;
    engine_attach(e, row, NULL, NULL);
    if (pools_orphan(e, row))
        unlink_pool(engine_row(e, row)->pool_slot);
    life_gone(e, row);
}

static void lend(uint16_t row)
{
    struct engine *e = &w.engine;
    uint64_t name = e->sessions[row].fetch;
    struct wire_slot slot;

    e->sessions[row].fetch = 0;
    if (engine_row(e, row)->state != ROW_LIVE)
        return;
    if (pools_holds(e, row, name, &slot))
        pools_lend(e, row, WIRE_C_OK, name, OUTBOX_COPIES, slot.size);
    else
        pools_lend(e, row, WIRE_C_NO_COPY, name, 0, 0);
}

/* The shell's part in a registration and in an end: queues and segments. */
static void broker_carry_out(void *unused)
{
    struct engine *e = &w.engine;

    (void)unused;
    set_now();
    while (e->making.n > 0) {
        uint16_t row = e->making.rows[--e->making.n];

        assert_true(kernel_queue_make(&w.replies[row], DEPTH, w.width));
        w.queue_made[row] = true;
        make_segments(row);
        engine_attach(e, row, w.segments[row]->outbox, NULL);
        life_made(e, row, 1, DEPTH, w.width);
    }
    while (e->fetching.n > 0)
        lend(e->fetching.rows[--e->fetching.n]);
    while (e->leaving.n > 0)
        remove_session(e->leaving.rows[--e->leaving.n]);
    while (e->unlinked.n > 0)
        unlink_pool(e->unlinked.rows[--e->unlinked.n]);
    for (unsigned i = 0; e->token_used && i < WIRE_TOKEN_SIZE; i++)
        e->fresh_token[i] = (uint8_t)chance();
    e->token_used = false;
}

static void broker_tick(void *unused)
{
    (void)unused;
    set_now();
    life_tick(&w.engine);
}

static void broker_quiet(void *unused)
{
    (void)unused;
    set_now();
    life_quiet(&w.engine);
}

static void broker_dies(void *row)
{
    set_now();
    life_died(&w.engine, *(uint16_t *)row);
}

static void broker_kicks(void *row)
{
    set_now();
    life_leave(&w.engine, *(uint16_t *)row, WIRE_C_KICKED);
}

/* Whatever anybody reads must not have come back to its owner. */
static void check_readings(void)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        const struct client *c = &w.clients[i];

        for (unsigned k = 0; k < c->n_readings; k++) {
            struct segments *pool = find_pool(c->readings[k].slot.pool);

            if (pool != NULL && pool->outbox != NULL)
                look(pool);
            if (payload_at(&c->readings[k].slot) != c->readings[k].payload)
                wrong("a payload changed while client %u read it", i);
        }
    }
}

static void pump_all(void)
{
    for (uint16_t row = 0; row < ROWS; row++)
        act(broker_pump, &row);
}

/* ---- What clients do ---- */

/* Its row, if the broker has one for it. */
static const struct row *find_row(struct client *c)
{
    for (uint16_t i = 0; i < ROWS; i++) {
        const struct row *row = engine_row(&w.engine, i);

        if (row->state == ROW_LIVE && row->nonce == c->nonce && w.queue_made[i]) {
            c->row = i;
            return row;
        }
    }
    return NULL;
}

static void send_frames(const uint8_t *frames, uint32_t size, int row, const uint8_t *token,
                        unsigned level)
{
    uint8_t bytes[WIRE_QUEUE_MAX];

    wire_put_envelope(bytes, (uint16_t)row, token, WIRE_ENVELOPE_SIZE + size);
    memcpy(bytes + WIRE_ENVELOPE_SIZE, frames, size);
    kernel_queue_send(&w.request, bytes, WIRE_ENVELOPE_SIZE + size, level);
}

static void client_register(struct client *c)
{
    static const uint8_t no_token[WIRE_TOKEN_SIZE];
    unsigned i = (unsigned)(c - w.clients);
    uint8_t frame[128];
    size_t size;

    memset(c, 0, sizeof(*c));
    c->nonce = chance() | 1;
    c->alive = true;
    w.incarnation[i]++;
    size = wire_put_register(frame, 0, c->nonce, 100 + i, 1, pool_of(c), "", 0);
    send_frames(frame, (uint32_t)size, WIRE_NO_SESSION, no_token, WIRE_CONTROL);
}

/* A payload of some size, by the one word that it has here. */
static bool put_in_pool(struct client *c, uint64_t payload, struct wire_slot *slot)
{
    struct segments *pool = find_pool(pool_of(c));

    look(pool);
    return segments_put(pool, payload, 1 + below(SEGMENTS_POOL / 8), slot);
}

static size_t put_publish(struct client *c, uint8_t *out, uint8_t priority)
{
    bool retain = below(8) == 0;
    bool forget = retain && below(4) == 0;
    bool request = !retain && below(4) == 0;
    bool confirm = !request && !forget && below(3) == 0;
    bool hasty = request || (!retain && below(6) == 0);
    const char *topic = topics[below(TOPICS)];
    uint64_t expiry = hasty ? w.now + (1 + below(30)) * (SECOND / 10) : 0;
    uint32_t id = ++w.last_id;
    uint8_t payload[400] = {0};
    size_t size = forget ? 0 : sizeof(id) + below(4) * below(90);
    uint16_t flags = (uint16_t)((retain ? WIRE_F_RETAIN : 0) | (confirm ? WIRE_F_CONFIRM : 0));

    struct wire_slot slot;

    memcpy(payload, &id, sizeof(id));
    w.requests[id] = (struct request){.is_one = request,
                                      .asker = (int)(c - w.clients),
                                      .incarnation = w.incarnation[c - w.clients],
                                      .expiry = expiry};
    if (!forget && below(2) == 0 && put_in_pool(c, id, &slot))
        return wire_put_pooled(out, request ? WIRE_REQUEST : WIRE_PUBLISH, priority, flags,
                               request || confirm ? id : 0, expiry, topic, strlen(topic), &slot);
    return wire_put_message(out, request ? WIRE_REQUEST : WIRE_PUBLISH, priority, flags,
                            request || confirm ? id : 0, expiry, topic, strlen(topic), payload,
                            size);
}

static bool someone_is_behind(void)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (w.clients[i].alive && w.clients[i].unread > UNREAD_MAX)
            return true;
    }
    return false;
}

static void client_publish(struct client *c, const struct row *row)
{
    uint8_t frames[4096];
    uint8_t priority = priorities[below(LEVELS)];
    uint32_t size = 0;

    if (someone_is_behind() || w.last_id + 8 > IDS_MAX || w.request.n == w.request.depth)
        return;
    for (unsigned n = 1 + below(5); n > 0; n--)
        size += (uint32_t)put_publish(c, frames + size, priority);
    send_frames(frames, size, c->row, row->token, priority);
}

static void client_subscribe(struct client *c, const struct row *row)
{
    const char *topic = topics[below(TOPICS)];
    uint8_t frame[64];
    size_t size = wire_put_text(frame, below(4) > 0 ? WIRE_SUBSCRIBE : WIRE_UNSUBSCRIBE, 0, 0,
                                topic, strlen(topic));

    send_frames(frame, (uint32_t)size, c->row, row->token, WIRE_CONTROL);
}

static void client_reply(struct client *c, const struct row *row)
{
    unsigned i = c->n_held > 0 ? below(c->n_held) : 0;
    struct wire_slot slot;
    uint8_t frame[64];
    size_t size;

    if (c->n_held == 0 || w.requests[c->held_id[i]].expiry <= w.now)
        return;
    if (below(2) == 0 && put_in_pool(c, c->held_id[i], &slot))
        size = wire_put_pooled(frame, WIRE_REPLY, 8, 0, c->held[i], 0, "", 0, &slot);
    else
        size = wire_put_message(frame, WIRE_REPLY, 8, 0, c->held[i], 0, "", 0, "r", 1);
    send_frames(frame, (uint32_t)size, c->row, row->token, 8);
}

/* ---- What clients read ---- */

static void check_answer(struct client *c, const struct wire_frame *f)
{
    struct request *request = &w.requests[f->number % IDS_MAX];

    if (f->number == 0) /* to SUBSCRIBE and UNSUBSCRIBE */
        return;
    if (!request->is_one) {
        c->confirms_got += f->count;
        return;
    }
    if (w.clients + request->asker != c || w.incarnation[c - w.clients] != request->incarnation)
        wrong("request %u is answered to another", (unsigned)f->number);
    if (++request->answers > 1)
        wrong("request %u is answered twice", (unsigned)f->number);
    if (f->code == WIRE_C_TIMEOUT         ? request->expiry > w.now
        : f->code == WIRE_C_NO_SUBSCRIBER ? request->owners != 0
        : f->code == WIRE_C_PEER_DIED     ? !request->server_died
                                          : true)
        wrong("request %u is answered %u", (unsigned)f->number, f->code);
}

static void hold(struct client *c, const struct wire_frame *f, uint32_t id)
{
    if (c->n_held == HELD_MAX)
        return;
    c->held[c->n_held] = f->number;
    c->held_id[c->n_held++] = id;
}

/* What lies in a pool is read there until it is given back. */
static void begin_reading(struct client *c, const struct wire_frame *f)
{
    struct reading *reading = &c->readings[c->n_readings++];

    *reading = (struct reading){.slot = f->slot, .payload = payload_at(&f->slot)};
    if ((f->flags & WIRE_F_REPLY) != 0 && reading->payload != f->number)
        wrong("the reply to %u says %u", (unsigned)f->number, (unsigned)reading->payload);
}

/* Give back any of them: it must have stayed as it was. Some names are given back twice, and some
 * are none. */
static void client_release(struct client *c, struct segments *mine)
{
    unsigned i = c->n_readings > 0 ? below(c->n_readings) : 0;

    if (c->n_readings == 0)
        return;
    if (payload_at(&c->readings[i].slot) != c->readings[i].payload)
        wrong("a payload changed while client %d read it", (int)(c - w.clients));
    switch (below(8)) {
    case 0:
        segments_release(mine, chance());
        break;
    case 1:
    case 2:
        segments_release(mine,
                         c->old_names[below(c->n_old < OLD_NAMES ? c->n_old + 1 : OLD_NAMES)]);
        break;
    case 3:
        segments_release(mine, c->readings[below(c->n_readings)].slot.name ^ 1u << below(20));
        break;
    default:
        break;
    }
    c->old_names[c->n_old++ % OLD_NAMES] = c->readings[i].slot.name;
    segments_release(mine, c->readings[i].slot.name);
    c->readings[i] = c->readings[--c->n_readings];
    if (mine->fault != NULL)
        wrong("%s", mine->fault);
}

/* Wait for space that it may not need, or not any more. */
static void client_waits(struct segments *mine)
{
    uint64_t returned = atomic_load(&mine->outbox->returned);

    atomic_store(&mine->pool->wants, below(2) == 0 ? 0 : returned + 1 + below(3));
}

static void client_fetch(struct client *c, const struct row *row)
{
    uint8_t frame[WIRE_FETCH_SIZE];
    size_t size;

    if (c->n_readings == 0 || w.request.n == w.request.depth)
        return;
    size = wire_put_fetch(frame, c->readings[below(c->n_readings)].slot.name);
    send_frames(frame, (uint32_t)size, c->row, row->token, WIRE_CONTROL);
}

/* Is this the next that it must get? What expired in between counts as missed. */
static void check_message(struct client *c, const struct wire_frame *f)
{
    struct line *line = &c->lines[f->priority];
    bool reply = (f->flags & WIRE_F_REPLY) != 0;
    bool retained = (f->flags & WIRE_F_RETAIN) != 0;
    uint32_t id = reply ? (uint32_t)f->number : payload_id(f);

    while (line->head < line->tail) {
        const struct expected *next = &line->list[line->head++];

        c->unread--;
        if (next->id == id && next->reply == reply && next->retained == retained) {
            if (f->flags & WIRE_F_REQUEST)
                hold(c, f, id);
            return;
        }
        if (next->expiry == 0 || next->expiry > w.now) {
            wrong("client %d, priority %u: got %u, must get %u first", (int)(c - w.clients),
                  f->priority, id, next->id);
            return;
        }
        c->skipped++;
    }
    wrong("client %d, priority %u: got %u, which it must not get (again)", (int)(c - w.clients),
          f->priority, id);
}

static void read_frames(struct client *c, const uint8_t *bytes, size_t size)
{
    struct wire_frame f;

    for (size_t at = 0; at < size; at += f.size) {
        assert_int_equal(wire_get_delivery(bytes + at, size - at, &f), WIRE_OK);
        if (f.type == WIRE_WELCOME)
            c->registered = true;
        else if (f.type == WIRE_ANSWER)
            check_answer(c, &f);
        else if (f.type == WIRE_MESSAGE)
            check_message(c, &f);
        if (f.type == WIRE_MESSAGE && (f.flags & WIRE_F_POOLED) != 0)
            begin_reading(c, &f);
    }
}

/* The batch that a letter means, out of its box; what is known is not looked at. */
static void read_box(struct client *c, const struct wire_frame *boxed,
                     const struct wire_batch *letter, bool known)
{
    uint8_t *bytes = segments_unbox(find_pool(pool_of(c)), boxed, letter->number);
    struct wire_batch batch;

    assert_non_null(bytes);
    n_boxed++;
    if (!known && (wire_get_batch(bytes, boxed->boxed_size, &batch) != WIRE_OK ||
                   batch.number != letter->number || batch.level != letter->level))
        wrong("a buffer has not the batch that its letter says");
    else if (!known)
        read_frames(c, batch.frames, batch.size);
    free(bytes);
}

/* As the library does: a number that is not above the last one at that level was read before (K3).
 */
static void read_letter(struct client *c)
{
    struct wire_batch batch;
    struct wire_frame f;
    bool known;

    assert_int_equal(wire_get_batch(c->letter.bytes, c->letter.size, &batch), WIRE_OK);
    assert_int_equal(batch.level, c->letter.level);
    known = batch.number <= c->seen[c->letter.level];
    if (!known) {
        c->seen[c->letter.level] = batch.number;
        c->missed = batch.missed;
    }
    if (batch.size == WIRE_BOXED_SIZE &&
        wire_get_delivery(batch.frames, batch.size, &f) == WIRE_OK && f.type == WIRE_BOXED)
        read_box(c, &f, &batch, known);
    else if (!known)
        read_frames(c, batch.frames, batch.size);
    c->letter.size = 0;
}

/* Between taking a letter and opening its box the broker may do anything. */
static void client_read(struct client *c)
{
    const struct segments *mine = find_pool(pool_of(c));

    if (mine == NULL || mine->outbox == NULL)
        c->letter.size = 0; /* nobody is there any more who took it */
    if (c->letter.size > 0) {
        read_letter(c);
        return;
    }
    if ((!c->lingers && find_row(c) == NULL) || c->n_readings > READINGS_MANY ||
        !kernel_queue_receive(&w.replies[c->row], c->letter.bytes, &c->letter.size,
                              &c->letter.level))
        return;
    if (below(3) > 0)
        read_letter(c);
}

/* ---- Runs ---- */

static void drain_requests(void)
{
    while (w.request.n > 0) {
        act(broker_take, NULL);
        act(broker_carry_out, NULL);
    }
    act(broker_carry_out, NULL);
}

/* What it was asked may be answered by its end. */
static void end_client(struct client *c)
{
    c->alive = false;
    for (uint32_t id = 1; id <= w.last_id; id++) {
        if (w.requests[id].owners & 1u << (c - w.clients))
            w.requests[id].server_died = true;
    }
}

/* The broker sees the request queues empty, and takes it away (L1). */
static void take_away(const struct client *c, uint16_t row)
{
    uint64_t nonce = c->nonce;

    while (engine_row(&w.engine, row)->state != ROW_FREE &&
           engine_row(&w.engine, row)->nonce == nonce && w.fault == NULL) {
        act(broker_quiet, NULL);
        act(broker_carry_out, NULL);
        if (c->lingers && w.engine.ending.n == 0 && w.engine.leaving.n == 0)
            return;
    }
}

/* Its process is killed. */
static void client_dies(struct client *c)
{
    uint16_t row;

    drain_requests();
    if (!c->lingers && find_row(c) == NULL)
        return;
    row = (uint16_t)c->row;
    end_client(c);
    c->lingers = false;
    c->letter.size = 0;
    c->n_readings = 0;
    if (engine_row(&w.engine, row)->nonce != c->nonce)
        return; /* it had gone already */
    while (!act(broker_dies, &row))
        ;
    take_away(c, row);
}

/* The broker ends its session; what it reads it reads on. */
static void client_is_kicked(struct client *c)
{
    uint16_t row;

    drain_requests();
    if (find_row(c) == NULL)
        return;
    row = (uint16_t)c->row;
    end_client(c);
    c->lingers = true;
    while (!act(broker_kicks, &row))
        ;
    take_away(c, row);
}

/* All that is left to it is to read, to give back, and to go. */
static void linger(struct client *c)
{
    const struct row *row = engine_row(&w.engine, (uint16_t)c->row);

    if (row->state == ROW_FREE || row->nonce != c->nonce) {
        if (c->n_readings > 0)
            wrong("client %d has %u payloads under its eyes, and its row is free",
                  (int)(c - w.clients), c->n_readings);
        c->lingers = false;
    } else if (below(12) == 0) {
        client_dies(c);
    } else if (w.replies[c->row].n > 0 || c->letter.size > 0) {
        client_read(c); /* what stood in its queue */
    } else {
        client_release(c, find_pool(pool_of(c)));
    }
}

static void client_step(struct client *c)
{
    const struct row *row;

    if (c->lingers) {
        linger(c);
        return;
    }
    if (!c->alive) {
        if (w.request.n < w.request.depth)
            client_register(c);
        return;
    }
    row = find_row(c);
    if (row == NULL || !c->registered) {
        client_read(c);
        return;
    }
    switch (below(16)) {
    case 0:
    case 1:
    case 2:
    case 3:
        client_publish(c, row);
        break;
    case 6:
    case 7:
    case 8:
    case 9:
        client_release(c, find_pool(pool_of(c)));
        break;
    case 10:
        client_waits(find_pool(pool_of(c)));
        break;
    case 11:
        if (below(3) == 0)
            client_fetch(c, row);
        break;
    case 4:
        if (w.request.n < w.request.depth)
            client_subscribe(c, row);
        break;
    case 5:
        if (w.request.n < w.request.depth)
            client_reply(c, row);
        break;
    case 12:
        if (below(16) == 0)
            client_dies(c);
        else if (below(24) == 0)
            client_is_kicked(c);
        break;
    default:
        client_read(c);
        break;
    }
}

static void step(void)
{
    uint16_t row = (uint16_t)below(ROWS);

    switch (below(9)) {
    case 0:
    case 1:
    case 2:
        client_step(&w.clients[below(CLIENTS)]);
        break;
    case 3:
    case 4:
        act(broker_take, NULL);
        act(broker_carry_out, NULL);
        break;
    case 5:
    case 6:
        act(broker_pump, &row);
        break;
    case 7:
        act(broker_collect, NULL);
        check_readings();
        break;
    default:
        if (w.request.n == 0) {
            w.now += below(4) * (SECOND / 10);
            act(broker_tick, NULL);
        }
        break;
    }
}

static void read_all(void)
{
    for (unsigned round = 0; round < 400; round++) {
        bool more = false;

        act(broker_collect, NULL);
        act(broker_carry_out, NULL);
        pump_all();
        for (unsigned i = 0; i < CLIENTS; i++) {
            struct client *c = &w.clients[i];

            client_read(c);
            while (c->n_readings > (round % 4 == 0 ? 0 : READINGS_MANY / 2))
                client_release(c, find_pool(pool_of(c)));
            if (c->lingers)
                linger(c);
            more = more || c->lingers || c->n_readings > 0 || c->letter.size > 0 ||
                   (find_row(c) != NULL &&
                    (w.replies[c->row].n > 0 || w.engine.sessions[c->row].n_waiting > 0));
        }
        if (!more)
            return;
    }
    wrong("the backlog does not end");
}

static void check_client(struct client *c)
{
    for (unsigned level = 0; level < WIRE_LEVELS; level++) {
        const struct line *line = &c->lines[level];

        for (unsigned i = line->head; i < line->tail; i++) {
            if (line->list[i].expiry == 0)
                wrong("client %d, priority %u: %u is lost", (int)(c - w.clients), level,
                      line->list[i].id);
            c->skipped++;
        }
    }
    if (find_row(c) != NULL && engine_row(&w.engine, (uint16_t)c->row)->missed != c->skipped)
        wrong("client %d missed %u, counted are %u", (int)(c - w.clients), (unsigned)c->skipped,
              (unsigned)engine_row(&w.engine, (uint16_t)c->row)->missed);
    if (c->confirms_got != c->confirms_sent)
        wrong("client %d got %u confirms for %u", (int)(c - w.clients), c->confirms_got,
              c->confirms_sent);
}

static void check_requests(void)
{
    for (uint32_t id = 1; id <= w.last_id; id++) {
        const struct request *r = &w.requests[id];

        if (r->is_one && r->taken && r->replies == 0 && r->answers == 0 &&
            !(r->pooled && r->owners != 0) && w.clients[r->asker].alive &&
            w.incarnation[r->asker] == r->incarnation)
            wrong("request %u was never answered", id);
    }
}

/* All places have come back but those of kept messages; pools are only those of sessions, and of
 * kept messages. */
static void check_pools(void)
{
    for (unsigned i = 0; i < POOLS; i++) {
        struct segments *pool = w.pools[i];
        unsigned kept = 0;

        if (pool == NULL)
            continue;
        for (unsigned topic = 0; topic < TOPICS; topic++)
            kept += w.kept_id[topic] != 0 && w.kept_pool[topic] == pool->nonce;
        if (pool->outbox == NULL) {
            if (kept == 0)
                wrong("a pool is left over");
            continue;
        }
        look(pool);
        if (pool->n_given != kept)
            wrong("%d places are lost", (int)pool->n_given - (int)kept);
    }
}

/* Nothing may be in use but subscriptions and retained messages; and when those have gone too,
 * nothing at all. */
static void check_left_over(void)
{
    struct engine *e = &w.engine;

    if (e->store.reference_pool.n_used != e->filters.n + e->n_retained)
        wrong("%u references are left over",
              e->store.reference_pool.n_used - e->filters.n - e->n_retained);
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (w.clients[i].alive)
            client_dies(&w.clients[i]);
    }
    if (e->store.reference_pool.n_used != e->n_retained || e->filters.n != 0)
        wrong("%u references are left over after all have gone", e->store.reference_pool.n_used);
    if (e->store.cell_pool.n_used < e->n_retained || e->store.cell_pool.n_used > 2 * e->n_retained)
        wrong("%u cells are left over", e->store.cell_pool.n_used);
    for (unsigned i = 0; i < ROWS; i++) {
        if (e->sessions[i].charged != 0)
            wrong("row %u is charged", i);
    }
    check_pools();
    for (unsigned topic = 0; topic < TOPICS; topic++) {
        if (w.kept_id[topic] != 0 && w.kept_pool[topic] != 0 &&
            find_pool(w.kept_pool[topic]) == NULL)
            wrong("the pool of a kept message is gone");
    }
}

static void finish_run(void)
{
    drain_requests();
    read_all();
    w.now += (uint64_t)10 * SECOND;
    while (!act(broker_tick, NULL))
        ;
    read_all();
    if (w.fault != NULL)
        return;
    until_death = 0;
    broker_collect(NULL);
    broker_carry_out(NULL);
    check_pools();
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (w.clients[i].alive && w.clients[i].registered)
            check_client(&w.clients[i]);
    }
    check_requests();
    if (board_get(&w.engine.board->refusals.store_full) > 0 ||
        board_get(&w.engine.board->refusals.bad_slot) > 0 ||
        board_get(&w.engine.board->refusals.window) > 0)
        wrong("the run was too large for the store");
    check_left_over();
}

static void begin_run(uint64_t seed)
{
    struct ledger *ledger;
    void *memories[] = {w.ledger_memory, w.store_memory, w.board_memory};
    /* Narrow queues, so that batches are often full, or nearly all of them boxed. */
    static const uint32_t widths[] = {512, 128, 512};
    static const uint32_t buffers[] = {0, DEPTH + 2, 2};
    size_t board = board_size(ROWS, TOPICS + 1, GROUPS);

    memset(&w, 0, sizeof(w));
    luck = (struct chance){seed * UINT64_C(0x9e3779b97f4a7c15)};
    w.width = widths[seed % 3];
    w.max_buffers = buffers[seed % 3];
    w.ledger_memory = memories[0];
    w.store_memory = memories[1];
    w.board_memory = memories[2];
    memset(w.ledger_memory, 0, ledger_size(ROWS, GROUPS));
    memset(w.store_memory, 0, store_size(REFERENCES, CELLS));
    memset(w.board_memory, 0, board);
    board_format(w.board_memory, board, ROWS, TOPICS + 1, GROUPS);
    ((struct board_header *)w.board_memory)->frame_max = FRAME_MAX;
    ledger = w.ledger_memory;
    ledger->header = (struct ledger_header){
        .magic = PERSIST_MAGIC,
        .layout = PERSIST_LAYOUT,
        .n_rows = ROWS,
        .n_groups = GROUPS,
        .state = LEDGER_RUNNING,
        .n_references = REFERENCES,
        .n_cells = CELLS,
        .references_allocated = REFERENCES,
        .cells_allocated = CELLS,
        .committed = 1,
    };
    assert_true(kernel_queue_make(&w.request, 10, WIRE_QUEUE_MAX));
    w.now = (uint64_t)1000 * SECOND;
    until_death = 0;
    start_engine();
    for (unsigned i = 0; i < CLIENTS; i++)
        client_register(&w.clients[i]);
    until_death = 1 + (long)below(200);
}

/* One run. What was wrong; NULL: nothing. */
static const char *run(uint64_t seed)
{
    begin_run(seed);
    for (unsigned i = 0; i < STEPS * 4 && w.fault == NULL; i++)
        step();
    if (w.fault == NULL)
        finish_run();
    until_death = 0;
    engine_deinit(&w.engine);
    for (unsigned i = 0; i < POOLS; i++)
        w.pools[i] = segments_free(w.pools[i]);
    kernel_queue_free(&w.request);
    for (unsigned i = 0; i < ROWS; i++)
        kernel_queue_free(&w.replies[i]);
    return w.fault;
}

/* ---- Tests ---- */

static uint64_t wanted_deaths = 120000;
static uint64_t first_seed = 1;

static void K1_K3_K11_nothing_lost_twice_or_out_of_order_at_any_death(void **state)
{
    uint64_t seed = first_seed;

    (void)state;
    persist_fault = FAULT_NONE;
    n_deaths = 0;
    n_points = 0;
    for (; n_deaths < wanted_deaths; seed++) {
        const char *fault = run(seed);

        if (fault != NULL)
            fail_msg("seed %" PRIu64 ": %s", seed, fault);
    }
    print_message("%" PRIu64 " deaths at single stores in %" PRIu64 " seeds, %" PRIu64
                  " stores, %" PRIu64 " batches in boxes, %" PRIu64 " places handed back, %" PRIu64
                  " of them again: none lost, none twice, none out of order, nothing left over\n",
                  n_deaths, seed - first_seed, n_points, n_boxed, n_back, n_repeats);
}

static void each_planted_fault_is_found(void **state)
{
    static const char *const names[N_FAULTS] = {
        [FAULT_END_BEFORE_COMMIT] = "an end before the commit",
        [FAULT_NO_COMMIT_CHECK] = "a start that believes what was never committed",
        [FAULT_NEW_NUMBER] = "a new number on resend",
        [FAULT_NO_INTENT] = "no intent",
        [FAULT_NO_SETTLE] = "no settle",
        [FAULT_NO_LATE_MARK] = "no mark on answers that came late",
        [FAULT_NO_COUNT] = "a drop that does not say which it is",
        [FAULT_RETURN_BEFORE_COMMIT] = "a place handed back before the commit",
        [FAULT_END_BEFORE_RETURN] = "an end before the place is handed back",
        [FAULT_COLLECTED_FIRST] = "a release ring that counts as read before it is",
        [FAULT_NO_AGE] = "a name that is believed whatever its age",
        [FAULT_NO_ORPHAN] = "a pool that goes with its session",
        [FAULT_NO_TAKEN] = "a buffer filled again before it was emptied",
        [FAULT_REFILL] = "a box in doubt that is packed anew",
    };

    (void)state;
    for (int fault = FAULT_NONE + 1; fault < N_FAULTS; fault++) {
        const char *found = NULL;
        uint64_t seed = 0;

        if (names[fault] == NULL)
            continue; /* of groups: nobody here is in one */
        persist_fault = (enum persist_fault)fault;
        while (found == NULL && seed < 4000)
            found = run(++seed);
        persist_fault = FAULT_NONE;
        if (found == NULL)
            fail_msg("%s was not found in %" PRIu64 " seeds", names[fault], seed);
        else
            print_message("%-48s found by seed %" PRIu64 ": %s\n", names[fault], seed, found);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(K1_K3_K11_nothing_lost_twice_or_out_of_order_at_any_death),
        cmocka_unit_test(each_planted_fault_is_found),
    };
    int failed;

    if (argc > 1)
        wanted_deaths = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 10);
    w.ledger_memory = aligned_alloc(4096, (ledger_size(ROWS, GROUPS) + 4095) / 4096 * 4096);
    w.store_memory = aligned_alloc(4096, store_size(REFERENCES, CELLS));
    w.board_memory =
        aligned_alloc(4096, (board_size(ROWS, TOPICS + 1, GROUPS) + 4095) / 4096 * 4096);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(w.ledger_memory);
    free(w.store_memory);
    free(w.board_memory);
    return failed;
}
