/* A process under ptrace, most often a broker: it is run from one system call to the next, or
 * instruction by instruction, and killed just there; or one of its calls is made to fail.
 *
 * A system call is met before it is made: who is killed then has not made it. Threads that the
 * process starts are traced too; "next" is the next call of any of them. Instructions are those of
 * its first thread.
 *
 * All functions fail the test when something goes wrong. The traced process dies with the test. */
#ifndef MQBROKER_TESTS_SUPPORT_TRACER_H
#define MQBROKER_TESTS_SUPPORT_TRACER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tests/support/daemon.h"

enum {
    TRACER_SKIPPED = 77, /* exit status of a test program that may not trace; CTest knows it */
    TRACER_THREADS = 8,
};

struct tracer_call {
    long number; /* SYS_… */
    uint64_t arguments[6];
};

struct tracer {
    struct daemon *daemon;
    pid_t pid; /* 0: none */
    pid_t at;  /* the thread that stands; 0: none does */
    pid_t threads[TRACER_THREADS];
    int signal;              /* that it is to be given when it goes on */
    bool entered;            /* it stands before a system call, */
    struct tracer_call call; /* this one; or behind it */
    int status;              /* when it has ended: as of waitpid() */
};

enum tracer_event {
    TRACER_CALL,   /* it stands before a system call */
    TRACER_RETURN, /* behind one */
    TRACER_TRAP,   /* it made a step, or met a breakpoint */
    TRACER_ENDED,  /* it has ended, and is reaped: the daemon does not run any more */
    TRACER_OTHER,  /* another child of the test has ended, and is not reaped */
};

/* May this process trace? If not, a sentence on standard output says why. */
bool tracer_is_allowed(void);

/* A test with daemon.h's fixtures, which lets go of what a failed test was tracing before it ends
 * the broker. */
int tracer_teardown(void **state);
#define TRACER_TEST(f) cmocka_unit_test_setup_teardown(f, daemon_setup, tracer_teardown)

/* Start a broker, or start it again, and have it stand before its first instruction. Tracing ends
 * with one of the functions below that say so; a process that is traced still must be killed. */
void tracer_start(struct tracer *t, struct daemon *d);

/* Go on, up to the next system call, or behind the one that it stands before. */
enum tracer_event tracer_next(struct tracer *t);

/* The call that it stands before is not made, but fails with -error: it stands behind it then
 * (TRACER_RETURN). */
enum tracer_event tracer_fail(struct tracer *t, int error);

/* Does it stand before a call in which it sleeps: a wait for events, while nothing stands in its
 * request queues? */
bool tracer_sleeps(const struct tracer *t);

/* A text in its memory, cut to `size` - 1. */
void tracer_text(const struct tracer *t, uint64_t address, char *text, size_t size);

/* "mq_timedsend", or "call 123". Valid until called again. */
const char *tracer_name(const struct tracer_call *call);

/* Make one step, an instruction (TRACER_TRAP). A system call takes two: one up to before the call
 * (TRACER_CALL), one through it. */
enum tracer_event tracer_step(struct tracer *t);

/* Where its next instruction is. */
uint64_t tracer_place(const struct tracer *t);

/* Go on until it is about to execute the instruction at `place` for the nth time from now on.
 * False: it is about to sleep first, or another child has ended. */
bool tracer_run_to(struct tracer *t, uint64_t place, unsigned nth);

/* Let it run without looking at it; and have it stand again, just anywhere. Only for a process of
 * one thread. */
void tracer_run(struct tracer *t);
void tracer_hold(struct tracer *t);

/* SIGKILL, and reap it; the daemon does not run any more. Ends tracing. */
void tracer_kill(struct tracer *t);

/* It goes on untraced. Ends tracing. */
void tracer_release(struct tracer *t);

#endif
