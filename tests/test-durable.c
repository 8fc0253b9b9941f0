/* Durable things in the engine, over its rig; the journal is a list on paper, and each of its steps
 * is the test's to take. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/durable.h"
#include "tests/support/engine-expect.h"

enum {
    ENTRIES = 1024,
    ENTRY_SIZE = 512,
    IN_SEGMENT = 8, /* entries of a segment */
    ENDS = 8,       /* ages in a record */
};

struct entry {
    struct record record;
    uint64_t expiry;
    uint8_t bytes[ENTRY_SIZE];
};

/* Entry i has the number i + 1, and the place place_of(i). */
static struct paper {
    struct entry entries[ENTRIES];
    uint32_t n;
    uint32_t written;
    uint32_t dropped[ENTRIES]; /* places, in their order */
    uint32_t n_dropped;
    bool full;
} paper;

static const struct rig_options with_journal = {.journal = true};

static uint32_t place_of(uint32_t i)
{
    return record_location(i / IN_SEGMENT, RECORD_UNIT * (1 + i % IN_SEGMENT));
}

static int setup(void **state)
{
    memset(&paper, 0, sizeof(paper));
    return expect_setup_with(state, &with_journal);
}

/* ---- The journal's steps ---- */

static uint32_t write_down(const struct record *record, uint64_t expiry)
{
    struct entry *entry = &paper.entries[paper.n];

    assert_true(paper.n < ENTRIES && record->size <= ENTRY_SIZE);
    entry->record = *record;
    entry->expiry = expiry;
    if (record->size > 0 && record->bytes != NULL)
        memcpy(entry->bytes, record->bytes, record->size);
    entry->record.bytes = entry->bytes;
    return place_of(paper.n++);
}

static void append_things(struct engine *e)
{
    struct durable_item item;

    for (uint64_t n = durable_due(e); n > 0 && durable_next(e, &item); n--) {
        if (paper.full) {
            durable_passed_over(e, &item);
            continue;
        }
        uint32_t place = write_down(&item.record, item.expiry);

        durable_appended(e, &item, place, paper.n);
    }
}

static void append_ends(struct engine *e)
{
    uint64_t ages[ENDS];
    uint32_t places[ENDS];
    uint32_t n;

    while ((n = durable_ended(e, ages, places, ENDS)) > 0) {
        write_down(&(struct record){.kind = RECORD_END,
                                    .age = ages[0],
                                    .size = n * (uint32_t)sizeof(*ages),
                                    .bytes = (const uint8_t *)ages},
                   0);
        durable_ended_appended(e, n, paper.n);
    }
}

static void append(struct engine *e)
{
    append_things(e);
    append_ends(e);
    if (durable_due(e) == 0)
        durable_stamp(e, paper.n);
}

static void set_full(struct rig *r, bool full)
{
    paper.full = full;
    durable_give_space(
        &r->engine, &(struct record_space){.segments = full ? 0 : UINT32_MAX, .segment = 1 << 20},
        WIRE_C_OK);
}

static void drop(void *context, uint32_t place)
{
    (void)context;
    paper.dropped[paper.n_dropped++] = place;
}

static void write_all(struct engine *e)
{
    paper.written = paper.n;
    durable_written(e, paper.written, drop, NULL);
}

static void sync_all(struct engine *e)
{
    durable_done(e, paper.written);
}

static const struct entry *entry_at(uint32_t place)
{
    for (uint32_t i = 0; i < paper.n; i++) {
        if (place_of(i) == place)
            return &paper.entries[i];
    }
    return NULL;
}

/* What is wanted is read. */
static void load(struct engine *e)
{
    uint32_t n = e->loading.n;

    e->loading.n = 0;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t slot = e->loading.slots[i].slot;
        uint64_t age = e->loading.slots[i].age;
        const struct entry *entry = entry_at(durable_location(e, slot, age));

        assert_non_null(entry);
        groups_bring_in(
            e, &(struct groups_payload){
                   .slot = slot, .age = age, .frame = entry->bytes, .size = entry->record.size});
        groups_loaded(e, e->loading.slots[i].group);
    }
}

/* All of them, until nothing is left to be done. */
static void settle(struct rig *r)
{
    for (int i = 0; i < 6; i++) {
        append(&r->engine);
        write_all(&r->engine);
        sync_all(&r->engine);
        rig_turn(r);
        load(&r->engine);
    }
}

/* Records of one kind with this age. */
static uint32_t count_records(unsigned kind, uint64_t age)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < paper.n; i++)
        n += paper.entries[i].record.kind == kind && paper.entries[i].record.age == age;
    return n;
}

static bool has_ended(uint64_t age)
{
    for (uint32_t i = 0; i < paper.n; i++) {
        const struct record *record = &paper.entries[i].record;

        for (uint32_t k = 0; record->kind == RECORD_END && k < record->size / 8; k++) {
            if (record_end_age(record, k) == age)
                return true;
        }
    }
    return false;
}

/* ---- A reboot ---- */

/* A start on nothing but the paper. */
static void reboot(struct rig *r)
{
    uint64_t highest = 0;

    rig_deinit(r);
    assert_int_equal(rig_init(r, &with_journal), 0);
    for (uint32_t i = 0; i < paper.written; i++) {
        const struct entry *entry = &paper.entries[i];
        struct record record = entry->record;

        highest = record.age > highest ? record.age : highest;
        if (!record_is_thing(record.kind) || has_ended(record.age))
            continue;
        for (uint32_t k = i; k < paper.written; k++) {
            const struct record *later = &paper.entries[k].record;

            if (later->age == record.age && (later->kind == RECORD_MOVE || k > i)) {
                record.owner = later->owner;
                record.tries = later->tries;
            }
        }
        assert_int_equal(durable_restore(&r->engine, &record, entry->expiry, place_of(i)), 0);
    }
    durable_restored(&r->engine, highest);
}

/* ---- What clients do ---- */

static void join(struct rig *r, uint16_t row, uint16_t prefetch)
{
    uint8_t bytes[512];
    const struct wire_frame f = {.text = "job/#",
                                 .text_size = 5,
                                 .group = "g",
                                 .group_size = 1,
                                 .flags = WIRE_F_DURABLE,
                                 .prefetch = prefetch,
                                 .limit = 2,
                                 .number = 77};

    rig_begin(r, row);
    rig_add_bytes(r, bytes, wire_put_join(bytes, &f));
    rig_send(r);
}

static uint16_t member(struct rig *r, uint16_t prefetch)
{
    uint16_t row = expect_session(r, "");

    join(r, row, prefetch);
    settle(r);
    expect_answer(r, row, WIRE_C_OK, 77, 1);
    return row;
}

static void publish(struct rig *r, uint16_t row, uint32_t number, const char *payload,
                    uint8_t priority)
{
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = priority,
                                      .flags = number != 0 ? WIRE_F_CONFIRM : 0,
                                      .number = number,
                                      .topic = "job/it",
                                      .payload = payload});
}

static uint64_t expect_job(struct rig *r, uint16_t row, const char *payload, uint8_t tries)
{
    struct wire_frame f = expect_frame(r, row, WIRE_MESSAGE);

    assert_int_equal(f.flags & WIRE_F_ACK, WIRE_F_ACK);
    assert_int_equal(f.tries, tries);
    assert_int_equal(f.payload_size, strlen(payload));
    assert_memory_equal(f.payload, payload, strlen(payload));
    return f.number;
}

static void acknowledge(struct rig *r, uint16_t row, uint64_t name)
{
    uint8_t bytes[64];

    rig_begin(r, row);
    rig_add_bytes(r, bytes, wire_put_acks(bytes, &name, 1));
    rig_send(r);
}

static void reject(struct rig *r, uint16_t row, uint64_t name)
{
    uint8_t bytes[64];

    rig_begin(r, row);
    rig_add_bytes(r, bytes, wire_put_nack(bytes, WIRE_F_DEAD, name, 0));
    rig_send(r);
}

/* The slot of the reference that a delivery's name names. */
static uint32_t slot_of(uint64_t name)
{
    return (uint32_t)(name >> 40);
}

static uint64_t age_of(const struct rig *r, uint64_t name)
{
    return engine_reference(&r->engine, slot_of(name))->age;
}

/* ---- Confirms ---- */

static void a_confirm_waits_until_its_record_is_synced(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");

    publish(r, publisher, 9, "x", 8);
    append(&r->engine);
    rig_turn(r);
    expect_nothing(r, publisher);
    write_all(&r->engine);
    rig_turn(r);
    expect_nothing(r, publisher);
    expect_job(r, row, "x", 0); /* who gets it need not wait */
    sync_all(&r->engine);
    rig_turn(r);
    expect_answer(r, publisher, WIRE_C_OK, 9, 1);
}

static void a_confirm_of_what_is_not_durable_passes_by(void **state)
{
    struct rig *r = *state;
    uint16_t publisher;

    member(r, 0);
    publisher = expect_session(r, "");
    publish(r, publisher, 9, "x", 8);
    rig_message(r, publisher,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .flags = WIRE_F_CONFIRM,
                                      .number = 10,
                                      .topic = "else",
                                      .payload = ""});
    rig_turn(r);
    expect_answer(r, publisher, WIRE_C_OK, 10, 1);
    expect_nothing(r, publisher);
    settle(r);
    expect_answer(r, publisher, WIRE_C_OK, 9, 1);
}

static void what_is_refused_is_not_taken_and_said_to_be(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");

    set_full(r, true);
    publish(r, publisher, 9, "x", 8);
    settle(r);
    expect_answer(r, publisher, WIRE_C_JOURNAL_FULL, 9, 1);
    expect_nothing(r, row);
    set_full(r, false);
    publish(r, publisher, 10, "y", 8);
    settle(r);
    expect_answer(r, publisher, WIRE_C_OK, 10, 1);
    expect_job(r, row, "y", 0);
}

static void of_several_messages_only_those_without_room_are_refused(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint32_t room = record_room((uint32_t)wire_message_size(strlen("job/it"), strlen("x")));
    uint16_t publisher = expect_session(r, "");

    durable_give_space(&r->engine, &(struct record_space){.rest = 2 * room, .segment = 1 << 20},
                       WIRE_C_OK);
    for (uint32_t number = 9; number < 13; number++)
        publish(r, publisher, number, "x", 8);
    settle(r);
    expect_answer(r, publisher, WIRE_C_JOURNAL_FULL, 11, 1);
    expect_answer(r, publisher, WIRE_C_JOURNAL_FULL, 12, 1);
    expect_answer(r, publisher, WIRE_C_OK, 9, 1);
    expect_answer(r, publisher, WIRE_C_OK, 10, 1);
    expect_nothing(r, publisher);
    expect_job(r, row, "x", 0);
    expect_job(r, row, "x", 0);
    expect_nothing(r, row);
    assert_true(durable_was_short(&r->engine));
}

/* A segment is being made: it is taken, and given to members, but confirmed when it is there. */
static void J4_what_waits_for_room_is_confirmed_when_it_was_written(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");

    paper.full = true;
    publish(r, publisher, 9, "x", 8);
    settle(r);
    expect_job(r, row, "x", 0);
    expect_nothing(r, publisher);
    paper.full = false;
    settle(r);
    expect_answer(r, publisher, WIRE_C_OK, 9, 1);
}

static void what_no_segment_takes_is_refused(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");

    durable_give_space(&r->engine, &(struct record_space){.segments = UINT32_MAX, .segment = 64},
                       WIRE_C_OK);
    publish(r, publisher, 9, "one that is far too long for such a segment", 8);
    settle(r);
    expect_answer(r, publisher, WIRE_C_JOURNAL_ERROR, 9, 1);
    expect_nothing(r, row);
}

static void a_group_that_the_journal_refuses_is_not_made(void **state)
{
    struct rig *r = *state;
    uint16_t row = expect_session(r, "");

    set_full(r, true);
    join(r, row, 0);
    settle(r);
    expect_answer(r, row, WIRE_C_JOURNAL_FULL, 77, 1);
    life_tick(&r->engine);
    assert_int_equal(r->engine.n_live_groups, 0);
    set_full(r, false);
    join(r, row, 0);
    settle(r);
    expect_answer(r, row, WIRE_C_OK, 77, 1);
}

/* ---- Ends ---- */

static void J3_a_kill_forgets_no_end(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");
    uint64_t name, age;

    publish(r, publisher, 0, "x", 8);
    settle(r);
    name = expect_job(r, row, "x", 0);
    age = age_of(r, name);
    acknowledge(r, row, name);
    assert_int_equal(rig_restart(r), 0);
    assert_false(has_ended(age));
    settle(r);
    assert_true(has_ended(age));
}

static void J3_an_end_that_was_not_written_is_appended_again(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");
    uint64_t name;
    uint32_t n;

    publish(r, publisher, 0, "x", 8);
    settle(r);
    name = expect_job(r, row, "x", 0);
    acknowledge(r, row, name);
    append(&r->engine);
    n = paper.n;
    assert_int_equal(rig_restart(r), 0);
    append(&r->engine);
    assert_int_equal(paper.n, n + 1);
    write_all(&r->engine);
    assert_int_equal(rig_restart(r), 0);
    append(&r->engine);
    assert_int_equal(paper.n, n + 1);
}

static void so_many_ends_that_the_ring_has_no_room_for_more_hold_requests_up(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");
    uint32_t n = 0;

    while (!durable_is_behind(&r->engine) && n < PERSIST_FAREWELLS) {
        publish(r, publisher, 0, "x", 8);
        rig_turn(r);
        acknowledge(r, row, expect_job(r, row, "x", 0));
        n++;
    }
    assert_true(n + PERSIST_ENDS < PERSIST_FAREWELLS);
    settle(r);
    assert_false(durable_is_behind(&r->engine));
}

/* ---- Places ---- */

static void what_is_written_is_not_appended_again_after_a_kill(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");
    uint64_t name;
    uint32_t n;

    publish(r, publisher, 0, "x", 8);
    settle(r);
    name = expect_job(r, row, "x", 0);
    n = paper.n;
    assert_int_equal(rig_restart(r), 0);
    append(&r->engine);
    assert_int_equal(paper.n, n);
    assert_int_not_equal(durable_location(&r->engine, slot_of(name), age_of(r, name)), 0);
}

static void what_is_not_written_is_appended_again_under_its_age(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");
    uint64_t name;

    publish(r, publisher, 0, "x", 8);
    append(&r->engine);
    rig_turn(r);
    name = expect_job(r, row, "x", 0);
    assert_int_equal(rig_restart(r), 0);
    append(&r->engine);
    assert_int_equal(count_records(RECORD_PUT, age_of(r, name)), 2);
}

static void places_follow_when_the_disk_refuses(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");
    uint64_t one, two, age;
    uint32_t from, to = record_location(100, RECORD_UNIT), places[ENDS];
    uint64_t ages[ENDS];

    publish(r, publisher, 0, "one", 8);
    publish(r, publisher, 0, "two", 8);
    append(&r->engine);
    write_all(&r->engine);
    rig_turn(r);
    one = expect_job(r, row, "one", 0);
    two = expect_job(r, row, "two", 0);
    from = durable_location(&r->engine, slot_of(one), age_of(r, one));
    age = age_of(r, two);
    acknowledge(r, row, two);
    durable_relocated(&r->engine, from, to);
    assert_int_equal(durable_location(&r->engine, slot_of(one), age_of(r, one)), to);
    assert_int_equal(durable_ended(&r->engine, ages, places, ENDS), 1);
    assert_int_equal(ages[0], age);
    assert_int_equal(places[0], to + 1);
}

static void what_moves_keeps_its_old_place_until_it_is_written(void **state)
{
    struct rig *r = *state;
    struct durable_item item;
    uint32_t slot = 0, location, to, n = 0;

    member(r, 0);
    publish(r, expect_session(r, ""), 0, "x", 8);
    settle(r);
    while (durable_next_in(&r->engine, 0, &slot, &item, &location)) { /* group, filter, message */
        to = write_down(&entry_at(location)->record, 0);
        assert_true(durable_moved(&r->engine, item.slot, item.record.age, to, paper.n));
        n++;
    }
    assert_int_equal(n, 3);
    assert_int_equal(paper.n_dropped, 0);
    write_all(&r->engine);
    assert_int_equal(paper.n_dropped, 3);
    slot = 0;
    assert_int_equal(rig_restart(r), 0);
    for (n = 0; durable_next_in(&r->engine, 0, &slot, &item, &location); n++)
        assert_true(location >= place_of(3));
    assert_int_equal(n, 3);
}

/* ---- Dead letters ---- */

static void a_dead_letter_is_recorded_as_one_when_there_is_room_again(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);
    uint16_t publisher = expect_session(r, "");
    uint64_t name, age;

    publish(r, publisher, 0, "x", 8);
    settle(r);
    name = expect_job(r, row, "x", 0);
    age = age_of(r, name);
    set_full(r, true);
    reject(r, row, name);
    settle(r);
    assert_int_equal(count_records(RECORD_MOVE, age), 0);
    set_full(r, false);
    settle(r);
    assert_int_equal(count_records(RECORD_MOVE, age), 1);
}

/* ---- Reboots ---- */

static void a_reboot_finds_groups_messages_and_dead_letters(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 1);
    uint16_t publisher = expect_session(r, "");
    uint64_t name;

    publish(r, publisher, 0, "dead", 8);
    settle(r);
    name = expect_job(r, row, "dead", 0);
    publish(r, publisher, 0, "low", 3);
    publish(r, publisher, 0, "second", 8);
    publish(r, publisher, 0, "third", 8);
    publish(r, publisher, 0, "high", 20);
    reject(r, row, name);
    settle(r);
    reboot(r);
    assert_int_equal(r->engine.n_live_groups, 1);
    assert_int_equal(r->engine.groups[group_dead(&r->engine, 0)].n_waiting, 1);
    row = member(r, 1);
    for (int i = 0; i < 4; i++) {
        static const char *const order[] = {"high", "second", "third", "low"};

        settle(r);
        acknowledge(r, row, expect_job(r, row, order[i], 0));
    }
    settle(r);
    expect_nothing(r, row);
}

static void what_was_acknowledged_and_written_does_not_come_after_a_reboot(void **state)
{
    struct rig *r = *state;
    uint16_t row = member(r, 0);

    publish(r, expect_session(r, ""), 0, "x", 8);
    settle(r);
    acknowledge(r, row, expect_job(r, row, "x", 0));
    settle(r);
    reboot(r);
    row = member(r, 0);
    settle(r);
    expect_nothing(r, row);
}

/* ---- A kill between any two steps ---- */

enum { STEPS = 60, PUBLISHED = 12 };

static void kill_if(struct rig *r, int *step, int cut)
{
    if ((*step)++ == cut)
        assert_int_equal(rig_restart(r), 0);
}

/* One pass through all that can happen; the broker dies at the step `cut`. */
static void go_through(struct rig *r, int cut)
{
    uint16_t row = member(r, 3);
    uint16_t publisher = expect_session(r, "");
    uint32_t came[PUBLISHED] = {0}, confirmed = 0;
    struct wire_frame f;
    int step = 0;

    for (int i = 0; i < PUBLISHED + 8; i++) {
        char text[] = {(char)('a' + i), '\0'};

        if (i < PUBLISHED)
            publish(r, publisher, (uint32_t)(100 + i), text, 8);
        kill_if(r, &step, cut);
        append(&r->engine);
        kill_if(r, &step, cut);
        write_all(&r->engine);
        kill_if(r, &step, cut);
        sync_all(&r->engine);
        rig_turn(r);
        load(&r->engine);
        while (rig_read(r, row, &f)) {
            assert_int_equal(f.type, WIRE_MESSAGE);
            came[f.payload[0] - 'a']++;
            acknowledge(r, row, f.number);
        }
        while (rig_read(r, publisher, &f)) {
            assert_int_equal(f.code, WIRE_C_OK);
            confirmed += f.count;
        }
    }
    assert_true(step >= STEPS);
    for (int i = 0; i < PUBLISHED; i++)
        assert_int_equal(came[i], 1);
    assert_int_equal(confirmed, PUBLISHED);
    settle(r);
    for (uint32_t i = 0; i < paper.n; i++) {
        if (paper.entries[i].record.kind == RECORD_PUT)
            assert_true(has_ended(paper.entries[i].record.age));
    }
}

static void J4_a_kill_at_any_step_loses_and_repeats_nothing(void **state)
{
    for (int cut = 0; cut < STEPS; cut++) {
        if (cut > 0) {
            assert_int_equal(expect_teardown(state), 0);
            assert_int_equal(setup(state), 0);
        }
        go_through(*state, cut);
        expect_sound(*state);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, expect_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_confirm_waits_until_its_record_is_synced),
        TEST(a_confirm_of_what_is_not_durable_passes_by),
        TEST(what_is_refused_is_not_taken_and_said_to_be),
        TEST(of_several_messages_only_those_without_room_are_refused),
        TEST(J4_what_waits_for_room_is_confirmed_when_it_was_written),
        TEST(what_no_segment_takes_is_refused),
        TEST(a_group_that_the_journal_refuses_is_not_made),
        TEST(J3_a_kill_forgets_no_end),
        TEST(J3_an_end_that_was_not_written_is_appended_again),
        TEST(so_many_ends_that_the_ring_has_no_room_for_more_hold_requests_up),
        TEST(what_is_written_is_not_appended_again_after_a_kill),
        TEST(what_is_not_written_is_appended_again_under_its_age),
        TEST(places_follow_when_the_disk_refuses),
        TEST(what_moves_keeps_its_old_place_until_it_is_written),
        TEST(a_dead_letter_is_recorded_as_one_when_there_is_room_again),
        TEST(a_reboot_finds_groups_messages_and_dead_letters),
        TEST(what_was_acknowledged_and_written_does_not_come_after_a_reboot),
        TEST(J4_a_kill_at_any_step_loses_and_repeats_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
