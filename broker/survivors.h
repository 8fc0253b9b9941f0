/* What lives on, when the records of a journal are read in the order in which they were written.
 * Pure. Floor 0. */
#ifndef MQBROKER_BROKER_SURVIVORS_H
#define MQBROKER_BROKER_SURVIVORS_H

#include <stddef.h>
#include <stdint.h>

#include "broker/record.h"

/* A thing, as its newest record has it. */
struct survivor {
    uint64_t age;
    uint64_t owner;
    uint32_t when;
    uint32_t location; /* of that record */
    uint32_t size;     /* of its bytes */
    uint8_t kind;
    uint8_t level;
    uint8_t flags;
    uint8_t tries;
};

struct survivors {
    struct survivor *list; /* after survivors_settle(): those that live, by age */
    size_t n;
    size_t capacity;
    struct survivors_event *fresh; /* read, but not settled yet */
    size_t n_fresh;
    uint64_t highest; /* of all ages that were named */
};

/* Deinit is fine twice. */
void survivors_init(struct survivors *s);
void survivors_deinit(struct survivors *s);

/* The next record. 0 or -ENOMEM. */
int survivors_record(struct survivors *s, const struct record *record, uint32_t location);

/* All records were read: `list` is what lives. 0 or -ENOMEM. */
int survivors_settle(struct survivors *s);

#endif
