/* The model of the journal's tests: what was appended, what became of it, and so what a journal
 * must find on a disk that was cut off. */
#ifndef MQBROKER_TESTS_SUPPORT_JOURNAL_MODEL_H
#define MQBROKER_TESTS_SUPPORT_JOURNAL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "broker/journal.h"
#include "tests/support/fake_disk.h"

enum {
    MODEL_SEGMENT = 64 << 10,
    MODEL_SEGMENTS = 7,
    MODEL_THINGS = 4096,       /* at most */
    MODEL_PLACES = 12,         /* records of a thing that are remembered */
    MODEL_RELOCATIONS = 65536, /* places that were relocated in a life, at most */
    MODEL_SIZE_MAX = 5000,
};

/* What is noted on the disk (fake_disk_note()) between its operations. */
enum model_note {
    MODEL_APPENDED = 1, /* number of the last append */
    MODEL_PROMISED,     /* that of the last one which a kill, and a power loss, must not take */
    MODEL_RELOCATED,    /* how many places were relocated in this life */
};

struct model_place {
    uint64_t number; /* of the append */
    uint32_t location;
    uint64_t owner;
};

/* A place that was relocated. */
struct model_relocation {
    unsigned age;
    uint64_t number;
    uint32_t location; /* that it had before */
};

/* A durable thing; its age is its index. */
struct model_thing {
    uint32_t size;
    uint32_t crc;  /* of its bytes */
    uint32_t pool; /* so many of them, the last ones, came from the pool, from here: */
    uint32_t pool_offset;
    uint8_t kind;
    bool gone;      /* it must never be found again */
    bool lost;      /* its source had gone */
    bool unsure;    /* it was refused, and may be there all the same */
    bool again;     /* what happened to it is appended a second time: it may be there already */
    bool moving;    /* a read for its move is under way */
    uint64_t put;   /* number of its first append */
    uint64_t end;   /* number of its END; 0: it lives */
    uint64_t moved; /* number of its MOVE; 0: none */
    uint64_t owner;
    uint64_t owner_before;
    struct model_place places[MODEL_PLACES]; /* its records, newest last */
    unsigned n_places;
};

struct model_found {
    bool here;
    uint32_t location;
    uint64_t owner;
};

struct model {
    struct journal *journal; /* open between model_open() and journal_close() */
    struct model_thing things[MODEL_THINGS];
    unsigned n_things;                 /* ages are 1 … n_things */
    uint8_t bytes[MODEL_SIZE_MAX + 8]; /* of the thing that is appended next */
    char wrong[1024];                  /* what was found to be wrong; empty: nothing */
    uint64_t n_relocated, n_lost;      /* events */
    struct model_relocation relocations[MODEL_RELOCATIONS]; /* of this life */
    uint32_t n_relocations;

    /* What the last reading found, and in which image. */
    struct fake_image *image;
    struct model_found found[MODEL_THINGS]; /* by age */
    unsigned n_found;
    unsigned n_damages;
    char last_damage[JOURNAL_SENTENCE];
};

/* Nothing was ever appended, and nothing is wrong. */
void model_init(struct model *m);

/* Note what is wrong, if nothing was before. */
void model_wrong(struct model *m, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Those of a journal on the fake disk. */
struct journal_settings model_settings(enum journal_sync sync);

/* ---- What was appended ---- */

/* The newest place of a thing whose append has at most this number; NULL: none. */
const struct model_place *model_place_at(const struct model_thing *t, uint64_t number);

/* Its newest place of all; 0: none. */
uint32_t model_location(const struct model_thing *t);

/* Fill m->bytes with what a thing consists of: its age determines that, but for the bytes that come
 * from the pool. */
void model_make_bytes(struct model *m, unsigned age);

/* Append the record of a thing, and keep it: the first `size` of m->bytes, and the source (or
 * NULL). As journal_append(). */
int model_append(struct model *m, unsigned age, const struct journal_source *source, uint32_t size,
                 enum journal_claim claim);

/* Append a MOVE to another owner. What that means for the thing is the caller's affair, but for the
 * append's number. */
int model_move(struct model *m, unsigned age, uint64_t owner);

/* Append the END of these, and drop them. */
int model_end(struct model *m, const uint64_t *ages, uint32_t n);

/* Take an event that nobody asked for: of journal_collect(), with the model as its context. */
void model_take_event(void *context, const struct journal_event *event);

/* A life begins: what was relocated stays so. */
void model_begin_life(struct model *m);

/* It ended when so many places had been relocated; the others were not yet. */
void model_undo_relocations(struct model *m, uint32_t n);

/* ---- What is found ---- */

/* Open the journal of the disk that is mounted, a copy of `image`, and read it; without a scan,
 * only go on from there. Is it open? Otherwise something is wrong. */
bool model_open(struct model *m, enum journal_sync sync, bool scan, struct fake_image *image);

/* A crash is no damage: there must be none. */
void model_expect_no_damage(struct model *m);

/* What was found must be what there was after some append, from `promised` to `appended`. */
void model_compare(struct model *m, uint64_t appended, uint64_t promised);

#endif
