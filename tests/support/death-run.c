/* At the end of a run all that is to be read is read: nothing may be left over but what is kept on
 * purpose, drops are counted exactly, and each place and each pool has come back. */
#include "tests/support/death-run.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/engine.h"
#include "tests/support/death-broker.h"
#include "tests/support/death-client.h"
#include "tests/support/death-scene.h"

enum {
    FRAME_MAX = 472,
    REFERENCES = 4096,
    CELLS = 4096,
    GROUPS = 2,
    STEPS = 800,
};

/* ---- Steps ---- */

static void drain_requests(void)
{
    while (scene.request.n > 0) {
        broker_act(broker_take, NULL);
        broker_act(broker_carry_out, NULL);
    }
    broker_act(broker_carry_out, NULL);
}

/* What it was asked may be answered by its end. */
static void end_client(struct scene_client *c)
{
    c->alive = false;
    for (uint32_t id = 1; id <= scene.last_id; id++) {
        if (scene.requests[id].owners & 1u << (c - scene.clients))
            scene.requests[id].server_died = true;
    }
}

/* The broker sees the request queues empty, and takes it away (L1). */
static void take_away(const struct scene_client *c, uint16_t row)
{
    uint64_t nonce = c->nonce;

    while (engine_row(&scene.engine, row)->state != ROW_FREE &&
           engine_row(&scene.engine, row)->nonce == nonce && scene.fault == NULL) {
        broker_act(broker_quiet, NULL);
        broker_act(broker_carry_out, NULL);
        if (c->lingers && scene.engine.ending.n == 0 && scene.engine.leaving.n == 0)
            return;
    }
}

/* Its process is killed. */
static void client_dies(struct scene_client *c)
{
    uint16_t row;

    drain_requests();
    if (!c->lingers && client_row(c) == NULL)
        return;
    row = (uint16_t)c->row;
    end_client(c);
    c->lingers = false;
    c->letter.size = 0;
    c->n_readings = 0;
    if (engine_row(&scene.engine, row)->nonce != c->nonce)
        return; /* it had gone already */
    while (!broker_act(broker_sees_death, &row))
        ;
    take_away(c, row);
}

/* The broker ends its session; what it reads it reads on. */
static void client_is_kicked(struct scene_client *c)
{
    uint16_t row;

    drain_requests();
    if (client_row(c) == NULL)
        return;
    row = (uint16_t)c->row;
    end_client(c);
    c->lingers = true;
    while (!broker_act(broker_kicks, &row))
        ;
    take_away(c, row);
}

/* All that is left to it is to read, to give back, and to go. */
static void linger(struct scene_client *c)
{
    const struct row *row = engine_row(&scene.engine, (uint16_t)c->row);

    if (row->state == ROW_FREE || row->nonce != c->nonce) {
        if (c->n_readings > 0)
            scene_wrong("client %d has %u payloads under its eyes, and its row is free",
                        (int)(c - scene.clients), c->n_readings);
        c->lingers = false;
    } else if (scene_below(12) == 0) {
        client_dies(c);
    } else if (scene.replies[c->row].n > 0 || c->letter.size > 0) {
        client_read(c); /* what stood in its queue */
    } else {
        client_release(c, scene_find_pool(scene_pool_of(c)));
    }
}

static void client_step(struct scene_client *c)
{
    const struct row *row;

    if (c->lingers) {
        linger(c);
        return;
    }
    if (!c->alive) {
        if (scene.request.n < scene.request.depth)
            client_register(c);
        return;
    }
    row = client_row(c);
    if (row == NULL || !c->registered) {
        client_read(c);
        return;
    }
    switch (scene_below(16)) {
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
        client_release(c, scene_find_pool(scene_pool_of(c)));
        break;
    case 10:
        client_waits(scene_find_pool(scene_pool_of(c)));
        break;
    case 11:
        if (scene_below(3) == 0)
            client_fetch(c, row);
        break;
    case 4:
        if (scene.request.n < scene.request.depth)
            client_subscribe(c, row);
        break;
    case 5:
        if (scene.request.n < scene.request.depth)
            client_reply(c, row);
        break;
    case 12:
        if (scene_below(16) == 0)
            client_dies(c);
        else if (scene_below(24) == 0)
            client_is_kicked(c);
        break;
    default:
        client_read(c);
        break;
    }
}

static void step(void)
{
    uint16_t row = (uint16_t)scene_below(SCENE_ROWS);

    switch (scene_below(9)) {
    case 0:
    case 1:
    case 2:
        client_step(&scene.clients[scene_below(SCENE_CLIENTS)]);
        break;
    case 3:
    case 4:
        broker_act(broker_take, NULL);
        broker_act(broker_carry_out, NULL);
        break;
    case 5:
    case 6:
        broker_act(broker_pump, &row);
        break;
    case 7:
        broker_act(broker_collect, NULL);
        client_check_readings();
        break;
    default:
        if (scene.request.n == 0) {
            scene.now += scene_below(4) * (SCENE_SECOND / 10);
            broker_act(broker_tick, NULL);
        }
        break;
    }
}

/* ---- The end ---- */

static void read_all(void)
{
    for (unsigned round = 0; round < 400; round++) {
        bool more = false;

        broker_act(broker_collect, NULL);
        broker_act(broker_carry_out, NULL);
        broker_pump_all();
        for (unsigned i = 0; i < SCENE_CLIENTS; i++) {
            struct scene_client *c = &scene.clients[i];

            client_read(c);
            while (c->n_readings > (round % 4 == 0 ? 0 : SCENE_READINGS_MANY / 2))
                client_release(c, scene_find_pool(scene_pool_of(c)));
            if (c->lingers)
                linger(c);
            more = more || c->lingers || c->n_readings > 0 || c->letter.size > 0 ||
                   (client_row(c) != NULL &&
                    (scene.replies[c->row].n > 0 || scene.engine.sessions[c->row].n_waiting > 0));
        }
        if (!more)
            return;
    }
    scene_wrong("the backlog does not end");
}

static void check_client(struct scene_client *c)
{
    for (unsigned level = 0; level < WIRE_LEVELS; level++) {
        const struct scene_line *line = &c->lines[level];

        for (unsigned i = line->head; i < line->tail; i++) {
            if (line->list[i].expiry == 0)
                scene_wrong("client %d, priority %u: %u is lost", (int)(c - scene.clients), level,
                            line->list[i].id);
            c->skipped++;
        }
    }
    if (client_row(c) != NULL && engine_row(&scene.engine, (uint16_t)c->row)->missed != c->skipped)
        scene_wrong("client %d missed %u, counted are %u", (int)(c - scene.clients),
                    (unsigned)c->skipped,
                    (unsigned)engine_row(&scene.engine, (uint16_t)c->row)->missed);
    if (c->confirms_got != c->confirms_sent)
        scene_wrong("client %d got %u confirms for %u", (int)(c - scene.clients), c->confirms_got,
                    c->confirms_sent);
}

static void check_requests(void)
{
    for (uint32_t id = 1; id <= scene.last_id; id++) {
        const struct scene_request *r = &scene.requests[id];

        if (r->is_one && r->taken && r->replies == 0 && r->answers == 0 &&
            !(r->pooled && r->owners != 0) && scene.clients[r->asker].alive &&
            scene.incarnation[r->asker] == r->incarnation)
            scene_wrong("request %u was never answered", id);
    }
}

/* All places have come back but those of kept messages; pools are only those of sessions, and of
 * kept messages. */
static void check_pools(void)
{
    for (unsigned i = 0; i < SCENE_POOLS; i++) {
        struct segments *pool = scene.pools[i];
        unsigned kept = 0;

        if (pool == NULL)
            continue;
        for (unsigned topic = 0; topic < SCENE_TOPICS; topic++)
            kept += scene.kept_id[topic] != 0 && scene.kept_pool[topic] == pool->nonce;
        if (pool->outbox == NULL) {
            if (kept == 0)
                scene_wrong("a pool is left over");
            continue;
        }
        scene_look(pool);
        if (pool->n_given != kept)
            scene_wrong("%d places are lost", (int)pool->n_given - (int)kept);
    }
}

/* Nothing may be in use but subscriptions and retained messages; and when those have gone too,
 * nothing at all. */
static void check_left_over(void)
{
    struct engine *e = &scene.engine;

    if (e->store.reference_pool.n_used != e->filters.n + e->n_retained)
        scene_wrong("%u references are left over",
                    e->store.reference_pool.n_used - e->filters.n - e->n_retained);
    for (unsigned i = 0; i < SCENE_CLIENTS; i++) {
        if (scene.clients[i].alive)
            client_dies(&scene.clients[i]);
    }
    if (e->store.reference_pool.n_used != e->n_retained || e->filters.n != 0)
        scene_wrong("%u references are left over after all have gone",
                    e->store.reference_pool.n_used);
    if (e->store.cell_pool.n_used < e->n_retained || e->store.cell_pool.n_used > 2 * e->n_retained)
        scene_wrong("%u cells are left over", e->store.cell_pool.n_used);
    for (unsigned i = 0; i < SCENE_ROWS; i++) {
        if (e->sessions[i].charged != 0)
            scene_wrong("row %u is charged", i);
    }
    check_pools();
    for (unsigned topic = 0; topic < SCENE_TOPICS; topic++) {
        if (scene.kept_id[topic] != 0 && scene.kept_pool[topic] != 0 &&
            scene_find_pool(scene.kept_pool[topic]) == NULL)
            scene_wrong("the pool of a kept message is gone");
    }
}

static void finish_run(void)
{
    drain_requests();
    read_all();
    scene.now += (uint64_t)10 * SCENE_SECOND;
    while (!broker_act(broker_tick, NULL))
        ;
    read_all();
    if (scene.fault != NULL)
        return;
    broker_die_at(0);
    broker_collect(NULL);
    broker_carry_out(NULL);
    check_pools();
    for (unsigned i = 0; i < SCENE_CLIENTS; i++) {
        if (scene.clients[i].alive && scene.clients[i].registered)
            check_client(&scene.clients[i]);
    }
    check_requests();
    if (board_get(&scene.engine.board->refusals.store_full) > 0 ||
        board_get(&scene.engine.board->refusals.bad_slot) > 0 ||
        board_get(&scene.engine.board->refusals.window) > 0)
        scene_wrong("the run was too large for the store");
    check_left_over();
}

/* ---- All of it ---- */

void run_init(void)
{
    scene.ledger_memory =
        aligned_alloc(4096, (ledger_size(SCENE_ROWS, GROUPS) + 4095) / 4096 * 4096);
    scene.store_memory = aligned_alloc(4096, store_size(REFERENCES, CELLS));
    scene.board_memory = aligned_alloc(
        4096, (board_size(SCENE_ROWS, SCENE_TOPICS + 1, GROUPS) + 4095) / 4096 * 4096);
}

void run_deinit(void)
{
    free(scene.ledger_memory);
    free(scene.store_memory);
    free(scene.board_memory);
}

static void begin_run(uint64_t seed)
{
    struct ledger *ledger;
    void *memories[] = {scene.ledger_memory, scene.store_memory, scene.board_memory};
    /* Narrow queues, so that batches are often full, or nearly all of them boxed. */
    static const uint32_t widths[] = {512, 128, 512};
    static const uint32_t buffers[] = {0, SCENE_DEPTH + 2, 2};
    size_t board = board_size(SCENE_ROWS, SCENE_TOPICS + 1, GROUPS);

    memset(&scene, 0, sizeof(scene));
    scene_seed(seed);
    scene.width = widths[seed % 3];
    scene.max_buffers = buffers[seed % 3];
    scene.ledger_memory = memories[0];
    scene.store_memory = memories[1];
    scene.board_memory = memories[2];
    memset(scene.ledger_memory, 0, ledger_size(SCENE_ROWS, GROUPS));
    memset(scene.store_memory, 0, store_size(REFERENCES, CELLS));
    memset(scene.board_memory, 0, board);
    board_format(scene.board_memory, board, SCENE_ROWS, SCENE_TOPICS + 1, GROUPS);
    ((struct board_header *)scene.board_memory)->frame_max = FRAME_MAX;
    ledger = scene.ledger_memory;
    ledger->header = (struct ledger_header){
        .magic = PERSIST_MAGIC,
        .layout = PERSIST_LAYOUT,
        .n_rows = SCENE_ROWS,
        .n_groups = GROUPS,
        .state = LEDGER_RUNNING,
        .n_references = REFERENCES,
        .n_cells = CELLS,
        .references_allocated = REFERENCES,
        .cells_allocated = CELLS,
        .committed = 1,
    };
    assert_true(kernel_queue_make(&scene.request, 10, WIRE_QUEUE_MAX));
    scene.now = (uint64_t)1000 * SCENE_SECOND;
    broker_die_at(0);
    broker_start();
    for (unsigned i = 0; i < SCENE_CLIENTS; i++)
        client_register(&scene.clients[i]);
    broker_die_at(1 + (long)scene_below(200));
}

const char *run(uint64_t seed)
{
    begin_run(seed);
    for (unsigned i = 0; i < STEPS && scene.fault == NULL; i++)
        step();
    if (scene.fault == NULL)
        finish_run();
    broker_die_at(0);
    engine_deinit(&scene.engine);
    for (unsigned i = 0; i < SCENE_POOLS; i++)
        scene.pools[i] = segments_free(scene.pools[i]);
    kernel_queue_free(&scene.request);
    for (unsigned i = 0; i < SCENE_ROWS; i++)
        kernel_queue_free(&scene.replies[i]);
    return scene.fault;
}
