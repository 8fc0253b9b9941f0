/* Messages that expired on their last way, by topic, until they are reported. */
#include "libclient/reports.h"

#include <string.h>

void reports_add(struct reports *r, const char *topic, uint8_t size)
{
    struct report *last;

    for (uint32_t i = 0; i < r->n; i++) {
        struct report *report = &r->topics[i];

        if (report->size == size && memcmp(report->topic, topic, size) == 0) {
            report->count++;
            return;
        }
    }
    if (r->n == REPORTS_TOPICS) {
        r->topics[REPORTS_TOPICS - 1].count++;
        return;
    }
    last = &r->topics[r->n++];
    last->count = 1;
    last->size = size;
    memcpy(last->topic, topic, size);
}

void reports_drop(struct reports *r, uint32_t n)
{
    r->n -= n;
    memmove(r->topics, r->topics + n, r->n * sizeof(r->topics[0]));
}
