/* libclient/session: the protocol engine of a client, without a kernel and without a broker: what
 * of what arrives is taken, and in which order it is handed out (rule P1). What becomes of messages
 * that are not just handed out: test-session-arrivals; what is sent: test-session-sends.
 *
 * The model at the end is a broker with a queue of ten places and a backlog, whose steps and the
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

#include "tests/support/partner.h"

/* ---- Welcome and the end ---- */

static void welcome_is_taken_once_and_only_for_its_nonce(void **state)
{
    struct partner *p = *state;

    assert_true(p->session.welcomed);
    assert_int_equal(p->session.id, PARTNER_ID);
    assert_int_equal(p->session.frame_max, 1200);
    partner_welcome(p, PARTNER_NONCE, 5);
    assert_int_equal(p->session.id, PARTNER_ID);

    session_deinit(&p->session);
    session_init(&p->session, PARTNER_NORMAL, PARTNER_URGENT, PARTNER_NONCE + 1, PARTNER_DEPTH,
                 OUTBOX_BUFFER);
    partner_welcome(p, PARTNER_NONCE, PARTNER_ID);
    assert_false(p->session.welcomed);
}

static void K9_stopped_comes_after_all_messages(void **state)
{
    struct partner *p = *state;

    partner_arrive_message(p, 0, "low");
    partner_begin(p);
    p->size += (uint32_t)wire_put_end(p->bytes + p->size, WIRE_STOPPED, WIRE_C_STOPPING);
    partner_arrive(p, 0);
    assert_int_equal(p->session.ended, WIRE_STOPPED); /* who waits for room knows at once */
    partner_expect(p, "low");
    assert_int_equal(session_next(&p->session), SESSION_OVER);
}

static void ended_keeps_its_reason(void **state)
{
    struct partner *p = *state;

    partner_begin(p);
    p->size += (uint32_t)wire_put_end(p->bytes + p->size, WIRE_ENDED, WIRE_C_KICKED);
    partner_arrive(p, 0);
    assert_int_equal(session_next(&p->session), SESSION_OVER);
    assert_int_equal(p->session.ended, WIRE_ENDED);
    assert_int_equal(p->session.ended_code, WIRE_C_KICKED);
}

/* ---- Order, rule P1 ---- */

static void an_empty_inbox_always_looks_into_the_queue(void **state)
{
    struct partner *p = *state;

    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    session_found_empty(&p->session);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void P1_what_stands_in_the_queue_above_is_fetched_first(void **state)
{
    struct partner *p = *state;

    partner_arrive_message(p, 3, "low");
    partner_announce(p, 3, p->number, 0);
    partner_announce(p, 9, p->number + 1, 0); /* sent, not read yet */
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    partner_arrive_message(p, 9, "high");
    partner_expect(p, "high");
    partner_expect(p, "low");
}

static void P1_what_stands_below_or_beside_is_left_there(void **state)
{
    struct partner *p = *state;

    partner_arrive_message(p, 9, "now");
    partner_announce(p, 9, p->number, 0);
    partner_announce(p, 9, p->number + 1, 0);
    partner_announce(p, 3, p->number + 2, 0);
    partner_expect(p, "now");
}

static void P1_what_is_found_when_the_level_falls_was_remembered(void **state)
{
    struct partner *p = *state;

    partner_arrive_message(p, 3, "low");
    partner_arrive_message(p, 9, "high");
    partner_announce(p, 3, 2, 0);
    partner_announce(p, 9, 3, 0);
    partner_announce(p, 7, 4,
                     0); /* stands in the queue, between the two; the tide does not move again */
    partner_expect(p, "high");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    p->number = 3;
    partner_arrive_message(p, 7, "middle");
    partner_expect(p, "middle");
    partner_expect(p, "low");
}

static void P1_what_waits_in_the_broker_makes_it_fetch_then_linger(void **state)
{
    struct partner *p = *state;
    bool sleeps;

    partner_arrive_message(p, 3, "low");
    partner_announce(p, 3, p->number, 1u << 9);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    session_found_empty(&p->session);
    assert_int_equal(session_next(&p->session), SESSION_LINGER);
    assert_true(session_linger(&p->session, 1000, &sleeps) > 0);
    assert_false(sleeps);
    partner_announce(p, 9, p->number + 1, 0); /* it went out */
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    partner_arrive_message(p, 9, "high");
    partner_expect(p, "high");
    partner_expect(p, "low");
}

static void P1_a_lower_batch_on_the_way_is_progress(void **state)
{
    struct partner *p = *state;
    bool sleeps;

    partner_arrive_message(p, 3, "low 1");
    partner_announce(p, 3, p->number, 1u << 9);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    partner_arrive_message(p, 3, "low 2"); /* the queue was full of these */
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    session_found_empty(&p->session);
    assert_int_equal(session_next(&p->session), SESSION_LINGER);
    assert_true(session_linger(&p->session, 1000, &sleeps) > 0);
    assert_false(sleeps);
    partner_arrive_message(p, 3,
                           "low 3"); /* the tide stands still, but something came: look anew */
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void P1_twenty_milliseconds_without_progress_are_enough(void **state)
{
    struct partner *p = *state;
    bool sleeps;

    partner_arrive_message(p, 3, "low 1");
    partner_arrive_message(p, 3, "low 2");
    partner_announce(p, 3, p->number, 1u << 9);
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
    partner_expect(p, "low 1");
    assert_int_equal(session_next(&p->session),
                     SESSION_MESSAGE); /* not again before the row changes */
    partner_announce(p, 3, p->number, 1u << 9 | 1u << 4);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void P1_answers_standing_in_the_queue_come_first(void **state)
{
    struct partner *p = *state;

    partner_arrive_message(p, 31, "highest");
    partner_announce(p, 31, p->number, 0);
    partner_announce(p, WIRE_CONTROL, p->number + 1, 0);
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    partner_begin(p);
    partner_add_answer(p, WIRE_C_OK, 1, 1);
    partner_arrive(p, WIRE_CONTROL);
    partner_expect(p, "highest");
}

static void words_of_an_earlier_session_are_found_wrong_once(void **state)
{
    struct partner *p = *state;

    partner_announce(p, 20, 777777, 0);
    partner_arrive_message(p, 3, "low");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    session_found_empty(&p->session);
    partner_expect(p, "low");
    partner_announce(p, 20, p->number + 1, 0); /* a smaller number is news all the same */
    partner_arrive_message(p, 3, "low");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void quiet_only_if_nothing_is_hinted_at(void **state)
{
    struct partner *p = *state;

    session_found_empty(&p->session);
    assert_true(session_quiet(&p->session));
    partner_announce(p, 3, 50, 0);
    assert_false(session_quiet(&p->session));
    session_found_empty(&p->session);
    assert_true(session_quiet(&p->session));
    partner_announce(p, 3, 50, 1); /* waits in the broker: does not stand yet */
    assert_true(session_quiet(&p->session));
}

static void frames_of_a_batch_come_in_their_order(void **state)
{
    struct partner *p = *state;

    partner_begin(p);
    partner_add_message(p, 3, 0, 0, 0, "t", "one");
    partner_add_message(p, 3, 0, 0, 0, "t", "two");
    partner_add_message(p, 3, 0, 0, 0, "t", "");
    partner_arrive(p, 3);
    partner_expect(p, "one");
    partner_expect(p, "two");
    partner_expect(p, "");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

static void an_empty_batch_brings_its_grant_and_nothing_else(void **state)
{
    struct partner *p = *state;

    partner_begin(p);
    p->grant = 5 * PARTNER_WINDOW;
    assert_int_equal(partner_arrive(p, 3), SESSION_ARRIVED);
    assert_false(session_has_something(&p->session));
    assert_int_equal(p->session.grant, 5 * PARTNER_WINDOW);
}

static void K3_a_repeated_batch_is_dropped(void **state)
{
    struct partner *p = *state;

    partner_arrive_message(p, 3, "once");
    partner_begin(p);
    partner_add_message(p, 3, 0, 0, 0, "t", "once");
    assert_int_equal(partner_arrive_as(p, 3, p->number), SESSION_REPEATED);
    assert_int_equal(p->session.repeated, 1);
    partner_expect(p, "once");
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
}

/* ---- Nonsense ---- */

static void what_is_no_batch_of_this_session_is_dropped_and_counted(void **state)
{
    struct partner *p = *state;
    struct inbox_batch *batch = inbox_blank(&p->session.inbox);

    memset(batch->bytes, 0x5a, PARTNER_WIDTH);
    assert_int_equal(session_arrive(&p->session, batch, PARTNER_WIDTH, 3), SESSION_MALFORMED);
    partner_begin(p);
    partner_add_message(p, 3, 0, 0, 0, "t", "x");
    batch = inbox_blank(&p->session.inbox);
    wire_put_batch(p->bytes, PARTNER_ID + 1, 3, 99, 0, 0, p->size);
    memcpy(batch->bytes, p->bytes, p->size);
    assert_int_equal(session_arrive(&p->session, batch, p->size, 3), SESSION_MALFORMED);
    batch = inbox_blank(&p->session.inbox);
    wire_put_batch(p->bytes, PARTNER_ID, 3, 99, 0, 0, p->size);
    memcpy(batch->bytes, p->bytes, p->size);
    assert_int_equal(session_arrive(&p->session, batch, p->size, 4), SESSION_MALFORMED);
    assert_int_equal(p->session.malformed, 3);
    assert_false(session_has_something(&p->session));
}

static void a_malformed_frame_ends_its_batch_what_stood_before_holds(void **state)
{
    struct partner *p = *state;
    uint32_t end;
    struct wire_frame frame;

    partner_begin(p);
    partner_add_message(p, 3, 0, 0, 0, "t", "good");
    end = p->size;
    partner_add_message(p, 3, 0, 0, 0, "t", "bad");
    p->bytes[end + WIRE_AT_TYPE] = 77;
    partner_add_message(p, 3, 0, 0, 0, "t", "behind");
    partner_arrive(p, 3);
    partner_expect(p, "good");
    assert_int_equal(session_next(&p->session), SESSION_MESSAGE);
    assert_false(session_peek(&p->session, &frame));
    assert_int_equal(session_next(&p->session), SESSION_FETCH);
    assert_int_equal(p->session.malformed, 1);
}

static void a_message_of_another_priority_than_its_batch_is_malformed(void **state)
{
    struct partner *p = *state;
    struct wire_frame frame;

    partner_begin(p);
    partner_add_message(p, 9, 0, 0, 0, "t", "x");
    partner_arrive(p, 3);
    assert_false(session_peek(&p->session, &frame));
    assert_int_equal(p->session.malformed, 1);
}

static void no_bytes_hurt(void **state)
{
    struct partner *p = *state;
    struct wire_frame frame;

    srand(1);
    requests_open_call(&p->session.requests, true);
    for (int i = 0; i < 20000; i++) {
        struct inbox_batch *batch = inbox_blank(&p->session.inbox);
        unsigned level = (unsigned)rand() % INBOX_LEVELS;

        partner_begin(p);
        for (int n = rand() % 4; n > 0; n--)
            partner_add_message(p, (uint8_t)level & 31, (uint16_t)(rand() % 3 == 0 ? 8 : 0),
                                (uint64_t)0, 0, rand() % 2 ? "t" : "", "payload");
        if (rand() % 3 == 0)
            partner_add_answer(p, (uint8_t)rand(), (uint32_t)rand() * 2u, (uint32_t)rand() * 2u);
        if (rand() % 3 == 0) /* what looks like a frame taken out */
            p->bytes[WIRE_BATCH_SIZE + WIRE_AT_TYPE] = 0;
        for (int n = rand() % 6; n > 0; n--)
            p->bytes[WIRE_BATCH_SIZE + (uint32_t)rand() % (PARTNER_WIDTH - WIRE_BATCH_SIZE)] =
                (uint8_t)rand();
        p->size += (uint32_t)rand() % 16;
        wire_put_batch(p->bytes, PARTNER_ID, (uint8_t)level, ++p->number, 0, 0, p->size);
        memcpy(batch->bytes, p->bytes, p->size);
        memset(batch->bytes + p->size, 0xff, PARTNER_WIDTH - p->size);
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

/* ---- The model ---- */

enum { PLACES = 10, MESSAGES = 400, BATCH_MAX = 5, LEVELS = 6 };

static const uint8_t level_of[LEVELS] = {0, 3, 8, 23, 24, 31};

/* A broker with a backlog of numbers for each level, and a queue of ten places. */
struct model {
    struct partner *partner;
    uint32_t backlog[LEVELS][MESSAGES];
    uint32_t first[LEVELS], last[LEVELS];
    struct place {
        bool used;
        unsigned level; /* index */
        uint64_t number;
        uint32_t size;
        uint8_t bytes[PARTNER_WIDTH];
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
        partner_announce(m->partner, level_of[m->unannounced_level], m->unannounced_number,
                         waiting_map(m));
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
    atomic_store(&m->partner->row.tide,
                 (uint64_t)waiting_map(m) << 32 | (uint32_t)atomic_load(&m->partner->row.tide));
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
    struct partner *p = m->partner;
    int level = LEVELS - 1;

    model_announce(m);
    while (level >= 0 && m->first[level] == m->last[level])
        level--;
    if (level < 0 || PLACES - m->n_standing <= (level_of[level] < WIRE_URGENT ? 3u : 1u))
        return;
    partner_begin(p);
    for (int n = 0; n < BATCH_MAX && m->first[level] < m->last[level]; n++) {
        char text[16];

        snprintf(text, sizeof(text), "%u", m->backlog[level][m->first[level]++]);
        partner_add_message(p, level_of[level], 0, 0, 0, "t", text);
    }
    wire_put_batch(p->bytes, PARTNER_ID, level_of[level], ++p->number, 0, 0, p->size);
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
    batch = inbox_blank(&m->partner->session.inbox);
    memcpy(batch->bytes, best->bytes, best->size);
    best->used = false;
    m->n_standing--;
    session_arrive(&m->partner->session, batch, best->size, level_of[best->level]);
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
    struct session *s = &m->partner->session;
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
        struct partner *p;
        unsigned publish = 1 + seed % 7, send = 1 + seed % 5, read = 1 + seed % 3;

        memset(&m, 0, sizeof(m));
        partner_setup((void **)&m.partner);
        p = m.partner;
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
        partner_teardown((void **)&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PARTNER_TEST(welcome_is_taken_once_and_only_for_its_nonce),
        PARTNER_TEST(K9_stopped_comes_after_all_messages),
        PARTNER_TEST(ended_keeps_its_reason),
        PARTNER_TEST(an_empty_inbox_always_looks_into_the_queue),
        PARTNER_TEST(P1_what_stands_in_the_queue_above_is_fetched_first),
        PARTNER_TEST(P1_what_stands_below_or_beside_is_left_there),
        PARTNER_TEST(P1_what_is_found_when_the_level_falls_was_remembered),
        PARTNER_TEST(P1_what_waits_in_the_broker_makes_it_fetch_then_linger),
        PARTNER_TEST(P1_a_lower_batch_on_the_way_is_progress),
        PARTNER_TEST(P1_twenty_milliseconds_without_progress_are_enough),
        PARTNER_TEST(P1_answers_standing_in_the_queue_come_first),
        PARTNER_TEST(words_of_an_earlier_session_are_found_wrong_once),
        PARTNER_TEST(quiet_only_if_nothing_is_hinted_at),
        PARTNER_TEST(frames_of_a_batch_come_in_their_order),
        PARTNER_TEST(an_empty_batch_brings_its_grant_and_nothing_else),
        PARTNER_TEST(K3_a_repeated_batch_is_dropped),
        PARTNER_TEST(what_is_no_batch_of_this_session_is_dropped_and_counted),
        PARTNER_TEST(a_malformed_frame_ends_its_batch_what_stood_before_holds),
        PARTNER_TEST(a_message_of_another_priority_than_its_batch_is_malformed),
        PARTNER_TEST(no_bytes_hurt),
        cmocka_unit_test(P1_shuffled_steps_never_hand_out_a_lower_one_first),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
