/* The processes of one run: forked together, started together, and none of them outlives it.
 *
 * A worker is a function in a process of its own. It makes itself ready, calls crew_ready(), which
 * returns in all workers at once, does its work, leaves its result in memory shared with the
 * parent, and returns. If one fails, or is killed, the whole run fails with a sentence that says
 * which and why, and the others are killed. */
#ifndef MQBROKER_TOOLS_BENCH_CREW_H
#define MQBROKER_TOOLS_BENCH_CREW_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum {
    CREW_MAX = 2 * 64 + 2,
};

struct crew_shared;

/* A worker's view of the crew it belongs to. */
struct crew_place {
    unsigned index; /* the number given to crew_add() */
    void *result;   /* `result_size` bytes, zero at first, for the parent to read after the run */
    struct crew_shared *shared;
    int ready_fd;
    int go_fd;
};

/* Returns 0, or -1 with bench_error() set. */
typedef int (*crew_work)(struct crew_place *place, const void *context);

struct crew_member {
    pid_t pid;
    int ready_fd; /* a byte comes when it is ready, the end when it is gone */
    const char *role;
    unsigned index;
    bool servant;
    bool ready;
    bool gone;
};

struct crew {
    struct crew_shared *shared;
    size_t shared_size;
    size_t result_size;
    int go_fd[2];
    int watched_fd; /* -1, or a pidfd */
    const char *watched_role;
    struct crew_member members[CREW_MAX];
    unsigned n_members;
};

/* Let SIGINT, SIGTERM and SIGHUP end a run in good order: it then fails with "interrupted". Once,
 * before any run. Returns 0 or -1. */
int crew_catch_signals(void);

/* The signal that interrupted a run, or 0. */
int crew_signal(void);

/* Undo crew_catch_signals() in a child that is to run another program. */
void crew_release_signals(void);

/* Prepare; each worker gets `result_size` bytes. Returns 0 or -1. */
int crew_init(struct crew *crew, size_t result_size);

/* Kill who is still there, free everything. Repeatable. */
void crew_deinit(struct crew *crew);

/* Fork a worker. `role` is a literal for sentences and for ps(1); `index` tells those of one role
 * apart. `context` is copied by the fork. A *servant* (a relay) has no end of its own: it is killed
 * when all others are done. Returns its pid or -1. */
pid_t crew_add(struct crew *crew, const char *role, unsigned index, bool servant, crew_work work,
               const void *context);

/* A process that is not of the crew but must live while it works: the broker. */
void crew_watch(struct crew *crew, const char *role, int pidfd);

/* Let them go, wait for the end. Returns 0 if all returned 0, else -1. */
int crew_run(struct crew *crew);

/* The result of the worker that was added as the `n`th, from 0. */
void *crew_result(const struct crew *crew, unsigned n);

/* In a worker: say that it is ready, wait for the start. */
void crew_ready(struct crew_place *place);

/* A word for all of them: "that is enough". */
void crew_stop(struct crew_place *place);
bool crew_stopped(const struct crew_place *place);

#endif
