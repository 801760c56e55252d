/* engine/tokenizer_impl.h: what a tokenizer is made of. Internal: tokenizer_json.c fills it, tokenizer.c uses it. */
#ifndef ENGINE_TOKENIZER_IMPL_H
#define ENGINE_TOKENIZER_IMPL_H

#include "engine/bpe.h"
#include "engine/pretokenize.h"
#include "engine/tokenizer.h"

struct added_token {
    int32_t id;
    struct span content;  /* owned by the tokenizer's bpe blob; never empty */
    bool lstrip, rstrip;  /* takes the white space before, after it along   */
    bool normalized;      /* matched in a second pass, as the format says   */
};

struct tokenizer {
    struct bpe bpe;
    struct pretokenizer pretokenizer;
    struct added_token *added; /* longest content first, so that the first match is the longest */
    size_t added_count;
    bool added_first[2][256];  /* [normalized]: some such token begins with this byte */
    bool nfc;                  /* text is put into normalisation form C first */
};

/* Unicode White_Space; Oniguruma's and Rust's \s. */
bool tokenizer_white_space(uint32_t code);

enum status tokenizer_load_json(const char *path, struct tokenizer *tokenizer, struct error *err) MUST_CHECK;

#endif
