/* Is what the engine derived what its references say? Counted again from nothing but the words of
 * the references, slowly and plainly. */
#ifndef MQBROKER_TESTS_SUPPORT_ENGINE_CHECK_H
#define MQBROKER_TESTS_SUPPORT_ENGINE_CHECK_H

#include "broker/engine.h"

/* NULL, or a sentence about the first thing that is wrong (in memory of its own, until the next
 * call). At the end of a turn only: no landing under way, no batch out, engine_show()
 * done. */
const char *engine_fault(const struct engine *e);

/* All that must be the same after a start on the same memory, as text: what waits by list and age,
 * what is out, subscriptions, retained messages, counts, charges, windows. The caller frees it. */
char *engine_describe(const struct engine *e);

#endif
