/* The socket lies in the server's private folder, and no port is opened: nobody else finds it. */
#include "tests/peers/redis.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

enum {
    N_ALWAYS = 9,    /* arguments */
    DIGITS_MAX = 18, /* of a number */
};

static const char socket_file[] = "redis.sock";

static int is_ready(const struct server *server, const void *context)
{
    char path[SERVER_PATH_SIZE];

    (void)context;
    server_path(server, path, socket_file);
    return sock_answers_unix(path);
}

int redis_start(struct server *server, struct carrier *carrier, struct crew *crew,
                const char *folder, const char *const *options)
{
    char path[SERVER_PATH_SIZE];
    const char *arguments[N_ALWAYS + REDIS_OPTIONS_MAX + 1] = {
        "redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder};
    size_t n = N_ALWAYS;

    for (; *options != NULL; options++) {
        assert(n < N_ALWAYS + REDIS_OPTIONS_MAX);
        arguments[n++] = *options;
    }
    server_path(server, path, socket_file);
    if (server_start(server, arguments, is_ready, NULL) < 0) {
        return -1;
    }
    carrier->hub = server->pid;
    carrier->starting = server->starting;
    crew_watch(crew, "redis-server", server->pidfd);
    return 0;
}

int redis_connect(const struct server *server, struct sock *sock)
{
    char path[SERVER_PATH_SIZE];

    server_path(server, path, socket_file);
    return sock_open_unix(sock, path);
}

int redis_put(struct sock *sock, const char *head, const void *payload, size_t size)
{
    return sock_put(sock, head, strlen(head)) < 0 || sock_put(sock, payload, size) < 0
               ? -1
               : sock_put(sock, "\r\n", 2);
}

/* `$-1`, which stands for nothing, is none. */
static bool parse_number(const unsigned char *line, int size, char marker, uint64_t *number)
{
    if (size < 2 || size > 1 + DIGITS_MAX || line[0] != (unsigned char)marker) {
        return false;
    }
    *number = 0;
    for (int i = 1; i < size; i++) {
        if (line[i] < '0' || line[i] > '9') {
            return false;
        }
        *number = *number * 10 + (uint64_t)(line[i] - '0');
    }
    return true;
}

int redis_need_number(struct sock *sock, char marker, uint64_t *number)
{
    int size = sock_need_line(sock);

    if (size < 0) {
        return -1;
    }
    if (!parse_number(sock_in(sock), size, marker, number)) {
        return bench_fail("redis: %.*s", size, (const char *)sock_in(sock));
    }
    sock_skip(sock, (size_t)size + 2);
    return 0;
}

int redis_need_bytes(struct sock *sock, const unsigned char **bytes, size_t *size)
{
    uint64_t number;

    if (redis_need_number(sock, '$', &number) < 0 || sock_need(sock, number + 2) < 0) {
        return -1;
    }
    *bytes = sock_in(sock);
    *size = number;
    sock_skip(sock, number + 2);
    return 0;
}

size_t redis_payload_max(const struct carrier_end *end)
{
    (void)end;
    return 512u << 20;
}
