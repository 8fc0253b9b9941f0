/* See faults.h. */
#include "tests/support/faults.h"

#include <string.h>

static const char *const names[N_FAULTS] = {
    [FAULT_END_BEFORE_COMMIT] = "end-before-commit",
    [FAULT_NO_COMMIT_CHECK] = "no-commit-check",
    [FAULT_NEW_NUMBER] = "new-number",
    [FAULT_NO_INTENT] = "no-intent",
    [FAULT_NO_SETTLE] = "no-settle",
    [FAULT_NO_LATE_MARK] = "no-late-mark",
    [FAULT_NO_COUNT] = "no-count",
    [FAULT_RETURN_BEFORE_COMMIT] = "return-before-commit",
    [FAULT_END_BEFORE_RETURN] = "end-before-return",
    [FAULT_COLLECTED_FIRST] = "collected-first",
    [FAULT_NO_AGE] = "no-age",
    [FAULT_NO_ORPHAN] = "no-orphan",
    [FAULT_NO_TAKEN] = "no-taken",
    [FAULT_REFILL] = "refill",
    [FAULT_NO_MEMBER] = "no-member",
    [FAULT_KEEP_MEMBER] = "keep-member",
    [FAULT_AT_THE_END] = "at-the-end",
    [FAULT_NO_TRY] = "no-try",
    [FAULT_WILL_AGAIN] = "will-again",
};

const char *faults_name(enum persist_fault fault)
{
    return fault < N_FAULTS ? names[fault] : NULL;
}

enum persist_fault faults_find(const char *name)
{
    for (unsigned i = FAULT_NONE + 1; i < N_FAULTS; i++) {
        if (names[i] != NULL && strcmp(names[i], name) == 0)
            return (enum persist_fault)i;
    }
    return FAULT_NONE;
}
