/* The shell around the engine: one thread, one loop.
 *
 * A turn: take a bounded number of envelopes from the two request queues, urgent ones first, and
 * have each routed; make and remove the queues of sessions that came and went; then pump each
 * touched session once. So batches form by themselves under load, and a lone message is not
 * delayed. The engine decides everything; what is here are its system calls.
 *
 * Before it sleeps the broker looks again for a while, if that has been paying: to be woken costs
 * more than all the rest. */
#include "broker/broker.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "broker/engine.h"
#include "broker/life.h"
#include "broker/log.h"
#include "broker/loop.h"
#include "broker/memory.h"
#include "broker/pump.h"
#include "broker/route.h"
#include "libclient/names.h"
#include "libclient/process.h"
#include "libclient/queue.h"

enum {
    TURN_ENVELOPES = 32,    /* taken in a turn at most (P9) */
    TURN_BYTES = 24576,     /* … of normal ones: an urgent message waits for one turn (P3) */
    URGENT_IN_A_ROW = 8,    /* then one normal envelope, if there is one (P3) */
    LOOK_FOR_URGENT = 2048, /* bytes of normal ones between looks into the urgent queue */
    LOOK_FOR_EVENTS = 32,   /* turns between looks at what is no request and does not press */
    LOOK_AT_OTHER = 8,      /* looks at one request queue for one at the other */
    LOOK_AFTER = 500000000, /* nanoseconds between looks at processes without a pidfd */
    REALLY_SLEPT = 2000,    /* nanoseconds that a wait takes if it was not over at once */
    BUSY = 300000,          /* nanoseconds off the processor that say that others want it */
    CROWD_MIN = 1000000,    /* … and how long that is believed: twice as long each time */
    CROWD_MAX = 128000000,
    CROWD_DECAY = 32, /* and a little less whenever looking has paid */
    PAYING_MAX = 8,   /* how well looking again has paid, at best */
    TRY_AGAIN = 32,   /* sleeps after which it is tried although it did not pay */
};

/* A session's kernel objects. */
struct peer {
    struct broker *broker;
    struct loop_source queue_source; /* its edges, while it has a backlog (P2) */
    struct loop_source death_source;
    struct queue queue;
    int pidfd;
    uint16_t row;
    bool wide;
    bool armed;
    bool looked_after; /* there is no pidfd */
};

struct broker {
    const char *instance;
    const char *config_path;
    struct config config;
    struct plan plan;
    struct memory memory;
    struct engine engine;
    struct loop loop;
    struct queue request;
    struct queue urgent;
    struct loop_source request_source;
    struct loop_source urgent_source;
    struct loop_source signal_source;
    int signal_fd;
    struct peer *peers; /* by row */
    uint32_t n_wide;
    uint32_t n_armed; /* sessions whose edges are waited for */
    uint32_t n_looked_after;
    uint64_t looked;        /* when they were looked after last, nanoseconds of CLOCK_BOOTTIME */
    uint64_t queue_bytes;   /* of all queues */
    int paying;             /* above 0: looking again pays */
    uint64_t crowd;         /* how long others have been wanting the processor, nanoseconds */
    uint64_t crowded_until; /* no looking again until then, nanoseconds of CLOCK_BOOTTIME */
    unsigned sleeps;
    unsigned looks;
    unsigned turns;
    bool rested;                 /* the last turn found nothing, or the broker has slept since */
    bool woken;                  /* it has slept, and was told what stands where */
    bool urgent_ready;           /* … namely in the urgent queue too */
    enum landing_from last_from; /* where the last envelope came from */
    bool cut_short;              /* there may be more in the request queues */
    bool stopping;
    bool memory_full;
    struct log_limit refusal_limit;
    struct log_limit memory_limit;
};

#define PEER(source, member) ((struct peer *)((char *)(source)-offsetof(struct peer, member)))

static uint64_t clock_now(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- Queues ---- */

static void count_queue(struct broker *b, const struct queue *q, int sign)
{
    uint64_t bytes = queue_bytes(q->depth, q->width);

    b->queue_bytes += sign > 0 ? bytes : -bytes;
    board_set(&memory_board(&b->memory)->queue_bytes_used, b->queue_bytes);
}

/* Create a queue. One of our own that stands in the way was left by a broker that was killed: it
 * goes. */
static int make_queue(struct broker *b, struct queue *q, const char *name, uint32_t width)
{
    int r = queue_create(q, name, b->plan.depth, width, 0600);

    if (r == -EEXIST) {
        uid_t owner = (uid_t)-1;

        if (queue_open(q, name, O_RDONLY | O_NONBLOCK) == 0)
            owner = q->owner;
        queue_close(q);
        if (owner != geteuid())
            return -EACCES;
        mq_unlink(name);
        r = queue_create(q, name, b->plan.depth, width, 0600);
    }
    if (r == 0)
        count_queue(b, q, 1);
    return r;
}

static void show_queue(struct board_queue *board, const struct queue *q)
{
    atomic_store_explicit(&board->depth, q->depth, memory_order_relaxed);
    atomic_store_explicit(&board->width, q->width, memory_order_relaxed);
}

/* The request queues: adopted if they fit the landing, else made. */
static int open_request_queue(struct broker *b, struct queue *q, const char *name, uint32_t width,
                              struct board_queue *board)
{
    int r = b->memory.adopted ? queue_open(q, name, O_RDWR | O_NONBLOCK) : -ENOENT;

    if (r == 0 && (q->owner != geteuid() || q->width > WIRE_QUEUE_MAX)) {
        queue_close(q);
        r = -ENOENT;
    } else if (r == 0) {
        count_queue(b, q, 1);
    }
    if (r < 0)
        r = make_queue(b, q, name, width);
    if (r == 0) {
        show_queue(board, q);
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

/* ---- Sessions' queues ---- */

static void on_edge(struct loop_source *source, uint32_t events)
{
    struct peer *peer = PEER(source, queue_source);

    (void)events;
    pump_edge(&peer->broker->engine, peer->row);
}

static void on_death(struct loop_source *source, uint32_t events)
{
    struct peer *peer = PEER(source, death_source);

    (void)events;
    loop_remove(&peer->broker->loop, source);
    life_died(&peer->broker->engine, peer->row);
}

/* Watch the process: it must be the one that registered. 0, -ESRCH: it is gone or not to be seen.
 */
static int watch_process(struct peer *peer, const struct row *row)
{
    struct broker *b = peer->broker;

    peer->pidfd = (int)syscall(SYS_pidfd_open, (pid_t)row->pid, 0);
    if (peer->pidfd < 0 && errno == ESRCH)
        return -ESRCH;
    if (!process_alive(row->pid, row->pid_start))
        return -ESRCH;
    if (peer->pidfd <
        0) { /* a sandbox, or valgrind, that does not know the call: look now and then */
        peer->looked_after = true;
        b->n_looked_after++;
        return 0;
    }
    return loop_add(&b->loop, &peer->death_source, peer->pidfd, EPOLLIN, on_death);
}

/* Those whose death no descriptor tells. */
static void look_after(struct broker *b)
{
    struct engine *e = &b->engine;

    if (b->n_looked_after == 0 || e->now - b->looked < LOOK_AFTER)
        return;
    b->looked = e->now;
    for (uint32_t i = 0; i < e->n_rows; i++) {
        const struct row *row = engine_row(e, (uint16_t)i);

        if (b->peers[i].looked_after && !process_alive(row->pid, row->pid_start))
            life_died(e, (uint16_t)i);
    }
}

static void close_peer(struct broker *b, struct peer *peer)
{
    if (peer->looked_after)
        b->n_looked_after--;
    peer->looked_after = false;
    loop_remove(&b->loop, &peer->queue_source);
    loop_remove(&b->loop, &peer->death_source);
    if (peer->pidfd >= 0)
        close(peer->pidfd);
    peer->pidfd = -1;
    if (peer->queue.mqd != (mqd_t)-1)
        count_queue(b, &peer->queue, -1);
    queue_close(&peer->queue);
    if (peer->wide)
        b->n_wide--;
    peer->wide = false;
    if (peer->armed)
        b->n_armed--;
    peer->armed = false;
}

static void refuse(struct broker *b, uint16_t i, int error)
{
    struct engine *e = &b->engine;
    const struct row *row = engine_row(e, i);
    uint64_t limit = b->plan.limits.queue_bytes;
    uint32_t bytes = (uint32_t)queue_bytes(b->plan.depth, b->plan.narrow);
    const char *name = row->name[0] != '\0' ? row->name : "without a name";

    log_limited(&b->refusal_limit, e->now, CONFIG_LOG_WARNING,
                "refused a client (%s, pid %" PRIu32 "): %s%s", name, row->pid,
                error == -EMFILE ? "no queue memory left; see mqbroker --limits" : strerror(-error),
                "");
    if (error == -EMFILE)
        life_refused(e, i, WIRE_C_QUEUE_MEMORY, bytes, limit);
    else if (error == -ENOSPC)
        life_refused(e, i, WIRE_C_QUEUE_COUNT, b->plan.limits.queues_max, 0);
    else if (error == -ESRCH)
        life_refused(e, i, WIRE_C_NO_SUCH_PROCESS, row->pid, 0);
    else
        life_refused(e, i, WIRE_C_QUEUE_ERROR, (uint32_t)-error, 0);
}

/* The widest queue there is room for: later ones shrink rather than be refused. */
static int make_reply_queue(struct broker *b, struct peer *peer, const struct row *row)
{
    uint32_t width = plan_width(&b->plan, row->publish_only != 0, b->n_wide);
    char name[NAMES_MAX];
    int r;

    names_reply_queue(name, b->instance, row->nonce);
    r = make_queue(b, &peer->queue, name, width);
    if (r == -EMFILE && width > b->plan.narrow) {
        width = b->plan.narrow;
        r = make_queue(b, &peer->queue, name, width);
    }
    if (r == 0 && width == b->plan.wide && width > b->plan.narrow) {
        peer->wide = true;
        b->n_wide++;
    }
    return r;
}

/* A session that registered: watch its process, make its queue. */
static void make_session(struct broker *b, uint16_t i)
{
    struct engine *e = &b->engine;
    struct peer *peer = &b->peers[i];
    int r = watch_process(peer, engine_row(e, i));

    if (r == 0)
        r = make_reply_queue(b, peer, engine_row(e, i));
    if (r == 0)
        r = loop_add(&b->loop, &peer->queue_source, (int)peer->queue.mqd, 0, on_edge);
    if (r < 0) {
        close_peer(b, peer);
        refuse(b, i, r);
        return;
    }
    show_queue(&board_row(e->board, i)->queue, &peer->queue);
    life_made(e, i, peer->queue.inode, peer->queue.depth, peer->queue.width);
    log_debug("session %u: pid %" PRIu32 ", name \"%s\", queue %" PRIu32 " x %" PRIu32, i,
              engine_row(e, i)->pid, engine_row(e, i)->name, peer->queue.depth, peer->queue.width);
}

/* A session that a killed broker left: its queue must be the one that was made (K8). */
static void adopt_session(struct broker *b, uint16_t i)
{
    struct engine *e = &b->engine;
    const struct row *row = engine_row(e, i);
    struct peer *peer = &b->peers[i];
    char name[NAMES_MAX];
    int r;

    names_reply_queue(name, b->instance, row->nonce);
    r = queue_open(&peer->queue, name, O_RDWR | O_NONBLOCK);
    if (r == 0)
        count_queue(b, &peer->queue, 1);
    if (r < 0 || peer->queue.inode != row->inode || peer->queue.depth != row->depth ||
        peer->queue.width != row->width) {
        log_warning("session %u (pid %" PRIu32 ") ended: its queue is not the one that was made", i,
                    row->pid);
        life_leave(e, i, WIRE_C_QUEUE_REPLACED);
        return;
    }
    if (!row->publish_only && row->width == b->plan.wide && row->width > b->plan.narrow) {
        peer->wide = true;
        b->n_wide++;
    }
    show_queue(&board_row(e->board, i)->queue, &peer->queue);
    r = loop_add(&b->loop, &peer->queue_source, (int)peer->queue.mqd, 0, on_edge);
    if (r < 0)
        life_leave(e, i, WIRE_C_QUEUE_ERROR);
    else if (watch_process(peer, row) < 0)
        life_died(e, i);
}

/* Tell it why, if anybody is there to read it; then its queue goes. */
static void remove_session(struct broker *b, uint16_t i)
{
    struct engine *e = &b->engine;
    struct peer *peer = &b->peers[i];
    struct pump_batch farewell;
    char name[NAMES_MAX];
    uint8_t code;

    if (life_wants_farewell(e, i, &code) && peer->queue.mqd != (mqd_t)-1) {
        pump_farewell(e, i, WIRE_ENDED, code, &farewell);
        queue_send(&peer->queue, farewell.bytes, farewell.size, farewell.level);
        log_info("session %u (pid %" PRIu32 ", name \"%s\") ended: %s", i, engine_row(e, i)->pid,
                 engine_row(e, i)->name, wire_code_name(code));
    }
    names_reply_queue(name, b->instance, engine_row(e, i)->nonce);
    close_peer(b, peer);
    mq_unlink(name);
    life_gone(e, i);
}

/* ---- Sending ---- */

/* Ask for edges while there is a backlog that found no room, and not otherwise: each is a wake-up
 * (P2). */
static void arm(struct broker *b, struct peer *peer, bool on)
{
    if (peer->armed == on)
        return;
    peer->armed = on;
    b->n_armed += on ? 1 : -1u;
    loop_change(&b->loop, &peer->queue_source, on ? EPOLLOUT | EPOLLET : 0);
}

static void ask_room(struct broker *b, struct peer *peer)
{
    int standing = queue_standing(&peer->queue);

    if (standing < 0 || (uint32_t)standing > peer->queue.depth)
        standing = (int)peer->queue.depth;
    atomic_store_explicit(&board_row(b->engine.board, peer->row)->queue.standing,
                          (uint32_t)standing, memory_order_relaxed);
    pump_room(&b->engine, peer->row, peer->queue.depth - (uint32_t)standing);
}

static void send_batch(struct broker *b, struct peer *peer, const struct pump_batch *batch)
{
    struct engine *e = &b->engine;
    int r = queue_send(&peer->queue, batch->bytes, batch->size, batch->level);

    if (r == 0) {
        pump_sent(e, peer->row);
        return;
    }
    pump_full(e, peer->row);
    if (r != -EAGAIN) { /* no such error is known; it must not make a loop */
        log_warning("cannot send to session %u: %s", peer->row, strerror(-r));
        life_leave(e, peer->row, WIRE_C_QUEUE_ERROR);
    }
}

/* One session, up to what its queue holds. */
static void pump(struct broker *b, uint16_t row)
{
    struct engine *e = &b->engine;
    struct peer *peer = &b->peers[row];
    struct pump_batch batch;
    uint32_t sent = 0;
    int outcome;

    while ((outcome = pump_next(e, row, &batch)) == PUMP_BATCH || outcome == PUMP_ASK) {
        if (outcome == PUMP_ASK) {
            ask_room(b, peer);
        } else {
            send_batch(b, peer, &batch);
            if (++sent >
                peer->queue.depth) { /* it reads as fast as we send: the others have their turn */
                engine_touch(e, row);
                return;
            }
        }
    }
    if (outcome == PUMP_BLOCKED)
        arm(b, peer, true);
    else if (peer->queue.mqd != (mqd_t)-1)
        arm(b, peer, false);
}

/* Those that are touched meanwhile have the next turn. */
static void pump_touched(struct broker *b)
{
    struct rows *touched = &b->engine.touched;
    uint32_t n = touched->n;

    for (uint32_t i = 0; i < n; i++) {
        uint16_t row = touched->rows[i];

        b->engine.sessions[row].touched = false;
        pump(b, row);
    }
    touched->n -= n;
    memmove(touched->rows, touched->rows + n, touched->n * sizeof(*touched->rows));
}

/* ---- Receiving ---- */

static void prepare_token(struct broker *b)
{
    struct engine *e = &b->engine;

    if (!e->token_used)
        return;
    e->token_used =
        getrandom(e->fresh_token, sizeof(e->fresh_token), 0) != (ssize_t)sizeof(e->fresh_token);
}

static void set_time(struct broker *b)
{
    b->engine.now = clock_now(CLOCK_BOOTTIME);
}

/* Take one envelope and route it. Its size; 0: there was none. */
static size_t take(struct broker *b, const struct queue *q, enum landing_from from)
{
    struct engine *e = &b->engine;
    ssize_t n;

    route_expect(e, from);
    n = queue_receive(q, e->landing->bytes, sizeof(e->landing->bytes), NULL);
    if (n < 0)
        return 0;
    if (n == 0) { /* a message all the same; route() takes 0 bytes for what a start found */
        board_add(&e->board->rejects.truncated, 1);
        return 1;
    }
    if (memory_grow(&b->memory, e) < 0)
        log_limited(&b->memory_limit, e->now, CONFIG_LOG_WARNING,
                    "/dev/shm is full: messages are refused until there is room");
    if (from == LANDING_URGENT) /* registrations come this way */
        e->wall = clock_now(CLOCK_REALTIME);
    b->last_from = from;
    route(e, (size_t)n);
    prepare_token(b);
    return (size_t)n;
}

static bool take_urgent(struct broker *b)
{
    return take(b, &b->urgent, LANDING_URGENT) > 0;
}

static bool take_normal(struct broker *b)
{
    return !engine_is_tight(&b->engine) && take(b, &b->request, LANDING_NORMAL) > 0;
}

/* After a rest: the first envelope is routed and sent on before another look. If more stands there,
 * the next turn takes it all. While it looks again and again it looks where the last one came from,
 * and now and then into the other queue too; what woke it says itself where it stands. */
static unsigned take_first(struct broker *b)
{
    bool urgent = b->woken ? b->urgent_ready : b->last_from == LANDING_URGENT;
    bool other = b->woken || ++b->looks % LOOK_AT_OTHER == 0;

    b->cut_short = false;
    if (urgent)
        return take_urgent(b) || (other && take_normal(b));
    return take_normal(b) || (other && !b->woken && take_urgent(b));
}

/* Take what stands in the request queues, up to a turn's worth. Returns how many; `quiet`: both
 * were seen empty. */
static unsigned take_all(struct broker *b, bool *quiet)
{
    unsigned n = 0;
    unsigned in_a_row = 0;
    bool urgent = false;
    size_t bytes = 0;
    size_t since_urgent = LOOK_FOR_URGENT; /* bytes taken since the urgent queue was seen empty */

    b->cut_short = true;
    while (n < TURN_ENVELOPES && bytes < TURN_BYTES) {
        size_t size;

        if (since_urgent >= LOOK_FOR_URGENT && in_a_row < URGENT_IN_A_ROW) {
            if (take_urgent(b)) {
                urgent = true;
                in_a_row++;
                n++;
                continue;
            }
            since_urgent = 0;
        }
        if (urgent && in_a_row == 0)
            break; /* what was urgent is sent on before more is taken */
        in_a_row = 0;
        size = engine_is_tight(&b->engine) ? 0 : take(b, &b->request, LANDING_NORMAL);
        if (size == 0) {
            /* Not if a goodbye may have been among what was taken since: urgent messages that were
             * sent before it could stand in the urgent queue by now (L1). */
            *quiet = since_urgent == 0 && !engine_is_tight(&b->engine);
            b->cut_short = false;
            break;
        }
        since_urgent += size;
        bytes += size;
        n++;
    }
    return n;
}

static unsigned intake(struct broker *b, bool *quiet)
{
    unsigned n;

    *quiet = false;
    set_time(b);
    n = b->rested && b->engine.ending.n == 0 ? take_first(b) : take_all(b, quiet);
    b->rested = n == 0;
    b->woken = false;
    return n;
}

/* ---- A turn ---- */

/* What the engine left to be done. */
static void carry_out(struct broker *b)
{
    struct engine *e = &b->engine;

    while (e->making.n > 0)
        make_session(b, e->making.rows[--e->making.n]);
    while (e->leaving.n > 0)
        remove_session(b, e->leaving.rows[--e->leaving.n]);
}

static void wake_registering(struct broker *b, uint32_t postings)
{
    _Atomic uint32_t *word = &memory_board(&b->memory)->postings;

    if (atomic_load_explicit(word, memory_order_relaxed) != postings)
        syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

/* Returns whether there was anything to do. */
static bool turn(struct broker *b)
{
    struct engine *e = &b->engine;
    uint32_t postings = atomic_load_explicit(&e->board->postings, memory_order_relaxed);
    bool quiet;
    bool work = intake(b, &quiet) > 0;

    if (quiet)
        life_quiet(e);
    if (life_next_tick(e) <= e->now)
        life_tick(e);
    look_after(b);
    carry_out(b);
    work = work || e->touched.n > 0 || e->dirty.n > 0;
    pump_touched(b);
    wake_registering(b, postings);
    if (work) {
        board_add(&e->board->totals.turns, 1);
        board_set(&e->board->last_turn, e->now);
    }
    if (work || e->dirty.n > 0)
        engine_show(e);
    return work;
}

/* ---- Waiting ---- */

/* Is there something to do that no event will tell of? */
static bool has_more(const struct broker *b)
{
    return b->engine.touched.n > 0 || b->engine.ending.n > 0 || b->cut_short;
}

/* Look again for a while, yielding the processor in between. True: there was work. False also if
 * others want the processor: who yields it to them may get it back only a time slice later (since
 * Linux 6.18 always), while who sleeps is given it when woken. */
static bool look_again(struct broker *b)
{
    uint64_t now = clock_now(CLOCK_BOOTTIME);
    uint64_t until = now + (uint64_t)b->config.poll_usec * 1000;
    uint64_t before;

    for (unsigned i = 1; now < until && !b->stopping; i++) {
        sched_yield();
        if (turn(b))
            return true;
        before = now;
        now = b->engine.now; /* as the turn began */
        if (i % LOOK_FOR_EVENTS == 0 && loop_wait(&b->loop, 0) > 0)
            return true;
        if (now - before > BUSY) {
            b->crowd = b->crowd == 0 ? CROWD_MIN : b->crowd < CROWD_MAX ? 2 * b->crowd : CROWD_MAX;
            b->crowded_until = now + b->crowd;
            break;
        }
    }
    return false;
}

/* Only while it has been paying. */
static bool look_if_it_pays(struct broker *b)
{
    if (b->config.poll_usec == 0 || b->engine.now < b->crowded_until ||
        (b->paying <= 0 && b->sleeps % TRY_AGAIN != 0))
        return false;
    if (look_again(b)) {
        b->crowd -= b->crowd / CROWD_DECAY;
        b->paying = b->paying < PAYING_MAX ? b->paying + 1 : PAYING_MAX;
        return true;
    }
    b->paying = b->paying > 0 ? b->paying - 2 : 0;
    return false;
}

static uint64_t time_to_sleep(const struct broker *b)
{
    uint64_t next = life_next_tick(&b->engine);
    uint64_t now;

    if (b->n_looked_after > 0 && b->looked + LOOK_AFTER < next)
        next = b->looked + LOOK_AFTER;
    if (next == UINT64_MAX)
        return UINT64_MAX;
    now = clock_now(CLOCK_BOOTTIME);
    return next > now ? next - now : 0;
}

static int sleep_until_event(struct broker *b)
{
    struct board_header *board = memory_board(&b->memory);
    uint64_t since = clock_now(CLOCK_MONOTONIC);
    int r;

    b->sleeps++;
    b->urgent_ready = false;
    atomic_store_explicit(&board->asleep, 1, memory_order_relaxed);
    r = loop_wait(&b->loop, time_to_sleep(b));
    atomic_store_explicit(&board->asleep, 0, memory_order_relaxed);
    b->cut_short = true; /* there is a turn to come */
    b->rested = b->woken = clock_now(CLOCK_MONOTONIC) - since > REALLY_SLEPT;
    return r;
}

/* ---- Signals ---- */

static void apply_settings(struct broker *b)
{
    const struct config *c = &b->config;
    uint64_t cells = (uint64_t)memory_ledger(&b->memory)->header.n_cells * WIRE_CELL_SIZE;

    b->engine.settings = (struct engine_settings){
        .backlog_size = (uint64_t)c->backlog_size,
        .stall_timeout = (uint64_t)c->stall_timeout * 1000000u,
        .retained_size = c->retained_size > 0 ? (uint64_t)c->retained_size : cells / 4,
        .max_subscriptions = (uint32_t)c->max_subscriptions,
        .overflow = c->overflow == CONFIG_DISCONNECT ? ENGINE_DISCONNECT : ENGINE_DROP_OLDEST,
    };
    board_set(&memory_board(&b->memory)->retained_max, b->engine.settings.retained_size);
    log_set_level((int)c->log_level);
}

static void say_kept(const char *key, void *context)
{
    (void)context;
    log_warning("%s takes effect at the next start", key);
}

static void reload(struct broker *b)
{
    struct config fresh;
    struct config_error error;

    if (b->config_path == NULL) {
        log_info("reload: there is no configuration file; the defaults stay");
        return;
    }
    config_default(&fresh);
    if (config_load(&fresh, b->config_path, &error) < 0) {
        log_error("reload: %s; nothing is changed", error.text);
        return;
    }
    config_reload(&b->config, &fresh, say_kept, NULL);
    apply_settings(b);
    board_add(&memory_board(&b->memory)->totals.reloads, 1);
    log_info("reloaded %s", b->config_path);
}

static void on_signal(struct loop_source *source, uint32_t events)
{
    struct broker *b = (struct broker *)((char *)source - offsetof(struct broker, signal_source));
    struct signalfd_siginfo info;

    (void)events;
    while (read(b->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGHUP) {
            reload(b);
        } else {
            log_info("%s: stopping", info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
            b->stopping = true;
        }
    }
}

static int watch_signals(struct broker *b)
{
    sigset_t signals;

    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
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
    atomic_store_explicit(&board->pid, (uint32_t)getpid(), memory_order_relaxed);
    board_set(&board->pid_start, start);
    board_set(&board->started, clock_now(CLOCK_REALTIME));
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

static int start_engine(struct broker *b)
{
    struct engine_memory memory = {
        .ledger = memory_ledger(&b->memory),
        .store = b->memory.store.base,
        .board = memory_board(&b->memory),
    };
    struct engine *e = &b->engine;
    int r = engine_init(e, &memory, &(struct engine_settings){0});

    if (r < 0) {
        log_error("out of memory");
        return r;
    }
    e->uid = geteuid();
    e->token_used = true;
    prepare_token(b);
    set_time(b);
    apply_settings(b);
    r = life_start(e);
    if (r == 0)
        r = memory_grow(&b->memory, e);
    if (r == 0) {
        route_resume(e);
        prepare_token(b);
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

static int open_peers(struct broker *b)
{
    struct engine *e = &b->engine;

    b->peers = calloc(e->n_rows, sizeof(*b->peers));
    if (b->peers == NULL)
        return -ENOMEM;
    for (uint32_t i = 0; i < e->n_rows; i++) {
        b->peers[i] = (struct peer){
            .broker = b,
            .queue_source = LOOP_SOURCE_NONE,
            .death_source = LOOP_SOURCE_NONE,
            .queue = QUEUE_CLOSED,
            .pidfd = -1,
            .row = (uint16_t)i,
        };
    }
    for (uint32_t i = 0; i < e->n_rows; i++) {
        if (engine_row(e, (uint16_t)i)->state == ROW_LIVE)
            adopt_session(b, (uint16_t)i);
    }
    return 0;
}

static int open_all(struct broker *b, const struct config *config, const struct plan *plan)
{
    int r = loop_init(&b->loop);

    if (r == 0)
        r = watch_signals(b);
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
        r = open_peers(b);
    if (r == 0)
        r = show_process(b);
    if (r == 0)
        r = loop_add(&b->loop, &b->request_source, (int)b->request.mqd, EPOLLIN, on_request);
    if (r == 0)
        r = loop_add(&b->loop, &b->urgent_source, (int)b->urgent.mqd, EPOLLIN, on_urgent);
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
               const struct plan *plan, const char *config_path)
{
    struct broker *b = calloc(1, sizeof(*b));
    int r;

    if (b == NULL)
        return -ENOMEM;
    b->instance = instance;
    b->config_path = config_path;
    b->config = *config;
    b->plan = *plan;
    b->signal_fd = -1;
    b->loop.epoll_fd = -1;
    b->request = b->urgent = QUEUE_CLOSED;
    b->request_source = b->urgent_source = b->signal_source = LOOP_SOURCE_NONE;
    b->paying = PAYING_MAX;
    raise_descriptor_limit();
    r = open_all(b, config, plan);
    if (r < 0) {
        if (b->memory.ledger.base != NULL && !b->memory.adopted)
            take_back(b);
        broker_free(b);
        return r;
    }
    show_limits(b);
    show_state(b, BOARD_RUNNING);
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
        names_reply_queue(name, b->instance, engine_row(e, (uint16_t)i)->nonce);
        close_peer(b, peer);
        mq_unlink(name);
    }
    names_request_queue(name, b->instance);
    mq_unlink(name);
    names_urgent_queue(name, b->instance);
    mq_unlink(name);
    show_state(b, BOARD_STOPPED);
    engine_post(e, 0, WIRE_C_STOPPING, 0, 0); /* who waits to be registered looks up */
    wake_registering(b, 0);
    memory_remove(&b->memory);
}

int broker_run(struct broker *b)
{
    int r = 0;

    log_info("instance \"%s\": %s, %" PRIu32 " clients at most", b->instance,
             b->memory.adopted ? "taken over" : "ready", b->engine.n_rows);
    while (!b->stopping) {
        if (has_more(b))
            turn(b);
        else if (!look_if_it_pays(b))
            r = sleep_until_event(b);
        if (r >= 0 && (b->n_armed > 0 || ++b->turns % LOOK_FOR_EVENTS == 0))
            r = loop_wait(&b->loop, 0);
        if (r < 0) {
            log_error("cannot wait for events: %s", strerror(-r));
            break;
        }
    }
    stop(b);
    log_info("instance \"%s\": stopped", b->instance);
    return r < 0 ? r : 0;
}

void broker_free(struct broker *b)
{
    if (b == NULL)
        return;
    for (uint32_t i = 0; b->peers != NULL && i < b->engine.n_rows; i++)
        close_peer(b, &b->peers[i]);
    free(b->peers);
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
