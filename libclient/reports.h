/* Messages that expired between the broker's hand and the reader's, by topic: what REPORT tells the
 * broker (floor 2, pure; rule P11). */
#ifndef MQBROKER_LIBCLIENT_REPORTS_H
#define MQBROKER_LIBCLIENT_REPORTS_H

#include <stdint.h>

#include "libclient/wire.h"

enum { REPORTS_TOPICS = 8 };

struct report {
    uint32_t count;
    uint8_t size; /* of the topic */
    char topic[WIRE_TOPIC_MAX];
};

struct reports {
    uint32_t n;
    struct report topics[REPORTS_TOPICS];
};

/* Count one. When all places are taken, and nothing could be sent, it counts for the last of them:
 * the sums of the session stay exact. */
void reports_add(struct reports *r, const char *topic, uint8_t size);

/* Forget the first `n`: they were sent. */
void reports_drop(struct reports *r, uint32_t n);

#endif
