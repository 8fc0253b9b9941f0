/* What became of publishes with confirm (floor 2, pure).
 *
 * Numbers are given out one after the other from 1; on the wire they have 31 bits and are never 0
 * (the bit above says that a number is a request's: libclient/requests.h). The newest CONFIRMS_KEPT
 * are remembered, answered or not. */
#ifndef MQBROKER_LIBCLIENT_CONFIRMS_H
#define MQBROKER_LIBCLIENT_CONFIRMS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    CONFIRMS_KEPT = 1024,
    /* Outcomes beside the codes of the protocol, which have 8 bits: */
    CONFIRMS_WAITING = 0x100, /* not answered yet */
    CONFIRMS_UNKNOWN = 0x101, /* never given out, or forgotten */
};

#define CONFIRMS_WIRE_MASK UINT32_C(0x7fffffff)

struct confirms {
    uint64_t next; /* the number to be given out next */
    uint16_t outcomes[CONFIRMS_KEPT];
};

void confirms_init(struct confirms *c);

/* May another one be given out: is the one that it will push out of memory answered? */
bool confirms_room(const struct confirms *c);

/* A number as it goes over the wire. */
static inline uint32_t confirms_wire(uint64_t number)
{
    return (uint32_t)number & CONFIRMS_WIRE_MASK;
}

/* Give out c->next, which now waits for its answer. */
uint64_t confirms_take(struct confirms *c);

/* An answer came for `count` numbers from `first` (as on the wire) on. The first answer to a number
 * counts; what was not asked is ignored. */
void confirms_answer(struct confirms *c, uint32_t first, uint32_t count, uint8_t code);

/* The code a number was answered with, CONFIRMS_WAITING or CONFIRMS_UNKNOWN. */
int confirms_look(const struct confirms *c, uint64_t number);

#endif
