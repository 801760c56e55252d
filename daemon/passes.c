/* passes.c: see passes.h. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "daemon/locate.h"
#include "daemon/passes_internal.h"

enum {
    SLICE_ROOM = 4096,         /* of an arena for one slice */
    ARENA_BYTES = 256 << 20,
    LEAST_ROOM_TOKENS = 96,
    LEAST_ANSWER_TOKENS = 32,
    LEAST_QUOTES = 3, MOST_QUOTES = 24, TOKENS_A_QUOTE = 625 /* as many as extractive summaries have */
};

/* --- Before the first pass ---------------------------------------------------------------------------------------- */

static enum status count_scaffold(const struct passes *passes, size_t *tokens, struct error *err)
{
    size_t most = 0;

    for (int task = PROMPT_SUMMARISE; task <= PROMPT_REDUCE; task++) {
        struct prompt prompt = {0};
        enum status s = prompt_build(passes->tokenizer, passes->style, (enum prompt_task)task, NULL, 0,
                                     span_of("", 0), passes->window, &prompt, err);

        if (s)
            return s;
        most = prompt.tokens.count > most ? prompt.tokens.count : most;
        prompt_finish(&prompt);
    }
    *tokens = most;
    return STATUS_OK;
}

/* What a prompt may spend on one page besides its text: marks, number, title. */
static enum status count_page_marks(const struct passes *passes, size_t *tokens, struct error *err)
{
    static const char marks[] = "[page 1000000 begin]\n\n\n[page 1000000 end]\n (p. 1000000)";
    size_t fixed = 0, title = 0;
    enum status s = tokenizer_count(passes->tokenizer, span_from_cstr(marks), &fixed);

    s = s ? s : tokenizer_count(passes->tokenizer, span_from_cstr(passes->title), &title);
    *tokens = fixed + title;
    return s ? error_set(err, s, "a title can't be tokenised") : STATUS_OK;
}

static enum status plan(struct passes *passes, struct store *store, int64_t page_count, struct error *err)
{
    size_t scaffold = 0;
    enum status s = count_scaffold(passes, &scaffold, err);

    if (!s)
        s = count_page_marks(passes, &passes->page_tokens, err);
    if (s)
        return s;
    if (passes->answer > passes->window / 4)
        passes->answer = passes->window / 4;
    if (passes->answer < LEAST_ANSWER_TOKENS ||
        passes->window < scaffold + passes->answer + 2 * passes->page_tokens + LEAST_ROOM_TOKENS)
        return error_set(err, STATUS_LIMIT, "a window of %zu tokens is too small for summaries", passes->window);
    passes->room = passes->window - passes->answer - scaffold;
    s = sections_make(store, passes->document, page_count, passes->tokenizer, passes->room, passes->page_tokens,
                      &passes->sections, err);
    passes->counts.sections = passes->sections.list.count;
    passes->counts.levels = passes->sections.list.count > 0;
    return s;
}

enum status passes_create(struct store *store, int64_t document, const struct passes_options *options,
                          struct passes **out, struct error *err)
{
    struct passes *passes = calloc(1, sizeof *passes);
    struct store_document row = {0};
    enum status s;

    if (!passes)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a summary");
    arena_init(&passes->arena, ARENA_BYTES);
    passes->mode = options->mode;
    passes->tokenizer = options->tokenizer;
    passes->style = options->style;
    passes->window = options->window_tokens;
    passes->answer = options->answer_tokens;
    passes->document = document;
    s = store_document_get(store, document, &row, err);
    if (!s) {
        const char *title = *row.title ? row.title : locate_file_name(row.path, row.member);
        int64_t page_count = row.page_count;

        passes->title = arena_copy_cstr(&passes->arena, span_from_cstr(title));
        passes->parameters = arena_copy_cstr(&passes->arena, span_from_cstr(options->parameters));
        s = passes->title && passes->parameters ? plan(passes, store, page_count, err)
                                                : error_set(err, STATUS_NO_MEMORY, "no memory for a summary");
    }
    if (s)
        passes_destroy(passes);
    else
        *out = passes;
    return s;
}

void passes_destroy(struct passes *passes)
{
    if (!passes)
        return;
    sections_finish(&passes->sections);
    vec_finish(&passes->notes);
    vec_finish(&passes->reduced);
    arena_finish(&passes->arena);
    free(passes);
}

/* --- Notes -------------------------------------------------------------------------------------------------------- */

static enum status statement_cost(const struct passes *passes, struct store *store, const struct statement *statement,
                                  size_t *tokens, struct error *err)
{
    struct arena arena;
    struct buf text;
    enum status s = STATUS_OK;

    arena_init(&arena, PASSES_NOTE_BYTES);
    buf_init(&text, PASSES_NOTE_BYTES);
    if (statement->text.len) {
        s = note_put_statement(statement, &text);
        s = s ? s : tokenizer_count(passes->tokenizer, buf_span(&text), tokens);
        *tokens += 2;
    } else {
        const struct retrieval_quote *place = statement->places;
        struct span words = {0};

        s = store_page_slice(store, passes->document, place->page, place->start, place->end, &arena, &words, err);
        s = s ? s : tokenizer_count(passes->tokenizer, words, tokens);
        *tokens += passes->page_tokens;
    }
    buf_finish(&text);
    arena_finish(&arena);
    return s;
}

static enum status note_cost(const struct passes *passes, struct store *store, const struct note *note, size_t *tokens,
                             struct error *err)
{
    *tokens = 0;
    for (size_t i = 0; i < note->count; i++) {
        size_t one = 0;
        enum status s = statement_cost(passes, store, &note->statements[i], &one, err);

        if (s)
            return s;
        *tokens += one;
    }
    return STATUS_OK;
}

/* Two notes always fit a pass, so that reducing comes to an end: of a longer one, statements are left out evenly. */
static enum status thin_out(const struct passes *passes, struct store *store, struct note *note, struct error *err)
{
    size_t cap = passes->room / 2, cost = 0;
    enum status s = note_cost(passes, store, note, &cost, err);

    while (!s && cost > cap && note->count) {
        size_t count = note->count, keep = count * cap / cost, kept = 0;

        keep = keep < count ? keep : count - 1;
        for (size_t i = 0; i < count; i++)
            if (i * keep / count != (i + 1) * keep / count)
                note->statements[kept++] = note->statements[i];
        note->count = kept;
        s = note_cost(passes, store, note, &cost, err);
    }
    return s;
}

static enum status add_note(struct passes *passes, struct store *store, struct note note, struct error *err)
{
    bool last = passes->reducing && passes->at == 0 && passes->pending.notes == passes->notes.count;
    enum status s = STATUS_OK;

    if (passes->reducing && note.count == 0) {
        s = note_join(&passes->notes.items[passes->at], passes->pending.notes, &passes->arena, &note);
        passes->counts.unreduced++;
    }
    if (!s && passes->counts.sections > 1 && !last)
        s = thin_out(passes, store, &note, err);
    if (!s && (passes->reducing ? vec_reserve(&passes->reduced, 1) : vec_reserve(&passes->notes, 1)))
        s = STATUS_NO_MEMORY;
    if (s)
        return error_set(err, s, "no memory for notes");
    if (passes->reducing)
        passes->reduced.items[passes->reduced.count++] = note;
    else
        passes->notes.items[passes->notes.count++] = note;
    passes->at += passes->reducing ? passes->pending.notes : 1;
    passes->pending.asked = false;
    return STATUS_OK;
}

static void count_claims(struct passes *passes, const size_t claims[CLAIM_FAULTS])
{
    for (int i = 0; i < CLAIM_FAULTS; i++)
        passes->counts.claims[i] += claims[i];
}

/* A pass of an earlier run: false where there is none, or none that can be read. */
static bool find_part(struct passes *passes, struct store *store, struct note *note)
{
    struct span body = {0};
    size_t claims[CLAIM_FAULTS] = {0};
    json_t *json = NULL, *counts;
    bool good = store_summary_part_find(store, passes->pending.key, &passes->arena, &body, NULL) == STATUS_OK;

    if (good)
        json = json_loadb(body.ptr, body.len, 0, NULL);
    counts = json_object_get(json, "counts");
    good = json && note_from_json(json_object_get(json, "statements"), &passes->arena, note) == STATUS_OK &&
           json_array_size(counts) == CLAIM_FAULTS;
    for (size_t i = 0; i < CLAIM_FAULTS && good; i++)
        claims[i] = (size_t)json_integer_value(json_array_get(counts, i));
    if (good)
        count_claims(passes, claims);
    json_decref(json);
    return good;
}

/* A part that can't be kept costs the next run this pass, not this run its summary. */
static void keep_part(const struct passes *passes, struct store *store, const struct note *note,
                      const size_t claims[CLAIM_FAULTS])
{
    struct store *writing = NULL;
    json_t *json = json_object(), *counts = json_array();
    struct error err = {0};
    char *text;
    enum status s;

    for (int i = 0; i < CLAIM_FAULTS; i++)
        (void)json_array_append_new(counts, json_integer((json_int_t)claims[i]));
    (void)json_object_set_new(json, "statements", note_to_json(note));
    (void)json_object_set_new(json, "counts", counts);
    text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    s = text ? store_open(store_dir(store), STORE_ADMIN, false, &writing, &err) : STATUS_NO_MEMORY;
    if (!s)
        s = store_summary_part_put(writing, passes->pending.key, passes->document, span_from_cstr(text), &err);
    if (s)
        log_warning("a part of the summary of document %" PRId64 " is not kept: %s", passes->document, err.message);
    store_close(writing);
    free(text);
}

/* --- The passes --------------------------------------------------------------------------------------------------- */

static enum status count_group(const struct passes *passes, struct store *store, size_t *count, struct error *err)
{
    size_t used = 0, n = 0;

    while (passes->at + n < passes->notes.count) {
        size_t cost = 0;
        enum status s = note_cost(passes, store, &passes->notes.items[passes->at + n], &cost, err);

        if (s)
            return s;
        if (n && used + cost > passes->room)
            break;
        used += cost;
        n++;
    }
    *count = n;
    return STATUS_OK;
}

/* Notes that hold nothing have no part in what follows. */
static void drop_empty(struct passes *passes)
{
    size_t kept = 0;

    for (size_t i = 0; i < passes->notes.count; i++)
        if (passes->notes.items[i].count)
            passes->notes.items[kept++] = passes->notes.items[i];
    passes->notes.count = kept;
}

static void begin_level(struct passes *passes)
{
    if (passes->reducing) {
        passes->notes.count = 0;
        for (size_t i = 0; i < passes->reduced.count; i++) /* never more than there were */
            passes->notes.items[passes->notes.count++] = passes->reduced.items[i];
        passes->reduced.count = 0;
    }
    passes->reducing = true;
    passes->at = 0;
    drop_empty(passes);
    passes->done = passes->notes.count <= 1;
    passes->counts.levels += !passes->done;
}

static enum status next_pass(struct passes *passes, struct store *store, struct packed *pass, struct error *err)
{
    size_t count = 0;
    enum status s;

    if (!passes->reducing)
        return passes_ask_section(passes, store, pass, err);
    s = count_group(passes, store, &count, err);
    if (s)
        return s;
    if (count > 1)
        return passes_ask_reduce(passes, store, count, pass, err);
    passes->pending = (struct pending){.notes = 1}; /* one alone is carried over as it is */
    return add_note(passes, store, passes->notes.items[passes->at], err);
}

enum status passes_next(struct passes *passes, struct store *store, struct packed *pass, bool *done, struct error *err)
{
    while (!passes->done) {
        size_t all = passes->reducing ? passes->notes.count : passes->sections.list.count;
        struct note note = {0};
        enum status s;

        if (passes->at == all) {
            begin_level(passes);
            continue;
        }
        pass->token_count = 0;
        pass->pack.count = 0;
        s = next_pass(passes, store, pass, err);
        if (s)
            return s;
        if (pass->token_count == 0)
            continue;
        if (!find_part(passes, store, &note)) {
            passes->pending.asked = true;
            *done = false;
            return STATUS_OK;
        }
        passes->counts.passes_before++;
        s = add_note(passes, store, note, err);
        if (s)
            return s;
    }
    *done = true;
    return STATUS_OK;
}

static enum status take_text(struct passes *passes, struct store *store, struct span text, struct note *note,
                             size_t claims[CLAIM_FAULTS], struct error *err)
{
    struct retrieval_claim *found = NULL;
    size_t count = 0;
    enum status s = retrieval_check_claims(store, passes->document, passes->pending.pages, passes->pending.page_count,
                                           text, &passes->arena, &found, &count, err);

    if (s)
        return s;
    note->statements = arena_alloc_array(&passes->arena, count + 1, sizeof *note->statements);
    if (!note->statements)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a note");
    for (size_t i = 0; i < count; i++) {
        claims[found[i].fault]++;
        if (found[i].fault == CLAIM_KEPT)
            note->statements[note->count++] =
                (struct statement){found[i].text, found[i].places, found[i].place_count};
    }
    return STATUS_OK;
}

/* The place of a quotation, without headings at its ends; `empty`: nothing but a heading or rows is left. */
static enum status place_quote(const struct passes *passes, struct store *store, const struct retrieval_quote *origin,
                               const struct quote_span *quote, struct retrieval_quote *place, bool *empty,
                               struct error *err)
{
    size_t start = quote->start, end = quote->end;
    struct arena arena;
    struct span text;
    enum status s;

    arena_init(&arena, origin->end - origin->start + SLICE_ROOM);
    s = store_page_slice(store, passes->document, origin->page, origin->start, origin->end, &arena, &text, err);
    if (!s) {
        retrieval_trim_headings(text, &start, &end);
        *empty = retrieval_is_heading(text, start, end) || retrieval_is_rows(text, start, end);
        *place = (struct retrieval_quote){origin->page, origin->start + (uint32_t)start, origin->start + (uint32_t)end};
    }
    arena_finish(&arena);
    return s;
}

static enum status take_quotes(struct passes *passes, struct store *store, const struct quote_span *quotes,
                               size_t count, struct note *note, size_t claims[CLAIM_FAULTS], struct error *err)
{
    struct retrieval_quote *places = arena_alloc_array(&passes->arena, count + 1, sizeof *places);

    note->statements = arena_alloc_array(&passes->arena, count + 1, sizeof *note->statements);
    if (!places || !note->statements)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a note");
    for (size_t i = 0; i < count; i++) {
        const struct retrieval_quote *origin;
        bool empty = false;
        enum status s;

        if (quotes[i].block_id < 1 || (size_t)quotes[i].block_id > passes->pending.origin_count) {
            claims[CLAIM_NO_PAGE]++;
            continue;
        }
        origin = &passes->pending.origins[quotes[i].block_id - 1];
        if (quotes[i].start >= quotes[i].end || quotes[i].end > origin->end - origin->start) {
            claims[CLAIM_MISQUOTED]++;
            continue;
        }
        s = place_quote(passes, store, origin, &quotes[i], &places[i], &empty, err);
        if (s)
            return s;
        if (empty) {
            claims[CLAIM_NO_SENTENCE]++;
            continue;
        }
        note->statements[note->count++] = (struct statement){.places = &places[i], .place_count = 1};
        claims[CLAIM_KEPT]++;
    }
    note_sort_quotes(note);
    return STATUS_OK;
}

enum status passes_take(struct passes *passes, struct store *store, struct span text, const struct quote_span *quotes,
                        size_t quote_count, struct error *err)
{
    size_t claims[CLAIM_FAULTS] = {0};
    struct note note = {0};
    enum status s;

    if (!passes->pending.asked)
        return error_set(err, STATUS_BUG, "nothing was asked");
    if (passes->mode == PASSES_QUOTES)
        s = take_quotes(passes, store, quotes, quote_count, &note, claims, err);
    else
        s = take_text(passes, store, text, &note, claims, err);
    if (s)
        return s;
    keep_part(passes, store, &note, claims);
    count_claims(passes, claims);
    passes->counts.passes++;
    return add_note(passes, store, note, err);
}

size_t passes_answer_tokens(const struct passes *passes)
{
    return passes->answer;
}

int passes_quotations(const struct passes *passes)
{
    int64_t most = LEAST_QUOTES + passes->sections.tokens / TOKENS_A_QUOTE;

    return most < MOST_QUOTES ? (int)most : MOST_QUOTES;
}

void passes_progress(const struct passes *passes, size_t *made, size_t *all)
{
    size_t sections = passes->sections.list.count;

    *all = sections + (sections > 1);
    *made = passes->reducing ? sections : passes->at;
}

const struct note *passes_summary(const struct passes *passes)
{
    static const struct note none;

    return passes->notes.count ? &passes->notes.items[0] : &none;
}

const struct passes_counts *passes_counts(const struct passes *passes)
{
    return &passes->counts;
}
