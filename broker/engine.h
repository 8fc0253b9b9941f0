/* The engine: everything that decides. Pure; floor 3: no system call, no clock, no file.
 *
 * It is given memory (ledger, store, board), frames (route.h), outcomes of sends (pump.h), deaths
 * and the time (life.h), and leaves what is to be done in lists that the shell carries out after
 * the turn. This header is what those files share: the state, and the verbs that make and end
 * references. */
#ifndef MQBROKER_BROKER_ENGINE_H
#define MQBROKER_BROKER_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/backlog.h"
#include "broker/filters.h"
#include "broker/persist.h"
#include "broker/store.h"
#include "broker/timers.h"
#include "broker/topics.h"
#include "libclient/board.h"
#include "libclient/outbox.h"
#include "libclient/pool.h"

/* What becomes of who is stalled (P7). */
enum engine_overflow {
    ENGINE_DROP_OLDEST = 0, /* of the lowest priority */
    ENGINE_DROP_NEWEST = 1, /* likewise */
    ENGINE_BLOCK = 2,       /* its publishers wait */
    ENGINE_DISCONNECT = 3,
};

/* Why a delivery was given up: the order of BOARD_DROPS. */
#define ENGINE_DROP(key, unit, sentence) DROP_##key,
enum drop_reason { BOARD_DROPS(ENGINE_DROP) N_DROPS };

/* Why a publish was not taken: the order of BOARD_REFUSALS. */
#define ENGINE_REFUSAL(key, unit, sentence) REFUSAL_##key,
enum refusal_reason { BOARD_REFUSALS(ENGINE_REFUSAL) N_REFUSALS };

/* What may change while the broker runs. */
struct engine_settings {
    uint64_t backlog_size;  /* bytes of cells; more waiting for one session is over its quota */
    uint64_t stall_timeout; /* nanoseconds (P7) */
    uint64_t retained_size; /* bytes of cells */
    uint64_t pool_max;      /* bytes that a client's pool may have */
    uint32_t max_subscriptions;
    enum engine_overflow overflow;
    /* Of groups that are made from now on. */
    uint64_t group_size;     /* bytes that may wait in it */
    uint32_t ack_timeout;    /* milliseconds */
    uint32_t delivery_limit; /* 0: none */
    /* Of all groups. */
    enum engine_overflow group_overflow; /* of what a group has no room for; not DISCONNECT.
                                            DROP_NEWEST: its publisher is told; BLOCK: it stays
                                            charged to its publisher */
    uint64_t group_linger;               /* nanoseconds that one stays without members */
    uint64_t aging; /* nanoseconds of waiting that raise a message by a level; 0: none do */
    bool journal;   /* there is one: groups may be durable */
};

struct engine_memory {
    struct ledger *ledger; /* header set */
    void *store;
    struct board_header *board; /* formatted, or the one of the broker that was killed */
};

/* What is derived of a session; by row. */
struct session {
    struct backlog waiting;         /* WAIT references it owns */
    struct list out;                /* OUT references of which it is the member */
    struct outbox_header *outbox;   /* mapped; the shell's (engine_attach) */
    const struct pool_header *pool; /* likewise, once it was needed; a guarded mapping */
    uint32_t n_held;                /* deliveries it holds whose payloads lie in pools */
    uint64_t held_bytes;            /* and their payloads */
    uint64_t wants;     /* places that are to have come back when it is woken; 0: does not wait */
    uint64_t woken_for; /* the last such number that it was woken for */
    uint64_t fetch;     /* name of the delivery to be copied for it; 0: none */
    struct member *members; /* of groups */
    uint32_t will;          /* its WILL reference; 0: none */
    uint32_t n_unacknowledged;
    struct list filters; /* its FILTER references */
    uint32_t n_filters;
    uint32_t n_answers; /* among those waiting */
    uint32_t n_waiting;
    uint64_t waiting_bytes; /* their cells; one shared by several sessions counts for each */
    uint64_t told;          /* its grant when it was last woken for it */
    uint64_t charged;       /* of its window; also by who had the row before (P4) */
    uint64_t short_since;   /* out of room since then; 0: is not */
    uint64_t over_since;    /* over its quota since then; 0: is not */
    uint64_t ending_since;
    uint32_t stalled; /* P7: batches that it has yet to take until it no longer counts as stalled;
                         0: it is not */
    uint32_t room;    /* free places in its queue, as last known */
    uint8_t kept;     /* blocked: no room beyond these reserved places; BLOCKED_NOT: it is not */
    uint8_t end_code; /* why it is being ended; WIRE_C_OK: by itself */
    bool room_fresh;  /* `room` was asked of the kernel just now */
    bool touched;     /* stands in engine.touched */
    bool dirty;       /* stands in engine.dirty */
    bool nudge;       /* has half of its window back: wake it (P5) */
    bool dead;        /* its process: nobody reads its queue any more */
    bool said_bye;
    bool over;          /* its end was carried out: what it may have sent since is nobody's */
    bool lingers;       /* ended by the broker, and its process still reads payloads in place */
    bool wants_buffer;  /* found none free, and has asked for its pool or for one more */
    bool holding;       /* stands in engine.holders */
    bool sated;         /* holds as much as it may: nothing more from pools until some comes back */
    bool groups_next;   /* of equals, those of its groups have their turn */
    bool broken;        /* its pool cannot be believed: set by the shell when its mapping failed */
    bool in_knot;       /* of the last look for knots: it is in one, as far as was seen */
    uint64_t in_vain;   /* … what it said, if it waits only for others who do; 0: it does not */
    uint64_t knot_mark; /* … what it knew then, if it was in a knot; 0: it was not */
};

enum { BLOCKED_NOT = 0xff };

struct durable;
struct group;
struct member;

/* Rows, each at most once. */
struct rows {
    uint16_t *rows;
    uint32_t n;
};

/* References that the shell is to look at, by slot and age; more than fit are passed over. */
enum { SLOTS_DUE = 1024 };

struct slots_due {
    struct {
        uint64_t age;
        uint32_t slot;
        uint16_t group;
    } slots[SLOTS_DUE];
    uint32_t n;
};

enum { BATCH_MAX = WIRE_BATCH_MAX / WIRE_ANSWER_SIZE }; /* frames in a batch */

struct engine {
    struct ledger *ledger;
    struct landing *landing;
    struct store store;
    struct board_header *board;
    struct engine_settings settings;

    uint32_t n_rows;
    struct session *sessions;
    struct filters filters;
    struct topics topics;
    struct timers timers;
    uint64_t
        generation; /* of subscriptions and names: owners found in an older one are found again */
    uint64_t window;
    uint64_t retained_bytes;
    uint32_t n_retained;
    uint32_t n_short; /* sessions out of room */
    uint32_t n_over;  /* over quota */
    uint32_t n_stalled;
    uint32_t n_live;
    uint64_t next_stall_check;
    uint64_t next_knot_look;
    uint64_t earliest_knot_look; /* that one, if somebody begins to wait before */
    uint32_t n_in_vain;          /* of the last look for knots */
    uint32_t n_knot_visits;      /* … references that it went through */
    uint64_t now;                /* nanoseconds of CLOCK_BOOTTIME, as the shell said last */
    uint64_t next_age;

    /* To be carried out by the shell. */
    struct rows touched;      /* to be pumped; twice the rows: they can be touched while they are */
    struct rows dirty;        /* their words on the board are to be written: engine_show() */
    struct rows making;       /* to be given a queue: life_made() or life_refused() */
    struct rows ending;       /* wait for the request queues to be seen empty: life_quiet() */
    struct rows leaving;      /* their queues are to be removed: life_gone() */
    struct rows fetching;     /* a payload is to be copied: session.fetch, pools_lend() */
    struct rows unlinked;     /* slots of pools that nothing needs any more: unlink, pools_gone() */
    struct slots_due loading; /* messages of groups whose payload is on disk, and is wanted */
    struct slots_due settling; /* messages of groups whose payload is in its publisher's pool */

    /* Groups, and behind them as many stores of dead letters. */
    struct group *groups;
    uint32_t n_groups;
    uint32_t n_grouped;    /* messages of all of them */
    uint64_t grouped_size; /* bytes of their cells */
    struct rows busy;      /* groups that may have something for a member: groups_deal() */
    struct rows dirty_groups;
    uint32_t n_live_groups;
    uint64_t aged[WIRE_LEVELS]; /* aged[i]: references below this age have waited i times
                                   settings.aging */
    uint64_t next_aging;
    struct durable *durable; /* NULL: there is no journal */
    bool group_work;         /* groups_tick() has more to do */

    /* Payload pools. */
    struct pool *pools; /* by slot of the ledger */
    uint32_t n_pools;
    struct rows holders; /* sessions that hold something or have lent something: their pools are
                            looked at */
    uint32_t n_orphans;
    uint32_t n_wanting; /* sessions that wait for places */
    uint32_t n_sated;

    /* For the next registration: from the shell, which draws anew once it was used. */
    uint8_t fresh_token[WIRE_TOKEN_SIZE];
    bool token_used;
    uint64_t wall; /* nanoseconds of CLOCK_REALTIME, for the board */
    uint32_t uid;  /* whose clients these are (private mode: the broker's own) */

    /* Scratch. */
    void *scratch;    /* of a start; here so that it is freed wherever the start is cut off */
    uint16_t *owners; /* found by the search that is going on */
    uint32_t n_owners;
    uint64_t *owner_marks; /* by row: the mark of the last search that found it */
    uint64_t owner_mark;
    uint32_t batch[BATCH_MAX]; /* slots of the batch that is being sent */
    uint32_t n_batch;
    uint64_t batch_number;
    uint8_t batch_list;
    uint8_t batch_level;
    bool batch_repeats;    /* it is the one in doubt */
    bool batch_grouped;    /* it is of a group */
    uint32_t batch_size;   /* bytes of its frames */
    uint64_t batch_pooled; /* bytes of its payloads in pools */
    uint8_t *place;        /* where it is put together: a buffer of the outbox, or `out` */
    uint8_t buffer;        /* which one; OUTBOX_BUFFERS: none */
    bool boxed;            /* it is sent by that buffer */
    uint32_t capacity;     /* bytes of frames that it may come to */
    uint8_t out[WIRE_BATCH_MAX];
    uint8_t letter[WIRE_BATCH_SIZE + WIRE_BOXED_SIZE]; /* the queue message that says so */
};

/* Derived memory for an empty engine. Follow with start(). 0 or -ENOMEM. */
int engine_init(struct engine *e, const struct engine_memory *memory,
                const struct engine_settings *settings);
void engine_deinit(struct engine *e);

/* The session's segments, mapped by the shell: its outbox before life_made(), at a start before
 * life_start(); its pool when pump_next() says PUMP_WANTS_POOL, or when it is in e->holders without
 * one. They stay mapped until life_gone(). */
static inline void engine_attach(struct engine *e, uint16_t row, struct outbox_header *outbox,
                                 const struct pool_header *pool)
{
    e->sessions[row].outbox = outbox;
    e->sessions[row].pool = pool;
}

static inline struct row *engine_row(const struct engine *e, uint16_t i)
{
    return &e->ledger->rows[i];
}

static inline struct reference *engine_reference(const struct engine *e, uint32_t slot)
{
    return store_reference(&e->store, slot);
}

/* What a session may have published in all: computed, never counted up (P4). A row that was left
 * with more than a window charged grants nothing beyond what was received. */
static inline uint64_t engine_grant(const struct engine *e, uint16_t row)
{
    uint64_t charged = e->sessions[row].charged;

    return engine_row(e, row)->received + (e->window > charged ? e->window - charged : 0);
}

/* Has it room for more, below priority 24 as well? */
bool engine_has_room(const struct engine *e, uint16_t row);

/* Wake it for its grant, if it may be asleep for want of room (P5). */
void engine_tell_grant(struct engine *e, uint16_t row);

/* Is its payload in a pool? Of a cell with a message. */
static inline bool cell_pooled(const struct cell *c)
{
    return (wire_message_flags(c->bytes) & WIRE_F_POOLED) != 0;
}

/* Bytes that a message takes of the retained store: its cells, and its payload in a pool. */
static inline uint64_t cell_kept_size(const struct cell *c)
{
    return wire_charge(c->size) + (cell_pooled(c) ? wire_message_slot(c->bytes).size : 0);
}

/* The bytes of a reference that has a cell. */
static inline struct cell *engine_cell(const struct engine *e, uint32_t slot)
{
    return store_cell(&e->store, engine_reference(e, slot)->cell);
}

static inline void rows_add(struct rows *list, uint16_t row)
{
    list->rows[list->n++] = row;
}

/* The session has something to be sent, or its words changed. Each stands in the list once. */
static inline void engine_touch(struct engine *e, uint16_t row)
{
    if (!e->sessions[row].touched) {
        e->sessions[row].touched = true;
        rows_add(&e->touched, row);
    }
}

static inline void engine_dirty(struct engine *e, uint16_t row)
{
    if (!e->sessions[row].dirty) {
        e->sessions[row].dirty = true;
        rows_add(&e->dirty, row);
    }
}

/* Look at the sessions that changed, once a turn: are they out of room, over their quota, to be
 * woken; and write their words to the board: grant, waiting, charged … */
void engine_show(struct engine *e);

/* Is the publisher charged for the bytes of this reference, which has some? */
bool engine_pins(const struct reference *r);

/* Make a reference: fill a slot that is ready, with the next age. Its derived place (list, counts,
 * deadline) is engine_link()'s. Real only after the commit. Room was made sure of: never fails. */
uint32_t engine_make(struct engine *e, uint64_t word, uint32_t cell, uint32_t when);

/* Put a reference where its word says: into a list, into the counts of its cell, under its
 * deadline. Also at start. */
void engine_link(struct engine *e, uint32_t slot);

/* The opposite; the word is still the old one. */
void engine_unlink(struct engine *e, uint32_t slot);

/* End a reference: unlink, free its slot, and its cells if it was the last to reach them. */
void engine_end(struct engine *e, uint32_t slot);

/* A message that waited was sent, and was taken out of its list: it is over, or `row` has it and
 * something is to come back. Its publisher stays charged for the latter. The caller counts both on
 * the board: many are counted alike. */
void engine_end_sent(struct engine *e, uint32_t slot);
void engine_sent_out(struct engine *e, uint32_t slot, uint16_t row);

/* Messages that wait, on the board: so many more of this level and this topic's row. */
void engine_count_waiting(struct engine *e, unsigned level, uint32_t topic, uint64_t n);

/* A reference is about to change, but not where it waits: what waits in a group keeps its place in
 * the list, others leave it. engine_lay() when that is done, with what engine_lift() returned. */
bool engine_lift(struct engine *e, uint32_t slot);
void engine_lay(struct engine *e, uint32_t slot, bool lifted);

/* Change the word of a linked reference: state, owner, member. One store. */
void engine_change(struct engine *e, uint32_t slot, uint64_t word);

/* A delivery that is OUT is over but for its payload, which is still read. */
void engine_only_held(struct engine *e, uint32_t slot);

/* A reference that only keeps a cell, which another one is about to let go of. Ends at a start.
 * Real after the commit. */
uint32_t engine_pass(struct engine *e, uint32_t cell);

/* The cell's frame is POOLED, and in a pool of the broker's own: it counts for that from now on. */
void engine_join_pool(struct engine *e, uint32_t cell);

/* Make an answer without bytes to `number` (and the `count - 1` after it). Too many unread ones end
 * the session. `durable`: it goes out when the journal has what was made before it. */
void engine_answer_when(struct engine *e, uint16_t row, uint8_t code, uint32_t number,
                        uint32_t count, bool durable);
void engine_answer(struct engine *e, uint16_t row, uint8_t code, uint32_t number, uint32_t count);

/* Are there more answers to it than a session may leave unread? */
bool engine_leaves_answers(const struct engine *e, uint16_t row);

/* References and cells that publishes may still take; the rest is for control frames (P6). */
uint32_t engine_free_references(const struct engine *e);
uint32_t engine_free_cells(const struct engine *e);

/* True: there is memory for whatever the next envelope can ask for; no need to look at each frame.
 */
bool engine_has_plenty(const struct engine *e);

/* True: the normal request queue is not to be read now (P6). */
bool engine_is_tight(const struct engine *e);

/* How much memory the next landing may need: the shell allocates until both are ready. */
bool engine_wants_references(const struct engine *e);
bool engine_wants_cells(const struct engine *e);

/* Give a delivery up: counted exactly for its session, then ended; the last delivery of an
 * unanswered request becomes the answer to it. */
void engine_drop(struct engine *e, uint32_t slot, enum drop_reason why);

/* How many messages were given up of those that this owner was to get: a session or a group. */
uint64_t *engine_missed(const struct engine *e, uint16_t owner);

/* The second half of that, also at start for one that is found DROPPED. */
void engine_dropped(struct engine *e, uint32_t slot);

/* An unanswered request's delivery ends without a reply: it becomes the answer `code`, if it is the
 * last one and its requester is still there; otherwise it just ends. The reference is linked. */
void engine_unanswered(struct engine *e, uint32_t slot, uint8_t code);

/* A deadline for a reference, from nanoseconds of CLOCK_BOOTTIME; 0: none. */
uint32_t engine_when(uint64_t expiry);

/* Whether this WAIT reference may have gone out in the batch whose fate is not known (K3). */
bool engine_in_doubt(const struct engine *e, const struct reference *r);

/* Post the answer to a registration on the board. */
void engine_post(struct engine *e, uint64_t nonce, uint8_t code, uint32_t number1,
                 uint64_t number2);

/* The priorities that wait for it, and its newest number, on the board (P1). */
void engine_show_tide(struct engine *e, uint16_t row);

/* The row's identity on the board. */
void engine_show_identity(struct engine *e, uint16_t row);

/* Count a refused publish. */
void engine_count_refusal(struct engine *e, uint16_t row, enum refusal_reason why);

/* Count deliveries given up; `topic` is the topic's row. */
void engine_count_drop(struct engine *e, uint16_t owner, unsigned level, uint32_t topic,
                       enum drop_reason why, uint64_t n);

/* The row on the board of a message frame's topic. */
uint32_t engine_topic(struct engine *e, const uint8_t *frame, uint32_t size);

/* Codes of a WELCOME and of a LENT among the answers: not on the wire. */
enum { ENGINE_WELCOME = 0xff, ENGINE_LENT = 0xfe };

#endif
