/* mqpub: publish messages from the command line.
 *
 * Messages come from an argument, a file, standard input as a whole, or its lines. Lines are
 * batched, and sent whenever the input pauses, so that none lingers. Nothing is lost silently: what
 * goes wrong is said together with how many messages went out before. Habits are those of
 * mosquitto_pub. */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "libclient/mqclient.h"
#include "tools/format.h"
#include "tools/growing.h"
#include "tools/interrupt.h"
#include "tools/lines.h"
#include "tools/options.h"
#include "tools/will.h"

enum {
    KEY_TTL = OPTIONS_KEY_LONG,
    KEY_CONFIRM,
    KEY_REQUEST,
    KEY_REPEAT,
    KEY_INTERVAL,
};

enum {
    DEFAULT_WAIT_MS = 5000,
    REFUSALS_SAID = 10, /* one by one; the rest is counted */
    OPEN_CONFIRMS =
        512, /* publishes that may be unconfirmed at once: the library keeps 1,024 outcomes */
    PROGRESS_LINES = 256, /* look at the clock once in so many */
    LARGE = 65536,        /* bytes of a file that is worth a loan */
};

static const struct options_entry entries[] = {
    {'t', "topic", "TOPIC", "publish to this topic; \"@NAME\" reaches the client\nof that name"},
    {'m', "message", "TEXT", "the message"},
    {'f', "file", "FILE", "the message is the contents of this file;\n\"-\" is standard input"},
    {'s', "stdin", NULL, "the message is all of standard input"},
    {'l', "lines", NULL, "each line of standard input is a message"},
    {'n', "null", NULL, "the message is empty"},
    {'p', "priority", "PRIORITY",
     "0 (lowest) to 31 (highest); 24 and more are urgent\n(default: 8)"},
    {'r', "retain", NULL,
     "keep it as the topic's last message for later\nsubscribers; an empty one forgets it"},
    {KEY_TTL, "ttl", "DURATION",
     "drop it if it is not delivered within this time,\nsuch as 5s or 200ms"},
    {KEY_CONFIRM, "confirm", NULL, "wait until the broker has accepted it"},
    {KEY_REQUEST, "request", NULL, "wait for a reply, and write it to standard output"},
    {'W', "wait", "DURATION", "how long to wait for a reply or confirmation\n(default: 5s)"},
    {KEY_REPEAT, "repeat", "N", "publish it so many times (default: 1)"},
    {KEY_INTERVAL, "interval", "DURATION", "pause between messages"},
    {'i', "id", "NAME", "register under this name"},
    WILL_ENTRIES,
    {'q', "quiet", NULL, "no progress, no notes; errors are said"},
    {'v', "verbose", NULL, "say at the end how many messages went out"},
    {0},
};

static const struct options_program program = {
    .name = "mqpub",
    .usage = "-t TOPIC (-m TEXT | -f FILE | -s | -l | -n) [OPTIONS]",
    .purpose = "Publish messages through the mqbroker of this machine.",
    .entries = entries,
    .more = "Examples:\n"
            "  mqpub -t plant/line1/temperature -m 21.5\n"
            "  mqpub -t plant/line1/state -r -m running       # keep it for later subscribers\n"
            "  mqpub -t plant/line1/state -r -n               # forget it\n"
            "  tail -F /var/log/syslog | mqpub -t log -l      # a message per line\n"
            "  mqpub -t shout --request -m hello              # ask, and print the answer\n"
            "\n"
            "Exit status: 0 published, 1 error, 2 wrong usage, 3 no reply or confirmation\n"
            "in time.",
};

enum source { SOURCE_NONE, SOURCE_TEXT, SOURCE_FILE, SOURCE_LINES, SOURCE_EMPTY };

struct arguments {
    enum source source;
    const char *text; /* or the path of the file; NULL: standard input */
    bool confirm, request, quiet, verbose;
    uint64_t repeat;
    uint64_t interval; /* nanoseconds */
    int wait_ms;
    struct mqc_options session;
    struct mqc_publication publication;
    struct mqc_publication will;
};

/* Publishes that wait for their confirmation, oldest first; a ring. */
struct confirms {
    int64_t number[OPEN_CONFIRMS];
    unsigned first, n;
};

struct publisher {
    const struct arguments *arguments;
    struct mqc *client;
    struct mqc_publication publication;
    uint64_t published; /* handed to the library */
    uint64_t bytes;
    uint64_t refused;   /* or not answered */
    uint64_t timed_out; /* among them: not in time */
    struct confirms confirms;
    struct timespec began;
    double progress_said; /* seconds after `began`; 0: never */
};

/* ---- Arguments ---- */

static void set_source(const struct options *options, struct arguments *arguments,
                       enum source source, const char *text)
{
    if (arguments->source != SOURCE_NONE)
        options_usage(options, "only one of -m, -f, -s, -l and -n");
    arguments->source = source;
    arguments->text = text;
}

static void set_topic(const struct options *options, struct arguments *arguments)
{
    if (arguments->publication.topic != NULL)
        options_usage(options, "only one topic: '%s' or '%s'", arguments->publication.topic,
                      options->value);
    arguments->publication.topic = options->value;
}

static void take_option(const struct options *options, int key, struct arguments *arguments)
{
    switch (key) {
    case 't':
        set_topic(options, arguments);
        break;
    case 'm':
        set_source(options, arguments, SOURCE_TEXT, options->value);
        break;
    case 'f':
        set_source(options, arguments, SOURCE_FILE,
                   strcmp(options->value, "-") != 0 ? options->value : NULL);
        break;
    case 's':
        set_source(options, arguments, SOURCE_FILE, NULL);
        break;
    case 'l':
        set_source(options, arguments, SOURCE_LINES, NULL);
        break;
    case 'n':
        set_source(options, arguments, SOURCE_EMPTY, NULL);
        break;
    case 'p':
        arguments->publication.priority = (unsigned)options_number(options, 0, MQC_MAX_PRIORITY);
        break;
    case 'r':
        arguments->publication.flags |= MQC_RETAIN;
        break;
    case KEY_TTL:
        arguments->publication.ttl_ms = (uint64_t)options_milliseconds(options_duration(options));
        if (arguments->publication.ttl_ms == 0)
            options_usage(options, "--ttl: a message that may not live is never delivered");
        break;
    case KEY_CONFIRM:
        arguments->confirm = true;
        arguments->publication.flags |= MQC_CONFIRM;
        break;
    case KEY_REQUEST:
        arguments->request = true;
        break;
    case 'W':
        arguments->wait_ms = options_milliseconds(options_duration(options));
        if (arguments->wait_ms == 0)
            options_usage(options, "--wait: nothing comes without waiting");
        break;
    case KEY_REPEAT:
        arguments->repeat = options_number(options, 1, UINT64_MAX);
        break;
    case KEY_INTERVAL:
        arguments->interval = options_duration(options);
        break;
    case 'i':
        arguments->session.name = options->value;
        break;
    case 'q':
        arguments->quiet = true;
        break;
    case 'v':
        arguments->verbose = true;
        break;
    default:
        will_take(&arguments->will, options, key);
    }
}

static void check_arguments(const struct options *options, struct arguments *arguments)
{
    options_no_rest(options);
    if (arguments->publication.topic == NULL)
        options_usage(options, "no topic: -t TOPIC");
    if (arguments->source == SOURCE_NONE)
        options_usage(options, "no message: one of -m, -f, -s, -l and -n");
    if (arguments->source == SOURCE_LINES && arguments->repeat > 1)
        options_usage(options, "lines cannot be repeated: --repeat goes with -m, -f, -s and -n");
    if (arguments->request && arguments->confirm)
        options_usage(options, "a reply says more than a confirmation: --request or --confirm");
    if (arguments->request && (arguments->publication.flags & MQC_RETAIN) != 0)
        options_usage(options, "a request cannot be retained");
    if (arguments->request && arguments->publication.ttl_ms > 0)
        options_usage(options, "a request lives as long as its reply is waited for: -W, not --ttl");
    will_check(&arguments->will, options);
    arguments->session.instance = options->instance;
    if (!arguments->request)
        arguments->session.flags |= MQC_PUBLISH_ONLY;
}

/* ---- What happened ---- */

static double seconds_since(const struct timespec *then)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - then->tv_sec) + (double)(now.tv_nsec - then->tv_nsec) / 1e9;
}

static void say_progress(struct publisher *p)
{
    double elapsed;

    if (p->arguments->quiet || p->published % PROGRESS_LINES != 0 || !isatty(STDERR_FILENO))
        return;
    elapsed = seconds_since(&p->began);
    if (elapsed < 1 || elapsed - p->progress_said < 0.2)
        return;
    fprintf(stderr, "\r%llu lines, %.1f MB, %.0f/s ", (unsigned long long)p->published,
            (double)p->bytes / 1e6, (double)p->published / elapsed);
    p->progress_said = elapsed;
}

static void end_progress(struct publisher *p)
{
    if (p->progress_said > 0)
        fputc('\n', stderr);
    p->progress_said = 0;
}

static void say_summary(struct publisher *p)
{
    double elapsed = seconds_since(&p->began);

    end_progress(p);
    if (p->refused > REFUSALS_SAID)
        warnx("and %llu more", (unsigned long long)(p->refused - REFUSALS_SAID));
    if (!p->arguments->verbose || p->arguments->quiet)
        return;
    warnx("%llu message%s, %llu bytes, in %.3f s (%.0f/s)", (unsigned long long)p->published,
          p->published == 1 ? "" : "s", (unsigned long long)p->bytes, elapsed,
          (double)p->published / elapsed);
    if (p->refused > 0)
        warnx("%llu of them failed", (unsigned long long)p->refused);
}

/* Goes behind what went wrong. */
static const char *before(const struct publisher *p)
{
    static char text[64];

    if (p->published == 0)
        snprintf(text, sizeof text, "nothing was published");
    else
        snprintf(text, sizeof text, "%llu message%s %s published before",
                 (unsigned long long)p->published, p->published == 1 ? "" : "s",
                 p->published == 1 ? "was" : "were");
    return text;
}

/* ---- Publish ---- */

/* What was published as the `ordinal`th message was not taken. */
static void note_refusal(struct publisher *p, uint64_t ordinal, int r)
{
    end_progress(p);
    p->timed_out += r == -ETIMEDOUT;
    if (++p->refused > REFUSALS_SAID)
        return;
    if (p->arguments->source == SOURCE_LINES)
        warnx("line %llu: %s", (unsigned long long)ordinal, mqc_last_error());
    else if (p->arguments->repeat > 1)
        warnx("message %llu: %s", (unsigned long long)ordinal, mqc_last_error());
    else
        warnx("%s", mqc_last_error());
}

/* Wait until at most `most` publishes are unconfirmed. Returns 0, or -errno when it is no use to go
 * on. */
static int settle(struct publisher *p, unsigned most)
{
    struct confirms *open = &p->confirms;

    while (open->n > most) {
        int r = mqc_confirm_wait(p->client, open->number[open->first], p->arguments->wait_ms);

        if (r == -ESHUTDOWN || r == -ECONNRESET)
            return r;
        if (r < 0)
            note_refusal(p, p->published - open->n + 1, r);
        open->first = (open->first + 1) % OPEN_CONFIRMS;
        open->n--;
    }
    return 0;
}

/* Send what is gathered, and hear what became of it. */
static int complete(struct publisher *p)
{
    int r = mqc_flush(p->client);

    return r == 0 ? settle(p, 0) : r;
}

static int keep_confirm(struct publisher *p, int64_t number)
{
    struct confirms *open = &p->confirms;

    open->number[(open->first + open->n++) % OPEN_CONFIRMS] = number;
    return open->n == OPEN_CONFIRMS ? settle(p, OPEN_CONFIRMS / 2) : 0;
}

/* Messages reach a client that has a name whether it wants them or not: make room. Returns 0, or
 * -errno when the session has ended. */
static int discard_received(struct publisher *p)
{
    struct mqc_message message;
    int r;

    while ((r = mqc_receive(p->client, &message, 0)) == 0)
        mqc_message_free(&message);
    return r == -EAGAIN ? 0 : r;
}

/* A reply that ends with a newline, as those of mqsub --exec often do, gets none from us. */
static void write_reply(const struct mqc_message *reply)
{
    const char *payload = reply->payload;
    const struct format format = {
        .text = FORMAT_PAYLOAD,
        .newline = reply->size == 0 || payload[reply->size - 1] != '\n',
        .terminal = isatty(STDOUT_FILENO),
    };
    const struct timespec unused = {0};

    if (format_print(&format, reply, 1, &unused, stdout) < 0 || fflush(stdout) != 0)
        err(EXIT_FAILURE, "standard output");
}

/* One that fails does not hinder the next. Returns 0, or -errno when it is no use to go on. */
static int request(struct publisher *p)
{
    struct mqc_message reply;
    int r;

    do
        r = mqc_request(p->client, &p->publication, &reply, p->arguments->wait_ms);
    while (r == -EDEADLK && (r = discard_received(p)) == 0);
    if (r == 0) {
        write_reply(&reply);
        mqc_message_free(&reply);
        return 0;
    }
    if (r == -ENOENT || r == -ETIMEDOUT || r == -ENOBUFS || r == -ECONNRESET) {
        note_refusal(p, p->published + 1, r);
        return r == -ECONNRESET ? discard_received(p)
                                : 0; /* whose connection: the server's, or ours */
    }
    return r;
}

/* What the library said to it. Returns 0, or -errno when it is no use to go on. */
static int note_published(struct publisher *p, int64_t r)
{
    if (r < 0)
        return (int)r;
    p->published++;
    p->bytes += p->publication.size;
    return r > 0 ? keep_confirm(p, r) : 0;
}

static int publish(struct publisher *p, const void *payload, size_t size)
{
    int64_t r;

    p->publication.payload = payload;
    p->publication.size = size;
    if (p->arguments->request) {
        r = request(p);
    } else {
        do
            r = mqc_publish_with(p->client, &p->publication);
        while (r == -EDEADLK && (r = discard_received(p)) == 0);
    }
    return note_published(p, r);
}

/* The pause between two messages, with nothing left to send. */
static int pause_between(struct publisher *p)
{
    int r = complete(p);

    return r == 0 ? interrupt_poll(NULL, 0, options_milliseconds(p->arguments->interval)) : r;
}

static int publish_repeatedly(struct publisher *p, const void *payload, size_t size)
{
    uint64_t repeat = p->arguments->repeat;
    int r = repeat > 1 ? mqc_set_batching(p->client, 1) : 0;

    for (uint64_t i = 0; i < repeat && r == 0; i++) {
        if (i > 0 && p->arguments->interval > 0)
            r = pause_between(p);
        if (r == 0)
            r = interrupt_seen() ? -EINTR : publish(p, payload, size);
    }
    return r;
}

/* ---- Sources ---- */

static _Noreturn void fail_large(const char *name, size_t limit)
{
    errx(EXIT_FAILURE,
         "%s: larger than the %zu bytes that fit a message to this topic; nothing was published",
         name, limit);
}

/* Read up to `most` bytes. Returns how many there were. */
static size_t read_some(int fd, const char *name, char *bytes, size_t most)
{
    size_t size = 0;
    ssize_t n;

    while (size < most && (n = read(fd, bytes + size, most - size)) != 0) {
        if (n < 0 && errno != EINTR)
            err(EXIT_FAILURE, "%s", name);
        size += n > 0 ? (size_t)n : 0;
    }
    return size;
}

/* All of what comes from a pipe, or a file: at most `limit` bytes. Returns its size. */
static size_t read_whole(int fd, const char *name, struct growing *buffer, size_t limit)
{
    size_t size = 0;
    size_t n;

    do {
        if (growing_reserve(buffer, size + 1, limit + 1) < 0)
            err(EXIT_FAILURE, "%s: memory for more than %zu bytes", name, size);
        n = read_some(fd, name, buffer->bytes + size, buffer->size - size);
        size += n;
    } while (n > 0 && size <= limit);
    if (size > limit)
        fail_large(name, limit);
    return size;
}

/* Bytes of what is a file; 0: it is none, or small, or its size is not known. */
static size_t size_of_file(int fd)
{
    struct stat status;

    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size >= LARGE
               ? (size_t)status.st_size
               : 0;
}

/* Read a large file straight to where its receivers will. */
static int publish_loan(struct publisher *p, int fd, const char *name, size_t size)
{
    void *loan;
    int64_t r;

    do
        r = mqc_loan(p->client, &loan, size, 0);
    while (r == -EDEADLK && (r = discard_received(p)) == 0);
    if (r < 0)
        return (int)r;
    p->publication.payload = loan;
    p->publication.size = read_some(fd, name, loan, size);
    do
        r = mqc_publish_loan(p->client, &p->publication);
    while (r == -EDEADLK && (r = discard_received(p)) == 0);
    return note_published(p, r);
}

static int publish_file(struct publisher *p, int fd, size_t limit)
{
    const char *name = p->arguments->text != NULL ? p->arguments->text : "standard input";
    struct growing buffer = {0};
    size_t size = size_of_file(fd);
    int r;

    if (size > limit)
        fail_large(name, limit);
    if (size > 0 && p->arguments->repeat == 1 && !p->arguments->request)
        return publish_loan(p, fd, name, size);
    size = read_whole(fd, name, &buffer, limit);
    r = publish_repeatedly(p, buffer.bytes, size);
    free(buffer.bytes);
    return r;
}

/* Let more input come. What is gathered goes out first if the input pauses. */
static int refill(struct publisher *p, struct lines *lines)
{
    struct pollfd fd = {.fd = lines->fd, .events = POLLIN};
    int r = interrupt_poll(&fd, 1, 0);

    if (r == 0 && (r = complete(p)) == 0)
        r = interrupt_poll(&fd, 1, -1);
    if (r < 0)
        return r;
    r = lines_fill(lines);
    if (r < 0 && r != -EINTR && r != -EAGAIN) {
        errno = -r;
        err(EXIT_FAILURE, "standard input, behind line %llu", (unsigned long long)lines->number);
    }
    return 0;
}

static _Noreturn void fail_long_line(struct publisher *p, const struct lines *lines)
{
    int r = complete(p);

    end_progress(p);
    mqc_close(p->client);
    errx(EXIT_FAILURE,
         "line %llu is longer than the %zu bytes that fit a message to this topic; %s%s",
         (unsigned long long)lines->number, lines->limit, before(p),
         r < 0 ? ", not all of them sent" : "");
}

static int publish_lines(struct publisher *p, size_t limit)
{
    struct lines lines;
    const char *line;
    size_t size;
    int r;

    lines_init(&lines, STDIN_FILENO, limit);
    r = mqc_set_batching(p->client, !isatty(STDIN_FILENO));
    for (int outcome = LINES_OK; r == 0 && outcome != LINES_E_END;) {
        outcome = lines_next(&lines, &line, &size);
        if (outcome == LINES_E_LIMIT)
            fail_long_line(p, &lines);
        if (outcome == LINES_E_READ)
            r = refill(p, &lines);
        if (outcome != LINES_OK)
            continue;
        if (p->published > 0 && p->arguments->interval > 0)
            r = pause_between(p);
        if (r == 0)
            r = interrupt_seen() ? -EINTR : publish(p, line, size);
        say_progress(p);
    }
    lines_deinit(&lines);
    return r;
}

static int publish_source(struct publisher *p, int fd)
{
    const struct arguments *arguments = p->arguments;
    size_t limit = mqc_payload_max(p->client, p->publication.topic);

    switch (arguments->source) {
    case SOURCE_FILE:
        return publish_file(p, fd, limit);
    case SOURCE_LINES:
        return publish_lines(p, limit);
    case SOURCE_TEXT:
        return publish_repeatedly(p, arguments->text, strlen(arguments->text));
    default:
        return publish_repeatedly(p, "", 0);
    }
}

/* ---- The program ---- */

/* Open before connecting, so that a name that is wrong disturbs nobody. */
static int open_source(const struct arguments *arguments)
{
    int fd = STDIN_FILENO;

    if (arguments->source == SOURCE_FILE && arguments->text != NULL) {
        fd = open(arguments->text, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            err(EXIT_FAILURE, "%s", arguments->text);
    }
    return fd;
}

/* It is no use to go on: the library has just said why. What was published before goes out if it
 * can. */
static _Noreturn void fail(struct publisher *p)
{
    char why[512];

    snprintf(why, sizeof why, "%s", mqc_last_error());
    complete(p);
    mqc_close(p->client);
    end_progress(p);
    errx(EXIT_FAILURE, "%s; %s", why, before(p));
}

/* All is handed over, or we were interrupted (`r` is -EINTR). Returns the exit status. */
static int finish(struct publisher *p, int r)
{
    if (complete(p) < 0) {
        end_progress(p);
        errx(EXIT_FAILURE, "%s; not all of %llu messages were sent", mqc_last_error(),
             (unsigned long long)p->published);
    }
    mqc_close(p->client);
    if (r == -EINTR) {
        end_progress(p);
        if (!p->arguments->quiet)
            warnx("interrupted; %s", before(p));
        interrupt_die();
    }
    say_summary(p);
    if (p->refused > p->timed_out)
        return EXIT_FAILURE;
    return p->timed_out > 0 ? OPTIONS_EXIT_TIMEOUT : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct arguments arguments = {.repeat = 1,
                                  .wait_ms = DEFAULT_WAIT_MS,
                                  .publication.priority = MQC_DEFAULT_PRIORITY,
                                  .will = WILL_NONE};
    struct options options;
    static struct publisher publisher;
    int fd, r;

    options_begin(&options, &program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;)
        take_option(&options, key, &arguments);
    check_arguments(&options, &arguments);
    fd = open_source(&arguments);
    if (mqc_open(&publisher.client, &arguments.session) < 0 ||
        (arguments.will.topic != NULL && mqc_set_will(publisher.client, &arguments.will) < 0))
        errx(EXIT_FAILURE, "%s", mqc_last_error());
    interrupt_catch();
    publisher.arguments = &arguments;
    publisher.publication = arguments.publication;
    clock_gettime(CLOCK_MONOTONIC, &publisher.began);
    r = publish_source(&publisher, fd);
    if (r < 0 && r != -EINTR)
        fail(&publisher);
    return finish(&publisher, r);
}
