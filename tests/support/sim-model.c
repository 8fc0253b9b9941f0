/* See sim-model.h. */
#include "tests/support/sim-model.h"

#include <string.h>

#include "libclient/requests.h"
#include "libclient/topic.h"
#include "tests/support/sim-broker.h"
#include "tests/support/sim-world.h"

/* ---- Payloads ---- */

void model_fill(uint8_t *payload, uint32_t size, uint32_t id)
{
    memset(payload, (int)(id * 37 & 0xff), size);
    memcpy(payload, &id, sizeof(id));
}

uint32_t model_id_of(const uint8_t *payload, uint32_t size)
{
    uint32_t id;

    if (size < sizeof(id))
        return 0;
    memcpy(&id, payload, sizeof(id));
    for (uint32_t i = sizeof(id); i < size; i++) {
        if (payload[i] != (id * 37 & 0xff))
            return 0;
    }
    return id;
}

static unsigned level_index(uint8_t priority)
{
    for (unsigned i = 0; i < SCRIPT_LEVELS; i++) {
        if (script_levels[i] == priority)
            return i;
    }
    world_wrong("a priority that nobody uses");
    return 0;
}

static unsigned topic_index(const char *text)
{
    for (unsigned i = 0; i < SCRIPT_TOPICS; i++) {
        if (strcmp(script_topics[i], text) == 0)
            return i;
    }
    world_wrong("a topic that nobody uses");
    return 0;
}

/* ---- Who is there ---- */

void model_begin(struct model *m)
{
    m->n_messages = 0;
    m->n_entries = 0;
    memset(m->sessions, 0, sizeof(m->sessions));
    memset(m->kept, 0, sizeof(m->kept));
    for (uint32_t i = 0; i < SCRIPT_GROUPS; i++) {
        m->crews[i].there = false;
        m->crews[i].members = m->crews[i].ever = m->crews[i].n = 0;
    }
    m->pending = false;
    m->n_taken = m->n_handed = 0;
}

void model_register(struct model *m, uint32_t session, uint32_t client)
{
    struct model_session *s = &m->sessions[session];

    s->there = true;
    s->name = client;
}

uint32_t model_new_id(struct model *m)
{
    if (m->n_messages + 1 == MODEL_MESSAGES)
        return 0;
    m->n_messages++;
    m->messages[m->n_messages] = (struct model_message){0};
    return m->n_messages;
}

void model_asked(struct model *m, uint32_t session, uint32_t id, uint32_t number)
{
    struct model_session *s = &m->sessions[session];

    m->messages[id].number = number;
    if (s->n_requests < MODEL_REQUESTS)
        s->requests[s->n_requests++] = id;
    else
        world_wrong("the run has too many requests for the model");
}

void model_not_asked(struct model *m, uint32_t session)
{
    m->sessions[session].n_requests--;
}

bool model_serves(const struct model *m, uint32_t session)
{
    const struct model_session *s = &m->sessions[session];
    const struct row *row = s->there ? world_row(session) : NULL;

    return row != NULL && row->state == ROW_LIVE && !s->ending;
}

/* … and is anybody there to read it? */
static bool is_there(const struct model *m, uint32_t session)
{
    return model_serves(m, session) && !m->sessions[session].gone;
}

static bool is_subscribed(const struct model_session *s, unsigned topic)
{
    const char *name = script_topics[topic];

    if (name[0] == '@')
        return name[1] == (char)('a' + s->name);
    for (unsigned i = 0; i < SCRIPT_FILTERS; i++) {
        if ((s->filters >> i & 1) != 0 &&
            topic_match(script_filters[i], strlen(script_filters[i]), name, strlen(name)))
            return true;
    }
    return false;
}

/* Its will is due, to those who are subscribed by now. */
static void make_will_due(struct model *m, uint32_t session)
{
    struct model_session *s = &m->sessions[session];

    s->is_due = true;
    s->will_for = 0;
    for (uint32_t i = 0; i < MODEL_SESSIONS && s->will != 0; i++) {
        if (i != session && is_there(m, i) &&
            is_subscribed(&m->sessions[i], m->messages[s->will].topic))
            s->will_for |= 1u << i;
    }
}

void model_gone(struct model *m, uint32_t session)
{
    struct model_session *s = &m->sessions[session];

    if (!s->is_due)
        make_will_due(m, session);
    s->gone = true;
}

/* ---- What is due ---- */

static void push(struct model *m, struct model_line *line, struct model_entry entry)
{
    uint32_t i = ++m->n_entries;

    if (i == MODEL_ENTRIES) {
        world_wrong("the run is too long for the model");
        return;
    }
    entry.next = 0;
    m->entries[i] = entry;
    if (line->last != 0)
        m->entries[line->last].next = i;
    else
        line->first = i;
    line->last = i;
}

static void pop(struct model *m, struct model_line *line)
{
    line->first = m->entries[line->first].next;
    if (line->first == 0)
        line->last = 0;
}

static void expect(struct model *m, uint32_t session, uint8_t priority, struct model_entry what)
{
    push(m, &m->sessions[session].due[level_index(priority)], what);
}

/* ---- What an envelope means ---- */

static uint32_t payload_id(const struct wire_frame *f)
{
    const uint8_t *payload = f->payload;

    if ((f->flags & WIRE_F_POOLED) != 0)
        payload = world_payload(&f->slot);
    return payload == NULL ? 0 : model_id_of(payload, f->payload_size);
}

static void note_confirm(struct model_session *s, const struct wire_frame *f, uint32_t id)
{
    if (f->number >= MODEL_CONFIRMS) {
        world_wrong("the run has too many confirms for the model");
        return;
    }
    s->confirms[f->number] = id;
    if (s->n_confirms < f->number)
        s->n_confirms = (uint32_t)f->number;
}

static void apply_message(struct model *m, uint32_t session, const struct wire_frame *f)
{
    struct model_session *s = &m->sessions[session];
    unsigned topic = topic_index(f->text);
    bool forgets = f->payload_size == 0;
    uint32_t id = forgets ? model_new_id(m) : payload_id(f);
    struct model_message *message = &m->messages[id];
    struct model_entry what = {.id = forgets ? 0 : id, .expiry = f->expiry};

    if (id == 0 || id > m->n_messages || message->type != 0) {
        world_wrong("an envelope has a payload that nobody sent, or sent before");
        return;
    }
    *message = (struct model_message){
        .told = message->told,
        .type = f->type,
        .session = (uint8_t)session,
        .topic = (uint8_t)topic,
        .level = f->priority,
        .pooled = (f->flags & WIRE_F_POOLED) != 0,
        .expiry = f->expiry,
        .number = (uint32_t)f->number,
    };
    m->n_taken++;
    s->received += wire_charge(f->size);
    if ((f->flags & WIRE_F_CONFIRM) != 0)
        note_confirm(s, f, id);
    if (f->expiry != 0 && f->expiry <= broker_now()) {
        message->code = WIRE_C_TIMEOUT;
        return;
    }
    for (uint32_t i = 0; i < MODEL_SESSIONS; i++) {
        if (!model_serves(m, i) || !is_subscribed(&m->sessions[i], topic))
            continue;
        message->owners |= 1u << i;
        if (!m->sessions[i].gone)
            expect(m, i, f->priority, what);
    }
    if ((f->flags & WIRE_F_RETAIN) != 0)
        m->kept[topic] = forgets ? 0 : id;
    if (topic >= SCRIPT_FIRST_GROUPED && m->crews[topic - SCRIPT_FIRST_GROUPED].there)
        crew_accept(&m->crews[topic - SCRIPT_FIRST_GROUPED], id, f->priority, f->expiry);
}

static void apply_subscribe(struct model *m, uint32_t session, const struct wire_frame *f)
{
    struct model_session *s = &m->sessions[session];
    unsigned filter = 0;

    while (filter < SCRIPT_FILTERS && strcmp(script_filters[filter], f->text) != 0)
        filter++;
    if (f->type == WIRE_UNSUBSCRIBE) {
        s->filters &= ~(1u << filter);
        for (uint32_t i = 0; i < MODEL_SESSIONS; i++)
            m->sessions[i].will_for &= ~(1u << session);
        return;
    }
    for (uint32_t i = 0; i < MODEL_SESSIONS; i++) { /* who is ended is told of it later */
        if (m->sessions[i].will != 0 && !m->sessions[i].is_due && !model_serves(m, i))
            make_will_due(m, i);
    }
    s->filters |= 1u << filter;
    for (unsigned topic = 0; topic < SCRIPT_TOPICS; topic++) {
        const char *name = script_topics[topic];

        if (m->kept[topic] != 0 && topic_match(f->text, f->text_size, name, strlen(name)))
            expect(m, session, m->messages[m->kept[topic]].level,
                   (struct model_entry){.id = m->kept[topic], .retained = true});
    }
}

/* Whether the question was still open is known exactly only if its time has not run out. */
static void apply_reply(struct model *m, uint32_t session, const struct wire_frame *f)
{
    struct model_session *s = &m->sessions[session];

    s->received += wire_charge(f->size);
    for (uint32_t i = 0; i < s->n_asked; i++) {
        uint32_t id = s->asked[i].id;
        struct model_message *question = &m->messages[id];

        if (s->asked[i].name != f->number)
            continue;
        s->asked[i] = s->asked[--s->n_asked];
        question->replies++;
        if (is_there(m, question->session))
            expect(m, question->session, f->priority,
                   (struct model_entry){
                       .id = id, .reply = true, .optional = question->expiry <= broker_now()});
        return;
    }
}

static struct crew *crew_named(struct model *m, const char *name)
{
    return &m->crews[(unsigned)(name[1] - '0') % SCRIPT_GROUPS];
}

static void apply_join(struct model *m, uint32_t session, const struct wire_frame *f)
{
    crew_join(crew_named(m, f->group), session, f->prefetch);
}

static void apply_decisions(struct model *m, uint32_t session, const struct wire_frame *f)
{
    uint32_t n = f->type == WIRE_ACK ? f->n_names : 1;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t name =
            f->type == WIRE_ACK ? wire_load64(f->names + i * sizeof(uint64_t)) : f->number;

        for (uint32_t k = 0; k < SCRIPT_GROUPS; k++) {
            if (crew_decide(&m->crews[k], session, f, name))
                break;
        }
    }
}

static void apply_will(struct model *m, uint32_t session, const struct wire_frame *f)
{
    uint32_t id = payload_id(f);

    m->messages[id] = (struct model_message){.type = WIRE_WILL,
                                             .session = (uint8_t)session,
                                             .topic = (uint8_t)topic_index(f->text),
                                             .level = f->priority};
    m->sessions[session].will = id;
    if (!is_there(m, session))
        make_will_due(m, session);
}

static void apply(struct model *m, const struct wire_envelope *envelope, uint32_t session)
{
    struct wire_frame f;

    for (size_t at = 0; at < envelope->size; at += f.size) {
        if (wire_get_request(envelope->frames + at, envelope->size - at, &f) != WIRE_OK) {
            world_wrong("a client has sent a frame that is none");
            return;
        }
        switch (f.type) {
        case WIRE_PUBLISH:
        case WIRE_REQUEST:
            apply_message(m, session, &f);
            break;
        case WIRE_REPLY:
            apply_reply(m, session, &f);
            break;
        case WIRE_SUBSCRIBE:
        case WIRE_UNSUBSCRIBE:
            if (f.type == WIRE_UNSUBSCRIBE && (f.flags & WIRE_F_GROUP) != 0)
                crew_leave(crew_named(m, f.text), session);
            else
                apply_subscribe(m, session, &f);
            break;
        case WIRE_JOIN:
            apply_join(m, session, &f);
            break;
        case WIRE_ACK:
        case WIRE_NACK:
            apply_decisions(m, session, &f);
            break;
        case WIRE_WILL:
            apply_will(m, session, &f);
            break;
        case WIRE_BYE:
            m->sessions[session].said_bye = true;
            break;
        default:
            break;
        }
    }
}

/* The session that sent an envelope; MODEL_SESSIONS: none (it registers), or one that has gone. */
static uint32_t sender_of(const struct wire_envelope *envelope)
{
    if (envelope->session == WIRE_NO_SESSION)
        return MODEL_SESSIONS;
    for (uint32_t i = 0; i < world.n_estates; i++) {
        const struct row *row = world_row(i);

        if (row == &world.ledger->rows[envelope->session] &&
            memcmp(row->token, envelope->token, WIRE_TOKEN_SIZE) == 0)
            return i;
    }
    return MODEL_SESSIONS;
}

/* It was taken, and thrown away: only of a session that has ended. */
static void check_unrouted(struct model *m)
{
    struct wire_envelope envelope;
    uint32_t session;

    if (wire_get_envelope(m->pending_bytes, m->pending_size, &envelope) != WIRE_OK)
        return;
    session = sender_of(&envelope);
    if (session < MODEL_SESSIONS && is_there(m, session))
        world_wrong("an envelope was taken from session %u and not routed", session);
}

static void settle(struct model *m)
{
    struct wire_envelope envelope;
    uint32_t session;

    if (wire_get_envelope(m->pending_bytes, m->pending_size, &envelope) != WIRE_OK)
        return;
    session = sender_of(&envelope);
    if (session < MODEL_SESSIONS)
        apply(m, &envelope, session);
}

void model_settle(struct model *m)
{
    bool committed = world.ledger->header.committed > m->pending_age;

    if (!m->pending || (!committed && wire_load32(world.ledger->landing.bytes) != 0))
        return;
    m->pending = false;
    if (committed)
        settle(m);
    else
        check_unrouted(m);
}

void model_taken(struct model *m, const uint8_t *bytes, uint32_t size)
{
    m->pending = true;
    m->pending_age = world.ledger->header.committed;
    m->pending_size = size;
    memcpy(m->pending_bytes, bytes, size);
}

/* ---- What arrives ---- */

/* Has it been stalled, under a policy that drops? */
static bool may_drop(uint32_t session)
{
    const struct row *row = world_row(session);

    return world.setting.overflow <= SCRIPT_DROP_NEWEST && row != NULL &&
           board_get(&board_row(world.board, (uint32_t)(row - world.ledger->rows))->stalled_times) >
               0;
}

/* May this be missing? Then whether that counts as missed. */
static bool may_skip(struct model *m, uint32_t session, const struct model_entry *entry)
{
    struct model_session *s = &m->sessions[session];

    if (entry->optional)
        s->skipped_maybe++;
    else if ((entry->expiry != 0 && entry->expiry <= world.now) || may_drop(session))
        s->skipped++;
    else
        return false;
    return true;
}

static bool matches(const struct model *m, const struct model_entry *entry,
                    const struct wire_frame *f, uint32_t id)
{
    bool reply = (f->flags & WIRE_F_REPLY) != 0;
    bool retained = (f->flags & WIRE_F_RETAIN) != 0;

    if (entry->reply != reply || entry->retained != retained || entry->id != id)
        return false;
    return !reply || m->messages[id].number == f->number;
}

/* The group that a message of one comes out of. */
static struct crew *crew_of(struct model *m, const struct wire_frame *f)
{
    unsigned topic = topic_index(f->text);

    if (topic < SCRIPT_FIRST_GROUPED) {
        world_wrong("a group has a message that was not for it");
        topic = SCRIPT_FIRST_GROUPED;
    }
    return &m->crews[topic - SCRIPT_FIRST_GROUPED];
}

/* Kept messages of several topics come in no order that anybody promised. */
static void bring_forward(struct model *m, struct model_line *line, const struct wire_frame *f,
                          uint32_t id)
{
    struct model_entry *first = &m->entries[line->first];

    for (uint32_t i = line->first; i != 0 && m->entries[i].retained; i = m->entries[i].next) {
        struct model_entry entry = m->entries[i];

        if (!matches(m, &entry, f, id))
            continue;
        m->entries[i] = *first;
        m->entries[i].next = entry.next;
        entry.next = i == line->first ? entry.next : first->next;
        *first = entry;
        return;
    }
}

static void group_message_arrived(struct model *m, uint32_t session, const struct wire_frame *f,
                                  uint32_t id)
{
    crew_arrived(crew_of(m, f), session, id);
}

/* Of who ended without a goodbye, to each once. */
static void will_arrived(struct model *m, uint32_t session, uint32_t id)
{
    struct model_message *will = &m->messages[id];

    if (will->owners >> session & 1)
        world_wrong("a last will came twice");
    if (m->sessions[will->session].said_bye || m->sessions[will->session].will != id)
        world_wrong("a last will came of who had none");
    if (model_serves(m, will->session))
        world_wrong("a last will came of who is there");
    will->owners |= 1u << session;
}

static void message_arrived(struct model *m, uint32_t session, const struct wire_frame *f)
{
    struct model_session *s = &m->sessions[session];
    unsigned level = level_index(f->priority);
    struct model_line *line = &s->due[level];
    uint32_t id = payload_id(f);
    bool grouped = (f->flags & WIRE_F_ACK) != 0;

    world_tell("client %u: %u arrives at priority %u%s", s->name + 1, id, f->priority,
               (f->flags & WIRE_F_REPLY) != 0 ? " as a reply" : "");
    if (id == 0 && f->payload_size > 0)
        world_wrong("a payload has changed, or is gone");
    if (grouped || m->messages[id].type == WIRE_WILL) {
        push(m, &s->arrived[level], (struct model_entry){.id = id});
        if (grouped)
            group_message_arrived(m, session, f, id);
        else
            will_arrived(m, session, id);
        return;
    }
    bring_forward(m, line, f, id);
    while (line->first != 0) {
        struct model_entry entry = m->entries[line->first];

        pop(m, line);
        if (matches(m, &entry, f, id)) {
            push(m, &s->arrived[level], entry);
            return;
        }
        if (!may_skip(m, session, &entry)) {
            world_wrong("session %u, priority %u: got %u, must get %u first", session, f->priority,
                        id, entry.id);
            return;
        }
    }
    world_wrong("session %u, priority %u: got %u, which it must not get (again)", session,
                f->priority, id);
}

static void confirm_arrived(struct model *m, struct model_session *s, uint32_t number, uint8_t code)
{
    struct model_message *message =
        number < MODEL_CONFIRMS ? &m->messages[s->confirms[number]] : &m->messages[0];

    if (message == &m->messages[0])
        world_wrong("a confirm came for what was not published");
    else if (++message->answers > 1)
        world_wrong("a confirm came twice");
    else if (message->code != code)
        world_wrong("a confirm says %u, and it is %u", code, message->code);
}

/* Is this an answer that can be given to it? */
static bool fits(const struct model *m, const struct model_message *request, uint8_t code)
{
    switch (code) {
    case WIRE_C_TIMEOUT:
        return request->expiry <= world.now;
    case WIRE_C_NO_SUBSCRIBER:
        return request->owners == 0;
    case WIRE_C_DROPPED:
        return world.setting.overflow <= SCRIPT_DROP_NEWEST;
    case WIRE_C_PEER_DIED:
        for (uint32_t i = 0; i < MODEL_SESSIONS; i++) {
            if ((request->owners >> i & 1) != 0 && !is_there(m, i))
                return true;
        }
        return request->owners == 0; /* all that subscribed were on their way out */
    default:
        return false;
    }
}

static struct model_message *find_request(struct model *m, const struct model_session *s,
                                          uint32_t number)
{
    for (uint32_t i = 0; i < s->n_requests; i++) {
        if (m->messages[s->requests[i]].number == number)
            return &m->messages[s->requests[i]];
    }
    return NULL;
}

static void answer_arrived(struct model *m, struct model_session *s, uint32_t number, uint8_t code)
{
    struct model_message *request;

    if ((number & REQUESTS_BIT) == 0) {
        confirm_arrived(m, s, number, code);
        return;
    }
    request = find_request(m, s, number);
    if (request == NULL)
        return; /* a call's; the caller looks at the code */
    if (++request->answers > 1)
        world_wrong("a request was answered twice");
    else if (!fits(m, request, code))
        world_wrong("a request was answered %u, which it cannot be", code);
}

static void frame_arrived(struct model *m, uint32_t session, const struct wire_frame *f)
{
    struct model_session *s = &m->sessions[session];

    switch (f->type) {
    case WIRE_MESSAGE:
        message_arrived(m, session, f);
        break;
    case WIRE_ANSWER:
        for (uint32_t i = 0; i < f->count; i++)
            answer_arrived(m, s, (uint32_t)f->number + i, f->code);
        break;
    case WIRE_ENDED:
        if (!s->is_due)
            make_will_due(m, session);
        s->ending = true;
        break;
    default:
        break;
    }
}

/* The batch that a letter means, out of its buffer. */
static bool unbox(uint32_t session, const struct wire_batch *letter, struct wire_batch *batch)
{
    const struct outbox_header *outbox = world.estates[session].outbox;
    struct wire_frame box;

    if (letter->size != WIRE_BOXED_SIZE ||
        wire_get_delivery(letter->frames, letter->size, &box) != WIRE_OK || box.type != WIRE_BOXED)
        return true;
    if (box.buffer >= outbox->n_buffers ||
        wire_get_batch((const uint8_t *)outbox + outbox_buffer_offset(box.buffer), box.boxed_size,
                       batch) != WIRE_OK)
        return false;
    return batch->number == letter->number && batch->level == letter->level;
}

void model_sent(struct model *m, uint32_t session, const uint8_t *bytes, uint32_t size)
{
    struct model_session *s = &m->sessions[session];
    struct wire_batch letter, batch;
    struct wire_frame f;
    bool in_doubt = false;

    for (uint32_t i = 0; i < WORLD_ROWS; i++) {
        const struct row *row = &world.ledger->rows[i];

        in_doubt =
            in_doubt || (row->state != ROW_FREE && row != world_row(session) && row_in_doubt(row));
    }
    if (wire_get_batch(bytes, size, &letter) != WIRE_OK || letter.number <= s->sent)
        return; /* again: who has read it knows it by its number */
    s->sent = letter.number;
    batch = letter;
    if (!unbox(session, &letter, &batch))
        return;
    for (size_t at = 0; at < batch.size; at += f.size) {
        if (wire_get_delivery(batch.frames + at, batch.size - at, &f) != WIRE_OK)
            return;
        if (f.type == WIRE_MESSAGE && (f.flags & WIRE_F_ACK) != 0)
            crew_sent(crew_of(m, &f), session, payload_id(&f), &f, in_doubt);
    }
}

bool model_arrived(struct model *m, uint32_t session, const uint8_t *bytes, uint32_t size,
                   unsigned level)
{
    struct model_session *s = &m->sessions[session];
    struct wire_batch letter, batch;
    struct wire_frame f;

    if (wire_get_batch(bytes, size, &letter) != WIRE_OK || letter.level != level) {
        world_wrong("the broker sent what is no batch");
        return false;
    }
    if (letter.number <= s->seen[level])
        return false;
    s->seen[level] = letter.number;
    batch = letter;
    if (!unbox(session, &letter, &batch)) {
        world_wrong("a buffer has not the batch that its letter says");
        return true;
    }
    for (size_t at = 0; at < batch.size; at += f.size) {
        if (wire_get_delivery(batch.frames + at, batch.size - at, &f) != WIRE_OK) {
            world_wrong("the broker sent a frame that is none");
            return true;
        }
        frame_arrived(m, session, &f);
    }
    return true;
}

/* ---- What is handed out ---- */

/* Take it off the line of what has arrived; what may have gone before is a reply to a question
 * that was closed before it came. */
static void take_arrived(struct model *m, uint32_t session, const struct wire_frame *f, uint32_t id)
{
    struct model_line *line = &m->sessions[session].arrived[level_index(f->priority)];

    while (line->first != 0) {
        struct model_entry entry = m->entries[line->first];

        pop(m, line);
        if (matches(m, &entry, f, id))
            return;
        if (!entry.reply || m->messages[entry.id].told == 0)
            break;
    }
    world_wrong("session %u, priority %u: was handed %u out of turn", session, f->priority, id);
}

static void tell_end(struct model_message *request)
{
    if (++request->told > 1)
        world_wrong("the user was told twice how a request ended");
}

static void ask(struct model_session *s, const struct wire_frame *f, uint32_t id)
{
    if (s->n_asked == MODEL_ASKED)
        s->n_asked--;
    s->asked[s->n_asked].name = f->number;
    s->asked[s->n_asked++].id = id;
}

void model_handed(struct model *m, uint32_t session, const struct wire_frame *f,
                  const uint8_t *payload)
{
    uint32_t id = model_id_of(payload, f->payload_size);

    m->n_handed++;
    take_arrived(m, session, f, id);
    if ((f->flags & WIRE_F_REPLY) != 0)
        tell_end(&m->messages[id]);
    if ((f->flags & WIRE_F_REQUEST) != 0)
        ask(&m->sessions[session], f, id);
}

void model_expired(struct model *m, uint32_t session, const struct wire_frame *f)
{
    if (f->expiry > world.now)
        world_wrong("a message was thrown away as too late, and was not");
    take_arrived(m, session, f, payload_id(f));
}

void model_failed(struct model *m, uint32_t session, uint32_t number, uint8_t code)
{
    struct model_message *request = find_request(m, &m->sessions[session], number);

    if (request == NULL)
        world_wrong("a request failed that nobody made");
    else
        tell_end(request);
    if (request != NULL && request->type != 0 && code == WIRE_C_TIMEOUT &&
        request->expiry > world.now)
        world_wrong("a request ran out of time before its time");
}

/* ---- At rest ---- */

static void check_line(struct model *m, uint32_t session, unsigned level)
{
    struct model_session *s = &m->sessions[session];

    for (; s->due[level].first != 0; pop(m, &s->due[level])) {
        const struct model_entry *entry = &m->entries[s->due[level].first];

        if (!may_skip(m, session, entry))
            world_wrong("session %u, priority %u: %u is lost", session, script_levels[level],
                        entry->id);
    }
    for (; s->arrived[level].first != 0; pop(m, &s->arrived[level])) {
        const struct model_entry *entry = &m->entries[s->arrived[level].first];

        if (!entry->reply || m->messages[entry->id].told == 0)
            world_wrong("session %u, priority %u: %u has arrived and was never handed out", session,
                        script_levels[level], entry->id);
    }
}

static void check_missed(const struct model *m, uint32_t session)
{
    const struct model_session *s = &m->sessions[session];
    uint64_t missed = world_row(session)->missed;
    uint64_t maybe = s->skipped_maybe;

    for (uint32_t i = 0; i < MODEL_SESSIONS; i++) /* wills may have been dropped as well */
        maybe += m->sessions[i].will != 0 && may_drop(session);
    if (missed < s->skipped || missed > s->skipped + maybe)
        world_wrong("session %u missed %u, counted are %u", session, (unsigned)s->skipped,
                    (unsigned)missed);
}

static void check_answers(const struct model *m, const struct model_session *s)
{
    for (uint32_t i = 1; i <= s->n_confirms; i++) {
        if (s->confirms[i] != 0 && m->messages[s->confirms[i]].answers != 1)
            world_wrong("a confirm never came");
    }
    for (uint32_t i = 0; i < s->n_requests; i++) {
        const struct model_message *request = &m->messages[s->requests[i]];
        bool held = request->pooled && request->owners != 0;

        if (request->type != 0 && request->replies == 0 && request->answers == 0 && !held)
            world_wrong("a request was never answered");
        if (request->told != 1)
            world_wrong("the user was never told how a request ended");
    }
}

/* With members to deal with them, none is left; and the dead letters are those that must be. */
static void check_crew(struct model *m, uint32_t i)
{
    struct broker_group group;
    struct crew_count count;
    uint32_t n_members = 0;

    for (uint32_t k = 0; k < MODEL_SESSIONS; k++)
        n_members += (m->crews[i].members >> k & 1) != 0 && is_there(m, k);
    broker_count_group(i, &group);
    crew_finish(&m->crews[i], n_members > 0, &count);
    if (group.n_members != n_members)
        world_wrong("group %u has %u members, %u must be", i, group.n_members, n_members);
    if (group.n_messages < count.least || group.n_messages > count.most)
        world_wrong("group %u has %u messages, %u to %u must be", i, group.n_messages, count.least,
                    count.most);
    if (group.n_dead < count.dead_least || group.n_dead > count.dead_most)
        world_wrong("group %u has %u dead letters, %u to %u must be", i, group.n_dead,
                    count.dead_least, count.dead_most);
}

/* Everybody who was there for it has got it, unless he is stalled and it was dropped. */
static void check_will(const struct model *m, uint32_t session)
{
    const struct model_session *s = &m->sessions[session];
    const struct model_message *will = &m->messages[s->will];

    if (s->will == 0 || s->said_bye || model_serves(m, session))
        return;
    for (uint32_t i = 0; i < MODEL_SESSIONS; i++) {
        if ((s->will_for >> i & 1) != 0 && is_there(m, i) &&
            is_subscribed(&m->sessions[i], will->topic) && (will->owners >> i & 1) == 0 &&
            !may_drop(i))
            world_wrong("a last will never came");
    }
}

void model_finish(struct model *m)
{
    for (uint32_t i = 0; i < MODEL_SESSIONS && world.claim == NULL; i++) {
        struct model_session *s = &m->sessions[i];
        const struct row *row = world_row(i);

        if (!is_there(m, i))
            continue;
        for (unsigned level = 0; level < SCRIPT_LEVELS; level++)
            check_line(m, i, level);
        check_missed(m, i);
        check_answers(m, s);
        if (row->received != s->received)
            world_wrong("session %u has published %u bytes, counted are %u", i,
                        (unsigned)s->received, (unsigned)row->received);
    }
    for (uint32_t i = 0; i < MODEL_SESSIONS && world.claim == NULL; i++)
        check_will(m, i);
    for (uint32_t i = 0; i < SCRIPT_GROUPS && world.claim == NULL; i++)
        check_crew(m, i);
}
