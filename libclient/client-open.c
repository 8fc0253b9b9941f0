/* Finding the broker and registering with it: PROTOCOL.md, section 5.
 *
 * Nobody is believed but the kernel: board and queues count only if they belong to the caller's own
 * user or to root, since the names are free for anybody to take. The broker's answer is found on
 * the board by the random number that was sent; the wait for it is a wait on a futex word there,
 * which works on a mapping that is read-only. */
#include "libclient/client.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "libclient/process.h"
#include "libclient/topic.h"

enum {
    OPEN_MS = 5000,     /* to wait if the caller does not say */
    POLL_USEC = 50,     /* to look again likewise, */
    CONFIRM_TIMES = 20, /* … and so many times as long for a confirm */
    RESEND_MS = 1000,   /* REGISTER is sent again without an answer for so long */
    LEAVING_MS = 100,   /* between tries for a name that is being given up */
    STARTING_MS = 10,   /* between looks at a broker that is starting */
};

#define MILLISECOND UINT64_C(1000000)

static bool broker_alive(const struct board_header *board)
{
    return process_alive(atomic_load_explicit(&board->pid, memory_order_relaxed),
                         board_get(&board->pid_start));
}

/* ---- Waiting on the board ---- */

static uint32_t postings(const struct mqc *c)
{
    return atomic_load_explicit(&c->board->postings, memory_order_acquire);
}

/* Wait until the count of postings is no longer `seen`, or this moment has come. */
static void wait_posting(const struct mqc *c, uint32_t seen, uint64_t until)
{
    uint64_t now = client_monotonic();
    struct timespec span;

    if (now >= until)
        return;
    span.tv_sec = (time_t)((until - now) / (1000 * MILLISECOND));
    span.tv_nsec = (long)((until - now) % (1000 * MILLISECOND));
    syscall(SYS_futex, &c->board->postings, FUTEX_WAIT, seen, &span, NULL, 0);
}

static uint64_t earlier(uint64_t deadline, uint64_t span_ms)
{
    uint64_t moment = client_monotonic() + span_ms * MILLISECOND;

    return moment < deadline ? moment : deadline;
}

/* ---- The broker's objects ---- */

static bool owner_is_trusted(uid_t owner)
{
    return owner == geteuid() || owner == 0;
}

static int fail_owner(const struct mqc *c, uid_t owner)
{
    return client_fail(-EACCES,
                       "broker '%s' belongs to user %u, neither to you nor to root: it is not "
                       "trusted; choose another instance",
                       c->instance, (unsigned)owner);
}

static int fail_gone(const struct mqc *c)
{
    return client_fail(-ECONNREFUSED,
                       "broker '%s' does not run any more; start it (mqbroker --instance %s)",
                       c->instance, c->instance);
}

static int map_board(struct mqc *c)
{
    char name[NAMES_MAX];
    int r;

    names_board(name, c->instance);
    r = segment_open(&c->segment, name, 0);
    if (r == -ENOENT)
        return client_fail(r,
                           "there is no broker '%s' on this machine; start it (mqbroker --instance "
                           "%s), or name another "
                           "(--instance, MQBROKER_INSTANCE)",
                           c->instance, c->instance);
    if (r == -EACCES)
        return client_fail(r, "broker '%s' belongs to another user", c->instance);
    if (r < 0)
        return client_fail_call(r, "cannot map the broker's board");
    if (!owner_is_trusted(c->segment.owner))
        return fail_owner(c, c->segment.owner);
    switch (board_check(c->segment.base, c->segment.size)) {
    case BOARD_OK:
        c->board = c->segment.base;
        return 0;
    case BOARD_E_LAYOUT:
        return client_fail(
            -EPROTO,
            "broker '%s' is of another version than this library (%s); update the older of the two",
            c->instance, mqc_version());
    default:
        return client_fail(-EPROTO,
                           "the board of broker '%s' is damaged or not one (/dev/shm%s); stop the "
                           "broker and start it again",
                           c->instance, name);
    }
}

/* A broker that is starting is waited for; one that is gone is not. */
static int await_running(const struct mqc *c, uint64_t deadline)
{
    for (;;) {
        switch (atomic_load_explicit(&c->board->state, memory_order_acquire)) {
        case BOARD_RUNNING:
            return broker_alive(c->board) ? 0 : fail_gone(c);
        case BOARD_STARTING:
            if (atomic_load_explicit(&c->board->pid, memory_order_relaxed) != 0 &&
                !broker_alive(c->board))
                return fail_gone(c);
            break;
        default:
            return fail_gone(c);
        }
        if (client_monotonic() >= deadline)
            return client_fail(-ETIMEDOUT,
                               "broker '%s' has been starting for too long; look at its log",
                               c->instance);
        wait_posting(c, postings(c), earlier(deadline, STARTING_MS));
    }
}

static int open_queue(const struct mqc *c, struct queue *q, const char *name, int flags)
{
    int r = queue_open(q, name, flags);

    if (r == -ENOENT)
        return fail_gone(c);
    if (r == -EACCES)
        return client_fail(r, "queue %s belongs to another user", name);
    if (r < 0)
        return client_fail_call(r, "cannot open a queue of the broker");
    return owner_is_trusted(q->owner) ? 0 : fail_owner(c, q->owner);
}

/* Do all message frames of this size fit the queue? */
static bool takes_frames(const struct queue *q, uint32_t frame_max)
{
    return q->width <= WIRE_QUEUE_MAX && q->width > WIRE_ENVELOPE_SIZE &&
           frame_max <= q->width - WIRE_ENVELOPE_SIZE;
}

static int open_request_queues(struct mqc *c)
{
    char name[NAMES_MAX];
    int r;

    names_request_queue(name, c->instance);
    r = open_queue(c, &c->request, name, O_WRONLY);
    if (r < 0)
        return r;
    names_urgent_queue(name, c->instance);
    r = open_queue(c, &c->urgent, name, O_WRONLY);
    if (r < 0)
        return r;
    if (!takes_frames(&c->request, c->board->frame_max) ||
        !takes_frames(&c->urgent, c->board->frame_max))
        return client_fail(
            -EPROTO, "the request queues of broker '%s' are not as wide as the protocol wants",
            c->instance);
    return 0;
}

/* ---- Registration ---- */

struct answer {
    uint32_t code;
    uint32_t number1;
    uint64_t number2;
};

static bool find_posting(const struct mqc *c, struct answer *answer)
{
    uint64_t nonce = c->session.nonce;

    for (unsigned i = 0; i < BOARD_POSTINGS; i++) {
        const struct board_posting *p = &c->board->board_postings[i];

        if (atomic_load_explicit(&p->nonce, memory_order_acquire) != nonce)
            continue;
        answer->code = atomic_load_explicit(&p->code, memory_order_relaxed);
        answer->number1 = atomic_load_explicit(&p->number1, memory_order_relaxed);
        answer->number2 = board_get(&p->number2);
        atomic_thread_fence(memory_order_acquire);
        if (board_get(&p->nonce) == nonce)
            return true;
    }
    return false;
}

static int make_nonce(uint64_t *nonce)
{
    do {
        if (getrandom(nonce, sizeof(*nonce), 0) != sizeof(*nonce))
            return client_fail_call(-errno, "cannot get a random number");
    } while (*nonce == 0);
    return 0;
}

static int fail_unanswered(const struct mqc *c)
{
    return client_fail(-ETIMEDOUT,
                       "broker '%s' does not answer: it is stopped, or too busy; mqstat --instance "
                       "%s shows what it does",
                       c->instance, c->instance);
}

/* Send REGISTER, once more each second, until the answer is posted. */
static int ask(struct mqc *c, const char *name, unsigned flags, uint64_t start, uint64_t deadline,
               struct answer *answer)
{
    int r;

    while (client_monotonic() < deadline) {
        uint64_t until;

        session_put_register(&c->session, flags & MQC_PUBLISH_ONLY ? WIRE_F_PUBLISH_ONLY : 0,
                             (uint32_t)getpid(), start, c->pool.nonce, name, strlen(name));
        session_seal(&c->session, &c->session.alone);
        r = queue_try_send(&c->urgent, c->session.alone.bytes, c->session.alone.size, WIRE_CONTROL);
        if (r < 0 && r != -EAGAIN)
            return client_fail_call(r, "cannot send to the broker");
        /* A full queue: the broker is busy, and its next posting for anybody says that it has gone
         * on. */
        until = earlier(deadline, r == 0 ? RESEND_MS : STARTING_MS);
        while (client_monotonic() < until) {
            uint32_t seen = postings(c);

            if (find_posting(c, answer))
                return 0;
            wait_posting(c, seen, until);
        }
        if (find_posting(c, answer))
            return 0;
    }
    return fail_unanswered(c);
}

/* Register. A name that is being given up is asked for again, under a new nonce each time, until
 * the deadline. */
static int enlist(struct mqc *c, const char *name, unsigned flags, uint64_t deadline)
{
    struct answer answer = {.code = WIRE_C_OK};
    bool leaving = false;
    uint64_t start;
    int r = process_start((uint32_t)getpid(), &start);

    if (r < 0)
        return client_fail_call(r, "cannot read this process's /proc/<pid>/stat");
    do {
        uint64_t nonce;

        if (leaving)
            wait_posting(c, postings(c), earlier(deadline, LEAVING_MS));
        r = make_nonce(&nonce);
        if (r == 0)
            r = make_nonce(&c->pool.nonce);
        if (r < 0)
            return r;
        session_init(&c->session, c->request.width, c->urgent.width, nonce, 0, 0);
        r = ask(c, name, flags, start, deadline, &answer);
        if (r < 0 && !(leaving && r == -ETIMEDOUT))
            return r;
        leaving = answer.code == WIRE_C_NAME_LEAVING;
    } while (leaving && client_monotonic() < deadline);
    return answer.code == WIRE_C_OK
               ? 0
               : client_fail_refused(c, name, answer.code, answer.number1, answer.number2);
}

/* What WELCOME says must fit the objects that were opened. */
static int check_welcome(const struct mqc *c)
{
    const struct session *s = &c->session;

    if (s->id < c->board->n_rows && s->frame_max > WIRE_MESSAGE_SIZE &&
        takes_frames(&c->request, s->frame_max) && takes_frames(&c->urgent, s->frame_max) &&
        s->buffers <= OUTBOX_BUFFERS && s->buffer_size <= OUTBOX_BUFFER &&
        s->pool_max > POOL_PAYLOADS)
        return 0;
    return client_fail(-EPROTO, "broker '%s' sent a welcome that makes no sense", c->instance);
}

static int await_welcome(struct mqc *c, uint64_t deadline)
{
    struct pollfd readable = {.fd = c->reply.mqd, .events = POLLIN};
    int r;

    while (!c->session.welcomed) {
        r = client_fetch(c);
        if (r == 0)
            continue;
        if (r != -EAGAIN)
            return r;
        if (client_monotonic() >= deadline)
            return fail_unanswered(c);
        /* It was put there before the posting, so this is only for a broker that was killed just
         * then. */
        poll(&readable, 1, STARTING_MS);
    }
    return check_welcome(c);
}

/* Room for copies of payloads, as far as there is address space for it. */
static int reserve_copies(struct mqc *c)
{
    uint64_t length = OUTBOX_COPIES + c->session.pool_max;
    int r;

    while ((r = segment_reserve(&c->outbox, length, 0)) == -ENOMEM && length > OUTBOX_COPIES)
        length /= 2;
    return r;
}

static int map_outbox(struct mqc *c)
{
    const struct outbox_header *outbox;
    char name[NAMES_MAX];
    int r;

    names_outbox(name, c->instance, c->session.nonce);
    r = segment_open(&c->outbox, name, 0);
    if (r < 0)
        return client_fail_call(r, "cannot map this session's outbox");
    outbox = c->outbox.base;
    if (c->outbox.owner != c->segment.owner)
        return fail_owner(c, c->outbox.owner);
    if (c->outbox.size < outbox_buffer_offset(c->session.buffers) ||
        outbox->magic != OUTBOX_MAGIC || outbox->layout != OUTBOX_LAYOUT)
        return client_fail(-EPROTO,
                           "the outbox that broker '%s' made (/dev/shm%s) is damaged or not one",
                           c->instance, name);
    r = reserve_copies(c);
    return r < 0 ? client_fail_call(r, "cannot map this session's outbox") : 0;
}

static int open_reply_queue(struct mqc *c, uint64_t deadline)
{
    char name[NAMES_MAX];
    uint64_t nonce = c->session.nonce;
    int r;

    names_reply_queue(name, c->instance, nonce);
    r = open_queue(c, &c->reply, name, O_RDONLY | O_NONBLOCK);
    if (r < 0)
        return r;
    session_init(&c->session, c->request.width, c->urgent.width, nonce, c->reply.depth,
                 c->reply.width > OUTBOX_BUFFER ? c->reply.width : OUTBOX_BUFFER);
    return await_welcome(c, deadline);
}

static int map_segments(struct mqc *c, size_t pool_size)
{
    int r = map_outbox(c);

    if (r == 0)
        r = client_pool_make(c, pool_size);
    if (r == 0)
        session_attach(&c->session, board_row(c->board, c->session.id), c->pool.segment.base,
                       c->outbox.base);
    return r;
}

/* ---- The handle ---- */

static int mark_as_ours(struct mqc *c)
{
    size_t size = (size_t)sysconf(_SC_PAGESIZE);
    uint8_t *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return client_fail_call(-errno, "no memory");
    c->ours = page;
    if (madvise(page, size, MADV_WIPEONFORK) < 0)
        return client_fail_call(-errno, "cannot mark memory to be wiped on fork");
    *page = 1;
    return 0;
}

static int check_options(const struct mqc_options *o, const char *instance)
{
    if (!names_instance_valid(instance))
        return client_fail(
            -EINVAL, "'%.80s' is not a name for an instance: 1 to %d letters, digits, _ and -",
            instance, NAMES_INSTANCE_MAX);
    if (o->name != NULL && !topic_name_valid(o->name, strlen(o->name)))
        return client_fail(-EINVAL,
                           "'%.80s' is not a name for a client: 1 to %d bytes of UTF-8 without / + "
                           "# @ $ and control characters",
                           o->name, WIRE_NAME_MAX);
    if ((o->flags & ~(unsigned)MQC_PUBLISH_ONLY) != 0)
        return client_fail(-EINVAL, "unknown flags 0x%x in mqc_options", o->flags);
    if (o->timeout_ms < 0)
        return client_fail_plainly(-EINVAL, "mqc_options: timeout_ms is negative");
    return 0;
}

static int open_all(struct mqc *c, const struct mqc_options *o)
{
    uint64_t deadline = client_deadline(o->timeout_ms > 0 ? o->timeout_ms : OPEN_MS);
    int r = mark_as_ours(c);

    if (r == 0)
        r = map_board(c);
    if (r == 0)
        r = await_running(c, deadline);
    if (r == 0)
        r = open_request_queues(c);
    if (r == 0)
        r = enlist(c, o->name != NULL ? o->name : "", o->flags, deadline);
    if (r == 0)
        r = open_reply_queue(c, deadline);
    if (r == 0)
        r = map_segments(c, o->pool_size);
    return r;
}

static void set_patience(struct mqc *c, int poll_usec)
{
    uint64_t longest = poll_usec < 0 ? 0 : (uint64_t)(poll_usec > 0 ? poll_usec : POLL_USEC) * 1000;

    c->to_read = (struct patience){.longest = longest, .credit = 1, .to_skip = 1};
    c->to_send = c->to_confirm = c->to_read;
    c->to_confirm.longest *= CONFIRM_TIMES;
}

int mqc_open(struct mqc **client, const struct mqc_options *options)
{
    static const struct mqc_options none;
    const struct mqc_options *o = options != NULL ? options : &none;
    const char *instance = names_instance(o->instance);
    struct mqc *c;
    int r;

    if (client == NULL)
        return client_fail_plainly(-EINVAL, "mqc_open: no place for the handle was given");
    *client = NULL;
    r = check_options(o, instance);
    if (r < 0)
        return r;
    c = calloc(1, sizeof(*c));
    if (c == NULL)
        return client_fail_plainly(-ENOMEM, "no memory for a handle");
    strcpy(c->instance, instance);
    c->request = c->urgent = c->reply = QUEUE_CLOSED;
    c->segment = c->outbox = c->pool.segment = SEGMENT_CLOSED;
    c->epoll_fd = c->event_fd = c->timer_fd = -1;
    c->publish_only = (o->flags & MQC_PUBLISH_ONLY) != 0;
    set_patience(c, o->poll_usec);
    r = open_all(c, o);
    if (r < 0)
        mqc_close(c);
    else
        *client = c;
    return r;
}
