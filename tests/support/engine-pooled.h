/* Messages whose payloads lie in pools, in tests of the engine: sent, read, and what becomes of
 * their places. The rig's payloads are single words: who reads a place that was given out again
 * reads another word.
 *
 * All functions fail the test when something goes wrong. */
#ifndef MQBROKER_TESTS_SUPPORT_ENGINE_POOLED_H
#define MQBROKER_TESTS_SUPPORT_ENGINE_POOLED_H

#include "tests/support/engine-rig.h"

/* *state is a struct rig whose sessions have outboxes and pools. pooled_teardown() fails if the
 * engine is not sound, or if somebody saw in a pool what cannot be. */
int pooled_setup(void **state);
int pooled_teardown(void **state);

/* A test with these fixtures, for the table of a program's tests. */
#define POOLED_TEST(f) cmocka_unit_test_setup_teardown(f, pooled_setup, pooled_teardown)

/* Put a payload into a session's pool. */
struct wire_slot pooled_put(struct rig *r, uint16_t row, uint64_t payload);

/* Publish one at priority 5; with these flags, until this time (0: for ever), from where it lies. A
 * confirm that is asked for has the number 7. */
void pooled_publish(struct rig *r, uint16_t row, const char *topic, uint64_t payload);
void pooled_publish_with(struct rig *r, uint16_t row, const char *topic, uint16_t flags,
                         uint64_t expiry, const struct wire_slot *slot);

/* Ask, under the number 3, with a second's time; answer what is called `name`. */
void pooled_request(struct rig *r, uint16_t row, const char *topic, uint64_t payload);
void pooled_reply(struct rig *r, uint16_t row, uint64_t name, uint64_t payload);

/* A pooled message with this payload is next; its name. */
uint64_t pooled_expect(struct rig *r, uint16_t row, uint64_t payload);

/* So many places of this session come back, and so many are still out. */
void pooled_expect_places(struct rig *r, uint16_t row, uint32_t back, uint32_t out);

/* Fill the queue of one who is subscribed to "t", so that what comes next waits; and read all that
 * was published for that. */
void pooled_block(struct rig *r, uint16_t row);
void pooled_unblock(struct rig *r, uint16_t row);

#endif
