/* tests/engine/vectors.h: the committed files of tests/vectors/tokenizer, by shape name. */
#ifndef TESTS_ENGINE_VECTORS_H
#define TESTS_ENGINE_VECTORS_H

#include <stdio.h>

#include "engine/tokenizer.h"
#include "tests/harness/check.h"

/* The path of SHAPE with this ending; borrowed until the next call. */
static inline const char *vectors_path(const char *shape, const char *ending)
{
    static char path[4096];

    (void)snprintf(path, sizeof path, "%s/tokenizer/%s%s", TEST_VECTORS, shape, ending);
    return path;
}

static inline struct tokenizer *vectors_open_tokenizer(const char *shape)
{
    struct tokenizer *tokenizer = NULL;
    struct error err = {0};

    CHECK_OK(tokenizer_open(vectors_path(shape, ".json"), &tokenizer, &err), &err);
    return tokenizer;
}

#endif
