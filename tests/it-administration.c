/* mqctl as an administrator uses it: a real broker, and what mqctl shows, says, does and exits
 * with. (mqctl cleanup is in it-tools.c.) */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "libclient/board.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/tool.h"

/* Few and shallow queues: their memory is accounted per user, and other things run. */
static const char small[] = "max_clients = 4;\nqueue_depth = 4;\npool_max = \"1M\";\n";

static struct tool ctl, sub;

static int setup(void **state)
{
    int r = daemon_setup(state);

    ctl = sub = (struct tool){.in = -1, .out = -1, .err = -1};
    if (r == 0)
        setenv("MQBROKER_INSTANCE", ((struct daemon *)*state)->instance, 1);
    return r;
}

static int teardown(void **state)
{
    tool_discard(&ctl);
    tool_discard(&sub);
    return daemon_teardown(state);
}

/* Run mqctl to its end; its exit status. */
#define CTL(...) (TOOL(&ctl, "mqctl", __VA_ARGS__), tool_wait(&ctl))

/* It says nothing but this, in a line that begins with the instance. */
static void expect_line(const struct daemon *d, const char *said, const char *sentence)
{
    char line[512];

    snprintf(line, sizeof line, "%s: %s\n", d->instance, sentence);
    assert_string_equal(said, line);
}

static void expect_error(const struct daemon *d, const char *sentence)
{
    const char *lead = "mqctl: ";

    assert_string_equal(ctl.text, "");
    if (strncmp(ctl.errors, lead, strlen(lead)) != 0)
        fail_msg("'%s' does not begin with %s", ctl.errors, lead);
    expect_line(d, ctl.errors + strlen(lead), sentence);
}

/* ---- Lists ---- */

static void clients_are_shown_by_name_session_and_process(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    char row[64];
    json_t *json, *clients;

    daemon_start(d, small);
    client = daemon_open(d, "boiler", 0);
    assert_int_equal(mqc_subscribe(client, "a/+", 0), 0);
    assert_int_equal(CTL("clients"), 0);
    assert_int_equal(strncmp(ctl.text, "session      pid  user ", 23), 0);
    snprintf(row, sizeof row, "\n      0%9d  ", (int)getpid());
    assert_non_null(strstr(ctl.text, row));
    assert_non_null(strstr(ctl.text, "     1       0         0        0        0  boiler\n"));
    assert_string_equal(ctl.errors, "");
    assert_int_equal(CTL("clients", "--json"), 0);
    json = json_loads(ctl.text, 0, NULL);
    clients = json_object_get(json, "clients");
    assert_int_equal(json_array_size(clients), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(clients, 0), "name")),
                        "boiler");
    json_decref(json);
    mqc_close(client);
}

static void lists_need_no_answer_from_the_broker(void **state)
{
    struct daemon *d = *state;
    char said[96];

    daemon_start(d, small);
    daemon_pause(d);
    assert_int_equal(CTL("clients"), 0);
    assert_string_equal(ctl.errors, "");
    assert_int_equal(CTL("groups"), 0);
    assert_int_equal(strncmp(ctl.text, "members ", 8), 0);
    daemon_resume(d);
    snprintf(said, sizeof said, "(pid %d) is not alive; this is how it left things\n", (int)d->pid);
    daemon_kill(d);
    assert_int_equal(CTL("groups"), 0);
    assert_non_null(strstr(ctl.errors, said));
    daemon_restart(d);
}

/* ---- Signals ---- */

static void a_reload_is_awaited(void **state)
{
    struct daemon *d = *state;

    daemon_start(d, small);
    assert_int_equal(CTL("reload"), 0);
    expect_line(d, ctl.text, "reloaded");
    assert_int_equal(board_get(&daemon_board(d)->totals.reloads), 1);
}

static void a_reload_that_the_broker_refuses_is_an_error(void **state)
{
    struct daemon *d = *state;

    daemon_start(d, small);
    daemon_configure(d, "max_clients = \"many\";");
    assert_int_equal(CTL("reload"), 1);
    expect_error(d, "its broker has not reloaded, and goes on as it was: its log says why");
    assert_int_equal(board_get(&daemon_board(d)->totals.reloads), 0);
    assert_int_equal(board_get(&daemon_board(d)->totals.reloads_refused), 1);
}

static void a_dead_broker_is_sent_no_signal(void **state)
{
    struct daemon *d = *state;
    char sentence[96];

    daemon_start(d, small);
    snprintf(sentence, sizeof sentence, "its broker (pid %d) is not alive: start it again",
             (int)d->pid);
    daemon_kill(d);
    assert_int_equal(CTL("reload"), 1);
    expect_error(d, sentence);
    assert_int_equal(CTL("handover"), 1);
    expect_error(d, sentence);
    daemon_restart(d);
}

/* ---- Usage ---- */

static void without_a_broker_each_verb_says_so(void **state)
{
    static const char *const verbs[] = {"clients", "groups", "reload", "handover"};
    static const char *const verbs_of_group[] = {"peek", "remove"};
    static const char *const verbs_of_client[] = {"purge", "requeue", "kick"};
    static const char sentence[] =
        "there is no such broker; start it with mqbroker, or name another with --instance";

    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        assert_int_equal(CTL(verbs[i]), 1);
        expect_error(*state, sentence);
    }
    for (size_t i = 0; i < sizeof verbs_of_group / sizeof *verbs_of_group; i++) {
        assert_int_equal(CTL(verbs_of_group[i], "orders"), 1);
        expect_error(*state, sentence);
    }
    for (size_t i = 0; i < sizeof verbs_of_client / sizeof *verbs_of_client; i++) {
        assert_int_equal(CTL(verbs_of_client[i], "orders"), 1);
        assert_int_equal(strncmp(ctl.errors, "mqctl: there is no broker '", 27), 0);
    }
}

static void each_verb_has_help_and_knows_wrong_usage(void **state)
{
    static const char *const verbs[] = {"clients", "groups", "peek",   "purge",    "requeue",
                                        "remove",  "kick",   "reload", "handover", "cleanup"};

    (void)state;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        char text[64];

        assert_int_equal(CTL(verbs[i], "--help"), 0);
        snprintf(text, sizeof text, "Usage: mqctl %s ", verbs[i]);
        assert_int_equal(strncmp(ctl.text, text, strlen(text)), 0);
        assert_non_null(strstr(ctl.text, "\nExit status: 0 "));
        assert_int_equal(CTL(verbs[i], "--bogus"), 2);
        snprintf(text, sizeof text, "\nTry 'mqctl %s --help'.\n", verbs[i]);
        assert_non_null(strstr(ctl.errors, text));
        assert_int_equal(CTL("--help"), 0);
        snprintf(text, sizeof text, "\n  %s  ", verbs[i]);
        assert_non_null(strstr(ctl.text, text));
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(clients_are_shown_by_name_session_and_process),
        TEST(lists_need_no_answer_from_the_broker),
        TEST(a_reload_is_awaited),
        TEST(a_reload_that_the_broker_refuses_is_an_error),
        TEST(a_dead_broker_is_sent_no_signal),
        TEST(without_a_broker_each_verb_says_so),
        TEST(each_verb_has_help_and_knows_wrong_usage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
