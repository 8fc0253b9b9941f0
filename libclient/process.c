/* Processes: see process.h. The second field of the text is the name of the program in parentheses,
 * and may hold blanks and parentheses itself: what follows begins behind the last one. */
#include "libclient/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STAT_SIZE = 2048, STATE_FIELD = 3, START_FIELD = 22 };

bool process_parse(const char *stat, uint64_t *start)
{
    const char *at = strrchr(stat, ')');
    char *end;

    if (at == NULL || at[1] != ' ' || at[2] == '\0')
        return false;
    at += 2;
    if (*at == 'Z' || *at == 'X') {
        *start = 0;
        return true;
    }
    for (int field = STATE_FIELD; field < START_FIELD; field++) {
        at = strchr(at, ' ');
        if (at == NULL)
            return false;
        at++;
    }
    *start = strtoull(at, &end, 10);
    return end != at;
}

int process_start(uint32_t pid, uint64_t *start)
{
    char path[64], stat[STAT_SIZE];
    ssize_t n;
    int fd;

    snprintf(path, sizeof(path), "/proc/%u/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    n = read(fd, stat, sizeof(stat) - 1);
    close(fd);
    if (n < 0)
        return -errno;
    stat[n] = '\0';
    if (!process_parse(stat, start))
        return -EPROTO;
    return *start == 0 ? -ESRCH : 0;
}

bool process_alive(uint32_t pid, uint64_t start)
{
    uint64_t found;
    int r = process_start(pid, &found);

    if (r < 0) /* no descriptor left, no memory: that says nothing about it */
        return r != -ESRCH;
    return start == 0 || found == start;
}
