/* test_corpus.c: public hostile and honest files, where the evaluation data is there: every file is answered. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/vec.h"
#include "tests/harness/check.h"
#include "tests/ingest/fixture_extract.h"

enum { SECONDS = 5, PATH_BYTES = 1024 };

struct path {
    char text[PATH_BYTES];
};

struct paths {
    struct path *items;
    size_t count, cap;
};

static void collect(struct paths *paths, const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;

    while (dir && (entry = readdir(dir)) != NULL) {
        char path[PATH_BYTES];
        struct stat info;

        if (entry->d_name[0] == '.' ||
            snprintf(path, sizeof path, "%s/%s", folder, entry->d_name) >= (int)sizeof path || stat(path, &info) != 0)
            continue;
        if (S_ISDIR(info.st_mode)) {
            collect(paths, path);
        } else {
            CHECK(vec_reserve(paths, 1) == STATUS_OK);
            memcpy(paths->items[paths->count++].text, path, sizeof path);
        }
    }
    if (dir)
        (void)closedir(dir);
}

/* A random sample of the files below `folder`, for so many seconds: START and END, or the program says why not. */
static void read_sample(const char *folder)
{
    struct paths paths = {0};
    char root[PATH_BYTES];
    int64_t until = clock_monotonic_ns() + SECONDS * 1000000000LL;
    int read = 0;

    (void)snprintf(root, sizeof root, "%s/%s", check_data_dir(), folder);
    collect(&paths, root);
    if (!paths.count)
        SKIP("no files below %s", folder);
    for (size_t left = paths.count; left && clock_monotonic_ns() < until; left--) {
        size_t at = check_random() % left;
        struct fixture_result got;

#ifdef __SANITIZE_ADDRESS__
        if (strstr(paths.items[at].text, "bomb")) { /* ends by the memory limit, which such builds do not have */
            paths.items[at] = paths.items[left - 1];
            continue;
        }
#endif
        fixture_extract_file(paths.items[at].text, &got);
        if (got.code != 0 || count_lines(&got, "start ") != 1 || count_lines(&got, "end ") != 1)
            FAIL("'%s' ends with code %d after %zu bytes", paths.items[at].text, got.code, got.text.len);
        fixture_result_finish(&got);
        paths.items[at] = paths.items[left - 1];
        read++;
    }
    vec_finish(&paths);
    CHECK(read > 0);
}

TEST(robust_pdfs)
{
    read_sample("pdf-robust");
}

TEST(honest_pdfs)
{
    read_sample("e2e");
}

TEST(archives)
{
    read_sample("archives");
}

TEST(documents_of_many_kinds)
{
    read_sample("docs-groundtruth");
    read_sample("docs-misc");
}
