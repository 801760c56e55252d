/* daemon/passes.h: a document's summary by a model, one pass of the engine after another.
 *
 *     sections ──map──► one note each ──reduce──► fewer notes ── … ──► one note: the summary
 *
 * A document that fits one pass is summarised in one. A longer one is read section by section, in order; the notes are
 * put together in order, as many as fit a pass, until one is left. Every statement keeps its pages all the way, and is
 * held against their text after every pass (retrieval_check_claims): what fails is left out and counted.
 *
 * Knows no engine: it says what to ask and takes what was answered, so that a test can answer in the engine's place.
 * What a pass brought is kept in the store by all that it was made from (prompt, model, parameters, pages): a run that
 * was interrupted finds the passes of before. One thread at a time; the store may be another one at each call. */
#ifndef DAEMON_PASSES_H
#define DAEMON_PASSES_H

#include "daemon/note.h"
#include "daemon/packed.h"
#include "engine/prompt.h"
#include "engine/quote.h"

#define PASSES_VERSION "2" /* changes whenever equal answers of a model could give another summary */

enum passes_mode {
    PASSES_TEXT,  /* a large model: statements in its own words */
    PASSES_QUOTES /* the reader, in quote mode: quotations alone */
};

struct passes_options {
    enum passes_mode mode;
    const struct tokenizer *tokenizer;
    enum prompt_style style;
    size_t window_tokens;   /* of a pass: prompt and answer */
    size_t answer_tokens;   /* of a pass at most; less where the window is small */
    const char *parameters; /* model and sampling, in any words: what passes are keyed by besides their prompt */
};

struct passes_counts {
    size_t sections, levels;            /* levels: 1 where one pass was enough */
    size_t passes, passes_before;       /* asked now; found from an earlier run */
    size_t claims[CLAIM_FAULTS];        /* statements by what became of them, over all passes */
    size_t unreduced;                   /* reduces of which nothing could be kept: their notes stand as they were */
};

struct passes;

/* STATUS_LIMIT where not even one page's beginning fits. */
enum status passes_create(struct store *store, int64_t document, const struct passes_options *options,
                          struct passes **passes, struct error *err) MUST_CHECK;
void passes_destroy(struct passes *passes); /* NULL allowed */

/* What to ask next: `pass` gets the prompt's tokens, and blocks with what may be quoted. *done: nothing, the summary is
 * there. */
enum status passes_next(struct passes *passes, struct store *store, struct packed *pass, bool *done,
                        struct error *err) MUST_CHECK;
/* The answer to what passes_next() asked: text, or in quotes mode the quotations closed (ids are the blocks'). */
enum status passes_take(struct passes *passes, struct store *store, struct span text, const struct quote_span *quotes,
                        size_t quote_count, struct error *err) MUST_CHECK;

size_t passes_answer_tokens(const struct passes *passes); /* what an answer may have */
int passes_quotations(const struct passes *passes);       /* and in quotes mode, of quotations */
/* Work done and in all, in sections and reduces as far as they are known: for a progress line. */
void passes_progress(const struct passes *passes, size_t *made, size_t *all);
const struct note *passes_summary(const struct passes *passes); /* once done; borrowed */
const struct passes_counts *passes_counts(const struct passes *passes);

#endif
