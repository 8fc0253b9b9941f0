/* What the library says of a failure is worth more to who reads the test's output than its number.
 */
#include "tests/support/must.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/support/patience.h"

void must(int64_t r)
{
    if (r < 0)
        fail_msg("%s", mqc_last_error());
}

struct mqc_message must_receive(struct mqc *client)
{
    struct mqc_message m;

    must(mqc_receive(client, &m, PATIENCE_MS));
    return m;
}

void must_say(const struct mqc_message *m, const char *payload)
{
    if (m->size != strlen(payload) || memcmp(m->payload, payload, m->size) != 0)
        fail_msg("'%.*s' came, not '%s'", (int)m->size, (const char *)m->payload, payload);
}

void must_hear(struct mqc *client, const char *payload)
{
    struct mqc_message m = must_receive(client);

    must_say(&m, payload);
    mqc_message_free(&m);
}

void must_hear_nothing(struct mqc *client, const char *name)
{
    char topic[64];

    must(mqc_flush(client));
    snprintf(topic, sizeof(topic), "@%s", name);
    must(mqc_publish(client, topic, "nothing else", 12, 0));
    must_hear(client, "nothing else");
}

void must_retain(struct mqc *client, const char *topic, const void *payload, size_t size)
{
    const struct mqc_publication p = {.topic = topic,
                                      .payload = payload,
                                      .size = size,
                                      .priority = 8,
                                      .flags = MQC_RETAIN | MQC_CONFIRM};
    int64_t number = mqc_publish_with(client, &p);

    must(number);
    must(mqc_confirm_wait(client, number, PATIENCE_MS));
}

void must_find_retained(struct mqc *client, const char *topic, const void *payload, size_t size)
{
    struct mqc_message m;

    must(mqc_subscribe(client, topic, 0));
    m = must_receive(client);
    assert_string_equal(m.topic, topic);
    assert_int_equal(m.flags, MQC_M_RETAINED);
    assert_int_equal(m.size, size);
    assert_memory_equal(m.payload, payload, size);
    mqc_message_free(&m);
    must(mqc_unsubscribe(client, topic));
}
