/* Lines: see lines.h. One buffer that always has room for the longest line and a good read behind
 * it. */
#include "tools/lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_SIZE = 65536 };

int lines_init(struct lines *lines, int fd, size_t limit)
{
    *lines = (struct lines){.fd = fd, .limit = limit, .size = limit + READ_SIZE};
    lines->buffer = malloc(lines->size);
    return lines->buffer != NULL ? 0 : -ENOMEM;
}

void lines_deinit(struct lines *lines)
{
    free(lines->buffer);
    *lines = (struct lines){.fd = -1};
}

static int hand_out(struct lines *lines, size_t line_size, size_t taken, const char **line,
                    size_t *size)
{
    lines->number++;
    if (line_size > lines->limit)
        return LINES_E_LIMIT;
    *line = lines->buffer + lines->begin;
    *size = line_size;
    lines->begin += taken;
    lines->seen = 0;
    return LINES_OK;
}

int lines_next(struct lines *lines, const char **line, size_t *size)
{
    const char *from = lines->buffer + lines->begin;
    size_t standing = lines->end - lines->begin;
    const char *newline = memchr(from + lines->seen, '\n', standing - lines->seen);

    if (newline != NULL) {
        size_t line_size = (size_t)(newline - from);

        return hand_out(lines, line_size, line_size + 1, line, size);
    }
    lines->seen = standing;
    if (standing > lines->limit || (lines->ended && standing > 0))
        return hand_out(lines, standing, standing, line, size);
    return lines->ended ? LINES_E_END : LINES_E_READ;
}

int lines_fill(struct lines *lines)
{
    ssize_t n;

    memmove(lines->buffer, lines->buffer + lines->begin, lines->end - lines->begin);
    lines->end -= lines->begin;
    lines->begin = 0;
    n = read(lines->fd, lines->buffer + lines->end, lines->size - lines->end);
    if (n < 0)
        return -errno;
    lines->ended = n == 0;
    lines->end += (size_t)n;
    return 0;
}
