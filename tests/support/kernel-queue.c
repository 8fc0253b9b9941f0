/* See kernel-queue.h. */
#include "tests/support/kernel-queue.h"

#include <stdlib.h>
#include <string.h>

void kernel_queue_free(struct kernel_queue *q)
{
    free(q->packets);
    *q = (struct kernel_queue){0};
}

bool kernel_queue_make(struct kernel_queue *q, uint32_t depth, uint32_t width)
{
    uint8_t *bytes;

    if (q->packets != NULL && q->depth == depth && q->width == width) {
        q->n = 0;
        q->next_order = 0;
        return true;
    }
    kernel_queue_free(q);
    q->packets = malloc(depth * (sizeof(*q->packets) + width));
    if (q->packets == NULL)
        return false;
    bytes = (uint8_t *)(q->packets + depth);
    for (uint32_t i = 0; i < depth; i++)
        q->packets[i] = (struct kernel_packet){.bytes = bytes + (size_t)i * width};
    q->depth = depth;
    q->width = width;
    return true;
}

bool kernel_queue_send(struct kernel_queue *q, const void *bytes, uint32_t size, unsigned level)
{
    struct kernel_packet *p;

    if (q->n == q->depth)
        return false;
    p = &q->packets[q->n++];
    memcpy(p->bytes, bytes, size);
    p->size = size;
    p->level = level;
    p->order = q->next_order++;
    return true;
}

static struct kernel_packet *first(const struct kernel_queue *q)
{
    struct kernel_packet *best = NULL;

    for (uint32_t i = 0; i < q->n; i++) {
        struct kernel_packet *p = &q->packets[i];

        if (best == NULL || p->level > best->level ||
            (p->level == best->level && p->order < best->order))
            best = p;
    }
    return best;
}

const struct kernel_packet *kernel_queue_first(const struct kernel_queue *q)
{
    return first(q);
}

bool kernel_queue_receive(struct kernel_queue *q, uint8_t *bytes, uint32_t *size, unsigned *level)
{
    struct kernel_packet *p = first(q);
    struct kernel_packet taken;

    if (p == NULL)
        return false;
    memcpy(bytes, p->bytes, p->size);
    *size = p->size;
    *level = p->level;
    taken = *p;
    *p = q->packets[--q->n];
    q->packets[q->n] = taken; /* its memory */
    return true;
}
