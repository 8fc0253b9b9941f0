/* Fuzz target: any bytes as envelope, as batch and as single frames. Besides memory safety it holds
 * that
 *
 *   - a view lies within the bytes it was decoded from, and its parts add up to its size;
 *   - a decoded frame, encoded again, gives the same bytes: nothing was overlooked, nothing is
 * ambiguous;
 *   - a frame does not depend on what stands behind it;
 *   - no bytes are good in both directions. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/wire.h"
#include "tests/support/reencode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef int get_function(const uint8_t *bytes, size_t size, struct wire_frame *out);

static void must(bool condition)
{
    if (!condition)
        abort();
}

static bool within(const struct wire_frame *f, const void *part, size_t size)
{
    size_t offset = (size_t)((const uint8_t *)part - f->bytes);

    return (const uint8_t *)part >= f->bytes && offset <= f->size && size <= f->size - offset;
}

/* A payload is in the frame, or a place in a pool is. */
static void check_message(const struct wire_frame *f)
{
    must(wire_message_number(f->bytes) == f->number);
    must(wire_message_expiry(f->bytes) == f->expiry);
    must(wire_message_flags(f->bytes) == f->flags);
    if ((f->flags & WIRE_F_POOLED) == 0) {
        must(within(f, f->payload, f->payload_size));
        must(wire_message_size(f->text_size, f->payload_size) == f->size);
        return;
    }

    struct wire_slot slot = wire_message_slot(f->bytes);

    must(wire_pooled_size(f->text_size) == f->size);
    must(f->payload == NULL && f->payload_size == slot.size && slot.size != 0);
    must(memcmp(&slot, &f->slot, sizeof(slot)) == 0 && slot.pool != 0);
    must(f->type == WIRE_MESSAGE || slot.name <= UINT32_MAX);
}

static void check_join(const struct wire_frame *f)
{
    must(within(f, f->group, f->group_size + 1u));
    must(f->group_size != 0 && strlen(f->group) == f->group_size);
    must(wire_join_size(f->group_size, f->text_size) == f->size);
}

static void check_acks(const struct wire_frame *f)
{
    must(f->n_names != 0 && f->n_names <= WIRE_ACKS_MAX);
    must(within(f, f->names, f->n_names * sizeof(uint64_t)));
    must(wire_acks_size(f->n_names) == f->size);
}

static void check_frame(const struct wire_frame *f, size_t size, get_function *get)
{
    uint8_t out[WIRE_QUEUE_MAX];
    struct wire_frame alone;

    must(f->size >= WIRE_HEAD_SIZE && f->size <= size);
    must(f->priority < WIRE_LEVELS);
    if (f->text != NULL) {
        must(within(f, f->text, f->text_size + 1u));
        must(strlen(f->text) == f->text_size);
    }
    if (f->type <= WIRE_REPLY || f->type == WIRE_MESSAGE || f->type == WIRE_WILL)
        check_message(f);
    if (f->type == WIRE_JOIN)
        check_join(f);
    if (f->type == WIRE_ACK)
        check_acks(f);
    if (f->type == WIRE_WELCOME)
        must(within(f, f->token, WIRE_TOKEN_SIZE));
    must(wire_frame_size(f->bytes) == f->size);

    if (f->size <= WIRE_QUEUE_MAX) { /* no frame is larger than a queue message */
        must(reencode_frame(out, f) == f->size);
        must(memcmp(out, f->bytes, f->size) == 0);
    }
    must(get(f->bytes, f->size, &alone) == WIRE_OK && alone.size == f->size);
    must(get(f->bytes, f->size - 1u, &alone) == WIRE_E_SHORT);
}

static int check_one(const uint8_t *bytes, size_t size, get_function *get, struct wire_frame *f)
{
    int outcome = get(bytes, size, f);

    must(wire_outcome_name(outcome) != NULL);
    if (outcome == WIRE_OK)
        check_frame(f, size, get);
    return outcome;
}

static void check_frames(const uint8_t *bytes, size_t size, get_function *get)
{
    struct wire_frame f;

    while (size != 0 && check_one(bytes, size, get, &f) == WIRE_OK) {
        bytes += f.size;
        size -= f.size;
    }
}

static void check_envelope(const uint8_t *data, size_t size)
{
    struct wire_envelope e;
    uint8_t out[WIRE_ENVELOPE_SIZE];

    if (wire_get_envelope(data, size, &e) != WIRE_OK)
        return;
    must(e.frames == data + WIRE_ENVELOPE_SIZE && e.size == size - WIRE_ENVELOPE_SIZE);
    must(wire_envelope_length(data) == size);
    wire_put_envelope(out, e.session, e.token, (uint32_t)size);
    must(memcmp(out, data, sizeof(out)) == 0);
    check_frames(e.frames, e.size, wire_get_request);
}

static void check_batch(const uint8_t *data, size_t size)
{
    struct wire_batch b;
    uint8_t out[WIRE_BATCH_SIZE];

    if (wire_get_batch(data, size, &b) != WIRE_OK)
        return;
    must(b.frames == data + WIRE_BATCH_SIZE && b.size == size - WIRE_BATCH_SIZE);
    must(b.level <= WIRE_CONTROL);
    wire_put_batch(out, b.session, b.level, b.number, b.grant, b.missed, (uint32_t)size);
    must(memcmp(out, data, sizeof(out)) == 0);
    check_frames(b.frames, b.size, wire_get_delivery);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_frame f;
    bool request = check_one(data, size, wire_get_request, &f) == WIRE_OK;
    bool delivery = check_one(data, size, wire_get_delivery, &f) == WIRE_OK;

    must(!(request && delivery));
    check_envelope(data, size);
    check_batch(data, size);
    return 0;
}
