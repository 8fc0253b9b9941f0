/* A run is made of lives. Every operation of the disk in a life is remembered, together with what
 * had been appended and what had been promised. Then the disk is cut off after any operation, in
 * every way there is, and a new journal reads what is left. The next life goes on from one of these
 * images, after a power loss (scan) or a kill of the process (continue). */
#include "tests/support/journal-run.h"

#include <string.h>

#include "broker/journal-fault.h"
#include "tests/support/journal-life.h"

enum { LIVES = 4, STEPS = 600 };

/* Of the run that is under way; too large for a stack. */
static struct life life;
static uint64_t n_images;

struct moment { /* of a log */
    uint64_t appended, done, synced;
    uint32_t relocated;
};

static bool is_wrong(void)
{
    return life.model.wrong[0] != '\0';
}

static unsigned below(unsigned n)
{
    return chance_below(&life.chance, n);
}

/* ---- What a crash leaves ---- */

static void check_image(struct fake_image *crashed, uint64_t appended, uint64_t promised)
{
    struct model *m = &life.model;
    struct fake_log log;

    n_images++;
    fake_disk_mount(crashed, NULL, 1);
    if (model_open(m, JOURNAL_ALWAYS, true, crashed)) {
        model_expect_no_damage(m);
        model_compare(m, appended, promised);
        m->journal = journal_close(m->journal);
    }
    fake_disk_unmount(&log);
    fake_log_deinit(&log);
}

/* In every way in which the disk can be cut off there. */
static void check_crashes(const struct fake_replay *replay, const struct moment *m)
{
    for (enum fake_crash kind = 0; kind < N_FAKE_CRASHES && !is_wrong(); kind++) {
        struct fake_image crashed;

        fake_replay_crash(replay, kind, chance_draw(&life.chance), &crashed);
        check_image(&crashed, m->appended, kind == FAKE_EVERYTHING ? m->done : m->synced);
        fake_image_deinit(&crashed);
    }
}

static void take_note(struct moment *m, const struct fake_op *op)
{
    switch (op->note[0]) {
    case MODEL_APPENDED:
        m->appended = op->note[1];
        break;
    case MODEL_PROMISED:
        m->done = op->note[1];
        m->synced = op->note[2];
        break;
    case MODEL_RELOCATED:
        m->relocated = (uint32_t)op->note[1];
        break;
    }
}

/* Look at a life from every side: after one in `every` operations, in every way. Then leave in
 * *next the image at one of them, which is where the next life begins. */
static void look_at_life(const struct fake_log *log, const struct life_begin *begin, bool kill,
                         unsigned every, struct fake_image *next, struct moment *then)
{
    struct fake_replay replay;
    struct moment m = {0};
    size_t end = log->n - below((unsigned)(log->n / 3 + 1));

    fake_replay_init(&replay, log, begin->image);
    while (replay.at < end) {
        const struct fake_op *op = &log->ops[replay.at];

        fake_replay_step(&replay);
        if (op->type == FAKE_NOTE)
            take_note(&m, op);
        if (!is_wrong() && below(every) == 0 && op->type != FAKE_NOTE)
            check_crashes(&replay, &m);
    }
    fake_replay_crash(&replay, kill ? FAKE_EVERYTHING : (enum fake_crash)below(N_FAKE_CRASHES),
                      chance_draw(&life.chance), next);
    *then = m;
    fake_replay_deinit(&replay);
}

/* ---- From life to life ---- */

/* What was appended, or relocated, after the end of that life was never. */
static void forget_beyond(struct model *m, const struct moment *then)
{
    uint64_t appended = then->appended;

    model_undo_relocations(m, then->relocated);
    for (unsigned age = 1; age <= m->n_things; age++) {
        struct model_thing *t = &m->things[age];

        while (t->n_places > 0 && t->places[t->n_places - 1].number > appended)
            t->n_places--;
        if (t->put > appended && !t->again)
            t->gone = true;
        if (t->end > appended)
            t->end = 0;
        if (t->moved > appended) {
            t->moved = 0;
            t->owner = t->owner_before;
        }
        t->moving = false;
    }
}

static struct fake_troubles some_troubles(void)
{
    return (struct fake_troubles){
        .write_error = below(3) == 0 ? 60 : 0,
        .sync_error = below(3) == 0 ? 30 : 0,
        .short_write = below(3) == 0 ? 5 : 0,
        .interrupt = below(3) == 0 ? 5 : 0,
        .open_error = below(3) == 0 ? 2 : 0,
        .space = below(4) == 0 ? MODEL_SEGMENT * 5 : 0,
    };
}

/* A life, and what it leaves: in *begin, which it began from, and in *image. */
static void live_once(struct life_begin *begin, struct fake_image *image, unsigned every)
{
    enum journal_sync sync = below(2) == 0 ? JOURNAL_ALWAYS : (enum journal_sync)below(3);
    struct fake_troubles troubles = some_troubles();
    struct fake_image next;
    struct fake_log log;
    struct moment then;
    bool kill;

    fake_pool_size = below(4) == 0 ? FAKE_POOL_SIZE / 2 : FAKE_POOL_SIZE;
    life_live(&life, begin, sync, &troubles, STEPS);
    fake_disk_unmount(&log);
    kill = below(2) == 0;
    if (!is_wrong()) {
        look_at_life(&log, begin, kill, every, &next, &then);
        fake_image_deinit(image);
        *image = next;
        *begin = (struct life_begin){image, kill, then.done};
        forget_beyond(&life.model, &then);
    }
    fake_log_deinit(&log);
}

const char *run(uint64_t seed, unsigned every, struct run_figures *figures)
{
    struct fake_image image = {0};
    struct life_begin begin = {0};

    memset(&life, 0, sizeof(life));
    model_init(&life.model);
    life.chance.state = seed;
    journal_now = 1;
    n_images = 0;
    for (uint32_t i = 0; i < FAKE_POOL_SIZE; i++)
        fake_pool[i] = (uint8_t)chance_draw(&life.chance);
    for (unsigned i = 0; i < LIVES && !is_wrong(); i++)
        live_once(&begin, &image, every);
    fake_image_deinit(&image);
    figures->images += n_images;
    figures->moves += life.n_moves;
    figures->relocations += life.model.n_relocated;
    figures->full += life.n_full;
    figures->lost += life.model.n_lost;
    return is_wrong() ? life.model.wrong : NULL;
}
