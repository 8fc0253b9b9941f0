/* A simulated handle: what mqc_open() gives, and the calls on it, with the library's protocol
 * engine (libclient/session.h and what it stands on) and the simulated kernel.
 *
 * What libclient/client*.c does with system calls is done here in the same order: the look at the
 * board before each sleep, the reading while it waits for room, what it says before it lies down.
 * What arrives and what is handed out is told to the model (sim-model.h), which judges it; whether
 * the highest priority came first (P1) is seen here, at the moment of handing out.
 *
 * A deadline is a moment of the simulated clock, 0: it does not wait, or TASK_FOREVER. Calls are
 * for a task whose context is the handle; they return 0 or -errno, -ECONNRESET when the session is
 * over, and those without a result tell of it with world_tell(). */
#ifndef MQBROKER_TESTS_SUPPORT_SIM_HANDLE_H
#define MQBROKER_TESTS_SUPPORT_SIM_HANDLE_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/acks.h"
#include "libclient/session.h"
#include "libclient/slots.h"

struct handle {
    uint32_t number;  /* of its client: 0 … SCRIPT_CLIENTS - 1 */
    uint32_t session; /* of the model, and of the kernel's estates */
    struct session core;
    struct slots slots;
    uint64_t returned; /* places of its pool, so far */
    bool settling;     /* acknowledgements are on their way */
    uint32_t serves;   /* the queue that its sleep is for; 0: the ordinary one */
};

/* A message that was handed out. */
struct handle_message {
    struct inbox_batch *batch; /* NULL: it is none, but a request came to nothing */
    const uint8_t *payload;
    uint32_t size;
    uint32_t id;
    uint64_t name;     /* of a payload in a pool; 0: it came in its frame */
    uint64_t owed;     /* name of a delivery that a group waits to hear of; 0: it is none */
    uint64_t question; /* name of a request that may still be answered; 0: it is none */
    uint8_t priority;
};

/* Its memory, for a session that is there; `number` is the caller's to set. */
void handle_init(struct handle *h, uint32_t session);
void handle_deinit(struct handle *h);

/* Register, and make a pool. False: it was refused, or its session ended. */
bool handle_open(struct handle *h);

/* Send what has gathered, and a goodbye. */
void handle_close(struct handle *h);

/* Publish a message of this id; 0: an empty one. Its payload is made here, in the pool if it is to
 * be `pooled` or is large. */
int handle_publish(struct handle *h, struct session_message *m, uint32_t id, bool pooled,
                   uint64_t deadline);

/* The same for a request, that has until its expiry; -ENOSPC: too many are open. */
int handle_request(struct handle *h, struct session_message *m, uint32_t id, bool pooled,
                   bool wait);

/* Gather what is published from now on, or not any more. */
int handle_set_batching(struct handle *h, bool on);

/* Send what has gathered, and what was decided. */
int handle_flush(struct handle *h, uint64_t deadline);

/* Receive a message, or hear that a request came to nothing: one that is there already, or -EAGAIN;
 * or one that comes in time, or -ETIMEDOUT. */
int handle_look(struct handle *h, struct handle_message *message);
int handle_receive(struct handle *h, struct handle_message *message, uint64_t deadline);

/* Its payload is not read any more. */
void handle_give_back(struct handle *h, const struct handle_message *message);

/* What is to become of a message of a group. */
int handle_decide(struct handle *h, struct handle_message *message, enum acks_decision decision,
                  uint32_t delay_ms);

/* Calls that are answered. `type` is WIRE_SUBSCRIBE or WIRE_UNSUBSCRIBE. */
void handle_subscription(struct handle *h, uint8_t type, const char *filter);
void handle_join(struct handle *h, const char *group, const char *filter, uint16_t prefetch);
void handle_leave(struct handle *h, const char *group);
void handle_will(struct handle *h, struct session_message *m, uint32_t id);

/* Wait for the confirm of what was published last. */
void handle_await_confirm(struct handle *h, uint64_t deadline);

/* What a task sleeps on that waits for the broker and for nothing else. */
bool handle_has_mail(const void *context);

/* Places of its pool that it has given out and that have not come back. */
uint32_t handle_places_out(struct handle *h);

#endif
