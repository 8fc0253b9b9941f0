/* mqbroker: arguments, configuration, plan; then the broker runs in the foreground until it is told
 * to stop. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/broker.h"
#include "broker/config.h"
#include "broker/log.h"
#include "broker/persist.h"
#include "broker/plan.h"
#include "libclient/board.h"
#include "libclient/names.h"
#include "libclient/wire.h"

#define DEFAULT_CONFIG "/etc/mqbroker/mqbroker.conf"

enum { EXIT_USAGE = 2 };

struct arguments {
    const char *config; /* NULL: none */
    const char *instance;
    bool check_config;
    bool limits;
    const char *adopts_ledger; /* NULL: it is not asked */
    const char *adopts_board;
};

static const char help[] =
    "Usage: mqbroker [OPTION]...\n"
    "Route messages between the programs of this machine. Runs in the foreground.\n"
    "\n"
    "  -c, --config FILE     read FILE; without this, " DEFAULT_CONFIG "\n"
    "                        if it is there\n"
    "      --instance NAME   the name that clients find this broker by; without this,\n"
    "                        $MQBROKER_INSTANCE, or \"default\"\n"
    "      --check-config    check the configuration and exit\n"
    "      --limits          print the queues that the kernel's limits allow, and how\n"
    "                        to raise them, and exit\n"
    "      --adopts LEDGER BOARD\n"
    "                        say whether this broker, with these options, could take\n"
    "                        over from one with these layouts, and exit\n"
    "  -h, --help            print this and exit\n"
    "  -V, --version         print the version and the layouts and exit\n"
    "\n"
    "SIGTERM and SIGINT stop it cleanly: every client is told and everything removed.\n"
    "SIGHUP reads the configuration again. SIGUSR2 hands over to the mqbroker that is\n"
    "installed now. After SIGKILL, start it again: clients go on.\n"
    "\n"
    "Exit status: 0 stopped cleanly, 1 an error, 2 wrong usage.\n"
    "\n"
    "Example: mqbroker --instance test &  mqsub --instance test -t '#'\n";

static int usage(const char *what)
{
    fprintf(stderr, "mqbroker: %s; try 'mqbroker --help'\n", what);
    return EXIT_USAGE;
}

/* -1: go on; otherwise the exit status. */
static int parse(struct arguments *a, int argc, char **argv)
{
    enum { CHECK = 256, LIMITS, INSTANCE, ADOPTS };
    static const struct option options[] = {
        {"config", required_argument, NULL, 'c'},
        {"instance", required_argument, NULL, INSTANCE},
        {"check-config", no_argument, NULL, CHECK},
        {"limits", no_argument, NULL, LIMITS},
        {"adopts", required_argument, NULL, ADOPTS},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'V'},
        {0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "c:hV", options, NULL)) != -1) {
        switch (option) {
        case 'c':
            a->config = optarg;
            break;
        case INSTANCE:
            a->instance = optarg;
            break;
        case CHECK:
            a->check_config = true;
            break;
        case LIMITS:
            a->limits = true;
            break;
        case ADOPTS:
            if (optind == argc)
                return usage("--adopts takes two numbers");
            a->adopts_ledger = optarg;
            a->adopts_board = argv[optind++];
            break;
        case 'h':
            fputs(help, stdout);
            return EXIT_SUCCESS;
        case 'V':
            printf("mqbroker " MQB_VERSION "\nprotocol %d, ledger layout %d, board layout %d\n",
                   WIRE_VERSION, PERSIST_LAYOUT, BOARD_LAYOUT);
            return EXIT_SUCCESS;
        default: /* getopt has said what */
            fputs("Try 'mqbroker --help'.\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (optind < argc)
        return usage("it takes no arguments besides options");
    a->instance = names_instance(a->instance);
    if (!names_instance_valid(a->instance))
        return usage("an instance name has 1 to 64 of A-Z, a-z, 0-9, _ and -");
    if (a->config == NULL && access(DEFAULT_CONFIG, F_OK) == 0)
        a->config = DEFAULT_CONFIG;
    return -1;
}

static bool is_number(const char *text, int number)
{
    char *end;

    errno = 0;
    return strtol(text, &end, 10) == number && end != text && *end == '\0' && errno == 0;
}

/* Is what a broker with other layouts has in memory ours to take over? */
static bool adopts(const struct arguments *a)
{
    if (is_number(a->adopts_ledger, PERSIST_LAYOUT) && is_number(a->adopts_board, BOARD_LAYOUT))
        return true;
    fprintf(stderr,
            "mqbroker: version " MQB_VERSION
            " has ledger layout %d and board layout %d, and cannot "
            "take over %s and %s: stop that broker, then start this one\n",
            PERSIST_LAYOUT, BOARD_LAYOUT, a->adopts_ledger, a->adopts_board);
    return false;
}

static int run(const struct arguments *a, const struct config *config, const struct plan *plan,
               char *const argv[])
{
    struct broker *broker;
    int r;

    signal(SIGPIPE, SIG_IGN); /* the reader of the log may go away */
    log_init((int)config->log_level);
    if (plan->depth < plan->depth_wanted)
        log_warning("queues are %" PRIu32 " deep, not %" PRIu32
                    ": raise fs.mqueue.msg_max; see mqbroker --limits",
                    plan->depth, plan->depth_wanted);
    if (plan->n_clients < plan->max_clients)
        log_warning("the kernel's limits have room for %" PRIu32 " of %" PRIu32
                    " clients; see mqbroker --limits",
                    plan->n_clients, plan->max_clients);
    r = broker_new(&broker, a->instance, config, plan, a->config, argv);
    if (r < 0)
        return EXIT_FAILURE;
    r = broker_run(broker);
    broker_free(broker);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    struct arguments a = {0};
    struct config config;
    struct config_error error;
    struct plan_limits limits;
    struct plan plan;
    int r = parse(&a, argc, argv);

    if (r >= 0)
        return r;
    if (a.adopts_ledger != NULL && !adopts(&a))
        return EXIT_FAILURE;
    config_default(&config);
    if (a.config != NULL && config_load(&config, a.config, &error) < 0) {
        fprintf(stderr, "mqbroker: %s\n", error.text);
        return EXIT_FAILURE;
    }
    if (a.check_config) {
        printf("%s: good\n", a.config != NULL ? a.config : "no configuration file, the defaults");
        return EXIT_SUCCESS;
    }
    r = plan_read_limits(&limits);
    if (r < 0) {
        fprintf(stderr, "mqbroker: cannot read the kernel's limits (/proc/sys/fs/mqueue): %s\n",
                strerror(-r));
        return EXIT_FAILURE;
    }
    r = plan_make(&plan, &config, &limits);
    if (a.adopts_ledger != NULL && r == PLAN_OK)
        return EXIT_SUCCESS;
    if (a.limits || r != PLAN_OK) {
        plan_print(&plan, r, a.limits ? stdout : stderr);
        return r == PLAN_OK ? EXIT_SUCCESS : EXIT_FAILURE;
    }
    return run(&a, &config, &plan, argv);
}
