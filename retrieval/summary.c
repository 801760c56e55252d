/* summary.c: the quotations that cover a document best.
 *
 * Every word weighs ln(1 + tf) · idf: what the document speaks of often and the store seldom. Sentences are taken
 * greedily by the weight they bring, over their length; a word that was brought loses most of its weight for those
 * that come after, which is what keeps the second sentence from repeating the first. Long documents go in two rounds:
 * candidates from each section by the section's own weights, then the best of the candidates by the document's.
 * Nothing is random and ties go to the earlier sentence. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"
#include "retrieval/retrieval_internal.h"

enum {
    SECTION_SENTENCES = 256,
    SECTION_CANDIDATES = 10,
    MOST_SENTENCES = 1 << 20,
    LEAST_WORDS = 6, LEAST_BYTES = 30, MOST_BYTES = 600, /* of a sentence that can be quoted */
    LEAST_QUOTES = 3, MOST_QUOTES = 24, SENTENCES_A_QUOTE = 25
};

static const double repeated_weight = 0.25; /* what a word keeps each time it was brought */
static const double beginning_bonus = 0.35; /* of the first sentence of a page or section, falling off */
static const double length_power = 0.7;

struct term {
    uint64_t hash;
    uint32_t count;  /* in the part that is weighed */
    double idf, left;
};

struct sentence {
    int page;
    uint32_t start, end;
    size_t first_word;
    uint32_t words, index; /* index: on its page */
    bool quotable, taken;
};

struct summary {
    struct store *store;
    VEC(struct sentence) sentences;
    VEC(uint32_t) words;      /* indexes into terms, sentence by sentence */
    VEC(struct term) terms;
    uint32_t *slots;          /* hash table: index + 1 */
    size_t slot_count;
    /* while a page is read */
    size_t filling, last;     /* sentences of the page */
    struct error *err;
    enum status status;
};

/* --- Words -------------------------------------------------------------------------------------------------------- */

static uint64_t hash_of(struct span text)
{
    uint64_t hash = 0xCBF29CE484222325u; /* FNV-1a */

    for (size_t i = 0; i < text.len; i++)
        hash = (hash ^ (unsigned char)text.ptr[i]) * 0x100000001B3u;
    return hash;
}

static enum status grow_slots(struct summary *summary)
{
    size_t count = summary->slot_count ? 2 * summary->slot_count : 4096;
    uint32_t *slots = calloc(count, sizeof *slots);

    if (!slots)
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < summary->terms.count; i++) {
        size_t at = summary->terms.items[i].hash & (count - 1);

        while (slots[at])
            at = (at + 1) & (count - 1);
        slots[at] = (uint32_t)i + 1;
    }
    free(summary->slots);
    summary->slots = slots;
    summary->slot_count = count;
    return STATUS_OK;
}

static enum status term_of(struct summary *summary, struct span folded, uint32_t *index, struct error *err)
{
    uint64_t hash = hash_of(folded);
    int64_t rows = 0, all = 0;
    enum status s = STATUS_OK;
    size_t at;

    if (2 * (summary->terms.count + 1) > summary->slot_count)
        s = grow_slots(summary);
    if (s)
        return s;
    for (at = hash & (summary->slot_count - 1); summary->slots[at]; at = (at + 1) & (summary->slot_count - 1)) {
        *index = summary->slots[at] - 1;
        if (summary->terms.items[*index].hash == hash)
            return STATUS_OK;
    }
    s = store_folded_rows(summary->store, folded, &rows, &all, err);
    if (!s && vec_reserve(&summary->terms, 1))
        s = STATUS_NO_MEMORY;
    if (s)
        return s;
    *index = (uint32_t)summary->terms.count;
    summary->terms.items[summary->terms.count++] = (struct term){
        .hash = hash,
        .idf = query_is_stop_word(folded) ? 0 : log(1 + ((double)(all - rows) + 0.5) / ((double)rows + 0.5))};
    summary->slots[at] = *index + 1;
    return STATUS_OK;
}

/* Words come in the order of the text: each belongs to the sentence being filled or to a later one. */
static bool add_word(void *context, struct span folded, size_t start, size_t end)
{
    struct summary *summary = context;
    struct sentence *sentence;
    uint32_t term = 0;

    (void)end;
    while (summary->filling < summary->last && summary->sentences.items[summary->filling].end <= start)
        if (++summary->filling < summary->last)
            summary->sentences.items[summary->filling].first_word = summary->words.count;
    if (summary->filling == summary->last)
        return false;
    sentence = &summary->sentences.items[summary->filling];
    if (start < sentence->start)
        return true;
    summary->status = term_of(summary, folded, &term, summary->err);
    if (!summary->status && vec_reserve(&summary->words, 1))
        summary->status = STATUS_NO_MEMORY;
    if (summary->status)
        return false;
    summary->words.items[summary->words.count++] = term;
    sentence->words++;
    return true;
}

/* --- Sentences ---------------------------------------------------------------------------------------------------- */

/* Sentences, not tables, lists of names and page furniture. */
static bool is_quotable(struct span text, uint32_t words)
{
    size_t letters = 0, breaks = 0;

    for (size_t i = 0; i < text.len; i++) {
        letters += isalpha((unsigned char)text.ptr[i]) != 0 || (unsigned char)text.ptr[i] >= 0x80;
        breaks += text.ptr[i] == '\n';
    }
    return words >= LEAST_WORDS && text.len >= LEAST_BYTES && text.len <= MOST_BYTES && 10 * letters >= 6 * text.len &&
           20 * breaks <= text.len + 20;
}

static enum status read_page(struct summary *summary, int64_t document, int number, struct error *err)
{
    struct store_page page = {0};
    struct arena arena;
    size_t at = 0, start = 0, end = 0, first = summary->sentences.count;
    struct span text;
    enum status s = store_page_get(summary->store, document, number, &page, err);

    if (s)
        return s;
    arena_init(&arena, page.text.len + (1 << 16));
    text = span_of(arena_copy_cstr(&arena, page.text), page.text.len); /* borrowed: the store is asked for words next */
    if (!text.ptr)
        s = STATUS_NO_MEMORY;
    while (!s && sentence_next(text, &at, &start, &end)) {
        if (summary->sentences.count == MOST_SENTENCES)
            s = error_set(err, STATUS_LIMIT, "the document has more than %d sentences", MOST_SENTENCES);
        else if (vec_reserve(&summary->sentences, 1))
            s = STATUS_NO_MEMORY;
        else
            summary->sentences.items[summary->sentences.count++] = (struct sentence){
                .page = number, .start = (uint32_t)start, .end = (uint32_t)end, .first_word = summary->words.count,
                .index = (uint32_t)(summary->sentences.count - first)};
    }
    summary->filling = first;
    summary->last = summary->sentences.count;
    if (!s && first < summary->last)
        s = store_fold_words(summary->store, text, add_word, summary, err);
    s = s ? s : summary->status;
    for (size_t i = first; i < summary->last && !s; i++) {
        struct sentence *sentence = &summary->sentences.items[i];

        sentence->quotable = is_quotable(span_slice(text, sentence->start, sentence->end), sentence->words) &&
                             !retrieval_is_heading(text, sentence->start, sentence->end);
    }
    arena_finish(&arena);
    return s;
}

/* --- Choosing ----------------------------------------------------------------------------------------------------- */

static void weigh(struct summary *summary, size_t first, size_t last)
{
    for (size_t i = 0; i < summary->terms.count; i++)
        summary->terms.items[i].count = 0;
    for (size_t i = first; i < last; i++)
        for (uint32_t w = 0; w < summary->sentences.items[i].words; w++)
            summary->terms.items[summary->words.items[summary->sentences.items[i].first_word + w]].count++;
    for (size_t i = 0; i < summary->terms.count; i++) {
        struct term *term = &summary->terms.items[i];

        term->left = term->count > 1 ? log(1 + (double)term->count) * term->idf : 0.2 * term->idf * term->count;
    }
}

static double gain(const struct summary *summary, const struct sentence *sentence)
{
    double sum = 0;

    for (uint32_t w = 0; w < sentence->words; w++) {
        uint32_t term = summary->words.items[sentence->first_word + w];
        bool before = false;

        for (uint32_t v = 0; v < w && !before; v++)
            before = summary->words.items[sentence->first_word + v] == term;
        sum += before ? 0 : summary->terms.items[term].left;
    }
    return sum / pow(sentence->words + 4, length_power) * (1 + beginning_bonus / (1 + sentence->index));
}

/* Takes at most `most` of the quotable sentences in [first, last) that are among `candidates` (0: all are). */
static void choose(struct summary *summary, size_t first, size_t last, const size_t *candidates, size_t candidate_count,
                   size_t most)
{
    size_t count = candidates ? candidate_count : last - first;

    for (size_t taken = 0; taken < most; taken++) {
        struct sentence *best = NULL;
        double best_gain = 0;

        for (size_t i = 0; i < count; i++) {
            struct sentence *sentence = &summary->sentences.items[candidates ? candidates[i] : first + i];
            double now = sentence->taken || !sentence->quotable ? 0 : gain(summary, sentence);

            if (now > best_gain) {
                best = sentence;
                best_gain = now;
            }
        }
        if (!best)
            return;
        best->taken = true;
        for (uint32_t w = 0; w < best->words; w++)
            summary->terms.items[summary->words.items[best->first_word + w]].left *= repeated_weight;
    }
}

static enum status choose_all(struct summary *summary, size_t most)
{
    size_t count = summary->sentences.count, sections = (count + SECTION_SENTENCES - 1) / SECTION_SENTENCES, found = 0;
    size_t *candidates;

    if (sections <= 1) {
        weigh(summary, 0, count);
        choose(summary, 0, count, NULL, 0, most);
        return STATUS_OK;
    }
    candidates = calloc(sections * SECTION_CANDIDATES, sizeof *candidates);
    if (!candidates)
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < sections; i++) {
        size_t first = i * count / sections, last = (i + 1) * count / sections;

        weigh(summary, first, last);
        choose(summary, first, last, NULL, 0, SECTION_CANDIDATES);
        for (size_t k = first; k < last; k++) {
            if (summary->sentences.items[k].taken)
                candidates[found++] = k;
            summary->sentences.items[k].taken = false;
        }
    }
    weigh(summary, 0, count);
    choose(summary, 0, count, candidates, found, most);
    free(candidates);
    return STATUS_OK;
}

static size_t quotes_for(size_t sentences)
{
    size_t most = LEAST_QUOTES + sentences / SENTENCES_A_QUOTE;

    return most < MOST_QUOTES ? most : MOST_QUOTES;
}

static enum status hand_out(const struct summary *summary, struct arena *arena, struct retrieval_quote **quotes,
                            size_t *count)
{
    struct retrieval_quote *out = arena_alloc_array(arena, MOST_QUOTES, sizeof *out);
    size_t n = 0;

    if (!out)
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < summary->sentences.count; i++) {
        const struct sentence *sentence = &summary->sentences.items[i];

        if (sentence->taken && n < MOST_QUOTES)
            out[n++] = (struct retrieval_quote){sentence->page, sentence->start, sentence->end};
    }
    *quotes = out;
    *count = n;
    return STATUS_OK;
}

enum status retrieval_summarise(struct store *store, int64_t document_id, struct arena *arena,
                                struct retrieval_quote **quotes, size_t *count, struct error *err)
{
    struct summary summary = {.store = store, .err = err};
    struct store_document document = {0};
    int64_t pages = 0;
    enum status s = store_snapshot_begin(store, err);

    if (s)
        return s;
    s = store_document_get(store, document_id, &document, err);
    pages = document.page_count;
    for (int64_t page = 1; page <= pages && !s; page++) {
        s = read_page(&summary, document_id, (int)page, err);
        if (s == STATUS_NOT_FOUND)
            s = STATUS_OK; /* a page that could not be read */
    }
    store_snapshot_end(store);
    if (!s)
        s = choose_all(&summary, quotes_for(summary.sentences.count));
    if (!s)
        s = hand_out(&summary, arena, quotes, count);
    if (s == STATUS_NO_MEMORY)
        s = error_set(err, s, "no memory for a summary");
    vec_finish(&summary.sentences);
    vec_finish(&summary.words);
    vec_finish(&summary.terms);
    free(summary.slots);
    return s;
}
