/* Makes mqbroker-faulty of a broker: one of the faults of broker/persist.h is planted, the one that
 * the environment variable MQB_FAULT names. Without it this broker is as good as any. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/support/faults.h"

enum persist_fault persist_fault = FAULT_NONE;

__attribute__((constructor)) static void plant(void)
{
    const char *name = getenv(FAULTS_VARIABLE);

    if (name == NULL)
        return;
    persist_fault = faults_find(name);
    if (persist_fault == FAULT_NONE) {
        fprintf(stderr, "mqbroker-faulty: there is no fault called \"%s\"\n", name);
        exit(EXIT_FAILURE);
    }
}
