/* The verbs of mqctl. argv[0] is the verb; each returns the exit status (tools/options.h has those
 * that are not the C library's). Failures are said in one line on standard error. */
#ifndef MQBROKER_TOOLS_MQCTL_H
#define MQBROKER_TOOLS_MQCTL_H

/* From the board (mqctl-list.c). */
int mqctl_clients(int argc, char **argv);
int mqctl_groups(int argc, char **argv);

/* From the broker's memory (mqctl-peek.c). */
int mqctl_peek(int argc, char **argv);

/* By asking the broker (mqctl-admin.c). */
int mqctl_kick(int argc, char **argv);
int mqctl_purge(int argc, char **argv);
int mqctl_requeue(int argc, char **argv);
int mqctl_remove(int argc, char **argv);

/* By signals, watched on the board (mqctl-signal.c). */
int mqctl_reload(int argc, char **argv);
int mqctl_handover(int argc, char **argv);

/* From the journal's files (mqctl-journal.c). */
int mqctl_journal(int argc, char **argv);

/* From what a dead broker left (mqctl-cleanup.c). */
int mqctl_cleanup(int argc, char **argv);

#endif
