/* A peer's server: started for a run with a private folder, stopped after it, and nothing of it
 * left.
 */
#ifndef MQBROKER_TESTS_PEERS_SERVER_H
#define MQBROKER_TESTS_PEERS_SERVER_H

#include <stdint.h>
#include <sys/types.h>

enum {
    SERVER_PATH_SIZE = 128,
};

struct server {
    const char *program;
    char folder[64]; /* private to it, made by server_prepare(); "" is none */
    pid_t pid;       /* 0: not running */
    int pidfd;
    uint64_t starting; /* ns from its start until it was ready */
};

/* Make its folder, below TMPDIR. Returns 0, or -1 with bench_error() set. */
int server_prepare(struct server *server, const char *program);

/* The path of a file in its folder. */
void server_path(const struct server *server, char out[SERVER_PATH_SIZE], const char *file);

/* Write a file in its folder. Returns 0 or -1. */
int server_write(const struct server *server, const char *file, const char *text);

/* Run it, and ask `is_ready` (1: yes; 0: not yet) until it is. `arguments` end with NULL and begin
 * with the program's name. Returns 0 or -1. */
int server_start(struct server *server, const char *const *arguments,
                 int (*is_ready)(const struct server *server, const void *context),
                 const void *context);

/* Stop it, by force if need be, and remove its folder. Repeatable; fine on all zero. Returns 1 if
 * it ran and did not end in good order, else 0. */
int server_stop(struct server *server);

#endif
