/* libmqclient: publish, subscribe, request and reply through an mqbroker on this machine.
 *
 *     struct mqc *client;
 *     if (mqc_open(&client, NULL) < 0)
 *         errx(1, "%s", mqc_last_error());
 *     mqc_subscribe(client, "plant/+/temperature", 0);
 *     struct mqc_message message;
 *     while (mqc_receive(client, &message, -1) == 0) {
 *         printf("%s: %.*s\n", message.topic, (int)message.size, (const char *)message.payload);
 *         mqc_message_free(&message);
 *     }
 *     mqc_close(client);
 *
 * What holds for all of it
 *
 *   Errors       Functions return 0 (or a number, where stated) on success and -errno on failure.
 *                mqc_last_error() has a sentence for the last failure in the calling thread: what
 *                was wrong, and what to do. Those that any call may return are not repeated below:
 *                  -EINVAL      an argument is wrong
 *                  -ESHUTDOWN   the broker has stopped; close the handle
 *                  -ECONNRESET  the broker has ended this session (mqc_last_error() says why);
 *                               close the handle
 *                  -EPERM       the handle was opened by another process (see Fork)
 *   Priority     0 (lowest) to 31 (highest); MQC_DEFAULT_PRIORITY if there is no reason for
 *                another. From MQC_URGENT on a message has reserved room all the way. A message of
 *                a higher priority overtakes every lower one that its receiver has not yet been
 *                handed; within one priority and publisher, first in is first out.
 *   Blocking     A call that may wait says so. Timeouts are in milliseconds on the monotonic clock;
 *                -1 waits without end, 0 does not wait. Interrupted system calls are taken up
 *                again. While a publisher waits for room, what arrives for it is kept in the
 *                handle. A killed broker is no error: calls wait until it has been started again,
 *                and go on.
 *   Threads      A handle serves one thread at a time: two calls on one handle must not overlap.
 *                To free a message is such a call. Different handles are independent. The library
 *                starts no thread (mqc_notify with SIGEV_THREAD makes the C library start one).
 *   Fork         A handle belongs to the process that opened it. A child may only mqc_close() its
 *                copy, which frees memory and descriptors and leaves the session alone.
 *   Signals      Never touched. Nothing is printed, nothing exits.
 *   Descriptors  are close-on-exec.
 *   Memory       Payload and topic of a received message stay where they are until
 *                mqc_message_free(), also during further calls of mqc_receive(), but not after
 *                mqc_close(). A message that is not freed keeps the buffer of a whole batch (at
 *                most 16 KiB, with all messages in it), and a large payload its place in the
 *                sender's pool: a client that holds 1,024 of those gets no more large ones until
 *                it frees some.
 *   Large ones   A payload that no queue message can hold lies in a pool, memory in /dev/shm that
 *                its sender has written to and all its receivers read in place; nothing else is
 *                different about it. Its sender has promised not to write to it any more, and
 *                receivers of the same user rely on that as on all memory they share. Receivers of
 *                another user get a copy, made by the broker. */
#ifndef MQCLIENT_H
#define MQCLIENT_H

#include <signal.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MQC_VERSION_MAJOR 0
#define MQC_VERSION_MINOR 1
#define MQC_VERSION_PATCH 0

#define MQC_DEFAULT_PRIORITY 8
#define MQC_MAX_PRIORITY     31
#define MQC_URGENT           24

#if defined(__GNUC__)
#define MQC_API __attribute__((visibility("default")))
#else
#define MQC_API
#endif

/* A connection. */
struct mqc;

struct sigevent; /* <signal.h> has it only where POSIX is asked for; mqc_notify() needs no more than
                    its name */

/* ---- Open and close ---- */

enum mqc_open_flag {
    MQC_PUBLISH_ONLY = 1, /* never subscribes: takes less of the kernel's queue memory */
};

/* Zero it and set what is wanted; a NULL pointer in its place means all zero. */
struct mqc_options {
    const char *instance; /* NULL: $MQBROKER_INSTANCE, or "default" */
    const char *name;     /* direct topic "@name" reaches this client; NULL: none */
    unsigned flags;       /* enum mqc_open_flag */
    int timeout_ms;       /* how long to wait for the broker's answer; 0: 5,000 */
    size_t pool_size; /* bytes of the pool for payloads that do not fit a queue message, as far as
                         it grows by itself; 0: 16 MiB. A single larger message makes it larger, up
                         to what the broker's configuration allows */
    int poll_usec;    /* look again for so long before sleeping, while that has been paying, and 20
                         times as long in mqc_confirm_wait(), whose answer may wait for the disk; 0:
                         the default, 50; -1: never */
};

/* Connect: registers with the broker and waits for its answer. `*client` is for mqc_close(); on
 * failure it is NULL.
 *   -ENOENT        no broker of that instance
 *   -ECONNREFUSED  there was one, and it does not run any more
 *   -EACCES        it belongs to another user
 *   -EPROTO        it speaks another version
 *   -EADDRINUSE    the name is taken
 *   -ENFILE        refused: it has as many clients, or pools of ended ones, as it may have
 *   -EMFILE        refused: no kernel queue memory left; or this process has no descriptor left
 *   -ESRCH         refused: the broker cannot see this process (another pid namespace)
 *   -EIO           refused: the broker could not make a reply queue
 *   -ETIMEDOUT     no answer in time
 *   -ENOSPC        /dev/shm is full
 *   -ENOMEM */
MQC_API int mqc_open(struct mqc **client, const struct mqc_options *options);

/* Send what is gathered, say goodbye, free everything; NULL is fine. Waits at most a second for
 * room to say goodbye. Messages of this handle that are not freed yet become invalid. */
MQC_API void mqc_close(struct mqc *client);

/* ---- Publish ---- */

enum mqc_publish_flag {
    MQC_RETAIN =
        1, /* keep as the topic's last message for later subscribers; an empty payload forgets it */
    MQC_CONFIRM = 2, /* the broker confirms: mqc_confirm_wait() */
    MQC_NOWAIT = 4,  /* -EAGAIN instead of waiting for room */
};

struct mqc_publication {
    const char *topic; /* NUL-terminated UTF-8, 1 to 255 bytes, no wildcards; "@name" goes to the
                          client of that name */
    const void *payload;
    size_t size;
    unsigned priority; /* 0 to 31 */
    unsigned flags;    /* enum mqc_publish_flag */
    uint64_t ttl_ms;   /* dropped if not delivered within this; 0: never */
};

/* Publish. The payload is copied, once: a large one into this client's pool, where its receivers
 * read it in place. Waits while this publisher is out of window, its pool has no space, or the
 * request queue is full, unless MQC_NOWAIT is set. Returns 0; with MQC_CONFIRM a number above 0 for
 * mqc_confirm_wait().
 *   -EMSGSIZE  larger than mqc_payload_max()
 *   -EAGAIN    MQC_NOWAIT, and no room
 *   -EDEADLK   no room, and to wait on would be no use before the caller has received: nothing more
 *              can be kept for this client, or all who could make room wait in turn for what it has
 *              received, or for messages that it has not freed or acknowledged. Receive all that
 *              stands, free it, then publish again
 *   -ENOSPC    /dev/shm is full */
MQC_API int64_t mqc_publish_with(struct mqc *client, const struct mqc_publication *publication);

/* The same with the priority alone. Returns 0 or -errno. */
MQC_API int mqc_publish(struct mqc *client, const char *topic, const void *payload, size_t size,
                        unsigned priority);

/* Largest payload, in bytes, for this topic: what the broker's configuration lets a pool have
 * (pool_max), at most 4 GiB less 1. */
MQC_API size_t mqc_payload_max(const struct mqc *client, const char *topic);

/* Publish without any copy: borrow memory of this client's pool, write the payload there, publish
 * it.
 *
 * mqc_loan() sets `*payload` to at least `size` bytes (at least 1) at a multiple of 64, whose
 * content is not defined. It waits for space as mqc_publish_with() does; `flags` is 0 or
 * MQC_NOWAIT. A client has at most 2,048 payloads in its pool at a time, loans included. Returns 0
 * or -errno, as there.
 *
 * mqc_publish_loan() publishes what `publication->payload` points to, which must be a loan, with
 * `publication->size` bytes, from 0 to what was borrowed. On success the loan is over, and the
 * memory not to be touched any more; on failure it still stands. Otherwise as mqc_publish_with().
 *
 * mqc_loan_return() gives a loan back unpublished. -EINVAL: it is none. mqc_close() ends all loans.
 */
MQC_API int mqc_loan(struct mqc *client, void **payload, size_t size, unsigned flags);
MQC_API int64_t mqc_publish_loan(struct mqc *client, const struct mqc_publication *publication);
MQC_API int mqc_loan_return(struct mqc *client, void *payload);

/* With batching on, publishes gather in the handle until a queue message is full, a message of
 * another priority comes, mqc_flush(), or any call that waits. Off (as it is at first), each is
 * sent at once. Switching it off flushes. Returns 0 or what mqc_flush() returns. */
MQC_API int mqc_set_batching(struct mqc *client, int on);

/* Send what is gathered, acknowledgements as well. Waits for room in the request queue. Returns 0
 * or -errno. */
MQC_API int mqc_flush(struct mqc *client);

/* Wait until the broker has confirmed (or refused) this publish. The outcomes of the newest 1,024
 * are kept, and may be asked for in any order, also again. Returns 0: accepted; if a durable group
 * wants it, it is on disk as the broker's configuration has it (sync).
 *   -ENOBUFS    refused: over the window, or no room in the broker
 *   -EINVAL     refused: topic
 *   -ENOSPC     delivered but not kept: the retained store is full; or not for a group that wants
 *               it and is full; or refused: it would be durable, and the journal is full
 *   -EIO        refused: it would be durable, and the journal cannot be written
 *   -ENOENT     no such number, or forgotten
 *   -EDEADLK    too many other messages came before it: receive them first
 *   -ETIMEDOUT */
MQC_API int mqc_confirm_wait(struct mqc *client, int64_t number, int timeout_ms);

/* ---- Subscribe and receive ---- */

enum mqc_subscribe_flag {
    MQC_NO_RETAINED = 1, /* do not send the messages kept for matching topics */
};

/* Subscribe to a topic filter (MQTT wildcards '+' and '#'); the broker's answer is waited for, at
 * most 5 s (-ETIMEDOUT). A message that matches several subscriptions of a client is delivered
 * once. Subscribing again delivers kept messages again.
 *   -EINVAL   not a filter, or the handle is publish-only
 *   -ENOSPC   as many subscriptions as a client may have
 *   -EDEADLK  too many other messages came before the answer: receive them, then subscribe again */
MQC_API int mqc_subscribe(struct mqc *client, const char *filter, unsigned flags);

/* The opposite. -ENOENT: there was no such subscription. Messages that were under way may still
 * come. */
MQC_API int mqc_unsubscribe(struct mqc *client, const char *filter);

enum mqc_message_flag {
    MQC_M_RETAINED = 1, /* a kept message, because of a new subscription */
    MQC_M_REQUEST = 2,  /* asks for mqc_reply() */
    MQC_M_REPLY = 4,    /* the reply to the request `number` */
    MQC_M_FAILED = 8,   /* there will be no reply to the request `number`: `error` says why */
};

struct mqc_message {
    const char *topic;   /* NUL-terminated; "" in a reply */
    const void *payload; /* not aligned; never NULL */
    size_t size;
    unsigned priority;
    unsigned flags;  /* enum mqc_message_flag */
    uint64_t number; /* MQC_M_REPLY, MQC_M_FAILED: what mqc_request_send() returned. MQC_M_REQUEST:
                        for mqc_reply() */
    int error; /* MQC_M_FAILED: -ENOENT nobody subscribes, -ECONNRESET the server died, -ETIMEDOUT,
                  -ENOBUFS dropped, or its payload cannot be read */
    int acknowledge;  /* it comes out of a group: mqc_ack(), mqc_nack() or mqc_reject() is owed */
    unsigned attempt; /* 1 for its first delivery; 2: it came back once … */
    /* The library's: */
    void *owner;
    void *lender;  /* pool that the payload lies in, */
    uint64_t held; /* and the name it is given back under */
};

/* The next message, highest priority first. Returns 0 and fills `message`, which is to be freed.
 *   -EAGAIN     timeout_ms is 0 and there is none
 *   -ETIMEDOUT  none in time */
MQC_API int mqc_receive(struct mqc *client, struct mqc_message *message, int timeout_ms);

/* Done with it. A message that is zero or already freed is fine. */
MQC_API void mqc_message_free(struct mqc_message *message);

/* A descriptor for poll, epoll, libuv, GLib …: readable when there may be something to receive;
 * then receive until -EAGAIN. It belongs to the handle: do not read it, do not close it. Returns
 * the descriptor or -errno. */
MQC_API int mqc_fd(struct mqc *client);

/* As mq_notify(): one notification, the next time that messages come while none stand. Register,
 * then receive until -EAGAIN, or what came before is not announced. Now and then one comes without
 * a message. NULL takes it back. One registrant a handle.
 *   -EBUSY  there is one already */
MQC_API int mqc_notify(struct mqc *client, const struct sigevent *event);

/* Messages that the broker dropped for this client so far because it was too slow or they expired.
 */
MQC_API uint64_t mqc_missed(const struct mqc *client);

/* ---- Request and reply ---- */

/* Publish a request and wait for its reply. `publication` as for mqc_publish_with(); ttl_ms is not
 * used: timeout_ms, which must be above 0, is how long the reply may take. Other messages that
 * arrive meanwhile are kept. Returns 0 and fills `reply`, which is to be freed.
 *   -ENOENT      nobody subscribes to that topic
 *   -ECONNRESET  who was to reply is gone (or, as everywhere, this session: then mqc_receive() says
 *                so as well)
 *   -ETIMEDOUT   no reply in time
 *   -ENOBUFS     the request was dropped or refused, or the reply's payload cannot be read
 *   -EDEADLK     so many other messages came before the reply that no more can be kept: receive
 *                them, then ask again
 * and what mqc_publish_with() returns. */
MQC_API int mqc_request(struct mqc *client, const struct mqc_publication *publication,
                        struct mqc_message *reply, int timeout_ms);

/* The same without waiting: returns a number above 0; the reply (or MQC_M_FAILED) comes by
 * mqc_receive(). At most 1,024 may be open: -EAGAIN. */
MQC_API int64_t mqc_request_send(struct mqc *client, const struct mqc_publication *publication,
                                 int timeout_ms);

/* Answer a message that has MQC_M_REQUEST; before or after mqc_message_free() of it, `number` is
 * what counts. The first of several answers wins. The reply goes at the request's priority. Waits
 * as mqc_publish_with() does. */
MQC_API int mqc_reply(struct mqc *client, const struct mqc_message *request, const void *payload,
                      size_t size);

/* ---- Groups ---- */

/* A group is a name and topic filters; its members share what matches them: each message goes to
 * one member, who acknowledges it when its work is done. One that is not acknowledged comes back,
 * to this member or another: after a time, when a member says so (mqc_nack), or when one dies. So
 * none is lost, and one may be worked on twice. After so many deliveries in vain a message becomes
 * a dead letter: to be read by joining "$dead/" and the group's name.
 *
 * A group keeps what matches while it has no members too: for a while, or, durable, for good.
 *
 * Names of groups are like names of clients: 1 to 63 bytes of UTF-8 without / + # @ $ and control
 * characters. */

enum mqc_group_flag {
    MQC_DURABLE = 1,      /* group and messages outlive the broker and the machine's next start;
                             the broker must keep a journal */
    MQC_DEAD_EXPIRED = 2, /* messages whose time to live runs out become dead letters */
};

/* Settings of a group that does not exist yet; `prefetch` is this member's own. Zero it and set
 * what is wanted. */
struct mqc_group_options {
    unsigned flags;          /* enum mqc_group_flag */
    unsigned prefetch;       /* messages that this client is given at a time before it has
                                acknowledged any of them, up to 65,535; 0: 16 */
    unsigned delivery_limit; /* deliveries after which a message becomes a dead letter, up to 255;
                                0: as the broker is configured */
    unsigned ack_timeout_ms; /* after which a delivery comes back; 0: as the broker is configured */
};

/* Join a group with this filter; the first who does makes it. Joining again adds another filter to
 * it; the prefetch stays as it is. With a NULL filter an existing group is joined as it
 * is, as "$dead/…" always is. NULL options: all zero. A group is given no kept messages. Waits for
 * the broker's answer, at most 5 s (-ETIMEDOUT).
 *   -EINVAL      not a filter, not a name, or the handle is publish-only
 *   -EEXIST      the group exists with other settings
 *   -ENOENT      no filter, and no such group
 *   -ENFILE      the broker has as many groups as it may have
 *   -EOPNOTSUPP  durable, and the broker keeps no journal
 *   -ENOSPC      as many filters as there may be; or the journal is full
 *   -EIO         the journal cannot be written
 *   -EDEADLK     as mqc_subscribe() */
MQC_API int mqc_join(struct mqc *client, const char *group, const char *filter,
                     const struct mqc_group_options *options);

/* The opposite. What this client has not acknowledged goes back, and does not count as tried; a
 * later acknowledgement of it does nothing. -ENOENT: it was not in that group. */
MQC_API int mqc_leave(struct mqc *client, const char *group);

/* Decide about a message that has `acknowledge`, which becomes 0; before or after
 * mqc_message_free(), `number` is what counts. Done: it leaves the group. Not done: it comes back
 * to it, not before `delay_ms`. Rejected: it becomes a dead letter at once. A message that is freed
 * without any of these comes back when its time is over, or this session; one that is answered with
 * mqc_reply() needs none.
 *
 * Decisions gather in the handle for a moment. They go out when 64 have; with the next one, if a
 * millisecond has passed since some did; by mqc_flush() and any call that waits, also a
 * mqc_receive() that finds nothing (who has asked for mqc_fd() is woken for it); and by
 * mqc_close(). What was published before one of them goes
 * before it, as far as there is room; who must not lose it confirms it first. The broker answers
 * none of them: one that comes too late, when the message is another member's already, does
 * nothing. They wait only when 64 have gathered and the broker's urgent request queue is full.
 *   -EINVAL  that message owes no acknowledgement, or no longer */
MQC_API int mqc_ack(struct mqc *client, struct mqc_message *message);
MQC_API int mqc_nack(struct mqc *client, struct mqc_message *message, unsigned delay_ms);
MQC_API int mqc_reject(struct mqc *client, struct mqc_message *message);

/* ---- Wills ---- */

/* Leave a will: what the broker publishes for this client when its process dies, or the broker ends
 * its session; not after mqc_close(). A second one replaces the first; NULL, or a topic of NULL:
 * none any more. Of the flags MQC_RETAIN is possible; ttl_ms is 0. Waits for the broker's answer,
 * at most 5 s (-ETIMEDOUT).
 *   -EMSGSIZE  larger than fits a queue message: a will's payload cannot lie in a pool
 *   -ENOBUFS   no room in the broker
 *   -EDEADLK   as mqc_subscribe() */
MQC_API int mqc_set_will(struct mqc *client, const struct mqc_publication *will);

/* ---- Administration ---- */

/* What whoever runs the broker may want; any client of it may. Each waits for the broker's answer,
 * at most 5 s (-ETIMEDOUT), and returns a number, or
 *   -ENOENT   no such group
 *   -ESRCH    no such client
 *   -EDEADLK  as mqc_subscribe()
 *
 * Purge throws all messages of a group away that no member has; requeue gives a group its dead
 * letters back. Each returns how many there were. "$dead/…" can be purged. */
MQC_API int64_t mqc_purge(struct mqc *client, const char *group);
MQC_API int64_t mqc_requeue(struct mqc *client, const char *group);

/* End a group and all its messages, dead letters too; its members are in it no more. Returns how
 * many messages there were. */
MQC_API int64_t mqc_remove_group(struct mqc *client, const char *group);

/* End a client's session: by its name, or "#" and the number of its session. Its will is published.
 * Returns 1. */
MQC_API int64_t mqc_kick(struct mqc *client, const char *who);

/* ---- The rest ---- */

/* A sentence for the last failure in this thread: what was wrong, and what to do. Never NULL; valid
 * until the next call of the library in this thread. */
MQC_API const char *mqc_last_error(void);

/* "0.1.0" */
MQC_API const char *mqc_version(void);

#ifdef __cplusplus
}
#endif

#endif
