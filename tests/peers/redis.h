/* A Redis server over a Unix socket, for the carriers through it, and the part of its protocol that
 * all of them speak. */
#ifndef MQBROKER_TESTS_PEERS_REDIS_H
#define MQBROKER_TESTS_PEERS_REDIS_H

#include <stddef.h>
#include <stdint.h>

#include "tests/peers/server.h"
#include "tests/peers/sock.h"
#include "tools/bench-carrier.h"

enum {
    REDIS_HEAD_SIZE = 64,  /* of a command, up to its payload, with the NUL */
    REDIS_OPTIONS_MAX = 8, /* arguments, of a server */
};

/* Start a server that was prepared, as the carrier's hub, in the crew's care; its files, if it
 * writes any, are in `folder`. `options` are its arguments beside those that say where it listens
 * and that it takes no snapshots; they end with NULL. Returns 0 or -1. */
int redis_start(struct server *server, struct carrier *carrier, struct crew *crew,
                const char *folder, const char *const *options);

/* Connect to it. Returns 0, or -1: sock_close() then does nothing. */
int redis_connect(const struct server *server, struct sock *sock);

/* Gather a command: its head, which ends with the size of the payload, and the payload. Returns 0
 * or -1. */
int redis_put(struct sock *sock, const char *head, const void *payload, size_t size);

/* Wait for a line that is this marker and a number, and take it. Returns 0, or -1 with what came
 * instead in bench_error(). */
int redis_need_number(struct sock *sock, char marker, uint64_t *number);

/* Wait for a string of bytes, after a line with their number, and take it: they stay readable as
 * those of sock_skip() do. Returns 0, or -1 as above. */
int redis_need_bytes(struct sock *sock, const unsigned char **bytes, size_t *size);

/* Of struct carrier_kind. */
size_t redis_payload_max(const struct carrier_end *end);

#endif
