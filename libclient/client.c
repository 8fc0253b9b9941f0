/* What the calls of a client stand on: receiving, sending, and waiting for either.
 *
 * A handle sleeps in two places only: on its reply queue (client_sleep), where everything that can
 * end a wait arrives, and, when a request queue is full, in the kernel's own list of senders
 * (client_send), in slices, between which it empties its reply queue: who waits for room must not
 * stop reading (P5).
 *
 * Before it sleeps on the reply queue it looks at its board row again for a short while, giving the
 * processor away between looks, because waking a process costs several times what a whole round
 * trip does. A look is a load from memory. It does so only while that has been paying: after some
 * waits in vain it sleeps at once, and tries again now and then. Who waits for a confirm looks for
 * much longer, as it does pay: a sync of the disk is some wake-ups long, and a publisher that does
 * not leave its processor leaves the broker and its helper thread together on another one. */
#include "libclient/client.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    SEND_SLICE_MS = 100,    /* between looks at the board while a request queue is full */
    CLOSE_MS = 1000,        /* for the goodbye */
    CREDIT_MAX = 4,         /* waits in vain until looking again stops */
    BUSY_NS = 300000,       /* off the processor that say that others want it */
    CROWD_MIN_NS = 1000000, /* … and how long that is believed: twice as long each time */
    CROWD_MAX_NS = 128000000,
    CROWD_DECAY = 32, /* and a little less whenever looking has paid */
    SKIP_MIN = 64,    /* waits without looking until it is tried again, */
    SKIP_MAX = 8192,  /* twice as many each time that it did not pay */
};

#define SECOND      UINT64_C(1000000000)
#define MILLISECOND UINT64_C(1000000)
#define SLEEP_SLICE (10 * SECOND) /* between looks at whether the session is still there */

/* ---- Clocks ---- */

static uint64_t read_clock(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

uint64_t client_monotonic(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t client_boottime(void)
{
    return read_clock(CLOCK_BOOTTIME);
}

uint64_t client_deadline(int timeout_ms)
{
    return timeout_ms < 0 ? CLIENT_FOREVER
                          : client_monotonic() + (uint64_t)timeout_ms * MILLISECOND;
}

/* ---- May it be used? ---- */

static uint32_t board_state(const struct mqc *c)
{
    return atomic_load_explicit(&c->board->state, memory_order_relaxed);
}

int client_check_process(const struct mqc *c)
{
    if (c == NULL)
        return client_fail_plainly(-EINVAL, "no handle was given (NULL)");
    if (*c->ours == 0)
        return client_fail_plainly(
            -EPERM,
            "the handle was opened before fork() by the parent process; open one in this process");
    return 0;
}

int client_check(const struct mqc *c)
{
    int r = client_check_process(c);

    if (r < 0)
        return r;
    if (c->session.ended != 0 || board_state(c) >= BOARD_STOPPING)
        return client_over(c);
    return 0;
}

bool client_is_known(const struct mqc *c, uint32_t state)
{
    struct board_client_info info;

    switch (board_state(c)) {
    case BOARD_STARTING:
        return true;
    case BOARD_RUNNING:
        return !board_read_identity(board_row(c->board, c->session.id), &info) ||
               (info.nonce == c->session.nonce && info.state <= state);
    default:
        return false;
    }
}

bool client_is_lost(const struct mqc *c)
{
    return c->session.ended != WIRE_ENDED && queue_standing(&c->reply) <= 0 &&
           !client_is_known(c, BOARD_ROW_ENDING);
}

/* Is the session still there? Its last batch says when it is not, so this finds only what goes
 * wrong without a word: a reply queue that was removed by force, a broker that was started again
 * without its memory. */
static int check_session(const struct mqc *c)
{
    if (board_state(c) == BOARD_RUNNING && client_is_lost(c))
        return client_fail(-ECONNRESET,
                           "broker '%s' does not know this session any more; open a new handle",
                           c->instance);
    return 0;
}

/* ---- Receiving ---- */

int client_fetch(struct mqc *c)
{
    struct inbox_batch *batch = inbox_blank(&c->session.inbox);
    unsigned level;
    ssize_t n;

    if (batch == NULL)
        return client_fail_plainly(-ENOMEM, "no memory for a buffer to receive into");
    n = queue_receive(&c->reply, batch->bytes, c->reply.width, &level);
    if (n >= 0) {
        session_arrive(&c->session, batch, (size_t)n, level);
        return 0;
    }
    inbox_release(batch);
    if (n != -EAGAIN)
        return client_fail_call((int)n, "cannot receive from the reply queue");
    session_found_empty(&c->session);
    return -EAGAIN;
}

int client_drain(struct mqc *c)
{
    int r = 0;

    while (r == 0 && !inbox_crowded(&c->session.inbox))
        r = client_fetch(c);
    return r == -EAGAIN ? 0 : r;
}

void client_ring(struct mqc *c)
{
    uint64_t one = 1;

    if (c->event_fd < 0 || c->rung)
        return;
    if (session_has_something(&c->session) || c->session.ended != 0)
        c->rung = write(c->event_fd, &one, sizeof(one)) == sizeof(one);
}

/* ---- Waiting ---- */

bool client_is_crowded(struct mqc *c, uint64_t now)
{
    if (now < c->crowded_until)
        return true;
    c->crowded_until = 0;
    return false;
}

static bool worth_looking(struct mqc *c, struct patience *p)
{
    if (p->longest == 0 || (c->crowded_until != 0 && client_is_crowded(c, client_monotonic())))
        return false;
    if (p->credit > 0)
        return true;
    if (++p->skipped < p->to_skip)
        return false;
    p->skipped = 0;
    return true;
}

/* Keep in mind how it went. */
static bool looked(struct patience *p, bool paid)
{
    if (paid) {
        p->credit = CREDIT_MAX;
        p->to_skip = SKIP_MIN;
    } else if (p->credit > 0) {
        p->credit--;
    } else if (p->to_skip < SKIP_MAX) {
        p->to_skip *= 2;
    }
    return paid;
}

/* Others want the processor: no looking again for a while, which is the longer the oftener that
 * comes. */
static void note_crowd(struct mqc *c, uint64_t now)
{
    if (c->crowd_ns == 0)
        c->crowd_ns = CROWD_MIN_NS;
    else if (c->crowd_ns < CROWD_MAX_NS)
        c->crowd_ns *= 2;
    c->crowded_until = now + c->crowd_ns;
}

bool client_step_aside(struct mqc *c, uint64_t *now)
{
    uint64_t before = *now;

    sched_yield();
    *now = client_monotonic();
    if (*now - before < BUSY_NS)
        return true;
    note_crowd(c, *now);
    return false;
}

/* Has come what a sleep would be for? */
static bool stirs(struct mqc *c)
{
    return !session_quiet(&c->session) || client_pool_stirred(c);
}

/* True: the board says that something stands, or the outbox that there is space. */
static bool look_again(struct mqc *c, struct patience *p, uint64_t deadline)
{
    uint64_t now, until;
    bool paid = stirs(c);

    if (paid || !worth_looking(c, p))
        return paid;
    now = client_monotonic();
    until = deadline - now < p->longest ? deadline : now + p->longest;
    while (!paid && now < until && client_step_aside(c, &now))
        paid = stirs(c);
    if (paid)
        c->crowd_ns -= c->crowd_ns / CROWD_DECAY;
    return looked(p, paid);
}

/* Look until half of the queue is free. To sleep on a full one costs a wake-up for each place that
 * gets free: its sender is handed that one place, fills it, and sleeps again. But where many
 * senders compete, another takes the half, and a sleeper has its turn at least: it has paid if the
 * half that got free last time was filled by this one. */
static void look_for_room(struct mqc *c, const struct queue *q, uint64_t deadline)
{
    uint64_t now, until;

    looked(&c->to_send, c->sent_in_a_row >= q->depth / 2);
    c->sent_in_a_row = 0;
    if (!worth_looking(c, &c->to_send))
        return;
    now = client_monotonic();
    until = deadline - now < c->to_send.longest ? deadline : now + c->to_send.longest;
    while (now < until && queue_standing(q) > (int)q->depth / 2 && client_step_aside(c, &now))
        ;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Sleep on the reply queue, no longer than a slice. */
static int sleep_on_queue(struct mqc *c, uint64_t deadline)
{
    struct pollfd readable = {.fd = c->reply.mqd, .events = POLLIN};
    uint64_t now = client_monotonic();
    uint64_t until = earlier(earlier(deadline, now + SLEEP_SLICE), client_maps_due(c));
    uint64_t rest = until > now ? until - now : 0;
    struct timespec span;
    int n;

    span = (struct timespec){.tv_sec = (time_t)(rest / SECOND), .tv_nsec = (long)(rest % SECOND)};
    n = ppoll(&readable, 1, &span, NULL);
    if (n < 0 && errno != EINTR)
        return client_fail_call(-errno, "cannot wait for the reply queue");
    client_maps_tend(c);
    return n == 0 && rest == SLEEP_SLICE ? check_session(c) : 0;
}

static int sleep_patiently(struct mqc *c, struct patience *p, uint64_t deadline)
{
    if (deadline != CLIENT_FOREVER && client_monotonic() >= deadline)
        return -ETIMEDOUT;
    client_report(c);
    if (c->session.untold)
        client_nudge(c, BOARD_LISTENING);
    if (look_again(c, p, deadline))
        return 0;
    if (board_state(c) == BOARD_STOPPED && queue_standing(&c->reply) <= 0)
        return client_over(c);
    return sleep_on_queue(c, deadline);
}

int client_sleep(struct mqc *c, uint64_t deadline)
{
    return sleep_patiently(c, &c->to_read, deadline);
}

int client_sleep_for_confirm(struct mqc *c, uint64_t deadline)
{
    return sleep_patiently(c, &c->to_confirm, deadline);
}

int client_await_call(struct mqc *c, uint64_t deadline)
{
    struct session *s = &c->session;
    const struct request *call = requests_call(&s->requests);
    bool look = !session_quiet(s);
    int r;

    for (;;) {
        for (r = 0; look && r == 0 && call->state == REQUEST_OPEN;) {
            if (inbox_full(&s->inbox))
                return client_fail_plainly(
                    -EDEADLK, "too many other messages came before the answer; receive them first");
            r = client_fetch(c);
        }
        if (call->state != REQUEST_OPEN)
            return 0;
        if (r < 0 && r != -EAGAIN)
            return r;
        if (s->ended != 0)
            return client_over(c);
        r = client_sleep(c, deadline);
        if (r < 0)
            return r;
        look = true;
    }
}

/* ---- Sending ---- */

/* How long to wait in the kernel until the next look around, in milliseconds; 0: the deadline has
 * passed. */
static int send_slice(uint64_t deadline)
{
    uint64_t now;

    if (deadline == CLIENT_FOREVER)
        return SEND_SLICE_MS;
    now = client_monotonic();
    if (now >= deadline)
        return 0;
    if (deadline - now >= SEND_SLICE_MS * MILLISECOND)
        return SEND_SLICE_MS;
    return (int)((deadline - now) / MILLISECOND) + 1;
}

/* The queue stays full: the broker is stopped, was killed, or has no room for normal messages. What
 * arrives meanwhile is read, for it may be this client's own backlog that is in the way; so may be
 * what it has not acknowledged. */
static int look_around(struct mqc *c)
{
    int r = client_drain(c);

    client_ring(c);
    client_settle(c, 0);
    return r < 0 ? r : client_check(c);
}

static int send_patiently(struct mqc *c, const struct queue *q,
                          const struct session_envelope *envelope, uint64_t deadline)
{
    int slice;
    int r = c->to_send.longest == 0
                ? -EAGAIN
                : queue_try_send(q, envelope->bytes, envelope->size, envelope->level);

    if (r == 0)
        c->sent_in_a_row++;
    if (r != -EAGAIN)
        return r;
    client_settle(c, 0);
    look_for_room(c, q, deadline);
    while ((slice = send_slice(deadline)) > 0) {
        r = queue_send_within(q, envelope->bytes, envelope->size, envelope->level, slice);

        if (r == -EAGAIN)
            r = look_around(c);
        else if (r == 0)
            return 0;
        if (r < 0 && r != -EINTR)
            return r;
    }
    return -ETIMEDOUT;
}

int client_send(struct mqc *c, struct session_envelope *envelope, uint64_t deadline)
{
    const struct queue *q = envelope->level >= WIRE_URGENT ? &c->urgent : &c->request;
    int r;

    session_seal(&c->session, envelope);
    r = deadline == 0 ? queue_try_send(q, envelope->bytes, envelope->size, envelope->level)
                      : send_patiently(c, q, envelope, deadline);
    if (r < 0 && r != -EAGAIN && r != -ETIMEDOUT && r != -ESHUTDOWN && r != -ECONNRESET)
        return client_fail_call(r, "cannot send to the request queue");
    return r;
}

void client_nudge(struct mqc *c, uint32_t asleep)
{
    uint8_t nudge[SESSION_NUDGE_SIZE];

    c->session.untold = false;
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&c->board->asleep, memory_order_relaxed) < asleep)
        return;
    session_write_nudge(&c->session, nudge);
    queue_try_send(&c->urgent, nudge, sizeof(nudge), WIRE_CONTROL);
}

static int send_acks(struct mqc *c, uint64_t deadline)
{
    struct session_envelope envelope;
    struct acks *acks = &c->session.acks;
    int r = 0;

    while (acks->n > 0 && r == 0) {
        uint32_t n = session_put_acks(&c->session, &envelope);

        r = client_send(c, &envelope, deadline);
        if (r == 0)
            acks_drop(acks, n, client_monotonic());
    }
    return r;
}

int client_settle(struct mqc *c, uint64_t deadline)
{
    int r;

    if (c->session.acks.n == 0 || c->settling)
        return 0;
    c->settling = true;
    r = send_acks(c, deadline);
    c->settling = false;
    return r;
}

static int send_gathered(struct mqc *c, uint64_t deadline)
{
    int r;

    if (!session_gathers(&c->session))
        return 0;
    r = client_send(c, &c->session.gathered, deadline);
    if (r == 0)
        session_clear(&c->session.gathered);
    return r;
}

int client_flush(struct mqc *c, uint64_t deadline)
{
    int r;

    if (c->session.acks.n > 0) {
        r = send_gathered(c, 0);
        if (r == 0 || r == -EAGAIN)
            r = client_settle(c, deadline);
        if (r < 0)
            return r;
    }
    return send_gathered(c, deadline);
}

void client_report(struct mqc *c)
{
    struct session *s = &c->session;

    while (s->reports.n > 0) {
        uint32_t n = session_put_reports(s);

        if (client_send(c, &s->alone, 0) < 0)
            break;
        reports_drop(&s->reports, n);
    }
}

/* ---- The handle ---- */

static void say_goodbye(struct mqc *c)
{
    uint64_t deadline = client_deadline(CLOSE_MS);

    if (client_flush(c, deadline) < 0)
        return;
    client_report(c);
    session_put_bye(&c->session);
    client_send(c, &c->session.alone, deadline);
}

void mqc_close(struct mqc *c)
{
    if (c == NULL)
        return;
    client_pool_abandon(c);
    if (c->session.welcomed && client_check(c) == 0)
        say_goodbye(c);
    if (c->epoll_fd >= 0)
        close(c->epoll_fd);
    if (c->event_fd >= 0)
        close(c->event_fd);
    if (c->timer_fd >= 0)
        close(c->timer_fd);
    client_maps_close(c);
    client_pool_close(c);
    segment_close(&c->outbox);
    queue_close(&c->reply);
    queue_close(&c->urgent);
    queue_close(&c->request);
    segment_close(&c->segment);
    session_deinit(&c->session);
    if (c->ours != NULL)
        munmap((void *)(uintptr_t)c->ours, 1);
    free(c);
}

uint64_t mqc_missed(const struct mqc *c)
{
    uint64_t board, header;

    if (client_check_process(c) < 0)
        return 0;
    board = board_get(&c->session.row->missed);
    header = c->session.missed;
    return board > header ? board : header;
}

const char *mqc_version(void)
{
#define TEXT(x)  #x
#define TEXT2(x) TEXT(x)
    return TEXT2(MQC_VERSION_MAJOR) "." TEXT2(MQC_VERSION_MINOR) "." TEXT2(MQC_VERSION_PATCH);
}
