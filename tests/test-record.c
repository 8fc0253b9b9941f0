/* The journal's bytes: what is put is got, and nothing else is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/record.h"
#include "broker/survivors.h"

enum { SIZE = 4096, LIMIT = SIZE - RECORD_HEADER_SIZE };

static const struct record_header header = {
    .generation = 7,
    .oldest = 3,
    .slot = 2,
    .size = RECORD_SEGMENT_MIN,
    .seed = 0x12345678,
};

/* A record with its checksum, at `offset` of a segment in memory. */
static void put(uint8_t *segment, const struct record_header *h, uint32_t offset, uint64_t synced,
                const struct record *record)
{
    uint8_t *head = segment + offset;

    record_put_head(head, record, h, offset, synced);
    if (record->size > 0)
        memcpy(head + RECORD_HEAD_SIZE, record->bytes, record->size);
    record_put_crc(head,
                   record_crc(record_crc_begin(head, h), head + RECORD_HEAD_SIZE, record->size));
}

static const uint8_t some_bytes[] = "some bytes of a message";

static struct record some_record(void)
{
    return (struct record){
        .age = 0x1122334455667788,
        .owner = 0x99aabbccddeeff00,
        .when = 0xdeadbeef,
        .kind = RECORD_PUT,
        .level = 31,
        .flags = 5,
        .tries = 3,
        .size = sizeof(some_bytes),
        .bytes = some_bytes,
    };
}

/* ---- Checksum ---- */

static void checksum_is_the_known_one(void **state)
{
    uint8_t bytes[32];

    (void)state;
    /* RFC 3720, B.4 */
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(record_crc(0, bytes, sizeof(bytes)), 0x8a9136aa);
    memset(bytes, 0xff, sizeof(bytes));
    assert_int_equal(record_crc(0, bytes, sizeof(bytes)), 0x62a8ab43);
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)i;
    assert_int_equal(record_crc(0, bytes, sizeof(bytes)), 0x46dd794e);
    assert_int_equal(record_crc(0, "123456789", 9), 0xe3069283);
    assert_int_equal(record_crc_table(0, "123456789", 9), 0xe3069283);
}

static void instruction_and_table_agree_at_every_size_and_alignment(void **state)
{
    uint8_t bytes[300];

    (void)state;
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 31 + 7);
    for (size_t from = 0; from < 9; from++) {
        for (size_t size = 0; size < 280; size++)
            assert_int_equal(record_crc(77, bytes + from, size),
                             record_crc_table(77, bytes + from, size));
    }
}

static void checksum_goes_on_where_it_stopped(void **state)
{
    uint32_t whole = record_crc(0, "123456789", 9);

    (void)state;
    assert_int_equal(record_crc(record_crc(0, "1234", 4), "56789", 5), whole);
    assert_int_equal(record_crc(whole, "", 0), whole);
}

/* ---- Places ---- */

static void location_is_never_zero_and_leaves_the_top_bit(void **state)
{
    uint32_t last = RECORD_SEGMENT_MAX - RECORD_UNIT;

    (void)state;
    assert_int_not_equal(record_location(0, RECORD_HEADER_SIZE), 0);
    assert_true(record_location(RECORD_SLOTS_MAX - 1, last) < 1u << 31);
    for (uint32_t slot = 0; slot < RECORD_SLOTS_MAX; slot += 89) {
        uint32_t location = record_location(slot, last - slot * RECORD_UNIT);

        assert_int_equal(record_slot(location), slot);
        assert_int_equal(record_offset(location), last - slot * RECORD_UNIT);
    }
}

static void later_places_are_greater(void **state)
{
    (void)state;
    assert_true(record_position(7, RECORD_SEGMENT_MAX) < record_position(8, 0));
    assert_true(record_position(7, 64) < record_position(7, 128));
}

/* ---- Headers ---- */

static void header_comes_back(void **state)
{
    uint8_t bytes[RECORD_HEADER_SIZE];
    struct record_header got;

    (void)state;
    record_put_header(bytes, &header);
    assert_int_equal(record_get_header(bytes, &got), RECORD_OK);
    assert_int_equal(got.generation, header.generation);
    assert_int_equal(got.oldest, header.oldest);
    assert_int_equal(got.slot, header.slot);
    assert_int_equal(got.size, header.size);
    assert_int_equal(got.seed, header.seed);
}

static void header_with_any_bit_changed_is_none(void **state)
{
    uint8_t bytes[RECORD_HEADER_SIZE];
    struct record_header got;

    (void)state;
    record_put_header(bytes, &header);
    for (unsigned bit = 0; bit < 8 * sizeof(bytes); bit++) {
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_equal(record_get_header(bytes, &got), RECORD_E_CHECKSUM);
        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    memset(bytes, 0, sizeof(bytes));
    assert_int_equal(record_get_header(bytes, &got), RECORD_E_EMPTY);
}

static void header_of_another_version_is_told_from_a_damaged_one(void **state)
{
    uint8_t bytes[RECORD_HEADER_SIZE];
    struct record_header got;
    uint32_t crc;

    (void)state;
    record_put_header(bytes, &header);
    bytes[4]++;
    crc = record_crc(0, bytes, sizeof(bytes) - 4);
    memcpy(bytes + sizeof(bytes) - 4, &crc, 4);
    assert_int_equal(record_get_header(bytes, &got), RECORD_E_LAYOUT);
}

static void header_that_cannot_be_is_none(void **state)
{
    uint8_t bytes[RECORD_HEADER_SIZE];
    struct record_header bad, got;

    (void)state;
    bad = header;
    bad.size = RECORD_SEGMENT_MAX + RECORD_UNIT;
    record_put_header(bytes, &bad);
    assert_int_equal(record_get_header(bytes, &got), RECORD_E_LENGTH);
    bad = header;
    bad.slot = RECORD_SLOTS_MAX;
    record_put_header(bytes, &bad);
    assert_int_equal(record_get_header(bytes, &got), RECORD_E_LENGTH);
    bad = header;
    bad.generation = (uint64_t)UINT32_MAX + 1;
    record_put_header(bytes, &bad);
    assert_int_equal(record_get_header(bytes, &got), RECORD_E_LENGTH);
}

static void segment_names_sort_by_slot(void **state)
{
    char name[RECORD_NAME_MAX];

    (void)state;
    record_segment_name(name, 12);
    assert_string_equal(name, "00000012.mqj");
}

/* ---- Records ---- */

static void record_comes_back(void **state)
{
    uint8_t segment[SIZE] = {0};
    struct record record = some_record(), got;

    (void)state;
    put(segment, &header, 128, 99, &record);
    assert_int_equal(record_get(segment, &header, 128, LIMIT, &got), RECORD_OK);
    assert_int_equal(got.age, record.age);
    assert_int_equal(got.owner, record.owner);
    assert_int_equal(got.when, record.when);
    assert_int_equal(got.kind, record.kind);
    assert_int_equal(got.level, record.level);
    assert_int_equal(got.flags, record.flags);
    assert_int_equal(got.tries, record.tries);
    assert_int_equal(got.size, record.size);
    assert_memory_equal(got.bytes, record.bytes, record.size);
    assert_int_equal(record_head_synced(segment + 128), 99);
}

static void layout_of_a_record_is_what_is_documented(void **state)
{
    uint8_t segment[SIZE] = {0};
    struct record record = some_record();
    static const uint8_t expected[RECORD_HEAD_SIZE - 4] = {
        80,   0,    0,    0,                            /* length: 56 + 24 */
        7,    0,    0,    0,    0,    0,    0,    0,    /* generation */
        128,  0,    0,    0,    0,    0,    0,    0,    /* position */
        99,   0,    0,    0,    0,    0,    0,    0,    /* synced */
        0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* age */
        1,    31,   5,    3,                            /* kind, level, flags, tries */
        0xef, 0xbe, 0xad, 0xde,                         /* when */
        0x00, 0xff, 0xee, 0xdd, 0xcc, 0xbb, 0xaa, 0x99, /* owner */
    };

    (void)state;
    put(segment, &header, 128, 99, &record);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    assert_memory_equal(segment + 132, expected, sizeof(expected));
#else
    (void)expected;
#endif
}

static void J1_record_with_any_bit_changed_is_none(void **state)
{
    uint8_t segment[SIZE] = {0};
    struct record record = some_record(), got;

    (void)state;
    put(segment, &header, 128, 99, &record);
    for (unsigned bit = 0; bit < 8 * (RECORD_HEAD_SIZE + record.size); bit++) {
        segment[128 + bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_int_not_equal(record_get(segment, &header, 128, LIMIT, &got), RECORD_OK);
        segment[128 + bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_int_equal(record_get(segment, &header, 128, LIMIT, &got), RECORD_OK);
}

static void J1_record_of_another_generation_is_none(void **state)
{
    uint8_t segment[SIZE] = {0};
    struct record record = some_record(), got;
    struct record_header next = header;

    (void)state;
    put(segment, &header, 128, 99, &record);
    next.generation++;
    assert_int_equal(record_get(segment, &next, 128, LIMIT, &got), RECORD_E_GENERATION);
}

static void J1_record_of_another_place_is_none(void **state)
{
    uint8_t segment[SIZE] = {0};
    struct record record = some_record(), got;

    (void)state;
    put(segment, &header, 128, 99, &record);
    memmove(segment + 512, segment + 128, 256);
    assert_int_equal(record_get(segment, &header, 512, LIMIT, &got), RECORD_E_POSITION);
}

static void J1_record_made_without_the_seed_is_none(void **state)
{
    uint8_t segment[SIZE] = {0};
    struct record record = some_record(), got;
    struct record_header guessed = header;

    (void)state;
    guessed.seed = 0;
    put(segment, &guessed, 128, 99, &record);
    assert_int_equal(record_get(segment, &header, 128, LIMIT, &got), RECORD_E_CHECKSUM);
}

static void record_that_does_not_fit_is_none(void **state)
{
    uint8_t segment[SIZE] = {0};
    struct record record = some_record(), got;

    (void)state;
    put(segment, &header, 128, 99, &record);
    assert_int_equal(record_get(segment, &header, 128, 128 + RECORD_HEAD_SIZE + record.size, &got),
                     RECORD_OK);
    assert_int_equal(
        record_get(segment, &header, 128, 128 + RECORD_HEAD_SIZE + record.size - 1, &got),
        RECORD_E_LENGTH);
    assert_int_equal(record_get(segment, &header, 128, 128 + RECORD_HEAD_SIZE - 1, &got),
                     RECORD_E_EMPTY);
    assert_int_equal(record_get(segment, &header, 192, 128, &got), RECORD_E_EMPTY);
}

static void zeros_are_empty(void **state)
{
    uint8_t segment[SIZE] = {0};
    struct record got;

    (void)state;
    assert_int_equal(record_get(segment, &header, 128, LIMIT, &got), RECORD_E_EMPTY);
}

static void begin_comes_back(void **state)
{
    const struct record_begin begin = {
        .previous = 41, .bytes = 1 << 20, .things = 17, .end = 4096, .start = 192, .instead = 3};
    uint8_t bytes[RECORD_BEGIN_SIZE];
    struct record record = {.kind = RECORD_BEGIN, .size = sizeof(bytes), .bytes = bytes};
    struct record_begin got;

    (void)state;
    record_put_begin(bytes, &begin);
    assert_int_equal(record_get_begin(&record, &got), RECORD_OK);
    assert_int_equal(got.previous, begin.previous);
    assert_int_equal(got.bytes, begin.bytes);
    assert_int_equal(got.things, begin.things);
    assert_int_equal(got.end, begin.end);
    assert_int_equal(got.start, begin.start);
    assert_int_equal(got.instead, begin.instead);
    record.size--;
    assert_int_equal(record_get_begin(&record, &got), RECORD_E_LENGTH);
}

static void every_outcome_and_kind_has_a_name(void **state)
{
    (void)state;
    for (int i = RECORD_OK; i <= RECORD_E_LAYOUT + 1; i++)
        assert_non_null(record_outcome_name(i));
    assert_string_equal(record_kind_name(0), "unknown");
    assert_string_equal(record_kind_name(RECORD_VOID + 1), "unknown");
    for (unsigned i = RECORD_PUT; i <= RECORD_VOID; i++)
        assert_string_not_equal(record_kind_name(i), "unknown");
}

/* ---- Survivors ---- */

static void add_thing(struct survivors *s, uint64_t age, uint64_t owner, uint32_t location)
{
    struct record record = {.age = age, .owner = owner, .kind = RECORD_PUT, .size = 64};

    assert_int_equal(survivors_record(s, &record, location), 0);
}

static void add_end(struct survivors *s, const uint64_t *ages, uint32_t n)
{
    struct record record = {
        .kind = RECORD_END, .size = n * (uint32_t)sizeof(*ages), .bytes = (const uint8_t *)ages};

    assert_int_equal(survivors_record(s, &record, 1), 0);
}

static void what_was_ended_does_not_live(void **state)
{
    struct survivors s;

    (void)state;
    survivors_init(&s);
    for (uint64_t age = 1; age <= 5; age++)
        add_thing(&s, age, 100, (uint32_t)age);
    add_end(&s, (const uint64_t[]){2, 5}, 2);
    add_end(&s, (const uint64_t[]){77}, 1); /* of a segment that is gone */
    assert_int_equal(survivors_settle(&s), 0);
    assert_int_equal(s.n, 3);
    assert_int_equal(s.list[0].age, 1);
    assert_int_equal(s.list[1].age, 3);
    assert_int_equal(s.list[2].age, 4);
    assert_int_equal(s.highest, 77);
    survivors_deinit(&s);
}

static void newest_record_of_an_age_counts(void **state)
{
    struct survivors s;
    struct record move = {.age = 3, .owner = 55, .tries = 6, .kind = RECORD_MOVE};

    (void)state;
    survivors_init(&s);
    add_thing(&s, 3, 100, 10);
    assert_int_equal(survivors_record(&s, &move, 11), 0);
    assert_int_equal(survivors_settle(&s), 0);
    assert_int_equal(s.list[0].owner, 55);
    assert_int_equal(s.list[0].tries, 6);
    assert_int_equal(s.list[0].location, 10);
    add_thing(&s, 3, 55, 12); /* appended anew */
    assert_int_equal(survivors_settle(&s), 0);
    assert_int_equal(s.n, 1);
    assert_int_equal(s.list[0].location, 12);
    survivors_deinit(&s);
}

/* Against an array with a place for each age. */
static void survivors_are_those_of_the_obvious_way(void **state)
{
    enum { AGES = 300000, EVENTS = 900000 };
    uint32_t *places = calloc(AGES, sizeof(*places));
    struct survivors s;
    uint64_t chance = 1;
    size_t at = 0;

    (void)state;
    assert_non_null(places);
    survivors_init(&s);
    for (uint32_t i = 1; i <= EVENTS; i++) {
        uint64_t age;

        chance = chance * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        age = (chance >> 33) % AGES;
        if (chance >> 62 == 0) {
            add_end(&s, &age, 1);
            places[age] = 0;
        } else {
            add_thing(&s, age, 1, i);
            places[age] = i;
        }
    }
    assert_int_equal(survivors_settle(&s), 0);
    for (uint64_t age = 0; age < AGES; age++) {
        if (places[age] == 0)
            continue;
        assert_true(at < s.n);
        assert_int_equal(s.list[at].age, age);
        assert_int_equal(s.list[at].location, places[age]);
        at++;
    }
    assert_int_equal(at, s.n);
    survivors_deinit(&s);
    free(places);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checksum_is_the_known_one),
        cmocka_unit_test(instruction_and_table_agree_at_every_size_and_alignment),
        cmocka_unit_test(checksum_goes_on_where_it_stopped),
        cmocka_unit_test(location_is_never_zero_and_leaves_the_top_bit),
        cmocka_unit_test(later_places_are_greater),
        cmocka_unit_test(header_comes_back),
        cmocka_unit_test(header_with_any_bit_changed_is_none),
        cmocka_unit_test(header_of_another_version_is_told_from_a_damaged_one),
        cmocka_unit_test(header_that_cannot_be_is_none),
        cmocka_unit_test(segment_names_sort_by_slot),
        cmocka_unit_test(record_comes_back),
        cmocka_unit_test(layout_of_a_record_is_what_is_documented),
        cmocka_unit_test(J1_record_with_any_bit_changed_is_none),
        cmocka_unit_test(J1_record_of_another_generation_is_none),
        cmocka_unit_test(J1_record_of_another_place_is_none),
        cmocka_unit_test(J1_record_made_without_the_seed_is_none),
        cmocka_unit_test(record_that_does_not_fit_is_none),
        cmocka_unit_test(zeros_are_empty),
        cmocka_unit_test(begin_comes_back),
        cmocka_unit_test(every_outcome_and_kind_has_a_name),
        cmocka_unit_test(what_was_ended_does_not_live),
        cmocka_unit_test(newest_record_of_an_age_counts),
        cmocka_unit_test(survivors_are_those_of_the_obvious_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
