/* The steps of the scenario, in the order of the file. Each leaves nothing open, so each is a
 * complete story; only the burst in the middle is read after the pause.
 *
 * Every call of the library is timed, so it is known how long a client waited that had begun it
 * before the broker was killed, or began it while none ran. */
#include "tests/support/scenario.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/support/patience.h"
#include "tests/support/proof.h"
#include "tests/support/stamp.h"

enum {
    WRITERS = 2,
    MORTAL = WRITERS, /* publishes too, as the one that dies */
    READER = 0,       /* receivers */
    OTHER = 1,
    GROUP = 2, /* whose members are the workers */
    WORKERS = 2,
    JOBS = 14,
    PRIORITIES = 4,
    LARGE = 20000, /* bytes: in a pool */
    MIDDLING = 700,
    BURST = 40,      /* more than a reply queue holds */
    QUIET_MS = 8000, /* so long nothing comes: then nothing more will */
    LOOK_MS = 20,
    ANSWER_MS = 30000,
    REFUSED_MAX = 8,
};

const char scenario_config[] =
    "max_clients = 12; store_size = \"2M\"; references = 4096;\n"
    "topic_rows = 32; pool_max = \"1M\"; stall_timeout = \"1h\"; poll_usec = 0;\n";

static const unsigned priorities[PRIORITIES] = {2, 8, 16, 28};

struct cast {
    struct scenario *s;
    struct actor *self;
    struct mqc *writers[WRITERS];
    struct mqc *receivers[2];
    struct mqc *workers[WORKERS];
    struct mqc *server;
    struct mqc *asker;
};

/* ---- Time ---- */

static void begin(struct scenario *s)
{
    s->begun = proof_now();
}

static int64_t end(struct scenario *s, int64_t result)
{
    uint64_t killed = atomic_load(&s->killed);
    uint64_t now = proof_now();
    uint64_t since = s->begun > killed ? s->begun : killed;

    if (killed != 0 && now - since > s->longest_wait)
        s->longest_wait = now - since;
    return result;
}

/* The result of a call of the library. */
#define TIMED(s_, call_) (begin(s_), end((s_), (call_)))

/* Refused, but it may be tried again? */
static bool again(struct scenario *s, int64_t result)
{
    if (result >= 0 || result == -ECONNRESET || result == -ESHUTDOWN)
        return false;
    return s->tolerant && s->n_refused++ < REFUSED_MAX;
}

/* A call that must succeed, be it at the second time. */
#define INSIST(s_, call_)                                                                          \
    do {                                                                                           \
        int64_t result_;                                                                           \
        do                                                                                         \
            result_ = TIMED((s_), (call_));                                                        \
        while (again((s_), result_));                                                              \
        if (result_ < 0)                                                                           \
            fprintf(stderr, "%s\n", strerror((int)-result_));                                      \
        ACTOR_REQUIRE(result_ >= 0 && #call_[0] != '\0');                                          \
    } while (0)

/* ---- Open and close ---- */

/* While no broker runs one is told so, and tries again. */
static struct mqc *join(struct scenario *s, const char *name, unsigned flags)
{
    const struct mqc_options options = {.instance = s->instance, .name = name, .flags = flags};
    struct mqc *client = NULL;
    uint64_t begun = proof_now();
    int64_t r;

    begin(s);
    do
        r = mqc_open(&client, &options);
    while ((r == -ECONNREFUSED && proof_now() - begun < QUIET_MS * UINT64_C(1000000)) ||
           again(s, r));
    end(s, r);
    ACTOR_REQUIRE(r == 0);
    return client;
}

static void leave(struct cast *c, struct mqc *client)
{
    if (mqc_missed(client) != 0)
        tally_wrong(&c->s->tally, "a client missed %llu messages",
                    (unsigned long long)mqc_missed(client));
    begin(c->s);
    mqc_close(client);
    end(c->s, 0);
}

static void listen_to(struct cast *c, unsigned receiver, const char *filter)
{
    INSIST(c->s, mqc_subscribe(c->receivers[receiver], filter, 0));
    tally_listen(&c->s->tally, receiver, true);
}

static void everybody_comes(struct cast *c)
{
    c->receivers[READER] = join(c->s, "reader", 0);
    listen_to(c, READER, "load/#");
    c->receivers[OTHER] = join(c->s, "other", 0);
    listen_to(c, OTHER, "load/+");
    for (unsigned i = 0; i < WRITERS; i++)
        c->writers[i] = join(c->s, NULL, MQC_PUBLISH_ONLY);
    ACTOR_REQUIRE(mqc_set_batching(c->writers[1], 1) == 0);
    c->server = join(c->s, "server", 0);
    INSIST(c->s, mqc_subscribe(c->server, "ask", 0));
    c->asker = join(c->s, NULL, 0);
}

static void everybody_goes(struct cast *c)
{
    leave(c, c->asker);
    leave(c, c->server);
    for (unsigned i = 0; i < WRITERS; i++)
        leave(c, c->writers[i]);
    leave(c, c->receivers[OTHER]);
    leave(c, c->receivers[READER]);
}

/* ---- Publish and receive ---- */

static int64_t publish_confirmed(struct scenario *s, struct mqc *client,
                                 const struct mqc_publication *p)
{
    int64_t number = TIMED(s, mqc_publish_with(client, p));

    return number < 0 ? number : TIMED(s, mqc_confirm_wait(client, number, ANSWER_MS));
}

/* With a confirm, if asked for, or if it may be refused. */
static void publish_stamp(struct scenario *s, struct mqc *client, const struct stamp *stamp,
                          bool confirm)
{
    static uint8_t payload[LARGE];
    struct mqc_publication p = {
        .topic = "load/a", .payload = payload, .size = stamp->size, .priority = stamp->stream};

    stamp_fill(payload, stamp);
    if (confirm || s->tolerant) {
        p.flags = MQC_CONFIRM;
        INSIST(s, publish_confirmed(s, client, &p));
    } else {
        INSIST(s, mqc_publish_with(client, &p));
    }
}

static struct stamp next_stamp(struct scenario *s, unsigned publisher, unsigned priority,
                               uint32_t size)
{
    return (struct stamp){.publisher = publisher,
                          .stream = priority,
                          .number = tally_send(&s->tally, publisher, priority),
                          .size = size};
}

static void publish(struct cast *c, unsigned writer, unsigned priority, uint32_t size, bool confirm)
{
    struct stamp stamp = next_stamp(c->s, writer, priority, size);

    publish_stamp(c->s, c->writers[writer], &stamp, confirm);
}

/* Read until a receiver has all that it must get; and whatever else is there. */
static void read_all(struct cast *c, unsigned receiver)
{
    struct tally *t = &c->s->tally;
    struct mqc_message m;
    int64_t r;

    do {
        bool more = tally_open(t, receiver) > 0;

        r = TIMED(c->s, mqc_receive(c->receivers[receiver], &m, more ? QUIET_MS : 0));
        if (r == 0) {
            tally_receive(t, receiver, m.payload, m.size);
            mqc_message_free(&m);
        }
    } while (r == 0);
    ACTOR_REQUIRE(r == -EAGAIN || r == -ETIMEDOUT);
    tally_settle(t, receiver);
}

/* ---- The steps ---- */

/* All priorities and sizes, from both publishers. */
static void they_talk(struct cast *c)
{
    static const uint32_t sizes[] = {sizeof(struct stamp), 64, MIDDLING, LARGE};

    for (unsigned i = 0; i < PRIORITIES; i++) {
        for (unsigned k = 0; k < 4; k++)
            publish(c, k % WRITERS, priorities[i], sizes[(i + k) % 4], k == 3);
    }
    for (unsigned i = 0; i < WRITERS; i++)
        INSIST(c->s, mqc_flush(c->writers[i]));
    read_all(c, READER);
    read_all(c, OTHER);
}

/* More than fits the reply queues: it waits in the broker, and goes as room comes. */
static void they_talk_too_much(struct cast *c)
{
    for (unsigned i = 0; i < BURST; i++)
        publish(c, i % 5 == 0, priorities[i % PRIORITIES], i % 7 == 0 ? LARGE / 4 : 100, false);
    INSIST(c->s, mqc_flush(c->writers[1]));
    if (c->s->pauses) {
        actor_tell(c->self, 0);
        actor_hear(c->self);
    }
    read_all(c, READER);
    read_all(c, OTHER);
}

static int64_t ask(struct cast *c, const char *topic, const struct stamp *question)
{
    static uint8_t payload[LARGE];
    const struct mqc_publication p = {
        .topic = topic, .payload = payload, .size = question->size, .priority = question->stream};
    int64_t number;

    stamp_fill(payload, question);
    number = TIMED(c->s, mqc_request_send(c->asker, &p, ANSWER_MS));
    ACTOR_REQUIRE(number > 0);
    return number;
}

/* The server sends back what it is asked, if it is. */
static void serve(struct cast *c)
{
    struct mqc_message m;

    if (TIMED(c->s, mqc_receive(c->server, &m, 0)) < 0)
        return;
    ACTOR_REQUIRE((m.flags & MQC_M_REQUEST) != 0);
    INSIST(c->s, mqc_reply(c->server, &m, m.payload, m.size));
    mqc_message_free(&m);
}

/* What comes of a request: 0, and the stamp that came back, or why there is no reply. */
static int outcome(struct cast *c, int64_t number, struct stamp *stamp)
{
    uint64_t begun = proof_now();
    struct mqc_message m;
    int64_t r;
    int error;

    do {
        serve(c);
        r = TIMED(c->s, mqc_receive(c->asker, &m, LOOK_MS));
    } while (r == -ETIMEDOUT && proof_now() - begun < QUIET_MS * UINT64_C(1000000));
    if (r < 0) {
        tally_wrong(&c->s->tally, "request %lld had no answer", (long long)number);
        return (int)r;
    }
    if ((int64_t)m.number != number)
        tally_wrong(&c->s->tally, "request %lld had the answer of %lld", (long long)number,
                    (long long)m.number);
    error = (m.flags & MQC_M_FAILED) != 0 ? m.error : 0;
    if (error == 0 && !stamp_read(m.payload, m.size, stamp))
        tally_wrong(&c->s->tally, "request %lld had a torn reply", (long long)number);
    mqc_message_free(&m);
    return error;
}

static void nothing_more_for(struct cast *c, struct mqc *client)
{
    struct mqc_message m;

    while (mqc_receive(client, &m, 0) == 0) {
        tally_wrong(&c->s->tally, "a message of %zu bytes that nobody waits for", m.size);
        mqc_message_free(&m);
    }
}

static void they_ask(struct cast *c)
{
    static const uint32_t sizes[] = {sizeof(struct stamp), LARGE};

    for (uint32_t i = 0; i < 2; i++) {
        const struct stamp question = {.stream = i == 0 ? 8 : 28, .number = i, .size = sizes[i]};
        struct stamp reply = {0};
        int error;

        do { /* that it was not delivered may be the answer, too */
            int64_t number = ask(c, "ask", &question);

            error = outcome(c, number, &reply);
            if (error == 0)
                break;
        } while (again(c->s, error));
        if (error != 0 || memcmp(&reply, &question, sizeof(reply)) != 0)
            tally_wrong(&c->s->tally, "request %u had a wrong reply, error %d", i, error);
    }
}

static void nobody_is_asked(struct cast *c)
{
    const struct stamp question = {.stream = 8, .size = LARGE};
    struct stamp reply;
    int error;

    do
        error = outcome(c, ask(c, "nobody", &question), &reply);
    while (error != -ENOENT && again(c->s, error));
    if (error != -ENOENT)
        tally_wrong(&c->s->tally, "who asked nobody was told %d", error);
}

static void keep(struct cast *c, uint32_t number, uint32_t size)
{
    static uint8_t payload[LARGE];
    const struct stamp stamp = {.publisher = WRITERS, .number = number, .size = size};
    const struct mqc_publication p = {.topic = "kept/x",
                                      .payload = payload,
                                      .size = size,
                                      .priority = 8,
                                      .flags = MQC_RETAIN | MQC_CONFIRM};

    if (size > 0)
        stamp_fill(payload, &stamp);
    INSIST(c->s, publish_confirmed(c->s, c->writers[0], &p));
}

/* A late one gets the last of what was kept, and only that; when it is forgotten, nothing. */
static void they_keep(struct cast *c)
{
    struct stamp stamp = {0};
    struct mqc *late;
    struct mqc_message m;

    keep(c, 1, 64);
    keep(c, 2, LARGE);
    late = join(c->s, NULL, 0);
    INSIST(c->s, mqc_subscribe(late, "kept/#", 0));
    INSIST(c->s, mqc_receive(late, &m, QUIET_MS));
    if (!stamp_read(m.payload, m.size, &stamp) || stamp.number != 2 ||
        (m.flags & MQC_M_RETAINED) == 0)
        tally_wrong(&c->s->tally, "kept message %u came, not 2", stamp.number);
    mqc_message_free(&m);
    keep(c, 0, 0);
    INSIST(c->s, mqc_receive(late, &m, QUIET_MS)); /* as a message it comes, empty */
    mqc_message_free(&m);
    INSIST(c->s, mqc_subscribe(late, "kept/#", 0));
    nothing_more_for(c, late);
    leave(c, late);
}

/* What becomes of a group's messages: the first is given back once, the second is given up. */
struct jobs {
    struct stamp returned, rejected; /* of size 0: not yet */
    bool came_back;
    unsigned n;
};

static void do_job(struct cast *c, struct jobs *jobs, struct mqc *worker, struct mqc_message *m)
{
    struct tally *t = &c->s->tally;
    struct stamp stamp = {0};

    stamp_read(m->payload, m->size, &stamp);
    if (m->attempt == 1) {
        tally_receive(t, GROUP, m->payload, m->size);
        jobs->n++;
    } else if (m->attempt == 2 && !jobs->came_back &&
               memcmp(&stamp, &jobs->returned, sizeof(stamp)) == 0) {
        jobs->came_back = true;
    } else {
        tally_wrong(t, "the group was given message %u, priority %u in attempt %u", stamp.number,
                    stamp.stream, m->attempt);
    }
    if (m->attempt == 1 && jobs->n == 1) {
        jobs->returned = stamp;
        ACTOR_REQUIRE(mqc_nack(worker, m, 0) == 0);
    } else if (m->attempt == 1 && jobs->n == 2) {
        jobs->rejected = stamp;
        ACTOR_REQUIRE(mqc_reject(worker, m) == 0);
    } else {
        ACTOR_REQUIRE(mqc_ack(worker, m) == 0);
    }
    mqc_message_free(m);
}

/* Both workers, until all is done. */
static void do_jobs(struct cast *c, struct jobs *jobs)
{
    uint64_t begun = proof_now();

    while ((tally_open(&c->s->tally, GROUP) > 0 || !jobs->came_back) &&
           proof_now() - begun < QUIET_MS * UINT64_C(1000000)) {
        for (unsigned i = 0; i < WORKERS; i++) {
            struct mqc_message m;

            if (TIMED(c->s, mqc_receive(c->workers[i], &m, 1)) == 0)
                do_job(c, jobs, c->workers[i], &m);
        }
    }
    if (!jobs->came_back)
        tally_wrong(&c->s->tally, "what was given back to the group did not come back");
    tally_settle(&c->s->tally, GROUP);
}

static void read_dead_letter(struct cast *c, const struct stamp *expected)
{
    struct mqc *late = join(c->s, NULL, 0);
    struct stamp stamp = {0};
    struct mqc_message m;

    INSIST(c->s, mqc_join(late, "$dead/work", NULL, NULL));
    INSIST(c->s, mqc_receive(late, &m, QUIET_MS));
    if (!stamp_read(m.payload, m.size, &stamp) || memcmp(&stamp, expected, sizeof(stamp)) != 0)
        tally_wrong(&c->s->tally, "another message than the rejected one is a dead letter");
    ACTOR_REQUIRE(mqc_ack(late, &m) == 0);
    mqc_message_free(&m);
    leave(c, late);
}

/* A group with two workers, who decide in all ways that there are. */
static void they_work(struct cast *c)
{
    const struct mqc_group_options patient = {.prefetch = 3, .ack_timeout_ms = 1000000};
    struct jobs jobs = {0};
    int64_t left;

    for (unsigned i = 0; i < WORKERS; i++) {
        c->workers[i] = join(c->s, NULL, 0);
        INSIST(c->s, mqc_join(c->workers[i], "work", "load/a", &patient));
    }
    c->s->tally.shared[GROUP] = true;
    tally_listen(&c->s->tally, GROUP, true);
    for (unsigned i = 0; i < JOBS; i++)
        publish(c, i % WRITERS, priorities[i / 4 % PRIORITIES], i % 5 == 3 ? LARGE : 64,
                i == JOBS - 1);
    INSIST(c->s, mqc_flush(c->writers[1]));
    do_jobs(c, &jobs);
    read_dead_letter(c, &jobs.rejected);
    tally_listen(&c->s->tally, GROUP, false);
    for (unsigned i = 0; i < WORKERS; i++)
        INSIST(c->s, mqc_flush(c->workers[i]));
    left = TIMED(c->s, mqc_remove_group(c->workers[0], "work"));
    if (left != 0)
        tally_wrong(&c->s->tally, "%lld messages were left in the group", (long long)left);
    for (unsigned i = 0; i < WORKERS; i++)
        leave(c, c->workers[i]);
    read_all(c, READER);
    read_all(c, OTHER);
}

/* A durable group whose only member leaves before there is anything for it; another comes later. */
static void they_write(struct cast *c)
{
    const struct mqc_group_options durable = {.flags = MQC_DURABLE, .ack_timeout_ms = 1000000};
    struct mqc *member = join(c->s, NULL, 0);
    struct mqc_message m;
    int64_t left;

    INSIST(c->s, mqc_join(member, "paper", "load/a", &durable));
    leave(c, member);
    c->s->tally.shared[GROUP] = false;
    tally_listen(&c->s->tally, GROUP, true);
    for (unsigned i = 0; i < JOBS; i++)
        publish(c, i % WRITERS, priorities[i / 4 % PRIORITIES], i % 5 == 3 ? LARGE : 64,
                i % 4 == 3);
    INSIST(c->s, mqc_flush(c->writers[1]));
    member = join(c->s, NULL, 0);
    INSIST(c->s, mqc_join(member, "paper", NULL, NULL));
    while (tally_open(&c->s->tally, GROUP) > 0 &&
           TIMED(c->s, mqc_receive(member, &m, QUIET_MS)) == 0) {
        tally_receive(&c->s->tally, GROUP, m.payload, m.size);
        if (m.attempt != 1)
            tally_wrong(&c->s->tally,
                        "the durable group was given %zu bytes of priority %u in attempt %u",
                        m.size, m.priority, m.attempt);
        ACTOR_REQUIRE(mqc_ack(member, &m) == 0);
        mqc_message_free(&m);
    }
    tally_listen(&c->s->tally, GROUP, false);
    left = TIMED(c->s, mqc_remove_group(member, "paper"));
    if (left != 0)
        tally_wrong(&c->s->tally, "%lld messages were left in the durable group", (long long)left);
    leave(c, member);
    read_all(c, READER);
    read_all(c, OTHER);
}

static void one_listens_no_more(struct cast *c)
{
    INSIST(c->s, mqc_unsubscribe(c->receivers[OTHER], "load/+"));
    read_all(c, OTHER);
    tally_listen(&c->s->tally, OTHER, false);
    publish(c, 0, 8, 64, true);
    publish(c, 1, 28, LARGE, true);
    read_all(c, READER);
    nothing_more_for(c, c->receivers[OTHER]);
}

static void one_leaves_and_another_comes(struct cast *c)
{
    leave(c, c->receivers[OTHER]);
    c->receivers[OTHER] = join(c->s, "other2", 0);
    listen_to(c, OTHER, "#");
    publish(c, 1, 8, MIDDLING, true);
    read_all(c, READER);
    read_all(c, OTHER);
}

static int set_will(struct mqc *client, const struct stamp *stamp)
{
    static uint8_t payload[MIDDLING];

    stamp_fill(payload, stamp);
    return mqc_set_will(client, &(struct mqc_publication){.topic = "load/a",
                                                          .payload = payload,
                                                          .size = stamp->size,
                                                          .priority = stamp->stream});
}

/* Leaves a will, publishes, takes a question, and dies of it. */
static _Noreturn void live_and_die(struct scenario *s, const struct stamp stamps[3],
                                   const struct stamp *will, int line)
{
    static struct scenario own; /* it shares no memory with the living */
    struct mqc_message m;
    struct mqc *client;

    own = *s;
    s = &own;
    client = join(s, "mortal", 0);
    INSIST(s, mqc_subscribe(client, "mortal/#", 0));
    INSIST(s, set_will(client, will));
    ACTOR_REQUIRE(write(line, "1", 1) == 1);
    INSIST(s, mqc_receive(client, &m, ANSWER_MS));
    for (unsigned i = 0; i < 3; i++)
        publish_stamp(s, client, &stamps[i], false);
    raise(SIGKILL);
    _exit(EXIT_FAILURE);
}

static void one_dies(struct cast *c)
{
    const struct stamp question = {.stream = 8, .size = 64};
    struct stamp stamps[3], will, reply;
    int line[2];
    char word;
    int status;
    pid_t pid;

    for (unsigned i = 0; i < 3; i++)
        stamps[i] = next_stamp(c->s, MORTAL, 8, i == 1 ? LARGE : 64);
    will = next_stamp(c->s, MORTAL, 16, MIDDLING);
    ACTOR_REQUIRE(pipe(line) == 0);
    pid = fork();
    ACTOR_REQUIRE(pid >= 0);
    if (pid == 0) {
        close(line[0]);
        live_and_die(c->s, stamps, &will, line[1]);
    }
    close(line[1]);
    ACTOR_REQUIRE(read(line[0], &word, 1) == 1);
    close(line[0]);
    do
        status = outcome(c, ask(c, "@mortal", &question), &reply);
    while (again(c->s, status));
    if (status != -ECONNRESET)
        tally_wrong(&c->s->tally, "who asked the dying one was told %d", status);
    ACTOR_REQUIRE(waitpid(pid, &status, 0) == pid);
    ACTOR_REQUIRE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    read_all(c, READER);
    read_all(c, OTHER);
}

static void run(struct actor *self, const void *context)
{
    struct cast c = {.s = *(struct scenario *const *)context, .self = self};

    everybody_comes(&c);
    they_talk(&c);
    they_talk_too_much(&c);
    they_ask(&c);
    nobody_is_asked(&c);
    they_keep(&c);
    they_work(&c);
    if (c.s->writes)
        they_write(&c);
    one_listens_no_more(&c);
    one_leaves_and_another_comes(&c);
    one_dies(&c);
    nothing_more_for(&c, c.asker);
    nothing_more_for(&c, c.server);
    everybody_goes(&c);
}

/* ---- From outside ---- */

struct scenario *scenario_new(void)
{
    void *memory = mmap(NULL, sizeof(struct scenario), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_ptr_not_equal(memory, MAP_FAILED);
    return memory;
}

struct scenario *scenario_free(struct scenario *s)
{
    munmap(s, sizeof(*s));
    return NULL;
}

void scenario_start(struct scenario *s, struct actor *a, const char *instance)
{
    bool pauses = s->pauses;
    bool tolerant = s->tolerant;
    bool writes = s->writes;

    memset(s, 0, sizeof(*s));
    s->pauses = pauses;
    s->writes = writes;
    s->tolerant = tolerant;
    snprintf(s->instance, sizeof(s->instance), "%s", instance);
    actor_start(a, run, &s);
}

/* How it has ended, without taking that from who reaps it. False: it has not. */
static bool peek_end(const struct actor *a, siginfo_t *info)
{
    *info = (siginfo_t){0};
    assert_int_equal(waitid(P_PID, (id_t)a->pid, info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info->si_pid != 0;
}

bool scenario_is_over(const struct actor *a)
{
    siginfo_t info;

    return peek_end(a, &info);
}

bool scenario_join(struct scenario *s, struct actor *a)
{
    uint64_t begun = patience_now();
    siginfo_t info;

    while (!peek_end(a, &info))
        patience_spend(begun, "the scenario to end");
    actor_kill(a);
    if (info.si_code != CLD_EXITED || info.si_status != EXIT_SUCCESS)
        tally_wrong(&s->tally, "a client gave up");
    return tally_is_right(&s->tally);
}
