/* What the code relies on in the kernel, each fact by name: a kernel that differs says here in
 * which way, and not somewhere in the middle of a broker. What hangs on a fact stands in the
 * comment above it. The calls are bare: a wrapper of ours could mend what it should show.
 *
 * Nothing here measures time. Where a fact needs somebody to be blocked, the test waits until /proc
 * shows that he is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEPTH = 4, WIDTH = 64, PATIENCE_MS = 20000 };

static char name[64];
static mqd_t queue; /* one for each test: both directions, non-blocking, empty */

static mqd_t new_queue(const char *of_name, long depth, long width)
{
    struct mq_attr attributes = {.mq_maxmsg = depth, .mq_msgsize = width};

    return mq_open(of_name, O_CREAT | O_EXCL | O_RDWR | O_NONBLOCK | O_CLOEXEC, 0600, &attributes);
}

static int make_queue(void **state)
{
    (void)state;
    snprintf(name, sizeof(name), "/mqbroker-test-facts.%d", (int)getpid());
    mq_unlink(name);
    shm_unlink(name);
    queue = new_queue(name, DEPTH, WIDTH);
    if (queue < 0)
        print_error("no queue for the test: %s\n", strerror(errno));
    return queue < 0 ? -1 : 0;
}

static int remove_queue(void **state)
{
    (void)state;
    mq_close(queue);
    mq_unlink(name);
    shm_unlink(name);
    return 0;
}

static void send_one(unsigned priority)
{
    assert_int_equal(mq_send(queue, "x", 1, priority), 0);
}

static void receive_one(void)
{
    char buffer[WIDTH];

    assert_true(mq_receive(queue, buffer, sizeof(buffer), NULL) >= 0);
}

static void fill(void)
{
    for (int i = 0; i < DEPTH; i++)
        send_one(0);
}

static long standing(void)
{
    struct mq_attr attributes;

    assert_int_equal(mq_getattr(queue, &attributes), 0);
    return attributes.mq_curmsgs;
}

/* A child's verdict: exits 0 (good), 1 (bad) or SKIPPED. */
enum { SKIPPED = 77 };

static void child_must_agree(pid_t child)
{
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
        skip();
    assert_int_equal(status, 0);
}

static pid_t fork_child(void)
{
    pid_t child = fork();

    assert_true(child >= 0);
    if (child == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* no test leaves anybody behind */
    return child;
}

/* ---- Limits ---- */

/* In a process of its own: is a queue of this geometry created under this soft limit? -1: for
 * another reason not. */
static int fits(rlim_t limit, long depth, long width)
{
    struct rlimit r;
    char of_name[80];
    mqd_t q;
    int error;

    if (getrlimit(RLIMIT_MSGQUEUE, &r) < 0)
        return -1;
    r.rlim_cur = limit;
    if (setrlimit(RLIMIT_MSGQUEUE, &r) < 0)
        return -1;
    snprintf(of_name, sizeof(of_name), "%s.fits", name);
    q = new_queue(of_name, depth, width);
    error = errno;
    if (q >= 0) {
        mq_unlink(of_name);
        mq_close(q);
        return 1;
    }
    return error == EMFILE ? 0 : -1;
}

/* The smallest limit under which it fits: what this user's queues are charged now, and this one on
 * top; -1 if that cannot be told. */
static int64_t smallest_limit(long depth, long width)
{
    struct rlimit r;
    int64_t low = 0; /* never fits */
    int64_t high;

    if (getrlimit(RLIMIT_MSGQUEUE, &r) < 0)
        return -1;
    high = r.rlim_max > 1 << 30 ? 1 << 30 : (int64_t)r.rlim_max;
    if (fits((rlim_t)high, depth, width) != 1)
        return -1;
    while (high - low > 1) {
        int64_t middle = low + (high - low) / 2;

        switch (fits((rlim_t)middle, depth, width)) {
        case 0:
            low = middle;
            break;
        case 1:
            high = middle;
            break;
        default:
            return -1;
        }
    }
    return high;
}

/* A queue under the highest limit there is. */
static mqd_t new_held_queue(const char *of_name, long depth, long width)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_MSGQUEUE, &r) < 0)
        return -1;
    r.rlim_cur = r.rlim_max;
    if (setrlimit(RLIMIT_MSGQUEUE, &r) < 0)
        return -1;
    return new_queue(of_name, depth, width);
}

enum charge_of {
    OPEN_QUEUE,
    UNLINKED_QUEUE, /* but not closed */
};

/* What holding a queue of this geometry adds to the charge; -1 if that cannot be told, because
 * other processes of the user made or removed queues meanwhile. */
static int64_t charge_once(enum charge_of what, long depth, long width)
{
    char of_name[80];
    int64_t before = smallest_limit(1, 1);
    int64_t with;
    mqd_t held;

    snprintf(of_name, sizeof(of_name), "%s.held", name);
    held = before < 0 ? -1 : new_held_queue(of_name, depth, width);
    if (held < 0)
        return -1;
    if (what == UNLINKED_QUEUE)
        mq_unlink(of_name);
    with = smallest_limit(1, 1);
    mq_unlink(of_name);
    mq_close(held);
    return with > 0 && smallest_limit(1, 1) == before ? with - before : -1;
}

/* The same, when two figures in a row agree; -1 if none ever did. */
static int64_t charge(enum charge_of what, long depth, long width)
{
    int64_t last = -1;

    for (int i = 0; i < 100; i++) {
        int64_t bytes = charge_once(what, depth, width);

        if (bytes >= 0 && bytes == last)
            return bytes;
        last = bytes;
    }
    return -1;
}

/* `--limits`, queue_bytes() and the whole plan of geometry. */
static void queue_is_charged_depth_times_width_plus_96_and_the_refusal_is_EMFILE(void **state)
{
    pid_t child = fork_child();

    (void)state;
    if (child == 0) {
        int64_t wide = charge(OPEN_QUEUE, 2, 1024);
        int64_t deep = charge(OPEN_QUEUE, 7, 64);

        if (wide < 0 || deep < 0)
            _exit(SKIPPED); /* no room, or no moment of peace */
        _exit(wide == 2 * (1024 + 96) && deep == 7 * (64 + 96) ? 0 : 1);
    }
    child_must_agree(child);
}

/* A session that ends frees its queue's bytes only if the client closes it too. */
static void unlinked_queue_is_charged_until_its_last_descriptor_closes(void **state)
{
    pid_t child = fork_child();

    (void)state;
    if (child == 0) {
        int64_t bytes = charge(UNLINKED_QUEUE, 2, 1024);

        _exit(bytes < 0 ? SKIPPED : bytes != 2 * (1024 + 96));
    }
    child_must_agree(child);
}

static void buffer_smaller_than_the_width_is_EMSGSIZE_even_on_an_empty_queue(void **state)
{
    char buffer[WIDTH];

    (void)state;
    assert_int_equal(mq_receive(queue, buffer, WIDTH - 1, NULL), -1);
    assert_int_equal(errno, EMSGSIZE);
    send_one(0);
    assert_int_equal(mq_receive(queue, buffer, WIDTH - 1, NULL), -1);
    assert_int_equal(errno, EMSGSIZE);
    assert_int_equal(standing(), 1);
}

static void message_larger_than_the_width_is_EMSGSIZE(void **state)
{
    char bytes[WIDTH + 1] = {0};

    (void)state;
    assert_int_equal(mq_send(queue, bytes, sizeof(bytes), 0), -1);
    assert_int_equal(errno, EMSGSIZE);
    assert_int_equal(mq_send(queue, bytes, WIDTH, 0), 0);
}

/* Control frames travel above all messages. */
static void priorities_go_above_31(void **state)
{
    (void)state;
    send_one(32);
    send_one(32767);
    assert_int_equal(mq_send(queue, "x", 1, 32768), -1);
    assert_int_equal(errno, EINVAL);
}

static void umask_counts_for_queues_and_fchmod_does_not_mind_it(void **state)
{
    char of_name[80];
    struct stat status;
    mode_t before;
    mqd_t q;

    (void)state;
    snprintf(of_name, sizeof(of_name), "%s.mode", name);
    before = umask(0777);
    q = new_queue(of_name, 1, 1);
    mq_unlink(of_name);
    umask(before);
    assert_true(q >= 0);
    assert_int_equal(fstat(q, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0);
    assert_int_equal(fchmod(q, 0460), 0);
    assert_int_equal(fstat(q, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0460);
    mq_close(q);
}

/* ---- Order ---- */

/* P1 begins here. */
static void highest_priority_comes_first_and_first_in_first_out_within_one(void **state)
{
    static const struct {
        char text;
        unsigned priority;
    } sent[DEPTH] = {{'c', 1}, {'a', 31}, {'d', 1}, {'b', 31}};

    (void)state;
    for (int i = 0; i < DEPTH; i++)
        assert_int_equal(mq_send(queue, &sent[i].text, 1, sent[i].priority), 0);
    for (char expected = 'a'; expected <= 'd'; expected++) {
        char buffer[WIDTH];
        unsigned priority;

        assert_int_equal(mq_receive(queue, buffer, sizeof(buffer), &priority), 1);
        assert_int_equal(buffer[0], expected);
        assert_int_equal(priority, expected <= 'b' ? 31 : 1);
    }
}

/* queue_try_send(). */
static void send_with_a_past_deadline_does_not_wait(void **state)
{
    const struct timespec past = {0, 0};
    mqd_t blocking = mq_open(name, O_WRONLY | O_CLOEXEC);

    (void)state;
    assert_true(blocking >= 0);
    for (int i = 0; i < DEPTH; i++)
        assert_int_equal(mq_timedsend(blocking, "x", 1, 0, &past), 0);
    assert_int_equal(mq_timedsend(blocking, "x", 1, 0, &past), -1);
    assert_int_equal(errno, ETIMEDOUT);
    receive_one();
    assert_int_equal(mq_timedsend(blocking, "x", 1, 0, &past), 0);
    mq_close(blocking);
}

/* Wait until a child sleeps in this system call; false if it ended instead, or if /proc does not
 * tell. */
static bool wait_until_in(pid_t child, long call)
{
    char path[64];

    snprintf(path, sizeof(path), "/proc/%d/syscall", (int)child);
    for (;;) {
        siginfo_t end = {0};
        FILE *f = fopen(path, "r");
        long number;
        bool told;
        bool there;

        if (f == NULL)
            return false;
        there = fscanf(f, "%ld", &number) == 1 && number == call; /* no number while it is awake */
        told = ferror(f) == 0;
        fclose(f);
        if (there || !told)
            return there;
        if (waitid(P_PID, (id_t)child, &end, WEXITED | WNOHANG | WNOWAIT) < 0 || end.si_pid != 0)
            return false;
        sched_yield();
    }
}

static pid_t fork_blocked_sender(void)
{
    pid_t child = fork_child();

    if (child == 0) {
        mqd_t blocking = mq_open(name, O_WRONLY | O_CLOEXEC);

        _exit(blocking >= 0 && mq_send(blocking, "b", 1, 0) == 0 ? 0 : 1);
    }
    return child;
}

static void kill_and_reap(pid_t child)
{
    int status;

    assert_int_equal(kill(child, SIGKILL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

/* Why what a client did not get into the queue may be forgotten with it. */
static void message_of_a_blocked_sender_that_is_killed_never_existed(void **state)
{
    pid_t child;

    (void)state;
    fill();
    child = fork_blocked_sender();
    if (!wait_until_in(child, SYS_mq_timedsend)) {
        kill_and_reap(child);
        skip();
    }
    assert_int_equal(standing(), DEPTH);
    kill_and_reap(child);
    for (int i = 0; i < DEPTH; i++)
        receive_one();
    assert_int_equal(standing(), 0);
}

static int epoll_on_queue(uint32_t events)
{
    struct epoll_event event = {.events = events};
    int epoll = epoll_create1(EPOLL_CLOEXEC);

    assert_true(epoll >= 0);
    assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, queue, &event), 0);
    return epoll;
}

/* What is ready now; 0 if nothing. */
static uint32_t look(int epoll)
{
    struct epoll_event event;
    int n = epoll_wait(epoll, &event, 1, 0);

    assert_true(n >= 0);
    return n == 0 ? 0 : event.events;
}

/* Why the broker polls reply queues and never blocks on them, and clients the other way round on
 * request queues. */
static void freed_slot_goes_to_the_blocked_sender_and_pollers_are_not_told(void **state)
{
    pid_t child;
    int epoll;

    (void)state;
    fill();
    epoll = epoll_on_queue(EPOLLOUT | EPOLLET);
    assert_int_equal(look(epoll), 0);
    child = fork_blocked_sender();
    if (!wait_until_in(child, SYS_mq_timedsend)) {
        kill_and_reap(child);
        close(epoll);
        skip();
    }
    receive_one();
    assert_int_equal(standing(), DEPTH);
    assert_int_equal(look(epoll), 0);
    child_must_agree(child);
    close(epoll);
}

/* ---- Waking ---- */

static void queue_polls_in_both_directions_level_triggered(void **state)
{
    int epoll = epoll_on_queue(EPOLLIN | EPOLLOUT);

    (void)state;
    assert_int_equal(look(epoll), EPOLLOUT);
    assert_int_equal(look(epoll), EPOLLOUT); /* on every look: P2 */
    send_one(0);
    assert_int_equal(look(epoll), EPOLLIN | EPOLLOUT);
    for (int i = 1; i < DEPTH; i++)
        send_one(0);
    assert_int_equal(look(epoll), EPOLLIN);
    close(epoll);
}

static void P2_edge_triggered_EPOLLOUT_comes_once_for_each_receive(void **state)
{
    int epoll;

    (void)state;
    fill();
    epoll = epoll_on_queue(EPOLLOUT | EPOLLET);
    assert_int_equal(look(epoll), 0);
    for (int i = 0; i < DEPTH; i++) { /* not only the first, from full */
        receive_one();
        assert_int_equal(look(epoll), EPOLLOUT);
        assert_int_equal(look(epoll), 0);
    }
    close(epoll);
}

/* Arming again cannot miss room that came between a full queue and the arming. */
static void P2_arming_again_tells_of_room_that_is_there(void **state)
{
    struct epoll_event armed = {.events = EPOLLOUT | EPOLLET};
    struct epoll_event disarmed = {.events = 0};
    int epoll = epoll_on_queue(0);

    (void)state;
    fill();
    assert_int_equal(look(epoll), 0);
    receive_one();
    assert_int_equal(look(epoll), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_MOD, queue, &armed), 0);
        assert_int_equal(look(epoll), EPOLLOUT);
        assert_int_equal(look(epoll), 0);
    }
    assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_MOD, queue, &disarmed), 0);
    receive_one();
    assert_int_equal(look(epoll), 0);
    while (standing() < DEPTH)
        send_one(0);
    /* Full again: arming says nothing. */
    assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_MOD, queue, &armed), 0);
    assert_int_equal(look(epoll), 0);
    close(epoll);
}

/* Why the death of a client must be seen by its pidfd. */
static void dead_reader_is_no_hang_up_and_no_error_until_the_queue_is_full(void **state)
{
    int epoll = epoll_on_queue(EPOLLOUT);
    pid_t child = fork_child();

    (void)state;
    if (child == 0) {
        mqd_t reader = mq_open(name, O_RDONLY | O_CLOEXEC);

        _exit(reader >= 0 ? 0 : 1); /* without closing it */
    }
    child_must_agree(child);
    assert_int_equal(look(epoll), EPOLLOUT);
    fill();
    assert_int_equal(look(epoll), 0);
    assert_int_equal(mq_send(queue, "x", 1, 0), -1);
    assert_int_equal(errno, EAGAIN);
    close(epoll);
}

/* mqc_notify(), and its contract: receive until -EAGAIN, then ask again. */
static void mq_notify_is_one_shot_and_only_from_empty_to_not_empty(void **state)
{
    struct sigevent by_signal = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    const struct timespec now = {0, 0};
    sigset_t set;

    (void)state;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN);
    assert_int_equal(sigprocmask(SIG_BLOCK, &set, NULL), 0);

    assert_int_equal(mq_notify(queue, &by_signal), 0);
    assert_int_equal(mq_notify(queue, &by_signal), -1); /* one registrant */
    assert_int_equal(errno, EBUSY);
    send_one(0);
    assert_int_equal(sigtimedwait(&set, NULL, &now), SIGRTMIN);
    receive_one();
    send_one(0);
    assert_int_equal(sigtimedwait(&set, NULL, &now), -1); /* one shot */
    assert_int_equal(mq_notify(queue, &by_signal), 0);
    send_one(0);
    assert_int_equal(sigtimedwait(&set, NULL, &now), -1); /* it was not empty */
    receive_one();
    receive_one();
    send_one(0);
    assert_int_equal(sigtimedwait(&set, NULL, &now), SIGRTMIN);
    assert_int_equal(sigprocmask(SIG_UNBLOCK, &set, NULL), 0);
}

/* ---- Life and death ---- */

static void queue_and_its_messages_outlive_their_creator(void **state)
{
    char of_name[80];
    char buffer[WIDTH];
    pid_t child;
    mqd_t q;

    (void)state;
    snprintf(of_name, sizeof(of_name), "%s.child", name);
    child = fork_child();
    if (child == 0) {
        mqd_t own = new_queue(of_name, 1, WIDTH);

        _exit(own >= 0 && mq_send(own, "legacy", 6, 3) == 0 ? 0 : 1);
    }
    child_must_agree(child);
    q = mq_open(of_name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    mq_unlink(of_name);
    assert_true(q >= 0);
    assert_int_equal(mq_receive(q, buffer, sizeof(buffer), NULL), 6);
    assert_memory_equal(buffer, "legacy", 6);
    mq_close(q);
}

static void unlinked_queue_still_works_by_its_descriptor(void **state)
{
    (void)state;
    assert_int_equal(mq_unlink(name), 0);
    assert_int_equal(mq_open(name, O_RDONLY), -1);
    assert_int_equal(errno, ENOENT);
    send_one(0);
    receive_one();
}

/* K8: a queue of the same name is told from the one that was made. */
static void queue_made_again_has_another_inode(void **state)
{
    struct stat before;
    struct stat after;

    (void)state;
    assert_int_equal(fstat(queue, &before), 0);
    mq_close(queue);
    assert_int_equal(mq_unlink(name), 0);
    queue = new_queue(name, DEPTH, WIDTH);
    assert_true(queue >= 0);
    assert_int_equal(fstat(queue, &after), 0);
    assert_true(before.st_ino != after.st_ino);
    assert_int_equal(after.st_uid, getuid());
}

static void fchmod_does_not_take_back_what_is_open(void **state)
{
    mqd_t reader = mq_open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    char buffer[WIDTH];

    (void)state;
    assert_true(reader >= 0);
    assert_int_equal(fchmod(queue, 0), 0);
    send_one(0);
    assert_int_equal(mq_receive(reader, buffer, sizeof(buffer), NULL), 1);
    mq_close(reader);
}

/* L1: clients are not the broker's children. */
static void pidfd_tells_of_the_death_of_a_process_that_is_no_child(void **state)
{
    struct pollfd death = {.events = POLLIN};
    pid_t grandchild;
    int ends[2];
    pid_t child;

    (void)state;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    child = fork_child();
    if (child == 0) {
        pid_t pid = fork();

        if (pid == 0) {
            close(ends[0]);
            alarm(60); /* should the test die meanwhile */
            for (;;)
                pause();
        }
        _exit(pid > 0 && write(ends[1], &pid, sizeof(pid)) == sizeof(pid) ? 0 : 1);
    }
    child_must_agree(child); /* so the other one is an orphan now */
    assert_int_equal(read(ends[0], &grandchild, sizeof(grandchild)), sizeof(grandchild));
    close(ends[0]);
    close(ends[1]);

    death.fd = (int)syscall(SYS_pidfd_open, grandchild, 0);
    assert_true(death.fd >= 0);
    assert_int_equal(poll(&death, 1, 0), 0);
    assert_int_equal(kill(grandchild, SIGKILL), 0);
    assert_int_equal(poll(&death, 1, PATIENCE_MS), 1);
    close(death.fd);
}

/* ---- Shared memory ---- */

static int new_segment(size_t size)
{
    int fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)size), 0);
    return fd;
}

static void *map(int fd, int protection, size_t size)
{
    void *base = mmap(NULL, size, protection, MAP_SHARED, fd, 0);

    assert_true(base != MAP_FAILED);
    return base;
}

/* K4: the landing. */
static void K4_receive_works_straight_into_shared_memory(void **state)
{
    int fd = new_segment(4096);
    char *writable = map(fd, PROT_READ | PROT_WRITE, 4096);
    const char *other = map(fd, PROT_READ, 4096);

    (void)state;
    assert_int_equal(mq_send(queue, "landed", 6, 0), 0);
    assert_int_equal(mq_receive(queue, writable, WIDTH, NULL), 6);
    assert_memory_equal(other, "landed", 6);
    munmap(writable, 4096);
    munmap((void *)(uintptr_t)other, 4096);
    close(fd);
}

/* K4: why the landing must be allocated before. */
static void K4_receive_into_a_bad_page_loses_the_message(void **state)
{
    void *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    (void)state;
    assert_true(hole != MAP_FAILED);
    send_one(0);
    /* By number: the sanitizers would look at the buffer first. */
    assert_int_equal(syscall(SYS_mq_timedreceive, queue, hole, (size_t)WIDTH, NULL, NULL), -1);
    assert_int_equal(errno, EFAULT);
    assert_int_equal(standing(), 0);
    munmap(hole, 4096);
}

/* S1: why the broker reads client memory by pread. */
static void S1_truncated_segment_is_SIGBUS_in_a_mapping_and_short_by_pread(void **state)
{
    int fd = new_segment(8192);
    volatile char *base = map(fd, PROT_READ | PROT_WRITE, 8192);
    char buffer[8192];
    int status;
    pid_t child;

    (void)state;
    base[4096] = 1;
    assert_int_equal(pread(fd, buffer, 8192, 0), 8192);
    assert_int_equal(ftruncate(fd, 4096), 0);
    assert_int_equal(pread(fd, buffer, 8192, 0), 4096);
    child = fork_child();
    if (child == 0) {
        signal(SIGBUS, SIG_DFL); /* not the sanitizer's report */
        _exit(base[4096]);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    munmap((void *)(uintptr_t)base, 8192);
    close(fd);
}

/* One broker for each instance. */
static void flock_on_a_segment_conflicts_between_opens_and_ends_with_its_holder(void **state)
{
    int ours = new_segment(4096);
    int ends[2];
    char locked;
    pid_t child;

    (void)state;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    child = fork_child();
    if (child == 0) {
        int theirs = shm_open(name, O_RDWR, 0);

        if (theirs >= 0 && flock(theirs, LOCK_EX | LOCK_NB) == 0 && write(ends[1], "l", 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &locked, 1), 1);
    close(ends[0]);
    assert_int_equal(flock(ours, LOCK_EX | LOCK_NB), -1);
    assert_int_equal(errno, EWOULDBLOCK);
    kill_and_reap(child);
    assert_int_equal(flock(ours, LOCK_EX | LOCK_NB), 0);
    close(ours);
}

static void *wait_on_word(void *word)
{
    long r = syscall(SYS_futex, word, FUTEX_WAIT, 0, NULL, NULL, 0);

    return (void *)(intptr_t)(r == 0 ? 0 : errno);
}

/* Clients map the board read-only and sleep on its postings. */
static void futex_waiter_on_a_read_only_mapping_is_woken(void **state)
{
    int fd = new_segment(4096);
    void *writable = map(fd, PROT_READ | PROT_WRITE, 4096);
    void *readable = map(fd, PROT_READ, 4096);
    pthread_t waiter;
    void *result;

    (void)state;
    assert_int_equal(pthread_create(&waiter, NULL, wait_on_word, readable), 0);
    while (syscall(SYS_futex, writable, FUTEX_WAKE, 1, NULL, NULL, 0) == 0)
        sched_yield(); /* it does not sleep yet */
    assert_int_equal(pthread_join(waiter, &result), 0);
    assert_null(result);

    *(volatile uint32_t *)writable = 1;
    assert_int_equal(syscall(SYS_futex, readable, FUTEX_WAIT, 0, NULL, NULL, 0), -1);
    assert_int_equal(errno, EAGAIN);
    munmap(readable, 4096);
    munmap(writable, 4096);
    close(fd);
}

#define FACT(test) cmocka_unit_test_setup_teardown(test, make_queue, remove_queue)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FACT(queue_is_charged_depth_times_width_plus_96_and_the_refusal_is_EMFILE),
        FACT(unlinked_queue_is_charged_until_its_last_descriptor_closes),
        FACT(buffer_smaller_than_the_width_is_EMSGSIZE_even_on_an_empty_queue),
        FACT(message_larger_than_the_width_is_EMSGSIZE),
        FACT(priorities_go_above_31),
        FACT(umask_counts_for_queues_and_fchmod_does_not_mind_it),
        FACT(highest_priority_comes_first_and_first_in_first_out_within_one),
        FACT(send_with_a_past_deadline_does_not_wait),
        FACT(message_of_a_blocked_sender_that_is_killed_never_existed),
        FACT(freed_slot_goes_to_the_blocked_sender_and_pollers_are_not_told),
        FACT(queue_polls_in_both_directions_level_triggered),
        FACT(P2_edge_triggered_EPOLLOUT_comes_once_for_each_receive),
        FACT(P2_arming_again_tells_of_room_that_is_there),
        FACT(dead_reader_is_no_hang_up_and_no_error_until_the_queue_is_full),
        FACT(mq_notify_is_one_shot_and_only_from_empty_to_not_empty),
        FACT(queue_and_its_messages_outlive_their_creator),
        FACT(unlinked_queue_still_works_by_its_descriptor),
        FACT(queue_made_again_has_another_inode),
        FACT(fchmod_does_not_take_back_what_is_open),
        FACT(pidfd_tells_of_the_death_of_a_process_that_is_no_child),
        FACT(K4_receive_works_straight_into_shared_memory),
        FACT(K4_receive_into_a_bad_page_loses_the_message),
        FACT(S1_truncated_segment_is_SIGBUS_in_a_mapping_and_short_by_pread),
        FACT(flock_on_a_segment_conflicts_between_opens_and_ends_with_its_holder),
        FACT(futex_waiter_on_a_read_only_mapping_is_woken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
