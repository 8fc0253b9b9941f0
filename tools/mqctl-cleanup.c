/* mqctl cleanup: remove what a broker left that was killed and will not be started again. (One that
 * is started again takes it all over, and nobody notices: that is the better way.)
 *
 * Whether a broker lives is not guessed: it holds a lock on its ledger, and while the lock is ours,
 * none can start. The ledger goes last, so that who is interrupted can begin again. */
#include "tools/mqctl.h"

#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libclient/board.h"
#include "libclient/names.h"
#include "libclient/process.h"
#include "libclient/queue.h"
#include "libclient/segment.h"
#include "libclient/wire.h"
#include "tools/options.h"
#include "tools/snapshot.h"

enum { KEY_DRY_RUN = OPTIONS_KEY_LONG, KEY_FORCE };

static const struct options_entry entries[] = {
    {KEY_DRY_RUN, "dry-run", NULL, "only say what would be removed"},
    {KEY_FORCE, "force", NULL, "also when clients still wait for that broker"},
    {0},
};

static const struct options_program program = {
    .name = "mqctl cleanup",
    .usage = "[--dry-run] [--force] [--instance NAME]",
    .purpose = "Remove the queues and the shared memory that a dead broker left, and its\n"
               "clients' for large messages, with all that is in them. A broker that is started "
               "again takes them over instead, and\n"
               "loses nothing.",
    .entries = entries,
    .more = "Exit status: 0 nothing is left, 1 error (such as: the broker lives), 2 wrong\n"
            "usage.",
};

struct cleanup {
    const char *instance;
    bool dry_run, force;
    struct segment ledger; /* locked by us, if there is one */
    struct segment board;
    struct snapshot snapshot; /* of the board, if there is one that we know */
    unsigned removed;
    unsigned failed;
};

/* The broker that holds the instance lives. */
static _Noreturn void refuse_living(const struct cleanup *c)
{
    if (c->snapshot.pid != 0)
        errx(EXIT_FAILURE,
             "%s: its broker runs (pid %u): stop it first (kill %u), which removes all of it",
             c->instance, c->snapshot.pid, c->snapshot.pid);
    errx(EXIT_FAILURE, "%s: its broker runs: stop it first, which removes all of it", c->instance);
}

/* Make sure that no broker lives, and that none can start. A broker that starts at this moment may
 * have removed the ledger that we opened: then it is opened anew. */
static void lock_ledger(struct cleanup *c)
{
    char name[NAMES_MAX];

    names_ledger(name, c->instance);
    for (;;) {
        struct segment again;
        bool same;
        int r = segment_open(&c->ledger, name, 0);

        if (r == -ENOENT)
            break;
        if (r < 0)
            errx(EXIT_FAILURE, "%s: its ledger: %s", c->instance, strerror(-r));
        if (flock(c->ledger.fd, LOCK_EX | LOCK_NB) < 0)
            refuse_living(c);
        if (segment_open(&again, name, 0) < 0)
            again = SEGMENT_CLOSED;
        same = again.inode == c->ledger.inode;
        segment_close(&again);
        if (same)
            return;
        segment_close(&c->ledger);
    }
    if (c->snapshot.pid != 0 && process_alive(c->snapshot.pid, c->snapshot.pid_start))
        refuse_living(c);
}

static void read_board(struct cleanup *c)
{
    char name[NAMES_MAX];
    int r, outcome;

    names_board(name, c->instance);
    r = segment_open(&c->board, name, 1);
    if (r == -ENOENT)
        return;
    if (r < 0) {
        warnx("%s: its board: %s; queues are looked for without it", c->instance, strerror(-r));
        return;
    }
    outcome = board_check(c->board.base, c->board.size);
    if (outcome != BOARD_OK) {
        warnx("%s: its board is %s; queues are looked for without it", c->instance,
              outcome == BOARD_E_LAYOUT ? "of another version" : "damaged");
        segment_close(&c->board);
    } else if (snapshot_take(&c->snapshot, c->board.base) < 0) {
        err(EXIT_FAILURE, "memory");
    }
}

/* What the broker would have told it: the last batch of a session, for which a slot of each reply
 * queue is kept free. No broker sends to this queue any more, so any number above all of its
 * numbers does. */
static void tell_stopped(const struct cleanup *c, const struct snapshot_client *client)
{
    uint8_t batch[WIRE_BATCH_SIZE + WIRE_HEAD_SIZE];
    char name[NAMES_MAX];
    struct queue q;

    names_reply_queue(name, c->instance, client->info.nonce);
    if (queue_open(&q, name, O_WRONLY | O_NONBLOCK) < 0)
        return;
    wire_put_batch(batch, (uint16_t)client->session, 0, UINT64_MAX, client->words.grant,
                   client->words.missed, sizeof batch);
    wire_put_end(batch + WIRE_BATCH_SIZE, WIRE_STOPPED, WIRE_C_STOPPING);
    queue_send(&q, batch, sizeof batch, 0);
    queue_close(&q);
}

/* Clients whose process lives wait for their broker to be started again: that is refused, or they
 * are told that it has stopped. */
static void look_after_clients(struct cleanup *c)
{
    unsigned n = 0;
    uint32_t one = 0;

    for (size_t i = 0; i < c->snapshot.n_clients; i++) {
        const struct snapshot_client *client = &c->snapshot.clients[i];

        if (!process_alive(client->info.pid, 0))
            continue;
        n++;
        one = client->info.pid;
        if (c->force && !c->dry_run)
            tell_stopped(c, client);
    }
    if (n == 0)
        return;
    if (!c->force && !c->dry_run)
        errx(EXIT_FAILURE,
             "%s: %u client%s still wait%s for that broker (pid %u%s): start it again, or end "
             "them, or "
             "use --force",
             c->instance, n, n == 1 ? "" : "s", n == 1 ? "s" : "", one, n == 1 ? "" : " …");
    warnx("%s: %u client%s still wait%s for that broker", c->instance, n, n == 1 ? "" : "s",
          n == 1 ? "s" : "");
}

/* Who still maps the board looks at its state. */
static void mark_stopped(const struct cleanup *c)
{
    struct board_header *board = c->board.base;

    if (board != NULL && !c->dry_run)
        atomic_store_explicit(&board->state, BOARD_STOPPED, memory_order_release);
}

/* A kind of object: how it is removed, and how one learns whether there is one (what may not be
 * opened is there). */
struct kind {
    const char *name;
    int (*unlink)(const char *name);
    bool (*exists)(const char *name);
};

static bool queue_exists(const char *name)
{
    mqd_t mqd = mq_open(name, O_RDONLY | O_NONBLOCK);

    if (mqd != (mqd_t)-1)
        mq_close(mqd);
    return mqd != (mqd_t)-1 || errno != ENOENT;
}

static bool segment_exists(const char *name)
{
    int fd = shm_open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);

    if (fd >= 0)
        close(fd);
    return fd >= 0 || errno != ENOENT;
}

static const struct kind queues = {"queue", mq_unlink, queue_exists};
static const struct kind segments = {"shared memory", shm_unlink, segment_exists};

static void remove_one(struct cleanup *c, const struct kind *kind, const char *name)
{
    if (c->dry_run) {
        if (!kind->exists(name))
            return;
        printf("would remove %s %s\n", kind->name, name);
    } else if (kind->unlink(name) < 0) {
        if (errno == ENOENT)
            return;
        warn("%s %s", kind->name, name);
        c->failed++;
        return;
    } else {
        printf("removed %s %s\n", kind->name, name);
    }
    c->removed++;
}

/* Is this file name that of an object of a session of the instance: the instance's, a dot, a nonce
 * in 16 hexadecimal digits, and `suffix`. */
static bool is_of_session(const char *file, const char *instance, const char *suffix)
{
    char name[NAMES_MAX];
    size_t lead;

    names_request_queue(name, instance);
    lead = strlen(name + 1);
    return strncmp(file, name + 1, lead) == 0 && file[lead] == '.' &&
           strspn(file + lead + 1, "0123456789abcdef") == 16 &&
           strcmp(file + lead + 1 + 16, suffix) == 0;
}

/* Is it a reply queue that the board names? */
static bool on_board(const struct snapshot *snapshot, const char *file, const char *instance)
{
    char name[NAMES_MAX];

    for (size_t i = 0; i < snapshot->n_clients; i++) {
        names_reply_queue(name, instance, snapshot->clients[i].info.nonce);
        if (strcmp(name + 1, file) == 0)
            return true;
    }
    return false;
}

/* Remove what a folder of the system shows of the instance's sessions, and the board does not name:
 * objects whose names end so, or with `tail` taken off. */
static void remove_listed(struct cleanup *c, const char *path, const struct kind *kind,
                          const char *suffix, const char *tail)
{
    DIR *folder = opendir(path);
    struct dirent *entry;

    while (folder != NULL && (entry = readdir(folder)) != NULL) {
        char name[NAMES_MAX];
        size_t size = strlen(entry->d_name);

        if (!is_of_session(entry->d_name, c->instance, suffix))
            continue;
        snprintf(name, sizeof name, "/%.*s", (int)(size - strlen(tail)), entry->d_name);
        if (!on_board(&c->snapshot, name + 1, c->instance))
            remove_one(c, kind, name);
    }
    if (folder != NULL)
        closedir(folder);
}

/* The board names the queues. One that it does not name is found where the queues can be listed,
 * and by the outbox of its session. */
static void remove_reply_queues(struct cleanup *c)
{
    char name[NAMES_MAX];

    for (size_t i = 0; i < c->snapshot.n_clients; i++) {
        names_reply_queue(name, c->instance, c->snapshot.clients[i].info.nonce);
        remove_one(c, &queues, name);
    }
    remove_listed(c, "/dev/mqueue", &queues, "", "");
    remove_listed(c, "/dev/shm", &queues, ".outbox", ".outbox");
}

static void remove_all(struct cleanup *c)
{
    char name[NAMES_MAX];

    remove_reply_queues(c);
    remove_listed(c, "/dev/shm", &segments, ".outbox", "");
    remove_listed(c, "/dev/shm", &segments, ".pool", "");
    names_request_queue(name, c->instance);
    remove_one(c, &queues, name);
    names_urgent_queue(name, c->instance);
    remove_one(c, &queues, name);
    names_store(name, c->instance);
    remove_one(c, &segments, name);
    names_board(name, c->instance);
    remove_one(c, &segments, name);
    names_draft(name, c->instance);
    remove_one(c, &segments, name);
    if (c->failed == 0) { /* while something is left, the lock has its use */
        names_ledger(name, c->instance);
        remove_one(c, &segments, name);
    }
}

static uint64_t n_waiting(const struct snapshot *snapshot)
{
    uint64_t n = 0;

    for (size_t i = 0; i < snapshot->n_clients; i++)
        n += snapshot->clients[i].words.waiting;
    return n;
}

int mqctl_cleanup(int argc, char **argv)
{
    struct cleanup c = {.ledger = SEGMENT_CLOSED, .board = SEGMENT_CLOSED};
    struct options options;
    uint64_t waiting;

    options_begin(&options, &program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;) {
        c.dry_run |= key == KEY_DRY_RUN;
        c.force |= key == KEY_FORCE;
    }
    options_no_rest(&options);
    c.instance = options_instance(&options);
    read_board(&c);
    lock_ledger(&c);
    look_after_clients(&c);
    mark_stopped(&c);
    remove_all(&c);
    waiting = n_waiting(&c.snapshot);
    if (c.removed == 0 && c.failed == 0)
        printf("nothing is left of %s\n", c.instance);
    if (c.removed > 0 && waiting > 0 && !c.dry_run)
        printf("%llu deliveries that waited went with it\n", (unsigned long long)waiting);
    snapshot_deinit(&c.snapshot);
    segment_close(&c.board);
    segment_close(&c.ledger);
    return c.failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
