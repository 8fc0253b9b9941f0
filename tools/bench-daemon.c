/* A private broker: in an instance of its own, so that it cannot be taken for anybody else's; with
 * a configuration that has no file (a memfd that it inherits), so that none is left; and with
 * PR_SET_PDEATHSIG, so that it stops in good order even when mqbench is killed.
 *
 * It is ready when a client can open it: that is asked, again and again until a deadline, not
 * guessed by sleeping. */
#include "tools/bench-daemon.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <mqueue.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libclient/board.h"
#include "libclient/mqclient.h"
#include "libclient/segment.h"
#include "tools/bench-crew.h"
#include "tools/bench.h"

enum {
    START_MS = 10000,
    STOP_MS = 10000,
    JOURNAL_MS = 60000,
    SEGMENT_SIZE = 16 << 20, /* of the journal, if nothing else is said */
};

static int open_pidfd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

/* ---- the one that runs ---- */

/* Returns 0, with the board mapped, or -1 with bench_error() set. */
static int open_board(struct segment *out, const char *instance)
{
    char name[NAMES_MAX];

    names_board(name, instance);

    int r = segment_open(out, name, 0);
    if (r == -ENOENT) {
        return bench_fail("there is no broker of instance \"%s\": start it (mqbroker --instance "
                          "%s), or leave --instance and MQBROKER_INSTANCE out for a private one",
                          instance, instance);
    }
    if (r < 0) {
        return bench_fail("cannot read the board %s: %s", name, strerror(-r));
    }
    if (board_check(out->base, out->size) != BOARD_OK) {
        segment_close(out);
        return bench_fail("the board %s is of another version", name);
    }
    return 0;
}

int daemon_attach(struct daemon *daemon, const char *instance)
{
    struct segment segment;

    *daemon = DAEMON_NONE;
    if (!names_instance_valid(instance)) {
        return bench_fail("\"%s\" is not an instance name", instance);
    }
    snprintf(daemon->instance, sizeof daemon->instance, "%s", instance);
    if (open_board(&segment, instance) < 0) {
        return -1;
    }

    const struct board_header *board = segment.base;
    daemon->pid = (pid_t)atomic_load_explicit(&board->pid, memory_order_relaxed);
    segment_close(&segment);
    daemon->pidfd = open_pidfd(daemon->pid);
    if (daemon->pidfd < 0) {
        return bench_fail("the broker of instance \"%s\" (pid %ld) does not run any more", instance,
                          (long)daemon->pid);
    }
    return 0;
}

/* ---- a private one ---- */

static int write_config(const struct daemon_settings *settings)
{
    int fd = memfd_create("mqbench.conf", 0); /* inherited: not close-on-exec */

    if (fd < 0) {
        return bench_fail("cannot make a configuration: %s", strerror(errno));
    }
    int r = dprintf(fd, "log_level = \"warning\";\n");
    if (r >= 0 && settings->poll_usec >= 0) {
        r = dprintf(fd, "poll_usec = %d;\n", settings->poll_usec);
    }
    if (r >= 0 && settings->pool_max > 0) {
        r = dprintf(fd, "pool_max = \"%lluM\";\n", (unsigned long long)(settings->pool_max >> 20));
    }
    if (r >= 0 && settings->journal != NULL) { /* with room for all of a run */
        r = dprintf(fd,
                    "journal = \"%s\";\nsync = \"%s\";\njournal_size = \"16G\";\n"
                    "journal_ready = \"%lluM\";\ngroup_size = \"16G\";\n",
                    settings->journal, settings->sync,
                    (unsigned long long)(settings->journal_ready >> 20));
    }
    if (r < 0) {
        close(fd);
        return bench_fail("cannot write a configuration: %s", strerror(errno));
    }
    return fd;
}

/* Where the program is: beside this one, if it is there, else wherever PATH says. */
static void find_program(char path[PATH_MAX])
{
    ssize_t size = readlink("/proc/self/exe", path, PATH_MAX - sizeof "mqbroker");
    char *slash;

    path[size > 0 ? size : 0] = '\0';
    slash = strrchr(path, '/');
    if (slash != NULL) {
        strcpy(slash + 1, "mqbroker");
        if (access(path, X_OK) == 0) {
            return;
        }
    }
    strcpy(path, "mqbroker");
}

_Noreturn static void become(const char *program, const char *instance, int config_fd, pid_t parent)
{
    char config[64];

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) {
        _exit(EXIT_FAILURE);
    }
    setpgid(0, 0); /* an interrupt from the terminal is for mqbench, which stops the broker last */
    crew_release_signals();
    snprintf(config, sizeof config, "/proc/self/fd/%d", config_fd);
    execlp(program, "mqbroker", "--instance", instance, "--config", config, (char *)NULL);
    fprintf(stderr, "mqbench: cannot run %s: %s\n", program, strerror(errno));
    _exit(127);
}

static bool has_ended(const struct daemon *daemon, int timeout_ms)
{
    struct pollfd end = {.fd = daemon->pidfd, .events = POLLIN};

    return poll(&end, 1, timeout_ms) == 1;
}

static int wait_until_ready(const struct daemon *daemon, const char *program)
{
    struct mqc_options options = {.instance = daemon->instance, .flags = MQC_PUBLISH_ONLY};
    uint64_t deadline = bench_now() + START_MS * UINT64_C(1000000);

    for (;;) {
        struct mqc *client;
        int r = mqc_open(&client, &options);

        if (r == 0) {
            mqc_close(client);
            return 0;
        }
        if (has_ended(daemon, 1)) {
            return bench_fail("%s did not start; what it said stands above", program);
        }
        /* No queue memory: that will not pass. Anything else may be a broker that is not ready. */
        if (r == -EMFILE || bench_now() > deadline) {
            return bench_fail("%s runs but takes no clients: %s", program, mqc_last_error());
        }
    }
}

/* Its journal has as many segments ready as were asked for, all written once: so had the
 * file that it is compared with. */
static int wait_for_journal(const struct daemon *daemon, uint64_t wanted)
{
    struct segment segment;
    uint64_t deadline = bench_now() + JOURNAL_MS * UINT64_C(1000000);
    int r = open_board(&segment, daemon->instance);

    while (r == 0) {
        const struct board_journal *journal = &((struct board_header *)segment.base)->journal;

        if (board_get(&journal->ready) * SEGMENT_SIZE >= wanted) {
            break;
        }
        if (has_ended(daemon, 1) || bench_now() > deadline) {
            r = bench_fail("the broker does not make the files of its journal in %d s: is there "
                           "room for %llu MiB in %s?",
                           JOURNAL_MS / 1000, (unsigned long long)wanted >> 20, "--directory");
        }
    }
    segment_close(&segment);
    return r;
}

int daemon_start(struct daemon *daemon, const struct daemon_settings *settings)
{
    static unsigned serial;
    const char *program = settings->program;
    char path[PATH_MAX];
    pid_t parent = getpid();
    int config_fd = write_config(settings);

    *daemon = DAEMON_NONE;
    if (config_fd < 0) {
        return -1;
    }
    if (program == NULL) {
        find_program(path);
        program = path;
    }
    snprintf(daemon->instance, sizeof daemon->instance, "bench-%ld-%u", (long)parent, serial++);
    fflush(NULL);

    uint64_t began = bench_now();
    daemon->pid = fork();
    if (daemon->pid == 0) {
        become(program, daemon->instance, config_fd, parent);
    }
    close(config_fd);
    if (daemon->pid < 0) {
        return bench_fail("cannot start a process: %s", strerror(errno));
    }
    daemon->ours = true;
    daemon->pidfd = open_pidfd(daemon->pid);
    if (daemon->pidfd < 0) {
        int saved = errno;
        daemon_stop(daemon);
        return bench_fail("cannot watch the broker: %s", strerror(saved));
    }
    if (wait_until_ready(daemon, program) < 0) {
        daemon_stop(daemon);
        return -1;
    }
    daemon->starting = bench_now() - began;
    if (settings->journal != NULL && wait_for_journal(daemon, settings->journal_ready) < 0) {
        daemon_stop(daemon);
        return -1;
    }
    return 0;
}

/* All segments of the instance: the board, and what is named after it, a dot and more. */
static void sweep_segments(const char *board)
{
    DIR *shm = opendir("/dev/shm");
    size_t lead = strlen(board + 1);
    struct dirent *entry;

    while (shm != NULL && (entry = readdir(shm)) != NULL) {
        char name[NAMES_MAX];

        if (strncmp(entry->d_name, board + 1, lead) == 0 &&
            (entry->d_name[lead] == '\0' || entry->d_name[lead] == '.')) {
            snprintf(name, sizeof name, "/%.*s", NAMES_MAX - 2, entry->d_name);
            shm_unlink(name);
        }
    }
    if (shm != NULL) {
        closedir(shm);
    }
}

/* The reply queues that the board names. */
static void sweep_replies(const char *instance, const struct board_header *board)
{
    for (uint32_t i = 0; i < board->n_rows; i++) {
        struct board_client_info client;
        char queue[NAMES_MAX];

        board_read_identity(board_row(board, i), &client);
        names_reply_queue(queue, instance, client.nonce);
        mq_unlink(queue);
    }
}

/* What a broker that did not stop by itself leaves: its clients are gone, nobody needs it. */
static void sweep(const char *instance)
{
    char name[NAMES_MAX];
    struct segment segment;

    names_board(name, instance);
    if (segment_open(&segment, name, 0) == 0) {
        if (board_check(segment.base, segment.size) == BOARD_OK) {
            sweep_replies(instance, segment.base);
        }
        segment_close(&segment);
    }
    sweep_segments(name);
    names_request_queue(name, instance);
    mq_unlink(name);
    names_urgent_queue(name, instance);
    mq_unlink(name);
}

void daemon_stop(struct daemon *daemon)
{
    if (daemon->ours) {
        int status = 0;

        kill(daemon->pid, SIGTERM);
        if (daemon->pidfd < 0 || !has_ended(daemon, STOP_MS)) {
            kill(daemon->pid, SIGKILL);
        }
        waitpid(daemon->pid, &status, 0);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            sweep(daemon->instance);
        }
        daemon->ours = false;
    }
    if (daemon->pidfd >= 0) {
        close(daemon->pidfd);
        daemon->pidfd = -1;
    }
}
