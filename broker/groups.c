/* Groups: who is in them, what waits in them, who gets it, and what becomes of it.
 *
 * A group is a row of the ledger (its name and settings) and references: its filters, its members,
 * its messages. What is here in memory is derived from those, message by message as their words
 * change. A message has one place at any time: in the group's lists while it waits for nobody, in
 * the list of what a session has from the moment that it is given to it.
 *
 * Fair is who lets the others have as much: a member is given messages until it has its share of
 * all that is out and waiting, and the one that was given something longest ago comes first. */
#include "broker/groups.h"

#include <errno.h>
#include <stdlib.h>

#include <utlist.h>

#include "broker/durable.h"
#include "broker/life.h"
#include "broker/pools.h"
#include "broker/pump.h"
#include "broker/route.h"
#include "libclient/topic.h"

enum {
    MILLISECOND = 1000000,
    TICK = 10 * MILLISECOND, /* unit of reference.when */
    SECOND = 1000 * MILLISECOND,
    PREFETCH = 16,        /* if a member does not say */
    LOADS = 32,           /* messages that are brought from the disk at once */
    PIECE = 1024,         /* messages removed or moved in a turn (P9) */
    TRIES_MAX = 255,      /* that a word can count */
    SETTLE_MAX = 4096,    /* bytes of a payload in a pool that is brought into the store */
    GROUPED_SHARE = 4,    /* groups may have so many parts of the store, */
    REFERENCES_SHARE = 2, /* … and of all references */
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

static void be_busy(struct engine *e, uint16_t g)
{
    if (e->groups[g].busy)
        return;
    e->groups[g].busy = true;
    rows_add(&e->busy, g);
}

static void be_dirty(struct engine *e, uint16_t g)
{
    if (e->groups[g].dirty)
        return;
    e->groups[g].dirty = true;
    rows_add(&e->dirty_groups, g);
}

/* What stands on the board for it: a group's row, also for its dead letters. */
static struct board_group *on_board(const struct engine *e, uint16_t g)
{
    return board_group(e->board, group_living(e, g));
}

static uint64_t size_of(const struct engine *e, const struct reference *r)
{
    return ref_on_disk(r) ? 0 : cell_kept_size(store_cell(&e->store, r->cell));
}

/* ---- Members ---- */

static struct member *find_member(const struct engine *e, uint16_t g, uint16_t row)
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
    be_busy(e, m->group);
    be_dirty(e, m->group);
    engine_dirty(e, m->row);
}

bool groups_has_member(const struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    return find_member(e, owner_group(e, ref_owner(r)), ref_member(r)) != NULL;
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
    be_busy(e, g);
    be_dirty(e, g);
    engine_dirty(e, ref_member(r));
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
    be_dirty(e, owner_group(e, ref_owner(r)));
}

void groups_count_out(struct engine *e, const struct reference *r, int sign)
{
    uint16_t g = owner_group(e, ref_owner(r));
    struct member *m = find_member(e, g, ref_member(r));

    count_message(e, r, sign);
    e->groups[g].n_out += (uint32_t)sign;
    e->sessions[ref_member(r)].n_unacknowledged += (uint32_t)sign;
    engine_dirty(e, ref_member(r));
    if (m == NULL)
        return;
    m->n_out += (uint32_t)sign;
    if (sign < 0)
        be_busy(e, g);
}

/* Given to a member, and not known to have gone. */
static bool is_given(const struct reference *r)
{
    return ref_state(r) == REF_WAIT && ref_member(r) != REF_NOBODY;
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
    count_message(e, r, 1);
    be_busy(e, g);
}

void groups_link(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    struct group *group = &e->groups[owner_group(e, ref_owner(r))];

    switch (ref_state(r)) {
    case REF_WAIT:
        if (is_given(r)) {
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
        if (is_given(r)) {
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
static unsigned original_flags(const struct engine *e, const struct reference *r)
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
static uint32_t waiting_deadline(const struct engine *e, const struct reference *r, uint16_t g)
{
    if (group_is_dead(e, g))
        return 0;
    return ref_on_disk(r) ? r->when
                          : engine_when(wire_message_expiry(store_cell(&e->store, r->cell)->bytes));
}

/* Until when a delivery is to be acknowledged. */
static uint32_t ack_deadline(const struct engine *e, const struct reference *r)
{
    uint16_t g = group_living(e, owner_group(e, ref_owner(r)));

    return engine_when(e->now + (uint64_t)group_row(e, g)->ack_timeout * MILLISECOND);
}

void groups_normalise(struct engine *e, uint32_t slot)
{
    struct reference *r = engine_reference(e, slot);

    if (!owner_is_group(e, ref_owner(r)))
        return;
    if (is_given(r) && !engine_in_doubt(e, r))
        persist_word(r, REF_WORD(REF_WAIT, ref_flags(r), ref_level(r), ref_tries(r), ref_owner(r),
                                 REF_NOBODY));
    if (ref_state(r) == REF_WAIT && ref_flags(r) != original_flags(e, r))
        persist_word(r, REF_WORD(REF_WAIT, original_flags(e, r), ref_level(r), ref_tries(r),
                                 ref_owner(r), ref_member(r)));
    if (ref_state(r) == REF_WAIT && !is_given(r))
        persist_u32(&r->when, waiting_deadline(e, r, owner_group(e, ref_owner(r))));
    else if (ref_state(r) == REF_OUT && (ref_flags(r) & REF_ACK) != 0 && r->when == 0)
        persist_u32(&r->when, ack_deadline(e, r));
}

static void show_group(struct engine *e, uint16_t g)
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
    be_dirty(e, g);
    e->n_live_groups = 0;
    for (uint16_t i = 0; i < e->n_groups; i++)
        e->n_live_groups += group_row(e, i)->state != GROUP_FREE;
    board_set(&e->board->groups, e->n_live_groups);
}

void groups_started(struct engine *e)
{
    for (uint16_t g = 0; g < e->n_groups; g++) {
        show_group(e, g);
        if (group_row(e, g)->state != GROUP_FREE && e->groups[g].n_members == 0)
            e->groups[g].empty_since = e->now;
    }
    e->group_work = true;
}

/* ---- Joining and leaving ---- */

/* REF_NOBODY: there is none of this name. */
static uint16_t find_group(const struct engine *e, const char *name, size_t size)
{
    size_t prefix = strlen(WIRE_DEAD_PREFIX);
    bool dead = size > prefix && memcmp(name, WIRE_DEAD_PREFIX, prefix) == 0;

    if (dead) {
        name += prefix;
        size -= prefix;
    }
    for (uint16_t g = 0; g < e->n_groups; g++) {
        const struct group_row *row = group_row(e, g);

        if (row->state == GROUP_LIVE && strlen(row->name) == size &&
            memcmp(row->name, name, size) == 0)
            return dead ? group_dead(e, g) : g;
    }
    return REF_NOBODY;
}

static uint16_t find_free_group(const struct engine *e)
{
    for (uint16_t g = 0; g < e->n_groups; g++) {
        if (group_row(e, g)->state == GROUP_FREE)
            return g;
    }
    return REF_NOBODY;
}

/* Real with the commit of its landing: what is not is made free by a start. */
static void make_group(struct engine *e, uint16_t g, const struct wire_frame *f)
{
    struct group_row *row = group_row(e, g);

    PERSIST_POINT();
    row->flags = (f->flags & WIRE_F_DURABLE ? GROUP_DURABLE : 0u) |
                 (f->flags & WIRE_F_DEAD_EXPIRED ? GROUP_DEAD_EXPIRED : 0u);
    row->age = e->next_age++;
    memset(row->name, 0, sizeof(row->name));
    memcpy(row->name, f->group, f->group_size);
    row->ack_timeout = f->timeout != 0 ? f->timeout : e->settings.ack_timeout;
    row->delivery_limit = f->limit != 0 ? f->limit : e->settings.delivery_limit;
    row->missed = 0;
    row->size_max = e->settings.group_size;
    row->purge = 0;
    row->requeue = 0;
    persist_u32(&row->state, GROUP_LIVE);
    if (row->flags & GROUP_DURABLE)
        durable_group_made(e, g);
    show_group(e, g);
}

static bool settings_differ(const struct group_row *row, const struct wire_frame *f)
{
    bool durable = (f->flags & WIRE_F_DURABLE) != 0;
    bool dead_expired = (f->flags & WIRE_F_DEAD_EXPIRED) != 0;

    if (f->text_size == 0) /* as it is */
        return false;
    return durable != ((row->flags & GROUP_DURABLE) != 0) ||
           dead_expired != ((row->flags & GROUP_DEAD_EXPIRED) != 0) ||
           (f->timeout != 0 && f->timeout != row->ack_timeout) ||
           (f->limit != 0 && f->limit != row->delivery_limit);
}

/* The group that a JOIN is for, made if need be. Returns the code of the answer. */
static uint8_t find_or_make(struct engine *e, const struct wire_frame *f, uint16_t *g)
{
    *g = find_group(e, f->group, f->group_size);
    if (*g != REF_NOBODY) {
        if (group_is_dead(e, *g))
            return f->text_size > 0 ? WIRE_C_BAD_FILTER : WIRE_C_OK;
        return settings_differ(group_row(e, *g), f) ? WIRE_C_GROUP_DIFFERS : WIRE_C_OK;
    }
    if (f->text_size == 0)
        return WIRE_C_NO_GROUP;
    if (!topic_name_valid(f->group, f->group_size))
        return WIRE_C_BAD_GROUP;
    if ((f->flags & WIRE_F_DURABLE) != 0 && e->durable == NULL)
        return WIRE_C_NO_JOURNAL;
    *g = find_free_group(e);
    if (*g == REF_NOBODY)
        return WIRE_C_GROUPS_FULL;
    make_group(e, *g, f);
    return WIRE_C_OK;
}

static bool add_filter(struct engine *e, uint16_t row, uint16_t g, const struct wire_frame *f)
{
    uint16_t owner = group_owner(e, g);
    unsigned flags = group_row(e, g)->flags & GROUP_DURABLE ? REF_DURABLE : 0;
    uint32_t cell;
    uint32_t slot;

    if (f->text_size == 0 || filters_find(&e->filters, f->text, f->text_size, owner) != 0)
        return true;
    cell = store_put(&e->store, f->bytes, f->size, row, e->now);
    if (cell == 0)
        return false;
    slot = engine_make(e, REF_WORD(REF_FILTER, flags, 0, 0, owner, REF_NOBODY), cell, 0);
    if (filters_add(&e->filters, f->text, f->text_size, owner, slot) != FILTERS_OK) {
        engine_end(e, slot);
        return false;
    }
    e->generation++;
    return true;
}

static bool add_member(struct engine *e, uint16_t row, uint16_t g, uint16_t prefetch)
{
    uint32_t slot = engine_make(e, REF_WORD(REF_MEMBER, REF_BARE, 0, 0, group_owner(e, g), row),
                                prefetch != 0 ? prefetch : PREFETCH, 0);

    if (groups_has_member(e, slot))
        return true;
    engine_end(e, slot);
    return false;
}

uint8_t groups_join(struct engine *e, uint16_t row, const struct wire_frame *f)
{
    uint16_t g;
    uint8_t code;

    if (engine_row(e, row)->publish_only)
        return WIRE_C_PUBLISH_ONLY;
    if (f->text_size > 0 && !topic_filter_valid(f->text, f->text_size))
        return WIRE_C_BAD_FILTER;
    if (engine_free_references(e) < 2 || wire_cells(f->size) > engine_free_cells(e))
        return WIRE_C_STORE_FULL;
    code = find_or_make(e, f, &g);
    if (code != WIRE_C_OK)
        return code;
    if (!add_filter(e, row, g, f))
        return WIRE_C_STORE_FULL;
    return find_member(e, g, row) != NULL || add_member(e, row, g, f->prefetch) ? WIRE_C_OK
                                                                                : WIRE_C_STORE_FULL;
}

/* What it has of this group goes back. */
static void return_all(struct engine *e, uint16_t row, uint16_t g)
{
    uint32_t next;

    for (uint32_t slot = e->sessions[row].out.head; slot != 0; slot = next) {
        const struct reference *r = engine_reference(e, slot);

        next = r->next;
        if ((ref_flags(r) & REF_ACK) != 0 && ref_owner(r) == group_owner(e, g) &&
            ref_state(r) == REF_OUT)
            groups_return(e, slot, RETURN_UNTRIED, 0, true, true);
    }
}

uint8_t groups_leave(struct engine *e, uint16_t row, const struct wire_frame *f)
{
    uint16_t g = find_group(e, f->text, f->text_size);
    const struct member *m = g == REF_NOBODY ? NULL : find_member(e, g, row);

    if (m == NULL)
        return WIRE_C_NOT_SUBSCRIBED;
    return_all(e, row, g);
    route_end(e, m->slot);
    return WIRE_C_OK;
}

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

/* A small payload does not stay in its publisher's pool while it waits: the shell brings it in. */
static void settle_later(struct engine *e, uint32_t slot, const struct wire_frame *f)
{
    struct slots_due *due = &e->settling;

    if ((f->flags & WIRE_F_POOLED) == 0 || f->slot.size > SETTLE_MAX || due->n == SLOTS_DUE)
        return;
    due->slots[due->n].slot = slot;
    due->slots[due->n++].age = engine_reference(e, slot)->age;
}

uint8_t groups_accept(struct engine *e, uint16_t g, const struct wire_frame *f, uint32_t cell)
{
    uint64_t size = cell_kept_size(store_cell(&e->store, cell));
    bool durable = (group_row(e, g)->flags & GROUP_DURABLE) != 0 && f->type != WIRE_REQUEST;
    unsigned flags = REF_ACK | (f->type == WIRE_REQUEST ? REF_REQUEST : 0) |
                     (durable ? REF_DURABLE : 0) | (f->flags & WIRE_F_POOLED ? REF_HELD : 0);
    uint32_t slot;

    if (durable && e->journal_full)
        return WIRE_C_JOURNAL_FULL;
    if (e->n_grouped >= e->store.reference_pool.max / REFERENCES_SHARE ||
        (!durable && !make_room(e, g, size))) {
        board_add(&on_board(e, g)->refused, 1);
        return WIRE_C_GROUP_FULL;
    }
    if (!durable && !is_full(e, g, size))
        flags |= REF_RETAINED; /* the group's, not its publisher's (P4) */
    slot = engine_make(e, REF_WORD(REF_WAIT, flags, f->priority, 0, group_owner(e, g), REF_NOBODY),
                       cell, engine_when(f->expiry));
    if (!durable) /* the journal takes it from there */
        settle_later(e, slot, f);
    board_add(&on_board(e, g)->in, 1);
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

    engine_unlink(e, slot);
    if (!ref_on_disk(r))
        store_cell(&e->store, r->cell)->refs--; /* who passes it on has it still */
    persist_u32(&r->cell, cell);
    if (!ref_on_disk(r))
        store_cell(&e->store, cell)->refs++;
    persist_word(r, REF_WORD(REF_WAIT, original_flags(e, r), ref_level(r), ref_tries(r),
                             ref_owner(r), REF_NOBODY));
    engine_link(e, slot);
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

/* ---- Who gets what ---- */

/* May it be given something now? */
static bool is_ready(const struct engine *e, const struct member *m)
{
    const struct session *s = &e->sessions[m->row];

    return m->n_out < m->prefetch && s->kept == BLOCKED_NOT && !s->sated &&
           engine_row(e, m->row)->state == ROW_LIVE;
}

/* How many each of the members that are ready may have, so that all have as many. */
static uint32_t share(const struct engine *e, const struct group *group)
{
    uint64_t all = group->n_waiting;
    uint32_t n = 0;
    const struct member *m;

    DL_FOREACH(group->members, m)
    {
        if (is_ready(e, m)) {
            all += m->n_out;
            n++;
        }
    }
    return n == 0 ? 0 : (uint32_t)((all + n - 1) / n);
}

/* The level that a message counts for, having waited as long as it has. */
static unsigned raised(const struct engine *e, unsigned level, uint64_t age)
{
    unsigned by = 0;

    if (e->settings.aging == 0)
        return level;
    while (by + 1 < WIRE_LEVELS && age < e->aged[by + 1])
        by++;
    return level + by < WIRE_LEVELS ? level + by : WIRE_LEVELS - 1;
}

/* The list whose first comes next; the older of equals. */
static void choose_list(const struct engine *e, const struct group *group,
                        struct group_choice *choice)
{
    uint64_t oldest = UINT64_MAX;

    for (uint64_t map = group->waiting.map; map != 0;) {
        unsigned list = 63 - (unsigned)__builtin_clzll(map);
        uint64_t age = engine_reference(e, group->waiting.lists[list].head)->age;
        unsigned level = raised(e, list, age);

        if (oldest == UINT64_MAX || level > choice->level ||
            (level == choice->level && age < oldest)) {
            choice->list = (uint8_t)list;
            choice->level = (uint8_t)level;
            oldest = age;
        }
        map &= ~(UINT64_C(1) << list);
    }
}

static struct group_choice choose_of(const struct engine *e, const struct member *m)
{
    const struct group *group = &e->groups[m->group];
    struct group_choice choice = {.group = m->group};
    uint32_t target;

    if (group->waiting.map == 0 || !is_ready(e, m))
        return choice;
    target = share(e, group);
    if (target <= m->n_out)
        return choice;
    choice.n = (target < m->prefetch ? target : m->prefetch) - m->n_out;
    choose_list(e, group, &choice);
    return choice;
}

struct group_choice groups_choose(struct engine *e, uint16_t row)
{
    struct group_choice best = {0};

    for (const struct member *m = e->sessions[row].members; m != NULL; m = m->other) {
        struct group_choice choice = choose_of(e, m);

        if (choice.n > 0 && (best.n == 0 || choice.level > best.level))
            best = choice;
    }
    return best;
}

/* The other members come first now. */
static void go_last(struct engine *e, uint16_t g, uint16_t row)
{
    struct member *m = find_member(e, g, row);

    if (m == NULL)
        return;
    DL_DELETE(e->groups[g].members, m);
    DL_APPEND(e->groups[g].members, m);
}

void groups_give(struct engine *e, uint32_t slot, uint16_t row)
{
    const struct reference *r = engine_reference(e, slot);
    uint16_t g = owner_group(e, ref_owner(r));

    if (PERSIST_FAULT(FAULT_NO_MEMBER))
        return;
    engine_change(e, slot,
                  REF_WORD(REF_WAIT, ref_flags(r), ref_level(r), ref_tries(r), ref_owner(r), row));
    go_last(e, g, row);
}

void groups_take_back(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    if (PERSIST_FAULT(FAULT_KEEP_MEMBER) || PERSIST_FAULT(FAULT_NO_MEMBER))
        return;
    engine_change(
        e, slot,
        REF_WORD(REF_WAIT, ref_flags(r), ref_level(r), ref_tries(r), ref_owner(r), REF_NOBODY));
}

void groups_want(struct engine *e, uint32_t slot)
{
    uint16_t g = owner_group(e, ref_owner(engine_reference(e, slot)));
    struct slots_due *due = &e->loading;

    if (e->groups[g].n_loading > 0)
        return;
    for (uint32_t n = 0; slot != 0 && n < LOADS && due->n < SLOTS_DUE; n++) {
        const struct reference *r = engine_reference(e, slot);

        if (!ref_on_disk(r))
            break;
        due->slots[due->n].slot = slot;
        due->slots[due->n].group = g;
        due->slots[due->n++].age = r->age;
        e->groups[g].n_loading++;
        slot = r->next;
    }
}

void groups_loaded(struct engine *e, uint16_t g)
{
    e->groups[g].n_loading--;
    be_busy(e, g);
}

void groups_look_again(struct engine *e, uint16_t g)
{
    be_busy(e, g);
}

void groups_do_without(struct engine *e, uint16_t row)
{
    for (const struct member *m = e->sessions[row].members; m != NULL; m = m->other)
        be_busy(e, m->group);
}

bool groups_have_more(const struct engine *e, uint16_t row)
{
    for (const struct member *m = e->sessions[row].members; m != NULL; m = m->other) {
        if (e->groups[m->group].waiting.map != 0)
            return true;
    }
    return false;
}

static void deal(struct engine *e, uint16_t g)
{
    const struct group *group = &e->groups[g];
    uint32_t target = share(e, group);
    uint32_t left = group->n_waiting;
    const struct member *m;

    DL_FOREACH(group->members, m)
    {
        uint32_t n = target > m->n_out ? target - m->n_out : 0;

        if (left == 0)
            break;
        if (n == 0 || !is_ready(e, m))
            continue;
        engine_touch(e, m->row);
        left -= n < left ? n : left;
    }
}

void groups_deal(struct engine *e)
{
    while (e->busy.n > 0) {
        uint16_t g = e->busy.rows[--e->busy.n];

        e->groups[g].busy = false;
        if (e->groups[g].waiting.map != 0)
            deal(e, g);
    }
}

/* ---- What comes back ---- */

/* Change its place: one store to its word, after its deadline. */
static void move(struct engine *e, uint32_t slot, uint64_t word, uint32_t when)
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

    board_add(&on_board(e, owner_group(e, ref_owner(r)))->out, 1);
    move(e, slot, REF_WORD(REF_OUT, ref_flags(r), ref_level(r), ref_tries(r), ref_owner(r), row),
         ack_deadline(e, r));
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
    route_end(e, slot);
    if (!landing) {
        route_commit(e);
        route_finish(e);
    }
}

static void count_return(struct engine *e, uint16_t g, enum group_return how, bool dies)
{
    struct board_group *b = on_board(e, g);

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
    uint32_t when = later ? engine_when(e->now + delay) : waiting_deadline(e, r, to);
    uint64_t word = REF_WORD(later ? REF_LATER : REF_WAIT, original_flags(e, r), ref_level(r),
                             tries, group_owner(e, to), REF_NOBODY);

    count_return(e, g, how, dies);
    go_last(e, g, ref_member(r));
    if (reading && (ref_flags(r) & REF_HELD) != 0)
        part(e, slot, word, when, landing);
    else
        move(e, slot, word, when);
    if (row->state != GROUP_LIVE)
        e->group_work = true;
}

void groups_count_ack(struct engine *e, const struct reference *r)
{
    board_add(&e->board->totals.acknowledged, 1);
    board_add(&on_board(e, owner_group(e, ref_owner(r)))->acknowledged, 1);
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
        if (is_given(r)) { /* it may have gone: not before that is known (K3) */
            timers_set(&e->timers, slot, (uint32_t)(e->now / TICK) + 1);
        } else if (!group_is_dead(e, g) && (group_row(e, g)->flags & GROUP_DEAD_EXPIRED) != 0) {
            count_return(e, g, RETURN_DEAD, true);
            move(e, slot,
                 REF_WORD(REF_WAIT, ref_flags(r), ref_level(r), ref_tries(r),
                          group_owner(e, group_dead(e, g)), REF_NOBODY),
                 0);
        } else {
            engine_drop(e, slot, DROP_expired);
        }
        break;
    case REF_LATER:
        move(e, slot,
             REF_WORD(REF_WAIT, ref_flags(r), ref_level(r), ref_tries(r), ref_owner(r), REF_NOBODY),
             waiting_deadline(e, r, g));
        break;
    default:
        groups_return(e, slot, RETURN_TIMEOUT, 0, true, false);
        break;
    }
}

/* ---- Administration ---- */

static uint8_t purge(struct engine *e, uint16_t g, uint32_t *count)
{
    *count = e->groups[g].n_waiting + e->groups[g].n_later;
    persist_u64(&group_row(e, g)->purge, e->next_age);
    return WIRE_C_OK;
}

static uint8_t requeue(struct engine *e, uint16_t g, uint32_t *count)
{
    uint16_t dead = group_dead(e, group_living(e, g));

    *count = e->groups[dead].n_waiting;
    persist_u64(&group_row(e, dead)->requeue, e->next_age);
    return WIRE_C_OK;
}

static uint8_t remove_group(struct engine *e, uint16_t g, uint32_t *count)
{
    const struct group *group = &e->groups[g];
    const struct group *dead = &e->groups[group_dead(e, g)];

    *count = group->n_waiting + group->n_later + group->n_out + dead->n_waiting + dead->n_later +
             dead->n_out;
    persist_u32(&group_row(e, g)->state, GROUP_ENDING);
    return WIRE_C_OK;
}

static uint8_t kick(struct engine *e, const struct wire_frame *f)
{
    unsigned long number;
    char *end;

    if (f->text_size > 1 && f->text[0] == '#') {
        number = strtoul(f->text + 1, &end, 10);
        if (*end == '\0' && number < e->n_rows &&
            engine_row(e, (uint16_t)number)->state == ROW_LIVE) {
            life_leave(e, (uint16_t)number, WIRE_C_KICKED);
            return WIRE_C_OK;
        }
        return WIRE_C_NO_SESSION;
    }
    for (uint32_t i = 0; i < e->n_rows && f->text_size > 0; i++) {
        const struct row *row = engine_row(e, (uint16_t)i);

        if (row->state == ROW_LIVE && strcmp(row->name, f->text) == 0) {
            life_leave(e, (uint16_t)i, WIRE_C_KICKED);
            return WIRE_C_OK;
        }
    }
    return WIRE_C_NO_SESSION;
}

uint8_t groups_administer(struct engine *e, const struct wire_frame *f, uint32_t *count)
{
    uint16_t g;

    *count = 1;
    if (f->flags == WIRE_V_KICK)
        return kick(e, f);
    g = find_group(e, f->text, f->text_size);
    if (g == REF_NOBODY)
        return WIRE_C_NO_GROUP;
    e->group_work = true;
    switch (f->flags) {
    case WIRE_V_PURGE:
        return purge(e, g, count);
    case WIRE_V_REQUEUE:
        return requeue(e, g, count);
    default:
        return group_is_dead(e, g) ? WIRE_C_NO_GROUP : remove_group(e, g, count);
    }
}

/* ---- What goes on for many turns ---- */

/* The first message that waits below this age; 0: there is none. */
static uint32_t first_below(const struct engine *e, const struct group *group, uint64_t age)
{
    for (uint64_t map = group->waiting.map; map != 0; map &= map - 1) {
        uint32_t slot = group->waiting.lists[__builtin_ctzll(map)].head;

        if (engine_reference(e, slot)->age < age)
            return slot;
    }
    return 0;
}

/* Those that wait for later come first: as if their time had come. */
static void recall(struct engine *e, uint16_t g, uint32_t *left)
{
    const struct group *group = &e->groups[g];

    for (; group->later.head != 0 && *left > 0; (*left)--)
        groups_time_out(e, group->later.head);
}

/* Remove a piece of what is below this age. True: all of it is gone. */
static bool remove_messages(struct engine *e, uint16_t g, uint64_t age, uint32_t *left)
{
    uint32_t slot = 0;

    recall(e, g, left);
    while (*left > 0 && (slot = first_below(e, &e->groups[g], age)) != 0) {
        engine_drop(e, slot, DROP_purged);
        (*left)--;
    }
    return *left > 0;
}

static bool go_on_purging(struct engine *e, uint16_t g, uint32_t *left)
{
    struct group_row *row = group_row(e, g);

    if (row->purge == 0)
        return true;
    if (!remove_messages(e, g, row->purge, left))
        return false;
    persist_u64(&row->purge, 0);
    return true;
}

/* Dead letters go back to their group, as if they had never been tried. */
static bool go_on_requeuing(struct engine *e, uint16_t dead, uint32_t *left)
{
    struct group_row *row = group_row(e, dead);
    uint16_t g = group_living(e, dead);
    uint32_t slot = 0;

    if (row->requeue == 0)
        return true;
    while (*left > 0 && (slot = first_below(e, &e->groups[dead], row->requeue)) != 0) {
        const struct reference *r = engine_reference(e, slot);

        move(e, slot,
             REF_WORD(REF_WAIT, ref_flags(r), ref_level(r), 0, group_owner(e, g), REF_NOBODY), 0);
        (*left)--;
    }
    if (*left == 0)
        return false;
    persist_u64(&row->requeue, 0);
    return true;
}

/* Members of a group that is being removed leave it; what they have is nobody's any more, but they
 * may read it to its end. */
static void dismiss(struct engine *e, uint16_t g)
{
    struct group *group = &e->groups[g];

    while (group->members != NULL) {
        uint16_t row = group->members->row;
        uint32_t next;

        for (uint32_t slot = e->sessions[row].out.head; slot != 0; slot = next) {
            const struct reference *r = engine_reference(e, slot);

            next = r->next;
            if (ref_owner(r) == group_owner(e, g) && ref_state(r) == REF_OUT)
                groups_return(e, slot, RETURN_UNTRIED, 0, true, false);
        }
        engine_end(e, group->members->slot);
    }
}

static bool is_empty(const struct group *group)
{
    return group->waiting.map == 0 && group->later.head == 0 && group->n_out == 0 &&
           group->members == NULL;
}

/* True: nothing of it is left. */
static bool go_on_ending(struct engine *e, uint16_t g, uint32_t *left)
{
    uint16_t dead = group_dead(e, g);

    while (e->groups[g].filters.head != 0)
        engine_end(e, e->groups[g].filters.head);
    dismiss(e, g);
    dismiss(e, dead);
    if (!remove_messages(e, g, UINT64_MAX, left) || !remove_messages(e, dead, UINT64_MAX, left))
        return false;
    if (!is_empty(&e->groups[g]) || !is_empty(&e->groups[dead]))
        return true; /* a batch in doubt: what comes of it says groups_return() */
    if (group_row(e, g)->flags & GROUP_DURABLE)
        durable_group_gone(e, g);
    persist_u32(&group_row(e, g)->state, GROUP_FREE);
    show_group(e, g);
    return true;
}

/* Nobody has wanted it for so long that nobody will. */
static bool is_deserted(const struct engine *e, uint16_t g)
{
    const struct group *group = &e->groups[g];

    return group->n_members == 0 && (group_row(e, g)->flags & GROUP_DURABLE) == 0 &&
           is_empty(&e->groups[group_dead(e, g)]) &&
           e->now - group->empty_since >= e->settings.group_linger;
}

static bool tick_group(struct engine *e, uint16_t g, uint32_t *left)
{
    struct group_row *row = group_row(e, g);

    if (row->state == GROUP_LIVE && is_deserted(e, g))
        persist_u32(&row->state, GROUP_ENDING);
    if (row->state == GROUP_ENDING)
        return go_on_ending(e, g, left);
    return go_on_purging(e, g, left) && go_on_purging(e, group_dead(e, g), left) &&
           go_on_requeuing(e, group_dead(e, g), left);
}

/* Another interval has gone by: all that is here has waited for one more. */
static void grow_older(struct engine *e)
{
    if (e->settings.aging == 0 || e->now < e->next_aging)
        return;
    memmove(e->aged + 1, e->aged, sizeof(e->aged) - sizeof(e->aged[0]));
    e->aged[0] = e->ledger->header.committed;
    e->next_aging = e->now + e->settings.aging;
}

void groups_tick(struct engine *e)
{
    uint32_t left = PIECE;

    grow_older(e);
    e->group_work = false;
    for (uint16_t g = 0; g < e->n_groups; g++) {
        if (group_row(e, g)->state != GROUP_FREE && !tick_group(e, g, &left))
            e->group_work = true;
    }
}

uint64_t groups_next_tick(const struct engine *e)
{
    uint64_t next = UINT64_MAX;

    if (e->n_live_groups == 0)
        return next;
    if (e->group_work)
        return e->now;
    for (uint16_t g = 0; g < e->n_groups; g++) {
        const struct group *group = &e->groups[g];

        if (group_row(e, g)->state != GROUP_LIVE)
            continue;
        if (e->settings.aging != 0 && group->waiting.map != 0 && e->next_aging < next)
            next = e->next_aging;
        if (group->n_members == 0 && (group_row(e, g)->flags & GROUP_DURABLE) == 0 &&
            is_empty(&e->groups[group_dead(e, g)]) &&
            group->empty_since + e->settings.group_linger < next)
            next = group->empty_since + e->settings.group_linger;
    }
    return next;
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
