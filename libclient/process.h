/* Processes by pid and start time, which together name one for good. Floor 1. */
#ifndef MQBROKER_LIBCLIENT_PROCESS_H
#define MQBROKER_LIBCLIENT_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/* When a process began: field 22 of /proc/<pid>/stat, in clock ticks since boot. 0, -ESRCH: it is
 * gone, a zombie, or of a pid namespace that is not seen from here, or -errno. */
int process_start(uint32_t pid, uint64_t *start);

/* Does this process live? `start` 0: any process of that pid. */
bool process_alive(uint32_t pid, uint64_t start);

/* The start time in the text of /proc/<pid>/stat; 0: a zombie or dead. False: it is no such text.
 * Pure. */
bool process_parse(const char *stat, uint64_t *start);

#endif
