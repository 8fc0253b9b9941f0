/* Cut a script that fails down to what it fails by. */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_SHRINK_H
#define MQBROKER_TESTS_SUPPORT_SIM_SHRINK_H

#include "tests/support/sim-script.h"

/* `script` fails in world_run(). Leave out steps, and make those that stay smaller, as long as it
 * is the same claim that does not hold. Returns how many runs that took. */
uint32_t shrink(struct script *script);

#endif
