/* libclient/session: the protocol engine of a client, without a kernel and without a broker.
 *
 * The helpers stand in for the broker's side: `struct peer` has a board row and makes batches. The
 * model at the end is a broker with a queue of ten places and a backlog, whose steps and the
 * reader's are shuffled by a seed. */
#include "libclient/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { DEPTH = 4, WIDTH = 1280, NORMAL = 2048, URGENT = 1280, ID = 3 };

#define NONCE  UINT64_C(0x1122334455667788)
#define WINDOW (UINT64_C(64) * WIRE_CELL_SIZE)

/* The broker's side. */
struct peer {
    struct session session;
    struct board_row row;
    struct pool_header *pool;
    uint8_t *outbox;
    uint64_t number; /* of the last batch */
    uint64_t grant;
    /* The batch that is being made. */
    uint8_t bytes[WIDTH];
    uint32_t size;
};

static void announce(struct peer *p, unsigned level, uint64_t number, uint32_t waiting)
{
    atomic_store(&p->row.level[level], (uint32_t)number);
    atomic_store(&p->row.tide, (uint64_t)waiting << 32 | (uint32_t)number);
}

static void begin(struct peer *p)
{
    p->size = WIRE_BATCH_SIZE;
}

static void add_message(struct peer *p, uint8_t priority, uint16_t flags, uint64_t number,
                        uint64_t expiry, const char *topic, const char *payload)
{
    p->size += (uint32_t)wire_put_message(p->bytes + p->size, WIRE_MESSAGE, priority, flags, number,
                                          expiry, topic, strlen(topic), payload, strlen(payload));
}

static void add_answer(struct peer *p, uint8_t code, uint32_t number, uint32_t count)
{
    p->size += (uint32_t)wire_put_answer(p->bytes + p->size, code, number, count);
}

/* What the kernel would do: hand the bytes over at a kernel priority. */
static int arrive_as(struct peer *p, unsigned level, uint64_t number)
{
    struct inbox_batch *batch = inbox_blank(&p->session.inbox);

    wire_put_batch(p->bytes, ID, (uint8_t)level, number, p->grant, 0, p->size);
    memcpy(batch->bytes, p->bytes, p->size);
    return session_arrive(&p->session, batch, p->size, level);
}

static int arrive(struct peer *p, unsigned level)
{
    return arrive_as(p, level, ++p->number);
}

static void arrive_message(struct peer *p, uint8_t priority, const char *payload)
{
    begin(p);
    add_message(p, priority, 0, 0, 0, "t", payload);
    assert_int_equal(arrive(p, priority), SESSION_ARRIVED);
}

/* What the reader reads next must be this. */
static void expect(struct peer *p, const char *payload)
{
    struct wire_frame frame;

    assert_int_equal(session_next(&p->session), SESSION_MESSAGE);
    assert_true(session_peek(&p->session, &frame));
    assert_int_equal(frame.payload_size, strlen(payload));
    assert_memory_equal(frame.payload, payload, strlen(payload));
    inbox_release(session_hand_out(&p->session, &frame));
}

static void send_welcome(struct peer *p, uint64_t nonce, uint16_t id)
{
    static const uint8_t token[WIRE_TOKEN_SIZE] = "0123456789abcde";
    struct wire_frame welcome = {.nonce = nonce,
                                 .token = token,
                                 .session = id,
                                 .depth = DEPTH,
                                 .width = WIDTH,
                                 .frame_max = 1200,
                                 .window = WINDOW,
                                 .pool_max = 1 << 20,
                                 .buffers = 4,
                                 .buffer_size = OUTBOX_BUFFER};

    begin(p);
    p->size += (uint32_t)wire_put_welcome(p->bytes + p->size, &welcome);
    arrive(p, WIRE_CONTROL);
}

static void *make_segment(size_t size)
{
    void *segment = aligned_alloc(4096, size);

    memset(segment, 0, size);
    return segment;
}

static int setup(void **state)
{
    struct peer *p = calloc(1, sizeof(*p));

    p->pool = make_segment(sizeof(*p->pool));
    p->outbox = make_segment(OUTBOX_COPIES);

    session_init(&p->session, NORMAL, URGENT, NONCE, DEPTH, OUTBOX_BUFFER);
    p->grant = WINDOW;
    send_welcome(p, NONCE, ID);
    session_attach(&p->session, &p->row, p->pool, p->outbox);
    announce(p, WIRE_CONTROL, p->number, 0);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct peer *p = *state;

    session_deinit(&p->session);
    free(p->pool);
    free(p->outbox);
    free(p);
    return 0;
}

/* ---- Welcome and the end ---- */

static void welcome_is_taken_once_and_only_for_its_nonce(void **state)
{
    struct peer *p = *state;

    assert_true(p->session.welcomed);
    assert_int_equal(p->session.id, ID);
    assert_int_equal(p->session.frame_max, 1200);
    send_welcome(p, NONCE, 5);
    assert_int_equal(p->session.id, ID);

    session_deinit(&p->session);
    session_init(&p->session, NORMAL, URGENT, NONCE + 1, DEPTH, OUTBOX_BUFFER);
    send_welcome(p, NONCE, ID);
    assert_false(p->session.welcomed);
}

static void K9_stopped_comes_after_all_messages(void **state)
{
    struct peer *p = *state;

    arrive_message(p, 0, "low");
    begin(p);
    p->size += (uint32_t)wire_put_end(p->bytes + p->size, WIRE_STOPPED, WIRE_C_STOPPING);
    arrive(p, 0);
    assert_int_equal(p->session.ended, WIRE_STOPPED); /* who waits for room knows at once */
    expect(p, "low");
    assert_int_equal(session_next(&p->session), SESSION_OVER);
}

static void ended_keeps_its_reason(void **state)
{
    struct peer *p = *state;

    begin(p);
    p->size += (uint32_t)wire_put_end(p->bytes + p->size, WIRE_ENDED, WIRE_C_KICKED);
    arrive(p, 0);
    assert_int_equal(session_next(&p->session), SESSION_OVER);
    assert_int_equal(p->session.ended, WIRE_ENDED);
    assert_int_equal(p->session.ended_code, WIRE_C_KICKED);
}

/* ---- Order, rule P1 ---- */

static void an_empty_inbox_always_looks_into_the_queue(void **state)
{
    struct peer *p = *state;

    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    session_found_empty(&p->session);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void P1_what_stands_in_the_queue_above_is_fetched_first(void **state)
{
    struct peer *p = *state;

    arrive_message(p, 3, "low");
    announce(p, 3, p->number, 0);
    announce(p, 9, p->number + 1, 0); /* sent, not read yet */
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    arrive_message(p, 9, "high");
    expect(p, "high");
    expect(p, "low");
}

static void P1_what_stands_below_or_beside_is_left_there(void **state)
{
    struct peer *p = *state;

    arrive_message(p, 9, "now");
    announce(p, 9, p->number, 0);
    announce(p, 9, p->number + 1, 0);
    announce(p, 3, p->number + 2, 0);
    expect(p, "now");
}

static void P1_what_is_found_when_the_level_falls_was_remembered(void **state)
{
    struct peer *p = *state;

    arrive_message(p, 3, "low");
    arrive_message(p, 9, "high");
    announce(p, 3, 2, 0);
    announce(p, 9, 3, 0);
    announce(p, 7, 4, 0); /* stands in the queue, between the two; the tide does not move again */
    expect(p, "high");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    p->number = 3;
    arrive_message(p, 7, "middle");
    expect(p, "middle");
    expect(p, "low");
}

static void P1_what_waits_in_the_broker_makes_it_fetch_then_linger(void **state)
{
    struct peer *p = *state;
    bool sleeps;

    arrive_message(p, 3, "low");
    announce(p, 3, p->number, 1u << 9);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    session_found_empty(&p->session);
    assert_int_equal(session_next(&p->session), SESSION_LINGER);
    assert_true(session_linger(&p->session, 1000, &sleeps) > 0);
    assert_false(sleeps);
    announce(p, 9, p->number + 1, 0); /* it went out */
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    arrive_message(p, 9, "high");
    expect(p, "high");
    expect(p, "low");
}

static void P1_a_lower_batch_on_the_way_is_progress(void **state)
{
    struct peer *p = *state;
    bool sleeps;

    arrive_message(p, 3, "low 1");
    announce(p, 3, p->number, 1u << 9);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    arrive_message(p, 3, "low 2"); /* the queue was full of these */
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    session_found_empty(&p->session);
    assert_int_equal(session_next(&p->session), SESSION_LINGER);
    assert_true(session_linger(&p->session, 1000, &sleeps) > 0);
    assert_false(sleeps);
    arrive_message(p, 3, "low 3"); /* the tide stands still, but something came: look anew */
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void P1_twenty_milliseconds_without_progress_are_enough(void **state)
{
    struct peer *p = *state;
    bool sleeps;

    arrive_message(p, 3, "low 1");
    arrive_message(p, 3, "low 2");
    announce(p, 3, p->number, 1u << 9);
    session_next(&p->session);
    session_found_empty(&p->session);
    assert_int_equal(session_next(&p->session), SESSION_LINGER);
    assert_int_equal(session_linger(&p->session, 5000000, &sleeps), 20000000);
    assert_false(sleeps);
    assert_int_equal(session_linger(&p->session, 24999999, &sleeps), 1);
    assert_true(sleeps); /* it has been awake for long enough */
    session_stirred(&p->session);
    assert_int_equal(session_next(&p->session), SESSION_FETCH); /* something came to the queue */
    session_found_empty(&p->session);
    assert_int_equal(session_next(&p->session), SESSION_LINGER);
    assert_int_equal(session_linger(&p->session, 25000000, &sleeps), 0);
    expect(p, "low 1");
    assert_int_equal(session_next(&p->session),
                     SESSION_MESSAGE); /* not again before the row changes */
    announce(p, 3, p->number, 1u << 9 | 1u << 4);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void P1_answers_standing_in_the_queue_come_first(void **state)
{
    struct peer *p = *state;

    arrive_message(p, 31, "highest");
    announce(p, 31, p->number, 0);
    announce(p, WIRE_CONTROL, p->number + 1, 0);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    begin(p);
    add_answer(p, WIRE_C_OK, 1, 1);
    arrive(p, WIRE_CONTROL);
    expect(p, "highest");
}

static void words_of_an_earlier_session_are_found_wrong_once(void **state)
{
    struct peer *p = *state;

    announce(p, 20, 777777, 0);
    arrive_message(p, 3, "low");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    session_found_empty(&p->session);
    expect(p, "low");
    announce(p, 20, p->number + 1, 0); /* a smaller number is news all the same */
    arrive_message(p, 3, "low");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void quiet_only_if_nothing_is_hinted_at(void **state)
{
    struct peer *p = *state;

    session_found_empty(&p->session);
    assert_true(session_quiet(&p->session));
    announce(p, 3, 50, 0);
    assert_false(session_quiet(&p->session));
    session_found_empty(&p->session);
    assert_true(session_quiet(&p->session));
    announce(p, 3, 50, 1); /* waits in the broker: does not stand yet */
    assert_true(session_quiet(&p->session));
}

static void frames_of_a_batch_come_in_their_order(void **state)
{
    struct peer *p = *state;

    begin(p);
    add_message(p, 3, 0, 0, 0, "t", "one");
    add_message(p, 3, 0, 0, 0, "t", "two");
    add_message(p, 3, 0, 0, 0, "t", "");
    arrive(p, 3);
    expect(p, "one");
    expect(p, "two");
    expect(p, "");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void an_empty_batch_brings_its_grant_and_nothing_else(void **state)
{
    struct peer *p = *state;

    begin(p);
    p->grant = 5 * WINDOW;
    assert_int_equal(arrive(p, 3), SESSION_ARRIVED);
    assert_false(session_has_something(&p->session));
    assert_int_equal(p->session.grant, 5 * WINDOW);
}

static void K3_a_repeated_batch_is_dropped(void **state)
{
    struct peer *p = *state;

    arrive_message(p, 3, "once");
    begin(p);
    add_message(p, 3, 0, 0, 0, "t", "once");
    assert_int_equal(arrive_as(p, 3, p->number), SESSION_REPEATED);
    assert_int_equal(p->session.repeated, 1);
    expect(p, "once");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

/* ---- Nonsense ---- */

static void what_is_no_batch_of_this_session_is_dropped_and_counted(void **state)
{
    struct peer *p = *state;
    struct inbox_batch *batch = inbox_blank(&p->session.inbox);

    memset(batch->bytes, 0x5a, WIDTH);
    assert_int_equal(session_arrive(&p->session, batch, WIDTH, 3), SESSION_MALFORMED);
    begin(p);
    add_message(p, 3, 0, 0, 0, "t", "x");
    batch = inbox_blank(&p->session.inbox);
    wire_put_batch(p->bytes, ID + 1, 3, 99, 0, 0, p->size);
    memcpy(batch->bytes, p->bytes, p->size);
    assert_int_equal(session_arrive(&p->session, batch, p->size, 3), SESSION_MALFORMED);
    batch = inbox_blank(&p->session.inbox);
    wire_put_batch(p->bytes, ID, 3, 99, 0, 0, p->size);
    memcpy(batch->bytes, p->bytes, p->size);
    assert_int_equal(session_arrive(&p->session, batch, p->size, 4), SESSION_MALFORMED);
    assert_int_equal(p->session.malformed, 3);
    assert_false(session_has_something(&p->session));
}

static void a_malformed_frame_ends_its_batch_what_stood_before_holds(void **state)
{
    struct peer *p = *state;
    uint32_t end;
    struct wire_frame frame;

    begin(p);
    add_message(p, 3, 0, 0, 0, "t", "good");
    end = p->size;
    add_message(p, 3, 0, 0, 0, "t", "bad");
    p->bytes[end + WIRE_AT_TYPE] = 77;
    add_message(p, 3, 0, 0, 0, "t", "behind");
    arrive(p, 3);
    expect(p, "good");
    assert_int_equal(session_next(&p->session), SESSION_MESSAGE);
    assert_false(session_peek(&p->session, &frame));
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    assert_int_equal(p->session.malformed, 1);
}

static void a_message_of_another_priority_than_its_batch_is_malformed(void **state)
{
    struct peer *p = *state;
    struct wire_frame frame;

    begin(p);
    add_message(p, 9, 0, 0, 0, "t", "x");
    arrive(p, 3);
    assert_false(session_peek(&p->session, &frame));
    assert_int_equal(p->session.malformed, 1);
}

static void no_bytes_hurt(void **state)
{
    struct peer *p = *state;
    struct wire_frame frame;

    srand(1);
    requests_open_call(&p->session.requests, true);
    for (int i = 0; i < 20000; i++) {
        struct inbox_batch *batch = inbox_blank(&p->session.inbox);
        unsigned level = (unsigned)rand() % INBOX_LEVELS;

        begin(p);
        for (int n = rand() % 4; n > 0; n--)
            add_message(p, (uint8_t)level & 31, (uint16_t)(rand() % 3 == 0 ? 8 : 0), (uint64_t)0, 0,
                        rand() % 2 ? "t" : "", "payload");
        if (rand() % 3 == 0)
            add_answer(p, (uint8_t)rand(), (uint32_t)rand() * 2u, (uint32_t)rand() * 2u);
        if (rand() % 3 == 0) /* what looks like a frame taken out */
            p->bytes[WIRE_BATCH_SIZE + WIRE_AT_TYPE] = 0;
        for (int n = rand() % 6; n > 0; n--)
            p->bytes[WIRE_BATCH_SIZE + (uint32_t)rand() % (WIDTH - WIRE_BATCH_SIZE)] =
                (uint8_t)rand();
        p->size += (uint32_t)rand() % 16;
        wire_put_batch(p->bytes, ID, (uint8_t)level, ++p->number, 0, 0, p->size);
        memcpy(batch->bytes, p->bytes, p->size);
        memset(batch->bytes + p->size, 0xff, WIDTH - p->size);
        session_arrive(&p->session, batch, p->size, level);
        p->session.ended = 0;
        while (session_has_something(&p->session)) {
            struct request failed;

            if (!requests_next_failed(&p->session.requests, &failed) &&
                session_peek(&p->session, &frame))
                inbox_release(session_hand_out(&p->session, &frame));
        }
        if (requests_call(&p->session.requests)->state != REQUEST_OPEN) {
            session_end_call(&p->session);
            requests_open_call(&p->session.requests, true);
        }
    }
    session_end_call(&p->session);
    assert_int_equal(p->session.inbox.n, 0);
}

/* ---- Requests ---- */

static void a_reply_leaves_the_middle_of_a_batch_and_order_stays(void **state)
{
    struct peer *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, true);

    arrive_message(p, 9, "high");
    announce(p, 9, p->number, 0);
    begin(p);
    add_message(p, 3, 0, 0, 0, "t", "before");
    add_message(p, 3, WIRE_F_REPLY, number, 0, "", "reply");
    add_message(p, 3, 0, 0, 0, "t", "behind");
    arrive(p, 3);
    assert_int_equal(requests_call(&p->session.requests)->state, REQUEST_DONE);
    assert_non_null(p->session.reply_batch);
    assert_memory_equal(p->session.reply.payload, "reply", 5);
    expect(p, "high");
    expect(p, "before");
    expect(p, "behind");
    /* The reply still holds its buffer. */
    assert_memory_equal(p->session.reply.payload, "reply", 5);
    assert_int_equal(p->session.reply_batch->holds, 1);
    session_end_call(&p->session);
    assert_null(p->session.reply_batch);
}

static void a_batch_with_nothing_but_the_reply_leaves_nothing_to_read(void **state)
{
    struct peer *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, true);

    begin(p);
    add_message(p, 3, WIRE_F_REPLY, number, 0, "", "reply");
    arrive(p, 3);
    assert_non_null(p->session.reply_batch);
    assert_false(session_has_something(&p->session));
    session_end_call(&p->session);
}

static void L2_only_the_first_reply_counts(void **state)
{
    struct peer *p = *state;
    uint32_t number = requests_open(&p->session.requests, 1000, 3);
    struct wire_frame frame;

    begin(p);
    add_message(p, 3, WIRE_F_REPLY, number, 0, "", "first");
    add_message(p, 3, WIRE_F_REPLY, number, 0, "", "second");
    arrive(p, 3);
    expect(p, "first");
    assert_false(session_peek(&p->session, &frame));
    assert_int_equal(p->session.stray, 1);
    assert_false(session_has_something(&p->session));
}

static void a_reply_to_a_call_that_was_given_up_is_left_out(void **state)
{
    struct peer *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, true);

    session_end_call(&p->session);
    begin(p);
    add_message(p, 3, WIRE_F_REPLY, number, 0, "", "late");
    add_message(p, 3, 0, 0, 0, "t", "message");
    arrive(p, 3);
    expect(p, "message");
    assert_int_equal(p->session.stray, 1);
}

static void late_replies_do_not_fill_the_inbox_of_who_only_asks(void **state)
{
    struct peer *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, true);

    for (unsigned i = 1; i <= 1000; i++) {
        session_end_call(&p->session);
        begin(p);
        add_message(p, 3, WIRE_F_REPLY, number, 0, "", "late");
        number = requests_open_call(&p->session.requests, true);
        arrive(p, 3);
        assert_int_equal(p->session.inbox.n, 0);
        assert_int_equal(p->session.stray, i);
    }
}

static void a_failed_request_is_told_before_messages(void **state)
{
    struct peer *p = *state;
    uint32_t number = requests_open(&p->session.requests, 1000, 3);
    struct request failed;

    arrive_message(p, 31, "message");
    announce(p, 31, p->number, 0);
    begin(p);
    add_answer(p, WIRE_C_NO_SUBSCRIBER, number, 1);
    arrive(p, WIRE_CONTROL);
    assert_int_equal(session_next(&p->session), SESSION_FAILED);
    assert_true(requests_next_failed(&p->session.requests, &failed));
    assert_int_equal(failed.code, WIRE_C_NO_SUBSCRIBER);
    announce(p, WIRE_CONTROL, p->number, 0);
    expect(p, "message");
}

static void an_answer_ends_the_call_that_waits_for_it(void **state)
{
    struct peer *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, false);

    begin(p);
    add_answer(p, WIRE_C_BAD_FILTER, number - (1u << REQUESTS_PLACE_BITS), 1); /* an older one's */
    arrive(p, WIRE_CONTROL);
    assert_int_equal(requests_call(&p->session.requests)->state, REQUEST_OPEN);
    begin(p);
    add_answer(p, WIRE_C_OK, number, 1);
    arrive(p, WIRE_CONTROL);
    assert_int_equal(requests_call(&p->session.requests)->state, REQUEST_DONE);
    assert_int_equal(requests_call(&p->session.requests)->code, WIRE_C_OK);
    assert_int_equal(p->session.stray, 1);
}

static void K10_one_answer_confirms_many(void **state)
{
    struct peer *p = *state;

    for (int i = 0; i < 5; i++)
        confirms_take(&p->session.confirms);
    begin(p);
    add_answer(p, WIRE_C_OK, 1, 3);
    add_answer(p, WIRE_C_WINDOW, 4, 2);
    arrive(p, WIRE_CONTROL);
    assert_int_equal(confirms_look(&p->session.confirms, 3), WIRE_C_OK);
    assert_int_equal(confirms_look(&p->session.confirms, 4), WIRE_C_WINDOW);
    assert_int_equal(confirms_look(&p->session.confirms, 5), WIRE_C_WINDOW);
}

/* ---- Expiry ---- */

static void P11_expired_messages_are_counted_and_reported(void **state)
{
    struct peer *p = *state;
    struct wire_envelope envelope;
    struct wire_frame frame;

    begin(p);
    add_message(p, 3, 0, 0, 7, "a/b", "gone");
    add_message(p, 3, 0, 0, 7, "a/b", "gone too");
    add_message(p, 3, 0, 0, 0, "a/b", "stays");
    arrive(p, 3);
    for (int i = 0; i < 2; i++) {
        assert_true(session_peek(&p->session, &frame));
        assert_int_equal(frame.expiry, 7);
        session_expire(&p->session, &frame);
    }
    expect(p, "stays");
    assert_int_equal(p->session.expired, 2);
    assert_int_equal(session_put_reports(&p->session), 1);
    session_seal(&p->session, &p->session.alone);
    assert_int_equal(p->session.alone.level, WIRE_CONTROL);
    assert_int_equal(wire_get_envelope(p->session.alone.bytes, p->session.alone.size, &envelope),
                     WIRE_OK);
    assert_int_equal(wire_get_request(envelope.frames, envelope.size, &frame), WIRE_OK);
    assert_int_equal(frame.type, WIRE_REPORT);
    assert_int_equal(frame.number, 2);
    assert_string_equal(frame.text, "a/b");
}

/* It is the group's, and so is what becomes of it. */
static void an_expired_message_of_a_group_goes_back_and_is_not_reported(void **state)
{
    struct peer *p = *state;
    struct session_envelope out;
    struct wire_envelope envelope;
    struct wire_frame frame;

    begin(p);
    add_message(p, 3, WIRE_F_ACK, 70, 7, "a/b", "gone");
    add_message(p, 3, WIRE_F_ACK, 71, 0, "a/b", "stays");
    arrive(p, 3);
    assert_true(session_peek(&p->session, &frame));
    session_expire(&p->session, &frame);
    expect(p, "stays");
    assert_int_equal(p->session.expired, 1);
    assert_int_equal(p->session.reports.n, 0);
    assert_int_equal(session_put_acks(&p->session, &out), 1);
    session_seal(&p->session, &out);
    assert_int_equal(out.level, WIRE_CONTROL);
    assert_int_equal(wire_get_envelope(out.bytes, out.size, &envelope), WIRE_OK);
    assert_int_equal(wire_get_request(envelope.frames, envelope.size, &frame), WIRE_OK);
    assert_int_equal(frame.type, WIRE_NACK);
    assert_int_equal(frame.number, 70);
}

static void more_expire_than_can_be_told_of_and_the_rest_is_left_to_time(void **state)
{
    struct peer *p = *state;
    struct wire_frame frame;

    for (uint64_t name = 1; name <= ACKS_MAX + 1; name++) {
        begin(p);
        add_message(p, 3, WIRE_F_ACK, name, 7, "a/b", "gone");
        arrive(p, 3);
        assert_true(session_peek(&p->session, &frame));
        session_expire(&p->session, &frame);
    }
    assert_int_equal(p->session.acks.n, ACKS_MAX);
    assert_int_equal(p->session.expired, ACKS_MAX + 1);
}

static void P11_reports_go_in_as_many_envelopes_as_they_need(void **state)
{
    struct peer *p = *state;
    struct wire_frame frame;
    char topic[WIRE_TOPIC_MAX + 1];
    uint32_t n, sum = 0;

    memset(topic, 'x', sizeof(topic));
    topic[WIRE_TOPIC_MAX] = '\0';
    for (int i = 0; i < REPORTS_TOPICS; i++) {
        topic[0] = (char)('a' + i);
        begin(p);
        add_message(p, 3, 0, 0, 7, topic, "gone");
        arrive(p, 3);
        assert_true(session_peek(&p->session, &frame));
        session_expire(&p->session, &frame);
    }
    while ((n = session_put_reports(&p->session)) > 0) {
        assert_true(p->session.alone.size <= URGENT);
        reports_drop(&p->session.reports, n);
        sum += n;
    }
    assert_int_equal(sum, REPORTS_TOPICS);
}

/* ---- Payloads in pools ---- */

static void add_pooled(struct peer *p, uint8_t priority, uint16_t flags, uint64_t number,
                       uint64_t expiry, uint64_t name)
{
    const struct wire_slot slot = {.pool = 77, .offset = 500, .size = 5000, .name = name};
    const char *topic = (flags & WIRE_F_REPLY) != 0 ? "" : "t";

    p->size += (uint32_t)wire_put_pooled(p->bytes + p->size, WIRE_MESSAGE, priority, flags, number,
                                         expiry, topic, strlen(topic), &slot);
}

static void expect_released(struct peer *p, uint64_t n, uint64_t last)
{
    assert_int_equal(atomic_load(&p->pool->released), n);
    if (n > 0)
        assert_int_equal(atomic_load(&p->pool->ring[(n - 1) % POOL_RING]), last);
}

static void a_pooled_message_is_handed_out_by_its_place(void **state)
{
    struct peer *p = *state;
    struct wire_frame frame;

    begin(p);
    add_pooled(p, 3, 0, 0, 0, 42);
    arrive(p, 3);
    assert_true(session_peek(&p->session, &frame));
    assert_int_equal(frame.slot.offset, 500);
    inbox_release(session_hand_out(&p->session, &frame));
    expect_released(p, 0, 0); /* not before its reader says so */
    session_release(&p->session, frame.slot.name);
    expect_released(p, 1, 42);
    assert_true(p->session.untold);
}

static void the_release_ring_goes_round(void **state)
{
    struct peer *p = *state;

    for (uint64_t name = 1; name <= POOL_RING + 5; name++) {
        session_release(&p->session, name);
        expect_released(p, name, name);
    }
}

static void S7_what_is_not_handed_out_is_given_back(void **state)
{
    struct peer *p = *state;
    struct wire_frame frame;
    uint32_t call;

    begin(p);
    add_pooled(p, 3, 0, 0, 7, 1);                           /* expires */
    add_pooled(p, 3, 0, 0, 0, 2);                           /* cannot be read */
    add_pooled(p, 3, WIRE_F_REPLY, REQUESTS_BIT | 5, 0, 3); /* a reply to nothing */
    add_pooled(p, 4, 0, 0, 0, 4);                           /* of another priority than its batch */
    arrive(p, 3);
    assert_true(session_peek(&p->session, &frame));
    session_expire(&p->session, &frame);
    expect_released(p, 1, 1);
    assert_true(session_peek(&p->session, &frame));
    session_lose(&p->session, &frame);
    expect_released(p, 2, 2);
    assert_false(session_peek(&p->session, &frame));
    expect_released(p, 4, 4);
    assert_int_equal(p->session.expired, 2);
    assert_int_equal(p->session.reports.topics[0].count, 2);

    call = requests_open_call(&p->session.requests, true);
    begin(p);
    add_pooled(p, 3, WIRE_F_REPLY, call, 0, 5);
    arrive(p, 3);
    assert_non_null(p->session.reply_batch);
    expect_released(p, 4, 4);
    session_end_call(&p->session); /* the caller has not taken it */
    expect_released(p, 5, 5);
}

static void a_lost_reply_fails_its_request(void **state)
{
    struct peer *p = *state;
    struct request failed;
    struct wire_frame frame;
    uint32_t number = requests_open(&p->session.requests, 1000, 3);

    begin(p);
    add_pooled(p, 3, WIRE_F_REPLY, number, 0, 9);
    arrive(p, 3);
    assert_true(session_peek(&p->session, &frame));
    session_lose(&p->session, &frame);
    assert_int_equal(session_next(&p->session), SESSION_FAILED);
    assert_true(requests_next_failed(&p->session.requests, &failed));
    assert_int_equal(failed.code, WIRE_C_NO_COPY);
    expect_released(p, 1, 9);
}

static void a_copy_that_was_lent_is_found_by_its_name(void **state)
{
    struct peer *p = *state;
    struct fetch *low = fetches_at(&p->session.fetches, 3, 42);
    struct fetch *high = fetches_at(&p->session.fetches, 9, 43);

    low->state = high->state = FETCH_ASKED;
    begin(p);
    p->size += (uint32_t)wire_put_lent(p->bytes + p->size, WIRE_C_OK, 42, OUTBOX_COPIES, 5000);
    p->size += (uint32_t)wire_put_lent(p->bytes + p->size, WIRE_C_NO_COPY, 43, 0, 0);
    p->size += (uint32_t)wire_put_lent(p->bytes + p->size, WIRE_C_OK, 44, 0, 0); /* not asked */
    arrive(p, WIRE_CONTROL);
    assert_int_equal(low->state, FETCH_LENT);
    assert_int_equal(low->offset, OUTBOX_COPIES);
    assert_int_equal(low->size, 5000);
    assert_int_equal(high->state, FETCH_LOST);
    assert_int_equal(p->session.stray, 1);
    assert_ptr_equal(fetches_at(&p->session.fetches, 3, 42), low);
    assert_int_equal(low->state, FETCH_LENT);
    fetches_at(&p->session.fetches, 3, 50); /* the next one that waits there */
    assert_int_equal(low->state, FETCH_NONE);
}

/* ---- Batches in the outbox ---- */

/* Put the batch into a buffer; what arrives is the queue message that says so. */
static int arrive_boxed(struct peer *p, unsigned level, uint32_t buffer, uint32_t size,
                        uint64_t number)
{
    wire_put_batch(p->bytes, ID, (uint8_t)level, p->number + 1, p->grant, 0, p->size);
    if (buffer < OUTBOX_BUFFERS)
        memcpy(p->outbox + outbox_buffer_offset(buffer), p->bytes, p->size);
    begin(p);
    p->size += (uint32_t)wire_put_boxed(p->bytes + p->size, buffer, size);
    p->number++;
    return arrive_as(p, level, number);
}

static uint64_t taken(struct peer *p, uint32_t buffer)
{
    return atomic_load(&p->pool->taken[buffer]);
}

static void a_boxed_batch_is_taken_out_and_its_buffer_given_back(void **state)
{
    struct peer *p = *state;

    begin(p);
    add_message(p, 3, 0, 0, 0, "t", "one");
    add_message(p, 3, 0, 0, 0, "t", "two");
    assert_int_equal(arrive_boxed(p, 3, 2, p->size, p->number + 1), SESSION_ARRIVED);
    assert_int_equal(taken(p, 2), p->number);
    memset(p->outbox, 0xff, OUTBOX_COPIES); /* it is used again */
    expect(p, "one");
    expect(p, "two");
}

static void K3_a_repeat_gives_its_buffer_back_too(void **state)
{
    struct peer *p = *state;

    arrive_message(p, 3, "one");
    begin(p);
    add_message(p, 3, 0, 0, 0, "t", "one");
    p->number--;
    assert_int_equal(arrive_boxed(p, 3, 1, p->size, p->number + 1), SESSION_REPEATED);
    assert_int_equal(taken(p, 1), p->number);
}

/* The broker sent it again when it had been taken, and used the buffer for what overtook it. */
static void K3_a_late_repeat_does_not_take_its_buffer_back(void **state)
{
    struct peer *p = *state;

    begin(p);
    add_message(p, 3, 0, 0, 0, "t", "one");
    assert_int_equal(arrive_boxed(p, 3, 1, p->size, p->number + 1), SESSION_ARRIVED);
    begin(p);
    add_message(p, 9, 0, 0, 0, "t", "urgent");
    assert_int_equal(arrive_boxed(p, 9, 1, p->size, p->number + 1), SESSION_ARRIVED);
    assert_int_equal(taken(p, 1), p->number);

    begin(p); /* what lies in the buffer is left as it is */
    p->size += (uint32_t)wire_put_boxed(p->bytes + p->size, 1, 100);
    assert_int_equal(arrive_as(p, 3, p->number - 1), SESSION_REPEATED);
    assert_int_equal(taken(p, 1), p->number);
    assert_int_equal(p->session.malformed, 0);
    announce(p, 3, p->number - 1, 0);
    announce(p, 9, p->number, 0);
    expect(p, "urgent");
    expect(p, "one");
}

static void a_box_that_cannot_be_is_malformed(void **state)
{
    struct peer *p = *state;
    uint32_t size = (uint32_t)(WIRE_BATCH_SIZE + wire_message_size(1, 3));
    const struct {
        uint32_t buffer;
        uint32_t size;
        uint64_t ahead; /* of the number in the buffer */
    } cases[] = {
        {4, size, 0}, {1, OUTBOX_BUFFER + 1, 0}, {1, 10, 0}, {1, size + 1, 0}, {1, size, 1}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        begin(p);
        add_message(p, 3, 0, 0, 0, "t", "one");
        assert_int_equal(
            arrive_boxed(p, 3, cases[i].buffer, cases[i].size, p->number + 1 + cases[i].ahead),
            SESSION_MALFORMED);
    }
    assert_int_equal(p->session.malformed, 5);
    arrive_message(p, 3, "fine");
    expect(p, "fine");
}

/* ---- Sending ---- */

static struct session_message message(uint8_t priority, size_t size)
{
    static const char payload[1200];

    return (struct session_message){.type = WIRE_PUBLISH,
                                    .priority = priority,
                                    .frame_size = (uint16_t)wire_message_size(1, size),
                                    .topic = "t",
                                    .topic_size = 1,
                                    .payload = payload,
                                    .size = size};
}

static void a_pooled_payload_is_sent_by_its_place(void **state)
{
    struct peer *p = *state;
    struct session_message m = message(3, 0);
    struct wire_envelope envelope;
    struct wire_frame frame;

    m.frame_size = (uint16_t)wire_pooled_size(1);
    m.slot = (struct wire_slot){.pool = 77, .offset = 500, .size = 5000, .name = 4};
    session_put_alone(&p->session, &m);
    session_seal(&p->session, &p->session.alone);
    assert_int_equal(wire_get_envelope(p->session.alone.bytes, p->session.alone.size, &envelope),
                     WIRE_OK);
    assert_int_equal(wire_get_request(envelope.frames, envelope.size, &frame), WIRE_OK);
    assert_int_equal(frame.flags, WIRE_F_POOLED);
    assert_memory_equal(&frame.slot, &m.slot, sizeof(m.slot));
    assert_int_equal(frame.size, m.frame_size);
}

static void a_nudge_is_an_envelope_that_needs_no_other(void **state)
{
    struct peer *p = *state;
    uint8_t nudge[SESSION_NUDGE_SIZE];
    struct wire_envelope envelope;
    struct wire_frame frame;

    session_write_nudge(&p->session, nudge);
    assert_int_equal(wire_get_envelope(nudge, sizeof(nudge), &envelope), WIRE_OK);
    assert_int_equal(envelope.session, ID);
    assert_int_equal(wire_get_request(envelope.frames, envelope.size, &frame), WIRE_OK);
    assert_int_equal(frame.type, WIRE_NUDGE);
}

static int place(struct peer *p, uint8_t priority)
{
    struct session_message m = message(priority, 10);
    int where = session_place(&p->session, &m);

    if (where == SESSION_GATHER)
        session_gather(&p->session, &m);
    return where;
}

static void P4_the_window_counts_whole_cells(void **state)
{
    struct peer *p = *state;
    struct session_message m = message(31, 10);
    int n;

    for (n = 0; session_room(&p->session, &m, false); n++)
        session_count(&p->session, &m);
    assert_int_equal(n, WINDOW / WIRE_CELL_SIZE);
}

static void a_quarter_of_the_window_is_kept_for_urgent_ones(void **state)
{
    struct peer *p = *state;
    struct session_message low = message(23, 10), high = message(24, 10);
    int n;

    for (n = 0; session_room(&p->session, &low, false); n++)
        session_count(&p->session, &low);
    assert_int_equal(n, WINDOW / WIRE_CELL_SIZE * 3 / 4);
    assert_true(session_room(&p->session, &high, false));
}

static void P5_a_grant_is_found_on_the_board_and_in_a_batch(void **state)
{
    struct peer *p = *state;
    struct session_message m = message(31, 10);

    p->session.sent = WINDOW;
    assert_false(session_room(&p->session, &m, false));
    board_set(&p->row.grant, WINDOW + 256);
    assert_true(session_room(&p->session, &m, false));
    session_count(&p->session, &m);
    assert_false(session_room(&p->session, &m, false));
    p->grant = WINDOW + 512;
    begin(p);
    arrive(p, 3);
    assert_true(session_room(&p->session, &m, false));
}

static void an_old_grant_takes_nothing_back(void **state)
{
    struct peer *p = *state;

    p->grant = 3 * WINDOW;
    begin(p);
    arrive(p, 9);
    p->grant = 2 * WINDOW; /* a batch that was overtaken */
    begin(p);
    arrive(p, 3);
    assert_int_equal(p->session.grant, 3 * WINDOW);
}

static void a_confirm_needs_a_place_for_its_outcome(void **state)
{
    struct peer *p = *state;
    struct session_message m = message(31, 10);

    while (confirms_room(&p->session.confirms))
        confirms_take(&p->session.confirms);
    assert_true(session_room(&p->session, &m, false));
    assert_false(session_room(&p->session, &m, true));
}

static void without_batching_each_goes_alone(void **state)
{
    struct peer *p = *state;

    assert_int_equal(place(p, 5), SESSION_ALONE);
    assert_int_equal(place(p, 5), SESSION_ALONE);
    assert_int_equal(place(p, 9), SESSION_ALONE);
    assert_false(session_gathers(&p->session));
}

static void frames_of_one_priority_gather_until_the_message_is_full(void **state)
{
    struct peer *p = *state;
    struct wire_envelope envelope;
    struct wire_frame frame;
    uint32_t n = 0, size;

    p->session.batching = true;
    while (place(p, 5) == SESSION_GATHER)
        n++;
    size = (uint32_t)wire_message_size(1, 10);
    assert_int_equal(n, (NORMAL - WIRE_ENVELOPE_SIZE) / size);
    session_seal(&p->session, &p->session.gathered);
    assert_int_equal(
        wire_get_envelope(p->session.gathered.bytes, p->session.gathered.size, &envelope), WIRE_OK);
    assert_int_equal(envelope.session, ID);
    for (; envelope.size > 0; n--) {
        assert_int_equal(wire_get_request(envelope.frames, envelope.size, &frame), WIRE_OK);
        envelope.frames += frame.size;
        envelope.size -= frame.size;
    }
    assert_int_equal(n, 0);
    session_clear(&p->session.gathered);
    assert_int_equal(place(p, 5), SESSION_GATHER);
}

static void urgent_frames_gather_to_the_width_of_the_urgent_queue(void **state)
{
    struct peer *p = *state;

    p->session.batching = true;
    while (place(p, 24) == SESSION_GATHER) {
    }
    assert_true(p->session.gathered.size <= URGENT);
    assert_true(URGENT - p->session.gathered.size < wire_message_size(1, 10));
}

static void P3_a_rise_goes_first_and_the_low_batch_goes_on_gathering(void **state)
{
    struct peer *p = *state;

    p->session.batching = true;
    assert_int_equal(place(p, 0), SESSION_GATHER);
    assert_int_equal(place(p, 31), SESSION_ALONE);
    assert_int_equal(place(p, 0), SESSION_GATHER);
    assert_int_equal(place(p, 31), SESSION_ALONE);
    assert_int_equal(p->session.gathered.level, 0);
}

static void a_run_at_the_higher_priority_gathers_too(void **state)
{
    struct peer *p = *state;

    p->session.batching = true;
    assert_int_equal(place(p, 0), SESSION_GATHER);
    assert_int_equal(place(p, 31), SESSION_ALONE);
    assert_int_equal(place(p, 31), SESSION_FLUSH_FIRST);
    session_clear(&p->session.gathered);
    assert_int_equal(place(p, 31), SESSION_GATHER);
    assert_int_equal(place(p, 31), SESSION_GATHER);
}

static void a_fall_sends_what_is_gathered(void **state)
{
    struct peer *p = *state;

    p->session.batching = true;
    assert_int_equal(place(p, 9), SESSION_GATHER);
    assert_int_equal(place(p, 3), SESSION_FLUSH_FIRST);
}

static void control_frames_are_envelopes_of_their_own(void **state)
{
    struct peer *p = *state;
    struct session *s = &p->session;
    struct wire_envelope envelope;
    struct wire_frame frame;

    session_put_text(s, WIRE_SUBSCRIBE, WIRE_F_NO_RETAINED, 77, "a/#", 3);
    session_seal(s, &s->alone);
    assert_int_equal(wire_get_envelope(s->alone.bytes, s->alone.size, &envelope), WIRE_OK);
    assert_memory_equal(envelope.token, s->token, WIRE_TOKEN_SIZE);
    assert_int_equal(wire_get_request(envelope.frames, envelope.size, &frame), WIRE_OK);
    assert_int_equal(frame.size, envelope.size);
    assert_string_equal(frame.text, "a/#");
    assert_int_equal(frame.number, 77);
    session_put_bye(s);
    assert_int_equal(s->alone.level, 0); /* after everything sent before it */
    session_seal(s, &s->alone);
    assert_int_equal(wire_get_envelope(s->alone.bytes, s->alone.size, &envelope), WIRE_OK);
    assert_int_equal(wire_get_request(envelope.frames, envelope.size, &frame), WIRE_OK);
    assert_int_equal(frame.type, WIRE_BYE);
}

static void a_will_too_wide_for_the_urgent_queue_goes_by_the_other(void **state)
{
    static const uint8_t payload[URGENT];
    struct peer *p = *state;
    struct session *s = &p->session;
    struct session_message will = {
        .type = WIRE_WILL, .priority = 30, .topic = "t", .topic_size = 1, .payload = payload};

    will.size = URGENT - WIRE_ENVELOPE_SIZE - wire_message_size(1, 0);
    will.frame_size = (uint16_t)wire_message_size(1, will.size);
    session_put_will(s, &will);
    assert_int_equal(s->alone.level, WIRE_CONTROL);
    assert_int_equal(s->alone.size, URGENT);
    will.size++;
    will.frame_size++;
    session_put_will(s, &will);
    assert_int_equal(s->alone.level, WIRE_URGENT - 1);
}

/* ---- The model ---- */

enum { PLACES = 10, MESSAGES = 400, BATCH_MAX = 5, LEVELS = 6 };

static const uint8_t level_of[LEVELS] = {0, 3, 8, 23, 24, 31};

/* A broker with a backlog of numbers for each level, and a queue of ten places. */
struct model {
    struct peer *peer;
    uint32_t backlog[LEVELS][MESSAGES];
    uint32_t first[LEVELS], last[LEVELS];
    struct place {
        bool used;
        unsigned level; /* index */
        uint64_t number;
        uint32_t size;
        uint8_t bytes[WIDTH];
    } queue[PLACES];
    uint32_t n_standing;
    /* Sent, not yet on the board. */
    bool unannounced;
    unsigned unannounced_level;
    uint64_t unannounced_number;
    struct place repeat; /* the last batch, which a restarted broker sends again */
    bool may_repeat;
    uint32_t born, read;
    uint32_t undelivered[LEVELS];
    uint32_t next_of[LEVELS]; /* the reader must see rising numbers within a level */
};

static uint32_t waiting_map(const struct model *m)
{
    uint32_t map = 0;

    for (unsigned i = 0; i < LEVELS; i++)
        if (m->first[i] < m->last[i])
            map |= 1u << level_of[i];
    return map;
}

static void model_announce(struct model *m)
{
    if (m->unannounced)
        announce(m->peer, level_of[m->unannounced_level], m->unannounced_number, waiting_map(m));
    m->unannounced = false;
}

static void model_publish(struct model *m)
{
    unsigned i = (unsigned)rand() % LEVELS;

    if (m->born == MESSAGES)
        return;
    model_announce(m); /* the broker is one thread: it ends a send before it takes anything */
    m->backlog[i][m->last[i]++] = ++m->born;
    m->undelivered[i]++;
    atomic_store(&m->peer->row.tide,
                 (uint64_t)waiting_map(m) << 32 | (uint32_t)atomic_load(&m->peer->row.tide));
}

static void model_queue(struct model *m, const struct place *place)
{
    for (unsigned i = 0; i < PLACES; i++) {
        if (m->queue[i].used)
            continue;
        m->queue[i] = *place;
        m->n_standing++;
        return;
    }
    fail();
}

/* One batch of the highest level, if it has room. */
static void model_send(struct model *m)
{
    struct place place = {.used = true};
    struct peer *p = m->peer;
    int level = LEVELS - 1;

    model_announce(m);
    while (level >= 0 && m->first[level] == m->last[level])
        level--;
    if (level < 0 || PLACES - m->n_standing <= (level_of[level] < WIRE_URGENT ? 3u : 1u))
        return;
    begin(p);
    for (int n = 0; n < BATCH_MAX && m->first[level] < m->last[level]; n++) {
        char text[16];

        snprintf(text, sizeof(text), "%u", m->backlog[level][m->first[level]++]);
        add_message(p, level_of[level], 0, 0, 0, "t", text);
    }
    wire_put_batch(p->bytes, ID, level_of[level], ++p->number, 0, 0, p->size);
    memcpy(place.bytes, p->bytes, p->size);
    place.size = p->size;
    place.level = (unsigned)level;
    place.number = p->number;
    model_queue(m, &place);
    m->repeat = place;
    m->may_repeat = true;
    m->unannounced = true;
    m->unannounced_level = (unsigned)level;
    m->unannounced_number = p->number;
    if (rand() % 2)
        model_announce(m);
}

/* A broker that was killed between sending and noting it sends the same batch again, before
 * anything else. */
static void model_restart(struct model *m)
{
    if (m->may_repeat && m->n_standing < PLACES)
        model_queue(m, &m->repeat);
    m->may_repeat = false;
    model_announce(m);
}

static bool model_receive(struct model *m)
{
    struct place *best = NULL;
    struct inbox_batch *batch;

    for (unsigned i = 0; i < PLACES; i++) {
        struct place *q = &m->queue[i];

        if (q->used && (best == NULL || q->level > best->level ||
                        (q->level == best->level && q->number < best->number)))
            best = q;
    }
    if (best == NULL)
        return false;
    batch = inbox_blank(&m->peer->session.inbox);
    memcpy(batch->bytes, best->bytes, best->size);
    best->used = false;
    m->n_standing--;
    session_arrive(&m->peer->session, batch, best->size, level_of[best->level]);
    return true;
}

static void model_read(struct model *m, const struct wire_frame *frame)
{
    unsigned i = 0;
    char text[16] = "";
    uint32_t number;

    memcpy(text, frame->payload, frame->payload_size);
    number = (uint32_t)strtoul(text, NULL, 10);
    while (level_of[i] != frame->priority)
        i++;
    for (unsigned above = i + 1; above < LEVELS; above++)
        assert_int_equal(m->undelivered[above], 0); /* nothing higher anywhere: strict */
    assert_true(number > m->next_of[i]);            /* first in, first out; none twice */
    m->next_of[i] = number;
    m->undelivered[i]--;
    m->read++;
}

/* One step of the reader: what the client does in mqc_receive() with timeout 0. */
static void model_reader(struct model *m)
{
    struct session *s = &m->peer->session;
    struct wire_frame frame;
    bool sleeps;

    for (;;) {
        switch ((enum session_step)session_next(s)) {
        case SESSION_MESSAGE:
            if (!session_peek(s, &frame))
                break;
            model_read(m, &frame);
            inbox_release(session_hand_out(s, &frame));
            return;
        case SESSION_FETCH:
            if (model_receive(m))
                break;
            session_found_empty(s);
            if (!session_has_something(s))
                return;
            break;
        case SESSION_LINGER:
            assert_true(session_linger(s, 1, &sleeps) > 0);
            model_send(m); /* the broker has the processor now */
            model_announce(m);
            break;
        default:
            fail();
        }
    }
}

static void P1_shuffled_steps_never_hand_out_a_lower_one_first(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 300; seed++) {
        static struct model m;
        struct peer *p;
        unsigned publish = 1 + seed % 7, send = 1 + seed % 5, read = 1 + seed % 3;

        memset(&m, 0, sizeof(m));
        setup((void **)&m.peer);
        p = m.peer;
        srand(seed);
        while (m.read < MESSAGES) {
            unsigned what = (unsigned)rand() % (publish + send + read);

            if (what < publish)
                model_publish(&m);
            else if (what < publish + send)
                rand() % 16 == 0 ? model_restart(&m) : model_send(&m);
            else
                model_reader(&m);
        }
        assert_int_equal(p->session.inbox.n, 0);
        teardown((void **)&p);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(welcome_is_taken_once_and_only_for_its_nonce),
        TEST(K9_stopped_comes_after_all_messages),
        TEST(ended_keeps_its_reason),
        TEST(an_empty_inbox_always_looks_into_the_queue),
        TEST(P1_what_stands_in_the_queue_above_is_fetched_first),
        TEST(P1_what_stands_below_or_beside_is_left_there),
        TEST(P1_what_is_found_when_the_level_falls_was_remembered),
        TEST(P1_what_waits_in_the_broker_makes_it_fetch_then_linger),
        TEST(P1_a_lower_batch_on_the_way_is_progress),
        TEST(P1_twenty_milliseconds_without_progress_are_enough),
        TEST(P1_answers_standing_in_the_queue_come_first),
        TEST(words_of_an_earlier_session_are_found_wrong_once),
        TEST(quiet_only_if_nothing_is_hinted_at),
        TEST(frames_of_a_batch_come_in_their_order),
        TEST(an_empty_batch_brings_its_grant_and_nothing_else),
        TEST(K3_a_repeated_batch_is_dropped),
        TEST(what_is_no_batch_of_this_session_is_dropped_and_counted),
        TEST(a_malformed_frame_ends_its_batch_what_stood_before_holds),
        TEST(a_message_of_another_priority_than_its_batch_is_malformed),
        TEST(no_bytes_hurt),
        TEST(a_reply_leaves_the_middle_of_a_batch_and_order_stays),
        TEST(a_batch_with_nothing_but_the_reply_leaves_nothing_to_read),
        TEST(L2_only_the_first_reply_counts),
        TEST(a_reply_to_a_call_that_was_given_up_is_left_out),
        TEST(late_replies_do_not_fill_the_inbox_of_who_only_asks),
        TEST(a_failed_request_is_told_before_messages),
        TEST(an_answer_ends_the_call_that_waits_for_it),
        TEST(K10_one_answer_confirms_many),
        TEST(P11_expired_messages_are_counted_and_reported),
        TEST(an_expired_message_of_a_group_goes_back_and_is_not_reported),
        TEST(more_expire_than_can_be_told_of_and_the_rest_is_left_to_time),
        TEST(P11_reports_go_in_as_many_envelopes_as_they_need),
        TEST(a_pooled_message_is_handed_out_by_its_place),
        TEST(the_release_ring_goes_round),
        TEST(S7_what_is_not_handed_out_is_given_back),
        TEST(a_lost_reply_fails_its_request),
        TEST(a_copy_that_was_lent_is_found_by_its_name),
        TEST(a_boxed_batch_is_taken_out_and_its_buffer_given_back),
        TEST(K3_a_repeat_gives_its_buffer_back_too),
        TEST(K3_a_late_repeat_does_not_take_its_buffer_back),
        TEST(a_box_that_cannot_be_is_malformed),
        TEST(a_pooled_payload_is_sent_by_its_place),
        TEST(a_nudge_is_an_envelope_that_needs_no_other),
        TEST(P4_the_window_counts_whole_cells),
        TEST(a_quarter_of_the_window_is_kept_for_urgent_ones),
        TEST(P5_a_grant_is_found_on_the_board_and_in_a_batch),
        TEST(an_old_grant_takes_nothing_back),
        TEST(a_confirm_needs_a_place_for_its_outcome),
        TEST(without_batching_each_goes_alone),
        TEST(frames_of_one_priority_gather_until_the_message_is_full),
        TEST(urgent_frames_gather_to_the_width_of_the_urgent_queue),
        TEST(P3_a_rise_goes_first_and_the_low_batch_goes_on_gathering),
        TEST(a_run_at_the_higher_priority_gathers_too),
        TEST(a_fall_sends_what_is_gathered),
        TEST(a_will_too_wide_for_the_urgent_queue_goes_by_the_other),
        TEST(control_frames_are_envelopes_of_their_own),
        cmocka_unit_test(P1_shuffled_steps_never_hand_out_a_lower_one_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
