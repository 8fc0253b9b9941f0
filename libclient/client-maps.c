/* Others' pools: where the payloads of large messages are read, in place.
 *
 * A pool is mapped when the first message that lies in it is handed out, with address space for all
 * that it may become, so it is mapped once. It stays mapped while a message in it is held, and as
 * one of a few idle ones after that: the next message from the same sender finds it at the front of
 * the list. An idle mapping whose owner is gone would keep all of that pool's memory, so a client
 * that sleeps wakes up each second while it has idle ones, to look whether their names are still
 * there (and one that has a loop of its own is woken by a timer): the broker removes a pool's name
 * when nobody needs it.
 *
 * No descriptor is kept. Who needs to know how long a pool is by now opens it again by its name,
 * and looks whether it is the same one: that is needed when the pool has grown, which it does by
 * doubling.
 *
 * What cannot be mapped, another user's pool, comes by the copied lane: the broker is asked for a
 * copy in this session's outbox. The message waits for it at the front of its priority. */
#include "libclient/client.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <utlist.h>

enum { IDLE_MAX = 32 }; /* mappings kept though no message in them is held */

enum {
    AGAIN_NS = 1000000000,   /* ask again for a copy that has not come, */
    TRY_AGAIN_NS = 10000000, /* … or could not be asked for */
    FULL_NS = 1000000,       /* to sleep while nothing more can be kept */
};

/* ---- Mappings ---- */

static bool owner_is_trusted(const struct mqc *c, uid_t owner)
{
    return owner == geteuid() || owner == c->segment.owner;
}

/* The pool of this nonce as it is now. 0 or -errno. */
static int open_pool(const struct mqc *c, uint64_t nonce, struct segment *s)
{
    char name[NAMES_MAX];
    int r;

    names_pool(name, c->instance, nonce);
    r = segment_open(s, name, 0);
    if (r == 0 && !owner_is_trusted(c, s->owner)) {
        segment_close(s);
        r = -EACCES;
    }
    return r;
}

static void unmap(struct mqc *c, struct client_map *map)
{
    DL_DELETE(c->maps.first, map);
    segment_close(&map->segment);
    free(map);
}

static int map_whole(const struct mqc *c, struct client_map *map)
{
    uint64_t length = c->session.pool_max;
    int r = open_pool(c, map->nonce, &map->segment);

    if (r < 0)
        return r;
    map->end = map->segment.size;
    r = segment_reserve(&map->segment, map->end > length ? map->end : length, 0);
    if (r < 0)
        segment_close(&map->segment);
    else
        segment_forget_descriptor(&map->segment);
    return r;
}

static struct client_map *make_map(struct mqc *c, uint64_t nonce)
{
    struct client_map *map = calloc(1, sizeof(*map));

    if (map == NULL)
        return NULL;
    map->nonce = nonce;
    if (map_whole(c, map) < 0) {
        free(map);
        return NULL;
    }
    DL_PREPEND(c->maps.first, map);
    c->maps.n_idle++;
    return map;
}

static struct client_map *find_map(struct mqc *c, uint64_t nonce)
{
    struct client_map *map;

    DL_FOREACH(c->maps.first, map)
    {
        if (map->nonce != nonce)
            continue;
        if (map != c->maps.first) {
            DL_DELETE(c->maps.first, map);
            DL_PREPEND(c->maps.first, map);
        }
        return map;
    }
    return make_map(c, nonce);
}

/* Is the pool still there under its name? Then how long it is by now is known. */
static bool look_again(const struct mqc *c, struct client_map *map)
{
    struct segment now;
    bool same;

    if (open_pool(c, map->nonce, &now) < 0)
        return false;
    same = now.inode == map->segment.inode;
    if (same)
        map->end = now.size;
    segment_close(&now);
    return same;
}

/* Is all of this place there? */
static bool has(const struct mqc *c, struct client_map *map, uint64_t offset, uint64_t size)
{
    if (offset < POOL_PAYLOADS || offset > map->segment.size || size > map->segment.size - offset)
        return false;
    return offset + size <= map->end || (look_again(c, map) && offset + size <= map->end);
}

static void hold(struct mqc *c, struct client_map *map)
{
    if (map->holds++ == 0)
        c->maps.n_idle--;
}

void client_let_go(struct mqc *c, struct client_map *map)
{
    struct client_map *oldest;

    if (map == NULL || --map->holds > 0)
        return;
    if (++c->maps.n_idle <= IDLE_MAX)
        return;
    for (oldest = c->maps.first->prev; oldest->holds > 0; oldest = oldest->prev) {
    }
    unmap(c, oldest);
    c->maps.n_idle--;
}

static void sweep(struct mqc *c)
{
    struct client_map *map, *next;

    DL_FOREACH_SAFE(c->maps.first, map, next)
    {
        if (map->holds > 0 || look_again(c, map))
            continue;
        unmap(c, map);
        c->maps.n_idle--;
    }
}

void client_maps_tend(struct mqc *c)
{
    uint64_t now;

    if (c->maps.n_idle == 0)
        return;
    now = client_monotonic();
    if (now < client_maps_due(c))
        return;
    c->maps.swept = now;
    sweep(c);
}

void client_maps_close(struct mqc *c)
{
    while (c->maps.first != NULL)
        unmap(c, c->maps.first);
}

/* ---- The copied lane ---- */

static uint64_t outbox_end(const struct mqc *c)
{
    struct stat status;

    return fstat(c->outbox.fd, &status) < 0 ? 0 : (uint64_t)status.st_size;
}

static bool lies_in_outbox(const struct mqc *c, uint64_t offset, uint64_t size)
{
    uint64_t end = outbox_end(c);

    if (end > c->outbox.size)
        end = c->outbox.size;
    return offset >= OUTBOX_COPIES && offset <= end && size <= end - offset;
}

static int take_copy(const struct mqc *c, const struct fetch *fetch, uint32_t size,
                     struct client_payload *out)
{
    if (fetch->size != size || !lies_in_outbox(c, fetch->offset, size))
        return CLIENT_LOST;
    *out = (struct client_payload){.bytes = (const uint8_t *)c->outbox.base + fetch->offset};
    return CLIENT_READY;
}

/* Ask for it, unless that was done a short while ago. */
static int ask_for_copy(struct mqc *c, struct fetch *fetch)
{
    uint64_t now = client_monotonic();
    int r;

    if (client_check(c) < 0) /* nobody will answer any more */
        return CLIENT_LOST;
    if (fetch->state == FETCH_NONE || now >= fetch->again) {
        session_put_fetch(&c->session, fetch->name);
        r = client_send(c, &c->session.alone, 0);
        fetch->state = FETCH_ASKED;
        fetch->again = now + (r == 0 ? AGAIN_NS : TRY_AGAIN_NS);
    }
    c->copy_due = fetch->again;
    return CLIENT_COPYING;
}

static int find_copy(struct mqc *c, struct fetch *fetch, uint32_t size, struct client_payload *out)
{
    switch ((enum fetch_state)fetch->state) {
    case FETCH_LENT:
        return take_copy(c, fetch, size, out);
    case FETCH_LOST:
        return CLIENT_LOST;
    default:
        return ask_for_copy(c, fetch);
    }
}

int client_fetch_meanwhile(struct mqc *c)
{
    if (inbox_full(&c->session.inbox) && !session_control_stands(&c->session))
        return -EAGAIN;
    return client_fetch(c);
}

int client_sleep_meanwhile(struct mqc *c, uint64_t deadline)
{
    const struct timespec moment = {.tv_nsec = FULL_NS};
    int r = 0;

    /* What stands in the queue and cannot be kept would end each sleep on it at once. */
    if (inbox_full(&c->session.inbox))
        nanosleep(&moment, NULL);
    else
        r = client_sleep(c, c->copy_due < deadline ? c->copy_due : deadline);
    if (r == 0 || r == -ETIMEDOUT)
        r = client_monotonic() < deadline ? 0 : -ETIMEDOUT;
    return r;
}

/* ---- Where is it? ---- */

static int find_own(const struct mqc *c, uint64_t offset, uint64_t size, struct client_payload *out)
{
    if (offset < POOL_PAYLOADS || offset + size > slots_end(&c->pool.slots))
        return CLIENT_LOST;
    *out = (struct client_payload){.bytes = client_pool_at(c, offset)};
    return CLIENT_READY;
}

int client_find_payload(struct mqc *c, const struct wire_frame *frame, unsigned place,
                        struct client_payload *out)
{
    const struct wire_slot *slot = &frame->slot;
    uint64_t offset = (uint64_t)slot->offset * WIRE_SLOT_UNIT;
    struct client_map *map;
    struct fetch *fetch;

    if (slot->pool == c->pool.nonce)
        return find_own(c, offset, slot->size, out);
    fetch = fetches_at(&c->session.fetches, place, slot->name);
    map = fetch->state == FETCH_NONE ? find_map(c, slot->pool) : NULL;
    if (map == NULL)
        return find_copy(c, fetch, slot->size, out);
    if (!has(c, map, offset, slot->size)) {
        c->session.malformed++;
        return CLIENT_LOST;
    }
    hold(c, map);
    *out =
        (struct client_payload){.bytes = (const uint8_t *)map->segment.base + offset, .map = map};
    return CLIENT_READY;
}
