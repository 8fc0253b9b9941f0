/* The broker is killed with -9 at each instruction of its way from one sleep to the next, in which
 * it receives, routes and delivers a few messages of all kinds: each run kills it one instruction
 * later than the one before, starts it again, and looks whether everybody has had everything, once,
 * in order (K1–K4).
 *
 * That way is stepped through once and written down. Later runs do not step so far: they run to a
 * breakpoint at an instruction shortly before theirs that is met seldom, and step from there. The
 * way is nearly the same each time: the broker is always a fresh one, at the same addresses, that
 * has taken over the same state, and finds the same messages in its queues, sent while it stood
 * still. Where it differs, it is killed somewhere else, which is as good.
 *
 * All clients live in this process, with the same handles from the first kill to the last.
 *
 * MQB_LONG tries all instructions, else some that are evenly spread. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>

#include <cmocka.h>

#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/proof.h"
#include "tests/support/scenario.h"
#include "tests/support/stamp.h"
#include "tests/support/tally.h"
#include "tests/support/tracer.h"

enum {
    WRITERS = 2,
    READERS = 2,
    LARGE = 3000, /* bytes: in a pool */
    WAIT_MS = 10000,
    STEPS_MAX = 1 << 20,
    HIT = 4,         /* what meeting a breakpoint costs, in steps */
    LOOK_BACK = 512, /* instructions before the one wanted */
#ifdef __SANITIZE_ADDRESS__
    SHORT_RUNS = 120,
#else
    SHORT_RUNS = 2000,
#endif
};

struct cast {
    struct daemon *daemon;
    struct tracer tracer;
    struct mqc *writers[WRITERS];
    struct mqc *readers[READERS];
    struct mqc *server;
    struct mqc *asker;
    struct mqc_message question; /* that the server has yet to answer */
    struct mqc_message held[READERS];
    int64_t asked;    /* the request that this is; 0: none */
    int64_t asking;   /* the one that was sent last */
    int64_t confirm;  /* that is waited for */
    uint64_t killed;  /* when, by proof_now() */
    uint64_t wait;    /* the longest since then */
    uint64_t settled; /* references in use when all is quiet */
    struct tally tally;
};

/* ---- The clients ---- */

static void everybody_comes(struct cast *c)
{
    for (unsigned i = 0; i < READERS; i++) {
        c->readers[i] = daemon_open(c->daemon, NULL, 0);
        assert_int_equal(mqc_subscribe(c->readers[i], i == 0 ? "load/#" : "load/+", 0), 0);
        tally_listen(&c->tally, i, true);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        c->writers[i] = daemon_open(c->daemon, NULL, MQC_PUBLISH_ONLY);
    c->server = daemon_open(c->daemon, "server", 0);
    c->asker = daemon_open(c->daemon, NULL, 0);
}

static void everybody_goes(struct cast *c)
{
    for (unsigned i = 0; i < READERS; i++) {
        mqc_message_free(&c->held[i]);
        assert_int_equal(mqc_missed(c->readers[i]), 0);
        mqc_close(c->readers[i]);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        mqc_close(c->writers[i]);
    mqc_message_free(&c->question);
    mqc_close(c->server);
    mqc_close(c->asker);
}

static int64_t publish(struct cast *c, unsigned writer, unsigned priority, uint32_t size,
                       unsigned flags)
{
    uint8_t payload[LARGE];
    const struct stamp stamp = {.publisher = writer,
                                .stream = priority,
                                .number = tally_send(&c->tally, writer, priority),
                                .size = size};
    const struct mqc_publication p = {
        .topic = "load/a", .payload = payload, .size = size, .priority = priority, .flags = flags};
    int64_t r;

    stamp_fill(payload, &stamp);
    r = mqc_publish_with(c->writers[writer], &p);
    assert_true(r >= 0);
    return r;
}

/* What the broker finds when it goes on. Nothing here waits for it. */
static void they_talk(struct cast *c)
{
    const struct mqc_publication kept = {
        .topic = "kept", .payload = "this", .size = 4, .priority = 8, .flags = MQC_RETAIN};
    const struct mqc_publication question = {
        .topic = "@server", .payload = "?", .size = 1, .priority = 16};

    for (unsigned i = 0; i < READERS; i++)
        mqc_message_free(&c->held[i]); /* a large one goes back by its ring */
    publish(c, 0, 8, 64, 0);
    publish(c, 1, 28, 64, 0);
    publish(c, 0, 8, LARGE, 0);
    c->confirm = publish(c, 1, 16, 300, MQC_CONFIRM);
    assert_true(mqc_publish_with(c->writers[0], &kept) >= 0);
    if (c->asked > 0)
        assert_int_equal(mqc_reply(c->server, &c->question, "!", 1), 0);
    mqc_message_free(&c->question);
    c->asking = mqc_request_send(c->asker, &question, 1000 * WAIT_MS);
    assert_true(c->asking > 0);
}

static void note_wait(struct cast *c)
{
    uint64_t wait = proof_now() - c->killed;

    if (wait > c->wait)
        c->wait = wait;
}

static int receive(struct cast *c, struct mqc *client, struct mqc_message *m)
{
    int r = mqc_receive(client, m, WAIT_MS);

    note_wait(c);
    return r;
}

static void read_all(struct cast *c, unsigned i)
{
    struct mqc_message m;

    while (tally_open(&c->tally, i) > 0 && receive(c, c->readers[i], &m) == 0) {
        tally_receive(&c->tally, i, m.payload, m.size);
        if (m.size < LARGE) {
            mqc_message_free(&m);
        } else {
            mqc_message_free(&c->held[i]);
            c->held[i] = m;
        }
    }
    tally_settle(&c->tally, i);
}

/* Everybody gets what is for it. */
static void they_listen(struct cast *c)
{
    struct mqc_message m;

    for (unsigned i = 0; i < READERS; i++)
        read_all(c, i);
    if (mqc_confirm_wait(c->writers[1], c->confirm, WAIT_MS) != 0)
        tally_wrong(&c->tally, "publish %lld was not confirmed", (long long)c->confirm);
    note_wait(c);
    if (c->asked > 0) {
        if (receive(c, c->asker, &m) != 0 || (int64_t)m.number != c->asked || m.size != 1)
            tally_wrong(&c->tally, "request %lld had no reply, or another's", (long long)c->asked);
        mqc_message_free(&m);
    }
    if (receive(c, c->server, &c->question) != 0)
        tally_wrong(&c->tally, "a request did not come");
    c->asked = c->asking;
}

/* ---- The broker ---- */

static void start(struct cast *c)
{
    tracer_start(&c->tracer, c->daemon);
    tracer_run(&c->tracer);
    daemon_await(c->daemon);
}

/* It stands before the call in which it sleeps, and has nothing to do. */
static void let_it_sleep(struct cast *c)
{
    uint64_t begun = patience_now();

    tracer_hold(&c->tracer);
    do {
        assert_true(tracer_next(&c->tracer) <= TRACER_RETURN);
        if (patience_now() - begun > WAIT_MS)
            fail_msg("the broker does not come to rest");
    } while (!c->tracer.entered || !tracer_sleeps(&c->tracer));
}

/* The instructions from one sleep to the next, in the order in which they are executed; and for
 * each how often it was executed until then. */
struct way {
    uint64_t *places;
    unsigned *nth;
    unsigned n;
};

static int by_place(const void *a, const void *b)
{
    const uint64_t *x = *(const uint64_t *const *)a;
    const uint64_t *y = *(const uint64_t *const *)b;

    if (*x != *y)
        return *x < *y ? -1 : 1;
    return x < y ? -1 : x > y; /* in their order */
}

static void count(struct way *w)
{
    const uint64_t **sorted = calloc(w->n, sizeof(*sorted));

    assert_non_null(sorted);
    for (unsigned i = 0; i < w->n; i++)
        sorted[i] = &w->places[i];
    qsort(sorted, w->n, sizeof(*sorted), by_place);
    for (unsigned i = 0; i < w->n; i++) {
        unsigned at = (unsigned)(sorted[i] - w->places);

        w->nth[at] =
            i > 0 && *sorted[i - 1] == *sorted[i] ? w->nth[sorted[i - 1] - w->places] + 1 : 1;
    }
    free(sorted);
}

/* Step through it once. */
static void record(struct cast *c, struct way *w)
{
    *w = (struct way){.places = calloc(STEPS_MAX, sizeof(*w->places)),
                      .nth = calloc(STEPS_MAX, sizeof(*w->nth))};
    assert_true(w->places != NULL && w->nth != NULL);
    for (;;) {
        enum tracer_event event = tracer_step(&c->tracer);

        if (event == TRACER_CALL && tracer_sleeps(&c->tracer))
            break;
        assert_true(event == TRACER_CALL || event == TRACER_TRAP);
        assert_true(w->n < STEPS_MAX);
        if (event == TRACER_TRAP)
            w->places[w->n++] = tracer_place(&c->tracer);
    }
    count(w);
}

/* The instruction from which to step to number `k` costs least. */
static unsigned anchor(const struct way *w, unsigned k)
{
    unsigned best = k;
    unsigned cost = HIT * w->nth[k];

    for (unsigned i = k; i-- > 0 && k - i < LOOK_BACK && k - i < cost;) {
        if (HIT * w->nth[i] + (k - i) < cost) {
            cost = HIT * w->nth[i] + (k - i);
            best = i;
        }
    }
    return best;
}

/* Run to instruction number `k`. False: it went another way. */
static bool go_to(struct cast *c, const struct way *w, unsigned k)
{
    struct tracer *t = &c->tracer;
    unsigned i = anchor(w, k);

    if (!tracer_run_to(t, w->places[i], w->nth[i]))
        return false;
    while (i < k) {
        enum tracer_event event = tracer_step(t);

        if (event == TRACER_CALL && tracer_sleeps(t))
            return false;
        i += event == TRACER_TRAP;
    }
    return tracer_place(t) == w->places[k];
}

/* ---- The test ---- */

static void expect_quiet(struct cast *c, unsigned run)
{
    uint64_t references = board_get(&daemon_board(c->daemon)->references_used);

    if (c->settled == 0)
        c->settled = references;
    if (!tally_is_right(&c->tally))
        fail_msg("run %u: %s", run, c->tally.first);
    if (references != c->settled)
        fail_msg("run %u: %llu references in use, and %llu before", run,
                 (unsigned long long)references, (unsigned long long)c->settled);
}

/* A kill, a start, and what everybody notices of it. */
static void kill_and_look(struct cast *c, struct proof *p)
{
    c->killed = proof_now();
    c->wait = 0;
    tracer_kill(&c->tracer);
    start(c);
    they_listen(c);
    let_it_sleep(c);
    expect_quiet(c, p->points);
    proof_add(p, &c->tally.figures, c->wait);
    c->tally.figures = (struct tally_figures){0};
}

static void K_killed_at_each_instruction(void **state)
{
    static struct cast c;
    static struct proof p;
    unsigned stride, elsewhere = 0;
    struct way way;

    c.daemon = *state;
    c.daemon->program = getenv("MQB_BROKER"); /* one with a fault planted in it, say */
    daemon_configure(c.daemon, scenario_config);
    start(&c);
    everybody_comes(&c);
    they_talk(&c);
    they_listen(&c);
    let_it_sleep(&c);
    they_talk(&c);
    kill_and_look(&c, &(struct proof){0}); /* what follows has been adopted, each time */
    they_talk(&c);
    record(&c, &way);
    kill_and_look(&c, &(struct proof){0});
    stride = proof_stride(way.n, SHORT_RUNS);
    for (unsigned k = 0; k < way.n; k += stride) {
        they_talk(&c);
        elsewhere += !go_to(&c, &way, k);
        kill_and_look(&c, &p);
    }
    proof_report(&p, "at an instruction", "kills");
    printf("(a way of %u instructions; in %u runs it was another one)\n", way.n, elsewhere);
    tracer_release(&c.tracer);
    everybody_goes(&c);
    free(way.places);
    free(way.nth);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TRACER_TEST(K_killed_at_each_instruction),
    };

    if (!tracer_is_allowed())
        return TRACER_SKIPPED;
    personality((unsigned long)personality(UINT32_MAX) |
                ADDR_NO_RANDOMIZE); /* for brokers to come */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
