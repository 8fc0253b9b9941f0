/* A simulated client: the library's protocol engine (libclient/session.h and what it stands on) in
 * a process that can be killed anywhere.
 *
 * What libclient/client*.c does with system calls is done here with the simulated kernel, in the
 * same order: the look at the board before each sleep, the reading while it waits for room, what it
 * says before it lies down. */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_USER_H
#define MQBROKER_TESTS_SUPPORT_SIM_USER_H

#include "libclient/session.h"
#include "libclient/slots.h"
#include "tests/support/sim-script.h"
#include "tests/support/sim-task.h"

enum { USER_HOLDS = 24 }; /* messages that it has not freed */

/* A message in the user's hands. */
struct user_hold {
    struct inbox_batch *batch;
    const uint8_t *payload;
    uint32_t size;
    uint32_t id;
    uint64_t name;     /* of a payload in a pool; 0: it came in its frame */
    uint64_t owed;     /* name of a delivery that a group waits to hear of; 0: it is none */
    uint64_t question; /* name of a request that may still be answered; 0: it is none */
    uint8_t priority;
};

struct user {
    uint32_t number;  /* 0 … SCRIPT_CLIENTS - 1 */
    uint32_t session; /* of the model, and of the kernel's estates */
    struct task task;
    bool open;    /* `core` is there, and must be taken down */
    bool reading; /* nothing is left to do but to read */
    bool over;    /* its session is */
    struct session core;
    struct slots slots;
    uint64_t returned;
    struct script_step order;
    bool has_order;
    bool settling;
    uint32_t serves; /* what its sleep is for */
    uint64_t until;
    struct user_hold holds[USER_HOLDS];
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

/* Places of its pool that it has given out and that have not come back. */
uint32_t user_places_out(struct user *u);

/* Does it sleep in wait for messages, and has nothing unfinished? */
bool user_is_at_rest(const struct user *u);

#endif
