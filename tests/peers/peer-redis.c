/* Redis publish/subscribe, over a Unix socket, without persistence.
 *
 * Pipelined, up to 256 commands are under way, sent in two halves, so that the server has work
 * while a publisher waits for answers; plain, a command is sent and its answer waited for.
 * Subscribers that are too slow would be disconnected at the default limit of their output buffer;
 * it is lifted, and a window keeps it from growing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/peers/peers.h"
#include "tests/peers/redis.h"
#include "tests/peers/server.h"
#include "tests/peers/sock.h"
#include "tests/peers/window.h"

enum {
    HALF = 128,             /* commands */
    HALF_BYTES = 128 << 10, /* or so many bytes are sent at once */
};

struct pubsub {
    struct server server;
    struct window *window;
};

struct pubsub_end {
    struct pubsub *pubsub;
    struct sock sending; /* one connection each: who is subscribed may not publish */
    struct sock receiving;
    char heads[CARRIER_CHANNELS][REDIS_HEAD_SIZE]; /* of a PUBLISH to each channel */
    unsigned gathered;                             /* commands that are not sent */
    size_t gathered_bytes;
    unsigned unanswered; /* that are */
};

/* ---- the server ---- */

static int pubsub_open(struct carrier *carrier, struct crew *crew)
{
    static const char *const options[] = {"--appendonly", "no", "--client-output-buffer-limit",
                                          "pubsub 0 0 0", NULL};
    struct pubsub *pubsub = calloc(1, sizeof *pubsub);

    carrier->state = pubsub;
    if (pubsub == NULL) {
        return bench_fail("out of memory");
    }
    pubsub->window = window_new(carrier);
    if (pubsub->window == NULL || server_prepare(&pubsub->server, "redis-server") < 0) {
        return -1;
    }
    return redis_start(&pubsub->server, carrier, crew, pubsub->server.folder, options);
}

static void pubsub_close(struct carrier *carrier)
{
    struct pubsub *pubsub = carrier->state;

    if (pubsub != NULL) {
        server_stop(&pubsub->server);
        window_free(pubsub->window);
        free(pubsub);
        carrier->state = NULL;
    }
}

/* ---- a client ---- */

static void pubsub_leave(struct carrier_end *end)
{
    struct pubsub_end *state = end->state;

    sock_close(&state->sending);
    sock_close(&state->receiving);
    free(state);
}

/* The answer: *3, $9, subscribe, $1, the channel, :1. */
static int subscribe(struct sock *sock, unsigned channel)
{
    char command[REDIS_HEAD_SIZE];

    snprintf(command, sizeof command, "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\n%u\r\n", channel);
    if (sock_put(sock, command, strlen(command)) < 0) {
        return -1;
    }
    for (unsigned line = 0; line < 6; line++) {
        int size = sock_need_line(sock);

        if (size < 0) {
            return -1;
        }
        if (sock_in(sock)[0] == '-') {
            return bench_fail("redis: %.*s", size, (const char *)sock_in(sock));
        }
        sock_skip(sock, (size_t)size + 2);
    }
    return 0;
}

static int pubsub_join(struct carrier_end *end)
{
    struct pubsub *pubsub = end->carrier->state;
    struct pubsub_end *state = calloc(1, sizeof *state);

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    end->state = state;
    state->pubsub = pubsub;
    state->sending.fd = -1;
    state->receiving.fd = -1;
    for (unsigned i = 0; i < CARRIER_CHANNELS; i++) {
        snprintf(state->heads[i], REDIS_HEAD_SIZE, "*3\r\n$7\r\nPUBLISH\r\n$1\r\n%u\r\n$%zu\r\n", i,
                 end->carrier->options->size);
    }
    if (((end->use & CARRIER_SEND) != 0 && redis_connect(&pubsub->server, &state->sending) < 0) ||
        ((end->use & CARRIER_RECEIVE) != 0 &&
         (redis_connect(&pubsub->server, &state->receiving) < 0 ||
          subscribe(&state->receiving, end->carrier->channels[end->receiver]) < 0))) {
        carrier_leave(end);
        return -1;
    }
    return 0;
}

/* Read answers until at most `most` are missing. */
static int read_answers(struct pubsub_end *state, unsigned most)
{
    while (state->unanswered > most) {
        uint64_t receivers;

        if (redis_need_number(&state->sending, ':', &receivers) < 0) {
            return -1;
        }
        state->unanswered--;
    }
    return 0;
}

/* Send what has gathered, when of what was sent before at most `most` answers are missing. */
static int send_gathered(struct pubsub_end *state, unsigned most)
{
    unsigned gathered = state->gathered;

    if (read_answers(state, most) < 0 || sock_flush(&state->sending) < 0) {
        return -1;
    }
    state->unanswered += gathered;
    state->gathered = 0;
    state->gathered_bytes = 0;
    return 0;
}

static int pubsub_flush(struct carrier_end *end)
{
    struct pubsub_end *state = end->state;

    return send_gathered(state, HALF) < 0 ? -1 : read_answers(state, 0);
}

static int pubsub_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                       unsigned priority)
{
    struct pubsub_end *state = end->state;

    (void)priority;
    if (window_wait(state->pubsub->window, end, bytes, size) < 0 ||
        redis_put(&state->sending, state->heads[channel], bytes, size) < 0) {
        return -1;
    }
    state->gathered++;
    state->gathered_bytes += size;
    if ((end->use & CARRIER_BATCH) == 0) {
        return pubsub_flush(end);
    }
    return state->gathered < HALF && state->gathered_bytes < HALF_BYTES
               ? 0
               : send_gathered(state, HALF);
}

static int pubsub_receive(struct carrier_end *end, struct carrier_message *message)
{
    static const char between[] = "$7\r\nmessage\r\n$1\r\n0\r\n";
    struct pubsub_end *state = end->state;
    struct sock *sock = &state->receiving;
    const unsigned char *bytes;
    uint64_t number;
    size_t size;

    if (redis_need_number(sock, '*', &number) < 0 || sock_need(sock, sizeof between - 1) < 0) {
        return -1;
    }
    sock_skip(sock, sizeof between - 1);
    if (redis_need_bytes(sock, &bytes, &size) < 0) {
        return -1;
    }
    *message = (struct carrier_message){.bytes = bytes, .size = size};
    window_take(state->pubsub->window, end->receiver, message->bytes, size);
    return 0;
}

const struct carrier_kind peer_redis = {
    .open = pubsub_open,
    .close = pubsub_close,
    .join = pubsub_join,
    .send = pubsub_send,
    .flush = pubsub_flush,
    .receive = pubsub_receive,
    .leave = pubsub_leave,
    .payload_max = redis_payload_max,
};
