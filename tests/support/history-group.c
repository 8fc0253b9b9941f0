/* The judge of groups. What was promised of a message that went to one:
 *
 *   - A member is given it again, or another, only when the one who had it before was killed, or
 * gave it back; and it comes with a number of tries that counts at least those deliveries.
 *   - Who acknowledged it, and came to its own end, was the last who had it.
 *   - Each that the broker certainly had was acknowledged in the end, or rejected, or delivered in
 *     vain as often as it may be: then it is found among the dead letters, once.
 *   - It is not delivered more often than it may be.
 *
 * Of a member that was killed nobody knows whether its last words were heard: it may have
 * acknowledged what it had said it would, and it may have been sent what it never looked at.
 *
 * All that was ever noted of such messages is sorted by message and time, and gone through once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "tests/support/history.h"

/* An event, and whose it is. */
struct deed {
    struct history_event event;
    uint16_t by;
};

struct jury {
    const struct history *h;
    const struct history_rules *rules;
    struct deed *deeds;
    size_t n_deeds;
    uint64_t *killed; /* when each book's process was; 0: never */
    size_t n_delivered;
    bool failed;
};

static bool is_deed(const struct jury *j, const struct history_event *e)
{
    return e->kind >= HISTORY_TOOK && e->kind <= HISTORY_DEAD &&
           (j->rules->tasks >> e->stream & 1) != 0;
}

static bool is_killed(const struct jury *j, const struct deed *d)
{
    return history_fate(j->h, d->by) == HISTORY_KILLED;
}

static void gather(struct jury *j)
{
    unsigned n_books = history_n_books(j->h);
    const struct history_event *e;
    size_t room = 0;

    j->killed = calloc(n_books, sizeof(*j->killed));
    assert_non_null(j->killed);
    for (unsigned b = 0; b < n_books; b++) {
        struct history_cursor c = history_open(j->h, b);

        while ((e = history_next(&c)) != NULL) {
            if (b == 0 && e->kind == HISTORY_KILLS)
                j->killed[e->book] = e->when;
            if (!is_deed(j, e))
                continue;
            if (j->n_deeds == room) {
                room = room == 0 ? 1024 : 2 * room;
                j->deeds = realloc(j->deeds, room * sizeof(*j->deeds));
                assert_non_null(j->deeds);
            }
            j->deeds[j->n_deeds++] = (struct deed){*e, (uint16_t)b};
        }
    }
}

static int by_number(uint64_t a, uint64_t b)
{
    return (a > b) - (a < b);
}

static int by_message(const struct history_event *a, const struct history_event *b)
{
    if (a->book != b->book)
        return by_number(a->book, b->book);
    if (a->stream != b->stream)
        return by_number(a->stream, b->stream);
    return by_number(a->number, b->number);
}

static int by_message_and_time(const void *left, const void *right)
{
    const struct deed *a = left, *b = right;
    int order = by_message(&a->event, &b->event);

    return order != 0 ? order : by_number(a->event.when, b->event.when);
}

/* All that was noted of one message, and the deaths of those who had it. */
static void blame(struct jury *j, const struct deed *deeds, size_t n, const char *what)
{
    const struct history_event *first = &deeds[0].event;

    if (j->failed)
        return;
    j->failed = true;
    fprintf(stderr, "history: number %u of stream %u of book %u, which went to a group: %s\n",
            first->number, first->stream, first->book, what);
    for (size_t i = 0; i < n; i++) {
        const struct deed *d = &deeds[i];

        fprintf(stderr, "   %13.6f  %-11s tries %u, by book %u (%s)",
                (double)(d->event.when - first->when) / 1e9, history_kind_name(d->event.kind),
                d->event.tries, d->by, history_role(j->h, d->by));
        if (j->killed[d->by] != 0)
            fprintf(stderr, ", killed at %.6f",
                    (double)(int64_t)(j->killed[d->by] - first->when) / 1e9);
        fputc('\n', stderr);
    }
}

/* What one delivery came to. */
struct outcome {
    bool done;
    bool returned;
    bool rejected;
};

static struct outcome outcome_of(const struct deed *deeds, size_t n, const struct deed *took)
{
    struct outcome o = {0};

    for (const struct deed *d = took + 1; d < deeds + n; d++) {
        if (d->by == took->by && d->event.kind == HISTORY_TOOK)
            break; /* it has it once more */
        o.done |= d->by == took->by && d->event.kind == HISTORY_DONE;
        o.returned |= d->by == took->by && d->event.kind == HISTORY_RETURNED;
        o.rejected |= d->by == took->by && d->event.kind == HISTORY_REJECTED;
    }
    return o;
}

/* May somebody have it at this time, after this delivery? */
static bool is_over(const struct jury *j, const struct outcome *o, const struct deed *took,
                    uint64_t when)
{
    return o->returned || (is_killed(j, took) && j->killed[took->by] < when);
}

/* One message: `n` deeds in order of time. */
static void judge_one(struct jury *j, const struct deed *deeds, size_t n)
{
    const struct deed *last = NULL;
    struct outcome o = {0};
    unsigned n_took = 0;
    unsigned n_dead = 0;

    for (const struct deed *d = deeds; d < deeds + n; d++) {
        if (d->event.kind == HISTORY_DEAD)
            n_dead++;
        if (d->event.kind != HISTORY_TOOK)
            continue;
        if (last != NULL && !is_over(j, &o, last, d->event.when))
            blame(j, deeds, n, "it is given to somebody again, and should not");
        if (d->event.tries < n_took)
            blame(j, deeds, n, "it came back more often than it says");
        if (d->event.tries >= j->rules->limit)
            blame(j, deeds, n, "it is delivered more often than it may be");
        n_took++;
        last = d;
        o = outcome_of(deeds, n, d);
    }
    j->n_delivered += n_took;
    if (n_dead > 1)
        blame(j, deeds, n, "it is among the dead letters twice");
    if (n_dead == 1 && o.done && !is_killed(j, last))
        blame(j, deeds, n, "it is acknowledged, and a dead letter");
    if (n_dead == 0 && (last == NULL || !o.done))
        blame(j, deeds, n, "nobody has acknowledged it, and it is no dead letter");
}

/* Those that the broker had, and nobody ever saw: `i` is the first deed that is not of an earlier
 * stream. */
static size_t judge_row(struct jury *j, unsigned book, unsigned stream, uint32_t n_certain,
                        size_t i)
{
    struct history_event wanted = {.book = (uint16_t)book, .stream = (uint8_t)(stream & 15)};

    for (; wanted.number < n_certain && !j->failed; wanted.number++) {
        while (i < j->n_deeds && by_message(&j->deeds[i].event, &wanted) < 0)
            i++;
        if (i < j->n_deeds && by_message(&j->deeds[i].event, &wanted) == 0)
            continue;
        fprintf(stderr,
                "history: number %u of stream %u of book %u (%s) went to a group, and nobody ever "
                "had it\n",
                wanted.number, stream, book, history_role(j->h, book));
        j->failed = true;
    }
    return i;
}

static void judge_unseen(struct jury *j, const uint32_t (*n_certain)[HISTORY_STREAMS])
{
    size_t i = 0;

    for (unsigned b = 0; b < history_n_books(j->h); b++) {
        for (unsigned s = 0; s < HISTORY_STREAMS; s++) {
            if ((j->rules->tasks >> s & 1) != 0)
                i = judge_row(j, b, s, n_certain[b][s], i);
        }
    }
}

int64_t history_check_tasks(const struct history *h, const struct history_rules *rules,
                            const uint32_t (*n_certain)[HISTORY_STREAMS])
{
    struct jury j = {.h = h, .rules = rules};

    gather(&j);
    if (j.n_deeds > 0)
        qsort(j.deeds, j.n_deeds, sizeof(*j.deeds), by_message_and_time);
    for (size_t i = 0, n; i < j.n_deeds && !j.failed; i += n) {
        for (n = 1; i + n < j.n_deeds && by_message(&j.deeds[i].event, &j.deeds[i + n].event) == 0;)
            n++;
        judge_one(&j, &j.deeds[i], n);
    }
    if (!j.failed)
        judge_unseen(&j, n_certain);
    free(j.deeds);
    free(j.killed);
    return j.failed ? -1 : (int64_t)j.n_delivered;
}
