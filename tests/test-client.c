/* libclient/client: the calls of mqclient.h against a stand-in for the broker
 * (tests/support/stand_in.h): real queues, a real board, and answers as each test wants them. */
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
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/support/stand_in.h"

struct test {
    struct stand_in *s;
    struct mqc *c;
    int descriptors; /* open before */
};

static int count_descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static int open_with(struct test *t, const char *name, unsigned flags, int timeout_ms)
{
    const struct mqc_options options = {
        .instance = t->s->instance, .name = name, .flags = flags, .timeout_ms = timeout_ms};

    return mqc_open(&t->c, &options);
}

static int setup(void **state)
{
    struct test *t = calloc(1, sizeof(*t));

    t->descriptors = count_descriptors();
    t->s = stand_in_start();
    *state = t;
    return 0;
}

static int setup_open(void **state)
{
    struct test *t;

    setup(state);
    t = *state;
    if (open_with(t, NULL, 0, 0) < 0)
        fail_msg("%s", mqc_last_error());
    return 0;
}

/* Whatever a test did: closing leaves no descriptor and no queue behind. */
static int teardown(void **state)
{
    struct test *t = *state;
    int before = t->descriptors;

    mqc_close(t->c);
    stand_in_stop(t->s);
    free(t);
    assert_int_equal(count_descriptors(), before);
    return 0;
}

static void expect_sentence(const char *part)
{
    if (strstr(mqc_last_error(), part) == NULL)
        fail_msg("\"%s\" does not say \"%s\"", mqc_last_error(), part);
}

/* Receive without waiting, check, free. */
static void expect_message(struct test *t, const char *topic, const char *payload)
{
    struct mqc_message m;

    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_string_equal(m.topic, topic);
    assert_int_equal(m.size, strlen(payload));
    assert_memory_equal(m.payload, payload, m.size);
    mqc_message_free(&m);
    assert_null(m.owner);
    mqc_message_free(&m); /* again is fine */
}

static void expect_nothing(struct test *t)
{
    struct mqc_message m;

    assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
}

static const struct stand_in_frame *frame(struct test *t, uint32_t i)
{
    stand_in_await(t->s, i + 1);
    return &t->s->frames[i];
}

/* ---- Open ---- */

static void open_registers_and_close_says_goodbye(void **state)
{
    struct test *t = *state;
    const struct stand_in_frame *bye;

    assert_int_equal(open_with(t, "me", 0, 0), 0);
    assert_non_null(t->c);
    mqc_close(t->c);
    t->c = NULL;
    bye = frame(t, 0);
    assert_int_equal(bye->frame.type, WIRE_BYE);
    assert_false(bye->urgent);
    assert_int_equal(bye->level, 0);
}

static void no_broker_of_that_instance(void **state)
{
    const struct mqc_options options = {.instance = "there-is-no-such-thing"};
    struct mqc *c = (struct mqc *)state;

    assert_int_equal(mqc_open(&c, &options), -ENOENT);
    assert_null(c);
    expect_sentence("there-is-no-such-thing");
    expect_sentence("start it");
}

static void options_are_checked(void **state)
{
    struct test *t = *state;
    struct mqc_options options = {.instance = "with.dot"};

    assert_int_equal(mqc_open(&t->c, &options), -EINVAL);
    assert_int_equal(mqc_open(NULL, NULL), -EINVAL);
    assert_int_equal(open_with(t, "a/b", 0, 0), -EINVAL);
    assert_int_equal(open_with(t, "", 0, 0), -EINVAL);
    assert_int_equal(open_with(t, NULL, 8, 0), -EINVAL);
    assert_int_equal(open_with(t, NULL, 0, -1), -EINVAL);
}

static void a_dead_broker_refuses_at_once(void **state)
{
    struct test *t = *state;

    board_add(&t->s->board->pid_start, 1); /* its pid is somebody else's now */
    assert_int_equal(open_with(t, NULL, 0, 0), -ECONNREFUSED);
    expect_sentence("does not run");
}

static void a_stopped_broker_refuses_at_once(void **state)
{
    struct test *t = *state;

    atomic_store(&t->s->board->state, BOARD_STOPPING);
    assert_int_equal(open_with(t, NULL, 0, 0), -ECONNREFUSED);
    atomic_store(&t->s->board->state, BOARD_STOPPED);
    assert_int_equal(open_with(t, NULL, 0, 0), -ECONNREFUSED);
}

static void a_starting_broker_is_waited_for(void **state)
{
    struct test *t = *state;

    atomic_store(&t->s->board->state, BOARD_STARTING);
    assert_int_equal(open_with(t, NULL, 0, 30), -ETIMEDOUT);
}

static void another_layout_is_another_version(void **state)
{
    struct test *t = *state;

    t->s->board->layout++;
    assert_int_equal(open_with(t, NULL, 0, 0), -EPROTO);
    expect_sentence("version");
    t->s->board->layout--;
    t->s->board->magic++;
    assert_int_equal(open_with(t, NULL, 0, 0), -EPROTO);
    t->s->board->magic--;
}

static void a_broker_that_does_not_answer(void **state)
{
    struct test *t = *state;

    atomic_store(&t->s->mute, true);
    assert_int_equal(open_with(t, NULL, 0, 50), -ETIMEDOUT);
    expect_sentence("does not answer");
}

static void K7_registration_is_sent_again_until_it_is_answered(void **state)
{
    struct test *t = *state;
    pid_t child;
    int status;

    atomic_store(&t->s->mute, true);
    child = fork();
    if (child == 0)
        _exit(open_with(t, NULL, 0, 10000) == 0 ? 0 : 1);
    while (atomic_load(&t->s->n_ignored) < 1)
        sched_yield();
    atomic_store(&t->s->mute, false);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(t->s->n_envelopes, 2);
}

static void refusals_become_errors_with_sentences(void **state)
{
    static const struct {
        uint32_t code;
        int error;
        const char *part;
    } cases[] = {
        {WIRE_C_NAME_TAKEN, -EADDRINUSE, "process 11"},
        {WIRE_C_NO_ROW, -ENFILE, "max_clients"},
        {WIRE_C_QUEUE_MEMORY, -EMFILE, "RLIMIT_MSGQUEUE"},
        {WIRE_C_QUEUE_MEMORY, -EMFILE, "mqbroker --limits"},
        {WIRE_C_QUEUE_COUNT, -EMFILE, "fs.mqueue.queues_max"},
        {WIRE_C_NO_SUCH_PROCESS, -ESRCH, "pid namespace"},
        {WIRE_C_BAD_NAME, -EINVAL, "not a name"},
        {WIRE_C_STOPPING, -ECONNREFUSED, "on its way out"},
        {WIRE_C_QUEUE_ERROR, -EIO, "reply queue"},
        {WIRE_C_POOLS_FULL, -ENFILE, "pools of 11"},
        {200, -EPROTO, "200"},
    };
    struct test *t = *state;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        atomic_store(&t->s->refuse, cases[i].code);
        atomic_store(&t->s->refuse_times, 1);
        assert_int_equal(open_with(t, "me", 0, 0), cases[i].error);
        expect_sentence(cases[i].part);
    }
}

static void a_name_that_is_being_given_up_is_asked_for_again(void **state)
{
    struct test *t = *state;

    atomic_store(&t->s->refuse, WIRE_C_NAME_LEAVING);
    atomic_store(&t->s->refuse_times, 2);
    assert_int_equal(open_with(t, "me", 0, 0), 0);
    mqc_close(t->c);
    t->c = NULL;
}

static void a_name_that_stays_taken_is_refused_in_the_end(void **state)
{
    struct test *t = *state;

    atomic_store(&t->s->refuse, WIRE_C_NAME_LEAVING);
    atomic_store(&t->s->refuse_times, 1000);
    assert_int_equal(open_with(t, "me", 0, 150), -EADDRINUSE);
    expect_sentence("'me'");
}

/* ---- Publish ---- */

static void a_publish_arrives_as_it_was_given(void **state)
{
    struct test *t = *state;
    const struct mqc_publication p = {.topic = "plant/line1",
                                      .payload = "hot",
                                      .size = 3,
                                      .priority = 12,
                                      .flags = MQC_RETAIN,
                                      .ttl_ms = 60000};
    const struct stand_in_frame *f;

    assert_int_equal(mqc_publish_with(t->c, &p), 0);
    f = frame(t, 0);
    assert_int_equal(f->frame.type, WIRE_PUBLISH);
    assert_int_equal(f->level, 12);
    assert_false(f->urgent);
    assert_string_equal(f->frame.text, "plant/line1");
    assert_int_equal(f->frame.payload_size, 3);
    assert_memory_equal(f->frame.payload, "hot", 3);
    assert_int_equal(f->frame.flags, WIRE_F_RETAIN);
    assert_int_equal(f->frame.priority, 12);
    assert_true(f->frame.expiry != 0);
    assert_int_equal(mqc_publish(t->c, "plant/line1", NULL, 0, 8), 0);
    assert_int_equal(frame(t, 1)->frame.expiry, 0);
}

static void urgent_ones_take_the_urgent_queue(void **state)
{
    struct test *t = *state;

    mqc_publish(t->c, "t", "a", 1, 23);
    assert_false(frame(t, 0)->urgent);
    mqc_publish(t->c, "t", "b", 1, 24);
    assert_true(frame(t, 1)->urgent);
    mqc_publish(t->c, "t", "c", 1, 31);
    assert_true(frame(t, 2)->urgent);
    assert_int_equal(frame(t, 2)->level, 31);
}

static void publications_are_checked(void **state)
{
    struct test *t = *state;
    static char large[STAND_IN_POOL_MAX];
    size_t max = mqc_payload_max(t->c, "t");

    assert_int_equal(max, STAND_IN_POOL_MAX - POOL_PAYLOADS);
    assert_int_equal(mqc_publish(t->c, "t", large, max, 8), 0);
    assert_int_equal(mqc_publish(t->c, "t", large, max + 1, 8), -EMSGSIZE);
    assert_int_equal(mqc_publish(t->c, "t", large, SIZE_MAX, 8), -EMSGSIZE);
    assert_int_equal(mqc_publish(t->c, "a/+", NULL, 0, 8), -EINVAL);
    assert_int_equal(mqc_publish(t->c, "$SYS", NULL, 0, 8), -EINVAL);
    assert_int_equal(mqc_publish(t->c, "", NULL, 0, 8), -EINVAL);
    assert_int_equal(mqc_publish(t->c, NULL, NULL, 0, 8), -EINVAL);
    assert_int_equal(mqc_publish(t->c, "t", NULL, 1, 8), -EINVAL);
    assert_int_equal(mqc_publish(t->c, "t", NULL, 0, 32), -EINVAL);
    assert_int_equal(mqc_publish_with(t->c, NULL), -EINVAL);
    assert_int_equal(mqc_publish(NULL, "t", NULL, 0, 8), -EINVAL);
    assert_int_equal(mqc_publish_with(t->c, &(struct mqc_publication){.topic = "t", .flags = 64}),
                     -EINVAL);
    stand_in_await(t->s, 1);
    assert_int_equal(t->s->n_frames, 1);
}

static void batched_ones_travel_together(void **state)
{
    struct test *t = *state;
    uint32_t before = t->s->n_envelopes;

    mqc_set_batching(t->c, 1);
    for (int i = 0; i < 20; i++)
        assert_int_equal(mqc_publish(t->c, "t", "payload", 7, 5), 0);
    assert_int_equal(t->s->n_frames, 0);
    assert_int_equal(mqc_flush(t->c), 0);
    stand_in_await(t->s, 20);
    assert_int_equal(t->s->n_envelopes, before + 1);
}

static void P3_a_rise_overtakes_what_is_gathered(void **state)
{
    struct test *t = *state;

    mqc_set_batching(t->c, 1);
    mqc_publish(t->c, "t", "low", 3, 0);
    mqc_publish(t->c, "t", "high", 4, 31);
    assert_memory_equal(frame(t, 0)->frame.payload, "high", 4);
    mqc_publish(t->c, "t", "low", 3, 0);
    assert_int_equal(t->s->n_frames, 1);
    mqc_set_batching(t->c, 0); /* flushes */
    stand_in_await(t->s, 3);
    assert_int_equal(t->s->frames[1].envelope, t->s->frames[2].envelope);
}

static void calls_that_wait_send_what_is_gathered(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    mqc_set_batching(t->c, 1);
    mqc_publish(t->c, "t", "1", 1, 5);
    assert_int_equal(mqc_receive(t->c, &m, 1), -ETIMEDOUT);
    stand_in_await(t->s, 1);
    mqc_publish(t->c, "t", "2", 1, 5);
    assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
    stand_in_await(t->s, 2);
    mqc_publish(t->c, "t", "3", 1, 5);
    assert_int_equal(mqc_subscribe(t->c, "t", 0), 0);
    stand_in_await(t->s, 4);
    mqc_publish(t->c, "t", "4", 1, 5);
    mqc_close(t->c);
    t->c = NULL;
    stand_in_await(t->s, 6); /* and the goodbye */
    assert_int_equal(t->s->frames[5].frame.type, WIRE_BYE);
}

static void a_full_request_queue_is_EAGAIN_or_a_wait(void **state)
{
    struct test *t = *state;
    const struct mqc_publication p = {.topic = "t", .flags = MQC_NOWAIT, .priority = 31};
    int n = 0;

    atomic_store(&t->s->paused, true);
    board_set(&t->s->row->grant, 1 << 20);
    while (mqc_publish_with(t->c, &p) == 0)
        n++;
    assert_int_equal(mqc_publish_with(t->c, &p), -EAGAIN);
    assert_true(n >= STAND_IN_DEPTH && n <= STAND_IN_DEPTH + 1);
    atomic_store(&t->s->paused, false);
    assert_int_equal(mqc_publish(t->c, "t", "x", 1, 31), 0);
    stand_in_await(t->s, (uint32_t)n + 1);
    assert_int_equal(t->s->n_frames, n + 1); /* the refused one was not sent */
}

static void fill_window(struct test *t)
{
    const struct mqc_publication p = {.topic = "t", .flags = MQC_NOWAIT, .priority = 8};
    int n;

    for (n = 0; mqc_publish_with(t->c, &p) == 0; n++)
        stand_in_await(t->s, (uint32_t)n + 1);
    assert_int_equal(n, STAND_IN_WINDOW / WIRE_CELL_SIZE * 3 / 4);
}

static void grant_more(struct test *t)
{
    t->s->grant += STAND_IN_WINDOW;
    stand_in_begin(t->s);
    stand_in_send(t->s, 8);
}

static void *grant_later(void *argument)
{
    struct test *t = argument;

    /* Not before the publisher has emptied its queue of what is below, so that it waits. */
    while (queue_standing(&t->s->reply) > 0)
        sched_yield();
    grant_more(t);
    return NULL;
}

static void P5_out_of_window_it_waits_and_goes_on_reading(void **state)
{
    struct test *t = *state;
    pthread_t thread;

    fill_window(t);
    stand_in_say(t->s, 3, "t", "meanwhile");
    pthread_create(&thread, NULL, grant_later, t);
    assert_int_equal(mqc_publish(t->c, "t", "x", 1, 8), 0);
    pthread_join(thread, NULL);
    expect_message(t, "t", "meanwhile");
}

static void P5_with_an_inbox_full_it_says_so(void **state)
{
    struct test *t = *state;

    fill_window(t);
    for (int i = 0; i < STAND_IN_DEPTH; i++)
        stand_in_say(t->s, 3, "t", "kept");
    assert_int_equal(mqc_publish(t->c, "t", "x", 1, 8), -EDEADLK);
    expect_sentence("receive");
    for (int i = 0; i < STAND_IN_DEPTH; i++)
        expect_message(t, "t", "kept");
    grant_more(t);
    assert_int_equal(mqc_publish(t->c, "t", "x", 1, 8), 0);
}

/* As the broker does: on the board first, and then by a batch. */
static void *say_that_it_is_in_vain(void *argument)
{
    struct test *t = argument;
    uint64_t waits;

    while ((waits = atomic_load(&stand_in_pool(t->s)->waits)) == 0)
        sched_yield();
    assert_int_equal(waits & 1, 0); /* for window */
    assert_int_equal(atomic_load(&stand_in_pool(t->s)->waits_sent), STAND_IN_WINDOW / 4 * 3);
    assert_int_equal(atomic_load(&stand_in_pool(t->s)->waits_seen), t->s->grant);
    atomic_store(&t->s->row->stuck, (uint32_t)waits);
    stand_in_begin(t->s);
    stand_in_send(t->s, 8);
    return NULL;
}

static void P5_who_waits_in_vain_is_to_receive_first(void **state)
{
    struct test *t = *state;
    pthread_t thread;

    fill_window(t);
    for (int i = 0; i < 2; i++) { /* the same word on the board does not end the second wait */
        pthread_create(&thread, NULL, say_that_it_is_in_vain, t);
        assert_int_equal(mqc_publish(t->c, "t", "x", 1, 8), -EDEADLK);
        expect_sentence("freed");
        pthread_join(thread, NULL);
    }
    assert_int_equal(atomic_load(&stand_in_pool(t->s)->waits), 0);
    grant_more(t);
    assert_int_equal(mqc_publish(t->c, "t", "x", 1, 8), 0);
}

static void urgent_ones_have_room_when_others_have_not(void **state)
{
    struct test *t = *state;

    fill_window(t);
    assert_int_equal(mqc_publish(t->c, "t", "x", 1, 24), 0);
}

static void a_grant_on_the_board_is_enough(void **state)
{
    struct test *t = *state;

    fill_window(t);
    board_add(&t->s->row->grant, 256);
    assert_int_equal(mqc_publish(t->c, "t", "x", 1, 8), 0);
}

/* ---- Confirms ---- */

static int64_t publish_confirmed(struct test *t)
{
    const struct mqc_publication p = {.topic = "t", .flags = MQC_CONFIRM, .priority = 8};

    return mqc_publish_with(t->c, &p);
}

static void confirms_say_what_became_of_it(void **state)
{
    struct test *t = *state;
    int64_t first, second, third;

    atomic_store(&t->s->mute, true);
    first = publish_confirmed(t);
    second = publish_confirmed(t);
    third = publish_confirmed(t);
    assert_int_equal(first, 1);
    assert_int_equal(third, 3);
    assert_int_equal(frame(t, 1)->frame.number, second);
    assert_int_equal(mqc_confirm_wait(t->c, first, 0), -ETIMEDOUT);
    assert_int_equal(mqc_confirm_wait(t->c, first, 1), -ETIMEDOUT);
    stand_in_begin(t->s);
    stand_in_code(t->s, WIRE_C_OK, 1, 1);
    stand_in_code(t->s, WIRE_C_WINDOW, 2, 1);
    stand_in_code(t->s, WIRE_C_RETAINED_FULL, 3, 1);
    stand_in_send(t->s, WIRE_CONTROL);
    assert_int_equal(mqc_confirm_wait(t->c, third, 1000), -ENOSPC);
    assert_int_equal(mqc_confirm_wait(t->c, first, 0), 0);
    assert_int_equal(mqc_confirm_wait(t->c, second, 0), -ENOBUFS);
    expect_sentence("window");
    assert_int_equal(mqc_confirm_wait(t->c, 4, 0), -ENOENT);
    assert_int_equal(mqc_confirm_wait(t->c, 0, 0), -ENOENT);
    assert_int_equal(mqc_confirm_wait(t->c, -5, 0), -ENOENT);
}

static void more_than_1024_confirms_need_no_asking(void **state)
{
    struct test *t = *state;
    int64_t number = 0;

    board_set(&t->s->row->grant, 1 << 20);
    mqc_set_batching(t->c, 1);
    for (int i = 0; i < 1500; i++) {
        number = publish_confirmed(t);
        assert_int_equal(number, i + 1);
    }
    assert_int_equal(mqc_confirm_wait(t->c, number, 10000), 0);
    assert_int_equal(mqc_confirm_wait(t->c, number - 1023, 10000), 0);
    assert_int_equal(mqc_confirm_wait(t->c, number - 1024, 10000), -ENOENT);
}

/* ---- Receive ---- */

static void receive_says_when_there_is_nothing(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    assert_int_equal(mqc_receive(t->c, &m, 0), -EAGAIN);
    assert_int_equal(mqc_receive(t->c, &m, 5), -ETIMEDOUT);
    assert_int_equal(mqc_receive(t->c, NULL, 0), -EINVAL);
    assert_int_equal(mqc_receive(NULL, &m, 0), -EINVAL);
}

static void the_highest_priority_comes_first(void **state)
{
    struct test *t = *state;

    stand_in_begin(t->s);
    stand_in_message(t->s, 3, 0, 0, 0, "a", "low 1");
    stand_in_message(t->s, 3, 0, 0, 0, "a", "low 2");
    stand_in_send(t->s, 3);
    expect_message(t, "a", "low 1");
    stand_in_say(t->s, 31, "b", "high"); /* overtakes what has been read already */
    expect_message(t, "b", "high");
    expect_message(t, "a", "low 2");
    expect_nothing(t);
}

static void messages_stay_valid_until_they_are_freed(void **state)
{
    struct test *t = *state;
    struct mqc_message kept[30];

    for (int i = 0; i < 30; i++) {
        char text[8];

        snprintf(text, sizeof(text), "%d", i);
        stand_in_begin(t->s);
        stand_in_message(t->s, 3, 0, 0, 0, "a", text);
        stand_in_message(t->s, 3, WIRE_F_RETAIN, 0, 0, "a", "between");
        stand_in_send(t->s, 3);
        assert_int_equal(mqc_receive(t->c, &kept[i], 10000), 0);
        assert_int_equal(kept[i].flags, 0);
        expect_message(t, "a", "between");
    }
    for (int i = 0; i < 30; i++) {
        assert_int_equal(atoi(kept[i].payload), i);
        mqc_message_free(&kept[i]);
    }
}

static void a_retained_one_is_marked(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    stand_in_begin(t->s);
    stand_in_message(t->s, 3, WIRE_F_RETAIN, 0, 0, "a", "kept");
    stand_in_send(t->s, 3);
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_int_equal(m.flags, MQC_M_RETAINED);
    assert_int_equal(m.priority, 3);
    mqc_message_free(&m);
}

static void P11_expired_ones_are_left_out_and_reported(void **state)
{
    struct test *t = *state;

    stand_in_begin(t->s);
    stand_in_message(t->s, 3, 0, 0, 1, "late", "x");
    stand_in_message(t->s, 3, 0, 0, 1, "late", "x");
    stand_in_message(t->s, 3, 0, 0, UINT64_MAX / 2, "early", "y");
    stand_in_send(t->s, 3);
    expect_message(t, "early", "y");
    expect_nothing(t);
    assert_int_equal(frame(t, 0)->frame.type, WIRE_REPORT);
    assert_true(frame(t, 0)->urgent);
    assert_int_equal(frame(t, 0)->level, WIRE_CONTROL);
    assert_int_equal(frame(t, 0)->frame.number, 2);
    assert_string_equal(frame(t, 0)->frame.text, "late");
}

static void on_alarm(int number)
{
    (void)number;
}

static void interrupted_waits_are_taken_up_again(void **state)
{
    struct test *t = *state;
    struct sigaction action = {.sa_handler = on_alarm}, old; /* no SA_RESTART */
    struct itimerspec often = {.it_interval = {.tv_nsec = 1000000},
                               .it_value = {.tv_nsec = 1000000}};
    struct mqc_message m;
    timer_t timer;

    assert_int_equal(sigaction(SIGALRM, &action, &old), 0);
    assert_int_equal(timer_create(CLOCK_MONOTONIC, NULL, &timer), 0);
    assert_int_equal(timer_settime(timer, 0, &often, NULL), 0);
    assert_int_equal(mqc_receive(t->c, &m, 50), -ETIMEDOUT);
    assert_int_equal(mqc_subscribe(t->c, "t", 0), 0);
    stand_in_say(t->s, 3, "a", "x");
    expect_message(t, "a", "x");
    timer_delete(timer);
    sigaction(SIGALRM, &old, NULL);
}

static void *say_later(void *argument)
{
    struct test *t = argument;

    stand_in_await(t->s, 1); /* what the receiver flushes before it sleeps */
    stand_in_say(t->s, 3, "a", "late");
    return NULL;
}

static void a_sleeping_receiver_is_woken(void **state)
{
    struct test *t = *state;
    struct mqc_message m;
    pthread_t thread;

    mqc_set_batching(t->c, 1);
    mqc_publish(t->c, "t", "x", 1, 8);
    pthread_create(&thread, NULL, say_later, t);
    assert_int_equal(mqc_receive(t->c, &m, -1), 0);
    mqc_message_free(&m);
    pthread_join(thread, NULL);
}

static void K9_a_stop_is_told_after_all_messages(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    stand_in_say(t->s, 0, "a", "last");
    stand_in_begin(t->s);
    stand_in_end(t->s, WIRE_STOPPED, WIRE_C_STOPPING);
    stand_in_send(t->s, 0);
    expect_message(t, "a", "last");
    assert_int_equal(mqc_receive(t->c, &m, -1), -ESHUTDOWN);
    assert_int_equal(mqc_receive(t->c, &m, 0), -ESHUTDOWN);
    assert_int_equal(mqc_publish(t->c, "t", NULL, 0, 8), -ESHUTDOWN);
    assert_int_equal(mqc_subscribe(t->c, "t", 0), -ESHUTDOWN);
    expect_sentence("stopped");
}

static void a_board_that_says_stopped_is_believed_without_a_message(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    atomic_store(&t->s->board->state, BOARD_STOPPED);
    assert_int_equal(mqc_publish(t->c, "t", NULL, 0, 8), -ESHUTDOWN);
    assert_int_equal(mqc_receive(t->c, &m, -1), -ESHUTDOWN);
}

static void an_ended_session_says_why(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    stand_in_begin(t->s);
    stand_in_end(t->s, WIRE_ENDED, WIRE_C_OVERFLOW);
    stand_in_send(t->s, 0);
    assert_int_equal(mqc_receive(t->c, &m, -1), -ECONNRESET);
    expect_sentence("did not read");
    assert_int_equal(mqc_flush(t->c), -ECONNRESET);
}

/* ---- The caller's loop ---- */

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void P10_the_descriptor_is_readable_when_a_message_stands(void **state)
{
    struct test *t = *state;
    int fd = mqc_fd(t->c);

    assert_true(fd >= 0);
    assert_int_equal(mqc_fd(t->c), fd);
    expect_nothing(t);
    assert_false(readable(fd));
    stand_in_say(t->s, 3, "a", "x");
    assert_true(readable(fd));
    expect_message(t, "a", "x");
    expect_nothing(t);
    assert_false(readable(fd));
}

static void notify_announces_once(void **state)
{
    struct test *t = *state;
    const struct timespec limit = {.tv_sec = 10};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    sigset_t usr1; /* blocked in all threads: main() */

    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    assert_int_equal(mqc_notify(t->c, &event), 0);
    assert_int_equal(mqc_notify(t->c, &event), -EBUSY);
    expect_nothing(t);
    stand_in_say(t->s, 3, "a", "x");
    assert_int_equal(sigtimedwait(&usr1, NULL, &limit), SIGUSR1);
    expect_message(t, "a", "x");
    assert_int_equal(mqc_notify(t->c, &event), 0);
    assert_int_equal(mqc_notify(t->c, NULL), 0);
}

/* ---- Subscribe ---- */

static void refuse_filter(struct stand_in *s, const struct wire_frame *f)
{
    if (f->type != WIRE_SUBSCRIBE && f->type != WIRE_UNSUBSCRIBE)
        return;
    stand_in_begin(s);
    stand_in_code(s, *(const uint8_t *)s->context, (uint32_t)f->number, 1);
    stand_in_send(s, WIRE_CONTROL);
}

static void subscriptions_are_asked_for_and_answered(void **state)
{
    struct test *t = *state;
    uint8_t code = WIRE_C_TOO_MANY_FILTERS;

    assert_int_equal(mqc_subscribe(t->c, "plant/+/#", MQC_NO_RETAINED), 0);
    assert_string_equal(frame(t, 0)->frame.text, "plant/+/#");
    assert_int_equal(frame(t, 0)->frame.flags, WIRE_F_NO_RETAINED);
    assert_true(frame(t, 0)->urgent);
    assert_int_equal(frame(t, 0)->level, WIRE_CONTROL);
    assert_int_equal(mqc_unsubscribe(t->c, "plant/+/#"), 0);
    t->s->context = &code;
    t->s->answer = refuse_filter;
    assert_int_equal(mqc_subscribe(t->c, "x", 0), -ENOSPC);
    expect_sentence("max_subscriptions");
    code = WIRE_C_NOT_SUBSCRIBED;
    assert_int_equal(mqc_unsubscribe(t->c, "x"), -ENOENT);
    assert_int_equal(mqc_subscribe(t->c, "a/#/b", 0), -EINVAL);
    assert_int_equal(mqc_subscribe(t->c, "@me", 0), -EINVAL);
    assert_int_equal(mqc_subscribe(t->c, NULL, 0), -EINVAL);
    assert_int_equal(mqc_subscribe(t->c, "a", 4), -EINVAL);
}

static void a_publish_only_handle_cannot_subscribe(void **state)
{
    struct test *t = *state;

    assert_int_equal(open_with(t, NULL, MQC_PUBLISH_ONLY, 0), 0);
    assert_int_equal(mqc_subscribe(t->c, "a", 0), -EINVAL);
    expect_sentence("MQC_PUBLISH_ONLY");
}

/* ---- Requests ---- */

static const struct mqc_publication question = {
    .topic = "service", .payload = "what", .size = 4, .priority = 9};

/* The reply comes in the middle of other messages, below a higher one. */
static void reply_in_the_middle(struct stand_in *s, const struct wire_frame *f)
{
    if (f->type != WIRE_REQUEST)
        return;
    stand_in_begin(s);
    stand_in_message(s, 9, 0, 0, 0, "a", "before");
    stand_in_message(s, 9, WIRE_F_REPLY, f->number, 0, "", "that");
    stand_in_message(s, 9, 0, 0, 0, "a", "behind");
    stand_in_send(s, 9);
    stand_in_say(s, 31, "a", "high");
}

static void a_request_gets_its_reply_and_leaves_the_rest_in_order(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    t->s->answer = reply_in_the_middle;
    assert_int_equal(mqc_request(t->c, &question, &m, 10000), 0);
    assert_int_equal(frame(t, 0)->frame.type, WIRE_REQUEST);
    assert_true(frame(t, 0)->frame.expiry != 0);
    assert_int_equal(m.size, 4);
    assert_memory_equal(m.payload, "that", 4);
    assert_int_equal(m.flags, MQC_M_REPLY);
    expect_message(t, "a", "high");
    expect_message(t, "a", "before");
    expect_message(t, "a", "behind");
    expect_nothing(t);
    assert_memory_equal(m.payload, "that", 4);
    mqc_message_free(&m);
}

static void refuse_request(struct stand_in *s, const struct wire_frame *f)
{
    if (f->type != WIRE_REQUEST)
        return;
    stand_in_begin(s);
    stand_in_code(s, *(const uint8_t *)s->context, (uint32_t)f->number, 1);
    stand_in_send(s, WIRE_CONTROL);
}

/* The reply comes after a message of the same batch. */
static void reply_after_another(struct stand_in *s, const struct wire_frame *f)
{
    if (f->type != WIRE_REQUEST)
        return;
    stand_in_begin(s);
    stand_in_message(s, 9, 0, 0, 0, "a", "before");
    stand_in_message(s, 9, WIRE_F_REPLY, f->number, 0, "", "that");
    stand_in_send(s, 9);
}

static void P10_it_is_readable_for_what_another_call_has_read(void **state)
{
    struct test *t = *state;
    struct mqc_message m;
    int fd = mqc_fd(t->c);

    t->s->answer = reply_after_another;
    assert_int_equal(mqc_request(t->c, &question, &m, 10000), 0);
    mqc_message_free(&m);
    assert_int_equal(queue_standing(&t->s->reply), 0);
    assert_true(readable(fd));
    expect_message(t, "a", "before");
    expect_nothing(t);
    assert_false(readable(fd));
}

static void P10_what_was_read_before_it_was_asked_for_counts(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    t->s->answer = reply_after_another;
    assert_int_equal(mqc_request(t->c, &question, &m, 10000), 0);
    mqc_message_free(&m);
    assert_true(readable(mqc_fd(t->c)));
    expect_message(t, "a", "before");
}

static void a_request_that_comes_to_nothing_says_why(void **state)
{
    static const struct {
        uint8_t code;
        int error;
    } cases[] = {
        {WIRE_C_NO_SUBSCRIBER, -ENOENT}, {WIRE_C_PEER_DIED, -ECONNRESET},
        {WIRE_C_TIMEOUT, -ETIMEDOUT},    {WIRE_C_DROPPED, -ENOBUFS},
        {WIRE_C_WINDOW, -ENOBUFS},       {WIRE_C_STORE_FULL, -ENOBUFS},
        {WIRE_C_BAD_TOPIC, -EINVAL},
    };
    struct test *t = *state;
    struct mqc_message m;
    uint8_t code;

    t->s->context = &code;
    t->s->answer = refuse_request;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t number;

        code = cases[i].code;
        assert_int_equal(mqc_request(t->c, &question, &m, 10000), cases[i].error);
        number = mqc_request_send(t->c, &question, 10000);
        assert_true(number > 0);
        assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
        assert_int_equal(m.flags, MQC_M_FAILED);
        assert_int_equal(m.number, number);
        assert_int_equal(m.error, cases[i].error);
        assert_string_equal(m.topic, "");
        assert_int_equal(m.size, 0);
        assert_non_null(m.payload);
        mqc_message_free(&m);
    }
}

static void a_request_times_out_by_itself_if_the_broker_was_killed(void **state)
{
    struct test *t = *state;
    struct mqc_message m;
    int64_t number;

    atomic_store(&t->s->mute, true);
    assert_int_equal(mqc_request(t->c, &question, &m, 10), -ETIMEDOUT);
    number = mqc_request_send(t->c, &question, 10);
    assert_int_equal(mqc_receive(t->c, &m, 5000), 0);
    assert_int_equal(m.flags, MQC_M_FAILED);
    assert_int_equal(m.number, number);
    assert_int_equal(m.error, -ETIMEDOUT);
    expect_nothing(t);
}

static void L2_a_late_reply_is_left_out(void **state)
{
    struct test *t = *state;
    struct mqc_message m;
    uint64_t number;

    atomic_store(&t->s->mute, true);
    assert_int_equal(mqc_request(t->c, &question, &m, 10), -ETIMEDOUT);
    number = frame(t, 0)->frame.number;
    stand_in_begin(t->s);
    stand_in_message(t->s, 9, WIRE_F_REPLY, number, 0, "", "late");
    stand_in_send(t->s, 9);
    expect_nothing(t);
}

static void at_most_1024_requests_are_open(void **state)
{
    struct test *t = *state;
    struct mqc_message m;
    uint64_t number;

    atomic_store(&t->s->mute, true);
    board_set(&t->s->row->grant, 1 << 20);
    mqc_set_batching(t->c, 1);
    for (int i = 0; i < 1024; i++)
        assert_true(mqc_request_send(t->c, &question, 60000) > 0);
    assert_int_equal(mqc_request_send(t->c, &question, 60000), -EAGAIN);
    expect_sentence("1024");
    mqc_flush(t->c);
    number = frame(t, 500)->frame.number;
    stand_in_begin(t->s);
    stand_in_message(t->s, 9, WIRE_F_REPLY, number, 0, "", "one");
    stand_in_send(t->s, 9);
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_int_equal(m.number, number);
    mqc_message_free(&m);
    assert_true(mqc_request_send(t->c, &question, 60000) > 0);
}

static void requests_are_checked(void **state)
{
    struct test *t = *state;
    struct mqc_publication p = question;
    struct mqc_message m = {0};

    assert_int_equal(mqc_request(t->c, &p, &m, 0), -EINVAL);
    assert_int_equal(mqc_request(t->c, &p, NULL, 100), -EINVAL);
    assert_int_equal(mqc_request_send(t->c, NULL, 100), -EINVAL);
    p.flags = MQC_RETAIN;
    assert_int_equal(mqc_request(t->c, &p, &m, 100), -EINVAL);
    assert_int_equal(mqc_reply(t->c, &m, "x", 1), -EINVAL);
    assert_int_equal(mqc_reply(t->c, NULL, "x", 1), -EINVAL);
}

static void a_reply_carries_the_name_of_its_request(void **state)
{
    struct test *t = *state;
    struct mqc_message m;

    stand_in_begin(t->s);
    stand_in_message(t->s, 26, WIRE_F_REQUEST, UINT64_C(0x123456789abcdef0), 0, "service", "what");
    stand_in_send(t->s, 26);
    assert_int_equal(mqc_receive(t->c, &m, 10000), 0);
    assert_int_equal(m.flags, MQC_M_REQUEST);
    mqc_message_free(&m);
    assert_int_equal(mqc_reply(t->c, &m, "that", 4), 0); /* after it was freed */
    assert_int_equal(frame(t, 0)->frame.type, WIRE_REPLY);
    assert_true(frame(t, 0)->frame.number == UINT64_C(0x123456789abcdef0));
    assert_int_equal(frame(t, 0)->level, 26);
    assert_int_equal(frame(t, 0)->frame.text_size, 0);
}

/* ---- Fork ---- */

static void L4_a_child_may_only_drop_the_handle(void **state)
{
    struct test *t = *state;
    pid_t child = fork();
    int status;

    if (child == 0) {
        struct mqc_message m;
        bool good = mqc_publish(t->c, "t", NULL, 0, 8) == -EPERM &&
                    mqc_receive(t->c, &m, 0) == -EPERM && mqc_subscribe(t->c, "t", 0) == -EPERM &&
                    mqc_fd(t->c) == -EPERM && mqc_flush(t->c) == -EPERM &&
                    strstr(mqc_last_error(), "fork") != NULL;

        mqc_close(t->c);
        _exit(good ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    /* No goodbye was said: the parent goes on. */
    assert_int_equal(mqc_publish(t->c, "t", NULL, 0, 8), 0);
    assert_int_equal(frame(t, 0)->frame.type, WIRE_PUBLISH);
}

/* ---- The rest ---- */

static void missed_comes_from_the_board(void **state)
{
    struct test *t = *state;

    assert_int_equal(mqc_missed(t->c), 0);
    board_set(&t->s->row->missed, 17);
    assert_int_equal(mqc_missed(t->c), 17);
}

static void version_and_errors_are_never_null(void **state)
{
    (void)state;
    assert_string_equal(mqc_version(), "0.1.0");
    assert_non_null(mqc_last_error());
    mqc_close(NULL);
    mqc_message_free(NULL);
}

#define TEST(name)      cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_OPEN(name) cmocka_unit_test_setup_teardown(name, setup_open, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(open_registers_and_close_says_goodbye),
        cmocka_unit_test(no_broker_of_that_instance),
        TEST(options_are_checked),
        TEST(a_dead_broker_refuses_at_once),
        TEST(a_stopped_broker_refuses_at_once),
        TEST(a_starting_broker_is_waited_for),
        TEST(another_layout_is_another_version),
        TEST(a_broker_that_does_not_answer),
        TEST(K7_registration_is_sent_again_until_it_is_answered),
        TEST(refusals_become_errors_with_sentences),
        TEST(a_name_that_is_being_given_up_is_asked_for_again),
        TEST(a_name_that_stays_taken_is_refused_in_the_end),
        TEST_OPEN(a_publish_arrives_as_it_was_given),
        TEST_OPEN(urgent_ones_take_the_urgent_queue),
        TEST_OPEN(publications_are_checked),
        TEST_OPEN(batched_ones_travel_together),
        TEST_OPEN(P3_a_rise_overtakes_what_is_gathered),
        TEST_OPEN(calls_that_wait_send_what_is_gathered),
        TEST_OPEN(a_full_request_queue_is_EAGAIN_or_a_wait),
        TEST_OPEN(P5_out_of_window_it_waits_and_goes_on_reading),
        TEST_OPEN(P5_with_an_inbox_full_it_says_so),
        TEST_OPEN(P5_who_waits_in_vain_is_to_receive_first),
        TEST_OPEN(urgent_ones_have_room_when_others_have_not),
        TEST_OPEN(a_grant_on_the_board_is_enough),
        TEST_OPEN(confirms_say_what_became_of_it),
        TEST_OPEN(more_than_1024_confirms_need_no_asking),
        TEST_OPEN(receive_says_when_there_is_nothing),
        TEST_OPEN(the_highest_priority_comes_first),
        TEST_OPEN(messages_stay_valid_until_they_are_freed),
        TEST_OPEN(a_retained_one_is_marked),
        TEST_OPEN(P11_expired_ones_are_left_out_and_reported),
        TEST_OPEN(interrupted_waits_are_taken_up_again),
        TEST_OPEN(a_sleeping_receiver_is_woken),
        TEST_OPEN(K9_a_stop_is_told_after_all_messages),
        TEST_OPEN(a_board_that_says_stopped_is_believed_without_a_message),
        TEST_OPEN(an_ended_session_says_why),
        TEST_OPEN(P10_the_descriptor_is_readable_when_a_message_stands),
        TEST_OPEN(P10_it_is_readable_for_what_another_call_has_read),
        TEST_OPEN(P10_what_was_read_before_it_was_asked_for_counts),
        TEST_OPEN(notify_announces_once),
        TEST_OPEN(subscriptions_are_asked_for_and_answered),
        TEST(a_publish_only_handle_cannot_subscribe),
        TEST_OPEN(a_request_gets_its_reply_and_leaves_the_rest_in_order),
        TEST_OPEN(a_request_that_comes_to_nothing_says_why),
        TEST_OPEN(a_request_times_out_by_itself_if_the_broker_was_killed),
        TEST_OPEN(L2_a_late_reply_is_left_out),
        TEST_OPEN(at_most_1024_requests_are_open),
        TEST_OPEN(requests_are_checked),
        TEST_OPEN(a_reply_carries_the_name_of_its_request),
        TEST_OPEN(L4_a_child_may_only_drop_the_handle),
        TEST_OPEN(missed_comes_from_the_board),
        cmocka_unit_test(version_and_errors_are_never_null),
    };

    sigset_t usr1;

    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
