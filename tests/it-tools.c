/* The command-line tools as people use them: real processes, a real broker, and what they write,
 * say and exit with. */
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
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "libclient/board.h"
#include "libclient/names.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/tool.h"

/* Few and shallow queues: their memory is accounted per user, and other things run. */
static const char small[] = "max_clients = 4;\nqueue_depth = 4;\npool_max = \"1M\";\n";

static struct tool pub, sub, other;

static int setup(void **state)
{
    int r = daemon_setup(state);

    pub = sub = other = (struct tool){.in = -1, .out = -1, .err = -1};
    if (r == 0)
        setenv("MQBROKER_INSTANCE", ((struct daemon *)*state)->instance, 1);
    return r;
}

static int teardown(void **state)
{
    tool_discard(&pub);
    tool_discard(&sub);
    tool_discard(&other);
    return daemon_teardown(state);
}

static uint64_t n_subscriptions(const struct daemon *d)
{
    const struct board_header *board = daemon_board(d);
    uint64_t n = 0;

    for (uint32_t i = 0; i < board->n_rows; i++)
        if (atomic_load(&board_row(board, i)->identity.state) == BOARD_ROW_LIVE)
            n += board_get(&board_row(board, i)->subscriptions);
    return n;
}

/* Start a subscriber, and return when it is subscribed to one filter more. */
#define SUBSCRIBE(d, t, ...) subscribe((d), (t), (const char *const[]){"mqsub", __VA_ARGS__, NULL})

static void subscribe(const struct daemon *d, struct tool *t, const char *const argv[])
{
    uint64_t before = n_subscriptions(d);

    tool_start(t, TOOL_FILE, argv);
    PATIENCE_UNTIL(n_subscriptions(d) > before);
}

/* Run mqpub to its end; its exit status. */
#define PUBLISH(...) (TOOL(&pub, "mqpub", __VA_ARGS__), tool_wait(&pub))

static void expect_out(struct tool *t, const char *text)
{
    assert_string_equal(t->text, text);
}

static void expect_err(struct tool *t, const char *words)
{
    if (strstr(t->errors, words) == NULL)
        fail_msg("'%s' does not say '%s'", t->errors, words);
}

/* One line, and nothing of a sanitizer. */
static void expect_one_line(struct tool *t)
{
    const char *newline = strchr(t->errors, '\n');

    if (newline == NULL || newline[1] != '\0')
        fail_msg("not one line: '%s'", t->errors);
}

/* ---- mqpub ---- */

static void every_source_of_messages_arrives_as_it_is(void **state)
{
    static const char bytes[] = "\0\xff\n in a file\n";
    char path[] = "/tmp/it-tools-XXXXXX";
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, sizeof bytes - 1), sizeof bytes - 1);
    close(fd);
    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "a/#", "-C", "5", "-F", "%t %P %x");
    assert_int_equal(PUBLISH("-t", "a/text", "-m", "hello", "-p", "31"), 0);
    assert_int_equal(PUBLISH("-t", "a/file", "-f", path), 0);
    TOOL(&pub, "mqpub", "-t", "a/stdin", "-s");
    tool_feed(&pub, "x\0y\n", 4);
    assert_int_equal(tool_wait(&pub), 0);
    assert_int_equal(PUBLISH("-t", "a/empty", "-n", "-p", "0"), 0);
    assert_int_equal(PUBLISH("-t", "a/dash", "-f", "-"), 0);
    assert_int_equal(tool_wait(&sub), 0);
    expect_out(&sub, "a/text 31 68656c6c6f\n"
                     "a/file 8 00ff0a20696e20612066696c650a\n"
                     "a/stdin 8 7800790a\n"
                     "a/empty 0 \n"
                     "a/dash 8 \n");
    unlink(path);
}

static void lines_may_hold_any_bytes_and_the_last_needs_no_newline(void **state)
{
    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "l", "-C", "4", "-F", "%n:%x");
    TOOL(&pub, "mqpub", "-t", "l", "-l", "-v");
    tool_feed(&pub, "one\n\nnul\0byte\n\xff\xfe", 16);
    assert_int_equal(tool_wait(&pub), 0);
    assert_int_equal(tool_wait(&sub), 0);
    expect_out(&sub, "1:6f6e65\n2:\n3:6e756c0062797465\n4:fffe\n");
    expect_err(&pub, "mqpub: 4 messages, 13 bytes, in ");
}

static void lines_go_out_when_the_input_pauses(void **state)
{
    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "l");
    TOOL(&pub, "mqpub", "-t", "l", "-l");
    tool_feed(&pub, "first\nsecond\nhalf", 17);
    PATIENCE_UNTIL(strcmp(tool_out(&sub), "first\nsecond\n") == 0);
    tool_feed(&pub, " a line\n", 8);
    PATIENCE_UNTIL(strcmp(tool_out(&sub), "first\nsecond\nhalf a line\n") == 0);
    assert_int_equal(tool_wait(&pub), 0);
}

static void many_lines_arrive_all_and_in_order(void **state)
{
    enum { LINES = 50000 };
    char *text = calloc(LINES, 8), *to = text;

    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "l", "-C", "50000");
    TOOL(&pub, "mqpub", "-t", "l", "-l", "--confirm");
    for (unsigned i = 0; i < LINES; i++)
        to += sprintf(to, "%u\n", i);
    tool_feed(&pub, text, (size_t)(to - text));
    assert_int_equal(tool_wait(&pub), 0);
    assert_int_equal(tool_wait(&sub), 0);
    assert_true(strcmp(sub.text, text) == 0);
    free(text);
}

/* The largest payload that there can be. */
static size_t largest(const struct daemon *d)
{
    struct mqc *client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    size_t size = mqc_payload_max(client, "l");

    mqc_close(client);
    return size;
}

/* Write to one that may end before it has read all. */
static void feed_in_part(const struct tool *t, const char *bytes, size_t size)
{
    void (*before)(int) = signal(SIGPIPE, SIG_IGN);

    for (size_t done = 0; done < size;) {
        ssize_t n = write(t->in, bytes + done, size - done);

        if (n < 0) {
            assert_int_equal(errno, EPIPE);
            break;
        }
        done += (size_t)n;
    }
    signal(SIGPIPE, before);
}

static void a_line_too_long_is_named_with_what_went_before(void **state)
{
    enum { LINE = 1200000 };
    char *line = malloc(LINE);
    char expected[200];
    size_t limit;

    daemon_start(*state, small);
    limit = largest(*state);
    assert_non_null(line);
    assert_true(limit > 900000 && limit < LINE - 1);
    memset(line, 'x', LINE);
    line[LINE - 1] = '\n';
    SUBSCRIBE(*state, &sub, "-t", "l", "-C", "3", "-F", "%l");
    TOOL(&pub, "mqpub", "-t", "l", "-l");
    tool_feed(&pub, "one\ntwo\n", 8);
    line[limit] = '\n'; /* the longest that fits */
    tool_feed(&pub, line, limit + 1);
    line[limit] = 'x';
    feed_in_part(&pub, line, LINE);
    assert_int_equal(tool_wait(&pub), 1);
    assert_int_equal(tool_wait(&sub), 0);
    snprintf(expected, sizeof expected, "3\n3\n%zu\n", limit);
    expect_out(&sub, expected);
    snprintf(
        expected, sizeof expected,
        "mqpub: line 4 is longer than the %zu bytes that fit a message to this topic; 3 messages "
        "were published before\n",
        limit);
    assert_string_equal(pub.errors, expected);
    free(line);
}

/* A file of letters. */
static void make_file(char path[32], size_t size)
{
    FILE *file;
    int fd;

    snprintf(path, 32, "/tmp/mqbroker-test-XXXXXX");
    fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    file = fdopen(fd, "w");
    for (size_t i = 0; i < size; i++)
        fputc('a' + (int)(i * 7 + i / 1000) % 26, file);
    assert_int_equal(fclose(file), 0);
}

static void what_cannot_be_read_is_said_and_nothing_published(void **state)
{
    static const char large[1100000];
    char path[32];

    daemon_start(*state, small);
    assert_int_equal(PUBLISH("-t", "a", "-f", "/nonexistent/file"), 1);
    assert_string_equal(pub.errors, "mqpub: /nonexistent/file: No such file or directory\n");
    assert_int_equal(PUBLISH("-t", "a", "-f", "/"), 1);
    assert_string_equal(pub.errors, "mqpub: /: Is a directory\n");
    TOOL(&pub, "mqpub", "-t", "a", "-s");
    feed_in_part(&pub, large, sizeof large);
    assert_int_equal(tool_wait(&pub), 1);
    expect_err(&pub, "mqpub: standard input: larger than the ");
    expect_one_line(&pub);
    make_file(path, sizeof large);
    assert_int_equal(PUBLISH("-t", "a", "-f", path), 1);
    expect_err(&pub, path);
    expect_err(&pub, ": larger than the ");
    expect_one_line(&pub);
    unlink(path);
    assert_int_equal(PUBLISH("-t", "a/#", "-m", "x"), 1);
    expect_err(&pub, "nothing was published");
    expect_one_line(&pub);
    assert_int_equal(board_get(&daemon_board(*state)->totals.messages_in), 0);
}

static void large_messages_arrive_as_they_are(void **state)
{
    enum { SIZE = 300001 };
    char path[32];
    char *text = malloc(SIZE);
    FILE *file;

    daemon_start(*state, small);
    make_file(path, SIZE);
    file = fopen(path, "re");
    assert_non_null(text);
    assert_non_null(file);
    assert_int_equal(fread(text, 1, SIZE, file), SIZE);
    fclose(file);
    SUBSCRIBE(*state, &sub, "-t", "big", "-C", "3", "-N");
    assert_int_equal(PUBLISH("-t", "big", "-f", path, "--confirm"), 0);
    assert_int_equal(PUBLISH("-t", "big", "-f", path, "--repeat", "1"), 0);
    TOOL(&pub, "mqpub", "-t", "big", "-s");
    tool_feed(&pub, text, SIZE);
    assert_int_equal(tool_wait(&pub), 0);
    assert_int_equal(tool_wait(&sub), 0);
    assert_int_equal(sub.size, 3 * SIZE);
    for (int i = 0; i < 3; i++)
        assert_memory_equal(sub.text + i * SIZE, text, SIZE);
    SUBSCRIBE(*state, &other, "-t", "shout", "--exec", "tr a-z A-Z");
    assert_int_equal(PUBLISH("-t", "shout", "--request", "-f", path), 0);
    for (int i = 0; i < SIZE; i++)
        text[i] = (char)(text[i] - 'a' + 'A');
    assert_int_equal(pub.size, SIZE + 1);
    assert_memory_equal(pub.text, text, SIZE);
    unlink(path);
    free(text);
}

static void a_message_may_be_repeated(void **state)
{
    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "r", "-C", "1003");
    assert_int_equal(PUBLISH("-t", "r", "-m", "x", "--repeat", "1000"), 0);
    assert_int_equal(PUBLISH("-t", "r", "-m", "x", "--repeat", "3", "--interval", "1ms"), 0);
    assert_int_equal(tool_wait(&sub), 0);
    assert_int_equal(sub.size, 2 * 1003);
}

static void an_unconfirmed_message_is_named_by_its_line(void **state)
{
    char line[1001];

    memset(line, 'x', sizeof line);
    line[1000] = '\n';
    daemon_start(*state, "max_clients = 4; queue_depth = 4; retained_size = \"4K\";");
    assert_int_equal(PUBLISH("-t", "a", "-m", "x", "--confirm"), 0);
    assert_string_equal(pub.errors, "");
    TOOL(&pub, "mqpub", "-t", "a", "-l", "--confirm");
    for (int i = 0; i < 1000; i++)
        tool_feed(&pub, "0123456789\n", 11);
    assert_int_equal(tool_wait(&pub), 0);
    /* Kept messages of one topic after the other, until there is no room to keep one. */
    for (int i = 0; i < 4; i++) {
        char topic[] = {'k', (char)('0' + i), '\0'};

        TOOL(&pub, "mqpub", "-t", topic, "-l", "-r", "--confirm");
        tool_feed(&pub, "short\n", 6);
        tool_feed(&pub, line, sizeof line);
        if (tool_wait(&pub) != 0)
            break;
    }
    expect_err(&pub, "mqpub: line 2: ");
    expect_one_line(&pub);
    /* It is said when the input pauses, and not only at its end. */
    TOOL(&pub, "mqpub", "-t", "another", "-l", "-r", "--confirm");
    tool_feed(&pub, line, sizeof line);
    PATIENCE_UNTIL(strstr(tool_err(&pub), "mqpub: line 1: ") != NULL);
    assert_int_equal(tool_wait(&pub), 1);
}

static void an_interrupted_mqpub_sends_what_it_gathered_and_dies_of_the_signal(void **state)
{
    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "l", "-C", "2");
    TOOL(&pub, "mqpub", "-t", "l", "-l");
    tool_feed(&pub, "a\nb\nc", 5);
    assert_int_equal(tool_wait(&sub), 0);
    tool_signal(&pub, SIGINT);
    assert_int_equal(tool_wait_open(&pub), -SIGINT);
    assert_string_equal(pub.errors, "mqpub: interrupted; 2 messages were published before\n");
}

static void an_interruption_ends_mqpub_also_while_the_broker_stands_still(void **state)
{
    daemon_start(*state, small);
    TOOL(&pub, "mqpub", "-t", "l", "-l");
    tool_feed(&pub, "a\n", 2);
    PATIENCE_UNTIL(board_get(&daemon_board(*state)->totals.messages_in) == 1);
    daemon_pause(*state);
    for (int i = 0; i < 20000; i++)
        if (write(pub.in, "0123456789\n", 11) != 11 || i == 5000)
            break;
    tool_signal(&pub, SIGTERM);
    assert_int_equal(tool_wait_open(&pub), -SIGTERM);
    daemon_resume(*state);
}

/* ---- Requests ---- */

static void a_command_answers_requests(void **state)
{
    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "shout", "--exec", "tr a-z A-Z");
    assert_int_equal(PUBLISH("-t", "shout", "--request", "-m", "hello"), 0);
    expect_out(&pub, "HELLO\n");
    TOOL(&pub, "mqpub", "-t", "shout", "--request", "-l");
    tool_feed(&pub, "one\n\ntwo\n", 9);
    assert_int_equal(tool_wait(&pub), 0);
    expect_out(&pub, "ONE\n\nTWO\n");
    /* What asks for no reply goes to mqsub's own output. */
    assert_int_equal(PUBLISH("-t", "shout", "-m", "plain"), 0);
    PATIENCE_UNTIL(strcmp(tool_out(&sub), "PLAIN") == 0);
    tool_signal(&sub, SIGTERM);
    assert_int_equal(tool_wait(&sub), 0);
}

static void a_command_that_fails_answers_nothing(void **state)
{
    static const struct {
        const char *message;
        const char *said;
    } failures[] = {
        {"exit 3", "mqsub: job: the command exited with 3; the request is not answered\n"},
        {"kill -9 $$",
         "mqsub: job: the command was killed (Killed); the request is not answered\n"},
        {"head -c 1100000 /dev/zero", "fit a reply; the request is not answered\n"},
    };

    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "job", "--exec", "exec sh");
    for (size_t i = 0; i < sizeof failures / sizeof *failures; i++) {
        assert_int_equal(
            PUBLISH("-t", "job", "--request", "-m", failures[i].message, "-W", "200ms"), 3);
        expect_one_line(&pub);
        PATIENCE_UNTIL(strstr(tool_err(&sub), failures[i].said) != NULL);
    }
    assert_int_equal(PUBLISH("-t", "job", "--request", "-m", "echo good"), 0);
    expect_out(&pub, "good\n");
    tool_signal(&sub, SIGTERM);
    assert_int_equal(tool_wait(&sub), 1);
}

static void a_request_that_nobody_answers_says_why(void **state)
{
    daemon_start(*state, small);
    assert_int_equal(PUBLISH("-t", "nobody", "--request", "-m", "x"), 1);
    expect_one_line(&pub);
    SUBSCRIBE(*state, &sub, "-t", "slow", "--exec", "touch /dev/null; exec sleep 100");
    TOOL(&pub, "mqpub", "-t", "slow", "--request", "-m", "x", "-W", "100");
    PATIENCE_UNTIL(board_get(&daemon_board(*state)->totals.messages_out) == 1);
    tool_signal(&sub, SIGKILL);
    assert_int_equal(tool_wait(&sub), -SIGKILL);
    assert_int_equal(tool_wait(&pub), 1);
    expect_err(&pub, "gone");
    expect_one_line(&pub);
}

static void an_interrupted_command_is_ended(void **state)
{
    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "slow", "--exec", "echo begun >&2; exec sleep 100");
    assert_int_equal(PUBLISH("-t", "slow", "-m", "x"), 0);
    PATIENCE_UNTIL(strcmp(tool_err(&sub), "begun\n") == 0);
    tool_signal(&sub, SIGTERM);
    assert_int_equal(tool_wait(&sub), 0);
}

/* ---- mqsub ---- */

static void a_count_and_a_time_end_it(void **state)
{
    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "a", "-C", "1", "-W", "100");
    assert_int_equal(PUBLISH("-t", "a", "-m", "x"), 0);
    assert_int_equal(tool_wait(&sub), 0);
    TOOL(&sub, "mqsub", "-t", "a", "-C", "1", "-W", "50ms");
    assert_int_equal(tool_wait(&sub), 3);
    assert_string_equal(sub.errors, "mqsub: 0 of 1 messages came in time\n");
    TOOL(&sub, "mqsub", "-t", "a", "-W", "50ms");
    assert_int_equal(tool_wait(&sub), 0);
    assert_string_equal(sub.errors, "");
}

static void kept_messages_are_marked_and_may_be_left_out(void **state)
{
    json_t *json;

    daemon_start(*state, small);
    assert_int_equal(PUBLISH("-t", "state", "-r", "-m", "{\"on\":true}", "--confirm"), 0);
    TOOL(&sub, "mqsub", "-t", "state", "-C", "1", "--json");
    assert_int_equal(tool_wait(&sub), 0);
    json = json_loads(sub.text, 0, NULL);
    assert_non_null(json);
    assert_true(json_is_true(json_object_get(json, "retained")));
    assert_string_equal(json_string_value(json_object_get(json, "payload")), "{\"on\":true}");
    json_decref(json);
    TOOL(&sub, "mqsub", "-t", "state", "-C", "1", "-R", "-W", "50ms");
    assert_int_equal(tool_wait(&sub), 3);
    assert_int_equal(PUBLISH("-t", "state", "-r", "-n", "--confirm"), 0);
    TOOL(&sub, "mqsub", "-t", "state", "-C", "1", "-W", "50ms");
    assert_int_equal(tool_wait(&sub), 3);
}

static void a_name_reaches_it_directly(void **state)
{
    daemon_start(*state, small);
    TOOL(&sub, "mqsub", "-i", "bob", "-C", "1", "-v");
    PATIENCE_UNTIL(daemon_rows(*state) == 1);
    assert_int_equal(PUBLISH("-t", "@bob", "-m", "hi"), 0);
    assert_int_equal(tool_wait(&sub), 0);
    expect_out(&sub, "@bob hi\n");
}

static void what_was_missed_is_said(void **state)
{
    static const char large[1000];

    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "m", "-F", "%l");
    tool_signal(&sub, SIGSTOP);
    /* More than its queue takes; the rest expires in the broker. */
    TOOL(&pub, "mqpub", "-t", "m", "-s", "--ttl", "1ms", "--repeat", "5000");
    tool_feed(&pub, large, sizeof large);
    assert_int_equal(tool_wait(&pub), 0);
    PATIENCE_UNTIL(board_get(&daemon_board(*state)->drops.expired) > 0);
    tool_signal(&sub, SIGCONT);
    assert_int_equal(PUBLISH("-t", "m", "-m", "last"), 0);
    PATIENCE_UNTIL(strstr(tool_err(&sub), "mqsub: missed ") != NULL);
    tool_signal(&sub, SIGINT);
    assert_int_equal(tool_wait(&sub), 0);
}

static void a_terminal_is_shown_nothing_that_acts_on_it(void **state)
{
    daemon_start(*state, small);
    tool_start(&sub, TOOL_TERMINAL, (const char *const[]){"mqsub", "-t", "#", "-v", NULL});
    PATIENCE_UNTIL(n_subscriptions(*state) == 1);
    TOOL(&pub, "mqpub", "-t", "e\033[2J", "-s");
    tool_feed(&pub, "\033]0;x\a\x9b", 7);
    assert_int_equal(tool_wait(&pub), 0);
    PATIENCE_UNTIL(strchr(tool_out(&sub), '\n') != NULL);
    expect_out(&sub, "e\\x1b[2J \\x1b]0;x\\x07\\x9b\r\n");
}

static void who_reads_no_more_ends_it_as_a_pipe_does(void **state)
{
    daemon_start(*state, small);
    tool_start(&sub, TOOL_PIPE, (const char *const[]){"mqsub", "-t", "a", NULL});
    PATIENCE_UNTIL(n_subscriptions(*state) == 1);
    assert_int_equal(PUBLISH("-t", "a", "-m", "x"), 0);
    PATIENCE_UNTIL(strcmp(tool_out(&sub), "x\n") == 0);
    tool_close_output(&sub); /* without a further message */
    assert_int_equal(tool_wait(&sub), -SIGPIPE);
    assert_string_equal(sub.errors, "");
    PATIENCE_UNTIL(daemon_rows(*state) == 0);
}

static void it_says_that_the_broker_has_stopped_and_ends(void **state)
{
    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-t", "a");
    assert_int_equal(daemon_stop(*state), 0);
    assert_int_equal(tool_wait(&sub), 1);
    expect_one_line(&sub);
}

/* ---- mqstat ---- */

static json_t *statistics(void)
{
    json_t *json;

    TOOL(&other, "mqstat", "--json");
    assert_int_equal(tool_wait(&other), 0);
    assert_string_equal(other.errors, "");
    json = json_loads(other.text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(json);
    return json;
}

static json_int_t integer(const json_t *json, const char *section, const char *key)
{
    const json_t *value = json_object_get(json_object_get(json, section), key);

    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static void statistics_count_what_happened(void **state)
{
    json_t *json, *client;

    daemon_start(*state, small);
    SUBSCRIBE(*state, &sub, "-i", "watcher", "-t", "a/+");
    assert_int_equal(PUBLISH("-t", "a/b", "-m", "x", "--repeat", "7", "--confirm"), 0);
    assert_int_equal(PUBLISH("-t", "c", "-m", "x", "--confirm"), 0);
    PATIENCE_UNTIL(daemon_rows(*state) == 1);
    json = statistics();
    assert_int_equal(integer(json, "totals", "messages_in"), 8);
    assert_int_equal(integer(json, "totals", "messages_out"), 7);
    assert_int_equal(integer(json, "totals", "unmatched"), 1);
    assert_int_equal(integer(json, "limits", "clients"), 1);
    client = json_array_get(json_object_get(json, "clients"), 0);
    assert_string_equal(json_string_value(json_object_get(client, "name")), "watcher");
    assert_int_equal(json_integer_value(json_object_get(client, "out")), 7);
    assert_int_equal(json_integer_value(json_object_get(client, "pid")), sub.pid);
    assert_int_equal(json_array_size(json_object_get(json, "topics")), 2);
    json_decref(json);
    TOOL(&other, "mqstat", "--prometheus", "totals");
    assert_int_equal(tool_wait(&other), 0);
    assert_non_null(strstr(other.text, "\nmqbroker_messages_in_total{"));
}

static void statistics_need_no_answer_from_the_broker(void **state)
{
    struct daemon *d = *state;
    json_t *json, *queue;

    daemon_start(d, small);
    TOOL(&pub, "mqpub", "-t", "a", "-l");
    tool_feed(&pub, "x\n", 2);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) == 1);
    daemon_pause(d);
    tool_feed(&pub, "y\n", 2);
    /* The kernel says how many stand in the queue, not the broker. */
    for (uint64_t begun = patience_now();; json_decref(json)) {
        json = statistics();
        assert_true(json_is_true(json_object_get(json, "alive")));
        queue = json_object_get(json_object_get(json, "queues"), "request");
        assert_true(json_is_true(json_object_get(queue, "asked")));
        if (json_integer_value(json_object_get(queue, "standing")) == 1)
            break;
        patience_spend(begun, "the message in the request queue");
    }
    json_decref(json);
    daemon_resume(d);
    assert_int_equal(tool_wait(&pub), 0);
    daemon_kill(d);
    json = statistics();
    assert_true(json_is_false(json_object_get(json, "alive")));
    assert_int_equal(integer(json, "totals", "messages_in"), 2);
    json_decref(json);
    TOOL(&other, "mqstat", "--table", "broker");
    assert_int_equal(tool_wait(&other), 0);
    assert_non_null(strstr(other.text, ": not alive; pid "));
    TOOL(&other, "mqctl", "cleanup");
    assert_int_equal(tool_wait(&other), 0);
}

static void without_a_broker_it_says_so_in_a_line(void **state)
{
    (void)state;
    TOOL(&other, "mqstat", "--json");
    assert_int_equal(tool_wait(&other), 1);
    expect_err(&other, "there is no such broker");
    expect_one_line(&other);
    expect_out(&other, "");
    assert_int_equal(PUBLISH("-t", "a", "-m", "x"), 1);
    expect_one_line(&pub);
    TOOL(&sub, "mqsub", "-t", "a");
    assert_int_equal(tool_wait(&sub), 1);
    expect_one_line(&sub);
}

static void a_board_of_another_layout_is_named_and_not_read(void **state)
{
    struct daemon *d = *state;
    struct board_header header = {.magic = BOARD_MAGIC, .layout = 999};
    char name[NAMES_MAX];
    int fd;

    names_board(name, d->instance);
    fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &header, sizeof header), sizeof header);
    close(fd);
    TOOL(&other, "mqstat");
    assert_int_equal(tool_wait(&other), 1);
    shm_unlink(name);
    expect_err(&other, "its board has layout 999, and this mqstat knows layout ");
    expect_one_line(&other);
}

static void watching_prints_an_object_a_line(void **state)
{
    daemon_start(*state, small);
    TOOL(&other, "mqstat", "--watch", "10ms", "--json", "broker");
    PATIENCE_UNTIL(strchr(tool_out(&other), '\n') != strrchr(other.text, '\n'));
    tool_signal(&other, SIGINT);
    assert_int_equal(tool_wait(&other), 0);
    for (char *rest = other.text, *line; (line = strsep(&rest, "\n")) != NULL && *line != '\0';) {
        json_t *json = json_loads(line, 0, NULL);

        assert_non_null(json);
        json_decref(json);
    }
}

/* ---- mqctl ---- */

static void cleanup_leaves_a_living_broker_alone(void **state)
{
    daemon_start(*state, small);
    TOOL(&other, "mqctl", "cleanup", "--force");
    assert_int_equal(tool_wait(&other), 1);
    expect_err(&other, "its broker runs");
    expect_one_line(&other);
    assert_int_equal(PUBLISH("-t", "a", "-m", "x", "--confirm"), 0);
}

static void cleanup_removes_all_that_a_dead_broker_left(void **state)
{
    struct daemon *d = *state;

    daemon_start(d, small);
    SUBSCRIBE(d, &sub, "-t", "a");
    daemon_kill(d);
    TOOL(&other, "mqctl", "cleanup");
    assert_int_equal(tool_wait(&other), 1);
    expect_err(&other, "1 client still waits for that broker");
    expect_one_line(&other);
    tool_signal(&sub, SIGTERM);
    assert_int_equal(tool_wait(&sub), 0);
    TOOL(&other, "mqctl", "cleanup", "--dry-run");
    assert_int_equal(tool_wait(&other), 0);
    assert_non_null(strstr(other.text, "would remove queue /mqbroker."));
    TOOL(&other, "mqctl", "cleanup");
    assert_int_equal(tool_wait(&other), 0);
    assert_true(daemon_is_gone(d));
    TOOL(&other, "mqctl", "cleanup");
    assert_int_equal(tool_wait(&other), 0);
    expect_err(&other, "");
    assert_non_null(strstr(other.text, "nothing is left of "));
}

static void cleanup_needs_no_board_to_find_the_queues(void **state)
{
    struct daemon *d = *state;
    char name[NAMES_MAX];
    int fd;

    daemon_start(d, small);
    SUBSCRIBE(d, &sub, "-t", "a");
    daemon_kill(d);
    tool_signal(&sub, SIGTERM);
    assert_int_equal(tool_wait(&sub), 0);
    names_board(name, d->instance);
    fd = shm_open(name, O_RDWR, 0);
    assert_int_equal(pwrite(fd, "?", 1, 0), 1);
    close(fd);
    TOOL(&other, "mqctl", "cleanup");
    assert_int_equal(tool_wait(&other), 0);
    expect_err(&other, "its board is damaged");
    expect_one_line(&other);
    assert_true(daemon_is_gone(d));
}

static void cleanup_by_force_tells_who_waits_that_the_broker_has_stopped(void **state)
{
    struct daemon *d = *state;

    daemon_start(d, small);
    SUBSCRIBE(d, &sub, "-t", "a");
    daemon_kill(d);
    TOOL(&other, "mqctl", "cleanup", "--force");
    assert_int_equal(tool_wait(&other), 0);
    assert_true(daemon_is_gone(d));
    assert_int_equal(tool_wait_open(&sub), 1);
    expect_one_line(&sub);
}

/* ---- Usage ---- */

static void wrong_usage_exits_2_and_points_to_help(void **state)
{
    static const char *const wrong[][8] = {
        {"mqpub"},
        {"mqpub", "-m", "x"},
        {"mqpub", "-t", "a"},
        {"mqpub", "-t", "a", "-m", "x", "-n"},
        {"mqpub", "-t", "a", "-t", "b", "-n"},
        {"mqpub", "-t", "a", "-n", "-p", "32"},
        {"mqpub", "-t", "a", "-n", "--ttl", "0"},
        {"mqpub", "-t", "a", "-l", "--repeat", "2"},
        {"mqpub", "-t", "a", "-n", "--request", "--confirm"},
        {"mqpub", "-t", "a", "-n", "--request", "-r"},
        {"mqpub", "-t", "a", "-n", "word"},
        {"mqsub"},
        {"mqsub", "-t", "a", "-C", "0"},
        {"mqsub", "-t", "a", "-v", "--json"},
        {"mqsub", "-t", "a", "-F", "%z"},
        {"mqsub", "-t", "a", "--exec", "cat", "-v"},
        {"mqstat", "bogus"},
        {"mqstat", "--json", "--table"},
        {"mqstat", "--prometheus", "--watch", "1"},
        {"mqstat", "--watch", "0"},
        {"mqctl"},
        {"mqctl", "bogus"},
        {"mqctl", "cleanup", "bogus"},
        {"mqctl", "clients", "bogus"},
        {"mqctl", "reload", "bogus"},
        {"mqctl", "peek"},
        {"mqctl", "peek", "one", "two"},
        {"mqctl", "peek", "one", "-n", "0"},
        {"mqctl", "peek", "one", "-F", "%z"},
        {"mqctl", "peek", "one", "-F", "%p", "--json"},
        {"mqctl", "kick", ""},
        {"mqctl", "remove"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char pointer[64];

        snprintf(pointer, sizeof pointer, "\nTry '%s", wrong[i][0]);
        tool_start(&other, TOOL_FILE, wrong[i]);
        if (tool_wait(&other) != 2 || strstr(other.errors, pointer) == NULL)
            fail_msg("%s %s %s: %s", wrong[i][0], wrong[i][1], wrong[i][2], other.errors);
        expect_out(&other, "");
    }
}

static void help_and_version_exit_0(void **state)
{
    static const char *const tools[] = {"mqpub", "mqsub", "mqstat", "mqctl"};

    (void)state;
    for (size_t i = 0; i < sizeof tools / sizeof *tools; i++) {
        TOOL(&other, tools[i], "--help");
        assert_int_equal(tool_wait(&other), 0);
        assert_int_equal(strncmp(other.text, "Usage: mq", 9), 0);
        assert_string_equal(other.errors, "");
        TOOL(&other, tools[i], "--version");
        assert_int_equal(tool_wait(&other), 0);
        assert_non_null(strstr(other.text, " (mqbroker) "));
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(every_source_of_messages_arrives_as_it_is),
        TEST(lines_may_hold_any_bytes_and_the_last_needs_no_newline),
        TEST(lines_go_out_when_the_input_pauses),
        TEST(many_lines_arrive_all_and_in_order),
        TEST(a_line_too_long_is_named_with_what_went_before),
        TEST(what_cannot_be_read_is_said_and_nothing_published),
        TEST(large_messages_arrive_as_they_are),
        TEST(a_message_may_be_repeated),
        TEST(an_unconfirmed_message_is_named_by_its_line),
        TEST(an_interrupted_mqpub_sends_what_it_gathered_and_dies_of_the_signal),
        TEST(an_interruption_ends_mqpub_also_while_the_broker_stands_still),
        TEST(a_command_answers_requests),
        TEST(a_command_that_fails_answers_nothing),
        TEST(a_request_that_nobody_answers_says_why),
        TEST(an_interrupted_command_is_ended),
        TEST(a_count_and_a_time_end_it),
        TEST(kept_messages_are_marked_and_may_be_left_out),
        TEST(a_name_reaches_it_directly),
        TEST(what_was_missed_is_said),
        TEST(a_terminal_is_shown_nothing_that_acts_on_it),
        TEST(who_reads_no_more_ends_it_as_a_pipe_does),
        TEST(it_says_that_the_broker_has_stopped_and_ends),
        TEST(statistics_count_what_happened),
        TEST(statistics_need_no_answer_from_the_broker),
        TEST(without_a_broker_it_says_so_in_a_line),
        TEST(a_board_of_another_layout_is_named_and_not_read),
        TEST(watching_prints_an_object_a_line),
        TEST(cleanup_leaves_a_living_broker_alone),
        TEST(cleanup_removes_all_that_a_dead_broker_left),
        TEST(cleanup_needs_no_board_to_find_the_queues),
        TEST(cleanup_by_force_tells_who_waits_that_the_broker_has_stopped),
        TEST(wrong_usage_exits_2_and_points_to_help),
        TEST(help_and_version_exit_0),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
