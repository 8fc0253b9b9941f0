/* The engine counted again. See engine-check.h.
 *
 * Every count is made a second time by the most obvious loop there is, from the words of the
 * references alone, and compared. A fault is a sentence with the figures in it, so that a finding
 * of the fuzzer can be read without a debugger. */
#include "tests/support/engine-check.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/groups.h"
#include "broker/pools.h"

struct check {
    const struct engine *e;
    uint8_t *seen;    /* by reference slot: found in a list */
    uint8_t *reached; /* by cell: reached by a live reference */
    uint32_t *refs;   /* by first cell */
    uint32_t *pins;
    uint32_t *pooled; /* by slot of the ledger's pools: cells that name a place in it */
    char *fault;      /* NULL: none so far */
};

static char sentence[256];

__attribute__((format(printf, 2, 3))) static void fault(struct check *k, const char *format, ...)
{
    va_list list;

    if (k->fault != NULL)
        return; /* the first one is the one to be read */
    va_start(list, format);
    vsnprintf(sentence, sizeof(sentence), format, list);
    va_end(list);
    k->fault = sentence;
}

/* Two figures of the same thing. */
static void same(struct check *k, const char *what, uint64_t i, uint64_t is, uint64_t should)
{
    if (is != should)
        fault(k, "%s of %llu is %lld, not %lld", what, (unsigned long long)i, (long long)is,
              (long long)should);
}

/* ---- Slots ---- */

static bool alive(const struct check *k, uint32_t slot)
{
    return ref_state(engine_reference(k->e, slot)) != REF_FREE;
}

static void check_free_references(struct check *k)
{
    const struct store_pool *p = &k->e->store.reference_pool;
    uint32_t n_alive = 0;
    uint32_t n_free = 0;

    for (uint32_t slot = 1; slot < p->max; slot++) {
        if (!alive(k, slot))
            continue;
        n_alive++;
        if (slot >= p->high)
            fault(k, "reference %u lives above the high-water mark %u", slot, p->high);
        if (engine_reference(k->e, slot)->age >= k->e->ledger->header.committed)
            fault(k, "reference %u was never committed", slot);
    }
    same(k, "number of references", 0, p->n_used, n_alive);
    for (uint32_t slot = p->free; slot != 0; slot = engine_reference(k->e, slot)->next) {
        if (slot >= p->high || alive(k, slot) || ++n_free >= p->high) {
            fault(k, "the free list of references is damaged at %u", slot);
            return;
        }
    }
    same(k, "number of free references", 0, n_free, p->high - 1 - n_alive);
}

/* Mark a chain of cells. */
static void reach(struct check *k, uint32_t first)
{
    const struct store *s = &k->e->store;
    uint32_t n = 0;

    for (uint32_t cell = first; cell != 0; cell = store_cell(s, cell)->next) {
        if (cell >= s->cell_pool.high || k->reached[cell]) {
            fault(k, "the cells of %u are damaged at %u", first, cell);
            return;
        }
        k->reached[cell] = 1;
        n++;
    }
    same(k, "number of cells", first, n, wire_cells(store_cell(s, first)->size));
}

static bool pins(const struct reference *r)
{
    bool lent = (ref_flags(r) & REF_ANSWER) != 0 && ref_tries(r) == ENGINE_LENT;

    return (ref_state(r) == REF_WAIT || ref_state(r) == REF_OUT || ref_state(r) == REF_LATER) &&
           (ref_flags(r) & REF_RETAINED) == 0 && !lent;
}

static void check_cells(struct check *k)
{
    const struct store *s = &k->e->store;
    uint32_t n_used = 0;
    uint32_t n_free = 0;

    for (uint32_t slot = 1; slot < s->reference_pool.high; slot++) {
        const struct reference *r = engine_reference(k->e, slot);

        if (!alive(k, slot) || !store_has_cell(r) || ref_on_disk(r))
            continue;
        if (r->cell == 0 || r->cell >= s->cell_pool.high) {
            fault(k, "reference %u has cell %u", slot, r->cell);
            return;
        }
        if (k->refs[r->cell]++ == 0)
            reach(k, r->cell);
        k->pins[r->cell] += pins(r);
    }
    for (uint32_t cell = 1; cell < s->cell_pool.high; cell++) {
        n_used += k->reached[cell];
        if (k->refs[cell] > 0) {
            same(k, "refs of cell", cell, store_cell(s, cell)->refs, k->refs[cell]);
            same(k, "pins of cell", cell, store_cell(s, cell)->pins, k->pins[cell]);
        }
    }
    same(k, "number of cells in use", 0, s->cell_pool.n_used, n_used);
    for (uint32_t cell = s->cell_pool.free; cell != 0; cell = store_cell(s, cell)->next) {
        if (cell >= s->cell_pool.high || k->reached[cell] || ++n_free >= s->cell_pool.high) {
            fault(k, "the free list of cells is damaged at %u", cell);
            return;
        }
    }
    same(k, "number of free cells", 0, n_free, s->cell_pool.high - 1 - n_used);
}

/* ---- Lists ---- */

/* Walk a list; `take` sees each reference. Its links fit, and nobody stands in two lists. */
static void walk(struct check *k, const struct list *l,
                 void (*take)(struct check *k, uint32_t slot, void *context), void *context)
{
    uint32_t prev = 0;

    for (uint32_t slot = l->head; slot != 0; slot = engine_reference(k->e, slot)->next) {
        if (slot >= k->e->store.reference_pool.high || k->seen[slot]) {
            fault(k, "a list is damaged at %u", slot);
            return;
        }
        k->seen[slot] = 1;
        same(k, "prev of reference", slot, engine_reference(k->e, slot)->prev, prev);
        take(k, slot, context);
        prev = slot;
    }
    if (l->head != 0)
        same(k, "tail of the list that begins with", l->head, l->tail, prev);
}

struct waiting {
    uint16_t row;
    unsigned level;
    uint32_t n, n_answers;
    uint64_t bytes;
    uint64_t youngest; /* age of the last one that came into its list by being made */
};

static void take_waiting(struct check *k, uint32_t slot, void *context)
{
    struct waiting *w = context;
    const struct reference *r = engine_reference(k->e, slot);

    same(k, "state of waiting reference", slot, ref_state(r), REF_WAIT);
    same(k, "owner of waiting reference", slot, ref_owner(r), w->row);
    same(k, "level of waiting reference", slot, ref_level(r), w->level);
    if (w->level < WIRE_LEVELS && r->age <= w->youngest)
        fault(k, "reference %u waits behind a younger one", slot);
    w->youngest = r->age;
    w->n++;
    w->n_answers += (ref_flags(r) & REF_ANSWER) != 0;
    if (store_has_cell(r))
        w->bytes += wire_charge(engine_cell(k->e, slot)->size);
}

static void check_waiting(struct check *k, uint16_t row)
{
    const struct session *s = &k->e->sessions[row];
    struct waiting w = {.row = row};

    for (w.level = 0; w.level < BACKLOG_LISTS; w.level++) {
        const struct list *l = &s->waiting.lists[w.level];

        same(k, "bit of a list in the map of session", row, s->waiting.map >> w.level & 1,
             l->head != 0);
        w.youngest = 0;
        walk(k, l, take_waiting, &w);
    }
    same(k, "n_waiting of session", row, s->n_waiting, w.n);
    same(k, "n_answers of session", row, s->n_answers, w.n_answers);
    same(k, "waiting_bytes of session", row, s->waiting_bytes, w.bytes);
}

static void take_out(struct check *k, uint32_t slot, void *context)
{
    const uint16_t *row = context;
    const struct reference *r = engine_reference(k->e, slot);

    if (ref_state(r) != REF_WAIT || !owner_is_group(k->e, ref_owner(r))) /* given, and in doubt */
        same(k, "state of sent reference", slot, ref_state(r), REF_OUT);
    same(k, "member of sent reference", slot, ref_member(r), *row);
}

struct filters_seen {
    uint16_t row;
    uint32_t n;
};

static void take_filter(struct check *k, uint32_t slot, void *context)
{
    struct filters_seen *seen = context;
    const struct reference *r = engine_reference(k->e, slot);
    uint8_t bytes[WIRE_QUEUE_MAX];
    struct wire_frame f;

    same(k, "state of filter", slot, ref_state(r), REF_FILTER);
    same(k, "owner of filter", slot, ref_owner(r), seen->row);
    store_get(&k->e->store, r->cell, bytes);
    if (wire_get_request(bytes, engine_cell(k->e, slot)->size, &f) != WIRE_OK)
        fault(k, "filter %u is no frame", slot);
    else
        same(k, "reference of a filter in the tree", slot,
             filters_find(&k->e->filters, f.text, f.text_size, seen->row), slot);
    seen->n++;
}

/* ---- Groups ---- */

struct grouped {
    uint16_t g;
    unsigned level;
    enum reference_state state;
    uint32_t n;
    uint64_t youngest;
};

static void take_grouped(struct check *k, uint32_t slot, void *context)
{
    struct grouped *seen = context;
    const struct reference *r = engine_reference(k->e, slot);

    same(k, "state of a group's reference", slot, ref_state(r), seen->state);
    same(k, "owner of a group's reference", slot, ref_owner(r), group_owner(k->e, seen->g));
    if (seen->state != REF_WAIT) {
        seen->n++;
        return;
    }
    same(k, "member of a group's waiting reference", slot, ref_member(r), REF_NOBODY);
    same(k, "level of a group's waiting reference", slot, ref_level(r), seen->level);
    if (r->age <= seen->youngest)
        fault(k, "reference %u waits in its group behind a younger one", slot);
    seen->youngest = r->age;
    seen->n++;
}

/* Messages of a group by their words: all of them, and those out. */
static void count_grouped(const struct check *k, uint16_t g, uint32_t *n_out, uint64_t *bytes)
{
    for (uint32_t slot = 1; slot < k->e->store.reference_pool.high; slot++) {
        const struct reference *r = engine_reference(k->e, slot);

        if (!alive(k, slot) || ref_owner(r) != group_owner(k->e, g) ||
            (ref_flags(r) & (REF_ACK | REF_ANSWER)) != REF_ACK)
            continue;
        *n_out +=
            ref_state(r) == REF_OUT || (ref_state(r) == REF_WAIT && ref_member(r) != REF_NOBODY);
        if (!ref_on_disk(r))
            *bytes += cell_kept_size(engine_cell(k->e, slot));
    }
}

static void check_members(struct check *k, uint16_t g)
{
    const struct group *group = &k->e->groups[g];
    uint32_t n_is = 0, n_should = 0;

    for (const struct member *m = group->members; m != NULL; m = m->next) {
        const struct reference *r = engine_reference(k->e, m->slot);
        uint32_t n_out = 0;

        same(k, "state of a member's reference", m->slot, ref_state(r), REF_MEMBER);
        same(k, "row of a member", m->slot, ref_member(r), m->row);
        for (uint32_t slot = k->e->sessions[m->row].out.head; slot != 0;
             slot = engine_reference(k->e, slot)->next) {
            const struct reference *out = engine_reference(k->e, slot);

            n_out += (ref_flags(out) & REF_ACK) != 0 && ref_owner(out) == group_owner(k->e, g);
        }
        same(k, "n_out of the member in row", m->row, m->n_out, n_out);
        if (n_out > m->prefetch)
            fault(k, "row %u has %u messages of group %u, more than its prefetch", m->row, n_out,
                  g);
        n_is++;
    }
    for (uint32_t slot = 1; slot < k->e->store.reference_pool.high; slot++) {
        const struct reference *r = engine_reference(k->e, slot);

        n_should += ref_state(r) == REF_MEMBER && ref_owner(r) == group_owner(k->e, g);
    }
    same(k, "members of group", g, n_is, n_should);
    same(k, "n_members of group", g, group->n_members, n_should);
}

static uint32_t check_group(struct check *k, uint16_t g)
{
    const struct group *group = &k->e->groups[g];
    struct grouped seen = {.g = g, .state = REF_WAIT};
    struct grouped later = {.g = g, .state = REF_LATER};
    struct filters_seen filters = {.row = group_owner(k->e, g)};
    uint32_t n_out = 0;
    uint64_t bytes = 0;

    for (seen.level = 0; seen.level < BACKLOG_LISTS; seen.level++) {
        same(k, "bit of a list in the map of group", g, group->waiting.map >> seen.level & 1,
             group->waiting.lists[seen.level].head != 0);
        seen.youngest = 0;
        walk(k, &group->waiting.lists[seen.level], take_grouped, &seen);
    }
    walk(k, &group->later, take_grouped, &later);
    walk(k, &group->filters, take_filter, &filters);
    count_grouped(k, g, &n_out, &bytes);
    same(k, "n_waiting of group", g, group->n_waiting, seen.n);
    same(k, "n_later of group", g, group->n_later, later.n);
    same(k, "n_out of group", g, group->n_out, n_out);
    same(k, "bytes of group", g, group->bytes, bytes);
    check_members(k, g);
    if (group_row(k->e, g)->state == GROUP_FREE && !group_is_dead(k->e, g))
        same(k, "references of a group that is none", g,
             seen.n + later.n + filters.n + n_out + group->n_members, 0);
    return filters.n;
}

static void check_lists(struct check *k)
{
    const struct engine *e = k->e;
    uint32_t n_filters = 0;

    for (uint32_t i = 0; i < e->n_rows; i++) {
        uint16_t row = (uint16_t)i;
        struct filters_seen filters = {.row = row};

        check_waiting(k, row);
        walk(k, &e->sessions[i].out, take_out, &row);
        walk(k, &e->sessions[i].filters, take_filter, &filters);
        same(k, "n_filters of session", i, e->sessions[i].n_filters, filters.n);
        n_filters += filters.n;
    }
    for (uint32_t g = 0; g < 2 * e->n_groups; g++)
        n_filters += check_group(k, (uint16_t)g);
    same(k, "number of subscriptions", 0, e->filters.n, n_filters);
    for (uint32_t slot = 1; slot < e->store.reference_pool.high; slot++) {
        enum reference_state state = (enum reference_state)ref_state(engine_reference(e, slot));

        if ((ref_flags(engine_reference(e, slot)) & (REF_ANSWER | REF_DURABLE)) ==
            (REF_ANSWER | REF_DURABLE))
            continue;
        if (alive(k, slot) && state != REF_KEPT && state != REF_MEMBER && state != REF_WILL &&
            state != REF_PASSING && !k->seen[slot])
            fault(k, "reference %u stands in no list", slot);
    }
}

/* ---- Accounts ---- */

static uint64_t charge_of(const struct check *k, uint32_t row)
{
    uint64_t charge = 0;

    for (uint32_t cell = 1; cell < k->e->store.cell_pool.high; cell++) {
        const struct cell *c = store_cell(&k->e->store, cell);

        if (k->refs[cell] > 0 && k->pins[cell] > 0 && c->account == row)
            charge += wire_charge(c->size);
    }
    return charge;
}

static void check_accounts(struct check *k)
{
    const struct engine *e = k->e;
    uint32_t n_short = 0, n_over = 0, n_stalled = 0, n_live = 0;

    for (uint32_t i = 0; i < e->n_rows; i++) {
        const struct session *s = &e->sessions[i];

        same(k, "charge of session", i, s->charged, charge_of(k, i));
        same(k, "over its quota, session", i, s->over_since != 0,
             s->waiting_bytes > e->settings.backlog_size);
        if (s->charged > e->window)
            fault(k, "session %u is charged more than its window", i);
        if (s->short_since != 0 && s->wants == 0 && s->charged <= e->window / 2)
            fault(k, "session %u has half of its window and counts as out of room", i);
        n_short += s->short_since != 0;
        n_over += s->over_since != 0;
        n_stalled += s->stalled > 0;
        n_live += engine_row(e, (uint16_t)i)->state == ROW_LIVE;
    }
    same(k, "n_short", 0, e->n_short, n_short);
    same(k, "n_over", 0, e->n_over, n_over);
    same(k, "n_stalled", 0, e->n_stalled, n_stalled);
    same(k, "n_live", 0, e->n_live, n_live);
}

/* ---- Deadlines and retained messages ---- */

static void check_timers(struct check *k)
{
    const struct timers *t = &k->e->timers;
    uint32_t n = 0;

    for (uint32_t i = 0; i < t->n; i++) {
        if (i > 0 && t->heap[(i - 1) / 2].when > t->heap[i].when)
            fault(k, "the heap of deadlines is none at %u", i);
        same(k, "place of the deadline of", t->heap[i].slot, t->place[t->heap[i].slot], i + 1);
    }
    for (uint32_t slot = 1; slot < k->e->store.reference_pool.high; slot++) {
        const struct reference *r = engine_reference(k->e, slot);
        bool has = alive(k, slot) && r->when != 0 && (ref_flags(r) & REF_ANSWER) == 0 &&
                   (ref_state(r) != REF_OUT || (ref_flags(r) & (REF_REQUEST | REF_ACK)) != 0);

        same(k, "has a deadline, reference", slot, t->place[slot] != 0, has);
        if (has && t->place[slot] != 0 && t->heap[t->place[slot] - 1].when < r->when)
            fault(k, "the deadline of %u comes early", slot);
        n += has;
    }
    same(k, "number of deadlines", 0, t->n, n);
}

struct kept {
    struct check *k;
    uint32_t n;
    uint64_t bytes;
};

static void take_kept(void *context, struct topic *topic)
{
    struct kept *kept = context;
    struct check *k = kept->k;
    uint32_t slot = topic_kept(topic);
    uint8_t bytes[WIRE_QUEUE_MAX];
    struct wire_frame f;
    size_t size;
    const char *name = topic_name(topic, &size);

    same(k, "state of the message kept for a topic", slot, ref_state(engine_reference(k->e, slot)),
         REF_KEPT);
    if (k->fault != NULL)
        return;
    store_get(&k->e->store, engine_reference(k->e, slot)->cell, bytes);
    if (wire_get_delivery(bytes, engine_cell(k->e, slot)->size, &f) != WIRE_OK ||
        f.text_size != size || memcmp(f.text, name, size) != 0)
        fault(k, "the message kept for topic \"%s\" is not of that topic", name);
    kept->n++;
    kept->bytes += wire_charge(engine_cell(k->e, slot)->size);
    if ((f.flags & WIRE_F_POOLED) != 0)
        kept->bytes += f.slot.size;
}

static void check_kept(struct check *k)
{
    const struct engine *e = k->e;
    struct kept kept = {.k = k};
    uint32_t n = 0;

    topics_each_kept(&e->topics, take_kept, &kept);
    for (uint32_t slot = 1; slot < e->store.reference_pool.high; slot++)
        n += ref_state(engine_reference(e, slot)) == REF_KEPT;
    same(k, "number of kept messages with a topic", 0, kept.n, n);
    same(k, "n_retained", 0, e->n_retained, n);
    same(k, "retained_bytes", 0, e->retained_bytes, kept.bytes);
}

/* ---- Payload pools ---- */

/* Each cell with a pooled message counts for the pool that the message names. */
static void count_pooled_cells(struct check *k)
{
    const struct engine *e = k->e;

    for (uint32_t cell = 1; cell < e->store.cell_pool.high; cell++) {
        const struct cell *c = store_cell(&e->store, cell);
        uint16_t pool;

        if (k->refs[cell] == 0)
            continue;
        pool = c->bytes[WIRE_AT_TYPE] == WIRE_MESSAGE && cell_pooled(c)
                   ? pools_find(e, wire_message_slot(c->bytes).pool)
                   : 0;
        same(k, "pool of cell", cell, c->pool, pool);
        if (pool != 0)
            k->pooled[pool - 1]++;
    }
}

static void check_holder(struct check *k, uint16_t row)
{
    const struct engine *e = k->e;
    const struct session *s = &e->sessions[row];
    uint32_t n = 0;
    uint64_t bytes = 0;
    bool listed = false;

    for (uint32_t slot = s->out.head; slot != 0; slot = engine_reference(e, slot)->next) {
        if ((ref_flags(engine_reference(e, slot)) & REF_HELD) == 0)
            continue;
        n++;
        bytes += wire_message_slot(engine_cell(e, slot)->bytes).size;
    }
    same(k, "n_held of session", row, s->n_held, n);
    same(k, "held_bytes of session", row, s->held_bytes, bytes);
    if (n > POOL_HELD)
        fault(k, "session %u holds %u", row, n);
    for (uint32_t i = 0; i < e->holders.n; i++)
        listed = listed || e->holders.rows[i] == row;
    same(k, "is looked at, session", row, s->holding, listed);
    if (!listed && (n > 0 || (engine_row(e, row)->state != ROW_FREE &&
                              k->pooled[engine_row(e, row)->pool_slot] > 0)))
        fault(k, "nobody looks at the pool of session %u", row);
}

/* Whose a pool is; an orphan is one that somebody needs still. */
static void check_pools(struct check *k)
{
    const struct engine *e = k->e;
    uint32_t n_orphans = 0, n_wanting = 0, n_sated = 0, n_owned = 0, n_owners = 0;

    count_pooled_cells(k);
    for (uint32_t row = 0; row < e->n_rows; row++) {
        const struct row *r = engine_row(e, (uint16_t)row);

        if (r->state != ROW_FREE)
            same(k, "owner of pool", r->pool_slot, e->pools[r->pool_slot].owner, row);
        n_owned += r->state != ROW_FREE;
    }
    for (uint32_t i = 0; i < e->n_pools; i++) {
        if (e->pools[i].owner != REF_NOBODY)
            n_owners++;
        else if (ledger_pools(e->ledger)[i] != 0 && k->pooled[i] > 0)
            n_orphans++;
        if (e->pools[i].refs != k->pooled[i])
            same(k, "cells that need pool", i, e->pools[i].refs, k->pooled[i]);
    }
    same(k, "number of pools with an owner", 0, n_owners, n_owned);
    for (uint32_t row = 0; row < e->n_rows; row++) {
        check_holder(k, (uint16_t)row);
        n_wanting += e->sessions[row].wants != 0;
        n_sated += e->sessions[row].sated;
    }
    same(k, "n_orphans", 0, e->n_orphans, n_orphans);
    same(k, "n_wanting", 0, e->n_wanting, n_wanting);
    same(k, "n_sated", 0, e->n_sated, n_sated);
}

/* ---- The board ---- */

static void check_waiting_counters(struct check *k)
{
    const struct engine *e = k->e;
    uint64_t levels[WIRE_LEVELS] = {0};
    uint64_t all = 0;
    uint64_t topics = 0;

    for (uint32_t slot = 1; slot < e->store.reference_pool.high; slot++) {
        const struct reference *r = engine_reference(e, slot);

        if (ref_state(r) == REF_WAIT && ref_level(r) < WIRE_LEVELS &&
            !owner_is_group(e, ref_owner(r))) {
            levels[ref_level(r)]++;
            all++;
        }
    }
    for (unsigned level = 0; level < WIRE_LEVELS; level++)
        same(k, "waiting on the board at priority", level,
             board_get(&e->board->priorities[level].waiting), levels[level]);
    for (uint32_t i = 0; i < e->board->n_topics; i++) {
        uint64_t n = board_get(&board_topic(e->board, i)->waiting);

        if (n > all)
            fault(k, "topic row %u of the board says that %lld wait", i, (long long)n);
        topics += n;
    }
    same(k, "waiting in all topics", 0, topics, all);
}

static void check_board(struct check *k)
{
    const struct engine *e = k->e;

    check_waiting_counters(k);
    for (uint32_t i = 0; i < e->n_rows; i++) {
        const struct row *row = engine_row(e, (uint16_t)i);
        uint64_t tide = atomic_load(&board_row(e->board, i)->tide);

        if (row->state != ROW_LIVE)
            continue;
        same(k, "waiting levels on the board of row", i, tide >> 32,
             e->sessions[i].waiting.map & UINT32_MAX);
        same(k, "newest number on the board of row", i, (uint32_t)tide, (uint32_t)row_number(row));
    }
}

static void check_landing(struct check *k)
{
    const uint8_t *bytes = k->e->landing->bytes;

    if (bytes[0] != 0 || memcmp(bytes, bytes + 1, sizeof(k->e->landing->bytes) - 1) != 0)
        fault(k, "the landing is not clear");
    same(k, "ends in the landing", 0, k->e->landing->n_ends, 0);
    same(k, "places in the landing", 0, k->e->landing->n_returns, 0);
    same(k, "next age", 0, k->e->next_age >= k->e->ledger->header.committed, 1);
}

const char *engine_fault(const struct engine *e)
{
    struct check k = {
        .e = e,
        .seen = calloc(e->store.reference_pool.max, 1),
        .reached = calloc(e->store.cell_pool.max, 1),
        .refs = calloc(e->store.cell_pool.max, sizeof(uint32_t)),
        .pins = calloc(e->store.cell_pool.max, sizeof(uint32_t)),
        .pooled = calloc(e->n_pools, sizeof(uint32_t)),
    };
    static void (*const checks[])(struct check * k) = {
        check_free_references, check_cells, check_lists,   check_accounts, check_timers, check_kept,
        check_pools,           check_board, check_landing,
    };

    if (k.seen == NULL || k.reached == NULL || k.refs == NULL || k.pins == NULL || k.pooled == NULL)
        fault(&k, "out of memory");
    for (size_t i = 0; i < sizeof(checks) / sizeof(checks[0]) && k.fault == NULL; i++)
        checks[i](&k); /* each relies on those before it */
    free(k.seen);
    free(k.reached);
    free(k.refs);
    free(k.pins);
    free(k.pooled);
    return k.fault;
}

/* ---- Description ---- */

/* Lists but those of messages are in the order of ages only after a start: sorted here. */
static int by_age(const void *a, const void *b)
{
    const struct reference *x = *(const struct reference *const *)a;
    const struct reference *y = *(const struct reference *const *)b;

    return x->age < y->age ? -1 : x->age > y->age;
}

/* The references of a state that name this row as owner (OUT: as member), by age. */
static void describe_list(FILE *out, const struct engine *e, enum reference_state state,
                          unsigned row, const struct reference **sorted)
{
    size_t n = 0;

    for (uint32_t slot = 1; slot < e->store.reference_pool.high; slot++) {
        const struct reference *r = engine_reference(e, slot);

        if (ref_state(r) == state && row == (state == REF_OUT ? ref_member(r) : ref_owner(r)))
            sorted[n++] = r;
    }
    qsort(sorted, n, sizeof(*sorted), by_age);
    for (size_t i = 0; i < n; i++)
        fprintf(out, "  %u: age %llu word %llx\n", (unsigned)state,
                (unsigned long long)sorted[i]->age, (unsigned long long)sorted[i]->word);
}

static void describe_session(FILE *out, const struct engine *e, uint16_t i,
                             const struct reference **sorted)
{
    const struct session *s = &e->sessions[i];
    const struct row *row = engine_row(e, i);

    fprintf(out,
            "row %u: state %u waiting %u answers %u bytes %llu map %llx filters %u charged %llu "
            "held %u of %llu\n",
            i, row->state, s->n_waiting, s->n_answers, (unsigned long long)s->waiting_bytes,
            (unsigned long long)s->waiting.map, s->n_filters, (unsigned long long)s->charged,
            s->n_held, (unsigned long long)s->held_bytes);
    if (row->state != ROW_FREE)
        fprintf(out, "  number %llu received %llu missed %llu short %d over %d\n",
                (unsigned long long)row_number(row), (unsigned long long)row->received,
                (unsigned long long)row->missed, s->charged > e->window * 3 / 4,
                s->over_since != 0);
    describe_list(out, e, REF_WAIT, i, sorted);
    describe_list(out, e, REF_OUT, i, sorted);
    describe_list(out, e, REF_FILTER, i, sorted);
}

static void describe_group(FILE *out, const struct engine *e, uint16_t g,
                           const struct reference **sorted)
{
    const struct group *group = &e->groups[g];

    fprintf(out,
            "group %u: state %u waiting %u later %u out %u bytes %llu members %u missed %llu\n", g,
            group_row(e, g)->state, group->n_waiting, group->n_later, group->n_out,
            (unsigned long long)group->bytes, group->n_members,
            (unsigned long long)group_row(e, g)->missed);
    describe_list(out, e, REF_WAIT, group_owner(e, g), sorted);
    describe_list(out, e, REF_LATER, group_owner(e, g), sorted);
    describe_list(out, e, REF_FILTER, group_owner(e, g), sorted);
    describe_list(out, e, REF_MEMBER, group_owner(e, g), sorted);
}

static void describe_kept(void *context, struct topic *topic)
{
    uint32_t *sum = context;
    size_t size;
    const char *name = topic_name(topic, &size);
    uint32_t hash = topic_kept(topic);

    for (size_t i = 0; i < size; i++)
        hash = hash * 31 + (uint8_t)name[i];
    *sum += hash; /* topics come in no order */
}

char *engine_describe(const struct engine *e)
{
    char *text = NULL;
    size_t size;
    uint32_t kept = 0;
    const struct reference **sorted = calloc(e->store.reference_pool.max, sizeof(*sorted));
    FILE *out = open_memstream(&text, &size);

    if (sorted == NULL || out == NULL)
        abort();
    fprintf(out,
            "committed %llu references %u cells %u live %u over %u subscriptions %u deadlines %u\n",
            (unsigned long long)e->ledger->header.committed, e->store.reference_pool.n_used,
            e->store.cell_pool.n_used, e->n_live, e->n_over, e->filters.n, e->timers.n);
    for (uint32_t i = 0; i < e->n_rows; i++)
        describe_session(out, e, (uint16_t)i, sorted);
    for (uint32_t g = 0; g < 2 * e->n_groups; g++)
        describe_group(out, e, (uint16_t)g, sorted);
    topics_each_kept(&e->topics, describe_kept, &kept);
    fprintf(out, "retained %u bytes %llu topics %x\n", e->n_retained,
            (unsigned long long)e->retained_bytes, kept);
    describe_list(out, e, REF_KEPT, REF_NOBODY, sorted);
    for (uint32_t i = 0; i < e->n_pools; i++) {
        if (ledger_pools(e->ledger)[i] != 0)
            fprintf(out, "pool %u: owner %u needed by %u\n", i, e->pools[i].owner,
                    e->pools[i].refs);
    }
    fclose(out);
    free(sorted);
    return text;
}
