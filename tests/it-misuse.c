/* Whoever may write to the request queues may write anything. Honest clients do not notice, each
 * envelope that is not believed is counted under its reason, and nothing stays of it. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libclient/client.h"
#include "libclient/queue.h"
#include "libclient/wire.h"
#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"

enum {
    THROWERS = 2,
    EACH = 4000, /* envelopes of each kind, of each thrower */
    HONEST = 20000,
    URGENT_WIDTH = 1280,
};

enum kind {
    RANDOM_BYTES,
    TRUNCATED,
    WRONG_LENGTH,
    WRONG_VERSION,
    RESERVED_SET,
    NO_SUCH_SESSION,
    FOREIGN_TOKEN,
    N_KINDS,
};

struct part {
    const char *instance;
    uint32_t seed;
    uint16_t victim; /* a session that lives */
};

static uint32_t next_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void fill(uint8_t *bytes, size_t size, uint32_t *random)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)next_random(random);
}

/* An envelope that would be good, if the token were: a message to everybody. */
static size_t put_plausible(uint8_t *bytes, uint16_t session, uint32_t *random)
{
    uint8_t token[WIRE_TOKEN_SIZE];
    size_t size = WIRE_ENVELOPE_SIZE;

    fill(token, sizeof(token), random);
    size += wire_put_message(bytes + size, WIRE_PUBLISH, 31, 0, 0, 0, "honest", 6, "forged", 6);
    wire_put_envelope(bytes, session, token, (uint32_t)size);
    return size;
}

static size_t put_nonsense(uint8_t *bytes, enum kind kind, const struct part *part,
                           uint32_t *random)
{
    size_t size = put_plausible(bytes, part->victim, random);

    switch (kind) {
    case RANDOM_BYTES:
        size = 1 + next_random(random) % URGENT_WIDTH;
        fill(bytes, size, random);
        bytes[0] = 0; /* not the magic, also by chance */
        break;
    case TRUNCATED:
        size = next_random(random) % WIRE_ENVELOPE_SIZE;
        break;
    case WRONG_LENGTH:
        size += next_random(random) % 2 ? 1 : (size_t)-1;
        break;
    case WRONG_VERSION:
        bytes[8]++;
        break;
    case RESERVED_SET:
        bytes[12 + next_random(random) % 4] = 1;
        break;
    case NO_SUCH_SESSION:
        wire_put_envelope(bytes, (uint16_t)(20 + next_random(random) % 60000), bytes + 16,
                          (uint32_t)size);
        break;
    default:
        break;
    }
    return size;
}

/* An actor: throws all kinds at both queues, in any order. */
static void throw_nonsense(struct actor *self, const void *context)
{
    const struct part *part = context;
    uint8_t bytes[WIRE_QUEUE_MAX] = {0};
    uint32_t random = part->seed;
    struct queue queues[2];
    char name[NAMES_MAX];

    names_request_queue(name, part->instance);
    ACTOR_REQUIRE(queue_open(&queues[0], name, O_WRONLY) == 0);
    names_urgent_queue(name, part->instance);
    ACTOR_REQUIRE(queue_open(&queues[1], name, O_WRONLY) == 0);
    actor_tell(self, 0);
    actor_hear(self);
    for (unsigned i = 0; i < EACH * N_KINDS; i++) {
        size_t size = put_nonsense(bytes, i % N_KINDS, part, &random);
        const struct queue *q = &queues[next_random(&random) % 2];

        ACTOR_REQUIRE(queue_send(q, bytes, size, next_random(&random) % 33) == 0);
    }
}

static void publish_honestly(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = actor_open(part->instance, NULL, MQC_PUBLISH_ONLY);

    actor_tell(self, 0);
    actor_hear(self);
    for (uint32_t i = 0; i < HONEST; i++)
        ACTOR_REQUIRE(mqc_publish(client, "honest", &i, sizeof(i), i % 4 == 0 ? 31 : 8) == 0);
    mqc_close(client);
}

static uint64_t sum_rejects(const struct board_header *board)
{
    const _Atomic uint64_t *words = (const _Atomic uint64_t *)&board->rejects;
    uint64_t n = 0;

    for (size_t i = 0; i < sizeof(board->rejects) / sizeof(*words); i++)
        n += board_get(&words[i]);
    return n;
}

/* All of the honest ones, in order within each priority, and nothing else. */
static void read_honest(struct mqc *subscriber)
{
    uint32_t next[2] = {1, 0};

    for (uint32_t n = 0; n < HONEST; n++) {
        struct mqc_message message;
        uint32_t number;

        if (mqc_receive(subscriber, &message, PATIENCE_MS) < 0)
            fail_msg("after %u messages: %s", n, mqc_last_error());
        assert_int_equal(message.size, sizeof(number));
        memcpy(&number, message.payload, sizeof(number));
        if (message.priority == 31) {
            assert_int_equal(number, next[1]);
            next[1] += 4;
        } else {
            assert_int_equal(number, next[0]);
            next[0] += number % 4 == 3 ? 2 : 1;
        }
        mqc_message_free(&message);
    }
}

static void nobody_notices_nonsense_and_each_is_counted_under_its_reason(void **state)
{
    struct daemon *d = *state;
    struct part part = {.instance = d->instance, .victim = 0};
    const struct board_header *board;
    const struct board_rejects *rejects;
    struct actor throwers[THROWERS];
    struct actor publisher;
    struct mqc *subscriber;
    unsigned descriptors;

    daemon_start(d, "stall_timeout = \"1h\";\n");
    board = daemon_board(d);
    rejects = &board->rejects;
    subscriber = daemon_open(d, NULL, 0); /* row 0: the victim */
    assert_int_equal(mqc_subscribe(subscriber, "honest", 0), 0);
    actor_start(&publisher, publish_honestly, &part);
    actor_hear(&publisher);
    descriptors = daemon_descriptors(d);
    for (unsigned i = 0; i < THROWERS; i++) {
        part.seed = 88172645 + i;
        actor_start(&throwers[i], throw_nonsense, &part);
        actor_hear(&throwers[i]);
    }
    actor_tell(&publisher, 0);
    for (unsigned i = 0; i < THROWERS; i++)
        actor_tell(&throwers[i], 0);

    read_honest(subscriber);
    for (unsigned i = 0; i < THROWERS; i++)
        actor_join(&throwers[i]);
    PATIENCE_UNTIL(sum_rejects(board) >= (uint64_t)THROWERS * EACH * N_KINDS);
    actor_join(&publisher);
    PATIENCE_UNTIL(daemon_rows(d) == 1);
    printf("%d envelopes of nonsense thrown among %d honest messages: rejected %llu (truncated "
           "%llu, magic %llu, "
           "version %llu, length %llu, reserved %llu, session %llu, token %llu, frame %llu)\n",
           THROWERS * EACH * N_KINDS, HONEST, (unsigned long long)sum_rejects(board),
           (unsigned long long)board_get(&rejects->truncated),
           (unsigned long long)board_get(&rejects->magic),
           (unsigned long long)board_get(&rejects->version),
           (unsigned long long)board_get(&rejects->length),
           (unsigned long long)board_get(&rejects->reserved),
           (unsigned long long)board_get(&rejects->session),
           (unsigned long long)board_get(&rejects->token),
           (unsigned long long)board_get(&rejects->frame));
    assert_int_equal(sum_rejects(board), THROWERS * EACH * N_KINDS);
    assert_int_equal(board_get(&rejects->version), THROWERS * EACH);
    assert_int_equal(board_get(&rejects->reserved), THROWERS * EACH);
    assert_int_equal(board_get(&rejects->session), THROWERS * EACH);
    assert_int_equal(board_get(&rejects->token), THROWERS * EACH);
    assert_int_equal(board_get(&rejects->frame), 0);
    assert_int_equal(board_get(&board->totals.messages_in), HONEST);
    assert_int_equal(mqc_receive(subscriber, &(struct mqc_message){0}, 0), -EAGAIN);
    assert_int_equal(mqc_missed(subscriber), 0);
    PATIENCE_UNTIL(board_get(&board->references_used) == 1); /* the subscription */
    assert_int_equal(board_get(&board->cells_used), 1);
    assert_true(daemon_descriptors(d) <= descriptors);
    mqc_close(subscriber);
}

/* An envelope of one's own, sent again after the goodbye: by then the token is nobody's, also if
 * somebody else has the row. */
static void a_replay_after_the_goodbye_is_not_believed(void **state)
{
    struct daemon *d = *state;
    uint8_t bytes[256];
    uint8_t token[WIRE_TOKEN_SIZE];
    size_t size = WIRE_ENVELOPE_SIZE;
    uint16_t row;
    const struct board_header *board;
    struct mqc *old, *heir;
    struct queue request;
    char name[NAMES_MAX];

    daemon_start(d, NULL);
    board = daemon_board(d);
    old = daemon_open(d, NULL, 0);
    row = old->session.id;
    memcpy(token, old->session.token, sizeof(token));
    mqc_close(old);
    PATIENCE_UNTIL(daemon_rows(d) == 0);

    size += wire_put_message(bytes + size, WIRE_PUBLISH, 8, 0, 0, 0, "t", 1, "again", 5);
    wire_put_envelope(bytes, row, token, (uint32_t)size);
    names_request_queue(name, d->instance);
    assert_int_equal(queue_open(&request, name, O_WRONLY), 0);
    assert_int_equal(queue_send(&request, bytes, size, 8), 0);
    PATIENCE_UNTIL(board_get(&board->rejects.session) == 1);

    heir = daemon_open(d, NULL, 0);
    assert_int_equal(heir->session.id, row);
    assert_int_equal(mqc_subscribe(heir, "t", 0), 0);
    assert_int_equal(queue_send(&request, bytes, size, 8), 0);
    PATIENCE_UNTIL(board_get(&board->rejects.token) == 1);
    assert_int_equal(mqc_receive(heir, &(struct mqc_message){0}, 0), -EAGAIN);
    queue_close(&request);
    mqc_close(heir);
}

/* A client with a good token may still send nonsense frames: what stood before them holds. */
static void malformed_frames_of_a_session_are_counted_for_it(void **state)
{
    enum { ENVELOPES = 5000 };
    struct daemon *d = *state;
    const struct board_header *board;
    struct mqc *client;
    struct queue request;
    char name[NAMES_MAX];
    uint32_t random = 362436069;

    daemon_start(d, NULL);
    board = daemon_board(d);
    client = daemon_open(d, NULL, 0);
    names_request_queue(name, d->instance);
    assert_int_equal(queue_open(&request, name, O_WRONLY), 0);
    for (unsigned i = 0; i < ENVELOPES; i++) {
        uint8_t bytes[WIRE_QUEUE_MAX];
        size_t size = WIRE_ENVELOPE_SIZE;
        size_t nonsense = 1 + next_random(&random) % 200;

        size += wire_put_message(bytes + size, WIRE_PUBLISH, 8, 0, 0, 0, "nobody", 6, "x", 1);
        fill(bytes + size, nonsense, &random);
        if (nonsense > 2)
            bytes[size + 2] = 200; /* no such type */
        size += nonsense;
        wire_put_envelope(bytes, client->session.id, client->session.token, (uint32_t)size);
        assert_int_equal(queue_send(&request, bytes, size, 8), 0);
    }
    PATIENCE_UNTIL(board_get(&board->rejects.frame) == ENVELOPES);
    assert_int_equal(board_get(&board_row(board, client->session.id)->rejected), ENVELOPES);
    assert_int_equal(board_get(&board->totals.messages_in), ENVELOPES);
    assert_int_equal(sum_rejects(board), ENVELOPES);
    queue_close(&request);
    assert_int_equal(mqc_subscribe(client, "still/here", 0), 0);
    mqc_close(client);
}

/* Registrations by the thousand: pids that are nobody's, names that are none. Each is refused, none
 * keeps a row. */
static void registrations_of_nobody_leave_no_row(void **state)
{
    enum { REGISTRATIONS = 2000 };
    static const uint8_t no_token[WIRE_TOKEN_SIZE];
    struct daemon *d = *state;
    const struct board_header *board;
    struct mqc *client;
    struct queue urgent;
    char name[NAMES_MAX];
    unsigned descriptors;

    daemon_start(d, NULL);
    board = daemon_board(d);
    client = daemon_open(d, NULL, 0);
    descriptors = daemon_descriptors(d);
    names_urgent_queue(name, d->instance);
    assert_int_equal(queue_open(&urgent, name, O_WRONLY), 0);
    for (uint64_t i = 1; i <= REGISTRATIONS; i++) {
        uint8_t bytes[256];
        size_t size = WIRE_ENVELOPE_SIZE;
        bool bad_name = i % 2 == 0;

        size += wire_put_register(bytes + size, 0, i, bad_name ? 1 : 4194304 + 1, i, i,
                                  bad_name ? "a/b" : "", bad_name ? 3 : 0);
        wire_put_envelope(bytes, WIRE_NO_SESSION, no_token, (uint32_t)size);
        assert_int_equal(queue_send(&urgent, bytes, size, WIRE_CONTROL), 0);
    }
    PATIENCE_UNTIL(board_get(&board->totals.refused_registrations) == REGISTRATIONS);
    assert_int_equal(daemon_rows(d), 1);
    assert_true(daemon_descriptors(d) <= descriptors);
    queue_close(&urgent);
    mqc_close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(nobody_notices_nonsense_and_each_is_counted_under_its_reason),
        DAEMON_TEST(a_replay_after_the_goodbye_is_not_believed),
        DAEMON_TEST(malformed_frames_of_a_session_are_counted_for_it),
        DAEMON_TEST(registrations_of_nobody_leave_no_row),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
