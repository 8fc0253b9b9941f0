/* A broker that dies: the engine, compiled with a place to die before every store to what survives
 * it (broker/persist.h), and the shell's part over a fake kernel. */
#ifndef MQBROKER_TESTS_SUPPORT_DEATH_BROKER_H
#define MQBROKER_TESTS_SUPPORT_DEATH_BROKER_H

#include <stdbool.h>
#include <stdint.h>

/* Start the first one on the memory of the scene. Nothing catches its death yet: broker_die_at(0)
 * comes before it. */
void broker_start(void);

/* It is to die before the how manieth store from now on; 0: it lives. Its successors draw anew. */
void broker_die_at(long store);

/* One act of its own; it may die in it, and is then started again. True: the act was finished. */
bool broker_act(void (*f)(void *), void *argument);

/* ---- Acts. `row` points to an uint16_t ---- */

void broker_take(void *unused); /* receive an envelope, and route it */
void broker_collect(void *unused);
void broker_pump(void *row);
void broker_carry_out(void *unused); /* the shell's part in a registration and in an end */
void broker_tick(void *unused);
void broker_quiet(void *unused);   /* the request queues were seen empty */
void broker_sees_death(void *row); /* of a client */
void broker_kicks(void *row);

/* All rows, one act each. */
void broker_pump_all(void);

#endif
