/* A look at a broker from outside: its board, and what the kernel says besides. The broker is not
 * asked and does not notice. */
#ifndef MQBROKER_TOOLS_LOOK_H
#define MQBROKER_TOOLS_LOOK_H

#include "libclient/segment.h"
#include "tools/snapshot.h"

/* Map the board of an instance read-only, and check it. Returns NULL, or a sentence that says why
 * it cannot be; valid until the next call. Nothing is mapped then. */
const char *look_open(struct segment *board, const char *instance);

/* Take a snapshot of it, with whether the broker lives, and how full its queues are by the kernel's
 * word. `instance` is borrowed. Returns NULL, or a sentence; the snapshot holds nothing then. */
const char *look_at(struct snapshot *snapshot, const char *instance);

#endif
