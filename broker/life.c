/* Sessions from their first frame to the last trace of them.
 *
 * A row goes free → making → live → ending → free. Each step is one store, and what is done in a
 * state may be done again: so a start just looks at the state and goes on. An end takes effect only
 * after both request queues have been seen empty, because a death is seen sooner than the last
 * messages of the dead (L1). */
#include "broker/life.h"

#include <errno.h>
#include <stdlib.h>

#include "broker/durable.h"
#include "broker/groups.h"
#include "broker/knots.h"
#include "broker/pools.h"
#include "broker/pump.h"
#include "broker/route.h"
#include "libclient/topic.h"

enum {
    MILLISECOND = 1000000,
    TICK = 10 * MILLISECOND,          /* unit of reference.when */
    ENDING_LIMIT = 200 * MILLISECOND, /* L1 */
    STALL_CHECKS = 8,                 /* looks in a stall timeout */
};

/* ---- Registration (K7) ---- */

static int find_nonce(const struct engine *e, uint64_t nonce)
{
    for (uint32_t i = 0; i < e->n_rows; i++) {
        const struct row *row = engine_row(e, (uint16_t)i);

        if (row->state != ROW_FREE && row->nonce == nonce)
            return (int)i;
    }
    return -1;
}

static const struct row *find_name(const struct engine *e, const char *name)
{
    for (uint32_t i = 0; i < e->n_rows; i++) {
        const struct row *row = engine_row(e, (uint16_t)i);

        if (row->state != ROW_FREE && strcmp(row->name, name) == 0)
            return row;
    }
    return NULL;
}

/* The free row with the fewest of its window under way: who gets one whose last owner left messages
 * begins with less (P4). */
static int find_free_row(const struct engine *e)
{
    int best = -1;

    for (uint32_t i = 0; i < e->n_rows; i++) {
        if (engine_row(e, (uint16_t)i)->state == ROW_FREE &&
            (best < 0 || e->sessions[i].charged < e->sessions[best].charged))
            best = (int)i;
    }
    return best;
}

/* Sent again: it may have missed the posting. */
static void register_again(struct engine *e, uint16_t row)
{
    if (engine_row(e, row)->state == ROW_LIVE)
        engine_post(e, engine_row(e, row)->nonce, WIRE_C_OK, row, 0);
}

static void fill_row(struct engine *e, uint16_t i, uint32_t pool_slot, const struct wire_frame *f)
{
    struct row *row = engine_row(e, i);

    PERSIST_POINT();
    row->publish_only = (f->flags & WIRE_F_PUBLISH_ONLY) != 0;
    row->age = e->next_age;
    row->uid = e->uid;
    row->pid = f->pid;
    row->pid_start = f->start;
    memcpy(row->token, e->fresh_token, sizeof(row->token));
    row->nonce = f->nonce;
    memset(row->name, 0, sizeof(row->name));
    memcpy(row->name, f->text, f->text_size);
    row->inode = 0;
    row->depth = 0;
    row->width = 0;
    row->since = e->wall;
    row->send = 0;
    row->upto = 0;
    row->received = 0;
    row->missed = 0;
    row->said_bye = 0;
    row->end_code = WIRE_C_OK;
    row->pool = f->pool;
    row->pool_slot = pool_slot;
    row->outbox_inode = 0;
    persist_row_state(row, ROW_MAKING);
    pools_adopt(e, i, pool_slot, f->pool); /* a start that finds no commit takes back both */
    e->token_used = true;
}

/* What the board says about a row is about this session alone. */
static void reset_board_row(struct engine *e, uint16_t i)
{
    struct board_row *b = board_row(e->board, i);

    board_write_begin(&b->identity.sequence);
    for (unsigned level = 0; level <= WIRE_LEVELS; level++)
        atomic_store_explicit(&b->level[level], 0, memory_order_relaxed);
    atomic_store_explicit(&b->tide, 0, memory_order_relaxed);
    for (_Atomic uint64_t *word = &b->in; (char *)word < (char *)(b + 1); word++)
        board_set(word, 0);
    board_write_end(&b->identity.sequence);
    engine_dirty(e, i);
}

/* Nothing of a session that had this row before may be taken for its own. */
static void reset_session(struct engine *e, uint16_t i)
{
    struct session *s = &e->sessions[i];

    s->end_code = WIRE_C_OK;
    s->dead = false;
    s->said_bye = false;
    s->over = false;
    s->lingers = false;
    s->nudge = false;
    s->outbox = NULL;
    s->pool = NULL;
    s->broken = false;
    s->wants_buffer = false;
    e->n_wanting -= s->wants != 0;
    s->wants = 0;
    s->woken_for = 0;
    e->n_sated -= s->sated;
    s->sated = false;
    s->room = 0;
    s->room_fresh = false;
    s->kept = BLOCKED_NOT;
    if (s->stalled > 0)
        e->n_stalled--;
    s->stalled = 0;
}

void life_register(struct engine *e, const struct wire_frame *f)
{
    int i = find_nonce(e, f->nonce);
    const struct row *holder;
    uint32_t pool_slot = pools_free_slot(e);

    if (i >= 0) {
        register_again(e, (uint16_t)i);
        return;
    }
    if (f->text_size > 0 && !topic_name_valid(f->text, f->text_size)) {
        engine_post(e, f->nonce, WIRE_C_BAD_NAME, 0, 0);
        return;
    }
    holder = f->text_size > 0 ? find_name(e, f->text) : NULL;
    if (holder != NULL) {
        engine_post(e, f->nonce,
                    holder->state == ROW_ENDING ? WIRE_C_NAME_LEAVING : WIRE_C_NAME_TAKEN,
                    holder->pid, 0);
        return;
    }
    i = find_free_row(e);
    if (i < 0 || store_pool_ready(&e->store.reference_pool) == 0) {
        engine_post(e, f->nonce, WIRE_C_NO_ROW, e->n_rows, 0);
        return;
    }
    if (pool_slot == UINT32_MAX || pools_find(e, f->pool) != 0) {
        engine_post(e, f->nonce, pool_slot == UINT32_MAX ? WIRE_C_POOLS_FULL : WIRE_C_BAD_POOL,
                    e->n_pools, 0);
        return;
    }
    reset_session(e, (uint16_t)i);
    reset_board_row(e, (uint16_t)i);
    fill_row(e, (uint16_t)i, pool_slot, f);
    e->sessions[i].told =
        engine_grant(e, (uint16_t)i); /* who had the row before may have left messages */
    engine_answer(e, (uint16_t)i, ENGINE_WELCOME, 0, 1);
    rows_add(&e->making, (uint16_t)i);
}

void life_made(struct engine *e, uint16_t i, uint64_t inode, uint32_t depth, uint32_t width)
{
    struct row *row = engine_row(e, i);

    row->inode = inode;
    row->depth = depth;
    row->width = width;
    persist_row_state(row, ROW_LIVE);
    e->n_live++;
    e->generation++; /* its name can be published to */
    engine_show_identity(e, i);
    engine_touch(e, i);
}

/* End all references of a list of waiting ones. */
static void end_waiting(struct engine *e, uint16_t row)
{
    struct backlog *b = &e->sessions[row].waiting;

    for (int level; (level = backlog_highest(b)) >= 0;) {
        uint32_t slot = b->lists[level].head;
        const struct reference *r = engine_reference(e, slot);

        if ((ref_flags(r) & REF_ANSWER) != 0) {
            engine_end(e, slot);
            continue;
        }
        engine_count_drop(e, row, (unsigned)level, engine_cell(e, slot)->topic, DROP_gone, 1);
        if (ref_flags(r) & REF_REQUEST)
            engine_unanswered(e, slot, WIRE_C_PEER_DIED);
        else
            engine_end(e, slot);
    }
}

static void free_row(struct engine *e, uint16_t i)
{
    struct row *row = engine_row(e, i);

    PERSIST_POINT();
    memset(row->token, 0, sizeof(row->token));
    persist_row_state(row, ROW_FREE);
    reset_session(e, i);
    engine_show_identity(e, i);
    engine_dirty(e, i);
}

void life_refused(struct engine *e, uint16_t i, uint8_t code, uint32_t number1, uint64_t number2)
{
    uint64_t nonce = engine_row(e, i)->nonce;

    persist_row_state(engine_row(e, i), ROW_ENDING);
    end_waiting(e, i); /* its WELCOME */
    pools_orphan(e, i);
    pools_gone(e, engine_row(e, i)->pool_slot); /* never made */
    free_row(e, i);
    engine_post(e, nonce, code, number1, number2);
}

/* ---- Ending (L1) ---- */

static void expect_end(struct engine *e, uint16_t i)
{
    e->sessions[i].ending_since = e->now;
    rows_add(&e->ending, i);
}

void life_leave(struct engine *e, uint16_t i, uint8_t code)
{
    struct row *row = engine_row(e, i);

    if (row->state != ROW_LIVE)
        return;
    e->sessions[i].end_code = code;
    persist_u32(&row->end_code, code);
    persist_row_state(row, ROW_ENDING);
    e->n_live--;
    e->generation++;
    engine_show_identity(e, i);
    expect_end(e, i);
}

void life_died(struct engine *e, uint16_t i)
{
    struct session *s = &e->sessions[i];

    s->dead = true;
    life_leave(e, i, WIRE_C_OK);
    if (s->lingers) {
        while (s->out.head != 0)
            engine_end(e, s->out.head);
        life_let_go(e, i);
    }
}

bool life_lingers(struct engine *e, uint16_t i)
{
    struct session *s = &e->sessions[i];

    s->lingers = s->n_held > 0;
    return s->lingers;
}

void life_let_go(struct engine *e, uint16_t i)
{
    e->sessions[i].lingers = false;
    rows_add(&e->leaving, i);
}

void life_bye(struct engine *e, uint16_t i)
{
    e->sessions[i].said_bye = true;
    persist_u32(&engine_row(e, i)->said_bye, 1); /* before it is seen to end */
    life_leave(e, i, WIRE_C_OK);
}

/* How it ended is known only now: the death of a process is often seen before its goodbye. */
static void count_end(struct engine *e, const struct session *s)
{
    if (s->end_code != WIRE_C_OK)
        board_add(&e->board->totals.ended, 1);
    else if (s->said_bye)
        board_add(&e->board->totals.said_bye, 1);
    else
        board_add(&e->board->totals.died, 1);
}

static bool may_read(const struct session *s)
{
    return !s->dead && !s->said_bye;
}

/* A message of a group goes back to it: as one that was tried, if nobody can know better. */
static void return_message(struct engine *e, uint32_t slot, const struct session *s)
{
    groups_return(e, slot, s->said_bye ? RETURN_UNTRIED : RETURN_TRIED, 0, may_read(s), false);
}

/* What it has of others: its unanswered requests are answered for it, messages of its groups go
 * back. What it holds is over if it is gone, or has said that it is done; a process that the broker
 * ended may still read it (S7). */
static void end_out(struct engine *e, uint16_t i)
{
    const struct session *s = &e->sessions[i];
    uint32_t next;

    for (uint32_t slot = s->out.head; slot != 0; slot = next) {
        const struct reference *r = engine_reference(e, slot);

        next = r->next;
        if ((ref_flags(r) & REF_ACK) != 0) {
            return_message(e, slot, s);
            continue;
        }
        if ((ref_flags(r) & REF_HELD) != 0 && may_read(s)) {
            if (ref_flags(r) & REF_REQUEST) /* comes again, at the end of the list */
                engine_change(e, slot, r->word & ~((uint64_t)REF_REQUEST << 8));
            continue;
        }
        if (ref_flags(r) & REF_REQUEST)
            engine_unanswered(e, slot, WIRE_C_PEER_DIED);
        else
            engine_end(e, slot);
    }
}

/* What others wait for from it is answered; what waits for it goes. A batch that may have gone is
 * taken to have: its process may be reading it (S7). */
static void carry_out(struct engine *e, uint16_t i)
{
    struct session *s = &e->sessions[i];

    if (row_in_doubt(engine_row(e, i)) && may_read(s))
        pump_settle(e, i);
    s->over = true;
    count_end(e, s);
    end_waiting(e, i);
    while (s->filters.head != 0)
        engine_end(e, s->filters.head);
    groups_forget_session(e, i);
    durable_forget_session(e, i);
    end_out(e, i);
    if (s->will != 0 && s->said_bye)
        engine_end(e, s->will);
    else if (s->will != 0)
        route_will(e, i);
    rows_add(&e->leaving, i);
}

void life_quiet(struct engine *e)
{
    while (e->ending.n > 0)
        carry_out(e, e->ending.rows[--e->ending.n]);
}

void life_postpone(struct engine *e, uint64_t nanoseconds)
{
    for (uint32_t i = 0; i < e->ending.n; i++) {
        uint64_t *since = &e->sessions[e->ending.rows[i]].ending_since;

        *since = e->now - *since > nanoseconds ? *since + nanoseconds : e->now;
    }
}

/* Endings that the request queues, never empty, have kept waiting. */
static void end_overdue(struct engine *e)
{
    uint32_t kept = 0;

    for (uint32_t i = 0; i < e->ending.n; i++) {
        uint16_t row = e->ending.rows[i];

        if (e->now - e->sessions[row].ending_since >= ENDING_LIMIT)
            carry_out(e, row);
        else
            e->ending.rows[kept++] = row;
    }
    e->ending.n = kept;
}

void life_gone(struct engine *e, uint16_t row)
{
    free_row(e, row);
}

bool life_wants_farewell(const struct engine *e, uint16_t row, uint8_t *code)
{
    const struct session *s = &e->sessions[row];

    *code = s->end_code;
    return !s->dead && s->end_code != WIRE_C_OK;
}

/* ---- Deadlines ---- */

static void deadline(struct engine *e, uint32_t slot)
{
    const struct reference *r = engine_reference(e, slot);

    if (owner_is_group(e, ref_owner(r)) && ref_state(r) != REF_DROPPED) {
        groups_time_out(e, slot);
        return;
    }
    switch (ref_state(r)) {
    case REF_WAIT:
        if (engine_in_doubt(e, r)) /* it may have gone: not before that is known (K3) */
            timers_set(&e->timers, slot, (uint32_t)(e->now / TICK) + 1);
        else
            engine_drop(e, slot, DROP_expired);
        break;
    case REF_OUT:
        if (ref_flags(r) & REF_HELD) /* it is still read; the requester knows the time by itself */
            engine_change(e, slot, r->word & ~((uint64_t)REF_REQUEST << 8));
        else
            engine_unanswered(e, slot, WIRE_C_TIMEOUT);
        break;
    default:
        engine_end(e, slot);
        break;
    }
}

static void run_deadlines(struct engine *e)
{
    struct timers_entry first;

    while (timers_first(&e->timers, &first) && first.when <= e->now / TICK)
        deadline(e, first.slot);
}

/* ---- Stalls (P7) ---- */

/* Is a publisher of this delivery out of room, for so long that others need not wait for its
 * receiver any more? */
static bool holds_up(const struct engine *e, uint32_t slot)
{
    const struct cell *c = engine_cell(e, slot);
    const struct session *publisher = &e->sessions[c->account];

    return publisher->short_since != 0 && c->born <= publisher->short_since &&
           e->now - publisher->short_since >= e->settings.stall_timeout;
}

static bool holds_someone_up(const struct engine *e, const struct session *s)
{
    for (unsigned level = 0; level < WIRE_LEVELS; level++) {
        for (uint32_t slot = s->waiting.lists[level].head; slot != 0;
             slot = engine_reference(e, slot)->next) {
            if (holds_up(e, slot))
                return true;
        }
    }
    return false;
}

static void stall(struct engine *e, uint16_t i)
{
    struct session *s = &e->sessions[i];

    board_add(&board_row(e->board, i)->stalled_times, 1);
    if (e->settings.overflow == ENGINE_DISCONNECT) {
        life_leave(e, i, WIRE_C_OVERFLOW);
        return;
    }
    s->stalled = engine_row(e, i)->depth;
    e->n_stalled++;
    engine_dirty(e, i);
    engine_touch(e, i); /* the pump trims it, unless its publishers are to wait */
}

static void check_stalls(struct engine *e)
{
    if (e->now < e->next_stall_check || (e->n_short == 0 && e->n_over == 0))
        return;
    e->next_stall_check = e->now + e->settings.stall_timeout / STALL_CHECKS;
    for (uint32_t i = 0; i < e->n_rows; i++) {
        const struct session *s = &e->sessions[i];

        if (engine_row(e, (uint16_t)i)->state != ROW_LIVE)
            continue;
        if (s->short_since != 0 && engine_has_room(e, (uint16_t)i)) {
            engine_tell_grant(e, (uint16_t)i); /* it need not wait until half is back */
            engine_dirty(e, (uint16_t)i);
        }
        if (s->stalled > 0 || s->n_waiting == 0)
            continue;
        if ((s->over_since != 0 && e->now - s->over_since >= e->settings.stall_timeout) ||
            (e->n_short > 0 && holds_someone_up(e, s)))
            stall(e, (uint16_t)i);
    }
}

void life_tick(struct engine *e)
{
    run_deadlines(e);
    check_stalls(e);
    if (knots_next_look(e) <= e->now)
        knots_look(e);
    if (groups_next_tick(e) <= e->now)
        groups_tick(e);
    end_overdue(e);
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

uint64_t life_next_tick(const struct engine *e)
{
    uint64_t next = groups_next_tick(e);
    struct timers_entry first;

    if (timers_first(&e->timers, &first))
        next = earlier(next, (uint64_t)first.when * TICK);
    if (e->n_short > 0 || e->n_over > 0)
        next = earlier(next, e->next_stall_check);
    next = earlier(next, knots_next_look(e));
    for (uint32_t i = 0; i < e->ending.n; i++)
        next = earlier(next, e->sessions[e->ending.rows[i]].ending_since + ENDING_LIMIT);
    return next;
}
