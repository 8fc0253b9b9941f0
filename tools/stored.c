/* Reading the journal: see stored.h. A place may be used again at any moment: so nothing is
 * believed but a record whose generation, position, checksum and age fit. */
#include "tools/stored.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- Finding it ---- */

static int open_folder(struct stored *stored, const char *path)
{
    stored->folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return stored->folder >= 0 ? 0 : -errno;
}

/* Does this path end in a folder of that name and a segment's file name? Then the file name is cut
 * off. */
static bool cut_segment(char *path, const char *instance)
{
    char *file = strrchr(path, '/'), *folder;
    char name[RECORD_NAME_MAX];

    if (file == NULL)
        return false;
    record_segment_name(name, (uint32_t)strtoul(file + 1, NULL, 10));
    if (strcmp(file + 1, name) != 0)
        return false;
    *file = '\0';
    folder = strrchr(path, '/');
    return folder != NULL && strcmp(folder + 1, instance) == 0;
}

static int search(struct stored *stored, const char *instance, uint32_t pid)
{
    char path[64];
    struct dirent *entry;
    DIR *all;
    int r = -ENOENT;

    snprintf(path, sizeof path, "/proc/%u/fd", pid);
    all = opendir(path);
    while (all != NULL && r == -ENOENT && (entry = readdir(all)) != NULL) {
        char target[PATH_MAX];
        ssize_t n = readlinkat(dirfd(all), entry->d_name, target, sizeof target - 1);

        target[n > 0 ? n : 0] = '\0';
        if (cut_segment(target, instance))
            r = open_folder(stored, target);
    }
    if (all != NULL)
        closedir(all);
    return r;
}

int stored_open(struct stored *stored, const char *instance, const char *directory, uint32_t pid)
{
    char path[PATH_MAX];
    int n;

    *stored = STORED_NONE;
    if (directory == NULL)
        return search(stored, instance, pid);
    n = snprintf(path, sizeof path, "%s/%s", directory, instance);
    return n > 0 && (size_t)n < sizeof path ? open_folder(stored, path) : -ENAMETOOLONG;
}

void stored_close(struct stored *stored)
{
    if (stored->folder >= 0)
        close(stored->folder);
    *stored = STORED_NONE;
}

/* ---- Reading ---- */

static int read_all(int fd, void *to, size_t size, off_t at)
{
    uint8_t *bytes = to;

    while (size > 0) {
        ssize_t n = pread(fd, bytes, size, at);

        if (n < 0)
            return -errno;
        if (n == 0)
            return -EBADMSG;
        bytes += n;
        size -= (size_t)n;
        at += n;
    }
    return 0;
}

static int read_record(int fd, uint32_t offset, struct record *record)
{
    uint8_t bytes[RECORD_HEADER_SIZE], head[RECORD_HEAD_SIZE];
    struct record_header header;
    uint8_t *body;
    int r = read_all(fd, bytes, sizeof bytes, 0);

    if (r == 0)
        r = read_all(fd, head, sizeof head, offset);
    if (r < 0)
        return r;
    if (record_get_header(bytes, &header) != RECORD_OK ||
        record_get_head(head, &header, offset, header.size - RECORD_HEADER_SIZE, record) !=
            RECORD_OK)
        return -EBADMSG;
    body = malloc(record->size + 1u);
    if (body == NULL)
        return -ENOMEM;
    r = read_all(fd, body, record->size, (off_t)offset + RECORD_HEAD_SIZE);
    if (r == 0 &&
        record_crc(record_crc_begin(head, &header), body, record->size) != record_head_crc(head))
        r = -EBADMSG;
    record->bytes = body;
    return r;
}

int stored_read(const struct stored *stored, uint32_t location, uint64_t age, struct record *record)
{
    char name[RECORD_NAME_MAX];
    int fd, r;

    *record = (struct record){0};
    record_segment_name(name, record_slot(location));
    fd = openat(stored->folder, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    r = read_record(fd, record_offset(location), record);
    close(fd);
    if (r == 0 && (!record_is_thing(record->kind) || record->age != age))
        r = -EBADMSG;
    if (r < 0) {
        free((void *)(uintptr_t)record->bytes);
        record->bytes = NULL;
    }
    return r;
}
