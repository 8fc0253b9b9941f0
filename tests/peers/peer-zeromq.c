/* ZeroMQ publish/subscribe through an XPUB/XSUB proxy, over Unix sockets (ipc://).
 *
 * A message is one frame: a byte for the channel, which is subscribed to, then the payload. It
 * gathers by itself. At a high-water mark it drops, and with ZMQ_XPUB_NODROP 4.3.4 still loses a
 * message now and then when eight publishers wait there: so there are none, and a window bounds
 * what is under way. */
#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "tests/peers/meeting.h"
#include "tests/peers/peers.h"
#include "tests/peers/server.h"
#include "tests/peers/sock.h"
#include "tests/peers/window.h"

enum {
    ADDRESS_SIZE = SERVER_PATH_SIZE + 8,
};

struct zeromq {
    struct server server;
    struct meeting *meeting;
    struct window *window;
};

struct zeromq_end {
    struct zeromq *zeromq;
    void *context;
    void *publisher;
    void *subscriber;
    zmq_msg_t message; /* the one handed out last */
};

static int fail(const char *what)
{
    return bench_fail("zeromq cannot %s: %s", what, zmq_strerror(errno));
}

/* ---- the proxy ---- */

static void address_of(const struct zeromq *zeromq, char out[ADDRESS_SIZE], const char *file)
{
    char path[SERVER_PATH_SIZE];

    server_path(&zeromq->server, path, file);
    snprintf(out, ADDRESS_SIZE, "ipc://%s", path);
}

static int is_ready(const struct server *server, const void *context)
{
    char path[SERVER_PATH_SIZE];

    (void)context;
    server_path(server, path, "back"); /* bound last */
    return sock_answers_unix(path);
}

/* It was built beside this program. */
static void find_proxy(char path[PATH_MAX])
{
    static const char name[] = "zeromq-proxy";
    ssize_t size = readlink("/proc/self/exe", path, PATH_MAX - sizeof name);

    path[size > 0 ? size : 0] = '\0';
    strcpy(strrchr(path, '/') + 1, name);
}

static int zeromq_open(struct carrier *carrier, struct crew *crew)
{
    static char proxy[PATH_MAX];
    struct zeromq *zeromq = calloc(1, sizeof *zeromq);
    char front[ADDRESS_SIZE];
    char back[ADDRESS_SIZE];

    carrier->state = zeromq;
    if (zeromq == NULL) {
        return bench_fail("out of memory");
    }
    find_proxy(proxy);
    zeromq->meeting = meeting_new(carrier);
    zeromq->window = window_new(carrier);
    if (zeromq->meeting == NULL || zeromq->window == NULL ||
        server_prepare(&zeromq->server, proxy) < 0) {
        return -1;
    }
    address_of(zeromq, front, "front");
    address_of(zeromq, back, "back");

    const char *const arguments[] = {proxy, front, back, NULL};
    if (server_start(&zeromq->server, arguments, is_ready, NULL) < 0) {
        return -1;
    }
    carrier->hub = zeromq->server.pid;
    carrier->starting = zeromq->server.starting;
    crew_watch(crew, "the proxy", zeromq->server.pidfd);
    return 0;
}

static void zeromq_close(struct carrier *carrier)
{
    struct zeromq *zeromq = carrier->state;

    if (zeromq != NULL) {
        server_stop(&zeromq->server);
        meeting_free(zeromq->meeting);
        window_free(zeromq->window);
        free(zeromq);
        carrier->state = NULL;
    }
}

/* ---- a client ---- */

static void *connected(struct zeromq_end *state, int type, const char *file)
{
    char address[ADDRESS_SIZE];
    int patience = CARRIER_QUIET_MS;
    int none = 0;
    void *socket = zmq_socket(state->context, type);

    address_of(state->zeromq, address, file);
    if (socket == NULL || zmq_setsockopt(socket, ZMQ_SNDHWM, &none, sizeof none) < 0 ||
        zmq_setsockopt(socket, ZMQ_RCVHWM, &none, sizeof none) < 0 ||
        (type == ZMQ_SUB && zmq_setsockopt(socket, ZMQ_RCVTIMEO, &patience, sizeof patience) < 0) ||
        zmq_connect(socket, address) < 0) {
        fail("connect");
        if (socket != NULL) {
            zmq_close(socket);
        }
        return NULL;
    }
    return socket;
}

/* Waits until all that was sent is with the proxy. */
static void zeromq_leave(struct carrier_end *end)
{
    struct zeromq_end *state = end->state;

    zmq_msg_close(&state->message);
    if (state->publisher != NULL) {
        zmq_close(state->publisher);
    }
    if (state->subscriber != NULL) {
        zmq_close(state->subscriber);
    }
    if (state->context != NULL) {
        zmq_ctx_term(state->context);
    }
    free(state);
}

/* Hand probes that have come to the meeting. */
static int receive_probes(struct carrier_end *end)
{
    struct zeromq_end *state = end->state;

    while (zmq_msg_recv(&state->message, state->subscriber, ZMQ_DONTWAIT) >= 0) {
        const char *bytes = zmq_msg_data(&state->message);

        if (meeting_is_probe(zmq_msg_size(&state->message) - 1)) {
            meeting_take(state->zeromq->meeting, end, bytes + 1);
        }
    }
    return errno == EAGAIN ? 0 : fail("receive");
}

static int enter(struct carrier_end *end, struct zeromq_end *state)
{
    state->context = zmq_ctx_new();
    if (state->context == NULL) {
        return fail("begin");
    }
    if ((end->use & CARRIER_SEND) != 0) {
        state->publisher = connected(state, ZMQ_PUB, "front");
        if (state->publisher == NULL) {
            return -1;
        }
    }
    if ((end->use & CARRIER_RECEIVE) != 0) {
        char topic = (char)('0' + end->carrier->channels[end->receiver]);

        state->subscriber = connected(state, ZMQ_SUB, "back");
        if (state->subscriber == NULL) {
            return -1;
        }
        if (zmq_setsockopt(state->subscriber, ZMQ_SUBSCRIBE, &topic, 1) < 0) {
            return fail("subscribe");
        }
    }
    return meeting_attend(state->zeromq->meeting, end, receive_probes);
}

static int zeromq_join(struct carrier_end *end)
{
    struct zeromq_end *state = calloc(1, sizeof *state);

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    /* Large messages from memory that is kept, not mapped anew for each. */
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    end->state = state;
    state->zeromq = end->carrier->state;
    zmq_msg_init(&state->message);
    if (enter(end, state) < 0) {
        carrier_leave(end);
        return -1;
    }
    return 0;
}

static int zeromq_flush(struct carrier_end *end)
{
    (void)end;
    return 0;
}

static int zeromq_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                       unsigned priority)
{
    struct zeromq_end *state = end->state;
    zmq_msg_t message;

    (void)priority;
    if (!meeting_is_probe(size) && window_wait(state->zeromq->window, end, bytes, size) < 0) {
        return -1;
    }
    if (zmq_msg_init_size(&message, 1 + size) < 0) {
        return bench_fail("out of memory");
    }

    char *out = zmq_msg_data(&message);
    out[0] = (char)('0' + channel);
    memcpy(out + 1, bytes, size);
    while (zmq_msg_send(&message, state->publisher, 0) < 0) {
        if (errno != EINTR) {
            zmq_msg_close(&message);
            return fail("send");
        }
    }
    return 0;
}

static int zeromq_receive(struct carrier_end *end, struct carrier_message *message)
{
    struct zeromq_end *state = end->state;

    do {
        if (zmq_msg_recv(&state->message, state->subscriber, 0) < 0 && errno != EINTR) {
            return errno == EAGAIN
                       ? bench_fail("nothing came for %d s, and more was to come: messages were "
                                    "lost",
                                    CARRIER_QUIET_MS / 1000)
                       : fail("receive");
        }
        message->size = zmq_msg_size(&state->message) - 1;
    } while (meeting_is_probe(message->size));
    message->bytes = (const char *)zmq_msg_data(&state->message) + 1;
    message->priority = 0;
    window_take(state->zeromq->window, end->receiver, message->bytes, message->size);
    return 0;
}

static size_t zeromq_payload_max(const struct carrier_end *end)
{
    (void)end;
    return 1u << 30;
}

const struct carrier_kind peer_zeromq = {
    .open = zeromq_open,
    .close = zeromq_close,
    .join = zeromq_join,
    .send = zeromq_send,
    .flush = zeromq_flush,
    .receive = zeromq_receive,
    .leave = zeromq_leave,
    .payload_max = zeromq_payload_max,
};
