/* A life of a process that keeps a journal: a stand-in for the engine. */
#ifndef MQBROKER_TESTS_SUPPORT_JOURNAL_LIFE_H
#define MQBROKER_TESTS_SUPPORT_JOURNAL_LIFE_H

#include <stdbool.h>
#include <stdint.h>

#include "tests/support/chance.h"
#include "tests/support/journal-model.h"

struct life {
    struct model model;
    struct chance chance;
    uint64_t n_moves; /* out of segments that were to be emptied */
    uint64_t n_full;  /* things refused for want of room */
};

/* What the life before left. */
struct life_begin {
    const struct fake_image *image; /* NULL: there was none */
    bool kill;                      /* of the process alone: its store is there */
    uint64_t done;                  /* the last append that it was told is done */
};

/* A life from its start to its end, of so many steps. The disk is left mounted, for its log. */
void life_live(struct life *l, const struct life_begin *begin, enum journal_sync sync,
               const struct fake_troubles *troubles, unsigned steps);

#endif
