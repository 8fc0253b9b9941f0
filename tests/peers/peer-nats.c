/* NATS core publish/subscribe. It has no Unix socket: TCP over the loopback, PUB lines gathered in
 * a large buffer. A subscriber that is too slow would be disconnected; a window prevents it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/peers/peers.h"
#include "tests/peers/server.h"
#include "tests/peers/sock.h"
#include "tests/peers/window.h"

enum {
    HEAD_SIZE = 64,
};

static const char hello[] =
    "CONNECT {\"verbose\":false,\"pedantic\":false,\"tls_required\":false}\r\n";

struct nats {
    struct server server;
    struct window *window;
    unsigned short port;
};

struct nats_end {
    struct nats *nats;
    struct sock sock;
    char heads[CARRIER_CHANNELS][HEAD_SIZE]; /* of a PUB to a channel, up to its payload */
};

/* ---- the server ---- */

static int is_ready(const struct server *server, const void *context)
{
    const struct nats *nats = context;

    (void)server;
    return sock_answers_loopback(nats->port);
}

static int nats_open(struct carrier *carrier, struct crew *crew)
{
    struct nats *nats = calloc(1, sizeof *nats);
    char path[SERVER_PATH_SIZE];
    char config[256];

    carrier->state = nats;
    if (nats == NULL) {
        return bench_fail("out of memory");
    }
    nats->window = window_new(carrier);
    nats->port = sock_free_port();
    snprintf(config, sizeof config,
             "host: 127.0.0.1\nport: %u\nmax_payload: 64MB\nmax_pending: 1GB\n", nats->port);
    if (nats->window == NULL || server_prepare(&nats->server, "nats-server") < 0 ||
        server_write(&nats->server, "config", config) < 0) {
        return -1;
    }
    server_path(&nats->server, path, "config");

    const char *const arguments[] = {"nats-server", "-c", path, NULL};
    if (server_start(&nats->server, arguments, is_ready, nats) < 0) {
        return -1;
    }
    carrier->hub = nats->server.pid;
    carrier->starting = nats->server.starting;
    crew_watch(crew, "nats-server", nats->server.pidfd);
    return 0;
}

static void nats_close(struct carrier *carrier)
{
    struct nats *nats = carrier->state;

    if (nats != NULL) {
        server_stop(&nats->server);
        window_free(nats->window);
        free(nats);
        carrier->state = NULL;
    }
}

/* ---- a client ---- */

static void nats_leave(struct carrier_end *end)
{
    struct nats_end *state = end->state;

    sock_close(&state->sock);
    free(state);
}

static int put_text(struct sock *sock, const char *text)
{
    return sock_put(sock, text, strlen(text));
}

/* All that was written before has been dealt with when the answer comes. */
static int ping(struct sock *sock)
{
    if (put_text(sock, "PING\r\n") < 0) {
        return -1;
    }
    for (;;) {
        int size = sock_need_line(sock);

        if (size < 0) {
            return -1;
        }
        if (sock_in(sock)[0] == '-') {
            return bench_fail("nats: %.*s", size, (const char *)sock_in(sock));
        }

        int pong = memcmp(sock_in(sock), "PONG", 4) == 0; /* or INFO */
        sock_skip(sock, (size_t)size + 2);
        if (pong) {
            return 0;
        }
    }
}

static int enter(struct carrier_end *end, struct nats_end *state)
{
    char command[HEAD_SIZE] = "";

    if ((end->use & CARRIER_RECEIVE) != 0) {
        snprintf(command, sizeof command, "SUB %u 1\r\n", end->carrier->channels[end->receiver]);
    }
    return put_text(&state->sock, hello) < 0 || put_text(&state->sock, command) < 0 ||
                   ping(&state->sock) < 0
               ? -1
               : 0;
}

static int nats_join(struct carrier_end *end)
{
    struct nats *nats = end->carrier->state;
    struct nats_end *state = calloc(1, sizeof *state);

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    end->state = state;
    state->nats = nats;
    for (unsigned i = 0; i < CARRIER_CHANNELS; i++) {
        snprintf(state->heads[i], HEAD_SIZE, "PUB %u %zu\r\n", i, end->carrier->options->size);
    }
    if (sock_open_loopback(&state->sock, nats->port) < 0 || enter(end, state) < 0) {
        carrier_leave(end);
        return -1;
    }
    return 0;
}

static int nats_flush(struct carrier_end *end)
{
    struct nats_end *state = end->state;

    return sock_flush(&state->sock);
}

static int nats_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                     unsigned priority)
{
    struct nats_end *state = end->state;

    (void)priority;
    if (window_wait(state->nats->window, end, bytes, size) < 0 ||
        put_text(&state->sock, state->heads[channel]) < 0 ||
        sock_put(&state->sock, bytes, size) < 0 || sock_put(&state->sock, "\r\n", 2) < 0) {
        return -1;
    }
    return (end->use & CARRIER_BATCH) != 0 ? 0 : sock_flush(&state->sock);
}

static int answer_ping(struct sock *sock, int size)
{
    if (memcmp(sock_in(sock), "PING", 4) != 0) {
        return bench_fail("nats: %.*s", size, (const char *)sock_in(sock));
    }
    sock_skip(sock, (size_t)size + 2);
    return put_text(sock, "PONG\r\n");
}

/* MSG <subject> 1 <size>: the subject is a digit. */
static int nats_receive(struct carrier_end *end, struct carrier_message *message)
{
    static const size_t number_at = sizeof "MSG 0 1 " - 1;
    struct nats_end *state = end->state;
    struct sock *sock = &state->sock;
    size_t size = 0;
    int line;

    for (;;) {
        line = sock_need_line(sock);
        if (line < 0) {
            return -1;
        }
        if (sock_in(sock)[0] == 'M') {
            break;
        }
        if (answer_ping(sock, line) < 0) {
            return -1;
        }
    }
    for (size_t i = number_at; i < (size_t)line; i++) {
        size = size * 10 + (size_t)(sock_in(sock)[i] - '0');
    }
    sock_skip(sock, (size_t)line + 2);
    if (sock_need(sock, size + 2) < 0) {
        return -1;
    }
    *message = (struct carrier_message){.bytes = sock_in(sock), .size = size};
    sock_skip(sock, size + 2);
    window_take(state->nats->window, end->receiver, message->bytes, size);
    return 0;
}

static size_t nats_payload_max(const struct carrier_end *end)
{
    (void)end;
    return 64u << 20;
}

const struct carrier_kind peer_nats = {
    .open = nats_open,
    .close = nats_close,
    .join = nats_join,
    .send = nats_send,
    .flush = nats_flush,
    .receive = nats_receive,
    .leave = nats_leave,
    .payload_max = nats_payload_max,
};
