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
    if (peer->pidfd < 0) {
        /* A sandbox, or valgrind, that does not know the call: look now and then. */
        peer->looked_after = true;
        b->n_looked_after++;
        return 0;
    }
    return loop_add(&b->loop, &peer->death_source, peer->pidfd, EPOLLIN, on_death);
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

void peer_close(struct broker *b, struct peer *peer)
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
        shell_count_queue(b, &peer->queue, -1);
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
                "refused a client (%s, pid %" PRIu32 "): %s", name, row->pid,
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

/* The widest queue there is room for: later ones shrink rather than be refused. */
static int make_reply_queue(struct broker *b, struct peer *peer, const struct row *row)
{
    uint32_t width = plan_width(&b->plan, row->publish_only != 0, b->n_wide);
    char name[NAMES_MAX];
    int r;

    names_reply_queue(name, b->instance, row->nonce);
    r = shell_make_queue(b, &peer->queue, name, width);
    if (r == -EMFILE && width > b->plan.narrow) {
        width = b->plan.narrow;
        r = shell_make_queue(b, &peer->queue, name, width);
    }
    if (r == 0 && width == b->plan.wide && width > b->plan.narrow) {
        peer->wide = true;
        b->n_wide++;
    }
    return r;
}

/* A session that registered: watch its process, make its queue. */
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
        peer_close(b, peer);
        refuse(b, i, r);
        return;
    }
    shell_show_queue(&board_row(e->board, i)->queue, &peer->queue);
    life_made(e, i, peer->queue.inode, peer->queue.depth, peer->queue.width);
    log_debug("session %u: pid %" PRIu32 ", name \"%s\", queue %" PRIu32 " x %" PRIu32, i,
              engine_row(e, i)->pid, engine_row(e, i)->name, peer->queue.depth, peer->queue.width);
}

/* A session that a killed broker left: its queue must be the one that was made (K8). */
void peer_adopt(struct broker *b, uint16_t i)
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
    shell_show_queue(&board_row(e->board, i)->queue, &peer->queue);
    r = loop_add(&b->loop, &peer->queue_source, (int)peer->queue.mqd, 0, on_edge);
    if (r < 0)
        life_leave(e, i, WIRE_C_QUEUE_ERROR);
    else if (watch_process(peer, row) < 0)
        life_died(e, i);
}

/* Tell it why, if anybody is there to read it; then its queue goes. */
void peer_remove(struct broker *b, uint16_t i)
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
    peer_close(b, peer);
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
void peers_pump(struct broker *b)
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
