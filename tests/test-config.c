/* The configuration: every key in its range, every mistake with its place, nothing half taken over.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/config.h"

#define KEY(field)                                                                                 \
    {                                                                                              \
        .name = #field, .offset = offsetof(struct config, field)                                   \
    }

static const struct {
    const char *name;
    size_t offset;
} keys[] = {KEY(max_clients),
            KEY(queue_depth),
            KEY(store_size),
            KEY(references),
            KEY(pool_max),
            KEY(topic_rows),
            KEY(max_subscriptions),
            KEY(backlog_size),
            KEY(stall_timeout),
            KEY(retained_size),
            KEY(poll_usec),
            KEY(overflow),
            KEY(log_level),
            KEY(max_groups),
            KEY(journal),
            KEY(journal_segment),
            KEY(journal_size),
            KEY(journal_ready),
            KEY(sync),
            KEY(group_size),
            KEY(group_overflow),
            KEY(ack_timeout),
            KEY(delivery_limit),
            KEY(group_linger),
            KEY(aging),
            KEY(sync_interval)};
enum { N_KEYS = sizeof(keys) / sizeof(keys[0]) };

static const struct config defaults = {
    .max_clients = 32,
    .queue_depth = 0,
    .store_size = 64 << 20,
    .references = 2097152,
    .pool_max = 256 << 20,
    .topic_rows = 1024,
    .max_subscriptions = 16384,
    .backlog_size = 8 << 20,
    .stall_timeout = 5000,
    .retained_size = 0,
    .poll_usec = 50,
    .overflow = CONFIG_DROP_OLDEST,
    .log_level = CONFIG_LOG_INFO,
    .max_groups = 64,
    .journal = "",
    .journal_segment = 16 << 20,
    .journal_size = 1 << 30,
    .sync = CONFIG_SYNC_ALWAYS,
    .group_size = 16 << 20,
    .group_overflow = CONFIG_DROP_NEWEST,
    .ack_timeout = 30000,
    .delivery_limit = 5,
    .group_linger = 60000,
    .aging = 0,
    .sync_interval = 100,
};

static struct config parse(const char *text)
{
    struct config config;
    struct config_error error = {""};

    if (config_parse(&config, text, "t.conf", &error) != 0)
        fail_msg("%s", error.text);
    return config;
}

static int64_t number_at(const struct config *config, size_t offset)
{
    int64_t number;

    memcpy(&number, (const char *)config + offset, sizeof(number));
    return number;
}

static void assert_same(const struct config *config, const struct config *expected)
{
    assert_string_equal(config->journal, expected->journal);
    for (size_t i = 0; i < N_KEYS; i++)
        if (keys[i].offset != offsetof(struct config, journal) &&
            number_at(config, keys[i].offset) != number_at(expected, keys[i].offset))
            fail_msg("%s is %" PRId64 ", not %" PRId64, keys[i].name,
                     number_at(config, keys[i].offset), number_at(expected, keys[i].offset));
    assert_memory_equal(config, expected, sizeof(*config)); /* also what is not in the table */
}

/* For what must leave a configuration as it was. */
static struct config marked(void)
{
    struct config config;

    memset(&config, 0x5a, sizeof(config));
    return config;
}

static void assert_marked(const struct config *config)
{
    const struct config expected = marked();

    assert_memory_equal(config, &expected, sizeof(expected));
}

/* `sentence` is all of the error. */
static void assert_error(const char *text, const char *sentence)
{
    struct config config = marked();
    struct config_error error = {""};

    assert_int_equal(config_parse(&config, text, "t.conf", &error), -EINVAL);
    assert_string_equal(error.text, sentence);
    assert_marked(&config);
}

/* The error begins so. */
static void assert_error_at(const char *text, const char *beginning)
{
    struct config config;
    struct config_error error = {""};

    assert_int_equal(config_parse(&config, text, "t.conf", &error), -EINVAL);
    if (strncmp(error.text, beginning, strlen(beginning)) != 0)
        fail_msg("\"%s\" does not begin with \"%s\"", error.text, beginning);
}

/* ---- Values ---- */

static void an_empty_file_means_the_defaults(void **state)
{
    struct config config = parse(""), defaulted;

    (void)state;
    assert_same(&config, &defaults);
    config_default(&defaulted);
    assert_same(&defaulted, &defaults);
}

static void every_key_is_taken(void **state)
{
    static const struct config expected = {
        .max_clients = 64,
        .queue_depth = 32,
        .store_size = 256 << 20,
        .references = 1000000,
        .pool_max = INT64_C(2) << 30,
        .topic_rows = 4096,
        .max_subscriptions = 100,
        .backlog_size = 1 << 20,
        .stall_timeout = 200,
        .retained_size = 16 << 20,
        .poll_usec = 0,
        .overflow = CONFIG_DISCONNECT,
        .log_level = CONFIG_LOG_DEBUG,
        .max_groups = 8,
        .journal = "/var/lib/mqbroker",
        .journal_segment = 1 << 20,
        .journal_size = 8 << 20,
        .sync = CONFIG_SYNC_INTERVAL,
        .group_size = 32 << 10,
        .group_overflow = CONFIG_BLOCK,
        .ack_timeout = 60000,
        .delivery_limit = 3,
        .group_linger = 2000,
        .aging = 10000,
        .sync_interval = 1000,
    };
    struct config config = parse("max_clients = 64;\n"
                                 "queue_depth = 32;\n"
                                 "store_size = \"256M\";\n"
                                 "references = 1000000;\n"
                                 "pool_max = \"2G\";\n"
                                 "topic_rows = 4096;\n"
                                 "max_subscriptions = 100;\n"
                                 "backlog_size = \"1M\";\n"
                                 "stall_timeout = \"200ms\";\n"
                                 "retained_size = \"16M\";\n"
                                 "poll_usec = 0;\n"
                                 "overflow = \"disconnect\";\n"
                                 "log_level = \"debug\";\n"
                                 "max_groups = 8;\n"
                                 "journal = \"/var/lib/mqbroker\";\n"
                                 "journal_segment = \"1M\";\n"
                                 "journal_size = \"8M\";\n"
                                 "sync = \"interval\";\n"
                                 "group_size = \"32K\";\n"
                                 "group_overflow = \"block\";\n"
                                 "ack_timeout = \"1m\";\n"
                                 "delivery_limit = 3;\n"
                                 "group_linger = \"2s\";\n"
                                 "aging = \"10s\";\n"
                                 "sync_interval = \"1s\";\n");

    (void)state;
    assert_same(&config, &expected);
}

static void sizes_are_bytes_or_have_a_binary_unit(void **state)
{
    (void)state;
    assert_int_equal(parse("store_size = 67108864").store_size, 67108864);
    assert_int_equal(parse("store_size = 8589934592L").store_size, INT64_C(8) << 30);
    assert_int_equal(parse("store_size = \"67108864\"").store_size, 67108864);
    assert_int_equal(parse("store_size = \"65536K\"").store_size, 67108864);
    assert_int_equal(parse("store_size = \"64M\"").store_size, 67108864);
    assert_int_equal(parse("store_size = \"8G\"").store_size, INT64_C(8) << 30);
}

static void durations_have_a_unit(void **state)
{
    (void)state;
    assert_int_equal(parse("stall_timeout = \"10ms\"").stall_timeout, 10);
    assert_int_equal(parse("stall_timeout = \"5s\"").stall_timeout, 5000);
    assert_int_equal(parse("stall_timeout = \"1m\"").stall_timeout, 60000);
    assert_int_equal(parse("stall_timeout = \"1h\"").stall_timeout, 3600000);
}

static void nothing_needs_no_unit(void **state)
{
    (void)state;
    assert_int_equal(parse("group_linger = \"0\"").group_linger, 0);
    assert_int_equal(parse("group_linger = \"0s\"").group_linger, 0);
    assert_int_equal(parse("aging = \"0\"").aging, 0);
    assert_error_at("stall_timeout = \"0\"", "t.conf:1: stall_timeout must be from \"10ms\"");
}

static void a_path_is_one_from_the_root_on(void **state)
{
    char longest[CONFIG_PATH_MAX + 32];
    char text[CONFIG_PATH_MAX + 64];

    (void)state;
    assert_string_equal(parse("journal = \"\"").journal, "");
    assert_error("journal = 1;",
                 "t.conf:1: journal must be a path from the root on, in quotes, or \"\" for none");
    assert_error("\njournal = \"journal\";",
                 "t.conf:2: journal must be a path from the root on, in quotes, or \"\" for none");
    memset(longest, 'x', sizeof(longest));
    longest[0] = '/';
    longest[CONFIG_PATH_MAX - 1] = '\0';
    snprintf(text, sizeof(text), "journal = \"%s\";", longest);
    assert_string_equal(parse(text).journal, longest);
    snprintf(text, sizeof(text), "journal = \"%sx\";", longest);
    assert_error(text, "t.conf:1: journal is a path of 1024 bytes, and 1023 are allowed");
}

static void what_is_no_size_or_duration_is_said(void **state)
{
    static const char *const sizes[] = {"\"\"",
                                        "\"M\"",
                                        "\"64 M\"",
                                        "\"64m\"",
                                        "\"64MB\"",
                                        "\"-1M\"",
                                        "\"0x40M\"",
                                        "\"1.5M\"",
                                        "true",
                                        "1.5",
                                        "[1]",
                                        "\"99999999999999999999\"",
                                        "\"9999999999999G\""};
    static const char *const durations[] = {"5",      "\"5\"",   "\"5 s\"", "\"s\"",
                                            "\"1d\"", "\"-5s\"", "5.5"};
    char text[80];

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        snprintf(text, sizeof(text), "\nstore_size = %s;", sizes[i]);
        assert_error(text,
                     "t.conf:2: store_size must be a number of bytes, or one with K, M or G in "
                     "quotes: \"64M\"");
    }
    for (size_t i = 0; i < sizeof(durations) / sizeof(durations[0]); i++) {
        snprintf(text, sizeof(text), "\n\nstall_timeout = %s;", durations[i]);
        assert_error(text, "t.conf:3: stall_timeout must be a number with ms, s, m or h in quotes: "
                           "\"5s\"");
    }
}

static void a_wrong_type_is_said(void **state)
{
    (void)state;
    assert_error("max_clients = \"32\";",
                 "t.conf:1: max_clients must be an integer, without quotes or unit");
    assert_error("max_clients = 32.0;",
                 "t.conf:1: max_clients must be an integer, without quotes or unit");
    assert_error("max_clients = { n = 32; };",
                 "t.conf:1: max_clients must be an integer, without quotes or unit");
    assert_error("overflow = 1;",
                 "t.conf:1: overflow must be one of \"drop-oldest\", \"drop-newest\", \"block\", "
                 "\"disconnect\"");
    assert_error("group_overflow = \"disconnect\";", /* a group is no session */
                 "t.conf:1: group_overflow must be one of \"drop-oldest\", \"drop-newest\", "
                 "\"block\"");
    assert_error("sync = \"often\";",
                 "t.conf:1: sync must be one of \"always\", \"interval\", \"never\"");
    assert_error("log_level = \"loud\";",
                 "t.conf:1: log_level must be one of \"error\", \"warning\", \"info\", \"debug\"");
}

/* `sentence` is what follows the name of the key. */
static void assert_range(const char *key, const char *const good[], const char *const bad[],
                         const char *sentence)
{
    char text[200], whole[200];

    for (; *good != NULL; good++) {
        /* Large enough a store for many clients. */
        snprintf(text, sizeof(text), "%s = %s; %s %s %s %s", key, *good,
                 strcmp(key, "max_clients") == 0 ? "store_size = \"8G\";" : "",
                 strcmp(key, "store_size") == 0 ? "max_clients = 1;" : "",
                 strcmp(*good, "\"64M\"") == 0   ? "journal_size = \"64G\";"
                 : strcmp(*good, "\"64G\"") == 0 ? "journal_segment = \"64M\";"
                                                 : "",
                 strcmp(*good, "\"64K\"") == 0    ? "journal_size = \"100M\";"
                 : strcmp(*good, "\"320K\"") == 0 ? "journal_segment = \"64K\";"
                                                  : "");
        parse(text);
    }
    snprintf(whole, sizeof(whole), "t.conf:1: %s must be from %s", key, sentence);
    for (; *bad != NULL; bad++) {
        snprintf(text, sizeof(text), "%s = %s;", key, *bad);
        assert_error(text, whole);
    }
}

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})

static void values_out_of_range_are_said_with_the_range(void **state)
{
    (void)state;
    assert_range("max_clients", LIST("1", "4096"), LIST("0", "4097", "-1"), "1 to 4096");
    assert_range("queue_depth", LIST("0", "4", "1024"), LIST("3", "1", "1025", "-4"),
                 "4 to 1024, or 0 to have it chosen");
    assert_range("store_size", LIST("\"1M\"", "\"8G\""), LIST("\"1023K\"", "\"9G\"", "0", "-1"),
                 "\"1M\" to \"8G\"");
    assert_range("references", LIST("4096", "16777000"), LIST("4095", "16777001"),
                 "4096 to 16777000");
    assert_range("pool_max", LIST("\"1M\"", "\"64G\""), LIST("\"1023K\"", "\"65G\"", "0"),
                 "\"1M\" to \"64G\"");
    assert_range("topic_rows", LIST("1", "65536"), LIST("0", "65537"), "1 to 65536");
    assert_range("max_subscriptions", LIST("1", "1000000"), LIST("0", "1000001"), "1 to 1000000");
    assert_range("backlog_size", LIST("\"64K\"", "\"8G\""), LIST("\"63K\"", "8589934593L"),
                 "\"64K\" to \"8G\"");
    assert_range("stall_timeout", LIST("\"10ms\"", "\"1h\""), LIST("\"9ms\"", "\"2h\"", "\"0s\""),
                 "\"10ms\" to \"1h\"");
    assert_range("retained_size", LIST("0", "\"4K\"", "\"32M\""), LIST("1", "\"3K\"", "\"5G\""),
                 "\"4K\" to \"4G\", or 0 to have it chosen");
    assert_range("poll_usec", LIST("0", "1000"), LIST("-1", "1001"), "0 to 1000");
    assert_range("max_groups", LIST("0", "1024"), LIST("-1", "1025"), "0 to 1024");
    assert_range("journal_segment", LIST("\"64K\"", "\"64M\""), LIST("\"63K\"", "\"65M\"", "0"),
                 "\"64K\" to \"64M\"");
    assert_range("journal_size", LIST("\"320K\"", "\"64G\""), LIST("\"319K\"", "\"65G\"", "0"),
                 "\"320K\" to \"64G\"");
    assert_range("group_size", LIST("\"4K\"", "\"64G\""), LIST("\"3K\"", "\"65G\"", "0"),
                 "\"4K\" to \"64G\"");
    assert_range("ack_timeout", LIST("\"10ms\"", "\"24h\""), LIST("\"9ms\"", "\"25h\"", "\"0\""),
                 "\"10ms\" to \"24h\"");
    assert_range("delivery_limit", LIST("0", "255"), LIST("-1", "256"), "0 to 255");
    assert_range("group_linger", LIST("\"0\"", "\"24h\""), LIST("\"25h\""), "\"0\" to \"24h\"");
    assert_range("aging", LIST("\"0\"", "\"10ms\"", "\"24h\""), LIST("\"9ms\"", "\"25h\""),
                 "\"10ms\" to \"24h\", or 0 for never");
    assert_range("sync_interval", LIST("\"1ms\"", "\"1h\""), LIST("\"0\"", "\"61m\""),
                 "\"1ms\" to \"1h\"");
}

static void numbers_that_libconfig_would_wrap_are_said(void **state)
{
    (void)state;
    assert_error("\nmax_clients = 4294967297;",
                 "t.conf:2: the number 4294967297 is too large; write "
                 "sizes with a unit, like \"8G\"");
    assert_error("/* \n */ max_clients = 0x100000001;",
                 "t.conf:2: the number 0x100000001 is too large; write sizes with a unit, like "
                 "\"8G\"");
    assert_error_at("\"\n\" max_clients = 99999999999999999999999999999999;",
                    "t.conf:2: the number 999999999999999999999999... is too large");
    assert_error_at("store_size = 9223372036854775808L",
                    "t.conf:1: the number 9223372036854775808 ");
    /* But not in strings, comments and names. */
    parse("# 4294967297\n// 4294967297\n/* 4294967297\n*/");
    assert_error_at("a4294967297 = 1;", "t.conf:1: key \"a4294967297\" is not known");
    assert_error_at("overflow = \"\\\"4294967297\";", "t.conf:1: overflow must be one of");
}

/* ---- Keys ---- */

static void unknown_keys_are_said_with_the_nearest_known_one(void **state)
{
    (void)state;
    assert_error("max_clients = 8;\nmax_client = 8;",
                 "t.conf:2: key \"max_client\" is not known; did you mean \"max_clients\"?");
    assert_error("retained_sise = 8;",
                 "t.conf:1: key \"retained_sise\" is not known; did you mean \"retained_size\"?");
    assert_error("stal_timout = \"5s\";",
                 "t.conf:1: key \"stal_timout\" is not known; did you mean \"stall_timeout\"?");
    assert_error("listen = 1883;",
                 "t.conf:1: key \"listen\" is not known; mqbroker.conf(5) lists those that are");
    assert_error("log = { level = \"info\"; };",
                 "t.conf:1: key \"log\" is not known; mqbroker.conf(5) lists those that are");
    assert_error("a_very_long_name_that_nobody_would_ever_give_to_a_key = 1;",
                 "t.conf:1: key \"a_very_long_name_that_nobody_would_ever_\" is not known; "
                 "mqbroker.conf(5) lists those that are");
}

static void syntax_errors_and_repeated_keys_have_their_place(void **state)
{
    (void)state;
    assert_error("max_clients = 8;\n\nreferences = ;\n", "t.conf:3: syntax error");
    assert_error_at("max_clients = 8;\nmax_clients = 9;\n", "t.conf:2: duplicate setting name");
}

/* ---- Values that have to fit each other ---- */

static void a_store_too_small_for_the_clients_is_said_with_numbers(void **state)
{
    (void)state;
    assert_error(
        "store_size = \"1M\";",
        "t.conf:1: store_size is too small for max_clients: half of 1048576 bytes leaves each "
        "of 32 clients a window of 16384 bytes, and 65536 are needed; make it at least "
        "\"4096K\"");
    parse("store_size = \"4096K\";");
    assert_error_at("\nmax_clients = 1024;", "t.conf:2: store_size is too small");
    assert_error_at("\nmax_clients = 1024;\nstore_size = \"100M\";", "t.conf:3: store_size is too");
    parse("max_clients = 1024; store_size = \"128M\";");
}

static void references_too_few_for_the_clients_are_said_with_numbers(void **state)
{
    (void)state;
    assert_error("references = 4096; max_clients = 65;",
                 "t.conf:1: references is too small for max_clients: 4096 for 65 clients, and each "
                 "needs 64; make it at least 4160");
    parse("references = 4096; max_clients = 64;");
}

static void retained_messages_get_at_most_half_of_the_store(void **state)
{
    (void)state;
    assert_error(
        "store_size = \"8M\";\nretained_size = 4194305;",
        "t.conf:2: retained_size is 4194305 bytes, and must be at most half of store_size, "
        "which is 8388608; the other half is for messages under way");
    parse("store_size = \"8M\"; retained_size = \"4M\";");
}

static void a_journal_has_five_segments_to_2047_of_a_power_of_two(void **state)
{
    (void)state;
    assert_error("journal_size = \"4M\";\njournal_segment = \"1M\";",
                 "t.conf:1: journal_size is 4194304 bytes, and must be at least 5 times "
                 "journal_segment, which is 1048576");
    assert_error("\njournal_segment = \"1000K\";",
                 "t.conf:2: journal_segment is 1024000 bytes, and must be a power of two, such as "
                 "\"1M\" or \"16M\"");
    assert_error("journal_size = \"128M\";\njournal_segment = \"64K\";",
                 "t.conf:1: journal_size is 134217728 bytes, and must be at most 2047 times "
                 "journal_segment, which is 65536");
    assert_error_at("\njournal_segment = \"64K\";", "t.conf:2: journal_size is 1073741824 bytes");
    parse("journal_size = \"5M\"; journal_segment = \"1M\";");
    assert_error("journal_segment = \"1M\"; journal_size = \"5M\";\njournal_ready = \"6M\";",
                 "t.conf:2: journal_ready is 6291456 bytes, and must be at most journal_size, "
                 "which is 5242880");
    parse("journal_segment = \"1M\"; journal_size = \"5M\"; journal_ready = \"5M\";");
    parse("journal_size = \"2047M\"; journal_segment = \"1M\";");
}

/* ---- Files ---- */

static char path[] = "/tmp/test-config-XXXXXX";

static int set_up(void **state)
{
    int fd;

    (void)state;
    memcpy(path + strlen(path) - 6, "XXXXXX", 6);
    fd = mkostemp(path, O_CLOEXEC);
    return fd < 0 ? -1 : close(fd);
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(path);
}

static void put(const void *text, size_t size)
{
    FILE *file = fopen(path, "we");

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, size, file), size);
    fclose(file);
}

/* The error is the file's path and this. */
static void assert_load_error(const char *file, int expected, const char *rest)
{
    struct config config = marked();
    struct config_error error = {""};
    char sentence[512];

    assert_int_equal(config_load(&config, file, &error), expected);
    snprintf(sentence, sizeof(sentence), "%s%s", file, rest);
    assert_string_equal(error.text, sentence);
    assert_marked(&config);
}

static void a_file_is_read(void **state)
{
    struct config_error error = {""};
    struct config config;

    (void)state;
    put("max_clients = 8;", 16);
    assert_int_equal(config_load(&config, path, &error), 0);
    assert_int_equal(config.max_clients, 8);
    put("max_clients = 8\nx", 17);
    assert_load_error(path, -EINVAL, ":2: syntax error");
}

static void what_cannot_be_read_is_said(void **state)
{
    size_t size = (1 << 20) + 1;
    char *large = malloc(size);

    (void)state;
    assert_non_null(large);
    assert_load_error("/nonexistent/mqbroker.conf", -ENOENT,
                      ": cannot be read: No such file or directory");
    assert_load_error("/tmp", -EISDIR, ": cannot be read: Is a directory");
    put("a\0b", 3);
    assert_load_error(path, -EINVAL, ": is not a text: it has a NUL byte");
    memset(large, '\n', size);
    put(large, size);
    assert_load_error(path, -EINVAL, ": is larger than a configuration can be");
    put(large, size - 1);
    assert_int_equal(config_load(&(struct config){0}, path, &(struct config_error){""}), 0);
    free(large);
}

static void a_configuration_includes_no_other_file(void **state)
{
    (void)state;
    assert_error("\n@include \"/etc/passwd\"\n",
                 "t.conf:2: a configuration is one file: @include is not taken");
    parse("# @include \"/etc/passwd\"\n/*\n@include \"x\"\n*/");
}

/* `text` has each key between these two. */
static void assert_names_all_keys(const char *text, const char *before, const char *after)
{
    char key[80];

    for (size_t i = 0; i < N_KEYS; i++) {
        snprintf(key, sizeof(key), "%s%s%s", before, keys[i].name, after);
        if (strstr(text, key) == NULL)
            fail_msg("\"%s\" is not explained", key);
    }
}

/* A file of the source tree, for the caller to free. */
static char *source(const char *name)
{
    char *text = calloc(1, 65536);
    FILE *file = fopen(name, "re");

    assert_non_null(text);
    assert_non_null(file);
    assert_true(fread(text, 1, 65535, file) > 0);
    fclose(file);
    return text;
}

static void the_shipped_file_equals_the_defaults(void **state)
{
    struct config_error error = {""};
    struct config shipped;

    (void)state;
    if (config_load(&shipped, MQB_SOURCE_DIR "/conf/mqbroker.conf", &error) != 0)
        fail_msg("%s", error.text);
    assert_same(&shipped, &defaults);
}

/* In it "#key = value;" is a key to uncomment, "# words" are words. */
static void the_shipped_file_means_the_same_when_it_is_uncommented(void **state)
{
    char *text = source(MQB_SOURCE_DIR "/conf/mqbroker.conf");
    struct config shipped;

    (void)state;
    assert_names_all_keys(text, "\n#", " = ");
    for (char *p = text; (p = strstr(p, "\n#")) != NULL; p++)
        if (p[2] >= 'a' && p[2] <= 'z')
            p[1] = ' ';
    shipped = parse(text);
    assert_same(&shipped, &defaults);
    free(text);
}

static void the_manual_explains_every_key(void **state)
{
    char *text = source(MQB_SOURCE_DIR "/docs/man/mqbroker.conf.5");

    (void)state;
    assert_names_all_keys(text, ".It Ic ", " No = Ar ");
    free(text);
}

/* ---- Reload ---- */

struct reloaded {
    struct config config;
    char kept[200]; /* keys */
};

static void note(const char *key, void *context)
{
    struct reloaded *r = context;
    size_t length = strlen(r->kept);

    snprintf(r->kept + length, sizeof(r->kept) - length, "%s ", key);
}

/* What becomes of the defaults. */
static struct reloaded reload(const char *text)
{
    struct reloaded r = {.config = defaults};
    struct config fresh = parse(text);

    config_reload(&r.config, &fresh, note, &r);
    return r;
}

static void reload_takes_what_may_change_and_names_what_may_not(void **state)
{
#define AT_START                                                                                   \
    "max_clients = 64; queue_depth = 20; store_size = \"128M\"; references = 500000;"              \
    "pool_max = \"1G\"; topic_rows = 7; max_groups = 1; journal = \"/j\";"                         \
    "journal_segment = \"1M\"; journal_size = \"5M\"; journal_ready = \"3M\";"                     \
    "sync = \"never\";"
#define AT_ANY_TIME                                                                                \
    "max_subscriptions = 8; backlog_size = \"9M\"; stall_timeout = \"1s\";"                        \
    "retained_size = \"10M\"; poll_usec = 11; overflow = \"disconnect\"; log_level = \"error\";"   \
    "group_size = \"1M\"; group_overflow = \"block\"; ack_timeout = \"1s\"; delivery_limit = 1;"   \
    "group_linger = \"1s\"; aging = \"1s\"; sync_interval = \"1s\";"
    struct reloaded r = reload(AT_START AT_ANY_TIME);
    struct config expected = parse(AT_ANY_TIME);

    (void)state;
    assert_string_equal(r.kept,
                        "max_clients queue_depth store_size references pool_max topic_rows "
                        "max_groups journal journal_segment journal_size journal_ready sync ");
    assert_same(&r.config, &expected);
}

static void reload_of_the_same_is_silent(void **state)
{
    (void)state;
    assert_string_equal(reload("").kept, "");
}

static void reload_keeps_a_retained_size_that_fits_only_the_next_start(void **state)
{
    struct reloaded r = reload("store_size = \"1G\"; retained_size = \"100M\"; poll_usec = 3;");

    (void)state;
    assert_string_equal(r.kept, "store_size retained_size ");
    assert_int_equal(r.config.retained_size, 0);
    assert_int_equal(r.config.poll_usec, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_file_means_the_defaults),
        cmocka_unit_test(every_key_is_taken),
        cmocka_unit_test(sizes_are_bytes_or_have_a_binary_unit),
        cmocka_unit_test(durations_have_a_unit),
        cmocka_unit_test(nothing_needs_no_unit),
        cmocka_unit_test(a_path_is_one_from_the_root_on),
        cmocka_unit_test(what_is_no_size_or_duration_is_said),
        cmocka_unit_test(a_wrong_type_is_said),
        cmocka_unit_test(values_out_of_range_are_said_with_the_range),
        cmocka_unit_test(numbers_that_libconfig_would_wrap_are_said),
        cmocka_unit_test(unknown_keys_are_said_with_the_nearest_known_one),
        cmocka_unit_test(syntax_errors_and_repeated_keys_have_their_place),
        cmocka_unit_test(a_store_too_small_for_the_clients_is_said_with_numbers),
        cmocka_unit_test(references_too_few_for_the_clients_are_said_with_numbers),
        cmocka_unit_test(retained_messages_get_at_most_half_of_the_store),
        cmocka_unit_test(a_journal_has_five_segments_to_2047_of_a_power_of_two),
        cmocka_unit_test_setup_teardown(a_file_is_read, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_cannot_be_read_is_said, set_up, tear_down),
        cmocka_unit_test(a_configuration_includes_no_other_file),
        cmocka_unit_test(the_shipped_file_equals_the_defaults),
        cmocka_unit_test(the_shipped_file_means_the_same_when_it_is_uncommented),
        cmocka_unit_test(the_manual_explains_every_key),
        cmocka_unit_test(reload_takes_what_may_change_and_names_what_may_not),
        cmocka_unit_test(reload_of_the_same_is_silent),
        cmocka_unit_test(reload_keeps_a_retained_size_that_fits_only_the_next_start),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
