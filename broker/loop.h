/* The event loop: epoll sources and one deadline; signals come by a signalfd, a source like any
 * other. Floor 1: it waits and calls back, it decides nothing.
 *
 * A source is embedded in what it belongs to; a callback may remove any source, also its own and
 * those whose events of this round have not been seen yet (they are then not called). */
#ifndef MQBROKER_BROKER_LOOP_H
#define MQBROKER_BROKER_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct loop_source;
typedef void (*loop_callback)(struct loop_source *source, uint32_t events);

struct loop_source {
    int fd; /* -1: not in the loop */
    uint32_t slot;
    loop_callback callback;
};

/* A place for a source. Its number and generation travel in the kernel's event, so that events of
 * removed sources are recognised. */
struct loop_slot {
    struct loop_source *source; /* NULL: free */
    uint32_t generation;        /* rises with every removal */
    uint32_t events;            /* what is watched; of a free slot: the next free one */
};

struct loop {
    int epoll_fd;
    struct loop_slot *slots;
    uint32_t n_slots;
    uint32_t free_slot;
    bool coarse; /* no epoll_pwait2 (kernels before 5.11): waits are rounded up to milliseconds */
};

#define LOOP_SOURCE_NONE ((struct loop_source){.fd = -1})

/* 0 or -errno. Deinit is fine twice; sources and their descriptors stay their owners'. */
int loop_init(struct loop *loop);
void loop_deinit(struct loop *loop);

/* Watch `fd` for `events` (EPOLLIN, EPOLLOUT, EPOLLET). The descriptor stays the caller's, who
 * removes the source before closing it. The source must not move while it is in the loop. EPOLLERR
 * and EPOLLHUP are always reported. Returns 0 or -errno (-EEXIST: that descriptor, or this source,
 * is in the loop). */
int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
             loop_callback callback);

/* Watch for other events from now on. What was seen before, but is not wanted any more, is not
 * delivered. 0 or -errno. */
int loop_change(struct loop *loop, struct loop_source *source, uint32_t events);

/* No callback comes after this. Fine on a source that is not in the loop. */
void loop_remove(struct loop *loop, struct loop_source *source);

/* Wait at most so many nanoseconds (UINT64_MAX: without end, 0: not at all), call back what is
 * ready. Returns the number of events or -errno; -EINTR counts as 0. */
int loop_wait(struct loop *loop, uint64_t nanoseconds);

#endif
