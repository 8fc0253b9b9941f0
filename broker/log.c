/* The log: one line, one write(2), on standard error.
 *
 * Where a line goes and how it is kept is the business of who started the broker: a terminal, a
 * file, or journald. The only thing worth knowing here is whether journald reads along, because it
 * has its own clock and takes the level from a prefix (sd-daemon(3)). Nothing is buffered, so the
 * last line before a kill is not lost. What a line says can come from a client (names, topics), so
 * it passes through escape() before it is written.
 *
 * One level and one destination a process: this is the one module with a state of its own. Not for
 * several threads. */
#include "broker/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PERIOD UINT64_C(10000000000) /* of a log_limit, in nanoseconds */

static int threshold = CONFIG_LOG_INFO;
static bool journal;

static const struct {
    const char *word;
    int priority; /* of syslog(3), which the prefix speaks */
} levels[] = {
    [CONFIG_LOG_ERROR] = {"error", 3},
    [CONFIG_LOG_WARNING] = {"warning", 4},
    [CONFIG_LOG_INFO] = {"info", 6},
    [CONFIG_LOG_DEBUG] = {"debug", 7},
};

/* journald names the stream that it gave to a service; a service that has redirected its standard
 * error still inherits the variable, so the name is compared (systemd.exec(5)). */
static bool standard_error_is_journal(void)
{
    const char *named = getenv("JOURNAL_STREAM");
    struct stat st;
    char ours[64];

    if (named == NULL || fstat(STDERR_FILENO, &st) < 0)
        return false;
    snprintf(ours, sizeof(ours), "%llu:%llu", (unsigned long long)st.st_dev,
             (unsigned long long)st.st_ino);
    return strcmp(named, ours) == 0;
}

void log_init(int level)
{
    journal = standard_error_is_journal();
    log_set_level(level);
}

void log_set_level(int level)
{
    threshold = level;
}

/* Copy `text` to `out`, of `size` bytes at least 5: control characters (also those of two bytes,
 * U+0080 to U+009F) as \xNN, and the backslash doubled, so that what was escaped can be told from
 * what was not. Ends in "..." what does not fit. Returns the bytes written; there is no NUL. */
static size_t escape(char *out, size_t size, const char *text)
{
    const unsigned char *in = (const unsigned char *)text;
    size_t n = 0;

    while (*in != '\0') {
        char piece[8];
        size_t width = (in[0] == 0xc2 && in[1] >= 0x80 && in[1] < 0xa0) ? 2 : 1;

        if (width == 2)
            snprintf(piece, sizeof(piece), "\\x%02x", in[1]);
        else if (*in < 0x20 || *in == 0x7f)
            snprintf(piece, sizeof(piece), "\\x%02x", *in);
        else
            snprintf(piece, sizeof(piece), *in == '\\' ? "\\\\" : "%c", *in);
        if (strlen(piece) + 3 > size - n) {
            memcpy(out + n, "...", 3);
            return n + 3;
        }
        memcpy(out + n, piece, strlen(piece));
        n += strlen(piece);
        in += width;
    }
    return n;
}

static size_t put_prefix(char *out, size_t size, int level)
{
    struct timespec now;
    struct tm tm;
    size_t n;

    if (journal)
        return (size_t)snprintf(out, size, "<%d>", levels[level].priority);
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    n = strftime(out, size, "%Y-%m-%dT%H:%M:%S", &tm);
    return n + (size_t)snprintf(out + n, size - n, ".%03ldZ %s: ", now.tv_nsec / 1000000,
                                levels[level].word);
}

static void write_line(int level, const char *text, const char *end)
{
    char line[LOG_LINE_MAX];
    size_t end_size = strlen(end);
    size_t n = put_prefix(line, sizeof(line), level);
    ssize_t r;

    n += escape(line + n, sizeof(line) - n - end_size, text);
    memcpy(line + n, end, end_size);
    do
        r = write(STDERR_FILENO, line, n + end_size);
    while (r < 0 && errno == EINTR);
    /* A log that cannot be written must not stop the broker, and there is nobody left to tell. */
}

__attribute__((format(printf, 3, 0))) static void say(int level, uint32_t left_out,
                                                      const char *format, va_list arguments)
{
    char text[LOG_LINE_MAX];
    char end[48] = "\n";
    int saved = errno;

    vsnprintf(text, sizeof(text), format, arguments);
    if (left_out > 0)
        snprintf(end, sizeof(end), " (and %u more like it)\n", left_out);
    write_line(level, text, end);
    errno = saved;
}

#define SAY(level, format)                                                                         \
    do {                                                                                           \
        va_list arguments;                                                                         \
                                                                                                   \
        if ((level) > threshold)                                                                   \
            return;                                                                                \
        va_start(arguments, format);                                                               \
        say(level, 0, format, arguments);                                                          \
        va_end(arguments);                                                                         \
    } while (0)

void log_error(const char *format, ...)
{
    SAY(CONFIG_LOG_ERROR, format);
}

void log_warning(const char *format, ...)
{
    SAY(CONFIG_LOG_WARNING, format);
}

void log_info(const char *format, ...)
{
    SAY(CONFIG_LOG_INFO, format);
}

void log_debug(const char *format, ...)
{
    SAY(CONFIG_LOG_DEBUG, format);
}

void log_limited(struct log_limit *limit, uint64_t now, int level, const char *format, ...)
{
    va_list arguments;

    if (level > threshold)
        return;
    if (limit->said == 0 || now - limit->since >= PERIOD) {
        limit->since = now;
        limit->said = 0;
    }
    if (limit->said == LOG_BURST) {
        limit->left_out++;
        return;
    }
    limit->said++;
    va_start(arguments, format);
    say(level, limit->left_out, format, arguments);
    va_end(arguments);
    limit->left_out = 0;
}
