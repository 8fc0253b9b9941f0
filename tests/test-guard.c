/* Guarded mappings (rule S1): what an owner does to its segment reads as zeros, and only that. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/guard.h"
#include "libclient/segment.h"

enum { PAGE = 4096, SIZE = 5 * PAGE };

static char name[64];
static char other[64];

static void make(struct segment *s, const char *of, uint8_t content)
{
    assert_int_equal(segment_create(s, of, SIZE, 0600), 0);
    assert_int_equal(segment_allocate(s, 0, SIZE), 0);
    memset(s->base, content, SIZE);
}

/* In each test anew: cmocka has a handler of its own around each. */
static void guard(void)
{
    assert_int_equal(guard_init(), 0);
}

static uint8_t at(const struct guard *g, size_t offset)
{
    return ((const volatile uint8_t *)g->base)[offset];
}

static int set_up(void **state)
{
    (void)state;
    snprintf(name, sizeof(name), "/mqbroker-test-guard.%d", (int)getpid());
    snprintf(other, sizeof(other), "/mqbroker-test-guard.%d.other", (int)getpid());
    shm_unlink(name);
    shm_unlink(other);
    guard_tripped();
    return 0;
}

static int remove_both(void **state)
{
    (void)state;
    shm_unlink(name);
    shm_unlink(other);
    return 0;
}

static void what_is_mapped_can_be_read_and_not_written(void **state)
{
    struct segment s;
    struct guard g;

    (void)state;
    make(&s, name, 7);
    assert_int_equal(guard_open(&g, name, geteuid(), SIZE), 0);
    assert_int_equal(at(&g, 0), 7);
    assert_int_equal(at(&g, SIZE - 1), 7);
    assert_int_equal(mprotect(g.base, PAGE, PROT_READ | PROT_WRITE), -1);
    assert_false(g.broken);
    guard_close(&g);
    guard_close(&g);
    segment_close(&s);
}

static void S1_a_segment_cut_off_reads_as_zeros(void **state)
{
    struct segment s, t;
    struct guard g, h;

    (void)state;
    guard();
    make(&s, name, 7);
    make(&t, other, 9);
    assert_int_equal(guard_open(&g, name, geteuid(), SIZE), 0);
    assert_int_equal(guard_open(&h, other, geteuid(), SIZE), 0);
    assert_int_equal(at(&g, SIZE - 1), 7);
    assert_int_equal(ftruncate(s.fd, 0), 0);
    assert_false(guard_tripped());
    errno = 77;
    assert_int_equal(at(&g, SIZE - 1), 0);
    assert_int_equal(errno, 77);
    assert_int_equal(at(&g, 0), 0);
    assert_true(g.broken);
    assert_true(guard_tripped());
    assert_false(guard_tripped());
    assert_int_equal(at(&h, 0), 9); /* nobody else's */
    assert_false(h.broken);
    guard_close(&g);
    guard_close(&h);
    segment_close(&s);
    segment_close(&t);
}

static void S1_what_was_closed_is_no_longer_guarded(void **state)
{
    struct segment s;
    struct guard g[3];

    (void)state;
    guard();
    make(&s, name, 7);
    for (int i = 0; i < 3; i++)
        assert_int_equal(guard_open(&g[i], name, geteuid(), SIZE), 0);
    guard_close(&g[1]);
    assert_int_equal(ftruncate(s.fd, 0), 0);
    for (int i = 0; i < 3; i += 2)
        assert_int_equal(at(&g[i], 0), 0);
    assert_true(g[0].broken && g[2].broken);
    guard_close(&g[2]);
    guard_close(&g[0]);
    segment_close(&s);
}

/* A child that reads where nobody guards: how it ended. */
static int read_unguarded(struct segment *s)
{
    pid_t child = fork();
    int status;

    if (child == 0) {
        struct rlimit none = {0};
        struct sigaction plain = {.sa_handler = SIG_DFL};

        setrlimit(RLIMIT_CORE, &none);
        sigaction(SIGBUS, &plain, NULL);
        if (guard_init() < 0)
            _exit(1);
        _exit(((const volatile uint8_t *)s->base)[0]);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void any_other_bus_error_is_what_it_was(void **state)
{
    struct segment s;
    int status;

    (void)state;
    make(&s, name, 0);
    assert_int_equal(ftruncate(s.fd, 0), 0);
    status = read_unguarded(&s);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGBUS);
    segment_close(&s);
}

static void S1_only_a_segment_of_its_owner_is_opened(void **state)
{
    char path[128], link_path[160];
    struct segment s;
    struct guard g;

    (void)state;
    assert_int_equal(guard_open(&g, name, geteuid(), SIZE), -ENOENT);
    make(&s, name, 7);
    assert_int_equal(guard_open(&g, name, geteuid() + 1, SIZE), -EBADF);
    assert_int_equal(guard_open(&g, name, geteuid(), SIZE + 1), -EINVAL);
    assert_null(g.base);
    snprintf(path, sizeof(path), "/dev/shm%s", name);
    snprintf(link_path, sizeof(link_path), "/dev/shm%s", other);
    assert_int_equal(link(path, link_path), 0);
    assert_int_equal(guard_open(&g, name, geteuid(), SIZE), -EBADF);
    assert_int_equal(unlink(link_path), 0);
    assert_int_equal(symlink(path, link_path), 0);
    assert_int_equal(guard_open(&g, other, geteuid(), SIZE), -ELOOP);
    assert_int_equal(unlink(link_path), 0);
    assert_int_equal(mkfifo(link_path, 0600), 0);
    assert_int_equal(guard_open(&g, other, geteuid(), SIZE), -EBADF);
    segment_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_mapped_can_be_read_and_not_written, set_up,
                                        remove_both),
        cmocka_unit_test_setup_teardown(S1_a_segment_cut_off_reads_as_zeros, set_up, remove_both),
        cmocka_unit_test_setup_teardown(S1_what_was_closed_is_no_longer_guarded, set_up,
                                        remove_both),
        cmocka_unit_test_setup_teardown(any_other_bus_error_is_what_it_was, set_up, remove_both),
        cmocka_unit_test_setup_teardown(S1_only_a_segment_of_its_owner_is_opened, set_up,
                                        remove_both),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
