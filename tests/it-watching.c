/* Watching and running a broker: what is seen of one that hangs or is dead, what a second one is
 * told, new configurations, the clean stop, and what is found at a start. */
#include <errno.h>
#include <fcntl.h>
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
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "broker/persist.h"
#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/program.h"

static struct program p;

/* ---- A broker that says nothing ---- */

/* What mqstat says of it; to be freed. */
static json_t *look(const struct daemon *d)
{
    json_error_t error;
    json_t *json;

    if (PROGRAM(&p, "mqstat", "--json", "--instance", d->instance) != 0)
        fail_msg("mqstat: %s", p.err);
    json = json_loads(p.out, 0, &error);
    if (json == NULL)
        fail_msg("mqstat --json, line %d: %s", error.line, error.text);
    return json;
}

static bool is_alive(const json_t *json)
{
    const json_t *alive = json_object_get(json, "alive");

    assert_true(json_is_boolean(alive));
    return json_is_true(alive);
}

static void mqstat_answers_while_the_broker_hangs_and_after_it_died(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    json_t *json;

    daemon_start(d, NULL);
    client = daemon_open(d, "watched", 0);
    json = look(d);
    assert_true(is_alive(json));
    assert_int_equal(json_array_size(json_object_get(json, "clients")), 1);
    json_decref(json);

    daemon_pause(d);
    json = look(d);
    assert_true(is_alive(json));
    json_decref(json);
    daemon_resume(d);

    daemon_kill(d);
    json = look(d);
    assert_false(is_alive(json));
    assert_int_equal(json_integer_value(json_object_get(json, "schema")), 1);
    assert_int_equal(json_array_size(json_object_get(json, "clients")), 1);
    json_decref(json);

    daemon_restart(d);
    json = look(d);
    assert_true(is_alive(json));
    json_decref(json);
    mqc_close(client);
}

static void mqstat_says_so_when_there_is_no_broker(void **state)
{
    struct daemon *d = *state;

    assert_int_equal(PROGRAM(&p, "mqstat", "--json", "--instance", d->instance), 1);
    assert_non_null(strstr(p.err, d->instance));
}

static void cleanup_removes_what_a_killed_broker_left(void **state)
{
    static const char large[100000];
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, NULL);
    client = daemon_open(d, NULL, 0);
    assert_int_equal(PROGRAM(&p, "mqctl", "cleanup", "--instance", d->instance), 1); /* it lives */
    assert_int_equal(mqc_publish(client, "t", "x", 1, 8), 0);
    assert_int_equal(mqc_publish(client, "t", large, sizeof(large), 8), 0);
    daemon_kill(d);
    assert_int_equal(daemon_segments(d, ".outbox"), 1);
    assert_int_equal(daemon_segments(d, ".pool"), 1);
    assert_int_equal(PROGRAM(&p, "mqctl", "cleanup", "--instance", d->instance), 1);
    assert_non_null(strstr(p.err, "1 client still waits")); /* for it to be started again */
    if (PROGRAM(&p, "mqctl", "cleanup", "--instance", d->instance, "--force") != 0)
        fail_msg("mqctl cleanup: %s", p.err);
    assert_true(daemon_is_gone(d));
    mqc_close(client);
}

/* ---- A second one ---- */

static void a_second_broker_says_who_holds_the_instance(void **state)
{
    struct daemon *d = *state;
    char holder[32];
    struct mqc *client;

    daemon_start(d, NULL);
    client = daemon_open(d, NULL, 0);
    assert_int_equal(PROGRAM(&p, "mqbroker", "--instance", d->instance, "--config", d->config), 1);
    snprintf(holder, sizeof(holder), "pid %d", (int)d->pid);
    assert_non_null(strstr(p.err, holder));
    assert_non_null(strstr(p.err, d->instance));
    assert_int_equal(mqc_subscribe(client, "still/there", 0), 0);
    mqc_close(client);
}

/* ---- Configuration ---- */

static void exchange_one(struct mqc *client)
{
    struct mqc_message message;

    assert_int_equal(mqc_publish(client, "exchange", "x", 1, 8), 0);
    assert_int_equal(mqc_receive(client, &message, PATIENCE_MS), 0);
    mqc_message_free(&message);
}

static void a_reload_disturbs_no_client_be_it_good_bad_or_unreadable(void **state)
{
    struct daemon *d = *state;
    const struct board_header *board;
    struct mqc *client;
    char where[96];

    daemon_start(d, "max_subscriptions = 2;\n");
    board = daemon_board(d);
    client = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(client, "exchange", 0), 0);
    assert_int_equal(mqc_subscribe(client, "second", 0), 0);
    assert_int_equal(mqc_subscribe(client, "third", 0), -ENOSPC);

    daemon_configure(d, "max_subscriptions = 3;\nmax_clients = 40;\n");
    daemon_reload(d);
    PATIENCE_UNTIL(board_get(&board->totals.reloads) == 1);
    assert_true(daemon_said(d, "max_clients takes effect at the next start"));
    exchange_one(client);
    assert_int_equal(mqc_subscribe(client, "third", 0), 0);

    daemon_configure(d, "max_subscriptions = 4;\nmax_clowns = 40;\n");
    daemon_reload(d);
    snprintf(where, sizeof(where), "%s:2", d->config);
    PATIENCE_UNTIL(daemon_said(d, "max_clowns"));
    assert_true(daemon_said(d, where));
    exchange_one(client);
    assert_int_equal(mqc_subscribe(client, "fourth", 0), -ENOSPC);

    assert_int_equal(unlink(d->config), 0);
    daemon_reload(d);
    PATIENCE_UNTIL(daemon_said_times(d, "nothing is changed") == 2);
    exchange_one(client);
    assert_int_equal(mqc_subscribe(client, "fourth", 0), -ENOSPC);
    assert_int_equal(board_get(&board->totals.reloads), 1);
    mqc_close(client);
}

static void check_config_says_line_and_reason(void **state)
{
    struct daemon *d = *state;
    char where[96];

    daemon_configure(d, "max_clients = 4;\n");
    assert_int_equal(PROGRAM(&p, "mqbroker", "--check-config", "--config", d->config), 0);
    assert_non_null(strstr(p.out, d->config));

    daemon_configure(d, "max_clients = 4;\nqueue_depth = 3;\n");
    assert_int_equal(PROGRAM(&p, "mqbroker", "--check-config", "--config", d->config), 1);
    snprintf(where, sizeof(where), "%s:2", d->config);
    assert_non_null(strstr(p.err, where));
    assert_non_null(strstr(p.err, "queue_depth"));
    assert_int_equal(PROGRAM(&p, "mqbroker", "--instance", d->instance, "--config", d->config), 1);
    assert_non_null(strstr(p.err, where));

    assert_int_equal(PROGRAM(&p, "mqbroker", "--check-config", "--config", "/nonexistent.conf"), 1);
    assert_non_null(strstr(p.err, "/nonexistent.conf"));
    assert_int_equal(PROGRAM(&p, "mqbroker", "--instance", "a.dot"), 2);
}

/* ---- The clean stop ---- */

struct part {
    const char *instance;
};

/* An actor: waits for a message, and hears that there is no broker any more. */
static void be_asleep(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, 0);
    struct mqc_message message;

    ACTOR_REQUIRE(mqc_subscribe(client, "nothing", 0) == 0);
    actor_tell(self, 0);
    ACTOR_REQUIRE(mqc_receive(client, &message, -1) == -ESHUTDOWN);
    ACTOR_REQUIRE(strstr(mqc_last_error(), "stopped") != NULL);
    ACTOR_REQUIRE(mqc_publish(client, "t", "x", 1, 8) == -ESHUTDOWN);
    ACTOR_REQUIRE(mqc_subscribe(client, "t", 0) == -ESHUTDOWN);
    mqc_close(client);
}

static void K9_a_clean_stop_is_told_to_every_client_and_leaves_nothing(void **state)
{
    struct daemon *d = *state;
    const struct part part = {.instance = d->instance};
    struct actor sleepers[3];
    struct mqc *full;
    struct mqc_message message;
    unsigned n = 0;
    int r;

    daemon_start(d, NULL);
    for (unsigned i = 0; i < 3; i++) {
        actor_start(&sleepers[i], be_asleep, &part);
        actor_hear(&sleepers[i]);
    }
    full = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(full, "full", 0), 0);
    for (unsigned i = 0; i < 100; i++) /* also a full reply queue has a place for this */
        assert_int_equal(mqc_publish(full, "full", &i, sizeof(i), 31), 0);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) == 100);

    assert_int_equal(daemon_stop(d), 0);
    assert_true(daemon_is_gone(d));
    assert_int_equal(atomic_load(&daemon_board(d)->state), BOARD_STOPPED);
    for (unsigned i = 0; i < 3; i++)
        actor_join(&sleepers[i]);
    while ((r = mqc_receive(full, &message, PATIENCE_MS)) == 0) {
        mqc_message_free(&message);
        n++;
    }
    assert_int_equal(r, -ESHUTDOWN);
    assert_true(n > 0); /* what stood in its queue it still gets */
    mqc_close(full);

    r = mqc_open(&full, &(struct mqc_options){.instance = d->instance});
    assert_int_equal(r, -ENOENT);
}

static void K9_a_stop_that_was_cut_off_is_finished_by_the_next_start(void **state)
{
    struct daemon *d = *state;
    char name[NAMES_MAX];
    struct segment ledger;
    struct mqc *old, *fresh;

    daemon_start(d, NULL);
    old = daemon_open(d, NULL, 0);
    daemon_kill(d);
    names_ledger(name, d->instance);
    assert_int_equal(segment_open(&ledger, name, 1), 0);
    ((struct ledger *)ledger.base)->header.state = LEDGER_STOPPING;
    segment_close(&ledger);
    daemon_restart(d);
    assert_int_equal(daemon_rows(d), 0);
    assert_true(daemon_said(d, "ready"));
    fresh = daemon_open(d, NULL, 0);
    mqc_close(fresh);
    mqc_close(old);
}

/* ---- What is found at a start ---- */

/* A start that is to fail. */
static void start_fails(const struct daemon *d, const char *because)
{
    assert_int_equal(PROGRAM(&p, "mqbroker", "--instance", d->instance, "--config", d->config), 1);
    if (strstr(p.err, because) == NULL)
        fail_msg("expected \"%s\" in: %s", because, p.err);
}

static uint32_t checksum(const struct segment *s)
{
    uint32_t sum = 2166136261u;

    for (size_t i = 0; i < s->size; i++)
        sum = (sum ^ ((const uint8_t *)s->base)[i]) * 16777619u;
    return sum;
}

static void a_ledger_of_another_layout_is_refused_and_not_touched(void **state)
{
    struct daemon *d = *state;
    char name[NAMES_MAX];
    struct segment ledger;
    char layout[32];
    uint32_t before;

    daemon_start(d, NULL);
    daemon_kill(d);
    names_ledger(name, d->instance);
    assert_int_equal(segment_open(&ledger, name, 1), 0);
    ((struct ledger *)ledger.base)->header.layout = PERSIST_LAYOUT + 1;
    before = checksum(&ledger);
    snprintf(layout, sizeof(layout), "layout %d", PERSIST_LAYOUT + 1);
    start_fails(d, layout);
    assert_int_equal(checksum(&ledger), before);
    ((struct ledger *)ledger.base)->header.layout = PERSIST_LAYOUT;
    segment_close(&ledger);
    daemon_restart(d);
}

static void a_store_that_is_gone_is_refused_with_what_to_do(void **state)
{
    struct daemon *d = *state;
    char name[NAMES_MAX];

    daemon_start(d, NULL);
    daemon_kill(d);
    names_store(name, d->instance);
    assert_int_equal(shm_unlink(name), 0);
    start_fails(d, "mqctl cleanup");
    assert_int_equal(PROGRAM(&p, "mqctl", "cleanup", "--instance", d->instance), 0);
}

/* Take a name as another user. */
static void squat(void (*make)(const char *name), const char *name)
{
    int status;
    pid_t child;

    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (setgid(65534) < 0 || setuid(65534) < 0)
            _exit(EXIT_FAILURE);
        umask(0);
        make(name);
        _exit(EXIT_FAILURE);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, EXIT_SUCCESS);
}

static void make_queue(const char *name)
{
    _exit(mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0666, NULL) < 0);
}

static void make_segment(const char *name)
{
    _exit(shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0666) < 0);
}

static void squatted_names_are_said_and_not_used(void **state)
{
    struct daemon *d = *state;
    char name[NAMES_MAX];
    struct stat st;
    int fd;

    if (geteuid() != 0)
        skip(); /* there is no other user to be */
    names_request_queue(name, d->instance);
    squat(make_queue, name);
    start_fails(d, "belongs to another user");
    assert_int_equal(mq_unlink(name), 0);
    assert_true(daemon_is_gone(d));

    names_ledger(name, d->instance);
    squat(make_segment, name);
    start_fails(d, name);
    fd = shm_open(name, O_RDONLY | O_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_uid, 65534);
    close(fd);
    assert_int_equal(shm_unlink(name), 0);
}

static void the_library_does_not_believe_a_board_of_another_user(void **state)
{
    struct daemon *d = *state;
    const struct mqc_options options = {.instance = d->instance};
    struct mqc *client = NULL;
    char name[NAMES_MAX];

    if (geteuid() != 0)
        skip();
    names_board(name, d->instance);
    squat(make_segment, name);
    assert_true(mqc_open(&client, &options) < 0);
    assert_null(client);
    assert_int_equal(shm_unlink(name), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(mqstat_answers_while_the_broker_hangs_and_after_it_died),
        DAEMON_TEST(mqstat_says_so_when_there_is_no_broker),
        DAEMON_TEST(cleanup_removes_what_a_killed_broker_left),
        DAEMON_TEST(a_second_broker_says_who_holds_the_instance),
        DAEMON_TEST(a_reload_disturbs_no_client_be_it_good_bad_or_unreadable),
        DAEMON_TEST(check_config_says_line_and_reason),
        DAEMON_TEST(K9_a_clean_stop_is_told_to_every_client_and_leaves_nothing),
        DAEMON_TEST(K9_a_stop_that_was_cut_off_is_finished_by_the_next_start),
        DAEMON_TEST(a_ledger_of_another_layout_is_refused_and_not_touched),
        DAEMON_TEST(a_store_that_is_gone_is_refused_with_what_to_do),
        DAEMON_TEST(squatted_names_are_said_and_not_used),
        DAEMON_TEST(the_library_does_not_believe_a_board_of_another_user),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
