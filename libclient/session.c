/* The protocol engine of a client.
 *
 * It promises the reader three things. Strict order (P1): nothing is handed out while the board
 * says that something of a higher priority waits in the broker or stands in the queue, within
 * stated bounds. Nothing twice (K3): a batch that a restarted broker sends again is known by its
 * number. And that no bytes that come out of the queue can hurt: each batch and each frame goes
 * through the codec's checks before it is believed, and what fails them is counted and left out.
 *
 * A payload in a pool is a name until it is given back: whatever becomes of its message here, its
 * name ends in the release ring, or with whom the message was handed to.
 *
 * Two kinds of frame do not wait for their turn. Answers settle what they answer when they arrive;
 * and the reply to the call that waits (mqc_request) is taken out of whatever batch it comes in,
 * where its frame is marked so that the reader goes past it.
 *
 * What a session sends is in session-send.c. */
#include "libclient/session.h"

#include <string.h>

enum {
    LINGER_NS = 20000000, /* rule P1: wait for at most so long without progress */
    YIELD_NS = 1000000,   /* … and so long of it awake */
    FRAME_TAKEN = 0, /* type of a frame that was taken out of the middle; none on the wire has it */
};

void session_init(struct session *s, uint32_t normal_width, uint32_t urgent_width, uint64_t nonce,
                  uint32_t depth, uint32_t width)
{
    memset(s, 0, sizeof(*s));
    inbox_init(&s->inbox, depth, width);
    confirms_init(&s->confirms);
    requests_init(&s->requests);
    session_clear(&s->gathered);
    session_clear(&s->alone);
    s->id = WIRE_NO_SESSION;
    s->nonce = nonce;
    s->normal_width = normal_width;
    s->urgent_width = urgent_width;
}

void session_deinit(struct session *s)
{
    inbox_deinit(&s->inbox);
    memset(s->token, 0, sizeof(s->token));
}

/* ---- The board row ---- */

static uint64_t load_tide(const struct session *s)
{
    return atomic_load_explicit(&s->row->tide, memory_order_acquire);
}

void session_attach(struct session *s, const struct board_row *row, struct pool_header *pool,
                    const void *outbox)
{
    s->row = row;
    s->pool = pool;
    s->outbox = outbox;
    s->tide.value = ~load_tide(s); /* so that the first look is a thorough one */
}

static uint64_t levels_standing(const struct session_tide *t)
{
    uint64_t standing = 0;

    for (unsigned l = 0; l < INBOX_LEVELS; l++)
        standing |= (uint64_t)(t->hint[l] != t->read[l]) << l;
    return standing;
}

/* Look at the row: one load when nothing has changed. The broker stores a level word before it
 * clears the waiting bit in the tide, so what left the broker before this load is seen either as a
 * bit or as a level word. */
static void look(struct session *s)
{
    struct session_tide *t = &s->tide;
    uint64_t value;

    if (s->row == NULL)
        return;
    value = load_tide(s);
    if (value == t->value)
        return;
    t->value = value;
    t->emptied = false;
    t->resigned = false;
    t->until = 0;
    for (unsigned l = 0; l < INBOX_LEVELS; l++)
        t->hint[l] = atomic_load_explicit(&s->row->level[l], memory_order_relaxed);
    t->standing = levels_standing(t);
}

static uint64_t levels_waiting(const struct session_tide *t)
{
    return t->value >> 32;
}

/* A batch came: that is progress. Another one stands at its level if the hint is ahead of it; a
 * hint behind it is merely old. */
static void note_read(struct session_tide *t, unsigned level, uint64_t number)
{
    uint64_t bit = UINT64_C(1) << level;

    t->emptied = false;
    t->resigned = false;
    t->until = 0;
    t->read[level] = (uint32_t)number;
    if ((int32_t)(t->hint[level] - t->read[level]) > 0)
        t->standing |= bit;
    else
        t->standing &= ~bit;
}

void session_found_empty(struct session *s)
{
    struct session_tide *t = &s->tide;

    /* The hints are older than the look into the queue, so they were wrong: of another session that
     * had this row. */
    for (uint64_t map = t->standing; map != 0; map &= map - 1) {
        unsigned level = (unsigned)__builtin_ctzll(map);

        t->read[level] = t->hint[level];
    }
    t->standing = 0;
    t->emptied = true;
}

bool session_quiet(struct session *s)
{
    look(s);
    return s->tide.standing == 0;
}

bool session_control_stands(struct session *s)
{
    look(s);
    return (s->tide.standing >> WIRE_CONTROL & 1) != 0;
}

int session_next(struct session *s)
{
    struct session_tide *t = &s->tide;
    int best = inbox_best(&s->inbox);
    uint64_t above;

    if (requests_have_failed(&s->requests))
        return SESSION_FAILED;
    look(s);
    if (best < 0)
        return s->ended != 0 ? SESSION_OVER : SESSION_FETCH;
    above = ~UINT64_C(0) << (best + 1);
    if (((levels_waiting(t) | t->standing) & above) == 0)
        return SESSION_MESSAGE;
    if (s->ended != 0 || inbox_full(&s->inbox))
        return SESSION_MESSAGE;
    if ((t->standing & above) != 0 || !t->emptied)
        return SESSION_FETCH;
    return t->resigned ? SESSION_MESSAGE : SESSION_LINGER;
}

uint64_t session_linger(struct session *s, uint64_t now, bool *sleep)
{
    struct session_tide *t = &s->tide;

    if (t->until == 0)
        t->until = now + LINGER_NS;
    *sleep = t->until - now < LINGER_NS - YIELD_NS;
    if (now < t->until)
        return t->until - now;
    t->resigned = true;
    return 0;
}

void session_stirred(struct session *s)
{
    s->tide.emptied = false;
}

/* ---- Payloads in pools ---- */

void session_release(struct session *s, uint64_t name)
{
    uint64_t n;

    if (s->pool == NULL) /* nobody sends pooled messages before there is one */
        return;
    n = atomic_load_explicit(&s->pool->released, memory_order_relaxed);
    atomic_store_explicit(&s->pool->ring[n % POOL_RING], name, memory_order_relaxed);
    atomic_store_explicit(&s->pool->released, n + 1, memory_order_release);
    s->untold = true;
}

/* A message is not handed out: nobody will read its payload. */
static void let_go(struct session *s, const struct wire_frame *frame)
{
    if (frame->type == WIRE_MESSAGE && (frame->flags & WIRE_F_POOLED) != 0)
        session_release(s, frame->slot.name);
}

/* The rest of a batch is not gone through. */
static void let_go_all(struct session *s, const uint8_t *bytes, uint32_t left)
{
    struct wire_frame frame;

    for (; left > 0 && wire_get_delivery(bytes, left, &frame) == WIRE_OK; left -= frame.size) {
        let_go(s, &frame);
        bytes += frame.size;
    }
}

/* ---- Arrival ---- */

static void welcome(struct session *s, const struct wire_frame *frame)
{
    if (s->welcomed || frame->nonce != s->nonce)
        return;
    s->welcomed = true;
    s->id = frame->session;
    s->depth = frame->depth;
    s->width = frame->width;
    s->frame_max = frame->frame_max;
    s->window = frame->window;
    s->pool_max = frame->pool_max;
    s->buffers = frame->buffers;
    s->buffer_size = frame->buffer_size;
    memcpy(s->token, frame->token, sizeof(s->token));
}

static void settle(struct session *s, const struct wire_frame *answer)
{
    uint32_t number = (uint32_t)answer->number;

    if ((number & REQUESTS_BIT) == 0)
        confirms_answer(&s->confirms, number, answer->count, answer->code);
    else if (!requests_answer(&s->requests, number, answer->count, answer->code))
        s->stray++;
}

static void take_control(struct session *s, const struct wire_frame *frame)
{
    switch (frame->type) {
    case WIRE_WELCOME:
        welcome(s, frame);
        break;
    case WIRE_ANSWER:
        settle(s, frame);
        break;
    case WIRE_LENT:
        if (!fetches_answer(&s->fetches, frame))
            s->stray++;
        break;
    case WIRE_STOPPED:
    case WIRE_ENDED:
        s->ended = frame->type;
        s->ended_code = frame->code;
        break;
    default:
        s->malformed++;
        break;
    }
}

static bool answers_call(struct session *s, const struct wire_frame *frame)
{
    const struct request *call = requests_call(&s->requests);

    return frame->type == WIRE_MESSAGE && (frame->flags & WIRE_F_REPLY) != 0 &&
           call->state == REQUEST_OPEN && frame->number == call->number;
}

/* A reply to nothing that is open: too late, or not the first. */
static bool is_stray(struct session *s, const struct wire_frame *frame)
{
    return frame->type == WIRE_MESSAGE && (frame->flags & WIRE_F_REPLY) != 0 &&
           requests_find(&s->requests, (uint32_t)frame->number) == NULL;
}

static void drop_stray(struct session *s, const struct wire_frame *frame)
{
    s->stray++;
    let_go(s, frame);
}

/* This frame leaves its batch before its turn; its place is passed over later. */
static void take(struct inbox_batch *batch, const struct wire_frame *frame)
{
    wire_patch_type(batch->bytes + (frame->bytes - batch->bytes), FRAME_TAKEN, 0);
}

static void take_reply(struct session *s, struct inbox_batch *batch, const struct wire_frame *frame)
{
    s->reply = *frame;
    s->reply_batch = batch;
    inbox_hold(batch);
    requests_call(&s->requests)->state = REQUEST_DONE;
    take(batch, frame);
}

/* Go through bytes[at, end) of a batch for what does not wait for its turn. Late replies go at
 * once: who only ever asks and gives up would have the inbox full of them. Returns whether anything
 * is left for its turn. */
static bool take_out(struct session *s, struct inbox_batch *batch, uint32_t at, uint32_t end)
{
    struct wire_frame frame;
    bool left = false;

    for (; at < end; at += frame.size) {
        if (wire_get_delivery(batch->bytes + at, end - at, &frame) != WIRE_OK) {
            s->malformed++;
            return left;
        }
        if (answers_call(s, &frame)) {
            take_reply(s, batch, &frame);
        } else if (frame.type != WIRE_MESSAGE) {
            take_control(s, &frame);
        } else if (is_stray(s, &frame)) {
            drop_stray(s, &frame);
            take(batch, &frame);
        } else {
            left = true;
        }
    }
    return left;
}

/* A look through a whole batch costs; most cannot hold anything that does not wait. */
static bool must_look_through(const struct session *s, unsigned level)
{
    return level == WIRE_CONTROL || level == 0 ||
           s->requests.places[REQUESTS_CALL].state == REQUEST_OPEN;
}

static int refuse(struct session *s, struct inbox_batch *batch, int outcome)
{
    if (outcome == SESSION_REPEATED)
        s->repeated++;
    else
        s->malformed++;
    inbox_release(batch);
    return outcome;
}

static bool get_header(const struct session *s, const struct inbox_batch *batch, size_t size,
                       unsigned level, struct wire_batch *out)
{
    return wire_get_batch(batch->bytes, size, out) == WIRE_OK && out->level == level &&
           level < INBOX_LEVELS && (!s->welcomed || out->session == s->id);
}

static bool is_boxed(const struct wire_batch *header)
{
    return header->size == WIRE_BOXED_SIZE && header->frames[WIRE_AT_TYPE] == WIRE_BOXED;
}

/* The batch lies in a buffer of the outbox. It is copied before it is looked at, and the buffer
 * given back whatever is found in it: unless it is a late repeat's, and was used again and given
 * back since. Returns its size, 0: it cannot be there. */
static size_t unbox(struct session *s, struct inbox_batch *batch, const struct wire_batch *letter)
{
    _Atomic uint64_t *taken;
    struct wire_frame box;

    if (wire_get_delivery(letter->frames, letter->size, &box) != WIRE_OK || s->outbox == NULL ||
        box.buffer >= s->buffers || box.boxed_size > s->buffer_size ||
        box.boxed_size > s->inbox.width)
        return 0;
    memcpy(batch->bytes, s->outbox + outbox_buffer_offset(box.buffer), box.boxed_size);
    taken = &s->pool->taken[box.buffer];
    if (letter->number > atomic_load_explicit(taken, memory_order_relaxed))
        atomic_store_explicit(taken, letter->number, memory_order_release);
    return box.boxed_size;
}

int session_arrive(struct session *s, struct inbox_batch *batch, size_t size, unsigned level)
{
    struct wire_batch header;
    uint32_t at = WIRE_BATCH_SIZE;

    if (!get_header(s, batch, size, level, &header))
        return refuse(s, batch, SESSION_MALFORMED);
    if (is_boxed(&header)) {
        uint64_t number = header.number;

        size = unbox(s, batch, &header);
        if (number <= s->inbox.seen[level]) /* another may lie there by now */
            return refuse(s, batch, SESSION_REPEATED);
        if (!get_header(s, batch, size, level, &header) || header.number != number)
            return refuse(s, batch, SESSION_MALFORMED);
    }
    if (!inbox_fresh(&s->inbox, level, header.number))
        return refuse(s, batch, SESSION_REPEATED);
    note_read(&s->tide, level, header.number);
    if (header.grant > s->grant)
        s->grant = header.grant;
    if (header.missed > s->missed)
        s->missed = header.missed;

    if ((must_look_through(s, level) && !take_out(s, batch, at, (uint32_t)size)) || at == size)
        inbox_release(batch);
    else
        inbox_push(&s->inbox, batch, level, at, (uint32_t)size);
    return SESSION_ARRIVED;
}

/* ---- Handing out ---- */

/* Bytes of the taken frame at the front, or 0 if it is not one. */
static uint32_t taken_size(const uint8_t *bytes, uint32_t left)
{
    if (left < WIRE_HEAD_SIZE || bytes[WIRE_AT_TYPE] != FRAME_TAKEN ||
        wire_frame_size(bytes) < WIRE_HEAD_SIZE || wire_frame_size(bytes) > left)
        return 0;
    return wire_frame_size(bytes);
}

static bool is_for_reader(struct session *s, const struct wire_frame *frame)
{
    if (frame->type != WIRE_MESSAGE) /* taken when it arrived */
        return false;
    if (!is_stray(s, frame))
        return true;
    drop_stray(s, frame);
    return false;
}

bool session_peek(struct session *s, struct wire_frame *out)
{
    int best = inbox_best(&s->inbox);
    struct inbox_batch *batch;

    if (best < 0)
        return false;
    while ((batch = inbox_first(&s->inbox, (unsigned)best)) != NULL) {
        const uint8_t *bytes = batch->bytes + batch->at;
        uint32_t left = batch->end - batch->at;
        uint32_t skip = taken_size(bytes, left);

        if (skip == 0) {
            if (wire_get_delivery(bytes, left, out) != WIRE_OK ||
                (out->type == WIRE_MESSAGE && out->priority != best)) {
                s->malformed++;
                let_go_all(s, bytes, left);
                skip = left;
            } else if (is_for_reader(s, out)) {
                return true;
            } else {
                skip = out->size;
            }
        }
        inbox_advance(&s->inbox, (unsigned)best, skip);
    }
    return false;
}

struct inbox_batch *session_hand_out(struct session *s, const struct wire_frame *frame)
{
    struct inbox_batch *batch = inbox_first(&s->inbox, frame->priority);

    if ((frame->flags & WIRE_F_REPLY) != 0)
        requests_close(&s->requests, requests_find(&s->requests, (uint32_t)frame->number));
    inbox_hold(batch);
    inbox_advance(&s->inbox, frame->priority, frame->size);
    return batch;
}

void session_expire(struct session *s, const struct wire_frame *frame)
{
    s->expired++;
    if ((frame->flags & WIRE_F_ACK) != 0)
        acks_add(&s->acks, frame->number, ACKS_AGAIN, 0);
    else if (frame->text_size > 0)
        reports_add(&s->reports, frame->text, frame->text_size);
    let_go(s, frame);
    inbox_advance(&s->inbox, frame->priority, frame->size);
}

void session_lose(struct session *s, const struct wire_frame *frame)
{
    if ((frame->flags & WIRE_F_REPLY) != 0)
        requests_fail(&s->requests, requests_find(&s->requests, (uint32_t)frame->number),
                      WIRE_C_NO_COPY);
    session_expire(s, frame);
}

void session_end_call(struct session *s)
{
    struct request *call = requests_call(&s->requests);

    if (call->state != REQUEST_FREE)
        requests_close(&s->requests, call);
    if (s->reply_batch != NULL) {
        let_go(s, &s->reply);
        inbox_release(s->reply_batch);
    }
    s->reply_batch = NULL;
}
