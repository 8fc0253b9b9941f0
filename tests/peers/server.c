/* Nothing of a server may outlive the measurement: it dies with us (PR_SET_PDEATHSIG), and the
 * folder with its configuration, sockets and log lies below TMPDIR, which ./dev removes whatever
 * happens. Readiness is asked for, again and again until a deadline, not guessed by sleeping. */
#include "tests/peers/server.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/bench-crew.h"
#include "tools/bench.h"

enum {
    START_MS = 10000,
    STOP_MS = 5000,
};

static const char log_file[] = "log";

int server_prepare(struct server *server, const char *program)
{
    const char *tmp = getenv("TMPDIR");

    *server = (struct server){.program = program, .pidfd = -1};
    snprintf(server->folder, sizeof server->folder, "%s/peer-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(server->folder) == NULL) {
        int saved = errno;
        server->folder[0] = '\0';
        return bench_fail("cannot make a folder for %s: %s", program, strerror(saved));
    }
    return 0;
}

void server_path(const struct server *server, char out[SERVER_PATH_SIZE], const char *file)
{
    snprintf(out, SERVER_PATH_SIZE, "%s/%s", server->folder, file);
}

int server_write(const struct server *server, const char *file, const char *text)
{
    char path[SERVER_PATH_SIZE];

    server_path(server, path, file);
    FILE *out = fopen(path, "we");
    if (out == NULL) {
        return bench_fail("cannot write %s: %s", path, strerror(errno));
    }
    fputs(text, out);
    return fclose(out) == 0 ? 0 : bench_fail("cannot write %s: %s", path, strerror(errno));
}

_Noreturn static void become(const struct server *server, const char *const *arguments,
                             pid_t parent)
{
    char path[SERVER_PATH_SIZE];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) {
        _exit(EXIT_FAILURE);
    }
    setpgid(0, 0); /* an interrupt from the terminal is for us, who stop it */
    crew_release_signals();
    server_path(server, path, log_file);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    execvp(server->program, (char *const *)(uintptr_t)arguments);
    perror(server->program);
    _exit(127);
}

static int has_ended(const struct server *server, int timeout_ms)
{
    struct pollfd end = {.fd = server->pidfd, .events = POLLIN};

    return poll(&end, 1, timeout_ms) == 1;
}

/* With what it said last. */
static int fail_to_start(const struct server *server, const char *what)
{
    char path[SERVER_PATH_SIZE];
    char line[256];
    char last[256] = "nothing";

    server_path(server, path, log_file);
    FILE *log = fopen(path, "re");
    if (log != NULL) {
        while (fgets(line, sizeof line, log) != NULL) {
            line[strcspn(line, "\n")] = '\0';
            memcpy(last, line, sizeof last);
        }
        fclose(log);
    }
    return bench_fail("%s %s; it said last: %s", server->program, what, last);
}

int server_start(struct server *server, const char *const *arguments,
                 int (*is_ready)(const struct server *server, const void *context),
                 const void *context)
{
    pid_t parent = getpid();
    uint64_t began = bench_now();

    fflush(NULL);
    server->pid = fork();
    if (server->pid == 0) {
        become(server, arguments, parent);
    }
    if (server->pid < 0) {
        server->pid = 0;
        return bench_fail("cannot start a process: %s", strerror(errno));
    }
    server->pidfd = (int)syscall(SYS_pidfd_open, server->pid, 0);
    while (!is_ready(server, context)) {
        if (has_ended(server, 1)) {
            return fail_to_start(server, "did not start");
        }
        if (bench_now() - began > START_MS * UINT64_C(1000000)) {
            return fail_to_start(server, "runs but takes no clients");
        }
    }
    server->starting = bench_now() - began;
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status;
    (void)type;
    (void)walk;
    remove(path);
    return 0;
}

int server_stop(struct server *server)
{
    int status = 0;

    if (server->pid > 0) {
        kill(server->pid, SIGTERM);
        if (!has_ended(server, STOP_MS)) {
            kill(server->pid, SIGKILL);
        }
        waitpid(server->pid, &status, 0);
        close(server->pidfd);
        server->pid = 0;
        server->pidfd = -1;
    }
    if (server->folder[0] != '\0') {
        nftw(server->folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
        server->folder[0] = '\0';
    }
    return status != 0;
}
