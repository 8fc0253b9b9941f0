/* The keeper: what stands between the engine's durable things and the journal (floor 4).
 *
 * It carries what the engine has to the journal, and what the journal has done to the engine; reads
 * payloads back that are wanted, moves what lives out of segments that are to be used again, and
 * fills an empty store after a reboot. */
#ifndef MQBROKER_BROKER_KEEPER_H
#define MQBROKER_BROKER_KEEPER_H

#include <stdbool.h>
#include <stdint.h>

struct broker;
struct keeper;

/* Open the journal of the configuration, if there is one (b->keeper stays NULL if not); before
 * life_start(). 0 or -errno, said in the log. */
int keeper_open(struct broker *b);

/* After life_start(): go on where the store is, or fill it. 0 or -errno, said in the log. */
int keeper_start(struct broker *b);

/* Append what was made. After each envelope, so that what is refused are its messages and no other.
 */
void keeper_append(struct broker *b);

/* The broker's part in a turn: what was made is appended, what was written and synced is told the
 * engine. Before sessions are pumped, and fine without a journal. */
void keeper_step(struct broker *b);

/* After sessions were pumped, so that confirms are on their way: what was written leaves the store,
 * and what the pump wants and found on disk is asked for. */
void keeper_settle(struct broker *b);

/* Better no more messages now: the disk is behind. */
bool keeper_is_busy(const struct broker *b);

/* Another turn is to come soon: what was appended is not committed, for there may be more. */
bool keeper_awaits_more(const struct broker *b);

/* No envelope at all may be taken before what has ended was written. */
bool keeper_is_behind(const struct broker *b);

/* The session of this row ends: its pool is kept open no longer. Fine without a journal. */
void keeper_forget(struct broker *b, uint16_t row);

/* Nothing is left to be written. */
void keeper_close(struct broker *b);

#endif
