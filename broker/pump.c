/* From references to batches.
 *
 * The intent comes first: the session's row names the batch by its number, its list and the age of
 * its last reference, so that a start knows exactly which references may have gone out. Then the
 * batch is sent, then its references are marked, then the intent is taken back. All of a batch are
 * plain references of one list, from its head on; so a range of ages names them. */
#include "broker/pump.h"

#include "broker/groups.h"

enum {
    KEPT_LOW = 3,    /* places of a reply queue that stay free of levels below 24 (P2) */
    KEPT_URGENT = 1, /* … and of all but STOPPED and ENDED (K9) */
    HELD_SHARE = 2,  /* of the largest pool a session may hold so many parts */
};

static uint8_t kept_of(unsigned list)
{
    return list >= WIRE_URGENT ? KEPT_URGENT : KEPT_LOW;
}

/* ---- Stalled sessions (P7) ---- */

/* Of the newest goes what is over the quota, as if it had not come. Of the oldest at once half of
 * the quota, so that what comes next finds room. */
static bool over_quota(const struct engine *e, const struct session *s)
{
    uint64_t quota = e->settings.backlog_size;

    return s->waiting_bytes > (e->settings.overflow == ENGINE_DROP_NEWEST ? quota : quota / 2);
}

/* Is the publisher of this delivery out of room still? */
static bool keeps_waiting(const struct engine *e, uint32_t slot)
{
    const struct session *publisher = &e->sessions[engine_cell(e, slot)->account];

    return publisher->short_since != 0 &&
           (publisher->wants != 0 || publisher->charged > e->window / 2);
}

/* Drop from the lowest priority up, in it from the oldest on or from the newest back: what keeps
 * publishers out of room, and what is over the quota. */
static void trim(struct engine *e, uint16_t row)
{
    bool newest = e->settings.overflow == ENGINE_DROP_NEWEST;
    struct session *s = &e->sessions[row];

    for (unsigned level = 0; level < WIRE_LEVELS && (e->n_short > 0 || over_quota(e, s)); level++) {
        const struct list *l = &s->waiting.lists[level];
        uint32_t next;

        for (uint32_t slot = newest ? l->tail : l->head; slot != 0; slot = next) {
            const struct reference *r = engine_reference(e, slot);

            next = newest ? r->prev : r->next;
            if (over_quota(e, s) || keeps_waiting(e, slot))
                engine_drop(e, slot, DROP_overflow);
        }
    }
}

/* ---- Frames ---- */

static uint32_t put_welcome(const struct engine *e, uint16_t i, uint8_t *out)
{
    const struct row *row = engine_row(e, i);
    struct wire_frame welcome = {
        .nonce = row->nonce,
        .token = row->token,
        .session = i,
        .depth = (uint16_t)row->depth,
        .width = row->width,
        .frame_max = e->board->frame_max,
        .window = e->window,
        .pool_max = e->settings.pool_max,
        .buffers = pump_buffers(row),
        .buffer_size = OUTBOX_BUFFER,
    };

    return (uint32_t)wire_put_welcome(out, &welcome);
}

static uint32_t put_answer(const struct engine *e, const struct reference *r, uint8_t *out)
{
    uint8_t code = (uint8_t)ref_tries(r);

    if (code == ENGINE_WELCOME)
        return put_welcome(e, ref_owner(r), out);
    if (ref_flags(r) & REF_BARE)
        return (uint32_t)wire_put_answer(out, code, r->cell, r->when);
    if (code == ENGINE_LENT) { /* its bytes are the frame */
        store_get(&e->store, r->cell, out);
        return WIRE_LENT_SIZE;
    }
    return (uint32_t)wire_put_answer(
        out, code, (uint32_t)wire_message_number(store_cell(&e->store, r->cell)->bytes), 1);
}

static uint32_t frame_size(const struct engine *e, const struct reference *r)
{
    if (ref_flags(r) & REF_ANSWER) {
        switch (ref_tries(r)) {
        case ENGINE_WELCOME:
            return WIRE_WELCOME_SIZE;
        case ENGINE_LENT:
            return WIRE_LENT_SIZE;
        default:
            return WIRE_ANSWER_SIZE;
        }
    }
    return store_cell(&e->store, r->cell)->size;
}

/* One copy, and the words that are this delivery's own. */
static uint32_t put_frame(const struct engine *e, uint32_t slot, uint8_t *out)
{
    const struct reference *r = engine_reference(e, slot);
    unsigned flags = ref_flags(r);

    if (flags & REF_ANSWER)
        return put_answer(e, r, out);
    store_get(&e->store, r->cell, out);
    if (flags == 0) /* most are as they came */
        return store_cell(&e->store, r->cell)->size;
    if (flags & (REF_REQUEST | REF_ACK))
        wire_patch_number(out, ref_name(slot, r->age));
    if (flags & REF_ACK) {
        wire_patch_type(out, WIRE_MESSAGE, (uint16_t)(wire_message_flags(out) | WIRE_F_ACK));
        wire_patch_tries(out, (uint8_t)ref_tries(r));
        if (r->when == 0) /* a dead letter, or one that was: its time to live is over */
            wire_patch_expiry(out, 0);
    }
    if (flags & REF_HELD)
        wire_patch_slot_name(out, ref_name(slot, r->age));
    if ((flags & (REF_RETAINED | REF_ACK)) == REF_RETAINED)
        wire_patch_type(out, WIRE_MESSAGE,
                        WIRE_F_RETAIN | (wire_message_flags(out) & WIRE_F_POOLED));
    return store_cell(&e->store, r->cell)->size;
}

/* ---- Buffers of the outbox ---- */

uint32_t pump_buffers(const struct row *row)
{
    return row->depth + 2 < OUTBOX_BUFFERS ? row->depth + 2 : OUTBOX_BUFFERS;
}

static uint8_t *buffer_bytes(const struct session *s, uint32_t b)
{
    return (uint8_t *)s->outbox + outbox_buffer_offset(b);
}

/* A free one, the lowest: it is still in the cache. OUTBOX_BUFFERS: none. */
static uint8_t find_buffer(const struct session *s)
{
    uint32_t n = s->outbox == NULL ? 0 : s->outbox->n_buffers;

    for (uint32_t b = 0; b < n; b++) {
        uint64_t sent = atomic_load_explicit(&s->outbox->sent[b], memory_order_relaxed);

        if (sent == 0 || PERSIST_FAULT(FAULT_NO_TAKEN) ||
            (s->pool != NULL &&
             atomic_load_explicit(&s->pool->taken[b], memory_order_acquire) == sent))
            return (uint8_t)b;
    }
    return OUTBOX_BUFFERS;
}

/* The one that has this batch; OUTBOX_BUFFERS: none has. */
static uint8_t buffer_with(const struct session *s, uint64_t number)
{
    uint32_t n = s->outbox == NULL ? 0 : s->outbox->n_buffers;

    for (uint32_t b = 0; b < n; b++) {
        if (atomic_load_explicit(&s->outbox->sent[b], memory_order_relaxed) == number)
            return (uint8_t)b;
    }
    return OUTBOX_BUFFERS;
}

/* Might there be a free one if its pool were looked at, or memory put behind one more? Asked once
 * until something was sent. */
static bool asks_for_buffer(struct session *s, const struct row *row)
{
    if (s->wants_buffer || s->outbox == NULL ||
        (s->pool != NULL && s->outbox->n_buffers >= pump_buffers(row)))
        return false;
    s->wants_buffer = true;
    return true;
}

/* ---- The batch ---- */

static void begin(struct engine *e, uint64_t number, unsigned list, unsigned level)
{
    e->n_batch = 0;
    e->batch_number = number;
    e->batch_list = (uint8_t)list;
    e->batch_level = (uint8_t)level;
    e->batch_repeats = false;
    e->batch_grouped = false;
    e->place = e->out;
    e->buffer = OUTBOX_BUFFERS;
    e->boxed = false;
    e->batch_pooled = 0;
}

static bool expired(const struct engine *e, const struct reference *r)
{
    return r->when != 0 && (ref_flags(r) & REF_ANSWER) == 0 &&
           wire_message_expiry(store_cell(&e->store, r->cell)->bytes) <= e->now;
}

/* What the next turns of a walk along a list will read is on its way into the cache meanwhile:
 * under a backlog it lies in memory. */
static void warm_next(const struct engine *e, const struct reference *r)
{
    const struct reference *next = engine_reference(e, r->next);
    const char *bytes = (const char *)store_cell(&e->store, store_has_cell(next) ? next->cell : 0);

    __builtin_prefetch(engine_reference(e, next->next));
    __builtin_prefetch(bytes);
    __builtin_prefetch(bytes + 64);
    __builtin_prefetch(bytes + 128);
}

/* May it have this one as well, or does it hold enough (S7)? A single one always. */
static bool may_hold(const struct engine *e, const struct session *s, uint32_t n,
                     const struct reference *r)
{
    uint64_t size = wire_message_slot(store_cell(&e->store, r->cell)->bytes).size;

    if (s->n_held + n == 0)
        return true;
    return s->n_held + n < POOL_HELD &&
           s->held_bytes + e->batch_pooled + size <= e->settings.pool_max / HELD_SHARE;
}

/* Does it wait for what it has to give back? Known anew whenever a batch is gathered. */
static void set_sated(struct engine *e, struct session *s, bool sated)
{
    e->n_sated += sated;
    e->n_sated -= s->sated;
    s->sated = sated;
}

/* Choose from the head of the list until the next does not fit: each frame came in an envelope and
 * fits a buffer. Returns the size of the frames. */
static uint32_t gather(struct engine *e, uint16_t row, uint32_t width, uint64_t *upto)
{
    struct session *s = &e->sessions[row];
    uint32_t n_held = 0;
    uint32_t size = 0;
    uint32_t next;
    bool sated = false;

    *upto = 0;
    for (uint32_t slot = s->waiting.lists[e->batch_list].head; slot != 0; slot = next) {
        struct reference *r = engine_reference(e, slot);

        next = r->next;
        warm_next(e, r);
        if (expired(e, r)) {
            engine_drop(e, slot, DROP_expired);
            continue;
        }
        if (frame_size(e, r) > width - size || e->n_batch == BATCH_MAX)
            break;
        if (ref_flags(r) & REF_HELD) {
            if (!may_hold(e, s, n_held, r)) {
                sated = true;
                break;
            }
            n_held++;
            e->batch_pooled += wire_message_slot(store_cell(&e->store, r->cell)->bytes).size;
        }
        if (ref_flags(r) & REF_LATE) /* from here on part of a batch like any other */
            persist_word(r, r->word & ~((uint64_t)REF_LATE << 8));
        size += put_frame(e, slot, e->place + WIRE_BATCH_SIZE + size);
        if (r->age > *upto)
            *upto = r->age;
        e->batch[e->n_batch++] = slot;
    }
    set_sated(e, s, sated);
    return size;
}

/* From a group's list instead, as many as the session may have. Each is said to be its before any
 * of them goes out: so a start knows which may have (K3). What stops it at one whose payload is on
 * disk is the shell's to bring. */
static uint32_t gather_group(struct engine *e, uint16_t row, const struct group_choice *choice)
{
    struct session *s = &e->sessions[row];
    uint32_t size = 0;
    uint32_t n_held = 0;
    uint32_t next;
    bool sated = false;

    for (uint32_t slot = e->groups[choice->group].waiting.lists[choice->list].head;
         slot != 0 && e->n_batch < choice->n; slot = next) {
        const struct reference *r = engine_reference(e, slot);

        next = r->next;
        if (ref_on_disk(r)) {
            groups_want(e, slot);
            break;
        }
        if (r->when != 0 && expired(e, r)) {
            groups_time_out(e, slot);
            continue;
        }
        if (frame_size(e, r) > e->capacity - size || e->n_batch == BATCH_MAX)
            break;
        if (ref_flags(r) & REF_HELD) {
            if (!may_hold(e, s, n_held, r)) {
                sated = true;
                break;
            }
            n_held++;
            e->batch_pooled += wire_message_slot(store_cell(&e->store, r->cell)->bytes).size;
        }
        size += put_frame(e, slot, e->place + WIRE_BATCH_SIZE + size);
        e->batch[e->n_batch++] = slot;
    }
    set_sated(e, s, sated);
    for (uint32_t i = 0; i < e->n_batch; i++)
        groups_give(e, e->batch[i], row);
    return size;
}

/* The messages of groups that were given to it and may have gone. */
static uint32_t gather_given(struct engine *e, uint16_t row, uint32_t width)
{
    uint32_t size = 0;

    for (uint32_t slot = e->sessions[row].out.head; slot != 0;
         slot = engine_reference(e, slot)->next) {
        const struct reference *r = engine_reference(e, slot);

        if (ref_state(r) != REF_WAIT || frame_size(e, r) > width - size || e->n_batch == BATCH_MAX)
            continue;
        if (ref_flags(r) & REF_HELD)
            e->batch_pooled += wire_message_slot(store_cell(&e->store, r->cell)->bytes).size;
        size += put_frame(e, slot, e->out + WIRE_BATCH_SIZE + size);
        e->batch[e->n_batch++] = slot;
    }
    return size;
}

/* The same for the batch in doubt: the set that the row names (K3). */
static uint32_t gather_doubt(struct engine *e, uint16_t row)
{
    uint32_t width = OUTBOX_BUFFER - WIRE_BATCH_SIZE;
    uint32_t size = 0;
    uint32_t next;

    for (uint32_t slot = e->sessions[row].waiting.lists[e->batch_list].head; slot != 0;
         slot = next) {
        const struct reference *r = engine_reference(e, slot);

        next = r->next;
        if (!engine_in_doubt(e, r) || frame_size(e, r) > width - size || e->n_batch == BATCH_MAX)
            continue;
        if (ref_flags(r) & REF_HELD)
            e->batch_pooled += wire_message_slot(store_cell(&e->store, r->cell)->bytes).size;
        size += put_frame(e, slot, e->out + WIRE_BATCH_SIZE + size);
        e->batch[e->n_batch++] = slot;
    }
    return e->n_batch > 0 ? size : gather_given(e, row, width);
}

static void seal(struct engine *e, uint16_t i, uint32_t frames, struct pump_batch *batch)
{
    const struct row *row = engine_row(e, i);

    e->batch_size = frames;
    wire_put_batch(e->place, i, e->batch_level, e->batch_number, engine_grant(e, i), row->missed,
                   WIRE_BATCH_SIZE + frames);
    *batch = (struct pump_batch){
        .bytes = e->place, .size = WIRE_BATCH_SIZE + frames, .level = e->batch_level};
}

/* The batch lies complete in this buffer: the queue message says so and no more. */
static void seal_letter(struct engine *e, uint16_t i, uint8_t b, uint32_t size,
                        struct pump_batch *batch)
{
    const struct row *row = engine_row(e, i);

    e->buffer = b;
    e->boxed = true;
    wire_put_batch(e->letter, i, e->batch_level, e->batch_number, engine_grant(e, i), row->missed,
                   sizeof(e->letter));
    wire_put_boxed(e->letter + WIRE_BATCH_SIZE, b, size);
    *batch =
        (struct pump_batch){.bytes = e->letter, .size = sizeof(e->letter), .level = e->batch_level};
}

/* A batch that does not fit the queue message stays in its buffer. The intent stands already: a
 * buffer that says it has this number has all of it. */
static void box(struct engine *e, uint16_t i, struct pump_batch *batch)
{
    uint32_t size = batch->size;

    if (size <= engine_row(e, i)->width)
        return;
    persist_shared(&e->sessions[i].outbox->sent[e->buffer], e->batch_number);
    seal_letter(e, i, e->buffer, size, batch);
}

/* Say on the board that this batch stands in the queue: readers keep order by it (P1). The level's
 * word goes first: to mark a batch as sent may clear the level's bit in the tide. */
static void announce_level(struct engine *e, uint16_t row)
{
    atomic_store_explicit(&board_row(e->board, row)->level[e->batch_level],
                          (uint32_t)e->batch_number, memory_order_relaxed);
}

static void announce(struct engine *e, uint16_t row)
{
    announce_level(e, row);
    engine_show_tide(e, row);
}

/* ---- What was sent ---- */

static void welcome_sent(struct engine *e, uint16_t row)
{
    board_add(&e->board->totals.registered, 1);
    engine_post(e, engine_row(e, row)->nonce, WIRE_C_OK, row, 0);
}

/* Deliveries that follow each other in a batch and are counted alike. */
struct tally {
    uint64_t born;
    uint32_t topic;
    uint32_t n;
    bool kept;
};

static struct tally tally_of(const struct engine *e, const struct reference *r)
{
    const struct cell *c = store_cell(&e->store, r->cell);

    return (struct tally){
        .born = c->born, .topic = c->topic, .n = 1, .kept = (ref_flags(r) & REF_RETAINED) != 0};
}

/* A kept message has been in the broker since it was published: its time says nothing of the
 * broker's. */
static void count_out(struct engine *e, unsigned level, const struct tally *t)
{
    struct board_priority *p = &e->board->priorities[level];
    uint64_t waited = e->now > t->born ? (e->now - t->born) / 1000 : 0;

    if (!t->kept)
        board_add(&p->wait[board_bucket(waited)], t->n);
    board_add(&board_topic(e->board, t->topic)->out, t->n);
}

/* A reference of the batch has gone: it ends, or waits for what comes back. */
static void mark(struct engine *e, uint16_t row, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    unsigned flags = ref_flags(r);
    struct tally tally;

    if (flags & REF_ANSWER) {
        if (ref_tries(r) == ENGINE_WELCOME)
            welcome_sent(e, row);
        engine_end(e, slot);
        return;
    }
    tally = tally_of(e, r);
    count_out(e, ref_level(r), &tally);
    if (flags & REF_ACK)
        groups_sent(e, slot, row);
    else if (flags & (REF_REQUEST | REF_HELD))
        engine_change(e, slot,
                      REF_WORD(REF_OUT, flags, ref_level(r), ref_tries(r), ref_owner(r), row));
    else
        engine_end(e, slot);
}

static void count_sent(struct engine *e, const struct tally *t)
{
    if (t->n == 0)
        return;
    count_out(e, e->batch_list, t);
    engine_count_waiting(e, e->batch_list, t->topic, -(uint64_t)t->n);
}

/* A batch of messages that is the front of their list, taken out at once. Its reader, who looks at
 * the tide, need not wait for the rest. */
static void mark_front(struct engine *e, uint16_t row)
{
    struct tally tally = {0};

    backlog_cut(&e->sessions[row].waiting, &e->store, e->batch_list, e->batch[e->n_batch - 1]);
    engine_show_tide(e, row);
    for (uint32_t i = 0; i < e->n_batch; i++) {
        const struct reference *r = engine_reference(e, e->batch[i]);
        struct tally one = tally_of(e, r);

        if (one.born == tally.born && one.topic == tally.topic && one.kept == tally.kept) {
            tally.n++;
        } else {
            count_sent(e, &tally);
            tally = one;
        }
        if (ref_flags(r) & (REF_REQUEST | REF_HELD))
            engine_sent_out(e, e->batch[i], row);
        else
            engine_end_sent(e, e->batch[i]);
    }
    count_sent(e, &tally);
}

static void mark_all(struct engine *e, uint16_t row)
{
    if (e->batch_list < WIRE_LEVELS && !e->batch_repeats && !e->batch_grouped && e->n_batch > 0) {
        mark_front(e, row);
        return;
    }
    for (uint32_t i = 0; i < e->n_batch; i++)
        mark(e, row, e->batch[i]);
}

/* The batch is out: the intent is gone, the board says so. */
static void conclude(struct engine *e, uint16_t row)
{
    persist_send(engine_row(e, row), ROW_SEND(e->batch_number, e->batch_list, e->batch_level, 0));
    announce(e, row);
}

static void count_batch(struct engine *e, uint16_t row, uint32_t n, uint64_t size)
{
    struct board_row *b = board_row(e->board, row);

    board_add(&e->board->totals.batches_out, 1);
    board_add(&b->batches_out, 1);
    if (e->batch_list == PERSIST_CONTROL)
        return;
    board_add(&e->board->totals.messages_out, n);
    board_add(&e->board->totals.bytes_out, size);
    board_add(&e->board->priorities[e->batch_list].out, n);
    board_add(&b->out, n);
    board_add(&b->bytes_out, size);
}

/* ---- The verbs ---- */

/* Is there a place for this list? PUMP_BATCH: yes. */
static int admit(struct session *s, unsigned list)
{
    uint8_t kept = kept_of(list);

    if (s->kept != BLOCKED_NOT && kept >= s->kept)
        return PUMP_BLOCKED;
    if (s->room > kept)
        return PUMP_BATCH;
    if (!s->room_fresh)
        return PUMP_ASK;
    s->kept = kept;
    return PUMP_BLOCKED;
}

/* Half of its window is back: a batch without frames wakes it, if its queue is empty and it may be
 * asleep on it (P5). */
static int next_nudge(struct engine *e, uint16_t i, struct pump_batch *batch)
{
    struct session *s = &e->sessions[i];
    struct row *row = engine_row(e, i);

    if (!s->room_fresh)
        return PUMP_ASK;
    s->nudge = false;
    s->room_fresh = false;
    if (s->room < row->depth)
        return PUMP_NOTHING; /* it has something to read, and looks at its grant then */
    begin(e, row_number(row) + 1, PERSIST_CONTROL, WIRE_CONTROL);
    seal(e, i, 0, batch);
    persist_u64(&row->upto, 0);
    persist_send(row, ROW_SEND(e->batch_number, e->batch_list, e->batch_level, 1));
    return PUMP_BATCH;
}

/* Where the next batch is put together, and how large it may be. False: a buffer is to be had by
 * the shell. */
static bool choose_place(struct engine *e, uint16_t i)
{
    struct session *s = &e->sessions[i];
    const struct row *row = engine_row(e, i);

    e->buffer = find_buffer(s);
    if (e->buffer < OUTBOX_BUFFERS) {
        e->place = buffer_bytes(s, e->buffer);
        e->capacity = OUTBOX_BUFFER - WIRE_BATCH_SIZE;
        return true;
    }
    e->capacity = row->width - WIRE_BATCH_SIZE;
    return !asks_for_buffer(s, row);
}

/* The intent stands, then the batch lies complete where the reader looks for it. */
static int intend(struct engine *e, uint16_t i, uint32_t size, uint64_t upto,
                  struct pump_batch *batch)
{
    struct row *row = engine_row(e, i);

    e->sessions[i].nudge = false;
    seal(e, i, size, batch);
    persist_u64(&row->upto, upto);
    if (!PERSIST_FAULT(FAULT_NO_INTENT))
        persist_send(row, ROW_SEND(e->batch_number, e->batch_list, e->batch_level, 1));
    box(e, i, batch);
    return PUMP_BATCH;
}

/* Its groups have something for it, and nothing of its own comes first. */
static bool groups_come_first(struct session *s, int list, const struct group_choice *choice)
{
    if (choice->n == 0)
        return false;
    if (list < 0 || (int)choice->level != list)
        return (int)choice->level > list;
    s->groups_next = !s->groups_next;
    return !s->groups_next;
}

/* Why a batch of a group came to nothing: its next one is too large for what there is
 * (PUMP_BLOCKED), or is still on its way from the disk, or all had expired: something else may be
 * sent meanwhile. */
static int look_past_group(struct engine *e, const struct group_choice *choice)
{
    uint32_t head = e->groups[choice->group].waiting.lists[choice->list].head;
    const struct reference *r = engine_reference(e, head);

    if (head != 0 && !ref_on_disk(r) && frame_size(e, r) > e->capacity)
        return PUMP_BLOCKED;
    if (head == 0 || !ref_on_disk(r))
        groups_look_again(e, choice->group);
    return PUMP_NOTHING;
}

static int next_batch(struct engine *e, uint16_t i, struct pump_batch *batch)
{
    struct session *s = &e->sessions[i];
    struct row *row = engine_row(e, i);
    bool with_groups = s->members != NULL;

    for (;;) {
        struct group_choice choice = {0};
        int list = backlog_highest(&s->waiting);
        uint64_t upto = 0;
        uint32_t size;
        int outcome;

        if (with_groups)
            choice = groups_choose(e, i);
        bool grouped = groups_come_first(s, list, &choice);

        if (grouped)
            list = choice.list;
        if (list < 0 && s->kept != BLOCKED_NOT && groups_have_more(e, i))
            return PUMP_BLOCKED; /* what its groups have waits for the edge still */
        if (list < 0)
            return s->nudge ? next_nudge(e, i, batch) : PUMP_NOTHING;
        outcome = admit(s, (unsigned)list);
        if (outcome != PUMP_BATCH)
            return outcome;
        begin(e, row_number(row) + 1, (unsigned)list, (unsigned)list);
        if (!choose_place(e, i))
            return PUMP_WANTS_POOL;
        e->batch_grouped = grouped;
        size = grouped ? gather_group(e, i, &choice) : gather(e, i, e->capacity, &upto);
        if (e->n_batch > 0)
            return intend(e, i, size, upto, batch);
        if (s->sated) /* it waits for what it gives back, not for room */
            return s->nudge ? next_nudge(e, i, batch) : PUMP_NOTHING;
        if (grouped && look_past_group(e, &choice) == PUMP_BLOCKED)
            return PUMP_BLOCKED;
        if (!grouped && s->waiting.lists[list].head != 0)
            return PUMP_BLOCKED;               /* no buffer is free, and the queue is too narrow */
        with_groups = with_groups && !grouped; /* all of its own list had expired */
    }
}

/* After a start: the same batch under the same number, before anything else. */
static int next_doubt(struct engine *e, uint16_t i, struct pump_batch *batch)
{
    struct session *s = &e->sessions[i];
    const struct row *row = engine_row(e, i);
    uint32_t size;
    uint8_t b;
    int outcome;

    begin(e, row_number(row) + PERSIST_FAULT(FAULT_NEW_NUMBER), row_list(row), row_level(row));
    size = gather_doubt(e, i);
    if (e->n_batch == 0) { /* all were marked: it had gone */
        conclude(e, i);
        return PUMP_NOTHING;
    }
    outcome = admit(s, row_list(row));
    if (outcome != PUMP_BATCH)
        return outcome;
    e->batch_repeats = true;
    e->batch_size = size;
    b = buffer_with(s, e->batch_number);
    if (b < OUTBOX_BUFFERS) { /* it may be read just now: it stays as it is */
        if (PERSIST_FAULT(FAULT_REFILL)) {
            seal(e, i, size, batch);
            memcpy(buffer_bytes(s, b), batch->bytes, batch->size);
        }
        seal_letter(e, i, b, wire_envelope_length(buffer_bytes(s, b)), batch);
        return PUMP_BATCH;
    }
    if (WIRE_BATCH_SIZE + size > row->width) {
        const uint8_t *frames = e->place + WIRE_BATCH_SIZE;

        if (!choose_place(e, i))
            return PUMP_WANTS_POOL;
        if (e->buffer == OUTBOX_BUFFERS)
            return PUMP_BLOCKED;
        memcpy(e->place + WIRE_BATCH_SIZE, frames, size);
    }
    seal(e, i, size, batch);
    box(e, i, batch);
    return PUMP_BATCH;
}

int pump_next(struct engine *e, uint16_t i, struct pump_batch *batch)
{
    const struct row *row = engine_row(e, i);
    int outcome;

    if (row->state != ROW_LIVE)
        return PUMP_NOTHING;
    if (row_in_doubt(row)) {
        outcome = next_doubt(e, i, batch);
        if (outcome != PUMP_NOTHING)
            return outcome;
    }
    if (e->sessions[i].stalled > 0 && e->settings.overflow != ENGINE_BLOCK)
        trim(e, i);
    outcome = next_batch(e, i, batch);
    if (outcome == PUMP_NOTHING) /* no edge is waited for: what comes next asks for room anew */
        e->sessions[i].kept = BLOCKED_NOT;
    if (outcome == PUMP_BLOCKED && e->sessions[i].kept != BLOCKED_NOT)
        groups_do_without(e, i);
    return outcome;
}

void pump_room(struct engine *e, uint16_t row, uint32_t room)
{
    e->sessions[row].room = room;
    e->sessions[row].room_fresh = true;
}

/* Its whole queue was read once since it stalled: it lives, and has the patience of its publishers
 * again. */
static void show_progress(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];

    if (s->stalled == 0 || --s->stalled > 0)
        return;
    e->n_stalled--;
    engine_dirty(e, row);
}

static void sent(struct engine *e, uint16_t row)
{
    uint32_t n = e->n_batch;

    announce_level(e, row);
    mark_all(e, row);
    conclude(e, row);
    count_batch(e, row, n, e->batch_size + e->batch_pooled);
    show_progress(e, row);
    engine_dirty(e, row);
}

void pump_sent(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];

    s->room--;
    s->room_fresh = false;
    s->wants_buffer = false;
    if (e->boxed)
        board_add(&e->board->totals.boxed, 1);
    sent(e, row);
}

void pump_full(struct engine *e, uint16_t i)
{
    struct session *s = &e->sessions[i];
    struct row *row = engine_row(e, i);

    if (e->boxed && !e->batch_repeats) /* nobody was told of it; before the number is used again */
        persist_shared(&s->outbox->sent[e->buffer], 0);
    if (!e->batch_repeats) /* what was in doubt before stays so; this number was never used */
        persist_send(row, ROW_SEND(row_number(row) - 1, 0, 0, 0));
    for (uint32_t n = e->batch_grouped && !e->batch_repeats ? e->n_batch : 0; n > 0; n--)
        groups_take_back(e, e->batch[n - 1]);
    s->room = 0;
    s->room_fresh = false;
    board_add(&e->board->totals.full_queues, 1);
}

void pump_edge(struct engine *e, uint16_t row)
{
    struct session *s = &e->sessions[row];

    s->kept = BLOCKED_NOT;
    s->room = 0;
    s->room_fresh = false;
    s->wants_buffer = false;
    engine_touch(e, row);
}

void pump_settle(struct engine *e, uint16_t i)
{
    const struct row *row = engine_row(e, i);

    begin(e, row_number(row), row_list(row), row_level(row));
    e->batch_repeats = true;
    e->batch_size = gather_doubt(e, i);
    sent(e, i);
}

uint32_t pump_named(struct engine *e, uint16_t row, uint64_t name)
{
    uint32_t slot = (uint32_t)(name >> 40);
    const struct reference *r = engine_reference(e, slot);

    if (slot == 0 || slot >= e->store.reference_pool.high ||
        (ref_name(slot, r->age) != name && !PERSIST_FAULT(FAULT_NO_AGE)))
        return 0;
    if (ref_state(r) == REF_WAIT && (ref_owner(r) == row || ref_member(r) == row) &&
        engine_in_doubt(e, r) && !PERSIST_FAULT(FAULT_NO_SETTLE))
        pump_settle(e, row); /* it had gone */
    return ref_state(r) == REF_OUT && ref_member(r) == row ? slot : 0;
}

void pump_farewell(struct engine *e, uint16_t i, uint8_t type, uint8_t code,
                   struct pump_batch *batch)
{
    struct row *row = engine_row(e, i);

    begin(e, row_number(row) + 1, 0, 0);
    persist_send(row, ROW_SEND(e->batch_number, 0, 0, 0));
    seal(e, i, (uint32_t)wire_put_end(e->out + WIRE_BATCH_SIZE, type, code), batch);
}
