/* Reading a journal by places: a segment that is written by hand, and what is no record there. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/record.h"
#include "tools/stored.h"

enum { SLOT = 3, OFFSET = 4096, AGE = 77 };

static const char payload[] =
    "the payload of a message, longer than a unit of the journal is by far";

struct fixture {
    char directory[32];
    char folder[64];
    char path[96];
    int fd; /* the segment */
    struct stored stored;
};

static void write_record(const struct fixture *f, const struct record *record)
{
    const struct record_header header = {
        .generation = 9, .oldest = 1, .slot = SLOT, .size = RECORD_SEGMENT_MIN, .seed = 12345};
    uint8_t bytes[RECORD_HEADER_SIZE], head[RECORD_HEAD_SIZE];

    record_put_header(bytes, &header);
    assert_int_equal(pwrite(f->fd, bytes, sizeof bytes, 0), sizeof bytes);
    record_put_head(head, record, &header, OFFSET, 0);
    record_put_crc(head, record_crc(record_crc_begin(head, &header), record->bytes, record->size));
    assert_int_equal(pwrite(f->fd, head, sizeof head, OFFSET), sizeof head);
    assert_int_equal(pwrite(f->fd, record->bytes, record->size, OFFSET + RECORD_HEAD_SIZE),
                     record->size);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char name[RECORD_NAME_MAX];

    assert_non_null(f);
    strcpy(f->directory, "/tmp/test-stored-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->folder, sizeof f->folder, "%s/one", f->directory);
    assert_int_equal(mkdir(f->folder, 0700), 0);
    record_segment_name(name, SLOT);
    snprintf(f->path, sizeof f->path, "%s/%s", f->folder, name);
    f->fd = open(f->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(f->fd >= 0);
    assert_int_equal(ftruncate(f->fd, RECORD_SEGMENT_MIN), 0);
    write_record(f, &(struct record){.age = AGE,
                                     .kind = RECORD_PUT,
                                     .level = 8,
                                     .size = sizeof payload,
                                     .bytes = (const uint8_t *)payload});
    assert_int_equal(stored_open(&f->stored, "one", f->directory, 0), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    stored_close(&f->stored);
    close(f->fd);
    unlink(f->path);
    rmdir(f->folder);
    rmdir(f->directory);
    free(f);
    return 0;
}

static int try_read(const struct fixture *f, uint32_t location, uint64_t age)
{
    struct record record;
    int r = stored_read(&f->stored, location, age, &record);

    free((void *)(uintptr_t)record.bytes);
    return r;
}

static void a_record_is_read_whole(void **state)
{
    struct fixture *f = *state;
    struct record record;

    assert_int_equal(stored_read(&f->stored, record_location(SLOT, OFFSET), AGE, &record), 0);
    assert_int_equal(record.size, sizeof payload);
    assert_string_equal((const char *)record.bytes, payload);
    assert_int_equal(record.level, 8);
    free((void *)(uintptr_t)record.bytes);
}

static void what_is_not_that_thing_is_not_handed_out(void **state)
{
    struct fixture *f = *state;
    uint32_t location = record_location(SLOT, OFFSET);
    uint64_t age = AGE;

    assert_int_equal(try_read(f, location, AGE + 1), -EBADMSG);
    assert_int_equal(try_read(f, record_location(SLOT, OFFSET + RECORD_UNIT), AGE), -EBADMSG);
    assert_int_equal(try_read(f, record_location(SLOT, RECORD_SEGMENT_MIN), AGE), -EBADMSG);
    assert_int_equal(try_read(f, record_location(SLOT + 1, OFFSET), AGE), -ENOENT);
    write_record(
        f, &(struct record){
               .age = AGE, .kind = RECORD_END, .size = sizeof age, .bytes = (const uint8_t *)&age});
    assert_int_equal(try_read(f, location, AGE), -EBADMSG);
}

static void what_is_damaged_is_not_handed_out(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(pwrite(f->fd, "T", 1, OFFSET + RECORD_HEAD_SIZE), 1);
    assert_int_equal(try_read(f, record_location(SLOT, OFFSET), AGE), -EBADMSG);
    assert_int_equal(pwrite(f->fd, "", 1, 0), 1);
    assert_int_equal(try_read(f, record_location(SLOT, OFFSET), AGE), -EBADMSG);
    assert_int_equal(ftruncate(f->fd, 100), 0);
    assert_int_equal(try_read(f, record_location(SLOT, OFFSET), AGE), -EBADMSG);
}

/* This process has a segment open, as a broker has. */
static void the_journal_of_a_process_is_found_by_what_it_has_open(void **state)
{
    struct fixture *f = *state;
    struct stored found;

    assert_int_equal(stored_open(&found, "one", NULL, (uint32_t)getpid()), 0);
    stored_close(&f->stored);
    f->stored = found;
    assert_int_equal(try_read(f, record_location(SLOT, OFFSET), AGE), 0);
    assert_int_equal(stored_open(&found, "other", NULL, (uint32_t)getpid()), -ENOENT);
    assert_int_equal(found.folder, -1);
    assert_int_equal(stored_open(&found, "other", f->directory, 0), -ENOENT);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_record_is_read_whole),
        TEST(what_is_not_that_thing_is_not_handed_out),
        TEST(what_is_damaged_is_not_handed_out),
        TEST(the_journal_of_a_process_is_found_by_what_it_has_open),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
