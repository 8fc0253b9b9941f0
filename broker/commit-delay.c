/* The delay of a commit, for the sake of a larger one.
 *
 * Publishers that wait for their confirms publish again when they have them, all at the same time.
 * Were the first record to arrive committed at once, the others would wait for that sync, and then
 * for their own. So as long as each look brings more, that is waited for; and if commits have been
 * larger lately, it is worth a moment to see as many again. Not longer than some part of what a
 * sync takes. Who is alone is never delayed, because then no commit was larger.
 *
 * How large they can be is found by waiting for silence now and then, although there are as many as
 * usual: with the first commit of a round. A round is odd, or that could each time be the one that
 * has what a larger one left over. (PostgreSQL has this as commit_delay and commit_siblings, set by
 * hand.) */
#include "broker/commit-delay.h"

enum {
    ROUND = 15,      /* commits; the largest of this round and the one before is usual */
    PART = 4,        /* of what a commit takes */
    SILENCE = 15000, /* ns: as long as a publisher needs for the next envelope of a batch, well */
    WEIGHT = 8,      /* of what commits took before, against the last one's 1 */
};

static uint32_t usual(const struct commit_delay *d)
{
    uint32_t n = d->most > d->before ? d->most : d->before;

    return d->commits == 0 && n > 1 ? UINT32_MAX : n; /* the first of a round: are there more? */
}

bool commit_delay_waits(struct commit_delay *d, uint32_t n, uint64_t now)
{
    bool more = n != d->n;

    if (d->n == 0)
        d->first = now;
    if (more)
        d->latest = now;
    d->n = n;
    if (n == 0 || (n == 1 && usual(d) <= 1) || now - d->first >= d->took / PART)
        return false;
    return more || (n < usual(d) && now - d->latest < SILENCE);
}

void commit_delay_handed(struct commit_delay *d, uint32_t n)
{
    d->n = 0;
    if (n > d->most)
        d->most = n;
    if (++d->commits < ROUND)
        return;
    d->commits = 0;
    d->before = d->most;
    d->most = 0;
}

void commit_delay_took(struct commit_delay *d, uint64_t duration)
{
    d->took = d->took == 0 ? duration : (d->took * (WEIGHT - 1) + duration) / WEIGHT;
}
