/* mqctl journal on a journal that a real broker wrote and something damaged since: check names each
 * place and says so by its exit status, dump shows the rest, and a broker that is started on it
 * serves what dump shows and reports what check has said (rule J1). */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/record.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"
#include "tests/support/must.h"
#include "tests/support/tool.h"

enum {
    MESSAGES = 200, /* over several segments */
    SIZE = 1000,
    SEGMENT = 64 << 10,
    MIDDLE = 30, /* a message that has others before and behind it in its segment, the first */
};

static const char config[] = "max_clients = 4;\nqueue_depth = 4;\npool_max = \"1M\";\n"
                             "references = 32768;\n"
                             "journal_segment = \"64K\";\njournal_size = \"1M\";\n";

static struct tool ctl;

static int setup(void **state)
{
    int r = daemon_setup(state);

    ctl = (struct tool){.in = -1, .out = -1, .err = -1};
    if (r == 0)
        setenv("MQBROKER_INSTANCE", ((struct daemon *)*state)->instance, 1);
    return r;
}

static int teardown(void **state)
{
    tool_discard(&ctl);
    return daemon_teardown(state);
}

/* Run a verb of mqctl journal to its end; its exit status. */
static int journal(const struct daemon *d, const char *verb)
{
    TOOL(&ctl, "mqctl", "journal", verb, d->journal.path);
    return tool_wait(&ctl);
}

/* ---- A journal ---- */

/* Where the record of a message begins. */
struct place {
    char file[RECORD_NAME_MAX];
    uint32_t offset;
};

static struct place places[MESSAGES];
static bool lost[MESSAGES]; /* they are not there any more */

static void publish_all(const struct daemon *d)
{
    struct mqc *client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    char payload[SIZE] = "";
    int64_t numbers[MESSAGES];

    for (uint32_t i = 0; i < MESSAGES; i++) {
        memcpy(payload, &i, sizeof(i));
        numbers[i] = job_offer(
            client, &(struct mqc_publication){
                        .topic = "job/it", .payload = payload, .size = SIZE, .priority = 8});
    }
    for (uint32_t i = 0; i < MESSAGES; i++)
        must(mqc_confirm_wait(client, numbers[i], 10000));
    mqc_close(client);
}

/* The places of the messages that live, as dump shows them. Returns how many. */
static uint32_t read_dump(struct place *to)
{
    uint32_t n = 0;

    for (const char *line = ctl.text; *line != '\0'; line = strchr(line, '\n') + 1) {
        char kind[8], file[32];
        unsigned offset;
        size_t length = strcspn(line, "\n");

        assert_int_equal(sscanf(line, "%31s %u %7s", file, &offset, kind), 3);
        if (strcmp(kind, "put") != 0 || strncmp(line + length - 5, "lives", 5) != 0)
            continue;
        assert_true(n < MESSAGES);
        snprintf(to[n].file, sizeof(to[n].file), "%.15s", file);
        to[n++].offset = offset;
    }
    return n;
}

/* A broker with a durable group has stopped, and this is what it left: whole, to begin with. */
static void leave_a_journal(struct daemon *d)
{
    daemon_start_with_journal(d, config);
    job_make_durable(d);
    publish_all(d);
    assert_int_equal(daemon_stop(d), 0);
    memset(lost, 0, sizeof(lost));

    assert_int_equal(journal(d, "check"), 0);
    assert_string_equal(ctl.errors, "");
    assert_non_null(strstr(ctl.text, "200 put, 200 live\n"));
    assert_non_null(strstr(ctl.text, "\nwhole\n"));
    assert_int_equal(journal(d, "dump"), 0);
    assert_string_equal(ctl.errors, "");
    assert_int_equal(read_dump(places), MESSAGES);
    assert_string_equal(places[0].file, "00000000.mqj");
    assert_string_equal(places[MIDDLE + 1].file, "00000000.mqj");
    assert_string_not_equal(places[MESSAGES - 1].file, "00000000.mqj");
}

static void path_of(const struct daemon *d, const char *file, char path[512])
{
    snprintf(path, 512, "%s/%s/%s", d->journal.path, d->instance, file);
}

/* Write over the file of a segment. */
static void put(const struct daemon *d, const char *file, const void *bytes, size_t size,
                uint32_t offset)
{
    char path[512];
    int fd;

    path_of(d, file, path);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, offset), size);
    close(fd);
}

static void cut_off(const struct daemon *d, const char *file, uint32_t size)
{
    char path[512];

    path_of(d, file, path);
    assert_int_equal(truncate(path, size), 0);
}

/* ---- What is said of it ---- */

static void lose(uint32_t from, uint32_t n)
{
    for (uint32_t i = from; i < from + n; i++)
        lost[i] = true;
}

static void lose_file(const char *file)
{
    for (uint32_t i = 0; i < MESSAGES; i++)
        lost[i] = lost[i] || strcmp(places[i].file, file) == 0;
}

static void expect_dump(const struct daemon *d, int status)
{
    static struct place left[MESSAGES];
    uint32_t n = 0;

    assert_int_equal(journal(d, "dump"), status);
    for (uint32_t i = 0; i < MESSAGES; i++)
        n += !lost[i];
    assert_int_equal(read_dump(left), n);
    for (uint32_t i = 0, at = 0; i < MESSAGES; i++) {
        if (lost[i])
            continue;
        assert_string_equal(left[at].file, places[i].file);
        assert_int_equal(left[at++].offset, places[i].offset);
    }
}

static void expect_served(struct daemon *d)
{
    struct mqc *reader = job_durable_member(d, "reader", 0);

    for (uint32_t i = 0; i < MESSAGES; i++) {
        struct mqc_message m;

        if (lost[i])
            continue;
        m = must_receive(reader);
        assert_int_equal(m.size, SIZE);
        assert_memory_equal(m.payload, &i, sizeof(i));
        must(mqc_ack(reader, &m));
        mqc_message_free(&m);
    }
    must_hear_nothing(reader, "reader");
    mqc_close(reader);
}

/* It is damaged so, and there only. */
static void expect_found(const struct daemon *d, const char *const *sentences)
{
    char errors[512] = "";

    assert_int_equal(journal(d, "check"), 1);
    for (; *sentences != NULL; sentences++) {
        char line[256];

        snprintf(line, sizeof(line), "damaged: %s\n", *sentences);
        if (strstr(ctl.text, line) == NULL)
            fail_msg("'%s' is not in what it says:\n%s", line, ctl.text);
        strcat(errors, line);
    }
    assert_non_null(strstr(ctl.text, "\ndamaged: see docs/journal.md for what to do\n"));
    assert_null(strstr(ctl.text, "\nwhole\n"));
    expect_dump(d, 1);
    assert_string_equal(ctl.errors, errors);
}

/* … and a broker that is started on it says so too, and serves the rest. */
static void expect_damages(struct daemon *d, const char *const *sentences)
{
    uint32_t n = 0;

    expect_found(d, sentences);
    daemon_restart(d);
    for (; sentences[n] != NULL; n++)
        assert_true(daemon_said(d, sentences[n]));
    assert_int_equal(board_get(&daemon_board(d)->journal.counters.damaged), n);
    expect_served(d);
}

static void expect_damage(struct daemon *d, const char *sentence)
{
    expect_damages(d, (const char *const[]){sentence, NULL});
}

/* ---- Damages ---- */

static void bits_that_changed_are_named_with_their_record(void **state)
{
    struct daemon *d = *state;
    char sentence[256];

    leave_a_journal(d);
    put(d, places[MIDDLE].file, "?", 1, places[MIDDLE].offset + RECORD_HEAD_SIZE + SIZE / 2);
    lose(MIDDLE, 1);
    snprintf(sentence, sizeof(sentence),
             "%s: %u bytes from offset %u on are damaged (its checksum does not fit): what they "
             "had is lost",
             places[MIDDLE].file, places[MIDDLE + 1].offset - places[MIDDLE].offset,
             places[MIDDLE].offset);
    expect_damage(d, sentence);
}

static void blocks_that_became_zeros_are_one_place(void **state)
{
    static const uint8_t zeros[SEGMENT];
    struct daemon *d = *state;
    uint32_t size;
    char sentence[256];

    leave_a_journal(d);
    size = places[MIDDLE + 4].offset - places[MIDDLE].offset;
    put(d, places[MIDDLE].file, zeros, size, places[MIDDLE].offset);
    lose(MIDDLE, 4);
    snprintf(
        sentence, sizeof(sentence),
        "%s: %u bytes from offset %u on are damaged (nothing but zeros): what they had is lost",
        places[MIDDLE].file, size, places[MIDDLE].offset);
    expect_damage(d, sentence);
}

/* Where the first of the messages lies whose segment is the second one; that of the first segment
 * has the group as well. */
static const char *second_file(void)
{
    uint32_t i = 0;

    while (strcmp(places[i].file, places[0].file) == 0)
        i++;
    return places[i].file;
}

static void the_second_header_serves_for_the_first(void **state)
{
    struct daemon *d = *state;

    leave_a_journal(d);
    put(d, second_file(), "????????", 8, 8);
    assert_int_equal(journal(d, "check"), 0);
    assert_non_null(strstr(ctl.text, "\nwhole\n"));
    expect_dump(d, 0);
    daemon_restart(d);
    assert_int_equal(board_get(&daemon_board(d)->journal.counters.damaged), 0);
    expect_served(d);
}

static void a_segment_without_a_header_is_named_and_the_others_served(void **state)
{
    struct daemon *d = *state;
    char sentence[256];

    leave_a_journal(d);
    put(d, second_file(), "????????", 8, 8);
    put(d, second_file(), "????????", 8, SEGMENT - RECORD_HEADER_SIZE + 8);
    lose_file(second_file());
    snprintf(sentence, sizeof(sentence),
             "%s: its header is damaged (its checksum does not fit): all that it had is lost",
             second_file());
    expect_damages(d, (const char *const[]){
                          sentence,
                          "the segment of generation 2 is missing: all that it had is lost",
                          NULL,
                      });
}

static void a_segment_that_was_removed_is_missed(void **state)
{
    struct daemon *d = *state;
    char path[512];

    leave_a_journal(d);
    path_of(d, second_file(), path);
    assert_int_equal(unlink(path), 0);
    lose_file(second_file());
    expect_damage(d, "the segment of generation 2 is missing: all that it had is lost");
}

/* The last one: no other knows of it. */
static void a_segment_that_was_cut_off_is_named(void **state)
{
    struct daemon *d = *state;
    const struct place *last = &places[MESSAGES - 1];
    char sentence[256];

    leave_a_journal(d);
    cut_off(d, last->file, last->offset);
    lose_file(last->file);
    snprintf(sentence, sizeof(sentence),
             "%s: it was cut off, %u of %u bytes are there: all that it had is lost", last->file,
             last->offset, SEGMENT);
    expect_damage(d, sentence);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(bits_that_changed_are_named_with_their_record),
        TEST(blocks_that_became_zeros_are_one_place),
        TEST(the_second_header_serves_for_the_first),
        TEST(a_segment_without_a_header_is_named_and_the_others_served),
        TEST(a_segment_that_was_removed_is_missed),
        TEST(a_segment_that_was_cut_off_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
