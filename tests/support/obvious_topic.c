/* The models of tests/support/obvious_topic.h. */
#include "tests/support/obvious_topic.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

struct levels {
    int n;
    struct {
        const char *at;
        size_t size;
    } level[256];
};

static void cut(struct levels *levels, const char *text, size_t size)
{
    assert(size <= 255);
    levels->n = 1;
    levels->level[0].at = text;
    levels->level[0].size = 0;
    for (size_t i = 0; i < size; i++) {
        if (text[i] != '/') {
            levels->level[levels->n - 1].size++;
            continue;
        }
        levels->level[levels->n].at = text + i + 1;
        levels->level[levels->n].size = 0;
        levels->n++;
    }
}

static bool is(const struct levels *levels, int i, const char *text)
{
    return levels->level[i].size == strlen(text) &&
           memcmp(levels->level[i].at, text, strlen(text)) == 0;
}

static bool match_from(const struct levels *filter, int f, const struct levels *topic, int t)
{
    if (f == filter->n)
        return t == topic->n;
    if (is(filter, f, "#"))
        return true; /* any number of levels, also none: the parent */
    if (t == topic->n)
        return false;
    if (!is(filter, f, "+") &&
        (filter->level[f].size != topic->level[t].size ||
         memcmp(filter->level[f].at, topic->level[t].at, topic->level[t].size) != 0))
        return false;
    return match_from(filter, f + 1, topic, t + 1);
}

bool obvious_topic_match(const char *filter, size_t filter_size, const char *topic,
                         size_t topic_size)
{
    struct levels f;
    struct levels t;

    cut(&f, filter, filter_size);
    cut(&t, topic, topic_size);
    if ((is(&f, 0, "+") || is(&f, 0, "#")) && topic_size != 0 &&
        (topic[0] == '$' || topic[0] == '@'))
        return false;
    return match_from(&f, 0, &t, 0);
}

/* The number of the character of `n` bytes at `s`, if its bytes have the right form; else 0. */
static uint32_t decode(const uint8_t *s, size_t n)
{
    static const uint8_t lead_bits[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t number = s[0] & lead_bits[n];

    for (size_t i = 1; i < n; i++) {
        if (s[i] >> 6 != 2)
            return 0;
        number = number << 6 | (s[i] & 0x3fu);
    }
    return number;
}

static size_t encoded_size(uint32_t number)
{
    if (number < 0x80)
        return 1;
    if (number < 0x800)
        return 2;
    return number < 0x10000 ? 3 : 4;
}

bool obvious_utf8(const char *text, size_t size)
{
    const uint8_t *s = (const uint8_t *)text;

    for (size_t i = 0, n; i < size; i += n) {
        uint32_t number;

        if (s[i] >> 7 == 0)
            n = 1;
        else if (s[i] >> 5 == 6)
            n = 2;
        else if (s[i] >> 4 == 14)
            n = 3;
        else if (s[i] >> 3 == 30)
            n = 4;
        else
            return false;
        if (n > size - i)
            return false;
        number = decode(s + i, n);
        if (number == 0 || number > 0x10ffff || (number >= 0xd800 && number <= 0xdfff) ||
            encoded_size(number) != n)
            return false;
    }
    return true;
}
