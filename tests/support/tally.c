/* One bit for each message that is under way, for each receiver; they are few at a time. */
#include "tests/support/tally.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/stamp.h"

static uint64_t bit(uint32_t number)
{
    return UINT64_C(1) << number % 64;
}

static uint64_t *word(uint64_t words[TALLY_OPEN / 64], uint32_t number)
{
    return &words[number / 64 % (TALLY_OPEN / 64)];
}

static bool is_set(const uint64_t words[TALLY_OPEN / 64], uint32_t number)
{
    return (words[number / 64 % (TALLY_OPEN / 64)] & bit(number)) != 0;
}

/* Remember what was wrong first. */
__attribute__((format(printf, 2, 0))) static void remember(struct tally *t, const char *sentence,
                                                           va_list arguments)
{
    if (t->first[0] == '\0')
        vsnprintf(t->first, sizeof(t->first), sentence, arguments);
}

__attribute__((format(printf, 2, 3))) static void describe(struct tally *t, const char *sentence,
                                                           ...)
{
    va_list arguments;

    va_start(arguments, sentence);
    remember(t, sentence, arguments);
    va_end(arguments);
}

void tally_wrong(struct tally *t, const char *sentence, ...)
{
    va_list arguments;

    t->figures.wrong++;
    va_start(arguments, sentence);
    remember(t, sentence, arguments);
    va_end(arguments);
}

void tally_listen(struct tally *t, unsigned receiver, bool listens)
{
    tally_settle(t, receiver);
    t->listens[receiver] = listens;
}

uint32_t tally_send(struct tally *t, unsigned publisher, unsigned stream)
{
    uint32_t number = t->sent[publisher][stream]++;

    for (unsigned r = 0; r < TALLY_RECEIVERS; r++) {
        struct tally_stream *s = &t->receivers[r][publisher][stream];

        if (t->listens[r])
            *word(s->came, number) &= ~bit(number);
        else
            s->settled = s->next = number + 1;
        if (t->listens[r] && number - s->settled >= TALLY_OPEN)
            tally_wrong(t, "the test settles too rarely");
    }
    t->figures.sent++;
    return number;
}

void tally_receive(struct tally *t, unsigned receiver, const void *payload, size_t size)
{
    struct stamp stamp = {0};
    struct tally_stream *s;

    t->figures.handed_over++;
    if (!stamp_read(payload, size, &stamp) || stamp.publisher >= TALLY_PUBLISHERS ||
        stamp.stream >= TALLY_STREAMS) {
        tally_wrong(t, "receiver %u got %zu bytes that nobody sent so", receiver, size);
        return;
    }
    s = &t->receivers[receiver][stamp.publisher][stamp.stream];
    if (stamp.number >= t->sent[stamp.publisher][stamp.stream] || !t->listens[receiver]) {
        tally_wrong(t, "receiver %u got message %u of publisher %u, priority %u, not meant for it",
                    receiver, stamp.number, stamp.publisher, stamp.stream);
        return;
    }
    if (stamp.number < s->settled || is_set(s->came, stamp.number)) {
        t->figures.twice++;
        describe(t, "receiver %u got message %u of publisher %u, priority %u twice", receiver,
                 stamp.number, stamp.publisher, stamp.stream);
        return;
    }
    if (stamp.number < s->next && !t->shared[receiver]) {
        t->figures.out_of_order++;
        describe(t, "receiver %u got message %u of publisher %u, priority %u behind %u", receiver,
                 stamp.number, stamp.publisher, stamp.stream, s->next - 1);
    } else if (stamp.number >= s->next) {
        s->next = stamp.number + 1;
    }
    *word(s->came, stamp.number) |= bit(stamp.number);
}

/* Those of one stream that are still to come; `first`: one of them. */
static uint32_t missing(const struct tally *t, unsigned receiver, unsigned publisher,
                        unsigned stream, uint32_t *first)
{
    const struct tally_stream *s = &t->receivers[receiver][publisher][stream];
    uint32_t n = 0;

    for (uint32_t i = t->sent[publisher][stream]; i > s->settled; i--) {
        if (is_set(s->came, i - 1))
            continue;
        *first = i - 1;
        n++;
    }
    return n;
}

uint32_t tally_open(const struct tally *t, unsigned receiver)
{
    uint32_t n = 0;
    uint32_t first;

    for (unsigned p = 0; p < TALLY_PUBLISHERS; p++) {
        for (unsigned s = 0; t->listens[receiver] && s < TALLY_STREAMS; s++)
            n += missing(t, receiver, p, s, &first);
    }
    return n;
}

void tally_settle(struct tally *t, unsigned receiver)
{
    for (unsigned p = 0; p < TALLY_PUBLISHERS; p++) {
        for (unsigned s = 0; s < TALLY_STREAMS; s++) {
            uint32_t first = 0;
            uint32_t n = t->listens[receiver] ? missing(t, receiver, p, s, &first) : 0;

            t->figures.lost += n;
            if (n > 0)
                describe(t, "receiver %u never got message %u of publisher %u, priority %u",
                         receiver, first, p, s);
            t->receivers[receiver][p][s].settled = t->sent[p][s];
            t->receivers[receiver][p][s].next = t->sent[p][s];
        }
    }
}

bool tally_is_right(const struct tally *t)
{
    const struct tally_figures *f = &t->figures;

    return f->lost + f->twice + f->out_of_order + f->wrong == 0;
}

void tally_add(struct tally_figures *sum, const struct tally_figures *more)
{
    sum->sent += more->sent;
    sum->handed_over += more->handed_over;
    sum->lost += more->lost;
    sum->twice += more->twice;
    sum->out_of_order += more->out_of_order;
    sum->wrong += more->wrong;
}
