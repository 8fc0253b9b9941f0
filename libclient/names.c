/* Names of kernel objects. All begin with "/mqbroker.<instance>"; since an instance name has no
 * dot, what follows the next dot says what the object is, and no instance's names can be another's.
 */
#include "libclient/names.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static bool is_instance_character(char c)
{
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
}

bool names_instance_valid(const char *instance)
{
    size_t n = 0;

    while (n < NAMES_INSTANCE_MAX && is_instance_character(instance[n]))
        n++;
    return n >= 1 && instance[n] == '\0';
}

const char *names_instance(const char *wanted)
{
    const char *environment = getenv("MQBROKER_INSTANCE");

    if (wanted != NULL)
        return wanted;
    return environment != NULL && *environment != '\0' ? environment : "default";
}

static void put_name(char out[NAMES_MAX], const char *instance, const char *what)
{
    snprintf(out, NAMES_MAX, "/mqbroker.%.*s%s", NAMES_INSTANCE_MAX, instance, what);
}

void names_request_queue(char out[NAMES_MAX], const char *instance)
{
    put_name(out, instance, "");
}

void names_urgent_queue(char out[NAMES_MAX], const char *instance)
{
    put_name(out, instance, ".urgent");
}

static void put_nonce(char out[NAMES_MAX], const char *instance, uint64_t nonce, const char *what)
{
    char end[sizeof(".0123456789abcdef.outbox")];

    snprintf(end, sizeof(end), ".%016" PRIx64 "%s", nonce, what);
    put_name(out, instance, end);
}

void names_reply_queue(char out[NAMES_MAX], const char *instance, uint64_t nonce)
{
    put_nonce(out, instance, nonce, "");
}

void names_outbox(char out[NAMES_MAX], const char *instance, uint64_t nonce)
{
    put_nonce(out, instance, nonce, ".outbox");
}

void names_pool(char out[NAMES_MAX], const char *instance, uint64_t nonce)
{
    put_nonce(out, instance, nonce, ".pool");
}

void names_board(char out[NAMES_MAX], const char *instance)
{
    put_name(out, instance, "");
}

void names_draft(char out[NAMES_MAX], const char *instance)
{
    put_name(out, instance, ".draft");
}

void names_ledger(char out[NAMES_MAX], const char *instance)
{
    put_name(out, instance, ".ledger");
}

void names_store(char out[NAMES_MAX], const char *instance)
{
    put_name(out, instance, ".store");
}
