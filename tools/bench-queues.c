/* The baseline: a relay process between bare kernel queues.
 *
 * All senders share one request queue, each receiver has a queue of its own, all 10 deep and 8,192
 * wide like the broker's widest, or as wide as the user's queue memory allows for so many. A queue
 * message is a head that says which channel it goes to, then frames: a length and a payload each.
 * One call a message: one frame in each. Batched: as many as fit. The relay receives, looks at the
 * head, and sends the bytes on as they are, at the priority they came with: no session, no check,
 * no matching, no store. It is what the kernel can do, and so the measure of what the broker adds.
 *
 * The queues have no names while they are in use: they are unlinked before the first process is
 * forked, which inherits their descriptors. Nothing can be left behind, whatever dies. */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tools/bench-carrier.h"

enum {
    DEPTH = 10,
    WIDTH_MAX = 8192,
    WIDTH_MIN = 256,
    OVERHEAD = 96,  /* what the kernel charges for a message beside its bytes */
    POLL_USEC = 50, /* as the library does if nothing is said */
};

struct head {
    uint32_t channel;
};

/* Two open descriptions of one queue: one sleeps, one does not. */
struct bare_queue {
    mqd_t sleeping;
    mqd_t looking;
};

struct bare_queues {
    struct bare_queue request;
    struct bare_queue replies[BENCH_WORKERS_MAX]; /* by receiver */
    size_t width;                                 /* of each, bytes */
    uint64_t poll_ns;                             /* 0: sleep at once */
};

/* A worker's end: what gathers, and what was received and not yet handed out. */
struct bare_end {
    struct bare_queues *queues;
    size_t out_size; /* 0: nothing gathered */
    unsigned out_channel;
    unsigned out_priority;
    size_t in_size;
    size_t in_next; /* where the next frame begins */
    unsigned in_priority;
    unsigned char out[WIDTH_MAX];
    unsigned char in[WIDTH_MAX];
};

/* ---- queues ---- */

/* An equal share of the user's queue memory, which the kernel charges a queue to whole, full or
 * empty: eight receivers still have full width. */
static size_t width_for(unsigned n_queues)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_MSGQUEUE, &limit) < 0) {
        return WIDTH_MAX;
    }

    rlim_t message = limit.rlim_cur / n_queues / DEPTH;
    if (message >= WIDTH_MAX + OVERHEAD) {
        return WIDTH_MAX;
    }
    return message < WIDTH_MIN + OVERHEAD ? WIDTH_MIN : (size_t)message - OVERHEAD;
}

static int create_queue(struct bare_queue *queue, size_t width)
{
    static unsigned serial;
    char name[64];
    struct mq_attr attributes = {.mq_maxmsg = DEPTH, .mq_msgsize = (long)width};

    snprintf(name, sizeof name, "/mqbench.%ld.%u", (long)getpid(), serial++);
    queue->sleeping = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, &attributes);
    if (queue->sleeping >= 0) {
        queue->looking = mq_open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
        mq_unlink(name);
    }
    if (queue->sleeping >= 0 && queue->looking >= 0) {
        return 0;
    }
    switch (errno) {
    case EMFILE:
        return bench_fail("no kernel queue memory left for bare queues of %zu bytes each "
                          "(RLIMIT_MSGQUEUE; ulimit -q): stop what holds queues, or raise it",
                          DEPTH * (width + OVERHEAD));
    case EINVAL:
        return bench_fail("the kernel does not allow queues of %d messages of %zu bytes: raise "
                          "fs.mqueue.msg_max and fs.mqueue.msgsize_max",
                          DEPTH, width);
    default:
        return bench_fail("cannot create a queue: %s", strerror(errno));
    }
}

static void close_queue(struct bare_queue *queue)
{
    if (queue->sleeping >= 0) {
        mq_close(queue->sleeping);
    }
    if (queue->looking >= 0) {
        mq_close(queue->looking);
    }
    *queue = (struct bare_queue){-1, -1};
}

/* Look again for a while, leaving the processor to others in between, then sleep. */
static ssize_t receive_from(const struct bare_queue *queue, uint64_t poll_ns, void *bytes,
                            unsigned *priority)
{
    ssize_t size;

    if (poll_ns > 0) {
        uint64_t until = bench_now() + poll_ns;

        do {
            size = mq_receive(queue->looking, bytes, WIDTH_MAX, priority);
            if (size >= 0) {
                return size;
            }
            sched_yield();
        } while (bench_now() < until);
    }
    do {
        size = mq_receive(queue->sleeping, bytes, WIDTH_MAX, priority);
    } while (size < 0 && errno == EINTR);
    return size < 0 ? bench_fail("cannot receive from a bare queue: %s", strerror(errno)) : size;
}

static int send_to(const struct bare_queue *queue, uint64_t poll_ns, const void *bytes, size_t size,
                   unsigned priority)
{
    if (poll_ns > 0) {
        uint64_t until = bench_now() + poll_ns;

        do {
            if (mq_send(queue->looking, bytes, size, priority) == 0) {
                return 0;
            }
            sched_yield();
        } while (bench_now() < until);
    }
    while (mq_send(queue->sleeping, bytes, size, priority) < 0) {
        if (errno != EINTR) {
            return bench_fail("cannot send to a bare queue: %s", strerror(errno));
        }
    }
    return 0;
}

/* ---- the relay ---- */

static int relay(struct crew_place *place, const void *context)
{
    const struct carrier *carrier = context;
    const struct bare_queues *queues = carrier->state;
    unsigned char bytes[WIDTH_MAX];
    unsigned priority;

    crew_ready(place);
    for (;;) {
        ssize_t size = receive_from(&queues->request, queues->poll_ns, bytes, &priority);
        struct head head;

        if (size < 0) {
            return -1;
        }
        memcpy(&head, bytes, sizeof head);
        for (unsigned i = 0; i < carrier->n_receivers; i++) {
            if (carrier->channels[i] == head.channel &&
                send_to(&queues->replies[i], queues->poll_ns, bytes, (size_t)size, priority) < 0) {
                return -1;
            }
        }
    }
}

/* ---- the carrier ---- */

static uint64_t poll_of(const struct carrier *carrier)
{
    if (carrier->way->wait != BENCH_LOOK && carrier->options->wait != BENCH_LOOK) {
        return 0;
    }
    return UINT64_C(1000) *
           (carrier->options->poll_usec > 0 ? carrier->options->poll_usec : POLL_USEC);
}

static int queues_open(struct carrier *carrier, struct crew *crew)
{
    struct bare_queues *queues = calloc(1, sizeof *queues);

    if (queues == NULL) {
        return bench_fail("out of memory");
    }
    carrier->state = queues;
    queues->width = width_for(1 + carrier->n_receivers);
    queues->poll_ns = poll_of(carrier);
    queues->request = (struct bare_queue){-1, -1};
    for (unsigned i = 0; i < BENCH_WORKERS_MAX; i++) {
        queues->replies[i] = (struct bare_queue){-1, -1};
    }
    if (create_queue(&queues->request, queues->width) < 0) {
        return -1;
    }
    for (unsigned i = 0; i < carrier->n_receivers; i++) {
        if (create_queue(&queues->replies[i], queues->width) < 0) {
            return -1;
        }
    }
    carrier->hub = crew_add(crew, "relay", 0, true, relay, carrier);
    return carrier->hub < 0 ? -1 : 0;
}

static void queues_close(struct carrier *carrier)
{
    struct bare_queues *queues = carrier->state;

    if (queues == NULL) {
        return;
    }
    close_queue(&queues->request);
    for (unsigned i = 0; i < carrier->n_receivers; i++) {
        close_queue(&queues->replies[i]);
    }
    free(queues);
    carrier->state = NULL;
}

static int queues_join(struct carrier_end *end)
{
    struct bare_end *bare = calloc(1, sizeof *bare);

    if (bare == NULL) {
        return bench_fail("out of memory");
    }
    bare->queues = end->carrier->state;
    end->state = bare;
    return 0;
}

static int queues_flush(struct carrier_end *end)
{
    struct bare_end *bare = end->state;
    size_t size = bare->out_size;

    bare->out_size = 0;
    return size == 0 ? 0
                     : send_to(&bare->queues->request, bare->queues->poll_ns, bare->out, size,
                               bare->out_priority);
}

static int queues_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                       unsigned priority)
{
    struct bare_end *bare = end->state;
    uint32_t length = (uint32_t)size;

    if (bare->out_size > 0 &&
        (bare->out_channel != channel || bare->out_priority != priority ||
         sizeof length + size > bare->queues->width - bare->out_size) &&
        queues_flush(end) < 0) {
        return -1;
    }
    if (bare->out_size == 0) {
        struct head head = {.channel = channel};

        memcpy(bare->out, &head, sizeof head);
        bare->out_size = sizeof head;
        bare->out_channel = channel;
        bare->out_priority = priority;
    }
    memcpy(bare->out + bare->out_size, &length, sizeof length);
    memcpy(bare->out + bare->out_size + sizeof length, bytes, size);
    bare->out_size += sizeof length + size;
    return (end->use & CARRIER_BATCH) != 0 ? 0 : queues_flush(end);
}

static int queues_receive(struct carrier_end *end, struct carrier_message *message)
{
    struct bare_end *bare = end->state;
    uint32_t length;

    if (bare->in_next == bare->in_size) {
        ssize_t size = receive_from(&bare->queues->replies[end->receiver], bare->queues->poll_ns,
                                    bare->in, &bare->in_priority);
        if (size < 0) {
            return -1;
        }
        bare->in_size = (size_t)size;
        bare->in_next = sizeof(struct head);
    }
    memcpy(&length, bare->in + bare->in_next, sizeof length);
    *message = (struct carrier_message){
        .bytes = bare->in + bare->in_next + sizeof length,
        .size = length,
        .priority = bare->in_priority,
    };
    bare->in_next += sizeof length + length;
    return 0;
}

static void queues_leave(struct carrier_end *end)
{
    free(end->state);
}

static size_t queues_payload_max(const struct carrier_end *end)
{
    const struct bare_end *bare = end->state;

    return bare->queues->width - sizeof(struct head) - sizeof(uint32_t);
}

const struct carrier_kind carrier_queues = {
    .open = queues_open,
    .close = queues_close,
    .join = queues_join,
    .send = queues_send,
    .flush = queues_flush,
    .receive = queues_receive,
    .leave = queues_leave,
    .payload_max = queues_payload_max,
};
