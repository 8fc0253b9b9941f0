/* The broker is killed with -9 before each of its system calls, one run for each, and started
 * again: nobody notices more than a pause, and at the end nothing is left (K1–K11).
 *
 * What a kill between two instructions leaves in memory is for it-instructions and test-deaths.
 * Here it is what it leaves in the kernel: a queue made that nobody knows of, a message taken and
 * not yet routed, a batch sent and not yet marked. The start of a broker is made of such calls
 * alone, and so is one that adopts what another has left.
 *
 * MQB_LONG tries all of the calls, else some that are evenly spread. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/proof.h"
#include "tests/support/scenario.h"
#include "tests/support/tracer.h"

enum {
    NEVER = UINT32_MAX,
#ifdef __SANITIZE_ADDRESS__
    SHORT_RUNS = 25, /* of each test */
#else
    SHORT_RUNS = 60,
#endif
};

struct run {
    struct daemon *daemon;
    struct scenario *scenario;
    struct tracer tracer;
    struct actor actor;
    char where[64]; /* of the kill, for who reads that it was too much */
};

/* ---- The broker's part ---- */

/* Is it about to open its configuration? Before, it is the C library's start, not ours. */
static bool begins(const struct tracer *t, const struct daemon *d)
{
    char path[sizeof(d->config)];

    if (t->call.number != SYS_openat)
        return false;
    tracer_text(t, t->call.arguments[1], path, sizeof(path));
    return strcmp(path, d->config) == 0;
}

/* Its next call. False: the scenario is over, or what is to be started serves and sleeps. */
static bool next_call(struct run *r, bool starting)
{
    enum tracer_event event;

    do
        event = tracer_next(&r->tracer);
    while (event == TRACER_RETURN);
    if (event == TRACER_ENDED) {
        daemon_print_log(r->daemon);
        fail_msg("the broker has ended by itself, status %#x", (unsigned)r->tracer.status);
    }
    return event == TRACER_CALL &&
           !(starting && tracer_sleeps(&r->tracer) && daemon_serves(r->daemon));
}

/* Run it up to its call number `k` from here on. How many calls it made if there are fewer, else
 * `k`. */
static unsigned run_to_call(struct run *r, unsigned k, bool starting)
{
    for (unsigned n = 0; n < k; n++) {
        if (!next_call(r, starting))
            return n;
    }
    return k;
}

/* Start it as far as its call number `k`. */
static unsigned start_to_call(struct run *r, unsigned k)
{
    tracer_start(&r->tracer, r->daemon);
    do
        assert_true(next_call(r, true));
    while (!begins(&r->tracer, r->daemon));
    return run_to_call(r, k, true);
}

/* Who waits in an adoption does so since the kill before it. */
static void kill_here(struct run *r, unsigned k)
{
    snprintf(r->where, sizeof(r->where), "before call %u, %s", k, tracer_name(&r->tracer.call));
    if (r->scenario != NULL && !r->scenario->pauses)
        atomic_store(&r->scenario->killed, scenario_now());
    tracer_kill(&r->tracer);
}

/* ---- The end of a run ---- */

/* Everybody is gone, and nothing of them is left; then the broker goes, and nothing of it is. */
static void expect_nothing_left(struct run *r)
{
    struct daemon *d = r->daemon;
    const struct board_header *board = daemon_board(d);

    PATIENCE_UNTIL(daemon_rows(d) == 0);
    PATIENCE_UNTIL(board_get(&board->references_used) == 0);
    PATIENCE_UNTIL(board_get(&board->cells_used) == 0);
    PATIENCE_UNTIL(board_get(&board->pools) == 0);
    assert_int_equal(daemon_segments(d, ".pool"), 0);
    assert_int_equal(daemon_segments(d, ".outbox"), 0);
    assert_int_equal(daemon_stop(d), 0);
    assert_true(daemon_is_gone(d));
    d->n_nonces = 0;
}

static void finish(struct run *r, struct proof *p)
{
    struct scenario *s = r->scenario;

    if (!scenario_join(s, &r->actor))
        fail_msg("run %u, killed %s: %s", p->points, r->where, s->tally.first);
    expect_nothing_left(r);
    proof_add(p, &s->tally.figures, s->longest_wait);
}

/* ---- The tests ---- */

/* The scenario with a kill before call number `k`; NEVER: with none. Returns how many calls there
 * were, if they were fewer. */
static unsigned kill_in_scenario(struct run *r, unsigned k, struct proof *p)
{
    unsigned n;

    start_to_call(r, NEVER);
    scenario_start(r->scenario, &r->actor, r->daemon->instance);
    n = run_to_call(r, k, false);
    if (n == k) {
        kill_here(r, k);
        daemon_restart(r->daemon);
        finish(r, p);
    } else {
        tracer_release(&r->tracer);
        finish(r, &(struct proof){0});
    }
    return n;
}

static void K_killed_before_each_call_of_a_scenario(void **state)
{
    struct run r = {.daemon = *state, .scenario = scenario_new()};
    static struct proof p;
    unsigned all, stride;

    daemon_configure(r.daemon, scenario_config);
    all = kill_in_scenario(&r, NEVER, &p);
    stride = proof_stride(all, SHORT_RUNS);
    for (unsigned k = 0; k < all; k += stride)
        kill_in_scenario(&r, k, &p);
    proof_report(&p, "before a system call", "kills");
    scenario_free(r.scenario);
}

/* A broker starts where there is none, is killed in that, and another starts: which serves. */
static void K_killed_before_each_call_of_a_start(void **state)
{
    struct run r = {.daemon = *state};
    unsigned all, stride, kills = 0;

    daemon_configure(r.daemon, scenario_config);
    all = start_to_call(&r, NEVER);
    tracer_kill(&r.tracer);
    stride = proof_stride(all, SHORT_RUNS);
    for (unsigned k = 0; k < all; k += stride, kills++) {
        struct mqc *client;

        daemon_restart(r.daemon);
        assert_int_equal(daemon_stop(r.daemon), 0);
        start_to_call(&r, k);
        kill_here(&r, k);
        daemon_restart(r.daemon);
        client = daemon_open(r.daemon, NULL, 0);
        assert_int_equal(mqc_subscribe(client, "a", 0), 0);
        mqc_close(client);
        expect_nothing_left(&r);
    }
    printf("before a system call of a start: %u kills; the next start served each time\n", kills);
    daemon_restart(r.daemon);
}

/* Much is under way, and the broker dead: the one that takes it over is killed in that, too. */
static unsigned kill_in_adoption(struct run *r, unsigned k, struct proof *p)
{
    unsigned n;

    daemon_restart(r->daemon);
    scenario_start(r->scenario, &r->actor, r->daemon->instance);
    actor_hear(&r->actor);
    daemon_kill(r->daemon);
    atomic_store(&r->scenario->killed, scenario_now());
    actor_tell(&r->actor, 0);
    n = start_to_call(r, k);
    kill_here(r, k);
    daemon_restart(r->daemon);
    finish(r, p);
    return n;
}

static void K_killed_before_each_call_of_an_adoption(void **state)
{
    struct run r = {.daemon = *state, .scenario = scenario_new()};
    static struct proof p;
    unsigned all, stride;

    r.scenario->pauses = true;
    daemon_configure(r.daemon, scenario_config);
    all = kill_in_adoption(&r, NEVER, &(struct proof){0});
    stride = proof_stride(all, SHORT_RUNS);
    for (unsigned k = 0; k < all; k += stride)
        kill_in_adoption(&r, k, &p);
    proof_report(&p, "before a system call of an adoption", "kills");
    scenario_free(r.scenario);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(K_killed_before_each_call_of_a_scenario),
        DAEMON_TEST(K_killed_before_each_call_of_a_start),
        DAEMON_TEST(K_killed_before_each_call_of_an_adoption),
    };

    if (!tracer_is_allowed())
        return TRACER_SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
