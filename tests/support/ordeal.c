/* Counting calls, and the end of a run. */
#include "tests/support/ordeal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "tests/support/patience.h"

void ordeal_init(struct ordeal *o, void *state)
{
    *o = (struct ordeal){.daemon = state, .scenario = scenario_new()};
    o->daemon->program = getenv("MQB_BROKER");
    daemon_configure(o->daemon, scenario_config);
}

void ordeal_write(struct ordeal *o)
{
    char config[1024];

    assert_int_equal(folder_make(&o->journal, "/tmp"), 0);
    snprintf(config, sizeof(config),
             "%sjournal = \"%s\"; journal_segment = \"128K\"; journal_size = \"1M\";\n",
             scenario_config, o->journal.path);
    daemon_configure(o->daemon, config);
    o->scenario->writes = true;
}

void ordeal_deinit(struct ordeal *o)
{
    if (o->scenario->writes)
        folder_remove(&o->journal);
    o->scenario = scenario_free(o->scenario);
}

/* Is it about to open its configuration? */
static bool begins(const struct ordeal *o)
{
    const struct tracer_call *call = &o->tracer.call;
    char path[sizeof(o->daemon->config)];

    if (call->number != SYS_openat)
        return false;
    tracer_text(&o->tracer, call->arguments[1], path, sizeof(path));
    return strcmp(path, o->daemon->config) == 0;
}

/* Its next call. False: there is none before the end. */
static bool next_call(struct ordeal *o, bool starts)
{
    enum tracer_event event;

    do
        event = tracer_next(&o->tracer);
    while (event == TRACER_RETURN);
    if (event == TRACER_ENDED) {
        daemon_print_log(o->daemon);
        fail_msg("the broker has ended by itself, status %#x", (unsigned)o->tracer.status);
    }
    return event == TRACER_CALL &&
           !(starts && tracer_sleeps(&o->tracer) && daemon_serves(o->daemon));
}

unsigned ordeal_run(struct ordeal *o, unsigned k, bool starts)
{
    for (unsigned n = 0; n < k; n++) {
        if (!next_call(o, starts))
            return n;
    }
    return k;
}

unsigned ordeal_start(struct ordeal *o, unsigned k)
{
    tracer_start(&o->tracer, o->daemon);
    do
        assert_true(next_call(o, true));
    while (!begins(o));
    return ordeal_run(o, k, true);
}

void ordeal_mark(struct ordeal *o, unsigned k, const char *what)
{
    snprintf(o->where, sizeof(o->where), "call %u, %s: %s", k, tracer_name(&o->tracer.call), what);
    atomic_store(&o->scenario->killed, proof_now());
}

void ordeal_expect_nothing_left(struct ordeal *o)
{
    struct daemon *d = o->daemon;
    const struct board_header *board = daemon_board(d);

    PATIENCE_UNTIL(daemon_rows(d) == 0);
    PATIENCE_UNTIL(board_get(&board->references_used) == 0);
    PATIENCE_UNTIL(board_get(&board->cells_used) == 0);
    PATIENCE_UNTIL(board_get(&board->pools) == 0);
    assert_int_equal(daemon_segments(d, ".pool"), 0);
    assert_int_equal(daemon_segments(d, ".outbox"), 0);
    assert_int_equal(daemon_stop(d), 0);
    assert_true(daemon_is_gone(d));
    d->n_nonces = 0;
}

void ordeal_finish(struct ordeal *o, struct proof *p)
{
    struct scenario *s = o->scenario;

    if (!scenario_join(s, &o->actor)) {
        daemon_print_log(o->daemon);
        fail_msg("run %u, %s: %s", p->points, o->where, s->tally.first);
    }
    ordeal_expect_nothing_left(o);
    proof_add(p, &s->tally.figures, s->longest_wait);
}
