/* Names of kernel objects are an interface: brokers and clients of different builds must find each
 * other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "libclient/names.h"

static void names_are_those_of_the_protocol(void **state)
{
    char name[NAMES_MAX];

    (void)state;
    names_request_queue(name, "default");
    assert_string_equal(name, "/mqbroker.default");
    names_urgent_queue(name, "default");
    assert_string_equal(name, "/mqbroker.default.urgent");
    names_reply_queue(name, "default", UINT64_C(0x00ab00000000cdef));
    assert_string_equal(name, "/mqbroker.default.00ab00000000cdef");
    names_outbox(name, "default", UINT64_C(0x00ab00000000cdef));
    assert_string_equal(name, "/mqbroker.default.00ab00000000cdef.outbox");
    names_pool(name, "default", UINT64_C(0x00ab00000000cdef));
    assert_string_equal(name, "/mqbroker.default.00ab00000000cdef.pool");
    names_board(name, "default");
    assert_string_equal(name, "/mqbroker.default");
    names_ledger(name, "default");
    assert_string_equal(name, "/mqbroker.default.ledger");
    names_store(name, "default");
    assert_string_equal(name, "/mqbroker.default.store");
}

static void longest_instance_fits_every_name(void **state)
{
    char instance[NAMES_INSTANCE_MAX + 1];
    char name[NAMES_MAX];

    (void)state;
    memset(instance, 'i', NAMES_INSTANCE_MAX);
    instance[NAMES_INSTANCE_MAX] = '\0';
    assert_true(names_instance_valid(instance));
    names_reply_queue(name, instance, UINT64_MAX);
    assert_int_equal(strlen(name), strlen("/mqbroker.") + NAMES_INSTANCE_MAX + 17);
    assert_string_equal(name + strlen(name) - 17, ".ffffffffffffffff");
    names_urgent_queue(name, instance);
    assert_string_equal(name + strlen(name) - 7, ".urgent");
    names_outbox(name, instance, UINT64_MAX);
    assert_string_equal(name + strlen(name) - 24, ".ffffffffffffffff.outbox");
    names_pool(name, instance, UINT64_MAX);
    assert_string_equal(name + strlen(name) - 22, ".ffffffffffffffff.pool");
}

static void L5_instance_has_no_dot_and_no_slash(void **state)
{
    (void)state;
    assert_true(names_instance_valid("default"));
    assert_true(names_instance_valid("AZaz09_-"));
    assert_false(names_instance_valid("a.urgent"));
    assert_false(names_instance_valid("a/b"));
    assert_false(names_instance_valid("."));
    assert_false(names_instance_valid("a b"));
    assert_false(names_instance_valid("a\n"));
    assert_false(names_instance_valid("\xc3\xa9"));
    for (const char *c = "@[`{/:"; *c != '\0'; c++) /* the neighbours of the ranges */
        assert_false(names_instance_valid((const char[]){*c, '\0'}));
}

static void instance_has_1_to_64_characters(void **state)
{
    char instance[NAMES_INSTANCE_MAX + 2];

    (void)state;
    assert_false(names_instance_valid(""));
    assert_true(names_instance_valid("a"));
    memset(instance, 'i', sizeof(instance));
    instance[NAMES_INSTANCE_MAX + 1] = '\0';
    assert_false(names_instance_valid(instance));
    instance[NAMES_INSTANCE_MAX] = '\0';
    assert_true(names_instance_valid(instance));
}

static void wanted_instance_goes_before_environment_before_default(void **state)
{
    (void)state;
    assert_int_equal(unsetenv("MQBROKER_INSTANCE"), 0);
    assert_string_equal(names_instance(NULL), "default");
    assert_int_equal(setenv("MQBROKER_INSTANCE", "", 1), 0);
    assert_string_equal(names_instance(NULL), "default");
    assert_int_equal(setenv("MQBROKER_INSTANCE", "lab", 1), 0);
    assert_string_equal(names_instance(NULL), "lab");
    assert_string_equal(names_instance("mine"), "mine");
    assert_int_equal(unsetenv("MQBROKER_INSTANCE"), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_those_of_the_protocol),
        cmocka_unit_test(longest_instance_fits_every_name),
        cmocka_unit_test(L5_instance_has_no_dot_and_no_slash),
        cmocka_unit_test(instance_has_1_to_64_characters),
        cmocka_unit_test(wanted_instance_goes_before_environment_before_default),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
