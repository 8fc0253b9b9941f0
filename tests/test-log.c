/* The log: what stands on standard error, byte by byte. Standard error is a socket here that keeps
 * the writes apart, so that "one line, one write" can be seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/log.h"

#define SECOND UINT64_C(1000000000)

static int reader = -1;
static int kept = -1; /* standard error as it was */
static char line[4096];

/* Take standard error over. While it is, a failed assertion says nothing; tear_down() gives it
 * back. */
static int set_up(void **state)
{
    int ends[2];

    (void)state;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
        return -1;
    kept = dup(STDERR_FILENO);
    reader = ends[0];
    dup2(ends[1], STDERR_FILENO);
    close(ends[1]);
    unsetenv("JOURNAL_STREAM");
    log_init(CONFIG_LOG_INFO);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    dup2(kept, STDERR_FILENO);
    close(kept);
    close(reader);
    return 0;
}

/* The next write, or NULL if there is none. */
static const char *next_write(void)
{
    ssize_t n = read(reader, line, sizeof(line) - 1);

    if (n < 0)
        return NULL;
    line[n] = '\0';
    return line;
}

/* What follows the time stamp of the next write, which must be one line. */
static const char *next_line(void)
{
    const char *text = next_write();

    assert_non_null(text);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    line[strlen(text) - 1] = '\0';
    /* 2026-11-23T06:46:31.123Z */
    assert_int_equal(strspn(text, "0123456789-:T.Z"), 24);
    assert_int_equal(text[24], ' ');
    return text + 25;
}

static void pretend_journal(unsigned long long inode_offset)
{
    struct stat st;
    char name[64];

    assert_int_equal(fstat(STDERR_FILENO, &st), 0);
    snprintf(name, sizeof(name), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino + inode_offset);
    setenv("JOURNAL_STREAM", name, 1);
    log_init(CONFIG_LOG_DEBUG);
}

static void a_line_is_one_write_with_time_and_level(void **state)
{
    (void)state;
    log_info("ready after %d us", 42);
    assert_string_equal(next_line(), "info: ready after 42 us");
    log_warning("hm");
    log_error("oh");
    assert_string_equal(next_line(), "warning: hm");
    assert_string_equal(next_line(), "error: oh");
    assert_null(next_write());
}

static void levels_above_the_threshold_are_silent(void **state)
{
    (void)state;
    log_debug("no");
    assert_null(next_write());
    log_set_level(CONFIG_LOG_ERROR);
    log_info("no");
    log_warning("no");
    assert_null(next_write());
    log_error("yes");
    assert_string_equal(next_line(), "error: yes");
    log_set_level(CONFIG_LOG_DEBUG);
    log_debug("yes");
    assert_string_equal(next_line(), "debug: yes");
}

static void journald_gets_levels_and_no_time(void **state)
{
    (void)state;
    pretend_journal(0);
    log_error("a");
    log_warning("b");
    log_info("c");
    log_debug("d");
    assert_string_equal(next_write(), "<3>a\n");
    assert_string_equal(next_write(), "<4>b\n");
    assert_string_equal(next_write(), "<6>c\n");
    assert_string_equal(next_write(), "<7>d\n");
}

static void a_journal_that_is_not_standard_error_is_none(void **state)
{
    (void)state;
    pretend_journal(1);
    log_info("c");
    assert_string_equal(next_line(), "info: c");
    setenv("JOURNAL_STREAM", "", 1);
    log_init(CONFIG_LOG_INFO);
    log_info("c");
    assert_string_equal(next_line(), "info: c");
}

static void control_characters_cannot_forge_a_line_or_speak_to_the_terminal(void **state)
{
    (void)state;
    log_info("%s", "a\nb\r\t\x1b[2J\x7f\x01");
    assert_string_equal(next_line(), "info: a\\x0ab\\x0d\\x09\\x1b[2J\\x7f\\x01");
    /* U+009B is a control sequence introducer in two bytes. */
    log_info("%s", "x\xc2\x9b"
                   "2Jy\xc2\xa0z");
    assert_string_equal(next_line(), "info: x\\x9b2Jy\xc2\xa0z");
    log_info("%s", "C:\\x0a");
    assert_string_equal(next_line(), "info: C:\\\\x0a");
    log_info("%s", "gr\xc3\xbc\xc3\x9f"
                   "e \xc2");
    assert_string_equal(next_line(), "info: gr\xc3\xbc\xc3\x9f"
                                     "e \xc2");
}

static void a_line_that_is_too_long_is_cut_and_marked(void **state)
{
    char text[3 * LOG_LINE_MAX];
    const char *out;

    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    log_info("%s", text);
    out = next_line();
    assert_int_equal(strlen(line), LOG_LINE_MAX - 1);
    assert_string_equal(out + strlen(out) - 4, "x...");
    memset(text, '\n', sizeof(text) - 1);
    log_info("%s", text);
    out = next_line();
    assert_true(strlen(line) < LOG_LINE_MAX);
    assert_string_equal(out + strlen(out) - 7, "\\x0a...");
    /* The longest that just fits is not cut. */
    memset(text, 'x', sizeof(text) - 1);
    text[LOG_LINE_MAX - 1 - 25 - strlen("info: ") - 3] = '\0';
    log_info("%s", text);
    out = next_line();
    assert_string_equal(out + strlen("info: "), text);
}

static void errno_is_left_as_it_was(void **state)
{
    (void)state;
    close(STDERR_FILENO);
    errno = EXDEV;
    log_info("nobody hears this");
    assert_int_equal(errno, EXDEV);
}

static void limited_lines_stop_after_a_burst_and_the_rest_is_counted(void **state)
{
    struct log_limit limit = {0};
    struct log_limit other = {0};
    uint64_t now = 100 * SECOND;

    (void)state;
    for (int i = 0; i < LOG_BURST; i++) {
        log_limited(&limit, now + (uint64_t)i, CONFIG_LOG_WARNING, "bad frame %d", i);
        assert_string_not_equal(next_line(), "");
    }
    for (int i = 0; i < 1000; i++)
        log_limited(&limit, now + 9 * SECOND, CONFIG_LOG_WARNING, "bad frame");
    assert_null(next_write());
    log_limited(&other, now, CONFIG_LOG_WARNING, "another kind");
    assert_string_equal(next_line(), "warning: another kind");
    log_limited(&limit, now + 10 * SECOND, CONFIG_LOG_WARNING, "bad frame");
    assert_string_equal(next_line(), "warning: bad frame (and 1000 more like it)");
    log_limited(&limit, now + 10 * SECOND, CONFIG_LOG_WARNING, "bad frame");
    assert_string_equal(next_line(), "warning: bad frame");
}

static void limited_lines_below_the_level_are_not_counted(void **state)
{
    struct log_limit limit = {0};

    (void)state;
    for (int i = 0; i < 100; i++)
        log_limited(&limit, SECOND, CONFIG_LOG_DEBUG, "detail");
    log_set_level(CONFIG_LOG_DEBUG);
    log_limited(&limit, SECOND, CONFIG_LOG_DEBUG, "detail");
    assert_string_equal(next_line(), "debug: detail");
}

static void the_count_of_what_was_left_out_survives_a_long_line(void **state)
{
    struct log_limit limit = {.left_out = 7};
    char text[2 * LOG_LINE_MAX];
    const char *end = "x... (and 7 more like it)";
    const char *out;

    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    log_limited(&limit, SECOND, CONFIG_LOG_ERROR, "%s", text);
    out = next_line();
    assert_string_equal(out + strlen(out) - strlen(end), end);
    assert_int_equal(strlen(line), LOG_LINE_MAX - 1);
}

#define LOG_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOG_TEST(a_line_is_one_write_with_time_and_level),
        LOG_TEST(levels_above_the_threshold_are_silent),
        LOG_TEST(journald_gets_levels_and_no_time),
        LOG_TEST(a_journal_that_is_not_standard_error_is_none),
        LOG_TEST(control_characters_cannot_forge_a_line_or_speak_to_the_terminal),
        LOG_TEST(a_line_that_is_too_long_is_cut_and_marked),
        LOG_TEST(errno_is_left_as_it_was),
        LOG_TEST(limited_lines_stop_after_a_burst_and_the_rest_is_counted),
        LOG_TEST(limited_lines_below_the_level_are_not_counted),
        LOG_TEST(the_count_of_what_was_left_out_survives_a_long_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
