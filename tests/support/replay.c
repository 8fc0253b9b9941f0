/* Runs a fuzz target over saved inputs, so that what was once found is looked for in every test
 * run.
 *
 * replay-<target> DIRECTORY feeds each file of the directory to LLVMFuzzerTestOneInput, in the
 * order of their names, and then the empty input. A crash or a sanitizer's finding is the failure;
 * the name of the file stands in front of it. A directory that cannot be read, or has no file,
 * fails: a test that looks at nothing must not pass. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int replay(const char *directory, const char *name)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path) {
        fprintf(stderr, "replay: path too long: %s/%s\n", directory, name);
        return -1;
    }
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        return -1;
    }
    /* Exactly as large as the input, so that the address sanitizer sees a read one byte past it. */
    int result = -1;
    long size = fseek(file, 0, SEEK_END) ? -1 : ftell(file);
    uint8_t *data = size < 0 ? NULL : malloc(size > 0 ? (size_t)size : 1);
    rewind(file);
    if (data && fread(data, 1, (size_t)size, file) == (size_t)size) {
        fprintf(stderr, "%s\n", name);
        LLVMFuzzerTestOneInput(data, (size_t)size);
        result = 0;
    } else {
        perror(path);
    }
    free(data);
    fclose(file);
    return result;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    struct dirent **entries;
    int n = scandir(argv[1], &entries, not_hidden, alphasort);
    if (n < 0) {
        perror(argv[1]);
        return 1;
    }
    int failed = n == 0;
    for (int i = 0; i < n; i++) {
        failed |= replay(argv[1], entries[i]->d_name) != 0;
        free(entries[i]);
    }
    free(entries);
    LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    printf("%d inputs replayed\n", n);
    return failed;
}
