/* What the reader has decided about messages of groups, and the broker has not been told yet (floor
 * 2, pure).
 *
 * Decisions gather, because one queue message can carry a hundred of them. A slow reader's go out
 * one by one all the same: who takes a second over each message wants the broker to know of the
 * first while it works on the next. So they gather only behind one that was sent a moment ago. */
#ifndef MQBROKER_LIBCLIENT_ACKS_H
#define MQBROKER_LIBCLIENT_ACKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    ACKS_MAX = 64,
    ACKS_GATHER_NS = 1000000, /* since some were sent: so long others gather behind them */
};

enum acks_decision {
    ACKS_DONE = 0, /* ACK */
    ACKS_AGAIN,    /* NACK */
    ACKS_DEAD,     /* NACK with DEAD */
};

struct ack {
    uint64_t name;    /* of the delivery */
    uint32_t delay;   /* ACKS_AGAIN: milliseconds */
    uint8_t decision; /* enum acks_decision */
};

struct acks {
    uint32_t n;
    uint64_t sent; /* when some were sent last: nanoseconds of a clock of the caller's */
    struct ack all[ACKS_MAX];
};

static inline bool acks_full(const struct acks *a)
{
    return a->n == ACKS_MAX;
}

/* Add one behind the others. False: it is full, and nothing was added. */
bool acks_add(struct acks *a, uint64_t name, enum acks_decision decision, uint32_t delay);

/* Should they go out now, and not wait for others? */
static inline bool acks_due(const struct acks *a, uint64_t now)
{
    return acks_full(a) || (a->n > 0 && now - a->sent >= ACKS_GATHER_NS);
}

/* Write as many as fit into `room` bytes, the oldest first, as ACK and NACK frames. Returns the
 * bytes written; `n` becomes how many that were. */
size_t acks_put(const struct acks *a, uint8_t *out, size_t room, uint32_t *n);

/* The oldest `n` were sent. */
void acks_drop(struct acks *a, uint32_t n, uint64_t now);

#endif
