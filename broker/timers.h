/* Deadlines of references: one heap, which knows where each reference stands in it, so that any can
 * be taken out. Pure; floor 2. */
#ifndef MQBROKER_BROKER_TIMERS_H
#define MQBROKER_BROKER_TIMERS_H

#include <stdbool.h>
#include <stdint.h>

struct timers_entry {
    uint32_t when;
    uint32_t slot;
};

struct timers {
    struct timers_entry *heap;
    uint32_t *place; /* by slot: place in the heap + 1; 0: not in it */
    uint32_t n;
};

/* Memory for all slots is reserved, but touched only where it is used. 0 or -ENOMEM. */
int timers_init(struct timers *t, uint32_t n_slots);
void timers_deinit(struct timers *t);

/* Set or move the deadline of a slot. Never fails. O(log n). */
void timers_set(struct timers *t, uint32_t slot, uint32_t when);

/* Take a slot out; fine if it is not in. O(log n). */
void timers_clear(struct timers *t, uint32_t slot);

/* The earliest, if there is one. */
static inline bool timers_first(const struct timers *t, struct timers_entry *first)
{
    if (t->n == 0)
        return false;
    *first = t->heap[0];
    return true;
}

#endif
