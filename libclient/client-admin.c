/* Administration: what is done to groups, and to other clients. The broker decides whether there is
 * such a one; here it is only seen to that the name fits a frame. */
#include "libclient/client.h"

#include <errno.h>
#include <string.h>

static int64_t administrate(struct mqc *c, uint16_t verb, const char *whom)
{
    struct client_call call;
    uint32_t count;
    size_t size;
    int r = client_check(c);

    if (r < 0)
        return r;
    if (whom == NULL)
        return client_fail_plainly(-EINVAL, "no group or client was named (NULL)");
    size = strlen(whom);
    if (size == 0 || size > WIRE_TOPIC_MAX)
        return client_fail(-EINVAL, "'%.80s' is not the name of a group or a client", whom);
    r = client_call_begin(c, &call);
    if (r < 0)
        return r;
    session_put_text(&c->session, WIRE_ADMIN, verb, call.number, whom, size);
    r = client_call_end(c, &call, whom, &count);
    return r < 0 ? r : (int64_t)count;
}

int64_t mqc_purge(struct mqc *c, const char *group)
{
    return administrate(c, WIRE_V_PURGE, group);
}

int64_t mqc_requeue(struct mqc *c, const char *group)
{
    return administrate(c, WIRE_V_REQUEUE, group);
}

int64_t mqc_remove_group(struct mqc *c, const char *group)
{
    return administrate(c, WIRE_V_REMOVE, group);
}

int64_t mqc_kick(struct mqc *c, const char *who)
{
    return administrate(c, WIRE_V_KICK, who);
}
