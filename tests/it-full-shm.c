/* /dev/shm is full: everything that needs a little of it there is refused with a sentence that says
 * so, nothing breaks, and all goes on when there is room again.
 *
 * The /dev/shm of this test is its own, small, in a mount namespace of its own. Where that is not
 * permitted (a container without user namespaces) the test says so and is skipped. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/daemon.h"
#include "tests/support/patience.h"

enum {
    SKIPPED = 77, /* exit status that CTest knows */
    SMALL = 600,
    LARGE = 500000,
    PUBLISHERS = 6,
    MANY = 2000,
};

#define FILLER "/dev/shm/filler"

static uint8_t payload[LARGE];

/* ---- A /dev/shm of its own ---- */

static bool write_line(const char *path, const char *format, unsigned id)
{
    char line[64];
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    int n = snprintf(line, sizeof(line), format, id, id);
    bool done = fd >= 0 && write(fd, line, (size_t)n) == n;

    if (fd >= 0)
        close(fd);
    return done;
}

/* As who one is, with a namespace of users of one's own if one is not root. */
static bool leave_namespaces(void)
{
    unsigned uid = getuid();
    unsigned gid = getgid();

    if (unshare(CLONE_NEWNS) == 0)
        return true;
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 &&
           write_line("/proc/self/uid_map", "%u %u 1\n", uid) &&
           write_line("/proc/self/setgroups", "deny\n", 0) &&
           write_line("/proc/self/gid_map", "%u %u 1\n", gid);
}

static bool have_own_shm(void)
{
    return leave_namespaces() && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("small", "/dev/shm", "tmpfs", 0, "size=32m,mode=1777") == 0;
}

/* Take all that is left, but for so many bytes. */
static void fill_but(size_t left)
{
    int fd = open(FILLER, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    off_t size = 0;

    assert_true(fd >= 0);
    for (off_t step = 1 << 20; step >= 4096;) {
        if (posix_fallocate(fd, size, step) == 0)
            size += step;
        else
            step /= 2;
    }
    assert_true(size >= (off_t)left);
    assert_int_equal(ftruncate(fd, size - (off_t)left), 0);
    close(fd);
}

static void make_room(void)
{
    assert_int_equal(unlink(FILLER), 0);
}

/* ---- The tests ---- */

static void expect_message(struct mqc *client, size_t size)
{
    struct mqc_message m;

    assert_int_equal(mqc_receive(client, &m, PATIENCE_MS), 0);
    assert_int_equal(m.size, size);
    assert_memory_equal(m.payload, payload, size);
    mqc_message_free(&m);
}

static void large_payloads_are_refused_and_small_ones_pass(void **state)
{
    struct daemon *d = *state;
    struct mqc *publisher, *subscriber;

    daemon_start(d, NULL);
    publisher = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    subscriber = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(subscriber, "t", 0), 0);
    fill_but(0);
    assert_int_equal(mqc_publish(publisher, "t", payload, LARGE, 8), -ENOSPC);
    assert_non_null(strstr(mqc_last_error(), "/dev/shm is full"));
    assert_int_equal(mqc_publish(publisher, "t", payload, SMALL, 8), 0);
    expect_message(subscriber, SMALL);
    make_room();
    assert_int_equal(mqc_publish(publisher, "t", payload, LARGE, 8), 0);
    expect_message(subscriber, LARGE);
    mqc_close(publisher);
    mqc_close(subscriber);
}

/* There is room for what the client makes itself (`left` bytes), or not even for that. */
static void refuse_registration(struct daemon *d, size_t left)
{
    const struct mqc_options options = {.instance = d->instance};
    struct mqc *client;

    fill_but(left);
    assert_true(mqc_open(&client, &options) < 0);
    assert_non_null(strstr(mqc_last_error(), "/dev/shm is full"));
    make_room();
    assert_int_equal(mqc_open(&client, &options), 0);
    mqc_close(client);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
}

static void who_registers_is_refused_with_a_sentence(void **state)
{
    struct daemon *d = *state;

    daemon_start(d, NULL);
    refuse_registration(d, 0);
    refuse_registration(d, 64 << 10);
    assert_true(daemon_said(d, "/dev/shm is full"));
}

/* The store grows by a mebibyte at a time; what it has no room for is refused, or waits. */
static unsigned publish_many(struct mqc *publishers[PUBLISHERS])
{
    unsigned n = 0;

    for (unsigned i = 0; i < MANY; i++) {
        struct mqc *c = publishers[i % PUBLISHERS];
        const struct mqc_publication p = {.topic = "t",
                                          .payload = payload,
                                          .size = SMALL,
                                          .priority = 8,
                                          .flags = MQC_CONFIRM | MQC_NOWAIT};
        int64_t number = mqc_publish_with(c, &p);
        int r;

        if (number == -EAGAIN)
            continue;
        assert_true(number > 0);
        r = mqc_confirm_wait(c, number, PATIENCE_MS);
        assert_true(r == 0 || r == -ENOBUFS);
        n += r == 0;
    }
    return n;
}

static void K_what_was_confirmed_while_it_was_full_is_delivered(void **state)
{
    struct daemon *d = *state;
    struct mqc *publishers[PUBLISHERS];
    struct mqc *subscriber;
    struct mqc_message m;
    unsigned n;

    daemon_start(d, "stall_timeout = \"1h\"; max_clients = 10;");
    subscriber = daemon_open(d, NULL, 0);
    assert_int_equal(mqc_subscribe(subscriber, "t", 0), 0);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        publishers[i] = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    fill_but(0);
    n = publish_many(publishers);
    assert_true(n > 0 && n < MANY);
    daemon_kill(d);
    daemon_restart(d); /* all that it needs is there */
    for (unsigned i = 0; i < n; i++)
        expect_message(subscriber, SMALL);
    assert_int_equal(mqc_receive(subscriber, &m, 0), -EAGAIN);
    make_room();
    n = publish_many(publishers);
    for (unsigned i = 0; i < n; i++)
        expect_message(subscriber, SMALL);
    assert_int_equal(mqc_missed(subscriber), 0);
    for (unsigned i = 0; i < PUBLISHERS; i++)
        mqc_close(publishers[i]);
    mqc_close(subscriber);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(large_payloads_are_refused_and_small_ones_pass),
        DAEMON_TEST(who_registers_is_refused_with_a_sentence),
        DAEMON_TEST(K_what_was_confirmed_while_it_was_full_is_delivered),
    };

    for (size_t i = 0; i < sizeof(payload); i++)
        payload[i] = (uint8_t)(i * 7);
    if (!have_own_shm()) {
        printf("it-full-shm: skipped: a /dev/shm of its own is not permitted here: %s\n",
               strerror(errno));
        return SKIPPED;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
