/* What it makes of a batch is what the library's codec makes of it. The kernel in between is a copy
 * into the inbox. */
#include "tests/support/partner.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "libclient/wire.h"

void partner_announce(struct partner *p, unsigned level, uint64_t number, uint32_t waiting)
{
    atomic_store(&p->row.level[level], (uint32_t)number);
    atomic_store(&p->row.tide, (uint64_t)waiting << 32 | (uint32_t)number);
}

void partner_begin(struct partner *p)
{
    p->size = WIRE_BATCH_SIZE;
}

void partner_add_message(struct partner *p, uint8_t priority, uint16_t flags, uint64_t number,
                         uint64_t expiry, const char *topic, const char *payload)
{
    p->size += (uint32_t)wire_put_message(p->bytes + p->size, WIRE_MESSAGE, priority, flags, number,
                                          expiry, topic, strlen(topic), payload, strlen(payload));
}

void partner_add_answer(struct partner *p, uint8_t code, uint32_t number, uint32_t count)
{
    p->size += (uint32_t)wire_put_answer(p->bytes + p->size, code, number, count);
}

int partner_arrive_as(struct partner *p, unsigned level, uint64_t number)
{
    struct inbox_batch *batch = inbox_blank(&p->session.inbox);

    wire_put_batch(p->bytes, PARTNER_ID, (uint8_t)level, number, p->grant, 0, p->size);
    memcpy(batch->bytes, p->bytes, p->size);
    return session_arrive(&p->session, batch, p->size, level);
}

int partner_arrive(struct partner *p, unsigned level)
{
    return partner_arrive_as(p, level, ++p->number);
}

void partner_arrive_message(struct partner *p, uint8_t priority, const char *payload)
{
    partner_begin(p);
    partner_add_message(p, priority, 0, 0, 0, "t", payload);
    assert_int_equal(partner_arrive(p, priority), SESSION_ARRIVED);
}

void partner_expect(struct partner *p, const char *payload)
{
    struct wire_frame frame;

    assert_int_equal(session_next(&p->session), SESSION_MESSAGE);
    assert_true(session_peek(&p->session, &frame));
    assert_int_equal(frame.payload_size, strlen(payload));
    assert_memory_equal(frame.payload, payload, strlen(payload));
    inbox_release(session_hand_out(&p->session, &frame));
}

void partner_welcome(struct partner *p, uint64_t nonce, uint16_t id)
{
    static const uint8_t token[WIRE_TOKEN_SIZE] = "0123456789abcde";
    struct wire_frame welcome = {.nonce = nonce,
                                 .token = token,
                                 .session = id,
                                 .depth = PARTNER_DEPTH,
                                 .width = PARTNER_WIDTH,
                                 .frame_max = 1200,
                                 .window = PARTNER_WINDOW,
                                 .pool_max = 1 << 20,
                                 .buffers = 4,
                                 .buffer_size = OUTBOX_BUFFER};

    partner_begin(p);
    p->size += (uint32_t)wire_put_welcome(p->bytes + p->size, &welcome);
    partner_arrive(p, WIRE_CONTROL);
}

static void *make_segment(size_t size)
{
    void *segment = aligned_alloc(4096, size);

    memset(segment, 0, size);
    return segment;
}

int partner_setup(void **state)
{
    struct partner *p = calloc(1, sizeof(*p));

    p->pool = make_segment(sizeof(*p->pool));
    p->outbox = make_segment(OUTBOX_COPIES);

    session_init(&p->session, PARTNER_NORMAL, PARTNER_URGENT, PARTNER_NONCE, PARTNER_DEPTH,
                 OUTBOX_BUFFER);
    p->grant = PARTNER_WINDOW;
    partner_welcome(p, PARTNER_NONCE, PARTNER_ID);
    session_attach(&p->session, &p->row, p->pool, p->outbox);
    partner_announce(p, WIRE_CONTROL, p->number, 0);
    *state = p;
    return 0;
}

int partner_teardown(void **state)
{
    struct partner *p = *state;

    session_deinit(&p->session);
    free(p->pool);
    free(p->outbox);
    free(p);
    return 0;
}
