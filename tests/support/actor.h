/* A process that plays a part in a test, most often a client, and a line to it for numbers.
 *
 * The parent's functions fail the test when something goes wrong. In the actor itself no cmocka
 * assertion may be used (it would go on as a second test runner): ACTOR_REQUIRE says what was wrong
 * and ends the process, which the parent sees. */
#ifndef MQBROKER_TESTS_SUPPORT_ACTOR_H
#define MQBROKER_TESTS_SUPPORT_ACTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "libclient/mqclient.h"

struct actor {
    pid_t pid; /* 0: reaped */
    int line;
};

/* Fork one. It ends well when `body` returns. It dies with the test. */
void actor_start(struct actor *a, void (*body)(struct actor *self, const void *context),
                 const void *context);

/* Say a number to the other side, and wait for one. Both sides use the same. */
void actor_tell(const struct actor *a, uint64_t word);
uint64_t actor_hear(const struct actor *a);

/* Has it said something? */
bool actor_has_said(const struct actor *a);

/* Wait until it has ended well. */
void actor_join(struct actor *a);

/* SIGKILL, and reap it. Fine on one that was reaped. */
void actor_kill(struct actor *a);

/* SIGSTOP, and return when it stands still; SIGCONT. */
void actor_pause(const struct actor *a);
void actor_resume(const struct actor *a);

/* All that were not reaped (for the end of a failed test). */
void actor_kill_all(void);

/* In an actor: a handle on the instance. */
struct mqc *actor_open(const char *instance, const char *name, unsigned flags);

/* In an actor: say what is wrong and end, if the condition does not hold. */
#define ACTOR_REQUIRE(condition)                                                                   \
    ((condition) ? (void)0 : actor_give_up(#condition, __FILE__, __LINE__))
_Noreturn void actor_give_up(const char *condition, const char *file, int line);

#endif
