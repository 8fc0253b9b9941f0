/* Faults that the journal's test plants, to see that it finds them; and how it holds helper and
 * clock in its hand, so that what it finds can be found again. Floor 0. */
#ifndef MQBROKER_BROKER_JOURNAL_FAULT_H
#define MQBROKER_BROKER_JOURNAL_FAULT_H

#include <stdbool.h>
#include <stdint.h>

enum journal_fault {
    JOURNAL_FAULT_NONE = 0,
    JOURNAL_FAULT_NO_CHECKSUM,     /* J1: what is torn is believed */
    JOURNAL_FAULT_NO_SEED,         /* J1: a payload can pretend to be a record */
    JOURNAL_FAULT_NO_SYNCED,       /* J1: damage is taken for a torn tail */
    JOURNAL_FAULT_NO_END,          /* J1: a segment that was cut is read to its end once more */
    JOURNAL_FAULT_NO_SYNC,         /* done without a sync */
    JOURNAL_FAULT_SYNC_FIRST,      /* synced before it is written */
    JOURNAL_FAULT_EARLY_REUSE,     /* J3: used again before the moves are synced */
    JOURNAL_FAULT_HEADER_UNSYNCED, /* J3: written to before its new header is synced */
    JOURNAL_FAULT_ANY_ORDER,      /* J3: segments used again as they fall empty, not oldest first */
    JOURNAL_FAULT_SYNC_AGAIN,     /* J3: a failed sync is asked for again, in place */
    JOURNAL_FAULT_NO_RESCUE,      /* J3: what was written before the failed batch is forgotten */
    JOURNAL_FAULT_NO_FOLDER_SYNC, /* a new file's name is not synced */
    N_JOURNAL_FAULTS,
};

#ifdef JOURNAL_FAULTS
extern enum journal_fault journal_fault;
extern bool journal_by_hand; /* no thread: the test calls scribe_work() */
extern uint64_t journal_now; /* what the clock says then */
#define JOURNAL_FAULT(fault_) (journal_fault == (fault_))
#define JOURNAL_BY_HAND       journal_by_hand
#define JOURNAL_NOW           journal_now
#else
#define JOURNAL_FAULT(fault_) (false)
#define JOURNAL_BY_HAND       false
#define JOURNAL_NOW           0
#endif

#endif
