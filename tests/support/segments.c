/* See segments.h. */
#include "tests/support/segments.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST = POOL_PAYLOADS / WIRE_SLOT_UNIT, STEP = SEGMENTS_PLACE / WIRE_SLOT_UNIT };

static void *page_aligned(size_t size)
{
    void *memory = aligned_alloc(4096, (size + 4095) / 4096 * 4096);

    if (memory != NULL)
        memset(memory, 0, size);
    return memory;
}

struct segments *segments_new(uint64_t nonce, uint64_t session, uint32_t max_buffers)
{
    struct segments *s = calloc(1, sizeof(*s));

    if (s == NULL)
        return NULL;
    s->nonce = nonce;
    s->linked = true;
    s->max_buffers = max_buffers;
    s->outbox = page_aligned(outbox_buffer_offset(max_buffers));
    s->pool = page_aligned(sizeof(*s->pool));
    if (s->outbox == NULL || s->pool == NULL)
        return segments_free(s);
    s->outbox->magic = OUTBOX_MAGIC;
    s->outbox->layout = OUTBOX_LAYOUT;
    s->outbox->nonce = session;
    s->outbox->n_buffers = max_buffers > 0;
    s->outbox->buffer_size = OUTBOX_BUFFER;
    s->pool->magic = POOL_MAGIC;
    s->pool->layout = POOL_LAYOUT;
    s->pool->nonce = nonce;
    return s;
}

void segments_grow(struct segments *s)
{
    if (s->outbox->n_buffers < s->max_buffers)
        s->outbox->n_buffers++;
}

void segments_end(struct segments *s)
{
    free(s->outbox);
    free(s->pool);
    s->outbox = NULL;
    s->pool = NULL;
}

struct segments *segments_free(struct segments *s)
{
    if (s != NULL)
        segments_end(s);
    free(s);
    return NULL;
}

static void wrong(struct segments *s, const char *what)
{
    if (s->fault == NULL)
        s->fault = what;
}

/* ---- The owner ---- */

bool segments_put(struct segments *s, uint64_t payload, uint32_t size, struct wire_slot *slot)
{
    uint32_t i = 0;

    while (i < SEGMENTS_PLACES && s->places[i].given)
        i++;
    if (i == SEGMENTS_PLACES)
        return false;
    s->places[i].given = true;
    s->places[i].payload = payload;
    s->places[i].generation++;
    s->n_given++;
    *slot = (struct wire_slot){
        .pool = s->nonce,
        .offset = FIRST + i * STEP,
        .size = size,
        .name = s->places[i].generation,
    };
    return true;
}

/* One entry of the ring. A generation that is over is a repeat; one that is still to come, or a
 * place that is none, nobody can have handed back. */
static uint32_t take_back(struct segments *s, uint64_t entry)
{
    uint32_t offset = (uint32_t)(entry >> 32);
    uint32_t generation = (uint32_t)entry;
    uint32_t i = (offset - FIRST) / STEP;

    if (offset < FIRST || (offset - FIRST) % STEP != 0 || i >= SEGMENTS_PLACES || generation == 0 ||
        generation > s->places[i].generation) {
        wrong(s, "a place was handed back that was never given out");
        return 0;
    }
    if (!s->places[i].given || generation != s->places[i].generation) {
        s->n_repeats++;
        return 0;
    }
    s->places[i].given = false;
    s->places[i].payload = 0;
    s->n_given--;
    return 1;
}

uint32_t segments_look(struct segments *s)
{
    uint64_t returned = atomic_load_explicit(&s->outbox->returned, memory_order_acquire);
    uint32_t n = 0;

    if (returned - s->n_looked > OUTBOX_RING)
        wrong(s, "more places were handed back at once than the ring holds");
    for (; s->n_looked != returned; s->n_looked++)
        n += take_back(s, atomic_load_explicit(&s->outbox->ring[s->n_looked % OUTBOX_RING],
                                               memory_order_relaxed));
    return n;
}

/* ---- The receiver ---- */

uint64_t segments_payload(struct segments *s, const struct wire_slot *slot)
{
    uint32_t i = (slot->offset - FIRST) / STEP;

    if (slot->offset < FIRST || (slot->offset - FIRST) % STEP != 0 || i >= SEGMENTS_PLACES ||
        slot->pool != s->nonce) {
        wrong(s, "a message names a place that is none");
        return 0;
    }
    if (!s->places[i].given)
        wrong(s, "a message names a place that was handed back");
    return s->places[i].payload;
}

void segments_release(struct segments *s, uint64_t name)
{
    uint64_t released = atomic_load_explicit(&s->pool->released, memory_order_relaxed);

    if (released - atomic_load(&s->outbox->collected) >= POOL_RING)
        wrong(s, "the release ring is full: it was not read, or too much was sent");
    atomic_store_explicit(&s->pool->ring[released % POOL_RING], name, memory_order_relaxed);
    atomic_store_explicit(&s->pool->released, released + 1, memory_order_release);
}

uint8_t *segments_unbox(struct segments *s, const struct wire_frame *boxed, uint64_t number)
{
    uint8_t *copy;

    if (boxed->buffer >= s->outbox->n_buffers || boxed->boxed_size > OUTBOX_BUFFER)
        return NULL;
    copy = malloc(boxed->boxed_size);
    if (copy != NULL)
        memcpy(copy, (uint8_t *)s->outbox + outbox_buffer_offset(boxed->buffer), boxed->boxed_size);
    if (number > atomic_load_explicit(&s->pool->taken[boxed->buffer], memory_order_relaxed))
        atomic_store_explicit(&s->pool->taken[boxed->buffer], number, memory_order_release);
    return copy;
}
