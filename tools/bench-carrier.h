/* A way for messages from process to process, so that each mode is written once and runs over all
 * of them.
 *
 * Messages go to *channels*, small numbers; each receiver listens to one, and each receiver of a
 * channel gets every message sent to it. Where a way has filters, receivers listen to all channels
 * there are; the kind through a broker alone can do that. Two kinds are here: through a broker
 * (bench-broker.c), and through a relay process between bare kernel queues (bench-queues.c), which
 * does the least that a broker could do: take a queue message, look where it goes, put it there. */
#ifndef MQBROKER_TOOLS_BENCH_CARRIER_H
#define MQBROKER_TOOLS_BENCH_CARRIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "tools/bench-crew.h"
#include "tools/bench.h"

enum {
    CARRIER_CHANNELS = 10,
    CARRIER_FILTERS_FEW = 10, /* enough for all channels */
    CARRIER_FILTERED_CHANNELS = 20000,
    CARRIER_QUIET_MS = 10000, /* a receiver that hears nothing for so long gives up */
};

/* What an end is for. */
enum carrier_use {
    CARRIER_SEND = 1,
    CARRIER_RECEIVE = 2,
    CARRIER_BATCH = 4,   /* sends gather until a queue message is full */
    CARRIER_CONFIRM = 8, /* what is sent is confirmed: carrier_confirm() */
};

struct carrier {
    const struct carrier_kind *kind;
    const struct bench_options *options;
    const struct bench_way *way;
    unsigned n_receivers;
    unsigned channels[BENCH_WORKERS_MAX]; /* what each receiver listens to; not with filters */
    unsigned n_channels;
    unsigned n_filters;   /* of each receiver; 0: it listens to its channel */
    unsigned outstanding; /* messages of an end that may be unconfirmed, at most */
    pid_t hub;            /* the broker, or the relay; 0: there is none */
    uint64_t starting;    /* ns from the hub's start until it could be used; 0: unknown */
    void *state;          /* the kind's */
};

/* One process's end of it. */
struct carrier_end {
    const struct carrier *carrier;
    unsigned receiver; /* which it is, if it is one */
    unsigned use;
    uint64_t subscribing; /* ns that it took to subscribe */
    void *state;          /* the kind's */
};

struct carrier_message {
    const void *bytes;
    size_t size;
    unsigned priority;
};

/* All return 0, or -1 with bench_error() set. */
struct carrier_kind {
    /* In the parent, before workers are added; may add a worker of its own. */
    int (*open)(struct carrier *carrier, struct crew *crew);
    /* In the parent, when all workers are gone. Repeatable. */
    void (*close)(struct carrier *carrier);
    /* In a worker. */
    int (*join)(struct carrier_end *end);
    int (*send)(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                unsigned priority);
    int (*flush)(struct carrier_end *end);
    /* Wait until at most `most` of what was sent are unconfirmed. NULL: it confirms nothing. */
    int (*confirm)(struct carrier_end *end, unsigned most);
    /* Memory for the payload of the next message to that channel, and to send it without a copy.
     * NULL: it has none to lend. */
    int (*loan)(struct carrier_end *end, unsigned channel, size_t size, void **bytes);
    int (*send_loan)(struct carrier_end *end, unsigned channel, void *bytes, size_t size,
                     unsigned priority);
    int (*receive)(struct carrier_end *end, struct carrier_message *message);
    void (*leave)(struct carrier_end *end);
    size_t (*payload_max)(const struct carrier_end *end);
    /* In the parent, when all workers are gone: how many messages it holds that nobody was to
     * receive. NULL: it does not say. */
    int (*held)(const struct carrier *carrier, uint64_t *n);
};

extern const struct carrier_kind carrier_broker;
extern const struct carrier_kind carrier_queues;
extern const struct carrier_kind carrier_file; /* for what is confirmed alone: bench-file.c */

/* Open what `way` asks for. carrier_close() it, also after a failure. */
int carrier_open(struct carrier *carrier, struct crew *crew, const struct bench_options *options,
                 const struct bench_way *way, const unsigned *channels, unsigned n_receivers);
void carrier_close(struct carrier *carrier);

/* Make an end of it in a worker, for messages of `size` bytes. `receiver` counts only for
 * CARRIER_RECEIVE. */
int carrier_join(struct carrier_end *end, const struct carrier *carrier, unsigned use,
                 unsigned receiver);

/* Bytes of files that are made before a run of durable messages: it is the disk's writing that is
 * measured, and not its making of files. As many for the broker as without. */
uint64_t carrier_disk_bytes(const struct bench_options *options);

/* In the parent, before workers are added: the largest payload that it takes. Returns 0 or -1. */
int carrier_payload_max(const struct carrier *carrier, size_t *most);

/* What is gathered and not flushed is lost. Repeatable. */
void carrier_leave(struct carrier_end *end);

static inline int carrier_send(struct carrier_end *end, unsigned channel, const void *bytes,
                               size_t size, unsigned priority)
{
    return end->carrier->kind->send(end, channel, bytes, size, priority);
}

static inline int carrier_flush(struct carrier_end *end)
{
    return end->carrier->kind->flush(end);
}

static inline int carrier_confirm(struct carrier_end *end, unsigned most)
{
    return end->carrier->kind->confirm(end, most);
}

static inline int carrier_loan(struct carrier_end *end, unsigned channel, size_t size, void **bytes)
{
    return end->carrier->kind->loan(end, channel, size, bytes);
}

static inline int carrier_send_loan(struct carrier_end *end, unsigned channel, void *bytes,
                                    size_t size, unsigned priority)
{
    return end->carrier->kind->send_loan(end, channel, bytes, size, priority);
}

/* Wait for the next message; it is valid until the next call. */
static inline int carrier_receive(struct carrier_end *end, struct carrier_message *message)
{
    return end->carrier->kind->receive(end, message);
}

#endif
