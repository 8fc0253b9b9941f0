/* broker/topics: the table of topics in use and their rows on the board. */
#include "broker/topics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { ROWS = 4, OTHERS = ROWS - 1, PASSING = 4096 };

struct fixture {
    struct topics topics;
    struct board_header *board;
};

static int setup(void **state)
{
    static struct fixture f;
    size_t size = board_size(1, ROWS, 0);

    f.board = aligned_alloc(64, (size + 63) / 64 * 64);
    memset(f.board, 0, size);
    board_format(f.board, size, 1, ROWS, 0);
    topics_init(&f.topics, f.board);
    *state = &f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    topics_deinit(&f->topics);
    free(f->board);
    return 0;
}

static struct topic *add(struct fixture *f, const char *name)
{
    struct topic *topic = topics_add(&f->topics, name, strlen(name));

    assert_non_null(topic);
    return topic;
}

static struct topic *find(struct fixture *f, const char *name)
{
    return topics_find(&f->topics, name, strlen(name));
}

static void expect_name(const struct fixture *f, uint32_t row, const char *name)
{
    char is[BOARD_TOPIC_SIZE];

    assert_true(board_read_topic_name(board_topic(f->board, row), is));
    assert_string_equal(is, name);
    assert_int_equal(atomic_load(&board_topic(f->board, row)->size), strlen(name));
}

/* Topics until all rows are taken. */
static void use_up_rows(struct fixture *f)
{
    add(f, "a");
    add(f, "b");
    add(f, "c");
    assert_int_equal(atomic_load(&f->board->topics_used), OTHERS);
}

static uint32_t passing(struct fixture *f, uint32_t from, uint32_t n)
{
    uint32_t found = 0;

    for (uint32_t i = from; i < from + n; i++) {
        char name[32];

        snprintf(name, sizeof(name), "passing/%u", i);
        found += find(f, name) != NULL;
    }
    return found;
}

static void pass(struct fixture *f, uint32_t from, uint32_t n)
{
    for (uint32_t i = from; i < from + n; i++) {
        char name[32];

        snprintf(name, sizeof(name), "passing/%u", i);
        add(f, name);
    }
}

static void a_topic_gets_a_row_of_the_board(void **state)
{
    struct fixture *f = *state;
    struct topic *a = add(f, "plant/a");
    size_t size;

    assert_int_equal(topic_row(a), 0);
    assert_string_equal(topic_name(a, &size), "plant/a");
    assert_int_equal(size, strlen("plant/a"));
    assert_int_equal(topic_row(add(f, "plant/b")), 1);
    expect_name(f, 0, "plant/a");
    expect_name(f, 1, "plant/b");
    assert_int_equal(atomic_load(&f->board->topics_used), 2);
}

static void a_topic_is_found_again_and_not_added_twice(void **state)
{
    struct fixture *f = *state;
    struct topic *a = add(f, "a");

    assert_null(find(f, "b"));
    assert_null(find(f, "ab"));
    assert_null(find(f, ""));
    add(f, "b");
    assert_ptr_equal(find(f, "a"), a);
    assert_ptr_equal(add(f, "a"), a);
    assert_ptr_equal(add(f, "a"), a); /* also by the one found last */
    assert_int_equal(atomic_load(&f->board->topics_used), 2);
}

static void further_topics_share_the_last_row_which_has_no_name(void **state)
{
    struct fixture *f = *state;

    use_up_rows(f);
    assert_int_equal(topic_row(add(f, "d")), OTHERS);
    assert_int_equal(topic_row(add(f, "e")), OTHERS);
    assert_int_equal(atomic_load(&f->board->topics_used), ROWS);
    expect_name(f, OTHERS, "");
    expect_name(f, 0, "a");
    assert_non_null(find(f, "d"));
    assert_non_null(find(f, "e"));
}

static void passing_topics_are_bounded_the_oldest_goes(void **state)
{
    struct fixture *f = *state;

    use_up_rows(f);
    pass(f, 0, PASSING);
    assert_int_equal(passing(f, 0, PASSING), PASSING);
    pass(f, PASSING, 10);
    assert_int_equal(f->topics.n_passing, PASSING);
    assert_int_equal(passing(f, 0, 10), 0);
    assert_int_equal(passing(f, 10, PASSING), PASSING);
    assert_non_null(find(f, "a")); /* a row is kept for good */
}

static void the_topic_found_last_may_be_the_one_that_goes(void **state)
{
    struct fixture *f = *state;
    struct topic *kept;

    use_up_rows(f);
    kept = add(f, "kept");
    topics_keep(&f->topics, kept, 42);
    pass(f, 0, PASSING);
    assert_int_equal(passing(f, 0, 1), 1); /* found last: the oldest */
    topics_keep(&f->topics, kept, 0);      /* one more passes */
    assert_int_equal(passing(f, 0, 1), 0);
}

static void a_topic_with_a_retained_message_does_not_pass(void **state)
{
    struct fixture *f = *state;

    use_up_rows(f);
    topics_keep(&f->topics, add(f, "kept"), 42);
    pass(f, 0, 2 * PASSING);
    assert_non_null(find(f, "kept"));
    assert_int_equal(topic_kept(find(f, "kept")), 42);
    assert_int_equal(f->topics.n_passing, PASSING);

    topics_keep(&f->topics, find(f, "kept"), 0); /* forgotten: it passes like the others */
    assert_int_equal(f->topics.n_passing, PASSING);
    assert_non_null(find(f, "kept"));
    pass(f, 0, PASSING);
    assert_null(find(f, "kept"));
}

static void forgetting_what_was_not_kept_changes_nothing(void **state)
{
    struct fixture *f = *state;

    use_up_rows(f);
    pass(f, 0, 1);
    topics_keep(&f->topics, find(f, "passing/0"), 0);
    assert_int_equal(f->topics.n_passing, 1);
    topics_keep(&f->topics, find(f, "a"), 0);
    assert_int_equal(f->topics.n_passing, 1);
}

static void count_kept(void *context, struct topic *topic)
{
    uint32_t *sum = context;

    *sum += topic_kept(topic);
}

static void each_kept_one_is_told_once(void **state)
{
    struct fixture *f = *state;
    uint32_t sum = 0;

    use_up_rows(f);
    topics_keep(&f->topics, find(f, "a"), 1);
    topics_keep(&f->topics, find(f, "c"), 10);
    topics_keep(&f->topics, add(f, "d"), 100);
    add(f, "e");
    topics_each_kept(&f->topics, count_kept, &sum);
    assert_int_equal(sum, 111);
}

static void owners_are_remembered_for_one_generation(void **state)
{
    struct fixture *f = *state;
    struct topic *a = add(f, "a");
    const uint16_t many[] = {3, 1, 4, 1, 5};
    uint32_t n;

    assert_null(topic_owners(a, 1, &n));
    assert_true(topic_set_owners(a, 1, many, 0));
    assert_non_null(topic_owners(a, 1, &n)); /* nobody is an answer too */
    assert_int_equal(n, 0);
    assert_true(topic_set_owners(a, 2, many, 5));
    assert_null(topic_owners(a, 1, &n));
    assert_memory_equal(topic_owners(a, 2, &n), many, sizeof(many));
    assert_int_equal(n, 5);
    assert_true(topic_set_owners(a, 3, many, 1));
    assert_int_equal(topic_owners(a, 3, &n)[0], 3);
    assert_int_equal(n, 1);
    assert_true(topic_set_owners(a, 4, many, 5));
    assert_memory_equal(topic_owners(a, 4, &n), many, sizeof(many));
}

static void topics_of_the_board_are_adopted_with_their_rows(void **state)
{
    struct fixture *f = *state;

    add(f, "a");
    add(f, "b");
    topics_deinit(&f->topics);
    topics_init(&f->topics, f->board);
    assert_null(find(f, "a"));
    assert_int_equal(topics_adopt(&f->topics), 0);
    assert_int_equal(topic_row(find(f, "a")), 0);
    assert_int_equal(topic_row(find(f, "b")), 1);
    assert_int_equal(topic_kept(find(f, "a")), 0);
    assert_int_equal(topic_row(add(f, "c")), 2);

    add(f, "d");
    topics_deinit(&f->topics);
    topics_init(&f->topics, f->board);
    assert_int_equal(topics_adopt(&f->topics), 0);
    assert_int_equal(topic_row(find(f, "c")), 2);
    assert_null(find(f, "d")); /* of "all others" no name stands on the board */
    assert_int_equal(topic_row(add(f, "e")), OTHERS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_topic_gets_a_row_of_the_board, setup, teardown),
        cmocka_unit_test_setup_teardown(a_topic_is_found_again_and_not_added_twice, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(further_topics_share_the_last_row_which_has_no_name, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(passing_topics_are_bounded_the_oldest_goes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(the_topic_found_last_may_be_the_one_that_goes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_topic_with_a_retained_message_does_not_pass, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(forgetting_what_was_not_kept_changes_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(each_kept_one_is_told_once, setup, teardown),
        cmocka_unit_test_setup_teardown(owners_are_remembered_for_one_generation, setup, teardown),
        cmocka_unit_test_setup_teardown(topics_of_the_board_are_adopted_with_their_rows, setup,
                                        teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
