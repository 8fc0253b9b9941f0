/* The names of the faults that can be planted in a broker (broker/persist.h). */
#ifndef MQBROKER_TESTS_SUPPORT_FAULTS_H
#define MQBROKER_TESTS_SUPPORT_FAULTS_H

#include "broker/persist.h"

/* The environment variable in which mqbroker-faulty looks for the name of its fault. */
#define FAULTS_VARIABLE "MQB_FAULT"

/* … and in which it looks how often it is to rest before a store that is to outlive it: one in so
 * many times. */
#define FAULTS_STRETCH "MQB_STRETCH"

/* "end-before-commit" for FAULT_END_BEFORE_COMMIT. NULL: there is no such fault. */
const char *faults_name(enum persist_fault fault);

/* The opposite. FAULT_NONE: no fault is called so. */
enum persist_fault faults_find(const char *name);

#endif
