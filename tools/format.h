/* How mqsub writes a message: a format with the escapes of mosquitto_sub, to which all its ways of
 * writing come down. Safe for any payload and topic: on a terminal what could act on it is written
 * as \xHH, and JSON holds what is no text in base64. */
#ifndef MQBROKER_TOOLS_FORMAT_H
#define MQBROKER_TOOLS_FORMAT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#include "libclient/mqclient.h"

/* What -F takes; the help and the manual page say the same. */
#define FORMAT_PAYLOAD "%p"
#define FORMAT_VERBOSE "%t %p"
#define FORMAT_JSON    "%j"

struct format {
    const char *text;
    bool newline;  /* write one behind each message */
    bool terminal; /* the output is one */
};

/* Is this a format: every '%' and '\' begins an escape that there is. If not, `bad` points to the
 * first that is not one. */
bool format_valid(const char *text, const char **bad);

/* Write a message. `number` counts the messages from 1; `when` is when it was received,
 * CLOCK_REALTIME, or NULL: that is not known. Whether writing succeeded is for ferror(). Returns 0
 * or -ENOMEM. */
int format_print(const struct format *format, const struct mqc_message *message, uint64_t number,
                 const struct timespec *when, FILE *out);

#endif
