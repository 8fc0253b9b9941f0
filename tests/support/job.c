/* The calls of the library that a job takes from its publisher to the member that does it. */
#include "tests/support/job.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/must.h"
#include "tests/support/patience.h"

struct mqc *job_member(const struct daemon *d, const char *name,
                       const struct mqc_group_options *options)
{
    struct mqc *client = daemon_open(d, name, 0);

    must(mqc_join(client, "g", "job/#", options));
    return client;
}

int64_t job_offer(struct mqc *client, const struct mqc_publication *p)
{
    struct mqc_publication confirmed = *p;
    int64_t number;

    confirmed.flags |= MQC_CONFIRM;
    number = mqc_publish_with(client, &confirmed);
    must(number);
    return number;
}

int job_try(struct mqc *client, const struct mqc_publication *p)
{
    return mqc_confirm_wait(client, job_offer(client, p), PATIENCE_MS);
}

void job_publish(struct mqc *client, const char *payload)
{
    must(job_try(client, &(struct mqc_publication){.topic = "job/it",
                                                   .payload = payload,
                                                   .size = strlen(payload),
                                                   .priority = 8}));
}

struct mqc_message job_expect(struct mqc *client, const char *payload, unsigned attempt)
{
    struct mqc_message m = must_receive(client);

    must_say(&m, payload);
    assert_int_equal(m.acknowledge, 1);
    assert_int_equal(m.attempt, attempt);
    mqc_message_free(&m);
    return m;
}

void job_expect_and_ack(struct mqc *client, const char *payload, unsigned attempt)
{
    struct mqc_message m = job_expect(client, payload, attempt);

    must(mqc_ack(client, &m));
    must(mqc_flush(client));
}
