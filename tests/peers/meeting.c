/* A sender's number is the order in which they came. Who sends and receives does not listen to
 * itself. */
#include "tests/peers/meeting.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tools/bench.h"

enum {
    NAP_NS = 1000000,
    PATIENCE_NS = 10 * 1000000000ll,
    PRIORITY = 8,
    NOBODY = -1,
};

struct meeting {
    unsigned n_senders;
    _Atomic unsigned n_came;                  /* senders */
    _Atomic unsigned n_done;                  /* senders whom everybody has heard */
    _Atomic int sender_of[BENCH_WORKERS_MAX]; /* what number a receiver has that sends too */
    _Atomic char met[BENCH_WORKERS_MAX][BENCH_WORKERS_MAX]; /* by sender, receiver */
};

struct meeting *meeting_new(const struct carrier *carrier)
{
    struct meeting *meeting =
        mmap(NULL, sizeof *meeting, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (meeting == MAP_FAILED) {
        bench_fail("cannot share memory with the workers: %s", strerror(errno));
        return NULL;
    }
    /* Where there are no publishers, the receivers send to each other. */
    meeting->n_senders =
        carrier->options->publishers > 0 ? carrier->options->publishers : carrier->n_receivers;
    for (unsigned i = 0; i < BENCH_WORKERS_MAX; i++) {
        atomic_init(&meeting->sender_of[i], NOBODY);
    }
    return meeting;
}

struct meeting *meeting_free(struct meeting *meeting)
{
    if (meeting != NULL) {
        munmap(meeting, sizeof *meeting);
    }
    return NULL;
}

void meeting_take(struct meeting *meeting, const struct carrier_end *end, const void *probe)
{
    unsigned short sender;

    memcpy(&sender, probe, sizeof sender);
    atomic_store(&meeting->met[sender][end->receiver], 1);
}

/* Probe whoever has not heard `me` yet. Returns how many, or -1. */
static int probe_all(struct meeting *meeting, struct carrier_end *end, unsigned short me)
{
    const struct carrier *carrier = end->carrier;
    int missing = 0;

    for (unsigned r = 0; r < carrier->n_receivers; r++) {
        bool self = atomic_load(&meeting->sender_of[r]) == me;

        if (self || atomic_load(&meeting->met[me][r])) {
            continue;
        }
        missing++;
        if (carrier_send(end, carrier->channels[r], &me, sizeof me, PRIORITY) < 0 ||
            carrier_flush(end) < 0) {
            return -1;
        }
    }
    return missing;
}

int meeting_attend(struct meeting *meeting, struct carrier_end *end,
                   int (*receive)(struct carrier_end *end))
{
    bool sends = (end->use & CARRIER_SEND) != 0;
    bool receives = (end->use & CARRIER_RECEIVE) != 0;
    unsigned short me = sends ? (unsigned short)atomic_fetch_add(&meeting->n_came, 1) : 0;
    uint64_t began = bench_now();

    if (sends && receives) {
        atomic_store(&meeting->sender_of[end->receiver], me);
    }
    for (bool probing = sends; probing || receives;) {
        struct timespec nap = {.tv_nsec = NAP_NS};
        bool all_done = atomic_load(&meeting->n_done) == meeting->n_senders;

        /* Once more after the last has done, so that no probe is left that could have been taken.
         */
        if (receives && receive(end) < 0) {
            return -1;
        }
        if (all_done) {
            return 0;
        }
        if (probing) {
            int missing = probe_all(meeting, end, me);

            if (missing < 0) {
                return -1;
            }
            if (missing == 0) {
                probing = false;
                atomic_fetch_add(&meeting->n_done, 1);
            }
        }
        if (bench_now() - began > PATIENCE_NS) {
            return bench_fail("publishers and subscribers did not find each other");
        }
        nanosleep(&nap, NULL);
    }
    return 0;
}
