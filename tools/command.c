/* Commands: see command.h.
 *
 * The payload is handed over as a file in memory and not through a pipe: the command may read it,
 * or part of it, or not at all, and nobody waits for anybody or gets SIGPIPE. The reply comes
 * through a pipe, so that a command that never stops writing is stopped: behind the limit the pipe
 * is closed. The end of the command is the end of its process, not of the pipe, which something
 * that it left running in the background may hold open.
 *
 * Who is patient with a command gives it a process group of its own: an interruption from the
 * keyboard goes to all of the terminal's, and would end it too. */
#include "tools/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/interrupt.h"

void command_init(struct command *command, const char *text, size_t reply_limit)
{
    *command = (struct command){.text = text, .reply_limit = reply_limit};
}

void command_deinit(struct command *command)
{
    free(command->reply.bytes);
    command->reply = (struct growing){0};
}

static int set_number(const char *name, uint64_t number)
{
    char text[24];

    snprintf(text, sizeof text, "%llu", (unsigned long long)number);
    return setenv(name, text, 1);
}

static int set_environment(const struct mqc_message *message, uint64_t number)
{
    if (setenv("MQ_TOPIC", message->topic, 1) < 0 ||
        set_number("MQ_PRIORITY", message->priority) < 0 ||
        set_number("MQ_SIZE", message->size) < 0 || set_number("MQ_NUMBER", number) < 0 ||
        set_number("MQ_RETAINED", (message->flags & MQC_M_RETAINED) != 0) < 0 ||
        set_number("MQ_REQUEST", (message->flags & MQC_M_REQUEST) != 0) < 0 ||
        set_number("MQ_ATTEMPT", message->attempt) < 0)
        return -errno;
    return 0;
}

static int write_all(int fd, const char *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = pwrite(fd, bytes + done, size - done, (off_t)done);

        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* A file in memory with the payload, open at its beginning; or -errno. */
static int payload_file(const struct mqc_message *message)
{
    int fd = memfd_create("mqsub-payload", MFD_CLOEXEC);
    int r;

    if (fd < 0)
        return -errno;
    r = write_all(fd, message->payload, message->size);
    if (r == 0)
        return fd;
    close(fd);
    return r;
}

/* Start it with this standard input and, if not -1, standard output. Returns 0 or -errno. */
static int start(const struct command *command, int in, int out, pid_t *pid)
{
    char *const arguments[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
                               (char *)(uintptr_t)command->text, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t defaults;
    int r;

    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE); /* we ignore it; what we catch is reset by exec */
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF |
                                              (command->patient ? POSIX_SPAWN_SETPGROUP : 0));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    if (out >= 0)
        posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    r = -posix_spawn(pid, "/bin/sh", &actions, &attributes, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return r;
}

/* Take what stands in the pipe. False: there will be no more, or there is too much; one byte more
 * than the limit shows that. */
static bool take_reply(struct command *command, int pipe)
{
    struct growing *reply = &command->reply;
    ssize_t n;

    do {
        if (growing_reserve(reply, command->reply_size + 1, command->reply_limit + 1) < 0) {
            command->reply_size = command->reply_limit + 1;
            return false;
        }
        n = read(pipe, reply->bytes + command->reply_size, reply->size - command->reply_size);
        if (n > 0)
            command->reply_size += (size_t)n;
    } while ((n > 0 && command->reply_size <= command->reply_limit) || (n < 0 && errno == EINTR));
    return n < 0 && errno == EAGAIN;
}

/* Until the process ends. The pipe is closed when there is nothing more to be had from it. Returns
 * 0, -EINTR or another -errno. */
static int follow(struct command *command, int pidfd, int *pipe)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = pidfd, .events = POLLIN}, {.fd = *pipe, .events = POLLIN}};
        int r = command->patient ? interrupt_outwait(fds, 2) : interrupt_poll(fds, 2, -1);

        if (r < 0)
            return r;
        if (*pipe >= 0 && (fds[0].revents | fds[1].revents) != 0 && !take_reply(command, *pipe)) {
            close(*pipe);
            *pipe = -1;
        }
        if (fds[0].revents != 0)
            return 0;
    }
}

static int outcome(struct command *command, int status)
{
    if (command->reply_size > command->reply_limit)
        return COMMAND_E_LARGE;
    if (WIFSIGNALED(status)) {
        command->detail = WTERMSIG(status);
        return COMMAND_E_SIGNAL;
    }
    command->detail = WEXITSTATUS(status);
    return command->detail == 0 ? COMMAND_OK : COMMAND_E_STATUS;
}

static int wait_for(struct command *command, pid_t pid, int *pipe)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    int r = pidfd < 0 ? -errno : follow(command, pidfd, pipe);
    int status;

    if (r < 0)
        kill(pid, SIGTERM);
    if (pidfd >= 0)
        close(pidfd);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (r < 0)
        return r == -EINTR ? COMMAND_E_INTERRUPTED : r;
    return outcome(command, status);
}

int command_run(struct command *command, const struct mqc_message *message, uint64_t number)
{
    bool request = (message->flags & MQC_M_REQUEST) != 0;
    int pipe[2] = {-1, -1};
    int in, r;
    pid_t pid;

    command->reply_size = 0;
    r = set_environment(message, number);
    if (r < 0 || (r = in = payload_file(message)) < 0)
        return r;
    if (request && pipe2(pipe, O_CLOEXEC) < 0)
        r = -errno;
    else if (request)
        fcntl(pipe[0], F_SETFL, O_NONBLOCK); /* our end alone: the two are separate descriptions */
    if (r >= 0)
        r = start(command, in, pipe[1], &pid);
    close(in);
    if (pipe[1] >= 0)
        close(pipe[1]);
    if (r >= 0)
        r = wait_for(command, pid, &pipe[0]);
    if (pipe[0] >= 0)
        close(pipe[0]);
    return r;
}
