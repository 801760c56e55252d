/* engine/tokenizer.h: byte-level BPE from a Hugging Face tokenizer.json.
 *
 * Any pre-tokenizer built of Split (regex), Digits, ByteLevel and Sequence, and any decoder that is ByteLevel:
 * the DeepSeek-V3/V3.2, GLM, GPT-2, Qwen and Llama-3 shapes. Anything else is STATUS_UNSUPPORTED, naming the
 * field. A tokenizer is immutable after opening and may be used from any thread; a decoder has one owner. */
#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/span.h"
#include "base/status.h"

struct tokenizer;

enum tokenizer_special {
    TOKENIZER_TEXT,   /* special-token look-alikes are ordinary bytes: for everything a document or a user says */
    TOKENIZER_SPECIAL /* added tokens are recognised: for the prompt's own scaffolding only */
};

enum status tokenizer_open(const char *path, struct tokenizer **tokenizer, struct error *err) MUST_CHECK;
void tokenizer_close(struct tokenizer *tokenizer);

int32_t tokenizer_vocab_size(const struct tokenizer *tokenizer);         /* 1 + the largest id */
int32_t tokenizer_special_id(const struct tokenizer *tokenizer, const char *content); /* -1: no such added token */
/* The bytes a token stands for (for a special token: its text). Empty for ids that are not in use. Borrowed. */
struct span tokenizer_bytes(const struct tokenizer *tokenizer, int32_t id);
bool tokenizer_is_special(const struct tokenizer *tokenizer, int32_t id);

/* Appends the tokens of `text` to *tokens (malloc'ed, grown; the caller frees). Text that is not valid UTF-8 is
 * encoded byte for byte where it is broken. STATUS_LIMIT beyond `max_tokens` in all. */
struct token_list {
    int32_t *ids;
    size_t count, cap;
};
void token_list_finish(struct token_list *list);
enum status tokenizer_encode(const struct tokenizer *tokenizer, struct span text, enum tokenizer_special special,
                             size_t max_tokens, struct token_list *tokens) MUST_CHECK;
/* The number of tokens, without keeping them; for packing. */
enum status tokenizer_count(const struct tokenizer *tokenizer, struct span text, size_t *count) MUST_CHECK;

/* Streaming detokenisation: bytes are appended to `out` as soon as they form whole characters; at most three
 * bytes are held back. decoder_flush writes what is left, U+FFFD for a character that never came. */
struct decoder {
    const struct tokenizer *tokenizer;
    char held[4];
    size_t held_len;
};
void decoder_init(struct decoder *decoder, const struct tokenizer *tokenizer);
enum status decoder_put(struct decoder *decoder, int32_t id, struct buf *out) MUST_CHECK;
enum status decoder_flush(struct decoder *decoder, struct buf *out) MUST_CHECK;

#endif
