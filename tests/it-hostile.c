/* Sessions that do with pools and outboxes what no honest client does, and processes that change
 * shared memory behind the broker's back. It ends those whose words make no sense, counts what it
 * refuses, and goes on; and two honest clients that play ball through it all notice nothing.
 *
 * The hostile sessions are this process's (tests/support/raw.h). */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/patience.h"
#include "tests/support/raw.h"
#include "tests/support/stamp.h"

enum {
    FIRST = POOL_PAYLOADS / WIRE_SLOT_UNIT, /* where payloads begin, in units */
    BALLS = 6,                              /* under way between the honest two */
    EXCHANGED = 60,                         /* of them, to see that the two go on */
    LARGEST_BALL = 1 << 20,
    URGENT_ROOM = 1280 - WIRE_ENVELOPE_SIZE,
    PLENTY = 5000, /* references; nobody here is honestly behind by so many */
};

static const char pool_max[] = "pool_max = \"16M\";\n";

/* ---- The honest ---- */

struct player {
    const char *instance;
    const char *name;
    const char *other; /* a direct topic */
    bool begins;
};

static void throw_ball(struct mqc *client, const char *to, uint32_t number)
{
    static uint8_t ball[LARGEST_BALL];
    static const uint32_t sizes[] = {16, 300, 1100, 64, 5000, 70000, 1300, LARGEST_BALL, 99, 40000};
    const struct stamp stamp = {.number = number, .size = sizes[number % 10]};

    stamp_fill(ball, &stamp);
    ACTOR_REQUIRE(mqc_publish(client, to, ball, stamp.size, 8) == 0);
}

/* An actor: throws a ball back for each that it catches, until it hears something. */
static void play(struct actor *self, const void *context)
{
    const struct player *player = context;
    struct mqc *client = actor_open(player->instance, player->name, 0);
    uint32_t thrown = 0;
    uint32_t caught = 0;

    actor_tell(self, 0);
    actor_hear(self); /* the other one is there */
    while (player->begins && thrown < BALLS)
        throw_ball(client, player->other, thrown++);
    while (!actor_has_said(self)) {
        struct mqc_message message;
        struct stamp stamp;
        int r = mqc_receive(client, &message, 100);

        if (r == -ETIMEDOUT)
            continue;
        ACTOR_REQUIRE(r == 0);
        ACTOR_REQUIRE(stamp_read(message.payload, message.size, &stamp));
        ACTOR_REQUIRE(stamp.number == caught++);
        mqc_message_free(&message);
        throw_ball(client, player->other, thrown++);
    }
    ACTOR_REQUIRE(mqc_missed(client) == 0);
    mqc_close(client);
}

/* An actor: an honest receiver of what hostile ones publish. Below "lure/read" it reads the payload
 * too. Whenever it hears something it says how many it has had, and it ends when that is 0. */
static void witness(struct actor *self, const void *context)
{
    struct mqc *client = actor_open(context, "witness", 0);
    volatile uint64_t sum = 0;
    uint64_t n = 0;

    ACTOR_REQUIRE(mqc_subscribe(client, "lure/#", 0) == 0);
    actor_tell(self, 0);
    for (;;) {
        struct mqc_message message;
        int r;

        if (actor_has_said(self)) {
            if (actor_hear(self) == 0)
                break;
            actor_tell(self, n);
        }
        r = mqc_receive(client, &message, 10);
        if (r == -ETIMEDOUT)
            continue;
        ACTOR_REQUIRE(r == 0);
        if (strcmp(message.topic, "lure/read") == 0) {
            for (size_t i = 0; i < message.size; i++)
                sum += ((const uint8_t *)message.payload)[i];
        }
        n++;
        mqc_message_free(&message);
    }
    mqc_close(client);
}

struct arena {
    struct daemon *daemon;
    struct actor left, right, witness;
};

static void arena_open(struct arena *a, struct daemon *d, const char *config)
{
    const struct player left = {d->instance, "left", "@right", true};
    const struct player right = {d->instance, "right", "@left", false};

    a->daemon = d;
    daemon_start(d, config);
    actor_start(&a->left, play, &left);
    actor_start(&a->right, play, &right);
    actor_start(&a->witness, witness, d->instance);
    actor_hear(&a->left);
    actor_hear(&a->right);
    actor_hear(&a->witness);
    actor_tell(&a->left, 0);
    actor_tell(&a->right, 0);
}

/* Messages that the left one has published so far. */
static uint64_t thrown(const struct daemon *d)
{
    const struct board_header *board = daemon_board(d);

    for (uint32_t i = 0; i < board->n_rows; i++) {
        const struct board_row *row = board_row(board, i);
        struct board_client_info info;

        if (board_read_identity(row, &info) && info.state == BOARD_ROW_LIVE &&
            strcmp(info.name, "left") == 0)
            return board_get(&row->in);
    }
    fail_msg("an honest client has gone");
    return 0;
}

/* The honest two go on: so many more balls, and each was checked by who caught it. */
static void arena_goes_on(const struct arena *a)
{
    uint64_t before = thrown(a->daemon);

    PATIENCE_UNTIL(thrown(a->daemon) >= before + EXCHANGED);
}

static uint64_t witnessed(const struct arena *a)
{
    actor_tell(&a->witness, 1);
    return actor_hear(&a->witness);
}

/* End the honest ones well: then all of what they checked was right. */
static void arena_close(struct arena *a)
{
    arena_goes_on(a);
    actor_tell(&a->left, 0);
    actor_join(&a->left);
    actor_tell(&a->right, 0);
    actor_join(&a->right);
    actor_tell(&a->witness, 0);
    actor_join(&a->witness);
    assert_int_equal(board_get(&daemon_board(a->daemon)->totals.starts), 1);
}

/* ---- The hostile ---- */

static void open_with_pool(struct raw *r, const struct daemon *d, size_t payloads)
{
    raw_open(r, d, "");
    raw_make_pool(r, payloads);
}

static void open_reader(struct raw *r, const struct daemon *d, const char *filter)
{
    open_with_pool(r, d, 0);
    raw_subscribe(r, filter);
}

static void nudge(struct raw *r)
{
    uint8_t frame[WIRE_HEAD_SIZE];

    raw_control(r, frame, wire_put_nudge(frame));
}

static void publish(struct raw *r, uint8_t type, uint16_t flags, uint32_t number,
                    const struct wire_slot *slot)
{
    uint64_t expiry = type == WIRE_REQUEST ? UINT64_MAX : 0;
    uint8_t frame[512];

    raw_message(r, frame,
                wire_put_pooled(frame, type, 8, flags, number, expiry, "lure/it", 7, slot), 8);
}

static void expect_answer(struct raw *r, uint32_t number, uint8_t code)
{
    struct wire_frame answer;

    raw_next_of(r, WIRE_ANSWER, &answer);
    assert_int_equal(answer.number, number);
    assert_int_equal(answer.code, code);
}

static void expect_end(struct raw *r)
{
    struct wire_frame end;

    raw_next_of(r, WIRE_ENDED, &end);
    assert_int_equal(end.code, WIRE_C_BAD_POOL);
    raw_close(r, false);
}

static uint64_t returned(const struct raw *r)
{
    return atomic_load(&raw_outbox(r)->returned);
}

static void pool_name(char name[NAMES_MAX], const struct raw *r)
{
    names_pool(name, r->daemon->instance, r->pool_nonce);
}

static bool ended(const struct raw *r)
{
    const struct board_row *row = board_row(daemon_board(r->daemon), r->session);
    struct board_client_info info;

    return !board_read_identity(row, &info) || info.nonce != r->nonce ||
           info.state != BOARD_ROW_LIVE;
}

static uint64_t refused(const struct daemon *d)
{
    return board_get(&daemon_board(d)->refusals.bad_slot);
}

/* ---- Descriptors ---- */

static void places_out_of_range_are_refused_and_counted(void **state)
{
    const uint64_t end = (16 << 20) / WIRE_SLOT_UNIT;
    struct daemon *d = *state;
    struct arena arena;
    struct raw r, other;
    uint32_t number = 0;

    arena_open(&arena, d, pool_max);
    open_with_pool(&r, d, 4096);
    open_with_pool(&other, d, 4096);

    const struct wire_slot bad[] = {
        {r.pool_nonce ^ 1, FIRST, 64, 1},
        {other.pool_nonce, FIRST, 64, 1},
        {r.nonce, FIRST, 64, 1},
        {r.pool_nonce, 0, 64, 1}, /* the words for the broker */
        {r.pool_nonce, FIRST - 1, 64, 1},
        {r.pool_nonce, (uint32_t)end, 1, 1},
        {r.pool_nonce, (uint32_t)end - 1, 65, 1},
        {r.pool_nonce, UINT32_MAX, 1, 1},
        {r.pool_nonce, UINT32_MAX, UINT32_MAX, 1},
        {r.pool_nonce, FIRST, UINT32_MAX, 1},
    };
    const struct wire_slot malformed[] = {
        {r.pool_nonce, FIRST, 0, 1},
        {0, FIRST, 64, 1},
        {r.pool_nonce, FIRST, 64, UINT64_C(1) << 32},
        {r.pool_nonce, FIRST, 64, UINT64_MAX},
    };
    const uint32_t n_bad = sizeof(bad) / sizeof(bad[0]);

    for (uint32_t i = 0; i < n_bad; i++) {
        publish(&r, WIRE_PUBLISH, WIRE_F_CONFIRM, ++number, &bad[i]);
        expect_answer(&r, number, WIRE_C_BAD_SLOT);
        publish(&r, WIRE_PUBLISH, WIRE_F_CONFIRM | WIRE_F_RETAIN, ++number, &bad[i]);
        expect_answer(&r, number, WIRE_C_BAD_SLOT);
        publish(&r, WIRE_REQUEST, 0, ++number, &bad[i]);
        expect_answer(&r, number, WIRE_C_BAD_SLOT);
    }
    assert_int_equal(refused(d), 3 * n_bad);
    assert_int_equal(board_get(&daemon_board(d)->retained), 0);
    assert_int_equal(returned(&r), 0);
    assert_int_equal(witnessed(&arena), 0);

    for (uint32_t i = 0; i < 4; i++)
        publish(&r, WIRE_PUBLISH, WIRE_F_CONFIRM, ++number, &malformed[i]);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->rejects.frame) == 4);
    assert_int_equal(refused(d), 3 * n_bad);
    raw_close(&r, true);
    raw_close(&other, true);
    arena_close(&arena);
}

/* What may be there by its descriptor, and is not: its receivers' clients find out. */
static void payloads_that_are_not_there_reach_nobody(void **state)
{
    enum { HOLLOW = 20 };
    struct daemon *d = *state;
    struct arena arena;
    struct raw r;

    arena_open(&arena, d, pool_max);
    open_with_pool(&r, d, 4096);
    for (uint32_t i = 0; i < HOLLOW; i++)
        raw_publish(&r, "lure/it", FIRST + 32 + 64 * i, 4096 + i, i); /* the first is half there */
    PATIENCE_UNTIL(returned(&r) == HOLLOW);
    assert_int_equal(witnessed(&arena), 0);
    raw_publish(&r, "lure/read", FIRST, 4096, 1);
    raw_publish(&r, "lure/read", FIRST, 4096, 1); /* the same place twice, overlapped, */
    raw_publish(&r, "lure/read", FIRST + 1, 4032, 1);
    raw_publish(&r, "lure/read", FIRST, 64, UINT32_MAX);
    PATIENCE_UNTIL(witnessed(&arena) == 4);
    nudge(&r);
    PATIENCE_UNTIL(returned(&r) == HOLLOW + 4); /* each comes back as often as it was published */
    assert_int_equal(refused(d), 0);
    raw_close(&r, true);
    arena_close(&arena);
}

/* ---- What stands in a pool's place ---- */

enum thing {
    NOTHING,
    EMPTY,
    SHORT,
    FIFO,
    SYMLINK,
    DIRECTORY,
    LINKED,
    FORBIDDEN,
    WRONG_MAGIC,
    WRONG_LAYOUT,
    WRONG_NONCE,
    N_THINGS,
};

enum { PATH_SIZE = NAMES_MAX + 32 };

/* Where a session's pool should be; and another name beside it. */
static void thing_path(char path[PATH_SIZE], const struct raw *r)
{
    char name[NAMES_MAX];

    pool_name(name, r);
    snprintf(path, PATH_SIZE, "/dev/shm%s", name);
}

static void elsewhere_path(char path[PATH_SIZE], const struct raw *r)
{
    thing_path(path, r);
    strcat(path, ".elsewhere");
}

static void make_file(const char *path, off_t size, mode_t mode)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);

    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
}

/* Put it where this session's pool should be. Links lead to what would be a good pool. */
static void put_thing(struct raw *r, enum thing thing)
{
    char path[PATH_SIZE], elsewhere[PATH_SIZE];

    thing_path(path, r);
    elsewhere_path(elsewhere, r);
    switch (thing) {
    case NOTHING:
        break;
    case EMPTY:
        make_file(path, 0, 0600);
        break;
    case SHORT:
        make_file(path, POOL_PAYLOADS - 1, 0600);
        break;
    case FIFO:
        assert_int_equal(mkfifo(path, 0600), 0);
        break;
    case SYMLINK:
        raw_make_pool(r, 4096);
        assert_int_equal(rename(path, elsewhere), 0);
        assert_int_equal(symlink(elsewhere, path), 0);
        break;
    case DIRECTORY:
        assert_int_equal(mkdir(path, 0700), 0);
        break;
    case LINKED:
        raw_make_pool(r, 4096);
        assert_int_equal(link(path, elsewhere), 0);
        break;
    case FORBIDDEN:
        make_file(path, POOL_PAYLOADS + 4096, 0);
        break;
    default:
        raw_make_pool(r, 4096);
        raw_pool(r)->magic ^= thing == WRONG_MAGIC;
        raw_pool(r)->layout += thing == WRONG_LAYOUT;
        raw_pool(r)->nonce ^= thing == WRONG_NONCE;
        break;
    }
}

/* One session with each of these things in its pool's place. */
static struct raw *open_things(const struct daemon *d)
{
    struct raw *r = calloc(N_THINGS, sizeof(*r));

    assert_non_null(r);
    for (unsigned i = 0; i < N_THINGS; i++) {
        raw_open(&r[i], d, "");
        put_thing(&r[i], i);
    }
    return r;
}

/* What no broker looks for, and what it does not unlink. */
static void remove_rest(struct raw *r)
{
    char path[PATH_SIZE];

    thing_path(path, &r[DIRECTORY]);
    remove(path);
    elsewhere_path(path, &r[SYMLINK]);
    remove(path);
    elsewhere_path(path, &r[LINKED]);
    remove(path);
    free(r);
}

static void S1_who_has_something_else_for_a_pool_ends_alone(void **state)
{
    struct daemon *d = *state;
    struct arena arena;
    struct raw publisher;
    struct raw *r;
    struct wire_frame message;

    arena_open(&arena, d, pool_max);
    open_with_pool(&publisher, d, 4096);
    r = open_things(d);
    for (unsigned i = 0; i < N_THINGS; i++)
        raw_subscribe(&r[i], "trap");
    raw_publish(&publisher, "trap", FIRST, 64, 1);
    for (unsigned i = 0; i < N_THINGS; i++) {
        raw_next_of(&r[i], WIRE_MESSAGE, &message);
        expect_end(&r[i]);
    }
    assert_int_equal(board_get(&daemon_board(d)->totals.ended), N_THINGS);
    raw_close(&publisher, true);
    arena_close(&arena);
    remove_rest(r);
}

/* Its receivers get nothing by a link, and are not held up. They do not look at the header, which
 * is for the broker. */
static void S1_nobody_is_sent_payloads_out_of_something_else(void **state)
{
    struct daemon *d = *state;
    struct arena arena;
    struct raw last;
    struct raw *r;
    uint64_t n;

    arena_open(&arena, d, pool_max);
    r = open_things(d);
    for (unsigned i = 0; i < N_THINGS; i++)
        raw_publish(&r[i], "lure/it", FIRST, 4096, 1);
    open_with_pool(&last, d, 4096);
    raw_publish(&last, "lure/it", FIRST, 4096, 1);
    PATIENCE_UNTIL(returned(&last) == 1);
    n = witnessed(&arena) - 1;
    assert_in_range(n, N_THINGS - WRONG_MAGIC, /* nothing is forbidden to root */
                    N_THINGS - WRONG_MAGIC + (geteuid() == 0));
    raw_close(&last, true);
    for (unsigned i = 0; i < N_THINGS; i++)
        raw_close(&r[i], true);
    PATIENCE_UNTIL(daemon_rows(d) == 3);
    arena_close(&arena);
    remove_rest(r);
}

/* Also by the name of a pool that there is: an honest client's is not to be had that way. */
static void a_pool_belongs_to_one_session(void **state)
{
    struct daemon *d = *state;
    struct arena arena;
    struct raw r;
    uint64_t refused_before;
    uint8_t frame[WIRE_ENVELOPE_SIZE + WIRE_REGISTER_SIZE + 1];
    uint8_t nobody[WIRE_TOKEN_SIZE] = {0};

    arena_open(&arena, d, pool_max);
    open_with_pool(&r, d, 4096);
    refused_before = board_get(&daemon_board(d)->totals.registered);
    wire_put_envelope(frame, WIRE_NO_SESSION, nobody, sizeof(frame));
    wire_put_register(frame + WIRE_ENVELOPE_SIZE, 0, r.nonce ^ 1, (uint32_t)getpid(), 1,
                      r.pool_nonce, "", 0);
    PATIENCE_UNTIL(queue_send(&r.urgent, frame, sizeof(frame), WIRE_CONTROL) == 0);
    publish(&r, WIRE_PUBLISH, WIRE_F_CONFIRM, 1,
            &(struct wire_slot){r.pool_nonce, FIRST, 64, 1}); /* it came after that */
    expect_answer(&r, 1, WIRE_C_OK);
    assert_int_equal(board_get(&daemon_board(d)->totals.registered), refused_before);
    assert_int_equal(daemon_rows(d), 4);
    raw_close(&r, true);
    arena_close(&arena);
}

/* ---- Memory that changes ---- */

/* What a process does to a segment until it is killed. */
struct meddling {
    char name[NAMES_MAX];
    off_t small; /* sizes that it is given in turn; both 0: stays as large as it is */
    off_t large;
    off_t from; /* bytes that are overwritten; none if both are 0 */
    off_t to;
};

/* An actor. What it writes is noise, a few words at a time. */
static void meddle(struct actor *self, const void *context)
{
    const struct meddling *m = context;
    int fd = shm_open(m->name, O_RDWR | O_CLOEXEC, 0);
    uint32_t random = 88172645;

    ACTOR_REQUIRE(fd >= 0);
    actor_tell(self, 0);
    for (;;) {
        uint32_t noise[16];

        for (unsigned i = 0; i < 16; i++)
            noise[i] = stamp_random(&random) % 3 == 0 ? UINT32_MAX : stamp_random(&random);
        for (unsigned i = 0; i < 8 && m->to > m->from; i++) {
            off_t at = m->from + stamp_random(&random) % (m->to - m->from) / 8 * 8;
            ssize_t n = pwrite(fd, noise + i, 8, at);

            ACTOR_REQUIRE(n == 8);
        }
        if (m->large > 0) {
            ACTOR_REQUIRE(ftruncate(fd, m->small) == 0);
            ACTOR_REQUIRE(ftruncate(fd, m->large) == 0);
        }
    }
}

static void start_meddling(struct actor *a, struct meddling m, const struct raw *r)
{
    pool_name(m.name, r);
    actor_start(a, meddle, &m);
    actor_hear(a);
}

static void S1_a_pool_cut_off_at_any_moment_ends_its_session_alone(void **state)
{
    enum { ROUNDS = 12 };
    struct daemon *d = *state;
    struct arena arena;
    struct raw publisher;

    arena_open(&arena, d, pool_max);
    open_with_pool(&publisher, d, 4096);
    for (uint32_t i = 1; i <= ROUNDS; i++) {
        struct raw r;
        struct actor meddler;
        struct wire_frame message;

        open_reader(&r, d, "trap");
        for (unsigned k = 0; k <= i % 3; k++) { /* from the first one on it is mapped */
            raw_publish(&publisher, "trap", FIRST, 64, i);
            raw_next_of(&r, WIRE_MESSAGE, &message);
        }
        nudge(&r);
        start_meddling(&meddler, (struct meddling){.large = POOL_PAYLOADS}, &r);
        for (uint64_t ended = i; board_get(&daemon_board(d)->totals.ended) < ended;)
            raw_publish(&publisher, "trap", FIRST, 64, i);
        actor_kill(&meddler);
        expect_end(&r);
    }
    arena_goes_on(&arena);
    raw_close(&publisher, true);
    arena_close(&arena);
}

/* The copied lane reads with pread, which knows no signal: it copies it, or says that it cannot. */
static void a_pool_cut_off_while_it_is_copied_is_no_copy(void **state)
{
    enum { ROUNDS = 40, SIZE = 3 << 20 };
    struct daemon *d = *state;
    struct arena arena;
    struct raw publisher, reader;
    struct actor meddler;
    unsigned n_lent = 0;

    arena_open(&arena, d, pool_max);
    open_with_pool(&publisher, d, SIZE);
    open_reader(&reader, d, "trap");
    start_meddling(&meddler,
                   (struct meddling){.small = POOL_PAYLOADS, .large = POOL_PAYLOADS + SIZE},
                   &publisher);
    for (uint32_t i = 0; i < ROUNDS; i++) {
        struct wire_frame message, lent;
        uint8_t frame[WIRE_FETCH_SIZE];

        raw_publish(&publisher, "trap", FIRST, SIZE, i);
        raw_next_of(&reader, WIRE_MESSAGE, &message);
        raw_control(&reader, frame, wire_put_fetch(frame, message.slot.name));
        raw_next_of(&reader, WIRE_LENT, &lent);
        assert_true(lent.number == message.slot.name);
        assert_true(lent.code == WIRE_C_OK || lent.code == WIRE_C_NO_COPY);
        n_lent += lent.code == WIRE_C_OK;
        raw_release(&reader, message.slot.name);
    }
    actor_kill(&meddler);
    printf("of %d payloads that were cut off again and again, %u were copied whole\n", ROUNDS,
           n_lent);
    raw_close(&publisher, true);
    raw_close(&reader, true);
    arena_close(&arena);
}

/* An honest receiver of a pool that its owner cuts off is safe as long as it does not read there
 * (who shares memory with a hostile process of its own user is at its mercy); what is changed while
 * it is read is just not what was sent. */
static void receivers_of_what_is_cut_off_or_changed_live_on(void **state)
{
    enum { MESSAGES = 300, SIZE = 200000 };
    struct daemon *d = *state;
    struct arena arena;
    struct raw publisher;
    struct actor meddler;

    arena_open(&arena, d, pool_max);
    open_with_pool(&publisher, d, SIZE);
    start_meddling(&meddler, (struct meddling){.from = POOL_PAYLOADS, .to = POOL_PAYLOADS + SIZE},
                   &publisher);
    for (uint32_t i = 0; i < MESSAGES; i++)
        raw_publish(&publisher, "lure/read", FIRST, SIZE, i);
    PATIENCE_UNTIL(witnessed(&arena) == MESSAGES);
    actor_kill(&meddler);
    start_meddling(&meddler,
                   (struct meddling){.small = POOL_PAYLOADS, .large = POOL_PAYLOADS + SIZE},
                   &publisher);
    for (uint32_t i = 0; i < MESSAGES; i++)
        raw_publish(&publisher, "lure/it", FIRST, SIZE, i);
    PATIENCE_UNTIL(returned(&publisher) == 2 * MESSAGES);
    actor_kill(&meddler);
    assert_true(witnessed(&arena) >= MESSAGES);
    arena_goes_on(&arena);
    raw_close(&publisher, true);
    arena_close(&arena);
}

/* ---- The words in a pool ---- */

static void put_name(struct raw *r, uint64_t name)
{
    struct pool_header *pool = raw_pool(r);
    uint64_t at = atomic_load(&pool->released);

    atomic_store(&pool->ring[at % POOL_RING], name);
    atomic_store(&pool->released, at + 1);
}

static uint64_t collected(const struct raw *r)
{
    return atomic_load(&raw_outbox(r)->collected);
}

static void names_of_others_give_nothing_back(void **state)
{
    enum { NOISE = 3 * POOL_RING };
    struct daemon *d = *state;
    struct arena arena;
    struct raw publisher, reader, thief;
    struct wire_frame mine, theirs;
    uint32_t random = 2463534242;

    arena_open(&arena, d, pool_max);
    open_with_pool(&publisher, d, 4096);
    open_reader(&reader, d, "trap");
    open_reader(&thief, d, "trap");
    raw_publish(&publisher, "trap", FIRST, 4096, 7);
    raw_next_of(&reader, WIRE_MESSAGE, &mine);
    raw_next_of(&thief, WIRE_MESSAGE, &theirs);
    put_name(&thief, mine.slot.name);
    put_name(&thief, theirs.slot.name);
    put_name(&thief, theirs.slot.name); /* and twice, with neighbours */
    put_name(&thief, theirs.slot.name + 1);
    put_name(&thief, theirs.slot.name ^ UINT64_C(1) << 40);
    put_name(&thief, 0);
    put_name(&thief, UINT64_MAX);
    nudge(&thief);
    PATIENCE_UNTIL(collected(&thief) == 7);
    raw_publish(&publisher, "trap", FIRST, 4096, 8); /* it holds something again: is looked at */
    raw_next_of(&thief, WIRE_MESSAGE, &theirs);
    for (unsigned i = 0; i < NOISE; i++) {
        put_name(&thief, mine.slot.name ^ (uint64_t)stamp_random(&random) << (i % 33));
        if (i % POOL_RING == POOL_RING - 1) {
            nudge(&thief);
            PATIENCE_UNTIL(collected(&thief) == 7 + i + 1);
        }
    }
    assert_int_equal(returned(&publisher), 0);
    raw_release(&reader, mine.slot.name);
    nudge(&reader);
    PATIENCE_UNTIL(returned(&publisher) == 1);
    assert_true(atomic_load(&raw_outbox(&publisher)->ring[0]) == ((uint64_t)FIRST << 32 | 7));
    assert_int_equal(board_get(&daemon_board(d)->totals.ended), 0);
    raw_close(&publisher, true);
    raw_close(&reader, true);
    raw_close(&thief, true);
    arena_close(&arena);
}

static void a_release_ring_that_runs_ahead_or_backwards_ends_its_session(void **state)
{
    struct daemon *d = *state;
    struct arena arena;
    struct raw publisher;
    const uint64_t wrong[] = {POOL_RING + 1, UINT64_MAX, UINT64_C(1) << 63, UINT32_MAX, 5};
    const unsigned n = sizeof(wrong) / sizeof(wrong[0]);

    arena_open(&arena, d, pool_max);
    open_with_pool(&publisher, d, 4096);
    for (unsigned i = 0; i < n; i++) {
        struct raw r;
        struct wire_frame message;

        open_reader(&r, d, "trap");
        raw_publish(&publisher, "trap", FIRST, 64, i);
        raw_next_of(&r, WIRE_MESSAGE, &message);
        if (wrong[i] == 5) { /* backwards */
            atomic_store(&raw_pool(&r)->released, 6);
            nudge(&r);
            PATIENCE_UNTIL(collected(&r) == 6);
        }
        atomic_store(&raw_pool(&r)->released, wrong[i]);
        nudge(&r);
        expect_end(&r);
    }
    assert_int_equal(board_get(&daemon_board(d)->totals.ended), n);
    raw_close(&publisher, true);
    arena_close(&arena);
}

/* Whatever it says it waits for and has taken out of its outbox: that hurts it alone. Reply queues
 * are narrow here, so its batches go by the outbox. */
static void noise_for_wants_and_taken_hurts_nobody_else(void **state)
{
    enum { MESSAGES = 6000, SIZE = 1000 };
    struct daemon *d = *state;
    struct arena arena;
    struct raw publisher, r;
    struct actor meddler;
    uint8_t payload[SIZE] = {0};
    uint8_t frame[1240];
    uint64_t boxed;

    arena_open(&arena, d,
               "pool_max = \"16M\"; max_clients = 120; stall_timeout = \"100ms\"; "
               "backlog_size = \"64K\";");
    boxed = board_get(&daemon_board(d)->totals.boxed);
    open_with_pool(&publisher, d, 4096);
    open_reader(&r, d, "trap");
    start_meddling(&meddler,
                   (struct meddling){.from = offsetof(struct pool_header, wants),
                                     .to = offsetof(struct pool_header, ring)},
                   &r);
    for (uint32_t i = 0; i < MESSAGES; i++) {
        raw_message(&publisher, frame,
                    wire_put_message(frame, WIRE_PUBLISH, 8, 0, 0, 0, "trap", 4, payload, SIZE), 8);
        if (i % 16 == 0)
            raw_publish(&publisher, "trap", FIRST, 64, i); /* so that its pool is looked at */
        while (queue_receive(&r.reply, r.bytes, sizeof(r.bytes), NULL) > 0) {
        }
    }
    assert_true(board_get(&daemon_board(d)->totals.boxed) > boxed);
    arena_goes_on(&arena);
    actor_kill(&meddler);
    atomic_store(&raw_pool(&r)->wants, UINT64_MAX); /* for ever */
    raw_publish(&publisher, "trap", FIRST, 64, 1);
    arena_goes_on(&arena);
    raw_close(&publisher, true);
    raw_close(&r, true);
    arena_close(&arena);
}

/* ---- Floods ---- */

/* So many control frames in envelopes as full as they can be; `name` goes into FETCH. */
static void flood(struct raw *r, uint8_t type, unsigned n, uint64_t name)
{
    uint8_t frames[URGENT_ROOM];
    size_t size = 0;

    for (unsigned i = 0; i < n; i++) {
        size += type == WIRE_NUDGE ? wire_put_nudge(frames + size)
                                   : wire_put_fetch(frames + size, name == 0 ? 0 : name + i);
        if (size + WIRE_FETCH_SIZE > sizeof(frames) || i + 1 == n) {
            raw_control(r, frames, size);
            size = 0;
        }
    }
}

static void floods_of_nudges_are_just_read(void **state)
{
    enum { NUDGES = 200000 };
    struct daemon *d = *state;
    struct arena arena;
    struct raw r;

    arena_open(&arena, d, pool_max);
    open_with_pool(&r, d, 0);
    flood(&r, WIRE_NUDGE, NUDGES, 0);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.nudges) >= NUDGES);
    raw_close(&r, true);
    arena_close(&arena);
}

/* Nobody who does not read gets more than a bounded number of answers. */
static void floods_of_fetches_take_nothing_from_others(void **state)
{
    enum { FETCHES = 400000 };
    struct daemon *d = *state;
    const struct board_header *board;
    struct arena arena;
    struct raw publisher, reader, thief;
    struct wire_frame message, lent;

    arena_open(&arena, d, pool_max);
    board = daemon_board(d);
    open_with_pool(&publisher, d, 4096);
    open_reader(&reader, d, "trap");
    open_with_pool(&thief, d, 0);
    raw_publish(&publisher, "trap", FIRST, 4096, 1);
    raw_next_of(&reader, WIRE_MESSAGE, &message);

    flood(&thief, WIRE_FETCH, 1, message.slot.name); /* another one's */
    raw_next_of(&thief, WIRE_LENT, &lent);
    assert_int_equal(lent.code, WIRE_C_NO_COPY);
    flood(&thief, WIRE_FETCH, 1000, 0); /* nothing's */
    for (unsigned i = 0; i < FETCHES && !ended(&thief); i++) {
        flood(&thief, WIRE_FETCH, 1, UINT64_C(1) << 40 | i);
        assert_true(board_get(&board->references_used) < PLENTY);
    }
    PATIENCE_UNTIL(ended(&thief)); /* too many answers that it did not read */
    assert_true(board_get(&board->totals.fetched) == 0);
    flood(&reader, WIRE_FETCH, 1000, message.slot.name - 500); /* its own among others */
    arena_goes_on(&arena);
    assert_int_equal(returned(&publisher), 0);
    raw_close(&publisher, true);
    raw_close(&reader, true);
    raw_close(&thief, true);
    arena_close(&arena);
}

/* ---- All at once ---- */

static struct wire_slot any_slot(const struct raw *r, uint32_t *random)
{
    uint32_t offset = stamp_random(random) % 4 == 0 ? stamp_random(random) : FIRST;
    uint32_t size = stamp_random(random) % 4 == 0 ? stamp_random(random) : 64;

    return (struct wire_slot){
        .pool = stamp_random(random) % 8 == 0 ? r->nonce : r->pool_nonce,
        .offset = offset + stamp_random(random) % 3,
        .size = size,
        .name = stamp_random(random),
    };
}

static void do_anything(struct raw *r, uint32_t *random)
{
    struct wire_slot slot = any_slot(r, random);
    struct pool_header *pool = raw_pool(r);
    uint8_t frame[512];

    switch (stamp_random(random) % 12) {
    case 0:
        put_name(r, (uint64_t)stamp_random(random) << (stamp_random(random) % 33));
        break;
    case 1:
        atomic_store(&pool->wants,
                     stamp_random(random) % 3 == 0 ? UINT64_MAX : stamp_random(random));
        break;
    case 2:
        atomic_store(&pool->taken[stamp_random(random) % OUTBOX_BUFFERS], stamp_random(random));
        break;
    case 3:
        nudge(r);
        break;
    case 4:
        raw_control(r, frame, wire_put_fetch(frame, (uint64_t)stamp_random(random) << 20));
        break;
    case 5:
        publish(r, WIRE_REPLY, 0, (uint64_t)stamp_random(random) & 0xffff, &slot);
        break;
    case 6:
        publish(r, WIRE_REQUEST, 0, stamp_random(random), &slot);
        break;
    case 7:
        if (stamp_random(random) % 40 == 0)
            assert_int_equal(ftruncate(r->pool.fd, 0), 0);
        break;
    default:
        publish(r, WIRE_PUBLISH,
                (uint16_t)(stamp_random(random) % 8 == 0 ? WIRE_F_RETAIN : WIRE_F_CONFIRM),
                stamp_random(random), &slot);
        break;
    }
}

static void any_mixture_of_it_is_survived(void **state)
{
    const char *longer = getenv("MQB_LONG");
    const unsigned rounds = longer != NULL ? 2000 : 60;
    struct daemon *d = *state;
    struct arena arena;
    uint32_t random = 2718281829;

    arena_open(&arena, d,
               "pool_max = \"16M\"; max_clients = 100; stall_timeout = \"100ms\"; "
               "retained_size = \"64K\";");
    for (unsigned i = 0; i < rounds; i++) {
        struct raw r;

        open_reader(&r, d, i % 2 == 0 ? "lure/#" : "#");
        for (unsigned k = 0; k < 300 && !ended(&r); k++) {
            /* a pool that was cut off is not to be written to any more */
            struct stat status;

            if (fstat(r.pool.fd, &status) == 0 && status.st_size > 0)
                do_anything(&r, &random);
            else
                nudge(&r);
            while (queue_receive(&r.reply, r.bytes, sizeof(r.bytes), NULL) > 0) {
            }
        }
        raw_close(&r, i % 3 != 0 || !ended(&r));
    }
    assert_true(refused(d) > 0);
    arena_close(&arena);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(places_out_of_range_are_refused_and_counted),
        DAEMON_TEST(payloads_that_are_not_there_reach_nobody),
        DAEMON_TEST(S1_who_has_something_else_for_a_pool_ends_alone),
        DAEMON_TEST(S1_nobody_is_sent_payloads_out_of_something_else),
        DAEMON_TEST(a_pool_belongs_to_one_session),
        DAEMON_TEST(S1_a_pool_cut_off_at_any_moment_ends_its_session_alone),
        DAEMON_TEST(a_pool_cut_off_while_it_is_copied_is_no_copy),
        DAEMON_TEST(receivers_of_what_is_cut_off_or_changed_live_on),
        DAEMON_TEST(names_of_others_give_nothing_back),
        DAEMON_TEST(a_release_ring_that_runs_ahead_or_backwards_ends_its_session),
        DAEMON_TEST(noise_for_wants_and_taken_hurts_nobody_else),
        DAEMON_TEST(floods_of_nudges_are_just_read),
        DAEMON_TEST(floods_of_fetches_take_nothing_from_others),
        DAEMON_TEST(any_mixture_of_it_is_survived),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
