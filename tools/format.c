/* Formats: see format.h. One table has an entry for each letter behind '%', so that what is checked
 * and what is written are the same. A format is read anew for each message: it has a dozen
 * characters, and there is nothing to keep. */
#include "tools/format.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "tools/text.h"

struct event {
    const struct format *format;
    const struct mqc_message *message;
    uint64_t number;
    const struct timespec *when;
    FILE *out;
};

static int put_percent(const struct event *e)
{
    fputc('%', e->out);
    return 0;
}

static int put_topic(const struct event *e)
{
    size_t size = strlen(e->message->topic);

    if (e->format->terminal)
        text_put_visible(e->out, e->message->topic, size, false);
    else
        fwrite(e->message->topic, 1, size, e->out);
    return 0;
}

static int put_payload(const struct event *e)
{
    if (e->format->terminal)
        text_put_visible(e->out, e->message->payload, e->message->size, true);
    else
        fwrite(e->message->payload, 1, e->message->size, e->out);
    return 0;
}

static int put_hex(const struct event *e)
{
    text_put_hex(e->out, e->message->payload, e->message->size, false);
    return 0;
}

static int put_upper_hex(const struct event *e)
{
    text_put_hex(e->out, e->message->payload, e->message->size, true);
    return 0;
}

static int put_length(const struct event *e)
{
    fprintf(e->out, "%zu", e->message->size);
    return 0;
}

static int put_priority(const struct event *e)
{
    fprintf(e->out, "%u", e->message->priority);
    return 0;
}

static int put_retained(const struct event *e)
{
    fputc((e->message->flags & MQC_M_RETAINED) != 0 ? '1' : '0', e->out);
    return 0;
}

static int put_request(const struct event *e)
{
    fputc((e->message->flags & MQC_M_REQUEST) != 0 ? '1' : '0', e->out);
    return 0;
}

static int put_attempt(const struct event *e)
{
    fprintf(e->out, "%u", e->message->attempt);
    return 0;
}

static int put_number(const struct event *e)
{
    fprintf(e->out, "%llu", (unsigned long long)e->number);
    return 0;
}

enum { ISO_SIZE = 64 };

static void iso_time(const struct timespec *when, char out[ISO_SIZE])
{
    struct tm tm;
    size_t n;

    gmtime_r(&when->tv_sec, &tm);
    n = strftime(out, ISO_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(out + n, ISO_SIZE - n, ".%06uZ", (unsigned)(when->tv_nsec / 1000) % 1000000);
}

static int put_iso_time(const struct event *e)
{
    char time[ISO_SIZE] = "-";

    if (e->when != NULL)
        iso_time(e->when, time);
    fputs(time, e->out);
    return 0;
}

static int put_unix_time(const struct event *e)
{
    if (e->when != NULL)
        fprintf(e->out, "%lld.%09ld", (long long)e->when->tv_sec, e->when->tv_nsec);
    else
        fputc('-', e->out);
    return 0;
}

/* A payload that is UTF-8 without NUL (which many a reader of JSON takes for the end) is a string,
 * any other base64. */
static void set_payload(json_t *object, const struct mqc_message *message)
{
    json_t *text = NULL;

    if (memchr(message->payload, '\0', message->size) == NULL)
        text = json_stringn(message->payload, message->size);
    if (text != NULL)
        json_object_set_new(object, "payload", text);
    else
        json_object_set_new(object, "payload_base64",
                            text_json_base64(message->payload, message->size));
}

enum { JSON_KEYS = 7 }; /* of any message; of one out of a group one more */

static int put_json(const struct event *e)
{
    const struct mqc_message *message = e->message;
    json_t *object = json_object();
    char time[ISO_SIZE];
    bool whole;

    if (e->when != NULL)
        iso_time(e->when, time);
    json_object_set_new(object, "time", e->when != NULL ? json_string(time) : json_null());
    json_object_set_new(object, "topic", text_json(message->topic, strlen(message->topic)));
    json_object_set_new(object, "priority", json_integer(message->priority));
    json_object_set_new(object, "retained", json_boolean((message->flags & MQC_M_RETAINED) != 0));
    json_object_set_new(object, "request", json_boolean((message->flags & MQC_M_REQUEST) != 0));
    json_object_set_new(object, "size", json_integer((json_int_t)message->size));
    if (message->acknowledge)
        json_object_set_new(object, "attempt", json_integer(message->attempt));
    set_payload(object, message);
    /* Setting NULL for want of memory sets nothing. */
    whole = json_object_size(object) == JSON_KEYS + (message->acknowledge ? 1u : 0u);
    if (whole)
        json_dumpf(object, e->out, JSON_COMPACT);
    json_decref(object);
    return whole ? 0 : -ENOMEM;
}

static const struct escape {
    char letter;
    int (*put)(const struct event *event);
} escapes[] = {
    {'%', put_percent},   {'t', put_topic},   {'p', put_payload},  {'x', put_hex},
    {'X', put_upper_hex}, {'l', put_length},  {'P', put_priority}, {'r', put_retained},
    {'A', put_attempt},   {'R', put_request}, {'n', put_number},   {'I', put_iso_time},
    {'U', put_unix_time}, {'j', put_json},
};

static const struct escape *find_escape(char letter)
{
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++)
        if (escapes[i].letter == letter)
            return &escapes[i];
    return NULL;
}

/* The character that stands behind a '\', or -1. */
static int find_character(char letter)
{
    static const char letters[] = "nrt0e\\", characters[] = "\n\r\t\0\033\\";
    const char *at = letter != '\0' ? strchr(letters, letter) : NULL;

    return at != NULL ? characters[at - letters] : -1;
}

bool format_valid(const char *text, const char **bad)
{
    for (; *text != '\0'; text++) {
        if (*text != '%' && *text != '\\')
            continue;
        if (*text == '%' ? find_escape(text[1]) == NULL : find_character(text[1]) < 0) {
            *bad = text;
            return false;
        }
        text++;
    }
    return true;
}

int format_print(const struct format *format, const struct mqc_message *message, uint64_t number,
                 const struct timespec *when, FILE *out)
{
    const struct event event = {format, message, number, when, out};
    int r = 0;

    for (const char *text = format->text; *text != '\0' && r == 0; text++) {
        if (*text == '%')
            r = find_escape(*++text)->put(&event);
        else if (*text == '\\')
            fputc(find_character(*++text), out);
        else
            fputc(*text, out);
    }
    if (format->newline)
        fputc('\n', out);
    return r;
}
