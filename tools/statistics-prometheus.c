/* Statistics in Prometheus' text format (exposition format 0.0.4).
 *
 * A family of samples (a HELP line, a TYPE line, a sample for each client, topic or priority) has
 * to stand together, so the rows of a section are collected first, each with its labels already
 * written, and then each word of the table is one family over all rows. The instance is the label
 * `broker`, since `instance` is Prometheus' own. The histograms have no _sum: the board has none.
 */
#include <err.h>
#include <stdlib.h>
#include <string.h>

#include "tools/statistics.h"
#include "tools/text.h"

struct row {
    char *labels; /* broker="default",topic="a/b" */
    const void *words;
    const struct snapshot_drops *drops;
    const struct snapshot_refusals *refusals;
};

struct rows {
    struct row *row;
    size_t n;
};

/* ---- Writing ---- */

/* The value of a label: backslash, quote and newline are escaped, what is not UTF-8 is U+FFFD. */
static void put_value(FILE *out, const char *value)
{
    size_t left = strlen(value);

    while (left > 0) {
        size_t n = text_character(value, left);

        if (n == 0)
            fputs("\xef\xbf\xbd", out);
        else if (*value == '\n')
            fputs("\\n", out);
        else if (*value == '\\' || *value == '"')
            fprintf(out, "\\%c", *value);
        else
            fwrite(value, 1, n, out);
        n = n > 0 ? n : 1;
        value += n;
        left -= n;
    }
}

static void put_label(FILE *out, const char *key, const char *value)
{
    fprintf(out, "%s=\"", key);
    put_value(out, value);
    fputc('"', out);
}

/* "mqbroker_client_in_total": counters end so. */
static void put_name(FILE *out, const char *prefix, const char *key, enum snapshot_kind kind)
{
    fprintf(out, "mqbroker_%s%s%s", prefix, key, kind == SNAPSHOT_COUNTER ? "_total" : "");
}

static void put_family(FILE *out, const char *prefix, const char *key, enum snapshot_kind kind,
                       const char *help)
{
    fputs("# HELP ", out);
    put_name(out, prefix, key, kind);
    fprintf(out, " %s\n# TYPE ", help);
    put_name(out, prefix, key, kind);
    fprintf(out, " %s\n", kind == SNAPSHOT_COUNTER ? "counter" : "gauge");
}

static void put_sample(FILE *out, const char *prefix, const char *key, enum snapshot_kind kind,
                       const char *labels, const char *reason, uint64_t value)
{
    put_name(out, prefix, key, kind);
    fprintf(out, "{%s", labels);
    if (reason != NULL)
        fprintf(out, ",reason=\"%s\"", reason);
    if (value == UINT64_MAX)
        fputs("} +Inf\n", out);
    else
        fprintf(out, "} %llu\n", (unsigned long long)value);
}

/* One family for each word of a table. */
static void put_words(FILE *out, const char *prefix, const struct snapshot_field *fields,
                      const struct rows *rows)
{
    for (; fields->key != NULL && rows->n > 0; fields++) {
        put_family(out, prefix, fields->key, fields->kind, fields->sentence);
        for (size_t i = 0; i < rows->n; i++)
            put_sample(out, prefix, fields->key, fields->kind, rows->row[i].labels, NULL,
                       snapshot_word(rows->row[i].words, fields));
    }
}

/* One family for a table of reasons. */
static void put_reasons(FILE *out, const char *prefix, const char *key, const char *help,
                        const struct snapshot_field *reasons, const void *words, const char *labels)
{
    if (help != NULL)
        put_family(out, prefix, key, SNAPSHOT_COUNTER, help);
    for (; reasons->key != NULL; reasons++)
        put_sample(out, prefix, key, SNAPSHOT_COUNTER, labels, reasons->key,
                   snapshot_word(words, reasons));
}

static const char dropped_help[] = "deliveries that were given up, by reason";
static const char refused_help[] = "publishes that were not taken, by reason";
static const char rejected_help[] = "envelopes and frames that were not believed, by reason";

static void put_dropped(FILE *out, const char *prefix, const struct rows *rows)
{
    for (size_t i = 0; i < rows->n; i++)
        put_reasons(out, prefix, "dropped", i == 0 ? dropped_help : NULL, snapshot_drops_fields,
                    rows->row[i].drops, rows->row[i].labels);
}

static void put_refused(FILE *out, const char *prefix, const struct rows *rows)
{
    for (size_t i = 0; i < rows->n; i++)
        put_reasons(out, prefix, "refused", i == 0 ? refused_help : NULL, snapshot_refusals_fields,
                    rows->row[i].refusals, rows->row[i].labels);
}

/* ---- Rows ---- */

static struct rows rows_for(size_t n)
{
    struct rows rows = {.row = calloc(n + 1, sizeof *rows.row)};

    if (rows.row == NULL)
        errx(EXIT_FAILURE, "no memory for the statistics");
    return rows;
}

static void free_rows(struct rows *rows)
{
    for (size_t i = 0; i < rows->n; i++)
        free(rows->row[i].labels);
    free(rows->row);
}

/* Add a row with one label beside the broker's (none if `key` is NULL), and a second one if `key2`
 * is not NULL. */
static struct row *add_row(struct rows *rows, const struct snapshot *s, const char *key,
                           const char *value, const char *key2, const char *value2)
{
    struct row *row = &rows->row[rows->n++];
    size_t size;
    FILE *out = open_memstream(&row->labels, &size);

    if (out == NULL)
        errx(EXIT_FAILURE, "no memory for the statistics");
    put_label(out, "broker", s->instance);
    if (key != NULL) {
        fputc(',', out);
        put_label(out, key, value);
    }
    if (key2 != NULL) {
        fputc(',', out);
        put_label(out, key2, value2);
    }
    if (fclose(out) != 0)
        errx(EXIT_FAILURE, "no memory for the statistics");
    return row;
}

/* ---- The sections ---- */

static void put_gauge(FILE *out, const struct rows *rows, const char *key, const char *help,
                      double value)
{
    put_family(out, "", key, SNAPSHOT_GAUGE, help);
    fprintf(out, "mqbroker_%s{%s} %.17g\n", key, rows->row[0].labels, value);
}

static void put_broker(FILE *out, const struct snapshot *s)
{
    struct rows rows = rows_for(1);

    add_row(&rows, s, NULL, NULL, NULL, NULL);
    put_gauge(out, &rows, "up", "1 while the broker's process lives", s->alive);
    put_gauge(out, &rows, "running", "1 while it takes messages", s->state == BOARD_RUNNING);
    put_gauge(out, &rows, "start_time_seconds", "when it was started, Unix time",
              (double)(s->started / 1000) / 1e6);
    free_rows(&rows);
}

static void put_totals(FILE *out, const struct snapshot *s)
{
    struct rows rows = rows_for(1);
    struct row *row = add_row(&rows, s, NULL, NULL, NULL, NULL);

    row->words = &s->totals;
    put_words(out, "", snapshot_totals_fields, &rows);
    put_reasons(out, "", "dropped", dropped_help, snapshot_drops_fields, &s->drops, row->labels);
    put_reasons(out, "", "refused", refused_help, snapshot_refusals_fields, &s->refusals,
                row->labels);
    put_reasons(out, "", "rejected", rejected_help, snapshot_rejects_fields, &s->rejects,
                row->labels);
    free_rows(&rows);
}

static void put_limits(FILE *out, const struct snapshot *s)
{
    struct rows rows = rows_for(1);

    add_row(&rows, s, NULL, NULL, NULL, NULL)->words = &s->limits;
    put_words(out, "", snapshot_limits_fields, &rows);
    free_rows(&rows);
}

static void put_histogram(FILE *out, const char *labels, const uint64_t wait[BOARD_BUCKETS])
{
    uint64_t below = 0;

    for (unsigned i = 0; i < BOARD_BUCKETS - 1; i++) {
        below += wait[i];
        fprintf(out, "mqbroker_priority_wait_seconds_bucket{%s,le=\"%.12g\"} %llu\n", labels,
                (double)(UINT64_C(1) << i) / 1e6, (unsigned long long)below);
    }
    below += wait[BOARD_BUCKETS - 1];
    fprintf(out, "mqbroker_priority_wait_seconds_bucket{%s,le=\"+Inf\"} %llu\n", labels,
            (unsigned long long)below);
    fprintf(out, "mqbroker_priority_wait_seconds_count{%s} %llu\n", labels,
            (unsigned long long)below);
}

static void put_priorities(FILE *out, const struct snapshot *s)
{
    struct rows rows = rows_for(WIRE_LEVELS);
    const uint64_t *waits[WIRE_LEVELS];

    for (unsigned i = 0; i < WIRE_LEVELS; i++) {
        char number[16];
        struct row *row;

        if (!snapshot_priority_used(&s->priorities[i]))
            continue;
        snprintf(number, sizeof number, "%u", i);
        waits[rows.n] = s->priorities[i].wait;
        row = add_row(&rows, s, "priority", number, NULL, NULL);
        row->words = &s->priorities[i].words;
        row->drops = &s->priorities[i].drops;
    }
    put_words(out, "priority_", snapshot_priority_fields, &rows);
    put_dropped(out, "priority_", &rows);
    if (rows.n > 0)
        fputs("# HELP mqbroker_priority_wait_seconds time in the broker of what went out\n"
              "# TYPE mqbroker_priority_wait_seconds histogram\n",
              out);
    for (size_t i = 0; i < rows.n; i++)
        put_histogram(out, rows.row[i].labels, waits[i]);
    free_rows(&rows);
}

static void put_queues(FILE *out, const struct snapshot *s)
{
    static const struct snapshot_field fields[] = {
        {"standing", SNAPSHOT_GAUGE, "messages", "messages that stand in the queue", 0},
        {"depth", SNAPSHOT_GAUGE, "messages", "messages that it holds", sizeof(uint64_t)},
        {0},
    };
    const uint64_t request[] = {s->request.standing, s->request.depth};
    const uint64_t urgent[] = {s->urgent.standing, s->urgent.depth};
    struct rows rows = rows_for(2);

    add_row(&rows, s, "queue", "request", NULL, NULL)->words = request;
    add_row(&rows, s, "queue", "urgent", NULL, NULL)->words = urgent;
    put_words(out, "queue_", fields, &rows);
    free_rows(&rows);
}

static void put_clients(FILE *out, const struct snapshot *s)
{
    struct rows rows = rows_for(s->n_clients);

    for (size_t i = 0; i < s->n_clients; i++) {
        const struct snapshot_client *client = &s->clients[i];
        char session[16];
        struct row *row;

        snprintf(session, sizeof session, "%u", client->session);
        row = add_row(&rows, s, "session", session, "name", client->info.name);
        row->words = &client->words;
        row->drops = &client->drops;
        row->refusals = &client->refusals;
    }
    put_words(out, "client_", snapshot_client_fields, &rows);
    put_dropped(out, "client_", &rows);
    put_refused(out, "client_", &rows);
    free_rows(&rows);
}

static void put_topics(FILE *out, const struct snapshot *s)
{
    struct rows rows = rows_for(s->n_topics);

    for (size_t i = 0; i < s->n_topics; i++) {
        struct row *row = add_row(&rows, s, "topic", s->topics[i].name, NULL, NULL);

        row->words = &s->topics[i].words;
        row->drops = &s->topics[i].drops;
    }
    put_words(out, "topic_", snapshot_topic_fields, &rows);
    put_dropped(out, "topic_", &rows);
    free_rows(&rows);
}

static void put_groups(FILE *out, const struct snapshot *s)
{
    struct rows rows = rows_for(s->n_groups);

    for (size_t i = 0; i < s->n_groups; i++) {
        struct row *row = add_row(&rows, s, "group", s->groups[i].info.name, NULL, NULL);

        row->words = &s->groups[i].words;
        row->drops = &s->groups[i].drops;
    }
    put_words(out, "group_", snapshot_group_fields, &rows);
    put_dropped(out, "group_", &rows);
    free_rows(&rows);
}

static void put_journal(FILE *out, const struct snapshot *s)
{
    struct rows rows = rows_for(1);

    if (s->has_journal)
        add_row(&rows, s, NULL, NULL, NULL, NULL)->words = &s->journal;
    put_words(out, "journal_", snapshot_journal_fields, &rows);
    free_rows(&rows);
}

void statistics_prometheus(const struct snapshot *s, unsigned sections, FILE *out)
{
    static const struct {
        enum statistics_section section;
        void (*put)(FILE *out, const struct snapshot *s);
    } parts[] = {
        {STATISTICS_BROKER, put_broker},         {STATISTICS_TOTALS, put_totals},
        {STATISTICS_PRIORITIES, put_priorities}, {STATISTICS_QUEUES, put_queues},
        {STATISTICS_CLIENTS, put_clients},       {STATISTICS_TOPICS, put_topics},
        {STATISTICS_GROUPS, put_groups},         {STATISTICS_JOURNAL, put_journal},
        {STATISTICS_LIMITS, put_limits},
    };

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if ((sections & parts[i].section) != 0)
            parts[i].put(out, s);
}
