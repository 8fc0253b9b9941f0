/* libclient/session: what becomes of what arrives and is not just handed out: replies and answers,
 * messages whose time is over, payloads in pools, batches in the outbox. */
#include "libclient/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/partner.h"

/* ---- Requests ---- */

static void a_reply_leaves_the_middle_of_a_batch_and_order_stays(void **state)
{
    struct partner *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, true);

    partner_arrive_message(p, 9, "high");
    partner_announce(p, 9, p->number, 0);
    partner_begin(p);
    partner_add_message(p, 3, 0, 0, 0, "t", "before");
    partner_add_message(p, 3, WIRE_F_REPLY, number, 0, "", "reply");
    partner_add_message(p, 3, 0, 0, 0, "t", "behind");
    partner_arrive(p, 3);
    assert_int_equal(requests_call(&p->session.requests)->state, REQUEST_DONE);
    assert_non_null(p->session.reply_batch);
    assert_memory_equal(p->session.reply.payload, "reply", 5);
    partner_expect(p, "high");
    partner_expect(p, "before");
    partner_expect(p, "behind");
    /* The reply still holds its buffer. */
    assert_memory_equal(p->session.reply.payload, "reply", 5);
    assert_int_equal(p->session.reply_batch->holds, 1);
    session_end_call(&p->session);
    assert_null(p->session.reply_batch);
}

static void a_batch_with_nothing_but_the_reply_leaves_nothing_to_read(void **state)
{
    struct partner *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, true);

    partner_begin(p);
    partner_add_message(p, 3, WIRE_F_REPLY, number, 0, "", "reply");
    partner_arrive(p, 3);
    assert_non_null(p->session.reply_batch);
    assert_false(session_has_something(&p->session));
    session_end_call(&p->session);
}

static void L2_only_the_first_reply_counts(void **state)
{
    struct partner *p = *state;
    uint32_t number = requests_open(&p->session.requests, 1000, 3);
    struct wire_frame frame;

    partner_begin(p);
    partner_add_message(p, 3, WIRE_F_REPLY, number, 0, "", "first");
    partner_add_message(p, 3, WIRE_F_REPLY, number, 0, "", "second");
    partner_arrive(p, 3);
    partner_expect(p, "first");
    assert_false(session_peek(&p->session, &frame));
    assert_int_equal(p->session.stray, 1);
    assert_false(session_has_something(&p->session));
}

static void a_reply_to_a_call_that_was_given_up_is_left_out(void **state)
{
    struct partner *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, true);

    session_end_call(&p->session);
    partner_begin(p);
    partner_add_message(p, 3, WIRE_F_REPLY, number, 0, "", "late");
    partner_add_message(p, 3, 0, 0, 0, "t", "message");
    partner_arrive(p, 3);
    partner_expect(p, "message");
    assert_int_equal(p->session.stray, 1);
}

static void late_replies_do_not_fill_the_inbox_of_who_only_asks(void **state)
{
    struct partner *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, true);

    for (unsigned i = 1; i <= 1000; i++) {
        session_end_call(&p->session);
        partner_begin(p);
        partner_add_message(p, 3, WIRE_F_REPLY, number, 0, "", "late");
        number = requests_open_call(&p->session.requests, true);
        partner_arrive(p, 3);
        assert_int_equal(p->session.inbox.n, 0);
        assert_int_equal(p->session.stray, i);
    }
}

static void a_failed_request_is_told_before_messages(void **state)
{
    struct partner *p = *state;
    uint32_t number = requests_open(&p->session.requests, 1000, 3);
    struct request failed;

    partner_arrive_message(p, 31, "message");
    partner_announce(p, 31, p->number, 0);
    partner_begin(p);
    partner_add_answer(p, WIRE_C_NO_SUBSCRIBER, number, 1);
    partner_arrive(p, WIRE_CONTROL);
    assert_int_equal(session_next(&p->session), SESSION_FAILED);
    assert_true(requests_next_failed(&p->session.requests, &failed));
    assert_int_equal(failed.code, WIRE_C_NO_SUBSCRIBER);
    partner_announce(p, WIRE_CONTROL, p->number, 0);
    partner_expect(p, "message");
}

static void an_answer_ends_the_call_that_waits_for_it(void **state)
{
    struct partner *p = *state;
    uint32_t number = requests_open_call(&p->session.requests, false);

    partner_begin(p);
    partner_add_answer(p, WIRE_C_BAD_FILTER, number - (1u << REQUESTS_PLACE_BITS),
                       1); /* an older one's */
    partner_arrive(p, WIRE_CONTROL);
    assert_int_equal(requests_call(&p->session.requests)->state, REQUEST_OPEN);
    partner_begin(p);
    partner_add_answer(p, WIRE_C_OK, number, 1);
    partner_arrive(p, WIRE_CONTROL);
    assert_int_equal(requests_call(&p->session.requests)->state, REQUEST_DONE);
    assert_int_equal(requests_call(&p->session.requests)->code, WIRE_C_OK);
    assert_int_equal(p->session.stray, 1);
}

static void K10_one_answer_confirms_many(void **state)
{
    struct partner *p = *state;

    for (int i = 0; i < 5; i++)
        confirms_take(&p->session.confirms);
    partner_begin(p);
    partner_add_answer(p, WIRE_C_OK, 1, 3);
    partner_add_answer(p, WIRE_C_WINDOW, 4, 2);
    partner_arrive(p, WIRE_CONTROL);
    assert_int_equal(confirms_look(&p->session.confirms, 3), WIRE_C_OK);
    assert_int_equal(confirms_look(&p->session.confirms, 4), WIRE_C_WINDOW);
    assert_int_equal(confirms_look(&p->session.confirms, 5), WIRE_C_WINDOW);
}

/* ---- Expiry ---- */

static void P11_expired_messages_are_counted_and_reported(void **state)
{
    struct partner *p = *state;
    struct wire_envelope envelope;
    struct wire_frame frame;

    partner_begin(p);
    partner_add_message(p, 3, 0, 0, 7, "a/b", "gone");
    partner_add_message(p, 3, 0, 0, 7, "a/b", "gone too");
    partner_add_message(p, 3, 0, 0, 0, "a/b", "stays");
    partner_arrive(p, 3);
    for (int i = 0; i < 2; i++) {
        assert_true(session_peek(&p->session, &frame));
        assert_int_equal(frame.expiry, 7);
        session_expire(&p->session, &frame);
    }
    partner_expect(p, "stays");
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
    struct partner *p = *state;
    struct session_envelope out;
    struct wire_envelope envelope;
    struct wire_frame frame;

    partner_begin(p);
    partner_add_message(p, 3, WIRE_F_ACK, 70, 7, "a/b", "gone");
    partner_add_message(p, 3, WIRE_F_ACK, 71, 0, "a/b", "stays");
    partner_arrive(p, 3);
    assert_true(session_peek(&p->session, &frame));
    session_expire(&p->session, &frame);
    partner_expect(p, "stays");
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
    struct partner *p = *state;
    struct wire_frame frame;

    for (uint64_t name = 1; name <= ACKS_MAX + 1; name++) {
        partner_begin(p);
        partner_add_message(p, 3, WIRE_F_ACK, name, 7, "a/b", "gone");
        partner_arrive(p, 3);
        assert_true(session_peek(&p->session, &frame));
        session_expire(&p->session, &frame);
    }
    assert_int_equal(p->session.acks.n, ACKS_MAX);
    assert_int_equal(p->session.expired, ACKS_MAX + 1);
}

static void P11_reports_go_in_as_many_envelopes_as_they_need(void **state)
{
    struct partner *p = *state;
    struct wire_frame frame;
    char topic[WIRE_TOPIC_MAX + 1];
    uint32_t n, sum = 0;

    memset(topic, 'x', sizeof(topic));
    topic[WIRE_TOPIC_MAX] = '\0';
    for (int i = 0; i < REPORTS_TOPICS; i++) {
        topic[0] = (char)('a' + i);
        partner_begin(p);
        partner_add_message(p, 3, 0, 0, 7, topic, "gone");
        partner_arrive(p, 3);
        assert_true(session_peek(&p->session, &frame));
        session_expire(&p->session, &frame);
    }
    while ((n = session_put_reports(&p->session)) > 0) {
        assert_true(p->session.alone.size <= PARTNER_URGENT);
        reports_drop(&p->session.reports, n);
        sum += n;
    }
    assert_int_equal(sum, REPORTS_TOPICS);
}

/* ---- Payloads in pools ---- */

static void add_pooled(struct partner *p, uint8_t priority, uint16_t flags, uint64_t number,
                       uint64_t expiry, uint64_t name)
{
    const struct wire_slot slot = {.pool = 77, .offset = 500, .size = 5000, .name = name};
    const char *topic = (flags & WIRE_F_REPLY) != 0 ? "" : "t";

    p->size += (uint32_t)wire_put_pooled(p->bytes + p->size, WIRE_MESSAGE, priority, flags, number,
                                         expiry, topic, strlen(topic), &slot);
}

static void expect_released(struct partner *p, uint64_t n, uint64_t last)
{
    assert_int_equal(atomic_load(&p->pool->released), n);
    if (n > 0)
        assert_int_equal(atomic_load(&p->pool->ring[(n - 1) % POOL_RING]), last);
}

static void a_pooled_message_is_handed_out_by_its_place(void **state)
{
    struct partner *p = *state;
    struct wire_frame frame;

    partner_begin(p);
    add_pooled(p, 3, 0, 0, 0, 42);
    partner_arrive(p, 3);
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
    struct partner *p = *state;

    for (uint64_t name = 1; name <= POOL_RING + 5; name++) {
        session_release(&p->session, name);
        expect_released(p, name, name);
    }
}

static void S7_what_is_not_handed_out_is_given_back(void **state)
{
    struct partner *p = *state;
    struct wire_frame frame;
    uint32_t call;

    partner_begin(p);
    add_pooled(p, 3, 0, 0, 7, 1);                           /* expires */
    add_pooled(p, 3, 0, 0, 0, 2);                           /* cannot be read */
    add_pooled(p, 3, WIRE_F_REPLY, REQUESTS_BIT | 5, 0, 3); /* a reply to nothing */
    add_pooled(p, 4, 0, 0, 0, 4);                           /* of another priority than its batch */
    partner_arrive(p, 3);
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
    partner_begin(p);
    add_pooled(p, 3, WIRE_F_REPLY, call, 0, 5);
    partner_arrive(p, 3);
    assert_non_null(p->session.reply_batch);
    expect_released(p, 4, 4);
    session_end_call(&p->session); /* the caller has not taken it */
    expect_released(p, 5, 5);
}

static void a_lost_reply_fails_its_request(void **state)
{
    struct partner *p = *state;
    struct request failed;
    struct wire_frame frame;
    uint32_t number = requests_open(&p->session.requests, 1000, 3);

    partner_begin(p);
    add_pooled(p, 3, WIRE_F_REPLY, number, 0, 9);
    partner_arrive(p, 3);
    assert_true(session_peek(&p->session, &frame));
    session_lose(&p->session, &frame);
    assert_int_equal(session_next(&p->session), SESSION_FAILED);
    assert_true(requests_next_failed(&p->session.requests, &failed));
    assert_int_equal(failed.code, WIRE_C_NO_COPY);
    expect_released(p, 1, 9);
}

static void a_copy_that_was_lent_is_found_by_its_name(void **state)
{
    struct partner *p = *state;
    struct fetch *low = fetches_at(&p->session.fetches, 3, 42);
    struct fetch *high = fetches_at(&p->session.fetches, 9, 43);

    low->state = high->state = FETCH_ASKED;
    partner_begin(p);
    p->size += (uint32_t)wire_put_lent(p->bytes + p->size, WIRE_C_OK, 42, OUTBOX_COPIES, 5000);
    p->size += (uint32_t)wire_put_lent(p->bytes + p->size, WIRE_C_NO_COPY, 43, 0, 0);
    p->size += (uint32_t)wire_put_lent(p->bytes + p->size, WIRE_C_OK, 44, 0, 0); /* not asked */
    partner_arrive(p, WIRE_CONTROL);
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
static int arrive_boxed(struct partner *p, unsigned level, uint32_t buffer, uint32_t size,
                        uint64_t number)
{
    wire_put_batch(p->bytes, PARTNER_ID, (uint8_t)level, p->number + 1, p->grant, 0, p->size);
    if (buffer < OUTBOX_BUFFERS)
        memcpy(p->outbox + outbox_buffer_offset(buffer), p->bytes, p->size);
    partner_begin(p);
    p->size += (uint32_t)wire_put_boxed(p->bytes + p->size, buffer, size);
    p->number++;
    return partner_arrive_as(p, level, number);
}

static uint64_t taken(struct partner *p, uint32_t buffer)
{
    return atomic_load(&p->pool->taken[buffer]);
}

static void a_boxed_batch_is_taken_out_and_its_buffer_given_back(void **state)
{
    struct partner *p = *state;

    partner_begin(p);
    partner_add_message(p, 3, 0, 0, 0, "t", "one");
    partner_add_message(p, 3, 0, 0, 0, "t", "two");
    assert_int_equal(arrive_boxed(p, 3, 2, p->size, p->number + 1), SESSION_ARRIVED);
    assert_int_equal(taken(p, 2), p->number);
    memset(p->outbox, 0xff, OUTBOX_COPIES); /* it is used again */
    partner_expect(p, "one");
    partner_expect(p, "two");
}

static void K3_a_repeat_gives_its_buffer_back_too(void **state)
{
    struct partner *p = *state;

    partner_arrive_message(p, 3, "one");
    partner_begin(p);
    partner_add_message(p, 3, 0, 0, 0, "t", "one");
    p->number--;
    assert_int_equal(arrive_boxed(p, 3, 1, p->size, p->number + 1), SESSION_REPEATED);
    assert_int_equal(taken(p, 1), p->number);
}

/* The broker sent it again when it had been taken, and used the buffer for what overtook it. */
static void K3_a_late_repeat_does_not_take_its_buffer_back(void **state)
{
    struct partner *p = *state;

    partner_begin(p);
    partner_add_message(p, 3, 0, 0, 0, "t", "one");
    assert_int_equal(arrive_boxed(p, 3, 1, p->size, p->number + 1), SESSION_ARRIVED);
    partner_begin(p);
    partner_add_message(p, 9, 0, 0, 0, "t", "urgent");
    assert_int_equal(arrive_boxed(p, 9, 1, p->size, p->number + 1), SESSION_ARRIVED);
    assert_int_equal(taken(p, 1), p->number);

    partner_begin(p); /* what lies in the buffer is left as it is */
    p->size += (uint32_t)wire_put_boxed(p->bytes + p->size, 1, 100);
    assert_int_equal(partner_arrive_as(p, 3, p->number - 1), SESSION_REPEATED);
    assert_int_equal(taken(p, 1), p->number);
    assert_int_equal(p->session.malformed, 0);
    partner_announce(p, 3, p->number - 1, 0);
    partner_announce(p, 9, p->number, 0);
    partner_expect(p, "urgent");
    partner_expect(p, "one");
}

static void a_box_that_cannot_be_is_malformed(void **state)
{
    struct partner *p = *state;
    uint32_t size = (uint32_t)(WIRE_BATCH_SIZE + wire_message_size(1, 3));
    const struct {
        uint32_t buffer;
        uint32_t size;
        uint64_t ahead; /* of the number in the buffer */
    } cases[] = {
        {4, size, 0}, {1, OUTBOX_BUFFER + 1, 0}, {1, 10, 0}, {1, size + 1, 0}, {1, size, 1}};

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        partner_begin(p);
        partner_add_message(p, 3, 0, 0, 0, "t", "one");
        assert_int_equal(
            arrive_boxed(p, 3, cases[i].buffer, cases[i].size, p->number + 1 + cases[i].ahead),
            SESSION_MALFORMED);
    }
    assert_int_equal(p->session.malformed, 5);
    partner_arrive_message(p, 3, "fine");
    partner_expect(p, "fine");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PARTNER_TEST(a_reply_leaves_the_middle_of_a_batch_and_order_stays),
        PARTNER_TEST(a_batch_with_nothing_but_the_reply_leaves_nothing_to_read),
        PARTNER_TEST(L2_only_the_first_reply_counts),
        PARTNER_TEST(a_reply_to_a_call_that_was_given_up_is_left_out),
        PARTNER_TEST(late_replies_do_not_fill_the_inbox_of_who_only_asks),
        PARTNER_TEST(a_failed_request_is_told_before_messages),
        PARTNER_TEST(an_answer_ends_the_call_that_waits_for_it),
        PARTNER_TEST(K10_one_answer_confirms_many),
        PARTNER_TEST(P11_expired_messages_are_counted_and_reported),
        PARTNER_TEST(an_expired_message_of_a_group_goes_back_and_is_not_reported),
        PARTNER_TEST(more_expire_than_can_be_told_of_and_the_rest_is_left_to_time),
        PARTNER_TEST(P11_reports_go_in_as_many_envelopes_as_they_need),
        PARTNER_TEST(a_pooled_message_is_handed_out_by_its_place),
        PARTNER_TEST(the_release_ring_goes_round),
        PARTNER_TEST(S7_what_is_not_handed_out_is_given_back),
        PARTNER_TEST(a_lost_reply_fails_its_request),
        PARTNER_TEST(a_copy_that_was_lent_is_found_by_its_name),
        PARTNER_TEST(a_boxed_batch_is_taken_out_and_its_buffer_given_back),
        PARTNER_TEST(K3_a_repeat_gives_its_buffer_back_too),
        PARTNER_TEST(K3_a_late_repeat_does_not_take_its_buffer_back),
        PARTNER_TEST(a_box_that_cannot_be_is_malformed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
