/* The journal of a broker on a real disk: full, failing, damaged, not there, or with far more in it
 * than memory has (rules J1, J2, J3). What clients find again after kills and reboots: it-durable.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/daemon.h"
#include "tests/support/disk.h"
#include "tests/support/job.h"
#include "tests/support/must.h"
#include "tests/support/patience.h"
#include "tests/support/stamp.h"

/* Few and shallow queues: their memory is accounted per user, and other things run. */
static const char small[] = "max_clients = 6;\nqueue_depth = 4;\npool_max = \"4M\";\n"
                            "references = 32768;\ndelivery_limit = 0;\n"
                            "journal_segment = \"1M\";\njournal_size = \"16M\";\n";

static const char tiny[] = "max_clients = 6;\nqueue_depth = 4;\npool_max = \"4M\";\n"
                           "references = 32768;\ndelivery_limit = 0;\n"
                           "journal_segment = \"64K\";\njournal_size = \"320K\";\n";

static struct disk *disk;
static int disk_fd;

static const struct mqc_group_options durable = {.flags = MQC_DURABLE};

static int setup(void **state)
{
    disk_fd = memfd_create("disk", 0);
    assert_true(disk_fd >= 0);
    assert_int_equal(ftruncate(disk_fd, sizeof(*disk)), 0);
    disk = mmap(NULL, sizeof(*disk), PROT_READ | PROT_WRITE, MAP_SHARED, disk_fd, 0);
    assert_true(disk != MAP_FAILED);
    return daemon_setup(state);
}

static int teardown(void **state)
{
    int r;

    memset(disk, 0, sizeof(*disk));
    munmap(disk, sizeof(*disk));
    r = daemon_teardown(state);
    close(disk_fd);
    return r;
}

/* Start it with a journal, on a disk that does what `disk` says. */
static void start_on_that_disk(struct daemon *d, const char *config)
{
    char number[16];

    snprintf(number, sizeof(number), "%d", disk_fd);
    setenv(DISK_VARIABLE, number, 1);
    d->program = MQB_BIN_DIR "/../tests/bin/mqbroker-disk";
    daemon_start_with_journal(d, config);
}

/* Where the journal's files are. */
static void folder_of(const struct daemon *d, char path[512])
{
    snprintf(path, 512, "%s/%s", d->journal.path, d->instance);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* ---- No room, and no disk ---- */

static void a_full_journal_refuses_and_keeps_what_it_has(void **state)
{
    enum { SIZE = 1000, MOST = 1000 };
    struct daemon *d = *state;
    struct mqc *client;
    char payload[SIZE] = "";
    const struct mqc_publication p = {
        .topic = "job/it", .payload = payload, .size = SIZE, .priority = 8};
    int n = 0, r;

    daemon_start_with_journal(d, tiny);
    job_make_durable(d);
    client = daemon_open(d, "me", 0);
    do {
        memcpy(payload, &n, sizeof(n));
        r = job_try(client, &p);
    } while (r == 0 && ++n < MOST);
    assert_int_equal(r, -ENOSPC);
    assert_non_null(strstr(mqc_last_error(), "journal"));
    assert_true(n > 50);
    PATIENCE_UNTIL(daemon_said(d, "full"));
    assert_int_equal(board_get(&daemon_board(d)->journal.full), 1);
    daemon_kill(d);
    daemon_restart(d);
    mqc_close(client);
    daemon_reboot_and_start(d);
    client = job_durable_member(d, "me", 1);
    for (int i = 0; i < n; i++) {
        struct mqc_message m = must_receive(client);

        assert_int_equal(m.size, SIZE);
        assert_memory_equal(m.payload, &i, sizeof(i));
        must(mqc_ack(client, &m));
        mqc_message_free(&m);
    }
    must_hear_nothing(client, "me");
    for (uint64_t begun = patience_now(); (r = job_try(client, &p)) != 0;
         patience_spend(begun, "room"))
        assert_int_equal(r, -ENOSPC);
    for (int i = 0; i < 2 * n; i++) { /* and goes on */
        struct mqc_message m = must_receive(client);

        must(mqc_ack(client, &m));
        mqc_message_free(&m);
        must(job_try(client, &p));
    }
    mqc_close(client);
}

static void J3_nothing_is_confirmed_before_it_is_synced(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    uint32_t syncs;
    int64_t number;

    start_on_that_disk(d, small);
    client = job_durable_member(d, "me", 0);
    atomic_store(&disk->waits, 1);
    syncs = atomic_load(&disk->syncs);
    number = job_offer(client, &(struct mqc_publication){.topic = "job/it", .payload = ""});
    PATIENCE_UNTIL(atomic_load(&disk->syncs) > syncs);
    assert_int_equal(mqc_confirm_wait(client, number, 50), -ETIMEDOUT);
    assert_true(board_get(&daemon_board(d)->journal.unsynced) > 0);
    job_expect_and_ack(client, "", 1); /* who waits for no confirm need not wait for the disk */
    assert_int_equal(mqc_confirm_wait(client, number, 0), -ETIMEDOUT);
    must(job_try(client, &(struct mqc_publication){.topic = "not/durable", .payload = ""}));
    atomic_store(&disk->waits, 0);
    must(mqc_confirm_wait(client, number, PATIENCE_MS));
    mqc_close(client);
}

static void J3_a_disk_that_fails_delays_confirms_and_loses_nothing(void **state)
{
    enum { BEFORE = 20 };
    struct daemon *d = *state;
    struct mqc *client;
    int64_t number;

    start_on_that_disk(d, small);
    job_make_durable(d);
    client = daemon_open(d, "me", 0);
    job_publish_stamped(client, 0, BEFORE);
    atomic_store(&disk->sync_fails, EIO);
    number = job_offer(
        client, &(struct mqc_publication){.topic = "job/last", .payload = "last", .size = 4});
    PATIENCE_UNTIL(daemon_said(d, "refuses"));
    assert_int_equal(mqc_confirm_wait(client, number, 50), -ETIMEDOUT);
    assert_int_equal(
        job_try(client, &(struct mqc_publication){.topic = "job/no", .payload = "no", .size = 2}),
        -EIO);
    atomic_store(&disk->sync_fails, 0);
    must(mqc_confirm_wait(client, number, PATIENCE_MS));
    job_publish_stamped(client, BEFORE, BEFORE);
    mqc_close(client);
    daemon_reboot_and_start(d);
    client = job_durable_member(d, "me", 1);
    for (uint32_t priority = JOB_PRIORITIES; priority-- > 0;) {
        for (uint32_t i = priority; i < 2 * BEFORE; i += JOB_PRIORITIES) {
            if (i == BEFORE)
                job_expect_and_ack(client, "last", 1);
            assert_int_equal(job_receive_stamped(client), i);
        }
    }
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static void a_full_disk_refuses_and_loses_nothing(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    uint32_t n = 0;
    int r;

    start_on_that_disk(d, small);
    job_make_durable(d);
    client = daemon_open(d, "me", 0);
    job_publish_stamped(client, n, 8);
    n += 8;
    atomic_store(&disk->write_fails, ENOSPC);
    for (uint64_t begun = patience_now();; patience_spend(begun, "a refusal")) {
        const struct mqc_publication p = {.topic = "job/no", .payload = "no", .size = 2};

        r = mqc_confirm_wait(client, job_offer(client, &p), 20);
        if (r != -ETIMEDOUT)
            break;
    }
    assert_true(r == -ENOSPC || r == -EIO);
    atomic_store(&disk->write_fails, 0);
    for (uint64_t begun = patience_now();
         (r = job_try(client,
                      &(struct mqc_publication){.topic = "job/go", .payload = "go", .size = 2})) !=
         0;
         patience_spend(begun, "the disk to be believed"))
        assert_true(r == -ENOSPC || r == -EIO);
    mqc_close(client);
    daemon_reboot_and_start(d);
    client = job_durable_member(d, "me", 1);
    for (uint32_t seen = 0; seen < n;) {
        struct mqc_message m = must_receive(client);
        struct stamp stamp;

        seen += stamp_read(m.payload, m.size, &stamp);
        must(mqc_ack(client, &m));
        mqc_message_free(&m);
    }
    mqc_close(client);
}

/* ---- Damage ---- */

/* Change a byte where this is in the journal. The file's name. */
static void damage(const struct daemon *d, const char *needle, char name[64])
{
    static uint8_t bytes[1 << 20];
    char folder[512];
    const struct dirent *entry;
    DIR *files;
    bool found = false;

    folder_of(d, folder);
    files = opendir(folder);
    assert_non_null(files);
    while (!found && (entry = readdir(files)) != NULL) {
        int fd = openat(dirfd(files), entry->d_name, O_RDWR);
        ssize_t size = read(fd, bytes, sizeof(bytes));
        const uint8_t *at = size <= 0 ? NULL : memmem(bytes, (size_t)size, needle, strlen(needle));

        if (at != NULL) {
            found = pwrite(fd, "?", 1, at - bytes) == 1;
            snprintf(name, 64, "%.60s", entry->d_name);
        }
        if (fd >= 0)
            close(fd);
    }
    closedir(files);
    assert_true(found);
}

static void J1_damage_is_reported_by_place_and_the_rest_is_served(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    char name[64];

    daemon_start_with_journal(d, small);
    job_make_durable(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    job_publish(client, "before");
    job_publish(client, "the damaged one");
    job_publish(client, "after");
    mqc_close(client);
    daemon_reboot(d);
    damage(d, "the damaged one", name);
    daemon_restart(d);
    assert_true(daemon_said(d, name));
    assert_true(board_get(&daemon_board(d)->journal.counters.damaged) > 0);
    client = job_durable_member(d, "me", 1);
    job_expect_and_ack(client, "before", 1);
    job_expect_and_ack(client, "after", 1);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static void messages_of_a_group_whose_record_is_damaged_are_kept(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    char group[BOARD_NAME_SIZE];
    char name[64];

    daemon_start_with_journal(d, small);
    client = daemon_open(d, "me", 0);
    must(mqc_join(client, "a_group_by_this_name", "job/#", &durable));
    must(mqc_leave(client, "a_group_by_this_name"));
    job_publish(client, "its message");
    mqc_close(client);
    daemon_reboot(d);
    damage(d, "a_group_by_this_name", name);
    daemon_restart(d);
    assert_true(daemon_said(d, name));
    assert_int_equal(board_get(&daemon_board(d)->groups), 1);
    for (int i = 0; i < 2; i++) {
        memcpy(group, (const void *)board_group(daemon_board(d), 0)->name, sizeof(group));
        assert_non_null(strstr(group, "lost"));
        client = daemon_open(d, "me", 0);
        must(mqc_join(client, group, NULL, NULL));
        job_expect(client, "its message", 1);
        mqc_close(client);
        daemon_reboot_and_start(d);
    }
}

/* ---- Not to be started ---- */

static void what_is_durable_is_not_started_without_its_journal(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start_with_journal(d, small);
    client = job_durable_member(d, "me", 0);
    job_publish(client, "x");
    daemon_kill(d);
    daemon_configure(d, small);
    assert_int_equal(daemon_refuse(d), 1);
    assert_true(daemon_said(d, "set `journal` to where it is"));
    daemon_start_with_journal(d, small);
    job_expect_and_ack(client, "x", 1);
    mqc_close(client);
}

static void a_journal_serves_one_broker(void **state)
{
    struct daemon *d = *state;
    char folder[512];
    int fd;

    daemon_start_with_journal(d, small);
    assert_int_equal(daemon_stop(d), 0);
    folder_of(d, folder);
    fd = open(folder, O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    assert_int_equal(daemon_refuse(d), 1);
    assert_true(daemon_said(d, folder));
    daemon_print_log(d);
    close(fd);
    daemon_restart(d);
}

/* ---- Many, and for long ---- */

enum { WAITING_SIZE = 1024, WAITING_OUTSTANDING = 512 };

static unsigned priority_of(uint32_t number)
{
    return number * 7 % 32;
}

static void publish_many(struct mqc *client, uint32_t n)
{
    uint8_t payload[WAITING_SIZE];
    int64_t numbers[WAITING_OUTSTANDING];

    must(mqc_set_batching(client, 1));
    for (uint32_t i = 0; i < n; i++) {
        const struct stamp stamp = {.publisher = 1, .number = i, .size = sizeof(payload)};

        stamp_fill(payload, &stamp);
        if (i >= WAITING_OUTSTANDING)
            must(mqc_confirm_wait(client, numbers[i % WAITING_OUTSTANDING], PATIENCE_MS));
        numbers[i % WAITING_OUTSTANDING] =
            job_offer(client, &(struct mqc_publication){.topic = "job/waiting",
                                                        .payload = payload,
                                                        .size = sizeof(payload),
                                                        .priority = priority_of(i)});
    }
    for (uint32_t i = 0; i < WAITING_OUTSTANDING; i++)
        must(mqc_confirm_wait(client, numbers[i], PATIENCE_MS));
}

/* By priority, then age; each once. */
static void receive_many(struct mqc *client, uint32_t n)
{
    uint32_t next = 0;
    unsigned priority = 31;

    for (uint32_t i = 0; i < n; i++) {
        for (; next < n && priority_of(next) != priority; next++)
            ;
        if (next >= n) {
            priority--;
            next = 0;
            i--;
            continue;
        }
        assert_int_equal(job_receive_stamped(client), next++);
    }
}

static uint64_t memory_in_use(void)
{
    struct statvfs fs;

    assert_int_equal(statvfs("/dev/shm", &fs), 0);
    return (fs.f_blocks - fs.f_bfree) * fs.f_frsize >> 20;
}

/* Figures for people, of the long form. */
static void say(const struct daemon *d, const char *what, uint64_t since)
{
    if (getenv("MQB_LONG") != NULL)
        printf("%s: %" PRIu64 " ms; broker %" PRIu64 " MiB (its own %" PRIu64 "), /dev/shm %" PRIu64
               " MiB\n",
               what, patience_now() - since, daemon_status(d, "VmRSS") >> 10,
               daemon_status(d, "RssAnon") >> 10, memory_in_use());
}

static void J2_a_long_backlog_waits_on_disk_and_keeps_its_order(void **state)
{
    struct daemon *d = *state;
    uint32_t n = getenv("MQB_LONG") != NULL ? 1000000 : 20000;
    struct mqc *client;
    uint64_t since;

    daemon_start_with_journal(d, getenv("MQB_LONG") != NULL
                                     ? "max_clients = 6;\nqueue_depth = 4;\n"
                                       "journal_size = \"2G\";\n"
                                       "sync = \"interval\";\n"
                                     : "max_clients = 6;\nqueue_depth = 4;\n"
                                       "references = 65536;\njournal_segment = \"1M\";\n"
                                       "journal_size = \"64M\";\n");
    job_make_durable(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    since = patience_now();
    say(d, "empty", since);
    publish_many(client, n);
    say(d, "published, each confirmed", since);
    PATIENCE_UNTIL(board_get(&board_group(daemon_board(d), 0)->on_disk) > n / 2);
    assert_true(board_get(&board_group(daemon_board(d), 0)->waiting_bytes) < 4 << 20);
    daemon_kill(d);
    since = patience_now();
    daemon_restart(d);
    say(d, "started after a kill", since);
    mqc_close(client);
    daemon_reboot(d);
    since = patience_now();
    daemon_restart(d);
    say(d, "started after a reboot", since);
    assert_int_equal(board_get(&board_group(daemon_board(d), 0)->waiting), n);
    client = job_durable_member(d, "me", 256);
    since = patience_now();
    receive_many(client, n);
    say(d, "all worked off", since);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static uint64_t moves(const struct daemon *d)
{
    return board_get(&daemon_board(d)->journal.counters.moves);
}

static void J3_old_messages_move_out_of_segments_that_are_used_again(void **state)
{
    enum { OLD = 40, FLOWING = 3000, KILLS = 25 };
    struct daemon *d = *state;
    uint32_t random = 2463534242;
    struct mqc *client, *publisher;

    daemon_start_with_journal(
        d, "max_clients = 6;\nqueue_depth = 4;\nreferences = 32768;\ndelivery_limit = 0;\n"
           "journal_segment = \"64K\";\njournal_size = \"1M\";\n");
    client = daemon_open(d, NULL, 0);
    publisher = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    must(mqc_join(client, "old", "job/stamped", &durable));
    must(mqc_leave(client, "old"));
    must(mqc_join(client, "flowing", "job/flowing", &durable));
    must_retain(publisher, "kept", "kept", 4);
    for (int i = 0; i < FLOWING; i++) {
        uint8_t payload[1000];
        const struct stamp stamp = {.publisher = 2, .number = (uint32_t)i, .size = sizeof(payload)};

        if (i % (FLOWING / OLD) == 0 && i / (FLOWING / OLD) < OLD) {
            const struct stamp old = {
                .publisher = 1, .number = (uint32_t)(i / (FLOWING / OLD)), .size = 700};

            stamp_fill(payload, &old);
            must(job_try(publisher, &(struct mqc_publication){.topic = "job/stamped",
                                                              .payload = payload,
                                                              .size = old.size}));
        }
        if (stamp_random(&random) % (FLOWING / KILLS) == 0) {
            daemon_kill(d);
            daemon_restart(d);
        }
        stamp_fill(payload, &stamp);
        must(job_try(publisher, &(struct mqc_publication){.topic = "job/flowing",
                                                          .payload = payload,
                                                          .size = sizeof(payload)}));
        assert_int_equal(job_receive_stamped(client), i);
    }
    assert_true(moves(d) > OLD);
    mqc_close(client);
    mqc_close(publisher);
    for (int i = 0; i < 2; i++) {
        daemon_reboot_and_start(d);
        client = daemon_open(d, NULL, 0);
        must_find_retained(client, "kept", "kept", 4);
        mqc_close(client);
    }
    client = daemon_open(d, "me", 0);
    must(mqc_join(client, "old", NULL, NULL));
    for (uint32_t i = 0; i < OLD; i++)
        assert_int_equal(job_receive_stamped(client), i);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_full_journal_refuses_and_keeps_what_it_has),
        TEST(J3_nothing_is_confirmed_before_it_is_synced),
        TEST(J3_a_disk_that_fails_delays_confirms_and_loses_nothing),
        TEST(a_full_disk_refuses_and_loses_nothing),
        TEST(J1_damage_is_reported_by_place_and_the_rest_is_served),
        TEST(messages_of_a_group_whose_record_is_damaged_are_kept),
        TEST(what_is_durable_is_not_started_without_its_journal),
        TEST(a_journal_serves_one_broker),
        TEST(J2_a_long_backlog_waits_on_disk_and_keeps_its_order),
        TEST(J3_old_messages_move_out_of_segments_that_are_used_again),
    };

    setvbuf(stdout, NULL, _IONBF, 0);
    if (getenv("MQB_ONLY") != NULL)
        cmocka_set_test_filter(getenv("MQB_ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
