/* Durable groups and retained messages, with real processes and a journal on a real disk: what was
 * confirmed is there again after a kill, once; and after a reboot, which leaves files and nothing
 * else, at least once (rules J2, J4). What becomes of the journal itself: it-journal. */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"
#include "tests/support/must.h"
#include "tests/support/patience.h"
#include "tests/support/stamp.h"

/* Few and shallow queues: their memory is accounted per user, and other things run. */
static const char small[] = "max_clients = 6;\nqueue_depth = 4;\npool_max = \"4M\";\n"
                            "references = 32768;\ndelivery_limit = 0;\n"
                            "journal_segment = \"1M\";\njournal_size = \"16M\";\n";

static const struct mqc_group_options durable = {.flags = MQC_DURABLE};

/* ---- Kills ---- */

static void J4_confirmed_messages_outlive_a_kill_once_and_in_order(void **state)
{
    struct daemon *d = *state;
    struct mqc *client, *reader;

    daemon_start_with_journal(d, small);
    job_make_durable(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    job_publish_stamped(client, 0, JOB_STAMPED / 2);
    daemon_kill(d);
    daemon_restart(d);
    job_publish_stamped(client, JOB_STAMPED / 2, JOB_STAMPED / 2);
    daemon_kill(d);
    daemon_restart(d);
    reader = job_durable_member(d, "reader", 1);
    job_expect_stamped(reader, JOB_STAMPED, NULL);
    must_hear_nothing(reader, "reader");
    daemon_kill(d);
    daemon_restart(d);
    must_hear_nothing(reader, "reader");
    mqc_close(reader);
    mqc_close(client);
}

static void J4_tries_outlive_a_kill(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    daemon_start_with_journal(d, small);
    client = job_durable_member(d, "me", 1);
    job_publish(client, "first");
    job_publish(client, "second");
    m = job_expect(client, "first", 1);
    must(mqc_nack(client, &m, 0));
    m = job_expect(client, "first", 2);
    daemon_kill(d);
    daemon_restart(d);
    must(mqc_nack(client, &m, 0));
    m = job_expect(client, "first", 3);
    must(mqc_ack(client, &m));
    job_expect_and_ack(client, "second", 1);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

/* ---- Reboots ---- */

static void J4_confirmed_messages_outlive_a_reboot_in_order(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start_with_journal(d, small);
    job_make_durable(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    job_publish_stamped(client, 0, JOB_STAMPED / 2);
    mqc_close(client);
    daemon_reboot_and_start(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY); /* the group has its filter still */
    job_publish_stamped(client, JOB_STAMPED / 2, JOB_STAMPED / 2);
    daemon_kill(d);
    daemon_restart(d);
    mqc_close(client);
    daemon_reboot_and_start(d);
    client = job_durable_member(d, "reader", 1);
    job_expect_stamped(client, JOB_STAMPED, NULL);
    must_hear_nothing(client, "reader");
    mqc_close(client);
    daemon_reboot_and_start(d); /* what was acknowledged may come again, in order and whole */
    client = daemon_open(d, "reader", 0);
    must(mqc_join(client, "g", NULL, NULL));
    must_hear_nothing(client, "reader");
    mqc_close(client);
}

static void groups_have_their_settings_after_a_reboot(void **state)
{
    const struct mqc_group_options strict = {
        .flags = MQC_DURABLE | MQC_DEAD_EXPIRED, .delivery_limit = 2, .ack_timeout_ms = 7000};
    struct mqc_group_options other = strict;
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    daemon_start_with_journal(d, small);
    client = daemon_open(d, "me", 0);
    must(mqc_join(client, "strict", "a/#", &strict));
    must(mqc_join(client, "strict", "b/+", &strict));
    must(mqc_join(client, "passing", "c", NULL));
    mqc_close(client);
    daemon_reboot_and_start(d);
    client = daemon_open(d, "me", 0);
    other.delivery_limit = 3;
    assert_int_equal(mqc_join(client, "strict", "a/#", &other), -EEXIST);
    other = strict;
    other.ack_timeout_ms = 8000;
    assert_int_equal(mqc_join(client, "strict", "a/#", &other), -EEXIST);
    other = strict;
    other.flags = MQC_DURABLE;
    assert_int_equal(mqc_join(client, "strict", "a/#", &other), -EEXIST);
    must(mqc_join(client, "strict", NULL, NULL));
    assert_int_equal(mqc_join(client, "passing", NULL, NULL), -ENOENT);
    must(job_try(client, &(struct mqc_publication){
                             .topic = "b/x", .payload = "x", .size = 1, .priority = 8}));
    m = job_expect(client, "x", 1);
    must(mqc_nack(client, &m, 0));
    m = job_expect(client, "x", 2);
    must(mqc_nack(client, &m, 0));
    must(mqc_join(client, "$dead/strict", NULL, NULL));
    job_expect(client, "x", 3);
    mqc_close(client);
}

static void dead_letters_are_dead_letters_after_a_reboot(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;

    daemon_start_with_journal(d, small);
    client = job_durable_member(d, "me", 1);
    job_publish(client, "poison");
    job_publish(client, "good");
    m = job_expect(client, "poison", 1);
    must(mqc_reject(client, &m));
    job_expect(client, "good", 1);
    job_publish(client, "later"); /* with it the journal has had all that was before */
    mqc_close(client);
    daemon_reboot_and_start(d);
    client = daemon_open(d, "me", 0);
    must(mqc_join(client, "$dead/g", NULL, NULL));
    must_hear(client, "poison");
    must_hear_nothing(client, "me");
    must(mqc_leave(client, "$dead/g"));
    assert_int_equal(mqc_requeue(client, "g"), 1);
    must(mqc_join(client, "g", NULL, NULL));
    job_expect_and_ack(client, "poison", 1);
    job_expect_and_ack(client, "good", 1);
    job_expect_and_ack(client, "later", 1);
    mqc_close(client);
}

static void retained_messages_outlive_reboots(void **state)
{
    static uint8_t large[JOB_LARGE];
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start_with_journal(d, small);
    memset(large, 'x', sizeof(large));
    client = daemon_open(d, "me", 0);
    must_retain(client, "kept/small", "old", 3);
    must_retain(client, "kept/small", "new", 3);
    must_retain(client, "kept/large", "small", 5);
    must_retain(client, "kept/large", large, sizeof(large));
    must_retain(client, "kept/gone", large, sizeof(large));
    must_retain(client, "kept/gone", "", 0);
    must_retain(client, "kept/last", "last", 4);
    mqc_close(client);
    for (int i = 0; i < 3; i++) {
        daemon_reboot_and_start(d);
        client = daemon_open(d, "me", 0);
        must_find_retained(client, "kept/small", "new", 3);
        must_find_retained(client, "kept/large", large, sizeof(large));
        must(mqc_subscribe(client, "kept/gone", 0));
        must_hear_nothing(client, "me");
        mqc_close(client);
    }
    daemon_kill(d);
    daemon_restart(d);
    client = daemon_open(d, NULL, 0);
    must_find_retained(client, "kept/large", large, sizeof(large));
    mqc_close(client);
}

static void time_to_live_goes_on_over_a_reboot(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start_with_journal(d, small);
    job_make_durable(d);
    client = daemon_open(d, NULL, MQC_PUBLISH_ONLY);
    must(job_try(
        client,
        &(struct mqc_publication){
            .topic = "job/short", .payload = "short", .size = 5, .priority = 9, .ttl_ms = 1500}));
    must(job_try(
        client,
        &(struct mqc_publication){
            .topic = "job/long", .payload = "long", .size = 4, .priority = 8, .ttl_ms = 3600000}));
    mqc_close(client);
    daemon_reboot_and_start(d);
    PATIENCE_UNTIL(board_get(&board_group(daemon_board(d), 0)->drops.expired) == 1);
    client = job_durable_member(d, "me", 0);
    job_expect_and_ack(client, "long", 1);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

static void a_group_that_was_removed_stays_so(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start_with_journal(d, small);
    client = job_durable_member(d, "me", 0);
    must(mqc_join(client, "other", "other", &durable));
    must(mqc_leave(client, "g"));
    job_publish(client, "x");
    assert_int_equal(mqc_remove_group(client, "g"), 1);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->groups) == 1);
    must(job_try(client, &(struct mqc_publication){.topic = "other", .payload = "x"}));
    mqc_close(client);
    daemon_reboot_and_start(d);
    client = daemon_open(d, "me", 0);
    assert_int_equal(mqc_join(client, "g", NULL, NULL), -ENOENT);
    must(mqc_join(client, "other", NULL, NULL));
    mqc_close(client);
}

static void a_clean_stop_is_a_reboot_that_forgets_nothing(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    bool came[JOB_STAMPED] = {false};

    daemon_start_with_journal(d, small);
    client = job_durable_member(d, NULL, 1);
    job_publish_stamped(client, 0, JOB_STAMPED);
    for (uint32_t i = 0; i < JOB_STAMPED / 3; i++)
        came[job_receive_stamped(client)] = true;
    mqc_close(client);
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    assert_int_equal(daemon_stop(d), 0);
    assert_true(daemon_is_gone(d));
    daemon_restart(d);
    client = job_durable_member(d, "me", 1);
    job_expect_stamped(client, JOB_STAMPED, came);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

/* ---- Requests ---- */

static void ask_the_group(struct actor *self, const void *context)
{
    const struct mqc_publication question = {
        .topic = "job/ask", .payload = "?", .size = 1, .priority = 8};
    struct mqc *client = actor_open(context, NULL, 0);
    struct mqc_message reply;

    (void)self;
    ACTOR_REQUIRE(mqc_request(client, &question, &reply, PATIENCE_MS) == 0);
    ACTOR_REQUIRE(reply.size == 1 && *(const char *)reply.payload == '!');
    mqc_message_free(&reply);
    mqc_close(client);
}

static void a_durable_group_answers_requests(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    struct mqc_message m;
    struct actor a;

    daemon_start_with_journal(d, small);
    client = job_durable_member(d, "me", 1);
    actor_start(&a, ask_the_group, d->instance);
    m = must_receive(client);
    assert_int_equal(m.flags, MQC_M_REQUEST);
    daemon_kill(d);
    daemon_restart(d);
    must(mqc_reply(client, &m, "!", 1));
    mqc_message_free(&m);
    actor_join(&a);
    job_publish(client, "next");
    job_expect_and_ack(client, "next", 1);
    must_hear_nothing(client, "me");
    mqc_close(client);
}

/* ---- By chance ---- */

enum { WORKERS = 2, CHANCE_MOST = 1 << 20, OUTSTANDING = 16, CHANCE_LARGEST = 40000 };

/* What all of them write down; message by message, by its number. */
struct chance {
    char instance[NAMES_INSTANCE_MAX + 1];
    _Atomic uint32_t over;
    _Atomic uint32_t next; /* number to be published */
    _Atomic uint8_t confirmed[CHANCE_MOST];
    _Atomic uint8_t came[CHANCE_MOST];
    _Atomic uint8_t nacked[CHANCE_MOST];
    _Atomic uint8_t refused[CHANCE_MOST]; /* the journal was full */
};

static void confirm(struct mqc *client, struct chance *chance, int64_t number, uint32_t message)
{
    int outcome = mqc_confirm_wait(client, number, PATIENCE_MS);

    ACTOR_REQUIRE(outcome == 0 || outcome == -ENOSPC);
    atomic_store(outcome == 0 ? &chance->confirmed[message] : &chance->refused[message], 1);
    if (outcome == -ENOSPC)
        sched_yield(); /* to the workers */
}

static void publish_by_chance(struct actor *self, const void *context)
{
    struct chance *chance = (struct chance *)(uintptr_t)context;
    struct mqc *client = actor_open(chance->instance, NULL, MQC_PUBLISH_ONLY);
    uint8_t *payload = malloc(CHANCE_LARGEST);
    int64_t numbers[OUTSTANDING];
    uint32_t messages[OUTSTANDING];
    uint32_t random = 1 + atomic_load(&chance->next);
    uint64_t n = 0, done = 0;

    while (!atomic_load(&chance->over) && atomic_load(&chance->next) < CHANCE_MOST) {
        struct stamp stamp = {.publisher = 1, .size = stamp_size(&random, CHANCE_LARGEST)};
        struct mqc_publication p = {.topic = "job/chance",
                                    .payload = payload,
                                    .flags = MQC_CONFIRM,
                                    .priority = stamp_random(&random) % 32};

        stamp.number = messages[n % OUTSTANDING] = atomic_fetch_add(&chance->next, 1);
        stamp_fill(payload, &stamp);
        p.size = stamp.size;
        numbers[n % OUTSTANDING] = mqc_publish_with(client, &p);
        ACTOR_REQUIRE(numbers[n++ % OUTSTANDING] > 0);
        if (n - done == OUTSTANDING) {
            confirm(client, chance, numbers[done % OUTSTANDING], messages[done % OUTSTANDING]);
            done++;
        }
    }
    for (; done < n; done++)
        confirm(client, chance, numbers[done % OUTSTANDING], messages[done % OUTSTANDING]);
    free(payload);
    mqc_close(client);
    (void)self;
}

static void work_by_chance(struct actor *self, const void *context)
{
    struct chance *chance = (struct chance *)(uintptr_t)context;
    struct mqc *client = actor_open(chance->instance, NULL, 0);
    uint32_t random = (uint32_t)getpid();

    ACTOR_REQUIRE(mqc_join(client, "g", "job/#", &durable) == 0);
    actor_tell(self, 0);
    for (;;) {
        struct stamp stamp = {0};
        struct mqc_message m;

        ACTOR_REQUIRE(mqc_receive(client, &m, -1) == 0);
        ACTOR_REQUIRE(stamp_read(m.payload, m.size, &stamp));
        atomic_fetch_add(&chance->came[stamp.number], 1);
        if (stamp_random(&random) % 8 == 0) {
            atomic_fetch_add(&chance->nacked[stamp.number], 1);
            ACTOR_REQUIRE(mqc_nack(client, &m, stamp_random(&random) % 2 * 20) == 0);
        } else {
            ACTOR_REQUIRE(mqc_ack(client, &m) == 0);
        }
        mqc_message_free(&m);
    }
}

struct crowd {
    struct chance *chance;
    struct actor workers[WORKERS];
    struct actor publisher;
};

static void begin_crowd(struct crowd *c)
{
    for (int i = 0; i < WORKERS; i++) {
        actor_start(&c->workers[i], work_by_chance, c->chance);
        actor_hear(&c->workers[i]);
    }
    actor_start(&c->publisher, publish_by_chance, c->chance);
}

static struct crowd new_crowd(const struct daemon *d)
{
    struct crowd c = {.chance = mmap(NULL, sizeof(*c.chance), PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)};

    assert_true(c.chance != MAP_FAILED);
    snprintf(c.chance->instance, sizeof(c.chance->instance), "%s", d->instance);
    begin_crowd(&c);
    return c;
}

static void await_progress(const struct chance *chance, uint32_t *random, uint32_t most)
{
    uint32_t target = atomic_load(&chance->next) + stamp_random(random) % most;

    PATIENCE_UNTIL(atomic_load(&chance->next) >= target);
}

/* All is done that there was to do. */
static void end_crowd(struct crowd *c, const struct daemon *d)
{
    const struct board_group *g = board_group(daemon_board(d), 0);

    atomic_store(&c->chance->over, 1);
    actor_join(&c->publisher);
    PATIENCE_UNTIL(board_get(&g->waiting) == 0 && board_get(&g->unacknowledged) == 0);
    for (int i = 0; i < WORKERS; i++)
        actor_kill(&c->workers[i]);
}

static void J4_kills_by_chance_lose_and_repeat_nothing(void **state)
{
    struct daemon *d = *state;
    uint32_t kills = getenv("MQB_LONG") != NULL ? 1000 : 40;
    uint32_t random = 88172645, n;
    struct crowd c;

    daemon_start_with_journal(d, small);
    c = new_crowd(d);
    for (uint32_t i = 0; i < kills; i++) {
        await_progress(c.chance, &random, 100);
        daemon_kill(d);
        daemon_restart(d);
    }
    end_crowd(&c, d);
    n = atomic_load(&c.chance->next);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(c.chance->confirmed[i] + c.chance->refused[i], 1);
        if (c.chance->came[i] != c.chance->confirmed[i] + c.chance->nacked[i])
            fail_msg("%u of %u came %u times, and was given back %u times", i, n, c.chance->came[i],
                     c.chance->nacked[i]);
    }
    munmap(c.chance, sizeof(*c.chance));
}

static void J4_reboots_by_chance_lose_nothing_that_was_confirmed(void **state)
{
    struct daemon *d = *state;
    uint32_t deaths = getenv("MQB_LONG") != NULL ? 1000 : 40;
    uint32_t random = 521288629, n;
    struct crowd c;

    daemon_start_with_journal(d, small);
    c = new_crowd(d);
    for (uint32_t i = 0; i < deaths; i++) {
        await_progress(c.chance, &random, 100);
        if (stamp_random(&random) % 3 != 0) {
            daemon_kill(d);
            daemon_restart(d);
            continue;
        }
        actor_pause(&c.publisher);
        for (int k = 0; k < WORKERS; k++)
            actor_kill(&c.workers[k]);
        actor_kill(&c.publisher);
        daemon_reboot_and_start(d);
        begin_crowd(&c);
    }
    end_crowd(&c, d);
    n = atomic_load(&c.chance->next);
    for (uint32_t i = 0; i < n; i++) {
        if (c.chance->confirmed[i] && c.chance->came[i] == 0)
            fail_msg("%u of %u was confirmed, and never came", i, n);
    }
    munmap(c.chance, sizeof(*c.chance));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(J4_confirmed_messages_outlive_a_kill_once_and_in_order),
        DAEMON_TEST(J4_tries_outlive_a_kill),
        DAEMON_TEST(J4_confirmed_messages_outlive_a_reboot_in_order),
        DAEMON_TEST(groups_have_their_settings_after_a_reboot),
        DAEMON_TEST(dead_letters_are_dead_letters_after_a_reboot),
        DAEMON_TEST(retained_messages_outlive_reboots),
        DAEMON_TEST(time_to_live_goes_on_over_a_reboot),
        DAEMON_TEST(a_group_that_was_removed_stays_so),
        DAEMON_TEST(a_clean_stop_is_a_reboot_that_forgets_nothing),
        DAEMON_TEST(a_durable_group_answers_requests),
        DAEMON_TEST(J4_kills_by_chance_lose_and_repeat_nothing),
        DAEMON_TEST(J4_reboots_by_chance_lose_nothing_that_was_confirmed),
    };

    setvbuf(stdout, NULL, _IONBF, 0);
    if (getenv("MQB_ONLY") != NULL)
        cmocka_set_test_filter(getenv("MQB_ONLY"));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
