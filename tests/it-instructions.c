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
 * All clients live in this process, with the same handles from the first kill to the last. In one
 * test they wait for the next broker; in the other they go on while none runs, with what stands in
 * their queues: so answers come to messages of which the next broker does not know yet that they
 * went. There the queues are so narrow that batches go by boxes, too.
 *
 * MQB_LONG tries all instructions, else some that are evenly spread. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
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
    WORKERS = 2,
    JOBS = 16,
    GROUP = READERS, /* the tally's receiver that both workers are */
    LARGE = 150000,  /* bytes: a pool has room for six, so none may be lost */
    WAIT_MS = 10000,
    HIT = 4, /* what meeting a breakpoint costs, in steps */
    SETTLED_BY = 3,
    LOOK_BACK = 512, /* instructions before the one wanted */
#ifdef __SANITIZE_ADDRESS__
    STEPS_MAX =
        1 << 16,     /* of a way: with its checks it is a dozen times as long, so not all of it */
    SHORT_RUNS = 60, /* of each test */
#else
    STEPS_MAX = 1 << 20,
    SHORT_RUNS = 700,
#endif
};

/* Reply queues are 464 bytes wide. */
static const char narrow_config[] =
    "max_clients = 120; store_size = \"16M\"; references = 8192; topic_rows = 32;\n"
    "pool_max = \"1M\"; stall_timeout = \"1h\"; poll_usec = 0;\n";

struct cast {
    struct daemon *daemon;
    struct tracer tracer;
    struct mqc *writers[WRITERS];
    struct mqc *readers[READERS];
    struct mqc *workers[WORKERS];
    struct mqc *server;
    struct mqc *asker;
    bool restless;               /* they go on while no broker runs */
    struct mqc_message question; /* that the server has yet to answer */
    struct mqc_message stale;    /* the one before that */
    struct mqc_message held[READERS];
    struct stamp returned; /* the message that has yet to come back to the group; size 0: none */
    struct mqc_message jobs[WORKERS][JOBS]; /* that workers have and have not decided about */
    unsigned n_jobs[WORKERS];
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
    const struct mqc_group_options patient = {.ack_timeout_ms = 1000 * WAIT_MS};

    for (unsigned i = 0; i < READERS; i++) {
        c->readers[i] = daemon_open(c->daemon, NULL, 0);
        assert_int_equal(mqc_subscribe(c->readers[i], i == 0 ? "load/#" : "load/+", 0), 0);
        tally_listen(&c->tally, i, true);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        c->writers[i] = daemon_open(c->daemon, NULL, MQC_PUBLISH_ONLY);
    for (unsigned i = 0; i < WORKERS; i++) {
        c->workers[i] = daemon_open(c->daemon, NULL, 0);
        assert_int_equal(mqc_join(c->workers[i], "work", "load/#", &patient), 0);
    }
    c->tally.shared[GROUP] = true;
    tally_listen(&c->tally, GROUP, true);
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
    assert_true(mqc_remove_group(c->workers[0], "work") >= 0);
    for (unsigned i = 0; i < WORKERS; i++)
        mqc_close(c->workers[i]);
    mqc_message_free(&c->question);
    mqc_close(c->server);
    mqc_close(c->asker);
}

static int64_t publish(struct cast *c, unsigned writer, unsigned priority, uint32_t size,
                       unsigned flags)
{
    static uint8_t payload[LARGE];
    const struct stamp stamp = {.publisher = writer,
                                .stream = priority,
                                .number = tally_send(&c->tally, writer, priority),
                                .size = size};
    const struct mqc_publication p = {.topic = "load/a",
                                      .payload = payload,
                                      .size = size,
                                      .priority = priority,
                                      .flags = flags | MQC_NOWAIT};
    int64_t r;

    stamp_fill(payload, &stamp);
    r = mqc_publish_with(c->writers[writer], &p);
    if (r < 0)
        tally_wrong(&c->tally, "no room to publish: what was given back did not come back");
    return r;
}

static void answer(struct cast *c, struct mqc_message *question, const char *text)
{
    assert_int_equal(mqc_reply(c->server, question, text, strlen(text)), 0);
    mqc_message_free(question);
    *question = (struct mqc_message){0};
}

/* All is done but the urgent one, which is given back the first time. */
static void decide(struct cast *c, unsigned worker)
{
    for (; c->n_jobs[worker] > 0; c->n_jobs[worker]--) {
        struct mqc_message *m = &c->jobs[worker][c->n_jobs[worker] - 1];

        if (m->attempt == 1 && m->priority == 28) {
            assert_true(stamp_read(m->payload, m->size, &c->returned));
            assert_int_equal(mqc_nack(c->workers[worker], m, 0), 0);
        } else {
            assert_int_equal(mqc_ack(c->workers[worker], m), 0);
        }
        mqc_message_free(m);
    }
    assert_int_equal(mqc_flush(c->workers[worker]), 0);
}

/* What the broker finds when it goes on. Nothing here waits for it. */
static void they_talk(struct cast *c)
{
    static uint8_t unheard[LARGE];
    const struct mqc_publication kept = {
        .topic = "kept", .payload = "this", .size = 4, .priority = 8, .flags = MQC_RETAIN};
    const struct mqc_publication lost = {.topic = "nobody",
                                         .payload = unheard,
                                         .size = sizeof(unheard),
                                         .priority = 8,
                                         .flags = MQC_NOWAIT};
    const struct mqc_publication question = {
        .topic = "@server", .payload = "?", .size = 1, .priority = 16};

    for (unsigned i = 0; i < READERS; i++)
        mqc_message_free(&c->held[i]); /* a large one goes back by its ring */
    for (unsigned i = 0; i < WORKERS; i++)
        decide(c, i);
    publish(c, 0, 8, 64, 0);
    publish(c, 1, 28, 64, 0);
    publish(c, 0, 8, LARGE, 0);
    c->confirm = publish(c, 1, 16, 300, MQC_CONFIRM);
    assert_true(mqc_publish_with(c->writers[0], &kept) >= 0);
    if (mqc_publish_with(c->writers[1], &lost) < 0)
        tally_wrong(&c->tally, "no room to publish: what nobody heard did not come back");
    if (c->stale.number != 0) /* a second time: its name may be another's by now */
        answer(c, &c->stale, "stale");
    if (c->question.number != 0) {
        c->stale = (struct mqc_message){
            .number = c->question.number, .priority = c->question.priority, .flags = MQC_M_REQUEST};
        answer(c, &c->question, "!");
    }
    c->asking = mqc_request_send(c->asker, &question, 1000 * WAIT_MS);
    assert_true(c->asking > 0);
}

static void note_wait(struct cast *c)
{
    uint64_t wait = proof_now() - c->killed;

    if (wait > c->wait)
        c->wait = wait;
}

static bool receive(struct cast *c, struct mqc *client, struct mqc_message *m, int wait_ms)
{
    bool came = mqc_receive(client, m, wait_ms) == 0;

    if (came && wait_ms > 0)
        note_wait(c);
    return came;
}

static void read_all(struct cast *c, unsigned i, int wait_ms)
{
    struct mqc_message m;

    while (tally_open(&c->tally, i) > 0 && receive(c, c->readers[i], &m, wait_ms)) {
        tally_receive(&c->tally, i, m.payload, m.size);
        if (m.size < LARGE) {
            mqc_message_free(&m);
        } else {
            mqc_message_free(&c->held[i]);
            c->held[i] = m;
        }
    }
}

/* One for both workers, who decide later. */
static void take_job(struct cast *c, unsigned worker, const struct mqc_message *m)
{
    struct stamp stamp = {0};

    if (m->attempt == 1) {
        tally_receive(&c->tally, GROUP, m->payload, m->size);
    } else if (m->attempt == 2 && stamp_read(m->payload, m->size, &stamp) &&
               memcmp(&stamp, &c->returned, sizeof(stamp)) == 0) {
        c->returned = (struct stamp){0};
    } else {
        tally_wrong(&c->tally, "the group was given message %u, priority %u in attempt %u",
                    stamp.number, stamp.stream, m->attempt);
    }
    assert_true(c->n_jobs[worker] < JOBS);
    c->jobs[worker][c->n_jobs[worker]++] = *m;
}

static void work_all(struct cast *c, int wait_ms)
{
    uint64_t begun = patience_now();

    while (tally_open(&c->tally, GROUP) > 0 || c->returned.size > 0) {
        bool came = false;

        for (unsigned i = 0; i < WORKERS; i++) {
            struct mqc_message m;

            if (receive(c, c->workers[i], &m, wait_ms > 0)) {
                take_job(c, i, &m);
                came = true;
            }
        }
        if (!came && patience_now() - begun >= (uint64_t)wait_ms)
            return;
    }
}

static void take_reply(struct cast *c, int wait_ms)
{
    struct mqc_message m;

    if (c->asked == 0 || !receive(c, c->asker, &m, wait_ms))
        return;
    if ((int64_t)m.number != c->asked || m.size != 1)
        tally_wrong(&c->tally, "request %lld had the reply of another", (long long)c->asked);
    c->asked = 0;
    mqc_message_free(&m);
}

/* Everybody takes what is for it; and waits for it so long. */
static void they_listen(struct cast *c, int wait_ms)
{
    for (unsigned i = 0; i < READERS; i++)
        read_all(c, i, wait_ms);
    work_all(c, wait_ms);
    take_reply(c, wait_ms);
    if (c->question.number == 0)
        receive(c, c->server, &c->question, wait_ms);
}

/* Everybody has had everything. */
static void expect_all(struct cast *c)
{
    for (unsigned i = 0; i <= GROUP; i++)
        tally_settle(&c->tally, i);
    if (mqc_confirm_wait(c->writers[1], c->confirm, WAIT_MS) != 0)
        tally_wrong(&c->tally, "publish %lld was not confirmed", (long long)c->confirm);
    note_wait(c);
    if (c->asked != 0)
        tally_wrong(&c->tally, "request %lld had no reply", (long long)c->asked);
    if (c->question.number == 0)
        tally_wrong(&c->tally, "a request did not come");
    if (c->returned.size > 0)
        tally_wrong(&c->tally, "message %u did not come back to the group", c->returned.number);
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
    while (w->n < STEPS_MAX) {
        enum tracer_event event = tracer_step(&c->tracer);

        if (event == TRACER_CALL && tracer_sleeps(&c->tracer))
            break;
        assert_true(event == TRACER_CALL || event == TRACER_TRAP);
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
    if (c->restless)
        they_listen(c, 0);
    start(c);
    they_listen(c, WAIT_MS);
    expect_all(c);
    let_it_sleep(c);
    expect_quiet(c, p->points);
    proof_add(p, &c->tally.figures, c->wait);
    c->tally.figures = (struct tally_figures){0};
}

static void kill_at_each(struct cast *c, const char *what)
{
    struct proof *p = calloc(1, sizeof(*p));
    unsigned stride, elsewhere = 0;
    struct way way;

    assert_non_null(p);
    start(c);
    everybody_comes(c);
    let_it_sleep(c);
    for (unsigned i = 0; i < SETTLED_BY;
         i++) { /* the first ones find a store that has yet to grow */
        they_talk(c);
        kill_and_look(c, p);
        c->settled = 0;
    }
    they_talk(c);
    record(c, &way);
    kill_and_look(c, p);
    *p = (struct proof){0};
    stride = proof_stride(way.n, SHORT_RUNS);
    for (unsigned k = 0; k < way.n; k += stride) {
        they_talk(c);
        elsewhere += !go_to(c, &way, k);
        kill_and_look(c, p);
    }
    proof_report(p, what, "kills");
    printf("(a way of %u instructions; in %u runs it was another one)\n", way.n, elsewhere);
    tracer_release(&c->tracer);
    everybody_goes(c);
    free(way.places);
    free(way.nth);
    free(p);
}

static void K_killed_at_each_instruction(void **state)
{
    static struct cast c;

    c.daemon = *state;
    c.daemon->program = getenv("MQB_BROKER"); /* one with a fault planted in it, say */
    daemon_configure(c.daemon, scenario_config);
    kill_at_each(&c, "at an instruction");
}

static void K3_killed_at_each_instruction_while_clients_go_on(void **state)
{
    static struct cast c = {.restless = true};

    c.daemon = *state;
    c.daemon->program = getenv("MQB_BROKER");
    daemon_configure(c.daemon, narrow_config);
    kill_at_each(&c, "at an instruction, clients going on");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TRACER_TEST(K_killed_at_each_instruction),
        TRACER_TEST(K3_killed_at_each_instruction_while_clients_go_on),
    };

    if (!tracer_is_allowed())
        return TRACER_SKIPPED;
    personality((unsigned long)personality(UINT32_MAX) |
                ADDR_NO_RANDOMIZE); /* for brokers to come */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
