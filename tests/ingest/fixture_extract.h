/* tests/ingest/fixture_extract.h: bytes through the real dsa-extract, jail and all, and back as printed frames. */
#ifndef TESTS_INGEST_FIXTURE_EXTRACT_H
#define TESTS_INGEST_FIXTURE_EXTRACT_H

#include <stdbool.h>

#include "base/buf.h"

struct fixture_result {
    struct buf text; /* what dsa-extract printed; see extract_print.c for its form */
    int code;        /* its exit code */
};

/* Reads `bytes` as a document called `name`. `option` is one more option with its value ("--depth", "3"), or
 * NULL. With `pipe` the bytes come by standard input instead of a file. */
void fixture_extract(struct span bytes, const char *name, bool pipe, const char *option, const char *value,
                     struct fixture_result *result);
/* The same for a file that is there. */
void fixture_extract_file(const char *path, struct fixture_result *result);
void fixture_result_finish(struct fixture_result *result);

/* Fails the test unless the output holds the line, in full or (with a final "…") as a prefix. */
void check_has_line(const struct fixture_result *result, const char *line);
void check_has_no(const struct fixture_result *result, const char *part);
/* How many lines begin with `prefix`. */
int count_lines(const struct fixture_result *result, const char *prefix);

#endif
