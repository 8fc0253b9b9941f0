/* The event loop: epoll sources, signals, one deadline. Floor 1: it waits and calls back, it decides nothing.
 *
 * A source is embedded in what it belongs to; a callback may remove any source, also its own and those whose events of this round have
 * not been seen yet (they are then not called). */
#ifndef MQBROKER_BROKER_LOOP_H
#define MQBROKER_BROKER_LOOP_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct loop_source;
typedef void (*loop_callback)(struct loop_source *source, uint32_t events);

struct loop_source {
    int fd; /* -1: not in the loop */
    uint32_t slot;
    loop_callback callback;
};

struct loop {
    int epoll_fd;
    struct loop_source **sources; /* by slot, so that events of removed sources are recognised */
    uint32_t *generations;
    uint32_t n_slots;
    uint32_t free_slot;
};

#define LOOP_SOURCE_NONE ((struct loop_source){.fd = -1})

int loop_init(struct loop *loop);
void loop_deinit(struct loop *loop);

/* Watch `fd` for `events` (EPOLLIN, EPOLLOUT, EPOLLET). The descriptor stays the caller's. 0 or -errno. */
int loop_add(struct loop *loop, struct loop_source *source, int fd, uint32_t events,
             loop_callback callback);
int loop_change(struct loop *loop, struct loop_source *source, uint32_t events);
void loop_remove(struct loop *loop, struct loop_source *source); /* fine on one that is not in the loop */

/* Wait at most so many nanoseconds (UINT64_MAX: without end, 0: not at all), call back what is ready. Returns the number of events or -errno; -EINTR counts as 0. */
int loop_wait(struct loop *loop, uint64_t nanoseconds);

#endif
