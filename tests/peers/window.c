/* The payloads are numbered (tools/bench-stream.h), so a sender's number less the one that the
 * slowest receiver took last is what is under way. A sender looks at the receivers' words only when
 * what it knows has run out. */
#include "tests/peers/window.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "tools/bench-stream.h"
#include "tools/bench.h"

enum {
    WINDOW_BYTES = 4 << 20,
    WINDOW_MESSAGES = 16,
    NAP_NS = 50000,
};

struct receiver {
    _Alignas(64) _Atomic uint64_t taken[BENCH_WORKERS_MAX]; /* of each sender */
};

struct window {
    unsigned n_receivers;
    uint64_t limit;
    uint64_t known[BENCH_WORKERS_MAX]; /* of each sender, by itself: taken by all, at least */
    struct receiver receivers[BENCH_WORKERS_MAX];
};

struct window *window_new(const struct carrier *carrier)
{
    size_t n_senders = carrier->options->publishers > 0 ? carrier->options->publishers : 1;
    size_t share = WINDOW_BYTES / n_senders / carrier->options->size;
    struct window *window =
        mmap(NULL, sizeof *window, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (window == MAP_FAILED) {
        bench_fail("cannot share a window with the workers: %s", strerror(errno));
        return NULL;
    }
    window->n_receivers = carrier->n_receivers;
    window->limit = share > WINDOW_MESSAGES ? share : WINDOW_MESSAGES;
    return window;
}

struct window *window_free(struct window *window)
{
    if (window != NULL) {
        munmap(window, sizeof *window);
    }
    return NULL;
}

static uint64_t taken_by_all(struct window *window, unsigned sender)
{
    uint64_t least = UINT64_MAX;

    for (unsigned i = 0; i < window->n_receivers; i++) {
        uint64_t taken =
            atomic_load_explicit(&window->receivers[i].taken[sender], memory_order_relaxed);
        least = taken < least ? taken : least;
    }
    return least;
}

int window_wait(struct window *window, struct carrier_end *end, const void *payload, size_t size)
{
    struct stream_head head;
    bool flushed = false;

    if (stream_read(&head, payload, size) < 0) {
        return -1;
    }
    while (head.number - window->known[head.sender] >= window->limit) {
        struct timespec nap = {.tv_nsec = NAP_NS};

        window->known[head.sender] = taken_by_all(window, head.sender);
        if (head.number - window->known[head.sender] < window->limit) {
            break;
        }
        if (!flushed && carrier_flush(end) < 0) {
            return -1;
        }
        flushed = true;
        nanosleep(&nap, NULL);
    }
    return 0;
}

void window_take(struct window *window, unsigned receiver, const void *payload, size_t size)
{
    struct stream_head head;

    if (size >= sizeof head) {
        memcpy(&head, payload, sizeof head);
        atomic_store_explicit(&window->receivers[receiver].taken[head.sender],
                              (uint64_t)head.number + 1, memory_order_relaxed);
    }
}
