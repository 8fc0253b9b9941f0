/* A simulated user: a process with one handle that makes the calls its script says, holds what it
 * is handed, sees that no payload changes while it does, and can be killed anywhere. */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_USER_H
#define MQBROKER_TESTS_SUPPORT_SIM_USER_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/support/sim-handle.h"
#include "tests/support/sim-script.h"
#include "tests/support/sim-task.h"

enum { USER_HOLDS = 24 }; /* messages that it has not given back */

struct user {
    struct handle handle;
    struct task task;
    bool open;    /* the handle is there, and must be taken down */
    bool reading; /* nothing is left to do but to read */
    bool over;    /* its session is */
    struct script_step order;
    bool has_order;
    struct handle_message holds[USER_HOLDS];
    uint32_t n_holds;
};

/* Its process begins, and registers. False: there have been too many in this run. */
bool user_begin(struct user *u);

/* Its process is killed; what it had goes. */
void user_kill(struct user *u);

/* The same without a death: the run is over. */
void user_end(struct user *u);

/* Its next call. False: it is at one still. */
bool user_order(struct user *u, const struct script_step *order);

/* All that is left to do is to read and to give back, for ever. */
void user_read_on(struct user *u);

/* Does it sleep in wait for messages, and has nothing unfinished? */
bool user_is_at_rest(const struct user *u);

#endif
