/* Fuzz target: the first byte says how many of the others are a filter, the rest is a topic.
 * Besides memory safety it holds that topics, filters and names are what the obvious rules say,
 * that they go together as the header says, and that topic_match() agrees with the obvious matcher.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libclient/topic.h"
#include "libclient/wire.h"
#include "tests/support/obvious_topic.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

static bool has_any(const char *text, size_t size, const char *characters)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] != '\0' && strchr(characters, text[i]) != NULL)
            return true;
    return false;
}

static size_t n_levels(const char *text, size_t size)
{
    size_t n = 1;

    for (size_t i = 0; i < size; i++)
        n += text[i] == '/';
    return n;
}

static void check_text(const char *text, size_t size)
{
    bool in_size = size >= 1 && size <= WIRE_TOPIC_MAX;
    bool good = in_size && obvious_utf8(text, size);
    bool topic = topic_valid(text, size);
    bool filter = topic_filter_valid(text, size);
    bool name = topic_name_valid(text, size);

    must(good || !(topic || filter || name));
    if (name)
        must(size <= WIRE_NAME_MAX && !has_any(text, size, "/+#@$\n\x7f"));
    if (!good)
        return;
    if (text[0] == '$' || has_any(text, size, "+#"))
        must(!topic);
    else if (text[0] == '@')
        must(topic == topic_name_valid(text + 1, size - 1));
    else
        must(topic);
    if (text[0] == '@' || n_levels(text, size) > TOPIC_LEVELS_MAX)
        must(!filter);
    else if (!has_any(text, size, "+#"))
        must(filter && topic_match(text, size, text, size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *filter = (const char *)data + 1;
    const char *topic;
    size_t filter_size;
    size_t topic_size;

    if (size == 0)
        return 0;
    filter_size = data[0] < size - 1 ? data[0] : size - 1;
    topic = filter + filter_size;
    topic_size = size - 1 - filter_size;

    check_text(filter, filter_size);
    check_text(topic, topic_size);
    if (topic_filter_valid(filter, filter_size) && topic_valid(topic, topic_size))
        must(topic_match(filter, filter_size, topic, topic_size) ==
             obvious_topic_match(filter, filter_size, topic, topic_size));
    return 0;
}
