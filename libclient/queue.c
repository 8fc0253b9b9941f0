/* A POSIX message queue.
 *
 * The kernel lets blocking and polling senders wait on one queue, but a slot that becomes free goes
 * to the blocked one and the other is not told (kernel-facts, "Order and waking"). So the broker
 * sends to reply queues on non-blocking descriptors only, and clients to request queues on blocking
 * ones only; queue_try_send() is the look without waiting for the latter: a deadline in the past.
 * It costs a system call that finds a full queue and no sleep. */
#include "libclient/queue.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

/* Fill in what the kernel knows of q->mqd. */
static int look_at(struct queue *q)
{
    struct mq_attr attributes;
    struct stat status;

    if (mq_getattr(q->mqd, &attributes) < 0 || fstat(q->mqd, &status) < 0)
        return -errno;
    q->depth = (uint32_t)attributes.mq_maxmsg;
    q->width = (uint32_t)attributes.mq_msgsize;
    q->inode = status.st_ino;
    q->owner = status.st_uid;
    return 0;
}

int queue_create(struct queue *q, const char *name, uint32_t depth, uint32_t width, mode_t mode)
{
    struct mq_attr attributes = {.mq_maxmsg = (long)depth, .mq_msgsize = (long)width};
    int r;

    *q = QUEUE_CLOSED;
    q->mqd = mq_open(name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK | O_CLOEXEC, mode, &attributes);
    if (q->mqd < 0)
        return -errno;
    /* The umask can only have taken rights away, so nobody was let in meanwhile. */
    r = fchmod(q->mqd, mode) < 0 ? -errno : look_at(q);
    if (r < 0) {
        mq_unlink(name);
        queue_close(q);
    }
    return r;
}

int queue_open(struct queue *q, const char *name, int flags)
{
    int r;

    *q = QUEUE_CLOSED;
    q->mqd = mq_open(name, flags | O_CLOEXEC);
    if (q->mqd < 0)
        return -errno;
    r = look_at(q);
    if (r < 0)
        queue_close(q);
    return r;
}

void queue_close(struct queue *q)
{
    if (q->mqd >= 0)
        mq_close(q->mqd);
    *q = QUEUE_CLOSED;
}

int queue_standing(const struct queue *q)
{
    struct mq_attr attributes;

    return mq_getattr(q->mqd, &attributes) < 0 ? -errno : (int)attributes.mq_curmsgs;
}

ssize_t queue_receive(const struct queue *q, void *buffer, size_t size, unsigned *priority)
{
    ssize_t n;

    do
        n = mq_receive(q->mqd, buffer, size, priority);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

int queue_send(const struct queue *q, const void *bytes, size_t size, unsigned priority)
{
    int r;

    do
        r = mq_send(q->mqd, bytes, size, priority);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

/* One mq_timedsend: 0, or -errno with a passed deadline told as -EAGAIN, like a full queue on a
 * non-blocking descriptor. */
static int send_until(const struct queue *q, const void *bytes, size_t size, unsigned priority,
                      const struct timespec *deadline)
{
    if (mq_timedsend(q->mqd, bytes, size, priority, deadline) == 0)
        return 0;
    return errno == ETIMEDOUT ? -EAGAIN : -errno;
}

int queue_try_send(const struct queue *q, const void *bytes, size_t size, unsigned priority)
{
    const struct timespec long_ago = {0, 0};
    int r;

    do
        r = send_until(q, bytes, size, priority, &long_ago);
    while (r == -EINTR);
    return r;
}

int queue_send_within(const struct queue *q, const void *bytes, size_t size, unsigned priority,
                      int milliseconds)
{
    struct timespec deadline;

    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += milliseconds / 1000;
    deadline.tv_nsec += milliseconds % 1000 * 1000000L;
    if (deadline.tv_nsec >= 1000000000L) {
        deadline.tv_nsec -= 1000000000L;
        deadline.tv_sec++;
    }
    return send_until(q, bytes, size, priority, &deadline);
}
