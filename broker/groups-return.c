/* What becomes of a message that was given to a member: it is acknowledged, or comes back to its
 * place, later, or as a dead letter. See groups.h. */
#include "broker/groups.h"

#include "broker/durable.h"
#include "broker/pump.h"
#include "broker/route.h"

enum {
    MILLISECOND = 1000000,
    TICK = 10 * MILLISECOND, /* unit of reference.when */
    SECOND = 1000 * MILLISECOND,
    TRIES_MAX = 255, /* that a word can count */
};

/* ---- What comes back ---- */

/* Change its place: one store to its word, after its deadline. */
void groups_move(struct engine *e, uint32_t slot, uint64_t word, uint32_t when)
{
    struct reference *r = engine_reference(e, slot);
    bool elsewhere = ref_owner(r) != (uint16_t)(word >> 32) && (ref_flags(r) & REF_DURABLE) != 0;

    engine_unlink(e, slot);
    timers_clear(&e->timers, slot);
    persist_u32(&r->when, when);
    persist_word(r, word);
    engine_link(e, slot);
    if (elsewhere)
        durable_owner_changed(e, slot);
}

void groups_sent(struct engine *e, uint32_t slot, uint16_t row)
{
    const struct reference *r = engine_reference(e, slot);

    board_add(&groups_on_board(e, owner_group(e, ref_owner(r)))->out, 1);
    groups_move(e, slot,
                REF_WORD(REF_OUT, ref_flags(r), ref_level(r), ref_tries(r), ref_owner(r), row),
                groups_acks_until(e, r));
}

/* Its member still reads what it has: the message goes on as another reference to the same cells.
 */
static void part(struct engine *e, uint32_t slot, uint64_t word, uint32_t when, bool landing)
{
    const struct reference *r = engine_reference(e, slot);

    if (store_pool_ready(&e->store.reference_pool) == 0) {
        timers_set(&e->timers, slot, engine_when(e->now + SECOND));
        return;
    }
    if (!landing)
        route_begin(e);
    engine_make(e, word, r->cell, when);
    if ((word >> 8 & REF_DURABLE) != 0)
        durable_inherited(e);
    route_end(e, slot);
    if (!landing) {
        route_commit(e);
        route_finish(e);
    }
}

static void count_return(struct engine *e, uint16_t g, enum group_return how, bool dies)
{
    struct board_group *b = groups_on_board(e, g);

    board_add(&e->board->totals.returned, 1);
    board_add(&b->returned, 1);
    if (how == RETURN_TIMEOUT)
        board_add(&b->timeouts, 1);
    if (dies) {
        board_add(&e->board->totals.dead_letters, 1);
        board_add(&b->dead_letters, 1);
    }
}

void groups_return(struct engine *e, uint32_t slot, enum group_return how, uint64_t delay,
                   bool reading, bool landing)
{
    const struct reference *r = engine_reference(e, slot);
    uint16_t g = owner_group(e, ref_owner(r));
    const struct group_row *row = group_row(e, group_living(e, g));
    bool counts = how != RETURN_UNTRIED && !PERSIST_FAULT(FAULT_NO_TRY);
    unsigned tries = ref_tries(r) + (counts && ref_tries(r) < TRIES_MAX);
    bool dies = !group_is_dead(e, g) &&
                (how == RETURN_DEAD || (row->delivery_limit != 0 && tries >= row->delivery_limit));
    bool later = delay > 0 && !dies;
    uint16_t to = dies ? group_dead(e, g) : g;
    uint32_t when = later ? engine_when(e->now + delay) : groups_waits_until(e, r, to);
    uint64_t word = REF_WORD(later ? REF_LATER : REF_WAIT, groups_flags_of(e, r), ref_level(r),
                             tries, group_owner(e, to), REF_NOBODY);

    count_return(e, g, how, dies);
    groups_go_last(e, g, ref_member(r));
    if (reading && (ref_flags(r) & REF_HELD) != 0)
        part(e, slot, word, when, landing);
    else
        groups_move(e, slot, word, when);
    if (row->state != GROUP_LIVE)
        e->group_work = true;
}

void groups_count_ack(struct engine *e, const struct reference *r)
{
    board_add(&e->board->totals.acknowledged, 1);
    board_add(&groups_on_board(e, owner_group(e, ref_owner(r)))->acknowledged, 1);
}

void groups_nack(struct engine *e, uint16_t row, const struct wire_frame *f)
{
    uint32_t slot = pump_named(e, row, f->number);

    if (slot == 0 || (ref_flags(engine_reference(e, slot)) & REF_ACK) == 0)
        return;
    groups_return(e, slot, f->flags & WIRE_F_DEAD ? RETURN_DEAD : RETURN_TRIED,
                  (uint64_t)f->delay * MILLISECOND, true, true);
}

void groups_time_out(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    uint16_t g = owner_group(e, ref_owner(r));

    switch (ref_state(r)) {
    case REF_WAIT:
        if (groups_is_given(r)) { /* it may have gone: not before that is known (K3) */
            timers_set(&e->timers, slot, (uint32_t)(e->now / TICK) + 1);
        } else if (!group_is_dead(e, g) && (group_row(e, g)->flags & GROUP_DEAD_EXPIRED) != 0) {
            count_return(e, g, RETURN_DEAD, true);
            groups_move(e, slot,
                        REF_WORD(REF_WAIT, ref_flags(r), ref_level(r), ref_tries(r),
                                 group_owner(e, group_dead(e, g)), REF_NOBODY),
                        0);
        } else {
            engine_drop(e, slot, DROP_expired);
        }
        break;
    case REF_LATER:
        groups_move(
            e, slot,
            REF_WORD(REF_WAIT, ref_flags(r), ref_level(r), ref_tries(r), ref_owner(r), REF_NOBODY),
            groups_waits_until(e, r, g));
        break;
    default:
        groups_return(e, slot, RETURN_TIMEOUT, 0, true, false);
        break;
    }
}
