/* A stand-in for the broker, for tests of the client: real queues, a real board, and a thread that
 * answers as it is told.
 *
 * It knows no rules: what it sends is what the test says. One session at a time. */
#ifndef MQBROKER_TESTS_SUPPORT_STAND_IN_H
#define MQBROKER_TESTS_SUPPORT_STAND_IN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "libclient/board.h"
#include "libclient/names.h"
#include "libclient/outbox.h"
#include "libclient/pool.h"
#include "libclient/queue.h"
#include "libclient/segment.h"
#include "libclient/wire.h"

enum {
    STAND_IN_WIDTH = 1280, /* of all queues but the request queue */
    STAND_IN_REQUEST_WIDTH = 2048,
    STAND_IN_DEPTH = 10,
    STAND_IN_FRAME_MAX = 1240,
    STAND_IN_WINDOW = 64 * 256,
    STAND_IN_ROW = 1,
    STAND_IN_KEPT = 2048, /* frames remembered */
    STAND_IN_BUFFERS = STAND_IN_DEPTH + 2,
    STAND_IN_POOL_MAX = 4 << 20,
    STAND_IN_COPIES = 1 << 20, /* bytes of the outbox for copies */
};

/* A frame that came. */
struct stand_in_frame {
    bool urgent; /* by the urgent request queue */
    unsigned level;
    uint32_t envelope; /* the how manieth envelope it came in */
    struct wire_frame frame;
    uint8_t
        bytes[WIRE_MESSAGE_SIZE + WIRE_TOPIC_MAX + 1 + 256]; /* of the frame, as far as they fit */
};

struct stand_in {
    char instance[NAMES_INSTANCE_MAX + 1];
    struct segment segment;
    struct board_header *board;
    struct board_row *row;
    struct queue request;
    struct queue urgent;
    struct queue reply;
    struct segment outbox_segment;
    struct outbox_header *outbox;
    struct segment pool_segment; /* the client's, once stand_in_pool() was called */

    /* What it does; set before the client does what is answered. */
    _Atomic uint32_t
        refuse; /* registrations are answered with this code, if it is not WIRE_C_OK, */
    _Atomic uint32_t refuse_times; /* so many times */
    uint32_t row_state;            /* of the sessions it makes, if not BOARD_ROW_LIVE */
    _Atomic bool mute;             /* answers nothing, */
    _Atomic uint32_t n_ignored;    /* not even so many registrations */
    _Atomic bool paused;           /* does not even read, */
    _Atomic bool deaf;             /* or not the request queue for normal priorities */
    void (*answer)(struct stand_in *s,
                   const struct wire_frame *frame); /* other frames; NULL: see stand_in_answer() */
    void *context;                                  /* its */

    pthread_t thread;
    bool running;
    _Atomic bool quit;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t came;
    uint64_t nonce;
    uint64_t pool_nonce;
    uint64_t number; /* of the last batch */
    uint64_t grant;
    uint32_t n_envelopes;
    uint32_t n_frames;
    struct stand_in_frame *frames;
    uint8_t batch[OUTBOX_BUFFER];
    uint32_t batch_size;
};

/* Make queues, board and thread under an instance name of its own. */
struct stand_in *stand_in_start(void);

/* Remove what was made for the session; another may register. */
void stand_in_forget(struct stand_in *s);

/* Remove all of it. */
void stand_in_stop(struct stand_in *s);

/* Wait until so many frames have come, REGISTER not counted; fails the test after 10 s. */
void stand_in_await(struct stand_in *s, uint32_t n);

/* Make a batch frame by frame, and send it. Between begin and send the lock is held. */
void stand_in_begin(struct stand_in *s);
void stand_in_message(struct stand_in *s, uint8_t priority, uint16_t flags, uint64_t number,
                      uint64_t expiry, const char *topic, const char *payload);
void stand_in_delivery(struct stand_in *s, uint8_t priority, uint16_t flags, uint64_t name,
                       uint8_t tries, uint64_t expiry, const char *topic,
                       const char *payload); /* out of a group */
void stand_in_pooled(struct stand_in *s, uint8_t priority, uint16_t flags, uint64_t number,
                     const char *topic, const struct wire_slot *slot);
void stand_in_lent(struct stand_in *s, uint8_t code, uint64_t name, uint64_t offset, uint64_t size);
void stand_in_code(struct stand_in *s, uint8_t code, uint32_t number, uint32_t count);
void stand_in_end(struct stand_in *s, uint8_t type, uint8_t code);
void stand_in_send(struct stand_in *s, unsigned level);

/* Send it by this buffer of the outbox; it has to be free. */
void stand_in_send_boxed(struct stand_in *s, unsigned level, uint32_t buffer);

/* The client's pool, mapped read-only; it must not grow after this. */
const struct pool_header *stand_in_pool(struct stand_in *s);

/* Hand a place back that a frame has named. */
void stand_in_hand_back(struct stand_in *s, const struct wire_slot *slot);

/* One plain message. */
void stand_in_say(struct stand_in *s, uint8_t priority, const char *topic, const char *payload);

/* What is answered without an `answer`: OK to SUBSCRIBE, UNSUBSCRIBE, JOIN, WILL, ADMIN and
 * confirms. */
void stand_in_answer(struct stand_in *s, const struct wire_frame *frame);

#endif
