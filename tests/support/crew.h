/* The clients of a storm: each plays a role for as long as it lives, and writes down in its book
 * (history.h) what it offers and what it is handed over. All of them can be killed anywhere. */
#ifndef MQBROKER_TESTS_SUPPORT_CREW_H
#define MQBROKER_TESTS_SUPPORT_CREW_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "tests/support/actor.h"
#include "tests/support/history.h"

/* The streams of their histories. */
enum crew_stream {
    CREW_LOADS = 6,  /* 0 to 5: each of another priority, on some topics "load/…" */
    CREW_KEPT = 6,   /* retained, a topic for each publisher: "kept/<its book>" */
    CREW_ASKED = 7,  /* requests to those who are never killed */
    CREW_RISKED = 8, /* requests to those who may be */
    CREW_TASK = 9,   /* to a group */
    CREW_URGENT = 10,
    CREW_WILL = 11, /* last wills: "will/<its book>" */
};

/* What is promised about them. */
extern const struct history_rules crew_rules;

enum crew_role {
    CREW_FLOOD,  /* publishes small messages in batches, as fast as it can */
    CREW_MIX,    /* messages of all sizes, some in pools, one by one */
    CREW_SURE,   /* each confirmed */
    CREW_READER, /* takes all that is published */
    CREW_HOLDER, /* the same, and keeps some of it */
    CREW_RETAINER,
    CREW_ASKER,
    CREW_ANSWERER,
    CREW_GAMBLER,  /* asks those who may be killed */
    CREW_DEALER,   /* and answers */
    CREW_PRODUCER, /* publishes to the group CREW_GROUP */
    CREW_WORKER,   /* is its member: acknowledges, gives back, now and then rejects */
    CREW_ROLES,
};

/* Does it live until it reads CREW_END? */
bool crew_reads(enum crew_role role);

/* Does it live until the group is drained? */
bool crew_works(enum crew_role role);

/* Does it ask others? */
bool crew_asks(enum crew_role role);

/* What all of them look at, in shared memory. */
struct crew_world {
    _Atomic uint32_t over;    /* publishers and askers come to their end */
    _Atomic uint32_t drained; /* workers, too: nothing is left for them */
};

struct crew_part {
    const char *instance;
    struct crew_world *world;
    struct history *history;
    unsigned book;
    enum crew_role role;
    uint32_t seed;
    uint32_t largest; /* payload of those who send large ones */
    uint32_t rest_us; /* a reader's, now and then */
    bool wills;       /* leaves one, now and then */
    bool durable;     /* the group is */
    size_t pool_size; /* of the largest loan there can be; 0: not to be tried */
};

/* Begin a book for a client and fork it; `part->book` is set. It says a word when it has opened its
 * handle, and subscribed (1, or 0 if it was too late for that); and another when it has come to its
 * end: the world is over, or, for those who read, what is published on CREW_END has come. Told so,
 * it looks whether its pool is empty, and closes the handle. */
void crew_start(struct actor *a, struct crew_part *part);

/* The topic that ends readers, of priority 0: so it comes last. */
#define CREW_END "end"

/* The group, and how often it delivers in vain. */
#define CREW_GROUP "crew"
enum { CREW_LIMIT = 4 };

#endif
