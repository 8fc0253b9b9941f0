/* A disk that remembers every operation, so that it can be cut off after any of them: what was
 * synced is there then, and of what was not, whatever one likes. The journal's files
 * (broker/journal.h) in memory. */
#ifndef MQBROKER_TESTS_SUPPORT_FAKE_DISK_H
#define MQBROKER_TESTS_SUPPORT_FAKE_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/journal.h"

enum {
    FAKE_FILES = 24,
    FAKE_FILE_MAX = 256 << 10,
    FAKE_SECTOR = 512,
    FAKE_PAGE = 4096,
    FAKE_FD = 5000,          /* descriptor of the first file */
    FAKE_POOL = FAKE_FD - 1, /* of a file beside, which is only read: fake_pool */
    FAKE_POOL_SIZE = 64 << 10,
};

struct fake_file {
    bool exists;
    char name[RECORD_NAME_MAX];
    uint32_t size;
    uint8_t *bytes; /* FAKE_FILE_MAX, or NULL */
};

struct fake_image {
    struct fake_file files[FAKE_FILES];
};

void fake_image_copy(struct fake_image *to, const struct fake_image *from);
void fake_image_deinit(struct fake_image *image);
struct fake_file *fake_image_find(struct fake_image *image, const char *name);

enum fake_type {
    FAKE_CREATE,
    FAKE_WRITE,
    FAKE_TRUNCATE,
    FAKE_SYNC,
    FAKE_SYNC_FAILED,
    FAKE_FOLDER_SYNC,
    FAKE_UNLINK,
    FAKE_NOTE, /* the test's own */
};

struct fake_op {
    enum fake_type type;
    uint32_t file;
    uint32_t offset;
    uint32_t size;
    uint8_t *bytes;
    uint64_t note[3];
};

struct fake_log {
    struct fake_op *ops;
    size_t n;
    size_t capacity;
};

void fake_log_deinit(struct fake_log *log);

/* What goes wrong: one in so many; 0: never. */
struct fake_troubles {
    uint32_t write_error;
    uint32_t sync_error;
    uint32_t open_error;
    uint32_t short_write;
    uint32_t interrupt;
    uint32_t space; /* bytes that all files may have; 0: any */
};

extern const struct journal_files fake_files;
extern uint8_t fake_pool[FAKE_POOL_SIZE];
extern uint32_t fake_pool_size;  /* what is behind it was cut off */
extern uint64_t fake_pool_reads; /* so far */

/* The one disk there is: it begins with a copy of the image (NULL: nothing) and an empty log. */
void fake_disk_mount(const struct fake_image *image, const struct fake_troubles *troubles,
                     uint64_t seed);
void fake_disk_set_troubles(const struct fake_troubles *troubles);
/* Take the log; the disk is empty then. */
void fake_disk_unmount(struct fake_log *log);
void fake_disk_note(uint64_t a, uint64_t b, uint64_t c);

/* ---- What a crash leaves ---- */

enum fake_crash {
    FAKE_NOTHING,    /* of what was not synced */
    FAKE_EVERYTHING, /* as after a kill of the process, also what the disk refused */
    FAKE_PREFIX,     /* up to some byte */
    FAKE_SECTORS,    /* any of its sectors */
    FAKE_SHUFFLED,   /* the same, in any order */
    FAKE_ZEROED,     /* some pages are there, but zeros */
    N_FAKE_CRASHES,
};

/* The disk after so many operations of a log. */
struct fake_replay {
    const struct fake_log *log;
    size_t at;
    struct fake_image durable;
    struct fake_image cache; /* what processes see */
    struct {
        size_t *ops; /* indices of those that are not synced */
        size_t n, capacity;
    } pending;
    bool named[FAKE_FILES]; /* its name is synced, as it stands in `durable` */
};

void fake_replay_init(struct fake_replay *replay, const struct fake_log *log,
                      const struct fake_image *begin);
void fake_replay_deinit(struct fake_replay *replay);
void fake_replay_step(struct fake_replay *replay);
/* `out` is an image of its own; `seed` for what is chance. */
void fake_replay_crash(const struct fake_replay *replay, enum fake_crash kind, uint64_t seed,
                       struct fake_image *out);

#endif
