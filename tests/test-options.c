/* The command line: values that people write, the table that makes parser and help, and the exit
 * codes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tools/options.h"

enum { KEY_TTL = OPTIONS_KEY_LONG };

static const struct options_entry entries[] = {
    {'t', "topic", "TOPIC", "publish to this topic"},
    {'r', "retain", NULL, "keep it\nas the last one"},
    {KEY_TTL, "ttl", "DURATION", "drop it after this"},
    {'n', "number", "N", "some number"},
    {'S', "size", "SIZE", "some size"},
    {'o', "operand", NULL, "a word follows"},
    {0},
};

static const struct options_program program = {
    .name = "mqtest",
    .usage = "-t TOPIC\n--ttl DURATION",
    .purpose = "Test options.",
    .entries = entries,
    .more = "Exit status: 0.",
};

/* ---- Values ---- */

static void durations_have_units_and_default_to_seconds(void **state)
{
    static const struct {
        const char *text;
        uint64_t nanoseconds;
    } good[] = {
        {"5", 5000000000},
        {"5s", 5000000000},
        {"1.5", 1500000000},
        {"0", 0},
        {"200ms", 200000000},
        {"0.5ms", 500000},
        {"7us", 7000},
        {"9ns", 9},
        {"2m", 120000000000},
        {"1h", 3600000000000},
        {"1d", 86400000000000},
        {"0.25d", 21600000000000},
        {"1.123456789", 1123456789},
        {"1.1234567899999", 1123456789},
        {"18446744073.709551615", UINT64_MAX},
    };

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        uint64_t nanoseconds = 1;

        assert_true(options_parse_duration(good[i].text, &nanoseconds));
        assert_int_equal(nanoseconds, good[i].nanoseconds);
    }
}

static void what_is_no_duration_is_refused_and_leaves_the_value_alone(void **state)
{
    static const char *const bad[] = {
        "",
        "s",
        "-1",
        "+1",
        " 1",
        "1 ",
        "1 s",
        "1.",
        "1.s",
        ".5",
        "inf",
        "nan",
        "0x5",
        "1e3",
        "5S",
        "5sec",
        "1,5",
        "1.5.5",
        "5ms5",
        "18446744073.709551616",
        "18446744074",
        "99999999999999999999",
        "213504d",
    };

    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint64_t nanoseconds = 42;

        if (options_parse_duration(bad[i], &nanoseconds))
            fail_msg("'%s' was taken", bad[i]);
        assert_int_equal(nanoseconds, 42);
    }
}

static void sizes_have_binary_units(void **state)
{
    static const struct {
        const char *text;
        uint64_t size;
    } good[] = {
        {"0", 0},
        {"4096", 4096},
        {"64K", 65536},
        {"64k", 65536},
        {"1M", 1048576},
        {"2G", 2147483648},
        {"17179869183G", UINT64_C(17179869183) << 30},
    };
    static const char *const bad[] = {"", "K", "-1", "1KB", "1T", "1.5M", "17179869184G", "1\xc3"};
    uint64_t size;

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_true(options_parse_size(good[i].text, &size));
        assert_int_equal(size, good[i].size);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (options_parse_size(bad[i], &size))
            fail_msg("'%s' was taken", bad[i]);
}

static void numbers_are_digits_within_their_bounds(void **state)
{
    static const char *const bad[] = {"", "-1", "+1", " 1", "1 ", "0x1f", "1e1", "32", "3", "one"};
    uint64_t number;

    (void)state;
    assert_true(options_parse_number("4", 4, 31, &number));
    assert_int_equal(number, 4);
    assert_true(options_parse_number("031", 4, 31, &number));
    assert_int_equal(number, 31);
    assert_true(options_parse_number("18446744073709551615", 0, UINT64_MAX, &number));
    assert_int_equal(number, UINT64_MAX);
    assert_false(options_parse_number("18446744073709551616", 0, UINT64_MAX, &number));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (options_parse_number(bad[i], 4, 31, &number))
            fail_msg("'%s' was taken", bad[i]);
}

static void timeouts_are_rounded_up_so_that_a_short_wait_is_not_none(void **state)
{
    (void)state;
    assert_int_equal(options_milliseconds(0), 0);
    assert_int_equal(options_milliseconds(1), 1);
    assert_int_equal(options_milliseconds(1000000), 1);
    assert_int_equal(options_milliseconds(1000001), 2);
    assert_int_equal(options_milliseconds(UINT64_MAX), INT32_MAX);
}

/* ---- The command line ---- */

/* Text for argv, which is not const. */
#define T(text) ((char *)(uintptr_t)(text))

static char **line(char *arguments[], int *argc)
{
    for (*argc = 0; arguments[*argc] != NULL; ++*argc)
        ;
    return arguments;
}

#define LINE(...) ((char *[]){T("mqtest"), __VA_ARGS__, NULL})

static void options_come_with_their_values_in_order_and_the_rest_stays(void **state)
{
    char *arguments[] = {T("mqtest"), T("-rta/b"), T("rest"), T("--ttl=1.5"), T("--instance"),
                         T("x-1"),    T("-n"),     T("7"),    T("-S4K"),      NULL};
    struct options options;
    int argc;
    char **argv = line(arguments, &argc);

    (void)state;
    options_begin(&options, &program, argc, argv);
    assert_int_equal(options_next(&options), 'r');
    assert_int_equal(options_next(&options), 't');
    assert_string_equal(options.value, "a/b");
    assert_int_equal(options_next(&options), KEY_TTL);
    assert_int_equal(options_duration(&options), 1500000000);
    assert_int_equal(options_next(&options), 'n');
    assert_int_equal(options_number(&options, 0, 31), 7);
    assert_int_equal(options_next(&options), 'S');
    assert_int_equal(options_size(&options), 4096);
    assert_int_equal(options_next(&options), -1);
    assert_string_equal(options.instance, "x-1");
    assert_string_equal(options_rest(&options)[0], "rest");
    assert_null(options_rest(&options)[1]);
}

static void a_second_command_line_begins_anew(void **state)
{
    (void)state;
    options_come_with_their_values_in_order_and_the_rest_stays(NULL);
    options_come_with_their_values_in_order_and_the_rest_stays(NULL);
}

/* Read a command line as a program does, in a child; returns its exit status and what it wrote to
 * both outputs. */
static int run(char *arguments[], char *out, size_t size)
{
    FILE *file = tmpfile();
    struct options options;
    int status, argc;
    bool operand = false;
    pid_t pid;

    assert_non_null(file);
    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        char **argv = line(arguments, &argc);

        dup2(fileno(file), STDOUT_FILENO);
        dup2(fileno(file), STDERR_FILENO);
        options_begin(&options, &program, argc, argv);
        for (int key; (key = options_next(&options)) != -1;) {
            if (key == 'n')
                options_number(&options, 0, 31);
            else if (key == 'S')
                options_size(&options);
            else if (key == KEY_TTL)
                options_duration(&options);
            operand |= key == 'o';
        }
        if (operand)
            printf("%s\n", options_operand(&options, "the group"));
        else
            options_no_rest(&options);
        fflush(stdout);
        _exit(77);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    rewind(file);
    out[fread(out, 1, size - 1, file)] = '\0';
    fclose(file);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void wrong_usage_is_one_line_and_a_pointer_to_help_and_exits_2(void **state)
{
    static const struct {
        const char *argument;
        const char *value;
        const char *said;
    } wrong[] = {
        {"--bogus", NULL, "mqtest: unrecognized option '--bogus'"},
        {"-x", NULL, "mqtest: invalid option -- 'x'"},
        {"-t", NULL, "mqtest: option requires an argument -- 't'"},
        {"--retain=1", NULL, "mqtest: option '--retain' doesn't allow an argument"},
        {"--ttl", "5 s",
         "mqtest: --ttl: '5 s' is not a duration, such as 5 (seconds), 1.5s, 200ms, 2m or 1h"},
        {"-n", "32", "mqtest: --number: '32' is not a number from 0 to 31"},
        {"--size", "1T", "mqtest: --size: '1T' is not a size, such as 64, 4K or 1M"},
        {"--instance", "a.b",
         "mqtest: --instance: 'a.b' is not a name: 1 to 64 letters, digits, '_' and '-'"},
        {"word", NULL, "mqtest: 'word' is not an option, and nothing else is expected"},
        {"-o", NULL, "mqtest: the group is missing"},
        {"-o", "", "mqtest: the group is missing"},
    };
    char out[4096], expected[512];

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char **arguments = LINE(T(wrong[i].argument), T(wrong[i].value));

        assert_int_equal(run(arguments, out, sizeof out), OPTIONS_EXIT_USAGE);
        snprintf(expected, sizeof expected, "%s\nTry 'mqtest --help'.\n", wrong[i].said);
        assert_string_equal(out, expected);
    }
}

static void an_operand_is_exactly_one_word(void **state)
{
    char out[4096];

    (void)state;
    assert_int_equal(run(LINE(T("-o"), T("word")), out, sizeof out), 77);
    assert_string_equal(out, "word\n");
    assert_int_equal(run(LINE(T("one"), T("-o"), T("two")), out, sizeof out), OPTIONS_EXIT_USAGE);
    assert_string_equal(out, "mqtest: 'two' is too much: only the group is expected\n"
                             "Try 'mqtest --help'.\n");
}

static void help_shows_every_option_of_the_table_and_exits_0(void **state)
{
    static const char *const expected =
        "Usage: mqtest -t TOPIC\n"
        "       mqtest --ttl DURATION\n"
        "Test options.\n"
        "\n"
        "Options:\n"
        "  -t, --topic TOPIC         publish to this topic\n"
        "  -r, --retain              keep it\n"
        "                            as the last one\n"
        "      --ttl DURATION        drop it after this\n"
        "  -n, --number N            some number\n"
        "  -S, --size SIZE           some size\n"
        "  -o, --operand             a word follows\n"
        "      --instance NAME       talk to the broker of this name\n"
        "                            (default: $MQBROKER_INSTANCE, or \"default\")\n"
        "  -h, --help                show this help and exit\n"
        "  -V, --version             show the version and exit\n"
        "\n"
        "Exit status: 0.\n";
    char out[4096];

    (void)state;
    assert_int_equal(run(LINE(T("--help")), out, sizeof out), EXIT_SUCCESS);
    assert_string_equal(out, expected);
}

static void version_names_the_program_and_exits_0(void **state)
{
    char out[256];

    (void)state;
    assert_int_equal(run(LINE(T("--version")), out, sizeof out), EXIT_SUCCESS);
    assert_string_equal(out, "mqtest (mqbroker) 0.1.0\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(durations_have_units_and_default_to_seconds),
        cmocka_unit_test(what_is_no_duration_is_refused_and_leaves_the_value_alone),
        cmocka_unit_test(sizes_have_binary_units),
        cmocka_unit_test(numbers_are_digits_within_their_bounds),
        cmocka_unit_test(timeouts_are_rounded_up_so_that_a_short_wait_is_not_none),
        cmocka_unit_test(options_come_with_their_values_in_order_and_the_rest_stays),
        cmocka_unit_test(a_second_command_line_begins_anew),
        cmocka_unit_test(wrong_usage_is_one_line_and_a_pointer_to_help_and_exits_2),
        cmocka_unit_test(an_operand_is_exactly_one_word),
        cmocka_unit_test(help_shows_every_option_of_the_table_and_exits_0),
        cmocka_unit_test(version_names_the_program_and_exits_0),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
