/* The simulator: the real engine and the real protocol engine of the client on a simulated machine,
 * with deaths, full queues and delays at every step, and a model that knows what must come of it.
 *
 * A run is a script: a list of steps made from a seed. A step lets one process, the broker or a
 * client, run for so many *points* (calls of the kernel, and stores to memory that outlives it), or
 * gives a client its next call to do, or kills one of them where it stands, or lets time pass. So
 * every order of events that real processes can have on one processor can come up, and comes up
 * again. After the script everybody runs on until nobody has anything to do: then nothing may be
 * missing and nobody may still be waiting.
 *
 * What is claimed: each message is handed to each that it is for, once, in the order in which the
 * broker took them, the highest priority first; what is dropped, is dropped by policy or because
 * its time ran out, and counted exactly; each request is answered once, each confirm comes once and
 * says the truth; windows, pools and rows come back, and nothing is left over.
 *
 * A run that fails says its seed, is cut down to the steps that it fails by, and these are shown,
 * with what happened, and written to a file. The same runs with faults planted in the engine must
 * fail, or the test is worth nothing.
 *
 *     test-sim [RUNS [SEED]]     so many runs from this seed on (MQB_LONG=1: 400,000)
 *     test-sim --replay FILE     run what was written, and say what happens */
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/faults.h"
#include "tests/support/sim-shrink.h"
#include "tests/support/sim-world.h"

/* Under the sanitizers a run takes many times as long: there only faults that are found soon are
 * looked for, and all of them in the other build. */
#ifdef SIM_TASK_SANITIZED
enum { SHORT = 400, LONG = 100000, FAULT_RUNS = 120 };
#else
enum { SHORT = 1500, LONG = 400000, FAULT_RUNS = 40000 };
#endif

static uint64_t wanted_runs = SHORT;
static uint64_t first_seed = 1;
static uint64_t seed_now; /* for who dies in a run */
static struct script script;

static const char *run(uint64_t seed)
{
    seed_now = seed;
    script_derive(&script, seed);
    return world_run(&script);
}

/* ---- What a failing run leaves ---- */

static void show(const struct script *s)
{
    world.tells = true;
    world_run(s);
    world.tells = false;
}

static void keep(uint64_t seed)
{
    char name[64];
    FILE *out;

    snprintf(name, sizeof(name), "/tmp/test-sim.%" PRIu64, seed);
    out = fopen(name, "w");
    if (out == NULL)
        return;
    script_write(&script, out);
    fclose(out);
    printf("again with: test-sim --replay %s\n", name);
}

static void fail_with(uint64_t seed, const char *fault)
{
    char first[sizeof(world.fault)];
    uint32_t before = script.n;
    uint32_t runs;

    snprintf(first, sizeof(first), "%s", fault);
    runs = shrink(&script);
    show(&script);
    printf("seed %" PRIu64 ": %u steps of %u do it (found in %u runs)\n", seed, script.n, before,
           runs);
    keep(seed);
    fail_msg("seed %" PRIu64 ": %s", seed, first);
}

/* An assertion of the engine, or a sanitizer's verdict: at least the seed is to be known. */
static void say_seed(int signo)
{
    char text[64];
    /* It dies anyway. NOLINTNEXTLINE(bugprone-signal-handler) */
    int size = snprintf(text, sizeof(text), "test-sim: died in seed %" PRIu64 "\n", seed_now);

    if (write(STDERR_FILENO, text, (size_t)size) > 0)
        signal(signo, SIG_DFL);
    raise(signo);
}

/* What the runs came to. */
static void report(void)
{
    const struct {
        uint64_t n;
        const char *what;
    } lines[] = {
        {wanted_runs, "runs"},
        {world.n_points, "points"},
        {world.n_broker_deaths, "deaths of the broker"},
        {world.n_client_deaths, "deaths of clients"},
        {world.n_taken, "messages taken"},
        {world.n_handed, "messages handed out"},
        {world.n_dropped, "dropped, by expiry or policy, all counted"},
        {world.n_overflowed, "of them by policy"},
        {world.n_waits, "waits of publishers for room"},
        {world.n_requests, "requests"},
        {world.n_replies, "replies"},
        {world.n_acknowledged, "messages of groups acknowledged"},
        {world.n_returned, "returned"},
        {world.n_dead, "dead letters"},
        {world.n_wills, "last wills"},
        {world.n_boxed, "batches boxed"},
        {world.n_repeats, "batches that came twice, and were known"},
        {0, "lost"},
        {0, "twice"},
        {0, "out of order"},
    };

    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        print_message("%12" PRIu64 " %s\n", lines[i].n, lines[i].what);
}

/* ---- Tests ---- */

static void every_promise_holds_in_every_run(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < wanted_runs; i++) {
        const char *fault = run(first_seed + i);

        if (fault != NULL)
            fail_with(first_seed + i, fault);
    }
    report();
}

static uint64_t milliseconds(void)
{
    return (uint64_t)clock() / (CLOCKS_PER_SEC / 1000);
}

static void each_planted_fault_is_found(void **state)
{
    (void)state;
    for (int fault = FAULT_NONE + 1; fault < N_FAULTS; fault++) {
        const char *found = NULL;
        uint64_t begun = milliseconds();
        uint64_t n = 0;

        persist_fault = (enum persist_fault)fault;
        while (found == NULL && n < FAULT_RUNS)
            found = run(++n);
        persist_fault = FAULT_NONE;
        if (found == NULL && FAULT_RUNS > SHORT)
            fail_msg("%s was not found in %" PRIu64 " runs", faults_name((enum persist_fault)fault),
                     n);
        if (found == NULL)
            continue;
        print_message("%-20s found in run %4" PRIu64 ", %5" PRIu64 " ms: %s\n",
                      faults_name((enum persist_fault)fault), n, milliseconds() - begun, found);
    }
}

static void a_seed_is_a_run(void **state)
{
    uint64_t points, handed;

    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        world.n_points = world.n_handed = 0;
        assert_null(run(seed));
        points = world.n_points;
        handed = world.n_handed;
        world.n_points = world.n_handed = 0;
        assert_null(run(seed));
        assert_int_equal(world.n_points, points);
        assert_int_equal(world.n_handed, handed);
    }
}

static void a_failing_run_is_cut_down_and_can_be_run_again(void **state)
{
    static struct script again;
    const char *claim;
    uint64_t seed = 0;
    uint32_t before;
    FILE *file = tmpfile();

    (void)state;
    assert_non_null(file);
    persist_fault = FAULT_NO_INTENT;
    while (run(++seed) == NULL)
        ;
    claim = world.claim;
    before = script.n;
    shrink(&script);
    assert_true(script.n < before / 4);
    script_write(&script, file);
    rewind(file);
    assert_int_equal(script_read(&again, file), 0);
    fclose(file);
    assert_non_null(world_run(&again));
    assert_ptr_equal(world.claim, claim);
    persist_fault = FAULT_NONE;
    assert_null(world_run(&again)); /* the fault it was, and nothing else */
}

static int replay(const char *name)
{
    FILE *in = fopen(name, "r");
    uint32_t line;

    if (in == NULL) {
        perror(name);
        return 1;
    }
    line = script_read(&script, in);
    fclose(in);
    if (line != 0) {
        fprintf(stderr, "%s:%" PRIu32 ": not a step\n", name, line);
        return 1;
    }
    show(&script);
    return world.claim != NULL;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_seed_is_a_run),
        cmocka_unit_test(every_promise_holds_in_every_run),
        cmocka_unit_test(each_planted_fault_is_found),
        cmocka_unit_test(a_failing_run_is_cut_down_and_can_be_run_again),
    };
    int failed;

    if (!world_init()) {
        fprintf(stderr, "test-sim: no memory\n");
        return 1;
    }
    signal(SIGABRT, say_seed);
    if (argc == 3 && strcmp(argv[1], "--replay") == 0) {
        failed = replay(argv[2]);
    } else {
        if (getenv("MQB_LONG") != NULL)
            wanted_runs = LONG;
        if (argc > 1)
            wanted_runs = strtoull(argv[1], NULL, 10);
        if (argc > 2)
            first_seed = strtoull(argv[2], NULL, 10);
        failed = cmocka_run_group_tests(tests, NULL, NULL);
    }
    world_deinit();
    return failed;
}
