/* What a process has used of the processor, at a moment; read alike for workers, relays and
 * brokers. */
#ifndef MQBROKER_TOOLS_BENCH_USAGE_H
#define MQBROKER_TOOLS_BENCH_USAGE_H

#include <stdint.h>
#include <sys/types.h>

struct usage {
    uint64_t at;       /* bench_now() */
    uint64_t cpu;      /* nanoseconds of processor time, in user and kernel mode */
    uint64_t switches; /* context switches, of both kinds */
    int known;         /* 0: the system does not tell (another user's process, a hidden /proc) */
};

/* Now; `pid` 0 is the caller. The figures are of the process's first thread's switches and all
 * threads' time: ours have one. */
struct usage usage_of(pid_t pid);

/* What was used from `from` to `to`; known if both are. `at` is then the time between. */
struct usage usage_between(const struct usage *from, const struct usage *to);

/* `value` per message, or NAN if not known. */
double usage_cpu_per(const struct usage *used, uint64_t messages);
double usage_switches_per(const struct usage *used, uint64_t messages);

#endif
