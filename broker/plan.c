/* The plan: from the kernel's limits to the queues that the broker makes.
 *
 * What has to fit is RLIMIT_MSGQUEUE, a budget in bytes that a queue is charged to whole when it is
 * made. Clients come first, since one that is refused has nothing at all: only what the narrowest
 * queue for each of them leaves makes them wider, all alike. That is not worth more arithmetic,
 * because what does not fit a reply queue goes through the outbox. The other three limits cap
 * depth, width and number.
 *
 * The figures are the kernel's own (mqueue_get_inode in ipc/mqueue.c, 64 bit): queue_bytes() has
 * the formula. What other programs of the same user have taken of the budget nobody can ask; the
 * print says so, and the broker makes the narrowest queue where the planned one did not fit any
 * more. */
#include "broker/plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "libclient/outbox.h"
#include "libclient/queue.h"
#include "libclient/wire.h"

enum {
    URGENT = 1280, /* room for registrations by the hundred, and for a KiB of payload with its topic
                    */
    DEPTH = 10,
    DEPTH_MIN = 4, /* one slot for the goodbye, three for priorities that overtake (rule P2) */
    REPLY_DEPTH_MAX = OUTBOX_BUFFERS - 2, /* a buffer for each, one to fill, one being emptied */
    WIDTH_STEP = 16,
    REQUEST_QUEUES = 2, /* the normal and the urgent one */
};

static uint32_t smaller(uint64_t a, uint64_t b)
{
    return (uint32_t)(a < b ? a : b);
}

/* ---- The limits ---- */

static int read_number(const char *path, uint32_t *out)
{
    FILE *file = fopen(path, "re");
    int r = 0;

    if (file == NULL)
        return -errno;
    if (fscanf(file, "%" SCNu32, out) != 1)
        r = ferror(file) ? -EIO : -EPROTO;
    fclose(file);
    return r;
}

int plan_read_limits(struct plan_limits *limits)
{
    struct rlimit bytes;
    int r;

    if (getrlimit(RLIMIT_MSGQUEUE, &bytes) < 0)
        return -errno;
    limits->queue_bytes = bytes.rlim_cur == RLIM_INFINITY ? UINT64_MAX : bytes.rlim_cur;
    if ((r = read_number("/proc/sys/fs/mqueue/msg_max", &limits->msg_max)) < 0 ||
        (r = read_number("/proc/sys/fs/mqueue/msgsize_max", &limits->msgsize_max)) < 0 ||
        (r = read_number("/proc/sys/fs/mqueue/queues_max", &limits->queues_max)) < 0)
        return r;
    return 0;
}

/* ---- The plan ---- */

static uint64_t request_bytes(const struct plan *plan)
{
    return queue_bytes(plan->depth, plan->request_width) +
           queue_bytes(plan->depth, plan->urgent_width);
}

static uint32_t widest(const struct plan *plan)
{
    return smaller(plan->limits.msgsize_max, WIRE_QUEUE_MAX);
}

/* Depths, and the widths that do not depend on the byte budget. */
static void set_geometry(struct plan *plan, const struct config *config)
{
    plan->depth_wanted = (uint32_t)config->queue_depth;
    plan->depth =
        smaller(plan->limits.msg_max, plan->depth_wanted == 0 ? DEPTH : plan->depth_wanted);
    plan->reply_depth = smaller(plan->depth, REPLY_DEPTH_MAX);
    plan->request_width = widest(plan);
    plan->urgent_width = URGENT;
    plan->frame_max = URGENT - WIRE_BATCH_SIZE;
    plan->reply_width = PLAN_REPLY_MIN;
}

static uint64_t reply_bytes(const struct plan *plan)
{
    return queue_bytes(plan->reply_depth, plan->reply_width);
}

/* How many clients, and how wide their queues: what is left, divided evenly. */
static void set_numbers(struct plan *plan)
{
    uint64_t rest = plan->limits.queue_bytes - request_bytes(plan);
    uint64_t more;

    plan->n_clients = smaller(plan->max_clients, rest / reply_bytes(plan));
    plan->n_clients = smaller(plan->n_clients, plan->limits.queues_max - REQUEST_QUEUES);
    more = (rest / plan->n_clients - reply_bytes(plan)) / plan->reply_depth;
    more = smaller(more, widest(plan) - plan->reply_width);
    plan->reply_width += (uint32_t)(more - more % WIDTH_STEP);
    plan->bytes = request_bytes(plan) + plan->n_clients * reply_bytes(plan);
}

int plan_make(struct plan *plan, const struct config *config, const struct plan_limits *limits)
{
    *plan = (struct plan){.limits = *limits, .max_clients = (uint32_t)config->max_clients};
    set_geometry(plan, config);
    if (limits->msg_max < DEPTH_MIN)
        return PLAN_E_DEPTH;
    if (limits->msgsize_max < URGENT)
        return PLAN_E_WIDTH;
    if (limits->queues_max < REQUEST_QUEUES + 1)
        return PLAN_E_COUNT;
    plan->bytes = request_bytes(plan) + reply_bytes(plan);
    if (limits->queue_bytes < plan->bytes)
        return PLAN_E_BYTES;
    set_numbers(plan);
    return PLAN_OK;
}

/* ---- In words ---- */

/* 813440 as "813,440"; of a ring of results, so that a few can stand in one printf. */
static const char *figure(uint64_t n)
{
    static char ring[8][32];
    static unsigned turn;
    char *out = ring[turn++ % 8] + sizeof(ring[0]);
    int digits = 0;

    *--out = '\0';
    do {
        if (digits > 0 && digits % 3 == 0)
            *--out = ',';
        *--out = (char)('0' + n % 10);
        n /= 10;
        digits++;
    } while (n > 0);
    return out;
}

static void print_limits(const struct plan *plan, FILE *out)
{
    const struct plan_limits *limits = &plan->limits;

    fprintf(out, "Limits of the kernel found here\n");
    fprintf(out, "  %-22s %13s   bytes for all queues of this user together\n", "RLIMIT_MSGQUEUE",
            limits->queue_bytes == UINT64_MAX ? "unlimited" : figure(limits->queue_bytes));
    fprintf(out, "  %-22s %13s   messages in one queue\n", "fs.mqueue.msg_max",
            figure(limits->msg_max));
    fprintf(out, "  %-22s %13s   bytes in one message\n", "fs.mqueue.msgsize_max",
            figure(limits->msgsize_max));
    fprintf(out, "  %-22s %13s   queues on this machine (IPC namespace)\n\n",
            "fs.mqueue.queues_max", figure(limits->queues_max));
}

static void print_row(uint32_t n, const char *what, uint32_t depth, uint32_t width, FILE *out)
{
    fprintf(out, "  %-30s %6s x %3s x (%5s + 96) = %13s\n", what, figure(n), figure(depth),
            figure(width), figure(n * queue_bytes(depth, width)));
}

static void print_queues(const struct plan *plan, FILE *out)
{
    fprintf(out, "The kernel charges a queue depth x (width + 96) bytes, full or empty.\n\n"
                 "Queues that the broker makes    number x depth x (width + 96)\n");
    print_row(1, "request queue", plan->depth, plan->request_width, out);
    print_row(1, "urgent request queue", plan->depth, plan->urgent_width, out);
    print_row(plan->n_clients, "reply queues", plan->reply_depth, plan->reply_width, out);
    fprintf(out, "  %-59s %13s\n", "all together", figure(plan->bytes));
    if (plan->limits.queue_bytes != UINT64_MAX)
        fprintf(out, "  %-59s %13s\n", "left of RLIMIT_MSGQUEUE",
                figure(plan->limits.queue_bytes - plan->bytes));
    fprintf(out,
            "\n%s clients fit. A message of more than %s bytes, topic and header included, goes\n"
            "through shared memory, and so does a batch of messages that is larger than its\n"
            "reply queue is wide: a narrow queue is hardly slower than a wide one.\n",
            figure(plan->n_clients), figure(plan->frame_max));
}

static void print_raise_bytes(uint64_t bytes, FILE *out)
{
    fprintf(out, "    in a shell, as root:  ulimit -q %" PRIu64 "\n", bytes);
    fprintf(out, "    in a systemd unit:    LimitMSGQUEUE=%" PRIu64 "\n", bytes);
    fprintf(out, "    in limits.conf(5):    USER hard msgqueue %" PRIu64 "\n", bytes);
}

static void print_raise_sysctl(const char *name, uint32_t value, FILE *out)
{
    fprintf(out, "    now:                  sysctl -w fs.mqueue.%s=%u\n", name, value);
    fprintf(out,
            "    at every boot:        fs.mqueue.%s = %u   in /etc/sysctl.d/60-mqbroker.conf\n",
            name, value);
}

/* What all clients need at least. */
static uint64_t enough_bytes(const struct plan *plan)
{
    return request_bytes(plan) + plan->max_clients * queue_bytes(plan->reply_depth, PLAN_REPLY_MIN);
}

/* What a plan that can be carried out falls short of. */
static void print_wishes(const struct plan *plan, FILE *out)
{
    uint32_t clients = plan->max_clients;
    uint64_t enough = enough_bytes(plan);

    if (plan->depth < plan->depth_wanted) {
        fprintf(out, "\nqueue_depth is %s, but the kernel allows %s. To raise it:\n",
                figure(plan->depth_wanted), figure(plan->limits.msg_max));
        print_raise_sysctl("msg_max", plan->depth_wanted, out);
    }
    if (plan->limits.queues_max - REQUEST_QUEUES < clients) {
        fprintf(out, "\nmax_clients is %s, but the kernel allows %s queues. To raise it:\n",
                figure(clients), figure(plan->limits.queues_max));
        print_raise_sysctl("queues_max", clients + 64, out);
    }
    if (plan->limits.queue_bytes < enough) {
        fprintf(out,
                "\nmax_clients is %s, but the bytes do not suffice: %s are needed.\n"
                "To raise the limit:\n",
                figure(clients), figure(enough));
        print_raise_bytes(enough, out);
    }
    if (plan->limits.queue_bytes != UINT64_MAX)
        fprintf(out, "\nOther programs of the same user that have POSIX queues share these bytes.\n"
                     "A client that finds none left is refused with a sentence that says so.\n");
}

/* Why there is no plan. */
static void print_refusal(const struct plan *plan, int outcome, FILE *out)
{
    switch (outcome) {
    case PLAN_E_DEPTH:
        fprintf(out, "The broker cannot run: queues must hold at least %d messages. To raise it:\n",
                DEPTH_MIN);
        print_raise_sysctl("msg_max", DEPTH, out);
        break;
    case PLAN_E_WIDTH:
        fprintf(out, "The broker cannot run: messages must be allowed %s bytes. To raise it:\n",
                figure(URGENT));
        print_raise_sysctl("msgsize_max", WIRE_QUEUE_MAX, out);
        break;
    case PLAN_E_COUNT:
        fprintf(
            out,
            "The broker cannot run: it needs %d queues, and one for each client. To raise it:\n",
            REQUEST_QUEUES);
        print_raise_sysctl("queues_max", 256, out);
        break;
    default:
        fprintf(out,
                "The kernel charges a queue depth x (width + 96) bytes, full or empty.\n\n"
                "The broker cannot run: the request queues and one client need %s bytes.\n"
                "To raise the limit to what %s clients need:\n",
                figure(plan->bytes), figure(plan->max_clients));
        print_raise_bytes(enough_bytes(plan), out);
        break;
    }
}

void plan_print(const struct plan *plan, int outcome, FILE *out)
{
    print_limits(plan, out);
    if (outcome != PLAN_OK) {
        print_refusal(plan, outcome, out);
        return;
    }
    print_queues(plan, out);
    print_wishes(plan, out);
}
