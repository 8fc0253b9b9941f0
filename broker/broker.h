/* The shell: it owns the kernel's objects, lets the engine decide, and carries out what the engine
 * left to be done. Floor 4. */
#ifndef MQBROKER_BROKER_BROKER_H
#define MQBROKER_BROKER_BROKER_H

#include "broker/config.h"
#include "broker/plan.h"

struct broker;

/* A broker for the instance, ready to serve: its memory and queues are there, fresh or adopted.
 * `config_path` (NULL: none) is read again on SIGHUP, `argv` (main()'s) given to the broker that
 * this one is handed over to. Instance, path and arguments must stay. Returns 0 or -errno; what
 * went wrong has been logged. */
int broker_new(struct broker **out, const char *instance, const struct config *config,
               const struct plan *plan, const char *config_path, char *const argv[]);

/* Serve until SIGTERM or SIGINT, then stop cleanly: every client is told, everything is unlinked.
 * On SIGUSR2 another binary may take over, in this process; then it does not return.
 * Returns 0, or -errno after a failure that leaves no way to go on. */
int broker_run(struct broker *b);

/* Free it; fine on NULL. */
void broker_free(struct broker *b);

#endif
