/* A journal of eight million records may have one million that live, and the broker that reads it
 * should not need the memory of all. So what is read gathers in a short list of events, and when
 * that is full it is sorted by age and merged into the long one, which only has things that live:
 * 32 bytes each, and nothing for what has ended. */
#include "broker/survivors.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { FRESH_MAX = 64 << 10 };

/* A record of one age. `what.kind` may be RECORD_MOVE or RECORD_END. */
struct survivors_event {
    struct survivor what;
    uint32_t order; /* of reading */
};

void survivors_init(struct survivors *s)
{
    memset(s, 0, sizeof(*s));
}

void survivors_deinit(struct survivors *s)
{
    free(s->list);
    free(s->fresh);
    survivors_init(s);
}

static int compare(const void *left, const void *right)
{
    const struct survivors_event *a = left, *b = right;

    if (a->what.age != b->what.age)
        return a->what.age < b->what.age ? -1 : 1;
    return a->order < b->order ? -1 : a->order > b->order;
}

/* What an event makes of a thing; kind 0: there is none. */
static void apply(struct survivor *thing, const struct survivor *event)
{
    if (record_is_thing(event->kind)) {
        *thing = *event;
    } else if (event->kind == RECORD_END) {
        thing->kind = 0;
    } else if (thing->kind != 0) { /* moved */
        thing->owner = event->owner;
        thing->tries = event->tries;
    }
}

/* The first in the list that is not younger than `age`. */
static size_t lower_bound(const struct survivors *s, uint64_t age)
{
    size_t low = 0, high = s->n;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (s->list[middle].age < age)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Events are sorted: apply them to those in the list, of which some may end, and leave in
 * fresh[0…] the new ones that live. Returns how many those are. */
static size_t apply_all(struct survivors *s, size_t at)
{
    size_t n_new = 0;

    for (size_t i = 0; i < s->n_fresh;) {
        uint64_t age = s->fresh[i].what.age;
        struct survivor thing = {0};
        bool known;

        while (at < s->n && s->list[at].age < age)
            at++;
        known = at < s->n && s->list[at].age == age;
        if (known)
            thing = s->list[at];
        for (; i < s->n_fresh && s->fresh[i].what.age == age; i++)
            apply(&thing, &s->fresh[i].what);
        if (known)
            s->list[at] = thing;
        else if (thing.kind != 0)
            s->fresh[n_new++].what = thing;
    }
    return n_new;
}

static void remove_ended(struct survivors *s, size_t from)
{
    size_t kept = from;

    for (size_t i = from; i < s->n; i++) {
        if (s->list[i].kind != 0)
            s->list[kept++] = s->list[i];
    }
    s->n = kept;
}

static int grow(struct survivors *s, size_t n)
{
    size_t capacity = n + n / 8;
    struct survivor *list;

    if (n <= s->capacity)
        return 0;
    list = reallocarray(s->list, capacity, sizeof(*list));
    if (list == NULL)
        return -ENOMEM;
    s->list = list;
    s->capacity = capacity;
    return 0;
}

/* Both are sorted, and have no age in common: from the back, so that nothing need be copied twice.
 */
static void merge(struct survivors *s, size_t n_new)
{
    size_t to = s->n + n_new, old = s->n;

    while (n_new > 0) {
        if (old > 0 && s->list[old - 1].age > s->fresh[n_new - 1].what.age)
            s->list[--to] = s->list[--old];
        else
            s->list[--to] = s->fresh[--n_new].what;
    }
}

int survivors_settle(struct survivors *s)
{
    size_t from, n_new;
    int r;

    if (s->n_fresh == 0)
        return 0;
    qsort(s->fresh, s->n_fresh, sizeof(*s->fresh), compare);
    from = lower_bound(s, s->fresh[0].what.age);
    n_new = apply_all(s, from);
    s->n_fresh = 0;
    remove_ended(s, from);
    r = grow(s, s->n + n_new);
    if (r < 0)
        return r;
    merge(s, n_new);
    s->n += n_new;
    return 0;
}

static int add(struct survivors *s, const struct survivor *event)
{
    int r;

    if (event->age > s->highest)
        s->highest = event->age;
    if (s->fresh == NULL)
        s->fresh = calloc(FRESH_MAX, sizeof(*s->fresh));
    if (s->fresh == NULL)
        return -ENOMEM;
    if (s->n_fresh == FRESH_MAX) {
        r = survivors_settle(s);
        if (r < 0)
            return r;
    }
    s->fresh[s->n_fresh] = (struct survivors_event){*event, (uint32_t)s->n_fresh};
    s->n_fresh++;
    return 0;
}

int survivors_record(struct survivors *s, const struct record *record, uint32_t location)
{
    struct survivor event = {
        .age = record->age,
        .owner = record->owner,
        .when = record->when,
        .location = location,
        .size = record->size,
        .kind = record->kind,
        .level = record->level,
        .flags = record->flags,
        .tries = record->tries,
    };
    int r = 0;

    if (record_is_thing(record->kind) || record->kind == RECORD_MOVE)
        return add(s, &event);
    if (record->kind == RECORD_BEGIN && record->age > s->highest)
        s->highest = record->age;
    if (record->kind != RECORD_END)
        return 0;
    for (uint32_t i = 0; i < record->size / sizeof(uint64_t) && r == 0; i++) {
        event.age = record_end_age(record, i);
        r = add(s, &event);
    }
    return r;
}
