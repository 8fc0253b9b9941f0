/* What each process of a test did and saw, written down as it went, in memory that outlives it:
 * killed at any instruction, its book holds all it had noted before. When all is over the books are
 * compared: whoever should have got a message has got it, once, in order, and nothing came that
 * nobody sent (history_check).
 *
 * A *book* belongs to one process and has one writer. A *stream* is a row of messages of one
 * publisher, numbered from 0, among which order is promised: those of one priority. The test says
 * what topics they have; here they are numbers. */
#ifndef MQBROKER_TESTS_SUPPORT_HISTORY_H
#define MQBROKER_TESTS_SUPPORT_HISTORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/histogram.h"

enum {
    HISTORY_BOOKS = 4096,
    HISTORY_STREAMS = 16,
};

/* What an event says; `stream`, `book` and `number` name a message where nothing else is said. */
enum history_kind {
    HISTORY_OFFERED = 1, /* to publish this one of its own has begun */
    HISTORY_TAKEN,       /* the kernel has all that it has offered so far */
    HISTORY_CONFIRMED,   /* the broker has confirmed this one of its own */
    HISTORY_REFUSED,     /* the broker has refused it */
    HISTORY_SUBSCRIBED,  /* from now on it is to get all of this stream, whoever publishes */
    HISTORY_GOT,         /* handed over to it, and as it was made */
    HISTORY_MISSED,      /* `number`: so many were dropped for it, says the library */
    HISTORY_ANSWERED,    /* this one of its own, a request, by `book` */
    HISTORY_UNANSWERED,  /* the same, with the error number `book` */
    HISTORY_FOUND,       /* kept for later subscribers, when all was over */
    HISTORY_SEARCHED,    /* that was all that was kept */
    HISTORY_WILLED,      /* this one of its own is its last will, says the broker */
    /* Of a message that came out of a group; `tries` says how often it came back before: */
    HISTORY_TOOK,     /* it was handed over */
    HISTORY_DONE,     /* is about to be acknowledged */
    HISTORY_RETURNED, /* is about to be given back */
    HISTORY_REJECTED, /* is about to be made a dead letter */
    HISTORY_DEAD,     /* it was found among the dead letters */
    /* Of the test itself: */
    HISTORY_KILLS,   /* it is about to kill `book` */
    HISTORY_STOPS,   /* it is about to stop `book` */
    HISTORY_RESUMED, /* `book` goes on */
    HISTORY_KINDS,
};

struct history_event {
    uint64_t when;   /* nanoseconds of CLOCK_MONOTONIC */
    uint32_t number; /* of the message in its stream */
    uint16_t book;   /* of its publisher */
    uint8_t stream : 4;
    uint8_t tries : 4;
    uint8_t kind; /* enum history_kind */
};

enum history_fate {
    HISTORY_LIVES = 0,
    HISTORY_KILLED, /* at any moment */
    HISTORY_ENDED,  /* by itself, when it had sent what it had begun and read what there was */
};

struct history;

/* Books for HISTORY_BOOKS processes with room for so many events together; 0 is the test's own, and
 * stands for the broker where somebody is killed. Events use memory when they are written. For
 * processes that are forked afterwards. NULL: no memory. */
struct history *history_new(size_t n_events);
struct history *history_free(struct history *h);

/* Begin a book for a process that is going to be forked; `role` is static. `alone`: it sends each
 * message at once, so that who offers the next has had the one before taken. Fails the test if
 * there are too many. */
unsigned history_begin(struct history *h, const char *role, bool alone);

/* What has become of the process. */
void history_close(struct history *h, unsigned book, enum history_fate fate);

/* Is so little room left that it is time to end? */
bool history_is_full(const struct history *h);

/* Note something, with the time. Without room the process ends as a failed actor does. */
void history_note(struct history *h, unsigned book, enum history_kind kind, unsigned stream,
                  unsigned of, uint32_t number);

/* The same of a message that came out of a group. */
void history_note_task(struct history *h, unsigned book, enum history_kind kind, unsigned stream,
                       unsigned of, uint32_t number, unsigned tries);

/* ---- To read in it ---- */

unsigned history_n_books(const struct history *h);
const char *history_role(const struct history *h, unsigned book);
bool history_is_alone(const struct history *h, unsigned book);
enum history_fate history_fate(const struct history *h, unsigned book);

/* A walk through a book. */
struct history_cursor {
    const struct history *history;
    unsigned book;
    uint32_t chunk;
    uint64_t i; /* of the event that comes next */
};

struct history_cursor history_open(const struct history *h, unsigned book);

/* The next event; NULL: that was all. */
const struct history_event *history_next(struct history_cursor *c);

/* "got": what an event says. */
const char *history_kind_name(unsigned kind);

/* ---- To judge ---- */

/* What is promised. Streams are one bit each. */
struct history_rules {
    uint32_t plain;     /* each subscriber is to get all of them */
    uint32_t requests;  /* those among them that are requests: each is answered once */
    uint32_t impatient; /* those whose time may run out */
    uint32_t wills;     /* those that are last wills: published of who is killed, and of no other */
    uint32_t kept;      /* the last one is kept */
    uint32_t tasks;     /* they go to a group: each to one member, until it is acknowledged */
    unsigned limit;     /* deliveries of such a one in vain until it is a dead letter */
    bool lossy;         /* messages may be dropped, and are counted (K11) */
};

/* How long clients waited over the kills of the broker, in nanoseconds: from a kill to the first
 * message handed over, or confirmed, that was offered after it. Where somebody was stopped
 * meanwhile (the broker or the client itself), nothing is recorded. */
struct history_waits {
    struct histogram handed_over;
    struct histogram confirmed;
};

/* Compare the books; all processes have come to their end. False: something is not as promised;
 * that is said on standard error, with the events around it. Adds to `*offered` and `*handed_over`
 * how many messages there were, and to `waits`, which may
 * be NULL. */
bool history_check(const struct history *h, const struct history_rules *rules, uint64_t *offered,
                   uint64_t *handed_over, struct history_waits *waits);

/* The part of it that judges groups. `n_certain` has, for each book and stream, of how many
 * messages the broker certainly has them. Returns how many it found delivered, or -1: something is
 * wrong. */
int64_t history_check_tasks(const struct history *h, const struct history_rules *rules,
                            const uint32_t (*n_certain)[HISTORY_STREAMS]);

#endif
