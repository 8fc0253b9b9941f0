/* A snapshot: what stood on a board at one moment, as plain numbers, with what its reader knows
 * besides. Everything that is shown is rendered from a snapshot, never from the board, which goes
 * on changing.
 *
 * The words are tables, taken over from board.h or standing here: keys, units and sentences of
 * JSON, Prometheus and documentation come from them (struct snapshot_field). */
#ifndef MQBROKER_TOOLS_SNAPSHOT_H
#define MQBROKER_TOOLS_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libclient/board.h"

/* X(key, kind, unit, sentence): words of struct board_row. */
#define SNAPSHOT_CLIENT(X)                                                                         \
    X(in, COUNTER, "messages", "messages taken from it")                                           \
    X(out, COUNTER, "messages", "messages handed to its reply queue")                              \
    X(bytes_in, COUNTER, "bytes", "bytes of the frames taken from it, and of payloads in pools")   \
    X(bytes_out, COUNTER, "bytes", "bytes of the frames handed to it, and of payloads in pools")   \
    X(batches_out, COUNTER, "batches", "queue messages sent to it")                                \
    X(missed, COUNTER, "messages", "messages that were dropped for it")                            \
    X(rejected, COUNTER, "frames", "malformed frames in its envelopes")                            \
    X(stalled_times, COUNTER, "times", "how often it came to count as stalled")                    \
    X(stalled, GAUGE, "flag", "1 while it counts as stalled: over its quota for too long")         \
    X(waiting, GAUGE, "messages", "deliveries to it that wait in the broker")                      \
    X(waiting_bytes, GAUGE, "bytes", "message memory that they take")                              \
    X(charged, GAUGE, "bytes", "bytes of its own window that are under way")                       \
    X(grant, COUNTER, "bytes", "running total of what it may have published")                      \
    X(subscriptions, GAUGE, "filters", "topic filters it is subscribed to")                        \
    X(held, GAUGE, "messages", "deliveries whose payloads it may read in pools")                   \
    X(held_bytes, GAUGE, "bytes", "those payloads")                                                \
    X(unacknowledged, GAUGE, "messages", "messages of groups that it has yet to acknowledge")      \
    X(groups, GAUGE, "groups", "groups that it is a member of")

/* Words of struct board_topic. */
#define SNAPSHOT_TOPIC(X)                                                                          \
    X(in, COUNTER, "messages", "messages published to it")                                         \
    X(bytes_in, COUNTER, "bytes", "bytes of their frames, and of payloads in pools")               \
    X(out, COUNTER, "messages", "deliveries of them to reply queues")                              \
    X(unmatched, COUNTER, "messages", "messages that nobody subscribed to")                        \
    X(waiting, GAUGE, "messages", "deliveries of them that wait in the broker")

/* Words of struct board_group. */
#define SNAPSHOT_GROUP(X)                                                                          \
    X(members, GAUGE, "sessions", "sessions that take messages from it")                           \
    X(waiting, GAUGE, "messages", "messages that have yet to be delivered, later ones included")   \
    X(waiting_bytes, GAUGE, "bytes", "what they take, as far as they are not on disk alone")       \
    X(later, GAUGE, "messages", "those that were returned with a delay, which still runs")         \
    X(unacknowledged, GAUGE, "messages", "delivered, and not acknowledged yet")                    \
    X(dead, GAUGE, "messages", "dead letters")                                                     \
    X(on_disk, GAUGE, "messages", "those whose payload is in the journal alone")                   \
    X(in, COUNTER, "messages", "messages taken into it")                                           \
    X(out, COUNTER, "messages", "deliveries of them to members")                                   \
    X(acknowledged, COUNTER, "messages", "messages that a member acknowledged")                    \
    X(returned, COUNTER, "messages", "deliveries that came back")                                  \
    X(timeouts, COUNTER, "messages", "those that did because nobody acknowledged them in time")    \
    X(dead_letters, COUNTER, "messages", "messages that were given up on and kept aside")          \
    X(refused, COUNTER, "messages", "messages that it had no room for")

/* What a group is set to. */
#define SNAPSHOT_GROUP_SETTINGS(X)                                                                 \
    X(delivery_limit, GAUGE, "times", "deliveries of a message before it becomes a dead letter")   \
    X(ack_timeout_ms, GAUGE, "milliseconds", "how long a member has to acknowledge")               \
    X(size_max, GAUGE, "bytes", "how much they may take")

/* Words of struct board_journal; its counters are BOARD_JOURNAL. */
#define SNAPSHOT_JOURNAL(X)                                                                        \
    X(size, GAUGE, "bytes", "what the segments take that are in use")                              \
    X(size_max, GAUGE, "bytes", "how much all of them may take")                                   \
    X(live, GAUGE, "bytes", "what is needed of that")                                              \
    X(segments, GAUGE, "segments", "files that it is made of")                                     \
    X(full, GAUGE, "flag", "1 while it has no room, and durable messages are refused")             \
    X(unsynced, GAUGE, "records", "records that wait for the disk")                                \
    X(ready, GAUGE, "segments", "files that are made and not written to yet")

/* Words of struct board_priority. */
#define SNAPSHOT_PRIORITY(X)                                                                       \
    X(in, COUNTER, "messages", "messages of this priority taken from clients")                     \
    X(out, COUNTER, "messages", "messages of this priority handed to reply queues")                \
    X(waiting, GAUGE, "messages", "deliveries of this priority that wait in the broker")

/* Words of struct board_header. */
#define SNAPSHOT_LIMITS(X)                                                                         \
    X(clients, GAUGE, "sessions", "sessions that are registered")                                  \
    X(clients_max, GAUGE, "sessions", "how many there may be at once")                             \
    X(subscriptions, GAUGE, "filters", "subscriptions of all sessions")                            \
    X(topics, GAUGE, "topics", "topics that are watched one by one")                               \
    X(topics_max, GAUGE, "topics", "how many there can be, one row for all others included")       \
    X(queue_bytes_used, GAUGE, "bytes", "kernel queue memory that the broker's queues take")       \
    X(queue_bytes_limit, GAUGE, "bytes", "how much they may take: RLIMIT_MSGQUEUE")                \
    X(queues_max, GAUGE, "queues", "queues that the machine may have: fs.mqueue.queues_max")       \
    X(references_used, GAUGE, "references", "deliveries and subscriptions that are kept")          \
    X(references_max, GAUGE, "references", "how many can be kept")                                 \
    X(cells_used, GAUGE, "cells", "message memory in use, in cells of 256 bytes")                  \
    X(cells_max, GAUGE, "cells", "how much there can be")                                          \
    X(store_allocated, GAUGE, "bytes", "message memory that has real memory behind it")            \
    X(retained, GAUGE, "messages", "retained messages")                                            \
    X(retained_bytes, GAUGE, "bytes", "message memory that they take")                             \
    X(retained_max, GAUGE, "bytes", "how much they may take")                                      \
    X(frame_max, GAUGE, "bytes", "largest message frame")                                          \
    X(window, GAUGE, "bytes", "what a publisher may have under way")                               \
    X(pools, GAUGE, "pools", "payload pools that there are")                                       \
    X(orphans, GAUGE, "pools", "those whose sessions have ended, but not all of their messages")   \
    X(groups, GAUGE, "groups", "consumer groups that there are")                                   \
    X(groups_max, GAUGE, "groups", "how many there may be at once")

enum snapshot_kind { SNAPSHOT_COUNTER, SNAPSHOT_GAUGE };

/* One word of a struct of words: `offset` bytes into it stands a uint64_t. Tables end with a NULL
 * key. */
struct snapshot_field {
    const char *key;
    enum snapshot_kind kind;
    const char *unit;
    const char *sentence;
    size_t offset;
};

extern const struct snapshot_field snapshot_totals_fields[];
extern const struct snapshot_field snapshot_drops_fields[];
extern const struct snapshot_field snapshot_refusals_fields[];
extern const struct snapshot_field snapshot_rejects_fields[];
extern const struct snapshot_field snapshot_priority_fields[];
extern const struct snapshot_field snapshot_client_fields[];
extern const struct snapshot_field snapshot_topic_fields[];
extern const struct snapshot_field snapshot_group_fields[];
extern const struct snapshot_field snapshot_journal_fields[];
extern const struct snapshot_field snapshot_limits_fields[];

static inline uint64_t snapshot_word(const void *words, const struct snapshot_field *field)
{
    return *(const uint64_t *)(const void *)((const char *)words + field->offset);
}

#define SNAPSHOT_BOARD_WORD(key, unit, sentence) uint64_t key;
#define SNAPSHOT_WORD(key, kind, unit, sentence) uint64_t key;

struct snapshot_totals {
    BOARD_TOTALS(SNAPSHOT_BOARD_WORD)
};
struct snapshot_drops {
    BOARD_DROPS(SNAPSHOT_BOARD_WORD)
};
struct snapshot_refusals {
    BOARD_REFUSALS(SNAPSHOT_BOARD_WORD)
};
struct snapshot_rejects {
    BOARD_REJECTS(SNAPSHOT_BOARD_WORD)
};
struct snapshot_limits {
    SNAPSHOT_LIMITS(SNAPSHOT_WORD)
};
struct snapshot_journal {
    SNAPSHOT_JOURNAL(SNAPSHOT_WORD)
    BOARD_JOURNAL(SNAPSHOT_BOARD_WORD)
};

struct snapshot_queue {
    uint32_t depth;
    uint32_t width;
    uint32_t standing;
    bool asked; /* `standing` is the kernel's word, not what the broker saw last */
};

struct snapshot_priority {
    struct {
        SNAPSHOT_PRIORITY(SNAPSHOT_WORD)
    } words;
    struct snapshot_drops drops;
    uint64_t wait[BOARD_BUCKETS];
};

struct snapshot_client {
    uint32_t session; /* its row */
    bool torn;        /* the broker was killed while it wrote who this is */
    struct board_client_info info;
    struct {
        SNAPSHOT_CLIENT(SNAPSHOT_WORD)
    } words;
    struct snapshot_drops drops;
    struct snapshot_refusals refusals;
    struct snapshot_queue queue;
};

struct snapshot_topic {
    char name[BOARD_TOPIC_SIZE]; /* empty: all others */
    struct {
        SNAPSHOT_TOPIC(SNAPSHOT_WORD)
    } words;
    struct snapshot_drops drops;
};

struct snapshot_group {
    bool torn; /* the broker was killed while it wrote which this is */
    struct board_group_info info;
    struct {
        SNAPSHOT_GROUP(SNAPSHOT_WORD)
        SNAPSHOT_GROUP_SETTINGS(SNAPSHOT_WORD)
    } words;
    struct snapshot_drops drops;
};

struct snapshot {
    /* What the reader knows; snapshot_take() leaves it alone. */
    const char *instance;
    bool alive;         /* the broker's process */
    uint64_t now;       /* nanoseconds of CLOCK_REALTIME */
    uint64_t boot_now;  /* of CLOCK_BOOTTIME */
    uint64_t monotonic; /* of CLOCK_MONOTONIC: two snapshots make a rate */

    /* What stood on the board. */
    uint32_t layout;
    uint32_t state; /* enum board_state */
    uint32_t pid;
    uint64_t pid_start;
    uint64_t started;   /* CLOCK_REALTIME */
    uint64_t last_turn; /* CLOCK_BOOTTIME */
    bool asleep;
    struct snapshot_limits limits;
    struct snapshot_queue request, urgent;
    struct snapshot_totals totals;
    struct snapshot_drops drops;
    struct snapshot_refusals refusals;
    struct snapshot_rejects rejects;
    struct snapshot_priority priorities[WIRE_LEVELS];
    struct snapshot_client *clients;
    size_t n_clients;
    struct snapshot_topic *topics;
    size_t n_topics;
    struct snapshot_group *groups;
    size_t n_groups;
    bool has_journal;
    struct snapshot_journal journal; /* if it has one */
};

/* Copy a board that board_check() has found good. `snapshot` is zero, or has only what the reader
 * knows. 0 or -ENOMEM. Pure. */
int snapshot_take(struct snapshot *snapshot, const struct board_header *board);

void snapshot_deinit(struct snapshot *snapshot);

/* All counts of a histogram of time in broker. */
uint64_t snapshot_wait_count(const uint64_t wait[BOARD_BUCKETS]);

/* The time, in microseconds, below which `permille` of the messages stayed; SNAPSHOT_UNBOUNDED:
 * they are in the last bucket, which has no upper bound. 0: there were none. 1,000 asks for the
 * largest. */
#define SNAPSHOT_UNBOUNDED UINT64_MAX
uint64_t snapshot_wait_bound(const uint64_t wait[BOARD_BUCKETS], unsigned permille);

/* Has this priority ever been used? */
bool snapshot_priority_used(const struct snapshot_priority *priority);

#endif
