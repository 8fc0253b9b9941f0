/* See sim-task.h. Switching between stacks is the C library's business (ucontext). */
#include "tests/support/sim-task.h"

#include <stdlib.h>
#include <ucontext.h>

#ifdef SIM_TASK_SANITIZED
#include <sanitizer/asan_interface.h>
#endif

static struct task *running;  /* NULL: the simulation itself */
static ucontext_t simulation; /* where it stands while a task runs */
static uint32_t points_left;  /* of what the task was given */

bool task_init(struct task *t)
{
    *t = (struct task){.stack = malloc(TASK_STACK), .place = malloc(sizeof(ucontext_t))};
    if (t->stack != NULL && t->place != NULL)
        return true;
    task_deinit(t);
    return false;
}

void task_deinit(struct task *t)
{
    free(t->stack);
    free(t->place);
    *t = (struct task){0};
}

/* Go on there, until somebody goes on here. Not swapcontext(): the address sanitizer warns of it,
 * whatever is done to please it. */
static void go(ucontext_t *here, ucontext_t *there)
{
    volatile bool back = false;

    getcontext(here);
    if (back)
        return;
    back = true;
    setcontext(there);
}

static void leave(void)
{
    struct task *t = running;

    running = NULL;
    go(t->place, &simulation);
}

static void enter(void)
{
    struct task *t = running;

    t->program(t->context);
    t->state = TASK_NONE;
    leave();
    abort();
}

void task_begin(struct task *t, void (*program)(void *context), void *context)
{
    ucontext_t *place = t->place;

    getcontext(place);
    place->uc_stack.ss_sp = t->stack;
    place->uc_stack.ss_size = TASK_STACK;
    place->uc_link = NULL;
    makecontext(place, enter, 0);
#ifdef SIM_TASK_SANITIZED
    ASAN_UNPOISON_MEMORY_REGION(t->stack, TASK_STACK); /* of who was killed on it */
#endif
    t->program = program;
    t->context = context;
    t->state = TASK_READY;
}

uint32_t task_run(struct task *t, uint32_t points, uint64_t now)
{
    if (t->state == TASK_ASLEEP && (t->wake <= now || t->stirs(t->context)))
        t->state = TASK_READY;
    if (t->state != TASK_READY)
        return 0;
    points_left = points;
    running = t;
    go(&simulation, t->place);
    return points - points_left + 1; /* to end, or to fall asleep, is one */
}

void task_kill(struct task *t)
{
    t->state = TASK_NONE;
}

void task_point(void)
{
    if (running == NULL)
        return;
    if (points_left == 0)
        leave();
    points_left--;
}

void task_sleep(bool (*stirs)(const void *context), uint64_t wake)
{
    running->stirs = stirs;
    running->wake = wake;
    running->state = TASK_ASLEEP;
    leave();
}
