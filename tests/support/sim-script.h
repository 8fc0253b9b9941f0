/* The script of a simulation: what is done to it, step by step. Made from a seed; written and read
 * as text, so that a run that failed can be cut down, kept and run again. */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_SCRIPT_H
#define MQBROKER_TESTS_SUPPORT_SIM_SCRIPT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum {
    SCRIPT_STEPS = 4096, /* at most */
    SCRIPT_BROKER = 0,   /* who: the broker; a client is 1 and up */
    SCRIPT_CLIENTS = 4,
    SCRIPT_TOPICS = 6,
    SCRIPT_ASKED = 4, /* of these, the first: what requests are made of; the last is a client */
    SCRIPT_WILLS = 3,
    SCRIPT_GROUPS = 2,
    SCRIPT_FIRST_GROUPED = 4, /* from here on each topic is a group's */
    SCRIPT_FILTERS = 5,
    SCRIPT_LEVELS = 4, /* of the priorities that are used */
};

extern const char *const script_topics[SCRIPT_TOPICS];
extern const char *const script_filters[SCRIPT_FILTERS];
extern const uint8_t script_levels[SCRIPT_LEVELS];

enum script_flag { /* of what is published */
                   SCRIPT_RETAIN = 1,
                   SCRIPT_CONFIRM = 2,
                   SCRIPT_NOWAIT = 4,
                   SCRIPT_POOLED = 8, /* by the pool, whatever its size */
                   SCRIPT_BATCHED = 16,
};

enum script_overflow { /* as enum engine_overflow */
                       SCRIPT_DROP_OLDEST = 0,
                       SCRIPT_DROP_NEWEST,
                       SCRIPT_BLOCK,
                       SCRIPT_DISCONNECT,
};

/* X(verb, words of its arguments). The first three are done to a process, the others are calls of a
 * client, which then runs for so many points; one that still has an earlier call to do only runs.
 */
#define SCRIPT_VERBS(X)                                                                            \
    X(run, "points", NULL)                                                                         \
    X(kill, "seen_after_ms", NULL)                                                                 \
    X(time, "ms", NULL)                                                                            \
    X(subscribe, "points", "filter", NULL)                                                         \
    X(unsubscribe, "points", "filter", NULL)                                                       \
    X(publish, "points", "messages", "topic", "level", "size", "flags", "ttl_ms")                  \
    X(request, "points", "messages", "topic", "level", "size", "flags", "timeout_ms")              \
    X(reply, "points", "messages", "size", NULL)                                                   \
    X(receive, "points", "messages", NULL)                                                         \
    X(await, "points", "timeout_ms", NULL)                                                         \
    X(release, "points", "messages", NULL)                                                         \
    X(confirm, "points", "timeout_ms", NULL)                                                       \
    X(join, "points", "prefetch", "group", NULL)                                                   \
    X(leave, "points", "messages", "group", NULL)                                                  \
    X(ack, "points", "messages", NULL)                                                             \
    X(nack, "points", "messages", "delay_ms", NULL)                                                \
    X(reject, "points", "messages", NULL)                                                          \
    X(will, "points", "size", "topic", "level", NULL)                                              \
    X(flush, "points", NULL)                                                                       \
    X(bye, "points", NULL)

#define SCRIPT_VERB(verb, ...) SCRIPT_##verb,
enum script_verb { SCRIPT_VERBS(SCRIPT_VERB) SCRIPT_N_VERBS };

enum { SCRIPT_ARGUMENTS = 7 };

struct script_step {
    uint8_t verb;
    uint8_t who;
    uint32_t luck; /* the seed of whatever is left to chance while it is done */
    union {
        uint32_t arguments[SCRIPT_ARGUMENTS]; /* in the order of the words */
        struct {
            union {
                uint32_t points;
                uint32_t ms;
            };
            union {
                uint32_t messages;
                uint32_t filter;
                uint32_t timeout_ms;
                uint32_t prefetch;
                uint32_t will_size;
            };
            union {
                uint32_t topic;
                uint32_t group;
                uint32_t delay_ms;
                uint32_t reply_size;
            };
            uint32_t level;
            uint32_t size;
            uint32_t flags;
            uint32_t ttl_ms;
        };
    };
};

/* What is the same all through a run. */
struct script_setting {
    uint32_t depth; /* of queues */
    uint32_t width; /* of reply queues */
    uint32_t buffers;
    uint32_t overflow; /* enum script_overflow */
    uint32_t backlog;  /* cells */
    uint32_t stall_ms;
};

struct script {
    struct script_setting setting;
    uint32_t n;
    struct script_step steps[SCRIPT_STEPS];
};

/* The script of a seed. */
void script_derive(struct script *s, uint64_t seed);

/* The word for an enum script_verb. */
const char *script_verb_name(uint8_t verb);

/* As text: a line for the setting and one for each step. */
void script_write_step(const struct script_step *step, FILE *out);
void script_write(const struct script *s, FILE *out);

/* The opposite. 0, or the number of the line that is none. */
uint32_t script_read(struct script *s, FILE *in);

#endif
