/* Tables: see table.h. Numbers stand in columns, right-aligned, with thousands set apart; names
 * stand last in their line, since they may be long, and are written so that they cannot act on the
 * terminal. Totals that are zero are left out. */
#include "tools/table.h"

#include <inttypes.h>
#include <string.h>

#include "libclient/names.h"
#include "tools/statistics.h"
#include "tools/text.h"

enum { CELL_SIZE = 32 };

/* ---- Cells ---- */

/* 1234567 → "1,234,567" */
static const char *grouped(char out[CELL_SIZE], uint64_t value)
{
    char digits[CELL_SIZE];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, value);
    char *to = out;

    for (int i = 0; i < n; i++) {
        if (i > 0 && (n - i) % 3 == 0)
            *to++ = ',';
        *to++ = digits[i];
    }
    *to = '\0';
    return out;
}

void table_put_number(FILE *out, int width, uint64_t value)
{
    char cell[CELL_SIZE];

    fprintf(out, "%*s", width, value == UINT64_MAX ? "unlimited" : grouped(cell, value));
}

/* An upper bound of a time: "<512us", "<2.0ms"; "-" if nothing was timed. */
static void put_bound(FILE *out, int width, uint64_t microseconds)
{
    char cell[CELL_SIZE];

    if (microseconds == 0)
        snprintf(cell, sizeof cell, "-");
    else if (microseconds == SNAPSHOT_UNBOUNDED)
        snprintf(cell, sizeof cell, "days");
    else if (microseconds < 1000)
        snprintf(cell, sizeof cell, "<%" PRIu64 "us", microseconds);
    else if (microseconds < 1000000)
        snprintf(cell, sizeof cell, "<%.1fms", (double)microseconds / 1e3);
    else
        snprintf(cell, sizeof cell, "<%.1fs", (double)microseconds / 1e6);
    fprintf(out, "%*s", width, cell);
}

static double seconds_between(const struct snapshot *now, const struct snapshot *before)
{
    return (double)(now->monotonic - before->monotonic) / 1e9;
}

/* What a counter grew by a second; nothing if there is no earlier one. */
static void put_rate(FILE *out, int width, const struct snapshot *now,
                     const struct snapshot *before, uint64_t value, uint64_t earlier)
{
    char cell[CELL_SIZE];
    double elapsed = before != NULL ? seconds_between(now, before) : 0;

    if (elapsed > 0 && value >= earlier)
        fprintf(out, "%*s/s", width - 2,
                grouped(cell, (uint64_t)((double)(value - earlier) / elapsed + 0.5)));
}

static void put_duration(FILE *out, uint64_t nanoseconds)
{
    uint64_t s = nanoseconds / 1000000000;

    if (s >= 86400)
        fprintf(out, "%" PRIu64 " d ", s / 86400);
    if (s >= 3600)
        fprintf(out, "%" PRIu64 " h ", s / 3600 % 24);
    if (s >= 60)
        fprintf(out, "%" PRIu64 " min ", s / 60 % 60);
    fprintf(out, "%" PRIu64 " s", s % 60);
}

static uint64_t sum(const struct snapshot_field *fields, const void *words)
{
    uint64_t total = 0;

    for (; fields->key != NULL; fields++)
        total += snapshot_word(words, fields);
    return total;
}

/* ---- The sections ---- */

static void put_broker(const struct snapshot *now, FILE *out)
{
    fprintf(out, "mqbroker %s: ", now->instance);
    if (now->alive) {
        fprintf(out, "%s, pid %u, up ", statistics_broker_state(now->state), now->pid);
        put_duration(out, now->now > now->started ? now->now - now->started : 0);
    } else {
        fprintf(out, "not alive; pid %u ended while %s", now->pid,
                statistics_broker_state(now->state));
    }
    fprintf(out, ", %" PRIu64 " of %" PRIu64 " clients\n", now->limits.clients,
            now->limits.clients_max);
}

/* Lines of a table of words that are not zero. `lead` stands before each key. */
static void put_words(const struct snapshot *now, const struct snapshot *before, const char *lead,
                      const struct snapshot_field *fields, const void *words,
                      const void *earlier_words, FILE *out)
{
    for (; fields->key != NULL; fields++) {
        uint64_t value = snapshot_word(words, fields);
        char key[64];

        if (value == 0)
            continue;
        snprintf(key, sizeof key, "%s%s", lead, fields->key);
        fprintf(out, "  %-22s", key);
        table_put_number(out, 15, value);
        if (fields->kind == SNAPSHOT_COUNTER)
            put_rate(out, 14, now, before, value,
                     before != NULL ? snapshot_word(earlier_words, fields) : 0);
        else
            fprintf(out, "%*s", before != NULL ? 14 : 0, "");
        fprintf(out, "  %s\n", fields->sentence);
    }
}

static void put_totals(const struct snapshot *now, const struct snapshot *before, FILE *out)
{
    fputs("\nTotals\n", out);
    put_words(now, before, "", snapshot_totals_fields, &now->totals,
              before != NULL ? &before->totals : NULL, out);
    put_words(now, before, "dropped: ", snapshot_drops_fields, &now->drops,
              before != NULL ? &before->drops : NULL, out);
    put_words(now, before, "refused: ", snapshot_refusals_fields, &now->refusals,
              before != NULL ? &before->refusals : NULL, out);
    put_words(now, before, "rejected: ", snapshot_rejects_fields, &now->rejects,
              before != NULL ? &before->rejects : NULL, out);
}

static void put_priorities(const struct snapshot *now, const struct snapshot *before, FILE *out)
{
    fprintf(out, "\nPriorities%6s%14s%9s%9s%9s%9s%9s%s\n", "in", "out", "waiting", "dropped", "p50",
            "p99", "max", before != NULL ? "         out/s" : "");
    for (int i = WIRE_LEVELS - 1; i >= 0; i--) {
        const struct snapshot_priority *priority = &now->priorities[i];

        if (!snapshot_priority_used(priority))
            continue;
        fprintf(out, "  %2d", i);
        table_put_number(out, 12, priority->words.in);
        table_put_number(out, 14, priority->words.out);
        table_put_number(out, 9, priority->words.waiting);
        table_put_number(out, 9, sum(snapshot_drops_fields, &priority->drops));
        put_bound(out, 9, snapshot_wait_bound(priority->wait, 500));
        put_bound(out, 9, snapshot_wait_bound(priority->wait, 990));
        put_bound(out, 9, snapshot_wait_bound(priority->wait, 1000));
        put_rate(out, 14, now, before, priority->words.out,
                 before != NULL ? before->priorities[i].words.out : 0);
        fputc('\n', out);
    }
}

static void put_queue(const struct snapshot_queue *queue, const char *name, FILE *out)
{
    fprintf(out, "  %8u of %-4u%8u  %s%s\n", queue->standing, queue->depth, queue->width, name,
            queue->asked ? "" : " (as the broker saw it last)");
}

static void put_queues(const struct snapshot *now, FILE *out)
{
    char name[NAMES_MAX];

    fputs("\nQueues standing     width  name\n", out);
    names_request_queue(name, now->instance);
    put_queue(&now->request, name, out);
    names_urgent_queue(name, now->instance);
    put_queue(&now->urgent, name, out);
}

/* The same client in an earlier snapshot, or NULL. */
static const struct snapshot_client *earlier_client(const struct snapshot *before,
                                                    const struct snapshot_client *client)
{
    for (size_t i = 0; before != NULL && i < before->n_clients; i++)
        if (before->clients[i].session == client->session &&
            before->clients[i].info.nonce == client->info.nonce)
            return &before->clients[i];
    return NULL;
}

static void put_client(const struct snapshot *now, const struct snapshot *before,
                       const struct snapshot_client *client, FILE *out)
{
    const struct snapshot_client *earlier = earlier_client(before, client);

    fprintf(out, "  %5u%8u", client->session, client->info.pid);
    table_put_number(out, 12, client->words.in);
    table_put_number(out, 12, client->words.out);
    table_put_number(out, 9, client->words.waiting);
    table_put_number(out, 8, client->words.missed);
    table_put_number(out, 8, sum(snapshot_refusals_fields, &client->refusals));
    fprintf(out, "%4u/%-3u", client->queue.standing, client->queue.depth);
    table_put_number(out, 4, client->words.subscriptions);
    if (before != NULL) {
        fprintf(out, "%*s", earlier == NULL ? 28 : 0, "");
        put_rate(out, 14, now, earlier != NULL ? before : NULL, client->words.in,
                 earlier != NULL ? earlier->words.in : 0);
        put_rate(out, 14, now, earlier != NULL ? before : NULL, client->words.out,
                 earlier != NULL ? earlier->words.out : 0);
    }
    fputs("  ", out);
    text_put_visible(out, client->info.name, strlen(client->info.name), false);
    if (client->info.state != BOARD_ROW_LIVE)
        fprintf(out, " (%s)", statistics_row_state(client->info.state));
    if (client->words.stalled != 0)
        fputs(" (stalled)", out);
    fputc('\n', out);
}

static void put_clients(const struct snapshot *now, const struct snapshot *before, FILE *out)
{
    fprintf(out, "\nClients%8s%12s%12s%9s%8s%8s%8s%4s%s  name\n", "pid", "in", "out", "waiting",
            "missed", "refused", "queue ", "subs",
            before != NULL ? "          in/s         out/s" : "");
    for (size_t i = 0; i < now->n_clients; i++)
        put_client(now, before, &now->clients[i], out);
}

static void put_topic(const struct snapshot *now, const struct snapshot *before, size_t i,
                      FILE *out)
{
    const struct snapshot_topic *topic = &now->topics[i];
    const struct snapshot_topic *earlier = NULL;

    if (before != NULL && i < before->n_topics && strcmp(before->topics[i].name, topic->name) == 0)
        earlier = &before->topics[i];
    table_put_number(out, 16, topic->words.in);
    table_put_number(out, 14, topic->words.out);
    table_put_number(out, 9, topic->words.waiting);
    table_put_number(out, 9, sum(snapshot_drops_fields, &topic->drops));
    table_put_number(out, 11, topic->words.unmatched);
    if (before != NULL) {
        fprintf(out, "%*s", earlier == NULL ? 14 : 0, "");
        put_rate(out, 14, now, earlier != NULL ? before : NULL, topic->words.in,
                 earlier != NULL ? earlier->words.in : 0);
    }
    fputs("  ", out);
    if (topic->name[0] != '\0')
        text_put_visible(out, topic->name, strlen(topic->name), false);
    else
        fputs("(all others)", out);
    fputc('\n', out);
}

static void put_topics(const struct snapshot *now, const struct snapshot *before, FILE *out)
{
    fprintf(out, "\nTopics%10s%14s%9s%9s%11s%s  topic\n", "in", "out", "waiting", "dropped",
            "unmatched", before != NULL ? "          in/s" : "");
    for (size_t i = 0; i < now->n_topics; i++)
        put_topic(now, before, i, out);
}

/* The same group in an earlier snapshot, or NULL. One that was removed and made anew may have
 * smaller counters: no rate is shown then. */
static const struct snapshot_group *earlier_group(const struct snapshot *before,
                                                  const struct snapshot_group *group)
{
    for (size_t i = 0; before != NULL && i < before->n_groups; i++)
        if (strcmp(before->groups[i].info.name, group->info.name) == 0)
            return &before->groups[i];
    return NULL;
}

static void put_group(const struct snapshot *now, const struct snapshot *before,
                      const struct snapshot_group *group, FILE *out)
{
    const struct snapshot_group *earlier = earlier_group(before, group);

    table_put_number(out, 14, group->words.members);
    table_put_number(out, 10, group->words.waiting);
    table_put_number(out, 8, group->words.later);
    table_put_number(out, 9, group->words.unacknowledged);
    table_put_number(out, 8, group->words.dead);
    table_put_number(out, 12, group->words.in);
    table_put_number(out, 12, group->words.out);
    table_put_number(out, 10, group->words.returned);
    table_put_number(out, 9, group->words.refused);
    table_put_number(out, 9, sum(snapshot_drops_fields, &group->drops));
    if (before != NULL) {
        fprintf(out, "%*s", earlier == NULL ? 28 : 0, "");
        put_rate(out, 14, now, earlier != NULL ? before : NULL, group->words.in,
                 earlier != NULL ? earlier->words.in : 0);
        put_rate(out, 14, now, earlier != NULL ? before : NULL, group->words.out,
                 earlier != NULL ? earlier->words.out : 0);
    }
    fputs("  ", out);
    text_put_visible(out, group->info.name, strlen(group->info.name), false);
    if (group->info.durable)
        fputs(" (durable)", out);
    if (group->info.state != BOARD_GROUP_LIVE)
        fprintf(out, " (%s)", statistics_group_state(group->info.state));
    fputc('\n', out);
}

static void put_groups(const struct snapshot *now, const struct snapshot *before, FILE *out)
{
    fprintf(out, "\nGroups %7s%10s%8s%9s%8s%12s%12s%10s%9s%9s%s  name\n", "members", "waiting",
            "later", "unacked", "dead", "in", "out", "returned", "refused", "dropped",
            before != NULL ? "          in/s         out/s" : "");
    for (size_t i = 0; i < now->n_groups; i++)
        put_group(now, before, &now->groups[i], out);
}

static void put_journal(const struct snapshot *now, const struct snapshot *before, FILE *out)
{
    fputs(now->has_journal ? "\nJournal\n" : "\nJournal: none\n", out);
    if (now->has_journal)
        put_words(now, before, "", snapshot_journal_fields, &now->journal,
                  before != NULL ? &before->journal : NULL, out);
}

static void put_limit(FILE *out, const char *what, uint64_t used, uint64_t most, const char *unit)
{
    fprintf(out, "  %-22s", what);
    table_put_number(out, 15, used);
    fputs(" of ", out);
    table_put_number(out, 14, most);
    fprintf(out, "  %s\n", unit);
}

static void put_limits(const struct snapshot *now, FILE *out)
{
    const struct snapshot_limits *limits = &now->limits;

    fputs("\nLimits\n", out);
    put_limit(out, "clients", limits->clients, limits->clients_max, "sessions");
    put_limit(out, "kernel queue memory", limits->queue_bytes_used, limits->queue_bytes_limit,
              "bytes (RLIMIT_MSGQUEUE)");
    put_limit(out, "message memory", limits->cells_used, limits->cells_max, "cells of 256 bytes");
    put_limit(out, "references", limits->references_used, limits->references_max,
              "deliveries and subscriptions");
    put_limit(out, "retained messages", limits->retained_bytes, limits->retained_max, "bytes");
    put_limit(out, "groups", limits->groups, limits->groups_max, "consumer groups");
    put_limit(out, "topics watched", limits->topics, limits->topics_max, "rows");
    fprintf(out, "  %-22s", "subscriptions");
    table_put_number(out, 15, limits->subscriptions);
    fprintf(out, "\n  %-22s", "payload pools");
    table_put_number(out, 15, limits->pools);
    fprintf(out, "                     of which %" PRIu64 " of ended sessions\n", limits->orphans);
}

void table_print(const struct snapshot *now, const struct snapshot *before, unsigned sections,
                 FILE *out)
{
    /* Counters of a board that was made anew have nothing to do with the earlier ones. */
    if (before != NULL && before->started != now->started)
        before = NULL;
    put_broker(now, out);
    if ((sections & STATISTICS_TOTALS) != 0)
        put_totals(now, before, out);
    if ((sections & STATISTICS_PRIORITIES) != 0)
        put_priorities(now, before, out);
    if ((sections & STATISTICS_QUEUES) != 0)
        put_queues(now, out);
    if ((sections & STATISTICS_CLIENTS) != 0)
        put_clients(now, before, out);
    if ((sections & STATISTICS_TOPICS) != 0)
        put_topics(now, before, out);
    if ((sections & STATISTICS_GROUPS) != 0)
        put_groups(now, before, out);
    if ((sections & STATISTICS_JOURNAL) != 0)
        put_journal(now, before, out);
    if ((sections & STATISTICS_LIMITS) != 0)
        put_limits(now, out);
}
