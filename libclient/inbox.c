/* The inbox: what was read from the reply queue and is not used up.
 *
 * Why a client holds batches at all: to keep the order of priorities up to the reader's hand (P1)
 * it must look behind the batch it is reading, and while it waits for room to publish it must go on
 * emptying its reply queue, or two clients that publish to each other stand still (P5). Both leave
 * batches of lower priorities lying here, in one first-in-first-out list a kernel priority.
 *
 * Buffers are made when first needed and never given back before the end, so a client in its stride
 * allocates nothing. How many there can be is bounded by inbox_full() and by the messages that the
 * user holds. */
#include "libclient/inbox.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void inbox_init(struct inbox *inbox, uint32_t depth, uint32_t width)
{
    memset(inbox, 0, sizeof(*inbox));
    inbox->depth = depth;
    inbox->width = width;
}

void inbox_deinit(struct inbox *inbox)
{
    while (inbox->made != NULL) {
        struct inbox_batch *batch = inbox->made;

        inbox->made = batch->made;
        free(batch);
    }
    inbox_init(inbox, inbox->depth, inbox->width);
}

struct inbox_batch *inbox_blank(struct inbox *inbox)
{
    struct inbox_batch *batch = inbox->free;

    if (batch != NULL) {
        inbox->free = batch->next;
    } else {
        batch = malloc(sizeof(*batch) + inbox->width);
        if (batch == NULL)
            return NULL;
        batch->inbox = inbox;
        batch->made = inbox->made;
        inbox->made = batch;
    }
    batch->next = NULL;
    batch->holds = 1;
    batch->at = 0;
    batch->end = 0;
    return batch;
}

bool inbox_fresh(struct inbox *inbox, unsigned level, uint64_t number)
{
    assert(level < INBOX_LEVELS);
    if (number <= inbox->seen[level])
        return false;
    inbox->seen[level] = number;
    return true;
}

void inbox_push(struct inbox *inbox, struct inbox_batch *batch, unsigned level, uint32_t at,
                uint32_t end)
{
    struct inbox_list *list = &inbox->levels[level];

    assert(level < INBOX_LEVELS && at < end && end <= inbox->width);
    batch->at = at;
    batch->end = end;
    batch->next = NULL;
    if (list->last != NULL)
        list->last->next = batch;
    else
        list->first = batch;
    list->last = batch;
    inbox->map |= UINT64_C(1) << level;
    inbox->n++;
    if (++list->n == inbox->depth)
        inbox->n_crowded++;
}

static void drop_first(struct inbox *inbox, unsigned level)
{
    struct inbox_list *list = &inbox->levels[level];
    struct inbox_batch *batch = list->first;

    list->first = batch->next;
    if (list->first == NULL) {
        list->last = NULL;
        inbox->map &= ~(UINT64_C(1) << level);
    }
    inbox->n--;
    if (list->n-- == inbox->depth)
        inbox->n_crowded--;
    inbox_release(batch);
}

void inbox_advance(struct inbox *inbox, unsigned level, uint32_t size)
{
    struct inbox_batch *batch = inbox->levels[level].first;

    assert(batch != NULL && batch->at <= batch->end);
    if (size < batch->end - batch->at)
        batch->at += size;
    else
        drop_first(inbox, level);
}

void inbox_release(struct inbox_batch *batch)
{
    assert(batch->holds > 0);
    if (--batch->holds > 0)
        return;
    batch->next = batch->inbox->free;
    batch->inbox->free = batch;
}
