/* Runs are taken in turn, and folded as their figures demand. The mode is a made-up one that
 * measures nothing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/bench.h"

static char order[64]; /* the first letters of the ways that were run */
static int fail_at = -1;

static int run(const struct bench_options *options, const struct bench_way *way, double *figures)
{
    static const double rates[] = {30, 10, 20};
    size_t n = strlen(order);
    size_t round = n / 2 % 3;

    (void)options;
    if ((int)n == fail_at) {
        return bench_fail("way %s failed", way->key);
    }
    order[n] = way->key[0];
    order[n + 1] = '\0';
    figures[0] = way->bare ? 2 * rates[round] : rates[round];
    figures[1] = rates[round];
    figures[2] = way->bare ? 0 : 1;
    figures[3] = (double)NAN;
    return 0;
}

static const struct bench_figure figures[] = {
    {"rate", "rate", 0, BENCH_MEDIAN},
    {"worst", "worst", 0, BENCH_MAX},
    {"lost", "lost", 0, BENCH_FAULTS},
    {"untold", NULL, 0, BENCH_MEDIAN},
};

static const struct bench_way ways[] = {
    {.key = "a", .name = "ours", .batch = BENCH_YES, .wait = BENCH_SLEEP},
    {.key = "b", .name = "bare", .bare = true, .batch = BENCH_YES, .wait = BENCH_SLEEP},
    {.key = "c", .name = "ours, other", .batch = BENCH_NO, .wait = BENCH_LOOK},
    {.key = "d", .name = "bare, other", .bare = true, .batch = BENCH_NO, .wait = BENCH_LOOK},
};

static const struct bench_ratio ratio = {"a_to_b", "ours to bare", "a", "b", "rate"};
static const struct bench_ratio untold = {"untold", "ours to bare", "a", "b", "untold"};

static const struct bench_mode mode = {
    .name = "made-up",
    .ways = ways,
    .n_ways = 4,
    .figures = figures,
    .n_figures = 4,
    .ratios = &ratio,
    .n_ratios = 1,
    .run = run,
};

/* Some of whose ways take loans, or are of a size of their own. */
static const struct bench_way special_ways[] = {
    {.key = "e", .name = "copied", .batch = BENCH_UNSAID},
    {.key = "f", .name = "on loan", .batch = BENCH_UNSAID, .loan = true},
    {.key = "g", .name = "copied, large", .batch = BENCH_UNSAID, .size = 1000},
};

static const struct bench_mode special_mode = {
    .name = "special",
    .loans = true,
    .ways = special_ways,
    .n_ways = 2,
    .figures = figures,
    .n_figures = 4,
    .run = run,
};

static const struct bench_mode sized_mode = {
    .name = "sized",
    .sizes = true,
    .ways = special_ways,
    .n_ways = 3,
    .figures = figures,
    .n_figures = 4,
    .run = run,
};

static struct bench_options options;
static struct bench_result result;

static int fresh(void **state)
{
    (void)state;
    order[0] = '\0';
    fail_at = -1;
    options = (struct bench_options){.batch = BENCH_UNSAID, .repeat = 1};
    return 0;
}

static int release(void **state)
{
    (void)state;
    bench_result_free(&result);
    return 0;
}

static void ways_are_run_in_turn(void **state)
{
    (void)state;
    options.baseline = true;
    options.repeat = 3;
    assert_int_equal(bench_run(&mode, &options, &result), 0);
    assert_string_equal(order, "abcdabcdabcd");
}

static void bare_queues_are_run_only_with_a_baseline(void **state)
{
    (void)state;
    assert_int_equal(bench_run(&mode, &options, &result), 0);
    assert_string_equal(order, "ac");
    assert_true(isnan(bench_ratio_of(&result, &ratio)));
}

static void a_choice_of_batching_leaves_the_other_out(void **state)
{
    (void)state;
    options.baseline = true;
    options.batch = BENCH_NO;
    assert_int_equal(bench_run(&mode, &options, &result), 0);
    assert_string_equal(order, "cd");
}

static void a_choice_of_waiting_leaves_the_other_out(void **state)
{
    (void)state;
    options.baseline = true;
    options.wait = BENCH_SLEEP;
    assert_int_equal(bench_run(&mode, &options, &result), 0);
    assert_string_equal(order, "ab");
}

static void loans_are_taken_only_if_asked_for(void **state)
{
    (void)state;
    assert_int_equal(bench_run(&special_mode, &options, &result), 0);
    assert_string_equal(order, "e");
    bench_result_free(&result);
    options.loan = true;
    assert_int_equal(bench_run(&special_mode, &options, &result), 0);
    assert_string_equal(order, "eef");
}

static void ways_with_sizes_are_for_when_none_is_asked_for(void **state)
{
    (void)state;
    assert_int_equal(bench_run(&sized_mode, &options, &result), 0);
    assert_string_equal(order, "g");
    bench_result_free(&result);
    options.size = 64;
    assert_int_equal(bench_run(&sized_mode, &options, &result), 0);
    assert_string_equal(order, "gef");
}

static void unknown_faults_are_none(void **state)
{
    static const struct bench_figure unknown_faults[] = {
        {"rate", "rate", 0, BENCH_MEDIAN},
        {"worst", "worst", 0, BENCH_MAX},
        {"lost", "lost", 0, BENCH_FAULTS},
        {"untold", NULL, 0, BENCH_FAULTS},
    };
    struct bench_mode unknowing = mode;

    (void)state;
    unknowing.figures = unknown_faults;
    assert_int_equal(bench_run(&unknowing, &options, &result), 0);
    assert_true(isnan(result.rows[0].figures[3]));
    assert_int_equal(bench_faults(&result), 2);
}

static void figures_are_folded_to_median_maximum_and_sum(void **state)
{
    (void)state;
    options.baseline = true;
    options.wait = BENCH_SLEEP;
    options.repeat = 3;
    assert_int_equal(bench_run(&mode, &options, &result), 0);
    assert_true(result.rows[0].figures[0] == 20);
    assert_true(result.rows[0].figures[1] == 30);
    assert_true(result.rows[0].figures[2] == 3);
    assert_true(isnan(result.rows[0].figures[3]));
    assert_true(result.rows[1].figures[0] == 40);
    assert_true(result.rows[0].runs[1][0] == 10);
    assert_true(bench_ratio_of(&result, &ratio) == 0.5);
    assert_true(isnan(bench_ratio_of(&result, &untold)));
    assert_int_equal(bench_faults(&result), 3);
}

static void the_median_of_two_lies_between(void **state)
{
    (void)state;
    options.baseline = true;
    options.wait = BENCH_SLEEP;
    options.repeat = 2;
    assert_int_equal(bench_run(&mode, &options, &result), 0);
    assert_true(result.rows[0].figures[0] == 20); /* of 30 and 10 */
}

static void the_first_run_that_fails_ends_it_with_its_sentence(void **state)
{
    (void)state;
    options.repeat = 3;
    fail_at = 3;
    assert_int_equal(bench_run(&mode, &options, &result), -1);
    assert_string_equal(bench_error(), "way c failed");
    assert_string_equal(order, "aca");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(ways_are_run_in_turn, fresh, release),
        cmocka_unit_test_setup_teardown(bare_queues_are_run_only_with_a_baseline, fresh, release),
        cmocka_unit_test_setup_teardown(a_choice_of_batching_leaves_the_other_out, fresh, release),
        cmocka_unit_test_setup_teardown(a_choice_of_waiting_leaves_the_other_out, fresh, release),
        cmocka_unit_test_setup_teardown(loans_are_taken_only_if_asked_for, fresh, release),
        cmocka_unit_test_setup_teardown(ways_with_sizes_are_for_when_none_is_asked_for, fresh,
                                        release),
        cmocka_unit_test_setup_teardown(unknown_faults_are_none, fresh, release),
        cmocka_unit_test_setup_teardown(figures_are_folded_to_median_maximum_and_sum, fresh,
                                        release),
        cmocka_unit_test_setup_teardown(the_median_of_two_lies_between, fresh, release),
        cmocka_unit_test_setup_teardown(the_first_run_that_fails_ends_it_with_its_sentence, fresh,
                                        release),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
