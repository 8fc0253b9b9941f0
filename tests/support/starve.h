/* A program that gets no memory: what the test and starve.c, which is preloaded to the program,
 * share. */
#ifndef MQBROKER_TESTS_SUPPORT_STARVE_H
#define MQBROKER_TESTS_SUPPORT_STARVE_H

#include <stdatomic.h>
#include <stdint.h>

/* The environment variable with the number of a descriptor of it, which the program inherits. */
#define STARVE_VARIABLE "MQB_STARVE"

struct starve {
    _Atomic uint64_t asked;  /* how often memory was asked for so far */
    _Atomic uint64_t denied; /* the one of these, from 0 on, that is denied */
};

#endif
