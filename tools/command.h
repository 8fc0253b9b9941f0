/* A shell command that handles a message: mqsub --exec.
 *
 * The payload is its standard input; the rest of the message stands in its environment: MQ_TOPIC,
 * MQ_PRIORITY, MQ_SIZE, MQ_NUMBER (counting from 1), MQ_RETAINED and MQ_REQUEST (0 or 1), and
 * MQ_ATTEMPT (1 for the first delivery). For a request what it writes to standard output is the
 * reply. */
#ifndef MQBROKER_TOOLS_COMMAND_H
#define MQBROKER_TOOLS_COMMAND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libclient/mqclient.h"
#include "tools/growing.h"

struct command {
    const char *text;     /* for sh -c */
    size_t reply_limit;   /* bytes of the largest reply */
    bool patient;         /* an interruption does not end it */
    struct growing reply; /* what the last one wrote, if its message was a request */
    size_t reply_size;
    int detail; /* COMMAND_E_STATUS: the exit status; COMMAND_E_SIGNAL: the signal */
};

enum command_outcome {
    COMMAND_OK = 0,        /* it exited with 0 */
    COMMAND_E_STATUS,      /* with another status */
    COMMAND_E_SIGNAL,      /* it was killed */
    COMMAND_E_LARGE,       /* it wrote more than `reply_limit` bytes */
    COMMAND_E_INTERRUPTED, /* we were interrupted, and it was told to end (SIGTERM) */
};

/* `text` is borrowed. */
void command_init(struct command *command, const char *text, size_t reply_limit);
void command_deinit(struct command *command);

/* Run it for a message and wait for its end. Returns an enum command_outcome, or -errno: it could
 * not be run. */
int command_run(struct command *command, const struct mqc_message *message, uint64_t number);

#endif
