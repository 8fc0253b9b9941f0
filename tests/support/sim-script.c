/* See sim-script.h. */
#include "tests/support/sim-script.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/chance.h"

const char *const script_topics[SCRIPT_TOPICS] = {"a/x", "a/y", "b", "@b", "w/0", "w/1"};
const char *const script_filters[SCRIPT_FILTERS] = {"a/x", "a/y", "b", "a/+", "#"};
const uint8_t script_levels[SCRIPT_LEVELS] = {0, 8, 24, 31};

struct verb {
    const char *name;
    const char *words[SCRIPT_ARGUMENTS];
};

#define VERB(verb, ...) {#verb, {__VA_ARGS__}},
static const struct verb verbs[] = {SCRIPT_VERBS(VERB)};

/* ---- From a seed ---- */

static uint32_t one_of(struct chance *c, const uint32_t *values, uint32_t n)
{
    return values[chance_below(c, n)];
}

static uint32_t payload_size(struct chance *c, bool may_be_empty)
{
    static const uint32_t sizes[] = {4, 12, 60, 200, 700, 1000};

    return may_be_empty && chance_below(c, 3) == 0 ? 0 : one_of(c, sizes, 6);
}

static void derive_setting(struct script_setting *s, struct chance *c)
{
    static const uint32_t depths[] = {5, 6, 10};
    static const uint32_t widths[] = {1280, 464, 1280, 2000};
    static const uint32_t buffers[] = {0, 12, 2, 0};
    static const uint32_t backlogs[] = {16, 48, 1 << 20, 1 << 20};
    uint32_t i = chance_below(c, 4);

    *s = (struct script_setting){
        .depth = one_of(c, depths, 3),
        .width = widths[i],
        .buffers = buffers[i],
        .overflow = chance_below(c, 4),
        .backlog = one_of(c, backlogs, 4),
        .stall_ms = chance_below(c, 4) == 0 ? 50 : 1000,
    };
}

static void derive_message(struct script_step *step, struct chance *c)
{
    static const uint32_t bursts[] = {1, 1, 3, 8, 30};
    bool request = step->verb == SCRIPT_request;

    if (!request && chance_below(c, 8) == 0)
        step->flags |= SCRIPT_RETAIN;
    if (!request && chance_below(c, 4) == 0)
        step->flags |= SCRIPT_CONFIRM;
    if (!request && chance_below(c, 2) == 0)
        step->flags |= SCRIPT_BATCHED;
    if (chance_below(c, 8) == 0)
        step->flags |= SCRIPT_NOWAIT;
    if (chance_below(c, 4) == 0)
        step->flags |= SCRIPT_POOLED;
    step->messages = one_of(c, bursts, request ? 3 : 5);
    step->topic = chance_below(c, request ? SCRIPT_ASKED : SCRIPT_TOPICS);
    step->level = chance_below(c, SCRIPT_LEVELS);
    step->size = payload_size(c, (step->flags & SCRIPT_RETAIN) != 0);
    if (request)
        step->ttl_ms = 1 + chance_below(c, chance_below(c, 3) == 0 ? 60 : 1500);
    else if ((step->flags & SCRIPT_RETAIN) == 0 && chance_below(c, 8) == 0)
        step->ttl_ms = 1 + chance_below(c, 500);
}

static void derive_arguments(struct script_step *step, struct chance *c)
{
    switch (step->verb) {
    case SCRIPT_subscribe:
    case SCRIPT_unsubscribe:
        step->filter = chance_below(c, SCRIPT_FILTERS);
        break;
    case SCRIPT_publish:
    case SCRIPT_request:
        derive_message(step, c);
        break;
    case SCRIPT_reply:
        step->messages = 1 + chance_below(c, 6);
        step->reply_size = payload_size(c, false);
        break;
    case SCRIPT_receive:
    case SCRIPT_release:
        step->messages = 1 + chance_below(c, 20);
        break;
    case SCRIPT_join:
        step->prefetch = 1 + chance_below(c, 6);
        step->group = chance_below(c, SCRIPT_GROUPS);
        break;
    case SCRIPT_leave:
        step->group = chance_below(c, SCRIPT_GROUPS);
        break;
    case SCRIPT_ack:
    case SCRIPT_nack:
    case SCRIPT_reject:
        step->messages = 1 + chance_below(c, 8);
        if (step->verb == SCRIPT_nack && chance_below(c, 2) == 0)
            step->delay_ms = 1 + chance_below(c, 100);
        break;
    case SCRIPT_will:
        step->will_size = payload_size(c, false);
        step->topic = chance_below(c, SCRIPT_WILLS);
        step->level = chance_below(c, SCRIPT_LEVELS);
        break;
    case SCRIPT_await:
    case SCRIPT_confirm:
        step->timeout_ms = 1 + chance_below(c, 800);
        break;
    default:
        break;
    }
}

/* What sort of client it is in this run, and what it does next, each of so many parts. */
enum { ASKING = 3, WORKING, MOODS };

static uint8_t derive_call(struct chance *c, uint32_t mood)
{
    static const struct {
        uint8_t verb;
        uint8_t parts[MOODS]; /* does everything; publishes; hardly reads; asks; works in groups */
    } calls[] = {
        {SCRIPT_subscribe, {3, 1, 4, 2, 0}}, {SCRIPT_unsubscribe, {1, 0, 0, 1, 0}},
        {SCRIPT_publish, {8, 16, 3, 1, 6}},  {SCRIPT_request, {3, 2, 1, 8, 0}},
        {SCRIPT_reply, {3, 1, 1, 8, 0}},     {SCRIPT_receive, {8, 2, 1, 8, 8}},
        {SCRIPT_await, {2, 1, 0, 1, 2}},     {SCRIPT_release, {4, 1, 1, 2, 1}},
        {SCRIPT_confirm, {1, 2, 1, 1, 1}},   {SCRIPT_join, {1, 0, 1, 0, 3}},
        {SCRIPT_leave, {1, 0, 0, 0, 1}},     {SCRIPT_ack, {2, 0, 0, 0, 10}},
        {SCRIPT_nack, {1, 0, 0, 0, 2}},      {SCRIPT_reject, {1, 0, 0, 0, 1}},
        {SCRIPT_will, {1, 1, 1, 1, 1}},      {SCRIPT_flush, {1, 1, 1, 1, 1}},
        {SCRIPT_bye, {1, 0, 0, 0, 0}},
    };
    uint32_t all = 0;
    uint32_t left;
    unsigned i = 0;

    for (unsigned k = 0; k < sizeof(calls) / sizeof(calls[0]); k++)
        all += calls[k].parts[mood];
    for (left = chance_below(c, all); left >= calls[i].parts[mood]; i++)
        left -= calls[i].parts[mood];
    return calls[i].verb;
}

/* What a run is like. */
struct climate {
    uint32_t moods[SCRIPT_CLIENTS];
    uint32_t killing; /* of a hundred steps, so many deaths of the broker */
    uint32_t haste;   /* milliseconds that the clock jumps at most */
};

static struct script_step derive_client_step(struct chance *c, const struct climate *climate)
{
    struct script_step step = {.verb = SCRIPT_run};
    uint32_t client = chance_below(c, SCRIPT_CLIENTS);

    step.who = (uint8_t)(1 + client);
    if (chance_below(c, 3) > 0)
        step.verb = derive_call(c, climate->moods[client]);
    step.points = 1 + chance_below(c, chance_below(c, 3) == 0 ? 6 : 60);
    derive_arguments(&step, c);
    return step;
}

static struct script_step derive_step(struct chance *c, const struct climate *climate)
{
    struct script_step step = {.verb = SCRIPT_run, .who = SCRIPT_BROKER};
    uint32_t what = chance_below(c, 100);

    if (what < climate->killing) {
        step.verb = SCRIPT_kill;
    } else if (what < 45) {
        step.points = 1 + chance_below(c, chance_below(c, 3) == 0 ? 25 : 250);
    } else if (what < 48) {
        step.verb = SCRIPT_time;
        step.ms = 1 + chance_below(c, climate->haste);
    } else if (what < 49) {
        step.verb = SCRIPT_kill;
        step.who = (uint8_t)(1 + chance_below(c, SCRIPT_CLIENTS));
        step.ms = chance_below(c, 2) == 0 ? 0 : chance_below(c, 200);
    } else {
        step = derive_client_step(c, climate);
    }
    step.luck = (uint32_t)chance_draw(c);
    return step;
}

/* While there is no broker, time passes or a client dies: so that a start finds changes. */
static struct script_step derive_absence(struct chance *c, const struct climate *climate)
{
    struct script_step step = {.verb = SCRIPT_time, .luck = (uint32_t)chance_draw(c)};

    if (chance_below(c, 4) == 0) {
        step.verb = SCRIPT_kill;
        step.who = (uint8_t)(1 + chance_below(c, SCRIPT_CLIENTS));
    } else {
        step.ms = 1 + chance_below(c, climate->haste);
    }
    return step;
}

static bool kills_broker(const struct script_step *step)
{
    return step->verb == SCRIPT_kill && step->who == SCRIPT_BROKER;
}

/* Most runs begin with everybody registered and subscribed to something: or a good part of each
 * would go by before anything happens. */
static void derive_beginning(struct script *s, struct chance *c)
{
    for (uint32_t round = 0; round < 3; round++) {
        for (uint8_t who = 1; who <= SCRIPT_CLIENTS; who++)
            s->steps[s->n++] = (struct script_step){
                .verb = round == 0 ? SCRIPT_run : SCRIPT_subscribe,
                .who = who,
                .luck = (uint32_t)chance_draw(c),
                .points = 40,
                .filter = round == 0 ? 0 : chance_below(c, SCRIPT_FILTERS),
            };
        s->steps[s->n++] = (struct script_step){.luck = (uint32_t)chance_draw(c), .points = 1000};
    }
}

void script_derive(struct script *s, uint64_t seed)
{
    static const uint32_t lengths[] = {120, 200, 400};
    static const uint32_t killings[] = {0, 3, 8, 12};
    struct chance c = {seed * UINT64_C(0x9e3779b97f4a7c15)};
    struct climate climate = {.killing = one_of(&c, killings, 4),
                              .haste = chance_below(&c, 3) == 0 ? 300 : 20};
    uint32_t length = one_of(&c, lengths, 3);
    bool asking = chance_below(&c, 4) == 0;
    bool working = !asking && chance_below(&c, 3) == 0;

    for (uint32_t i = 0; i < SCRIPT_CLIENTS; i++)
        climate.moods[i] = asking ? ASKING : working ? WORKING : chance_below(&c, MOODS);
    derive_setting(&s->setting, &c);
    s->n = 0;
    if (chance_below(&c, 4) > 0)
        derive_beginning(s, &c);
    if (asking || working)
        climate.killing = 20;
    while (s->n < length) {
        s->steps[s->n] = derive_step(&c, &climate);
        if (kills_broker(&s->steps[s->n++]) && chance_below(&c, 2) == 0)
            s->steps[s->n++] = derive_absence(&c, &climate);
    }
}

/* ---- As text ---- */

const char *script_verb_name(uint8_t verb)
{
    return verbs[verb].name;
}

void script_write_step(const struct script_step *step, FILE *out)
{
    const struct verb *verb = &verbs[step->verb];

    if (step->who == SCRIPT_BROKER)
        fprintf(out, "%-8s %-11s", step->verb == SCRIPT_time ? "clock" : "broker", verb->name);
    else
        fprintf(out, "client%u  %-11s", step->who, verb->name);
    for (unsigned i = 0; i < SCRIPT_ARGUMENTS && verb->words[i] != NULL; i++)
        fprintf(out, " %s=%" PRIu32, verb->words[i], step->arguments[i]);
    fprintf(out, " luck=%" PRIu32 "\n", step->luck);
}

void script_write(const struct script *s, FILE *out)
{
    const struct script_setting *t = &s->setting;

    fprintf(out,
            "setting depth=%" PRIu32 " width=%" PRIu32 " buffers=%" PRIu32 " overflow=%" PRIu32
            " backlog=%" PRIu32 " stall_ms=%" PRIu32 "\n",
            t->depth, t->width, t->buffers, t->overflow, t->backlog, t->stall_ms);
    for (uint32_t i = 0; i < s->n; i++)
        script_write_step(&s->steps[i], out);
}

static bool read_setting(struct script_setting *t, const char *line)
{
    return sscanf(line,
                  "setting depth=%" SCNu32 " width=%" SCNu32 " buffers=%" SCNu32
                  " overflow=%" SCNu32 " backlog=%" SCNu32 " stall_ms=%" SCNu32,
                  &t->depth, &t->width, &t->buffers, &t->overflow, &t->backlog, &t->stall_ms) == 6;
}

/* The number behind a word and "=". */
static bool read_value(const char *line, const char *word, uint32_t *value)
{
    size_t size = strlen(word);

    for (const char *at = strstr(line, word); at != NULL; at = strstr(at + 1, word)) {
        if (at[size] == '=' && at > line && at[-1] == ' ')
            return sscanf(at + size + 1, "%" SCNu32, value) == 1;
    }
    return false;
}

static bool read_who(const char *word, uint8_t *who)
{
    unsigned number = 0;

    if (strcmp(word, "broker") != 0 && strcmp(word, "clock") != 0 &&
        (sscanf(word, "client%u", &number) != 1 || number == 0 || number > SCRIPT_CLIENTS))
        return false;
    *who = (uint8_t)number;
    return true;
}

static bool read_step(struct script_step *step, const char *line)
{
    char who[16], name[16];

    *step = (struct script_step){0};
    if (sscanf(line, "%15s %15s", who, name) != 2 || !read_who(who, &step->who))
        return false;
    while (step->verb < SCRIPT_N_VERBS && strcmp(verbs[step->verb].name, name) != 0)
        step->verb++;
    if (step->verb == SCRIPT_N_VERBS)
        return false;
    for (unsigned i = 0; i < SCRIPT_ARGUMENTS && verbs[step->verb].words[i] != NULL; i++) {
        if (!read_value(line, verbs[step->verb].words[i], &step->arguments[i]))
            return false;
    }
    return read_value(line, "luck", &step->luck);
}

uint32_t script_read(struct script *s, FILE *in)
{
    char line[256];
    uint32_t number = 1;

    s->n = 0;
    if (fgets(line, sizeof(line), in) == NULL || !read_setting(&s->setting, line))
        return number;
    while (fgets(line, sizeof(line), in) != NULL) {
        number++;
        if (line[0] == '#' || line[0] == '\n')
            continue;
        if (s->n == SCRIPT_STEPS || !read_step(&s->steps[s->n], line))
            return number;
        s->n++;
    }
    return 0;
}
