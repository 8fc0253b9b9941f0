/* Messages through the broker, with the client library: what a user of mqbroker gets.
 *
 * Messages to be kept go to a durable group that has no members.
 *
 * Each channel is a topic. With filters, receivers subscribe to bench/0/+, bench/1/+ and so on, and
 * the topics of the channels lie below the first ten of these: each is reached by exactly one
 * filter, whether there are ten of them or many. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/mqclient.h"
#include "tools/bench-carrier.h"
#include "tools/bench-daemon.h"
#include "tools/bench-folder.h"
#include "tools/look.h"
#include "tools/snapshot.h"

enum {
    TOPIC_SIZE = 32,
    POOL_USUAL = 32 << 20, /* what four times of which a broker allows by itself */
};

static const char durable_group[] = "bench";

struct broker {
    struct daemon daemon;
    struct folder folder; /* of its journal */
};

struct client_end {
    struct mqc *client;
    char (*topics)[TOPIC_SIZE]; /* by channel */
    struct mqc_message message; /* the one handed out last */
    int64_t *unconfirmed;       /* their numbers: a ring of as many as there may be */
    uint64_t n_sent;
    uint64_t n_confirmed;
};

/* The way asks for an extreme, or the user for something, or nobody for anything. */
static int broker_poll_of(const struct carrier *carrier)
{
    if (carrier->options->broker_poll_usec >= 0) {
        return carrier->options->broker_poll_usec;
    }
    return carrier->way->wait == BENCH_SLEEP || carrier->options->wait == BENCH_SLEEP ? 0 : -1;
}

/* Room for a few of the largest that are measured; as usual if that is enough for them. */
static uint64_t pool_max_of(const struct carrier *carrier)
{
    size_t size = carrier->options->size;

    return size > POOL_USUAL ? 4 * (uint64_t)size : 0;
}

static int library_poll_of(const struct carrier *carrier)
{
    if (carrier->way->wait == BENCH_SLEEP || carrier->options->wait == BENCH_SLEEP) {
        return -1;
    }
    return (int)carrier->options->poll_usec;
}

static int start(struct carrier *carrier, struct broker *broker)
{
    const struct bench_options *options = carrier->options;
    struct daemon_settings settings = {
        .program = options->broker,
        .poll_usec = broker_poll_of(carrier),
        .pool_max = pool_max_of(carrier),
        .sync = options->sync,
    };

    if (carrier->way->durable) {
        if (folder_make(&broker->folder, options->directory) < 0) {
            return -1;
        }
        settings.journal = broker->folder.path;
        settings.journal_ready = carrier_disk_bytes(options);
    }
    return daemon_start(&broker->daemon, &settings);
}

/* A group that is there, has no members, and keeps all that comes. What one of an earlier run has
 * goes first. */
static int make_group(const struct daemon *daemon)
{
    const struct mqc_options options = {.instance = daemon->instance};
    const struct mqc_group_options durable = {.flags = MQC_DURABLE};
    struct mqc *client;
    int r = mqc_open(&client, &options);

    if (r == 0 && !daemon->ours) {
        mqc_remove_group(client, durable_group);
    }
    if (r == 0) {
        r = mqc_join(client, durable_group, "bench/#", &durable);
    }
    if (r == 0) {
        r = mqc_leave(client, durable_group);
    }
    if (r < 0) {
        bench_fail("cannot make a durable group: %s", mqc_last_error());
    }
    mqc_close(client);
    return r < 0 ? -1 : 0;
}

/* A private broker's goes with its journal. */
static void remove_group(const struct daemon *daemon)
{
    const struct mqc_options options = {.instance = daemon->instance, .flags = MQC_PUBLISH_ONLY};
    struct mqc *client;

    if (mqc_open(&client, &options) == 0) {
        mqc_remove_group(client, durable_group);
        mqc_close(client);
    }
}

static int broker_open(struct carrier *carrier, struct crew *crew)
{
    const struct bench_options *options = carrier->options;
    struct broker *broker = calloc(1, sizeof *broker);
    struct daemon *daemon;

    if (broker == NULL) {
        return bench_fail("out of memory");
    }
    daemon = &broker->daemon;
    *daemon = DAEMON_NONE;
    carrier->state = broker;

    int r = options->instance != NULL ? daemon_attach(daemon, options->instance)
                                      : start(carrier, broker);
    if (r == 0 && carrier->way->durable) {
        r = make_group(daemon);
    }
    if (r < 0) {
        return -1;
    }
    carrier->hub = daemon->pid;
    carrier->starting = daemon->starting;
    crew_watch(crew, "the broker", daemon->pidfd);
    return 0;
}

static void broker_close(struct carrier *carrier)
{
    struct broker *broker = carrier->state;

    if (broker != NULL) {
        if (carrier->way->durable && carrier->hub != 0 && !broker->daemon.ours) {
            remove_group(&broker->daemon);
        }
        daemon_stop(&broker->daemon);
        folder_remove(&broker->folder);
        free(broker);
        carrier->state = NULL;
    }
}

/* The messages that the durable group took. */
static int broker_held(const struct carrier *carrier, uint64_t *n)
{
    const struct broker *broker = carrier->state;
    struct snapshot snapshot;
    const char *failure = look_at(&snapshot, broker->daemon.instance);

    if (failure != NULL) {
        return bench_fail("%s", failure);
    }
    *n = 0;
    for (size_t i = 0; i < snapshot.n_groups; i++) {
        if (strcmp(snapshot.groups[i].info.name, durable_group) == 0) {
            *n = snapshot.groups[i].words.waiting;
        }
    }
    snapshot_deinit(&snapshot);
    return 0;
}

static void client_leave(struct carrier_end *end)
{
    struct client_end *state = end->state;

    mqc_message_free(&state->message);
    mqc_close(state->client);
    free(state->topics);
    free(state->unconfirmed);
    free(state);
}

/* In advance: to write a topic out costs as much as to publish to it. */
static int name_topics(struct client_end *state, const struct carrier *carrier)
{
    state->topics = calloc(carrier->n_channels, sizeof *state->topics);
    if (state->topics == NULL) {
        return bench_fail("out of memory");
    }
    for (unsigned i = 0; i < carrier->n_channels; i++) {
        if (carrier->n_filters > 0) {
            snprintf(state->topics[i], TOPIC_SIZE, "bench/%u/%u", i % CARRIER_FILTERS_FEW, i);
        } else {
            snprintf(state->topics[i], TOPIC_SIZE, "bench/%u", i);
        }
    }
    return 0;
}

static int subscribe_to(struct client_end *state, const char *filter)
{
    return mqc_subscribe(state->client, filter, 0) == 0
               ? 0
               : bench_fail("cannot subscribe: %s", mqc_last_error());
}

static int client_subscribe(struct carrier_end *end, struct client_end *state)
{
    const struct carrier *carrier = end->carrier;
    uint64_t began = bench_now();

    if (carrier->n_filters == 0 &&
        subscribe_to(state, state->topics[carrier->channels[end->receiver]]) < 0) {
        return -1;
    }
    for (unsigned i = 0; i < carrier->n_filters; i++) {
        char filter[TOPIC_SIZE];

        snprintf(filter, sizeof filter, "bench/%u/+", i);
        if (subscribe_to(state, filter) < 0) {
            return -1;
        }
    }
    end->subscribing = bench_now() - began;
    return 0;
}

static int client_set_up(struct carrier_end *end, struct client_end *state)
{
    const struct carrier *carrier = end->carrier;
    const struct broker *broker = carrier->state;
    struct mqc_options options = {
        .instance = broker->daemon.instance,
        .flags = (end->use & CARRIER_RECEIVE) != 0 ? 0 : MQC_PUBLISH_ONLY,
        .poll_usec = library_poll_of(carrier),
    };

    if (name_topics(state, carrier) < 0) {
        return -1;
    }
    if ((end->use & CARRIER_CONFIRM) != 0) {
        state->unconfirmed = calloc(carrier->outstanding, sizeof *state->unconfirmed);
        if (state->unconfirmed == NULL) {
            return bench_fail("out of memory");
        }
    }
    if (mqc_open(&state->client, &options) < 0) {
        return bench_fail("cannot connect to the broker: %s", mqc_last_error());
    }
    if ((end->use & CARRIER_BATCH) != 0 && mqc_set_batching(state->client, 1) < 0) {
        return bench_fail("cannot switch batching on: %s", mqc_last_error());
    }
    return (end->use & CARRIER_RECEIVE) != 0 ? client_subscribe(end, state) : 0;
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

static int send_to_confirm(struct carrier_end *end, const struct mqc_publication *publication)
{
    struct client_end *state = end->state;
    int64_t number = mqc_publish_with(state->client, publication);

    if (number < 0) {
        return bench_fail("cannot publish: %s", mqc_last_error());
    }
    state->unconfirmed[state->n_sent++ % end->carrier->outstanding] = number;
    return 0;
}

static int client_confirm(struct carrier_end *end, unsigned most)
{
    struct client_end *state = end->state;

    for (; state->n_sent - state->n_confirmed > most; state->n_confirmed++) {
        int64_t number = state->unconfirmed[state->n_confirmed % end->carrier->outstanding];

        if (mqc_confirm_wait(state->client, number, CARRIER_QUIET_MS) < 0) {
            return bench_fail("a message was not confirmed: %s", mqc_last_error());
        }
    }
    return 0;
}

static int client_send(struct carrier_end *end, unsigned channel, const void *bytes, size_t size,
                       unsigned priority)
{
    struct client_end *state = end->state;

    if ((end->use & CARRIER_CONFIRM) != 0) {
        return send_to_confirm(end, &(struct mqc_publication){.topic = state->topics[channel],
                                                              .payload = bytes,
                                                              .size = size,
                                                              .priority = priority,
                                                              .flags = MQC_CONFIRM});
    }
    return mqc_publish(state->client, state->topics[channel], bytes, size, priority) == 0
               ? 0
               : bench_fail("cannot publish: %s", mqc_last_error());
}

static int client_loan(struct carrier_end *end, unsigned channel, size_t size, void **bytes)
{
    struct client_end *state = end->state;

    (void)channel;
    return mqc_loan(state->client, bytes, size, 0) == 0
               ? 0
               : bench_fail("cannot take a loan: %s", mqc_last_error());
}

static int client_send_loan(struct carrier_end *end, unsigned channel, void *bytes, size_t size,
                            unsigned priority)
{
    struct client_end *state = end->state;
    const struct mqc_publication publication = {
        .topic = state->topics[channel],
        .payload = bytes,
        .size = size,
        .priority = priority,
    };

    return mqc_publish_loan(state->client, &publication) >= 0
               ? 0
               : bench_fail("cannot publish a loan: %s", mqc_last_error());
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

    return mqc_payload_max(state->client, state->topics[end->carrier->n_channels - 1]);
}

const struct carrier_kind carrier_broker = {
    .open = broker_open,
    .close = broker_close,
    .join = client_join,
    .send = client_send,
    .flush = client_flush,
    .confirm = client_confirm,
    .held = broker_held,
    .loan = client_loan,
    .send_loan = client_send_loan,
    .receive = client_receive,
    .leave = client_leave,
    .payload_max = client_payload_max,
};
