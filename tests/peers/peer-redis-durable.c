/* Redis as a durable store of messages: RPUSH to a list that nobody reads, with an append-only file
 * that is synced before anything is answered (appendfsync always). So many commands are under way
 * as messages may be unconfirmed, in one write when their answers are needed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/peers/peers.h"
#include "tests/peers/server.h"
#include "tests/peers/sock.h"
#include "tools/bench-folder.h"

enum { HEAD_SIZE = 64 };

static const char socket_file[] = "redis.sock";

struct durable {
    struct server server;
    struct folder folder; /* of its append-only file */
};

struct durable_end {
    struct sock sock;
    char head[HEAD_SIZE]; /* of a RPUSH, up to its payload */
    unsigned gathered;    /* commands that are not sent */
    unsigned unanswered;  /* that are */
};

/* ---- the server ---- */

static int is_ready(const struct server *server, const void *context)
{
    char path[SERVER_PATH_SIZE];

    (void)context;
    server_path(server, path, socket_file);
    return sock_answers_unix(path);
}

static int durable_open(struct carrier *carrier, struct crew *crew)
{
    struct durable *durable = calloc(1, sizeof *durable);
    char path[SERVER_PATH_SIZE];

    carrier->state = durable;
    if (durable == NULL) {
        return bench_fail("out of memory");
    }
    if (server_prepare(&durable->server, "redis-server") < 0 ||
        folder_make(&durable->folder, carrier->options->directory) < 0) {
        return -1;
    }
    server_path(&durable->server, path, socket_file);

    const char *const arguments[] = {
        "redis-server",
        "--port",
        "0",
        "--unixsocket",
        path,
        "--save",
        "",
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--dir",
        durable->folder.path,
        NULL,
    };
    if (server_start(&durable->server, arguments, is_ready, NULL) < 0) {
        return -1;
    }
    carrier->hub = durable->server.pid;
    carrier->starting = durable->server.starting;
    crew_watch(crew, "redis-server", durable->server.pidfd);
    return 0;
}

static void durable_close(struct carrier *carrier)
{
    struct durable *durable = carrier->state;

    if (durable != NULL) {
        server_stop(&durable->server);
        folder_remove(&durable->folder);
        free(durable);
        carrier->state = NULL;
    }
}

/* ---- a client ---- */

static void durable_leave(struct carrier_end *end)
{
    struct durable_end *state = end->state;

    sock_close(&state->sock);
    free(state);
}

static int durable_join(struct carrier_end *end)
{
    const struct durable *durable = end->carrier->state;
    struct durable_end *state = calloc(1, sizeof *state);
    char path[SERVER_PATH_SIZE];

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    end->state = state;
    state->sock.fd = -1;
    snprintf(state->head, HEAD_SIZE, "*3\r\n$5\r\nRPUSH\r\n$5\r\nbench\r\n$%zu\r\n",
             end->carrier->options->size);
    server_path(&durable->server, path, socket_file);
    if (sock_open_unix(&state->sock, path) < 0) {
        carrier_leave(end);
        return -1;
    }
    return 0;
}

static int durable_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                        unsigned priority)
{
    struct durable_end *state = end->state;

    (void)channel;
    (void)priority;
    if (sock_put(&state->sock, state->head, strlen(state->head)) < 0 ||
        sock_put(&state->sock, bytes, size) < 0 || sock_put(&state->sock, "\r\n", 2) < 0) {
        return -1;
    }
    state->gathered++;
    return 0;
}

/* An integer, as RPUSH and LLEN answer. */
static int read_number(struct sock *sock, uint64_t *number)
{
    int size = sock_need_line(sock);

    if (size < 0) {
        return -1;
    }
    if (sock_in(sock)[0] != ':') {
        return bench_fail("redis: %.*s", size, (const char *)sock_in(sock));
    }
    *number = strtoull((const char *)sock_in(sock) + 1, NULL, 10);
    sock_skip(sock, (size_t)size + 2);
    return 0;
}

/* What has gathered goes when nothing is left of the answers that have come. */
static int durable_confirm(struct carrier_end *end, unsigned most)
{
    struct durable_end *state = end->state;

    while (state->gathered + state->unanswered > most) {
        uint64_t length;

        if (sock_in_size(&state->sock) == 0 && state->gathered > 0) {
            if (sock_flush(&state->sock) < 0) {
                return -1;
            }
            state->unanswered += state->gathered;
            state->gathered = 0;
        }
        if (read_number(&state->sock, &length) < 0) {
            return -1;
        }
        state->unanswered--;
    }
    return 0;
}

static int durable_flush(struct carrier_end *end)
{
    return durable_confirm(end, 0);
}

static size_t durable_payload_max(const struct carrier_end *end)
{
    (void)end;
    return 512u << 20;
}

static int durable_held(const struct carrier *carrier, uint64_t *n)
{
    static const char command[] = "*2\r\n$4\r\nLLEN\r\n$5\r\nbench\r\n";
    const struct durable *durable = carrier->state;
    char path[SERVER_PATH_SIZE];
    struct sock sock;
    int r;

    server_path(&durable->server, path, socket_file);
    if (sock_open_unix(&sock, path) < 0) {
        return -1;
    }
    r = sock_put(&sock, command, sizeof command - 1) < 0 || sock_flush(&sock) < 0 ||
                read_number(&sock, n) < 0
            ? -1
            : 0;
    sock_close(&sock);
    return r;
}

const struct carrier_kind peer_redis_durable = {
    .open = durable_open,
    .close = durable_close,
    .join = durable_join,
    .send = durable_send,
    .flush = durable_flush,
    .confirm = durable_confirm,
    .held = durable_held,
    .leave = durable_leave,
    .payload_max = durable_payload_max,
};
