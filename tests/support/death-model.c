/* What is read must be the next of its (subscriber, priority), in the order in which the kernel
 * gave the broker its envelopes; nothing lost, nothing twice, nothing out of order. */
#include "tests/support/death-model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

/* ---- What must be read ---- */

static void expect(struct scene_client *c, uint8_t level, struct scene_expected what)
{
    struct scene_line *line = &c->lines[level];

    if (line->tail == SCENE_EXPECTED_MAX)
        fail_msg("the run is too long for the model");
    line->list[line->tail++] = what;
    c->unread++;
}

static unsigned topic_index(const char *text)
{
    for (unsigned i = 0; i < SCENE_TOPICS; i++) {
        if (strcmp(scene_topics[i], text) == 0)
            return i;
    }
    fail_msg("a topic that is none: %s", text);
    return 0;
}

static uint32_t payload_id(const struct wire_frame *f)
{
    uint32_t id = 0;

    if ((f->flags & WIRE_F_POOLED) != 0)
        return (uint32_t)scene_payload_at(&f->slot);
    if (f->payload_size >= sizeof(id))
        memcpy(&id, f->payload, sizeof(id));
    return id;
}

static void model_message(struct scene_client *from, const struct wire_frame *f)
{
    unsigned topic = topic_index(f->text);
    uint32_t id = payload_id(f);
    struct scene_expected what = {.id = id, .expiry = f->expiry};
    bool late = f->expiry != 0 && f->expiry <= scene.now;
    struct scene_request *request = f->type == WIRE_REQUEST ? &scene.requests[id] : NULL;

    if (request != NULL) {
        request->taken = true;
        request->pooled = (f->flags & WIRE_F_POOLED) != 0;
    }
    for (unsigned i = 0; i < SCENE_CLIENTS && !late; i++) {
        if (!scene.clients[i].alive || !scene.clients[i].subscribed[topic])
            continue;
        expect(&scene.clients[i], f->priority, what);
        if (request != NULL)
            request->owners |= 1u << i;
    }
    if (!late && (f->flags & WIRE_F_RETAIN) != 0) {
        scene.kept_id[topic] = f->payload_size == 0 ? 0 : id;
        scene.kept_level[topic] = f->priority;
        scene.kept_pool[topic] = (f->flags & WIRE_F_POOLED) != 0 ? f->slot.pool : 0;
    }
    if (f->flags & WIRE_F_CONFIRM)
        from->confirms_sent++;
}

static void model_subscribe(struct scene_client *c, const struct wire_frame *f)
{
    unsigned topic = topic_index(f->text);

    c->subscribed[topic] = f->type == WIRE_SUBSCRIBE;
    if (f->type == WIRE_SUBSCRIBE && scene.kept_id[topic] != 0)
        expect(c, scene.kept_level[topic],
               (struct scene_expected){.id = scene.kept_id[topic], .retained = true});
}

static void model_reply(struct scene_client *server, const struct wire_frame *f)
{
    for (unsigned i = 0; i < server->n_held; i++) {
        struct scene_request *request = &scene.requests[server->held_id[i]];

        if (server->held[i] != f->number)
            continue;
        server->held[i] = server->held[server->n_held - 1];
        server->held_id[i] = server->held_id[--server->n_held];
        request->replies++;
        if (scene.incarnation[request->asker] == request->incarnation &&
            scene.clients[request->asker].alive)
            expect(
                &scene.clients[request->asker], f->priority,
                (struct scene_expected){.id = (uint32_t)(request - scene.requests), .reply = true});
        return;
    }
}

void model_envelope(const uint8_t *bytes, uint32_t size)
{
    struct wire_envelope envelope;
    struct scene_client *c;
    struct wire_frame f;

    assert_int_equal(wire_get_envelope(bytes, size, &envelope), WIRE_OK);
    if (envelope.session == WIRE_NO_SESSION)
        return;
    c = scene_client_of_row(envelope.session);
    if (c == NULL || !c->alive)
        return;
    for (size_t at = 0; at < envelope.size; at += f.size) {
        assert_int_equal(wire_get_request(envelope.frames + at, envelope.size - at, &f), WIRE_OK);
        if (f.type == WIRE_PUBLISH || f.type == WIRE_REQUEST)
            model_message(c, &f);
        else if (f.type == WIRE_SUBSCRIBE || f.type == WIRE_UNSUBSCRIBE)
            model_subscribe(c, &f);
        else if (f.type == WIRE_REPLY)
            model_reply(c, &f);
    }
}

/* ---- What is read ---- */

void model_answer(struct scene_client *c, const struct wire_frame *f)
{
    struct scene_request *request = &scene.requests[f->number % SCENE_IDS_MAX];

    if (f->number == 0) /* to SUBSCRIBE and UNSUBSCRIBE */
        return;
    if (!request->is_one) {
        c->confirms_got += f->count;
        return;
    }
    if (scene.clients + request->asker != c ||
        scene.incarnation[c - scene.clients] != request->incarnation)
        scene_wrong("request %u is answered to another", (unsigned)f->number);
    if (++request->answers > 1)
        scene_wrong("request %u is answered twice", (unsigned)f->number);
    if (f->code == WIRE_C_TIMEOUT         ? request->expiry > scene.now
        : f->code == WIRE_C_NO_SUBSCRIBER ? request->owners != 0
        : f->code == WIRE_C_PEER_DIED     ? !request->server_died
                                          : true)
        scene_wrong("request %u is answered %u", (unsigned)f->number, f->code);
}

static void hold(struct scene_client *c, const struct wire_frame *f, uint32_t id)
{
    if (c->n_held == SCENE_HELD_MAX)
        return;
    c->held[c->n_held] = f->number;
    c->held_id[c->n_held++] = id;
}

void model_delivery(struct scene_client *c, const struct wire_frame *f)
{
    struct scene_line *line = &c->lines[f->priority];
    bool reply = (f->flags & WIRE_F_REPLY) != 0;
    bool retained = (f->flags & WIRE_F_RETAIN) != 0;
    uint32_t id = reply ? (uint32_t)f->number : payload_id(f);

    while (line->head < line->tail) {
        const struct scene_expected *next = &line->list[line->head++];

        c->unread--;
        if (next->id == id && next->reply == reply && next->retained == retained) {
            if (f->flags & WIRE_F_REQUEST)
                hold(c, f, id);
            return;
        }
        if (next->expiry == 0 || next->expiry > scene.now) {
            scene_wrong("client %d, priority %u: got %u, must get %u first",
                        (int)(c - scene.clients), f->priority, id, next->id);
            return;
        }
        c->skipped++;
    }
    scene_wrong("client %d, priority %u: got %u, which it must not get (again)",
                (int)(c - scene.clients), f->priority, id);
}
