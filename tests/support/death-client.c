/* Some payloads lie in pools, most batches in outboxes, for the queues are narrow. */
#include "tests/support/death-client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/death-model.h"

enum { UNREAD_MAX = 250 };

/* ---- What they do ---- */

const struct row *client_row(struct scene_client *c)
{
    for (uint16_t i = 0; i < SCENE_ROWS; i++) {
        const struct row *row = engine_row(&scene.engine, i);

        if (row->state == ROW_LIVE && row->nonce == c->nonce && scene.queue_made[i]) {
            c->row = i;
            return row;
        }
    }
    return NULL;
}

static void send_frames(const uint8_t *frames, uint32_t size, int row, const uint8_t *token,
                        unsigned level)
{
    uint8_t bytes[WIRE_QUEUE_MAX];

    wire_put_envelope(bytes, (uint16_t)row, token, WIRE_ENVELOPE_SIZE + size);
    memcpy(bytes + WIRE_ENVELOPE_SIZE, frames, size);
    kernel_queue_send(&scene.request, bytes, WIRE_ENVELOPE_SIZE + size, level);
}

void client_register(struct scene_client *c)
{
    static const uint8_t no_token[WIRE_TOKEN_SIZE];
    unsigned i = (unsigned)(c - scene.clients);
    uint8_t frame[128];
    size_t size;

    memset(c, 0, sizeof(*c));
    c->nonce = scene_chance() | 1;
    c->alive = true;
    scene.incarnation[i]++;
    size = wire_put_register(frame, 0, c->nonce, 100 + i, 1, scene_pool_of(c), "", 0);
    send_frames(frame, (uint32_t)size, WIRE_NO_SESSION, no_token, WIRE_CONTROL);
}

/* A payload of some size, by the one word that it has here. */
static bool put_in_pool(struct scene_client *c, uint64_t payload, struct wire_slot *slot)
{
    struct segments *pool = scene_find_pool(scene_pool_of(c));

    scene_look(pool);
    return segments_put(pool, payload, 1 + scene_below(SEGMENTS_POOL / 8), slot);
}

static size_t put_publish(struct scene_client *c, uint8_t *out, uint8_t priority)
{
    bool retain = scene_below(8) == 0;
    bool forget = retain && scene_below(4) == 0;
    bool request = !retain && scene_below(4) == 0;
    bool confirm = !request && !forget && scene_below(3) == 0;
    bool hasty = request || (!retain && scene_below(6) == 0);
    const char *topic = scene_topics[scene_below(SCENE_TOPICS)];
    uint64_t expiry = hasty ? scene.now + (1 + scene_below(30)) * (SCENE_SECOND / 10) : 0;
    uint32_t id = ++scene.last_id;
    uint8_t payload[400] = {0};
    size_t size = forget ? 0 : sizeof(id) + scene_below(4) * scene_below(90);
    uint16_t flags = (uint16_t)((retain ? WIRE_F_RETAIN : 0) | (confirm ? WIRE_F_CONFIRM : 0));

    struct wire_slot slot;

    memcpy(payload, &id, sizeof(id));
    scene.requests[id] = (struct scene_request){.is_one = request,
                                                .asker = (int)(c - scene.clients),
                                                .incarnation = scene.incarnation[c - scene.clients],
                                                .expiry = expiry};
    if (!forget && scene_below(2) == 0 && put_in_pool(c, id, &slot))
        return wire_put_pooled(out, request ? WIRE_REQUEST : WIRE_PUBLISH, priority, flags,
                               request || confirm ? id : 0, expiry, topic, strlen(topic), &slot);
    return wire_put_message(out, request ? WIRE_REQUEST : WIRE_PUBLISH, priority, flags,
                            request || confirm ? id : 0, expiry, topic, strlen(topic), payload,
                            size);
}

static bool someone_is_behind(void)
{
    for (unsigned i = 0; i < SCENE_CLIENTS; i++) {
        if (scene.clients[i].alive && scene.clients[i].unread > UNREAD_MAX)
            return true;
    }
    return false;
}

void client_publish(struct scene_client *c, const struct row *row)
{
    uint8_t frames[4096];
    uint8_t priority = scene_priorities[scene_below(SCENE_LEVELS)];
    uint32_t size = 0;

    if (someone_is_behind() || scene.last_id + 8 > SCENE_IDS_MAX ||
        scene.request.n == scene.request.depth)
        return;
    for (unsigned n = 1 + scene_below(5); n > 0; n--)
        size += (uint32_t)put_publish(c, frames + size, priority);
    send_frames(frames, size, c->row, row->token, priority);
}

void client_subscribe(struct scene_client *c, const struct row *row)
{
    const char *topic = scene_topics[scene_below(SCENE_TOPICS)];
    uint8_t frame[64];
    size_t size = wire_put_text(frame, scene_below(4) > 0 ? WIRE_SUBSCRIBE : WIRE_UNSUBSCRIBE, 0, 0,
                                topic, strlen(topic));

    send_frames(frame, (uint32_t)size, c->row, row->token, WIRE_CONTROL);
}

void client_reply(struct scene_client *c, const struct row *row)
{
    unsigned i = c->n_held > 0 ? scene_below(c->n_held) : 0;
    struct wire_slot slot;
    uint8_t frame[64];
    size_t size;

    if (c->n_held == 0 || scene.requests[c->held_id[i]].expiry <= scene.now)
        return;
    if (scene_below(2) == 0 && put_in_pool(c, c->held_id[i], &slot))
        size = wire_put_pooled(frame, WIRE_REPLY, 8, 0, c->held[i], 0, "", 0, &slot);
    else
        size = wire_put_message(frame, WIRE_REPLY, 8, 0, c->held[i], 0, "", 0, "r", 1);
    send_frames(frame, (uint32_t)size, c->row, row->token, 8);
}

/* ---- What they read ---- */

/* What lies in a pool is read there until it is given back. */
static void begin_reading(struct scene_client *c, const struct wire_frame *f)
{
    struct scene_reading *reading = &c->readings[c->n_readings++];

    *reading = (struct scene_reading){.slot = f->slot, .payload = scene_payload_at(&f->slot)};
    if ((f->flags & WIRE_F_REPLY) != 0 && reading->payload != f->number)
        scene_wrong("the reply to %u says %u", (unsigned)f->number, (unsigned)reading->payload);
}

void client_release(struct scene_client *c, struct segments *mine)
{
    unsigned i = c->n_readings > 0 ? scene_below(c->n_readings) : 0;

    if (c->n_readings == 0)
        return;
    if (scene_payload_at(&c->readings[i].slot) != c->readings[i].payload)
        scene_wrong("a payload changed while client %d read it", (int)(c - scene.clients));
    switch (scene_below(8)) {
    case 0:
        segments_release(mine, scene_chance());
        break;
    case 1:
    case 2:
        segments_release(
            mine,
            c->old_names[scene_below(c->n_old < SCENE_OLD_NAMES ? c->n_old + 1 : SCENE_OLD_NAMES)]);
        break;
    case 3:
        segments_release(mine,
                         c->readings[scene_below(c->n_readings)].slot.name ^ 1u << scene_below(20));
        break;
    default:
        break;
    }
    c->old_names[c->n_old++ % SCENE_OLD_NAMES] = c->readings[i].slot.name;
    segments_release(mine, c->readings[i].slot.name);
    c->readings[i] = c->readings[--c->n_readings];
    if (mine->fault != NULL)
        scene_wrong("%s", mine->fault);
}

void client_waits(struct segments *mine)
{
    uint64_t returned = atomic_load(&mine->outbox->returned);

    atomic_store(&mine->pool->wants, scene_below(2) == 0 ? 0 : returned + 1 + scene_below(3));
}

void client_fetch(struct scene_client *c, const struct row *row)
{
    uint8_t frame[WIRE_FETCH_SIZE];
    size_t size;

    if (c->n_readings == 0 || scene.request.n == scene.request.depth)
        return;
    size = wire_put_fetch(frame, c->readings[scene_below(c->n_readings)].slot.name);
    send_frames(frame, (uint32_t)size, c->row, row->token, WIRE_CONTROL);
}

static void read_frames(struct scene_client *c, const uint8_t *bytes, size_t size)
{
    struct wire_frame f;

    for (size_t at = 0; at < size; at += f.size) {
        assert_int_equal(wire_get_delivery(bytes + at, size - at, &f), WIRE_OK);
        if (f.type == WIRE_WELCOME)
            c->registered = true;
        else if (f.type == WIRE_ANSWER)
            model_answer(c, &f);
        else if (f.type == WIRE_MESSAGE)
            model_delivery(c, &f);
        if (f.type == WIRE_MESSAGE && (f.flags & WIRE_F_POOLED) != 0)
            begin_reading(c, &f);
    }
}

/* The batch that a letter means, out of its box; what is known is not looked at. */
static void read_box(struct scene_client *c, const struct wire_frame *boxed,
                     const struct wire_batch *letter, bool known)
{
    uint8_t *bytes = segments_unbox(scene_find_pool(scene_pool_of(c)), boxed, letter->number);
    struct wire_batch batch;

    assert_non_null(bytes);
    scene_toll.boxed++;
    if (!known && (wire_get_batch(bytes, boxed->boxed_size, &batch) != WIRE_OK ||
                   batch.number != letter->number || batch.level != letter->level))
        scene_wrong("a buffer has not the batch that its letter says");
    else if (!known)
        read_frames(c, batch.frames, batch.size);
    free(bytes);
}

/* As the library does: a number that is not above the last one at that level was read before (K3).
 */
static void read_letter(struct scene_client *c)
{
    struct wire_batch batch;
    struct wire_frame f;
    bool known;

    assert_int_equal(wire_get_batch(c->letter.bytes, c->letter.size, &batch), WIRE_OK);
    assert_int_equal(batch.level, c->letter.level);
    known = batch.number <= c->seen[c->letter.level];
    if (!known) {
        c->seen[c->letter.level] = batch.number;
        c->missed = batch.missed;
    }
    if (batch.size == WIRE_BOXED_SIZE &&
        wire_get_delivery(batch.frames, batch.size, &f) == WIRE_OK && f.type == WIRE_BOXED)
        read_box(c, &f, &batch, known);
    else if (!known)
        read_frames(c, batch.frames, batch.size);
    c->letter.size = 0;
}

void client_read(struct scene_client *c)
{
    const struct segments *mine = scene_find_pool(scene_pool_of(c));

    if (mine == NULL || mine->outbox == NULL)
        c->letter.size = 0; /* nobody is there any more who took it */
    if (c->letter.size > 0) {
        read_letter(c);
        return;
    }
    if ((!c->lingers && client_row(c) == NULL) || c->n_readings > SCENE_READINGS_MANY ||
        !kernel_queue_receive(&scene.replies[c->row], c->letter.bytes, &c->letter.size,
                              &c->letter.level))
        return;
    if (scene_below(3) > 0)
        read_letter(c);
}

void client_check_readings(void)
{
    for (unsigned i = 0; i < SCENE_CLIENTS; i++) {
        const struct scene_client *c = &scene.clients[i];

        for (unsigned k = 0; k < c->n_readings; k++) {
            struct segments *pool = scene_find_pool(c->readings[k].slot.pool);

            if (pool != NULL && pool->outbox != NULL)
                scene_look(pool);
            if (scene_payload_at(&c->readings[k].slot) != c->readings[k].payload)
                scene_wrong("a payload changed while client %u read it", i);
        }
    }
}
