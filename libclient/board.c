/* The board's layout and its words behind sequence words.
 *
 * Everything on the board is an atomic word, also what is read and written together: a reader that
 * is overtaken sees a mixture, finds the sequence word changed and tries again, and no tool that
 * looks for data races has anything to say. Bytes of names are copied one by one for the same
 * reason; a name changes once in the life of a session. */
#include "libclient/board.h"

#include <string.h>

enum { READ_TRIES = 1000 };

static size_t rows_offset(void)
{
    return sizeof(struct board_header);
}

static size_t topics_offset(uint32_t n_rows)
{
    return rows_offset() + n_rows * sizeof(struct board_row);
}

static size_t groups_offset(uint32_t n_rows, uint32_t n_topics)
{
    return topics_offset(n_rows) + n_topics * sizeof(struct board_topic);
}

size_t board_size(uint32_t n_rows, uint32_t n_topics, uint32_t n_groups)
{
    return groups_offset(n_rows, n_topics) + n_groups * sizeof(struct board_group);
}

void board_format(void *base, size_t size, uint32_t n_rows, uint32_t n_topics, uint32_t n_groups)
{
    struct board_header *board = base;

    board->layout = BOARD_LAYOUT;
    board->size = size;
    board->header_size = sizeof(struct board_header);
    board->row_size = sizeof(struct board_row);
    board->topic_size = sizeof(struct board_topic);
    board->group_size = sizeof(struct board_group);
    board->n_rows = n_rows;
    board->n_topics = n_topics;
    board->n_groups = n_groups;
    board->rows_offset = rows_offset();
    board->topics_offset = topics_offset(n_rows);
    board->groups_offset = groups_offset(n_rows, n_topics);
    atomic_store_explicit(&board->state, BOARD_STARTING, memory_order_relaxed);
    /* Last, behind a fence: who finds the magic finds the rest. */
    atomic_thread_fence(memory_order_release);
    board->magic = BOARD_MAGIC;
}

/* Do `n` elements of `element` bytes lie at `offset`, aligned, within `size` bytes? By division:
 * nothing here can wrap. */
static bool lies_within(size_t size, uint64_t offset, uint32_t n, size_t element, size_t alignment)
{
    return offset >= sizeof(struct board_header) && offset <= size && offset % alignment == 0 &&
           n <= (size - offset) / element;
}

int board_check(const void *base, size_t size)
{
    const struct board_header *board = base;

    if (size < sizeof(*board))
        return BOARD_E_SIZE;
    if (board->magic != BOARD_MAGIC)
        return BOARD_E_MAGIC;
    atomic_thread_fence(memory_order_acquire);
    if (board->layout != BOARD_LAYOUT || board->header_size != sizeof(struct board_header) ||
        board->row_size != sizeof(struct board_row) ||
        board->topic_size != sizeof(struct board_topic) ||
        board->group_size != sizeof(struct board_group))
        return BOARD_E_LAYOUT;
    if (board->size > size ||
        !lies_within(size, board->rows_offset, board->n_rows, sizeof(struct board_row),
                     _Alignof(struct board_row)) ||
        !lies_within(size, board->topics_offset, board->n_topics, sizeof(struct board_topic),
                     _Alignof(struct board_topic)) ||
        !lies_within(size, board->groups_offset, board->n_groups, sizeof(struct board_group),
                     _Alignof(struct board_group)))
        return BOARD_E_SIZE;
    return BOARD_OK;
}

static void read_name(const _Atomic uint8_t *from, char *to, size_t size)
{
    for (size_t i = 0; i < size - 1; i++)
        to[i] = (char)atomic_load_explicit(&from[i], memory_order_relaxed);
    to[size - 1] = '\0';
}

/* `size` bytes of `to` are written: the name, and NULs. What does not fit is cut. */
static void write_name(_Atomic uint8_t *to, size_t size, const char *name, size_t name_size)
{
    for (size_t i = 0; i < size; i++) {
        bool in_name = i < name_size && i < size - 1;

        atomic_store_explicit(&to[i], in_name ? (uint8_t)name[i] : 0, memory_order_relaxed);
    }
}

static uint32_t get32(const _Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}

static void set32(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store_explicit(word, value, memory_order_relaxed);
}

bool board_read_identity(const struct board_row *row, struct board_client_info *out)
{
    const struct board_identity *identity = &row->identity;

    for (int i = 0; i < READ_TRIES; i++) {
        uint32_t begun = board_read_begin(&identity->sequence);

        out->state = get32(&identity->state);
        out->nonce = board_get(&identity->nonce);
        out->since = board_get(&identity->since);
        out->pid = get32(&identity->pid);
        out->uid = get32(&identity->uid);
        out->publish_only = get32(&identity->publish_only) != 0;
        read_name(identity->name, out->name, sizeof(out->name));
        if (!board_read_retry(&identity->sequence, begun))
            return true;
    }
    return false;
}

void board_write_identity(struct board_row *row, const struct board_client_info *info)
{
    struct board_identity *identity = &row->identity;

    board_write_begin(&identity->sequence);
    set32(&identity->state, info->state);
    board_set(&identity->nonce, info->nonce);
    board_set(&identity->since, info->since);
    set32(&identity->pid, info->pid);
    set32(&identity->uid, info->uid);
    set32(&identity->publish_only, info->publish_only);
    write_name(identity->name, sizeof(info->name), info->name,
               strnlen(info->name, sizeof(info->name)));
    board_write_end(&identity->sequence);
}

bool board_read_topic_name(const struct board_topic *topic, char out[BOARD_TOPIC_SIZE])
{
    for (int i = 0; i < READ_TRIES; i++) {
        uint32_t begun = board_read_begin(&topic->sequence);

        read_name(topic->name, out, BOARD_TOPIC_SIZE);
        if (!board_read_retry(&topic->sequence, begun))
            return true;
    }
    return false;
}

void board_write_topic_name(struct board_topic *topic, const char *name, size_t size)
{
    board_write_begin(&topic->sequence);
    set32(&topic->size, (uint32_t)size);
    write_name(topic->name, BOARD_TOPIC_SIZE, name, size);
    board_write_end(&topic->sequence);
}

bool board_read_group(const struct board_group *group, struct board_group_info *out)
{
    for (int i = 0; i < READ_TRIES; i++) {
        uint32_t begun = board_read_begin(&group->sequence);

        out->state = get32(&group->state);
        out->durable = get32(&group->durable) != 0;
        out->delivery_limit = get32(&group->delivery_limit);
        out->ack_timeout = board_get(&group->ack_timeout);
        out->size_max = board_get(&group->size_max);
        read_name(group->name, out->name, sizeof(out->name));
        if (!board_read_retry(&group->sequence, begun))
            return true;
    }
    return false;
}

void board_write_group(struct board_group *group, const struct board_group_info *info)
{
    board_write_begin(&group->sequence);
    set32(&group->state, info->state);
    set32(&group->durable, info->durable);
    set32(&group->delivery_limit, info->delivery_limit);
    board_set(&group->ack_timeout, info->ack_timeout);
    board_set(&group->size_max, info->size_max);
    write_name(group->name, sizeof(info->name), info->name,
               strnlen(info->name, sizeof(info->name)));
    board_write_end(&group->sequence);
}
