/* The broker that is measured: a running one, or a private one that is started for a run and
 * stopped after it. */
#ifndef MQBROKER_TOOLS_BENCH_DAEMON_H
#define MQBROKER_TOOLS_BENCH_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "libclient/names.h"

struct daemon {
    char instance[NAMES_INSTANCE_MAX + 1];
    pid_t pid;
    int pidfd;
    bool ours;         /* a private one */
    uint64_t starting; /* ns from its start until it took a client; 0: it ran already */
};

#define DAEMON_NONE ((struct daemon){.pidfd = -1})

/* What a private broker is like; all zero but poll_usec: as it likes. */
struct daemon_settings {
    const char *program;    /* NULL: the `mqbroker` beside this program, or in PATH */
    int poll_usec;          /* below 0: as it likes */
    uint64_t pool_max;      /* what a client's payload pool may have */
    const char *journal;    /* directory; NULL: none */
    const char *sync;       /* of that */
    uint64_t journal_ready; /* bytes of it that are made before it is used */
};

/* Start one and wait until it takes clients. Returns 0, or -1 with bench_error() set. */
int daemon_start(struct daemon *daemon, const struct daemon_settings *settings);

/* The running broker of an instance. Returns 0, or -1 with bench_error() set. */
int daemon_attach(struct daemon *daemon, const char *instance);

/* Stop a private one in good order, or by force if it does not stop, and see that nothing of it is
 * left. Fine on DAEMON_NONE. Repeatable. */
void daemon_stop(struct daemon *daemon);

#endif
