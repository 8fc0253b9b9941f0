/* The rig. What the shell does with system calls is done here with arrays; see engine-rig.h. */
#include "tests/support/engine-rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/durable.h"

enum { NORMAL_ROWS = 8, NORMAL_TOPICS = 16, NORMAL_SLOTS = 4096, NORMAL_WIDTH = 1280 };

static uint32_t or_normal(uint32_t value, uint32_t normal)
{
    return value != 0 ? value : normal;
}

static struct engine_settings settings_of(const struct rig_options *o)
{
    struct engine_settings s = o->settings;

    if (s.backlog_size == 0)
        s.backlog_size = 262144;
    if (s.stall_timeout == 0)
        s.stall_timeout = 5 * RIG_SECOND;
    if (s.retained_size == 0)
        s.retained_size = 65536;
    if (s.max_subscriptions == 0)
        s.max_subscriptions = 100;
    if (s.pool_max == 0)
        s.pool_max = SEGMENTS_POOL;
    if (s.group_size == 0)
        s.group_size = 65536;
    if (s.ack_timeout == 0)
        s.ack_timeout = 30000;
    if (s.delivery_limit == 0)
        s.delivery_limit = 5;
    if (s.group_overflow == ENGINE_DROP_OLDEST)
        s.group_overflow = ENGINE_DROP_NEWEST;
    if (s.group_linger == 0)
        s.group_linger = 60 * RIG_SECOND;
    return s;
}

/* ---- Memory ---- */

static int make_memory(struct rig *r, const struct rig_options *o)
{
    uint32_t n_rows = or_normal(o->n_rows, NORMAL_ROWS);
    uint32_t n_topics = or_normal(o->n_topics, NORMAL_TOPICS);
    uint32_t n_references = or_normal(o->n_references, NORMAL_SLOTS);
    uint32_t n_cells = or_normal(o->n_cells, NORMAL_SLOTS);
    size_t board = board_size(n_rows, n_topics, RIG_GROUPS);

    r->memory.ledger = aligned_alloc(4096, (ledger_size(n_rows, RIG_GROUPS) + 4095) / 4096 * 4096);
    r->memory.store = aligned_alloc(4096, (store_size(n_references, n_cells) + 4095) / 4096 * 4096);
    r->memory.board = aligned_alloc(64, (board + 63) / 64 * 64);
    if (r->memory.ledger == NULL || r->memory.store == NULL || r->memory.board == NULL)
        return -ENOMEM;
    memset(r->memory.ledger, 0, ledger_size(n_rows, RIG_GROUPS));
    memset(r->memory.store, 0, store_size(n_references, n_cells));
    memset(r->memory.board, 0, board);
    r->memory.ledger->header = (struct ledger_header){
        .magic = PERSIST_MAGIC,
        .layout = PERSIST_LAYOUT,
        .n_rows = n_rows,
        .n_groups = RIG_GROUPS,
        .state = LEDGER_RUNNING,
        .n_references = n_references,
        .n_cells = n_cells,
        .references_allocated = n_references,
        .cells_allocated = n_cells,
        .committed = 1,
    };
    board_format(r->memory.board, board, n_rows, n_topics, RIG_GROUPS);
    r->memory.board->frame_max = RIG_FRAME_MAX;
    return 0;
}

static void draw_token(struct rig *r)
{
    r->next_nonce++;
    memset(r->engine.fresh_token, 0xa5, WIRE_TOKEN_SIZE);
    memcpy(r->engine.fresh_token, &r->next_nonce, sizeof(r->next_nonce));
    r->engine.token_used = false;
}

/* The outboxes; pools are attached when they are asked for. */
static void attach_outboxes(struct rig *r)
{
    for (uint16_t row = 0; row < r->engine.n_rows; row++) {
        if (r->segments[row] != NULL && engine_row(&r->engine, row)->state != ROW_FREE)
            engine_attach(&r->engine, row, r->segments[row]->outbox, NULL);
    }
}

static int start(struct rig *r, uint64_t now)
{
    int outcome = engine_init(&r->engine, &r->memory, &r->settings);

    if (outcome == 0 && r->journal)
        outcome = durable_init(&r->engine);
    if (outcome < 0)
        return outcome;
    r->engine.now = now;
    attach_outboxes(r);
    draw_token(r);
    outcome = life_start(&r->engine);
    if (outcome < 0)
        return outcome;
    route_resume(&r->engine);
    if (r->engine.token_used)
        draw_token(r);
    return 0;
}

int rig_init(struct rig *r, const struct rig_options *options)
{
    static const struct rig_options usual;
    const struct rig_options *o = options != NULL ? options : &usual;
    int outcome;

    *r = (struct rig){.settings = settings_of(o),
                      .width = or_normal(o->width, NORMAL_WIDTH),
                      .n_buffers = o->n_buffers,
                      .journal = o->journal,
                      .next_inode = 1000,
                      .next_copy = OUTBOX_COPIES};
    outcome = make_memory(r, o);
    if (outcome == 0)
        outcome = start(r, 1000 * RIG_SECOND);
    return outcome;
}

static void close_queue(struct rig_queue *q)
{
    for (uint32_t i = 0; i < q->n; i++)
        free(q->batches[i].bytes);
    free(q->current.bytes);
    *q = (struct rig_queue){0};
}

void rig_deinit(struct rig *r)
{
    if (r->engine.sessions != NULL)
        engine_deinit(&r->engine);
    for (uint32_t i = 0; i < RIG_ROWS; i++)
        close_queue(&r->queues[i]);
    for (uint32_t i = 0; i < RIG_POOLS; i++)
        segments_free(r->pools[i]);
    free(r->memory.ledger);
    free(r->memory.store);
    free(r->memory.board);
    *r = (struct rig){0};
}

int rig_restart(struct rig *r)
{
    uint64_t now = r->engine.now;
    int outcome;

    engine_deinit(&r->engine);
    outcome = start(r, now);
    for (uint32_t i = 0; outcome == 0 && i < r->engine.n_rows; i++)
        r->queues[i].armed = false;
    return outcome;
}

/* ---- Envelopes ---- */

static void begin(struct rig *r, uint16_t session, const uint8_t *token)
{
    wire_put_envelope(r->envelope, session, token, 0);
    r->envelope_size = WIRE_ENVELOPE_SIZE;
}

void rig_begin(struct rig *r, uint16_t row)
{
    begin(r, row, engine_row(&r->engine, row)->token);
}

void rig_add(struct rig *r, const struct rig_message *m)
{
    const char *topic = m->topic != NULL ? m->topic : "";
    const char *payload = m->payload != NULL ? m->payload : "";
    size_t size = m->payload_size != 0 ? m->payload_size : strlen(payload);

    if (m->slot != NULL) {
        r->envelope_size +=
            wire_put_pooled(r->envelope + r->envelope_size, m->type, m->priority, m->flags,
                            m->number, m->expiry, topic, strlen(topic), m->slot);
        return;
    }
    r->envelope_size +=
        wire_put_message(r->envelope + r->envelope_size, m->type, m->priority, m->flags, m->number,
                         m->expiry, topic, strlen(topic), payload, size);
}

void rig_add_text(struct rig *r, uint8_t type, uint16_t flags, uint32_t number, const char *text)
{
    r->envelope_size +=
        wire_put_text(r->envelope + r->envelope_size, type, flags, number, text, strlen(text));
}

void rig_add_bytes(struct rig *r, const void *bytes, size_t size)
{
    memcpy(r->envelope + r->envelope_size, bytes, size);
    r->envelope_size += size;
}

void rig_land(struct rig *r, const void *bytes, size_t size)
{
    route_expect(&r->engine, LANDING_NORMAL);
    memcpy(r->engine.landing->bytes, bytes, size);
}

void rig_route(struct rig *r, const void *bytes, size_t size)
{
    rig_land(r, bytes, size);
    route(&r->engine, size);
    if (r->engine.token_used)
        draw_token(r);
}

void rig_send(struct rig *r)
{
    wire_store32(r->envelope + WIRE_AT_ENVELOPE_LENGTH, (uint32_t)r->envelope_size);
    rig_route(r, r->envelope, r->envelope_size);
}

void rig_message(struct rig *r, uint16_t row, const struct rig_message *m)
{
    rig_begin(r, row);
    rig_add(r, m);
    rig_send(r);
}

void rig_publish(struct rig *r, uint16_t row, uint8_t priority, const char *topic,
                 const char *payload)
{
    rig_message(
        r, row,
        &(struct rig_message){
            .type = WIRE_PUBLISH, .priority = priority, .topic = topic, .payload = payload});
}

void rig_publish_large(struct rig *r, uint16_t row, uint8_t priority, const char *payload)
{
    char bytes[RIG_LARGE] = {0};

    strcpy(bytes, payload);
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = priority,
                                      .topic = "t",
                                      .payload = bytes,
                                      .payload_size = sizeof(bytes)});
}

void rig_request(struct rig *r, uint16_t row, const char *topic, uint32_t number, uint64_t expiry)
{
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_REQUEST,
                                      .priority = WIRE_DEFAULT_PRIORITY,
                                      .number = number,
                                      .expiry = expiry,
                                      .topic = topic,
                                      .payload = "?"});
}

void rig_reply(struct rig *r, uint16_t row, uint64_t name, const char *payload)
{
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_REPLY,
                                      .priority = WIRE_DEFAULT_PRIORITY,
                                      .number = name,
                                      .payload = payload});
}

void rig_subscribe(struct rig *r, uint16_t row, const char *filter)
{
    rig_begin(r, row);
    rig_add_text(r, WIRE_SUBSCRIBE, WIRE_F_NO_RETAINED, 0, filter);
    rig_send(r);
}

void rig_bye(struct rig *r, uint16_t row)
{
    rig_begin(r, row);
    r->envelope_size += wire_put_bye(r->envelope + r->envelope_size);
    rig_send(r);
}

void rig_register(struct rig *r, uint64_t nonce, const char *name, uint16_t flags)
{
    static const uint8_t no_token[WIRE_TOKEN_SIZE];

    begin(r, WIRE_NO_SESSION, no_token);
    r->envelope_size += wire_put_register(r->envelope + r->envelope_size, flags, nonce, 4711, 1,
                                          rig_pool_nonce(nonce), name, strlen(name));
    rig_send(r);
}

uint64_t rig_pool_nonce(uint64_t nonce)
{
    return nonce ^ UINT64_C(0xb001000000000000);
}

void rig_fetch(struct rig *r, uint16_t row, uint64_t name)
{
    rig_begin(r, row);
    r->envelope_size += wire_put_fetch(r->envelope + r->envelope_size, name);
    rig_send(r);
}

bool rig_publish_pooled(struct rig *r, uint16_t row, uint8_t priority, const char *topic,
                        uint64_t payload)
{
    struct wire_slot slot;

    if (!segments_put(r->segments[row], payload, SEGMENTS_PLACE, &slot))
        return false;
    rig_message(r, row,
                &(struct rig_message){
                    .type = WIRE_PUBLISH, .priority = priority, .topic = topic, .slot = &slot});
    return true;
}

int rig_session(struct rig *r, const char *name)
{
    uint64_t nonce = ++r->next_nonce;
    int row = -1;
    struct wire_frame f;

    rig_register(r, nonce, name, 0);
    rig_carry_out(r);
    for (uint32_t i = 0; i < r->engine.n_rows; i++) {
        if (engine_row(&r->engine, (uint16_t)i)->state == ROW_LIVE &&
            engine_row(&r->engine, (uint16_t)i)->nonce == nonce)
            row = (int)i;
    }
    if (row < 0)
        return -1;
    rig_pump(r, (uint16_t)row);
    return rig_read(r, (uint16_t)row, &f) && f.type == WIRE_WELCOME ? row : -1;
}

/* ---- The shell's part ---- */

static void wrong(struct rig *r, const char *what)
{
    if (r->fault == NULL)
        r->fault = what;
}

struct segments *rig_pool(const struct rig *r, uint64_t nonce)
{
    for (uint32_t i = 0; i < RIG_POOLS; i++) {
        if (r->pools[i] != NULL && r->pools[i]->nonce == nonce)
            return r->pools[i];
    }
    return NULL;
}

/* Both segments of a session; the client makes its pool only after this, the broker never knows
 * when. */
static bool make_segments(struct rig *r, uint16_t row)
{
    const struct row *ours = engine_row(&r->engine, row);
    uint32_t i = 0;

    while (i < RIG_POOLS && r->pools[i] != NULL)
        i++;
    if (i == RIG_POOLS)
        return false;
    r->pools[i] = segments_new(ours->pool, ours->nonce, r->n_buffers);
    r->segments[row] = r->pools[i];
    return r->pools[i] != NULL;
}

static void make_session(struct rig *r, uint16_t row)
{
    if (r->n_buffers > 0 && !make_segments(r, row)) {
        life_refused(&r->engine, row, WIRE_C_QUEUE_ERROR, 0, 0);
        return;
    }
    r->queues[row].open = true;
    if (r->segments[row] != NULL)
        engine_attach(&r->engine, row, r->segments[row]->outbox, NULL);
    life_made(&r->engine, row, r->next_inode++, RIG_DEPTH, r->width);
}

/* A pool's name goes, and with it what lies there: nobody may need it any more. */
static void unlink_pool(struct rig *r, uint32_t slot)
{
    uint64_t nonce = ledger_pools(r->engine.ledger)[slot];

    for (uint32_t i = 0; i < RIG_POOLS && nonce != 0; i++) {
        if (r->pools[i] == NULL || r->pools[i]->nonce != nonce)
            continue;
        if (r->pools[i]->outbox != NULL)
            wrong(r, "the pool of a session was unlinked");
        else
            r->pools[i] = segments_free(r->pools[i]);
    }
    pools_gone(&r->engine, slot);
}

static void remove_session(struct rig *r, uint16_t row)
{
    struct engine *e = &r->engine;

    close_queue(&r->queues[row]);
    if (life_lingers(e, row))
        return;
    if (r->segments[row] != NULL)
        segments_end(r->segments[row]);
    r->segments[row] = NULL;
    if (pools_orphan(e, row))
        unlink_pool(r, engine_row(e, row)->pool_slot);
    life_gone(e, row);
}

/* Payloads that are to be copied for who cannot map their pools. */
static void lend(struct rig *r, uint16_t row)
{
    struct engine *e = &r->engine;
    uint64_t name = e->sessions[row].fetch;
    struct wire_slot slot;

    e->sessions[row].fetch = 0;
    if (engine_row(e, row)->state != ROW_LIVE)
        return;
    if (!pools_holds(e, row, name, &slot)) {
        pools_lend(e, row, WIRE_C_NO_COPY, name, 0, 0);
        return;
    }
    pools_lend(e, row, WIRE_C_OK, name, r->next_copy, slot.size);
    r->next_copy += slot.size;
}

void rig_carry_out(struct rig *r)
{
    struct engine *e = &r->engine;

    while (e->making.n > 0)
        make_session(r, e->making.rows[--e->making.n]);
    while (e->fetching.n > 0)
        lend(r, e->fetching.rows[--e->fetching.n]);
    while (e->leaving.n > 0)
        remove_session(r, e->leaving.rows[--e->leaving.n]);
    while (e->unlinked.n > 0)
        unlink_pool(r, e->unlinked.rows[--e->unlinked.n]);
}

static void attach_pool(struct rig *r, uint16_t row)
{
    if (r->segments[row] != NULL)
        engine_attach(&r->engine, row, r->segments[row]->outbox, r->segments[row]->pool);
}

void rig_collect(struct rig *r)
{
    const struct rows *holders = &r->engine.holders;

    for (uint32_t i = 0; i < holders->n; i++)
        attach_pool(r, holders->rows[i]);
    pools_collect(&r->engine);
}

bool rig_queue_put(struct rig *r, uint16_t row, const struct pump_batch *batch)
{
    struct rig_queue *q = &r->queues[row];
    struct rig_batch *place = &q->batches[q->n];

    if (q->refuse > 0) {
        q->refuse--;
        return false;
    }
    if (q->n == RIG_DEPTH)
        return false;
    *place = (struct rig_batch){
        .level = batch->level, .size = batch->size, .bytes = malloc(batch->size)};
    if (place->bytes == NULL)
        return false;
    memcpy(place->bytes, batch->bytes, batch->size);
    q->n++;
    return true;
}

static void send_batch(struct rig *r, uint16_t row, const struct pump_batch *batch)
{
    if (rig_queue_put(r, row, batch))
        pump_sent(&r->engine, row);
    else
        pump_full(&r->engine, row);
}

/* What the pump asked for: the session's pool, and memory behind one more buffer. */
static void provide(struct rig *r, uint16_t row)
{
    segments_grow(r->segments[row]);
    attach_pool(r, row);
}

int rig_next(struct rig *r, uint16_t row, struct pump_batch *batch)
{
    for (;;) {
        int outcome = pump_next(&r->engine, row, batch);

        if (outcome == PUMP_ASK)
            pump_room(&r->engine, row, RIG_DEPTH - r->queues[row].n);
        else if (outcome == PUMP_WANTS_POOL)
            provide(r, row);
        else
            return outcome;
    }
}

int rig_pump(struct rig *r, uint16_t row)
{
    struct pump_batch batch;
    int outcome;

    while ((outcome = rig_next(r, row, &batch)) == PUMP_BATCH)
        send_batch(r, row, &batch);
    r->queues[row].armed = outcome == PUMP_BLOCKED;
    return outcome;
}

void rig_turn(struct rig *r)
{
    struct rows *touched = &r->engine.touched;

    rig_collect(r);
    rig_carry_out(r);
    groups_deal(&r->engine);
    while (touched->n > 0) {
        uint16_t row = touched->rows[0];

        touched->n--;
        memmove(touched->rows, touched->rows + 1, touched->n * sizeof(*touched->rows));
        r->engine.sessions[row].touched = false;
        rig_pump(r, row);
        groups_deal(&r->engine);
    }
    engine_show(&r->engine);
}

void rig_kill(struct rig *r, uint16_t row)
{
    life_died(&r->engine, row);
    life_quiet(&r->engine);
    rig_carry_out(r);
}

/* ---- The reader's part ---- */

static int best_batch(const struct rig_queue *q)
{
    int best = -1;

    for (uint32_t i = 0; i < q->n; i++) {
        if (best < 0 || q->batches[i].level > q->batches[best].level)
            best = (int)i;
    }
    return best;
}

int rig_highest(const struct rig *r, uint16_t row)
{
    int best = best_batch(&r->queues[row]);

    return best < 0 ? -1 : r->queues[row].batches[best].level;
}

/* Is it a batch that says where the batch is? */
static bool is_boxed(const struct wire_batch *batch, struct wire_frame *boxed)
{
    return batch->size == WIRE_BOXED_SIZE &&
           wire_get_delivery(batch->frames, batch->size, boxed) == WIRE_OK &&
           boxed->type == WIRE_BOXED;
}

/* Take the batch out of its buffer, also if it is a repeat and nobody looks at it. */
static void unbox(struct rig *r, uint16_t row, const struct wire_frame *boxed)
{
    struct rig_queue *q = &r->queues[row];
    uint32_t size = boxed->boxed_size;
    uint8_t *bytes = segments_unbox(r->segments[row], boxed, q->header.number);

    if (bytes == NULL)
        abort(); /* there is no such buffer */
    free(q->current.bytes);
    q->current.bytes = bytes;
    q->current.size = size;
    q->n_boxed++;
}

/* The one that is to be read, from here on: out of its box, if it is in one, under the number that
 * its queue message has. */
static void open_batch(struct rig *r, uint16_t row)
{
    struct rig_queue *q = &r->queues[row];
    uint64_t number;
    struct wire_frame boxed;
    bool known;

    if (wire_get_batch(q->current.bytes, q->current.size, &q->header) != WIRE_OK)
        abort(); /* the broker wrote it */
    number = q->header.number;
    known = number <= q->seen[q->header.level];
    if (!is_boxed(&q->header, &boxed))
        return;
    unbox(r, row, &boxed);
    if (!known && wire_get_batch(q->current.bytes, q->current.size, &q->header) == WIRE_OK &&
        q->header.number == number)
        return;
    q->header.size = 0; /* a repeat: what lies there may be another's by now */
    if (!known && !q->lies)
        wrong(r, "a buffer has not the batch that its queue message says");
}

/* Take the first of the highest out of the queue, as mq_receive would; who waits for room hears of
 * it. */
static bool receive(struct rig *r, uint16_t row)
{
    struct rig_queue *q = &r->queues[row];
    int best = best_batch(q);

    if (best < 0)
        return false;
    free(q->current.bytes);
    q->current = q->batches[best];
    q->n--;
    for (uint32_t i = (uint32_t)best; i < q->n; i++)
        q->batches[i] = q->batches[i + 1];
    q->batches[q->n] = (struct rig_batch){0};
    q->at = 0;
    open_batch(r, row);
    if (q->armed)
        pump_edge(&r->engine, row);
    q->armed = false;
    return true;
}

/* The next batch that was not read before. */
static bool next_batch(struct rig *r, uint16_t row)
{
    struct rig_queue *q = &r->queues[row];

    while (receive(r, row)) {
        if (q->header.number > q->seen[q->header.level]) {
            q->seen[q->header.level] = q->header.number;
            return true;
        }
        q->n_repeats++;
        q->at = q->header.size;
    }
    return false;
}

bool rig_read(struct rig *r, uint16_t row, struct wire_frame *f)
{
    struct rig_queue *q = &r->queues[row];

    while (q->current.bytes == NULL || q->at == q->header.size) {
        if (!next_batch(r, row))
            return false;
    }
    if (wire_get_delivery(q->header.frames + q->at, q->header.size - q->at, f) != WIRE_OK)
        abort(); /* the broker wrote it */
    q->at += f->size;
    return true;
}

uint32_t rig_drain(struct rig *r, uint16_t row)
{
    struct wire_frame f;
    uint32_t n = 0;

    while (rig_read(r, row, &f))
        n++;
    return n;
}

uint64_t rig_payload(struct rig *r, const struct wire_frame *f)
{
    struct segments *s = rig_pool(r, f->slot.pool);

    if (s != NULL && (f->flags & WIRE_F_POOLED) != 0)
        return segments_payload(s, &f->slot);
    wrong(r, "a message names a pool that is not there any more");
    return 0;
}

void rig_release(struct rig *r, uint16_t row, uint64_t name)
{
    segments_release(r->segments[row], name);
}

uint32_t rig_look(struct rig *r, uint16_t row)
{
    return segments_look(r->segments[row]);
}

int rig_posted(const struct rig *r, uint64_t nonce)
{
    uint32_t n = atomic_load(&r->memory.board->postings);

    for (uint32_t i = 0; i < BOARD_POSTINGS && i < n; i++) {
        struct board_posting *p = &r->memory.board->board_postings[(n - 1 - i) % BOARD_POSTINGS];

        if (board_get(&p->nonce) == nonce)
            return (int)atomic_load(&p->code);
    }
    return -1;
}
