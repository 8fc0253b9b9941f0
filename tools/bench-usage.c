/* Not getrusage(): it knows the caller and the children it has waited for, and a broker is neither.
 * The clock of a process and its status file can be read for all of them. */
#include "tools/bench-usage.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "tools/bench.h"

static int read_cpu(pid_t pid, uint64_t *cpu)
{
    clockid_t clock;
    struct timespec used;

    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) < 0) {
        return -1;
    }
    *cpu = (uint64_t)used.tv_sec * UINT64_C(1000000000) + (uint64_t)used.tv_nsec;
    return 0;
}

static int read_switches(pid_t pid, uint64_t *switches)
{
    char path[64];
    char line[256];
    int found = 0;

    snprintf(path, sizeof path, "/proc/%ld/status", (long)(pid == 0 ? getpid() : pid));
    FILE *status = fopen(path, "re");
    if (status == NULL) {
        return -1;
    }
    *switches = 0;
    while (fgets(line, sizeof line, status) != NULL) {
        uint64_t n;

        if (sscanf(line, "voluntary_ctxt_switches: %" SCNu64, &n) == 1 ||
            sscanf(line, "nonvoluntary_ctxt_switches: %" SCNu64, &n) == 1) {
            *switches += n;
            found++;
        }
    }
    fclose(status);
    return found == 2 ? 0 : -1;
}

struct usage usage_of(pid_t pid)
{
    struct usage now = {.at = bench_now()};

    now.known = read_cpu(pid, &now.cpu) == 0 && read_switches(pid, &now.switches) == 0;
    return now;
}

struct usage usage_between(const struct usage *from, const struct usage *to)
{
    return (struct usage){
        .at = to->at - from->at,
        .cpu = to->cpu - from->cpu,
        .switches = to->switches - from->switches,
        .known = from->known && to->known,
    };
}

static double per(const struct usage *used, uint64_t value, uint64_t messages)
{
    return used->known && messages > 0 ? (double)value / (double)messages : (double)NAN;
}

double usage_cpu_per(const struct usage *used, uint64_t messages)
{
    return per(used, used->cpu, messages);
}

double usage_switches_per(const struct usage *used, uint64_t messages)
{
    return per(used, used->switches, messages);
}
