/* SIGINT and SIGTERM for programs that have something to finish: the first one is noted, the
 * program ends by itself, and dies of the signal if that takes longer than INTERRUPT_GRACE seconds
 * (a broker that hangs, a pipe that nobody reads). A signal that was ignored when the program began
 * (nohup, a shell's background job) stays ignored. One per process. */
#ifndef MQBROKER_TOOLS_INTERRUPT_H
#define MQBROKER_TOOLS_INTERRUPT_H

#include <poll.h>
#include <stdbool.h>

enum { INTERRUPT_GRACE = 2 };

void interrupt_catch(void);

/* Has one come? */
bool interrupt_seen(void);

/* poll(), which an interruption ends, also one that came just before. Returns the number of ready
 * descriptors, 0 on the timeout, -EINTR when interrupted, or another -errno. Signals without
 * meaning here do not end it, but begin the wait anew. */
int interrupt_poll(struct pollfd *fds, nfds_t n, int timeout_ms);

/* Wait for something that takes as long as it takes: an interruption neither ends this wait nor
 * sets its limit of time before it is over; only a second one ends the program. Returns the number
 * of ready descriptors, or -errno. */
int interrupt_outwait(struct pollfd *fds, nfds_t n);

/* Die of the signal that came, as whoever started us expects it: a shell then stops its script. */
_Noreturn void interrupt_die(void);

#endif
