/* See sim-user.h. */
#include "tests/support/sim-user.h"

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

static struct estate *estate_of(const struct user *u)
{
    return &world.estates[u->session];
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

static uint32_t row_state(const struct user *u)
{
    const struct board_row *row = board_row(world.board, u->core.id);

    return board_get(&row->identity.nonce) == u->core.nonce ? atomic_load(&row->identity.state)
                                                            : BOARD_ROW_FREE;
}

/* 0, or -ECONNRESET. */
static int check(const struct user *u)
{
    return u->core.ended != 0 ? -ECONNRESET : 0;
}

/* Is it gone without a word? */
static bool is_lost(const struct user *u)
{
    return u->core.ended != WIRE_ENDED && estate_of(u)->queue.n == 0 &&
           atomic_load(&world.board->state) == BOARD_RUNNING && row_state(u) == BOARD_ROW_FREE;
}

/* ---- Receiving ---- */

/* Receive one batch into the inbox. 0; -EAGAIN: none stands. */
static int fetch(struct user *u)
{
    struct estate *estate = estate_of(u);
    struct inbox_batch *batch = inbox_blank(&u->core.inbox);
    uint32_t size;
    unsigned level;
    bool fresh;
    int arrival;

    kernel_call();
    if (!kernel_queue_receive(&estate->queue, batch->bytes, &size, &level)) {
        inbox_release(batch);
        session_found_empty(&u->core);
        return -EAGAIN;
    }
    estate->edge = estate->edge || estate->armed;
    kernel_call(); /* the broker may do anything before a box is opened */
    fresh = model_arrived(&world.model, u->session, batch->bytes, size, level);
    arrival = session_arrive(&u->core, batch, size, level);
    world.n_repeats += !fresh;
    if (arrival != (fresh ? SESSION_ARRIVED : SESSION_REPEATED))
        world_wrong("the client's arrival is %d, the batch is %s", arrival,
                    fresh ? "new" : "a repeat");
    return 0;
}

static int drain(struct user *u)
{
    int r = 0;

    while (r == 0 && !inbox_crowded(&u->core.inbox))
        r = fetch(u);
    return r == -EAGAIN ? 0 : r;
}

/* ---- Sending ---- */

static struct kernel_queue *queue_for(const struct session_envelope *envelope)
{
    return envelope->level >= WIRE_URGENT ? &world.urgent : &world.request;
}

static bool has_place(const void *context)
{
    const struct user *u = context;

    return u->serves == 0 ? world.request.n < world.request.depth
                          : world.urgent.n < world.urgent.depth;
}

static int settle(struct user *u, uint64_t deadline);

/* Send a sealed envelope. While the queue stays full, what arrives is read (P5). 0; -EAGAIN,
 * -ETIMEDOUT, -ECONNRESET. */
static int send(struct user *u, struct session_envelope *envelope, uint64_t deadline)
{
    struct kernel_queue *q = queue_for(envelope);
    int r;

    session_seal(&u->core, envelope);
    for (;;) {
        uint64_t slice = deadline_in(SEND_SLICE_MS);

        kernel_call();
        if (kernel_queue_send(q, envelope->bytes, envelope->size, envelope->level))
            return 0;
        if (deadline == 0)
            return -EAGAIN;
        if (world.now >= deadline)
            return -ETIMEDOUT;
        settle(u, 0);
        u->serves = envelope->level >= WIRE_URGENT;
        task_sleep(has_place, slice < deadline ? slice : deadline);
        r = world.now >= slice ? drain(u) : 0;
        if (world.now >= slice)
            settle(u, 0);
        if (r == 0)
            r = check(u);
        if (r < 0)
            return r;
    }
}

/* What was decided of messages of groups. */
static int send_acks(struct user *u, uint64_t deadline)
{
    struct session_envelope envelope;
    int r = 0;

    while (u->core.acks.n > 0 && r == 0) {
        uint32_t n = session_put_acks(&u->core, &envelope);

        r = send(u, &envelope, deadline);
        if (r == 0)
            acks_drop(&u->core.acks, n, world.now);
    }
    return r;
}

static int settle(struct user *u, uint64_t deadline)
{
    int r;

    if (u->core.acks.n == 0 || u->settling)
        return 0;
    u->settling = true;
    r = send_acks(u, deadline);
    u->settling = false;
    return r;
}

static int send_gathered(struct user *u, uint64_t deadline)
{
    int r;

    if (!session_gathers(&u->core))
        return 0;
    r = send(u, &u->core.gathered, deadline);
    if (r == 0)
        session_clear(&u->core.gathered);
    return r;
}

static int flush(struct user *u, uint64_t deadline)
{
    int r;

    if (u->core.acks.n > 0) {
        r = send_gathered(u, 0);
        if (r == 0 || r == -EAGAIN)
            r = settle(u, deadline);
        if (r < 0)
            return r;
    }
    return send_gathered(u, deadline);
}

static void report(struct user *u)
{
    while (u->core.reports.n > 0) {
        uint32_t n = session_put_reports(&u->core);

        if (send(u, &u->core.alone, 0) < 0)
            break;
        reports_drop(&u->core.reports, n);
    }
}

static void nudge(struct user *u, uint32_t asleep)
{
    uint8_t bytes[SESSION_NUDGE_SIZE];

    u->core.untold = false;
    kernel_call();
    if (atomic_load(&world.board->asleep) < asleep)
        return;
    session_write_nudge(&u->core, bytes);
    kernel_call();
    kernel_queue_send(&world.urgent, bytes, sizeof(bytes), WIRE_CONTROL);
}

/* ---- Waiting ---- */

static bool pool_stirred(const struct user *u)
{
    uint64_t wants = atomic_load(&estate_of(u)->pool->wants);

    return wants != 0 && atomic_load(&estate_of(u)->outbox->returned) >= wants;
}

static bool has_mail(const void *context)
{
    return estate_of(context)->queue.n > 0;
}

/* Until something stands in the reply queue: 0; -ETIMEDOUT; -ECONNRESET. Who sleeps for long looks
 * now and then whether its session is there, and at nothing else. */
static int sleep_on_queue(struct user *u, uint64_t deadline)
{
    if (world.now >= deadline)
        return -ETIMEDOUT;
    report(u);
    if (u->core.untold)
        nudge(u, BOARD_LISTENING);
    kernel_call();
    if (!session_quiet(&u->core) || pool_stirred(u))
        return 0;
    u->until = deadline;
    while (!has_mail(u) && world.now < deadline) {
        uint64_t slice = world.now + SLEEP_SLICE_S * WORLD_SECOND;

        kernel_call();
        task_sleep(has_mail, slice < deadline ? slice : deadline);
        if (!has_mail(u) && world.now >= slice && is_lost(u))
            return -ECONNRESET;
    }
    return 0;
}

/* ---- The pool ---- */

static void collect(struct user *u)
{
    struct estate *estate = estate_of(u);
    uint64_t returned = atomic_load(&estate->outbox->returned);

    if (returned - u->returned > OUTBOX_RING)
        world_wrong("more places came back at once than the ring holds");
    for (; u->returned != returned; u->returned++) {
        uint64_t entry = atomic_load(&estate->outbox->ring[u->returned % OUTBOX_RING]);
        uint64_t offset = (entry >> 32) * WIRE_SLOT_UNIT;
        struct slots_place place;

        if (slots_find(&u->slots, offset, &place) && place.generation == (uint32_t)entry)
            memset((uint8_t *)estate->pool + offset, 0xee, place.size); /* nobody reads there now */
        slots_give(&u->slots, offset, (uint32_t)entry);
    }
}

static int pool_take(struct user *u, uint64_t size, struct slots_place *place)
{
    int r;

    if (!slots_at_hand(&u->slots, size))
        collect(u);
    r = slots_take(&u->slots, size, place);
    return r == 0 || r == -ENOMEM ? r : -EAGAIN;
}

static int pool_sleep(struct user *u, uint64_t deadline)
{
    struct pool_header *header = estate_of(u)->pool;
    uint64_t look = deadline_in(SHORT_MS);
    uint64_t until = look < deadline ? look : deadline;
    uint64_t half = u->slots.n_given / 2;
    int r;

    kernel_call();
    atomic_store(&header->wants, u->returned + (half > 0 ? half : 1));
    nudge(u, BOARD_ASLEEP);
    kernel_call();
    r = pool_stirred(u) ? 0 : sleep_on_queue(u, until);
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

static int look_for(struct user *u, struct need *need)
{
    kernel_call();
    if (!session_room(&u->core, need->message, need->confirm))
        return -EAGAIN;
    return need->size == 0 ? 0 : pool_take(u, need->size, &need->place);
}

static int sleep_for(struct user *u, const struct need *need, uint64_t deadline)
{
    return session_room(&u->core, need->message, need->confirm) ? pool_sleep(u, deadline)
                                                                : sleep_on_queue(u, deadline);
}

/* Its pool does not grow, so whatever it waits for but outcomes comes from others. */
static void say_that_it_waits(struct user *u, const struct need *need)
{
    kernel_call();
    if (!session_room(&u->core, need->message, false))
        session_wait(&u->core, false, u->returned);
    else if (session_room(&u->core, need->message, need->confirm))
        session_wait(&u->core, true, u->returned);
    else
        session_wait_over(&u->core);
}

/* Wait for it (P5). */
static int wait_for_room(struct user *u, struct need *need, uint64_t deadline)
{
    int r = flush(u, deadline);

    world.n_waits++;
    for (;;) {
        if (r == 0)
            r = drain(u);
        if (r == 0)
            r = check(u);
        if (r < 0)
            return r;
        r = look_for(u, need);
        if (r != -EAGAIN || deadline == 0)
            return r;
        if (inbox_crowded(&u->core.inbox) || session_is_stuck(&u->core))
            return -EDEADLK;
        if (deadline == TASK_FOREVER)
            say_that_it_waits(u, need);
        r = sleep_for(u, need, deadline);
    }
}

static int await_room(struct user *u, struct need *need, uint64_t deadline)
{
    int r = wait_for_room(u, need, deadline);

    session_wait_over(&u->core);
    return r;
}

static int put(struct user *u, const struct session_message *m, uint64_t deadline)
{
    struct session *s = &u->core;
    int where = session_place(s, m);
    int r = 0;

    if (where == SESSION_ALONE) {
        session_put_alone(s, m);
        r = send(u, &s->alone, deadline);
    } else {
        if (where == SESSION_FLUSH_FIRST)
            r = flush(u, deadline);
        if (r == 0)
            session_gather(s, m);
    }
    if (r == 0)
        session_count(s, m);
    return r;
}

/* Publish a message of this id; 0: an empty one. What is pooled is put there here. */
static int publish(struct user *u, struct session_message *m, uint32_t id, bool pooled,
                   uint64_t deadline)
{
    struct session *s = &u->core;
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
    r = look_for(u, &need);
    if (r == -EAGAIN)
        r = await_room(u, &need, deadline);
    if (r < 0)
        return r;
    if (pooled) {
        memcpy((uint8_t *)estate_of(u)->pool + need.place.offset, payload, m->size);
        m->slot = (struct wire_slot){.pool = world_pool_nonce(u->session),
                                     .offset = (uint32_t)(need.place.offset / WIRE_SLOT_UNIT),
                                     .size = (uint32_t)m->size,
                                     .name = need.place.generation};
    }
    if (need.confirm)
        m->number = confirms_wire(s->confirms.next);
    r = put(u, m, deadline);
    if (r == 0 && need.confirm)
        confirms_take(&s->confirms);
    if (r < 0 && pooled)
        slots_give(&u->slots, need.place.offset, need.place.generation);
    return r;
}

static struct session_message message_of(const struct script_step *order, uint8_t type)
{
    const char *topic =
        script_topics[order->topic % (type == WIRE_REQUEST ? SCRIPT_ASKED : SCRIPT_TOPICS)];
    uint32_t size = order->size;

    if (size < sizeof(uint32_t) &&
        (size > 0 || type == WIRE_REQUEST || order->topic % SCRIPT_TOPICS >= SCRIPT_FIRST_GROUPED))
        size = sizeof(uint32_t);
    return (struct session_message){
        .type = type,
        .priority = script_levels[order->level % SCRIPT_LEVELS],
        .topic = topic,
        .topic_size = (uint8_t)strlen(topic),
        .size = size,
    };
}

static int publish_one(struct user *u, const struct script_step *order)
{
    struct session_message m = message_of(order, WIRE_PUBLISH);
    uint32_t id = m.size == 0 ? 0 : model_new_id(&world.model);
    int r;

    if (m.size > 0 && id == 0)
        return -ENOSPC;
    if ((order->flags & SCRIPT_RETAIN) != 0)
        m.flags |= WIRE_F_RETAIN;
    if ((order->flags & SCRIPT_CONFIRM) != 0)
        m.flags |= WIRE_F_CONFIRM;
    if (order->ttl_ms != 0)
        m.expiry = deadline_in(order->ttl_ms);
    r = publish(u, &m, id, (order->flags & SCRIPT_POOLED) != 0,
                (order->flags & SCRIPT_NOWAIT) != 0 ? 0 : TASK_FOREVER);
    world_tell("client %u: publishes %u to %s at priority %u, %u bytes: %d", u->number + 1, id,
               m.topic, m.priority, (unsigned)m.size, r);
    return r;
}

static void do_publish(struct user *u, const struct script_step *order)
{
    bool batching = (order->flags & SCRIPT_BATCHED) != 0;
    int r = batching ? 0 : flush(u, TASK_FOREVER);

    if (r < 0)
        return;
    u->core.batching = batching;
    for (uint32_t n = order->messages; n > 0 && r == 0; n--)
        r = publish_one(u, order);
}

static int request_one(struct user *u, const struct script_step *order)
{
    struct session_message m = message_of(order, WIRE_REQUEST);
    uint64_t deadline = deadline_in(order->ttl_ms);
    uint32_t id = model_new_id(&world.model);
    uint32_t number;
    int r;

    m.expiry = deadline;
    number = requests_open(&u->core.requests, m.expiry, m.priority);
    if (id == 0 || number == 0)
        return -ENOSPC;
    m.number = number;
    model_asked(&world.model, u->session, id, number);
    r = publish(u, &m, id, (order->flags & SCRIPT_POOLED) != 0,
                (order->flags & SCRIPT_NOWAIT) != 0 ? 0 : deadline);
    if (r < 0) {
        requests_close(&u->core.requests, requests_find(&u->core.requests, number));
        model_not_asked(&world.model, u->session);
    }
    world_tell("client %u: asks %u of %s at priority %u: %d", u->number + 1, id, m.topic,
               m.priority, r);
    return r;
}

static void do_request(struct user *u, const struct script_step *order)
{
    int r = 0;

    for (uint32_t n = order->messages; n > 0 && r == 0; n--)
        r = request_one(u, order);
}

/* ---- Messages in the user's hands ---- */

static void check_hold(const struct user *u, const struct user_hold *hold)
{
    if (model_id_of(hold->payload, hold->size) != hold->id)
        world_wrong("a payload changed while client %u held it", u->number + 1);
}

static void let_go(struct user *u, uint32_t i)
{
    struct user_hold *hold = &u->holds[i];

    check_hold(u, hold);
    if (hold->name != 0) {
        kernel_call();
        session_release(&u->core, hold->name);
        if (u->core.inbox.map == 0)
            nudge(u, BOARD_LISTENING);
    }
    inbox_release(hold->batch);
    *hold = u->holds[--u->n_holds];
}

static void do_release(struct user *u, const struct script_step *order)
{
    for (uint32_t n = order->messages; n > 0 && u->n_holds > 0; n--)
        let_go(u, chance_below(&world.luck, u->n_holds));
}

static int reply_to(struct user *u, struct user_hold *hold, uint32_t size)
{
    struct session_message m = {
        .type = WIRE_REPLY,
        .topic = "",
        .size = size < sizeof(uint32_t) ? sizeof(uint32_t) : size,
        .priority = hold->priority,
        .number = hold->question,
    };
    int r;

    hold->question = 0;
    r = publish(u, &m, hold->id, m.size > WORLD_FRAME_MAX / 2, TASK_FOREVER);
    world_tell("client %u: replies to %u: %d", u->number + 1, hold->id, r);
    return r;
}

static void do_reply(struct user *u, const struct script_step *order)
{
    uint32_t n = order->messages;
    int r = 0;

    for (uint32_t i = 0; i < u->n_holds && n > 0 && r == 0; i++) {
        if (u->holds[i].question == 0)
            continue;
        r = reply_to(u, &u->holds[i], order->reply_size);
        n--;
    }
}

/* What is to become of messages of groups. */
static int decide(struct user *u, struct user_hold *hold, enum acks_decision decision,
                  uint32_t delay_ms)
{
    struct acks *acks = &u->core.acks;
    int r = acks_full(acks) ? flush(u, TASK_FOREVER) : 0;

    if (r < 0)
        return r;
    world_tell("client %u: decides %d on %u", u->number + 1, (int)decision, hold->id);
    acks_add(acks, hold->owed, decision, delay_ms);
    hold->owed = 0;
    if (acks_due(acks, world.now))
        flush(u, 0);
    return 0;
}

static void do_decide(struct user *u, const struct script_step *order, enum acks_decision decision)
{
    uint32_t n = order->messages;
    int r = 0;

    for (uint32_t i = 0; i < u->n_holds && n > 0 && r == 0; i++) {
        if (u->holds[i].owed == 0)
            continue;
        r = decide(u, &u->holds[i], decision, decision == ACKS_AGAIN ? order->delay_ms : 0);
        n--;
    }
}

/* ---- Receiving messages ---- */

/* Does this batch come before what is handed out at `priority`? What groups have for a session
 * stands in no tide while it waits: a batch of theirs counts once the tide has its number. */
static bool comes_first(const struct user *u, const struct kernel_packet *p, uint8_t priority)
{
    const struct board_row *row = board_row(world.board, u->core.id);
    struct wire_batch batch;
    struct wire_frame f;

    if (p->level <= priority || p->level >= WIRE_LEVELS ||
        wire_get_batch(p->bytes, p->size, &batch) != WIRE_OK || batch.size == 0 ||
        batch.number <= u->core.inbox.seen[p->level] ||
        wire_get_delivery(batch.frames, batch.size, &f) != WIRE_OK)
        return false;
    return (f.type == WIRE_MESSAGE && (f.flags & WIRE_F_ACK) == 0) ||
           (int32_t)((uint32_t)atomic_load(&row->tide) - (uint32_t)batch.number) >= 0;
}

/* Nothing higher may be there for it: neither in its queue, nor in what the broker has for it (P1).
 */
static void check_order(const struct user *u, uint8_t priority)
{
    const struct session *s = &u->core;
    const struct estate *estate = estate_of(u);
    const struct row *row = world_row(u->session); /* NULL: its board row is another's by now */
    uint64_t above = ~UINT64_C(0) << (priority + 1) & UINT32_MAX;

    if (row == NULL || s->tide.resigned || s->ended != 0 || inbox_full(&s->inbox))
        return;
    for (uint32_t i = 0; i < estate->queue.n; i++) {
        if (comes_first(u, &estate->queue.packets[i], priority))
            world_wrong("a message was handed out while a higher one stood in the queue");
    }
    if ((broker_waiting((uint32_t)(row - world.ledger->rows)) & above) != 0)
        world_wrong("a message was handed out while a higher one waited in the broker");
}

static bool hand_out(struct user *u)
{
    struct session *s = &u->core;
    struct user_hold *hold = &u->holds[u->n_holds];
    struct wire_frame f;
    bool pooled;

    if (!session_peek(s, &f))
        return false;
    if (f.expiry != 0 && f.expiry <= world.now) {
        model_expired(&world.model, u->session, &f);
        session_expire(s, &f);
        return false;
    }
    check_order(u, f.priority);
    pooled = (f.flags & WIRE_F_POOLED) != 0;
    *hold = (struct user_hold){
        .payload = pooled ? world_payload(&f.slot) : f.payload,
        .size = f.payload_size,
        .name = pooled ? f.slot.name : 0,
        .owed = (f.flags & WIRE_F_ACK) != 0 ? f.number : 0,
        .question = (f.flags & WIRE_F_REQUEST) != 0 ? f.number : 0,
        .priority = f.priority,
    };
    if (hold->payload == NULL) {
        world_wrong("the pool of a message is gone");
        return false;
    }
    hold->id = model_id_of(hold->payload, hold->size);
    world_tell("client %u: is handed %u at priority %u", u->number + 1, hold->id, f.priority);
    model_handed(&world.model, u->session, &f, hold->payload);
    hold->batch = session_hand_out(s, &f);
    u->n_holds++;
    return true;
}

static void fail_next(struct user *u)
{
    struct request request;

    requests_next_failed(&u->core.requests, &request);
    world_tell("client %u: a request came to nothing, code %u", u->number + 1, request.code);
    model_failed(&world.model, u->session, request.number, request.code);
}

static void linger(struct user *u)
{
    bool sleep;
    uint64_t rest = session_linger(&u->core, world.now, &sleep);

    if (rest == 0)
        return;
    kernel_call();
    if (!has_mail(u))
        task_sleep(has_mail, world.now + rest);
    if (has_mail(u))
        session_stirred(&u->core);
}

/* Hand out the next message. 0; -EAGAIN: there is none; -ECONNRESET. */
static int take(struct user *u)
{
    struct session *s = &u->core;
    int r;

    if (u->n_holds == USER_HOLDS)
        let_go(u, 0);
    for (;;) {
        kernel_call();
        switch ((enum session_step)session_next(s)) {
        case SESSION_MESSAGE:
            if (hand_out(u))
                return 0;
            break;
        case SESSION_FAILED:
            fail_next(u);
            return 0;
        case SESSION_FETCH:
            r = fetch(u);
            if (r < 0 && !session_has_something(s))
                return r;
            break;
        case SESSION_LINGER:
            linger(u);
            break;
        case SESSION_OVER:
            return -ECONNRESET;
        }
        if (world.claim != NULL)
            return -ECONNRESET;
    }
}

static bool requests_ran_out(struct user *u)
{
    struct requests *requests = &u->core.requests;

    return requests->n_open > 0 && requests_expire(requests, world.now);
}

/* One message, or none in time. */
static int receive(struct user *u, uint64_t deadline)
{
    const struct requests *requests = &u->core.requests;
    int r = take(u);

    while (r == -EAGAIN) {
        uint64_t until =
            requests->n_open > 0 && requests->earliest < deadline ? requests->earliest : deadline;

        r = flush(u, deadline);
        if (r == 0 && !requests_ran_out(u) && !session_has_something(&u->core))
            r = sleep_on_queue(u, until);
        if (r < 0 && r != -ETIMEDOUT)
            return r;
        r = take(u);
        if (r == -EAGAIN && world.now >= deadline)
            return -ETIMEDOUT;
    }
    return r;
}

static int do_receive(struct user *u, const struct script_step *order)
{
    int r = 0;

    for (uint32_t n = order->messages; n > 0 && r == 0; n--) {
        r = take(u);
        if (r == -EAGAIN && requests_ran_out(u))
            r = take(u);
    }
    if (r != -EAGAIN)
        return r;
    report(u);
    return flush(u, 0);
}

/* ---- Calls that wait for an answer ---- */

static int await_call(struct user *u, uint64_t deadline)
{
    struct session *s = &u->core;
    const struct request *call = requests_call(&s->requests);
    int r = 0;

    for (;;) {
        while (r == 0 && call->state == REQUEST_OPEN) {
            if (inbox_full(&s->inbox))
                return -EDEADLK;
            r = fetch(u);
        }
        if (call->state != REQUEST_OPEN)
            return 0;
        if (s->ended != 0)
            return -ECONNRESET;
        r = sleep_on_queue(u, deadline);
        if (r < 0)
            return r;
    }
}

/* Begin and end a call: in between the frame is put into `alone`. */
static int call_begin(struct user *u, uint32_t *number, uint64_t *deadline)
{
    int r;

    *deadline = deadline_in(ANSWER_MS);
    r = flush(u, *deadline);
    *number = requests_open_call(&u->core.requests, false);
    return r;
}

static void call_end(struct user *u, uint64_t deadline, const char *what)
{
    struct session *s = &u->core;
    int r = send(u, &s->alone, deadline);
    uint8_t code;

    if (r == 0)
        r = await_call(u, deadline);
    code = requests_call(&s->requests)->code;
    if (r == 0 && code != WIRE_C_OK && code != WIRE_C_NOT_SUBSCRIBED)
        world_wrong("a call was answered %u", code);
    session_end_call(s);
    world_tell("client %u: %s: %d, code %u", u->number + 1, what, r, code);
}

static void do_subscription(struct user *u, const struct script_step *order, uint8_t type)
{
    const char *filter = script_filters[order->filter % SCRIPT_FILTERS];
    uint64_t deadline;
    uint32_t number;

    if (call_begin(u, &number, &deadline) < 0)
        return;
    session_put_text(&u->core, type, 0, number, filter, strlen(filter));
    call_end(u, deadline, type == WIRE_SUBSCRIBE ? "subscribes" : "unsubscribes");
}

static void do_join(struct user *u, const struct script_step *order)
{
    uint32_t group = order->group % SCRIPT_GROUPS;
    const char name[] = {'g', (char)('0' + group), '\0'};
    const char *filter = script_topics[SCRIPT_FIRST_GROUPED + group];
    struct wire_frame join = {
        .text = filter,
        .text_size = (uint8_t)strlen(filter),
        .group = name,
        .group_size = (uint8_t)strlen(name),
        .prefetch = (uint16_t)(order->prefetch > 0 ? order->prefetch : 1),
    };
    uint64_t deadline;
    uint32_t number;

    if (call_begin(u, &number, &deadline) < 0)
        return;
    join.number = number;
    session_put_join(&u->core, &join);
    call_end(u, deadline, "joins");
}

static void do_leave(struct user *u, const struct script_step *order)
{
    const char name[] = {'g', (char)('0' + order->group % SCRIPT_GROUPS), '\0'};
    uint64_t deadline;
    uint32_t number;

    if (call_begin(u, &number, &deadline) < 0)
        return;
    session_put_text(&u->core, WIRE_UNSUBSCRIBE, WIRE_F_GROUP, number, name, strlen(name));
    call_end(u, deadline, "leaves");
}

static void do_will(struct user *u, const struct script_step *order)
{
    uint8_t payload[WORLD_FRAME_MAX];
    uint32_t size = order->will_size < sizeof(uint32_t) ? sizeof(uint32_t) : order->will_size;
    const char *topic = script_topics[order->topic % SCRIPT_WILLS];
    uint32_t id = model_new_id(&world.model);
    struct session_message m = {
        .type = WIRE_WILL,
        .priority = script_levels[order->level % SCRIPT_LEVELS],
        .topic = topic,
        .topic_size = (uint8_t)strlen(topic),
        .payload = payload,
        .size = size,
        .frame_size = (uint16_t)wire_message_size(strlen(topic), size),
    };
    uint64_t deadline;
    uint32_t number;

    if (id == 0 || call_begin(u, &number, &deadline) < 0)
        return;
    model_fill(payload, size, id);
    m.number = number;
    session_put_will(&u->core, &m);
    call_end(u, deadline, "leaves a will");
}

static void do_confirm(struct user *u, const struct script_step *order)
{
    struct session *s = &u->core;
    uint64_t deadline = deadline_in(order->timeout_ms);
    uint64_t number = s->confirms.next - 1;
    int r = 0;

    while (r == 0 && confirms_look(&s->confirms, number) == CONFIRMS_WAITING) {
        if (inbox_full(&s->inbox))
            return;
        r = fetch(u);
        if (r == 0)
            continue;
        r = check(u);
        if (r == 0)
            r = flush(u, deadline);
        if (r == 0)
            r = sleep_on_queue(u, deadline);
    }
}

static void do_bye(struct user *u)
{
    uint64_t deadline = deadline_in(1000);

    for (; u->n_holds > 0; u->n_holds--) /* who closes reads on in nothing */
        check_hold(u, &u->holds[u->n_holds - 1]);
    if (flush(u, deadline) == 0) {
        report(u);
        session_put_bye(&u->core);
        send(u, &u->core.alone, deadline);
    }
    u->over = true;
}

/* ---- A life ---- */

/* Found on the board: the answer to a registration. */
static bool is_posted(const void *context, uint32_t *code)
{
    const struct user *u = context;
    uint32_t n = atomic_load(&world.board->postings);

    for (uint32_t i = 0; i < BOARD_POSTINGS && i < n; i++) {
        const struct board_posting *p = &world.board->board_postings[(n - 1 - i) % BOARD_POSTINGS];

        if (board_get(&p->nonce) == u->core.nonce) {
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

static bool enroll(struct user *u)
{
    struct session *s = &u->core;
    const char name[] = {(char)('a' + u->number)};
    uint32_t code = WIRE_C_OK;

    for (;;) {
        session_put_register(s, 0, 100 + u->session, 1, world_pool_nonce(u->session), name, 1);
        s->id = WIRE_NO_SESSION;
        send(u, &s->alone, TASK_FOREVER);
        kernel_call();
        if (!is_posted(u, &code))
            task_sleep(posting_stirs, deadline_in(REGISTER_MS));
        if (is_posted(u, &code))
            break;
    }
    if (code != WIRE_C_OK) {
        world_tell("client %u: is refused, code %u", u->number + 1, code);
        return false;
    }
    while (!s->welcomed && world.claim == NULL) {
        if (fetch(u) < 0 && sleep_on_queue(u, TASK_FOREVER) < 0)
            return false;
    }
    return s->welcomed;
}

static void make_pool(struct user *u)
{
    struct estate *estate = estate_of(u);

    kernel_call();
    memset(estate->pool, 0, offsetof(struct pool_header, ring));
    estate->pool->magic = POOL_MAGIC;
    estate->pool->layout = POOL_LAYOUT;
    estate->pool->nonce = world_pool_nonce(u->session);
    slots_init(&u->slots, POOL_PAYLOADS, POOL_PAYLOADS + WORLD_PAYLOADS);
    u->returned = atomic_load(&estate->outbox->returned);
    estate->pool_named = true;
    kernel_call();
    if (row_state(u) > BOARD_ROW_LIVE || row_state(u) == BOARD_ROW_FREE)
        estate->pool_named = false;
    session_attach(&u->core, board_row(world.board, u->core.id), estate->pool, estate->outbox);
}

static bool has_order(const void *context)
{
    const struct user *u = context;

    return u->has_order || u->reading;
}

static void carry_out(struct user *u, const struct script_step *order)
{
    switch ((enum script_verb)order->verb) {
    case SCRIPT_subscribe:
        do_subscription(u, order, WIRE_SUBSCRIBE);
        break;
    case SCRIPT_unsubscribe:
        do_subscription(u, order, WIRE_UNSUBSCRIBE);
        break;
    case SCRIPT_publish:
        do_publish(u, order);
        break;
    case SCRIPT_request:
        do_request(u, order);
        break;
    case SCRIPT_reply:
        do_reply(u, order);
        break;
    case SCRIPT_receive:
        u->over = do_receive(u, order) == -ECONNRESET;
        break;
    case SCRIPT_await:
        u->over = receive(u, deadline_in(order->timeout_ms)) == -ECONNRESET;
        break;
    case SCRIPT_release:
        do_release(u, order);
        break;
    case SCRIPT_confirm:
        do_confirm(u, order);
        break;
    case SCRIPT_join:
        do_join(u, order);
        break;
    case SCRIPT_leave:
        do_leave(u, order);
        break;
    case SCRIPT_ack:
        do_decide(u, order, ACKS_DONE);
        break;
    case SCRIPT_nack:
        do_decide(u, order, ACKS_AGAIN);
        break;
    case SCRIPT_reject:
        do_decide(u, order, ACKS_DEAD);
        break;
    case SCRIPT_will:
        do_will(u, order);
        break;
    case SCRIPT_flush:
        flush(u, TASK_FOREVER);
        break;
    case SCRIPT_bye:
        do_bye(u);
        break;
    default:
        break;
    }
}

/* Whatever comes is read and given back. */
static void read_on(struct user *u)
{
    while (!u->over) {
        while (u->n_holds > 0) {
            if (u->holds[0].owed != 0)
                decide(u, &u->holds[0], ACKS_DONE, 0);
            let_go(u, 0);
        }
        u->over = receive(u, TASK_FOREVER) == -ECONNRESET;
    }
}

static void program(void *context)
{
    struct user *u = context;

    if (!enroll(u))
        return;
    make_pool(u);
    while (!u->over && (u->has_order || !u->reading)) {
        if (u->has_order)
            carry_out(u, &u->order);
        u->has_order = false;
        kernel_call();
        if (!has_order(u))
            task_sleep(has_order, TASK_FOREVER);
    }
    read_on(u);
    while (u->n_holds > 0)
        let_go(u, 0);
}

bool user_begin(struct user *u)
{
    struct estate *estate;

    if (world.n_estates == MODEL_SESSIONS)
        return false;
    u->session = world.n_estates++;
    estate = estate_of(u);
    estate->queue_named = estate->outbox_named = estate->pool_named = false;
    estate->alive = true;
    kernel_queue_make(&estate->queue, world.setting.depth, world.setting.width);
    model_register(&world.model, u->session, u->number);
    session_init(&u->core, WIRE_QUEUE_MAX, WORLD_URGENT_WIDTH, world_nonce(u->session),
                 world.setting.depth,
                 world.setting.buffers > 0 ? WIRE_BATCH_MAX : world.setting.width);
    u->slots = (struct slots){0};
    u->open = true;
    u->has_order = u->reading = u->over = u->settling = false;
    u->n_holds = 0;
    task_begin(&u->task, program, u);
    world_tell("client %u: begins, as session %u", u->number + 1, u->session);
    return true;
}

void user_end(struct user *u)
{
    task_kill(&u->task);
    if (!u->open)
        return;
    u->open = false;
    session_deinit(&u->core);
    slots_deinit(&u->slots);
}

void user_kill(struct user *u)
{
    for (uint32_t i = 0; i < u->n_holds; i++)
        check_hold(u, &u->holds[i]);
    user_end(u);
    u->n_holds = 0;
    estate_of(u)->alive = false;
    model_gone(&world.model, u->session);
}

bool user_order(struct user *u, const struct script_step *order)
{
    if (u->has_order || u->over)
        return false;
    u->order = *order;
    u->has_order = true;
    return true;
}

void user_read_on(struct user *u)
{
    u->reading = true;
}

bool user_is_at_rest(const struct user *u)
{
    return u->task.state == TASK_NONE ||
           (u->task.state == TASK_ASLEEP && u->task.stirs == has_mail && !u->has_order);
}

uint32_t user_places_out(struct user *u)
{
    collect(u);
    return u->slots.n_given;
}
