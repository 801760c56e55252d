/* claims.c: see retrieval.h: each statement is held against the pages it names.
 *
 * A statement is kept when every page it names was shown to the model, every stretch it quotes stands on one of them,
 * and every page it names shares at least one word of weight with it. That is no proof that the page says so; it is
 * what can be checked without reading, and it gives each statement the place where a person can read it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"
#include "retrieval/claim_text.h"

enum { MOST_CLAIMS = 4096 };

struct claim_word {
    uint64_t hash;
    double idf;
};

struct page_word {
    uint64_t hash;
    uint32_t start;
};

struct checking {
    struct store *store;
    int64_t document;
    const int *pages;
    size_t page_count;
    struct arena *arena;
    VEC(struct retrieval_claim) claims;
    VEC(struct claim_word) words;     /* of the statement in hand, each once */
    int page;                         /* whose text and words these are; 0: none */
    char *page_text;
    size_t page_len;
    VEC(struct page_word) page_words;
    enum status status;
    struct error *err;
};

const char *retrieval_claim_fault_name(enum claim_fault fault)
{
    static const char *const names[] = {"kept", "uncited", "no-page", "misquoted", "unsupported", "no-sentence"};

    return names[fault];
}

static uint64_t hash_of(struct span text)
{
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a */

    for (size_t i = 0; i < text.len; i++)
        hash = (hash ^ (unsigned char)text.ptr[i]) * 0x100000001B3u;
    return hash;
}

static bool is_shown(const struct checking *checking, int page)
{
    size_t low = 0, high = checking->page_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (checking->pages[middle] == page)
            return true;
        if (checking->pages[middle] < page)
            low = middle + 1;
        else
            high = middle;
    }
    return false;
}

/* --- Words -------------------------------------------------------------------------------------------------------- */

static bool add_claim_word(void *context, struct span folded, size_t start, size_t end)
{
    struct checking *checking = context;
    uint64_t hash = hash_of(folded);
    int64_t rows = 0, all = 0;

    (void)start;
    (void)end;
    if (query_is_stop_word(folded))
        return true;
    for (size_t i = 0; i < checking->words.count; i++)
        if (checking->words.items[i].hash == hash)
            return true;
    checking->status = store_folded_rows(checking->store, folded, &rows, &all, checking->err);
    if (!checking->status && vec_reserve(&checking->words, 1))
        checking->status = STATUS_NO_MEMORY;
    if (checking->status)
        return false;
    checking->words.items[checking->words.count++] =
        (struct claim_word){hash, log(1 + ((double)(all - rows) + 0.5) / ((double)rows + 0.5))};
    return true;
}

static bool add_page_word(void *context, struct span folded, size_t start, size_t end)
{
    struct checking *checking = context;

    (void)end;
    if (vec_reserve(&checking->page_words, 1)) {
        checking->status = STATUS_NO_MEMORY;
        return false;
    }
    checking->page_words.items[checking->page_words.count++] = (struct page_word){hash_of(folded), (uint32_t)start};
    return true;
}

/* Statements come in the order of the text: the page is mostly the one of before. */
static enum status load_page(struct checking *checking, int number)
{
    struct store_page page = {0};
    enum status s;

    if (checking->page == number)
        return STATUS_OK;
    checking->page = 0;
    s = store_page_get(checking->store, checking->document, number, &page, checking->err);
    if (s)
        return s;
    free(checking->page_text);
    checking->page_text = malloc(page.text.len + 1);
    if (!checking->page_text)
        return STATUS_NO_MEMORY;
    if (page.text.len)
        memcpy(checking->page_text, page.text.ptr, page.text.len);
    checking->page_len = page.text.len;
    checking->page_words.count = 0;
    s = store_fold_words(checking->store, span_of(checking->page_text, checking->page_len), add_page_word, checking,
                         checking->err);
    s = s ? s : checking->status;
    if (!s)
        checking->page = number;
    return s;
}

static const struct claim_word *find_word(const struct checking *checking, uint64_t hash)
{
    for (size_t i = 0; i < checking->words.count; i++)
        if (checking->words.items[i].hash == hash)
            return &checking->words.items[i];
    return NULL;
}

/* The weight of the statement's words that stand in page words [first, last), each once. */
static double shared_weight(const struct checking *checking, size_t first, size_t last)
{
    double sum = 0;

    for (size_t i = first; i < last; i++) {
        const struct claim_word *word = find_word(checking, checking->page_words.items[i].hash);
        bool before = false;

        for (size_t k = first; word && k < i && !before; k++)
            before = checking->page_words.items[k].hash == word->hash;
        sum += word && !before ? word->idf : 0;
    }
    return sum;
}

/* The page's sentence that shares most with the statement; the earlier of two, the shorter in effect. */
static bool best_sentence(const struct checking *checking, struct retrieval_quote *place)
{
    struct span text = span_of(checking->page_text, checking->page_len);
    size_t at = 0, start, end, word = 0;
    double best = 0;

    while (sentence_next(text, &at, &start, &end)) {
        size_t first, last;
        double now;

        while (word < checking->page_words.count && checking->page_words.items[word].start < start)
            word++;
        first = word;
        while (word < checking->page_words.count && checking->page_words.items[word].start < end)
            word++;
        last = word;
        now = shared_weight(checking, first, last) / pow((double)(last - first) + 8, 0.3);
        if (now > best) {
            best = now;
            *place = (struct retrieval_quote){checking->page, (uint32_t)start, (uint32_t)end};
        }
    }
    return best > 0;
}

/* --- One statement ------------------------------------------------------------------------------------------------ */

static bool has_place(const struct retrieval_claim *claim, int page)
{
    for (size_t i = 0; i < claim->place_count; i++)
        if (claim->places[i].page == page)
            return true;
    return false;
}

/* Every quoted stretch on one of the pages. */
static enum status check_quotes(struct checking *checking, const struct claim_text *text,
                                struct retrieval_claim *claim, size_t place_cap)
{
    struct span quoted;
    size_t at = 0;

    while (claim_text_next_quote(text->text, &at, &quoted)) {
        bool found = false;

        for (size_t i = 0; i < text->page_count && !found; i++) {
            size_t start = 0, end = 0;
            enum status s = load_page(checking, text->pages[i]);

            if (s)
                return s;
            found = claim_text_find(span_of(checking->page_text, checking->page_len), quoted, &start, &end);
            if (found && claim->place_count < place_cap)
                claim->places[claim->place_count++] =
                    (struct retrieval_quote){text->pages[i], (uint32_t)start, (uint32_t)end};
        }
        if (!found) {
            claim->fault = CLAIM_MISQUOTED;
            return STATUS_OK;
        }
    }
    return STATUS_OK;
}

static enum status check_support(struct checking *checking, const struct claim_text *text,
                                 struct retrieval_claim *claim, size_t place_cap)
{
    enum status s;

    checking->words.count = 0;
    s = store_fold_words(checking->store, text->text, add_claim_word, checking, checking->err);
    s = s ? s : checking->status;
    for (size_t i = 0; i < text->page_count && !s; i++) {
        struct retrieval_quote place = {0};

        if (has_place(claim, text->pages[i]))
            continue;
        s = load_page(checking, text->pages[i]);
        if (s)
            return s;
        if (!best_sentence(checking, &place)) {
            claim->fault = CLAIM_UNSUPPORTED;
            return STATUS_OK;
        }
        if (claim->place_count < place_cap)
            claim->places[claim->place_count++] = place;
    }
    return s;
}

static enum status check(struct checking *checking, const struct claim_text *text, struct retrieval_claim *claim)
{
    size_t cap = text->page_count + 8;
    enum status s;

    if (text->page_count == 0) {
        claim->fault = CLAIM_UNCITED;
        return STATUS_OK;
    }
    for (size_t i = 0; i < text->page_count; i++) {
        if (is_shown(checking, text->pages[i]))
            continue;
        claim->fault = CLAIM_NO_PAGE;
        return STATUS_OK;
    }
    claim->places = arena_alloc_array(checking->arena, cap, sizeof *claim->places);
    if (!claim->places)
        return STATUS_NO_MEMORY;
    s = check_quotes(checking, text, claim, cap);
    if (!s && claim->fault == CLAIM_KEPT)
        s = check_support(checking, text, claim, cap);
    if (claim->fault != CLAIM_KEPT)
        claim->place_count = 0;
    return s;
}

static enum status take_claim(void *context, const struct claim_text *text)
{
    struct checking *checking = context;
    struct retrieval_claim claim = {.text = text->text};
    enum status s;

    if (text->text.len == 0)
        return STATUS_OK;
    if (checking->claims.count == MOST_CLAIMS)
        return error_set(checking->err, STATUS_LIMIT, "more than %d statements", MOST_CLAIMS);
    s = check(checking, text, &claim);
    if (!s && vec_reserve(&checking->claims, 1))
        s = STATUS_NO_MEMORY;
    if (!s)
        checking->claims.items[checking->claims.count++] = claim;
    return s;
}

enum status retrieval_check_claims(struct store *store, int64_t document_id, const int *pages, size_t page_count,
                                   struct span text, struct arena *arena, struct retrieval_claim **claims,
                                   size_t *count, struct error *err)
{
    struct checking checking = {.store = store, .document = document_id, .pages = pages, .page_count = page_count,
                                .arena = arena, .err = err};
    struct claim_visit visit = {take_claim, &checking};
    struct retrieval_claim *out = NULL;
    enum status s = claim_text_split(text, arena, &visit);

    if (!s) {
        out = arena_alloc_array(arena, checking.claims.count + 1, sizeof *out);
        if (out && checking.claims.count)
            memcpy(out, checking.claims.items, checking.claims.count * sizeof *out);
        s = out ? STATUS_OK : STATUS_NO_MEMORY;
    }
    if (!s) {
        *claims = out;
        *count = checking.claims.count;
    } else if (s == STATUS_NO_MEMORY) {
        s = error_set(err, s, "no memory for a summary's statements");
    }
    vec_finish(&checking.claims);
    vec_finish(&checking.words);
    vec_finish(&checking.page_words);
    free(checking.page_text);
    return s;
}
