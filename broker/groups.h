/* Consumer groups: named subscriptions whose messages go to one member each, and come back if they
 * are not acknowledged (rules K3, K6, P4). Pure; floor 3.
 *
 * A message of a group is a reference whose owner is the group. It waits without a member, sorted
 * by age within its level; is given to a member when a batch is put together; is OUT until the
 * member acknowledges it; and otherwise goes back to its place, waits a while first (LATER), or
 * becomes a dead letter: its owner is the group's store of those from then on. Each of these is one
 * store to its word.
 *
 * Stores of dead letters are groups too, without filters and name: they can be joined, too. */
#ifndef MQBROKER_BROKER_GROUPS_H
#define MQBROKER_BROKER_GROUPS_H

#include "broker/engine.h"

/* A session in a group. Derived from its MEMBER reference. */
struct member {
    uint32_t slot; /* of that reference */
    uint16_t row;
    uint16_t group;
    uint32_t prefetch;   /* messages it may have at once, unacknowledged */
    uint32_t n_out;      /* that it has */
    struct member *prev; /* in its group: who was given something longest ago is first */
    struct member *next;
    struct member *other; /* of the same session, in another group */
};

/* A group, or a store of dead letters. Derived. */
struct group {
    struct backlog waiting; /* WAIT without a member */
    struct list later;
    struct list filters;
    struct member *members;
    uint32_t n_members;
    uint32_t n_waiting;
    uint32_t n_later;
    uint32_t n_out; /* given to members and not come back */
    uint32_t n_on_disk;
    uint64_t bytes;       /* of all these, wherever they lie in memory */
    uint64_t empty_since; /* without members since then; 0: it has some */
    uint32_t n_loading;   /* of those, on their way back */
    bool busy;            /* stands in engine.busy */
    bool dirty;           /* stands in engine.dirty_groups */
};

/* Owners by number: sessions, then groups, then stores of dead letters. */
static inline bool owner_is_group(const struct engine *e, uint16_t owner)
{
    return owner >= e->n_rows && owner != REF_NOBODY;
}

static inline uint16_t group_owner(const struct engine *e, uint16_t g)
{
    return (uint16_t)(e->n_rows + g);
}

static inline uint16_t owner_group(const struct engine *e, uint16_t owner)
{
    return (uint16_t)(owner - e->n_rows);
}

static inline struct group_row *group_row(const struct engine *e, uint16_t g)
{
    return &ledger_groups(e->ledger)[g];
}

/* Is this one a store of dead letters? */
static inline bool group_is_dead(const struct engine *e, uint16_t g)
{
    return g >= e->n_groups;
}

/* The store of a group's dead letters, and the group of a store. */
static inline uint16_t group_dead(const struct engine *e, uint16_t g)
{
    return (uint16_t)(g + e->n_groups);
}

static inline uint16_t group_living(const struct engine *e, uint16_t g)
{
    return group_is_dead(e, g) ? (uint16_t)(g - e->n_groups) : g;
}

int groups_init(struct engine *e); /* 0 or -ENOMEM */
void groups_deinit(struct engine *e);

/* ---- References of groups, in and out of their places (engine_link, engine_unlink) ---- */

/* WAIT, LATER, DROPPED, FILTER and MEMBER whose owner is a group. */
void groups_link(struct engine *e, uint32_t slot);
void groups_unlink(struct engine *e, uint32_t slot);

/* Has this MEMBER, which was linked, become one? False: there was no memory for it. */
bool groups_has_member(const struct engine *e, uint32_t slot);

/* OUT with an acknowledgement owed: counted for its member and its group. */
void groups_count_out(struct engine *e, const struct reference *r, int sign);

/* At a start, before it is linked: what was given to a member, but cannot have gone out, is
 * nobody's again. */
void groups_normalise(struct engine *e, uint32_t slot);

/* At a start, after all was linked. */
void groups_started(struct engine *e);

/* ---- Frames (route) ---- */

/* JOIN, UNSUBSCRIBE of a group, NACK and ADMIN. Within a landing. They return the code of the
 * answer. */
uint8_t groups_join(struct engine *e, uint16_t row, const struct wire_frame *f);
uint8_t groups_leave(struct engine *e, uint16_t row, const struct wire_frame *f);
uint8_t groups_administer(struct engine *e, const struct wire_frame *f, uint32_t *count);
void groups_nack(struct engine *e, uint16_t row, const struct wire_frame *f);

/* An acknowledgement came: counted. */
void groups_count_ack(struct engine *e, const struct reference *r);

/* A message that lies in `cell` is for this group. WIRE_C_OK, or why it cannot have it. */
uint8_t groups_accept(struct engine *e, uint16_t g, const struct wire_frame *f, uint32_t cell);

/* ---- Delivery (pump) ---- */

/* What a group has for a session: the list, and how high it stands. */
struct group_choice {
    uint16_t group;
    uint8_t list;
    uint8_t level; /* `list`, raised by how long its first has waited */
    uint32_t n;    /* so many it may have; 0: nothing */
};

/* The best that the groups of this session have for it, as far as it may have more. */
struct group_choice groups_choose(struct engine *e, uint16_t row);

/* This one is its from now on; and not, after all. */
void groups_give(struct engine *e, uint32_t slot, uint16_t row);
void groups_take_back(struct engine *e, uint32_t slot);

/* It has gone to its member, who owes an acknowledgement. */
void groups_sent(struct engine *e, uint32_t slot, uint16_t row);

/* This one is next, and on disk: the shell finds it, and some that follow it, in e->loading, and
 * says groups_loaded() when it has done with them. */
void groups_want(struct engine *e, uint32_t slot);
void groups_loaded(struct engine *e, uint16_t g);

/* There may be something for its members still. */
void groups_look_again(struct engine *e, uint16_t g);

/* Does anything wait in its groups, that this session may be given when it has room? */
bool groups_have_more(const struct engine *e, uint16_t row);

/* This session has no room: its groups have other members. */
void groups_do_without(struct engine *e, uint16_t row);

/* Touch the members of groups that have something for them. Once a turn, before sessions are
 * pumped.
 */
void groups_deal(struct engine *e);

/* ---- What comes back ---- */

enum group_return {
    RETURN_UNTRIED, /* its member went in peace: no try is counted */
    RETURN_TRIED,
    RETURN_TIMEOUT,
    RETURN_DEAD, /* at once a dead letter */
};

/* A delivery that was not acknowledged: to its place, for later (nanoseconds from now), or to the
 * dead letters. `reading`: its member may still read a payload that lies in a pool: what it has
 * stays, as a delivery that is held and no more. `landing`: within one; else this makes its own if
 * it must. */
void groups_return(struct engine *e, uint32_t slot, enum group_return how, uint64_t delay,
                   bool reading, bool landing);

/* Its time has come: of a WAIT, LATER or OUT reference of a group. */
void groups_time_out(struct engine *e, uint32_t slot);

/* So many groups is it a member of. */
uint32_t groups_of(const struct session *s);

/* The session ends: it is a member no more. */
void groups_forget_session(struct engine *e, uint16_t row);

/* ---- Payloads that move ---- */

/* The frame of a waiting message, with its payload, which was in a pool or on disk. */
struct groups_payload {
    uint64_t age; /* of its reference in `slot` */
    const uint8_t *frame;
    uint32_t slot;
    uint32_t size;
};

/* From now on it lies in the store, if there is room and it still waits. */
void groups_bring_in(struct engine *e, const struct groups_payload *payload);

/* Its bytes are there from now on: in a cell, or on disk (REF_ON_DISK). It waits, for nobody. */
void groups_exchange(struct engine *e, uint32_t slot, uint32_t cell);

/* ---- Time ---- */

/* Removals, dead letters on their way back, groups that nobody wants any more, aging. */
void groups_tick(struct engine *e);
uint64_t groups_next_tick(const struct engine *e);

/* Words of the groups that changed, to the board. */
void groups_show(struct engine *e);

/* ---- Among the files of groups ---- */

/* It may have something for its members; its words on the board are to be written. */
void groups_be_busy(struct engine *e, uint16_t g);
void groups_be_dirty(struct engine *e, uint16_t g);

/* A small payload does not stay in its publisher's pool while its message waits: the shell brings
 * it in (e->settling), unless the journal takes it from there. Of whatever comes to wait: new,
 * after a start, or returned, for nobody may be there to take it. */
void groups_settle_later(struct engine *e, uint32_t slot);

/* What stands on the board for it: a group's row, also for its dead letters. */
struct board_group *groups_on_board(const struct engine *e, uint16_t g);

/* Its name and settings, to the board. */
void groups_show_one(struct engine *e, uint16_t g);

/* NULL: it is not in that group. */
struct member *groups_find_member(const struct engine *e, uint16_t g, uint16_t row);

/* The other members of the group come first from now on. */
void groups_go_last(struct engine *e, uint16_t g, uint16_t row);

/* By its name; REF_NOBODY: there is none. */
uint16_t groups_find(const struct engine *e, const char *name, size_t size);

/* Given to a member, and not known to have gone. */
static inline bool groups_is_given(const struct reference *r)
{
    return ref_state(r) == REF_WAIT && ref_member(r) != REF_NOBODY;
}

/* What waits counts, or for the moment does not: all but its place. */
void groups_count_waiting(struct engine *e, uint32_t slot, int sign);

/* The flags that a message has while it waits. */
unsigned groups_flags_of(const struct engine *e, const struct reference *r);

/* The deadline of one that waits in group `g`, and of one that is to be acknowledged. */
uint32_t groups_waits_until(const struct engine *e, const struct reference *r, uint16_t g);
uint32_t groups_acks_until(const struct engine *e, const struct reference *r);

/* Change its place: one store to its word, after its deadline. */
void groups_move(struct engine *e, uint32_t slot, uint64_t word, uint32_t when);

#endif
