/* The reference model: what each session must be handed, and no more.
 *
 * It sees what the kernel sees: the envelopes that the broker takes, and the batches that clients
 * read. What an envelope means is applied when its landing is committed, in one go, by rules that
 * are as plain as they can be: a list for each session and priority of what it must get next. It
 * knows nothing of references, cells, numbers and windows; of the broker's memory it reads only
 * what is the contract: rows (who is there), and counters that are promised to be exact. */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_MODEL_H
#define MQBROKER_TESTS_SUPPORT_SIM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/wire.h"
#include "tests/support/sim-crew.h"
#include "tests/support/sim-script.h"

enum {
    MODEL_SESSIONS = 16, /* in a run */
    MODEL_MESSAGES = 4096,
    MODEL_ENTRIES = 16384,
    MODEL_REQUESTS = 128, /* of a session */
    MODEL_CONFIRMS = 1024,
    MODEL_ASKED = 64, /* requests that a session was handed and may answer */
};

/* A message, by the word that its payload begins with. */
struct model_message {
    uint8_t type; /* WIRE_PUBLISH, WIRE_REQUEST, WIRE_WILL; 0: not taken by the broker */
    uint8_t session;
    uint8_t topic;
    uint8_t level;
    bool pooled;
    uint64_t expiry;
    uint32_t number;  /* of a request, or a confirm; 0: neither */
    uint8_t code;     /* of its confirm, as it must be */
    uint32_t owners;  /* a bit for each session that it was for; of a will: that got it */
    uint32_t replies; /* of a request: taken, */
    uint32_t answers; /* … and answers that arrived; of a publish: confirms */
    uint32_t told;    /* how often the caller was told how its request ended */
};

/* Something that a session must get. */
struct model_entry {
    uint32_t next; /* 0: the last one */
    uint32_t id;
    uint64_t expiry;
    bool reply; /* to the request `id` */
    bool retained;
    bool optional; /* nobody can say whether it was in time */
};

struct model_line {
    uint32_t first, last; /* entries; 0: none */
};

struct model_session {
    bool there; /* its program has registered */
    bool gone;  /* … and does not exist any more */
    bool said_bye;
    bool ending; /* … or was ended by the broker: what it has not read yet is lost to it */
    uint32_t name;
    bool is_due;       /* its end was seen */
    uint32_t will;     /* id; 0: none */
    uint32_t will_for; /* sessions that are there for it since before it was due: a bit for each */
    uint32_t filters;  /* a bit for each */
    uint64_t received;
    uint64_t sent;                            /* number of the newest batch */
    uint64_t seen[WIRE_LEVELS + 1];           /* numbers of batches (K3) */
    struct model_line due[SCRIPT_LEVELS];     /* must arrive */
    struct model_line arrived[SCRIPT_LEVELS]; /* must be handed out */
    uint64_t skipped;       /* did not arrive, and may be missing: must be counted as missed; */
    uint64_t skipped_maybe; /* may be */
    uint32_t n_requests;
    uint32_t requests[MODEL_REQUESTS]; /* ids */
    uint32_t confirms[MODEL_CONFIRMS]; /* ids by number */
    uint32_t n_confirms;
    struct {
        uint64_t name;
        uint32_t id;
    } asked[MODEL_ASKED];
    uint32_t n_asked;
};

struct model {
    uint32_t n_messages; /* given out so far: ids 1 … n */
    struct model_message messages[MODEL_MESSAGES];
    uint32_t n_entries;
    struct model_entry entries[MODEL_ENTRIES];
    struct model_session sessions[MODEL_SESSIONS];
    uint32_t kept[SCRIPT_TOPICS]; /* ids; 0: none */
    struct crew crews[SCRIPT_GROUPS];

    /* What the broker has taken, and not committed yet. */
    bool pending;
    uint64_t pending_age;
    uint32_t pending_size;
    uint8_t pending_bytes[WIRE_QUEUE_MAX];

    /* For the record. */
    uint64_t n_taken, n_handed;
};

void model_begin(struct model *m);

/* A program has registered under a session's nonce; `client` is the name it has. */
void model_register(struct model *m, uint32_t session, uint32_t client);

/* It does not exist any more. What it was asked may be answered by its end. */
void model_gone(struct model *m, uint32_t session);

/* Does the broker still send to it? */
bool model_serves(const struct model *m, uint32_t session);

/* The word for the next message. */
uint32_t model_new_id(struct model *m);

/* The kernel has handed this envelope to the broker: it counts, from its commit on. */
void model_taken(struct model *m, const uint8_t *bytes, uint32_t size);

/* Is what was taken committed by now, or thrown away? Asked at every point of the broker. */
void model_settle(struct model *m);

/* The broker has sent this batch to a session. */
void model_sent(struct model *m, uint32_t session, const uint8_t *bytes, uint32_t size);

/* A session has received this batch at this kernel priority. Returns whether it is new to it. */
bool model_arrived(struct model *m, uint32_t session, const uint8_t *bytes, uint32_t size,
                   unsigned level);

/* A message was handed to the user, with this payload; or it has expired in the queue. */
void model_handed(struct model *m, uint32_t session, const struct wire_frame *f,
                  const uint8_t *payload);
void model_expired(struct model *m, uint32_t session, const struct wire_frame *f);

/* The user asks the question `id`, under this number; or did not in the end: the last one. */
void model_asked(struct model *m, uint32_t session, uint32_t id, uint32_t number);
void model_not_asked(struct model *m, uint32_t session);

/* The user was told that a request came to nothing. */
void model_failed(struct model *m, uint32_t session, uint32_t number, uint8_t code);

/* All has come to rest: nothing may be missing. */
void model_finish(struct model *m);

/* Fill a payload, and see whether it is one: its id, 0: it is none. */
void model_fill(uint8_t *payload, uint32_t size, uint32_t id);
uint32_t model_id_of(const uint8_t *payload, uint32_t size);

#endif
