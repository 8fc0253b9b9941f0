/* The broker as a process: its beginning, its signals and its end. What it does in between is in
 * turn.c. */
#include "broker/broker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "broker/copies.h"
#include "broker/guard.h"
#include "broker/keeper.h"
#include "broker/life.h"
#include "broker/peer.h"
#include "broker/pump.h"
#include "broker/route.h"
#include "broker/turn.h"
#include "libclient/names.h"
#include "libclient/process.h"

/* ---- Request queues ---- */

/* The request queues: adopted if they fit the landing, else made. One that only cannot be opened
 * now is not made anew: clients have sent to it. */
static int open_request_queue(struct broker *b, struct queue *q, const char *name, uint32_t width,
                              struct board_queue *board)
{
    int r = b->memory.adopted ? queue_open(q, name, O_RDWR | O_NONBLOCK) : -ENOENT;

    if (r == 0 && (q->owner != geteuid() || q->width > WIRE_QUEUE_MAX)) {
        queue_close(q);
        r = -ENOENT;
    } else if (r == 0) {
        shell_count_queue(b, q, 1);
    }
    if (shell_may_pass(r)) {
        log_error("cannot open queue %s: %s", name, strerror(-r));
        return r;
    }
    if (r < 0)
        r = shell_make_queue(b, q, name, b->plan.depth, width);
    if (r == 0) {
        shell_show_queue(board, q);
        return 0;
    }
    if (r == -EMFILE)
        log_error("no room for queue %s (%" PRIu64 " bytes): other queues of this user take up "
                  "RLIMIT_MSGQUEUE, %" PRIu64 " bytes; see mqbroker --limits",
                  name, queue_bytes(b->plan.depth, width), b->plan.limits.queue_bytes);
    else if (r == -EACCES)
        log_error("queue %s belongs to another user: remove it, or choose another name with "
                  "--instance",
                  name);
    else
        log_error("cannot create queue %s: %s", name, strerror(-r));
    return r;
}

/* ---- Signals ---- */

_Static_assert((int)ENGINE_DROP_NEWEST == (int)CONFIG_DROP_NEWEST &&
                   (int)ENGINE_BLOCK == (int)CONFIG_BLOCK &&
                   (int)ENGINE_DISCONNECT == (int)CONFIG_DISCONNECT,
               "the policies stand in the same order");

static void apply_settings(struct broker *b)
{
    const struct config *c = &b->config;
    const struct ledger_header *h = &memory_ledger(&b->memory)->header;
    uint64_t cells = (uint64_t)h->n_cells * WIRE_CELL_SIZE;

    b->engine.settings = (struct engine_settings){
        .backlog_size = (uint64_t)c->backlog_size,
        .stall_timeout = (uint64_t)c->stall_timeout * 1000000u,
        .retained_size = c->retained_size > 0 ? (uint64_t)c->retained_size : cells / 4,
        .pool_max = h->pool_max,
        .max_subscriptions = (uint32_t)c->max_subscriptions,
        .overflow = (enum engine_overflow)c->overflow,
        .group_size = (uint64_t)c->group_size,
        .ack_timeout = (uint32_t)c->ack_timeout,
        .delivery_limit = (uint32_t)c->delivery_limit,
        .group_overflow = (enum engine_overflow)c->group_overflow,
        .group_linger = (uint64_t)c->group_linger * 1000000u,
        .aging = (uint64_t)c->aging * 1000000u,
    };
    board_set(&memory_board(&b->memory)->retained_max, b->engine.settings.retained_size);
    log_set_level((int)c->log_level);
}

static void say_kept(const char *key, void *context)
{
    (void)context;
    log_warning("%s takes effect at the next start", key);
}

/* Who asked for it sees on the board how it went. */
static void reload(struct broker *b)
{
    struct board_totals *totals = &memory_board(&b->memory)->totals;
    struct config fresh;
    struct config_error error;

    if (b->config_path == NULL) {
        log_info("reload: there is no configuration file; the defaults stay");
        board_add(&totals->reloads_refused, 1);
        return;
    }
    config_default(&fresh);
    if (config_load(&fresh, b->config_path, &error) < 0) {
        log_error("reload: %s; nothing is changed", error.text);
        board_add(&totals->reloads_refused, 1);
        return;
    }
    config_reload(&b->config, &fresh, say_kept, NULL);
    apply_settings(b);
    board_add(&totals->reloads, 1);
    log_info("reloaded %s", b->config_path);
}

static void handle(struct broker *b, int signo)
{
    switch (signo) {
    case SIGHUP:
        reload(b);
        break;
    case SIGUSR2:
        handover_ask(b);
        break;
    case SIGCHLD:
        handover_hear(b);
        break;
    case SIGALRM:
        handover_hurry(b);
        break;
    default:
        log_info("%s: stopping", signo == SIGINT ? "SIGINT" : "SIGTERM");
        b->stopping = true;
        break;
    }
}

static void on_signal(struct loop_source *source, uint32_t events)
{
    struct broker *b = (struct broker *)((char *)source - offsetof(struct broker, signal_source));
    struct signalfd_siginfo info;

    (void)events;
    while (read(b->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        handle(b, (int)info.ssi_signo);
}

static int watch_signals(struct broker *b)
{
    static const int watched[] = {SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGCHLD, SIGALRM};
    sigset_t signals;

    sigemptyset(&signals);
    for (size_t i = 0; i < sizeof(watched) / sizeof(watched[0]); i++)
        sigaddset(&signals, watched[i]);
    if (sigprocmask(SIG_BLOCK, &signals, NULL) < 0)
        return -errno;
    b->signal_fd = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    if (b->signal_fd < 0)
        return -errno;
    return loop_add(&b->loop, &b->signal_source, b->signal_fd, EPOLLIN, on_signal);
}

/* The request queues are level-triggered: an event only says that a turn will find something. */
static void on_request(struct loop_source *source, uint32_t events)
{
    (void)source;
    (void)events;
}

static void on_urgent(struct loop_source *source, uint32_t events)
{
    struct broker *b = (struct broker *)((char *)source - offsetof(struct broker, urgent_source));

    (void)events;
    b->urgent_ready = true;
}

/* ---- Beginning and end ---- */

static void show_limits(struct broker *b)
{
    struct board_header *board = memory_board(&b->memory);
    const struct ledger_header *h = &memory_ledger(&b->memory)->header;

    board_set(&board->queue_bytes_limit, b->plan.limits.queue_bytes);
    board_set(&board->queues_max, b->plan.limits.queues_max);
    board_set(&board->references_max, h->n_references);
    board_set(&board->cells_max, h->n_cells);
    board_set(&board->store_allocated, h->references_allocated * sizeof(struct reference) +
                                           h->cells_allocated * sizeof(struct cell));
    board->window = b->engine.window;
}

static void show_state(struct broker *b, enum board_state state)
{
    atomic_store_explicit(&memory_board(&b->memory)->state, (uint32_t)state, memory_order_release);
}

static int show_process(struct broker *b)
{
    struct board_header *board = memory_board(&b->memory);
    uint64_t start;
    int r = process_start((uint32_t)getpid(), &start);

    if (r < 0) {
        log_error("cannot read /proc/%d/stat: %s; is /proc mounted?", (int)getpid(), strerror(-r));
        return r;
    }
    /* Whoever had the board before us was this very process: it was handed over. */
    b->handed_over = b->memory.adopted && board_get(&board->pid_start) == start &&
                     atomic_load_explicit(&board->pid, memory_order_relaxed) == (uint32_t)getpid();
    board_add(&board->totals.handovers, b->handed_over);
    atomic_store_explicit(&board->pid, (uint32_t)getpid(), memory_order_relaxed);
    board_set(&board->pid_start, start);
    board_set(&board->started, shell_clock(CLOCK_REALTIME));
    board_add(&board->totals.starts, 1);
    return 0;
}

/* A descriptor for each queue and each process that is watched. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int open_request_queues(struct broker *b)
{
    struct board_header *board = memory_board(&b->memory);
    char name[NAMES_MAX];
    int r;

    names_request_queue(name, b->instance);
    r = open_request_queue(b, &b->request, name, b->plan.request_width, &board->request);
    if (r < 0)
        return r;
    names_urgent_queue(name, b->instance);
    return open_request_queue(b, &b->urgent, name, b->plan.urgent_width, &board->urgent);
}

/* The sessions' places, and the outboxes of those that a killed broker left: the engine may write
 * to them as soon as it starts. */
static int make_peers(struct broker *b)
{
    struct engine *e = &b->engine;
    int r = 0;

    b->peers = calloc(e->n_rows, sizeof(*b->peers));
    if (b->peers == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < e->n_rows && r == 0; i++) {
        uint32_t state = engine_row(e, (uint16_t)i)->state;

        b->peers[i] = (struct peer){
            .broker = b,
            .queue_source = LOOP_SOURCE_NONE,
            .death_source = LOOP_SOURCE_NONE,
            .queue = QUEUE_CLOSED,
            .share = SHARE_NONE,
            .pidfd = -1,
            .row = (uint16_t)i,
        };
        r = state == ROW_LIVE || state == ROW_ENDING ? share_adopt(b, (uint16_t)i) : 0;
    }
    return r;
}

/* A store that was adopted, and cannot grow now, serves as it did before: who was killed while
 * /dev/shm is full starts all the same. */
static int grow_to_begin(struct broker *b)
{
    const struct ledger_header *h = &memory_ledger(&b->memory)->header;
    int r = memory_grow(&b->memory, &b->engine);

    return r == -ENOSPC && h->references_allocated > 0 && h->cells_allocated > 0 ? 0 : r;
}

static int start_engine(struct broker *b)
{
    struct engine_memory memory = {
        .ledger = memory_ledger(&b->memory),
        .store = b->memory.store.base,
        .board = memory_board(&b->memory),
    };
    struct engine *e = &b->engine;
    int r = engine_init(e, &memory, &(struct engine_settings){0});

    if (r == 0)
        r = make_peers(b);
    if (r < 0) {
        log_error("cannot set up the sessions: %s", strerror(-r));
        return r;
    }
    r = keeper_open(b);
    if (r < 0)
        return r;
    e->uid = geteuid();
    e->token_used = true;
    shell_prepare_token(b);
    shell_set_time(b);
    apply_settings(b);
    r = life_start(e);
    if (r == 0)
        r = keeper_start(b);
    if (r == 0)
        r = grow_to_begin(b);
    if (r == 0) {
        b->held_up = true; /* since its sessions were taken over: to read a journal takes time */
        route_resume(e);
        keeper_append(b); /* before anything new can be refused */
        shell_prepare_token(b);
        engine_show(e);
    }
    if (r == -ENOSPC)
        log_error("no room for the store: /dev/shm is full");
    else if (r == -EBADMSG)
        log_error("the store of instance \"%s\" is damaged: remove it with mqctl cleanup",
                  b->instance);
    else if (r < 0)
        log_error("cannot start on the store: %s", strerror(-r));
    return r;
}

static int adopt_peers(struct broker *b)
{
    int r = 0;

    for (uint32_t i = 0; i < b->engine.n_rows && r == 0; i++) {
        if (engine_row(&b->engine, (uint16_t)i)->state == ROW_LIVE)
            r = peer_adopt(b, (uint16_t)i);
    }
    if (r < 0)
        log_error("cannot take over the sessions that another broker left: %s", strerror(-r));
    return r;
}

static int watch_requests(struct broker *b)
{
    int r = loop_add(&b->loop, &b->request_source, (int)b->request.mqd, EPOLLIN, on_request);

    if (r == 0)
        r = loop_add(&b->loop, &b->urgent_source, (int)b->urgent.mqd, EPOLLIN, on_urgent);
    if (r < 0)
        log_error("cannot watch the request queues: %s", strerror(-r));
    return r;
}

static int open_all(struct broker *b, const struct config *config, const struct plan *plan)
{
    int r = loop_init(&b->loop);

    if (r == 0)
        r = watch_signals(b);
    if (r == 0)
        r = guard_init();
    if (r < 0) {
        log_error("cannot watch for events: %s", strerror(-r));
        return r;
    }
    r = memory_open(&b->memory, b->instance, config, plan);
    if (r == 0)
        r = open_request_queues(b);
    if (r == 0)
        r = start_engine(b);
    if (r == 0)
        r = adopt_peers(b);
    if (r == 0)
        r = watch_requests(b);
    if (r == 0)
        r = show_process(b);
    return r;
}

/* A fresh instance that could not be completed: nobody is to find half of it. */
static void take_back(struct broker *b)
{
    char name[NAMES_MAX];

    names_request_queue(name, b->instance);
    if (b->request.mqd != (mqd_t)-1)
        mq_unlink(name);
    names_urgent_queue(name, b->instance);
    if (b->urgent.mqd != (mqd_t)-1)
        mq_unlink(name);
    memory_remove(&b->memory);
}

int broker_new(struct broker **out, const char *instance, const struct config *config,
               const struct plan *plan, const char *config_path, char *const argv[])
{
    struct broker *b = calloc(1, sizeof(*b));
    int r;

    if (b == NULL) {
        log_error("out of memory");
        return -ENOMEM;
    }
    b->instance = instance;
    b->config_path = config_path;
    b->config = *config;
    b->plan = *plan;
    b->signal_fd = -1;
    handover_init(&b->handover, argv);
    b->loop.epoll_fd = -1;
    b->request = b->urgent = QUEUE_CLOSED;
    b->request_source = b->urgent_source = b->signal_source = LOOP_SOURCE_NONE;
    b->paying = TURN_PAYING_MAX;
    raise_descriptor_limit();
    r = open_all(b, config, plan);
    if (r < 0) {
        if (b->memory.ledger.base != NULL && !b->memory.adopted)
            take_back(b);
        broker_free(b);
        return r;
    }
    show_limits(b);
    shares_show(b);
    show_state(b, BOARD_RUNNING);
    shell_wake_registering(b, 0); /* who was killed may have posted, and not told anybody */
    *out = b;
    return 0;
}

/* Say farewell to every session, and take everything away (K9). */
static void stop(struct broker *b)
{
    struct engine *e = &b->engine;
    struct pump_batch farewell;
    char name[NAMES_MAX];

    persist_u32(&e->ledger->header.state, LEDGER_STOPPING);
    show_state(b, BOARD_STOPPING);
    for (uint32_t i = 0; i < e->n_rows; i++) {
        struct peer *peer = &b->peers[i];

        if (engine_row(e, (uint16_t)i)->state == ROW_FREE)
            continue;
        if (peer->queue.mqd != (mqd_t)-1) {
            pump_farewell(e, (uint16_t)i, WIRE_STOPPED, WIRE_C_STOPPING, &farewell);
            queue_send(&peer->queue, farewell.bytes, farewell.size, farewell.level);
        }
        peer_close(b, peer);
    }
    memory_remove_sessions(&b->memory);
    names_request_queue(name, b->instance);
    mq_unlink(name);
    names_urgent_queue(name, b->instance);
    mq_unlink(name);
    show_state(b, BOARD_STOPPED);
    engine_post(e, 0, WIRE_C_STOPPING, 0, 0); /* who waits to be registered looks up */
    shell_wake_registering(b, 0);
    memory_remove(&b->memory);
}

static const char *beginning(const struct broker *b)
{
    if (b->handed_over)
        return "handed over";
    return b->memory.adopted ? "taken over" : "ready";
}

int broker_run(struct broker *b)
{
    log_info("instance \"%s\": %s, %" PRIu32 " clients at most", b->instance, beginning(b),
             b->engine.n_rows);
    while (!b->stopping) {
        int r = turn_next(b);

        if (r < 0) {
            log_error("cannot wait for events: %s", strerror(-r));
            return r; /* what is under way stays for who starts next (K9) */
        }
        if (b->handover.agreed && !b->stopping)
            handover_go(b);
    }
    stop(b);
    log_info("instance \"%s\": stopped", b->instance);
    return 0;
}

void broker_free(struct broker *b)
{
    if (b == NULL)
        return;
    handover_deinit(&b->handover);
    for (uint32_t i = 0; b->peers != NULL && i < b->engine.n_rows; i++) {
        peer_close(b, &b->peers[i]);
        copies_forget(b, (uint16_t)i);
        share_close(&b->peers[i].share);
    }
    free(b->peers);
    keeper_close(b);
    settle_close(b);
    queue_close(&b->request);
    queue_close(&b->urgent);
    if (b->engine.sessions != NULL)
        engine_deinit(&b->engine);
    memory_close(&b->memory);
    if (b->signal_fd >= 0)
        close(b->signal_fd);
    loop_deinit(&b->loop);
    free(b);
}
