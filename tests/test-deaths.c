/* The death test: the real engine over a fake kernel, killed at single stores, started again, and
 * held to a model.
 *
 * The engine is compiled with a place to die before every store to what survives it
 * (broker/persist.h). A run is made of random steps from a seed: clients register, subscribe,
 * publish, ask, answer, read, die; the broker takes an envelope, routes, pumps, lets time pass. Any
 * step of the broker may be its last: the process is "killed" by a longjmp out of the middle,
 * everything derived is thrown away, and a new engine starts on the same ledger and store, which
 * may be killed in its start as well. The queues, being the kernel's, live on.
 *
 * The model knows what each client must get: what is read must be the next of its (subscriber,
 * priority), in the order in which the kernel gave the broker its envelopes; nothing lost, nothing
 * twice, nothing out of order, drops counted exactly; at the end nothing is left over. Some
 * payloads lie in pools, most batches in outboxes, for the queues are narrow: a place that is read
 * must not be given out again, each comes back in the end, and so does each pool. The same runs
 * with faults planted in the engine must fail, or the test is worth nothing: test-deaths-planted.
 *
 *     test-deaths [DEATHS [SEED]]     so many deaths from this seed on; by default 120,000 from 1
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/support/death-run.h"
#include "tests/support/death-scene.h"

static uint64_t wanted_deaths = 120000;
static uint64_t first_seed = 1;

static void K1_K3_K11_nothing_lost_twice_or_out_of_order_at_any_death(void **state)
{
    uint64_t seed = first_seed;

    (void)state;
    for (; scene_toll.deaths < wanted_deaths; seed++) {
        const char *fault = run(seed);

        if (fault != NULL)
            fail_msg("seed %" PRIu64 ": %s", seed, fault);
    }
    print_message("%" PRIu64 " deaths at single stores in %" PRIu64 " seeds, %" PRIu64
                  " stores, %" PRIu64 " batches in boxes, %" PRIu64 " places handed back, %" PRIu64
                  " of them again: none lost, none twice, none out of order, nothing left over\n",
                  scene_toll.deaths, seed - first_seed, scene_toll.points, scene_toll.boxed,
                  scene_toll.back, scene_toll.repeats);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(K1_K3_K11_nothing_lost_twice_or_out_of_order_at_any_death),
    };
    int failed;

    if (argc > 1)
        wanted_deaths = strtoull(argv[1], NULL, 10);
    if (argc > 2)
        first_seed = strtoull(argv[2], NULL, 10);
    run_init();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    run_deinit();
    return failed;
}
