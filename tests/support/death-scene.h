/* The scene of a death test: the memory that survives a broker, the kernel's queues and pools, the
 * clients, and what each of them must get. There is one, and it is global: a death is a longjmp,
 * which leaves no local variable to rely on. */
#ifndef MQBROKER_TESTS_SUPPORT_DEATH_SCENE_H
#define MQBROKER_TESTS_SUPPORT_DEATH_SCENE_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/engine.h"
#include "tests/support/kernel-queue.h"
#include "tests/support/segments.h"

enum {
    SCENE_CLIENTS = 4,
    SCENE_ROWS = 5,
    SCENE_DEPTH = 6,
    SCENE_POOLS = 128, /* in a run at once */
    SCENE_TOPICS = 3,
    SCENE_LEVELS = 4, /* of the priorities used */
    SCENE_EXPECTED_MAX = 2048,
    SCENE_IDS_MAX = 4096,     /* messages in a run */
    SCENE_HELD_MAX = 64,      /* requests that a client has and may answer */
    SCENE_READINGS_MAX = 512, /* payloads that a client reads in place */
    SCENE_READINGS_MANY = 256,
    SCENE_OLD_NAMES = 64,
    SCENE_SECOND = 1000000000,
};

extern const uint8_t scene_priorities[SCENE_LEVELS];
extern const char *const scene_topics[SCENE_TOPICS];

struct scene_expected {
    uint32_t id; /* of the message; of a reply: of the request it answers */
    uint64_t expiry;
    bool retained;
    bool reply;
};

struct scene_line { /* what a client must get at one level, in order */
    struct scene_expected list[SCENE_EXPECTED_MAX];
    unsigned head, tail;
};

/* A payload that a client reads where it lies. */
struct scene_reading {
    struct wire_slot slot;
    uint64_t payload;
};

struct scene_client {
    uint64_t nonce;
    bool alive, registered;
    bool lingers; /* the broker ended its session; the process is still there */
    bool subscribed[SCENE_TOPICS];
    int row;
    uint64_t seen[WIRE_LEVELS + 1];
    uint64_t missed;  /* as the last batch said */
    uint64_t skipped; /* what the model saw missing */
    struct scene_line lines[WIRE_LEVELS];
    uint32_t confirms_sent, confirms_got;
    uint64_t held[SCENE_HELD_MAX]; /* names of requests that it may answer */
    uint32_t held_id[SCENE_HELD_MAX];
    unsigned n_held;
    unsigned unread;
    struct scene_reading readings[SCENE_READINGS_MAX];
    unsigned n_readings;
    uint64_t old_names[SCENE_OLD_NAMES]; /* that it gave back before */
    unsigned n_old;
    struct { /* received, and its box not opened yet */
        uint8_t bytes[WIRE_QUEUE_MAX];
        uint32_t size; /* 0: there is none */
        unsigned level;
    } letter;
};

struct scene_request { /* by message id */
    bool is_one;
    bool taken; /* by the broker */
    int asker;
    uint32_t incarnation; /* of the asker */
    unsigned owners;      /* a bit for each client */
    unsigned replies, answers;
    uint64_t expiry;
    bool server_died;
    bool pooled; /* who was sent it may hold it, and owes nothing more when its time is over */
};

struct scene {
    void *ledger_memory, *store_memory, *board_memory;
    struct engine engine;
    struct kernel_queue request;
    struct kernel_queue replies[SCENE_ROWS];
    bool queue_made[SCENE_ROWS];
    struct segments *segments[SCENE_ROWS]; /* of the row's session */
    struct segments *pools[SCENE_POOLS];   /* all that are there */
    uint32_t width, max_buffers;
    struct scene_client clients[SCENE_CLIENTS];
    uint32_t incarnation[SCENE_CLIENTS];
    struct scene_request requests[SCENE_IDS_MAX];
    uint32_t last_id;
    uint32_t kept_id[SCENE_TOPICS]; /* 0: none */
    uint8_t kept_level[SCENE_TOPICS];
    uint64_t kept_pool[SCENE_TOPICS]; /* where its payload lies; 0: in its frame */
    uint64_t now;
    const char *fault; /* the first thing that was wrong; NULL: nothing */
    char fault_text[256];
};

extern struct scene scene;

/* What all runs so far came to. */
extern struct scene_toll {
    uint64_t deaths;
    uint64_t points;  /* stores at which there could have been one */
    uint64_t boxed;   /* batches in boxes */
    uint64_t back;    /* places handed back, … */
    uint64_t repeats; /* … and again */
} scene_toll;

/* Note what is wrong, if nothing was before: the run ends. */
void scene_wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- Chance ---- */

/* From here on all of it comes from this seed. */
void scene_seed(uint64_t seed);

uint64_t scene_chance(void);
unsigned scene_below(unsigned n);

/* ---- Who and what is there ---- */

/* The client whose session has this row; NULL: it is free, or was another's. */
struct scene_client *scene_client_of_row(uint16_t row);

/* The nonce of its pool. */
uint64_t scene_pool_of(const struct scene_client *c);

/* The pool of this nonce; NULL: there is none. */
struct segments *scene_find_pool(uint64_t nonce);
void scene_remove_pool(uint64_t nonce);

/* The word that lies there, as who has the message sees it. */
uint64_t scene_payload_at(const struct wire_slot *slot);

/* Take what came back to a pool's owner. */
void scene_look(struct segments *s);

#endif
