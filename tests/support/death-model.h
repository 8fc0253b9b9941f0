/* The model of a death test: what each client must get, from what the kernel gave the broker; held
 * against what it reads. What is wrong is said by scene_wrong(). */
#ifndef MQBROKER_TESTS_SUPPORT_DEATH_MODEL_H
#define MQBROKER_TESTS_SUPPORT_DEATH_MODEL_H

#include "libclient/wire.h"
#include "tests/support/death-scene.h"

/* The kernel has handed this envelope over: from now on it counts, whatever happens to the broker.
 */
void model_envelope(const uint8_t *bytes, uint32_t size);

/* A client reads a message. Is this the next that it must get? What expired in between counts as
 * missed. */
void model_delivery(struct scene_client *c, const struct wire_frame *f);

/* A client reads an answer. */
void model_answer(struct scene_client *c, const struct wire_frame *f);

#endif
