/* What a broker's memory becomes while a subscriber does not read; and how long it took to start.
 */
#ifndef MQBROKER_TESTS_PEERS_BACKLOG_H
#define MQBROKER_TESTS_PEERS_BACKLOG_H

#include "tools/bench.h"

enum backlog_figure {
    BACKLOG_START_MS,
    BACKLOG_IDLE_MIB,  /* before the first message */
    BACKLOG_TAKEN_MIB, /* of payload that the publisher got rid of */
    BACKLOG_FULL_MIB,  /* with that */
    BACKLOG_N_FIGURES,
};

/* 32 MiB are published; `size` of the options is a payload's. */
extern const struct bench_mode backlog_mode;

#endif
