/* Each system call of the broker fails once, in each way it can, and each request for memory: in a
 * scenario, in a start, and in the adoption of what another broker left.
 *
 * Then the broker goes on, and what it could not do it tells the client who asked for it, who tries
 * again: no session ends, nothing is lost. Or it says in one sentence what failed, ends with status
 * 1, and leaves what a kill leaves: the next start goes on from there. It does not crash, hang or
 * leak.
 *
 * What fails is not done: so a call that fails with EINTR was interrupted before it began. close(2)
 * closes all the same. Not made to fail are calls that cannot, and the removal of names, which on
 * these file systems cannot either.
 *
 * MQB_LONG tries all of it, else some that are evenly spread. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/ordeal.h"
#include "tests/support/patience.h"
#include "tests/support/starve.h"

enum {
    CALLS_MAX = 1 << 14,
    ERRORS_MAX = 4,
#ifdef __SANITIZE_ADDRESS__
    SHORT_RUNS = 25, /* of each test */
#else
    SHORT_RUNS = 60,
#endif
};

/* ---- What can fail, and how ---- */

static const struct weakness {
    long call;
    int errors[ERRORS_MAX];
} weaknesses[] = {
    {SYS_mq_open, {EMFILE, ENFILE, ENOMEM, ENOSPC}},
    {SYS_mq_timedreceive, {EAGAIN, EINTR}},
    {SYS_mq_timedsend, {EAGAIN, ENOMEM, EINTR}},
    {SYS_openat, {EMFILE, ENFILE, ENOMEM, EINTR}},
    {SYS_read, {EIO, EINTR}},
    {SYS_pread64, {EIO, EINTR}},
    {SYS_write, {EIO, ENOSPC, EINTR, EAGAIN}},
    {SYS_pwrite64, {EIO, ENOSPC, EINTR}},
    {SYS_fdatasync, {EIO, ENOSPC}},
    {SYS_fallocate, {ENOSPC, EINTR, ENOMEM}},
    {SYS_ftruncate, {ENOSPC, EINTR}},
    {SYS_renameat2, {ENOSPC, EIO}},
#ifdef SYS_rename
    {SYS_rename, {ENOSPC, EIO}},
#endif
    {SYS_mmap, {ENOMEM}},
    {SYS_mlock, {ENOMEM, EAGAIN, EPERM}},
    {SYS_flock, {ENOLCK, EINTR}},
    {SYS_fstat, {ENOMEM}},
    {SYS_close, {EIO, EINTR}},
    {SYS_epoll_create1, {EMFILE, ENFILE, ENOMEM}},
    {SYS_epoll_ctl, {ENOMEM, ENOSPC}},
#ifdef SYS_epoll_pwait2
    {SYS_epoll_pwait2, {EINTR, ENOSYS}},
#endif
    {SYS_epoll_pwait, {EINTR}},
    {SYS_signalfd4, {EMFILE, ENFILE, ENOMEM}},
    {SYS_eventfd2, {EMFILE, ENFILE, ENOMEM}},
    {SYS_pidfd_open, {EMFILE, ENFILE, ENOMEM, ENOSYS}},
    {SYS_getrandom, {EINTR}},
    {SYS_clone3, {EAGAIN, ENOMEM}},
};

/* How this call may fail; `i` from 0 on. 0: in no further way. */
static int error_of(const struct tracer_call *call, unsigned i)
{
    if (i >= ERRORS_MAX)
        return 0;
#ifdef __SANITIZE_ADDRESS__
    if (call->number == SYS_mmap && (int)call->arguments[4] < 0)
        return 0; /* the sanitizer's own, without which it cannot be */
#endif
    for (size_t k = 0; k < sizeof(weaknesses) / sizeof(weaknesses[0]); k++) {
        if (weaknesses[k].call == call->number)
            return weaknesses[k].errors[i];
    }
    return 0;
}

/* A call and how it is to fail. */
struct point {
    unsigned call;
    unsigned error;
};

struct points {
    struct point at[CALLS_MAX];
    unsigned n;
};

/* Run the broker on, and note each way in which a call can fail, until there are no more. */
static void collect(struct ordeal *o, struct points *points, bool starts)
{
    points->n = 0;
    for (unsigned call = 0; ordeal_run(o, 1, starts) == 1; call++) {
        for (unsigned i = 0; error_of(&o->tracer.call, i) != 0 && points->n < CALLS_MAX; i++)
            points->at[points->n++] = (struct point){.call = call, .error = i};
    }
}

/* How often it has said so far that something is wrong. */
static unsigned errors_said(const struct daemon *d)
{
    return daemon_said_times(d, "error: ") + daemon_said_times(d, "mqbroker: ");
}

/* The call that it stands before fails, and it is left to itself. Returns how often it had said so
 * far that something is wrong. */
static unsigned fail_call(struct ordeal *o, const struct point *at)
{
    unsigned errors = errors_said(o->daemon);
    int error = error_of(&o->tracer.call, at->error);
    char what[32];

    if (error != 0) { /* else it is another than it was, for once */
        snprintf(what, sizeof(what), "failed, %s", strerrorname_np(error));
        ordeal_mark(o, at->call, what);
        if (tracer_fail(&o->tracer, error) != TRACER_RETURN)
            fail_msg("%s: the broker has ended by it", o->where);
    }
    tracer_release(&o->tracer);
    return errors;
}

/* ---- What comes of it ---- */

/* Has the broker ended? Then it did so orderly. */
static bool has_given_up(struct ordeal *o, unsigned errors_before)
{
    struct daemon *d = o->daemon;
    int status;

    if (waitpid(d->pid, &status, WNOHANG) != d->pid)
        return false;
    d->pid = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != EXIT_FAILURE || daemon_said(d, "anitizer") ||
        daemon_said(d, "runtime error") || errors_said(d) != errors_before + 1) {
        daemon_print_log(d);
        fail_msg("%s: the broker ended with status %#x, not with 1 and one sentence", o->where,
                 (unsigned)status);
    }
    return true;
}

/* The scenario goes on to its end; if the broker gives up, with another. */
static void see_it_through(struct ordeal *o, unsigned errors, struct proof *p)
{
    uint64_t begun = patience_now();

    while (!scenario_is_over(&o->actor)) {
        if (has_given_up(o, errors))
            daemon_restart(o->daemon);
        patience_spend(begun, o->where);
    }
    ordeal_finish(o, p);
}

/* What was to start serves, or has given up, and another serves. */
static void see_it_served(struct ordeal *o, unsigned errors)
{
    uint64_t begun = patience_now();

    while (!daemon_serves(o->daemon)) {
        if (has_given_up(o, errors))
            daemon_restart(o->daemon);
        patience_spend(begun, o->where);
    }
}

/* ---- System calls ---- */

static void fail_in_scenario(struct ordeal *o, const struct point *at, struct proof *p)
{
    unsigned errors = 0;

    ordeal_start(o, ORDEAL_NEVER);
    scenario_start(o->scenario, &o->actor, o->daemon->instance);
    if (ordeal_run(o, at->call, false) == at->call)
        errors = fail_call(o, at);
    else
        tracer_release(&o->tracer);
    see_it_through(o, errors, p);
}

static void each_call_of_a_scenario_fails(void **state)
{
    static struct points points;
    static struct ordeal o;
    static struct proof p;
    unsigned stride;

    ordeal_init(&o, *state);
    o.scenario->tolerant = true;
    ordeal_start(&o, ORDEAL_NEVER);
    scenario_start(o.scenario, &o.actor, o.daemon->instance);
    collect(&o, &points, false);
    tracer_release(&o.tracer);
    ordeal_finish(&o, &(struct proof){0});
    stride = proof_stride(points.n, SHORT_RUNS);
    for (unsigned i = 0; i < points.n; i += stride)
        fail_in_scenario(&o, &points.at[i], &p);
    proof_report(&p, "a system call failed", "failures");
    ordeal_deinit(&o);
}

static void serve_shortly(struct ordeal *o)
{
    struct mqc *client = daemon_open(o->daemon, NULL, 0);

    assert_int_equal(mqc_subscribe(client, "a", 0), 0);
    mqc_close(client);
    ordeal_expect_nothing_left(o);
}

static void each_call_of_a_start_fails(void **state)
{
    static struct points points;
    static struct ordeal o;
    unsigned stride, failures = 0;

    ordeal_init(&o, *state);
    ordeal_start(&o, 0);
    collect(&o, &points, true);
    tracer_release(&o.tracer);
    serve_shortly(&o);
    stride = proof_stride(points.n, SHORT_RUNS);
    for (unsigned i = 0; i < points.n; i += stride, failures++) {
        ordeal_start(&o, points.at[i].call);
        see_it_served(&o, fail_call(&o, &points.at[i]));
        serve_shortly(&o);
    }
    printf("a system call of a start failed: %u failures; this broker served, or the next\n",
           failures);
    ordeal_deinit(&o);
}

/* A broker dies in the middle of the scenario, and the next is started as far as `call`. */
static void begin_adoption(struct ordeal *o, unsigned call)
{
    daemon_restart(o->daemon);
    scenario_start(o->scenario, &o->actor, o->daemon->instance);
    actor_hear(&o->actor);
    daemon_kill(o->daemon);
    actor_tell(&o->actor, 0);
    ordeal_start(o, call);
}

static void each_call_of_an_adoption_fails(void **state)
{
    static struct points points;
    static struct ordeal o;
    static struct proof p;
    unsigned stride;

    ordeal_init(&o, *state);
    o.scenario->tolerant = o.scenario->pauses = true;
    begin_adoption(&o, 0);
    collect(&o, &points, true);
    tracer_release(&o.tracer);
    ordeal_finish(&o, &(struct proof){0});
    stride = proof_stride(points.n, SHORT_RUNS);
    for (unsigned i = 0; i < points.n; i += stride) {
        begin_adoption(&o, points.at[i].call);
        see_it_through(&o, fail_call(&o, &points.at[i]), &p);
    }
    proof_report(&p, "a system call of an adoption failed", "failures");
    ordeal_deinit(&o);
}

/* ---- Memory ---- */

#ifndef __SANITIZE_ADDRESS__

/* Brokers that are started from now on share this with us. */
static struct starve *starve_begin(int *fd)
{
    struct starve *s;
    char number[16];

    *fd = memfd_create("starve", 0); /* inherited */
    assert_true(*fd >= 0);
    assert_int_equal(ftruncate(*fd, sizeof(*s)), 0);
    s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    assert_ptr_not_equal(s, MAP_FAILED);
    snprintf(number, sizeof(number), "%d", *fd);
    setenv(STARVE_VARIABLE, number, 1);
    return s;
}

static void starve_end(struct starve *s, int fd)
{
    unsetenv(STARVE_VARIABLE);
    munmap(s, sizeof(*s));
    close(fd);
}

/* Start a broker that is denied its request number `n` for memory. Returns as fail_call(). */
static unsigned start_starved(struct ordeal *o, struct starve *s, uint64_t n)
{
    unsigned errors = errors_said(o->daemon);

    snprintf(o->where, sizeof(o->where), "request %llu for memory is denied",
             (unsigned long long)n);
    atomic_store(&s->asked, 0);
    atomic_store(&s->denied, n);
    setenv("LD_PRELOAD", MQB_STARVE_MODULE, 1);
    daemon_spawn(o->daemon, NULL, NULL);
    unsetenv("LD_PRELOAD");
    return errors;
}

static void each_request_for_memory_of_a_start_is_denied(void **state)
{
    static struct ordeal o;
    unsigned failures = 0;
    struct starve *s;
    uint64_t all;
    int fd;

    ordeal_init(&o, *state);
    s = starve_begin(&fd);
    see_it_served(&o, start_starved(&o, s, UINT64_MAX));
    all = atomic_load(&s->asked);
    serve_shortly(&o);
    for (uint64_t n = 0; n < all; n += proof_stride((unsigned)all, SHORT_RUNS), failures++) {
        see_it_served(&o, start_starved(&o, s, n));
        serve_shortly(&o);
    }
    starve_end(s, fd);
    printf("memory was denied to a start: %u times; this broker served, or the next\n", failures);
    ordeal_deinit(&o);
}

/* The scenario beside a broker that is denied its request number `n` from then on. Returns how many
 * there were. */
static uint64_t starve_scenario(struct ordeal *o, struct starve *s, uint64_t n, struct proof *p)
{
    unsigned errors = start_starved(o, s, UINT64_MAX);
    uint64_t before;

    daemon_await(o->daemon);
    before = atomic_load(&s->asked);
    atomic_store(&s->denied, n == UINT64_MAX ? n : before + n);
    snprintf(o->where, sizeof(o->where), "request %llu for memory is denied",
             (unsigned long long)n);
    scenario_start(o->scenario, &o->actor, o->daemon->instance);
    see_it_through(o, errors, p);
    return atomic_load(&s->asked) - before;
}

static void each_request_for_memory_of_a_scenario_is_denied(void **state)
{
    static struct ordeal o;
    static struct proof p;
    struct starve *s;
    uint64_t all;
    int fd;

    ordeal_init(&o, *state);
    o.scenario->tolerant = true;
    s = starve_begin(&fd);
    all = starve_scenario(&o, s, UINT64_MAX, &(struct proof){0});
    for (uint64_t n = 0; n < all; n += proof_stride((unsigned)all, SHORT_RUNS))
        starve_scenario(&o, s, n, &p);
    starve_end(s, fd);
    proof_report(&p, "memory was denied", "times");
    ordeal_deinit(&o);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        TRACER_TEST(each_call_of_a_scenario_fails),
        TRACER_TEST(each_call_of_a_start_fails),
        TRACER_TEST(each_call_of_an_adoption_fails),
#ifndef __SANITIZE_ADDRESS__
        TRACER_TEST(each_request_for_memory_of_a_start_is_denied),
        TRACER_TEST(each_request_for_memory_of_a_scenario_is_denied),
#endif
    };

    if (!tracer_is_allowed())
        return TRACER_SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
