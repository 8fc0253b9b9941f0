/* broker/filters: the filter tree against topic_match(), which knows one filter at a time. */
#include "broker/filters.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "libclient/topic.h"
#include "libclient/wire.h"

enum { ROWS = 64, MODEL_SIZE = 400, STEPS = 4000, TOPICS_A_STEP = 4, MANY = 10000 };

static int setup(void **state)
{
    static struct filters f;

    *state = &f;
    return filters_init(&f);
}

static int teardown(void **state)
{
    filters_deinit(*state);
    return 0;
}

static int add(struct filters *f, const char *filter, uint16_t row, uint32_t slot)
{
    return filters_add(f, filter, strlen(filter), row, slot);
}

static uint32_t find(struct filters *f, const char *filter, uint16_t row)
{
    return filters_find(f, filter, strlen(filter), row);
}

static void take_out(struct filters *f, const char *filter, uint16_t row)
{
    filters_remove(f, filter, strlen(filter), row);
}

/* How often each row was told. */
struct told {
    uint32_t times[ROWS];
    uint32_t n;
};

static void count_row(void *context, uint16_t row)
{
    struct told *told = context;

    told->times[row]++;
    told->n++;
}

static struct told match(struct filters *f, const char *topic)
{
    struct told told = {0};

    filters_match(f, topic, strlen(topic), count_row, &told);
    return told;
}

/* Nothing is left in the tree: no node, no owner. */
static void expect_empty(const struct filters *f)
{
    assert_int_equal(f->n, 0);
    assert_null(f->nodes);
}

static void one_row_subscribes_to_a_filter_once(void **state)
{
    struct filters *f = *state;

    assert_int_equal(add(f, "a/+", 1, 10), FILTERS_OK);
    assert_int_equal(add(f, "a/+", 1, 11), FILTERS_E_THERE);
    assert_int_equal(f->n, 1);
    assert_int_equal(find(f, "a/+", 1), 10);
    assert_int_equal(add(f, "a/+", 2, 12), FILTERS_OK);
    assert_int_equal(find(f, "a/+", 2), 12);
    assert_int_equal(match(f, "a/b").n, 2);
}

static void what_is_not_there_is_not_found_and_not_removed(void **state)
{
    struct filters *f = *state;

    add(f, "a/b/c", 1, 10);
    assert_int_equal(find(f, "a/b/c", 2), 0);
    assert_int_equal(find(f, "a/b", 1), 0);
    assert_int_equal(find(f, "a/b/c/d", 1), 0);
    assert_int_equal(find(f, "", 1), 0);
    take_out(f, "a/b/c", 2);
    take_out(f, "a/b", 1);
    take_out(f, "a/b/c/d", 1);
    take_out(f, "x", 1);
    assert_int_equal(f->n, 1);
    assert_int_equal(match(f, "a/b/c").n, 1);
}

static void removing_leaves_no_node(void **state)
{
    struct filters *f = *state;

    add(f, "a/b/c/d", 1, 1);
    add(f, "a/b", 1, 2);
    add(f, "a/+/c/#", 1, 3);
    add(f, "#", 1, 4);
    take_out(f, "a/b/c/d", 1);
    assert_int_equal(match(f, "a/b").n, 2);
    take_out(f, "a/+/c/#", 1);
    take_out(f, "#", 1);
    assert_int_equal(match(f, "a/b").n, 1);
    take_out(f, "a/b", 1);
    expect_empty(f);
}

static void removing_one_leaves_the_others(void **state)
{
    struct filters *f = *state;

    for (uint16_t row = 0; row < 20; row++)
        add(f, "a", row, row + 1u);
    for (uint16_t row = 0; row < 20; row += 3)
        take_out(f, "a", row);
    for (uint16_t row = 0; row < 20; row++) {
        assert_int_equal(find(f, "a", row), row % 3 == 0 ? 0 : row + 1u);
        assert_int_equal(match(f, "a").times[row], row % 3 != 0);
    }
}

static void hash_takes_in_its_parent_and_all_below(void **state)
{
    struct filters *f = *state;

    add(f, "a/#", 1, 1);
    assert_int_equal(match(f, "a").n, 1);
    assert_int_equal(match(f, "a/").n, 1);
    assert_int_equal(match(f, "a/b/c").n, 1);
    assert_int_equal(match(f, "ab").n, 0);
    assert_int_equal(match(f, "b").n, 0);
}

static void no_wildcard_reaches_special_topics(void **state)
{
    struct filters *f = *state;

    add(f, "#", 1, 1);
    add(f, "+/a", 1, 2);
    add(f, "+", 1, 3);
    add(f, "$dead/#", 2, 4);
    add(f, "$dead/+", 3, 5);
    assert_int_equal(match(f, "$dead/a").times[1], 0);
    assert_int_equal(match(f, "$dead/a").times[2], 1);
    assert_int_equal(match(f, "$dead/a").times[3], 1);
    assert_int_equal(match(f, "$dead").times[2], 1);
    assert_int_equal(match(f, "@name").n, 0);
    assert_int_equal(match(f, "b/a").times[1], 2);
    assert_int_equal(match(f, "a/$b").times[1], 1); /* only the first level is special */
}

static void empty_levels_are_levels(void **state)
{
    struct filters *f = *state;

    add(f, "/", 1, 1);
    add(f, "+/+", 2, 2);
    add(f, "/a", 3, 3);
    assert_int_equal(match(f, "/").n, 2);
    assert_int_equal(match(f, "/a").times[3], 1);
    assert_int_equal(match(f, "/a").times[2], 1);
    assert_int_equal(match(f, "a").n, 0);
}

static void the_longest_filters_fit(void **state)
{
    struct filters *f = *state;
    char filter[WIRE_TOPIC_MAX + 1];
    char topic[WIRE_TOPIC_MAX + 1];

    for (int i = 0; i < WIRE_TOPIC_MAX; i++) {
        filter[i] = i % 2 == 0 ? '+' : '/';
        topic[i] = i % 2 == 0 ? 'a' : '/';
    }
    filter[WIRE_TOPIC_MAX] = topic[WIRE_TOPIC_MAX] = '\0';
    assert_true(topic_filter_valid(filter, WIRE_TOPIC_MAX));
    assert_int_equal(add(f, filter, 1, 1), FILTERS_OK);
    assert_int_equal(add(f, topic, 2, 2), FILTERS_OK);
    assert_int_equal(match(f, topic).n, 2);
    memset(topic, 'b', WIRE_TOPIC_MAX); /* one level of 255 bytes */
    assert_int_equal(add(f, topic, 3, 3), FILTERS_OK);
    assert_int_equal(match(f, topic).n, 1);
}

/* ---- The model: a list of filters, matched one by one ---- */

struct subscription {
    char filter[64];
    uint16_t row;
    uint32_t slot;
};

/* Up to five levels out of few words, so that they meet. */
static void random_text(unsigned *seed, char *out, bool filter)
{
    static const char *const words[] = {"a", "b", "", "$x", "@y", "ab", "+", "#"};
    int n = 1 + rand_r(seed) % 5;

    *out = '\0';
    for (int i = 0; i < n; i++) {
        const char *word = words[rand_r(seed) % (filter ? 8 : 6)];

        if (strcmp(word, "#") == 0)
            n = i + 1;
        sprintf(out + strlen(out), "%s%s", i > 0 ? "/" : "", word);
    }
}

static int model_find(const struct subscription *model, int n, const char *filter, uint16_t row)
{
    for (int i = 0; i < n; i++) {
        if (model[i].row == row && strcmp(model[i].filter, filter) == 0)
            return i;
    }
    return -1;
}

static void expect_matches(struct filters *f, const struct subscription *model, int n,
                           const char *topic)
{
    struct told is = match(f, topic);
    struct told should = {0};

    for (int i = 0; i < n; i++) {
        if (topic_match(model[i].filter, strlen(model[i].filter), topic, strlen(topic)))
            count_row(&should, model[i].row);
    }
    assert_memory_equal(&is, &should, sizeof(is));
}

static void the_tree_follows_topic_match(void **state)
{
    struct filters *f = *state;
    static struct subscription model[MODEL_SIZE];
    int n = 0;
    unsigned seed = 1;

    for (uint32_t step = 1; step <= STEPS; step++) {
        struct subscription s = {.row = (uint16_t)(rand_r(&seed) % ROWS), .slot = step};
        int there;

        do
            random_text(&seed, s.filter, true);
        while (!topic_filter_valid(s.filter, strlen(s.filter)));
        there = model_find(model, n, s.filter, s.row);
        assert_int_equal(add(f, s.filter, s.row, step), there < 0 ? FILTERS_OK : FILTERS_E_THERE);
        assert_int_equal(find(f, s.filter, s.row), there < 0 ? step : model[there].slot);
        if (there < 0)
            model[n++] = s;
        if (n == MODEL_SIZE || rand_r(&seed) % 3 == 0) {
            int out = rand_r(&seed) % n;

            take_out(f, model[out].filter, model[out].row);
            model[out] = model[--n];
        }
        assert_int_equal(f->n, n);
        for (int i = 0; i < TOPICS_A_STEP; i++) {
            char topic[64];

            do
                random_text(&seed, topic, false);
            while (*topic == '\0');
            expect_matches(f, model, n, topic);
        }
    }
    while (n > 0) {
        n--;
        take_out(f, model[n].filter, model[n].row);
    }
    expect_empty(f);
}

static void ten_thousand_filters_are_found_each(void **state)
{
    struct filters *f = *state;
    char filter[64];

    for (uint32_t i = 0; i < MANY; i++) {
        snprintf(filter, sizeof(filter), "plant/line%u/sensor%u/+", i / 100, i % 100);
        assert_int_equal(add(f, filter, (uint16_t)(i % ROWS), i + 1), FILTERS_OK);
    }
    assert_int_equal(f->n, MANY);
    for (uint32_t i = 0; i < MANY; i++) {
        struct told told;

        snprintf(filter, sizeof(filter), "plant/line%u/sensor%u/value", i / 100, i % 100);
        told = match(f, filter);
        assert_int_equal(told.n, 1);
        assert_int_equal(told.times[i % ROWS], 1);
    }
    for (uint32_t i = 0; i < MANY; i++) {
        snprintf(filter, sizeof(filter), "plant/line%u/sensor%u/+", i / 100, i % 100);
        assert_int_equal(find(f, filter, (uint16_t)(i % ROWS)), i + 1);
        take_out(f, filter, (uint16_t)(i % ROWS));
    }
    expect_empty(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_row_subscribes_to_a_filter_once, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_not_there_is_not_found_and_not_removed, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(removing_leaves_no_node, setup, teardown),
        cmocka_unit_test_setup_teardown(removing_one_leaves_the_others, setup, teardown),
        cmocka_unit_test_setup_teardown(hash_takes_in_its_parent_and_all_below, setup, teardown),
        cmocka_unit_test_setup_teardown(no_wildcard_reaches_special_topics, setup, teardown),
        cmocka_unit_test_setup_teardown(empty_levels_are_levels, setup, teardown),
        cmocka_unit_test_setup_teardown(the_longest_filters_fit, setup, teardown),
        cmocka_unit_test_setup_teardown(the_tree_follows_topic_match, setup, teardown),
        cmocka_unit_test_setup_teardown(ten_thousand_filters_are_found_each, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
