/* The will: a publication that the broker keeps, and makes when this client ends without a goodbye.
 * It lies in the broker's memory as a whole, since the pool of a client that died may be gone. */
#include "libclient/client.h"

#include <errno.h>

static const struct session_message no_will = {
    .type = WIRE_WILL,
    .topic = "",
    .frame_size = WIRE_MESSAGE_SIZE + 1,
};

static int begin_will(struct mqc *c, const struct mqc_publication *will, struct session_message *m)
{
    int r = client_begin(c, will, WIRE_WILL, m);
    size_t rest;

    if (r < 0)
        return r;
    if ((will->flags & ~(unsigned)MQC_RETAIN) != 0)
        return client_fail(-EINVAL, "flags 0x%x do not go with a will", will->flags);
    if (will->ttl_ms != 0)
        return client_fail_plainly(-EINVAL, "a will has no time to live: nobody knows its moment");
    rest = wire_message_size(m->topic_size, 0);
    if (m->size > c->session.frame_max || rest > c->session.frame_max - m->size)
        return client_fail(
            -EMSGSIZE, "a will of %zu bytes is too large: with its topic %u fit a queue message",
            m->size, c->session.frame_max - WIRE_MESSAGE_SIZE - 1);
    m->frame_size = (uint16_t)wire_message_size(m->topic_size, m->size);
    if ((will->flags & MQC_RETAIN) != 0)
        m->flags |= WIRE_F_RETAIN;
    return 0;
}

int mqc_set_will(struct mqc *c, const struct mqc_publication *will)
{
    struct session_message m = no_will;
    struct client_call call;
    int r = client_check(c);

    if (r == 0 && will != NULL && will->topic != NULL)
        r = begin_will(c, will, &m);
    if (r == 0)
        r = client_call_begin(c, &call);
    if (r < 0)
        return r;
    m.number = call.number;
    session_put_will(&c->session, &m);
    return client_call_end(c, &call, "will", NULL);
}
