/* From a decoded view back to bytes, through the put functions: what was decoded must come out as
 * it went in. */
#ifndef MQBROKER_TESTS_SUPPORT_REENCODE_H
#define MQBROKER_TESTS_SUPPORT_REENCODE_H

#include "libclient/wire.h"

/* Write the frame that `view` shows into `out`, which has room for WIRE_QUEUE_MAX bytes; reserved
 * bytes and all. Returns its size. */
size_t reencode_frame(uint8_t *out, const struct wire_frame *view);

#endif
