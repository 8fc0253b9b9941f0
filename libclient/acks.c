/* Decisions about messages of groups, until they are sent. They go out in the order in which they
 * were made; those in a row that are acknowledged share a frame. */
#include "libclient/acks.h"

#include <string.h>

#include "libclient/wire.h"

bool acks_add(struct acks *a, uint64_t name, enum acks_decision decision, uint32_t delay)
{
    if (acks_full(a))
        return false;
    a->all[a->n++] = (struct ack){.name = name, .decision = (uint8_t)decision, .delay = delay};
    return true;
}

/* One ACK for those in a row from `first` on, as many as fit. Returns how many. */
static uint32_t put_row(const struct acks *a, uint32_t first, uint8_t *out, size_t room)
{
    uint64_t names[ACKS_MAX];
    uint32_t n = 0;

    while (first + n < a->n && a->all[first + n].decision == ACKS_DONE &&
           wire_acks_size(n + 1) <= room) {
        names[n] = a->all[first + n].name;
        n++;
    }
    if (n > 0)
        wire_put_acks(out, names, n);
    return n;
}

static uint32_t put_refusal(const struct ack *ack, uint8_t *out, size_t room)
{
    if (room < WIRE_NACK_SIZE)
        return 0;
    wire_put_nack(out, ack->decision == ACKS_DEAD ? WIRE_F_DEAD : 0, ack->name, ack->delay);
    return 1;
}

size_t acks_put(const struct acks *a, uint8_t *out, size_t room, uint32_t *n)
{
    size_t size = 0;
    uint32_t put;

    for (*n = 0; *n < a->n; *n += put) {
        put = a->all[*n].decision == ACKS_DONE ? put_row(a, *n, out + size, room - size)
                                               : put_refusal(&a->all[*n], out + size, room - size);
        if (put == 0)
            break;
        size += wire_frame_size(out + size);
    }
    return size;
}

void acks_drop(struct acks *a, uint32_t n, uint64_t now)
{
    a->n -= n;
    memmove(a->all, a->all + n, a->n * sizeof(a->all[0]));
    a->sent = now;
}
