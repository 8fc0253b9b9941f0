/* The journal over a disk that is cut off.
 *
 * A run is made of lives. In each, a stand-in for the engine appends things, ends them, moves them,
 * while the disk may refuse, write in part, be interrupted or be full. Every operation of the disk
 * is remembered, together with what the engine had appended and what it had been promised. Then the
 * disk is cut off after any operation, in every way there is, and a new journal reads what is left:
 *
 *   - what was promised to be done is there, and what was promised to be ended is not;
 *   - what is there is a prefix of what was appended, byte for byte; nothing is invented;
 *   - a torn tail is no damage.
 *
 * The next life goes on from one of these images, after a power loss (scan) or a kill of the
 * process (continue). The same runs with faults planted in the journal must fail, or the test is
 * worth nothing: test-journal-planted.
 *
 *     test-journal-crashes [RUNS [SEED]]     so many runs from this seed on; by default 8 from 1
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/support/journal-run.h"

static unsigned long n_runs = 8, first_seed = 1;

static void J1_J3_whatever_a_crash_leaves_is_a_prefix_with_all_that_was_promised(void **state)
{
    struct run_figures f = {0};

    (void)state;
    for (unsigned long i = 0; i < n_runs; i++) {
        const char *wrong = run(first_seed + i, 25, &f);

        if (wrong != NULL)
            fail_msg("seed %lu: %s", first_seed + i, wrong);
    }
    print_message("%" PRIu64 " images, %" PRIu64 " moves, %" PRIu64 " relocations, %" PRIu64
                  " times full, %" PRIu64 " lost sources\n",
                  f.images, f.moves, f.relocations, f.full, f.lost);
    assert_true(n_runs < 8 || (f.moves > 0 && f.relocations > 0 && f.full > 0 && f.lost > 0));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(J1_J3_whatever_a_crash_leaves_is_a_prefix_with_all_that_was_promised),
    };

    if (argc > 1)
        n_runs = strtoul(argv[1], NULL, 10);
    if (argc > 2)
        first_seed = strtoul(argv[2], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
