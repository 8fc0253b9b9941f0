/* Settling: a message of a group that nobody took at once may wait for long, and its payload is in
 * a pool that has so many places and no more. If it is small it is read from there and put into the
 * frame, as if it had come that way. A payload too large for a frame stays where it is.
 *
 * It is read by pread: a pool that was cut off is an error and no signal (S1). Then the message
 * stays as it is, and its receiver sees what is wrong. */
#include "broker/settle.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "broker/groups.h"
#include "broker/shell.h"
#include "libclient/names.h"

enum { AT_ONCE = 64 }; /* messages in a turn (P9) */

static int pool_of(struct broker *b, uint64_t nonce)
{
    struct settler *s = &b->settler;
    char name[NAMES_MAX];
    struct stat status;

    if (s->nonce == nonce)
        return s->fd;
    settle_close(b);
    names_pool(name, b->instance, nonce);
    s->fd = shm_open(name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
    s->nonce = nonce;
    if (s->fd >= 0 && (fstat(s->fd, &status) < 0 || !S_ISREG(status.st_mode) ||
                       status.st_nlink != 1 || status.st_uid != b->engine.uid)) {
        close(s->fd);
        s->fd = -1;
    }
    return s->fd;
}

/* Does it wait still, with its payload in a pool? */
static bool is_due(const struct engine *e, uint32_t slot, uint64_t age)
{
    const struct reference *r = engine_reference(e, slot);

    return r->age == age && ref_state(r) == REF_WAIT && ref_member(r) == REF_NOBODY &&
           !ref_on_disk(r) && cell_pooled(store_cell(&e->store, r->cell));
}

static void settle(struct broker *b, uint32_t slot, uint64_t age)
{
    static uint8_t before[WIRE_QUEUE_MAX], frame[WIRE_QUEUE_MAX], payload[WIRE_QUEUE_MAX];
    struct engine *e = &b->engine;
    const struct cell *c = engine_cell(e, slot);
    struct wire_frame f;
    size_t size;

    store_get(&e->store, engine_reference(e, slot)->cell, before);
    if (wire_get_delivery(before, c->size, &f) != WIRE_OK || f.slot.size > sizeof(payload))
        return;
    size = wire_message_size(f.text_size, f.slot.size);
    if (size > e->board->frame_max ||
        pread(pool_of(b, f.slot.pool), payload, f.slot.size,
              (off_t)f.slot.offset * WIRE_SLOT_UNIT) != (ssize_t)f.slot.size)
        return;
    wire_put_message(frame, WIRE_MESSAGE, f.priority, f.flags & (uint16_t)~WIRE_F_POOLED, f.number,
                     f.expiry, f.text, f.text_size, payload, f.slot.size);
    groups_bring_in(e, &(struct groups_payload){
                           .slot = slot, .age = age, .frame = frame, .size = (uint32_t)size});
}

void settle_step(struct broker *b)
{
    struct slots_due *due = &b->engine.settling;

    for (uint32_t n = 0; due->n > 0 && n < AT_ONCE; n++) {
        uint32_t slot = due->slots[--due->n].slot;

        if (is_due(&b->engine, slot, due->slots[due->n].age))
            settle(b, slot, due->slots[due->n].age);
    }
}

void settle_close(struct broker *b)
{
    if (b->settler.nonce != 0 && b->settler.fd >= 0)
        close(b->settler.fd);
    b->settler = (struct settler){0};
}
