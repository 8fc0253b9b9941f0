/* The journal, case by case: what it finds after damage and forgery, how it reads payloads, what it
 * does when it is full. The disk is a fake one (tests/support/fake_disk.h), and the test does the
 * helper's work by hand; only the last case has real files and a real thread. Crashes at any
 * moment are the matter of test-journal-crashes. */
#include <errno.h>
#include <poll.h>
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

#include "broker/journal-fault.h"
#include "broker/journal-state.h"
#include "broker/journal.h"
#include "tests/support/fake_disk.h"
#include "tests/support/journal-model.h"

static struct model model; /* of the case that runs */

/* Do all there is to do, and take it. */
static void settle(void)
{
    do
        journal_collect(model.journal, model_take_event, &model);
    while (scribe_work(&model.journal->scribe));
    journal_collect(model.journal, model_take_event, &model);
}

static void begin_case(enum journal_sync sync)
{
    model_init(&model);
    fake_pool_size = FAKE_POOL_SIZE;
    fake_disk_mount(NULL, NULL, 1);
    assert_true(model_open(&model, sync, true, NULL));
    settle();
}

/* A message of `size` bytes, and `pooled` more that are in the pool at `offset`. */
static void put_pooled(uint32_t size, uint32_t offset, uint32_t pooled)
{
    struct journal_source source = {.fd = FAKE_POOL, .offset = offset, .size = pooled};
    struct model_thing *t = &model.things[++model.n_things];

    *t = (struct model_thing){.size = size + pooled,
                              .kind = RECORD_PUT,
                              .owner = 100,
                              .pool = pooled,
                              .pool_offset = offset,
                              .lost = offset + pooled > fake_pool_size};
    model_make_bytes(&model, model.n_things);
    assert_int_equal(
        model_append(&model, model.n_things, pooled > 0 ? &source : NULL, size, JOURNAL_NEW), 0);
    t->put = journal_appended(model.journal);
}

static void put_message(uint32_t size)
{
    put_pooled(size, 0, 0);
}

static void unmount(void)
{
    struct fake_log log;

    fake_disk_unmount(&log);
    fake_log_deinit(&log);
}

/* Read it, and say how many things there are; damages are counted. */
static unsigned read_image(struct fake_image *crashed)
{
    fake_disk_mount(crashed, NULL, 1);
    assert_true(model_open(&model, JOURNAL_ALWAYS, true, crashed));
    model.journal = journal_close(model.journal);
    unmount();
    return model.n_found;
}

static struct fake_file *file_of_thing(struct fake_image *crashed, unsigned age)
{
    char name[RECORD_NAME_MAX];

    record_segment_name(name, record_slot(model_location(&model.things[age])));
    return fake_image_find(crashed, name);
}

static void close_cleanly(struct fake_image *out)
{
    struct fake_log log;
    struct fake_replay replay;

    model.journal = journal_close(model.journal);
    fake_disk_unmount(&log);
    fake_replay_init(&replay, &log, NULL);
    while (replay.at < log.n)
        fake_replay_step(&replay);
    fake_replay_crash(&replay, FAKE_NOTHING, 1, out);
    fake_replay_deinit(&replay);
    fake_log_deinit(&log);
}

/* ---- Damage and forgery ---- */

static void J1_damage_is_named_and_the_rest_is_served(void **state)
{
    struct fake_image left;
    char name[RECORD_NAME_MAX];

    (void)state;
    begin_case(JOURNAL_ALWAYS);
    for (unsigned i = 0; i < 300; i++) {
        put_message(200 + i);
        journal_commit(model.journal);
        settle();
    }
    close_cleanly(&left);
    for (unsigned age = 1; age <= model.n_things; age += 37) {
        uint8_t *byte = file_of_thing(&left, age)->bytes +
                        record_offset(model_location(&model.things[age])) + age % 200;

        *byte ^= 0x10;
        assert_int_equal(read_image(&left), model.n_things - 1);
        assert_false(model.found[age].here);
        assert_int_equal(model.n_damages, 1);
        record_segment_name(name, record_slot(model_location(&model.things[age])));
        assert_non_null(strstr(model.last_damage, name));
        journal_fault = JOURNAL_FAULT_NO_SYNCED; /* all behind it is cut */
        read_image(&left);
        assert_true(model.n_damages == 0 && model.n_found < age);
        journal_fault = JOURNAL_FAULT_NONE;
        *byte ^= 0x10;
    }
    assert_int_equal(read_image(&left), model.n_things);
    assert_string_equal(model.wrong, "");
    fake_image_deinit(&left);
}

/* A journal with one thing in it, after a clean end. */
static void leave_one_message(struct fake_image *left)
{
    begin_case(JOURNAL_ALWAYS);
    put_message(100);
    journal_commit(model.journal);
    settle();
    close_cleanly(left);
}

static void damage_to_the_last_commit_before_a_clean_end_is_no_torn_tail(void **state)
{
    struct fake_image left;

    (void)state;
    leave_one_message(&left);
    file_of_thing(&left, 1)->bytes[record_offset(model_location(&model.things[1])) + 60] ^= 1;
    assert_int_equal(read_image(&left), 0);
    assert_int_equal(model.n_damages, 1);
    assert_string_equal(model.wrong, "");
    fake_image_deinit(&left);
}

static void header_that_is_damaged_is_read_from_its_copy(void **state)
{
    struct fake_image left;
    struct fake_file *file;

    (void)state;
    leave_one_message(&left);
    file = file_of_thing(&left, 1);
    file->bytes[9] ^= 1;
    assert_int_equal(read_image(&left), 1);
    assert_int_equal(model.n_damages, 0);
    file->bytes[MODEL_SEGMENT - RECORD_HEADER_SIZE + 9] ^= 1;
    assert_int_equal(read_image(&left), 0);
    assert_true(model.n_damages > 0);
    assert_string_equal(model.wrong, "");
    fake_image_deinit(&left);
}

static void segment_that_is_missing_is_named(void **state)
{
    struct fake_image left;

    (void)state;
    begin_case(JOURNAL_ALWAYS);
    while (model.n_things < 60) {
        put_message(3000);
        journal_commit(model.journal);
        settle();
    }
    close_cleanly(&left);
    assert_int_not_equal(record_slot(model_location(&model.things[30])),
                         record_slot(model_location(&model.things[1])));
    file_of_thing(&left, 30)->exists = false;
    assert_true(read_image(&left) < model.n_things);
    assert_int_equal(model.n_damages, 1);
    assert_non_null(strstr(model.last_damage, "missing"));
    assert_string_equal(model.wrong, "");
    fake_image_deinit(&left);
}

/* The image `beyond` operations after the note of that number. */
static void crash_after_note(uint64_t note, unsigned beyond, const struct fake_image *begin,
                             struct fake_image *out)
{
    struct fake_log log;
    struct fake_replay replay;

    fake_disk_unmount(&log);
    fake_replay_init(&replay, &log, begin);
    while (log.ops[replay.at].type != FAKE_NOTE || log.ops[replay.at].note[0] != note)
        fake_replay_step(&replay);
    for (unsigned i = 0; i < 1 + beyond; i++)
        fake_replay_step(&replay);
    fake_replay_crash(&replay, FAKE_EVERYTHING, 1, out);
    fake_replay_deinit(&replay);
    fake_log_deinit(&log);
}

enum { NOTE_HERE = 77 };

/* A client knows where its payload will lie, and fills it with a record for that place, all of it
 * right but for the seed, which it takes for 0. The process is killed when that payload is written,
 * but not yet the head of its record. Returns the offset of the forgery in its segment. */
static uint32_t forge(struct fake_image *killed)
{
    struct record forged = {.age = 3, .owner = 100, .kind = RECORD_PUT, .size = 100};
    struct record_header header;
    uint8_t *head = fake_pool + 1024 - RECORD_HEAD_SIZE;
    uint32_t offset;

    begin_case(JOURNAL_ALWAYS);
    put_message(100);
    journal_commit(model.journal);
    settle();
    offset = journal_current(model.journal)->end + 1024;
    header = journal_current(model.journal)->header;
    header.seed = 0;
    memset(head + RECORD_HEAD_SIZE, 'x', forged.size);
    record_put_head(head, &forged, &header, offset, 0);
    record_put_crc(
        head, record_crc(record_crc_begin(head, &header), head + RECORD_HEAD_SIZE, forged.size));
    put_pooled(0, 0, 4900); /* in pieces, its head last */
    journal_commit(model.journal);
    fake_disk_note(NOTE_HERE, 0, 0);
    settle();
    model.journal = journal_close(model.journal);
    crash_after_note(NOTE_HERE, 2, NULL, killed);
    return offset;
}

/* The next process writes over the front of that payload, up to where the forgery begins. How many
 * things are there after a power loss? */
static unsigned things_after_forgery(enum journal_fault fault)
{
    struct fake_image killed, left;
    uint32_t offset;
    unsigned n;

    journal_fault = fault;
    offset = forge(&killed);
    journal_fault = fault;
    fake_disk_mount(&killed, NULL, 1);
    assert_true(model_open(&model, JOURNAL_ALWAYS, false, &killed));
    assert_true(journal_current(model.journal)->end < offset);
    model.n_things = 1;
    put_message(offset - journal_current(model.journal)->end - RECORD_HEAD_SIZE);
    journal_commit(model.journal);
    scribe_work(&model.journal->scribe);
    fake_disk_note(NOTE_HERE, 0, 0);
    model.journal = journal_close(model.journal);
    crash_after_note(NOTE_HERE, 0, &killed, &left);
    model.n_things = 3; /* the forged one, should it be believed */
    n = read_image(&left);
    journal_fault = JOURNAL_FAULT_NONE;
    fake_image_deinit(&left);
    fake_image_deinit(&killed);
    return n;
}

static void J1_payload_cannot_pretend_to_be_a_record(void **state)
{
    (void)state;
    assert_int_equal(things_after_forgery(JOURNAL_FAULT_NONE), 2);
    assert_int_equal(things_after_forgery(JOURNAL_FAULT_NO_SEED), 3); /* so the forgery is one */
}

/* ---- Payloads that are read together ---- */

enum { ROW = 12, ROW_STEP = 40, ROW_PAYLOAD = 30 };

static void fill_pool(uint8_t with)
{
    for (uint32_t i = 0; i < FAKE_POOL_SIZE; i++)
        fake_pool[i] = (uint8_t)(with + i * 7 + i / 256);
}

/* The message whose payload is number `i` of the row. */
static void put_of_row(unsigned i)
{
    put_pooled(20, 1000 + i * ROW_STEP, ROW_PAYLOAD);
}

/* All that was put is there as it was, but for what is lost. */
static void expect_all_but(unsigned lost)
{
    struct fake_image left;

    close_cleanly(&left);
    assert_int_equal(read_image(&left), model.n_things - lost);
    for (unsigned age = 1; age <= model.n_things; age++)
        assert_true(model.found[age].here != model.things[age].lost);
    assert_string_equal(model.wrong, "");
    fake_image_deinit(&left);
}

static void payloads_beside_each_other_are_read_together_in_either_order(void **state)
{
    (void)state;
    for (int down = 0; down < 2; down++) {
        uint64_t before;

        begin_case(JOURNAL_ALWAYS);
        fill_pool(1);
        before = fake_pool_reads;
        for (unsigned i = 0; i < ROW; i++)
            put_of_row(down ? ROW - 1 - i : i);
        journal_commit(model.journal);
        settle();
        assert_true(fake_pool_reads - before <= ROW / 4);
        expect_all_but(0);
    }
}

static void payload_that_has_gone_is_lost_alone(void **state)
{
    static const unsigned orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {0, 3, 2, 1}, {1, 3, 0, 2}};

    (void)state;
    for (size_t k = 0; k < sizeof(orders) / sizeof(*orders); k++) {
        begin_case(JOURNAL_ALWAYS);
        fill_pool(1);
        fake_pool_size = 1000 + 3 * ROW_STEP + ROW_PAYLOAD / 2;
        model.n_lost = 0;
        for (unsigned i = 0; i < 4; i++)
            put_of_row(orders[k][i]);
        journal_commit(model.journal);
        settle();
        assert_int_equal(model.n_lost, 1);
        expect_all_but(1);
    }
}

/* Who publishes may say what he likes. */
static void payloads_that_overlap_arrive_whole(void **state)
{
    (void)state;
    begin_case(JOURNAL_ALWAYS);
    fill_pool(1);
    put_pooled(20, 1000, 30);
    put_pooled(20, 1040, 30);
    put_pooled(20, 990, 30);
    put_pooled(20, 1000, 30);
    put_pooled(20, 1040, 30);
    put_pooled(20, 1050, 30);
    put_pooled(20, 980, 100);
    journal_commit(model.journal);
    settle();
    expect_all_but(0);
}

/* A message is moved within the journal, and its place there is between those of two payloads in
 * their pool. */
static void payload_comes_from_its_own_file(void **state)
{
    struct journal_source source = {.fd = -1, .offset = 20, .size = 80};
    uint32_t place;

    (void)state;
    begin_case(JOURNAL_ALWAYS);
    fill_pool(1);
    put_message(100);
    journal_commit(model.journal);
    settle();
    source.location = model_location(&model.things[1]);
    place = record_offset(source.location) + RECORD_HEAD_SIZE + 20;
    put_pooled(20, place - 30, 30);
    put_pooled(20, place + 80, 30);
    model_make_bytes(&model, 1);
    assert_int_equal(model_append(&model, 1, &source, 20, JOURNAL_RESERVED), 0);
    journal_drop(model.journal, source.location);
    journal_commit(model.journal);
    settle();
    expect_all_but(0);
}

/* A place that came back is filled anew. */
static void payload_is_what_lies_there_when_its_message_is_committed(void **state)
{
    (void)state;
    begin_case(JOURNAL_ALWAYS);
    for (uint8_t round = 1; round <= 3; round++) {
        fill_pool(round);
        for (unsigned i = 0; i < 4; i++)
            put_of_row(i);
        journal_commit(model.journal);
        settle();
    }
    expect_all_but(0);
}

/* ---- What is refused ---- */

static void full_journal_refuses_what_is_new_and_takes_ends(void **state)
{
    const char *sentence;
    uint64_t age = 1;

    (void)state;
    begin_case(JOURNAL_ALWAYS);
    while (model.n_things < 1000) {
        unsigned next = model.n_things + 1;

        model.things[next] = (struct model_thing){.size = 2000, .kind = RECORD_PUT, .owner = 100};
        model_make_bytes(&model, next);
        if (model_append(&model, next, NULL, 2000, JOURNAL_NEW) < 0)
            break;
        model.n_things = next;
        journal_commit(model.journal);
        settle();
    }
    assert_true(model.n_things > 100 && model.n_things < 250);
    assert_int_equal(journal_trouble(model.journal, &sentence), -ENOSPC);
    assert_non_null(strstr(sentence, "full"));
    for (; age <= model.n_things; age++) {
        assert_int_equal(model_end(&model, &age, 1), 0);
        journal_commit(model.journal);
        settle();
    }
    put_message(2000);
    assert_int_equal(journal_trouble(model.journal, &sentence), 0);
    assert_null(sentence);
    model.journal = journal_close(model.journal);
    unmount();
}

static void settings_that_cannot_be_are_refused_with_a_sentence(void **state)
{
    struct journal_settings settings = model_settings(JOURNAL_ALWAYS);
    char sentence[JOURNAL_SENTENCE];
    struct journal *j;

    (void)state;
    settings.segment_size = 100000;
    assert_int_equal(journal_open(&j, &settings, sentence), -EINVAL);
    assert_non_null(strstr(sentence, "journal_segment"));
    settings.segment_size = MODEL_SEGMENT;
    settings.total_size = 4 * MODEL_SEGMENT;
    assert_int_equal(journal_open(&j, &settings, sentence), -EINVAL);
    assert_non_null(strstr(sentence, "journal_size"));
    assert_null(j);
}

/* ---- Real files, a real thread ---- */

static char real_directory[64];

static struct journal_settings real_settings(enum journal_sync sync)
{
    struct journal_settings settings = model_settings(sync);

    settings.directory = real_directory;
    settings.files = NULL;
    return settings;
}

static void wait_until_done(uint64_t number)
{
    struct pollfd ready = {.fd = journal_fd(model.journal), .events = POLLIN};

    while (journal_done(model.journal) < number) {
        journal_commit(model.journal);
        assert_int_equal(poll(&ready, 1, 20000), 1);
        journal_collect(model.journal, model_take_event, &model);
    }
}

static void fail_at_damage(void *context, const char *sentence)
{
    (void)context;
    fail_msg("%s", sentence);
}

static int count_thing(void *context, const struct record *record, uint32_t location)
{
    (void)record;
    (void)location;
    ++*(unsigned *)context;
    return 0;
}

static void real_journal_keeps_what_was_confirmed(void **state)
{
    char sentence[JOURNAL_SENTENCE], path[128], command[160];
    unsigned n = 0;
    struct journal_reader reader = {count_thing, fail_at_damage, &n};
    struct journal_settings settings;
    struct journal *other;
    struct stat status;
    uint64_t highest;

    (void)state;
    journal_by_hand = false;
    snprintf(real_directory, sizeof(real_directory), "/tmp/test-journal-%d", getpid());
    settings = real_settings(JOURNAL_ALWAYS);
    assert_int_equal(journal_open(&model.journal, &settings, sentence), -ENOENT);
    assert_non_null(strstr(sentence, real_directory));
    assert_int_equal(mkdir(real_directory, 0700), 0);
    model_init(&model);
    for (enum journal_sync sync = JOURNAL_ALWAYS; sync <= JOURNAL_NEVER; sync++) {
        settings = real_settings(sync);
        n = 0;
        assert_int_equal(journal_open(&model.journal, &settings, sentence), 0);
        assert_int_equal(journal_open(&other, &settings, sentence), -EWOULDBLOCK);
        assert_int_equal(journal_scan(model.journal, &reader, &highest, sentence), 0);
        assert_int_equal(n, model.n_things);
        assert_int_equal(highest, model.n_things);
        for (unsigned i = 0; i < 50; i++) {
            put_message(300);
            if (i % 5 == 0)
                wait_until_done(journal_appended(model.journal));
        }
        wait_until_done(journal_appended(model.journal));
        model.journal = journal_close(model.journal);
    }
    snprintf(path, sizeof(path), "%s/test", real_directory);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0700);
    assert_int_equal(chmod(path, 0777), 0);
    assert_int_equal(journal_open(&model.journal, &settings, sentence), -EPERM);
    snprintf(command, sizeof(command), "rm -r %s", real_directory);
    assert_int_equal(system(command), 0);
    journal_by_hand = true;
    unmount();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(J1_damage_is_named_and_the_rest_is_served),
        cmocka_unit_test(damage_to_the_last_commit_before_a_clean_end_is_no_torn_tail),
        cmocka_unit_test(header_that_is_damaged_is_read_from_its_copy),
        cmocka_unit_test(segment_that_is_missing_is_named),
        cmocka_unit_test(J1_payload_cannot_pretend_to_be_a_record),
        cmocka_unit_test(payloads_beside_each_other_are_read_together_in_either_order),
        cmocka_unit_test(payload_that_has_gone_is_lost_alone),
        cmocka_unit_test(payloads_that_overlap_arrive_whole),
        cmocka_unit_test(payload_comes_from_its_own_file),
        cmocka_unit_test(payload_is_what_lies_there_when_its_message_is_committed),
        cmocka_unit_test(full_journal_refuses_what_is_new_and_takes_ends),
        cmocka_unit_test(settings_that_cannot_be_are_refused_with_a_sentence),
        cmocka_unit_test(real_journal_keeps_what_was_confirmed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
