/* retrieval/retrieval.h: question → ranked passages → a pack of context blocks.
 *
 * Deterministic: an equal store, question and options give an equal pack, byte for byte, so that prefix caches
 * hit. One thread per `struct store`. Knows nothing of models: the caller passes a token counter. */
#ifndef RETRIEVAL_RETRIEVAL_H
#define RETRIEVAL_RETRIEVAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "base/span.h"
#include "base/status.h"
#include "store/store.h"

enum {
    RETRIEVAL_MAX_QUESTION_BYTES = 64 * 1024, /* longer questions are refused */
    RETRIEVAL_MAX_TERMS = 64,                 /* of a question; the rarest are kept */
    RETRIEVAL_DEFAULT_BUDGET_TOKENS = 16 * 1024,
    RETRIEVAL_MAX_BUDGET_TOKENS = 128 * 1024
};

struct retrieval_options {
    const char *const *collections; /* count 0: all */
    size_t collection_count;
    const int64_t *documents;       /* count 0: all */
    size_t document_count;
    const char *media_type, *path_glob, *date_from, *date_to; /* NULL: any */
    int limit;                      /* children to retrieve; 0: 200 */
    double k1, b, title_weight, heading_weight, body_weight; /* 0: the measured defaults (README) */
};

/* Is this collection there at all? STATUS_NOT_FOUND names it. */
enum status retrieval_check_collections(struct store *store, const struct retrieval_options *options,
                                        struct error *err) MUST_CHECK;

/* A passage as evidence: what a person reads while the model reads. */
struct retrieval_passage {
    int rank;              /* from 1 */
    double score;
    int64_t chunk_id, document_id;
    const char *title, *path, *member; /* of the document */
    const char *heading;
    int page;              /* of its first span */
    const char *label;     /* printed page label, "" */
    struct span text;
    const struct store_chunk_span *spans;
    size_t span_count;
    int also_in;           /* near duplicates that were folded into this one */
};

struct retrieval_result {
    struct retrieval_passage *passages; /* best first */
    size_t count;
    int64_t generation;    /* of the store */
    size_t terms_used, terms_dropped;
};

/* Searches. An empty or wordless question: STATUS_BAD_INPUT. No hit: STATUS_OK and count 0. Everything handed
 * out lives in `arena`. */
enum status retrieval_search(struct store *store, struct span question, const struct retrieval_options *options,
                             struct arena *arena, struct retrieval_result *result, struct error *err) MUST_CHECK;

/* --- Packing --------------------------------------------------------------------------------------------- */

struct pack_options {
    size_t budget_tokens;  /* for the blocks, headers included; 0: 16K */
    size_t header_tokens;  /* what the prompt form spends on each block */
    bool whole_document;   /* take whole documents, best first, while they fit */
    size_t passages;       /* > 0: so many of the best passages alone, each a block of its own: no neighbours, no
                              sections, no joining. For models that read little */
    size_t document_percent; /* at most this share of the budget for one document; 0: 100 */
    enum status (*count_tokens)(void *context, struct span text, size_t *tokens);
    void *context;
};

/* A stretch of one page's canonical text inside a block: block text [block_start, block_end) is exactly page
 * text [page_start, page_start + length). Between segments a block has "\n". */
struct pack_segment {
    int page;
    uint32_t page_start;
    size_t block_start, block_end;
};

struct pack_block {
    int id;                /* 1, 2, 3, … in the order they stand in the prompt */
    int64_t document_id;
    const char *title, *path, *member, *heading;
    const char *label;     /* "p. 12" or "pp. 12-13", printed labels where there are any; "" without pages */
    int first_page, last_page;
    struct span text;      /* canonical bytes, verbatim */
    struct pack_segment *segments;
    size_t segment_count;
    size_t tokens;         /* of text, by the counter */
    double score;          /* best of its passages */
};

struct pack {
    struct pack_block *blocks; /* grouped by document, document order inside, the best document last */
    size_t count;
    size_t tokens;             /* blocks and headers */
};

/* Near-duplicates are collapsed, neighbours merged, a section whose chunks mostly hit is taken whole; greedy
 * within the budget. Everything lives in `arena`. A counter's error is passed on. */
enum status pack_build(struct store *store, const struct retrieval_result *result, const struct pack_options *options,
                       struct arena *arena, struct pack *pack, struct error *err) MUST_CHECK;

/* Where bytes [start, end) of a block stand: one place a page. The rectangles come from the store. */
struct pack_place {
    int64_t document_id;
    int page;
    uint32_t start, end;   /* bytes of the page's canonical text */
    struct rect *rects;    /* may be none where the format has no geometry */
    size_t rect_count;
};
enum status pack_locate(struct store *store, const struct pack_block *block, size_t start, size_t end,
                        struct arena *arena, struct pack_place **places, size_t *count, struct error *err) MUST_CHECK;

/* --- The strongest quotation without a model ------------------------------------------------------------- */

/* What a sentence looks like to the ranking; each about 0..1. The weights are fitted on training questions, never
 * on evaluation ones (eval/README.md says how, and what is reached). */
enum {
    SENTENCE_RANK_1, SENTENCE_RANK_2, SENTENCE_RANK_3, /* its passage is first, second, third                   */
    SENTENCE_PASSAGE_SCORE,  /* of its passage, over the best                                                      */
    SENTENCE_OVERLAP,        /* share of the question's idf that its words have                                    */
    SENTENCE_OVERLAP_SQUARE,
    SENTENCE_OVERLAP_BODY,   /* the same without words of the document's title                                     */
    SENTENCE_OVERLAP_FUNCTION, /* share of the question's function words                                           */
    SENTENCE_OVERLAP_PREVIOUS, SENTENCE_OVERLAP_NEXT, /* what the neighbours add to it                              */
    SENTENCE_OVERLAP_PASSAGE,
    SENTENCE_RAREST,         /* has the question's rarest word that is in the passage                              */
    SENTENCE_BIGRAMS,        /* share of the question's word pairs                                                 */
    SENTENCE_DENSITY,        /* overlap over the length                                                            */
    SENTENCE_FIRST,          /* of its passage                                                                     */
    SENTENCE_POSITION,
    SENTENCE_LENGTH,         /* log of words                                                                       */
    SENTENCE_SHORT,          /* under 6 words                                                                      */
    SENTENCE_NEW_NAMES,      /* capitalised words that the question lacks, log                                     */
    SENTENCE_NEW_NUMBERS,
    SENTENCE_WHEN_NUMBER,    /* "when", "what year": a year or a month                                             */
    SENTENCE_COUNT_NUMBER,   /* "how many", "how much", "how long", "what percentage": a number                    */
    SENTENCE_WHO_NAME, SENTENCE_WHERE_NAME, SENTENCE_WHAT_NAME,
    SENTENCE_WHY_CAUSE,      /* "why": because, due to, so that, …                                                 */
    SENTENCE_RELATED,        /* idf of the question's words that it lacks but has a relative of: "invent", "inventor" */
    SENTENCE_ASKED_KIND,     /* has the word after "what", "which", "how many": "what city"                        */
    SENTENCE_TITLE_NAMED,    /* has a word of the question that is in the document's title                         */
    SENTENCE_WHO_RELATED, SENTENCE_WHEN_OVERLAP, SENTENCE_COUNT_OVERLAP, /* the overlap counts for less or more there */
    SENTENCE_FEATURES
};

struct retrieval_sentence {
    size_t passage;        /* index in the result; of retrieval_score_pack(): in the pack's blocks */
    size_t start, end;     /* bytes of that passage's (block's) text */
    double score;          /* larger is better; comparable within one question */
    float features[SENTENCE_FEATURES];
};
enum { RETRIEVAL_SENTENCE_PASSAGES = 5, RETRIEVAL_MAX_PACK_SENTENCES = 1 << 16 };

/* Every sentence of the best passages, in their order. Titles and headings are none. */
enum status retrieval_score_sentences(struct store *store, struct span question, const struct retrieval_result *result,
                                      struct arena *arena, struct retrieval_sentence **sentences, size_t *count,
                                      struct error *err) MUST_CHECK;
/* Every sentence of a pack made from this result, by block and place; a block counts as its best passage does. */
enum status retrieval_score_pack(struct store *store, struct span question, const struct retrieval_result *result,
                                 const struct pack *pack, struct arena *arena, struct retrieval_sentence **sentences,
                                 size_t *count, struct error *err) MUST_CHECK;
/* The weighted sum of its features: of a model's own rules, with one weight each. */
double retrieval_weigh(const struct retrieval_sentence *sentence, const double weights[SENTENCE_FEATURES]);
/* The best of the best passages': STATUS_NOT_FOUND for an empty result. */
enum status retrieval_best_sentence(struct store *store, struct span question, const struct retrieval_result *result,
                                    struct arena *arena, struct retrieval_sentence *sentence, struct error *err)
    MUST_CHECK;

/* --- Summaries without a model --------------------------------------------------------------------------- */

#define RETRIEVAL_SUMMARY_VERSION "extractive-2" /* changes whenever equal pages could give other quotations */

struct retrieval_quote {
    int page;
    uint32_t start, end;   /* bytes of that page's canonical text */
};

/* The quotations that cover a document best, in its order: 3 to 24 by its length. A document without a sentence that
 * can be quoted: STATUS_OK and count 0. */
enum status retrieval_summarise(struct store *store, int64_t document_id, struct arena *arena,
                                struct retrieval_quote **quotes, size_t *count, struct error *err) MUST_CHECK;

/* In a page's text a heading is a block between empty lines: one short line without a stop.
 *
 * [*start, *end) of a page's text, chosen by somebody else, without the headings at its ends. One alone stays. */
void retrieval_trim_headings(struct span text, size_t *start, size_t *end);
/* Whether [start, end) is a heading as a whole, with more text after it. */
bool retrieval_is_heading(struct span text, size_t start, size_t end);
/* Whether every line of [start, end) is a row of a table: cells parted by tabs, the last one of few words. Ingest
 * writes tabs for wide gaps of a PDF as well ("1.", a gap, a sentence) and keeps those of code. */
bool retrieval_is_rows(struct span text, size_t start, size_t end);

/* --- A model's statements, held against the pages they cite ---------------------------------------------- */

enum claim_fault {
    CLAIM_KEPT,
    CLAIM_UNCITED,     /* names no page */
    CLAIM_NO_PAGE,     /* names a page that its source did not have */
    CLAIM_MISQUOTED,   /* words in quotation marks stand on none of the pages it names */
    CLAIM_UNSUPPORTED, /* shares no word that means anything with a page it names */
    CLAIM_NO_SENTENCE, /* quotes a heading, or rows of a table, and nothing else */
    CLAIM_FAULTS
};
const char *retrieval_claim_fault_name(enum claim_fault fault); /* "kept", "uncited", "no-page", … */

struct retrieval_claim {
    struct span text;               /* one statement, its page numbers and list marks taken out */
    enum claim_fault fault;
    struct retrieval_quote *places; /* kept: where it rests, at least one a page it names: the quoted words, or the */
    size_t place_count;             /* page's sentence that shares most with it                                     */
};

/* Splits what a model wrote ("It rose in May [3]. The court said “no” [4, 5].") into statements and checks each.
 * `pages` are those that its source showed, in ascending order. White space, dashes and the shape of quotation marks
 * don't count in quoted words, and "…" leaves words out; everything else does. Lives in `arena`. */
enum status retrieval_check_claims(struct store *store, int64_t document_id, const int *pages, size_t page_count,
                                   struct span text, struct arena *arena, struct retrieval_claim **claims,
                                   size_t *count, struct error *err) MUST_CHECK;

#endif
