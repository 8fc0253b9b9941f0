/* Redis as a durable store of messages: RPUSH to a list that nobody reads, with an append-only file
 * that is synced before anything is answered (appendfsync always). So many commands are under way
 * as messages may be unconfirmed, in one write when their answers are needed. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/peers/peers.h"
#include "tests/peers/redis.h"
#include "tests/peers/server.h"
#include "tests/peers/sock.h"
#include "tools/bench-folder.h"

struct durable {
    struct server server;
    struct folder folder; /* of its append-only file */
};

struct durable_end {
    struct sock sock;
    char head[REDIS_HEAD_SIZE]; /* of a RPUSH, up to its payload */
    unsigned gathered;          /* commands that are not sent */
    unsigned unanswered;        /* that are */
};

/* ---- the server ---- */

static int durable_open(struct carrier *carrier, struct crew *crew)
{
    static const char *const options[] = {"--appendonly", "yes", "--appendfsync", "always", NULL};
    struct durable *durable = calloc(1, sizeof *durable);

    carrier->state = durable;
    if (durable == NULL) {
        return bench_fail("out of memory");
    }
    if (server_prepare(&durable->server, "redis-server") < 0 ||
        folder_make(&durable->folder, carrier->options->directory) < 0) {
        return -1;
    }
    return redis_start(&durable->server, carrier, crew, durable->folder.path, options);
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

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    end->state = state;
    state->sock.fd = -1;
    snprintf(state->head, REDIS_HEAD_SIZE, "*3\r\n$5\r\nRPUSH\r\n$5\r\nbench\r\n$%zu\r\n",
             end->carrier->options->size);
    if (redis_connect(&durable->server, &state->sock) < 0) {
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
    if (redis_put(&state->sock, state->head, bytes, size) < 0) {
        return -1;
    }
    state->gathered++;
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
        if (redis_need_number(&state->sock, ':', &length) < 0) {
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

static int durable_held(const struct carrier *carrier, uint64_t *n)
{
    static const char command[] = "*2\r\n$4\r\nLLEN\r\n$5\r\nbench\r\n";
    const struct durable *durable = carrier->state;
    struct sock sock;
    int r;

    if (redis_connect(&durable->server, &sock) < 0) {
        return -1;
    }
    r = sock_put(&sock, command, sizeof command - 1) < 0 || sock_flush(&sock) < 0 ||
                redis_need_number(&sock, ':', n) < 0
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
    .payload_max = redis_payload_max,
};
