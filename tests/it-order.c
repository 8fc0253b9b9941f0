/* P1, with real processes: what a subscriber reads never rises in priority, is first in, first out
 * within one publisher and priority, and nothing is lost or comes twice.
 *
 * Four publisher processes send 20,000 messages of random priorities. In the first tests the
 * subscriber begins to read when the broker has taken the last of them. A publisher's window, 1
 * MiB, of which a quarter is kept for urgent messages, has room for 3,072 small ones; so each
 * publisher process uses two handles in turn. That changes nothing: what it sends at one priority
 * stands in one kernel queue, in its order. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"

enum {
    PUBLISHERS = 4,
    EACH = 5000,
    ALL = PUBLISHERS * EACH,
    HANDLES = 2,
    LEVELS = MQC_MAX_PRIORITY + 1,
    /* Request queue, urgent one, and nine reply queues as narrow as can be. */
    NARROW_ONLY = 10 * (8192 + 96) + 10 * (1280 + 96) + 9 * 10 * (464 + 96),
};

/* A payload. `number` counts a publisher's messages, of all priorities together. */
struct note {
    uint32_t publisher;
    uint32_t number;
};

struct part {
    const char *instance;
    uint32_t publisher;
    int batching;
    unsigned n_handles;
    uint32_t seed;
};

/* xorshift: the same priorities in each run. */
static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* An actor: publishes its messages when it is told to. */
static void publish_all(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *handles[HANDLES];
    uint32_t random = part->seed + part->publisher * 7919;
    char topic[32];

    snprintf(topic, sizeof(topic), "order/%u", part->publisher);
    for (unsigned i = 0; i < part->n_handles; i++) {
        handles[i] = actor_open(part->instance, NULL, MQC_PUBLISH_ONLY);
        ACTOR_REQUIRE(mqc_set_batching(handles[i], part->batching) == 0);
    }
    actor_tell(self, 0);
    actor_hear(self);
    for (uint32_t n = 0; n < EACH; n++) {
        const struct note note = {.publisher = part->publisher, .number = n};

        ACTOR_REQUIRE(mqc_publish(handles[n % part->n_handles], topic, &note, sizeof(note),
                                  next_random(&random) % LEVELS) == 0);
    }
    for (unsigned i = 0; i < part->n_handles; i++)
        mqc_close(handles[i]);
}

/* What was read so far. */
struct tally {
    uint32_t next[PUBLISHERS][LEVELS]; /* a number that may come next there, at least */
    bool seen[PUBLISHERS][EACH];
    unsigned n;
    unsigned n_twice;
    unsigned n_out_of_order;
    unsigned n_rises; /* of priority */
    unsigned priority;
};

static void take(struct tally *t, const struct mqc_message *message)
{
    struct note note;

    assert_int_equal(message->size, sizeof(note));
    memcpy(&note, message->payload, sizeof(note));
    assert_true(note.publisher < PUBLISHERS && note.number < EACH && message->priority < LEVELS);
    t->n_rises += message->priority > t->priority;
    t->priority = message->priority;
    t->n_twice += t->seen[note.publisher][note.number];
    t->seen[note.publisher][note.number] = true;
    t->n_out_of_order += note.number < t->next[note.publisher][message->priority];
    t->next[note.publisher][message->priority] = note.number + 1;
    t->n++;
}

static void read_all(struct tally *t, struct mqc *subscriber)
{
    struct mqc_message message;

    t->priority = MQC_MAX_PRIORITY;
    while (t->n < ALL) {
        if (mqc_receive(subscriber, &message, PATIENCE_MS) < 0)
            fail_msg("after %u of %d messages: %s", t->n, ALL, mqc_last_error());
        take(t, &message);
        mqc_message_free(&message);
    }
    assert_int_equal(mqc_receive(subscriber, &message, 0), -EAGAIN);
}

static void start_publishers(struct actor actors[PUBLISHERS], struct part *part)
{
    for (part->publisher = 0; part->publisher < PUBLISHERS; part->publisher++)
        actor_start(&actors[part->publisher], publish_all, part);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        actor_hear(&actors[i]); /* it is connected */
    for (unsigned i = 0; i < PUBLISHERS; i++)
        actor_tell(&actors[i], 0);
}

static void join_publishers(struct actor actors[PUBLISHERS])
{
    for (unsigned i = 0; i < PUBLISHERS; i++)
        actor_join(&actors[i]);
}

static void print_figures(const char *what, const struct tally *t)
{
    printf("%s: %u of %d messages of %d publishers; %u twice, %u out of order within (publisher, "
           "priority), priority rose %u times\n",
           what, t->n, ALL, PUBLISHERS, t->n_twice, t->n_out_of_order, t->n_rises);
}

/* The subscriber reads when all is published. */
static void read_afterwards(struct daemon *d, const char *what)
{
    struct tally *t = calloc(1, sizeof(*t));
    struct mqc *subscriber = daemon_open(d, NULL, 0);
    struct actor actors[PUBLISHERS];
    struct part part = {.instance = d->instance, .n_handles = HANDLES, .seed = 2463534242};

    assert_non_null(t);
    assert_int_equal(mqc_subscribe(subscriber, "order/#", 0), 0);
    start_publishers(actors, &part);
    join_publishers(actors);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) == ALL);
    read_all(t, subscriber);
    print_figures(what, t);
    assert_int_equal(t->n_rises, 0);
    assert_int_equal(t->n_out_of_order, 0);
    assert_int_equal(t->n_twice, 0);
    assert_int_equal(mqc_missed(subscriber), 0);
    mqc_close(subscriber);
    free(t);
}

/* … or meanwhile: priorities rise then, as they come. */
static void read_meanwhile(struct daemon *d, const char *what, int batching)
{
    struct tally *t = calloc(1, sizeof(*t));
    struct mqc *subscriber = daemon_open(d, NULL, 0);
    struct actor actors[PUBLISHERS];
    struct part part = {
        .instance = d->instance, .n_handles = 1, .batching = batching, .seed = 521288629};

    assert_non_null(t);
    assert_int_equal(mqc_subscribe(subscriber, "order/#", 0), 0);
    start_publishers(actors, &part);
    read_all(t, subscriber);
    join_publishers(actors);
    print_figures(what, t);
    assert_int_equal(t->n_out_of_order, 0);
    assert_int_equal(t->n_twice, 0);
    assert_int_equal(mqc_missed(subscriber), 0);
    mqc_close(subscriber);
    free(t);
}

/* No stall is to be called on a machine that is slow. */
static const char patient[] = "stall_timeout = \"1h\";\n";

static void P1_what_is_read_afterwards_never_rises_in_priority(void **state)
{
    daemon_start(*state, patient);
    read_afterwards(*state, "read afterwards, wide reply queue");
}

static void P1_holds_with_a_narrow_reply_queue_as_well(void **state)
{
    struct daemon *d = *state;

    d->queue_bytes = NARROW_ONLY;
    daemon_start(d, patient);
    read_afterwards(d, "read afterwards, narrow reply queue");
}

static void what_is_read_meanwhile_keeps_the_order_of_each_publisher_and_priority(void **state)
{
    daemon_start(*state, patient);
    read_meanwhile(*state, "read meanwhile, one message a call", 0);
}

static void batching_publishers_keep_it_as_well(void **state)
{
    daemon_start(*state, patient);
    read_meanwhile(*state, "read meanwhile, batched", 1);
}

static void a_narrow_reply_queue_keeps_it_as_well(void **state)
{
    struct daemon *d = *state;

    d->queue_bytes = NARROW_ONLY;
    daemon_start(d, patient);
    read_meanwhile(d, "read meanwhile, batched, narrow reply queue", 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(P1_what_is_read_afterwards_never_rises_in_priority),
        DAEMON_TEST(P1_holds_with_a_narrow_reply_queue_as_well),
        DAEMON_TEST(what_is_read_meanwhile_keeps_the_order_of_each_publisher_and_priority),
        DAEMON_TEST(batching_publishers_keep_it_as_well),
        DAEMON_TEST(a_narrow_reply_queue_keeps_it_as_well),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
