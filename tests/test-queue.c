/* The wrapper of POSIX queues: modes, leftovers, and what a full, an empty and an interrupted queue
 * do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libclient/queue.h"

enum { DEPTH = 3, WIDTH = 64 };

static char name[64];

static int set_name(void **state)
{
    (void)state;
    snprintf(name, sizeof(name), "/mqbroker-test-queue.%d", (int)getpid());
    mq_unlink(name);
    return 0;
}

static int remove_queue(void **state)
{
    (void)state;
    mq_unlink(name);
    return 0;
}

static void fill(const struct queue *q)
{
    for (int i = 0; i < DEPTH; i++)
        assert_int_equal(queue_try_send(q, "x", 1, 0), 0);
}

static void charge_is_the_kernels_formula(void **state)
{
    (void)state;
    assert_int_equal(queue_bytes(10, 8192), 82880);
    assert_int_equal(queue_bytes(10, 464), 5600);
    assert_true(queue_bytes(65536, 16u << 20) == UINT64_C(65536) * ((16u << 20) + 96));
}

static void created_queue_is_as_asked(void **state)
{
    struct queue q;
    struct stat status;

    (void)state;
    assert_int_equal(queue_create(&q, name, DEPTH, WIDTH, 0600), 0);
    assert_int_equal(q.depth, DEPTH);
    assert_int_equal(q.width, WIDTH);
    assert_int_equal(q.owner, getuid());
    assert_int_equal(fstat(q.mqd, &status), 0);
    assert_int_equal(q.inode, status.st_ino);
    assert_true((fcntl(q.mqd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_true((fcntl(q.mqd, F_GETFL) & O_NONBLOCK) != 0);
    assert_int_equal(queue_standing(&q), 0);
    queue_close(&q);
}

static void mode_is_exact_whatever_the_umask(void **state)
{
    struct queue q;
    struct stat status;
    mode_t before = umask(0777);
    int r = queue_create(&q, name, DEPTH, WIDTH, 0620);

    (void)state;
    umask(before);
    assert_int_equal(r, 0);
    assert_int_equal(fstat(q.mqd, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0620);
    queue_close(&q);
}

static void taken_name_is_refused_and_left_alone(void **state)
{
    struct queue first;
    struct queue second;

    (void)state;
    assert_int_equal(queue_create(&first, name, DEPTH, WIDTH, 0600), 0);
    assert_int_equal(queue_create(&second, name, DEPTH, WIDTH, 0600), -EEXIST);
    assert_int_equal(second.mqd, (mqd_t)-1);
    assert_int_equal(queue_open(&second, name, O_RDONLY), 0);
    assert_true(second.inode == first.inode);
    queue_close(&second);
    queue_close(&first);
}

static void impossible_geometry_is_refused(void **state)
{
    struct queue q;

    (void)state;
    assert_int_equal(queue_create(&q, name, 65537, WIDTH, 0600), -EINVAL);
    assert_int_equal(queue_create(&q, name, 0, WIDTH, 0600), -EINVAL);
    assert_int_equal(queue_open(&q, name, O_RDONLY), -ENOENT);
    assert_int_equal(q.mqd, (mqd_t)-1);
}

/* From here on fchmod fails with EPERM in this process. */
static void forbid_fchmod(void)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fchmod, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof(program) / sizeof(program[0]), program};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) < 0)
        _exit(77);
}

static void creation_that_fails_half_way_leaves_nothing_behind(void **state)
{
    struct queue q;
    int status;
    pid_t child = fork();

    (void)state;
    assert_true(child >= 0);
    if (child == 0) {
        forbid_fchmod();
        _exit(queue_create(&q, name, DEPTH, WIDTH, 0600) == -EPERM && q.mqd == (mqd_t)-1 ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
        skip(); /* no seccomp here */
    assert_int_equal(status, 0);
    assert_int_equal(queue_open(&q, name, O_RDONLY), -ENOENT);
}

static void closed_queue_may_be_closed_again(void **state)
{
    struct queue q = QUEUE_CLOSED;
    mqd_t mqd;

    (void)state;
    queue_close(&q);
    assert_int_equal(queue_create(&q, name, DEPTH, WIDTH, 0600), 0);
    mqd = q.mqd;
    queue_close(&q);
    assert_int_equal(fcntl(mqd, F_GETFD), -1);
    assert_int_equal(q.mqd, (mqd_t)-1);
    queue_close(&q);
    assert_int_equal(queue_open(&q, name, O_RDWR), 0); /* closing does not remove */
    queue_close(&q);
}

static void messages_come_with_size_and_priority(void **state)
{
    struct queue q;
    char buffer[WIDTH];
    unsigned priority;

    (void)state;
    assert_int_equal(queue_create(&q, name, DEPTH, WIDTH, 0600), 0);
    assert_int_equal(queue_receive(&q, buffer, sizeof(buffer), &priority), -EAGAIN);
    assert_int_equal(queue_send(&q, "low", 3, 1), 0);
    assert_int_equal(queue_send(&q, "", 0, 32), 0);
    assert_int_equal(queue_standing(&q), 2);
    errno = EINTR; /* of an earlier call: an empty message is not an interrupted receive */
    assert_int_equal(queue_receive(&q, buffer, sizeof(buffer), &priority), 0);
    assert_int_equal(priority, 32);
    assert_int_equal(queue_receive(&q, buffer, sizeof(buffer), NULL), 3);
    assert_memory_equal(buffer, "low", 3);
    assert_int_equal(queue_receive(&q, buffer, WIDTH - 1, NULL), -EMSGSIZE);
    assert_int_equal(queue_send(&q, buffer, WIDTH + 1, 0), -EMSGSIZE);
    queue_close(&q);
}

static void full_queue_is_EAGAIN_on_either_kind_of_descriptor(void **state)
{
    struct queue polling;
    struct queue blocking;

    (void)state;
    assert_int_equal(queue_create(&polling, name, DEPTH, WIDTH, 0600), 0);
    assert_int_equal(queue_open(&blocking, name, O_RDWR), 0);
    fill(&blocking);
    assert_int_equal(queue_send(&polling, "x", 1, 0), -EAGAIN);
    assert_int_equal(queue_try_send(&blocking, "x", 1, 0), -EAGAIN);
    assert_int_equal(queue_try_send(&polling, "x", 1, 0), -EAGAIN);
    assert_int_equal(queue_send_within(&blocking, "x", 1, 0, 0), -EAGAIN);
    assert_int_equal(queue_send_within(&blocking, "x", 1, 0, 1001), -EAGAIN);
    assert_int_equal(queue_standing(&polling), DEPTH);
    queue_close(&blocking);
    queue_close(&polling);
}

static void queue_with_room_takes_a_try_at_once(void **state)
{
    struct queue q;
    struct queue blocking;

    (void)state;
    assert_int_equal(queue_create(&q, name, DEPTH, WIDTH, 0600), 0);
    assert_int_equal(queue_open(&blocking, name, O_WRONLY), 0);
    assert_int_equal(queue_try_send(&blocking, "a", 1, 0), 0);
    assert_int_equal(queue_send_within(&blocking, "b", 1, 0, 0), 0);
    assert_int_equal(queue_send_within(&blocking, "c", 1, 0, 999), 0);
    assert_int_equal(queue_standing(&q), 3);
    assert_int_equal(queue_receive(&blocking, (char[WIDTH]){0}, WIDTH, NULL), -EBADF);
    queue_close(&blocking);
    queue_close(&q);
}

/* ---- Interrupted calls: a timer sends signals until the test is over; the handler makes the call
 * succeed at the third. ---- */

static struct queue handlers; /* non-blocking */
static volatile sig_atomic_t n_signals;
static volatile sig_atomic_t third_sends; /* else it receives */

static void on_alarm(int number)
{
    int saved = errno;
    char buffer[WIDTH];

    (void)number;
    if (++n_signals == 3) {
        if (third_sends)
            mq_send(handlers.mqd, "late", 4, 0);
        else
            mq_receive(handlers.mqd, buffer, sizeof(buffer), NULL);
    }
    errno = saved;
}

static void start_signals(int sends)
{
    const struct sigaction action = {.sa_handler = on_alarm}; /* no SA_RESTART */
    const struct itimerval often = {{0, 5000}, {0, 5000}};

    n_signals = 0;
    third_sends = sends;
    assert_int_equal(sigaction(SIGALRM, &action, NULL), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &often, NULL), 0);
}

static void stop_signals(void)
{
    const struct itimerval never = {{0, 0}, {0, 0}};

    assert_int_equal(setitimer(ITIMER_REAL, &never, NULL), 0);
    assert_int_not_equal(signal(SIGALRM, SIG_DFL), SIG_ERR);
}

static void interrupted_receive_is_taken_up_again(void **state)
{
    struct queue q;
    char buffer[WIDTH];

    (void)state;
    assert_int_equal(queue_create(&handlers, name, DEPTH, WIDTH, 0600), 0);
    assert_int_equal(queue_open(&q, name, O_RDWR), 0);
    start_signals(1);
    assert_int_equal(queue_receive(&q, buffer, sizeof(buffer), NULL), 4);
    stop_signals();
    assert_true(n_signals >= 3);
    queue_close(&q);
    queue_close(&handlers);
}

static void interrupted_send_is_taken_up_again(void **state)
{
    struct queue q;

    (void)state;
    assert_int_equal(queue_create(&handlers, name, DEPTH, WIDTH, 0600), 0);
    assert_int_equal(queue_open(&q, name, O_RDWR), 0);
    fill(&q);
    start_signals(0);
    assert_int_equal(queue_send(&q, "more", 4, 0), 0);
    stop_signals();
    assert_true(n_signals >= 3);
    assert_int_equal(queue_standing(&q), DEPTH);
    queue_close(&q);
    queue_close(&handlers);
}

static void interrupted_wait_for_room_tells_its_caller(void **state)
{
    struct queue q;

    (void)state;
    assert_int_equal(queue_create(&handlers, name, DEPTH, WIDTH, 0600), 0);
    assert_int_equal(queue_open(&q, name, O_RDWR), 0);
    fill(&q);
    start_signals(1); /* on a full queue: it changes nothing */
    assert_int_equal(queue_send_within(&q, "more", 4, 0, 60000), -EINTR);
    stop_signals();
    assert_int_equal(queue_standing(&q), DEPTH);
    queue_close(&q);
    queue_close(&handlers);
}

#define QUEUE_TEST(test) cmocka_unit_test_setup_teardown(test, set_name, remove_queue)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(charge_is_the_kernels_formula),
        QUEUE_TEST(created_queue_is_as_asked),
        QUEUE_TEST(mode_is_exact_whatever_the_umask),
        QUEUE_TEST(taken_name_is_refused_and_left_alone),
        QUEUE_TEST(impossible_geometry_is_refused),
        QUEUE_TEST(creation_that_fails_half_way_leaves_nothing_behind),
        QUEUE_TEST(closed_queue_may_be_closed_again),
        QUEUE_TEST(messages_come_with_size_and_priority),
        QUEUE_TEST(full_queue_is_EAGAIN_on_either_kind_of_descriptor),
        QUEUE_TEST(queue_with_room_takes_a_try_at_once),
        QUEUE_TEST(interrupted_receive_is_taken_up_again),
        QUEUE_TEST(interrupted_send_is_taken_up_again),
        QUEUE_TEST(interrupted_wait_for_room_tells_its_caller),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
