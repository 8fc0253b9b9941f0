/* Queue geometry from the limits found: how deep, how wide, how many. Pure arithmetic; the broker
 * reads the limits (plan_read_limits) and prints the plan (`mqbroker --limits`).
 *
 * The kernel charges depth x (width + 96) bytes of RLIMIT_MSGQUEUE when a queue is made, full or
 * empty. So what the request queues leave is divided evenly among the reply queues of `max_clients`
 * sessions: all of one width, between 464 and 8,192 bytes. With the default limit (819,200 bytes)
 * and depth (10), for 32 clients and for 128:
 *
 *     request 82,880 + urgent 13,760 +  32 x 22,560 = 818,560     2,160 bytes wide
 *     request 82,880 + urgent 13,760 + 128 x  5,600 = 813,440       464 bytes wide
 *
 * A batch that is larger than that goes through the session's outbox, at nearly the same price, so
 * width is worth little: 464 bytes, room for the largest descriptor with the longest topic (L5),
 * are enough. The urgent request queue has the width that frame_max is made of, so that every
 * urgent frame fits it: were the large ones to go by the normal queue, a later small one would
 * overtake them (P1). */
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

enum { PLAN_REPLY_MIN = 464 }; /* narrowest reply queue, in bytes */

struct plan {
    struct plan_limits limits;
    uint32_t depth;        /* of the request queues */
    uint32_t depth_wanted; /* as configured, 0: not; more than `depth`: msg_max is less, say so */
    uint32_t reply_depth;  /* the same, as far as an outbox has buffers for it */
    uint32_t request_width;
    uint32_t urgent_width;
    uint32_t reply_width; /* of all reply queues; a later one that finds no room is made narrower */
    uint32_t frame_max;   /* largest message frame: urgent_width less the larger of the headers */
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
    PLAN_E_WIDTH, /* msgsize_max is below the urgent queue's width */
    PLAN_E_DEPTH, /* msg_max is below 4 */
    PLAN_E_COUNT, /* queues_max is below 3 */
};
int plan_make(struct plan *plan, const struct config *config, const struct plan_limits *limits);

/* The plan in words and figures, the formula, and what to raise, with the commands that raise it
 * (`ulimit -q`, systemd's LimitMSGQUEUE=, sysctl fs.mqueue.*), for a reader who never heard of
 * them. */
void plan_print(const struct plan *plan, int outcome, FILE *out);

#endif
