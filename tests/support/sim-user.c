/* See sim-user.h. */
#include "tests/support/sim-user.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "tests/support/sim-world.h"

/* Whose handle this is: tasks know their user by it. */
static struct user *user_of(const void *handle)
{
    return (struct user *)((uintptr_t)handle - offsetof(struct user, handle));
}

static uint64_t deadline_in(uint32_t ms)
{
    return world.now + ms * WORLD_MS;
}

/* ---- Publishing ---- */

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
    r = handle_publish(&u->handle, &m, id, (order->flags & SCRIPT_POOLED) != 0,
                       (order->flags & SCRIPT_NOWAIT) != 0 ? 0 : TASK_FOREVER);
    world_tell("client %u: publishes %u to %s at priority %u, %u bytes: %d", u->handle.number + 1,
               id, m.topic, m.priority, (unsigned)m.size, r);
    return r;
}

static void do_publish(struct user *u, const struct script_step *order)
{
    int r = handle_set_batching(&u->handle, (order->flags & SCRIPT_BATCHED) != 0);

    for (uint32_t n = order->messages; n > 0 && r == 0; n--)
        r = publish_one(u, order);
}

static int request_one(struct user *u, const struct script_step *order)
{
    struct session_message m = message_of(order, WIRE_REQUEST);
    uint32_t id = model_new_id(&world.model);
    int r;

    if (id == 0)
        return -ENOSPC;
    m.expiry = deadline_in(order->ttl_ms);
    r = handle_request(&u->handle, &m, id, (order->flags & SCRIPT_POOLED) != 0,
                       (order->flags & SCRIPT_NOWAIT) == 0);
    world_tell("client %u: asks %u of %s at priority %u: %d", u->handle.number + 1, id, m.topic,
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

static void check_hold(const struct user *u, const struct handle_message *hold)
{
    if (model_id_of(hold->payload, hold->size) != hold->id)
        world_wrong("a payload changed while client %u held it", u->handle.number + 1);
}

static void let_go(struct user *u, uint32_t i)
{
    struct handle_message *hold = &u->holds[i];

    check_hold(u, hold);
    handle_give_back(&u->handle, hold);
    *hold = u->holds[--u->n_holds];
}

static void do_release(struct user *u, const struct script_step *order)
{
    for (uint32_t n = order->messages; n > 0 && u->n_holds > 0; n--)
        let_go(u, chance_below(&world.luck, u->n_holds));
}

static int reply_to(struct user *u, struct handle_message *hold, uint32_t size)
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
    r = handle_publish(&u->handle, &m, hold->id, m.size > WORLD_FRAME_MAX / 2, TASK_FOREVER);
    world_tell("client %u: replies to %u: %d", u->handle.number + 1, hold->id, r);
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
static void do_decide(struct user *u, const struct script_step *order, enum acks_decision decision)
{
    uint32_t n = order->messages;
    int r = 0;

    for (uint32_t i = 0; i < u->n_holds && n > 0 && r == 0; i++) {
        if (u->holds[i].owed == 0)
            continue;
        r = handle_decide(&u->handle, &u->holds[i], decision,
                          decision == ACKS_AGAIN ? order->delay_ms : 0);
        n--;
    }
}

/* ---- Receiving ---- */

/* Where the next message goes. */
static struct handle_message *place(struct user *u)
{
    if (u->n_holds == USER_HOLDS)
        let_go(u, 0);
    return &u->holds[u->n_holds];
}

static int look(struct user *u)
{
    struct handle_message *hold = place(u);
    int r = handle_look(&u->handle, hold);

    u->n_holds += r == 0 && hold->batch != NULL;
    return r;
}

/* One message, or none in time. */
static int receive(struct user *u, uint64_t deadline)
{
    struct handle_message *hold = place(u);
    int r = handle_receive(&u->handle, hold, deadline);

    u->n_holds += r == 0 && hold->batch != NULL;
    return r;
}

static int do_receive(struct user *u, const struct script_step *order)
{
    int r = 0;

    for (uint32_t n = order->messages; n > 0 && r == 0; n--)
        r = look(u);
    return r;
}

/* ---- What else it does ---- */

static void do_subscription(struct user *u, const struct script_step *order, uint8_t type)
{
    handle_subscription(&u->handle, type, script_filters[order->filter % SCRIPT_FILTERS]);
}

static void do_join(struct user *u, const struct script_step *order)
{
    uint32_t group = order->group % SCRIPT_GROUPS;
    const char name[] = {'g', (char)('0' + group), '\0'};

    handle_join(&u->handle, name, script_topics[SCRIPT_FIRST_GROUPED + group],
                (uint16_t)(order->prefetch > 0 ? order->prefetch : 1));
}

static void do_leave(struct user *u, const struct script_step *order)
{
    const char name[] = {'g', (char)('0' + order->group % SCRIPT_GROUPS), '\0'};

    handle_leave(&u->handle, name);
}

static void do_will(struct user *u, const struct script_step *order)
{
    const char *topic = script_topics[order->topic % SCRIPT_WILLS];
    uint32_t id = model_new_id(&world.model);
    struct session_message m = {
        .priority = script_levels[order->level % SCRIPT_LEVELS],
        .topic = topic,
        .topic_size = (uint8_t)strlen(topic),
        .size = order->will_size < sizeof(uint32_t) ? sizeof(uint32_t) : order->will_size,
    };

    if (id != 0)
        handle_will(&u->handle, &m, id);
}

static void do_bye(struct user *u)
{
    for (; u->n_holds > 0; u->n_holds--) /* who closes reads on in nothing */
        check_hold(u, &u->holds[u->n_holds - 1]);
    handle_close(&u->handle);
    u->over = true;
}

/* ---- A life ---- */

static bool has_order(const void *context)
{
    const struct user *u = user_of(context);

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
        handle_await_confirm(&u->handle, deadline_in(order->timeout_ms));
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
        handle_flush(&u->handle, TASK_FOREVER);
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
                handle_decide(&u->handle, &u->holds[0], ACKS_DONE, 0);
            let_go(u, 0);
        }
        u->over = receive(u, TASK_FOREVER) == -ECONNRESET;
    }
}

static void program(void *context)
{
    struct user *u = user_of(context);

    if (!handle_open(&u->handle))
        return;
    while (!u->over && (u->has_order || !u->reading)) {
        if (u->has_order)
            carry_out(u, &u->order);
        u->has_order = false;
        task_point();
        if (!has_order(&u->handle))
            task_sleep(has_order, TASK_FOREVER);
    }
    read_on(u);
    while (u->n_holds > 0)
        let_go(u, 0);
}

bool user_begin(struct user *u)
{
    uint32_t session = world.n_estates;
    struct estate *estate = &world.estates[session];

    if (session == MODEL_SESSIONS)
        return false;
    world.n_estates++;
    estate->queue_named = estate->outbox_named = estate->pool_named = false;
    estate->alive = true;
    kernel_queue_make(&estate->queue, world.setting.depth, world.setting.width);
    model_register(&world.model, session, u->handle.number);
    handle_init(&u->handle, session);
    u->open = true;
    u->has_order = u->reading = u->over = false;
    u->n_holds = 0;
    task_begin(&u->task, program, &u->handle);
    world_tell("client %u: begins, as session %u", u->handle.number + 1, session);
    return true;
}

void user_end(struct user *u)
{
    task_kill(&u->task);
    if (!u->open)
        return;
    u->open = false;
    handle_deinit(&u->handle);
}

void user_kill(struct user *u)
{
    for (uint32_t i = 0; i < u->n_holds; i++)
        check_hold(u, &u->holds[i]);
    user_end(u);
    u->n_holds = 0;
    world.estates[u->handle.session].alive = false;
    model_gone(&world.model, u->handle.session);
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
           (u->task.state == TASK_ASLEEP && u->task.stirs == handle_has_mail && !u->has_order);
}
