/* Streams of numbered messages, and the tally that finds what is missing.
 *
 * Every payload of every mode begins with a struct stream_head. A sender numbers its messages from
 * 0 and marks the last. The receiver's tally knows then what it got, and so what it did not: lost,
 * twice, or out of order. */
#ifndef MQBROKER_TOOLS_BENCH_STREAM_H
#define MQBROKER_TOOLS_BENCH_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum stream_flag {
    STREAM_MEASURED = 1, /* sent after the warm-up */
    STREAM_LAST = 2,     /* the sender's last one */
};

struct stream_head {
    uint64_t sent_at; /* bench_now(), where times are measured; else 0 */
    uint32_t number;
    uint16_t sender;
    uint16_t flags; /* enum stream_flag */
};

/* How long a sender goes on: a share for warming up, then so many messages or so much time. */
struct stream {
    uint64_t count;      /* of measured messages; UINT64_MAX: no such limit */
    uint64_t duration;   /* of measuring, ns; UINT64_MAX: no such limit */
    uint64_t warm_count; /* messages before */
    uint64_t warm_duration;
    uint64_t began; /* when the part it is in began */
    uint64_t since; /* messages in that part */
    bool measuring;
    struct stream_head head; /* of the message to be sent next */
};

struct bench_options;

void stream_begin(struct stream *stream, const struct bench_options *options, unsigned sender);

/* One that goes on, without being measured, until it is cut. */
void stream_begin_endless(struct stream *stream, unsigned sender);

/* Set `head` up for the next message. `now` may be a little old, and 0 between looks at the clock.
 * Not after one that was STREAM_LAST. */
void stream_next(struct stream *stream, uint64_t now);

/* The next message is to be the last, whatever was planned. */
void stream_cut(struct stream *stream);

/* Lay a payload of `size` bytes out once, before the messages are sent, and stamp the head into it
 * before each. */
void stream_fill(unsigned char *payload, size_t size, unsigned sender);
void stream_stamp(unsigned char *payload, const struct stream_head *head);

/* Both at once, for a payload that is not used again: the head, and the one byte that a tally looks
 * at besides. */
void stream_mark(unsigned char *payload, size_t size, const struct stream_head *head);

/* Take the head out of a payload. Returns 0, or -1 with bench_error() if it is too short. */
int stream_read(struct stream_head *head, const void *payload, size_t size);

/* Is this the payload that was stamped with `head`? It is of at least sizeof(struct stream_head)
 * bytes. */
bool stream_same(const void *payload, const struct stream_head *head);

/* What one receiver got. */
struct tally {
    struct tally_sender *senders;
    unsigned n_senders;
    unsigned n_open; /* senders whose last message has not come */
    uint64_t received;
    uint64_t measured;
    uint64_t twice;
    uint64_t disordered;
    uint64_t damaged;
    struct stream_head head; /* of the message taken last */
};

int tally_init(struct tally *tally, unsigned n_senders);
void tally_deinit(struct tally *tally);

/* Take one message that is to be of `size` bytes. Returns 0, or -1 with bench_error() if it is none
 * of ours at all. */
int tally_take(struct tally *tally, const void *payload, size_t got, size_t size);

/* Of the senders whose last message came: how many others did not. */
uint64_t tally_lost(const struct tally *tally);

#endif
