/* See sim-shrink.h. Delta debugging: leave out halves, quarters, … single steps, until none can be
 * left out any more; then try smaller numbers in what is left. */
#include "tests/support/sim-shrink.h"

#include <string.h>

#include "tests/support/sim-world.h"

enum { RUNS_MAX = 20000 };

static struct script trial;
static const char *claim;
static uint32_t n_runs;

static bool still_fails(void)
{
    return n_runs < RUNS_MAX && (n_runs++, world_run(&trial) != NULL) && world.claim == claim;
}

/* Without the `n` steps from `at` on? */
static bool leave_out(struct script *s, uint32_t at, uint32_t n)
{
    trial = *s;
    memmove(trial.steps + at, trial.steps + at + n, (trial.n - at - n) * sizeof(trial.steps[0]));
    trial.n -= n;
    if (!still_fails())
        return false;
    *s = trial;
    return true;
}

static bool leave_out_all(struct script *s, uint32_t n)
{
    bool any = false;

    for (uint32_t at = s->n > n ? s->n - n : 0;; at = at > n ? at - n : 0) {
        uint32_t most = s->n - at < n ? s->n - at : n;

        if (most > 0)
            any = leave_out(s, at, most) || any;
        if (at == 0)
            return any;
    }
}

/* With this argument smaller? */
static void make_smaller(struct script *s, uint32_t step, unsigned argument)
{
    uint32_t now = s->steps[step].arguments[argument];
    const uint32_t tries[] = {0, 1, 4, now / 2, now - 1};

    for (unsigned i = 0; i < sizeof(tries) / sizeof(tries[0]); i++) {
        if (tries[i] >= now)
            continue;
        trial = *s;
        trial.steps[step].arguments[argument] = tries[i];
        if (still_fails()) {
            *s = trial;
            return;
        }
    }
}

uint32_t shrink(struct script *s)
{
    bool again = true;

    n_runs = 0;
    world_run(s);
    claim = world.claim;
    while (again) {
        again = false;
        for (uint32_t n = s->n / 2; n > 0; n /= 2)
            again = leave_out_all(s, n) || again;
    }
    for (uint32_t step = 0; step < s->n; step++) {
        for (unsigned i = 0; i < SCRIPT_ARGUMENTS; i++)
            make_smaller(s, step, i);
    }
    return n_runs;
}
