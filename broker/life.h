/* Life: how sessions begin, stall and end, what deadlines do, and how a broker starts on what
 * another left (core-sketch sections 4 and 5; K6, K7, K9, L1, P7). Pure; floor 3. */
#ifndef MQBROKER_BROKER_LIFE_H
#define MQBROKER_BROKER_LIFE_H

#include "broker/engine.h"

/* A REGISTER in the landing: give it a row in state `making`, or refuse it on the board. The shell
 * finds it in e->making after the commit, makes its queue, and says how that went. */
void life_register(struct engine *e, const struct wire_frame *f);

/* Its queue is there: the session is live, WELCOME goes out. */
void life_made(struct engine *e, uint16_t row, uint64_t inode, uint32_t depth, uint32_t width);

/* It could not be made: posted on the board, the row is free again. */
void life_refused(struct engine *e, uint16_t row, uint8_t code, uint32_t number1, uint64_t number2);

/* Its process is dead. */
void life_died(struct engine *e, uint16_t row);

/* It says goodbye. */
void life_bye(struct engine *e, uint16_t row);

/* The session is to end: WIRE_C_OK by its own goodbye, else why the broker ends it. Takes effect by
 * L1. */
void life_leave(struct engine *e, uint16_t row, uint8_t code);

/* Both request queues were seen empty since life_died() and life_leave(): carry them out. What is
 * left to do is in e->leaving. */
void life_quiet(struct engine *e);

/* For so many nanoseconds until now the normal request queue was not read, for want of the disk.
 * That time counts for no ending: what its session sent before may still stand there (L1). */
void life_postpone(struct engine *e, uint64_t nanoseconds);

/* A leaving session whose process lives and holds payloads: it is told, but its row, its pool and
 * the watch on its process stay until it has let go; then it comes in e->leaving again (S7: what a
 * living process holds is never used again). */
bool life_lingers(struct engine *e, uint16_t row);

/* The same, when its last payload has come back. */
void life_let_go(struct engine *e, uint16_t row);

/* The queue of a leaving session is gone: its row is free. */
void life_gone(struct engine *e, uint16_t row);

/* Whether it is to be told why: its process lives and did not end it by itself. Its code. */
bool life_wants_farewell(const struct engine *e, uint16_t row, uint8_t *code);

/* Time has passed (e->now): expiries, timeouts, stalls, endings that have waited long enough. */
void life_tick(struct engine *e);

/* When life_tick() is due next, in nanoseconds of CLOCK_BOOTTIME; UINT64_MAX: never. */
uint64_t life_next_tick(const struct engine *e);

/* Start on what the memory holds: nothing, or what a killed broker left. e->now is set. What was in
 * the landing is brought to its end, e->making, e->leaving and e->touched say what is to be done.
 * Returns 0, -ENOMEM, or -EBADMSG: the store is damaged, which no kill can bring about. */
int life_start(struct engine *e);

#endif
