/* A bit for each message that came: the only way to tell a message that was lost from one that is
 * late or came twice. The bits are written in order, so they cost a byte of cache for eight
 * messages; they are mapped in full size without reserve and have memory only as far as the numbers
 * went. */
#include "tools/bench-stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tools/bench.h"

enum {
    WARM_COUNT_MAX = 20000,
};

#define NUMBERS    (UINT64_C(1) << 32)
#define BITS_BYTES ((size_t)(NUMBERS / 8))

struct tally_sender {
    unsigned char *bits; /* one for each number that came */
    uint64_t next;       /* the highest number that came, plus one */
    uint64_t distinct;
    uint64_t total; /* 0: its last message has not come */
};

/* ---- sending ---- */

void stream_begin(struct stream *stream, const struct bench_options *options, unsigned sender)
{
    double seconds = options->seconds;

    *stream = (struct stream){
        .count = options->count > 0 ? options->count : UINT64_MAX,
        .duration = seconds > 0 ? (uint64_t)(seconds * 1e9) : UINT64_MAX,
        .warm_count = UINT64_MAX,
        .warm_duration = seconds > 0 ? (uint64_t)(seconds * 2e8) : UINT64_MAX,
        .began = bench_now(),
        .head = {.number = UINT32_MAX, .sender = (uint16_t)sender},
    };
    if (options->count > 0) {
        uint64_t share = options->count / 5;
        stream->warm_count = share < WARM_COUNT_MAX ? share : WARM_COUNT_MAX;
    }
}

void stream_begin_endless(struct stream *stream, unsigned sender)
{
    *stream = (struct stream){
        .count = UINT64_MAX,
        .duration = UINT64_MAX,
        .warm_count = UINT64_MAX,
        .warm_duration = UINT64_MAX,
        .began = bench_now(),
        .head = {.number = UINT32_MAX, .sender = (uint16_t)sender},
    };
}

void stream_next(struct stream *stream, uint64_t now)
{
    uint64_t elapsed = now > stream->began ? now - stream->began : 0;

    stream->head.number++;
    if (!stream->measuring &&
        (stream->since >= stream->warm_count || elapsed >= stream->warm_duration)) {
        stream->measuring = true;
        stream->began = now != 0 ? now : bench_now();
        stream->since = 0;
        elapsed = 0;
        stream->head.flags |= STREAM_MEASURED;
    }
    stream->since++;
    if ((stream->measuring && (stream->since >= stream->count || elapsed >= stream->duration)) ||
        stream->head.number == UINT32_MAX - 1) {
        stream->head.flags |= STREAM_LAST;
    }
}

void stream_cut(struct stream *stream)
{
    stream->measuring = true;
    stream->count = 0;
}

static unsigned char pattern_of(unsigned sender)
{
    return (unsigned char)(sender * 37 + 0x5a);
}

void stream_fill(unsigned char *payload, size_t size, unsigned sender)
{
    memset(payload, pattern_of(sender), size);
}

void stream_stamp(unsigned char *payload, const struct stream_head *head)
{
    memcpy(payload, head, sizeof *head);
}

void stream_mark(unsigned char *payload, size_t size, const struct stream_head *head)
{
    payload[size - 1] = pattern_of(head->sender);
    memcpy(payload, head, sizeof *head);
}

int stream_read(struct stream_head *head, const void *payload, size_t size)
{
    if (size < sizeof *head) {
        return bench_fail("got a message of %zu bytes that mqbench did not send", size);
    }
    memcpy(head, payload, sizeof *head);
    return 0;
}

bool stream_same(const void *payload, const struct stream_head *head)
{
    return memcmp(payload, head, sizeof *head) == 0;
}

/* ---- receiving ---- */

int tally_init(struct tally *tally, unsigned n_senders)
{
    *tally = (struct tally){.n_open = n_senders};
    tally->senders = calloc(n_senders, sizeof *tally->senders);
    if (tally->senders == NULL) {
        return bench_fail("out of memory");
    }
    for (; tally->n_senders < n_senders; tally->n_senders++) {
        void *bits = mmap(NULL, BITS_BYTES, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (bits == MAP_FAILED) {
            int saved = errno;
            tally_deinit(tally);
            return bench_fail("no memory to check messages with: %s", strerror(saved));
        }
        tally->senders[tally->n_senders].bits = bits;
    }
    return 0;
}

void tally_deinit(struct tally *tally)
{
    for (unsigned i = 0; i < tally->n_senders; i++) {
        munmap(tally->senders[i].bits, BITS_BYTES);
    }
    free(tally->senders);
    *tally = (struct tally){0};
}

static void take_number(struct tally *tally, struct tally_sender *sender, uint32_t number)
{
    unsigned char *byte = &sender->bits[number / 8];
    unsigned char bit = (unsigned char)(1u << number % 8);

    if ((*byte & bit) != 0) {
        tally->twice++;
        return;
    }
    *byte |= bit;
    sender->distinct++;
    if (number < sender->next) {
        tally->disordered++;
    } else {
        sender->next = (uint64_t)number + 1;
    }
}

int tally_take(struct tally *tally, const void *payload, size_t got, size_t size)
{
    const unsigned char *bytes = payload;
    struct stream_head *head = &tally->head;

    if (stream_read(head, payload, got) < 0) {
        return -1;
    }
    if (head->sender >= tally->n_senders) {
        return bench_fail("got a message of sender %u, which there is not", head->sender);
    }
    if (got != size || (size > sizeof *head && bytes[size - 1] != pattern_of(head->sender))) {
        tally->damaged++;
    }
    tally->received++;
    tally->measured += (head->flags & STREAM_MEASURED) != 0;

    struct tally_sender *sender = &tally->senders[head->sender];
    take_number(tally, sender, head->number);
    if ((head->flags & STREAM_LAST) != 0 && sender->total == 0) {
        sender->total = (uint64_t)head->number + 1;
        tally->n_open--;
    }
    return 0;
}

uint64_t tally_lost(const struct tally *tally)
{
    uint64_t lost = 0;

    for (unsigned i = 0; i < tally->n_senders; i++) {
        const struct tally_sender *sender = &tally->senders[i];

        lost += sender->total > sender->distinct ? sender->total - sender->distinct : 0;
    }
    return lost;
}
