/* See crew.h. A process that finds something wrong at once (content, priority, an error where none
 * can be) gives up, as an actor; whatever needs others to compare with is left to the judge. */
#include "tests/support/crew.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tests/support/stamp.h"

enum {
    LARGEST = 1 << 20,
    SMALL = 64,       /* bytes of a payload in a flood */
    HELD = 6,         /* messages that a holder keeps at once */
    TASKS = 4,        /* that a worker has before it at once */
    UNCONFIRMED = 16, /* publishes whose confirms are waited for together */
    QUESTION = 3000,
    LONG_MS = 15000,
    SHORT_MS = 10,
};

const struct history_rules crew_rules = {
    .plain = ((1u << CREW_LOADS) - 1) | 1u << CREW_ASKED | 1u << CREW_RISKED | 1u << CREW_WILL,
    .requests = 1u << CREW_ASKED | 1u << CREW_RISKED,
    .impatient = 1u << CREW_RISKED,
    .wills = 1u << CREW_WILL,
    .kept = 1u << CREW_KEPT,
    .tasks = 1u << CREW_TASK | 1u << CREW_URGENT,
    .limit = CREW_LIMIT,
};

static const unsigned priorities[] = {0, 8, 16, 23, 24, 31, 8, 24, 8, 8, 24, 8};
static const char *const topics[] = {"load/a", "load/b", "load/c"};
enum { TOPICS = sizeof(topics) / sizeof(topics[0]) };

static uint8_t payload[LARGEST];

/* Who it is, in one process. */
struct self {
    const struct crew_part *part;
    struct mqc *client;
    uint32_t random;
    uint32_t next[HISTORY_STREAMS]; /* number of its next message */
};

static bool is_over(const struct self *s)
{
    return s->part->world->over != 0;
}

static void note(const struct self *s, enum history_kind kind, unsigned stream, unsigned of,
                 uint32_t number)
{
    history_note(s->part->history, s->part->book, kind, stream, of, number);
}

static uint32_t chance(struct self *s, uint32_t of)
{
    return stamp_random(&s->random) % of;
}

/* Also while no broker runs, or while one has no free row; until it is too late to begin. */
static void join_in(struct self *s, unsigned flags)
{
    const struct mqc_options options = {.instance = s->part->instance, .flags = flags};

    while (mqc_open(&s->client, &options) < 0) {
        if (is_over(s) && !crew_reads(s->part->role) && !crew_works(s->part->role))
            return;
        usleep(1000);
    }
}

/* ---- Those who publish ---- */

/* The next message of a stream. */
static struct stamp begin_message(struct self *s, unsigned stream, uint32_t size)
{
    struct stamp stamp = {
        .publisher = s->part->book, .stream = stream, .number = s->next[stream]++, .size = size};

    note(s, HISTORY_OFFERED, stream, s->part->book, stamp.number);
    return stamp;
}

static int64_t publish(struct self *s, const struct stamp *stamp, const char *topic, unsigned flags)
{
    bool loan = stamp->size > SMALL && chance(s, 2) == 0;
    struct mqc_publication p = {
        .topic = topic, .size = stamp->size, .priority = priorities[stamp->stream], .flags = flags};
    void *place = payload;
    int64_t r;

    if (loan)
        ACTOR_REQUIRE(mqc_loan(s->client, &place, stamp->size, 0) == 0);
    stamp_fill(place, stamp);
    p.payload = place;
    r = loan ? mqc_publish_loan(s->client, &p) : mqc_publish_with(s->client, &p);
    ACTOR_REQUIRE(r >= 0);
    return r;
}

static void flood(struct self *s)
{
    unsigned stream = 0;

    ACTOR_REQUIRE(mqc_set_batching(s->client, 1) == 0);
    for (uint32_t n = 0; !is_over(s); n++) {
        struct stamp stamp;

        if (chance(s, 64) == 0)
            stream = chance(s, CREW_LOADS);
        stamp = begin_message(s, stream, SMALL);
        publish(s, &stamp, topics[stamp.number % TOPICS], 0);
        if (n % 256 == 255) {
            ACTOR_REQUIRE(mqc_flush(s->client) == 0);
            note(s, HISTORY_TAKEN, 0, 0, 0);
        }
    }
}

/* Now and then something that nobody wants. */
static void mix(struct self *s)
{
    while (!is_over(s)) {
        struct stamp stamp =
            begin_message(s, chance(s, CREW_LOADS), stamp_size(&s->random, s->part->largest));

        publish(s, &stamp, topics[stamp.number % TOPICS], 0);
        if (chance(s, 8) == 0)
            ACTOR_REQUIRE(mqc_publish(s->client, "nobody", payload, s->part->largest,
                                      priorities[stamp.stream]) == 0);
    }
}

static void confirm(struct self *s, const struct stamp *stamp, int64_t number)
{
    int r = mqc_confirm_wait(s->client, number, LONG_MS);

    ACTOR_REQUIRE(r == 0 || r == -ENOBUFS);
    note(s, r == 0 ? HISTORY_CONFIRMED : HISTORY_REFUSED, stamp->stream, s->part->book,
         stamp->number);
}

static void be_sure(struct self *s)
{
    while (!is_over(s)) {
        uint32_t n = 1 + chance(s, UNCONFIRMED);
        struct stamp stamps[UNCONFIRMED];
        int64_t numbers[UNCONFIRMED];

        for (uint32_t i = 0; i < n; i++) {
            stamps[i] = begin_message(s, chance(s, CREW_LOADS),
                                      stamp_size(&s->random, s->part->largest / 4));
            numbers[i] = publish(s, &stamps[i], topics[stamps[i].number % TOPICS], MQC_CONFIRM);
        }
        for (uint32_t i = 0; i < n; i++)
            confirm(s, &stamps[i], numbers[i]);
    }
}

static void retain(struct self *s)
{
    char topic[32];

    snprintf(topic, sizeof(topic), "kept/%u", s->part->book);
    while (!is_over(s)) {
        struct stamp stamp = begin_message(s, CREW_KEPT, stamp_size(&s->random, s->part->largest));

        publish(s, &stamp, topic, MQC_RETAIN);
    }
}

static void produce(struct self *s)
{
    while (!is_over(s)) {
        unsigned stream = chance(s, 4) == 0 ? CREW_URGENT : CREW_TASK;
        struct stamp stamp = begin_message(s, stream, stamp_size(&s->random, s->part->largest));
        bool sure = chance(s, 4) == 0;
        int64_t number = publish(s, &stamp, stream == CREW_URGENT ? "task/now" : "task/soon",
                                 sure ? MQC_CONFIRM : 0);

        if (sure)
            confirm(s, &stamp, number);
    }
}

static void ask(struct self *s, unsigned stream, const char *topic, int patience_ms)
{
    while (!is_over(s)) {
        struct stamp stamp = begin_message(s, stream, stamp_size(&s->random, QUESTION));
        const struct mqc_publication question = {
            .topic = topic, .payload = payload, .size = stamp.size, .priority = priorities[stream]};
        struct mqc_message reply;
        struct stamp answer;
        int r;

        stamp_fill(payload, &stamp);
        r = mqc_request(s->client, &question, &reply, patience_ms);
        if (r < 0) {
            note(s, HISTORY_UNANSWERED, stream, (unsigned)-r, stamp.number);
            continue;
        }
        ACTOR_REQUIRE(stamp_read(reply.payload, reply.size, &answer)); /* made by who answers */
        note(s, HISTORY_ANSWERED, answer.stream, answer.publisher, answer.number);
        ACTOR_REQUIRE(answer.stream == stream && answer.number == stamp.number);
        mqc_message_free(&reply);
    }
}

/* ---- Those who receive ---- */

static void subscribe(struct self *s, const char *filter)
{
    ACTOR_REQUIRE(mqc_subscribe(s->client, filter, 0) == 0);
}

/* Look at a message, and note it. False: it was the last. */
static bool look(struct self *s, const struct mqc_message *m, struct stamp *stamp)
{
    if (strcmp(m->topic, CREW_END) == 0)
        return false;
    ACTOR_REQUIRE(stamp_read(m->payload, m->size, stamp));
    ACTOR_REQUIRE(stamp->stream < sizeof(priorities) / sizeof(priorities[0]));
    ACTOR_REQUIRE(m->priority == priorities[stamp->stream]);
    ACTOR_REQUIRE(stamp->stream >= CREW_LOADS ||
                  strcmp(m->topic, topics[stamp->number % TOPICS]) == 0);
    note(s, HISTORY_GOT, stamp->stream, stamp->publisher, stamp->number);
    return true;
}

/* Nothing is behind the last one. */
static void finish_reading(struct self *s)
{
    struct mqc_message message;

    ACTOR_REQUIRE(mqc_receive(s->client, &message, 0) == -EAGAIN);
    note(s, HISTORY_MISSED, 0, 0, (uint32_t)mqc_missed(s->client));
}

/* ---- Those who work ---- */

static void note_task(const struct self *s, enum history_kind kind, const struct stamp *stamp,
                      unsigned tries)
{
    history_note_task(s->part->history, s->part->book, kind, stamp->stream, stamp->publisher,
                      stamp->number, tries);
}

static void join_group(struct self *s)
{
    const struct mqc_group_options options = {.flags = s->part->durable ? MQC_DURABLE : 0,
                                              .prefetch = 1 + chance(s, 32),
                                              .delivery_limit = CREW_LIMIT};

    ACTOR_REQUIRE(mqc_join(s->client, CREW_GROUP, "task/#", &options) == 0);
}

static void decide(struct self *s, struct mqc_message *m, const struct stamp *stamp)
{
    uint32_t dice = chance(s, 64);

    if (dice == 0) {
        note_task(s, HISTORY_REJECTED, stamp, 0);
        ACTOR_REQUIRE(mqc_reject(s->client, m) == 0);
    } else if (dice < 6) {
        note_task(s, HISTORY_RETURNED, stamp, 0);
        ACTOR_REQUIRE(mqc_nack(s->client, m, chance(s, 2) * chance(s, 20)) == 0);
    } else {
        note_task(s, HISTORY_DONE, stamp, 0);
        ACTOR_REQUIRE(mqc_ack(s->client, m) == 0);
    }
}

/* Has some of them at a time, and does not finish them in order. */
static void work(struct self *s)
{
    struct mqc_message tasks[TASKS] = {0};
    struct stamp stamps[TASKS];

    for (;;) {
        unsigned i = chance(s, TASKS);
        int r;

        if (tasks[i].acknowledge) {
            decide(s, &tasks[i], &stamps[i]);
            mqc_message_free(&tasks[i]);
        }
        r = mqc_receive(s->client, &tasks[i], 1);
        if (r == -ETIMEDOUT && s->part->world->drained)
            break;
        if (r == -ETIMEDOUT)
            continue;
        ACTOR_REQUIRE(r == 0);
        ACTOR_REQUIRE(stamp_read(tasks[i].payload, tasks[i].size, &stamps[i]));
        ACTOR_REQUIRE(tasks[i].acknowledge && tasks[i].attempt > 0);
        ACTOR_REQUIRE(tasks[i].priority == priorities[stamps[i].stream]);
        note_task(s, HISTORY_TOOK, &stamps[i], tasks[i].attempt - 1);
    }
}

/* Leave a will. */
static void make_will(struct self *s)
{
    const struct stamp stamp = begin_message(s, CREW_WILL, SMALL);
    char topic[32];

    snprintf(topic, sizeof(topic), "will/%u", s->part->book);
    stamp_fill(payload, &stamp);
    ACTOR_REQUIRE(mqc_set_will(s->client, &(struct mqc_publication){.topic = topic,
                                                                    .payload = payload,
                                                                    .size = stamp.size,
                                                                    .priority = 8}) == 0);
    note(s, HISTORY_WILLED, CREW_WILL, s->part->book, stamp.number);
}

/* Some subscribe twice to the same (L3). */
static void subscribe_to_load(struct self *s)
{
    subscribe(s, chance(s, 2) == 0 ? "load/#" : "load/+");
    for (unsigned i = 0; i < CREW_LOADS; i++)
        note(s, HISTORY_SUBSCRIBED, i, 0, 0);
    if (chance(s, 2) == 0)
        subscribe(s, topics[chance(s, TOPICS)]);
    subscribe(s, "will/+");
    note(s, HISTORY_SUBSCRIBED, CREW_WILL, 0, 0);
    subscribe(s, CREW_END);
}

static void read_on(struct self *s)
{
    struct mqc_message message;
    struct stamp stamp;
    bool more;

    do {
        ACTOR_REQUIRE(mqc_receive(s->client, &message, -1) == 0);
        more = look(s, &message, &stamp);
        mqc_message_free(&message);
        if (s->part->rest_us != 0 && chance(s, 1000) == 0)
            usleep(chance(s, s->part->rest_us));
    } while (more);
    finish_reading(s);
}

/* Looks at what it kept once more before it frees it: its publisher may be long dead by then. */
static void hold(struct self *s)
{
    struct mqc_message held[HELD] = {0};
    bool more;

    do {
        struct mqc_message *m = &held[chance(s, HELD)];
        struct stamp stamp;

        ACTOR_REQUIRE(m->owner == NULL || stamp_read(m->payload, m->size, &stamp));
        mqc_message_free(m);
        ACTOR_REQUIRE(mqc_receive(s->client, m, -1) == 0);
        more = look(s, m, &stamp);
    } while (more);
    for (unsigned i = 0; i < HELD; i++)
        mqc_message_free(&held[i]);
    finish_reading(s);
}

/* The answer says the same as the question, and who it is from. */
static void reply(struct self *s, const struct mqc_message *m, struct stamp stamp)
{
    stamp.publisher = s->part->book;
    stamp_fill(payload, &stamp);
    ACTOR_REQUIRE(mqc_reply(s->client, m, payload, stamp.size) == 0);
}

static void answer(struct self *s)
{
    struct mqc_message m;
    struct stamp stamp;
    bool more;

    do {
        ACTOR_REQUIRE(mqc_receive(s->client, &m, -1) == 0);
        more = look(s, &m, &stamp);
        if (more)
            reply(s, &m, stamp);
        mqc_message_free(&m);
    } while (more);
    finish_reading(s);
}

/* Answers now and then when nobody waits for it any more. */
static void deal(struct self *s)
{
    struct mqc_message late = {0};
    struct mqc_message m;
    struct stamp stamp, old = {0};
    bool more;

    do {
        ACTOR_REQUIRE(mqc_receive(s->client, &m, -1) == 0);
        more = look(s, &m, &stamp);
        if (late.owner != NULL && chance(s, 16) == 0) {
            reply(s, &late, old);
            mqc_message_free(&late);
        }
        if (more && late.owner == NULL && chance(s, 4) == 0) {
            late = m;
            old = stamp;
            continue;
        }
        if (more)
            reply(s, &m, stamp);
        mqc_message_free(&m);
    } while (more);
    mqc_message_free(&late);
    finish_reading(s);
}

/* ---- Roles ---- */

static const struct {
    const char *name;
    bool publish_only;
    bool alone; /* sends one by one */
} roles[CREW_ROLES] = {
    [CREW_FLOOD] = {"flood", true, false},     [CREW_MIX] = {"mix", true, true},
    [CREW_SURE] = {"sure", true, true},        [CREW_READER] = {"reader", false, true},
    [CREW_HOLDER] = {"holder", false, true},   [CREW_RETAINER] = {"retainer", true, true},
    [CREW_ASKER] = {"asker", false, true},     [CREW_ANSWERER] = {"answerer", false, true},
    [CREW_GAMBLER] = {"gambler", false, true}, [CREW_DEALER] = {"dealer", false, true},
};

bool crew_reads(enum crew_role role)
{
    return role == CREW_READER || role == CREW_HOLDER || role == CREW_ANSWERER ||
           role == CREW_DEALER;
}

bool crew_works(enum crew_role role)
{
    return role == CREW_WORKER;
}

bool crew_asks(enum crew_role role)
{
    return role == CREW_ASKER || role == CREW_GAMBLER;
}

static void prepare(struct self *s)
{
    switch (s->part->role) {
    case CREW_READER:
    case CREW_HOLDER:
        subscribe_to_load(s);
        break;
    case CREW_ANSWERER:
    case CREW_DEALER:
        subscribe(s, s->part->role == CREW_DEALER ? "risk" : "ask");
        note(s, HISTORY_SUBSCRIBED, s->part->role == CREW_DEALER ? CREW_RISKED : CREW_ASKED, 0, 0);
        subscribe(s, CREW_END);
        break;
    case CREW_WORKER:
        join_group(s);
        break;
    default:
        break;
    }
    if (s->part->wills && chance(s, 2) == 0)
        make_will(s);
}

static void play(struct self *s)
{
    switch (s->part->role) {
    case CREW_FLOOD:
        return flood(s);
    case CREW_MIX:
        return mix(s);
    case CREW_SURE:
        return be_sure(s);
    case CREW_READER:
        return read_on(s);
    case CREW_HOLDER:
        return hold(s);
    case CREW_RETAINER:
        return retain(s);
    case CREW_ASKER:
        return ask(s, CREW_ASKED, "ask", LONG_MS);
    case CREW_GAMBLER:
        return ask(s, CREW_RISKED, "risk", SHORT_MS);
    case CREW_PRODUCER:
        return produce(s);
    case CREW_WORKER:
        return work(s);
    case CREW_ANSWERER:
        return answer(s);
    case CREW_DEALER:
        return deal(s);
    case CREW_ROLES:
        break;
    }
}

/* All that it ever put into its pool has come back: a loan that takes all of it can be had. */
static void borrow_all(struct self *s)
{
    void *place;

    if (s->part->pool_size == 0)
        return;
    ACTOR_REQUIRE(mqc_loan(s->client, &place, s->part->pool_size, 0) == 0);
    ACTOR_REQUIRE(mqc_loan_return(s->client, place) == 0);
}

static void live(struct actor *self, const void *context)
{
    const struct crew_part *part = context;
    struct self s = {.part = part, .random = part->seed | 1};

    join_in(&s, roles[part->role].publish_only ? MQC_PUBLISH_ONLY : 0);
    if (s.client != NULL)
        prepare(&s);
    actor_tell(self, s.client != NULL);
    if (s.client != NULL)
        play(&s);
    if (s.client != NULL)
        ACTOR_REQUIRE(mqc_flush(s.client) == 0);
    actor_tell(self, 0);
    actor_hear(self);
    if (s.client != NULL)
        borrow_all(&s);
    mqc_close(s.client);
}

void crew_start(struct actor *a, struct crew_part *part)
{
    part->book = history_begin(part->history, roles[part->role].name, roles[part->role].alone);
    actor_start(a, live, part);
}
