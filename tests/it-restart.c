/* The broker is killed with -9 again and again under load, and started again: clients go on with
 * the same handles, and of what it had taken nothing is lost, nothing comes twice, nothing is out
 * of order (K1–K4). */
#include <errno.h>
#include <mqueue.h>
#include <setjmp.h>
#include <signal.h>
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
#include "tests/support/stamp.h"

enum {
    PUBLISHERS = 3,
    SUBSCRIBERS = 2,
    KILLS = 25,
    LARGEST = 200000, /* bytes of a payload, where they are large */
    LEVELS = MQC_MAX_PRIORITY + 1,
    LONG_MS = 30000,
};

struct part {
    const char *instance;
    uint32_t publisher;
    uint32_t largest; /* payload, in bytes */
    int batching;
};

/* An actor: publishes until it hears something; then says how many. */
static void publish_on(struct actor *self, const void *context)
{
    static uint8_t payload[LARGEST];
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, MQC_PUBLISH_ONLY);
    uint32_t next[LEVELS] = {0};
    uint32_t random = 123456789 + part->publisher;
    uint64_t n = 0;

    ACTOR_REQUIRE(mqc_set_batching(client, part->batching) == 0);
    actor_tell(self, 0);
    while (!actor_has_said(self)) {
        unsigned priority = stamp_random(&random) % LEVELS;
        const struct stamp stamp = {.publisher = part->publisher,
                                    .stream = priority,
                                    .number = next[priority]++,
                                    .size = stamp_size(&random, part->largest)};

        stamp_fill(payload, &stamp);
        ACTOR_REQUIRE(mqc_publish(client, "load", payload, stamp.size, priority) == 0);
        n++;
    }
    ACTOR_REQUIRE(mqc_flush(client) == 0);
    actor_hear(self);
    actor_tell(self, n);
    mqc_close(client);
}

/* An actor: reads, until it has read as many as it hears there are. */
static void read_on(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, 0);
    uint32_t next[PUBLISHERS][LEVELS] = {0};
    uint64_t total = UINT64_MAX;
    uint64_t n = 0;

    ACTOR_REQUIRE(mqc_subscribe(client, "load", 0) == 0);
    actor_tell(self, 0);
    while (n < total) {
        struct mqc_message message;
        struct stamp stamp;
        int r = mqc_receive(client, &message, 100);

        if (total == UINT64_MAX && actor_has_said(self))
            total = actor_hear(self);
        if (r == -ETIMEDOUT)
            continue;
        ACTOR_REQUIRE(r == 0);
        ACTOR_REQUIRE(stamp_read(message.payload, message.size, &stamp));
        ACTOR_REQUIRE(stamp.stream == message.priority);
        if (stamp.number != next[stamp.publisher][message.priority])
            fprintf(stderr, "publisher %u, priority %u: number %u came, not %u\n", stamp.publisher,
                    message.priority, stamp.number, next[stamp.publisher][message.priority]);
        ACTOR_REQUIRE(stamp.number == next[stamp.publisher][message.priority]);
        next[stamp.publisher][message.priority]++;
        n++;
        mqc_message_free(&message);
    }
    ACTOR_REQUIRE(mqc_receive(client, &(struct mqc_message){0}, 0) == -EAGAIN);
    ACTOR_REQUIRE(mqc_missed(client) == 0);
    actor_tell(self, n);
    mqc_close(client);
}

/* An actor: answers requests. */
static void answer_on(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, "answers", 0);

    actor_tell(self, 0);
    for (;;) {
        struct mqc_message message;

        ACTOR_REQUIRE(mqc_receive(client, &message, -1) == 0);
        ACTOR_REQUIRE(mqc_reply(client, &message, message.payload, message.size) == 0);
        mqc_message_free(&message);
    }
}

/* An actor: asks until it hears something; then says how many questions were answered. */
static void ask_on(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, 0);
    uint64_t n;

    actor_tell(self, 0);
    for (n = 0; !actor_has_said(self); n++) {
        const struct mqc_publication question = {
            .topic = "@answers", .payload = &n, .size = sizeof(n), .priority = n % LEVELS};
        struct mqc_message reply;

        ACTOR_REQUIRE(mqc_request(client, &question, &reply, LONG_MS) == 0);
        ACTOR_REQUIRE(reply.size == sizeof(n) && memcmp(reply.payload, &n, sizeof(n)) == 0);
        mqc_message_free(&reply);
    }
    actor_hear(self);
    actor_tell(self, n);
    mqc_close(client);
}

static void kill_and_restart(struct daemon *d, uint32_t *random, uint32_t most)
{
    uint64_t in = board_get(&daemon_board(d)->totals.messages_in);
    uint64_t more = most / 30 + stamp_random(random) % most;

    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) >= in + more);
    daemon_kill(d);
    daemon_restart(d);
}

static void K_clients_go_on_through_kills_under_load(void **state)
{
    struct daemon *d = *state;
    struct part part = {.instance = d->instance, .largest = sizeof(struct stamp)};
    struct actor publishers[PUBLISHERS], subscribers[SUBSCRIBERS], server, asker;
    const struct mqc_publication kept = {
        .topic = "kept", .payload = "this", .size = 4, .priority = 8, .flags = MQC_RETAIN};
    struct mqc_message message;
    struct mqc *client;
    uint64_t total = 0;
    uint64_t asked;
    uint32_t random = 36243606;

    daemon_start(d, "stall_timeout = \"1h\";\n");
    client = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_publish_with(client, &kept), 0);
    for (unsigned i = 0; i < SUBSCRIBERS; i++) {
        actor_start(&subscribers[i], read_on, &part);
        actor_hear(&subscribers[i]);
    }
    actor_start(&server, answer_on, &part);
    actor_hear(&server);
    actor_start(&asker, ask_on, &part);
    actor_hear(&asker);
    for (part.publisher = 0; part.publisher < PUBLISHERS; part.publisher++) {
        part.batching = part.publisher % 2;
        actor_start(&publishers[part.publisher], publish_on, &part);
        actor_hear(&publishers[part.publisher]);
    }
    for (unsigned i = 0; i < KILLS; i++)
        kill_and_restart(d, &random, 3000);

    for (unsigned i = 0; i < PUBLISHERS; i++)
        actor_tell(&publishers[i], 0);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        total += actor_hear(&publishers[i]);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        actor_tell(&subscribers[i], total);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        assert_int_equal(actor_hear(&subscribers[i]), total);
    actor_tell(&asker, 0);
    asked = actor_hear(&asker);
    printf("%d kills: each of %d subscribers read all of %llu messages in order; %llu requests "
           "were all "
           "answered\n",
           KILLS, SUBSCRIBERS, (unsigned long long)total, (unsigned long long)asked);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        actor_join(&publishers[i]);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        actor_join(&subscribers[i]);
    actor_join(&asker);
    actor_kill(&server);

    assert_int_equal(mqc_subscribe(client, "kept", 0), 0);
    assert_int_equal(mqc_receive(client, &message, PATIENCE_MS), 0);
    assert_int_equal(message.size, 4);
    assert_true((message.flags & MQC_M_RETAINED) != 0);
    mqc_message_free(&message);
    PATIENCE_UNTIL(daemon_rows(d) == 1);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->references_used) == 2); /* kept, and subscription */
    assert_int_equal(board_get(&daemon_board(d)->totals.starts), KILLS + 1);
    mqc_close(client);
}

/* Payloads in pools are read in place while brokers come and go; a place that was handed back too
 * early, or twice, would show in its stamp. */
static void S7_large_payloads_outlive_brokers(void **state)
{
    struct daemon *d = *state;
    struct part part = {.instance = d->instance, .largest = LARGEST};
    struct actor publishers[PUBLISHERS], subscribers[SUBSCRIBERS];
    uint64_t total = 0;
    uint32_t random = 521288629;

    /* So small that publishers wait for their pools as well, and queues so narrow that batches do
     * not fit. */
    daemon_start(d, "stall_timeout = \"1h\"; pool_max = \"2M\"; max_clients = 120;\n");
    for (unsigned i = 0; i < SUBSCRIBERS; i++) {
        actor_start(&subscribers[i], read_on, &part);
        actor_hear(&subscribers[i]);
    }
    for (part.publisher = 0; part.publisher < PUBLISHERS; part.publisher++) {
        part.batching = part.publisher % 2;
        actor_start(&publishers[part.publisher], publish_on, &part);
        actor_hear(&publishers[part.publisher]);
    }
    for (unsigned i = 0; i < KILLS; i++)
        kill_and_restart(d, &random, 600);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        actor_tell(&publishers[i], 0);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        total += actor_hear(&publishers[i]);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        actor_tell(&subscribers[i], total);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        assert_int_equal(actor_hear(&subscribers[i]), total);
    printf("%d kills: each of %d subscribers read all of %llu messages of up to %d bytes\n", KILLS,
           SUBSCRIBERS, (unsigned long long)total, LARGEST);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        actor_join(&publishers[i]);
    for (unsigned i = 0; i < SUBSCRIBERS; i++)
        actor_join(&subscribers[i]);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    PATIENCE_UNTIL(daemon_segments(d, ".pool") == 0);
    assert_int_equal(daemon_segments(d, ".outbox"), 0);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->references_used) == 0);
}

static void a_publisher_that_waits_for_room_is_woken_by_the_next_broker(void **state)
{
    struct daemon *d = *state;
    const struct part part = {
        .instance = d->instance, .largest = sizeof(struct stamp), .batching = 1};
    struct actor publisher;
    struct mqc *subscriber;
    uint64_t total = UINT64_MAX;
    uint64_t n = 0;

    daemon_start(d, "stall_timeout = \"1h\";\n");
    subscriber = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(subscriber, "load", 0), 0);
    actor_start(&publisher, publish_on, &part);
    actor_hear(&publisher);
    PATIENCE_UNTIL(board_get(&board_row(daemon_board(d), 0)->waiting_bytes) >=
                   daemon_board(d)->window / 2);
    daemon_kill(d);
    actor_tell(&publisher, 0); /* it may sleep in a publish: what makes room is the reading */
    daemon_restart(d);
    while (n < total) {
        struct mqc_message message;
        int r = mqc_receive(subscriber, &message, 100);

        if (total == UINT64_MAX && actor_has_said(&publisher))
            total = actor_hear(&publisher);
        assert_true(r == 0 || r == -ETIMEDOUT);
        n += r == 0;
        if (r == 0)
            mqc_message_free(&message);
    }
    actor_join(&publisher);
    mqc_close(subscriber);
}

static void who_died_while_no_broker_ran_is_buried_by_the_next(void **state)
{
    struct daemon *d = *state;
    const struct part part = {.instance = d->instance};
    struct actor subscriber;

    daemon_start(d, NULL);
    actor_start(&subscriber, read_on, &part);
    actor_hear(&subscriber);
    daemon_kill(d);
    actor_kill(&subscriber);
    daemon_restart(d);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    for (unsigned i = 0; i < d->n_nonces; i++)
        assert_false(daemon_has_queue(d, d->nonces[i]));
}

/* K8: a queue that somebody put in the place of the one that was made. */
static void K8_a_reply_queue_that_was_replaced_ends_its_session(void **state)
{
    struct daemon *d = *state;
    struct mqc_message message;
    struct mqc *client;
    char name[NAMES_MAX];
    int r;

    daemon_start(d, NULL);
    client = daemon_open(d, NULL, 0);
    daemon_kill(d);
    assert_int_equal(d->n_nonces, 1);
    names_reply_queue(name, d->instance, d->nonces[0]);
    assert_int_equal(mq_unlink(name), 0);
    daemon_restart(d);
    assert_true(daemon_said(d, "not the one that was made"));
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    r = mqc_receive(client, &message, PATIENCE_MS);
    assert_int_equal(r, -ECONNRESET);
    mqc_close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(K_clients_go_on_through_kills_under_load),
        DAEMON_TEST(S7_large_payloads_outlive_brokers),
        DAEMON_TEST(a_publisher_that_waits_for_room_is_woken_by_the_next_broker),
        DAEMON_TEST(who_died_while_no_broker_ran_is_buried_by_the_next),
        DAEMON_TEST(K8_a_reply_queue_that_was_replaced_ends_its_session),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
