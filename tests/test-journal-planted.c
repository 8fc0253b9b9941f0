/* Is the test of crashes worth anything? Its runs (test-journal-crashes) with a fault planted in
 * the journal, each in turn: one of them must find it. Two are not for chance, which neither forges
 * nor damages: test-journal plants those. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "broker/journal-fault.h"
#include "tests/support/journal-run.h"

static void each_planted_fault_is_found(void **state)
{
    static const char *const names[N_JOURNAL_FAULTS] = {
        [JOURNAL_FAULT_NO_CHECKSUM] = "what is torn is believed",
        [JOURNAL_FAULT_NO_END] = "a segment that was cut is read to its end",
        [JOURNAL_FAULT_NO_SYNC] = "done without a sync",
        [JOURNAL_FAULT_SYNC_FIRST] = "synced before it is written",
        [JOURNAL_FAULT_EARLY_REUSE] = "used again before the moves are synced",
        [JOURNAL_FAULT_HEADER_UNSYNCED] = "written to before its header is synced",
        [JOURNAL_FAULT_ANY_ORDER] = "used again as they fall empty",
        [JOURNAL_FAULT_SYNC_AGAIN] = "a failed sync is asked for again",
        [JOURNAL_FAULT_NO_RESCUE] = "what a failed batch stood on is forgotten",
        [JOURNAL_FAULT_NO_FOLDER_SYNC] = "a new file's name is not synced",
    };

    (void)state;
    for (enum journal_fault fault = 1; fault < N_JOURNAL_FAULTS; fault++) {
        struct run_figures figures = {0};
        const char *found = NULL;
        unsigned n = 0;

        if (names[fault] == NULL)
            continue;
        journal_fault = fault;
        while (found == NULL && n < 40)
            found = run(1000 + n++, 10, &figures);
        journal_fault = JOURNAL_FAULT_NONE;
        if (found == NULL)
            fail_msg("%s: not found in %u runs", names[fault], n);
        print_message("%-42s found by run %u: %s\n", names[fault], n, found);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_planted_fault_is_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
