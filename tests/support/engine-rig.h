/* A rig for the engine: memory from malloc, and a kernel that is a few arrays.
 *
 * The engine is pure, so nothing of it is faked: the rig does what broker/broker.c does, in the
 * same order, with queues that are arrays of batches. A test builds envelopes by the client's
 * codec, has them routed, pumps, and reads what a client would read. Rows are numbers; so is time
 * (rig->engine.now). Nothing here asserts: what a test program and a fuzz target do about a fault
 * differs. */
#ifndef MQBROKER_TESTS_SUPPORT_ENGINE_RIG_H
#define MQBROKER_TESTS_SUPPORT_ENGINE_RIG_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/engine.h"
#include "broker/groups.h"
#include "broker/life.h"
#include "broker/pools.h"
#include "broker/pump.h"
#include "broker/route.h"
#include "tests/support/segments.h"

enum {
    RIG_ROWS = 16, /* at most */
    RIG_DEPTH = 10,
    RIG_FRAME_MAX = 1240,
    RIG_GROUPS = 4,
    RIG_LARGE = 640, /* bytes of payload: two such frames do not fit a batch of the usual width */
    RIG_BUFFERS = RIG_DEPTH + 2,
    RIG_POOLS = 64, /* that can be there at once */
};

#define RIG_SECOND UINT64_C(1000000000)

/* Zero means: the figure of the small store that most tests use. */
struct rig_options {
    uint32_t n_rows;       /* 8 */
    uint32_t n_topics;     /* 16 */
    uint32_t n_references; /* 4,096 */
    uint32_t n_cells;      /* 4,096: with 8 rows a window of 65,536 bytes */
    uint32_t width;        /* of reply queues: 1,280 */
    uint32_t n_buffers;    /* of outboxes, at most; 0: there are neither outboxes nor pools */
    bool journal;          /* groups may be durable; the test is the journal */
    struct engine_settings settings;
};

struct rig_batch {
    uint8_t level;
    uint32_t size;
    uint8_t *bytes; /* exactly `size`: the address sanitizer sees a read beyond it */
};

/* A reply queue, and what its reader remembers. */
struct rig_queue {
    bool open;
    bool armed; /* the broker waits for its edge */
    uint32_t n;
    struct rig_batch batches[RIG_DEPTH]; /* in the order of their arrival */
    uint32_t refuse;                     /* so many sends find it full, whatever it holds */

    uint64_t seen[WIRE_LEVELS + 1]; /* number of the last batch read at each kernel priority (K3) */
    struct rig_batch current;       /* the batch that is being read, out of its box */
    struct wire_batch header;       /* … its header; valid once one was read */
    size_t at;                      /* … how far it is read */
    uint32_t n_repeats;             /* batches dropped by their number */
    uint32_t n_boxed;               /* batches that came by the outbox */
    bool lies; /* its client writes into its pool what it likes: a box may have anything */
};

struct rig {
    struct engine engine;
    struct engine_memory memory;
    struct engine_settings settings;
    uint32_t width;
    uint32_t n_buffers;
    bool journal;
    uint64_t next_nonce;
    uint64_t next_inode;
    uint64_t next_copy; /* offset of the next payload that is lent */
    struct rig_queue queues[RIG_ROWS];
    struct segments *segments[RIG_ROWS]; /* of the row's session; NULL: there is none */
    struct segments *pools[RIG_POOLS];   /* all whose names are there, or whose sessions are */
    const char *fault; /* what the shell or a client saw that cannot be; NULL: nothing */
    uint8_t envelope[WIRE_QUEUE_MAX]; /* that is being built */
    size_t envelope_size;
};

/* A message frame to be sent; what is left out is zero. */
struct rig_message {
    uint8_t type;
    uint8_t priority;
    uint16_t flags;
    uint64_t number;
    uint64_t expiry;
    const char *topic;
    const char *payload; /* NUL-terminated; of `payload_size` bytes if that is not 0 */
    size_t payload_size;
    const struct wire_slot *slot; /* POOLED: where the payload lies instead */
};

/* Zero options, or NULL, for the usual ones. An engine over fresh memory, started. 0 or -ENOMEM. */
int rig_init(struct rig *r, const struct rig_options *options);
void rig_deinit(struct rig *r);

/* The broker dies where it stands, and another starts on its memory. Returns what life_start()
 * did. */
int rig_restart(struct rig *r);

/* ---- Envelopes: begin, add frames, send ---- */

void rig_begin(struct rig *r, uint16_t row); /* with the row's own token */
void rig_add(struct rig *r, const struct rig_message *m);
void rig_add_text(struct rig *r, uint8_t type, uint16_t flags, uint32_t number, const char *text);
void rig_add_bytes(struct rig *r, const void *bytes, size_t size);
void rig_send(struct rig *r); /* states the length, routes; nothing is pumped */

/* Route any bytes as an envelope; rig_land() only receives them: the broker dies before it routes
 * them. */
void rig_route(struct rig *r, const void *bytes, size_t size);
void rig_land(struct rig *r, const void *bytes, size_t size);

/* Envelopes with one frame. */
void rig_message(struct rig *r, uint16_t row, const struct rig_message *m);
void rig_publish(struct rig *r, uint16_t row, uint8_t priority, const char *topic,
                 const char *payload);
void rig_request(struct rig *r, uint16_t row, const char *topic, uint32_t number, uint64_t expiry);
void rig_reply(struct rig *r, uint16_t row, uint64_t name, const char *payload);
void rig_subscribe(struct rig *r, uint16_t row, const char *filter); /* number 0, no kept ones */
void rig_bye(struct rig *r, uint16_t row);
void rig_register(struct rig *r, uint64_t nonce, const char *name, uint16_t flags);
void rig_fetch(struct rig *r, uint16_t row, uint64_t name);

/* … one whose payload is RIG_LARGE bytes that begin so, on "t". */
void rig_publish_large(struct rig *r, uint16_t row, uint8_t priority, const char *payload);

/* The nonce of the pool that rig_register() names. */
uint64_t rig_pool_nonce(uint64_t nonce);

/* Put a payload, any word, into the session's pool and publish it. False: its pool is full. */
bool rig_publish_pooled(struct rig *r, uint16_t row, uint8_t priority, const char *topic,
                        uint64_t payload);

/* A session by this name ("": without): registered, made, its WELCOME read. Its row, or -1. */
int rig_session(struct rig *r, const char *name);

/* ---- The shell's part ---- */

/* Make and remove the queues and segments of sessions that came and went, copy what is to be lent.
 */
void rig_carry_out(struct rig *r);

/* Read the release rings. */
void rig_collect(struct rig *r);

/* What pump_next() says when it has all that it asks for. */
int rig_next(struct rig *r, uint16_t row, struct pump_batch *batch);

/* Send what there is for one session, as far as its queue has room. The outcome that ended it. */
int rig_pump(struct rig *r, uint16_t row);

/* All of that: what a turn does after its intake. */
void rig_turn(struct rig *r);

/* A death that has been seen, and its effect. */
void rig_kill(struct rig *r, uint16_t row);

/* Put a batch that pump_next() gave into the queue, as mq_send would. False: it is full. */
bool rig_queue_put(struct rig *r, uint16_t row, const struct pump_batch *batch);

/* ---- The reader's part ---- */

/* The next frame out of the queue, highest kernel priority first, repeated batches dropped. False:
 * the queue is empty. The frame is valid until the next call for this row; so is
 * queues[row].header, that of its batch. */
bool rig_read(struct rig *r, uint16_t row, struct wire_frame *f);

/* Throw away what stands in the queue and what was begun to be read. Returns how many frames. */
uint32_t rig_drain(struct rig *r, uint16_t row);

/* The highest kernel priority that stands in the queue; -1: it is empty. */
int rig_highest(const struct rig *r, uint16_t row);

/* The word that lies where a pooled message says; 0, and a fault: nothing can lie there. */
uint64_t rig_payload(struct rig *r, const struct wire_frame *f);

/* Give a pooled message back. */
void rig_release(struct rig *r, uint16_t row, uint64_t name);

/* Take the places that came back. Returns how many are free again by it. */
uint32_t rig_look(struct rig *r, uint16_t row);

/* The pool of this nonce, while its name or its session is there; NULL: it is not. */
struct segments *rig_pool(const struct rig *r, uint64_t nonce);

/* The code of the newest posting for a nonce; -1: there is none. */
int rig_posted(const struct rig *r, uint64_t nonce);

#endif
