/* Lines out of a descriptor, each at most so long; also with NUL bytes in them, empty, and the last
 * one without a newline. Reading is left to the caller's moment: lines_next() never waits, so that
 * who has no whole line can do something else before lines_fill(). */
#ifndef MQBROKER_TOOLS_LINES_H
#define MQBROKER_TOOLS_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/growing.h"

struct lines {
    int fd;
    size_t limit; /* bytes of the longest line, without its newline */
    struct growing buffer;
    size_t begin, end; /* what was read and not handed out yet */
    size_t seen;       /* bytes from `begin` on that hold no newline */
    uint64_t number;   /* of the line that was handed out last, or was too long; from 1 */
    bool ended;        /* end of file was read */
};

enum lines_outcome {
    LINES_OK = 0,  /* a line */
    LINES_E_READ,  /* no whole line: call lines_fill() */
    LINES_E_END,   /* there are no more */
    LINES_E_LIMIT, /* line `number` is longer than `limit` */
};

/* The descriptor stays the caller's. */
void lines_init(struct lines *lines, int fd, size_t limit);
void lines_deinit(struct lines *lines);

/* The next line, without its newline; valid until the next call. Returns an enum lines_outcome. */
int lines_next(struct lines *lines, const char **line, size_t *size);

/* Read once. May wait, as read(2) does. After LINES_E_READ only. Returns 0 or -errno; -EINTR: a
 * signal came first; -ENOMEM. */
int lines_fill(struct lines *lines);

#endif
