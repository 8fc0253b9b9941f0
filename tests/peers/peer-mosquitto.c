/* Mosquitto, MQTT 3.1.1 over a Unix socket, without persistence, queue limits lifted.
 *
 * PUBLISH packets gather in a large buffer. With QoS 1 up to 256 are unconfirmed, sent in two
 * halves, and subscribers acknowledge all that one read brought with one write. With QoS 0 nobody
 * confirms, and the broker drops what a slow subscriber leaves; with either a window keeps its
 * queues short. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/peers/peers.h"
#include "tests/peers/server.h"
#include "tests/peers/sock.h"
#include "tests/peers/window.h"

enum {
    CONNECT = 0x10,
    CONNACK = 0x20,
    PUBLISH = 0x30,
    PUBACK = 0x40,
    SUBSCRIBE = 0x82,
    SUBACK = 0x90,
    HALF = 128,             /* packets */
    HALF_BYTES = 128 << 10, /* or so many bytes are sent at once */
    TOPIC_SIZE = 3,         /* its length, and a digit */
    HEAD_MAX = 5,           /* of a packet: type, and at most four bytes of length */
};

static const char socket_file[] = "mosquitto.sock";

struct mosquitto {
    struct server server;
    struct window *window;
    unsigned qos;
};

struct mosquitto_end {
    struct mosquitto *mosquitto;
    struct sock sock;
    unsigned short packet; /* the identifier given last */
    unsigned gathered;
    size_t gathered_bytes;
    unsigned unconfirmed;
};

/* ---- the server ---- */

static int is_ready(const struct server *server, const void *context)
{
    char path[SERVER_PATH_SIZE];

    (void)context;
    server_path(server, path, socket_file);
    return sock_answers_unix(path);
}

static int open_with(struct carrier *carrier, struct crew *crew, unsigned qos)
{
    struct mosquitto *mosquitto = calloc(1, sizeof *mosquitto);
    struct server *server;
    char path[SERVER_PATH_SIZE];
    char config[512];

    carrier->state = mosquitto;
    if (mosquitto == NULL) {
        return bench_fail("out of memory");
    }
    server = &mosquitto->server;
    mosquitto->qos = qos;
    mosquitto->window = window_new(carrier);
    if (mosquitto->window == NULL || server_prepare(server, "mosquitto") < 0) {
        return -1;
    }
    server_path(server, path, socket_file);
    snprintf(config, sizeof config,
             "listener 0 %s\nallow_anonymous true\npersistence false\nmax_queued_messages 0\n"
             "max_inflight_messages 0\nlog_dest stderr\nlog_type error\nuser root\n",
             path);
    if (server_write(server, "config", config) < 0) {
        return -1;
    }
    server_path(server, path, "config");

    const char *const arguments[] = {"mosquitto", "-c", path, NULL};
    if (server_start(server, arguments, is_ready, NULL) < 0) {
        return -1;
    }
    carrier->hub = server->pid;
    carrier->starting = server->starting;
    crew_watch(crew, "mosquitto", server->pidfd);
    return 0;
}

static int open_0(struct carrier *carrier, struct crew *crew)
{
    return open_with(carrier, crew, 0);
}

static int open_1(struct carrier *carrier, struct crew *crew)
{
    return open_with(carrier, crew, 1);
}

static void mosquitto_close(struct carrier *carrier)
{
    struct mosquitto *mosquitto = carrier->state;

    if (mosquitto != NULL) {
        server_stop(&mosquitto->server);
        window_free(mosquitto->window);
        free(mosquitto);
        carrier->state = NULL;
    }
}

/* ---- packets ---- */

static size_t put_length(unsigned char *out, size_t length)
{
    size_t n = 0;

    do {
        out[n] = (unsigned char)(length % 128 | (length >= 128 ? 128u : 0u));
        length /= 128;
    } while ((out[n++] & 128) != 0);
    return n;
}

static void put_16(unsigned char out[2], unsigned value)
{
    out[0] = (unsigned char)(value >> 8);
    out[1] = (unsigned char)value;
}

/* Wait for a packet's head. Takes it, and returns its first byte and the length of the rest; or -1.
 */
static int need_head(struct sock *sock, size_t *length)
{
    unsigned shift = 0;
    size_t at = 1;

    *length = 0;
    do {
        if (sock_need(sock, at + 1) < 0) {
            return -1;
        }
        *length |= (size_t)(sock_in(sock)[at] & 127) << shift;
        shift += 7;
    } while ((sock_in(sock)[at++] & 128) != 0 && at < HEAD_MAX);

    int type = sock_in(sock)[0];
    sock_skip(sock, at);
    return type;
}

/* The next packet must be of that type, and small: take it whole. */
static int expect(struct sock *sock, int type)
{
    size_t length;
    int got = need_head(sock, &length);

    if (got < 0 || sock_need(sock, length) < 0) {
        return -1;
    }
    sock_skip(sock, length);
    return got == type ? 0 : bench_fail("mosquitto sent packet 0x%02x, not 0x%02x", got, type);
}

/* ---- a client ---- */

static void mosquitto_leave(struct carrier_end *end)
{
    struct mosquitto_end *state = end->state;

    sock_close(&state->sock);
    free(state);
}

static int log_in(struct sock *sock)
{
    /* protocol MQTT, level 4, clean session, no keep-alive, no name */
    static const unsigned char packet[] = {CONNECT, 12, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 0};

    return sock_put(sock, packet, sizeof packet) < 0 ? -1 : expect(sock, CONNACK);
}

static int subscribe(struct sock *sock, unsigned channel, unsigned qos)
{
    const unsigned char packet[] = {
        SUBSCRIBE, 6, 0, 1, 0, 1, (unsigned char)('0' + channel), (unsigned char)qos,
    };

    return sock_put(sock, packet, sizeof packet) < 0 ? -1 : expect(sock, SUBACK);
}

static int mosquitto_join(struct carrier_end *end)
{
    struct mosquitto *mosquitto = end->carrier->state;
    struct mosquitto_end *state = calloc(1, sizeof *state);
    char path[SERVER_PATH_SIZE];

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    end->state = state;
    state->mosquitto = mosquitto;
    server_path(&mosquitto->server, path, socket_file);
    if (sock_open_unix(&state->sock, path) < 0 || log_in(&state->sock) < 0 ||
        ((end->use & CARRIER_RECEIVE) != 0 &&
         subscribe(&state->sock, end->carrier->channels[end->receiver], mosquitto->qos) < 0)) {
        carrier_leave(end);
        return -1;
    }
    return 0;
}

/* Wait until at most `most` are unconfirmed. */
static int read_confirmations(struct mosquitto_end *state, unsigned most)
{
    while (state->unconfirmed > most) {
        if (expect(&state->sock, PUBACK) < 0) {
            return -1;
        }
        state->unconfirmed--;
    }
    return 0;
}

/* Who also receives takes confirmations where it receives: it has one message under way at most. */
static bool confirms_here(const struct carrier_end *end)
{
    const struct mosquitto_end *state = end->state;

    return state->mosquitto->qos > 0 && (end->use & CARRIER_RECEIVE) == 0;
}

static int send_gathered(struct carrier_end *end, unsigned most)
{
    struct mosquitto_end *state = end->state;

    if (read_confirmations(state, most) < 0 || sock_flush(&state->sock) < 0) {
        return -1;
    }
    state->unconfirmed += confirms_here(end) ? state->gathered : 0;
    state->gathered = 0;
    state->gathered_bytes = 0;
    return 0;
}

static int mosquitto_flush(struct carrier_end *end)
{
    struct mosquitto_end *state = end->state;

    return send_gathered(end, HALF) < 0 ? -1 : read_confirmations(state, 0);
}

static int put_publish(struct mosquitto_end *state, unsigned channel, size_t size)
{
    unsigned qos = state->mosquitto->qos;
    unsigned char packet[HEAD_MAX + TOPIC_SIZE + 2] = {(unsigned char)(PUBLISH | qos << 1)};
    size_t n = 1 + put_length(packet + 1, TOPIC_SIZE + (qos > 0 ? 2u : 0u) + size);

    put_16(packet + n, 1);
    packet[n + 2] = (unsigned char)('0' + channel);
    n += TOPIC_SIZE;
    if (qos > 0) {
        state->packet = state->packet == UINT16_MAX ? 1 : (unsigned short)(state->packet + 1);
        put_16(packet + n, state->packet);
        n += 2;
    }
    return sock_put(&state->sock, packet, n);
}

static int mosquitto_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                          unsigned priority)
{
    struct mosquitto_end *state = end->state;

    (void)priority;
    if (window_wait(state->mosquitto->window, end, bytes, size) < 0 ||
        put_publish(state, channel, size) < 0 || sock_put(&state->sock, bytes, size) < 0) {
        return -1;
    }
    state->gathered++;
    state->gathered_bytes += size;
    if ((end->use & CARRIER_BATCH) == 0) {
        return sock_flush(&state->sock);
    }
    return state->gathered < HALF && state->gathered_bytes < HALF_BYTES ? 0
                                                                        : send_gathered(end, HALF);
}

/* The rest of a PUBLISH. The acknowledgement goes out before the next wait for input. */
static int take_publish(struct carrier_end *end, int type, size_t length,
                        struct carrier_message *message)
{
    struct mosquitto_end *state = end->state;
    struct sock *sock = &state->sock;
    size_t before = TOPIC_SIZE + ((type & 6) != 0 ? 2u : 0u);

    if (sock_need(sock, length) < 0) {
        return -1;
    }
    if (length < before) {
        return bench_fail("mosquitto sent a PUBLISH of %zu bytes", length);
    }
    *message = (struct carrier_message){.bytes = sock_in(sock) + before, .size = length - before};
    if ((type & 6) != 0) {
        const unsigned char *packet = sock_in(sock) + TOPIC_SIZE;
        const unsigned char answer[] = {PUBACK, 2, packet[0], packet[1]};

        if (sock_put(sock, answer, sizeof answer) < 0) {
            return -1;
        }
    }
    sock_skip(sock, length);
    window_take(state->mosquitto->window, end->receiver, message->bytes, message->size);
    return 0;
}

static int mosquitto_receive(struct carrier_end *end, struct carrier_message *message)
{
    struct mosquitto_end *state = end->state;

    for (;;) {
        size_t length;
        int type = need_head(&state->sock, &length);

        if (type < 0) {
            return -1;
        }
        if ((type & 0xf0) == PUBLISH) {
            return take_publish(end, type, length, message);
        }
        if (type != PUBACK) {
            return bench_fail("mosquitto sent packet 0x%02x", type);
        }
        if (sock_need(&state->sock, length) < 0) {
            return -1;
        }
        sock_skip(&state->sock, length);
    }
}

static size_t mosquitto_payload_max(const struct carrier_end *end)
{
    (void)end;
    return (256u << 20) - 64;
}

const struct carrier_kind peer_mosquitto_0 = {
    .open = open_0,
    .close = mosquitto_close,
    .join = mosquitto_join,
    .send = mosquitto_send,
    .flush = mosquitto_flush,
    .receive = mosquitto_receive,
    .leave = mosquitto_leave,
    .payload_max = mosquitto_payload_max,
};

const struct carrier_kind peer_mosquitto_1 = {
    .open = open_1,
    .close = mosquitto_close,
    .join = mosquitto_join,
    .send = mosquitto_send,
    .flush = mosquitto_flush,
    .receive = mosquitto_receive,
    .leave = mosquitto_leave,
    .payload_max = mosquitto_payload_max,
};
