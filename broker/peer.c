/* A session's kernel objects: its reply queue, and its process, whose death a descriptor tells.
 *
 * The engine says which sessions come, go and have something to be sent; what is here are the
 * system calls for it. */
#include "broker/peer.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "broker/copies.h"
#include "broker/groups.h"
#include "broker/keeper.h"
#include "broker/life.h"
#include "broker/pump.h"
#include "libclient/names.h"
#include "libclient/process.h"

#define PEER(source, member) ((struct peer *)((char *)(source)-offsetof(struct peer, member)))

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
    if (peer->pidfd >= 0 &&
        loop_add(&b->loop, &peer->death_source, peer->pidfd, EPOLLIN, on_death) < 0) {
        close(peer->pidfd);
        peer->pidfd = -1;
    }
    if (peer->pidfd < 0) {
        /* No descriptor or no memory for it, or a sandbox, or valgrind, that does not know the
         * call: look now and then. */
        peer->looked_after = true;
        b->n_looked_after++;
    }
    return 0;
}

/* Those whose death no descriptor tells. */
void peers_look_after(struct broker *b)
{
    struct engine *e = &b->engine;

    if (b->n_looked_after == 0 || e->now - b->looked < PEER_LOOK_AFTER)
        return;
    b->looked = e->now;
    for (uint32_t i = 0; i < e->n_rows; i++) {
        const struct row *row = engine_row(e, (uint16_t)i);

        if (b->peers[i].looked_after && !process_alive(row->pid, row->pid_start))
            life_died(e, (uint16_t)i);
    }
}

static void unwatch_process(struct broker *b, struct peer *peer)
{
    if (peer->looked_after)
        b->n_looked_after--;
    peer->looked_after = false;
    loop_remove(&b->loop, &peer->death_source);
    if (peer->pidfd >= 0)
        close(peer->pidfd);
    peer->pidfd = -1;
}

static void close_queue(struct broker *b, struct peer *peer)
{
    loop_remove(&b->loop, &peer->queue_source);
    if (peer->queue.mqd != (mqd_t)-1)
        shell_count_queue(b, &peer->queue, -1);
    queue_close(&peer->queue);
    if (peer->armed)
        b->n_armed--;
    peer->armed = false;
}

void peer_close(struct broker *b, struct peer *peer)
{
    unwatch_process(b, peer);
    close_queue(b, peer);
}

static void log_refusal(struct broker *b, const struct row *row, const char *why)
{
    log_limited(&b->refusal_limit, b->engine.now, CONFIG_LOG_WARNING,
                "refused a client (%s, pid %" PRIu32 "): %s",
                row->name[0] != '\0' ? row->name : "without a name", row->pid, why);
}

static void refuse(struct broker *b, uint16_t i, int error)
{
    struct engine *e = &b->engine;
    const struct row *row = engine_row(e, i);
    uint64_t limit = b->plan.limits.queue_bytes;
    uint32_t bytes = (uint32_t)queue_bytes(b->plan.reply_depth, PLAN_REPLY_MIN);

    log_refusal(b, row,
                error == -EMFILE ? "no queue memory left; see mqbroker --limits"
                                 : strerror(-error));
    if (error == -EMFILE)
        life_refused(e, i, WIRE_C_QUEUE_MEMORY, bytes, limit);
    else if (error == -ENOSPC)
        life_refused(e, i, WIRE_C_QUEUE_COUNT, b->plan.limits.queues_max, 0);
    else if (error == -ESRCH)
        life_refused(e, i, WIRE_C_NO_SUCH_PROCESS, row->pid, 0);
    else
        life_refused(e, i, WIRE_C_QUEUE_ERROR, (uint32_t)-error, 0);
}

/* The same for want of an outbox. */
static void refuse_outbox(struct broker *b, uint16_t i, int error)
{
    log_refusal(b, engine_row(&b->engine, i),
                error == -ENOSPC ? "/dev/shm is full" : strerror(-error));
    life_refused(&b->engine, i, WIRE_C_QUEUE_ERROR, (uint32_t)-error, 0);
}

/* As planned; where others have taken the room, narrower rather than not at all. */
static int make_reply_queue(struct broker *b, struct peer *peer, const struct row *row)
{
    const struct plan *plan = &b->plan;
    char name[NAMES_MAX];
    int r;

    names_reply_queue(name, b->instance, row->nonce);
    r = shell_make_queue(b, &peer->queue, name, plan->reply_depth, plan->reply_width);
    if (r == -EMFILE && plan->reply_width > PLAN_REPLY_MIN)
        r = shell_make_queue(b, &peer->queue, name, plan->reply_depth, PLAN_REPLY_MIN);
    return r;
}

/* Not all of it could be made, now or by a broker that was killed at it: nobody is to find half a
 * session. */
static void take_back(struct broker *b, struct peer *peer)
{
    char name[NAMES_MAX];

    names_reply_queue(name, b->instance, engine_row(&b->engine, peer->row)->nonce);
    peer_close(b, peer);
    shell_remove_queue(name);
    share_discard(b, peer->row);
}

/* A session that registered: watch its process, make its queue and its outbox. */
void peer_make(struct broker *b, uint16_t i)
{
    struct engine *e = &b->engine;
    struct peer *peer = &b->peers[i];
    int r = watch_process(peer, engine_row(e, i));

    if (r == 0)
        r = make_reply_queue(b, peer, engine_row(e, i));
    if (r == 0)
        r = loop_add(&b->loop, &peer->queue_source, (int)peer->queue.mqd, 0, on_edge);
    if (r < 0) {
        take_back(b, peer);
        refuse(b, i, r);
        return;
    }
    r = share_make(b, i);
    if (r < 0) {
        take_back(b, peer);
        refuse_outbox(b, i, r);
        return;
    }
    shell_show_queue(&board_row(e->board, i)->queue, &peer->queue);
    life_made(e, i, peer->queue.inode, peer->queue.depth, peer->queue.width);
    log_debug("session %u: pid %" PRIu32 ", name \"%s\", queue %" PRIu32 " x %" PRIu32, i,
              engine_row(e, i)->pid, engine_row(e, i)->name, peer->queue.depth, peer->queue.width);
}

/* A session that a killed broker left: its queue and its outbox must be those that were made (K8).
 * That they cannot be opened is no reason to end it: who starts next may have more luck. */
int peer_adopt(struct broker *b, uint16_t i)
{
    struct engine *e = &b->engine;
    const struct row *row = engine_row(e, i);
    struct peer *peer = &b->peers[i];
    char name[NAMES_MAX];
    int r;

    names_reply_queue(name, b->instance, row->nonce);
    r = queue_open(&peer->queue, name, O_RDWR | O_NONBLOCK);
    if (r == 0)
        shell_count_queue(b, &peer->queue, 1);
    else if (shell_may_pass(r))
        return r;
    if (r < 0 || peer->queue.inode != row->inode || peer->queue.depth != row->depth ||
        peer->queue.width != row->width || peer->share.outbox.base == NULL) {
        log_warning("session %u (pid %" PRIu32 ") ended: its queue or its outbox is not the one "
                    "that was made",
                    i, row->pid);
        life_leave(e, i, WIRE_C_QUEUE_REPLACED);
        return 0;
    }
    shell_show_queue(&board_row(e->board, i)->queue, &peer->queue);
    r = loop_add(&b->loop, &peer->queue_source, (int)peer->queue.mqd, 0, on_edge);
    if (r == 0 && watch_process(peer, row) < 0)
        life_died(e, i);
    return r;
}

static void say_farewell(struct broker *b, struct peer *peer)
{
    struct engine *e = &b->engine;
    const struct row *row = engine_row(e, peer->row);
    struct pump_batch farewell;
    uint8_t code;

    if (!life_wants_farewell(e, peer->row, &code) || peer->queue.mqd == (mqd_t)-1)
        return;
    pump_farewell(e, peer->row, WIRE_ENDED, code, &farewell);
    queue_send(&peer->queue, farewell.bytes, farewell.size, farewell.level);
    log_info("session %u (pid %" PRIu32 ", name \"%s\") ended: %s", peer->row, row->pid, row->name,
             wire_code_name(code));
}

/* Its process may still read payloads in place. One that another broker left is not watched yet. */
static void linger(struct peer *peer)
{
    struct engine *e = &peer->broker->engine;

    if (peer->pidfd < 0 && !peer->looked_after && watch_process(peer, engine_row(e, peer->row)) < 0)
        life_died(e, peer->row);
}

/* Tell it why, if anybody is there to read it; then all that was made for it goes. */
void peer_remove(struct broker *b, uint16_t i)
{
    struct engine *e = &b->engine;
    struct peer *peer = &b->peers[i];
    char name[NAMES_MAX];

    say_farewell(b, peer);
    names_reply_queue(name, b->instance, engine_row(e, i)->nonce);
    close_queue(b, peer);
    mq_unlink(name);
    copies_forget(b, i);
    keeper_forget(b, i);
    if (life_lingers(e, i)) {
        linger(peer);
        return;
    }
    unwatch_process(b, peer);
    share_remove(b, i);
    life_gone(e, i);
}

/* ---- Sending ---- */

/* Ask for edges while there is a backlog that found no room, and not otherwise: each is a wake-up
 * (P2). */
static void arm(struct broker *b, struct peer *peer, bool on)
{
    if (peer->armed == on)
        return;
    if (loop_change(&b->loop, &peer->queue_source, on ? EPOLLOUT | EPOLLET : 0) < 0) {
        share_try_later(b, peer->row);
        return;
    }
    peer->armed = on;
    b->n_armed += on ? 1 : -1u;
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

/* False: the kernel has no memory for it now. */
static bool send_batch(struct broker *b, struct peer *peer, const struct pump_batch *batch)
{
    struct engine *e = &b->engine;
    int r = queue_send(&peer->queue, batch->bytes, batch->size, batch->level);

    if (r == 0) {
        pump_sent(e, peer->row);
        return true;
    }
    pump_full(e, peer->row);
    if (r == -ENOMEM || r == -EINTR)
        return false;
    if (r != -EAGAIN) { /* no such error is known; it must not make a loop */
        log_warning("cannot send to session %u: %s", peer->row, strerror(-r));
        life_leave(e, peer->row, WIRE_C_QUEUE_ERROR);
    }
    return true;
}

/* One session, up to what its queue holds. */
static void pump(struct broker *b, uint16_t row)
{
    struct engine *e = &b->engine;
    struct peer *peer = &b->peers[row];
    struct pump_batch batch;
    uint32_t sent = 0;
    int outcome;

    while ((outcome = pump_next(e, row, &batch)) != PUMP_NOTHING && outcome != PUMP_BLOCKED) {
        if (outcome == PUMP_ASK) {
            ask_room(b, peer);
        } else if (outcome == PUMP_WANTS_POOL) {
            share_provide(b, row);
        } else if (!send_batch(b, peer, &batch)) {
            share_try_later(b, row); /* and of memory no edge tells */
            return;
        } else if (++sent > peer->queue.depth) {
            engine_touch(e, row); /* it reads as fast as we send: the others have their turn */
            return;
        }
    }
    if (outcome == PUMP_BLOCKED && e->sessions[row].wants_buffer)
        share_try_later(b, row); /* that a buffer is free, no edge will tell */
    if (outcome == PUMP_BLOCKED)
        arm(b, peer, true);
    else if (peer->queue.mqd != (mqd_t)-1)
        arm(b, peer, false);
}

/* Those that are touched meanwhile have the next turn. */
void peers_pump(struct broker *b)
{
    struct rows *touched = &b->engine.touched;
    uint32_t n;

    groups_deal(&b->engine);
    n = touched->n;

    for (uint32_t i = 0; i < n; i++) {
        uint16_t row = touched->rows[i];

        b->engine.sessions[row].touched = false;
        pump(b, row);
    }
    touched->n -= n;
    memmove(touched->rows, touched->rows + n, touched->n * sizeof(*touched->rows));
}
