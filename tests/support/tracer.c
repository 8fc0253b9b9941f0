/* ptrace(2), as far as the tests need it.
 *
 * The process is seized before it executes the broker, so it can be interrupted without a signal.
 * What is waited for may be another child as well, a client that has done its part; it is left to
 * be reaped by who started it, so waiting looks first (WNOWAIT) and then takes.
 *
 * What differs from one processor to the next is in one section: where the number of a system call
 * stands, its result, the address of the next instruction, and what a breakpoint is made of. */
#include "tests/support/tracer.h"

#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "libclient/queue.h"
#include "tests/support/patience.h"

enum {
    OPTIONS = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACEEXEC | PTRACE_O_TRACECLONE
};

#define NUMBER(n) ((void *)(uintptr_t)(n))

/* A request that must succeed. */
static void request(int what, pid_t pid, void *address, void *data)
{
    if (ptrace((enum __ptrace_request)what, pid, address, data) < 0)
        fail_msg("ptrace request %#x: %s", (unsigned)what, strerror(errno));
}

/* ---- The processor ---- */

#if defined __x86_64__

enum { BREAKPOINT_SIZE = 1 };
static const uint64_t breakpoint = 0xcc;         /* int3 */
static const uint64_t call_instruction = 0x050f; /* syscall */
static const uint64_t call_mask = 0xffff;
static const bool breakpoint_skips = true; /* the next instruction is the one behind it */

static uint64_t get_register(pid_t pid, size_t offset)
{
    errno = 0;
    uint64_t value = (uint64_t)ptrace(PTRACE_PEEKUSER, pid, NUMBER(offset), NULL);

    assert_int_equal(errno, 0);
    return value;
}

static void set_register(pid_t pid, size_t offset, uint64_t value)
{
    request(PTRACE_POKEUSER, pid, NUMBER(offset), NUMBER(value));
}

static uint64_t get_place(pid_t pid)
{
    return get_register(pid, offsetof(struct user, regs.rip));
}

static void set_place(pid_t pid, uint64_t place)
{
    set_register(pid, offsetof(struct user, regs.rip), place);
}

static void set_call(pid_t pid, long number)
{
    set_register(pid, offsetof(struct user, regs.orig_rax), (uint64_t)number);
}

static void set_result(pid_t pid, int64_t result)
{
    set_register(pid, offsetof(struct user, regs.rax), (uint64_t)result);
}

#elif defined __aarch64__

enum { BREAKPOINT_SIZE = 4 };
static const uint64_t breakpoint = 0xd4200000;       /* brk #0 */
static const uint64_t call_instruction = 0xd4000001; /* svc #0 */
static const uint64_t call_mask = 0xffffffff;
static const bool breakpoint_skips = false;

static struct user_regs_struct get_registers(pid_t pid)
{
    struct user_regs_struct registers;
    struct iovec v = {.iov_base = &registers, .iov_len = sizeof(registers)};

    request(PTRACE_GETREGSET, pid, NUMBER(NT_PRSTATUS), &v);
    return registers;
}

static void set_registers(pid_t pid, struct user_regs_struct registers)
{
    struct iovec v = {.iov_base = &registers, .iov_len = sizeof(registers)};

    request(PTRACE_SETREGSET, pid, NUMBER(NT_PRSTATUS), &v);
}

static uint64_t get_place(pid_t pid)
{
    return get_registers(pid).pc;
}

static void set_place(pid_t pid, uint64_t place)
{
    struct user_regs_struct registers = get_registers(pid);

    registers.pc = place;
    set_registers(pid, registers);
}

static void set_call(pid_t pid, long number)
{
    int word = (int)number;
    struct iovec v = {.iov_base = &word, .iov_len = sizeof(word)};

    request(PTRACE_SETREGSET, pid, NUMBER(NT_ARM_SYSTEM_CALL), &v);
}

static void set_result(pid_t pid, int64_t result)
{
    struct user_regs_struct registers = get_registers(pid);

    registers.regs[0] = (uint64_t)result;
    set_registers(pid, registers);
}

#else
#error "which register holds a system call's number on this processor?"
#endif

/* ---- May it trace? ---- */

bool tracer_is_allowed(void)
{
    pid_t child;
    int error = 0;

    fflush(NULL);
    child = fork();
    if (child == 0) {
        pause();
        _exit(EXIT_SUCCESS);
    }
    if (child < 0 || ptrace(PTRACE_SEIZE, child, NULL, NULL) < 0)
        error = errno;
    if (child > 0) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    if (error != 0)
        printf(
            "skipped: this process may not trace its child (%s); allow ptrace: a container needs "
            "SYS_PTRACE, see also /proc/sys/kernel/yama/ptrace_scope\n",
            strerror(error));
    return error == 0;
}

/* ---- Threads, and waiting ---- */

static int find_thread(const struct tracer *t, pid_t tid)
{
    for (int i = 0; i < TRACER_THREADS; i++) {
        if (t->threads[i] == tid)
            return i;
    }
    return -1;
}

static void add_thread(struct tracer *t, pid_t tid)
{
    int i = find_thread(t, tid);

    if (i < 0)
        i = find_thread(t, 0);
    assert_true(i >= 0); /* TRACER_THREADS are enough */
    t->threads[i] = tid;
}

/* Wait for a change of any child, and take it if it is the traced process's. */
static enum tracer_event await(struct tracer *t, int *status)
{
    for (;;) {
        siginfo_t info = {0};
        int i;

        if (waitid(P_ALL, 0, &info, WEXITED | WSTOPPED | WNOWAIT | __WALL) < 0)
            fail_msg("waitid: %s", strerror(errno));
        if (info.si_code == CLD_TRAPPED)
            add_thread(t, info.si_pid);
        i = find_thread(t, info.si_pid);
        if (i < 0)
            return TRACER_OTHER;
        assert_int_equal(waitpid(info.si_pid, status, __WALL), info.si_pid);
        t->at = info.si_pid;
        if (WIFSTOPPED(*status))
            return TRACER_TRAP;
        t->threads[i] = 0;
        if (info.si_pid != t->pid)
            continue; /* one thread of it */
        t->status = *status;
        t->pid = t->at = t->daemon->pid = 0;
        return TRACER_ENDED;
    }
}

/* Let the thread that stands go on. Nothing if none does: another child's end came between. */
static void resume(struct tracer *t, int how)
{
    if (t->at == 0)
        return;
    /* Killed from outside it may be gone already: the next wait tells. */
    if (ptrace((enum __ptrace_request)how, t->at, NULL, NUMBER(t->signal)) < 0 && errno != ESRCH)
        fail_msg("cannot let thread %d go on: %s", (int)t->at, strerror(errno));
    t->at = 0;
    t->signal = 0;
}

/* Go on to a stop that the tests care about: a system call, a trap, an end. Others (a signal, a new
 * thread) are passed over. */
static enum tracer_event go_on(struct tracer *t, int how)
{
    for (;;) {
        enum tracer_event event;
        int status, signal;

        resume(t, how);
        event = await(t, &status);
        if (event != TRACER_TRAP)
            return event;
        signal = WSTOPSIG(status);
        if (signal == (SIGTRAP | 0x80))
            return TRACER_CALL;
        if (signal == SIGTRAP && status >> 16 == 0)
            return TRACER_TRAP;
        if (status >> 16 == 0)
            t->signal = signal;
    }
}

/* ---- Start and end ---- */

static struct tracer *tracing; /* the one, or NULL */

static void seize(pid_t pid, void *context)
{
    struct tracer *t = context;

    *t = (struct tracer){.daemon = t->daemon, .pid = pid};
    add_thread(t, pid);
    request(PTRACE_SEIZE, pid, NULL, NUMBER(OPTIONS));
}

void tracer_start(struct tracer *t, struct daemon *d)
{
    int status = 0;

    t->daemon = d;
    tracing = t;
    daemon_spawn(d, seize, t);
    while (status >> 8 != (SIGTRAP | PTRACE_EVENT_EXEC << 8)) {
        assert_int_equal(waitpid(t->pid, &status, __WALL), t->pid);
        if (!WIFSTOPPED(status))
            fail_msg("the broker's program cannot be executed");
        t->at = t->pid;
        if (status >> 8 != (SIGTRAP | PTRACE_EVENT_EXEC << 8))
            resume(t, PTRACE_CONT);
    }
}

/* Its threads but the first, also one that was just made and never seen: before they are reaped it
 * cannot be. */
static void reap_threads(pid_t pid)
{
    char path[64];
    const struct dirent *entry;
    DIR *directory;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    directory = opendir(path);
    while (directory != NULL && (entry = readdir(directory)) != NULL) {
        pid_t tid = (pid_t)atoi(entry->d_name);
        int status = 0;

        while (tid > 0 && tid != pid && waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status))
            ;
    }
    if (directory != NULL)
        closedir(directory);
}

void tracer_kill(struct tracer *t)
{
    struct daemon *d = t->daemon;

    assert_int_equal(kill(t->pid, SIGKILL), 0);
    reap_threads(t->pid);
    *t = (struct tracer){0};
    tracing = NULL;
    daemon_kill(d);
}

void tracer_release(struct tracer *t)
{
    if (t->at == 0)
        tracer_hold(t);
    for (int i = 0; i < TRACER_THREADS; i++) {
        if (t->threads[i] != 0 && t->threads[i] != t->at) {
            int status;

            request(PTRACE_INTERRUPT, t->threads[i], NULL, NULL);
            assert_int_equal(waitpid(t->threads[i], &status, __WALL), t->threads[i]);
            request(PTRACE_DETACH, t->threads[i], NULL, NULL);
        }
    }
    request(PTRACE_DETACH, t->at, NULL, NUMBER(t->signal));
    *t = (struct tracer){0};
    tracing = NULL;
}

int tracer_teardown(void **state)
{
    if (tracing != NULL && tracing->pid != 0)
        tracer_kill(tracing);
    return daemon_teardown(state);
}

void tracer_run(struct tracer *t)
{
    resume(t, PTRACE_CONT);
}

void tracer_hold(struct tracer *t)
{
    int status = 0;

    if (t->at != 0)
        return;
    request(PTRACE_INTERRUPT, t->pid, NULL, NULL);
    assert_int_equal(waitpid(t->pid, &status, __WALL), t->pid);
    if (!WIFSTOPPED(status))
        fail_msg("the broker has ended by itself, status %#x", (unsigned)status);
    t->at = t->pid;
}

/* ---- System calls ---- */

enum tracer_event tracer_next(struct tracer *t)
{
    enum tracer_event event = go_on(t, PTRACE_SYSCALL);
    struct __ptrace_syscall_info info;

    if (event != TRACER_CALL)
        return event;
    request(PTRACE_GET_SYSCALL_INFO, t->at, NUMBER(sizeof(info)), &info);
    t->entered = info.op == PTRACE_SYSCALL_INFO_ENTRY;
    if (t->entered) {
        t->call.number = (long)info.entry.nr;
        memcpy(t->call.arguments, info.entry.args, sizeof(t->call.arguments));
        return TRACER_CALL;
    }
    return TRACER_RETURN;
}

enum tracer_event tracer_fail(struct tracer *t, int error)
{
    pid_t thread = t->at;
    enum tracer_event event;

    if (t->call.number != SYS_close) /* which closes, also if it fails */
        set_call(thread, -1);
    do /* other threads may be seen first */
        event = tracer_next(t);
    while (t->at != thread && (event == TRACER_CALL || event == TRACER_RETURN));
    if (event == TRACER_RETURN)
        set_result(thread, -error);
    return event;
}

static bool waits(long number)
{
#ifdef SYS_epoll_pwait2
    if (number == SYS_epoll_pwait2)
        return true;
#endif
#ifdef SYS_epoll_wait
    if (number == SYS_epoll_wait)
        return true;
#endif
    return number == SYS_epoll_pwait;
}

/* Its memory, a word from there on. */
static uint64_t peek(const struct tracer *t, uint64_t address)
{
    long word;

    errno = 0;
    word = ptrace(PTRACE_PEEKDATA, t->at, NUMBER(address), NULL);
    assert_int_equal(errno, 0);
    return (uint64_t)word;
}

/* Does something stand in this queue of the broker, so that a wait for it is over at once? */
static bool is_waited_for(const struct tracer *t,
                          void (*name_of)(char name[NAMES_MAX], const char *instance))
{
    struct queue q = QUEUE_CLOSED;
    char name[NAMES_MAX];
    bool stands;

    name_of(name, t->daemon->instance);
    stands = queue_open(&q, name, O_RDONLY | O_NONBLOCK) == 0 && queue_standing(&q) > 0;
    queue_close(&q);
    return stands;
}

bool tracer_sleeps(const struct tracer *t)
{
    uint64_t timeout = t->call.arguments[3];

    if (!waits(t->call.number) || is_waited_for(t, names_request_queue) ||
        is_waited_for(t, names_urgent_queue))
        return false;
#ifdef SYS_epoll_pwait2
    if (t->call.number == SYS_epoll_pwait2)
        return timeout == 0 || peek(t, timeout) != 0 || peek(t, timeout + sizeof(uint64_t)) != 0;
#endif
    return timeout != 0;
}

void tracer_text(const struct tracer *t, uint64_t address, char *text, size_t size)
{
    struct iovec here = {.iov_base = text, .iov_len = size - 1};
    struct iovec there = {.iov_base = NUMBER(address), .iov_len = size - 1};
    ssize_t n = process_vm_readv(t->at, &here, 1, &there, 1, 0);

    if (n < 0) { /* it ends before the end of its page: byte by byte then */
        for (n = 0; n < (ssize_t)size - 1; n++) {
            text[n] = (char)peek(t, address + (uint64_t)n);
            if (text[n] == '\0')
                break;
        }
    }
    text[n] = '\0';
}

static const struct name {
    long number;
    const char *name;
} names[] = {
#define NAME(call_)                                                                                \
    {                                                                                              \
        SYS_##call_, #call_                                                                        \
    }
    NAME(brk),
    NAME(clock_gettime),
    NAME(close),
    NAME(epoll_create1),
    NAME(epoll_ctl),
    NAME(epoll_pwait),
    NAME(exit_group),
    NAME(fallocate),
    NAME(fchmod),
    NAME(fchown),
    NAME(fcntl),
    NAME(fdatasync),
    NAME(flock),
    NAME(fstat),
    NAME(ftruncate),
    NAME(futex),
    NAME(getdents64),
    NAME(geteuid),
    NAME(getpid),
    NAME(getrandom),
    NAME(lseek),
    NAME(madvise),
    NAME(mlock),
    NAME(mmap),
    NAME(mprotect),
    NAME(mq_getsetattr),
    NAME(mq_open),
    NAME(mq_timedreceive),
    NAME(mq_timedsend),
    NAME(mq_unlink),
    NAME(munmap),
    NAME(openat),
    NAME(pidfd_open),
    NAME(pread64),
    NAME(prlimit64),
    NAME(pwrite64),
    NAME(pwritev),
    NAME(read),
    NAME(renameat2),
    NAME(rt_sigaction),
    NAME(rt_sigprocmask),
    NAME(sched_yield),
    NAME(signalfd4),
    NAME(statx),
    NAME(unlinkat),
    NAME(write),
    NAME(writev),
    NAME(eventfd2),
    NAME(fsync),
    NAME(clone3),
    NAME(mkdirat),
    NAME(newfstatat),
#ifdef SYS_epoll_pwait2
    NAME(epoll_pwait2),
#endif
#ifdef SYS_unlink
    NAME(unlink),
    NAME(rename),
    NAME(epoll_wait),
    NAME(stat),
    NAME(mkdir),
#endif
#undef NAME
};

const char *tracer_name(const struct tracer_call *call)
{
    static char other[32];

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (names[i].number == call->number)
            return names[i].name;
    }
    snprintf(other, sizeof(other), "call %ld", call->number);
    return other;
}

/* ---- Instructions ---- */

/* Is the next instruction a system call? A step through it would be one into a sleep. */
static bool is_before_call(const struct tracer *t)
{
    return !t->entered && (peek(t, get_place(t->at)) & call_mask) == call_instruction;
}

enum tracer_event tracer_step(struct tracer *t)
{
    if (is_before_call(t))
        return tracer_next(t);
    t->entered = false;
    return go_on(t, PTRACE_SINGLESTEP);
}

uint64_t tracer_place(const struct tracer *t)
{
    return get_place(t->at);
}

static void poke(const struct tracer *t, uint64_t address, uint64_t word)
{
    request(PTRACE_POKEDATA, t->at, NUMBER(address), NUMBER(word));
}

/* It has met the breakpoint, and stands at the instruction in whose place that was. */
static void undo(const struct tracer *t, uint64_t place, uint64_t word)
{
    poke(t, place, word);
    if (breakpoint_skips)
        set_place(t->at, place);
}

bool tracer_run_to(struct tracer *t, uint64_t place, unsigned nth)
{
    const uint64_t mask = (UINT64_C(1) << (8 * BREAKPOINT_SIZE)) - 1;
    uint64_t word = peek(t, place);
    unsigned n = 0;

    poke(t, place, (word & ~mask) | breakpoint);
    for (;;) {
        switch (tracer_next(t)) {
        case TRACER_CALL:
            if (!tracer_sleeps(t))
                continue;
            poke(t, place, word);
            return false;
        case TRACER_RETURN:
            continue;
        case TRACER_TRAP:
            if (tracer_place(t) != place + (breakpoint_skips ? BREAKPOINT_SIZE : 0))
                fail_msg("a trap that nobody laid, at %#llx", (unsigned long long)tracer_place(t));
            undo(t, place, word);
            if (++n == nth)
                return true;
            tracer_step(t);
            poke(t, place, (word & ~mask) | breakpoint);
            continue;
        case TRACER_ENDED:
            fail_msg("the broker has ended by itself, status %#x", (unsigned)t->status);
        case TRACER_OTHER:
            return false;
        }
    }
}
