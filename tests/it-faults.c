/* Can the storm see anything? Faults are planted in a broker (broker/persist.h, support/faulty.c),
 * one at a time, and the storm (it-storm) rages over it, a hundred kills at a time, until it finds
 * that something is wrong; after how many kills, and seconds, is printed. One that is not found
 * within its bound fails the test. Without a fault the same broker passes.
 *
 * Most of them are stretched: they rest between stores, so that more of the kills hit there.
 *
 * The short form tries those that are found at once; with MQB_LONG=1 all, which takes half an hour.
 * Some cannot be seen by anybody outside in a sane time: what they would spoil needs a death
 * between two neighbouring stores and one more thing at that moment. Those are named here, with the
 * reason, and left to the death test and the simulator, which die at each store in turn. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/faults.h"
#include "tests/support/patience.h"

enum { ROUND = 100 }; /* kills in one run of the storm */

struct plant {
    enum persist_fault fault;
    unsigned climate;   /* of the storm in which it shows best */
    unsigned stretch;   /* the broker rests before one in so many stores; 0: never */
    unsigned bound;     /* kills */
    bool quick;         /* also in the short form */
    const char *unseen; /* why it cannot be seen; NULL: it can */
};

static const struct plant plants[] = {
    {FAULT_NO_TAKEN, 1, 0, 2000, true, NULL},
    {FAULT_NO_AGE, 3, 0, 2000, true, NULL},
    {FAULT_NEW_NUMBER, 0, 1000, 2000, true, NULL},
    {FAULT_NO_TRY, 4, 1000, 2000, true, NULL},
    {FAULT_NO_COMMIT_CHECK, 1, 1000, 2000, false, NULL},
    {FAULT_NO_ORPHAN, 2, 1000, 2000, false, NULL},
    {FAULT_REFILL, 1, 400, 4000, false, NULL},
    {FAULT_NO_MEMBER, 4, 1000, 4000, false, NULL},
    {FAULT_NO_INTENT, 0, 1000, 4000, false, NULL},
    {FAULT_NO_SETTLE, 3, 1000, 4000, false, NULL},
    {FAULT_END_BEFORE_RETURN, 2, 200, 8000, false, NULL},
    {FAULT_COLLECTED_FIRST, 2, 200, 8000, false, NULL},
    {FAULT_NO_COUNT, 6, 1500, 8000, false, NULL},
    {FAULT_END_BEFORE_COMMIT, 3, 100, 8000, false, NULL},
    {FAULT_WILL_AGAIN, 4, 100, 8000, false, NULL},
    {.fault = FAULT_KEEP_MEMBER,
     .unseen = "the message that stays with its member goes out to it all the same, later"},
    {.fault = FAULT_AT_THE_END,
     .unseen = "while members are killed nobody outside can tell whose turn a message would be"},
    {.fault = FAULT_NO_LATE_MARK,
     .unseen = "it needs a server's death while an answer to the same requester is in doubt"},
    {.fault = FAULT_RETURN_BEFORE_COMMIT,
     .unseen = "the place is handed back twice, and its owner knows the second time by its "
               "generation"},
};

enum { PLANTS = sizeof(plants) / sizeof(plants[0]) };

/* ---- One run ---- */

struct run {
    const char *storm; /* the program */
    const char *broker;
    int said; /* what it wrote */
};

static _Noreturn void become_storm(const struct run *run, const struct plant *plant, unsigned seed)
{
    char kills[16], seeds[16], climate[16], stretch[16];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(run->said, STDOUT_FILENO);
    dup2(run->said, STDERR_FILENO);
    setenv("MQB_BROKER", run->broker, 1);
    if (plant->fault != FAULT_NONE)
        setenv(FAULTS_VARIABLE, faults_name(plant->fault), 1);
    snprintf(stretch, sizeof(stretch), "%u", plant->stretch);
    setenv(FAULTS_STRETCH, stretch, 1);
    snprintf(kills, sizeof(kills), "%d", ROUND);
    snprintf(seeds, sizeof(seeds), "%u", seed);
    snprintf(climate, sizeof(climate), "%u", plant->climate);
    execl(run->storm, "it-storm", kills, seeds, climate, (char *)NULL);
    _exit(127);
}

/* What it wrote. The caller frees it. */
static char *read_said(const struct run *run)
{
    off_t size = lseek(run->said, 0, SEEK_END);
    char *text = calloc(1, (size_t)size + 1);

    assert_non_null(text);
    assert_int_equal(pread(run->said, text, (size_t)size, 0), size);
    return text;
}

/* Did the storm find something wrong? `*kills` rises by those that it took. */
static bool storm_finds(const struct run *run, const struct plant *plant, unsigned seed,
                        unsigned *kills)
{
    unsigned struck = 0;
    int status;
    char *text;
    const char *at;
    pid_t pid;

    assert_int_equal(ftruncate(run->said, 0), 0);
    assert_int_equal(lseek(run->said, 0, SEEK_SET), 0);
    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        become_storm(run, plant, seed);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    text = read_said(run);
    at = strstr(text, "it-storm: failed after ");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        struck = ROUND;
    else if (at == NULL || sscanf(at, "it-storm: failed after %u", &struck) != 1)
        fail_msg("the storm has broken down, status %d: %s", status, text);
    free(text);
    *kills += struck;
    return at != NULL;
}

/* The first line that says what was wrong. */
static void say_finding(const struct run *run)
{
    static const char *const signs[] = {
        "history: ", " requires ", "in vain for: ", "has ended", "error: ", NULL};
    char *text = read_said(run);

    for (unsigned i = 0; signs[i] != NULL; i++) {
        const char *at = strstr(text, signs[i]);

        if (at == NULL)
            continue;
        while (at > text && at[-1] != '\n')
            at--;
        printf("    %.*s\n", (int)strcspn(at, "\n"), at);
        break;
    }
    free(text);
}

static struct run prepare(void)
{
    struct run run = {.storm = MQB_TEST_DIR "/it-storm", .broker = MQB_TEST_DIR "/mqbroker-faulty"};

    run.said = memfd_create("storm", MFD_CLOEXEC);
    assert_true(run.said >= 0);
    return run;
}

/* ---- The tests ---- */

static bool is_long(void)
{
    const char *form = getenv("MQB_LONG");

    return form != NULL && strcmp(form, "1") == 0;
}

static void a_broker_without_a_fault_passes(void **state)
{
    struct run run = prepare();
    const struct plant none = {.fault = FAULT_NONE};
    unsigned kills = 0;

    (void)state;
    if (storm_finds(&run, &none, 1, &kills)) {
        char *text = read_said(&run);

        fputs(text, stderr);
        free(text);
        fail_msg("the storm finds a fault where none was planted");
    }
    close(run.said);
}

static void search_for(const struct plant *plant)
{
    struct run run = prepare();
    uint64_t begun = patience_now();
    unsigned kills = 0;
    unsigned seed = 1;

    while (!storm_finds(&run, plant, seed++, &kills)) {
        if (kills >= plant->bound)
            fail_msg("%s: not found within %u kills", faults_name(plant->fault), kills);
    }
    printf("%s: found after %u kills, %.1f s\n", faults_name(plant->fault), kills,
           (double)(patience_now() - begun) / 1e3);
    say_finding(&run);
    close(run.said);
}

static void planted_faults_are_found(void **state)
{
    (void)state;
    for (unsigned i = 0; i < PLANTS; i++) {
        const struct plant *plant = &plants[i];

        if (plant->unseen != NULL)
            printf("%s: not looked for: %s\n", faults_name(plant->fault), plant->unseen);
        else if (plant->quick || is_long())
            search_for(plant);
    }
}

/* Whoever adds a fault says here what becomes of it. */
static void each_fault_has_a_name_and_a_verdict(void **state)
{
    (void)state;
    for (unsigned fault = FAULT_NONE + 1; fault < N_FAULTS; fault++) {
        const char *name = faults_name((enum persist_fault)fault);
        unsigned n = 0;

        assert_non_null(name);
        assert_int_equal(faults_find(name), fault);
        for (unsigned i = 0; i < PLANTS; i++)
            n += plants[i].fault == fault;
        if (n != 1)
            fail_msg("%s stands in the table %u times", name, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_fault_has_a_name_and_a_verdict),
        cmocka_unit_test(a_broker_without_a_fault_passes),
        cmocka_unit_test(planted_faults_are_found),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
