/* The journal: durable things on disk, in segments used in a circle. Floor 1, a mechanism: it knows
 * records (broker/record.h), and no engine.
 *
 * The way of a record. journal_append() gives it its place at once and gathers it in memory.
 * journal_commit() hands what was gathered to the helper thread, if that is idle; if it is not, the
 * next journal_collect() does: so commits grow by themselves under load. The helper writes, syncs
 * and rings journal_fd(); journal_collect() then moves the totals `written` and `synced` on. No
 * call but open, scan, continue and close waits for the disk.
 *
 * Space. A thing (broker/record.h) lives from journal_keep() to journal_drop() of its place.
 * Segments are used again oldest first, as soon as nothing lives in them: by itself when everything
 * in the oldest has ended; when room becomes short, journal_wants() names the oldest, and what
 * lives there is to be appended anew: journal_read() each, journal_append() it with
 * JOURNAL_RESERVED and the newest owner and tries, keep the new place, drop the old one. That is
 * all: when nothing lives there any more and what was appended up to then is synced, the segment is
 * used again, whatever `sync` says (rule J3).
 *
 * An END need never be appended anew, and a thing must not be appended after its END: both because
 * segments go oldest first.
 *
 * All calls come from one thread. Errors are -errno; what people must know is said as a sentence.
 */
#ifndef MQBROKER_BROKER_JOURNAL_H
#define MQBROKER_BROKER_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "broker/record.h"

struct journal;

enum journal_sync {
    JOURNAL_ALWAYS,   /* an append is done when it is synced */
    JOURNAL_INTERVAL, /* when it is written; synced at the latest so much later */
    JOURNAL_NEVER,    /* when it is written; the kernel syncs it some day */
};

enum {
    JOURNAL_SENTENCE = 512,      /* bytes that hold any sentence */
    JOURNAL_READS = 64,          /* reads and copies under way at once */
    JOURNAL_READ_MAX = 64 << 10, /* bytes of a record that journal_read() hands out */
    JOURNAL_SEGMENTS_MIN = 5,    /* of which two are the reserve */
};

/* What it asks of files; each as the system call of that name. Tests put a disk of their own in
 * its place. */
struct journal_files {
    int (*folder)(const char *path); /* open it; made with mode 0700 if it is not there */
    int (*lock)(int folder);         /* -1, EWOULDBLOCK: another one has it */
    int (*open)(int folder, const char *name, int flags, mode_t mode);
    int (*close)(int fd);
    off_t (*size)(int fd);
    ssize_t (*pread)(int fd, void *to, size_t size, off_t offset);
    ssize_t (*pwrite)(int fd, const void *from, size_t size, off_t offset);
    int (*truncate)(int fd, off_t size);
    int (*fdatasync)(int fd);
    int (*fsync)(int fd); /* of the folder */
    int (*unlink)(int folder, const char *name);
};

struct journal_settings {
    const char *directory; /* must exist; the journal is the folder <directory>/<instance> */
    const char *instance;
    uint64_t segment_size; /* a power of two, RECORD_SEGMENT_MIN to RECORD_SEGMENT_MAX */
    uint64_t total_size;   /* at least JOURNAL_SEGMENTS_MIN segments, at most RECORD_SLOTS_MAX */
    uint64_t ready_size;   /* of segments that are made ahead; three at least, whatever this says */
    enum journal_sync sync;
    uint64_t interval;                 /* nanoseconds, of JOURNAL_INTERVAL */
    const struct journal_files *files; /* NULL: the system's */
};

/* ---- Begin and end ---- */

/* Open and lock it, look what segments there are. `*out` is NULL on an error, and `sentence` says
 * what is wrong, where, and what to do. -EWOULDBLOCK: another process has it. -EPROTO: a segment of
 * another version; nothing was touched. -EINVAL: a setting. Follow with journal_scan() or
 * journal_continue(). */
int journal_open(struct journal **out, const struct journal_settings *settings,
                 char sentence[JOURNAL_SENTENCE]);

/* What reading it finds. */
struct journal_reader {
    /* A thing that lives. `record` and its bytes are lent. A PUT comes without bytes; others with
     * the first JOURNAL_READ_MAX of them. 0, or -errno: that ends it. The journal counts it as
     * kept. */
    int (*thing)(void *context, const struct record *record, uint32_t location);
    /* Something that was synced cannot be read: a sentence with the segment's name and offset. */
    void (*damage)(void *context, const char *sentence);
    void *context;
};

/* After a reboot: read all of it, call back for each thing that lives, in order of age; then it is
 * ready for appends. *highest is the highest age that it knows of, living or not. A torn tail is
 * cut; what is damaged is reported and skipped. */
int journal_scan(struct journal *j, const struct journal_reader *reader, uint64_t *highest,
                 char sentence[JOURNAL_SENTENCE]);

/* After a kill of the process: the store is the truth, so only find where it ended, and be ready
 * for appends. Places given out before stay good if what was appended there had been written.
 * Whatever lives is told with journal_keep() before the first append. `reader` may be asked for
 * damage; its `thing` is not used. */
int journal_continue(struct journal *j, const struct journal_reader *reader,
                     char sentence[JOURNAL_SENTENCE]);

/* Write and sync what was gathered, end the helper, close. NULL is fine. Returns NULL. */
struct journal *journal_close(struct journal *j);

/* ---- Append ---- */

/* More bytes for a record, behind its own: the helper reads them. They must stay readable, and the
 * descriptor open, until `written` has reached the record. */
struct journal_source {
    int fd;            /* a pool's; -1: they are in the journal: */
    uint32_t location; /* of the record that has them */
    uint64_t offset;   /* where they begin: in the file, or in that record's bytes */
    uint32_t size;
};

enum journal_claim {
    JOURNAL_NEW,      /* something new: leaves the reserve alone */
    JOURNAL_TAKEN,    /* what was taken before: leaves a segment of it */
    JOURNAL_RESERVED, /* END, MOVE, and what is moved out of a segment: may use all of it */
};

/* Gather a record; record->bytes and size are what is in memory, `source` (or NULL) what follows
 * them. *location is its place from now on (see JOURNAL_RELOCATED); its number is
 * journal_appended(). Errors: -EAGAIN: not before an event of journal_fd(): a segment is being made
 * or emptied; -ENOSPC: no room; -EMSGSIZE: larger than a segment takes; -EINVAL: a thing of less
 * than 9 bytes; -ENOMEM; -EIO: the disk refuses (journal_trouble() says more). Nothing was appended
 * then. Does not keep it. */
int journal_append(struct journal *j, const struct record *record,
                   const struct journal_source *source, enum journal_claim claim,
                   uint32_t *location);

/* The space that there is for new things. */
void journal_space(const struct journal *j, struct record_space *out);

/* There was less than something needed that therefore was not appended: journal_trouble() says so
 * until there is more. */
void journal_short_of_room(struct journal *j);

/* Would it be better to append nothing new before the next event of journal_fd()? (Much is
 * gathered, or a segment is being made or emptied.) It would still be taken, as long as there is
 * room. */
bool journal_busy(const struct journal *j);

/* Hand over what was gathered, if the helper is idle. Once a turn, and cheap with nothing to do. */
void journal_commit(struct journal *j);

/* Is it better to look for more to append, for some microseconds, before that is done? To be asked
 * again after each look. */
bool journal_awaits_more(struct journal *j);

/* Numbers of appends, counted from 1: given out so far; those up to which all are in the page
 * cache, on disk, and one of these two by what `sync` says: then it is done. */
uint64_t journal_appended(const struct journal *j);
uint64_t journal_written(const struct journal *j);
uint64_t journal_synced(const struct journal *j);
uint64_t journal_done(const struct journal *j);

/* 0, or why things are refused or not done: -ENOSPC: full, or its disk is; -EIO or another: the
 * disk refuses, and what is not done waits, is tried again every second on another segment. The
 * sentence is the journal's own, NULL with 0. */
int journal_trouble(const struct journal *j, const char **sentence);

/* ---- Events ---- */

/* Readable when there is something to collect. The journal's own. */
int journal_fd(const struct journal *j);

enum journal_event_type {
    /* What journal_read() asked for. `result` 0: `record` is its record with its first bytes (at
     * most JOURNAL_READ_MAX are there, record.size counts all); lent. Otherwise -errno: -EBADMSG:
     * damaged. */
    JOURNAL_READ = 1,
    JOURNAL_COPIED, /* what journal_copy() asked for: `result` */
    /* A record's source could not be read (`result`): it was not written. `record.age` is its age,
     * `location` its place, where nothing is now: drop it if it was kept. */
    JOURNAL_LOST,
    /* The disk refused (rule J3). What was appended to the segment of `location` at that offset and
     * beyond is now at the same distance beyond `to`. The places that it keeps have moved along. */
    JOURNAL_RELOCATED,
};

struct journal_event {
    enum journal_event_type type;
    int result;
    uint64_t tag;
    uint32_t location;
    uint32_t to;
    struct record record;
};

/* Take what the helper has done: the totals move, then `event` is called for each of the others; so
 * look at the totals after this. `event` may call anything here but collect and close. Then hands
 * over what was gathered meanwhile. Returns whether there was anything. */
bool journal_collect(struct journal *j, void (*event)(void *context, const struct journal_event *),
                     void *context);

/* ---- Read back ---- */

/* Ask for the record at a place that is kept, and written. Answered by JOURNAL_READ with `tag`.
 * -EAGAIN: JOURNAL_READS are under way. Goes out with the next commit. */
int journal_read(struct journal *j, uint32_t location, uint64_t tag);

/* Ask for `size` of its bytes from `offset` on to be written to a file. `fd` stays the caller's,
 * open until JOURNAL_COPIED. */
int journal_copy(struct journal *j, uint32_t location, uint32_t offset, uint32_t size, int fd,
                 uint64_t to, uint64_t tag);

/* ---- Space ---- */

/* The thing at this place lives; it does not any more. Twice is the same as once. */
void journal_keep(struct journal *j, uint32_t location);
void journal_drop(struct journal *j, uint32_t location);

/* Is there a segment to be emptied? `*slot`: record_slot() of the places to move. */
bool journal_wants(const struct journal *j, uint32_t *slot);

/* For the board and the log. */
struct journal_figures {
    uint64_t bytes_max;  /* of the segments that it may have */
    uint64_t bytes_used; /* in segments that are not free */
    uint64_t bytes_live; /* that things that live take, about */
    uint64_t things;     /* that live */
    uint32_t segments;   /* files */
    uint32_t ready;      /* … that are made and not begun */
    uint32_t damages;    /* found since it was opened */
    uint64_t commits;    /* of the helper */
    uint64_t syncs;
    uint64_t failures; /* of the disk */
};
void journal_figures(const struct journal *j, struct journal_figures *out);

#endif
