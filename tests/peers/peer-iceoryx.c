/* iceoryx: publishers and subscribers share memory, and no broker is between them; iox-roudi brings
 * them together.
 *
 * Copied in, a chunk is loaned, the payload copied into it, and published; loaned, it is written
 * there. Publishers wait for slow subscribers instead of discarding. Queues hold 4 MiB, at least 4
 * and at most 256 messages (its limit), and there are just so many chunks of the size that is
 * measured: fewer chunks are faster, because they stay in the cache. Subscribers take what is
 * there, look again for 50 µs, then sleep on a wait set: without the looking it was a third slower.
 */
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <iceoryx_binding_c/log.h>
#include <iceoryx_binding_c/publisher.h>
#include <iceoryx_binding_c/runtime.h>
#include <iceoryx_binding_c/subscriber.h>
#include <iceoryx_binding_c/wait_set.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/peers/meeting.h"
#include "tests/peers/peers.h"
#include "tests/peers/server.h"

enum {
    QUEUE_BYTES = 4 << 20,
    QUEUE_MIN = 4,
    QUEUE_MAX = 256,
    SPARE = 16,  /* chunks of one client that are in no queue */
    SMALL = 128, /* for probes */
    LOOK_NS = 50000,
    NAP_NS = 1000000,
    CLIENT_NAME_SIZE = 64,
};

#define CLIENT_NAME "mqbroker-peers-%ld-" /* our pid; the client's follows */

struct iceoryx {
    struct server server;
    struct meeting *meeting;
    unsigned queue; /* messages of one subscriber */
};

struct iceoryx_end {
    struct iceoryx *iceoryx;
    iox_pub_storage_t pub_storage[CARRIER_CHANNELS];
    iox_pub_t publishers[CARRIER_CHANNELS]; /* made when first used */
    iox_sub_storage_t sub_storage;
    iox_sub_t subscriber;
    iox_ws_storage_t wait_storage;
    iox_ws_t wait;
    const void *held; /* the chunk handed out last */
};

/* ---- iox-roudi ---- */

static int is_ready(const struct server *server, const void *context)
{
    char path[SERVER_PATH_SIZE];
    char text[4096];
    int fd;

    (void)context;
    server_path(server, path, "log");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }

    ssize_t size = read(fd, text, sizeof text - 1);
    close(fd);
    text[size > 0 ? size : 0] = '\0';
    return strstr(text, "ready for clients") != NULL;
}

static unsigned queue_for(size_t size)
{
    size_t fits = QUEUE_BYTES / size;

    return fits > QUEUE_MAX ? QUEUE_MAX : fits < QUEUE_MIN ? QUEUE_MIN : (unsigned)fits;
}

static void write_memory(const struct carrier *carrier, unsigned queue, char *out, size_t size)
{
    unsigned publishers =
        carrier->options->publishers > 0 ? carrier->options->publishers : carrier->n_receivers;
    unsigned clients = publishers + carrier->n_receivers;
    unsigned count = carrier->n_receivers * queue + clients * SPARE;
    size_t chunk = (carrier->options->size + SMALL + 63) / 64 * 64;

    snprintf(out, size,
             "[general]\nversion = 1\n[[segment]]\n"
             "[[segment.mempool]]\nsize = %d\ncount = %u\n"
             "[[segment.mempool]]\nsize = %zu\ncount = %u\n",
             SMALL, clients * QUEUE_MAX, chunk, count);
}

static int iceoryx_open(struct carrier *carrier, struct crew *crew)
{
    struct iceoryx *iceoryx = calloc(1, sizeof *iceoryx);
    char path[SERVER_PATH_SIZE];
    char config[512];

    carrier->state = iceoryx;
    if (iceoryx == NULL) {
        return bench_fail("out of memory");
    }
    iceoryx->queue = queue_for(carrier->options->size);
    write_memory(carrier, iceoryx->queue, config, sizeof config);
    iceoryx->meeting = meeting_new(carrier);
    if (iceoryx->meeting == NULL || server_prepare(&iceoryx->server, "iox-roudi") < 0 ||
        server_write(&iceoryx->server, "config", config) < 0) {
        return -1;
    }
    server_path(&iceoryx->server, path, "config");

    const char *const arguments[] = {"iox-roudi", "-c", path, "-m", "off", "-k", "1", NULL};
    if (server_start(&iceoryx->server, arguments, is_ready, NULL) < 0) {
        return -1;
    }
    carrier->hub = iceoryx->server.pid;
    carrier->starting = iceoryx->server.starting;
    crew_watch(crew, "iox-roudi", iceoryx->server.pidfd);
    return 0;
}

/* What an iox-roudi leaves that did not end by itself, as when a client was killed while it
 * published: its own memory, and the chunks, which are named after our group. */
static void sweep(void)
{
    const struct group *group = getgrgid(getgid());
    char name[64];

    shm_unlink("/iceoryx_mgmt");
    if (group != NULL) {
        snprintf(name, sizeof name, "/%s", group->gr_name);
        shm_unlink(name);
    }
}

/* The sockets and locks of clients, which stay even if they end in good order. All are gone by now.
 */
static void sweep_clients(void)
{
    char pattern[CLIENT_NAME_SIZE + 8];
    glob_t found;

    snprintf(pattern, sizeof pattern, "/tmp/" CLIENT_NAME "*", (long)getpid());
    if (glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++) {
            unlink(found.gl_pathv[i]);
        }
        globfree(&found);
    }
}

static void iceoryx_close(struct carrier *carrier)
{
    struct iceoryx *iceoryx = carrier->state;

    if (iceoryx != NULL) {
        if (server_stop(&iceoryx->server) != 0 && carrier->hub > 0) {
            sweep();
        }
        sweep_clients();
        meeting_free(iceoryx->meeting);
        free(iceoryx);
        carrier->state = NULL;
    }
}

/* ---- a client ---- */

static void release_held(struct iceoryx_end *state)
{
    if (state->held != NULL) {
        iox_sub_release_chunk(state->subscriber, state->held);
        state->held = NULL;
    }
}

static void iceoryx_leave(struct carrier_end *end)
{
    struct iceoryx_end *state = end->state;

    for (unsigned i = 0; i < CARRIER_CHANNELS; i++) {
        if (state->publishers[i] != NULL) {
            iox_pub_deinit(state->publishers[i]);
        }
    }
    if (state->subscriber != NULL) {
        release_held(state);
        iox_ws_detach_subscriber_state(state->wait, state->subscriber, SubscriberState_HAS_DATA);
        iox_ws_deinit(state->wait);
        iox_sub_deinit(state->subscriber);
    }
    iox_runtime_shutdown();
    free(state);
}

static void name_channel(char out[2], unsigned channel)
{
    out[0] = (char)('0' + channel);
    out[1] = '\0';
}

static int subscribe(struct iceoryx_end *state, unsigned channel)
{
    iox_sub_options_t options;
    char name[2];

    iox_sub_options_init(&options);
    options.queueCapacity = state->iceoryx->queue;
    options.queueFullPolicy = QueueFullPolicy_BLOCK_PRODUCER;
    name_channel(name, channel);
    state->subscriber = iox_sub_init(&state->sub_storage, "bench", "channel", name, &options);
    state->wait = iox_ws_init(&state->wait_storage);
    return iox_ws_attach_subscriber_state(state->wait, state->subscriber, SubscriberState_HAS_DATA,
                                          0, NULL) == WaitSetResult_SUCCESS
               ? 0
               : bench_fail("iceoryx cannot wait for a subscription");
}

static iox_pub_t publisher_of(struct iceoryx_end *state, unsigned channel)
{
    iox_pub_options_t options;
    char name[2];

    if (state->publishers[channel] == NULL) {
        iox_pub_options_init(&options);
        options.subscriberTooSlowPolicy = ConsumerTooSlowPolicy_WAIT_FOR_CONSUMER;
        name_channel(name, channel);
        state->publishers[channel] =
            iox_pub_init(&state->pub_storage[channel], "bench", "channel", name, &options);
    }
    return state->publishers[channel];
}

/* All of them: a chunk is with its subscriber when publish returns, and nothing else is sent before
 * the meeting has ended. */
static int receive_probes(struct carrier_end *end)
{
    struct iceoryx_end *state = end->state;
    const void *bytes;

    while (iox_sub_take_chunk(state->subscriber, &bytes) == ChunkReceiveResult_SUCCESS) {
        meeting_take(state->iceoryx->meeting, end, bytes);
        iox_sub_release_chunk(state->subscriber, bytes);
    }
    return 0;
}

static int iceoryx_join(struct carrier_end *end)
{
    struct iceoryx_end *state = calloc(1, sizeof *state);
    char name[CLIENT_NAME_SIZE];
    int r = 0;

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    end->state = state;
    state->iceoryx = end->carrier->state;
    iox_set_loglevel(Iceoryx_LogLevel_Error);
    snprintf(name, sizeof name, CLIENT_NAME "%ld", (long)getppid(), (long)getpid());
    iox_runtime_init(name);
    if ((end->use & CARRIER_RECEIVE) != 0) {
        r = subscribe(state, end->carrier->channels[end->receiver]);
    }
    if (r == 0) {
        r = meeting_attend(state->iceoryx->meeting, end, receive_probes);
    }
    if (r < 0) {
        carrier_leave(end);
    }
    return r;
}

static int iceoryx_loan(struct carrier_end *end, unsigned channel, size_t size, void **bytes)
{
    return iox_pub_loan_chunk(publisher_of(end->state, channel), bytes, (uint32_t)size) ==
                   AllocationResult_SUCCESS
               ? 0
               : bench_fail("iceoryx has no chunk of %zu bytes left", size);
}

static int iceoryx_send_loan(struct carrier_end *end, unsigned channel, void *bytes, size_t size,
                             unsigned priority)
{
    (void)size;
    (void)priority;
    iox_pub_publish_chunk(publisher_of(end->state, channel), bytes);
    return 0;
}

static int iceoryx_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                        unsigned priority)
{
    void *chunk;

    if (iceoryx_loan(end, channel, size, &chunk) < 0) {
        return -1;
    }
    memcpy(chunk, bytes, size);
    return iceoryx_send_loan(end, channel, chunk, size, priority);
}

static int iceoryx_flush(struct carrier_end *end)
{
    (void)end;
    return 0;
}

/* Look again for a while, as mqbroker's clients do by default, then sleep on the wait set; but not
 * for long at once: version 2.0.3 sometimes forgets to wake, and a publisher who waits for room
 * would never send what could. */
static int wait_for_chunks(struct iceoryx_end *state)
{
    const struct timespec moment = {.tv_nsec = NAP_NS};
    uint64_t began = bench_now();
    iox_notification_info_t news[1];
    uint64_t missed;

    while (!iox_sub_has_chunks(state->subscriber)) {
        uint64_t waited = bench_now() - began;

        if (waited < LOOK_NS) {
            sched_yield();
        } else if (waited < CARRIER_QUIET_MS * UINT64_C(1000000)) {
            iox_ws_timed_wait(state->wait, moment, news, 1, &missed);
        } else {
            return bench_fail("nothing came for %d s, and more was to come: messages were lost",
                              CARRIER_QUIET_MS / 1000);
        }
    }
    return 0;
}

static int iceoryx_receive(struct carrier_end *end, struct carrier_message *message)
{
    struct iceoryx_end *state = end->state;
    enum iox_ChunkReceiveResult result;

    release_held(state);
    while ((result = iox_sub_take_chunk(state->subscriber, &state->held)) ==
           ChunkReceiveResult_NO_CHUNK_AVAILABLE) {
        state->held = NULL;
        if (wait_for_chunks(state) < 0) {
            return -1;
        }
    }
    if (result != ChunkReceiveResult_SUCCESS) {
        state->held = NULL;
        return bench_fail("iceoryx cannot receive: %d", (int)result);
    }
    /* The size of a payload is not told; all are alike. */
    *message = (struct carrier_message){.bytes = state->held, .size = end->carrier->options->size};
    return 0;
}

static size_t iceoryx_payload_max(const struct carrier_end *end)
{
    (void)end;
    return 1u << 30;
}

const struct carrier_kind peer_iceoryx = {
    .open = iceoryx_open,
    .close = iceoryx_close,
    .join = iceoryx_join,
    .send = iceoryx_send,
    .flush = iceoryx_flush,
    .loan = iceoryx_loan,
    .send_loan = iceoryx_send_loan,
    .receive = iceoryx_receive,
    .leave = iceoryx_leave,
    .payload_max = iceoryx_payload_max,
};
