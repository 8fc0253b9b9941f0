/* Who gets what. Fair is who lets the others have as much: a member is given messages until it has
 * its share of all that is out and waiting, and the one that was given something longest ago comes
 * first. See groups.h. */
#include "broker/groups.h"

#include <utlist.h>

enum {
    LOADS = 32, /* messages that are brought from the disk at once */
};

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
void groups_go_last(struct engine *e, uint16_t g, uint16_t row)
{
    struct member *m = groups_find_member(e, g, row);

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
    groups_go_last(e, g, row);
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
    groups_be_busy(e, g);
}

void groups_look_again(struct engine *e, uint16_t g)
{
    groups_be_busy(e, g);
}

void groups_do_without(struct engine *e, uint16_t row)
{
    for (const struct member *m = e->sessions[row].members; m != NULL; m = m->other)
        groups_be_busy(e, m->group);
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
