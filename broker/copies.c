/* The copied lane.
 *
 * A payload is copied from one file to another, by pread and pwrite: the sender may cut its pool
 * off at any moment, and a full /dev/shm is an error of pwrite. Neither touches the broker. The
 * copy goes behind the buffers of the receiver's outbox, where it stays while the receiver holds
 * the delivery.
 *
 * Nothing long in a turn: a turn copies so many bytes and leaves the rest to the next ones. Who
 * asks is served in the order of asking, one payload a session; who finds no space waits until it
 * gives some back, and holds nobody else up.
 *
 * Nothing of this survives a kill of the broker. The next one does not know what the receiver still
 * reads, so it begins behind all of it, and asks the client to ask again. */
#include "broker/copies.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/pools.h"
#include "broker/shell.h"
#include "libclient/names.h"
#include "libclient/slots.h"

enum {
    TURN_BYTES = 256 << 10, /* copied in a turn (P9) */
    CHUNK = 64 << 10,
};

struct copy {
    uint64_t name; /* of the delivery */
    uint64_t offset;
    uint64_t size;
    uint32_t generation;
};

/* Those of a session. */
struct copies {
    struct slots space;
    struct copy *list;
    uint32_t n;
    uint32_t capacity;
    bool waits; /* for space */

    /* The one that is being made. */
    struct copy job; /* name 0: none */
    struct wire_slot from;
    uint64_t done;
    int fd; /* of the pool; -1: none */
};

/* ---- Space ---- */

static struct copies *copies_new(const struct broker *b, uint16_t row)
{
    const struct segment *outbox = &b->peers[row].share.outbox;
    struct copies *c = calloc(1, sizeof(*c));
    struct stat status;
    uint64_t begin;

    if (c == NULL || fstat(outbox->fd, &status) < 0) {
        free(c);
        return NULL;
    }
    begin = ((uint64_t)status.st_size + WIRE_SLOT_UNIT - 1) / WIRE_SLOT_UNIT * WIRE_SLOT_UNIT;
    slots_init(&c->space, begin, begin + b->engine.settings.pool_max);
    c->fd = -1;
    return c;
}

static void end_job(struct copies *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->job = (struct copy){0};
    c->waits = false;
}

static void give_up_job(struct copies *c)
{
    if (c->job.size > 0)
        slots_give(&c->space, c->job.offset, c->job.generation);
    end_job(c);
}

static void copies_free(struct broker *b, uint16_t row)
{
    struct copies *c = b->peers[row].copies;

    if (c == NULL)
        return;
    end_job(c);
    slots_deinit(&c->space);
    free(c->list);
    free(c);
    b->peers[row].copies = NULL;
    b->n_copying--;
}

/* Copies that the receiver has done with. */
static void drop_released(const struct engine *e, uint16_t row, struct copies *c)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < c->n; i++) {
        struct wire_slot from;

        if (pools_holds(e, row, c->list[i].name, &from))
            c->list[kept++] = c->list[i];
        else
            slots_give(&c->space, c->list[i].offset, c->list[i].generation);
    }
    c->n = kept;
}

/* ---- A job ---- */

enum outcome { DONE, MORE, WAITS };

static enum outcome lend(struct broker *b, uint16_t row, const struct copy *copy)
{
    pools_lend(&b->engine, row, WIRE_C_OK, copy->name, copy->offset, copy->size);
    return DONE;
}

static enum outcome lend_nothing(struct broker *b, uint16_t row, uint64_t name)
{
    struct copies *c = b->peers[row].copies;

    if (c != NULL)
        give_up_job(c);
    pools_lend(&b->engine, row, WIRE_C_NO_COPY, name, 0, 0);
    return DONE;
}

/* The pool, by its name, checked like all that a client makes (S1). */
static int open_pool(const struct broker *b, uint64_t nonce)
{
    char name[NAMES_MAX];
    struct stat status;
    int fd;

    names_pool(name, b->instance, nonce);
    fd = shm_open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd >= 0 && (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode) || status.st_nlink != 1 ||
                    status.st_uid != b->engine.uid)) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Take space for it. */
static int take_space(const struct engine *e, uint16_t row, struct copies *c)
{
    struct slots_place place;
    int r;

    drop_released(e, row, c);
    r = slots_take(&c->space, c->from.size, &place);
    if (r < 0)
        return r;
    c->job.offset = place.offset;
    c->job.generation = place.generation;
    c->job.size = c->from.size;
    return 0;
}

static enum outcome begin(struct broker *b, uint16_t row, struct copies *c, uint64_t name)
{
    struct engine *e = &b->engine;

    for (uint32_t i = 0; i < c->n; i++) {
        if (c->list[i].name == name) /* it did not hear of it */
            return lend(b, row, &c->list[i]);
    }
    if (!pools_holds(e, row, name, &c->from))
        return lend_nothing(b, row, name);
    if (take_space(e, row, c) < 0) {
        c->waits = true;
        return WAITS;
    }
    c->waits = false;
    c->job.name = name;
    c->done = 0;
    c->fd = open_pool(b, c->from.pool);
    return c->fd < 0 ? lend_nothing(b, row, name) : MORE;
}

/* The next piece. Its bytes, or -errno: -ENODATA: the pool was cut off; -ENOSPC: /dev/shm is full.
 */
static ssize_t copy_piece(struct copies *c, int to, size_t most)
{
    static uint8_t chunk[CHUNK];
    uint64_t offset = (uint64_t)c->from.offset * WIRE_SLOT_UNIT + c->done;
    size_t left = c->job.size - c->done;
    size_t size = left < most ? left : most;
    ssize_t n = pread(c->fd, chunk, size < CHUNK ? size : CHUNK, (off_t)offset);

    if (n <= 0)
        return n < 0 ? -errno : -ENODATA;
    n = pwrite(to, chunk, (size_t)n, (off_t)(c->job.offset + c->done));
    return n < 0 ? -errno : n;
}

static bool remember(struct copies *c)
{
    if (c->n == c->capacity) {
        uint32_t capacity = c->capacity == 0 ? 8 : 2 * c->capacity;
        struct copy *list = reallocarray(c->list, capacity, sizeof(*list));

        if (list == NULL)
            return false;
        c->list = list;
        c->capacity = capacity;
    }
    c->list[c->n++] = c->job;
    return true;
}

/* Up to `*budget` bytes of it. */
static enum outcome go_on(struct broker *b, uint16_t row, struct copies *c, size_t *budget)
{
    int to = b->peers[row].share.outbox.fd;

    while (c->done < c->job.size) {
        ssize_t n;

        if (*budget == 0)
            return MORE;
        n = copy_piece(c, to, *budget);
        if (n == -EINTR)
            continue;
        if (n == -ENOSPC) {
            log_limited(&b->memory_limit, b->engine.now, CONFIG_LOG_WARNING,
                        "/dev/shm is full: a payload for session %u cannot be copied", row);
            give_up_job(c);
            c->waits = true;
            return WAITS;
        }
        if (n < 0)
            return lend_nothing(b, row, c->job.name);
        c->done += (uint64_t)n;
        *budget -= (size_t)n;
    }
    if (!remember(c))
        return lend_nothing(b, row, c->job.name);
    lend(b, row, &c->job);
    end_job(c);
    return DONE;
}

/* What a session asks for. */
static enum outcome serve(struct broker *b, uint16_t row, size_t *budget)
{
    struct engine *e = &b->engine;
    struct peer *peer = &b->peers[row];
    uint64_t name = e->sessions[row].fetch;
    enum outcome outcome = MORE;

    if (engine_row(e, row)->state != ROW_LIVE || peer->share.outbox.base == NULL)
        return DONE;
    if (peer->copies == NULL) {
        peer->copies = copies_new(b, row);
        if (peer->copies == NULL)
            return lend_nothing(b, row, name);
        b->n_copying++;
    }
    if (peer->copies->job.name != name) {
        give_up_job(peer->copies);
        outcome = begin(b, row, peer->copies, name);
    }
    return outcome == MORE ? go_on(b, row, peer->copies, budget) : outcome;
}

/* ---- All of them ---- */

void copies_step(struct broker *b)
{
    struct rows *fetching = &b->engine.fetching;
    size_t budget = TURN_BYTES;
    uint32_t n = fetching->n;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < n; i++) {
        uint16_t row = fetching->rows[i];
        enum outcome outcome = budget > 0 ? serve(b, row, &budget) : MORE;

        if (outcome == DONE)
            b->engine.sessions[row].fetch = 0;
        else
            fetching->rows[kept++] = row;
    }
    fetching->n = kept;
    if (kept > 1) { /* another one begins the next turn */
        uint16_t first = fetching->rows[0];

        memmove(fetching->rows, fetching->rows + 1, (kept - 1) * sizeof(first));
        fetching->rows[kept - 1] = first;
    }
}

/* Of those who ask, is there one that waits for space, or one that does not? */
static bool any_asks(const struct broker *b, bool waiting)
{
    const struct rows *fetching = &b->engine.fetching;

    for (uint32_t i = 0; i < fetching->n; i++) {
        const struct copies *c = b->peers[fetching->rows[i]].copies;

        if ((c != NULL && c->waits) == waiting)
            return true;
    }
    return false;
}

bool copies_pending(const struct broker *b)
{
    return any_asks(b, false);
}

bool copies_wait(const struct broker *b)
{
    return any_asks(b, true);
}

void copies_tidy(struct broker *b)
{
    for (uint32_t i = 0; i < b->engine.n_rows && b->n_copying > 0; i++) {
        struct copies *c = b->peers[i].copies;
        const struct session *s = &b->engine.sessions[i];

        if (c == NULL || s->n_held > 0 || s->fetch != 0)
            continue;
        copies_free(b, (uint16_t)i);
        if (ftruncate(b->peers[i].share.outbox.fd, OUTBOX_COPIES) < 0)
            log_debug("session %u: its copies stay until it ends: %s", i, strerror(errno));
    }
}

void copies_forget(struct broker *b, uint16_t row)
{
    struct rows *fetching = &b->engine.fetching;
    uint32_t kept = 0;

    for (uint32_t i = 0; i < fetching->n; i++) {
        if (fetching->rows[i] != row)
            fetching->rows[kept++] = fetching->rows[i];
    }
    fetching->n = kept;
    b->engine.sessions[row].fetch = 0;
    copies_free(b, row);
}
