/* Fuzz target: a client's protocol engine against a broker that sends anything, in any order,
 * between anything that a user does. Besides memory safety it holds that
 *
 *   - asking for the next message ends;
 *   - priorities handed out are those of the batches they came in, and what is handed out is whole;
 *   - every buffer is free again when everything was read and freed;
 *   - every payload in a pool that was shown is given back once, and none that the bytes did not
 *     name;
 *   - what expires is reported if it is the reader's own, and goes back if it is a group's. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/session.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { DEPTH = 4, WIDTH = 512, ID = 1, BUFFERS = 2 };

struct fuzz {
    const uint8_t *at;
    size_t left;
    struct session session;
    struct board_row row;
    struct pool_header *pool;
    uint8_t *outbox;
    uint64_t number;
    uint32_t request; /* the last one opened */
};

static void must(bool condition)
{
    if (!condition)
        abort();
}

static uint8_t next_byte(struct fuzz *f)
{
    if (f->left == 0)
        return 0;
    f->left--;
    return *f->at++;
}

/* A queue message: the header is the data's own, or one that lets the frames be looked at. */
static void arrive(struct fuzz *f, bool good_header)
{
    struct inbox_batch *batch;
    uint8_t level = next_byte(f) % (INBOX_LEVELS + 1);
    uint32_t size = next_byte(f) * 2u;

    if (size > f->left)
        size = (uint32_t)f->left;
    if (good_header && size < WIRE_BATCH_SIZE)
        size = WIRE_BATCH_SIZE <= f->left ? WIRE_BATCH_SIZE : 0;
    if (inbox_full(&f->session.inbox))
        return;
    batch = inbox_blank(&f->session.inbox);
    must(batch != NULL && size <= WIDTH);
    memset(batch->bytes, 0xee, WIDTH);
    memcpy(batch->bytes, f->at, size);
    f->at += size;
    f->left -= size;
    if (good_header && size >= WIRE_BATCH_SIZE) {
        f->number++;
        wire_put_batch(batch->bytes, ID, level, f->number, f->number, 0, size);
    }
    session_arrive(&f->session, batch, size, level);
}

/* The same, but it lies in the outbox; perhaps not where the queue message says. */
static void arrive_boxed(struct fuzz *f)
{
    struct inbox_batch *batch;
    uint8_t level = next_byte(f) % INBOX_LEVELS;
    uint8_t buffer = next_byte(f) % (BUFFERS + 1);
    uint32_t size = next_byte(f) * 2u, frames = WIRE_BATCH_SIZE;

    if (size < WIRE_BATCH_SIZE || size > f->left || inbox_full(&f->session.inbox))
        return;
    memcpy(f->outbox + outbox_buffer_offset(0), f->at, size);
    f->at += size;
    f->left -= size;
    f->number++;
    if (size % 8 != 0)
        wire_put_batch(f->outbox + outbox_buffer_offset(0), ID, level, f->number, 0, 0, size);
    batch = inbox_blank(&f->session.inbox);
    must(batch != NULL);
    frames += (uint32_t)wire_put_boxed(batch->bytes + frames, buffer, size);
    wire_put_batch(batch->bytes, ID, level, f->number, 0, 0, frames);
    session_arrive(&f->session, batch, frames, level);
}

static uint32_t n_reported(const struct fuzz *f)
{
    uint32_t n = 0;

    for (uint32_t i = 0; i < f->session.reports.n; i++)
        n += f->session.reports.topics[i].count;
    return n;
}

static void expire(struct fuzz *f, const struct wire_frame *frame)
{
    bool owed = (frame->flags & WIRE_F_ACK) != 0;
    uint32_t reported = n_reported(f), refused = f->session.acks.n;
    bool full = acks_full(&f->session.acks);

    if ((frame->flags & WIRE_F_POOLED) != 0 && frame->expiry == 0)
        session_lose(&f->session, frame);
    else
        session_expire(&f->session, frame);
    must(f->session.acks.n == refused + (owed && !full));
    must(!owed || n_reported(f) == reported);
}

/* Send some of what was decided. */
static void settle(struct fuzz *f)
{
    struct session_envelope out;
    uint32_t before = f->session.acks.n;
    uint32_t n = session_put_acks(&f->session, &out);

    must(out.size <= f->session.urgent_width && n <= before && (n > 0) == (before > 0));
    acks_drop(&f->session.acks, n, 0);
}

static void hand_out(struct fuzz *f, bool expired)
{
    struct wire_frame frame;
    uint64_t released;
    bool pooled;
    int best = inbox_best(&f->session.inbox);

    if (!session_peek(&f->session, &frame))
        return;
    must(frame.type == WIRE_MESSAGE && frame.priority == best);
    must(frame.text[frame.text_size] == '\0');
    pooled = (frame.flags & WIRE_F_POOLED) != 0;
    must(pooled || frame.payload + frame.payload_size == frame.bytes + frame.size);
    released = atomic_load(&f->pool->released);
    if (expired) {
        expire(f, &frame);
    } else {
        if ((frame.flags & WIRE_F_ACK) != 0)
            acks_add(&f->session.acks, frame.number, frame.tries % (ACKS_DEAD + 1), frame.tries);
        inbox_release(session_hand_out(&f->session, &frame));
        must(atomic_load(&f->pool->released) == released);
        if (pooled)
            session_release(&f->session, frame.slot.name);
    }
    must(atomic_load(&f->pool->released) == released + pooled);
    must(!pooled || atomic_load(&f->pool->ring[released % POOL_RING]) == frame.slot.name);
}

/* What a receive does, with a queue that is empty. */
static void read_on(struct fuzz *f, bool expired)
{
    bool sleeps;
    struct session *s = &f->session;
    struct request failed;

    for (int steps = 0;; steps++) {
        must(steps < 10);
        switch ((enum session_step)session_next(s)) {
        case SESSION_MESSAGE:
            hand_out(f, expired);
            return;
        case SESSION_FAILED:
            must(requests_next_failed(&s->requests, &failed));
            return;
        case SESSION_FETCH:
            session_found_empty(s);
            if (!session_has_something(s))
                return;
            break;
        case SESSION_LINGER:
            session_linger(s, 1, &sleeps);
            session_linger(s, UINT64_MAX, &sleeps);
            break;
        case SESSION_OVER:
            return;
        }
    }
}

static void ask(struct fuzz *f)
{
    struct requests *requests = &f->session.requests;

    switch (next_byte(f) % 7) {
    case 0:
        f->request = requests_open(requests, next_byte(f), 3);
        break;
    case 1:
        session_end_call(&f->session);
        f->request = requests_open_call(requests, true);
        break;
    case 2:
        session_end_call(&f->session);
        break;
    case 3:
        requests_expire(requests, next_byte(f));
        break;
    case 4:
        if (confirms_room(&f->session.confirms))
            confirms_take(&f->session.confirms);
        break;
    case 5:
        settle(f);
        break;
    default:
        if (session_put_reports(&f->session) > 0)
            reports_drop(&f->session.reports, 1);
        break;
    }
}

static void change_board(struct fuzz *f)
{
    uint8_t level = next_byte(f);

    atomic_store(&f->row.level[level % INBOX_LEVELS], next_byte(f));
    atomic_store(&f->row.tide, (uint64_t)next_byte(f) << (32 + level % 25) | level);
}

static void read_all(struct fuzz *f)
{
    struct session *s = &f->session;
    uint32_t n_made = 0, n_free = 0;

    session_end_call(s);
    while (s->inbox.map != 0)
        hand_out(f, false);
    for (struct inbox_batch *b = s->inbox.made; b != NULL; b = b->made)
        n_made++;
    for (struct inbox_batch *b = s->inbox.free; b != NULL; b = b->next)
        n_free++;
    must(n_made == n_free && s->inbox.n == 0 && s->inbox.n_crowded == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fuzz fuzz;
    static struct pool_header memory;
    static uint8_t outbox[OUTBOX_COPIES];
    struct pool_header *pool = &memory;
    struct fuzz *f = &fuzz;

    memset(f, 0, sizeof(*f));
    f->at = data;
    f->left = size;
    f->pool = pool;
    f->outbox = outbox;
    memset(pool, 0, sizeof(*pool));
    session_init(&f->session, 2048, 1280, 7, DEPTH, WIDTH);
    f->session.buffers = BUFFERS;
    f->session.buffer_size = OUTBOX_BUFFER;
    session_attach(&f->session, &f->row, pool, outbox);
    while (f->left > 0) {
        switch (next_byte(f) % 10) {
        case 0:
            arrive(f, false);
            break;
        case 8:
            arrive_boxed(f);
            break;
        case 9:
            fetches_at(&f->session.fetches, next_byte(f) % FETCHES_PLACES, next_byte(f))->state =
                FETCH_ASKED;
            break;
        case 1:
        case 2:
        case 3:
            arrive(f, true);
            break;
        case 4:
            read_on(f, false);
            break;
        case 5:
            read_on(f, true);
            break;
        case 6:
            ask(f);
            break;
        default:
            change_board(f);
            break;
        }
    }
    read_all(f);
    session_deinit(&f->session);
    return 0;
}
