/* Publishing: checks, room, gathering, confirms.
 *
 * In its stride a batched publish is a comparison of the topic with the last one, a look at the
 * window, and one copy into the envelope that gathers: no system call, no clock, no allocation. */
#include "libclient/client.h"

#include <errno.h>
#include <string.h>

#include "libclient/topic.h"

#define MILLISECOND UINT64_C(1000000)

static int check_topic(struct mqc *c, const char *topic)
{
    size_t size;

    if (topic == NULL)
        return client_fail_plainly(-EINVAL, "no topic was given (NULL)");
    if (c->topic_size > 0 && strcmp(topic, c->topic) == 0)
        return 0;
    size = strlen(topic);
    if (!topic_valid(topic, size))
        return client_fail(-EINVAL,
                           "'%.255s' is not a topic to publish to: 1 to 255 bytes of UTF-8, no + "
                           "and #, no $ at the front "
                           "(@ at the front: a client's name follows)",
                           topic);
    memcpy(c->topic, topic, size + 1);
    c->topic_size = size;
    return 0;
}

int client_begin(struct mqc *c, const struct mqc_publication *p, uint8_t type,
                 struct session_message *m)
{
    int r;

    if (p == NULL)
        return client_fail_plainly(-EINVAL, "no publication was given (NULL)");
    if (p->priority > MQC_MAX_PRIORITY)
        return client_fail(-EINVAL, "priority %u: 0 to %d are possible", p->priority,
                           MQC_MAX_PRIORITY);
    if (p->payload == NULL && p->size > 0)
        return client_fail_plainly(-EINVAL, "a payload with a size, but no place (NULL)");
    r = check_topic(c, p->topic);
    if (r < 0)
        return r;
    *m = (struct session_message){
        .type = type,
        .priority = (uint8_t)p->priority,
        .topic = c->topic,
        .topic_size = (uint8_t)c->topic_size,
        .payload = p->payload,
        .size = p->size,
    };
    return 0;
}

size_t mqc_payload_max(const struct mqc *c, const char *topic)
{
    size_t frame = wire_message_size(topic != NULL ? strlen(topic) : 0, 0);

    if (client_check_process(c) < 0 || frame > c->session.frame_max)
        return 0;
    return c->session.frame_max - frame;
}

/* Wait for room in the window, or for the place of a confirm (rule P5). */
static int await_room(struct mqc *c, const struct session_message *m, bool confirm,
                      uint64_t deadline)
{
    struct session *s = &c->session;
    int r = client_flush(c, deadline);

    for (;;) {
        if (r == 0)
            r = client_drain(c);
        if (r < 0)
            return r;
        if (s->ended != 0)
            return client_over(c);
        if (session_room(s, m, confirm))
            return 0;
        if (deadline == 0)
            return -EAGAIN;
        if (inbox_crowded(&s->inbox))
            return client_fail_plainly(-EDEADLK,
                                       "no room to publish, and no more messages can be kept for "
                                       "this client meanwhile: receive, then publish again");
        r = client_sleep(c, deadline);
    }
}

static int place(struct mqc *c, const struct session_message *m, uint64_t deadline)
{
    struct session *s = &c->session;
    int where = session_place(s, m);
    int r = 0;

    if (where == SESSION_ALONE) {
        session_put_alone(s, m);
        r = client_send(c, &s->alone, deadline);
    } else {
        if (where == SESSION_FLUSH_FIRST)
            r = client_flush(c, deadline);
        if (r == 0)
            session_gather(s, m);
    }
    if (r == 0)
        session_count(s, m);
    return r;
}

static int fail_publish(int error)
{
    switch (error) {
    case -EAGAIN:
        return client_fail_plainly(
            error, "no room to publish just now; try again, or publish without MQC_NOWAIT");
    case -ETIMEDOUT:
        return client_fail_plainly(error, "no room to publish in time");
    default:
        return error; /* has its sentence */
    }
}

int client_publish(struct mqc *c, struct session_message *m, bool confirm, uint64_t deadline)
{
    struct session *s = &c->session;
    size_t frame_size = wire_message_size(m->topic_size, 0);
    int r = 0;

    if (frame_size > s->frame_max || m->size > s->frame_max - frame_size)
        return client_fail(-EMSGSIZE,
                           "a message of %zu bytes for this topic is too large, at most %zu fit",
                           m->size, frame_size > s->frame_max ? 0 : s->frame_max - frame_size);
    m->frame_size = (uint16_t)(frame_size + m->size);
    if (!session_room(s, m, confirm)) {
        r = await_room(c, m, confirm, deadline);
        client_ring(c);
    }
    if (r == 0 && confirm)
        m->number = confirms_wire(s->confirms.next);
    if (r == 0)
        r = place(c, m, deadline);
    if (r == 0 && confirm)
        confirms_take(&s->confirms);
    return r < 0 ? fail_publish(r) : 0;
}

/* Now and a time to live, in nanoseconds; for ever if that is past the end of all clocks. */
static uint64_t expiry(uint64_t ttl_ms)
{
    uint64_t now = client_boottime();

    return ttl_ms < (INT64_MAX - now) / MILLISECOND ? now + ttl_ms * MILLISECOND : 0;
}

int64_t mqc_publish_with(struct mqc *c, const struct mqc_publication *p)
{
    struct session_message m;
    bool confirm;
    uint64_t number;
    int r = client_check(c);

    if (r == 0)
        r = client_begin(c, p, WIRE_PUBLISH, &m);
    if (r < 0)
        return r;
    if ((p->flags & ~(unsigned)(MQC_RETAIN | MQC_CONFIRM | MQC_NOWAIT)) != 0)
        return client_fail(-EINVAL, "unknown flags 0x%x in mqc_publication", p->flags);
    confirm = (p->flags & MQC_CONFIRM) != 0;
    if ((p->flags & MQC_RETAIN) != 0)
        m.flags |= WIRE_F_RETAIN;
    if (confirm)
        m.flags |= WIRE_F_CONFIRM;
    if (p->ttl_ms > 0)
        m.expiry = expiry(p->ttl_ms);
    number = c->session.confirms.next;
    r = client_publish(c, &m, confirm, (p->flags & MQC_NOWAIT) != 0 ? 0 : CLIENT_FOREVER);
    if (r < 0)
        return r;
    return confirm ? (int64_t)number : 0;
}

int mqc_publish(struct mqc *c, const char *topic, const void *payload, size_t size,
                unsigned priority)
{
    const struct mqc_publication p = {
        .topic = topic, .payload = payload, .size = size, .priority = priority};

    return (int)mqc_publish_with(c, &p);
}

int mqc_flush(struct mqc *c)
{
    int r = client_check(c);

    return r < 0 ? r : client_flush(c, CLIENT_FOREVER);
}

int mqc_set_batching(struct mqc *c, int on)
{
    int r = client_check(c);

    if (r == 0 && !on)
        r = client_flush(c, CLIENT_FOREVER);
    if (r == 0)
        c->session.batching = on != 0;
    return r;
}

int mqc_confirm_wait(struct mqc *c, int64_t number, int timeout_ms)
{
    struct session *s;
    uint64_t deadline;
    int outcome, r = client_check_process(c);

    if (r < 0)
        return r;
    s = &c->session;
    deadline = client_deadline(timeout_ms);
    while ((outcome = confirms_look(&s->confirms, number > 0 ? (uint64_t)number : 0)) ==
           CONFIRMS_WAITING) {
        if (inbox_full(&s->inbox))
            return client_fail_plainly(
                -EDEADLK, "too many other messages came before the confirm; receive them first");
        r = client_fetch(c);
        if (r == 0)
            continue;
        if (r == -EAGAIN)
            r = client_check(c);
        if (r == 0)
            r = client_flush(c, deadline);
        if (r == 0)
            r = client_sleep(c, deadline);
        client_ring(c);
        if (r == -ETIMEDOUT)
            return client_fail_plainly(r, "not confirmed in time");
        if (r < 0)
            return r;
    }
    client_ring(c);
    if (outcome == CONFIRMS_UNKNOWN)
        return client_fail(-ENOENT,
                           "%lld is not the number of a publish with confirm, or one that is "
                           "forgotten (the newest %d are kept)",
                           (long long)number, CONFIRMS_KEPT);
    return client_fail_code((uint8_t)outcome, "publish");
}
