/* What came of it, as Markdown and as JSON. */
#ifndef MQBROKER_TESTS_PEERS_REPORT_H
#define MQBROKER_TESTS_PEERS_REPORT_H

#include <stddef.h>

#include "tests/peers/works.h"

/* Tables and settings, to standard output. */
void report_print(const struct done *all, size_t n, const struct bench_options *asked);

/* One object with all figures of each work, by its key, as mqbench(1) has them. Returns 0, or -1
 * with bench_error() set. */
int report_write(const struct done *all, size_t n, const char *path);

#endif
