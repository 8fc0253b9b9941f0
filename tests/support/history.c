/* Books in one shared mapping. A book is a chain of chunks, taken from a common heap by one atomic
 * addition; an event counts when its book's number of events says so. So a process can be killed
 * anywhere in here, and what it loses is the event that it was writing, and perhaps a chunk. */
#include "tests/support/history.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { CHUNK = 1024 }; /* events */

struct book {
    const char *role;
    bool alone;
    enum history_fate fate;
    uint32_t first; /* chunk */
    uint32_t last;
    _Atomic uint64_t n_events;
};

struct history {
    size_t size;
    uint32_t n_chunks;
    _Atomic uint32_t n_used;
    _Atomic uint32_t n_books;
    struct book books[HISTORY_BOOKS];
    uint32_t *next;               /* of each chunk: the one behind it */
    struct history_event *events; /* CHUNK of each */
};

struct history *history_new(size_t n_events)
{
    uint32_t n_chunks = (uint32_t)(n_events / CHUNK + 1);
    size_t size = sizeof(struct history) +
                  n_chunks * (sizeof(uint32_t) + CHUNK * sizeof(struct history_event));
    struct history *h =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (h == MAP_FAILED)
        return NULL;
    h->size = size;
    h->n_chunks = n_chunks;
    h->events = (struct history_event *)(h + 1);
    h->next = (uint32_t *)(h->events + (size_t)n_chunks * CHUNK);
    history_begin(h, "test", true);
    return h;
}

struct history *history_free(struct history *h)
{
    if (h != NULL)
        munmap(h, h->size);
    return NULL;
}

unsigned history_begin(struct history *h, const char *role, bool alone)
{
    unsigned book = h->n_books;

    if (book == HISTORY_BOOKS)
        fail_msg("more than %d processes in one history", HISTORY_BOOKS);
    h->books[book].role = role;
    h->books[book].alone = alone;
    h->n_books++;
    return book;
}

void history_close(struct history *h, unsigned book, enum history_fate fate)
{
    h->books[book].fate = fate;
}

bool history_is_full(const struct history *h)
{
    return h->n_used > h->n_chunks / 4 * 3 || h->n_books > HISTORY_BOOKS / 4 * 3;
}

/* One chunk more for a book, or the end. */
static void grow(struct history *h, struct book *b, uint64_t n)
{
    uint32_t chunk = atomic_fetch_add(&h->n_used, 1);

    if (chunk >= h->n_chunks) {
        fprintf(stderr, "the history is full\n");
        _exit(EXIT_FAILURE);
    }
    if (n == 0)
        b->first = chunk;
    else
        h->next[b->last] = chunk;
    b->last = chunk;
}

static uint64_t now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void history_note_task(struct history *h, unsigned book, enum history_kind kind, unsigned stream,
                       unsigned of, uint32_t number, unsigned tries)
{
    struct book *b = &h->books[book];
    uint64_t n = atomic_load_explicit(&b->n_events, memory_order_relaxed);

    if (n % CHUNK == 0)
        grow(h, b, n);
    h->events[(size_t)b->last * CHUNK + n % CHUNK] = (struct history_event){
        .when = now(),
        .number = number,
        .book = (uint16_t)of,
        .stream = (uint8_t)(stream & 15),
        .tries = (uint8_t)(tries & 15),
        .kind = (uint8_t)kind,
    };
    atomic_store_explicit(&b->n_events, n + 1, memory_order_release);
}

void history_note(struct history *h, unsigned book, enum history_kind kind, unsigned stream,
                  unsigned of, uint32_t number)
{
    history_note_task(h, book, kind, stream, of, number, 0);
}

/* ---- To read in it ---- */

const char *history_kind_name(unsigned kind)
{
    static const char *const names[HISTORY_KINDS] = {
        [HISTORY_OFFERED] = "offered",
        [HISTORY_TAKEN] = "all taken",
        [HISTORY_CONFIRMED] = "confirmed",
        [HISTORY_REFUSED] = "refused",
        [HISTORY_SUBSCRIBED] = "subscribed",
        [HISTORY_GOT] = "got",
        [HISTORY_MISSED] = "missed",
        [HISTORY_ANSWERED] = "answered",
        [HISTORY_UNANSWERED] = "unanswered",
        [HISTORY_FOUND] = "found",
        [HISTORY_SEARCHED] = "searched",
        [HISTORY_WILLED] = "willed",
        [HISTORY_TOOK] = "took",
        [HISTORY_DONE] = "done",
        [HISTORY_RETURNED] = "returned",
        [HISTORY_REJECTED] = "rejected",
        [HISTORY_DEAD] = "dead letter",
        [HISTORY_KILLS] = "kills",
        [HISTORY_STOPS] = "stops",
        [HISTORY_RESUMED] = "resumed",
    };

    return kind < HISTORY_KINDS && names[kind] != NULL ? names[kind] : "?";
}

unsigned history_n_books(const struct history *h)
{
    return h->n_books;
}

const char *history_role(const struct history *h, unsigned book)
{
    return h->books[book].role;
}

bool history_is_alone(const struct history *h, unsigned book)
{
    return h->books[book].alone;
}

enum history_fate history_fate(const struct history *h, unsigned book)
{
    return h->books[book].fate;
}

struct history_cursor history_open(const struct history *h, unsigned book)
{
    return (struct history_cursor){.history = h, .book = book, .chunk = h->books[book].first};
}

const struct history_event *history_next(struct history_cursor *c)
{
    const struct history *h = c->history;

    if (c->i == atomic_load_explicit(&h->books[c->book].n_events, memory_order_acquire))
        return NULL;
    if (c->i % CHUNK == 0 && c->i != 0)
        c->chunk = h->next[c->chunk];
    return &h->events[(size_t)c->chunk * CHUNK + c->i++ % CHUNK];
}
