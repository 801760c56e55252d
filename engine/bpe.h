/* engine/bpe.h: the vocabulary and merges of a byte-level BPE, and the encoding of one word. Internal to the
 * tokenizer. Immutable once bpe_seal() was called; any thread may read it. */
#ifndef ENGINE_BPE_H
#define ENGINE_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/span.h"
#include "base/status.h"

enum {
    BPE_MAX_VOCAB = 1 << 21,        /* the largest published vocabulary has 2^18 entries */
    BPE_MAX_TOKEN_BYTES = 1 << 16,
    BPE_MAX_BLOB_BYTES = 256 << 20,
};

enum bpe_flag {
    BPE_USED = 1,  /* the id stands for something                                                  */
    BPE_WORD = 2,  /* from the model's vocabulary, in the byte alphabet: text can become it       */
    BPE_ADDED = 4, /* an added token; it may have an entry in the vocabulary too                     */
    BPE_WHOLE = 8, /* its bytes, as a word, are encoded as it alone: no merging needed             */
};

struct bpe_token {
    uint32_t at, len; /* its bytes in `blob` */
};

struct bpe {
    int32_t vocab_size; /* 1 + the largest id */
    char *blob;
    size_t blob_len, blob_cap;
    struct bpe_token *tokens; /* [vocab_size] */
    uint8_t *flags;           /* [vocab_size] */
    struct bpe_word {
        uint32_t hash;
        int32_t id; /* -1: empty */
    } *words;       /* open addressing over the bytes of BPE_WORD tokens */
    uint32_t word_mask;
    struct bpe_pair {
        int32_t left, right; /* left -1: empty */
        int32_t rank, merged;
    } *pairs; /* open addressing over (left, right) */
    uint32_t pair_mask;
    int32_t byte_id[256];
    bool ignore_merges; /* a word that is a token is that token, whatever the merges say (Llama-3) */
};

/* Room for ids below vocab_size, for `blob_bytes` of their text, and for `merge_count` merges. */
enum status bpe_init(struct bpe *bpe, int32_t vocab_size, size_t blob_bytes, size_t merge_count) MUST_CHECK;
void bpe_finish(struct bpe *bpe);

/* Sets the bytes of an id; a second time replaces them. `flags` is BPE_WORD, BPE_ADDED or 0. */
void bpe_put_token(struct bpe *bpe, int32_t id, struct span bytes, unsigned flags);
int32_t bpe_find(const struct bpe *bpe, struct span bytes); /* a BPE_WORD token by its bytes; -1: none */
/* The later of two equal pairs wins. */
void bpe_put_merge(struct bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t merged);
/* Checks that every byte has a token, and marks the BPE_WHOLE ones. */
enum status bpe_seal(struct bpe *bpe, struct error *err) MUST_CHECK;

static inline struct span bpe_bytes(const struct bpe *bpe, int32_t id)
{
    return span_of(bpe->blob + bpe->tokens[id].at, bpe->tokens[id].len);
}

/* Where tokens go. With ids NULL and `keep` false they are only counted. */
struct bpe_sink {
    int32_t *ids;
    size_t count, cap, max;
    bool keep;
};

/* STATUS_LIMIT beyond sink->max. */
enum status bpe_emit(struct bpe_sink *sink, int32_t id) MUST_CHECK;

/* Memory for long words, kept between them; one owner. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    struct bpe_candidate *heap;
    size_t symbol_cap, heap_cap;
};
void bpe_scratch_finish(struct bpe_scratch *scratch);

/* Appends the tokens of one word (a piece from the pre-tokenizer; any bytes). STATUS_LIMIT beyond sink->max. */
enum status bpe_encode(const struct bpe *bpe, struct span word, struct bpe_scratch *scratch,
                       struct bpe_sink *sink) MUST_CHECK;

#endif
