/* The event loop over epoll.
 *
 * The danger of every such loop is the event that outlives its source. One epoll_wait fetches many
 * events; the callback of the first may remove the source of the second, free what it is embedded
 * in, and put another source in its place. So the kernel is not given a pointer but the number of a
 * slot and the slot's generation, which rises with every removal: an event whose generation is not
 * the slot's is of a source that is gone, and is passed over. Nothing has to be kept alive until
 * the end of a round, and a callback may do whatever it likes.
 *
 * Slots are reused through a list, newest first; adding and removing cost O(1) beside the system
 * call. */
#include "broker/loop.h"

#include <errno.h>
#include <limits.h>
#include <linux/time_types.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    ROUND = 64,        /* events fetched at once */
    FIRST_SLOTS = 16,  /* further ones double their number */
    NO_SLOT = INT_MAX, /* end of the list of free slots */
};

int loop_init(struct loop *loop)
{
    *loop = (struct loop){.free_slot = NO_SLOT};
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return loop->epoll_fd < 0 ? -errno : 0;
}

void loop_deinit(struct loop *loop)
{
    for (uint32_t i = 0; i < loop->n_slots; i++)
        if (loop->slots[i].source != NULL)
            loop->slots[i].source->fd = -1;
    free(loop->slots);
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    *loop = (struct loop){.epoll_fd = -1, .free_slot = NO_SLOT};
}

static void free_slot(struct loop *loop, uint32_t i)
{
    loop->slots[i].source = NULL;
    loop->slots[i].events = loop->free_slot;
    loop->free_slot = i;
}

static int grow(struct loop *loop)
{
    uint32_t n = loop->n_slots == 0 ? FIRST_SLOTS : loop->n_slots * 2;
    struct loop_slot *slots = reallocarray(loop->slots, n, sizeof(*slots));

    if (slots == NULL)
        return -ENOMEM;
    loop->slots = slots;
    for (uint32_t i = n; i > loop->n_slots; i--) {
        slots[i - 1].generation = 0;
        free_slot(loop, i - 1);
    }
    loop->n_slots = n;
    return 0;
}

static bool contains(const struct loop *loop, const struct loop_source *source)
{
    return source->fd >= 0 && source->slot < loop->n_slots &&
           loop->slots[source->slot].source == source;
}

/* Tell the kernel; `operation` is EPOLL_CTL_ADD or EPOLL_CTL_MOD. */
static int control(struct loop *loop, int operation, int fd, uint32_t slot, uint32_t events)
{
    struct epoll_event event = {
        .events = events,
        .data.u64 = (uint64_t)loop->slots[slot].generation << 32 | slot,
    };

    return epoll_ctl(loop->epoll_fd, operation, fd, &event) < 0 ? -errno : 0;
}

int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
             loop_callback callback)
{
    uint32_t slot;
    int r;

    if (contains(loop, source))
        return -EEXIST;
    if (loop->free_slot == NO_SLOT && (r = grow(loop)) < 0)
        return r;
    slot = loop->free_slot;
    r = control(loop, EPOLL_CTL_ADD, fd, slot, events);
    if (r < 0)
        return r;
    loop->free_slot = loop->slots[slot].events;
    loop->slots[slot].source = source;
    loop->slots[slot].events = events;
    *source = (struct loop_source){.fd = fd, .slot = slot, .callback = callback};
    return 0;
}

int loop_change(struct loop *loop, struct loop_source *source, uint32_t events)
{
    int r;

    if (!contains(loop, source))
        return -ENOENT;
    r = control(loop, EPOLL_CTL_MOD, source->fd, source->slot, events);
    if (r == 0)
        loop->slots[source->slot].events = events;
    return r;
}

void loop_remove(struct loop *loop, struct loop_source *source)
{
    if (contains(loop, source)) {
        /* Closing does this too, but only with the last copy of a descriptor: one that a child has
         * inherited would go on waking us. An error means that it was closed already. */
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, source->fd, NULL);
        loop->slots[source->slot].generation++;
        free_slot(loop, source->slot);
    }
    source->fd = -1;
}

static int wait_coarse(const struct loop *loop, struct epoll_event *events, uint64_t nanoseconds)
{
    /* Rounded up: who waits for a deadline must not come back before it and spin. */
    uint64_t milliseconds = nanoseconds / 1000000 + (nanoseconds % 1000000 != 0);
    int timeout = milliseconds > INT_MAX ? INT_MAX : (int)milliseconds;
    int n = epoll_wait(loop->epoll_fd, events, ROUND, nanoseconds == UINT64_MAX ? -1 : timeout);

    return n < 0 ? -errno : n;
}

/* epoll_pwait2 by its number, since C libraries learned it later than kernels. */
static int wait_fine(const struct loop *loop, struct epoll_event *events, uint64_t nanoseconds)
{
#ifdef SYS_epoll_pwait2
    struct __kernel_timespec timeout = {
        .tv_sec = (long long)(nanoseconds / 1000000000),
        .tv_nsec = (long long)(nanoseconds % 1000000000),
    };
    long n = syscall(SYS_epoll_pwait2, loop->epoll_fd, events, ROUND,
                     nanoseconds == UINT64_MAX ? NULL : &timeout, NULL, (size_t)0);

    return n < 0 ? -errno : (int)n;
#else
    (void)loop;
    (void)events;
    (void)nanoseconds;
    return -ENOSYS;
#endif
}

static int fetch(struct loop *loop, struct epoll_event *events, uint64_t nanoseconds)
{
    int n = loop->coarse ? -ENOSYS : wait_fine(loop, events, nanoseconds);

    /* Some sandboxes answer a call that they do not know with EPERM. */
    if (n == -ENOSYS || n == -EPERM) {
        loop->coarse = true;
        n = wait_coarse(loop, events, nanoseconds);
    }
    return n == -EINTR ? 0 : n;
}

/* True if the event was still wanted. */
static bool deliver(struct loop *loop, const struct epoll_event *event)
{
    const struct loop_slot *slot = &loop->slots[(uint32_t)event->data.u64];
    uint32_t events = event->events & (slot->events | EPOLLERR | EPOLLHUP);

    if (slot->source == NULL || slot->generation != event->data.u64 >> 32 || events == 0)
        return false;
    slot->source->callback(slot->source, events);
    return true;
}

int loop_wait(struct loop *loop, uint64_t nanoseconds)
{
    struct epoll_event events[ROUND];
    int n = fetch(loop, events, nanoseconds);
    int delivered = 0;

    for (int i = 0; i < n; i++)
        delivered += deliver(loop, &events[i]);
    return n < 0 ? n : delivered;
}
