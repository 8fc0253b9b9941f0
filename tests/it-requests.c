/* Request and reply (L2): a request has one answer, whatever becomes of those who could give it:
 * the first reply, or at once the news that nobody is there or that the server has died, or that
 * time has run out. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"

enum { LONG_MS = 30000 };

struct part {
    const char *instance;
    const char *name;
    const char *topic;
    const char *answer; /* NULL: what it was asked */
    bool holds;         /* a request until it is told to answer */
};

/* An actor: answers requests. One that holds says when it has one, and answers when it is told to;
 * it says what that call returned. */
static void serve(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, part->name, 0);

    if (part->topic != NULL)
        ACTOR_REQUIRE(mqc_subscribe(client, part->topic, 0) == 0);
    actor_tell(self, 0);
    for (;;) {
        struct mqc_message request;
        int r;

        ACTOR_REQUIRE(mqc_receive(client, &request, -1) == 0);
        ACTOR_REQUIRE((request.flags & MQC_M_REQUEST) != 0);
        if (part->holds) {
            actor_tell(self, 1);
            actor_hear(self);
        }
        r = part->answer != NULL ? mqc_reply(client, &request, part->answer, strlen(part->answer))
                                 : mqc_reply(client, &request, request.payload, request.size);
        ACTOR_REQUIRE(r == 0);
        if (part->holds)
            actor_tell(self, 2);
        mqc_message_free(&request);
    }
}

static void start_server(struct actor *a, const struct part *part)
{
    actor_start(a, serve, part);
    actor_hear(a);
}

static int ask(struct mqc *client, const char *topic, const char *question,
               struct mqc_message *reply, int timeout_ms)
{
    const struct mqc_publication request = {
        .topic = topic, .payload = question, .size = strlen(question), .priority = 8};

    return mqc_request(client, &request, reply, timeout_ms);
}

static int64_t send_question(struct mqc *client, const char *topic, int timeout_ms)
{
    const struct mqc_publication request = {
        .topic = topic, .payload = "?", .size = 1, .priority = 8};
    int64_t number = mqc_request_send(client, &request, timeout_ms);

    if (number <= 0)
        fail_msg("%s", mqc_last_error());
    return number;
}

/* What comes of a question that was sent: 0 and the answer, or why there is none. */
static int await_answer(struct mqc *client, int64_t number, const char *answer)
{
    struct mqc_message message;
    int r;

    if (mqc_receive(client, &message, PATIENCE_MS) < 0)
        fail_msg("%s", mqc_last_error());
    assert_true((message.flags & (MQC_M_REPLY | MQC_M_FAILED)) != 0);
    assert_int_equal(message.number, number);
    r = message.flags & MQC_M_FAILED ? message.error : 0;
    if (r == 0) {
        assert_int_equal(message.size, strlen(answer));
        assert_memory_equal(message.payload, answer, message.size);
    }
    mqc_message_free(&message);
    return r;
}

static uint64_t strays(const struct daemon *d)
{
    return board_get(&daemon_board(d)->refusals.stray);
}

/* ---- Answered ---- */

static void a_request_is_answered_at_its_priority(void **state)
{
    struct daemon *d = *state;
    const struct part part = {.instance = d->instance, .topic = "ask/+"};
    struct actor server;
    struct mqc *client;

    daemon_start(d, NULL);
    start_server(&server, &part);
    client = daemon_open(d, NULL, 0);
    for (unsigned i = 0; i < 2000; i++) {
        const struct mqc_publication request = {
            .topic = "ask/it", .payload = &i, .size = sizeof(i), .priority = i % 32};
        struct mqc_message reply;

        if (mqc_request(client, &request, &reply, LONG_MS) < 0)
            fail_msg("request %u: %s", i, mqc_last_error());
        assert_int_equal(reply.size, sizeof(i));
        assert_memory_equal(reply.payload, &i, sizeof(i));
        assert_int_equal(reply.priority, i % 32);
        assert_true((reply.flags & MQC_M_REPLY) != 0);
        mqc_message_free(&reply);
    }
    assert_int_equal(strays(d), 0);
    mqc_close(client);
}

static void a_direct_topic_asks_one_client_by_name(void **state)
{
    struct daemon *d = *state;
    const struct part part = {.instance = d->instance, .name = "oracle", .answer = "42"};
    struct actor server;
    struct mqc_message reply;
    struct mqc *client;

    daemon_start(d, NULL);
    start_server(&server, &part);
    client = daemon_open(d, NULL, 0);
    assert_int_equal(ask(client, "@oracle", "?", &reply, LONG_MS), 0);
    assert_int_equal(reply.size, 2);
    assert_memory_equal(reply.payload, "42", 2);
    mqc_message_free(&reply);
    assert_int_equal(ask(client, "@nobody", "?", &reply, LONG_MS), -ENOENT);
    mqc_close(client);
}

static void many_may_be_open_at_once(void **state)
{
    enum { OPEN = 1000 };
    struct daemon *d = *state;
    const struct part part = {.instance = d->instance, .topic = "ask", .answer = "yes"};
    struct actor server;
    struct mqc *client;
    int64_t first;

    daemon_start(d, NULL);
    start_server(&server, &part);
    client = daemon_open(d, NULL, 0);
    first = send_question(client, "ask", LONG_MS);
    for (int64_t i = 1; i < OPEN; i++)
        assert_int_equal(send_question(client, "ask", LONG_MS), first + i);
    for (int64_t i = 0; i < OPEN; i++)
        assert_int_equal(await_answer(client, first + i, "yes"), 0);
    mqc_close(client);
}

static void L2_of_several_answers_the_first_wins(void **state)
{
    struct daemon *d = *state;
    struct part part = {.instance = d->instance, .topic = "ask", .holds = true};
    struct actor servers[2];
    struct mqc *client;
    int64_t number;

    daemon_start(d, NULL);
    part.answer = "first";
    start_server(&servers[0], &part);
    part.answer = "second";
    start_server(&servers[1], &part);
    client = daemon_open(d, NULL, 0);
    number = send_question(client, "ask", LONG_MS);
    assert_int_equal(actor_hear(&servers[0]), 1);
    assert_int_equal(actor_hear(&servers[1]), 1);
    actor_tell(&servers[1], 0);
    assert_int_equal(await_answer(client, number, "second"), 0);
    actor_tell(&servers[0], 0);
    assert_int_equal(actor_hear(&servers[0]), 2); /* it is not its fault */
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) == 3);
    PATIENCE_UNTIL(daemon_board(d)->asleep);
    assert_int_equal(mqc_receive(client, &(struct mqc_message){0}, 0), -EAGAIN);
    mqc_close(client);
}

/* ---- Not answered ---- */

static void nobody_there_is_said_at_once(void **state)
{
    struct daemon *d = *state;
    struct mqc_message reply;
    struct mqc *client;
    int64_t number;

    daemon_start(d, NULL);
    client = daemon_open(d, NULL, 0);
    assert_int_equal(ask(client, "ask", "?", &reply, LONG_MS), -ENOENT);
    assert_non_null(strstr(mqc_last_error(), "nobody subscribes"));
    number = send_question(client, "ask", LONG_MS);
    assert_int_equal(await_answer(client, number, NULL), -ENOENT);
    mqc_close(client);
}

static void a_server_that_is_killed_with_the_request_is_said_at_once(void **state)
{
    struct daemon *d = *state;
    const struct part part = {.instance = d->instance, .topic = "ask", .holds = true};
    struct actor server;
    struct mqc *client;
    int64_t held, standing;

    daemon_start(d, NULL);
    start_server(&server, &part);
    client = daemon_open(d, NULL, 0);
    held = send_question(client, "ask", LONG_MS);
    actor_hear(&server);
    standing = send_question(client, "ask", LONG_MS); /* in its reply queue, not read */
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) == 2);
    actor_kill(&server);
    assert_int_equal(await_answer(client, held, NULL), -ECONNRESET);
    assert_int_equal(await_answer(client, standing, NULL), -ECONNRESET);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->references_used) == 0);
    mqc_close(client);
}

static void one_server_that_dies_leaves_the_answer_to_the_other(void **state)
{
    struct daemon *d = *state;
    struct part part = {.instance = d->instance, .topic = "ask", .holds = true, .answer = "here"};
    struct actor servers[2];
    struct mqc *client;
    int64_t number;

    daemon_start(d, NULL);
    start_server(&servers[0], &part);
    start_server(&servers[1], &part);
    client = daemon_open(d, NULL, 0);
    number = send_question(client, "ask", LONG_MS);
    actor_hear(&servers[0]);
    actor_hear(&servers[1]);
    actor_kill(&servers[0]);
    PATIENCE_UNTIL(daemon_rows(d) == 2);
    assert_int_equal(mqc_receive(client, &(struct mqc_message){0}, 0), -EAGAIN);
    actor_tell(&servers[1], 0);
    assert_int_equal(await_answer(client, number, "here"), 0);
    mqc_close(client);
}

static void time_that_runs_out_is_said_and_a_late_answer_goes_nowhere(void **state)
{
    struct daemon *d = *state;
    const struct part part = {.instance = d->instance, .topic = "ask", .holds = true};
    struct actor server;
    struct mqc_message reply;
    struct mqc *client;
    int64_t number;

    daemon_start(d, NULL);
    start_server(&server, &part);
    client = daemon_open(d, NULL, 0);
    assert_int_equal(ask(client, "ask", "?", &reply, 50), -ETIMEDOUT);
    actor_hear(&server);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->references_used) <= 1); /* the subscription */
    actor_tell(&server, 0);
    assert_int_equal(actor_hear(&server), 2);
    PATIENCE_UNTIL(strays(d) == 1);
    assert_int_equal(mqc_receive(client, &reply, 0), -EAGAIN);

    number = send_question(client, "ask", 50);
    assert_int_equal(await_answer(client, number, NULL), -ETIMEDOUT);
    mqc_close(client);
}

static void an_answer_to_the_dead_is_counted_and_disturbs_nobody(void **state)
{
    struct daemon *d = *state;
    const struct part part = {.instance = d->instance, .topic = "ask", .holds = true};
    struct actor server;
    struct mqc *client, *next;
    int64_t number;

    daemon_start(d, NULL);
    start_server(&server, &part);
    client = daemon_open(d, NULL, 0);
    send_question(client, "ask", LONG_MS);
    actor_hear(&server);
    mqc_close(client);
    PATIENCE_UNTIL(daemon_rows(d) == 1);
    next = daemon_open(d, NULL, 0); /* the heir of its row must not get the answer */
    actor_tell(&server, 0);
    assert_int_equal(actor_hear(&server), 2);
    PATIENCE_UNTIL(strays(d) == 1);
    assert_int_equal(mqc_receive(next, &(struct mqc_message){0}, 0), -EAGAIN);

    number = send_question(next, "ask", LONG_MS);
    actor_hear(&server);
    actor_tell(&server, 0);
    assert_int_equal(await_answer(next, number, "?"), 0);
    mqc_close(next);
}

static void a_request_needs_a_timeout_and_a_reply_a_request(void **state)
{
    struct daemon *d = *state;
    struct mqc_message message;
    struct mqc *client;

    daemon_start(d, NULL);
    client = daemon_open(d, NULL, 0);
    assert_int_equal(ask(client, "ask", "?", &message, 0), -EINVAL);
    assert_int_equal(mqc_subscribe(client, "t", 0), 0);
    assert_int_equal(mqc_publish(client, "t", "x", 1, 8), 0);
    assert_int_equal(mqc_receive(client, &message, PATIENCE_MS), 0);
    assert_int_equal(mqc_reply(client, &message, "y", 1), -EINVAL);
    mqc_message_free(&message);
    mqc_close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(a_request_is_answered_at_its_priority),
        DAEMON_TEST(a_direct_topic_asks_one_client_by_name),
        DAEMON_TEST(many_may_be_open_at_once),
        DAEMON_TEST(L2_of_several_answers_the_first_wins),
        DAEMON_TEST(nobody_there_is_said_at_once),
        DAEMON_TEST(a_server_that_is_killed_with_the_request_is_said_at_once),
        DAEMON_TEST(one_server_that_dies_leaves_the_answer_to_the_other),
        DAEMON_TEST(time_that_runs_out_is_said_and_a_late_answer_goes_nowhere),
        DAEMON_TEST(an_answer_to_the_dead_is_counted_and_disturbs_nobody),
        DAEMON_TEST(a_request_needs_a_timeout_and_a_reply_a_request),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
