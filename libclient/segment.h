/* A shared-memory segment: a mapping of a POSIX shared memory object. Floor 1: system calls, no
 * decisions.
 *
 * All functions return 0 or -errno. Opened with O_NOFOLLOW and O_NONBLOCK and then looked at: what
 * is not a regular file with one link is -EBADF (rule S1). */
#ifndef MQBROKER_LIBCLIENT_SEGMENT_H
#define MQBROKER_LIBCLIENT_SEGMENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct segment {
    void *base;  /* NULL: not mapped */
    size_t size; /* bytes mapped */
    int fd;      /* -1: none */
    uint64_t inode;
    uid_t owner;
};

#define SEGMENT_CLOSED ((struct segment){.fd = -1})

/* Create one that does not exist yet (O_EXCL), with exactly this mode, `size` bytes long, mapped to
 * read and write. Nothing of it is allocated yet (segment_allocate). -EEXIST: the name is taken. On
 * failure it leaves nothing behind. */
int segment_create(struct segment *s, const char *name, size_t size, mode_t mode);

/* Map an existing one whole; to write as well, or read-only. -ENOENT: there is none. -EINVAL: it is
 * empty: its maker has not come further yet. */
int segment_open(struct segment *s, const char *name, int writable);

/* Map `length` bytes of it in place of what is mapped, read-only or to write as well: more than it
 * has, so that it can grow without being moved. What lies behind its end must not be touched. On
 * failure the old mapping stands. */
int segment_reserve(struct segment *s, size_t length, int writable);

/* Close the descriptor; what is mapped stays. */
void segment_forget_descriptor(struct segment *s);

/* Make sure that [offset, offset + size) has memory behind it, so that touching it can never be a
 * SIGBUS. -ENOSPC: the tmpfs is full. */
int segment_allocate(const struct segment *s, size_t offset, size_t size);

/* Whose it is, also if it cannot be opened or is no segment at all. -ENOENT: there is none. */
int segment_owner(const char *name, uid_t *owner);

/* Give an object another name at once, in place of one that may have that name: who opens `to`
 * finds either the old one or the new one, never one half made. -EACCES, -EPERM: the name is
 * another user's. */
int segment_rename(const char *from, const char *to);

/* Unmap and close; the object stays. Fine on a closed one. */
void segment_close(struct segment *s);

#endif
