/* What came of it, for people and for programs. */
#ifndef MQBROKER_TOOLS_BENCH_REPORT_H
#define MQBROKER_TOOLS_BENCH_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "tools/bench.h"

/* A sentence on what was done and where, an aligned table, and the ratios. */
void report_table(const struct bench_result *result, FILE *out);

/* All figures, of each run too, as one JSON object: mqbench(1) documents it. NULL: out of memory.
 */
json_t *report_object(const struct bench_result *result);

/* Print it. Returns 0 or -1 with bench_error() set. */
int report_json(const struct bench_result *result, FILE *out);

#endif
