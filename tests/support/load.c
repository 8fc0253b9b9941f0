/* The clients, and the counting at the end. */
#include "tests/support/load.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/patience.h"
#include "tests/support/stamp.h"

enum {
    LEVELS = MQC_MAX_PRIORITY + 1,
    LONG_MS = 30000,
};

void load_publish(struct actor *self, const void *context)
{
    static uint8_t payload[LOAD_LARGEST];
    const struct load_part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, MQC_PUBLISH_ONLY);
    uint32_t next[LEVELS] = {0};
    uint32_t random = 123456789 + part->publisher;
    uint64_t n = 0;

    ACTOR_REQUIRE(mqc_set_batching(client, part->batching) == 0);
    actor_tell(self, 0);
    while (!actor_has_said(self)) {
        unsigned priority = stamp_random(&random) % LEVELS;
        const struct stamp stamp = {.publisher = part->publisher,
                                    .stream = priority,
                                    .number = next[priority]++,
                                    .size = stamp_size(&random, part->largest)};

        stamp_fill(payload, &stamp);
        ACTOR_REQUIRE(mqc_publish(client, "load", payload, stamp.size, priority) == 0);
        n++;
    }
    ACTOR_REQUIRE(mqc_flush(client) == 0);
    actor_hear(self);
    actor_tell(self, n);
    mqc_close(client);
}

void load_read(struct actor *self, const void *context)
{
    const struct load_part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, 0);
    uint32_t next[LOAD_PUBLISHERS][LEVELS] = {0};
    uint64_t total = UINT64_MAX;
    uint64_t n = 0;

    ACTOR_REQUIRE(mqc_subscribe(client, "load", 0) == 0);
    actor_tell(self, 0);
    while (n < total) {
        struct mqc_message message;
        struct stamp stamp;
        int r = mqc_receive(client, &message, 100);

        if (total == UINT64_MAX && actor_has_said(self))
            total = actor_hear(self);
        if (r == -ETIMEDOUT)
            continue;
        ACTOR_REQUIRE(r == 0);
        ACTOR_REQUIRE(stamp_read(message.payload, message.size, &stamp));
        ACTOR_REQUIRE(stamp.stream == message.priority);
        if (stamp.number != next[stamp.publisher][message.priority])
            fprintf(stderr, "publisher %u, priority %u: number %u came, not %u\n", stamp.publisher,
                    message.priority, stamp.number, next[stamp.publisher][message.priority]);
        ACTOR_REQUIRE(stamp.number == next[stamp.publisher][message.priority]);
        next[stamp.publisher][message.priority]++;
        n++;
        mqc_message_free(&message);
    }
    ACTOR_REQUIRE(mqc_receive(client, &(struct mqc_message){0}, 0) == -EAGAIN);
    ACTOR_REQUIRE(mqc_missed(client) == 0);
    actor_tell(self, n);
    mqc_close(client);
}

/* An actor: answers requests. */
static void answer_on(struct actor *self, const void *context)
{
    const struct load_part *part = context;
    struct mqc *client = actor_open(part->instance, "answers", 0);

    actor_tell(self, 0);
    for (;;) {
        struct mqc_message message;

        ACTOR_REQUIRE(mqc_receive(client, &message, -1) == 0);
        ACTOR_REQUIRE(mqc_reply(client, &message, message.payload, message.size) == 0);
        mqc_message_free(&message);
    }
}

/* An actor: asks until it hears something; then says how many questions were answered. */
static void ask_on(struct actor *self, const void *context)
{
    const struct load_part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, 0);
    uint64_t n;

    actor_tell(self, 0);
    for (n = 0; !actor_has_said(self); n++) {
        const struct mqc_publication question = {
            .topic = "@answers", .payload = &n, .size = sizeof(n), .priority = n % LEVELS};
        struct mqc_message reply;

        ACTOR_REQUIRE(mqc_request(client, &question, &reply, LONG_MS) == 0);
        ACTOR_REQUIRE(reply.size == sizeof(n) && memcmp(reply.payload, &n, sizeof(n)) == 0);
        mqc_message_free(&reply);
    }
    actor_hear(self);
    actor_tell(self, n);
    mqc_close(client);
}

void load_begin(struct load *l, const struct daemon *d, uint32_t largest)
{
    struct load_part part = {.instance = d->instance, .largest = largest};

    for (unsigned i = 0; i < LOAD_SUBSCRIBERS; i++) {
        actor_start(&l->subscribers[i], load_read, &part);
        actor_hear(&l->subscribers[i]);
    }
    actor_start(&l->server, answer_on, &part);
    actor_hear(&l->server);
    actor_start(&l->asker, ask_on, &part);
    actor_hear(&l->asker);
    for (part.publisher = 0; part.publisher < LOAD_PUBLISHERS; part.publisher++) {
        part.batching = part.publisher % 2;
        actor_start(&l->publishers[part.publisher], load_publish, &part);
        actor_hear(&l->publishers[part.publisher]);
    }
}

uint64_t load_end(struct load *l)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < LOAD_PUBLISHERS; i++)
        actor_tell(&l->publishers[i], 0);
    for (unsigned i = 0; i < LOAD_PUBLISHERS; i++)
        total += actor_hear(&l->publishers[i]);
    for (unsigned i = 0; i < LOAD_SUBSCRIBERS; i++)
        actor_tell(&l->subscribers[i], total);
    for (unsigned i = 0; i < LOAD_SUBSCRIBERS; i++)
        assert_int_equal(actor_hear(&l->subscribers[i]), total);
    actor_tell(&l->asker, 0);
    printf("each of %d subscribers read all of %llu messages in order; %llu requests were all "
           "answered\n",
           LOAD_SUBSCRIBERS, (unsigned long long)total, (unsigned long long)actor_hear(&l->asker));
    for (unsigned i = 0; i < LOAD_PUBLISHERS; i++)
        actor_join(&l->publishers[i]);
    for (unsigned i = 0; i < LOAD_SUBSCRIBERS; i++)
        actor_join(&l->subscribers[i]);
    actor_join(&l->asker);
    actor_kill(&l->server);
    return total;
}

void load_wait(const struct daemon *d, uint32_t *random, uint32_t most)
{
    uint64_t in = board_get(&daemon_board(d)->totals.messages_in);
    uint64_t more = most / 30 + stamp_random(random) % most;

    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) >= in + more);
}
