/* Who sent what, and who has had what of it, in a test that has all clients in one process: so it
 * always knows what must have come, and what must not.
 *
 * A message says whose it is and which one (stamp.h): `publisher`, `stream` (its priority: order is
 * promised among those) and a number that rises by one. Nothing here asserts: what is wrong is
 * counted, and the first of it described. */
#ifndef MQBROKER_TESTS_SUPPORT_TALLY_H
#define MQBROKER_TESTS_SUPPORT_TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TALLY_PUBLISHERS = 4,
    TALLY_RECEIVERS = 4,
    TALLY_STREAMS = 32,
    TALLY_OPEN = 256, /* numbers of a stream between two settlements at most */
};

struct tally_figures {
    uint64_t sent;
    uint64_t handed_over;
    uint64_t lost;
    uint64_t twice;
    uint64_t out_of_order;
    uint64_t wrong; /* torn, never sent, or not for this receiver */
};

struct tally_stream {
    uint32_t settled; /* all below have come, or are counted as lost */
    uint32_t next;    /* one above the highest that has come */
    uint64_t came[TALLY_OPEN / 64];
};

struct tally {
    struct tally_figures figures;
    char first[160]; /* what was wrong first; empty: nothing */
    uint32_t sent[TALLY_PUBLISHERS][TALLY_STREAMS];
    struct tally_stream receivers[TALLY_RECEIVERS][TALLY_PUBLISHERS][TALLY_STREAMS];
    bool listens[TALLY_RECEIVERS];
    bool shared[TALLY_RECEIVERS]; /* it is the members of a group: they are promised no order */
};

/* The receiver gets everything from now on; or nothing more. What it should have had by then is
 * settled first. */
void tally_listen(struct tally *t, unsigned receiver, bool listens);

/* The number of the next message of a stream: it is sent now. */
uint32_t tally_send(struct tally *t, unsigned publisher, unsigned stream);

/* A receiver has been handed this. */
void tally_receive(struct tally *t, unsigned receiver, const void *payload, size_t size);

/* How many are still to come to it. */
uint32_t tally_open(const struct tally *t, unsigned receiver);

/* Nothing more comes to it of what was sent so far: what has not come is lost. */
void tally_settle(struct tally *t, unsigned receiver);

/* Something else was not as promised: counted as wrong, described by a sentence. */
__attribute__((format(printf, 2, 3))) void tally_wrong(struct tally *t, const char *sentence, ...);

/* Has everything been right? */
bool tally_is_right(const struct tally *t);

/* Add the figures up. */
void tally_add(struct tally_figures *sum, const struct tally_figures *more);

#endif
