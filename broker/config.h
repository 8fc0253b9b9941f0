/* The configuration: a libconfig file to a checked struct. Every key stands in one table (config.c)
 * with its range, its default, and whether it can change while the broker runs. */
#ifndef MQBROKER_BROKER_CONFIG_H
#define MQBROKER_BROKER_CONFIG_H

#include <stdint.h>

/* What becomes of a stalled session, and (but for disconnect) of a group that is full: the order of
 * enum engine_overflow. */
enum config_overflow {
    CONFIG_DROP_OLDEST = 0, /* of the lowest priority */
    CONFIG_DROP_NEWEST = 1, /* likewise */
    CONFIG_BLOCK = 2,       /* nothing is dropped: its publishers wait. They are all of one user,
                             * who can bear it (P7): the broker is private */
    CONFIG_DISCONNECT = 3,
};

enum config_log_level {
    CONFIG_LOG_ERROR = 0,
    CONFIG_LOG_WARNING = 1,
    CONFIG_LOG_INFO = 2,
    CONFIG_LOG_DEBUG = 3,
};

/* When what is durable counts as written: before it is confirmed … */
enum config_sync {
    CONFIG_SYNC_ALWAYS = 0,   /* … it is on the disk */
    CONFIG_SYNC_INTERVAL = 1, /* … the kernel has it; on the disk it is sync_interval later */
    CONFIG_SYNC_NEVER = 2,    /* … the kernel has it, and chooses when it goes to the disk */
};

enum { CONFIG_PATH_MAX = 1024 }; /* bytes of a path, with its NUL */

/* Durations in the file are strings with a unit ("5s", "200ms"), sizes integers or strings with one
 * ("64M", binary units). */
struct config {
    /* Only at start. */
    int64_t max_clients; /* rows: sessions at once; 1..4096, default 32 */
    int64_t queue_depth; /* messages in a queue; 4..1024; 0: 10, or fs.mqueue.msg_max if less */
    int64_t store_size;  /* bytes of cells; 1M..8G, default 64M */
    int64_t references;  /* 4,096..16,777,000; default 2,097,152; memory for those in use only */
    int64_t pool_max;    /* bytes that a client's payload pool may have; 1M..64G, default 256M */
    int64_t topic_rows;  /* topics watched one by one on the board; 1..65536, default 1,024 */
    int64_t max_groups;  /* consumer groups at once; 0..1024, default 64 */
    /* The journal's directory; "", the default: there is none, and nothing is durable. */
    char journal[CONFIG_PATH_MAX];
    int64_t journal_segment; /* bytes of one of its files; a power of two, 64K..64M, default 16M */
    int64_t journal_size;    /* … of all: five of them to 2,047; 320K..64G, default 1G */
    int64_t journal_ready;   /* … of those that are made ahead; 0..journal_size, default 0 */
    int64_t sync;            /* enum config_sync */
    /* At start and on reload. */
    int64_t max_subscriptions; /* of one session; 1..1,000,000, default 16,384 */
    int64_t backlog_size;      /* bytes waiting for a session above which it counts as over quota;
                                * 64K..8G, default 8M */
    int64_t stall_timeout;     /* milliseconds; 10ms..1h, default 5s */
    int64_t retained_size;     /* bytes of retained messages; 4K..half of the store; 0: a quarter */
    int64_t poll_usec;         /* look again so long before sleeping, while that pays; 0..1000,
                                * default 50, 0: never */
    int64_t overflow;          /* enum config_overflow */
    int64_t log_level;         /* enum config_log_level, default info */
    /* The same; for groups that are made from then on. */
    int64_t group_size;     /* bytes waiting in one, above which it is full; 4K..64G, default 16M */
    int64_t group_overflow; /* enum config_overflow without disconnect; default drop-newest */
    int64_t ack_timeout;    /* milliseconds until what nobody acknowledged comes back; 10ms..24h,
                             * default 30s */
    int64_t delivery_limit; /* deliveries after which it is given up; 0..255, default 5, 0: none */
    /* The same; for all groups. */
    int64_t group_linger;  /* milliseconds that one outlives its last member, if it is not durable;
                            * 0..24h, default 60s */
    int64_t aging;         /* milliseconds after which what waits counts as one level higher;
                            * 10ms..24h; 0, the default: never */
    int64_t sync_interval; /* milliseconds; 1ms..1h, default 100ms */
};

/* A sentence with file and line, for the one error there is. */
struct config_error {
    char text[512];
};

/* All defaults. */
void config_default(struct config *config);

/* Read the file at `path` into `config` (config_read is a function of libconfig). Unknown keys,
 * wrong types, values out of range and values that do not fit each other are errors with file and
 * line; `config` is then unchanged. Returns 0, -EINVAL, or -errno of reading; `error` is set on
 * failure. */
int config_load(struct config *config, const char *path, struct config_error *error);

/* The same from memory (the fuzz target's way in); `name` stands for the path in sentences. */
int config_parse(struct config *config, const char *text, const char *name,
                 struct config_error *error);

/* Take over from `fresh` what may change while the broker runs. Calls `kept` for each key that
 * differs and has to wait for the next start, with its name: those that are read only then, and a
 * retained_size that fits a store of the next start, but not this one. */
void config_reload(struct config *config, const struct config *fresh,
                   void (*kept)(const char *key, void *context), void *context);

#endif
