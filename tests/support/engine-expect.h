/* What a test of the engine expects a session to read next, as cmocka assertions; and the fixture
 * that such tests share: a rig whose derived state is counted again at the end of each test. */
#ifndef MQBROKER_TESTS_SUPPORT_ENGINE_EXPECT_H
#define MQBROKER_TESTS_SUPPORT_ENGINE_EXPECT_H

#include "tests/support/engine-rig.h"

/* *state is a struct rig over the usual memory; expect_teardown() fails if the engine is not sound.
 */
int expect_setup(void **state);
int expect_setup_with(void **state, const struct rig_options *options);
int expect_teardown(void **state);

/* Derived state is what the references say. */
void expect_sound(struct rig *r);

/* A new session by this name; it must get a row. */
uint16_t expect_session(struct rig *r, const char *name);

/* Subscribe a session; a new one that is subscribed. There is no retained message to come of it. */
void expect_subscribed(struct rig *r, uint16_t row, const char *filter);
uint16_t expect_subscriber(struct rig *r, const char *name, const char *filter);

/* The next frame is of this type; returned for further looks, valid until the next one is read. */
struct wire_frame expect_frame(struct rig *r, uint16_t row, uint8_t type);

/* … a plain message; one of rig_publish_large(); an answer. */
void expect_message(struct rig *r, uint16_t row, const char *topic, const char *payload);
void expect_large(struct rig *r, uint16_t row, uint8_t priority, const char *payload);
void expect_answer(struct rig *r, uint16_t row, uint8_t code, uint32_t number, uint32_t count);

/* Of a session's queue: the number of the `i`th batch that stands in it. */
uint64_t expect_number(const struct rig *r, uint16_t row, uint32_t i);

/* The broker goes as far as the intent to send the next batch (K3); what is sent is up to the test.
 */
struct pump_batch expect_intent(struct rig *r, uint16_t row);

/* The queue is empty. */
void expect_nothing(struct rig *r, uint16_t row);

#endif
