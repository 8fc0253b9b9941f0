/* A storm: under full load broker and clients are killed with -9 and stopped, at random, one
 * after the other; the broker is started again at once. What each client did and saw stands in a
 * history that outlives it, and after some hundreds of kills, an *epoch*, all of them are compared:
 * nothing lost, nothing twice, nothing out of order, nothing from nowhere (support/history.h). Then
 * nothing may be left either: no queue, no segment, no descriptor, no reference.
 *
 *     it-storm [KILLS [SEED [CLIMATE]]]
 *
 * Without arguments it rages for a few seconds; with MQB_LONG=1 in the environment 100,000 times.
 * The seed is printed; it says who is struck when, but not what the machine does meanwhile. With
 * MQB_BROKER=PATH another broker is tried, such as one with a fault planted in it. */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "libclient/pool.h"
#include "tests/support/crew.h"
#include "tests/support/daemon.h"
#include "tools/bench-folder.h"
#include "tests/support/patience.h"
#include "tests/support/stamp.h"

enum {
    SHORT_MS = 8000,
    LONG_KILLS = 100000,
    EPOCH_KILLS = 400,
    VICTIMS = 8,
    PLACES_MAX = VICTIMS + 8,
    EVENTS = 24 << 20, /* of an epoch, at most */
    NAP_US = 9000,     /* between two strikes, at most */
    STOP_US = 6000,    /* somebody stands still, at most */
    POOL_FULL = (2 << 20) - POOL_PAYLOADS,
    START_US = 4000, /* a broker that is starting lives, if it is killed then */
};

/* What an epoch is like. */
struct climate {
    const char *config;
    bool lossy;
    bool wills;       /* clients leave wills */
    bool durable;     /* there is a journal, and the group is durable */
    uint32_t largest; /* payload */
    uint32_t rest_us; /* of readers */
    size_t pool_size; /* all that fits a pool, if that is to be tried */
    enum crew_role survivors[PLACES_MAX - VICTIMS];
    unsigned n_survivors;
    enum crew_role victims[CREW_ROLES];
    unsigned n_victims; /* roles to choose from */
};

static const struct climate climates[] = {
    {.config = "stall_timeout = \"1h\"; max_clients = 40;",
     .largest = 8000,
     .survivors = {CREW_FLOOD, CREW_SURE, CREW_READER, CREW_HOLDER, CREW_ASKER, CREW_ANSWERER},
     .n_survivors = 6,
     .victims = {CREW_FLOOD, CREW_MIX, CREW_SURE, CREW_READER, CREW_HOLDER, CREW_RETAINER,
                 CREW_ASKER, CREW_ANSWERER, CREW_GAMBLER, CREW_DEALER},
     .n_victims = 10},
    /* Queues so narrow that batches go by the outbox, and lie there until the reader has rested. */
    {.config = "stall_timeout = \"1h\"; max_clients = 120;",
     .largest = 1000,
     .rest_us = 20000,
     .survivors = {CREW_FLOOD, CREW_SURE, CREW_READER, CREW_READER},
     .n_survivors = 4,
     .victims = {CREW_FLOOD, CREW_MIX, CREW_READER, CREW_HOLDER},
     .n_victims = 4},
    /* Pools so small that publishers wait for them. */
    {.config = "stall_timeout = \"1h\"; max_clients = 100; pool_max = \"2M\";",
     .largest = 200000,
     .pool_size = POOL_FULL,
     .survivors = {CREW_MIX, CREW_MIX, CREW_SURE, CREW_READER, CREW_HOLDER},
     .n_survivors = 5,
     .victims = {CREW_MIX, CREW_SURE, CREW_READER, CREW_HOLDER, CREW_RETAINER},
     .n_victims = 5},
    /* Requests, and little else; to one who lives, so that each reply counts, and some who do not.
     */
    {.config = "stall_timeout = \"1h\"; max_clients = 40;",
     .largest = 1000,
     .survivors = {CREW_ASKER, CREW_ASKER, CREW_ANSWERER, CREW_GAMBLER, CREW_GAMBLER},
     .n_survivors = 5,
     .victims = {CREW_GAMBLER, CREW_DEALER, CREW_DEALER, CREW_ASKER, CREW_RETAINER},
     .n_victims = 5},
    /* A group, and wills. */
    {.config = "stall_timeout = \"1h\"; max_clients = 40; ack_timeout = \"1h\"; "
               "group_overflow = \"block\";",
     .wills = true,
     .largest = 4000,
     .survivors = {CREW_WORKER, CREW_PRODUCER, CREW_READER, CREW_SURE},
     .n_survivors = 4,
     .victims = {CREW_WORKER, CREW_WORKER, CREW_WORKER, CREW_PRODUCER, CREW_PRODUCER, CREW_READER,
                 CREW_MIX},
     .n_victims = 7},
    /* A durable group: what is confirmed is on the disk, and read again from there. */
    {.config = "stall_timeout = \"1h\"; max_clients = 40; ack_timeout = \"1h\"; "
               "group_overflow = \"block\"; journal_segment = \"1M\"; journal_size = \"1G\";",
     .durable = true,
     .largest = 20000,
     .survivors = {CREW_WORKER, CREW_PRODUCER, CREW_READER, CREW_SURE},
     .n_survivors = 4,
     .victims = {CREW_WORKER, CREW_WORKER, CREW_WORKER, CREW_PRODUCER, CREW_PRODUCER, CREW_READER,
                 CREW_RETAINER},
     .n_victims = 7},
    /* Readers that rest are stalled soon. Publishers live: of those who are killed nobody could
     * tell whether their last messages were sent, or dropped. */
    {.config = "stall_timeout = \"10ms\"; max_clients = 40;",
     .lossy = true,
     .largest = 8000,
     .rest_us = 100000,
     .survivors = {CREW_READER, CREW_HOLDER, CREW_READER, CREW_FLOOD, CREW_FLOOD, CREW_MIX,
                   CREW_SURE},
     .n_survivors = 7,
     .victims = {CREW_READER, CREW_HOLDER},
     .n_victims = 2},
};

enum { CLIMATES = sizeof(climates) / sizeof(climates[0]) };

/* Where a client stands, one after the other if it is a victim's. */
struct place {
    struct actor actor;
    struct crew_part part;
    bool ready;         /* has opened its handle, and subscribed, */
    bool open;          /* or it was too late for that */
    uint64_t resume_at; /* microseconds; 0: it runs */
};

struct tally {
    uint64_t kills; /* of clients */
    uint64_t broker_kills;
    uint64_t stops;
    uint64_t offered;
    uint64_t handed_over;
    uint64_t dropped;
    struct history_waits waits;
};

struct storm {
    struct daemon *daemon;
    const struct climate *climate;
    struct history *history;
    struct crew_world *world;
    struct tally *tally;
    uint32_t random;
    struct place places[PLACES_MAX];
    unsigned n_places;
    unsigned descriptors; /* of a broker without clients */
};

static struct folder journal; /* where the climate has one */

/* ---- Time and chance ---- */

static uint64_t now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static uint32_t chance(struct storm *s, uint32_t of)
{
    return stamp_random(&s->random) % of;
}

static void resume_those_due(struct storm *s, bool all)
{
    for (unsigned i = 0; i < s->n_places; i++) {
        struct place *p = &s->places[i];

        if (p->resume_at == 0 || (p->resume_at > now_us() && !all))
            continue;
        actor_resume(&p->actor);
        history_note(s->history, 0, HISTORY_RESUMED, 0, p->part.book, 0);
        p->resume_at = 0;
    }
}

static void nap(struct storm *s, uint32_t most_us)
{
    uint64_t until = now_us() + chance(s, most_us);

    while (now_us() < until) {
        resume_those_due(s, false);
        usleep(500);
    }
}

/* ---- Strikes ---- */

/* What the broker says that it did not take: perhaps that is it. */
static void say_refused(const struct board_header *board)
{
#define SAY(key, unit, sentence)                                                                   \
    if (board_get(&counters->key) > 0)                                                             \
        fprintf(stderr, "the board: %s: %llu\n", sentence,                                         \
                (unsigned long long)board_get(&counters->key));
    {
        const struct board_refusals *counters = &board->refusals;
        BOARD_REFUSALS(SAY)
    }
    {
        const struct board_rejects *counters = &board->rejects;
        BOARD_REJECTS(SAY)
    }
    {
        const struct board_drops *counters = &board->drops;
        BOARD_DROPS(SAY)
    }
#undef SAY
    fprintf(stderr,
            "the board: the journal has %llu bytes in segments of at most %llu, %llu live\n",
            (unsigned long long)board_get(&board->journal.size),
            (unsigned long long)board_get(&board->journal.size_max),
            (unsigned long long)board_get(&board->journal.live));
}

/* It must not have ended by itself: then something was not as it should be. */
static void expect_alive(const struct storm *s, const struct place *p)
{
    siginfo_t info = {0};

    assert_int_equal(waitid(P_PID, (id_t)p->actor.pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    if (info.si_pid == 0)
        return;
    say_refused(daemon_board(s->daemon));
    fail_msg("a client of book %u has given up, see above", p->part.book);
}

static void begin_client(struct storm *s, struct place *p, enum crew_role role)
{
    p->part = (struct crew_part){
        .instance = s->daemon->instance,
        .world = s->world,
        .history = s->history,
        .role = role,
        .seed = stamp_random(&s->random),
        .largest = s->climate->largest,
        .rest_us = s->climate->rest_us,
        .pool_size = s->climate->pool_size,
        .wills = s->climate->wills,
        .durable = s->climate->durable,
    };
    p->ready = false;
    p->resume_at = 0;
    crew_start(&p->actor, &p->part);
}

static void begin_victim(struct storm *s, struct place *p)
{
    begin_client(s, p, s->climate->victims[chance(s, s->climate->n_victims)]);
}

static struct place *somebody(struct storm *s, unsigned from)
{
    return &s->places[from + chance(s, s->n_places - from)];
}

static void kill_client(struct storm *s)
{
    struct place *p = somebody(s, s->climate->n_survivors);

    expect_alive(s, p);
    history_note(s->history, 0, HISTORY_KILLS, 0, p->part.book, 0);
    actor_kill(&p->actor);
    history_close(s->history, p->part.book, HISTORY_KILLED);
    s->tally->kills++;
    begin_victim(s, p);
}

static void stop_client(struct storm *s)
{
    struct place *p = somebody(s, 0);

    if (p->resume_at != 0)
        return;
    expect_alive(s, p);
    history_note(s->history, 0, HISTORY_STOPS, 0, p->part.book, 0);
    actor_pause(&p->actor);
    p->resume_at = now_us() + 1 + chance(s, STOP_US);
    s->tally->stops++;
}

static void kill_broker(struct storm *s)
{
    history_note(s->history, 0, HISTORY_KILLS, 0, 0, 0);
    daemon_kill(s->daemon);
    s->tally->broker_kills++;
}

/* Now and then the next one does not even come to serve. */
static void kill_and_restart(struct storm *s)
{
    kill_broker(s);
    daemon_spawn(s->daemon, NULL, NULL);
    while (chance(s, 4) == 0) {
        usleep(chance(s, START_US));
        kill_broker(s);
        daemon_spawn(s->daemon, NULL, NULL);
    }
    daemon_await(s->daemon);
}

static void stop_broker(struct storm *s)
{
    history_note(s->history, 0, HISTORY_STOPS, 0, 0, 0);
    daemon_pause(s->daemon);
    s->tally->stops++;
    nap(s, STOP_US);
    if (chance(s, 3) == 0)
        kill_and_restart(s);
    else
        daemon_resume(s->daemon);
    history_note(s->history, 0, HISTORY_RESUMED, 0, 0, 0);
}

static void strike(struct storm *s)
{
    uint32_t dice = chance(s, 100);

    if (dice < 40)
        kill_client(s);
    else if (dice < 75)
        kill_and_restart(s);
    else if (dice < 92)
        stop_client(s);
    else
        stop_broker(s);
    nap(s, NAP_US);
}

/* ---- An epoch ---- */

static void expect_ready(struct storm *s, struct place *p)
{
    (void)s;
    if (!p->ready)
        p->open = actor_hear(&p->actor) == 1;
    p->ready = true;
}

/* Descriptors of the broker, but for the journal's files, of which there are as many as it needs.
 */
static unsigned descriptors(const struct daemon *d, bool say)
{
    char path[64], target[256];
    unsigned count = 0;

    for (unsigned fd = 0; fd < 512; fd++) {
        ssize_t n;

        snprintf(path, sizeof(path), "/proc/%d/fd/%u", (int)d->pid, fd);
        n = readlink(path, target, sizeof(target) - 1);
        if (n < 0 || (n > 4 && memcmp(target + n - 4, ".mqj", 4) == 0))
            continue;
        count++;
        if (say)
            fprintf(stderr, "descriptor %u: %.*s\n", fd, (int)n, target);
    }
    return count;
}

static void start_broker(struct storm *s)
{
    char config[512];

    snprintf(config, sizeof(config), "%s", s->climate->config);
    if (s->climate->durable) {
        size_t n = strlen(config);

        assert_int_equal(folder_make(&journal, "/tmp"), 0);
        snprintf(config + n, sizeof(config) - n, " journal = \"%s\";", journal.path);
    }
    daemon_start(s->daemon, config);
}

static void begin(struct storm *s)
{
    const struct climate *c = s->climate;

    s->history = history_new(EVENTS);
    assert_non_null(s->history);
    s->world->over = 0;
    s->world->drained = 0;
    assert_int_equal(ftruncate(s->daemon->log, 0), 0);
    start_broker(s);
    PATIENCE_UNTIL(atomic_load(&daemon_board(s->daemon)->asleep) == BOARD_ASLEEP);
    s->descriptors = descriptors(s->daemon, false); /* nothing more is open for a moment only */
    s->n_places = c->n_survivors + VICTIMS;
    for (unsigned i = 0; i < c->n_survivors; i++) {
        begin_client(s, &s->places[i], c->survivors[i]);
        expect_ready(s, &s->places[i]);
    }
    for (unsigned i = c->n_survivors; i < s->n_places; i++)
        begin_victim(s, &s->places[i]);
}

static void rage(struct storm *s, uint64_t kills, uint64_t until_us)
{
    const struct tally *t = s->tally;
    uint64_t before = t->kills + t->broker_kills;

    while (t->kills + t->broker_kills - before < kills && now_us() < until_us &&
           !history_is_full(s->history))
        strike(s);
}

/* Hear its last word; let the storm go on over it. */
static void hear_done(struct storm *s, struct place *p)
{
    if (chance(s, 4) == 0)
        kill_and_restart(s);
    expect_ready(s, p);
    actor_hear(&p->actor);
}

/* A counter of all rows of the board together. */
static uint64_t board_sum(const struct board_header *board, size_t counter)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < board->n_rows; i++)
        n += board_get((const _Atomic uint64_t *)((const char *)board_row(board, i) + counter));
    return n;
}

static void end_client(struct storm *s, struct place *p)
{
    if (chance(s, 4) == 0)
        kill_and_restart(s);
    actor_tell(&p->actor, 0);
    actor_join(&p->actor);
    history_close(s->history, p->part.book, HISTORY_ENDED);
}

/* What is kept, and then nothing is kept any more. */
static void search(struct storm *s, struct mqc *client)
{
    struct mqc_message m;

    assert_int_equal(mqc_subscribe(client, CREW_END, 0), 0);
    assert_int_equal(mqc_subscribe(client, "kept/#", 0), 0);
    assert_int_equal(mqc_publish(client, CREW_END, "", 0, 0), 0);
    for (;;) {
        struct mqc_publication nothing = {.payload = "", .priority = 8, .flags = MQC_RETAIN};
        struct stamp stamp;

        assert_int_equal(mqc_receive(client, &m, PATIENCE_MS), 0);
        if (strcmp(m.topic, CREW_END) == 0)
            break;
        if ((m.flags & MQC_M_RETAINED) != 0) {
            assert_true(stamp_read(m.payload, m.size, &stamp));
            history_note(s->history, 0, HISTORY_FOUND, stamp.stream, stamp.publisher, stamp.number);
            nothing.topic = m.topic;
            assert_int_equal(mqc_publish_with(client, &nothing), 0);
        }
        mqc_message_free(&m);
    }
    mqc_message_free(&m);
    history_note(s->history, 0, HISTORY_SEARCHED, 0, 0, 0);
}

enum kind { PUBLISHERS, ASKERS, WORKERS, READERS };

static enum kind kind_of(const struct place *p)
{
    enum crew_role role = p->part.role;

    return crew_reads(role)   ? READERS
           : crew_works(role) ? WORKERS
           : crew_asks(role)  ? ASKERS
                              : PUBLISHERS;
}

/* All clients of a kind, one after the other. */
static void for_all(struct storm *s, enum kind kind, void (*f)(struct storm *, struct place *))
{
    for (unsigned i = 0; i < s->n_places; i++) {
        if (kind_of(&s->places[i]) == kind)
            f(s, &s->places[i]);
    }
}

/* A counter of all groups together. */
static uint64_t groups_sum(const struct board_header *board, size_t counter)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < board->n_groups; i++)
        n += board_get((const _Atomic uint64_t *)((const char *)board_group(board, i) + counter));
    return n;
}

/* The dead letters; then the group ends. */
static void bury_group(struct storm *s, struct mqc *client)
{
    const struct board_header *board = daemon_board(s->daemon);

    if (mqc_join(client, "$dead/" CREW_GROUP, NULL, NULL) < 0)
        return; /* nobody has ever worked in this climate */
    while (groups_sum(board, offsetof(struct board_group, dead)) > 0) {
        struct mqc_message m;
        struct stamp stamp;
        int r = mqc_receive(client, &m, 10);

        if (r == -ETIMEDOUT)
            continue;
        assert_int_equal(r, 0);
        assert_true(stamp_read(m.payload, m.size, &stamp));
        history_note_task(s->history, 0, HISTORY_DEAD, stamp.stream, stamp.publisher, stamp.number,
                          m.attempt - 1);
        assert_int_equal(mqc_ack(client, &m), 0);
        mqc_message_free(&m);
        assert_int_equal(mqc_flush(client), 0);
    }
    assert_int_equal(mqc_leave(client, "$dead/" CREW_GROUP), 0);
    assert_true(mqc_remove_group(client, CREW_GROUP) >= 0);
}

/* Those who have a session, and one more. */
static unsigned expected_rows(const struct storm *s)
{
    unsigned n = 1;

    for (unsigned i = 0; i < s->n_places; i++)
        n += s->places[i].open && s->places[i].actor.pid != 0;
    return n;
}

static bool groups_look_empty(const struct storm *s)
{
    const struct board_header *board = daemon_board(s->daemon);

    return groups_sum(board, offsetof(struct board_group, waiting)) == 0 &&
           groups_sum(board, offsetof(struct board_group, unacknowledged)) == 0;
}

/* The board is written word by word, and a message that is just given to a worker may stand in none
 * of them. So there is a turn of the broker between two looks. */
static bool groups_are_empty(const struct storm *s, struct mqc *client)
{
    const struct mqc_publication p = {.topic = "nobody", .payload = "", .flags = MQC_CONFIRM};
    int64_t number;

    if (!groups_look_empty(s))
        return false;
    number = mqc_publish_with(client, &p);
    assert_true(number > 0);
    assert_int_equal(mqc_confirm_wait(client, number, PATIENCE_MS), 0);
    return groups_look_empty(s);
}

/* Those who publish come to their end; then those who work, when nothing is left for them; then
 * those who receive read the last message of all. Nothing is under way any more; so pools are
 * empty, while all other sessions are still there. */
static void end(struct storm *s)
{
    const struct board_header *board = daemon_board(s->daemon);
    struct mqc *client;

    s->world->over = 1;
    resume_those_due(s, true);
    for_all(s, READERS, expect_ready);
    for_all(s, WORKERS, expect_ready);
    for_all(s, PUBLISHERS, hear_done);
    for_all(s, ASKERS, hear_done);
    for_all(s, ASKERS, end_client); /* late replies may still come to them */
    client = daemon_open(s->daemon, NULL, 0);
    PATIENCE_UNTIL(daemon_rows(s->daemon) == expected_rows(s)); /* the dead have been buried */
    PATIENCE_UNTIL(groups_are_empty(s, client));
    s->world->drained = 1;
    for_all(s, WORKERS, hear_done);
    for_all(s, WORKERS, end_client);
    bury_group(s, client);
    assert_int_equal(mqc_publish(client, CREW_END, "", 0, 0), 0);
    for_all(s, READERS, hear_done);
    search(s, client);
    PATIENCE_UNTIL(board_sum(board, offsetof(struct board_row, held)) == 0);
    PATIENCE_UNTIL(board_sum(board, offsetof(struct board_row, waiting)) == 0);
    for_all(s, PUBLISHERS, end_client);
    for_all(s, READERS, end_client);
    mqc_close(client);
}

/* The broker has as many as before there was anybody. */
static void expect_descriptors(const struct storm *s)
{
    uint64_t begun = patience_now();

    while (descriptors(s->daemon, false) != s->descriptors) {
        if (patience_now() - begun > PATIENCE_MS) {
            descriptors(s->daemon, true);
            fail_msg("the broker had %u descriptors to begin with", s->descriptors);
        }
        usleep(1000);
    }
}

static void expect_nothing_left(struct storm *s)
{
    struct daemon *d = s->daemon;
    const struct board_header *board = daemon_board(d);

    PATIENCE_UNTIL(daemon_rows(d) == 0);
    PATIENCE_UNTIL(board_get(&board->references_used) == 0);
    PATIENCE_UNTIL(board_get(&board->cells_used) == 0);
    PATIENCE_UNTIL(board_get(&board->pools) == 0 && board_get(&board->orphans) == 0);
    PATIENCE_UNTIL(daemon_segments(d, ".pool") == 0 && daemon_segments(d, ".outbox") == 0);
    expect_descriptors(s);
    assert_int_equal(board_get(&board->refusals.bad_slot), 0);
    assert_int_equal(board_get(&board->rejects.frame), 0);
    assert_int_equal(board_get(&board->totals.ended), 0);
    s->tally->dropped += board_get(&board->drops.overflow);
    assert_int_equal(daemon_stop(d), 0);
    assert_true(daemon_is_gone(d));
    d->n_nonces = 0;
}

static void judge(struct storm *s)
{
    struct history_rules rules = crew_rules;
    bool rests = s->climate->rest_us != 0; /* then it is not the broker that is waited for */

    rules.lossy = s->climate->lossy;
    if (!history_check(s->history, &rules, &s->tally->offered, &s->tally->handed_over,
                       rests ? NULL : &s->tally->waits)) {
        say_refused(daemon_board(s->daemon));
        fail_msg("the history is not as promised, see above");
    }
    s->history = history_free(s->history);
}

static void endure(struct storm *s, uint64_t kills, uint64_t until_us)
{
    begin(s);
    rage(s, kills, until_us);
    end(s);
    judge(s);
    expect_nothing_left(s);
    if (s->climate->durable)
        folder_remove(&journal);
}

/* ---- The test ---- */

static uint64_t kills_wanted; /* 0: for a few seconds */
static uint32_t seed = 2463534242;
static const struct climate *only; /* this one; NULL: one after the other */
static struct tally tally;

static void say_epoch(unsigned epoch, double seconds)
{
    uint64_t kills = tally.kills + tally.broker_kills;

    fprintf(stderr, "epoch %u: %llu kills (%.0f a second), %llu messages\n", epoch,
            (unsigned long long)kills, (double)kills / seconds, (unsigned long long)tally.offered);
}

static void say_waits(const char *what, const struct histogram *h)
{
    printf("from a kill to the next %s: median %.1f ms, 99 %% %.1f ms, worst %.1f ms (%llu)\n",
           what, (double)histogram_percentile(h, 500) / 1e6,
           (double)histogram_percentile(h, 990) / 1e6, (double)h->max / 1e6,
           (unsigned long long)h->count);
}

static void say_all(double seconds)
{
    printf("%llu kills of the broker, %llu of clients, and %llu stops in %.0f s (%.0f kills a "
           "second): all of %llu messages handed over as promised, %llu times; %llu dropped where "
           "they may be, and counted\n",
           (unsigned long long)tally.broker_kills, (unsigned long long)tally.kills,
           (unsigned long long)tally.stops, seconds,
           (double)(tally.kills + tally.broker_kills) / seconds, (unsigned long long)tally.offered,
           (unsigned long long)tally.handed_over, (unsigned long long)tally.dropped);
    say_waits("message handed over", &tally.waits.handed_over);
    say_waits("publish confirmed", &tally.waits.confirmed);
}

static void K_nothing_is_lost_or_comes_twice_in_a_storm(void **state)
{
    struct storm s = {.daemon = *state, .tally = &tally};
    uint64_t begun = now_us();
    uint64_t kills = kills_wanted != 0 ? kills_wanted : CLIMATES * EPOCH_KILLS;

    s.daemon->program = getenv("MQB_BROKER");
    s.world =
        mmap(NULL, sizeof(*s.world), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(s.world != MAP_FAILED);
    for (unsigned epoch = 0; tally.kills + tally.broker_kills < kills; epoch++) {
        uint64_t left = kills - tally.kills - tally.broker_kills;
        uint64_t until = UINT64_MAX;

        if (kills_wanted == 0 && epoch == CLIMATES)
            break;
        if (kills_wanted == 0)
            until = now_us() + SHORT_MS / CLIMATES * 1000;
        fprintf(stderr, "seed %u, epoch %u\n", seed, epoch);
        s.climate = only != NULL ? only : &climates[epoch % CLIMATES];
        s.random = (seed + epoch * 0x9e3779b9u) | 1;
        endure(&s, left < EPOCH_KILLS ? left : EPOCH_KILLS, until);
        say_epoch(epoch, (double)(now_us() - begun) / 1e6);
    }
    munmap(s.world, sizeof(*s.world));
    say_all((double)(now_us() - begun) / 1e6);
}

static int teardown(void **state)
{
    int r = daemon_teardown(state);

    folder_remove(&journal); /* of a test that failed */
    return r;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(
        K_nothing_is_lost_or_comes_twice_in_a_storm, daemon_setup, teardown)};
    const char *form = getenv("MQB_LONG");
    int failures;

    if (argc > 1)
        kills_wanted = strtoull(argv[1], NULL, 10);
    else if (form != NULL && strcmp(form, "1") == 0)
        kills_wanted = LONG_KILLS;
    if (argc > 2)
        seed = (uint32_t)strtoul(argv[2], NULL, 10);
    if (argc > 3)
        only = &climates[strtoul(argv[3], NULL, 10) % CLIMATES];
    failures = cmocka_run_group_tests(tests, NULL, NULL);
    if (failures != 0)
        fprintf(stderr, "it-storm: failed after %" PRIu64 " kills, seed %u\n",
                tally.kills + tally.broker_kills, seed);
    return failures;
}
