/* The peers, each a carrier of messages like the broker (tools/bench-carrier.h). */
#ifndef MQBROKER_TESTS_PEERS_PEERS_H
#define MQBROKER_TESTS_PEERS_PEERS_H

#include "tools/bench-carrier.h"

extern const struct carrier_kind peer_mosquitto_0; /* QoS 0 */
extern const struct carrier_kind peer_mosquitto_1; /* QoS 1 */
extern const struct carrier_kind peer_redis;
extern const struct carrier_kind peer_redis_list;   /* durable: its append-only file, synced; */
extern const struct carrier_kind peer_redis_stream; /* … likewise */
extern const struct carrier_kind peer_nats;
extern const struct carrier_kind peer_zeromq;
extern const struct carrier_kind peer_iceoryx;

#endif
