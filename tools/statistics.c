/* Statistics: see statistics.h. What is a word of a table in snapshot.h is rendered by one loop,
 * whatever it counts; only the frame around the tables stands here. Prometheus' part is in
 * statistics-prometheus.c. */
#include "tools/statistics.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libclient/names.h"
#include "tools/text.h"

static const struct {
    const char *name;
    enum statistics_section section;
} sections_by_name[] = {
    {"broker", STATISTICS_BROKER},   {"totals", STATISTICS_TOTALS},
    {"queues", STATISTICS_QUEUES},   {"priorities", STATISTICS_PRIORITIES},
    {"clients", STATISTICS_CLIENTS}, {"topics", STATISTICS_TOPICS},
    {"groups", STATISTICS_GROUPS},   {"journal", STATISTICS_JOURNAL},
    {"limits", STATISTICS_LIMITS},
};

unsigned statistics_section(const char *name)
{
    for (size_t i = 0; i < sizeof sections_by_name / sizeof *sections_by_name; i++)
        if (strcmp(name, sections_by_name[i].name) == 0)
            return sections_by_name[i].section;
    return 0;
}

static const char *name_of(const char *const *names, size_t n, uint32_t i)
{
    return i < n ? names[i] : "unknown";
}

const char *statistics_broker_state(uint32_t state)
{
    static const char *const names[] = {"starting", "running", "stopping", "stopped"};

    return name_of(names, sizeof names / sizeof *names, state);
}

const char *statistics_row_state(uint32_t state)
{
    static const char *const names[] = {"free", "making", "live", "ending"};

    return name_of(names, sizeof names / sizeof *names, state);
}

const char *statistics_group_state(uint32_t state)
{
    static const char *const names[] = {"free", "live", "ending"};

    return name_of(names, sizeof names / sizeof *names, state);
}

/* ---- Building JSON ---- */

static json_t *need(json_t *json)
{
    if (json == NULL)
        errx(EXIT_FAILURE, "no memory for the statistics");
    return json;
}

static void set(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, need(value)) < 0)
        need(NULL);
}

static void append(json_t *array, json_t *value)
{
    if (json_array_append_new(array, need(value)) < 0)
        need(NULL);
}

/* UINT64_MAX stands for "no limit". */
static json_t *number(uint64_t value)
{
    return value == UINT64_MAX ? json_null() : json_integer((json_int_t)value);
}

static json_t *seconds(uint64_t later, uint64_t earlier)
{
    return json_real(later > earlier ? (double)(later - earlier) / 1e9 : 0);
}

static json_t *date(uint64_t nanoseconds)
{
    time_t whole = (time_t)(nanoseconds / 1000000000);
    char text[64];
    struct tm tm;
    size_t n;

    gmtime_r(&whole, &tm);
    n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(text + n, sizeof text - n, ".%06uZ", (unsigned)(nanoseconds / 1000 % 1000000));
    return json_string(text);
}

static void set_words(json_t *object, const struct snapshot_field *fields, const void *words)
{
    for (; fields->key != NULL; fields++)
        set(object, fields->key, number(snapshot_word(words, fields)));
}

static json_t *words_object(const struct snapshot_field *fields, const void *words)
{
    json_t *object = need(json_object());

    set_words(object, fields, words);
    return object;
}

/* ---- The sections ---- */

static json_t *broker_object(const struct snapshot *s)
{
    json_t *object = need(json_object());

    set(object, "state", json_string(statistics_broker_state(s->state)));
    set(object, "pid", json_integer(s->pid));
    set(object, "started", date(s->started));
    set(object, "uptime_s", s->alive ? seconds(s->now, s->started) : json_null());
    set(object, "idle_s", s->alive ? seconds(s->boot_now, s->last_turn) : json_null());
    set(object, "asleep", json_boolean(s->asleep));
    set(object, "layout", json_integer(s->layout));
    return object;
}

static json_t *wait_object(const uint64_t wait[BOARD_BUCKETS])
{
    static const struct {
        const char *key;
        unsigned permille;
    } bounds[] = {{"p50", 500}, {"p90", 900}, {"p99", 990}, {"p999", 999}, {"max", 1000}};
    json_t *object = need(json_object());
    json_t *buckets = need(json_array());

    set(object, "count", number(snapshot_wait_count(wait)));
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        set(object, bounds[i].key, number(snapshot_wait_bound(wait, bounds[i].permille)));
    for (unsigned i = 0; i < BOARD_BUCKETS; i++) {
        json_t *bucket;

        if (wait[i] == 0)
            continue;
        bucket = need(json_object());
        set(bucket, "below", i < BOARD_BUCKETS - 1 ? number(UINT64_C(1) << i) : json_null());
        set(bucket, "count", number(wait[i]));
        append(buckets, bucket);
    }
    set(object, "buckets", buckets);
    return object;
}

static json_t *totals_object(const struct snapshot *s)
{
    json_t *object = words_object(snapshot_totals_fields, &s->totals);
    uint64_t wait[BOARD_BUCKETS] = {0};

    for (size_t i = 0; i < WIRE_LEVELS; i++)
        for (size_t j = 0; j < BOARD_BUCKETS; j++)
            wait[j] += s->priorities[i].wait[j];
    set(object, "dropped", words_object(snapshot_drops_fields, &s->drops));
    set(object, "refused", words_object(snapshot_refusals_fields, &s->refusals));
    set(object, "rejected", words_object(snapshot_rejects_fields, &s->rejects));
    set(object, "wait_us", wait_object(wait));
    return object;
}

static json_t *priorities_array(const struct snapshot *s)
{
    json_t *array = need(json_array());

    for (unsigned i = 0; i < WIRE_LEVELS; i++) {
        const struct snapshot_priority *priority = &s->priorities[i];
        json_t *object;

        if (!snapshot_priority_used(priority))
            continue;
        object = need(json_object());
        set(object, "priority", json_integer(i));
        set_words(object, snapshot_priority_fields, &priority->words);
        set(object, "dropped", words_object(snapshot_drops_fields, &priority->drops));
        set(object, "wait_us", wait_object(priority->wait));
        append(array, object);
    }
    return array;
}

static json_t *queue_object(const struct snapshot_queue *queue, const char *name)
{
    json_t *object = need(json_object());

    set(object, "name", json_string(name));
    set(object, "depth", json_integer(queue->depth));
    set(object, "width", json_integer(queue->width));
    set(object, "standing", json_integer(queue->standing));
    set(object, "asked", json_boolean(queue->asked));
    return object;
}

static json_t *queues_object(const struct snapshot *s)
{
    json_t *object = need(json_object());
    char name[NAMES_MAX];

    names_request_queue(name, s->instance);
    set(object, "request", queue_object(&s->request, name));
    names_urgent_queue(name, s->instance);
    set(object, "urgent", queue_object(&s->urgent, name));
    return object;
}

static json_t *client_object(const struct snapshot *s, const struct snapshot_client *client)
{
    const struct board_client_info *info = &client->info;
    json_t *object = need(json_object());
    char queue[NAMES_MAX];

    set(object, "session", json_integer(client->session));
    set(object, "name", text_json(info->name, strlen(info->name)));
    set(object, "state", json_string(statistics_row_state(info->state)));
    set(object, "torn", json_boolean(client->torn));
    set(object, "pid", json_integer(info->pid));
    set(object, "uid", json_integer(info->uid));
    set(object, "publish_only", json_boolean(info->publish_only));
    set(object, "since", date(info->since));
    set_words(object, snapshot_client_fields, &client->words);
    set(object, "dropped", words_object(snapshot_drops_fields, &client->drops));
    set(object, "refused", words_object(snapshot_refusals_fields, &client->refusals));
    names_reply_queue(queue, s->instance, info->nonce);
    set(object, "queue", queue_object(&client->queue, queue));
    return object;
}

static json_t *clients_array(const struct snapshot *s)
{
    json_t *array = need(json_array());

    for (size_t i = 0; i < s->n_clients; i++)
        append(array, client_object(s, &s->clients[i]));
    return array;
}

static json_t *topics_array(const struct snapshot *s)
{
    json_t *array = need(json_array());

    for (size_t i = 0; i < s->n_topics; i++) {
        const struct snapshot_topic *topic = &s->topics[i];
        json_t *object = need(json_object());

        set(object, "topic",
            topic->name[0] != '\0' ? text_json(topic->name, strlen(topic->name)) : json_null());
        set_words(object, snapshot_topic_fields, &topic->words);
        set(object, "dropped", words_object(snapshot_drops_fields, &topic->drops));
        append(array, object);
    }
    return array;
}

static json_t *groups_array(const struct snapshot *s)
{
    json_t *array = need(json_array());

    for (size_t i = 0; i < s->n_groups; i++) {
        const struct snapshot_group *group = &s->groups[i];
        json_t *object = need(json_object());

        set(object, "name", text_json(group->info.name, strlen(group->info.name)));
        set(object, "state", json_string(statistics_group_state(group->info.state)));
        set(object, "torn", json_boolean(group->torn));
        set(object, "durable", json_boolean(group->info.durable));
        set_words(object, snapshot_group_fields, &group->words);
        set(object, "dropped", words_object(snapshot_drops_fields, &group->drops));
        append(array, object);
    }
    return array;
}

static json_t *journal_object(const struct snapshot *s)
{
    return s->has_journal ? words_object(snapshot_journal_fields, &s->journal) : json_null();
}

json_t *statistics_json(const struct snapshot *s, unsigned sections)
{
    json_t *object = need(json_object());

    set(object, "schema", json_integer(STATISTICS_SCHEMA));
    set(object, "instance", json_string(s->instance));
    set(object, "time", date(s->now));
    set(object, "alive", json_boolean(s->alive));
    if ((sections & STATISTICS_BROKER) != 0)
        set(object, "broker", broker_object(s));
    if ((sections & STATISTICS_TOTALS) != 0)
        set(object, "totals", totals_object(s));
    if ((sections & STATISTICS_PRIORITIES) != 0)
        set(object, "priorities", priorities_array(s));
    if ((sections & STATISTICS_QUEUES) != 0)
        set(object, "queues", queues_object(s));
    if ((sections & STATISTICS_CLIENTS) != 0)
        set(object, "clients", clients_array(s));
    if ((sections & STATISTICS_TOPICS) != 0)
        set(object, "topics", topics_array(s));
    if ((sections & STATISTICS_GROUPS) != 0)
        set(object, "groups", groups_array(s));
    if ((sections & STATISTICS_JOURNAL) != 0)
        set(object, "journal", journal_object(s));
    if ((sections & STATISTICS_LIMITS) != 0)
        set(object, "limits", words_object(snapshot_limits_fields, &s->limits));
    return object;
}

void statistics_print(const struct snapshot *s, unsigned sections, bool compact, FILE *out)
{
    json_t *json = statistics_json(s, sections);

    json_dumpf(json, out,
               JSON_REAL_PRECISION(9) | (compact ? (size_t)JSON_COMPACT : JSON_INDENT(2)));
    fputc('\n', out);
    json_decref(json);
}
