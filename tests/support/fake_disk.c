/* A fake disk: see fake_disk.h. The journal's helper thread uses it as well as the test, so a mutex
 * is around everything that changes it. */
#include "tests/support/fake_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { FOLDER_FD = FAKE_FD - 2 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct fake_image now;
static struct fake_log operations;
static struct fake_troubles troubles;
static uint64_t chance_state;

uint8_t fake_pool[FAKE_POOL_SIZE];
uint32_t fake_pool_size = FAKE_POOL_SIZE;
uint64_t fake_pool_reads;

static void *must(void *memory)
{
    if (memory == NULL)
        abort();
    return memory;
}

static uint64_t next(uint64_t *state) /* splitmix64 */
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static bool one_in(uint32_t n)
{
    return n != 0 && next(&chance_state) % n == 0;
}

/* ---- Images ---- */

void fake_image_copy(struct fake_image *to, const struct fake_image *from)
{
    *to = *from;
    for (uint32_t i = 0; i < FAKE_FILES; i++) {
        if (from->files[i].bytes == NULL)
            continue;
        to->files[i].bytes = must(malloc(FAKE_FILE_MAX));
        memcpy(to->files[i].bytes, from->files[i].bytes, FAKE_FILE_MAX);
    }
}

void fake_image_deinit(struct fake_image *image)
{
    for (uint32_t i = 0; i < FAKE_FILES; i++)
        free(image->files[i].bytes);
    memset(image, 0, sizeof(*image));
}

struct fake_file *fake_image_find(struct fake_image *image, const char *name)
{
    for (uint32_t i = 0; i < FAKE_FILES; i++) {
        if (image->files[i].exists && strcmp(image->files[i].name, name) == 0)
            return &image->files[i];
    }
    return NULL;
}

static void create(struct fake_file *file, const char *name)
{
    if (file->bytes == NULL)
        file->bytes = must(malloc(FAKE_FILE_MAX));
    memset(file->bytes, 0, FAKE_FILE_MAX);
    file->exists = true;
    file->size = 0;
    memset(file->name, 0, sizeof(file->name));
    memcpy(file->name, name, strlen(name));
}

static void write_to(struct fake_file *file, uint32_t offset, const uint8_t *bytes, uint32_t size)
{
    if (size > FAKE_FILE_MAX || offset > FAKE_FILE_MAX - size)
        abort();
    memcpy(file->bytes + offset, bytes, size);
    if (offset + size > file->size)
        file->size = offset + size;
}

static void set_size(struct fake_file *file, uint32_t size)
{
    if (size < file->size)
        memset(file->bytes + size, 0, file->size - size);
    file->size = size;
}

/* ---- The log ---- */

void fake_log_deinit(struct fake_log *log)
{
    for (size_t i = 0; i < log->n; i++)
        free(log->ops[i].bytes);
    free(log->ops);
    memset(log, 0, sizeof(*log));
}

static struct fake_op *log_op(enum fake_type type, uint32_t file)
{
    struct fake_op *op;

    if (operations.n == operations.capacity) {
        operations.capacity = operations.capacity == 0 ? 256 : 2 * operations.capacity;
        operations.ops =
            must(reallocarray(operations.ops, operations.capacity, sizeof(*operations.ops)));
    }
    op = &operations.ops[operations.n++];
    *op = (struct fake_op){.type = type, .file = file};
    return op;
}

/* ---- Files ---- */

static int folder(const char *path)
{
    (void)path;
    return FOLDER_FD;
}

static int lock(int fd)
{
    (void)fd;
    return 0;
}

static int open_file(int folder_fd, const char *name, int flags, mode_t mode)
{
    uint32_t i = 0;

    (void)folder_fd;
    (void)mode;
    pthread_mutex_lock(&mutex);
    while (i < FAKE_FILES && !(now.files[i].exists && strcmp(now.files[i].name, name) == 0))
        i++;
    if (i == FAKE_FILES && (flags & O_CREAT) != 0) {
        if (one_in(troubles.open_error)) {
            pthread_mutex_unlock(&mutex);
            errno = ENOSPC;
            return -1;
        }
        for (i = 0; i < FAKE_FILES && now.files[i].exists; i++)
            ;
        if (i == FAKE_FILES)
            abort();
        create(&now.files[i], name);
        struct fake_op *op = log_op(FAKE_CREATE, i);

        op->bytes = must(calloc(1, RECORD_NAME_MAX));
        memcpy(op->bytes, name, strlen(name));
    }
    pthread_mutex_unlock(&mutex);
    if (i < FAKE_FILES)
        return FAKE_FD + (int)i;
    errno = ENOENT;
    return -1;
}

static int close_file(int fd)
{
    (void)fd;
    return 0;
}

static off_t size_of(int fd)
{
    return now.files[fd - FAKE_FD].size;
}

static ssize_t read_pool(void *to, size_t size, off_t offset)
{
    size_t left = (uint64_t)offset < fake_pool_size ? fake_pool_size - (size_t)offset : 0;

    fake_pool_reads++;
    if (size > left)
        size = left;
    memcpy(to, fake_pool + offset, size);
    return (ssize_t)size;
}

static ssize_t read_file(int fd, void *to, size_t size, off_t offset)
{
    const struct fake_file *file;
    size_t left;

    if (fd == FAKE_POOL)
        return read_pool(to, size, offset);
    pthread_mutex_lock(&mutex);
    file = &now.files[fd - FAKE_FD];
    left = (uint64_t)offset < file->size ? file->size - (size_t)offset : 0;
    if (size > left)
        size = left;
    memcpy(to, file->bytes + offset, size);
    pthread_mutex_unlock(&mutex);
    return (ssize_t)size;
}

static uint64_t space_used(void)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < FAKE_FILES; i++)
        sum += now.files[i].exists ? now.files[i].size : 0;
    return sum;
}

static int write_trouble(const struct fake_file *file, size_t size, off_t offset)
{
    uint64_t end = (uint64_t)offset + size;

    if (one_in(troubles.interrupt))
        return EINTR;
    if (one_in(troubles.write_error))
        return EIO;
    if (troubles.space != 0 && end > file->size && space_used() + end - file->size > troubles.space)
        return ENOSPC;
    return 0;
}

static ssize_t write_file(int fd, const void *from, size_t size, off_t offset)
{
    uint32_t index = (uint32_t)(fd - FAKE_FD);
    struct fake_op *op;
    int trouble;

    pthread_mutex_lock(&mutex);
    trouble = write_trouble(&now.files[index], size, offset);
    if (trouble != 0) {
        pthread_mutex_unlock(&mutex);
        errno = trouble;
        return -1;
    }
    if (size > 1 && one_in(troubles.short_write))
        size = 1 + next(&chance_state) % (size - 1);
    write_to(&now.files[index], (uint32_t)offset, from, (uint32_t)size);
    op = log_op(FAKE_WRITE, index);
    op->offset = (uint32_t)offset;
    op->size = (uint32_t)size;
    op->bytes = must(malloc(size));
    memcpy(op->bytes, from, size);
    pthread_mutex_unlock(&mutex);
    return (ssize_t)size;
}

static int truncate_file(int fd, off_t size)
{
    uint32_t index = (uint32_t)(fd - FAKE_FD);

    pthread_mutex_lock(&mutex);
    set_size(&now.files[index], (uint32_t)size);
    log_op(FAKE_TRUNCATE, index)->size = (uint32_t)size;
    pthread_mutex_unlock(&mutex);
    return 0;
}

static int sync_file(int fd)
{
    uint32_t index = (uint32_t)(fd - FAKE_FD);
    bool failed;

    pthread_mutex_lock(&mutex);
    failed = one_in(troubles.sync_error);
    log_op(failed ? FAKE_SYNC_FAILED : FAKE_SYNC, index);
    pthread_mutex_unlock(&mutex);
    errno = EIO;
    return failed ? -1 : 0;
}

static int sync_folder(int fd)
{
    (void)fd;
    pthread_mutex_lock(&mutex);
    log_op(FAKE_FOLDER_SYNC, 0);
    pthread_mutex_unlock(&mutex);
    return 0;
}

static int remove_file(int folder_fd, const char *name)
{
    struct fake_file *file;

    (void)folder_fd;
    pthread_mutex_lock(&mutex);
    file = fake_image_find(&now, name);
    if (file != NULL) {
        file->exists = false;
        log_op(FAKE_UNLINK, (uint32_t)(file - now.files));
    }
    pthread_mutex_unlock(&mutex);
    return file == NULL ? -1 : 0;
}

const struct journal_files fake_files = {
    .folder = folder,
    .lock = lock,
    .open = open_file,
    .close = close_file,
    .size = size_of,
    .pread = read_file,
    .pwrite = write_file,
    .truncate = truncate_file,
    .fdatasync = sync_file,
    .fsync = sync_folder,
    .unlink = remove_file,
};

/* ---- The disk ---- */

void fake_disk_mount(const struct fake_image *image, const struct fake_troubles *with,
                     uint64_t seed)
{
    fake_image_deinit(&now);
    if (image != NULL)
        fake_image_copy(&now, image);
    troubles = with != NULL ? *with : (struct fake_troubles){0};
    chance_state = seed;
}

void fake_disk_set_troubles(const struct fake_troubles *with)
{
    pthread_mutex_lock(&mutex);
    troubles = with != NULL ? *with : (struct fake_troubles){0};
    pthread_mutex_unlock(&mutex);
}

void fake_disk_unmount(struct fake_log *log)
{
    fake_image_deinit(&now);
    *log = operations;
    memset(&operations, 0, sizeof(operations));
}

void fake_disk_note(uint64_t a, uint64_t b, uint64_t c)
{
    struct fake_op *op;

    pthread_mutex_lock(&mutex);
    op = log_op(FAKE_NOTE, 0);
    op->note[0] = a;
    op->note[1] = b;
    op->note[2] = c;
    pthread_mutex_unlock(&mutex);
}

/* ---- Replay ---- */

void fake_replay_init(struct fake_replay *replay, const struct fake_log *log,
                      const struct fake_image *begin)
{
    memset(replay, 0, sizeof(*replay));
    replay->log = log;
    if (begin != NULL) {
        fake_image_copy(&replay->durable, begin);
        fake_image_copy(&replay->cache, begin);
    }
    for (uint32_t i = 0; i < FAKE_FILES; i++)
        replay->named[i] = replay->durable.files[i].exists;
}

void fake_replay_deinit(struct fake_replay *replay)
{
    fake_image_deinit(&replay->durable);
    fake_image_deinit(&replay->cache);
    free(replay->pending.ops);
    memset(replay, 0, sizeof(*replay));
}

static void add_pending(struct fake_replay *r, size_t op)
{
    if (r->pending.n == r->pending.capacity) {
        r->pending.capacity = r->pending.capacity == 0 ? 64 : 2 * r->pending.capacity;
        r->pending.ops =
            must(reallocarray(r->pending.ops, r->pending.capacity, sizeof(*r->pending.ops)));
    }
    r->pending.ops[r->pending.n++] = op;
}

/* Syncs and notes change nothing. */
static void apply(struct fake_image *image, const struct fake_op *op)
{
    struct fake_file *file = &image->files[op->file];

    if (op->type == FAKE_CREATE)
        create(file, (const char *)op->bytes);
    else if (op->type == FAKE_WRITE && file->exists)
        write_to(file, op->offset, op->bytes, op->size);
    else if (op->type == FAKE_TRUNCATE && file->exists)
        set_size(file, op->size);
    else if (op->type == FAKE_UNLINK)
        file->exists = false;
}

/* The part of a write that lies in one sector. */
static void apply_sector(struct fake_image *image, const struct fake_op *op, uint32_t sector,
                         bool zeros)
{
    static const uint8_t zero[FAKE_SECTOR];
    uint32_t begin = sector * FAKE_SECTOR, end = begin + FAKE_SECTOR;

    if (!image->files[op->file].exists)
        return;
    if (begin < op->offset)
        begin = op->offset;
    if (end > op->offset + op->size)
        end = op->offset + op->size;
    write_to(&image->files[op->file], begin, zeros ? zero : op->bytes + (begin - op->offset),
             end - begin);
}

/* Any of its sectors. The first page of a file has its header, which is written over in place, by
 * itself: that is there or not, but never zeros. */
static void apply_some(struct fake_image *image, const struct fake_op *op, uint64_t *seed,
                       bool zeros)
{
    bool page_zero = false, last = false;

    for (uint32_t s = op->offset / FAKE_SECTOR; s * FAKE_SECTOR < op->offset + op->size; s++) {
        if (!last || s % (FAKE_PAGE / FAKE_SECTOR) == 0)
            page_zero = zeros && s >= FAKE_PAGE / FAKE_SECTOR && next(seed) % 2 == 0;
        last = true;
        if (next(seed) % 2 == 0 || page_zero)
            apply_sector(image, op, s, page_zero);
    }
}

/* A file is synced: what is pending of it is on the disk. Names are another matter. */
static void settle_file(struct fake_replay *r, uint32_t file, bool failed)
{
    uint64_t seed = r->at;
    size_t kept = 0;

    for (size_t i = 0; i < r->pending.n; i++) {
        const struct fake_op *op = &r->log->ops[r->pending.ops[i]];

        if (op->file != file || op->type == FAKE_CREATE || op->type == FAKE_UNLINK) {
            r->pending.ops[kept++] = r->pending.ops[i];
            continue;
        }
        if (!failed)
            apply(&r->durable, op);
        else if (op->type == FAKE_WRITE)
            apply_some(&r->durable, op, &seed, false);
    }
    r->pending.n = kept;
}

static void settle_names(struct fake_replay *r)
{
    for (uint32_t i = 0; i < FAKE_FILES; i++)
        r->named[i] = r->durable.files[i].exists;
}

void fake_replay_step(struct fake_replay *r)
{
    const struct fake_op *op = &r->log->ops[r->at];

    apply(&r->cache, op);
    switch (op->type) {
    case FAKE_CREATE: /* the content of a file that has no name yet is not lost by that */
    case FAKE_UNLINK:
        apply(&r->durable, op);
        r->named[op->file] = false;
        break;
    case FAKE_WRITE:
    case FAKE_TRUNCATE:
        add_pending(r, r->at);
        break;
    case FAKE_SYNC:
        settle_file(r, op->file, false);
        break;
    case FAKE_SYNC_FAILED:
        settle_file(r, op->file, true);
        break;
    case FAKE_FOLDER_SYNC:
        settle_names(r);
        break;
    case FAKE_NOTE:
        break;
    }
    r->at++;
}

static void shuffle(size_t *list, size_t n, uint64_t *seed)
{
    for (size_t i = n; i > 1; i--) {
        size_t other = next(seed) % i, value = list[i - 1];

        list[i - 1] = list[other];
        list[other] = value;
    }
}

/* A name that is not synced may be there, or not. */
static void lose_names(const struct fake_replay *r, enum fake_crash kind, uint64_t *seed,
                       struct fake_image *out)
{
    for (uint32_t i = 0; i < FAKE_FILES; i++) {
        if (r->named[i] || !out->files[i].exists)
            continue;
        if (kind == FAKE_NOTHING || next(seed) % 2 == 0)
            out->files[i].exists = false;
    }
}

void fake_replay_crash(const struct fake_replay *r, enum fake_crash kind, uint64_t seed,
                       struct fake_image *out)
{
    size_t n = r->pending.n, last;
    size_t *list;

    if (kind == FAKE_EVERYTHING) {
        fake_image_copy(out, &r->cache);
        return;
    }
    list = must(malloc((n + 1) * sizeof(*list)));
    fake_image_copy(out, &r->durable);
    if (n > 0)
        memcpy(list, r->pending.ops, n * sizeof(*list));
    if (kind == FAKE_NOTHING)
        n = 0;
    if (kind == FAKE_SHUFFLED)
        shuffle(list, n, &seed);
    last = kind == FAKE_PREFIX && n > 0 ? next(&seed) % n : n;
    for (size_t i = 0; i < n && i <= last; i++) {
        struct fake_op op = r->log->ops[list[i]];

        if (i == last && op.type == FAKE_WRITE)
            op.size = (uint32_t)(next(&seed) % (op.size + 1u));
        if (op.type != FAKE_WRITE || kind == FAKE_PREFIX)
            apply(out, &op);
        else
            apply_some(out, &op, &seed, kind == FAKE_ZEROED);
    }
    lose_names(r, kind, &seed, out);
    free(list);
}
