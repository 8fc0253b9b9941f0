/* See sim-crew.h. */
#include "tests/support/sim-crew.h"

#include "tests/support/sim-broker.h"
#include "tests/support/sim-world.h"

const struct crew_settings crew_settings = {.ack_ms = 300, .limit = 3};

enum { IN_GROUP = CREW_WAITS | CREW_OUT | CREW_LATER };

/* ---- Time ---- */

/* It may have come back. */
static void may_return(struct crew_message *m, uint8_t least, uint8_t most)
{
    m->states |= CREW_WAITS;
    m->displaced = m->displaced || m->held;
    if (m->tries + most >= crew_settings.limit)
        m->states |= CREW_DEAD;
    if (least < m->least)
        m->least = least;
    if (most > m->most)
        m->most = most;
}

/* Members whose sessions have ended, or are about to. What was given to one, and was on its way
 * when it ended, was tried, and nobody saw it. */
static uint8_t count_ends(const struct crew *c, bool complete)
{
    uint8_t n = 0;

    for (uint32_t i = 0; i < CREW_SESSIONS; i++) {
        const struct row *row = world_row(i);

        n += (uint8_t)((c->ever >> i & 1) != 0 &&
                       (row == NULL || (!complete && row->state != ROW_LIVE)));
    }
    return n;
}

/* How often it may have been tried by now. */
static uint32_t most_tries(const struct crew *c, const struct crew_message *m)
{
    return (uint32_t)m->tries + m->most + count_ends(c, false) - m->ends;
}

/* What may have happened to it by now, without anybody's being told. */
static void grow_older(const struct crew *c, struct crew_message *m)
{
    uint64_t now = world.now;

    if ((m->states & CREW_OUT) != 0 && m->due <= now)
        may_return(m, 1, 1);
    if ((m->states & CREW_OUT) != 0 && !model_serves(&world.model, m->session))
        may_return(m, world.model.sessions[m->session].said_bye ? 0 : 1, 1);
    if ((m->states & CREW_LATER) != 0 && m->due <= now)
        m->states |= CREW_WAITS;
    if ((m->states & IN_GROUP) != 0 && m->expiry != 0 && m->expiry <= now)
        m->states |= CREW_EXPIRED;
    if ((m->states & CREW_WAITS) != 0 && most_tries(c, m) >= crew_settings.limit)
        m->states |= CREW_DEAD;
}

/* ---- What the broker was told ---- */

void crew_join(struct crew *c, uint32_t session, uint32_t prefetch)
{
    c->there = true;
    if ((c->members >> session & 1) == 0)
        c->prefetch[session] = prefetch;
    c->members |= 1u << session;
    c->ever |= 1u << session;
}

void crew_leave(struct crew *c, uint32_t session)
{
    c->members &= ~(1u << session);
    for (uint32_t i = 0; i < c->n; i++) {
        struct crew_message *m = &c->messages[i];

        if ((m->states & CREW_OUT) == 0 || m->session != session)
            continue;
        grow_older(c, m);
        may_return(m, 0, 0);
        m->states &= (uint8_t)~CREW_OUT;
    }
}

void crew_accept(struct crew *c, uint32_t id, uint8_t level, uint64_t expiry)
{
    if (c->n == CREW_MESSAGES) {
        world_wrong("the run has too many messages of groups for the model");
        return;
    }
    c->messages[c->n++] = (struct crew_message){.id = id,
                                                .level = level,
                                                .states = CREW_WAITS,
                                                .ends = count_ends(c, true),
                                                .expiry = expiry};
}

static struct crew_message *find(struct crew *c, uint32_t session, uint64_t name)
{
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->messages[i].name == name && c->messages[i].session == session)
            return &c->messages[i];
    }
    return NULL;
}

/* Returned by its member, now. */
static void hand_back(struct crew_message *m, const struct wire_frame *f)
{
    bool dies = (f->flags & WIRE_F_DEAD) != 0 || m->tries + 1u >= crew_settings.limit;

    m->least = m->most = 1;
    m->displaced = m->displaced || m->held;
    if (dies) {
        m->states = CREW_DEAD;
    } else if (f->delay > 0) {
        m->states = CREW_LATER;
        m->due = broker_now() + f->delay * WORLD_MS;
    } else {
        m->states = CREW_WAITS;
    }
}

bool crew_decide(struct crew *c, uint32_t session, const struct wire_frame *f, uint64_t name)
{
    struct crew_message *m = find(c, session, name);
    struct crew_message decided;

    if (m == NULL)
        return false;
    if ((m->states & CREW_OUT) == 0)
        return true;
    grow_older(c, m);
    decided = *m;
    if (f->type == WIRE_ACK)
        decided.states = CREW_DONE;
    else
        hand_back(&decided, f);
    if (m->states != CREW_OUT) { /* or it came too late */
        decided.states |= m->states & (uint8_t)~CREW_OUT;
        decided.least = m->least < decided.least ? m->least : decided.least;
        decided.most = m->most > decided.most ? m->most : decided.most;
    }
    *m = decided;
    return true;
}

/* ---- What it did ---- */

/* Does `m` come before `other`? */
static bool precedes(const struct crew_message *m, const struct crew_message *other)
{
    return m->level > other->level || (m->level == other->level && m < other);
}

/* Nothing that waits for sure may be passed over. */
static void check_order(struct crew *c, const struct crew_message *sent)
{
    for (uint32_t i = 0; i < c->n; i++) {
        struct crew_message *m = &c->messages[i];

        grow_older(c, m);
        if (m->states == CREW_WAITS && !m->displaced && precedes(m, sent))
            world_wrong("a group sent %u, priority %u, while %u, priority %u, waited before it",
                        sent->id, sent->level, m->id, m->level);
    }
}

static void check_prefetch(struct crew *c, uint32_t session)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < c->n; i++) {
        grow_older(c, &c->messages[i]);
        n += c->messages[i].states == CREW_OUT && c->messages[i].session == session;
    }
    if (n > c->prefetch[session])
        world_wrong("session %u has %u messages of a group, and asked for %u at a time", session, n,
                    c->prefetch[session]);
}

static struct crew_message *find_id(struct crew *c, uint32_t id)
{
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->messages[i].id == id)
            return &c->messages[i];
    }
    return NULL;
}

void crew_sent(struct crew *c, uint32_t session, uint32_t id, const struct wire_frame *f,
               bool others_in_doubt)
{
    uint8_t tries = f->tries;
    struct crew_message *m = find_id(c, id);
    uint32_t most;

    if (m == NULL) {
        world_wrong("a group sent %u, which it never had", id);
        return;
    }
    grow_older(c, m);
    if ((m->states & CREW_WAITS) == 0) {
        world_wrong(m->states == CREW_DONE ? "a group sent %u again after it was acknowledged"
                    : m->states == CREW_OUT
                        ? "a group sent %u to a second member while the first had it"
                        : "a group sent %u, which was not there any more",
                    id);
        return;
    }
    most = most_tries(c, m);
    if (tries >= crew_settings.limit)
        world_wrong("a group sent %u although it had been tried often enough", id);
    if (tries < m->tries + m->least || tries > most)
        world_wrong("a group sent %u as tried %u times; it was %u to %u", id, tries,
                    m->tries + m->least, most);
    if (!others_in_doubt)
        check_order(c, m);
    m->states = CREW_OUT;
    m->session = (uint8_t)session;
    m->name = f->number;
    m->held = (f->flags & WIRE_F_POOLED) != 0;
    m->tries = tries;
    m->least = UINT8_MAX;
    m->most = 0;
    m->ends = count_ends(c, true);
    m->under_way[session]++;
    m->due = broker_now() + crew_settings.ack_ms * WORLD_MS;
    check_prefetch(c, session);
}

void crew_arrived(struct crew *c, uint32_t session, uint32_t id)
{
    struct crew_message *m = find_id(c, id);

    if (m == NULL || m->under_way[session] == 0)
        world_wrong("a message of a group came to session %u, and was not sent", session);
    else
        m->under_way[session]--;
}

/* ---- At rest ---- */

void crew_finish(struct crew *c, bool has_members, struct crew_count *out)
{
    *out = (struct crew_count){0};
    for (uint32_t i = 0; i < c->n; i++) {
        struct crew_message *m = &c->messages[i];

        grow_older(c, m);
        if (has_members && (m->states & ~IN_GROUP) == 0)
            world_wrong("message %u of a group was never dealt with", m->id);
        out->least += (m->states & ~IN_GROUP) == 0;
        out->most += (m->states & IN_GROUP) != 0;
        out->dead_least += m->states == CREW_DEAD;
        out->dead_most += (m->states & CREW_DEAD) != 0;
    }
    if (has_members)
        out->least = out->most = 0;
}
