/* Looking: see look.h. Whether the broker lives is seen in /proc. How full the kernel queues are is
 * the kernel's word, where we may open them; nothing is ever received from them. */
#include "tools/look.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "libclient/board.h"
#include "libclient/names.h"
#include "libclient/process.h"
#include "libclient/queue.h"

static char sentence[160];

static const char *open_sentence(int error)
{
    if (error == -ENOENT)
        return "there is no such broker; start it with mqbroker, or name another with --instance";
    snprintf(sentence, sizeof sentence, "its board cannot be read: %s", strerror(-error));
    return sentence;
}

static const char *check_sentence(int outcome, const struct board_header *board)
{
    switch (outcome) {
    case BOARD_E_LAYOUT:
        snprintf(sentence, sizeof sentence,
                 "its board has layout %u, and this %s knows layout %u: use the %s that came with "
                 "that broker",
                 board->layout, program_invocation_short_name, (unsigned)BOARD_LAYOUT,
                 program_invocation_short_name);
        return sentence;
    case BOARD_E_MAGIC:
        return "what has the name of its board is something else";
    default:
        return "its board is cut off";
    }
}

const char *look_open(struct segment *board, const char *instance)
{
    char name[NAMES_MAX];
    const char *failure;
    int r;

    names_board(name, instance);
    r = segment_open(board, name, 0);
    if (r < 0)
        return open_sentence(r);
    r = board_check(board->base, board->size);
    if (r == BOARD_OK)
        return NULL;
    failure = check_sentence(r, board->base);
    segment_close(board);
    return failure;
}

static uint64_t clock_now(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* A queue of another make than the board says is not the one that the board speaks of. */
static void ask_kernel(struct snapshot_queue *queue, const char *name)
{
    struct queue q;
    int standing;

    if (queue->depth == 0 || queue_open(&q, name, O_RDONLY | O_NONBLOCK) < 0)
        return;
    standing = queue_standing(&q);
    if (standing >= 0 && q.depth == queue->depth && q.width == queue->width) {
        queue->standing = (uint32_t)standing;
        queue->asked = true;
    }
    queue_close(&q);
}

static void ask_kernel_for_all(struct snapshot *s)
{
    char name[NAMES_MAX];

    names_request_queue(name, s->instance);
    ask_kernel(&s->request, name);
    names_urgent_queue(name, s->instance);
    ask_kernel(&s->urgent, name);
    for (size_t i = 0; i < s->n_clients; i++) {
        names_reply_queue(name, s->instance, s->clients[i].info.nonce);
        ask_kernel(&s->clients[i].queue, name);
    }
}

const char *look_at(struct snapshot *snapshot, const char *instance)
{
    struct segment board;
    const char *failure;
    int r;

    *snapshot = (struct snapshot){.instance = instance};
    failure = look_open(&board, instance);
    if (failure != NULL)
        return failure;
    r = snapshot_take(snapshot, board.base);
    segment_close(&board);
    if (r < 0)
        return strerror(-r);
    snapshot->now = clock_now(CLOCK_REALTIME);
    snapshot->boot_now = clock_now(CLOCK_BOOTTIME);
    snapshot->monotonic = clock_now(CLOCK_MONOTONIC);
    snapshot->alive = process_alive(snapshot->pid, snapshot->pid_start);
    ask_kernel_for_all(snapshot);
    return NULL;
}
