/* Groups: join, leave, and what became of the messages that came out of them.
 *
 * A decision about a message is a name that is noted (libclient/acks); who makes the calls that
 * wait sends them. It is never answered, so nothing waits for it, and what does not reach the
 * broker does no harm: the message comes back. */
#include "libclient/client.h"

#include <errno.h>
#include <string.h>

#include "libclient/topic.h"

/* Is it a group's name, or with "$dead/" before it? */
static int check_group(const char *group, size_t *size)
{
    const size_t prefix = strlen(WIRE_DEAD_PREFIX);
    const char *name = group;

    if (group == NULL)
        return client_fail_plainly(-EINVAL, "no group was named (NULL)");
    if (strncmp(group, WIRE_DEAD_PREFIX, prefix) == 0)
        name += prefix;
    *size = strlen(group);
    if (topic_name_valid(name, strlen(name)))
        return 0;
    return client_fail(-EINVAL,
                       "'%.80s' is not the name of a group: 1 to %d bytes of UTF-8 without / + # @ "
                       "$ and control characters, " WIRE_DEAD_PREFIX
                       " before it for its dead letters",
                       group, WIRE_NAME_MAX);
}

static int check_membership(const struct mqc *c, const char *group, size_t *size)
{
    int r = client_check(c);

    if (r < 0)
        return r;
    if (c->publish_only)
        return client_fail_plainly(
            -EINVAL,
            "this client was opened with MQC_PUBLISH_ONLY and joins no group; open it without");
    return check_group(group, size);
}

static int check_options(const struct mqc_group_options *o)
{
    if ((o->flags & ~(unsigned)(MQC_DURABLE | MQC_DEAD_EXPIRED)) != 0)
        return client_fail(-EINVAL, "mqc_join: unknown flags 0x%x", o->flags);
    if (o->prefetch > UINT16_MAX)
        return client_fail(-EINVAL, "mqc_join: a prefetch of %u; 0 to %d are possible", o->prefetch,
                           UINT16_MAX);
    if (o->delivery_limit > UINT8_MAX)
        return client_fail(-EINVAL, "mqc_join: a delivery limit of %u; 0 to %d are possible",
                           o->delivery_limit, UINT8_MAX);
    return 0;
}

static uint16_t wire_flags(unsigned flags)
{
    return (uint16_t)(((flags & MQC_DURABLE) != 0 ? WIRE_F_DURABLE : 0) |
                      ((flags & MQC_DEAD_EXPIRED) != 0 ? WIRE_F_DEAD_EXPIRED : 0));
}

int mqc_join(struct mqc *c, const char *group, const char *filter,
             const struct mqc_group_options *options)
{
    static const struct mqc_group_options defaults;
    const struct mqc_group_options *o = options != NULL ? options : &defaults;
    struct client_call call;
    struct wire_frame join;
    size_t group_size = 0, filter_size = filter != NULL ? strlen(filter) : 0;
    int r = check_membership(c, group, &group_size);

    if (r == 0)
        r = check_options(o);
    if (r == 0 && filter != NULL)
        r = client_check_filter(filter, filter_size);
    if (r == 0)
        r = client_call_begin(c, &call);
    if (r < 0)
        return r;
    join = (struct wire_frame){
        .number = call.number,
        .flags = wire_flags(o->flags),
        .text = filter,
        .text_size = (uint8_t)filter_size,
        .group = group,
        .group_size = (uint8_t)group_size,
        .prefetch = (uint16_t)o->prefetch,
        .limit = (uint8_t)o->delivery_limit,
        .timeout = o->ack_timeout_ms,
    };
    session_put_join(&c->session, &join);
    return client_call_end(c, &call, group, NULL);
}

int mqc_leave(struct mqc *c, const char *group)
{
    struct client_call call;
    size_t size = 0;
    int r = check_membership(c, group, &size);

    if (r == 0)
        r = client_call_begin(c, &call);
    if (r < 0)
        return r;
    session_put_text(&c->session, WIRE_UNSUBSCRIBE, WIRE_F_GROUP, call.number, group, size);
    return client_call_end(c, &call, group, NULL);
}

/* ---- Decisions ---- */

static int decide(struct mqc *c, struct mqc_message *message, enum acks_decision decision,
                  unsigned delay_ms)
{
    struct acks *acks;
    uint64_t now;
    int r = client_check(c);

    if (r < 0)
        return r;
    if (message == NULL || !message->acknowledge)
        return client_fail_plainly(-EINVAL, "that message owes no acknowledgement, or no longer");
    acks = &c->session.acks;
    if (acks_full(acks))
        r = client_flush(c, CLIENT_FOREVER);
    if (r < 0)
        return r;
    acks_add(acks, message->number, decision, delay_ms);
    message->acknowledge = 0;
    now = client_monotonic();
    if (acks_due(acks, now))
        client_flush(c, 0); /* what there is no room for stays gathered */
    if (acks->n > 0)
        client_wake_within(c, now, ACKS_GATHER_NS);
    return 0;
}

int mqc_ack(struct mqc *c, struct mqc_message *message)
{
    return decide(c, message, ACKS_DONE, 0);
}

int mqc_nack(struct mqc *c, struct mqc_message *message, unsigned delay_ms)
{
    return decide(c, message, ACKS_AGAIN, delay_ms);
}

int mqc_reject(struct mqc *c, struct mqc_message *message)
{
    return decide(c, message, ACKS_DEAD, 0);
}
