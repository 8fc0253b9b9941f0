/* Chance, pools, and the first thing that was wrong: what all parts of a death test share. */
#include "tests/support/death-scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/chance.h"

const uint8_t scene_priorities[SCENE_LEVELS] = {0, 8, 24, 31};
const char *const scene_topics[SCENE_TOPICS] = {"a/x", "a/y", "b"};

struct scene scene;
struct scene_toll scene_toll;

void scene_wrong(const char *format, ...)
{
    va_list arguments;

    if (scene.fault != NULL)
        return;
    va_start(arguments, format);
    vsnprintf(scene.fault_text, sizeof(scene.fault_text), format, arguments);
    va_end(arguments);
    scene.fault = scene.fault_text;
}

/* ---- Chance ---- */

static struct chance luck;

void scene_seed(uint64_t seed)
{
    luck = (struct chance){seed * UINT64_C(0x9e3779b97f4a7c15)};
}

uint64_t scene_chance(void)
{
    return chance_draw(&luck);
}

unsigned scene_below(unsigned n)
{
    return (unsigned)(scene_chance() % n);
}

/* ---- Who and what is there ---- */

struct scene_client *scene_client_of_row(uint16_t row)
{
    for (unsigned i = 0; i < SCENE_CLIENTS; i++) {
        const struct row *r = engine_row(&scene.engine, row);

        if (scene.clients[i].nonce == r->nonce && r->state != ROW_FREE)
            return &scene.clients[i];
    }
    return NULL;
}

uint64_t scene_pool_of(const struct scene_client *c)
{
    return c->nonce ^ UINT64_C(0xb001000000000000);
}

struct segments *scene_find_pool(uint64_t nonce)
{
    for (unsigned i = 0; i < SCENE_POOLS; i++) {
        if (scene.pools[i] != NULL && scene.pools[i]->nonce == nonce)
            return scene.pools[i];
    }
    return NULL;
}

void scene_remove_pool(uint64_t nonce)
{
    for (unsigned i = 0; i < SCENE_POOLS; i++) {
        if (scene.pools[i] != NULL && scene.pools[i]->nonce == nonce)
            scene.pools[i] = segments_free(scene.pools[i]);
    }
}

uint64_t scene_payload_at(const struct wire_slot *slot)
{
    struct segments *pool = scene_find_pool(slot->pool);
    uint64_t payload;

    if (pool == NULL) {
        scene_wrong("a message is in a pool that is gone");
        return 0;
    }
    payload = segments_payload(pool, slot);
    if (pool->fault != NULL)
        scene_wrong("%s", pool->fault);
    return payload;
}

void scene_look(struct segments *s)
{
    uint32_t before = s->n_repeats;

    scene_toll.back += segments_look(s);
    scene_toll.repeats += s->n_repeats - before;
    if (s->fault != NULL)
        scene_wrong("%s", s->fault);
}
