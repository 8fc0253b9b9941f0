/* Starting on what the memory holds: one pass over the references (core-sketch section 5).
 *
 * What was never committed is made free, what is left is linked by the same function that links new
 * references, in the order of their ages. Nothing is replayed, moved or cleaned. */
#include <errno.h>
#include <stdlib.h>

#include "broker/durable.h"
#include "broker/groups.h"
#include "broker/life.h"
#include "broker/pools.h"
#include "libclient/topic.h"

struct aged {
    uint64_t age;
    uint32_t slot;
};

static int by_age(const void *a, const void *b)
{
    uint64_t x = ((const struct aged *)a)->age;
    uint64_t y = ((const struct aged *)b)->age;

    return x < y ? -1 : x > y;
}

/* What never became real. Returns how many are left. */
static uint32_t forget_uncommitted(struct engine *e)
{
    uint64_t committed = e->ledger->header.committed;
    uint32_t n = 0;

    for (uint32_t slot = 1; slot < e->store.reference_pool.allocated; slot++) {
        struct reference *r = engine_reference(e, slot);

        if (ref_state(r) == REF_FREE)
            continue;
        if (r->age >= committed && !PERSIST_FAULT(FAULT_NO_COMMIT_CHECK))
            persist_word(r, REF_WORD(REF_FREE, 0, 0, 0, 0, 0));
        else
            n++;
    }
    for (uint32_t i = 0; i < e->n_rows; i++) {
        struct row *row = engine_row(e, (uint16_t)i);

        if (row->state == ROW_FREE || row->age < committed)
            continue;
        pools_gone(e, row->pool_slot); /* never made; and it is about to be registered again */
        persist_row_state(row, ROW_FREE);
    }
    for (uint32_t g = 0; g < e->n_groups; g++) {
        struct group_row *row = group_row(e, (uint16_t)g);

        if (row->state != GROUP_FREE && row->age >= committed)
            persist_u32(&row->state, GROUP_FREE);
    }
    return n;
}

static int adopt_store(struct engine *e)
{
    uint8_t *marks = calloc(1, store_marks_size(&e->store));
    int damaged;

    if (marks == NULL)
        return -ENOMEM;
    damaged = store_adopt(&e->store, marks);
    free(marks);
    return damaged < 0 ? -EBADMSG : 0;
}

/* The frame that a reference keeps. */
static struct wire_frame kept_frame(struct engine *e, uint32_t slot)
{
    struct wire_frame f = {.text = ""};

    store_get(&e->store, engine_reference(e, slot)->cell, e->out);
    if (wire_get_request(e->out, engine_cell(e, slot)->size, &f) != WIRE_OK)
        wire_get_delivery(e->out, engine_cell(e, slot)->size, &f);
    return f;
}

/* The tables that references stand in besides their lists. */
static int index_reference(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    struct wire_frame f;
    struct topic *topic;

    if (!store_has_cell(r) || ref_on_disk(r))
        return 0;
    f = kept_frame(e, slot);
    if (ref_state(r) == REF_FILTER) {
        /* Of two the younger holds: the landing that renewed it is about to end the older. */
        filters_remove(&e->filters, f.text, f.text_size, ref_owner(r));
        return filters_add(&e->filters, f.text, f.text_size, ref_owner(r), slot) < 0 ? -ENOMEM : 0;
    }
    if (cell_pooled(engine_cell(e, slot)) && engine_cell(e, slot)->pool == 0 &&
        pools_find(e, f.slot.pool) != 0)
        pools_join(e, engine_cell(e, slot), pools_find(e, f.slot.pool));
    if (f.text_size == 0) {
        engine_cell(e, slot)->topic = e->board->n_topics - 1;
        return 0;
    }
    topic = topics_add(&e->topics, f.text, f.text_size);
    if (topic == NULL)
        return -ENOMEM;
    engine_cell(e, slot)->topic = topic_row(topic);
    if (ref_state(r) == REF_KEPT)
        topics_keep(&e->topics, topic, slot);
    return 0;
}

/* A delivery that was being given up: the count first, then the rest (K11). */
static void finish_drop(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    uint64_t *missed = engine_missed(e, ref_owner(r));

    if (r->when == (uint32_t)(*missed + 1))
        persist_u64(missed, *missed + 1);
    engine_dropped(e, slot);
}

static int link_all(struct engine *e, struct aged *aged, uint32_t n)
{
    uint32_t k = 0;

    for (uint32_t slot = 1; slot < e->store.reference_pool.high; slot++) {
        const struct reference *r = engine_reference(e, slot);

        if (ref_state(r) != REF_FREE)
            aged[k++] = (struct aged){.age = r->age, .slot = slot};
    }
    qsort(aged, n, sizeof(*aged), by_age);
    for (uint32_t i = 0; i < n; i++) { /* before what they have */
        if (ref_state(engine_reference(e, aged[i].slot)) != REF_MEMBER)
            continue;
        engine_link(e, aged[i].slot);
        if (!groups_has_member(e, aged[i].slot))
            return -ENOMEM;
    }
    for (uint32_t i = 0; i < n; i++) {
        int r = index_reference(e, aged[i].slot);

        if (r < 0)
            return r;
        if (ref_state(engine_reference(e, aged[i].slot)) == REF_MEMBER)
            continue;
        groups_normalise(e, aged[i].slot);
        engine_link(e, aged[i].slot);
    }
    pools_started(e);
    groups_started(e);
    durable_started(e);
    for (uint32_t i = 0; i < n; i++) {
        unsigned state = ref_state(engine_reference(e, aged[i].slot));

        if (state == REF_DROPPED)
            finish_drop(e, aged[i].slot);
        else if (state == REF_PASSING)
            engine_end(e, aged[i].slot);
    }
    return 0;
}

/* Counters of what waits are derived, and stand on the board. */
static void reset_board(struct engine *e)
{
    for (unsigned level = 0; level < WIRE_LEVELS; level++)
        board_set(&e->board->priorities[level].waiting, 0);
    for (uint32_t i = 0; i < e->board->n_topics; i++)
        board_set(&board_topic(e->board, i)->waiting, 0);
}

static void start_row(struct engine *e, uint16_t i)
{
    const struct row *row = engine_row(e, i);

    switch ((enum row_state)row->state) {
    case ROW_MAKING:
        rows_add(&e->making, i);
        break;
    case ROW_LIVE:
        e->n_live++;
        /* Its ring may have names that were acted on already: they are to be read before what they
         * name is delivered again, and they mean that. */
        pools_look_at(e, i);
        e->sessions[i].nudge = true; /* it may sleep for want of a word that died with the broker */
        engine_touch(e, i);
        break;
    case ROW_ENDING:
        e->sessions[i].ending_since = e->now;
        e->sessions[i].end_code = (uint8_t)row->end_code;
        e->sessions[i].said_bye = row->said_bye != 0;
        rows_add(&e->ending, i);
        break;
    case ROW_FREE:
        break;
    }
    engine_dirty(e, i);
    engine_show_identity(e, i);
    engine_show_tide(e, i);
}

int life_start(struct engine *e)
{
    uint32_t n = forget_uncommitted(e);
    int r;

    e->scratch = malloc((n + 1) * sizeof(struct aged));
    if (e->scratch == NULL)
        return -ENOMEM;
    reset_board(e);
    pools_start(e);
    r = topics_adopt(&e->topics);
    if (r == 0)
        r = adopt_store(e);
    if (r == 0)
        r = link_all(e, e->scratch, n);
    free(e->scratch);
    e->scratch = NULL;
    for (uint32_t i = 0; i < e->n_rows && r == 0; i++)
        start_row(e, (uint16_t)i);
    return r;
}
