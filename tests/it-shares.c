/* What a session shares with the broker: its outbox, its pool, and copies. With sessions by hand,
 * which do what no honest client does. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/raw.h"

enum {
    FIRST = POOL_PAYLOADS / WIRE_SLOT_UNIT, /* where payloads begin, in units */
    NARROW = 464,
};

/* So many that reply queues are as narrow as can be. */
static const char many_clients[] = "max_clients = 120; references = 262144;";

static uint64_t returned(const struct raw *r)
{
    return atomic_load(&raw_outbox(r)->returned);
}

static void nudge(struct raw *r)
{
    uint8_t frame[WIRE_HEAD_SIZE];

    raw_control(r, frame, wire_put_nudge(frame));
}

static void fetch(struct raw *r, uint64_t name)
{
    uint8_t frame[WIRE_FETCH_SIZE];

    raw_control(r, frame, wire_put_fetch(frame, name));
}

static void expect_end(struct raw *r, uint8_t code)
{
    struct wire_frame end;

    raw_next_of(r, WIRE_ENDED, &end);
    assert_int_equal(end.code, code);
}

/* Bytes of memory that a segment has. */
static uint64_t memory_of(const struct segment *s)
{
    struct stat status;

    assert_int_equal(fstat(s->fd, &status), 0);
    return (uint64_t)status.st_blocks * 512;
}

static uint64_t size_of(const struct segment *s)
{
    struct stat status;

    assert_int_equal(fstat(s->fd, &status), 0);
    return (uint64_t)status.st_size;
}

/* A publisher and a receiver of all its messages, both with pools. */
static void open_both(const struct daemon *d, struct raw *publisher, struct raw *receiver,
                      size_t payloads)
{
    raw_open(publisher, d, "publisher");
    raw_make_pool(publisher, payloads);
    raw_open(receiver, d, "receiver");
    raw_make_pool(receiver, 0);
    raw_subscribe(receiver, "#");
}

static uint8_t *payload_of(const struct raw *r)
{
    return (uint8_t *)r->pool.base + POOL_PAYLOADS;
}

static void a_session_has_an_outbox_as_long_as_it_lives(void **state)
{
    struct daemon *d = *state;
    struct raw r;

    daemon_start(d, NULL);
    raw_open(&r, d, "");
    assert_int_equal(daemon_segments(d, ".outbox"), 1);
    assert_int_equal(raw_outbox(&r)->magic, OUTBOX_MAGIC);
    assert_int_equal(raw_outbox(&r)->layout, OUTBOX_LAYOUT);
    assert_true(raw_outbox(&r)->nonce == r.nonce);
    assert_int_equal(r.welcome.buffers, 12);
    assert_int_equal(r.welcome.buffer_size, OUTBOX_BUFFER);
    assert_int_equal(r.welcome.pool_max, 256 << 20);
    assert_true(memory_of(&r.outbox) <= outbox_buffer_offset(1)); /* the rest when it is needed */
    raw_close(&r, true);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    assert_int_equal(daemon_segments(d, ".outbox"), 0);
    assert_int_equal(daemon_segments(d, ".pool"), 0);
}

static void large_batches_reach_a_narrow_queue(void **state)
{
    enum { MESSAGES = 500, SIZE = 1000 };
    struct daemon *d = *state;
    struct raw publisher, receiver;
    uint8_t frame[1240];
    uint8_t payload[SIZE] = {0};

    daemon_start(d, many_clients);
    open_both(d, &publisher, &receiver, 0);
    assert_true(receiver.reply.width < SIZE);
    for (uint32_t sent = 0, got = 0; got < MESSAGES;) {
        for (; sent < MESSAGES && sent < got + 200; sent++) {
            memcpy(payload, &sent, sizeof(sent));
            raw_message(&publisher, frame,
                        wire_put_message(frame, WIRE_PUBLISH, 8, 0, 0, 0, "a", 1, payload, SIZE),
                        8);
        }
        for (; got < sent; got++) {
            struct wire_frame message;
            uint32_t number;

            raw_next_of(&receiver, WIRE_MESSAGE, &message);
            assert_int_equal(message.payload_size, SIZE);
            memcpy(&number, message.payload, sizeof(number));
            assert_int_equal(number, got);
        }
    }
    assert_true(receiver.n_boxed > 0);
    assert_int_equal(board_get(&daemon_board(d)->totals.boxed), receiver.n_boxed);
    assert_true(raw_outbox(&receiver)->n_buffers <= receiver.welcome.buffers);
    raw_close(&publisher, true);
    raw_close(&receiver, true);
}

static void S7_a_place_comes_back_when_its_receiver_is_done(void **state)
{
    struct daemon *d = *state;
    struct raw publisher, receiver;
    struct wire_frame message;

    daemon_start(d, NULL);
    open_both(d, &publisher, &receiver, 4096);
    raw_publish(&publisher, "a", FIRST, 4000, 77);
    raw_next_of(&receiver, WIRE_MESSAGE, &message);
    assert_int_equal(message.flags & WIRE_F_POOLED, WIRE_F_POOLED);
    assert_true(message.slot.pool == publisher.pool_nonce);
    assert_int_equal(message.slot.offset, FIRST);
    assert_int_equal(message.slot.size, 4000);
    nudge(&publisher); /* held: nothing comes back, however often the broker looks */
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.nudges) == 1);
    assert_int_equal(returned(&publisher), 0);
    raw_release(&receiver, message.slot.name);
    nudge(&publisher);
    PATIENCE_UNTIL(returned(&publisher) == 1);
    assert_true(atomic_load(&raw_outbox(&publisher)->ring[0]) == ((uint64_t)FIRST << 32 | 77));
    raw_close(&publisher, true);
    raw_close(&receiver, true);
}

static void S1_who_cuts_its_pool_off_ends_alone(void **state)
{
    struct daemon *d = *state;
    struct raw publisher, receiver, other;
    struct wire_frame message;

    daemon_start(d, NULL);
    open_both(d, &publisher, &receiver, 4096);
    raw_open(&other, d, "");
    raw_make_pool(&other, 0);
    raw_subscribe(&other, "#");
    raw_publish(&publisher, "a", FIRST, 4000, 1);
    raw_next_of(&receiver, WIRE_MESSAGE, &message);
    raw_next_of(&other, WIRE_MESSAGE, &message);
    assert_int_equal(ftruncate(receiver.pool.fd, 0), 0);
    nudge(&publisher);
    expect_end(&receiver, WIRE_C_BAD_POOL);
    raw_release(&other, message.slot.name);
    raw_publish(&publisher, "a", FIRST + 1, 64, 2);
    raw_next_of(&other, WIRE_MESSAGE, &message);
    raw_release(&other, message.slot.name);
    nudge(&publisher);
    PATIENCE_UNTIL(returned(&publisher) >= 1);
    raw_close(&publisher, true);
    raw_close(&receiver, false);
    raw_close(&other, true);
}

static void S1_a_pool_that_is_none_ends_its_session(void **state)
{
    struct daemon *d = *state;
    struct raw publisher, receiver;
    struct wire_frame message;

    daemon_start(d, NULL);
    for (int wrong = 0; wrong < 3; wrong++) {
        raw_open(&publisher, d, "");
        raw_make_pool(&publisher, 4096);
        raw_open(&receiver, d, "");
        raw_make_pool(&receiver, 0);
        if (wrong == 0)
            raw_pool(&receiver)->magic ^= 1;
        else if (wrong == 1)
            raw_pool(&receiver)->nonce ^= 1;
        else
            raw_pool(&receiver)->released = POOL_RING + 1;
        raw_subscribe(&receiver, "#");
        raw_publish(&publisher, "a", FIRST, 64, 1);
        raw_next_of(&receiver, WIRE_MESSAGE, &message);
        nudge(&publisher);
        expect_end(&receiver, WIRE_C_BAD_POOL);
        raw_close(&publisher, true);
        raw_close(&receiver, false);
    }
    PATIENCE_UNTIL(daemon_rows(d) == 3); /* their process might read there still */
}

static void a_pool_that_never_comes_ends_its_session(void **state)
{
    struct daemon *d = *state;
    struct raw publisher, receiver;
    struct wire_frame message;

    daemon_start(d, NULL);
    raw_open(&publisher, d, "");
    raw_make_pool(&publisher, 4096);
    raw_open(&receiver, d, "");
    raw_subscribe(&receiver, "#");
    raw_publish(&publisher, "a", FIRST, 64, 1);
    raw_next_of(&receiver, WIRE_MESSAGE, &message);
    expect_end(&receiver, WIRE_C_BAD_POOL);
    raw_close(&publisher, true);
    raw_close(&receiver, false);
}

static void a_pool_may_come_after_the_first_message(void **state)
{
    struct daemon *d = *state;
    struct raw publisher, receiver;
    struct wire_frame message;

    daemon_start(d, NULL);
    raw_open(&publisher, d, "");
    raw_make_pool(&publisher, 4096);
    raw_open(&receiver, d, "");
    raw_subscribe(&receiver, "#");
    raw_publish(&publisher, "a", FIRST, 64, 1);
    raw_next_of(&receiver, WIRE_MESSAGE, &message);
    raw_make_pool(&receiver, 0);
    raw_release(&receiver, message.slot.name);
    nudge(&publisher);
    PATIENCE_UNTIL(returned(&publisher) == 1);
    raw_close(&publisher, true);
    raw_close(&receiver, true);
}

/* Batches fill one buffer after the other, until only the pool could say which have been taken. */
static void a_late_pool_lets_batches_go_on(void **state)
{
    enum { MESSAGES = 30, SIZE = 1100 }; /* seven of them a batch */
    struct daemon *d = *state;
    struct raw publisher, receiver;
    struct wire_frame message;
    uint8_t frame[1240];
    uint8_t payload[SIZE] = {0};
    uint32_t got = 0;

    daemon_start(d, many_clients);
    raw_open(&publisher, d, "");
    raw_open(&receiver, d, "");
    raw_subscribe(&receiver, "#");
    for (uint32_t i = 0; i < MESSAGES; i++) {
        raw_message(&publisher, frame,
                    wire_put_message(frame, WIRE_PUBLISH, 8, 0, 0, 0, "a", 1, payload, SIZE), 8);
        if (got == i && raw_outbox(&receiver)->n_buffers < receiver.welcome.buffers) {
            raw_next_of(&receiver, WIRE_MESSAGE, &message);
            got++;
        }
    }
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) == MESSAGES);
    assert_true(got < MESSAGES);
    raw_make_pool(&receiver, 0);
    for (; got < MESSAGES; got++)
        raw_next_of(&receiver, WIRE_MESSAGE, &message);
    raw_close(&publisher, true);
    raw_close(&receiver, true);
}

/* ---- Copies ---- */

static void fill(uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 7 + (i >> 8) * 13);
}

/* What was lent, compared with what the sender has. */
static void expect_lent(struct raw *r, uint64_t name, const uint8_t *payload, size_t size)
{
    struct wire_frame lent;
    uint8_t *copy = malloc(size);

    raw_next_of(r, WIRE_LENT, &lent);
    assert_int_equal(lent.code, WIRE_C_OK);
    assert_true(lent.number == name);
    assert_int_equal(lent.lent_size, size);
    assert_true(lent.lent_offset >= OUTBOX_COPIES);
    assert_non_null(copy);
    assert_int_equal(pread(r->outbox.fd, copy, size, (off_t)lent.lent_offset), size);
    assert_memory_equal(copy, payload, size);
    free(copy);
}

static void P9_a_payload_that_cannot_be_mapped_is_copied(void **state)
{
    enum { SIZE = 3000001 };
    struct daemon *d = *state;
    struct raw publisher, receiver;
    struct wire_frame message;

    daemon_start(d, NULL);
    open_both(d, &publisher, &receiver, SIZE);
    fill(payload_of(&publisher), SIZE);
    for (uint32_t i = 1; i <= 3; i++) {
        raw_publish(&publisher, "a", FIRST, SIZE, i);
        raw_next_of(&receiver, WIRE_MESSAGE, &message);
        fetch(&receiver, message.slot.name);
        expect_lent(&receiver, message.slot.name, payload_of(&publisher), SIZE);
        fetch(&receiver, message.slot.name); /* again: the same copy */
        expect_lent(&receiver, message.slot.name, payload_of(&publisher), SIZE);
        assert_true(size_of(&receiver.outbox) < OUTBOX_COPIES + 2 * SIZE);
        raw_release(&receiver, message.slot.name);
        nudge(&publisher);
        PATIENCE_UNTIL(returned(&publisher) == i);
    }
    assert_int_equal(board_get(&daemon_board(d)->totals.fetched), 6);
    PATIENCE_UNTIL(size_of(&receiver.outbox) == OUTBOX_COPIES); /* nothing is held: no memory */
    raw_close(&publisher, true);
    raw_close(&receiver, true);
}

static void what_is_not_held_or_was_cut_off_is_not_copied(void **state)
{
    enum { SIZE = 1000000 };
    struct daemon *d = *state;
    struct raw publisher, receiver;
    struct wire_frame message, lent;

    daemon_start(d, NULL);
    open_both(d, &publisher, &receiver, SIZE);
    raw_publish(&publisher, "a", FIRST, SIZE, 1);
    raw_next_of(&receiver, WIRE_MESSAGE, &message);
    fetch(&receiver, message.slot.name + 1);
    raw_next_of(&receiver, WIRE_LENT, &lent);
    assert_int_equal(lent.code, WIRE_C_NO_COPY);
    fetch(&publisher, message.slot.name); /* another one's */
    raw_next_of(&publisher, WIRE_LENT, &lent);
    assert_int_equal(lent.code, WIRE_C_NO_COPY);
    assert_int_equal(ftruncate(publisher.pool.fd, POOL_PAYLOADS + SIZE / 2), 0);
    fetch(&receiver, message.slot.name);
    raw_next_of(&receiver, WIRE_LENT, &lent);
    assert_int_equal(lent.code, WIRE_C_NO_COPY);
    assert_true(lent.number == message.slot.name);
    raw_close(&publisher, true);
    raw_close(&receiver, true);
}

static void who_finds_no_space_for_a_copy_waits_for_its_own(void **state)
{
    enum { SIZE = 400000 };
    struct daemon *d = *state;
    struct raw publisher, receiver;
    struct wire_frame message[3];

    daemon_start(d, "pool_max = \"1M\";");
    open_both(d, &publisher, &receiver, SIZE);
    fill(payload_of(&publisher), SIZE);
    for (uint32_t i = 0; i < 3; i++) { /* the same bytes thrice; each is another delivery */
        raw_publish(&publisher, "a", FIRST, i == 2 ? SIZE / 2 : SIZE, i + 1);
        if (i == 2) /* holds half of what a pool may have */
            break;
        raw_next_of(&receiver, WIRE_MESSAGE, &message[i]);
        fetch(&receiver, message[i].slot.name);
        expect_lent(&receiver, message[i].slot.name, payload_of(&publisher), SIZE);
        raw_release(&receiver, message[i].slot.name);
    }
    raw_next_of(&receiver, WIRE_MESSAGE, &message[2]);
    fetch(&receiver, message[2].slot.name);
    expect_lent(&receiver, message[2].slot.name, payload_of(&publisher), SIZE / 2);
    raw_release(&receiver, message[2].slot.name);
    nudge(&publisher);
    PATIENCE_UNTIL(returned(&publisher) == 3);
    raw_close(&publisher, true);
    raw_close(&receiver, true);
}

/* ---- Across deaths ---- */

static void S7_a_pool_outlives_its_session_while_it_is_read(void **state)
{
    struct daemon *d = *state;
    struct raw publisher, receiver;
    struct wire_frame message;

    daemon_start(d, NULL);
    open_both(d, &publisher, &receiver, 4096);
    raw_publish(&publisher, "a", FIRST, 64, 1);
    raw_next_of(&receiver, WIRE_MESSAGE, &message);
    raw_close(&publisher, true);
    PATIENCE_UNTIL(daemon_rows(d) == 1);
    assert_int_equal(daemon_segments(d, ".pool"), 2);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->orphans) == 1);
    daemon_kill(d);
    daemon_restart(d);
    assert_int_equal(daemon_segments(d, ".pool"), 2);
    raw_release(&receiver, message.slot.name);
    PATIENCE_UNTIL(daemon_segments(d, ".pool") == 1);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->orphans) == 0);
    raw_close(&receiver, true);
    PATIENCE_UNTIL(daemon_segments(d, ".pool") == 0);
}

static void what_clients_were_told_a_pool_may_have_holds_after_a_kill(void **state)
{
    enum { SIZE = 1000 };
    struct daemon *d = *state;
    struct raw r;
    struct wire_frame message;

    daemon_start(d, "pool_max = \"2M\";");
    raw_open(&r, d, "");
    assert_int_equal(r.welcome.pool_max, 2 << 20);
    raw_make_pool(&r, r.welcome.pool_max - POOL_PAYLOADS);
    raw_subscribe(&r, "#");
    daemon_kill(d);
    daemon_configure(d, "pool_max = \"1M\";");
    daemon_restart(d);
    assert_true(daemon_said(d, "pool_max stays 2097152 until the next clean stop"));
    raw_publish(&r, "a", (2 << 20) / WIRE_SLOT_UNIT - SIZE / WIRE_SLOT_UNIT - 1, SIZE, 1);
    raw_next_of(&r, WIRE_MESSAGE, &message);
    assert_int_equal(message.slot.size, SIZE);
    raw_close(&r, true);
}

static void K8_an_outbox_that_is_not_the_one_that_was_made_ends_its_session(void **state)
{
    struct daemon *d = *state;
    struct raw r, other;
    char name[NAMES_MAX];
    struct segment forged;

    daemon_start(d, NULL);
    raw_open(&r, d, "");
    raw_open(&other, d, "");
    daemon_kill(d);
    names_outbox(name, d->instance, r.nonce);
    assert_int_equal(shm_unlink(name), 0);
    assert_int_equal(segment_create(&forged, name, OUTBOX_COPIES, 0600), 0);
    daemon_restart(d);
    expect_end(&r, WIRE_C_QUEUE_REPLACED);
    PATIENCE_UNTIL(daemon_rows(d) == 1);
    raw_subscribe(&other, "a");
    segment_close(&forged);
    raw_close(&r, false);
    raw_close(&other, true);
}

static void K3_a_boxed_batch_survives_a_kill_of_the_broker(void **state)
{
    enum { MESSAGES = 40, SIZE = 1000 };
    struct daemon *d = *state;
    struct raw publisher, receiver;
    uint8_t frame[1240];
    uint8_t payload[SIZE] = {0};

    daemon_start(d, many_clients);
    open_both(d, &publisher, &receiver, 0);
    for (uint32_t i = 0; i < MESSAGES; i++) {
        memcpy(payload, &i, sizeof(i));
        raw_message(&publisher, frame,
                    wire_put_message(frame, WIRE_PUBLISH, 8, 0, 0, 0, "a", 1, payload, SIZE), 8);
    }
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) == MESSAGES);
    daemon_kill(d);
    daemon_restart(d);
    for (uint32_t i = 0; i < MESSAGES; i++) {
        struct wire_frame message;
        uint32_t number;

        raw_next_of(&receiver, WIRE_MESSAGE, &message);
        memcpy(&number, message.payload, sizeof(number));
        assert_int_equal(number, i);
    }
    assert_true(receiver.n_boxed > 0);
    raw_close(&publisher, true);
    raw_close(&receiver, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(a_session_has_an_outbox_as_long_as_it_lives),
        DAEMON_TEST(large_batches_reach_a_narrow_queue),
        DAEMON_TEST(S7_a_place_comes_back_when_its_receiver_is_done),
        DAEMON_TEST(S1_who_cuts_its_pool_off_ends_alone),
        DAEMON_TEST(S1_a_pool_that_is_none_ends_its_session),
        DAEMON_TEST(a_pool_that_never_comes_ends_its_session),
        DAEMON_TEST(a_pool_may_come_after_the_first_message),
        DAEMON_TEST(a_late_pool_lets_batches_go_on),
        DAEMON_TEST(P9_a_payload_that_cannot_be_mapped_is_copied),
        DAEMON_TEST(what_is_not_held_or_was_cut_off_is_not_copied),
        DAEMON_TEST(who_finds_no_space_for_a_copy_waits_for_its_own),
        DAEMON_TEST(S7_a_pool_outlives_its_session_while_it_is_read),
        DAEMON_TEST(what_clients_were_told_a_pool_may_have_holds_after_a_kill),
        DAEMON_TEST(K8_an_outbox_that_is_not_the_one_that_was_made_ends_its_session),
        DAEMON_TEST(K3_a_boxed_batch_survives_a_kill_of_the_broker),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
