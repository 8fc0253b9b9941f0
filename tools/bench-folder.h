/* A private folder for the files of one run, and nothing of it left afterwards. */
#ifndef MQBROKER_TOOLS_BENCH_FOLDER_H
#define MQBROKER_TOOLS_BENCH_FOLDER_H

enum { FOLDER_PATH_SIZE = 256 };

struct folder {
    char path[FOLDER_PATH_SIZE]; /* "": there is none */
};

/* Make it, in `directory`. Returns 0, or -1 with bench_error() set. */
int folder_make(struct folder *folder, const char *directory);

/* Remove it with all that is in it. Repeatable; fine on all zero. */
void folder_remove(struct folder *folder);

#endif
