/* One process with all kinds of clients that does, one after the other, what clients do: several
 * publishers at several priorities, plain subscribers, requests and replies, kept messages, a group
 * with dead letters, large payloads, subscriptions that end, a client that leaves, and one that
 * dies and has left a will. It knows what must come of it, so it can be run beside a broker to
 * which something happens at any moment, and tells whether anybody noticed more than a pause.
 *
 * It lies in memory shared with the test, so that its figures are there also if it fails. */
#ifndef MQBROKER_TESTS_SUPPORT_SCENARIO_H
#define MQBROKER_TESTS_SUPPORT_SCENARIO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "libclient/names.h"
#include "tests/support/actor.h"
#include "tests/support/tally.h"

struct scenario {
    char instance[NAMES_INSTANCE_MAX + 1];
    bool pauses;   /* in its middle, when much is under way: it says a word, and waits for one */
    bool writes;   /* the broker keeps a journal: a group is durable, too */
    bool tolerant; /* something may be refused, if it is said that it is: it is tried again then */
    struct tally tally;
    unsigned n_refused;
    _Atomic uint64_t killed; /* when the broker was killed last, by proof_now(); 0: never */
    uint64_t longest_wait;   /* nanoseconds from there to the end of a call that it cut short */
    uint64_t begun;          /* the call that is being made */
};

/* What a broker needs to be told for it: small, and quick to start. */
extern const char scenario_config[];

/* Make one, in shared memory; NULL frees nothing. */
struct scenario *scenario_new(void);
struct scenario *scenario_free(struct scenario *s);

/* Forget the last run, and start the next as an actor. */
void scenario_start(struct scenario *s, struct actor *a, const char *instance);

/* Has it come to its end, be it a bad one? */
bool scenario_is_over(const struct actor *a);

/* Wait for its end. False: something was not as promised, s->tally.first says what. */
bool scenario_join(struct scenario *s, struct actor *a);

#endif
