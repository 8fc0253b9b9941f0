/* The segments of an instance, from the lock to their removal.
 *
 * The ledger comes first and goes last, because its lock is what makes a broker the only one. A
 * name can be removed between opening and locking it, so after the lock its inode is compared with
 * a fresh look (K8). */
#include "broker/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/log.h"
#include "libclient/names.h"
#include "libclient/process.h"
#include "libclient/queue.h"

enum { MEGABYTE = 1 << 20, TRIES = 8 };

/* ---- The lock ---- */

/* Does the name still lead to what is open? */
static bool is_current(const char *name, const struct segment *s)
{
    struct stat st;
    int fd = shm_open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
    bool same = fd >= 0 && fstat(fd, &st) == 0 && st.st_ino == s->inode;

    if (fd >= 0)
        close(fd);
    return same;
}

/* Who holds the instance, for the one who comes second. */
static void say_held(const struct memory *m)
{
    char name[NAMES_MAX];
    struct segment board = SEGMENT_CLOSED;
    uint32_t pid = 0;

    names_board(name, m->instance);
    if (segment_open(&board, name, false) == 0 && board_check(board.base, board.size) == BOARD_OK)
        pid = atomic_load_explicit(&((struct board_header *)board.base)->pid, memory_order_relaxed);
    segment_close(&board);
    if (pid != 0)
        log_error("instance \"%s\" is held by another mqbroker, pid %" PRIu32
                  ": stop that one, or choose another name with --instance",
                  m->instance, pid);
    else
        log_error("instance \"%s\" is held by another mqbroker that is just starting: stop that "
                  "one, or choose another name with --instance",
                  m->instance);
}

/* `owner` (uid_t)-1: another user, who does not let us look. */
static int check_owner(const char *name, uid_t owner)
{
    char user[32] = "another user";

    if (owner == geteuid())
        return 0;
    if (owner != (uid_t)-1)
        snprintf(user, sizeof(user), "user %u", (unsigned)owner);
    log_error("%s belongs to %s, not to the broker's user %u: remove it, or choose another name "
              "with --instance",
              name, user, (unsigned)geteuid());
    return -EACCES;
}

static int lock(struct memory *m, const char *name)
{
    if (flock(m->ledger.fd, LOCK_EX | LOCK_NB) < 0) {
        int error = -errno;

        if (error == -EWOULDBLOCK) {
            say_held(m);
            return -EBUSY;
        }
        log_error("cannot lock %s: %s", name, strerror(-error));
        return error;
    }
    return is_current(name, &m->ledger) ? 0 : -EAGAIN;
}

/* A ledger without a byte: its broker died while it made it, or is just making it. In the first
 * case nobody holds its lock. If it is not ours, somebody else took the name. */
static int remove_unborn(const char *name)
{
    int fd = shm_open(name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0);
    struct stat st;
    int r = -EAGAIN;

    if (fd >= 0 && fstat(fd, &st) == 0 && st.st_uid != geteuid())
        r = -EACCES;
    else if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        shm_unlink(name);
    if (fd >= 0)
        close(fd);
    return r;
}

static size_t wanted_size(const struct config *config)
{
    return ledger_size((uint32_t)config->max_clients, (uint32_t)config->max_groups);
}

/* Open the ledger or create it, and lock it. */
static int open_ledger(struct memory *m, const struct config *config)
{
    char name[NAMES_MAX];
    int r = -EAGAIN;

    names_ledger(name, m->instance);
    for (int i = 0; i < TRIES && r == -EAGAIN; i++) {
        r = segment_open(&m->ledger, name, true);
        if (r == -ENOENT)
            r = segment_create(&m->ledger, name, wanted_size(config), 0600);
        if (r == -EEXIST)
            r = -EAGAIN;
        else if (r == -EINVAL)
            r = remove_unborn(name);
        if (r == -EACCES || (r == 0 && m->ledger.owner != geteuid())) {
            r = check_owner(name, r == 0 ? m->ledger.owner : (uid_t)-1);
        } else if (r == 0) {
            r = lock(m, name);
        } else if (r != -EAGAIN) {
            log_error("cannot open %s: %s", name, strerror(-r));
        }
        if (r < 0)
            segment_close(&m->ledger);
    }
    if (r == -EAGAIN)
        log_error("%s is being made and removed by others: try again", name);
    return r;
}

/* ---- Fresh segments ---- */

/* Create a segment. One of our own that stands in the way is left of a broker whose ledger is gone,
 * or that died while it made it: it goes. */
static int create_segment(struct segment *s, const char *name, size_t size, size_t allocate)
{
    int r = segment_create(s, name, size, 0600);

    if (r == -EEXIST) {
        uid_t owner = geteuid();

        segment_owner(name, &owner);
        r = check_owner(name, owner);
        if (r < 0)
            return r;
        shm_unlink(name);
        r = segment_create(s, name, size, 0600);
    }
    if (r == 0 && allocate > 0)
        r = segment_allocate(s, 0, allocate);
    if (r == -ENOSPC)
        log_error("no room for %s: /dev/shm is full, %zu bytes are needed; make room there, or "
                  "mount it larger",
                  name, allocate);
    else if (r < 0)
        log_error("cannot create %s: %s", name, strerror(-r));
    return r;
}

static uint32_t least(uint32_t a, size_t b)
{
    return a < b ? a : (uint32_t)b;
}

/* Memory for the places of so many references, from this one on. */
static int allocate_places(struct memory *m, uint32_t first, size_t n)
{
    const struct ledger_header *h = &memory_ledger(m)->header;

    return segment_allocate(
        &m->store, store_places_offset(h->n_references, h->n_cells) + first * sizeof(uint32_t),
        least((uint32_t)n, h->n_references - first) * sizeof(uint32_t));
}

static int create_store(struct memory *m, const struct config *config)
{
    struct ledger_header *h = &memory_ledger(m)->header;
    uint32_t n_references = (uint32_t)config->references;
    uint32_t n_cells = (uint32_t)(config->store_size / WIRE_CELL_SIZE);
    char name[NAMES_MAX];
    int r;

    names_store(name, m->instance);
    r = create_segment(&m->store, name, store_size(n_references, n_cells), 0);
    *h = (struct ledger_header){
        .layout = PERSIST_LAYOUT,
        .n_rows = (uint32_t)config->max_clients,
        .state = LEDGER_RUNNING,
        .n_references = n_references,
        .n_cells = n_cells,
        .committed = 1,
        .pool_max = (uint64_t)config->pool_max,
        .n_groups = (uint32_t)config->max_groups,
    };
    if (r < 0)
        return r;
    r = segment_allocate(&m->store, 0, MEGABYTE);
    if (r == 0)
        r = segment_allocate(&m->store, store_cells_offset(n_references), MEGABYTE);
    if (r == 0)
        r = allocate_places(m, 0, MEGABYTE / sizeof(struct reference));
    h->references_allocated = least(n_references, MEGABYTE / sizeof(struct reference));
    h->cells_allocated = least(n_cells, MEGABYTE / sizeof(struct cell));
    if (r < 0)
        log_error("no room for the store in /dev/shm: %s", strerror(-r));
    return r;
}

/* Made under another name and then renamed: a client finds a whole board or none. */
static int create_board(struct memory *m, const struct config *config, const struct plan *plan)
{
    uint32_t n_rows = memory_ledger(m)->header.n_rows;
    uint32_t n_topics = (uint32_t)config->topic_rows;
    uint32_t n_groups = memory_ledger(m)->header.n_groups;
    size_t size = board_size(n_rows, n_topics, n_groups);
    char draft[NAMES_MAX], name[NAMES_MAX];
    int r;

    names_draft(draft, m->instance);
    names_board(name, m->instance);
    r = create_segment(&m->board, draft, size, size);
    if (r < 0)
        return r;
    board_format(m->board.base, size, n_rows, n_topics, n_groups);
    memory_board(m)->frame_max = plan->frame_max;
    r = segment_rename(draft, name);
    if (r < 0) {
        log_error("cannot create %s: %s; it may belong to another user: remove it, or choose "
                  "another name with --instance",
                  name, strerror(-r));
        shm_unlink(draft);
    }
    return r;
}

static int create_all(struct memory *m, const struct config *config, const struct plan *plan)
{
    int r = segment_allocate(&m->ledger, 0, m->ledger.size);

    if (r < 0)
        log_error("no room for the ledger in /dev/shm: %s", strerror(-r));
    if (r == 0)
        r = create_store(m, config);
    if (r == 0)
        r = create_board(m, config, plan);
    if (r == 0) /* from here on it can be adopted */
        persist_u32(&memory_ledger(m)->header.magic, PERSIST_MAGIC);
    else
        memory_remove(m);
    return r;
}

/* ---- Adoption ---- */

static bool is_whole(const struct ledger_header *h, size_t size)
{
    return h->n_rows > 0 && h->n_rows < WIRE_NO_SESSION &&
           h->n_groups < (WIRE_NO_SESSION - h->n_rows) / 2 &&
           ledger_size(h->n_rows, h->n_groups) == size && h->n_references <= STORE_SLOTS_MAX &&
           h->references_allocated <= h->n_references && h->cells_allocated <= h->n_cells;
}

static int open_board(struct memory *m)
{
    char name[NAMES_MAX];
    int r;

    names_board(name, m->instance);
    r = segment_open(&m->board, name, true);
    if (r == 0 && m->board.owner == geteuid() &&
        board_check(m->board.base, m->board.size) == BOARD_OK &&
        memory_board(m)->n_rows == memory_ledger(m)->header.n_rows)
        return 0;
    segment_close(&m->board);
    log_error("instance \"%s\" has a ledger, but its board %s: remove both with mqctl cleanup",
              m->instance, r == -ENOENT ? "is gone" : "is of another layout");
    return -EPROTO;
}

static int open_store(struct memory *m)
{
    const struct ledger_header *h = &memory_ledger(m)->header;
    char name[NAMES_MAX];
    int r;

    names_store(name, m->instance);
    r = segment_open(&m->store, name, true);
    if (r == 0 && m->store.owner == geteuid() &&
        m->store.size == store_size(h->n_references, h->n_cells))
        return 0;
    segment_close(&m->store);
    log_error("instance \"%s\" has a ledger, but its store %s: remove both with mqctl cleanup",
              m->instance, r == -ENOENT ? "is gone" : "is not the one that was made");
    return -EPROTO;
}

static void say_kept(const char *key, int64_t wanted, int64_t kept)
{
    if (wanted != kept)
        log_warning("%s stays %" PRId64 " until the next clean stop: the memory of the broker "
                    "before is taken over as it is",
                    key, kept);
}

static int adopt_all(struct memory *m, const struct config *config)
{
    const struct ledger_header *h = &memory_ledger(m)->header;
    int r;

    if (h->layout != PERSIST_LAYOUT || !is_whole(h, m->ledger.size)) {
        log_error("what another broker left of instance \"%s\" has layout %" PRIu32
                  ", this one knows %d: start that version, or remove it with mqctl cleanup",
                  m->instance, h->layout, PERSIST_LAYOUT);
        return -EPROTO;
    }
    r = open_store(m);
    if (r == 0)
        r = open_board(m);
    if (r < 0)
        return r;
    m->adopted = true;
    say_kept("max_clients", config->max_clients, h->n_rows);
    say_kept("max_groups", config->max_groups, h->n_groups);
    say_kept("max_groups", config->max_groups, h->n_groups);
    say_kept("references", config->references, h->n_references);
    say_kept("topic_rows", config->topic_rows, memory_board(m)->n_topics);
    say_kept("pool_max", config->pool_max, (int64_t)h->pool_max);
    say_kept("store_size", config->store_size, (int64_t)h->n_cells * WIRE_CELL_SIZE);
    return 0;
}

void memory_remove_sessions(const struct memory *m)
{
    const struct ledger *ledger = memory_ledger(m);
    char name[NAMES_MAX];

    for (uint32_t i = 0; i < ledger->header.n_rows; i++) {
        if (ledger->rows[i].state == ROW_FREE)
            continue;
        names_reply_queue(name, m->instance, ledger->rows[i].nonce);
        mq_unlink(name);
        names_outbox(name, m->instance, ledger->rows[i].nonce);
        shm_unlink(name);
    }
    for (uint32_t i = 0; i < ledger_n_pools(ledger->header.n_rows); i++) {
        if (ledger_pools(ledger)[i] == 0)
            continue;
        names_pool(name, m->instance, ledger_pools(ledger)[i]);
        shm_unlink(name);
    }
}

/* A clean stop was cut off: take away what it left (K9). */
static void finish_removal(struct memory *m)
{
    const struct ledger_header *h = &memory_ledger(m)->header;
    char name[NAMES_MAX];

    if (h->layout == PERSIST_LAYOUT && is_whole(h, m->ledger.size))
        memory_remove_sessions(m);
    names_request_queue(name, m->instance);
    mq_unlink(name);
    names_urgent_queue(name, m->instance);
    mq_unlink(name);
    memory_remove(m);
    memory_close(m);
}

/* ---- The verbs ---- */

/* The landing must be resident: what the kernel cannot copy is gone (K4). It was allocated; locked
 * it stays. */
static void pin_landing(struct memory *m)
{
    struct landing *landing = &memory_ledger(m)->landing;

    if (mlock(landing, sizeof(*landing)) < 0)
        log_warning("the landing (%zu bytes) cannot be locked into memory: %s; without swap space "
                    "this makes no difference, otherwise raise RLIMIT_MEMLOCK",
                    sizeof(*landing), strerror(errno));
}

/* Is there something to adopt, or to remove? The magic was written when all was made. */
static bool is_left(const struct memory *m)
{
    return m->ledger.size >= sizeof(struct ledger) &&
           memory_ledger(m)->header.magic == PERSIST_MAGIC;
}

int memory_open(struct memory *m, const char *instance, const struct config *config,
                const struct plan *plan)
{
    int r;

    *m = (struct memory){.instance = instance,
                         .ledger = SEGMENT_CLOSED,
                         .store = SEGMENT_CLOSED,
                         .board = SEGMENT_CLOSED};
    r = open_ledger(m, config);
    if (r == 0 && is_left(m) && memory_ledger(m)->header.state == LEDGER_STOPPING) {
        finish_removal(m);
        r = open_ledger(m, config);
    } else if (r == 0 && !is_left(m) && m->ledger.size != wanted_size(config)) {
        memory_remove(
            m); /* its broker died while it made it, for other numbers of clients or groups */
        memory_close(m);
        r = open_ledger(m, config);
    }
    if (r == 0)
        r = is_left(m) ? adopt_all(m, config) : create_all(m, config, plan);
    if (r < 0) {
        memory_close(m);
        return r;
    }
    pin_landing(m);
    return 0;
}

/* Put memory behind the next megabyte of one kind of slots, which begin at `offset` and are `size`
 * bytes each. */
static int grow(struct memory *m, struct store_pool *pool, uint32_t *allocated, size_t offset,
                size_t size)
{
    uint32_t more = (uint32_t)(MEGABYTE / size);
    uint32_t n = pool->max - pool->allocated < more ? pool->max - pool->allocated : more;
    int r = segment_allocate(&m->store, offset + pool->allocated * size, n * size);

    if (r < 0)
        return r;
    pool->allocated += n;
    persist_u32(allocated, pool->allocated);
    board_add(&memory_board(m)->store_allocated, n * size);
    return 0;
}

int memory_grow(struct memory *m, struct engine *e)
{
    struct ledger_header *h = &memory_ledger(m)->header;
    int r = 0;

    while (r == 0 && engine_wants_references(e)) {
        r = allocate_places(m, h->references_allocated, MEGABYTE / sizeof(struct reference));
        if (r == 0)
            r = grow(m, &e->store.reference_pool, &h->references_allocated, 0,
                     sizeof(struct reference));
    }
    while (r == 0 && engine_wants_cells(e))
        r = grow(m, &e->store.cell_pool, &h->cells_allocated, store_cells_offset(h->n_references),
                 sizeof(struct cell));
    return r;
}

void memory_remove(struct memory *m)
{
    char name[NAMES_MAX];

    names_board(name, m->instance);
    shm_unlink(name);
    names_draft(name, m->instance);
    shm_unlink(name);
    names_store(name, m->instance);
    shm_unlink(name);
    names_ledger(name, m->instance);
    shm_unlink(name);
}

void memory_close(struct memory *m)
{
    segment_close(&m->board);
    segment_close(&m->store);
    segment_close(&m->ledger);
}
