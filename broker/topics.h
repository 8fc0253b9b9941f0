/* Topics that are in use: each one's row on the board, its retained message, and who subscribes to
 * it, found once and kept until a subscription changes anywhere. Derived memory. Pure; floor 2.
 *
 * A topic that has a row on the board keeps its entry for good. When all rows are taken, further
 * topics share the last row, and only the most recent of them (and those with a retained message)
 * have an entry. */
#ifndef MQBROKER_BROKER_TOPICS_H
#define MQBROKER_BROKER_TOPICS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libclient/board.h"

struct topic;

struct topics {
    struct topic *table;   /* uthash */
    struct topic *passing; /* those without a row of their own, oldest first; utlist */
    uint32_t n_passing;
    struct topic *last; /* the one found last: publishers repeat themselves */
    struct board_header *board;
};

void topics_init(struct topics *t, struct board_header *board);
void topics_deinit(struct topics *t);

/* A start: entries for the topics that stand on the board. 0 or -ENOMEM. */
int topics_adopt(struct topics *t);

/* The entry of a topic; NULL: there is none. */
struct topic *topics_find(struct topics *t, const char *name, size_t size);

/* The same, made if it is not there; the topic is valid. NULL: out of memory. An entry stays valid
 * until the next topics_add(). */
struct topic *topics_add(struct topics *t, const char *name, size_t size);

/* Index of its row on the board. */
uint32_t topic_row(const struct topic *topic);

const char *topic_name(const struct topic *topic, size_t *size);

/* The reference that keeps its retained message; 0: none. */
uint32_t topic_kept(const struct topic *topic);
void topics_keep(struct topics *t, struct topic *topic, uint32_t slot);

/* The owners found at `generation`, each session once; NULL: to be found again. */
const uint16_t *topic_owners(const struct topic *topic, uint64_t generation, uint32_t *n);

/* Remember them. False: out of memory; nothing is remembered. */
bool topic_set_owners(struct topic *topic, uint64_t generation, const uint16_t *owners, uint32_t n);

/* Call `each` for every topic with a retained message. */
void topics_each_kept(const struct topics *t, void (*each)(void *context, struct topic *topic),
                      void *context);

#endif
