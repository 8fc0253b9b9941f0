/* Is the death test worth anything? Its runs (test-deaths) with a fault planted in the engine, each
 * in turn: one of them must find it. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/persist.h"
#include "tests/support/death-run.h"

static void each_planted_fault_is_found(void **state)
{
    static const char *const names[N_FAULTS] = {
        [FAULT_END_BEFORE_COMMIT] = "an end before the commit",
        [FAULT_NO_COMMIT_CHECK] = "a start that believes what was never committed",
        [FAULT_NEW_NUMBER] = "a new number on resend",
        [FAULT_NO_INTENT] = "no intent",
        [FAULT_NO_SETTLE] = "no settle",
        [FAULT_NO_LATE_MARK] = "no mark on answers that came late",
        [FAULT_NO_COUNT] = "a drop that does not say which it is",
        [FAULT_RETURN_BEFORE_COMMIT] = "a place handed back before the commit",
        [FAULT_END_BEFORE_RETURN] = "an end before the place is handed back",
        [FAULT_COLLECTED_FIRST] = "a release ring that counts as read before it is",
        [FAULT_NO_AGE] = "a name that is believed whatever its age",
        [FAULT_NO_ORPHAN] = "a pool that goes with its session",
        [FAULT_NO_TAKEN] = "a buffer filled again before it was emptied",
        [FAULT_REFILL] = "a box in doubt that is packed anew",
    };

    (void)state;
    for (int fault = FAULT_NONE + 1; fault < N_FAULTS; fault++) {
        const char *found = NULL;
        uint64_t seed = 0;

        if (names[fault] == NULL)
            continue; /* of groups: nobody here is in one */
        persist_fault = (enum persist_fault)fault;
        while (found == NULL && seed < 4000)
            found = run(++seed);
        persist_fault = FAULT_NONE;
        if (found == NULL)
            fail_msg("%s was not found in %" PRIu64 " seeds", names[fault], seed);
        else
            print_message("%-48s found by seed %" PRIu64 ": %s\n", names[fault], seed, found);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_planted_fault_is_found),
    };
    int failed;

    run_init();
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    run_deinit();
    return failed;
}
