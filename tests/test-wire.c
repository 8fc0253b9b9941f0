/* The codec against golden bytes, and what golden bytes do not show.
 *
 * tests/vectors/ has a file for each thing that may be on the wire (y_…) and for each that must be
 * refused (n_…): hexadecimal bytes, the rest of a line after '#' is a comment. The first line says
 * what it is and what must come of it:
 *
 *     # <envelope | batch | request | delivery> <outcome, by wire_outcome_name()>: <sentence>
 *
 * They were written from PROTOCOL.md, field by field, not by this codec; on a big-endian machine
 * they do not hold and are skipped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/wire.h"
#include "tests/support/reencode.h"

static const uint8_t token[WIRE_TOKEN_SIZE] = {1, 2,  3,  4,  5,  6,  7,  8,
                                               9, 10, 11, 12, 13, 14, 15, 16};

/* ---- Golden bytes ---- */

struct vector {
    const char *name; /* of its file */
    char kind[16];
    char outcome[16];
    uint8_t *bytes; /* allocated to exactly `size`, so that reading past them is seen */
    size_t size;
};

static bool big_endian(void)
{
    const uint16_t one = 1;

    return *(const uint8_t *)&one == 0;
}

static void load_vector(struct vector *v, const char *file)
{
    uint8_t bytes[WIRE_QUEUE_MAX];
    char path[4096];
    char line[256];
    FILE *f;

    *v = (struct vector){.name = file};
    snprintf(path, sizeof(path), MQB_SOURCE_DIR "/tests/vectors/%s", file);
    f = fopen(path, "r");
    assert_non_null(f);
    if (fgets(line, sizeof(line), f) == NULL ||
        sscanf(line, "# %15[a-z] %15[a-z]:", v->kind, v->outcome) != 2)
        fail_msg("%s: the first line is not '# <kind> <outcome>: <sentence>'", file);
    while (fgets(line, sizeof(line), f) != NULL) {
        unsigned byte;
        int n;

        line[strcspn(line, "#")] = '\0';
        for (const char *at = line; sscanf(at, " %2x%n", &byte, &n) == 1; at += n)
            bytes[v->size++] = (uint8_t)byte;
    }
    fclose(f);
    v->bytes = malloc(v->size != 0 ? v->size : 1);
    assert_non_null(v->bytes);
    memcpy(v->bytes, bytes, v->size);
}

static int is_vector(const struct dirent *entry)
{
    size_t size = strlen(entry->d_name);

    return size > 4 && strcmp(entry->d_name + size - 4, ".hex") == 0;
}

/* Call `check` for each vector whose file name begins with `prefix`; returns their number. */
static int for_each_vector(const char *prefix, void (*check)(const struct vector *, void *),
                           void *context)
{
    struct dirent **entries;
    int n_checked = 0;
    int n = scandir(MQB_SOURCE_DIR "/tests/vectors", &entries, is_vector, alphasort);

    assert_true(n > 0);
    for (int i = 0; i < n; i++) {
        if (strncmp(entries[i]->d_name, prefix, strlen(prefix)) == 0) {
            struct vector v;

            load_vector(&v, entries[i]->d_name);
            check(&v, context);
            free(v.bytes);
            n_checked++;
        }
        free(entries[i]);
    }
    free(entries);
    return n_checked;
}

/* Decode a vector as what its first line says; a frame's view is written to `frame`. */
static int decode(const struct vector *v, struct wire_frame *frame)
{
    struct wire_envelope envelope;
    struct wire_batch batch;

    if (strcmp(v->kind, "envelope") == 0)
        return wire_get_envelope(v->bytes, v->size, &envelope);
    if (strcmp(v->kind, "batch") == 0)
        return wire_get_batch(v->bytes, v->size, &batch);
    if (strcmp(v->kind, "request") == 0)
        return wire_get_request(v->bytes, v->size, frame);
    if (strcmp(v->kind, "delivery") == 0)
        return wire_get_delivery(v->bytes, v->size, frame);
    fail_msg("%s: there is no kind '%s'", v->name, v->kind);
    return -1;
}

static void must_be_outcome(const struct vector *v, int outcome)
{
    if (strcmp(wire_outcome_name(outcome), v->outcome) != 0)
        fail_msg("%s: came out as '%s', should be '%s'", v->name, wire_outcome_name(outcome),
                 v->outcome);
}

/* Frames from `bytes` on, each decoded and encoded again behind `out`; returns the size of all. */
static size_t reencode_frames(uint8_t *out, const uint8_t *bytes, size_t size,
                              int (*get)(const uint8_t *, size_t, struct wire_frame *))
{
    size_t at = 0;

    while (at < size) {
        struct wire_frame frame;

        assert_int_equal(get(bytes + at, size - at, &frame), WIRE_OK);
        assert_int_equal(reencode_frame(out + at, &frame), frame.size);
        at += frame.size;
    }
    return at;
}

static size_t reencode_envelope(uint8_t *out, const struct vector *v)
{
    struct wire_envelope e;

    assert_int_equal(wire_get_envelope(v->bytes, v->size, &e), WIRE_OK);
    wire_put_envelope(out, e.session, e.token, (uint32_t)(WIRE_ENVELOPE_SIZE + e.size));
    return WIRE_ENVELOPE_SIZE +
           reencode_frames(out + WIRE_ENVELOPE_SIZE, e.frames, e.size, wire_get_request);
}

static size_t reencode_batch(uint8_t *out, const struct vector *v)
{
    struct wire_batch b;

    assert_int_equal(wire_get_batch(v->bytes, v->size, &b), WIRE_OK);
    wire_put_batch(out, b.session, b.level, b.number, b.grant, b.missed,
                   (uint32_t)(WIRE_BATCH_SIZE + b.size));
    return WIRE_BATCH_SIZE +
           reencode_frames(out + WIRE_BATCH_SIZE, b.frames, b.size, wire_get_delivery);
}

static void must_survive(const struct vector *v, void *context)
{
    bool *seen = context; /* by type; in the second half those that are pooled */
    uint8_t out[WIRE_QUEUE_MAX];
    struct wire_frame frame;
    size_t size;

    memset(out, 0xee, sizeof(out));
    must_be_outcome(v, decode(v, &frame));
    if (strcmp(v->kind, "envelope") == 0) {
        size = reencode_envelope(out, v);
    } else if (strcmp(v->kind, "batch") == 0) {
        size = reencode_batch(out, v);
    } else {
        assert_int_equal(frame.size, v->size);
        seen[frame.type + ((frame.flags & WIRE_F_POOLED) != 0 ? 256 : 0)] = true;
        size = reencode_frame(out, &frame);
    }
    if (size != v->size || memcmp(out, v->bytes, size) != 0)
        fail_msg("%s: encodes to other bytes than it was decoded from", v->name);
}

static void valid_vectors_decode_and_encode_to_the_same_bytes(void **state)
{
    static const uint8_t types[] = {
        WIRE_PUBLISH,  WIRE_REQUEST, WIRE_REPLY, WIRE_SUBSCRIBE, WIRE_REPORT, WIRE_UNSUBSCRIBE,
        WIRE_REGISTER, WIRE_BYE,     WIRE_FETCH, WIRE_NUDGE,     WIRE_JOIN,   WIRE_ACK,
        WIRE_NACK,     WIRE_WILL,    WIRE_ADMIN, WIRE_MESSAGE,   WIRE_ANSWER, WIRE_WELCOME,
        WIRE_STOPPED,  WIRE_ENDED,   WIRE_BOXED, WIRE_LENT};
    static const uint8_t pooled[] = {WIRE_PUBLISH, WIRE_REQUEST, WIRE_REPLY, WIRE_MESSAGE};
    bool seen[2 * 256] = {false};

    (void)state;
    if (big_endian())
        skip();
    for_each_vector("y_", must_survive, seen);
    for (size_t i = 0; i < sizeof(types); i++)
        if (!seen[types[i]])
            fail_msg("no valid vector of type %d", types[i]);
    for (size_t i = 0; i < sizeof(pooled); i++)
        if (!seen[256 + pooled[i]])
            fail_msg("no valid vector of a pooled type %d", pooled[i]);
}

static void must_be_refused(const struct vector *v, void *context)
{
    struct wire_frame frame;

    (void)context;
    assert_string_not_equal(v->outcome, "ok");
    must_be_outcome(v, decode(v, &frame));
}

static void invalid_vectors_are_refused_as_their_first_line_says(void **state)
{
    (void)state;
    if (big_endian())
        skip();
    assert_true(for_each_vector("n_", must_be_refused, NULL) > 0);
}

/* Every beginning of it, as if the rest had not come. */
static void must_be_short_when_cut(const struct vector *v, void *context)
{
    (void)context;
    for (size_t size = 0; size < v->size; size++) {
        struct vector beginning = *v;
        struct wire_frame frame;

        beginning.size = size;
        beginning.bytes = malloc(size != 0 ? size : 1);
        assert_non_null(beginning.bytes);
        memcpy(beginning.bytes, v->bytes, size);
        if (decode(&beginning, &frame) != WIRE_E_SHORT)
            fail_msg("%s: its first %zu bytes were not found short", v->name, size);
        free(beginning.bytes);
    }
}

static void every_beginning_of_a_valid_vector_is_short(void **state)
{
    (void)state;
    if (big_endian())
        skip();
    for_each_vector("y_", must_be_short_when_cut, NULL);
}

/* ---- What golden bytes do not show ---- */

static void view_of_a_message_points_into_its_bytes(void **state)
{
    uint8_t bytes[128];
    struct wire_frame f;
    size_t size =
        wire_put_message(bytes, WIRE_PUBLISH, 9, WIRE_F_CONFIRM, 77, 1234, "a/b", 3, "xyz", 3);

    (void)state;
    assert_int_equal(size, wire_message_size(3, 3));
    assert_int_equal(wire_get_request(bytes, sizeof(bytes), &f), WIRE_OK);
    assert_ptr_equal(f.bytes, bytes);
    assert_int_equal(f.size, size);
    assert_int_equal(f.type, WIRE_PUBLISH);
    assert_int_equal(f.priority, 9);
    assert_int_equal(f.flags, WIRE_F_CONFIRM);
    assert_ptr_equal(f.text, bytes + WIRE_MESSAGE_SIZE);
    assert_string_equal(f.text, "a/b");
    assert_int_equal(f.text_size, 3);
    assert_int_equal(f.number, 77);
    assert_int_equal(f.expiry, 1234);
    assert_ptr_equal(f.payload, bytes + size - 3);
    assert_int_equal(f.payload_size, 3);
}

static void view_of_a_pooled_message_has_its_place(void **state)
{
    static const struct wire_slot slot = {
        .pool = 11, .offset = 400, .size = UINT32_MAX, .name = 0xffffffff};
    uint8_t bytes[128];
    struct wire_frame f;
    size_t size =
        wire_put_pooled(bytes, WIRE_PUBLISH, 9, WIRE_F_CONFIRM, 77, 1234, "a/b", 3, &slot);

    (void)state;
    assert_int_equal(size, wire_pooled_size(3));
    assert_int_equal(wire_get_request(bytes, sizeof(bytes), &f), WIRE_OK);
    assert_int_equal(f.size, size);
    assert_int_equal(f.flags, WIRE_F_CONFIRM | WIRE_F_POOLED);
    assert_ptr_equal(f.text, bytes + WIRE_MESSAGE_SIZE + WIRE_SLOT_SIZE);
    assert_string_equal(f.text, "a/b");
    assert_int_equal(f.number, 77);
    assert_int_equal(f.expiry, 1234);
    assert_null(f.payload);
    assert_int_equal(f.payload_size, UINT32_MAX);
    assert_int_equal(f.slot.pool, 11);
    assert_int_equal(f.slot.offset, 400);
    assert_int_equal(f.slot.size, UINT32_MAX);
    assert_int_equal(f.slot.name, 0xffffffff);
}

static void frame_is_decoded_at_any_alignment(void **state)
{
    uint8_t bytes[128];

    (void)state;
    for (size_t at = 0; at < 16; at++) {
        struct wire_frame f;
        size_t size =
            wire_put_message(bytes + at, WIRE_REQUEST, 24, 0, 7, UINT64_MAX, "@x", 2, NULL, 0);

        assert_int_equal(wire_get_request(bytes + at, size, &f), WIRE_OK);
        assert_int_equal(f.number, 7);
        assert_true(f.expiry == UINT64_MAX);
    }
}

static void refused_bytes_leave_the_view_alone(void **state)
{
    static const struct wire_frame untouched = {.size = 0x5a5a, .number = 0x5a5a5a5a};
    uint8_t bytes[128];
    struct wire_frame f = untouched;
    size_t size = wire_put_message(bytes, WIRE_PUBLISH, 32, 0, 0, 0, "a", 1, "b", 1);

    (void)state;
    assert_int_equal(wire_get_request(bytes, size, &f), WIRE_E_FIELD);
    assert_memory_equal(&f, &untouched, sizeof(f));
}

static void patched_request_is_a_valid_delivery(void **state)
{
    uint8_t bytes[128];
    struct wire_frame f;
    size_t size = wire_put_message(bytes, WIRE_REQUEST, 3, 0, 5, 99, "a/b", 3, "p", 1);

    (void)state;
    wire_patch_type(bytes, WIRE_MESSAGE, WIRE_F_REQUEST);
    wire_patch_number(bytes, UINT64_C(0x1234567800000042));
    assert_int_equal(wire_get_delivery(bytes, size, &f), WIRE_OK);
    assert_int_equal(f.type, WIRE_MESSAGE);
    assert_int_equal(f.flags, WIRE_F_REQUEST);
    assert_true(f.number == UINT64_C(0x1234567800000042));
    assert_string_equal(f.text, "a/b");

    assert_int_equal(wire_frame_size(bytes), size);
    assert_true(wire_message_number(bytes) == f.number);
    assert_int_equal(wire_message_expiry(bytes), 99);
    assert_int_equal(wire_message_flags(bytes), WIRE_F_REQUEST);
}

static void patched_pooled_publish_is_a_valid_delivery(void **state)
{
    static const struct wire_slot slot = {.pool = 11, .offset = 400, .size = 70000, .name = 3};
    uint8_t bytes[128];
    struct wire_frame f;
    struct wire_slot again;
    size_t size = wire_put_pooled(bytes, WIRE_PUBLISH, 3, 0, 0, 99, "a/b", 3, &slot);

    (void)state;
    wire_patch_type(bytes, WIRE_MESSAGE, WIRE_F_POOLED);
    wire_patch_slot_name(bytes, UINT64_C(0x1234567800000042));
    assert_int_equal(wire_get_delivery(bytes, size, &f), WIRE_OK);
    assert_int_equal(f.type, WIRE_MESSAGE);
    assert_int_equal(f.flags, WIRE_F_POOLED);
    assert_string_equal(f.text, "a/b");
    assert_int_equal(f.expiry, 99);
    assert_true(f.slot.name == UINT64_C(0x1234567800000042));
    assert_int_equal(f.slot.pool, 11);
    assert_int_equal(f.slot.offset, 400);
    assert_int_equal(f.payload_size, 70000);

    again = wire_message_slot(bytes);
    assert_memory_equal(&again, &f.slot, sizeof(again));
}

static void view_of_a_join_has_group_and_filter(void **state)
{
    static const struct wire_frame join = {
        .number = 7,
        .flags = WIRE_F_DURABLE,
        .text = "jobs/#",
        .text_size = 6,
        .group = "workers",
        .group_size = 7,
        .prefetch = 300,
        .limit = 9,
        .timeout = 70000,
    };
    uint8_t bytes[128];
    struct wire_frame f;
    size_t size = wire_put_join(bytes, &join);

    (void)state;
    assert_int_equal(size, wire_join_size(7, 6));
    assert_int_equal(wire_get_request(bytes, sizeof(bytes), &f), WIRE_OK);
    assert_int_equal(f.size, size);
    assert_int_equal(f.type, WIRE_JOIN);
    assert_int_equal(f.flags, WIRE_F_DURABLE);
    assert_int_equal(f.number, 7);
    assert_string_equal(f.text, "jobs/#");
    assert_int_equal(f.text_size, 6);
    assert_string_equal(f.group, "workers");
    assert_int_equal(f.group_size, 7);
    assert_int_equal(f.prefetch, 300);
    assert_int_equal(f.limit, 9);
    assert_int_equal(f.timeout, 70000);
}

static void longest_dead_letter_name_can_be_joined(void **state)
{
    static char group[WIRE_GROUP_MAX + 1] = WIRE_DEAD_PREFIX;
    const struct wire_frame join = {.group = group, .group_size = WIRE_GROUP_MAX, .text = ""};
    uint8_t bytes[128];
    struct wire_frame f;

    (void)state;
    memset(group + strlen(WIRE_DEAD_PREFIX), 'x', WIRE_NAME_MAX);
    assert_int_equal(strlen(group), WIRE_GROUP_MAX);
    wire_put_join(bytes, &join);
    assert_int_equal(wire_get_request(bytes, sizeof(bytes), &f), WIRE_OK);
    assert_string_equal(f.group, group);
    assert_int_equal(f.text_size, 0);
}

static void acknowledgement_has_up_to_127_names(void **state)
{
    uint64_t names[WIRE_ACKS_MAX];
    uint8_t bytes[WIRE_HEAD_SIZE + sizeof(names) + sizeof(uint64_t)] = {0};
    struct wire_frame f;
    size_t size;

    (void)state;
    for (size_t i = 0; i < WIRE_ACKS_MAX; i++)
        names[i] = UINT64_C(0x100000000) + i;
    size = wire_put_acks(bytes, names, WIRE_ACKS_MAX);
    assert_int_equal(size, wire_acks_size(WIRE_ACKS_MAX));
    assert_int_equal(wire_get_request(bytes, sizeof(bytes), &f), WIRE_OK);
    assert_int_equal(f.n_names, WIRE_ACKS_MAX);
    for (size_t i = 0; i < f.n_names; i++)
        assert_true(wire_load64(f.names + i * sizeof(uint64_t)) == names[i]);

    wire_store16(bytes, sizeof(bytes)); /* one more */
    assert_int_equal(wire_get_request(bytes, sizeof(bytes), &f), WIRE_E_LENGTH);
}

static void patched_publish_is_a_valid_delivery_out_of_a_group(void **state)
{
    uint8_t bytes[128];
    struct wire_frame f;
    size_t size = wire_put_message(bytes, WIRE_PUBLISH, 3, 0, 0, 99, "a/b", 3, "p", 1);

    (void)state;
    wire_patch_type(bytes, WIRE_MESSAGE, WIRE_F_ACK);
    wire_patch_number(bytes, 42);
    wire_patch_tries(bytes, 255);
    assert_int_equal(wire_get_delivery(bytes, size, &f), WIRE_OK);
    assert_int_equal(f.flags, WIRE_F_ACK);
    assert_int_equal(f.number, 42);
    assert_int_equal(f.tries, 255);
    assert_int_equal(wire_message_tries(bytes), 255);

    wire_patch_type(bytes, WIRE_MESSAGE, 0); /* the byte means nothing without the flag */
    assert_int_equal(wire_get_delivery(bytes, size, &f), WIRE_E_RESERVED);
}

static void patched_will_is_a_valid_publication(void **state)
{
    uint8_t bytes[128];
    struct wire_frame f;
    size_t size = wire_put_message(bytes, WIRE_WILL, 24, WIRE_F_RETAIN, 5, 0, "gone", 4, "pump", 4);

    (void)state;
    assert_int_equal(wire_get_request(bytes, size, &f), WIRE_OK);
    assert_int_equal(f.priority, 24);
    assert_string_equal(f.text, "gone");
    assert_int_equal(f.payload_size, 4);

    wire_patch_type(bytes, WIRE_PUBLISH, WIRE_F_RETAIN);
    wire_patch_number(bytes, 0);
    assert_int_equal(wire_get_request(bytes, size, &f), WIRE_OK);
}

/* Rule L5: the narrowest reply queue takes the largest frame of those that cannot be boxed, and the
 * urgent request queue the largest that a client sends. */
static void L5_largest_frames_fit_the_narrowest_queues(void **state)
{
    (void)state;
    assert_true(WIRE_BATCH_SIZE + WIRE_WELCOME_SIZE <= 464);
    assert_true(WIRE_BATCH_SIZE + WIRE_BOXED_SIZE <= 464);
    assert_true(WIRE_BATCH_SIZE + wire_pooled_size(WIRE_TOPIC_MAX) <= 464);
    assert_true(WIRE_ENVELOPE_SIZE + 1240 <= 1280);
    assert_true(wire_join_size(WIRE_GROUP_MAX, WIRE_TOPIC_MAX) <= 1240);
    assert_true(wire_acks_size(WIRE_ACKS_MAX) <= 1240);
}

static void frames_of_an_envelope_stand_one_behind_the_other(void **state)
{
    uint8_t bytes[WIRE_QUEUE_MAX];
    struct wire_envelope e;
    struct wire_frame f;
    size_t size = WIRE_ENVELOPE_SIZE;

    (void)state;
    size += wire_put_message(bytes + size, WIRE_PUBLISH, 8, 0, 0, 0, "one", 3, "1", 1);
    size += wire_put_message(bytes + size, WIRE_PUBLISH, 8, 0, 0, 0, "two", 3, "22", 2);
    wire_put_envelope(bytes, 12, token, (uint32_t)size);

    assert_int_equal(wire_envelope_length(bytes), size);
    assert_int_equal(wire_get_envelope(bytes, size, &e), WIRE_OK);
    assert_int_equal(e.session, 12);
    assert_memory_equal(e.token, token, sizeof(token));
    assert_int_equal(wire_get_request(e.frames, e.size, &f), WIRE_OK);
    assert_string_equal(f.text, "one");
    e.frames += f.size;
    e.size -= f.size;
    assert_int_equal(wire_get_request(e.frames, e.size, &f), WIRE_OK);
    assert_string_equal(f.text, "two");
    assert_int_equal(f.size, e.size);
}

static void largest_envelope_is_taken_and_a_larger_one_is_not(void **state)
{
    static const uint8_t payload[WIRE_QUEUE_MAX];
    uint8_t bytes[WIRE_QUEUE_MAX + 1] = {0};
    struct wire_envelope e;
    struct wire_frame f;
    size_t payload_size = WIRE_QUEUE_MAX - WIRE_ENVELOPE_SIZE - wire_message_size(1, 0);

    (void)state;
    wire_put_message(bytes + WIRE_ENVELOPE_SIZE, WIRE_PUBLISH, 0, 0, 0, 0, "t", 1, payload,
                     payload_size);
    wire_put_envelope(bytes, 0, token, WIRE_QUEUE_MAX);
    assert_int_equal(wire_get_envelope(bytes, WIRE_QUEUE_MAX, &e), WIRE_OK);
    assert_int_equal(wire_get_request(e.frames, e.size, &f), WIRE_OK);
    assert_int_equal(f.payload_size, payload_size);

    wire_put_envelope(bytes, 0, token, sizeof(bytes));
    assert_int_equal(wire_get_envelope(bytes, sizeof(bytes), &e), WIRE_E_LENGTH);
}

static void cells_step_where_the_protocol_says(void **state)
{
    (void)state;
    assert_int_equal(wire_cells(WIRE_HEAD_SIZE), 1);
    assert_int_equal(wire_cells(224), 1);
    assert_int_equal(wire_cells(225), 2);
    assert_int_equal(wire_cells(224 + 252), 2);
    assert_int_equal(wire_cells(224 + 253), 3);
    assert_int_equal(wire_charge(1240), 6 * 256);
    assert_int_equal(wire_charge(WIRE_QUEUE_MAX), 33 * 256);
}

static void codes_and_outcomes_have_words_and_strange_ones_do_not(void **state)
{
    static const uint8_t codes[] = {0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12,
                                    13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 32, 33,
                                    34, 35, 36, 37, 38, 39, 40, 41, 48, 49, 50, 51, 52};
    size_t n_named = 0;

    (void)state;
    for (size_t i = 0; i < sizeof(codes); i++)
        assert_non_null(wire_code_name(codes[i]));
    for (unsigned code = 0; code <= UINT8_MAX; code++)
        n_named += wire_code_name((uint8_t)code) != NULL;
    assert_int_equal(n_named, sizeof(codes));
    assert_string_equal(wire_code_name(WIRE_C_NO_SUBSCRIBER), "no_subscriber");
    assert_string_equal(wire_code_name(WIRE_C_KICKED), "kicked");

    for (int outcome = WIRE_OK; outcome <= WIRE_E_FIELD; outcome++)
        assert_non_null(wire_outcome_name(outcome));
    assert_string_equal(wire_outcome_name(WIRE_E_FIELD), "field");
    assert_null(wire_outcome_name(WIRE_E_FIELD + 1));
    assert_null(wire_outcome_name(-1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(valid_vectors_decode_and_encode_to_the_same_bytes),
        cmocka_unit_test(invalid_vectors_are_refused_as_their_first_line_says),
        cmocka_unit_test(every_beginning_of_a_valid_vector_is_short),
        cmocka_unit_test(view_of_a_message_points_into_its_bytes),
        cmocka_unit_test(view_of_a_pooled_message_has_its_place),
        cmocka_unit_test(frame_is_decoded_at_any_alignment),
        cmocka_unit_test(refused_bytes_leave_the_view_alone),
        cmocka_unit_test(patched_request_is_a_valid_delivery),
        cmocka_unit_test(patched_pooled_publish_is_a_valid_delivery),
        cmocka_unit_test(view_of_a_join_has_group_and_filter),
        cmocka_unit_test(longest_dead_letter_name_can_be_joined),
        cmocka_unit_test(acknowledgement_has_up_to_127_names),
        cmocka_unit_test(patched_publish_is_a_valid_delivery_out_of_a_group),
        cmocka_unit_test(patched_will_is_a_valid_publication),
        cmocka_unit_test(L5_largest_frames_fit_the_narrowest_queues),
        cmocka_unit_test(frames_of_an_envelope_stand_one_behind_the_other),
        cmocka_unit_test(largest_envelope_is_taken_and_a_larger_one_is_not),
        cmocka_unit_test(cells_step_where_the_protocol_says),
        cmocka_unit_test(codes_and_outcomes_have_words_and_strange_ones_do_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
