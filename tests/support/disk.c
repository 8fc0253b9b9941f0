/* Makes mqbroker-disk of a broker: what it writes and syncs goes through here first, by the
 * linker's --wrap. Without the environment variable it is as good as any. */
#include "tests/support/disk.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <time.h>

/* The linker's names (--wrap). NOLINTBEGIN(bugprone-reserved-identifier) */
int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
ssize_t __real_pwrite(int fd, const void *from, size_t size, off_t offset);
ssize_t __wrap_pwrite(int fd, const void *from, size_t size, off_t offset);
/* NOLINTEND(bugprone-reserved-identifier) */

static struct disk *disk;

__attribute__((constructor)) static void begin(void)
{
    const char *number = getenv(DISK_VARIABLE);
    void *memory;

    if (number == NULL)
        return;
    memory = mmap(NULL, sizeof(*disk), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(number), 0);
    if (memory != MAP_FAILED)
        disk = memory;
}

int __wrap_fdatasync(int fd)
{
    const struct timespec moment = {.tv_nsec = 1000000};

    if (disk == NULL)
        return __real_fdatasync(fd);
    atomic_fetch_add(&disk->syncs, 1);
    while (atomic_load(&disk->waits) != 0)
        nanosleep(&moment, NULL);
    errno = (int)atomic_load(&disk->sync_fails);
    return errno != 0 ? -1 : __real_fdatasync(fd);
}

ssize_t __wrap_pwrite(int fd, const void *from, size_t size, off_t offset)
{
    if (disk != NULL && atomic_load(&disk->write_fails) != 0) {
        errno = (int)atomic_load(&disk->write_fails);
        return -1;
    }
    return __real_pwrite(fd, from, size, offset);
}
