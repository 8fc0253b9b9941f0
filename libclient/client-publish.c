/* Publishing: checks, room, gathering, loans, confirms.
 *
 * In its stride a batched publish is a comparison of the topic with the last one, a look at the
 * window, and one copy, into the envelope that gathers or into the pool: no system call, no clock,
 * no allocation. */
#include "libclient/client.h"

#include <errno.h>
#include <string.h>

#include "libclient/topic.h"

#define MILLISECOND UINT64_C(1000000)

/* Payloads above so many bytes go by the pool when frames gather. */
enum { POOLED_FROM = 160 };

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
    (void)topic;
    return client_check_process(c) < 0 ? 0 : client_pool_most(c);
}

/* ---- Room ---- */

/* What a call needs before it can go on. */
struct need {
    const struct session_message *message; /* a place in the window for this; NULL: none */
    bool confirm;                          /* a place for its outcome */
    uint64_t size;                         /* so many bytes of the pool; 0: none */
    struct slots_place place;              /* here they are; size 0: not yet */
};

static bool has_window(struct mqc *c, const struct need *need, bool confirm)
{
    return need->message == NULL || session_room(&c->session, need->message, confirm);
}

/* 0: all of it is there. -EAGAIN, or what client_pool_take() returns. */
static int look_for(struct mqc *c, struct need *need)
{
    if (!has_window(c, need, need->confirm))
        return -EAGAIN;
    return need->size == 0 ? 0 : client_pool_take(c, need->size, &need->place);
}

/* Sleep until some of it may have come. The window's grant comes by the reply queue; what comes
 * back to the pool wakes nobody who has not said that he waits for it. */
static int sleep_for(struct mqc *c, const struct need *need, uint64_t deadline)
{
    return has_window(c, need, need->confirm) ? client_pool_sleep(c, deadline)
                                              : client_sleep(c, deadline);
}

/* Others may wait for what was read here, or handed out, and not freed; and this for them. The
 * broker sees all of that if each says that it waits. Not who waits for an outcome, which always
 * comes, or for a pool that grows by itself; nor who has a deadline, which ends it as well. */
static void say_that_it_waits(struct mqc *c, const struct need *need)
{
    struct session *s = &c->session;

    if (!has_window(c, need, false))
        session_wait(s, false, c->pool.returned);
    else if (has_window(c, need, need->confirm) && client_pool_is_spent(c, need->size))
        session_wait(s, true, c->pool.returned);
    else
        session_wait_over(s);
}

/* Wait for it (rule P5): as long as something may come of it. That ends where no more can be read,
 * since then others may come to wait for this client; and where they do. */
static int await(struct mqc *c, struct need *need, uint64_t deadline)
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
        r = look_for(c, need);
        if (r != -EAGAIN || deadline == 0)
            return r;
        if (inbox_crowded(&s->inbox))
            return client_fail_plainly(-EDEADLK,
                                       "no room to publish, and no more messages can be kept for "
                                       "this client meanwhile: receive, then publish again");
        if (session_is_stuck(s))
            return client_fail_plainly(-EDEADLK,
                                       "no room to publish, and none will come before this client "
                                       "has read, and freed, what it has received: receive, then "
                                       "publish again");
        if (deadline == CLIENT_FOREVER)
            say_that_it_waits(c, need);
        r = sleep_for(c, need, deadline);
    }
}

static int find_room(struct mqc *c, struct need *need, uint64_t deadline)
{
    int r = look_for(c, need);

    if (r == -EAGAIN) {
        r = await(c, need, deadline);
        session_wait_over(&c->session);
        client_ring(c);
    }
    return r;
}

/* ---- Publish ---- */

/* Does this payload go by the pool? What no frame can hold must; and where frames gather it is the
 * faster way for any that would leave room for only a few in an envelope. */
static bool goes_by_pool(const struct session *s, const struct session_message *m)
{
    size_t rest = wire_message_size(m->topic_size, 0);

    return m->size > s->frame_max || rest > s->frame_max - m->size ||
           (s->batching && m->size > POOLED_FROM);
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

static int fail_size(const struct mqc *c, size_t size)
{
    return client_fail(-EMSGSIZE,
                       "a message of %zu bytes is too large, at most %zu fit; pool_max of the "
                       "broker's configuration sets the limit",
                       size, (size_t)client_pool_most(c));
}

static struct wire_slot slot_of(const struct mqc *c, const struct slots_place *place, size_t size)
{
    return (struct wire_slot){.pool = c->pool.nonce,
                              .offset = (uint32_t)(place->offset / WIRE_SLOT_UNIT),
                              .size = (uint32_t)size,
                              .name = place->generation};
}

/* The rest of the way, for a message whose payload lies in the pool already, or goes in its frame:
 * what else it needs stands in `need`. */
static int publish(struct mqc *c, struct session_message *m, struct need *need, uint64_t deadline)
{
    struct session *s = &c->session;
    int r = find_room(c, need, deadline);

    if (r == 0 && need->size > 0) {
        memcpy(client_pool_at(c, need->place.offset), m->payload, m->size);
        m->slot = slot_of(c, &need->place, m->size);
    }
    if (r == 0 && need->confirm)
        m->number = confirms_wire(s->confirms.next);
    if (r == 0)
        r = place(c, m, deadline);
    if (r == 0 && need->confirm)
        confirms_take(&s->confirms);
    if (r < 0 && need->place.size > 0)
        client_pool_give(c, &need->place);
    return r < 0 ? fail_publish(r) : 0;
}

int client_publish(struct mqc *c, struct session_message *m, bool confirm, uint64_t deadline)
{
    struct need need = {.message = m, .confirm = confirm};
    bool pooled = m->slot.size > 0;

    if (!pooled && goes_by_pool(&c->session, m)) {
        if (m->size > client_pool_most(c))
            return fail_size(c, m->size);
        need.size = m->size;
        pooled = true;
    }
    m->frame_size = (uint16_t)(pooled ? wire_pooled_size(m->topic_size)
                                      : wire_message_size(m->topic_size, m->size));
    if (m->frame_size > c->session.frame_max)
        return client_fail_plainly(-EMSGSIZE, "not even the topic fits a frame of this broker");
    return publish(c, m, &need, deadline);
}

/* Now and a time to live, in nanoseconds; for ever if that is past the end of all clocks. */
static uint64_t expiry(uint64_t ttl_ms)
{
    uint64_t now = client_boottime();

    return ttl_ms < (INT64_MAX - now) / MILLISECOND ? now + ttl_ms * MILLISECOND : 0;
}

/* A publication that is complete but for where its payload is. */
static int64_t publish_checked(struct mqc *c, const struct mqc_publication *p,
                               struct session_message *m)
{
    bool confirm = (p->flags & MQC_CONFIRM) != 0;
    uint64_t number = c->session.confirms.next;
    int r;

    if ((p->flags & ~(unsigned)(MQC_RETAIN | MQC_CONFIRM | MQC_NOWAIT)) != 0)
        return client_fail(-EINVAL, "unknown flags 0x%x in mqc_publication", p->flags);
    if ((p->flags & MQC_RETAIN) != 0)
        m->flags |= WIRE_F_RETAIN;
    if (confirm)
        m->flags |= WIRE_F_CONFIRM;
    if (p->ttl_ms > 0)
        m->expiry = expiry(p->ttl_ms);
    r = client_publish(c, m, confirm, (p->flags & MQC_NOWAIT) != 0 ? 0 : CLIENT_FOREVER);
    if (r < 0)
        return r;
    return confirm ? (int64_t)number : 0;
}

int64_t mqc_publish_with(struct mqc *c, const struct mqc_publication *p)
{
    struct session_message m;
    int r = client_check(c);

    if (r == 0)
        r = client_begin(c, p, WIRE_PUBLISH, &m);
    return r < 0 ? r : publish_checked(c, p, &m);
}

int mqc_publish(struct mqc *c, const char *topic, const void *payload, size_t size,
                unsigned priority)
{
    const struct mqc_publication p = {
        .topic = topic, .payload = payload, .size = size, .priority = priority};

    return (int)mqc_publish_with(c, &p);
}

/* ---- Loans ---- */

enum { LOAN = 1 }; /* tag of a place that the user has */

int mqc_loan(struct mqc *c, void **payload, size_t size, unsigned flags)
{
    struct need need = {.size = size};
    int r = client_check(c);

    if (r < 0)
        return r;
    if (payload == NULL || size == 0)
        return client_fail_plainly(-EINVAL, "mqc_loan: a size above 0 and a place for the pointer "
                                            "are needed");
    if ((flags & ~(unsigned)MQC_NOWAIT) != 0)
        return client_fail(-EINVAL, "mqc_loan: unknown flags 0x%x", flags);
    if (size > client_pool_most(c))
        return fail_size(c, size);
    r = find_room(c, &need, (flags & MQC_NOWAIT) != 0 ? 0 : CLIENT_FOREVER);
    if (r < 0)
        return fail_publish(r);
    slots_tag(&c->pool.slots, need.place.offset, LOAN);
    *payload = client_pool_at(c, need.place.offset);
    return 0;
}

/* The loan that begins here. */
static int find_loan(const struct mqc *c, const void *payload, struct slots_place *place)
{
    uintptr_t offset = (uintptr_t)payload - (uintptr_t)c->pool.segment.base;

    if (offset < slots_end(&c->pool.slots) && slots_find(&c->pool.slots, offset, place) &&
        place->tag == LOAN)
        return 0;
    return client_fail_plainly(-EINVAL, "that is not the beginning of a loan of this handle");
}

int64_t mqc_publish_loan(struct mqc *c, const struct mqc_publication *p)
{
    struct slots_place place;
    struct session_message m;
    int64_t r = client_check(c);

    if (r == 0)
        r = client_begin(c, p, WIRE_PUBLISH, &m);
    if (r == 0)
        r = find_loan(c, p->payload, &place);
    if (r < 0)
        return r;
    if (p->size > place.size || p->size > UINT32_MAX)
        return client_fail(-EINVAL, "a payload of %zu bytes, but %llu were lent", p->size,
                           (unsigned long long)place.size);
    if (p->size > 0)
        m.slot = slot_of(c, &place, p->size);
    r = publish_checked(c, p, &m);
    if (r < 0)
        return r;
    if (p->size > 0)
        slots_tag(&c->pool.slots, place.offset, 0);
    else
        client_pool_give(c, &place);
    return r;
}

int mqc_loan_return(struct mqc *c, void *payload)
{
    struct slots_place place;
    int r = client_check_process(c);

    if (r == 0)
        r = find_loan(c, payload, &place);
    if (r == 0)
        client_pool_give(c, &place);
    return r;
}

/* ---- Batching and confirms ---- */

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
            r = client_sleep_for_confirm(c, deadline);
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
