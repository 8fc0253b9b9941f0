/* The protocol engine of a client.
 *
 * It promises the reader three things. Strict order (P1): nothing is handed out while the board
 * says that something of a higher priority waits in the broker or stands in the queue, within
 * stated bounds. Nothing twice (K3): a batch that a restarted broker sends again is known by its
 * number. And that no bytes that come out of the queue can hurt: each batch and each frame goes
 * through the codec's checks before it is believed, and what fails them is counted and left out.
 *
 * Two kinds of frame do not wait for their turn. Answers settle what they answer when they arrive;
 * and the reply to the call that waits (mqc_request) is taken out of whatever batch it comes in,
 * where its frame is marked so that the reader goes past it.
 *
 * Sending needs two envelopes: one where frames gather, and one for what must not wait for it. */
#include "libclient/session.h"

#include <assert.h>
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

void session_attach(struct session *s, const struct board_row *row)
{
    s->row = row;
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

/* The reply leaves its batch before its turn; the frame's place is passed over later. */
static void take_reply(struct session *s, struct inbox_batch *batch, const struct wire_frame *frame)
{
    s->reply = *frame;
    s->reply_batch = batch;
    inbox_hold(batch);
    requests_call(&s->requests)->state = REQUEST_DONE;
    wire_patch_type(batch->bytes + (frame->bytes - batch->bytes), FRAME_TAKEN, 0);
}

/* Go through bytes[at, end) of a batch for what does not wait for its turn. Returns whether
 * anything is left for its turn. */
static bool take_out(struct session *s, struct inbox_batch *batch, uint32_t at, uint32_t end)
{
    struct wire_frame frame;
    bool left = false;

    for (; at < end; at += frame.size) {
        if (wire_get_delivery(batch->bytes + at, end - at, &frame) != WIRE_OK) {
            s->malformed++;
            return left;
        }
        if (answers_call(s, &frame))
            take_reply(s, batch, &frame);
        else if (frame.type != WIRE_MESSAGE)
            take_control(s, &frame);
        else
            left = true;
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

int session_arrive(struct session *s, struct inbox_batch *batch, size_t size, unsigned level)
{
    struct wire_batch header;
    uint32_t at = WIRE_BATCH_SIZE;

    if (wire_get_batch(batch->bytes, size, &header) != WIRE_OK || header.level != level ||
        level >= INBOX_LEVELS || (s->welcomed && header.session != s->id))
        return refuse(s, batch, SESSION_MALFORMED);
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
    if ((frame->flags & WIRE_F_REPLY) == 0 ||
        requests_find(&s->requests, (uint32_t)frame->number) != NULL)
        return true;
    s->stray++;
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
    if (frame->text_size > 0)
        reports_add(&s->reports, frame->text, frame->text_size);
    inbox_advance(&s->inbox, frame->priority, frame->size);
}

void session_end_call(struct session *s)
{
    struct request *call = requests_call(&s->requests);

    if (call->state != REQUEST_FREE)
        requests_close(&s->requests, call);
    if (s->reply_batch != NULL)
        inbox_release(s->reply_batch);
    s->reply_batch = NULL;
}

/* ---- Sending ---- */

static bool fits(const struct session *s, unsigned priority, uint64_t charge)
{
    uint64_t kept = priority < WIRE_URGENT ? s->window / 4 : 0;
    uint64_t limit = s->grant > kept ? s->grant - kept : 0;

    return s->sent <= limit && charge <= limit - s->sent;
}

bool session_room(struct session *s, const struct session_message *m, bool confirm)
{
    uint64_t charge = wire_charge(m->frame_size);
    uint64_t grant;

    if (confirm && !confirms_room(&s->confirms))
        return false;
    if (fits(s, m->priority, charge))
        return true;
    grant = board_get(&s->row->grant);
    if (grant > s->grant)
        s->grant = grant;
    return fits(s, m->priority, charge);
}

static uint32_t envelope_room(const struct session *s, const struct session_envelope *envelope)
{
    uint32_t width = envelope->level >= WIRE_URGENT ? s->urgent_width : s->normal_width;

    return width - envelope->size;
}

int session_place(struct session *s, const struct session_message *m)
{
    bool first = m->priority != s->last_priority; /* of this priority */

    s->last_priority = m->priority;
    if (!s->batching)
        return SESSION_ALONE;
    if (!session_gathers(s))
        return SESSION_GATHER;
    if (m->priority == s->gathered.level)
        return m->frame_size <= envelope_room(s, &s->gathered) ? SESSION_GATHER
                                                               : SESSION_FLUSH_FIRST;
    return m->priority > s->gathered.level && first ? SESSION_ALONE : SESSION_FLUSH_FIRST;
}

static void put(struct session_envelope *envelope, const struct session_message *m)
{
    envelope->level = m->priority;
    envelope->size += (uint32_t)wire_put_message(envelope->bytes + envelope->size, m->type,
                                                 m->priority, m->flags, m->number, m->expiry,
                                                 m->topic, m->topic_size, m->payload, m->size);
}

void session_put_alone(struct session *s, const struct session_message *m)
{
    session_clear(&s->alone);
    put(&s->alone, m);
}

void session_gather(struct session *s, const struct session_message *m)
{
    assert(!session_gathers(s) || m->priority == s->gathered.level);
    put(&s->gathered, m);
}

/* Begin an envelope of control frames; returns where the first one goes. */
static uint8_t *begin_control(struct session *s, uint8_t level)
{
    session_clear(&s->alone);
    s->alone.level = level;
    return s->alone.bytes + s->alone.size;
}

void session_put_register(struct session *s, uint16_t flags, uint32_t pid, uint64_t start,
                          const char *name, size_t name_size)
{
    uint8_t *out = begin_control(s, WIRE_CONTROL);

    s->alone.size += (uint32_t)wire_put_register(out, flags, s->nonce, pid, start, name, name_size);
}

void session_put_text(struct session *s, uint8_t type, uint16_t flags, uint32_t number,
                      const char *text, size_t text_size)
{
    uint8_t *out = begin_control(s, WIRE_CONTROL);

    s->alone.size += (uint32_t)wire_put_text(out, type, flags, number, text, text_size);
}

void session_put_bye(struct session *s)
{
    uint8_t *out = begin_control(s, 0);

    s->alone.size += (uint32_t)wire_put_bye(out);
}

uint32_t session_put_reports(struct session *s)
{
    uint8_t *out = begin_control(s, WIRE_CONTROL);
    uint32_t n = 0;

    for (; n < s->reports.n; n++) {
        const struct report *report = &s->reports.topics[n];

        if (WIRE_TEXT_SIZE + report->size + 1u > envelope_room(s, &s->alone))
            break;
        out += wire_put_text(out, WIRE_REPORT, 0, report->count, report->topic, report->size);
        s->alone.size = (uint32_t)(out - s->alone.bytes);
    }
    return n;
}

void session_seal(const struct session *s, struct session_envelope *envelope)
{
    wire_put_envelope(envelope->bytes, s->id, s->token, envelope->size);
}
