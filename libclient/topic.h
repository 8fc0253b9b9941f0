/* Topics, topic filters and names: what is valid, and what matches. Pure. The rules are those of
 * MQTT 5.0 section 4.7; on top of them, a topic that begins with '@' is direct: one client's own,
 * which no wildcard reaches. */
#ifndef MQBROKER_LIBCLIENT_TOPIC_H
#define MQBROKER_LIBCLIENT_TOPIC_H

#include <stdbool.h>
#include <stddef.h>

enum { TOPIC_LEVELS_MAX = 128 }; /* levels of a filter */

/* May one publish to this: 1 to 255 bytes of UTF-8 without NUL, '+' and '#', not beginning with
 * '$'; if it begins with '@', the rest is a name. */
bool topic_valid(const char *topic, size_t size);

/* Is this a topic filter: 1 to 255 bytes of UTF-8, '+' and '#' each alone in their level, '#' last
 * (4.7.1), at most TOPIC_LEVELS_MAX levels, not beginning with '@'. */
bool topic_filter_valid(const char *filter, size_t size);

/* May a client be called this: 1 to 63 bytes of UTF-8 without control characters, '/', '+', '#',
 * '@' and '$'. */
bool topic_name_valid(const char *name, size_t size);

/* Does a valid filter match a valid topic. '#' also matches its parent level; a wildcard in the
 * first level does not match topics that begin with '$' or '@'. */
bool topic_match(const char *filter, size_t filter_size, const char *topic, size_t topic_size);

#endif
