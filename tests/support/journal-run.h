/* A run of the journal's test: lives over a disk that is cut off. */
#ifndef MQBROKER_TESTS_SUPPORT_JOURNAL_RUN_H
#define MQBROKER_TESTS_SUPPORT_JOURNAL_RUN_H

#include <stdint.h>

/* What happened in it. */
struct run_figures {
    uint64_t images; /* that crashes left, and that were read */
    uint64_t moves;
    uint64_t relocations;
    uint64_t full;
    uint64_t lost;
};

/* One run from a seed. In its lives, a crash is looked at after one in so many operations of the
 * disk. *figures are added to. What was wrong, valid until the next; NULL: nothing. */
const char *run(uint64_t seed, unsigned every, struct run_figures *figures);

#endif
