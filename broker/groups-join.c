/* How groups and their members come and go. See groups.h. */
#include "broker/groups.h"

#include "broker/durable.h"
#include "broker/route.h"
#include "libclient/topic.h"

enum {
    PREFETCH = 16, /* if a member does not say */
};

/* ---- Joining and leaving ---- */

/* REF_NOBODY: there is none of this name. */
uint16_t groups_find(const struct engine *e, const char *name, size_t size)
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
    row->place = 0;
    persist_u32(&row->state, GROUP_LIVE);
    if (row->flags & GROUP_DURABLE)
        durable_group_made(e, g);
    groups_show_one(e, g);
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
    uint8_t code = WIRE_C_OK;

    *g = groups_find(e, f->group, f->group_size);
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
    if ((f->flags & WIRE_F_DURABLE) != 0)
        code = durable_claim(e, durable_group_size(f->group_size));
    if (code != WIRE_C_OK)
        return code;
    make_group(e, *g, f);
    return WIRE_C_OK;
}

static uint8_t add_filter(struct engine *e, uint16_t row, uint16_t g, const struct wire_frame *f)
{
    uint16_t owner = group_owner(e, g);
    unsigned flags = group_row(e, g)->flags & GROUP_DURABLE ? REF_DURABLE : 0;
    uint8_t code = WIRE_C_OK;
    uint32_t cell;
    uint32_t slot;

    if (f->text_size == 0 || filters_find(&e->filters, f->text, f->text_size, owner) != 0)
        return WIRE_C_OK;
    if (flags != 0)
        code = durable_claim(e, f->size);
    if (code != WIRE_C_OK)
        return code;
    cell = store_put(&e->store, f->bytes, f->size, row, e->now);
    if (cell == 0)
        return WIRE_C_STORE_FULL;
    slot = engine_make(e, REF_WORD(REF_FILTER, flags, 0, 0, owner, REF_NOBODY), cell, 0);
    if (filters_add(&e->filters, f->text, f->text_size, owner, slot) != FILTERS_OK) {
        engine_end(e, slot);
        return WIRE_C_STORE_FULL;
    }
    e->generation++;
    return WIRE_C_OK;
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
    if (code == WIRE_C_OK)
        code = add_filter(e, row, g, f);
    if (code != WIRE_C_OK)
        return code;
    return groups_find_member(e, g, row) != NULL || add_member(e, row, g, f->prefetch)
               ? WIRE_C_OK
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
    uint16_t g = groups_find(e, f->text, f->text_size);
    const struct member *m = g == REF_NOBODY ? NULL : groups_find_member(e, g, row);

    if (m == NULL)
        return WIRE_C_NOT_SUBSCRIBED;
    return_all(e, row, g);
    route_end(e, m->slot);
    return WIRE_C_OK;
}
