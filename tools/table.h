/* A snapshot for people: a few small tables. With an earlier snapshot also what happened a second
 * since then. */
#ifndef MQBROKER_TOOLS_TABLE_H
#define MQBROKER_TOOLS_TABLE_H

#include <stdint.h>
#include <stdio.h>

#include "tools/snapshot.h"

/* `before` is an earlier snapshot of the same instance, or NULL. `sections` are bits of enum
 * statistics_section. */
void table_print(const struct snapshot *now, const struct snapshot *before, unsigned sections,
                 FILE *out);

/* A number for a column, right-aligned, with thousands set apart; UINT64_MAX is "unlimited". */
void table_put_number(FILE *out, int width, uint64_t value);

#endif
