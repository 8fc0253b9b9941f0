/* broker/route: from envelopes to what sessions read. */
#include "broker/route.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/engine-expect.h"

/* A session that subscribes to a filter. */
static void publish(struct rig *r, uint16_t row, const char *topic, const char *payload)
{
    rig_publish(r, row, WIRE_DEFAULT_PRIORITY, topic, payload);
    rig_turn(r);
}

static void retain(struct rig *r, uint16_t row, const char *topic, const char *payload)
{
    rig_message(
        r, row,
        &(struct rig_message){
            .type = WIRE_PUBLISH, .flags = WIRE_F_RETAIN, .topic = topic, .payload = payload});
    rig_turn(r);
}

static void add_confirmed(struct rig *r, uint32_t number, const char *topic)
{
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH,
                                     .flags = WIRE_F_CONFIRM,
                                     .number = number,
                                     .topic = topic,
                                     .payload = "x"});
}

static uint64_t count(const _Atomic uint64_t *word)
{
    return board_get(word);
}

/* ---- Who gets it ---- */

static void a_message_goes_to_those_who_subscribe_as_it_was_sent(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t a = expect_subscriber(r, "a", "plant/+");
    uint16_t b = expect_subscriber(r, "b", "other/#");
    uint64_t expiry = r->engine.now + RIG_SECOND;
    struct wire_frame f;

    rig_message(r, publisher,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = 17,
                                      .expiry = expiry,
                                      .topic = "plant/line1",
                                      .payload = "a\0b",
                                      .payload_size = 3});
    rig_turn(r);
    f = expect_frame(r, a, WIRE_MESSAGE);
    assert_string_equal(f.text, "plant/line1");
    assert_int_equal(f.priority, 17);
    assert_int_equal(f.flags, 0);
    assert_int_equal(f.number, 0);
    assert_int_equal(f.expiry, expiry);
    assert_int_equal(f.payload_size, 3);
    assert_memory_equal(f.payload, "a\0b", 3);
    assert_int_equal(r->queues[a].header.level, 17);
    assert_int_equal(r->queues[a].header.session, a);
    expect_nothing(r, a);
    expect_nothing(r, b);
    expect_nothing(r, publisher);
}

static void L3_several_subscriptions_of_one_session_give_one_delivery(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "plant/#");

    rig_subscribe(r, a, "plant/+/temperature");
    rig_subscribe(r, a, "#");
    rig_turn(r);
    rig_drain(r, a);
    publish(r, a, "plant/1/temperature", "20");
    expect_message(r, a, "plant/1/temperature", "20");
    expect_nothing(r, a);
}

static void messages_of_an_envelope_come_in_its_order(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "#");
    char payload[8];

    rig_begin(r, a);
    for (int i = 0; i < 50; i++) {
        snprintf(payload, sizeof(payload), "%d", i);
        rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = payload});
    }
    rig_send(r);
    rig_turn(r);
    for (int i = 0; i < 50; i++) {
        snprintf(payload, sizeof(payload), "%d", i);
        expect_message(r, a, "t", payload);
    }
    assert_int_equal(count(&r->memory.board->totals.messages_in), 50);
    assert_int_equal(count(&r->memory.board->totals.messages_out), 50);
    assert_int_equal(count(&board_row(r->memory.board, a)->in), 50);
}

static void a_direct_topic_reaches_the_one_of_that_name(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "ann", "#");
    uint16_t b = expect_subscriber(r, "anna", "+");

    publish(r, b, "@ann", "hello");
    expect_message(r, a, "@ann", "hello");
    expect_nothing(r, a);
    expect_nothing(r, b);
    publish(r, b, "@nobody", "hello");
    expect_nothing(r, a);
    assert_int_equal(count(&r->memory.board->totals.unmatched), 1);

    rig_kill(r, a);
    publish(r, b, "@ann", "gone");
    assert_int_equal(count(&r->memory.board->totals.unmatched), 2);
    a = expect_session(r, "ann"); /* another one by that name */
    publish(r, b, "@ann", "again");
    expect_message(r, a, "@ann", "again");
}

static void unmatched_messages_take_no_memory(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint32_t references = r->engine.store.reference_pool.n_used;

    publish(r, a, "nobody/listens", "x");
    assert_int_equal(r->engine.store.cell_pool.n_used, 0);
    assert_int_equal(r->engine.store.reference_pool.n_used, references);
    assert_int_equal(count(&r->memory.board->totals.unmatched), 1);
    assert_int_equal(count(&r->memory.board->totals.messages_in), 1);
}

static void a_subscription_holds_from_the_next_frame_on(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    rig_begin(r, a);
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "before"});
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 5, "t");
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "between"});
    rig_add_text(r, WIRE_UNSUBSCRIBE, 0, 6, "t");
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "after"});
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_OK, 5, 1);
    expect_answer(r, a, WIRE_C_OK, 6, 1);
    expect_message(r, a, "t", "between");
    expect_nothing(r, a);
}

/* ---- Requests ---- */

static void a_request_is_named_and_its_reply_finds_back(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t server = expect_subscriber(r, "server", "service");
    uint64_t expiry = r->engine.now + RIG_SECOND;
    struct wire_frame f;
    uint64_t name;

    rig_request(r, client, "service", 77, expiry);
    rig_turn(r);
    f = expect_frame(r, server, WIRE_MESSAGE);
    assert_int_equal(f.flags, WIRE_F_REQUEST);
    assert_string_equal(f.text, "service");
    assert_int_not_equal(f.number, 0);
    name = f.number;

    rig_reply(r, server, name, "answer");
    rig_turn(r);
    f = expect_frame(r, client, WIRE_MESSAGE);
    assert_int_equal(f.flags, WIRE_F_REPLY);
    assert_int_equal(f.number, 77);
    assert_int_equal(f.text_size, 0);
    assert_memory_equal(f.payload, "answer", 6);
    expect_nothing(r, client);
    assert_int_equal(r->engine.store.cell_pool.n_used, wire_cells(WIRE_TEXT_SIZE + 8));
    assert_int_equal(r->engine.timers.n, 0);
    assert_int_equal(count(&r->memory.board->totals.requests), 1);
    assert_int_equal(count(&r->memory.board->totals.replies), 1);
}

static void L2_only_the_first_reply_counts(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t server = expect_subscriber(r, "server", "service");
    uint64_t name;

    rig_request(r, client, "service", 1, r->engine.now + RIG_SECOND);
    rig_turn(r);
    name = expect_frame(r, server, WIRE_MESSAGE).number;
    rig_reply(r, server, name, "first");
    rig_reply(r, server, name, "second");
    rig_turn(r);
    assert_memory_equal(expect_frame(r, client, WIRE_MESSAGE).payload, "first", 5);
    expect_nothing(r, client);
    assert_int_equal(count(&r->memory.board->refusals.stray), 1);
}

static void L2_only_the_first_reply_of_an_envelope_counts(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t server = expect_subscriber(r, "server", "service");
    uint64_t name;

    rig_request(r, client, "service", 1, r->engine.now + RIG_SECOND);
    rig_turn(r);
    name = expect_frame(r, server, WIRE_MESSAGE).number;
    rig_begin(r, server);
    rig_add(r, &(struct rig_message){.type = WIRE_REPLY, .number = name, .payload = "first"});
    rig_add(r, &(struct rig_message){.type = WIRE_REPLY, .number = name, .payload = "second"});
    rig_send(r);
    rig_turn(r);
    assert_memory_equal(expect_frame(r, client, WIRE_MESSAGE).payload, "first", 5);
    expect_nothing(r, client);
    assert_int_equal(count(&r->memory.board->refusals.stray), 1);
}

static void replies_to_what_was_not_asked_are_stray(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t server = expect_subscriber(r, "server", "service");
    uint16_t stranger = expect_subscriber(r, "stranger", "else");
    uint64_t name;

    rig_request(r, client, "service", 1, r->engine.now + RIG_SECOND);
    rig_turn(r);
    name = expect_frame(r, server, WIRE_MESSAGE).number;
    rig_reply(r, stranger, name, "not asked");
    rig_reply(r, server, name + 1, "another age");
    rig_reply(r, server, name + (UINT64_C(1) << 40), "another slot");
    rig_reply(r, server, 0, "none");
    rig_reply(r, server, UINT64_MAX, "beyond the store");
    rig_turn(r);
    expect_nothing(r, client);
    assert_int_equal(count(&r->memory.board->refusals.stray), 5);
    assert_int_equal(count(&board_row(r->memory.board, stranger)->refusals.stray), 1);
    rig_reply(r, server, name, "right"); /* nothing of that harmed the request */
    rig_turn(r);
    assert_memory_equal(expect_frame(r, client, WIRE_MESSAGE).payload, "right", 5);
}

static void a_reply_to_one_who_has_gone_is_stray(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");
    uint16_t server = expect_subscriber(r, "server", "service");
    uint64_t name;

    rig_request(r, client, "service", 1, r->engine.now + RIG_SECOND);
    rig_turn(r);
    name = expect_frame(r, server, WIRE_MESSAGE).number;
    rig_kill(r, client);
    while (expect_session(r, "") != client) /* until another has its row */
        ;
    rig_reply(r, server, name, "for another");
    rig_turn(r);
    expect_nothing(r, client);
    assert_int_equal(count(&r->memory.board->refusals.stray), 1);
    assert_int_equal(r->engine.timers.n, 0); /* and the request has gone with it */
}

static void a_request_that_nobody_takes_is_answered_at_once(void **state)
{
    struct rig *r = *state;
    uint16_t client = expect_session(r, "client");

    rig_request(r, client, "nobody/there", 5, r->engine.now + RIG_SECOND);
    rig_request(r, client, "@nobody", 6, r->engine.now + RIG_SECOND);
    rig_turn(r);
    expect_answer(r, client, WIRE_C_NO_SUBSCRIBER, 5, 1);
    expect_answer(r, client, WIRE_C_NO_SUBSCRIBER, 6, 1);
    expect_nothing(r, client);
}

static void a_session_may_serve_its_own_requests(void **state)
{
    struct rig *r = *state;
    uint16_t both = expect_subscriber(r, "both", "service");
    uint64_t name;

    rig_request(r, both, "service", 9, r->engine.now + RIG_SECOND);
    rig_turn(r);
    name = expect_frame(r, both, WIRE_MESSAGE).number;
    rig_reply(r, both, name, "me");
    rig_turn(r);
    assert_int_equal(expect_frame(r, both, WIRE_MESSAGE).number, 9);
    expect_sound(r);
}

/* ---- Confirms ---- */

static void K10_one_confirm_covers_an_envelope_that_fared_alike(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    rig_begin(r, a);
    for (uint32_t i = 0; i < 40; i++)
        add_confirmed(r, 100 + i, "t");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_OK, 100, 40);
    expect_nothing(r, a);
}

static void K10_confirms_part_where_frames_fare_differently(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    rig_begin(r, a);
    add_confirmed(r, 1, "t");
    add_confirmed(r, 2, "t");
    add_confirmed(r, 3, "bad/#");
    add_confirmed(r, 4, "t");
    add_confirmed(r, 9, "t"); /* not the next number */
    add_confirmed(r, 10, "t");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_OK, 1, 2);
    expect_answer(r, a, WIRE_C_BAD_TOPIC, 3, 1);
    expect_answer(r, a, WIRE_C_OK, 4, 1);
    expect_answer(r, a, WIRE_C_OK, 9, 2);
    expect_nothing(r, a);
}

static void who_asks_for_no_confirm_gets_none(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    publish(r, a, "t", "x");
    publish(r, a, "$bad", "x");
    expect_nothing(r, a);
}

/* ---- Refusals ---- */

static void P6_what_goes_over_the_window_is_refused_and_counted(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t sleeper = expect_subscriber(r, "sleeper", "#");
    uint32_t n = (uint32_t)(r->engine.window / WIRE_CELL_SIZE);
    uint64_t grant;

    for (uint32_t i = 0; i < n; i++)
        rig_publish(r, publisher, 0, "t", "x");
    rig_turn(r);
    rig_drain(r, sleeper);
    rig_turn(r);
    rig_drain(r, sleeper);
    assert_int_equal(count(&r->memory.board->refusals.window), 0);
    while (r->engine.sessions[publisher].charged < r->engine.window)
        rig_publish(r, publisher, 0, "t", "x");
    engine_show(&r->engine);
    grant = count(&board_row(r->memory.board, publisher)->grant);
    assert_int_equal(grant, engine_row(&r->engine, publisher)->received);

    rig_begin(r, publisher);
    add_confirmed(r, 7, "t");
    rig_add(r, &(struct rig_message){
                   .type = WIRE_REQUEST, .number = 8, .expiry = r->engine.now + 1, .topic = "t"});
    rig_send(r);
    assert_int_equal(count(&r->memory.board->refusals.window), 2);
    assert_int_equal(count(&board_row(r->memory.board, publisher)->refusals.window), 2);
    /* The publisher counted them too: what it may send rises by what was refused. */
    engine_show(&r->engine);
    assert_int_equal(count(&board_row(r->memory.board, publisher)->grant), grant + 512);
    rig_turn(r);
    expect_answer(r, publisher, WIRE_C_WINDOW, 8, 1);
    expect_answer(r, publisher, WIRE_C_WINDOW, 7, 1);
}

static void the_window_is_charged_once_for_any_number_of_receivers(void **state)
{
    struct rig *r = *state;
    uint16_t publisher = expect_session(r, "publisher");
    uint16_t a = expect_subscriber(r, "a", "#");
    uint16_t b = expect_subscriber(r, "b", "t");

    rig_publish(r, publisher, 0, "t", "x");
    assert_int_equal(r->engine.sessions[publisher].charged, WIRE_CELL_SIZE);
    rig_pump(r, a);
    assert_int_equal(r->engine.sessions[publisher].charged, WIRE_CELL_SIZE);
    rig_pump(r, b);
    assert_int_equal(r->engine.sessions[publisher].charged, 0);
}

static void a_full_store_refuses_and_says_so(void **state)
{
    static const struct rig_options small = {.n_rows = 2, .n_references = 64, .n_cells = 4096};
    struct rig *r;
    uint16_t publisher, sleeper;

    (void)state;
    assert_int_equal(expect_setup_with((void **)&r, &small), 0);
    publisher = expect_session(r, "publisher");
    sleeper = expect_subscriber(r, "sleeper", "#");
    for (int i = 0; i < 100; i++)
        rig_publish(r, publisher, 0, "t", "x");
    assert_true(count(&r->memory.board->refusals.store_full) > 0);
    rig_begin(r, publisher);
    add_confirmed(r, 1, "t");
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 2, "t");
    rig_add_text(r, WIRE_UNSUBSCRIBE, 0, 3, "t");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, publisher, WIRE_C_STORE_FULL, 2, 1); /* room for answers was kept */
    expect_answer(r, publisher, WIRE_C_NOT_SUBSCRIBED, 3, 1);
    expect_answer(r, publisher, WIRE_C_STORE_FULL, 1, 1);
    expect_sound(r);
    rig_drain(r, sleeper);
    assert_int_equal(expect_teardown((void **)&r), 0);
}

static void what_is_late_is_refused(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "#");

    rig_begin(r, a);
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH,
                                     .flags = WIRE_F_CONFIRM,
                                     .number = 1,
                                     .expiry = r->engine.now,
                                     .topic = "t"});
    rig_add(r, &(struct rig_message){
                   .type = WIRE_REQUEST, .number = 2, .expiry = r->engine.now - 1, .topic = "t"});
    rig_add(r,
            &(struct rig_message){
                .type = WIRE_PUBLISH, .expiry = r->engine.now + 1, .topic = "t", .payload = "in"});
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_TIMEOUT, 2, 1);
    expect_answer(r, a, WIRE_C_TIMEOUT, 1, 1);
    expect_message(r, a, "t", "in");
    expect_nothing(r, a);
    assert_int_equal(count(&r->memory.board->refusals.late), 2);
}

static void bad_topics_are_refused_one_by_one(void **state)
{
    static const char *const bad[] = {"$SYS/x", "$",    "a/#",  "+",    "a+b",
                                      "@",      "@a/b", "\xff", "a\xc0"};
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "#");
    size_t n = sizeof(bad) / sizeof(bad[0]);

    for (size_t i = 0; i < n; i++) {
        rig_begin(r, a);
        add_confirmed(r, (uint32_t)i, bad[i]);
        rig_send(r);
        rig_turn(r);
        expect_answer(r, a, WIRE_C_BAD_TOPIC, (uint32_t)i, 1);
    }
    rig_request(r, a, "$SYS/x", 5, r->engine.now + 1);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_BAD_TOPIC, 5, 1);
    expect_nothing(r, a);
    assert_int_equal(count(&r->memory.board->refusals.bad_topic), n + 1);
}

/* ---- Retained messages ---- */

static void subscribe_with(struct rig *r, uint16_t row, const char *filter, uint16_t flags)
{
    rig_begin(r, row);
    rig_add_text(r, WIRE_SUBSCRIBE, flags, 1, filter);
    rig_send(r);
    rig_turn(r);
    expect_answer(r, row, WIRE_C_OK, 1, 1);
}

static void expect_kept(struct rig *r, uint16_t row, const char *topic, const char *payload)
{
    struct wire_frame f = expect_frame(r, row, WIRE_MESSAGE);

    assert_int_equal(f.flags, WIRE_F_RETAIN);
    assert_string_equal(f.text, topic);
    assert_memory_equal(f.payload, payload, strlen(payload));
}

static void a_retained_message_is_kept_for_later_subscribers(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    retain(r, a, "state/1", "on");
    retain(r, a, "state/2", "off");
    retain(r, a, "else", "x");
    subscribe_with(r, a, "state/+", 0);
    if (rig_highest(r, a) < 0)
        fail();
    else { /* in no order among topics */
        struct wire_frame f = expect_frame(r, a, WIRE_MESSAGE);
        bool first = strcmp(f.text, "state/1") == 0;

        assert_int_equal(f.flags, WIRE_F_RETAIN);
        expect_kept(r, a, first ? "state/2" : "state/1", first ? "off" : "on");
    }
    expect_nothing(r, a);
    assert_int_equal(r->engine.n_retained, 3);
}

static void a_live_message_to_a_retained_topic_has_no_flag(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "#");

    retain(r, a, "t", "live");
    expect_message(r, a, "t", "live");
    expect_nothing(r, a);
}

static void the_next_retained_message_replaces_the_last(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    retain(r, a, "t", "old");
    rig_begin(r, a);
    for (int i = 0; i < 3; i++)
        rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH,
                                         .flags = WIRE_F_RETAIN,
                                         .topic = "t",
                                         .payload = i < 2 ? "middle" : "new"});
    rig_send(r);
    assert_int_equal(r->engine.n_retained, 1);
    assert_int_equal(r->engine.retained_bytes, WIRE_CELL_SIZE);
    subscribe_with(r, a, "t", 0);
    expect_kept(r, a, "t", "new");
    expect_nothing(r, a);
}

static void an_empty_payload_forgets(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    retain(r, a, "t", "x");
    expect_message(r, a, "t", "x");
    retain(r, a, "t", "");
    expect_message(r, a, "t", ""); /* delivered like any */
    assert_int_equal(r->engine.n_retained, 0);
    assert_int_equal(r->engine.retained_bytes, 0);
    retain(r, a, "never/kept", "");
    subscribe_with(r, a, "#", 0);
    expect_nothing(r, a);
}

static void forgotten_and_kept_again_in_one_envelope(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    retain(r, a, "t", "old");
    rig_begin(r, a);
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .flags = WIRE_F_RETAIN, .topic = "t"});
    rig_add(r, &(struct rig_message){
                   .type = WIRE_PUBLISH, .flags = WIRE_F_RETAIN, .topic = "t", .payload = "new"});
    rig_send(r);
    subscribe_with(r, a, "t", 0);
    expect_kept(r, a, "t", "new");
    expect_nothing(r, a);
}

static void who_wants_no_retained_ones_gets_none(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    retain(r, a, "t", "x");
    subscribe_with(r, a, "t", WIRE_F_NO_RETAINED);
    expect_nothing(r, a);
}

static void subscribing_again_delivers_them_again(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    retain(r, a, "t", "x");
    for (int i = 0; i < 2; i++) {
        subscribe_with(r, a, "t", 0);
        expect_kept(r, a, "t", "x");
        expect_nothing(r, a);
    }
    assert_int_equal(r->engine.sessions[a].n_filters, 1);
}

static void a_kept_message_waits_with_the_priority_and_life_it_had(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    struct wire_frame f;
    uint64_t expiry = r->engine.now + RIG_SECOND;

    rig_message(r, a,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .flags = WIRE_F_RETAIN,
                                      .priority = 20,
                                      .expiry = expiry,
                                      .topic = "t",
                                      .payload = "x"});
    subscribe_with(r, a, "t", 0);
    f = expect_frame(r, a, WIRE_MESSAGE);
    assert_int_equal(f.priority, 20);
    assert_int_equal(f.expiry, expiry);
    r->engine.now = expiry + RIG_SECOND;
    life_tick(&r->engine);
    assert_int_equal(r->engine.n_retained, 0);
    assert_int_equal(r->engine.store.cell_pool.n_used, 1); /* the filter's */
}

static void kept_messages_are_bounded(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    char topic[16];
    uint32_t fit = (uint32_t)(r->settings.retained_size / WIRE_CELL_SIZE);

    for (uint32_t i = 0; i < fit; i++) {
        snprintf(topic, sizeof(topic), "t%u", i);
        retain(r, a, topic, "x");
    }
    assert_int_equal(r->engine.n_retained, fit);
    rig_message(r, a,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .flags = WIRE_F_RETAIN | WIRE_F_CONFIRM,
                                      .number = 3,
                                      .topic = "one/more",
                                      .payload = "x"});
    rig_turn(r);
    expect_answer(r, a, WIRE_C_RETAINED_FULL, 3, 1);
    assert_int_equal(count(&r->memory.board->refusals.retained_full), 1);
    assert_int_equal(r->engine.n_retained, fit);
    assert_int_equal(r->engine.store.cell_pool.n_used, fit);
}

static void a_full_retained_store_still_replaces(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    char topic[16];
    uint32_t fit = (uint32_t)(r->settings.retained_size / WIRE_CELL_SIZE);

    for (uint32_t i = 0; i < fit; i++) {
        snprintf(topic, sizeof(topic), "t%u", i);
        retain(r, a, topic, "old");
    }
    retain(r, a, "t7", "new");
    assert_int_equal(count(&r->memory.board->refusals.retained_full), 0);
    subscribe_with(r, a, "t7", 0);
    expect_kept(r, a, "t7", "new");
}

static void kept_messages_cost_their_publisher_nothing(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    retain(r, a, "t", "x");
    assert_int_equal(r->engine.sessions[a].charged, 0);
    retain(r, a, "u", "x");
    assert_int_equal(r->engine.sessions[a].charged, 0);
    rig_begin(r, a);
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 1, "u");
    rig_send(r);
    assert_int_equal(r->engine.sessions[a].charged, 0); /* the delivery is the retained store's */
    expect_sound(r);
}

/* ---- Subscriptions ---- */

static void a_session_has_at_most_so_many_subscriptions(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    char filter[16];

    for (uint32_t i = 0; i < r->settings.max_subscriptions; i++) {
        snprintf(filter, sizeof(filter), "f%u", i);
        subscribe_with(r, a, filter, 0);
    }
    rig_begin(r, a);
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 1, "one/more");
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 2, "f7"); /* it has that one */
    rig_add_text(r, WIRE_UNSUBSCRIBE, 0, 3, "f7");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, a, WIRE_C_TOO_MANY_FILTERS, 1, 1);
    expect_answer(r, a, WIRE_C_OK, 2, 1);
    expect_answer(r, a, WIRE_C_OK, 3, 1);
    subscribe_with(r, a, "one/more", 0);
}

static void bad_filters_are_refused(void **state)
{
    static const char *const bad[] = {"", "a+", "#/a", "a/#b", "@name", "\xff"};
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");

    for (uint32_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        rig_begin(r, a);
        rig_add_text(r, WIRE_SUBSCRIBE, 0, i, bad[i]);
        rig_send(r);
        rig_turn(r);
        expect_answer(r, a, WIRE_C_BAD_FILTER, i, 1);
    }
    assert_int_equal(r->engine.filters.n, 0);
}

static void a_publish_only_session_cannot_subscribe(void **state)
{
    struct rig *r = *state;
    uint16_t row = 0;

    rig_register(r, 12345, "p", WIRE_F_PUBLISH_ONLY);
    rig_turn(r);
    expect_frame(r, row, WIRE_WELCOME);
    rig_begin(r, row);
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 1, "a");
    rig_send(r);
    rig_turn(r);
    expect_answer(r, row, WIRE_C_PUBLISH_ONLY, 1, 1);
    assert_int_equal(r->engine.filters.n, 0);
}

static void unsubscribing_ends_deliveries(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t/#");

    publish(r, a, "t/1", "one");
    rig_begin(r, a);
    rig_add_text(r, WIRE_UNSUBSCRIBE, 0, 4, "t/#");
    rig_add_text(r, WIRE_UNSUBSCRIBE, 0, 5, "t/#");
    rig_send(r);
    publish(r, a, "t/1", "two");
    expect_answer(r, a, WIRE_C_OK, 4, 1);
    expect_answer(r, a, WIRE_C_NOT_SUBSCRIBED, 5, 1);
    expect_message(r, a, "t/1", "one"); /* was on its way */
    expect_nothing(r, a);
    assert_int_equal(r->engine.store.cell_pool.n_used, 0);
}

static void unsubscribed_and_subscribed_in_one_envelope_holds(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    rig_begin(r, a);
    rig_add_text(r, WIRE_UNSUBSCRIBE, 0, 1, "t");
    rig_add_text(r, WIRE_SUBSCRIBE, 0, 2, "t");
    rig_send(r);
    publish(r, a, "t", "x");
    expect_answer(r, a, WIRE_C_OK, 1, 1);
    expect_answer(r, a, WIRE_C_OK, 2, 1);
    expect_message(r, a, "t", "x");
    expect_nothing(r, a);
    assert_int_equal(r->engine.sessions[a].n_filters, 1);
}

static void what_expired_at_the_reader_is_counted_as_it_reports(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");

    publish(r, a, "t", "x");
    rig_begin(r, a);
    rig_add_text(r, WIRE_REPORT, 0, 5, "t");
    rig_add_text(r, WIRE_REPORT, 0, 2, "unknown/topic");
    rig_send(r);
    assert_int_equal(count(&r->memory.board->drops.unread), 7);
    assert_int_equal(count(&board_row(r->memory.board, a)->drops.unread), 7);
    assert_int_equal(count(&board_topic(r->memory.board, 0)->drops.unread), 5);
    assert_int_equal(count(&board_topic(r->memory.board, 15)->drops.unread), 2);
    rig_turn(r);
    rig_drain(r, a); /* the message; no answer */
}

/* ---- Suspicion ---- */

static void a_malformed_frame_ends_its_envelope_what_stood_before_holds(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    const uint8_t nonsense[] = {12, 0, 99, 0, 0, 0, 0, 0, 1, 2, 3, 4};

    rig_begin(r, a);
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "before"});
    rig_add_bytes(r, nonsense, sizeof(nonsense));
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "behind"});
    rig_send(r);
    rig_turn(r);
    expect_message(r, a, "t", "before");
    expect_nothing(r, a);
    assert_int_equal(count(&r->memory.board->rejects.frame), 1);
    assert_int_equal(count(&board_row(r->memory.board, a)->rejected), 1);
}

static void a_frame_larger_than_the_board_says_is_malformed(void **state)
{
    static char payload[RIG_FRAME_MAX];
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    size_t fits = RIG_FRAME_MAX - wire_message_size(1, 0);

    memset(payload, 'x', sizeof(payload));
    for (size_t more = 0; more < 2; more++)
        rig_message(r, a,
                    &(struct rig_message){.type = WIRE_PUBLISH,
                                          .topic = "t",
                                          .payload = payload,
                                          .payload_size = fits + more});
    rig_turn(r);
    assert_int_equal(expect_frame(r, a, WIRE_MESSAGE).payload_size, fits);
    expect_nothing(r, a);
    assert_int_equal(count(&r->memory.board->rejects.frame), 1);
}

/* What of the board tells why an envelope was not believed. */
struct rejects {
    uint64_t truncated, magic, version, length, reserved, session, token, frame;
};

static struct rejects rejects_of(const struct rig *r)
{
    const struct board_rejects *b = &r->memory.board->rejects;

    return (struct rejects){count(&b->truncated), count(&b->magic),    count(&b->version),
                            count(&b->length),    count(&b->reserved), count(&b->session),
                            count(&b->token),     count(&b->frame)};
}

static void expect_rejects(const struct rig *r, struct rejects should)
{
    struct rejects is = rejects_of(r);

    assert_memory_equal(&is, &should, sizeof(is));
}

static void what_is_not_to_be_believed_is_counted_and_changes_nothing(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_subscriber(r, "a", "t");
    uint16_t b = expect_subscriber(r, "b", "t");
    uint64_t received = engine_row(&r->engine, a)->received;
    uint8_t good[WIRE_QUEUE_MAX];
    uint8_t bad[WIRE_QUEUE_MAX];
    uint32_t size;

    rig_begin(r, a);
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "x"});
    size = (uint32_t)r->envelope_size;
    memcpy(good, r->envelope, size);
    wire_store32(good + WIRE_AT_ENVELOPE_LENGTH, size);

    rig_route(r, good, 0 + 1);
    rig_route(r, good, WIRE_ENVELOPE_SIZE - 1);
    rig_route(r, good, size - 1); /* shorter than it says */
    expect_rejects(r, (struct rejects){.truncated = 3});
    memcpy(bad, good, size);
    bad[0] ^= 1;
    rig_route(r, bad, size);
    expect_rejects(r, (struct rejects){.truncated = 3, .magic = 1});
    memcpy(bad, good, size);
    bad[8]++;
    rig_route(r, bad, size);
    expect_rejects(r, (struct rejects){.truncated = 3, .magic = 1, .version = 1});
    rig_route(r, good, size + 1); /* longer than it says */
    memcpy(bad, good, size);
    wire_store32(bad + WIRE_AT_ENVELOPE_LENGTH, WIRE_QUEUE_MAX + 1);
    rig_route(r, bad, size);
    expect_rejects(r, (struct rejects){.truncated = 3, .magic = 1, .version = 1, .length = 2});
    memcpy(bad, good, size);
    bad[12] = 1;
    rig_route(r, bad, size);
    memcpy(bad, good, size);
    wire_store16(bad + 10, 7); /* a row that nobody has */
    rig_route(r, bad, size);
    wire_store16(bad + 10, 1000);
    rig_route(r, bad, size);
    wire_store16(bad + 10, b); /* another's */
    rig_route(r, bad, size);
    for (unsigned i = 0; i < WIRE_TOKEN_SIZE; i++) {
        memcpy(bad, good, size);
        bad[16 + i] ^= 0x80;
        rig_route(r, bad, size);
    }
    expect_rejects(r, (struct rejects){.truncated = 3,
                                       .magic = 1,
                                       .version = 1,
                                       .length = 2,
                                       .reserved = 1,
                                       .session = 2,
                                       .token = 1 + WIRE_TOKEN_SIZE});
    rig_turn(r);
    expect_nothing(r, a);
    expect_nothing(r, b);
    assert_int_equal(engine_row(&r->engine, a)->received, received);
    rig_route(r, good, size); /* and the good one is */
    rig_turn(r);
    expect_message(r, a, "t", "x");
    expect_message(r, b, "t", "x");
}

static void the_landing_is_clear_after_each_envelope(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint8_t noise[WIRE_QUEUE_MAX];

    memset(noise, 0xee, sizeof(noise));
    rig_route(r, noise, sizeof(noise));
    expect_sound(r);
    publish(r, a, "t", "x");
    expect_sound(r);
}

static void a_freed_row_believes_nobody(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint8_t token[WIRE_TOKEN_SIZE];

    memcpy(token, engine_row(&r->engine, a)->token, sizeof(token));
    rig_kill(r, a);
    wire_put_envelope(r->envelope, a, token, 0);
    r->envelope_size = WIRE_ENVELOPE_SIZE;
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "x"});
    rig_send(r);
    assert_int_equal(count(&r->memory.board->rejects.session), 1);

    assert_int_equal(expect_session(r, "b"), a);
    wire_put_envelope(r->envelope, a, token, 0);
    r->envelope_size = WIRE_ENVELOPE_SIZE;
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "x"});
    rig_send(r);
    assert_int_equal(count(&r->memory.board->rejects.token), 1);
    assert_int_equal(count(&r->memory.board->totals.messages_in), 0);
}

/* ---- Registering ---- */

static void registering_inside_a_session_is_counted(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint8_t frame[64];
    size_t size = wire_put_register(frame, 0, 999, 1, 1, 998, "b", 1);

    rig_begin(r, a);
    rig_add_bytes(r, frame, size);
    rig_send(r);
    assert_int_equal(count(&r->memory.board->rejects.frame), 1);
    assert_int_equal(r->engine.making.n, 0);
    assert_int_equal(r->engine.n_live, 1);
}

static void strangers_may_only_register(void **state)
{
    static const uint8_t no_token[WIRE_TOKEN_SIZE];
    struct rig *r = *state;
    uint8_t frame[64];
    size_t size = wire_put_register(frame, 0, 999, 1, 1, 998, "b", 1);

    wire_put_envelope(r->envelope, WIRE_NO_SESSION, no_token, 0);
    r->envelope_size = WIRE_ENVELOPE_SIZE;
    rig_add(r, &(struct rig_message){.type = WIRE_PUBLISH, .topic = "t", .payload = "x"});
    rig_send(r);
    wire_put_envelope(r->envelope, WIRE_NO_SESSION, no_token, 0);
    r->envelope_size = WIRE_ENVELOPE_SIZE;
    rig_add_bytes(r, frame, size);
    rig_add_bytes(r, frame, size); /* and nothing with it */
    rig_send(r);
    assert_int_equal(count(&r->memory.board->rejects.frame), 2);
    assert_int_equal(r->engine.making.n, 0);
}

static void K7_registering_is_idempotent_by_nonce(void **state)
{
    struct rig *r = *state;

    rig_register(r, 555, "a", 0);
    rig_register(r, 555, "a", 0); /* before its queue is made: it waits */
    assert_int_equal(r->engine.making.n, 1);
    assert_int_equal(rig_posted(r, 555), -1);
    rig_turn(r);
    assert_int_equal(rig_posted(r, 555), WIRE_C_OK);
    rig_register(r, 555, "a", 0); /* it missed the posting */
    assert_int_equal(atomic_load(&r->memory.board->postings), 2);
    rig_turn(r);
    assert_int_equal(r->engine.n_live, 1);
    expect_frame(r, 0, WIRE_WELCOME);
    expect_nothing(r, 0);
}

static void refused_registrations_are_posted_with_a_code(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    static const char *const bad[] = {"a/b", "+", "#", "@a", "$a", "a\n", "\xff"};
    uint64_t nonce = 5000;
    const struct board_posting *p;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        rig_register(r, ++nonce, bad[i], 0);
        assert_int_equal(rig_posted(r, nonce), WIRE_C_BAD_NAME);
    }
    rig_register(r, ++nonce, "a", 0);
    assert_int_equal(rig_posted(r, nonce), WIRE_C_NAME_TAKEN);
    p = &r->memory.board
             ->board_postings[(atomic_load(&r->memory.board->postings) - 1) % BOARD_POSTINGS];
    assert_int_equal(atomic_load(&p->number1), engine_row(&r->engine, a)->pid);
    rig_bye(r, a);
    rig_register(r, ++nonce, "a", 0);
    assert_int_equal(rig_posted(r, nonce), WIRE_C_NAME_LEAVING);
    assert_int_equal(count(&r->memory.board->totals.refused_registrations), nonce - 5000);
    assert_int_equal(r->engine.making.n, 0);
    life_quiet(&r->engine);
    rig_turn(r);
    expect_session(r, "a");
}

static void the_nameless_do_not_take_each_other_s_name(void **state)
{
    struct rig *r = *state;

    assert_int_not_equal(expect_session(r, ""), expect_session(r, ""));
}

static void when_all_rows_are_taken_registering_is_refused(void **state)
{
    struct rig *r = *state;
    const struct board_posting *p;

    for (uint32_t i = 0; i < r->engine.n_rows; i++)
        expect_session(r, "");
    rig_register(r, 777, "", 0);
    assert_int_equal(rig_posted(r, 777), WIRE_C_NO_ROW);
    p = &r->memory.board
             ->board_postings[(atomic_load(&r->memory.board->postings) - 1) % BOARD_POSTINGS];
    assert_int_equal(atomic_load(&p->number1), r->engine.n_rows);
    rig_kill(r, 3);
    assert_int_equal(expect_session(r, ""), 3);
}

static void tokens_are_used_once(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint16_t b = expect_session(r, "b");

    assert_memory_not_equal(engine_row(&r->engine, a)->token, engine_row(&r->engine, b)->token,
                            WIRE_TOKEN_SIZE);
}

/* ---- Goodbye ---- */

static void a_goodbye_ends_the_session_once_all_was_routed(void **state)
{
    struct rig *r = *state;
    uint16_t a = expect_session(r, "a");
    uint16_t b = expect_subscriber(r, "b", "#");

    rig_bye(r, a);
    rig_bye(r, a);                     /* again: nothing more */
    publish(r, a, "t", "sent before"); /* from the other queue */
    expect_message(r, b, "t", "sent before");
    life_quiet(&r->engine);
    assert_int_equal(count(&r->memory.board->totals.said_bye), 1);
    rig_turn(r);
    assert_int_equal(engine_row(&r->engine, a)->state, ROW_FREE);
    assert_int_equal(r->engine.n_live, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, expect_setup, expect_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_message_goes_to_those_who_subscribe_as_it_was_sent),
        TEST(L3_several_subscriptions_of_one_session_give_one_delivery),
        TEST(messages_of_an_envelope_come_in_its_order),
        TEST(a_direct_topic_reaches_the_one_of_that_name),
        TEST(unmatched_messages_take_no_memory),
        TEST(a_subscription_holds_from_the_next_frame_on),
        TEST(a_request_is_named_and_its_reply_finds_back),
        TEST(L2_only_the_first_reply_counts),
        TEST(L2_only_the_first_reply_of_an_envelope_counts),
        TEST(replies_to_what_was_not_asked_are_stray),
        TEST(a_reply_to_one_who_has_gone_is_stray),
        TEST(a_request_that_nobody_takes_is_answered_at_once),
        TEST(a_session_may_serve_its_own_requests),
        TEST(K10_one_confirm_covers_an_envelope_that_fared_alike),
        TEST(K10_confirms_part_where_frames_fare_differently),
        TEST(who_asks_for_no_confirm_gets_none),
        TEST(P6_what_goes_over_the_window_is_refused_and_counted),
        TEST(the_window_is_charged_once_for_any_number_of_receivers),
        cmocka_unit_test(a_full_store_refuses_and_says_so),
        TEST(what_is_late_is_refused),
        TEST(bad_topics_are_refused_one_by_one),
        TEST(a_retained_message_is_kept_for_later_subscribers),
        TEST(a_live_message_to_a_retained_topic_has_no_flag),
        TEST(the_next_retained_message_replaces_the_last),
        TEST(an_empty_payload_forgets),
        TEST(forgotten_and_kept_again_in_one_envelope),
        TEST(who_wants_no_retained_ones_gets_none),
        TEST(subscribing_again_delivers_them_again),
        TEST(a_kept_message_waits_with_the_priority_and_life_it_had),
        TEST(kept_messages_are_bounded),
        TEST(a_full_retained_store_still_replaces),
        TEST(kept_messages_cost_their_publisher_nothing),
        TEST(a_session_has_at_most_so_many_subscriptions),
        TEST(bad_filters_are_refused),
        TEST(a_publish_only_session_cannot_subscribe),
        TEST(unsubscribing_ends_deliveries),
        TEST(unsubscribed_and_subscribed_in_one_envelope_holds),
        TEST(what_expired_at_the_reader_is_counted_as_it_reports),
        TEST(a_malformed_frame_ends_its_envelope_what_stood_before_holds),
        TEST(a_frame_larger_than_the_board_says_is_malformed),
        TEST(what_is_not_to_be_believed_is_counted_and_changes_nothing),
        TEST(the_landing_is_clear_after_each_envelope),
        TEST(a_freed_row_believes_nobody),
        TEST(registering_inside_a_session_is_counted),
        TEST(strangers_may_only_register),
        TEST(K7_registering_is_idempotent_by_nonce),
        TEST(refused_registrations_are_posted_with_a_code),
        TEST(the_nameless_do_not_take_each_other_s_name),
        TEST(when_all_rows_are_taken_registering_is_refused),
        TEST(tokens_are_used_once),
        TEST(a_goodbye_ends_the_session_once_all_was_routed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
