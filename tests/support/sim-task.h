/* A simulated process: a program with a stack of its own, that runs as far as it is let, sleeps,
 * and can be killed wherever it stands.
 *
 * All of a simulation is one thread. A task gives way only at its *points*, which are the places
 * where another process could notice the difference: before every call of the kernel, and before
 * every store to memory that outlives it or that others read. */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_TASK_H
#define MQBROKER_TESTS_SUPPORT_SIM_TASK_H

#include <stdbool.h>
#include <stdint.h>

#if defined __SANITIZE_ADDRESS__
#define SIM_TASK_SANITIZED 1
#elif defined __has_feature
#if __has_feature(address_sanitizer)
#define SIM_TASK_SANITIZED 1
#endif
#endif

enum { TASK_STACK = 256 * 1024, TASK_NEVER_ENDS = 1 << 30 };

#define TASK_FOREVER UINT64_MAX

enum task_state {
    TASK_NONE = 0, /* not begun, killed, or its program has ended */
    TASK_READY,
    TASK_ASLEEP,
};

struct task {
    enum task_state state;
    void (*program)(void *context);
    void *context;
    bool (*stirs)(const void *context); /* asleep: is there something to wake up for? */
    uint64_t wake;                      /* … or the moment it wakes up by itself */
    void *stack;
    void *place; /* where it stands: a ucontext_t */
};

/* Memory for it. False: there is none. */
bool task_init(struct task *t);
void task_deinit(struct task *t);

/* Begin a program; it stands before its first line. */
void task_begin(struct task *t, void (*program)(void *context), void *context);

/* Let it run for so many points, unless it sleeps. Returns how many it took: 0 if it sleeps still,
 * or is not there. */
uint32_t task_run(struct task *t, uint32_t points, uint64_t now);

/* It is gone, from one instruction to the next. */
void task_kill(struct task *t);

/* ---- In a task ---- */

/* A point. Outside of tasks nothing happens. */
void task_point(void);

/* Sleep until there is something to wake up for (asked with the task's context), or until `wake`:
 * TASK_FOREVER, or a moment. */
void task_sleep(bool (*stirs)(const void *context), uint64_t wake);

#endif
