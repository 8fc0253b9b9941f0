/* Handover: the broker becomes another version of itself, under load (floor 4).
 *
 * On SIGUSR2 it asks the binary that now has the path of its own whether that could go on with what
 * this one has. If so it executes it, between two turns: the process stays the same. If not, or if
 * there is no answer, it says so in the log, and goes on as if nobody had asked. */
#ifndef MQBROKER_BROKER_HANDOVER_H
#define MQBROKER_BROKER_HANDOVER_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

struct broker;

struct handover {
    char path[PATH_MAX]; /* by which this broker was started */
    char *const *argv;   /* … and with what */
    pid_t child;         /* that is asked; 0: none is */
    int answer;          /* what it says, if a child is asked */
    bool late;           /* … and it has had its time */
    bool agreed;         /* after this turn */
};

/* `argv` is main()'s, and must stay. */
void handover_init(struct handover *h, char *const argv[]);

/* Who is still asked is killed. */
void handover_deinit(struct handover *h);

/* SIGUSR2. Nothing, if somebody is asked already. */
void handover_ask(struct broker *b);

/* SIGCHLD: who was asked may have ended; SIGALRM: it has had its time. */
void handover_hear(struct broker *b);
void handover_hurry(struct broker *b);

/* It has agreed: execute it. Returns only if that cannot be done. */
void handover_go(struct broker *b);

#endif
