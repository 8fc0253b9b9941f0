/* The memory that a session and the broker share.
 *
 * What the broker writes to an outbox has memory behind it before it is written, so that a full
 * /dev/shm is an error here and never a signal. An outbox begins with one buffer and gets the
 * others when they are needed, up to what its queue's depth asks for: a session whose batches fit
 * its queue needs no more.
 *
 * The client makes its pool after WELCOME, so at first it may not be there yet; later it may be cut
 * off. In both cases the session, and nothing else, comes to an end. */
#include "broker/share.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "broker/life.h"
#include "broker/pools.h"
#include "broker/pump.h"
#include "broker/shell.h"
#include "libclient/names.h"

enum {
    FIRST_BUFFERS = 1,
    PATIENCE = 5,           /* seconds that a client may take to make its pool */
    RETRY_AFTER = 10000000, /* nanoseconds */
};

#define SECOND UINT64_C(1000000000)

static struct share *share_of(const struct broker *b, uint16_t row)
{
    return &b->peers[row].share;
}

static void attach(struct broker *b, uint16_t row)
{
    const struct share *share = share_of(b, row);

    engine_attach(&b->engine, row, share->outbox.base, share->pool.base);
}

void share_close(struct share *share)
{
    guard_close(&share->pool);
    segment_close(&share->outbox);
    share->missed = 0;
    share->waits = false;
}

/* ---- The outbox ---- */

static void format(struct outbox_header *header, uint64_t nonce)
{
    header->magic = OUTBOX_MAGIC;
    header->layout = OUTBOX_LAYOUT;
    header->nonce = nonce;
    header->n_buffers = FIRST_BUFFERS;
    header->buffer_size = OUTBOX_BUFFER;
}

/* Remove one of our own, whole or not. False: it is another user's. */
static bool remove_own(const char *name)
{
    uid_t owner = geteuid();

    segment_owner(name, &owner);
    if (owner != geteuid())
        return false;
    shm_unlink(name);
    return true;
}

/* One of our own that stands in the way was left by a broker that was killed: it goes. */
static int create(struct segment *s, const char *name)
{
    int r = segment_create(s, name, OUTBOX_COPIES, 0600);

    if (r == -EEXIST)
        r = remove_own(name) ? segment_create(s, name, OUTBOX_COPIES, 0600) : -EACCES;
    return r;
}

int share_make(struct broker *b, uint16_t i)
{
    struct share *share = share_of(b, i);
    struct row *row = engine_row(&b->engine, i);
    char name[NAMES_MAX];
    int r;

    names_outbox(name, b->instance, row->nonce);
    r = create(&share->outbox, name);
    if (r == 0)
        r = segment_allocate(&share->outbox, 0, outbox_buffer_offset(FIRST_BUFFERS));
    if (r < 0) {
        if (share->outbox.base != NULL)
            shm_unlink(name);
        segment_close(&share->outbox);
        return r;
    }
    format(share->outbox.base, row->nonce);
    persist_u64(&row->outbox_inode, share->outbox.inode);
    attach(b, i);
    return 0;
}

/* Is it the one that was made for this session (K8)? */
static bool is_whole(const struct segment *s, const struct row *row)
{
    const struct outbox_header *header = s->base;

    return s->inode == row->outbox_inode && s->owner == geteuid() && s->size >= OUTBOX_COPIES &&
           header->magic == OUTBOX_MAGIC && header->layout == OUTBOX_LAYOUT &&
           header->nonce == row->nonce && header->n_buffers <= OUTBOX_BUFFERS;
}

int share_adopt(struct broker *b, uint16_t i)
{
    struct share *share = share_of(b, i);
    const struct row *row = engine_row(&b->engine, i);
    char name[NAMES_MAX];
    int r;

    names_outbox(name, b->instance, row->nonce);
    r = segment_open(&share->outbox, name, true);
    if (r < 0)
        return shell_may_pass(r) ? r : 0;
    if (is_whole(&share->outbox, row))
        attach(b, i);
    else
        segment_close(&share->outbox);
    return 0;
}

/* Put memory behind one more buffer. False: it has as many as it may, or there is no memory. */
static bool add_buffer(struct broker *b, uint16_t row)
{
    const struct segment *outbox = &share_of(b, row)->outbox;
    struct outbox_header *header = outbox->base;
    int r;

    if (header->n_buffers >= pump_buffers(engine_row(&b->engine, row)))
        return false;
    r = segment_allocate(outbox, outbox_buffer_offset(header->n_buffers), OUTBOX_BUFFER);
    if (r < 0) {
        log_limited(&b->memory_limit, b->engine.now, CONFIG_LOG_WARNING,
                    "no memory for batches to session %u: %s; it goes on slowly", row,
                    strerror(-r));
        return false;
    }
    header->n_buffers++;
    return true;
}

/* ---- The pool ---- */

/* Copied out first, then believed or not (S8). Zero: not written yet. */
static int check_header(const struct guard *g, uint64_t wanted)
{
    const volatile struct pool_header *header = g->base;
    uint32_t magic = header->magic;
    uint32_t layout = header->layout;
    uint64_t nonce = header->nonce;

    if (magic == 0)
        return -ENOENT;
    return magic == POOL_MAGIC && layout == POOL_LAYOUT && nonce == wanted && !g->broken ? 0
                                                                                         : -EBADF;
}

static int open_pool(struct broker *b, uint16_t i)
{
    const struct row *row = engine_row(&b->engine, i);
    struct guard *guard = &share_of(b, i)->pool;
    char name[NAMES_MAX];
    int r;

    names_pool(name, b->instance, row->pool);
    r = guard_open(guard, name, row->uid, sizeof(struct pool_header));
    if (r == 0)
        r = check_header(guard, row->pool);
    if (r < 0)
        guard_close(guard);
    return r;
}

/* Map the session's pool, if it is there. One that is not, in good time, ends the session. */
static bool attach_pool(struct broker *b, uint16_t row)
{
    struct engine *e = &b->engine;
    struct share *share = share_of(b, row);
    int r = open_pool(b, row);

    if (r == 0) {
        share->missed = 0;
        attach(b, row);
        return true;
    }
    if (shell_may_pass(r))
        return false;
    if (share->missed == 0)
        share->missed = e->now;
    if ((r != -ENOENT && r != -EINVAL) || e->now - share->missed > PATIENCE * SECOND) {
        e->sessions[row].broken = true;
        life_leave(e, row, WIRE_C_BAD_POOL);
    }
    return false;
}

/* ---- For the engine ---- */

void share_try_later(struct broker *b, uint16_t row)
{
    share_of(b, row)->waits = true;
    if (b->share_retry == 0)
        b->share_retry = b->engine.now + RETRY_AFTER;
}

void share_provide(struct broker *b, uint16_t row)
{
    const struct session *s = &b->engine.sessions[row];
    bool found = s->pool == NULL && !s->broken && attach_pool(b, row);

    if (!add_buffer(b, row) && !found)
        share_try_later(b, row);
}

void shares_collect(struct broker *b)
{
    struct engine *e = &b->engine;

    for (uint32_t i = 0; i < e->holders.n; i++) {
        uint16_t row = e->holders.rows[i];
        const struct session *s = &e->sessions[row];

        if (s->pool == NULL && s->outbox != NULL && !s->broken && !share_of(b, row)->waits &&
            !attach_pool(b, row))
            share_try_later(b, row);
    }
    pools_collect(e);
}

static void retry(struct broker *b)
{
    struct engine *e = &b->engine;

    b->share_retry = 0;
    for (uint32_t i = 0; i < e->n_rows; i++) {
        struct share *share = share_of(b, (uint16_t)i);

        if (!share->waits)
            continue;
        share->waits = false;
        e->sessions[i].wants_buffer = false; /* it may ask again */
        engine_touch(e, (uint16_t)i);
    }
}

static void end_broken(struct broker *b)
{
    struct engine *e = &b->engine;

    for (uint32_t i = 0; i < e->n_rows; i++) {
        if (share_of(b, (uint16_t)i)->pool.broken) {
            e->sessions[i].broken = true;
            life_leave(e, (uint16_t)i, WIRE_C_BAD_POOL);
        }
    }
}

void shares_check(struct broker *b)
{
    if (guard_tripped())
        end_broken(b);
    if (b->share_retry != 0 && b->share_retry <= b->engine.now)
        retry(b);
}

void shares_show(struct broker *b)
{
    const struct engine *e = &b->engine;
    uint32_t n = 0;

    for (uint32_t i = 0; i < e->n_pools; i++)
        n += ledger_pools(e->ledger)[i] != 0;
    board_set(&e->board->pools, n);
    board_set(&e->board->orphans, e->n_orphans);
}

/* ---- The end ---- */

static void unlink_pool(struct broker *b, uint32_t slot)
{
    char name[NAMES_MAX];

    names_pool(name, b->instance, ledger_pools(b->engine.ledger)[slot]);
    shm_unlink(name);
    pools_gone(&b->engine, slot);
}

void shares_unlink(struct broker *b)
{
    struct rows *unlinked = &b->engine.unlinked;

    while (unlinked->n > 0)
        unlink_pool(b, unlinked->rows[--unlinked->n]);
}

static void unlink_outbox(struct broker *b, uint16_t row)
{
    char name[NAMES_MAX];

    names_outbox(name, b->instance, engine_row(&b->engine, row)->nonce);
    remove_own(name);
}

void share_discard(struct broker *b, uint16_t row)
{
    struct share *share = share_of(b, row);

    unlink_outbox(b, row); /* also one that a killed broker made */
    share_close(share);
    attach(b, row);
}

void share_remove(struct broker *b, uint16_t row)
{
    struct engine *e = &b->engine;

    if (pools_orphan(e, row))
        unlink_pool(b, engine_row(e, row)->pool_slot);
    unlink_outbox(b, row); /* also one that was not believed */
    share_close(share_of(b, row));
    attach(b, row);
}
