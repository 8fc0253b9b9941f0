/* Folders: see bench-folder.h. */
#include "tools/bench-folder.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/bench.h"

enum { DESCRIPTORS = 16 };

int folder_make(struct folder *folder, const char *directory)
{
    int n = snprintf(folder->path, sizeof folder->path, "%s/mqbench-XXXXXX", directory);

    if (n < 0 || (size_t)n >= sizeof folder->path) {
        folder->path[0] = '\0';
        return bench_fail("%s: the path is too long", directory);
    }
    if (mkdtemp(folder->path) == NULL) {
        folder->path[0] = '\0';
        return bench_fail("cannot make a folder in %s: %s; name another one with --directory",
                          directory, strerror(errno));
    }
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *place)
{
    (void)st;
    (void)kind;
    (void)place;
    remove(path);
    return 0;
}

void folder_remove(struct folder *folder)
{
    if (folder->path[0] != '\0') {
        nftw(folder->path, remove_one, DESCRIPTORS, FTW_DEPTH | FTW_PHYS);
        folder->path[0] = '\0';
    }
}
