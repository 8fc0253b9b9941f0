/* Topics and filters, by MQTT 5.0 section 4.7.
 *
 * Both are strings of levels split by '/'; an empty level is a level. Matching walks filter and
 * topic together, once, a level at a time: it needs no memory and no recursion, because a filter
 * cannot make it turn back ('+' takes exactly one level, '#' all that is left). The broker's filter
 * tree is the fast way for many filters; this is the truth that it is tested against. */
#include "libclient/topic.h"

#include <stdint.h>
#include <string.h>

#include "libclient/wire.h"

/* Bytes of the UTF-8 character at `s`, of which `left` (at least 1) may be read; 0 if it is none.
 * NUL is none here (MQTT 1.5.4), nor are overlong forms, surrogates and what lies above U+10FFFF.
 */
static size_t character_size(const uint8_t *s, size_t left)
{
    uint8_t low = 0x80; /* bounds of the second byte: they keep overlong forms, surrogates and too
                           large ones out */
    uint8_t high = 0xbf;
    size_t size;

    if (s[0] < 0x80)
        return s[0] != 0;
    if (s[0] >= 0xc2 && s[0] <= 0xdf)
        size = 2;
    else if (s[0] >= 0xe0 && s[0] <= 0xef)
        size = 3;
    else if (s[0] >= 0xf0 && s[0] <= 0xf4)
        size = 4;
    else
        return 0;

    if (s[0] == 0xe0)
        low = 0xa0;
    else if (s[0] == 0xed)
        high = 0x9f;
    else if (s[0] == 0xf0)
        low = 0x90;
    else if (s[0] == 0xf4)
        high = 0x8f;

    if (size > left || s[1] < low || s[1] > high)
        return 0;
    for (size_t i = 2; i < size; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    return size;
}

/* Is it UTF-8 without any of the ASCII characters in `without`? */
static bool is_text(const char *text, size_t size, const char *without)
{
    const uint8_t *s = (const uint8_t *)text;

    for (size_t i = 0, n; i < size; i += n) {
        n = character_size(s + i, size - i);
        if (n == 0 || (n == 1 && strchr(without, s[i]) != NULL))
            return false;
    }
    return true;
}

/* Has valid UTF-8 a character of C0, DEL, or C1, which is U+0080 to U+009F: C2 80 to C2 9F? */
static bool has_control_character(const char *text, size_t size)
{
    const uint8_t *s = (const uint8_t *)text;

    for (size_t i = 0; i < size; i++)
        if (s[i] < 0x20 || s[i] == 0x7f || (s[i] == 0xc2 && s[i + 1] < 0xa0))
            return true;
    return false;
}

bool topic_name_valid(const char *name, size_t size)
{
    return size >= 1 && size <= WIRE_NAME_MAX && is_text(name, size, "/+#@$") &&
           !has_control_character(name, size);
}

bool topic_valid(const char *topic, size_t size)
{
    if (size < 1 || size > WIRE_TOPIC_MAX || topic[0] == '$')
        return false;
    if (topic[0] == '@')
        return topic_name_valid(topic + 1, size - 1);
    return is_text(topic, size, "+#");
}

/* '+' alone in its level, '#' alone in the last one, and not too many of them. */
static bool levels_valid(const char *filter, size_t size)
{
    size_t n_levels = 1;

    for (size_t i = 0; i < size; i++) {
        bool first = i == 0 || filter[i - 1] == '/';
        bool last = i + 1 == size;

        if (filter[i] == '/' && ++n_levels > TOPIC_LEVELS_MAX)
            return false;
        if (filter[i] == '+' && !(first && (last || filter[i + 1] == '/')))
            return false;
        if (filter[i] == '#' && !(first && last))
            return false;
    }
    return true;
}

bool topic_filter_valid(const char *filter, size_t size)
{
    return size >= 1 && size <= WIRE_TOPIC_MAX && filter[0] != '@' && is_text(filter, size, "") &&
           levels_valid(filter, size);
}

bool topic_match(const char *filter, size_t filter_size, const char *topic, size_t topic_size)
{
    const char *filter_end = filter + filter_size;
    const char *topic_end = topic + topic_size;

    if ((*filter == '+' || *filter == '#') && (*topic == '$' || *topic == '@'))
        return false;

    for (;;) { /* both stand at the beginning of a level, which may be empty */
        if (filter < filter_end && *filter == '#')
            return true;
        if (filter < filter_end && *filter == '+') {
            filter++;
            while (topic < topic_end && *topic != '/')
                topic++;
        } else {
            while (filter < filter_end && *filter != '/' && topic < topic_end && *topic == *filter)
                filter++, topic++;
        }

        /* Level for level they are alike so far if both have come to the end of theirs. */
        if (filter == filter_end)
            return topic == topic_end;
        if (*filter != '/')
            return false;
        if (topic == topic_end) /* the filter goes on: only "/#" takes in its parent */
            return filter_end - filter == 2 && filter[1] == '#';
        if (*topic != '/')
            return false;
        filter++;
        topic++;
    }
}
