/* The shell's state: the kernel's objects of an instance, and what its parts share (floor 4).
 *
 *   broker.c     beginning, signals and end
 *   handover.c   … and how one broker becomes the next
 *   turn.c       receive, let the engine decide, wait
 *   peer.c       the sessions' queues and processes
 *   share.c      … their outboxes and pools
 *   copies.c     … and what is copied for them
 *   memory.c     ledger, store and board
 *
 * Private to these files. */
#ifndef MQBROKER_BROKER_SHELL_H
#define MQBROKER_BROKER_SHELL_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "broker/config.h"
#include "broker/engine.h"
#include "broker/handover.h"
#include "broker/log.h"
#include "broker/loop.h"
#include "broker/memory.h"
#include "broker/plan.h"
#include "broker/settle.h"
#include "broker/share.h"
#include "libclient/queue.h"

struct copies;
struct keeper;

struct peer {
    struct broker *broker;
    struct loop_source queue_source; /* its edges, while it has a backlog (P2) */
    struct loop_source death_source;
    struct queue queue;
    struct share share;
    struct copies *copies; /* NULL: none were ever wanted */
    int pidfd;
    uint16_t row;
    bool armed;
    bool looked_after; /* there is no pidfd */
};

struct broker {
    const char *instance;
    const char *config_path;
    struct config config;
    struct plan plan;
    struct memory memory;
    struct engine engine;
    struct loop loop;
    struct queue request;
    struct queue urgent;
    struct loop_source request_source;
    struct loop_source urgent_source;
    struct loop_source signal_source;
    int signal_fd;
    struct handover handover;
    struct keeper *keeper; /* NULL: there is no journal */
    struct settler settler;
    struct peer *peers;   /* by row */
    uint32_t n_armed;     /* sessions whose edges are waited for */
    uint32_t n_copying;   /* sessions with copies */
    uint64_t share_retry; /* when pools are looked for again, nanoseconds of CLOCK_BOOTTIME;
                           * 0: no need */
    uint32_t n_looked_after;
    uint64_t looked;        /* when they were looked after last, nanoseconds of CLOCK_BOOTTIME */
    uint64_t queue_bytes;   /* of all queues */
    int paying;             /* above 0: looking again pays */
    uint64_t crowd;         /* how long others have been wanting the processor, nanoseconds */
    uint64_t crowded_until; /* no looking again until then, nanoseconds of CLOCK_BOOTTIME */
    unsigned sleeps;
    unsigned looks;
    unsigned turns;
    bool rested;                 /* the last turn found nothing, or the broker has slept since */
    bool woken;                  /* it has slept, and was told what stands where */
    bool urgent_ready;           /* … namely in the urgent queue too */
    enum landing_from last_from; /* where the last envelope came from */
    bool cut_short;              /* there may be more in the request queues */
    bool held_up;                /* since the turn before, the normal one waits for the disk */
    uint64_t turned;             /* when that was */
    bool stopping;
    bool handed_over; /* it has become this one, and was no other process before */
    struct log_limit refusal_limit;
    struct log_limit memory_limit;
};

static inline uint64_t shell_clock(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Did a call fail for what may be otherwise the next time: descriptors, memory, a signal? */
static inline bool shell_may_pass(int error)
{
    return error == -EMFILE || error == -ENFILE || error == -ENOMEM || error == -ENOSPC ||
           error == -EINTR || error == -EAGAIN;
}

/* The engine's time is now. */
static inline void shell_set_time(struct broker *b)
{
    b->engine.now = shell_clock(CLOCK_BOOTTIME);
}

/* Create a queue, and count its bytes. One of our own that stands in the way was left by a broker
 * that was killed: it goes. As queue_create(); -EACCES: the name is another user's. */
int shell_make_queue(struct broker *b, struct queue *q, const char *name, uint32_t depth,
                     uint32_t width);

/* Remove one of our own, if there is one. */
void shell_remove_queue(const char *name);

/* Count a queue's bytes of RLIMIT_MSGQUEUE in (sign 1) or out (-1). */
void shell_count_queue(struct broker *b, const struct queue *q, int sign);

/* A queue's geometry, on the board. */
void shell_show_queue(struct board_queue *board, const struct queue *q);

/* A fresh token for the next registration, if the last one was used. */
void shell_prepare_token(struct broker *b);

/* Wake who waits to be registered, if something was posted since there were `postings`. */
void shell_wake_registering(struct broker *b, uint32_t postings);

#endif
