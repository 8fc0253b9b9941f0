/* How one broker becomes the next.
 *
 * A handover is a kill that was planned. All that has to survive lies in shared memory and in the
 * kernel's queues, in good order after each store; so nothing is packed up, nothing is passed on,
 * and what is executed starts as it would after a kill. All descriptors close by themselves, the
 * lock on the ledger with them. What is gained over a kill: the pid stays, so supervisors notice
 * nothing and clients see a broker that lives; the pause is a start and no more; and signals that
 * come meanwhile, which stay blocked and pending, are read by the next one.
 *
 * After the execution there is no way back. So whatever can be known to go wrong is found out
 * before: the other binary is run with the arguments that it would get and `--adopts` with our
 * layouts. It says whether it runs on this machine at all, reads our configuration and knows our
 * memory. Meanwhile the broker goes on serving: the end of the child is a SIGCHLD, the end of
 * patience a SIGALRM, both read where all signals are. */
#include "broker/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/shell.h"

enum {
    PATIENCE = 5,   /* seconds for an answer */
    ANSWER = 512,   /* bytes of it that are repeated */
    ASKED_WITH = 3, /* arguments besides our own: --adopts LEDGER BOARD */
};

static const char self[] = "/proc/self/exe";

/* ---- The binary ---- */

/* Where the file is, or was, that this process executes. */
static bool find_self(char path[PATH_MAX])
{
    static const char deleted[] = " (deleted)";
    const size_t more = sizeof(deleted) - 1;
    ssize_t n = readlink(self, path, PATH_MAX - 1);

    if (n < 0)
        return false;
    path[n] = '\0';
    if ((size_t)n > more && strcmp(path + n - more, deleted) == 0)
        path[(size_t)n - more] = '\0';
    return true;
}

/* The path by which we were started, and not the file that it led to: an upgrade may change the
 * link. */
void handover_init(struct handover *h, char *const argv[])
{
    const char *path = (const char *)getauxval(AT_EXECFN);
    char here[PATH_MAX];
    int n = -1;

    *h = (struct handover){.argv = argv, .answer = -1};
    if (path != NULL && path[0] != '/' && getcwd(here, sizeof(here)) != NULL)
        n = snprintf(h->path, PATH_MAX, "%s/%s", here, path);
    else if (path != NULL && strncmp(path, "/proc/", 6) != 0 && strncmp(path, "/dev/fd/", 8) != 0)
        n = snprintf(h->path, PATH_MAX, "%s", path);
    if ((n < 0 || n >= PATH_MAX) && !find_self(h->path))
        strcpy(h->path, self);
}

/* What is to be run: if there is nothing at our path any more, the file that runs. */
static const char *binary(const struct handover *h)
{
    return access(h->path, F_OK) < 0 && errno == ENOENT ? self : h->path;
}

/* ---- To ask ---- */

__attribute__((format(printf, 2, 3))) static void refuse(struct broker *b, const char *format, ...)
{
    char why[ANSWER + PATH_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(why, sizeof(why), format, arguments);
    va_end(arguments);
    board_add(&memory_board(&b->memory)->totals.handovers_refused, 1);
    log_warning("no handover: %s; this broker goes on", why);
}

/* Run it with these arguments; what it writes goes to `out`. 0 or -errno. */
static int spawn(pid_t *child, const char *path, char *const argv[], int out)
{
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, ignored;
    int r;

    sigemptyset(&none);
    sigemptyset(&ignored);
    sigaddset(&ignored, SIGPIPE);
    r = posix_spawn_file_actions_init(&files);
    if (r != 0)
        return -r;
    r = posix_spawnattr_init(&attributes);
    if (r == 0) {
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
        posix_spawnattr_setsigmask(&attributes, &none);
        posix_spawnattr_setsigdefault(&attributes, &ignored);
        r = posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
        if (r == 0)
            r = posix_spawn_file_actions_adddup2(&files, out, STDERR_FILENO);
        if (r == 0)
            r = posix_spawn(child, path, &files, &attributes, argv, environ);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&files);
    return -r;
}

/* Run it as we were, with the question behind. */
static int spawn_asked(struct handover *h, int out)
{
    char option[] = "--adopts", ledger[16], board[16];
    size_t n = 0;
    char **argv;
    int r;

    while (h->argv[n] != NULL)
        n++;
    argv = calloc(n + ASKED_WITH + 1, sizeof(*argv));
    if (argv == NULL)
        return -ENOMEM;
    snprintf(ledger, sizeof(ledger), "%d", PERSIST_LAYOUT);
    snprintf(board, sizeof(board), "%d", BOARD_LAYOUT);
    memcpy(argv, h->argv, n * sizeof(*argv));
    argv[n] = option;
    argv[n + 1] = ledger;
    argv[n + 2] = board;
    r = spawn(&h->child, binary(h), argv, out);
    free(argv);
    if (r < 0)
        h->child = 0;
    return r;
}

static int ask(struct handover *h)
{
    int line[2];
    int r;

    if (pipe2(line, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    r = spawn_asked(h, line[1]);
    close(line[1]);
    if (r < 0) {
        close(line[0]);
        return r;
    }
    h->answer = line[0];
    h->late = false;
    return 0;
}

void handover_ask(struct broker *b)
{
    struct handover *h = &b->handover;
    int r;

    if (h->child != 0 || h->agreed)
        return;
    r = ask(h);
    if (r < 0) {
        refuse(b, "%s cannot be run: %s", h->path, strerror(-r));
        return;
    }
    log_info("handover: asking %s", h->path);
    alarm(PATIENCE);
}

/* ---- The answer ---- */

/* Its first line. */
static void read_answer(const struct handover *h, char text[ANSWER])
{
    ssize_t n = read(h->answer, text, ANSWER - 1);

    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
}

static void weigh(struct broker *b, int status)
{
    struct handover *h = &b->handover;
    char answer[ANSWER];

    read_answer(h, answer);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        h->agreed = true;
    else if (h->late)
        refuse(b, "%s did not answer within %d s", h->path, PATIENCE);
    else if (WIFSIGNALED(status))
        refuse(b, "%s was ended by signal %d when it was asked", h->path, WTERMSIG(status));
    else if (answer[0] == '\0')
        refuse(b, "%s refused with status %d", h->path, WEXITSTATUS(status));
    else
        refuse(b, "%s says: %s", h->path, answer);
}

void handover_hear(struct broker *b)
{
    struct handover *h = &b->handover;
    int status;

    if (h->child == 0 || waitpid(h->child, &status, WNOHANG) != h->child)
        return;
    h->child = 0;
    alarm(0);
    weigh(b, status);
    close(h->answer);
    h->answer = -1;
}

void handover_hurry(struct broker *b)
{
    struct handover *h = &b->handover;

    if (h->child == 0)
        return;
    h->late = true;
    kill(h->child, SIGKILL);
}

void handover_deinit(struct handover *h)
{
    if (h->child == 0)
        return;
    kill(h->child, SIGKILL);
    waitpid(h->child, NULL, 0);
    close(h->answer);
    h->child = 0;
}

/* ---- To go ---- */

void handover_go(struct broker *b)
{
    struct handover *h = &b->handover;

    h->agreed = false;
    log_info("handover: to %s", h->path);
    execv(binary(h), h->argv);
    refuse(b, "%s cannot be run: %s", h->path, strerror(errno));
}
