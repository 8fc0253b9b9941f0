/* mqsub: subscribe, or join a group, and write what comes, or hand it to a command.
 *
 * One loop: take all that is there, flush, look after what was missed, sleep until a message, a
 * signal, or the end of whoever reads our output. So a pipe sees each message at once, and a flood
 * is written in large pieces. A message of a group is acknowledged when it has been written, or its
 * command has ended well. Habits are those of mosquitto_sub. */
#include <err.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libclient/mqclient.h"
#include "tools/format.h"
#include "tools/interrupt.h"
#include "tools/options.h"
#include "tools/will.h"
#include "tools/worker.h"

enum {
    KEY_JSON = OPTIONS_KEY_LONG,
    KEY_EXEC,
    KEY_DURABLE,
    KEY_DEAD_EXPIRED,
    KEY_PREFETCH,
    KEY_ACK_TIMEOUT,
    KEY_DELIVERY_LIMIT,
    KEY_RETRY_DELAY,
};

enum {
    OUTPUT_SIZE = 65536,
    OWED_MAX = 64, /* messages written but not flushed, and so not acknowledged */
    DEFAULT_RETRY_MS = 1000,
};

static const struct options_entry entries[] = {
    {'t', "topic", "FILTER",
     "subscribe to these topics: '+' stands for one level,\n'#' for the rest; may be given again"},
    {'C', "count", "COUNT", "exit after so many messages"},
    {'W', "wait", "DURATION", "exit after this time, such as 5 (seconds) or 200ms"},
    {'v', "verbose", NULL, "write topic and payload"},
    {'F', "format", "FORMAT", "write each message like this, see below\n(default: %p)"},
    {KEY_JSON, "json", NULL, "write each message as a JSON object, one a line"},
    {'N', "no-newline", NULL, "no newline behind each message"},
    {'R', "no-retained", NULL, "leave out messages kept for later subscribers"},
    {KEY_EXEC, "exec", "COMMAND",
     "run a shell command for each message, its payload on\nstandard input; what it writes is "
     "the reply to a\nrequest"},
    {'g', "group", "GROUP",
     "share the messages with the other members of this\ngroup; \"$dead/GROUP\": its dead "
     "letters"},
    {KEY_DURABLE, "durable", NULL, "the group outlives the broker and the machine's start"},
    {KEY_DEAD_EXPIRED, "dead-expired", NULL, "what expires in the group becomes a dead letter"},
    {KEY_PREFETCH, "prefetch", "N",
     "be given so many messages of the group at a time\n(default: 16; with --exec 1)"},
    {KEY_ACK_TIMEOUT, "ack-timeout", "DURATION",
     "what is not dealt with in this time goes to another\nmember"},
    {KEY_DELIVERY_LIMIT, "delivery-limit", "N",
     "what was delivered so often in vain becomes a dead\nletter"},
    {KEY_RETRY_DELAY, "retry-delay", "DURATION",
     "before a message whose command failed comes again\n(default: 1s)"},
    {'i', "id", "NAME",
     "register under this name: what is published to\n\"@NAME\" then comes here"},
    WILL_ENTRIES,
    {'q', "quiet", NULL, "do not say how many messages were missed"},
    {0},
};

static const struct options_program program = {
    .name = "mqsub",
    .usage = "-t FILTER... [OPTIONS]\n-g GROUP [-t FILTER...] [OPTIONS]\n-i NAME [OPTIONS]",
    .purpose = "Receive messages through the mqbroker of this machine, highest priority first.",
    .entries = entries,
    .more = "Format:\n"
            "  %t topic   %p payload   %x %X payload in hexadecimal   %l its bytes\n"
            "  %P priority   %r 1 if retained   %R 1 if it asks for a reply   %n number\n"
            "  %A attempt: 1 for the first delivery, more if it came back to its group\n"
            "  %I time (ISO 8601)   %U time (Unix)   %j the object of --json   %% percent\n"
            "  \\n \\r \\t \\0 \\e \\\\ as in C\n"
            "  On a terminal, bytes of topic and payload that could act on it show as \\xHH.\n"
            "\n"
            "A command finds MQ_TOPIC, MQ_PRIORITY, MQ_SIZE, MQ_NUMBER, MQ_RETAINED,\n"
            "MQ_REQUEST and MQ_ATTEMPT in its environment. A request is answered if it exits\n"
            "with 0, else not at all.\n"
            "\n"
            "Groups: a message is done when it was written, or its command exits with 0. 65\n"
            "(EX_DATAERR): it becomes a dead letter. Any other status, or a signal: it comes\n"
            "again after --retry-delay; 75 (EX_TEMPFAIL) says so without being an error.\n"
            "Settings are those of the group's first member; without -t it must exist.\n"
            "\n"
            "Examples:\n"
            "  mqsub -v -t 'plant/#'\n"
            "  mqsub -t plant/line1/state -C 1 -W 5           # one message, within 5 seconds\n"
            "  mqsub -t shout --exec 'tr a-z A-Z'             # answer requests\n"
            "  mqsub -g mailers -t mail/out --exec ./send     # work through a queue; more of\n"
            "                                                 # these share it\n"
            "  mqsub -g '$dead/mailers' -v                    # what could not be done\n"
            "\n"
            "Exit status: 0 done, 1 error (or a command failed), 2 wrong usage, 3 less than\n"
            "COUNT messages in time.",
};

struct arguments {
    const char **filters;
    size_t n_filters;
    uint64_t count;   /* UINT64_MAX: without end */
    uint64_t wait_ns; /* 0: without end */
    unsigned subscribe_flags;
    const char *exec;
    const char *group;
    struct mqc_group_options group_options;
    bool group_said; /* there were options that only a group has */
    unsigned retry_ms;
    struct mqc_publication will;
    bool quiet;
    struct format format;
    struct mqc_options session;
};

struct subscriber {
    const struct arguments *arguments;
    struct mqc *client;
    int fd; /* to wait on */
    struct worker worker;
    uint64_t received;
    uint64_t missed;   /* as it was last said */
    uint64_t deadline; /* nanoseconds of CLOCK_MONOTONIC; 0: none */
    unsigned n_owed;
    struct mqc_message owed[OWED_MAX]; /* freed: what counts for the acknowledgement is left */
};

/* ---- Arguments ---- */

static void set_format(const struct options *options, struct arguments *arguments, const char *text)
{
    const char *bad;

    if (arguments->format.text != NULL)
        options_usage(options, "only one of -v, -F and --json");
    if (!format_valid(text, &bad))
        options_usage(options, "--format: there is no escape '%.2s'", bad);
    arguments->format.text = text;
}

/* Returns whether it is an option of groups. */
static bool take_group_option(const struct options *options, int key, struct arguments *arguments)
{
    struct mqc_group_options *group = &arguments->group_options;

    switch (key) {
    case KEY_DURABLE:
        group->flags |= MQC_DURABLE;
        return true;
    case KEY_DEAD_EXPIRED:
        group->flags |= MQC_DEAD_EXPIRED;
        return true;
    case KEY_PREFETCH:
        group->prefetch = (unsigned)options_number(options, 1, UINT16_MAX);
        return true;
    case KEY_ACK_TIMEOUT:
        group->ack_timeout_ms = (unsigned)options_milliseconds(options_duration(options));
        if (group->ack_timeout_ms == 0)
            options_usage(options, "--ack-timeout: nothing is done in no time");
        return true;
    case KEY_DELIVERY_LIMIT:
        group->delivery_limit = (unsigned)options_number(options, 1, UINT8_MAX);
        return true;
    case KEY_RETRY_DELAY:
        arguments->retry_ms = (unsigned)options_milliseconds(options_duration(options));
        return true;
    default:
        return false;
    }
}

static void take_option(const struct options *options, int key, struct arguments *arguments)
{
    switch (key) {
    case 't':
        arguments->filters[arguments->n_filters++] = options->value;
        break;
    case 'C':
        arguments->count = options_number(options, 1, UINT64_MAX);
        break;
    case 'W':
        arguments->wait_ns = options_duration(options);
        if (arguments->wait_ns == 0)
            options_usage(options, "--wait: nothing comes without waiting");
        break;
    case 'v':
        set_format(options, arguments, FORMAT_VERBOSE);
        break;
    case 'F':
        set_format(options, arguments, options->value);
        break;
    case KEY_JSON:
        set_format(options, arguments, FORMAT_JSON);
        break;
    case 'N':
        arguments->format.newline = false;
        break;
    case 'R':
        arguments->subscribe_flags |= MQC_NO_RETAINED;
        break;
    case KEY_EXEC:
        arguments->exec = options->value;
        break;
    case 'i':
        arguments->session.name = options->value;
        break;
    case 'q':
        arguments->quiet = true;
        break;
    case 'g':
        if (arguments->group != NULL)
            options_usage(options, "only one group: '%s' or '%s'", arguments->group,
                          options->value);
        arguments->group = options->value;
        break;
    default:
        if (take_group_option(options, key, arguments))
            arguments->group_said = true;
        else
            will_take(&arguments->will, options, key);
    }
}

static void check_group(const struct options *options, struct arguments *arguments)
{
    if (arguments->group == NULL && arguments->group_said)
        options_usage(options, "options of a group, but no group: -g GROUP");
    if (arguments->group != NULL && arguments->subscribe_flags != 0)
        options_usage(options, "a group is given no kept messages: -R does not go with -g");
    if (arguments->exec != NULL && arguments->group_options.prefetch == 0)
        arguments->group_options.prefetch = 1;
}

static void check_arguments(const struct options *options, struct arguments *arguments)
{
    options_no_rest(options);
    if (arguments->n_filters == 0 && arguments->session.name == NULL && arguments->group == NULL)
        options_usage(options, "nothing to receive: -t FILTER, -g GROUP, or -i NAME for what is "
                               "sent to @NAME");
    check_group(options, arguments);
    will_check(&arguments->will, options);
    if (arguments->exec != NULL && (arguments->format.text != NULL || !arguments->format.newline))
        options_usage(options, "--exec writes nothing: it does not go with -v, -F, --json and -N");
    if (arguments->format.text == NULL)
        arguments->format.text = FORMAT_PAYLOAD;
    arguments->format.terminal = isatty(STDOUT_FILENO);
    arguments->session.instance = options->instance;
}

/* ---- Time ---- */

static uint64_t monotonic(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* What is left until the deadline, for poll; -1: without end. */
static int time_left(const struct subscriber *s)
{
    uint64_t now;

    if (s->deadline == 0)
        return -1;
    now = monotonic();
    return now < s->deadline ? options_milliseconds(s->deadline - now) : 0;
}

/* ---- Output ---- */

/* Nobody reads our output any more: say goodbye, and end as programs in a pipe do. */
static _Noreturn void die_of_closed_output(struct subscriber *s)
{
    mqc_close(s->client);
    signal(SIGPIPE, SIG_DFL);
    raise(SIGPIPE);
    exit(EXIT_FAILURE);
}

static void check_output(struct subscriber *s, int r)
{
    if (r == 0 && !ferror(stdout))
        return;
    if (errno == EPIPE)
        die_of_closed_output(s);
    mqc_close(s->client);
    err(EXIT_FAILURE, "standard output, after %llu messages", (unsigned long long)s->received);
}

static void write_message(struct subscriber *s, const struct mqc_message *message)
{
    struct timespec now;
    int r;

    clock_gettime(CLOCK_REALTIME, &now);
    r = format_print(&s->arguments->format, message, s->received, &now, stdout);
    if (r < 0)
        errno = -r;
    check_output(s, r);
    if (message->acknowledge)
        s->owed[s->n_owed++] = *message;
}

/* What was written is with whoever reads our output: acknowledge it. Returns 0, or -errno when it
 * is no use to go on. */
static int settle(struct subscriber *s)
{
    int r = 0;

    check_output(s, fflush(stdout));
    for (unsigned i = 0; i < s->n_owed && r == 0; i++)
        r = mqc_ack(s->client, &s->owed[i]);
    s->n_owed = 0;
    return r;
}

static void say_missed(struct subscriber *s)
{
    uint64_t missed = mqc_missed(s->client);

    if (missed > s->missed && !s->arguments->quiet)
        warnx("missed %llu messages (%llu in all): too slow for them, or they expired",
              (unsigned long long)(missed - s->missed), (unsigned long long)missed);
    s->missed = missed;
}

/* ---- Receive ---- */

/* Take all that is there, or as many as are wanted. Returns 0, or -errno when it is no use to go
 * on. */
static int drain(struct subscriber *s)
{
    struct mqc_message message;
    int r = 0;

    while (s->received < s->arguments->count && !interrupt_seen()) {
        r = mqc_receive(s->client, &message, 0);
        if (r < 0)
            return r == -EAGAIN ? 0 : r;
        s->received++;
        if (s->arguments->exec != NULL)
            r = worker_handle(&s->worker, &message, s->received);
        else
            write_message(s, &message);
        mqc_message_free(&message);
        if (s->n_owed == OWED_MAX)
            r = settle(s);
        if (r < 0 || time_left(s) == 0)
            break;
    }
    return r;
}

/* Sleep until there may be something. Returns 0, -ETIMEDOUT, -EINTR, or another -errno. */
static int sleep_until_something(struct subscriber *s)
{
    struct pollfd fds[] = {
        {.fd = s->fd, .events = POLLIN},
        {.fd = STDOUT_FILENO, .events = 0}, /* POLLERR: a pipe lost its reader */
    };
    int r = interrupt_poll(fds, 2, time_left(s));

    if (r == 0)
        return -ETIMEDOUT;
    if (r > 0 && (fds[1].revents & POLLERR) != 0 && s->arguments->exec == NULL)
        die_of_closed_output(s);
    return r < 0 ? r : 0;
}

/* Until something ends it: 0 when all that were wanted are there, else -errno. */
static int receive(struct subscriber *s)
{
    for (;;) {
        int r = drain(s);

        if (r == 0)
            r = settle(s);
        else
            check_output(s, fflush(stdout));
        say_missed(s);
        if (r < 0 || s->received == s->arguments->count)
            return r;
        r = sleep_until_something(s);
        if (r < 0)
            return r;
    }
}

static int join(struct subscriber *s)
{
    const struct arguments *arguments = s->arguments;
    int r = 0;

    if (arguments->n_filters == 0)
        return mqc_join(s->client, arguments->group, NULL, &arguments->group_options);
    for (size_t i = 0; i < arguments->n_filters && r == 0; i++)
        r = mqc_join(s->client, arguments->group, arguments->filters[i], &arguments->group_options);
    return r;
}

static int subscribe(struct subscriber *s)
{
    const struct arguments *arguments = s->arguments;
    int r = 0;

    for (size_t i = 0; i < arguments->n_filters && r == 0; i++)
        r = mqc_subscribe(s->client, arguments->filters[i], arguments->subscribe_flags);
    return r;
}

/* The will first: who hears that we are there may rely on hearing that we are not. */
static int introduce(struct subscriber *s)
{
    int r = s->arguments->will.topic != NULL ? mqc_set_will(s->client, &s->arguments->will) : 0;

    if (r < 0)
        return r;
    return s->arguments->group != NULL ? join(s) : subscribe(s);
}

/* ---- The program ---- */

/* Say what ended it. Returns the exit status. */
static int finish(struct subscriber *s, int r)
{
    int status = s->worker.failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;

    if (r == -ETIMEDOUT && s->arguments->count != UINT64_MAX) {
        warnx("%llu of %llu messages came in time", (unsigned long long)s->received,
              (unsigned long long)s->arguments->count);
        status = OPTIONS_EXIT_TIMEOUT;
    } else if (r < 0 && r != -ETIMEDOUT && r != -EINTR) {
        warnx("%s", mqc_last_error());
        status = EXIT_FAILURE;
    }
    worker_deinit(&s->worker);
    mqc_close(s->client);
    return status;
}

static void begin(struct subscriber *s, const struct arguments *arguments)
{
    *s = (struct subscriber){.arguments = arguments};
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOFBF, OUTPUT_SIZE);
    if (arguments->wait_ns > 0)
        s->deadline = monotonic() + arguments->wait_ns;
    if (mqc_open(&s->client, &arguments->session) < 0 || (s->fd = mqc_fd(s->client)) < 0)
        errx(EXIT_FAILURE, "%s", mqc_last_error());
    interrupt_catch();
    worker_init(&s->worker, s->client, arguments->exec, arguments->retry_ms);
}

int main(int argc, char **argv)
{
    struct arguments arguments = {.count = UINT64_MAX,
                                  .format.newline = true,
                                  .retry_ms = DEFAULT_RETRY_MS,
                                  .will = WILL_NONE};
    static struct subscriber subscriber;
    struct options options;
    int r;

    arguments.filters = calloc((size_t)argc, sizeof *arguments.filters);
    if (arguments.filters == NULL)
        err(EXIT_FAILURE, "arguments");
    options_begin(&options, &program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;)
        take_option(&options, key, &arguments);
    check_arguments(&options, &arguments);
    begin(&subscriber, &arguments);
    r = introduce(&subscriber);
    if (r == 0)
        r = receive(&subscriber);
    r = finish(&subscriber, r);
    free(arguments.filters);
    return r;
}
