/* Queue geometry from the limits found: how deep, how wide, how many. Pure arithmetic; the broker
 * reads the limits (plan_read_limits) and prints the plan (`mqbroker --limits`).
 *
 * The kernel charges depth x (width + 96) bytes of RLIMIT_MSGQUEUE when a queue is made, full or
 * empty. So the plan keeps a narrow reply queue (1,280 bytes: the largest frame and the larger of
 * the two headers) for each of `max_clients` sessions, and makes as many of those of subscribing
 * sessions wide (8,192) as the rest allows, first come first served. With the defaults (819,200
 * bytes, 32 clients, depth 10):
 *
 *     request 82,880 + urgent 13,760 + 4 wide x 82,880 + 28 narrow x 13,760 = 813,440
 *
 * The urgent request queue is as wide as the narrow ones, so that every urgent frame fits it: were
 * the large ones to go by the normal queue, a later small one would overtake them (P1). */
#ifndef MQBROKER_BROKER_PLAN_H
#define MQBROKER_BROKER_PLAN_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "broker/config.h"

struct plan_limits {
    uint64_t queue_bytes; /* RLIMIT_MSGQUEUE; UINT64_MAX: none */
    uint32_t msg_max;     /* fs.mqueue.msg_max */
    uint32_t msgsize_max; /* fs.mqueue.msgsize_max */
    uint32_t queues_max;  /* fs.mqueue.queues_max */
};

struct plan {
    struct plan_limits limits;
    uint32_t depth;        /* of all queues */
    uint32_t depth_wanted; /* as configured, 0: not; more than `depth`: msg_max is less, say so */
    uint32_t request_width;
    uint32_t urgent_width;
    uint32_t wide;   /* width of the first `n_wide` subscribing sessions' queues */
    uint32_t narrow; /* width of all others */
    uint32_t n_wide;
    uint32_t frame_max;   /* largest message frame: narrow less the larger of the two headers */
    uint32_t max_clients; /* as configured */
    uint32_t n_clients;   /* as the limits allow; less than max_clients: say so */
    uint64_t bytes;       /* of all of it, with n_clients */
};

/* Read the limits of this process and this IPC namespace. Returns 0 or -errno. (The one impure
 * function here.) */
int plan_read_limits(struct plan_limits *limits);

/* Plan. Returns 0, or a positive PLAN_E_…; `plan` is filled as far as it goes, for plan_print(). */
enum plan_outcome {
    PLAN_OK = 0,
    PLAN_E_BYTES, /* not even the request queues and one client fit */
    PLAN_E_WIDTH, /* msgsize_max is below the narrow width */
    PLAN_E_DEPTH, /* msg_max is below 4 */
    PLAN_E_COUNT, /* queues_max is below 3 */
};
int plan_make(struct plan *plan, const struct config *config, const struct plan_limits *limits);

/* The width for the next session's queue, when `wide_in_use` wide ones are in use. */
uint32_t plan_width(const struct plan *plan, bool publish_only, uint32_t wide_in_use);

/* The plan in words and figures, the formula, and what to raise, with the commands that raise it
 * (`ulimit -q`, systemd's LimitMSGQUEUE=, sysctl fs.mqueue.*), for a reader who never heard of
 * them. */
void plan_print(const struct plan *plan, int outcome, FILE *out);

#endif
