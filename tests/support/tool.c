/* Tools beside a test. Files in memory take what a tool writes, so that it never waits for the
 * test; pipes and terminals are for tests of just those. */
#include "tests/support/tool.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/patience.h"

static int scratch(void)
{
    int fd = memfd_create("tool", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

/* Our end of the tool's output; its own end is stored. */
static int make_output(enum tool_output output, int *theirs)
{
    int ends[2];

    switch (output) {
    case TOOL_PIPE:
        assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        *theirs = ends[1];
        return ends[0];
    case TOOL_TERMINAL:
        ends[0] = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
        assert_true(ends[0] >= 0);
        assert_int_equal(grantpt(ends[0]), 0);
        assert_int_equal(unlockpt(ends[0]), 0);
        *theirs = open(ptsname(ends[0]), O_RDWR | O_NOCTTY | O_CLOEXEC);
        assert_true(*theirs >= 0);
        return ends[0];
    default:
        ends[0] = scratch();
        *theirs = dup(ends[0]);
        return ends[0];
    }
}

static void become(const char *const argv[], int in, int out, int err)
{
    char path[4096];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_DFL); /* a shell's background job has it ignored */
    signal(SIGPIPE, SIG_DFL);
    snprintf(path, sizeof path, MQB_BIN_DIR "/%s", argv[0]);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    execv(path, (char *const *)(uintptr_t)argv);
    _exit(127);
}

void tool_start(struct tool *t, enum tool_output output, const char *const argv[])
{
    int in[2], out;

    t->size = 0;
    t->live_out = output != TOOL_FILE;
    t->out = make_output(output, &out);
    t->err = scratch();
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    fflush(NULL);
    t->pid = fork();
    assert_true(t->pid >= 0);
    if (t->pid == 0)
        become(argv, in[0], out, t->err);
    close(in[0]);
    close(out);
    t->in = in[1];
}

void tool_feed(struct tool *t, const void *bytes, size_t size)
{
    assert_int_equal(write(t->in, bytes, size), size);
}

void tool_end_input(struct tool *t)
{
    if (t->in >= 0)
        close(t->in);
    t->in = -1;
}

const char *tool_out(struct tool *t)
{
    ssize_t n;

    if (!t->live_out) {
        n = pread(t->out, t->text, sizeof t->text - 1, 0);
        assert_true(n >= 0);
        t->size = (size_t)n;
    } else {
        while ((n = read(t->out, t->text + t->size, sizeof t->text - 1 - t->size)) > 0)
            t->size += (size_t)n;
    }
    t->text[t->size] = '\0';
    return t->text;
}

const char *tool_err(struct tool *t)
{
    ssize_t n = pread(t->err, t->errors, sizeof t->errors - 1, 0);

    assert_true(n >= 0);
    t->errors[n] = '\0';
    return t->errors;
}

void tool_close_output(struct tool *t)
{
    close(t->out);
    t->out = -1;
}

void tool_signal(const struct tool *t, int number)
{
    assert_int_equal(kill(t->pid, number), 0);
}

int tool_wait_open(struct tool *t)
{
    uint64_t begun = patience_now();
    int status;

    while (waitpid(t->pid, &status, WNOHANG) == 0)
        patience_spend(begun, "the end of a tool");
    t->pid = 0;
    if (t->out >= 0)
        tool_out(t);
    tool_err(t);
    tool_discard(t);
    assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 127);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int tool_wait(struct tool *t)
{
    tool_end_input(t);
    return tool_wait_open(t);
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void tool_discard(struct tool *t)
{
    if (t->pid > 0) {
        kill(t->pid, SIGKILL);
        waitpid(t->pid, NULL, 0);
    }
    t->pid = 0;
    close_one(&t->in);
    close_one(&t->out);
    close_one(&t->err);
}
