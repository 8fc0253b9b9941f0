/* The codec of the protocol (PROTOCOL.md): envelopes, batches and frames to and from bytes.
 *
 * Pure: no system call, no allocation, no state. Decoding yields a view into the caller's bytes;
 * what a view says was checked once, here, and nowhere else. Bytes that another process can still
 * write must be copied out before they are decoded (rule S8). */
#ifndef MQBROKER_LIBCLIENT_WIRE_H
#define MQBROKER_LIBCLIENT_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    WIRE_VERSION = 1,
    WIRE_QUEUE_MAX = 8192,   /* largest queue message, bytes */
    WIRE_BATCH_MAX = 16384,  /* largest batch: by the outbox */
    WIRE_ENVELOPE_SIZE = 32, /* header of an envelope */
    WIRE_BATCH_SIZE = 40,    /* header of a batch */
    WIRE_HEAD_SIZE = 8,      /* what all frames begin with */
    WIRE_MESSAGE_SIZE = 24,  /* message frame up to its topic */
    WIRE_TEXT_SIZE = 16,     /* SUBSCRIBE, UNSUBSCRIBE, REPORT up to their text */
    WIRE_SLOT_SIZE = 24,     /* a payload's place in a pool, between the two: POOLED */
    WIRE_REGISTER_SIZE = 40, /* REGISTER up to its name */
    WIRE_ANSWER_SIZE = 16,
    WIRE_WELCOME_SIZE = 72,
    WIRE_FETCH_SIZE = 16,
    WIRE_BOXED_SIZE = 16,
    WIRE_LENT_SIZE = 32,
    WIRE_JOIN_SIZE = 24, /* JOIN up to its group's name */
    WIRE_NACK_SIZE = 24,
    WIRE_SLOT_UNIT = 64, /* places in a pool are counted in so many bytes */
    WIRE_TOKEN_SIZE = 16,
    WIRE_TOPIC_MAX = 255, /* bytes of a topic or filter */
    WIRE_NAME_MAX = 63,   /* bytes of a client's or a group's name */
    WIRE_GROUP_MAX = 69,  /* the same behind WIRE_DEAD_PREFIX */
    WIRE_ACKS_MAX = 127,  /* names in one ACK */
    WIRE_LEVELS = 32,     /* priorities 0..31 */
    WIRE_URGENT = 24,     /* from here on a message travels by the urgent request queue */
    WIRE_CONTROL = 32,    /* kernel priority of control frames */
    WIRE_DEFAULT_PRIORITY = 8,
    WIRE_NO_SESSION = 0xffff,
    WIRE_FIRST_CELL =
        224, /* bytes of a frame in its first cell, and in each further one: section 6 */
    WIRE_NEXT_CELL = 252,
    WIRE_CELL_SIZE = 256,
};

#define WIRE_ENVELOPE_MAGIC UINT32_C(0x3151424d)
#define WIRE_BATCH_MAGIC    UINT32_C(0x3152424d)

/* Before a group's name: its dead letters. */
#define WIRE_DEAD_PREFIX "$dead/"

enum wire_type {
    WIRE_PUBLISH = 1,
    WIRE_REQUEST = 2,
    WIRE_REPLY = 3,
    WIRE_SUBSCRIBE = 4,
    WIRE_UNSUBSCRIBE = 5,
    WIRE_REPORT = 6,
    WIRE_REGISTER = 7,
    WIRE_BYE = 8,
    WIRE_FETCH = 9,
    WIRE_NUDGE = 10,
    WIRE_JOIN = 11,
    WIRE_ACK = 12,
    WIRE_NACK = 13,
    WIRE_WILL = 14,
    WIRE_ADMIN = 15,
    WIRE_MESSAGE = 16,
    WIRE_ANSWER = 17,
    WIRE_WELCOME = 18,
    WIRE_STOPPED = 19,
    WIRE_ENDED = 20,
    WIRE_BOXED = 21,
    WIRE_LENT = 22,
};

enum wire_flag {
    WIRE_F_RETAIN = 1,
    WIRE_F_CONFIRM = 2,
    WIRE_F_REQUEST = 4,
    WIRE_F_REPLY = 8,
    WIRE_F_POOLED = 16,      /* the payload is in a pool */
    WIRE_F_ACK = 32,         /* an acknowledgement is owed */
    WIRE_F_NO_RETAINED = 1,  /* SUBSCRIBE */
    WIRE_F_GROUP = 1,        /* UNSUBSCRIBE: the text is a group */
    WIRE_F_PUBLISH_ONLY = 1, /* REGISTER */
    WIRE_F_DURABLE = 1,      /* JOIN */
    WIRE_F_DEAD_EXPIRED = 2, /* JOIN: what expires becomes a dead letter */
    WIRE_F_DEAD = 1,         /* NACK: to the dead letters at once */
};

/* What an ADMIN asks for; stands in the place of its flags. */
enum wire_verb {
    WIRE_V_PURGE = 1,
    WIRE_V_REQUEUE = 2,
    WIRE_V_REMOVE = 3,
    WIRE_V_KICK = 4,
};

/* Frozen: numbers on the wire. */
enum wire_code {
    WIRE_C_OK = 0,
    WIRE_C_NO_SUBSCRIBER = 1,
    WIRE_C_PEER_DIED = 2,
    WIRE_C_TIMEOUT = 3,
    WIRE_C_WINDOW = 4,
    WIRE_C_STORE_FULL = 5,
    WIRE_C_BAD_TOPIC = 6,
    WIRE_C_BAD_FILTER = 7,
    WIRE_C_TOO_MANY_FILTERS = 8,
    WIRE_C_NOT_SUBSCRIBED = 9,
    WIRE_C_DROPPED = 10,
    WIRE_C_PUBLISH_ONLY = 11,
    WIRE_C_RETAINED_FULL = 12,
    WIRE_C_BAD_SLOT = 13,
    WIRE_C_NO_COPY = 14,
    WIRE_C_GROUP_DIFFERS = 15,
    WIRE_C_GROUPS_FULL = 16,
    WIRE_C_NO_GROUP = 17,
    WIRE_C_GROUP_FULL = 18,
    WIRE_C_NO_JOURNAL = 19,
    WIRE_C_JOURNAL_FULL = 20,
    WIRE_C_BAD_GROUP = 21,
    WIRE_C_NO_SESSION = 22,
    WIRE_C_JOURNAL_ERROR = 23,
    WIRE_C_NAME_TAKEN = 32,
    WIRE_C_NAME_LEAVING = 33,
    WIRE_C_BAD_NAME = 34,
    WIRE_C_NO_ROW = 35,
    WIRE_C_QUEUE_MEMORY = 36,
    WIRE_C_QUEUE_COUNT = 37,
    WIRE_C_NO_SUCH_PROCESS = 38,
    WIRE_C_QUEUE_ERROR = 39,
    WIRE_C_STOPPING = 40,
    WIRE_C_POOLS_FULL = 41,
    WIRE_C_OVERFLOW = 48,
    WIRE_C_UNREAD_ANSWERS = 49,
    WIRE_C_QUEUE_REPLACED = 50,
    WIRE_C_KICKED = 51,
    WIRE_C_BAD_POOL = 52,
};

/* Outcomes of decoding. */
enum wire_outcome {
    WIRE_OK = 0,
    WIRE_E_SHORT,    /* fewer bytes than the header, or than the length it states */
    WIRE_E_MAGIC,    /* not ours */
    WIRE_E_VERSION,  /* ours, of another version */
    WIRE_E_LENGTH,   /* states a length that cannot be */
    WIRE_E_RESERVED, /* a reserved byte or flag is set */
    WIRE_E_TYPE,     /* no such frame, or not in this direction */
    WIRE_E_FIELD,    /* a field is out of its range */
};

struct wire_envelope {
    uint16_t session;
    const uint8_t *token;  /* WIRE_TOKEN_SIZE bytes, in the caller's memory */
    const uint8_t *frames; /* likewise */
    size_t size;           /* bytes of frames */
};

struct wire_batch {
    uint16_t session;
    uint8_t level; /* kernel priority */
    uint64_t number;
    uint64_t grant;
    uint64_t missed;
    const uint8_t *frames;
    size_t size;
};

/* Where a payload lies that is not in its frame. */
struct wire_slot {
    uint64_t pool;   /* nonce of the pool's name */
    uint32_t offset; /* from the start of its segment, in WIRE_SLOT_UNIT bytes */
    uint32_t size;   /* bytes, not 0 */
    uint64_t name;   /* to the broker: generation, 32 bits, comes back when the slot does. From it:
                        name   of the delivery, for the release ring */
};

/* A view of one frame. The members behind the common ones are those of its type; pointers go into
 * the decoded bytes. */
struct wire_frame {
    const uint8_t *bytes; /* the frame itself, `size` bytes */
    const char *text;     /* topic, filter, name or group, NUL-terminated in place; NULL: none */
    uint64_t number;
    uint64_t nonce; /* REGISTER, WELCOME */
    uint16_t size;
    uint16_t flags;
    uint8_t type;
    uint8_t priority;
    uint8_t code;      /* ANSWER, STOPPED, ENDED, LENT */
    uint8_t text_size; /* without the NUL */
    union {
        struct { /* PUBLISH, REQUEST, REPLY, WILL, MESSAGE */
            uint64_t expiry;
            const uint8_t *payload; /* POOLED: NULL */
            uint32_t payload_size;  /* POOLED: slot.size */
            uint8_t tries;          /* MESSAGE with ACK: how often it came back before */
            struct wire_slot slot;  /* POOLED alone */
        };
        uint32_t count; /* ANSWER */
        struct {        /* REGISTER */
            uint64_t start;
            uint64_t pool; /* nonce of its pool's name */
            uint32_t pid;
        };
        struct { /* BOXED: the batch lies in this buffer of the outbox */
            uint32_t buffer;
            uint32_t boxed_size; /* its bytes; the size of a batch at most */
        };
        struct { /* LENT: the copy that was fetched; `number` is the delivery's name, `code` how it
                    went */
            uint64_t lent_offset; /* from the start of the outbox */
            uint64_t lent_size;
        };
        struct { /* JOIN; `text` is the filter, of no bytes if the group is joined as it is */
            const char *group;  /* NUL-terminated in place */
            uint32_t timeout;   /* for an acknowledgement, in milliseconds; 0: the default */
            uint16_t prefetch;  /* 0: the default */
            uint8_t group_size; /* without the NUL */
            uint8_t limit;      /* of deliveries; 0: the default */
        };
        struct {                  /* ACK */
            const uint8_t *names; /* of deliveries; `n_names` words, read with wire_load64() */
            uint32_t n_names;
        };
        uint32_t delay; /* NACK: milliseconds; `number` is the delivery's name */
        struct {        /* WELCOME */
            const uint8_t *token;
            uint64_t window;
            uint32_t width;
            uint32_t frame_max;
            uint16_t session;
            uint16_t depth;
            uint64_t pool_max; /* bytes that its pool's segment may have */
            uint32_t buffers;  /* of its outbox, */
            uint32_t buffer_size;
        };
    };
};

/* What a message costs its publisher in bytes of window, and the store in memory. */
static inline uint32_t wire_cells(uint32_t frame_size)
{
    return frame_size <= WIRE_FIRST_CELL
               ? 1
               : 1 + (frame_size - WIRE_FIRST_CELL + WIRE_NEXT_CELL - 1) / WIRE_NEXT_CELL;
}

static inline uint32_t wire_charge(uint32_t frame_size)
{
    return wire_cells(frame_size) * WIRE_CELL_SIZE;
}

static inline size_t wire_message_size(size_t topic_size, size_t payload_size)
{
    return WIRE_MESSAGE_SIZE + topic_size + 1 + payload_size;
}

static inline size_t wire_pooled_size(size_t topic_size)
{
    return WIRE_MESSAGE_SIZE + WIRE_SLOT_SIZE + topic_size + 1;
}

static inline size_t wire_join_size(size_t group_size, size_t filter_size)
{
    return WIRE_JOIN_SIZE + group_size + 1 + filter_size + 1;
}

static inline size_t wire_acks_size(size_t n_names)
{
    return WIRE_HEAD_SIZE + n_names * sizeof(uint64_t);
}

/* Headers. The put functions write exactly WIRE_ENVELOPE_SIZE or WIRE_BATCH_SIZE bytes; `length` is
 * of the whole. */
void wire_put_envelope(uint8_t *out, uint16_t session, const uint8_t token[WIRE_TOKEN_SIZE],
                       uint32_t length);
void wire_put_batch(uint8_t *out, uint16_t session, uint8_t level, uint64_t number, uint64_t grant,
                    uint64_t missed, uint32_t length);

/* Check a queue message of `size` bytes. Frames are not looked at. Returns an enum wire_outcome;
 * `out` is set only on WIRE_OK. */
int wire_get_envelope(const uint8_t *bytes, size_t size, struct wire_envelope *out);
int wire_get_batch(const uint8_t *bytes, size_t size, struct wire_batch *out);

/* Check the frame that begins at `bytes`, of which `size` bytes are left; the next one begins
 * out->size further on. The first takes what clients send, the second what the broker sends. Topic
 * syntax is not checked (libclient/topic.h is). Returns an enum wire_outcome; `out` is set only on
 * WIRE_OK. */
int wire_get_request(const uint8_t *bytes, size_t size, struct wire_frame *out);
int wire_get_delivery(const uint8_t *bytes, size_t size, struct wire_frame *out);

/* Frames. Each writes one frame and returns its size. The caller has made sure that it fits:
 * wire_message_size(), wire_pooled_size(), wire_join_size(), wire_acks_size(), or WIRE_TEXT_SIZE +
 * text_size + 1, or the fixed size. Texts need no NUL of their own. A WILL is a message without
 * expiry; an ADMIN is a text whose flags are an enum wire_verb. */
size_t wire_put_message(uint8_t *out, uint8_t type, uint8_t priority, uint16_t flags,
                        uint64_t number, uint64_t expiry, const char *topic, size_t topic_size,
                        const void *payload, size_t payload_size);
size_t wire_put_pooled(uint8_t *out, uint8_t type, uint8_t priority, uint16_t flags,
                       uint64_t number, uint64_t expiry, const char *topic, size_t topic_size,
                       const struct wire_slot *slot); /* POOLED is added to the flags */
size_t wire_put_text(uint8_t *out, uint8_t type, uint16_t flags, uint32_t number, const char *text,
                     size_t text_size);
size_t wire_put_register(uint8_t *out, uint16_t flags, uint64_t nonce, uint32_t pid, uint64_t start,
                         uint64_t pool, const char *name, size_t name_size);
size_t wire_put_bye(uint8_t *out);
size_t wire_put_nudge(uint8_t *out);
size_t wire_put_fetch(uint8_t *out, uint64_t name);
size_t wire_put_join(uint8_t *out, const struct wire_frame *join);
size_t wire_put_acks(uint8_t *out, const void *names, size_t n_names); /* 1..WIRE_ACKS_MAX words */
size_t wire_put_nack(uint8_t *out, uint16_t flags, uint64_t name, uint32_t delay);
size_t wire_put_boxed(uint8_t *out, uint32_t buffer, uint32_t size);
size_t wire_put_lent(uint8_t *out, uint8_t code, uint64_t name, uint64_t offset, uint64_t size);
size_t wire_put_answer(uint8_t *out, uint8_t code, uint32_t number, uint32_t count);
size_t wire_put_welcome(uint8_t *out, const struct wire_frame *welcome);
size_t wire_put_end(uint8_t *out, uint8_t type, uint8_t code); /* STOPPED, ENDED */

/* Words of the wire: host order, at any address. */
static inline uint16_t wire_load16(const uint8_t *from)
{
    uint16_t word;

    memcpy(&word, from, sizeof(word));
    return word;
}

static inline uint32_t wire_load32(const uint8_t *from)
{
    uint32_t word;

    memcpy(&word, from, sizeof(word));
    return word;
}

static inline uint64_t wire_load64(const uint8_t *from)
{
    uint64_t word;

    memcpy(&word, from, sizeof(word));
    return word;
}

static inline void wire_store16(uint8_t *to, uint16_t word)
{
    memcpy(to, &word, sizeof(word));
}

static inline void wire_store32(uint8_t *to, uint32_t word)
{
    memcpy(to, &word, sizeof(word));
}

static inline void wire_store64(uint8_t *to, uint64_t word)
{
    memcpy(to, &word, sizeof(word));
}

/* Where the words stand that are read or patched without decoding. */
enum {
    WIRE_AT_LENGTH = 0,
    WIRE_AT_TYPE = 2,
    WIRE_AT_FLAGS = 4,
    WIRE_AT_TRIES = 7, /* MESSAGE with ACK; elsewhere reserved */
    WIRE_AT_NUMBER = 8,
    WIRE_AT_EXPIRY = 16,
    WIRE_AT_SLOT = 24, /* POOLED */
    WIRE_AT_SLOT_NAME = 40,
    WIRE_AT_ENVELOPE_LENGTH = 4,
};

/* The length that an envelope states, before anything of it was checked: the broker's start has
 * nothing else to go by. */
static inline uint32_t wire_envelope_length(const uint8_t *envelope)
{
    return wire_load32(envelope + WIRE_AT_ENVELOPE_LENGTH);
}

/* Patch a message frame in place: a delivery is one copy and these words. */
static inline void wire_patch_type(uint8_t *frame, uint8_t type, uint16_t flags)
{
    frame[WIRE_AT_TYPE] = type;
    wire_store16(frame + WIRE_AT_FLAGS, flags);
}

static inline void wire_patch_tries(uint8_t *frame, uint8_t tries)
{
    frame[WIRE_AT_TRIES] = tries;
}

static inline void wire_patch_expiry(uint8_t *frame, uint64_t expiry)
{
    wire_store64(frame + WIRE_AT_EXPIRY, expiry);
}

static inline void wire_patch_number(uint8_t *frame, uint64_t number)
{
    wire_store64(frame + WIRE_AT_NUMBER, number);
}

/* Words of a message frame that was checked before. */
static inline uint16_t wire_frame_size(const uint8_t *frame)
{
    return wire_load16(frame + WIRE_AT_LENGTH);
}

static inline uint64_t wire_message_number(const uint8_t *frame)
{
    return wire_load64(frame + WIRE_AT_NUMBER);
}

static inline uint64_t wire_message_expiry(const uint8_t *frame)
{
    return wire_load64(frame + WIRE_AT_EXPIRY);
}

static inline uint16_t wire_message_flags(const uint8_t *frame)
{
    return wire_load16(frame + WIRE_AT_FLAGS);
}

static inline uint8_t wire_message_tries(const uint8_t *frame)
{
    return frame[WIRE_AT_TRIES];
}

/* The place of a POOLED message's payload. */
static inline struct wire_slot wire_message_slot(const uint8_t *frame)
{
    const uint8_t *at = frame + WIRE_AT_SLOT;

    return (struct wire_slot){
        .pool = wire_load64(at),
        .offset = wire_load32(at + 8),
        .size = wire_load32(at + 12),
        .name = wire_load64(at + 16),
    };
}

static inline void wire_patch_slot_name(uint8_t *frame, uint64_t name)
{
    wire_store64(frame + WIRE_AT_SLOT_NAME, name);
}

/* A lower-case word for a code or an outcome, for logs and JSON ("no_subscriber"); NULL for a
 * number that has none. */
const char *wire_code_name(uint8_t code);
const char *wire_outcome_name(int outcome);

#endif
