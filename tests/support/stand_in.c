/* A stand-in for the broker. */
#include "tests/support/stand_in.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "libclient/process.h"

enum { LOOK_MS = 5 }; /* between looks at `quit` and `paused` */

static const uint8_t token[WIRE_TOKEN_SIZE] = "stand-in's token";

/* The thread cannot jump out of a test, as cmocka does. */
static void die(const char *what, int error)
{
    fprintf(stderr, "stand-in: %s: %s\n", what, strerror(error));
    abort();
}

/* ---- Batches ---- */

void stand_in_begin(struct stand_in *s)
{
    pthread_mutex_lock(&s->lock);
    s->batch_size = WIRE_BATCH_SIZE;
}

void stand_in_message(struct stand_in *s, uint8_t priority, uint16_t flags, uint64_t number,
                      uint64_t expiry, const char *topic, const char *payload)
{
    s->batch_size +=
        (uint32_t)wire_put_message(s->batch + s->batch_size, WIRE_MESSAGE, priority, flags, number,
                                   expiry, topic, strlen(topic), payload, strlen(payload));
}

void stand_in_delivery(struct stand_in *s, uint8_t priority, uint16_t flags, uint64_t name,
                       uint8_t tries, uint64_t expiry, const char *topic, const char *payload)
{
    uint8_t *frame = s->batch + s->batch_size;

    stand_in_message(s, priority, flags | WIRE_F_ACK, name, expiry, topic, payload);
    wire_patch_tries(frame, tries);
}

void stand_in_pooled(struct stand_in *s, uint8_t priority, uint16_t flags, uint64_t number,
                     const char *topic, const struct wire_slot *slot)
{
    s->batch_size += (uint32_t)wire_put_pooled(s->batch + s->batch_size, WIRE_MESSAGE, priority,
                                               flags, number, 0, topic, strlen(topic), slot);
}

void stand_in_lent(struct stand_in *s, uint8_t code, uint64_t name, uint64_t offset, uint64_t size)
{
    s->batch_size += (uint32_t)wire_put_lent(s->batch + s->batch_size, code, name, offset, size);
}

void stand_in_code(struct stand_in *s, uint8_t code, uint32_t number, uint32_t count)
{
    s->batch_size += (uint32_t)wire_put_answer(s->batch + s->batch_size, code, number, count);
}

void stand_in_end(struct stand_in *s, uint8_t type, uint8_t code)
{
    s->batch_size += (uint32_t)wire_put_end(s->batch + s->batch_size, type, code);
}

static void put_header(struct stand_in *s, unsigned level, uint64_t number)
{
    wire_put_batch(s->batch, STAND_IN_ROW, (uint8_t)level, number, s->grant, 0, s->batch_size);
}

static void send_batch(struct stand_in *s, unsigned level)
{
    struct pollfd writable = {.fd = s->reply.mqd, .events = POLLOUT};
    int r;

    put_header(s, level, ++s->number);
    while ((r = queue_send(&s->reply, s->batch, s->batch_size, level)) == -EAGAIN)
        if (poll(&writable, 1, 10000) != 1)
            die("a reply queue stays full", EAGAIN);
    if (r < 0)
        die("cannot send a batch", -r);
    atomic_store(&s->row->level[level], (uint32_t)s->number);
    atomic_store(&s->row->tide, (uint32_t)s->number);
}

void stand_in_send(struct stand_in *s, unsigned level)
{
    send_batch(s, level);
    pthread_mutex_unlock(&s->lock);
}

void stand_in_send_boxed(struct stand_in *s, unsigned level, uint32_t buffer)
{
    uint32_t size = s->batch_size;

    put_header(s, level, s->number + 1);
    memcpy((uint8_t *)s->outbox + outbox_buffer_offset(buffer), s->batch, size);
    atomic_store(&s->outbox->sent[buffer], s->number + 1);
    s->batch_size = WIRE_BATCH_SIZE;
    s->batch_size += (uint32_t)wire_put_boxed(s->batch + s->batch_size, buffer, size);
    stand_in_send(s, level);
}

const struct pool_header *stand_in_pool(struct stand_in *s)
{
    char name[NAMES_MAX];

    if (s->pool_segment.base == NULL) {
        names_pool(name, s->instance, s->pool_nonce);
        assert_int_equal(segment_open(&s->pool_segment, name, 0), 0);
    }
    return s->pool_segment.base;
}

void stand_in_hand_back(struct stand_in *s, const struct wire_slot *slot)
{
    uint64_t n = atomic_load(&s->outbox->returned);

    atomic_store(&s->outbox->ring[n % OUTBOX_RING], (uint64_t)slot->offset << 32 | slot->name);
    atomic_store(&s->outbox->returned, n + 1);
}

void stand_in_say(struct stand_in *s, uint8_t priority, const char *topic, const char *payload)
{
    stand_in_begin(s);
    stand_in_message(s, priority, 0, 0, 0, topic, payload);
    stand_in_send(s, priority);
}

void stand_in_answer(struct stand_in *s, const struct wire_frame *frame)
{
    switch (frame->type) {
    case WIRE_PUBLISH:
        if ((frame->flags & WIRE_F_CONFIRM) == 0)
            return;
        break;
    case WIRE_SUBSCRIBE:
    case WIRE_UNSUBSCRIBE:
    case WIRE_JOIN:
    case WIRE_WILL:
    case WIRE_ADMIN:
        break;
    default:
        return;
    }
    stand_in_begin(s);
    stand_in_code(s, WIRE_C_OK, (uint32_t)frame->number, 1);
    stand_in_send(s, WIRE_CONTROL);
}

/* ---- Registration ---- */

static void post(struct stand_in *s, uint64_t nonce, uint32_t code)
{
    uint32_t n = atomic_load(&s->board->postings);
    struct board_posting *p = &s->board->board_postings[n % BOARD_POSTINGS];

    atomic_store(&p->nonce, 0);
    atomic_store(&p->code, code);
    atomic_store(&p->number1, 11);
    atomic_store(&p->number2, 22);
    atomic_store(&p->nonce, nonce);
    atomic_store(&s->board->postings, n + 1);
    syscall(SYS_futex, &s->board->postings, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void make_outbox(struct stand_in *s, uint64_t nonce)
{
    char name[NAMES_MAX];

    names_outbox(name, s->instance, nonce);
    if (segment_create(&s->outbox_segment, name, OUTBOX_COPIES + STAND_IN_COPIES, 0600) < 0)
        die("cannot make an outbox", errno);
    s->outbox = s->outbox_segment.base;
    s->outbox->layout = OUTBOX_LAYOUT;
    s->outbox->nonce = nonce;
    s->outbox->n_buffers = STAND_IN_BUFFERS;
    s->outbox->buffer_size = OUTBOX_BUFFER;
    s->outbox->magic = OUTBOX_MAGIC;
}

static void welcome(struct stand_in *s, const struct wire_frame *frame)
{
    const struct wire_frame w = {.nonce = frame->nonce,
                                 .token = token,
                                 .session = STAND_IN_ROW,
                                 .depth = STAND_IN_DEPTH,
                                 .width = STAND_IN_WIDTH,
                                 .frame_max = STAND_IN_FRAME_MAX,
                                 .window = STAND_IN_WINDOW,
                                 .pool_max = STAND_IN_POOL_MAX,
                                 .buffers = STAND_IN_BUFFERS,
                                 .buffer_size = OUTBOX_BUFFER};
    struct board_client_info info = {.state = s->row_state != 0 ? s->row_state : BOARD_ROW_LIVE,
                                     .nonce = frame->nonce,
                                     .pid = frame->pid};
    char name[NAMES_MAX];

    names_reply_queue(name, s->instance, frame->nonce);
    if (queue_create(&s->reply, name, STAND_IN_DEPTH, STAND_IN_WIDTH, 0600) < 0)
        die("cannot make a reply queue", errno);
    make_outbox(s, frame->nonce);
    board_write_identity(s->row, &info);
    pthread_mutex_lock(&s->lock);
    s->nonce = frame->nonce;
    s->pool_nonce = frame->pool;
    s->batch_size = WIRE_BATCH_SIZE;
    s->batch_size += (uint32_t)wire_put_welcome(s->batch + s->batch_size, &w);
    send_batch(s, WIRE_CONTROL);
    pthread_mutex_unlock(&s->lock);
    post(s, frame->nonce, WIRE_C_OK);
}

static void take_register(struct stand_in *s, const struct wire_frame *frame)
{
    if (frame->nonce == s->nonce)
        return;
    if (atomic_load(&s->mute)) {
        atomic_fetch_add(&s->n_ignored, 1);
        return;
    }
    if (atomic_load(&s->refuse) != WIRE_C_OK && atomic_load(&s->refuse_times) > 0) {
        atomic_fetch_sub(&s->refuse_times, 1);
        post(s, frame->nonce, atomic_load(&s->refuse));
        return;
    }
    welcome(s, frame);
}

/* ---- The thread ---- */

static void keep(struct stand_in *s, const struct wire_frame *frame, bool urgent, unsigned level)
{
    struct stand_in_frame *kept;

    pthread_mutex_lock(&s->lock);
    if (s->n_frames < STAND_IN_KEPT) {
        kept = &s->frames[s->n_frames];
        kept->urgent = urgent;
        kept->level = level;
        kept->envelope = s->n_envelopes;
        memcpy(kept->bytes, frame->bytes,
               frame->size < sizeof(kept->bytes) ? frame->size : sizeof(kept->bytes));
        kept->frame = *frame;
        if (frame->size <= sizeof(kept->bytes))
            wire_get_request(kept->bytes, frame->size, &kept->frame);
    }
    s->n_frames++;
    pthread_cond_broadcast(&s->came);
    pthread_mutex_unlock(&s->lock);
}

static void take_envelope(struct stand_in *s, const uint8_t *bytes, size_t size, bool urgent,
                          unsigned level)
{
    struct wire_envelope envelope;
    struct wire_frame frame;

    if (wire_get_envelope(bytes, size, &envelope) != WIRE_OK)
        die("not an envelope", EBADMSG);
    s->n_envelopes++;
    while (envelope.size > 0) {
        if (wire_get_request(envelope.frames, envelope.size, &frame) != WIRE_OK)
            die("not a frame", EBADMSG);
        if (frame.type == WIRE_REGISTER) {
            take_register(s, &frame);
        } else {
            if (envelope.session != STAND_IN_ROW ||
                memcmp(envelope.token, token, sizeof(token)) != 0)
                die("not this session's token", EBADMSG);
            keep(s, &frame, urgent, level);
            if (!atomic_load(&s->mute))
                (s->answer != NULL ? s->answer : stand_in_answer)(s, &frame);
        }
        envelope.frames += frame.size;
        envelope.size -= frame.size;
    }
}

static bool take_one(struct stand_in *s, const struct queue *q)
{
    uint8_t bytes[WIRE_QUEUE_MAX];
    unsigned level;
    ssize_t n;

    if (q == &s->request && atomic_load(&s->deaf))
        return false;
    n = queue_receive(q, bytes, sizeof(bytes), &level);
    if (n >= 0)
        take_envelope(s, bytes, (size_t)n, q == &s->urgent, level);
    return n >= 0;
}

static void *run(void *argument)
{
    struct stand_in *s = argument;
    struct pollfd readable[] = {{.fd = s->urgent.mqd, .events = POLLIN},
                                {.fd = s->request.mqd, .events = POLLIN}};

    while (!atomic_load(&s->quit)) {
        if (atomic_load(&s->paused)) {
            poll(NULL, 0, LOOK_MS);
            continue;
        }
        poll(readable, 2, LOOK_MS);
        while (!atomic_load(&s->paused) && (take_one(s, &s->urgent) || take_one(s, &s->request))) {
        }
    }
    return NULL;
}

/* ---- Start and stop ---- */

static void make_board(struct stand_in *s)
{
    size_t size = board_size(4, 4, 0);
    char name[NAMES_MAX];
    uint64_t start;

    names_board(name, s->instance);
    assert_int_equal(segment_create(&s->segment, name, size, 0600), 0);
    assert_int_equal(segment_allocate(&s->segment, 0, size), 0);
    board_format(s->segment.base, size, 4, 4, 0);
    s->board = s->segment.base;
    s->board->frame_max = STAND_IN_FRAME_MAX;
    s->board->window = STAND_IN_WINDOW;
    s->row = board_row(s->board, STAND_IN_ROW);
    board_set(&s->row->grant, STAND_IN_WINDOW);
    s->grant = STAND_IN_WINDOW;
    atomic_store(&s->board->pid, (uint32_t)getpid());
    assert_int_equal(process_start((uint32_t)getpid(), &start), 0);
    board_set(&s->board->pid_start, start);
    atomic_store(&s->board->state, BOARD_RUNNING);
}

void stand_in_forget(struct stand_in *s)
{
    char name[NAMES_MAX];

    queue_close(&s->reply);
    segment_close(&s->outbox_segment);
    segment_close(&s->pool_segment);
    if (s->nonce == 0)
        return;
    names_reply_queue(name, s->instance, s->nonce);
    mq_unlink(name);
    names_outbox(name, s->instance, s->nonce);
    shm_unlink(name);
    names_pool(name, s->instance, s->pool_nonce);
    shm_unlink(name);
}

/* Everything that has a name. */
static void unlink_all(struct stand_in *s)
{
    char name[NAMES_MAX];

    names_request_queue(name, s->instance);
    mq_unlink(name);
    names_urgent_queue(name, s->instance);
    mq_unlink(name);
    names_board(name, s->instance);
    shm_unlink(name);
    stand_in_forget(s);
}

static void make_queue(struct stand_in *s, struct queue *q, const char *name, uint32_t width)
{
    int r = queue_create(q, name, STAND_IN_DEPTH, width, 0600);

    if (r < 0) {
        unlink_all(s);
        fail_msg("cannot make %s: %s; other queues of this user may take up RLIMIT_MSGQUEUE", name,
                 strerror(-r));
    }
}

struct stand_in *stand_in_start(void)
{
    static unsigned count;
    struct stand_in *s = calloc(1, sizeof(*s));
    char name[NAMES_MAX];

    s->frames = calloc(STAND_IN_KEPT, sizeof(*s->frames));
    snprintf(s->instance, sizeof(s->instance), "stand-in-%d-%u", (int)getpid(), count++);
    s->reply = QUEUE_CLOSED;
    s->outbox_segment = s->pool_segment = SEGMENT_CLOSED;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->came, NULL);
    make_board(s);
    names_request_queue(name, s->instance);
    make_queue(s, &s->request, name, STAND_IN_REQUEST_WIDTH);
    names_urgent_queue(name, s->instance);
    make_queue(s, &s->urgent, name, STAND_IN_WIDTH);
    assert_int_equal(pthread_create(&s->thread, NULL, run, s), 0);
    s->running = true;
    return s;
}

void stand_in_stop(struct stand_in *s)
{
    atomic_store(&s->quit, true);
    pthread_join(s->thread, NULL);
    unlink_all(s);
    queue_close(&s->request);
    queue_close(&s->urgent);
    segment_close(&s->segment);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->came);
    free(s->frames);
    free(s);
}

void stand_in_await(struct stand_in *s, uint32_t n)
{
    struct timespec limit;
    bool enough;

    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 10;
    pthread_mutex_lock(&s->lock);
    while (s->n_frames < n && pthread_cond_timedwait(&s->came, &s->lock, &limit) == 0) {
    }
    enough = s->n_frames >= n;
    pthread_mutex_unlock(&s->lock);
    if (!enough)
        fail_msg("stand-in: %u frames came, not %u", s->n_frames, n);
}
