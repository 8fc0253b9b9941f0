/* mqctl reload, mqctl handover: what a broker does on a signal.
 *
 * A signal gets no answer. How it went is seen on the board, where the broker counts what it did
 * and what it refused. The signal goes to the process that the board names, by a descriptor of
 * it, so that it cannot hit another one that got the number since; and only if that process has not
 * left the signal to its default, which would end it. */
#include "tools/mqctl.h"

#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "libclient/board.h"
#include "libclient/process.h"
#include "libclient/segment.h"
#include "tools/look.h"
#include "tools/options.h"

enum { PATIENCE_S = 10, LOOK_US = 100 };

struct broker {
    const char *instance;
    struct segment board;
    uint32_t pid;
    uint64_t start;
    int pidfd;
};

/* What is asked for, and what people are told about it. */
struct order {
    struct options_program program;
    int signal;
    size_t done;    /* word of struct board_totals that rises when it was done, */
    size_t refused; /* and when the broker would not */
    void (*tell)(const struct broker *b, uint64_t nanoseconds);
    const char *refusal;
};

static const struct options_entry no_entries[] = {{0}};

static uint64_t clock_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static const struct board_header *board_of(const struct broker *b)
{
    return b->board.base;
}

static uint64_t word_at(const struct broker *b, size_t offset)
{
    const char *totals = (const char *)&board_of(b)->totals;

    return board_get((const _Atomic uint64_t *)(const void *)(totals + offset));
}

/* Has the process this signal blocked, as one does that reads it from a descriptor? */
static bool takes_signal(uint32_t pid, int signal)
{
    unsigned long long blocked = 0;
    char path[64], line[128];
    FILE *status;

    snprintf(path, sizeof path, "/proc/%u/status", pid);
    status = fopen(path, "re");
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "SigBlk: %llx", &blocked) == 1)
            break;
    if (status != NULL)
        fclose(status);
    return (blocked >> (signal - 1) & 1) != 0;
}

/* Find the broker and hold it fast. */
static void open_broker(struct broker *b, const char *instance)
{
    const char *failure;

    *b = (struct broker){.instance = instance, .board = SEGMENT_CLOSED};
    failure = look_open(&b->board, instance);
    if (failure != NULL)
        errx(EXIT_FAILURE, "%s: %s", instance, failure);
    b->pid = atomic_load_explicit(&board_of(b)->pid, memory_order_relaxed);
    b->start = board_get(&board_of(b)->pid_start);
    b->pidfd = (int)syscall(SYS_pidfd_open, b->pid, 0);
    if (!process_alive(b->pid, b->start))
        errx(EXIT_FAILURE, "%s: its broker (pid %u) is not alive: start it again", instance,
             b->pid);
    if (b->pidfd < 0)
        err(EXIT_FAILURE, "%s: pid %u", instance, b->pid);
}

static void close_broker(struct broker *b)
{
    close(b->pidfd);
    segment_close(&b->board);
}

static void send_order(const struct broker *b, const struct order *order)
{
    if (!takes_signal(b->pid, order->signal))
        errx(EXIT_FAILURE, "%s: its broker (pid %u) is of a version that cannot do this",
             b->instance, b->pid);
    if (syscall(SYS_pidfd_send_signal, b->pidfd, order->signal, NULL, 0) < 0)
        err(EXIT_FAILURE, "%s: pid %u", b->instance, b->pid);
}

/* Wait for one of the words to rise. Returns the exit status. */
static int await(const struct broker *b, const struct order *order)
{
    const struct timespec pause = {.tv_nsec = LOOK_US * 1000};
    uint64_t done = word_at(b, order->done), refused = word_at(b, order->refused);
    uint64_t begun = clock_now();

    send_order(b, order);
    while (clock_now() - begun < PATIENCE_S * UINT64_C(1000000000)) {
        if (word_at(b, order->refused) > refused) {
            warnx("%s: %s", b->instance, order->refusal);
            return EXIT_FAILURE;
        }
        if (word_at(b, order->done) > done &&
            atomic_load_explicit(&board_of(b)->state, memory_order_acquire) == BOARD_RUNNING) {
            order->tell(b, clock_now() - begun);
            return EXIT_SUCCESS;
        }
        if (!process_alive(b->pid, b->start)) {
            warnx("%s: its broker (pid %u) has ended: see its log, and start it again", b->instance,
                  b->pid);
            return EXIT_FAILURE;
        }
        nanosleep(&pause, NULL);
    }
    warnx("%s: its broker (pid %u) has not done it within %d s: it hangs, or is busy; it may do "
          "it yet",
          b->instance, b->pid, PATIENCE_S);
    return OPTIONS_EXIT_TIMEOUT;
}

static int run(const struct order *order, int argc, char **argv)
{
    struct options options;
    struct broker broker;
    int status;

    options_begin(&options, &order->program, argc, argv);
    while (options_next(&options) != -1)
        ;
    options_no_rest(&options);
    open_broker(&broker, options_instance(&options));
    status = await(&broker, order);
    close_broker(&broker);
    if (fflush(stdout) != 0)
        err(EXIT_FAILURE, "standard output");
    return status;
}

static void tell_reloaded(const struct broker *b, uint64_t nanoseconds)
{
    (void)nanoseconds;
    printf("%s: reloaded\n", b->instance);
}

int mqctl_reload(int argc, char **argv)
{
    static const struct order reload = {
        .program =
            {
                .name = "mqctl reload",
                .usage = "[--instance NAME]",
                .purpose = "Have the broker read its configuration file again. What takes effect "
                           "only when it\nis started is named in its log.",
                .entries = no_entries,
                .more = "Exit status: 0 done, 1 error (such as: a mistake in the file; nothing is "
                        "changed\nthen), 2 wrong usage, 3 the broker has not done it within 10 s.",
            },
        .signal = SIGHUP,
        .done = offsetof(struct board_totals, reloads),
        .refused = offsetof(struct board_totals, reloads_refused),
        .tell = tell_reloaded,
        .refusal = "its broker has not reloaded, and goes on as it was: its log says why",
    };

    return run(&reload, argc, argv);
}

static void tell_handed_over(const struct broker *b, uint64_t nanoseconds)
{
    printf("%s: handed over, with a pause of %.1f ms at most\n", b->instance,
           (double)nanoseconds / 1e6);
}

int mqctl_handover(int argc, char **argv)
{
    static const struct order handover = {
        .program =
            {
                .name = "mqctl handover",
                .usage = "[--instance NAME]",
                .purpose =
                    "Replace the broker by its program as it is installed now, such as a newer "
                    "version,\nwithout an end: the process stays, clients and messages stay, and "
                    "nobody notices\nmore than a pause. A program that cannot take over what is "
                    "there is not started.",
                .entries = no_entries,
                .more = "Exit status: 0 done, 1 error (such as: that program cannot take over; the "
                        "broker\ngoes on as it was), 2 wrong usage, 3 the broker has not done it "
                        "within 10 s.",
            },
        .signal = SIGUSR2,
        .done = offsetof(struct board_totals, starts),
        .refused = offsetof(struct board_totals, handovers_refused),
        .tell = tell_handed_over,
        .refusal = "its broker was not replaced, and goes on as it was: its log says why",
    };

    return run(&handover, argc, argv);
}
