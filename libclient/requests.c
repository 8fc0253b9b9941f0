/* What this client has asked and not been answered.
 *
 * Two lists run through one table: the free places, and the failed requests that the user has not
 * been told of. Deadlines are not sorted: the broker answers what times out, and this table only
 * stands in for a broker that was killed, so it is enough to know a time before which nothing is
 * due, and to look through the table when that has come. */
#include "libclient/requests.h"

#include <assert.h>
#include <string.h>

#include "libclient/wire.h"

enum { NONE = REQUESTS_PLACES };

void requests_init(struct requests *r)
{
    memset(r, 0, sizeof(*r));
    for (uint32_t i = 0; i < REQUESTS_MAX; i++)
        r->places[i].next = (uint16_t)(i + 1 < REQUESTS_MAX ? i + 1 : NONE);
    r->free = 0;
    r->failed_first = NONE;
    r->failed_last = NONE;
    r->earliest = REQUESTS_NEVER;
}

/* The next generation of a place's number. */
static uint32_t renew(struct requests *r, uint32_t place)
{
    uint32_t old = r->places[place].number & ~REQUESTS_BIT;
    uint32_t generation = (old >> REQUESTS_PLACE_BITS) + 1;

    return REQUESTS_BIT | ((generation << REQUESTS_PLACE_BITS) & ~REQUESTS_BIT) | place;
}

uint32_t requests_open(struct requests *r, uint64_t deadline, unsigned priority)
{
    uint16_t place = r->free;
    struct request *request;

    if (place == NONE)
        return 0;
    request = &r->places[place];
    r->free = request->next;
    request->number = renew(r, place);
    request->state = REQUEST_OPEN;
    request->code = WIRE_C_OK;
    request->priority = (uint8_t)priority;
    request->wants_reply = true;
    request->deadline = deadline;
    if (deadline < r->earliest)
        r->earliest = deadline;
    r->n_open++;
    return request->number;
}

uint32_t requests_open_call(struct requests *r, bool wants_reply)
{
    struct request *call = requests_call(r);

    call->number = renew(r, REQUESTS_CALL);
    call->state = REQUEST_OPEN;
    call->code = WIRE_C_OK;
    call->wants_reply = wants_reply;
    call->count = 0;
    return call->number;
}

struct request *requests_find(struct requests *r, uint32_t number)
{
    uint32_t place = number & ((UINT32_C(1) << REQUESTS_PLACE_BITS) - 1);
    struct request *request;

    if (place >= REQUESTS_PLACES)
        return NULL;
    request = &r->places[place];
    return request->state == REQUEST_OPEN && request->number == number ? request : NULL;
}

static void make_free(struct requests *r, struct request *request)
{
    request->state = REQUEST_FREE;
    request->next = r->free;
    r->free = (uint16_t)(request - r->places);
}

void requests_close(struct requests *r, struct request *request)
{
    assert(request->state != REQUEST_FAILED);
    if (request == requests_call(r)) {
        request->state = REQUEST_FREE;
        return;
    }
    assert(request->state == REQUEST_OPEN);
    r->n_open--;
    make_free(r, request);
}

void requests_fail(struct requests *r, struct request *request, uint8_t code)
{
    uint16_t place = (uint16_t)(request - r->places);

    assert(request->state == REQUEST_OPEN);
    request->code = code;
    if (request == requests_call(r)) {
        request->state = REQUEST_DONE;
        return;
    }
    request->state = REQUEST_FAILED;
    request->next = NONE;
    r->n_open--;
    if (r->failed_last != NONE)
        r->places[r->failed_last].next = place;
    else
        r->failed_first = place;
    r->failed_last = place;
}

bool requests_answer(struct requests *r, uint32_t first, uint32_t count, uint8_t code)
{
    struct request *call = requests_call(r);
    bool some = false;

    if (call->state == REQUEST_OPEN && call->number == first && !call->wants_reply) {
        call->count = count;
        requests_fail(r, call, code);
        return true;
    }
    if (count > REQUESTS_PLACES)
        count = REQUESTS_PLACES;
    for (uint32_t i = 0; i < count; i++) {
        struct request *request = requests_find(r, first + i);

        if (request == NULL)
            continue;
        some = true;
        if (code != WIRE_C_OK || !request->wants_reply)
            requests_fail(r, request, code);
    }
    return some;
}

bool requests_next_failed(struct requests *r, struct request *out)
{
    struct request *request;

    if (!requests_have_failed(r))
        return false;
    request = &r->places[r->failed_first];
    *out = *request;
    r->failed_first = request->next;
    if (r->failed_first == NONE)
        r->failed_last = NONE;
    make_free(r, request);
    return true;
}

bool requests_expire(struct requests *r, uint64_t now)
{
    bool some = false;

    if (now < r->earliest)
        return false;
    r->earliest = REQUESTS_NEVER;
    for (uint32_t i = 0; i < REQUESTS_MAX; i++) {
        struct request *request = &r->places[i];

        if (request->state != REQUEST_OPEN)
            continue;
        if (request->deadline <= now) {
            requests_fail(r, request, WIRE_C_TIMEOUT);
            some = true;
        } else if (request->deadline < r->earliest) {
            r->earliest = request->deadline;
        }
    }
    return some;
}
