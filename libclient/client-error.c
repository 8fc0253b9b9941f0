/* Sentences: what was wrong, where, and what to do.
 *
 * The broker sends codes and numbers; the words are made here, so that a refusal fits the narrowest
 * queue and each language binding can have its own. A sentence belongs to the thread. What can fail
 * in every turn of a caller's loop (nothing to receive, no room) points at a constant instead of
 * being composed. */
#include "libclient/client.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char composed[512];
static _Thread_local const char *sentence = "no call has failed in this thread";

const char *mqc_last_error(void)
{
    return sentence;
}

int client_fail(int error, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(composed, sizeof(composed), format, arguments);
    va_end(arguments);
    sentence = composed;
    return error;
}

int client_fail_plainly(int error, const char *words)
{
    sentence = words;
    return error;
}

int client_fail_call(int error, const char *what)
{
    char buffer[96];

    return client_fail(error, "%s: %s", what, strerror_r(-error, buffer, sizeof(buffer)));
}

int client_code_error(uint8_t code)
{
    switch (code) {
    case WIRE_C_OK:
        return 0;
    case WIRE_C_NO_SUBSCRIBER:
    case WIRE_C_NOT_SUBSCRIBED:
    case WIRE_C_NO_GROUP:
        return -ENOENT;
    case WIRE_C_PEER_DIED:
        return -ECONNRESET;
    case WIRE_C_TIMEOUT:
        return -ETIMEDOUT;
    case WIRE_C_WINDOW:
    case WIRE_C_STORE_FULL:
    case WIRE_C_DROPPED:
    case WIRE_C_NO_COPY:
        return -ENOBUFS;
    case WIRE_C_BAD_TOPIC:
    case WIRE_C_BAD_FILTER:
    case WIRE_C_PUBLISH_ONLY:
    case WIRE_C_BAD_GROUP:
        return -EINVAL;
    case WIRE_C_TOO_MANY_FILTERS:
    case WIRE_C_RETAINED_FULL:
    case WIRE_C_GROUP_FULL:
    case WIRE_C_JOURNAL_FULL:
        return -ENOSPC;
    case WIRE_C_GROUP_DIFFERS:
        return -EEXIST;
    case WIRE_C_GROUPS_FULL:
        return -ENFILE;
    case WIRE_C_NO_JOURNAL:
        return -EOPNOTSUPP;
    case WIRE_C_NO_SESSION:
        return -ESRCH;
    case WIRE_C_JOURNAL_ERROR:
        return -EIO;
    default:
        return -EPROTO;
    }
}

static const char *code_sentence(uint8_t code)
{
    switch (code) {
    case WIRE_C_NO_SUBSCRIBER:
        return "nobody subscribes to it, or has that name";
    case WIRE_C_NOT_SUBSCRIBED:
        return "there is no such subscription, or this client is not in that group";
    case WIRE_C_PEER_DIED:
        return "the client that was to answer has gone; ask again";
    case WIRE_C_TIMEOUT:
        return "no reply in time";
    case WIRE_C_WINDOW:
        return "refused, more was published than the window allows; wait for confirms, or publish "
               "more slowly";
    case WIRE_C_STORE_FULL:
        return "refused, the broker's message memory is full; let subscribers catch up, or give "
               "the broker a larger store";
    case WIRE_C_DROPPED:
        return "thrown out of a full backlog; its receiver is too slow";
    case WIRE_C_BAD_TOPIC:
        return "refused, not a topic that one may publish to";
    case WIRE_C_BAD_FILTER:
        return "refused, not a topic filter (MQTT 5.0, section 4.7)";
    case WIRE_C_PUBLISH_ONLY:
        return "refused, this client was opened with MQC_PUBLISH_ONLY";
    case WIRE_C_TOO_MANY_FILTERS:
        return "refused, this client has as many subscriptions as max_subscriptions of the "
               "broker's configuration allows";
    case WIRE_C_BAD_SLOT:
        return "refused, its payload does not lie in this client's pool; that is an error of this "
               "library, or somebody else writes to /dev/shm";
    case WIRE_C_NO_COPY:
        return "its payload was in the memory of another client and cannot be read any more";
    case WIRE_C_RETAINED_FULL:
        return "delivered but not kept, the broker's store of retained messages is full; forget "
               "some by publishing empty ones";
    case WIRE_C_GROUP_DIFFERS:
        return "the group exists with other settings; join it without a filter to take it as it "
               "is, or remove it first (mqctl remove)";
    case WIRE_C_GROUPS_FULL:
        return "refused, the broker has as many groups as max_groups of its configuration allows; "
               "remove some (mqctl groups shows them), or raise it";
    case WIRE_C_NO_GROUP:
        return "there is no such group; mqctl groups shows them";
    case WIRE_C_GROUP_FULL:
        return "delivered to the others, but a group that wants it is full; add members to it, or "
               "raise group_size in the broker's configuration";
    case WIRE_C_NO_JOURNAL:
        return "refused, the broker keeps no journal, and without one no group is durable; name a "
               "directory for it in the broker's configuration (journal)";
    case WIRE_C_JOURNAL_FULL:
        return "refused, the broker's journal or the disk that it is on is full; let durable "
               "groups catch up, or raise journal_size";
    case WIRE_C_BAD_GROUP:
        return "refused, not the name of a group: 1 to 63 bytes of UTF-8 without / + # @ $ and "
               "control characters, $dead/ before it for its dead letters";
    case WIRE_C_NO_SESSION:
        return "there is no such client; mqctl clients shows them";
    case WIRE_C_JOURNAL_ERROR:
        return "refused, the broker cannot write its journal; its log says why";
    default:
        return NULL;
    }
}

int client_fail_code(uint8_t code, const char *what)
{
    const char *words = code_sentence(code);
    int error = client_code_error(code);

    if (error == 0)
        return 0;
    if (words == NULL)
        return client_fail(error,
                           "%s: the broker answered with code %u, which this library does not know",
                           what, code);
    return client_fail(error, "%s: %s", what, words);
}

static int fail_queue_memory(const struct mqc *c, uint64_t needed, uint64_t limit)
{
    return client_fail(-EMFILE,
                       "broker '%s' has no kernel queue memory left for another client: its reply "
                       "queue needs %llu bytes "
                       "(depth x (width + 96)), and RLIMIT_MSGQUEUE of the broker's user is %llu "
                       "for all queues; raise it "
                       "(LimitMSGQUEUE= of its systemd unit, or ulimit -q) or close clients; "
                       "mqbroker --limits shows the plan",
                       c->instance, (unsigned long long)needed, (unsigned long long)limit);
}

int client_fail_refused(const struct mqc *c, const char *name, uint32_t code, uint32_t number1,
                        uint64_t number2)
{
    char buffer[96];

    switch (code) {
    case WIRE_C_NAME_TAKEN:
        return client_fail(-EADDRINUSE,
                           "the name '%s' is taken by process %u on broker '%s'; take another "
                           "name, or end that client",
                           name, number1, c->instance);
    case WIRE_C_NAME_LEAVING:
        return client_fail(
            -EADDRINUSE,
            "the name '%s' on broker '%s' belongs to a client that is on its way out; try again",
            name, c->instance);
    case WIRE_C_BAD_NAME:
        return client_fail(-EINVAL,
                           "'%s' is not a name for a client: 1 to 63 bytes of UTF-8 without / + # "
                           "@ $ and control characters",
                           name);
    case WIRE_C_NO_ROW:
        return client_fail(-ENFILE,
                           "broker '%s' has %u clients, as many as it may have; close some, or "
                           "raise max_clients in its configuration",
                           c->instance, number1);
    case WIRE_C_QUEUE_MEMORY:
        return fail_queue_memory(c, number1, number2);
    case WIRE_C_QUEUE_COUNT:
        return client_fail(-EMFILE,
                           "the kernel allows %u message queues (fs.mqueue.queues_max) and all are "
                           "in use; raise it (sysctl -w "
                           "fs.mqueue.queues_max=N), or close clients of broker '%s'",
                           number1, c->instance);
    case WIRE_C_NO_SUCH_PROCESS:
        return client_fail(-ESRCH,
                           "broker '%s' cannot see process %u: run both in the same pid namespace "
                           "(containers have their own)",
                           c->instance, number1);
    case WIRE_C_QUEUE_ERROR:
        if (number1 == ENOSPC) /* not of the queue, which has codes of its own for that */
            return client_fail(-ENOSPC,
                               "/dev/shm is full: broker '%s' has no room for the memory of a "
                               "client; remove something there, or mount it larger",
                               c->instance);
        return client_fail(-EIO, "broker '%s' could not make a reply queue: %s; its log says more",
                           c->instance, strerror_r((int)number1, buffer, sizeof(buffer)));
    case WIRE_C_STOPPING:
        return client_fail(-ECONNREFUSED,
                           "broker '%s' is on its way out; try again when it has been started",
                           c->instance);
    case WIRE_C_POOLS_FULL:
        return client_fail(-ENFILE,
                           "broker '%s' keeps the pools of %u ended clients, because messages in "
                           "them are still needed, and can keep no more; let their receivers "
                           "catch up, or forget retained messages",
                           c->instance, number1);
    default:
        return client_fail(-EPROTO,
                           "broker '%s' refused with code %u, which this library does not know",
                           c->instance, code);
    }
}

static const char *ended_sentence(uint8_t code)
{
    switch (code) {
    case WIRE_C_OVERFLOW:
        return "it did not read its messages in time, and the overflow policy is 'disconnect'; "
               "receive more often";
    case WIRE_C_UNREAD_ANSWERS:
        return "it left too many answers unread; receive, or wait for confirms, now and then";
    case WIRE_C_QUEUE_REPLACED:
        return "its reply queue was removed or replaced by somebody; open a new handle";
    case WIRE_C_KICKED:
        return "an administrator ended it";
    case WIRE_C_BAD_POOL:
        return "its pool in /dev/shm was removed, cut off or written to by somebody; open a new "
               "handle";
    default:
        return NULL;
    }
}

int client_over(const struct mqc *c)
{
    uint8_t code = c->session.ended_code;
    const char *words = ended_sentence(code);

    if (c->session.ended != WIRE_ENDED)
        return client_fail(-ESHUTDOWN,
                           "broker '%s' has stopped; connect again when it has been started",
                           c->instance);
    if (words == NULL)
        return client_fail(-ECONNRESET,
                           "broker '%s' ended this session with code %u; open a new handle",
                           c->instance, code);
    return client_fail(-ECONNRESET, "broker '%s' ended this session: %s", c->instance, words);
}
