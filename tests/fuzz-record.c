/* Fuzz target: any bytes as the files of a journal. The input is cut into segments; the first bytes
 * of each may be given good headers and checksums, so that more than the checks of those is
 * reached. Besides memory safety it holds that
 *
 *   - a record that is good lies within its segment, and put again gives the same bytes;
 *   - whatever the files are, reading them ends, hands out only good records, in order, and what
 *     lives is among them. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "broker/history.h"
#include "broker/record.h"
#include "broker/survivors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SEGMENTS = 3, SIZE = RECORD_SEGMENT_MIN };

struct disk {
    uint8_t bytes[SEGMENTS][SIZE];
    struct history_segment segments[SEGMENTS];
    struct survivors survivors;
    uint64_t last; /* position of the last record */
    uint64_t n_records;
};

static void must(bool condition)
{
    if (!condition)
        abort();
}

static int load(void *context, uint32_t slot, uint32_t offset, uint32_t size, uint8_t *to)
{
    const struct disk *disk = context;

    must(slot < SEGMENTS && offset <= SIZE && size <= SIZE - offset);
    memcpy(to, disk->bytes[slot] + offset, size);
    return 0;
}

static void check_record(const uint8_t *segment, const struct record_header *header,
                         uint32_t offset, uint32_t limit)
{
    uint8_t head[RECORD_HEAD_SIZE];
    struct record record;

    if (record_get(segment, header, offset, limit, &record) != RECORD_OK)
        return;
    must(record.bytes == segment + offset + RECORD_HEAD_SIZE);
    must(record.size <= limit - offset - RECORD_HEAD_SIZE);
    record_put_head(head, &record, header, offset, record_head_synced(segment + offset));
    record_put_crc(head, record_crc(record_crc_begin(head, header), record.bytes, record.size));
    must(memcmp(head, segment + offset, sizeof(head)) == 0);
}

static int take_record(void *context, const struct history_segment *segment, uint32_t offset,
                       const struct record *record)
{
    struct disk *disk = context;
    uint64_t position = record_position(segment->header.generation, offset);
    uint32_t slot = segment->header.slot;

    must(position > disk->last);
    disk->last = position;
    disk->n_records++;
    must(segment->role == HISTORY_PART);
    check_record(disk->bytes[slot], &segment->header, offset, SIZE);
    return survivors_record(&disk->survivors, record, record_location(slot, offset));
}

static void take_damage(void *context, const struct history_damage *damage)
{
    char sentence[160];

    (void)context;
    must(damage->slot == RECORD_SLOTS_MAX ||
         (damage->slot < SEGMENTS && damage->offset < SIZE && damage->size <= SIZE));
    history_sentence(sentence, sizeof(sentence), damage);
    must(sentence[0] != '\0');
}

/* From each 24 bytes of input a record, with everything right but what the input has changed. */
static void write_records(struct disk *disk, const uint8_t *data, size_t size)
{
    uint32_t offset[SEGMENTS] = {RECORD_HEADER_SIZE, RECORD_HEADER_SIZE, RECORD_HEADER_SIZE};

    for (; size >= 24; data += 24, size -= 24) {
        uint32_t slot = data[0] % SEGMENTS;
        const struct record_header *header = &disk->segments[slot].header;
        uint8_t *head = disk->bytes[slot] + offset[slot];
        struct record record = {
            .kind = data[1] % (RECORD_VOID + 2),
            .tries = data[2],
            .age = data[3],
            .owner = data[4],
            .size = data[5],
            .bytes = head + RECORD_HEAD_SIZE,
        };
        uint64_t synced = (uint64_t)data[6] << 32 | (uint64_t)data[7] << 8;

        if (offset[slot] + record_room(record.size) > SIZE - RECORD_HEADER_SIZE)
            continue;
        for (uint32_t i = 0; i < record.size; i++)
            head[RECORD_HEAD_SIZE + i] = data[8 + i % 16];
        if (record.kind == RECORD_BEGIN && record.size >= RECORD_BEGIN_SIZE) {
            struct record_begin begin = {.previous = data[8],
                                         .end = data[9] * 256u,
                                         .start = data[10] * 64u,
                                         .instead = data[11]};

            record.size = RECORD_BEGIN_SIZE;
            record_put_begin(head + RECORD_HEAD_SIZE, &begin);
        }
        record_put_head(head, &record, header, offset[slot], synced);
        record_put_crc(head, record_crc(record_crc_begin(head, header), record.bytes, record.size));
        if (data[23] % 8 == 0) /* damaged */
            head[data[22] % RECORD_HEAD_SIZE] ^= data[21];
        offset[slot] += record_room(record.size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct disk disk;
    const struct history_reader reader = {load, take_record, take_damage, &disk};
    struct record_header header;

    if (size < RECORD_HEADER_SIZE)
        return 0;
    if (record_get_header(data, &header) == RECORD_OK)
        must(header.size >= RECORD_SEGMENT_MIN && header.slot < RECORD_SLOTS_MAX);
    memset(&disk, 0, sizeof(disk));
    survivors_init(&disk.survivors);
    for (uint32_t i = 0; i < SEGMENTS; i++)
        disk.segments[i].header = (struct record_header){
            .generation = 1 + (data[i] + i) % 5u * SEGMENTS + i,
            .oldest = data[8 + i] % 4,
            .slot = i,
            .size = SIZE,
            .seed = data[16 + i],
        };
    write_records(&disk, data + 24, size - 24);
    if (data[23] % 2 == 0) /* and some of it as it is */
        memcpy(disk.bytes[data[22] % SEGMENTS] + 64u * data[21], data,
               size < SIZE / 2 ? size : SIZE / 2);
    must(history_read(disk.segments, SEGMENTS, data[20] % 2 ? HISTORY_ALL : HISTORY_LAST,
                      &reader) == 0);
    must(survivors_settle(&disk.survivors) == 0);
    must(disk.survivors.n <= disk.n_records);
    for (size_t i = 1; i < disk.survivors.n; i++)
        must(disk.survivors.list[i - 1].age < disk.survivors.list[i].age);
    survivors_deinit(&disk.survivors);
    return 0;
}
