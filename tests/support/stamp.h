/* Payloads that say what they are: whose, which one, how large; and behind that a pattern that only
 * this one has, so that whatever is torn, mixed up, cut off or used again too early shows itself.
 */
#ifndef MQBROKER_TESTS_SUPPORT_STAMP_H
#define MQBROKER_TESTS_SUPPORT_STAMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stamp {
    uint32_t publisher;
    uint32_t stream; /* of that publisher: it counts each by itself */
    uint32_t number;
    uint32_t size; /* of the payload */
};

/* Make a payload of stamp->size bytes, at least sizeof(struct stamp), at any address. */
void stamp_fill(void *payload, const struct stamp *stamp);

/* What a payload says it is. False: not all of it is as it was made. */
bool stamp_read(const void *payload, size_t size, struct stamp *stamp);

/* A pseudo-random number; the state must not be 0. */
uint32_t stamp_random(uint32_t *state);

/* A size for a payload, by chance: from sizeof(struct stamp) to `most` bytes, of all orders of
 * magnitude alike. */
uint32_t stamp_size(uint32_t *state, uint32_t most);

#endif
