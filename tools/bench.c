/* Runs, interleaved and folded.
 *
 * A machine's speed drifts while it is measured: clocks change, neighbours come and go. So the ways
 * are not run one after the other but in turn (ours, bare, ours, bare …), each several times, and
 * the median of each figure is reported. A ratio of two such medians holds although the figures
 * themselves do not. */
#include "tools/bench.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char error_text[512];

int bench_fail(const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(error_text, sizeof error_text, format, arguments);
    va_end(arguments);
    return -1;
}

const char *bench_error(void)
{
    return error_text;
}

static bool asked_for(const struct bench_mode *mode, const struct bench_options *options,
                      const struct bench_way *way)
{
    if (way->bare && !options->baseline) {
        return false;
    }
    if (mode->loans && way->loan && !options->loan) {
        return false;
    }
    if (mode->sizes && (way->size > 0) == (options->size > 0)) {
        return false;
    }
    if (mode->durable && (way->outstanding > 0) == (options->outstanding > 0)) {
        return false;
    }
    if (way->batch != BENCH_UNSAID && options->batch != BENCH_UNSAID &&
        way->batch != options->batch) {
        return false;
    }
    return way->wait == BENCH_AS_USUAL || options->wait == BENCH_AS_USUAL ||
           way->wait == options->wait;
}

static void show_progress(const struct bench_result *result, unsigned round, const char *way)
{
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\r\033[K%s, run %u of %u: %s", result->mode->name, round + 1,
                result->options->repeat, way);
        fflush(stderr);
    }
}

static void clear_progress(void)
{
    if (isatty(STDERR_FILENO)) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
}

/* Unknown figures come last. */
static int compare_figures(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;

    if (isnan(x) || isnan(y)) {
        return isnan(x) - isnan(y);
    }
    return x < y ? -1 : x > y;
}

static double fold(enum bench_fold how, double *values, unsigned n)
{
    double sum = 0;

    qsort(values, n, sizeof *values, compare_figures);
    switch (how) {
    case BENCH_MEDIAN:
        return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
    case BENCH_MAX:
        return values[n - 1];
    case BENCH_FAULTS:
        for (unsigned i = 0; i < n; i++) {
            sum += values[i];
        }
        return sum;
    }
    return NAN;
}

static void fold_row(const struct bench_mode *mode, unsigned n_runs, struct bench_row *row)
{
    for (size_t f = 0; f < mode->n_figures; f++) {
        double values[BENCH_REPEAT_MAX];

        for (unsigned run = 0; run < n_runs; run++) {
            values[run] = row->runs[run][f];
        }
        row->figures[f] = fold(mode->figures[f].fold, values, n_runs);
    }
}

int bench_run(const struct bench_mode *mode, const struct bench_options *options,
              struct bench_result *result)
{
    *result = (struct bench_result){.mode = mode, .options = options};
    result->rows = calloc(mode->n_ways, sizeof *result->rows);
    if (result->rows == NULL) {
        return bench_fail("out of memory");
    }
    result->n_rows = 0;
    for (size_t i = 0; i < mode->n_ways; i++) {
        if (asked_for(mode, options, &mode->ways[i])) {
            result->rows[result->n_rows++].way = &mode->ways[i];
        }
    }
    for (unsigned round = 0; round < options->repeat; round++) {
        for (size_t i = 0; i < result->n_rows; i++) {
            struct bench_row *row = &result->rows[i];

            show_progress(result, round, row->way->name);
            if (mode->run(options, row->way, row->runs[round]) < 0) {
                clear_progress();
                bench_result_free(result);
                return -1;
            }
        }
    }
    clear_progress();
    for (size_t i = 0; i < result->n_rows; i++) {
        fold_row(mode, options->repeat, &result->rows[i]);
    }
    return 0;
}

void bench_result_free(struct bench_result *result)
{
    free(result->rows);
    result->rows = NULL;
    result->n_rows = 0;
}

static double figure_of(const struct bench_result *result, const char *way, const char *figure)
{
    for (size_t i = 0; i < result->n_rows; i++) {
        if (strcmp(result->rows[i].way->key, way) != 0) {
            continue;
        }
        for (size_t f = 0; f < result->mode->n_figures; f++) {
            if (strcmp(result->mode->figures[f].key, figure) == 0) {
                return result->rows[i].figures[f];
            }
        }
    }
    return NAN;
}

double bench_ratio_of(const struct bench_result *result, const struct bench_ratio *ratio)
{
    double one = figure_of(result, ratio->way, ratio->figure);
    double other = figure_of(result, ratio->against, ratio->figure);

    return other > 0 ? one / other : NAN;
}

uint64_t bench_faults(const struct bench_result *result)
{
    double sum = 0;

    for (size_t i = 0; i < result->n_rows; i++) {
        for (size_t f = 0; f < result->mode->n_figures; f++) {
            if (result->mode->figures[f].fold == BENCH_FAULTS) {
                sum += isnan(result->rows[i].figures[f]) ? 0 : result->rows[i].figures[f];
            }
        }
    }
    return (uint64_t)sum;
}
