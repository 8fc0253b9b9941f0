/* Snapshots: see snapshot.h. Pure: the board is a range of memory, and need not be shared. */
#include "tools/snapshot.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- Tables ---- */

#define FIELD(type, key, kind, unit, sentence) {#key, kind, unit, sentence, offsetof(type, key)},
#define COUNTER                                SNAPSHOT_COUNTER
#define GAUGE                                  SNAPSHOT_GAUGE

#define TOTALS_FIELD(key, unit, sentence)                                                          \
    FIELD(struct snapshot_totals, key, COUNTER, unit, sentence)
const struct snapshot_field snapshot_totals_fields[] = {BOARD_TOTALS(TOTALS_FIELD){0}};

#define DROPS_FIELD(key, unit, sentence) FIELD(struct snapshot_drops, key, COUNTER, unit, sentence)
const struct snapshot_field snapshot_drops_fields[] = {BOARD_DROPS(DROPS_FIELD){0}};

#define REFUSALS_FIELD(key, unit, sentence)                                                        \
    FIELD(struct snapshot_refusals, key, COUNTER, unit, sentence)
const struct snapshot_field snapshot_refusals_fields[] = {BOARD_REFUSALS(REFUSALS_FIELD){0}};

#define REJECTS_FIELD(key, unit, sentence)                                                         \
    FIELD(struct snapshot_rejects, key, COUNTER, unit, sentence)
const struct snapshot_field snapshot_rejects_fields[] = {BOARD_REJECTS(REJECTS_FIELD){0}};

/* Offsets are within the `words` of each: a struct without a name of its own. */
#define WORDS_FIELD(type, key, kind, unit, sentence)                                               \
    {#key, kind, unit, sentence, offsetof(type, words.key) - offsetof(type, words)},

#define PRIORITY_FIELD(key, kind, unit, sentence)                                                  \
    WORDS_FIELD(struct snapshot_priority, key, kind, unit, sentence)
const struct snapshot_field snapshot_priority_fields[] = {SNAPSHOT_PRIORITY(PRIORITY_FIELD){0}};

#define CLIENT_FIELD(key, kind, unit, sentence)                                                    \
    WORDS_FIELD(struct snapshot_client, key, kind, unit, sentence)
const struct snapshot_field snapshot_client_fields[] = {SNAPSHOT_CLIENT(CLIENT_FIELD){0}};

#define TOPIC_FIELD(key, kind, unit, sentence)                                                     \
    WORDS_FIELD(struct snapshot_topic, key, kind, unit, sentence)
const struct snapshot_field snapshot_topic_fields[] = {SNAPSHOT_TOPIC(TOPIC_FIELD){0}};

#define GROUP_FIELD(key, kind, unit, sentence)                                                     \
    WORDS_FIELD(struct snapshot_group, key, kind, unit, sentence)
const struct snapshot_field snapshot_group_fields[] = {SNAPSHOT_GROUP(GROUP_FIELD)
                                                           SNAPSHOT_GROUP_SETTINGS(GROUP_FIELD){0}};

#define JOURNAL_FIELD(key, kind, unit, sentence)                                                   \
    FIELD(struct snapshot_journal, key, kind, unit, sentence)
#define JOURNAL_COUNTER(key, unit, sentence) JOURNAL_FIELD(key, COUNTER, unit, sentence)
const struct snapshot_field snapshot_journal_fields[] = {SNAPSHOT_JOURNAL(JOURNAL_FIELD)
                                                             BOARD_JOURNAL(JOURNAL_COUNTER){0}};

#define LIMITS_FIELD(key, kind, unit, sentence)                                                    \
    FIELD(struct snapshot_limits, key, kind, unit, sentence)
const struct snapshot_field snapshot_limits_fields[] = {SNAPSHOT_LIMITS(LIMITS_FIELD){0}};

/* ---- Copies ---- */

#define LOAD(word) atomic_load_explicit(&(word), memory_order_relaxed)

#define COPY_BOARD_WORD(key, unit, sentence) to->key = LOAD(from->key);
#define COPY_WORD(key, kind, unit, sentence) to->words.key = LOAD(from->key);

static void copy_totals(struct snapshot_totals *to, const struct board_totals *from)
{
    BOARD_TOTALS(COPY_BOARD_WORD)
}

static void copy_drops(struct snapshot_drops *to, const struct board_drops *from)
{
    BOARD_DROPS(COPY_BOARD_WORD)
}

static void copy_refusals(struct snapshot_refusals *to, const struct board_refusals *from)
{
    BOARD_REFUSALS(COPY_BOARD_WORD)
}

static void copy_rejects(struct snapshot_rejects *to, const struct board_rejects *from)
{
    BOARD_REJECTS(COPY_BOARD_WORD)
}

static void copy_queue(struct snapshot_queue *to, const struct board_queue *from)
{
    *to = (struct snapshot_queue){
        .depth = LOAD(from->depth),
        .width = LOAD(from->width),
        .standing = LOAD(from->standing),
    };
}

static void copy_priority(struct snapshot_priority *to, const struct board_priority *from)
{
    SNAPSHOT_PRIORITY(COPY_WORD)
    copy_drops(&to->drops, &from->drops);
    for (size_t i = 0; i < BOARD_BUCKETS; i++)
        to->wait[i] = LOAD(from->wait[i]);
}

/* False: nobody is in this row. */
static bool copy_client(struct snapshot_client *to, const struct board_row *from, uint32_t session)
{
    *to = (struct snapshot_client){.session = session};
    to->torn = !board_read_identity(from, &to->info);
    to->info.name[BOARD_NAME_SIZE - 1] = '\0';
    if (to->info.state == BOARD_ROW_FREE)
        return false;
    SNAPSHOT_CLIENT(COPY_WORD)
    copy_drops(&to->drops, &from->drops);
    copy_refusals(&to->refusals, &from->refusals);
    copy_queue(&to->queue, &from->queue);
    return true;
}

static void copy_topic(struct snapshot_topic *to, const struct board_topic *from)
{
    *to = (struct snapshot_topic){0};
    board_read_topic_name(from, to->name);
    to->name[BOARD_TOPIC_SIZE - 1] = '\0';
    SNAPSHOT_TOPIC(COPY_WORD)
    copy_drops(&to->drops, &from->drops);
}

/* False: there is none in this row. */
static bool copy_group(struct snapshot_group *to, const struct board_group *from)
{
    const struct board_group_info *info = &to->info;

    *to = (struct snapshot_group){0};
    to->torn = !board_read_group(from, &to->info);
    if (info->state == BOARD_GROUP_FREE)
        return false;
    SNAPSHOT_GROUP(COPY_WORD)
    to->words.delivery_limit = info->delivery_limit != 0 ? info->delivery_limit : UINT64_MAX;
    to->words.ack_timeout_ms = info->ack_timeout;
    to->words.size_max = info->size_max;
    copy_drops(&to->drops, &from->drops);
    return true;
}

#define COPY_JOURNAL_WORD(key, kind, unit, sentence) to->key = LOAD(from->key);
#define COPY_JOURNAL_COUNTER(key, unit, sentence)    to->key = LOAD(from->counters.key);

static void copy_journal(struct snapshot_journal *to, const struct board_journal *from)
{
    SNAPSHOT_JOURNAL(COPY_JOURNAL_WORD)
    BOARD_JOURNAL(COPY_JOURNAL_COUNTER)
}

static void copy_limits(struct snapshot_limits *to, const struct board_header *from)
{
    *to = (struct snapshot_limits){
        .clients_max = from->n_rows,
        .subscriptions = LOAD(from->subscriptions),
        .topics = LOAD(from->topics_used),
        .topics_max = from->n_topics,
        .queue_bytes_used = LOAD(from->queue_bytes_used),
        .queue_bytes_limit = LOAD(from->queue_bytes_limit),
        .queues_max = LOAD(from->queues_max),
        .references_used = LOAD(from->references_used),
        .references_max = LOAD(from->references_max),
        .cells_used = LOAD(from->cells_used),
        .cells_max = LOAD(from->cells_max),
        .store_allocated = LOAD(from->store_allocated),
        .retained = LOAD(from->retained),
        .retained_bytes = LOAD(from->retained_bytes),
        .retained_max = LOAD(from->retained_max),
        .frame_max = from->frame_max,
        .window = from->window,
        .pools = LOAD(from->pools),
        .orphans = LOAD(from->orphans),
        .groups_max = from->n_groups,
    };
}

static void copy_header(struct snapshot *to, const struct board_header *from)
{
    to->layout = from->layout;
    to->state = LOAD(from->state);
    to->pid = LOAD(from->pid);
    to->pid_start = LOAD(from->pid_start);
    to->started = LOAD(from->started);
    to->last_turn = LOAD(from->last_turn);
    to->asleep = LOAD(from->asleep) != 0;
    copy_limits(&to->limits, from);
    copy_queue(&to->request, &from->request);
    copy_queue(&to->urgent, &from->urgent);
    copy_totals(&to->totals, &from->totals);
    copy_drops(&to->drops, &from->drops);
    copy_refusals(&to->refusals, &from->refusals);
    copy_rejects(&to->rejects, &from->rejects);
    to->has_journal = LOAD(from->journal.enabled) != 0;
    copy_journal(&to->journal, &from->journal);
    for (size_t i = 0; i < WIRE_LEVELS; i++)
        copy_priority(&to->priorities[i], &from->priorities[i]);
}

int snapshot_take(struct snapshot *snapshot, const struct board_header *board)
{
    /* Checked words of the header; the used ones may be anything that a dying broker left. */
    uint32_t n_topics = LOAD(board->topics_used);

    if (n_topics > board->n_topics)
        n_topics = board->n_topics;
    snapshot->clients = calloc(board->n_rows + 1u, sizeof *snapshot->clients);
    snapshot->topics = calloc(n_topics + 1u, sizeof *snapshot->topics);
    snapshot->groups = calloc(board->n_groups + 1u, sizeof *snapshot->groups);
    if (snapshot->clients == NULL || snapshot->topics == NULL || snapshot->groups == NULL) {
        snapshot_deinit(snapshot);
        return -ENOMEM;
    }
    copy_header(snapshot, board);
    for (uint32_t i = 0; i < board->n_rows; i++)
        snapshot->n_clients +=
            copy_client(&snapshot->clients[snapshot->n_clients], board_row(board, i), i);
    for (uint32_t i = 0; i < board->n_groups; i++)
        snapshot->n_groups +=
            copy_group(&snapshot->groups[snapshot->n_groups], board_group(board, i));
    snapshot->limits.clients = snapshot->n_clients; /* as many as are listed */
    snapshot->limits.groups = snapshot->n_groups;
    for (uint32_t i = 0; i < n_topics; i++)
        copy_topic(&snapshot->topics[snapshot->n_topics++], board_topic(board, i));
    return 0;
}

void snapshot_deinit(struct snapshot *snapshot)
{
    free(snapshot->clients);
    free(snapshot->topics);
    free(snapshot->groups);
    snapshot->clients = NULL;
    snapshot->topics = NULL;
    snapshot->groups = NULL;
    snapshot->n_clients = snapshot->n_topics = snapshot->n_groups = 0;
}

/* ---- Histograms ---- */

uint64_t snapshot_wait_count(const uint64_t wait[BOARD_BUCKETS])
{
    uint64_t count = 0;

    for (size_t i = 0; i < BOARD_BUCKETS; i++)
        count += wait[i];
    return count;
}

uint64_t snapshot_wait_bound(const uint64_t wait[BOARD_BUCKETS], unsigned permille)
{
    uint64_t count = snapshot_wait_count(wait);
    /* The messages that must be below the bound; rounded up, without overflow. */
    uint64_t wanted = count / 1000 * permille + (count % 1000 * permille + 999) / 1000;
    uint64_t below = 0;

    if (count == 0)
        return 0;
    for (unsigned i = 0; i < BOARD_BUCKETS - 1; i++) {
        below += wait[i];
        if (below >= wanted)
            return UINT64_C(1) << i;
    }
    return SNAPSHOT_UNBOUNDED;
}

bool snapshot_priority_used(const struct snapshot_priority *priority)
{
    static const struct snapshot_priority unused;

    return memcmp(priority, &unused, sizeof unused) != 0;
}
