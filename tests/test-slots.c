/* libclient/slots: places in a pool, against an obvious model of the pool: an array with one owner
 * for each unit. */
#include "libclient/slots.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <errno.h>

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)
#define GIB (KIB * MIB)

static const uint64_t begin = POOL_PAYLOADS;

static struct slots_place take(struct slots *s, uint64_t size)
{
    struct slots_place place;

    assert_int_equal(slots_take(s, size, &place), 0);
    assert_int_equal(place.offset % WIRE_SLOT_UNIT, 0);
    assert_true(place.size >= size && place.offset >= begin);
    return place;
}

static int refusal(struct slots *s, uint64_t size)
{
    struct slots_place place;

    return slots_take(s, size, &place);
}

static void give(struct slots *s, const struct slots_place *place)
{
    assert_true(slots_give(s, place->offset, place->generation));
}

static void the_newest_one_that_came_back_goes_out_first(void **state)
{
    struct slots s;
    struct slots_place a, b, c;

    (void)state;
    slots_init(&s, begin, 16 * MIB);
    a = take(&s, 1000);
    b = take(&s, 1000);
    c = take(&s, 1000);
    assert_false(slots_at_hand(&s, 1000));
    give(&s, &c);
    give(&s, &a);
    give(&s, &b);
    assert_true(slots_at_hand(&s, 1000));
    assert_int_equal(take(&s, 1000).offset, b.offset);
    assert_int_equal(take(&s, 1000).offset, a.offset);
    assert_int_equal(take(&s, 1000).offset, c.offset);
    assert_false(slots_at_hand(&s, 1000));
    slots_deinit(&s);
}

static void other_sizes_do_not_disturb_it(void **state)
{
    struct slots s;
    struct slots_place large, small, fresh;

    (void)state;
    slots_init(&s, begin, 16 * MIB);
    large = take(&s, MIB);
    give(&s, &large);
    small = take(&s, KIB); /* is not cut out of the large one */
    fresh = take(&s, MIB);
    assert_int_equal(fresh.offset, large.offset);
    assert_true(small.offset >= large.offset + large.size);
    slots_deinit(&s);
}

static void a_large_one_takes_what_it_needs(void **state)
{
    struct slots s;
    struct slots_place place;

    (void)state;
    slots_init(&s, begin, begin + 65 * MIB);
    place = take(&s, 65 * MIB);
    assert_int_equal(place.size, 65 * MIB);
    give(&s, &place);
    assert_int_equal(take(&s, 65 * MIB - 1).offset, place.offset);
    slots_deinit(&s);
}

/* However sizes vary within a class, an eighth at most is wasted. */
static void little_is_wasted(void **state)
{
    (void)state;
    for (uint64_t size = 1; size < 64 * MIB; size += size / 7 + 1) {
        struct slots s;
        struct slots_place place;

        slots_init(&s, begin, 256 * MIB);
        for (uint64_t other = size; other < size + size / 2; other += size / 16 + 1) {
            place = take(&s, other);
            give(&s, &place);
            place = take(&s, size);
            assert_true(place.size < size + size / 8 + WIRE_SLOT_UNIT);
            give(&s, &place);
        }
        slots_deinit(&s);
    }
}

static void free_neighbours_become_one_when_they_are_needed(void **state)
{
    struct slots s;
    struct slots_place places[16];

    (void)state;
    slots_init(&s, begin, begin + 16 * KIB);
    for (int i = 0; i < 16; i++)
        places[i] = take(&s, KIB);
    assert_int_equal(refusal(&s, 64), -ENOSPC);
    for (int i = 0; i < 16; i += 2)
        give(&s, &places[i]);
    assert_int_equal(refusal(&s, 2 * KIB), -ENOSPC); /* none of them are neighbours */
    give(&s, &places[5]);
    assert_int_equal(take(&s, 3 * KIB).offset, places[4].offset);
    slots_deinit(&s);
}

static void what_is_cut_off_can_be_used(void **state)
{
    struct slots s;
    struct slots_place place, kept;

    (void)state;
    slots_init(&s, begin, begin + 2 * MIB);
    place = take(&s, MIB);
    kept = take(&s, MIB);
    give(&s, &place);
    for (int i = 0; i < 1024; i++)
        take(&s, KIB);
    assert_int_equal(refusal(&s, 1), -ENOSPC);
    give(&s, &kept);
    slots_deinit(&s);
}

static void growing_makes_room_at_the_end(void **state)
{
    struct slots s;
    uint64_t wanted;

    (void)state;
    slots_init(&s, begin, begin);
    assert_int_equal(refusal(&s, 100), -ENOSPC);
    wanted = slots_end_wanted(&s, 100);
    assert_int_equal(wanted, begin + 128);
    slots_grow(&s, wanted);
    assert_int_equal(take(&s, 100).offset, begin);
    assert_int_equal(refusal(&s, UINT64_MAX), -ENOSPC);
    slots_deinit(&s);
}

/* Else who has everything back would wait for ever for something larger than it ever had. */
static void what_has_come_back_counts_when_it_is_to_grow(void **state)
{
    struct slots s;
    struct slots_place first, second;

    (void)state;
    slots_init(&s, begin, begin + 8 * KIB);
    first = take(&s, 4 * KIB);
    second = take(&s, 4 * KIB);
    give(&s, &first);
    give(&s, &second);
    assert_int_equal(refusal(&s, 64 * KIB), -ENOSPC);
    assert_int_equal(slots_end_wanted(&s, 64 * KIB), begin + 64 * KIB);
    slots_deinit(&s);
}

static void S7_a_place_comes_back_once_and_under_its_generation(void **state)
{
    struct slots s;
    struct slots_place place, again;

    (void)state;
    slots_init(&s, begin, MIB);
    place = take(&s, 500);
    assert_false(slots_give(&s, place.offset, place.generation + 1));
    assert_false(slots_give(&s, place.offset + 64, place.generation));
    assert_int_equal(s.n_given, 1);
    give(&s, &place);
    assert_false(slots_give(&s, place.offset, place.generation));
    again = take(&s, 500);
    assert_int_equal(again.offset, place.offset);
    assert_false(slots_give(&s, place.offset, place.generation));
    assert_int_equal(s.n_given, 1);
    give(&s, &again);
    slots_deinit(&s);
}

static void so_many_are_given_out_at_once(void **state)
{
    struct slots s;
    struct slots_place place;

    (void)state;
    slots_init(&s, begin, 16 * MIB);
    for (int i = 0; i < POOL_SLOTS; i++)
        place = take(&s, 600);
    assert_int_equal(refusal(&s, 600), -EBUSY);
    give(&s, &place);
    take(&s, 600);
    slots_deinit(&s);
}

static void what_is_given_out_can_be_found_and_tagged(void **state)
{
    struct slots s;
    struct slots_place place, found;

    (void)state;
    slots_init(&s, begin, MIB);
    place = take(&s, 500);
    assert_true(slots_find(&s, place.offset, &found));
    assert_memory_equal(&found, &place, sizeof(place));
    slots_tag(&s, place.offset, 7);
    assert_true(slots_find(&s, place.offset, &found));
    assert_int_equal(found.tag, 7);
    assert_false(slots_find(&s, place.offset + 1, &found));
    assert_false(slots_find(&s, place.offset + 64, &found));
    give(&s, &place);
    assert_false(slots_find(&s, place.offset, &found));
    assert_int_equal(take(&s, 500).tag, 0);
    slots_deinit(&s);
}

/* ---- Against the model ---- */

enum { UNITS = 4096, STEPS = 20000, MOST = 300 };

struct model {
    struct slots slots;
    uint32_t end; /* units there are */
    uint8_t owned[UNITS];
    struct slots_place out[MOST];
    unsigned n_out;
};

static void mark(struct model *m, const struct slots_place *place, uint8_t from, uint8_t to)
{
    uint64_t first = (place->offset - begin) / WIRE_SLOT_UNIT;
    uint64_t n = place->size / WIRE_SLOT_UNIT;

    assert_true(first + n <= m->end);
    for (uint64_t i = first; i < first + n; i++) {
        assert_int_equal(m->owned[i], from);
        m->owned[i] = to;
    }
}

/* The longest run that nobody has. */
static uint32_t longest_run(const struct model *m)
{
    uint32_t run = 0, longest = 0;

    for (uint32_t i = 0; i < m->end; i++) {
        run = m->owned[i] ? 0 : run + 1;
        if (run > longest)
            longest = run;
    }
    return longest;
}

static uint64_t some_size(void)
{
    switch (rand() % 4) {
    case 0:
        return 1 + (uint64_t)rand() % 64;
    case 1:
        return 1000;
    case 2:
        return 1 + (uint64_t)rand() % 8000;
    default:
        return 1 + (uint64_t)rand() % (UNITS * WIRE_SLOT_UNIT / 8);
    }
}

static void take_some(struct model *m)
{
    uint64_t size = some_size();
    struct slots_place *place = &m->out[m->n_out];
    int r;

    if (m->n_out == MOST)
        return;
    r = slots_take(&m->slots, size, place);
    if (r == 0) {
        assert_true(place->size >= size);
        mark(m, place, 0, 1);
        m->n_out++;
        return;
    }
    assert_int_equal(r, -ENOSPC);
    assert_true(longest_run(m) < (size + WIRE_SLOT_UNIT - 1) / WIRE_SLOT_UNIT);
}

static void give_some(struct model *m)
{
    unsigned i;

    if (m->n_out == 0)
        return;
    i = (unsigned)rand() % m->n_out;
    give(&m->slots, &m->out[i]);
    mark(m, &m->out[i], 1, 0);
    m->out[i] = m->out[--m->n_out];
}

static void nothing_overlaps_and_nothing_is_lost(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 20; seed++) {
        struct model m = {.end = UNITS / 4};
        struct slots_place all;

        srand(seed);
        slots_init(&m.slots, begin, begin + m.end * WIRE_SLOT_UNIT);
        for (int i = 0; i < STEPS; i++) {
            unsigned what = (unsigned)rand() % 100;

            if (what == 0 && m.end < UNITS)
                slots_grow(&m.slots, begin + (m.end += 16) * (uint64_t)WIRE_SLOT_UNIT);
            else if (what < (i / 1000 % 2 ? 40 : 60)) /* fills up and empties in turns */
                take_some(&m);
            else
                give_some(&m);
            assert_int_equal(m.slots.n_given, m.n_out);
        }
        while (m.n_out > 0)
            give_some(&m);
        all = take(&m.slots, m.end * (uint64_t)WIRE_SLOT_UNIT);
        assert_int_equal(all.offset, begin);
        slots_deinit(&m.slots);
    }
}

static void a_range_of_gigabytes(void **state)
{
    struct slots s;
    struct slots_place a, b;

    (void)state;
    slots_init(&s, begin, 64 * GIB);
    a = take(&s, 4 * GIB - 1);
    b = take(&s, 50 * GIB);
    assert_int_equal(b.offset, a.offset + 4 * GIB);
    give(&s, &a);
    give(&s, &b);
    take(&s, 60 * GIB);
    slots_deinit(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_one_that_came_back_goes_out_first),
        cmocka_unit_test(other_sizes_do_not_disturb_it),
        cmocka_unit_test(a_large_one_takes_what_it_needs),
        cmocka_unit_test(little_is_wasted),
        cmocka_unit_test(free_neighbours_become_one_when_they_are_needed),
        cmocka_unit_test(what_is_cut_off_can_be_used),
        cmocka_unit_test(growing_makes_room_at_the_end),
        cmocka_unit_test(what_has_come_back_counts_when_it_is_to_grow),
        cmocka_unit_test(S7_a_place_comes_back_once_and_under_its_generation),
        cmocka_unit_test(so_many_are_given_out_at_once),
        cmocka_unit_test(what_is_given_out_can_be_found_and_tagged),
        cmocka_unit_test(nothing_overlaps_and_nothing_is_lost),
        cmocka_unit_test(a_range_of_gigabytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
