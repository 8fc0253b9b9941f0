/* Sums. */
#include "tests/support/proof.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

uint64_t proof_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool proof_is_long(void)
{
    return getenv("MQB_LONG") != NULL;
}

unsigned proof_stride(unsigned all, unsigned few)
{
    return proof_is_long() || all <= few ? 1 : (all + few - 1) / few;
}

void proof_add(struct proof *p, const struct tally_figures *figures, uint64_t wait)
{
    p->points++;
    tally_add(&p->figures, figures);
    if (wait > 0)
        histogram_record(&p->waits, wait);
}

void proof_report(const struct proof *p, const char *what, const char *points)
{
    const struct tally_figures *f = &p->figures;

    printf("%s: %u %s; %llu messages sent, %llu handed over; %llu lost, %llu twice, %llu out of "
           "order, %llu wrong",
           what, p->points, points, (unsigned long long)f->sent, (unsigned long long)f->handed_over,
           (unsigned long long)f->lost, (unsigned long long)f->twice,
           (unsigned long long)f->out_of_order, (unsigned long long)f->wrong);
    if (p->waits.count > 0)
        printf("; waits over it: median %.1f ms, longest %.1f ms",
               (double)histogram_percentile(&p->waits, 500) / 1e6, (double)p->waits.max / 1e6);
    putchar('\n');
}
