/* The own pool: a segment that this client makes, and others read.
 *
 * It begins with the header alone, and gets memory when there is something to put there: a piece at
 * a time, each allocated before it is touched, so that a full /dev/shm is an error and never a
 * signal. It is mapped once, as long as it may ever get, and never moves or shrinks: receivers rely
 * on that.
 *
 * Beyond the size that was wanted it grows for two reasons only: a message that is larger than all
 * of it, and space that did not come back for a while; who has slow receivers is rather given
 * memory than stopped. */
#include "libclient/client.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

enum {
    SHORT_MS = 100,       /* for which nothing came back, before it grows further */
    GROW_LEAST = 1 << 20, /* bytes that it grows by */
    DEFAULT_SIZE = 16 << 20,
};

#define MILLISECOND UINT64_C(1000000)

/* The broker's places name offsets of 32 bits in units. */
#define MAX_SIZE (UINT64_C(64) << 30)

static const struct outbox_header *outbox(const struct mqc *c)
{
    return c->outbox.base;
}

static struct pool_header *header(const struct mqc *c)
{
    return c->pool.segment.base;
}

/* ---- Making it ---- */

/* A limit as it is used: whole units, and something behind the header. */
static uint64_t bounded(uint64_t size, uint64_t max)
{
    if (size > max)
        size = max;
    if (size < POOL_PAYLOADS)
        size = POOL_PAYLOADS;
    return size - size % WIRE_SLOT_UNIT;
}

/* Address space for all that it may have; for less where that is limited. */
static int reserve(struct client_pool *p)
{
    int r;

    while ((r = segment_reserve(&p->segment, p->max, 1)) == -ENOMEM && p->max / 2 > POOL_PAYLOADS)
        p->max = bounded(p->max / 2, p->max);
    return r;
}

static int fail_to_make(const struct mqc *c, int error)
{
    if (error == -ENOSPC)
        return client_fail(error,
                           "/dev/shm is full: no room for the pool of a client of broker '%s'; "
                           "remove something there, or mount it larger",
                           c->instance);
    return client_fail_call(error, "cannot make a pool for payloads in /dev/shm");
}

int client_pool_make(struct mqc *c, uint64_t size)
{
    struct client_pool *p = &c->pool;
    char name[NAMES_MAX];
    int r;

    p->max = bounded(c->session.pool_max, MAX_SIZE);
    names_pool(name, c->instance, p->nonce);
    r = segment_create(&p->segment, name, POOL_PAYLOADS, 0600);
    if (r < 0)
        return fail_to_make(c, r);
    r = segment_allocate(&p->segment, 0, POOL_PAYLOADS);
    if (r == 0)
        r = reserve(p);
    if (r < 0) {
        shm_unlink(name);
        return fail_to_make(c, r);
    }
    p->limit = bounded(size > 0 ? size : DEFAULT_SIZE, p->max);
    slots_init(&p->slots, POOL_PAYLOADS, POOL_PAYLOADS);
    header(c)->layout = POOL_LAYOUT;
    header(c)->nonce = p->nonce;
    atomic_thread_fence(memory_order_release);
    header(c)->magic = POOL_MAGIC;
    p->returned = atomic_load_explicit(&outbox(c)->returned, memory_order_acquire);
    /* A broker that began to end the session before may have looked for a pool to remove, and found
     * none; one that begins to now finds it. */
    if (!client_is_known(c, BOARD_ROW_LIVE))
        shm_unlink(name);
    return 0;
}

void client_pool_abandon(struct mqc *c)
{
    char name[NAMES_MAX];

    if (c->pool.segment.base == NULL || client_check_process(c) < 0 || !client_is_lost(c))
        return;
    names_pool(name, c->instance, c->pool.nonce);
    shm_unlink(name);
}

void client_pool_close(struct mqc *c)
{
    slots_deinit(&c->pool.slots);
    segment_close(&c->pool.segment);
}

/* ---- Space ---- */

/* Take in what has come back. */
static void collect(struct mqc *c)
{
    struct client_pool *p = &c->pool;
    uint64_t returned = atomic_load_explicit(&outbox(c)->returned, memory_order_acquire);

    if (returned == p->returned)
        return;
    if (returned - p->returned > OUTBOX_RING) /* cannot be */
        p->returned = returned - OUTBOX_RING;
    for (; p->returned != returned; p->returned++) {
        uint64_t place =
            atomic_load_explicit(&outbox(c)->ring[p->returned % OUTBOX_RING], memory_order_relaxed);

        slots_give(&p->slots, (place >> 32) * WIRE_SLOT_UNIT, (uint32_t)place);
    }
    p->short_since = 0;
}

/* How long it may be now, for a message of this size. */
static uint64_t limit_now(struct client_pool *p, uint64_t size)
{
    uint64_t limit = p->limit;

    if (size > limit - POOL_PAYLOADS)
        limit = bounded(limit + size + WIRE_SLOT_UNIT, p->max);
    if (limit < p->max && p->short_since != 0 &&
        client_monotonic() - p->short_since >= SHORT_MS * MILLISECOND)
        limit = p->max;
    return limit;
}

/* Memory up to `end`, better a good deal further. */
static int extend(struct client_pool *p, uint64_t end, uint64_t limit)
{
    uint64_t now = slots_end(&p->slots);
    uint64_t step = now - POOL_PAYLOADS > GROW_LEAST ? now - POOL_PAYLOADS : GROW_LEAST;
    uint64_t wanted = step < limit - now ? now + step : limit;
    int r;

    if (wanted < end)
        wanted = end;
    r = segment_allocate(&p->segment, now, wanted - now);
    if (r == -ENOSPC && wanted > end) {
        wanted = end;
        r = segment_allocate(&p->segment, now, wanted - now);
    }
    if (r == 0)
        slots_grow(&p->slots, wanted);
    return r;
}

static int grow(struct mqc *c, uint64_t size)
{
    struct client_pool *p = &c->pool;
    uint64_t end = slots_end_wanted(&p->slots, size);
    int r;

    if (end > limit_now(p, size)) {
        if (p->short_since == 0)
            p->short_since = client_monotonic();
        return -EAGAIN;
    }
    r = extend(p, end, limit_now(p, size));
    if (r == -ENOSPC)
        return client_fail(r,
                           "/dev/shm is full: no room for a payload of %llu bytes; remove "
                           "something there, or mount it larger",
                           (unsigned long long)size);
    return r < 0 ? client_fail_call(r, "cannot make the pool larger") : 0;
}

int client_pool_take(struct mqc *c, uint64_t size, struct slots_place *place)
{
    struct client_pool *p = &c->pool;
    int r;

    if (!slots_at_hand(&p->slots, size))
        collect(c);
    r = slots_take(&p->slots, size, place);
    if (r == -ENOSPC) {
        r = grow(c, size);
        if (r == 0)
            r = slots_take(&p->slots, size, place);
    }
    if (r == -EBUSY)
        return -EAGAIN;
    if (r == -ENOMEM)
        return client_fail_plainly(r, "no memory to keep account of the pool");
    if (r == 0)
        p->short_since = 0;
    return r;
}

bool client_pool_is_spent(const struct mqc *c, uint64_t size)
{
    const struct slots *slots = &c->pool.slots;

    return slots->n_given == POOL_SLOTS || slots_end_wanted(slots, size) > c->pool.max;
}

/* ---- Waiting ---- */

bool client_pool_stirred(const struct mqc *c)
{
    uint64_t wants = atomic_load_explicit(&header(c)->wants, memory_order_relaxed);

    return wants != 0 && atomic_load_explicit(&outbox(c)->returned, memory_order_relaxed) >= wants;
}

/* It is woken when half has come back, because to be woken for each place would cost more than the
 * place is worth. But the other half may be held for good, so it looks by itself now and then; that
 * is also when the pool may be made larger. */
int client_pool_sleep(struct mqc *c, uint64_t deadline)
{
    struct client_pool *p = &c->pool;
    uint64_t look = client_monotonic() + SHORT_MS * MILLISECOND;
    uint64_t until = look < deadline ? look : deadline;
    uint64_t half = p->slots.n_given / 2;
    int r;

    atomic_store_explicit(&header(c)->wants, p->returned + (half > 0 ? half : 1),
                          memory_order_relaxed);
    client_nudge(c, BOARD_ASLEEP);
    r = client_pool_stirred(c) ? 0 : client_sleep(c, until);
    atomic_store_explicit(&header(c)->wants, 0, memory_order_relaxed);
    return r == -ETIMEDOUT && until < deadline ? 0 : r;
}
