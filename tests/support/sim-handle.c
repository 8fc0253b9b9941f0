/* See sim-handle.h. */
#include "tests/support/sim-handle.h"

#include <errno.h>
#include <string.h>

#include "tests/support/sim-broker.h"
#include "tests/support/sim-world.h"

enum {
    SEND_SLICE_MS = 100,
    SHORT_MS = 100,     /* between looks while it waits for its pool */
    SLEEP_SLICE_S = 10, /* between looks whether its session is there */
    ANSWER_MS = 5000,
    REGISTER_MS = 1000, /* until it registers again */
    POOLED_FROM = 160,
};

static struct estate *estate_of(const struct handle *h)
{
    return &world.estates[h->session];
}

static void kernel_call(void)
{
    task_point();
}

static uint64_t deadline_in(uint32_t ms)
{
    return world.now + ms * WORLD_MS;
}

/* ---- Is it over? ---- */

static uint32_t row_state(const struct handle *h)
{
    const struct board_row *row = board_row(world.board, h->core.id);

    return board_get(&row->identity.nonce) == h->core.nonce ? atomic_load(&row->identity.state)
                                                            : BOARD_ROW_FREE;
}

/* 0, or -ECONNRESET. */
static int check(const struct handle *h)
{
    return h->core.ended != 0 ? -ECONNRESET : 0;
}

/* Is it gone without a word? */
static bool is_lost(const struct handle *h)
{
    return h->core.ended != WIRE_ENDED && estate_of(h)->queue.n == 0 &&
           atomic_load(&world.board->state) == BOARD_RUNNING && row_state(h) == BOARD_ROW_FREE;
}

/* ---- Batches that come ---- */

/* Receive one batch into the inbox. 0; -EAGAIN: none stands. */
static int fetch(struct handle *h)
{
    struct estate *estate = estate_of(h);
    struct inbox_batch *batch = inbox_blank(&h->core.inbox);
    uint32_t size;
    unsigned level;
    bool fresh;
    int arrival;

    kernel_call();
    if (!kernel_queue_receive(&estate->queue, batch->bytes, &size, &level)) {
        inbox_release(batch);
        session_found_empty(&h->core);
        return -EAGAIN;
    }
    estate->edge = estate->edge || estate->armed;
    kernel_call(); /* the broker may do anything before a box is opened */
    fresh = model_arrived(&world.model, h->session, batch->bytes, size, level);
    arrival = session_arrive(&h->core, batch, size, level);
    world.n_repeats += !fresh;
    if (arrival != (fresh ? SESSION_ARRIVED : SESSION_REPEATED))
        world_wrong("the client's arrival is %d, the batch is %s", arrival,
                    fresh ? "new" : "a repeat");
    return 0;
}

static int drain(struct handle *h)
{
    int r = 0;

    while (r == 0 && !inbox_crowded(&h->core.inbox))
        r = fetch(h);
    return r == -EAGAIN ? 0 : r;
}

/* ---- Sending ---- */

static struct kernel_queue *queue_for(const struct session_envelope *envelope)
{
    return envelope->level >= WIRE_URGENT ? &world.urgent : &world.request;
}

static bool has_place(const void *context)
{
    const struct handle *h = context;

    return h->serves == 0 ? world.request.n < world.request.depth
                          : world.urgent.n < world.urgent.depth;
}

static int settle(struct handle *h, uint64_t deadline);

/* Send a sealed envelope. While the queue stays full, what arrives is read (P5). 0; -EAGAIN,
 * -ETIMEDOUT, -ECONNRESET. */
static int send(struct handle *h, struct session_envelope *envelope, uint64_t deadline)
{
    struct kernel_queue *q = queue_for(envelope);
    int r;

    session_seal(&h->core, envelope);
    for (;;) {
        uint64_t slice = deadline_in(SEND_SLICE_MS);

        kernel_call();
        if (kernel_queue_send(q, envelope->bytes, envelope->size, envelope->level))
            return 0;
        if (deadline == 0)
            return -EAGAIN;
        if (world.now >= deadline)
            return -ETIMEDOUT;
        settle(h, 0);
        h->serves = envelope->level >= WIRE_URGENT;
        task_sleep(has_place, slice < deadline ? slice : deadline);
        r = world.now >= slice ? drain(h) : 0;
        if (world.now >= slice)
            settle(h, 0);
        if (r == 0)
            r = check(h);
        if (r < 0)
            return r;
    }
}

/* What was decided of messages of groups. */
static int send_acks(struct handle *h, uint64_t deadline)
{
    struct session_envelope envelope;
    int r = 0;

    while (h->core.acks.n > 0 && r == 0) {
        uint32_t n = session_put_acks(&h->core, &envelope);

        r = send(h, &envelope, deadline);
        if (r == 0)
            acks_drop(&h->core.acks, n, world.now);
    }
    return r;
}

static int settle(struct handle *h, uint64_t deadline)
{
    int r;

    if (h->core.acks.n == 0 || h->settling)
        return 0;
    h->settling = true;
    r = send_acks(h, deadline);
    h->settling = false;
    return r;
}

static int send_gathered(struct handle *h, uint64_t deadline)
{
    int r;

    if (!session_gathers(&h->core))
        return 0;
    r = send(h, &h->core.gathered, deadline);
    if (r == 0)
        session_clear(&h->core.gathered);
    return r;
}

int handle_flush(struct handle *h, uint64_t deadline)
{
    int r;

    if (h->core.acks.n > 0) {
        r = send_gathered(h, 0);
        if (r == 0 || r == -EAGAIN)
            r = settle(h, deadline);
        if (r < 0)
            return r;
    }
    return send_gathered(h, deadline);
}

static void report(struct handle *h)
{
    while (h->core.reports.n > 0) {
        uint32_t n = session_put_reports(&h->core);

        if (send(h, &h->core.alone, 0) < 0)
            break;
        reports_drop(&h->core.reports, n);
    }
}

static void nudge(struct handle *h, uint32_t asleep)
{
    uint8_t bytes[SESSION_NUDGE_SIZE];

    h->core.untold = false;
    kernel_call();
    if (atomic_load(&world.board->asleep) < asleep)
        return;
    session_write_nudge(&h->core, bytes);
    kernel_call();
    kernel_queue_send(&world.urgent, bytes, sizeof(bytes), WIRE_CONTROL);
}

/* ---- Waiting ---- */

static bool pool_stirred(const struct handle *h)
{
    uint64_t wants = atomic_load(&estate_of(h)->pool->wants);

    return wants != 0 && atomic_load(&estate_of(h)->outbox->returned) >= wants;
}

bool handle_has_mail(const void *context)
{
    return estate_of(context)->queue.n > 0;
}

/* Until something stands in the reply queue: 0; -ETIMEDOUT; -ECONNRESET. Who sleeps for long looks
 * now and then whether its session is there, and at nothing else. */
static int sleep_on_queue(struct handle *h, uint64_t deadline)
{
    if (world.now >= deadline)
        return -ETIMEDOUT;
    report(h);
    if (h->core.untold)
        nudge(h, BOARD_LISTENING);
    kernel_call();
    if (!session_quiet(&h->core) || pool_stirred(h))
        return 0;
    while (!handle_has_mail(h) && world.now < deadline) {
        uint64_t slice = world.now + SLEEP_SLICE_S * WORLD_SECOND;

        kernel_call();
        task_sleep(handle_has_mail, slice < deadline ? slice : deadline);
        if (!handle_has_mail(h) && world.now >= slice && is_lost(h))
            return -ECONNRESET;
    }
    return 0;
}

/* ---- The pool ---- */

static void collect(struct handle *h)
{
    struct estate *estate = estate_of(h);
    uint64_t returned = atomic_load(&estate->outbox->returned);

    if (returned - h->returned > OUTBOX_RING)
        world_wrong("more places came back at once than the ring holds");
    for (; h->returned != returned; h->returned++) {
        uint64_t entry = atomic_load(&estate->outbox->ring[h->returned % OUTBOX_RING]);
        uint64_t offset = (entry >> 32) * WIRE_SLOT_UNIT;
        struct slots_place place;

        if (slots_find(&h->slots, offset, &place) && place.generation == (uint32_t)entry)
            memset((uint8_t *)estate->pool + offset, 0xee, place.size); /* nobody reads there now */
        slots_give(&h->slots, offset, (uint32_t)entry);
    }
}

static int pool_take(struct handle *h, uint64_t size, struct slots_place *place)
{
    int r;

    if (!slots_at_hand(&h->slots, size))
        collect(h);
    r = slots_take(&h->slots, size, place);
    return r == 0 || r == -ENOMEM ? r : -EAGAIN;
}

static int pool_sleep(struct handle *h, uint64_t deadline)
{
    struct pool_header *header = estate_of(h)->pool;
    uint64_t look = deadline_in(SHORT_MS);
    uint64_t until = look < deadline ? look : deadline;
    uint64_t half = h->slots.n_given / 2;
    int r;

    kernel_call();
    atomic_store(&header->wants, h->returned + (half > 0 ? half : 1));
    nudge(h, BOARD_ASLEEP);
    kernel_call();
    r = pool_stirred(h) ? 0 : sleep_on_queue(h, until);
    atomic_store(&header->wants, 0);
    return r == -ETIMEDOUT && until < deadline ? 0 : r;
}

/* ---- Publishing ---- */

struct need {
    const struct session_message *message;
    bool confirm;
    uint64_t size; /* of the pool */
    struct slots_place place;
};

static int look_for(struct handle *h, struct need *need)
{
    kernel_call();
    if (!session_room(&h->core, need->message, need->confirm))
        return -EAGAIN;
    return need->size == 0 ? 0 : pool_take(h, need->size, &need->place);
}

static int sleep_for(struct handle *h, const struct need *need, uint64_t deadline)
{
    return session_room(&h->core, need->message, need->confirm) ? pool_sleep(h, deadline)
                                                                : sleep_on_queue(h, deadline);
}

/* Its pool does not grow, so whatever it waits for but outcomes comes from others. */
static void say_that_it_waits(struct handle *h, const struct need *need)
{
    kernel_call();
    if (!session_room(&h->core, need->message, false))
        session_wait(&h->core, false, h->returned);
    else if (session_room(&h->core, need->message, need->confirm))
        session_wait(&h->core, true, h->returned);
    else
        session_wait_over(&h->core);
}

/* Wait for it (P5). */
static int wait_for_room(struct handle *h, struct need *need, uint64_t deadline)
{
    int r = handle_flush(h, deadline);

    world.n_waits++;
    for (;;) {
        if (r == 0)
            r = drain(h);
        if (r == 0)
            r = check(h);
        if (r < 0)
            return r;
        r = look_for(h, need);
        if (r != -EAGAIN || deadline == 0)
            return r;
        if (inbox_crowded(&h->core.inbox) || session_is_stuck(&h->core))
            return -EDEADLK;
        if (deadline == TASK_FOREVER)
            say_that_it_waits(h, need);
        r = sleep_for(h, need, deadline);
    }
}

static int await_room(struct handle *h, struct need *need, uint64_t deadline)
{
    int r = wait_for_room(h, need, deadline);

    session_wait_over(&h->core);
    return r;
}

static int put(struct handle *h, const struct session_message *m, uint64_t deadline)
{
    struct session *s = &h->core;
    int where = session_place(s, m);
    int r = 0;

    if (where == SESSION_ALONE) {
        session_put_alone(s, m);
        r = send(h, &s->alone, deadline);
    } else {
        if (where == SESSION_FLUSH_FIRST)
            r = handle_flush(h, deadline);
        if (r == 0)
            session_gather(s, m);
    }
    if (r == 0)
        session_count(s, m);
    return r;
}

int handle_publish(struct handle *h, struct session_message *m, uint32_t id, bool pooled,
                   uint64_t deadline)
{
    struct session *s = &h->core;
    struct need need = {.message = m, .confirm = (m->flags & WIRE_F_CONFIRM) != 0};
    uint8_t payload[WORLD_FRAME_MAX];
    int r;

    pooled = m->size > 0 && (pooled || (s->batching && m->size > POOLED_FROM));
    m->frame_size = (uint16_t)(pooled ? wire_pooled_size(m->topic_size)
                                      : wire_message_size(m->topic_size, m->size));
    need.size = pooled ? m->size : 0;
    if (m->size > 0)
        model_fill(payload, (uint32_t)m->size, id);
    m->payload = payload;
    r = look_for(h, &need);
    if (r == -EAGAIN)
        r = await_room(h, &need, deadline);
    if (r < 0)
        return r;
    if (pooled) {
        memcpy((uint8_t *)estate_of(h)->pool + need.place.offset, payload, m->size);
        m->slot = (struct wire_slot){.pool = world_pool_nonce(h->session),
                                     .offset = (uint32_t)(need.place.offset / WIRE_SLOT_UNIT),
                                     .size = (uint32_t)m->size,
                                     .name = need.place.generation};
    }
    if (need.confirm)
        m->number = confirms_wire(s->confirms.next);
    r = put(h, m, deadline);
    if (r == 0 && need.confirm)
        confirms_take(&s->confirms);
    if (r < 0 && pooled)
        slots_give(&h->slots, need.place.offset, need.place.generation);
    return r;
}

int handle_request(struct handle *h, struct session_message *m, uint32_t id, bool pooled, bool wait)
{
    struct requests *requests = &h->core.requests;
    uint32_t number = requests_open(requests, m->expiry, m->priority);
    int r;

    if (number == 0)
        return -ENOSPC;
    m->number = number;
    model_asked(&world.model, h->session, id, number);
    r = handle_publish(h, m, id, pooled, wait ? m->expiry : 0);
    if (r < 0) {
        requests_close(requests, requests_find(requests, number));
        model_not_asked(&world.model, h->session);
    }
    return r;
}

int handle_set_batching(struct handle *h, bool on)
{
    int r = on ? 0 : handle_flush(h, TASK_FOREVER);

    if (r == 0)
        h->core.batching = on;
    return r;
}

/* ---- Receiving messages ---- */

/* Does this batch come before what is handed out at `priority`? What groups have for a session
 * stands in no tide while it waits: a batch of theirs counts once the tide has its number. */
static bool comes_first(const struct handle *h, const struct kernel_packet *p, uint8_t priority)
{
    const struct board_row *row = board_row(world.board, h->core.id);
    struct wire_batch batch;
    struct wire_frame f;

    if (p->level <= priority || p->level >= WIRE_LEVELS ||
        wire_get_batch(p->bytes, p->size, &batch) != WIRE_OK || batch.size == 0 ||
        batch.number <= h->core.inbox.seen[p->level] ||
        wire_get_delivery(batch.frames, batch.size, &f) != WIRE_OK)
        return false;
    return (f.type == WIRE_MESSAGE && (f.flags & WIRE_F_ACK) == 0) ||
           (int32_t)((uint32_t)atomic_load(&row->tide) - (uint32_t)batch.number) >= 0;
}

/* Nothing higher may be there for it: neither in its queue, nor in what the broker has for it (P1).
 */
static void check_order(const struct handle *h, uint8_t priority)
{
    const struct session *s = &h->core;
    const struct estate *estate = estate_of(h);
    const struct row *row = world_row(h->session); /* NULL: its board row is another's by now */
    uint64_t above = ~UINT64_C(0) << (priority + 1) & UINT32_MAX;

    if (row == NULL || s->tide.resigned || s->ended != 0 || inbox_full(&s->inbox))
        return;
    for (uint32_t i = 0; i < estate->queue.n; i++) {
        if (comes_first(h, &estate->queue.packets[i], priority))
            world_wrong("a message was handed out while a higher one stood in the queue");
    }
    if ((broker_waiting((uint32_t)(row - world.ledger->rows)) & above) != 0)
        world_wrong("a message was handed out while a higher one waited in the broker");
}

static bool hand_out(struct handle *h, struct handle_message *message)
{
    struct session *s = &h->core;
    struct wire_frame f;
    bool pooled;

    if (!session_peek(s, &f))
        return false;
    if (f.expiry != 0 && f.expiry <= world.now) {
        model_expired(&world.model, h->session, &f);
        session_expire(s, &f);
        return false;
    }
    check_order(h, f.priority);
    pooled = (f.flags & WIRE_F_POOLED) != 0;
    *message = (struct handle_message){
        .payload = pooled ? world_payload(&f.slot) : f.payload,
        .size = f.payload_size,
        .name = pooled ? f.slot.name : 0,
        .owed = (f.flags & WIRE_F_ACK) != 0 ? f.number : 0,
        .question = (f.flags & WIRE_F_REQUEST) != 0 ? f.number : 0,
        .priority = f.priority,
    };
    if (message->payload == NULL) {
        world_wrong("the pool of a message is gone");
        return false;
    }
    message->id = model_id_of(message->payload, message->size);
    world_tell("client %u: is handed %u at priority %u", h->number + 1, message->id, f.priority);
    model_handed(&world.model, h->session, &f, message->payload);
    message->batch = session_hand_out(s, &f);
    return true;
}

static void fail_next(struct handle *h)
{
    struct request request;

    requests_next_failed(&h->core.requests, &request);
    world_tell("client %u: a request came to nothing, code %u", h->number + 1, request.code);
    model_failed(&world.model, h->session, request.number, request.code);
}

static void linger(struct handle *h)
{
    bool sleep;
    uint64_t rest = session_linger(&h->core, world.now, &sleep);

    if (rest == 0)
        return;
    kernel_call();
    if (!handle_has_mail(h))
        task_sleep(handle_has_mail, world.now + rest);
    if (handle_has_mail(h))
        session_stirred(&h->core);
}

/* The next message, or that a request came to nothing. 0; -EAGAIN: there is neither; -ECONNRESET.
 */
static int take(struct handle *h, struct handle_message *message)
{
    struct session *s = &h->core;
    int r;

    *message = (struct handle_message){0};
    for (;;) {
        kernel_call();
        switch ((enum session_step)session_next(s)) {
        case SESSION_MESSAGE:
            if (hand_out(h, message))
                return 0;
            break;
        case SESSION_FAILED:
            fail_next(h);
            return 0;
        case SESSION_FETCH:
            r = fetch(h);
            if (r < 0 && !session_has_something(s))
                return r;
            break;
        case SESSION_LINGER:
            linger(h);
            break;
        case SESSION_OVER:
            return -ECONNRESET;
        }
        if (world.claim != NULL)
            return -ECONNRESET;
    }
}

static bool requests_ran_out(struct handle *h)
{
    struct requests *requests = &h->core.requests;

    return requests->n_open > 0 && requests_expire(requests, world.now);
}

int handle_receive(struct handle *h, struct handle_message *message, uint64_t deadline)
{
    const struct requests *requests = &h->core.requests;
    int r = take(h, message);

    while (r == -EAGAIN) {
        uint64_t until =
            requests->n_open > 0 && requests->earliest < deadline ? requests->earliest : deadline;

        r = handle_flush(h, deadline);
        if (r == 0 && !requests_ran_out(h) && !session_has_something(&h->core))
            r = sleep_on_queue(h, until);
        if (r < 0 && r != -ETIMEDOUT)
            return r;
        r = take(h, message);
        if (r == -EAGAIN && world.now >= deadline)
            return -ETIMEDOUT;
    }
    return r;
}

int handle_look(struct handle *h, struct handle_message *message)
{
    int r = take(h, message);

    if (r == -EAGAIN && requests_ran_out(h))
        r = take(h, message);
    if (r != -EAGAIN)
        return r;
    report(h);
    r = handle_flush(h, 0);
    return r == 0 ? -EAGAIN : r;
}

/* ---- Messages that were handed out ---- */

void handle_give_back(struct handle *h, const struct handle_message *message)
{
    if (message->name != 0) {
        kernel_call();
        session_release(&h->core, message->name);
        if (h->core.inbox.map == 0)
            nudge(h, BOARD_LISTENING);
    }
    inbox_release(message->batch);
}

int handle_decide(struct handle *h, struct handle_message *message, enum acks_decision decision,
                  uint32_t delay_ms)
{
    struct acks *acks = &h->core.acks;
    int r = acks_full(acks) ? handle_flush(h, TASK_FOREVER) : 0;

    if (r < 0)
        return r;
    world_tell("client %u: decides %d on %u", h->number + 1, (int)decision, message->id);
    acks_add(acks, message->owed, decision, delay_ms);
    message->owed = 0;
    if (acks_due(acks, world.now))
        handle_flush(h, 0);
    return 0;
}

/* ---- Calls that wait for the broker ---- */

static int await_call(struct handle *h, uint64_t deadline)
{
    struct session *s = &h->core;
    const struct request *call = requests_call(&s->requests);
    int r = 0;

    for (;;) {
        while (r == 0 && call->state == REQUEST_OPEN) {
            if (inbox_full(&s->inbox))
                return -EDEADLK;
            r = fetch(h);
        }
        if (call->state != REQUEST_OPEN)
            return 0;
        if (s->ended != 0)
            return -ECONNRESET;
        r = sleep_on_queue(h, deadline);
        if (r < 0)
            return r;
    }
}

/* Begin and end a call: in between the frame is put into `alone`. */
static int call_begin(struct handle *h, uint32_t *number, uint64_t *deadline)
{
    int r;

    *deadline = deadline_in(ANSWER_MS);
    r = handle_flush(h, *deadline);
    *number = requests_open_call(&h->core.requests, false);
    return r;
}

static void call_end(struct handle *h, uint64_t deadline, const char *what)
{
    struct session *s = &h->core;
    int r = send(h, &s->alone, deadline);
    uint8_t code;

    if (r == 0)
        r = await_call(h, deadline);
    code = requests_call(&s->requests)->code;
    if (r == 0 && code != WIRE_C_OK && code != WIRE_C_NOT_SUBSCRIBED)
        world_wrong("a call was answered %u", code);
    session_end_call(s);
    world_tell("client %u: %s: %d, code %u", h->number + 1, what, r, code);
}

void handle_subscription(struct handle *h, uint8_t type, const char *filter)
{
    uint64_t deadline;
    uint32_t number;

    if (call_begin(h, &number, &deadline) < 0)
        return;
    session_put_text(&h->core, type, 0, number, filter, strlen(filter));
    call_end(h, deadline, type == WIRE_SUBSCRIBE ? "subscribes" : "unsubscribes");
}

void handle_join(struct handle *h, const char *group, const char *filter, uint16_t prefetch)
{
    struct wire_frame join = {
        .text = filter,
        .text_size = (uint8_t)strlen(filter),
        .group = group,
        .group_size = (uint8_t)strlen(group),
        .prefetch = prefetch,
    };
    uint64_t deadline;
    uint32_t number;

    if (call_begin(h, &number, &deadline) < 0)
        return;
    join.number = number;
    session_put_join(&h->core, &join);
    call_end(h, deadline, "joins");
}

void handle_leave(struct handle *h, const char *group)
{
    uint64_t deadline;
    uint32_t number;

    if (call_begin(h, &number, &deadline) < 0)
        return;
    session_put_text(&h->core, WIRE_UNSUBSCRIBE, WIRE_F_GROUP, number, group, strlen(group));
    call_end(h, deadline, "leaves");
}

void handle_will(struct handle *h, struct session_message *m, uint32_t id)
{
    uint8_t payload[WORLD_FRAME_MAX];
    uint64_t deadline;
    uint32_t number;

    if (call_begin(h, &number, &deadline) < 0)
        return;
    model_fill(payload, (uint32_t)m->size, id);
    m->type = WIRE_WILL;
    m->payload = payload;
    m->frame_size = (uint16_t)wire_message_size(m->topic_size, m->size);
    m->number = number;
    session_put_will(&h->core, m);
    call_end(h, deadline, "leaves a will");
}

void handle_await_confirm(struct handle *h, uint64_t deadline)
{
    struct session *s = &h->core;
    uint64_t number = s->confirms.next - 1;
    int r = 0;

    while (r == 0 && confirms_look(&s->confirms, number) == CONFIRMS_WAITING) {
        if (inbox_full(&s->inbox))
            return;
        r = fetch(h);
        if (r == 0)
            continue;
        r = check(h);
        if (r == 0)
            r = handle_flush(h, deadline);
        if (r == 0)
            r = sleep_on_queue(h, deadline);
    }
}

/* ---- Opening ---- */

/* Found on the board: the answer to a registration. */
static bool is_posted(const void *context, uint32_t *code)
{
    const struct handle *h = context;
    uint32_t n = atomic_load(&world.board->postings);

    for (uint32_t i = 0; i < BOARD_POSTINGS && i < n; i++) {
        const struct board_posting *p = &world.board->board_postings[(n - 1 - i) % BOARD_POSTINGS];

        if (board_get(&p->nonce) == h->core.nonce) {
            *code = atomic_load(&p->code);
            return true;
        }
    }
    return false;
}

static bool posting_stirs(const void *context)
{
    uint32_t code;

    return is_posted(context, &code);
}

/* Register, until there is an answer. */
static bool enroll(struct handle *h)
{
    struct session *s = &h->core;
    const char name[] = {(char)('a' + h->number)};
    uint32_t code = WIRE_C_OK;

    for (;;) {
        session_put_register(s, 0, 100 + h->session, 1, world_pool_nonce(h->session), name, 1);
        s->id = WIRE_NO_SESSION;
        send(h, &s->alone, TASK_FOREVER);
        kernel_call();
        if (!is_posted(h, &code))
            task_sleep(posting_stirs, deadline_in(REGISTER_MS));
        if (is_posted(h, &code))
            break;
    }
    if (code != WIRE_C_OK) {
        world_tell("client %u: is refused, code %u", h->number + 1, code);
        return false;
    }
    while (!s->welcomed && world.claim == NULL) {
        if (fetch(h) < 0 && sleep_on_queue(h, TASK_FOREVER) < 0)
            return false;
    }
    return s->welcomed;
}

static void make_pool(struct handle *h)
{
    struct estate *estate = estate_of(h);

    kernel_call();
    memset(estate->pool, 0, offsetof(struct pool_header, ring));
    estate->pool->magic = POOL_MAGIC;
    estate->pool->layout = POOL_LAYOUT;
    estate->pool->nonce = world_pool_nonce(h->session);
    slots_init(&h->slots, POOL_PAYLOADS, POOL_PAYLOADS + WORLD_PAYLOADS);
    h->returned = atomic_load(&estate->outbox->returned);
    estate->pool_named = true;
    kernel_call();
    if (row_state(h) > BOARD_ROW_LIVE || row_state(h) == BOARD_ROW_FREE)
        estate->pool_named = false;
    session_attach(&h->core, board_row(world.board, h->core.id), estate->pool, estate->outbox);
}

void handle_init(struct handle *h, uint32_t session)
{
    h->session = session;
    session_init(&h->core, WIRE_QUEUE_MAX, WORLD_URGENT_WIDTH, world_nonce(session),
                 world.setting.depth,
                 world.setting.buffers > 0 ? WIRE_BATCH_MAX : world.setting.width);
    h->slots = (struct slots){0};
    h->settling = false;
}

void handle_deinit(struct handle *h)
{
    session_deinit(&h->core);
    slots_deinit(&h->slots);
}

bool handle_open(struct handle *h)
{
    if (!enroll(h))
        return false;
    make_pool(h);
    return true;
}

void handle_close(struct handle *h)
{
    uint64_t deadline = deadline_in(1000);

    if (handle_flush(h, deadline) < 0)
        return;
    report(h);
    session_put_bye(&h->core);
    send(h, &h->core.alone, deadline);
}

uint32_t handle_places_out(struct handle *h)
{
    collect(h);
    return h->slots.n_given;
}
