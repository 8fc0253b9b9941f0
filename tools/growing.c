/* Growing memory: see growing.h. It doubles, so that what is copied in growing is never more than
 * what was read. */
#include "tools/growing.h"

#include <errno.h>
#include <stdlib.h>

enum { FIRST = 4096 };

int growing_reserve(struct growing *g, size_t wanted, size_t most)
{
    size_t size = g->size > 0 ? g->size : FIRST;
    char *bytes;

    if (g->size >= wanted)
        return 0;
    while (size < wanted)
        size = size > most / 2 ? most : 2 * size;
    if (size > most)
        size = most;
    bytes = realloc(g->bytes, size);
    if (bytes == NULL)
        return -ENOMEM;
    g->bytes = bytes;
    g->size = size;
    return 0;
}
