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
