/* Wills: see will.h. */
#include "tools/will.h"

#include <string.h>

bool will_take(struct mqc_publication *will, const struct options *options, int key)
{
    switch (key) {
    case WILL_KEY_TOPIC:
        will->topic = options->value;
        return true;
    case WILL_KEY_PAYLOAD:
        will->payload = options->value;
        will->size = strlen(options->value);
        return true;
    case WILL_KEY_PRIORITY:
        will->priority = (unsigned)options_number(options, 0, MQC_MAX_PRIORITY);
        return true;
    case WILL_KEY_RETAIN:
        will->flags |= MQC_RETAIN;
        return true;
    default:
        return false;
    }
}

void will_check(const struct mqc_publication *will, const struct options *options)
{
    if (will->topic == NULL &&
        (will->payload != NULL || will->flags != 0 || will->priority != MQC_DEFAULT_PRIORITY))
        options_usage(options, "a will without --will-topic goes nowhere");
}
