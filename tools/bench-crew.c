/* Workers as processes.
 *
 * The start is a barrier made of pipes, because those also tell of death: each worker has a pipe to
 * the parent, into which it writes a byte when it is ready, and which ends when the worker does,
 * whatever ends it. All workers read from one pipe into which nobody writes: the parent closes it,
 * they all see its end, and off they go. No semaphore in shared memory can be left locked by a
 * worker that was killed.
 *
 * No worker outlives the parent: PR_SET_PDEATHSIG. An interrupt from the terminal goes to all
 * processes in the foreground; they have it blocked, and leave the orderly end to the parent. */
#include "tools/bench-crew.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/bench.h"

enum {
    ERROR_SIZE = 512,
};

struct crew_shared {
    _Atomic int stop;
    char errors[CREW_MAX][ERROR_SIZE];
    _Alignas(64) unsigned char results[];
};

static int signal_fd = -1;
static int signal_caught;
static sigset_t signals_before;

/* One that was ignored when the program began (nohup) stays ignored: a blocked one would be kept
 * for us all the same. */
static void add_unless_ignored(sigset_t *set, int number)
{
    struct sigaction action;

    if (sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_IGN) {
        sigaddset(set, number);
    }
}

int crew_catch_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    add_unless_ignored(&set, SIGINT);
    add_unless_ignored(&set, SIGTERM);
    add_unless_ignored(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, &signals_before) < 0) {
        return bench_fail("cannot block signals: %s", strerror(errno));
    }
    signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signal_fd < 0) {
        return bench_fail("cannot make a signal descriptor: %s", strerror(errno));
    }
    return 0;
}

int crew_signal(void)
{
    return signal_caught;
}

void crew_release_signals(void)
{
    sigprocmask(SIG_SETMASK, &signals_before, NULL);
}

int crew_init(struct crew *crew, size_t result_size)
{
    *crew = (struct crew){.go_fd = {-1, -1}, .watched_fd = -1};
    crew->result_size = (result_size + 63) / 64 * 64;
    crew->shared_size = sizeof *crew->shared + CREW_MAX * crew->result_size;

    void *base = mmap(NULL, crew->shared_size, PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) {
        return bench_fail("cannot share %zu bytes with the workers: %s", crew->shared_size,
                          strerror(errno));
    }
    crew->shared = base;
    if (pipe2(crew->go_fd, O_CLOEXEC) < 0) {
        crew->go_fd[0] = crew->go_fd[1] = -1;
        return bench_fail("cannot make a pipe: %s", strerror(errno));
    }
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

void crew_deinit(struct crew *crew)
{
    for (unsigned i = 0; i < crew->n_members; i++) {
        struct crew_member *member = &crew->members[i];

        if (!member->gone) {
            kill(member->pid, SIGKILL);
            waitpid(member->pid, NULL, 0);
        }
        close_fd(&member->ready_fd);
    }
    crew->n_members = 0;
    close_fd(&crew->go_fd[0]);
    close_fd(&crew->go_fd[1]);
    if (crew->shared != NULL) {
        munmap(crew->shared, crew->shared_size);
        crew->shared = NULL;
    }
}

static void *result_of(const struct crew *crew, unsigned n)
{
    return crew->shared->results + n * crew->result_size;
}

void *crew_result(const struct crew *crew, unsigned n)
{
    return result_of(crew, n);
}

/* The child's life. exit() and not _exit(), so that sanitizers look for leaks in workers too. */
_Noreturn static void live(struct crew *crew, unsigned n, pid_t parent, int ready_fd,
                           crew_work work, const void *context)
{
    struct crew_member *member = &crew->members[n];
    struct crew_place place = {
        .index = member->index,
        .result = result_of(crew, n),
        .shared = crew->shared,
        .ready_fd = ready_fd,
        .go_fd = crew->go_fd[0],
    };

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        exit(EXIT_FAILURE); /* it died before the line above could notice */
    }
    prctl(PR_SET_NAME, member->role);
    close_fd(&crew->go_fd[1]); /* or its end would never come */
    if (work(&place, context) < 0) {
        snprintf(crew->shared->errors[n], ERROR_SIZE, "%s", bench_error());
        exit(EXIT_FAILURE);
    }
    exit(EXIT_SUCCESS);
}

pid_t crew_add(struct crew *crew, const char *role, unsigned index, bool servant, crew_work work,
               const void *context)
{
    int fds[2];
    pid_t parent = getpid();

    if (crew->n_members == CREW_MAX) {
        return bench_fail("more than %d processes", CREW_MAX);
    }
    if (pipe2(fds, O_CLOEXEC) < 0) {
        return bench_fail("cannot make a pipe: %s", strerror(errno));
    }

    unsigned n = crew->n_members;
    crew->members[n] =
        (struct crew_member){.ready_fd = fds[0], .role = role, .index = index, .servant = servant};
    fflush(NULL); /* what stands in buffers is to be written once */
    pid_t pid = fork();
    if (pid == 0) {
        close(fds[0]);
        live(crew, n, parent, fds[1], work, context);
    }
    close(fds[1]);
    if (pid < 0) {
        close(fds[0]);
        return bench_fail("cannot start a process: %s", strerror(errno));
    }
    crew->members[n].pid = pid;
    crew->n_members++;
    return pid;
}

void crew_watch(struct crew *crew, const char *role, int pidfd)
{
    crew->watched_role = role;
    crew->watched_fd = pidfd;
}

/* Whose pipe has ended: see what became of it. */
static int bury(struct crew *crew, unsigned n)
{
    struct crew_member *member = &crew->members[n];
    const char *error = crew->shared->errors[n];
    int status;

    if (waitpid(member->pid, &status, 0) < 0) {
        return bench_fail("cannot wait for %s %u: %s", member->role, member->index,
                          strerror(errno));
    }
    member->gone = true;
    if (WIFSIGNALED(status)) {
        return bench_fail("%s %u was killed by signal %d (%s)", member->role, member->index,
                          WTERMSIG(status), strsignal(WTERMSIG(status)));
    }
    if (WEXITSTATUS(status) != 0) {
        return bench_fail("%s %u: %s", member->role, member->index,
                          error[0] != '\0' ? error : "ended with an error");
    }
    return 0;
}

static int hear(struct crew *crew, unsigned n)
{
    struct crew_member *member = &crew->members[n];
    char byte;
    ssize_t got = read(member->ready_fd, &byte, 1);

    if (got < 0) {
        return errno == EINTR
                   ? 0
                   : bench_fail("cannot hear from %s: %s", member->role, strerror(errno));
    }
    if (got == 1) {
        member->ready = true;
        return 0;
    }
    return bury(crew, n);
}

static int take_signal(void)
{
    struct signalfd_siginfo info;

    if (read(signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
        signal_caught = (int)info.ssi_signo;
        return bench_fail("interrupted");
    }
    return 0;
}

/* Wait for news of any kind, and take it. */
static int wait_for_news(struct crew *crew)
{
    struct pollfd polls[CREW_MAX + 2];
    nfds_t n = crew->n_members;

    for (unsigned i = 0; i < n; i++) {
        int fd = crew->members[i].gone ? -1 : crew->members[i].ready_fd;
        polls[i] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    polls[n] = (struct pollfd){.fd = signal_fd, .events = POLLIN};
    polls[n + 1] = (struct pollfd){.fd = crew->watched_fd, .events = POLLIN};
    if (poll(polls, n + 2, -1) < 0) {
        return errno == EINTR ? 0 : bench_fail("cannot wait: %s", strerror(errno));
    }
    if (polls[n].revents != 0 && take_signal() < 0) {
        return -1;
    }
    /* Before the workers: what they complain of is its death. */
    if (polls[n + 1].revents != 0) {
        return bench_fail("%s died during the measurement", crew->watched_role);
    }
    for (unsigned i = 0; i < n; i++) {
        if (polls[i].revents != 0 && hear(crew, i) < 0) {
            return -1;
        }
    }
    return 0;
}

static bool all_ready(const struct crew *crew)
{
    for (unsigned i = 0; i < crew->n_members; i++) {
        if (!crew->members[i].ready) {
            return false;
        }
    }
    return true;
}

static bool all_done(const struct crew *crew)
{
    for (unsigned i = 0; i < crew->n_members; i++) {
        if (!crew->members[i].gone && !crew->members[i].servant) {
            return false;
        }
    }
    return true;
}

int crew_run(struct crew *crew)
{
    while (!all_ready(crew)) {
        if (wait_for_news(crew) < 0) {
            return -1;
        }
    }
    close_fd(&crew->go_fd[1]);
    while (!all_done(crew)) {
        if (wait_for_news(crew) < 0) {
            return -1;
        }
    }
    return 0;
}

void crew_ready(struct crew_place *place)
{
    char byte = 'r';

    /* The descriptor stays open: its end is the news of this worker's own. */
    while (write(place->ready_fd, &byte, 1) < 0 && errno == EINTR) {
    }
    while (read(place->go_fd, &byte, 1) < 0 && errno == EINTR) {
    }
}

void crew_stop(struct crew_place *place)
{
    atomic_store_explicit(&place->shared->stop, 1, memory_order_relaxed);
}

bool crew_stopped(const struct crew_place *place)
{
    return atomic_load_explicit(&place->shared->stop, memory_order_relaxed) != 0;
}
