/* Jobs: what clients publish on "job/#", the broker confirms, and a member of the group "g" is
 * given to do.
 *
 * All functions fail the test when something goes wrong. */
#ifndef MQBROKER_TESTS_SUPPORT_JOB_H
#define MQBROKER_TESTS_SUPPORT_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "libclient/mqclient.h"
#include "tests/support/daemon.h"

/* A handle of this name (or NULL) that has joined the group with these options (or NULL). */
struct mqc *job_member(const struct daemon *d, const char *name,
                       const struct mqc_group_options *options);

/* The same, and the group is durable; 0 is the usual prefetch. Or make the group, with nobody in
 * it. */
struct mqc *job_durable_member(const struct daemon *d, const char *name, unsigned prefetch);
void job_make_durable(const struct daemon *d);

/* Publish, a confirm wanted: the number that the confirm will have. */
int64_t job_offer(struct mqc *client, const struct mqc_publication *p);

/* Publish and wait for the confirm: 0, or why it was refused. */
int job_try(struct mqc *client, const struct mqc_publication *p);

/* Publish on "job/it" at the usual priority, and return when the broker has taken it. */
void job_publish(struct mqc *client, const char *payload);

/* The next message is this job, for the how manieth time; freed, but not decided about: it still
 * serves for mqc_ack and its like. */
struct mqc_message job_expect(struct mqc *client, const char *payload, unsigned attempt);

/* The same, and it is done: the acknowledgement has been sent. */
void job_expect_and_ack(struct mqc *client, const char *payload, unsigned attempt);

/* ---- Stamped ones (stamp.h), of all sizes, on "job/stamped" ---- */

enum {
    JOB_STAMPED = 120, /* at most, at once */
    JOB_PRIORITIES = 4,
    JOB_LARGE = 300000, /* bytes of the largest: it fits no queue message */
};

/* Publish those with the numbers from `from` on, which have all priorities in turn, and return when
 * the broker has taken them. */
void job_publish_stamped(struct mqc *client, uint32_t from, uint32_t n);

/* The next one of any group, which must be as it was made, and is acknowledged: its number. */
uint32_t job_receive_stamped(struct mqc *client);

/* All from 0 to n come, by priority, then age; and nothing else does. `skip` (or NULL): these came
 * before. */
void job_expect_stamped(struct mqc *client, uint32_t n, const bool *skip);

#endif
