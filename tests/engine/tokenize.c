/* tokenize: ids of standard input, for tools/check-tokenizer.py and for measuring.
 *
 *   tokenize TOKENIZER.json            cases separated by NUL; one line of ids for each
 *   tokenize TOKENIZER.json special    added tokens recognised
 *   tokenize TOKENIZER.json bench      MB/s of CPU time over the whole input, best of five */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "engine/tokenizer.h"

enum { MAX_INPUT = 1 << 30 };

/* CPU time: other work on the machine does not count. */
static int64_t cpu_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int bench(const struct tokenizer *tokenizer, struct span text)
{
    int64_t best = INT64_MAX;
    size_t count = 0;

    for (int i = 0; i < 5; i++) {
        int64_t start = cpu_ns(), taken;

        if (tokenizer_count(tokenizer, text, &count))
            return 1;
        taken = cpu_ns() - start;
        best = taken < best ? taken : best;
    }
    printf("%zu bytes, %zu tokens, %.1f MB/s\n", text.len, count, (double)text.len * 1e3 / (double)best);
    return 0;
}

int main(int argc, char **argv)
{
    struct tokenizer *tokenizer = NULL;
    struct token_list tokens = {0};
    struct error err = {0};
    struct buf input;
    char chunk[65536];
    size_t got, start = 0;
    int64_t began = clock_monotonic_ns();
    bool special = argc > 2 && strcmp(argv[2], "special") == 0;

    if (argc < 2 || tokenizer_open(argv[1], &tokenizer, &err)) {
        fprintf(stderr, "tokenize: %s\n", argc < 2 ? "which tokenizer.json?" : err.message);
        return 1;
    }
    fprintf(stderr, "opened in %.3f s\n", (double)(clock_monotonic_ns() - began) / 1e9);
    buf_init(&input, MAX_INPUT);
    while ((got = fread(chunk, 1, sizeof chunk, stdin)) > 0) {
        if (buf_append(&input, chunk, got))
            return 1;
    }
    if (argc > 2 && strcmp(argv[2], "bench") == 0)
        return bench(tokenizer, buf_span(&input));
    for (size_t i = 0; i <= input.len; i++) {
        if (i < input.len && input.ptr[i] != '\0')
            continue;
        tokens.count = 0;
        if (tokenizer_encode(tokenizer, span_slice(buf_span(&input), start, i),
                             special ? TOKENIZER_SPECIAL : TOKENIZER_TEXT, MAX_INPUT, &tokens))
            return 1;
        for (size_t k = 0; k < tokens.count; k++)
            printf(k ? " %" PRId32 : "%" PRId32, tokens.ids[k]);
        putchar('\n');
        start = i + 1;
    }
    token_list_finish(&tokens);
    buf_finish(&input);
    tokenizer_close(tokenizer);
    return 0;
}
