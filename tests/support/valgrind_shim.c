/* For programs under valgrind, which up to 3.19 does not know pidfd_open(2). Preloaded, this stands
 * in for syscall(3), through which they make that call (C libraries have it only since glibc 2.36),
 * and gives them a pipe that becomes readable when the process has ended: a shell that looks into
 * /proc writes to it. All other calls go on to the C library. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#define WATCH                                                                                      \
    "while read -r _ _ state _ <\"/proc/$0/stat\" && [ \"$state\" != Z ]; do sleep 0.05; done\n"   \
    "echo ended"

static long watch(long pid)
{
    char text[24];
    int ends[2];

    if (pipe2(ends, O_CLOEXEC) < 0)
        return -1;
    snprintf(text, sizeof(text), "%ld", pid);
    switch (fork()) {
    case -1:
        close(ends[0]);
        close(ends[1]);
        return -1;
    case 0:
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO); /* it must not keep the test's own pipe open */
        execl("/bin/sh", "sh", "-c", WATCH, text, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    return ends[0];
}

__attribute__((visibility("default"))) long syscall(long number, ...)
{
    static long (*next)(long, ...);
    long a[6];
    va_list arguments;

    va_start(arguments, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(arguments, long);
    va_end(arguments);
    if (number == SYS_pidfd_open)
        return watch(a[0]);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
