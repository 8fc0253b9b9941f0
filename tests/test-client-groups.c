/* libclient/client: groups, wills and administration against a stand-in for the broker
 * (tests/support/stand_in.h), which sees what is sent and answers as each test wants it. */
#include "libclient/mqclient.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/acks.h"
#include "tests/support/stand_in.h"

struct test {
    struct stand_in *s;
    struct mqc *c;
};

static int setup_with(void **state, unsigned flags)
{
    struct test *t = calloc(1, sizeof(*t));
    struct mqc_options options = {.flags = flags};

    t->s = stand_in_start();
    options.instance = t->s->instance;
    if (mqc_open(&t->c, &options) < 0)
        fail_msg("%s", mqc_last_error());
    *state = t;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, 0);
}

static int setup_publish_only(void **state)
{
    return setup_with(state, MQC_PUBLISH_ONLY);
}

static int teardown(void **state)
{
    struct test *t = *state;

    mqc_close(t->c);
    stand_in_stop(t->s);
    free(t);
    return 0;
}

static void expect_sentence(const char *part)
{
    if (strstr(mqc_last_error(), part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", mqc_last_error(), part);
}

static const struct stand_in_frame *frame(struct test *t, uint32_t i)
{
    stand_in_await(t->s, i + 1);
    return &t->s->frames[i];
}

/* How the broker answers what has an answer. */
struct reaction {
    uint8_t code;
    uint32_t count;
};

static void react(struct stand_in *s, const struct wire_frame *f)
{
    const struct reaction *reaction = s->context;

    if (f->type == WIRE_ACK || f->type == WIRE_NACK || f->type == WIRE_BYE)
        return;
    stand_in_begin(s);
    stand_in_code(s, reaction->code, (uint32_t)f->number, reaction->count);
    stand_in_send(s, WIRE_CONTROL);
}

static void let_react(struct test *t, struct reaction *reaction)
{
    t->s->context = reaction;
    t->s->answer = react;
}

/* Deliver a message of a group. */
static void deliver(struct test *t, uint64_t name, uint8_t tries)
{
    stand_in_begin(t->s);
    stand_in_delivery(t->s, 8, 0, name, tries, 0, "job", "work");
    stand_in_send(t->s, 8);
}

static void receive(struct test *t, struct mqc_message *m)
{
    assert_int_equal(mqc_receive(t->c, m, 10000), 0);
}

static void expect_nothing(struct test *t)
{
    struct mqc_message m;

    assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
}

/* ---- Join and leave ---- */

static void a_join_says_what_is_wanted(void **state)
{
    struct test *t = *state;
    const struct mqc_group_options options = {.flags = MQC_DURABLE | MQC_DEAD_EXPIRED,
                                              .prefetch = 3,
                                              .delivery_limit = 7,
                                              .ack_timeout_ms = 1500};
    const struct stand_in_frame *join;

    assert_int_equal(mqc_join(t->c, "workers", "jobs/#", &options), 0);
    join = frame(t, 0);
    assert_true(join->urgent);
    assert_int_equal(join->level, WIRE_CONTROL);
    assert_int_equal(join->frame.type, WIRE_JOIN);
    assert_string_equal(join->frame.group, "workers");
    assert_string_equal(join->frame.text, "jobs/#");
    assert_int_equal(join->frame.flags, WIRE_F_DURABLE | WIRE_F_DEAD_EXPIRED);
    assert_int_equal(join->frame.prefetch, 3);
    assert_int_equal(join->frame.limit, 7);
    assert_int_equal(join->frame.timeout, 1500);
}

static void a_group_is_joined_as_it_is_without_a_filter(void **state)
{
    struct test *t = *state;

    assert_int_equal(mqc_join(t->c, "$dead/workers", NULL, NULL), 0);
    assert_string_equal(frame(t, 0)->frame.group, "$dead/workers");
    assert_int_equal(frame(t, 0)->frame.text_size, 0);
    assert_int_equal(frame(t, 0)->frame.prefetch, 0);
}

static void leaving_names_the_group(void **state)
{
    struct test *t = *state;

    assert_int_equal(mqc_leave(t->c, "workers"), 0);
    assert_int_equal(frame(t, 0)->frame.type, WIRE_UNSUBSCRIBE);
    assert_int_equal(frame(t, 0)->frame.flags, WIRE_F_GROUP);
    assert_string_equal(frame(t, 0)->frame.text, "workers");
}

static void what_no_group_is_called_is_not_sent(void **state)
{
    static const char *const names[] = {"",       "a/b",           "a+", "#", "$dead",
                                        "$dead/", "$dead/$dead/a", "@me"};
    struct test *t = *state;
    char name[WIRE_NAME_MAX + 2] = {0};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        assert_int_equal(mqc_join(t->c, names[i], "a", NULL), -EINVAL);
        assert_int_equal(mqc_leave(t->c, names[i]), -EINVAL);
    }
    assert_int_equal(mqc_join(t->c, NULL, "a", NULL), -EINVAL);
    memset(name, 'x', WIRE_NAME_MAX + 1);
    assert_int_equal(mqc_join(t->c, name, "a", NULL), -EINVAL);
    name[WIRE_NAME_MAX] = '\0';
    assert_int_equal(mqc_join(t->c, name, "a", NULL), 0);
    assert_int_equal(t->s->n_frames, 1);
}

static void options_of_a_join_are_checked(void **state)
{
    struct test *t = *state;

    assert_int_equal(mqc_join(t->c, "g", "a/#/b", NULL), -EINVAL);
    assert_int_equal(mqc_join(t->c, "g", "", NULL), -EINVAL);
    assert_int_equal(mqc_join(t->c, "g", "a", &(struct mqc_group_options){.flags = 4}), -EINVAL);
    assert_int_equal(mqc_join(t->c, "g", "a", &(struct mqc_group_options){.prefetch = 65536}),
                     -EINVAL);
    assert_int_equal(mqc_join(t->c, "g", "a", &(struct mqc_group_options){.delivery_limit = 256}),
                     -EINVAL);
    assert_int_equal(t->s->n_frames, 0);
}

static void a_publish_only_handle_joins_nothing(void **state)
{
    struct test *t = *state;

    assert_int_equal(mqc_join(t->c, "g", "a", NULL), -EINVAL);
    expect_sentence("MQC_PUBLISH_ONLY");
    assert_int_equal(mqc_leave(t->c, "g"), -EINVAL);
}

static void refusals_have_an_error_and_a_sentence(void **state)
{
    static const struct {
        uint8_t code;
        int error;
        const char *sentence;
    } refusals[] = {
        {WIRE_C_GROUP_DIFFERS, -EEXIST, "other settings"},
        {WIRE_C_GROUPS_FULL, -ENFILE, "max_groups"},
        {WIRE_C_NO_GROUP, -ENOENT, "no such group"},
        {WIRE_C_NO_JOURNAL, -EOPNOTSUPP, "journal"},
        {WIRE_C_JOURNAL_FULL, -ENOSPC, "journal_size"},
        {WIRE_C_JOURNAL_ERROR, -EIO, "log"},
        {WIRE_C_BAD_GROUP, -EINVAL, "not the name of a group"},
        {WIRE_C_TOO_MANY_FILTERS, -ENOSPC, "max_subscriptions"},
    };
    struct test *t = *state;
    struct reaction reaction = {.count = 1};

    let_react(t, &reaction);
    for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
        reaction.code = refusals[i].code;
        assert_int_equal(mqc_join(t->c, "workers", "jobs", NULL), refusals[i].error);
        expect_sentence("workers: ");
        expect_sentence(refusals[i].sentence);
    }
}

static void a_group_that_is_full_is_told_by_the_confirm(void **state)
{
    const struct mqc_publication p = {.topic = "a", .flags = MQC_CONFIRM};
    struct test *t = *state;
    struct reaction reaction = {.code = WIRE_C_GROUP_FULL, .count = 1};
    int64_t number;

    let_react(t, &reaction);
    number = mqc_publish_with(t->c, &p);
    assert_true(number > 0);
    assert_int_equal(mqc_confirm_wait(t->c, number, 10000), -ENOSPC);
    expect_sentence("group_size");
}

/* ---- Messages ---- */

static void a_message_of_a_group_owes_an_acknowledgement(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    deliver(t, 77, 0);
    receive(t, &m);
    assert_int_equal(m.acknowledge, 1);
    assert_int_equal(m.attempt, 1);
    assert_int_equal(m.flags, 0);
    mqc_message_free(&m);
    deliver(t, 77, 255);
    receive(t, &m);
    assert_int_equal(m.attempt, 256);
    mqc_message_free(&m);
    stand_in_say(t->s, 8, "plain", "x");
    receive(t, &m);
    assert_int_equal(m.acknowledge, 0);
    assert_int_equal(m.attempt, 1);
    assert_int_equal(mqc_ack(t->c, &m), -EINVAL);
    mqc_message_free(&m);
}

static void decisions_reach_the_broker_by_the_name_of_the_delivery(void **state)
{
    struct test *t = *state;
    struct mqc_message m;
    const struct wire_frame *f;

    deliver(t, UINT64_C(0x1200000034), 0);
    receive(t, &m);
    mqc_message_free(&m);
    assert_int_equal(mqc_ack(t->c, &m), 0); /* freed before: the number counts */
    assert_int_equal(mqc_flush(t->c), 0);
    f = &frame(t, 0)->frame;
    assert_true(frame(t, 0)->urgent);
    assert_int_equal(frame(t, 0)->level, WIRE_CONTROL);
    assert_int_equal(f->type, WIRE_ACK);
    assert_int_equal(f->n_names, 1);
    assert_true(wire_load64(f->names) == UINT64_C(0x1200000034));
    assert_int_equal(mqc_ack(t->c, &m), -EINVAL); /* once */

    deliver(t, 35, 0);
    receive(t, &m);
    assert_int_equal(mqc_nack(t->c, &m, 2500), 0);
    mqc_message_free(&m);
    assert_int_equal(mqc_flush(t->c), 0);
    f = &frame(t, 1)->frame;
    assert_int_equal(f->type, WIRE_NACK);
    assert_int_equal(f->number, 35);
    assert_int_equal(f->delay, 2500);
    assert_int_equal(f->flags, 0);

    deliver(t, 36, 0);
    receive(t, &m);
    assert_int_equal(mqc_reject(t->c, &m), 0);
    mqc_message_free(&m);
    assert_int_equal(mqc_flush(t->c), 0);
    f = &frame(t, 2)->frame;
    assert_int_equal(f->number, 36);
    assert_int_equal(f->flags, WIRE_F_DEAD);
}

static void what_is_freed_without_a_decision_is_not_acknowledged(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    deliver(t, 1, 0);
    receive(t, &m);
    mqc_message_free(&m);
    assert_int_equal(mqc_flush(t->c), 0);
    mqc_close(t->c);
    t->c = NULL;
    assert_int_equal(frame(t, 0)->frame.type, WIRE_BYE);
}

/* Receive and acknowledge so many, named from 1 on, in as few batches as there can be. */
static void work_off(struct test *t, unsigned n)
{
    struct mqc_message m;

    for (unsigned name = 1; name <= n;) {
        stand_in_begin(t->s);
        for (unsigned i = 0; i < 20 && name <= n; i++)
            stand_in_delivery(t->s, 8, 0, name++, 0, 0, "job", "work");
        stand_in_send(t->s, 8);
    }
    for (unsigned i = 0; i < n; i++) {
        receive(t, &m);
        assert_int_equal(mqc_ack(t->c, &m), 0);
        mqc_message_free(&m);
    }
}

/* Until all names from 1 to n have come, in their order. */
static void expect_names(struct test *t, uint32_t at, uint64_t n)
{
    for (uint64_t next = 1; next <= n; at++) {
        const struct wire_frame *f = &frame(t, at)->frame;

        assert_int_equal(f->type, WIRE_ACK);
        for (uint32_t i = 0; i < f->n_names; i++)
            assert_int_equal(wire_load64(f->names + 8 * i), next++);
    }
}

static void every_acknowledgement_arrives_however_they_gather(void **state)
{
    struct test *t = *state;

    work_off(t, 150);
    expect_nothing(t); /* a receive that finds nothing sends the rest */
    expect_names(t, 0, 150);
}

static void goodbye_comes_after_the_acknowledgements(void **state)
{
    struct test *t = *state;

    work_off(t, 30);
    mqc_close(t->c);
    t->c = NULL;
    expect_names(t, 0, 30);
    stand_in_await(t->s, t->s->n_frames);
}

static void calls_that_wait_send_them_first(void **state)
{
    struct test *t = *state;

    work_off(t, 10);
    assert_int_equal(mqc_subscribe(t->c, "a", 0), 0);
    expect_names(t, 0, 10);
}

/* Fill a request queue of a broker that reads nothing, by messages of this priority. */
static void fill(struct test *t, unsigned priority)
{
    const struct mqc_publication p = {.topic = "full", .priority = priority, .flags = MQC_NOWAIT};

    atomic_store(&t->s->paused, true);
    while (mqc_publish_with(t->c, &p) == 0) {
    }
}

static uint32_t find_acks(struct test *t)
{
    for (uint32_t i = 0;; i++)
        if (frame(t, i)->frame.type == WIRE_ACK)
            return i;
}

static void what_was_published_before_goes_first(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    deliver(t, 1, 0);
    receive(t, &m);
    fill(t, 31);
    assert_int_equal(mqc_set_batching(t->c, 1), 0);
    assert_int_equal(mqc_publish(t->c, "result", "42", 2, 8), 0);
    assert_int_equal(queue_standing(&t->s->request), 0);
    assert_int_equal(mqc_ack(t->c, &m), 0);
    assert_int_equal(queue_standing(&t->s->request), 1);
    mqc_message_free(&m);
    atomic_store(&t->s->paused, false);
    assert_int_equal(mqc_flush(t->c), 0);
    expect_names(t, find_acks(t), 1);
}

static void unless_there_is_no_room_for_it(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    deliver(t, 1, 0);
    receive(t, &m);
    fill(t, 8);
    assert_int_equal(mqc_set_batching(t->c, 1), 0);
    assert_int_equal(mqc_publish(t->c, "result", "42", 2, 8), 0);
    assert_int_equal(mqc_ack(t->c, &m), 0);
    assert_int_equal(queue_standing(&t->s->urgent), 1);
    mqc_message_free(&m);
    atomic_store(&t->s->paused, false);
}

/* The urgent request queue is full: decisions wait in the handle. */
static void they_stay_until_there_is_room(void **state)
{
    struct test *t = *state;
    struct mqc_message m[ACKS_MAX];

    for (unsigned i = 0; i < ACKS_MAX; i++) {
        deliver(t, i + 1, 0);
        receive(t, &m[i]);
    }
    fill(t, 31);
    for (unsigned i = 0; i < ACKS_MAX; i++)
        assert_int_equal(mqc_ack(t->c, &m[i]), 0);
    expect_nothing(t);
    atomic_store(&t->s->paused, false);
    assert_int_equal(mqc_flush(t->c), 0);
    for (unsigned i = 0; i < ACKS_MAX; i++)
        mqc_message_free(&m[i]);
    expect_names(t, find_acks(t), ACKS_MAX);
}

static void P10_a_loop_of_the_callers_is_woken_to_send_them(void **state)
{
    struct test *t = *state;
    struct pollfd loop = {.fd = mqc_fd(t->c), .events = POLLIN};
    struct mqc_message m;

    deliver(t, 1, 0);
    receive(t, &m);
    fill(t, 31);
    assert_int_equal(mqc_ack(t->c, &m), 0);
    mqc_message_free(&m);
    atomic_store(&t->s->paused, false);
    stand_in_await(t->s, STAND_IN_DEPTH);
    assert_int_equal(poll(&loop, 1, 10000), 1);
    expect_nothing(t);
    expect_names(t, find_acks(t), 1);
    assert_int_equal(poll(&loop, 1, 0), 0);
}

static void *publish_one(void *argument)
{
    struct test *t = argument;

    return mqc_publish(t->c, "a", "b", 1, 8) < 0 ? argument : NULL;
}

/* Rule P6: a broker that is short of memory reads no normal requests until some is given back, and
 * who waits to send one may be the one who has it. */
static void P6_who_waits_for_room_acknowledges_meanwhile(void **state)
{
    struct test *t = *state;
    struct mqc_message m;
    pthread_t thread;
    void *failed;

    deliver(t, 1, 0);
    receive(t, &m);
    fill(t, 31);
    assert_int_equal(mqc_ack(t->c, &m), 0); /* stays in the handle */
    mqc_message_free(&m);
    fill(t, 8);
    atomic_store(&t->s->deaf, true);
    atomic_store(&t->s->paused, false);
    pthread_create(&thread, NULL, publish_one, t);
    expect_names(t, find_acks(t), 1);
    atomic_store(&t->s->deaf, false);
    pthread_join(thread, &failed);
    assert_null(failed);
}

static void an_expired_one_goes_back_and_is_not_reported(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    stand_in_begin(t->s);
    stand_in_delivery(t->s, 8, 0, 9, 0, 1, "job", "late");
    stand_in_send(t->s, 8);
    assert_int_equal(mqc_receive(t->c, &m, 50), -ETIMEDOUT);
    expect_nothing(t);
    assert_int_equal(frame(t, 0)->frame.type, WIRE_NACK);
    assert_int_equal(frame(t, 0)->frame.number, 9);
    assert_int_equal(frame(t, 0)->frame.delay, 0);
    assert_int_equal(t->s->n_frames, 1);
}

static void a_request_out_of_a_group_is_answered_by_its_name(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    stand_in_begin(t->s);
    stand_in_delivery(t->s, 8, WIRE_F_REQUEST, 81, 0, UINT64_MAX / 2, "job", "what");
    stand_in_send(t->s, 8);
    receive(t, &m);
    assert_int_equal(m.flags, MQC_M_REQUEST);
    assert_int_equal(m.acknowledge, 1);
    assert_int_equal(mqc_reply(t->c, &m, "this", 4), 0);
    mqc_message_free(&m);
    assert_int_equal(frame(t, 0)->frame.type, WIRE_REPLY);
    assert_int_equal(frame(t, 0)->frame.number, 81);
}

/* ---- Wills ---- */

static void a_will_arrives_as_it_was_given(void **state)
{
    const struct mqc_publication will = {
        .topic = "gone", .payload = "pump", .size = 4, .priority = 30, .flags = MQC_RETAIN};
    struct test *t = *state;
    const struct stand_in_frame *f;

    assert_int_equal(mqc_set_will(t->c, &will), 0);
    f = frame(t, 0);
    assert_true(f->urgent);
    assert_int_equal(f->level, WIRE_CONTROL);
    assert_int_equal(f->frame.type, WIRE_WILL);
    assert_int_equal(f->frame.priority, 30);
    assert_int_equal(f->frame.flags, WIRE_F_RETAIN);
    assert_string_equal(f->frame.text, "gone");
    assert_int_equal(f->frame.payload_size, 4);
    assert_memory_equal(f->frame.payload, "pump", 4);
}

static void a_will_is_taken_back(void **state)
{
    struct test *t = *state;

    assert_int_equal(mqc_set_will(t->c, NULL), 0);
    assert_int_equal(frame(t, 0)->frame.type, WIRE_WILL);
    assert_int_equal(frame(t, 0)->frame.text_size, 0);
    assert_int_equal(frame(t, 0)->frame.payload_size, 0);
    assert_int_equal(mqc_set_will(t->c, &(struct mqc_publication){.payload = "x", .size = 1}), 0);
    assert_int_equal(frame(t, 1)->frame.payload_size, 0);
}

static void the_largest_will_fits_and_a_larger_one_does_not(void **state)
{
    static const uint8_t payload[STAND_IN_FRAME_MAX];
    struct mqc_publication will = {
        .topic = "gone", .payload = payload, .size = STAND_IN_FRAME_MAX - WIRE_MESSAGE_SIZE - 5};
    struct test *t = *state;

    assert_int_equal(mqc_set_will(t->c, &will), 0);
    will.size++;
    assert_int_equal(mqc_set_will(t->c, &will), -EMSGSIZE);
    will.size = SIZE_MAX;
    assert_int_equal(mqc_set_will(t->c, &will), -EMSGSIZE);
    assert_int_equal(t->s->n_frames, 1);
}

static void wills_are_checked(void **state)
{
    struct test *t = *state;
    struct reaction reaction = {.code = WIRE_C_STORE_FULL, .count = 1};

    assert_int_equal(mqc_set_will(t->c, &(struct mqc_publication){.topic = "a/#"}), -EINVAL);
    assert_int_equal(mqc_set_will(t->c, &(struct mqc_publication){.topic = "a", .ttl_ms = 1}),
                     -EINVAL);
    assert_int_equal(
        mqc_set_will(t->c, &(struct mqc_publication){.topic = "a", .flags = MQC_CONFIRM}), -EINVAL);
    assert_int_equal(mqc_set_will(t->c, &(struct mqc_publication){.topic = "a", .priority = 32}),
                     -EINVAL);
    assert_int_equal(t->s->n_frames, 0);
    let_react(t, &reaction);
    assert_int_equal(mqc_set_will(t->c, &(struct mqc_publication){.topic = "a"}), -ENOBUFS);
}

/* ---- Administration ---- */

static void administration_says_what_is_done_to_whom_and_how_many_there_were(void **state)
{
    struct test *t = *state;
    struct reaction reaction = {.count = 70000};

    let_react(t, &reaction);
    assert_int_equal(mqc_purge(t->c, "$dead/workers"), 70000);
    reaction.count = 0;
    assert_int_equal(mqc_requeue(t->c, "workers"), 0);
    reaction.count = 3;
    assert_int_equal(mqc_remove_group(t->c, "workers"), 3);
    reaction.count = 1;
    assert_int_equal(mqc_kick(t->c, "#12"), 1);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(frame(t, i)->frame.type, WIRE_ADMIN);
        assert_int_equal(frame(t, i)->frame.flags, WIRE_V_PURGE + i);
    }
    assert_string_equal(frame(t, 0)->frame.text, "$dead/workers");
    assert_string_equal(frame(t, 3)->frame.text, "#12");
}

static void administration_is_refused_with_a_sentence(void **state)
{
    struct test *t = *state;
    struct reaction reaction = {.code = WIRE_C_NO_GROUP, .count = 1};

    let_react(t, &reaction);
    assert_int_equal(mqc_purge(t->c, "workers"), -ENOENT);
    expect_sentence("workers: there is no such group");
    reaction.code = WIRE_C_NO_SESSION;
    assert_int_equal(mqc_kick(t->c, "pump"), -ESRCH);
    expect_sentence("pump: there is no such client");
    assert_int_equal(mqc_kick(t->c, ""), -EINVAL);
    assert_int_equal(mqc_kick(t->c, NULL), -EINVAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_join_says_what_is_wanted),
        TEST(a_group_is_joined_as_it_is_without_a_filter),
        TEST(leaving_names_the_group),
        TEST(what_no_group_is_called_is_not_sent),
        TEST(options_of_a_join_are_checked),
        cmocka_unit_test_setup_teardown(a_publish_only_handle_joins_nothing, setup_publish_only,
                                        teardown),
        TEST(refusals_have_an_error_and_a_sentence),
        TEST(a_group_that_is_full_is_told_by_the_confirm),
        TEST(a_message_of_a_group_owes_an_acknowledgement),
        TEST(decisions_reach_the_broker_by_the_name_of_the_delivery),
        TEST(what_is_freed_without_a_decision_is_not_acknowledged),
        TEST(every_acknowledgement_arrives_however_they_gather),
        TEST(goodbye_comes_after_the_acknowledgements),
        TEST(calls_that_wait_send_them_first),
        TEST(what_was_published_before_goes_first),
        TEST(unless_there_is_no_room_for_it),
        TEST(they_stay_until_there_is_room),
        TEST(P10_a_loop_of_the_callers_is_woken_to_send_them),
        TEST(P6_who_waits_for_room_acknowledges_meanwhile),
        TEST(an_expired_one_goes_back_and_is_not_reported),
        TEST(a_request_out_of_a_group_is_answered_by_its_name),
        TEST(a_will_arrives_as_it_was_given),
        TEST(a_will_is_taken_back),
        TEST(the_largest_will_fits_and_a_larger_one_does_not),
        TEST(wills_are_checked),
        TEST(administration_says_what_is_done_to_whom_and_how_many_there_were),
        TEST(administration_is_refused_with_a_sentence),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
