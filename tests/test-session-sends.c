/* libclient/session: what a client sends: envelopes, how frames gather in them (rule P3), and the
 * window that bounds them (rules P4, P5). */
#include "libclient/session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/partner.h"

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

/* ---- Envelopes ---- */

static void a_pooled_payload_is_sent_by_its_place(void **state)
{
    struct partner *p = *state;
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
    struct partner *p = *state;
    uint8_t nudge[SESSION_NUDGE_SIZE];
    struct wire_envelope envelope;
    struct wire_frame frame;

    session_write_nudge(&p->session, nudge);
    assert_int_equal(wire_get_envelope(nudge, sizeof(nudge), &envelope), WIRE_OK);
    assert_int_equal(envelope.session, PARTNER_ID);
    assert_int_equal(wire_get_request(envelope.frames, envelope.size, &frame), WIRE_OK);
    assert_int_equal(frame.type, WIRE_NUDGE);
}

static void control_frames_are_envelopes_of_their_own(void **state)
{
    struct partner *p = *state;
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
    static const uint8_t payload[PARTNER_URGENT];
    struct partner *p = *state;
    struct session *s = &p->session;
    struct session_message will = {
        .type = WIRE_WILL, .priority = 30, .topic = "t", .topic_size = 1, .payload = payload};

    will.size = PARTNER_URGENT - WIRE_ENVELOPE_SIZE - wire_message_size(1, 0);
    will.frame_size = (uint16_t)wire_message_size(1, will.size);
    session_put_will(s, &will);
    assert_int_equal(s->alone.level, WIRE_CONTROL);
    assert_int_equal(s->alone.size, PARTNER_URGENT);
    will.size++;
    will.frame_size++;
    session_put_will(s, &will);
    assert_int_equal(s->alone.level, WIRE_URGENT - 1);
}

/* ---- The window ---- */

static void P4_the_window_counts_whole_cells(void **state)
{
    struct partner *p = *state;
    struct session_message m = message(31, 10);
    int n;

    for (n = 0; session_room(&p->session, &m, false); n++)
        session_count(&p->session, &m);
    assert_int_equal(n, PARTNER_WINDOW / WIRE_CELL_SIZE);
}

static void a_quarter_of_the_window_is_kept_for_urgent_ones(void **state)
{
    struct partner *p = *state;
    struct session_message low = message(23, 10), high = message(24, 10);
    int n;

    for (n = 0; session_room(&p->session, &low, false); n++)
        session_count(&p->session, &low);
    assert_int_equal(n, PARTNER_WINDOW / WIRE_CELL_SIZE * 3 / 4);
    assert_true(session_room(&p->session, &high, false));
}

static void P5_a_grant_is_found_on_the_board_and_in_a_batch(void **state)
{
    struct partner *p = *state;
    struct session_message m = message(31, 10);

    p->session.sent = PARTNER_WINDOW;
    assert_false(session_room(&p->session, &m, false));
    board_set(&p->row.grant, PARTNER_WINDOW + 256);
    assert_true(session_room(&p->session, &m, false));
    session_count(&p->session, &m);
    assert_false(session_room(&p->session, &m, false));
    p->grant = PARTNER_WINDOW + 512;
    partner_begin(p);
    partner_arrive(p, 3);
    assert_true(session_room(&p->session, &m, false));
}

static void an_old_grant_takes_nothing_back(void **state)
{
    struct partner *p = *state;

    p->grant = 3 * PARTNER_WINDOW;
    partner_begin(p);
    partner_arrive(p, 9);
    p->grant = 2 * PARTNER_WINDOW; /* a batch that was overtaken */
    partner_begin(p);
    partner_arrive(p, 3);
    assert_int_equal(p->session.grant, 3 * PARTNER_WINDOW);
}

static void a_confirm_needs_a_place_for_its_outcome(void **state)
{
    struct partner *p = *state;
    struct session_message m = message(31, 10);

    while (confirms_room(&p->session.confirms))
        confirms_take(&p->session.confirms);
    assert_true(session_room(&p->session, &m, false));
    assert_false(session_room(&p->session, &m, true));
}

/* ---- Gathering ---- */

/* What is done with a message of this priority; if it is to gather, it does. */
static int place(struct partner *p, uint8_t priority)
{
    struct session_message m = message(priority, 10);
    int where = session_place(&p->session, &m);

    if (where == SESSION_GATHER)
        session_gather(&p->session, &m);
    return where;
}

static void without_batching_each_goes_alone(void **state)
{
    struct partner *p = *state;

    assert_int_equal(place(p, 5), SESSION_ALONE);
    assert_int_equal(place(p, 5), SESSION_ALONE);
    assert_int_equal(place(p, 9), SESSION_ALONE);
    assert_false(session_gathers(&p->session));
}

static void frames_of_one_priority_gather_until_the_message_is_full(void **state)
{
    struct partner *p = *state;
    struct wire_envelope envelope;
    struct wire_frame frame;
    uint32_t n = 0, size;

    p->session.batching = true;
    while (place(p, 5) == SESSION_GATHER)
        n++;
    size = (uint32_t)wire_message_size(1, 10);
    assert_int_equal(n, (PARTNER_NORMAL - WIRE_ENVELOPE_SIZE) / size);
    session_seal(&p->session, &p->session.gathered);
    assert_int_equal(
        wire_get_envelope(p->session.gathered.bytes, p->session.gathered.size, &envelope), WIRE_OK);
    assert_int_equal(envelope.session, PARTNER_ID);
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
    struct partner *p = *state;

    p->session.batching = true;
    while (place(p, 24) == SESSION_GATHER) {
    }
    assert_true(p->session.gathered.size <= PARTNER_URGENT);
    assert_true(PARTNER_URGENT - p->session.gathered.size < wire_message_size(1, 10));
}

static void P3_a_rise_goes_first_and_the_low_batch_goes_on_gathering(void **state)
{
    struct partner *p = *state;

    p->session.batching = true;
    assert_int_equal(place(p, 0), SESSION_GATHER);
    assert_int_equal(place(p, 31), SESSION_ALONE);
    assert_int_equal(place(p, 0), SESSION_GATHER);
    assert_int_equal(place(p, 31), SESSION_ALONE);
    assert_int_equal(p->session.gathered.level, 0);
}

static void a_run_at_the_higher_priority_gathers_too(void **state)
{
    struct partner *p = *state;

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
    struct partner *p = *state;

    p->session.batching = true;
    assert_int_equal(place(p, 9), SESSION_GATHER);
    assert_int_equal(place(p, 3), SESSION_FLUSH_FIRST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PARTNER_TEST(a_pooled_payload_is_sent_by_its_place),
        PARTNER_TEST(a_nudge_is_an_envelope_that_needs_no_other),
        PARTNER_TEST(control_frames_are_envelopes_of_their_own),
        PARTNER_TEST(a_will_too_wide_for_the_urgent_queue_goes_by_the_other),
        PARTNER_TEST(P4_the_window_counts_whole_cells),
        PARTNER_TEST(a_quarter_of_the_window_is_kept_for_urgent_ones),
        PARTNER_TEST(P5_a_grant_is_found_on_the_board_and_in_a_batch),
        PARTNER_TEST(an_old_grant_takes_nothing_back),
        PARTNER_TEST(a_confirm_needs_a_place_for_its_outcome),
        PARTNER_TEST(without_batching_each_goes_alone),
        PARTNER_TEST(frames_of_one_priority_gather_until_the_message_is_full),
        PARTNER_TEST(urgent_frames_gather_to_the_width_of_the_urgent_queue),
        PARTNER_TEST(P3_a_rise_goes_first_and_the_low_batch_goes_on_gathering),
        PARTNER_TEST(a_run_at_the_higher_priority_gathers_too),
        PARTNER_TEST(a_fall_sends_what_is_gathered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
