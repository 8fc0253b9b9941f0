/* The log: lines on standard error, fit for a terminal and for journald (which is recognised by $JOURNAL_STREAM naming
 * standard error's device and inode; lines then begin with the <N> of sd-daemon(3) instead of a time stamp). What clients can provoke goes through log_limited. */
#ifndef MQBROKER_BROKER_LOG_H
#define MQBROKER_BROKER_LOG_H

#include <stdint.h>

#include "broker/config.h"

void log_init(int level); /* enum config_log_level */
void log_set_level(int level);

void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* At most `burst` lines per 10 s and per `limit`; what was left out is said with the next line that gets through. Zero-initialise; `now` is
 * monotonic nanoseconds. */
struct log_limit {
    uint64_t since;
    uint32_t said;
    uint32_t left_out;
};
void log_limited(struct log_limit *limit, uint64_t now, int level, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
