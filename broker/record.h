/* The bytes of the journal: headers of its segments, and records. Pure: bytes in, a view or an
 * outcome out; docs/journal.md has every byte of it. Floor 0.
 *
 * A segment is a file: a header of 64 bytes, records, and the header once more in the last 64. A
 * record begins at a multiple of 64 and lies in one segment. It names the generation of its segment
 * and its own position, and its checksum begins with a number that only the segment's header
 * knows: what a segment held before it was used again, and what a payload pretends to be, is no
 * record (rule J1). */
#ifndef MQBROKER_BROKER_RECORD_H
#define MQBROKER_BROKER_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RECORD_LAYOUT = 1,
    RECORD_UNIT = 64,      /* records begin at multiples of it */
    RECORD_HEAD_SIZE = 56, /* of a record, before its bytes */
    RECORD_HEADER_SIZE = 64,
    RECORD_OFFSET_BITS = 20, /* of a location */
    RECORD_SEGMENT_MAX = RECORD_UNIT << RECORD_OFFSET_BITS,
    RECORD_SEGMENT_MIN = 64 << 10,
    RECORD_SLOTS_MAX = 2047, /* segments of a journal; slots count from 0 */
    RECORD_NAME_MAX = 16,    /* bytes of a segment's file name, with its NUL */
};

enum record_kind {
    /* Things: each has an age of its own, and lives until that is ended. */
    RECORD_PUT = 1,    /* a message of a group (owner): MESSAGE frame [payload] */
    RECORD_KEPT = 2,   /* a retained message: the same */
    RECORD_GROUP = 3,  /* a durable group: settings, name */
    RECORD_FILTER = 4, /* of a group (owner): its JOIN frame */
    /* What happens to them. */
    RECORD_END = 5,  /* bytes: ages of things that ended, u64 each */
    RECORD_MOVE = 6, /* the thing `age` has the owner `owner` from here on, and `tries` */
    /* The journal's own. */
    RECORD_BEGIN = 7, /* the first of a segment: struct record_begin */
    RECORD_MARK = 8,  /* nothing but its `synced`: at a clean end */
    RECORD_VOID = 9,  /* something that could not be written: its payload had gone */
};

static inline bool record_is_thing(unsigned kind)
{
    return kind >= RECORD_PUT && kind <= RECORD_FILTER;
}

/* What its writer says. The journal understands `kind` and `age`, and owner and tries of a MOVE;
 * all else it carries. It outlives the machine's clock since boot: `when` must be in one that does
 * too. */
struct record {
    uint64_t age;
    uint64_t owner; /* the group's age; 0: none */
    uint32_t when;
    uint8_t kind;
    uint8_t level;
    uint8_t flags;
    uint8_t tries;
    uint32_t size;        /* of its bytes, all of them */
    const uint8_t *bytes; /* NULL: they are not here */
};

/* Where a record lies: segment slot 11 | offset in units 20. Never 0, and below 2^31. */
static inline uint32_t record_location(uint32_t slot, uint32_t offset)
{
    return slot << RECORD_OFFSET_BITS | offset / RECORD_UNIT;
}
static inline uint32_t record_slot(uint32_t location)
{
    return location >> RECORD_OFFSET_BITS;
}
static inline uint32_t record_offset(uint32_t location)
{
    return (location & ((1u << RECORD_OFFSET_BITS) - 1)) * RECORD_UNIT;
}

/* Bytes that a record takes in its segment. `size` is at most RECORD_SEGMENT_MAX. */
static inline uint32_t record_room(uint32_t size)
{
    return (RECORD_HEAD_SIZE + size + RECORD_UNIT - 1) / RECORD_UNIT * RECORD_UNIT;
}

/* The largest `size` that fits a segment of so many bytes: beside its two headers and BEGIN. */
static inline uint32_t record_size_max(uint32_t segment_size)
{
    return segment_size - 2 * RECORD_HEADER_SIZE - 2 * RECORD_UNIT - RECORD_HEAD_SIZE;
}

/* The space for records that are to come: in order, none crosses from one segment into the next. */
struct record_space {
    uint32_t rest;     /* bytes of the segment that is written to */
    uint32_t segments; /* more of them; UINT32_MAX: as many as need be, in time */
    uint32_t segment;  /* the bytes in one; a record takes no more */
};

/* Take what a record of this size takes. False: there is not so much. */
static inline bool record_take_space(struct record_space *space, uint32_t size)
{
    uint32_t room = record_room(size);

    if (room > space->rest) {
        if (space->segments == 0)
            return false;
        space->segments -= space->segments < UINT32_MAX;
        space->rest = space->segment;
    }
    space->rest -= room;
    return true;
}

/* A place in the whole of the journal; later ones are greater. */
static inline uint64_t record_position(uint64_t generation, uint32_t offset)
{
    return generation << 32 | offset;
}

/* ---- Checksum ---- */

/* CRC-32C (Castagnoli) of `size` more bytes after those whose checksum is `crc`; 0 begins. The
 * processor's own instruction where there is one, a table beside it: record_crc_table() is that
 * alone, for the tests. */
uint32_t record_crc(uint32_t crc, const void *bytes, size_t size);
uint32_t record_crc_table(uint32_t crc, const void *bytes, size_t size);

/* ---- Segments ---- */

struct record_header {
    uint64_t generation; /* rises with each use of any segment; from 1 to 2^32 - 1 */
    uint64_t oldest;     /* when it was written, no older generation was needed */
    uint32_t slot;
    uint32_t size; /* of the file */
    uint32_t seed; /* random; with it the checksum of each record begins */
};

/* The first record of a segment: what was before it. Its head's age is the highest age that the
 * journal had seen. */
struct record_begin {
    uint64_t previous; /* generation of the segment before it; 0: it is the first one */
    uint64_t bytes;    /* that the things in that take */
    uint32_t things;   /* so many there are */
    uint32_t end;      /* where that ended: what lies there beyond is nothing */
    uint32_t start;    /* offset of the next record here */
    uint32_t instead;  /* 1 + slot, 0: none: what that had from `start` on is here instead */
};

enum { RECORD_BEGIN_SIZE = 32, RECORD_BEGIN_ROOM = 128 };

enum record_outcome {
    RECORD_OK = 0,
    RECORD_E_EMPTY,      /* zeros: nothing was ever written here */
    RECORD_E_GENERATION, /* not of this segment's generation (what it held before) */
    RECORD_E_POSITION,   /* of another place */
    RECORD_E_LENGTH,     /* does not fit */
    RECORD_E_CHECKSUM,
    RECORD_E_LAYOUT, /* a header that we do not know: of another version */
};

/* A phrase for people: "the checksum does not fit". Never NULL. */
const char *record_outcome_name(int outcome);
/* "put", "kept", …; "unknown". */
const char *record_kind_name(unsigned kind);

/* File name of a segment: "00000012.mqj". */
void record_segment_name(char out[RECORD_NAME_MAX], uint32_t slot);

void record_put_header(uint8_t out[RECORD_HEADER_SIZE], const struct record_header *header);
/* OK, EMPTY, CHECKSUM or LAYOUT. */
int record_get_header(const uint8_t bytes[RECORD_HEADER_SIZE], struct record_header *out);

/* ---- Records ---- */

/* The head of a record that lies in the segment of `header` at `offset`; `synced` is the last
 * position known to be synced. All but its checksum. */
void record_put_head(uint8_t out[RECORD_HEAD_SIZE], const struct record *record,
                     const struct record_header *header, uint32_t offset, uint64_t synced);

/* The checksum of a record is that of its head from the fifth byte on, then its bytes: begin, go on
 * with record_crc(), put it where it belongs. */
uint32_t record_crc_begin(const uint8_t head[RECORD_HEAD_SIZE], const struct record_header *header);
void record_put_crc(uint8_t head[RECORD_HEAD_SIZE], uint32_t crc);

/* A head by itself: EMPTY, GENERATION, POSITION, LENGTH or OK, which says nothing of its bytes.
 * `limit` is the offset behind the last byte that it may take. out->bytes is NULL. */
int record_get_head(const uint8_t head[RECORD_HEAD_SIZE], const struct record_header *header,
                    uint32_t offset, uint32_t limit, struct record *out);
uint64_t record_head_synced(const uint8_t head[RECORD_HEAD_SIZE]);
uint32_t record_head_crc(const uint8_t head[RECORD_HEAD_SIZE]);

/* The record at `offset` of a segment that lies in memory from `segment` on, up to `limit`:
 * out->bytes points into it. Any outcome but LAYOUT; EMPTY also when no head fits before `limit`.
 * `offset` is a multiple of RECORD_UNIT. */
int record_get(const uint8_t *segment, const struct record_header *header, uint32_t offset,
               uint32_t limit, struct record *out);

/* The i-th age of an END; there are size / 8. */
uint64_t record_end_age(const struct record *record, uint32_t i);

void record_put_begin(uint8_t out[RECORD_BEGIN_SIZE], const struct record_begin *begin);
/* OK or LENGTH. */
int record_get_begin(const struct record *record, struct record_begin *out);

#endif
