/* The baseline of durable messages: what the disk does by itself.
 *
 * Records as large as those of the broker's journal are written to a file of their own, that has
 * all its blocks, as many as the broker's journal has; and the disk is told to keep them when as
 * many have gathered as may be unconfirmed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "broker/record.h"
#include "libclient/wire.h"
#include "tools/bench-carrier.h"
#include "tools/bench-folder.h"

enum {
    FILE_MIN = 64 << 20,
};

static const char topic[] = "bench/0"; /* as long as the broker's */

struct file {
    struct folder folder;
    int fd;
    off_t size;
};

struct file_end {
    const struct file *file;
    unsigned char *gathered;
    size_t record; /* bytes of one */
    size_t n_gathered;
    off_t at;
};

static int write_all(int fd, const unsigned char *bytes, size_t size, off_t at)
{
    while (size > 0) {
        ssize_t n = pwrite(fd, bytes, size, at);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return bench_fail("cannot write: %s", strerror(n < 0 ? errno : ENOSPC));
        }
        bytes += n;
        size -= (size_t)n;
        at += n;
    }
    return 0;
}

/* Written once in full, so that no write to it is its first. */
static int fill(int fd, off_t size)
{
    static const unsigned char zeros[1 << 20];

    for (off_t at = 0; at < size; at += (off_t)sizeof zeros) {
        if (write_all(fd, zeros, sizeof zeros, at) < 0) {
            return -1;
        }
    }
    return fsync(fd) == 0 ? 0 : bench_fail("cannot sync: %s", strerror(errno));
}

static int file_open(struct carrier *carrier, struct crew *crew)
{
    struct file *file = calloc(1, sizeof *file);
    char path[FOLDER_PATH_SIZE + 8];

    (void)crew;
    carrier->state = file;
    if (file == NULL) {
        return bench_fail("out of memory");
    }
    file->fd = -1;
    file->size = (off_t)carrier_disk_bytes(carrier->options);
    if (file->size < FILE_MIN) {
        file->size = FILE_MIN;
    }
    if (folder_make(&file->folder, carrier->options->directory) < 0) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/file", file->folder.path);
    file->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file->fd < 0) {
        return bench_fail("%s: %s", path, strerror(errno));
    }
    return fill(file->fd, file->size);
}

static void file_close(struct carrier *carrier)
{
    struct file *file = carrier->state;

    if (file != NULL) {
        if (file->fd >= 0) {
            close(file->fd);
        }
        folder_remove(&file->folder);
        free(file);
        carrier->state = NULL;
    }
}

static void file_leave(struct carrier_end *end)
{
    struct file_end *state = end->state;

    free(state->gathered);
    free(state);
}

static int file_join(struct carrier_end *end)
{
    struct file_end *state = calloc(1, sizeof *state);
    size_t size = end->carrier->options->size;

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    end->state = state;
    state->file = end->carrier->state;
    state->record = record_room((uint32_t)wire_message_size(strlen(topic), size));
    state->gathered = calloc(end->carrier->outstanding, state->record);
    if (state->gathered == NULL) {
        carrier_leave(end);
        return bench_fail("out of memory");
    }
    return 0;
}

static int file_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                     unsigned priority)
{
    struct file_end *state = end->state;

    (void)channel;
    (void)priority;
    memcpy(state->gathered + state->n_gathered++ * state->record, bytes, size);
    return 0;
}

static int file_confirm(struct carrier_end *end, unsigned most)
{
    struct file_end *state = end->state;
    size_t size = state->n_gathered * state->record;

    if (state->n_gathered <= most) {
        return 0;
    }
    if (state->at + (off_t)size > state->file->size) {
        state->at = 0;
    }
    if (write_all(state->file->fd, state->gathered, size, state->at) < 0) {
        return -1;
    }
    state->at += (off_t)size;
    state->n_gathered = 0;
    return fdatasync(state->file->fd) == 0 ? 0 : bench_fail("cannot sync: %s", strerror(errno));
}

static int file_flush(struct carrier_end *end)
{
    return file_confirm(end, 0);
}

/* As many as may gather must fit the file. */
static size_t file_payload_max(const struct carrier_end *end)
{
    return FILE_MIN / 2 / end->carrier->outstanding - RECORD_UNIT -
           wire_message_size(strlen(topic), 0) - RECORD_HEAD_SIZE;
}

const struct carrier_kind carrier_file = {
    .open = file_open,
    .close = file_close,
    .join = file_join,
    .send = file_send,
    .flush = file_flush,
    .confirm = file_confirm,
    .leave = file_leave,
    .payload_max = file_payload_max,
};
