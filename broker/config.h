/* The configuration: a libconfig file to a checked struct. Every key stands in one table (config.c)
 * with its range, its default, and whether it can change while the broker runs. */
#ifndef MQBROKER_BROKER_CONFIG_H
#define MQBROKER_BROKER_CONFIG_H

#include <stdint.h>

/* What becomes of a stalled session: the order of enum engine_overflow. */
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

/* Durations in the file are strings with a unit ("5s", "200ms"), sizes integers or strings with one
 * ("64M", binary units). */
struct config {
    /* Only at start. */
    int64_t max_clients; /* rows: sessions at once; 1..4096, default 32 */
    int64_t queue_depth; /* messages in a queue; 4..1024; 0: 10, or fs.mqueue.msg_max if less */
    int64_t store_size;  /* bytes of cells; 1M..8G, default 64M */
    int64_t references;  /* 4,096..16,777,000; default 262,144 */
    int64_t pool_max;    /* bytes that a client's payload pool may have; 1M..64G, default 256M */
    int64_t topic_rows;  /* topics watched one by one on the board; 1..65536, default 1,024 */
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
