/* The filter tree. See filters.h for its shape.
 *
 * Wildcards are ordinary children by the names "+" and "#", which no level of a topic can have; a
 * node remembers them in two pointers, so that only literal levels are looked up. Nodes go when
 * nothing hangs on them any more. */
#include "broker/filters.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define uthash_fatal(message) abort() /* not reached: HASH_NONFATAL_OOM */
#define HASH_NONFATAL_OOM     1
#include <uthash.h>

#include "libclient/topic.h"
#include "libclient/wire.h"

struct filter_owner {
    uint16_t row;
    uint32_t slot;
};

struct filter_key { /* in front of the level's bytes */
    uint32_t parent;
    char level[WIRE_TOPIC_MAX + 1];
};

struct filter_node {
    UT_hash_handle hh;
    struct filter_node *parent;
    struct filter_node *plus; /* child "+" */
    struct filter_node *hash; /* child "#" */
    struct filter_owner *owners;
    uint32_t n_owners;
    uint32_t n_children;
    uint32_t id;
    uint32_t key_size;
    uint8_t key[]; /* struct filter_key, as far as it is used */
};

static size_t make_key(struct filter_key *key, uint32_t parent, const char *level, size_t size)
{
    key->parent = parent;
    memcpy(key->level, level, size);
    return offsetof(struct filter_key, level) + size;
}

static struct filter_node *new_node(struct filters *f, struct filter_node *parent,
                                    const struct filter_key *key, size_t key_size)
{
    struct filter_node *node = calloc(1, sizeof(*node) + key_size);

    if (node == NULL)
        return NULL;
    node->parent = parent;
    node->id = f->next_id++;
    node->key_size = (uint32_t)key_size;
    memcpy(node->key, key, key_size);
    return node;
}

int filters_init(struct filters *f)
{
    struct filter_key key = {0};

    *f = (struct filters){0};
    f->root = new_node(f, NULL, &key, sizeof(key.parent));
    return f->root == NULL ? -ENOMEM : 0;
}

void filters_deinit(struct filters *f)
{
    struct filter_node *node, *next;

    HASH_ITER(hh, f->nodes, node, next)
    {
        HASH_DEL(f->nodes, node);
        free(node->owners);
        free(node);
    }
    if (f->root != NULL)
        free(f->root->owners);
    free(f->root);
    *f = (struct filters){0};
}

static struct filter_node *child(const struct filters *f, const struct filter_node *parent,
                                 const char *level, size_t size)
{
    struct filter_key key;
    size_t key_size = make_key(&key, parent->id, level, size);
    struct filter_node *node;

    HASH_FIND(hh, f->nodes, &key, key_size, node);
    return node;
}

static bool is_level(const char *level, size_t size, char wildcard)
{
    return size == 1 && level[0] == wildcard;
}

static struct filter_node *add_child(struct filters *f, struct filter_node *parent,
                                     const char *level, size_t size)
{
    struct filter_key key;
    size_t key_size = make_key(&key, parent->id, level, size);
    struct filter_node *node = new_node(f, parent, &key, key_size);

    if (node == NULL)
        return NULL;
    HASH_ADD_KEYPTR(hh, f->nodes, node->key, node->key_size, node);
    if (node->hh.tbl == NULL) { /* out of memory: not added */
        free(node);
        return NULL;
    }
    parent->n_children++;
    if (is_level(level, size, '+'))
        parent->plus = node;
    else if (is_level(level, size, '#'))
        parent->hash = node;
    return node;
}

/* Remove a node, and those above it, on which nothing hangs. */
static void prune(struct filters *f, struct filter_node *node)
{
    while (node != f->root && node->n_owners == 0 && node->n_children == 0) {
        struct filter_node *parent = node->parent;

        HASH_DEL(f->nodes, node);
        parent->n_children--;
        if (parent->plus == node)
            parent->plus = NULL;
        if (parent->hash == node)
            parent->hash = NULL;
        free(node->owners);
        free(node);
        node = parent;
    }
}

static size_t level_size(const char *at, const char *end)
{
    const char *slash = memchr(at, '/', (size_t)(end - at));

    return (size_t)((slash != NULL ? slash : end) - at);
}

/* The node of a filter; with `grow` made if it is not there (NULL then means out of memory). */
static struct filter_node *find_node(struct filters *f, const char *filter, size_t size, bool grow)
{
    const char *end = filter + size;
    struct filter_node *node = f->root;

    for (const char *at = filter;;) {
        size_t n = level_size(at, end);
        struct filter_node *next = child(f, node, at, n);

        if (next == NULL && grow)
            next = add_child(f, node, at, n);
        if (next == NULL) {
            if (grow)
                prune(f, node);
            return NULL;
        }
        node = next;
        at += n;
        if (at == end)
            return node;
        at++;
    }
}

static struct filter_owner *find_owner(const struct filter_node *node, uint16_t row)
{
    for (uint32_t i = 0; i < node->n_owners; i++) {
        if (node->owners[i].row == row)
            return &node->owners[i];
    }
    return NULL;
}

/* Owners grow in powers of two, so their number says how many there is room for. */
static int add_owner(struct filter_node *node, uint16_t row, uint32_t slot)
{
    uint32_t n = node->n_owners;

    if ((n & (n - 1)) == 0) {
        struct filter_owner *owners = realloc(node->owners, (n == 0 ? 1 : 2 * n) * sizeof(*owners));

        if (owners == NULL)
            return -ENOMEM;
        node->owners = owners;
    }
    node->owners[n] = (struct filter_owner){.row = row, .slot = slot};
    node->n_owners++;
    return 0;
}

int filters_add(struct filters *f, const char *filter, size_t size, uint16_t row, uint32_t slot)
{
    struct filter_node *node = find_node(f, filter, size, true);

    if (node == NULL)
        return -ENOMEM;
    if (find_owner(node, row) != NULL)
        return FILTERS_E_THERE;
    if (add_owner(node, row, slot) < 0) {
        prune(f, node);
        return -ENOMEM;
    }
    f->n++;
    return 0;
}

uint32_t filters_find(const struct filters *f, const char *filter, size_t size, uint16_t row)
{
    struct filters *unchanged =
        (struct filters *)(uintptr_t)f; /* find_node() without `grow` only reads */
    const struct filter_node *node = find_node(unchanged, filter, size, false);
    const struct filter_owner *owner = node == NULL ? NULL : find_owner(node, row);

    return owner == NULL ? 0 : owner->slot;
}

void filters_remove(struct filters *f, const char *filter, size_t size, uint16_t row)
{
    struct filter_node *node = find_node(f, filter, size, false);
    struct filter_owner *owner = node == NULL ? NULL : find_owner(node, row);

    if (owner == NULL)
        return;
    *owner = node->owners[--node->n_owners];
    f->n--;
    prune(f, node);
}

struct match {
    const struct filters *filters;
    const char *topic;
    const char *end;
    void (*found)(void *context, uint16_t row);
    void *context;
};

static void tell(const struct match *m, const struct filter_node *node)
{
    for (uint32_t i = 0; i < node->n_owners; i++)
        m->found(m->context, node->owners[i].row);
}

/* `node` has matched all levels before `at`; NULL: all of the topic. The depth is that of the
 * filters: TOPIC_LEVELS_MAX. */
static void match_below(const struct match *m, const struct filter_node *node, const char *at)
{
    bool special = at == m->topic && (*at == '$' || *at == '@'); /* MQTT 4.7.2 */

    if (node->hash != NULL && !special)
        tell(m, node->hash); /* "#" matches its parent level too */
    if (at == NULL) {
        tell(m, node);
        return;
    }

    size_t n = level_size(at, m->end);
    const char *next = at + n == m->end ? NULL : at + n + 1;
    const struct filter_node *literal = child(m->filters, node, at, n);

    if (literal != NULL)
        match_below(m, literal, next);
    if (node->plus != NULL && !special)
        match_below(m, node->plus, next);
}

void filters_match(const struct filters *f, const char *topic, size_t size,
                   void (*found)(void *context, uint16_t row), void *context)
{
    struct match m = {f, topic, topic + size, found, context};

    match_below(&m, f->root, topic);
}
