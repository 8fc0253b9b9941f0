/* What mqstat shows: a board in plain memory, its snapshot, and the snapshot as JSON, Prometheus'
 * text and tables. The documentation is held to the same tables. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "libclient/board.h"
#include "tools/snapshot.h"
#include "tools/statistics.h"
#include "tools/table.h"

enum { N_ROWS = 4, N_TOPICS = 3, N_GROUPS = 4 };

static const char hostile[] = "a\"b\\c\n\033[2J\x01\xff";

struct fixture {
    struct board_header *board;
    struct snapshot snapshot;
};

/* A number of its own for each word, so that no two can be mistaken for each other. */
static void fill(_Atomic uint64_t *words, size_t size, uint64_t first)
{
    for (size_t i = 0; i < size / sizeof *words; i++)
        board_set(&words[i], first + i);
}

static void add_client(struct board_header *board, uint32_t i, const char *name)
{
    struct board_client_info info = {.state = BOARD_ROW_LIVE,
                                     .nonce = 0x1234abcd00000000u + i,
                                     .since = 1700000000123456789u,
                                     .pid = 4000 + i,
                                     .uid = 1000};
    struct board_row *row = board_row(board, i);

    snprintf(info.name, sizeof info.name, "%s", name);
    board_write_identity(row, &info);
    atomic_store(&row->queue.depth, 10);
    atomic_store(&row->queue.width, 8192);
    atomic_store(&row->queue.standing, 3);
    board_set(&row->in, 100 + i);
    board_set(&row->out, 200 + i);
    board_set(&row->missed, 7);
    board_set(&row->waiting, 5);
    board_set(&row->stalled, 1);
    board_set(&row->held, 17);
    board_set(&row->held_bytes, 17 << 20);
    board_set(&row->unacknowledged, 18);
    board_set(&row->groups, 2);
    fill((_Atomic uint64_t *)&row->drops, sizeof row->drops, 300);
    fill((_Atomic uint64_t *)&row->refusals, sizeof row->refusals, 400);
}

static void add_topic(struct board_header *board, uint32_t i, const char *name)
{
    struct board_topic *topic = board_topic(board, i);

    board_write_topic_name(topic, name, strlen(name));
    board_set(&topic->in, 500 + i);
    board_set(&topic->out, 600 + i);
    board_set(&topic->drops.overflow, 9);
    atomic_store(&board->topics_used, i + 1);
}

static void add_group(struct board_header *board, uint32_t i, const char *name, uint32_t state)
{
    struct board_group_info info = {.state = state,
                                    .durable = i == 0,
                                    .delivery_limit = i == 0 ? 5 : 0,
                                    .ack_timeout = 30000,
                                    .size_max = 16 << 20};
    struct board_group *group = board_group(board, i);

    snprintf(info.name, sizeof info.name, "%s", name);
    board_write_group(group, &info);
    /* The words from the first to the last, in the order in which they stand. */
    fill(&group->members,
         offsetof(struct board_group, drops) - offsetof(struct board_group, members), 700);
    fill((_Atomic uint64_t *)&group->drops, sizeof group->drops, 800);
}

static void fill_journal(struct board_journal *journal)
{
    board_set(&journal->enabled, 1);
    fill(&journal->size_max,
         offsetof(struct board_journal, spare) - offsetof(struct board_journal, size_max), 5000);
    fill((_Atomic uint64_t *)&journal->counters, sizeof journal->counters, 6000);
}

static void fill_header(struct board_header *board)
{
    atomic_store(&board->state, BOARD_RUNNING);
    atomic_store(&board->pid, 4242);
    atomic_store(&board->pid_start, 99);
    atomic_store(&board->started, 1700000000000000000u);
    atomic_store(&board->last_turn, 50000000000u);
    atomic_store(&board->asleep, 1);
    atomic_store(&board->queue_bytes_limit, UINT64_MAX);
    atomic_store(&board->queue_bytes_used, 810400);
    atomic_store(&board->request.depth, 10);
    atomic_store(&board->request.width, 8192);
    board->frame_max = 1240;
    board->window = 1 << 20;
    board_set(&board->pools, 6);
    board_set(&board->orphans, 2);
    fill((_Atomic uint64_t *)&board->totals, sizeof board->totals, 1000);
    fill((_Atomic uint64_t *)&board->drops, sizeof board->drops, 2000);
    fill((_Atomic uint64_t *)&board->refusals, sizeof board->refusals, 3000);
    fill((_Atomic uint64_t *)&board->rejects, sizeof board->rejects, 4000);
    board_set(&board->priorities[8].in, 11);
    board_set(&board->priorities[8].out, 12);
    board_set(&board->priorities[8].wait[0], 50);
    board_set(&board->priorities[8].wait[5], 49);
    board_set(&board->priorities[8].wait[20], 1);
    board_set(&board->priorities[31].drops.expired, 1);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    size_t size = board_size(N_ROWS, N_TOPICS, N_GROUPS);

    assert_non_null(f);
    f->board = aligned_alloc(64, (size + 63) / 64 * 64);
    assert_non_null(f->board);
    memset(f->board, 0, size);
    board_format(f->board, size, N_ROWS, N_TOPICS, N_GROUPS);
    fill_header(f->board);
    add_client(f->board, 1, "boiler");
    add_client(f->board, 3, hostile);
    add_topic(f->board, 0, "plant/line1");
    add_topic(f->board, 1, hostile);
    add_topic(f->board, 2, "");
    add_group(f->board, 0, "orders", BOARD_GROUP_LIVE);
    add_group(f->board, 2, hostile, BOARD_GROUP_ENDING);
    fill_journal(&f->board->journal);
    f->snapshot.instance = "test";
    f->snapshot.alive = true;
    f->snapshot.now = 1700000060500000000u;
    f->snapshot.boot_now = 52500000000u;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    snapshot_deinit(&f->snapshot);
    free(f->board);
    free(f);
    return 0;
}

static struct snapshot *take(struct fixture *f)
{
    assert_int_equal(board_check(f->board, f->board->size), BOARD_OK);
    assert_int_equal(snapshot_take(&f->snapshot, f->board), 0);
    return &f->snapshot;
}

/* ---- Snapshot ---- */

static void a_snapshot_holds_the_rows_that_are_used(void **state)
{
    struct snapshot *s = take(*state);

    assert_int_equal(s->n_clients, 2);
    assert_int_equal(s->clients[0].session, 1);
    assert_int_equal(s->clients[1].session, 3);
    assert_string_equal(s->clients[0].info.name, "boiler");
    assert_int_equal(s->clients[1].words.in, 103);
    assert_int_equal(s->n_topics, 3);
    assert_string_equal(s->topics[0].name, "plant/line1");
    assert_int_equal(s->topics[1].words.out, 601);
    assert_int_equal(s->topics[1].drops.overflow, 9);
    assert_int_equal(s->totals.messages_in, 1000);
    assert_int_equal(s->limits.clients_max, N_ROWS);
    assert_int_equal(s->n_groups, 2);
    assert_string_equal(s->groups[0].info.name, "orders");
    assert_int_equal(s->groups[1].words.members, 700);
    assert_int_equal(s->groups[1].drops.purged, 804);
}

static void a_row_that_was_being_written_when_the_broker_died_is_shown_as_torn(void **state)
{
    struct fixture *f = *state;
    struct snapshot *s;

    board_write_begin(&board_row(f->board, 1)->identity.sequence);
    board_write_begin(&board_group(f->board, 2)->sequence);
    s = take(f);
    assert_true(s->clients[0].torn);
    assert_false(s->clients[1].torn);
    assert_false(s->groups[0].torn);
    assert_true(s->groups[1].torn);
}

static void a_count_of_topics_that_cannot_be_is_not_believed(void **state)
{
    struct fixture *f = *state;

    atomic_store(&f->board->topics_used, 0xffffffff);
    assert_int_equal(take(f)->n_topics, N_TOPICS);
}

static void bounds_are_those_of_the_bucket_that_holds_the_message(void **state)
{
    uint64_t wait[BOARD_BUCKETS] = {0};

    (void)state;
    assert_int_equal(snapshot_wait_bound(wait, 500), 0);
    wait[3] = 1;
    assert_int_equal(snapshot_wait_bound(wait, 1), 8);
    assert_int_equal(snapshot_wait_bound(wait, 1000), 8);
    wait[3] = 99;
    wait[10] = 1;
    assert_int_equal(snapshot_wait_bound(wait, 990), 8);
    assert_int_equal(snapshot_wait_bound(wait, 991), 1024);
    wait[BOARD_BUCKETS - 1] = 1;
    assert_int_equal(snapshot_wait_bound(wait, 1000), SNAPSHOT_UNBOUNDED);
    assert_int_equal(snapshot_wait_count(wait), 101);
    wait[0] = UINT64_MAX / 2;
    assert_int_equal(snapshot_wait_bound(wait, 999), 1);
}

/* ---- JSON ---- */

/* As a reader of our output gets it. */
static json_t *parse(const struct snapshot *s, unsigned sections)
{
    json_t *made = statistics_json(s, sections), *read;
    char *text = json_dumps(made, 0);

    assert_non_null(text);
    read = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_non_null(read);
    free(text);
    json_decref(made);
    return read;
}

/* "totals.dropped.expired", "clients.0.name" */
static json_t *at(json_t *json, const char *path)
{
    char part[64];

    while (*path != '\0') {
        size_t size = strcspn(path, ".");

        snprintf(part, sizeof part, "%.*s", (int)size, path);
        json = json_is_array(json) ? json_array_get(json, (size_t)atoi(part))
                                   : json_object_get(json, part);
        path += size + (path[size] == '.');
    }
    if (json == NULL)
        fail_msg("nothing there");
    return json;
}

static void expect_words(json_t *object, const struct snapshot_field *fields, uint64_t first)
{
    for (; fields->key != NULL; fields++)
        assert_int_equal(json_integer_value(at(object, fields->key)), first++);
}

static void json_has_every_word_under_its_key(void **state)
{
    json_t *json = parse(take(*state), STATISTICS_ALL);

    expect_words(at(json, "totals"), snapshot_totals_fields, 1000);
    expect_words(at(json, "totals.dropped"), snapshot_drops_fields, 2000);
    expect_words(at(json, "totals.refused"), snapshot_refusals_fields, 3000);
    expect_words(at(json, "totals.rejected"), snapshot_rejects_fields, 4000);
    expect_words(at(json, "clients.0.dropped"), snapshot_drops_fields, 300);
    expect_words(at(json, "clients.1.refused"), snapshot_refusals_fields, 400);
    expect_words(at(json, "groups.0.dropped"), snapshot_drops_fields, 800);
    json_decref(json);
}

static void json_has_the_values_of_the_board(void **state)
{
    static const struct {
        const char *path;
        json_int_t value;
    } integers[] = {
        {"schema", 1},
        {"broker.pid", 4242},
        {"broker.layout", BOARD_LAYOUT},
        {"priorities.0.priority", 8},
        {"priorities.0.in", 11},
        {"priorities.0.out", 12},
        {"priorities.0.wait_us.count", 100},
        {"priorities.0.wait_us.p50", 1},
        {"priorities.0.wait_us.p99", 32},
        {"priorities.0.wait_us.p999", 1048576},
        {"priorities.0.wait_us.max", 1048576},
        {"priorities.0.wait_us.buckets.1.below", 32},
        {"priorities.0.wait_us.buckets.1.count", 49},
        {"priorities.1.priority", 31},
        {"priorities.1.dropped.expired", 1},
        {"priorities.1.wait_us.max", 0},
        {"totals.wait_us.count", 100},
        {"queues.request.depth", 10},
        {"queues.request.width", 8192},
        {"clients.0.session", 1},
        {"clients.0.pid", 4001},
        {"clients.0.uid", 1000},
        {"clients.0.in", 101},
        {"clients.0.missed", 7},
        {"clients.0.stalled", 1},
        {"clients.0.held", 17},
        {"clients.0.held_bytes", 17 << 20},
        {"clients.0.queue.standing", 3},
        {"clients.0.unacknowledged", 18},
        {"clients.0.groups", 2},
        {"groups.0.members", 700},
        {"groups.0.waiting", 701},
        {"groups.0.waiting_bytes", 702},
        {"groups.0.later", 703},
        {"groups.0.unacknowledged", 704},
        {"groups.0.dead", 705},
        {"groups.0.in", 706},
        {"groups.0.out", 707},
        {"groups.0.acknowledged", 708},
        {"groups.0.returned", 709},
        {"groups.0.timeouts", 710},
        {"groups.0.dead_letters", 711},
        {"groups.0.refused", 712},
        {"groups.0.on_disk", 713},
        {"groups.0.delivery_limit", 5},
        {"groups.0.ack_timeout_ms", 30000},
        {"groups.0.size_max", 16 << 20},
        {"journal.size_max", 5000},
        {"journal.size", 5001},
        {"journal.live", 5002},
        {"journal.segments", 5003},
        {"journal.full", 5004},
        {"journal.unsynced", 5005},
        {"journal.ready", 5006},
        {"journal.records", 6000},
        {"journal.damaged", 6008},
        {"limits.groups", 2},
        {"limits.groups_max", N_GROUPS},
        {"topics.0.in", 500},
        {"topics.2.in", 502},
        {"limits.clients", 2},
        {"limits.clients_max", N_ROWS},
        {"limits.queue_bytes_used", 810400},
        {"limits.frame_max", 1240},
        {"limits.window", 1 << 20},
        {"limits.pools", 6},
        {"limits.orphans", 2},
    };
    static const struct {
        const char *path;
        const char *value;
    } strings[] = {
        {"instance", "test"},
        {"time", "2023-11-14T22:14:20.500000Z"},
        {"broker.state", "running"},
        {"broker.started", "2023-11-14T22:13:20.000000Z"},
        {"queues.request.name", "/mqbroker.test"},
        {"queues.urgent.name", "/mqbroker.test.urgent"},
        {"clients.0.name", "boiler"},
        {"clients.0.state", "live"},
        {"clients.0.since", "2023-11-14T22:13:20.123456Z"},
        {"clients.0.queue.name", "/mqbroker.test.1234abcd00000001"},
        {"topics.0.topic", "plant/line1"},
        {"groups.0.name", "orders"},
        {"groups.0.state", "live"},
        {"groups.1.state", "ending"},
    };
    json_t *json = parse(take(*state), STATISTICS_ALL);

    for (size_t i = 0; i < sizeof integers / sizeof *integers; i++)
        if (json_integer_value(at(json, integers[i].path)) != integers[i].value)
            fail_msg("%s is %lld", integers[i].path,
                     (long long)json_integer_value(at(json, integers[i].path)));
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        assert_string_equal(json_string_value(at(json, strings[i].path)), strings[i].value);
    assert_true(json_is_true(at(json, "alive")));
    assert_true(json_is_true(at(json, "broker.asleep")));
    assert_true(json_is_true(at(json, "groups.0.durable")));
    assert_true(json_is_false(at(json, "groups.1.durable")));
    assert_true(json_number_value(at(json, "broker.uptime_s")) == 60.5);
    assert_true(json_number_value(at(json, "broker.idle_s")) == 2.5);
    assert_int_equal(json_array_size(at(json, "priorities")), 2);
    json_decref(json);
}

static void what_has_no_limit_and_no_name_is_null(void **state)
{
    json_t *json = parse(take(*state), STATISTICS_ALL);

    assert_true(json_is_null(at(json, "limits.queue_bytes_limit")));
    assert_true(json_is_null(at(json, "topics.2.topic")));
    assert_true(json_is_null(at(json, "groups.1.delivery_limit")));
    json_decref(json);
}

static void a_broker_without_a_journal_has_none(void **state)
{
    struct fixture *f = *state;
    json_t *json;

    board_set(&f->board->journal.enabled, 0);
    json = parse(take(f), STATISTICS_ALL);
    assert_true(json_is_null(at(json, "journal")));
    json_decref(json);
}

static void a_dead_broker_has_no_uptime(void **state)
{
    struct fixture *f = *state;
    json_t *json;

    f->snapshot.alive = false;
    json = parse(take(f), STATISTICS_BROKER);
    assert_true(json_is_false(at(json, "alive")));
    assert_true(json_is_null(at(json, "broker.uptime_s")));
    assert_true(json_is_null(at(json, "broker.idle_s")));
    assert_string_equal(json_string_value(at(json, "broker.state")), "running");
    json_decref(json);
}

static void hostile_names_come_through_json_whole(void **state)
{
    json_t *json = parse(take(*state), STATISTICS_ALL);

    assert_string_equal(json_string_value(at(json, "clients.1.name")),
                        "a\"b\\c\n\033[2J\x01\xef\xbf\xbd");
    assert_string_equal(json_string_value(at(json, "topics.1.topic")),
                        "a\"b\\c\n\033[2J\x01\xef\xbf\xbd");
    assert_string_equal(json_string_value(at(json, "groups.1.name")),
                        "a\"b\\c\n\033[2J\x01\xef\xbf\xbd");
    json_decref(json);
}

static void only_the_sections_that_are_wanted_are_there(void **state)
{
    static const char *const names[] = {"broker", "totals", "priorities", "queues", "clients",
                                        "topics", "groups", "journal",    "limits"};
    struct snapshot *s = take(*state);

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        json_t *json = parse(s, statistics_section(names[i]));

        assert_int_equal(json_object_size(json), 5);
        at(json, names[i]);
        json_decref(json);
    }
    assert_int_equal(statistics_section("bogus"), 0);
}

/* ---- Prometheus ---- */

static char *prometheus(const struct snapshot *s)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    statistics_prometheus(s, STATISTICS_ALL, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void expect_line(const char *text, const char *line)
{
    const char *found = strstr(text, line);

    if (found == NULL || (found != text && found[-1] != '\n') || found[strlen(line)] != '\n')
        fail_msg("no line '%s'", line);
}

static void prometheus_has_a_family_for_each_word(void **state)
{
    char *text = prometheus(take(*state));

    expect_line(text, "mqbroker_up{broker=\"test\"} 1");
    expect_line(text, "# HELP mqbroker_messages_in_total messages taken from clients and routed");
    expect_line(text, "# TYPE mqbroker_messages_in_total counter");
    expect_line(text, "mqbroker_messages_in_total{broker=\"test\"} 1000");
    expect_line(text, "mqbroker_dropped_total{broker=\"test\",reason=\"expired\"} 2000");
    expect_line(text, "mqbroker_rejected_total{broker=\"test\",reason=\"frame\"} 4007");
    expect_line(text, "mqbroker_priority_out_total{broker=\"test\",priority=\"8\"} 12");
    expect_line(text, "# TYPE mqbroker_client_waiting gauge");
    expect_line(text,
                "mqbroker_client_in_total{broker=\"test\",session=\"1\",name=\"boiler\"} 101");
    expect_line(text, "mqbroker_client_refused_total{broker=\"test\",session=\"1\",name=\"boiler\","
                      "reason=\"store_full\"} 401");
    expect_line(text, "mqbroker_topic_in_total{broker=\"test\",topic=\"plant/line1\"} 500");
    expect_line(text, "mqbroker_queue_depth{broker=\"test\",queue=\"request\"} 10");
    expect_line(text, "mqbroker_queue_bytes_limit{broker=\"test\"} +Inf");
    expect_line(text, "# TYPE mqbroker_priority_wait_seconds histogram");
    expect_line(text, "mqbroker_priority_wait_seconds_bucket{broker=\"test\",priority=\"8\","
                      "le=\"1e-06\"} 50");
    expect_line(text, "mqbroker_priority_wait_seconds_bucket{broker=\"test\",priority=\"8\","
                      "le=\"0.524288\"} 99");
    expect_line(text, "mqbroker_priority_wait_seconds_bucket{broker=\"test\",priority=\"8\","
                      "le=\"+Inf\"} 100");
    expect_line(text, "mqbroker_priority_wait_seconds_count{broker=\"test\",priority=\"8\"} 100");
    free(text);
}

static void prometheus_tells_of_groups_and_the_journal(void **state)
{
    struct fixture *f = *state;
    char *text = prometheus(take(f));

    expect_line(text, "mqbroker_group_waiting{broker=\"test\",group=\"orders\"} 701");
    expect_line(text, "mqbroker_group_acknowledged_total{broker=\"test\",group=\"orders\"} 708");
    expect_line(text, "mqbroker_group_dropped_total{broker=\"test\",group=\"orders\","
                      "reason=\"purged\"} 804");
    expect_line(text, "mqbroker_group_size_max{broker=\"test\",group=\"orders\"} 16777216");
    expect_line(text, "# TYPE mqbroker_journal_syncs_total counter");
    expect_line(text, "mqbroker_journal_syncs_total{broker=\"test\"} 6003");
    expect_line(text, "mqbroker_journal_live{broker=\"test\"} 5002");
    free(text);
    f->snapshot.has_journal = false;
    text = prometheus(&f->snapshot);
    assert_null(strstr(text, "mqbroker_journal_"));
    free(text);
}

static void labels_are_escaped(void **state)
{
    char *text = prometheus(take(*state));

    expect_line(text, "mqbroker_topic_in_total{broker=\"test\","
                      "topic=\"a\\\"b\\\\c\\n\033[2J\x01\xef\xbf\xbd\"} 501");
    free(text);
}

static void every_family_is_told_once_and_stands_together(void **state)
{
    char *text = prometheus(take(*state)), *rest = text, *line;
    char family[128] = "", seen[16384] = "\n";

    while ((line = strsep(&rest, "\n")) != NULL && *line != '\0') {
        if (strncmp(line, "# HELP ", 7) == 0) {
            snprintf(family, sizeof family, "\n%.*s\n", (int)strcspn(line + 7, " "), line + 7);
            if (strstr(seen, family) != NULL)
                fail_msg("told twice: %s", family);
            assert_true(strlen(seen) + strlen(family) < sizeof seen);
            strcat(seen, family + 1);
        } else if (*line != '#') {
            size_t size = strlen(family) - 2;

            /* The sample's name is the family's, or that of a part of its histogram. */
            if (strncmp(line, family + 1, size) != 0 || strchr("{_", line[size]) == NULL)
                fail_msg("'%s' is not of the family %s", line, family);
        }
    }
    free(text);
}

/* ---- Tables ---- */

static char *table(const struct snapshot *now, const struct snapshot *before)
{
    char *text;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    table_print(now, before, STATISTICS_ALL, out);
    assert_int_equal(fclose(out), 0);
    return text;
}

static void tables_hold_nothing_that_acts_on_a_terminal(void **state)
{
    char *text = table(take(*state), NULL);

    for (const char *c = text; *c != '\0'; c++)
        assert_true((unsigned char)*c >= 0x20 || *c == '\n');
    assert_non_null(strstr(text, "a\"b\\c\\x0a\\x1b[2J\\x01\\xff"));
    assert_non_null(
        strstr(text, "mqbroker test: running, pid 4242, up 1 min 0 s, 2 of 4 clients\n"));
    assert_non_null(strstr(text, "(all others)"));
    free(text);
}

static void tables_show_groups_and_the_journal(void **state)
{
    struct fixture *f = *state;
    char *text = table(take(f), NULL);

    assert_non_null(
        strstr(text, "\nGroups members   waiting   later  unacked    dead          in         out"
                     "  returned  refused  dropped  name\n"
                     "           700       701     703      704     705         706         707"
                     "       709      712    4,815  orders (durable)\n"));
    assert_non_null(strstr(text, "\\xff (ending)\n"));
    assert_non_null(strstr(text, "\nJournal\n  size"));
    free(text);
    f->snapshot.has_journal = false;
    text = table(&f->snapshot, NULL);
    assert_non_null(strstr(text, "\nJournal: none\n"));
    free(text);
}

static void a_second_look_shows_what_happened_a_second(void **state)
{
    struct fixture *f = *state;
    struct snapshot before = {.instance = "test", .alive = true, .monotonic = 1000000000};
    char *text;

    assert_int_equal(snapshot_take(&before, f->board), 0);
    board_add(&f->board->totals.messages_in, 24690);
    f->snapshot.monotonic = 3000000000;
    text = table(take(f), &before);
    assert_non_null(strstr(text, "25,690      12,345/s"));
    assert_non_null(strstr(text, "    4,815           0/s           0/s  orders (durable)\n"));
    assert_non_null(strstr(text, "  live                            5,002                what is"));
    assert_non_null(
        strstr(text, "  records                         6,000           0/s  records w"));
    free(text);
    /* A broker that was started anew has other counters. */
    before.started--;
    text = table(&f->snapshot, &before);
    assert_null(strstr(text, "/s"));
    free(text);
    snapshot_deinit(&before);
}

/* ---- Documentation ---- */

static char *read_document(void)
{
    FILE *in = fopen(MQB_SOURCE_DIR "/docs/statistics.md", "r");
    char *text = calloc(1, 65536);

    assert_non_null(in);
    assert_non_null(text);
    assert_in_range(fread(text, 1, 65535, in), 1000, 65000);
    fclose(in);
    return text;
}

/* The part of the page below this heading, up to the next one. */
static char *part_of(const char *page, const char *heading)
{
    const char *from = strstr(page, heading), *to;

    if (from == NULL)
        fail_msg("no heading %s", heading);
    from += strlen(heading);
    to = strstr(from, "\n#");
    return strndup(from, to != NULL ? (size_t)(to - from) : strlen(from));
}

static void each_word_is_documented_as_its_table_says(void **state)
{
    static const struct {
        const char *heading;
        const struct snapshot_field *fields;
        bool kinds;
    } tables[] = {
        {"\n## `totals`\n", snapshot_totals_fields, false},
        {"\n### `dropped`\n", snapshot_drops_fields, false},
        {"\n### `refused`\n", snapshot_refusals_fields, false},
        {"\n### `rejected`\n", snapshot_rejects_fields, false},
        {"\n## `priorities`\n", snapshot_priority_fields, true},
        {"\n## `clients`\n", snapshot_client_fields, true},
        {"\n## `topics`\n", snapshot_topic_fields, true},
        {"\n## `groups`\n", snapshot_group_fields, true},
        {"\n## `journal`\n", snapshot_journal_fields, true},
        {"\n## `limits`\n", snapshot_limits_fields, true},
    };
    char *page = read_document();

    (void)state;
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        char *part = part_of(page, tables[i].heading);

        for (const struct snapshot_field *field = tables[i].fields; field->key != NULL; field++) {
            const char *kind = field->kind == SNAPSHOT_COUNTER ? " counter |" : " gauge |";
            char row[256];

            snprintf(row, sizeof row, "\n| `%s` |%s %s | %s |\n", field->key,
                     tables[i].kinds ? kind : "", field->unit, field->sentence);
            if (strstr(part, row) == NULL)
                fail_msg("under %s there is no row %s", tables[i].heading, row);
        }
        free(part);
    }
    free(page);
}

static void expect_keys(const char *page, json_t *json)
{
    const char *key;
    json_t *value;
    size_t i;

    json_object_foreach(json, key, value)
    {
        char text[80];

        snprintf(text, sizeof text, "`%s`", key);
        if (strstr(page, text) == NULL)
            fail_msg("the page says nothing of %s", text);
        expect_keys(page, value);
    }
    json_array_foreach(json, i, value) expect_keys(page, value);
}

static void every_key_is_on_the_page(void **state)
{
    char *page = read_document();
    json_t *json = parse(take(*state), STATISTICS_ALL);

    expect_keys(page, json);
    json_decref(json);
    free(page);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_snapshot_holds_the_rows_that_are_used),
        TEST(a_row_that_was_being_written_when_the_broker_died_is_shown_as_torn),
        TEST(a_count_of_topics_that_cannot_be_is_not_believed),
        TEST(bounds_are_those_of_the_bucket_that_holds_the_message),
        TEST(json_has_every_word_under_its_key),
        TEST(json_has_the_values_of_the_board),
        TEST(what_has_no_limit_and_no_name_is_null),
        TEST(a_broker_without_a_journal_has_none),
        TEST(a_dead_broker_has_no_uptime),
        TEST(hostile_names_come_through_json_whole),
        TEST(only_the_sections_that_are_wanted_are_there),
        TEST(prometheus_has_a_family_for_each_word),
        TEST(prometheus_tells_of_groups_and_the_journal),
        TEST(labels_are_escaped),
        TEST(every_family_is_told_once_and_stands_together),
        TEST(tables_hold_nothing_that_acts_on_a_terminal),
        TEST(tables_show_groups_and_the_journal),
        TEST(a_second_look_shows_what_happened_a_second),
        TEST(each_word_is_documented_as_its_table_says),
        TEST(every_key_is_on_the_page),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
