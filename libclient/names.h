/* Instance name to names of kernel objects. The only place that knows them. Pure. */
#ifndef MQBROKER_LIBCLIENT_NAMES_H
#define MQBROKER_LIBCLIENT_NAMES_H

#include <stdbool.h>
#include <stdint.h>

enum {
    NAMES_INSTANCE_MAX = 64, /* characters of an instance name */
    NAMES_MAX = 112,         /* bytes that hold any name made here, with its NUL */
};

/* 1 to 64 of A-Z, a-z, 0-9, '_', '-': no dot, so that no name made of it collides with another's
 * (rule L5). */
bool names_instance_valid(const char *instance);

/* The instance to use: `wanted` if not NULL, else the environment's MQBROKER_INSTANCE if set and
 * not empty, else "default". */
const char *names_instance(const char *wanted);

/* Each writes a name into `out`; `instance` is valid. Queues begin with '/', and so do segments. */
void names_request_queue(char out[NAMES_MAX], const char *instance);
void names_urgent_queue(char out[NAMES_MAX], const char *instance);
void names_reply_queue(char out[NAMES_MAX], const char *instance, uint64_t nonce);
void names_outbox(char out[NAMES_MAX], const char *instance, uint64_t nonce); /* its session's */
void names_pool(char out[NAMES_MAX], const char *instance, uint64_t nonce);
void names_board(char out[NAMES_MAX], const char *instance);
void names_draft(char out[NAMES_MAX], const char *instance); /* of a board that is not finished */
void names_ledger(char out[NAMES_MAX], const char *instance);
void names_store(char out[NAMES_MAX], const char *instance);

#endif
