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
 * twice, nothing out of order, drops counted exactly; at the end nothing is left over. The same
 * runs with faults planted in the engine must fail, or the test is worth nothing.
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
#include "broker/pump.h"
#include "broker/route.h"

enum {
    CLIENTS = 4,
    ROWS = 5,
    DEPTH = 6,
    WIDTH = 512, /* narrow, so that batches are often full */
    REFERENCES = 4096,
    CELLS = 4096,
    TOPICS = 3,
    LEVELS = 4, /* of the priorities used: 0, 8, 24, 31 */
    EXPECTED_MAX = 2048,
    IDS_MAX = 4096, /* messages in a run */
    HELD_MAX = 64,  /* requests that a client has and may answer */
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

void persist_point(void)
{
    n_points++;
    if (until_death > 0 && --until_death == 0) {
        n_deaths++;
        longjmp(killed, 1);
    }
}

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

/* ---- The fake kernel ---- */

struct packet {
    uint8_t bytes[WIRE_QUEUE_MAX];
    uint32_t size;
    unsigned level;
    uint64_t order;
};

struct fake_queue { /* highest level first, first in first out within one */
    struct packet packets[16];
    unsigned n, depth;
};

static uint64_t packet_order;

static bool fake_send(struct fake_queue *q, const uint8_t *bytes, uint32_t size, unsigned level)
{
    struct packet *p = &q->packets[q->n];

    if (q->n == q->depth)
        return false;
    memcpy(p->bytes, bytes, size);
    p->size = size;
    p->level = level;
    p->order = packet_order++;
    q->n++;
    return true;
}

static bool fake_receive(struct fake_queue *q, uint8_t *bytes, uint32_t *size, unsigned *level)
{
    unsigned best = 0;

    if (q->n == 0)
        return false;
    for (unsigned i = 1; i < q->n; i++) {
        const struct packet *a = &q->packets[i], *b = &q->packets[best];

        if (a->level > b->level || (a->level == b->level && a->order < b->order))
            best = i;
    }
    memcpy(bytes, q->packets[best].bytes, q->packets[best].size);
    *size = q->packets[best].size;
    *level = q->packets[best].level;
    q->packets[best] = q->packets[--q->n];
    return true;
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

struct client {
    uint64_t nonce;
    bool alive, registered;
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
};

static struct world {
    void *ledger_memory, *store_memory, *board_memory;
    struct engine engine;
    struct fake_queue request;
    struct fake_queue replies[ROWS];
    bool queue_made[ROWS];
    struct client clients[CLIENTS];
    uint32_t incarnation[CLIENTS];
    struct request requests[IDS_MAX];
    uint32_t last_id;
    uint32_t kept_id[TOPICS]; /* 0: none */
    uint8_t kept_level[TOPICS];
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
    .retained_size = CELLS * WIRE_CELL_SIZE / 4,
    .max_subscriptions = 16,
    .overflow = ENGINE_DROP_OLDEST,
};

static void start_engine(void)
{
    struct engine *e = &w.engine;
    struct engine_memory memory = {w.ledger_memory, w.store_memory, w.board_memory};

    assert_int_equal(engine_init(e, &memory, &settings), 0);
    e->now = w.now;
    for (unsigned i = 0; i < WIRE_TOKEN_SIZE; i++)
        e->fresh_token[i] = (uint8_t)chance();
    if (life_start(e) != 0) {
        wrong("the store is damaged at a start");
        return;
    }
    route_resume(e);
    e->token_used = false;
}

/* Start again, and again if that is cut off too. */
static void restart(void)
{
    volatile long next = until_death;

    for (;;) {
        engine_deinit(&w.engine);
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

    if (request != NULL)
        request->taken = true;
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
    if (!fake_receive(&w.request, e->landing->bytes, &size, &level))
        return;
    model_envelope(e->landing->bytes, size);
    route(e, size);
}

static void broker_pump(void *row_argument)
{
    uint16_t row = *(uint16_t *)row_argument;
    struct engine *e = &w.engine;
    struct pump_batch batch;
    int outcome;

    set_now();
    while ((outcome = pump_next(e, row, &batch)) == PUMP_BATCH || outcome == PUMP_ASK) {
        if (outcome == PUMP_ASK)
            pump_room(e, row, DEPTH - w.replies[row].n);
        else if (below(8) > 0 && fake_send(&w.replies[row], batch.bytes, batch.size, batch.level))
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

/* The shell's part in a registration and in an end: queues. */
static void broker_carry_out(void *unused)
{
    struct engine *e = &w.engine;

    (void)unused;
    set_now();
    while (e->making.n > 0) {
        uint16_t row = e->making.rows[--e->making.n];

        w.replies[row] = (struct fake_queue){.depth = DEPTH};
        w.queue_made[row] = true;
        life_made(e, row, 1, DEPTH, WIDTH);
    }
    while (e->leaving.n > 0) {
        uint16_t row = e->leaving.rows[--e->leaving.n];

        w.queue_made[row] = false;
        w.replies[row].n = 0;
        life_gone(e, row);
    }
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
    fake_send(&w.request, bytes, WIRE_ENVELOPE_SIZE + size, level);
}

static void client_register(struct client *c)
{
    static const uint8_t no_token[WIRE_TOKEN_SIZE];
    unsigned i = (unsigned)(c - w.clients);
    uint8_t frame[128];
    size_t size;

    *c = (struct client){.nonce = chance() | 1, .alive = true};
    w.incarnation[i]++;
    size = wire_put_register(frame, 0, c->nonce, 100 + i, 1, "", 0);
    send_frames(frame, (uint32_t)size, WIRE_NO_SESSION, no_token, WIRE_CONTROL);
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

    memcpy(payload, &id, sizeof(id));
    w.requests[id] = (struct request){.is_one = request,
                                      .asker = (int)(c - w.clients),
                                      .incarnation = w.incarnation[c - w.clients],
                                      .expiry = expiry};
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
    uint8_t frame[64];
    size_t size;

    if (c->n_held == 0 || w.requests[c->held_id[i]].expiry <= w.now)
        return;
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

/* As the library does: a number that is not above the last one at that level was read before (K3).
 */
static void client_read(struct client *c)
{
    uint8_t bytes[WIRE_QUEUE_MAX];
    struct wire_batch batch;
    struct wire_frame f;
    uint32_t size;
    unsigned level;

    if (find_row(c) == NULL || !fake_receive(&w.replies[c->row], bytes, &size, &level))
        return;
    assert_int_equal(wire_get_batch(bytes, size, &batch), WIRE_OK);
    assert_int_equal(batch.level, level);
    if (batch.number <= c->seen[level])
        return;
    c->seen[level] = batch.number;
    c->missed = batch.missed;
    for (size_t at = 0; at < batch.size; at += f.size) {
        assert_int_equal(wire_get_delivery(batch.frames + at, batch.size - at, &f), WIRE_OK);
        if (f.type == WIRE_WELCOME)
            c->registered = true;
        else if (f.type == WIRE_ANSWER)
            check_answer(c, &f);
        else
            check_message(c, &f);
    }
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

/* Its process is killed; the broker sees the queues empty, and takes it away (L1). */
static void client_dies(struct client *c)
{
    uint16_t row;

    drain_requests();
    if (find_row(c) == NULL)
        return;
    row = (uint16_t)c->row;
    c->alive = false;
    for (uint32_t id = 1; id <= w.last_id; id++) {
        if (w.requests[id].owners & 1u << (c - w.clients))
            w.requests[id].server_died = true;
    }
    while (!act(broker_dies, &row))
        ;
    while (engine_row(&w.engine, row)->state != ROW_FREE && w.fault == NULL) {
        act(broker_quiet, NULL);
        act(broker_carry_out, NULL);
    }
}

static void client_step(struct client *c)
{
    const struct row *row;

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
    switch (below(10)) {
    case 0:
    case 1:
    case 2:
        client_publish(c, row);
        break;
    case 3:
        if (w.request.n < w.request.depth)
            client_subscribe(c, row);
        break;
    case 4:
        if (w.request.n < w.request.depth)
            client_reply(c, row);
        break;
    case 5:
        if (below(12) == 0)
            client_dies(c);
        break;
    default:
        client_read(c);
        break;
    }
}

static void step(void)
{
    uint16_t row = (uint16_t)below(ROWS);

    switch (below(8)) {
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

        pump_all();
        for (unsigned i = 0; i < CLIENTS; i++) {
            client_read(&w.clients[i]);
            more = more || (find_row(&w.clients[i]) != NULL &&
                            (w.replies[w.clients[i].row].n > 0 ||
                             w.engine.sessions[w.clients[i].row].n_waiting > 0));
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
            w.clients[r->asker].alive && w.incarnation[r->asker] == r->incarnation)
            wrong("request %u was never answered", id);
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
    for (unsigned i = 0; i < CLIENTS; i++) {
        if (w.clients[i].alive && w.clients[i].registered)
            check_client(&w.clients[i]);
    }
    check_requests();
    if (board_get(&w.engine.board->refusals.store_full) > 0 ||
        board_get(&w.engine.board->refusals.window) > 0)
        wrong("the run was too large for the store");
    check_left_over();
}

static void begin_run(uint64_t seed)
{
    struct ledger *ledger;
    void *memories[] = {w.ledger_memory, w.store_memory, w.board_memory};
    size_t board = board_size(ROWS, TOPICS + 1);

    memset(&w, 0, sizeof(w));
    chance_state = seed * UINT64_C(0x9e3779b97f4a7c15);
    w.ledger_memory = memories[0];
    w.store_memory = memories[1];
    w.board_memory = memories[2];
    memset(w.ledger_memory, 0, ledger_size(ROWS));
    memset(w.store_memory, 0, store_size(REFERENCES, CELLS));
    memset(w.board_memory, 0, board);
    board_format(w.board_memory, board, ROWS, TOPICS + 1);
    ((struct board_header *)w.board_memory)->frame_max = WIDTH - WIRE_BATCH_SIZE;
    ledger = w.ledger_memory;
    ledger->header = (struct ledger_header){
        .magic = PERSIST_MAGIC,
        .layout = PERSIST_LAYOUT,
        .n_rows = ROWS,
        .state = LEDGER_RUNNING,
        .n_references = REFERENCES,
        .n_cells = CELLS,
        .references_allocated = REFERENCES,
        .cells_allocated = CELLS,
        .committed = 1,
    };
    w.request.depth = 10;
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
                  " stores: none lost, none twice, none out of order, nothing left over\n",
                  n_deaths, seed - first_seed, n_points);
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
    };

    (void)state;
    for (int fault = FAULT_NONE + 1; fault < N_FAULTS; fault++) {
        const char *found = NULL;
        uint64_t seed = 0;

        persist_fault = (enum persist_fault)fault;
        while (found == NULL && seed < 4000)
            found = run(++seed);
        persist_fault = FAULT_NONE;
        if (found == NULL)
            fail_msg("%s was not found in %" PRIu64 " seeds", names[fault], seed);
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
    w.ledger_memory = aligned_alloc(4096, (ledger_size(ROWS) + 4095) / 4096 * 4096);
    w.store_memory = aligned_alloc(4096, store_size(REFERENCES, CELLS));
    w.board_memory = aligned_alloc(4096, (board_size(ROWS, TOPICS + 1) + 4095) / 4096 * 4096);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(w.ledger_memory);
    free(w.store_memory);
    free(w.board_memory);
    return failed;
}
