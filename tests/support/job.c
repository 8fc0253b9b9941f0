/* The calls of the library that a job takes from its publisher to the member that does it. */
#include "tests/support/job.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/must.h"
#include "tests/support/patience.h"
#include "tests/support/stamp.h"

struct mqc *job_member(const struct daemon *d, const char *name,
                       const struct mqc_group_options *options)
{
    struct mqc *client = daemon_open(d, name, 0);

    must(mqc_join(client, "g", "job/#", options));
    return client;
}

struct mqc *job_durable_member(const struct daemon *d, const char *name, unsigned prefetch)
{
    return job_member(d, name,
                      &(struct mqc_group_options){.flags = MQC_DURABLE, .prefetch = prefetch});
}

void job_make_durable(const struct daemon *d)
{
    struct mqc *client = job_durable_member(d, NULL, 0);

    must(mqc_leave(client, "g"));
    mqc_close(client);
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

/* ---- Stamped ones ---- */

/* Sizes of all kinds: in a frame, in a pool and small, in a pool and large. */
static uint32_t size_of(uint32_t number)
{
    static const uint32_t sizes[] = {16, 100, 2000, 5000, 40, 20000, 64, JOB_LARGE};

    return sizes[number % (number % 40 < 8 ? 8 : 7)];
}

void job_publish_stamped(struct mqc *client, uint32_t from, uint32_t n)
{
    static uint8_t payload[JOB_LARGE];
    int64_t numbers[JOB_STAMPED];

    assert_true(n <= JOB_STAMPED);
    for (uint32_t i = 0; i < n; i++) {
        const struct stamp stamp = {.publisher = 1, .number = from + i, .size = size_of(from + i)};

        stamp_fill(payload, &stamp);
        numbers[i] =
            job_offer(client, &(struct mqc_publication){.topic = "job/stamped",
                                                        .payload = payload,
                                                        .size = stamp.size,
                                                        .priority = (from + i) % JOB_PRIORITIES});
    }
    for (uint32_t i = 0; i < n; i++)
        must(mqc_confirm_wait(client, numbers[i], PATIENCE_MS));
}

uint32_t job_receive_stamped(struct mqc *client)
{
    struct mqc_message m = must_receive(client);
    struct stamp stamp = {0};

    if (!stamp_read(m.payload, m.size, &stamp))
        fail_msg("a message of %zu bytes is not as it was made", m.size);
    must(mqc_ack(client, &m));
    mqc_message_free(&m);
    return stamp.number;
}

void job_expect_stamped(struct mqc *client, uint32_t n, const bool *skip)
{
    for (uint32_t priority = JOB_PRIORITIES; priority-- > 0;) {
        for (uint32_t i = priority; i < n; i += JOB_PRIORITIES) {
            if (skip == NULL || !skip[i])
                assert_int_equal(job_receive_stamped(client), i);
        }
    }
    must(mqc_flush(client));
}
