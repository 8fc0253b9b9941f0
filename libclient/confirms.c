/* What became of publishes with confirm: a ring of the newest outcomes.
 *
 * Answers of different priorities overtake each other, so a count of answers would not do: each
 * number has its own place. A place is not used again before it is answered, which bounds what a
 * publisher can have unanswered. */
#include "libclient/confirms.h"

#include <string.h>

void confirms_init(struct confirms *c)
{
    memset(c, 0, sizeof(*c));
    c->next = 1;
}

bool confirms_room(const struct confirms *c)
{
    return c->outcomes[c->next % CONFIRMS_KEPT] != CONFIRMS_WAITING;
}

uint64_t confirms_take(struct confirms *c)
{
    uint64_t number = c->next++;

    c->outcomes[number % CONFIRMS_KEPT] = CONFIRMS_WAITING;
    if (confirms_wire(c->next) == 0) {
        /* 0 means "no number" on the wire: leave this one out. */
        c->outcomes[c->next % CONFIRMS_KEPT] = CONFIRMS_UNKNOWN;
        c->next++;
    }
    return number;
}

static uint64_t oldest(const struct confirms *c)
{
    return c->next > CONFIRMS_KEPT ? c->next - CONFIRMS_KEPT : 1;
}

void confirms_answer(struct confirms *c, uint32_t first, uint32_t count, uint8_t code)
{
    uint64_t back = (c->next - first) & CONFIRMS_WIRE_MASK; /* so many before the next one */
    uint64_t number, end;

    if (back == 0 || back > c->next)
        return;
    number = c->next - back;
    end = count < back ? number + count : c->next;
    if (number < oldest(c))
        number = oldest(c);
    for (; number < end; number++) {
        uint16_t *outcome = &c->outcomes[number % CONFIRMS_KEPT];

        if (*outcome == CONFIRMS_WAITING)
            *outcome = code;
    }
}

int confirms_look(const struct confirms *c, uint64_t number)
{
    if (number < oldest(c) || number >= c->next)
        return CONFIRMS_UNKNOWN;
    return c->outcomes[number % CONFIRMS_KEPT];
}
