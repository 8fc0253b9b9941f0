/* Groups: what belongs to them, and where it stands.
 *
 *   groups-join.c    how groups and members come and go
 *   groups-take.c    what comes in, and where its payload lies
 *   groups-deal.c    who gets what
 *   groups-return.c  what becomes of what was given
 *   groups-admin.c   what an administrator asks for, and what takes many turns
 *
 * A group is a row of the ledger (its name and settings) and references: its filters, its members,
 * its messages. What is here in memory is derived from those, message by message as their words
 * change. A message has one place at any time: in the group's lists while it waits for nobody, in
 * the list of what a session has from the moment that it is given to it.
 */
#include "broker/groups.h"

#include <errno.h>
#include <stdlib.h>

#include <utlist.h>

#include "broker/durable.h"

enum {
    MILLISECOND = 1000000,
};

int groups_init(struct engine *e)
{
    uint32_t n = 2 * e->ledger->header.n_groups;

    e->n_groups = e->ledger->header.n_groups;
    e->groups = calloc(n + 1, sizeof(*e->groups));
    e->busy.rows = calloc(n + 1, sizeof(*e->busy.rows));
    e->dirty_groups.rows = calloc(n + 1, sizeof(*e->dirty_groups.rows));
    return e->groups == NULL || e->busy.rows == NULL || e->dirty_groups.rows == NULL ? -ENOMEM : 0;
}

void groups_deinit(struct engine *e)
{
    for (uint32_t g = 0; e->groups != NULL && g < 2 * e->n_groups; g++) {
        struct member *m, *next;

        DL_FOREACH_SAFE(e->groups[g].members, m, next)
        free(m);
    }
    free(e->groups);
    free(e->busy.rows);
    free(e->dirty_groups.rows);
}

void groups_be_busy(struct engine *e, uint16_t g)
{
    if (e->groups[g].busy)
        return;
    e->groups[g].busy = true;
    rows_add(&e->busy, g);
}

void groups_be_dirty(struct engine *e, uint16_t g)
{
    if (e->groups[g].dirty)
        return;
    e->groups[g].dirty = true;
    rows_add(&e->dirty_groups, g);
}

/* What stands on the board for it: a group's row, also for its dead letters. */
struct board_group *groups_on_board(const struct engine *e, uint16_t g)
{
    return board_group(e->board, group_living(e, g));
}

static uint64_t size_of(const struct engine *e, const struct reference *r)
{
    return ref_on_disk(r) ? 0 : cell_kept_size(store_cell(&e->store, r->cell));
}

/* ---- Members ---- */

struct member *groups_find_member(const struct engine *e, uint16_t g, uint16_t row)
{
    struct member *m = e->sessions[row].members;

    while (m != NULL && m->group != g)
        m = m->other;
    return m;
}

static void link_member(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    struct group *group = &e->groups[owner_group(e, ref_owner(r))];
    struct session *s = &e->sessions[ref_member(r)];
    struct member *m = calloc(1, sizeof(*m));

    if (m == NULL) /* groups_has_member() tells */
        return;
    *m = (struct member){.slot = slot,
                         .row = ref_member(r),
                         .group = owner_group(e, ref_owner(r)),
                         .prefetch = r->cell,
                         .other = s->members};
    s->members = m;
    DL_APPEND(group->members, m);
    group->n_members++;
    group->empty_since = 0;
    groups_be_busy(e, m->group);
    groups_be_dirty(e, m->group);
    engine_dirty(e, m->row);
}

bool groups_has_member(const struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    return groups_find_member(e, owner_group(e, ref_owner(r)), ref_member(r)) != NULL;
}

static void unlink_member(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    uint16_t g = owner_group(e, ref_owner(r));
    struct group *group = &e->groups[g];
    struct member **link = &e->sessions[ref_member(r)].members;
    struct member *m;

    while (*link != NULL && (*link)->slot != slot)
        link = &(*link)->other;
    m = *link;
    if (m == NULL)
        return;
    *link = m->other;
    DL_DELETE(group->members, m);
    free(m);
    if (--group->n_members == 0)
        group->empty_since = e->now;
    groups_be_busy(e, g);
    groups_be_dirty(e, g);
    engine_dirty(e, ref_member(r));
}

uint32_t groups_of(const struct session *s)
{
    uint32_t n = 0;

    for (const struct member *m = s->members; m != NULL; m = m->other)
        n++;
    return n;
}

void groups_forget_session(struct engine *e, uint16_t row)
{
    while (e->sessions[row].members != NULL)
        engine_end(e, e->sessions[row].members->slot);
}

/* ---- Places ---- */

static void count_message(struct engine *e, const struct reference *r, int sign)
{
    struct group *group = &e->groups[owner_group(e, ref_owner(r))];

    group->bytes += (uint64_t)sign * size_of(e, r);
    group->n_on_disk += (uint32_t)(sign * ref_on_disk(r));
    e->n_grouped += (uint32_t)sign;
    if (!ref_on_disk(r))
        e->grouped_size += (uint64_t)sign * wire_charge(store_cell(&e->store, r->cell)->size);
    groups_be_dirty(e, owner_group(e, ref_owner(r)));
}

void groups_count_out(struct engine *e, const struct reference *r, int sign)
{
    uint16_t g = owner_group(e, ref_owner(r));
    struct member *m = groups_find_member(e, g, ref_member(r));

    count_message(e, r, sign);
    e->groups[g].n_out += (uint32_t)sign;
    e->sessions[ref_member(r)].n_unacknowledged += (uint32_t)sign;
    engine_dirty(e, ref_member(r));
    if (m == NULL)
        return;
    m->n_out += (uint32_t)sign;
    if (sign < 0)
        groups_be_busy(e, g);
}

void groups_count_waiting(struct engine *e, uint32_t slot, int sign)
{
    const struct reference *r = engine_reference(e, slot);

    count_message(e, r, sign);
    if (sign < 0)
        return;
    groups_settle_later(e, slot);
    groups_be_busy(e, owner_group(e, ref_owner(r)));
}

static void link_waiting(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    uint16_t g = owner_group(e, ref_owner(r));
    struct group *group = &e->groups[g];

    if (PERSIST_FAULT(FAULT_AT_THE_END))
        backlog_push(&group->waiting, &e->store, ref_level(r), slot);
    else
        backlog_insert(&group->waiting, &e->store, ref_level(r), slot);
    group->n_waiting++;
    groups_count_waiting(e, slot, 1);
}

void groups_link(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    struct group *group = &e->groups[owner_group(e, ref_owner(r))];

    switch (ref_state(r)) {
    case REF_WAIT:
        if (groups_is_given(r)) {
            list_push(&e->sessions[ref_member(r)].out, &e->store, slot);
            groups_count_out(e, r, 1);
            break;
        }
        link_waiting(e, slot);
        break;
    case REF_DROPPED:
        link_waiting(e, slot);
        break;
    case REF_LATER:
        list_push(&group->later, &e->store, slot);
        group->n_later++;
        count_message(e, r, 1);
        break;
    case REF_FILTER:
        list_push(&group->filters, &e->store, slot);
        break;
    case REF_MEMBER:
        link_member(e, slot);
        break;
    default:
        break;
    }
}

void groups_unlink(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    struct group *group = &e->groups[owner_group(e, ref_owner(r))];

    switch (ref_state(r)) {
    case REF_WAIT:
    case REF_DROPPED:
        if (groups_is_given(r)) {
            list_unlink(&e->sessions[ref_member(r)].out, &e->store, slot);
            groups_count_out(e, r, -1);
            break;
        }
        backlog_unlink(&group->waiting, &e->store, ref_level(r), slot);
        group->n_waiting--;
        count_message(e, r, -1);
        break;
    case REF_LATER:
        list_unlink(&group->later, &e->store, slot);
        group->n_later--;
        count_message(e, r, -1);
        break;
    case REF_FILTER:
        list_unlink(&group->filters, &e->store, slot);
        break;
    case REF_MEMBER:
        unlink_member(e, slot);
        break;
    default:
        break;
    }
}

/* The flags that it had when it came. */
unsigned groups_flags_of(const struct engine *e, const struct reference *r)
{
    unsigned flags = REF_ACK | (ref_flags(r) & (REF_RETAINED | REF_DURABLE));
    const struct cell *c;

    if (ref_on_disk(r))
        return flags | REF_RETAINED;
    c = store_cell(&e->store, r->cell);
    if (cell_pooled(c))
        flags |= REF_HELD;
    if (wire_message_flags(c->bytes) & WIRE_F_REQUEST)
        flags |= REF_REQUEST;
    return flags;
}

/* The deadline of one that waits: its message's expiry; dead letters have none. */
uint32_t groups_waits_until(const struct engine *e, const struct reference *r, uint16_t g)
{
    if (group_is_dead(e, g))
        return 0;
    return ref_on_disk(r) ? r->when
                          : engine_when(wire_message_expiry(store_cell(&e->store, r->cell)->bytes));
}

/* Until when a delivery is to be acknowledged. */
uint32_t groups_acks_until(const struct engine *e, const struct reference *r)
{
    uint16_t g = group_living(e, owner_group(e, ref_owner(r)));

    return engine_when(e->now + (uint64_t)group_row(e, g)->ack_timeout * MILLISECOND);
}

void groups_normalise(struct engine *e, uint32_t slot)
{
    struct reference *r = engine_reference(e, slot);

    if (!owner_is_group(e, ref_owner(r)))
        return;
    if (groups_is_given(r) && !engine_in_doubt(e, r))
        persist_word(r, REF_WORD(REF_WAIT, ref_flags(r), ref_level(r), ref_tries(r), ref_owner(r),
                                 REF_NOBODY));
    if (ref_state(r) == REF_WAIT && ref_flags(r) != groups_flags_of(e, r))
        persist_word(r, REF_WORD(REF_WAIT, groups_flags_of(e, r), ref_level(r), ref_tries(r),
                                 ref_owner(r), ref_member(r)));
    if (ref_state(r) == REF_WAIT && !groups_is_given(r) && r->when != 0)
        persist_u32(&r->when, groups_waits_until(e, r, owner_group(e, ref_owner(r))));
    else if (ref_state(r) == REF_OUT && (ref_flags(r) & REF_ACK) != 0 && r->when == 0)
        persist_u32(&r->when, groups_acks_until(e, r));
}

void groups_show_one(struct engine *e, uint16_t g)
{
    const struct group_row *row = group_row(e, g);
    struct board_group_info info = {
        .state = row->state,
        .durable = (row->flags & GROUP_DURABLE) != 0,
        .delivery_limit = row->delivery_limit,
        .ack_timeout = row->ack_timeout,
        .size_max = row->size_max,
    };

    memcpy(info.name, row->name, sizeof(info.name));
    if (row->state == GROUP_FREE)
        info = (struct board_group_info){0};
    board_write_group(board_group(e->board, g), &info);
    groups_be_dirty(e, g);
    e->n_live_groups = 0;
    for (uint16_t i = 0; i < e->n_groups; i++)
        e->n_live_groups += group_row(e, i)->state != GROUP_FREE;
    board_set(&e->board->groups, e->n_live_groups);
}

void groups_started(struct engine *e)
{
    for (uint16_t g = 0; g < e->n_groups; g++) {
        groups_show_one(e, g);
        if (group_row(e, g)->state != GROUP_FREE && e->groups[g].n_members == 0)
            e->groups[g].empty_since = e->now;
    }
    e->group_work = true;
}

/* ---- The board ---- */

void groups_show(struct engine *e)
{
    while (e->dirty_groups.n > 0) {
        uint16_t i = e->dirty_groups.rows[--e->dirty_groups.n];
        uint16_t g = group_living(e, i);
        const struct group *group = &e->groups[g];
        const struct group *dead = &e->groups[group_dead(e, g)];
        struct board_group *b = board_group(e->board, g);

        e->groups[i].dirty = false;
        board_set(&b->members, group->n_members);
        board_set(&b->waiting, group->n_waiting + group->n_later);
        board_set(&b->waiting_bytes, group->bytes);
        board_set(&b->later, group->n_later);
        board_set(&b->unacknowledged, group->n_out);
        board_set(&b->dead, dead->n_waiting + dead->n_later + dead->n_out);
        board_set(&b->on_disk, group->n_on_disk + dead->n_on_disk);
    }
}
