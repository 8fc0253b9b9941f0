/* A binary heap of deadlines, in which each slot knows its place.
 *
 * Deadlines end far more often by delivery than by running out, so taking one out of the middle
 * must be as cheap as taking the first. Room is reserved before a landing is routed: setting a
 * deadline cannot fail. */
#include "broker/timers.h"

#include <errno.h>
#include <stdlib.h>

int timers_init(struct timers *t, uint32_t n_slots)
{
    /* Large: fresh pages of the kernel, zero, and not there until touched. */
    *t = (struct timers){
        .heap = calloc(n_slots, sizeof(*t->heap)),
        .place = calloc(n_slots, sizeof(*t->place)),
    };
    if (t->heap != NULL && t->place != NULL)
        return 0;
    timers_deinit(t);
    return -ENOMEM;
}

void timers_deinit(struct timers *t)
{
    free(t->heap);
    free(t->place);
    *t = (struct timers){0};
}

static void put(struct timers *t, uint32_t place, struct timers_entry entry)
{
    t->heap[place] = entry;
    t->place[entry.slot] = place + 1;
}

static void rise(struct timers *t, uint32_t place, struct timers_entry entry)
{
    while (place > 0) {
        uint32_t parent = (place - 1) / 2;

        if (t->heap[parent].when <= entry.when)
            break;
        put(t, place, t->heap[parent]);
        place = parent;
    }
    put(t, place, entry);
}

static void sink(struct timers *t, uint32_t place, struct timers_entry entry)
{
    for (;;) {
        uint32_t child = 2 * place + 1;

        if (child >= t->n)
            break;
        if (child + 1 < t->n && t->heap[child + 1].when < t->heap[child].when)
            child++;
        if (t->heap[child].when >= entry.when)
            break;
        put(t, place, t->heap[child]);
        place = child;
    }
    put(t, place, entry);
}

static void settle(struct timers *t, uint32_t place, struct timers_entry entry)
{
    if (place > 0 && t->heap[(place - 1) / 2].when > entry.when)
        rise(t, place, entry);
    else
        sink(t, place, entry);
}

void timers_set(struct timers *t, uint32_t slot, uint32_t when)
{
    uint32_t place = t->place[slot] != 0 ? t->place[slot] - 1 : t->n++;

    settle(t, place, (struct timers_entry){.when = when, .slot = slot});
}

void timers_clear(struct timers *t, uint32_t slot)
{
    if (t->place[slot] == 0)
        return;

    uint32_t place = t->place[slot] - 1;
    struct timers_entry last = t->heap[--t->n];

    t->place[slot] = 0;
    if (place < t->n)
        settle(t, place, last);
}
