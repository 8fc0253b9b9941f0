/* A tool of ours that runs beside a test: its input, what it wrote so far, how it ends. For tools
 * that simply run to their end, see program.h.
 *
 * All functions fail the test when something goes wrong. A tool dies with the test. */
#ifndef MQBROKER_TESTS_SUPPORT_TOOL_H
#define MQBROKER_TESTS_SUPPORT_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { TOOL_TEXT_MAX = 1 << 20 };

struct tool {
    pid_t pid; /* 0: it has ended */
    int in;    /* the pipe to its input; -1: that has ended */
    int out;   /* what it wrote: files, or for `out` a terminal or pipe */
    int err;
    bool live_out; /* `out` is read as it comes */
    size_t size;   /* of `text` */
    char text[TOOL_TEXT_MAX];
    char errors[8192];
};

enum tool_output {
    TOOL_FILE = 0,
    TOOL_PIPE,     /* that can be closed */
    TOOL_TERMINAL, /* a pseudo-terminal; newlines come as CR LF */
};

/* Start `argv[0]` of the built programs. `argv` ends with NULL. Its input is a pipe that stays
 * open. */
void tool_start(struct tool *t, enum tool_output output, const char *const argv[]);

#define TOOL(t, ...) tool_start((t), TOOL_FILE, (const char *const[]){__VA_ARGS__, NULL})

/* Write to its input; end its input. */
void tool_feed(struct tool *t, const void *bytes, size_t size);
void tool_end_input(struct tool *t);

/* What it has written so far, with a NUL behind it. */
const char *tool_out(struct tool *t);
const char *tool_err(struct tool *t);

/* Nobody reads its output any more (TOOL_PIPE). */
void tool_close_output(struct tool *t);

void tool_signal(const struct tool *t, int number);

/* End its input, and wait for its end: its exit status, or below 0 the signal that ended it. */
int tool_wait(struct tool *t);

/* Wait for its end with its input open. */
int tool_wait_open(struct tool *t);

/* Close what is open; kill it if it runs. */
void tool_discard(struct tool *t);

#endif
