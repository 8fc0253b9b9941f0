/* What an administrator asks for, and what goes on for many turns: removals, dead letters on their
 * way back, the end of groups that nobody wants any more, aging. See groups.h. */
#include "broker/groups.h"

#include <stdlib.h>

#include "broker/durable.h"
#include "broker/life.h"

enum {
    PIECE = 1024, /* messages removed or moved in a turn (P9) */
};

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
    g = groups_find(e, f->text, f->text_size);
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

        groups_move(
            e, slot,
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
    groups_show_one(e, g);
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
    uint32_t n = e->n_live_groups;

    if (n == 0)
        return next;
    if (e->group_work)
        return e->now;
    for (uint16_t g = 0; n > 0; g++) {
        const struct group *group = &e->groups[g];

        n -= group_row(e, g)->state != GROUP_FREE;
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
