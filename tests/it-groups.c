/* Groups and wills, with real processes: each message is done by one member, and what is not done
 * comes back, whatever becomes of members and broker. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"
#include "tests/support/must.h"
#include "tests/support/patience.h"
#include "tests/support/tool.h"

/* Few and shallow queues: their memory is accounted per user, and other things run. */
static const char small[] = "max_clients = 6;\nqueue_depth = 4;\npool_max = \"4M\";\n";

static struct tool pub, sub, other;

static int setup(void **state)
{
    int r = daemon_setup(state);

    pub = sub = other = (struct tool){.in = -1, .out = -1, .err = -1};
    if (r == 0)
        setenv("MQBROKER_INSTANCE", ((struct daemon *)*state)->instance, 1);
    return r;
}

static int teardown(void **state)
{
    tool_discard(&pub);
    tool_discard(&sub);
    tool_discard(&other);
    actor_kill_all();
    return daemon_teardown(state);
}

/* ---- What clients do ---- */

/* Publish, and return when the broker has taken it. */
static void publish_at(struct mqc *client, const char *topic, const char *payload,
                       unsigned priority, uint64_t ttl_ms)
{
    must(job_try(client, &(struct mqc_publication){.topic = topic,
                                                   .payload = payload,
                                                   .size = strlen(payload),
                                                   .priority = priority,
                                                   .ttl_ms = ttl_ms}));
}

/* ---- One of them ---- */

/* Take what there is, without waiting; counts it in `came`, by its number. */
static unsigned work_off(struct mqc *client, unsigned *came)
{
    struct mqc_message m;
    unsigned number, n = 0;

    while (mqc_receive(client, &m, 0) == 0) {
        memcpy(&number, m.payload, sizeof(number));
        came[number]++;
        must(mqc_ack(client, &m));
        mqc_message_free(&m);
        n++;
    }
    return n;
}

static void each_message_goes_to_one_member_and_all_have_their_share(void **state)
{
    enum { MEMBERS = 3, MESSAGES = 3000 };
    struct daemon *d = *state;
    struct mqc *publisher, *members[MEMBERS];
    unsigned came[MESSAGES] = {0}, share[MEMBERS] = {0}, n = 0;

    daemon_start(d, small);
    for (unsigned i = 0; i < MEMBERS; i++)
        members[i] = job_member(d, NULL, NULL);
    publisher = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    for (unsigned i = 0; i < MESSAGES; i++)
        must(mqc_publish(publisher, "job/it", &i, sizeof(i), i % 32));
    for (uint64_t begun = patience_now(); n < MESSAGES; patience_spend(begun, "all messages"))
        for (unsigned i = 0; i < MEMBERS; i++) {
            unsigned some = work_off(members[i], came);

            share[i] += some;
            n += some;
        }
    for (unsigned i = 0; i < MESSAGES; i++)
        assert_int_equal(came[i], 1);
    for (unsigned i = 0; i < MEMBERS; i++) {
        assert_true(share[i] > 0);
        mqc_close(members[i]);
    }
    mqc_close(publisher);
}

static void L3_subscribers_and_other_groups_have_it_as_well(void **state)
{
    struct daemon *d = *state;
    struct mqc *one, *two;
    struct mqc_message m;
    unsigned owed = 0;

    daemon_start(d, small);
    one = job_member(d, NULL, NULL);
    two = daemon_open(d, NULL, 0);
    must(mqc_subscribe(two, "job/+", 0));
    must(mqc_join(two, "h", "#", NULL));
    job_publish(one, "x");
    job_expect_and_ack(one, "x", 1);
    for (int i = 0; i < 2; i++) {
        m = must_receive(two);
        must_say(&m, "x");
        owed += m.acknowledge != 0;
        mqc_message_free(&m);
    }
    assert_int_equal(owed, 1);
    mqc_close(one);
    mqc_close(two);
}

static void a_group_keeps_what_comes_while_nobody_is_in_it(void **state)
{
    struct daemon *d = *state;
    struct mqc *client, *publisher;

    daemon_start(d, small);
    publisher = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    client = job_member(d, NULL, NULL);
    must(mqc_leave(client, "g"));
    job_publish(publisher, "first");
    mqc_close(client);
    job_publish(publisher, "second");
    client = daemon_open(d, NULL, 0);
    must(mqc_join(client, "g", NULL, NULL)); /* as it is */
    job_expect_and_ack(client, "first", 1);
    job_expect_and_ack(client, "second", 1);
    mqc_close(client);
    mqc_close(publisher);
}

static void a_member_is_given_no_more_than_it_asked_for(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message first, second;

    daemon_start(d, small);
    client = job_member(d, "me", &(struct mqc_group_options){.prefetch = 2});
    for (char text[] = "1"; text[0] <= '4'; text[0]++)
        job_publish(client, text);
    first = job_expect(client, "1", 1);
    second = job_expect(client, "2", 1);
    must_hear_nothing(client, "me");
    must(mqc_ack(client, &second));
    job_expect(client, "3", 1);
    must_hear_nothing(client, "me");
    must(mqc_ack(client, &first));
    job_expect(client, "4", 1);
    mqc_close(client);
}

static void idle_members_are_dealt_one_each(void **state)
{
    struct daemon *d = *state;
    struct mqc *one, *two;
    struct mqc_message m;

    /* With places for all four in either queue: a member whose queue is full is not idle. */
    daemon_start(d, "max_clients = 4;\npool_max = \"4M\";\n");
    one = job_member(d, "one", NULL);
    two = job_member(d, "two", NULL);
    for (char text[] = "1"; text[0] <= '4'; text[0]++)
        job_publish(one, text);
    for (int i = 0; i < 2; i++) {
        m = must_receive(one);
        mqc_message_free(&m);
        m = must_receive(two);
        mqc_message_free(&m);
    }
    must_hear_nothing(one, "one");
    must_hear_nothing(two, "two");
    mqc_close(one);
    mqc_close(two);
}

static void P1_the_highest_priority_is_dealt_first(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    daemon_start(d, small);
    client = job_member(d, NULL, &(struct mqc_group_options){.prefetch = 1});
    job_publish(client, "first");
    m = job_expect(client, "first", 1);
    publish_at(client, "job/it", "low", 0, 0);
    publish_at(client, "job/it", "middle", 8, 0);
    publish_at(client, "job/it", "high", 31, 0);
    publish_at(client, "job/it", "middle too", 8, 0);
    must(mqc_ack(client, &m));
    job_expect_and_ack(client, "high", 1);
    job_expect_and_ack(client, "middle", 1);
    job_expect_and_ack(client, "middle too", 1);
    job_expect_and_ack(client, "low", 1);
    mqc_close(client);
}

/* ---- Not done ---- */

static void what_is_given_back_keeps_its_place(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    daemon_start(d, small);
    client = job_member(d, NULL, &(struct mqc_group_options){.prefetch = 1});
    job_publish(client, "first");
    job_publish(client, "second");
    m = job_expect(client, "first", 1);
    must(mqc_nack(client, &m, 0));
    job_expect_and_ack(client, "first", 2);
    job_expect_and_ack(client, "second", 1);
    mqc_close(client);
}

static void what_is_given_back_with_a_delay_lets_others_pass(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;
    uint64_t begun;

    daemon_start(d, small);
    client = job_member(d, NULL, &(struct mqc_group_options){.prefetch = 1});
    job_publish(client, "first");
    job_publish(client, "second");
    m = job_expect(client, "first", 1);
    begun = patience_now();
    must(mqc_nack(client, &m, 300));
    job_expect_and_ack(client, "second", 1);
    job_expect_and_ack(client, "first", 2);
    assert_true(patience_now() - begun >= 299);
    mqc_close(client);
}

static void what_is_not_acknowledged_in_time_comes_again(void **state)
{
    const struct mqc_group_options options = {.ack_timeout_ms = 200, .prefetch = 1};
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, small);
    client = job_member(d, "me", &options);
    job_publish(client, "x");
    job_expect(client, "x", 1);
    job_expect(client, "x", 2);
    job_expect_and_ack(client, "x", 3);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static void a_late_acknowledgement_of_what_is_anothers_does_nothing(void **state)
{
    struct daemon *d = *state;
    struct mqc *slow, *quick;
    struct mqc_message m;

    daemon_start(d, small);
    slow = job_member(d, "slow", NULL);
    quick = daemon_open(d, "quick", 0);
    job_publish(slow, "x");
    m = job_expect(slow, "x", 1);
    must(mqc_join(quick, "g", NULL, NULL));
    must(mqc_leave(slow, "g"));
    job_expect(quick, "x", 1);
    must(mqc_ack(slow, &m));
    must_hear_nothing(slow, "slow"); /* it has arrived */
    must(mqc_leave(quick, "g"));
    must(mqc_join(slow, "g", NULL, NULL));
    job_expect_and_ack(slow, "x", 1);
    mqc_close(slow);
    mqc_close(quick);
}

static void hold_three(struct actor *self, const void *context)
{
    struct mqc *client = actor_open(context, NULL, 0);

    ACTOR_REQUIRE(mqc_join(client, "g", "job/#", NULL) == 0);
    actor_tell(self, 0);
    for (int i = 0; i < 3; i++) {
        struct mqc_message m;

        ACTOR_REQUIRE(mqc_receive(client, &m, -1) == 0);
        mqc_message_free(&m);
    }
    actor_tell(self, 3);
    pause();
}

static void what_a_member_had_when_it_died_goes_to_others(void **state)
{
    struct daemon *d = *state;
    struct actor a;
    struct mqc *client = NULL;

    daemon_start(d, small);
    actor_start(&a, hold_three, d->instance);
    actor_hear(&a);
    client = daemon_open(d, NULL, 0);
    job_publish(client, "1");
    job_publish(client, "2");
    job_publish(client, "3");
    actor_hear(&a);
    must(mqc_join(client, "g", NULL, NULL));
    actor_kill(&a);
    job_expect_and_ack(client, "1", 2);
    job_expect_and_ack(client, "2", 2);
    job_expect_and_ack(client, "3", 2);
    mqc_close(client);
}

static void what_a_member_had_when_it_said_goodbye_was_not_tried(void **state)
{
    struct daemon *d = *state;
    struct mqc *client, *next;

    daemon_start(d, small);
    client = job_member(d, NULL, NULL);
    job_publish(client, "1");
    job_publish(client, "2");
    job_expect(client, "1", 1);
    mqc_close(client); /* the second has not even been handed out */
    next = daemon_open(d, NULL, 0);
    must(mqc_join(next, "g", NULL, NULL));
    job_expect_and_ack(next, "1", 1);
    job_expect_and_ack(next, "2", 1);
    mqc_close(next);
}

/* ---- Dead letters ---- */

static void what_comes_to_nothing_too_often_is_a_dead_letter(void **state)
{
    struct daemon *d = *state;
    struct mqc *client, *reader;
    struct mqc_message m;

    daemon_start(d, small);
    client = job_member(d, "me", &(struct mqc_group_options){.prefetch = 1, .delivery_limit = 2});
    job_publish(client, "poison");
    job_publish(client, "good");
    m = job_expect(client, "poison", 1);
    must(mqc_nack(client, &m, 0));
    m = job_expect(client, "poison", 2);
    must(mqc_nack(client, &m, 0));
    job_expect_and_ack(client, "good", 1);
    must_hear_nothing(client, "me");

    reader = daemon_open(d, "reader", 0);
    must(mqc_join(reader, "$dead/g", NULL, NULL));
    m = must_receive(reader);
    must_say(&m, "poison");
    assert_string_equal(m.topic, "job/it");
    assert_int_equal(m.acknowledge, 1);
    must(mqc_ack(reader, &m));
    mqc_message_free(&m);
    must_hear_nothing(reader, "reader");
    mqc_close(client);
    mqc_close(reader);
}

static void what_is_rejected_is_a_dead_letter_at_once_and_can_be_given_back(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    daemon_start(d, small);
    client = job_member(d, "me", NULL);
    job_publish(client, "x");
    m = job_expect(client, "x", 1);
    must(mqc_reject(client, &m));
    must_hear_nothing(client, "me");
    assert_int_equal(mqc_requeue(client, "g"), 1);
    job_expect_and_ack(client, "x", 1);
    assert_int_equal(mqc_requeue(client, "g"), 0);
    mqc_close(client);
}

static void what_expires_in_a_group_goes_or_becomes_a_dead_letter(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, small);
    client = daemon_open(d, "me", 0);
    must(mqc_join(client, "g", "job/#", NULL));
    must(mqc_join(client, "h", "job/#", &(struct mqc_group_options){.flags = MQC_DEAD_EXPIRED}));
    must(mqc_leave(client, "g"));
    must(mqc_leave(client, "h"));
    publish_at(client, "job/it", "x", 8, 100);
    must(mqc_join(client, "$dead/h", NULL, NULL));
    job_expect_and_ack(client, "x", 1);
    must(mqc_join(client, "g", NULL, NULL));
    must(mqc_join(client, "h", NULL, NULL));
    must_hear_nothing(client, "me");
    assert_int_equal(mqc_purge(client, "g"), 0);
    assert_int_equal(mqc_purge(client, "$dead/g"), 0);
    mqc_close(client);
}

static void purging_leaves_what_members_have(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    daemon_start(d, small);
    client = job_member(d, "me", &(struct mqc_group_options){.prefetch = 1});
    job_publish(client, "1");
    job_publish(client, "2");
    job_publish(client, "3");
    m = job_expect(client, "1", 1);
    assert_int_equal(mqc_purge(client, "g"), 2);
    must(mqc_nack(client, &m, 0));
    job_expect_and_ack(client, "1", 2);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static void a_group_that_is_removed_is_no_more(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    daemon_start(d, small);
    client = job_member(d, "me", &(struct mqc_group_options){.prefetch = 1});
    job_publish(client, "1");
    job_publish(client, "2");
    m = job_expect(client, "1", 1);
    assert_int_equal(mqc_remove_group(client, "g"), 2);
    assert_int_equal(mqc_remove_group(client, "g"), -ENOENT);
    must(mqc_nack(client, &m, 0));
    assert_int_equal(mqc_join(client, "g", NULL, NULL), -ENOENT);
    job_publish(client, "3");
    must_hear_nothing(client, "me");
    mqc_close(client);
}

/* ---- Settings ---- */

static void a_group_has_the_settings_of_its_first_member(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, small);
    client = job_member(d, NULL, &(struct mqc_group_options){.delivery_limit = 3});
    assert_int_equal(
        mqc_join(client, "g", "job/#", &(struct mqc_group_options){.delivery_limit = 4}), -EEXIST);
    must(mqc_join(client, "g", "job/#", &(struct mqc_group_options){.delivery_limit = 3}));
    must(mqc_join(client, "g", "another/#", &(struct mqc_group_options){.delivery_limit = 3}));
    publish_at(client, "another/one", "x", 8, 0);
    job_expect_and_ack(client, "x", 1);
    assert_int_equal(mqc_join(client, "none", NULL, NULL), -ENOENT);
    assert_int_equal(mqc_leave(client, "none"), -ENOENT);
    assert_int_equal(
        mqc_join(client, "disk", "a", &(struct mqc_group_options){.flags = MQC_DURABLE}),
        -EOPNOTSUPP);
    mqc_close(client);
}

/* ---- Requests, large ones ---- */

static void ask_the_group(struct actor *self, const void *context)
{
    const struct mqc_publication question = {
        .topic = "job/ask", .payload = "?", .size = 1, .priority = 8};
    struct mqc *client = actor_open(context, NULL, 0);
    struct mqc_message reply;

    (void)self;
    ACTOR_REQUIRE(mqc_request(client, &question, &reply, PATIENCE_MS) == 0);
    ACTOR_REQUIRE(reply.size == 1 && *(const char *)reply.payload == '!');
    mqc_message_free(&reply);
    mqc_close(client);
}

static void a_reply_answers_the_request_and_acknowledges_it(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;
    struct actor a;

    daemon_start(d, small);
    client = job_member(d, "me", &(struct mqc_group_options){.prefetch = 1});
    actor_start(&a, ask_the_group, d->instance);
    m = must_receive(client);
    assert_int_equal(m.flags, MQC_M_REQUEST);
    assert_int_equal(m.acknowledge, 1);
    must(mqc_reply(client, &m, "!", 1));
    mqc_message_free(&m);
    actor_join(&a);
    job_publish(client, "next"); /* with a prefetch of 1 it comes only if the request is done */
    job_expect_and_ack(client, "next", 1);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static void a_large_message_comes_back_as_it_was(void **state)
{
    static char payload[300000];
    const struct mqc_publication p = {
        .topic = "job/large", .payload = payload, .size = sizeof(payload), .priority = 8};
    struct daemon *d = *state;
    struct mqc *client, *publisher;

    daemon_start(d, small);
    client = job_member(d, NULL, NULL);
    publisher = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    for (int round = 0; round < 40; round++) { /* more than its pool can hold at a time */
        struct mqc_message m;

        memset(payload, round, sizeof(payload));
        must(mqc_publish_with(publisher, &p));
        for (unsigned attempt = 1; attempt <= 2; attempt++) {
            m = must_receive(client);
            assert_int_equal(m.attempt, attempt);
            assert_int_equal(m.size, sizeof(payload));
            assert_memory_equal(m.payload, payload, sizeof(payload));
            must(attempt == 1 ? mqc_nack(client, &m, 0) : mqc_ack(client, &m));
            mqc_message_free(&m);
        }
    }
    mqc_close(client);
    mqc_close(publisher);
}

/* ---- The broker dies ---- */

static void K3_a_killed_broker_forgets_and_repeats_nothing(void **state)
{
    enum { MESSAGES = 2000 };
    struct daemon *d = *state;
    struct mqc *members[2], *publisher;
    unsigned came[MESSAGES] = {0}, n = 0;

    daemon_start(d, small);
    members[0] = job_member(d, NULL, NULL);
    members[1] = job_member(d, NULL, NULL);
    publisher = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    for (unsigned i = 0; i < MESSAGES; i++) {
        if (i % 250 == 125) {
            daemon_kill(d);
            daemon_restart(d);
        }
        must(mqc_publish(publisher, "job/it", &i, sizeof(i), i % 32));
        if (i % 100 == 50)
            n += work_off(members[i / 100 % 2], came);
    }
    for (uint64_t begun = patience_now(); n < MESSAGES; patience_spend(begun, "all messages"))
        n += work_off(members[0], came) + work_off(members[1], came);
    for (unsigned i = 0; i < MESSAGES; i++)
        assert_int_equal(came[i], 1);
    mqc_close(members[0]);
    mqc_close(members[1]);
    mqc_close(publisher);
}

static void a_decision_that_a_killed_broker_had_not_read_holds(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message one, two;

    daemon_start(d, small);
    client = job_member(d, "me", NULL);
    job_publish(client, "1");
    job_publish(client, "2");
    one = job_expect(client, "1", 1);
    two = job_expect(client, "2", 1);
    daemon_pause(d);
    must(mqc_ack(client, &one));
    must(mqc_nack(client, &two, 0));
    must(mqc_flush(client));
    daemon_kill(d);
    daemon_restart(d);
    job_expect_and_ack(client, "2", 2);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

/* ---- Wills ---- */

struct testator {
    const char *instance;
    const char *name;
    const char *first; /* wills in their order; "": none any more; NULL: no further one */
    const char *second;
    bool goodbye;
};

static void leave_a_will(struct mqc *client, const char *payload)
{
    const struct mqc_publication will = {.topic = payload[0] != '\0' ? "gone" : NULL,
                                         .payload = payload,
                                         .size = strlen(payload),
                                         .priority = 24,
                                         .flags = MQC_RETAIN};

    ACTOR_REQUIRE(mqc_set_will(client, &will) == 0);
}

static void live(struct actor *self, const void *context)
{
    const struct testator *t = context;
    struct mqc *client = actor_open(t->instance, t->name, 0);
    struct mqc_message m;

    leave_a_will(client, t->first);
    if (t->second != NULL)
        leave_a_will(client, t->second);
    actor_tell(self, 0);
    if (t->goodbye)
        mqc_close(client);
    else
        mqc_receive(client, &m, -1); /* until the session ends */
    actor_tell(self, 1);
    pause();
}

static void begin_life(struct actor *a, const struct testator *t)
{
    actor_start(a, live, t);
    actor_hear(a);
}

static void a_will_is_published_when_its_client_dies(void **state)
{
    struct daemon *d = *state;
    const struct testator t = {.instance = d->instance, .first = "first", .second = "last"};
    struct mqc *heir;
    struct mqc_message m;
    struct actor a;

    daemon_start(d, small);
    heir = daemon_open(d, "heir", 0);
    must(mqc_subscribe(heir, "gone", 0));
    begin_life(&a, &t);
    actor_kill(&a);
    m = must_receive(heir);
    must_say(&m, "last");
    assert_int_equal(m.priority, 24);
    mqc_message_free(&m);
    must_hear_nothing(heir, "heir");
    must(mqc_subscribe(heir, "gone", 0)); /* it was kept */
    m = must_receive(heir);
    must_say(&m, "last");
    assert_int_equal(m.flags, MQC_M_RETAINED);
    mqc_message_free(&m);
    mqc_close(heir);
}

static void a_will_is_not_published_after_a_goodbye_or_when_it_was_taken_back(void **state)
{
    struct daemon *d = *state;
    const struct testator leaver = {.instance = d->instance, .first = "x", .goodbye = true};
    const struct testator changed = {.instance = d->instance, .first = "x", .second = ""};
    struct mqc *heir;
    struct actor a, b;

    daemon_start(d, small);
    heir = daemon_open(d, "heir", 0);
    must(mqc_subscribe(heir, "gone", 0));
    begin_life(&a, &leaver);
    actor_hear(&a);
    actor_kill(&a);
    begin_life(&b, &changed);
    actor_kill(&b);
    PATIENCE_UNTIL(daemon_rows(d) == 1);
    must_hear_nothing(heir, "heir");
    mqc_close(heir);
}

static void who_is_kicked_hears_it_and_so_do_the_heirs(void **state)
{
    struct daemon *d = *state;
    const struct testator t = {.instance = d->instance, .name = "victim", .first = "kicked"};
    struct mqc *heir;
    struct actor a;

    daemon_start(d, small);
    heir = daemon_open(d, NULL, 0);
    must(mqc_subscribe(heir, "gone", 0));
    begin_life(&a, &t);
    assert_int_equal(mqc_kick(heir, "victim"), 1);
    must_hear(heir, "kicked");
    actor_hear(&a);
    assert_int_equal(mqc_kick(heir, "nobody"), -ESRCH);
    assert_int_equal(mqc_kick(heir, "#4000"), -ESRCH);
    actor_kill(&a);
    mqc_close(heir);
}

static void a_will_survives_the_broker(void **state)
{
    struct daemon *d = *state;
    const struct testator t = {.instance = d->instance, .first = "after all"};
    struct mqc *heir;
    struct actor a;

    daemon_start(d, small);
    heir = daemon_open(d, "heir", 0);
    must(mqc_subscribe(heir, "gone", 0));
    begin_life(&a, &t);
    daemon_kill(d);
    actor_kill(&a);
    daemon_restart(d);
    must_hear(heir, "after all");
    must_hear_nothing(heir, "heir");
    mqc_close(heir);
}

/* ---- The tools ---- */

/* Run mqpub to its end. */
#define PUBLISH(...) (TOOL(&pub, "mqpub", __VA_ARGS__), assert_int_equal(tool_wait(&pub), 0))

static void mqsub_writes_then_acknowledges(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, small);
    client = job_member(d, "me", NULL);
    must(mqc_leave(client, "g"));
    PUBLISH("-t", "job/a", "-m", "one", "--confirm");
    PUBLISH("-t", "job/b", "-m", "two", "--confirm");
    PUBLISH("-t", "job/c", "-m", "three", "--confirm");
    TOOL(&sub, "mqsub", "-g", "g", "-C", "2", "-F", "%t %p %A");
    assert_int_equal(tool_wait(&sub), 0);
    assert_string_equal(sub.text, "job/a one 1\njob/b two 1\n");
    must(mqc_join(client, "g", NULL, NULL));
    job_expect_and_ack(client, "three", 1); /* it was given it, but did not write it */
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static void mqsub_does_not_acknowledge_what_it_could_not_write(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    int status;

    daemon_start(d, small);
    client = job_member(d, NULL, NULL);
    must(mqc_leave(client, "g"));
    job_publish(client, "x");
    status = system(MQB_BIN_DIR "/mqsub -g g -C 1 >/dev/full 2>&1");
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    must(mqc_join(client, "g", NULL, NULL));
    job_expect_and_ack(client, "x", 1);
    mqc_close(client);
}

static void mqsub_does_what_the_exit_status_says(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, small);
    client = daemon_open(d, "me", 0);
    TOOL(&sub, "mqsub", "-g", "g", "-t", "job", "--retry-delay", "1ms", "--delivery-limit", "3",
         "--exec", "read s; echo $s $MQ_ATTEMPT; exit $s");
    PATIENCE_UNTIL(mqc_join(client, "g", NULL, NULL) == 0);
    must(mqc_leave(client, "g"));
    PUBLISH("-t", "job", "-m", "0");
    PUBLISH("-t", "job", "-m", "65");
    PUBLISH("-t", "job", "-m", "75");
    PATIENCE_UNTIL(strcmp(tool_out(&sub), "0 1\n65 1\n75 1\n75 2\n75 3\n") == 0);
    PATIENCE_UNTIL(strstr(tool_err(&sub), "exited with 65; rejected\n") != NULL);
    assert_null(strstr(tool_err(&sub), "exited with 75"));
    PUBLISH("-t", "job", "-m", "7");
    PATIENCE_UNTIL(strstr(tool_out(&sub), "7 1\n7 2\n7 3\n") != NULL);
    PATIENCE_UNTIL(strstr(tool_err(&sub), "exited with 7; it comes again\n") != NULL);
    must(mqc_join(client, "$dead/g", NULL, NULL));
    must_hear(client, "65");
    must_hear(client, "75");
    must_hear(client, "7");
    tool_signal(&sub, SIGTERM);
    assert_int_equal(tool_wait(&sub), 1);
    mqc_close(client);
}

static void mqsub_waits_for_its_command_before_it_leaves(void **state)
{
    struct daemon *d = *state;
    char begun[] = "/tmp/it-groups-XXXXXX";
    struct mqc *client;
    char command[128];
    int fd = mkstemp(begun);

    assert_true(fd >= 0);
    daemon_start(d, small);
    client = job_member(d, "me", NULL);
    must(mqc_leave(client, "g"));
    /* It goes on when the file is gone. */
    snprintf(command, sizeof(command),
             "echo begun; while [ -e %s ]; do sleep 0.01; done; echo done", begun);
    PUBLISH("-t", "job/a", "-m", "x");
    PUBLISH("-t", "job/a", "-m", "y");
    TOOL(&sub, "mqsub", "-g", "g", "--exec", command);
    PATIENCE_UNTIL(strcmp(tool_out(&sub), "begun\n") == 0);
    tool_signal(&sub, SIGTERM);
    assert_string_equal(tool_out(&sub), "begun\n");
    unlink(begun);
    close(fd);
    assert_int_equal(tool_wait(&sub), 0);
    assert_string_equal(sub.text, "begun\ndone\n");
    must(mqc_join(client, "g", NULL, NULL));
    job_expect_and_ack(client, "y", 1);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static void mqpub_and_mqsub_leave_wills(void **state)
{
    struct daemon *d = *state;
    struct mqc *heir;
    struct mqc_message m;

    daemon_start(d, small);
    heir = daemon_open(d, "heir", 0);
    must(mqc_subscribe(heir, "gone/#", 0));
    TOOL(&pub, "mqpub", "-t", "gone/alive", "-l", "--will-topic", "gone/pub", "--will-payload",
         "bye", "--will-priority", "31");
    tool_feed(&pub, "here\n", 5);
    must_hear(heir, "here");
    tool_signal(&pub, SIGKILL);
    assert_int_equal(tool_wait(&pub), -SIGKILL);
    m = must_receive(heir);
    assert_string_equal(m.topic, "gone/pub");
    must_say(&m, "bye");
    assert_int_equal(m.priority, 31);
    mqc_message_free(&m);

    TOOL(&sub, "mqsub", "-i", "sub", "--will-topic", "gone/sub", "--will-retain");
    PATIENCE_UNTIL(daemon_rows(d) == 2);
    must(mqc_publish(heir, "@sub", "hi", 2, 8));
    PATIENCE_UNTIL(strcmp(tool_out(&sub), "hi\n") == 0);
    tool_signal(&sub, SIGTERM);
    assert_int_equal(tool_wait(&sub), 0);
    PATIENCE_UNTIL(daemon_rows(d) == 1);
    must_hear_nothing(heir, "heir");
    mqc_close(heir);
}

static void wrong_usage_of_groups_and_wills_exits_2(void **state)
{
    static const char *const wrong[][9] = {
        {"mqsub", "-t", "a", "--durable"},
        {"mqsub", "-t", "a", "--prefetch", "3"},
        {"mqsub", "-g", "a", "-g", "b"},
        {"mqsub", "-g", "a", "-t", "b", "-R"},
        {"mqsub", "-g", "a", "--prefetch", "0"},
        {"mqsub", "-g", "a", "--delivery-limit", "256"},
        {"mqsub", "-g", "a", "--ack-timeout", "0"},
        {"mqsub", "-t", "a", "--will-payload", "x"},
        {"mqpub", "-t", "a", "-n", "--will-retain"},
        {"mqpub", "-t", "a", "-n", "--will-topic", "a", "--will-priority", "32"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        tool_start(&other, TOOL_FILE, wrong[i]);
        if (tool_wait(&other) != 2 || strstr(other.errors, "\nTry '") == NULL)
            fail_msg("%s %s %s %s: %s", wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3],
                     other.errors);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(each_message_goes_to_one_member_and_all_have_their_share),
        TEST(L3_subscribers_and_other_groups_have_it_as_well),
        TEST(a_group_keeps_what_comes_while_nobody_is_in_it),
        TEST(a_member_is_given_no_more_than_it_asked_for),
        TEST(idle_members_are_dealt_one_each),
        TEST(P1_the_highest_priority_is_dealt_first),
        TEST(what_is_given_back_keeps_its_place),
        TEST(what_is_given_back_with_a_delay_lets_others_pass),
        TEST(what_is_not_acknowledged_in_time_comes_again),
        TEST(a_late_acknowledgement_of_what_is_anothers_does_nothing),
        TEST(what_a_member_had_when_it_died_goes_to_others),
        TEST(what_a_member_had_when_it_said_goodbye_was_not_tried),
        TEST(what_comes_to_nothing_too_often_is_a_dead_letter),
        TEST(what_is_rejected_is_a_dead_letter_at_once_and_can_be_given_back),
        TEST(what_expires_in_a_group_goes_or_becomes_a_dead_letter),
        TEST(purging_leaves_what_members_have),
        TEST(a_group_that_is_removed_is_no_more),
        TEST(a_group_has_the_settings_of_its_first_member),
        TEST(a_reply_answers_the_request_and_acknowledges_it),
        TEST(a_large_message_comes_back_as_it_was),
        TEST(K3_a_killed_broker_forgets_and_repeats_nothing),
        TEST(a_decision_that_a_killed_broker_had_not_read_holds),
        TEST(a_will_is_published_when_its_client_dies),
        TEST(a_will_is_not_published_after_a_goodbye_or_when_it_was_taken_back),
        TEST(who_is_kicked_hears_it_and_so_do_the_heirs),
        TEST(a_will_survives_the_broker),
        TEST(mqsub_writes_then_acknowledges),
        TEST(mqsub_does_not_acknowledge_what_it_could_not_write),
        TEST(mqsub_does_what_the_exit_status_says),
        TEST(mqsub_waits_for_its_command_before_it_leaves),
        TEST(mqpub_and_mqsub_leave_wills),
        TEST(wrong_usage_of_groups_and_wills_exits_2),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
