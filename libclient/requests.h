/* What this client has asked and not been answered: requests, and the one call that waits (floor 2,
 * pure).
 *
 * A number names a place in the table and its generation, so that an answer finds its request at
 * once, and a late or second answer finds nothing (rule L2). Numbers have the highest of 32 bits
 * set; those of confirms have not. */
#ifndef MQBROKER_LIBCLIENT_REQUESTS_H
#define MQBROKER_LIBCLIENT_REQUESTS_H

#include <stdbool.h>
#include <stdint.h>

enum {
    REQUESTS_MAX = 1024, /* open at once, those that failed and were not handed out yet included */
    REQUESTS_CALL = REQUESTS_MAX, /* the place of the call that waits: mqc_request, mqc_subscribe */
    REQUESTS_PLACES = REQUESTS_MAX + 1,
    REQUESTS_PLACE_BITS = 11,
};

#define REQUESTS_BIT   UINT32_C(0x80000000)
#define REQUESTS_NEVER UINT64_MAX

enum request_state {
    REQUEST_FREE = 0,
    REQUEST_OPEN,
    REQUEST_FAILED, /* waits to be handed out as such */
    REQUEST_DONE,   /* the call: answered by `code`, or with a reply */
};

struct request {
    uint64_t deadline; /* nanoseconds of CLOCK_BOOTTIME */
    uint32_t number;
    uint16_t next; /* in the list of free or failed ones */
    uint8_t state; /* enum request_state */
    uint8_t code;  /* enum wire_code */
    uint8_t priority;
    bool wants_reply; /* OK is no answer to it */
    uint32_t count;   /* the call that wants none: what its answer counted */
};

struct requests {
    struct request places[REQUESTS_PLACES];
    uint16_t free;
    uint16_t failed_first;
    uint16_t failed_last;
    uint32_t n_open;   /* without the call */
    uint64_t earliest; /* no deadline of an open one is before this */
};

void requests_init(struct requests *r);

/* Open one. Returns its number, or 0: REQUESTS_MAX are open. */
uint32_t requests_open(struct requests *r, uint64_t deadline, unsigned priority);

/* Open the call: a request, or (`wants_reply` is false) something that the broker itself answers.
 * There is one at a time; an earlier one is forgotten. */
uint32_t requests_open_call(struct requests *r, bool wants_reply);

static inline struct request *requests_call(struct requests *r)
{
    return &r->places[REQUESTS_CALL];
}

/* The open one of this number, or NULL. */
struct request *requests_find(struct requests *r, uint32_t number);

/* It is answered, or was never sent: its place is free. Of any state but REQUEST_FAILED. */
void requests_close(struct requests *r, struct request *request);

/* An open one came to nothing: the call is done, any other waits in requests_next_failed(), first
 * failed first out. */
void requests_fail(struct requests *r, struct request *request, uint8_t code);

/* Is there one that failed? */
static inline bool requests_have_failed(const struct requests *r)
{
    return r->failed_first != REQUESTS_PLACES;
}

/* Take the next one that failed off the list and free its place; its values are copied out. False:
 * there is none. */
bool requests_next_failed(struct requests *r, struct request *out);

/* An answer came for `count` numbers from `first` on: fails those that are open; an OK ends only a
 * call that wants no reply. To that one alone, `count` is part of the answer. Returns whether there
 * was any of them. */
bool requests_answer(struct requests *r, uint32_t first, uint32_t count, uint8_t code);

/* Fail all open ones whose deadline is not after `now` with WIRE_C_TIMEOUT. True: there were some.
 * One comparison when none is due. */
bool requests_expire(struct requests *r, uint64_t now);

#endif
