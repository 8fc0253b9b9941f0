/* The broker's side of a session under test, without a kernel and without a broker: it has a board
 * row, a pool and an outbox, makes batches, and has them arrive.
 *
 * It knows no rules: what it sends, and what it says of that on the board, is what the test says.
 */
#ifndef MQBROKER_TESTS_SUPPORT_PARTNER_H
#define MQBROKER_TESTS_SUPPORT_PARTNER_H

#include <stdint.h>

#include "libclient/board.h"
#include "libclient/outbox.h"
#include "libclient/pool.h"
#include "libclient/session.h"

enum {
    PARTNER_DEPTH = 4,
    PARTNER_WIDTH = 1280, /* bytes of a queue message: of the reply queue, … */
    PARTNER_NORMAL = 2048,
    PARTNER_URGENT = 1280,
    PARTNER_ID = 3,
};

#define PARTNER_NONCE  UINT64_C(0x1122334455667788)
#define PARTNER_WINDOW (UINT64_C(64) * WIRE_CELL_SIZE)

struct partner {
    struct session session; /* that is tested */
    struct board_row row;
    struct pool_header *pool;
    uint8_t *outbox;
    uint64_t number; /* of the last batch */
    uint64_t grant;
    /* The batch that is being made. */
    uint8_t bytes[PARTNER_WIDTH];
    uint32_t size;
};

/* Fixtures: *state is a partner whose session was welcomed. */
int partner_setup(void **state);
int partner_teardown(void **state);

/* A test with these fixtures, for the table of a program's tests. */
#define PARTNER_TEST(f) cmocka_unit_test_setup_teardown(f, partner_setup, partner_teardown)

/* Say on the board: the last batch at this kernel priority has this number, and so much waits (a
 * bit for each priority). */
void partner_announce(struct partner *p, unsigned level, uint64_t number, uint32_t waiting);

/* ---- Batches: begin, add frames, have it arrive ---- */

void partner_begin(struct partner *p);
void partner_add_message(struct partner *p, uint8_t priority, uint16_t flags, uint64_t number,
                         uint64_t expiry, const char *topic, const char *payload);
void partner_add_answer(struct partner *p, uint8_t code, uint32_t number, uint32_t count);

/* What the kernel would do: hand the bytes over at a kernel priority, under the next number or
 * another. What session_arrive() says to it. */
int partner_arrive(struct partner *p, unsigned level);
int partner_arrive_as(struct partner *p, unsigned level, uint64_t number);

/* A batch with one message on "t", which must be taken. */
void partner_arrive_message(struct partner *p, uint8_t priority, const char *payload);

/* The WELCOME of a session. */
void partner_welcome(struct partner *p, uint64_t nonce, uint16_t id);

/* ---- The reader ---- */

/* What it reads next must be this. */
void partner_expect(struct partner *p, const char *payload);

#endif
