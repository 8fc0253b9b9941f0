/* Durable things, as the engine sees them: messages of durable groups, those groups and their
 * filters, and retained messages, if there is a journal (rules J1 to J4). Pure; floor 3.
 *
 * The engine makes them like all others. What is to be appended to the journal it hands out here,
 * is told where that went and when it was written and synced, and then lets go of payloads (they
 * leave the store, and are read back when their turn comes) and of confirms (which waited for it).
 * That something has ended is noted in the ledger before it has: no kill makes the journal miss it.
 *
 * After a kill the store is the truth: what had no place in the journal yet, or one that only the
 * dead broker knew, is appended again under its age, and two records of one age are one thing.
 * After a reboot there is no store, and durable_restore() builds one from the journal. */
#ifndef MQBROKER_BROKER_DURABLE_H
#define MQBROKER_BROKER_DURABLE_H

#include "broker/engine.h"
#include "broker/record.h"

/* A journal is there: before life_start(). 0 or -ENOMEM. */
int durable_init(struct engine *e);
void durable_deinit(struct engine *e);

/* ---- From the engine's other parts ---- */

/* Space in the journal for a record of so many bytes, before anything durable that is new is made.
 * WIRE_C_OK: it will find it; otherwise the code to refuse it with. What was made after that is
 * taken, and is never refused. Fine without a journal. */
uint8_t durable_claim(struct engine *e, uint64_t size);

/* What the record of a group takes, by the length of its name. */
uint64_t durable_group_size(size_t name);

/* A durable reference was made. */
void durable_made(struct engine *e, uint32_t slot);

/* It has another owner: the dead letters, or its group again. */
void durable_owner_changed(struct engine *e, uint32_t slot);

/* The durable reference that was made last goes on with what another one was: nobody has claimed
 * room for it, and it must have some. */
void durable_inherited(struct engine *e);

/* A durable group was made; it is no more. */
void durable_group_made(struct engine *e, uint16_t g);
void durable_group_gone(struct engine *e, uint16_t g);

/* A durable reference is about to end, or to be durable no more. */
void durable_gone(struct engine *e, uint32_t slot);

/* So many durable things were made, ever: did that frame make one? */
uint64_t durable_count(const struct engine *e);

/* An answer that waits for the journal, in and out of its place. */
void durable_link_answer(struct engine *e, uint32_t slot);
void durable_unlink_answer(struct engine *e, uint32_t slot);
void durable_forget_session(struct engine *e, uint16_t row);

/* At a start, after all was linked. */
void durable_started(struct engine *e);

/* All places that are known then, for the journal to keep. */
void durable_each_place(const struct engine *e, void (*keep)(void *context, uint32_t location),
                        void *context);

/* ---- To the journal ---- */

/* Something to be appended. */
struct durable_item {
    struct record
        record;      /* `when` is left to the shell; bytes are valid until the engine is used */
    uint64_t expiry; /* nanoseconds of CLOCK_BOOTTIME; 0: none */
    uint32_t slot;   /* whose that is */
    bool inherited;  /* no room was claimed for it */
    struct wire_slot place; /* size > 0: its payload, to be read there, belongs behind the bytes */
};

/* What may be claimed from now on; 0: for the reason of `code`, nothing. */
void durable_give_space(struct engine *e, const struct record_space *space, uint8_t code);

/* Did somebody claim more than there was, since this was asked last? */
bool durable_was_short(struct engine *e);

/* At most so many are due. */
uint64_t durable_due(const struct engine *e);

/* The next one; false: there is none. Then one of the four below. */
bool durable_next(struct engine *e, struct durable_item *item);

/* Its record has this place and this number; it is not written yet. */
void durable_appended(struct engine *e, const struct durable_item *item, uint32_t location,
                      uint64_t number);

/* Not now: it is the next one again. */
void durable_postponed(struct engine *e);

/* There is no room for it; perhaps for those behind it. Its turn comes when theirs is over. */
void durable_passed_over(struct engine *e, const struct durable_item *item);

/* It can never be. What its client is to blame for is not taken, and the client is told (code); all
 * else stays, in memory alone. */
void durable_refused(struct engine *e, const struct durable_item *item, uint8_t code);

/* Things that have ended, for a record END; at most `most` ages. `locations`: what lay there is not
 * needed any more. Returns how many. */
uint32_t durable_ended(struct engine *e, uint64_t *ages, uint32_t *locations, uint32_t most);

/* … and that record has this number. */
void durable_ended_appended(struct engine *e, uint32_t n, uint64_t number);

/* All that was appended so far has numbers up to this. Confirms made since wait for it. */
void durable_stamp(struct engine *e, uint64_t number);

/* Ends that the journal must be told before more envelopes are routed. */
bool durable_is_behind(const struct engine *e);

/* ---- From the journal ---- */

/* Numbers up to this are in the page cache: payloads may leave the store, what was moved is there.
 * `drop` is told places that are not needed any more. */
void durable_written(struct engine *e, uint64_t number,
                     void (*drop)(void *context, uint32_t location), void *context);

/* … are as safe as they were to be: confirms go out. */
void durable_done(struct engine *e, uint64_t number);

/* What was appended from this place on is elsewhere now. */
void durable_relocated(struct engine *e, uint32_t from, uint32_t to);

/* A place, where it is after that. */
uint32_t durable_shifted(uint32_t location, uint32_t from, uint32_t to);

/* What was to be written here could not be: its payload has gone. It is in memory and no more. */
void durable_unwritten(struct engine *e, uint32_t location);

/* Its record cannot be read: what is in memory still is appended again, the rest is given up. */
void durable_lost(struct engine *e, uint32_t slot, uint64_t age);

/* ---- Moving out of a segment ---- */

/* The next thing whose record lies in this segment, from *slot on (0 begins). False: none is left.
 * Its place; owner, tries and expiry as they are now, in `item`, without bytes. */
bool durable_next_in(struct engine *e, uint32_t segment, uint32_t *slot, struct durable_item *item,
                     uint32_t *location);

/* Its record was appended anew. False: it has ended since; nothing was done. */
bool durable_moved(struct engine *e, uint32_t slot, uint64_t age, uint32_t location,
                   uint64_t number);

/* Where it lies now; 0: nowhere, or it is another one by now. */
uint32_t durable_location(const struct engine *e, uint32_t slot, uint64_t age);

/* ---- After a reboot ---- */

/* A thing that the journal has; in order of age. Store and ledger are empty but for those before
 * it. 0; 1: its group's record is lost, and it is in one that was made for it: "lost-" and a
 * number; -ENOSPC: no room for it; -EBADMSG: its bytes make no sense. A retained one comes with a
 * frame that fits, at any time. */
int durable_restore(struct engine *e, const struct record *record, uint64_t expiry,
                    uint32_t location);

/* That was all; nothing in the journal has an age above this one. */
void durable_restored(struct engine *e, uint64_t highest);

#endif
