/* mqbench as it is used: each mode ends, its counts add up, its JSON is what mqbench(1) says, and
 * whatever happens to it, nothing is left behind. How fast anything is is not asked. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "libclient/board.h"
#include "libclient/names.h"
#include "libclient/segment.h"

enum {
    ARGUMENTS_MAX = 16,
    OUTPUT_MAX = 1 << 18,
    PATIENCE_S = 60,
};

/* A program that runs, and where its output goes. */
struct child {
    pid_t pid;
    int out;
    int err;
};

struct outcome {
    int status; /* as waitpid() has it */
    char out[OUTPUT_MAX];
    char err[4096];
};

static struct outcome outcome;

/* An unnamed file that a child writes and the parent reads when it is gone. */
static int scratch(void)
{
    int fd = memfd_create("it-bench", MFD_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static struct child start(const char *program, const char *const *arguments)
{
    struct child child = {.out = scratch(), .err = scratch()};
    const char *argv[ARGUMENTS_MAX + 2] = {program};
    char path[512];

    for (size_t i = 0; arguments[i] != NULL; i++) {
        assert_true(i < ARGUMENTS_MAX);
        argv[i + 1] = arguments[i];
    }
    snprintf(path, sizeof path, "%s/%s", MQB_BIN_DIR, program);
    child.pid = fork();
    assert_true(child.pid >= 0);
    if (child.pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM); /* a test that fails leaves it to us */
        dup2(child.out, STDOUT_FILENO);
        dup2(child.err, STDERR_FILENO);
        execv(path, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    return child;
}

static void take_text(int fd, char *text, size_t size)
{
    ssize_t n = pread(fd, text, size - 1, 0);

    assert_true(n >= 0);
    text[n] = '\0';
    close(fd);
}

static int finish(struct child *child)
{
    assert_int_equal(waitpid(child->pid, &outcome.status, 0), child->pid);
    take_text(child->out, outcome.out, sizeof outcome.out);
    take_text(child->err, outcome.err, sizeof outcome.err);
    return WIFEXITED(outcome.status) ? WEXITSTATUS(outcome.status) : -WTERMSIG(outcome.status);
}

#define BENCH(...) run_bench((const char *const[]){__VA_ARGS__, NULL})

static int run_bench(const char *const *arguments)
{
    struct child child = start("mqbench", arguments);

    return finish(&child);
}

/* Run it with --json; it must succeed. */
#define FIGURES(...) json_of((const char *const[]){__VA_ARGS__, "--json", NULL})

static json_t *json_of(const char *const *arguments)
{
    json_error_t error;
    int status = run_bench(arguments);

    if (status != 0) {
        fail_msg("exit status %d: %s", status, outcome.err);
    }
    assert_string_equal(outcome.err, "");

    json_t *whole = json_loads(outcome.out, JSON_REJECT_DUPLICATES, &error);
    if (whole == NULL) {
        fail_msg("line %d: %s", error.line, error.text);
    }
    assert_int_equal(json_integer_value(json_object_get(whole, "schema")), 1);
    assert_int_equal(json_integer_value(json_object_get(whole, "faults")), 0);
    assert_true(
        json_integer_value(json_object_get(json_object_get(whole, "machine"), "processors")) > 0);
    return whole;
}

static const json_t *way(const json_t *whole, const char *key)
{
    size_t i;
    json_t *one;

    json_array_foreach(json_object_get(whole, "ways"), i, one)
    {
        if (strcmp(json_string_value(json_object_get(one, "key")), key) == 0) {
            return one;
        }
    }
    fail_msg("there is no way \"%s\"", key);
    return NULL;
}

static double figure(const json_t *whole, const char *key, const char *name)
{
    const json_t *value = json_object_get(json_object_get(way(whole, key), "figures"), name);

    if (!json_is_number(value)) {
        fail_msg("%s has no figure \"%s\"", key, name);
    }
    return json_number_value(value);
}

static double ratio(const json_t *whole, const char *name)
{
    const json_t *value = json_object_get(json_object_get(whole, "ratios"), name);

    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void nap(void)
{
    struct timespec moment = {.tv_nsec = 1000000};

    nanosleep(&moment, NULL);
}

static bool queue_exists(const char *instance)
{
    char name[NAMES_MAX];

    names_request_queue(name, instance);
    mqd_t mqd = mq_open(name, O_RDONLY);
    if (mqd >= 0) {
        mq_close(mqd);
    }
    return mqd >= 0;
}

static bool board_exists(const char *instance)
{
    char name[NAMES_MAX];

    names_board(name, instance);
    int fd = shm_open(name, O_RDONLY, 0);
    if (fd >= 0) {
        close(fd);
    }
    return fd >= 0;
}

/* Segments of the instance: board, ledger, store, outboxes, pools. */
static unsigned segments(const char *instance)
{
    char name[NAMES_MAX];
    DIR *shm = opendir("/dev/shm");
    const struct dirent *entry;
    unsigned n = 0;

    assert_non_null(shm);
    names_board(name, instance);
    while ((entry = readdir(shm)) != NULL) {
        n += strncmp(entry->d_name, name + 1, strlen(name + 1)) == 0;
    }
    closedir(shm);
    return n;
}

/* Does its board say that it runs, and that so many subscriptions are held? */
static bool board_says(const char *instance, uint64_t subscriptions)
{
    char name[NAMES_MAX];
    struct segment segment;
    bool so = false;

    names_board(name, instance);
    if (segment_open(&segment, name, 0) == 0) {
        const struct board_header *board = segment.base;

        so = board_check(segment.base, segment.size) == BOARD_OK &&
             atomic_load(&board->state) == BOARD_RUNNING &&
             board_get(&board->subscriptions) == subscriptions;
        segment_close(&segment);
    }
    return so;
}

static bool runs(const char *instance)
{
    return board_says(instance, 0);
}

/* Ask until it is so, or fail after PATIENCE_S. */
static void wait_until(bool (*is_so)(const char *instance), const char *instance, bool wanted)
{
    time_t until = time(NULL) + PATIENCE_S;

    while (is_so(instance) != wanted) {
        assert_true(time(NULL) < until);
        nap();
    }
}

/* mqbench in the middle of a measurement with a private broker, which has clients. */
struct busy {
    struct child bench;
    char instance[NAMES_INSTANCE_MAX + 1];
};

static bool works(const char *instance)
{
    return board_says(instance, 2);
}

static struct busy start_busy(void)
{
    const char *const arguments[] = {"latency", "--duration", "60s", "--repeat", "1", NULL};
    struct busy busy;

    busy.bench = start("mqbench", arguments);
    snprintf(busy.instance, sizeof busy.instance, "bench-%ld-0", (long)busy.bench.pid);
    wait_until(works, busy.instance, true);
    return busy;
}

/* ---- each mode ---- */

static void throughput_delivers_each_message_once_in_all_four_ways(void **state)
{
    static const char *const keys[] = {"broker_batched", "bare_batched", "broker_single",
                                       "bare_single"};
    json_t *whole = FIGURES("throughput", "--count", "1000", "--repeat", "2", "--baseline");

    (void)state;
    assert_int_equal(json_array_size(json_object_get(whole, "ways")), 4);
    for (size_t i = 0; i < 4; i++) {
        /* A fifth more for warming up. */
        assert_true(figure(whole, keys[i], "published") == 1200);
        assert_true(figure(whole, keys[i], "received") == 1200);
        assert_true(figure(whole, keys[i], "lost") == 0);
        assert_true(figure(whole, keys[i], "twice") == 0);
        assert_true(figure(whole, keys[i], "disordered") == 0);
        assert_true(figure(whole, keys[i], "damaged") == 0);
        assert_true(figure(whole, keys[i], "messages_per_second") > 0);
        assert_int_equal(json_array_size(json_object_get(way(whole, keys[i]), "runs")), 2);
    }
    assert_true(ratio(whole, "batched_to_bare") > 0);
    assert_true(ratio(whole, "single_to_bare") > 0);
    json_decref(whole);
}

static void every_subscriber_gets_the_messages_of_every_publisher(void **state)
{
    json_t *whole = FIGURES("throughput", "--count", "500", "--repeat", "1", "--baseline",
                            "--batch", "--publishers", "3", "--subscribers", "2", "--size", "200");

    (void)state;
    assert_int_equal(json_array_size(json_object_get(whole, "ways")), 2);
    assert_true(figure(whole, "broker_batched", "published") == 1800);
    assert_true(figure(whole, "broker_batched", "received") == 3600);
    assert_true(figure(whole, "bare_batched", "published") == 1800);
    assert_true(figure(whole, "bare_batched", "received") == 3600);
    json_decref(whole);
}

/* The ways that these share with throughput. */
static void expect_flow(const json_t *whole, double published, double received)
{
    static const char *const keys[] = {"broker_batched", "bare_batched", "broker_single",
                                       "bare_single"};

    assert_int_equal(json_array_size(json_object_get(whole, "ways")), 4);
    for (size_t i = 0; i < 4; i++) {
        assert_true(figure(whole, keys[i], "published") == published);
        assert_true(figure(whole, keys[i], "received") == received);
        assert_true(figure(whole, keys[i], "deliveries_per_second") > 0);
    }
    assert_true(ratio(whole, "batched_to_bare") > 0);
    assert_true(ratio(whole, "single_to_bare") > 0);
}

static double option(const json_t *whole, const char *name)
{
    return json_number_value(json_object_get(json_object_get(whole, "options"), name));
}

static void fanout_reaches_eight_subscribers_with_a_kib(void **state)
{
    json_t *whole = FIGURES("fanout", "--count", "200", "--repeat", "1", "--baseline");

    (void)state;
    assert_true(option(whole, "size") == 1024);
    assert_true(option(whole, "subscribers") == 8);
    expect_flow(whole, 240, 8 * 240);
    json_decref(whole);
}

/* Nine queues of full width are all that the default limit allows for. */
static void bare_queues_grow_narrow_when_there_are_many(void **state)
{
    json_t *whole =
        FIGURES("fanout", "--count", "50", "--repeat", "1", "--baseline", "--subscribers", "20");

    (void)state;
    expect_flow(whole, 60, 20 * 60);
    json_decref(whole);
}

static void fanin_takes_the_messages_of_eight_publishers(void **state)
{
    json_t *whole = FIGURES("fanin", "--count", "200", "--repeat", "1", "--baseline");

    (void)state;
    assert_true(option(whole, "size") == 64);
    assert_true(option(whole, "publishers") == 8);
    expect_flow(whole, 8 * 240, 8 * 240);
    json_decref(whole);
}

static void large_measures_a_size_copied_in_and_on_loan(void **state)
{
    static const char *const keys[] = {"copied", "loaned"};
    json_t *whole = FIGURES("large", "--size", "1M", "--count", "50", "--repeat", "1");

    (void)state;
    assert_int_equal(json_array_size(json_object_get(whole, "ways")), 2);
    for (size_t i = 0; i < 2; i++) {
        assert_true(figure(whole, keys[i], "received_alone") == 50);
        assert_true(figure(whole, keys[i], "receive_p50_us") > 0);
        assert_true(figure(whole, keys[i], "receive_max_us") >=
                    figure(whole, keys[i], "receive_p99_us"));
        assert_true(figure(whole, keys[i], "messages_per_second") > 0);
        assert_true(figure(whole, keys[i], "lost") == 0);
        assert_true(figure(whole, keys[i], "damaged") == 0);
        assert_true(figure(whole, keys[i], "wrong") == 0);
    }
    json_decref(whole);
}

static void throughput_and_fanout_take_loans(void **state)
{
    json_t *whole = FIGURES("throughput", "--size", "64K", "--count", "200", "--repeat", "1",
                            "--loan", "--publishers", "2");

    (void)state;
    assert_int_equal(json_array_size(json_object_get(whole, "ways")), 4);
    assert_true(figure(whole, "broker_loaned", "received") == 480);
    assert_true(figure(whole, "broker_single_loaned", "received") == 480);
    assert_true(figure(whole, "broker_loaned", "damaged") == 0);
    json_decref(whole);
    whole = FIGURES("fanout", "--size", "1M", "--count", "20", "--repeat", "1", "--loan", "--batch",
                    "--subscribers", "3");
    assert_true(figure(whole, "broker_batched", "received") == 3 * 24);
    assert_true(figure(whole, "broker_loaned", "received") == 3 * 24);
    json_decref(whole);
}

static void filters_deliver_each_message_once_however_many_there_are(void **state)
{
    static const char *const keys[] = {"few_filters", "many_filters"};
    json_t *whole = FIGURES("filters", "--count", "5000", "--repeat", "1", "--filters", "500");

    (void)state;
    assert_true(option(whole, "filters") == 500);
    assert_int_equal(json_array_size(json_object_get(whole, "ways")), 2);
    for (size_t i = 0; i < 2; i++) {
        assert_true(figure(whole, keys[i], "published") == 6000);
        assert_true(figure(whole, keys[i], "received") == 6000);
        assert_true(figure(whole, keys[i], "subscribe_ms") > 0);
    }
    assert_true(ratio(whole, "many_to_few") > 0);
    json_decref(whole);
}

static void a_duration_ends_a_run_without_a_count(void **state)
{
    json_t *whole = FIGURES("throughput", "--duration", "50ms", "--repeat", "1", "--no-batch");

    (void)state;
    assert_int_equal(json_array_size(json_object_get(whole, "ways")), 1);
    assert_true(figure(whole, "broker_single", "published") > 0);
    assert_true(figure(whole, "broker_single", "received") ==
                figure(whole, "broker_single", "published"));
    json_decref(whole);
}

static void latency_makes_the_round_trips_it_was_asked_for(void **state)
{
    static const char *const keys[] = {"broker_sleeping", "bare_sleeping", "broker_looking",
                                       "bare_looking"};
    json_t *whole = FIGURES("latency", "--count", "300", "--repeat", "1", "--baseline");

    (void)state;
    for (size_t i = 0; i < 4; i++) {
        assert_true(figure(whole, keys[i], "round_trips") == 300);
        assert_true(figure(whole, keys[i], "wrong") == 0);
        assert_true(figure(whole, keys[i], "round_trip_p50_us") > 0);
        assert_true(figure(whole, keys[i], "round_trip_max_us") >=
                    figure(whole, keys[i], "round_trip_p50_us"));
    }
    assert_true(ratio(whole, "sleeping_p50_to_bare") > 0);
    assert_true(ratio(whole, "looking_p50_to_bare") > 0);
    json_decref(whole);
}

static void priority_loses_neither_urgent_nor_flood(void **state)
{
    static const char *const keys[] = {
        "broker_idle",          "bare_idle",          "broker_flood", "bare_flood",
        "broker_flood_batched", "bare_flood_batched",
    };
    json_t *whole =
        FIGURES("priority", "--count", "50", "--repeat", "1", "--baseline", "--publishers", "3");

    (void)state;
    for (size_t i = 0; i < 6; i++) {
        assert_true(figure(whole, keys[i], "urgent_messages") == 50);
        assert_true(figure(whole, keys[i], "lost") == 0);
        assert_true(figure(whole, keys[i], "disordered") == 0);
    }
    assert_true(figure(whole, "broker_idle", "flood_per_second") == 0);
    assert_true(figure(whole, "broker_flood", "flood_per_second") > 0);
    assert_true(ratio(whole, "flood_to_idle") > 0);
    json_decref(whole);
}

static void durable_messages_are_confirmed_and_all_there(void **state)
{
    (void)state;
    json_t *whole =
        FIGURES("durable", "--count", "100", "--repeat", "1", "--baseline", "--directory", "/tmp");

    for (size_t i = 0; i < 4; i++) {
        static const char *const keys[] = {"durable_1", "file_1", "durable_128", "file_128"};

        assert_true(figure(whole, keys[i], "confirmed") == 100);
        assert_true(figure(whole, keys[i], "lost") == 0);
        assert_true(figure(whole, keys[i], "messages_per_second") > 0);
    }
    json_decref(whole);
    whole = FIGURES("durable", "--count", "100", "--repeat", "1", "--outstanding", "7", "--sync",
                    "never", "--directory", "/tmp");
    assert_true(figure(whole, "durable", "confirmed") == 100);
    json_decref(whole);
}

static void a_table_is_printed_for_people(void **state)
{
    (void)state;
    assert_int_equal(BENCH("throughput", "--count", "200", "--repeat", "1"), 0);
    assert_non_null(strstr(outcome.out, "1 publisher sends messages of 64 bytes"));
    assert_non_null(strstr(outcome.out, "messages/s"));
    assert_non_null(strstr(outcome.out, "mqbroker, batched"));
    assert_null(strstr(outcome.out, "bare queues, batched"));
    assert_string_equal(outcome.err, "");
}

/* ---- a running broker ---- */

static char instance[NAMES_INSTANCE_MAX + 1];

static struct child start_broker(const char *config)
{
    char path[64];
    int fd = memfd_create("it-bench.conf", 0); /* inherited */

    assert_true(fd >= 0);
    assert_int_equal(write(fd, config, strlen(config)), strlen(config));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    snprintf(instance, sizeof instance, "it-bench-%ld", (long)getpid());

    const char *const arguments[] = {"--instance", instance, "--config", path, NULL};
    struct child broker = start("mqbroker", arguments);
    close(fd);
    wait_until(runs, instance, true);
    return broker;
}

static void stop_broker(struct child *broker)
{
    assert_true(queue_exists(instance));
    assert_int_equal(kill(broker->pid, SIGTERM), 0);
    assert_int_equal(finish(broker), 0);
    assert_false(queue_exists(instance));
}

static void a_running_broker_is_used_and_left_running(void **state)
{
    struct child broker = start_broker("");
    json_t *whole;

    (void)state;
    whole = FIGURES("throughput", "--count", "100", "--repeat", "1", "--instance", instance);
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(whole, "options"), "instance")),
        instance);
    assert_true(figure(whole, "broker_batched", "received") == 120);
    json_decref(whole);
    stop_broker(&broker);
}

/* Seen by a broker that allows no more. */
static void filters_are_as_many_as_asked_for(void **state)
{
    struct child broker = start_broker("max_subscriptions = 40;");

    (void)state;
    json_decref(FIGURES("filters", "--count", "100", "--repeat", "1", "--filters", "40",
                        "--instance", instance));
    assert_int_equal(BENCH("filters", "--count", "100", "--repeat", "1", "--filters", "41",
                           "--instance", instance),
                     1);
    assert_non_null(strstr(outcome.err, "bench/40/+"));
    assert_non_null(strstr(outcome.err, "max_subscriptions"));
    stop_broker(&broker);
}

static void a_missing_broker_is_a_sentence_and_status_1(void **state)
{
    (void)state;
    assert_int_equal(BENCH("latency", "--instance", "it-bench-nobody"), 1);
    assert_non_null(strstr(outcome.err, "it-bench-nobody"));
    assert_string_equal(outcome.out, "");
}

/* ---- what goes wrong ---- */

static void wrong_usage_is_status_2(void **state)
{
    (void)state;
    assert_int_equal(BENCH("--json"), 2);
    assert_int_equal(BENCH("fastness"), 2);
    assert_non_null(strstr(outcome.err, "fastness"));
    assert_int_equal(BENCH("latency", "throughput"), 2);
    assert_int_equal(BENCH("throughput", "--size", "8"), 2);
    assert_int_equal(BENCH("throughput", "--repeat", "0"), 2);
    assert_int_equal(BENCH("latency", "--publishers", "2"), 2);
    assert_int_equal(BENCH("latency", "--batch"), 2);
    assert_int_equal(BENCH("filters", "--batch"), 2);
    assert_int_equal(BENCH("filters", "--filters", "9"), 2);
    assert_int_equal(BENCH("fanout", "--filters", "10"), 2);
    assert_int_equal(BENCH("large", "--batch"), 2);
    assert_int_equal(BENCH("latency", "--loan"), 2);
    assert_int_equal(BENCH("latency", "--instance", "x", "--broker-poll", "0"), 2);
    assert_int_equal(BENCH("throughput", "--outstanding", "2"), 2);
    assert_int_equal(BENCH("durable", "--outstanding", "1001"), 2);
    assert_int_equal(BENCH("durable", "--sync", "often"), 2);
    assert_int_equal(BENCH("durable", "--directory", "/nonexistent"), 2);
    assert_int_equal(BENCH("durable", "--instance", "x", "--sync", "never"), 2);
}

static void a_payload_that_does_not_fit_is_a_sentence(void **state)
{
    struct child broker = start_broker("pool_max = \"1M\";");

    (void)state;
    assert_int_equal(BENCH("throughput", "--size", "2M", "--count", "10", "--instance", instance),
                     1);
    assert_non_null(strstr(outcome.err, "--size 2097152 is too large"));
    assert_int_equal(BENCH("large", "--size", "2M", "--count", "10", "--instance", instance), 1);
    assert_non_null(strstr(outcome.err, "--size 2097152 is too large"));
    stop_broker(&broker);
}

static void sizes_that_the_broker_does_not_allow_are_left_out(void **state)
{
    struct child broker = start_broker("pool_max = \"1M\";");
    json_t *whole;

    (void)state;
    whole = FIGURES("large", "--count", "10", "--repeat", "1", "--instance", instance);
    assert_int_equal(json_array_size(json_object_get(whole, "ways")), 12);
    assert_true(figure(whole, "loaned_8k", "received_alone") == 10);
    assert_true(json_is_null(
        json_object_get(json_object_get(way(whole, "loaned_8m"), "figures"), "received_alone")));
    json_decref(whole);
    stop_broker(&broker);
}

static void a_broker_that_cannot_be_run_is_a_sentence(void **state)
{
    (void)state;
    assert_int_equal(BENCH("throughput", "--broker", "/nonexistent/mqbroker"), 1);
    assert_non_null(strstr(outcome.err, "/nonexistent/mqbroker"));
}

static void an_interrupt_ends_it_and_leaves_nothing(void **state)
{
    struct busy busy = start_busy();

    (void)state;
    assert_int_equal(kill(busy.bench.pid, SIGINT), 0);
    assert_int_equal(finish(&busy.bench), -SIGINT);
    assert_non_null(strstr(outcome.err, "interrupted"));
    assert_false(queue_exists(busy.instance));
    assert_int_equal(segments(busy.instance), 0);
}

/* The broker sees to it by itself: nobody else is left. */
static void killed_it_takes_its_broker_and_workers_along(void **state)
{
    struct busy busy = start_busy();

    (void)state;
    assert_int_equal(kill(busy.bench.pid, SIGKILL), 0);
    assert_int_equal(finish(&busy.bench), -SIGKILL);
    wait_until(queue_exists, busy.instance, false);
    wait_until(board_exists, busy.instance, false);
}

/* The child of `parent` that runs `program`, or 0. */
static pid_t child_of(pid_t parent, const char *program)
{
    char path[64];
    long pid;
    pid_t found = 0;

    snprintf(path, sizeof path, "/proc/%ld/task/%ld/children", (long)parent, (long)parent);
    FILE *children = fopen(path, "re");
    assert_non_null(children);
    while (fscanf(children, "%ld", &pid) == 1) {
        char name[64] = "";

        snprintf(path, sizeof path, "/proc/%ld/comm", pid);
        FILE *comm = fopen(path, "re");
        if (comm != NULL) {
            if (fgets(name, sizeof name, comm) != NULL) {
                name[strcspn(name, "\n")] = '\0';
            }
            fclose(comm);
        }
        if (strcmp(name, program) == 0) {
            found = (pid_t)pid;
        }
    }
    fclose(children);
    return found;
}

static void a_broker_that_dies_fails_the_run_and_leaves_nothing(void **state)
{
    struct busy busy = start_busy();
    pid_t broker = child_of(busy.bench.pid, "mqbroker");

    (void)state;
    assert_true(broker > 0);
    assert_int_equal(kill(broker, SIGKILL), 0);
    assert_int_equal(finish(&busy.bench), 1);
    assert_non_null(strstr(outcome.err, "the broker died"));
    assert_false(queue_exists(busy.instance));
    assert_int_equal(segments(busy.instance), 0);
}

static void a_worker_that_dies_fails_the_run_by_name(void **state)
{
    struct busy busy = start_busy();
    pid_t ponger = child_of(busy.bench.pid, "ponger");

    (void)state;
    assert_true(ponger > 0);
    assert_int_equal(kill(ponger, SIGKILL), 0);
    assert_int_equal(finish(&busy.bench), 1);
    assert_non_null(strstr(outcome.err, "ponger 0 was killed by signal 9"));
    assert_false(queue_exists(busy.instance));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(throughput_delivers_each_message_once_in_all_four_ways),
        cmocka_unit_test(every_subscriber_gets_the_messages_of_every_publisher),
        cmocka_unit_test(fanout_reaches_eight_subscribers_with_a_kib),
        cmocka_unit_test(bare_queues_grow_narrow_when_there_are_many),
        cmocka_unit_test(fanin_takes_the_messages_of_eight_publishers),
        cmocka_unit_test(large_measures_a_size_copied_in_and_on_loan),
        cmocka_unit_test(throughput_and_fanout_take_loans),
        cmocka_unit_test(filters_deliver_each_message_once_however_many_there_are),
        cmocka_unit_test(a_duration_ends_a_run_without_a_count),
        cmocka_unit_test(latency_makes_the_round_trips_it_was_asked_for),
        cmocka_unit_test(priority_loses_neither_urgent_nor_flood),
        cmocka_unit_test(durable_messages_are_confirmed_and_all_there),
        cmocka_unit_test(a_table_is_printed_for_people),
        cmocka_unit_test(a_running_broker_is_used_and_left_running),
        cmocka_unit_test(filters_are_as_many_as_asked_for),
        cmocka_unit_test(a_missing_broker_is_a_sentence_and_status_1),
        cmocka_unit_test(wrong_usage_is_status_2),
        cmocka_unit_test(a_payload_that_does_not_fit_is_a_sentence),
        cmocka_unit_test(sizes_that_the_broker_does_not_allow_are_left_out),
        cmocka_unit_test(a_broker_that_cannot_be_run_is_a_sentence),
        cmocka_unit_test(an_interrupt_ends_it_and_leaves_nothing),
        cmocka_unit_test(killed_it_takes_its_broker_and_workers_along),
        cmocka_unit_test(a_broker_that_dies_fails_the_run_and_leaves_nothing),
        cmocka_unit_test(a_worker_that_dies_fails_the_run_by_name),
    };

    unsetenv("MQBROKER_INSTANCE");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
