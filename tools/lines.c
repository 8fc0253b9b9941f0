/* Lines: see lines.h. One buffer, which grows with the longest line there is, and always has room
 * for a good read behind what it holds. */
#include "tools/lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_SIZE = 65536 };

void lines_init(struct lines *lines, int fd, size_t limit)
{
    *lines = (struct lines){.fd = fd, .limit = limit};
}

void lines_deinit(struct lines *lines)
{
    free(lines->buffer.bytes);
    *lines = (struct lines){.fd = -1};
}

static int hand_out(struct lines *lines, size_t line_size, size_t taken, const char **line,
                    size_t *size)
{
    lines->number++;
    if (line_size > lines->limit)
        return LINES_E_LIMIT;
    *line = lines->buffer.bytes + lines->begin;
    *size = line_size;
    lines->begin += taken;
    lines->seen = 0;
    return LINES_OK;
}

int lines_next(struct lines *lines, const char **line, size_t *size)
{
    const char *from = lines->buffer.bytes + lines->begin;
    size_t standing = lines->end - lines->begin;
    const char *newline =
        standing > lines->seen ? memchr(from + lines->seen, '\n', standing - lines->seen) : NULL;

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
    struct growing *buffer = &lines->buffer;
    ssize_t n;

    if (lines->begin > 0)
        memmove(buffer->bytes, buffer->bytes + lines->begin, lines->end - lines->begin);
    lines->end -= lines->begin;
    lines->begin = 0;
    if (growing_reserve(buffer, lines->end + READ_SIZE, lines->limit + 2 * READ_SIZE) < 0)
        return -ENOMEM;
    n = read(lines->fd, buffer->bytes + lines->end, buffer->size - lines->end);
    if (n < 0)
        return -errno;
    lines->ended = n == 0;
    lines->end += (size_t)n;
    return 0;
}
