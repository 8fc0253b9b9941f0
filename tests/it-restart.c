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
#include "tests/support/load.h"
#include "tests/support/patience.h"
#include "tests/support/stamp.h"

enum { KILLS = 25 };

static void kill_and_restart(struct daemon *d, uint32_t *random, uint32_t most)
{
    load_wait(d, random, most);
    daemon_kill(d);
    daemon_restart(d);
}

static void K_clients_go_on_through_kills_under_load(void **state)
{
    struct daemon *d = *state;
    const struct mqc_publication kept = {
        .topic = "kept", .payload = "this", .size = 4, .priority = 8, .flags = MQC_RETAIN};
    struct mqc_message message;
    struct load load;
    struct mqc *client;
    uint32_t random = 36243606;

    daemon_start(d, "stall_timeout = \"1h\";\n");
    client = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_publish_with(client, &kept), 0);
    load_begin(&load, d, sizeof(struct stamp));
    for (unsigned i = 0; i < KILLS; i++)
        kill_and_restart(d, &random, 3000);
    load_end(&load);

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
    struct load load;
    uint32_t random = 521288629;

    /* So small that publishers wait for their pools as well, and queues so narrow that batches do
     * not fit. */
    daemon_start(d, "stall_timeout = \"1h\"; pool_max = \"2M\"; max_clients = 120;\n");
    load_begin(&load, d, LOAD_LARGEST);
    for (unsigned i = 0; i < KILLS; i++)
        kill_and_restart(d, &random, 600);
    load_end(&load);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    PATIENCE_UNTIL(daemon_segments(d, ".pool") == 0);
    assert_int_equal(daemon_segments(d, ".outbox"), 0);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->references_used) == 0);
}

static void a_publisher_that_waits_for_room_is_woken_by_the_next_broker(void **state)
{
    struct daemon *d = *state;
    const struct load_part part = {
        .instance = d->instance, .largest = sizeof(struct stamp), .batching = 1};
    struct actor publisher;
    struct mqc *subscriber;
    uint64_t total = UINT64_MAX;
    uint64_t n = 0;

    daemon_start(d, "stall_timeout = \"1h\";\n");
    subscriber = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(subscriber, "load", 0), 0);
    actor_start(&publisher, load_publish, &part);
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
    const struct load_part part = {.instance = d->instance};
    struct actor subscriber;

    daemon_start(d, NULL);
    actor_start(&subscriber, load_read, &part);
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
