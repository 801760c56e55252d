/* engine/quote.h: quote mode: inside a quotation only bytes that continue a verbatim span of ONE packed block.
 *
 * The automaton works on bytes of the canonical text, never across blocks, headers or the question. Opening
 * and closing are explicit: the model opens with the open mark and may close with the close mark once at
 * least `min_bytes` were quoted; after closing it must name the block, "[id]", and only ids of blocks that
 * hold the quoted bytes are allowed. Outside quotations `free_text` decides what is allowed.
 *
 * Form of an answer (ours, for PROMPT_READER and the test checkpoints):
 *     answer    = none | quotation { " " quotation }
 *     quotation = open bytes close " [" id "]"          open = close = U+201C / U+201D, or `"` … `"`
 *     none      = the fixed sentence quote_params.none
 *
 * An instance belongs to one sequence and one thread; the index of the blocks is immutable and may be shared. */
#ifndef ENGINE_QUOTE_H
#define ENGINE_QUOTE_H

#include "engine/sampler.h"
#include "engine/tokenizer.h"

struct quote_index; /* suffix structure over the blocks' bytes; O(total bytes) memory */
struct quote;       /* the state of one answer */

struct quote_block {
    int id;
    struct span text; /* copied into the index */
};

struct quote_params {
    const char *open, *close; /* byte strings; NULL: U+201C and U+201D           */
    const char *none;         /* the fixed sentence of abstention; NULL: not allowed */
    size_t min_bytes, max_bytes; /* of one quotation                              */
    int max_quotations;
    bool free_text;           /* true: any text between quotations (large models) */
    bool word_edges;          /* true: quotations start and end at word edges     */
};

struct quote_span { /* one closed quotation */
    int block_id;
    size_t start, end; /* byte offsets in that block's text; the lowest start where the bytes occur */
};

enum status quote_index_create(const struct quote_block *blocks, size_t count, struct quote_index **index,
                               struct error *err) MUST_CHECK;
void quote_index_destroy(struct quote_index *index);

enum status quote_create(const struct quote_index *index, const struct tokenizer *tokenizer,
                         const struct quote_params *params, const int32_t *stop_ids, size_t stop_count,
                         struct quote **quote, struct error *err) MUST_CHECK;
void quote_destroy(struct quote *quote);

/* The tokens allowed next. Borrowed until the next call. NULL: everything (free text outside a quotation). The
 * mask always allows at least one token. */
const struct token_mask *quote_mask(struct quote *quote);
/* Advances by one token; STATUS_BAD_INPUT, state unchanged, if it was not allowed. */
enum status quote_accept(struct quote *quote, int32_t token) MUST_CHECK;
/* Quotations closed so far, oldest first. Borrowed until the next quote_accept(). */
size_t quote_spans(const struct quote *quote, const struct quote_span **spans);
bool quote_finished(const struct quote *quote); /* only stop ids are left */

#endif
