/* The calls that wait for an answer: subscribe, request; and the reply.
 *
 * One call waits at a time. What else arrives meanwhile stays in the inbox; the answer is found in
 * whatever batch it comes. */
#include "libclient/client.h"

#include <errno.h>
#include <string.h>

#include "libclient/topic.h"

enum { ANSWER_MS = 5000 }; /* for the broker's answer to a subscription */

#define MILLISECOND UINT64_C(1000000)

/* ---- Subscribe ---- */

static int fail_unanswered(const struct mqc *c)
{
    return client_fail(
        -ETIMEDOUT,
        "broker '%s' did not answer within %d s; mqstat --instance %s shows what it does",
        c->instance, ANSWER_MS / 1000, c->instance);
}

int client_call_begin(struct mqc *c, struct client_call *call)
{
    int r;

    call->deadline = client_deadline(ANSWER_MS);
    r = client_flush(c, call->deadline);
    if (r == -ETIMEDOUT)
        return fail_unanswered(c);
    call->number = requests_open_call(&c->session.requests, false);
    return r;
}

int client_call_end(struct mqc *c, const struct client_call *call, const char *what,
                    uint32_t *count)
{
    struct session *s = &c->session;
    struct request answered;
    int r = client_send(c, &s->alone, call->deadline);

    if (r == 0)
        r = client_await_call(c, call->deadline);
    answered = *requests_call(&s->requests);
    session_end_call(s);
    client_ring(c);
    if (r == -ETIMEDOUT)
        return fail_unanswered(c);
    if (r == 0 && count != NULL)
        *count = answered.count;
    return r < 0 ? r : client_fail_code(answered.code, what);
}

int client_check_filter(const char *filter, size_t size)
{
    if (topic_filter_valid(filter, size))
        return 0;
    return client_fail(-EINVAL,
                       "'%.255s' is not a topic filter: 1 to 255 bytes of UTF-8, + and # each "
                       "alone in their level, # last",
                       filter);
}

static int subscription(struct mqc *c, uint8_t type, uint16_t flags, const char *filter)
{
    struct client_call call;
    int r = client_check(c);
    size_t size;

    if (r < 0)
        return r;
    if (filter == NULL)
        return client_fail_plainly(-EINVAL, "no topic filter was given (NULL)");
    if (c->publish_only)
        return client_fail_plainly(
            -EINVAL,
            "this client was opened with MQC_PUBLISH_ONLY and cannot subscribe; open it without");
    size = strlen(filter);
    r = client_check_filter(filter, size);
    if (r == 0)
        r = client_call_begin(c, &call);
    if (r < 0)
        return r;
    session_put_text(&c->session, type, flags, call.number, filter, size);
    return client_call_end(c, &call, filter, NULL);
}

int mqc_subscribe(struct mqc *c, const char *filter, unsigned flags)
{
    if ((flags & ~(unsigned)MQC_NO_RETAINED) != 0)
        return client_fail(-EINVAL, "mqc_subscribe: unknown flags 0x%x", flags);
    return subscription(c, WIRE_SUBSCRIBE, flags & MQC_NO_RETAINED ? WIRE_F_NO_RETAINED : 0,
                        filter);
}

int mqc_unsubscribe(struct mqc *c, const char *filter)
{
    return subscription(c, WIRE_UNSUBSCRIBE, 0, filter);
}

/* ---- Request ---- */

/* A frame of a request, complete but for its number. The timeout is absolute in it: the broker
 * answers when it has passed. */
static int begin_request(struct mqc *c, const struct mqc_publication *p, int timeout_ms,
                         struct session_message *m)
{
    int r = client_check(c);

    if (r == 0)
        r = client_begin(c, p, WIRE_REQUEST, m);
    if (r < 0)
        return r;
    if ((p->flags & ~(unsigned)MQC_NOWAIT) != 0)
        return client_fail(-EINVAL, "flags 0x%x do not go with a request", p->flags);
    if (timeout_ms <= 0)
        return client_fail(-EINVAL, "a request needs a timeout above 0, not %d", timeout_ms);
    m->expiry = client_boottime() + (uint64_t)timeout_ms * MILLISECOND;
    return 0;
}

int64_t mqc_request_send(struct mqc *c, const struct mqc_publication *p, int timeout_ms)
{
    struct requests *requests;
    struct session_message m;
    uint32_t number;
    int r = begin_request(c, p, timeout_ms, &m);

    if (r < 0)
        return r;
    requests = &c->session.requests;
    number = requests_open(requests, m.expiry, m.priority);
    if (number == 0)
        return client_fail(
            -EAGAIN, "%d requests are open, no more are possible; receive their replies first",
            REQUESTS_MAX);
    m.number = number;
    r = client_publish(c, &m, false,
                       (p->flags & MQC_NOWAIT) != 0 ? 0 : client_deadline(timeout_ms));
    if (r == 0)
        return (int64_t)number;
    requests_close(requests, requests_find(requests, number));
    return r;
}

/* The reply has come; its payload may have to be copied. */
static int await_payload(struct mqc *c, struct client_payload *payload, uint64_t deadline)
{
    int r, outcome;

    while ((outcome = client_find_payload(c, &c->session.reply, FETCHES_CALL, payload)) ==
           CLIENT_COPYING) {
        r = client_fetch_meanwhile(c);
        if (r == -EAGAIN)
            r = client_sleep_meanwhile(c, deadline);
        if (r < 0)
            return r;
    }
    return outcome == CLIENT_READY ? 0 : client_fail_code(WIRE_C_NO_COPY, "reply");
}

static int await_reply(struct mqc *c, struct mqc_message *reply, uint64_t deadline)
{
    struct session *s = &c->session;
    struct client_payload payload = {0};
    int r = client_flush(c, deadline);

    if (r == 0)
        r = client_await_call(c, deadline);
    if (r == 0 && s->reply_batch != NULL && (s->reply.flags & WIRE_F_POOLED) != 0)
        r = await_payload(c, &payload, deadline);
    if (r == -ETIMEDOUT)
        return client_fail_code(WIRE_C_TIMEOUT, "request");
    if (r < 0)
        return r;
    if (s->reply_batch == NULL)
        return client_fail_code(requests_call(&s->requests)->code, "request");
    client_fill(reply, &s->reply, s->reply_batch, &payload);
    s->reply_batch = NULL; /* its hold is the message's now */
    return 0;
}

int mqc_request(struct mqc *c, const struct mqc_publication *p, struct mqc_message *reply,
                int timeout_ms)
{
    struct session_message m;
    uint64_t deadline;
    int r = begin_request(c, p, timeout_ms, &m);

    if (r < 0)
        return r;
    if (reply == NULL)
        return client_fail_plainly(-EINVAL, "mqc_request: no place for the reply was given");
    deadline = client_deadline(timeout_ms);
    m.number = requests_open_call(&c->session.requests, true);
    r = client_publish(c, &m, false, (p->flags & MQC_NOWAIT) != 0 ? 0 : deadline);
    if (r == 0)
        r = await_reply(c, reply, deadline);
    session_end_call(&c->session);
    client_ring(c);
    return r;
}

int mqc_reply(struct mqc *c, const struct mqc_message *request, const void *payload, size_t size)
{
    struct session_message m;
    int r = client_check(c);

    if (r < 0)
        return r;
    if (request == NULL || (request->flags & MQC_M_REQUEST) == 0)
        return client_fail_plainly(-EINVAL, "mqc_reply: that message asks for no reply");
    if (payload == NULL && size > 0)
        return client_fail_plainly(-EINVAL, "a payload with a size, but no place (NULL)");
    m = (struct session_message){
        .type = WIRE_REPLY,
        .priority = (uint8_t)request->priority,
        .topic = "",
        .payload = payload,
        .size = size,
        .number = request->number,
    };
    return client_publish(c, &m, false, CLIENT_FOREVER);
}
