/* What a session sends: whether there is room for it, which envelope it goes in, and the envelopes.
 *
 * There are two: one where frames gather, and one for what must not wait for it. Decisions about
 * messages of groups have one that the caller lends: they may have to go while both of these wait
 * for room. */
#include "libclient/session.h"

#include <assert.h>

/* ---- Room ---- */

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

void session_wait(struct session *s, bool for_pool, uint64_t returned)
{
    struct pool_header *pool = s->pool;

    if (s->waits == 0)
        s->n_waits++;
    s->waits = s->n_waits << 1 | for_pool;
    atomic_store_explicit(&pool->waits_sent, s->sent, memory_order_relaxed);
    atomic_store_explicit(&pool->waits_seen, for_pool ? returned : s->grant, memory_order_relaxed);
    atomic_store_explicit(&pool->waits, s->waits, memory_order_release);
}

void session_wait_over(struct session *s)
{
    if (s->waits == 0)
        return;
    s->waits = 0;
    atomic_store_explicit(&s->pool->waits, 0, memory_order_release);
}

bool session_is_stuck(const struct session *s)
{
    return s->waits != 0 &&
           atomic_load_explicit(&s->row->stuck, memory_order_relaxed) == (uint32_t)s->waits;
}

/* ---- Messages ---- */

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
    uint8_t *out = envelope->bytes + envelope->size;

    envelope->level = m->priority;
    envelope->size +=
        (uint32_t)(m->slot.size == 0
                       ? wire_put_message(out, m->type, m->priority, m->flags, m->number, m->expiry,
                                          m->topic, m->topic_size, m->payload, m->size)
                       : wire_put_pooled(out, m->type, m->priority, m->flags, m->number, m->expiry,
                                         m->topic, m->topic_size, &m->slot));
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

/* ---- Control frames ---- */

/* Begin an envelope of control frames; returns where the first one goes. */
static uint8_t *begin(struct session_envelope *envelope, uint8_t level)
{
    session_clear(envelope);
    envelope->level = level;
    return envelope->bytes + envelope->size;
}

static uint8_t *begin_control(struct session *s, uint8_t level)
{
    return begin(&s->alone, level);
}

void session_put_register(struct session *s, uint16_t flags, uint32_t pid, uint64_t start,
                          uint64_t pool, const char *name, size_t name_size)
{
    uint8_t *out = begin_control(s, WIRE_CONTROL);

    s->alone.size +=
        (uint32_t)wire_put_register(out, flags, s->nonce, pid, start, pool, name, name_size);
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

void session_put_fetch(struct session *s, uint64_t name)
{
    uint8_t *out = begin_control(s, WIRE_CONTROL);

    s->alone.size += (uint32_t)wire_put_fetch(out, name);
}

void session_put_join(struct session *s, const struct wire_frame *join)
{
    uint8_t *out = begin_control(s, WIRE_CONTROL);

    s->alone.size += (uint32_t)wire_put_join(out, join);
}

void session_put_will(struct session *s, const struct session_message *m)
{
    bool urgent = m->frame_size <= s->urgent_width - WIRE_ENVELOPE_SIZE;

    session_put_alone(s, m);
    s->alone.level = urgent ? WIRE_CONTROL : WIRE_URGENT - 1;
}

uint32_t session_put_acks(const struct session *s, struct session_envelope *out)
{
    uint8_t *frames = begin(out, WIRE_CONTROL);
    uint32_t n;

    out->size += (uint32_t)acks_put(&s->acks, frames, envelope_room(s, out), &n);
    return n;
}

void session_write_nudge(const struct session *s, uint8_t out[SESSION_NUDGE_SIZE])
{
    wire_put_envelope(out, s->id, s->token, SESSION_NUDGE_SIZE);
    wire_put_nudge(out + WIRE_ENVELOPE_SIZE);
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
