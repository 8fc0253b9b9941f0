/* What is durable, on its way to the journal and back.
 *
 * Three queues, each a ring in the order of time: what is to be appended; what was appended and is
 * not written yet; answers that wait until it is synced. All of it is derived. What must not be
 * forgotten stands in the ledger: the references themselves, and the ring of those that ended. */
#include "broker/durable.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "broker/groups.h"
#include "broker/pools.h"

enum {
    IN_MEMORY = 1 << 20, /* bytes of a group's payloads that stay in the store, about (J2) */
    BEHIND =
        PERSIST_FAREWELLS - PERSIST_ENDS - 256, /* ends that leave room for one more landing's */
    RESTORED_SETTINGS = 24,                     /* bytes of a GROUP record before the name */
};

#define GROUP_SLOT   UINT32_C(0x80000000) /* a slot with this bit: a group, by its number */
#define MOVE_SLOT    UINT32_C(0x40000000) /* a slot with this bit: its owner has changed */
#define DEAD_OWNER   (UINT64_C(1) << 63)  /* owner in a record: the group's dead letters */
#define NO_REFERENCE 0u
#define DURABLE_LOST "lost-" /* names of groups whose record is damaged begin so */

struct due {
    uint64_t age;
    uint32_t slot;
    bool inherited; /* no room was claimed for it */
};

struct placed {
    uint64_t age;
    uint64_t number;
    uint32_t slot;     /* NO_REFERENCE: ends, up to `age` of them */
    uint32_t location; /* of the record */
    uint32_t before;   /* where it was until then; 0: it is new */
    uint32_t passing;  /* keeps a payload in its pool until it was written; 0: none does */
};

struct durable {
    uint32_t *location;       /* by slot: of its record; 0: it has none */
    uint32_t *group_location; /* by group */
    uint32_t capacity;        /* of the rings */
    struct due *due;
    uint64_t due_in, due_out;
    struct placed *placed;
    uint64_t placed_in, placed_out;
    struct list answers;       /* that wait for the journal */
    uint32_t unstamped;        /* the first of them that does not know for which number */
    struct record_space space; /* that may be claimed still */
    uint8_t refusal; /* the code to refuse with what is new; WIRE_C_OK: it is not refused */
    bool was_short;
    uint64_t made;
    uint64_t inherited; /* what is older, the broker before this one had taken */
    uint64_t farewells_appended;
    uint8_t bytes[WIRE_QUEUE_MAX]; /* of the item that was handed out last */
};

int durable_init(struct engine *e)
{
    uint32_t n = e->store.reference_pool.max;
    struct durable *d = calloc(1, sizeof(*d));

    if (d == NULL)
        return -ENOMEM;
    e->durable = d;
    d->capacity = n + 2 * e->n_groups + 1;
    /* Large: fresh pages of the kernel, zero, and not there until touched. */
    d->location = calloc(n, sizeof(*d->location));
    d->group_location = calloc(2 * e->n_groups + 1, sizeof(*d->group_location));
    d->due = calloc(d->capacity, sizeof(*d->due));
    d->placed = calloc(d->capacity, sizeof(*d->placed));
    d->space = (struct record_space){.segments = UINT32_MAX, .segment = RECORD_SEGMENT_MAX};
    d->inherited = e->ledger->header.committed;
    d->farewells_appended = e->ledger->header.farewells_written;
    if (d->location != NULL && d->group_location != NULL && d->due != NULL && d->placed != NULL)
        return 0;
    durable_deinit(e);
    return -ENOMEM;
}

void durable_deinit(struct engine *e)
{
    struct durable *d = e->durable;

    if (d == NULL)
        return;
    free(d->location);
    free(d->group_location);
    free(d->due);
    free(d->placed);
    free(d);
    e->durable = NULL;
}

/* ---- Space ---- */

void durable_give_space(struct engine *e, const struct record_space *space, uint8_t code)
{
    e->durable->space = *space;
    e->durable->refusal = code;
}

bool durable_was_short(struct engine *e)
{
    bool was_short = e->durable->was_short;

    e->durable->was_short = false;
    return was_short;
}

uint8_t durable_claim(struct engine *e, uint64_t size)
{
    struct durable *d = e->durable;

    if (d == NULL || d->refusal != WIRE_C_OK)
        return d == NULL ? WIRE_C_OK : d->refusal;
    if (size > d->space.segment - RECORD_HEAD_SIZE)
        return WIRE_C_JOURNAL_ERROR; /* no segment takes it */
    if (record_take_space(&d->space, (uint32_t)size))
        return WIRE_C_OK;
    d->was_short = true;
    d->refusal = WIRE_C_JOURNAL_FULL;
    return d->refusal;
}

/* ---- Made ---- */

static void note_due(struct engine *e, uint32_t slot, uint64_t age)
{
    struct durable *d = e->durable;

    if (d->due_in == d->due_out)
        d->due_in = d->due_out = 0; /* the same few pages again */
    if (d->due_in - d->due_out < d->capacity)
        d->due[d->due_in++ % d->capacity] = (struct due){.age = age, .slot = slot};
}

static void note_placed(struct engine *e, const struct placed *p)
{
    struct durable *d = e->durable;

    if (d->placed_in == d->placed_out)
        d->placed_in = d->placed_out = 0;
    if (d->placed_in - d->placed_out < d->capacity)
        d->placed[d->placed_in++ % d->capacity] = *p;
}

void durable_inherited(struct engine *e)
{
    struct durable *d = e->durable;

    if (d != NULL && d->due_in > d->due_out)
        d->due[(d->due_in - 1) % d->capacity].inherited = true;
}

void durable_made(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);
    struct durable *d = e->durable;

    if (d == NULL || (ref_flags(r) & REF_ANSWER) != 0)
        return;
    d->made++;
    d->location[slot] = 0;
    persist_u32(&e->store.places[slot], 0);
    if (!ref_on_disk(r))
        note_due(e, slot, r->age);
}

void durable_group_made(struct engine *e, uint16_t g)
{
    if (e->durable == NULL)
        return;
    e->durable->made++;
    e->durable->group_location[g] = 0;
    note_due(e, GROUP_SLOT | g, group_row(e, g)->age);
}

/* Its record is written, and lies here. */
static void place(struct engine *e, uint32_t slot, uint32_t location)
{
    if ((slot & GROUP_SLOT) != 0) {
        uint16_t g = (uint16_t)(slot & ~GROUP_SLOT);

        e->durable->group_location[g] = location;
        persist_u64(&group_row(e, g)->place, location);
        return;
    }
    e->durable->location[slot] = location;
    persist_u32(&e->store.places[slot], location);
}

void durable_owner_changed(struct engine *e, uint32_t slot)
{
    if (e->durable != NULL && e->durable->location[slot] != 0)
        note_due(e, slot | MOVE_SLOT, engine_reference(e, slot)->age);
}

uint64_t durable_count(const struct engine *e)
{
    return e->durable == NULL ? 0 : e->durable->made;
}

/* ---- The end of a thing ---- */

/* Before it is over (J3). Once too often does no harm. */
static void bid_farewell(struct engine *e, uint64_t age, uint32_t *location)
{
    struct ledger_header *h = &e->ledger->header;
    struct farewell *f = &ledger_farewells(e->ledger)[h->farewells_made % PERSIST_FAREWELLS];

    if (h->farewells_made - h->farewells_written < PERSIST_FAREWELLS) {
        persist_u64(&f->age, age);
        persist_u32(&f->location, *location);
        persist_u64(&h->farewells_made, h->farewells_made + 1);
    }
    *location = 0;
}

void durable_gone(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    if (e->durable != NULL && (ref_flags(r) & REF_ANSWER) == 0)
        bid_farewell(e, r->age, &e->durable->location[slot]);
}

void durable_group_gone(struct engine *e, uint16_t g)
{
    if (e->durable != NULL)
        bid_farewell(e, group_row(e, g)->age, &e->durable->group_location[g]);
}

uint32_t durable_ended(struct engine *e, uint64_t *ages, uint32_t *locations, uint32_t most)
{
    const struct farewell *ring = ledger_farewells(e->ledger);
    uint64_t from = e->durable->farewells_appended;
    uint64_t to = e->ledger->header.farewells_made;
    uint32_t n = 0;

    for (; from + n < to && n < most; n++) {
        ages[n] = ring[(from + n) % PERSIST_FAREWELLS].age;
        locations[n] = ring[(from + n) % PERSIST_FAREWELLS].location;
    }
    return n;
}

void durable_ended_appended(struct engine *e, uint32_t n, uint64_t number)
{
    e->durable->farewells_appended += n;
    note_placed(e, &(struct placed){.age = e->durable->farewells_appended, .number = number});
}

bool durable_is_behind(const struct engine *e)
{
    const struct ledger_header *h = &e->ledger->header;

    return e->durable != NULL && h->farewells_made - h->farewells_written > BEHIND;
}

/* ---- Answers that wait ---- */

void durable_link_answer(struct engine *e, uint32_t slot)
{
    struct durable *d = e->durable;

    list_push(&d->answers, &e->store, slot);
    d->location[slot] = 0;
    if (d->unstamped == 0)
        d->unstamped = slot;
}

void durable_unlink_answer(struct engine *e, uint32_t slot)
{
    struct durable *d = e->durable;

    if (d->unstamped == slot)
        d->unstamped = engine_reference(e, slot)->next;
    list_unlink(&d->answers, &e->store, slot);
    d->location[slot] = 0;
}

void durable_stamp(struct engine *e, uint64_t number)
{
    struct durable *d = e->durable;

    for (uint32_t slot = d->unstamped; slot != 0; slot = engine_reference(e, slot)->next)
        d->location[slot] = (uint32_t)number;
    d->unstamped = 0;
}

void durable_done(struct engine *e, uint64_t number)
{
    struct durable *d = e->durable;
    uint32_t slot;

    while ((slot = d->answers.head) != 0 && slot != d->unstamped &&
           (int32_t)((uint32_t)number - d->location[slot]) >= 0)
        engine_change(e, slot, engine_reference(e, slot)->word & ~((uint64_t)REF_DURABLE << 8));
}

void durable_forget_session(struct engine *e, uint16_t row)
{
    uint32_t next;

    for (uint32_t slot = e->durable == NULL ? 0 : e->durable->answers.head; slot != 0;
         slot = next) {
        next = engine_reference(e, slot)->next;
        if (ref_owner(engine_reference(e, slot)) == row)
            engine_end(e, slot);
    }
}

/* Answers to this session, of which none knows yet how it goes on: not well. */
static void refuse_unstamped(struct engine *e, uint16_t row, uint8_t code)
{
    for (uint32_t slot = e->durable->unstamped; slot != 0; slot = engine_reference(e, slot)->next) {
        struct reference *r = engine_reference(e, slot);

        if (ref_tries(r) == WIRE_C_OK && ref_owner(r) == row && r->age >= e->durable->inherited)
            persist_word(r, REF_WORD(ref_state(r), ref_flags(r), ref_level(r), code, ref_owner(r),
                                     ref_member(r)));
    }
}

/* ---- To the journal ---- */

static uint64_t owner_in_record(const struct engine *e, const struct reference *r)
{
    uint16_t g;

    if (!owner_is_group(e, ref_owner(r)))
        return 0;
    g = owner_group(e, ref_owner(r));
    return group_row(e, group_living(e, g))->age | (group_is_dead(e, g) ? DEAD_OWNER : 0);
}

static enum record_kind kind_of(const struct reference *r)
{
    switch (ref_state(r)) {
    case REF_KEPT:
        return RECORD_KEPT;
    case REF_FILTER:
        return RECORD_FILTER;
    default:
        return RECORD_PUT;
    }
}

/* All of its record but the bytes. */
static void describe(const struct engine *e, uint32_t slot, struct durable_item *item)
{
    const struct reference *r = engine_reference(e, slot);

    *item = (struct durable_item){
        .record = {.age = r->age,
                   .owner = owner_in_record(e, r),
                   .kind = (uint8_t)kind_of(r),
                   .level = (uint8_t)ref_level(r),
                   .tries = (uint8_t)ref_tries(r)},
        .slot = slot,
        .expiry = r->when == 0 || ref_state(r) == REF_OUT ? 0 : (uint64_t)r->when * 10000000u,
    };
    if (ref_state(r) == REF_OUT)
        item->expiry = wire_message_expiry(store_cell(&e->store, r->cell)->bytes);
}

/* A payload in a pool goes into the journal with it: behind a frame that is as if it had been in
 * it, if that is small enough to be one; else behind the frame that it is. */
static void take_payload(struct engine *e, struct durable_item *item)
{
    uint8_t *bytes = e->durable->bytes;
    struct wire_frame f;
    size_t size;

    if (wire_get_delivery(bytes, item->record.size, &f) != WIRE_OK)
        return;
    item->place = f.slot;
    size = wire_message_size(f.text_size, 0);
    if (f.slot.size > e->board->frame_max - size)
        return;
    memmove(bytes + WIRE_MESSAGE_SIZE, f.text, f.text_size + 1u);
    wire_patch_type(bytes, WIRE_MESSAGE, f.flags & ~(unsigned)WIRE_F_POOLED & UINT16_MAX);
    wire_store16(bytes + WIRE_AT_LENGTH, (uint16_t)(size + f.slot.size));
    item->record.size = (uint32_t)size;
}

static void describe_bytes(struct engine *e, struct durable_item *item)
{
    const struct cell *c = engine_cell(e, item->slot);

    item->record.size = c->size;
    item->record.bytes = e->durable->bytes;
    store_get(&e->store, engine_reference(e, item->slot)->cell, e->durable->bytes);
    if (item->record.kind != RECORD_FILTER && cell_pooled(c))
        take_payload(e, item);
}

uint64_t durable_group_size(size_t name)
{
    return RESTORED_SETTINGS + name + 1;
}

static void describe_group(struct engine *e, uint16_t g, struct durable_item *item)
{
    const struct group_row *row = group_row(e, g);
    uint8_t *bytes = e->durable->bytes;
    size_t name = strlen(row->name);

    wire_store32(bytes, row->flags);
    wire_store32(bytes + 4, row->ack_timeout);
    wire_store32(bytes + 8, row->delivery_limit);
    wire_store32(bytes + 12, 0);
    wire_store64(bytes + 16, row->size_max);
    memcpy(bytes + RESTORED_SETTINGS, row->name, name + 1);
    *item = (struct durable_item){
        .record = {.age = row->age,
                   .kind = RECORD_GROUP,
                   .size = (uint32_t)durable_group_size(name),
                   .bytes = bytes},
        .slot = GROUP_SLOT | g,
    };
}

/* Is it still what it was when it was noted, and nowhere in the journal? */
static bool is_due(const struct engine *e, const struct due *due)
{
    const struct reference *r;

    if ((due->slot & GROUP_SLOT) != 0) {
        uint16_t g = (uint16_t)(due->slot & ~GROUP_SLOT);

        return group_row(e, g)->age == due->age && group_row(e, g)->state != GROUP_FREE &&
               e->durable->group_location[g] == 0;
    }
    if ((due->slot & MOVE_SLOT) != 0)
        return durable_location(e, due->slot & ~MOVE_SLOT, due->age) != 0;
    r = engine_reference(e, due->slot);
    return r->age == due->age && ref_state(r) != REF_FREE && ref_state(r) != REF_DROPPED &&
           (ref_flags(r) & (REF_DURABLE | REF_ANSWER)) == REF_DURABLE && !ref_on_disk(r) &&
           e->durable->location[due->slot] == 0;
}

uint64_t durable_due(const struct engine *e)
{
    return e->durable->due_in - e->durable->due_out;
}

bool durable_next(struct engine *e, struct durable_item *item)
{
    struct durable *d = e->durable;

    while (d->due_out < d->due_in) {
        struct due due = d->due[d->due_out++ % d->capacity];

        if (!is_due(e, &due))
            continue;
        if ((due.slot & GROUP_SLOT) != 0) {
            describe_group(e, (uint16_t)(due.slot & ~GROUP_SLOT), item);
        } else if ((due.slot & MOVE_SLOT) != 0) {
            describe(e, due.slot & ~MOVE_SLOT, item);
            item->record.kind = RECORD_MOVE;
        } else {
            describe(e, due.slot, item);
            describe_bytes(e, item);
        }
        item->inherited = due.inherited || due.age < d->inherited;
        return true;
    }
    return false;
}

/* The payload stays in its pool until it was read, whatever becomes of the message meanwhile. */
static uint32_t keep_place(struct engine *e, uint32_t slot)
{
    uint32_t passing = 0;

    e->next_age = e->ledger->header.committed;
    if (store_pool_ready(&e->store.reference_pool) > 0)
        passing = engine_pass(e, engine_reference(e, slot)->cell);
    persist_commit(e->ledger, e->next_age);
    return passing;
}

void durable_appended(struct engine *e, const struct durable_item *item, uint32_t location,
                      uint64_t number)
{
    struct placed p = {
        .age = item->record.age, .number = number, .slot = item->slot, .location = location};

    if (item->record.kind == RECORD_MOVE)
        return;
    if ((item->slot & GROUP_SLOT) != 0)
        e->durable->group_location[item->slot & ~GROUP_SLOT] = location;
    else
        e->durable->location[item->slot] = location;
    if (item->place.size > 0)
        p.passing = keep_place(e, item->slot);
    note_placed(e, &p);
}

void durable_postponed(struct engine *e)
{
    e->durable->due_out--;
}

void durable_passed_over(struct engine *e, const struct durable_item *item)
{
    note_due(e, item->record.kind == RECORD_MOVE ? item->slot | MOVE_SLOT : item->slot,
             item->record.age);
    if (item->inherited)
        durable_inherited(e);
}

void durable_refused(struct engine *e, const struct durable_item *item, uint8_t code)
{
    const struct reference *r = engine_reference(e, item->slot);
    uint16_t publisher;

    if (item->place.size == 0 || item->inherited)
        return;
    publisher = engine_cell(e, item->slot)->account;
    refuse_unstamped(e, publisher, code);
    if (item->record.kind == RECORD_KEPT) {
        engine_change(e, item->slot, r->word & ~((uint64_t)REF_DURABLE << 8));
        return;
    }
    engine_count_refusal(e, publisher, REFUSAL_journal_full);
    engine_end(e, item->slot);
}

/* ---- From the journal ---- */

static bool is_same(const struct engine *e, uint32_t slot, uint64_t age)
{
    const struct reference *r = engine_reference(e, slot);

    return r->age == age && ref_state(r) != REF_FREE &&
           (ref_flags(r) & (REF_DURABLE | REF_ANSWER)) == REF_DURABLE;
}

/* Should its payload leave the store? Not if somebody is just being sent it, nor while there is
 * little of it. */
static bool may_leave(const struct engine *e, const struct reference *r)
{
    if (ref_state(r) != REF_WAIT || !owner_is_group(e, ref_owner(r)) ||
        ref_member(r) != REF_NOBODY || ref_on_disk(r))
        return false;
    return cell_pooled(store_cell(&e->store, r->cell)) ||
           e->groups[owner_group(e, ref_owner(r))].bytes > IN_MEMORY;
}

/* A message is written. Until then it was charged to its publisher: who is faster than the disk
 * waits (P4). */
static void settle_message(struct engine *e, const struct placed *p)
{
    const struct reference *r = engine_reference(e, p->slot);

    if (p->before != 0 ? ref_on_disk(r) : may_leave(e, r))
        groups_exchange(e, p->slot, p->location | REF_ON_DISK);
    else if (p->before == 0 && (ref_flags(r) & (REF_ACK | REF_RETAINED)) == REF_ACK)
        engine_change(e, p->slot, r->word | (uint64_t)REF_RETAINED << 8);
}

/* Its record is written: there, if it is not elsewhere by now. */
static void settle_placed(struct engine *e, const struct placed *p,
                          void (*drop)(void *context, uint32_t location), void *context)
{
    if (durable_location(e, p->slot, p->age) == p->location) {
        place(e, p->slot, p->location);
        if ((p->slot & GROUP_SLOT) == 0)
            settle_message(e, p);
    }
    if (p->before != 0)
        drop(context, p->before);
    if (p->passing != 0)
        engine_end(e, p->passing);
}

void durable_written(struct engine *e, uint64_t number,
                     void (*drop)(void *context, uint32_t location), void *context)
{
    struct durable *d = e->durable;

    while (d->placed_out < d->placed_in &&
           d->placed[d->placed_out % d->capacity].number <= number) {
        const struct placed p = d->placed[d->placed_out++ % d->capacity];

        if (p.slot == NO_REFERENCE)
            persist_u64(&e->ledger->header.farewells_written, p.age);
        else
            settle_placed(e, &p, drop, context);
    }
}

uint32_t durable_shifted(uint32_t location, uint32_t from, uint32_t to)
{
    return location != 0 && record_slot(location) == record_slot(from) && location >= from
               ? to + (location - from)
               : location;
}

void durable_relocated(struct engine *e, uint32_t from, uint32_t to)
{
    struct durable *d = e->durable;

    for (uint32_t slot = 1; slot < e->store.reference_pool.high; slot++) {
        struct reference *r = engine_reference(e, slot);

        if (ref_state(r) == REF_FREE || (ref_flags(r) & (REF_DURABLE | REF_ANSWER)) != REF_DURABLE)
            continue;
        d->location[slot] = durable_shifted(d->location[slot], from, to);
        if (durable_shifted(e->store.places[slot], from, to) != e->store.places[slot])
            persist_u32(&e->store.places[slot], 0); /* it is not there yet */
        if (ref_on_disk(r))
            persist_u32(&r->cell, durable_shifted(r->cell & ~REF_ON_DISK, from, to) | REF_ON_DISK);
    }
    for (uint16_t g = 0; g < e->n_groups; g++) {
        d->group_location[g] = durable_shifted(d->group_location[g], from, to);
        if (d->group_location[g] != group_row(e, g)->place)
            persist_u64(&group_row(e, g)->place, 0);
    }
    for (uint64_t i = d->farewells_appended; i < e->ledger->header.farewells_made; i++) {
        struct farewell *f = &ledger_farewells(e->ledger)[i % PERSIST_FAREWELLS];

        persist_u32(&f->location, durable_shifted(f->location, from, to));
    }
    for (uint64_t i = d->placed_out; i < d->placed_in; i++) {
        struct placed *p = &d->placed[i % d->capacity];

        p->location = durable_shifted(p->location, from, to);
        p->before = durable_shifted(p->before, from, to);
    }
}

void durable_unwritten(struct engine *e, uint32_t location)
{
    for (uint32_t slot = 1; slot < e->store.reference_pool.high; slot++) {
        if (e->durable->location[slot] == location)
            place(e, slot, 0);
    }
}

void durable_lost(struct engine *e, uint32_t slot, uint64_t age)
{
    if (durable_location(e, slot, age) == 0)
        return;
    place(e, slot, 0);
    if ((slot & GROUP_SLOT) == 0 && ref_on_disk(engine_reference(e, slot))) {
        engine_drop(e, slot, DROP_damaged);
        return;
    }
    note_due(e, slot, age);
    durable_inherited(e);
}

/* ---- Moving ---- */

uint32_t durable_location(const struct engine *e, uint32_t slot, uint64_t age)
{
    if ((slot & GROUP_SLOT) != 0) {
        uint16_t g = (uint16_t)(slot & ~GROUP_SLOT);

        return group_row(e, g)->age == age && group_row(e, g)->state != GROUP_FREE
                   ? e->durable->group_location[g]
                   : 0;
    }
    return is_same(e, slot, age) ? e->durable->location[slot] : 0;
}

/* Slots first, then groups. */
bool durable_next_in(struct engine *e, uint32_t segment, uint32_t *slot, struct durable_item *item,
                     uint32_t *location)
{
    struct durable *d = e->durable;

    for (; *slot < e->store.reference_pool.high; ++*slot) {
        *location = d->location[*slot];
        if (*location == 0 || record_slot(*location) != segment ||
            !is_same(e, *slot, engine_reference(e, *slot)->age))
            continue;
        describe(e, *slot, item);
        ++*slot;
        return true;
    }
    if ((*slot & GROUP_SLOT) == 0)
        *slot = GROUP_SLOT;
    for (; (*slot & ~GROUP_SLOT) < e->n_groups; ++*slot) {
        uint16_t g = (uint16_t)(*slot & ~GROUP_SLOT);

        *location = d->group_location[g];
        if (*location == 0 || record_slot(*location) != segment)
            continue;
        describe_group(e, g, item);
        ++*slot;
        return true;
    }
    return false;
}

bool durable_moved(struct engine *e, uint32_t slot, uint64_t age, uint32_t location,
                   uint64_t number)
{
    uint32_t before = durable_location(e, slot, age);

    if (before == 0)
        return false;
    if ((slot & GROUP_SLOT) != 0)
        e->durable->group_location[slot & ~GROUP_SLOT] = location;
    else
        e->durable->location[slot] = location;
    note_placed(
        e, &(struct placed){
               .age = age, .number = number, .slot = slot, .location = location, .before = before});
    return true;
}

/* ---- At a start ---- */

/* What has no place is appended; of what has one, the journal may not know yet that it is a dead
 * letter by now. */
static void start_reference(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    if (ref_on_disk(r))
        place(e, slot, r->cell & ~REF_ON_DISK);
    e->durable->location[slot] = e->store.places[slot];
    if (e->durable->location[slot] == 0)
        note_due(e, slot, r->age);
    else if (owner_is_group(e, ref_owner(r)) && group_is_dead(e, owner_group(e, ref_owner(r))))
        durable_owner_changed(e, slot);
}

void durable_started(struct engine *e)
{
    if (e->durable == NULL)
        return;
    for (uint16_t g = 0; g < e->n_groups; g++) {
        const struct group_row *row = group_row(e, g);

        if (row->state == GROUP_FREE || (row->flags & GROUP_DURABLE) == 0)
            continue;
        e->durable->group_location[g] = (uint32_t)row->place;
        if (row->place == 0)
            note_due(e, GROUP_SLOT | g, row->age);
    }
    for (uint32_t slot = 1; slot < e->store.reference_pool.high; slot++) {
        if (is_same(e, slot, engine_reference(e, slot)->age))
            start_reference(e, slot);
    }
}

void durable_each_place(const struct engine *e, void (*keep)(void *context, uint32_t location),
                        void *context)
{
    for (uint32_t slot = 1; slot < e->store.reference_pool.high; slot++) {
        uint32_t location = durable_location(e, slot, engine_reference(e, slot)->age);

        if (location != 0)
            keep(context, location);
    }
    for (uint16_t g = 0; g < e->n_groups; g++) {
        uint32_t location = durable_location(e, GROUP_SLOT | g, group_row(e, g)->age);

        if (location != 0)
            keep(context, location);
    }
}

/* ---- After a reboot ---- */

static uint16_t free_group(const struct engine *e)
{
    for (uint16_t g = 0; g < e->n_groups; g++) {
        if (group_row(e, g)->state == GROUP_FREE)
            return g;
    }
    return REF_NOBODY;
}

/* The record of a group is damaged, that of something of its is not: it is in a group all the same,
 * whose name says what happened. */
static uint16_t make_lost_group(struct engine *e, uint64_t age)
{
    uint16_t g = free_group(e);
    struct group_row row = {
        .age = age,
        .flags = GROUP_DURABLE,
        .ack_timeout = e->settings.ack_timeout,
        .delivery_limit = e->settings.delivery_limit,
        .size_max = e->settings.group_size,
    };

    if (g == REF_NOBODY)
        return g;
    snprintf(row.name, sizeof(row.name), DURABLE_LOST "%" PRIu64, age);
    *group_row(e, g) = row;
    persist_u32(&group_row(e, g)->state, GROUP_LIVE);
    durable_group_made(e, g);
    return g;
}

/* Whose that is. 0; 1: its group was lost, and is made anew; -ENOSPC. */
static int find_owner(struct engine *e, uint64_t owner, uint16_t *out)
{
    uint64_t age = owner & ~DEAD_OWNER;
    uint16_t g = 0;
    int r = 0;

    while (g < e->n_groups && (group_row(e, g)->state == GROUP_FREE || group_row(e, g)->age != age))
        g++;
    if (g == e->n_groups) {
        g = make_lost_group(e, age);
        r = 1;
    }
    if (g == REF_NOBODY)
        return -ENOSPC;
    *out = owner & DEAD_OWNER ? group_dead(e, g) : g;
    return r;
}

static int restore_group(struct engine *e, const struct record *record, uint32_t location)
{
    struct group_row row = {.age = record->age};
    uint16_t g = free_group(e);

    if (record->size <= RESTORED_SETTINGS || record->size - RESTORED_SETTINGS > sizeof(row.name) ||
        record->bytes[record->size - 1] != '\0')
        return -EBADMSG;
    if (g == REF_NOBODY)
        return -ENOSPC;
    row.flags = wire_load32(record->bytes);
    row.ack_timeout = wire_load32(record->bytes + 4);
    row.delivery_limit = wire_load32(record->bytes + 8);
    row.size_max = wire_load64(record->bytes + 16);
    memcpy(row.name, record->bytes + RESTORED_SETTINGS, record->size - RESTORED_SETTINGS);
    *group_row(e, g) = row;
    persist_u32(&group_row(e, g)->state, GROUP_LIVE);
    place(e, GROUP_SLOT | g, location);
    return 0;
}

static int restore_filter(struct engine *e, const struct record *record, uint32_t location)
{
    struct wire_frame f;
    uint32_t cell;
    uint32_t slot;
    uint16_t g;
    int r;

    if (wire_get_request(record->bytes, record->size, &f) != WIRE_OK)
        return -EBADMSG;
    r = find_owner(e, record->owner, &g);
    if (r < 0)
        return r;
    cell = store_put(&e->store, record->bytes, record->size, 0, e->now);
    if (cell == 0)
        return -ENOSPC;
    slot = engine_make(e, REF_WORD(REF_FILTER, REF_DURABLE, 0, 0, group_owner(e, g), REF_NOBODY),
                       cell, 0);
    place(e, slot, location);
    e->generation++;
    return filters_add(&e->filters, f.text, f.text_size, group_owner(e, g), slot) < 0 ? -ENOSPC : r;
}

static int restore_kept(struct engine *e, const struct record *record, uint64_t expiry,
                        uint32_t location)
{
    struct topic *topic;
    struct wire_frame f;
    uint32_t before;
    uint32_t cell;
    uint32_t slot;

    if (wire_get_delivery(record->bytes, record->size, &f) != WIRE_OK)
        return -EBADMSG;
    topic = topics_add(&e->topics, f.text, f.text_size);
    before = topic == NULL ? 0 : topic_kept(topic);
    if (before != 0 && engine_reference(e, before)->age > record->age) {
        bid_farewell(e, record->age, &location);
        return 0;
    }
    cell = store_put(&e->store, record->bytes, record->size, 0, e->now);
    if (topic == NULL || cell == 0)
        return -ENOSPC;
    store_cell(&e->store, cell)->topic = topic_row(topic);
    wire_store64(store_cell(&e->store, cell)->bytes + WIRE_AT_EXPIRY, expiry);
    engine_join_pool(e, cell);
    slot = engine_make(e, REF_WORD(REF_KEPT, REF_DURABLE, record->level, 0, REF_NOBODY, 0), cell,
                       engine_when(expiry));
    place(e, slot, location);
    topics_keep(&e->topics, topic, slot);
    if (before != 0) /* that it was replaced was not synced */
        engine_end(e, before);
    return 0;
}

static int restore_message(struct engine *e, const struct record *record, uint64_t expiry,
                           uint32_t location)
{
    uint16_t g;
    int r = find_owner(e, record->owner, &g);

    if (r < 0)
        return r;
    place(e,
          engine_make(e,
                      REF_WORD(REF_WAIT, REF_ACK | REF_RETAINED | REF_DURABLE, record->level,
                               record->tries, group_owner(e, g), REF_NOBODY),
                      location | REF_ON_DISK, group_is_dead(e, g) ? 0 : engine_when(expiry)),
          location);
    return r;
}

int durable_restore(struct engine *e, const struct record *record, uint64_t expiry,
                    uint32_t location)
{
    if (store_pool_ready(&e->store.reference_pool) == 0)
        return -ENOSPC;
    e->next_age = record->age;
    switch (record->kind) {
    case RECORD_GROUP:
        return restore_group(e, record, location);
    case RECORD_FILTER:
        return restore_filter(e, record, location);
    case RECORD_KEPT:
        return restore_kept(e, record, expiry, location);
    default:
        return restore_message(e, record, expiry, location);
    }
}

void durable_restored(struct engine *e, uint64_t highest)
{
    if (e->ledger->header.committed <= highest)
        persist_commit(e->ledger, highest + 1);
    e->next_age = e->ledger->header.committed;
    groups_started(e);
}
