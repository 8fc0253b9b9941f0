/* A hundred and twenty-eight clients of one user within the kernel's default for its queue memory:
 * their reply queues are as narrow as can be, and each of them gets large messages and batches of
 * small ones like any other client. How fast, beside clients with queues as wide as can be, is
 * printed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/stamp.h"

enum {
    DEFAULT_LIMIT = 819200, /* RLIMIT_MSGQUEUE */
    CLIENTS = 128,
    NARROWEST = 464,
    FEW = 8, /* receivers that are measured with queues of either width */
    LARGE = 1 << 20,
    SMALL = 64,
    N_LARGE = 8, /* messages that all of them get, checked to the last byte, */
    N_SMALL = 4000,
#ifdef __SANITIZE_ADDRESS__
    TIMED_LARGE = 40, /* … and those that are timed */
    TIMED_SMALL = 20000,
#else
    TIMED_LARGE = 1000,
    TIMED_SMALL = 1000000,
#endif
    ROUNDS = 3,
};

/* Streams of the one publisher. */
enum { LARGE_ONES, SMALL_ONES, N_STREAMS };

static const char narrow[] = "max_clients = 128; stall_timeout = \"1h\";";
static const char wide[] = "max_clients = 9; stall_timeout = \"1h\";";

/* ---- Receivers ---- */

/* What is to be expected of the messages from here on. */
struct reading {
    uint32_t next[N_STREAMS];
    bool thorough; /* look at all of each */
};

static bool as_expected(struct reading *r, const struct mqc_message *m)
{
    struct stamp stamp;

    if (m->size != LARGE && m->size != SMALL)
        return false;
    if (r->thorough && !stamp_read(m->payload, m->size, &stamp))
        return false;
    memcpy(&stamp, m->payload, sizeof(stamp));
    return stamp.stream == (m->size == LARGE ? LARGE_ONES : SMALL_ONES) &&
           stamp.number == r->next[stamp.stream]++;
}

/* An actor. It hears how many messages to receive, and whether to look at all of each, and says
 * when it has had them; 0 ends it. */
static void receive(struct actor *self, const void *context)
{
    struct mqc *client = actor_open(context, NULL, 0);
    uint64_t n;

    ACTOR_REQUIRE(mqc_subscribe(client, "work", 0) == 0);
    actor_tell(self, 0);
    while ((n = actor_hear(self)) > 0) {
        struct reading reading = {.thorough = actor_hear(self) != 0};

        for (uint64_t i = 0; i < n; i++) {
            struct mqc_message message;

            ACTOR_REQUIRE(mqc_receive(client, &message, -1) == 0);
            ACTOR_REQUIRE(as_expected(&reading, &message));
            mqc_message_free(&message);
        }
        actor_tell(self, n);
    }
    ACTOR_REQUIRE(mqc_missed(client) == 0);
    mqc_close(client);
}

static void start(struct actor *receivers, unsigned n, const struct daemon *d)
{
    for (unsigned i = 0; i < n; i++) {
        actor_start(&receivers[i], receive, d->instance);
        actor_hear(&receivers[i]);
    }
}

static void order(const struct actor *receivers, unsigned n, uint64_t messages, bool thorough)
{
    for (unsigned i = 0; i < n; i++) {
        actor_tell(&receivers[i], messages);
        actor_tell(&receivers[i], thorough);
    }
}

static void await(const struct actor *receivers, unsigned n, uint64_t messages)
{
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(actor_hear(&receivers[i]), messages);
}

static void dismiss(struct actor *receivers, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        actor_tell(&receivers[i], 0);
        actor_join(&receivers[i]);
    }
}

/* ---- The publisher ---- */

static void publish(struct mqc *client, uint32_t stream, uint32_t number)
{
    static uint8_t payload[LARGE];
    const struct stamp stamp = {
        .stream = stream, .number = number, .size = stream == LARGE_ONES ? LARGE : SMALL};

    stamp_fill(payload, &stamp);
    assert_int_equal(mqc_publish(client, "work", payload, stamp.size, 8), 0);
}

/* Read what has come to this client too. */
static uint64_t read_own(struct mqc *client, struct reading *reading, int timeout_ms)
{
    struct mqc_message message;
    uint64_t n = 0;

    while (mqc_receive(client, &message, timeout_ms) == 0) {
        assert_true(as_expected(reading, &message));
        mqc_message_free(&message);
        timeout_ms = 0;
        n++;
    }
    return n;
}

static void a_hundred_and_twenty_eight_clients_get_all_there_is(void **state)
{
    struct daemon *d = *state;
    static struct actor others[CLIENTS - 1];
    struct reading reading = {.thorough = true};
    const struct mqc_options options = {.instance = d->instance};
    struct mqc *client, *surplus;
    uint64_t read = 0;

    d->queue_bytes = DEFAULT_LIMIT;
    daemon_start(d, narrow);
    start(others, CLIENTS - 1, d);
    client = daemon_open(d, NULL, 0); /* the last one is this process */
    assert_int_equal(mqc_subscribe(client, "work", 0), 0);
    assert_int_equal(daemon_rows(d), CLIENTS);
    assert_int_equal(mqc_open(&surplus, &options), -ENFILE);
    for (uint32_t i = 0; i < CLIENTS; i++)
        assert_int_equal(atomic_load(&board_row(daemon_board(d), i)->queue.width), NARROWEST);

    order(others, CLIENTS - 1, N_LARGE + N_SMALL, true);
    assert_int_equal(mqc_set_batching(client, 1), 0);
    for (uint32_t i = 0; i < N_LARGE; i++) {
        publish(client, LARGE_ONES, i);
        for (uint32_t k = 0; k < N_SMALL / N_LARGE; k++) {
            publish(client, SMALL_ONES, i * (N_SMALL / N_LARGE) + k);
            if (k % 64 == 0)
                read += read_own(client, &reading, 0);
        }
    }
    assert_int_equal(mqc_flush(client), 0);
    while (read < N_LARGE + N_SMALL)
        read += read_own(client, &reading, PATIENCE_MS);
    await(others, CLIENTS - 1, N_LARGE + N_SMALL);
    assert_int_equal(mqc_missed(client), 0);
    assert_true(board_get(&daemon_board(d)->totals.boxed) > 0);
    printf("%d clients had %d messages of %d bytes and %d of %d each; %llu batches, %llu of them "
           "by an outbox\n",
           CLIENTS, N_LARGE, LARGE, N_SMALL, SMALL,
           (unsigned long long)board_get(&daemon_board(d)->totals.batches_out),
           (unsigned long long)board_get(&daemon_board(d)->totals.boxed));
    dismiss(others, CLIENTS - 1);
    mqc_close(client);
}

/* ---- How fast ---- */

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Messages a second, of one publisher to each of `n` receivers. */
static double run(struct mqc *client, const struct actor *receivers, unsigned n, uint32_t stream)
{
    const uint32_t most = stream == LARGE_ONES ? TIMED_LARGE : TIMED_SMALL;
    const uint32_t messages = n > FEW ? most / 10 : most;
    double begun;

    order(receivers, n, messages, false);
    begun = seconds();
    for (uint32_t i = 0; i < messages; i++)
        publish(client, stream, i);
    assert_int_equal(mqc_flush(client), 0);
    await(receivers, n, messages);
    return messages / (seconds() - begun);
}

/* Of one geometry; the best of all rounds is kept. */
struct speed {
    uint32_t width;
    double small_to[3]; /* one, FEW, and for narrow queues all others */
    double large_to[3];
};

static void keep_better(double *best, double now)
{
    if (now > *best)
        *best = now;
}

/* With so many receivers, the first few of which are listening for a beginning. */
static void measure_to(struct daemon *d, unsigned n, double *small, double *large)
{
    static struct actor receivers[CLIENTS - 1];
    struct mqc *client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);

    assert_int_equal(mqc_set_batching(client, 1), 0);
    start(receivers, n, d);
    keep_better(small, run(client, receivers, n, SMALL_ONES));
    keep_better(large, run(client, receivers, n, LARGE_ONES));
    dismiss(receivers, n);
    mqc_close(client);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
}

static void measure(struct daemon *d, const char *config, bool all, struct speed *speed)
{
    const unsigned numbers[] = {1, FEW, CLIENTS - 1};
    struct mqc *client;

    daemon_start(d, config);
    client = daemon_open(d, NULL, 0);
    speed->width = atomic_load(&board_row(daemon_board(d), 0)->queue.width);
    mqc_close(client);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    for (unsigned i = 0; i < (all ? 3 : 2); i++)
        measure_to(d, numbers[i], &speed->small_to[i], &speed->large_to[i]);
    assert_int_equal(daemon_stop(d), 0);
}

static void print_speed(const struct speed *s, bool all)
{
    printf("reply queues %u wide: 1->1 %.0f/s of %d bytes, %.0f/s of 1 MiB; 1->%d %.0f/s, %.0f/s",
           s->width, s->small_to[0], SMALL, s->large_to[0], FEW, s->small_to[1], s->large_to[1]);
    if (all)
        printf("; 1->%d %.0f/s, %.0f/s", CLIENTS - 1, s->small_to[2], s->large_to[2]);
    printf("\n");
}

/* Nothing is asserted of the figures. */
static void how_fast_narrow_queues_are_beside_wide_ones(void **state)
{
    struct daemon *d = *state;
    struct speed of_narrow = {0}, of_wide = {0};

    d->queue_bytes = DEFAULT_LIMIT;
    for (unsigned i = 0; i < ROUNDS; i++) {
        measure(d, narrow, i == 0, &of_narrow);
        measure(d, wide, false, &of_wide);
    }
    assert_true(of_narrow.width < of_wide.width);
    print_speed(&of_narrow, true);
    print_speed(&of_wide, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(a_hundred_and_twenty_eight_clients_get_all_there_is),
        DAEMON_TEST(how_fast_narrow_queues_are_beside_wide_ones),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
