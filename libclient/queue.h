/* A POSIX message queue: one descriptor, and what there is to know of it. Floor 1: system calls, no
 * decisions.
 *
 * All functions return 0 (or a count) or -errno. Descriptors are close-on-exec. Interrupted calls
 * are taken up again. */
#ifndef MQBROKER_LIBCLIENT_QUEUE_H
#define MQBROKER_LIBCLIENT_QUEUE_H

#include <mqueue.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct queue {
    mqd_t mqd;      /* -1: closed */
    uint32_t depth; /* messages it holds */
    uint32_t width; /* bytes of its largest message */
    uint64_t inode;
    uid_t owner;
};

#define QUEUE_CLOSED ((struct queue){.mqd = (mqd_t)-1})

/* What RLIMIT_MSGQUEUE is charged for a queue, in bytes: the kernel's formula. */
static inline uint64_t queue_bytes(uint32_t depth, uint32_t width)
{
    return (uint64_t)depth * (width + 96u);
}

/* Create a queue that does not exist yet (O_EXCL), for both directions, non-blocking, with exactly
 * this mode (umask does not count). -EEXIST: the name is taken. -EMFILE: RLIMIT_MSGQUEUE. -ENOSPC:
 * fs.mqueue.queues_max. -EINVAL: depth or width over the limits of fs.mqueue. */
int queue_create(struct queue *q, const char *name, uint32_t depth, uint32_t width, mode_t mode);

/* Open an existing queue; `flags` is O_RDONLY, O_WRONLY or O_RDWR, with O_NONBLOCK or without.
 * -ENOENT: there is none. */
int queue_open(struct queue *q, const char *name, int flags);

/* Close the descriptor; the queue stays. Fine on a closed one. */
void queue_close(struct queue *q);

/* Messages standing in the queue now, or -errno. */
int queue_standing(const struct queue *q);

/* Receive one message into `buffer` of at least q->width bytes. Returns its size and, if `priority`
 * is not NULL, its kernel priority. -EAGAIN: none (on a non-blocking descriptor). */
ssize_t queue_receive(const struct queue *q, void *buffer, size_t size, unsigned *priority);

/* Send one message. On a non-blocking descriptor -EAGAIN: full. */
int queue_send(const struct queue *q, const void *bytes, size_t size, unsigned priority);

/* Send on a blocking descriptor, but do not wait. -EAGAIN: full. */
int queue_try_send(const struct queue *q, const void *bytes, size_t size, unsigned priority);

/* Send on a blocking descriptor, waiting at most so many milliseconds (a clock that is stepped may
 * change the wait: the kernel counts on CLOCK_REALTIME, so waits are cut into slices by the
 * caller). -EAGAIN: still full. -EINTR is returned, not hidden. */
int queue_send_within(const struct queue *q, const void *bytes, size_t size, unsigned priority,
                      int milliseconds);

#endif
