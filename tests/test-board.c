/* The board: what a reader may rely on after board_check(), and that what lies behind a sequence
 * word is of one moment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/board.h"

enum { N_ROWS = 5, N_TOPICS = 3 };

static struct board_header *new_board(void)
{
    size_t size = board_size(N_ROWS, N_TOPICS, 0);
    void *base = NULL;

    assert_int_equal(posix_memalign(&base, 64, size), 0);
    memset(base, 0, size);
    board_format(base, size, N_ROWS, N_TOPICS, 0);
    return base;
}

static size_t size_of(const struct board_header *board)
{
    return (size_t)board->size;
}

static void formatted_board_is_good_and_empty(void **state)
{
    struct board_header *board = new_board();
    struct board_client_info info;
    char name[BOARD_TOPIC_SIZE];

    (void)state;
    assert_int_equal(board_check(board, size_of(board)), BOARD_OK);
    assert_int_equal(board->state, BOARD_STARTING);
    assert_int_equal(board_get(&board->totals.messages_in), 0);
    for (uint32_t i = 0; i < N_ROWS; i++) {
        assert_true(board_read_identity(board_row(board, i), &info));
        assert_int_equal(info.state, BOARD_ROW_FREE);
        assert_string_equal(info.name, "");
    }
    assert_true(board_read_topic_name(board_topic(board, 0), name));
    assert_string_equal(name, "");
    free(board);
}

static void rows_and_topics_lie_apart_aligned_and_inside(void **state)
{
    struct board_header *board = new_board();
    const char *end = (const char *)board + size_of(board);

    (void)state;
    assert_true((const char *)board_row(board, 0) >= (const char *)(board + 1));
    assert_true((const char *)board_topic(board, 0) >= (const char *)board_row(board, N_ROWS));
    assert_ptr_equal(board_topic(board, N_TOPICS), end);
    for (uint32_t i = 0; i < N_ROWS; i++)
        assert_int_equal((uintptr_t)board_row(board, i) % 64, 0);
    free(board);
}

static void board_of_another_kind_is_refused_by_its_name(void **state)
{
    struct board_header *board = new_board();
    size_t size = size_of(board);
    void *stub = calloc(1, 4); /* nothing may be read behind it */

    (void)state;
    assert_non_null(stub);
    assert_int_equal(board_check(stub, 4), BOARD_E_SIZE);
    free(stub);
    assert_int_equal(board_check(board, sizeof(*board) - 1), BOARD_E_SIZE);
    assert_int_equal(board_check(board, size - 1), BOARD_E_SIZE);
    assert_int_equal(board_check(board, size + 4096), BOARD_OK); /* pages are whole */
    board->magic++;
    assert_int_equal(board_check(board, size), BOARD_E_MAGIC);
    board->magic--;
    board->layout++;
    assert_int_equal(board_check(board, size), BOARD_E_LAYOUT);
    board->layout--;
    board->header_size += 64;
    assert_int_equal(board_check(board, size), BOARD_E_LAYOUT);
    board->header_size -= 64;
    board->row_size += 64;
    assert_int_equal(board_check(board, size), BOARD_E_LAYOUT);
    board->row_size -= 64;
    board->topic_size += 64;
    assert_int_equal(board_check(board, size), BOARD_E_LAYOUT);
    board->topic_size -= 64;
    assert_int_equal(board_check(board, size), BOARD_OK);
    free(board);
}

static void header_that_leads_out_of_the_segment_is_refused(void **state)
{
    struct board_header *board = new_board();
    size_t size = size_of(board);
    const struct board_header good = *board;

    (void)state;
#define REFUSED(member, value)                                                                     \
    do {                                                                                           \
        board->member = (value);                                                                   \
        assert_int_equal(board_check(board, size), BOARD_E_SIZE);                                  \
        board->member = good.member;                                                               \
    } while (0)
    REFUSED(size, size + 1);
    REFUSED(n_rows, UINT32_MAX);
    REFUSED(n_topics, N_TOPICS + 1);
    REFUSED(n_topics, UINT32_MAX);
    REFUSED(rows_offset, UINT64_MAX - 63);
    REFUSED(rows_offset, size - size % 64);
    REFUSED(rows_offset, good.rows_offset + 4);
    REFUSED(rows_offset, 0);
    REFUSED(topics_offset, good.topics_offset + 8);
    REFUSED(topics_offset, good.topics_offset - 4);
    REFUSED(topics_offset, UINT64_MAX - 7);
#undef REFUSED
    assert_int_equal(board_check(board, size), BOARD_OK);
    free(board);
}

static void identity_is_read_as_it_was_written(void **state)
{
    static const struct board_client_info written = {
        .state = BOARD_ROW_LIVE,
        .nonce = 0x1122334455667788,
        .since = 99,
        .pid = 4711,
        .uid = 1000,
        .publish_only = true,
        .name = "pump",
    };
    struct board_header *board = new_board();
    struct board_client_info info;

    (void)state;
    board_write_identity(board_row(board, 2), &written);
    assert_true(board_read_identity(board_row(board, 2), &info));
    assert_int_equal(info.state, written.state);
    assert_true(info.nonce == written.nonce);
    assert_int_equal(info.since, written.since);
    assert_int_equal(info.pid, written.pid);
    assert_int_equal(info.uid, written.uid);
    assert_true(info.publish_only);
    assert_string_equal(info.name, "pump");
    assert_int_equal(board_row(board, 1)->identity.state, BOARD_ROW_FREE);
    assert_int_equal(board_row(board, 3)->identity.state, BOARD_ROW_FREE);
    free(board);
}

static void shorter_name_leaves_nothing_of_the_longer_one(void **state)
{
    struct board_header *board = new_board();
    struct board_topic *topic = board_topic(board, 1);
    char name[BOARD_TOPIC_SIZE];
    char longest[WIRE_TOPIC_MAX];

    (void)state;
    memset(longest, 't', sizeof(longest));
    board_write_topic_name(topic, longest, sizeof(longest));
    assert_true(board_read_topic_name(topic, name));
    assert_int_equal(strlen(name), WIRE_TOPIC_MAX);
    assert_int_equal(topic->size, WIRE_TOPIC_MAX);
    board_write_topic_name(topic, "a/b", 3);
    assert_true(board_read_topic_name(topic, name));
    assert_string_equal(name, "a/b");
    for (size_t i = 3; i < BOARD_TOPIC_SIZE; i++)
        assert_int_equal(topic->name[i], 0);
    free(board);
}

/* A writer that was killed between begin and end. */
static void reader_of_a_dead_writers_row_gives_up_and_the_next_writer_mends_it(void **state)
{
    static const struct board_client_info info = {.state = BOARD_ROW_LIVE, .name = "next"};
    struct board_header *board = new_board();
    struct board_row *row = board_row(board, 0);
    struct board_client_info read;

    (void)state;
    board_write_identity(row, &info);
    board_write_begin(&row->identity.sequence);
    assert_false(board_read_identity(row, &read));
    assert_string_equal(read.name, "next");
    board_write_begin(&row->identity.sequence); /* also a writer killed while it mended */
    board_write_identity(row, &info);
    assert_true(board_read_identity(row, &read));

    board_write_begin(&board_topic(board, 0)->sequence);
    assert_false(board_read_topic_name(board_topic(board, 0), (char[BOARD_TOPIC_SIZE]){0}));
    free(board);
}

static atomic_bool stop;

static void *write_always(void *argument)
{
    struct board_row *row = argument;

    for (uint32_t i = 1; !atomic_load(&stop); i++) {
        struct board_client_info info = {
            .state = i, .nonce = i, .since = i, .pid = i, .uid = i, .publish_only = i % 2 != 0};

        memset(info.name, 'a' + (int)(i % 26), sizeof(info.name) - 1);
        board_write_identity(row, &info);
    }
    return NULL;
}

static void identity_read_while_it_is_written_is_of_one_moment(void **state)
{
    struct board_header *board = new_board();
    struct board_row *row = board_row(board, 0);
    pthread_t writer;
    unsigned n_read = 0;

    (void)state;
    board_write_identity(row, &(struct board_client_info){.name = ""});
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&writer, NULL, write_always, row), 0);
    while (n_read < 20000) {
        struct board_client_info info;

        if (!board_read_identity(row, &info))
            continue;
        n_read++;
        assert_int_equal(info.nonce, info.state);
        assert_int_equal(info.since, info.state);
        assert_int_equal(info.pid, info.state);
        assert_int_equal(info.uid, info.state);
        assert_int_equal(info.publish_only, info.state % 2 != 0);
        if (info.state != 0)
            for (size_t i = 0; i < sizeof(info.name) - 1; i++)
                assert_int_equal(info.name[i], 'a' + (int)(info.state % 26));
    }
    atomic_store(&stop, true);
    pthread_join(writer, NULL);
    free(board);
}

static void counters_add_up(void **state)
{
    struct board_header *board = new_board();

    (void)state;
    board_add(&board->totals.messages_in, 3);
    board_add(&board->totals.messages_in, 4);
    assert_int_equal(board_get(&board->totals.messages_in), 7);
    board_set(&board->totals.messages_in, UINT64_MAX);
    board_add(&board->totals.messages_in, 1);
    assert_int_equal(board_get(&board->totals.messages_in), 0);
    free(board);
}

static void bucket_counts_times_below_its_power_of_two(void **state)
{
    (void)state;
    assert_int_equal(board_bucket(0), 0);
    for (unsigned i = 1; i < BOARD_BUCKETS; i++) {
        assert_int_equal(board_bucket((UINT64_C(1) << i) - 1), i);
        assert_int_equal(board_bucket(UINT64_C(1) << (i - 1)), i);
    }
    assert_int_equal(board_bucket(UINT64_MAX), BOARD_BUCKETS - 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formatted_board_is_good_and_empty),
        cmocka_unit_test(rows_and_topics_lie_apart_aligned_and_inside),
        cmocka_unit_test(board_of_another_kind_is_refused_by_its_name),
        cmocka_unit_test(header_that_leads_out_of_the_segment_is_refused),
        cmocka_unit_test(identity_is_read_as_it_was_written),
        cmocka_unit_test(shorter_name_leaves_nothing_of_the_longer_one),
        cmocka_unit_test(reader_of_a_dead_writers_row_gives_up_and_the_next_writer_mends_it),
        cmocka_unit_test(identity_read_while_it_is_written_is_of_one_moment),
        cmocka_unit_test(counters_add_up),
        cmocka_unit_test(bucket_counts_times_below_its_power_of_two),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
