/* How many messages a sender may have under way, for peers that lose messages, or grow without
 * bound, when their subscribers are slower than their publishers.
 *
 * Receivers write what they have taken into shared memory, senders look at it: flow control that
 * costs the peer nothing, neither a message nor a system call. It is what a peer's user would have
 * to pay for. */
#ifndef MQBROKER_TESTS_PEERS_WINDOW_H
#define MQBROKER_TESTS_PEERS_WINDOW_H

#include <stddef.h>
#include <stdint.h>

#include "tools/bench-carrier.h"

struct window;

/* In the parent, before workers are added: 4 MiB for all senders together, but at least 16 messages
 * for each. Returns NULL with bench_error() set. */
struct window *window_new(const struct carrier *carrier);

/* NULL is fine; returns NULL. */
struct window *window_free(struct window *window);

/* Before a payload is sent: wait, after carrier_flush() of `end`, until there is room for it.
 * Returns 0 or -1. */
int window_wait(struct window *window, struct carrier_end *end, const void *payload, size_t size);

/* `receiver` has taken this payload. */
void window_take(struct window *window, unsigned receiver, const void *payload, size_t size);

#endif
