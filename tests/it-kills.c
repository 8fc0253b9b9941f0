/* Publishers and receivers of large messages are killed with -9 at any moment, two hundred of them,
 * and the broker too: nothing stays of the dead, and those who live on get every message once, in
 * order, as it was sent. Also what the dead had sent before: that is read in the pools that they
 * left.
 *
 * The last tests lay out by hand what a broker leaves that is killed while it makes something:
 * chance finds that rarely. */
#include <errno.h>
#include <fcntl.h>
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
#include <unistd.h>

#include <cmocka.h>

#include "libclient/process.h"
#include "libclient/queue.h"
#include "libclient/wire.h"
#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/stamp.h"

enum {
    KILLS = 200,
    WARM_UP = 30, /* kills before memory is looked at for the first time */
    BROKER_KILLS = 8,
    AT_ONCE = 10,  /* of those who are going to be killed */
    SURVIVORS = 2, /* of each kind */
    PUBLISHERS = SURVIVORS + AT_ONCE + 2 * KILLS,
    STREAMS = 3, /* topics of a publisher, each of one priority */
    LARGEST = 1 << 20,
    HELD = 6,    /* messages that a receiver keeps at once */
    KEPT = 4,    /* topics with a kept message */
    SLACK = 512, /* KiB that memory may differ */
    QUESTION_MS = 300,
};

static const char *const topics[STREAMS] = {"load/a", "load/b", "load/c"};
static const unsigned priorities[STREAMS] = {8, 16, 28};

/* ---- Those who take part ---- */

struct part {
    const char *instance;
    uint32_t id;
};

/* Also while no broker runs, or while one has no free row. */
static struct mqc *open_somehow(const struct part *part)
{
    const struct mqc_options options = {.instance = part->instance};
    struct mqc *client;

    while (mqc_open(&client, &options) < 0)
        usleep(1000);
    return client;
}

/* One message, copied in or loaned. */
static void publish_one(struct mqc *client, struct stamp *stamp, uint32_t *random)
{
    static uint8_t copy[LARGEST];
    bool loan = stamp_random(random) % 2 == 0;
    struct mqc_publication p = {
        .topic = topics[stamp->stream], .size = stamp->size, .priority = priorities[stamp->stream]};
    void *place = copy;

    if (loan)
        ACTOR_REQUIRE(mqc_loan(client, &place, stamp->size, 0) == 0);
    stamp_fill(place, stamp);
    p.payload = place;
    ACTOR_REQUIRE((loan ? mqc_publish_loan(client, &p) : mqc_publish_with(client, &p)) == 0);
    stamp->number++;
}

/* Borrow, and give back without publishing. */
static void change_its_mind(struct mqc *client, uint32_t size)
{
    void *place;

    ACTOR_REQUIRE(mqc_loan(client, &place, size, 0) == 0);
    memset(place, 0xff, size);
    ACTOR_REQUIRE(mqc_loan_return(client, place) == 0);
}

/* An actor: publishes until it hears something; then says how many. */
static void publish_on(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = open_somehow(part);
    struct stamp stamps[STREAMS];
    uint32_t random = 2463534242 + part->id * 7919;
    uint64_t n = 0;

    for (uint32_t i = 0; i < STREAMS; i++)
        stamps[i] = (struct stamp){.publisher = part->id, .stream = i};
    ACTOR_REQUIRE(mqc_set_batching(client, part->id % 2) == 0);
    actor_tell(self, 0);
    while (!actor_has_said(self)) {
        struct stamp *stamp = &stamps[stamp_random(&random) % STREAMS];

        stamp->size = stamp_size(&random, LARGEST);
        publish_one(client, stamp, &random);
        n++;
        if (n % 16 == 0)
            change_its_mind(client, stamp_size(&random, LARGEST));
    }
    ACTOR_REQUIRE(mqc_flush(client) == 0);
    actor_hear(self);
    actor_tell(self, n);
    actor_hear(self);
    mqc_close(client);
}

/* Is it the next of its stream, and all of it as it was made? */
static void check(const struct mqc_message *m, uint32_t next[PUBLISHERS][STREAMS])
{
    struct stamp stamp = {0};

    if (!stamp_read(m->payload, m->size, &stamp) || stamp.publisher >= PUBLISHERS ||
        stamp.stream >= STREAMS || stamp.number != next[stamp.publisher][stamp.stream])
        fprintf(stderr, "message %u of publisher %u, stream %u, size %u of %zu, came for %u\n",
                stamp.number, stamp.publisher, stamp.stream, stamp.size, m->size,
                stamp.publisher < PUBLISHERS && stamp.stream < STREAMS
                    ? next[stamp.publisher][stamp.stream]
                    : 0);
    ACTOR_REQUIRE(stamp_read(m->payload, m->size, &stamp));
    ACTOR_REQUIRE(stamp.publisher < PUBLISHERS && stamp.stream < STREAMS);
    ACTOR_REQUIRE(strcmp(m->topic, topics[stamp.stream]) == 0);
    ACTOR_REQUIRE(stamp.number == next[stamp.publisher][stamp.stream]++);
}

static uint64_t of_survivors(uint32_t next[PUBLISHERS][STREAMS])
{
    uint64_t n = 0;

    for (unsigned i = 0; i < SURVIVORS; i++) {
        for (unsigned k = 0; k < STREAMS; k++)
            n += next[i][k];
    }
    return n;
}

/* An actor: checks all that is published, from the first of each publisher on. Asked with 1 it says
 * how many of the surviving ones' messages it has had; 0 ends it. */
static void receive_all(struct actor *self, const void *context)
{
    static uint32_t next[PUBLISHERS][STREAMS];
    struct mqc *client = open_somehow(context);

    ACTOR_REQUIRE(mqc_subscribe(client, "load/#", 0) == 0);
    actor_tell(self, 0);
    for (;;) {
        struct mqc_message message;
        int r;

        if (actor_has_said(self)) {
            if (actor_hear(self) == 0)
                break;
            actor_tell(self, of_survivors(next));
        }
        r = mqc_receive(client, &message, 100);
        if (r == -ETIMEDOUT)
            continue;
        ACTOR_REQUIRE(r == 0);
        check(&message, next);
        mqc_message_free(&message);
    }
    ACTOR_REQUIRE(mqc_missed(client) == 0);
    mqc_close(client);
}

/* An actor, for ever: keeps some of what it receives, and looks at it once more before it frees it:
 * its publisher may be long dead by then. */
static void receive_and_hold(struct actor *self, const void *context)
{
    const struct part *part = context;
    struct mqc *client = open_somehow(part);
    struct mqc_message held[HELD] = {0};
    uint32_t random = 88172645 + part->id * 7919;

    (void)self;
    ACTOR_REQUIRE(mqc_subscribe(client, part->id % 3 == 0 ? "#" : "load/+", 0) == 0);
    for (;;) {
        struct mqc_message *m = &held[stamp_random(&random) % HELD];
        struct stamp stamp;

        ACTOR_REQUIRE(m->owner == NULL || stamp_read(m->payload, m->size, &stamp));
        mqc_message_free(m);
        ACTOR_REQUIRE(mqc_receive(client, m, -1) == 0);
        ACTOR_REQUIRE(stamp_read(m->payload, m->size, &stamp));
    }
}

/* An actor, for ever: keeps messages on a few topics, which outlive it. */
static void retain_on(struct actor *self, const void *context)
{
    static uint8_t payload[LARGEST];
    const struct part *part = context;
    struct mqc *client = open_somehow(part);
    uint32_t random = 521288629 + part->id * 7919;

    (void)self;
    for (;;) {
        struct stamp stamp = {.publisher = part->id, .size = stamp_size(&random, LARGEST)};
        char topic[16];

        snprintf(topic, sizeof(topic), "kept/%u", stamp_random(&random) % KEPT);
        stamp_fill(payload, &stamp);
        ACTOR_REQUIRE(mqc_publish_with(client, &(struct mqc_publication){.topic = topic,
                                                                         .payload = payload,
                                                                         .size = stamp.size,
                                                                         .priority = 8,
                                                                         .flags = MQC_RETAIN}) ==
                      0);
    }
}

/* An actor, for ever: asks with large questions, and checks the large answers that come. */
static void ask_on(struct actor *self, const void *context)
{
    static uint8_t question[LARGEST];
    const struct part *part = context;
    struct mqc *client = open_somehow(part);
    uint32_t random = 362436069 + part->id * 7919;

    (void)self;
    for (;;) {
        struct stamp stamp = {.publisher = part->id, .size = stamp_size(&random, LARGEST)};
        struct mqc_message reply;
        int r;

        stamp_fill(question, &stamp);
        r = mqc_request(client,
                        &(struct mqc_publication){
                            .topic = "ask", .payload = question, .size = stamp.size, .priority = 8},
                        &reply, QUESTION_MS);
        ACTOR_REQUIRE(r == 0 || r == -ENOENT || r == -ECONNRESET || r == -ETIMEDOUT);
        if (r < 0)
            continue;
        ACTOR_REQUIRE(stamp_read(reply.payload, reply.size, &stamp));
        mqc_message_free(&reply);
    }
}

/* An actor, for ever: sends questions back as answers. */
static void answer_on(struct actor *self, const void *context)
{
    struct mqc *client = open_somehow(context);

    (void)self;
    ACTOR_REQUIRE(mqc_subscribe(client, "ask", 0) == 0);
    for (;;) {
        struct mqc_message m;
        struct stamp stamp;
        int r;

        ACTOR_REQUIRE(mqc_receive(client, &m, -1) == 0);
        ACTOR_REQUIRE(stamp_read(m.payload, m.size, &stamp));
        r = mqc_reply(client, &m, m.payload, m.size);
        ACTOR_REQUIRE(r == 0 || r == -EDEADLK); /* more questions came than it can keep */
        mqc_message_free(&m);
    }
}

/* ---- The storm ---- */

struct storm {
    struct daemon *daemon;
    uint32_t next_id;
    uint32_t random;
    struct actor publishers[SURVIVORS];
    struct actor receivers[SURVIVORS];
    struct actor victims[AT_ONCE];
    uint64_t references; /* when all of the survivors were there, before the first message */
    uint64_t cells;
};

static void start_victim(struct storm *s, struct actor *a)
{
    static void (*const bodies[])(struct actor *, const void *) = {
        publish_on, receive_and_hold, publish_on, receive_and_hold, retain_on, ask_on, answer_on};
    const struct part part = {.instance = s->daemon->instance, .id = s->next_id++};

    actor_start(a, bodies[stamp_random(&s->random) % (sizeof(bodies) / sizeof(bodies[0]))], &part);
}

/* It must not have ended by itself: then something was not as it should be. */
static void kill_victim(struct actor *a)
{
    siginfo_t info = {0};

    assert_int_equal(waitid(P_PID, (id_t)a->pid, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    assert_int_equal(info.si_pid, 0);
    actor_kill(a);
}

static void begin(struct storm *s, struct daemon *d)
{
    struct part part = {.instance = d->instance};

    *s = (struct storm){.daemon = d, .next_id = SURVIVORS, .random = 362436069};
    for (part.id = 0; part.id < SURVIVORS; part.id++) {
        actor_start(&s->receivers[part.id], receive_all, &part);
        actor_hear(&s->receivers[part.id]);
    }
    PATIENCE_UNTIL(board_get(&daemon_board(d)->subscriptions) == SURVIVORS); /* all is shown */
    s->references = board_get(&daemon_board(d)->references_used);
    s->cells = board_get(&daemon_board(d)->cells_used);
    for (part.id = 0; part.id < SURVIVORS; part.id++) {
        actor_start(&s->publishers[part.id], publish_on, &part);
        actor_hear(&s->publishers[part.id]);
    }
    for (unsigned i = 0; i < AT_ONCE; i++)
        start_victim(s, &s->victims[i]);
}

static void kill_broker(struct daemon *d)
{
    daemon_kill(d);
    daemon_restart(d);
}

/* So many deaths, each a few messages after the one before. */
static void rage(struct storm *s, unsigned kills, unsigned broker_kills)
{
    const struct daemon *d = s->daemon;

    for (unsigned i = 1; i <= kills; i++) {
        struct actor *victim = &s->victims[stamp_random(&s->random) % AT_ONCE];
        uint64_t until =
            board_get(&daemon_board(d)->totals.messages_in) + stamp_random(&s->random) % 40;

        PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) >= until);
        kill_victim(victim);
        start_victim(s, victim);
        if (broker_kills > 0 && i % (kills / broker_kills) == 0)
            kill_broker(s->daemon);
    }
    for (unsigned i = 0; i < AT_ONCE; i++)
        kill_victim(&s->victims[i]);
}

/* Kept messages hold on to their publishers' pools: forget them. */
static void forget_kept(const struct daemon *d)
{
    struct mqc *client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);

    for (unsigned i = 0; i < KEPT; i++) {
        char topic[16];

        snprintf(topic, sizeof(topic), "kept/%u", i);
        assert_int_equal(mqc_publish_with(client, &(struct mqc_publication){.topic = topic,
                                                                            .payload = "",
                                                                            .priority = 8,
                                                                            .flags = MQC_RETAIN}),
                         0);
    }
    mqc_close(client);
}

/* The survivors finish: every receiver has had every message of the surviving publishers. */
static uint64_t finish(struct storm *s)
{
    uint64_t total = 0;

    for (unsigned i = 0; i < SURVIVORS; i++) {
        actor_tell(&s->publishers[i], 0);
        total += actor_hear(&s->publishers[i]);
    }
    for (unsigned i = 0; i < SURVIVORS; i++) {
        uint64_t begun = patience_now();
        uint64_t had;

        do {
            patience_spend(begun, "a receiver to have had all");
            actor_tell(&s->receivers[i], 1);
            had = actor_hear(&s->receivers[i]);
        } while (had < total);
        assert_int_equal(had, total);
    }
    forget_kept(s->daemon);
    return total;
}

/* ---- What is left ---- */

/* Pools that a process has mapped; `gone`: only those that have no name any more. */
static unsigned mapped_pools(const struct daemon *d, pid_t pid, bool gone)
{
    char path[64], own[NAMES_MAX];
    char line[512];
    unsigned n = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
    names_board(own, d->instance);
    file = fopen(path, "re");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) != NULL)
        n += strstr(line, own) != NULL && strstr(line, ".pool") != NULL &&
             (!gone || strstr(line, "(deleted)") != NULL);
    fclose(file);
    return n;
}

static uint64_t waiting(const struct board_header *board)
{
    uint64_t n = 0;

    for (unsigned i = 0; i < WIRE_LEVELS; i++)
        n += board_get(&board->priorities[i].waiting);
    return n;
}

static uint64_t held(const struct board_header *board)
{
    uint64_t n = 0;

    for (uint32_t i = 0; i < board->n_rows; i++)
        n += board_get(&board_row(board, i)->held) + board_get(&board_row(board, i)->held_bytes);
    return n;
}

/* Nothing of the dead, and nothing of the messages. */
static void expect_nothing_left(const struct storm *s)
{
    const struct daemon *d = s->daemon;
    const struct board_header *board = daemon_board(d);

    PATIENCE_UNTIL(daemon_rows(d) == 2 * SURVIVORS);
    PATIENCE_UNTIL(board_get(&board->orphans) == 0);
    PATIENCE_UNTIL(board_get(&board->pools) == 2 * SURVIVORS);
    PATIENCE_UNTIL(daemon_segments(d, ".pool") == 2 * SURVIVORS);
    PATIENCE_UNTIL(daemon_segments(d, ".outbox") == 2 * SURVIVORS);
    PATIENCE_UNTIL(waiting(board) == 0);
    PATIENCE_UNTIL(held(board) == 0);
    PATIENCE_UNTIL(board_get(&board->references_used) == s->references);
    PATIENCE_UNTIL(board_get(&board->cells_used) == s->cells);
    PATIENCE_UNTIL(mapped_pools(d, d->pid, true) == 0);
    assert_true(mapped_pools(d, d->pid, false) <= 2 * SURVIVORS);
    for (unsigned i = 0; i < SURVIVORS; i++) {
        PATIENCE_UNTIL(mapped_pools(d, s->receivers[i].pid, true) == 0);
        PATIENCE_UNTIL(mapped_pools(d, s->publishers[i].pid, true) == 0);
    }
    assert_int_equal(board_get(&board->drops.overflow), 0);
    assert_int_equal(board_get(&board->refusals.bad_slot), 0);
    assert_int_equal(board_get(&board->rejects.frame), 0);
    assert_int_equal(board_get(&board->totals.ended), 0);
}

static void end(struct storm *s)
{
    for (unsigned i = 0; i < SURVIVORS; i++) {
        actor_tell(&s->publishers[i], 0);
        actor_join(&s->publishers[i]);
        actor_tell(&s->receivers[i], 0);
        actor_join(&s->receivers[i]);
    }
    PATIENCE_UNTIL(daemon_rows(s->daemon) == 0);
    PATIENCE_UNTIL(daemon_segments(s->daemon, ".pool") == 0);
    PATIENCE_UNTIL(daemon_segments(s->daemon, ".outbox") == 0);
}

/* Returns how much memory of its own the broker then has, in KiB. */
static uint64_t storm(struct daemon *d, unsigned kills, unsigned broker_kills)
{
    static uint32_t n_storms;
    struct storm s;
    uint64_t total;

    begin(&s, d);
    s.random += 7919 * n_storms++;
    rage(&s, kills, broker_kills);
    total = finish(&s);
    expect_nothing_left(&s);
    end(&s);
    printf("%u processes killed, the broker %u times: each surviving receiver has had all of the "
           "%llu messages of the surviving publishers\n",
           kills + AT_ONCE, broker_kills, (unsigned long long)total);
    return daemon_status(d, "RssAnon");
}

static const char config[] = "stall_timeout = \"1h\"; pool_max = \"64M\";";

static void S7_nothing_stays_of_publishers_and_receivers_that_were_killed(void **state)
{
    struct daemon *d = *state;
    uint64_t before, after;

    daemon_start(d, config);
    before = storm(d, WARM_UP, 0);
    after = storm(d, KILLS, 0);
    printf("memory of the broker's own: %llu KiB after %d kills, %llu KiB after %d more\n",
           (unsigned long long)before, WARM_UP, (unsigned long long)after, KILLS);
#ifndef __SANITIZE_ADDRESS__ /* whose allocator keeps what is freed */
    assert_true(after < before + SLACK);
#endif
}

static void K_nor_when_the_broker_is_killed_with_them(void **state)
{
    const unsigned storms = getenv("MQB_LONG") != NULL ? 50 : 1;
    struct daemon *d = *state;

    daemon_start(d, config);
    for (unsigned i = 0; i < storms; i++)
        storm(d, KILLS, BROKER_KILLS);
    assert_int_equal(board_get(&daemon_board(d)->totals.starts), storms * BROKER_KILLS + 1);
}

/* ---- What a broker leaves that is killed while it makes something ---- */

/* A segment that got no further than its name. */
static void leave_unborn(const char *name)
{
    int fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);

    assert_true(fd >= 0);
    close(fd);
}

/* What was made for the registration of this nonce, and then the broker died. */
static void leave_session(const struct daemon *d, uint64_t nonce)
{
    struct queue q;
    char name[NAMES_MAX];

    names_outbox(name, d->instance, nonce);
    leave_unborn(name);
    names_reply_queue(name, d->instance, nonce);
    assert_int_equal(queue_create(&q, name, 4, 128, 0600), 0);
    queue_close(&q);
}

static void send_register(const struct daemon *d, uint64_t nonce, uint32_t pid, uint64_t start)
{
    uint8_t bytes[WIRE_ENVELOPE_SIZE + WIRE_REGISTER_SIZE + 1];
    const uint8_t nobody[WIRE_TOKEN_SIZE] = {0};
    char name[NAMES_MAX];
    struct queue q;

    wire_put_envelope(bytes, WIRE_NO_SESSION, nobody, sizeof(bytes));
    wire_put_register(bytes + WIRE_ENVELOPE_SIZE, 0, nonce, pid, start, nonce ^ 1, "", 0);
    names_urgent_queue(name, d->instance);
    assert_int_equal(queue_open(&q, name, O_WRONLY | O_NONBLOCK), 0);
    assert_int_equal(queue_send(&q, bytes, sizeof(bytes), WIRE_CONTROL), 0);
    queue_close(&q);
}

/* Has the registration of this nonce been answered so? */
static bool is_answered(const struct daemon *d, uint64_t nonce, uint32_t code)
{
    const struct board_header *board = daemon_board(d);

    for (unsigned i = 0; i < BOARD_POSTINGS; i++) {
        const struct board_posting *p = &board->board_postings[i];

        if (board_get(&p->nonce) == nonce && atomic_load(&p->code) == code)
            return true;
    }
    return false;
}

static void K7_half_of_a_session_is_no_obstacle_to_the_next_broker(void **state)
{
    struct daemon *d = *state;
    uint64_t nonce = UINT64_C(0x5e55) << 48 | (uint64_t)getpid();
    uint64_t start;

    daemon_start(d, NULL);
    daemon_kill(d);
    assert_int_equal(process_start((uint32_t)getpid(), &start), 0);
    leave_session(d, nonce);
    send_register(d, nonce, (uint32_t)getpid(), start);
    daemon_restart(d);
    PATIENCE_UNTIL(is_answered(d, nonce, WIRE_C_OK));
    assert_int_equal(daemon_segments(d, ".outbox"), 1);
}

static void K7_half_of_a_session_goes_if_nobody_wants_it_any_more(void **state)
{
    struct daemon *d = *state;
    uint64_t nonce = UINT64_C(0x5e56) << 48 | (uint64_t)getpid();

    daemon_start(d, NULL);
    daemon_kill(d);
    leave_session(d, nonce);
    send_register(d, nonce, (uint32_t)getpid(), 1); /* not this process: one that is gone */
    daemon_restart(d);
    PATIENCE_UNTIL(is_answered(d, nonce, WIRE_C_NO_SUCH_PROCESS));
    assert_int_equal(daemon_segments(d, ".outbox"), 0);
    assert_false(daemon_has_queue(d, nonce));
}

static void half_of_a_store_or_board_is_no_obstacle_to_the_next_broker(void **state)
{
    struct daemon *d = *state;
    char name[NAMES_MAX];

    names_store(name, d->instance);
    leave_unborn(name);
    names_draft(name, d->instance);
    leave_unborn(name);
    daemon_start(d, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(S7_nothing_stays_of_publishers_and_receivers_that_were_killed),
        DAEMON_TEST(K_nor_when_the_broker_is_killed_with_them),
        DAEMON_TEST(K7_half_of_a_session_is_no_obstacle_to_the_next_broker),
        DAEMON_TEST(K7_half_of_a_session_goes_if_nobody_wants_it_any_more),
        DAEMON_TEST(half_of_a_store_or_board_is_no_obstacle_to_the_next_broker),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
