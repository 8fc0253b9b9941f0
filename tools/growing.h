/* Memory that grows as bytes come in: for messages that may be as large as a payload pool, and
 * hardly ever are. */
#ifndef MQBROKER_TOOLS_GROWING_H
#define MQBROKER_TOOLS_GROWING_H

#include <stddef.h>

struct growing {
    char *bytes; /* the owner's to free() */
    size_t size;
};

/* Make it at least `wanted` bytes, and more in advance, but not more than `most`, which is not
 * less than `wanted`. What it holds stays. 0 or -ENOMEM. */
int growing_reserve(struct growing *g, size_t wanted, size_t most);

#endif
