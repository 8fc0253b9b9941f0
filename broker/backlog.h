/* Lists of references: the 33 lists of a session (one a priority, one for answers) with a map of
 * the non-empty ones, and single lists. Push, unlink and "highest" in O(1). Derived memory: links
 * lie in the references, heads are given. Pure; floor 2. */
#ifndef MQBROKER_BROKER_BACKLOG_H
#define MQBROKER_BROKER_BACKLOG_H

#include "broker/store.h"

enum { BACKLOG_LISTS = WIRE_LEVELS + 1 };

struct list {
    uint32_t head;
    uint32_t tail;
};

struct backlog {
    uint64_t map; /* bit l: list l has something */
    struct list lists[BACKLOG_LISTS];
};

static inline void list_push(struct list *l, const struct store *s, uint32_t slot)
{
    struct reference *r = store_reference(s, slot);

    r->next = 0;
    r->prev = l->tail;
    if (l->tail != 0)
        store_reference(s, l->tail)->next = slot;
    else
        l->head = slot;
    l->tail = slot;
}

/* The oldest in a list that is younger than this age; its youngest one is. What came back is near
 * the front, what has just changed near the end, and either list may be a million long: so both are
 * walked from at once. */
static inline uint32_t list_successor(const struct list *l, const struct store *s, uint64_t age)
{
    uint32_t next = l->head;
    uint32_t last = l->tail;

    while (store_reference(s, next)->age < age) {
        uint32_t before = store_reference(s, last)->prev;

        if (store_reference(s, before)->age < age)
            return last;
        next = store_reference(s, next)->next;
        last = before;
    }
    return next;
}

/* In order of age: to the end, or, if it came back, to where it was. */
static inline void list_insert(struct list *l, const struct store *s, uint32_t slot)
{
    struct reference *r = store_reference(s, slot);
    uint32_t next;

    if (l->tail == 0 || store_reference(s, l->tail)->age < r->age) {
        list_push(l, s, slot);
        return;
    }
    next = list_successor(l, s, r->age);
    r->next = next;
    r->prev = store_reference(s, next)->prev;
    if (r->prev != 0)
        store_reference(s, r->prev)->next = slot;
    else
        l->head = slot;
    store_reference(s, next)->prev = slot;
}

static inline void list_unlink(struct list *l, const struct store *s, uint32_t slot)
{
    struct reference *r = store_reference(s, slot);

    if (r->prev != 0)
        store_reference(s, r->prev)->next = r->next;
    else
        l->head = r->next;
    if (r->next != 0)
        store_reference(s, r->next)->prev = r->prev;
    else
        l->tail = r->prev;
}

static inline void backlog_push(struct backlog *b, const struct store *s, unsigned level,
                                uint32_t slot)
{
    list_push(&b->lists[level], s, slot);
    b->map |= UINT64_C(1) << level;
}

static inline void backlog_insert(struct backlog *b, const struct store *s, unsigned level,
                                  uint32_t slot)
{
    list_insert(&b->lists[level], s, slot);
    b->map |= UINT64_C(1) << level;
}

static inline void backlog_unlink(struct backlog *b, const struct store *s, unsigned level,
                                  uint32_t slot)
{
    list_unlink(&b->lists[level], s, slot);
    if (b->lists[level].head == 0)
        b->map &= ~(UINT64_C(1) << level);
}

/* Take the front of a list out at once, up to and with `last`. */
static inline void backlog_cut(struct backlog *b, const struct store *s, unsigned level,
                               uint32_t last)
{
    uint32_t head = store_reference(s, last)->next;

    b->lists[level].head = head;
    if (head != 0) {
        store_reference(s, head)->prev = 0;
    } else {
        b->lists[level].tail = 0;
        b->map &= ~(UINT64_C(1) << level);
    }
}

/* The highest list that has something; -1: all are empty. */
static inline int backlog_highest(const struct backlog *b)
{
    return b->map == 0 ? -1 : 63 - __builtin_clzll(b->map);
}

#endif
