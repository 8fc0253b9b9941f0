/* Running one of our programs to its end, and what it said. Fails the test when it cannot be run.
 */
#ifndef MQBROKER_TESTS_SUPPORT_PROGRAM_H
#define MQBROKER_TESTS_SUPPORT_PROGRAM_H

enum { PROGRAM_TEXT_MAX = 1 << 18 };

struct program {
    int status; /* exit status; below 0: the signal that ended it */
    char out[PROGRAM_TEXT_MAX];
    char err[8192];
};

/* Run `argv[0]` of the built programs ("mqstat"), with nothing to read. `argv` ends with NULL.
 * Returns the exit status. */
int program_run(struct program *p, const char *const argv[]);

/* The same with the arguments in a row: PROGRAM(&p, "mqstat", "--json"). */
#define PROGRAM(p, ...) program_run((p), (const char *const[]){__VA_ARGS__, NULL})

#endif
