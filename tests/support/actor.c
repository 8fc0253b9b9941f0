/* Forked processes, each with a socket pair that keeps numbers apart. */
#include "tests/support/actor.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/patience.h"

enum { ACTORS_MAX = 128 };

static struct actor
    actors[ACTORS_MAX]; /* copies of those not reaped yet: a failed test's are gone */
static bool is_actor;   /* this process is one */

static void forget(struct actor *a)
{
    for (unsigned i = 0; i < ACTORS_MAX; i++) {
        if (actors[i].pid == a->pid)
            actors[i].pid = 0;
    }
    close(a->line);
    a->pid = 0;
}

static void remember(const struct actor *a)
{
    for (unsigned i = 0; i < ACTORS_MAX; i++) {
        if (actors[i].pid == 0) {
            actors[i] = *a;
            return;
        }
    }
    fail_msg("more than %d actors", ACTORS_MAX);
}

void actor_start(struct actor *a, void (*body)(struct actor *self, const void *context),
                 const void *context)
{
    int line[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line), 0);
    fflush(NULL);
    a->pid = fork();
    assert_true(a->pid >= 0);
    if (a->pid == 0) {
        is_actor = true;
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(line[0]);
        a->line = line[1];
        body(a, context);
        _exit(EXIT_SUCCESS);
    }
    close(line[1]);
    a->line = line[0];
    remember(a);
}

_Noreturn void actor_give_up(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: actor %d requires %s; errno %d, last error: %s\n", file, line,
            (int)getpid(), condition, errno, mqc_last_error());
    _exit(EXIT_FAILURE);
}

void actor_tell(const struct actor *a, uint64_t word)
{
    ssize_t n = send(a->line, &word, sizeof(word), MSG_NOSIGNAL);

    if (is_actor)
        ACTOR_REQUIRE(n == (ssize_t)sizeof(word));
    else
        assert_int_equal(n, sizeof(word));
}

static bool readable(const struct actor *a, int timeout_ms)
{
    struct pollfd p = {.fd = a->line, .events = POLLIN};

    return poll(&p, 1, timeout_ms) == 1;
}

bool actor_has_said(const struct actor *a)
{
    return readable(a, 0);
}

uint64_t actor_hear(const struct actor *a)
{
    uint64_t word = 0;

    if (is_actor) {
        ACTOR_REQUIRE(recv(a->line, &word, sizeof(word), 0) == (ssize_t)sizeof(word));
        return word;
    }
    if (!readable(a, PATIENCE_MS))
        fail_msg("actor %d has nothing to say", (int)a->pid);
    if (recv(a->line, &word, sizeof(word), 0) != (ssize_t)sizeof(word))
        fail_msg("actor %d has given up", (int)a->pid);
    return word;
}

void actor_join(struct actor *a)
{
    uint64_t begun = patience_now();
    int status;
    pid_t pid;

    while ((pid = waitpid(a->pid, &status, WNOHANG)) == 0)
        patience_spend(begun, "an actor to end");
    assert_int_equal(pid, a->pid);
    forget(a);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_SUCCESS);
}

void actor_kill(struct actor *a)
{
    if (a->pid == 0)
        return;
    kill(a->pid, SIGKILL);
    waitpid(a->pid, NULL, 0);
    forget(a);
}

void actor_pause(const struct actor *a)
{
    int status;

    assert_int_equal(kill(a->pid, SIGSTOP), 0);
    assert_int_equal(waitpid(a->pid, &status, WUNTRACED), a->pid);
    assert_true(WIFSTOPPED(status));
}

void actor_resume(const struct actor *a)
{
    assert_int_equal(kill(a->pid, SIGCONT), 0);
}

void actor_kill_all(void)
{
    for (unsigned i = 0; i < ACTORS_MAX; i++) {
        struct actor a = actors[i];

        actor_kill(&a);
    }
}

struct mqc *actor_open(const char *instance, const char *name, unsigned flags)
{
    const struct mqc_options options = {.instance = instance, .name = name, .flags = flags};
    struct mqc *client = NULL;

    ACTOR_REQUIRE(mqc_open(&client, &options) == 0);
    return client;
}
