/* A queue as the kernel has it, in plain memory: so many messages of so many bytes at most, the
 * highest priority first, first in first out within one. It outlives whoever dies. */
#ifndef MQBROKER_TESTS_SUPPORT_KERNEL_QUEUE_H
#define MQBROKER_TESTS_SUPPORT_KERNEL_QUEUE_H

#include <stdbool.h>
#include <stdint.h>

struct kernel_packet {
    uint32_t size;
    unsigned level;
    uint64_t order; /* of its arrival */
    uint8_t *bytes; /* `width` of the queue */
};

struct kernel_queue {
    uint32_t depth;
    uint32_t width;
    uint32_t n;
    uint64_t next_order;
    struct kernel_packet *packets; /* `depth` of them, the first n are there, in no order */
};

/* An empty queue, over what it was before: a zeroed one to begin with. False: no memory. */
bool kernel_queue_make(struct kernel_queue *q, uint32_t depth, uint32_t width);
void kernel_queue_free(struct kernel_queue *q);

/* mq_send and mq_receive without waiting. False: it is full; it is empty. What is sent fits; there
 * is room for `width` bytes where it is received. */
bool kernel_queue_send(struct kernel_queue *q, const void *bytes, uint32_t size, unsigned level);
bool kernel_queue_receive(struct kernel_queue *q, uint8_t *bytes, uint32_t *size, unsigned *level);

/* What would be received next; NULL: it is empty. */
const struct kernel_packet *kernel_queue_first(const struct kernel_queue *q);

#endif
