/* The state of the engine and the verbs on references that its three parts (route, pump, life)
 * share.
 *
 * A reference is linked into exactly one place by what its word says, and unlinked from there by
 * the same: so lists, maps, counts, charges and deadlines always follow from the words, and a start
 * builds them with the function that normal work uses. */
#include "broker/engine.h"

#include "broker/durable.h"
#include "broker/groups.h"
#include "broker/knots.h"
#include "broker/pools.h"

#include <errno.h>
#include <stdlib.h>

enum {
    TICK = 10000000,    /* nanoseconds in a unit of reference.when */
    CONTROL_SHARE = 16, /* a sixteenth of references and cells is for control frames alone */
    TIGHT_SHARE = 8,    /* below an eighth free the normal request queue waits (P6) */
    FRAMES_MAX = (WIRE_QUEUE_MAX - WIRE_ENVELOPE_SIZE) / (WIRE_MESSAGE_SIZE + 2),
    ANSWERS_MIN = 1024,
    ROOM_MARGIN = 16384, /* bytes of window by which the views of broker and publisher may differ:
                            more than a message's charge */
};

static int rows_init(struct rows *list, uint32_t n)
{
    list->rows = calloc(n, sizeof(*list->rows));
    return list->rows == NULL ? -ENOMEM : 0;
}

int engine_init(struct engine *e, const struct engine_memory *memory,
                const struct engine_settings *settings)
{
    const struct ledger_header *h = &memory->ledger->header;
    uint64_t half = (uint64_t)h->n_cells * WIRE_CELL_SIZE / 2;

    *e = (struct engine){
        .ledger = memory->ledger,
        .landing = &memory->ledger->landing,
        .board = memory->board,
        .settings = *settings,
        .n_rows = h->n_rows,
        .generation = 1,
        .window = half / h->n_rows < 1048576 ? half / h->n_rows : 1048576, /* P6 */
        .next_age = h->committed,
        .n_pools = ledger_n_pools(h->n_rows),
    };
    store_init(&e->store, memory->store, h->n_references, h->n_cells, h->references_allocated,
               h->cells_allocated);
    topics_init(&e->topics, e->board);
    e->sessions = calloc(h->n_rows, sizeof(*e->sessions));
    e->owners = calloc(h->n_rows + h->n_groups, sizeof(*e->owners));
    e->owner_marks = calloc(h->n_rows + h->n_groups, sizeof(*e->owner_marks));
    e->pools = calloc(e->n_pools, sizeof(*e->pools));
    if (e->sessions == NULL || e->owners == NULL || e->pools == NULL || e->owner_marks == NULL ||
        rows_init(&e->touched, 2 * h->n_rows) < 0 || rows_init(&e->dirty, h->n_rows) < 0 ||
        rows_init(&e->making, h->n_rows) < 0 || rows_init(&e->ending, h->n_rows) < 0 ||
        rows_init(&e->leaving, h->n_rows) < 0 || rows_init(&e->fetching, h->n_rows) < 0 ||
        rows_init(&e->holders, h->n_rows) < 0 || rows_init(&e->unlinked, e->n_pools) < 0 ||
        groups_init(e) < 0 || filters_init(&e->filters) < 0 ||
        timers_init(&e->timers, h->n_references) < 0) {
        engine_deinit(e);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < h->n_rows; i++)
        e->sessions[i].kept = BLOCKED_NOT;
    for (uint32_t i = 0; i < e->n_pools; i++)
        e->pools[i].owner = REF_NOBODY;
    return 0;
}

void engine_deinit(struct engine *e)
{
    groups_deinit(e);
    durable_deinit(e);
    topics_deinit(&e->topics);
    filters_deinit(&e->filters);
    timers_deinit(&e->timers);
    free(e->scratch);
    free(e->touched.rows);
    free(e->dirty.rows);
    free(e->making.rows);
    free(e->ending.rows);
    free(e->leaving.rows);
    free(e->fetching.rows);
    free(e->holders.rows);
    free(e->unlinked.rows);
    free(e->pools);
    free(e->sessions);
    free(e->owners);
    free(e->owner_marks);
    *e = (struct engine){0};
}

/* ---- The board ---- */

/* A publisher may be asleep for want of room, and nobody knows: what it had under way when it
 * looked at its grant may not have been received yet. What is known: it looked when its grant was
 * at least `told`, and has sent at least what was received. So this says no only if it is awake. */
static bool may_be_waiting(const struct engine *e, uint16_t row)
{
    return engine_row(e, row)->received + e->window / 4 + ROOM_MARGIN > e->sessions[row].told;
}

bool engine_has_room(const struct engine *e, uint16_t row)
{
    return e->sessions[row].charged <= e->window / 4 * 3 - ROOM_MARGIN;
}

void engine_tell_grant(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];

    s->told = engine_grant(e, row);
    s->nudge = true;
    engine_touch(e, row);
}

/* It is woken when its grant has risen by half a window, and when half of the window is free that
 * it may be waiting for (P5); but not twice for the same: who waits for its pool says so anew each
 * time that it was woken, and the two would keep each other awake. */
static void show_grant(struct engine *e, uint16_t row)
{
    const struct session *s = &e->sessions[row];
    uint64_t grant = engine_grant(e, row);

    board_set(&board_row(e->board, row)->grant, grant);
    if (grant >= s->told + e->window / 2 ||
        (grant > s->told && s->charged <= e->window / 2 && may_be_waiting(e, row)))
        engine_tell_grant(e, row);
}

/* Who is stalled already has no patience left: the pump trims it for each publisher that comes to
 * be out of room. */
static void touch_stalled(struct engine *e)
{
    for (uint32_t i = 0; e->n_stalled > 0 && i < e->n_rows; i++) {
        if (e->sessions[i].stalled > 0)
            engine_touch(e, (uint16_t)i);
    }
}

/* Out of room is who may be waiting, until half of the window is back (P7). */
static void watch_room(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];
    bool is_short = s->wants != 0 || (s->charged > e->window / 2 && may_be_waiting(e, row));

    if (is_short && s->short_since == 0) {
        s->short_since = e->now;
        e->n_short++;
        knots_expect(e);
        touch_stalled(e);
    } else if (!is_short && s->short_since != 0) {
        s->short_since = 0;
        e->n_short--;
    }
}

/* Over its quota is for whom more waits than it may have (P7). */
static void watch_quota(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];

    if (s->over_since == 0 && s->waiting_bytes > e->settings.backlog_size) {
        s->over_since = e->now;
        e->n_over++;
    } else if (s->over_since != 0 && s->waiting_bytes <= e->settings.backlog_size) {
        s->over_since = 0;
        e->n_over--;
    }
}

static void show_session(struct engine *e, uint16_t i)
{
    const struct session *s = &e->sessions[i];
    struct board_row *b = board_row(e->board, i);

    show_grant(e, i);
    board_set(&b->missed, engine_row(e, i)->missed);
    board_set(&b->waiting, s->n_waiting);
    board_set(&b->waiting_bytes, s->waiting_bytes);
    board_set(&b->charged, s->charged);
    board_set(&b->subscriptions, s->n_filters);
    board_set(&b->stalled, s->stalled > 0);
    board_set(&b->held, s->n_held);
    board_set(&b->held_bytes, s->held_bytes);
    board_set(&b->unacknowledged, s->n_unacknowledged);
    board_set(&b->groups, groups_of(s));
}

void engine_show(struct engine *e)
{
    while (e->dirty.n > 0) {
        uint16_t row = e->dirty.rows[--e->dirty.n];

        e->sessions[row].dirty = false;
        show_session(e, row);
        watch_room(e, row);
        watch_quota(e, row);
    }
    groups_show(e);
    board_set(&e->board->references_used, e->store.reference_pool.n_used);
    board_set(&e->board->cells_used, e->store.cell_pool.n_used);
    board_set(&e->board->retained, e->n_retained);
    board_set(&e->board->retained_bytes, e->retained_bytes);
    board_set(&e->board->subscriptions, e->filters.n);
    atomic_store_explicit(&e->board->clients, e->n_live, memory_order_relaxed);
}

void engine_show_identity(struct engine *e, uint16_t i)
{
    const struct row *row = engine_row(e, i);
    struct board_client_info info = {
        .state = row->state,
        .nonce = row->nonce,
        .since = row->since,
        .pid = row->pid,
        .uid = row->uid,
        .publish_only = row->publish_only != 0,
    };

    memcpy(info.name, row->name, sizeof(info.name));
    if (row->state == ROW_FREE)
        info = (struct board_client_info){0};
    atomic_store_explicit(&board_row(e->board, i)->stuck, 0, memory_order_relaxed);
    board_write_identity(board_row(e->board, i), &info);
}

void engine_post(struct engine *e, uint64_t nonce, uint8_t code, uint32_t number1, uint64_t number2)
{
    uint32_t n = atomic_load_explicit(&e->board->postings, memory_order_relaxed);
    struct board_posting *p = &e->board->board_postings[n % BOARD_POSTINGS];

    board_set(&p->nonce, 0);
    atomic_thread_fence(memory_order_release);
    atomic_store_explicit(&p->code, code, memory_order_relaxed);
    atomic_store_explicit(&p->number1, number1, memory_order_relaxed);
    board_set(&p->number2, number2);
    atomic_store_explicit(&p->nonce, nonce, memory_order_release);
    atomic_store_explicit(&e->board->postings, n + 1, memory_order_release);
    if (code != WIRE_C_OK)
        board_add(&e->board->totals.refused_registrations, 1);
}

void engine_count_refusal(struct engine *e, uint16_t row, enum refusal_reason why)
{
    board_add(&(&e->board->refusals.window)[why], 1);
    board_add(&(&board_row(e->board, row)->refusals.window)[why], 1);
}

/* The drops of an owner, on the board. */
static struct board_drops *drops_of(const struct engine *e, uint16_t owner)
{
    if (owner_is_group(e, owner))
        return &board_group(e->board, group_living(e, owner_group(e, owner)))->drops;
    return &board_row(e->board, owner)->drops;
}

void engine_count_drop(struct engine *e, uint16_t owner, unsigned level, uint32_t topic,
                       enum drop_reason why, uint64_t n)
{
    board_add(&(&e->board->drops.expired)[why], n);
    board_add(&(&e->board->priorities[level].drops.expired)[why], n);
    board_add(&(&drops_of(e, owner)->expired)[why], n);
    board_add(&(&board_topic(e->board, topic)->drops.expired)[why], n);
}

/* The map of waiting priorities changed: readers look at it to keep order (P1). */
void engine_show_tide(struct engine *e, uint16_t row)
{
    _Atomic uint64_t *tide = &board_row(e->board, row)->tide;
    uint64_t levels = e->sessions[row].waiting.map & UINT32_MAX;
    uint64_t value = levels << 32 | (uint32_t)row_number(engine_row(e, row));

    if (atomic_load_explicit(tide, memory_order_relaxed) != value) /* its readers have the line */
        atomic_store_explicit(tide, value, memory_order_release);
}

/* ---- Room ---- */

/* What may be taken of a pool: what has memory behind it, less the share that publishes must leave.
 */
static uint32_t free_slots(const struct store_pool *p)
{
    uint32_t room = store_pool_room(p);
    uint32_t control = p->max / CONTROL_SHARE;
    uint32_t left = room > control ? room - control : 0;

    return left < store_pool_ready(p) ? left : store_pool_ready(p);
}

uint32_t engine_free_references(const struct engine *e)
{
    return free_slots(&e->store.reference_pool);
}

uint32_t engine_free_cells(const struct engine *e)
{
    return free_slots(&e->store.cell_pool);
}

bool engine_is_tight(const struct engine *e)
{
    const struct store_pool *r = &e->store.reference_pool;
    const struct store_pool *c = &e->store.cell_pool;

    return store_pool_room(r) < r->max / TIGHT_SHARE || store_pool_room(c) < c->max / TIGHT_SHARE;
}

/* What an envelope can ask for at most. */
static uint32_t references_at_most(const struct engine *e)
{
    return FRAMES_MAX * (e->n_live + 2);
}

enum { CELLS_AT_MOST = FRAMES_MAX + WIRE_QUEUE_MAX / WIRE_NEXT_CELL };

bool engine_has_plenty(const struct engine *e)
{
    return engine_free_references(e) >= references_at_most(e) &&
           engine_free_cells(e) >= CELLS_AT_MOST;
}

static bool wants(const struct store_pool *p, uint32_t need)
{
    return store_pool_ready(p) < need && p->allocated < p->max;
}

bool engine_wants_references(const struct engine *e)
{
    return wants(&e->store.reference_pool, references_at_most(e));
}

bool engine_wants_cells(const struct engine *e)
{
    return wants(&e->store.cell_pool, CELLS_AT_MOST);
}

/* ---- References ---- */

uint32_t engine_when(uint64_t expiry)
{
    uint64_t ticks = expiry / TICK + 1;

    return expiry == 0 || ticks > UINT32_MAX ? 0 : (uint32_t)ticks;
}

bool engine_in_doubt(const struct engine *e, const struct reference *r)
{
    const struct row *row;

    if (owner_is_group(e, ref_owner(r)))
        return ref_member(r) != REF_NOBODY && row_in_doubt(engine_row(e, ref_member(r))) &&
               row_list(engine_row(e, ref_member(r))) == ref_level(r);
    row = engine_row(e, ref_owner(r));

    return row_in_doubt(row) && row_list(row) == ref_level(r) && r->age <= row->upto &&
           ((ref_flags(r) & REF_LATE) == 0 || PERSIST_FAULT(FAULT_NO_LATE_MARK));
}

/* A delivery of a kept message is the retained store's, whatever became of that message since: its
 * publisher is not charged (P4). Nor is who gets a LENT: it published nothing. */
bool engine_pins(const struct reference *r)
{
    return (ref_flags(r) & REF_RETAINED) == 0 &&
           ((ref_flags(r) & REF_ANSWER) == 0 || ref_tries(r) != ENGINE_LENT);
}

static void pin(struct engine *e, const struct reference *r)
{
    struct cell *c = store_cell(&e->store, r->cell);

    if (!engine_pins(r) || c->pins++ > 0)
        return;
    e->sessions[c->account].charged += wire_charge(c->size);
    engine_dirty(e, c->account);
}

static void unpin(struct engine *e, const struct reference *r)
{
    struct cell *c = store_cell(&e->store, r->cell);

    if (!engine_pins(r) || --c->pins > 0)
        return;
    e->sessions[c->account].charged -= wire_charge(c->size);
    engine_dirty(e, c->account);
}

static void link_waiting(struct engine *e, uint32_t slot, const struct reference *r)
{
    uint16_t owner = ref_owner(r);
    unsigned level = ref_level(r);
    struct session *s = &e->sessions[owner];
    uint64_t map = s->waiting.map;

    backlog_push(&s->waiting, &e->store, level, slot);
    if (map != s->waiting.map)
        engine_show_tide(e, owner);
    if (ref_flags(r) & REF_ANSWER)
        s->n_answers++;
    if (store_has_cell(r)) {
        struct cell *c = store_cell(&e->store, r->cell);

        s->waiting_bytes += wire_charge(c->size);
        pin(e, r);
        if (level < WIRE_LEVELS)
            engine_count_waiting(e, level, c->topic, 1);
    }
    s->n_waiting++;
    engine_touch(e, owner);
    engine_dirty(e, owner);
}

/* What waits for its owner is one less. */
static void leave_waiting(struct engine *e, const struct reference *r)
{
    struct session *s = &e->sessions[ref_owner(r)];

    if (ref_flags(r) & REF_ANSWER)
        s->n_answers--;
    if (store_has_cell(r))
        s->waiting_bytes -= wire_charge(store_cell(&e->store, r->cell)->size);
    s->n_waiting--;
    engine_dirty(e, ref_owner(r));
}

void engine_count_waiting(struct engine *e, unsigned level, uint32_t topic, uint64_t n)
{
    board_add(&e->board->priorities[level].waiting, n);
    board_add(&board_topic(e->board, topic)->waiting, n);
}

/* All of link_waiting() back but the place in the list. */
static void count_off_waiting(struct engine *e, const struct reference *r)
{
    leave_waiting(e, r);
    if (!store_has_cell(r))
        return;
    unpin(e, r);
    if (ref_level(r) < WIRE_LEVELS)
        engine_count_waiting(e, ref_level(r), store_cell(&e->store, r->cell)->topic, (uint64_t)-1);
}

/* Of a delivery that was sent, the payload in a pool: its receiver holds it until it says
 * otherwise. */
static void hold(struct engine *e, const struct reference *r)
{
    struct session *s = &e->sessions[ref_member(r)];

    s->n_held++;
    s->held_bytes += wire_message_slot(store_cell(&e->store, r->cell)->bytes).size;
    pools_look_at(e, ref_member(r));
    engine_dirty(e, ref_member(r));
}

static void hold_no_more(struct engine *e, const struct reference *r)
{
    struct session *s = &e->sessions[ref_member(r)];

    s->n_held--;
    s->held_bytes -= wire_message_slot(store_cell(&e->store, r->cell)->bytes).size;
    engine_dirty(e, ref_member(r));
}

/* Does time run for it? What its receiver has, and need not answer, is no matter of time any more.
 */
static bool has_deadline(const struct reference *r)
{
    unsigned state = ref_state(r);
    unsigned flags = ref_flags(r);

    return r->when != 0 && (flags & REF_ANSWER) == 0 && state != REF_DROPPED &&
           (state != REF_OUT || (flags & (REF_REQUEST | REF_ACK)) != 0);
}

/* An answer that is not to go out before the journal has what it confirms. */
static bool awaits_journal(const struct reference *r)
{
    return (ref_flags(r) & (REF_ANSWER | REF_DURABLE)) == (REF_ANSWER | REF_DURABLE);
}

/* Of a group. */
static void link_grouped(struct engine *e, uint32_t slot, const struct reference *r)
{
    if (store_has_cell(r) && ref_state(r) != REF_FILTER && !ref_on_disk(r))
        pin(e, r);
    groups_link(e, slot);
}

static void unlink_grouped(struct engine *e, uint32_t slot, const struct reference *r)
{
    groups_unlink(e, slot);
    if (store_has_cell(r) && ref_state(r) != REF_FILTER && !ref_on_disk(r))
        unpin(e, r);
}

void engine_link(struct engine *e, uint32_t slot)
{
    struct reference *r = engine_reference(e, slot);

    switch (ref_state(r)) {
    case REF_WAIT:
    case REF_DROPPED:
        if (ref_owner(r) >= e->n_rows)
            link_grouped(e, slot, r);
        else if (awaits_journal(r))
            durable_link_answer(e, slot);
        else
            link_waiting(e, slot, r);
        break;
    case REF_LATER:
    case REF_MEMBER:
        link_grouped(e, slot, r);
        break;
    case REF_OUT:
        list_push(&e->sessions[ref_member(r)].out, &e->store, slot);
        pin(e, r);
        if (ref_flags(r) & REF_HELD)
            hold(e, r);
        if (ref_flags(r) & REF_ACK)
            groups_count_out(e, r, 1);
        break;
    case REF_WILL:
        e->sessions[ref_owner(r)].will = slot;
        break;
    case REF_FILTER:
        if (owner_is_group(e, ref_owner(r))) {
            link_grouped(e, slot, r);
            break;
        }
        list_push(&e->sessions[ref_owner(r)].filters, &e->store, slot);
        e->sessions[ref_owner(r)].n_filters++;
        engine_dirty(e, ref_owner(r));
        break;
    case REF_KEPT:
        e->n_retained++;
        e->retained_bytes += cell_kept_size(store_cell(&e->store, r->cell));
        break;
    default:
        break;
    }
    if (has_deadline(r))
        timers_set(&e->timers, slot, r->when);
}

/* The text of a frame that a reference keeps: its topic or filter. */
static const char *kept_text(struct engine *e, uint32_t slot, size_t *size)
{
    struct wire_frame f;

    store_get(&e->store, engine_reference(e, slot)->cell, e->out);
    if (wire_get_request(e->out, engine_cell(e, slot)->size, &f) != WIRE_OK &&
        wire_get_delivery(e->out, engine_cell(e, slot)->size, &f) != WIRE_OK)
        f = (struct wire_frame){.text = ""};
    *size = f.text_size;
    return f.text;
}

/* Take a subscription out of the tree, unless the session has subscribed anew since. */
static void forget_filter(struct engine *e, uint32_t slot)
{
    uint16_t row = ref_owner(engine_reference(e, slot));
    size_t size;
    const char *text = kept_text(e, slot, &size);

    if (filters_find(&e->filters, text, size, row) != slot)
        return;
    filters_remove(&e->filters, text, size, row);
    e->generation++;
}

uint32_t engine_topic(struct engine *e, const uint8_t *frame, uint32_t size)
{
    const struct topic *topic = NULL;
    struct wire_frame f;

    if (wire_get_delivery(frame, size, &f) == WIRE_OK && f.text_size > 0)
        topic = topics_add(&e->topics, f.text, f.text_size);
    return topic != NULL ? topic_row(topic) : e->board->n_topics - 1;
}

/* The topic forgets its retained message, unless it has another one since. */
static void forget_kept(struct engine *e, uint32_t slot)
{
    size_t size;
    const char *text = kept_text(e, slot, &size);
    struct topic *topic = topics_find(&e->topics, text, size);

    if (topic != NULL && topic_kept(topic) == slot)
        topics_keep(&e->topics, topic, 0);
}

/* What a reference counted for besides its place in a list of waiting ones. */
static void count_off(struct engine *e, uint32_t slot)
{
    struct reference *r = engine_reference(e, slot);

    switch (ref_state(r)) {
    case REF_WAIT:
    case REF_DROPPED:
        if (owner_is_group(e, ref_owner(r)))
            unlink_grouped(e, slot, r);
        else if (awaits_journal(r))
            durable_unlink_answer(e, slot);
        else
            count_off_waiting(e, r);
        break;
    case REF_LATER:
    case REF_MEMBER:
        unlink_grouped(e, slot, r);
        break;
    case REF_OUT:
        list_unlink(&e->sessions[ref_member(r)].out, &e->store, slot);
        unpin(e, r);
        if (ref_flags(r) & REF_HELD)
            hold_no_more(e, r);
        if (ref_flags(r) & REF_ACK)
            groups_count_out(e, r, -1);
        break;
    case REF_WILL:
        if (e->sessions[ref_owner(r)].will == slot)
            e->sessions[ref_owner(r)].will = 0;
        break;
    case REF_FILTER:
        if (owner_is_group(e, ref_owner(r))) {
            unlink_grouped(e, slot, r);
            forget_filter(e, slot);
            break;
        }
        list_unlink(&e->sessions[ref_owner(r)].filters, &e->store, slot);
        e->sessions[ref_owner(r)].n_filters--;
        engine_dirty(e, ref_owner(r));
        forget_filter(e, slot);
        break;
    case REF_KEPT:
        e->n_retained--;
        e->retained_bytes -= cell_kept_size(store_cell(&e->store, r->cell));
        forget_kept(e, slot);
        break;
    default:
        break;
    }
    if (r->when != 0)
        timers_clear(&e->timers, slot);
}

void engine_unlink(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    if ((ref_state(r) == REF_WAIT || ref_state(r) == REF_DROPPED) &&
        !owner_is_group(e, ref_owner(r)) && !awaits_journal(r)) {
        struct backlog *b = &e->sessions[ref_owner(r)].waiting;
        uint64_t map = b->map;

        backlog_unlink(b, &e->store, ref_level(r), slot);
        if (map != b->map)
            engine_show_tide(e, ref_owner(r));
    }
    count_off(e, slot);
}

uint32_t engine_make(struct engine *e, uint64_t word, uint32_t cell, uint32_t when)
{
    uint32_t slot = store_take(&e->store);
    struct reference *r = engine_reference(e, slot);

    persist_reference(r, e->next_age++, cell, when, word);
    if ((word >> 8 & (REF_DURABLE | REF_BARE)) == 0 || /* most are neither */
        (store_has_cell(r) && !ref_on_disk(r)))
        store_cell(&e->store, cell)->refs++;
    engine_link(e, slot);
    if ((word >> 8 & REF_DURABLE) != 0)
        durable_made(e, slot);
    return slot;
}

uint32_t engine_pass(struct engine *e, uint32_t cell)
{
    return engine_make(e, REF_WORD(REF_PASSING, 0, 0, 0, REF_NOBODY, REF_NOBODY), cell, 0);
}

void engine_join_pool(struct engine *e, uint32_t cell)
{
    struct cell *c = store_cell(&e->store, cell);
    uint16_t pool = cell_pooled(c) ? pools_find(e, wire_message_slot(c->bytes).pool) : 0;

    if (pool == 0)
        return;
    if (e->pools[pool - 1].owner == REF_NOBODY && e->pools[pool - 1].refs == 0)
        e->n_orphans++;
    pools_join(e, c, pool);
}

static void let_go(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    uint32_t cell = r->cell;
    struct cell *c;

    if (ref_flags(r) & (REF_DURABLE | REF_BARE)) { /* few are */
        if (!store_has_cell(r) || ref_on_disk(r))
            cell = 0;
        if (ref_flags(r) & REF_DURABLE)
            durable_gone(e, slot);
    }
    c = store_cell(&e->store, cell);
    if (PERSIST_FAULT(FAULT_END_BEFORE_RETURN))
        persist_word(engine_reference(e, slot), REF_WORD(REF_FREE, 0, 0, 0, 0, 0));
    if (cell != 0 && --c->refs == 0 && c->pool != 0)
        pools_leave(e, c); /* the place first: a kill between hands it back twice (S7) */
    else if (cell == 0 || c->refs > 0)
        cell = 0;
    store_free(&e->store, slot);
    if (cell != 0)
        store_release(&e->store, cell);
}

void engine_end(struct engine *e, uint32_t slot)
{
    engine_unlink(e, slot);
    let_go(e, slot);
}

void engine_end_sent(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    leave_waiting(e, r);
    unpin(e, r);
    if (r->when != 0)
        timers_clear(&e->timers, slot);
    let_go(e, slot);
}

void engine_sent_out(struct engine *e, uint32_t slot, uint16_t row)
{
    struct reference *r = engine_reference(e, slot);

    leave_waiting(e, r);
    persist_word(r, REF_WORD(REF_OUT, ref_flags(r), ref_level(r), ref_tries(r), ref_owner(r), row));
    list_push(&e->sessions[row].out, &e->store, slot);
    if (ref_flags(r) & REF_HELD)
        hold(e, r);
    if (r->when != 0 && !has_deadline(r))
        timers_clear(&e->timers, slot);
}

bool engine_lift(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    if (ref_state(r) != REF_WAIT || !owner_is_group(e, ref_owner(r)) || groups_is_given(r)) {
        engine_unlink(e, slot);
        return false;
    }
    groups_count_waiting(e, slot, -1);
    if (!ref_on_disk(r))
        unpin(e, r);
    return true;
}

void engine_lay(struct engine *e, uint32_t slot, bool lifted)
{
    const struct reference *r = engine_reference(e, slot);

    if (!lifted) {
        engine_link(e, slot);
        return;
    }
    if (!ref_on_disk(r))
        pin(e, r);
    groups_count_waiting(e, slot, 1);
}

/* The same state, level, owner and member: only flags and tries differ. */
static bool is_same_place(uint64_t a, uint64_t b)
{
    return ((a ^ b) & ~REF_WORD(0, 0xff, 0, 0xff, 0, 0)) == 0;
}

void engine_change(struct engine *e, uint32_t slot, uint64_t word)
{
    struct reference *r = engine_reference(e, slot);
    bool lifted = false;

    if (is_same_place(r->word, word))
        lifted = engine_lift(e, slot);
    else
        engine_unlink(e, slot);
    persist_word(r, word);
    engine_lay(e, slot, lifted);
}

void engine_only_held(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    if (ref_flags(r) & REF_DURABLE)
        durable_gone(e, slot);
    engine_change(e, slot, r->word & ~((uint64_t)(REF_REQUEST | REF_ACK | REF_DURABLE) << 8));
}

bool engine_leaves_answers(const struct engine *e, uint16_t row)
{
    uint32_t limit = e->store.reference_pool.max / CONTROL_SHARE / e->n_rows;

    return e->sessions[row].n_answers > (limit > ANSWERS_MIN ? limit : ANSWERS_MIN);
}

void engine_answer(struct engine *e, uint16_t row, uint8_t code, uint32_t number, uint32_t count)
{
    engine_answer_when(e, row, code, number, count, false);
}

void engine_answer_when(struct engine *e, uint16_t row, uint8_t code, uint32_t number,
                        uint32_t count, bool durable)
{
    unsigned flags = REF_ANSWER | REF_BARE | (durable ? REF_DURABLE : 0);

    if (store_pool_ready(&e->store.reference_pool) == 0)
        return; /* the asker's own timeout tells it */
    engine_make(e, REF_WORD(REF_WAIT, flags, PERSIST_CONTROL, code, row, 0), number, count);
    if (engine_leaves_answers(e, row))
        e->sessions[row].end_code = WIRE_C_UNREAD_ANSWERS;
}

/* ---- Giving up ---- */

static uint8_t answer_code(enum drop_reason why)
{
    switch (why) {
    case DROP_expired:
        return WIRE_C_TIMEOUT;
    case DROP_overflow:
        return WIRE_C_DROPPED;
    default:
        return WIRE_C_PEER_DIED;
    }
}

void engine_unanswered(struct engine *e, uint32_t slot, uint8_t code)
{
    const struct reference *r = engine_reference(e, slot);
    const struct cell *c = engine_cell(e, slot);
    const struct row *requester = engine_row(e, c->account);

    if (c->refs > 1 || c->answered != 0 || requester->state != ROW_LIVE || requester->age > r->age)
        engine_end(e, slot);
    else
        engine_change(
            e, slot,
            REF_WORD(REF_WAIT, REF_ANSWER | REF_LATE, PERSIST_CONTROL, code, c->account, 0));
}

uint64_t *engine_missed(const struct engine *e, uint16_t owner)
{
    return owner_is_group(e, owner) ? &group_row(e, owner_group(e, owner))->missed
                                    : &engine_row(e, owner)->missed;
}

void engine_drop(struct engine *e, uint32_t slot, enum drop_reason why)
{
    struct reference *r = engine_reference(e, slot);
    uint32_t topic = ref_on_disk(r) ? e->board->n_topics - 1 : engine_cell(e, slot)->topic;
    uint64_t *missed = engine_missed(e, ref_owner(r));

    engine_count_drop(e, ref_owner(r), ref_level(r), topic, why, 1);
    timers_clear(&e->timers, slot);
    if (!PERSIST_FAULT(FAULT_NO_COUNT))
        persist_u32(&r->when, (uint32_t)(*missed + 1));
    persist_word(
        r, REF_WORD(REF_DROPPED, ref_flags(r), ref_level(r), why, ref_owner(r), ref_member(r)));
    persist_u64(missed, *missed + 1);
    engine_dropped(e, slot);
}

void engine_dropped(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    if (ref_flags(r) & REF_REQUEST)
        engine_unanswered(e, slot, answer_code((enum drop_reason)ref_tries(r)));
    else
        engine_end(e, slot);
}
