/* Statistics of a snapshot for programs: JSON and Prometheus' text format. The JSON is an
 * interface, documented in docs/statistics.md: keys are only ever added, or the number of the
 * schema rises. */
#ifndef MQBROKER_TOOLS_STATISTICS_H
#define MQBROKER_TOOLS_STATISTICS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "tools/snapshot.h"

enum { STATISTICS_SCHEMA = 1 };

enum statistics_section {
    STATISTICS_BROKER = 1,
    STATISTICS_TOTALS = 2,
    STATISTICS_PRIORITIES = 4,
    STATISTICS_QUEUES = 8,
    STATISTICS_CLIENTS = 16,
    STATISTICS_TOPICS = 32,
    STATISTICS_LIMITS = 64,
    STATISTICS_GROUPS = 128,
    STATISTICS_JOURNAL = 256,
    STATISTICS_ALL = 511,
};

/* The section of this name, or 0. */
unsigned statistics_section(const char *name);

/* Words, for people and programs. */
const char *statistics_broker_state(uint32_t state);
const char *statistics_row_state(uint32_t state);
const char *statistics_group_state(uint32_t state);

/* The snapshot as JSON; `sections` are bits of enum statistics_section. The caller's reference.
 * Without memory it says so and exits. */
json_t *statistics_json(const struct snapshot *snapshot, unsigned sections);

/* Print that: over many lines, or in one. Whether writing succeeded is for ferror(). */
void statistics_print(const struct snapshot *snapshot, unsigned sections, bool compact, FILE *out);

/* The snapshot in Prometheus' text format, version 0.0.4. */
void statistics_prometheus(const struct snapshot *snapshot, unsigned sections, FILE *out);

#endif
