/* Receiving: the three ways that users of POSIX queues know (blocking, non-blocking, notified), and
 * a descriptor for the caller's loop. */
#include "libclient/client.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

void client_fill(struct mqc_message *message, const struct wire_frame *frame,
                 struct inbox_batch *batch, const struct client_payload *payload)
{
    bool pooled = (frame->flags & WIRE_F_POOLED) != 0;
    unsigned flags = 0;

    if ((frame->flags & WIRE_F_RETAIN) != 0)
        flags |= MQC_M_RETAINED;
    if ((frame->flags & WIRE_F_REQUEST) != 0)
        flags |= MQC_M_REQUEST;
    if ((frame->flags & WIRE_F_REPLY) != 0)
        flags |= MQC_M_REPLY;
    *message = (struct mqc_message){
        .topic = frame->text,
        .payload = pooled ? payload->bytes : frame->payload,
        .size = frame->payload_size,
        .priority = frame->priority,
        .flags = flags,
        .number = frame->number,
        .acknowledge = (frame->flags & WIRE_F_ACK) != 0,
        .attempt = frame->tries + 1u,
        .owner = batch,
        .lender = pooled ? payload->map : NULL,
        .held = pooled ? frame->slot.name : 0,
    };
}

static void fill_failed(struct mqc *c, struct mqc_message *message)
{
    struct request request;

    requests_next_failed(&c->session.requests, &request);
    *message = (struct mqc_message){
        .topic = "",
        .payload = "",
        .priority = request.priority,
        .flags = MQC_M_FAILED,
        .attempt = 1,
        .number = request.number,
        .error = client_code_error(request.code),
    };
}

enum handing {
    HANDED_OUT,
    HANDED_NOTHING, /* there was no message after all */
    HANDED_LATER,   /* its payload is being copied */
};

/* The next message of the inbox. The clock is read only for one that can expire. Returns an enum
 * handing. */
static int hand_out(struct mqc *c, struct mqc_message *message)
{
    struct client_payload payload;
    struct wire_frame frame;

    if (!session_peek(&c->session, &frame))
        return HANDED_NOTHING;
    if (frame.expiry != 0 && frame.expiry <= client_boottime()) {
        session_expire(&c->session, &frame);
        return HANDED_NOTHING;
    }
    if ((frame.flags & WIRE_F_POOLED) != 0) {
        switch (client_find_payload(c, &frame, frame.priority, &payload)) {
        case CLIENT_COPYING:
            return HANDED_LATER;
        case CLIENT_LOST:
            session_lose(&c->session, &frame);
            return HANDED_NOTHING;
        }
    }
    client_fill(message, &frame, session_hand_out(&c->session, &frame), &payload);
    return HANDED_OUT;
}

/* Something higher is on its way (P1): give the broker time to send it. */
static void linger(struct mqc *c)
{
    struct pollfd readable = {.fd = c->reply.mqd, .events = POLLIN};
    struct timespec span = {0};
    uint64_t now = client_monotonic();
    bool sleep;
    uint64_t rest = session_linger(&c->session, now, &sleep);

    if (rest == 0)
        return;
    if (!sleep && !client_is_crowded(c, now)) {
        client_step_aside(c, &now);
        return;
    }
    span.tv_nsec = (long)rest;
    if (ppoll(&readable, 1, &span, NULL) > 0)
        session_stirred(&c->session);
}

/* Hand out the next message in order, without waiting. 0; -EAGAIN: there is none. */
static int take(struct mqc *c, struct mqc_message *message)
{
    struct session *s = &c->session;
    int r;

    c->copy_due = 0;
    for (;;) {
        switch ((enum session_step)session_next(s)) {
        case SESSION_MESSAGE:
            r = hand_out(c, message);
            if (r == HANDED_OUT)
                return 0;
            if (r == HANDED_LATER && (r = client_fetch_meanwhile(c)) < 0)
                return r;
            c->copy_due = 0;
            break;
        case SESSION_FAILED:
            fill_failed(c, message);
            return 0;
        case SESSION_FETCH:
            r = client_fetch(c);
            if (r < 0 && (r != -EAGAIN || !session_has_something(s)))
                return r;
            break;
        case SESSION_LINGER:
            linger(c);
            break;
        case SESSION_OVER:
            return client_over(c);
        }
    }
}

/* Nothing stands anywhere: the descriptor says so too. */
static void unring(struct mqc *c)
{
    uint64_t count;

    if (c->rung && read(c->event_fd, &count, sizeof(count)) == sizeof(count))
        c->rung = false;
}

/* Until when to sleep: requests that run out of time end a wait, so that they are told of even if
 * the broker was killed. */
static uint64_t wake_up(const struct mqc *c, uint64_t deadline)
{
    const struct requests *requests = &c->session.requests;
    uint64_t now, moment;

    if (requests->n_open == 0)
        return deadline;
    now = client_boottime();
    moment = client_monotonic() + (requests->earliest > now ? requests->earliest - now : 0);
    return moment < deadline ? moment : deadline;
}

static bool requests_ran_out(struct mqc *c)
{
    struct requests *requests = &c->session.requests;

    return requests->n_open > 0 && requests_expire(requests, client_boottime());
}

/* The next moment at which something is to be done that nobody brings; 0: there is none. */
static uint64_t next_moment(const struct mqc *c)
{
    uint64_t due = client_maps_due(c);
    uint64_t acks_due;

    if (c->copy_due != 0 && c->copy_due < due)
        due = c->copy_due;
    if (c->session.acks.n > 0) {
        acks_due = client_monotonic() + ACKS_GATHER_NS;
        if (acks_due < due)
            due = acks_due;
    }
    return due == CLIENT_FOREVER ? 0 : due;
}

/* Wake the caller's loop for what comes by itself: a copy that has to be asked for again, idle
 * mappings to be looked after, decisions that gather. */
static void set_timer(struct mqc *c)
{
    uint64_t due;
    struct itimerspec moment = {0};

    if (c->timer_fd < 0)
        return;
    due = next_moment(c);
    if (due == c->timer_due)
        return;
    moment.it_value.tv_sec = (time_t)(due / 1000000000);
    moment.it_value.tv_nsec = (long)(due % 1000000000);
    if (timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &moment, NULL) == 0)
        c->timer_due = due;
}

void client_wake_within(struct mqc *c, uint64_t now, uint64_t span)
{
    if (c->timer_fd >= 0 && (c->timer_due == 0 || c->timer_due > now + span))
        set_timer(c);
}

/* Nothing stands, and the caller does not wait: what is gathered goes out as far as there is room.
 */
static int give_up(struct mqc *c, struct mqc_message *message)
{
    if (requests_ran_out(c))
        return take(c, message);
    unring(c);
    client_report(c);
    client_flush(c, 0);
    client_maps_tend(c);
    set_timer(c);
    return client_fail_plainly(-EAGAIN, "no message stands");
}

static int wait_for_one(struct mqc *c, struct mqc_message *message, uint64_t deadline)
{
    for (;;) {
        bool late;
        int r;

        unring(c);
        r = client_flush(c, deadline);
        if (r == 0 && !requests_ran_out(c)) {
            if (!session_has_something(&c->session))
                r = client_sleep(c, wake_up(c, deadline));
            else if (c->copy_due != 0)
                r = client_sleep_meanwhile(c, wake_up(c, deadline));
        }
        if (r < 0 && r != -ETIMEDOUT)
            return r;
        late = r == -ETIMEDOUT && client_monotonic() >= deadline;
        r = take(c, message);
        if (r != -EAGAIN)
            return r;
        if (late)
            return client_fail_plainly(-ETIMEDOUT, "no message came in time");
    }
}

int mqc_receive(struct mqc *c, struct mqc_message *message, int timeout_ms)
{
    struct session *s;
    int r = client_check_process(c);

    if (r < 0)
        return r;
    if (message == NULL)
        return client_fail_plainly(-EINVAL, "mqc_receive: no place for a message was given");
    s = &c->session;
    /* With an empty inbox, and nothing in the queue as far as the board says, the wait is the look.
     */
    if (timeout_ms == 0 || session_has_something(s) || s->ended != 0 || !session_quiet(s)) {
        r = take(c, message);
        if (r != -EAGAIN)
            return r;
    }
    return timeout_ms == 0 ? give_up(c, message)
                           : wait_for_one(c, message, client_deadline(timeout_ms));
}

static struct mqc *handle_of(const struct inbox_batch *batch)
{
    return (struct mqc *)((char *)batch->inbox - offsetof(struct mqc, session.inbox));
}

/* Its payload lies in a pool. The broker is told only when the last message that was read has been
 * freed: until then more names are likely to come, and while it waits for them it looks by itself
 * often enough. A forked child has no part in this (rule L4). */
static void give_back(const struct mqc_message *message)
{
    struct mqc *c = handle_of(message->owner);

    client_let_go(c, message->lender);
    if (*c->ours == 0)
        return;
    session_release(&c->session, message->held);
    if (c->session.inbox.map == 0)
        client_nudge(c, BOARD_LISTENING);
}

void mqc_message_free(struct mqc_message *message)
{
    if (message == NULL || message->owner == NULL)
        return;
    if (message->held != 0)
        give_back(message);
    inbox_release(message->owner);
    message->owner = NULL;
}

/* ---- The caller's own loop ---- */

static void close_descriptor(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int make_descriptor(struct mqc *c)
{
    struct epoll_event readable = {.events = EPOLLIN};
    int r;

    c->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (c->event_fd >= 0)
        c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (c->timer_fd >= 0)
        c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (c->epoll_fd >= 0 && epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->event_fd, &readable) == 0 &&
        epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->timer_fd, &readable) == 0 &&
        epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->reply.mqd, &readable) == 0) {
        client_ring(c);
        return 0;
    }
    r = -errno;
    close_descriptor(&c->epoll_fd);
    close_descriptor(&c->timer_fd);
    close_descriptor(&c->event_fd);
    return client_fail_call(r, "cannot make a descriptor");
}

int mqc_fd(struct mqc *c)
{
    int r = client_check_process(c);

    if (r == 0 && c->epoll_fd < 0)
        r = make_descriptor(c);
    return r < 0 ? r : c->epoll_fd;
}

int mqc_notify(struct mqc *c, const struct sigevent *event)
{
    int r = client_check_process(c);

    if (r < 0)
        return r;
    if (mq_notify(c->reply.mqd, event) == 0)
        return 0;
    if (errno == EBUSY)
        return client_fail_plainly(
            -EBUSY, "somebody is registered for a notification of this handle already");
    return client_fail_call(-errno, "cannot register for a notification");
}
