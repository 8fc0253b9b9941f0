/* Starts, watches and ends a broker.
 *
 * It serves when its board says so under its own pid: that is the last thing it does before its
 * loop. What it leaves is looked for in /dev/shm; but queues can rarely be listed, so they are
 * asked for by name, and the nonces of the reply queues, which stand on the board, are noted before
 * anything ends. */
#include "tests/support/daemon.h"

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "libclient/queue.h"
#include "tests/support/actor.h"
#include "tests/support/patience.h"

enum { CONFIG_SIZE = 1024 };

static unsigned n_instances;
static unsigned n_descriptors; /* of this process at setup */
static int last_descriptor;    /* the highest of them */

/* ---- What a process has ---- */

static unsigned count_descriptors(pid_t pid)
{
    char path[64];
    unsigned n = 0;
    DIR *directory;

    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    directory = opendir(path);
    assert_non_null(directory);
    while (readdir(directory) != NULL)
        n++;
    closedir(directory);
    return n;
}

unsigned daemon_descriptors(const struct daemon *d)
{
    return count_descriptors(d->pid);
}

uint64_t daemon_status(const struct daemon *d, const char *key)
{
    char path[64];
    char line[256];
    unsigned long value = 0;
    bool found = false;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)d->pid);
    file = fopen(path, "re");
    assert_non_null(file);
    while (!found && fgets(line, sizeof(line), file) != NULL)
        found = strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':' &&
                sscanf(line + strlen(key) + 1, "%lu", &value) == 1;
    fclose(file);
    assert_true(found);
    return value;
}

/* ---- What it says ---- */

static char *read_log(const struct daemon *d)
{
    struct stat st;
    char *text;
    ssize_t n;

    assert_int_equal(fstat(d->log, &st), 0);
    text = calloc(1, (size_t)st.st_size + 1);
    assert_non_null(text);
    n = pread(d->log, text, (size_t)st.st_size, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    return text;
}

unsigned daemon_said_times(const struct daemon *d, const char *words)
{
    char *text = read_log(d);
    unsigned n = 0;

    for (const char *at = strstr(text, words); at != NULL; at = strstr(at + 1, words))
        n++;
    free(text);
    return n;
}

bool daemon_said(const struct daemon *d, const char *words)
{
    return daemon_said_times(d, words) > 0;
}

void daemon_print_log(const struct daemon *d)
{
    char *text = read_log(d);

    fprintf(stderr, "---- what the broker of %s said:\n%s----\n", d->instance, text);
    free(text);
}

/* ---- Start ---- */

void daemon_configure(const struct daemon *d, const char *config)
{
    FILE *file = fopen(d->config, "we");

    assert_non_null(file);
    assert_true(fputs(config, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void become_broker(const struct daemon *d)
{
    struct rlimit limit = {.rlim_cur = d->queue_bytes, .rlim_max = d->queue_bytes};

    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (d->queue_bytes != 0 && setrlimit(RLIMIT_MSGQUEUE, &limit) < 0)
        _exit(126);
    dup2(d->log, STDERR_FILENO);
    execl(d->program != NULL ? d->program : MQB_BIN_DIR "/mqbroker", "mqbroker", "--instance",
          d->instance, "--config", d->config, (char *)NULL);
    _exit(127);
}

/* Map the board that has its name now: what was left of a clean stop, or is being laid out, is not
 * it. */
static bool map_board(struct daemon *d)
{
    char name[NAMES_MAX];
    struct segment board;

    names_board(name, d->instance);
    if (segment_open(&board, name, 0) < 0)
        return false;
    if (board_check(board.base, board.size) != BOARD_OK || board.inode == d->board.inode) {
        segment_close(&board);
        return d->board.base != NULL;
    }
    segment_close(&d->board);
    d->board = board;
    return true;
}

void daemon_spawn(struct daemon *d, void (*meet)(pid_t pid, void *context), void *context)
{
    int gate[2];

    assert_int_equal(pipe2(gate, O_CLOEXEC), 0);
    fflush(NULL);
    d->pid = fork();
    assert_true(d->pid >= 0);
    if (d->pid == 0) {
        char word;

        close(gate[1]);
        if (read(gate[0], &word, sizeof(word)) < 0)
            _exit(126);
        become_broker(d);
    }
    close(gate[0]);
    if (meet != NULL)
        meet(d->pid, context);
    close(gate[1]); /* it opens */
}

bool daemon_serves(struct daemon *d)
{
    const struct board_header *board;

    if (!map_board(d))
        return false;
    board = d->board.base;
    return atomic_load(&board->state) == BOARD_RUNNING &&
           atomic_load(&board->pid) == (uint32_t)d->pid;
}

void daemon_await(struct daemon *d)
{
    uint64_t begun = patience_now();

    while (!daemon_serves(d)) {
        if (waitpid(d->pid, NULL, WNOHANG) == d->pid) {
            d->pid = 0;
            daemon_print_log(d);
            fail_msg("the broker has ended before it served");
        }
        patience_spend(begun, "the broker to serve");
    }
}

static void launch(struct daemon *d)
{
    daemon_spawn(d, NULL, NULL);
    daemon_await(d);
}

void daemon_start(struct daemon *d, const char *config)
{
    daemon_configure(d, config != NULL ? config : "");
    launch(d);
}

void daemon_start_with_journal(struct daemon *d, const char *config)
{
    char text[CONFIG_SIZE];

    if (d->journal.path[0] == '\0')
        assert_int_equal(folder_make(&d->journal, "/tmp"), 0);
    snprintf(text, sizeof(text), "%sjournal = \"%s\";\n", config != NULL ? config : "",
             d->journal.path);
    daemon_start(d, text);
}

void daemon_restart(struct daemon *d)
{
    launch(d);
}

/* ---- What it shows ---- */

const struct board_header *daemon_board(const struct daemon *d)
{
    return d->board.base;
}

unsigned daemon_rows(const struct daemon *d)
{
    const struct board_header *board = daemon_board(d);
    unsigned n = 0;

    for (uint32_t i = 0; i < board->n_rows; i++)
        n += atomic_load(&board_row(board, i)->identity.state) != BOARD_ROW_FREE;
    return n;
}

static bool is_noted(const struct daemon *d, uint64_t nonce)
{
    for (unsigned i = 0; i < d->n_nonces; i++) {
        if (d->nonces[i] == nonce)
            return true;
    }
    return false;
}

void daemon_note_queues(struct daemon *d)
{
    const struct board_header *board = daemon_board(d);

    for (uint32_t i = 0; board != NULL && i < board->n_rows; i++) {
        struct board_client_info info;

        if (board_read_identity(board_row(board, i), &info) && info.nonce != 0 &&
            !is_noted(d, info.nonce) && d->n_nonces < DAEMON_NONCES_MAX)
            d->nonces[d->n_nonces++] = info.nonce;
    }
}

static bool queue_exists(const char *name)
{
    struct queue q = QUEUE_CLOSED;
    int r = queue_open(&q, name, O_RDONLY | O_NONBLOCK);

    queue_close(&q);
    return r != -ENOENT;
}

bool daemon_has_queue(const struct daemon *d, uint64_t nonce)
{
    char name[NAMES_MAX];

    names_reply_queue(name, d->instance, nonce);
    return queue_exists(name);
}

/* ---- What is left ---- */

/* Its queues, one after the other: `i` from 0 on. False: that was all. */
static bool nth_queue(const struct daemon *d, unsigned i, char name[NAMES_MAX])
{
    if (i == 0)
        names_request_queue(name, d->instance);
    else if (i == 1)
        names_urgent_queue(name, d->instance);
    else if (i - 2 < d->n_nonces)
        names_reply_queue(name, d->instance, d->nonces[i - 2]);
    else
        return false;
    return true;
}

/* Is this file one of its segments: the board, or with a dot and more behind that name? */
static bool is_segment(const struct daemon *d, const char *file)
{
    char board[NAMES_MAX];
    size_t lead;

    names_board(board, d->instance);
    lead = strlen(board + 1);
    return strncmp(file, board + 1, lead) == 0 && (file[lead] == '\0' || file[lead] == '.');
}

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text);

    return n >= strlen(end) && strcmp(text + n - strlen(end), end) == 0;
}

/* Its segments whose names end so; each is given to `visit`, which may be NULL. */
static unsigned visit_segments(const struct daemon *d, const char *end,
                               void (*visit)(const char *name))
{
    DIR *directory = opendir("/dev/shm");
    const struct dirent *entry;
    unsigned n = 0;

    assert_non_null(directory);
    while ((entry = readdir(directory)) != NULL) {
        char name[NAMES_MAX];

        if (!is_segment(d, entry->d_name) || !ends_in(entry->d_name, end))
            continue;
        n++;
        snprintf(name, sizeof(name), "/%.*s", NAMES_MAX - 2, entry->d_name);
        if (visit != NULL)
            visit(name);
    }
    closedir(directory);
    return n;
}

unsigned daemon_segments(const struct daemon *d, const char *end)
{
    return visit_segments(d, end, NULL);
}

static void say_left(const char *name)
{
    fprintf(stderr, "left behind: segment %s\n", name);
}

static void unlink_segment(const char *name)
{
    shm_unlink(name);
}

bool daemon_is_gone(const struct daemon *d)
{
    char name[NAMES_MAX];
    bool gone = visit_segments(d, "", say_left) == 0;

    for (unsigned i = 0; nth_queue(d, i, name); i++) {
        if (queue_exists(name)) {
            fprintf(stderr, "left behind: queue %s\n", name);
            gone = false;
        }
    }
    return gone;
}

static void remove_all(const struct daemon *d)
{
    char name[NAMES_MAX];

    for (unsigned i = 0; nth_queue(d, i, name); i++)
        mq_unlink(name);
    visit_segments(d, "", unlink_segment);
}

/* ---- End ---- */

static int reap(struct daemon *d)
{
    int status;

    assert_int_equal(waitpid(d->pid, &status, 0), d->pid);
    d->pid = 0;
    return status;
}

void daemon_kill(struct daemon *d)
{
    daemon_note_queues(d);
    assert_int_equal(kill(d->pid, SIGKILL), 0);
    reap(d);
}

void daemon_reboot(struct daemon *d)
{
    daemon_kill(d);
    remove_all(d);
}

void daemon_reboot_and_start(struct daemon *d)
{
    daemon_reboot(d);
    daemon_restart(d);
}

int daemon_refuse(struct daemon *d)
{
    uint64_t begun = patience_now();
    int status;

    daemon_spawn(d, NULL, NULL);
    while (waitpid(d->pid, &status, WNOHANG) == 0) {
        assert_false(daemon_serves(d));
        patience_spend(begun, "the broker to end");
    }
    d->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int daemon_stop(struct daemon *d)
{
    int status;

    daemon_note_queues(d);
    assert_int_equal(kill(d->pid, SIGTERM), 0);
    status = reap(d);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        daemon_print_log(d);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

void daemon_pause(const struct daemon *d)
{
    int status;

    assert_int_equal(kill(d->pid, SIGSTOP), 0);
    assert_int_equal(waitpid(d->pid, &status, WUNTRACED), d->pid);
    assert_true(WIFSTOPPED(status));
}

void daemon_resume(const struct daemon *d)
{
    assert_int_equal(kill(d->pid, SIGCONT), 0);
}

void daemon_reload(const struct daemon *d)
{
    unsigned before = daemon_said_times(d, "reload");

    assert_int_equal(kill(d->pid, SIGHUP), 0);
    PATIENCE_UNTIL(daemon_said_times(d, "reload") > before);
}

struct mqc *daemon_open(const struct daemon *d, const char *name, unsigned flags)
{
    const struct mqc_options options = {.instance = d->instance, .name = name, .flags = flags};
    struct mqc *client = NULL;

    if (mqc_open(&client, &options) < 0)
        fail_msg("cannot open a client: %s", mqc_last_error());
    return client;
}

/* ---- Fixtures ---- */

int daemon_setup(void **state)
{
    struct daemon *d = calloc(1, sizeof(*d));
    int fd;

    assert_non_null(d);
    n_descriptors = count_descriptors(getpid());
    last_descriptor =
        dup(STDERR_FILENO); /* the lowest free one: what is opened later is above it */
    close(last_descriptor);
    last_descriptor--;
    d->board = SEGMENT_CLOSED;
    d->nonces = calloc(DAEMON_NONCES_MAX, sizeof(*d->nonces));
    assert_non_null(d->nonces);
    snprintf(d->instance, sizeof(d->instance), "%s-%d-%u", program_invocation_short_name,
             (int)getpid(), n_instances++);
    snprintf(d->config, sizeof(d->config), "/tmp/mqbroker-test-XXXXXX");
    fd = mkostemp(d->config, O_CLOEXEC);
    assert_true(fd >= 0);
    close(fd);
    d->log = memfd_create("broker-log", MFD_CLOEXEC);
    assert_true(d->log >= 0);
    assert_int_equal(fcntl(d->log, F_SETFL, O_APPEND), 0);
    *state = d;
    return 0;
}

int daemon_teardown(void **state)
{
    struct daemon *d = *state;
    int status = 0;
    unsigned n;
    bool gone;

    actor_kill_all();
    if (d->pid != 0) {
        daemon_resume(d);
        status = daemon_stop(d);
    }
    gone = daemon_is_gone(d);
    if (!gone) {
        daemon_print_log(d);
        remove_all(d);
    }
    segment_close(&d->board);
    close(d->log);
    unlink(d->config);
    folder_remove(&d->journal);
    free(d->nonces);
    free(d);
    assert_int_equal(status, 0);
    assert_true(gone);
    n = count_descriptors(getpid());
    if (n != n_descriptors) /* what a failed test left open would take queue memory from the next */
        close_range((unsigned)last_descriptor + 1, ~0u, 0);
    assert_int_equal(n, n_descriptors);
    return 0;
}
