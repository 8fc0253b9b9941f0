/* A session by hand: see raw.h. */
#include "tests/support/raw.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "libclient/process.h"
#include "tests/support/patience.h"

static uint64_t next_nonce(void)
{
    static uint32_t n;

    return (uint64_t)getpid() << 32 | ++n;
}

/* ---- Sending ---- */

static void send_to(const struct raw *r, const struct queue *q, const void *frame, size_t size,
                    unsigned level)
{
    uint8_t bytes[WIRE_QUEUE_MAX];

    assert_true(size <= sizeof(bytes) - WIRE_ENVELOPE_SIZE);
    wire_put_envelope(bytes, r->session, r->token, (uint32_t)(WIRE_ENVELOPE_SIZE + size));
    memcpy(bytes + WIRE_ENVELOPE_SIZE, frame, size);
    PATIENCE_UNTIL(queue_send(q, bytes, WIRE_ENVELOPE_SIZE + size, level) == 0);
}

void raw_control(struct raw *r, const void *frame, size_t size)
{
    send_to(r, &r->urgent, frame, size, WIRE_CONTROL);
}

void raw_message(struct raw *r, const void *frame, size_t size, unsigned priority)
{
    send_to(r, priority >= WIRE_URGENT ? &r->urgent : &r->normal, frame, size, priority);
}

void raw_publish(struct raw *r, const char *topic, uint32_t offset, uint32_t size,
                 uint32_t generation)
{
    struct wire_slot slot = {
        .pool = r->pool_nonce, .offset = offset, .size = size, .name = generation};
    uint8_t frame[512];

    raw_message(r, frame,
                wire_put_pooled(frame, WIRE_PUBLISH, 8, 0, 0, 0, topic, strlen(topic), &slot), 8);
}

/* ---- Receiving ---- */

/* The batch that a queue message is, or says where it lies. */
static bool read_batch(struct raw *r)
{
    ssize_t n = queue_receive(&r->reply, r->bytes, sizeof(r->bytes), NULL);
    struct wire_frame frame;

    if (n == -EAGAIN)
        return false;
    assert_true(n >= 0);
    assert_int_equal(wire_get_batch(r->bytes, (size_t)n, &r->batch), WIRE_OK);
    r->at = 0;
    r->boxed = false;
    if (r->batch.size == 0 ||
        wire_get_delivery(r->batch.frames, r->batch.size, &frame) != WIRE_OK ||
        frame.type != WIRE_BOXED)
        return true;
    assert_true(frame.buffer < raw_outbox(r)->n_buffers);
    assert_true(frame.boxed_size <= OUTBOX_BUFFER);
    memcpy(r->bytes, (const char *)r->outbox.base + outbox_buffer_offset(frame.buffer),
           frame.boxed_size);
    r->taken[frame.buffer] = r->batch.number;
    if (r->pool.base != NULL)
        atomic_store(&raw_pool(r)->taken[frame.buffer], r->batch.number);
    assert_int_equal(wire_get_batch(r->bytes, frame.boxed_size, &r->batch), WIRE_OK);
    r->boxed = true;
    r->n_boxed++;
    return true;
}

void raw_next(struct raw *r, struct wire_frame *frame)
{
    while (r->at == r->batch.size)
        PATIENCE_UNTIL(read_batch(r));
    assert_int_equal(wire_get_delivery(r->batch.frames + r->at, r->batch.size - r->at, frame),
                     WIRE_OK);
    r->at += frame->size;
}

void raw_next_of(struct raw *r, uint8_t type, struct wire_frame *frame)
{
    do
        raw_next(r, frame);
    while (frame->type != type);
}

void raw_subscribe(struct raw *r, const char *filter)
{
    struct wire_frame answer;
    uint8_t frame[512];

    raw_control(r, frame, wire_put_text(frame, WIRE_SUBSCRIBE, 0, 1, filter, strlen(filter)));
    raw_next_of(r, WIRE_ANSWER, &answer);
    assert_int_equal(answer.code, WIRE_C_OK);
}

void raw_release(struct raw *r, uint64_t name)
{
    struct pool_header *pool = raw_pool(r);
    uint64_t released = atomic_load(&pool->released);
    uint8_t frame[WIRE_HEAD_SIZE];

    atomic_store(&pool->ring[released % POOL_RING], name);
    atomic_store(&pool->released, released + 1);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&daemon_board(r->daemon)->asleep) == BOARD_LISTENING)
        raw_control(r, frame, wire_put_nudge(frame));
}

/* ---- Beginning and end ---- */

static bool is_posted(const struct raw *r)
{
    const struct board_header *board = daemon_board(r->daemon);

    for (unsigned i = 0; i < BOARD_POSTINGS; i++) {
        const struct board_posting *p = &board->board_postings[i];

        if (board_get(&p->nonce) == r->nonce)
            return atomic_load(&p->code) == WIRE_C_OK;
    }
    return false;
}

void raw_open(struct raw *r, const struct daemon *d, const char *name)
{
    uint8_t frame[256];
    char object[NAMES_MAX];
    uint64_t start;

    *r = (struct raw){
        .daemon = d,
        .nonce = next_nonce(),
        .pool_nonce = next_nonce(),
        .session = WIRE_NO_SESSION,
        .outbox = SEGMENT_CLOSED,
        .pool = SEGMENT_CLOSED,
    };
    names_request_queue(object, d->instance);
    assert_int_equal(queue_open(&r->normal, object, O_WRONLY | O_NONBLOCK), 0);
    names_urgent_queue(object, d->instance);
    assert_int_equal(queue_open(&r->urgent, object, O_WRONLY | O_NONBLOCK), 0);
    assert_int_equal(process_start((uint32_t)getpid(), &start), 0);
    raw_control(r, frame,
                wire_put_register(frame, 0, r->nonce, (uint32_t)getpid(), start, r->pool_nonce,
                                  name, strlen(name)));
    PATIENCE_UNTIL(is_posted(r));
    names_reply_queue(object, d->instance, r->nonce);
    assert_int_equal(queue_open(&r->reply, object, O_RDONLY | O_NONBLOCK), 0);
    names_outbox(object, d->instance, r->nonce);
    assert_int_equal(segment_open(&r->outbox, object, false), 0);
    raw_next_of(r, WIRE_WELCOME, &r->welcome);
    memcpy(r->token, r->welcome.token, sizeof(r->token));
    r->session = r->welcome.session;
}

struct pool_header *raw_pool(const struct raw *r)
{
    return r->pool.base;
}

const struct outbox_header *raw_outbox(const struct raw *r)
{
    return r->outbox.base;
}

void raw_make_pool(struct raw *r, size_t payloads)
{
    struct pool_header *header;
    char name[NAMES_MAX];

    names_pool(name, r->daemon->instance, r->pool_nonce);
    assert_int_equal(segment_create(&r->pool, name, POOL_PAYLOADS + payloads, 0600), 0);
    header = raw_pool(r);
    header->layout = POOL_LAYOUT;
    header->nonce = r->pool_nonce;
    for (uint32_t b = 0; b < OUTBOX_BUFFERS; b++)
        atomic_store(&header->taken[b], r->taken[b]);
    atomic_thread_fence(memory_order_release);
    header->magic = POOL_MAGIC;
}

void raw_close(struct raw *r, bool bye)
{
    uint8_t frame[WIRE_HEAD_SIZE];

    if (bye)
        send_to(r, &r->normal, frame, wire_put_bye(frame), 0);
    segment_close(&r->outbox);
    segment_close(&r->pool);
    queue_close(&r->normal);
    queue_close(&r->urgent);
    queue_close(&r->reply);
}
