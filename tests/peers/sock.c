/* What is larger than a share of the output buffer is written from where it lies, together with
 * what has gathered before it: large payloads are copied by the kernel alone. */
#include "tests/peers/sock.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "tools/bench-carrier.h"
#include "tools/bench.h"

enum {
    OUT_ROOM = 256 << 10,
    OUT_DIRECT = 16 << 10, /* from this size on bytes are not gathered */
    IN_ROOM = 256 << 10,
    IN_EXACT = 64 << 10, /* from this size on nothing behind it is read with it, which would have to
                            be moved to the front then */
};

/* ---- open and close ---- */

static int set_up(struct sock *sock, int fd)
{
    struct timeval patience = {.tv_sec = CARRIER_QUIET_MS / 1000};

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    *sock = (struct sock){
        .fd = fd,
        .out = malloc(OUT_ROOM),
        .in = malloc(IN_ROOM),
        .in_room = IN_ROOM,
    };
    if (sock->out == NULL || sock->in == NULL) {
        sock_close(sock);
        return bench_fail("out of memory");
    }
    return 0;
}

static int connect_unix(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static int connect_loopback(unsigned short port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_port = htons(port),
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    int at_once = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        close(fd);
        return -1;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &at_once, sizeof at_once);
    return fd;
}

int sock_open_unix(struct sock *sock, const char *path)
{
    int fd = connect_unix(path);

    *sock = (struct sock){.fd = -1};
    return fd < 0 ? bench_fail("cannot connect to %s: %s", path, strerror(errno))
                  : set_up(sock, fd);
}

int sock_open_loopback(struct sock *sock, unsigned short port)
{
    int fd = connect_loopback(port);

    *sock = (struct sock){.fd = -1};
    return fd < 0 ? bench_fail("cannot connect to port %u: %s", port, strerror(errno))
                  : set_up(sock, fd);
}

void sock_close(struct sock *sock)
{
    if (sock->fd >= 0) {
        close(sock->fd);
    }
    free(sock->out);
    free(sock->in);
    *sock = (struct sock){.fd = -1};
}

static int answers(int fd)
{
    if (fd < 0) {
        return 0;
    }
    close(fd);
    return 1;
}

int sock_answers_unix(const char *path)
{
    return answers(connect_unix(path));
}

int sock_answers_loopback(unsigned short port)
{
    return answers(connect_loopback(port));
}

unsigned short sock_free_port(void)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET,
        .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
    };
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        return 0;
    }
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        address.sin_port = 0;
    }
    close(fd);
    return ntohs(address.sin_port);
}

/* ---- out ---- */

/* What has gathered, then `bytes`. */
static int write_all(struct sock *sock, const void *bytes, size_t size)
{
    struct iovec parts[2] = {
        {.iov_base = sock->out, .iov_len = sock->out_size},
        {.iov_base = (void *)(uintptr_t)bytes, .iov_len = size},
    };
    struct iovec *part = parts;

    sock->out_size = 0;
    while (part < parts + 2) {
        struct msghdr message = {.msg_iov = part, .msg_iovlen = (size_t)(parts + 2 - part)};
        ssize_t written = sendmsg(sock->fd, &message, MSG_NOSIGNAL);

        if (written < 0 && errno == EINTR) {
            continue;
        }
        if (written < 0) {
            return bench_fail("cannot write: %s", strerror(errno));
        }
        for (; part < parts + 2 && (size_t)written >= part->iov_len; part++) {
            written -= (ssize_t)part->iov_len;
        }
        if (part < parts + 2) {
            part->iov_base = (unsigned char *)part->iov_base + written;
            part->iov_len -= (size_t)written;
        }
    }
    return 0;
}

int sock_flush(struct sock *sock)
{
    return sock->out_size == 0 ? 0 : write_all(sock, NULL, 0);
}

int sock_put(struct sock *sock, const void *bytes, size_t size)
{
    if (size >= OUT_DIRECT) {
        return write_all(sock, bytes, size);
    }
    if (size > OUT_ROOM - sock->out_size && sock_flush(sock) < 0) {
        return -1;
    }
    memcpy(sock->out + sock->out_size, bytes, size);
    sock->out_size += size;
    return 0;
}

/* ---- in ---- */

/* Room for `size` bytes in one piece from in_begin on. */
static int make_room(struct sock *sock, size_t size)
{
    if (size <= sock->in_room - sock->in_begin && sock->in_end < sock->in_room) {
        return 0;
    }
    memmove(sock->in, sock_in(sock), sock_in_size(sock));
    sock->in_end -= sock->in_begin;
    sock->in_begin = 0;
    if (size > sock->in_room / 2) {
        unsigned char *in = realloc(sock->in, 2 * size);

        if (in == NULL) {
            return bench_fail("out of memory");
        }
        sock->in = in;
        sock->in_room = 2 * size;
    }
    return 0;
}

static int read_some(struct sock *sock, size_t most, bool wait)
{
    size_t room = sock->in_room - sock->in_end;
    ssize_t size;

    do {
        size = recv(sock->fd, sock->in + sock->in_end, room < most ? room : most,
                    wait ? 0 : MSG_DONTWAIT);
    } while (size < 0 && errno == EINTR);
    if (size > 0) {
        sock->in_end += (size_t)size;
        return 0;
    }
    if (size == 0) {
        return bench_fail("the server has closed the connection");
    }
    if (errno != EAGAIN) {
        return bench_fail("cannot read: %s", strerror(errno));
    }
    return !wait ? 0
                 : bench_fail("nothing came for %d s, and more was to come: messages were lost",
                              CARRIER_QUIET_MS / 1000);
}

/* Nothing stands: begin at the beginning, so that nothing need be moved. */
static void rewind_in(struct sock *sock)
{
    if (sock->in_begin == sock->in_end) {
        sock->in_begin = 0;
        sock->in_end = 0;
    }
}

int sock_need(struct sock *sock, size_t size)
{
    if (sock_in_size(sock) >= size) {
        return 0;
    }
    if (sock_flush(sock) < 0) {
        return -1;
    }
    rewind_in(sock);
    while (sock_in_size(sock) < size) {
        size_t most = size >= IN_EXACT ? size - sock_in_size(sock) : SIZE_MAX;

        if (make_room(sock, size) < 0 || read_some(sock, most, true) < 0) {
            return -1;
        }
    }
    return 0;
}

int sock_look(struct sock *sock)
{
    rewind_in(sock);
    return make_room(sock, 1) < 0 ? -1 : read_some(sock, SIZE_MAX, false);
}

int sock_need_line(struct sock *sock)
{
    size_t seen = 0;

    for (;;) {
        const unsigned char *from = sock_in(sock) + seen;
        const unsigned char *end = memchr(from, '\n', sock_in_size(sock) - seen);

        if (end != NULL) {
            return end > sock_in(sock) ? (int)(end - sock_in(sock)) - 1 : 0;
        }
        seen = sock_in_size(sock);
        if (sock_need(sock, seen + 1) < 0) {
            return -1;
        }
    }
}
