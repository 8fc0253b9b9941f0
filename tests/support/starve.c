/* Preloaded to a program, this stands before the C library's malloc(3) and its kin, counts what the
 * program itself asks for, and denies what the test says. What its libraries ask for is granted:
 * how they get by without is not our matter (libconfig 1.5 does not). Not for programs under the
 * address sanitizer, which stands in the same place. */
#include "tests/support/starve.h"

#include <errno.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

/* glibc's own, which ask nobody: dlsym(3) would allocate.
 * NOLINTBEGIN(bugprone-reserved-identifier) */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
/* NOLINTEND(bugprone-reserved-identifier) */

static struct starve *starve;
static uintptr_t first, last; /* addresses of the program's code */

/* The program comes first. */
static int find_program(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size;
    (void)context;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];

        if (part->p_type == PT_LOAD && (part->p_flags & PF_X) != 0) {
            first = info->dlpi_addr + part->p_vaddr;
            last = first + part->p_memsz - 1;
        }
    }
    return 1;
}

__attribute__((constructor)) static void begin(void)
{
    const char *number = getenv(STARVE_VARIABLE);
    void *memory;

    if (number == NULL)
        return;
    memory = mmap(NULL, sizeof(*starve), PROT_READ | PROT_WRITE, MAP_SHARED, atoi(number), 0);
    dl_iterate_phdr(find_program, NULL);
    if (memory != MAP_FAILED)
        starve = memory;
}

static bool is_denied(const void *caller)
{
    if (starve == NULL || (uintptr_t)caller < first || (uintptr_t)caller > last ||
        atomic_fetch_add(&starve->asked, 1) != atomic_load(&starve->denied))
        return false;
    errno = ENOMEM;
    return true;
}

#define PUBLIC __attribute__((visibility("default")))

PUBLIC void *malloc(size_t size)
{
    return is_denied(__builtin_return_address(0)) ? NULL : __libc_malloc(size);
}

PUBLIC void *calloc(size_t n, size_t size)
{
    return is_denied(__builtin_return_address(0)) ? NULL : __libc_calloc(n, size);
}

PUBLIC void *realloc(void *memory, size_t size)
{
    return is_denied(__builtin_return_address(0)) ? NULL : __libc_realloc(memory, size);
}

PUBLIC void *reallocarray(void *memory, size_t n, size_t size)
{
    size_t bytes;

    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return is_denied(__builtin_return_address(0)) ? NULL : __libc_realloc(memory, bytes);
}
