/* mqsub: subscribe, and write what comes, or hand it to a command.
 *
 * One loop: take all that is there, flush, look after what was missed, sleep until a message, a
 * signal, or the end of whoever reads our output. So a pipe sees each message at once, and a flood
 * is written in large pieces. Habits are those of mosquitto_sub. */
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
#include "tools/command.h"
#include "tools/format.h"
#include "tools/interrupt.h"
#include "tools/options.h"

enum {
    KEY_JSON = OPTIONS_KEY_LONG,
    KEY_EXEC,
};

enum {
    OUTPUT_SIZE = 65536,
    BURST = 1024, /* messages between two looks at the rest of the world */
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
    {'i', "id", "NAME",
     "register under this name: what is published to\n\"@NAME\" then comes here"},
    {'q', "quiet", NULL, "do not say how many messages were missed"},
    {0},
};

static const struct options_program program = {
    .name = "mqsub",
    .usage = "-t FILTER... [OPTIONS]\n-i NAME [OPTIONS]",
    .purpose = "Receive messages through the mqbroker of this machine, highest priority first.",
    .entries = entries,
    .more = "Format:\n"
            "  %t topic   %p payload   %x %X payload in hexadecimal   %l its bytes\n"
            "  %P priority   %r 1 if retained   %R 1 if it asks for a reply   %n number\n"
            "  %I time (ISO 8601)   %U time (Unix)   %j the object of --json   %% percent\n"
            "  \\n \\r \\t \\0 \\e \\\\ as in C\n"
            "  On a terminal, bytes of topic and payload that could act on it show as \\xHH.\n"
            "\n"
            "A command finds MQ_TOPIC, MQ_PRIORITY, MQ_SIZE, MQ_NUMBER, MQ_RETAINED and\n"
            "MQ_REQUEST in its environment. A request is answered if it exits with 0, else\n"
            "not at all.\n"
            "\n"
            "Examples:\n"
            "  mqsub -v -t 'plant/#'\n"
            "  mqsub -t plant/line1/state -C 1 -W 5           # one message, within 5 seconds\n"
            "  mqsub -t shout --exec 'tr a-z A-Z'             # answer requests\n"
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
    bool quiet;
    struct format format;
    struct mqc_options session;
};

struct subscriber {
    const struct arguments *arguments;
    struct mqc *client;
    int fd; /* to wait on */
    struct command command;
    uint64_t received;
    uint64_t missed;   /* as it was last said */
    uint64_t failed;   /* commands */
    uint64_t deadline; /* nanoseconds of CLOCK_MONOTONIC; 0: none */
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
    }
}

static void check_arguments(const struct options *options, struct arguments *arguments)
{
    options_no_rest(options);
    if (arguments->n_filters == 0 && arguments->session.name == NULL)
        options_usage(options,
                      "nothing to receive: -t FILTER, or -i NAME for what is sent to @NAME");
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
}

static void say_missed(struct subscriber *s)
{
    uint64_t missed = mqc_missed(s->client);

    if (missed > s->missed && !s->arguments->quiet)
        warnx("missed %llu messages (%llu in all): too slow for them, or they expired",
              (unsigned long long)(missed - s->missed), (unsigned long long)missed);
    s->missed = missed;
}

/* ---- Commands ---- */

static void say_failure(const struct command *command, const struct mqc_message *message, int r)
{
    const char *consequence =
        (message->flags & MQC_M_REQUEST) != 0 ? "; the request is not answered" : "";

    switch (r) {
    case COMMAND_E_STATUS:
        warnx("%s: the command exited with %d%s", message->topic, command->detail, consequence);
        break;
    case COMMAND_E_SIGNAL:
        warnx("%s: the command was killed (%s)%s", message->topic, strsignal(command->detail),
              consequence);
        break;
    case COMMAND_E_LARGE:
        warnx("%s: the command wrote more than the %zu bytes that fit a reply%s", message->topic,
              command->reply_limit, consequence);
        break;
    default:
        warnx("%s: the command could not be run: %s%s", message->topic, strerror(-r), consequence);
    }
}

/* Returns 0, or -errno when it is no use to go on. */
static int handle_by_command(struct subscriber *s, const struct mqc_message *message)
{
    int r = command_run(&s->command, message, s->received);

    if (r == COMMAND_E_INTERRUPTED)
        return -EINTR;
    if (r != COMMAND_OK) {
        s->failed++;
        say_failure(&s->command, message, r);
        return 0;
    }
    if ((message->flags & MQC_M_REQUEST) == 0)
        return 0;
    r = mqc_reply(s->client, message, s->command.reply.bytes, s->command.reply_size);
    if (r == -ESHUTDOWN || r == -ECONNRESET)
        return r;
    if (r < 0) {
        s->failed++;
        warnx("%s: the reply could not be sent: %s", message->topic, mqc_last_error());
    }
    return 0;
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
            r = handle_by_command(s, &message);
        else
            write_message(s, &message);
        mqc_message_free(&message);
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

        check_output(s, fflush(stdout));
        say_missed(s);
        if (r < 0 || s->received == s->arguments->count)
            return r;
        r = sleep_until_something(s);
        if (r < 0)
            return r;
    }
}

static int subscribe(struct subscriber *s)
{
    const struct arguments *arguments = s->arguments;

    for (size_t i = 0; i < arguments->n_filters; i++) {
        int r = mqc_subscribe(s->client, arguments->filters[i], arguments->subscribe_flags);

        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- The program ---- */

/* Say what ended it. Returns the exit status. */
static int finish(struct subscriber *s, int r)
{
    int status = s->failed > 0 ? EXIT_FAILURE : EXIT_SUCCESS;

    if (r == -ETIMEDOUT && s->arguments->count != UINT64_MAX) {
        warnx("%llu of %llu messages came in time", (unsigned long long)s->received,
              (unsigned long long)s->arguments->count);
        status = OPTIONS_EXIT_TIMEOUT;
    } else if (r < 0 && r != -ETIMEDOUT && r != -EINTR) {
        warnx("%s", mqc_last_error());
        status = EXIT_FAILURE;
    }
    command_deinit(&s->command);
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
    command_init(&s->command, arguments->exec, mqc_payload_max(s->client, ""));
}

int main(int argc, char **argv)
{
    struct arguments arguments = {.count = UINT64_MAX, .format.newline = true};
    struct subscriber subscriber;
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
    r = subscribe(&subscriber);
    if (r == 0)
        r = receive(&subscriber);
    r = finish(&subscriber, r);
    free(arguments.filters);
    return r;
}
