/* Things in a broker's journal, read by their places there. The broker is not asked, and may be
 * writing to it. */
#ifndef MQBROKER_TOOLS_STORED_H
#define MQBROKER_TOOLS_STORED_H

#include <stdint.h>

#include "broker/record.h"

struct stored {
    int folder; /* of the journal's segments; -1: not found */
};

#define STORED_NONE ((struct stored){.folder = -1})

/* Find the journal of an instance: in the directory that its configuration names, or if that is
 * NULL, where the process that lives has its segments open. 0 or -errno; -ENOENT: nowhere. */
int stored_open(struct stored *stored, const char *instance, const char *directory, uint32_t pid);
void stored_close(struct stored *stored);

/* Read the record of the thing of this age at a place, whole and checked. record->bytes is the
 * caller's to free. 0 or -errno; -EBADMSG: it is not there (any more), or damaged. */
int stored_read(const struct stored *stored, uint32_t location, uint64_t age,
                struct record *record);

#endif
