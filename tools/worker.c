/* Workers: see worker.h. A message of a group is its worker's until that says otherwise, so its
 * command is not disturbed by an interruption; any other command is there for its output, and ends
 * with us. */
#include "tools/worker.h"

#include <err.h>
#include <errno.h>
#include <string.h>

void worker_init(struct worker *w, struct mqc *client, const char *text, unsigned retry_ms)
{
    *w = (struct worker){.client = client, .retry_ms = retry_ms};
    command_init(&w->command, text, mqc_payload_max(client, ""));
}

void worker_deinit(struct worker *w)
{
    command_deinit(&w->command);
}

static bool is_rejected(const struct worker *w, int r)
{
    return r == COMMAND_E_STATUS && w->command.detail == WORKER_REJECTED;
}

static bool is_later(const struct worker *w, int r)
{
    return r == COMMAND_E_STATUS && w->command.detail == WORKER_LATER;
}

static const char *consequence(const struct worker *w, const struct mqc_message *message, int r)
{
    if (message->acknowledge)
        return is_rejected(w, r) ? "; rejected" : "; it comes again";
    return (message->flags & MQC_M_REQUEST) != 0 ? "; the request is not answered" : "";
}

static void say_failure(const struct worker *w, const struct mqc_message *message, int r)
{
    const char *then = consequence(w, message, r);

    switch (r) {
    case COMMAND_E_STATUS:
        warnx("%s: the command exited with %d%s", message->topic, w->command.detail, then);
        break;
    case COMMAND_E_SIGNAL:
        warnx("%s: the command was killed (%s)%s", message->topic, strsignal(w->command.detail),
              then);
        break;
    case COMMAND_E_LARGE:
        warnx("%s: the command wrote more than the %zu bytes that fit a reply%s", message->topic,
              w->command.reply_limit, then);
        break;
    default:
        warnx("%s: the command could not be run: %s%s", message->topic, strerror(-r), then);
    }
}

/* It was dealt with. A reply acknowledges the request that it is to. */
static int conclude(struct worker *w, struct mqc_message *message)
{
    int r;

    if ((message->flags & MQC_M_REQUEST) == 0)
        return message->acknowledge ? mqc_ack(w->client, message) : 0;
    r = mqc_reply(w->client, message, w->command.reply.bytes, w->command.reply_size);
    if (r == 0 || r == -ESHUTDOWN || r == -ECONNRESET)
        return r;
    w->failed++;
    warnx("%s: the reply could not be sent: %s", message->topic, mqc_last_error());
    return 0;
}

/* It was not: `r` is why. */
static int give_back(struct worker *w, struct mqc_message *message, int r)
{
    if (!message->acknowledge || !is_later(w, r)) {
        w->failed++;
        say_failure(w, message, r);
    }
    if (!message->acknowledge)
        return 0;
    return is_rejected(w, r) ? mqc_reject(w->client, message)
                             : mqc_nack(w->client, message, w->retry_ms);
}

int worker_handle(struct worker *w, struct mqc_message *message, uint64_t number)
{
    int r;

    w->command.patient = message->acknowledge != 0;
    r = command_run(&w->command, message, number);
    if (r == COMMAND_E_INTERRUPTED)
        return -EINTR;
    return r == COMMAND_OK ? conclude(w, message) : give_back(w, message, r);
}
