/* The codec: what PROTOCOL.md says in tables, said in code.
 *
 * Decoding a frame goes from the general to the particular. get_frame() checks what all frames have
 * in common against one row of the table below (direction, flags, priority, smallest length); the
 * function of its shape checks the rest and fills the view. A view is filled only after the last
 * check, so a caller never holds one that is half believed.
 *
 * Message frames are the broker's hot path. They come first in the switch, their text is checked by
 * one memchr (the first NUL must be the closing one, which finds a missing and an early one alike),
 * and all words are loaded by memcpy: at no particular alignment, and without a call in compiled
 * code.
 *
 * The outcome names the first thing found wrong; of a frame with several faults it is any one of
 * them. */
#include "libclient/wire.h"

#include <assert.h>

enum direction {
    FROM_NOBODY = 0,
    FROM_CLIENT,
    FROM_BROKER,
};

enum shape {
    SHAPE_MESSAGE = 0,
    SHAPE_TEXT,
    SHAPE_REGISTER,
    SHAPE_HEAD,
    SHAPE_ANSWER,
    SHAPE_WELCOME,
    SHAPE_END,
    SHAPE_FETCH,
    SHAPE_BOXED,
    SHAPE_LENT,
    SHAPE_JOIN,
    SHAPE_ACK,
    SHAPE_NACK,
    SHAPE_WILL,
    SHAPE_ADMIN,
};

/* What holds for a type before anything behind the common eight bytes is looked at. */
struct kind {
    uint8_t from;  /* enum direction */
    uint8_t shape; /* enum shape */
    uint8_t priority_max;
    uint16_t flags; /* those that it may have */
    uint16_t least; /* smallest length; of a fixed-size frame the only one */
};

enum {
    MESSAGE_LEAST = WIRE_MESSAGE_SIZE + 1,
    TEXT_LEAST = WIRE_TEXT_SIZE + 1,
    REGISTER_LEAST = WIRE_REGISTER_SIZE + 1,
    JOIN_LEAST = WIRE_JOIN_SIZE + 2,
    VERBS = 7, /* the bits that an enum wire_verb takes */
    PRIORITY_MAX = WIRE_LEVELS - 1,
};

static const struct kind kinds[] = {
    [WIRE_PUBLISH] = {FROM_CLIENT, SHAPE_MESSAGE, PRIORITY_MAX,
                      WIRE_F_RETAIN | WIRE_F_CONFIRM | WIRE_F_POOLED, MESSAGE_LEAST},
    [WIRE_REQUEST] = {FROM_CLIENT, SHAPE_MESSAGE, PRIORITY_MAX, WIRE_F_POOLED, MESSAGE_LEAST},
    [WIRE_REPLY] = {FROM_CLIENT, SHAPE_MESSAGE, PRIORITY_MAX, WIRE_F_POOLED, MESSAGE_LEAST},
    [WIRE_SUBSCRIBE] = {FROM_CLIENT, SHAPE_TEXT, 0, WIRE_F_NO_RETAINED, TEXT_LEAST},
    [WIRE_UNSUBSCRIBE] = {FROM_CLIENT, SHAPE_TEXT, 0, WIRE_F_GROUP, TEXT_LEAST},
    [WIRE_REPORT] = {FROM_CLIENT, SHAPE_TEXT, 0, 0, TEXT_LEAST},
    [WIRE_REGISTER] = {FROM_CLIENT, SHAPE_REGISTER, 0, WIRE_F_PUBLISH_ONLY, REGISTER_LEAST},
    [WIRE_BYE] = {FROM_CLIENT, SHAPE_HEAD, 0, 0, WIRE_HEAD_SIZE},
    [WIRE_FETCH] = {FROM_CLIENT, SHAPE_FETCH, 0, 0, WIRE_FETCH_SIZE},
    [WIRE_NUDGE] = {FROM_CLIENT, SHAPE_HEAD, 0, 0, WIRE_HEAD_SIZE},
    [WIRE_JOIN] = {FROM_CLIENT, SHAPE_JOIN, 0, WIRE_F_DURABLE | WIRE_F_DEAD_EXPIRED, JOIN_LEAST},
    [WIRE_ACK] = {FROM_CLIENT, SHAPE_ACK, 0, 0, WIRE_HEAD_SIZE + sizeof(uint64_t)},
    [WIRE_NACK] = {FROM_CLIENT, SHAPE_NACK, 0, WIRE_F_DEAD, WIRE_NACK_SIZE},
    [WIRE_WILL] = {FROM_CLIENT, SHAPE_WILL, PRIORITY_MAX, WIRE_F_RETAIN, MESSAGE_LEAST},
    [WIRE_ADMIN] = {FROM_CLIENT, SHAPE_ADMIN, 0, VERBS, TEXT_LEAST},
    [WIRE_MESSAGE] = {FROM_BROKER, SHAPE_MESSAGE, PRIORITY_MAX,
                      WIRE_F_RETAIN | WIRE_F_REQUEST | WIRE_F_REPLY | WIRE_F_POOLED | WIRE_F_ACK,
                      MESSAGE_LEAST},
    [WIRE_ANSWER] = {FROM_BROKER, SHAPE_ANSWER, 0, 0, WIRE_ANSWER_SIZE},
    [WIRE_WELCOME] = {FROM_BROKER, SHAPE_WELCOME, 0, 0, WIRE_WELCOME_SIZE},
    [WIRE_STOPPED] = {FROM_BROKER, SHAPE_END, 0, 0, WIRE_HEAD_SIZE},
    [WIRE_ENDED] = {FROM_BROKER, SHAPE_END, 0, 0, WIRE_HEAD_SIZE},
    [WIRE_BOXED] = {FROM_BROKER, SHAPE_BOXED, 0, 0, WIRE_BOXED_SIZE},
    [WIRE_LENT] = {FROM_BROKER, SHAPE_LENT, 0, 0, WIRE_LENT_SIZE},
};

enum { N_KINDS = sizeof(kinds) / sizeof(kinds[0]) };

/* Offsets of the common eight bytes. */
enum {
    AT_PRIORITY = 3,
    AT_TEXT_SIZE = 6, /* or the code */
    AT_RESERVED = WIRE_AT_TRIES,
};

/* ---- Headers ---- */

void wire_put_envelope(uint8_t *out, uint16_t session, const uint8_t token[WIRE_TOKEN_SIZE],
                       uint32_t length)
{
    wire_store32(out, WIRE_ENVELOPE_MAGIC);
    wire_store32(out + 4, length);
    wire_store16(out + 8, WIRE_VERSION);
    wire_store16(out + 10, session);
    wire_store32(out + 12, 0);
    memcpy(out + 16, token, WIRE_TOKEN_SIZE);
}

void wire_put_batch(uint8_t *out, uint16_t session, uint8_t level, uint64_t number, uint64_t grant,
                    uint64_t missed, uint32_t length)
{
    wire_store32(out, WIRE_BATCH_MAGIC);
    wire_store32(out + 4, length);
    wire_store16(out + 8, WIRE_VERSION);
    wire_store16(out + 10, session);
    out[12] = level;
    out[13] = out[14] = out[15] = 0;
    wire_store64(out + 16, number);
    wire_store64(out + 24, grant);
    wire_store64(out + 32, missed);
}

/* What envelope and batch have in common; the version comes before the length, because another
 * version may mean another length. */
static int check_header(const uint8_t *bytes, size_t size, uint32_t magic, size_t header_size,
                        size_t least, size_t most)
{
    uint32_t length;

    if (size < header_size)
        return WIRE_E_SHORT;
    if (wire_load32(bytes) != magic)
        return WIRE_E_MAGIC;
    if (wire_load16(bytes + 8) != WIRE_VERSION)
        return WIRE_E_VERSION;
    length = wire_load32(bytes + 4);
    if (length < least || length > most)
        return WIRE_E_LENGTH;
    if (length > size)
        return WIRE_E_SHORT;
    return length < size ? WIRE_E_LENGTH : WIRE_OK;
}

int wire_get_envelope(const uint8_t *bytes, size_t size, struct wire_envelope *out)
{
    int outcome = check_header(bytes, size, WIRE_ENVELOPE_MAGIC, WIRE_ENVELOPE_SIZE,
                               WIRE_ENVELOPE_SIZE + WIRE_HEAD_SIZE, WIRE_QUEUE_MAX);

    if (outcome != WIRE_OK)
        return outcome;
    if (wire_load32(bytes + 12) != 0)
        return WIRE_E_RESERVED;
    *out = (struct wire_envelope){
        .session = wire_load16(bytes + 10),
        .token = bytes + 16,
        .frames = bytes + WIRE_ENVELOPE_SIZE,
        .size = size - WIRE_ENVELOPE_SIZE,
    };
    return WIRE_OK;
}

int wire_get_batch(const uint8_t *bytes, size_t size, struct wire_batch *out)
{
    int outcome = check_header(bytes, size, WIRE_BATCH_MAGIC, WIRE_BATCH_SIZE, WIRE_BATCH_SIZE,
                               WIRE_BATCH_MAX);

    if (outcome != WIRE_OK)
        return outcome;
    if ((bytes[13] | bytes[14] | bytes[15]) != 0)
        return WIRE_E_RESERVED;
    if (bytes[12] > WIRE_CONTROL)
        return WIRE_E_FIELD;
    *out = (struct wire_batch){
        .session = wire_load16(bytes + 10),
        .level = bytes[12],
        .number = wire_load64(bytes + 16),
        .grant = wire_load64(bytes + 24),
        .missed = wire_load64(bytes + 32),
        .frames = bytes + WIRE_BATCH_SIZE,
        .size = size - WIRE_BATCH_SIZE,
    };
    return WIRE_OK;
}

/* ---- Frames from bytes ---- */

/* A view with what all frames have; everything else in it is zero. */
static inline struct wire_frame view(const uint8_t *bytes)
{
    return (struct wire_frame){
        .bytes = bytes,
        .size = wire_frame_size(bytes),
        .type = bytes[WIRE_AT_TYPE],
        .priority = bytes[AT_PRIORITY],
        .flags = wire_load16(bytes + WIRE_AT_FLAGS),
    };
}

/* Is `text` a text of `size` bytes and its NUL, and is that NUL its first? `size` + 1 bytes may be
 * read. */
static inline bool is_text(const uint8_t *text, size_t size)
{
    return memchr(text, '\0', size + 1) == text + size;
}

/* Do flags, topic, number and expiry of a message go together? */
static inline bool message_makes_sense(uint8_t type, uint16_t flags, size_t topic_size,
                                       uint64_t number, uint64_t expiry)
{
    switch (type) {
    case WIRE_PUBLISH:
        return topic_size != 0 && number <= ((flags & WIRE_F_CONFIRM) != 0 ? UINT32_MAX : 0);
    case WIRE_REQUEST:
        return topic_size != 0 && number <= UINT32_MAX && expiry != 0;
    case WIRE_REPLY:
        return topic_size == 0;
    case WIRE_WILL:
        return number <= UINT32_MAX && expiry == 0;
    default: /* MESSAGE: a plain one, or one of the three flags; out of a group plain or a request
              */
        if ((flags & WIRE_F_ACK) != 0)
            return topic_size != 0 && number != 0 && (flags & (WIRE_F_RETAIN | WIRE_F_REPLY)) == 0;
        flags &= (uint16_t)~WIRE_F_POOLED;
        if ((flags & (flags - 1)) != 0)
            return false;
        if ((flags & WIRE_F_REPLY) != 0)
            return topic_size == 0 && number <= UINT32_MAX;
        return topic_size != 0 && ((flags & WIRE_F_REQUEST) != 0 || number == 0);
    }
}

/* Of a message whose payload is in a pool: its place, which stands before the topic, where the
 * first cell and a patch find it. */
static int get_pooled(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    size_t topic_size = bytes[AT_TEXT_SIZE];
    const uint8_t *topic = bytes + WIRE_MESSAGE_SIZE + WIRE_SLOT_SIZE;
    struct wire_slot slot;

    if (length != wire_pooled_size(topic_size))
        return WIRE_E_LENGTH;
    slot = wire_message_slot(bytes);
    if (bytes[WIRE_AT_TYPE] != WIRE_MESSAGE && slot.name > UINT32_MAX)
        return WIRE_E_FIELD; /* a generation */
    if (slot.pool == 0 || slot.size == 0 || !is_text(topic, topic_size) ||
        !message_makes_sense(bytes[WIRE_AT_TYPE], wire_message_flags(bytes), topic_size,
                             wire_message_number(bytes), wire_message_expiry(bytes)))
        return WIRE_E_FIELD;
    *out = view(bytes);
    out->text_size = (uint8_t)topic_size;
    out->text = (const char *)topic;
    out->number = wire_message_number(bytes);
    out->expiry = wire_message_expiry(bytes);
    out->payload = NULL;
    out->payload_size = slot.size;
    out->tries = wire_message_tries(bytes);
    out->slot = slot;
    return WIRE_OK;
}

static inline int get_message(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    const uint8_t *topic = bytes + WIRE_MESSAGE_SIZE;
    size_t topic_size = bytes[AT_TEXT_SIZE];
    uint64_t number = wire_message_number(bytes);
    uint64_t expiry = wire_message_expiry(bytes);

    if ((wire_message_flags(bytes) & WIRE_F_POOLED) != 0)
        return get_pooled(bytes, length, out);

    if (topic_size > length - MESSAGE_LEAST)
        return WIRE_E_LENGTH;
    if (!is_text(topic, topic_size) ||
        !message_makes_sense(bytes[WIRE_AT_TYPE], wire_message_flags(bytes), topic_size, number,
                             expiry))
        return WIRE_E_FIELD;
    *out = (struct wire_frame){
        .bytes = bytes,
        .text = (const char *)topic,
        .number = number,
        .size = (uint16_t)length,
        .flags = wire_message_flags(bytes),
        .type = bytes[WIRE_AT_TYPE],
        .priority = bytes[AT_PRIORITY],
        .text_size = (uint8_t)topic_size,
        .expiry = expiry,
        .payload = topic + topic_size + 1,
        .payload_size = (uint32_t)(length - MESSAGE_LEAST - topic_size),
        .tries = wire_message_tries(bytes),
    };
    return WIRE_OK;
}

/* One without a topic takes the will back, and has nothing to say. */
static int get_will(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    if (bytes[AT_TEXT_SIZE] == 0 && length != MESSAGE_LEAST)
        return WIRE_E_FIELD;
    return get_message(bytes, length, out);
}

static int get_text(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    size_t text_size = bytes[AT_TEXT_SIZE];

    if (text_size != length - TEXT_LEAST)
        return WIRE_E_LENGTH;
    if (wire_load32(bytes + 12) != 0)
        return WIRE_E_RESERVED;
    if (!is_text(bytes + WIRE_TEXT_SIZE, text_size))
        return WIRE_E_FIELD;
    *out = view(bytes);
    out->text_size = (uint8_t)text_size;
    out->text = (const char *)bytes + WIRE_TEXT_SIZE;
    out->number = wire_load32(bytes + WIRE_AT_NUMBER);
    return WIRE_OK;
}

static int get_admin(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    uint16_t verb = wire_load16(bytes + WIRE_AT_FLAGS);

    if (verb < WIRE_V_PURGE || verb > WIRE_V_KICK)
        return WIRE_E_FIELD;
    return get_text(bytes, length, out);
}

static int get_join(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    size_t group_size = bytes[14];
    size_t filter_size = bytes[AT_TEXT_SIZE];
    const uint8_t *group = bytes + WIRE_JOIN_SIZE;
    const uint8_t *filter = group + group_size + 1;

    if (length != wire_join_size(group_size, filter_size))
        return WIRE_E_LENGTH;
    if (wire_load32(bytes + 20) != 0)
        return WIRE_E_RESERVED;
    if (group_size == 0 || group_size > WIRE_GROUP_MAX || !is_text(group, group_size) ||
        !is_text(filter, filter_size))
        return WIRE_E_FIELD;
    *out = view(bytes);
    out->text_size = (uint8_t)filter_size;
    out->text = (const char *)filter;
    out->number = wire_load32(bytes + WIRE_AT_NUMBER);
    out->group = (const char *)group;
    out->group_size = (uint8_t)group_size;
    out->prefetch = wire_load16(bytes + 12);
    out->limit = bytes[15];
    out->timeout = wire_load32(bytes + 16);
    return WIRE_OK;
}

static int get_acks(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    size_t n_names = (length - WIRE_HEAD_SIZE) / sizeof(uint64_t);

    if (length != wire_acks_size(n_names) || n_names > WIRE_ACKS_MAX)
        return WIRE_E_LENGTH;
    if (bytes[AT_TEXT_SIZE] != 0)
        return WIRE_E_RESERVED;
    *out = view(bytes);
    out->names = bytes + WIRE_HEAD_SIZE;
    out->n_names = (uint32_t)n_names;
    return WIRE_OK;
}

static int get_nack(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    if (length != WIRE_NACK_SIZE)
        return WIRE_E_LENGTH;
    if (bytes[AT_TEXT_SIZE] != 0 || wire_load32(bytes + 20) != 0)
        return WIRE_E_RESERVED;
    *out = view(bytes);
    out->number = wire_load64(bytes + WIRE_AT_NUMBER);
    out->delay = wire_load32(bytes + 16);
    return WIRE_OK;
}

static int get_register(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    size_t name_size = bytes[AT_TEXT_SIZE];
    uint64_t nonce = wire_load64(bytes + 8);

    if (name_size != length - REGISTER_LEAST)
        return WIRE_E_LENGTH;
    if (wire_load32(bytes + 20) != 0)
        return WIRE_E_RESERVED;
    if (nonce == 0 || wire_load64(bytes + 32) == 0 || name_size > WIRE_NAME_MAX ||
        !is_text(bytes + WIRE_REGISTER_SIZE, name_size))
        return WIRE_E_FIELD;
    *out = view(bytes);
    out->text_size = (uint8_t)name_size;
    out->text = (const char *)bytes + WIRE_REGISTER_SIZE;
    out->nonce = nonce;
    out->pid = wire_load32(bytes + 16);
    out->start = wire_load64(bytes + 24);
    out->pool = wire_load64(bytes + 32);
    return WIRE_OK;
}

static int get_head(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    if (length != WIRE_HEAD_SIZE)
        return WIRE_E_LENGTH;
    if (bytes[AT_TEXT_SIZE] != 0)
        return WIRE_E_RESERVED;
    *out = view(bytes);
    return WIRE_OK;
}

static int get_answer(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    if (length != WIRE_ANSWER_SIZE)
        return WIRE_E_LENGTH;
    *out = view(bytes);
    out->code = bytes[AT_TEXT_SIZE];
    out->number = wire_load32(bytes + WIRE_AT_NUMBER);
    out->count = wire_load32(bytes + 12);
    return WIRE_OK;
}

static int get_welcome(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    uint64_t nonce = wire_load64(bytes + 8);

    if (length != WIRE_WELCOME_SIZE)
        return WIRE_E_LENGTH;
    if (bytes[AT_TEXT_SIZE] != 0 || wire_load32(bytes + 44) != 0)
        return WIRE_E_RESERVED;
    if (nonce == 0)
        return WIRE_E_FIELD;
    *out = view(bytes);
    out->nonce = nonce;
    out->token = bytes + 16;
    out->session = wire_load16(bytes + 32);
    out->depth = wire_load16(bytes + 34);
    out->width = wire_load32(bytes + 36);
    out->frame_max = wire_load32(bytes + 40);
    out->window = wire_load64(bytes + 48);
    out->pool_max = wire_load64(bytes + 56);
    out->buffers = wire_load32(bytes + 64);
    out->buffer_size = wire_load32(bytes + 68);
    return WIRE_OK;
}

static int get_end(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    if (length != WIRE_HEAD_SIZE)
        return WIRE_E_LENGTH;
    *out = view(bytes);
    out->code = bytes[AT_TEXT_SIZE];
    return WIRE_OK;
}

static int get_fetch(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    if (length != WIRE_FETCH_SIZE)
        return WIRE_E_LENGTH;
    if (bytes[AT_TEXT_SIZE] != 0)
        return WIRE_E_RESERVED;
    *out = view(bytes);
    out->number = wire_load64(bytes + WIRE_AT_NUMBER);
    return out->number == 0 ? WIRE_E_FIELD : WIRE_OK;
}

static int get_boxed(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    uint32_t size = wire_load32(bytes + 12);

    if (length != WIRE_BOXED_SIZE)
        return WIRE_E_LENGTH;
    if (bytes[AT_TEXT_SIZE] != 0)
        return WIRE_E_RESERVED;
    if (size < WIRE_BATCH_SIZE || size > WIRE_BATCH_MAX)
        return WIRE_E_FIELD;
    *out = view(bytes);
    out->buffer = wire_load32(bytes + 8);
    out->boxed_size = size;
    return WIRE_OK;
}

static int get_lent(const uint8_t *bytes, size_t length, struct wire_frame *out)
{
    if (length != WIRE_LENT_SIZE)
        return WIRE_E_LENGTH;
    *out = view(bytes);
    out->code = bytes[AT_TEXT_SIZE];
    out->number = wire_load64(bytes + WIRE_AT_NUMBER);
    out->lent_offset = wire_load64(bytes + 16);
    out->lent_size = wire_load64(bytes + 24);
    return WIRE_OK;
}

static inline int get_frame(const uint8_t *bytes, size_t size, enum direction from,
                            struct wire_frame *out)
{
    const struct kind *kind;
    uint16_t flags;
    size_t length;

    if (size < WIRE_HEAD_SIZE)
        return WIRE_E_SHORT;
    length = wire_frame_size(bytes);
    if (length > size)
        return WIRE_E_SHORT;
    if (bytes[WIRE_AT_TYPE] >= N_KINDS || kinds[bytes[WIRE_AT_TYPE]].from != from)
        return WIRE_E_TYPE;
    kind = &kinds[bytes[WIRE_AT_TYPE]];
    if (length < kind->least)
        return WIRE_E_LENGTH;
    flags = wire_load16(bytes + WIRE_AT_FLAGS);
    if ((flags & ~kind->flags) != 0 || (bytes[AT_RESERVED] != 0 && (flags & WIRE_F_ACK) == 0))
        return WIRE_E_RESERVED;
    if (bytes[AT_PRIORITY] > kind->priority_max)
        return WIRE_E_FIELD;

    switch ((enum shape)kind->shape) {
    case SHAPE_MESSAGE:
        return get_message(bytes, length, out);
    case SHAPE_TEXT:
        return get_text(bytes, length, out);
    case SHAPE_REGISTER:
        return get_register(bytes, length, out);
    case SHAPE_HEAD:
        return get_head(bytes, length, out);
    case SHAPE_ANSWER:
        return get_answer(bytes, length, out);
    case SHAPE_WELCOME:
        return get_welcome(bytes, length, out);
    case SHAPE_END:
        return get_end(bytes, length, out);
    case SHAPE_FETCH:
        return get_fetch(bytes, length, out);
    case SHAPE_BOXED:
        return get_boxed(bytes, length, out);
    case SHAPE_LENT:
        return get_lent(bytes, length, out);
    case SHAPE_JOIN:
        return get_join(bytes, length, out);
    case SHAPE_ACK:
        return get_acks(bytes, length, out);
    case SHAPE_NACK:
        return get_nack(bytes, length, out);
    case SHAPE_WILL:
        return get_will(bytes, length, out);
    case SHAPE_ADMIN:
        return get_admin(bytes, length, out);
    }
    return WIRE_E_TYPE;
}

int wire_get_request(const uint8_t *bytes, size_t size, struct wire_frame *out)
{
    return get_frame(bytes, size, FROM_CLIENT, out);
}

int wire_get_delivery(const uint8_t *bytes, size_t size, struct wire_frame *out)
{
    return get_frame(bytes, size, FROM_BROKER, out);
}

/* ---- Frames to bytes ---- */

static inline void put_head(uint8_t *out, size_t size, uint8_t type, uint8_t priority,
                            uint16_t flags, uint8_t text_size_or_code)
{
    assert(size <= WIRE_QUEUE_MAX);
    wire_store16(out, (uint16_t)size);
    out[WIRE_AT_TYPE] = type;
    out[AT_PRIORITY] = priority;
    wire_store16(out + WIRE_AT_FLAGS, flags);
    out[AT_TEXT_SIZE] = text_size_or_code;
    out[AT_RESERVED] = 0;
}

/* Copy and return what lies behind; `from` may be NULL if there is nothing to copy, which memcpy
 * does not allow. */
static inline uint8_t *put_bytes(uint8_t *out, const void *from, size_t size)
{
    if (size != 0)
        memcpy(out, from, size);
    return out + size;
}

static inline uint8_t *put_text(uint8_t *out, const char *text, size_t size)
{
    out = put_bytes(out, text, size);
    *out = '\0';
    return out + 1;
}

size_t wire_put_message(uint8_t *out, uint8_t type, uint8_t priority, uint16_t flags,
                        uint64_t number, uint64_t expiry, const char *topic, size_t topic_size,
                        const void *payload, size_t payload_size)
{
    size_t size = wire_message_size(topic_size, payload_size);

    assert(topic_size <= WIRE_TOPIC_MAX);
    put_head(out, size, type, priority, flags, (uint8_t)topic_size);
    wire_store64(out + WIRE_AT_NUMBER, number);
    wire_store64(out + WIRE_AT_EXPIRY, expiry);
    put_bytes(put_text(out + WIRE_MESSAGE_SIZE, topic, topic_size), payload, payload_size);
    return size;
}

size_t wire_put_pooled(uint8_t *out, uint8_t type, uint8_t priority, uint16_t flags,
                       uint64_t number, uint64_t expiry, const char *topic, size_t topic_size,
                       const struct wire_slot *slot)
{
    size_t size = wire_pooled_size(topic_size);

    assert(topic_size <= WIRE_TOPIC_MAX);
    put_head(out, size, type, priority, flags | WIRE_F_POOLED, (uint8_t)topic_size);
    wire_store64(out + WIRE_AT_NUMBER, number);
    wire_store64(out + WIRE_AT_EXPIRY, expiry);
    wire_store64(out + WIRE_AT_SLOT, slot->pool);
    wire_store32(out + WIRE_AT_SLOT + 8, slot->offset);
    wire_store32(out + WIRE_AT_SLOT + 12, slot->size);
    wire_store64(out + WIRE_AT_SLOT_NAME, slot->name);
    put_text(out + WIRE_AT_SLOT + WIRE_SLOT_SIZE, topic, topic_size);
    return size;
}

size_t wire_put_text(uint8_t *out, uint8_t type, uint16_t flags, uint32_t number, const char *text,
                     size_t text_size)
{
    size_t size = TEXT_LEAST + text_size;

    assert(text_size <= WIRE_TOPIC_MAX);
    put_head(out, size, type, 0, flags, (uint8_t)text_size);
    wire_store32(out + WIRE_AT_NUMBER, number);
    wire_store32(out + 12, 0);
    put_text(out + WIRE_TEXT_SIZE, text, text_size);
    return size;
}

size_t wire_put_register(uint8_t *out, uint16_t flags, uint64_t nonce, uint32_t pid, uint64_t start,
                         uint64_t pool, const char *name, size_t name_size)
{
    size_t size = REGISTER_LEAST + name_size;

    assert(name_size <= WIRE_NAME_MAX);
    put_head(out, size, WIRE_REGISTER, 0, flags, (uint8_t)name_size);
    wire_store64(out + 8, nonce);
    wire_store32(out + 16, pid);
    wire_store32(out + 20, 0);
    wire_store64(out + 24, start);
    wire_store64(out + 32, pool);
    put_text(out + WIRE_REGISTER_SIZE, name, name_size);
    return size;
}

size_t wire_put_bye(uint8_t *out)
{
    put_head(out, WIRE_HEAD_SIZE, WIRE_BYE, 0, 0, 0);
    return WIRE_HEAD_SIZE;
}

size_t wire_put_nudge(uint8_t *out)
{
    put_head(out, WIRE_HEAD_SIZE, WIRE_NUDGE, 0, 0, 0);
    return WIRE_HEAD_SIZE;
}

size_t wire_put_fetch(uint8_t *out, uint64_t name)
{
    put_head(out, WIRE_FETCH_SIZE, WIRE_FETCH, 0, 0, 0);
    wire_store64(out + WIRE_AT_NUMBER, name);
    return WIRE_FETCH_SIZE;
}

size_t wire_put_join(uint8_t *out, const struct wire_frame *join)
{
    size_t size = wire_join_size(join->group_size, join->text_size);

    assert(join->group_size <= WIRE_GROUP_MAX);
    put_head(out, size, WIRE_JOIN, 0, join->flags, join->text_size);
    wire_store32(out + WIRE_AT_NUMBER, (uint32_t)join->number);
    wire_store16(out + 12, join->prefetch);
    out[14] = join->group_size;
    out[15] = join->limit;
    wire_store32(out + 16, join->timeout);
    wire_store32(out + 20, 0);
    put_text(put_text(out + WIRE_JOIN_SIZE, join->group, join->group_size), join->text,
             join->text_size);
    return size;
}

size_t wire_put_acks(uint8_t *out, const void *names, size_t n_names)
{
    size_t size = wire_acks_size(n_names);

    assert(n_names != 0 && n_names <= WIRE_ACKS_MAX);
    put_head(out, size, WIRE_ACK, 0, 0, 0);
    put_bytes(out + WIRE_HEAD_SIZE, names, n_names * sizeof(uint64_t));
    return size;
}

size_t wire_put_nack(uint8_t *out, uint16_t flags, uint64_t name, uint32_t delay)
{
    put_head(out, WIRE_NACK_SIZE, WIRE_NACK, 0, flags, 0);
    wire_store64(out + WIRE_AT_NUMBER, name);
    wire_store32(out + 16, delay);
    wire_store32(out + 20, 0);
    return WIRE_NACK_SIZE;
}

size_t wire_put_boxed(uint8_t *out, uint32_t buffer, uint32_t size)
{
    put_head(out, WIRE_BOXED_SIZE, WIRE_BOXED, 0, 0, 0);
    wire_store32(out + 8, buffer);
    wire_store32(out + 12, size);
    return WIRE_BOXED_SIZE;
}

size_t wire_put_lent(uint8_t *out, uint8_t code, uint64_t name, uint64_t offset, uint64_t size)
{
    put_head(out, WIRE_LENT_SIZE, WIRE_LENT, 0, 0, code);
    wire_store64(out + WIRE_AT_NUMBER, name);
    wire_store64(out + 16, offset);
    wire_store64(out + 24, size);
    return WIRE_LENT_SIZE;
}

size_t wire_put_answer(uint8_t *out, uint8_t code, uint32_t number, uint32_t count)
{
    put_head(out, WIRE_ANSWER_SIZE, WIRE_ANSWER, 0, 0, code);
    wire_store32(out + WIRE_AT_NUMBER, number);
    wire_store32(out + 12, count);
    return WIRE_ANSWER_SIZE;
}

size_t wire_put_welcome(uint8_t *out, const struct wire_frame *welcome)
{
    put_head(out, WIRE_WELCOME_SIZE, WIRE_WELCOME, 0, 0, 0);
    wire_store64(out + 8, welcome->nonce);
    memcpy(out + 16, welcome->token, WIRE_TOKEN_SIZE);
    wire_store16(out + 32, welcome->session);
    wire_store16(out + 34, welcome->depth);
    wire_store32(out + 36, welcome->width);
    wire_store32(out + 40, welcome->frame_max);
    wire_store32(out + 44, 0);
    wire_store64(out + 48, welcome->window);
    wire_store64(out + 56, welcome->pool_max);
    wire_store32(out + 64, welcome->buffers);
    wire_store32(out + 68, welcome->buffer_size);
    return WIRE_WELCOME_SIZE;
}

size_t wire_put_end(uint8_t *out, uint8_t type, uint8_t code)
{
    put_head(out, WIRE_HEAD_SIZE, type, 0, 0, code);
    return WIRE_HEAD_SIZE;
}

/* ---- Words for people ---- */

const char *wire_code_name(uint8_t code)
{
    static const char *const names[] = {
        [WIRE_C_OK] = "ok",
        [WIRE_C_NO_SUBSCRIBER] = "no_subscriber",
        [WIRE_C_PEER_DIED] = "peer_died",
        [WIRE_C_TIMEOUT] = "timeout",
        [WIRE_C_WINDOW] = "window",
        [WIRE_C_STORE_FULL] = "store_full",
        [WIRE_C_BAD_TOPIC] = "bad_topic",
        [WIRE_C_BAD_FILTER] = "bad_filter",
        [WIRE_C_TOO_MANY_FILTERS] = "too_many_filters",
        [WIRE_C_NOT_SUBSCRIBED] = "not_subscribed",
        [WIRE_C_DROPPED] = "dropped",
        [WIRE_C_PUBLISH_ONLY] = "publish_only",
        [WIRE_C_RETAINED_FULL] = "retained_full",
        [WIRE_C_BAD_SLOT] = "bad_slot",
        [WIRE_C_NO_COPY] = "no_copy",
        [WIRE_C_GROUP_DIFFERS] = "group_differs",
        [WIRE_C_GROUPS_FULL] = "groups_full",
        [WIRE_C_NO_GROUP] = "no_group",
        [WIRE_C_GROUP_FULL] = "group_full",
        [WIRE_C_NO_JOURNAL] = "no_journal",
        [WIRE_C_JOURNAL_FULL] = "journal_full",
        [WIRE_C_BAD_GROUP] = "bad_group",
        [WIRE_C_NO_SESSION] = "no_session",
        [WIRE_C_JOURNAL_ERROR] = "journal_error",
        [WIRE_C_NAME_TAKEN] = "name_taken",
        [WIRE_C_NAME_LEAVING] = "name_leaving",
        [WIRE_C_BAD_NAME] = "bad_name",
        [WIRE_C_NO_ROW] = "no_row",
        [WIRE_C_QUEUE_MEMORY] = "queue_memory",
        [WIRE_C_QUEUE_COUNT] = "queue_count",
        [WIRE_C_NO_SUCH_PROCESS] = "no_such_process",
        [WIRE_C_QUEUE_ERROR] = "queue_error",
        [WIRE_C_STOPPING] = "stopping",
        [WIRE_C_POOLS_FULL] = "pools_full",
        [WIRE_C_OVERFLOW] = "overflow",
        [WIRE_C_UNREAD_ANSWERS] = "unread_answers",
        [WIRE_C_QUEUE_REPLACED] = "queue_replaced",
        [WIRE_C_KICKED] = "kicked",
        [WIRE_C_BAD_POOL] = "bad_pool",
    };

    return code < sizeof(names) / sizeof(names[0]) ? names[code] : NULL;
}

const char *wire_outcome_name(int outcome)
{
    static const char *const names[] = {
        [WIRE_OK] = "ok",           [WIRE_E_SHORT] = "short",
        [WIRE_E_MAGIC] = "magic",   [WIRE_E_VERSION] = "version",
        [WIRE_E_LENGTH] = "length", [WIRE_E_RESERVED] = "reserved",
        [WIRE_E_TYPE] = "type",     [WIRE_E_FIELD] = "field",
    };

    return outcome >= 0 && (size_t)outcome < sizeof(names) / sizeof(names[0]) ? names[outcome]
                                                                              : NULL;
}
