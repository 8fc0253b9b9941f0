/* Lines out of a descriptor, however they arrive. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tools/lines.h"

enum { LIMIT = 8 };

struct fixture {
    struct lines lines;
    int pipe[2];
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);

    *state = f;
    if (f == NULL || pipe(f->pipe) < 0)
        return -1;
    lines_init(&f->lines, f->pipe[0], LIMIT);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    lines_deinit(&f->lines);
    close(f->pipe[0]);
    if (f->pipe[1] >= 0)
        close(f->pipe[1]);
    free(f);
    return 0;
}

static void feed(struct fixture *f, const void *bytes, size_t size)
{
    assert_int_equal(write(f->pipe[1], bytes, size), size);
    assert_int_equal(lines_fill(&f->lines), 0);
}

static void feed_end(struct fixture *f)
{
    close(f->pipe[1]);
    f->pipe[1] = -1;
    assert_int_equal(lines_fill(&f->lines), 0);
}

static void expect_line(struct fixture *f, const void *bytes, size_t size)
{
    const char *line;
    size_t line_size;

    assert_int_equal(lines_next(&f->lines, &line, &line_size), LINES_OK);
    assert_int_equal(line_size, size);
    assert_memory_equal(line, bytes, size);
}

static void expect_outcome(struct fixture *f, int outcome)
{
    const char *line;
    size_t size;

    assert_int_equal(lines_next(&f->lines, &line, &size), outcome);
}

static void lines_come_one_by_one_out_of_one_read(void **state)
{
    struct fixture *f = *state;

    expect_outcome(f, LINES_E_READ);
    feed(f, "one\n\nthree\nfo", 13);
    expect_line(f, "one", 3);
    expect_line(f, "", 0);
    expect_line(f, "three", 5);
    expect_outcome(f, LINES_E_READ);
    feed(f, "ur\n", 3);
    expect_line(f, "four", 4);
    assert_int_equal(f->lines.number, 4);
}

static void a_line_may_come_byte_by_byte(void **state)
{
    struct fixture *f = *state;

    for (const char *c = "abcdefgh"; *c != '\0'; c++) {
        feed(f, c, 1);
        expect_outcome(f, LINES_E_READ);
    }
    feed(f, "\n", 1);
    expect_line(f, "abcdefgh", 8);
}

static void zero_bytes_belong_to_the_line(void **state)
{
    struct fixture *f = *state;

    feed(f, "a\0b\n\0\n", 6);
    expect_line(f, "a\0b", 3);
    expect_line(f, "\0", 1);
}

static void the_last_line_needs_no_newline(void **state)
{
    struct fixture *f = *state;

    feed(f, "a\nb", 3);
    feed_end(f);
    expect_line(f, "a", 1);
    expect_line(f, "b", 1);
    expect_outcome(f, LINES_E_END);
    expect_outcome(f, LINES_E_END);
}

static void a_last_newline_begins_no_further_line(void **state)
{
    struct fixture *f = *state;

    feed(f, "a\n", 2);
    feed_end(f);
    expect_line(f, "a", 1);
    expect_outcome(f, LINES_E_END);
}

static void a_line_at_the_limit_is_one_and_a_longer_one_is_named_by_its_number(void **state)
{
    struct fixture *f = *state;

    feed(f, "a\n12345678\n123456789\n", 21);
    expect_line(f, "a", 1);
    expect_line(f, "12345678", 8);
    expect_outcome(f, LINES_E_LIMIT);
    assert_int_equal(f->lines.number, 3);
}

static void a_line_without_end_is_too_long_before_it_ends(void **state)
{
    struct fixture *f = *state;

    feed(f, "123456789", 9);
    expect_outcome(f, LINES_E_LIMIT);
    assert_int_equal(f->lines.number, 1);
}

static void a_limit_beyond_all_memory_costs_nothing(void **state)
{
    enum { SIZE = 300000 };
    char *text = malloc(SIZE + 1);
    int fd = memfd_create("lines", 0);
    struct lines lines;
    const char *line;
    size_t size;
    int outcome;

    (void)state;
    assert_non_null(text);
    memset(text, 'x', SIZE);
    text[SIZE] = '\n';
    assert_int_equal(pwrite(fd, text, SIZE + 1, 0), SIZE + 1);
    lines_init(&lines, fd, SIZE_MAX / 2);
    while ((outcome = lines_next(&lines, &line, &size)) == LINES_E_READ)
        assert_int_equal(lines_fill(&lines), 0);
    assert_int_equal(outcome, LINES_OK);
    assert_int_equal(size, SIZE);
    assert_memory_equal(line, text, SIZE);
    assert_true(lines.buffer.size <= 1 << 20);
    lines_deinit(&lines);
    close(fd);
    free(text);
}

static void a_failing_read_is_reported(void **state)
{
    struct lines lines;

    (void)state;
    lines_init(&lines, -1, LIMIT);
    assert_int_equal(lines_fill(&lines), -EBADF);
    lines_deinit(&lines);
}

static void many_lines_cross_many_reads_unharmed(void **state)
{
    struct fixture *f = *state;
    uint64_t made = 0, got = 0;

    while (got < 50000) {
        char chunk[4000];
        size_t size = 0;
        const char *line;
        size_t line_size;

        while (size < sizeof chunk - 16)
            size += (size_t)sprintf(chunk + size, "%llu\n", (unsigned long long)made++);
        feed(f, chunk, size);
        while (lines_next(&f->lines, &line, &line_size) == LINES_OK) {
            char expected[32];

            assert_int_equal(line_size, sprintf(expected, "%llu", (unsigned long long)got));
            assert_memory_equal(line, expected, line_size);
            assert_int_equal(f->lines.number, ++got);
        }
    }
    assert_int_equal(got, made);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(lines_come_one_by_one_out_of_one_read),
        TEST(a_line_may_come_byte_by_byte),
        TEST(zero_bytes_belong_to_the_line),
        TEST(the_last_line_needs_no_newline),
        TEST(a_last_newline_begins_no_further_line),
        TEST(a_line_at_the_limit_is_one_and_a_longer_one_is_named_by_its_number),
        TEST(a_line_without_end_is_too_long_before_it_ends),
        TEST(a_failing_read_is_reported),
        TEST(a_limit_beyond_all_memory_costs_nothing),
        TEST(many_lines_cross_many_reads_unharmed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
