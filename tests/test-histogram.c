/* The histogram against the obvious: all values kept and sorted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/histogram.h"

/* Too large for comfort on the stack. */
static struct histogram histogram;
static struct histogram other;

static int empty_both(void **state)
{
    (void)state;
    memset(&histogram, 0, sizeof histogram);
    memset(&other, 0, sizeof other);
    return 0;
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void an_empty_histogram_has_percentiles_of_zero(void **state)
{
    (void)state;
    assert_int_equal(histogram_percentile(&histogram, 500), 0);
    assert_int_equal(histogram_percentile(&histogram, 1000), 0);
    assert_int_equal(histogram.max, 0);
}

static void small_values_are_exact(void **state)
{
    (void)state;
    for (uint64_t value = 0; value < 128; value++) {
        histogram_record(&histogram, value);
    }
    for (unsigned per_mille = 1; per_mille <= 1000; per_mille++) {
        uint64_t rank = (128 * (uint64_t)per_mille + 999) / 1000;
        assert_int_equal(histogram_percentile(&histogram, per_mille), rank - 1);
    }
}

static void percentile_of_one_value_is_that_value(void **state)
{
    (void)state;
    histogram_record(&histogram, 123456789);
    assert_int_equal(histogram_percentile(&histogram, 1), 123456789);
    assert_int_equal(histogram_percentile(&histogram, 500), 123456789);
    assert_int_equal(histogram_percentile(&histogram, 999), 123456789);
}

/* Each edge of each power of two, both ends of the range included. */
static void every_value_comes_back_within_one_in_128(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 64; bit++) {
        for (int64_t off = -1; off <= 1; off++) {
            uint64_t value = (UINT64_C(1) << bit) + (uint64_t)off;

            empty_both(NULL);
            histogram_record(&histogram, value);
            histogram_record(&histogram, UINT64_MAX);

            uint64_t read = histogram_percentile(&histogram, 500);
            assert_true(read >= value);
            assert_true(read - value <= value / 128);
        }
    }
}

static void p999_of_a_thousand_is_the_999th(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 999; i++) {
        histogram_record(&histogram, 10);
    }
    histogram_record(&histogram, 100);
    assert_int_equal(histogram_percentile(&histogram, 999), 10);
    assert_int_equal(histogram_percentile(&histogram, 1000), 100);
}

static void percentiles_agree_with_sorting(void **state)
{
    enum { N = 20000 };
    uint64_t *values = test_malloc(N * sizeof *values);
    uint64_t seed = 42;

    (void)state;
    for (size_t i = 0; i < N; i++) {
        values[i] = next_random(&seed) >> (next_random(&seed) % 64);
        histogram_record(&histogram, values[i]);
    }
    qsort(values, N, sizeof *values, compare);
    for (unsigned per_mille = 1; per_mille <= 1000; per_mille++) {
        uint64_t exact = values[(N / 1000) * per_mille - 1];
        uint64_t read = histogram_percentile(&histogram, per_mille);

        assert_true(read >= exact);
        assert_true(read - exact <= exact / 128);
    }
    assert_int_equal(histogram.max, values[N - 1]);
    assert_int_equal(histogram_percentile(&histogram, 1000), values[N - 1]);
    test_free(values);
}

static void merging_equals_recording_into_one(void **state)
{
    static struct histogram both;
    uint64_t seed = 7;

    (void)state;
    memset(&both, 0, sizeof both);
    for (size_t i = 0; i < 5000; i++) {
        uint64_t value = next_random(&seed) >> 30;
        histogram_record(i % 3 == 0 ? &histogram : &other, value);
        histogram_record(&both, value);
    }
    histogram_merge(&histogram, &other);
    assert_memory_equal(&histogram, &both, sizeof both);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(an_empty_histogram_has_percentiles_of_zero, empty_both),
        cmocka_unit_test_setup(small_values_are_exact, empty_both),
        cmocka_unit_test_setup(percentile_of_one_value_is_that_value, empty_both),
        cmocka_unit_test_setup(every_value_comes_back_within_one_in_128, empty_both),
        cmocka_unit_test_setup(p999_of_a_thousand_is_the_999th, empty_both),
        cmocka_unit_test_setup(percentiles_agree_with_sorting, empty_both),
        cmocka_unit_test_setup(merging_equals_recording_into_one, empty_both),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
