/* Guarded mappings of memory that clients own (rule S1). Floor 4.
 *
 * The owner of a segment can truncate it under every mapping, and who then reads there gets
 * SIGBUS. A fault inside a guarded mapping puts zeros in its place and marks it as broken; any
 * other SIGBUS is the fault that it always was. */
#ifndef MQBROKER_BROKER_GUARD_H
#define MQBROKER_BROKER_GUARD_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

struct guard {
    void *base; /* NULL: not mapped */
    size_t size;
    struct guard *volatile next;
    volatile sig_atomic_t broken; /* it reads as zeros now */
};

/* Take SIGBUS over; once, before the first guard_open(). 0 or -errno. */
int guard_init(void);

/* Map the first `size` bytes of a shared memory object read-only. It must be `owner`'s, a regular
 * file with one link, and at least so large. The guard must not move until it is closed. 0;
 * -ENOENT: there is none; -EINVAL: it is not that large yet; -EBADF: it is something else, or
 * another user's; or what open and mmap say. */
int guard_open(struct guard *g, const char *name, uid_t owner, size_t size);

/* Unmap. Fine on one that is zeroed, or was closed. */
void guard_close(struct guard *g);

/* Has any mapping broken since the last call? */
bool guard_tripped(void);

#endif
