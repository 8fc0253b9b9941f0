/* Redis as a durable store of messages that nobody reads, with an append-only file that is synced
 * before anything is answered (appendfsync always), and not rewritten meanwhile, which would be a
 * second write of all. So many commands are under way as messages may be unconfirmed, in one write
 * when their answers are needed. Redis takes at most 16 KiB of that at a time, and syncs after
 * each: 128 commands of 1 KiB are some eight syncs, which no client on one connection can change.
 *
 * Messages go to a list (RPUSH), which is the least that Redis can do, or to a stream (XADD), which
 * is what its consumer groups stand on, as a durable group of mqbroker does on its journal. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/peers/peers.h"
#include "tests/peers/redis.h"
#include "tests/peers/server.h"
#include "tests/peers/sock.h"
#include "tools/bench-folder.h"

/* What messages are kept in. */
struct keeping {
    const char *add;   /* the command that adds a message, up to the size of its payload */
    const char *count; /* the command that counts them */
    int (*need_added)(struct sock *sock); /* wait for the answer to `add`: 0 or -1 */
};

struct durable {
    struct server server;
    struct folder folder; /* of its append-only file */
    const struct keeping *keeping;
};

struct durable_end {
    struct sock sock;
    char head[REDIS_HEAD_SIZE]; /* of a command, up to its payload */
    unsigned gathered;          /* commands that are not sent */
    unsigned unanswered;        /* that are */
};

/* ---- what messages are kept in ---- */

/* The list's new length. */
static int need_length(struct sock *sock)
{
    uint64_t length;

    return redis_need_number(sock, ':', &length);
}

/* The name of the stream's new entry. */
static int need_name(struct sock *sock)
{
    const unsigned char *name;
    size_t size;

    return redis_need_bytes(sock, &name, &size);
}

static const struct keeping list = {
    .add = "*3\r\n$5\r\nRPUSH\r\n$5\r\nbench\r\n",
    .count = "*2\r\n$4\r\nLLEN\r\n$5\r\nbench\r\n",
    .need_added = need_length,
};

static const struct keeping stream = {
    .add = "*5\r\n$4\r\nXADD\r\n$5\r\nbench\r\n$1\r\n*\r\n$1\r\np\r\n",
    .count = "*2\r\n$4\r\nXLEN\r\n$5\r\nbench\r\n",
    .need_added = need_name,
};

/* ---- the server ---- */

static int open_with(struct carrier *carrier, struct crew *crew, const struct keeping *keeping)
{
    static const char *const options[] = {"--appendonly",
                                          "yes",
                                          "--appendfsync",
                                          "always",
                                          "--auto-aof-rewrite-percentage",
                                          "0",
                                          NULL};
    struct durable *durable = calloc(1, sizeof *durable);

    carrier->state = durable;
    if (durable == NULL) {
        return bench_fail("out of memory");
    }
    durable->keeping = keeping;
    if (server_prepare(&durable->server, "redis-server") < 0 ||
        folder_make(&durable->folder, carrier->options->directory) < 0) {
        return -1;
    }
    return redis_start(&durable->server, carrier, crew, durable->folder.path, options);
}

static int open_list(struct carrier *carrier, struct crew *crew)
{
    return open_with(carrier, crew, &list);
}

static int open_stream(struct carrier *carrier, struct crew *crew)
{
    return open_with(carrier, crew, &stream);
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
    snprintf(state->head, REDIS_HEAD_SIZE, "%s$%zu\r\n", durable->keeping->add,
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
    const struct durable *durable = end->carrier->state;
    struct durable_end *state = end->state;

    while (state->gathered + state->unanswered > most) {
        if (sock_in_size(&state->sock) == 0 && state->gathered > 0) {
            if (sock_flush(&state->sock) < 0) {
                return -1;
            }
            state->unanswered += state->gathered;
            state->gathered = 0;
        }
        if (durable->keeping->need_added(&state->sock) < 0) {
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
    const struct durable *durable = carrier->state;
    const char *count = durable->keeping->count;
    struct sock sock;
    int r;

    if (redis_connect(&durable->server, &sock) < 0) {
        return -1;
    }
    r = sock_put(&sock, count, strlen(count)) < 0 || sock_flush(&sock) < 0 ||
                redis_need_number(&sock, ':', n) < 0
            ? -1
            : 0;
    sock_close(&sock);
    return r;
}

const struct carrier_kind peer_redis_list = {
    .open = open_list,
    .close = durable_close,
    .join = durable_join,
    .send = durable_send,
    .flush = durable_flush,
    .confirm = durable_confirm,
    .held = durable_held,
    .leave = durable_leave,
    .payload_max = redis_payload_max,
};

const struct carrier_kind peer_redis_stream = {
    .open = open_stream,
    .close = durable_close,
    .join = durable_join,
    .send = durable_send,
    .flush = durable_flush,
    .confirm = durable_confirm,
    .held = durable_held,
    .leave = durable_leave,
    .payload_max = redis_payload_max,
};
