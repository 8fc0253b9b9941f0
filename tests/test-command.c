/* Commands that handle a message, with real shells. */
#include <errno.h>
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

#include "tools/command.h"

enum { LIMIT = 100 };

#define BYTES(text) .payload = (text), .size = sizeof(text) - 1

static const struct mqc_message request = {
    .topic = "a/b", BYTES("pay\0load"), .priority = 9, .flags = MQC_M_REQUEST, .attempt = 4};

static int run(struct command *command, const char *text, const struct mqc_message *message)
{
    command_init(command, text, LIMIT);
    return command_run(command, message, 3);
}

static void expect_reply(const char *text, const void *reply, size_t size)
{
    struct command command;

    assert_int_equal(run(&command, text, &request), COMMAND_OK);
    assert_int_equal(command.reply_size, size);
    assert_memory_equal(command.reply.bytes, reply, size);
    command_deinit(&command);
}

static void the_payload_is_its_input_and_its_output_the_reply(void **state)
{
    (void)state;
    expect_reply("cat", "pay\0load", 8);
    expect_reply("true", "", 0);
    expect_reply("printf 12345", "12345", 5);
}

static void the_message_stands_in_its_environment(void **state)
{
    static const char expected[] = "a/b 9 8 3 0 1 4\n";

    (void)state;
    expect_reply("echo $MQ_TOPIC $MQ_PRIORITY $MQ_SIZE $MQ_NUMBER $MQ_RETAINED $MQ_REQUEST "
                 "$MQ_ATTEMPT",
                 expected, sizeof expected - 1);
}

static void a_command_need_not_read_its_input(void **state)
{
    static char large[1 << 20];
    const struct mqc_message message = {.topic = "t", .payload = large, .size = sizeof large};
    struct command command;

    (void)state;
    assert_int_equal(run(&command, "exit 0", &message), COMMAND_OK);
    command_deinit(&command);
    assert_int_equal(run(&command, "head -c 1 >/dev/null", &message), COMMAND_OK);
    command_deinit(&command);
}

static void a_status_and_a_signal_are_told_apart(void **state)
{
    struct command command;

    (void)state;
    assert_int_equal(run(&command, "exit 7", &request), COMMAND_E_STATUS);
    assert_int_equal(command.detail, 7);
    command_deinit(&command);
    assert_int_equal(run(&command, "no-such-command-anywhere 2>/dev/null", &request),
                     COMMAND_E_STATUS);
    assert_int_equal(command.detail, 127);
    command_deinit(&command);
    assert_int_equal(run(&command, "kill -9 $$", &request), COMMAND_E_SIGNAL);
    assert_int_equal(command.detail, SIGKILL);
    command_deinit(&command);
}

static void a_reply_may_be_as_large_as_the_limit_and_no_larger(void **state)
{
    struct command command;

    (void)state;
    assert_int_equal(run(&command, "head -c 100 /dev/zero", &request), COMMAND_OK);
    assert_int_equal(command.reply_size, LIMIT);
    command_deinit(&command);
    assert_int_equal(run(&command, "head -c 101 /dev/zero", &request), COMMAND_E_LARGE);
    command_deinit(&command);
}

static void a_command_that_never_stops_writing_is_stopped(void **state)
{
    struct command command;

    (void)state;
    assert_int_equal(run(&command, "exec yes", &request), COMMAND_E_LARGE);
    command_deinit(&command);
}

static void what_it_leaves_in_the_background_holds_nobody_up(void **state)
{
    struct command command;

    (void)state;
    alarm(20);
    assert_int_equal(run(&command, "sleep 60 & echo $!", &request), COMMAND_OK);
    alarm(0);
    command.reply.bytes[command.reply_size] = '\0';
    assert_int_equal(kill(atoi(command.reply.bytes), SIGKILL), 0);
    command_deinit(&command);
}

static void a_message_that_asks_for_nothing_leaves_the_output_alone(void **state)
{
    struct mqc_message message = request;
    struct command command;

    (void)state;
    message.flags = MQC_M_RETAINED;
    assert_int_equal(run(&command,
                         "test $MQ_RETAINED$MQ_REQUEST = 10 && printf '' && echo '# spoken'",
                         &message),
                     COMMAND_OK);
    assert_int_equal(command.reply_size, 0);
    command_deinit(&command);
}

static int n_descriptors(void)
{
    int n = 0;

    for (int fd = 0; fd < 256; fd++)
        n += dup2(fd, fd) == fd;
    return n;
}

static void no_descriptor_is_left_open(void **state)
{
    int before = n_descriptors();

    the_payload_is_its_input_and_its_output_the_reply(state);
    a_status_and_a_signal_are_told_apart(state);
    a_command_that_never_stops_writing_is_stopped(state);
    assert_int_equal(n_descriptors(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_payload_is_its_input_and_its_output_the_reply),
        cmocka_unit_test(the_message_stands_in_its_environment),
        cmocka_unit_test(a_command_need_not_read_its_input),
        cmocka_unit_test(a_status_and_a_signal_are_told_apart),
        cmocka_unit_test(a_reply_may_be_as_large_as_the_limit_and_no_larger),
        cmocka_unit_test(a_command_that_never_stops_writing_is_stopped),
        cmocka_unit_test(what_it_leaves_in_the_background_holds_nobody_up),
        cmocka_unit_test(a_message_that_asks_for_nothing_leaves_the_output_alone),
        cmocka_unit_test(no_descriptor_is_left_open),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
