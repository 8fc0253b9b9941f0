/* See sim-world.h. */
#include "tests/support/sim-world.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/sim-broker.h"
#include "tests/support/sim-user.h"

struct world world;
enum persist_fault persist_fault;

enum {
    FAREWELLS = PERSIST_FAREWELLS * sizeof(struct farewell), /* for the journal: there is none */
    REQUEST_DEPTH = 6,
    OUTBOX_SIZE = sizeof(struct outbox_header) + WORLD_BUFFERS * OUTBOX_BUFFER
};

/* ---- What does not hold ---- */

void world_wrong(const char *format, ...)
{
    va_list arguments;

    if (world.claim != NULL)
        return;
    world.claim = format;
    va_start(arguments, format);
    vsnprintf(world.fault, sizeof(world.fault), format, arguments);
    va_end(arguments);
    world_tell("WRONG: %s", world.fault);
}

void world_say(const char *format, ...)
{
    va_list arguments;

    printf("#   %4u ms  ", (unsigned)(world.now / WORLD_MS - 1000));
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

/* ---- Looking things up ---- */

uint32_t world_session(uint64_t nonce)
{
    return nonce >= 1 && nonce <= world.n_estates ? (uint32_t)(nonce - 1) : MODEL_SESSIONS;
}

uint32_t world_session_of_pool(uint64_t nonce)
{
    return nonce > 1000 ? world_session(nonce - 1000) : MODEL_SESSIONS;
}

const struct row *world_row(uint32_t session)
{
    for (uint32_t i = 0; i < WORLD_ROWS; i++) {
        const struct row *row = &world.ledger->rows[i];

        if (row->state != ROW_FREE && row->nonce == world_nonce(session))
            return row;
    }
    return NULL;
}

const uint8_t *world_payload(const struct wire_slot *slot)
{
    uint32_t session = world_session_of_pool(slot->pool);
    uint64_t offset = (uint64_t)slot->offset * WIRE_SLOT_UNIT;

    if (session == MODEL_SESSIONS || !world.estates[session].pool_named || offset < POOL_PAYLOADS ||
        offset + slot->size > POOL_PAYLOADS + WORLD_PAYLOADS)
        return NULL;
    return (const uint8_t *)world.estates[session].pool + offset;
}

/* ---- Memory ---- */

static void *pages(size_t size)
{
    void *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);

    if (memory != NULL)
        memset(memory, 0, size);
    return memory;
}

bool world_init(void)
{
    bool there = task_init(&world.broker);

    world.ledger = pages(ledger_size(WORLD_ROWS, WORLD_GROUPS));
    world.store = pages(store_size(WORLD_REFERENCES, WORLD_CELLS));
    world.board = pages(board_size(WORLD_ROWS, WORLD_TOPICS, WORLD_GROUPS));
    world.users = calloc(SCRIPT_CLIENTS, sizeof(*world.users));
    if (!there || world.ledger == NULL || world.store == NULL || world.board == NULL ||
        world.users == NULL)
        return false;
    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++) {
        there = task_init(&world.users[i].task) && there;
        world.users[i].handle.number = i;
    }
    for (uint32_t i = 0; i < MODEL_SESSIONS; i++) {
        world.estates[i].outbox = pages(OUTBOX_SIZE);
        world.estates[i].pool = pages(POOL_PAYLOADS + WORLD_PAYLOADS);
        there = there && world.estates[i].outbox != NULL && world.estates[i].pool != NULL;
    }
    return there && kernel_queue_make(&world.request, REQUEST_DEPTH, WIRE_QUEUE_MAX) &&
           kernel_queue_make(&world.urgent, REQUEST_DEPTH, WORLD_URGENT_WIDTH);
}

void world_deinit(void)
{
    task_deinit(&world.broker);
    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++)
        task_deinit(&world.users[i].task);
    free(world.users);
    for (uint32_t i = 0; i < MODEL_SESSIONS; i++) {
        kernel_queue_free(&world.estates[i].queue);
        free(world.estates[i].outbox);
        free(world.estates[i].pool);
    }
    kernel_queue_free(&world.request);
    kernel_queue_free(&world.urgent);
    free(world.ledger);
    free(world.store);
    free(world.board);
    memset(&world, 0, sizeof(world));
}

/* ---- Beginning and end of a run ---- */

static void format_memory(void)
{
    size_t board = board_size(WORLD_ROWS, WORLD_TOPICS, WORLD_GROUPS);

    memset(world.ledger, 0, ledger_size(WORLD_ROWS, WORLD_GROUPS) - FAREWELLS);
    broker_forget();
    memset(world.board, 0, board);
    board_format(world.board, board, WORLD_ROWS, WORLD_TOPICS, WORLD_GROUPS);
    world.board->frame_max = WORLD_FRAME_MAX;
    world.ledger->header = (struct ledger_header){
        .magic = PERSIST_MAGIC,
        .layout = PERSIST_LAYOUT,
        .n_rows = WORLD_ROWS,
        .n_groups = WORLD_GROUPS,
        .state = LEDGER_RUNNING,
        .n_references = WORLD_REFERENCES,
        .n_cells = WORLD_CELLS,
        .references_allocated = WORLD_REFERENCES,
        .cells_allocated = WORLD_CELLS,
        .committed = 1,
        .pool_max = POOL_PAYLOADS + WORLD_PAYLOADS,
    };
}

static void begin(const struct script *script)
{
    world.setting = script->setting;
    world.now = 1000 * WORLD_MS;
    world.claim = NULL;
    world.n_estates = 0;
    kernel_queue_make(&world.request, REQUEST_DEPTH, WIRE_QUEUE_MAX);
    kernel_queue_make(&world.urgent, REQUEST_DEPTH, WORLD_URGENT_WIDTH);
    format_memory();
    model_begin(&world.model);
    broker_begin();
    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++)
        user_begin(&world.users[i]);
}

static void end(void)
{
    broker_kill();
    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++)
        user_end(&world.users[i]);
}

/* ---- Steps ---- */

static uint32_t run_broker(uint32_t points)
{
    if (world.broker.state == TASK_NONE)
        broker_begin();
    return task_run(&world.broker, points, world.now);
}

/* A client whose program has come to its end is gone as well; then another one begins. */
static uint32_t run_client(struct user *u, uint32_t points)
{
    uint32_t ran;

    if (!u->open)
        return user_begin(u);
    ran = task_run(&u->task, points, world.now);
    if (u->task.state == TASK_NONE) {
        world_tell("client %u: has come to its end", u->handle.number + 1);
        world.estates[u->handle.session].death_seen = world.now;
        user_kill(u);
    }
    return ran;
}

static void kill_client(struct user *u, uint32_t seen_after_ms)
{
    if (!u->open)
        return;
    world_tell("client %u: is killed", u->handle.number + 1);
    world.n_client_deaths++;
    world.estates[u->handle.session].death_seen = world.now + seen_after_ms * WORLD_MS;
    user_kill(u);
}

static void kill_broker(void)
{
    if (world.broker.state == TASK_NONE)
        return;
    world_tell("broker: is killed");
    world.n_broker_deaths++;
    broker_kill();
}

static void step(const struct script_step *s)
{
    struct user *u = s->who == SCRIPT_BROKER ? NULL : &world.users[s->who - 1];

    world.luck = (struct chance){s->luck};
    switch ((enum script_verb)s->verb) {
    case SCRIPT_run:
        if (u == NULL)
            run_broker(s->points);
        else
            run_client(u, s->points);
        break;
    case SCRIPT_kill:
        if (u == NULL)
            kill_broker();
        else
            kill_client(u, s->ms);
        break;
    case SCRIPT_time:
        world.now += s->ms * WORLD_MS;
        break;
    default:
        if (u->open)
            user_order(u, s);
        run_client(u, s->points);
        break;
    }
}

/* ---- Coming to rest ---- */

enum {
    REST_ROUNDS = 20000,
    REST_POINTS = 100000, /* in one go: who needs more never ends */
    REST_SECONDS = 30,    /* longer than any time that a script gives */
};

static uint64_t sooner(uint64_t moment, const struct task *t)
{
    return t->state == TASK_ASLEEP && t->wake < moment ? t->wake : moment;
}

/* The next moment at which somebody wakes up by himself. */
static uint64_t next_wake(void)
{
    uint64_t moment = sooner(TASK_FOREVER, &world.broker);

    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++)
        moment = sooner(moment, &world.users[i].task);
    return moment;
}

/* Everybody runs until nobody has anything to do, now or later. */
static void come_to_rest(void)
{
    uint64_t until = world.now + REST_SECONDS * WORLD_SECOND;

    for (uint32_t round = 0; world.claim == NULL; round++) {
        uint32_t ran = run_broker(REST_POINTS);
        uint64_t moment;

        for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++) {
            if (world.users[i].open)
                ran += run_client(&world.users[i], REST_POINTS);
        }
        if (round == REST_ROUNDS)
            world_wrong("it never comes to rest");
        if (ran > 0)
            continue;
        moment = next_wake();
        if (moment > until)
            return;
        world.now = moment > world.now ? moment : world.now;
    }
}

static void check_users(void)
{
    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++) {
        if (!user_is_at_rest(&world.users[i]))
            world_wrong("client %u waits for ever in \"%s\"", i + 1,
                        script_verb_name(world.users[i].order.verb));
    }
}

/* What only ever happens to who breaks the protocol, or to what was made too small. */
static void check_refusals(void)
{
    const struct board_refusals *r = &world.board->refusals;

    if (board_get(&r->window) > 0)
        world_wrong("a publisher was over its window");
    if (board_get(&r->store_full) > 0 || board_get(&r->retained_full) > 0)
        world_wrong("the store was full");
    if (board_get(&r->bad_slot) > 0 || board_get(&r->bad_topic) > 0)
        world_wrong("an honest message was refused");
}

/* Pooled messages of this session that are kept. */
static uint32_t kept_of(uint32_t session)
{
    uint32_t n = 0;

    for (unsigned topic = 0; topic < SCRIPT_TOPICS; topic++) {
        const struct model_message *m = &world.model.messages[world.model.kept[topic]];

        n += world.model.kept[topic] != 0 && m->pooled && m->session == session;
    }
    return n;
}

/* Windows and pools: all that was lent has come back. */
static void check_user(struct user *u)
{
    const struct row *row = world_row(u->handle.session);
    uint32_t kept = kept_of(u->handle.session);

    if (!u->open || row == NULL || row->state != ROW_LIVE)
        return;
    if (handle_places_out(&u->handle) != kept)
        world_wrong("client %u: %u places of its pool have not come back", u->handle.number + 1,
                    handle_places_out(&u->handle) - kept);
    if (board_get(&board_row(world.board, u->handle.core.id)->grant) !=
        row->received + world.board->window)
        world_wrong("client %u has not all of its window back", u->handle.number + 1);
}

static void check_books(uint32_t n_filters)
{
    struct broker_books books;
    uint32_t kept = 0;
    uint32_t others = 0; /* references: of groups, and wills */

    broker_count(&books);
    for (uint32_t i = 0; i < SCRIPT_GROUPS; i++) {
        struct broker_group group;

        broker_count_group(i, &group);
        others += group.n_members + group.n_messages + group.n_dead;
        n_filters += world.model.crews[i].there;
    }
    for (uint32_t i = 0; i < MODEL_SESSIONS; i++)
        others += model_serves(&world.model, i) && world.model.sessions[i].will != 0;
    for (unsigned topic = 0; topic < SCRIPT_TOPICS; topic++)
        kept += world.model.kept[topic] != 0;
    if (books.charged != 0)
        world_wrong("windows are charged for what is gone");
    if (books.n_kept != kept)
        world_wrong("%u messages are kept, %u must be", books.n_kept, kept);
    if (books.n_filters != n_filters)
        world_wrong("there are %u subscriptions, %u must be", books.n_filters, n_filters);
    if (books.n_references != n_filters + kept + others)
        world_wrong("%u references are left over", books.n_references - n_filters - kept - others);
}

static void check_nobody_is_left(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < WORLD_ROWS; i++)
        n += world.ledger->rows[i].state != ROW_FREE;
    if (n > 0)
        world_wrong("%u rows are left over", n);
    for (uint32_t i = 0; i < world.n_estates; i++) {
        const struct estate *estate = &world.estates[i];
        bool kept = kept_of(i) > 0;

        if (estate->queue_named || estate->outbox_named)
            world_wrong("a queue or an outbox is left over");
        if (estate->pool_named != kept)
            world_wrong(kept ? "the pool of a kept message is gone" : "a pool is left over");
    }
}

static uint32_t count_filters(void)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < MODEL_SESSIONS; i++) {
        const struct row *row = world_row(i);

        if (row != NULL && row->state == ROW_LIVE)
            n += (uint32_t)__builtin_popcount(world.model.sessions[i].filters);
    }
    return n;
}

static void finish(void)
{
    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++)
        user_read_on(&world.users[i]);
    come_to_rest();
    world.broker.wake = world.now; /* what was given back wakes nobody who needs it not (P8) */
    come_to_rest();
    if (world.claim != NULL)
        return;
    check_users();
    model_finish(&world.model);
    check_refusals();
    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++)
        check_user(&world.users[i]);
    check_books(count_filters());
    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++)
        kill_client(&world.users[i], 0);
    if (world.claim == NULL)
        come_to_rest();
    if (world.claim != NULL)
        return;
    check_books(0);
    check_nobody_is_left();
}

static void record(void)
{
    const struct board_drops *drops = &world.board->drops;

    world.n_acknowledged += board_get(&world.board->totals.acknowledged);
    world.n_returned += board_get(&world.board->totals.returned);
    world.n_dead += board_get(&world.board->totals.dead_letters);
    world.n_wills += board_get(&world.board->totals.wills);
    world.n_requests += board_get(&world.board->totals.requests);
    world.n_replies += board_get(&world.board->totals.replies);
    world.n_taken += world.model.n_taken;
    world.n_handed += world.model.n_handed;
    world.n_boxed += board_get(&world.board->totals.boxed);
    world.n_dropped += board_get(&drops->expired) + board_get(&drops->overflow);
    world.n_overflowed += board_get(&drops->overflow);
}

const char *world_run(const struct script *script)
{
    begin(script);
    for (uint32_t i = 0; i < script->n && world.claim == NULL; i++) {
        if (world.tells)
            script_write_step(&script->steps[i], stdout);
        step(&script->steps[i]);
    }
    if (world.claim == NULL)
        finish();
    record();
    end();
    return world.claim == NULL ? NULL : world.fault;
}
