/* What the tests of pools share: see engine-pooled.h. */
#include "tests/support/engine-pooled.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "tests/support/engine-expect.h"

int pooled_setup(void **state)
{
    static const struct rig_options usual = {.n_buffers = RIG_BUFFERS};

    return expect_setup_with(state, &usual);
}

int pooled_teardown(void **state)
{
    struct rig *r = *state;
    const char *fault = r->fault;

    for (uint32_t i = 0; i < RIG_POOLS && fault == NULL; i++)
        fault = r->pools[i] != NULL ? r->pools[i]->fault : NULL;
    if (fault != NULL)
        print_error("at the end: %s\n", fault);
    return expect_teardown(state) == 0 && fault == NULL ? 0 : -1;
}

struct wire_slot pooled_put(struct rig *r, uint16_t row, uint64_t payload)
{
    struct wire_slot slot;

    assert_true(segments_put(r->segments[row], payload, SEGMENTS_PLACE, &slot));
    return slot;
}

void pooled_publish(struct rig *r, uint16_t row, const char *topic, uint64_t payload)
{
    assert_true(rig_publish_pooled(r, row, 5, topic, payload));
}

void pooled_publish_with(struct rig *r, uint16_t row, const char *topic, uint16_t flags,
                         uint64_t expiry, const struct wire_slot *slot)
{
    rig_message(r, row,
                &(struct rig_message){.type = WIRE_PUBLISH,
                                      .priority = 5,
                                      .flags = flags,
                                      .number = flags & WIRE_F_CONFIRM ? 7 : 0,
                                      .expiry = expiry,
                                      .topic = topic,
                                      .slot = slot});
}

void pooled_request(struct rig *r, uint16_t row, const char *topic, uint64_t payload)
{
    struct wire_slot slot = pooled_put(r, row, payload);

    rig_message(r, row,
                &(struct rig_message){.type = WIRE_REQUEST,
                                      .priority = 5,
                                      .number = 3,
                                      .expiry = r->engine.now + RIG_SECOND,
                                      .topic = topic,
                                      .slot = &slot});
}

void pooled_reply(struct rig *r, uint16_t row, uint64_t name, uint64_t payload)
{
    struct wire_slot slot = pooled_put(r, row, payload);

    rig_message(
        r, row,
        &(struct rig_message){.type = WIRE_REPLY, .priority = 5, .number = name, .slot = &slot});
}

uint64_t pooled_expect(struct rig *r, uint16_t row, uint64_t payload)
{
    struct wire_frame f = expect_frame(r, row, WIRE_MESSAGE);

    assert_int_equal(f.flags & WIRE_F_POOLED, WIRE_F_POOLED);
    assert_int_equal(rig_payload(r, &f), payload);
    return f.slot.name;
}

void pooled_expect_places(struct rig *r, uint16_t row, uint32_t back, uint32_t out)
{
    rig_turn(r);
    assert_int_equal(rig_look(r, row), back);
    assert_int_equal(r->segments[row]->n_given, out);
    assert_int_equal(r->segments[row]->n_repeats, 0);
}

void pooled_block(struct rig *r, uint16_t row)
{
    while (rig_pump(r, row) != PUMP_BLOCKED)
        rig_publish(r, row, 5, "t", "filler");
}

void pooled_unblock(struct rig *r, uint16_t row)
{
    while (r->queues[row].n > 0)
        expect_message(r, row, "t", "filler");
    rig_turn(r);
    expect_message(r, row, "t", "filler");
}
