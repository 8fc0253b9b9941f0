/* A death is a longjmp out of the middle of the engine: everything derived is thrown away, and a
 * new engine starts on the same ledger and store; it may be killed in its start as well. The
 * queues, being the kernel's, live on. */
#include "tests/support/death-broker.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/engine.h"
#include "broker/life.h"
#include "broker/pools.h"
#include "broker/pump.h"
#include "broker/route.h"
#include "tests/support/death-model.h"
#include "tests/support/death-scene.h"

/* ---- Death ---- */

enum persist_fault persist_fault;

static jmp_buf killed;
static long until_death; /* stores until the next; 0: none comes */

void persist_point(void)
{
    scene_toll.points++;
    if (until_death > 0 && --until_death == 0) {
        scene_toll.deaths++;
        longjmp(killed, 1);
    }
}

void broker_die_at(long store)
{
    until_death = store;
}

static const struct engine_settings settings = {
    .backlog_size = 1 << 30,
    .stall_timeout = (uint64_t)1000 * SCENE_SECOND,
    .retained_size = 1 << 30,
    .pool_max = SEGMENTS_POOL, /* half of it one may hold: a dozen of ours */
    .max_subscriptions = 16,
    .overflow = ENGINE_DROP_OLDEST,
};

void broker_start(void)
{
    struct engine *e = &scene.engine;
    struct engine_memory memory = {scene.ledger_memory, scene.store_memory, scene.board_memory};

    assert_int_equal(engine_init(e, &memory, &settings), 0);
    e->now = scene.now;
    for (uint16_t i = 0; i < SCENE_ROWS; i++) {
        if (scene.segments[i] != NULL && engine_row(e, i)->state != ROW_FREE)
            engine_attach(e, i, scene.segments[i]->outbox, NULL);
    }
    for (unsigned i = 0; i < WIRE_TOKEN_SIZE; i++)
        e->fresh_token[i] = (uint8_t)scene_chance();
    if (life_start(e) != 0) {
        scene_wrong("the store is damaged at a start");
        return;
    }
    route_resume(e);
    e->token_used = false;
}

/* What stands in the landing and is not committed will be routed again: nothing of it may have come
 * back. */
static void check_landing(void)
{
    const struct landing *landing = &((struct ledger *)scene.ledger_memory)->landing;
    struct wire_envelope envelope;
    struct wire_frame f;

    if (wire_get_envelope(landing->bytes, wire_envelope_length(landing->bytes), &envelope) !=
            WIRE_OK ||
        landing->age < ((struct ledger *)scene.ledger_memory)->header.committed)
        return;
    for (size_t at = 0; at < envelope.size; at += f.size) {
        struct segments *pool;

        assert_int_equal(wire_get_request(envelope.frames + at, envelope.size - at, &f), WIRE_OK);
        if (f.type > WIRE_REPLY || (f.flags & WIRE_F_POOLED) == 0)
            continue;
        pool = scene_find_pool(f.slot.pool);
        if (pool == NULL || pool->outbox == NULL)
            continue;
        scene_look(pool);
        scene_payload_at(&f.slot);
    }
}

/* Start again, and again if that is cut off too. */
static void restart(void)
{
    volatile long next = until_death;

    for (;;) {
        engine_deinit(&scene.engine);
        check_landing();
        until_death = next;
        if (setjmp(killed) == 0) {
            broker_start();
            break;
        }
        next = scene_below(2) == 0 ? 1 + (long)scene_below(40) : 0;
    }
}

bool broker_act(void (*f)(void *), void *argument)
{
    if (setjmp(killed) == 0) {
        f(argument);
        return true;
    }
    until_death = scene_below(3) == 0 ? 1 + (long)scene_below(60) : 0;
    restart();
    until_death = 1 + (long)scene_below(120);
    return false;
}

/* ---- Acts ---- */

static void set_now(void)
{
    scene.engine.now = scene.now;
}

void broker_take(void *unused)
{
    struct engine *e = &scene.engine;
    uint32_t size;
    unsigned level;

    (void)unused;
    set_now();
    route_expect(e, LANDING_NORMAL);
    if (!kernel_queue_receive(&scene.request, e->landing->bytes, &size, &level))
        return;
    model_envelope(e->landing->bytes, size);
    route(e, size);
}

static void attach_pool(uint16_t row)
{
    if (scene.segments[row] != NULL && scene.segments[row]->pool != NULL)
        engine_attach(&scene.engine, row, scene.segments[row]->outbox, scene.segments[row]->pool);
}

static void provide(uint16_t row)
{
    if (scene.segments[row] != NULL && scene.segments[row]->outbox != NULL)
        segments_grow(scene.segments[row]);
    attach_pool(row);
}

void broker_collect(void *unused)
{
    const struct rows *holders = &scene.engine.holders;

    (void)unused;
    set_now();
    for (uint32_t i = 0; i < holders->n; i++)
        attach_pool(holders->rows[i]);
    pools_collect(&scene.engine);
}

void broker_pump(void *row_argument)
{
    uint16_t row = *(uint16_t *)row_argument;
    struct engine *e = &scene.engine;
    struct pump_batch batch;
    int outcome;

    set_now();
    while ((outcome = pump_next(e, row, &batch)) != PUMP_NOTHING && outcome != PUMP_BLOCKED) {
        if (outcome == PUMP_ASK)
            pump_room(e, row, SCENE_DEPTH - scene.replies[row].n);
        else if (outcome == PUMP_WANTS_POOL)
            provide(row);
        else if (scene_below(8) > 0 &&
                 kernel_queue_send(&scene.replies[row], batch.bytes, batch.size, batch.level))
            pump_sent(e, row);
        else
            pump_full(e, row);
        if (scene_below(12) == 0)
            break;
    }
    if (outcome == PUMP_BLOCKED)
        pump_edge(e, row);
    e->touched.n = 0;
    for (unsigned i = 0; i < SCENE_ROWS; i++)
        e->sessions[i].touched = false;
}

/* Another broker may have made them before it died; its client was not told. */
static void make_segments(uint16_t row)
{
    const struct row *ours = engine_row(&scene.engine, row);
    unsigned i = 0;

    scene_remove_pool(ours->pool);
    while (scene.pools[i] != NULL && ++i < SCENE_POOLS)
        ;
    if (i == SCENE_POOLS)
        fail_msg("the run has too many pools");
    scene.pools[i] = segments_new(ours->pool, ours->nonce, scene.max_buffers);
    assert_non_null(scene.pools[i]);
    scene.segments[row] = scene.pools[i];
}

static void unlink_pool(uint32_t slot)
{
    uint64_t nonce = ledger_pools(scene.engine.ledger)[slot];
    const struct segments *pool = nonce == 0 ? NULL : scene_find_pool(nonce);

    if (pool != NULL && pool->outbox != NULL)
        scene_wrong("the pool of a session is unlinked");
    for (unsigned i = 0; i < SCENE_CLIENTS; i++) {
        for (unsigned k = 0; k < scene.clients[i].n_readings; k++) {
            if (scene.clients[i].readings[k].slot.pool == nonce)
                scene_wrong("a pool is unlinked that client %u reads", i);
        }
    }
    if (nonce != 0)
        scene_remove_pool(nonce);
    pools_gone(&scene.engine, slot);
}

/* A process that has gone cannot read on: whoever sees that says so. */
static void remove_session(uint16_t row)
{
    struct engine *e = &scene.engine;
    const struct scene_client *c = scene_client_of_row(row);

    scene.queue_made[row] = false;
    if (life_lingers(e, row)) {
        if (c == NULL || !c->lingers)
            life_died(e, row);
        return;
    }
    scene.replies[row].n = 0;
    if (scene.segments[row] != NULL)
        segments_end(scene.segments[row]);
    scene.segments[row] = NULL;
    engine_attach(e, row, NULL, NULL);
    if (pools_orphan(e, row))
        unlink_pool(engine_row(e, row)->pool_slot);
    life_gone(e, row);
}

static void lend(uint16_t row)
{
    struct engine *e = &scene.engine;
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

void broker_carry_out(void *unused)
{
    struct engine *e = &scene.engine;

    (void)unused;
    set_now();
    while (e->making.n > 0) {
        uint16_t row = e->making.rows[--e->making.n];

        assert_true(kernel_queue_make(&scene.replies[row], SCENE_DEPTH, scene.width));
        scene.queue_made[row] = true;
        make_segments(row);
        engine_attach(e, row, scene.segments[row]->outbox, NULL);
        life_made(e, row, 1, SCENE_DEPTH, scene.width);
    }
    while (e->fetching.n > 0)
        lend(e->fetching.rows[--e->fetching.n]);
    while (e->leaving.n > 0)
        remove_session(e->leaving.rows[--e->leaving.n]);
    while (e->unlinked.n > 0)
        unlink_pool(e->unlinked.rows[--e->unlinked.n]);
    for (unsigned i = 0; e->token_used && i < WIRE_TOKEN_SIZE; i++)
        e->fresh_token[i] = (uint8_t)scene_chance();
    e->token_used = false;
}

void broker_tick(void *unused)
{
    (void)unused;
    set_now();
    life_tick(&scene.engine);
}

void broker_quiet(void *unused)
{
    (void)unused;
    set_now();
    life_quiet(&scene.engine);
}

void broker_sees_death(void *row)
{
    set_now();
    life_died(&scene.engine, *(uint16_t *)row);
}

void broker_kicks(void *row)
{
    set_now();
    life_leave(&scene.engine, *(uint16_t *)row, WIRE_C_KICKED);
}

void broker_pump_all(void)
{
    for (uint16_t row = 0; row < SCENE_ROWS; row++)
        broker_act(broker_pump, &row);
}
