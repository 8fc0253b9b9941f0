/* mqctl peek: the messages that wait in a group, and stay there.
 *
 * They are copied out of the broker's own memory (tools/peek.h), the payloads of large ones out of
 * the pools of their publishers, and durable ones that are not in memory out of the journal. So it
 * works while the broker hangs, and after it was killed; it takes its user, or root. */
#include "tools/mqctl.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "libclient/mqclient.h"
#include "libclient/names.h"
#include "libclient/segment.h"
#include "libclient/wire.h"
#include "tools/format.h"
#include "tools/look.h"
#include "tools/options.h"
#include "tools/peek.h"
#include "tools/stored.h"

enum { KEY_JSON = OPTIONS_KEY_LONG, KEY_JOURNAL };
enum { COUNT = 10, TRIES = 100 };

/* When it was published, priority, topic, payload. */
#define FORMAT "%I %P %t %p"

static const struct options_entry entries[] = {
    {'n', "count", "COUNT", "at most so many (default: 10)"},
    {'F', "format", "FORMAT",
     "as mqsub has it; %I is when it was published, '-' if\nthat is not known (default: '" FORMAT
     "')"},
    {KEY_JSON, "json", NULL, "an object a line, as mqsub --json"},
    {KEY_JOURNAL, "journal", "DIRECTORY",
     "the broker's setting of that name, if it does not run\nand has durable messages"},
    {0},
};

static const struct options_program program = {
    .name = "mqctl peek",
    .usage = "[OPTIONS] GROUP",
    .purpose =
        "Show the messages that wait in a group, or with '$dead/GROUP' its dead letters, in\n"
        "the order in which they would be delivered, and leave them there. The broker is\n"
        "not asked: this works while it hangs, and after it was killed.",
    .entries = entries,
    .more = "Examples:\n"
            "  mqctl peek orders\n"
            "  mqctl peek '$dead/orders' -n 1 -F %p\n"
            "\n"
            "Exit status: 0 shown, 1 error (such as: no such group), 2 wrong usage.",
};

struct peeker {
    const char *instance;
    const char *group;
    uint64_t count;
    bool counted; /* that was said */
    struct format format;
    const char *directory; /* of the journal; NULL: not said */
    struct segment ledger, store;
    struct peek peek;
    struct stored stored;
    uint64_t n_shown;
    uint64_t n_on_disk; /* and not shown */
};

/* A message copied out. */
struct copy {
    uint8_t frame[PEEK_FRAME_MAX];
    uint32_t size;
    uint64_t born;
    uint8_t *payload;     /* of a large one, out of its pool; or NULL */
    struct record record; /* of one that was on disk; without bytes: it was not */
};

/* ---- The broker's memory ---- */

static _Noreturn void fail_to_open(const struct peeker *p, int error)
{
    switch (-error) {
    case ENOENT:
        errx(EXIT_FAILURE,
             "%s: there is no such broker; start it with mqbroker, or name another with --instance",
             p->instance);
    case EACCES:
        errx(EXIT_FAILURE, "%s: its broker is another user's: only that user and root may peek",
             p->instance);
    default:
        errx(EXIT_FAILURE, "%s: its memory cannot be read: %s", p->instance, strerror(-error));
    }
}

static void open_memory(struct peeker *p)
{
    char name[NAMES_MAX];
    int r;

    names_ledger(name, p->instance);
    r = segment_open(&p->ledger, name, 0);
    if (r == 0) {
        names_store(name, p->instance);
        r = segment_open(&p->store, name, 0);
    }
    if (r < 0)
        fail_to_open(p, r);
    r = peek_init(&p->peek, p->ledger.base, p->ledger.size, p->store.base, p->store.size);
    if (r == PEEK_E_LAYOUT)
        errx(
            EXIT_FAILURE,
            "%s: its memory has layout %u, and this mqctl knows layout %d: use the mqctl that came "
            "with that broker",
            p->instance, ((const struct ledger *)p->ledger.base)->header.layout, PERSIST_LAYOUT);
    if (r != PEEK_OK)
        errx(EXIT_FAILURE, "%s: its broker is just starting, or died while it did", p->instance);
}

/* The journal is found by itself while the broker lives. */
static void open_journal(struct peeker *p)
{
    struct segment board;
    uint32_t pid = 0;
    int r;

    if (look_open(&board, p->instance) == NULL) {
        pid = atomic_load_explicit(&((const struct board_header *)board.base)->pid,
                                   memory_order_relaxed);
        segment_close(&board);
    }
    r = stored_open(&p->stored, p->instance, p->directory, pid);
    if (r < 0 && p->directory != NULL)
        errx(EXIT_FAILURE, "--journal: %s/%s: %s", p->directory, p->instance, strerror(-r));
}

/* ---- Messages ---- */

/* Copy a large payload out of its pool. False: it is not there any more. */
static bool copy_payload(const struct peeker *p, const struct wire_slot *slot, struct copy *copy)
{
    char name[NAMES_MAX];
    size_t done = 0;
    int fd;

    names_pool(name, p->instance, slot->pool);
    fd = shm_open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd < 0)
        return false;
    copy->payload = malloc(slot->size);
    if (copy->payload == NULL)
        err(EXIT_FAILURE, "a payload of %u bytes", slot->size);
    while (done < slot->size) {
        ssize_t n = pread(fd, copy->payload + done, slot->size - done,
                          (off_t)slot->offset * WIRE_SLOT_UNIT + (off_t)done);

        if (n <= 0)
            break;
        done += (size_t)n;
    }
    close(fd);
    return done == slot->size;
}

static void free_copy(struct copy *copy)
{
    free(copy->payload);
    free((void *)(uintptr_t)copy->record.bytes);
    copy->payload = NULL;
    copy->record = (struct record){0};
}

/* Read one out of the journal: its frame, and behind it its payload if that is not in it. OK,
 * ON_DISK if it cannot be, or GONE: elsewhere by now. */
static int copy_stored(const struct peeker *p, const struct peek_entry *entry, struct copy *copy,
                       struct wire_frame *frame)
{
    int r = -ENOENT;

    if (p->stored.folder >= 0)
        r = stored_read(&p->stored, entry->cell & ~REF_ON_DISK, entry->age, &copy->record);
    if (!peek_holds(&p->peek, entry))
        return PEEK_E_GONE;
    if (r < 0 || wire_get_delivery(copy->record.bytes, copy->record.size, frame) != WIRE_OK)
        return PEEK_E_ON_DISK;
    if ((frame->flags & WIRE_F_POOLED) != 0) {
        if (frame->slot.size > copy->record.size - frame->size)
            return PEEK_E_ON_DISK;
        frame->payload = copy->record.bytes + frame->size;
    }
    return PEEK_OK;
}

/* What is in memory: its frame was copied; its payload may be in a pool. OK, or GONE: elsewhere. */
static int copy_rest(const struct peeker *p, const struct peek_entry *entry, struct copy *copy,
                     struct wire_frame *frame)
{
    if (wire_get_delivery(copy->frame, copy->size, frame) != WIRE_OK)
        return PEEK_E_GONE;
    if ((frame->flags & WIRE_F_POOLED) == 0)
        return PEEK_OK;
    if (!copy_payload(p, &frame->slot, copy) || !peek_holds(&p->peek, entry))
        return PEEK_E_GONE;
    frame->payload = copy->payload;
    return PEEK_OK;
}

/* Copy one with all its bytes; frame->payload is where they are. What moves meanwhile is looked for
 * again. Returns an enum peek_outcome. */
static int copy_message(const struct peeker *p, struct peek_entry *entry, struct copy *copy,
                        struct wire_frame *frame)
{
    for (unsigned i = 0; i < TRIES; i++) {
        int r = peek_copy(&p->peek, entry, copy->frame, &copy->size, &copy->born);

        if (r != PEEK_OK && r != PEEK_E_ON_DISK)
            return r;
        free_copy(copy);
        r = r == PEEK_OK ? copy_rest(p, entry, copy, frame) : copy_stored(p, entry, copy, frame);
        if (r != PEEK_E_GONE)
            return r;
    }
    return PEEK_E_GONE;
}

/* What was published at `born`, of CLOCK_BOOTTIME, in the time of people. */
static struct timespec date_of(uint64_t born)
{
    struct timespec now, boot, when;
    int64_t ago;

    clock_gettime(CLOCK_REALTIME, &now);
    clock_gettime(CLOCK_BOOTTIME, &boot);
    ago = (int64_t)boot.tv_sec * 1000000000 + boot.tv_nsec - (int64_t)born;
    when.tv_sec = now.tv_sec - ago / 1000000000;
    when.tv_nsec = now.tv_nsec - ago % 1000000000;
    if (when.tv_nsec < 0) {
        when.tv_nsec += 1000000000;
        when.tv_sec--;
    }
    return when;
}

/* The journal does not say when a message was published. */
static void print(struct peeker *p, const struct copy *copy, const struct wire_frame *frame,
                  unsigned tries)
{
    const bool dated = copy->record.bytes == NULL;
    const struct timespec when = date_of(copy->born);
    const struct mqc_message message = {
        .topic = frame->text,
        .payload = frame->payload,
        .size = frame->payload_size,
        .priority = frame->priority,
        .flags = (frame->flags & WIRE_F_REQUEST) != 0 ? MQC_M_REQUEST : 0,
        .acknowledge = 1,
        .attempt = tries + 1,
    };

    p->n_shown++;
    if (format_print(&p->format, &message, p->n_shown, dated ? &when : NULL, stdout) < 0)
        errx(EXIT_FAILURE, "no memory");
}

static unsigned tries_of(const struct peek_entry *entry)
{
    const struct reference r = {.word = entry->word};

    return ref_tries(&r);
}

static void show(struct peeker *p, struct peek_entry *entry)
{
    static struct copy copy;
    struct wire_frame frame;

    switch (copy_message(p, entry, &copy, &frame)) {
    case PEEK_OK:
        print(p, &copy, &frame, tries_of(entry));
        break;
    case PEEK_E_ON_DISK:
        p->n_on_disk++;
        break;
    default: /* delivered meanwhile */
        break;
    }
    free_copy(&copy);
}

static void show_all(struct peeker *p)
{
    struct peek_entry *all;
    uint16_t owner;
    size_t n, i;

    if (!peek_find(&p->peek, p->group, &owner))
        errx(EXIT_FAILURE, "%s: there is no group '%s': mqctl groups lists them", p->instance,
             p->group);
    if (peek_collect(&p->peek, owner, &all, &n) < 0)
        errx(EXIT_FAILURE, "no memory");
    for (i = 0; i < n && p->n_shown + p->n_on_disk < p->count; i++)
        show(p, &all[i]);
    free(all);
    if (fflush(stdout) != 0)
        err(EXIT_FAILURE, "standard output");
    if (p->n_on_disk > 0)
        warnx("%s: %llu message%s on disk, and not shown: %s", p->group,
              (unsigned long long)p->n_on_disk, p->n_on_disk == 1 ? " is" : "s are",
              p->stored.folder >= 0 ? "the journal there is not this broker's, or damaged"
                                    : "say with --journal where the journal is");
    if (n == 0)
        warnx("%s: nothing waits there", p->group);
    else if (i < n && !p->counted)
        warnx("%s: %zu more wait there: -n shows more", p->group, n - i);
}

/* ---- Arguments ---- */

static void set_format(const struct options *options, struct peeker *p, const char *format)
{
    const char *bad;

    if (p->format.text != NULL)
        options_usage(options, "only one of -F and --json");
    if (!format_valid(format, &bad))
        options_usage(options, "-F: there is no escape '%.2s'", bad);
    p->format.text = format;
}

int mqctl_peek(int argc, char **argv)
{
    struct peeker p = {
        .count = COUNT, .ledger = SEGMENT_CLOSED, .store = SEGMENT_CLOSED, .stored = STORED_NONE};
    struct options options;

    options_begin(&options, &program, argc, argv);
    for (int key; (key = options_next(&options)) != -1;) {
        if (key == 'n') {
            p.count = options_number(&options, 1, UINT64_MAX);
            p.counted = true;
        } else if (key == 'F') {
            set_format(&options, &p, options.value);
        } else if (key == KEY_JSON) {
            set_format(&options, &p, FORMAT_JSON);
        } else if (key == KEY_JOURNAL) {
            p.directory = options.value;
        }
    }
    p.group = options_operand(&options, "the group");
    p.instance = options_instance(&options);
    if (p.format.text == NULL)
        p.format.text = FORMAT;
    p.format.newline = true;
    p.format.terminal = isatty(STDOUT_FILENO);
    open_memory(&p);
    open_journal(&p);
    show_all(&p);
    stored_close(&p.stored);
    segment_close(&p.store);
    segment_close(&p.ledger);
    return EXIT_SUCCESS;
}
