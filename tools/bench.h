/* What all modes of mqbench have in common: what was asked for, what a mode is, how its runs are
 * made and folded.
 *
 * A *mode* measures one thing (throughput). It does so in several *ways* (through the broker,
 * batched; over bare queues, one call a message …), gets a row of *figures* from each run of a way,
 * and names the *ratios* that people want to know. The runs of all ways are interleaved, repeated
 * and folded here, so that a mode is two tables and one function. To add a mode: write its file,
 * and put its name into the table in mqbench.c. */
#ifndef MQBROKER_TOOLS_BENCH_H
#define MQBROKER_TOOLS_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum {
    BENCH_FIGURES_MAX = 24, /* of one mode */
    BENCH_REPEAT_MAX = 99,
    BENCH_WORKERS_MAX = 64, /* publishers, and subscribers likewise */
};

/* Settings that are said or left to whoever has a default. */
enum bench_choice {
    BENCH_UNSAID = -1,
    BENCH_NO = 0,
    BENCH_YES = 1,
};

/* How a process waits for a message. As usual: as the library and the broker do by themselves, and
 * over bare queues asleep in the kernel. */
enum bench_wait {
    BENCH_AS_USUAL = 0,
    BENCH_SLEEP, /* sleep at once */
    BENCH_LOOK,  /* look again for a while before sleeping */
};

/* What a subscriber subscribes to: the topic of its channel, or filters. */
enum bench_filters {
    BENCH_NO_FILTERS = 0,
    BENCH_FEW_FILTERS,
    BENCH_MANY_FILTERS, /* as many as was asked for */
};

/* What was asked for. A run's warm-up comes on top of its count and seconds. */
struct bench_options {
    size_t size;    /* bytes of a payload; 0: those of the ways */
    uint64_t count; /* messages or round trips of a run; 0: as many as there is time for */
    double seconds; /* of a run; 0: as long as the count takes */
    unsigned publishers;
    unsigned subscribers;
    unsigned filters;        /* what BENCH_MANY_FILTERS means */
    enum bench_choice batch; /* unsaid: both */
    bool loan;               /* ways that take loans too, where a mode leaves the choice */
    enum bench_wait wait;    /* as usual: as the mode likes */
    unsigned poll_usec;      /* how long to look again; 0: the default */
    int broker_poll_usec;    /* the private broker's; BENCH_UNSAID: as the way demands */
    unsigned outstanding;    /* messages that may be unconfirmed; 0: those of the ways */
    const char *sync;        /* when the private broker tells the disk to keep them */
    const char *directory;   /* where their files are */
    unsigned repeat;
    bool baseline;
    const char *instance; /* a running broker's; NULL: a private one for each run */
    const char *broker;   /* the program to start; NULL: the one beside this program, or in PATH */
};

/* How the runs of a way become one figure. */
enum bench_fold {
    BENCH_MEDIAN,
    BENCH_MAX,
    BENCH_FAULTS, /* the sum; anything but 0 fails the whole measurement */
};

struct bench_figure {
    const char *key;     /* in JSON, with its unit */
    const char *heading; /* of its column; NULL: in JSON only, in all modes */
    int decimals;        /* in the table */
    enum bench_fold fold;
};

struct carrier_kind;

struct bench_way {
    const char *key;  /* in JSON */
    const char *name; /* in the table */
    bool bare; /* over bare kernel queues, instead of through the broker; only with --baseline */
    const struct carrier_kind *carrier; /* NULL: through the broker, or bare */
    bool loan;                          /* payloads are written in place, in memory on loan */
    size_t size;             /* bytes of a payload, if none was asked for; modes with sizes */
    enum bench_choice batch; /* unsaid: it makes no difference here */
    enum bench_wait wait;
    bool flood;           /* mode priority */
    bool durable;         /* by a broker that keeps a journal */
    unsigned outstanding; /* messages that may be unconfirmed, if nothing was asked for; modes with
                             `durable` */
    enum bench_filters filters; /* mode filters */
};

struct bench_ratio {
    const char *key;
    const char *name;
    const char *way;     /* key of the one */
    const char *against; /* and of the other */
    const char *figure;  /* which of their figures */
};

struct bench_mode {
    const char *name;
    const char *purpose; /* for the help: a phrase */
    double seconds;      /* of a run, if nothing is said */
    size_t size;         /* likewise, of a payload */
    unsigned publishers; /* likewise; 0: a fixed cast, the option is refused */
    unsigned subscribers;
    unsigned filters; /* 0: it has none */
    const char *note; /* under the table; or NULL */
    bool batches;     /* takes --batch and --no-batch */
    bool loans;       /* takes --loan */
    bool sizes;       /* has ways with sizes of their own, for when none is asked for */
    bool durable;     /* its messages go to disk; takes --outstanding, --sync, --directory */
    const struct bench_way *ways;
    size_t n_ways;
    const struct bench_figure *figures;
    size_t n_figures;
    uint32_t json_only; /* a bit for each figure that has a heading but is no column here */
    const struct bench_ratio *ratios;
    size_t n_ratios;
    /* Say in a sentence what a run does. */
    void (*describe)(const struct bench_options *options, char *out, size_t size);
    /* One run: fills n_figures figures, NAN where the system does not tell. Returns 0, or -1 with
     * bench_error() set. */
    int (*run)(const struct bench_options *options, const struct bench_way *way, double *figures);
};

/* What came of it. */
struct bench_row {
    const struct bench_way *way;
    double figures[BENCH_FIGURES_MAX]; /* folded */
    double runs[BENCH_REPEAT_MAX][BENCH_FIGURES_MAX];
};

struct bench_result {
    const struct bench_mode *mode;
    const struct bench_options *options;
    struct bench_row *rows; /* of the ways that were asked for */
    size_t n_rows;
};

extern const struct bench_mode bench_throughput;
extern const struct bench_mode bench_fanout;
extern const struct bench_mode bench_fanin;
extern const struct bench_mode bench_large;
extern const struct bench_mode bench_filters;
extern const struct bench_mode bench_latency;
extern const struct bench_mode bench_priority;
extern const struct bench_mode bench_durable;

/* Run all that was asked for: way by way, and that `options->repeat` times. Returns 0 and fills
 * `result`, which is for bench_result_free(); or -1 with bench_error() set. */
int bench_run(const struct bench_mode *mode, const struct bench_options *options,
              struct bench_result *result);
void bench_result_free(struct bench_result *result);

/* The ratio of a result; NAN if one of its two ways was not asked for or its figure is unknown. */
double bench_ratio_of(const struct bench_result *result, const struct bench_ratio *ratio);

/* How many messages went wrong: the sum of all figures that are BENCH_FAULTS. */
uint64_t bench_faults(const struct bench_result *result);

/* Keep a sentence that says what failed, and return -1. */
int bench_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *bench_error(void);

/* Nanoseconds of CLOCK_MONOTONIC, the same for all processes. */
static inline uint64_t bench_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

#endif
