/* Guarded mappings.
 *
 * The handler runs in the middle of the engine, which has read a word of a client's pool. It maps a
 * page range of zeros over the whole mapping and returns: the read is tried again and finds zeros,
 * the engine goes on, and the shell ends the session after the turn. Nothing but that one session
 * notices. mmap() and memory of our own are all that the
 * handler uses.
 *
 * The list of mappings is the process's, because a signal is; the broker has one thread, and the
 * list is changed with stores that are in order for a handler on that thread. */
#include "broker/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct guard *volatile guards;
static volatile sig_atomic_t tripped;
static struct sigaction before;

static struct guard *find(const void *address)
{
    for (struct guard *g = guards; g != NULL; g = g->next) {
        if ((uintptr_t)address - (uintptr_t)g->base < g->size)
            return g;
    }
    return NULL;
}

static void on_bus_error(int signal, siginfo_t *info, void *context)
{
    int error = errno;
    struct guard *g = find(info->si_addr);

    (void)context;
    if (g == NULL || mmap(g->base, g->size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                          0) == MAP_FAILED) {
        sigaction(signal, &before, NULL); /* the fault comes again, and finds what was there */
        return;
    }
    g->broken = 1;
    tripped = 1;
    errno = error;
}

int guard_init(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_NODEFER};

    sigemptyset(&action.sa_mask);
    return sigaction(SIGBUS, &action, &before) < 0 ? -errno : 0;
}

/* What was opened is looked at before it is believed. */
static int map(struct guard *g, int fd, uid_t owner, size_t size)
{
    struct stat status;
    void *base;

    if (fstat(fd, &status) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode) || status.st_nlink != 1 || status.st_uid != owner)
        return -EBADF;
    if (status.st_size < 0 || (uint64_t)status.st_size < size)
        return -EINVAL;
    base = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    *g = (struct guard){.base = base, .size = size, .next = guards};
    atomic_signal_fence(memory_order_seq_cst);
    guards = g;
    return 0;
}

int guard_open(struct guard *g, const char *name, uid_t owner, size_t size)
{
    int fd = shm_open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
    int r;

    *g = (struct guard){0};
    if (fd < 0)
        return -errno;
    r = map(g, fd, owner, size);
    close(fd);
    return r;
}

void guard_close(struct guard *g)
{
    struct guard *volatile *link = &guards;

    if (g->base == NULL)
        return;
    while (*link != g)
        link = &(*link)->next;
    *link = g->next;
    atomic_signal_fence(memory_order_seq_cst);
    munmap(g->base, g->size);
    *g = (struct guard){0};
}

bool guard_tripped(void)
{
    bool any = tripped != 0;

    tripped = 0;
    return any;
}
