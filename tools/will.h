/* The options of a will, for each program whose end somebody may want to hear of: --will-topic,
 * --will-payload, --will-priority, --will-retain. Habits are those of mosquitto. */
#ifndef MQBROKER_TOOLS_WILL_H
#define MQBROKER_TOOLS_WILL_H

#include <stdbool.h>

#include "libclient/mqclient.h"
#include "tools/options.h"

enum {
    WILL_KEY_TOPIC = OPTIONS_KEY_LONG + 64, /* behind the keys of all programs */
    WILL_KEY_PAYLOAD,
    WILL_KEY_PRIORITY,
    WILL_KEY_RETAIN,
};

/* For the table of a program's options. */
#define WILL_ENTRIES                                                                               \
    {WILL_KEY_TOPIC, "will-topic", "TOPIC",                                                        \
     "have the broker publish to this topic if this\nprogram ends without a goodbye"},             \
        {WILL_KEY_PAYLOAD, "will-payload", "TEXT", "its payload (default: nothing)"},              \
        {WILL_KEY_PRIORITY, "will-priority", "PRIORITY", "its priority (default: 8)"},             \
    {                                                                                              \
        WILL_KEY_RETAIN, "will-retain", NULL, "keep it for later subscribers"                      \
    }

/* Begin with all zero but the priority; what is said of it stands in `will`, whose topic is NULL if
 * there is to be none. */
#define WILL_NONE ((struct mqc_publication){.priority = MQC_DEFAULT_PRIORITY})

/* Take the option that options_next() returned. False: it is none of a will's. */
bool will_take(struct mqc_publication *will, const struct options *options, int key);

/* After the last option: it is wrong usage to say what a will is without where it goes. */
void will_check(const struct mqc_publication *will, const struct options *options);

#endif
