/* When a commit waits for more (broker/commit-delay.c). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "broker/commit-delay.h"

enum { SYNC = 160000, LOOK = 1000 };

static uint64_t now;

/* One after the other arrives, so long apart; how many are committed together, of at most `most`
 * that come by themselves. */
static uint32_t commit(struct commit_delay *d, uint32_t most, uint64_t apart)
{
    uint32_t n = 0;
    uint64_t next = now;

    do {
        while (n < most && next <= now) {
            n++;
            next += apart;
        }
        now += LOOK;
    } while (commit_delay_waits(d, n, now));
    commit_delay_handed(d, n);
    commit_delay_took(d, SYNC);
    now += SYNC;
    return n;
}

static void who_is_alone_is_never_delayed(void **state)
{
    struct commit_delay d = {0};

    (void)state;
    for (int i = 0; i < 100; i++) {
        uint64_t before = now;

        assert_int_equal(commit(&d, 1, 0), 1);
        assert_int_equal(now - before, LOOK + SYNC);
    }
}

static void nothing_waits_when_nothing_was_gathered(void **state)
{
    struct commit_delay d = {.most = 100, .took = SYNC};

    (void)state;
    assert_false(commit_delay_waits(&d, 0, 1));
}

/* A publisher of 128 sends them 200 ns apart, and goes on when it has all of its confirms. */
static void those_that_come_together_are_committed_together(void **state)
{
    enum { TOGETHER = 128, APART = 200, CYCLES = 100 };
    struct commit_delay d = {0};
    uint32_t commits = 0;

    (void)state;
    for (uint32_t cycle = 0; cycle < CYCLES; cycle++) {
        uint64_t begun = now;

        for (uint32_t done = 0, n = 0; done < TOGETHER; done += n, commits++) {
            uint64_t sent;

            do {
                now += LOOK;
                sent = (now - begun) / APART;
                n = (sent < TOGETHER ? (uint32_t)sent : TOGETHER) - done;
            } while (commit_delay_waits(&d, n, now));
            commit_delay_handed(&d, n);
            commit_delay_took(&d, SYNC);
            now += SYNC;
        }
    }
    assert_true(commits < CYCLES + CYCLES / 4);
}

/* Three publishers answer to their confirms each after another time. */
static void stragglers_are_waited_for(void **state)
{
    struct commit_delay d = {.most = 3, .took = SYNC};
    uint32_t n = 0;

    (void)state;
    for (int i = 0; i < 10; i++)
        n += commit(&d, 3, 9000);
    assert_int_equal(n, 30);
}

static void but_not_for_long(void **state)
{
    struct commit_delay d = {.most = 1000, .took = SYNC};
    uint64_t before = now;

    (void)state;
    assert_true(commit(&d, 1000, 9000) < 10);
    assert_true(now - before <= SYNC + SYNC / 4 + LOOK);
}

static void and_not_when_they_went_away(void **state)
{
    struct commit_delay d = {.most = 8, .took = SYNC};
    uint64_t waited = 0;

    (void)state;
    for (int i = 0; i < 100; i++) {
        uint64_t before = now;

        assert_int_equal(commit(&d, 1, 0), 1);
        waited += now - before - SYNC - LOOK;
    }
    assert_true(waited > 0);
    assert_true(waited < UINT64_C(100) * SYNC / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_is_alone_is_never_delayed),
        cmocka_unit_test(nothing_waits_when_nothing_was_gathered),
        cmocka_unit_test(those_that_come_together_are_committed_together),
        cmocka_unit_test(stragglers_are_waited_for),
        cmocka_unit_test(but_not_for_long),
        cmocka_unit_test(and_not_when_they_went_away),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
