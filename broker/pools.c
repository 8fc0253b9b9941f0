/* Payload pools: whose they are, what is still needed of them, and what comes back.
 *
 * The broker never looks at a payload. It knows that a cell names a place, counts the cells that do
 * so for each pool, and tells the owner when one is gone. Three kinds of words lie in memory that
 * clients write: how many names a release ring has had, the names, and how many places an owner
 * waits for. Each is read once and checked before it is used; the worst that a wrong one does is to
 * end its own session. */
#include "broker/pools.h"

#include "broker/knots.h"
#include "broker/life.h"
#include "broker/pump.h"

/* ---- The ledger's pools ---- */

uint32_t pools_free_slot(const struct engine *e)
{
    const uint64_t *nonces = ledger_pools(e->ledger);

    /* Whose last row is not free yet is its still: a kill between may have left it so. */
    for (uint32_t i = 0; i < e->n_pools; i++) {
        if (nonces[i] == 0 && e->pools[i].owner == REF_NOBODY)
            return i;
    }
    return UINT32_MAX;
}

uint16_t pools_find(const struct engine *e, uint64_t nonce)
{
    const uint64_t *nonces = ledger_pools(e->ledger);

    for (uint32_t i = 0; i < e->n_pools && nonce != 0; i++) {
        if (nonces[i] == nonce)
            return (uint16_t)(1 + i);
    }
    return 0;
}

void pools_adopt(struct engine *e, uint16_t row, uint32_t slot, uint64_t nonce)
{
    persist_u64(&ledger_pools(e->ledger)[slot], nonce);
    e->pools[slot] = (struct pool){.owner = row};
}

bool pools_orphan(struct engine *e, uint16_t row)
{
    struct pool *pool = &e->pools[engine_row(e, row)->pool_slot];

    pool->owner = REF_NOBODY;
    if (pool->refs == 0 || PERSIST_FAULT(FAULT_NO_ORPHAN))
        return true;
    e->n_orphans++;
    return false;
}

void pools_gone(struct engine *e, uint32_t slot)
{
    persist_u64(&ledger_pools(e->ledger)[slot], 0);
}

void pools_start(struct engine *e)
{
    for (uint32_t i = 0; i < e->n_rows; i++) {
        const struct row *row = engine_row(e, (uint16_t)i);

        if (row->state != ROW_FREE)
            e->pools[row->pool_slot].owner = (uint16_t)i;
    }
}

void pools_started(struct engine *e)
{
    for (uint32_t i = 0; i < e->n_pools; i++) {
        if (ledger_pools(e->ledger)[i] == 0 || e->pools[i].owner != REF_NOBODY)
            continue;
        if (e->pools[i].refs > 0)
            e->n_orphans++;
        else
            rows_add(&e->unlinked, (uint16_t)i);
    }
}

/* ---- Cells that name a place ---- */

void pools_look_at(struct engine *e, uint16_t row)
{
    if (e->sessions[row].holding)
        return;
    e->sessions[row].holding = true;
    rows_add(&e->holders, row);
}

void pools_join(struct engine *e, struct cell *c, uint16_t pool)
{
    struct pool *p = &e->pools[pool - 1];

    c->pool = pool;
    p->refs++;
    if (p->owner != REF_NOBODY)
        pools_look_at(e, p->owner);
}

void pools_part(struct engine *e, struct cell *c)
{
    struct pool *p = &e->pools[c->pool - 1];

    if (--p->refs == 0 && p->owner == REF_NOBODY) {
        rows_add(&e->unlinked, (uint16_t)(c->pool - 1));
        e->n_orphans--;
    }
    c->pool = 0;
}

void pools_leave(struct engine *e, struct cell *c)
{
    struct wire_slot slot = wire_message_slot(c->bytes);
    uint16_t owner = e->pools[c->pool - 1].owner;

    if (owner != REF_NOBODY)
        pools_hand_back(e, owner, pools_place(&slot));
    pools_part(e, c);
}

/* ---- What goes back to owners ---- */

static void want(struct engine *e, uint16_t row, uint64_t wants)
{
    struct session *s = &e->sessions[row];

    if (s->wants == wants)
        return;
    e->n_wanting += (wants != 0) - (uint32_t)(s->wants != 0);
    s->wants = wants;
    if (wants != 0)
        knots_expect(e);
    engine_dirty(e, row);
}

/* Wake it if as much as it waits for has come back (P5); once. */
static void wake(struct engine *e, uint16_t row, uint64_t returned)
{
    struct session *s = &e->sessions[row];

    if (s->wants == 0 || returned < s->wants)
        return;
    s->woken_for = s->wants;
    want(e, row, 0);
    s->nudge = true;
    engine_touch(e, row);
}

void pools_hand_back(struct engine *e, uint16_t row, uint64_t place)
{
    struct outbox_header *outbox = e->sessions[row].outbox;
    uint64_t returned;

    if (outbox == NULL)
        return;
    returned = atomic_load_explicit(&outbox->returned, memory_order_relaxed);
    atomic_store_explicit(&outbox->ring[returned % OUTBOX_RING], place, memory_order_relaxed);
    persist_shared(&outbox->returned, returned + 1);
    wake(e, row, returned + 1);
}

/* ---- What comes back from receivers ---- */

bool pools_holds(const struct engine *e, uint16_t row, uint64_t name, struct wire_slot *slot)
{
    uint32_t i = (uint32_t)(name >> 40);
    const struct reference *r = engine_reference(e, i);

    if (i == 0 || i >= e->store.reference_pool.high || ref_name(i, r->age) != name ||
        ref_state(r) != REF_OUT || ref_member(r) != row || (ref_flags(r) & REF_HELD) == 0)
        return false;
    *slot = wire_message_slot(store_cell(&e->store, r->cell)->bytes);
    return true;
}

/* A delivery is given back: over, unless its reply or acknowledgement is still owed. A name that
 * stands for nothing is passed over. */
static void release(struct engine *e, uint16_t row, uint64_t name)
{
    uint32_t slot = pump_named(e, row, name);
    const struct reference *r = engine_reference(e, slot);

    if (slot == 0 || (ref_flags(r) & REF_HELD) == 0)
        return;
    if (ref_flags(r) & (REF_REQUEST | REF_ACK))
        engine_change(e, slot, r->word & ~((uint64_t)REF_HELD << 8));
    else
        engine_end(e, slot);
}

/* Who holds little enough again gets more. */
static void be_hungry(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];
    uint64_t bytes = e->settings.pool_max / 8 * 3;

    if (!s->sated || (s->n_held > 0 && (s->n_held > POOL_HELD / 4 * 3 || s->held_bytes > bytes)))
        return;
    s->sated = false;
    e->n_sated--;
    engine_touch(e, row);
}

static void collect_releases(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];
    uint64_t collected = atomic_load_explicit(&s->outbox->collected, memory_order_relaxed);
    uint64_t released = atomic_load_explicit(&s->pool->released, memory_order_acquire);

    if (released == collected)
        return;
    if (released - collected > POOL_RING) {
        life_leave(e, row, WIRE_C_BAD_POOL);
        return;
    }
    if (PERSIST_FAULT(FAULT_COLLECTED_FIRST))
        persist_shared(&s->outbox->collected, released);
    for (; collected != released; collected++)
        release(e, row,
                atomic_load_explicit(&s->pool->ring[collected % POOL_RING], memory_order_relaxed));
    persist_shared(&s->outbox->collected,
                   released); /* a kill before: they stand for nothing any more */
    be_hungry(e, row);
    if (s->lingers && s->n_held == 0)
        life_let_go(e, row);
}

static void collect_wants(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];
    uint64_t wants = atomic_load_explicit(&s->pool->wants, memory_order_relaxed);

    if (wants != 0 && wants == s->woken_for)
        return;
    want(e, row, wants);
    wake(e, row, atomic_load_explicit(&s->outbox->returned, memory_order_relaxed));
}

static void collect(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];

    if (s->pool == NULL || s->outbox == NULL || s->broken)
        return;
    collect_releases(e, row);
    collect_wants(e, row);
}

static bool is_involved(const struct engine *e, uint16_t row)
{
    const struct row *r = engine_row(e, row);

    return r->state != ROW_FREE && (e->sessions[row].n_held > 0 || e->sessions[row].wants != 0 ||
                                    e->pools[r->pool_slot].refs > 0);
}

void pools_collect(struct engine *e)
{
    struct rows *holders = &e->holders;

    for (uint32_t i = holders->n; i-- > 0;) {
        uint16_t row = holders->rows[i];

        collect(e, row);
        if (!is_involved(e, row)) {
            e->sessions[row].holding = false;
            holders->rows[i] = holders->rows[--holders->n];
        }
    }
}

bool pools_listen(const struct engine *e)
{
    return e->n_orphans > 0 || e->n_wanting > 0 || e->n_sated > 0 || e->n_short > 0;
}

/* ---- Copies ---- */

void pools_lend(struct engine *e, uint16_t row, uint8_t code, uint64_t name, uint64_t offset,
                uint64_t size)
{
    uint8_t frame[WIRE_LENT_SIZE];
    uint32_t cell;

    wire_put_lent(frame, code, name, offset, size);
    if (store_pool_ready(&e->store.reference_pool) == 0)
        return; /* it asks again */
    cell = store_put(&e->store, frame, sizeof(frame), row, e->now);
    if (cell == 0)
        return;
    store_cell(&e->store, cell)->topic = e->board->n_topics - 1;
    e->next_age = e->ledger->header.committed;
    engine_make(e, REF_WORD(REF_WAIT, REF_ANSWER, PERSIST_CONTROL, ENGINE_LENT, row, 0), cell, 0);
    persist_commit(e->ledger, e->next_age);
    if (code == WIRE_C_OK)
        board_add(&e->board->totals.fetched, 1);
    if (engine_leaves_answers(e, row))
        life_leave(e, row, WIRE_C_UNREAD_ANSWERS);
}
