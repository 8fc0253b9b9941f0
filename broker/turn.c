/* A turn of the broker, and the rest between two.
 *
 * A turn: take a bounded number of envelopes from the two request queues, urgent ones first, and
 * have each routed; collect what receivers have given back; make and remove the queues of sessions
 * that came and went; then pump each touched session once. So batches form by themselves under
 * load, and a lone message is not delayed.
 *
 * Before it sleeps the broker looks again for a while, if that has been paying: to be woken costs
 * more than all the rest. */
#include "broker/turn.h"

#include <sched.h>

#include "broker/copies.h"
#include "broker/keeper.h"
#include "broker/life.h"
#include "broker/peer.h"
#include "broker/pools.h"
#include "broker/route.h"

enum {
    TURN_ENVELOPES = 32,    /* taken in a turn at most (P9) */
    TURN_BYTES = 24576,     /* … of normal ones: an urgent message waits for one turn (P3) */
    URGENT_IN_A_ROW = 8,    /* then one normal envelope, if there is one (P3) */
    LOOK_FOR_URGENT = 2048, /* bytes of normal ones between looks into the urgent queue */
    LOOK_FOR_EVENTS = 32,   /* turns between looks at what is no request and does not press */
    LOOK_AT_OTHER = 8,      /* looks at one request queue for one at the other */
    REALLY_SLEPT = 2000,    /* nanoseconds that a wait takes if it was not over at once */
    BUSY = 300000,          /* nanoseconds off the processor that say that others want it */
    CROWD_MIN = 1000000,    /* … and how long that is believed: twice as long each time */
    CROWD_MAX = 128000000,
    CROWD_DECAY = 32,   /* and a little less whenever looking has paid */
    TRY_AGAIN = 32,     /* sleeps after which it is tried although it did not pay */
    LISTEN = 100000000, /* nanoseconds of sleep at most while somebody waits for what rings bring */
};

/* ---- Receiving ---- */

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
        e->wall = shell_clock(CLOCK_REALTIME);
    b->last_from = from;
    route(e, (size_t)n);
    keeper_append(b);
    shell_prepare_token(b);
    return (size_t)n;
}

/* Must the request queues wait: for memory (P6), or for the disk? */
static bool is_held_up(const struct broker *b)
{
    return engine_is_tight(&b->engine) || keeper_is_busy(b);
}

static bool take_urgent(struct broker *b)
{
    return !keeper_is_behind(b) && take(b, &b->urgent, LANDING_URGENT) > 0;
}

static bool take_normal(struct broker *b)
{
    return !is_held_up(b) && take(b, &b->request, LANDING_NORMAL) > 0;
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
        size = is_held_up(b) ? 0 : take(b, &b->request, LANDING_NORMAL);
        if (size == 0) {
            /* Not if a goodbye may have been among what was taken since: urgent messages that were
             * sent before it could stand in the urgent queue by now (L1). */
            *quiet = since_urgent == 0 && !is_held_up(b);
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
    shell_set_time(b);
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

    if (e->making.n == 0 && e->leaving.n == 0 && e->unlinked.n == 0)
        return;
    while (e->making.n > 0)
        peer_make(b, e->making.rows[--e->making.n]);
    while (e->leaving.n > 0)
        peer_remove(b, e->leaving.rows[--e->leaving.n]);
    shares_unlink(b);
    shares_show(b);
}

/* Returns whether there was anything to do. */
static bool turn(struct broker *b)
{
    struct engine *e = &b->engine;
    uint32_t postings = atomic_load_explicit(&e->board->postings, memory_order_relaxed);
    bool quiet;
    bool work = intake(b, &quiet) > 0;

    if (b->held_up)
        life_postpone(e, e->now - b->turned);
    b->turned = e->now;
    shares_collect(b);
    copies_step(b);
    if (quiet)
        life_quiet(e);
    if (life_next_tick(e) <= e->now)
        life_tick(e);
    peers_look_after(b);
    carry_out(b);
    keeper_step(b);
    work = work || e->touched.n > 0 || e->dirty.n > 0 || e->busy.n > 0;
    peers_pump(b);
    keeper_settle(b);
    settle_step(b);
    shares_check(b);
    b->held_up = keeper_is_busy(b);
    shell_wake_registering(b, postings);
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
    const struct engine *e = &b->engine;

    return e->touched.n > 0 || e->busy.n > 0 || (e->ending.n > 0 && !b->held_up) ||
           e->unlinked.n > 0 || b->cut_short || copies_pending(b);
}

/* Look again for a while, yielding the processor in between. True: there was work. False also if
 * others want the processor: who yields it to them may get it back only a time slice later (since
 * Linux 6.18 always), while who sleeps is given it when woken. */
static bool look_again(struct broker *b)
{
    uint64_t now = shell_clock(CLOCK_BOOTTIME);
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
        b->paying = b->paying < TURN_PAYING_MAX ? b->paying + 1 : TURN_PAYING_MAX;
        return true;
    }
    b->paying = b->paying > 0 ? b->paying - 2 : 0;
    return false;
}

static uint64_t time_to_sleep(const struct broker *b, bool listening)
{
    uint64_t next = life_next_tick(&b->engine);
    uint64_t sleep;
    uint64_t now;

    if (b->n_looked_after > 0 && b->looked + PEER_LOOK_AFTER < next)
        next = b->looked + PEER_LOOK_AFTER;
    if (b->share_retry != 0 && b->share_retry < next)
        next = b->share_retry;
    if (next == UINT64_MAX)
        return listening ? LISTEN : UINT64_MAX;
    now = shell_clock(CLOCK_BOOTTIME);
    sleep = next > now ? next - now : 0;
    return listening && sleep > LISTEN ? LISTEN : sleep;
}

static bool is_listening(const struct broker *b)
{
    return pools_listen(&b->engine) || copies_wait(b);
}

/* Say that the broker is about to sleep, and look at the rings once more: who wrote to one before
 * is seen now, who writes after sees the word, and nudges (P8). True: somebody waits for it. */
static bool lie_down(struct broker *b)
{
    _Atomic uint32_t *asleep = &memory_board(&b->memory)->asleep;
    bool listening;

    do {
        listening = is_listening(b);
        atomic_store_explicit(asleep, listening ? BOARD_LISTENING : BOARD_ASLEEP,
                              memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        shares_collect(b);
    } while (listening != is_listening(b));
    return listening;
}

static int sleep_until_event(struct broker *b)
{
    struct board_header *board = memory_board(&b->memory);
    uint64_t since = shell_clock(CLOCK_MONOTONIC);
    bool listening;
    int r;

    b->sleeps++;
    b->urgent_ready = false;
    copies_tidy(b);
    listening = lie_down(b);
    r = loop_wait(&b->loop, has_more(b) ? 0 : time_to_sleep(b, listening));
    atomic_store_explicit(&board->asleep, BOARD_AWAKE, memory_order_relaxed);
    b->cut_short = true; /* there is a turn to come */
    b->rested = b->woken = shell_clock(CLOCK_MONOTONIC) - since > REALLY_SLEPT;
    return r;
}

int turn_next(struct broker *b)
{
    int r = 0;

    if (has_more(b)) {
        turn(b);
    } else if (keeper_awaits_more(b)) {
        if (b->rested) /* nothing was there: let those run who have it */
            sched_yield();
        turn(b);
    } else if (!look_if_it_pays(b))
        r = sleep_until_event(b);
    if (r >= 0 && (b->n_armed > 0 || ++b->turns % LOOK_FOR_EVENTS == 0))
        r = loop_wait(&b->loop, 0);
    return r;
}
