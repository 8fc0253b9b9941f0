/* Copies of payloads for receivers that cannot map their sender's pool: the copied lane (rule P9).
 * Floor 4. */
#ifndef MQBROKER_BROKER_COPIES_H
#define MQBROKER_BROKER_COPIES_H

#include <stdbool.h>
#include <stdint.h>

struct broker;
struct copies;

/* Go on with what is to be copied (engine.fetching), for a bounded time. */
void copies_step(struct broker *b);

/* Is there more to be copied at once? */
bool copies_pending(const struct broker *b);

/* Does somebody wait for space that receivers are to give back? */
bool copies_wait(const struct broker *b);

/* Give memory back where nothing is read any more. Before sleeping. */
void copies_tidy(struct broker *b);

/* The session's memory goes. */
void copies_forget(struct broker *b, uint16_t row);

#endif
