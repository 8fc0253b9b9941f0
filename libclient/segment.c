/* A shared-memory segment.
 *
 * /dev/shm is a sticky directory in which anybody may make a name, so what lies under ours need not
 * be ours: a link, a FIFO or a file under a lease, each of which would lead us elsewhere or hold us
 * up (rule S1, tried). Hence O_NOFOLLOW and O_NONBLOCK, and only then a look at what was opened.
 * Whose it is, the caller judges by `owner`. */
#include "libclient/segment.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Where shared memory objects are files: shm_overview(7). */
#define DIRECTORY "/dev/shm"

enum { OPEN_FLAGS = O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };

/* Look at what s->fd is, and map it whole. */
static int map(struct segment *s, int writable)
{
    struct stat status;
    void *base;

    if (fstat(s->fd, &status) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode) || status.st_nlink != 1)
        return -EBADF;
    base = mmap(NULL, (size_t)status.st_size, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                MAP_SHARED, s->fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    s->base = base;
    s->size = (size_t)status.st_size;
    s->inode = status.st_ino;
    s->owner = status.st_uid;
    return 0;
}

int segment_create(struct segment *s, const char *name, size_t size, mode_t mode)
{
    int r;

    *s = SEGMENT_CLOSED;
    s->fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR | OPEN_FLAGS, mode);
    if (s->fd < 0)
        return -errno;
    if (fchmod(s->fd, mode) < 0 || ftruncate(s->fd, (off_t)size) < 0)
        r = -errno;
    else
        r = map(s, 1);
    if (r < 0) {
        shm_unlink(name);
        segment_close(s);
    }
    return r;
}

int segment_open(struct segment *s, const char *name, int writable)
{
    int r;

    *s = SEGMENT_CLOSED;
    s->fd = shm_open(name, (writable ? O_RDWR : O_RDONLY) | OPEN_FLAGS, 0);
    if (s->fd < 0)
        return -errno;
    r = map(s, writable);
    if (r < 0)
        segment_close(s);
    return r;
}

int segment_reserve(struct segment *s, size_t length, int writable)
{
    void *base = mmap(NULL, length, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                      MAP_SHARED | MAP_NORESERVE, s->fd, 0);

    if (base == MAP_FAILED)
        return -errno;
    munmap(s->base, s->size);
    s->base = base;
    s->size = length;
    return 0;
}

void segment_forget_descriptor(struct segment *s)
{
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

int segment_allocate(const struct segment *s, size_t offset, size_t size)
{
    int error;

    do
        error = posix_fallocate(s->fd, (off_t)offset, (off_t)size);
    while (error == EINTR);
    return -error;
}

int segment_owner(const char *name, uid_t *owner)
{
    char path[NAME_MAX + sizeof(DIRECTORY)];
    struct stat status;

    snprintf(path, sizeof(path), DIRECTORY "%s", name);
    if (lstat(path, &status) < 0)
        return -errno;
    *owner = status.st_uid;
    return 0;
}

int segment_rename(const char *from, const char *to)
{
    char from_path[NAME_MAX + sizeof(DIRECTORY)], to_path[NAME_MAX + sizeof(DIRECTORY)];

    snprintf(from_path, sizeof(from_path), DIRECTORY "%s", from);
    snprintf(to_path, sizeof(to_path), DIRECTORY "%s", to);
    return rename(from_path, to_path) < 0 ? -errno : 0;
}

void segment_close(struct segment *s)
{
    if (s->base != NULL)
        munmap(s->base, s->size);
    if (s->fd >= 0)
        close(s->fd);
    *s = SEGMENT_CLOSED;
}
