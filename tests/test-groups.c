/* Consumer groups and last wills, over the engine's rig. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/engine-expect.h"

/* ---- What clients do ---- */

struct join {
    const char *group;
    const char *filter;
    uint16_t flags;
    uint16_t prefetch;
    uint32_t timeout;
    uint8_t limit;
};

static uint8_t joined(struct rig *r, uint16_t row, const struct join *j)
{
    uint8_t bytes[512];
    struct wire_frame f = {
        .text = j->filter,
        .text_size = (uint8_t)strlen(j->filter),
        .group = j->group,
        .group_size = (uint8_t)strlen(j->group),
        .flags = j->flags,
        .prefetch = j->prefetch,
        .timeout = j->timeout,
        .limit = j->limit,
        .number = 77,
    };

    rig_begin(r, row);
    rig_add_bytes(r, bytes, wire_put_join(bytes, &f));
    rig_send(r);
    rig_turn(r);
    f = expect_frame(r, row, WIRE_ANSWER);
    assert_int_equal(f.number, 77);
    return f.code;
}

static void join_with(struct rig *r, uint16_t row, const struct join *j)
{
    assert_int_equal(joined(r, row, j), WIRE_C_OK);
}

static void join(struct rig *r, uint16_t row, uint16_t prefetch)
{
    join_with(r, row, &(struct join){.group = "jobs", .filter = "job/#", .prefetch = prefetch});
}

/* Its goodbye, and the effect of it. */
static void leave(struct rig *r, uint16_t row)
{
    rig_bye(r, row);
    life_quiet(&r->engine);
    rig_turn(r);
}

static void acknowledge(struct rig *r, uint16_t row, uint64_t name)
{
    uint8_t bytes[64];

    rig_begin(r, row);
    rig_add_bytes(r, bytes, wire_put_acks(bytes, &name, 1));
    rig_send(r);
    rig_turn(r);
}

static void refuse(struct rig *r, uint16_t row, uint64_t name, uint16_t flags, uint32_t delay)
{
    uint8_t bytes[64];

    rig_begin(r, row);
    rig_add_bytes(r, bytes, wire_put_nack(bytes, flags, name, delay));
    rig_send(r);
    rig_turn(r);
}

static uint8_t administer(struct rig *r, uint16_t row, enum wire_verb verb, const char *text,
                          uint32_t *count)
{
    struct wire_frame f;

    rig_begin(r, row);
    rig_add_text(r, WIRE_ADMIN, (uint16_t)verb, 5, text);
    rig_send(r);
    rig_turn(r);
    f = expect_frame(r, row, WIRE_ANSWER);
    *count = f.count;
    return f.code;
}

static void set_will(struct rig *r, uint16_t row, const char *topic, const char *payload,
                     uint16_t flags)
{
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_WILL,
                                      .priority = 8,
                                      .flags = flags,
                                      .number = 6,
                                      .topic = topic,
                                      .payload = payload});
    rig_turn(r);
    expect_answer(r, row, WIRE_C_OK, 6, 1);
}

/* The next message, which is of a group and has this payload. Its name. */
static uint64_t expect_job(struct rig *r, uint16_t row, const char *payload, uint8_t tries)
{
    struct wire_frame f = expect_frame(r, row, WIRE_MESSAGE);

    assert_int_equal(f.flags & WIRE_F_ACK, WIRE_F_ACK);
    assert_int_equal(f.tries, tries);
    assert_int_equal(f.payload_size, strlen(payload));
    assert_memory_equal(f.payload, payload, strlen(payload));
    return f.number;
}

/* The same, and it is done. */
static void do_job(struct rig *r, uint16_t row, const char *payload, uint8_t tries)
{
    acknowledge(r, row, expect_job(r, row, payload, tries));
}

static void pass_time(struct rig *r, uint64_t time)
{
    r->engine.now += time;
    life_tick(&r->engine);
    rig_turn(r);
}

static void publish(struct rig *r, uint16_t row, uint8_t priority, const char *payload)
{
    rig_publish(r, row, priority, "job/a", payload);
    rig_turn(r);
}

/* Its time is over when this returns, and nobody has taken it. */
static void publish_too_late(struct rig *r, uint16_t row, const char *payload)
{
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = 8,
                                      .expiry = r->engine.now + RIG_SECOND,
                                      .topic = "job/a",
                                      .payload = payload});
    pass_time(r, 2 * RIG_SECOND);
}

/* ---- One of them gets it ---- */

static void each_message_goes_to_one_member(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");

    join(r, a, 1);
    join(r, b, 1);
    publish(r, p, 8, "1");
    publish(r, p, 8, "2");
    assert_int_equal(board_get(&board_row(r->engine.board, a)->groups), 1);
    assert_int_equal(board_get(&board_row(r->engine.board, a)->unacknowledged), 1);
    do_job(r, a, "1", 0);
    do_job(r, b, "2", 0);
    expect_nothing(r, a);
    expect_nothing(r, b);
    assert_int_equal(r->engine.n_grouped, 0);
    assert_int_equal(r->engine.sessions[p].charged, 0);
}

static void L3_a_group_is_a_delivery_of_its_own(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");

    join(r, a, 4);
    expect_subscribed(r, a, "job/#");
    publish(r, p, 8, "1");
    expect_message(r, a, "job/a", "1");
    do_job(r, a, "1", 0);
    expect_nothing(r, a);
}

static void nobody_has_more_than_its_prefetch(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    uint64_t first;

    join(r, a, 2);
    publish(r, p, 8, "1");
    publish(r, p, 8, "2");
    publish(r, p, 8, "3");
    first = expect_job(r, a, "1", 0);
    expect_job(r, a, "2", 0);
    expect_nothing(r, a);
    acknowledge(r, a, first);
    expect_job(r, a, "3", 0);
    expect_sound(r);
}

static void members_that_are_free_share_evenly(void **state)
{
    struct rig *r = *state;
    uint16_t p = expect_session(r, "p");
    uint16_t members[3];

    for (int i = 0; i < 3; i++) {
        members[i] = expect_session(r, "");
        join(r, members[i], 100);
    }
    for (int i = 0; i < 10; i++)
        rig_publish(r, p, 8, "job/a", "x");
    rig_turn(r);
    for (int i = 0; i < 3; i++) {
        uint32_t n = rig_drain(r, members[i]);

        assert_in_range(n, 2, 4);
    }
    assert_int_equal(r->engine.groups[0].n_out, 10);
    expect_sound(r);
}

static void who_has_no_room_leaves_it_to_the_others(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");

    join(r, a, 100);
    join(r, b, 100);
    rig_subscribe(r, a, "fill");
    for (int i = 0; i < 2 * RIG_DEPTH; i++) {
        rig_publish(r, p, 8, "fill", "x");
        rig_turn(r);
    }
    for (int i = 0; i < 4; i++)
        publish(r, p, 8, "x");
    assert_int_equal(rig_drain(r, b), 4);
    rig_drain(r, a);
    expect_sound(r);
}

static void higher_priorities_come_first_then_the_older(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    uint64_t name;

    join(r, a, 1);
    publish(r, p, 8, "first");
    publish(r, p, 8, "low 1");
    publish(r, p, 8, "low 2");
    publish(r, p, 20, "high");
    name = expect_job(r, a, "first", 0);
    acknowledge(r, a, name);
    do_job(r, a, "high", 0);
    do_job(r, a, "low 1", 0);
    do_job(r, a, "low 2", 0);
}

static void what_has_waited_counts_for_more(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    uint64_t name;

    r->engine.settings.aging = RIG_SECOND;
    join(r, a, 1);
    publish(r, p, 8, "first");
    name = expect_job(r, a, "first", 0);
    publish(r, p, 8, "old");
    for (int i = 0; i < 5; i++)
        pass_time(r, RIG_SECOND);
    publish(r, p, 10, "new");
    acknowledge(r, a, name);
    do_job(r, a, "old", 0);
    do_job(r, a, "new", 0);
}

/* ---- It comes back ---- */

static void what_is_not_acknowledged_in_time_comes_back_to_its_place(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");
    uint64_t old;

    join(r, a, 1);
    publish(r, p, 8, "1");
    publish(r, p, 8, "2");
    old = expect_job(r, a, "1", 0);
    pass_time(r, 31 * RIG_SECOND);
    do_job(r, a, "1", 1);   /* before "2" */
    acknowledge(r, a, old); /* stands for nothing any more, or for the same */
    expect_job(r, a, "2", 0);
    join(r, b, 1);
    expect_nothing(r, b);
    expect_sound(r);
}

static void what_is_refused_comes_back_after_the_delay(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");

    join(r, a, 1);
    publish(r, p, 8, "1");
    publish(r, p, 8, "2");
    refuse(r, a, expect_job(r, a, "1", 0), 0, 2000);
    do_job(r, a, "2", 0);
    expect_nothing(r, a);
    pass_time(r, 3 * RIG_SECOND);
    do_job(r, a, "1", 1);
    assert_int_equal(r->engine.n_grouped, 0);
}

static void what_is_refused_too_often_becomes_a_dead_letter(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");

    join_with(r, a, &(struct join){.group = "jobs", .filter = "job/#", .prefetch = 1, .limit = 2});
    publish(r, p, 8, "poison");
    refuse(r, a, expect_job(r, a, "poison", 0), 0, 0);
    refuse(r, a, expect_job(r, a, "poison", 1), 0, 0);
    expect_nothing(r, a);
    join_with(r, b, &(struct join){.group = "$dead/jobs", .filter = ""});
    do_job(r, b, "poison", 2);
    assert_int_equal(r->engine.n_grouped, 0);
}

static void what_is_rejected_becomes_one_at_once_and_can_be_moved_back(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    uint32_t count;

    join(r, a, 1);
    publish(r, p, 8, "1");
    refuse(r, a, expect_job(r, a, "1", 0), WIRE_F_DEAD, 0);
    expect_nothing(r, a);
    assert_int_equal(board_get(&board_group(r->engine.board, 0)->dead_letters), 1);
    assert_int_equal(administer(r, p, WIRE_V_REQUEUE, "jobs", &count), WIRE_C_OK);
    assert_int_equal(count, 1);
    pass_time(r, 0);
    do_job(r, a, "1", 0);
}

static void a_dead_member_s_messages_return_at_once(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");

    join(r, a, 2);
    publish(r, p, 8, "1");
    publish(r, p, 8, "2");
    expect_job(r, a, "1", 0);
    join(r, b, 3);
    rig_kill(r, a);
    rig_turn(r);
    expect_job(r, b, "1", 1);
    expect_job(r, b, "2", 1);
    expect_sound(r);
}

static void a_goodbye_counts_as_no_try(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");

    join(r, a, 2);
    publish(r, p, 8, "1");
    join(r, b, 3);
    leave(r, a);
    expect_job(r, b, "1", 0);
}

static void who_leaves_a_group_gives_back_what_it_has(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");

    join(r, a, 2);
    publish(r, p, 8, "1");
    expect_job(r, a, "1", 0);
    join(r, b, 3);
    rig_begin(r, a);
    rig_add_text(r, WIRE_UNSUBSCRIBE, WIRE_F_GROUP, 3, "jobs");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_OK, 3, 1);
    expect_job(r, b, "1", 0);
    publish(r, p, 8, "2");
    expect_job(r, b, "2", 0);
    expect_nothing(r, a);
    expect_sound(r);
}

static void S7_a_payload_that_is_still_read_stays_when_its_message_goes_on(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");
    struct wire_frame f;
    uint64_t first, second;

    join(r, a, 1);
    assert_true(rig_publish_pooled(r, p, 8, "job/a", 4711));
    rig_turn(r);
    f = expect_frame(r, a, WIRE_MESSAGE);
    first = f.number;
    assert_int_equal(rig_payload(r, &f), 4711);
    join(r, b, 1);
    pass_time(r, 31 * RIG_SECOND); /* a goes on reading */
    f = expect_frame(r, b, WIRE_MESSAGE);
    second = f.number;
    assert_int_equal(f.tries, 1);
    assert_int_equal(rig_payload(r, &f), 4711);
    acknowledge(r, b, second);
    rig_release(r, b, second);
    rig_turn(r);
    assert_int_equal(rig_look(r, p), 0);
    expect_sound(r);
    rig_release(r, a, first);
    rig_turn(r);
    assert_int_equal(rig_look(r, p), 1);
    assert_int_equal(r->engine.n_grouped, 0);
}

/* ---- Bounds ---- */

static void a_full_group_takes_no_more_and_says_so(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    struct wire_frame f;
    uint32_t n_refused = 0;

    r->engine.settings.group_size = 1024;
    join(r, a, 1);
    for (uint32_t i = 0; i < 6; i++) {
        rig_message(r, p,
                    &(struct rig_message){.type = WIRE_PUBLISH,
                                          .priority = 8,
                                          .flags = WIRE_F_CONFIRM,
                                          .number = i,
                                          .topic = "job/a",
                                          .payload = "x"});
        rig_turn(r);
        f = expect_frame(r, p, WIRE_ANSWER);
        n_refused += f.code == WIRE_C_GROUP_FULL;
    }
    assert_int_equal(n_refused, 2); /* 256 bytes each */
    assert_int_equal(board_get(&r->engine.board->refusals.group_full), 2);
    expect_sound(r);
}

static void P4_a_group_s_messages_are_charged_to_it_until_it_is_full(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");

    r->engine.settings.group_size = 512;
    r->engine.settings.group_overflow = ENGINE_BLOCK;
    join(r, a, 1);
    publish(r, p, 8, "1");
    publish(r, p, 8, "2");
    assert_int_equal(r->engine.sessions[p].charged, 0);
    publish(r, p, 8, "3");
    assert_int_equal(r->engine.sessions[p].charged, 256);
    do_job(r, a, "1", 0);
    do_job(r, a, "2", 0);
    do_job(r, a, "3", 0);
    assert_int_equal(r->engine.sessions[p].charged, 0);
}

static void the_oldest_of_the_lowest_priority_makes_room(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");

    r->engine.settings.group_size = 768;
    r->engine.settings.group_overflow = ENGINE_DROP_OLDEST;
    join(r, a, 1);
    publish(r, p, 8, "out");
    publish(r, p, 9, "high");
    publish(r, p, 8, "old");
    publish(r, p, 8, "new");
    do_job(r, a, "out", 0);
    do_job(r, a, "high", 0);
    do_job(r, a, "new", 0);
    expect_nothing(r, a);
    assert_int_equal(group_row(&r->engine, 0)->missed, 1);
}

static void what_expires_is_dropped_or_becomes_a_dead_letter(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");

    join(r, a, 1);
    join_with(r, a,
              &(struct join){
                  .group = "kept", .filter = "job/#", .flags = WIRE_F_DEAD_EXPIRED, .prefetch = 1});
    publish(r, p, 8, "1");
    expect_job(r, a, "1", 0);
    expect_job(r, a, "1", 0);
    publish_too_late(r, p, "late");
    expect_nothing(r, a);
    assert_int_equal(board_get(&r->engine.board->drops.expired), 1);
    assert_int_equal(board_get(&r->engine.board->totals.dead_letters), 1);
    expect_sound(r);
}

static void a_dead_letter_that_is_moved_back_has_time_without_end(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    struct wire_frame f;
    uint32_t count;

    join_with(r, a,
              &(struct join){
                  .group = "jobs", .filter = "job/#", .flags = WIRE_F_DEAD_EXPIRED, .prefetch = 1});
    publish(r, p, 8, "1");
    publish_too_late(r, p, "late");
    assert_int_equal(administer(r, p, WIRE_V_REQUEUE, "jobs", &count), WIRE_C_OK);
    assert_int_equal(count, 1);
    pass_time(r, 0);
    assert_int_equal(rig_restart(r), 0);
    do_job(r, a, "1", 0);
    f = expect_frame(r, a, WIRE_MESSAGE);
    assert_memory_equal(f.payload, "late", 4);
    assert_int_equal(f.expiry, 0);
    acknowledge(r, a, f.number);
    assert_int_equal(r->engine.n_grouped, 0);
}

/* ---- Groups come and go ---- */

static void joins_that_cannot_be_are_refused(void **state)
{
    static const struct {
        struct join join;
        uint8_t code;
    } joins[] = {
        {{.group = "jobs", .filter = ""}, WIRE_C_NO_GROUP},
        {{.group = "$dead/jobs", .filter = ""}, WIRE_C_NO_GROUP},
        {{.group = "jo+bs", .filter = "a"}, WIRE_C_BAD_GROUP},
        {{.group = "jobs", .filter = "a/#/b"}, WIRE_C_BAD_FILTER},
        {{.group = "jobs", .filter = "a", .flags = WIRE_F_DURABLE}, WIRE_C_NO_JOURNAL},
        {{.group = "jobs", .filter = "a", .limit = 3}, WIRE_C_OK},
        {{.group = "jobs", .filter = "b"}, WIRE_C_OK},
        {{.group = "jobs", .filter = "a", .limit = 4}, WIRE_C_GROUP_DIFFERS},
        {{.group = "$dead/jobs", .filter = "a"}, WIRE_C_BAD_FILTER},
    };
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    char name[16];

    for (size_t i = 0; i < sizeof(joins) / sizeof(joins[0]); i++) {
        uint8_t code = joined(r, a, &joins[i].join);

        if (code != joins[i].code)
            fail_msg("join %zu: code %u, not %u", i, code, joins[i].code);
    }
    for (int i = 1; i < RIG_GROUPS; i++) {
        snprintf(name, sizeof(name), "g%d", i);
        join_with(r, a, &(struct join){.group = name, .filter = "a"});
    }
    assert_int_equal(joined(r, a, &(struct join){.group = "more", .filter = "a"}),
                     WIRE_C_GROUPS_FULL);
    expect_sound(r);
}

static void a_group_without_members_lingers_and_then_ends(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");

    join(r, a, 1);
    rig_kill(r, a);
    publish(r, p, 8, "1");
    pass_time(r, 30 * RIG_SECOND);
    a = expect_session(r, "a");
    join(r, a, 1);
    do_job(r, a, "1", 0);
    rig_kill(r, a);
    publish(r, p, 8, "2");
    pass_time(r, 61 * RIG_SECOND);
    assert_int_equal(group_row(&r->engine, 0)->state, GROUP_FREE);
    assert_int_equal(board_get(&r->engine.board->drops.purged), 1);
    assert_int_equal(r->engine.filters.n, 0);
}

static void a_group_can_be_emptied_and_removed(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    uint32_t count;

    join(r, a, 1);
    for (int i = 0; i < 5; i++)
        publish(r, p, 8, "x");
    assert_int_equal(administer(r, p, WIRE_V_PURGE, "jobs", &count), WIRE_C_OK);
    assert_int_equal(count, 4);
    pass_time(r, 0);
    assert_int_equal(r->engine.n_grouped, 1);
    assert_int_equal(administer(r, p, WIRE_V_REMOVE, "jobs", &count), WIRE_C_OK);
    pass_time(r, 0);
    assert_int_equal(group_row(&r->engine, 0)->state, GROUP_FREE);
    assert_int_equal(r->engine.n_grouped, 0);
    assert_int_equal(administer(r, p, WIRE_V_PURGE, "jobs", &count), WIRE_C_NO_GROUP);
    assert_int_equal(administer(r, p, WIRE_V_KICK, "a", &count), WIRE_C_OK);
    assert_int_equal(administer(r, p, WIRE_V_KICK, "#99", &count), WIRE_C_NO_SESSION);
    life_quiet(&r->engine);
    rig_turn(r);
}

/* ---- A kill ---- */

static void K3_a_kill_changes_nothing(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");
    uint64_t name;

    join(r, a, 1);
    join(r, b, 1);
    for (int i = 0; i < 4; i++)
        publish(r, p, 8, i % 2 == 0 ? "even" : "odd");
    name = expect_job(r, a, "even", 0);
    assert_int_equal(rig_restart(r), 0);
    rig_turn(r);
    expect_sound(r);
    acknowledge(r, a, name);
    expect_job(r, a, "even", 0);
    expect_job(r, b, "odd", 0);
    expect_nothing(r, a);
    expect_nothing(r, b);
}

static void K3_what_was_given_but_had_not_gone_is_anybody_s(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b"), p = expect_session(r, "p");
    struct pump_batch batch;

    join(r, a, 1);
    rig_publish(r, p, 8, "job/a", "1");
    groups_deal(&r->engine);
    assert_int_equal(rig_next(r, a, &batch), PUMP_BATCH);
    persist_send(engine_row(&r->engine, a), 0); /* as before the intent */
    assert_int_equal(rig_restart(r), 0);
    rig_kill(r, a);
    join(r, b, 1);
    rig_turn(r);
    expect_job(r, b, "1", 0);
    expect_sound(r);
}

static void K3_an_acknowledgement_settles_the_batch_in_doubt(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    struct pump_batch batch;

    join(r, a, 4);
    rig_publish(r, p, 8, "job/a", "1");
    groups_deal(&r->engine);
    assert_int_equal(rig_next(r, a, &batch), PUMP_BATCH);
    assert_true(rig_queue_put(r, a, &batch)); /* sent, and killed before it was marked */
    assert_int_equal(rig_restart(r), 0);
    do_job(r, a, "1", 0);
    rig_turn(r);
    expect_nothing(r, a);
    assert_int_equal(r->engine.n_grouped, 0);
}

/* ---- Last wills ---- */

static void K6_a_will_is_published_once_when_its_session_dies(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b");

    expect_subscribed(r, b, "gone/#");
    set_will(r, a, "gone/x", "first", 0);
    set_will(r, a, "gone/a", "last", WIRE_F_RETAIN);
    assert_int_equal(rig_restart(r), 0);
    rig_kill(r, a);
    rig_turn(r);
    expect_message(r, b, "gone/a", "last");
    expect_nothing(r, b);
    assert_int_equal(r->engine.n_retained, 1);
    assert_int_equal(board_get(&r->engine.board->totals.wills), 1);
}

static void a_goodbye_takes_the_will_along(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b");

    expect_subscribed(r, b, "gone/#");
    set_will(r, a, "gone/a", "last", 0);
    leave(r, a);
    expect_nothing(r, b);
}

static void K6_and_so_it_does_if_the_broker_dies_before_it_is_carried_out(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), b = expect_session(r, "b");

    expect_subscribed(r, b, "gone/#");
    set_will(r, a, "gone/a", "last", 0);
    rig_bye(r, a);
    assert_int_equal(rig_restart(r), 0);
    life_quiet(&r->engine);
    rig_turn(r);
    expect_nothing(r, b);
    assert_int_equal(board_get(&r->engine.board->totals.said_bye), 1);
}

/* ---- Requests ---- */

static void a_reply_acknowledges_the_request(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    struct wire_frame f;

    join(r, a, 1);
    rig_request(r, p, "job/a", 9, r->engine.now + 10 * RIG_SECOND);
    rig_turn(r);
    f = expect_frame(r, a, WIRE_MESSAGE);
    assert_int_equal(f.flags & (WIRE_F_ACK | WIRE_F_REQUEST), WIRE_F_ACK | WIRE_F_REQUEST);
    rig_reply(r, a, f.number, "done");
    rig_turn(r);
    f = expect_frame(r, p, WIRE_MESSAGE);
    assert_int_equal(f.number, 9);
    assert_int_equal(r->engine.n_grouped, 0);
}

/* ---- Payloads that move ---- */

static void a_payload_that_was_brought_in_frees_its_place(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");
    uint8_t bytes[128];
    struct groups_payload payload;

    join(r, a, 1);
    publish(r, p, 8, "1");
    assert_true(rig_publish_pooled(r, p, 8, "job/a", 4711));
    rig_turn(r);
    assert_int_equal(r->engine.settling.n, 1);
    payload = (struct groups_payload){
        .slot = r->engine.settling.slots[0].slot,
        .age = r->engine.settling.slots[0].age,
        .frame = bytes,
        .size = (uint32_t)wire_put_message(bytes, WIRE_MESSAGE, 8, 0, 0, 0, "job/a", 5, "4711", 4),
    };
    groups_bring_in(&r->engine, &payload);
    r->engine.settling.n = 0;
    rig_turn(r);
    assert_int_equal(rig_look(r, p), 1);
    expect_sound(r);
    assert_int_equal(rig_restart(r), 0);
    do_job(r, a, "1", 0);
    do_job(r, a, "4711", 0);
}

static void a_payload_is_brought_in_also_after_a_start_and_when_it_came_back(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a"), p = expect_session(r, "p");

    join(r, a, 1);
    assert_true(rig_publish_pooled(r, p, 8, "job/a", 4711));
    assert_int_equal(r->engine.settling.n, 1);
    assert_int_equal(rig_restart(r), 0);
    assert_int_equal(r->engine.settling.n, 1);
    rig_turn(r);
    r->engine.settling.n = 0;
    rig_kill(r, a);
    assert_int_equal(r->engine.settling.n, 1);
}

static int setup_with_pools(void **state)
{
    return expect_setup_with(state, &(struct rig_options){.n_buffers = RIG_BUFFERS});
}

int main(void)
{
#define TEST(name)   cmocka_unit_test_setup_teardown(name, expect_setup, expect_teardown)
#define POOLED(name) cmocka_unit_test_setup_teardown(name, setup_with_pools, expect_teardown)
    const struct CMUnitTest tests[] = {
        TEST(each_message_goes_to_one_member),
        TEST(L3_a_group_is_a_delivery_of_its_own),
        TEST(nobody_has_more_than_its_prefetch),
        TEST(members_that_are_free_share_evenly),
        TEST(who_has_no_room_leaves_it_to_the_others),
        TEST(higher_priorities_come_first_then_the_older),
        TEST(what_has_waited_counts_for_more),
        TEST(what_is_not_acknowledged_in_time_comes_back_to_its_place),
        TEST(what_is_refused_comes_back_after_the_delay),
        TEST(what_is_refused_too_often_becomes_a_dead_letter),
        TEST(what_is_rejected_becomes_one_at_once_and_can_be_moved_back),
        TEST(a_dead_member_s_messages_return_at_once),
        TEST(a_goodbye_counts_as_no_try),
        TEST(who_leaves_a_group_gives_back_what_it_has),
        POOLED(S7_a_payload_that_is_still_read_stays_when_its_message_goes_on),
        TEST(a_full_group_takes_no_more_and_says_so),
        TEST(P4_a_group_s_messages_are_charged_to_it_until_it_is_full),
        TEST(the_oldest_of_the_lowest_priority_makes_room),
        TEST(what_expires_is_dropped_or_becomes_a_dead_letter),
        TEST(a_dead_letter_that_is_moved_back_has_time_without_end),
        TEST(joins_that_cannot_be_are_refused),
        TEST(a_group_without_members_lingers_and_then_ends),
        TEST(a_group_can_be_emptied_and_removed),
        TEST(K3_a_kill_changes_nothing),
        TEST(K3_what_was_given_but_had_not_gone_is_anybody_s),
        TEST(K3_an_acknowledgement_settles_the_batch_in_doubt),
        TEST(K6_a_will_is_published_once_when_its_session_dies),
        TEST(a_goodbye_takes_the_will_along),
        TEST(K6_and_so_it_does_if_the_broker_dies_before_it_is_carried_out),
        TEST(a_reply_acknowledges_the_request),
        POOLED(a_payload_that_was_brought_in_frees_its_place),
        POOLED(a_payload_is_brought_in_also_after_a_start_and_when_it_came_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
