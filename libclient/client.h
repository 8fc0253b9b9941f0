/* What the files of the client share: the handle, waiting, sending, sentences (floor 4; private,
 * the public header is mqclient.h).
 *
 *   client.c          receiving, sending, waiting: what the calls stand on; close
 *   client-open.c     finding the broker and registering
 *   client-publish.c  publish, loans, batching, confirms
 *   client-receive.c  receive, descriptor, notification
 *   client-request.c  the calls that wait for an answer: subscribe, request; reply
 *   client-group.c    joining and leaving groups, and acknowledging
 *   client-will.c     what is published when the session dies
 *   client-admin.c    groups and sessions of others
 *   client-pool.c     the own pool: where large payloads are written
 *   client-maps.c     others' pools: where large payloads are read
 *   client-error.c    sentences */
#ifndef MQBROKER_LIBCLIENT_CLIENT_H
#define MQBROKER_LIBCLIENT_CLIENT_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/board.h"
#include "libclient/mqclient.h"
#include "libclient/names.h"
#include "libclient/queue.h"
#include "libclient/segment.h"
#include "libclient/outbox.h"
#include "libclient/session.h"
#include "libclient/slots.h"

#define CLIENT_FOREVER UINT64_MAX

enum { CLIENT_TEND_NS = 1000000000 }; /* between looks for the owners of idle mappings */

/* The pool for the payloads that this client sends. */
struct client_pool {
    struct segment segment; /* mapped as long as it may ever get, so that it never moves */
    struct slots slots;     /* what of it is given out; ends where the memory does */
    uint64_t nonce;
    uint64_t limit;       /* bytes it grows to by itself, */
    uint64_t max;         /* and the most that it may have */
    uint64_t returned;    /* places taken out of the outbox's ring, ever */
    uint64_t short_since; /* the last call that found no space waits, or has tried, since; 0 */
};

/* Another client's pool. */
struct client_map {
    struct client_map *prev; /* utlist, used last first */
    struct client_map *next;
    struct segment segment;
    uint64_t nonce;
    uint64_t end;   /* bytes that the pool had when it was last looked at */
    uint32_t holds; /* messages that lie in it and were handed out; 0: idle */
};

struct client_maps {
    struct client_map *first;
    uint32_t n_idle;
    uint64_t swept; /* when the owners of idle ones were looked for last */
};

/* A payload that is not in its frame. */
struct client_payload {
    const void *bytes;
    struct client_map *map; /* where it lies; NULL: in the outbox, or in the own pool */
};

/* Looking again before a sleep: has it been paying? */
struct patience {
    uint64_t longest; /* it is done for so many nanoseconds at most; 0: never */
    unsigned credit;  /* … while this is above 0 */
    unsigned skipped; /* waits since it stopped paying, */
    unsigned to_skip; /* and how many to pass over until it is tried again */
};

struct mqc {
    struct session session;
    struct segment segment; /* the board, mapped read-only */
    const struct board_header *board;
    struct segment outbox; /* likewise */
    struct client_pool pool;
    struct client_maps maps;
    uint64_t copy_due; /* the next message waits for a copy; ask for it again then. 0: it does not
                        */
    struct queue request;
    struct queue urgent;
    struct queue reply;
    const volatile uint8_t *ours; /* a page that a forked child finds zeroed (rule L4) */
    bool publish_only;
    bool settling; /* acknowledgements are being sent: the waits of that send no others */

    /* Looking again before sleeping. */
    struct patience to_read;    /* for what comes, */
    struct patience to_confirm; /* for confirms, which the disk may hold up, */
    struct patience to_send;    /* and for room in a request queue */
    uint64_t crowd_ns;          /* how long others have been wanting the processor */
    uint64_t crowded_until;     /* no looking again until then; 0: never was */
    uint32_t sent_in_a_row;     /* envelopes, since the request queue was found full */

    /* The caller's descriptor, rule P10. -1: not asked for. */
    int epoll_fd;
    int event_fd;
    bool rung;
    int timer_fd;       /* wakes it for what only time brings, */
    uint64_t timer_due; /* at this moment; 0: not set */

    /* The topic that was checked last; publishers repeat themselves. */
    size_t topic_size;
    char topic[WIRE_TOPIC_MAX + 1];

    char instance[NAMES_INSTANCE_MAX + 1];
};

/* ---- client.c ---- */

/* Clocks, in nanoseconds; and the moment `timeout_ms` from now, CLIENT_FOREVER if it is negative.
 */
uint64_t client_monotonic(void);
uint64_t client_boottime(void);
uint64_t client_deadline(int timeout_ms);

/* May this process use the handle, and is the broker there? 0, -EPERM, -ESHUTDOWN, -ECONNRESET. Two
 * loads. */
int client_check(const struct mqc *c);

/* The same for calls that still hand out what has arrived. */
int client_check_process(const struct mqc *c);

/* The session is over: why, in words. -ESHUTDOWN or -ECONNRESET. */
int client_over(const struct mqc *c);

/* Does the board say that this session has its row, in a state up to `state` (enum
 * board_row_state)? Also while there is no telling: a broker that was killed knows it. */
bool client_is_known(const struct mqc *c, uint32_t state);

/* Is the session gone without a word: the broker does not know it, and has left none? */
bool client_is_lost(const struct mqc *c);

/* Receive one batch into the inbox, without waiting. 0; -EAGAIN: none stands. */
int client_fetch(struct mqc *c);

/* Receive all that stands into the inbox, until it is crowded. 0 or -errno. */
int client_drain(struct mqc *c);

/* Yield the processor between two looks; `now` is the moment before and becomes the one after.
 * False if others want the processor: who yields it to them may get it back only a time slice later
 * (since Linux 6.18 always), while who sleeps is given it when woken. It is crowded then, for a
 * while. */
bool client_step_aside(struct mqc *c, uint64_t *now);
bool client_is_crowded(struct mqc *c, uint64_t now);

/* Wait until something stands in the reply queue, or may: 0. -ETIMEDOUT: the deadline has passed.
 * -ESHUTDOWN, -ECONNRESET. */
int client_sleep(struct mqc *c, uint64_t deadline);
int client_sleep_for_confirm(struct mqc *c, uint64_t deadline);

/* Have the broker look at the rings, if the board's `asleep` is at least this (enum board_sleep).
 * Never waits: a full queue wakes it as well. */
void client_nudge(struct mqc *c, uint32_t asleep);

/* Send a sealed envelope to the queue of its level. Waits for room until the deadline, 0: not at
 * all (-EAGAIN); -ETIMEDOUT. Meanwhile what arrives is read (rule P5). */
int client_send(struct mqc *c, struct session_envelope *envelope, uint64_t deadline);

/* Send what was decided about messages of groups; waits as client_send() does. 0 or -errno; what
 * was not sent stays. */
int client_settle(struct mqc *c, uint64_t deadline);

/* Send what is gathered: what was published before an acknowledgement goes before it, unless there
 * is no room for it, since it may take the acknowledgement to make some. */
int client_flush(struct mqc *c, uint64_t deadline);

/* Tell the broker what expired in the reply queue, as far as there is room. Never waits. */
void client_report(struct mqc *c);

/* A call that is not a receive has left something in the inbox: the caller's descriptor says so
 * (rule P10). */
void client_ring(struct mqc *c);

/* A call that the broker itself answers. begin() sends what is gathered and opens the call, whose
 * number goes into a frame that the caller puts into `alone`; end() sends that, waits for the
 * answer, five seconds at most, and says in words what went wrong with `what`. `count`, if not
 * NULL, becomes what the answer counted. Both return 0 or -errno. */
struct client_call {
    uint64_t deadline;
    uint32_t number;
};

int client_call_begin(struct mqc *c, struct client_call *call);
int client_call_end(struct mqc *c, const struct client_call *call, const char *what,
                    uint32_t *count);

/* Wait for an answer to the call that is open: until it is done, the deadline has passed
 * (-ETIMEDOUT), or nothing more can be kept
 * (-EDEADLK). 0: done. */
int client_await_call(struct mqc *c, uint64_t deadline);

/* ---- client-pool.c ---- */

/* Make the pool, after WELCOME; `size` bytes it may grow to by itself. 0 or -errno. */
int client_pool_make(struct mqc *c, uint64_t size);

/* Its name is the broker's to remove, unless that does not know the session any more. Before the
 * goodbye: after that it does not either, and removes the pool when its receivers are done. */
void client_pool_abandon(struct mqc *c);
void client_pool_close(struct mqc *c); /* unmap it */

/* The largest payload there can ever be space for. */
static inline uint64_t client_pool_most(const struct mqc *c)
{
    uint64_t most = c->pool.max - POOL_PAYLOADS;

    return most < UINT32_MAX ? most : UINT32_MAX;
}

/* Space for `size` bytes, at least 1 and at most client_pool_most(). 0; -EAGAIN: not before some
 * comes back; -ENOSPC: /dev/shm is full; -ENOMEM. */
int client_pool_take(struct mqc *c, uint64_t size, struct slots_place *place);

/* It was not sent after all. */
static inline void client_pool_give(struct mqc *c, const struct slots_place *place)
{
    slots_give(&c->pool.slots, place->offset, place->generation);
}

static inline void *client_pool_at(const struct mqc *c, uint64_t offset)
{
    return (uint8_t *)c->pool.segment.base + offset;
}

/* Sleep until space comes back, or the pool may grow for want of it, or something stands in the
 * reply queue. As client_sleep(). */
int client_pool_sleep(struct mqc *c, uint64_t deadline);

/* Is there no space for `size` bytes before some comes back, however long it may grow? */
bool client_pool_is_spent(const struct mqc *c, uint64_t size);

/* Has come back what client_pool_sleep() waits for? */
bool client_pool_stirred(const struct mqc *c);

/* ---- client-maps.c ---- */

enum client_payload_outcome {
    CLIENT_READY = 0,
    CLIENT_COPYING, /* it cannot be mapped, and the broker was asked for a copy: c->copy_due */
    CLIENT_LOST,    /* it cannot be had */
};

/* Find the payload of a POOLED message, which waits at this place of the session's fetches. READY:
 * the hold on it is the caller's, until client_let_go(). Returns an enum client_payload_outcome. */
int client_find_payload(struct mqc *c, const struct wire_frame *frame, unsigned place,
                        struct client_payload *out);

/* While the next message, or the reply, waits for its copy: that comes as a control batch, and
 * higher messages may come before it. 0: something came; -EAGAIN. */
int client_fetch_meanwhile(struct mqc *c);

/* … and sleep until something comes, the copy is to be asked for again, or the deadline has passed:
 * as client_sleep(). */
int client_sleep_meanwhile(struct mqc *c, uint64_t deadline);

/* One less that reads in it. */
void client_let_go(struct mqc *c, struct client_map *map);

/* Unmap idle ones whose owner is gone, so that their memory is; once a second at most. */
void client_maps_tend(struct mqc *c);

/* When that is due; CLIENT_FOREVER: there are no idle ones. */
static inline uint64_t client_maps_due(const struct mqc *c)
{
    return c->maps.n_idle > 0 ? c->maps.swept + CLIENT_TEND_NS : CLIENT_FOREVER;
}

void client_maps_close(struct mqc *c);

/* ---- client-publish.c ---- */

/* Publish what is ready but for its number and its frame size. `confirm` gives it the next number
 * of a confirm. Waits for room until the deadline, 0: not at all. 0; -EAGAIN, -EDEADLK, -ETIMEDOUT,
 * -EMSGSIZE … */
int client_publish(struct mqc *c, struct session_message *m, bool confirm, uint64_t deadline);

/* Check a publication and begin a frame of it: topic, priority, payload. 0 or -EINVAL. */
int client_begin(struct mqc *c, const struct mqc_publication *p, uint8_t type,
                 struct session_message *m);

/* ---- client-request.c ---- */

/* Is it a topic filter? 0 or -EINVAL, with a sentence. */
int client_check_filter(const char *filter, size_t size);

/* ---- client-receive.c ---- */

/* A message for the user, from a frame in a batch whose hold becomes the message's, as does that on
 * its payload. */
void client_fill(struct mqc_message *message, const struct wire_frame *frame,
                 struct inbox_batch *batch, const struct client_payload *payload);

/* Something is to be done within this span that no message brings: a caller's own loop is to be
 * woken for it. */
void client_wake_within(struct mqc *c, uint64_t now, uint64_t span);

/* ---- client-error.c ---- */

/* Keep a sentence for mqc_last_error() and return `error`. The second takes one that lives for
 * ever, and costs nothing. */
int client_fail(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));
int client_fail_plainly(int error, const char *sentence);

/* For a system call that failed in no particular way: "what: strerror". */
int client_fail_call(int error, const char *what);

/* A code that answers a publish, request or subscription, as an error: 0 for OK, else -errno with a
 * sentence about `what`. */
int client_fail_code(uint8_t code, const char *what);

/* The same number without a sentence. */
int client_code_error(uint8_t code);

/* A refused registration. */
int client_fail_refused(const struct mqc *c, const char *name, uint32_t code, uint32_t number1,
                        uint64_t number2);

#endif
