/* The judge. It knows nothing of how a broker works, only what was promised:
 *
 *   - What a subscriber was handed over of one publisher and stream is a row without a gap, each
 *     once, in order. It begins no later than with the first message that was offered after the
 *     subscription stood.
 *   - It ends with the last one, if the subscriber came to its own end: of a publisher that ended
 *     itself that is the last it offered; of one that was killed, the last that anybody got, and
 *     no less than what the kernel had taken or the broker confirmed.
 *   - Nothing is handed over that was not offered before.
 *   - A request has one outcome. It is an answer, from one who had that request, if somebody who
 *     lived to its end was there to give it.
 *   - What is kept of a stream is its last one.
 *   - A last will is published of who was killed, and of nobody else; otherwise it is a message
 * like all, of which there is one.
 *   - What is promised of groups stands in history-group.c.
 *   - Where messages may be dropped, the count of them fits the gaps (K11).
 *
 * First all books are gone through for what was offered, then those of the subscribers for what
 * they got, then what each got is compared with what there was. */
#include "tests/support/history.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum {
    AROUND = 8, /* events shown before and after one that is wrong */
    NEVER = -1, /* as a number: 0xffffffff */
};

#define REFUSED (UINT64_C(1) << 63)

/* One stream of one publisher. */
struct row {
    uint64_t *offered; /* when each was; REFUSED: by the broker */
    uint32_t n_offered;
    uint32_t n_certain; /* so many had certainly been taken */
    uint32_t n_reached; /* the youngest that anybody got, and one */
    uint32_t n_answers; /* outcomes noted by its asker */
    uint8_t *answered;  /* one for each offered */
};

/* What one subscriber had of one row. */
struct share {
    uint32_t first;
    uint32_t next; /* 0: nothing */
};

struct reader {
    uint64_t since[HISTORY_STREAMS]; /* when the subscription stood; 0: none */
    struct share *shares;            /* of each row; NULL: is none */
    uint64_t n_missed;
    uint64_t gaps;  /* messages that did not come, at least */
    uint64_t slack; /* and so many more perhaps */
};

struct judge {
    const struct history *h;
    const struct history_rules *rules;
    unsigned n_books;
    struct row *rows;       /* HISTORY_STREAMS of each book */
    struct reader *readers; /* one of each book */
    uint64_t begun;         /* when the first of all was offered */
    bool failed;
};

static struct row *row_of(const struct judge *j, unsigned book, unsigned stream)
{
    return &j->rows[book * HISTORY_STREAMS + stream];
}

static struct share *share_of(const struct judge *j, unsigned reader, unsigned book,
                              unsigned stream)
{
    return &j->readers[reader].shares[book * HISTORY_STREAMS + stream];
}

static bool is_impatient(const struct judge *j, unsigned stream)
{
    return (j->rules->impatient >> stream & 1) != 0;
}

/* ---- To say what is wrong ---- */

static void print_event(const struct judge *j, const struct history_event *e, bool mark)
{
    fprintf(stderr, " %c %13.6f  %-10s stream %u, of %u, number %u\n", mark ? '>' : ' ',
            (double)(int64_t)(e->when - j->begun) / 1e9, history_kind_name(e->kind), e->stream,
            e->book, e->number);
}

/* The events of a book around one, the i-th. */
static void print_around(const struct judge *j, unsigned book, uint64_t i)
{
    static const char *const fates[] = {"lives", "was killed", "ended"};
    struct history_cursor c = history_open(j->h, book);
    const struct history_event *e;

    fprintf(stderr, "-- book %u (%s, %s):\n", book, history_role(j->h, book),
            fates[history_fate(j->h, book)]);
    while ((e = history_next(&c)) != NULL && c.i <= i + 1 + AROUND) {
        if (c.i + AROUND > i)
            print_event(j, e, c.i == i + 1);
    }
}

/* Where in a book it is that something happened with this message; else the end of the book. */
static uint64_t find(const struct judge *j, unsigned book, enum history_kind kind, unsigned stream,
                     unsigned of, uint32_t number)
{
    struct history_cursor c = history_open(j->h, book);
    const struct history_event *e;

    while ((e = history_next(&c)) != NULL) {
        if (e->kind == kind && e->stream == stream && e->number == number &&
            (kind == HISTORY_OFFERED || e->book == of))
            return c.i - 1;
    }
    return c.i;
}

static uint64_t end_of(const struct judge *j, unsigned book)
{
    return find(j, book, HISTORY_KINDS, 0, 0, 0);
}

/* What the test did about then. */
static void print_weather(const struct judge *j, uint64_t when)
{
    struct history_cursor c = history_open(j->h, 0);
    const struct history_event *e;

    while ((e = history_next(&c)) != NULL && e->when < when)
        continue;
    print_around(j, 0, c.i == 0 ? 0 : c.i - 1);
}

/* Something is wrong with a message, `number` of a row, as its reader's i-th event shows. Only the
 * first is said with all around it. */
__attribute__((format(printf, 7, 8))) static void blame(struct judge *j, unsigned reader,
                                                        uint64_t i, unsigned book, unsigned stream,
                                                        uint32_t number, const char *format, ...)
{
    va_list arguments;

    if (j->failed)
        return;
    j->failed = true;
    fprintf(stderr, "history: number %u of stream %u of book %u, at book %u: ", number, stream,
            book, reader);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    print_around(j, reader, i);
    if (book != reader && book < j->n_books) {
        const struct row *row = row_of(j, book, stream);

        print_around(j, book, find(j, book, HISTORY_OFFERED, stream, book, number));
        if (number < row->n_offered)
            print_weather(j, row->offered[number] & ~REFUSED);
    }
}

/* ---- What was offered ---- */

static void offer(struct judge *j, unsigned book, const struct history_event *e, uint64_t i)
{
    struct row *row = row_of(j, book, e->stream);

    if (e->number != row->n_offered)
        blame(j, book, i, book, e->stream, e->number, "offered instead of %u", row->n_offered);
    if ((row->n_offered & (row->n_offered - 1)) == 0) { /* full, at each power of two */
        size_t room = row->n_offered == 0 ? 1 : 2 * (size_t)row->n_offered;

        row->offered = realloc(row->offered, room * sizeof(*row->offered));
        assert_non_null(row->offered);
    }
    row->offered[row->n_offered++] = e->when;
}

static bool is_will(const struct judge *j, unsigned stream)
{
    return (j->rules->wills >> stream & 1) != 0;
}

static void all_certain(struct judge *j, unsigned book)
{
    for (unsigned s = 0; s < HISTORY_STREAMS; s++) {
        if (!is_will(j, s))
            row_of(j, book, s)->n_certain = row_of(j, book, s)->n_offered;
    }
}

static void settle(struct judge *j, unsigned book, const struct history_event *e, uint64_t i)
{
    struct row *row = row_of(j, book, e->stream);

    if (e->number >= row->n_offered)
        blame(j, book, i, book, e->stream, e->number, "settled, but never offered");
    else if (e->kind == HISTORY_REFUSED)
        row->offered[e->number] |= REFUSED;
    else if (e->number >= row->n_certain)
        row->n_certain = e->number + 1;
}

static void gather(struct judge *j, unsigned book)
{
    struct history_cursor c = history_open(j->h, book);
    const struct history_event *e;
    bool alone = history_is_alone(j->h, book);

    while ((e = history_next(&c)) != NULL) {
        if (j->begun == 0)
            j->begun = e->when;
        if (e->kind == HISTORY_TAKEN || (e->kind == HISTORY_OFFERED && alone))
            all_certain(j, book);
        if (e->kind != HISTORY_SUBSCRIBED && is_will(j, e->stream) &&
            history_fate(j->h, book) != HISTORY_KILLED)
            continue; /* of who ends himself nothing is published */
        if (e->kind == HISTORY_OFFERED)
            offer(j, book, e, c.i - 1);
        else if (e->kind == HISTORY_CONFIRMED || e->kind == HISTORY_REFUSED ||
                 e->kind == HISTORY_WILLED)
            settle(j, book, e, c.i - 1);
        else if (e->kind == HISTORY_SUBSCRIBED)
            j->readers[book].since[e->stream] = e->when;
        else if (e->kind == HISTORY_MISSED)
            j->readers[book].n_missed = e->number;
    }
    if (history_fate(j->h, book) == HISTORY_ENDED)
        all_certain(j, book);
}

/* ---- What was handed over ---- */

/* The first of a row that was offered after this moment. */
static uint32_t first_after(const struct row *row, uint64_t when)
{
    uint32_t low = 0;
    uint32_t high = row->n_offered;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if ((row->offered[middle] & ~REFUSED) < when)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* How many of a row, from one to another, were not refused. */
static uint32_t unrefused(const struct row *row, uint32_t from, uint32_t to)
{
    uint32_t n = 0;

    for (; from < to; from++)
        n += (row->offered[from] & REFUSED) == 0;
    return n;
}

/* Those from `from` on, up to the one that came, did not come. */
static void pass_over(struct judge *j, unsigned reader, uint64_t i, const struct history_event *e,
                      uint32_t from)
{
    uint32_t n = unrefused(row_of(j, e->book, e->stream), from, e->number);

    if (is_impatient(j, e->stream)) {
        j->readers[reader].slack += n; /* dropped, if they came in time to be routed */
        return;
    }
    if (!j->rules->lossy)
        blame(j, reader, i, e->book, e->stream, e->number, "%u should have come first", from);
    j->readers[reader].gaps += n;
}

static void get(struct judge *j, unsigned reader, const struct history_event *e, uint64_t i)
{
    struct reader *r = &j->readers[reader];
    struct row *row = e->book < j->n_books ? row_of(j, e->book, e->stream) : NULL;
    struct share *share;
    uint32_t from;

    if (row == NULL || e->number >= row->n_offered || row->offered[e->number] > e->when) {
        blame(j, reader, i, e->book, e->stream, e->number, "it was never offered, or later");
        return;
    }
    if (r->since[e->stream] == 0)
        blame(j, reader, i, e->book, e->stream, e->number, "it had not subscribed to that");
    share = share_of(j, reader, e->book, e->stream);
    if (share->next == 0) {
        from = first_after(row, r->since[e->stream]);
        share->first = e->number;
        if (from > e->number)
            from = e->number;
    } else {
        from = share->next;
        if (e->number < from)
            blame(j, reader, i, e->book, e->stream, e->number, "again, or too late: %u is next",
                  from);
    }
    if (e->number > from && unrefused(row, from, e->number) > 0)
        pass_over(j, reader, i, e, from);
    if (share->next == 0)
        r->slack += from; /* older ones may have been meant for it */
    share->next = e->number + 1;
    if (share->next > row->n_reached)
        row->n_reached = share->next;
}

static void hand_over(struct judge *j, unsigned reader)
{
    struct history_cursor c = history_open(j->h, reader);
    const struct history_event *e;
    bool subscribed = false;

    for (unsigned s = 0; s < HISTORY_STREAMS; s++)
        subscribed |= j->readers[reader].since[s] != 0;
    if (!subscribed)
        return;
    j->readers[reader].shares = calloc((size_t)j->n_books * HISTORY_STREAMS, sizeof(struct share));
    assert_non_null(j->readers[reader].shares);
    while ((e = history_next(&c)) != NULL) {
        if (e->kind == HISTORY_GOT)
            get(j, reader, e, c.i - 1);
    }
}

/* ---- What is missing ---- */

static void miss_row(struct judge *j, unsigned reader, unsigned book, unsigned stream)
{
    struct reader *r = &j->readers[reader];
    const struct row *row = row_of(j, book, stream);
    const struct share *share = share_of(j, reader, book, stream);
    uint32_t due = row->n_certain > row->n_reached ? row->n_certain : row->n_reached;
    uint32_t from = share->next != 0 ? share->next : first_after(row, r->since[stream]);

    if (is_impatient(j, stream)) {
        r->slack += row->n_offered;
        return;
    }
    if (from < due && unrefused(row, from, due) > 0) {
        if (!j->rules->lossy)
            blame(j, reader,
                  share->next != 0 ? find(j, reader, HISTORY_GOT, stream, book, share->next - 1)
                                   : end_of(j, reader),
                  book, stream, from, "it is missing, with what follows up to %u", due - 1);
        r->gaps += unrefused(row, from, due);
    }
    r->slack += row->n_offered - (due > from ? due : from);
    if (share->next == 0)
        r->slack += from;
}

static bool may_miss(const struct judge *j, const struct reader *r)
{
    bool may = j->rules->lossy;

    for (unsigned s = 0; s < HISTORY_STREAMS; s++)
        may |= r->since[s] != 0 && is_impatient(j, s);
    return may;
}

static void miss(struct judge *j, unsigned reader)
{
    struct reader *r = &j->readers[reader];

    if (r->shares == NULL || history_fate(j->h, reader) != HISTORY_ENDED)
        return;
    for (unsigned book = 0; book < j->n_books; book++) {
        for (unsigned s = 0; s < HISTORY_STREAMS; s++) {
            if (r->since[s] != 0 && (j->rules->plain >> s & 1) != 0)
                miss_row(j, reader, book, s);
        }
    }
    if (r->n_missed < r->gaps || r->n_missed > r->gaps + r->slack ||
        (!may_miss(j, r) && r->n_missed != 0))
        blame(j, reader, end_of(j, reader), reader, 0, 0,
              "it is told that it missed %llu; %llu to %llu did not come",
              (unsigned long long)r->n_missed, (unsigned long long)r->gaps,
              (unsigned long long)r->gaps + r->slack);
}

/* ---- Requests ---- */

/* When the first one subscribed who lived to its end. */
static uint64_t served_since(const struct judge *j, unsigned stream)
{
    uint64_t since = UINT64_MAX;

    for (unsigned b = 0; b < j->n_books; b++) {
        const struct reader *r = &j->readers[b];

        if (r->since[stream] != 0 && r->since[stream] < since &&
            history_fate(j->h, b) == HISTORY_ENDED)
            since = r->since[stream];
    }
    return since;
}

/* May a request that was offered then fail with this error? */
static bool may_fail(const struct judge *j, unsigned stream, int error, uint64_t when)
{
    if (error == ETIMEDOUT)
        return is_impatient(j, stream);
    return (error == ENOENT || error == ECONNRESET) && served_since(j, stream) > when;
}

static void outcome(struct judge *j, unsigned asker, const struct history_event *e, uint64_t i)
{
    struct row *row = row_of(j, asker, e->stream);

    if (e->number >= row->n_offered) {
        blame(j, asker, i, asker, e->stream, e->number, "an answer to what was not asked");
        return;
    }
    if (row->answered == NULL)
        row->answered = calloc(row->n_offered, 1);
    assert_non_null(row->answered);
    if (row->answered[e->number] != 0)
        blame(j, asker, i, asker, e->stream, e->number, "a second outcome");
    row->answered[e->number] = 1;
    row->n_answers++;
    if (e->kind == HISTORY_ANSWERED) {
        const struct share *share = e->book < j->n_books && j->readers[e->book].shares != NULL
                                        ? share_of(j, e->book, asker, e->stream)
                                        : NULL;

        if (share == NULL || e->number < share->first || e->number >= share->next)
            blame(j, asker, i, asker, e->stream, e->number,
                  "answered by book %u, which never had it", e->book);
    } else if (!may_fail(j, e->stream, e->book, row->offered[e->number])) {
        blame(j, asker, i, asker, e->stream, e->number, "not answered: %s", strerror(e->book));
    }
}

static void check_requests(struct judge *j, unsigned asker)
{
    struct history_cursor c = history_open(j->h, asker);
    const struct history_event *e;

    while ((e = history_next(&c)) != NULL) {
        if (e->kind == HISTORY_ANSWERED || e->kind == HISTORY_UNANSWERED)
            outcome(j, asker, e, c.i - 1);
    }
    for (unsigned s = 0; s < HISTORY_STREAMS; s++) {
        const struct row *row = row_of(j, asker, s);

        if ((j->rules->requests >> s & 1) != 0 && history_fate(j->h, asker) == HISTORY_ENDED &&
            row->n_answers != row->n_offered)
            blame(j, asker, end_of(j, asker), asker, s, row->n_answers, "%u asked, %u outcomes",
                  row->n_offered, row->n_answers);
    }
}

/* ---- What is kept ---- */

static void check_kept(struct judge *j, unsigned stream)
{
    struct history_cursor c = history_open(j->h, 0);
    const struct history_event *e;
    bool searched = false;
    uint8_t *found = calloc(j->n_books, 1);

    assert_non_null(found);
    while ((e = history_next(&c)) != NULL) {
        searched |= e->kind == HISTORY_SEARCHED;
        if (e->kind != HISTORY_FOUND || e->stream != stream || e->book >= j->n_books)
            continue;
        if (found[e->book]++ != 0)
            blame(j, 0, c.i - 1, e->book, stream, e->number, "kept twice");
        if (e->number + 1 < row_of(j, e->book, stream)->n_certain ||
            e->number >= row_of(j, e->book, stream)->n_offered)
            blame(j, 0, c.i - 1, e->book, stream, e->number, "it is kept, and not number %u",
                  row_of(j, e->book, stream)->n_certain - 1);
    }
    for (unsigned b = 0; searched && b < j->n_books; b++) {
        if (found[b] == 0 && row_of(j, b, stream)->n_certain > 0)
            blame(j, 0, end_of(j, 0), b, stream, row_of(j, b, stream)->n_certain - 1,
                  "it is not kept, nor a later one");
    }
    free(found);
}

/* ---- How long it took ---- */

/* A time in which somebody was stopped. */
struct rest {
    unsigned book;
    uint64_t from;
    uint64_t to;
};

struct weather {
    uint64_t *kills; /* of the broker */
    size_t n_kills;
    struct rest *rests;
    size_t n_rests;
};

static void observe(const struct history *h, struct weather *w)
{
    struct history_cursor c = history_open(h, 0);
    const struct history_event *e;
    size_t n = 1;

    while (history_next(&c) != NULL)
        n++;
    w->kills = calloc(n, sizeof(*w->kills));
    w->rests = calloc(n, sizeof(*w->rests));
    assert_non_null(w->kills);
    assert_non_null(w->rests);
    c = history_open(h, 0);
    while ((e = history_next(&c)) != NULL) {
        if (e->kind == HISTORY_KILLS && e->book == 0)
            w->kills[w->n_kills++] = e->when;
        else if (e->kind == HISTORY_STOPS)
            w->rests[w->n_rests++] = (struct rest){e->book, e->when, UINT64_MAX};
        for (size_t i = w->n_rests; e->kind == HISTORY_RESUMED && i > 0; i--) {
            if (w->rests[i - 1].book == e->book) {
                w->rests[i - 1].to = e->when;
                break;
            }
        }
    }
}

static bool undisturbed(const struct weather *w, unsigned book, uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < w->n_rests; i++) {
        const struct rest *r = &w->rests[i];

        if ((r->book == 0 || r->book == book) && r->from < to && r->to > from)
            return false;
    }
    return true;
}

/* The waits of one client, over one kill after the other. */
static void wait_for(const struct judge *j, unsigned book, const struct weather *w,
                     enum history_kind kind, struct histogram *waits)
{
    struct history_cursor c = history_open(j->h, book);
    const struct history_event *e = history_next(&c);
    size_t kill = 0;

    while (e != NULL && kill < w->n_kills && w->kills[kill] < e->when)
        kill++; /* before its time */
    for (; e != NULL && kill < w->n_kills; e = history_next(&c)) {
        const struct row *row;

        if (e->kind != kind || e->when < w->kills[kill])
            continue;
        row = row_of(j, kind == HISTORY_CONFIRMED ? book : e->book, e->stream);
        if ((row->offered[e->number] & ~REFUSED) < w->kills[kill])
            continue;
        if (undisturbed(w, book, w->kills[kill], e->when))
            histogram_record(waits, e->when - w->kills[kill]);
        while (kill < w->n_kills && w->kills[kill] < e->when)
            kill++;
    }
}

static void measure(const struct judge *j, struct history_waits *waits)
{
    struct weather w = {0};

    observe(j->h, &w);
    for (unsigned b = 1; b < j->n_books; b++) {
        if (j->readers[b].shares != NULL)
            wait_for(j, b, &w, HISTORY_GOT, &waits->handed_over);
        else
            wait_for(j, b, &w, HISTORY_CONFIRMED, &waits->confirmed);
    }
    free(w.kills);
    free(w.rests);
}

/* ---- All of it ---- */

static void check_tasks(struct judge *j, uint64_t *handed_over)
{
    uint32_t(*n_certain)[HISTORY_STREAMS] = calloc(j->n_books, sizeof(*n_certain));
    int64_t n;

    assert_non_null(n_certain);
    for (unsigned b = 0; b < j->n_books; b++) {
        for (unsigned s = 0; s < HISTORY_STREAMS; s++)
            n_certain[b][s] = row_of(j, b, s)->n_certain;
    }
    n = history_check_tasks(j->h, j->rules, (const uint32_t(*)[HISTORY_STREAMS])n_certain);
    j->failed |= n < 0;
    if (n > 0)
        *handed_over += (uint64_t)n;
    free(n_certain);
}

static void count(const struct judge *j, uint64_t *offered, uint64_t *handed_over)
{
    for (unsigned b = 0; b < j->n_books; b++) {
        for (unsigned s = 0; s < HISTORY_STREAMS; s++)
            *offered += row_of(j, b, s)->n_offered;
        for (size_t i = 0; j->readers[b].shares != NULL && i < (size_t)j->n_books * HISTORY_STREAMS;
             i++)
            *handed_over += j->readers[b].shares[i].next - j->readers[b].shares[i].first;
    }
}

bool history_check(const struct history *h, const struct history_rules *rules, uint64_t *offered,
                   uint64_t *handed_over, struct history_waits *waits)
{
    struct judge j = {.h = h, .rules = rules, .n_books = history_n_books(h)};

    j.rows = calloc((size_t)j.n_books * HISTORY_STREAMS, sizeof(*j.rows));
    j.readers = calloc(j.n_books, sizeof(*j.readers));
    assert_non_null(j.rows);
    assert_non_null(j.readers);
    for (unsigned b = 0; b < j.n_books; b++)
        gather(&j, b);
    for (unsigned b = 0; b < j.n_books; b++)
        hand_over(&j, b);
    for (unsigned b = 0; b < j.n_books; b++)
        miss(&j, b);
    for (unsigned b = 0; b < j.n_books; b++)
        check_requests(&j, b);
    for (unsigned s = 0; s < HISTORY_STREAMS; s++) {
        if ((rules->kept >> s & 1) != 0)
            check_kept(&j, s);
    }
    if (rules->tasks != 0 && !j.failed)
        check_tasks(&j, handed_over);
    if (!j.failed)
        count(&j, offered, handed_over);
    if (!j.failed && waits != NULL)
        measure(&j, waits);
    for (size_t i = 0; i < (size_t)j.n_books * HISTORY_STREAMS; i++) {
        free(j.rows[i].offered);
        free(j.rows[i].answered);
    }
    for (unsigned b = 0; b < j.n_books; b++)
        free(j.readers[b].shares);
    free(j.rows);
    free(j.readers);
    return !j.failed;
}
