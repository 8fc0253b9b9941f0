/* The largest messages: borrowed from the publisher's own pool, written once, read in place. Looked
 * at in samples, one word of each page. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"

#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

enum {
    PAGE = 4096,
    MESSAGES = 5,
};

/* A word of each page, and the last byte. */
static void put_samples(uint8_t *payload, size_t size, uint64_t seed)
{
    for (size_t at = 0; size - at >= PAGE; at += PAGE) {
        uint64_t word = seed * GIB + at;

        memcpy(payload + at, &word, sizeof(word));
    }
    payload[size - 1] = (uint8_t)(seed * 37 + 1);
}

static bool samples_are(const uint8_t *payload, size_t size, uint64_t seed)
{
    for (size_t at = 0; size - at >= PAGE; at += PAGE) {
        uint64_t word;

        memcpy(&word, payload + at, sizeof(word));
        if (word != seed * GIB + at)
            return false;
    }
    return payload[size - 1] == (uint8_t)(seed * 37 + 1);
}

struct part {
    const char *instance;
    size_t size;
};

/* An actor: receives so many, and holds the last one until it is told to let it go. */
static void receive(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, 0);
    struct mqc_message message;
    uint64_t n;

    ACTOR_REQUIRE(mqc_subscribe(client, "large", 0) == 0);
    actor_tell(self, 0);
    n = actor_hear(self);
    for (uint64_t i = 0; i < n; i++) {
        ACTOR_REQUIRE(mqc_receive(client, &message, PATIENCE_MS) == 0);
        ACTOR_REQUIRE(message.size == part->size);
        ACTOR_REQUIRE(samples_are(message.payload, message.size, i));
        if (i + 1 < n)
            mqc_message_free(&message);
    }
    actor_tell(self, 0);
    actor_hear(self);
    ACTOR_REQUIRE(samples_are(message.payload, message.size, n - 1)); /* its publisher has gone */
    mqc_message_free(&message);
    mqc_close(client);
}

static void publish_loan(struct mqc *client, size_t size, uint64_t seed)
{
    struct mqc_publication p = {.topic = "large", .size = size, .priority = 8};
    void *place;

    if (mqc_loan(client, &place, size, 0) < 0)
        fail_msg("cannot borrow %zu bytes: %s", size, mqc_last_error());
    put_samples(place, size, seed);
    p.payload = place;
    if (mqc_publish_loan(client, &p) < 0)
        fail_msg("cannot publish %zu bytes: %s", size, mqc_last_error());
}

/* A few of this size pass; the last is read once more when its publisher has gone. */
static void pass(struct daemon *d, size_t size, uint64_t messages)
{
    const struct part part = {.instance = d->instance, .size = size};
    struct actor receiver;
    struct mqc *client;

    actor_start(&receiver, receive, &part);
    actor_hear(&receiver);
    client = daemon_open(d, NULL, 0);
    assert_true(mqc_payload_max(client, "large") >= size);
    actor_tell(&receiver, messages);
    for (uint64_t i = 0; i < messages; i++)
        publish_loan(client, size, i);
    actor_hear(&receiver);
    mqc_close(client);
    PATIENCE_UNTIL(daemon_rows(d) == 1);
    assert_int_equal(daemon_segments(d, ".pool"), 2); /* the publisher's, and the receiver's own */
    actor_tell(&receiver, 0);
    actor_join(&receiver);
    PATIENCE_UNTIL(daemon_segments(d, ".pool") == 0);
}

static void loans_of_64_mib_pass_and_outlive_their_publisher(void **state)
{
    struct daemon *d = *state;

    daemon_start(d, NULL);
    pass(d, 64 * MIB, MESSAGES);
}

/* Also by a pool that has room for one at a time: the publisher waits for it to come back. */
static void a_loan_waits_for_the_only_place(void **state)
{
    struct daemon *d = *state;

    daemon_start(d, "pool_max = \"80M\";");
    pass(d, 64 * MIB, MESSAGES);
}

/* Bytes that /dev/shm has to spare, and memory to put behind them. */
static uint64_t room_in_shm(void)
{
    struct statvfs shm;
    unsigned long available = 0;
    char line[256];
    FILE *file = fopen("/proc/meminfo", "re");

    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL && available == 0)
        sscanf(line, "MemAvailable: %lu", &available);
    fclose(file);
    assert_int_equal(statvfs("/dev/shm", &shm), 0);

    uint64_t room = (uint64_t)shm.f_bavail * shm.f_frsize;
    uint64_t memory = (uint64_t)available * 1024;

    return room < memory ? room : memory;
}

static void a_loan_of_1_gib_passes(void **state)
{
    struct daemon *d = *state;
    uint64_t room = room_in_shm();

    if (room < 2 * GIB) {
        printf("skipped: /dev/shm has room for %llu MiB, and this takes 1,024 with some to spare\n",
               (unsigned long long)(room / MIB));
        skip();
    }
    daemon_start(d, "pool_max = \"1040M\";");
    pass(d, GIB, 2);
}

static void what_is_larger_than_pool_max_is_said_to_be_too_large(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    size_t most;
    void *place;

    daemon_start(d, "pool_max = \"1M\";");
    client = daemon_open(d, NULL, 0);
    most = mqc_payload_max(client, "large");
    assert_true(most < MIB);
    assert_int_equal(mqc_loan(client, &place, most + 1, 0), -EMSGSIZE);
    assert_int_equal(mqc_loan(client, &place, GIB, MQC_NOWAIT), -EMSGSIZE);
    assert_int_equal(mqc_loan(client, &place, most, 0), 0);
    memset(place, 0xff, most);
    assert_int_equal(mqc_loan_return(client, place), 0);
    mqc_close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(loans_of_64_mib_pass_and_outlive_their_publisher),
        DAEMON_TEST(a_loan_waits_for_the_only_place),
        DAEMON_TEST(a_loan_of_1_gib_passes),
        DAEMON_TEST(what_is_larger_than_pool_max_is_said_to_be_too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
