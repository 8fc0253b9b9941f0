/* The simulated machine: a kernel with its queues and shared memory, a clock, the broker, its
 * clients, and the model that judges them. There is one. */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_WORLD_H
#define MQBROKER_TESTS_SUPPORT_SIM_WORLD_H

#include "broker/store.h"
#include "libclient/board.h"
#include "libclient/outbox.h"
#include "libclient/pool.h"
#include "tests/support/chance.h"
#include "tests/support/kernel-queue.h"
#include "tests/support/sim-model.h"
#include "tests/support/sim-script.h"
#include "tests/support/sim-task.h"

enum {
    WORLD_ROWS = 12,
    WORLD_GROUPS = 2,
    WORLD_TOPICS = 8, /* rows of the board */
    WORLD_REFERENCES = 2048,
    WORLD_CELLS = 4096,
    WORLD_FRAME_MAX = 1240,
    WORLD_URGENT_WIDTH = 1280,
    WORLD_PAYLOADS = 24576, /* bytes of a pool, behind its header */
    WORLD_BUFFERS = 12,     /* of an outbox, at most */
};

#define WORLD_SECOND UINT64_C(1000000000)
#define WORLD_MS     UINT64_C(1000000)

/* What the kernel has of one session: a reply queue and two segments, under its nonce. They are
 * there as long as anybody has them open, their names not. */
struct estate {
    bool queue_named, outbox_named, pool_named;
    struct kernel_queue queue;
    bool armed; /* the broker waits for the queue's edge, */
    bool edge;  /* … and here it is */
    struct outbox_header *outbox;
    struct pool_header *pool;
    bool alive;          /* its process */
    uint64_t death_seen; /* when it is known to who watches it */
};

struct user;

struct world {
    struct script_setting setting;
    uint64_t now;
    struct chance luck;
    struct kernel_queue request, urgent;
    struct estate estates[MODEL_SESSIONS];
    uint32_t n_estates;

    struct ledger *ledger;
    void *store;
    struct board_header *board;
    struct task broker;
    struct user *users; /* SCRIPT_CLIENTS of them */
    struct model model;

    const char *claim; /* that does not hold; NULL: all do */
    char fault[256];
    bool tells; /* says what happens, on stdout */

    /* For the record: of all runs. */
    uint64_t n_points;
    uint64_t n_broker_deaths, n_client_deaths;
    uint64_t n_taken, n_handed; /* messages */
    uint64_t n_requests, n_replies;
    uint64_t n_acknowledged, n_returned, n_dead; /* of groups */
    uint64_t n_wills;
    uint64_t n_repeats; /* batches that came twice, and were known */
    uint64_t n_boxed;
    uint64_t n_dropped;    /* deliveries, by expiry or policy */
    uint64_t n_overflowed; /* by policy */
    uint64_t n_waits;      /* for room, of publishers */
};

extern struct world world;

/* Memory for all of it; at the end, back. False: there is none. */
bool world_init(void);
void world_deinit(void);

/* Run a script to its end. Returns what was wrong, NULL: nothing; world.claim says it without the
 * particulars. */
const char *world_run(const struct script *script);

/* ---- For those who live in it ---- */

/* A claim does not hold: `format` names it. The first one counts. */
void world_wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* For who reads along. */
#define world_tell(...)                                                                            \
    do {                                                                                           \
        if (world.tells)                                                                           \
            world_say(__VA_ARGS__);                                                                \
    } while (0)
void world_say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static inline uint64_t world_nonce(uint32_t session)
{
    return 1 + session;
}
static inline uint64_t world_pool_nonce(uint32_t session)
{
    return 1001 + session;
}

/* The session of a nonce, or of its pool's; MODEL_SESSIONS: none. */
uint32_t world_session(uint64_t nonce);
uint32_t world_session_of_pool(uint64_t nonce);

/* The row that the broker has for a session; NULL: none. */
const struct row *world_row(uint32_t session);

/* Where a payload lies, seen by who may map its pool; NULL: nowhere. */
const uint8_t *world_payload(const struct wire_slot *slot);

#endif
