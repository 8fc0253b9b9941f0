/* Topic rules said as plainly as possible and as slowly as that may be: what libclient/topic.h is
 * checked against. */
#ifndef MQBROKER_TESTS_SUPPORT_OBVIOUS_TOPIC_H
#define MQBROKER_TESTS_SUPPORT_OBVIOUS_TOPIC_H

#include <stdbool.h>
#include <stddef.h>

/* Both are cut into levels first; then MQTT 4.7 word for word, by recursion. At most 255 bytes
 * each. */
bool obvious_topic_match(const char *filter, size_t filter_size, const char *topic,
                         size_t topic_size);

/* UTF-8 without NUL: every character is decoded and judged by its number, which must need as many
 * bytes as it has. */
bool obvious_utf8(const char *text, size_t size);

#endif
