/* quote_bench: what quote mode costs a step, over the text on standard input cut into blocks of 4 KiB.
 *
 *   quote_bench TOKENIZER.json < TEXT          CPU time: index, mask by depth of the quotation, acceptance */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "engine/quote.h"

enum { MAX_INPUT = 64 << 20, BLOCK = 4096, ANSWERS = 200, DEPTHS = 6 };

static int64_t cpu_ns(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static uint64_t random_state = 1;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    return random_state ^= random_state << 17;
}

int main(int argc, char **argv)
{
    struct tokenizer *tokenizer = NULL;
    struct quote_vocab *vocab = NULL;
    struct quote_index *index = NULL;
    struct quote_params params = {.word_edges = true, .min_bytes = 20, .open = NULL};
    struct error err = {0};
    char *text = malloc(MAX_INPUT);
    struct quote_block *blocks;
    size_t len, count;
    int64_t start, total[DEPTHS] = {0}, worst[DEPTHS] = {0}, accepting = 0;
    long steps[DEPTHS] = {0}, all = 0;
    int32_t stop, close;

    if (argc < 2 || !text || tokenizer_open(argv[1], &tokenizer, &err))
        goto fail;
    start = cpu_ns();
    if (quote_vocab_create(tokenizer, &vocab, &err))
        goto fail;
    printf("vocabulary of %d: %.1f ms\n", (int)tokenizer_vocab_size(tokenizer), (double)(cpu_ns() - start) / 1e6);
    len = fread(text, 1, MAX_INPUT, stdin);
    count = len / BLOCK;
    blocks = calloc(count + 1, sizeof *blocks);
    if (!blocks)
        goto fail;
    for (size_t i = 0; i < count; i++)
        blocks[i] = (struct quote_block){(int)i + 1, {text + i * BLOCK, BLOCK}};
    start = cpu_ns();
    if (quote_index_create(vocab, blocks, count, &params, &index, &err))
        goto fail;
    printf("index of %zu bytes in %zu blocks: %.1f ms\n", len, count, (double)(cpu_ns() - start) / 1e6);
    stop = tokenizer_vocab_size(tokenizer) - 1;
    close = tokenizer_special_id(tokenizer, "<|close|>");
    for (int answer = 0; answer < ANSWERS; answer++) {
        struct quote *quote;

        if (quote_create(index, &stop, 1, &quote, &err))
            goto fail;
        for (int depth = 0; !quote_finished(quote); depth++) {
            int slot = depth < DEPTHS ? depth : DEPTHS - 1;
            const struct token_mask *mask;
            int32_t chosen = -1;
            uint64_t seen = 0;

            start = cpu_ns();
            mask = quote_mask(quote);
            start = cpu_ns() - start;
            total[slot] += start;
            worst[slot] = start > worst[slot] ? start : worst[slot];
            steps[slot]++;
            all++;
            for (int32_t id = 0; id < mask->vocab; id++) {
                if ((mask->bits[id / 64] >> (id % 64) & 1) && next_random() % ++seen == 0)
                    chosen = id;
            }
            if (close >= 0 && (mask->bits[close / 64] >> (close % 64) & 1) && next_random() % 20 == 0)
                chosen = close;
            start = cpu_ns();
            if (quote_accept(quote, chosen))
                goto fail;
            accepting += cpu_ns() - start;
        }
        quote_destroy(quote);
    }
    for (int i = 0; i < DEPTHS; i++)
        printf("mask, step %d%s of an answer: %.1f us on average, %.1f at most (%ld)\n", i, i == DEPTHS - 1 ? "+" : "",
               steps[i] ? (double)total[i] / 1e3 / (double)steps[i] : 0, (double)worst[i] / 1e3, steps[i]);
    printf("acceptance: %.1f us\n", (double)accepting / 1e3 / (double)all);
    return 0;

fail:
    fprintf(stderr, "quote_bench: %s\n", err.message);
    return 1;
}
