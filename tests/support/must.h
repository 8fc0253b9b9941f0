/* Calls of the library that a test cannot do without: when one fails, so does the test, with the
 * library's sentence. Not for actors, who have ACTOR_REQUIRE. */
#ifndef MQBROKER_TESTS_SUPPORT_MUST_H
#define MQBROKER_TESTS_SUPPORT_MUST_H

#include <stddef.h>
#include <stdint.h>

#include "libclient/mqclient.h"

/* `r` is what a call has returned: below 0 it failed. */
void must(int64_t r);

/* The next message, waited for with patience; the caller's to free. */
struct mqc_message must_receive(struct mqc *client);

/* This is its payload, and nothing more. */
void must_say(const struct mqc_message *m, const char *payload);

/* The next message is this one; freed. */
void must_hear(struct mqc *client, const char *payload);

/* Nothing is on its way to this client, who is called `name`: what is said to it now, below all
 * else, comes next. */
void must_hear_nothing(struct mqc *client, const char *name);

/* Publish a retained message, and return when the broker has taken it; subscribe to its topic, be
 * given it, and unsubscribe. */
void must_retain(struct mqc *client, const char *topic, const void *payload, size_t size);
void must_find_retained(struct mqc *client, const char *topic, const void *payload, size_t size);

#endif
