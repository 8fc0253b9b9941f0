/* Table and JSON both come from the tables of the mode: a figure that is added to one is in the
 * other.
 *
 * The JSON is an interface: "schema" is 1, keys are only ever added. A figure that the system does
 * not tell is null there, and a dash in the table. */
#include "tools/bench-report.h"

#include <jansson.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "libclient/mqclient.h"

enum {
    CELL_SIZE = 48,
    GAP = 2, /* between columns */
};

/* ---- the table ---- */

static bool is_column(const struct bench_mode *mode, size_t figure)
{
    return mode->figures[figure].heading != NULL && (mode->json_only >> figure & 1) == 0;
}

/* 1234567.8 as "1,234,567.8". */
static void write_number(char out[CELL_SIZE], double value, int decimals)
{
    char plain[CELL_SIZE];

    if (isnan(value)) {
        snprintf(out, CELL_SIZE, "-");
        return;
    }
    snprintf(plain, sizeof plain, "%.*f", decimals, value);

    size_t digits = strspn(plain, "0123456789");
    size_t n = 0;
    for (size_t i = 0; plain[i] != '\0' && n + 2 < CELL_SIZE; i++) {
        if (i > 0 && i < digits && (digits - i) % 3 == 0) {
            out[n++] = ',';
        }
        out[n++] = plain[i];
    }
    out[n] = '\0';
}

static int column_width(const struct bench_result *result, size_t figure)
{
    const struct bench_figure *f = &result->mode->figures[figure];
    size_t width = strlen(f->heading);

    for (size_t i = 0; i < result->n_rows; i++) {
        char cell[CELL_SIZE];

        write_number(cell, result->rows[i].figures[figure], f->decimals);
        width = strlen(cell) > width ? strlen(cell) : width;
    }
    return (int)width + GAP;
}

static int name_width(const struct bench_result *result)
{
    size_t width = 0;

    for (size_t i = 0; i < result->n_rows; i++) {
        size_t size = strlen(result->rows[i].way->name);
        width = size > width ? size : width;
    }
    return (int)width;
}

static void print_rows(const struct bench_result *result, FILE *out)
{
    const struct bench_mode *mode = result->mode;
    int widths[BENCH_FIGURES_MAX];
    int names = name_width(result);

    fprintf(out, "%-*s", names, "");
    for (size_t f = 0; f < mode->n_figures; f++) {
        if (is_column(mode, f)) {
            widths[f] = column_width(result, f);
            fprintf(out, "%*s", widths[f], mode->figures[f].heading);
        }
    }
    fputc('\n', out);
    for (size_t i = 0; i < result->n_rows; i++) {
        fprintf(out, "%-*s", names, result->rows[i].way->name);
        for (size_t f = 0; f < mode->n_figures; f++) {
            char cell[CELL_SIZE];

            if (is_column(mode, f)) {
                write_number(cell, result->rows[i].figures[f], mode->figures[f].decimals);
                fprintf(out, "%*s", widths[f], cell);
            }
        }
        fputc('\n', out);
    }
}

static void print_ratios(const struct bench_result *result, FILE *out)
{
    for (size_t i = 0; i < result->mode->n_ratios; i++) {
        const struct bench_ratio *ratio = &result->mode->ratios[i];
        double value = bench_ratio_of(result, ratio);

        if (!isnan(value)) {
            fprintf(out, "%s: %.2f\n", ratio->name, value);
        }
    }
}

static void print_length(const struct bench_result *result, FILE *out)
{
    const struct bench_options *options = result->options;

    if (options->repeat > 1) {
        fprintf(out, "Medians of %u runs of ", options->repeat);
    } else {
        fputs("One run of ", out);
    }
    if (options->count > 0) {
        fprintf(out, "%llu messages", (unsigned long long)options->count);
    }
    if (options->seconds > 0) {
        fprintf(out, "%s%g s", options->count > 0 ? " or " : "", options->seconds);
    }
    fputs(options->repeat > 1 ? ", taken in turn" : "", out);
}

void report_table(const struct bench_result *result, FILE *out)
{
    struct utsname system;
    char sentence[512];

    uname(&system);
    result->mode->describe(result->options, sentence, sizeof sentence);
    fprintf(out, "%s\n", sentence);
    print_length(result, out);
    fprintf(out, "; %ld processors, %s %s.\n\n", sysconf(_SC_NPROCESSORS_ONLN), system.sysname,
            system.release);
    print_rows(result, out);
    if (result->mode->note != NULL) {
        fprintf(out, "%s\n", result->mode->note);
    }
    print_ratios(result, out);
}

/* ---- JSON ---- */

static json_t *number_of(double value)
{
    return isnan(value) || isinf(value) ? json_null() : json_real(value);
}

static json_t *figures_of(const struct bench_mode *mode, const double *values)
{
    json_t *figures = json_object();

    for (size_t f = 0; f < mode->n_figures; f++) {
        json_object_set_new(figures, mode->figures[f].key, number_of(values[f]));
    }
    return figures;
}

static json_t *machine_of(void)
{
    struct utsname system;

    uname(&system);
    return json_pack("{s:i, s:s, s:s, s:s}", "processors", (int)sysconf(_SC_NPROCESSORS_ONLN),
                     "system", system.sysname, "release", system.release, "machine",
                     system.machine);
}

static json_t *options_of(const struct bench_options *options)
{
    return json_pack("{s:I, s:I, s:f, s:i, s:i, s:i, s:i, s:b, s:b, s:s?, s:i, s:s?, s:s?}", "size",
                     (json_int_t)options->size, "count", (json_int_t)options->count, "seconds",
                     options->seconds, "publishers", (int)options->publishers, "subscribers",
                     (int)options->subscribers, "filters", (int)options->filters, "repeat",
                     (int)options->repeat, "baseline", options->baseline, "loan", options->loan,
                     "instance", options->instance, "outstanding", (int)options->outstanding,
                     "sync", options->sync, "directory", options->directory);
}

static json_t *ways_of(const struct bench_result *result)
{
    json_t *ways = json_array();

    for (size_t i = 0; i < result->n_rows; i++) {
        const struct bench_row *row = &result->rows[i];
        json_t *runs = json_array();

        for (unsigned run = 0; run < result->options->repeat; run++) {
            json_array_append_new(runs, figures_of(result->mode, row->runs[run]));
        }
        json_array_append_new(ways,
                              json_pack("{s:s, s:s, s:b, s:o, s:o}", "key", row->way->key, "name",
                                        row->way->name, "bare", row->way->bare, "figures",
                                        figures_of(result->mode, row->figures), "runs", runs));
    }
    return ways;
}

static json_t *ratios_of(const struct bench_result *result)
{
    json_t *ratios = json_object();

    for (size_t i = 0; i < result->mode->n_ratios; i++) {
        double value = bench_ratio_of(result, &result->mode->ratios[i]);

        if (!isnan(value)) {
            json_object_set_new(ratios, result->mode->ratios[i].key, number_of(value));
        }
    }
    return ratios;
}

json_t *report_object(const struct bench_result *result)
{
    return json_pack("{s:i, s:s, s:s, s:o, s:o, s:o, s:o, s:I}", "schema", 1, "version",
                     mqc_version(), "mode", result->mode->name, "machine", machine_of(), "options",
                     options_of(result->options), "ways", ways_of(result), "ratios",
                     ratios_of(result), "faults", (json_int_t)bench_faults(result));
}

int report_json(const struct bench_result *result, FILE *out)
{
    json_t *whole = report_object(result);

    if (whole == NULL) {
        return bench_fail("out of memory");
    }

    int r = json_dumpf(whole, out, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    json_decref(whole);
    fputc('\n', out);
    return r == 0 ? 0 : bench_fail("cannot write");
}
