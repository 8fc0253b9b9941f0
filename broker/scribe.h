/* The journal's helper thread: it writes, syncs, reads and makes segments, one job at a time, and
 * touches nothing but the job it was handed (rule P9). Floor 1. */
#ifndef MQBROKER_BROKER_SCRIBE_H
#define MQBROKER_BROKER_SCRIBE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/journal.h"
#include "broker/record.h"

/* ---- A job ---- */

/* A segment that is written to. */
struct scribe_file {
    int fd;
    struct record_header header;
    bool begins; /* `begin` is to be written, with the highest age so far */
    struct record_begin begin;
    uint64_t highest;
    /* Records of another segment that are to be here too, at the same offsets (J3). */
    int rescue_fd; /* -1: none */
    struct record_header rescue;
    uint32_t rescue_from;
    uint32_t rescue_to;
};

struct scribe_entry {
    uint32_t slot;
    uint32_t offset;
    struct record record; /* its size with the source; bytes: not used */
    size_t at;            /* its bytes in memory: from here in job.bytes */
    uint32_t size;        /* so many */
    int source_fd;
    uint64_t source_offset;
    uint32_t source_size; /* 0: none */
    int result;           /* -errno: the source could not be read, and there is a VOID now */
};

struct scribe_read {
    int fd;
    struct record_header header;
    uint32_t location;
    uint64_t tag;
    int to_fd; /* -1: read; otherwise copy: */
    uint64_t to;
    uint32_t offset;
    uint32_t size;
    int result;
    struct record record;
    size_t at; /* its first bytes: from here in job.read_bytes */
};

struct scribe_job {
    uint8_t *bytes;
    size_t n_bytes;
    size_t capacity;
    struct scribe_entry *entries; /* in the order of files, and of offsets */
    uint32_t n_entries;
    uint32_t entries_capacity;
    uint64_t source_bytes;
    struct scribe_file *files; /* all that is written to or synced, in order of generation */
    uint32_t n_files;
    uint32_t files_capacity;
    uint64_t synced;   /* the position that is known to be synced */
    uint64_t last;     /* number of the last append in it */
    uint64_t position; /* where the journal ends with it */
    bool sync;
    int result;         /* 0, or -errno: not all was written, or not all synced */
    uint32_t unrescued; /* places that could not be rescued */
    uint32_t n_syncs;
    struct scribe_read reads[JOURNAL_READS];
    uint32_t n_reads;
    uint8_t *read_bytes;
    size_t n_read_bytes;
    size_t read_capacity;
};

void scribe_job_deinit(struct scribe_job *job);
/* It is empty again; memory stays. */
void scribe_job_clear(struct scribe_job *job);

/* ---- A segment in making ---- */

struct scribe_making {
    struct record_header header;
    int fd;          /* -1: the file is to be made */
    uint32_t size;   /* of the file as it is */
    int result;      /* 0 or -errno */
    uint32_t filled; /* progress */
    bool marked;     /* the old contents are no records any more */
    bool made;
    bool pressing; /* it is needed soon: also between two jobs */
};

/* A bounded step: 1 there is more to do, 0 it is ready and all of it synced, -errno. What could not
 * be made is taken away. */
int scribe_make(const struct journal_files *files, int folder, struct scribe_making *making);

/* ---- The thread ---- */

struct scribe {
    const struct journal_files *files;
    int folder;
    int event_fd;
    atomic_bool rung; /* … since it was read last */
    uint8_t *stage;   /* what is written is put together here, */
    uint8_t *window;  /* and what is read for it seen through this */
    pthread_t thread;
    bool started;
    pthread_mutex_t mutex; /* of what follows */
    pthread_cond_t wake;
    bool stop;
    struct scribe_job *job; /* handed over */
    bool finished;          /* it is */
    bool making_active;     /* the scribe's */
    bool making_done;       /* the owner's again */
    struct scribe_making making;
    uint64_t idle_since; /* CLOCK_MONOTONIC */
    uint64_t alarm;      /* CLOCK_MONOTONIC: ring then; 0: never */
};

/* `files` is borrowed, and `folder`. Begins no thread yet: a job can be done in the caller's. */
int scribe_init(struct scribe *s, const struct journal_files *files, int folder);
int scribe_start(struct scribe *s);
/* Ends the thread when it is done with its job. Fine twice. */
void scribe_deinit(struct scribe *s);

/* Has it rung since this was asked last? Then something may be finished, made, or due. */
bool scribe_rang(struct scribe *s);

/* Hand over a job; there must be none. It is the scribe's until scribe_finished() returns it. */
void scribe_submit(struct scribe *s, struct scribe_job *job);
struct scribe_job *scribe_finished(struct scribe *s);

/* The same for a segment; false: it is not ready. */
void scribe_order(struct scribe *s, const struct scribe_making *making);

/* The segment in making is needed soon. */
void scribe_press(struct scribe *s);
bool scribe_made(struct scribe *s, struct scribe_making *out);

/* Wait until something is finished or made. Does the work itself if there is no thread. */
int scribe_wait(struct scribe *s);

/* Do what there is to do: a job, a step of a segment in making. False: there is nothing. The
 * thread's, or that of who has none. */
bool scribe_work(struct scribe *s);

/* Ring at this time (CLOCK_MONOTONIC, nanoseconds; 0: never). */
void scribe_set_alarm(struct scribe *s, uint64_t at);

#endif
