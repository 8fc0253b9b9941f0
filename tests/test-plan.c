/* The plan: the figures of the default limits, what small and large limits make of it, and that the
 * print is of use. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <sys/resource.h>

#include "broker/plan.h"
#include "libclient/queue.h"
#include "libclient/wire.h"

static const struct plan_limits stock = {
    .queue_bytes = 819200, .msg_max = 10, .msgsize_max = 8192, .queues_max = 256};

static struct config defaults(void)
{
    struct config config;

    config_default(&config);
    return config;
}

/* The print, for the caller to free. */
static char *print(const struct plan *plan, int outcome)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    assert_non_null(out);
    plan_print(plan, outcome, out);
    fclose(out);
    return text;
}

static void assert_prints(const struct plan *plan, int outcome, const char *part)
{
    char *text = print(plan, outcome);

    if (strstr(text, part) == NULL)
        fail_msg("\"%s\" is not in:\n%s", part, text);
    free(text);
}

static void assert_prints_not(const struct plan *plan, int outcome, const char *part)
{
    char *text = print(plan, outcome);

    if (strstr(text, part) != NULL)
        fail_msg("\"%s\" is in:\n%s", part, text);
    free(text);
}

static void default_limits_serve_32_clients_with_like_queues(void **state)
{
    struct config config = defaults();
    struct plan plan;

    (void)state;
    assert_int_equal(plan_make(&plan, &config, &stock), PLAN_OK);
    assert_int_equal(plan.depth, 10);
    assert_int_equal(plan.reply_depth, 10);
    assert_int_equal(plan.request_width, 8192);
    assert_int_equal(plan.urgent_width, 1280);
    assert_int_equal(plan.reply_width, 2160);
    assert_int_equal(plan.n_clients, 32);
    assert_int_equal(plan.frame_max, 1240);
    assert_int_equal(plan.bytes, 82880 + 13760 + 32 * 22560);
}

static void default_limits_serve_128_clients(void **state)
{
    struct config config = defaults();
    struct plan plan;

    (void)state;
    config.max_clients = 128;
    assert_int_equal(plan_make(&plan, &config, &stock), PLAN_OK);
    assert_int_equal(plan.n_clients, 128);
    assert_int_equal(plan.reply_width, 464);
    assert_int_equal(plan.bytes, 82880 + 13760 + 128 * 10 * (464 + 96));
    assert_int_equal(plan.bytes, 813440);
}

static void largest_frame_fits_the_request_queues_with_either_header(void **state)
{
    struct config config = defaults();
    struct plan plan;

    (void)state;
    assert_int_equal(plan_make(&plan, &config, &stock), PLAN_OK);
    assert_true(plan.frame_max + WIRE_BATCH_SIZE <= plan.urgent_width);
    assert_true(plan.frame_max + WIRE_ENVELOPE_SIZE <= plan.urgent_width);
    assert_true(plan.frame_max + WIRE_ENVELOPE_SIZE <= plan.request_width);
}

static void L5_largest_descriptor_fits_the_narrowest_reply_queue(void **state)
{
    (void)state;
    assert_true(WIRE_BATCH_SIZE + WIRE_MESSAGE_SIZE + WIRE_SLOT_SIZE + WIRE_TOPIC_MAX + 1 <=
                PLAN_REPLY_MIN);
    assert_true(WIRE_BATCH_SIZE + WIRE_WELCOME_SIZE <= PLAN_REPLY_MIN);
}

static void without_a_limit_all_are_as_wide_as_can_be(void **state)
{
    struct config config = defaults();
    struct plan_limits limits = stock;
    struct plan plan;

    (void)state;
    limits.queue_bytes = UINT64_MAX;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.n_clients, 32);
    assert_int_equal(plan.reply_width, 8192);
    assert_int_equal(plan.bytes, 82880 + 13760 + 32 * 82880);
    assert_prints(&plan, PLAN_OK, "unlimited");
    assert_prints_not(&plan, PLAN_OK, "ulimit -q");
}

static void small_limits_serve_fewer_clients_and_say_so(void **state)
{
    struct config config = defaults();
    struct plan_limits limits = stock;
    struct plan plan;

    (void)state;
    limits.queue_bytes = 200000;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.n_clients, 18);
    assert_int_equal(plan.reply_width, 464);
    assert_prints(&plan, PLAN_OK, "max_clients is 32, but the bytes do not suffice");
    assert_prints(&plan, PLAN_OK, "275,840 are needed");
    assert_prints(&plan, PLAN_OK, "ulimit -q 275840");
    assert_prints(&plan, PLAN_OK, "LimitMSGQUEUE=275840");
    limits.queue_bytes = 275840;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.n_clients, 32);
    assert_prints_not(&plan, PLAN_OK, "ulimit -q");
}

static void the_plan_never_exceeds_the_limit_and_leaves_no_room_for_one_more(void **state)
{
    struct config config = defaults();
    struct plan_limits limits = stock;
    struct plan plan;

    (void)state;
    for (uint64_t bytes = 102240; bytes < 3000000; bytes += 997) {
        uint64_t left;

        limits.queue_bytes = bytes;
        assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
        assert_true(plan.bytes <= bytes);
        assert_int_equal(plan.bytes, queue_bytes(10, 8192) + queue_bytes(10, 1280) +
                                         plan.n_clients * queue_bytes(10, plan.reply_width));
        assert_true(plan.reply_width >= 464 && plan.reply_width <= 8192);
        assert_int_equal(plan.reply_width % 16, 0);
        left = bytes - plan.bytes;
        assert_true(plan.n_clients == 32 || (left < queue_bytes(10, 464) + 32 * 160));
        assert_true(plan.reply_width == 8192 || left < plan.n_clients * UINT64_C(10) * 16);
    }
}

static void the_number_of_queues_caps_the_clients(void **state)
{
    struct config config = defaults();
    struct plan_limits limits = stock;
    struct plan plan;

    (void)state;
    limits.queues_max = 12;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.n_clients, 10);
    assert_prints(&plan, PLAN_OK, "sysctl -w fs.mqueue.queues_max=96");
}

static void large_limits_change_nothing_that_is_not_configured(void **state)
{
    struct config config = defaults();
    struct plan_limits limits = {
        .queue_bytes = 819200, .msg_max = 65536, .msgsize_max = 16777216, .queues_max = 65536};
    struct plan plan;

    (void)state;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.depth, 10);
    /* The landing is that large, and no larger. */
    assert_int_equal(plan.request_width, WIRE_QUEUE_MAX);
    assert_int_equal(plan.reply_width, 2160);
}

static void a_configured_depth_is_used_as_far_as_the_kernel_allows(void **state)
{
    struct config config = defaults();
    struct plan_limits limits = stock;
    struct plan plan;

    (void)state;
    config.queue_depth = 64;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.depth, 10);
    assert_int_equal(plan.depth_wanted, 64);
    assert_prints(&plan, PLAN_OK, "queue_depth is 64, but the kernel allows 10");
    assert_prints(&plan, PLAN_OK, "sysctl -w fs.mqueue.msg_max=64");

    limits.msg_max = 100;
    limits.queue_bytes = 10000000;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.depth, 64);
    assert_prints_not(&plan, PLAN_OK, "msg_max=");

    config.queue_depth = 0;
    limits.msg_max = 5;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.depth, 5);
}

static void a_reply_queue_is_no_deeper_than_its_outbox_has_buffers(void **state)
{
    struct config config = defaults();
    struct plan_limits limits = stock;
    struct plan plan;

    (void)state;
    limits.msg_max = 1024;
    limits.queue_bytes = UINT64_MAX;
    config.queue_depth = 62;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.reply_depth, 62);
    config.queue_depth = 1024;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.depth, 1024);
    assert_int_equal(plan.reply_depth, 62);
    assert_int_equal(plan.bytes, queue_bytes(1024, 8192) + queue_bytes(1024, 1280) +
                                     32 * queue_bytes(62, 8192));
}

static void the_kernels_message_limit_caps_all_widths(void **state)
{
    struct config config = defaults();
    struct plan_limits limits = stock;
    struct plan plan;

    (void)state;
    limits.msgsize_max = 1280;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.request_width, 1280);
    assert_int_equal(plan.n_clients, 32);
    assert_int_equal(plan.reply_width, 1280);
    limits.msgsize_max = 4001;
    limits.queue_bytes = UINT64_MAX;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.request_width, 4001);
    assert_int_equal(plan.reply_width, 4000);
    assert_int_equal(plan.urgent_width, 1280);
}

static void assert_refused(struct plan_limits limits, int outcome, const char *remedy)
{
    struct config config = defaults();
    struct plan plan;

    assert_int_equal(plan_make(&plan, &config, &limits), outcome);
    assert_int_equal(plan.n_clients, 0);
    assert_prints(&plan, outcome, "The broker cannot run");
    assert_prints(&plan, outcome, remedy);
}

static void what_cannot_work_is_refused_with_the_remedy(void **state)
{
    struct plan_limits limits = stock;

    (void)state;
    limits.queue_bytes = 102239;
    assert_refused(limits, PLAN_E_BYTES, "LimitMSGQUEUE=275840");
    assert_refused(limits, PLAN_E_BYTES, "one client need 102,240 bytes");
    limits.queue_bytes = 0;
    assert_refused(limits, PLAN_E_BYTES, "ulimit -q 275840");
    limits = stock;
    limits.msgsize_max = 1279;
    assert_refused(limits, PLAN_E_WIDTH, "sysctl -w fs.mqueue.msgsize_max=8192");
    limits = stock;
    limits.msg_max = 3;
    assert_refused(limits, PLAN_E_DEPTH, "sysctl -w fs.mqueue.msg_max=10");
    limits = stock;
    limits.queues_max = 2;
    assert_refused(limits, PLAN_E_COUNT, "sysctl -w fs.mqueue.queues_max=256");
}

static void the_least_that_works_is_one_client(void **state)
{
    struct config config = defaults();
    struct plan_limits limits = {
        .queue_bytes = 4 * 2 * 1376 + 4 * 560, .msg_max = 4, .msgsize_max = 1280, .queues_max = 3};
    struct plan plan;

    (void)state;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_OK);
    assert_int_equal(plan.n_clients, 1);
    assert_int_equal(plan.bytes, limits.queue_bytes);
    limits.queue_bytes--;
    assert_int_equal(plan_make(&plan, &config, &limits), PLAN_E_BYTES);
}

static void the_print_shows_limits_formula_and_sum(void **state)
{
    struct config config = defaults();
    struct plan plan;
    int outcome = plan_make(&plan, &config, &stock);

    (void)state;
    assert_prints(&plan, outcome, "RLIMIT_MSGQUEUE              819,200");
    assert_prints(&plan, outcome, "depth x (width + 96)");
    assert_prints(&plan, outcome, "32 x  10 x (2,160 + 96) =       721,920");
    assert_prints(&plan, outcome, "818,560");
    assert_prints(&plan, outcome, "  640\n");
    assert_prints(&plan, outcome, "32 clients fit.");
    assert_prints(&plan, outcome, "more than 1,240 bytes");
    assert_prints(&plan, outcome, "Other programs of the same user");
}

static void the_limits_of_this_process_are_read(void **state)
{
    struct plan_limits limits;
    struct rlimit before, less;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_MSGQUEUE, &before), 0);
    less = before;
    less.rlim_cur = 123456;
    assert_int_equal(setrlimit(RLIMIT_MSGQUEUE, &less), 0);
    assert_int_equal(plan_read_limits(&limits), 0);
    assert_int_equal(setrlimit(RLIMIT_MSGQUEUE, &before), 0);
    assert_int_equal(limits.queue_bytes, 123456);
    assert_true(limits.msg_max >= 1);
    assert_true(limits.msgsize_max >= 128);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(default_limits_serve_32_clients_with_like_queues),
        cmocka_unit_test(default_limits_serve_128_clients),
        cmocka_unit_test(largest_frame_fits_the_request_queues_with_either_header),
        cmocka_unit_test(L5_largest_descriptor_fits_the_narrowest_reply_queue),
        cmocka_unit_test(without_a_limit_all_are_as_wide_as_can_be),
        cmocka_unit_test(small_limits_serve_fewer_clients_and_say_so),
        cmocka_unit_test(the_plan_never_exceeds_the_limit_and_leaves_no_room_for_one_more),
        cmocka_unit_test(the_number_of_queues_caps_the_clients),
        cmocka_unit_test(large_limits_change_nothing_that_is_not_configured),
        cmocka_unit_test(a_configured_depth_is_used_as_far_as_the_kernel_allows),
        cmocka_unit_test(a_reply_queue_is_no_deeper_than_its_outbox_has_buffers),
        cmocka_unit_test(the_kernels_message_limit_caps_all_widths),
        cmocka_unit_test(what_cannot_work_is_refused_with_the_remedy),
        cmocka_unit_test(the_least_that_works_is_one_client),
        cmocka_unit_test(the_print_shows_limits_formula_and_sum),
        cmocka_unit_test(the_limits_of_this_process_are_read),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
