/* Topics, filters, names: the examples of MQTT 5.0 section 4.7 as it prints them, our own rules on
 * top of it, UTF-8, the limits, and the matcher against an obvious one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "libclient/topic.h"
#include "tests/support/obvious_topic.h"

static bool matches(const char *filter, const char *topic)
{
    assert_true(topic_filter_valid(filter, strlen(filter)));
    return topic_match(filter, strlen(filter), topic, strlen(topic));
}

static bool is_topic(const char *topic)
{
    return topic_valid(topic, strlen(topic));
}

static bool is_filter(const char *filter)
{
    return topic_filter_valid(filter, strlen(filter));
}

static bool is_name(const char *name)
{
    return topic_name_valid(name, strlen(name));
}

/* ---- MQTT 5.0, section 4.7 ---- */

static void multi_level_wildcard_matches_parent_and_all_below(void **state)
{
    (void)state;
    assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1"));
    assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1/ranking"));
    assert_true(matches("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"));
    assert_true(matches("sport/#", "sport"));
    assert_false(matches("sport/#", "sports"));
    assert_true(matches("#", "sport/tennis"));
    assert_true(matches("#", "/"));
    assert_true(matches("a//#", "a/"));
    assert_false(matches("a//#", "a"));
}

static void multi_level_wildcard_stands_alone_and_last(void **state)
{
    (void)state;
    assert_true(is_filter("#"));
    assert_true(is_filter("sport/tennis/#"));
    assert_false(is_filter("sport/tennis#"));
    assert_false(is_filter("sport/tennis/#/ranking"));
    assert_false(is_filter("##"));
    assert_false(is_filter("#/"));
    assert_false(is_filter("+#"));
}

static void single_level_wildcard_matches_one_level(void **state)
{
    (void)state;
    assert_true(matches("sport/tennis/+", "sport/tennis/player1"));
    assert_true(matches("sport/tennis/+", "sport/tennis/player2"));
    assert_false(matches("sport/tennis/+", "sport/tennis/player1/ranking"));
    assert_false(matches("sport/+", "sport"));
    assert_true(matches("sport/+", "sport/"));
    assert_true(matches("+/+", "/finance"));
    assert_true(matches("/+", "/finance"));
    assert_false(matches("+", "/finance"));
    assert_true(matches("+/tennis/#", "sport/tennis"));
}

static void single_level_wildcard_stands_alone_in_its_level(void **state)
{
    (void)state;
    assert_true(is_filter("+"));
    assert_true(is_filter("+/tennis/#"));
    assert_true(is_filter("sport/+/player1"));
    assert_false(is_filter("sport+"));
    assert_false(is_filter("+sport"));
    assert_false(is_filter("a/++/b"));
}

static void wildcard_in_first_level_does_not_match_dollar_topics(void **state)
{
    (void)state;
    assert_false(matches("#", "$SYS/monitor/Clients"));
    assert_false(matches("+/monitor/Clients", "$SYS/monitor/Clients"));
    assert_true(matches("$SYS/#", "$SYS/monitor/Clients"));
    assert_true(matches("$SYS/monitor/+", "$SYS/monitor/Clients"));
    assert_true(matches("$SYS/#", "$SYS"));
    assert_true(matches("a/#", "a/$SYS"));
    assert_true(matches("a/+", "a/$SYS"));
}

static void topics_differ_by_case_spaces_and_slashes(void **state)
{
    (void)state;
    assert_false(matches("ACCOUNTS", "Accounts"));
    assert_true(matches("Accounts payable", "Accounts payable"));
    assert_false(matches("/finance", "finance"));
    assert_false(matches("finance/", "finance"));
    assert_false(matches("finance", "finance/"));
    assert_true(matches("/", "/"));
    assert_true(is_topic("/"));
    assert_true(is_topic("//"));
}

/* On copies of exactly their sizes, so that the address sanitizer sees a byte too many. */
static bool match_without_margin(const char *filter, size_t filter_size, const char *topic,
                                 size_t topic_size)
{
    char *f = malloc(filter_size);
    char *t = malloc(topic_size);
    bool match;

    assert_non_null(f);
    assert_non_null(t);
    match = topic_match(memcpy(f, filter, filter_size), filter_size, memcpy(t, topic, topic_size),
                        topic_size);
    free(t);
    free(f);
    return match;
}

static void bytes_behind_filter_and_topic_do_not_count(void **state)
{
    (void)state;
    assert_false(topic_match("a/#", 2, "a/b", 3));
    assert_false(topic_match("a/+", 2, "a/b", 3));
    assert_true(topic_match("a/#", 2, "a/b", 2));
    assert_true(topic_match("a/b", 1, "a/b", 1));
    assert_false(match_without_margin("abc", 3, "ab", 2));
    assert_false(match_without_margin("ab", 2, "abc", 3));
    assert_false(match_without_margin("a/", 2, "a", 1));
    assert_false(match_without_margin("+", 1, "a/", 2));
    assert_false(topic_match("a/#", 3, "ab", 2));
    assert_true(topic_filter_valid("a/#/b", 3));
    assert_true(topic_valid("a/#", 2));
}

/* ---- Our own rules ---- */

static void nobody_publishes_to_wildcards_or_dollar_topics(void **state)
{
    (void)state;
    assert_true(is_topic("plant/line1/temperature"));
    assert_true(is_topic("a/$b/@c"));
    assert_false(is_topic(""));
    assert_false(is_topic("a/+"));
    assert_false(is_topic("a/#"));
    assert_false(is_topic("a+b"));
    assert_false(is_topic("$SYS/x"));
    assert_false(is_topic("$"));
}

static void direct_topic_is_an_at_sign_and_a_name(void **state)
{
    (void)state;
    assert_true(is_topic("@pump"));
    assert_false(is_topic("@"));
    assert_false(is_topic("@pump/valve"));
    assert_false(is_topic("@@"));
    assert_false(is_topic("@pump\n"));
}

static void no_filter_reaches_a_direct_topic(void **state)
{
    (void)state;
    assert_false(is_filter("@pump"));
    assert_false(is_filter("@+"));
    assert_false(matches("#", "@pump"));
    assert_false(matches("+", "@pump"));
    assert_true(is_filter("a/@pump"));
}

static void name_has_no_separators_wildcards_and_control_characters(void **state)
{
    (void)state;
    assert_true(is_name("pump"));
    assert_true(is_name("a"));
    assert_true(is_name("Pumpe 7 - Öl"));
    assert_true(is_name("\xc2\xa0"));
    assert_false(is_name(""));
    for (const char *c = "/+#@$\t\n\x1f\x7f"; *c != '\0'; c++) {
        char name[] = {'a', *c, 'b', '\0'};

        assert_false(is_name(name));
    }
    assert_false(is_name("a\xc2\x80"));
    assert_false(is_name("a\xc2\x9f"));
}

static void sizes_stop_where_the_protocol_says(void **state)
{
    char text[300];

    (void)state;
    memset(text, 'x', sizeof(text));
    assert_true(topic_valid(text, 255));
    assert_false(topic_valid(text, 256));
    assert_true(topic_filter_valid(text, 255));
    assert_false(topic_filter_valid(text, 256));
    assert_true(topic_name_valid(text, 63));
    assert_false(topic_name_valid(text, 64));
    text[0] = '@';
    assert_true(topic_valid(text, 64));
    assert_false(topic_valid(text, 65));
    assert_false(topic_valid(text, 0));
    assert_false(topic_filter_valid(text, 0));
    assert_false(topic_name_valid(text, 0));
}

static void filter_has_at_most_128_levels(void **state)
{
    char filter[255];

    (void)state;
    memset(filter, '/', sizeof(filter));
    assert_true(topic_filter_valid(filter, TOPIC_LEVELS_MAX - 1));
    assert_false(topic_filter_valid(filter, TOPIC_LEVELS_MAX));
    assert_true(topic_valid(filter, sizeof(filter)));
}

/* ---- UTF-8 ---- */

static void text_is_utf8(void **state)
{
    static const char *const good[] = {
        "a",
        "\x7f",
        "\xc2\x80",
        "\xdf\xbf",
        "\xe0\xa0\x80",
        "\xed\x9f\xbf",
        "\xee\x80\x80",
        "\xef\xbf\xbf",
        "\xf0\x90\x80\x80",
        "\xf4\x8f\xbf\xbf",
        "A\xf0\xaa\x9b\x94",
    };
    static const char *const bad[] = {
        "\x80", /* continuation without a lead */
        "\xbf",
        "\xc0\x80",         /* overlong NUL */
        "\xc1\xbf",         /* overlong, two bytes */
        "\xe0\x9f\xbf",     /* overlong, three */
        "\xf0\x8f\xbf\xbf", /* overlong, four */
        "\xed\xa0\x80",     /* first surrogate */
        "\xed\xbf\xbf",     /* last one */
        "\xf4\x90\x80\x80", /* above U+10FFFF */
        "\xf5\x80\x80\x80",
        "\xff",
        "\xfe",
        "\xc3", /* cut off */
        "\xe2\x82",
        "\xf0\x9f\x98",
        "a\xc3/b", /* cut off in the middle */
        "\xe2\x28\xa1",
        "\xe2\x82\x28",
        "\xf0\x9f\x98\x28",
        "\xf0\x28\x8c\xbc",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_true(is_topic(good[i]));
        assert_true(is_filter(good[i]));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(is_topic(bad[i]));
        assert_false(is_filter(bad[i]));
        assert_false(is_name(bad[i]));
    }
}

static void nul_is_not_text(void **state)
{
    (void)state;
    assert_false(topic_valid("a\0b", 3));
    assert_false(topic_filter_valid("a\0b", 3));
    assert_false(topic_name_valid("a\0b", 3));
    assert_false(topic_valid("", 1));
}

static bool agree_on(const char *text, size_t size)
{
    if (memchr(text, '+', size) != NULL || memchr(text, '#', size) != NULL)
        return !topic_valid(text, size);
    return topic_valid(text, size) == obvious_utf8(text, size);
}

/* All of one, two and three bytes; of four, every lead byte with those at the edges of what may
 * follow. All behind a letter, so that no first character has a meaning. */
static void all_short_byte_strings_agree_with_the_obvious_utf8(void **state)
{
    static const char edges[] = "\x7f\x80\x8f\x90\x9f\xa0\xbf\xc0";

    (void)state;
    for (unsigned i = 0; i < 1u << 8; i++)
        if (!agree_on((const char[]){'x', (char)i}, 2))
            fail_msg("%02x", i);
    for (unsigned i = 0; i < 1u << 16; i++)
        if (!agree_on((const char[]){'x', (char)(i >> 8), (char)i}, 3))
            fail_msg("%04x", i);
    for (unsigned i = 0x80u << 16; i < 1u << 24; i++)
        if (!agree_on((const char[]){'x', (char)(i >> 16), (char)(i >> 8), (char)i}, 4))
            fail_msg("%06x", i);
    for (unsigned i = 0x80u << 9; i < 1u << 17; i++)
        if (!agree_on((const char[]){'x', (char)(i >> 9), edges[i >> 6 & 7], edges[i >> 3 & 7],
                                     edges[i & 7]},
                      5))
            fail_msg("%02x and edges %03o", i >> 9, i & 0777);
}

/* ---- The model ---- */

/* Write the i-th text over `letters`; all of n bytes come before those of n + 1. Returns its size.
 */
static size_t nth_text(char *out, unsigned i, const char *letters)
{
    unsigned n_letters = (unsigned)strlen(letters);
    size_t size = 0;

    for (i++; i != 0; i = (i - 1) / n_letters)
        out[size++] = letters[(i - 1) % n_letters];
    return size;
}

static void all_short_filters_and_topics_agree_with_the_obvious_matcher(void **state)
{
    unsigned n_matched = 0;
    unsigned n_compared = 0;

    (void)state;
    for (unsigned i = 0; i < 19530; i++) { /* up to 6 of 5 letters */
        char filter[16];
        size_t filter_size = nth_text(filter, i, "a/+#$");

        if (!topic_filter_valid(filter, filter_size))
            continue;
        for (unsigned j = 0; j < 780; j++) { /* up to 4 of 5 */
            char topic[16];
            size_t topic_size = nth_text(topic, j, "a/b$@");
            bool match = topic_match(filter, filter_size, topic, topic_size);

            n_compared++;
            n_matched += match;
            if (match != obvious_topic_match(filter, filter_size, topic, topic_size))
                fail_msg("'%.*s' and '%.*s'", (int)filter_size, filter, (int)topic_size, topic);
        }
    }
    assert_true(n_compared > 1000000);
    assert_true(n_matched > 1000);
}

static uint64_t random_state = 0x9e3779b97f4a7c15;

static unsigned random_below(unsigned n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (unsigned)(random_state >> 33) % n;
}

static size_t random_levels(char *out, const char *const *words, unsigned n_words)
{
    size_t size = 0;
    unsigned n = 1 + random_below(12);

    for (unsigned i = 0; i < n; i++) {
        const char *word = words[random_below(n_words)];

        if (i != 0)
            out[size++] = '/';
        memcpy(out + size, word, strlen(word));
        size += strlen(word);
    }
    return size;
}

/* Filters are made from their topic, so that many match: a level becomes '+', the rest '#', or
 * another level. */
static size_t filter_for(char *out, const char *topic, size_t topic_size)
{
    size_t size = 0;

    for (size_t i = 0; i < topic_size;) {
        size_t end = i;

        while (end < topic_size && topic[end] != '/')
            end++;
        switch (random_below(8)) {
        case 0:
            out[size++] = '#';
            return size;
        case 1:
        case 2:
            out[size++] = '+';
            break;
        case 3:
            out[size++] = 'z';
            break;
        default:
            memcpy(out + size, topic + i, end - i);
            size += end - i;
        }
        if (end < topic_size)
            out[size++] = '/';
        i = end + 1;
    }
    return size;
}

static void random_long_filters_agree_with_the_obvious_matcher(void **state)
{
    static const char *const words[] = {"",  "a",     "ab",          "abc",
                                        "b", "line1", "temperature", "\xc3\xa9"};
    unsigned n_matched = 0;

    (void)state;
    for (unsigned i = 0; i < 300000; i++) {
        char topic[256];
        char filter[256];
        size_t topic_size = random_levels(topic, words, sizeof(words) / sizeof(words[0]));
        size_t filter_size = filter_for(filter, topic, topic_size);
        bool match;

        if (filter_size == 0 || topic_size == 0)
            continue;
        assert_true(topic_filter_valid(filter, filter_size));
        match = match_without_margin(filter, filter_size, topic, topic_size);
        n_matched += match;
        if (match != obvious_topic_match(filter, filter_size, topic, topic_size))
            fail_msg("'%.*s' and '%.*s'", (int)filter_size, filter, (int)topic_size, topic);
    }
    assert_true(n_matched > 10000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(multi_level_wildcard_matches_parent_and_all_below),
        cmocka_unit_test(multi_level_wildcard_stands_alone_and_last),
        cmocka_unit_test(single_level_wildcard_matches_one_level),
        cmocka_unit_test(single_level_wildcard_stands_alone_in_its_level),
        cmocka_unit_test(wildcard_in_first_level_does_not_match_dollar_topics),
        cmocka_unit_test(topics_differ_by_case_spaces_and_slashes),
        cmocka_unit_test(bytes_behind_filter_and_topic_do_not_count),
        cmocka_unit_test(nobody_publishes_to_wildcards_or_dollar_topics),
        cmocka_unit_test(direct_topic_is_an_at_sign_and_a_name),
        cmocka_unit_test(no_filter_reaches_a_direct_topic),
        cmocka_unit_test(name_has_no_separators_wildcards_and_control_characters),
        cmocka_unit_test(sizes_stop_where_the_protocol_says),
        cmocka_unit_test(filter_has_at_most_128_levels),
        cmocka_unit_test(text_is_utf8),
        cmocka_unit_test(nul_is_not_text),
        cmocka_unit_test(all_short_byte_strings_agree_with_the_obvious_utf8),
        cmocka_unit_test(all_short_filters_and_topics_agree_with_the_obvious_matcher),
        cmocka_unit_test(random_long_filters_agree_with_the_obvious_matcher),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
