/* libclient/client: large messages, against a stand-in for the broker. What is sent lies in this
 * client's pool, which the tests read; what is received in a pool of another client, which they
 * make. */
#include "libclient/mqclient.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include "libclient/client.h"
#include "tests/support/stand_in.h"

enum {
    POOL_SIZE = 256 * 1024, /* of the client, as far as it grows by itself */
    LARGE = 5000,
    OTHER_SIZE = 128 * 1024, /* of the other client's pool at first */
};

#define OTHER UINT64_C(0xabcdef0123456789)

struct test {
    struct stand_in *s;
    struct mqc *c;
    struct segment other; /* the other client's pool */
    int descriptors;
    uint8_t *payload; /* OTHER_SIZE bytes of no pattern */
};

/* ---- Setting up ---- */

static int count_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static void name_other(const struct test *t, char name[NAMES_MAX])
{
    names_pool(name, t->s->instance, OTHER);
}

static int setup(void **state)
{
    struct test *t = calloc(1, sizeof(*t));
    struct mqc_options options = {.pool_size = POOL_SIZE};
    char name[NAMES_MAX];

    t->descriptors = count_descriptors();
    t->s = stand_in_start();
    name_other(t, name);
    assert_int_equal(segment_create(&t->other, name, OTHER_SIZE, 0600), 0);
    t->payload = malloc(OTHER_SIZE);
    for (size_t i = 0; i < OTHER_SIZE; i++)
        t->payload[i] = (uint8_t)(i * 31 + i / 251);
    options.instance = t->s->instance;
    if (mqc_open(&t->c, &options) < 0)
        fail_msg("%s", mqc_last_error());
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    struct test *t = *state;
    int before = t->descriptors;
    char name[NAMES_MAX];

    mqc_close(t->c);
    name_other(t, name);
    shm_unlink(name);
    segment_close(&t->other);
    stand_in_stop(t->s);
    free(t->payload);
    free(t);
    assert_int_equal(count_descriptors(), before);
    return 0;
}

static void expect_sentence(const char *part)
{
    if (strstr(mqc_last_error(), part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", mqc_last_error(), part);
}

/* The i-th frame that came. */
static const struct wire_frame *frame(struct test *t, uint32_t i)
{
    stand_in_await(t->s, i + 1);
    return &t->s->frames[i].frame;
}

/* ---- Sending ---- */

static int64_t publish(struct test *t, size_t size, unsigned flags)
{
    const struct mqc_publication p = {
        .topic = "t", .payload = t->payload, .size = size, .priority = 8, .flags = flags};

    return mqc_publish_with(t->c, &p);
}

static void expect_in_pool(struct test *t, const struct wire_frame *f, const void *payload,
                           size_t size)
{
    const uint8_t *pool = (const uint8_t *)stand_in_pool(t->s);

    assert_true((f->flags & WIRE_F_POOLED) != 0);
    assert_int_equal(f->slot.pool, t->s->pool_nonce);
    assert_int_equal(f->slot.size, size);
    assert_memory_equal(pool + (size_t)f->slot.offset * WIRE_SLOT_UNIT, payload, size);
}

static void what_no_frame_can_hold_goes_by_the_pool(void **state)
{
    struct test *t = *state;

    assert_int_equal(publish(t, STAND_IN_FRAME_MAX - WIRE_MESSAGE_SIZE - 2, 0), 0);
    assert_int_equal(frame(t, 0)->flags, 0);
    assert_int_equal(publish(t, LARGE, 0), 0);
    expect_in_pool(t, frame(t, 1), t->payload, LARGE);
    assert_int_equal(t->s->frames[1].frame.size, wire_pooled_size(1));
}

static void the_pool_is_as_the_protocol_says(void **state)
{
    struct test *t = *state;
    const struct pool_header *pool = stand_in_pool(t->s);

    assert_int_equal(pool->magic, POOL_MAGIC);
    assert_int_equal(pool->layout, POOL_LAYOUT);
    assert_int_equal(pool->nonce, t->s->pool_nonce);
    assert_int_equal(t->s->pool_segment.size, POOL_PAYLOADS); /* no payload yet: no memory */
}

static void gathered_ones_go_by_the_pool_from_a_few_hundred_bytes_on(void **state)
{
    struct test *t = *state;

    mqc_set_batching(t->c, 1);
    assert_int_equal(publish(t, 64, 0), 0);
    assert_int_equal(publish(t, 1000, 0), 0);
    assert_int_equal(mqc_flush(t->c), 0);
    assert_int_equal(frame(t, 0)->flags, 0);
    expect_in_pool(t, frame(t, 1), t->payload, 1000);
    assert_int_equal(t->s->frames[0].envelope, t->s->frames[1].envelope);
}

static void requests_and_replies_go_by_the_pool_too(void **state)
{
    struct test *t = *state;
    const struct mqc_publication p = {.topic = "t", .payload = t->payload, .size = LARGE};
    const struct mqc_message request = {.flags = MQC_M_REQUEST, .number = 7, .priority = 3};

    assert_true(mqc_request_send(t->c, &p, 1000) > 0);
    assert_int_equal(frame(t, 0)->type, WIRE_REQUEST);
    assert_int_equal(mqc_reply(t->c, &request, t->payload + 1, LARGE), 0);
    assert_int_equal(frame(t, 1)->type, WIRE_REPLY);
    assert_int_equal(frame(t, 1)->number, 7);
    expect_in_pool(t, frame(t, 0), t->payload, LARGE);
    expect_in_pool(t, frame(t, 1), t->payload + 1, LARGE);
}

static void the_place_that_came_back_last_is_used_next(void **state)
{
    struct test *t = *state;

    for (uint32_t i = 0; i < 3; i++)
        assert_int_equal(publish(t, LARGE, 0), 0);
    stand_in_hand_back(t->s, &frame(t, 0)->slot);
    stand_in_hand_back(t->s, &frame(t, 2)->slot);
    assert_int_equal(publish(t, LARGE, 0), 0);
    assert_int_equal(frame(t, 3)->slot.offset, frame(t, 2)->slot.offset);
    assert_true(frame(t, 3)->slot.name != frame(t, 2)->slot.name);
}

static void S7_a_place_that_comes_back_twice_is_not_used_twice(void **state)
{
    struct test *t = *state;

    assert_int_equal(publish(t, LARGE, 0), 0);
    stand_in_hand_back(t->s, &frame(t, 0)->slot);
    assert_int_equal(publish(t, LARGE, 0), 0);
    stand_in_hand_back(t->s, &frame(t, 0)->slot); /* the broker was killed, and says it again */
    assert_int_equal(publish(t, LARGE, 0), 0);
    assert_int_equal(frame(t, 1)->slot.offset, frame(t, 0)->slot.offset);
    assert_true(frame(t, 2)->slot.offset != frame(t, 1)->slot.offset);
}

/* Fill it as far as it grows by itself. Returns how many messages that were. */
static uint32_t fill(struct test *t)
{
    uint32_t n = 0;
    int64_t r;

    board_set(&t->s->row->grant, 1 << 30);
    while ((r = publish(t, LARGE, MQC_NOWAIT)) == 0)
        stand_in_await(t->s, ++n);
    assert_int_equal(r, -EAGAIN);
    return n;
}

static void a_full_pool_is_EAGAIN(void **state)
{
    struct test *t = *state;
    uint32_t n = fill(t);

    assert_true(n >= (POOL_SIZE - POOL_PAYLOADS) / (LARGE + WIRE_SLOT_UNIT));
    assert_true(n <= (POOL_SIZE - POOL_PAYLOADS) / LARGE);
    stand_in_hand_back(t->s, &frame(t, 0)->slot);
    assert_int_equal(publish(t, LARGE, MQC_NOWAIT), 0);
    assert_int_equal(publish(t, 20, MQC_NOWAIT), 0); /* small ones need none */
}

/* Wait for a condition that the client brings about. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        for (int tries = 0; !(condition) && tries < 10000; tries++)                                \
            usleep(1000);                                                                          \
        assert_true(condition);                                                                    \
    } while (0)

struct waiter {
    struct test *t;
    size_t size;
    int64_t result;
};

static void *wait_for_space(void *argument)
{
    struct waiter *w = argument;

    w->result = publish(w->t, w->size, 0);
    return NULL;
}

static void P5_who_waits_for_space_says_so_and_is_woken(void **state)
{
    struct test *t = *state;
    const struct pool_header *pool;
    struct waiter w = {.t = t, .size = LARGE};
    pthread_t thread;
    uint32_t n = fill(t);
    uint64_t wanted;

    pool = stand_in_pool(t->s);
    atomic_store(&t->s->board->asleep, BOARD_ASLEEP);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_space, &w), 0);
    assert_int_equal(frame(t, n)->type, WIRE_NUDGE);
    wanted = atomic_load(&pool->wants);
    /* Half of what is given out; unless 100 ms have passed since. */
    assert_true(wanted == 0 || wanted == n / 2);
    for (uint32_t i = 0; i < n; i++)
        stand_in_hand_back(t->s, &frame(t, i)->slot);
    stand_in_begin(t->s);
    stand_in_send(t->s, 8);
    pthread_join(thread, NULL);
    assert_int_equal(w.result, 0);
    assert_int_equal(atomic_load(&pool->wants), 0);
}

static void it_grows_when_nothing_comes_back_for_a_while(void **state)
{
    struct test *t = *state;
    uint32_t n = fill(t);

    assert_int_equal(publish(t, LARGE, 0), 0); /* waits a little */
    assert_true((frame(t, n)->slot.offset + LARGE / WIRE_SLOT_UNIT) * WIRE_SLOT_UNIT > POOL_SIZE);
}

static void space_that_comes_back_without_a_word_is_found(void **state)
{
    struct test *t = *state;
    struct waiter w = {.t = t, .size = LARGE};
    pthread_t thread;
    uint32_t n;

    /* It cannot be made larger. */
    t->c->pool.limit = t->c->pool.max = POOL_SIZE;
    n = fill(t);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_space, &w), 0);
    AWAIT(atomic_load(&stand_in_pool(t->s)->wants) == n / 2);
    stand_in_hand_back(t->s, &frame(t, 0)->slot); /* the others are held for good */
    pthread_join(thread, NULL);
    assert_int_equal(w.result, 0);
}

static void P5_who_waits_for_space_reads_what_comes_until_no_more_can_be_kept(void **state)
{
    struct test *t = *state;
    struct waiter w = {.t = t, .size = LARGE};
    struct mqc_message m;
    pthread_t thread;

    t->c->pool.limit = t->c->pool.max = POOL_SIZE;
    fill(t);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_space, &w), 0);
    for (int i = 0; i < STAND_IN_DEPTH; i++)
        stand_in_say(t->s, 8, "t", "meanwhile");
    pthread_join(thread, NULL);
    assert_int_equal(w.result, -EDEADLK);
    for (int i = 0; i < STAND_IN_DEPTH; i++) {
        assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
        mqc_message_free(&m);
    }
}

/* The stand-in says that all others wait for this client, as the broker does when it knows. */
static void P5_who_waits_in_vain_is_to_receive_first(void **state)
{
    struct test *t = *state;
    const struct pool_header *pool;
    struct waiter w = {.t = t, .size = LARGE};
    struct mqc_message m;
    pthread_t thread;
    uint64_t waits;

    fill(t);
    pool = stand_in_pool(t->s);
    t->c->pool.limit = t->c->pool.max = slots_end(&t->c->pool.slots);
    assert_int_equal(atomic_load(&pool->waits), 0);
    assert_int_equal(pthread_create(&thread, NULL, wait_for_space, &w), 0);
    AWAIT((waits = atomic_load(&pool->waits)) != 0);
    assert_int_equal(waits & 1, 1); /* for space */
    assert_int_equal(atomic_load(&pool->waits_sent), t->c->session.sent);
    assert_int_equal(atomic_load(&pool->waits_seen), atomic_load(&t->s->outbox->returned));
    atomic_store(&t->s->row->stuck, (uint32_t)waits - 2); /* another wait, long ago */
    stand_in_say(t->s, 8, "t", "read me");
    atomic_store(&t->s->row->stuck, (uint32_t)waits);
    pthread_join(thread, NULL);
    assert_int_equal(w.result, -EDEADLK);
    assert_int_equal(atomic_load(&pool->waits), 0);
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    mqc_message_free(&m);
    assert_int_equal(publish(t, LARGE, MQC_NOWAIT), -EAGAIN);
}

static void who_waits_for_a_pool_that_grows_does_not_wait_for_others(void **state)
{
    struct test *t = *state;
    const struct pool_header *pool;

    fill(t);
    pool = stand_in_pool(t->s);
    assert_int_equal(publish(t, LARGE, 0), 0);
    assert_int_equal(t->c->session.n_waits, 0);
    assert_int_equal(atomic_load(&pool->waits), 0);
}

static void a_larger_message_makes_it_larger(void **state)
{
    struct test *t = *state;
    size_t size = 2 * POOL_SIZE;
    void *payload = calloc(1, size);

    assert_int_equal(mqc_publish(t->c, "t", payload, size, 8), 0);
    expect_in_pool(t, frame(t, 0), payload, size);
    free(payload);
}

static void nothing_is_larger_than_the_broker_allows(void **state)
{
    struct test *t = *state;
    size_t most = mqc_payload_max(t->c, "t");
    void *payload = calloc(1, most + 1);

    assert_int_equal(most, STAND_IN_POOL_MAX - POOL_PAYLOADS);
    assert_int_equal(mqc_publish(t->c, "t", payload, most + 1, 8), -EMSGSIZE);
    expect_sentence("pool_max");
    assert_int_equal(mqc_publish(t->c, "t", payload, most, 8), 0);
    expect_in_pool(t, frame(t, 0), payload, most);
    free(payload);
}

enum { NOT_ALLOWED = 77 };

/* In a process of its own, whose /dev/shm is small. */
static int publish_into_a_full_tmpfs(const struct test *t)
{
    struct mqc_options options = {0};
    struct stand_in *s;
    struct mqc *c;
    void *large = calloc(1, 2 << 20);
    bool good;

    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", "/dev/shm", "tmpfs", 0, "size=1M") < 0)
        return NOT_ALLOWED;
    s = stand_in_start();
    options.instance = s->instance;
    good = mqc_open(&c, &options) == 0 && mqc_publish(c, "t", large, 2 << 20, 8) == -ENOSPC &&
           strstr(mqc_last_error(), "/dev/shm is full") != NULL;
    for (int i = 0; good && i < 5; i++) /* what fits still does */
        good = mqc_publish(c, "t", t->payload, LARGE, 8) == 0;
    mqc_close(c);
    stand_in_stop(s);
    free(large);
    return good ? 0 : 1;
}

static void S1_a_full_tmpfs_is_an_error_and_not_a_signal(void **state)
{
    pid_t child = fork();
    int status;

    if (child == 0)
        _exit(publish_into_a_full_tmpfs(*state));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == NOT_ALLOWED)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void what_cannot_be_sent_takes_no_space(void **state)
{
    struct test *t = *state;
    uint32_t n = 0;
    int64_t r;

    /* Nobody reads: the urgent request queue fills up. */
    atomic_store(&t->s->paused, true);
    board_set(&t->s->row->grant, 1 << 30);
    for (int i = 0; i < 1000; i++) {
        const struct mqc_publication p = {.topic = "t",
                                          .payload = t->payload,
                                          .size = LARGE,
                                          .priority = 31,
                                          .flags = MQC_NOWAIT};

        r = mqc_publish_with(t->c, &p);
        n += r == 0;
        assert_true(r == 0 || r == -EAGAIN);
    }
    atomic_store(&t->s->paused, false);
    stand_in_await(t->s, n);
    assert_int_equal(publish(t, LARGE, MQC_NOWAIT), 0);
    assert_int_equal(frame(t, n)->slot.offset, frame(t, n - 1)->slot.offset + LARGE / 64 + 1);
}

/* ---- Loans ---- */

static int64_t publish_loan(struct test *t, void *loan, size_t size, unsigned flags)
{
    const struct mqc_publication p = {
        .topic = "t", .payload = loan, .size = size, .priority = 8, .flags = flags};

    return mqc_publish_loan(t->c, &p);
}

static void a_loan_is_published_where_it_lies(void **state)
{
    struct test *t = *state;
    void *loan;

    assert_int_equal(mqc_loan(t->c, &loan, LARGE, 0), 0);
    assert_int_equal((uintptr_t)loan % 64, 0);
    memcpy(loan, t->payload, LARGE);
    assert_true(publish_loan(t, loan, LARGE - 1, MQC_CONFIRM) > 0);
    expect_in_pool(t, frame(t, 0), t->payload, LARGE - 1);
    assert_int_equal(publish_loan(t, loan, LARGE, 0), -EINVAL); /* it is over */
    assert_int_equal(mqc_loan_return(t->c, loan), -EINVAL);
}

static void a_small_loan_is_pooled_and_an_empty_one_is_not(void **state)
{
    struct test *t = *state;
    void *loan, *again;

    assert_int_equal(mqc_loan(t->c, &loan, 5, 0), 0);
    memcpy(loan, "small", 5);
    assert_int_equal(publish_loan(t, loan, 5, 0), 0);
    expect_in_pool(t, frame(t, 0), "small", 5);
    assert_int_equal(mqc_loan(t->c, &loan, 5, 0), 0);
    assert_int_equal(publish_loan(t, loan, 0, MQC_RETAIN), 0);
    assert_int_equal(frame(t, 1)->flags, WIRE_F_RETAIN);
    assert_int_equal(frame(t, 1)->payload_size, 0);
    assert_int_equal(mqc_loan(t->c, &again, 5, 0), 0); /* its place is free at once */
    assert_ptr_equal(again, loan);
}

static void a_loan_that_cannot_be_published_still_stands(void **state)
{
    struct test *t = *state;
    void *loan;

    assert_int_equal(mqc_loan(t->c, &loan, LARGE, 0), 0);
    memset(loan, 'x', LARGE);
    assert_int_equal(publish_loan(t, loan, LARGE, 64), -EINVAL);
    assert_int_equal(publish_loan(t, loan, 2 * LARGE, 0), -EINVAL);
    assert_int_equal(publish_loan(t, (char *)loan + 64, 5, 0), -EINVAL);
    assert_int_equal(publish_loan(t, t->payload, 5, 0), -EINVAL);
    assert_int_equal(publish_loan(t, NULL, 0, 0), -EINVAL);
    atomic_store(&t->s->paused, true);
    while (mqc_publish_with(t->c, &(struct mqc_publication){
                                      .topic = "t", .priority = 8, .flags = MQC_NOWAIT}) == 0) {
    }
    assert_int_equal(publish_loan(t, loan, LARGE, MQC_NOWAIT), -EAGAIN);
    atomic_store(&t->s->paused, false);
    assert_int_equal(((char *)loan)[LARGE - 1], 'x');
    assert_int_equal(mqc_loan_return(t->c, loan), 0);
    assert_int_equal(mqc_loan_return(t->c, loan), -EINVAL);
    board_set(&t->s->row->grant, 1 << 30);
}

static void loans_are_checked_and_bounded(void **state)
{
    struct test *t = *state;
    void *loan;
    int r, n = 0;

    assert_int_equal(mqc_loan(t->c, &loan, 0, 0), -EINVAL);
    assert_int_equal(mqc_loan(t->c, NULL, 1, 0), -EINVAL);
    assert_int_equal(mqc_loan(t->c, &loan, 1, MQC_CONFIRM), -EINVAL);
    assert_int_equal(mqc_loan(t->c, &loan, STAND_IN_POOL_MAX, 0), -EMSGSIZE);
    while ((r = mqc_loan(t->c, &loan, 1, MQC_NOWAIT)) == 0)
        n++;
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(n, POOL_SLOTS);
}

/* ---- Receiving ---- */

/* A payload in the other client's pool. */
static struct wire_slot put_payload(struct test *t, uint32_t offset, uint32_t size, uint64_t name)
{
    memcpy((uint8_t *)t->other.base + offset, t->payload, size);
    return (struct wire_slot){
        .pool = OTHER, .offset = offset / WIRE_SLOT_UNIT, .size = size, .name = name};
}

static void send_pooled(struct test *t, uint8_t priority, const struct wire_slot *slot)
{
    stand_in_begin(t->s);
    stand_in_pooled(t->s, priority, 0, 0, "t", slot);
    stand_in_send(t->s, priority);
}

static void expect_payload(struct test *t, struct mqc_message *m, size_t size)
{
    if (mqc_receive(t->c, m, 10000) < 0)
        fail_msg("%s", mqc_last_error());
    assert_string_equal(m->topic, "t");
    assert_int_equal(m->size, size);
    assert_memory_equal(m->payload, t->payload, size);
}

static void expect_released(struct test *t, uint64_t n, uint64_t last)
{
    const struct pool_header *pool = stand_in_pool(t->s);

    assert_int_equal(atomic_load(&pool->released), n);
    if (n > 0)
        assert_int_equal(atomic_load(&pool->ring[(n - 1) % POOL_RING]), last);
}

/* Mappings of pools that this process has; the stand-in's and the test's own included. */
static unsigned mappings_of(const char *name)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    unsigned n = 0;

    while (fgets(line, sizeof(line), maps) != NULL)
        n += strstr(line, name) != NULL;
    fclose(maps);
    return n;
}

static unsigned mappings_of_other(const struct test *t)
{
    char name[NAMES_MAX];

    name_other(t, name);
    return mappings_of(name);
}

static void a_payload_is_read_in_place_and_given_back_once(void **state)
{
    struct test *t = *state;
    struct wire_slot slot = put_payload(t, 4096 * 8, LARGE, 42);
    struct mqc_message m;

    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    ((uint8_t *)t->other.base)[4096 * 8] ^= 1;
    assert_int_equal(((const uint8_t *)m.payload)[0], t->payload[0] ^ 1); /* the very memory */
    expect_released(t, 0, 0);
    mqc_message_free(&m);
    expect_released(t, 1, 42);
    mqc_message_free(&m);
    expect_released(t, 1, 42);
    stand_in_say(t->s, 8, "t", "small");
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_int_equal(t->s->n_frames, 0); /* nobody asked to be nudged */
    mqc_message_free(&m);
    expect_released(t, 1, 42);
}

static void a_pool_is_mapped_once_and_stays_mapped(void **state)
{
    struct test *t = *state;
    struct wire_slot slot = put_payload(t, 4096 * 8, LARGE, 1);
    struct mqc_message m, n;
    unsigned before = mappings_of_other(t);

    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    slot.name = 2;
    send_pooled(t, 8, &slot);
    expect_payload(t, &n, LARGE);
    assert_ptr_equal(n.payload, m.payload);
    mqc_message_free(&m);
    mqc_message_free(&n);
    assert_int_equal(mappings_of_other(t), before + 1);
    slot.name = 3;
    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    assert_int_equal(mappings_of_other(t), before + 1);
    mqc_message_free(&m);
    expect_released(t, 3, 3);
}

static void P8_a_release_nudges_a_broker_that_listens(void **state)
{
    struct test *t = *state;
    struct wire_slot slot = put_payload(t, 4096 * 8, LARGE, 1);
    struct mqc_message m;

    atomic_store(&t->s->board->asleep, BOARD_LISTENING);
    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    assert_int_equal(t->s->n_frames, 0);
    mqc_message_free(&m);
    assert_int_equal(frame(t, 0)->type, WIRE_NUDGE);
    assert_true(t->s->frames[0].urgent);

    atomic_store(&t->s->board->asleep, BOARD_ASLEEP);
    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    mqc_message_free(&m);
    assert_int_equal(mqc_receive(t->c, &m, 1), -ETIMEDOUT);
    assert_int_equal(mqc_publish(t->c, "t", "x", 1, 31), 0);
    assert_int_equal(frame(t, 1)->type, WIRE_PUBLISH);
}

static void a_pool_that_has_grown_is_looked_at_again(void **state)
{
    struct test *t = *state;
    struct wire_slot slot = put_payload(t, 4096 * 8, LARGE, 1);
    struct mqc_message m, n;

    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    assert_int_equal(ftruncate(t->other.fd, 4 * OTHER_SIZE), 0);
    assert_int_equal(segment_reserve(&t->other, 4 * OTHER_SIZE, 1), 0);
    slot = put_payload(t, 3 * OTHER_SIZE, OTHER_SIZE, 2);
    send_pooled(t, 8, &slot);
    expect_payload(t, &n, OTHER_SIZE);
    assert_memory_equal(m.payload, t->payload, LARGE); /* it has not moved */
    mqc_message_free(&m);
    mqc_message_free(&n);
}

static void a_place_that_is_not_in_its_pool_is_left_out_and_given_back(void **state)
{
    struct test *t = *state;
    const struct wire_slot wrong[] = {
        {.pool = OTHER, .offset = OTHER_SIZE / 64 - 1, .size = 65, .name = 1},
        {.pool = OTHER, .offset = UINT32_MAX, .size = UINT32_MAX, .name = 2},
        {.pool = OTHER, .offset = 0, .size = 64, .name = 3},
        {.pool = t->s->pool_nonce, .offset = POOL_PAYLOADS / 64, .size = 64, .name = 4},
    };
    struct wire_slot slot = put_payload(t, OTHER_SIZE - 64, 64, 5);
    struct mqc_message m;

    stand_in_begin(t->s);
    for (size_t i = 0; i < 4; i++)
        stand_in_pooled(t->s, 8, 0, 0, "t", &wrong[i]);
    stand_in_pooled(t->s, 8, 0, 0, "t", &slot);
    stand_in_send(t->s, 8);
    expect_payload(t, &m, 64);
    expect_released(t, 4, 4);
    mqc_message_free(&m);
    expect_released(t, 5, 5);
    assert_int_equal(mqc_receive(t->c, &m, 1), -ETIMEDOUT);
    assert_int_equal(frame(t, 0)->type, WIRE_REPORT); /* the books stay right */
    assert_int_equal(frame(t, 0)->number, 4);
}

static void what_expired_is_given_back(void **state)
{
    struct test *t = *state;
    struct wire_slot slot = put_payload(t, 4096 * 8, LARGE, 6);
    struct mqc_message m;

    stand_in_begin(t->s);
    t->s->batch_size += (uint32_t)wire_put_pooled(t->s->batch + t->s->batch_size, WIRE_MESSAGE, 8,
                                                  0, 0, 1, "t", 1, &slot);
    stand_in_send(t->s, 8);
    assert_int_equal(mqc_receive(t->c, &m, 50), -ETIMEDOUT);
    expect_released(t, 1, 6);
}

static void an_own_payload_is_found_in_the_own_pool(void **state)
{
    struct test *t = *state;
    struct wire_slot slot;
    struct mqc_message m;

    assert_int_equal(publish(t, LARGE, 0), 0);
    slot = frame(t, 0)->slot;
    slot.name = 9;
    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    mqc_message_free(&m);
    expect_released(t, 1, 9);
}

static void L4_a_forked_child_gives_nothing_back(void **state)
{
    struct test *t = *state;
    struct wire_slot slot = put_payload(t, 4096 * 8, LARGE, 1);
    struct mqc_message m;
    pid_t child;
    int status;

    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    child = fork();
    if (child == 0) {
        mqc_message_free(&m);
        mqc_close(t->c);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    expect_released(t, 0, 0);
    assert_memory_equal(m.payload, t->payload, LARGE);
    mqc_message_free(&m);
    expect_released(t, 1, 1);
}

static void idle_mappings_of_who_is_gone_are_given_up_in_a_second(void **state)
{
    struct test *t = *state;
    struct wire_slot slot = put_payload(t, 4096 * 8, LARGE, 1);
    struct mqc_message m, n;
    char name[NAMES_MAX];
    unsigned before = mappings_of_other(t);

    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    name_other(t, name);
    shm_unlink(name);
    assert_int_equal(mqc_receive(t->c, &n, 1500), -ETIMEDOUT);
    assert_int_equal(mappings_of_other(t), before + 1); /* it is held */
    mqc_message_free(&m);
    assert_int_equal(mqc_receive(t->c, &n, 1500), -ETIMEDOUT);
    assert_int_equal(mappings_of_other(t), before);
}

static void few_idle_mappings_are_kept(void **state)
{
    enum { POOLS = 50 };
    struct test *t = *state;
    struct mqc_message m;
    char name[NAMES_MAX], prefix[NAMES_MAX];

    for (uint64_t i = 1; i <= POOLS; i++) {
        struct wire_slot slot = {.pool = i, .offset = POOL_PAYLOADS / 64, .size = 64, .name = i};
        struct segment pool;

        names_pool(name, t->s->instance, i);
        assert_int_equal(segment_create(&pool, name, OTHER_SIZE, 0600), 0);
        memcpy((uint8_t *)pool.base + POOL_PAYLOADS, t->payload, 64);
        segment_close(&pool);
        send_pooled(t, 8, &slot);
        expect_payload(t, &m, 64);
        mqc_message_free(&m);
    }
    snprintf(prefix, sizeof(prefix), "%s.0000", t->s->instance);
    assert_int_equal(mappings_of(prefix), 32);
    for (uint64_t i = 1; i <= POOLS; i++) {
        names_pool(name, t->s->instance, i);
        shm_unlink(name);
    }
}

/* ---- The copied lane ---- */

#define NOBODY UINT64_C(0x5555) /* nonce of a pool that cannot be mapped */

/* Answer FETCH with a copy, a hundred units into the copies for each name. */
static void lend(struct stand_in *s, const struct wire_frame *f)
{
    const struct test *t = s->context;
    uint64_t offset = OUTBOX_COPIES + f->number * 6400;

    if (f->type != WIRE_FETCH) {
        stand_in_answer(s, f);
        return;
    }
    memcpy((uint8_t *)s->outbox + offset, t->payload, LARGE);
    stand_in_begin(s);
    stand_in_lent(s, WIRE_C_OK, f->number, offset, LARGE);
    stand_in_send(s, WIRE_CONTROL);
}

static void refuse(struct stand_in *s, const struct wire_frame *f)
{
    if (f->type != WIRE_FETCH)
        return;
    stand_in_begin(s);
    stand_in_lent(s, WIRE_C_NO_COPY, f->number, 0, 0);
    stand_in_send(s, WIRE_CONTROL);
}

static void send_unmappable(struct test *t, uint8_t priority, uint16_t flags, uint64_t number,
                            uint64_t name)
{
    const struct wire_slot slot = {.pool = NOBODY, .offset = 1000, .size = LARGE, .name = name};

    stand_in_begin(t->s);
    stand_in_pooled(t->s, priority, flags, number, flags & WIRE_F_REPLY ? "" : "t", &slot);
    stand_in_send(t->s, priority);
}

static void what_cannot_be_mapped_is_copied(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    t->s->context = t;
    t->s->answer = lend;
    send_unmappable(t, 8, 0, 0, 3);
    stand_in_say(t->s, 8, "t", "later");
    expect_payload(t, &m, LARGE);
    assert_int_equal(frame(t, 0)->type, WIRE_FETCH);
    assert_int_equal(frame(t, 0)->number, 3);
    mqc_message_free(&m);
    expect_released(t, 1, 3);
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_int_equal(m.size, 5);
    mqc_message_free(&m);
}

static void P1_higher_ones_do_not_wait_for_a_copy(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    send_unmappable(t, 8, 0, 0, 3);
    assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
    assert_int_equal(frame(t, 0)->type, WIRE_FETCH);
    stand_in_say(t->s, 7, "t", "lower");
    stand_in_say(t->s, 9, "t", "higher");
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_int_equal(m.priority, 9);
    mqc_message_free(&m);
    assert_int_equal(mqc_receive(t->c, &m, 50), -ETIMEDOUT);
    t->s->context = t;
    lend(t->s, frame(t, 0));
    expect_payload(t, &m, LARGE);
    mqc_message_free(&m);
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_int_equal(m.priority, 7);
    mqc_message_free(&m);
    assert_int_equal(t->s->n_frames, 1); /* asked for once */
}

static void a_copy_is_asked_for_again_after_a_second(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    send_unmappable(t, 8, 0, 0, 3);
    assert_int_equal(mqc_receive(t->c, &m, 1300), -ETIMEDOUT);
    assert_int_equal(frame(t, 1)->type, WIRE_FETCH);
    assert_int_equal(frame(t, 1)->number, 3);
    t->s->context = t;
    lend(t->s, frame(t, 1));
    lend(t->s, frame(t, 1));
    expect_payload(t, &m, LARGE);
    mqc_message_free(&m);
    expect_released(t, 1, 3);
}

static bool readable(int fd, int timeout_ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, timeout_ms) == 1;
}

static void P10_a_loop_of_the_callers_is_woken_to_ask_again(void **state)
{
    struct test *t = *state;
    struct mqc_message m;
    int fd = mqc_fd(t->c);

    send_unmappable(t, 8, 0, 0, 3);
    assert_true(readable(fd, 10000));
    assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
    assert_false(readable(fd, 0));
    while (t->s->n_frames < 2) {
        assert_true(readable(fd, 10000));
        assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
    }
    assert_int_equal(frame(t, 1)->type, WIRE_FETCH);
    t->s->context = t;
    lend(t->s, frame(t, 1));
    assert_true(readable(fd, 10000));
    expect_payload(t, &m, LARGE);
    mqc_message_free(&m);
    assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
    assert_false(readable(fd, 1200)); /* nothing to wake up for */
}

static void P10_a_loop_of_the_callers_is_woken_for_idle_mappings(void **state)
{
    struct test *t = *state;
    struct wire_slot slot = put_payload(t, 4096 * 8, LARGE, 1);
    struct mqc_message m;
    char name[NAMES_MAX];
    unsigned before = mappings_of_other(t);
    int fd = mqc_fd(t->c);

    send_pooled(t, 8, &slot);
    expect_payload(t, &m, LARGE);
    mqc_message_free(&m);
    name_other(t, name);
    shm_unlink(name);
    assert_int_equal(mappings_of_other(t), before + 1);
    do
        assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
    while (mappings_of_other(t) > before && readable(fd, 10000));
    assert_int_equal(mappings_of_other(t), before);
    assert_false(readable(fd, 1200));
}

static void what_cannot_be_had_at_all_is_reported(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    t->s->answer = refuse;
    send_unmappable(t, 8, 0, 0, 3);
    stand_in_say(t->s, 8, "t", "later");
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_int_equal(m.size, 5);
    mqc_message_free(&m);
    expect_released(t, 1, 3);
    assert_int_equal(mqc_receive(t->c, &m, 1), -ETIMEDOUT);
    assert_int_equal(frame(t, 1)->type, WIRE_REPORT);
}

static void a_copy_that_is_not_there_is_none(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    send_unmappable(t, 8, 0, 0, 3);
    assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
    stand_in_begin(t->s);
    stand_in_lent(t->s, WIRE_C_OK, 3, OUTBOX_COPIES + STAND_IN_COPIES - LARGE + 1, LARGE);
    stand_in_send(t->s, WIRE_CONTROL);
    assert_int_equal(mqc_receive(t->c, &m, 50), -ETIMEDOUT);
    expect_released(t, 1, 3);
}

static void answer_request(struct stand_in *s, const struct wire_frame *f)
{
    struct test *t = s->context;

    if (f->type == WIRE_REQUEST)
        send_unmappable(t, 8, WIRE_F_REPLY, f->number, 4);
    else
        lend(s, f);
}

static void a_reply_can_be_copied_too(void **state)
{
    struct test *t = *state;
    const struct mqc_publication p = {.topic = "t", .payload = "?", .size = 1};
    struct mqc_message m;

    t->s->context = t;
    t->s->answer = answer_request;
    if (mqc_request(t->c, &p, &m, 10000) < 0)
        fail_msg("%s", mqc_last_error());
    assert_int_equal(m.size, LARGE);
    assert_memory_equal(m.payload, t->payload, LARGE);
    mqc_message_free(&m);
    expect_released(t, 1, 4);
}

static void reply_and_refuse(struct stand_in *s, const struct wire_frame *f)
{
    if (f->type == WIRE_REQUEST)
        send_unmappable(s->context, 8, WIRE_F_REPLY, f->number, 4);
    else
        refuse(s, f);
}

static void a_reply_that_cannot_be_had_is_a_failure(void **state)
{
    struct test *t = *state;
    const struct mqc_publication p = {.topic = "t", .payload = "?", .size = 1};
    struct mqc_message m;

    t->s->context = t;
    t->s->answer = reply_and_refuse;
    assert_int_equal(mqc_request(t->c, &p, &m, 10000), -ENOBUFS);
    expect_sentence("cannot be read");
    expect_released(t, 1, 4);
    assert_true(mqc_request_send(t->c, &p, 10000) > 0);
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_int_equal(m.flags, MQC_M_FAILED);
    assert_int_equal(m.error, -ENOBUFS);
    expect_released(t, 2, 4);
}

static void a_broker_that_is_gone_copies_nothing(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    send_unmappable(t, 8, 0, 0, 3);
    assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
    atomic_store(&t->s->board->state, BOARD_STOPPED);
    assert_int_equal(mqc_receive(t->c, &m, 10000), -ESHUTDOWN);
}

/* ---- Batches in the outbox ---- */

static void a_batch_larger_than_the_queue_comes_by_the_outbox(void **state)
{
    struct test *t = *state;
    const struct pool_header *pool = stand_in_pool(t->s);
    struct mqc_message m;
    char payload[1001];

    memset(payload, 'x', sizeof(payload));
    payload[1000] = '\0';
    for (int round = 0; round < 50; round++) {
        stand_in_begin(t->s);
        for (int i = 0; i < 7; i++)
            stand_in_message(t->s, 8, 0, 0, 0, "t", payload);
        stand_in_send_boxed(t->s, 8, (uint32_t)round % STAND_IN_BUFFERS);
        for (int i = 0; i < 7; i++) {
            assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
            assert_int_equal(m.size, 1000);
            assert_memory_equal(m.payload, payload, 1000);
            mqc_message_free(&m);
        }
        assert_int_equal(atomic_load(&pool->taken[round % STAND_IN_BUFFERS]), t->s->number);
    }
}

/* ---- The end ---- */

static bool pool_is_there(const struct test *t)
{
    char path[NAMES_MAX + sizeof("/dev/shm")], name[NAMES_MAX];

    names_pool(name, t->s->instance, t->s->pool_nonce);
    snprintf(path, sizeof(path), "/dev/shm%s", name);
    return access(path, F_OK) == 0;
}

static void the_pool_is_the_brokers_to_remove(void **state)
{
    struct test *t = *state;

    mqc_close(t->c);
    t->c = NULL;
    assert_true(pool_is_there(t));
}

static void unless_there_is_none_any_more(void **state)
{
    struct test *t = *state;

    atomic_store(&t->s->board->state, BOARD_STOPPED);
    mqc_close(t->c);
    t->c = NULL;
    assert_false(pool_is_there(t));
}

static void or_it_has_forgotten_the_session(void **state)
{
    struct test *t = *state;
    struct board_client_info nobody = {.state = BOARD_ROW_FREE};

    /* WELCOME stays the last thing it said. */
    board_write_identity(t->s->row, &nobody);
    mqc_close(t->c);
    t->c = NULL;
    assert_false(pool_is_there(t));
}

static void a_pool_made_too_late_is_removed_at_once(void **state)
{
    struct test *t = *state;
    const struct mqc_options options = {.instance = t->s->instance};

    mqc_close(t->c);
    stand_in_await(t->s, 1); /* the goodbye */
    assert_true(pool_is_there(t));
    stand_in_forget(t->s);
    t->s->row_state = BOARD_ROW_ENDING;
    assert_int_equal(mqc_open(&t->c, &options), 0);
    assert_false(pool_is_there(t));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_no_frame_can_hold_goes_by_the_pool),
        TEST(the_pool_is_as_the_protocol_says),
        TEST(gathered_ones_go_by_the_pool_from_a_few_hundred_bytes_on),
        TEST(requests_and_replies_go_by_the_pool_too),
        TEST(the_place_that_came_back_last_is_used_next),
        TEST(S7_a_place_that_comes_back_twice_is_not_used_twice),
        TEST(a_full_pool_is_EAGAIN),
        TEST(P5_who_waits_for_space_says_so_and_is_woken),
        TEST(it_grows_when_nothing_comes_back_for_a_while),
        TEST(space_that_comes_back_without_a_word_is_found),
        TEST(P5_who_waits_for_space_reads_what_comes_until_no_more_can_be_kept),
        TEST(P5_who_waits_in_vain_is_to_receive_first),
        TEST(who_waits_for_a_pool_that_grows_does_not_wait_for_others),
        TEST(a_larger_message_makes_it_larger),
        TEST(nothing_is_larger_than_the_broker_allows),
        TEST(S1_a_full_tmpfs_is_an_error_and_not_a_signal),
        TEST(what_cannot_be_sent_takes_no_space),
        TEST(a_loan_is_published_where_it_lies),
        TEST(a_small_loan_is_pooled_and_an_empty_one_is_not),
        TEST(a_loan_that_cannot_be_published_still_stands),
        TEST(loans_are_checked_and_bounded),
        TEST(a_payload_is_read_in_place_and_given_back_once),
        TEST(a_pool_is_mapped_once_and_stays_mapped),
        TEST(P8_a_release_nudges_a_broker_that_listens),
        TEST(a_pool_that_has_grown_is_looked_at_again),
        TEST(a_place_that_is_not_in_its_pool_is_left_out_and_given_back),
        TEST(what_expired_is_given_back),
        TEST(an_own_payload_is_found_in_the_own_pool),
        TEST(L4_a_forked_child_gives_nothing_back),
        TEST(idle_mappings_of_who_is_gone_are_given_up_in_a_second),
        TEST(few_idle_mappings_are_kept),
        TEST(what_cannot_be_mapped_is_copied),
        TEST(P1_higher_ones_do_not_wait_for_a_copy),
        TEST(a_copy_is_asked_for_again_after_a_second),
        TEST(P10_a_loop_of_the_callers_is_woken_to_ask_again),
        TEST(P10_a_loop_of_the_callers_is_woken_for_idle_mappings),
        TEST(what_cannot_be_had_at_all_is_reported),
        TEST(a_copy_that_is_not_there_is_none),
        TEST(a_reply_can_be_copied_too),
        TEST(a_reply_that_cannot_be_had_is_a_failure),
        TEST(a_broker_that_is_gone_copies_nothing),
        TEST(a_batch_larger_than_the_queue_comes_by_the_outbox),
        TEST(the_pool_is_the_brokers_to_remove),
        TEST(unless_there_is_none_any_more),
        TEST(or_it_has_forgotten_the_session),
        TEST(a_pool_made_too_late_is_removed_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
