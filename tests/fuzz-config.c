/* Any text at all as a configuration. A failure leaves the configuration alone and says where it
 * was; a success leaves every value in its range, and the values fitting each other. The ranges are
 * written down here a second time, on purpose. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* libconfig 1.5 loses the string at which it finds a syntax error, a few bytes a failed reload.
 * Every other leak is ours. The name is the leak sanitizer's.
 * NOLINTBEGIN(bugprone-reserved-identifier) */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
    return "leak:strbuf_append\nleak:libconfig_yylex\n";
}
/* NOLINTEND(bugprone-reserved-identifier) */

static void check(int holds, const char *what, const char *text)
{
    if (!holds) {
        fprintf(stderr, "%s: %s\n", what, text);
        abort();
    }
}

static int within(int64_t value, int64_t min, int64_t max)
{
    return value >= min && value <= max;
}

static void check_values(const struct config *c)
{
    const int64_t k = 1024, m = 1024 * k, g = 1024 * m;

    check(within(c->max_clients, 1, 4096), "out of range", "max_clients");
    check(c->queue_depth == 0 || within(c->queue_depth, 4, 1024), "out of range", "queue_depth");
    check(within(c->store_size, m, 8 * g), "out of range", "store_size");
    check(within(c->references, 4096, 16777000), "out of range", "references");
    check(within(c->pool_max, 1 << 20, INT64_C(64) << 30), "out of range", "pool_max");
    check(within(c->topic_rows, 1, 65536), "out of range", "topic_rows");
    check(within(c->max_subscriptions, 1, 1000000), "out of range", "max_subscriptions");
    check(within(c->backlog_size, 64 * k, 8 * g), "out of range", "backlog_size");
    check(within(c->stall_timeout, 10, 3600000), "out of range", "stall_timeout");
    check(c->retained_size == 0 || within(c->retained_size, 4 * k, c->store_size / 2),
          "out of range", "retained_size");
    check(within(c->poll_usec, 0, 1000), "out of range", "poll_usec");
    check(within(c->overflow, CONFIG_DROP_OLDEST, CONFIG_DISCONNECT), "out of range", "overflow");
    check(within(c->log_level, CONFIG_LOG_ERROR, CONFIG_LOG_DEBUG), "out of range", "log_level");
    check(within(c->max_groups, 0, 1024), "out of range", "max_groups");
    check(within(c->journal_segment, 64 * k, 64 * m), "out of range", "journal_segment");
    check(within(c->journal_ready, 0, c->journal_size), "out of range", "journal_ready");
    check(within(c->journal_size, 5 * c->journal_segment, 64 * g), "out of range", "journal_size");
    check(within(c->sync, CONFIG_SYNC_ALWAYS, CONFIG_SYNC_NEVER), "out of range", "sync");
    check(within(c->group_size, 4 * k, 64 * g), "out of range", "group_size");
    check(within(c->group_overflow, CONFIG_DROP_OLDEST, CONFIG_BLOCK), "out of range",
          "group_overflow");
    check(within(c->ack_timeout, 10, 86400000), "out of range", "ack_timeout");
    check(within(c->delivery_limit, 0, 255), "out of range", "delivery_limit");
    check(within(c->group_linger, 0, 86400000), "out of range", "group_linger");
    check(c->aging == 0 || within(c->aging, 10, 86400000), "out of range", "aging");
    check(within(c->sync_interval, 1, 3600000), "out of range", "sync_interval");
    check(memchr(c->journal, '\0', sizeof(c->journal)) != NULL, "no end", "journal");
    check(c->journal[0] == '\0' || c->journal[0] == '/', "not from the root on", "journal");
    check(c->store_size / 2 / c->max_clients >= 64 * k, "does not fit", "store_size");
    check(c->references >= 64 * c->max_clients, "does not fit", "references");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config config, before;
    struct config_error error = {""};
    char *text = malloc(size + 1);

    if (text == NULL)
        return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    memset(&before, 0x5a, sizeof(before));
    config = before;
    if (config_parse(&config, text, "fuzz.conf", &error) == 0) {
        check_values(&config);
        check(error.text[0] == '\0', "error text on success", error.text);
    } else {
        check(memcmp(&config, &before, sizeof(config)) == 0, "changed on failure", text);
        check(strncmp(error.text, "fuzz.conf:", 10) == 0, "no place in the error", error.text);
        check(strlen(error.text) > 12, "no sentence in the error", error.text);
        check(strchr(error.text, '\n') == NULL, "more than a line", error.text);
    }
    free(text);
    return 0;
}
