/* The ZeroMQ proxy of XPUB and XSUB as a process of its own: what a broker is with ZeroMQ.
 *
 * usage: zeromq-proxy FRONT BACK: publishers connect to FRONT, subscribers to BACK. Without
 * high-water marks, at which it would drop. */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

static void *bound(void *context, int type, const char *address)
{
    void *socket = zmq_socket(context, type);
    int none = 0;

    if (socket == NULL || zmq_setsockopt(socket, ZMQ_SNDHWM, &none, sizeof none) < 0 ||
        zmq_setsockopt(socket, ZMQ_RCVHWM, &none, sizeof none) < 0 ||
        zmq_bind(socket, address) < 0) {
        fprintf(stderr, "zeromq-proxy: %s: %s\n", address, zmq_strerror(errno));
        exit(EXIT_FAILURE);
    }
    return socket;
}

int main(int argc, char **argv)
{
    void *context = zmq_ctx_new();

    if (argc != 3 || context == NULL) {
        fprintf(stderr, "usage: zeromq-proxy FRONT BACK\n");
        return 2;
    }
    /* Large messages from memory that is kept, not mapped anew for each. */
    mallopt(M_MMAP_THRESHOLD, 1 << 30);
    mallopt(M_TRIM_THRESHOLD, 1 << 30);

    void *front = bound(context, ZMQ_XSUB, argv[1]);
    void *back = bound(context, ZMQ_XPUB, argv[2]);

    zmq_proxy(front, back, NULL); /* until the signal that ends us */
    return EXIT_SUCCESS;
}
