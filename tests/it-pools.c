/* Large messages from end to end: of every size, by every way that a message can go, to receivers
 * that are many, slow, or dead, and from senders that are gone; and nothing of it is left over. */
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
#include "tests/support/stamp.h"

enum {
    KIB = 1024,
    MIB = 1024 * KIB,
    LARGEST = 64 * MIB,
    SMALL_POOL = MIB,
};

static const uint32_t sizes[] = {16,           100,  511,     512,          513,    1023, 1180,
                                 1214,         1215, 1216,    1217,         4096,   8000, 64 * KIB,
                                 64 * KIB + 1, MIB,  3 * MIB, 17 * MIB + 3, LARGEST};

enum { N_SIZES = sizeof(sizes) / sizeof(sizes[0]) };

/* ---- Parts ---- */

static struct mqc *open_with_pool(const struct daemon *d, size_t pool_size)
{
    const struct mqc_options options = {.instance = d->instance, .pool_size = pool_size};
    struct mqc *client;

    if (mqc_open(&client, &options) < 0)
        fail_msg("%s", mqc_last_error());
    return client;
}

static int64_t try_publish(struct mqc *client, const char *topic, const struct stamp *stamp,
                           unsigned flags)
{
    void *payload = malloc(stamp->size);
    const struct mqc_publication p = {
        .topic = topic, .payload = payload, .size = stamp->size, .priority = 8, .flags = flags};
    int64_t r;

    stamp_fill(payload, stamp);
    r = mqc_publish_with(client, &p);
    free(payload);
    return r;
}

static void publish(struct mqc *client, const char *topic, uint32_t number, uint32_t size,
                    unsigned flags)
{
    const struct stamp stamp = {.number = number, .size = size};

    int64_t r = try_publish(client, topic, &stamp, flags);

    if (r > 0)
        r = mqc_confirm_wait(client, r, PATIENCE_MS);
    if (r < 0)
        fail_msg("%u bytes: %s", size, mqc_last_error());
}

static void expect_stamp(const struct mqc_message *message, uint32_t number, uint32_t size)
{
    struct stamp stamp;

    assert_int_equal(message->size, size);
    if (!stamp_read(message->payload, message->size, &stamp))
        fail_msg("message %u of %u bytes is not as it was sent", number, size);
    assert_int_equal(stamp.number, number);
}

static void receive(struct mqc *client, struct mqc_message *message)
{
    if (mqc_receive(client, message, PATIENCE_MS) < 0)
        fail_msg("%s", mqc_last_error());
}

static void expect(struct mqc *client, uint32_t number, uint32_t size)
{
    struct mqc_message message;

    receive(client, &message);
    expect_stamp(&message, number, size);
    mqc_message_free(&message);
}

static struct mqc *subscriber(const struct daemon *d, const char *filter)
{
    struct mqc *client = daemon_open(d, NULL, 0);

    assert_int_equal(mqc_subscribe(client, filter, 0), 0);
    return client;
}

static unsigned pools(const struct daemon *d)
{
    return daemon_segments(d, ".pool");
}

/* ---- Every size, every way ---- */

static void every_size_is_published(void **state)
{
    struct daemon *d = *state;
    struct mqc *to, *from;

    daemon_start(d, NULL);
    to = subscriber(d, "t");
    from = daemon_open(d, NULL, 0);
    for (int batching = 0; batching < 2; batching++) {
        mqc_set_batching(from, batching);
        for (uint32_t i = 0; i < N_SIZES; i++) {
            publish(from, "t", i, sizes[i], 0);
            mqc_flush(from);
            expect(to, i, sizes[i]);
        }
    }
    mqc_close(from);
    mqc_close(to);
}

static void every_size_is_lent(void **state)
{
    struct daemon *d = *state;
    struct mqc *to, *from;

    daemon_start(d, NULL);
    to = subscriber(d, "t");
    from = daemon_open(d, NULL, 0);
    for (uint32_t i = 0; i < N_SIZES; i++) {
        const struct stamp stamp = {.number = i, .size = sizes[i]};
        struct mqc_publication p = {.topic = "t", .size = sizes[i], .priority = 8};
        void *loan;

        assert_int_equal(mqc_loan(from, &loan, sizes[i], 0), 0);
        stamp_fill(loan, &stamp);
        p.payload = loan;
        if (mqc_publish_loan(from, &p) < 0)
            fail_msg("%s", mqc_last_error());
        expect(to, i, sizes[i]);
    }
    mqc_close(from);
    mqc_close(to);
}

static void every_size_reaches_a_name(void **state)
{
    struct daemon *d = *state;
    struct mqc *to, *from;

    daemon_start(d, NULL);
    to = daemon_open(d, "to", 0);
    from = daemon_open(d, NULL, 0);
    for (uint32_t i = 0; i < N_SIZES; i++) {
        publish(from, "@to", i, sizes[i], 0);
        expect(to, i, sizes[i]);
    }
    mqc_close(from);
    mqc_close(to);
}

static void every_size_is_kept_also_when_its_sender_has_gone(void **state)
{
    struct daemon *d = *state;
    struct mqc *to, *from;
    uint32_t last = N_SIZES - 2; /* the largest is more than may be kept */

    daemon_start(d, "retained_size = \"32M\";\n");
    to = daemon_open(d, NULL, 0);
    from = daemon_open(d, NULL, 0);
    for (uint32_t i = 0; i <= last; i++) {
        publish(from, "kept", i, sizes[i], MQC_RETAIN | MQC_CONFIRM);
        assert_int_equal(mqc_subscribe(to, "kept", 0), 0);
        expect(to, i, sizes[i]);
        assert_int_equal(mqc_unsubscribe(to, "kept"), 0);
    }
    mqc_close(from);
    assert_int_equal(mqc_subscribe(to, "kept", 0), 0);
    expect(to, last, sizes[last]);
    assert_int_equal(pools(d), 2);
    publish(to, "kept", 0, sizeof(struct stamp), MQC_RETAIN);
    expect(to, 0, sizeof(struct stamp));
    PATIENCE_UNTIL(pools(d) == 1);
    mqc_close(to);
}

/* An actor: answers each request with what was asked. */
static void echo(struct actor *self, const void *context)
{
    struct mqc *client = actor_open(context, "echo", 0);
    struct mqc_message request;

    actor_tell(self, 0);
    for (uint32_t i = 0; i < N_SIZES; i++) {
        ACTOR_REQUIRE(mqc_receive(client, &request, PATIENCE_MS) == 0);
        ACTOR_REQUIRE(mqc_reply(client, &request, request.payload, request.size) == 0);
        mqc_message_free(&request);
    }
    mqc_close(client);
}

static void every_size_is_asked_and_answered(void **state)
{
    struct daemon *d = *state;
    struct actor server;
    struct mqc *client;

    daemon_start(d, NULL);
    actor_start(&server, echo, d->instance);
    actor_hear(&server);
    client = daemon_open(d, NULL, 0);
    for (uint32_t i = 0; i < N_SIZES; i++) {
        const struct stamp stamp = {.number = i, .size = sizes[i]};
        void *payload = malloc(sizes[i]);
        const struct mqc_publication p = {
            .topic = "@echo", .payload = payload, .size = sizes[i], .priority = 8};
        struct mqc_message reply;

        stamp_fill(payload, &stamp);
        if (mqc_request(client, &p, &reply, PATIENCE_MS) < 0)
            fail_msg("%s", mqc_last_error());
        expect_stamp(&reply, i, sizes[i]);
        mqc_message_free(&reply);
        free(payload);
    }
    actor_join(&server);
    mqc_close(client);
}

/* ---- Many, slow, full ---- */

static void several_receivers_read_one_payload(void **state)
{
    enum { RECEIVERS = 3 };
    struct daemon *d = *state;
    struct mqc_message messages[RECEIVERS];
    struct mqc *to[RECEIVERS], *from;

    daemon_start(d, NULL);
    for (int i = 0; i < RECEIVERS; i++)
        to[i] = subscriber(d, "t");
    from = open_with_pool(d, SMALL_POOL);
    for (uint32_t n = 0; n < 50; n++) { /* several times the pool */
        publish(from, "t", n, 100 * KIB, 0);
        for (int i = 0; i < RECEIVERS; i++) {
            receive(to[i], &messages[i]);
            expect_stamp(&messages[i], n, 100 * KIB);
        }
        for (int i = 0; i < RECEIVERS; i++) {
            expect_stamp(&messages[i], n, 100 * KIB);
            mqc_message_free(&messages[i]);
        }
    }
    mqc_close(from);
    for (int i = 0; i < RECEIVERS; i++)
        mqc_close(to[i]);
}

static void a_full_pool_is_EAGAIN_until_places_come_back(void **state)
{
    struct daemon *d = *state;
    struct stamp stamp = {.size = 200 * KIB};
    struct mqc *to, *from;
    int64_t r;

    daemon_start(d, NULL);
    to = subscriber(d, "t");
    from = open_with_pool(d, SMALL_POOL);
    while ((r = try_publish(from, "t", &stamp, MQC_NOWAIT)) == 0)
        stamp.number++;
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(stamp.number, 5);
    for (uint32_t i = 0; i < stamp.number; i++)
        expect(to, i, stamp.size);
    PATIENCE_UNTIL(try_publish(from, "t", &stamp, MQC_NOWAIT) == 0);
    expect(to, stamp.number, stamp.size);
    mqc_close(from);
    mqc_close(to);
}

struct stream {
    const char *instance;
    uint32_t n;
    uint32_t most;
    int batching;
};

/* An actor: a stream of all sizes through a small pool, which waits whenever that is full. */
static void publish_stream(struct actor *self, const void *context)
{
    const struct stream *s = context;
    const struct mqc_options options = {.instance = s->instance, .pool_size = SMALL_POOL};
    uint8_t *payload = malloc(s->most);
    struct stamp stamp = {0};
    struct mqc *client;
    uint32_t seed = 1;

    ACTOR_REQUIRE(mqc_open(&client, &options) == 0);
    ACTOR_REQUIRE(mqc_set_batching(client, s->batching) == 0);
    actor_tell(self, 0);
    for (; stamp.number < s->n; stamp.number++) {
        stamp.size = stamp_size(&seed, s->most);
        stamp_fill(payload, &stamp);
        ACTOR_REQUIRE(mqc_publish(client, "t", payload, stamp.size, 8) == 0);
    }
    ACTOR_REQUIRE(mqc_flush(client) == 0);
    actor_tell(self, stamp.number);
    actor_hear(self);
    mqc_close(client);
    free(payload);
}

/* The stream, whole and in order. `held` messages are not freed before others have come. */
static void expect_stream(struct mqc *to, uint32_t from, uint32_t n, uint32_t held)
{
    struct mqc_message *ring = calloc(held + 1, sizeof(*ring));
    struct stamp stamp;

    for (uint32_t i = from; i < from + n; i++) {
        struct mqc_message *message = &ring[i % (held + 1)];

        mqc_message_free(message);
        receive(to, message);
        if (!stamp_read(message->payload, message->size, &stamp))
            fail_msg("message %u is not as it was sent", i);
        assert_int_equal(stamp.number, i);
    }
    for (uint32_t i = 0; i <= held; i++)
        mqc_message_free(&ring[i]);
    free(ring);
}

static void expect_streams(struct daemon *d, int batching, uint32_t held)
{
    const struct stream s = {
        .instance = d->instance, .n = 5000, .most = 64 * KIB, .batching = batching};
    struct actor publisher;
    struct mqc *to;

    daemon_start(d, "stall_timeout = \"1h\";\n");
    to = subscriber(d, "t");
    actor_start(&publisher, publish_stream, &s);
    expect_stream(to, 0, s.n, held);
    actor_tell(&publisher, 0);
    actor_join(&publisher);
    mqc_close(to);
}

static void a_stream_of_all_sizes_passes_a_small_pool(void **state)
{
    expect_streams(*state, 0, 0);
}

static void so_does_one_in_batches(void **state)
{
    expect_streams(*state, 1, 0);
}

static void so_does_one_of_which_many_are_held(void **state)
{
    expect_streams(*state, 1, 100);
}

static void who_publishes_to_itself_reads_its_own_pool(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, NULL);
    client = open_with_pool(d, SMALL_POOL);
    assert_int_equal(mqc_subscribe(client, "t", 0), 0);
    for (uint32_t i = 0; i < 100; i++) {
        publish(client, "t", i, 300 * KIB, 0);
        expect(client, i, 300 * KIB);
    }
    mqc_close(client);
}

static void a_place_is_free_at_once_if_nobody_wants_it(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, NULL);
    client = open_with_pool(d, SMALL_POOL);
    for (uint32_t i = 0; i < 200; i++)
        publish(client, "nobody", i, 300 * KIB, 0);
    mqc_close(client);
}

/* ---- Deaths ---- */

/* An actor: publishes ten large messages, and waits for its end. */
static void publish_ten(struct actor *self, const void *context)
{
    struct mqc *client = actor_open(context, NULL, 0);
    uint8_t *payload = malloc(MIB);
    struct stamp stamp = {.size = MIB};

    for (; stamp.number < 10; stamp.number++) {
        stamp_fill(payload, &stamp);
        ACTOR_REQUIRE(mqc_publish(client, "t", payload, MIB, 8) == 0);
    }
    actor_tell(self, 0);
    actor_hear(self);
    mqc_close(client);
    free(payload);
}

static void what_the_dead_have_sent_is_read_to_the_end(struct daemon *d, bool kill)
{
    struct mqc_message first;
    struct actor publisher;
    struct mqc *to;

    daemon_start(d, NULL);
    to = subscriber(d, "t");
    actor_start(&publisher, publish_ten, d->instance);
    actor_hear(&publisher);
    receive(to, &first);
    if (kill) {
        actor_kill(&publisher);
    } else {
        actor_tell(&publisher, 0);
        actor_join(&publisher);
    }
    PATIENCE_UNTIL(daemon_rows(d) == 1);
    assert_int_equal(pools(d), 2);
    for (uint32_t i = 1; i < 10; i++)
        expect(to, i, MIB);
    expect_stamp(&first, 0, MIB);
    assert_int_equal(pools(d), 2);
    mqc_message_free(&first);
    PATIENCE_UNTIL(pools(d) == 1);
    mqc_close(to);
}

static void S7_what_one_who_left_has_sent_is_read_to_the_end(void **state)
{
    what_the_dead_have_sent_is_read_to_the_end(*state, false);
}

static void S7_what_one_who_was_killed_has_sent_is_read_to_the_end(void **state)
{
    what_the_dead_have_sent_is_read_to_the_end(*state, true);
}

/* An actor: receives what it is sent, and holds it. */
static void hoard(struct actor *self, const void *context)
{
    struct mqc *client = actor_open(context, NULL, 0);
    struct mqc_message message;

    ACTOR_REQUIRE(mqc_subscribe(client, "t", 0) == 0);
    actor_tell(self, 0);
    for (uint64_t n = 1;; n++) {
        ACTOR_REQUIRE(mqc_receive(client, &message, PATIENCE_MS) == 0);
        actor_tell(self, n);
    }
}

static void S7_what_a_dead_receiver_held_comes_back(void **state)
{
    struct daemon *d = *state;
    struct stamp stamp = {.size = 200 * KIB};
    struct actor receiver;
    struct mqc *from;

    daemon_start(d, NULL);
    actor_start(&receiver, hoard, d->instance);
    actor_hear(&receiver);
    from = open_with_pool(d, SMALL_POOL);
    for (; stamp.number < 5; stamp.number++) {
        assert_int_equal(try_publish(from, "t", &stamp, MQC_NOWAIT), 0);
        actor_hear(&receiver);
    }
    assert_int_equal(try_publish(from, "t", &stamp, MQC_NOWAIT), -EAGAIN);
    actor_kill(&receiver);
    PATIENCE_UNTIL(try_publish(from, "nobody", &stamp, MQC_NOWAIT) == 0);
    mqc_close(from);
}

static void a_kill_of_the_broker_loses_no_payload(void **state)
{
    struct daemon *d = *state;
    const struct stream s = {.instance = d->instance, .n = 2000, .most = 64 * KIB, .batching = 1};
    struct actor publisher;
    struct mqc *to;

    daemon_start(d, "stall_timeout = \"1h\";\n");
    to = subscriber(d, "t");
    actor_start(&publisher, publish_stream, &s);
    for (uint32_t i = 0; i < s.n; i += 200) {
        expect_stream(to, i, 200, 20);
        if (i % 400 == 0) {
            daemon_kill(d);
            daemon_restart(d);
        }
    }
    actor_tell(&publisher, 0);
    actor_join(&publisher);
    mqc_close(to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(every_size_is_published),
        DAEMON_TEST(every_size_is_lent),
        DAEMON_TEST(every_size_reaches_a_name),
        DAEMON_TEST(every_size_is_kept_also_when_its_sender_has_gone),
        DAEMON_TEST(every_size_is_asked_and_answered),
        DAEMON_TEST(several_receivers_read_one_payload),
        DAEMON_TEST(a_full_pool_is_EAGAIN_until_places_come_back),
        DAEMON_TEST(a_stream_of_all_sizes_passes_a_small_pool),
        DAEMON_TEST(so_does_one_in_batches),
        DAEMON_TEST(so_does_one_of_which_many_are_held),
        DAEMON_TEST(who_publishes_to_itself_reads_its_own_pool),
        DAEMON_TEST(a_place_is_free_at_once_if_nobody_wants_it),
        DAEMON_TEST(S7_what_one_who_left_has_sent_is_read_to_the_end),
        DAEMON_TEST(S7_what_one_who_was_killed_has_sent_is_read_to_the_end),
        DAEMON_TEST(S7_what_a_dead_receiver_held_comes_back),
        DAEMON_TEST(a_kill_of_the_broker_loses_no_payload),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
