/* The filter tree: which sessions subscribe to a topic. Derived memory, built again at each start
 * from the FILTER references. Pure; floor 2.
 *
 * A node is a level below its parent; children are found in one hash table by (parent, level). So a
 * look costs a few probes for each level of the topic, and nothing for filters that do not match:
 * ten thousand filters cost a publish what ten do. */
#ifndef MQBROKER_BROKER_FILTERS_H
#define MQBROKER_BROKER_FILTERS_H

#include <stddef.h>
#include <stdint.h>

struct filter_node;

struct filters {
    struct filter_node *nodes; /* uthash */
    struct filter_node *root;
    uint32_t next_id;
    uint32_t n; /* subscriptions */
};

enum filters_outcome {
    FILTERS_OK = 0,
    FILTERS_E_THERE, /* that row subscribes to it already */
};

int filters_init(struct filters *f); /* 0 or -ENOMEM */
void filters_deinit(struct filters *f);

/* Add a valid filter of a row, kept by the reference `slot`. Returns 0, FILTERS_E_THERE or -ENOMEM
 * (then nothing changed). */
int filters_add(struct filters *f, const char *filter, size_t size, uint16_t row, uint32_t slot);

/* The reference that keeps this subscription; 0: there is none. */
uint32_t filters_find(const struct filters *f, const char *filter, size_t size, uint16_t row);

/* Take it out; fine if it is not in. */
void filters_remove(struct filters *f, const char *filter, size_t size, uint16_t row);

/* Call `found` for each subscription that matches a valid topic; a row may come more than once. */
void filters_match(const struct filters *f, const char *topic, size_t size,
                   void (*found)(void *context, uint16_t row), void *context);

#endif
