/* Clients that wait for room, and for each other (rule P5), with a real broker: the wait ends with
 * -EDEADLK when nothing else can end it, and with room whenever something can. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"

enum {
    KIB = 1024,
    LARGE = 64 * KIB, /* a payload: always in the pool */
    MESSAGES = 200,   /* each publishes; a pool has room for a fraction of them */
};

/* Nobody's backlog is dropped for being slow: what is missing at the end was lost. */
static const char config[] = "pool_max = \"1M\";\noverflow = \"block\";\n";

struct part {
    const char *instance;
    const char *listens;
    const char *publishes;
    size_t size;
};

static struct mqc *begin(struct actor *self, const struct part *part)
{
    struct mqc *client = actor_open(part->instance, NULL, 0);

    if (part->listens != NULL)
        ACTOR_REQUIRE(mqc_subscribe(client, part->listens, 0) == 0);
    actor_tell(self, 0);
    actor_hear(self);
    return client;
}

/* The next message; false: none came in time. */
static bool read_one(struct mqc *client, uint32_t *read, int timeout_ms)
{
    struct mqc_message message;
    int r = mqc_receive(client, &message, timeout_ms);

    if (r == -EAGAIN)
        return false;
    ACTOR_REQUIRE(r == 0);
    ACTOR_REQUIRE(memcmp(message.payload, read, sizeof(*read)) == 0);
    mqc_message_free(&message);
    ++*read;
    return true;
}

static void end(struct actor *self, struct mqc *client, uint64_t word)
{
    ACTOR_REQUIRE(mqc_missed(client) == 0);
    actor_tell(self, word);
    actor_hear(self); /* so that nobody's messages go before they were read */
    mqc_close(client);
}

/* Publish all, reading what stands whenever there is no other way. Tells how often that was. */
static void publish_first(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = begin(self, part);
    uint8_t *payload = calloc(1, part->size);
    uint64_t stuck = 0;
    uint32_t read = 0;

    for (uint32_t i = 0; i < MESSAGES; i++) {
        int r;

        memcpy(payload, &i, sizeof(i));
        while ((r = mqc_publish(client, part->publishes, payload, part->size, 8)) == -EDEADLK) {
            ACTOR_REQUIRE(read_one(client, &read, PATIENCE_MS));
            while (read_one(client, &read, 0))
                ;
            stuck++;
        }
        ACTOR_REQUIRE(r == 0);
    }
    while (part->listens != NULL && read < MESSAGES)
        read_one(client, &read, PATIENCE_MS);
    free(payload);
    end(self, client, stuck);
}

/* Pass on what comes, one by one: -EDEADLK would be wrong. */
static void pass_on(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = begin(self, part);

    for (uint32_t i = 0; i < MESSAGES; i++) {
        struct mqc_message message;

        ACTOR_REQUIRE(mqc_receive(client, &message, PATIENCE_MS) == 0);
        ACTOR_REQUIRE(mqc_publish(client, part->publishes, message.payload, message.size, 8) == 0);
        mqc_message_free(&message);
    }
    end(self, client, 0);
}

static void read_slowly(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = begin(self, part);
    uint32_t read = 0;

    while (read < MESSAGES) {
        read_one(client, &read, PATIENCE_MS);
        if (read % 10 == 0)
            usleep(50000);
    }
    end(self, client, 0);
}

/* Let them begin together, and end together. Returns what they told, added up. */
static uint64_t play(struct actor *actors, uint32_t n)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < n; i++)
        actor_hear(&actors[i]);
    for (uint32_t i = 0; i < n; i++)
        actor_tell(&actors[i], 0);
    for (uint32_t i = 0; i < n; i++)
        sum += actor_hear(&actors[i]);
    for (uint32_t i = 0; i < n; i++)
        actor_tell(&actors[i], 0);
    for (uint32_t i = 0; i < n; i++)
        actor_join(&actors[i]);
    return sum;
}

static void P5_who_fills_its_own_pool_is_told_to_read(void **state)
{
    struct daemon *d = *state;
    struct part part = {.listens = "t", .publishes = "t", .size = LARGE};
    struct actor actor;

    daemon_start(d, config);
    part.instance = d->instance;
    actor_start(&actor, publish_first, &part);
    assert_true(play(&actor, 1) > 0);
}

static void two_publish_first(struct daemon *d, size_t size, const char *settings)
{
    struct part ping = {.listens = "to/ping", .publishes = "to/pong", .size = size};
    struct part pong = {.listens = "to/pong", .publishes = "to/ping", .size = size};
    struct actor actors[2];

    daemon_start(d, settings);
    ping.instance = pong.instance = d->instance;
    actor_start(&actors[0], publish_first, &ping);
    actor_start(&actors[1], publish_first, &pong);
    assert_true(play(actors, 2) > 0);
}

static void P5_two_who_fill_their_pools_for_each_other_are_told_to_read(void **state)
{
    two_publish_first(*state, LARGE, config);
}

/* A single message is most of a pool: neither has its credit of unread ones, and both wait. */
static void P5_so_are_two_with_a_message_each(void **state)
{
    two_publish_first(*state, 700 * KIB, config);
}

/* A chain, whose end is slow: all wait, the second with unread messages, and nobody in vain. */
static void P5_who_waits_for_a_slow_reader_just_waits(void **state)
{
    struct daemon *d = *state;
    struct part first = {.publishes = "one", .size = LARGE};
    struct part second = {.listens = "one", .publishes = "two"};
    struct part third = {.listens = "two"};
    struct actor actors[3];

    daemon_start(d, config);
    first.instance = second.instance = third.instance = d->instance;
    actor_start(&actors[0], publish_first, &first);
    actor_start(&actors[1], pass_on, &second);
    actor_start(&actors[2], read_slowly, &third);
    assert_int_equal(play(actors, 3), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(P5_who_fills_its_own_pool_is_told_to_read),
        DAEMON_TEST(P5_two_who_fill_their_pools_for_each_other_are_told_to_read),
        DAEMON_TEST(P5_so_are_two_with_a_message_each),
        DAEMON_TEST(P5_who_waits_for_a_slow_reader_just_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
