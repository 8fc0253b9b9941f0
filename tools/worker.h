/* Work that is done by a shell command: it is run for a message, and who asked, and the message's
 * group, learn what came of it. What mqsub --exec does. */
#ifndef MQBROKER_TOOLS_WORKER_H
#define MQBROKER_TOOLS_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/mqclient.h"
#include "tools/command.h"

/* Exit statuses of a command that say more than "failed": sysexits.h. */
enum {
    WORKER_REJECTED = 65, /* EX_DATAERR: the message is of no use; to the dead letters */
    WORKER_LATER = 75,    /* EX_TEMPFAIL: as all others, but without a word */
};

struct worker {
    struct mqc *client;
    struct command command;
    unsigned retry_ms; /* before a message that was not dealt with comes again */
    uint64_t failed;   /* commands */
};

/* `text` is borrowed, and so is the client. */
void worker_init(struct worker *w, struct mqc *client, const char *text, unsigned retry_ms);
void worker_deinit(struct worker *w);

/* Handle one message, the `number`th; waits for the command's end. The message is the caller's
 * still. What goes wrong with the command is said on standard error and counted. Returns 0, or
 * -errno when it is no use to go on: -EINTR, or the session is over. */
int worker_handle(struct worker *w, struct mqc_message *message, uint64_t number);

#endif
