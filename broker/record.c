/* The journal's bytes.
 *
 * Everything is in the order of the host's bytes, at fixed offsets, copied in and out: nothing here
 * depends on how a compiler lays a struct out, and nothing need be aligned.
 *
 * What makes 56 bytes a record's head is checked from cheap to dear: generation, position, length,
 * then the checksum over all of it. The checksum begins with the segment's seed, a random number
 * that no client can know. Without it a payload could be made so that, after a torn write, it is
 * read as a record. */
#include "broker/record.h"

#include <stdio.h>
#include <string.h>

#include "broker/journal-fault.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#include <arm_acle.h>
#endif

#define HEADER_MAGIC UINT32_C(0x4a51424d) /* "MBQJ" */

enum header_offset {
    HEADER_MAGIC_AT = 0,
    HEADER_LAYOUT = 4,
    HEADER_GENERATION = 8,
    HEADER_OLDEST = 16,
    HEADER_SLOT = 24,
    HEADER_SIZE = 28,
    HEADER_SEED = 32,
    HEADER_CRC = 60, /* of all before it; what is not named here is 0 */
};

enum head_offset {
    HEAD_CRC = 0,
    HEAD_LENGTH = 4, /* of head and bytes */
    HEAD_GENERATION = 8,
    HEAD_POSITION = 16,
    HEAD_SYNCED = 24,
    HEAD_AGE = 32,
    HEAD_KIND = 40,
    HEAD_LEVEL = 41,
    HEAD_FLAGS = 42,
    HEAD_TRIES = 43,
    HEAD_WHEN = 44,
    HEAD_OWNER = 48,
};

enum begin_offset {
    BEGIN_PREVIOUS = 0,
    BEGIN_BYTES = 8,
    BEGIN_THINGS = 16,
    BEGIN_END = 20,
    BEGIN_START = 24,
    BEGIN_INSTEAD = 28,
};

_Static_assert(HEAD_OWNER + 8 == RECORD_HEAD_SIZE, "layout");
_Static_assert(HEADER_CRC + 4 == RECORD_HEADER_SIZE, "layout");
_Static_assert(BEGIN_INSTEAD + 4 == RECORD_BEGIN_SIZE, "layout");
_Static_assert(RECORD_BEGIN_ROOM >= RECORD_HEAD_SIZE + RECORD_BEGIN_SIZE &&
                   RECORD_BEGIN_ROOM % RECORD_UNIT == 0,
               "layout");

static uint32_t load32(const uint8_t *from)
{
    uint32_t value;

    memcpy(&value, from, sizeof(value));
    return value;
}

static uint64_t load64(const uint8_t *from)
{
    uint64_t value;

    memcpy(&value, from, sizeof(value));
    return value;
}

static void store32(uint8_t *to, uint32_t value)
{
    memcpy(to, &value, sizeof(value));
}

static void store64(uint8_t *to, uint64_t value)
{
    memcpy(to, &value, sizeof(value));
}

/* ---- Checksum ---- */

/* For each byte: eight steps of the polynomial 0x1edc6f41, its bits reversed. */
static const uint32_t crc_table[256] = {
    0x00000000, 0xf26b8303, 0xe13b70f7, 0x1350f3f4, 0xc79a971f, 0x35f1141c, 0x26a1e7e8, 0xd4ca64eb,
    0x8ad958cf, 0x78b2dbcc, 0x6be22838, 0x9989ab3b, 0x4d43cfd0, 0xbf284cd3, 0xac78bf27, 0x5e133c24,
    0x105ec76f, 0xe235446c, 0xf165b798, 0x030e349b, 0xd7c45070, 0x25afd373, 0x36ff2087, 0xc494a384,
    0x9a879fa0, 0x68ec1ca3, 0x7bbcef57, 0x89d76c54, 0x5d1d08bf, 0xaf768bbc, 0xbc267848, 0x4e4dfb4b,
    0x20bd8ede, 0xd2d60ddd, 0xc186fe29, 0x33ed7d2a, 0xe72719c1, 0x154c9ac2, 0x061c6936, 0xf477ea35,
    0xaa64d611, 0x580f5512, 0x4b5fa6e6, 0xb93425e5, 0x6dfe410e, 0x9f95c20d, 0x8cc531f9, 0x7eaeb2fa,
    0x30e349b1, 0xc288cab2, 0xd1d83946, 0x23b3ba45, 0xf779deae, 0x05125dad, 0x1642ae59, 0xe4292d5a,
    0xba3a117e, 0x4851927d, 0x5b016189, 0xa96ae28a, 0x7da08661, 0x8fcb0562, 0x9c9bf696, 0x6ef07595,
    0x417b1dbc, 0xb3109ebf, 0xa0406d4b, 0x522bee48, 0x86e18aa3, 0x748a09a0, 0x67dafa54, 0x95b17957,
    0xcba24573, 0x39c9c670, 0x2a993584, 0xd8f2b687, 0x0c38d26c, 0xfe53516f, 0xed03a29b, 0x1f682198,
    0x5125dad3, 0xa34e59d0, 0xb01eaa24, 0x42752927, 0x96bf4dcc, 0x64d4cecf, 0x77843d3b, 0x85efbe38,
    0xdbfc821c, 0x2997011f, 0x3ac7f2eb, 0xc8ac71e8, 0x1c661503, 0xee0d9600, 0xfd5d65f4, 0x0f36e6f7,
    0x61c69362, 0x93ad1061, 0x80fde395, 0x72966096, 0xa65c047d, 0x5437877e, 0x4767748a, 0xb50cf789,
    0xeb1fcbad, 0x197448ae, 0x0a24bb5a, 0xf84f3859, 0x2c855cb2, 0xdeeedfb1, 0xcdbe2c45, 0x3fd5af46,
    0x7198540d, 0x83f3d70e, 0x90a324fa, 0x62c8a7f9, 0xb602c312, 0x44694011, 0x5739b3e5, 0xa55230e6,
    0xfb410cc2, 0x092a8fc1, 0x1a7a7c35, 0xe811ff36, 0x3cdb9bdd, 0xceb018de, 0xdde0eb2a, 0x2f8b6829,
    0x82f63b78, 0x709db87b, 0x63cd4b8f, 0x91a6c88c, 0x456cac67, 0xb7072f64, 0xa457dc90, 0x563c5f93,
    0x082f63b7, 0xfa44e0b4, 0xe9141340, 0x1b7f9043, 0xcfb5f4a8, 0x3dde77ab, 0x2e8e845f, 0xdce5075c,
    0x92a8fc17, 0x60c37f14, 0x73938ce0, 0x81f80fe3, 0x55326b08, 0xa759e80b, 0xb4091bff, 0x466298fc,
    0x1871a4d8, 0xea1a27db, 0xf94ad42f, 0x0b21572c, 0xdfeb33c7, 0x2d80b0c4, 0x3ed04330, 0xccbbc033,
    0xa24bb5a6, 0x502036a5, 0x4370c551, 0xb11b4652, 0x65d122b9, 0x97baa1ba, 0x84ea524e, 0x7681d14d,
    0x2892ed69, 0xdaf96e6a, 0xc9a99d9e, 0x3bc21e9d, 0xef087a76, 0x1d63f975, 0x0e330a81, 0xfc588982,
    0xb21572c9, 0x407ef1ca, 0x532e023e, 0xa145813d, 0x758fe5d6, 0x87e466d5, 0x94b49521, 0x66df1622,
    0x38cc2a06, 0xcaa7a905, 0xd9f75af1, 0x2b9cd9f2, 0xff56bd19, 0x0d3d3e1a, 0x1e6dcdee, 0xec064eed,
    0xc38d26c4, 0x31e6a5c7, 0x22b65633, 0xd0ddd530, 0x0417b1db, 0xf67c32d8, 0xe52cc12c, 0x1747422f,
    0x49547e0b, 0xbb3ffd08, 0xa86f0efc, 0x5a048dff, 0x8ecee914, 0x7ca56a17, 0x6ff599e3, 0x9d9e1ae0,
    0xd3d3e1ab, 0x21b862a8, 0x32e8915c, 0xc083125f, 0x144976b4, 0xe622f5b7, 0xf5720643, 0x07198540,
    0x590ab964, 0xab613a67, 0xb831c993, 0x4a5a4a90, 0x9e902e7b, 0x6cfbad78, 0x7fab5e8c, 0x8dc0dd8f,
    0xe330a81a, 0x115b2b19, 0x020bd8ed, 0xf0605bee, 0x24aa3f05, 0xd6c1bc06, 0xc5914ff2, 0x37faccf1,
    0x69e9f0d5, 0x9b8273d6, 0x88d28022, 0x7ab90321, 0xae7367ca, 0x5c18e4c9, 0x4f48173d, 0xbd23943e,
    0xf36e6f75, 0x0105ec76, 0x12551f82, 0xe03e9c81, 0x34f4f86a, 0xc69f7b69, 0xd5cf889d, 0x27a40b9e,
    0x79b737ba, 0x8bdcb4b9, 0x988c474d, 0x6ae7c44e, 0xbe2da0a5, 0x4c4623a6, 0x5f16d052, 0xad7d5351,
};

uint32_t record_crc_table(uint32_t crc, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;

    crc = ~crc;
    for (size_t i = 0; i < size; i++)
        crc = crc >> 8 ^ crc_table[(crc ^ at[i]) & 0xff];
    return ~crc;
}

#if defined(__x86_64__)

__attribute__((target("sse4.2"))) static uint32_t crc_native(uint32_t crc, const uint8_t *at,
                                                             size_t size)
{
    uint64_t wide = ~crc;

    for (; size >= 8; at += 8, size -= 8)
        wide = _mm_crc32_u64(wide, load64(at));
    for (crc = (uint32_t)wide; size > 0; at++, size--)
        crc = _mm_crc32_u8(crc, *at);
    return ~crc;
}

static bool crc_is_native(void)
{
    return __builtin_cpu_supports("sse4.2");
}

#elif defined(__ARM_FEATURE_CRC32)

static uint32_t crc_native(uint32_t crc, const uint8_t *at, size_t size)
{
    for (crc = ~crc; size >= 8; at += 8, size -= 8)
        crc = __crc32cd(crc, load64(at));
    for (; size > 0; at++, size--)
        crc = __crc32cb(crc, *at);
    return ~crc;
}

static bool crc_is_native(void)
{
    return true;
}

#else

static uint32_t crc_native(uint32_t crc, const uint8_t *at, size_t size)
{
    return record_crc_table(crc, at, size);
}

static bool crc_is_native(void)
{
    return false;
}

#endif

uint32_t record_crc(uint32_t crc, const void *bytes, size_t size)
{
    return crc_is_native() ? crc_native(crc, bytes, size) : record_crc_table(crc, bytes, size);
}

/* ---- Words ---- */

const char *record_outcome_name(int outcome)
{
    switch (outcome) {
    case RECORD_OK:
        return "it is good";
    case RECORD_E_EMPTY:
        return "nothing but zeros";
    case RECORD_E_GENERATION:
        return "what stands there is not of this generation of the segment";
    case RECORD_E_POSITION:
        return "what stands there belongs to another place";
    case RECORD_E_LENGTH:
        return "its length cannot be";
    case RECORD_E_CHECKSUM:
        return "its checksum does not fit";
    case RECORD_E_LAYOUT:
        return "it is of another version";
    default:
        return "it is not understood";
    }
}

const char *record_kind_name(unsigned kind)
{
    static const char *const names[] = {
        [RECORD_PUT] = "put",       [RECORD_KEPT] = "kept", [RECORD_GROUP] = "group",
        [RECORD_FILTER] = "filter", [RECORD_END] = "end",   [RECORD_MOVE] = "move",
        [RECORD_BEGIN] = "begin",   [RECORD_MARK] = "mark", [RECORD_VOID] = "void",
    };

    return kind >= RECORD_PUT && kind <= RECORD_VOID ? names[kind] : "unknown";
}

void record_segment_name(char out[RECORD_NAME_MAX], uint32_t slot)
{
    snprintf(out, RECORD_NAME_MAX, "%08u.mqj", slot % 100000000u);
}

/* ---- Segments ---- */

static bool all_zero(const uint8_t *bytes, size_t size)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, size - 1) == 0;
}

void record_put_header(uint8_t out[RECORD_HEADER_SIZE], const struct record_header *header)
{
    memset(out, 0, RECORD_HEADER_SIZE);
    store32(out + HEADER_MAGIC_AT, HEADER_MAGIC);
    store32(out + HEADER_LAYOUT, RECORD_LAYOUT);
    store64(out + HEADER_GENERATION, header->generation);
    store64(out + HEADER_OLDEST, header->oldest);
    store32(out + HEADER_SLOT, header->slot);
    store32(out + HEADER_SIZE, header->size);
    store32(out + HEADER_SEED, header->seed);
    store32(out + HEADER_CRC, record_crc(0, out, HEADER_CRC));
}

int record_get_header(const uint8_t bytes[RECORD_HEADER_SIZE], struct record_header *out)
{
    if (all_zero(bytes, RECORD_HEADER_SIZE))
        return RECORD_E_EMPTY;
    if (load32(bytes + HEADER_MAGIC_AT) != HEADER_MAGIC ||
        load32(bytes + HEADER_CRC) != record_crc(0, bytes, HEADER_CRC))
        return RECORD_E_CHECKSUM;
    if (load32(bytes + HEADER_LAYOUT) != RECORD_LAYOUT)
        return RECORD_E_LAYOUT;
    *out = (struct record_header){
        .generation = load64(bytes + HEADER_GENERATION),
        .oldest = load64(bytes + HEADER_OLDEST),
        .slot = load32(bytes + HEADER_SLOT),
        .size = load32(bytes + HEADER_SIZE),
        .seed = load32(bytes + HEADER_SEED),
    };
    if (out->generation == 0 || out->generation > UINT32_MAX || out->slot >= RECORD_SLOTS_MAX ||
        out->size < RECORD_SEGMENT_MIN || out->size > RECORD_SEGMENT_MAX ||
        out->size % RECORD_UNIT != 0)
        return RECORD_E_LENGTH;
    return RECORD_OK;
}

/* ---- Records ---- */

void record_put_head(uint8_t out[RECORD_HEAD_SIZE], const struct record *record,
                     const struct record_header *header, uint32_t offset, uint64_t synced)
{
    store32(out + HEAD_CRC, 0);
    store32(out + HEAD_LENGTH, RECORD_HEAD_SIZE + record->size);
    store64(out + HEAD_GENERATION, header->generation);
    store64(out + HEAD_POSITION, offset);
    store64(out + HEAD_SYNCED, synced);
    store64(out + HEAD_AGE, record->age);
    out[HEAD_KIND] = record->kind;
    out[HEAD_LEVEL] = record->level;
    out[HEAD_FLAGS] = record->flags;
    out[HEAD_TRIES] = record->tries;
    store32(out + HEAD_WHEN, record->when);
    store64(out + HEAD_OWNER, record->owner);
}

uint32_t record_crc_begin(const uint8_t head[RECORD_HEAD_SIZE], const struct record_header *header)
{
    uint32_t seed = JOURNAL_FAULT(JOURNAL_FAULT_NO_SEED) ? 0 : header->seed;

    return record_crc(seed, head + HEAD_LENGTH, RECORD_HEAD_SIZE - HEAD_LENGTH);
}

void record_put_crc(uint8_t head[RECORD_HEAD_SIZE], uint32_t crc)
{
    store32(head + HEAD_CRC, crc);
}

int record_get_head(const uint8_t head[RECORD_HEAD_SIZE], const struct record_header *header,
                    uint32_t offset, uint32_t limit, struct record *out)
{
    uint32_t length = load32(head + HEAD_LENGTH);

    if (load64(head + HEAD_GENERATION) != header->generation) {
        if (all_zero(head, RECORD_HEAD_SIZE))
            return RECORD_E_EMPTY;
        return RECORD_E_GENERATION;
    }
    if (load64(head + HEAD_POSITION) != offset)
        return RECORD_E_POSITION;
    if (length < RECORD_HEAD_SIZE || offset > limit || length > limit - offset)
        return RECORD_E_LENGTH;
    *out = (struct record){
        .age = load64(head + HEAD_AGE),
        .owner = load64(head + HEAD_OWNER),
        .when = load32(head + HEAD_WHEN),
        .kind = head[HEAD_KIND],
        .level = head[HEAD_LEVEL],
        .flags = head[HEAD_FLAGS],
        .tries = head[HEAD_TRIES],
        .size = length - RECORD_HEAD_SIZE,
    };
    return RECORD_OK;
}

uint64_t record_head_synced(const uint8_t head[RECORD_HEAD_SIZE])
{
    return load64(head + HEAD_SYNCED);
}

uint32_t record_head_crc(const uint8_t head[RECORD_HEAD_SIZE])
{
    return load32(head + HEAD_CRC);
}

int record_get(const uint8_t *segment, const struct record_header *header, uint32_t offset,
               uint32_t limit, struct record *out)
{
    const uint8_t *head = segment + offset;
    uint32_t crc;
    int outcome;

    if (offset > limit || limit - offset < RECORD_HEAD_SIZE)
        return RECORD_E_EMPTY;
    outcome = record_get_head(head, header, offset, limit, out);
    if (outcome != RECORD_OK)
        return outcome;
    out->bytes = head + RECORD_HEAD_SIZE;
    crc = record_crc(record_crc_begin(head, header), out->bytes, out->size);
    if (crc != record_head_crc(head) && !JOURNAL_FAULT(JOURNAL_FAULT_NO_CHECKSUM))
        return RECORD_E_CHECKSUM;
    return RECORD_OK;
}

uint64_t record_end_age(const struct record *record, uint32_t i)
{
    return load64(record->bytes + (size_t)i * sizeof(uint64_t));
}

void record_put_begin(uint8_t out[RECORD_BEGIN_SIZE], const struct record_begin *begin)
{
    store64(out + BEGIN_PREVIOUS, begin->previous);
    store64(out + BEGIN_BYTES, begin->bytes);
    store32(out + BEGIN_THINGS, begin->things);
    store32(out + BEGIN_END, begin->end);
    store32(out + BEGIN_START, begin->start);
    store32(out + BEGIN_INSTEAD, begin->instead);
}

int record_get_begin(const struct record *record, struct record_begin *out)
{
    if (record->size != RECORD_BEGIN_SIZE)
        return RECORD_E_LENGTH;
    *out = (struct record_begin){
        .previous = load64(record->bytes + BEGIN_PREVIOUS),
        .bytes = load64(record->bytes + BEGIN_BYTES),
        .things = load32(record->bytes + BEGIN_THINGS),
        .end = load32(record->bytes + BEGIN_END),
        .start = load32(record->bytes + BEGIN_START),
        .instead = load32(record->bytes + BEGIN_INSTEAD),
    };
    return RECORD_OK;
}
