/* From an envelope to references.
 *
 * Everything a landing leaves is made first, then committed by one store, and only then is ended
 * what it ends: a kill at any point between leaves either nothing or all of it. What is read here
 * lies in memory that only the kernel and the broker write, so it is checked once, in place.
 *
 * A frame is refused alone: it is counted, answered if its sender asked for that, and the next one
 * is routed. */
#include "broker/route.h"

#include "broker/durable.h"
#include "broker/groups.h"
#include "broker/life.h"
#include "broker/pools.h"
#include "broker/pump.h"
#include "libclient/topic.h"

/* One landing while it is routed. */
struct routing {
    struct engine *e;
    uint16_t row;
    /* Charge of its publishes, refused ones included: the client counted them too. */
    uint64_t received;
    uint64_t n_in; /* messages taken of `priority` and `topic`, and their bytes */
    uint64_t bytes_in;
    uint32_t topic; /* its row on the board */
    uint8_t priority;
    uint64_t durable_before; /* durable things that there were before this frame */
    bool plenty;             /* there is memory for whatever an envelope can ask for */
    /* Confirms that fared alike and follow each other: one answer for all (K10). */
    uint8_t confirm_code;
    bool confirm_durable; /* … and not before the journal has them */
    uint32_t confirm_first;
    uint32_t confirm_count;
};

void route_expect(struct engine *e, enum landing_from from)
{
    e->landing->from = (uint16_t)from;
    persist_u64(&e->landing->age, e->ledger->header.committed);
}

/* ---- Answers and counters ---- */

static void flush_confirms(struct routing *t)
{
    if (t->confirm_count > 0)
        engine_answer_when(t->e, t->row, t->confirm_code, t->confirm_first, t->confirm_count,
                           t->confirm_durable);
    t->confirm_count = 0;
}

static void confirm(struct routing *t, uint32_t number, uint8_t code)
{
    bool durable = durable_count(t->e) != t->durable_before;

    if (t->confirm_count > 0 && code == t->confirm_code && durable == t->confirm_durable &&
        number == t->confirm_first + t->confirm_count) {
        t->confirm_count++;
        return;
    }
    flush_confirms(t);
    t->confirm_code = code;
    t->confirm_durable = durable;
    t->confirm_first = number;
    t->confirm_count = 1;
}

/* Tell the sender how its message fared, if it wants to know. */
static void tell(struct routing *t, const struct wire_frame *f, uint8_t code)
{
    if (f->type == WIRE_REQUEST && code != WIRE_C_OK)
        engine_answer(t->e, t->row, code, (uint32_t)f->number, 1);
    else if (f->flags & WIRE_F_CONFIRM)
        confirm(t, (uint32_t)f->number, code);
}

static bool pooled(const struct wire_frame *f)
{
    return (f->flags & WIRE_F_POOLED) != 0;
}

/* Its payload is needed by nobody: the place is handed back after the commit. */
static void return_place(struct engine *e, const struct wire_frame *f)
{
    struct landing *landing = e->landing;

    if (!pooled(f) || landing->n_returns >= PERSIST_RETURNS)
        return;
    persist_u64(&landing->returns[landing->n_returns], pools_place(&f->slot));
    persist_u32(&landing->n_returns, landing->n_returns + 1);
}

static void refuse(struct routing *t, const struct wire_frame *f, enum refusal_reason why,
                   uint8_t code)
{
    if (code != WIRE_C_BAD_SLOT)
        return_place(t->e, f);
    engine_count_refusal(t->e, t->row, why);
    tell(t, f, code);
}

static void flush_counts(struct routing *t)
{
    struct board_header *b = t->e->board;
    struct board_row *row = board_row(b, t->row);
    struct board_topic *topic = board_topic(b, t->topic);

    if (t->n_in == 0)
        return;
    board_add(&b->totals.messages_in, t->n_in);
    board_add(&b->totals.bytes_in, t->bytes_in);
    board_add(&b->priorities[t->priority].in, t->n_in);
    board_add(&row->in, t->n_in);
    board_add(&row->bytes_in, t->bytes_in);
    board_add(&topic->in, t->n_in);
    board_add(&topic->bytes_in, t->bytes_in);
    t->n_in = 0;
    t->bytes_in = 0;
}

static void count_in(struct routing *t, const struct wire_frame *f, uint32_t topic)
{
    if (f->priority != t->priority || topic != t->topic) {
        flush_counts(t);
        t->priority = f->priority;
        t->topic = topic;
    }
    t->n_in++;
    t->bytes_in += f->size + (pooled(f) ? f->slot.size : 0);
}

void route_end(struct engine *e, uint32_t slot)
{
    if (e->landing->n_ends >= PERSIST_ENDS)
        return; /* more than an envelope has frames */
    persist_u32(&e->landing->ends[e->landing->n_ends], slot);
    persist_u32(&e->landing->n_ends, e->landing->n_ends + 1);
}

/* ---- Who gets it ---- */

/* One delivery a session, however many of its subscriptions match, and one a group (L3). */
static void found_owner(void *context, uint16_t row)
{
    struct engine *e = context;

    if (e->owner_marks[row] == e->owner_mark)
        return;
    e->owner_marks[row] = e->owner_mark;
    e->owners[e->n_owners++] = row;
}

static void find_named(struct engine *e, const char *name, size_t size)
{
    for (uint32_t i = 0; i < e->n_rows; i++) {
        const struct row *row = engine_row(e, (uint16_t)i);

        if (row->state == ROW_LIVE && strlen(row->name) == size &&
            memcmp(row->name, name, size) == 0)
            found_owner(e, (uint16_t)i);
    }
}

/* The sessions and groups that get what is published to this topic. They are looked for once a
 * topic and change of subscriptions. */
static const uint16_t *owners_of(struct engine *e, struct topic *topic, uint32_t *n)
{
    const uint16_t *owners = topic_owners(topic, e->generation, n);
    size_t size;
    const char *name = topic_name(topic, &size);

    if (owners != NULL)
        return owners;
    e->owner_mark++;
    e->n_owners = 0;
    if (name[0] == '@')
        find_named(e, name + 1, size - 1);
    else
        filters_match(&e->filters, name, size, found_owner, e);
    *n = e->n_owners;
    topic_set_owners(topic, e->generation, e->owners, e->n_owners);
    return e->owners;
}

/* The topic of a message, if one may publish to it. What has an entry was valid when it was made.
 * NULL: not a topic. */
static struct topic *topic_of(struct engine *e, const struct wire_frame *f)
{
    struct topic *topic = topics_find(&e->topics, f->text, f->text_size);

    if (topic == NULL && topic_valid(f->text, f->text_size))
        topic = topics_add(&e->topics, f->text, f->text_size);
    return topic;
}

/* ---- Messages ---- */

/* The frame's bytes, as they will be delivered but for the name of a request. 0: no room. */
static uint32_t put(struct routing *t, const struct wire_frame *f, uint16_t flags, uint64_t number,
                    uint32_t topic)
{
    struct engine *e = t->e;
    uint32_t cell = 0;

    if (t->plenty || wire_cells(f->size) <= engine_free_cells(e))
        cell = store_put(&e->store, f->bytes, f->size, t->row, e->now);
    if (cell == 0)
        return 0;

    struct cell *c = store_cell(&e->store, cell);

    c->topic = topic;
    wire_patch_type(c->bytes, WIRE_MESSAGE, flags | (f->flags & WIRE_F_POOLED));
    wire_patch_number(c->bytes, number);
    if (pooled(f))
        pools_join(e, c, (uint16_t)(1 + engine_row(e, t->row)->pool_slot));
    return cell;
}

static bool over_window(const struct routing *t, const struct wire_frame *f)
{
    return t->e->sessions[t->row].charged + wire_charge(f->size) > t->e->window;
}

/* Is the payload where it cannot be? What stands there is the receivers' business. */
static bool misplaced(const struct routing *t, const struct wire_frame *f)
{
    uint64_t begin = (uint64_t)f->slot.offset * WIRE_SLOT_UNIT;

    return f->slot.pool != engine_row(t->e, t->row)->pool || begin < POOL_PAYLOADS ||
           begin + f->slot.size > t->e->settings.pool_max || f->slot.name > UINT32_MAX;
}

/* Why a message is not even looked at; 0: it may pass. */
static uint8_t objection(struct routing *t, const struct wire_frame *f, enum refusal_reason *why)
{
    if (pooled(f) && misplaced(t, f)) {
        *why = REFUSAL_bad_slot;
        return WIRE_C_BAD_SLOT;
    }
    if (f->expiry != 0 && f->expiry <= t->e->now) {
        *why = REFUSAL_late;
        return WIRE_C_TIMEOUT;
    }
    if (over_window(t, f)) {
        *why = REFUSAL_window;
        return WIRE_C_WINDOW;
    }
    return 0;
}

static void forget_kept(struct engine *e, struct topic *topic)
{
    if (topic_kept(topic) != 0)
        route_end(e, topic_kept(topic));
    topics_keep(&e->topics, topic, 0);
}

/* Is there room to keep a message of this size in the place of the topic's last one? */
static bool may_keep(const struct engine *e, const struct topic *topic, uint64_t size)
{
    uint32_t slot = topic_kept(topic);
    uint64_t others = e->retained_bytes;

    if (slot != 0)
        others -= cell_kept_size(engine_cell(e, slot));
    return engine_free_references(e) > 0 && others + size <= e->settings.retained_size;
}

/* Keep the message as its topic's last one; an empty one forgets (MQTT 3.3.1.3). WIRE_C_OK, or why
 * it is not kept, or not in the journal. */
static uint8_t keep(struct routing *t, const struct wire_frame *f, struct topic *topic,
                    uint32_t cell)
{
    struct engine *e = t->e;
    unsigned flags;
    uint8_t code;

    if (f->payload_size == 0) {
        forget_kept(e, topic);
        return WIRE_C_OK;
    }
    if (cell == 0 || !may_keep(e, topic, cell_kept_size(store_cell(&e->store, cell)))) {
        engine_count_refusal(e, t->row, REFUSAL_retained_full);
        return WIRE_C_RETAINED_FULL;
    }
    code = durable_claim(e, f->size + (uint64_t)f->slot.size);
    flags = e->durable != NULL && code == WIRE_C_OK ? REF_DURABLE : 0;
    forget_kept(e, topic);
    topics_keep(&e->topics, topic,
                engine_make(e, REF_WORD(REF_KEPT, flags, f->priority, 0, REF_NOBODY, 0), cell,
                            engine_when(f->expiry)));
    return code;
}

/* Returns WIRE_C_OK, or why the group did not take it: counted for its publisher. Cold: what goes
 * to sessions alone is not to pay for it. */
__attribute__((cold, noinline)) static uint8_t deliver_to_group(struct engine *e, uint16_t row,
                                                                const struct wire_frame *f,
                                                                uint16_t owner, uint32_t cell)
{
    uint8_t code = groups_accept(e, owner_group(e, owner), f, cell);

    if (code == WIRE_C_GROUP_FULL)
        engine_count_refusal(e, row, REFUSAL_group_full);
    else if (code != WIRE_C_OK)
        engine_count_refusal(e, row, REFUSAL_journal_full);
    return code;
}

static uint8_t worse(uint8_t a, uint8_t b)
{
    return b != WIRE_C_OK ? b : a;
}

/* Returns WIRE_C_OK, or why a group did not take it. */
static uint8_t deliver(struct engine *e, uint16_t row, const struct wire_frame *f,
                       const uint16_t *owners, uint32_t n, uint32_t cell)
{
    unsigned flags = (f->type == WIRE_REQUEST ? REF_REQUEST : 0) | (pooled(f) ? REF_HELD : 0);
    uint32_t when = engine_when(f->expiry);
    uint8_t code = WIRE_C_OK;

    for (uint32_t i = 0; i < n; i++) {
        if (owners[i] < e->n_rows)
            engine_make(e, REF_WORD(REF_WAIT, flags, f->priority, 0, owners[i], 0), cell, when);
        else
            code = worse(code, deliver_to_group(e, row, f, owners[i], cell));
    }
    return code;
}

/* PUBLISH and REQUEST. */
static void route_message(struct routing *t, const struct wire_frame *f)
{
    struct engine *e = t->e;
    enum refusal_reason why;
    uint8_t code = objection(t, f, &why);
    bool retain = f->type == WIRE_PUBLISH && (f->flags & WIRE_F_RETAIN) != 0;
    bool request = f->type == WIRE_REQUEST;
    struct topic *topic;
    const uint16_t *owners;
    uint32_t n;
    uint32_t cell = 0;

    t->received += wire_charge(f->size);
    if (code != 0) {
        refuse(t, f, why, code);
        return;
    }
    topic = topic_of(e, f);
    if (topic == NULL) {
        refuse(t, f, REFUSAL_bad_topic, WIRE_C_BAD_TOPIC);
        return;
    }
    owners = owners_of(e, topic, &n);
    if (n == 0 && !(retain && f->payload_size > 0)) {
        return_place(e, f);
    } else {
        if (t->plenty || n < engine_free_references(e))
            cell =
                put(t, f, request ? WIRE_F_REQUEST : 0, request ? f->number : 0, topic_row(topic));
        if (cell == 0) {
            refuse(t, f, REFUSAL_store_full, WIRE_C_STORE_FULL);
            return;
        }
    }
    count_in(t, f, topic_row(topic));
    code = deliver(e, t->row, f, owners, n, cell);
    if (n == 0) {
        board_add(&e->board->totals.unmatched, 1);
        board_add(&board_topic(e->board, topic_row(topic))->unmatched, 1);
    }
    if (request)
        board_add(&e->board->totals.requests, 1);
    if (retain) {
        uint8_t kept = keep(t, f, topic, cell);

        code = kept != WIRE_C_OK ? kept : code;
    }
    if (cell != 0 && store_cell(&e->store, cell)->refs == 0) { /* nobody took it */
        if (pooled(f))
            pools_part(e, store_cell(&e->store, cell));
        return_place(e, f);
        store_release(&e->store, cell);
    }
    tell(t, f, request && n == 0 ? WIRE_C_NO_SUBSCRIBER : code);
}

/* Has an earlier frame of this envelope ended it? */
static bool is_ending(const struct engine *e, uint32_t slot)
{
    for (uint32_t i = 0; i < e->landing->n_ends; i++) {
        if (e->landing->ends[i] == slot)
            return true;
    }
    return false;
}

/* The request that a reply names; 0: none that is open. */
static uint32_t asked_by(struct engine *e, uint16_t row, uint64_t name)
{
    uint32_t slot = pump_named(e, row, name);

    return slot != 0 && (ref_flags(engine_reference(e, slot)) & REF_REQUEST) != 0 &&
                   !is_ending(e, slot)
               ? slot
               : 0;
}

static void route_reply(struct routing *t, const struct wire_frame *f)
{
    struct engine *e = t->e;
    enum refusal_reason why = REFUSAL_stray;
    uint8_t code = objection(t, f, &why);
    uint32_t slot = asked_by(e, t->row, f->number);
    const struct cell *asked = slot == 0 ? NULL : engine_cell(e, slot);
    uint32_t cell = 0;

    t->received += wire_charge(f->size);
    if (code == 0 && slot != 0 && engine_row(e, asked->account)->state == ROW_LIVE &&
        engine_row(e, asked->account)->age < engine_reference(e, slot)->age) {
        why = REFUSAL_store_full;
        if (engine_free_references(e) > 0)
            cell = put(t, f, WIRE_F_REPLY, wire_message_number(asked->bytes), asked->topic);
    }
    if (cell == 0) {
        engine_count_refusal(e, t->row, why);
        if (code != WIRE_C_BAD_SLOT)
            return_place(e, f);
    } else {
        count_in(t, f, asked->topic);
        board_add(&e->board->totals.replies, 1);
        engine_make(e,
                    REF_WORD(REF_WAIT, pooled(f) ? REF_HELD : 0, f->priority, 0, asked->account, 0),
                    cell, engine_when(f->expiry));
    }
    if (slot != 0 && (cell != 0 || why == REFUSAL_stray))
        route_end(e, slot);
}

/* ---- Control ---- */

struct retained_search {
    struct routing *t;
    const struct wire_frame *filter;
};

static void deliver_kept(void *context, struct topic *topic)
{
    const struct retained_search *search = context;
    struct engine *e = search->t->e;
    const struct reference *kept = engine_reference(e, topic_kept(topic));
    size_t size;
    const char *name = topic_name(topic, &size);

    if (topic_match(search->filter->text, search->filter->text_size, name, size) &&
        engine_free_references(e) > 0)
        engine_make(
            e,
            REF_WORD(REF_WAIT,
                     REF_RETAINED | (cell_pooled(store_cell(&e->store, kept->cell)) ? REF_HELD : 0),
                     ref_level(kept), 0, search->t->row, 0),
            kept->cell, kept->when);
}

/* Add the filter to the tree and make the reference that keeps it. Returns the code of the answer.
 */
static uint8_t add_filter(struct routing *t, const struct wire_frame *f)
{
    struct engine *e = t->e;
    uint32_t limit = e->settings.max_subscriptions;
    uint32_t slot;
    uint32_t cell;

    if (filters_find(&e->filters, f->text, f->text_size, t->row) != 0)
        return WIRE_C_OK;
    if (e->sessions[t->row].n_filters >= limit)
        return WIRE_C_TOO_MANY_FILTERS;
    if (e->filters.n >= e->store.reference_pool.max / 4 || engine_free_references(e) < 2 ||
        wire_cells(f->size) > engine_free_cells(e))
        return WIRE_C_STORE_FULL;
    cell = store_put(&e->store, f->bytes, f->size, t->row, e->now);
    if (cell == 0)
        return WIRE_C_STORE_FULL;
    slot = engine_make(e, REF_WORD(REF_FILTER, 0, 0, 0, t->row, 0), cell, 0);
    if (filters_add(&e->filters, f->text, f->text_size, t->row, slot) != FILTERS_OK) {
        engine_end(e, slot);
        return WIRE_C_STORE_FULL;
    }
    e->generation++;
    return WIRE_C_OK;
}

static void route_subscribe(struct routing *t, const struct wire_frame *f)
{
    struct engine *e = t->e;
    struct retained_search search = {t, f};
    uint8_t code;

    if (engine_row(e, t->row)->publish_only)
        code = WIRE_C_PUBLISH_ONLY;
    else if (!topic_filter_valid(f->text, f->text_size))
        code = WIRE_C_BAD_FILTER;
    else
        code = add_filter(t, f);
    engine_answer(e, t->row, code, (uint32_t)f->number, 1);
    if (code == WIRE_C_OK && (f->flags & WIRE_F_NO_RETAINED) == 0)
        topics_each_kept(&e->topics, deliver_kept, &search);
}

static void route_unsubscribe(struct routing *t, const struct wire_frame *f)
{
    struct engine *e = t->e;
    uint32_t slot;

    if (f->flags & WIRE_F_GROUP) {
        engine_answer(e, t->row, groups_leave(e, t->row, f), (uint32_t)f->number, 1);
        return;
    }
    slot = filters_find(&e->filters, f->text, f->text_size, t->row);
    if (slot != 0) {
        filters_remove(&e->filters, f->text, f->text_size, t->row);
        e->generation++;
        route_end(e, slot);
    }
    engine_answer(e, t->row, slot != 0 ? WIRE_C_OK : WIRE_C_NOT_SUBSCRIBED, (uint32_t)f->number, 1);
}

/* What ran out of time in the reply queue. The topic is believed as far as there is such a one. */
static void route_report(struct routing *t, const struct wire_frame *f)
{
    struct engine *e = t->e;
    const struct topic *topic = topics_find(&e->topics, f->text, f->text_size);
    uint32_t row = topic != NULL ? topic_row(topic) : e->board->n_topics - 1;

    board_add(&e->board->drops.unread, f->number);
    board_add(&board_row(e->board, t->row)->drops.unread, f->number);
    board_add(&board_topic(e->board, row)->drops.unread, f->number);
}

/* A payload that the session cannot map: the shell copies it. One at a time is under way for it. */
static void route_fetch(struct routing *t, const struct wire_frame *f)
{
    struct session *s = &t->e->sessions[t->row];

    if (s->fetch == 0)
        rows_add(&t->e->fetching, t->row);
    s->fetch = f->number;
}

/* What a member of a group has done with. */
static void route_acks(struct routing *t, const struct wire_frame *f)
{
    struct engine *e = t->e;

    for (uint32_t i = 0; i < f->n_names; i++) {
        uint32_t slot = pump_named(e, t->row, wire_load64(f->names + i * sizeof(uint64_t)));

        if (slot == 0 || (ref_flags(engine_reference(e, slot)) & REF_ACK) == 0)
            continue; /* acknowledged before, or returned since */
        groups_count_ack(e, engine_reference(e, slot));
        route_end(e, slot);
    }
}

static uint8_t keep_will(struct routing *t, const struct wire_frame *f)
{
    struct engine *e = t->e;
    unsigned flags = f->flags & WIRE_F_RETAIN ? REF_RETAINED : 0;
    uint32_t before = e->sessions[t->row].will;
    uint32_t cell;

    if (f->text_size > 0) {
        if (!topic_valid(f->text, f->text_size))
            return WIRE_C_BAD_TOPIC;
        if (engine_free_references(e) == 0)
            return WIRE_C_STORE_FULL;
        cell = put(t, f, 0, 0, e->board->n_topics - 1);
        if (cell == 0)
            return WIRE_C_STORE_FULL;
        engine_make(e, REF_WORD(REF_WILL, flags, f->priority, 0, t->row, 0), cell, 0);
    }
    if (before != 0)
        route_end(e, before);
    return WIRE_C_OK;
}

static void route_admin(struct routing *t, const struct wire_frame *f)
{
    uint32_t count;
    uint8_t code = groups_administer(t->e, f, &count);

    engine_answer(t->e, t->row, code, (uint32_t)f->number, count);
}

static void route_join(struct routing *t, const struct wire_frame *f)
{
    uint8_t code = groups_join(t->e, t->row, f);

    engine_answer_when(t->e, t->row, code, (uint32_t)f->number, 1,
                       durable_count(t->e) != t->durable_before);
}

static void route_frame(struct routing *t, const struct wire_frame *f)
{
    t->durable_before = durable_count(t->e);
    switch (f->type) {
    case WIRE_PUBLISH:
    case WIRE_REQUEST:
        route_message(t, f);
        break;
    case WIRE_REPLY:
        route_reply(t, f);
        break;
    case WIRE_SUBSCRIBE:
        route_subscribe(t, f);
        break;
    case WIRE_UNSUBSCRIBE:
        route_unsubscribe(t, f);
        break;
    case WIRE_REPORT:
        route_report(t, f);
        break;
    case WIRE_BYE:
        life_bye(t->e, t->row);
        break;
    case WIRE_FETCH:
        route_fetch(t, f);
        break;
    case WIRE_JOIN:
        route_join(t, f);
        break;
    case WIRE_ACK:
        route_acks(t, f);
        break;
    case WIRE_NACK:
        groups_nack(t->e, t->row, f);
        break;
    case WIRE_WILL:
        engine_answer(t->e, t->row, keep_will(t, f), (uint32_t)f->number, 1);
        break;
    case WIRE_ADMIN:
        route_admin(t, f);
        break;
    case WIRE_NUDGE: /* that it came is all */
        board_add(&t->e->board->totals.nudges, 1);
        break;
    default: /* REGISTER, from within a session */
        board_add(&t->e->board->rejects.frame, 1);
        break;
    }
}

/* ---- Landings ---- */

static void reject(struct engine *e, int outcome)
{
    struct board_rejects *r = &e->board->rejects;

    switch (outcome) {
    case WIRE_E_MAGIC:
        board_add(&r->magic, 1);
        break;
    case WIRE_E_VERSION:
        board_add(&r->version, 1);
        break;
    case WIRE_E_LENGTH:
        board_add(&r->length, 1);
        break;
    case WIRE_E_RESERVED:
        board_add(&r->reserved, 1);
        break;
    default:
        board_add(&r->truncated, 1);
        break;
    }
}

/* Equal, without telling by the time it takes how much of it is. */
static bool same_token(const uint8_t *a, const uint8_t *b)
{
    unsigned differs = 0;

    for (unsigned i = 0; i < WIRE_TOKEN_SIZE; i++)
        differs |= (unsigned)(a[i] ^ b[i]);
    return differs == 0;
}

static bool authentic(struct engine *e, const struct wire_envelope *envelope)
{
    const struct row *row;

    if (envelope->session >= e->n_rows ||
        (row = engine_row(e, envelope->session))->state < ROW_LIVE ||
        e->sessions[envelope->session].over) {
        board_add(&e->board->rejects.session, 1);
        return false;
    }
    if (!same_token(row->token, envelope->token)) {
        board_add(&e->board->rejects.token, 1);
        return false;
    }
    return true;
}

/* Route the frames; what stands before a malformed one holds. */
static void route_frames(struct routing *t, const struct wire_envelope *envelope)
{
    const uint8_t *at = envelope->frames;
    size_t left = envelope->size;
    struct wire_frame f;

    while (left > 0) {
        if (wire_get_request(at, left, &f) != WIRE_OK || f.size > t->e->board->frame_max) {
            board_add(&t->e->board->rejects.frame, 1);
            board_add(&board_row(t->e->board, t->row)->rejected, 1);
            break;
        }
        route_frame(t, &f);
        at += f.size;
        left -= f.size;
    }
    flush_confirms(t);
    flush_counts(t);
}

static void route_session(struct engine *e, const struct wire_envelope *envelope)
{
    struct routing t = {.e = e, .row = envelope->session, .plenty = engine_has_plenty(e)};

    route_frames(&t, envelope);
    persist_u32(&e->landing->row, t.row);
    persist_u64(&e->landing->received, engine_row(e, t.row)->received + t.received);
}

/* The one frame that comes without a session. */
static void route_stranger(struct engine *e, const struct wire_envelope *envelope)
{
    struct wire_frame f;

    persist_u32(&e->landing->row, WIRE_NO_SESSION);
    if (wire_get_request(envelope->frames, envelope->size, &f) != WIRE_OK ||
        f.type != WIRE_REGISTER || f.size != envelope->size)
        board_add(&e->board->rejects.frame, 1);
    else
        life_register(e, &f);
}

/* What is ended is over; but what was answered or acknowledged while its payload is still read
 * stays as one that is held and no more. */
static void end_one(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    if (ref_state(r) == REF_OUT && (ref_flags(r) & REF_REQUEST) != 0)
        persist_answered(engine_cell(e, slot));
    if (ref_state(r) == REF_OUT && (ref_flags(r) & REF_HELD) != 0)
        engine_only_held(e, slot);
    else if (ref_state(r) != REF_FREE)
        engine_end(e, slot);
}

static void end_all(struct engine *e)
{
    const struct landing *landing = e->landing;

    for (uint32_t i = 0; i < landing->n_ends; i++)
        end_one(e, landing->ends[i]);
}

static void hand_back_all(struct engine *e)
{
    struct landing *landing = e->landing;

    for (uint32_t i = 0; i < landing->n_returns && landing->row < e->n_rows; i++)
        pools_hand_back(e, (uint16_t)landing->row, landing->returns[i]);
    if (landing->n_returns > 0)
        persist_u32(&landing->n_returns, 0);
}

/* Create, commit, end, clear: each step may be done again (K1). */
static void finish(struct engine *e, size_t size)
{
    struct landing *landing = e->landing;

    if (landing->row < e->n_rows) {
        uint16_t row = (uint16_t)landing->row;

        persist_u64(&engine_row(e, row)->received, landing->received);
        engine_dirty(e, row);
        if (e->sessions[row].end_code != WIRE_C_OK)
            life_leave(e, row, e->sessions[row].end_code);
    }
    end_all(e);
    persist_u32(&landing->n_ends, 0);
    hand_back_all(e);
    persist_clear(landing, size);
}

static void commit(struct engine *e, size_t size)
{
    if (PERSIST_FAULT(FAULT_END_BEFORE_COMMIT))
        end_all(e);
    if (PERSIST_FAULT(FAULT_RETURN_BEFORE_COMMIT))
        hand_back_all(e);
    persist_commit(e->ledger, e->next_age);
    finish(e, size);
}

/* ---- The broker's own ---- */

void route_begin(struct engine *e)
{
    struct landing *landing = e->landing;

    route_expect(e, LANDING_BROKER);
    e->next_age = e->ledger->header.committed + 1;
    persist_u32(&landing->row, WIRE_NO_SESSION);
    persist_u32(&landing->n_ends, 0);
    persist_u32(&landing->n_returns, 0);
    persist_u32((uint32_t *)(void *)landing->bytes, LANDING_MAGIC);
}

void route_commit(struct engine *e)
{
    persist_commit(e->ledger, e->next_age);
}

void route_finish(struct engine *e)
{
    finish(e, sizeof(uint32_t));
}

/* Everybody that its topic reaches gets the bytes that were kept for it. */
void route_will(struct engine *e, uint16_t row)
{
    uint32_t will = e->sessions[row].will;
    const struct reference *r = engine_reference(e, will);
    struct routing t = {.e = e, .row = row};
    struct wire_frame f;
    struct topic *topic;
    const uint16_t *owners;
    uint32_t n;

    route_begin(e);
    store_get(&e->store, r->cell, e->out);
    if (wire_get_delivery(e->out, engine_cell(e, will)->size, &f) == WIRE_OK &&
        (topic = topics_add(&e->topics, f.text, f.text_size)) != NULL) {
        owners = owners_of(e, topic, &n);
        engine_cell(e, will)->topic = topic_row(topic);
        if (n < store_pool_ready(&e->store.reference_pool)) {
            deliver(e, row, &f, owners, n, r->cell);
            board_add(&e->board->totals.wills, 1);
        } else {
            engine_count_refusal(e, row, REFUSAL_store_full);
        }
        if (ref_flags(r) & REF_RETAINED)
            keep(&t, &f, topic, r->cell);
    }
    if (!PERSIST_FAULT(FAULT_WILL_AGAIN))
        route_end(e, will);
    route_commit(e);
    route_finish(e);
    if (PERSIST_FAULT(FAULT_WILL_AGAIN))
        engine_end(e, will);
}

/* ---- Envelopes ---- */

void route(struct engine *e, size_t size)
{
    struct landing *landing = e->landing;
    struct wire_envelope envelope;
    int outcome;

    if (size == 0) {
        size = wire_envelope_length(landing->bytes);
        if (size > sizeof(landing->bytes))
            size = sizeof(landing->bytes);
    }
    e->next_age = e->ledger->header.committed + 1;
    persist_u32(&landing->n_ends, 0);
    persist_u32(&landing->n_returns, 0);
    board_add(&e->board->totals.envelopes_in, 1);
    outcome = wire_get_envelope(landing->bytes, size, &envelope);
    if (outcome != WIRE_OK) {
        reject(e, outcome);
    } else if (envelope.session == WIRE_NO_SESSION) {
        route_stranger(e, &envelope);
        commit(e, size);
        return;
    } else if (authentic(e, &envelope)) {
        route_session(e, &envelope);
        commit(e, size);
        return;
    }
    persist_clear(landing, size);
}

bool route_resume(struct engine *e)
{
    struct landing *landing = e->landing;
    uint32_t magic = wire_load32(landing->bytes);

    if (magic != 0 && landing->age < e->ledger->header.committed)
        finish(e, 0);
    else if (magic != 0 && magic != LANDING_MAGIC) /* its own it does again when it comes to it */
        route(e, 0);
    persist_clear(landing, sizeof(landing->bytes));
    return magic != 0;
}
