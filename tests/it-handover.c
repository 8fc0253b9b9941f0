/* The broker is handed over to another binary, or to itself, under load and again and again: to
 * clients it is a pause. One that cannot take over is not let to, and the old one goes on. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/persist.h"
#include "tests/support/actor.h"
#include "tests/support/daemon.h"
#include "tests/support/job.h"
#include "tests/support/load.h"
#include "tests/support/must.h"
#include "tests/support/patience.h"
#include "tests/support/program.h"
#include "tests/support/stamp.h"

enum { HANDOVERS = 25, IN_A_ROW = 50 };

static uint64_t handovers(const struct daemon *d)
{
    return board_get(&daemon_board(d)->totals.handovers);
}

static uint64_t refused(const struct daemon *d)
{
    return board_get(&daemon_board(d)->totals.handovers_refused);
}

/* Ask for it, and return when the next one serves. */
static void hand_over(const struct daemon *d)
{
    unsigned before = daemon_said_times(d, ": handed over,");

    assert_int_equal(kill(d->pid, SIGUSR2), 0);
    PATIENCE_UNTIL(daemon_said_times(d, ": handed over,") > before);
}

/* A message to oneself: broker and handle are well. */
static void send_round(struct mqc *client)
{
    struct mqc_message message;

    assert_int_equal(mqc_publish(client, "round", "trip", 4, 8), 0);
    assert_int_equal(mqc_receive(client, &message, PATIENCE_MS), 0);
    assert_memory_equal(message.payload, "trip", 4);
    mqc_message_free(&message);
}

/* Ask for it, and return when it was refused with these words; the broker serves as before. */
static void be_refused(const struct daemon *d, struct mqc *client, const char *words)
{
    uint64_t before = refused(d);
    uint64_t starts = board_get(&daemon_board(d)->totals.starts);

    assert_int_equal(kill(d->pid, SIGUSR2), 0);
    PATIENCE_UNTIL(refused(d) > before);
    PATIENCE_UNTIL(daemon_said(d, words));
    send_round(client);
    assert_int_equal(board_get(&daemon_board(d)->totals.starts), starts);
}

static struct mqc *open_round(const struct daemon *d)
{
    struct mqc *client = daemon_open(d, NULL, 0);

    assert_int_equal(mqc_subscribe(client, "round", 0), 0);
    return client;
}

/* ---- Under load ---- */

static void hand_over_under_load(struct daemon *d, uint32_t largest, uint32_t most)
{
    unsigned descriptors = daemon_descriptors(d);
    uint32_t random = 362436069;
    pid_t pid = d->pid;
    struct load load;

    load_begin(&load, d, largest);
    for (unsigned i = 0; i < HANDOVERS; i++) {
        load_wait(d, &random, most);
        hand_over(d);
    }
    load_end(&load);
    assert_int_equal(handovers(d), HANDOVERS);
    assert_int_equal(refused(d), 0);
    assert_int_equal(board_get(&daemon_board(d)->totals.starts), HANDOVERS + 1);
    assert_int_equal(atomic_load(&daemon_board(d)->pid), pid); /* the same all the time */
    PATIENCE_UNTIL(daemon_rows(d) == 0);
    PATIENCE_UNTIL(board_get(&daemon_board(d)->references_used) == 0);
    PATIENCE_UNTIL(daemon_descriptors(d) == descriptors);
}

static void K_a_handover_under_load_is_a_pause(void **state)
{
    daemon_start(*state, "stall_timeout = \"1h\";\n");
    hand_over_under_load(*state, sizeof(struct stamp), 3000);
}

static void S7_large_payloads_outlive_a_handover(void **state)
{
    daemon_start(*state, "stall_timeout = \"1h\"; pool_max = \"2M\"; max_clients = 120;\n");
    hand_over_under_load(*state, LOAD_LARGEST, 600);
}

static void handovers_leak_no_descriptor(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    unsigned descriptors;

    daemon_start(d, NULL);
    client = open_round(d);
    send_round(client);
    hand_over(d); /* each client has the same number after a start as after its registration */
    descriptors = daemon_descriptors(d);
    for (unsigned i = 0; i < IN_A_ROW; i++) {
        hand_over(d);
        send_round(client);
    }
    assert_int_equal(daemon_descriptors(d), descriptors);
    assert_int_equal(handovers(d), IN_A_ROW + 1);
    mqc_close(client);
}

/* ---- With a journal ---- */

enum {
    JOB_OUTSTANDING = 32, /* confirms that are under way */
    JOB_MOST = 20000,     /* bytes of a job */
    JOBS_AT_ONCE = 40,    /* read between two handovers */
};

/* An actor: publishes jobs of all sizes until it hears something; each is confirmed. Says how many.
 */
static void publish_jobs(struct actor *self, const void *instance)
{
    struct mqc *client = actor_open(instance, NULL, MQC_PUBLISH_ONLY);
    uint8_t payload[JOB_MOST];
    int64_t numbers[JOB_OUTSTANDING];
    uint32_t random = 88172645;
    uint32_t n = 0;

    for (; !actor_has_said(self); n++) {
        const struct stamp stamp = {
            .publisher = 1, .number = n, .size = stamp_size(&random, JOB_MOST)};
        int64_t *number = &numbers[n % JOB_OUTSTANDING];

        if (n >= JOB_OUTSTANDING)
            ACTOR_REQUIRE(mqc_confirm_wait(client, *number, PATIENCE_MS) == 0);
        stamp_fill(payload, &stamp);
        *number = mqc_publish_with(client, &(struct mqc_publication){.topic = "job/it",
                                                                     .payload = payload,
                                                                     .size = stamp.size,
                                                                     .priority = 8,
                                                                     .flags = MQC_CONFIRM});
        ACTOR_REQUIRE(*number > 0);
    }
    actor_hear(self); /* a word left unread would reset the line, and take the answer along */
    for (uint32_t i = 0; i < n && i < JOB_OUTSTANDING; i++)
        ACTOR_REQUIRE(mqc_confirm_wait(client, numbers[i], PATIENCE_MS) == 0);
    actor_tell(self, n);
    mqc_close(client);
}

/* Do the job that comes next: the one with this number, for the first time. */
static void do_job(struct mqc *client, uint32_t number)
{
    struct mqc_message m = must_receive(client);
    struct stamp stamp;

    assert_true(stamp_read(m.payload, m.size, &stamp));
    assert_int_equal(stamp.number, number);
    assert_int_equal(m.attempt, 1);
    must(mqc_ack(client, &m));
    mqc_message_free(&m);
}

/* Handed over while confirms are under way, first with nobody to do the jobs, then with somebody
 * who does them. */
static void J_durable_messages_outlive_a_handover_once_and_in_order(void **state)
{
    static struct program check;
    struct daemon *d = *state;
    struct actor publisher;
    struct mqc *reader;
    uint32_t done = 0;
    uint64_t n;

    daemon_start_with_journal(d, "max_clients = 4;\nsync = \"always\";\nstall_timeout = \"1h\";\n"
                                 "journal_segment = \"1M\";\njournal_size = \"256M\";\n");
    job_make_durable(d);
    actor_start(&publisher, publish_jobs, d->instance);
    for (unsigned i = 0; i < HANDOVERS; i++) {
        uint64_t taken = board_get(&daemon_board(d)->totals.messages_in);

        PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.messages_in) > taken + JOBS_AT_ONCE);
        hand_over(d);
    }
    reader = job_durable_member(d, "reader", 0);
    for (unsigned i = 0; i < HANDOVERS; i++) {
        for (unsigned k = 0; k < JOBS_AT_ONCE; k++)
            do_job(reader, done++);
        hand_over(d);
    }
    actor_tell(&publisher, 0);
    n = actor_hear(&publisher);
    actor_join(&publisher);
    assert_true(done < n);
    while (done < n)
        do_job(reader, done++);
    must_hear_nothing(reader, "reader");
    mqc_close(reader);
    assert_int_equal(handovers(d), 2 * HANDOVERS);
    assert_int_equal(board_get(&daemon_board(d)->journal.counters.damaged), 0);
    assert_int_equal(daemon_stop(d), 0);
    assert_int_equal(
        PROGRAM(&check, "mqctl", "journal", "check", "--instance", d->instance, d->journal.path),
        0);
    assert_non_null(strstr(check.out, "\nwhole\n"));
    assert_non_null(strstr(check.out, " put, 0 live\n"));
}

/* ---- Signals meanwhile ---- */

static void a_stop_right_after_it_is_a_clean_stop(void **state)
{
    struct daemon *d = *state;

    for (long i = 0; i < 30; i++) { /* before, while and after it is executed */
        const struct timespec later = {.tv_nsec = i * 2000000};

        daemon_start(d, NULL);
        assert_int_equal(kill(d->pid, SIGUSR2), 0);
        nanosleep(&later, NULL);
        assert_int_equal(daemon_stop(d), 0);
        assert_true(daemon_is_gone(d));
    }
}

static void no_signal_gets_lost(void **state)
{
    struct daemon *d = *state;

    daemon_start(d, NULL);
    for (unsigned i = 1; i <= HANDOVERS; i++) {
        const struct timespec later = {.tv_nsec = i * 2000000};

        assert_int_equal(kill(d->pid, SIGUSR2), 0);
        nanosleep(&later, NULL);
        assert_int_equal(kill(d->pid, SIGHUP), 0);
        PATIENCE_UNTIL(board_get(&daemon_board(d)->totals.reloads) == i);
        PATIENCE_UNTIL(handovers(d) == i);
    }
}

/* ---- Another binary ---- */

/* A folder with a broker of its own. */
static char folder[] = "/tmp/it-handover-XXXXXX";
static char program[sizeof(folder) + 16];

static int set_up(void **state)
{
    memcpy(folder + sizeof(folder) - 7, "XXXXXX", 6);
    if (mkdtemp(folder) == NULL || chmod(folder, 0755) < 0)
        return -1;
    snprintf(program, sizeof(program), "%s/mqbroker", folder);
    return daemon_setup(state);
}

static int tear_down(void **state)
{
    char fresh[sizeof(program) + 8];
    int r = daemon_teardown(state);

    snprintf(fresh, sizeof(fresh), "%s.new", program);
    unlink(fresh);
    unlink(program);
    return rmdir(folder) < 0 ? -1 : r;
}

/* A file to be moved to the program's place. */
static int begin_file(char path[sizeof(program) + 8], mode_t mode)
{
    int fd;

    snprintf(path, sizeof(program) + 8, "%s.new", program);
    unlink(path);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    assert_true(fd >= 0);
    return fd;
}

/* Put a copy of the broker there, as an upgrade does. */
static void install(void)
{
    char path[sizeof(program) + 8];
    int from = open(MQB_BIN_DIR "/mqbroker", O_RDONLY | O_CLOEXEC);
    int to = begin_file(path, 0755);
    struct stat st;

    assert_true(from >= 0);
    assert_int_equal(fstat(from, &st), 0);
    for (off_t at = 0; at < st.st_size;)
        assert_true(sendfile(to, from, &at, (size_t)(st.st_size - at)) > 0);
    close(from);
    close(to);
    assert_int_equal(rename(path, program), 0);
}

/* Put something else there. */
static void install_text(const char *text, mode_t mode)
{
    char path[sizeof(program) + 8];
    int to = begin_file(path, mode);

    assert_int_equal(write(to, text, strlen(text)), strlen(text));
    close(to);
    assert_int_equal(rename(path, program), 0);
}

/* Is what is installed what runs? */
static bool runs_what_is_installed(const struct daemon *d)
{
    char exe[64];
    struct stat running, installed;

    snprintf(exe, sizeof(exe), "/proc/%d/exe", (int)d->pid);
    assert_int_equal(stat(exe, &running), 0);
    return stat(program, &installed) == 0 && running.st_ino == installed.st_ino &&
           running.st_dev == installed.st_dev;
}

static void what_is_installed_by_then_runs(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    d->program = program;
    install();
    daemon_start(d, NULL);
    client = open_round(d);
    install();
    assert_false(runs_what_is_installed(d));
    hand_over(d);
    assert_true(runs_what_is_installed(d));
    send_round(client);

    assert_int_equal(unlink(program), 0); /* nothing is: the same once more */
    hand_over(d);
    send_round(client);
    install(); /* and its path is not forgotten */
    hand_over(d);
    assert_true(runs_what_is_installed(d));
    send_round(client);
    mqc_close(client);
}

static void who_cannot_take_over_is_not_let_to(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;
    unsigned descriptors;

    d->program = program;
    install();
    daemon_start(d, NULL);
    client = open_round(d);
    hand_over(d);
    descriptors = daemon_descriptors(d);

    install_text("#!/bin/sh\necho 'mqbroker: too new for that' >&2; echo more >&2; exit 1\n", 0755);
    be_refused(d, client, "says: mqbroker: too new for that; this broker goes on");
    install_text("#!/bin/sh\nexit 3\n", 0755);
    be_refused(d, client, "refused with status 3; this broker goes on");
    install_text("#!/bin/sh\nkill -9 $$\n", 0755);
    be_refused(d, client, "was ended by signal 9 when it was asked");
    install_text("for another processor", 0755);
    be_refused(d, client, "cannot be run: Exec format error");
    install_text("#!/bin/sh\nexit 0\n", 0644);
    be_refused(d, client, "cannot be run: Permission denied");
    install_text("#!/bin/sh\nchmod -x \"$0\"\n", 0755); /* says yes, and then cannot be executed */
    be_refused(d, client, "cannot be run: Permission denied; this broker goes on");

    assert_int_equal(daemon_descriptors(d), descriptors);
    assert_int_equal(handovers(d), 1);
    install();
    hand_over(d);
    send_round(client);
    mqc_close(client);
}

static void who_does_not_answer_is_not_waited_for(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    d->program = program;
    install();
    daemon_start(d, NULL);
    client = open_round(d);
    install_text("#!/bin/sh\nexec sleep 1000\n", 0755);
    assert_int_equal(kill(d->pid, SIGUSR2), 0);
    PATIENCE_UNTIL(daemon_said(d, "handover: asking"));
    send_round(client);                         /* meanwhile */
    assert_int_equal(kill(d->pid, SIGUSR2), 0); /* once is enough */
    PATIENCE_UNTIL(daemon_said(d, "did not answer within"));
    send_round(client);
    assert_int_equal(refused(d), 1);
    assert_int_equal(daemon_said_times(d, "handover: asking"), 1);

    assert_int_equal(kill(d->pid, SIGUSR2), 0); /* and a stop does not wait either */
    PATIENCE_UNTIL(daemon_said_times(d, "handover: asking") == 2);
    mqc_close(client);
    assert_int_equal(daemon_stop(d), 0);
}

static void a_configuration_that_is_wrong_by_then_stops_nothing(void **state)
{
    struct daemon *d = *state;
    struct mqc *client;

    daemon_start(d, NULL);
    client = open_round(d);
    daemon_configure(d, "poll_usec = 2000;\n");
    be_refused(d, client, "poll_usec must be from 0 to 1000; this broker goes on");
    daemon_configure(d, "poll_usec = 0;\n");
    hand_over(d);
    send_round(client);
    mqc_close(client);
}

/* ---- The question ---- */

static int ask(struct program *p, int ledger, int board)
{
    char l[16], b[16];

    snprintf(l, sizeof(l), "%d", ledger);
    snprintf(b, sizeof(b), "%d", board);
    return PROGRAM(p, "mqbroker", "--adopts", l, b);
}

static void only_its_own_layouts_are_adopted(void **state)
{
    static struct program p;
    char layouts[64];

    (void)state;
    assert_int_equal(ask(&p, PERSIST_LAYOUT, BOARD_LAYOUT), 0);
    assert_string_equal(p.out, "");
    assert_string_equal(p.err, "");
    assert_int_equal(ask(&p, PERSIST_LAYOUT + 1, BOARD_LAYOUT), 1);
    assert_non_null(strstr(p.err, "stop that broker, then start this one\n"));
    assert_int_equal(ask(&p, PERSIST_LAYOUT, BOARD_LAYOUT - 1), 1);
    assert_int_equal(PROGRAM(&p, "mqbroker", "--adopts", "3x", "3"), 1);
    assert_int_equal(PROGRAM(&p, "mqbroker", "--adopts", "3"), 2);
    assert_int_equal(PROGRAM(&p, "mqbroker", "--adopts", "3", "3", "3"), 2);
    assert_int_equal(PROGRAM(&p, "mqbroker", "--version"), 0);
    snprintf(layouts, sizeof(layouts), "ledger layout %d, board layout %d\n", PERSIST_LAYOUT,
             BOARD_LAYOUT);
    assert_non_null(strstr(p.out, layouts));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DAEMON_TEST(K_a_handover_under_load_is_a_pause),
        DAEMON_TEST(S7_large_payloads_outlive_a_handover),
        DAEMON_TEST(handovers_leak_no_descriptor),
        DAEMON_TEST(J_durable_messages_outlive_a_handover_once_and_in_order),
        DAEMON_TEST(a_stop_right_after_it_is_a_clean_stop),
        DAEMON_TEST(no_signal_gets_lost),
        cmocka_unit_test_setup_teardown(what_is_installed_by_then_runs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_cannot_take_over_is_not_let_to, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_does_not_answer_is_not_waited_for, set_up, tear_down),
        DAEMON_TEST(a_configuration_that_is_wrong_by_then_stops_nothing),
        cmocka_unit_test(only_its_own_layouts_are_adopted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
