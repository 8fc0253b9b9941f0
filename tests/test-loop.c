/* The loop: what is ready is called back, and what was removed is not, whatever a callback does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "broker/loop.h"

enum { MANY = 1000 };

/* A source with an eventfd, and what its callback is to do. */
struct bell {
    struct loop_source source;
    struct loop *loop;
    int fd;
    unsigned rung;
    uint32_t events;
    struct bell *victim;          /* removed by the callback */
    struct bell *heir;            /* put into the loop after that: it gets the victim's slot */
    struct bell *first, *further; /* all removed but the one that is called */
};

static void rung(struct loop_source *source, uint32_t events)
{
    struct bell *bell = (struct bell *)source;

    bell->rung++;
    bell->events = events;
    if (bell->victim != NULL) {
        loop_remove(bell->loop, &bell->victim->source);
        if (bell->heir != NULL)
            assert_int_equal(
                loop_add(bell->loop, &bell->heir->source, bell->heir->fd, EPOLLIN, rung), 0);
    }
    for (struct bell *other = bell->first; other < bell->further; other++)
        if (other != bell)
            loop_remove(bell->loop, &other->source);
}

static void ring(const struct bell *bell)
{
    uint64_t one = 1;

    assert_int_equal(write(bell->fd, &one, sizeof(one)), sizeof(one));
}

static void hush(const struct bell *bell)
{
    uint64_t count;

    assert_int_equal(read(bell->fd, &count, sizeof(count)), sizeof(count));
}

static void hang(struct bell *bell, struct loop *loop, uint32_t events)
{
    *bell = (struct bell){.source = LOOP_SOURCE_NONE, .loop = loop};
    bell->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    assert_true(bell->fd >= 0);
    assert_int_equal(loop_add(loop, &bell->source, bell->fd, events, rung), 0);
}

static void take_down(struct bell *bell)
{
    loop_remove(bell->loop, &bell->source);
    close(bell->fd);
}

static uint64_t now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static int set_up(void **state)
{
    static struct loop loop;

    *state = &loop;
    return loop_init(&loop);
}

/* The same loop as on a kernel without epoll_pwait2. */
static int set_up_coarse(void **state)
{
    int r = set_up(state);

    ((struct loop *)*state)->coarse = true;
    return r;
}

static int tear_down(void **state)
{
    loop_deinit(*state);
    loop_deinit(*state);
    return 0;
}

static void ready_sources_are_called_with_their_events(void **state)
{
    struct loop *loop = *state;
    struct bell a, b;

    hang(&a, loop, EPOLLIN);
    hang(&b, loop, EPOLLIN | EPOLLOUT);
    ring(&a);
    assert_int_equal(loop_wait(loop, UINT64_MAX), 2);
    assert_int_equal(a.rung, 1);
    assert_int_equal(a.events, EPOLLIN);
    assert_int_equal(b.events, EPOLLOUT);
    take_down(&a);
    take_down(&b);
    assert_int_equal(loop_wait(loop, 0), 0);
}

static void a_source_may_remove_itself(void **state)
{
    struct loop *loop = *state;
    struct bell a;

    hang(&a, loop, EPOLLIN);
    a.victim = &a;
    ring(&a);
    assert_int_equal(loop_wait(loop, 0), 1);
    assert_int_equal(a.source.fd, -1);
    assert_int_equal(loop_wait(loop, 0), 0);
    assert_int_equal(a.rung, 1);
    close(a.fd);
}

static void a_source_removed_with_an_event_pending_is_not_called(void **state)
{
    struct loop *loop = *state;
    struct bell bells[10];
    unsigned called = 0;

    for (int i = 0; i < 10; i++) {
        hang(&bells[i], loop, EPOLLIN);
        bells[i].first = bells;
        bells[i].further = bells + 10;
        ring(&bells[i]);
    }
    /* Whichever comes first, it takes all others out, whose events have been fetched already. */
    assert_int_equal(loop_wait(loop, 0), 1);
    for (int i = 0; i < 10; i++)
        called += bells[i].rung;
    assert_int_equal(called, 1);
    for (int i = 0; i < 10; i++)
        take_down(&bells[i]);
}

static void a_source_put_back_in_a_callback_gets_no_event_of_its_former_life(void **state)
{
    struct loop *loop = *state;
    struct bell a, b;

    hang(&a, loop, EPOLLIN);
    hang(&b, loop, EPOLLIN);
    a.victim = a.heir = &b;
    b.victim = b.heir = &a;
    ring(&a);
    ring(&b);
    assert_int_equal(loop_wait(loop, 0), 1);
    assert_int_equal(a.rung + b.rung, 1);
    /* It is in the loop, and still ready: the next round finds it. */
    a.victim = b.victim = NULL;
    assert_int_equal(loop_wait(loop, 0), 2);
    take_down(&a);
    take_down(&b);
}

static void a_new_source_in_the_same_slot_gets_no_event_of_the_old_one(void **state)
{
    struct loop *loop = *state;
    struct bell a, b, heir;

    hang(&heir, loop, EPOLLIN);
    loop_remove(loop, &heir.source);
    hang(&a, loop, EPOLLIN);
    hang(&b, loop, EPOLLIN);
    a.victim = &b;
    b.victim = &a;
    a.heir = b.heir = &heir;
    ring(&a);
    ring(&b);
    assert_int_equal(loop_wait(loop, 0), 1);
    assert_true(heir.source.slot == a.source.slot || heir.source.slot == b.source.slot);
    assert_int_equal(heir.rung, 0);
    take_down(&a);
    take_down(&b);
    take_down(&heir);
}

static void want_no_more(struct loop_source *source, uint32_t events)
{
    struct bell *bell = (struct bell *)source;

    bell->rung++;
    bell->events = events;
    assert_int_equal(loop_change(bell->loop, &bell->victim->source, EPOLLOUT), 0);
}

static void an_event_that_is_not_wanted_any_more_is_not_delivered(void **state)
{
    struct loop *loop = *state;
    struct bell a, b;

    hang(&a, loop, EPOLLIN);
    hang(&b, loop, EPOLLIN);
    a.victim = &b;
    b.victim = &a;
    a.source.callback = b.source.callback = want_no_more;
    ring(&a);
    ring(&b);
    assert_int_equal(loop_wait(loop, 0), 1);
    assert_int_equal(a.rung + b.rung, 1);
    take_down(&a);
    take_down(&b);
}

static void a_change_of_events_holds_from_the_next_wait_on(void **state)
{
    struct loop *loop = *state;
    struct bell a;

    hang(&a, loop, 0);
    ring(&a);
    assert_int_equal(loop_wait(loop, 0), 0);
    assert_int_equal(loop_change(loop, &a.source, EPOLLIN), 0);
    assert_int_equal(loop_wait(loop, 0), 1);
    take_down(&a);
    assert_int_equal(loop_change(loop, &a.source, EPOLLIN), -ENOENT);
}

static void an_edge_is_reported_once(void **state)
{
    struct loop *loop = *state;
    struct bell a;

    hang(&a, loop, EPOLLIN | EPOLLET);
    ring(&a);
    assert_int_equal(loop_wait(loop, 0), 1);
    assert_int_equal(loop_wait(loop, 0), 0);
    ring(&a);
    assert_int_equal(loop_wait(loop, 0), 1);
    hush(&a);
    assert_int_equal(loop_wait(loop, 0), 0);
    take_down(&a);
}

static void a_thousand_sources_are_all_called(void **state)
{
    struct loop *loop = *state;
    struct bell *bells = calloc(MANY, sizeof(*bells));

    assert_non_null(bells);
    for (int i = 0; i < MANY; i++) {
        hang(&bells[i], loop, EPOLLIN | EPOLLET);
        ring(&bells[i]);
    }
    while (loop_wait(loop, 0) > 0)
        ;
    for (int i = 0; i < MANY; i++)
        assert_int_equal(bells[i].rung, 1);
    /* Slots of those that went are used again. */
    for (int i = 0; i < MANY; i += 2)
        take_down(&bells[i]);
    for (int i = 0; i < MANY; i += 2)
        hang(&bells[i], loop, EPOLLIN | EPOLLET);
    assert_true(loop->n_slots < 2 * MANY);
    for (int i = 0; i < MANY; i++)
        take_down(&bells[i]);
    free(bells);
}

static void an_empty_wait_ends_not_before_its_deadline(void **state)
{
    struct loop *loop = *state;
    uint64_t begin = now();

    assert_int_equal(loop_wait(loop, 1500000), 0);
    assert_true(now() - begin >= 1500000);
}

static void do_nothing(int signal)
{
    (void)signal;
}

static void a_signal_ends_the_wait_without_an_event(void **state)
{
    struct loop *loop = *state;
    struct sigaction action = {.sa_handler = do_nothing}, before;
    /* Comes again and again, so that one before the wait has begun does no harm. */
    struct itimerval timer = {{0, 1000}, {0, 1000}};

    sigaction(SIGALRM, &action, &before);
    setitimer(ITIMER_REAL, &timer, NULL);
    assert_int_equal(loop_wait(loop, UINT64_MAX), 0);
    timer = (struct itimerval){{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &timer, NULL);
    sigaction(SIGALRM, &before, NULL);
}

static void what_cannot_be_watched_is_an_error_and_takes_no_slot(void **state)
{
    struct loop *loop = *state;
    struct loop_source source = LOOP_SOURCE_NONE;
    struct bell a;

    assert_int_equal(loop_add(loop, &source, -1, EPOLLIN, rung), -EBADF);
    hang(&a, loop, EPOLLIN);
    assert_int_equal(a.source.slot, 0);
    assert_int_equal(loop_add(loop, &source, a.fd, EPOLLIN, rung), -EEXIST);
    assert_int_equal(loop_add(loop, &a.source, a.fd, EPOLLIN, rung), -EEXIST);
    assert_int_equal(source.fd, -1);
    loop_remove(loop, &source);
    take_down(&a);
    loop_remove(loop, &a.source);
}

static void deinit_takes_all_sources_out(void **state)
{
    struct loop loop;
    struct bell a;

    (void)state;
    assert_int_equal(loop_init(&loop), 0);
    hang(&a, &loop, EPOLLIN);
    loop_deinit(&loop);
    assert_int_equal(a.source.fd, -1);
    loop_remove(&loop, &a.source);
    close(a.fd);
}

#define LOOP_TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        LOOP_TEST(ready_sources_are_called_with_their_events),
        LOOP_TEST(a_source_may_remove_itself),
        LOOP_TEST(a_source_removed_with_an_event_pending_is_not_called),
        LOOP_TEST(a_source_put_back_in_a_callback_gets_no_event_of_its_former_life),
        LOOP_TEST(a_new_source_in_the_same_slot_gets_no_event_of_the_old_one),
        LOOP_TEST(an_event_that_is_not_wanted_any_more_is_not_delivered),
        LOOP_TEST(a_change_of_events_holds_from_the_next_wait_on),
        LOOP_TEST(an_edge_is_reported_once),
        LOOP_TEST(a_thousand_sources_are_all_called),
        LOOP_TEST(an_empty_wait_ends_not_before_its_deadline),
        LOOP_TEST(a_signal_ends_the_wait_without_an_event),
        LOOP_TEST(what_cannot_be_watched_is_an_error_and_takes_no_slot),
        cmocka_unit_test(deinit_takes_all_sources_out),
        {"without epoll_pwait2: an_empty_wait_ends_not_before_its_deadline",
         an_empty_wait_ends_not_before_its_deadline, set_up_coarse, tear_down, NULL},
        {"without epoll_pwait2: ready_sources_are_called_with_their_events",
         ready_sources_are_called_with_their_events, set_up_coarse, tear_down, NULL},
        {"without epoll_pwait2: a_signal_ends_the_wait_without_an_event",
         a_signal_ends_the_wait_without_an_event, set_up_coarse, tear_down, NULL},
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
