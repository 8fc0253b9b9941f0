/* A real broker for a test, under an instance of its own, and what must be left of it afterwards:
 * nothing.
 *
 * All functions fail the test when something goes wrong. Begin a test program's tests with
 * daemon_setup and end them with daemon_teardown (cmocka fixtures): `*state` is then a struct
 * daemon that does not run yet. */
#ifndef MQBROKER_TESTS_SUPPORT_DAEMON_H
#define MQBROKER_TESTS_SUPPORT_DAEMON_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "libclient/board.h"
#include "libclient/mqclient.h"
#include "libclient/names.h"
#include "libclient/segment.h"
#include "tools/bench-folder.h"

enum { DAEMON_NONCES_MAX = 4096 };

struct daemon {
    char instance[NAMES_INSTANCE_MAX + 1];
    char config[64];       /* path of its configuration file */
    const char *program;   /* path of another broker than the one that is built for use; or NULL */
    uint64_t queue_bytes;  /* RLIMIT_MSGQUEUE it is started with; 0: the test's own */
    pid_t pid;             /* 0: does not run */
    int log;               /* what it wrote to standard error */
    struct segment board;  /* mapped since it serves; also after it died */
    struct folder journal; /* of daemon_start_with_journal() */
    uint64_t *nonces;      /* of the reply queues that were seen on the board */
    unsigned n_nonces;
};

/* Fixtures. The teardown stops the broker, and fails if it leaves a queue, a segment, or this
 * process more descriptors than it had; what a failed test left behind is killed and removed. */
int daemon_setup(void **state);
int daemon_teardown(void **state);

/* A test with these fixtures, for the table of a program's tests. */
#define DAEMON_TEST(f) cmocka_unit_test_setup_teardown(f, daemon_setup, daemon_teardown)

/* Start it with this configuration (NULL: all defaults), and return when it serves. */
void daemon_start(struct daemon *d, const char *config);

/* The same, and it keeps a journal, in a folder that is there until the teardown. */
void daemon_start_with_journal(struct daemon *d, const char *config);

/* Write another configuration, to be read on SIGHUP or at the next start. */
void daemon_configure(const struct daemon *d, const char *config);

/* Start it again under the same instance, and return when it serves. */
void daemon_restart(struct daemon *d);

/* The two halves of a start, for who has to do with the process before it serves: fork it, have
 * `meet` (or NULL) called before it becomes the broker; then wait until it serves. */
void daemon_spawn(struct daemon *d, void (*meet)(pid_t pid, void *context), void *context);
void daemon_await(struct daemon *d);

/* Does it serve by now? */
bool daemon_serves(struct daemon *d);

/* SIGKILL, and reap it. */
void daemon_kill(struct daemon *d);

/* What a reboot of the machine leaves of it: files, and nothing else. SIGKILL, and all of its
 * queues and segments are gone; those of its clients too, who are the caller's to kill. */
void daemon_reboot(struct daemon *d);
void daemon_reboot_and_start(struct daemon *d);

/* Fork it, and return when it has ended without having served: its exit status. */
int daemon_refuse(struct daemon *d);

/* SIGTERM, and its exit status. */
int daemon_stop(struct daemon *d);

/* SIGSTOP, and return when it stands still; SIGCONT. */
void daemon_pause(const struct daemon *d);
void daemon_resume(const struct daemon *d);

/* SIGHUP, and return when it has reloaded or said why not. */
void daemon_reload(const struct daemon *d);

/* Does its log so far contain this? */
bool daemon_said(const struct daemon *d, const char *words);

/* How often? */
unsigned daemon_said_times(const struct daemon *d, const char *words);

/* Repeat on standard error what it said, for who has to find out what went wrong. */
void daemon_print_log(const struct daemon *d);

/* What it shows. Valid until it is started again, whatever becomes of the broker. */
const struct board_header *daemon_board(const struct daemon *d);

/* Its rows that are not free. */
unsigned daemon_rows(const struct daemon *d);

/* A number behind a key of /proc/<pid>/status, such as "RssAnon" (KiB); its open descriptors. */
uint64_t daemon_status(const struct daemon *d, const char *key);
unsigned daemon_descriptors(const struct daemon *d);

/* A handle on it. `name` may be NULL; `flags` are of enum mqc_open_flag. */
struct mqc *daemon_open(const struct daemon *d, const char *name, unsigned flags);

/* Note the reply queues that exist now, so that the end can tell whether they have gone. Called by
 * daemon_stop and daemon_kill. */
void daemon_note_queues(struct daemon *d);

/* Is there nothing left of it: no request queue, no reply queue that was ever noted, no segment?
 * Says on standard error what is. */
bool daemon_is_gone(const struct daemon *d);

/* How many segments it has whose names end so: ".outbox", ".pool". */
unsigned daemon_segments(const struct daemon *d, const char *end);

/* Is a reply queue there? */
bool daemon_has_queue(const struct daemon *d, uint64_t nonce);

#endif
