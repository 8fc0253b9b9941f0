/* What comes into a group, as far as there is room, and where its payload lies while it waits. See
 * groups.h. */
#include "broker/durable.h"
#include "broker/groups.h"

#include "broker/route.h"

enum {
    SETTLE_MAX = 4096,    /* bytes of a payload in a pool that is brought into the store */
    GROUPED_SHARE = 4,    /* groups may have so many parts of the store, */
    REFERENCES_SHARE = 2, /* … and of all references */
};

/* ---- A message comes ---- */

/* The oldest of the lowest priority that waits goes. */
static bool drop_oldest(struct engine *e, uint16_t g)
{
    const struct backlog *b = &e->groups[g].waiting;

    if (b->map == 0)
        return false;
    engine_drop(e, b->lists[__builtin_ctzll(b->map)].head, DROP_overflow);
    return true;
}

/* Is it, or have all groups together their share of the store (P6)? */
static bool is_full(const struct engine *e, uint16_t g, uint64_t size)
{
    uint64_t share = (uint64_t)e->store.cell_pool.max / GROUPED_SHARE * WIRE_CELL_SIZE;

    return e->groups[g].bytes + size > group_row(e, g)->size_max || e->grouped_size > share;
}

/* True: it may come in, as far as the group is concerned. */
static bool make_room(struct engine *e, uint16_t g, uint64_t size)
{
    while (is_full(e, g, size)) {
        if (e->settings.group_overflow == ENGINE_BLOCK)
            return true;
        if (e->settings.group_overflow == ENGINE_DROP_NEWEST || !drop_oldest(e, g))
            return false;
    }
    return true;
}

void groups_settle_later(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    struct slots_due *due = &e->settling;

    if ((ref_flags(r) & REF_DURABLE) != 0 || due->n == SLOTS_DUE ||
        !cell_pooled(store_cell(&e->store, r->cell)) ||
        wire_message_slot(store_cell(&e->store, r->cell)->bytes).size > SETTLE_MAX)
        return;
    due->slots[due->n].slot = slot;
    due->slots[due->n++].age = r->age;
}

uint8_t groups_accept(struct engine *e, uint16_t g, const struct wire_frame *f, uint32_t cell)
{
    uint64_t size = cell_kept_size(store_cell(&e->store, cell));
    bool durable = (group_row(e, g)->flags & GROUP_DURABLE) != 0 && f->type != WIRE_REQUEST;
    unsigned flags = REF_ACK | (f->type == WIRE_REQUEST ? REF_REQUEST : 0) |
                     (durable ? REF_DURABLE : 0) | (f->flags & WIRE_F_POOLED ? REF_HELD : 0);
    uint8_t code;

    if (e->n_grouped >= e->store.reference_pool.max / REFERENCES_SHARE ||
        (!durable && !make_room(e, g, size))) {
        board_add(&groups_on_board(e, g)->refused, 1);
        return WIRE_C_GROUP_FULL;
    }
    if (durable && (code = durable_claim(e, f->size + (uint64_t)f->slot.size)) != WIRE_C_OK)
        return code;
    if (!durable && !is_full(e, g, size))
        flags |= REF_RETAINED; /* the group's, not its publisher's (P4) */
    engine_make(e, REF_WORD(REF_WAIT, flags, f->priority, 0, group_owner(e, g), REF_NOBODY), cell,
                engine_when(f->expiry));
    board_add(&groups_on_board(e, g)->in, 1);
    return WIRE_C_OK;
}

/* May its payload be brought in still, and is there room for it? */
static bool can_come_in(const struct engine *e, const struct groups_payload *p)
{
    const struct reference *r = engine_reference(e, p->slot);

    return ref_state(r) == REF_WAIT && r->age == p->age && ref_member(r) == REF_NOBODY &&
           wire_cells(p->size) <= engine_free_cells(e) && engine_free_references(e) > 0;
}

/* Fresh cells for it; 0: there is no room. */
static uint32_t prepare(struct engine *e, const struct groups_payload *p)
{
    const struct reference *r = engine_reference(e, p->slot);
    const struct cell *before = ref_on_disk(r) ? NULL : store_cell(&e->store, r->cell);
    uint32_t cell = store_put(&e->store, p->frame, p->size, before != NULL ? before->account : 0,
                              before != NULL ? before->born : e->now);

    if (cell == 0)
        return 0;
    store_cell(&e->store, cell)->topic = engine_topic(e, p->frame, p->size);
    engine_join_pool(e, cell);
    return cell;
}

/* One store says where its bytes are; a start makes its flags fit. */
static void point(struct engine *e, uint32_t slot, uint32_t cell)
{
    struct reference *r = engine_reference(e, slot);
    bool lifted = engine_lift(e, slot);

    if (!ref_on_disk(r))
        store_cell(&e->store, r->cell)->refs--; /* who passes it on has it still */
    persist_u32(&r->cell, cell);
    if (!ref_on_disk(r))
        store_cell(&e->store, cell)->refs++;
    persist_word(r, REF_WORD(REF_WAIT, groups_flags_of(e, r), ref_level(r), ref_tries(r),
                             ref_owner(r), REF_NOBODY));
    engine_lay(e, slot, lifted);
}

/* What it had is kept by a reference of its own until it has what is new: so a kill finds the place
 * in the pool either needed or handed back. */
void groups_exchange(struct engine *e, uint32_t slot, uint32_t cell)
{
    const struct reference *r = engine_reference(e, slot);
    uint32_t passing = 0;

    if (!ref_on_disk(r)) {
        e->next_age = e->ledger->header.committed;
        passing = engine_pass(e, r->cell);
        persist_commit(e->ledger, e->next_age);
    }
    point(e, slot, cell);
    if (passing != 0)
        engine_end(e, passing);
}

void groups_bring_in(struct engine *e, const struct groups_payload *p)
{
    uint32_t cell = can_come_in(e, p) ? prepare(e, p) : 0;

    if (cell != 0)
        groups_exchange(e, p->slot, cell);
}
