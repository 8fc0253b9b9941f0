/* libclient/requests and libclient/reports: open requests are found by number, fail in order, and
 * time out; expired messages are counted by topic. */
#include "libclient/requests.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "libclient/reports.h"

static struct requests requests;
static struct reports reports;

static int setup(void **state)
{
    (void)state;
    requests_init(&requests);
    memset(&reports, 0, sizeof(reports));
    return 0;
}

static void an_open_request_is_found_by_its_number_until_it_is_closed(void **state)
{
    uint32_t number = requests_open(&requests, 100, 5);

    (void)state;
    assert_true((number & REQUESTS_BIT) != 0);
    assert_non_null(requests_find(&requests, number));
    requests_close(&requests, requests_find(&requests, number));
    assert_null(requests_find(&requests, number));
    assert_int_equal(requests.n_open, 0);
}

static void L2_a_late_answer_does_not_find_who_took_the_place(void **state)
{
    uint32_t old = requests_open(&requests, 100, 5), young;

    (void)state;
    requests_close(&requests, requests_find(&requests, old));
    young = requests_open(&requests, 100, 5);
    assert_int_not_equal(young, old);
    assert_int_equal(young % (1u << REQUESTS_PLACE_BITS), old % (1u << REQUESTS_PLACE_BITS));
    assert_null(requests_find(&requests, old));
    assert_non_null(requests_find(&requests, young));
}

static void as_many_as_stated_may_be_open(void **state)
{
    uint32_t last = 0;

    (void)state;
    for (int i = 0; i < REQUESTS_MAX; i++) {
        last = requests_open(&requests, 100, 0);
        assert_int_not_equal(last, 0);
    }
    assert_int_equal(requests_open(&requests, 100, 0), 0);
    assert_int_not_equal(requests_open_call(&requests, true), 0); /* the call has its own place */
    requests_close(&requests, requests_find(&requests, last));
    assert_int_not_equal(requests_open(&requests, 100, 0), 0);
}

static void numbers_of_no_place_are_not_found(void **state)
{
    (void)state;
    assert_null(requests_find(&requests, 0));
    assert_null(requests_find(&requests, UINT32_MAX));
    assert_null(requests_find(&requests, REQUESTS_BIT | REQUESTS_PLACES));
}

static void failures_are_told_in_order_and_once(void **state)
{
    uint32_t a = requests_open(&requests, 100, 1), b = requests_open(&requests, 100, 2);
    struct request failed;

    (void)state;
    assert_true(requests_answer(&requests, b, 1, WIRE_C_NO_SUBSCRIBER));
    assert_true(requests_answer(&requests, a, 1, WIRE_C_PEER_DIED));
    assert_false(requests_answer(&requests, a, 1, WIRE_C_TIMEOUT));
    assert_true(requests_next_failed(&requests, &failed));
    assert_int_equal(failed.number, b);
    assert_int_equal(failed.code, WIRE_C_NO_SUBSCRIBER);
    assert_int_equal(failed.priority, 2);
    assert_true(requests_next_failed(&requests, &failed));
    assert_int_equal(failed.number, a);
    assert_int_equal(failed.code, WIRE_C_PEER_DIED);
    assert_false(requests_next_failed(&requests, &failed));
}

static void a_failed_one_keeps_its_place_until_it_is_told(void **state)
{
    struct request failed;
    uint32_t first = requests_open(&requests, 100, 0);

    (void)state;
    for (int i = 1; i < REQUESTS_MAX; i++)
        requests_open(&requests, 100, 0);
    requests_answer(&requests, first, 1, WIRE_C_DROPPED);
    assert_int_equal(requests_open(&requests, 100, 0), 0);
    requests_next_failed(&requests, &failed);
    assert_int_not_equal(requests_open(&requests, 100, 0), 0);
}

static void one_answer_covers_neighbours(void **state)
{
    uint32_t a = requests_open(&requests, 100, 0), b = requests_open(&requests, 100, 0);
    uint32_t c = requests_open(&requests, 100, 0);

    (void)state;
    assert_int_equal(b, a + 1);
    requests_answer(&requests, a, 2, WIRE_C_NO_SUBSCRIBER);
    assert_null(requests_find(&requests, a));
    assert_null(requests_find(&requests, b));
    assert_non_null(requests_find(&requests, c));
    requests_answer(&requests, c, UINT32_MAX, WIRE_C_NO_SUBSCRIBER); /* ends, whatever it claims */
    assert_int_equal(requests.n_open, 0);
}

static void ok_ends_a_subscription_but_no_request(void **state)
{
    uint32_t number = requests_open(&requests, 100, 0);
    uint32_t call = requests_open_call(&requests, true);

    (void)state;
    requests_answer(&requests, number, 1, WIRE_C_OK);
    requests_answer(&requests, call, 1, WIRE_C_OK);
    assert_non_null(requests_find(&requests, number));
    assert_non_null(requests_find(&requests, call));
    call = requests_open_call(&requests, false);
    requests_answer(&requests, call, 1, WIRE_C_OK);
    assert_int_equal(requests_call(&requests)->state, REQUEST_DONE);
    assert_false(requests_have_failed(&requests));
}

static void the_answer_to_the_call_counts_and_touches_no_request(void **state)
{
    uint32_t number, call;

    (void)state;
    number = requests_open(&requests, 100, 8);
    call = requests_open_call(&requests, false);
    assert_true(requests_answer(&requests, call, UINT32_MAX, WIRE_C_OK));
    assert_int_equal(requests_call(&requests)->state, REQUEST_DONE);
    assert_int_equal(requests_call(&requests)->count, UINT32_MAX);
    assert_non_null(requests_find(&requests, number));
    requests_close(&requests, requests_call(&requests));

    call = requests_open_call(&requests, false);
    assert_true(requests_answer(&requests, call, 0, WIRE_C_OK));
    assert_int_equal(requests_call(&requests)->count, 0);
}

static void deadlines_end_requests_that_nobody_answers(void **state)
{
    uint32_t late = requests_open(&requests, 300, 0), soon = requests_open(&requests, 200, 0);
    struct request failed;

    (void)state;
    assert_false(requests_expire(&requests, 199));
    assert_true(requests_expire(&requests, 200));
    assert_true(requests_next_failed(&requests, &failed));
    assert_int_equal(failed.number, soon);
    assert_int_equal(failed.code, WIRE_C_TIMEOUT);
    assert_non_null(requests_find(&requests, late));
    assert_int_equal(requests.earliest, 300);
    assert_true(requests_expire(&requests, 1000));
    assert_int_equal(requests.earliest, REQUESTS_NEVER);
}

static void P11_expired_messages_are_counted_by_topic(void **state)
{
    (void)state;
    reports_add(&reports, "a/b", 3);
    reports_add(&reports, "a/c", 3);
    reports_add(&reports, "a/b", 3);
    assert_int_equal(reports.n, 2);
    assert_int_equal(reports.topics[0].count, 2);
    reports_drop(&reports, 1);
    assert_int_equal(reports.n, 1);
    assert_memory_equal(reports.topics[0].topic, "a/c", 3);
}

static void P11_no_report_is_lost_when_the_topics_run_out(void **state)
{
    uint32_t sum = 0;

    (void)state;
    for (char topic = 'a'; topic <= 'z'; topic++)
        reports_add(&reports, &topic, 1);
    assert_int_equal(reports.n, REPORTS_TOPICS);
    for (uint32_t i = 0; i < reports.n; i++)
        sum += reports.topics[i].count;
    assert_int_equal(sum, 26);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(an_open_request_is_found_by_its_number_until_it_is_closed, setup),
        cmocka_unit_test_setup(L2_a_late_answer_does_not_find_who_took_the_place, setup),
        cmocka_unit_test_setup(as_many_as_stated_may_be_open, setup),
        cmocka_unit_test_setup(numbers_of_no_place_are_not_found, setup),
        cmocka_unit_test_setup(failures_are_told_in_order_and_once, setup),
        cmocka_unit_test_setup(a_failed_one_keeps_its_place_until_it_is_told, setup),
        cmocka_unit_test_setup(one_answer_covers_neighbours, setup),
        cmocka_unit_test_setup(ok_ends_a_subscription_but_no_request, setup),
        cmocka_unit_test_setup(the_answer_to_the_call_counts_and_touches_no_request, setup),
        cmocka_unit_test_setup(deadlines_end_requests_that_nobody_answers, setup),
        cmocka_unit_test_setup(P11_expired_messages_are_counted_by_topic, setup),
        cmocka_unit_test_setup(P11_no_report_is_lost_when_the_topics_run_out, setup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
