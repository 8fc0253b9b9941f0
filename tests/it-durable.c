/* Durable groups and retained messages, with real processes and a journal on a real disk: what was
 * confirmed is there again after a kill, once; and after a reboot, which leaves files and nothing
 * else, at least once (rules J1 to J4). */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
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
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/disk.h"
#include "tests/support/job.h"
#include "tests/support/must.h"
#include "tests/support/patience.h"
#include "tests/support/stamp.h"

enum {
    LARGE = 300000, /* bytes that fit no queue message */
    CONFIG_SIZE = 1024,
};

/* Few and shallow queues: their memory is accounted per user, and other things run. */
static const char small[] = "max_clients = 6;\nqueue_depth = 4;\npool_max = \"4M\";\n"
                            "references = 32768;\ndelivery_limit = 0;\n"
                            "journal_segment = \"1M\";\njournal_size = \"16M\";\n";
static const char tiny[] = "max_clients = 6;\nqueue_depth = 4;\npool_max = \"4M\";\n"
                           "references = 32768;\ndelivery_limit = 0;\n"
                           "journal_segment = \"64K\";\njournal_size = \"320K\";\n";

static char directory[64]; /* of the journal */
static struct disk *disk;
static int disk_fd;

static const struct mqc_group_options durable = {.flags = MQC_DURABLE};

/* ---- The journal's directory ---- */

static void folder_of(const struct daemon *d, char path[256])
{
    snprintf(path, 256, "%s/%s", directory, d->instance);
}

static void remove_journal(const struct daemon *d)
{
    char folder[256];
    const struct dirent *entry;
    DIR *files;

    folder_of(d, folder);
    files = opendir(folder);
    while (files != NULL && (entry = readdir(files)) != NULL)
        unlinkat(dirfd(files), entry->d_name, 0);
    if (files != NULL)
        closedir(files);
    rmdir(folder);
    rmdir(directory);
}

static int setup(void **state)
{
    int r;

    disk_fd = memfd_create("disk", 0);
    assert_true(disk_fd >= 0);
    assert_int_equal(ftruncate(disk_fd, sizeof(*disk)), 0);
    disk = mmap(NULL, sizeof(*disk), PROT_READ | PROT_WRITE, MAP_SHARED, disk_fd, 0);
    assert_true(disk != MAP_FAILED);
    r = daemon_setup(state);
    if (r == 0) {
        snprintf(directory, sizeof(directory), "/tmp/it-durable-XXXXXX");
        assert_non_null(mkdtemp(directory));
    }
    return r;
}

static int teardown(void **state)
{
    int r;

    memset(disk, 0, sizeof(*disk));
    munmap(disk, sizeof(*disk));
    actor_kill_all();
    remove_journal(*state);
    r = daemon_teardown(state);
    close(disk_fd);
    return r;
}

/* Start it with a journal. */
static void start(struct daemon *d, const char *config)
{
    char text[CONFIG_SIZE];

    snprintf(text, sizeof(text), "%sjournal = \"%s\";\n", config, directory);
    daemon_start(d, text);
}

/* The same with a disk that does what `disk` says. */
static void start_on_that_disk(struct daemon *d, const char *config)
{
    char number[16];

    snprintf(number, sizeof(number), "%d", disk_fd);
    setenv(DISK_VARIABLE, number, 1);
    d->program = MQB_BIN_DIR "/../tests/bin/mqbroker-disk";
    start(d, config);
}

static void reboot_and_start(struct daemon *d)
{
    daemon_reboot(d);
    daemon_restart(d);
}

/* ---- What clients do ---- */

/* Join the durable group "g" for "job/#". */
static struct mqc *member(const struct daemon *d, const char *name, unsigned prefetch)
{
    return job_member(d, name,
                      &(struct mqc_group_options){.flags = MQC_DURABLE, .prefetch = prefetch});
}

/* Make the group, and leave it with nobody in it. */
static void make_group(const struct daemon *d)
{
    struct mqc *client = member(d, NULL, 0);

    must(mqc_leave(client, "g"));
    mqc_close(client);
}

/* ---- Many of them ---- */

enum { STAMPED = 120, PRIORITIES = 4 };

/* Sizes of all kinds: in a frame, in a pool and small, in a pool and large. */
static uint32_t size_of(uint32_t number)
{
    static const uint32_t sizes[] = {16, 100, 2000, 5000, 40, 20000, 64, LARGE};

    return sizes[number % (number % 40 < 8 ? 8 : 7)];
}

static void publish_stamped(struct mqc *client, uint32_t from, uint32_t n)
{
    static uint8_t payload[LARGE];
    int64_t numbers[STAMPED];

    assert_true(n <= STAMPED);
    for (uint32_t i = 0; i < n; i++) {
        const struct stamp stamp = {.publisher = 1, .number = from + i, .size = size_of(from + i)};

        stamp_fill(payload, &stamp);
        numbers[i] =
            job_offer(client, &(struct mqc_publication){.topic = "job/stamped",
                                                        .payload = payload,
                                                        .size = stamp.size,
                                                        .priority = (from + i) % PRIORITIES});
    }
    for (uint32_t i = 0; i < n; i++)
        must(mqc_confirm_wait(client, numbers[i], PATIENCE_MS));
}

/* The next one, and as it was made. */
static uint32_t receive_stamped(struct mqc *client)
{
    struct mqc_message m = must_receive(client);
    struct stamp stamp = {0};

    if (!stamp_read(m.payload, m.size, &stamp))
        fail_msg("a message of %zu bytes is not as it was made", m.size);
    must(mqc_ack(client, &m));
    mqc_message_free(&m);
    return stamp.number;
}

/* All from 0 to n come, by priority, then age; and nothing else does. `skip`: these came before. */
static void expect_stamped(struct mqc *client, uint32_t n, const bool *skip)
{
    for (uint32_t priority = PRIORITIES; priority-- > 0;) {
        for (uint32_t i = priority; i < n; i += PRIORITIES) {
            if (skip == NULL || !skip[i])
                assert_int_equal(receive_stamped(client), i);
        }
    }
    must(mqc_flush(client));
}

/* ---- Kills ---- */

static void J4_confirmed_messages_outlive_a_kill_once_and_in_order(void **state)
{
    struct daemon *d = *state;
    struct mqc *client, *reader;

    start(d, small);
    make_group(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    publish_stamped(client, 0, STAMPED / 2);
    daemon_kill(d);
    daemon_restart(d);
    publish_stamped(client, STAMPED / 2, STAMPED / 2);
    daemon_kill(d);
    daemon_restart(d);
    reader = member(d, "reader", 1);
    expect_stamped(reader, STAMPED, NULL);
    must_hear_nothing(reader, "reader");
    daemon_kill(d);
    daemon_restart(d);
    must_hear_nothing(reader, "reader");
    mqc_close(reader);
    mqc_close(client);
}

static void J4_tries_outlive_a_kill(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    start(d, small);
    client = member(d, "me", 1);
    job_publish(client, "first");
    job_publish(client, "second");
    m = job_expect(client, "first", 1);
    must(mqc_nack(client, &m, 0));
    m = job_expect(client, "first", 2);
    daemon_kill(d);
    daemon_restart(d);
    must(mqc_nack(client, &m, 0));
    m = job_expect(client, "first", 3);
    must(mqc_ack(client, &m));
    job_expect_and_ack(client, "second", 1);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

/* ---- Reboots ---- */

static void J4_confirmed_messages_outlive_a_reboot_in_order(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    start(d, small);
    make_group(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    publish_stamped(client, 0, STAMPED / 2);
    mqc_close(client);
    reboot_and_start(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY); /* the group has its filter still */
    publish_stamped(client, STAMPED / 2, STAMPED / 2);
    daemon_kill(d);
    daemon_restart(d);
    mqc_close(client);
    reboot_and_start(d);
    client = member(d, "reader", 1);
    expect_stamped(client, STAMPED, NULL);
    must_hear_nothing(client, "reader");
    mqc_close(client);
    reboot_and_start(d); /* what was acknowledged may come again, in order and whole */
    client = daemon_open(d, "reader", 0);
    must(mqc_join(client, "g", NULL, NULL));
    must_hear_nothing(client, "reader");
    mqc_close(client);
}

static void groups_have_their_settings_after_a_reboot(void **state)
{
    const struct mqc_group_options strict = {
        .flags = MQC_DURABLE | MQC_DEAD_EXPIRED, .delivery_limit = 2, .ack_timeout_ms = 7000};
    struct mqc_group_options other = strict;
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    start(d, small);
    client = daemon_open(d, "me", 0);
    must(mqc_join(client, "strict", "a/#", &strict));
    must(mqc_join(client, "strict", "b/+", &strict));
    must(mqc_join(client, "passing", "c", NULL));
    mqc_close(client);
    reboot_and_start(d);
    client = daemon_open(d, "me", 0);
    other.delivery_limit = 3;
    assert_int_equal(mqc_join(client, "strict", "a/#", &other), -EEXIST);
    other = strict;
    other.ack_timeout_ms = 8000;
    assert_int_equal(mqc_join(client, "strict", "a/#", &other), -EEXIST);
    other = strict;
    other.flags = MQC_DURABLE;
    assert_int_equal(mqc_join(client, "strict", "a/#", &other), -EEXIST);
    must(mqc_join(client, "strict", NULL, NULL));
    assert_int_equal(mqc_join(client, "passing", NULL, NULL), -ENOENT);
    must(job_try(client, &(struct mqc_publication){
                             .topic = "b/x", .payload = "x", .size = 1, .priority = 8}));
    m = job_expect(client, "x", 1);
    must(mqc_nack(client, &m, 0));
    m = job_expect(client, "x", 2);
    must(mqc_nack(client, &m, 0));
    must(mqc_join(client, "$dead/strict", NULL, NULL));
    job_expect(client, "x", 3);
    mqc_close(client);
}

static void dead_letters_are_dead_letters_after_a_reboot(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    start(d, small);
    client = member(d, "me", 1);
    job_publish(client, "poison");
    job_publish(client, "good");
    m = job_expect(client, "poison", 1);
    must(mqc_reject(client, &m));
    job_expect(client, "good", 1);
    job_publish(client, "later"); /* with it the journal has had all that was before */
    mqc_close(client);
    reboot_and_start(d);
    client = daemon_open(d, "me", 0);
    must(mqc_join(client, "$dead/g", NULL, NULL));
    must_hear(client, "poison");
    must_hear_nothing(client, "me");
    must(mqc_leave(client, "$dead/g"));
    assert_int_equal(mqc_requeue(client, "g"), 1);
    must(mqc_join(client, "g", NULL, NULL));
    job_expect_and_ack(client, "poison", 1);
    job_expect_and_ack(client, "good", 1);
    job_expect_and_ack(client, "later", 1);
    mqc_close(client);
}

static void find_retained(struct mqc *client, const char *topic, const void *payload, size_t size)
{
    struct mqc_message m;

    must(mqc_subscribe(client, topic, 0));
    m = must_receive(client);
    assert_string_equal(m.topic, topic);
    assert_int_equal(m.flags, MQC_M_RETAINED);
    assert_int_equal(m.size, size);
    assert_memory_equal(m.payload, payload, size);
    mqc_message_free(&m);
    must(mqc_unsubscribe(client, topic));
}

static void retain(struct mqc *client, const char *topic, const void *payload, size_t size)
{
    must(job_try(
        client,
        &(struct mqc_publication){
            .topic = topic, .payload = payload, .size = size, .priority = 8, .flags = MQC_RETAIN}));
}

static void retained_messages_outlive_reboots(void **state)
{
    static uint8_t large[LARGE];
    struct daemon *d = *state;
    struct mqc *client;

    start(d, small);
    memset(large, 'x', sizeof(large));
    client = daemon_open(d, "me", 0);
    retain(client, "kept/small", "old", 3);
    retain(client, "kept/small", "new", 3);
    retain(client, "kept/large", "small", 5);
    retain(client, "kept/large", large, sizeof(large));
    retain(client, "kept/gone", large, sizeof(large));
    retain(client, "kept/gone", "", 0);
    retain(client, "kept/last", "last", 4);
    mqc_close(client);
    for (int i = 0; i < 3; i++) {
        reboot_and_start(d);
        client = daemon_open(d, "me", 0);
        find_retained(client, "kept/small", "new", 3);
        find_retained(client, "kept/large", large, sizeof(large));
        must(mqc_subscribe(client, "kept/gone", 0));
        must_hear_nothing(client, "me");
        mqc_close(client);
    }
    daemon_kill(d);
    daemon_restart(d);
    client = daemon_open(d, NULL, 0);
    find_retained(client, "kept/large", large, sizeof(large));
    mqc_close(client);
}

static void time_to_live_goes_on_over_a_reboot(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    start(d, small);
    make_group(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    must(job_try(
        client,
        &(struct mqc_publication){
            .topic = "job/short", .payload = "short", .size = 5, .priority = 9, .ttl_ms = 1500}));
    must(job_try(
        client,
        &(struct mqc_publication){
            .topic = "job/long", .payload = "long", .size = 4, .priority = 8, .ttl_ms = 3600000}));
    mqc_close(client);
    reboot_and_start(d);
    PATIENCE_UNTIL(board_get(&board_group(daemon_board(d), 0)->drops.expired) == 1);
    client = member(d, "me", 0);
    job_expect_and_ack(client, "long", 1);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static void a_group_that_was_removed_stays_so(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    start(d, small);
    client = member(d, "me", 0);
    must(mqc_join(client, "other", "other", &durable));
    must(mqc_leave(client, "g"));
    job_publish(client, "x");
    assert_int_equal(mqc_remove_group(client, "g"), 1);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->groups) == 1);
    must(job_try(client, &(struct mqc_publication){.topic = "other", .payload = "x"}));
    mqc_close(client);
    reboot_and_start(d);
    client = daemon_open(d, "me", 0);
    assert_int_equal(mqc_join(client, "g", NULL, NULL), -ENOENT);
    must(mqc_join(client, "other", NULL, NULL));
    mqc_close(client);
}

static void a_clean_stop_is_a_reboot_that_forgets_nothing(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    bool came[STAMPED] = {false};

    start(d, small);
    client = member(d, NULL, 1);
    publish_stamped(client, 0, STAMPED);
    for (uint32_t i = 0; i < STAMPED / 3; i++)
        came[receive_stamped(client)] = true;
    mqc_close(client);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    assert_int_equal(daemon_stop(d), 0);
    assert_true(daemon_is_gone(d));
    daemon_restart(d);
    client = member(d, "me", 1);
    expect_stamped(client, STAMPED, came);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

/* ---- Requests ---- */

static void ask_the_group(struct actor *self, const void *context)
{
    const struct mqc_publication question = {
        .topic = "job/ask", .payload = "?", .size = 1, .priority = 8};
    struct mqc *client = actor_open(context, NULL, 0);
    struct mqc_message reply;

    (void)self;
    ACTOR_REQUIRE(mqc_request(client, &question, &reply, PATIENCE_MS) == 0);
    ACTOR_REQUIRE(reply.size == 1 && *(const char *)reply.payload == '!');
    mqc_message_free(&reply);
    mqc_close(client);
}

static void a_durable_group_answers_requests(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;
    struct actor a;

    start(d, small);
    client = member(d, "me", 1);
    actor_start(&a, ask_the_group, d->instance);
    m = must_receive(client);
    assert_int_equal(m.flags, MQC_M_REQUEST);
    daemon_kill(d);
    daemon_restart(d);
    must(mqc_reply(client, &m, "!", 1));
    mqc_message_free(&m);
    actor_join(&a);
    job_publish(client, "next");
    job_expect_and_ack(client, "next", 1);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

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

    start(d, tiny);
    make_group(d);
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
    reboot_and_start(d);
    client = member(d, "me", 1);
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
    client = member(d, "me", 0);
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
    make_group(d);
    client = daemon_open(d, "me", 0);
    publish_stamped(client, 0, BEFORE);
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
    publish_stamped(client, BEFORE, BEFORE);
    mqc_close(client);
    reboot_and_start(d);
    client = member(d, "me", 1);
    for (uint32_t priority = PRIORITIES; priority-- > 0;) {
        for (uint32_t i = priority; i < 2 * BEFORE; i += PRIORITIES) {
            if (i == BEFORE)
                job_expect_and_ack(client, "last", 1);
            assert_int_equal(receive_stamped(client), i);
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
    make_group(d);
    client = daemon_open(d, "me", 0);
    publish_stamped(client, n, 8);
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
    reboot_and_start(d);
    client = member(d, "me", 1);
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
    char folder[256];
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

    start(d, small);
    make_group(d);
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
    client = member(d, "me", 1);
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

    start(d, small);
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
        reboot_and_start(d);
    }
}

/* ---- Not to be started ---- */

static void what_is_durable_is_not_started_without_its_journal(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    start(d, small);
    client = member(d, "me", 0);
    job_publish(client, "x");
    daemon_kill(d);
    daemon_configure(d, small);
    assert_int_equal(daemon_refuse(d), 1);
    assert_true(daemon_said(d, "set `journal` to where it is"));
    start(d, small);
    job_expect_and_ack(client, "x", 1);
    mqc_close(client);
}

static void a_journal_serves_one_broker(void **state)
{
    struct daemon *d = *state;
    char folder[256];
    int fd;

    start(d, small);
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
        assert_int_equal(receive_stamped(client), next++);
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

    start(d, getenv("MQB_LONG") != NULL ? "max_clients = 6;\nqueue_depth = 4;\n"
                                          "journal_size = \"2G\";\n"
                                          "sync = \"interval\";\n"
                                        : "max_clients = 6;\nqueue_depth = 4;\n"
                                          "references = 65536;\njournal_segment = \"1M\";\n"
                                          "journal_size = \"64M\";\n");
    make_group(d);
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
    client = member(d, "me", 256);
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

    start(d, "max_clients = 6;\nqueue_depth = 4;\nreferences = 32768;\ndelivery_limit = 0;\n"
             "journal_segment = \"64K\";\njournal_size = \"1M\";\n");
    client = daemon_open(d, NULL, 0);
    publisher = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    must(mqc_join(client, "old", "job/stamped", &durable));
    must(mqc_leave(client, "old"));
    must(mqc_join(client, "flowing", "job/flowing", &durable));
    retain(publisher, "kept", "kept", 4);
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
        assert_int_equal(receive_stamped(client), i);
    }
    assert_true(moves(d) > OLD);
    mqc_close(client);
    mqc_close(publisher);
    for (int i = 0; i < 2; i++) {
        reboot_and_start(d);
        client = daemon_open(d, NULL, 0);
        find_retained(client, "kept", "kept", 4);
        mqc_close(client);
    }
    client = daemon_open(d, "me", 0);
    must(mqc_join(client, "old", NULL, NULL));
    for (uint32_t i = 0; i < OLD; i++)
        assert_int_equal(receive_stamped(client), i);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

/* ---- By chance ---- */

enum { WORKERS = 2, CHANCE_MOST = 1 << 20, OUTSTANDING = 16, CHANCE_LARGEST = 40000 };

/* What all of them write down; message by message, by its number. */
struct chance {
    char instance[NAMES_INSTANCE_MAX + 1];
    _Atomic uint32_t over;
    _Atomic uint32_t next; /* number to be published */
    _Atomic uint8_t confirmed[CHANCE_MOST];
    _Atomic uint8_t came[CHANCE_MOST];
    _Atomic uint8_t nacked[CHANCE_MOST];
    _Atomic uint8_t refused[CHANCE_MOST]; /* the journal was full */
};

static void confirm(struct mqc *client, struct chance *chance, int64_t number, uint32_t message)
{
    int outcome = mqc_confirm_wait(client, number, PATIENCE_MS);

    ACTOR_REQUIRE(outcome == 0 || outcome == -ENOSPC);
    atomic_store(outcome == 0 ? &chance->confirmed[message] : &chance->refused[message], 1);
    if (outcome == -ENOSPC)
        sched_yield(); /* to the workers */
}

static void publish_by_chance(struct actor *self, const void *context)
{
    struct chance *chance = (struct chance *)(uintptr_t)context;
    struct mqc *client = actor_open(chance->instance, NULL, MQC_PUBLISH_ONLY);
    uint8_t *payload = malloc(CHANCE_LARGEST);
    int64_t numbers[OUTSTANDING];
    uint32_t messages[OUTSTANDING];
    uint32_t random = 1 + atomic_load(&chance->next);
    uint64_t n = 0, done = 0;

    while (!atomic_load(&chance->over) && atomic_load(&chance->next) < CHANCE_MOST) {
        struct stamp stamp = {.publisher = 1, .size = stamp_size(&random, CHANCE_LARGEST)};
        struct mqc_publication p = {.topic = "job/chance",
                                    .payload = payload,
                                    .flags = MQC_CONFIRM,
                                    .priority = stamp_random(&random) % 32};

        stamp.number = messages[n % OUTSTANDING] = atomic_fetch_add(&chance->next, 1);
        stamp_fill(payload, &stamp);
        p.size = stamp.size;
        numbers[n % OUTSTANDING] = mqc_publish_with(client, &p);
        ACTOR_REQUIRE(numbers[n++ % OUTSTANDING] > 0);
        if (n - done == OUTSTANDING) {
            confirm(client, chance, numbers[done % OUTSTANDING], messages[done % OUTSTANDING]);
            done++;
        }
    }
    for (; done < n; done++)
        confirm(client, chance, numbers[done % OUTSTANDING], messages[done % OUTSTANDING]);
    free(payload);
    mqc_close(client);
    (void)self;
}

static void work_by_chance(struct actor *self, const void *context)
{
    struct chance *chance = (struct chance *)(uintptr_t)context;
    struct mqc *client = actor_open(chance->instance, NULL, 0);
    uint32_t random = (uint32_t)getpid();

    ACTOR_REQUIRE(mqc_join(client, "g", "job/#", &durable) == 0);
    actor_tell(self, 0);
    for (;;) {
        struct stamp stamp = {0};
        struct mqc_message m;

        ACTOR_REQUIRE(mqc_receive(client, &m, -1) == 0);
        ACTOR_REQUIRE(stamp_read(m.payload, m.size, &stamp));
        atomic_fetch_add(&chance->came[stamp.number], 1);
        if (stamp_random(&random) % 8 == 0) {
            atomic_fetch_add(&chance->nacked[stamp.number], 1);
            ACTOR_REQUIRE(mqc_nack(client, &m, stamp_random(&random) % 2 * 20) == 0);
        } else {
            ACTOR_REQUIRE(mqc_ack(client, &m) == 0);
        }
        mqc_message_free(&m);
    }
}

struct crowd {
    struct chance *chance;
    struct actor workers[WORKERS];
    struct actor publisher;
};

static void begin_crowd(struct crowd *c)
{
    for (int i = 0; i < WORKERS; i++) {
        actor_start(&c->workers[i], work_by_chance, c->chance);
        actor_hear(&c->workers[i]);
    }
    actor_start(&c->publisher, publish_by_chance, c->chance);
}

static struct crowd new_crowd(const struct daemon *d)
{
    struct crowd c = {.chance = mmap(NULL, sizeof(*c.chance), PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)};

    assert_true(c.chance != MAP_FAILED);
    snprintf(c.chance->instance, sizeof(c.chance->instance), "%s", d->instance);
    begin_crowd(&c);
    return c;
}

static void await_progress(const struct chance *chance, uint32_t *random, uint32_t most)
{
    uint32_t target = atomic_load(&chance->next) + stamp_random(random) % most;

    PATIENCE_UNTIL(atomic_load(&chance->next) >= target);
}

/* All is done that there was to do. */
static void end_crowd(struct crowd *c, const struct daemon *d)
{
    const struct board_group *g = board_group(daemon_board(d), 0);

    atomic_store(&c->chance->over, 1);
    actor_join(&c->publisher);
    PATIENCE_UNTIL(board_get(&g->waiting) == 0 && board_get(&g->unacknowledged) == 0);
    for (int i = 0; i < WORKERS; i++)
        actor_kill(&c->workers[i]);
}

static void J4_kills_by_chance_lose_and_repeat_nothing(void **state)
{
    struct daemon *d = *state;
    uint32_t kills = getenv("MQB_LONG") != NULL ? 1000 : 40;
    uint32_t random = 88172645, n;
    struct crowd c;

    start(d, small);
    c = new_crowd(d);
    for (uint32_t i = 0; i < kills; i++) {
        await_progress(c.chance, &random, 100);
        daemon_kill(d);
        daemon_restart(d);
    }
    end_crowd(&c, d);
    n = atomic_load(&c.chance->next);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(c.chance->confirmed[i] + c.chance->refused[i], 1);
        if (c.chance->came[i] != c.chance->confirmed[i] + c.chance->nacked[i])
            fail_msg("%u of %u came %u times, and was given back %u times", i, n, c.chance->came[i],
                     c.chance->nacked[i]);
    }
    munmap(c.chance, sizeof(*c.chance));
}

static void J4_reboots_by_chance_lose_nothing_that_was_confirmed(void **state)
{
    struct daemon *d = *state;
    uint32_t deaths = getenv("MQB_LONG") != NULL ? 1000 : 40;
    uint32_t random = 521288629, n;
    struct crowd c;

    start(d, small);
    c = new_crowd(d);
    for (uint32_t i = 0; i < deaths; i++) {
        await_progress(c.chance, &random, 100);
        if (stamp_random(&random) % 3 != 0) {
            daemon_kill(d);
            daemon_restart(d);
            continue;
        }
        actor_pause(&c.publisher);
        for (int k = 0; k < WORKERS; k++)
            actor_kill(&c.workers[k]);
        actor_kill(&c.publisher);
        reboot_and_start(d);
        begin_crowd(&c);
    }
    end_crowd(&c, d);
    n = atomic_load(&c.chance->next);
    for (uint32_t i = 0; i < n; i++) {
        if (c.chance->confirmed[i] && c.chance->came[i] == 0)
            fail_msg("%u of %u was confirmed, and never came", i, n);
    }
    munmap(c.chance, sizeof(*c.chance));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(J4_confirmed_messages_outlive_a_kill_once_and_in_order),
        TEST(J4_tries_outlive_a_kill),
        TEST(J4_confirmed_messages_outlive_a_reboot_in_order),
        TEST(groups_have_their_settings_after_a_reboot),
        TEST(dead_letters_are_dead_letters_after_a_reboot),
        TEST(retained_messages_outlive_reboots),
        TEST(time_to_live_goes_on_over_a_reboot),
        TEST(a_group_that_was_removed_stays_so),
        TEST(a_clean_stop_is_a_reboot_that_forgets_nothing),
        TEST(a_durable_group_answers_requests),
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
        TEST(J4_kills_by_chance_lose_and_repeat_nothing),
        TEST(J4_reboots_by_chance_lose_nothing_that_was_confirmed),
    };

    setvbuf(stdout, NULL, _IONBF, 0);
    if (getenv("MQB_ONLY") != NULL)
        cmocka_set_test_filter(getenv("MQB_ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
