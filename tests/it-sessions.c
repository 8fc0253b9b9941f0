/* Sessions come and go, however they go: what they get of the kernel's queue memory, what those are
 * told who get nothing, and that nothing stays of them. */
#include <errno.h>
#include <fcntl.h>
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

#include "libclient/queue.h"
#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/program.h"

enum {
    CLIENTS = 32,
    DEPTH = 10,
    SHARE = 2160, /* the width that each of them gets */
    NARROWEST = 464,
    REQUEST_QUEUES = DEPTH * (8192 + 96) + DEPTH * (1280 + 96),
    NARROWEST_QUEUE = DEPTH * (NARROWEST + 96),
    PAYLOAD = 1100, /* nearly fills a frame */
};

/* What an actor is told to do. */
enum command {
    RECEIVE = 1, /* one message; it says the size of its payload */
    PUBLISH_TO_ALL,
    DROP_DEAD, /* exit without a word */
    CLOSE,
};

struct part {
    const char *instance;
    const char *name;
    unsigned flags;
    unsigned number;
};

static void publish_to_all(struct mqc *client)
{
    static char payload[PAYLOAD];
    char topic[8];

    memset(payload, 'x', sizeof(payload));
    for (unsigned i = 0; i < CLIENTS; i++) {
        snprintf(topic, sizeof(topic), "all/%02u", i);
        ACTOR_REQUIRE(mqc_publish(client, topic, payload, sizeof(payload), 8) == 0);
    }
}

/* An actor: a client that does as it is told. */
static void be_client(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, part->name, part->flags);
    char topic[8];

    snprintf(topic, sizeof(topic), "all/%02u", part->number);
    if ((part->flags & MQC_PUBLISH_ONLY) == 0)
        ACTOR_REQUIRE(mqc_subscribe(client, topic, 0) == 0);
    actor_tell(self, 0);
    for (;;) {
        struct mqc_message message;

        switch (actor_hear(self)) {
        case RECEIVE:
            ACTOR_REQUIRE(mqc_receive(client, &message, PATIENCE_MS) == 0);
            ACTOR_REQUIRE(strcmp(message.topic, topic) == 0);
            actor_tell(self, message.size);
            mqc_message_free(&message);
            break;
        case PUBLISH_TO_ALL:
            publish_to_all(client);
            actor_tell(self, 0);
            break;
        case DROP_DEAD:
            _exit(EXIT_SUCCESS);
        default:
            mqc_close(client);
            return;
        }
    }
}

/* One after the other: they get the rows in this order. */
static void start_clients(const struct daemon *d, struct actor *actors, unsigned n)
{
    struct part part = {.instance = d->instance};

    for (part.number = 0; part.number < n; part.number++) {
        actor_start(&actors[part.number], be_client, &part);
        actor_hear(&actors[part.number]);
    }
}

static unsigned tell_and_hear(const struct actor *a, enum command command)
{
    actor_tell(a, command);
    return (unsigned)actor_hear(a);
}

/* The reply queue of a row, as the kernel has it: its width. */
static uint32_t width_of(const struct daemon *d, uint32_t row)
{
    struct board_client_info info;
    struct queue q = QUEUE_CLOSED;
    char name[NAMES_MAX];
    uint32_t width;

    assert_true(board_read_identity(board_row(daemon_board(d), row), &info));
    names_reply_queue(name, d->instance, info.nonce);
    assert_int_equal(queue_open(&q, name, O_RDONLY | O_NONBLOCK), 0);
    assert_int_equal(q.depth, DEPTH);
    width = q.width;
    queue_close(&q);
    return width;
}

/* How many of the queues ever noted exist? */
static unsigned queues_left(const struct daemon *d)
{
    unsigned n = 0;

    for (unsigned i = 0; i < d->n_nonces; i++)
        n += daemon_has_queue(d, d->nonces[i]);
    return n;
}

static int open_fails(const struct daemon *d, const char *name)
{
    const struct mqc_options options = {.instance = d->instance, .name = name};
    struct mqc *client = NULL;
    int r = mqc_open(&client, &options);

    mqc_close(client);
    return r;
}

static bool gone(const struct daemon *d)
{
    return daemon_rows(d) == 0 && queues_left(d) == 0;
}

/* ---- Many ---- */

static void check_geometry(const struct daemon *d)
{
    uint64_t bytes = REQUEST_QUEUES;

    for (uint32_t i = 0; i < CLIENTS; i++) {
        assert_int_equal(width_of(d, i), SHARE);
        bytes += queue_bytes(DEPTH, width_of(d, i));
    }
    printf("%d clients at once: %llu of %llu bytes of queue memory\n", CLIENTS,
           (unsigned long long)bytes,
           (unsigned long long)board_get(&daemon_board(d)->queue_bytes_limit));
    assert_int_equal(bytes, 818560);
    assert_int_equal(bytes, board_get(&daemon_board(d)->queue_bytes_used));
}

static void thirty_two_clients_fit_the_default_limits_and_the_next_is_told_why_not(void **state)
{
    struct daemon *d = *state;
    struct actor actors[CLIENTS];

    d->queue_bytes = 819200;
    daemon_start(d, NULL);
    start_clients(d, actors, CLIENTS);
    assert_int_equal(daemon_rows(d), CLIENTS);
    check_geometry(d);

    tell_and_hear(&actors[CLIENTS - 1], PUBLISH_TO_ALL);
    for (unsigned i = 0; i < CLIENTS; i++)
        assert_int_equal(tell_and_hear(&actors[i], RECEIVE), PAYLOAD);

    assert_int_equal(open_fails(d, NULL), -ENFILE);
    printf("the next is told: %s\n", mqc_last_error());
    assert_non_null(strstr(mqc_last_error(), "32 clients"));
    assert_non_null(strstr(mqc_last_error(), "raise max_clients"));

    daemon_note_queues(d);
    for (unsigned i = 0; i < CLIENTS; i++)
        actor_tell(&actors[i], CLOSE);
    for (unsigned i = 0; i < CLIENTS; i++)
        actor_join(&actors[i]);
    PATIENCE_UNTIL(gone(d));
    PATIENCE_UNTIL(board_get(&daemon_board(d)->queue_bytes_used) == REQUEST_QUEUES);
}

enum {
    MANY = 128, /* one of them publishes */
    CROWD = 8,  /* sessions of an actor */
    LARGE = 1 << 20,
    LARGE_EACH = 66, /* so many, one is large */
    SMALL = 64,
    EACH_GETS = 200,
};

static uint8_t stamp(unsigned number, size_t at)
{
    return (uint8_t)(number * 31 + at % 251);
}

static void receive_one(struct mqc *client, unsigned number)
{
    size_t size = number % LARGE_EACH == 0 ? LARGE : SMALL;
    struct mqc_message message;
    const uint8_t *payload;

    ACTOR_REQUIRE(mqc_receive(client, &message, PATIENCE_MS) == 0);
    payload = message.payload;
    ACTOR_REQUIRE(message.size == size);
    for (size_t at = 0; at < size; at += 63)
        ACTOR_REQUIRE(payload[at] == stamp(number, at));
    mqc_message_free(&message);
}

/* An actor: a crowd of subscribers. */
static void be_crowd(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *clients[CROWD];

    for (unsigned i = 0; i < part->number; i++) {
        clients[i] = actor_open(part->instance, NULL, 0);
        ACTOR_REQUIRE(mqc_subscribe(clients[i], "all", 0) == 0);
    }
    actor_tell(self, 0);
    actor_hear(self);
    for (unsigned number = 0; number < EACH_GETS; number++)
        for (unsigned i = 0; i < part->number; i++)
            receive_one(clients[i], number);
    for (unsigned i = 0; i < part->number; i++)
        mqc_close(clients[i]);
}

static void publish_to_crowds(const struct daemon *d)
{
    static uint8_t payload[LARGE];
    struct mqc *client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);

    assert_int_equal(mqc_set_batching(client, 1), 0);
    for (unsigned number = 0; number < EACH_GETS; number++) {
        for (size_t at = 0; at < LARGE; at++)
            payload[at] = stamp(number, at);
        assert_int_equal(
            mqc_publish(client, "all", payload, number % LARGE_EACH == 0 ? LARGE : SMALL, 8), 0);
    }
    assert_int_equal(mqc_flush(client), 0);
    mqc_close(client);
}

static void L5_a_hundred_and_twenty_eight_fit_and_get_large_messages(void **state)
{
    struct daemon *d = *state;
    struct actor actors[MANY / CROWD];
    struct part part = {.instance = d->instance};

    d->queue_bytes = 819200;
    daemon_start(d, "max_clients = 128;");
    for (unsigned i = 0; i < MANY / CROWD; i++) {
        part.number = i == 0 ? CROWD - 1 : CROWD;
        actor_start(&actors[i], be_crowd, &part);
        actor_hear(&actors[i]);
    }
    assert_int_equal(daemon_rows(d), MANY - 1);
    assert_int_equal(width_of(d, 0), NARROWEST);
    assert_int_equal(width_of(d, MANY - 2), NARROWEST);
    for (unsigned i = 0; i < MANY / CROWD; i++)
        actor_tell(&actors[i], 0);
    publish_to_crowds(d);
    for (unsigned i = 0; i < MANY / CROWD; i++)
        actor_join(&actors[i]);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    assert_true(board_get(&daemon_board(d)->totals.boxed) > 0);
    assert_int_equal(board_get(&daemon_board(d)->totals.messages_out), (MANY - 1) * EACH_GETS);
}

static void killed_clients_leave_nothing(void **state)
{
    struct daemon *d = *state;
    struct actor actors[CLIENTS];
    unsigned descriptors;
    uint64_t begun;

    d->queue_bytes = 819200;
    daemon_start(d, NULL);
    descriptors = daemon_descriptors(d);
    start_clients(d, actors, CLIENTS);
    daemon_note_queues(d);
    assert_int_equal(queues_left(d), CLIENTS);

    begun = patience_now();
    for (unsigned i = 0; i < CLIENTS; i++)
        kill(actors[i].pid, SIGKILL);
    PATIENCE_UNTIL(gone(d));
    printf("%d clients killed: rows and queues gone after %llu ms\n", CLIENTS,
           (unsigned long long)(patience_now() - begun));
    for (unsigned i = 0; i < CLIENTS; i++)
        actor_kill(&actors[i]);
    assert_true(daemon_descriptors(d) <= descriptors);
    assert_int_equal(board_get(&daemon_board(d)->totals.died), CLIENTS);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->subscriptions) == 0);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->references_used) == 0);
}

/* ---- Refused ---- */

static void the_end_of_queue_memory_is_a_sentence(void **state)
{
    struct daemon *d = *state;
    struct actor actors[3];
    char bytes[32];

    d->queue_bytes = REQUEST_QUEUES + 3 * NARROWEST_QUEUE + 100;
    daemon_start(d, NULL);
    assert_true(daemon_said(d, "room for 3 of 32 clients"));
    start_clients(d, actors, 3);
    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(width_of(d, i), NARROWEST);

    assert_int_equal(open_fails(d, "fourth"), -EMFILE);
    printf("the next is told: %s\n", mqc_last_error());
    snprintf(bytes, sizeof(bytes), "%d", NARROWEST_QUEUE);
    assert_non_null(strstr(mqc_last_error(), bytes));
    snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)d->queue_bytes);
    assert_non_null(strstr(mqc_last_error(), bytes));
    assert_non_null(strstr(mqc_last_error(), "ulimit -q"));
    assert_true(daemon_said(d, "refused a client (fourth"));
    assert_int_equal(daemon_rows(d), 3);

    /* There is room again when one leaves. */
    actor_kill(&actors[1]);
    PATIENCE_UNTIL(daemon_rows(d) == 2);
    mqc_close(daemon_open(d, "fourth", 0));
}

static void a_name_is_taken_until_its_holder_has_gone(void **state)
{
    struct daemon *d = *state;
    const char *const no_names[] = {"a/b", "+", "#", "@x", "$x", "tab\there"};
    struct part part = {.instance = d->instance, .name = "pump"};
    struct actor holder;
    struct mqc *client = NULL;
    char pid[16];
    int r;

    daemon_start(d, NULL);
    actor_start(&holder, be_client, &part);
    actor_hear(&holder);
    assert_int_equal(open_fails(d, "pump"), -EADDRINUSE);
    snprintf(pid, sizeof(pid), "%d", (int)holder.pid);
    assert_non_null(strstr(mqc_last_error(), "pump"));
    assert_non_null(strstr(mqc_last_error(), pid));

    actor_kill(&holder); /* taken, then on its way out, then free */
    PATIENCE_UNTIL((r = mqc_open(&client, &(struct mqc_options){.instance = d->instance,
                                                                .name = "pump"})) != -EADDRINUSE);
    assert_int_equal(r, 0);
    mqc_close(client);

    for (size_t i = 0; i < sizeof(no_names) / sizeof(*no_names); i++)
        assert_int_equal(open_fails(d, no_names[i]), -EINVAL);
}

static void a_reply_queue_is_narrower_where_others_took_the_room(void **state)
{
    enum { WIDTH = 2048, MINE = 1000 };
    struct daemon *d = *state;
    struct mqc *clients[2];
    struct queue mine;
    char name[NAMES_INSTANCE_MAX + 16];

    d->queue_bytes = REQUEST_QUEUES + 2 * DEPTH * (WIDTH + 96);
    daemon_start(d, "max_clients = 2;");
    clients[0] = daemon_open(d, NULL, 0);
    assert_int_equal(width_of(d, 0), WIDTH);
    snprintf(name, sizeof(name), "/%s-other", d->instance);
    assert_int_equal(queue_create(&mine, name, DEPTH, MINE, 0600), 0);
    assert_int_equal(mq_unlink(name), 0);
    clients[1] = daemon_open(d, NULL, 0);
    assert_int_equal(width_of(d, 1), NARROWEST);
    queue_close(&mine);
    mqc_close(clients[0]);
    mqc_close(clients[1]);
}

/* ---- Publishers ---- */

static void who_said_so_does_not_subscribe(void **state)
{
    struct mqc *publisher;

    daemon_start(*state, NULL);
    publisher = daemon_open(*state, NULL, MQC_PUBLISH_ONLY);
    assert_int_equal(mqc_subscribe(publisher, "x", 0), -EINVAL);
    mqc_close(publisher);
}

static void one_shot_publishers_leave_nothing(void **state)
{
    enum { SHOTS = 300 };
    struct daemon *d = *state;
    struct program *p = malloc(sizeof(*p));
    struct mqc *subscriber;
    unsigned descriptors;

    assert_non_null(p);
    daemon_start(d, NULL);
    subscriber = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(subscriber, "shot", 0), 0);
    descriptors = daemon_descriptors(d);
    for (unsigned i = 0; i < SHOTS; i++) {
        if (PROGRAM(p, "mqpub", "--instance", d->instance, "-t", "shot", "-m", "x") != 0)
            fail_msg("mqpub: %s", p->err);
    }
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.said_bye) == SHOTS);
    for (unsigned i = 0; i < SHOTS; i++) {
        struct mqc_message message;

        assert_int_equal(mqc_receive(subscriber, &message, PATIENCE_MS), 0);
        mqc_message_free(&message);
    }
    assert_int_equal(daemon_rows(d), 1);
    assert_true(daemon_descriptors(d) <= descriptors);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->references_used) == 1); /* the subscription */
    assert_int_equal(board_get(&daemon_board(d)->cells_used), 1);
    mqc_close(subscriber);
    free(p);
}

static void S7_what_a_publisher_that_left_has_sent_is_read_in_place(void **state)
{
    enum { SHOTS = 1000 };
    static uint8_t payload[5000];
    struct daemon *d = *state;
    struct mqc *subscriber;

    daemon_start(d, NULL);
    subscriber = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(subscriber, "shot", 0), 0);
    for (unsigned i = 0; i < SHOTS; i++) {
        struct mqc *publisher = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
        struct mqc_message message;

        memset(payload, (int)i, sizeof(payload));
        assert_int_equal(mqc_publish(publisher, "shot", payload, sizeof(payload), 8), 0);
        mqc_close(publisher);
        assert_int_equal(mqc_receive(subscriber, &message, PATIENCE_MS), 0);
        assert_int_equal(message.size, sizeof(payload));
        assert_memory_equal(message.payload, payload, sizeof(payload));
        mqc_message_free(&message);
    }
    PATIENCE_UNTIL(daemon_segments(d, ".pool") == 1);
    mqc_close(subscriber);
}

/* ---- Other ways to go ---- */

static void who_exits_without_a_word_leaves_nothing(void **state)
{
    struct daemon *d = *state;
    struct actor actors[4];

    daemon_start(d, NULL);
    start_clients(d, actors, 4);
    daemon_note_queues(d);
    for (unsigned i = 0; i < 4; i++)
        actor_tell(&actors[i], DROP_DEAD);
    for (unsigned i = 0; i < 4; i++)
        actor_join(&actors[i]);
    PATIENCE_UNTIL(gone(d));
}

/* L1: a death does not overtake what the dead one sent. */
static void publish_and_die(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, MQC_PUBLISH_ONLY);

    for (unsigned i = 0; i < 100; i++)
        ACTOR_REQUIRE(mqc_publish(client, "all/00", &i, sizeof(i), i % 2 ? 31 : 0) == 0);
    (void)self;
    _exit(EXIT_SUCCESS);
}

static void L1_what_the_dead_sent_arrives(void **state)
{
    enum { DEATHS = 50 };
    struct daemon *d = *state;
    struct part part = {.instance = d->instance};
    struct mqc *subscriber;

    daemon_start(d, NULL);
    subscriber = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(subscriber, "all/00", 0), 0);
    for (unsigned i = 0; i < DEATHS; i++) {
        struct mqc_message message;
        struct actor actor;

        actor_start(&actor, publish_and_die, &part);
        for (unsigned n = 0; n < 100; n++) {
            if (mqc_receive(subscriber, &message, PATIENCE_MS) < 0)
                fail_msg("death %u, after %u messages: %s", i, n, mqc_last_error());
            mqc_message_free(&message);
        }
        actor_join(&actor);
    }
    mqc_close(subscriber);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
}

static void L4_a_forked_copy_can_only_be_dropped(void **state)
{
    struct daemon *d = *state;
    struct mqc_message message;
    struct mqc *client;
    pid_t child;
    int status;

    daemon_start(d, NULL);
    client = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(client, "t", 0), 0);
    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (mqc_publish(client, "t", "x", 1, 8) != -EPERM ||
            mqc_receive(client, &message, 0) != -EPERM)
            _exit(EXIT_FAILURE);
        mqc_close(client);
        _exit(EXIT_SUCCESS);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(mqc_publish(client, "t", "x", 1, 8), 0);
    assert_int_equal(mqc_receive(client, &message, PATIENCE_MS), 0);
    mqc_message_free(&message);
    mqc_close(client);
}

static void a_client_that_stands_still_does_not_hold_others_up(void **state)
{
    enum { MESSAGES = 20000 };
    struct daemon *d = *state;
    struct part part = {.instance = d->instance};
    struct actor stopped;
    struct mqc *client;

    daemon_start(d, NULL);
    actor_start(&stopped, be_client, &part);
    actor_hear(&stopped);
    actor_pause(&stopped);
    client = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(client, "all/01", 0), 0);
    for (unsigned i = 0; i < MESSAGES; i++) {
        struct mqc_message message;

        if (i % 100 == 0) /* what waits for it stays within our window */
            assert_int_equal(mqc_publish(client, "all/00", &i, sizeof(i), 8), 0);
        assert_int_equal(mqc_publish(client, "all/01", &i, sizeof(i), 8), 0);
        assert_int_equal(mqc_receive(client, &message, PATIENCE_MS), 0);
        assert_memory_equal(message.payload, &i, sizeof(i));
        mqc_message_free(&message);
    }
    actor_resume(&stopped);
    for (unsigned i = 0; i < MESSAGES / 100; i++)
        assert_int_equal(tell_and_hear(&stopped, RECEIVE), sizeof(i));
    mqc_close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(thirty_two_clients_fit_the_default_limits_and_the_next_is_told_why_not),
        DAEMON_TEST(L5_a_hundred_and_twenty_eight_fit_and_get_large_messages),
        DAEMON_TEST(killed_clients_leave_nothing),
        DAEMON_TEST(the_end_of_queue_memory_is_a_sentence),
        DAEMON_TEST(a_name_is_taken_until_its_holder_has_gone),
        DAEMON_TEST(a_reply_queue_is_narrower_where_others_took_the_room),
        DAEMON_TEST(who_said_so_does_not_subscribe),
        DAEMON_TEST(one_shot_publishers_leave_nothing),
        DAEMON_TEST(S7_what_a_publisher_that_left_has_sent_is_read_in_place),
        DAEMON_TEST(who_exits_without_a_word_leaves_nothing),
        DAEMON_TEST(L1_what_the_dead_sent_arrives),
        DAEMON_TEST(L4_a_forked_copy_can_only_be_dropped),
        DAEMON_TEST(a_client_that_stands_still_does_not_hold_others_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
