/* mqctl as an administrator uses it: a real broker, and what mqctl shows, says, does and exits
 * with. (mqctl cleanup is in it-tools.c.) */
#include <errno.h>
#include <fcntl.h>
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
#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/tool.h"

enum { LARGE = 300000, BUSY_SIZE = 800 };

/* Few and shallow queues: their memory is accounted per user, and other things run. */
static const char small[] = "max_clients = 4;\nqueue_depth = 4;\npool_max = \"1M\";\n";

static struct tool ctl, other;

static int setup(void **state)
{
    int r = daemon_setup(state);

    ctl = other = (struct tool){.in = -1, .out = -1, .err = -1};
    if (r == 0)
        setenv("MQBROKER_INSTANCE", ((struct daemon *)*state)->instance, 1);
    return r;
}

static int teardown(void **state)
{
    tool_discard(&ctl);
    tool_discard(&other);
    actor_kill_all();
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

/* A client that makes the group "orders" with these settings, and is not in it any more. */
static struct mqc *make_orders(const struct daemon *d, const struct mqc_group_options *options)
{
    struct mqc *client = daemon_open(d, "maker", 0);

    assert_int_equal(mqc_join(client, "orders", "orders/#", options), 0);
    assert_int_equal(mqc_leave(client, "orders"), 0);
    return client;
}

static void start_with_journal(struct daemon *d)
{
    char config[512];

    snprintf(config, sizeof config, "%sjournal_segment = \"1M\";\njournal_size = \"8M\";\n", small);
    daemon_start_with_journal(d, config);
}

/* A payload that lies in a pool, and not in memory once it is in the journal. */
static char *large_payload(void)
{
    char *payload = malloc(LARGE + 1);

    assert_non_null(payload);
    for (int i = 0; i < LARGE; i++)
        payload[i] = (char)('a' + (i * 7 + i / 1000) % 26);
    payload[LARGE] = '\0';
    return payload;
}

static void publish(struct mqc *client, const char *payload, unsigned priority)
{
    const struct mqc_publication publication = {.topic = "orders/new",
                                                .payload = payload,
                                                .size = strlen(payload),
                                                .priority = priority,
                                                .flags = MQC_CONFIRM};
    int64_t number = mqc_publish_with(client, &publication);

    assert_true(number > 0);
    assert_int_equal(mqc_confirm_wait(client, number, 10000), 0);
}

/* What waits in a group, by priority and payload, in a line each. */
static void expect_peek(const char *group, const char *lines)
{
    assert_int_equal(CTL("peek", group, "-F", "%P %p"), 0);
    assert_string_equal(ctl.text, lines);
}

/* The group's member gives each message it gets up. */
static void reject(struct mqc *client, int n)
{
    struct mqc_message message;

    assert_int_equal(mqc_join(client, "orders", NULL, NULL), 0);
    while (n-- > 0) {
        assert_int_equal(mqc_receive(client, &message, 10000), 0);
        assert_int_equal(mqc_reject(client, &message), 0);
        mqc_message_free(&message);
    }
    assert_int_equal(mqc_leave(client, "orders"), 0);
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

static void groups_are_shown_with_what_they_have_and_how_they_are_set(void **state)
{
    const struct mqc_group_options options = {.delivery_limit = 3, .ack_timeout_ms = 1500};
    struct mqc *client;

    daemon_start(*state, small);
    client = make_orders(*state, &options);
    publish(client, "one", 8);
    assert_int_equal(mqc_join(client, "other", "x", NULL), 0);
    assert_int_equal(CTL("groups"), 0);
    assert_non_null(strstr(ctl.text, "\n      0         1        0        0         0"));
    assert_non_null(strstr(ctl.text, " of   16,777,216      3   1500ms  orders\n"));
    assert_non_null(
        strstr(ctl.text, "\n      1         0        0        0         0             0 of"));
    assert_non_null(strstr(ctl.text, " of   16,777,216      5      30s  other\n"));
    mqc_close(client);
}

/* ---- Peek ---- */

static void peek_shows_what_waits_in_order_and_leaves_it_there(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    json_t *json;

    daemon_start(d, small);
    client = make_orders(d, NULL);
    publish(client, "c", 8);
    publish(client, "d", 0);
    publish(client, "b", 9);
    publish(client, "a", 31);
    for (int i = 0; i < 2; i++)
        expect_peek("orders", "31 a\n9 b\n8 c\n0 d\n");
    assert_string_equal(ctl.errors, "");
    assert_int_equal(CTL("peek", "orders", "--json", "-n", "1"), 0);
    json = json_loads(ctl.text, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(json, "topic")), "orders/new");
    assert_string_equal(json_string_value(json_object_get(json, "payload")), "a");
    assert_int_equal(json_integer_value(json_object_get(json, "attempt")), 1);
    json_decref(json);
    assert_int_equal(board_get(&board_group(daemon_board(d), 0)->out), 0);
    mqc_close(client);
}

static void peek_shows_ten_and_says_how_many_more_there_are(void **state)
{
    struct mqc *client;

    daemon_start(*state, small);
    client = make_orders(*state, NULL);
    assert_int_equal(CTL("peek", "orders"), 0);
    assert_string_equal(ctl.errors, "mqctl: orders: nothing waits there\n");
    for (int i = 0; i < 12; i++)
        publish(client, "x", 8);
    expect_peek("orders", "8 x\n8 x\n8 x\n8 x\n8 x\n8 x\n8 x\n8 x\n8 x\n8 x\n");
    assert_string_equal(ctl.errors, "mqctl: orders: 2 more wait there: -n shows more\n");
    assert_int_equal(CTL("peek", "orders", "-n", "11", "-F", "%n"), 0);
    assert_string_equal(ctl.text, "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n");
    assert_string_equal(ctl.errors, "");
    mqc_close(client);
}

static void peek_needs_no_answer_and_no_living_broker(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, small);
    client = make_orders(d, NULL);
    publish(client, "a", 8);
    daemon_pause(d);
    expect_peek("orders", "8 a\n");
    daemon_resume(d);
    daemon_kill(d);
    expect_peek("orders", "8 a\n");
    daemon_restart(d);
    expect_peek("orders", "8 a\n");
    mqc_close(client);
}

static void peek_reads_large_payloads_from_where_they_lie(void **state)
{
    char *payload = large_payload();
    struct mqc *client;

    daemon_start(*state, small);
    client = make_orders(*state, NULL);
    publish(client, payload, 8);
    assert_int_equal(CTL("peek", "orders", "-F", "%p"), 0);
    assert_int_equal(ctl.size, LARGE + 1);
    assert_memory_equal(ctl.text, payload, LARGE);
    mqc_close(client); /* its pool stays while it is needed */
    assert_int_equal(CTL("peek", "orders", "-F", "%p"), 0);
    assert_memory_equal(ctl.text, payload, LARGE);
    free(payload);
}

/* Messages of several cells, each of one letter, come and go. */
static void keep_busy(struct actor *self, const void *context)
{
    struct mqc *client = actor_open(context, NULL, 0);
    char payload[BUSY_SIZE];

    (void)self;
    ACTOR_REQUIRE(mqc_join(client, "orders", "orders/#", NULL) == 0);
    ACTOR_REQUIRE(mqc_set_batching(client, 1) == 0);
    for (unsigned i = 0;; i++) {
        struct mqc_message message;

        memset(payload, 'a' + (int)(i % 26), sizeof payload);
        ACTOR_REQUIRE(mqc_publish(client, "orders/new", payload, sizeof payload, i % 3) == 0);
        while (i % 64 == 63 && mqc_receive(client, &message, 0) == 0) {
            mqc_ack(client, &message);
            mqc_message_free(&message);
        }
    }
}

static void what_peek_shows_is_whole_while_messages_come_and_go(void **state)
{
    struct daemon *d = *state;
    unsigned n_shown = 0;
    struct actor busy;

    daemon_start(d, small);
    mqc_close(make_orders(d, NULL));
    actor_start(&busy, keep_busy, d->instance);
    for (int i = 0; i < 40; i++) {
        assert_int_equal(CTL("peek", "orders", "-n", "500", "-F", "%p"), 0);
        for (char *rest = ctl.text, *line; (line = strsep(&rest, "\n")) && *line != '\0';) {
            assert_int_equal(strspn(line, (char[]){line[0], '\0'}), BUSY_SIZE);
            assert_int_equal(strlen(line), BUSY_SIZE);
            n_shown++;
        }
    }
    assert_true(n_shown > 0);
    actor_kill(&busy);
}

static void peek_reads_the_journal_of_a_broker_that_lives_or_is_dead(void **state)
{
    const struct mqc_group_options durable = {.flags = MQC_DURABLE};
    struct daemon *d = *state;
    char *payload = large_payload();
    struct mqc *client;

    start_with_journal(d);
    client = make_orders(d, &durable);
    publish(client, "small", 9);
    publish(client, payload, 8);
    PATIENCE_UNTIL(board_get(&board_group(daemon_board(d), 0)->on_disk) == 1);
    assert_int_equal(CTL("peek", "orders", "-F", "%p"), 0);
    assert_string_equal(ctl.errors, "");
    assert_int_equal(ctl.size, 6 + LARGE + 1);
    assert_memory_equal(ctl.text + 6, payload, LARGE);
    daemon_kill(d);
    expect_peek("orders", "9 small\n");
    assert_string_equal(ctl.errors, "mqctl: orders: 1 message is on disk, and not shown: say with "
                                    "--journal where the journal is\n");
    assert_int_equal(CTL("peek", "orders", "--journal", d->journal.path, "-F", "%p"), 0);
    assert_string_equal(ctl.errors, "");
    assert_int_equal(ctl.size, 6 + LARGE + 1);
    assert_memory_equal(ctl.text + 6, payload, LARGE);
    daemon_restart(d);
    mqc_close(client);
    free(payload);
}

static void a_durable_group_is_marked_and_stays_until_it_is_removed(void **state)
{
    const struct mqc_group_options durable = {.flags = MQC_DURABLE};
    struct daemon *d = *state;
    struct mqc *client;

    start_with_journal(d);
    client = make_orders(d, &durable);
    publish(client, "a", 8);
    mqc_close(client);
    assert_int_equal(daemon_stop(d), 0);
    daemon_restart(d); /* on nothing but the journal */
    assert_int_equal(CTL("groups"), 0);
    assert_non_null(strstr(ctl.text, "  orders (durable)\n"));
    expect_peek("orders", "8 a\n");
    assert_int_equal(CTL("remove", "orders", "--force"), 0);
    assert_string_equal(ctl.text, "orders: removed, with 1 message\n");
    assert_int_equal(daemon_stop(d), 0);
    daemon_restart(d);
    assert_int_equal(CTL("peek", "orders"), 1);
}

/* Change a byte of the message whose record the last dump shows. */
static void damage_message(const struct daemon *d)
{
    const char *row = strstr(ctl.text, " put ");
    char path[512], file[32];
    unsigned offset;
    int fd;

    assert_non_null(row);
    while (row > ctl.text && row[-1] != '\n')
        row--;
    assert_int_equal(sscanf(row, "%31s %u", file, &offset), 2);
    snprintf(path, sizeof path, "%s/%s/%s", d->journal.path, d->instance, file);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, "X", 1, (off_t)offset + 60), 1);
    close(fd);
}

static void a_journal_is_checked_and_shown(void **state)
{
    const struct mqc_group_options durable = {.flags = MQC_DURABLE};
    struct daemon *d = *state;
    struct mqc *client;

    start_with_journal(d);
    client = make_orders(d, &durable);
    publish(client, "a", 8);
    mqc_close(client);
    assert_int_equal(CTL("journal", "check"), 0);
    assert_non_null(strstr(ctl.text, "; a broker is writing to it\n"));
    assert_non_null(strstr(ctl.text, "\nwhole\n"));
    assert_int_equal(daemon_stop(d), 0);
    assert_int_equal(CTL("journal", "dump", d->journal.path), 0);
    assert_non_null(strstr(ctl.text, " lives\n"));
    damage_message(d);
    assert_int_equal(CTL("journal", "check", d->journal.path), 1);
    assert_null(strstr(ctl.text, "\nwhole\n"));
    assert_non_null(strstr(ctl.text, "00000000.mqj"));
}

static void peek_wants_the_journal_that_was_said(void **state)
{
    struct daemon *d = *state;
    char error[256];

    daemon_start(d, small);
    snprintf(error, sizeof error, "mqctl: --journal: /nonexistent/%s: No such file or directory\n",
             d->instance);
    assert_int_equal(CTL("peek", "orders", "--journal", "/nonexistent"), 1);
    assert_string_equal(ctl.errors, error);
}

static void peek_says_that_there_is_no_such_group(void **state)
{
    daemon_start(*state, small);
    assert_int_equal(CTL("peek", "orders"), 1);
    expect_error(*state, "there is no group 'orders': mqctl groups lists them");
}

/* ---- Verbs that the broker carries out ---- */

static void dead_letters_are_shown_and_given_back(void **state)
{
    struct mqc *client;

    daemon_start(*state, small);
    client = make_orders(*state, NULL);
    publish(client, "a", 8);
    publish(client, "b", 8);
    reject(client, 2);
    expect_peek("orders", "");
    expect_peek("$dead/orders", "8 a\n8 b\n");
    assert_int_equal(CTL("requeue", "orders"), 0);
    assert_string_equal(ctl.text, "orders: 2 dead letters are back\n");
    expect_peek("orders", "8 a\n8 b\n");
    expect_peek("$dead/orders", "");
    mqc_close(client);
}

static void a_purge_says_how_many_it_removed(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, small);
    client = make_orders(d, NULL);
    publish(client, "a", 8);
    reject(client, 1);
    publish(client, "b", 8);
    publish(client, "c", 8);
    assert_int_equal(CTL("purge", "orders"), 0);
    assert_string_equal(ctl.text, "orders: 2 messages were removed\n");
    expect_peek("$dead/orders", "8 a\n");
    assert_int_equal(CTL("purge", "$dead/orders"), 0);
    assert_string_equal(ctl.text, "$dead/orders: 1 message was removed\n");
    expect_peek("$dead/orders", "");
    assert_int_equal(board_get(&daemon_board(d)->drops.purged), 3);
    mqc_close(client);
}

static void a_group_with_messages_is_removed_by_force_alone(void **state)
{
    struct mqc *client;

    daemon_start(*state, small);
    client = make_orders(*state, NULL);
    publish(client, "a", 8);
    reject(client, 1);
    publish(client, "b", 8);
    assert_int_equal(CTL("remove", "orders"), 1);
    assert_string_equal(ctl.errors,
                        "mqctl: orders: it has 2 messages, which would go with it: use --force\n");
    expect_peek("orders", "8 b\n");
    assert_int_equal(CTL("remove", "orders", "--force"), 0);
    assert_string_equal(ctl.text, "orders: removed, with 2 messages\n");
    assert_int_equal(CTL("peek", "orders"), 1);
    assert_int_equal(mqc_join(client, "orders", "x", NULL), 0);
    assert_int_equal(CTL("remove", "orders"), 0);
    assert_string_equal(ctl.text, "orders: removed\n");
    mqc_close(client);
}

static void what_there_is_not_is_named(void **state)
{
    static const char *const verbs[] = {"purge", "requeue", "remove"};

    daemon_start(*state, small);
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        assert_int_equal(CTL(verbs[i], "orders"), 1);
        assert_int_equal(strncmp(ctl.errors, "mqctl: orders: there is no such group", 37), 0);
        assert_string_equal(ctl.text, "");
    }
    assert_int_equal(CTL("kick", "nobody"), 1);
    assert_int_equal(strncmp(ctl.errors, "mqctl: nobody: there is no such client", 38), 0);
    assert_int_equal(CTL("kick", "#3"), 1);
    assert_int_equal(strncmp(ctl.errors, "mqctl: #3: there is no such client", 34), 0);
}

/* What a client is told that was kicked. */
static void expect_kicked(struct mqc *client)
{
    struct mqc_message message;

    assert_int_equal(mqc_receive(client, &message, 10000), -ECONNRESET);
    mqc_close(client);
}

static void a_client_is_kicked_by_its_name_or_its_session(void **state)
{
    struct daemon *d = *state;
    struct mqc *named, *nameless;

    daemon_start(d, small);
    named = daemon_open(d, "boiler", 0);
    nameless = daemon_open(d, NULL, 0);
    assert_int_equal(CTL("kick", "boiler"), 0);
    assert_string_equal(ctl.text, "boiler: its session was ended\n");
    expect_kicked(named);
    assert_int_equal(mqc_subscribe(nameless, "a", 0), 0);
    assert_int_equal(CTL("kick", "#1"), 0);
    assert_string_equal(ctl.text, "#1: its session was ended\n");
    expect_kicked(nameless);
    mqc_close(daemon_open(d, "boiler", 0)); /* and may come again */
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

static void a_handover_is_awaited(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, small);
    client = make_orders(d, NULL);
    publish(client, "a", 8);
    assert_int_equal(CTL("handover"), 0);
    assert_non_null(strstr(ctl.text, ": handed over, with a pause of "));
    assert_int_equal(board_get(&daemon_board(d)->totals.starts), 2);
    expect_peek("orders", "8 a\n");
    publish(client, "b", 8);
    mqc_close(client);
}

static void a_handover_that_cannot_be_is_an_error_and_changes_nothing(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, small);
    client = make_orders(d, NULL);
    daemon_configure(d, "max_clients = \"many\";");
    assert_int_equal(CTL("handover"), 1);
    expect_error(d, "its broker was not replaced, and goes on as it was: its log says why");
    assert_int_equal(board_get(&daemon_board(d)->totals.starts), 1);
    publish(client, "a", 8);
    mqc_close(client);
}

/* It takes the ten seconds. */
static void a_broker_that_hangs_is_a_timeout(void **state)
{
    struct daemon *d = *state;

    if (getenv("MQB_LONG") == NULL)
        skip();
    daemon_start(d, small);
    daemon_pause(d);
    TOOL(&other, "mqctl", "handover");
    assert_int_equal(CTL("reload"), 3);
    assert_int_equal(tool_wait(&other), 3);
    assert_non_null(strstr(ctl.errors, "has not done it within 10 s"));
    daemon_resume(d);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.starts) == 2);
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
        TEST(groups_are_shown_with_what_they_have_and_how_they_are_set),
        TEST(peek_shows_what_waits_in_order_and_leaves_it_there),
        TEST(peek_shows_ten_and_says_how_many_more_there_are),
        TEST(peek_needs_no_answer_and_no_living_broker),
        TEST(peek_reads_large_payloads_from_where_they_lie),
        TEST(what_peek_shows_is_whole_while_messages_come_and_go),
        TEST(peek_reads_the_journal_of_a_broker_that_lives_or_is_dead),
        TEST(a_durable_group_is_marked_and_stays_until_it_is_removed),
        TEST(a_journal_is_checked_and_shown),
        TEST(peek_wants_the_journal_that_was_said),
        TEST(peek_says_that_there_is_no_such_group),
        TEST(dead_letters_are_shown_and_given_back),
        TEST(a_purge_says_how_many_it_removed),
        TEST(a_group_with_messages_is_removed_by_force_alone),
        TEST(what_there_is_not_is_named),
        TEST(a_client_is_kicked_by_its_name_or_its_session),
        TEST(a_reload_is_awaited),
        TEST(a_reload_that_the_broker_refuses_is_an_error),
        TEST(a_handover_is_awaited),
        TEST(a_handover_that_cannot_be_is_an_error_and_changes_nothing),
        TEST(a_broker_that_hangs_is_a_timeout),
        TEST(a_dead_broker_is_sent_no_signal),
        TEST(without_a_broker_each_verb_says_so),
        TEST(each_verb_has_help_and_knows_wrong_usage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
