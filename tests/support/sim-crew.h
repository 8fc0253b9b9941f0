/* The reference model of consumer groups: each is a crew here.
 *
 * Where a message of a group is cannot always be known from outside: whether its time was up just
 * before it was acknowledged, whether the broker has seen a death. So of each the model keeps all
 * the states that it can be in, and a delivery or a decision says which it was. What is impossible
 * is wrong; what is certain is checked: that it goes to one member at a time, in order, is over
 * once it is acknowledged, and counts its tries. */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_CREW_H
#define MQBROKER_TESTS_SUPPORT_SIM_CREW_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/wire.h"
#include "tests/support/sim-script.h"

enum {
    CREW_MESSAGES = 1024, /* of one, in a run */
    CREW_SESSIONS = 16,
};

enum crew_state { /* bits */
                  CREW_WAITS = 1,
                  CREW_OUT = 2,
                  CREW_LATER = 4,
                  CREW_DONE = 8,
                  CREW_DEAD = 16,
                  CREW_EXPIRED = 32,
};

struct crew_message {
    uint32_t id;
    uint8_t level;
    uint8_t states;  /* all that are possible */
    uint8_t session; /* OUT: who has it */
    uint8_t tries;   /* as it said when it was delivered last */
    uint8_t least;   /* … and so many more, at least and at most, if it comes again */
    uint8_t most;
    bool held;      /* OUT: its payload lies in a pool */
    bool displaced; /* came back while its member may have read there: behind others, then */
    uint8_t ends;   /* sessions of members that were gone when it came, or was sent last */
    uint8_t under_way[CREW_SESSIONS]; /* deliveries that were sent and have not arrived */
    uint64_t name;                    /* of its newest delivery; 0: none */
    uint64_t due;                     /* OUT: to be acknowledged until then; LATER: not before */
    uint64_t expiry;
};

struct crew {
    bool there;
    uint32_t members; /* a bit for each session that did not leave, */
    uint32_t ever;    /* … and for each that ever was one */
    uint32_t prefetch[CREW_SESSIONS];
    uint32_t n;
    struct crew_message messages[CREW_MESSAGES]; /* in the order of their ages */
};

struct crew_settings { /* of all of them */
    uint32_t ack_ms;
    uint32_t limit;
};

extern const struct crew_settings crew_settings;

/* ---- What the broker was told, from the commit on ---- */

void crew_join(struct crew *c, uint32_t session, uint32_t prefetch);
void crew_leave(struct crew *c, uint32_t session);
void crew_accept(struct crew *c, uint32_t id, uint8_t level, uint64_t expiry);

/* A decision about a delivery: WIRE_ACK or WIRE_NACK. False: none of this crew's has that name. */
bool crew_decide(struct crew *c, uint32_t session, const struct wire_frame *f, uint64_t name);

/* ---- What it did ---- */

/* The broker has sent this to a session. `others_in_doubt`: what may be on its way to others holds
 * its place before it. */
void crew_sent(struct crew *c, uint32_t session, uint32_t id, const struct wire_frame *f,
               bool others_in_doubt);

/* It has arrived there. */
void crew_arrived(struct crew *c, uint32_t session, uint32_t id);

/* At rest: between how many and how many are in the group, and among its dead letters. */
struct crew_count {
    uint32_t least, most;
    uint32_t dead_least, dead_most;
};

void crew_finish(struct crew *c, bool has_members, struct crew_count *out);

#endif
