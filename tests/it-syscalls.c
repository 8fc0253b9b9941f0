/* The broker is killed with -9 before each of its system calls, one run for each, and started
 * again: nobody notices more than a pause, and at the end nothing is left (K1–K11).
 *
 * What a kill between two instructions leaves in memory is for it-instructions and test-deaths.
 * Here it is what it leaves in the kernel: a queue made that nobody knows of, a message taken and
 * not yet routed, a batch sent and not yet marked. The start of a broker is made of such calls
 * alone, and so is one that adopts what another has left.
 *
 * MQB_LONG tries all of the calls, else some that are evenly spread. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/support/daemon.h"
#include "tests/support/ordeal.h"

enum {
#ifdef __SANITIZE_ADDRESS__
    SHORT_RUNS = 25, /* of each test */
#else
    SHORT_RUNS = 60,
#endif
};

/* The scenario with a kill before call number `k`, or with none. Returns how many calls there were,
 * if they were fewer. */
static unsigned kill_in_scenario(struct ordeal *o, unsigned k, struct proof *p)
{
    unsigned n;

    ordeal_start(o, ORDEAL_NEVER);
    scenario_start(o->scenario, &o->actor, o->daemon->instance);
    n = ordeal_run(o, k, false);
    if (n == k) {
        ordeal_mark(o, k, "killed before it");
        tracer_kill(&o->tracer);
        daemon_restart(o->daemon);
        ordeal_finish(o, p);
    } else {
        tracer_release(&o->tracer);
        ordeal_finish(o, &(struct proof){0});
    }
    return n;
}

static void kill_at_each(struct ordeal *o, const char *what)
{
    struct proof *p = calloc(1, sizeof(*p));
    unsigned all, stride;

    assert_non_null(p);
    all = kill_in_scenario(o, ORDEAL_NEVER, p);
    stride = proof_stride(all, SHORT_RUNS);
    for (unsigned k = 0; k < all; k += stride)
        kill_in_scenario(o, k, p);
    proof_report(p, what, "kills");
    free(p);
}

static void K_killed_before_each_call_of_a_scenario(void **state)
{
    static struct ordeal o;

    ordeal_init(&o, *state);
    kill_at_each(&o, "before a system call");
    ordeal_deinit(&o);
}

/* Those of the thread that writes and syncs are among the calls. */
static void J2_killed_before_each_call_with_a_journal(void **state)
{
    static struct ordeal o;

    ordeal_init(&o, *state);
    ordeal_write(&o);
    kill_at_each(&o, "before a system call, with a journal");
    ordeal_deinit(&o);
}

/* A broker starts where there is none, and is killed in that: then the next one serves. */
static unsigned kill_in_start(struct ordeal *o, unsigned k)
{
    struct mqc *client;
    unsigned n = ordeal_start(o, k);

    tracer_kill(&o->tracer);
    daemon_restart(o->daemon);
    client = daemon_open(o->daemon, NULL, 0);
    assert_int_equal(mqc_subscribe(client, "a", 0), 0);
    mqc_close(client);
    ordeal_expect_nothing_left(o);
    return n;
}

static void K_killed_before_each_call_of_a_start(void **state)
{
    static struct ordeal o;
    unsigned all, stride, kills = 0;

    ordeal_init(&o, *state);
    all = kill_in_start(&o, ORDEAL_NEVER);
    stride = proof_stride(all, SHORT_RUNS);
    for (unsigned k = 0; k < all; k += stride, kills++)
        kill_in_start(&o, k);
    printf("before a system call of a start: %u kills; the next start served each time\n", kills);
    ordeal_deinit(&o);
}

/* Much is under way, and the broker dead: the one that takes it over is killed in that, too. */
static unsigned kill_in_adoption(struct ordeal *o, unsigned k, struct proof *p)
{
    unsigned n;

    daemon_restart(o->daemon);
    scenario_start(o->scenario, &o->actor, o->daemon->instance);
    actor_hear(&o->actor);
    ordeal_mark(o, k, "an adoption killed before it");
    daemon_kill(o->daemon);
    actor_tell(&o->actor, 0);
    n = ordeal_start(o, k);
    tracer_kill(&o->tracer);
    daemon_restart(o->daemon);
    ordeal_finish(o, p);
    return n;
}

static void K_killed_before_each_call_of_an_adoption(void **state)
{
    static struct ordeal o;
    static struct proof p;
    unsigned all, stride;

    ordeal_init(&o, *state);
    o.scenario->pauses = true;
    all = kill_in_adoption(&o, ORDEAL_NEVER, &(struct proof){0});
    stride = proof_stride(all, SHORT_RUNS);
    for (unsigned k = 0; k < all; k += stride)
        kill_in_adoption(&o, k, &p);
    proof_report(&p, "before a system call of an adoption", "kills");
    ordeal_deinit(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TRACER_TEST(K_killed_before_each_call_of_a_scenario),
        TRACER_TEST(J2_killed_before_each_call_with_a_journal),
        TRACER_TEST(K_killed_before_each_call_of_a_start),
        TRACER_TEST(K_killed_before_each_call_of_an_adoption),
    };

    if (!tracer_is_allowed())
        return TRACER_SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
