/* A stream socket with large buffers on both sides: few system calls, however small the messages.
 *
 * Redis, NATS and MQTT are spoken by hand over it, which is faster than their client libraries. */
#ifndef MQBROKER_TESTS_PEERS_SOCK_H
#define MQBROKER_TESTS_PEERS_SOCK_H

#include <stddef.h>

struct sock {
    int fd;
    unsigned char *out;
    size_t out_size;
    unsigned char *in;
    size_t in_begin; /* what was received and not taken */
    size_t in_end;
    size_t in_room;
};

/* Returns 0, or -1 with bench_error() set; sock_close() then does nothing. */
int sock_open_unix(struct sock *sock, const char *path);
int sock_open_loopback(struct sock *sock, unsigned short port);

/* Repeatable. */
void sock_close(struct sock *sock);

/* Does somebody listen there? 1 or 0. */
int sock_answers_unix(const char *path);
int sock_answers_loopback(unsigned short port);

/* A TCP port of the loopback that nobody uses now; 0 if there is none. */
unsigned short sock_free_port(void);

/* Add to what is to be written; written when much has gathered, by sock_flush(), and before any
 * wait for input. Returns 0 or -1. */
int sock_put(struct sock *sock, const void *bytes, size_t size);
int sock_flush(struct sock *sock);

/* Wait until at least `size` bytes stand at sock_in(). Returns 0 or -1. */
int sock_need(struct sock *sock, size_t size);

/* Take in what has come, if anything has. Returns 0 or -1. */
int sock_look(struct sock *sock);

/* Wait until a line stands at sock_in(): its size without the CR LF that ends it, or -1. */
int sock_need_line(struct sock *sock);

static inline unsigned char *sock_in(const struct sock *sock)
{
    return sock->in + sock->in_begin;
}

static inline size_t sock_in_size(const struct sock *sock)
{
    return sock->in_end - sock->in_begin;
}

/* Done with so many bytes of it. They stay readable until the next sock_need() or sock_look(). */
static inline void sock_skip(struct sock *sock, size_t size)
{
    sock->in_begin += size;
}

#endif
