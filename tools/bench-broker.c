/* Messages through the broker, with the client library: what a user of mqbroker gets. Each channel
 * is a topic. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/mqclient.h"
#include "tools/bench-carrier.h"
#include "tools/bench-daemon.h"

static const char *const topics[CARRIER_CHANNELS] = {
    "bench/0", "bench/1", "bench/2", "bench/3", "bench/4",
    "bench/5", "bench/6", "bench/7", "bench/8", "bench/9",
};

struct client_end {
    struct mqc *client;
    struct mqc_message message; /* the one handed out last */
};

/* The way asks for an extreme, or the user for something, or nobody for anything. */
static int broker_poll_of(const struct carrier *carrier)
{
    if (carrier->options->broker_poll_usec >= 0) {
        return carrier->options->broker_poll_usec;
    }
    return carrier->way->wait == BENCH_SLEEP || carrier->options->wait == BENCH_SLEEP ? 0 : -1;
}

static int library_poll_of(const struct carrier *carrier)
{
    if (carrier->way->wait == BENCH_SLEEP || carrier->options->wait == BENCH_SLEEP) {
        return -1;
    }
    return (int)carrier->options->poll_usec;
}

static int broker_open(struct carrier *carrier, struct crew *crew)
{
    const struct bench_options *options = carrier->options;
    struct daemon *daemon = malloc(sizeof *daemon);

    if (daemon == NULL) {
        return bench_fail("out of memory");
    }
    *daemon = DAEMON_NONE;
    carrier->state = daemon;

    int r = options->instance != NULL
                ? daemon_attach(daemon, options->instance)
                : daemon_start(daemon, options->broker, broker_poll_of(carrier));
    if (r < 0) {
        return -1;
    }
    carrier->hub = daemon->pid;
    crew_watch(crew, "the broker", daemon->pidfd);
    return 0;
}

static void broker_close(struct carrier *carrier)
{
    if (carrier->state != NULL) {
        daemon_stop(carrier->state);
        free(carrier->state);
        carrier->state = NULL;
    }
}

static void client_leave(struct carrier_end *end)
{
    struct client_end *state = end->state;

    mqc_message_free(&state->message);
    mqc_close(state->client);
    free(state);
}

static int client_set_up(struct carrier_end *end, struct client_end *state)
{
    const struct carrier *carrier = end->carrier;
    const struct daemon *daemon = carrier->state;
    struct mqc_options options = {
        .instance = daemon->instance,
        .flags = (end->use & CARRIER_RECEIVE) != 0 ? 0 : MQC_PUBLISH_ONLY,
        .poll_usec = library_poll_of(carrier),
    };

    if (mqc_open(&state->client, &options) < 0) {
        return bench_fail("cannot connect to the broker: %s", mqc_last_error());
    }
    if ((end->use & CARRIER_BATCH) != 0 && mqc_set_batching(state->client, 1) < 0) {
        return bench_fail("cannot switch batching on: %s", mqc_last_error());
    }
    if ((end->use & CARRIER_RECEIVE) != 0 &&
        mqc_subscribe(state->client, topics[carrier->channels[end->receiver]], 0) < 0) {
        return bench_fail("cannot subscribe: %s", mqc_last_error());
    }
    return 0;
}

static int client_join(struct carrier_end *end)
{
    struct client_end *state = calloc(1, sizeof *state);

    if (state == NULL) {
        return bench_fail("out of memory");
    }
    end->state = state;
    if (client_set_up(end, state) < 0) {
        carrier_leave(end);
        return -1;
    }
    return 0;
}

static int client_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                       unsigned priority)
{
    struct client_end *state = end->state;

    return mqc_publish(state->client, topics[channel], bytes, size, priority) == 0
               ? 0
               : bench_fail("cannot publish: %s", mqc_last_error());
}

static int client_flush(struct carrier_end *end)
{
    struct client_end *state = end->state;

    return mqc_flush(state->client) == 0 ? 0 : bench_fail("cannot flush: %s", mqc_last_error());
}

static int client_receive(struct carrier_end *end, struct carrier_message *message)
{
    struct client_end *state = end->state;

    mqc_message_free(&state->message);
    int r = mqc_receive(state->client, &state->message, CARRIER_QUIET_MS);
    if (r == -ETIMEDOUT) {
        return bench_fail("nothing came for %d s, and more was to come; the broker dropped %llu "
                          "messages for this client",
                          CARRIER_QUIET_MS / 1000, (unsigned long long)mqc_missed(state->client));
    }
    if (r < 0) {
        return bench_fail("cannot receive: %s", mqc_last_error());
    }
    *message = (struct carrier_message){
        .bytes = state->message.payload,
        .size = state->message.size,
        .priority = state->message.priority,
    };
    return 0;
}

static size_t client_payload_max(const struct carrier_end *end)
{
    const struct client_end *state = end->state;

    return mqc_payload_max(state->client, topics[0]);
}

const struct carrier_kind carrier_broker = {
    .open = broker_open,
    .close = broker_close,
    .join = client_join,
    .send = client_send,
    .flush = client_flush,
    .receive = client_receive,
    .leave = client_leave,
    .payload_max = client_payload_max,
};
