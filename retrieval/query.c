/* query.c: a question as people type it → an FTS5 expression. Nothing of the question is ever FTS5 syntax: it is split
 * into words by the index's own tokenizer, and each word goes in as a quoted string.
 *
 * Which words: function words and words in most chunks say little and cost most, so they are dropped while others
 * remain; of very many the rarest are kept. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/vec.h"
#include "retrieval/retrieval_internal.h"

enum {
    MAX_WORDS = RETRIEVAL_MAX_QUESTION_BYTES / 2, /* one letter and one space each */
    COMMON_ROWS_MIN = 200,     /* below this many chunks nothing is too common to ask for */
    COMMON_PERCENT = 40,       /* a word in more of the chunks than this is dropped */
    MAX_MATCH_BYTES = 1 << 20
};

/* Stemmed, sorted. */
static const char *const stop_words[] = {
    "a",     "about", "after", "all",   "also", "an",    "and",   "ani",   "ar",    "as",    "at",   "be",
    "been",  "befor", "but",   "by",    "can",  "could", "did",   "do",    "doe",   "dure",  "each", "for",
    "from",  "had",   "ha",    "have",  "he",   "her",   "him",   "hi",    "how",   "i",     "if",   "in",
    "into",  "is",    "it",    "list",  "mai",  "me",    "might", "more",  "most",  "my",    "no",   "not",
    "of",    "on",    "or",    "other", "our",  "out",   "over",  "pleas", "s",     "shall", "she",  "should",
    "so",    "some",  "such",  "t",     "tell", "than",  "that",  "the",   "their", "them",  "then", "there",
    "these", "thei",  "thi",   "those", "to",   "under", "us",    "wa",    "we",    "were",  "what", "when",
    "where", "which", "while", "who",   "whom", "whose", "why",   "will",  "with",  "would", "you",  "your"};

bool query_is_stop_word(struct span folded)
{
    for (size_t i = 0; i < sizeof stop_words / sizeof stop_words[0]; i++) {
        if (span_equal_cstr(folded, stop_words[i]))
            return true;
    }
    return false;
}

struct collector {
    struct span question;
    struct arena *arena;
    VEC(struct query_term) terms;
    enum status status;
};

static bool add_word(void *context, struct span folded, size_t start, size_t end)
{
    struct collector *collector = context;
    struct query_term term = {.text = span_slice(collector->question, start, end)};

    for (size_t i = 0; i < collector->terms.count; i++) {
        if (span_equal(collector->terms.items[i].folded, folded))
            return true;
    }
    if (collector->terms.count >= MAX_WORDS)
        return false;
    collector->status = vec_reserve(&collector->terms, 1);
    if (collector->status)
        return false;
    term.folded = span_of(arena_copy_cstr(collector->arena, folded), folded.len);
    if (!term.folded.ptr) {
        collector->status = STATUS_NO_MEMORY;
        return false;
    }
    collector->terms.items[collector->terms.count++] = term;
    return true;
}

static int by_rows(const void *left, const void *right)
{
    const struct query_term *a = *(struct query_term *const *)left, *b = *(struct query_term *const *)right;

    if (a->rows != b->rows)
        return a->rows < b->rows ? -1 : 1;
    return a < b ? -1 : a > b; /* the question's order */
}

/* Marks the terms to use: the rarest that are neither function words nor common; if that leaves none, the rarest of
 * the others, so that "what is it" still finds something. */
static enum status choose_terms(struct query *query)
{
    struct query_term **order = calloc(query->count, sizeof *order);
    size_t count = 0;

    if (!order)
        return STATUS_NO_MEMORY;
    for (int pass = 0; pass < 2 && count == 0; pass++) {
        for (size_t i = 0; i < query->count; i++) {
            struct query_term *term = &query->terms[i];
            bool common = query->all_rows >= COMMON_ROWS_MIN && term->rows * 100 > query->all_rows * COMMON_PERCENT;

            if (term->rows > 0 && (pass > 0 || (!common && !query_is_stop_word(term->folded))))
                order[count++] = term;
        }
        if (count)
            qsort(order, count, sizeof order[0], by_rows);
        if (pass > 0 && count > 3)
            count = 3;
    }
    for (size_t i = 0; i < count && i < RETRIEVAL_MAX_TERMS; i++)
        order[i]->used = true;
    free(order);
    return STATUS_OK;
}

static enum status write_match(struct query *query, struct arena *arena)
{
    struct buf match;
    enum status status = STATUS_OK;

    buf_init(&match, MAX_MATCH_BYTES);
    query->phrase_rows = arena_alloc_array(arena, query->count, sizeof *query->phrase_rows);
    if (!query->phrase_rows)
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < query->count && !status; i++) {
        const struct query_term *term = &query->terms[i];

        if (!term->used)
            continue;
        status = buf_append_cstr(&match, query->used ? " OR \"" : "\"");
        for (size_t b = 0; b < term->text.len && !status; b++) {
            if (term->text.ptr[b] == '"') /* no word has one; if the tokenizer ever changes, it stays a string */
                status = buf_append_byte(&match, '"');
            if (!status)
                status = buf_append_byte(&match, term->text.ptr[b]);
        }
        if (!status)
            status = buf_append_byte(&match, '"');
        query->phrase_rows[query->used++] = term->rows;
    }
    query->dropped = query->count - query->used;
    if (!status) {
        query->match = arena_copy_cstr(arena, buf_span(&match));
        status = query->match ? STATUS_OK : STATUS_NO_MEMORY;
    }
    buf_finish(&match);
    return status;
}

enum status query_build(struct store *store, struct span question, struct arena *arena, struct query *query,
                        struct error *err)
{
    struct collector collector = {.question = question, .arena = arena};
    struct query built = {0};
    enum status status;

    if (question.len > RETRIEVAL_MAX_QUESTION_BYTES)
        return error_set(err, STATUS_LIMIT, "the question is %zu bytes long, %d are the most", question.len,
                         RETRIEVAL_MAX_QUESTION_BYTES);
    status = store_fold_words(store, question, add_word, &collector, err);
    if (!status && collector.status)
        status = error_set(err, collector.status, "out of memory");
    if (!status && !collector.terms.count)
        status = error_set(err, STATUS_BAD_INPUT, "the question has no words");
    if (status)
        goto out;
    built.count = collector.terms.count;
    built.terms = arena_alloc_array(arena, built.count, sizeof *built.terms);
    if (!built.terms) {
        status = error_set(err, STATUS_NO_MEMORY, "out of memory");
        goto out;
    }
    memcpy(built.terms, collector.terms.items, built.count * sizeof *built.terms);
    for (size_t i = 0; i < built.count && !status; i++) {
        struct query_term *term = &built.terms[i];

        status = store_folded_rows(store, term->folded, &term->rows, &built.all_rows, err);
        term->idf = log(1.0 + ((double)(built.all_rows - term->rows) + 0.5) / ((double)term->rows + 0.5));
    }
    if (!status && (choose_terms(&built) || write_match(&built, arena)))
        status = error_set(err, STATUS_NO_MEMORY, "out of memory");
    if (!status)
        *query = built;
out:
    vec_finish(&collector.terms);
    return status;
}
