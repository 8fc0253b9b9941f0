/* Which kind of carrier a way means, and what holds for both. */
#include "tools/bench-carrier.h"

#include <string.h>

enum {
    DISK_A_SECOND = 512 << 20,
    DISK_MAX = 1 << 30,
    RECORD = 256, /* what a durable message takes beside its payload, at most */
};

static unsigned n_filters(const struct bench_options *options, const struct bench_way *way)
{
    switch (way->filters) {
    case BENCH_NO_FILTERS:
        break;
    case BENCH_FEW_FILTERS:
        return CARRIER_FILTERS_FEW;
    case BENCH_MANY_FILTERS:
        return options->filters;
    }
    return 0;
}

static const struct carrier_kind *kind_of(const struct bench_way *way)
{
    if (way->carrier != NULL) {
        return way->carrier;
    }
    return way->bare ? &carrier_queues : &carrier_broker;
}

uint64_t carrier_disk_bytes(const struct bench_options *options)
{
    uint64_t bytes = DISK_MAX;

    if (options->seconds > 0 && options->seconds < DISK_MAX / DISK_A_SECOND) {
        bytes = (uint64_t)(DISK_A_SECOND * options->seconds);
    }
    if (options->count > 0 && options->count < bytes / (options->size + RECORD)) {
        bytes = options->count * (options->size + RECORD);
    }
    return bytes;
}

int carrier_open(struct carrier *carrier, struct crew *crew, const struct bench_options *options,
                 const struct bench_way *way, const unsigned *channels, unsigned n_receivers)
{
    *carrier = (struct carrier){
        .kind = kind_of(way),
        .options = options,
        .way = way,
        .n_receivers = n_receivers,
        .n_channels =
            way->filters == BENCH_NO_FILTERS ? CARRIER_CHANNELS : CARRIER_FILTERED_CHANNELS,
        .n_filters = n_filters(options, way),
        .outstanding = way->outstanding > 0 ? way->outstanding : options->outstanding,
    };
    if (n_receivers > 0) {
        memcpy(carrier->channels, channels, n_receivers * sizeof *channels);
    }
    return carrier->kind->open(carrier, crew);
}

void carrier_close(struct carrier *carrier)
{
    if (carrier->kind != NULL) {
        carrier->kind->close(carrier);
    }
}

int carrier_join(struct carrier_end *end, const struct carrier *carrier, unsigned use,
                 unsigned receiver)
{
    *end = (struct carrier_end){.carrier = carrier, .use = use, .receiver = receiver};
    if (carrier->kind->join(end) < 0) {
        return -1;
    }

    size_t most = carrier->kind->payload_max(end);
    if ((use & CARRIER_SEND) != 0 && carrier->options->size > most) {
        carrier_leave(end);
        return bench_fail("--size %zu is too large: at most %zu bytes fit a message",
                          carrier->options->size, most);
    }
    return 0;
}

int carrier_payload_max(const struct carrier *carrier, size_t *most)
{
    struct carrier_end end;

    if (carrier_join(&end, carrier, 0, 0) < 0) {
        return -1;
    }
    *most = carrier->kind->payload_max(&end);
    carrier_leave(&end);
    return 0;
}

void carrier_leave(struct carrier_end *end)
{
    if (end->state != NULL) {
        end->carrier->kind->leave(end);
        end->state = NULL;
    }
}
