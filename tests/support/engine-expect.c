/* See engine-expect.h. */
#include "tests/support/engine-expect.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/support/engine-check.h"

int expect_setup_with(void **state, const struct rig_options *options)
{
    struct rig *r = calloc(1, sizeof(*r));

    *state = r;
    return r == NULL ? -1 : rig_init(r, options);
}

int expect_setup(void **state)
{
    return expect_setup_with(state, NULL);
}

int expect_teardown(void **state)
{
    struct rig *r = *state;
    const char *fault;

    engine_show(&r->engine); /* looks at quotas and room, as at the end of a turn */
    fault = engine_fault(&r->engine);
    if (fault != NULL)
        print_error("at the end: %s\n", fault);
    rig_deinit(r);
    free(r);
    return fault == NULL ? 0 : -1;
}

void expect_sound(struct rig *r)
{
    const char *fault;

    engine_show(&r->engine);
    fault = engine_fault(&r->engine);
    if (fault != NULL)
        fail_msg("%s", fault);
}

uint16_t expect_session(struct rig *r, const char *name)
{
    int row = rig_session(r, name);

    assert_true(row >= 0);
    return (uint16_t)row;
}

void expect_subscribed(struct rig *r, uint16_t row, const char *filter)
{
    rig_subscribe(r, row, filter);
    rig_turn(r);
    expect_answer(r, row, WIRE_C_OK, 0, 1);
}

uint16_t expect_subscriber(struct rig *r, const char *name, const char *filter)
{
    uint16_t row = expect_session(r, name);

    expect_subscribed(r, row, filter);
    return row;
}

struct wire_frame expect_frame(struct rig *r, uint16_t row, uint8_t type)
{
    struct wire_frame f;

    if (!rig_read(r, row, &f))
        fail_msg("row %u has nothing to read; a frame of type %u was expected", row, type);
    assert_int_equal(f.type, type);
    return f;
}

void expect_message(struct rig *r, uint16_t row, const char *topic, const char *payload)
{
    struct wire_frame f = expect_frame(r, row, WIRE_MESSAGE);

    assert_string_equal(f.text, topic);
    assert_int_equal(f.payload_size, strlen(payload));
    assert_memory_equal(f.payload, payload, strlen(payload));
}

void expect_large(struct rig *r, uint16_t row, uint8_t priority, const char *payload)
{
    struct wire_frame f = expect_frame(r, row, WIRE_MESSAGE);

    assert_int_equal(f.priority, priority);
    assert_string_equal((const char *)f.payload, payload);
}

void expect_answer(struct rig *r, uint16_t row, uint8_t code, uint32_t number, uint32_t count)
{
    struct wire_frame f = expect_frame(r, row, WIRE_ANSWER);

    assert_int_equal(f.code, code);
    assert_int_equal(f.number, number);
    assert_int_equal(f.count, count);
}

uint64_t expect_number(const struct rig *r, uint16_t row, uint32_t i)
{
    struct wire_batch b;
    const struct rig_batch *batch = &r->queues[row].batches[i];

    assert_int_equal(wire_get_batch(batch->bytes, batch->size, &b), WIRE_OK);
    assert_int_equal(b.level, batch->level);
    assert_int_equal(b.session, row);
    return b.number;
}

struct pump_batch expect_intent(struct rig *r, uint16_t row)
{
    struct pump_batch batch;

    pump_room(&r->engine, row, RIG_DEPTH);
    assert_int_equal(pump_next(&r->engine, row, &batch), PUMP_BATCH);
    assert_true(row_in_doubt(engine_row(&r->engine, row)));
    return batch;
}

void expect_nothing(struct rig *r, uint16_t row)
{
    struct wire_frame f;

    if (rig_read(r, row, &f))
        fail_msg("row %u reads a frame of type %u; nothing was expected", row, f.type);
}
