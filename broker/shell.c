/* What the parts of the shell share: the making of queues and tokens, and a word to those who wait.
 */
#include "broker/shell.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

void shell_count_queue(struct broker *b, const struct queue *q, int sign)
{
    uint64_t bytes = queue_bytes(q->depth, q->width);

    b->queue_bytes += sign > 0 ? bytes : -bytes;
    board_set(&memory_board(&b->memory)->queue_bytes_used, b->queue_bytes);
}

void shell_remove_queue(const char *name)
{
    struct queue q = QUEUE_CLOSED;

    if (queue_open(&q, name, O_RDONLY | O_NONBLOCK) == 0 && q.owner == geteuid())
        mq_unlink(name);
    queue_close(&q);
}

int shell_make_queue(struct broker *b, struct queue *q, const char *name, uint32_t depth,
                     uint32_t width)
{
    int r = queue_create(q, name, depth, width, 0600);

    if (r == -EEXIST) {
        shell_remove_queue(name);
        r = queue_create(q, name, depth, width, 0600);
        if (r == -EEXIST)
            return -EACCES;
    }
    if (r == 0)
        shell_count_queue(b, q, 1);
    return r;
}

void shell_show_queue(struct board_queue *board, const struct queue *q)
{
    atomic_store_explicit(&board->depth, q->depth, memory_order_relaxed);
    atomic_store_explicit(&board->width, q->width, memory_order_relaxed);
}

void shell_prepare_token(struct broker *b)
{
    struct engine *e = &b->engine;

    /* It fails for signals alone, and waits only until the machine has gathered randomness once. */
    while (e->token_used)
        e->token_used =
            getrandom(e->fresh_token, sizeof(e->fresh_token), 0) != (ssize_t)sizeof(e->fresh_token);
}

void shell_wake_registering(struct broker *b, uint32_t postings)
{
    _Atomic uint32_t *word = &memory_board(&b->memory)->postings;

    if (atomic_load_explicit(word, memory_order_relaxed) != postings)
        syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
