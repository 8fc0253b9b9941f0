/* The inside of a journal: for journal.c and its parts alone. Floor 1. */
#ifndef MQBROKER_BROKER_JOURNAL_STATE_H
#define MQBROKER_BROKER_JOURNAL_STATE_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/commit-delay.h"
#include "broker/journal.h"
#include "broker/scribe.h"

enum {
    JOURNAL_RESERVE = 2,                 /* segments kept for what must always find room */
    JOURNAL_READY = JOURNAL_RESERVE + 1, /* segments that are made ahead, at least */
    JOURNAL_START = RECORD_HEADER_SIZE + RECORD_BEGIN_ROOM, /* of the records in a segment */
    JOURNAL_THING_MIN = 2 * RECORD_UNIT,                    /* no thing takes less room */
};

enum slot_state {
    SLOT_NONE = 0, /* there is no file */
    SLOT_IDLE,     /* nothing in it is needed */
    SLOT_MAKING,   /* the scribe's */
    SLOT_READY,    /* made, not begun */
    SLOT_USED,
    SLOT_SPOILED, /* the disk refused; what it had is being written to another */
};

struct slot {
    enum slot_state state;
    int fd;             /* -1: not open */
    uint32_t file_size; /* of the file */
    struct record_header header;
    struct record_begin begin;
    bool begins;         /* its BEGIN is still to be written */
    uint32_t end;        /* offset of the next record */
    uint32_t submitted;  /* `end` when the job under way was handed over */
    uint32_t synced_end; /* what is below is on disk */
    uint32_t things;     /* that were appended */
    uint64_t bytes;      /* which these take */
    uint32_t live;       /* things that live */
    uint64_t live_bytes;
    uint32_t largest; /* of the things ever kept here */
    uint64_t emptied; /* number of the last append when nothing lived here any more */
    uint64_t freed;   /* newest generation when it became idle */
    uint16_t *weights;
    /* Records of a spoiled segment that are still to be written here. */
    int rescue; /* its slot; -1: none */
    uint32_t rescue_from;
    uint32_t rescue_to;
    /* Where what was at this offset and beyond is now; -1: here. Until it is told, places here are
     * good. */
    int successor;
    uint32_t succeeded_from;
};

#define SLOT_NOTHING ((struct slot){.fd = -1, .rescue = -1, .successor = -1})

struct slot_list {
    uint32_t n;
    uint16_t slots[RECORD_SLOTS_MAX];
};

struct journal {
    const struct journal_files *files;
    char path[PATH_MAX];
    uint32_t segment_size;
    uint32_t n_slots; /* that there may be */
    uint32_t n_ready; /* that are made ahead */
    enum journal_sync sync;
    uint64_t interval;
    int folder;
    bool running;

    struct slot slots[RECORD_SLOTS_MAX];
    struct slot_list used; /* oldest first; the last one is written to */
    struct slot_list ready;
    struct slot_list idle;
    struct slot_list spoiled;
    uint32_t n_files;    /* slots below n_slots that have one */
    uint64_t generation; /* the newest given out */
    uint64_t highest;    /* age */
    bool making;
    bool pressing;              /* the scribe knows that it is needed soon */
    uint64_t making_generation; /* when the last one was ordered */
    int making_result;          /* of the last one */
    uint64_t making_again;      /* not before; 0: any time */

    struct scribe scribe;
    struct scribe_job jobs[2];
    struct scribe_job *gather;
    struct scribe_job *under_way; /* NULL: the scribe is idle */
    uint64_t handed_over;         /* when */
    struct commit_delay delay;
    bool held; /* it failed, and cannot be written elsewhere yet: */
    uint64_t held_until;
    bool relocated; /* places are to be told that are elsewhere now, because of: */
    int refusal;
    uint64_t alarm; /* of the scribe */
    uint64_t appended;
    uint64_t written;
    uint64_t synced;
    uint64_t synced_position;
    uint64_t sync_due; /* JOURNAL_INTERVAL; 0: nothing is unsynced */
    bool sync_wanted;

    uint64_t things;
    uint64_t live_bytes;
    int trouble;
    bool refused; /* it is the disk's, about the job under way */
    char sentence[JOURNAL_SENTENCE];
    struct journal_figures figures; /* the counters in it */
};

/* Nanoseconds of CLOCK_MONOTONIC. */
uint64_t journal_clock(void);

/* ---- Lists ---- */

void slot_list_push(struct slot_list *list, uint32_t slot);
uint32_t slot_list_take(struct slot_list *list, uint32_t i);

/* ---- journal-space.c ---- */

static inline struct slot *journal_current(struct journal *j)
{
    return &j->slots[j->used.slots[j->used.n - 1]];
}

/* Where records of a segment end at the latest. */
static inline uint32_t slot_limit(const struct slot *s)
{
    return s->header.size - RECORD_HEADER_SIZE;
}

/* The segment of a place; `*offset` is that in it. NULL: there cannot be anything. */
struct slot *journal_find(struct journal *j, uint32_t location, uint32_t *offset);

/* There is one file more, or less. */
void journal_count_file(struct journal *j, uint32_t slot, int more);

/* Memory for what lives in it. 0 or -ENOMEM. */
int slot_make_weights(struct slot *s);

/* A thing of so much room was appended at this offset. */
void slot_weigh(struct slot *s, uint32_t offset, uint32_t room);

/* What lives at `offset` and beyond lives in `to` now. */
void slot_move_live(struct slot *from, struct slot *to, uint32_t offset);

/* A segment in making for a slot: the next idle one, or a new one. False: there is none.
 * `beyond`: more than there may be, if need be. */
bool journal_choose_making(struct journal *j, bool beyond, struct scribe_making *out);

/* It was made, or not. */
void journal_made(struct journal *j, const struct scribe_making *making);

/* Order the next one, if one is needed. */
void journal_order(struct journal *j);

/* The next ready segment is the one that is written to. There is one. 0 or -ENOMEM. */
int journal_begin_segment(struct journal *j);

/* Will there be another segment without anybody's doing? */
bool journal_has_more_coming(const struct journal *j);

/* If it was full: is it still? */
void journal_look_for_room(struct journal *j);

/* Room for a record in the segment that is written to, perhaps the next. 0, -EAGAIN, -ENOSPC,
 * -ENOMEM. */
int journal_find_room(struct journal *j, uint32_t room, enum journal_claim claim);

/* Segments in which nothing lives become idle, oldest first. */
void journal_reap(struct journal *j);

void journal_make_idle(struct journal *j, uint32_t slot);

/* Does a segment that could be used again wait for a sync that nobody else asks for? */
bool journal_reuse_waits(const struct journal *j);

/* Segments that are not used, or could be made. */
uint32_t journal_available(const struct journal *j);

#endif
