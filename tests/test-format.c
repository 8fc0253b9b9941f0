/* mqsub's output: every escape, any bytes, the three places where they may land. And the text
 * functions it stands on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/format.h"
#include "tools/text.h"

static const struct timespec when = {.tv_sec = 1700000000, .tv_nsec = 123456789};

static char *print_dated(const struct format *format, const struct mqc_message *message,
                         const struct timespec *date)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    assert_non_null(out);
    assert_int_equal(format_print(format, message, 7, date, out), 0);
    assert_int_equal(fclose(out), 0);
    return text;
}

static char *print(const struct format *format, const struct mqc_message *message)
{
    return print_dated(format, message, &when);
}

static void expect(const struct format *format, const struct mqc_message *message,
                   const char *expected)
{
    char *text = print(format, message);

    assert_string_equal(text, expected);
    free(text);
}

static const struct mqc_message plain = {.topic = "plant/line1",
                                         .payload = "21.5",
                                         .size = 4,
                                         .priority = 9,
                                         .flags = MQC_M_RETAINED,
                                         .attempt = 2};

#define BYTES(text) .payload = (text), .size = sizeof(text) - 1

/* ---- Escapes ---- */

static void each_escape_writes_its_part(void **state)
{
    static const struct {
        const char *format;
        const char *expected;
    } escapes[] = {
        {"%p", "21.5"},
        {"%t %p", "plant/line1 21.5"},
        {"%x", "32312e35"},
        {"%X", "32312E35"},
        {"%l", "4"},
        {"%P", "9"},
        {"%r%R%A", "102"},
        {"%n", "7"},
        {"%I", "2023-11-14T22:13:20.123456Z"},
        {"%U", "1700000000.123456789"},
        {"%%p", "%p"},
        {"a\\tb\\nc\\r\\e\\\\d", "a\tb\nc\r\033\\d"},
        {"%j", "{\"time\":\"2023-11-14T22:13:20.123456Z\",\"topic\":\"plant/line1\",\"priority\":9,"
               "\"retained\":true,\"request\":false,\"size\":4,\"payload\":\"21.5\"}"},
        {"", ""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++)
        expect(&(struct format){.text = escapes[i].format}, &plain, escapes[i].expected);
    expect(&(struct format){.text = "%p", .newline = true}, &plain, "21.5\n");
}

static void an_escaped_zero_is_a_zero_byte(void **state)
{
    char *text = print(&(struct format){.text = "%p\\0", .newline = true}, &plain);

    (void)state;
    assert_memory_equal(text, "21.5\0\n", 7);
    free(text);
}

static void an_unknown_escape_is_pointed_to(void **state)
{
    static const struct {
        const char *format;
        const char *bad;
    } wrong[] = {{"%t %z", "%z"}, {"100%", "%"}, {"\\q", "\\q"}, {"%p\\", "\\"}, {"%%%y", "%y"}};
    const char *bad = NULL;

    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(format_valid(wrong[i].format, &bad));
        assert_string_equal(bad, wrong[i].bad);
    }
    assert_true(format_valid("%t%p%x%X%l%P%r%R%A%n%I%U%j%%\\n\\t\\r\\0\\e\\\\", &bad));
    assert_true(format_valid("", &bad));
    assert_true(format_valid(FORMAT_PAYLOAD FORMAT_VERBOSE FORMAT_JSON, &bad));
}

static void a_time_that_is_not_known_is_a_dash_or_null(void **state)
{
    char *text = print_dated(&(struct format){.text = "%I %U"}, &plain, NULL);

    (void)state;
    assert_string_equal(text, "- -");
    free(text);
    text = print_dated(&(struct format){.text = FORMAT_JSON}, &plain, NULL);
    assert_int_equal(strncmp(text, "{\"time\":null,", 13), 0);
    free(text);
}

/* ---- Any bytes ---- */

static void a_pipe_gets_the_payload_byte_for_byte(void **state)
{
    uint8_t all[256];
    struct mqc_message message = {.topic = "t", .payload = all, .size = sizeof all};
    char *text;

    (void)state;
    for (size_t i = 0; i < sizeof all; i++)
        all[i] = (uint8_t)i;
    text = print(&(struct format){.text = "%p"}, &message);
    assert_memory_equal(text, all, sizeof all);
    free(text);
}

static void a_terminal_gets_nothing_that_could_act_on_it(void **state)
{
    const struct format format = {.text = FORMAT_VERBOSE, .newline = true, .terminal = true};

    (void)state;
    expect(&format, &(struct mqc_message){.topic = "a\033]0;evil\a", BYTES("\033[2J\r\b\x7f")},
           "a\\x1b]0;evil\\x07 \\x1b[2J\\x0d\\x08\\x7f\n");
    /* C1, alone and as UTF-8: CSI in one character. */
    expect(&format,
           &(struct mqc_message){.topic = "t",
                                 BYTES("\x9b"
                                       "2J\xc2\x9b"
                                       "2J")},
           "t \\x9b2J\\xc2\\x9b2J\n");
    expect(&format, &(struct mqc_message){.topic = "z\nz", BYTES("gr\xc3\xbc\xc3\x9f\n\tdich\xff")},
           "z\\x0az gr\xc3\xbc\xc3\x9f\n\tdich\\xff\n");
    expect(&format, &(struct mqc_message){.topic = "t", BYTES("a\0b")}, "t a\\x00b\n");
    expect(&format, &(struct mqc_message){.topic = "t", BYTES("")}, "t \n");
}

static void no_byte_reaches_a_terminal_as_a_control_character(void **state)
{
    uint8_t pair[2];
    struct mqc_message message = {.topic = "", .payload = pair, .size = sizeof pair};

    (void)state;
    for (unsigned i = 0; i < 65536; i++) {
        char *text;

        pair[0] = (uint8_t)(i >> 8);
        pair[1] = (uint8_t)i;
        text = print(&(struct format){.text = "%p", .terminal = true}, &message);
        for (const char *c = text; *c != '\0'; c++) {
            assert_true((uint8_t)*c >= 0x20 || *c == '\n' || *c == '\t');
            assert_int_not_equal((uint8_t)*c, 0x7f);
            assert_true((uint8_t)*c != 0xc2 || (uint8_t)c[1] >= 0xa0);
        }
        assert_true(text_character(text, strlen(text)) > 0 || *text == '\0');
        free(text);
    }
}

static json_t *parse(const struct mqc_message *message)
{
    char *text = print(&(struct format){.text = FORMAT_JSON, .newline = true}, message);
    json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);

    assert_non_null(json);
    assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
    free(text);
    return json;
}

static void json_holds_text_as_text_and_all_else_as_base64(void **state)
{
    static const struct {
        struct mqc_message message;
        const char *key;
        const char *value;
    } cases[] = {
        {{.topic = "t", BYTES("plain")}, "payload", "plain"},
        {{.topic = "t", BYTES("")}, "payload", ""},
        {{.topic = "t", BYTES("\"quoted\"\n\033\\")}, "payload", "\"quoted\"\n\033\\"},
        {{.topic = "t", BYTES("gr\xc3\xbc\xc3\x9f dich")}, "payload", "gr\xc3\xbc\xc3\x9f dich"},
        {{.topic = "t", BYTES("a\0b")}, "payload_base64", "YQBi"},
        {{.topic = "t", BYTES("\xff")}, "payload_base64", "/w=="},
        {{.topic = "t", BYTES("\xff\xfe")}, "payload_base64", "//4="},
        {{.topic = "t", BYTES("\xed\xa0\x80\x01")}, "payload_base64", "7aCAAQ=="},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *json = parse(&cases[i].message);

        assert_int_equal(json_object_size(json), 7);
        assert_string_equal(json_string_value(json_object_get(json, cases[i].key)), cases[i].value);
        assert_int_equal(json_integer_value(json_object_get(json, "size")), cases[i].message.size);
        json_decref(json);
    }
}

static void json_says_the_attempt_of_what_comes_out_of_a_group(void **state)
{
    static const struct mqc_message owed = {
        .topic = "t", .payload = "x", .size = 1, .priority = 9, .acknowledge = 1, .attempt = 3};

    (void)state;
    expect(&(struct format){.text = "%j"}, &owed,
           "{\"time\":\"2023-11-14T22:13:20.123456Z\",\"topic\":\"t\",\"priority\":9,"
           "\"retained\":false,\"request\":false,\"size\":1,\"attempt\":3,\"payload\":\"x\"}");
}

static void json_survives_a_topic_that_is_no_text(void **state)
{
    const struct mqc_message message = {
        .topic = "a\"\n\x01\xff\xc3", BYTES("x"), .flags = MQC_M_REQUEST};
    json_t *json = parse(&message);

    (void)state;
    assert_string_equal(json_string_value(json_object_get(json, "topic")),
                        "a\"\n\x01\xef\xbf\xbd\xef\xbf\xbd");
    assert_true(json_is_true(json_object_get(json, "request")));
    json_decref(json);
}

/* ---- Text ---- */

static void characters_are_those_of_unicode(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
    } cases[] = {
        {"a", 1},
        {"\x7f", 1},
        {"\xc2\x80", 2},
        {"\xdf\xbf", 2},
        {"\xe0\xa0\x80", 3},
        {"\xed\x9f\xbf", 3},
        {"\xee\x80\x80", 3},
        {"\xf0\x90\x80\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4},
        {"\x80", 0},
        {"\xc0\x80", 0},     /* overlong */
        {"\xc1\xbf", 0},     /* overlong */
        {"\xe0\x9f\xbf", 0}, /* overlong */
        {"\xed\xa0\x80", 0}, /* surrogate */
        {"\xf0\x8f\xbf\xbf", 0},
        {"\xf4\x90\x80\x80", 0}, /* above U+10FFFF */
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
        {"\xc3", 0}, /* cut off */
        {"\xe2\x82", 0},
        {"\xc3(", 0},
        {"\xe2\x82(", 0},
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(text_character(cases[i].bytes, strlen(cases[i].bytes)), cases[i].size);
    assert_int_equal(text_character("\xe2\x82\xac", 2), 0);
}

static void width_counts_what_is_written(void **state)
{
    (void)state;
    assert_int_equal(text_visible_width("gr\xc3\xbc\x01\xff", 6), 3 + 4 + 4);
}

static void base64_is_that_of_rfc_4648(void **state)
{
    static const char *const vectors[] = {"",         "Zg==",     "Zm8=",    "Zm9v",
                                          "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"};

    (void)state;
    for (size_t size = 0; size < 7; size++) {
        json_t *json = text_json_base64("foobar", size);

        assert_string_equal(json_string_value(json), vectors[size]);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_escape_writes_its_part),
        cmocka_unit_test(a_time_that_is_not_known_is_a_dash_or_null),
        cmocka_unit_test(an_escaped_zero_is_a_zero_byte),
        cmocka_unit_test(an_unknown_escape_is_pointed_to),
        cmocka_unit_test(a_pipe_gets_the_payload_byte_for_byte),
        cmocka_unit_test(a_terminal_gets_nothing_that_could_act_on_it),
        cmocka_unit_test(no_byte_reaches_a_terminal_as_a_control_character),
        cmocka_unit_test(json_holds_text_as_text_and_all_else_as_base64),
        cmocka_unit_test(json_says_the_attempt_of_what_comes_out_of_a_group),
        cmocka_unit_test(json_survives_a_topic_that_is_no_text),
        cmocka_unit_test(characters_are_those_of_unicode),
        cmocka_unit_test(width_counts_what_is_written),
        cmocka_unit_test(base64_is_that_of_rfc_4648),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
