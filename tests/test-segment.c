/* Shared-memory segments: exact modes, nothing left over, and nothing believed to be a segment that
 * is none (rule S1). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libclient/segment.h"

enum { SIZE = 3 * 4096 };

static char name[64];
static char path[80];  /* of the same, in the file system */
static char other[96]; /* beside it */

static int set_name(void **state)
{
    (void)state;
    snprintf(name, sizeof(name), "/mqbroker-test-segment.%d", (int)getpid());
    snprintf(path, sizeof(path), "/dev/shm%s", name);
    snprintf(other, sizeof(other), "%s.other", path);
    shm_unlink(name);
    return 0;
}

static int remove_segment(void **state)
{
    (void)state;
    unlink(path);
    unlink(other);
    return 0;
}

static void created_segment_is_as_asked_and_zero(void **state)
{
    struct segment s;
    struct stat status;

    (void)state;
    assert_int_equal(segment_create(&s, name, SIZE, 0600), 0);
    assert_int_equal(s.size, SIZE);
    assert_int_equal(s.owner, getuid());
    assert_int_equal(fstat(s.fd, &status), 0);
    assert_true(s.inode == status.st_ino);
    assert_int_equal(status.st_size, SIZE);
    assert_true((fcntl(s.fd, F_GETFD) & FD_CLOEXEC) != 0);
    for (size_t i = 0; i < SIZE; i++)
        assert_int_equal(((const char *)s.base)[i], 0);
    segment_close(&s);
}

static void mode_is_exact_whatever_the_umask(void **state)
{
    struct segment s;
    struct stat status;
    mode_t before = umask(0777);
    int r = segment_create(&s, name, SIZE, 0640);

    (void)state;
    umask(before);
    assert_int_equal(r, 0);
    assert_int_equal(fstat(s.fd, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0640);
    segment_close(&s);
}

static void what_one_writes_the_other_reads(void **state)
{
    struct segment writer;
    struct segment reader;

    (void)state;
    assert_int_equal(segment_create(&writer, name, SIZE, 0600), 0);
    assert_int_equal(segment_open(&reader, name, 0), 0);
    assert_ptr_not_equal(writer.base, reader.base);
    assert_true(writer.inode == reader.inode);
    assert_int_equal(reader.size, SIZE);
    memcpy((char *)writer.base + SIZE - 6, "hello", 6);
    assert_string_equal((const char *)reader.base + SIZE - 6, "hello");
    segment_close(&reader);
    assert_int_equal(segment_open(&reader, name, 1), 0);
    memcpy(reader.base, "reply", 6);
    assert_string_equal(writer.base, "reply");
    segment_close(&reader);
    segment_close(&writer);
}

static void read_only_mapping_cannot_be_written(void **state)
{
    struct segment s;
    int status;
    pid_t child;

    (void)state;
    assert_int_equal(segment_create(&s, name, SIZE, 0600), 0);
    segment_close(&s);
    assert_int_equal(segment_open(&s, name, 0), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* not the sanitizer's report */
        *(volatile char *)s.base = 1;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    segment_close(&s);
}

static void taken_name_is_refused_and_left_alone(void **state)
{
    struct segment first;
    struct segment second;

    (void)state;
    assert_int_equal(segment_create(&first, name, SIZE, 0600), 0);
    assert_int_equal(segment_create(&second, name, SIZE, 0600), -EEXIST);
    assert_null(second.base);
    assert_int_equal(second.fd, -1);
    assert_int_equal(segment_open(&second, name, 0), 0);
    assert_true(first.inode == second.inode);
    segment_close(&second);
    segment_close(&first);
}

static void creation_that_fails_half_way_leaves_nothing_behind(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(segment_create(&s, name, SIZE_MAX, 0600), -EINVAL); /* no such file size */
    assert_int_equal(segment_open(&s, name, 0), -ENOENT);
    assert_int_equal(segment_create(&s, name, (size_t)1 << 62, 0600), -ENOMEM); /* no such range */
    assert_int_equal(segment_open(&s, name, 0), -ENOENT);
    assert_null(s.base);
    assert_int_equal(s.fd, -1);
}

static void closed_segment_may_be_closed_again(void **state)
{
    struct segment s = SEGMENT_CLOSED;
    struct segment before;

    (void)state;
    segment_close(&s);
    assert_int_equal(segment_create(&s, name, SIZE, 0600), 0);
    before = s;
    segment_close(&s);
    assert_int_equal(msync(before.base, before.size, MS_ASYNC), -1); /* nothing is mapped there */
    assert_int_equal(fcntl(before.fd, F_GETFD), -1);
    assert_null(s.base);
    assert_int_equal(s.fd, -1);
    segment_close(&s);
    assert_int_equal(segment_open(&s, name, 0), 0); /* closing does not remove */
    segment_close(&s);
}

static void S1_fifo_is_refused_and_does_not_hold_us_up(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(segment_open(&s, name, 0), -EBADF);
    assert_int_equal(segment_open(&s, name, 1), -EBADF);
    assert_int_equal(s.fd, -1);
}

static void S1_link_is_not_followed(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(segment_create(&s, strrchr(other, '/'), SIZE, 0600), 0);
    segment_close(&s);
    assert_int_equal(symlink(other, path), 0);
    assert_int_equal(segment_open(&s, name, 0), -ELOOP);
    assert_int_equal(segment_open(&s, name, 1), -ELOOP);
}

static void S1_file_of_two_names_is_refused(void **state)
{
    struct segment s;

    (void)state;
    assert_int_equal(segment_create(&s, strrchr(other, '/'), SIZE, 0600), 0);
    segment_close(&s);
    assert_int_equal(link(other, path), 0);
    assert_int_equal(segment_open(&s, name, 0), -EBADF);
    assert_int_equal(s.fd, -1);
}

static void S1_lease_does_not_hold_us_up(void **state)
{
    struct segment s;
    int held;

    (void)state;
    assert_int_equal(segment_create(&s, name, SIZE, 0600), 0);
    segment_close(&s);
    held = open(path, O_RDWR | O_CLOEXEC);
    assert_true(held >= 0);
    if (fcntl(held, F_SETLEASE, F_WRLCK) < 0) {
        close(held);
        skip();
    }
    signal(SIGIO, SIG_IGN); /* what the holder is told */
    assert_int_equal(segment_open(&s, name, 0), -EAGAIN);
    signal(SIGIO, SIG_DFL);
    close(held);
}

static void empty_segment_is_not_mapped(void **state)
{
    struct segment s;
    int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(segment_open(&s, name, 0), -EINVAL);
    assert_int_equal(s.fd, -1);
    close(fd);
}

static void owner_is_told_of_whatever_has_the_name(void **state)
{
    uid_t owner = (uid_t)-1;
    int fd;

    (void)state;
    assert_int_equal(segment_owner(name, &owner), -ENOENT);
    fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0); /* empty, not to be opened */
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(segment_owner(name, &owner), 0);
    assert_int_equal(owner, geteuid());
}

static void allocated_range_has_memory_behind_it(void **state)
{
    struct segment s;
    struct stat status;

    (void)state;
    assert_int_equal(segment_create(&s, name, SIZE, 0600), 0);
    assert_int_equal(fstat(s.fd, &status), 0);
    assert_int_equal(status.st_blocks, 0);
    assert_int_equal(segment_allocate(&s, 4096, 8192), 0);
    assert_int_equal(fstat(s.fd, &status), 0);
    assert_int_equal(status.st_blocks * 512, 8192);
    assert_int_equal(status.st_size, SIZE);
    segment_close(&s);
}

static void more_than_there_is_is_refused_not_a_fault_later(void **state)
{
    struct segment s;
    struct statvfs shm;

    (void)state;
    assert_int_equal(statvfs("/dev/shm", &shm), 0);
    if (shm.f_blocks == 0)
        skip(); /* a tmpfs without a limit would really try */
    assert_int_equal(segment_create(&s, name, SIZE, 0600), 0);
    assert_int_equal(segment_allocate(&s, 0, (size_t)(shm.f_blocks + 1) * shm.f_frsize), -ENOSPC);
    segment_close(&s);
}

#define SEGMENT_TEST(test) cmocka_unit_test_setup_teardown(test, set_name, remove_segment)

int main(void)
{
    const struct CMUnitTest tests[] = {
        SEGMENT_TEST(created_segment_is_as_asked_and_zero),
        SEGMENT_TEST(mode_is_exact_whatever_the_umask),
        SEGMENT_TEST(what_one_writes_the_other_reads),
        SEGMENT_TEST(read_only_mapping_cannot_be_written),
        SEGMENT_TEST(taken_name_is_refused_and_left_alone),
        SEGMENT_TEST(creation_that_fails_half_way_leaves_nothing_behind),
        SEGMENT_TEST(closed_segment_may_be_closed_again),
        SEGMENT_TEST(S1_fifo_is_refused_and_does_not_hold_us_up),
        SEGMENT_TEST(S1_link_is_not_followed),
        SEGMENT_TEST(S1_file_of_two_names_is_refused),
        SEGMENT_TEST(S1_lease_does_not_hold_us_up),
        SEGMENT_TEST(empty_segment_is_not_mapped),
        SEGMENT_TEST(owner_is_told_of_whatever_has_the_name),
        SEGMENT_TEST(allocated_range_has_memory_behind_it),
        SEGMENT_TEST(more_than_there_is_is_refused_not_a_fault_later),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
