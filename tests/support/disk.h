/* The disk of mqbroker-disk, as a test wants it: it waits, or fails. What the test and the broker
 * share is a file that both have mapped; its number among the test's descriptors, which the broker
 * inherits, is in the environment. */
#ifndef MQBROKER_TESTS_SUPPORT_DISK_H
#define MQBROKER_TESTS_SUPPORT_DISK_H

#include <stdatomic.h>
#include <stdint.h>

/* The environment variable with the number of the descriptor. */
#define DISK_VARIABLE "MQB_DISK"

struct disk {
    _Atomic uint32_t waits;       /* 1: a sync does not end before this is 0 */
    _Atomic uint32_t write_fails; /* errno of all writes; 0: they are carried out */
    _Atomic uint32_t sync_fails;  /* errno of all syncs */
    _Atomic uint32_t syncs;       /* that were begun */
};

#endif
