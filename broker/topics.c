/* The table of topics. See topics.h.
 *
 * A publish costs one look: the topic that came last, else one probe of the hash table. The owners
 * found for a topic are kept with the generation of the subscriptions they were found in, so that
 * the filter tree is walked once a topic and change, not once a message. */
#include "broker/topics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define uthash_fatal(message) abort() /* not reached: HASH_NONFATAL_OOM */
#define HASH_NONFATAL_OOM     1
#include <uthash.h>
#include <utlist.h>

enum { PASSING_MAX = 4096 };

struct topic {
    UT_hash_handle hh;
    struct topic *next, *prev; /* in `passing` */
    uint64_t generation;
    uint16_t *owners;
    uint32_t n_owners;
    uint32_t kept;
    uint32_t row;
    bool passes; /* is in `passing` */
    uint8_t size;
    char name[];
};

void topics_init(struct topics *t, struct board_header *board)
{
    *t = (struct topics){.board = board};
}

static void delete_topic(struct topics *t, struct topic *topic)
{
    if (t->last == topic)
        t->last = NULL;
    if (topic->passes) {
        DL_DELETE(t->passing, topic);
        t->n_passing--;
    }
    HASH_DEL(t->table, topic);
    free(topic->owners);
    free(topic);
}

void topics_deinit(struct topics *t)
{
    struct topic *topic, *next;

    HASH_ITER(hh, t->table, topic, next)
    delete_topic(t, topic);
}

struct topic *topics_find(struct topics *t, const char *name, size_t size)
{
    struct topic *topic = t->last;

    if (topic != NULL && topic->size == size && memcmp(topic->name, name, size) == 0)
        return topic;
    HASH_FIND(hh, t->table, name, size, topic);
    if (topic != NULL)
        t->last = topic;
    return topic;
}

static struct topic *new_topic(struct topics *t, const char *name, size_t size, uint32_t row)
{
    struct topic *topic = calloc(1, sizeof(*topic) + size + 1);

    if (topic == NULL)
        return NULL;
    topic->size = (uint8_t)size;
    topic->row = row;
    topic->generation = UINT64_MAX;
    memcpy(topic->name, name, size);
    HASH_ADD_KEYPTR(hh, t->table, topic->name, topic->size, topic);
    if (topic->hh.tbl == NULL) { /* out of memory: not added */
        free(topic);
        return NULL;
    }
    return topic;
}

static void let_pass(struct topics *t, struct topic *topic)
{
    topic->passes = true;
    DL_APPEND(t->passing, topic);
    t->n_passing++;
    if (t->n_passing > PASSING_MAX)
        delete_topic(t, t->passing);
}

struct topic *topics_add(struct topics *t, const char *name, size_t size)
{
    struct topic *topic = topics_find(t, name, size);
    uint32_t others = t->board->n_topics - 1;
    uint32_t used = atomic_load_explicit(&t->board->topics_used, memory_order_relaxed);

    if (topic != NULL)
        return topic;
    topic = new_topic(t, name, size, used < others ? used : others);
    if (topic == NULL)
        return NULL;
    if (used < others) {
        board_write_topic_name(board_topic(t->board, used), name, size);
        atomic_store_explicit(&t->board->topics_used, used + 1, memory_order_relaxed);
    } else {
        if (used == others)
            atomic_store_explicit(&t->board->topics_used, used + 1, memory_order_relaxed);
        let_pass(t, topic);
    }
    t->last = topic;
    return topic;
}

int topics_adopt(struct topics *t)
{
    uint32_t used = atomic_load_explicit(&t->board->topics_used, memory_order_relaxed);

    for (uint32_t i = 0; i < used && i < t->board->n_topics - 1; i++) {
        char name[BOARD_TOPIC_SIZE];

        board_read_topic_name(board_topic(t->board, i), name);
        name[BOARD_TOPIC_SIZE - 1] = '\0';
        if (name[0] != '\0' && topics_find(t, name, strlen(name)) == NULL &&
            new_topic(t, name, strlen(name), i) == NULL)
            return -ENOMEM;
    }
    return 0;
}

uint32_t topic_row(const struct topic *topic)
{
    return topic->row;
}

const char *topic_name(const struct topic *topic, size_t *size)
{
    *size = topic->size;
    return topic->name;
}

uint32_t topic_kept(const struct topic *topic)
{
    return topic->kept;
}

void topics_keep(struct topics *t, struct topic *topic, uint32_t slot)
{
    bool others = topic->row == t->board->n_topics - 1;

    if (slot != 0 && topic->passes) {
        DL_DELETE(t->passing, topic);
        t->n_passing--;
        topic->passes = false;
    }
    topic->kept = slot;
    if (slot == 0 && others && !topic->passes)
        let_pass(t, topic);
}

const uint16_t *topic_owners(const struct topic *topic, uint64_t generation, uint32_t *n)
{
    if (topic->generation != generation)
        return NULL;
    *n = topic->n_owners;
    return topic->owners;
}

bool topic_set_owners(struct topic *topic, uint64_t generation, const uint16_t *owners, uint32_t n)
{
    if (n > topic->n_owners || topic->owners == NULL) {
        uint16_t *more = realloc(topic->owners, (n == 0 ? 1 : n) * sizeof(*more));

        if (more == NULL)
            return false;
        topic->owners = more;
    }
    if (n > 0)
        memcpy(topic->owners, owners, n * sizeof(*owners));
    topic->n_owners = n;
    topic->generation = generation;
    return true;
}

void topics_each_kept(const struct topics *t, void (*each)(void *context, struct topic *topic),
                      void *context)
{
    for (struct topic *topic = t->table; topic != NULL; topic = topic->hh.next) {
        if (topic->kept != 0)
            each(context, topic);
    }
}
