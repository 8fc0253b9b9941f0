/* The protocol engine of a client (floor 3, pure): bytes and board words in, decisions out.
 *
 * The shell (libclient/client) owns queues, clocks and waiting. It feeds what it received to
 * session_arrive(), asks session_next() what to do next, and sends the envelopes that are built
 * here. The row of the board is memory to this module, not a system call. */
#ifndef MQBROKER_LIBCLIENT_SESSION_H
#define MQBROKER_LIBCLIENT_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libclient/acks.h"
#include "libclient/board.h"
#include "libclient/confirms.h"
#include "libclient/fetches.h"
#include "libclient/inbox.h"
#include "libclient/pool.h"
#include "libclient/reports.h"
#include "libclient/requests.h"
#include "libclient/wire.h"

/* What is built here to be sent. Empty: `size` is WIRE_ENVELOPE_SIZE. */
struct session_envelope {
    uint32_t size;
    uint8_t level; /* kernel priority; from WIRE_URGENT on it goes to the urgent request queue */
    uint8_t bytes[WIRE_QUEUE_MAX];
};

/* What is wanted of a message frame. */
struct session_message {
    uint8_t type; /* WIRE_PUBLISH, WIRE_REQUEST, WIRE_REPLY, WIRE_WILL */
    uint8_t priority;
    uint16_t flags;
    uint16_t frame_size; /* wire_message_size() or wire_pooled_size() */
    uint8_t topic_size;
    const char *topic;
    const void *payload;
    size_t size;
    uint64_t number;
    uint64_t expiry;
    struct wire_slot slot; /* where the payload is; slot.size 0: it goes in the frame */
};

/* What was read of the board row, rule P1. */
struct session_tide {
    uint64_t value; /* the row's tide when it was last looked at */
    uint64_t
        standing; /* bit l: hint[l] is not read[l], so a batch may stand in the queue at level l */
    uint32_t hint[INBOX_LEVELS]; /* the row's level words when it was last looked at */
    uint32_t
        read[INBOX_LEVELS]; /* number of the last batch read there, or the hint that proved wrong */
    bool emptied;           /* the queue was found empty since the tide has this value */
    bool resigned;          /* and looking again brought nothing */
    uint64_t until;         /* look again until then; 0: not begun */
};

struct session {
    struct inbox inbox;
    const struct board_row *row; /* NULL before session_attach(), and so are the next two */
    struct pool_header *pool;    /* this client's own: its words for the broker */
    const uint8_t *outbox;       /* struct outbox_header, and the buffers behind it */
    struct session_tide tide;

    /* From WELCOME. */
    bool welcomed;
    uint16_t id;
    uint16_t depth;
    uint32_t width;
    uint32_t frame_max;
    uint64_t window;
    uint64_t pool_max;
    uint32_t buffers; /* of the outbox, */
    uint32_t buffer_size;
    uint64_t nonce;
    uint8_t token[WIRE_TOKEN_SIZE];

    /* Room, section 6 of PROTOCOL.md. */
    uint64_t sent;   /* charge of everything published, gathered frames included */
    uint64_t grant;  /* the newest that is known */
    uint64_t missed; /* from batch headers */
    uint64_t waits;  /* the pool's word of that name; 0: no call waits for room */
    uint64_t n_waits;

    /* Sending. */
    bool batching;
    uint8_t last_priority;
    uint32_t normal_width; /* of the request queues */
    uint32_t urgent_width;
    struct session_envelope gathered; /* with batching: frames of one priority that wait for more */
    struct session_envelope alone;    /* what is sent at once: a lone message, control frames */

    /* What comes back. */
    struct confirms confirms;
    struct requests requests;
    struct wire_frame reply; /* the call's, when it is done by a reply: it lies in reply_batch, */
    struct inbox_batch *reply_batch; /* on which there is a hold. NULL: no reply */
    struct fetches fetches;
    struct acks acks; /* what became of messages of groups, not sent yet */
    bool untold;      /* names were put into the release ring since the broker was told to look */
    uint8_t ended;    /* WIRE_STOPPED or WIRE_ENDED was read: the queue's last batch; else 0 */
    uint8_t ended_code;

    /* Counters, for tests and for who debugs. */
    struct reports reports; /* expired in the kernel queue, not yet reported */
    uint64_t expired;       /* all of them */
    uint64_t repeated;      /* batches dropped by rule K3 */
    uint64_t malformed;     /* batches, or rests of batches, that made no sense */
    uint64_t stray;         /* replies and answers to nothing that is open */
};

/* Begin: the widths of both request queues, the nonce sent with REGISTER, the depth of the reply
 * queue, and the size of the largest batch there can be. */
void session_init(struct session *s, uint32_t normal_width, uint32_t urgent_width, uint64_t nonce,
                  uint32_t depth, uint32_t width);
void session_deinit(struct session *s);

/* After WELCOME: the board row of this session, its pool, and its outbox, which has as many buffers
 * as WELCOME said. */
void session_attach(struct session *s, const struct board_row *row, struct pool_header *pool,
                    const void *outbox);

/* ---- Reading ---- */

enum session_arrival {
    SESSION_ARRIVED = 0,
    SESSION_REPEATED,  /* rule K3: dropped */
    SESSION_MALFORMED, /* not a batch for this session: dropped */
};

/* A queue message of `size` bytes came at this kernel priority into `batch`, which was
 * inbox_blank(). The batch belongs to the session from here on. One that lies in the outbox is
 * copied from there, and its buffer free again. Answers are settled at once, messages wait in the
 * inbox. Returns an enum session_arrival. */
int session_arrive(struct session *s, struct inbox_batch *batch, size_t size, unsigned level);

/* A receive found the queue empty. */
void session_found_empty(struct session *s);

enum session_step {
    SESSION_FETCH = 0, /* receive, without waiting */
    SESSION_MESSAGE,   /* session_peek(), then session_hand_out() or session_expire() */
    SESSION_FAILED,    /* requests_next_failed() */
    SESSION_LINGER,    /* something higher is on its way: session_linger() */
    SESSION_OVER,      /* all was handed out, and nothing will come any more: see `ended` */
};

/* What to do to hand out the next message in strict order of priority (rule P1). When nothing
 * stands above what the inbox has, this costs one load of the board. With an empty inbox it is
 * always SESSION_FETCH. */
int session_next(struct session *s);

/* After SESSION_LINGER: how long to wait for what is on its way, in nanoseconds; 0: no longer, what
 * is there is handed out. Twenty milliseconds at most without progress, then not before the row
 * changes; so a broker that hangs costs a reader no more than that, and one that has to wait for a
 * processor does not cost the order. `sleep`: it is worth sleeping on the queue; before, yield. */
uint64_t session_linger(struct session *s, uint64_t now, bool *sleep);

/* The queue has something again, whatever the row says. */
void session_stirred(struct session *s);

/* Does the board say that nothing stands in the queue? A hint, good enough to go and wait on the
 * queue without a receive before. */
bool session_quiet(struct session *s);

/* The next message in the inbox, after SESSION_MESSAGE. False: there was nothing to hand out after
 * all (what was left were frames already taken, or nonsense); ask session_next() again. */
bool session_peek(struct session *s, struct wire_frame *out);

/* Go past the frame that session_peek() showed. Handed out: returns the batch it lies in, with a
 * hold for who reads it, who also has to session_release() a payload in a pool. Expired: counted by
 * topic, to be reported (rule P11); a message of a group goes back to it, where that is dealt with,
 * when its acknowledgement is due if not at once. Lost, because its payload cannot be had: the
 * request that it answers has failed, anything else counts like an expired one. */
struct inbox_batch *session_hand_out(struct session *s, const struct wire_frame *frame);
void session_expire(struct session *s, const struct wire_frame *frame);
void session_lose(struct session *s, const struct wire_frame *frame);

/* A delivery's payload is not read any more: its name goes into the release ring. */
void session_release(struct session *s, uint64_t name);

/* Does the board say that a control batch stands in the queue? A hint. */
bool session_control_stands(struct session *s);

/* Is there anything that session_next() would hand out without a receive? */
static inline bool session_has_something(const struct session *s)
{
    return s->inbox.map != 0 || requests_have_failed(&s->requests);
}

/* ---- Sending ---- */

/* May a message of this charge be published now: is it within the window (levels below WIRE_URGENT
 * leave a quarter), and if it is to be confirmed, is there a place for its outcome? */
bool session_room(struct session *s, const struct session_message *m, bool confirm);

/* A call waits for room and found none, be it in the window or in the pool; `returned` places had
 * come back to that. The broker is told by the pool's words, and once it knows that all others who
 * could bring room about wait for this client in turn, session_is_stuck() says so. To be said anew
 * before each sleep; for a wait that ends in any case, it is over. */
void session_wait(struct session *s, bool for_pool, uint64_t returned);
void session_wait_over(struct session *s);
bool session_is_stuck(const struct session *s);

enum session_place {
    SESSION_ALONE = 0,   /* put it into `alone` and send that at once */
    SESSION_GATHER,      /* put it into `gathered` */
    SESSION_FLUSH_FIRST, /* send `gathered`, then put it there */
};

/* Where does this message go? Without batching always SESSION_ALONE. With it, a first message of a
 * higher priority than those gathered goes alone, at once, and the gathering goes on (rule P3); the
 * second in a row begins a new gathering. */
int session_place(struct session *s, const struct session_message *m);

/* Write the frame into an envelope of that priority: `alone`, which it then has for itself, or
 * `gathered`. */
void session_put_alone(struct session *s, const struct session_message *m);
void session_gather(struct session *s, const struct session_message *m);

/* The message is on its way, or gathered: it counts. */
static inline void session_count(struct session *s, const struct session_message *m)
{
    s->sent += wire_charge(m->frame_size);
}

/* Control frames; each makes `alone` an envelope of its own. `number` comes back in the answer. */
void session_put_register(struct session *s, uint16_t flags, uint32_t pid, uint64_t start,
                          uint64_t pool, const char *name, size_t name_size);
void session_put_text(struct session *s, uint8_t type, uint16_t flags, uint32_t number,
                      const char *text, size_t text_size);
void session_put_bye(struct session *s);
void session_put_join(struct session *s, const struct wire_frame *join);

/* A will, whose frame size is set. If the urgent request queue is too narrow for it, it goes by the
 * other, at the highest level that this has. */
void session_put_will(struct session *s, const struct session_message *m);
void session_put_fetch(struct session *s, uint64_t name);

/* A whole envelope with NUDGE, without the use of `alone`: it may be wanted while that is being
 * sent. */
enum { SESSION_NUDGE_SIZE = WIRE_ENVELOPE_SIZE + WIRE_HEAD_SIZE };
void session_write_nudge(const struct session *s, uint8_t out[SESSION_NUDGE_SIZE]);

/* As many reports as fit into `alone`. Returns how many; pass that to reports_drop() when it was
 * sent. */
uint32_t session_put_reports(struct session *s);

/* Make `out` an envelope of what was decided about messages of groups. Returns how many decisions
 * are in it; pass that to acks_drop() when it was sent. */
uint32_t session_put_acks(const struct session *s, struct session_envelope *out);

/* Write the header: the last thing before sending. */
void session_seal(const struct session *s, struct session_envelope *envelope);

static inline bool session_gathers(const struct session *s)
{
    return s->gathered.size > WIRE_ENVELOPE_SIZE;
}

/* Empty an envelope that was sent. */
static inline void session_clear(struct session_envelope *envelope)
{
    envelope->size = WIRE_ENVELOPE_SIZE;
}

/* ---- The call that waits ---- */

/* Forget the call, and the reply if it was not fetched. */
void session_end_call(struct session *s);

#endif
