/* Flow: a slow subscriber slows its publishers and costs the broker no memory; a stalled one loses
 * messages, exactly counted, or its session, or makes its publishers wait; two that wait for each
 * other do not stand still (P4–P7). */
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
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

enum {
    MILLION = SANITIZED ? 200000 : 1000000,
    MEGABYTE = 1 << 20,
};

struct part {
    const char *instance;
    const char *topic;
    const char *other;
    uint32_t n;
    int batching;
};

/* The window of a publisher, as the board says. */
static uint64_t window(const struct daemon *d)
{
    return daemon_board(d)->window;
}

static uint64_t total_refused(const struct board_header *board)
{
    const _Atomic uint64_t *words = (const _Atomic uint64_t *)&board->refusals;
    uint64_t n = 0;

    for (size_t i = 0; i < sizeof(board->refusals) / sizeof(*words); i++)
        n += board_get(&words[i]);
    return n;
}

/* An actor: publishes the numbers from 0 on, and waits for room whenever there is none. */
static void publish_numbers(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, MQC_PUBLISH_ONLY);

    ACTOR_REQUIRE(mqc_set_batching(client, part->batching) == 0);
    actor_tell(self, 0);
    for (uint32_t i = 0; i < part->n; i++)
        ACTOR_REQUIRE(mqc_publish(client, part->topic, &i, sizeof(i), 8) == 0);
    ACTOR_REQUIRE(mqc_flush(client) == 0);
    actor_tell(self, part->n);
    mqc_close(client);
}

/* Receive one; the number in it. */
static uint32_t receive_number(struct mqc *client)
{
    struct mqc_message message;
    uint32_t number;

    if (mqc_receive(client, &message, PATIENCE_MS) < 0)
        fail_msg("%s", mqc_last_error());
    assert_int_equal(message.size, sizeof(number));
    memcpy(&number, message.payload, sizeof(number));
    mqc_message_free(&message);
    return number;
}

/* ---- Slow ---- */

static void
a_slow_subscriber_slows_its_publisher_and_the_brokers_memory_stays_in_bound(void **state)
{
    struct daemon *d = *state;
    const struct part part = {
        .instance = d->instance, .topic = "slow", .n = MILLION, .batching = 1};
    const struct timespec moment = {.tv_nsec = 1000000};
    const struct board_header *board;
    struct mqc *subscriber;
    struct actor publisher;
    uint64_t waiting_max = 0;
    uint64_t memory_before, memory;

    daemon_start(d, "stall_timeout = \"1h\";\n");
    board = daemon_board(d);
    subscriber = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(subscriber, "slow", 0), 0);
    memory_before = daemon_status(d, "RssAnon");
    actor_start(&publisher, publish_numbers, &part);
    actor_hear(&publisher);

    /* Nothing is read: it stands still with its window used up (a quarter is kept for urgent). */
    PATIENCE_UNTIL(board_get(&board_row(board, 0)->waiting_bytes) >= window(d) / 2);
    assert_false(actor_has_said(&publisher));
    for (uint32_t i = 0; i < part.n; i++) {
        uint64_t waiting = board_get(&board_row(board, 0)->waiting_bytes);

        assert_int_equal(receive_number(subscriber), i);
        waiting_max = waiting > waiting_max ? waiting : waiting_max;
        if (i % 1024 == 0)
            nanosleep(&moment, NULL);
    }
    memory = daemon_status(d, "RssAnon");
    printf(
        "%u messages through a slow subscriber: at most %llu KiB waited; the broker's own memory "
        "grew by %lld KiB, its store to %llu KiB\n",
        part.n, (unsigned long long)(waiting_max / 1024),
        (long long)memory - (long long)memory_before,
        (unsigned long long)(board_get(&board->store_allocated) / 1024));
    assert_int_equal(actor_hear(&publisher), part.n);
    actor_join(&publisher);
    assert_true(waiting_max <= window(d));
    assert_true(board_get(&board->store_allocated) <= 4 * MEGABYTE);
    if (!SANITIZED) /* whose own memory grows */
        assert_true(memory <= memory_before + 512);
    assert_int_equal(mqc_missed(subscriber), 0);
    assert_int_equal(total_refused(board), 0);
    mqc_close(subscriber);
}

/* ---- Stalled (P7) ---- */

/* An actor: subscribes, and when it hears of it reads all that comes until the end ("end" as the
 * payload). Says how many it read, how many of these without a gap from the first on, and what it
 * missed, as the library says. */
static void read_to_the_end(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, 0);
    struct mqc_message message;
    uint64_t n = 0;
    uint32_t unbroken = 0;
    bool end = false;

    ACTOR_REQUIRE(mqc_subscribe(client, part->topic, 0) == 0);
    actor_tell(self, 0);
    while (!end) {
        ACTOR_REQUIRE(mqc_receive(client, &message, -1) == 0);
        end = message.size == 3;
        n += !end;
        unbroken += !end && memcmp(message.payload, &unbroken, sizeof(unbroken)) == 0;
        mqc_message_free(&message);
    }
    actor_tell(self, n);
    actor_tell(self, unbroken);
    actor_tell(self, mqc_missed(client));
    mqc_close(client);
}

/* Under a policy that drops. Returns how many of what was published first it read without a gap. */
static uint64_t publish_past_a_stalled_subscriber(struct daemon *d, const char *settings)
{
    enum { MESSAGES = 20000 };
    const struct part part = {
        .instance = d->instance, .topic = "numbers", .n = MESSAGES, .batching = 1};
    const struct board_header *board;
    struct actor publisher, stalled;
    struct mqc *reader, *closer;
    uint64_t dropped, read, unbroken, missed;

    daemon_start(d, settings);
    board = daemon_board(d);
    actor_start(&stalled, read_to_the_end, &part); /* row 0 */
    actor_hear(&stalled);
    actor_pause(&stalled);
    reader = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(reader, "numbers", 0), 0);
    actor_start(&publisher, publish_numbers, &part);
    actor_hear(&publisher);
    for (uint32_t i = 0; i < MESSAGES; i++)
        assert_int_equal(receive_number(reader), i);
    assert_int_equal(actor_hear(&publisher), MESSAGES);
    actor_join(&publisher);
    assert_true(board_get(&board_row(board, 0)->stalled_times) > 0);

    actor_resume(&stalled);
    closer = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_publish(closer, "numbers", "end", 3, 0), 0);
    read = actor_hear(&stalled);
    unbroken = actor_hear(&stalled);
    missed = actor_hear(&stalled);
    dropped = board_get(&board->drops.overflow);
    printf("%d messages past a stalled subscriber: it read %llu and missed %llu; dropped on the "
           "board %llu\n",
           MESSAGES, (unsigned long long)read, (unsigned long long)missed,
           (unsigned long long)dropped);
    assert_int_equal(read + missed, MESSAGES);
    assert_int_equal(missed, dropped);
    assert_true(missed > 0);
    assert_int_equal(mqc_missed(reader), 0);
    assert_int_equal(total_refused(board), 0);
    actor_join(&stalled);
    mqc_close(closer);
    mqc_close(reader);
    return unbroken;
}

static void
P7_a_stalled_subscriber_loses_messages_exactly_counted_and_nobody_else_does(void **state)
{
    publish_past_a_stalled_subscriber(*state, "stall_timeout = \"200ms\";\n");
}

static void P7_drop_newest_leaves_it_what_came_first(void **state)
{
    struct daemon *d = *state;
    uint64_t unbroken = publish_past_a_stalled_subscriber(
        d, "stall_timeout = \"200ms\";\noverflow = \"drop-newest\";\n");

    assert_true(unbroken >= window(d) / 2 / 256); /* half of a window, and what was in its queue */
}

static void P7_block_loses_nothing_and_keeps_the_publisher_waiting(void **state)
{
    enum { MESSAGES = 20000 };
    struct daemon *d = *state;
    const struct part part = {
        .instance = d->instance, .topic = "numbers", .n = MESSAGES, .batching = 1};
    const struct board_header *board;
    struct actor publisher, stalled;
    struct mqc *closer;

    daemon_start(d, "stall_timeout = \"50ms\";\noverflow = \"block\";\n");
    board = daemon_board(d);
    actor_start(&stalled, read_to_the_end, &part); /* row 0 */
    actor_hear(&stalled);
    actor_pause(&stalled);
    actor_start(&publisher, publish_numbers, &part);
    actor_hear(&publisher);
    PATIENCE_UNTIL(board_get(&board_row(board, 0)->stalled) == 1);
    assert_false(actor_has_said(&publisher));

    actor_resume(&stalled);
    assert_int_equal(actor_hear(&publisher), MESSAGES);
    actor_join(&publisher);
    closer = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_publish(closer, "numbers", "end", 3, 0), 0);
    for (unsigned i = 0; i < 2; i++) /* all of them, in order */
        assert_int_equal(actor_hear(&stalled), MESSAGES);
    assert_int_equal(actor_hear(&stalled), 0);
    assert_int_equal(board_get(&board->drops.overflow), 0);
    assert_int_equal(total_refused(board), 0);
    actor_join(&stalled);
    mqc_close(closer);
}

/* An actor: subscribes, and is told in the end that it was too slow. */
static void be_disconnected(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, 0);
    struct mqc_message message;
    int r;

    ACTOR_REQUIRE(mqc_subscribe(client, part->topic, 0) == 0);
    actor_tell(self, 0);
    actor_hear(self);
    while ((r = mqc_receive(client, &message, -1)) == 0)
        mqc_message_free(&message);
    ACTOR_REQUIRE(r == -ECONNRESET);
    ACTOR_REQUIRE(strstr(mqc_last_error(), "did not read") != NULL);
    ACTOR_REQUIRE(mqc_publish(client, "x", "x", 1, 8) == -ECONNRESET);
    mqc_close(client);
}

static void P7_disconnect_ends_a_stalled_session_and_says_why(void **state)
{
    enum { MESSAGES = 20000 };
    struct daemon *d = *state;
    const struct part part = {
        .instance = d->instance, .topic = "numbers", .n = MESSAGES, .batching = 1};
    const struct board_header *board;
    struct actor publisher, stalled;
    struct mqc *reader;

    daemon_start(d, "stall_timeout = \"200ms\";\noverflow = \"disconnect\";\n");
    board = daemon_board(d);
    actor_start(&stalled, be_disconnected, &part);
    actor_hear(&stalled);
    reader = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(reader, "numbers", 0), 0);
    actor_start(&publisher, publish_numbers, &part);
    actor_hear(&publisher);
    for (uint32_t i = 0; i < MESSAGES; i++)
        assert_int_equal(receive_number(reader), i);
    actor_join(&publisher);
    PATIENCE_UNTIL(board_get(&board->totals.ended) == 1);
    actor_tell(&stalled, 0);
    actor_join(&stalled);
    assert_true(daemon_said(d, "overflow"));
    mqc_close(reader);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    assert_true(board_get(&board->drops.gone) > 0);
}

/* ---- Two who wait for each other (P5) ---- */

/* An actor: publishes to the other, reading what has come only when it must. */
static void publish_to_each_other(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, 0);
    struct mqc_message message;
    uint32_t published = 0;
    uint32_t read = 0;

    ACTOR_REQUIRE(mqc_subscribe(client, part->topic, 0) == 0);
    ACTOR_REQUIRE(mqc_set_batching(client, part->batching) == 0);
    actor_tell(self, 0);
    actor_hear(self);
    while (published < part->n) {
        int r = mqc_publish(client, part->other, &published, sizeof(published), 8);

        ACTOR_REQUIRE(r == 0 || r == -EDEADLK);
        published += r == 0;
        if (r == 0)
            continue;
        do { /* nothing more can be kept for us meanwhile: receive, then publish again */
            r = mqc_receive(client, &message, 0);
            if (r == 0) {
                ACTOR_REQUIRE(memcmp(message.payload, &read, sizeof(read)) == 0);
                read++;
                mqc_message_free(&message);
            }
        } while (r == 0);
        ACTOR_REQUIRE(r == -EAGAIN);
    }
    ACTOR_REQUIRE(mqc_flush(client) == 0);
    for (; read < part->n; read++) {
        ACTOR_REQUIRE(mqc_receive(client, &message, PATIENCE_MS) == 0);
        ACTOR_REQUIRE(memcmp(message.payload, &read, sizeof(read)) == 0);
        mqc_message_free(&message);
    }
    actor_tell(self, mqc_missed(client));
    mqc_close(client);
}

static void both_publish_and_finish(struct daemon *d, int batching)
{
    struct part ping = {.instance = d->instance,
                        .topic = "to/ping",
                        .other = "to/pong",
                        .n = 20000,
                        .batching = batching};
    struct part pong = ping;
    struct actor actors[2];

    pong.topic = ping.other;
    pong.other = ping.topic;
    actor_start(&actors[0], publish_to_each_other, &ping);
    actor_start(&actors[1], publish_to_each_other, &pong);
    actor_hear(&actors[0]);
    actor_hear(&actors[1]);
    actor_tell(&actors[0], 0);
    actor_tell(&actors[1], 0);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(actor_hear(&actors[i]), 0);
    actor_join(&actors[0]);
    actor_join(&actors[1]);
    assert_int_equal(total_refused(daemon_board(d)), 0);
}

static void P5_two_who_publish_to_each_other_do_not_stand_still(void **state)
{
    daemon_start(*state, "stall_timeout = \"1h\";\n");
    both_publish_and_finish(*state, 0);
}

static void P5_nor_do_they_with_batching_and_the_smallest_windows(void **state)
{
    daemon_start(*state, "stall_timeout = \"1h\";\nstore_size = \"4M\";\n"); /* 64 KiB each */
    assert_int_equal(window(*state), 65536);
    both_publish_and_finish(*state, 1);
}

/* ---- Room ---- */

/* P4, P6: the library never publishes what would be refused; without waiting it says so. */
static void P4_a_publisher_out_of_room_is_told_and_nothing_is_refused(void **state)
{
    struct daemon *d = *state;
    const struct mqc_publication bulk = {
        .topic = "room", .payload = "x", .size = 1, .priority = 8, .flags = MQC_NOWAIT};
    struct mqc_publication urgent = bulk;
    struct mqc *subscriber, *publisher;
    unsigned n_bulk = 0;
    unsigned n_urgent = 0;
    int64_t r;

    daemon_start(d, "stall_timeout = \"1h\";\n");
    urgent.priority = 31;
    subscriber = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(subscriber, "room", 0), 0);
    publisher = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    for (int quiet = 0; quiet < 1000;) { /* -EAGAIN for a full request queue passes */
        r = mqc_publish_with(publisher, &bulk);
        assert_true(r == 0 || r == -EAGAIN);
        n_bulk += r == 0;
        quiet = r == 0 ? 0 : quiet + 1;
        if (r != 0)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    for (int quiet = 0; quiet < 1000;) {
        r = mqc_publish_with(publisher, &urgent);
        assert_true(r == 0 || r == -EAGAIN);
        n_urgent += r == 0;
        quiet = r == 0 ? 0 : quiet + 1;
        if (r != 0)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    printf("a window of %llu bytes: %u messages, then %u urgent ones\n",
           (unsigned long long)window(d), n_bulk, n_urgent);
    assert_true(n_bulk >= window(d) / 256 / 4 * 3);
    assert_true(n_urgent >= window(d) / 256 / 4);
    for (unsigned i = 0; i < n_bulk + n_urgent; i++) {
        struct mqc_message message;

        assert_int_equal(mqc_receive(subscriber, &message, PATIENCE_MS), 0);
        mqc_message_free(&message);
    }
    assert_int_equal(mqc_publish(publisher, "room", "x", 1, 8), 0); /* room again */
    assert_int_equal(total_refused(daemon_board(d)), 0);
    mqc_close(publisher);
    mqc_close(subscriber);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(a_slow_subscriber_slows_its_publisher_and_the_brokers_memory_stays_in_bound),
        DAEMON_TEST(P7_a_stalled_subscriber_loses_messages_exactly_counted_and_nobody_else_does),
        DAEMON_TEST(P7_drop_newest_leaves_it_what_came_first),
        DAEMON_TEST(P7_block_loses_nothing_and_keeps_the_publisher_waiting),
        DAEMON_TEST(P7_disconnect_ends_a_stalled_session_and_says_why),
        DAEMON_TEST(P5_two_who_publish_to_each_other_do_not_stand_still),
        DAEMON_TEST(P5_nor_do_they_with_batching_and_the_smallest_windows),
        DAEMON_TEST(P4_a_publisher_out_of_room_is_told_and_nothing_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
