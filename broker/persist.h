/* What survives a kill: the layouts of ledger and store, and every store to them (rule E1).
 *
 * After the kill of a process, program order is all that counts: what was stored stands in the
 * shared pages, in the order of the stores. So each function here is one such store (or a few to
 * what nobody believes yet) between compiler fences, and needs no instruction more. In the death
 * test each of them is a place to die: PERSIST_POINT() comes before every store.
 *
 * Members marked *derived* lie in the same memory for the sake of the cache, but are never believed
 * after a start. They are written plainly, anywhere. */
#ifndef MQBROKER_BROKER_PERSIST_H
#define MQBROKER_BROKER_PERSIST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "libclient/wire.h"

/* Faults that the death test plants, and a broker that is built for it, to see that the tests find
 * them. */
enum persist_fault {
    FAULT_NONE = 0,
    FAULT_END_BEFORE_COMMIT,    /* K1 */
    FAULT_NO_COMMIT_CHECK,      /* K1: a start believes what never became real */
    FAULT_NEW_NUMBER,           /* K3: what is in doubt goes out under a new number */
    FAULT_NO_INTENT,            /* K3 */
    FAULT_NO_SETTLE,            /* K3 */
    FAULT_NO_LATE_MARK,         /* K3: an answer that came late counts into the batch in doubt */
    FAULT_NO_COUNT,             /* K11: a drop does not say which it is */
    FAULT_RETURN_BEFORE_COMMIT, /* K1: a place is handed back that a landing still names */
    FAULT_END_BEFORE_RETURN,    /* S7: a delivery ends before its place is handed back */
    FAULT_COLLECTED_FIRST,      /* S7: the release ring counts as read before it is */
    FAULT_NO_AGE,               /* S7: a name is believed whatever its age */
    FAULT_NO_ORPHAN,            /* S7: a pool goes with its session, needed or not */
    FAULT_NO_TAKEN,             /* a buffer is filled again before it was emptied */
    FAULT_REFILL,               /* K3: the box of a batch in doubt is packed anew */
    FAULT_NO_MEMBER,            /* K3: a group's message goes out without saying to whom first */
    FAULT_KEEP_MEMBER,          /* … and one that did not go out stays with its member */
    FAULT_AT_THE_END,           /* a message that came back has lost its place */
    FAULT_NO_TRY,               /* … does not count as tried */
    FAULT_WILL_AGAIN,           /* K6: a last will stays when it was published */
    N_FAULTS,
};

#if defined PERSIST_DEATHS || defined PERSIST_FAULTS
void persist_point(void); /* the test's: may not return */
extern enum persist_fault persist_fault;
#define PERSIST_POINT()       persist_point()
#define PERSIST_FAULT(fault_) (persist_fault == (fault_))
#else
#define PERSIST_POINT()       ((void)0)
#define PERSIST_FAULT(fault_) (false)
#endif

#define PERSIST_MAGIC UINT32_C(0x4c51424d) /* "MBQL" */

enum {
    PERSIST_LAYOUT = 3,
    PERSIST_ENDS =
        1024, /* references that one landing can end: at least as many as frames fit an envelope */
    PERSIST_CONTROL = 32,     /* level of answers: above all priorities */
    PERSIST_RETURNS = 256,    /* places in pools that one landing hands back: at least as many as
                                 POOLED frames fit */
    PERSIST_ORPHANS = 1024,   /* pools of ended sessions that are still needed */
    PERSIST_FAREWELLS = 4096, /* ends of durable references that the journal has yet to be told */
};

/* ---- Ledger ---- */

enum ledger_state {
    LEDGER_RUNNING = 1,
    LEDGER_STOPPING = 2, /* a clean stop has begun: whoever starts next finishes the removal (K9) */
};

/* Where durable references are. */
enum ledger_journal {
    LEDGER_VOLATILE = 0, /* there is no journal */
    LEDGER_JOURNAL = 1,
    LEDGER_FILLING = 2, /* the store is filled from the journal: that is over with the first commit
                         */
};

struct ledger_header {
    uint32_t magic;
    uint32_t layout;
    uint32_t n_rows;
    uint32_t state;
    uint32_t n_references; /* geometry of the store */
    uint32_t n_cells;
    uint32_t references_allocated; /* so many have memory behind them */
    uint32_t cells_allocated;
    uint64_t committed; /* references of this age and above are not real */
    uint64_t pool_max;  /* bytes that a client's pool may have: clients were told */
    uint32_t n_groups;  /* so many groups, and as many stores of dead letters */
    uint32_t reserved;
    uint64_t journal;        /* enum ledger_journal */
    uint64_t farewells_made; /* ends of durable references, ever; the ring is behind the groups */
    uint64_t farewells_written; /* … and so many of them stand in the journal */
    uint64_t spare[6];
};

enum landing_from {
    LANDING_NORMAL = 0,
    LANDING_URGENT = 1,
    LANDING_BROKER = 2, /* no envelope: the broker's own doing (route_begin) */
};

/* Stands in the landing in the place of an envelope's while the broker does something of its own
 * there. */
#define LANDING_MAGIC UINT32_C(0x4951424d) /* "MBQI" */

/* The one place where envelopes are received (K4). */
struct landing {
    uint64_t age; /* `committed` when it was received: below `committed` now means routed */
    uint64_t received;
    uint32_t row; /* whose `received` that is; WIRE_NO_SESSION: nobody's */
    uint16_t from;
    uint16_t reserved;
    uint32_t n_ends;
    uint32_t ends[PERSIST_ENDS]; /* what ends after the commit */
    uint32_t n_returns;
    uint64_t returns[PERSIST_RETURNS]; /* places of row's pool that are handed back then */
    _Alignas(4096) uint8_t bytes[WIRE_QUEUE_MAX];
};

enum row_state {
    ROW_FREE = 0,
    ROW_MAKING = 1, /* registered; its queue may not be there yet (K7) */
    ROW_LIVE = 2,
    ROW_ENDING = 3, /* dead or gone; what it left is being taken away (L1) */
};

/* A session. */
struct row {
    uint32_t state; /* enum row_state */
    uint32_t publish_only;
    uint64_t age; /* of the session: what is older was another's */
    uint32_t uid;
    uint32_t pid;
    uint64_t pid_start;
    uint8_t token[WIRE_TOKEN_SIZE];
    uint64_t nonce;
    char name[WIRE_NAME_MAX + 1];
    uint64_t inode; /* of its reply queue */
    uint32_t depth;
    uint32_t width;
    uint64_t since;    /* nanoseconds of CLOCK_REALTIME */
    uint64_t send;     /* the intent, ROW_SEND() */
    uint64_t upto;     /* age of the youngest plain reference in the batch in doubt */
    uint64_t received; /* bytes of window it has used, ever */
    uint64_t missed;   /* messages dropped for it, ever */
    uint32_t said_bye; /* nobody else may remember it when its end is carried out */
    uint32_t spare;
    uint32_t end_code;  /* of ROW_ENDING: enum wire_code, WIRE_C_OK if by itself */
    uint32_t pool_slot; /* which of the ledger's pools is its */
    uint64_t pool;      /* nonce of that */
    uint64_t outbox_inode;
    uint64_t reserved[6];
};

/* row.send: number of the newest batch 48 | list 7 | kernel level 7 | spare 1 | doubt 1 */
#define ROW_SEND(number, list, level, doubt)                                                       \
    ((uint64_t)(number) << 16 | (uint64_t)(list) << 9 | (uint64_t)(level) << 2 | (uint64_t)(doubt))

static inline uint64_t row_number(const struct row *row)
{
    return row->send >> 16;
}
static inline unsigned row_list(const struct row *row)
{
    return (unsigned)(row->send >> 9) & 0x7f;
}
static inline unsigned row_level(const struct row *row)
{
    return (unsigned)(row->send >> 2) & 0x7f;
}
static inline bool row_in_doubt(const struct row *row)
{
    return (row->send & 1) != 0;
}

enum group_state {
    GROUP_FREE = 0,
    GROUP_LIVE = 1,
    GROUP_ENDING = 2, /* what it has is being ended */
};

enum group_flag {
    GROUP_DURABLE = 1,
    GROUP_DEAD_EXPIRED = 2, /* what expires in it becomes a dead letter */
};

/* A consumer group, or the store of a group's dead letters, which has its settings from it and
 * neither name nor filters. Messages, filters and members are references. */
struct group_row {
    uint32_t state; /* enum group_state */
    uint32_t flags;
    uint64_t age;
    char name[WIRE_NAME_MAX + 1];
    uint32_t ack_timeout;    /* milliseconds */
    uint32_t delivery_limit; /* 0: none */
    uint64_t missed;         /* messages given up, ever */
    uint64_t size_max;       /* bytes that may wait in it */
    uint64_t purge;          /* messages below this age are being removed; 0: none are */
    uint64_t requeue;        /* dead letters below this age are on their way back to the group */
    uint64_t place;          /* of a durable one's record in the journal; 0: it has none yet */
};

struct ledger {
    struct ledger_header header;
    _Alignas(4096) struct landing landing;
    struct row rows[];
};

/* Behind the rows: the nonces of all pools there are, 0 in a free place. One stays here until the
 * pool is unlinked, whatever became of its session (S7). */
static inline uint32_t ledger_n_pools(uint32_t n_rows)
{
    return n_rows + PERSIST_ORPHANS;
}

static inline uint64_t *ledger_pools(const struct ledger *ledger)
{
    return (uint64_t *)(uintptr_t)&ledger->rows[ledger->header.n_rows];
}

/* Behind those: the groups, then as many stores of dead letters. */
static inline struct group_row *ledger_groups(const struct ledger *ledger)
{
    return (struct group_row *)(ledger_pools(ledger) + ledger_n_pools(ledger->header.n_rows));
}

/* The end of a durable reference, which the journal is to be told. */
struct farewell {
    uint64_t age;
    uint32_t location; /* of its record */
    uint32_t reserved;
};

/* And the ring of those: slot = number % PERSIST_FAREWELLS. */
static inline struct farewell *ledger_farewells(const struct ledger *ledger)
{
    return (struct farewell *)(ledger_groups(ledger) + 2 * (size_t)ledger->header.n_groups);
}

static inline size_t ledger_size(uint32_t n_rows, uint32_t n_groups)
{
    return sizeof(struct ledger) + n_rows * sizeof(struct row) +
           ledger_n_pools(n_rows) * sizeof(uint64_t) +
           2 * (size_t)n_groups * sizeof(struct group_row) +
           PERSIST_FAREWELLS * sizeof(struct farewell);
}

/* ---- Store ---- */

enum reference_state {
    REF_FREE = 0,
    REF_WAIT = 1,    /* to be sent to its owner */
    REF_OUT = 2,     /* sent; something must come back */
    REF_LATER = 3,   /* returned with a delay */
    REF_KEPT = 4,    /* the retained message of its topic */
    REF_FILTER = 5,  /* a subscription */
    REF_MEMBER = 6,  /* of a group */
    REF_WILL = 7,    /* a last will */
    REF_DROPPED = 8, /* being counted */
    REF_PASSING = 9, /* keeps a cell that another reference lets go of */
};

enum reference_flag {
    REF_ANSWER = 1, /* goes out as an ANSWER (or WELCOME) frame, not as its bytes */
    REF_BARE =
        2, /* an answer without bytes: `cell` is the number it answers, `when` how many it covers */
    REF_REQUEST = 4, /* a reply is owed once it is OUT */
    REF_ACK = 8,     /* an acknowledgement is owed */
    REF_HELD = 16,   /* its payload lies in a pool: a release is owed once it is OUT */
    REF_DURABLE = 32,
    REF_LATE = 64, /* came into its list by a change of owner: not part of a batch that was in doubt
                      then */
    REF_RETAINED = 128, /* delivered because of a new subscription; of a group's message: charged to
                           the group, not to its publisher */
};

/* A durable reference's cell with this bit is the place of its record in the journal: its bytes
 * have left the store (J2). */
#define REF_ON_DISK UINT32_C(0x80000000)

/* One thing that must still happen. `word` is the single truth about it and stored last:
 * state 8 | flags 8 | level 8 | tries 8 | owner 16 | member 16, from the lowest bits up. `tries` is
 * an answer's code, a dropped one's reason, and how often a group's message came back. */
struct reference {
    uint64_t word;
    uint64_t age;
    uint32_t cell;
    uint32_t when; /* deadline in 10 ms of CLOCK_BOOTTIME; 0: none */
    uint32_t next; /* derived: its place in a list */
    uint32_t prev; /* derived */
};

#define REF_WORD(state, flags, level, tries, owner, member)                                        \
    ((uint64_t)(state) | (uint64_t)(flags) << 8 | (uint64_t)(level) << 16 |                        \
     (uint64_t)(tries) << 24 | (uint64_t)(owner) << 32 | (uint64_t)(member) << 48)

static inline unsigned ref_state(const struct reference *r)
{
    return (unsigned)r->word & 0xff;
}
static inline unsigned ref_flags(const struct reference *r)
{
    return (unsigned)(r->word >> 8) & 0xff;
}
static inline unsigned ref_level(const struct reference *r)
{
    return (unsigned)(r->word >> 16) & 0xff;
}
static inline unsigned ref_tries(const struct reference *r)
{
    return (unsigned)(r->word >> 24) & 0xff;
}
static inline uint16_t ref_owner(const struct reference *r)
{
    return (uint16_t)(r->word >> 32);
}
static inline uint16_t ref_member(const struct reference *r)
{
    return (uint16_t)(r->word >> 48);
}

/* Owners are sessions by their rows, then groups, then stores of dead letters. */
enum { REF_NOBODY = 0xffff }; /* no such: the retained store as an owner, or no member */

static inline bool ref_on_disk(const struct reference *r)
{
    return (ref_flags(r) & (REF_DURABLE | REF_BARE)) == REF_DURABLE && (r->cell & REF_ON_DISK) != 0;
}

/* The name of a delivery, as a client carries it back: slot and age. */
static inline uint64_t ref_name(uint32_t slot, uint64_t age)
{
    return (uint64_t)slot << 40 | (age & UINT64_C(0xffffffffff));
}

enum { STORE_SLOTS_MAX = 1 << 24 }; /* slots that a name can tell apart */

/* Bytes. A cell has no state: it is in use if a live reference reaches it. */
struct cell {
    uint32_t next;     /* 0: the last one */
    uint16_t size;     /* of the frame */
    uint16_t answered; /* a request: a reply to it was taken, so that no failure is told any more */
    uint64_t born;     /* nanoseconds of CLOCK_BOOTTIME */
    uint16_t account;  /* row of the publisher */
    uint16_t pool;     /* derived: 1 + which of the ledger's pools has its payload; 0: none */
    uint32_t refs;     /* derived: live references to it */
    uint32_t
        pins; /* derived: those held by sessions; while there are any, the publisher is charged */
    uint32_t topic; /* derived: the topic's row on the board */
    uint8_t bytes[WIRE_FIRST_CELL];
};

/* What follows in a longer frame. */
struct cell_more {
    uint32_t next;
    uint8_t bytes[WIRE_NEXT_CELL];
};

_Static_assert(sizeof(struct ledger_header) == 128, "layout");
_Static_assert(sizeof(struct group_row) == 128, "layout");
_Static_assert(sizeof(struct landing) == 16384, "layout");
_Static_assert(PERSIST_RETURNS *(WIRE_MESSAGE_SIZE + WIRE_SLOT_SIZE + 1) > WIRE_QUEUE_MAX,
               "layout");
_Static_assert(offsetof(struct landing, bytes) % 4096 == 0, "layout");
_Static_assert(sizeof(struct row) == 256, "layout");
_Static_assert(sizeof(struct reference) == 32, "layout");
_Static_assert(sizeof(struct cell) == WIRE_CELL_SIZE, "layout");
_Static_assert(WIRE_QUEUE_MAX <= UINT16_MAX, "a frame's size fits its cell");
_Static_assert(sizeof(struct cell_more) == WIRE_CELL_SIZE, "layout");

/* ---- The stores ---- */

static inline void persist_u64(uint64_t *word, uint64_t value)
{
    PERSIST_POINT();
    atomic_signal_fence(memory_order_seq_cst);
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
}

static inline void persist_u32(uint32_t *word, uint32_t value)
{
    PERSIST_POINT();
    atomic_signal_fence(memory_order_seq_cst);
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
}

/* A reference becomes what it is. Before the commit of its landing it is nobody's, whatever its
 * word says. */
static inline void persist_reference(struct reference *r, uint64_t age, uint32_t cell,
                                     uint32_t when, uint64_t word)
{
    persist_u64(&r->age, age);
    persist_u32(&r->cell, cell);
    persist_u32(&r->when, when);
    persist_u64(&r->word, word);
}

/* A change of the truth about one. */
static inline void persist_word(struct reference *r, uint64_t word)
{
    persist_u64(&r->word, word);
}

/* Bytes of a cell that no live reference reaches yet. */
static inline void persist_bytes(uint8_t *to, const uint8_t *from, size_t size)
{
    PERSIST_POINT();
    memcpy(to, from, size);
}

/* A request has its reply. */
static inline void persist_answered(struct cell *request)
{
    PERSIST_POINT();
    atomic_signal_fence(memory_order_seq_cst);
    __atomic_store_n(&request->answered, 1, __ATOMIC_RELAXED);
    atomic_signal_fence(memory_order_seq_cst);
}

/* Words that others read: of an outbox. What was stored before is seen by who sees this. */
static inline void persist_shared(_Atomic uint64_t *word, uint64_t value)
{
    PERSIST_POINT();
    atomic_store_explicit(word, value, memory_order_release);
}

/* All references made so far become real. */
static inline void persist_commit(struct ledger *ledger, uint64_t next_age)
{
    persist_u64(&ledger->header.committed, next_age);
}

/* The intent to send a batch, and its end (K3). */
static inline void persist_send(struct row *row, uint64_t send)
{
    persist_u64(&row->send, send);
}

static inline void persist_row_state(struct row *row, enum row_state state)
{
    persist_u32(&row->state, (uint32_t)state);
}

/* The landing is empty again. */
static inline void persist_clear(struct landing *landing, size_t size)
{
    PERSIST_POINT();
    atomic_signal_fence(memory_order_seq_cst);
    memset(landing->bytes, 0, size);
    atomic_signal_fence(memory_order_seq_cst);
}

#endif
