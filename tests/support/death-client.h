/* What the clients of a death test do, each a step by chance; and what they read, which the model
 * is told. */
#ifndef MQBROKER_TESTS_SUPPORT_DEATH_CLIENT_H
#define MQBROKER_TESTS_SUPPORT_DEATH_CLIENT_H

#include "broker/engine.h"
#include "tests/support/death-scene.h"

/* Its row, if the broker has one for it and it can be used; else NULL. */
const struct row *client_row(struct scene_client *c);

/* A new process in its place registers. */
void client_register(struct scene_client *c);

/* Send something, if there is room and reason. */
void client_publish(struct scene_client *c, const struct row *row);
void client_subscribe(struct scene_client *c, const struct row *row);
void client_reply(struct scene_client *c, const struct row *row);
void client_fetch(struct scene_client *c, const struct row *row);

/* Take a letter from its queue or read the one that it has taken: in between the broker may do
 * anything. */
void client_read(struct scene_client *c);

/* Give back any of the payloads that it reads: it must have stayed as it was. Some names are given
 * back twice, and some are none. */
void client_release(struct scene_client *c, struct segments *mine);

/* Wait for space that it may not need, or not any more. */
void client_waits(struct segments *mine);

/* Whatever anybody reads must not have come back to its owner. */
void client_check_readings(void);

#endif
