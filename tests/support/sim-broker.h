/* The simulated broker: the real engine, and what broker/turn.c, peer.c and share.c do with system
 * calls done with the simulated kernel, in the same order. */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_BROKER_H
#define MQBROKER_TESTS_SUPPORT_SIM_BROKER_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/support/sim-script.h"

/* Its process begins, on whatever memory there is. */
void broker_begin(void);

/* Its process is killed. */
void broker_kill(void);

/* Empty the memory that survives a broker, as far as any was used. */
void broker_forget(void);

/* ---- What the engine has derived, for who checks it ---- */

struct broker_books {
    uint32_t n_references; /* in use */
    uint32_t n_filters;
    uint32_t n_kept;
    uint64_t charged; /* of all windows */
};

void broker_count(struct broker_books *out);

struct broker_group {
    uint32_t n_members;
    uint32_t n_messages; /* that it has, wherever they are */
    uint32_t n_dead;
};

void broker_count_group(uint32_t group, struct broker_group *out);

/* The time, as it was told last. */
uint64_t broker_now(void);

/* A bit for each priority of which something waits in it for this row; 0 while there is none. */
uint32_t broker_waiting(uint32_t row);

#endif
