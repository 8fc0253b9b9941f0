/* Stamped payloads. The pattern is a row of words that begins somewhere else for each stamp; the
 * bytes behind the last whole word are its own, too. */
#include "tests/support/stamp.h"

#include <string.h>

enum { WORD = sizeof(uint64_t) };

#define STEP UINT64_C(0x9e3779b97f4a7c15)

static uint64_t first_word(const struct stamp *s)
{
    return ((uint64_t)s->publisher << 40 ^ (uint64_t)s->stream << 32 ^ s->number) * STEP ^ s->size;
}

void stamp_fill(void *payload, const struct stamp *stamp)
{
    uint8_t *at = payload;
    uint8_t *end = at + stamp->size;
    uint64_t word = first_word(stamp);

    memcpy(at, stamp, sizeof(*stamp));
    for (at += sizeof(*stamp); (size_t)(end - at) >= WORD; at += WORD, word += STEP)
        memcpy(at, &word, WORD);
    memcpy(at, &word, (size_t)(end - at));
}

bool stamp_read(const void *payload, size_t size, struct stamp *stamp)
{
    const uint8_t *at = payload;
    const uint8_t *end = at + size;
    uint64_t differs = 0;
    uint64_t word;

    if (size < sizeof(*stamp))
        return false;
    memcpy(stamp, payload, sizeof(*stamp));
    if (stamp->size != size)
        return false;
    word = first_word(stamp);
    for (at += sizeof(*stamp); (size_t)(end - at) >= WORD; at += WORD, word += STEP) {
        uint64_t there;

        memcpy(&there, at, WORD);
        differs |= there ^ word;
    }
    return differs == 0 && memcmp(at, &word, (size_t)(end - at)) == 0;
}

uint32_t stamp_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

uint32_t stamp_size(uint32_t *state, uint32_t most)
{
    uint32_t bits = 32 - (uint32_t)__builtin_clz(most);
    uint32_t size = stamp_random(state) >> (32 - 1 - stamp_random(state) % bits);
    const uint32_t least = sizeof(struct stamp);

    return size < least ? least : size > most ? most : size;
}
