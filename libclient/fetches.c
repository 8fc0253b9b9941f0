/* Payloads that are fetched. A name is never used for two deliveries, so an answer that comes late,
 * or twice, finds nothing or changes nothing. */
#include "libclient/fetches.h"

struct fetch *fetches_at(struct fetches *f, unsigned place, uint64_t name)
{
    struct fetch *fetch = &f->places[place];

    if (fetch->name != name)
        *fetch = (struct fetch){.name = name};
    return fetch;
}

bool fetches_answer(struct fetches *f, const struct wire_frame *lent)
{
    for (unsigned i = 0; i < FETCHES_PLACES; i++) {
        struct fetch *fetch = &f->places[i];

        if (fetch->state != FETCH_ASKED || fetch->name != lent->number)
            continue;
        fetch->state = lent->code == WIRE_C_OK ? FETCH_LENT : FETCH_LOST;
        fetch->offset = lent->lent_offset;
        fetch->size = lent->lent_size;
        return true;
    }
    return false;
}
