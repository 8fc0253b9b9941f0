/* See sim-broker.h. Every function here has its counterpart in the shell, by the same name where
 * that is possible; what differs is that nothing can fail but for want of room, which is what a
 * queue is simulated for. */
#include "tests/support/sim-broker.h"

#include <string.h>

#include "broker/engine.h"
#include "broker/groups.h"
#include "broker/life.h"
#include "broker/pools.h"
#include "broker/pump.h"
#include "broker/route.h"
#include "tests/support/sim-world.h"

_Static_assert((int)SCRIPT_DROP_OLDEST == (int)ENGINE_DROP_OLDEST &&
                   (int)SCRIPT_DROP_NEWEST == (int)ENGINE_DROP_NEWEST &&
                   (int)SCRIPT_BLOCK == (int)ENGINE_BLOCK &&
                   (int)SCRIPT_DISCONNECT == (int)ENGINE_DISCONNECT,
               "the policies stand in the same order");

enum {
    URGENT_IN_A_ROW = 8,
    RETRY_MS = 10, /* until a pool or a buffer is looked for again */
    LISTEN_MS = 100,
};

static struct engine engine;
static bool engine_there;
static uint32_t n_references, n_cells; /* of the store, that were used in this run */

/* What dies with the process besides. */
static struct {
    bool rested;
    bool cut_short;
    uint64_t share_retry;
    uint64_t wake;
    bool outbox_open[WORLD_ROWS];
    bool queue_open[WORLD_ROWS];
    bool watched[WORLD_ROWS];
    bool waits[WORLD_ROWS];
} b;

/* A store to what survives. What was taken may have been committed by the one before. */
void persist_point(void)
{
    world.n_points++;
    model_settle(&world.model);
    task_point();
}

static void kernel_call(void)
{
    persist_point();
}

/* The kernel's objects of a row's session; NULL: it is no simulated client's. */
static struct estate *estate_of(uint16_t row)
{
    uint32_t session = world_session(engine_row(&engine, row)->nonce);

    return session < MODEL_SESSIONS ? &world.estates[session] : NULL;
}

static void set_time(void)
{
    engine.now = world.now;
    engine.wall = world.now;
}

static void prepare_token(void)
{
    struct engine *e = &engine;

    for (unsigned i = 0; e->token_used && i < WIRE_TOKEN_SIZE; i++)
        e->fresh_token[i] = (uint8_t)chance_draw(&world.luck);
    e->token_used = false;
}

/* ---- Segments ---- */

static void attach(uint16_t row, bool pool)
{
    struct estate *estate = estate_of(row);

    engine_attach(&engine, row, b.outbox_open[row] ? estate->outbox : NULL,
                  pool ? estate->pool : engine.sessions[row].pool);
}

static void try_later(uint16_t row)
{
    b.waits[row] = true;
    if (b.share_retry == 0)
        b.share_retry = engine.now + RETRY_MS * WORLD_MS;
}

static bool attach_pool(uint16_t row)
{
    const struct estate *estate = estate_of(row);

    kernel_call();
    if (!estate->pool_named)
        return false; /* the client is about to make it */
    attach(row, true);
    return true;
}

static bool add_buffer(uint16_t row)
{
    struct outbox_header *outbox = estate_of(row)->outbox;

    kernel_call();
    if (outbox->n_buffers >= pump_buffers(engine_row(&engine, row)) ||
        outbox->n_buffers >= world.setting.buffers)
        return false;
    outbox->n_buffers++;
    return true;
}

static void provide(uint16_t row)
{
    const struct session *s = &engine.sessions[row];
    bool found = s->pool == NULL && !s->broken && attach_pool(row);

    if (!add_buffer(row) && !found)
        try_later(row);
}

static void collect(void)
{
    struct engine *e = &engine;

    for (uint32_t i = 0; i < e->holders.n; i++) {
        uint16_t row = e->holders.rows[i];
        const struct session *s = &e->sessions[row];

        if (s->pool == NULL && s->outbox != NULL && !s->broken && !b.waits[row] &&
            !attach_pool(row))
            try_later(row);
    }
    pools_collect(e);
}

static void retry(void)
{
    struct engine *e = &engine;

    if (b.share_retry == 0 || b.share_retry > e->now)
        return;
    b.share_retry = 0;
    for (uint16_t row = 0; row < e->n_rows; row++) {
        if (!b.waits[row])
            continue;
        b.waits[row] = false;
        e->sessions[row].wants_buffer = false;
        engine_touch(e, row);
    }
}

static void unlink_pool(uint32_t slot)
{
    uint32_t session = world_session_of_pool(ledger_pools(engine.ledger)[slot]);

    kernel_call();
    if (session < MODEL_SESSIONS)
        world.estates[session].pool_named = false;
    pools_gone(&engine, slot);
}

/* ---- Sessions ---- */

static void make_session(uint16_t row)
{
    struct engine *e = &engine;
    struct estate *estate = estate_of(row);

    kernel_call();
    if (!estate->alive) {
        estate->queue_named = estate->outbox_named = false; /* of a broker that was killed at it */
        life_refused(e, row, WIRE_C_NO_SUCH_PROCESS, 0, 0);
        return;
    }
    b.watched[row] = true;
    kernel_queue_make(&estate->queue, world.setting.depth, world.setting.width);
    estate->queue_named = true;
    estate->armed = estate->edge = false;
    b.queue_open[row] = true;
    kernel_call();
    estate->outbox_named = true;
    memset(estate->outbox, 0, offsetof(struct outbox_header, ring));
    estate->outbox->magic = OUTBOX_MAGIC;
    estate->outbox->layout = OUTBOX_LAYOUT;
    estate->outbox->nonce = engine_row(e, row)->nonce;
    estate->outbox->n_buffers = world.setting.buffers > 0;
    estate->outbox->buffer_size = OUTBOX_BUFFER;
    persist_u64(&engine_row(e, row)->outbox_inode, 1);
    b.outbox_open[row] = true;
    attach(row, false);
    life_made(e, row, 1, world.setting.depth, world.setting.width);
}

static void adopt_session(uint16_t row)
{
    struct engine *e = &engine;
    const struct estate *estate = estate_of(row);

    if (!estate->queue_named || !b.outbox_open[row]) {
        world_wrong("a session was adopted without its queue or its outbox");
        life_leave(e, row, WIRE_C_QUEUE_REPLACED);
        return;
    }
    b.queue_open[row] = true;
    if (estate->alive)
        b.watched[row] = true;
    else
        life_died(e, row);
}

static bool queue_send(uint16_t row, const struct pump_batch *batch)
{
    struct estate *estate = estate_of(row);

    kernel_call();
    if (!estate->queue_named)
        return true; /* nobody has it open */
    if (!kernel_queue_send(&estate->queue, batch->bytes, batch->size, batch->level))
        return false;
    model_sent(&world.model, (uint32_t)(estate - world.estates), batch->bytes, batch->size);
    return true;
}

static void say_farewell(uint16_t row)
{
    struct engine *e = &engine;
    struct pump_batch farewell;
    uint8_t code;

    if (!life_wants_farewell(e, row, &code) || !b.queue_open[row])
        return;
    pump_farewell(e, row, WIRE_ENDED, code, &farewell);
    queue_send(row, &farewell);
    world_tell("broker: session in row %u ended, code %u", row, code);
}

static void remove_session(uint16_t row)
{
    struct engine *e = &engine;
    struct estate *estate = estate_of(row);

    say_farewell(row);
    kernel_call();
    b.queue_open[row] = false;
    estate->armed = estate->edge = false;
    estate->queue_named = false;
    if (life_lingers(e, row)) {
        if (!b.watched[row] && !estate->alive)
            life_died(e, row);
        b.watched[row] = true;
        return;
    }
    b.watched[row] = false;
    if (pools_orphan(e, row))
        unlink_pool(engine_row(e, row)->pool_slot);
    kernel_call();
    estate->outbox_named = false;
    b.outbox_open[row] = false;
    engine_attach(e, row, NULL, NULL);
    life_gone(e, row);
}

static void carry_out(void)
{
    struct engine *e = &engine;

    while (e->making.n > 0)
        make_session(e->making.rows[--e->making.n]);
    while (e->leaving.n > 0)
        remove_session(e->leaving.rows[--e->leaving.n]);
    while (e->unlinked.n > 0)
        unlink_pool(e->unlinked.rows[--e->unlinked.n]);
}

/* ---- Payloads of groups ---- */

static bool is_due(uint32_t slot, uint64_t age)
{
    const struct reference *r = engine_reference(&engine, slot);

    return r->age == age && ref_state(r) == REF_WAIT && ref_member(r) == REF_NOBODY &&
           cell_pooled(store_cell(&engine.store, r->cell));
}

/* Out of its publisher's pool, into the store. */
static void settle(uint32_t slot, uint64_t age)
{
    static uint8_t before[WIRE_QUEUE_MAX], frame[WIRE_QUEUE_MAX];
    const uint8_t *payload;
    struct wire_frame f;
    size_t size;

    store_get(&engine.store, engine_reference(&engine, slot)->cell, before);
    if (wire_get_delivery(before, engine_cell(&engine, slot)->size, &f) != WIRE_OK)
        return;
    size = wire_message_size(f.text_size, f.slot.size);
    payload = world_payload(&f.slot);
    kernel_call();
    if (size > WORLD_FRAME_MAX || payload == NULL)
        return;
    wire_put_message(frame, WIRE_MESSAGE, f.priority, f.flags & (uint16_t)~WIRE_F_POOLED, f.number,
                     f.expiry, f.text, f.text_size, payload, f.slot.size);
    groups_bring_in(&engine, &(struct groups_payload){
                                 .slot = slot, .age = age, .frame = frame, .size = (uint32_t)size});
}

static void settle_step(void)
{
    struct slots_due *due = &engine.settling;

    while (due->n > 0) {
        uint32_t slot = due->slots[--due->n].slot;

        if (is_due(slot, due->slots[due->n].age))
            settle(slot, due->slots[due->n].age);
    }
}

/* ---- Sending ---- */

/* As epoll has it: who asks for an edge is told at once if there is room. */
static void arm(uint16_t row, bool on)
{
    struct estate *estate = estate_of(row);

    if (estate->armed == on)
        return;
    kernel_call();
    estate->armed = on;
    estate->edge = on && estate->queue.n < estate->queue.depth;
}

static void pump(uint16_t row)
{
    struct engine *e = &engine;
    struct pump_batch batch;
    uint32_t sent = 0;
    int outcome;

    while ((outcome = pump_next(e, row, &batch)) != PUMP_NOTHING && outcome != PUMP_BLOCKED) {
        if (outcome == PUMP_ASK) {
            kernel_call();
            pump_room(e, row, world.setting.depth - estate_of(row)->queue.n);
        } else if (outcome == PUMP_WANTS_POOL) {
            provide(row);
        } else {
            if (queue_send(row, &batch))
                pump_sent(e, row);
            else
                pump_full(e, row);
            if (++sent > world.setting.depth) {
                engine_touch(e, row);
                return;
            }
        }
    }
    if (outcome == PUMP_BLOCKED && e->sessions[row].wants_buffer)
        try_later(row);
    if (b.queue_open[row])
        arm(row, outcome == PUMP_BLOCKED);
}

static void pump_all(void)
{
    struct rows *touched = &engine.touched;
    uint32_t n;

    groups_deal(&engine);
    n = touched->n;
    for (uint32_t i = 0; i < n; i++) {
        uint16_t row = touched->rows[i];

        engine.sessions[row].touched = false;
        pump(row);
    }
    touched->n -= n;
    memmove(touched->rows, touched->rows + n, touched->n * sizeof(*touched->rows));
}

/* ---- Receiving ---- */

static bool take(struct kernel_queue *q, enum landing_from from)
{
    struct engine *e = &engine;
    uint32_t size;
    unsigned level;

    route_expect(e, from);
    kernel_call();
    if (!kernel_queue_receive(q, e->landing->bytes, &size, &level))
        return false;
    model_taken(&world.model, e->landing->bytes, size);
    route(e, size);
    prepare_token();
    return true;
}

static bool take_urgent(void)
{
    return take(&world.urgent, LANDING_URGENT);
}

static bool take_normal(void)
{
    return !engine_is_tight(&engine) && take(&world.request, LANDING_NORMAL);
}

/* `quiet`: both were seen empty, the urgent one after the last normal envelope. */
static bool take_all(bool *quiet)
{
    uint32_t most = 1 + chance_below(&world.luck, 8); /* envelopes of a turn */
    uint32_t in_a_row = 0;
    bool urgent_empty = false;
    uint32_t n = 0;

    b.cut_short = true;
    while (n < most) {
        if (in_a_row < URGENT_IN_A_ROW && take_urgent()) {
            urgent_empty = false;
            in_a_row++;
            n++;
            continue;
        }
        urgent_empty = in_a_row < URGENT_IN_A_ROW;
        in_a_row = 0;
        if (!take_normal()) {
            *quiet = urgent_empty && !engine_is_tight(&engine);
            b.cut_short = false;
            break;
        }
        n++;
    }
    return n > 0;
}

/* After a rest the first envelope is routed and sent on before another look. */
static bool intake(bool *quiet)
{
    *quiet = false;
    set_time();
    if (!b.rested || engine.ending.n > 0)
        return take_all(quiet);
    b.cut_short = false;
    return chance_below(&world.luck, 2) == 0 ? take_urgent() || take_normal()
                                             : take_normal() || take_urgent();
}

/* ---- A turn, and the rest between two ---- */

static void see_events(void)
{
    struct engine *e = &engine;

    kernel_call();
    for (uint16_t row = 0; row < e->n_rows; row++) {
        struct estate *estate = estate_of(row);

        if (estate == NULL)
            continue;
        if (b.queue_open[row] && estate->edge) {
            estate->edge = false;
            pump_edge(e, row);
        }
        if (b.watched[row] && !estate->alive && estate->death_seen <= world.now) {
            b.watched[row] = false;
            life_died(e, row);
        }
    }
}

static void turn(void)
{
    struct engine *e = &engine;
    bool quiet;
    bool work = intake(&quiet);

    b.rested = !work;
    collect();
    if (quiet)
        life_quiet(e);
    if (life_next_tick(e) <= e->now)
        life_tick(e);
    carry_out();
    work = work || e->touched.n > 0 || e->dirty.n > 0 || e->busy.n > 0;
    pump_all();
    settle_step();
    retry();
    if (work || e->dirty.n > 0)
        engine_show(e);
}

static bool has_more(void)
{
    const struct engine *e = &engine;

    return e->touched.n > 0 || e->busy.n > 0 || e->ending.n > 0 || e->unlinked.n > 0 || b.cut_short;
}

/* What epoll would tell. */
static bool stirs(const void *context)
{
    (void)context;
    if (world.request.n > 0 || world.urgent.n > 0)
        return true;
    for (uint16_t row = 0; row < engine.n_rows; row++) {
        const struct estate *estate = estate_of(row);

        if (estate != NULL &&
            ((b.queue_open[row] && estate->edge) ||
             (b.watched[row] && !estate->alive && estate->death_seen <= world.now)))
            return true;
    }
    return false;
}

static uint64_t time_to_wake(bool listening)
{
    uint64_t wake = life_next_tick(&engine);
    uint64_t listen = world.now + LISTEN_MS * WORLD_MS;

    for (uint16_t row = 0; row < engine.n_rows; row++) {
        const struct estate *estate = estate_of(row);

        if (estate != NULL && b.watched[row] && !estate->alive && estate->death_seen < wake)
            wake = estate->death_seen;
    }
    if (b.share_retry != 0 && b.share_retry < wake)
        wake = b.share_retry;
    return listening && listen < wake ? listen : wake;
}

/* Say that it is about to sleep, and look at the rings once more (P8). */
static bool lie_down(void)
{
    bool listening;

    do {
        listening = pools_listen(&engine);
        kernel_call();
        atomic_store(&world.board->asleep, listening ? BOARD_LISTENING : BOARD_ASLEEP);
        kernel_call();
        collect();
    } while (listening != pools_listen(&engine));
    return listening;
}

static void rest(void)
{
    bool listening = lie_down();

    if (!has_more())
        task_sleep(stirs, time_to_wake(listening));
    kernel_call();
    atomic_store(&world.board->asleep, BOARD_AWAKE);
    b.cut_short = true;
    b.rested = true;
}

/* ---- A process ---- */

static void start(void)
{
    struct engine_memory memory = {world.ledger, world.store, world.board};
    struct engine_settings settings = {
        .backlog_size = (uint64_t)world.setting.backlog * WIRE_CELL_SIZE,
        .stall_timeout = world.setting.stall_ms * WORLD_MS,
        .retained_size = (uint64_t)WORLD_CELLS * WIRE_CELL_SIZE / 4,
        .pool_max = POOL_PAYLOADS + WORLD_PAYLOADS,
        .max_subscriptions = 16,
        .overflow = (enum engine_overflow)world.setting.overflow,
        .group_size = (uint64_t)WORLD_CELLS * WIRE_CELL_SIZE,
        .ack_timeout = crew_settings.ack_ms,
        .delivery_limit = crew_settings.limit,
        .group_linger = 3600 * WORLD_SECOND,
    };
    struct engine *e = &engine;

    if (engine_init(e, &memory, &settings) < 0) {
        world_wrong("no memory");
        return;
    }
    engine_there = true;
    e->token_used = true;
    prepare_token();
    set_time();
    for (uint16_t row = 0; row < e->n_rows; row++) {
        uint32_t state = engine_row(e, row)->state;

        if (state != ROW_LIVE && state != ROW_ENDING)
            continue;
        b.outbox_open[row] = estate_of(row)->outbox_named;
        attach(row, false);
    }
    if (life_start(e) < 0) {
        world_wrong("the store is damaged at a start");
        return;
    }
    route_resume(e);
    prepare_token();
    engine_show(e);
    for (uint16_t row = 0; row < e->n_rows; row++) {
        if (engine_row(e, row)->state == ROW_LIVE)
            adopt_session(row);
    }
    world.board->window = e->window;
    atomic_store(&world.board->state, BOARD_RUNNING);
}

static void program(void *context)
{
    (void)context;
    start();
    while (world.claim == NULL) {
        see_events();
        turn();
        if (!has_more())
            rest();
    }
}

void broker_begin(void)
{
    memset(&b, 0, sizeof(b));
    task_begin(&world.broker, program, NULL);
}

static uint32_t larger(uint32_t one, uint32_t other)
{
    return one > other ? one : other;
}

void broker_kill(void)
{
    task_kill(&world.broker);
    n_references = larger(n_references, engine.store.reference_pool.high);
    n_cells = larger(n_cells, engine.store.cell_pool.high);
    for (uint32_t i = 0; i < world.n_estates; i++)
        world.estates[i].armed = world.estates[i].edge = false;
    if (engine_there)
        engine_deinit(&engine);
    engine_there = false;
}

void broker_forget(void)
{
    uint8_t *cells = (uint8_t *)world.store + store_cells_offset(WORLD_REFERENCES);

    memset(world.store, 0, n_references * sizeof(struct reference));
    memset(cells, 0, n_cells * sizeof(struct cell));
    n_references = n_cells = 0;
}

/* ---- What it has derived ---- */

void broker_count(struct broker_books *out)
{
    *out = (struct broker_books){
        .n_references = engine.store.reference_pool.n_used,
        .n_filters = engine.filters.n,
        .n_kept = engine.n_retained,
    };
    for (uint32_t row = 0; row < engine.n_rows; row++)
        out->charged += engine.sessions[row].charged;
}

void broker_count_group(uint32_t group, struct broker_group *out)
{
    const char name[] = {'g', (char)('0' + group), '\0'};

    *out = (struct broker_group){0};
    for (uint16_t g = 0; g < engine.n_groups; g++) {
        const struct group *living = &engine.groups[g];
        const struct group *dead = &engine.groups[group_dead(&engine, g)];

        if (strcmp(group_row(&engine, g)->name, name) != 0)
            continue;
        out->n_members = living->n_members;
        out->n_messages = living->n_waiting + living->n_later + living->n_out;
        out->n_dead = dead->n_waiting + dead->n_later + dead->n_out;
    }
}

uint64_t broker_now(void)
{
    return engine.now;
}

uint32_t broker_waiting(uint32_t row)
{
    return engine_there && atomic_load(&world.board->state) == BOARD_RUNNING
               ? (uint32_t)engine.sessions[row].waiting.map
               : 0;
}
