/* Knots: who waits for room in vain.
 *
 * Room comes when what a client has published is used up. Each reference to that is an edge of a
 * graph: its publisher waits for who has it, or is to have it. A client has hope if it does not
 * wait, if time or the broker alone will end one of its references, or if one is with somebody who
 * has hope. The others wait in vain; found by taking all who wait to do so, and spreading hope
 * until nothing changes. Each of them for whom one of them waits is in a knot, or behind one and in
 * the way of somebody else.
 *
 * What is kept for good, as retained message or dead letter, is neither hope nor despair: it is
 * left out. Nor is it hope that a stalled receiver's backlog will be dropped (P7): better that the
 * receiver is told than that its messages are lost. */
#include "broker/knots.h"

#include "broker/groups.h"
#include "broker/pools.h"

enum {                         /* nanoseconds */
       LOOK_EVERY = 100000000, /* while somebody waits: as often as the broker listens to those */
       LOOK_AGAIN = 5000000,   /* at what may be a knot */
       VISIT_COST = 1000,      /* for each reference of this look the next one is so much later */
};

/* ---- Who waits ---- */

static uint64_t word_of(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static bool for_pool(uint64_t waits)
{
    return (waits & 1) != 0;
}

/* What a client must know that waits for this. */
static uint64_t news(const struct engine *e, uint16_t row, uint64_t waits)
{
    return for_pool(waits) ? word_of(&e->sessions[row].outbox->returned) : engine_grant(e, row);
}

/* The word by which it says that it waits; 0: it does not, or there is news for it, or from it. The
 * words are the client's: they can take hope from it, and from nobody who has other. */
static uint64_t waits_of(const struct engine *e, uint16_t row)
{
    const struct session *s = &e->sessions[row];
    uint64_t waits;

    if (engine_row(e, row)->state != ROW_LIVE || s->pool == NULL || s->outbox == NULL || s->broken)
        return 0;
    waits = word_of(&s->pool->waits);
    if (word_of(&s->pool->waits_seen) != news(e, row, waits) ||
        word_of(&s->pool->waits_sent) != engine_row(e, row)->received ||
        word_of(&s->pool->released) != word_of(&s->outbox->collected))
        return 0;
    return waits;
}

/* All who wait do so in vain. Returns whether one of them has something to be read or freed. */
static bool begin(struct engine *e)
{
    bool any = false;

    e->n_in_vain = 0;
    for (uint32_t i = 0; i < e->n_rows; i++) {
        struct session *s = &e->sessions[i];

        if (s->short_since != 0 && s->pool == NULL)
            pools_look_at(e, (uint16_t)i); /* so that it can say so */
        s->in_knot = false;
        s->in_vain = waits_of(e, (uint16_t)i);
        e->n_in_vain += s->in_vain != 0;
        any = any || (s->in_vain != 0 && s->out.head != 0);
    }
    return any;
}

/* Who, of those, waits for what this reference keeps: its publisher for window, or the owner of its
 * place for space. REF_NOBODY: none of them. */
static uint16_t waits_for_window(const struct engine *e, const struct reference *r)
{
    uint16_t row = store_cell(&e->store, r->cell)->account;
    uint64_t waits = e->sessions[row].in_vain;

    return waits != 0 && !for_pool(waits) && engine_pins(r) ? row : REF_NOBODY;
}

static uint16_t waits_for_space(const struct engine *e, const struct reference *r)
{
    uint16_t pool = store_cell(&e->store, r->cell)->pool;
    uint16_t row = pool == 0 ? REF_NOBODY : e->pools[pool - 1].owner;

    return row != REF_NOBODY && for_pool(e->sessions[row].in_vain) ? row : REF_NOBODY;
}

/* ---- What ends by itself ---- */

/* Will a message that waits in this group be given to somebody, who does not wait in vain, or at
 * least still gets what is sent to him? */
static bool group_moves(const struct engine *e, uint16_t g)
{
    const struct member *m = e->groups[g].members;

    if (m == NULL)
        return !group_is_dead(e, g);
    for (; m != NULL; m = m->next) {
        const struct session *s = &e->sessions[m->row];

        if (s->in_vain == 0 || (m->n_out < m->prefetch && !s->sated))
            return true;
    }
    return false;
}

static bool ends_in_group(const struct engine *e, const struct reference *r, uint16_t g)
{
    if (ref_state(r) == REF_WAIT && (r->when != 0 || (ref_flags(r) & REF_DURABLE) != 0))
        return true; /* it expires; its payload goes to the journal */
    return group_moves(e, g);
}

/* Will this reference end, or go to somebody with hope, though `holder` reads nothing? */
static bool ends(const struct engine *e, const struct reference *r, uint16_t holder)
{
    const struct session *s;

    if (owner_is_group(e, holder))
        return ends_in_group(e, r, owner_group(e, holder));
    s = &e->sessions[holder];
    if (s->in_vain == 0)
        return true;
    if (ref_state(r) == REF_WAIT)
        return !s->sated || r->when != 0 || ref_owner(r) != holder; /* a group's, on its way */
    if ((ref_flags(r) & REF_HELD) != 0)
        return false;
    if ((ref_flags(r) & REF_REQUEST) != 0)
        return true; /* it has a timeout */
    return owner_is_group(e, ref_owner(r)) && group_moves(e, owner_group(e, ref_owner(r)));
}

/* ---- The graph ---- */

typedef bool visitor(struct engine *e, const struct reference *r, uint16_t holder);

static bool visit_list(struct engine *e, const struct list *l, uint16_t holder, visitor *visit)
{
    bool any = false;

    for (uint32_t slot = l->head; slot != 0 && e->n_in_vain > 0;
         slot = engine_reference(e, slot)->next) {
        const struct reference *r = engine_reference(e, slot);

        e->n_knot_visits++;
        if (store_has_cell(r))
            any |= visit(e, r, holder);
    }
    return any;
}

static bool visit_backlog(struct engine *e, const struct backlog *b, uint16_t holder,
                          visitor *visit)
{
    bool any = false;

    for (uint64_t map = b->map; map != 0; map &= map - 1)
        any |= visit_list(e, &b->lists[__builtin_ctzll(map)], holder, visit);
    return any;
}

/* Every delivery, with the session that has it or is to have it, or the group that it waits in.
 * Returns whether one of the visits said true. */
static bool visit_all(struct engine *e, visitor *visit)
{
    bool any = false;

    for (uint32_t i = 0; i < e->n_rows; i++) {
        any |= visit_list(e, &e->sessions[i].out, (uint16_t)i, visit);
        any |= visit_backlog(e, &e->sessions[i].waiting, (uint16_t)i, visit);
    }
    for (uint32_t g = 0; g < 2 * e->n_groups; g++) {
        uint16_t owner = group_owner(e, (uint16_t)g);

        any |= visit_list(e, &e->groups[g].later, owner, visit);
        any |= visit_backlog(e, &e->groups[g].waiting, owner, visit);
    }
    return any;
}

static bool have_hope(struct engine *e, uint16_t row)
{
    if (row == REF_NOBODY)
        return false;
    e->sessions[row].in_vain = 0;
    e->n_in_vain--;
    return true;
}

static bool spread_hope(struct engine *e, const struct reference *r, uint16_t holder)
{
    uint16_t window = waits_for_window(e, r);
    uint16_t space = waits_for_space(e, r);
    bool one;

    if ((window == REF_NOBODY && space == REF_NOBODY) || !ends(e, r, holder))
        return false;
    one = have_hope(e, window);
    return have_hope(e, space) || one;
}

/* One that waits in vain waits for its holder; those who have it in a group are the members. */
static bool blame(struct engine *e, const struct reference *r, uint16_t holder)
{
    if (waits_for_window(e, r) == REF_NOBODY && waits_for_space(e, r) == REF_NOBODY)
        return false;
    if (!owner_is_group(e, holder)) {
        e->sessions[holder].in_knot = true;
        return true;
    }
    for (const struct member *m = e->groups[owner_group(e, holder)].members; m != NULL; m = m->next)
        e->sessions[m->row].in_knot = true;
    return true;
}

/* ---- Telling ---- */

/* What it knows only rises while it waits: if the sum is the same, all of it is. Returns whether it
 * is in a knot, and not to be told of it yet. */
static bool judge(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];
    _Atomic uint32_t *stuck = &board_row(e->board, row)->stuck;
    uint64_t before = s->knot_mark;

    s->knot_mark = 0;
    if (s->in_vain == 0 || !s->in_knot)
        return false;
    s->knot_mark = s->in_vain + engine_row(e, row)->received + news(e, row, s->in_vain);
    if (s->knot_mark != before)
        return true;
    if (atomic_load_explicit(stuck, memory_order_relaxed) != (uint32_t)s->in_vain) {
        atomic_store_explicit(stuck, (uint32_t)s->in_vain, memory_order_relaxed);
        s->nudge = true;
        engine_touch(e, row);
    }
    return false;
}

void knots_look(struct engine *e)
{
    bool again = false;

    e->n_knot_visits = 0;
    if (begin(e)) {
        while (visit_all(e, spread_hope))
            ;
        visit_all(e, blame);
    }
    for (uint32_t i = 0; i < e->n_rows; i++)
        again |= judge(e, (uint16_t)i);
    e->earliest_knot_look = e->now + LOOK_AGAIN + (uint64_t)e->n_knot_visits * VISIT_COST;
    e->next_knot_look = e->earliest_knot_look + (again ? 0 : LOOK_EVERY - LOOK_AGAIN);
}

uint64_t knots_next_look(const struct engine *e)
{
    return e->n_short > 0 ? e->next_knot_look : UINT64_MAX;
}

void knots_expect(struct engine *e)
{
    if (e->next_knot_look > e->earliest_knot_look)
        e->next_knot_look = e->earliest_knot_look;
}
