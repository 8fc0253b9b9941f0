/* A child, and two unnamed files for what it writes. */
#include "tests/support/program.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/patience.h"

static int scratch(void)
{
    int fd = memfd_create("program", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static void take_text(int fd, char *text, size_t size)
{
    ssize_t n = pread(fd, text, size - 1, 0);

    assert_true(n >= 0);
    text[n] = '\0';
    close(fd);
}

static void become(const char *const argv[], int out, int err)
{
    char path[4096];
    int in = open("/dev/null", O_RDONLY | O_CLOEXEC);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    snprintf(path, sizeof(path), MQB_BIN_DIR "/%s", argv[0]);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    execv(path, (char *const *)(uintptr_t)argv);
    _exit(127);
}

int program_run(struct program *p, const char *const argv[])
{
    uint64_t begun = patience_now();
    int out = scratch();
    int err = scratch();
    int status;
    pid_t child;

    fflush(NULL);
    child = fork();
    assert_true(child >= 0);
    if (child == 0)
        become(argv, out, err);
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (patience_now() - begun > PATIENCE_MS)
            kill(child, SIGKILL);
        else
            patience_spend(begun, argv[0]);
    }
    take_text(out, p->out, sizeof(p->out));
    take_text(err, p->err, sizeof(p->err));
    p->status = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    assert_int_not_equal(p->status, 127);
    return p->status;
}
