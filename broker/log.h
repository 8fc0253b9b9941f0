/* The log: lines on standard error, fit for a terminal and for journald (which is recognised by
 * $JOURNAL_STREAM naming standard error's device and inode; lines then begin with the <N> of
 * sd-daemon(3) instead of a time stamp).
 *
 * A line is written by one write(2), so lines of several processes do not mix. Control characters
 * are escaped, so that no name or topic can forge a line or speak to the terminal. errno is left as
 * it was. What clients can provoke goes through log_limited. */
#ifndef MQBROKER_BROKER_LOG_H
#define MQBROKER_BROKER_LOG_H

#include <stdint.h>

#include "broker/config.h"

enum {
    LOG_LINE_MAX = 1024, /* bytes of a line; a longer one is cut, and ends in "..." */
    LOG_BURST = 5,       /* lines of one log_limit in 10 s */
};

void log_init(int level); /* enum config_log_level */
void log_set_level(int level);

void log_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_debug(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* At most LOG_BURST lines per 10 s and per `limit`; what was left out is said with the next line
 * that gets through. Zero-initialise; `now` is monotonic nanoseconds. */
struct log_limit {
    uint64_t since;
    uint32_t said;
    uint32_t left_out;
};
void log_limited(struct log_limit *limit, uint64_t now, int level, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

#endif
