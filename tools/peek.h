/* Messages that wait in a group, copied out of the memory of a broker: its ledger and its store
 * (broker/persist.h), mapped read-only, which its own user may. The broker is not asked, does not
 * notice, and need not live. Pure: memory in, copies out.
 *
 * It goes on meanwhile. So nothing that was read is believed before its reference was looked at
 * once more, and was still the same: same word, same age, same place. */
#ifndef MQBROKER_TOOLS_PEEK_H
#define MQBROKER_TOOLS_PEEK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/persist.h"

enum { PEEK_FRAME_MAX = UINT16_MAX }; /* bytes of the largest frame */

struct peek {
    const struct ledger *ledger;
    const struct reference *references;
    const struct cell *cells;
    uint32_t n_references; /* of both, those that there can be */
    uint32_t n_cells;
    uint32_t n_rows;
    uint32_t n_groups;
};

/* A reference as it was. */
struct peek_entry {
    uint32_t slot;
    uint32_t cell;
    uint32_t when;
    uint64_t word;
    uint64_t age;
};

enum peek_outcome {
    PEEK_OK = 0,
    PEEK_E_LAYOUT,  /* of another version */
    PEEK_E_SIZE,    /* no ledger and store of one broker */
    PEEK_E_GONE,    /* it does not wait there any more */
    PEEK_E_ON_DISK, /* its bytes are in the journal alone */
};

/* Over what is mapped of both. OK, LAYOUT or SIZE. */
int peek_init(struct peek *p, const void *ledger, size_t ledger_size, const void *store,
              size_t store_size);

/* Find a group, or a group's dead letters, by name ("orders", "$dead/orders"): the owner of its
 * messages. False: there is none. */
bool peek_find(const struct peek *p, const char *group, uint16_t *owner);

/* What waits there, in the order in which it would be delivered: by priority, then age; what was
 * returned with a delay comes last. `*entries` is the caller's to free. 0 or -ENOMEM. */
int peek_collect(const struct peek *p, uint16_t owner, struct peek_entry **entries, size_t *n);

/* Copy the frame of one, if it waits there still; `entry` then is how it is now. `*born` is when
 * its message came, in nanoseconds of CLOCK_BOOTTIME. OK, GONE, or ON_DISK: `entry->cell` says
 * where. */
int peek_copy(const struct peek *p, struct peek_entry *entry, uint8_t frame[PEEK_FRAME_MAX],
              uint32_t *size, uint64_t *born);

/* Is it still what it was? To be asked after its payload was copied from elsewhere. */
bool peek_holds(const struct peek *p, const struct peek_entry *entry);

#endif
