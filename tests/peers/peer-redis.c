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
#include "tests/peers/server.h"
#include "tests/peers/sock.h"
#include "tests/peers/window.h"

enum {
    HALF = 128,             /* commands */
    HALF_BYTES = 128 << 10, /* or so many bytes are sent at once */
    HEAD_SIZE = 64,
};

static const char socket_file[] = "redis.sock";

struct redis {
    struct server server;
    struct window *window;
};

struct redis_end {
    struct redis *redis;
    struct sock sending; /* one connection each: who is subscribed may not publish */
    struct sock receiving;
    char heads[CARRIER_CHANNELS][HEAD_SIZE]; /* of a PUBLISH to a channel, up to its payload */
    unsigned gathered;                       /* commands that are not sent */
    size_t gathered_bytes;
    unsigned unanswered; /* that are */
};

/* ---- the server ---- */

static int is_ready(const struct server *server, const void *context)
{
    char path[SERVER_PATH_SIZE];

    (void)context;
    server_path(server, path, socket_file);
    return sock_answers_unix(path);
}

static int redis_open(struct carrier *carrier, struct crew *crew)
{
    struct redis *redis = calloc(1, sizeof *redis);
    char path[SERVER_PATH_SIZE];

    carrier->state = redis;
    if (redis == NULL) {
        return bench_fail("out of memory");
    }
    redis->window = window_new(carrier);
    if (redis->window == NULL || server_prepare(&redis->server, "redis-server") < 0) {
        return -1;
    }
    server_path(&redis->server, path, socket_file);

    const char *const arguments[] = {
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        path,
        "--save",
        "",
        "--appendonly",
        "no",
        "--client-output-buffer-limit",
        "pubsub 0 0 0",
        "--dir",
        redis->server.folder,
        NULL,
    };
    if (server_start(&redis->server, arguments, is_ready, NULL) < 0) {
        return -1;
    }
    carrier->hub = redis->server.pid;
    carrier->starting = redis->server.starting;
    crew_watch(crew, "redis-server", redis->server.pidfd);
    return 0;
}

static void redis_close(struct carrier *carrier)
{
    struct redis *redis = carrier->state;

    if (redis != NULL) {
        server_stop(&redis->server);
        window_free(redis->window);
        free(redis);
        carrier->state = NULL;
    }
}

/* ---- a client ---- */

static void redis_leave(struct carrier_end *end)
{
    struct redis_end *state = end->state;

    sock_close(&state->sending);
    sock_close(&state->receiving);
    free(state);
}

static int put_text(struct sock *sock, const char *text)
{
    return sock_put(sock, text, strlen(text));
}

/* The answer: *3, $9, subscribe, $1, the channel, :1. */
static int subscribe(struct sock *sock, unsigned channel)
{
    char command[HEAD_SIZE];

    snprintf(command, sizeof command, "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\n%u\r\n", channel);
    if (put_text(sock, command) < 0) {
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

static int redis_join(struct carrier_end *end)
{
    struct redis *redis = end->carrier->state;
    struct redis_end *state = calloc(1, sizeof *state);
    char path[SERVER_PATH_SIZE];

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    end->state = state;
    state->redis = redis;
    state->sending.fd = -1;
    state->receiving.fd = -1;
    for (unsigned i = 0; i < CARRIER_CHANNELS; i++) {
        snprintf(state->heads[i], HEAD_SIZE, "*3\r\n$7\r\nPUBLISH\r\n$1\r\n%u\r\n$%zu\r\n", i,
                 end->carrier->options->size);
    }
    server_path(&redis->server, path, socket_file);
    if (((end->use & CARRIER_SEND) != 0 && sock_open_unix(&state->sending, path) < 0) ||
        ((end->use & CARRIER_RECEIVE) != 0 &&
         (sock_open_unix(&state->receiving, path) < 0 ||
          subscribe(&state->receiving, end->carrier->channels[end->receiver]) < 0))) {
        carrier_leave(end);
        return -1;
    }
    return 0;
}

/* Read answers until at most `most` are missing. */
static int read_answers(struct redis_end *state, unsigned most)
{
    while (state->unanswered > most) {
        int size = sock_need_line(&state->sending);

        if (size < 0) {
            return -1;
        }
        if (sock_in(&state->sending)[0] != ':') {
            return bench_fail("redis: %.*s", size, (const char *)sock_in(&state->sending));
        }
        sock_skip(&state->sending, (size_t)size + 2);
        state->unanswered--;
    }
    return 0;
}

/* Send what has gathered, when of what was sent before at most `most` answers are missing. */
static int send_gathered(struct redis_end *state, unsigned most)
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

static int redis_flush(struct carrier_end *end)
{
    struct redis_end *state = end->state;

    return send_gathered(state, HALF) < 0 ? -1 : read_answers(state, 0);
}

static int redis_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                      unsigned priority)
{
    struct redis_end *state = end->state;

    (void)priority;
    if (window_wait(state->redis->window, end, bytes, size) < 0 ||
        put_text(&state->sending, state->heads[channel]) < 0 ||
        sock_put(&state->sending, bytes, size) < 0 || sock_put(&state->sending, "\r\n", 2) < 0) {
        return -1;
    }
    state->gathered++;
    state->gathered_bytes += size;
    if ((end->use & CARRIER_BATCH) == 0) {
        return redis_flush(end);
    }
    return state->gathered < HALF && state->gathered_bytes < HALF_BYTES
               ? 0
               : send_gathered(state, HALF);
}

/* One line of a push: its marker, and the number behind it. */
static int need_number(struct sock *sock, char marker, size_t *number)
{
    int size = sock_need_line(sock);

    if (size < 0) {
        return -1;
    }
    if (sock_in(sock)[0] != (unsigned char)marker) {
        return bench_fail("redis: %.*s", size, (const char *)sock_in(sock));
    }
    *number = 0;
    for (int i = 1; i < size; i++) {
        *number = *number * 10 + (size_t)(sock_in(sock)[i] - '0');
    }
    sock_skip(sock, (size_t)size + 2);
    return 0;
}

static int redis_receive(struct carrier_end *end, struct carrier_message *message)
{
    static const char between[] = "$7\r\nmessage\r\n$1\r\n0\r\n";
    struct redis_end *state = end->state;
    struct sock *sock = &state->receiving;
    size_t number;
    size_t size;

    if (need_number(sock, '*', &number) < 0 || sock_need(sock, sizeof between - 1) < 0) {
        return -1;
    }
    sock_skip(sock, sizeof between - 1);
    if (need_number(sock, '$', &size) < 0 || sock_need(sock, size + 2) < 0) {
        return -1;
    }
    *message = (struct carrier_message){.bytes = sock_in(sock), .size = size};
    sock_skip(sock, size + 2);
    window_take(state->redis->window, end->receiver, message->bytes, size);
    return 0;
}

static size_t redis_payload_max(const struct carrier_end *end)
{
    (void)end;
    return 512u << 20;
}

const struct carrier_kind peer_redis = {
    .open = redis_open,
    .close = redis_close,
    .join = redis_join,
    .send = redis_send,
    .flush = redis_flush,
    .receive = redis_receive,
    .leave = redis_leave,
    .payload_max = redis_payload_max,
};
