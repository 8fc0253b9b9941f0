/* The board: the shared-memory segment with live statistics and flow control (contract; floor 0).
 *
 * The broker writes, everybody else maps it read-only: a look costs the broker nothing, and works
 * while it hangs and after it died. The layout is versioned by BOARD_LAYOUT and by the sizes in the
 * header; who does not know it must not read on.
 *
 * One writer. Words that stand alone are relaxed atomics: each is right, two of them may be of
 * different moments. Words that only make sense together (who is in a row) lie behind a sequence
 * word: odd while they are being written (struct board_identity, struct board_topic). The reader's
 * loop is board_read_begin / board_read_retry, bounded by the caller.
 *
 * The counters are tables (X macros): layout, JSON keys, Prometheus names and documentation all
 * come from them. A new counter goes at the end of its table, which has room for it: the layout
 * stays, so that a newer broker can take over the board that clients have mapped. A key is never
 * renamed or removed (the JSON is an interface). */
#ifndef MQBROKER_LIBCLIENT_BOARD_H
#define MQBROKER_LIBCLIENT_BOARD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libclient/wire.h"

#define BOARD_MAGIC UINT32_C(0x4451424d) /* "MBQD" */

enum {
    BOARD_LAYOUT = 3,
    BOARD_POSTINGS = 64, /* answers to registrations that stand on the board at once */
    BOARD_BUCKETS =
        40, /* of the histogram of time in broker: bucket i counts times below 2^i microseconds */
    BOARD_NAME_SIZE = 64,
    BOARD_TOPIC_SIZE = 256,
};

/* X(key, unit, sentence) */
#define BOARD_TOTALS(X)                                                                            \
    X(messages_in, "messages", "messages taken from clients and routed")                           \
    X(messages_out, "messages", "messages handed to reply queues")                                 \
    X(bytes_in, "bytes", "bytes of their frames, and of payloads in pools")                        \
    X(bytes_out, "bytes", "bytes of their frames, and of payloads in pools")                       \
    X(envelopes_in, "envelopes", "queue messages received")                                        \
    X(batches_out, "batches", "queue messages sent")                                               \
    X(turns, "turns", "turns of the broker's loop that had work")                                  \
    X(requests, "messages", "requests among the messages in")                                      \
    X(replies, "messages", "replies among the messages in")                                        \
    X(unmatched, "messages", "messages that nobody subscribed to")                                 \
    X(registered, "sessions", "sessions that began")                                               \
    X(died, "sessions", "sessions ended by the death of their process")                            \
    X(said_bye, "sessions", "sessions ended by themselves")                                        \
    X(ended, "sessions", "sessions ended by the broker")                                           \
    X(refused_registrations, "registrations", "registrations refused")                             \
    X(full_queues, "times", "times that a reply queue had no room")                                \
    X(reloads, "times", "configuration reloads that were applied")                                 \
    X(starts, "times", "starts of the broker on this board")                                       \
    X(fetched, "messages", "payloads copied for receivers that cannot map their sender's pool")    \
    X(boxed, "batches", "batches that went by the outbox, too large for the reply queue")          \
    X(nudges, "messages", "requests to look at what receivers have given back")                    \
    X(acknowledged, "messages", "messages of groups that a member acknowledged")                   \
    X(returned, "messages", "messages of groups that came back unacknowledged")                    \
    X(dead_letters, "messages", "messages of groups that were given up on and kept aside")         \
    X(wills, "messages", "last wills published")                                                   \
    X(handovers, "times", "times that the broker was replaced without an end")                     \
    X(handovers_refused, "times", "times that it could not be, and went on")                       \
    X(reloads_refused, "times", "configuration reloads that were not: nothing was changed")

/* Deliveries that were given up: per client, per topic, per priority and in total. */
#define BOARD_DROPS(X)                                                                             \
    X(expired, "messages", "time to live ran out before delivery")                                 \
    X(overflow, "messages", "thrown out by the overflow policy of a stalled subscriber")           \
    X(gone, "messages", "their receiver's session ended first")                                    \
    X(unread, "messages", "time to live ran out in the reply queue, as the receiver reported")     \
    X(purged, "messages", "removed from a group by its administrator, or with the group")          \
    X(damaged, "messages", "durable, and the journal could not be read where they were")

/* Publishes that were not taken: per client and in total. */
#define BOARD_REFUSALS(X)                                                                          \
    X(window, "messages", "the publisher was over its window")                                     \
    X(store_full, "messages", "no room in the message memory")                                     \
    X(bad_topic, "messages", "not a topic that one may publish to")                                \
    X(late, "messages", "time to live had run out when it came")                                   \
    X(stray, "messages", "a reply to what asked for none, or whose requester is gone")             \
    X(retained_full, "messages", "delivered but not kept: the retained store is full")             \
    X(bad_slot, "messages", "the payload is not in its sender's pool")                             \
    X(group_full, "messages", "a group that it was also for had no room")                          \
    X(journal_full, "messages", "durable, and the journal or its disk had no room")

/* Envelopes that were not believed, and frames that were not understood: in total. */
#define BOARD_REJECTS(X)                                                                           \
    X(truncated, "envelopes", "shorter than its header, or than the length it states")             \
    X(magic, "envelopes", "not an envelope")                                                       \
    X(version, "envelopes", "of another version of the protocol")                                  \
    X(length, "envelopes", "states another length than it has")                                    \
    X(reserved, "envelopes", "a reserved field of the header is not zero")                         \
    X(session, "envelopes", "names a session that does not exist")                                 \
    X(token, "envelopes", "the token is not the session's")                                        \
    X(frame, "frames", "a malformed frame in a believed envelope, with what followed it")

/* The journal. */
#define BOARD_JOURNAL(X)                                                                           \
    X(records, "records", "records written")                                                       \
    X(bytes, "bytes", "their bytes")                                                               \
    X(commits, "times", "times that what had gathered was written")                                \
    X(syncs, "times", "times that the disk was told to keep it")                                   \
    X(sync_time, "microseconds", "what that took")                                                 \
    X(loads, "messages", "payloads read back")                                                     \
    X(moves, "records", "records moved so that a segment could be used again")                     \
    X(failures, "times", "writes or syncs that failed")                                            \
    X(damaged, "places", "damaged places that were found and passed over")

#define BOARD_FIELD(key, unit, sentence) _Atomic uint64_t key;

/* Words of each table, used or to be used. */
enum {
    BOARD_TOTALS_MAX = 64,
    BOARD_DROPS_MAX = 8,
    BOARD_REFUSALS_MAX = 16,
    BOARD_REJECTS_MAX = 16,
    BOARD_JOURNAL_MAX = 32,
};

#define BOARD_TABLE(name, table, max)                                                              \
    struct name {                                                                                  \
        union {                                                                                    \
            struct {                                                                               \
                table(BOARD_FIELD)                                                                 \
            };                                                                                     \
            _Atomic uint64_t words[max];                                                           \
        };                                                                                         \
    };                                                                                             \
    _Static_assert(sizeof(struct name) == (max) * sizeof(uint64_t), "the table has outgrown it")

BOARD_TABLE(board_totals, BOARD_TOTALS, BOARD_TOTALS_MAX);
BOARD_TABLE(board_drops, BOARD_DROPS, BOARD_DROPS_MAX);
BOARD_TABLE(board_refusals, BOARD_REFUSALS, BOARD_REFUSALS_MAX);
BOARD_TABLE(board_rejects, BOARD_REJECTS, BOARD_REJECTS_MAX);
BOARD_TABLE(board_journal_counters, BOARD_JOURNAL, BOARD_JOURNAL_MAX);

enum board_state {
    BOARD_STARTING = 0, /* being built, or broker killed while it was */
    BOARD_RUNNING = 1,
    BOARD_STOPPING = 2, /* clean stop under way: nothing more is taken */
    BOARD_STOPPED = 3,  /* removed; only who still maps it sees this */
};

enum board_sleep {
    BOARD_AWAKE = 0,
    BOARD_ASLEEP = 1,
    BOARD_LISTENING = 2, /* asleep, and somebody waits for what release rings bring */
};

/* One priority. */
struct board_priority {
    _Atomic uint64_t in;
    _Atomic uint64_t out;
    _Atomic uint64_t waiting; /* references that wait for room now */
    struct board_drops drops;
    _Atomic uint64_t
        wait[BOARD_BUCKETS]; /* time in broker of what went out, bucket i: below 2^i us */
};

/* A kernel queue. `standing` is what the broker saw last; whoever may open the queue asks the
 * kernel. */
struct board_queue {
    _Atomic uint32_t depth;
    _Atomic uint32_t width;
    _Atomic uint32_t standing;
    _Atomic uint32_t reserved;
};

/* The answer to a registration: looked up by nonce. */
struct board_posting {
    _Atomic uint64_t nonce;
    _Atomic uint32_t code; /* enum wire_code */
    _Atomic uint32_t number1;
    _Atomic uint64_t number2;
};

/* Who is in a row; behind `sequence`. */
struct board_identity {
    _Atomic uint32_t sequence;
    _Atomic uint32_t state; /* enum board_row_state */
    _Atomic uint64_t nonce; /* of its reply queue's name */
    _Atomic uint64_t since; /* nanoseconds of CLOCK_REALTIME */
    _Atomic uint32_t pid;
    _Atomic uint32_t uid;
    _Atomic uint32_t publish_only;
    _Atomic uint32_t reserved;
    _Atomic uint8_t name[BOARD_NAME_SIZE]; /* NUL-terminated; empty if it has none */
};

enum board_row_state {
    BOARD_ROW_FREE = 0,
    BOARD_ROW_MAKING = 1,
    BOARD_ROW_LIVE = 2,
    BOARD_ROW_ENDING = 3,
};

/* A session's row. What its client reads for every message stands first, on lines that are written
 * once a batch. */
struct board_row {
    /* Flow: `core-sketch` section 6, rules P1, P4, P5. */
    _Alignas(64) _Atomic uint64_t
        tide; /* priorities that wait in the broker << 32 | low half of the newest number */
    _Atomic uint64_t grant;                  /* bytes it may have published in all */
    _Atomic uint64_t missed;                 /* messages dropped for it */
    _Atomic uint32_t level[WIRE_LEVELS + 1]; /* low half of the number of the last batch sent at
                                                each kernel priority */
    _Atomic uint32_t stuck; /* low half of the pool's `waits`: that wait is in vain until its
                               client reads or frees something (broker/knots.h) */

    /* Watching. */
    _Alignas(64) struct board_identity identity;
    struct board_queue queue;
    _Atomic uint64_t in;  /* messages taken from it */
    _Atomic uint64_t out; /* messages handed to its reply queue */
    _Atomic uint64_t bytes_in;
    _Atomic uint64_t bytes_out;
    _Atomic uint64_t batches_out;
    _Atomic uint64_t waiting;       /* deliveries to it that wait in the broker */
    _Atomic uint64_t waiting_bytes; /* their cells */
    _Atomic uint64_t charged;       /* bytes of its own window under way */
    _Atomic uint64_t subscriptions;
    _Atomic uint64_t rejected;      /* malformed frames in its envelopes */
    _Atomic uint64_t stalled;       /* 1 while it counts as stalled (rule P7) */
    _Atomic uint64_t stalled_times; /* how often it came to that */
    struct board_drops drops;
    struct board_refusals refusals;
    _Atomic uint64_t held;           /* deliveries whose payloads it may read in pools */
    _Atomic uint64_t held_bytes;     /* those payloads */
    _Atomic uint64_t unacknowledged; /* deliveries of groups that it has yet to acknowledge */
    _Atomic uint64_t groups;         /* that it is a member of */
    _Atomic uint64_t spare[6];
};

/* A topic that messages were published to, in the order of first use. When all rows are taken,
 * further topics share the last one, whose name is empty. */
struct board_topic {
    _Atomic uint32_t sequence;
    _Atomic uint32_t size; /* of its name; 0 in a used row: "all others" */
    _Atomic uint64_t in;
    _Atomic uint64_t bytes_in;
    _Atomic uint64_t out;
    _Atomic uint64_t waiting;
    _Atomic uint64_t unmatched;
    struct board_drops drops;
    _Atomic uint8_t name[BOARD_TOPIC_SIZE];
};

enum board_group_state {
    BOARD_GROUP_FREE = 0,
    BOARD_GROUP_LIVE = 1,
    BOARD_GROUP_ENDING = 2, /* what it has is being removed */
};

/* A consumer group, with its dead letters. Name and settings are behind `sequence`. */
struct board_group {
    _Atomic uint32_t sequence;
    _Atomic uint32_t state;   /* enum board_group_state */
    _Atomic uint32_t durable; /* 1: it is */
    _Atomic uint32_t delivery_limit;
    _Atomic uint64_t ack_timeout; /* milliseconds */
    _Atomic uint64_t size_max;    /* bytes that may wait in it */
    _Atomic uint8_t name[BOARD_NAME_SIZE];

    _Atomic uint64_t members;
    _Atomic uint64_t waiting;        /* messages: to be delivered, later ones included */
    _Atomic uint64_t waiting_bytes;  /* of all that it has and that is not on disk alone */
    _Atomic uint64_t later;          /* those among them that were returned with a delay */
    _Atomic uint64_t unacknowledged; /* delivered to a member that has yet to say so */
    _Atomic uint64_t dead;           /* dead letters */
    _Atomic uint64_t in;             /* messages taken */
    _Atomic uint64_t out;            /* deliveries */
    _Atomic uint64_t acknowledged;   /* messages */
    _Atomic uint64_t returned;       /* deliveries that came back */
    _Atomic uint64_t timeouts;       /* … because of the acknowledge timeout */
    _Atomic uint64_t dead_letters;   /* ever */
    _Atomic uint64_t refused;        /* messages that it had no room for */
    _Atomic uint64_t on_disk;        /* messages whose payload is in the journal alone */
    struct board_drops drops;
    _Atomic uint64_t spare[8];
};

/* The journal, if there is one. */
struct board_journal {
    _Atomic uint64_t enabled;  /* 1: there is one */
    _Atomic uint64_t size_max; /* bytes that its segments may come to */
    _Atomic uint64_t size;     /* that they have */
    _Atomic uint64_t live;     /* bytes in them that are needed */
    _Atomic uint64_t segments;
    _Atomic uint64_t full;     /* 1: it refuses */
    _Atomic uint64_t unsynced; /* records that wait for the disk */
    _Atomic uint64_t ready;    /* segments that are made ahead */
    _Atomic uint64_t spare[8];
    struct board_journal_counters counters;
};

struct board_header {
    /* Checked on attach, never changed. */
    uint32_t magic;
    uint32_t layout;
    uint64_t size;        /* of the segment */
    uint32_t header_size; /* sizeof each, so that a mismatch is seen and not read through */
    uint32_t row_size;
    uint32_t topic_size;
    uint32_t n_rows;   /* sessions */
    uint32_t n_topics; /* topic rows, "all others" included */
    uint32_t n_groups;
    uint64_t rows_offset; /* from the start of the segment */
    uint64_t topics_offset;
    uint32_t frame_max; /* largest message frame, bytes */
    uint32_t group_size;
    uint64_t window; /* of each session, bytes */
    uint64_t groups_offset;

    /* The broker. */
    _Alignas(64) _Atomic uint32_t state; /* enum board_state */
    _Atomic uint32_t pid;
    _Atomic uint64_t
        pid_start; /* field 22 of /proc/<pid>/stat: pid and this name a process for good */
    _Atomic uint64_t started;   /* nanoseconds of CLOCK_REALTIME */
    _Atomic uint64_t last_turn; /* nanoseconds of CLOCK_BOOTTIME at its last turn that had work */
    _Atomic uint32_t postings;  /* futex word: rises with every posting */
    _Atomic uint32_t asleep;    /* enum board_sleep: it sleeps, or is about to (rule P8) */
    _Atomic uint32_t topics_used;
    _Atomic uint32_t clients; /* live sessions */

    /* Limits and what is used of them. */
    _Alignas(64) _Atomic uint64_t queue_bytes_limit; /* RLIMIT_MSGQUEUE */
    _Atomic uint64_t queue_bytes_used;               /* by this broker's queues */
    _Atomic uint64_t queues_max;                     /* fs.mqueue.queues_max */
    _Atomic uint64_t references_max;
    _Atomic uint64_t references_used;
    _Atomic uint64_t cells_max;
    _Atomic uint64_t cells_used;
    _Atomic uint64_t store_allocated; /* bytes of the store that have memory behind them */
    _Atomic uint64_t retained_max;    /* bytes */
    _Atomic uint64_t retained_bytes;
    _Atomic uint64_t retained; /* messages */
    _Atomic uint64_t subscriptions;
    _Atomic uint64_t pools;   /* of sessions, and of ended ones whose messages are still needed */
    _Atomic uint64_t orphans; /* the latter */
    _Atomic uint64_t groups;
    _Atomic uint64_t spare[7];
    struct board_queue request;
    struct board_queue urgent;

    struct board_totals totals;
    struct board_drops drops;
    struct board_refusals refusals;
    struct board_rejects rejects;
    struct board_journal journal;
    struct board_priority priorities[WIRE_LEVELS];
    struct board_posting
        board_postings[BOARD_POSTINGS]; /* a ring: slot = postings % BOARD_POSTINGS */
};

/* Bytes of a segment for so many rows, topics and groups. */
size_t board_size(uint32_t n_rows, uint32_t n_topics, uint32_t n_groups);

/* Lay an empty board out in `size` zeroed bytes; state is BOARD_STARTING. */
void board_format(void *base, size_t size, uint32_t n_rows, uint32_t n_topics, uint32_t n_groups);

enum board_outcome {
    BOARD_OK = 0,
    BOARD_E_SIZE,   /* too small for what its header states */
    BOARD_E_MAGIC,  /* not a board */
    BOARD_E_LAYOUT, /* a board of another version */
};

/* May this be read: checks everything on which board_row() and board_topic() rely. `size` bytes are
 * mapped at `base`. Returns an enum board_outcome. */
int board_check(const void *base, size_t size);

static inline struct board_row *board_row(const struct board_header *board, uint32_t i)
{
    return (struct board_row *)((char *)(uintptr_t)board + board->rows_offset) + i;
}

static inline struct board_topic *board_topic(const struct board_header *board, uint32_t i)
{
    return (struct board_topic *)((char *)(uintptr_t)board + board->topics_offset) + i;
}

static inline struct board_group *board_group(const struct board_header *board, uint32_t i)
{
    return (struct board_group *)((char *)(uintptr_t)board + board->groups_offset) + i;
}

/* Counters have one writer: no read-modify-write instruction is needed. */
static inline uint64_t board_get(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static inline void board_set(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

static inline void board_add(_Atomic uint64_t *word, uint64_t n)
{
    board_set(word, board_get(word) + n);
}

/* Words behind a sequence word. A writer that was killed in the middle leaves it odd; the next one
 * makes it even. */
static inline void board_write_begin(_Atomic uint32_t *sequence)
{
    uint32_t s = atomic_load_explicit(sequence, memory_order_relaxed) | 1u;

    atomic_store_explicit(sequence, s, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
}

static inline void board_write_end(_Atomic uint32_t *sequence)
{
    uint32_t s = atomic_load_explicit(sequence, memory_order_relaxed);

    atomic_store_explicit(sequence, s + 1, memory_order_release);
}

static inline uint32_t board_read_begin(const _Atomic uint32_t *sequence)
{
    return atomic_load_explicit(sequence, memory_order_acquire);
}

/* True: what was read between is not of one moment. */
static inline bool board_read_retry(const _Atomic uint32_t *sequence, uint32_t begun)
{
    atomic_thread_fence(memory_order_acquire);
    return (begun & 1u) != 0 || atomic_load_explicit(sequence, memory_order_relaxed) != begun;
}

/* Copies of what lies behind a sequence word, for readers. */
struct board_client_info {
    uint32_t state;
    uint64_t nonce;
    uint64_t since;
    uint32_t pid;
    uint32_t uid;
    bool publish_only;
    char name[BOARD_NAME_SIZE];
};

/* Take a consistent copy. False: the writer was in the middle all through 1,000 tries (it was
 * killed there); `out` then holds what stands. */
bool board_read_identity(const struct board_row *row, struct board_client_info *out);
bool board_read_topic_name(const struct board_topic *topic, char out[BOARD_TOPIC_SIZE]);

/* Writer's side of the same. */
void board_write_identity(struct board_row *row, const struct board_client_info *info);
void board_write_topic_name(struct board_topic *topic, const char *name, size_t size);

/* A group's name and settings, which do not change while it exists. */
struct board_group_info {
    uint32_t state; /* enum board_group_state */
    bool durable;
    uint32_t delivery_limit;
    uint64_t ack_timeout; /* milliseconds */
    uint64_t size_max;
    char name[BOARD_NAME_SIZE];
};

bool board_read_group(const struct board_group *group, struct board_group_info *out);
void board_write_group(struct board_group *group, const struct board_group_info *info);

/* The bucket of the histogram of time in broker. */
static inline unsigned board_bucket(uint64_t microseconds)
{
    unsigned bucket = microseconds == 0 ? 0 : 64u - (unsigned)__builtin_clzll(microseconds);

    return bucket < BOARD_BUCKETS ? bucket : BOARD_BUCKETS - 1;
}

#endif
