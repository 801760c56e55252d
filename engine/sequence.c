/* sequence.c: one timeline of tokens: admission, its next token, its text, its end.
 *
 * What a sequence gives depends on its options alone: not on what else is in the batch, on how its prompt was cut
 * into chunks, or on whether pages came from a cache. The scheduler decides only when. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/engine_impl.h"

/* --- Text and stop strings ------------------------------------------------------------------------------------- */

/* How many of the last bytes could be the beginning of a stop string. */
static size_t held_back(const struct sequence *q)
{
    const char *text = buf_cstr(&q->text);
    size_t most = 0;

    for (size_t i = 0; i < q->stop_string_count; i++) {
        size_t len = strlen(q->stop_string[i]), n = q->text.len < len - 1 ? q->text.len : len - 1;

        while (n > most && memcmp(text + q->text.len - n, q->stop_string[i], n))
            n--;
        if (n > most)
            most = n;
    }
    return most;
}

/* The place of the first stop string, looked for where the bytes from `from` on are new; false if there is none. */
static bool find_stop_string(const struct sequence *q, size_t from, size_t *at)
{
    const char *text = buf_cstr(&q->text);
    bool found = false;

    for (size_t i = 0; i < q->stop_string_count; i++) {
        size_t len = strlen(q->stop_string[i]), start = from >= len ? from - len + 1 : 0;
        const char *hit = q->text.len > start ? memmem(text + start, q->text.len - start, q->stop_string[i], len)
                                              : NULL;

        if (hit && (!found || (size_t)(hit - text) < *at)) {
            *at = (size_t)(hit - text);
            found = true;
        }
    }
    return found;
}

/* Adds a token's text, or at the end what is still held back. True when a stop string was met. Ids beyond the
 * tokenizer's (published vocabularies are padded) have no text. */
static enum status grow_text(struct sequence *q, const int32_t *token, bool *stopped)
{
    size_t from = q->text.len, at = 0;
    enum status s = STATUS_OK;

    *stopped = false;
    if (!token)
        s = render_flush(&q->render, &q->text);
    else if (*token < tokenizer_vocab_size(q->engine->tokenizer))
        s = render_put(&q->render, *token, &q->text);
    if (s)
        return s;
    if (find_stop_string(q, from, &at)) {
        q->text_shown = at;
        *stopped = true;
    } else {
        q->text_shown = q->text.len - (token ? held_back(q) : 0);
    }
    return STATUS_OK;
}

/* --- The next token -------------------------------------------------------------------------------------------- */

bool sequence_is_stop_id(const struct sequence *q, int32_t token)
{
    for (size_t i = 0; i < q->stop_id_count; i++) {
        if (q->stop_id[i] == token)
            return true;
    }
    return false;
}

static void finish_text(struct sequence *q)
{
    bool stopped;

    if (grow_text(q, NULL, &stopped)) /* no room for the last bytes: what was shown stays right */
        q->text_shown = q->text.len;
}

/* Takes a chosen token into the timeline; ends the sequence where the token says so. */
static enum status accept(struct sequence *q, int32_t token, float logprob, struct error *err)
{
    bool stopped = false;
    enum status s;

    if (q->quote) {
        s = quote_accept(q->quote, token);
        if (s)
            return error_set(err, s, "token %d is not allowed by quote mode", token);
    }
    if (vec_reserve(&q->output, 1) || vec_reserve(&q->timeline, 1))
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    q->output.items[q->output.count++] = (struct sequence_token){token, logprob};
    q->status.output_tokens = q->output.count;
    if (sequence_is_stop_id(q, token)) {
        finish_text(q);
        sequence_end(q, REASON_STOP);
        return STATUS_OK;
    }
    s = grow_text(q, &token, &stopped);
    if (s)
        return error_set(err, s, "the text of the answer exceeds %d bytes", MAX_TEXT_BYTES);
    if (stopped) {
        sequence_end(q, REASON_STOP);
    } else if (q->output.count >= q->max_tokens) {
        finish_text(q);
        sequence_end(q, REASON_LENGTH);
    } else {
        q->timeline.items[q->timeline.count++] = token;
    }
    return STATUS_OK;
}

static float log_probability(const float *logits, int32_t vocab, int32_t token)
{
    double best = -INFINITY, sum = 0;

    for (int32_t i = 0; i < vocab; i++)
        best = logits[i] > best ? logits[i] : best;
    for (int32_t i = 0; i < vocab; i++)
        sum += exp(logits[i] - best);
    return (float)(logits[token] - best - log(sum));
}

/* With what a weighted quotation says of each token. */
static const float *weigh(struct sequence *q, const float *logits)
{
    const struct quote_step *steps;
    size_t count = q->greedy ? 0 : quote_steps(q->quote, &steps); /* greedy: one place is left, and adds nothing */

    if (count == 0)
        return logits;
    memcpy(q->engine->weighed, logits, (size_t)q->engine->config.vocab * sizeof *logits);
    for (size_t i = 0; i < count; i++)
        q->engine->weighed[steps[i].token] = (float)((double)logits[steps[i].token] + steps[i].log_weight);
    return q->engine->weighed;
}

enum status sequence_advance(struct sequence *q, const float *logits, struct error *err)
{
    const float *weighed = logits;
    struct sampled sampled;
    enum status s;

    if (q->choice) {
        s = choice_step(q->choice, q->quote, q->mark_count ? q->mark : NULL, logits, q->greedy);
        if (s)
            return error_set(err, s, "no memory for the choice of a sentence");
        weighed = weigh(q, logits);
    }
    if (q->output.count < q->forced_count) { /* only where take_forced() leaves them */
        int32_t token = q->forced[q->output.count];

        sampler_accept(q->sampler, token);
        return accept(q, token, log_probability(logits, q->engine->config.vocab, token), err);
    }
    s = sampler_next(q->sampler, weighed, q->quote ? quote_mask(q->quote) : NULL, q->output.count, &sampled);
    if (s)
        return error_set(err, s, "no token could be chosen: the logits are not numbers");
    if (weighed != logits)
        sampled.logprob = log_probability(logits, q->engine->config.vocab, sampled.token);
    return accept(q, sampled.token, sampled.logprob, err);
}

bool sequence_takes_best(const struct sequence *q)
{
    return sampler_is_plain(q->sampler) && !q->quote && !q->choice && !q->mark_count &&
           q->output.count >= q->forced_count;
}

bool sequence_draws(const struct sequence *q, float *temperature)
{
    return sampler_draws(q->sampler, temperature) && !q->quote && !q->choice && !q->mark_count &&
           q->output.count >= q->forced_count;
}

enum status sequence_advance_draw(struct sequence *q, const struct shortlist *list, bool *decided, struct error *err)
{
    struct sampled sampled;
    enum status s = sampler_next_of(q->sampler, list, q->output.count, &sampled, decided);

    if (s)
        return error_set(err, s, "no token could be chosen: the logits are not numbers");
    return *decided ? accept(q, sampled.token, sampled.logprob, err) : STATUS_OK;
}

enum status sequence_advance_best(struct sequence *q, int32_t best, float log_probability, struct error *err)
{
    if (best < 0)
        return error_set(err, STATUS_BAD_INPUT, "no token could be chosen: the logits are not numbers");
    sampler_accept(q->sampler, best);
    return accept(q, best, log_probability, err);
}

/* Without logprobs forced tokens need no logits: they are prompt to the model and output to everyone else. A reading
 * does need them, for it must come to the same choice again. */
static enum status take_forced(struct sequence *q, struct error *err)
{
    for (size_t i = 0; i < q->forced_count && !q->logprobs && !q->choice && sequence_alive(q); i++) {
        enum status s;

        sampler_accept(q->sampler, q->forced[i]);
        s = accept(q, q->forced[i], 0, err);
        if (s) {
            error_prefix(err, "forced token %zu", i);
            return s;
        }
    }
    return STATUS_OK;
}

size_t sequence_marks_before(const struct sequence *q, size_t end)
{
    size_t count = 0;

    while (q->marked + count < q->mark_count && q->mark_at[q->marked + count] < end)
        count++;
    return count;
}

bool sequence_alive(const struct sequence *q)
{
    return q->status.state != SEQUENCE_DONE;
}

size_t sequence_ready(const struct sequence *q)
{
    return q->timeline.count - q->done;
}

/* --- Creation -------------------------------------------------------------------------------------------------- */

static enum status check_tokens(const struct engine *e, const int32_t *tokens, size_t count, const char *what,
                                struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || tokens[i] >= e->config.vocab)
            return error_set(err, STATUS_BAD_INPUT, "%s token %zu is %d, outside the vocabulary of %d", what, i,
                             tokens[i], e->config.vocab);
    }
    return STATUS_OK;
}

static struct sequence_marks marks_of(const struct sequence_options *o)
{
    const struct reading *r = o->reading;

    if (!r)
        return o->marks;
    return (struct sequence_marks){r->positions, reading_needs_marks(r) ? r->mark_count : 0, r->yes, r->no};
}

static enum status check_marks(const struct engine *e, const struct sequence_options *o, struct error *err)
{
    struct sequence_marks asked = marks_of(o);
    const struct sequence_marks *marks = &asked;

    if (o->reading && (!o->quotes || o->marks.count))
        return error_set(err, STATUS_BAD_INPUT, "a reading needs quote mode, and has marks of its own");

    if (marks->count == 0)
        return STATUS_OK;
    if (marks->count > SEQUENCE_MAX_MARKS)
        return error_set(err, STATUS_LIMIT, "%zu marks; at most %d", marks->count, SEQUENCE_MAX_MARKS);
    if (marks->yes < 0 || marks->yes >= e->config.vocab || marks->no < 0 || marks->no >= e->config.vocab)
        return error_set(err, STATUS_BAD_INPUT, "marks compare tokens %d and %d, outside the vocabulary of %d",
                         marks->yes, marks->no, e->config.vocab);
    for (size_t i = 0; i < marks->count; i++) {
        if (marks->positions[i] >= o->token_count || (i && marks->positions[i] <= marks->positions[i - 1]))
            return error_set(err, STATUS_BAD_INPUT, "mark %zu at position %zu: marks ascend, inside the prompt", i,
                             marks->positions[i]);
    }
    return STATUS_OK;
}

static enum status check_options(const struct engine *e, const struct sequence_options *o, struct error *err)
{
    int64_t window = e->info.window_tokens;
    enum status s;

    if (o->token_count == 0 || o->max_tokens == 0)
        return error_set(err, STATUS_BAD_INPUT, "a sequence needs a prompt and room for a token");
    if (o->token_count > (size_t)window || o->max_tokens > (size_t)window - o->token_count)
        return error_set(err, STATUS_LIMIT, "%zu tokens of prompt and %zu of output exceed the window of %lld",
                         o->token_count, o->max_tokens, (long long)window);
    if (o->forced_count > o->max_tokens)
        return error_set(err, STATUS_BAD_INPUT, "%zu forced tokens exceed max_tokens %zu", o->forced_count,
                         o->max_tokens);
    if (o->stop_id_count > MAX_STOPS || o->stop_string_count > MAX_STOPS)
        return error_set(err, STATUS_LIMIT, "more than %d stops", MAX_STOPS);
    for (size_t i = 0; i < o->stop_string_count; i++) {
        if (!o->stop_strings[i][0] || strlen(o->stop_strings[i]) > MAX_STOP_BYTES)
            return error_set(err, STATUS_BAD_INPUT, "a stop string must have 1 to %d bytes", MAX_STOP_BYTES);
    }
    s = check_tokens(e, o->tokens, o->token_count, "prompt", err);
    if (!s)
        s = check_tokens(e, o->forced, o->forced_count, "forced", err);
    if (!s)
        s = check_marks(e, o, err);
    return s ? s : sampler_check(&o->sampling, err);
}

static enum status copy_options(struct sequence *q, const struct sequence_options *o)
{
    struct sequence_marks marks = marks_of(o);

    q->class = o->class;
    q->owner = o->owner;
    q->max_tokens = o->max_tokens;
    q->logprobs = o->logprobs;
    q->prompt_count = q->status.prompt_tokens = o->token_count;
    q->forced_count = o->forced_count;
    q->forced = malloc((o->forced_count + 1) * sizeof *q->forced);
    q->stop_id = malloc((o->stop_id_count + 1) * sizeof *q->stop_id);
    q->stop_string = calloc(o->stop_string_count + 1, sizeof *q->stop_string);
    if (!q->forced || !q->stop_id || !q->stop_string || vec_reserve(&q->timeline, o->token_count))
        return STATUS_NO_MEMORY;
    if (o->forced_count)
        memcpy(q->forced, o->forced, o->forced_count * sizeof *q->forced);
    if (o->stop_id_count)
        memcpy(q->stop_id, o->stop_ids, o->stop_id_count * sizeof *q->stop_id);
    q->stop_id_count = o->stop_id_count;
    for (; q->stop_string_count < o->stop_string_count; q->stop_string_count++) {
        q->stop_string[q->stop_string_count] = strdup(o->stop_strings[q->stop_string_count]);
        if (!q->stop_string[q->stop_string_count])
            return STATUS_NO_MEMORY;
    }
    q->greedy = o->sampling.temperature <= 0;
    q->mark_count = marks.count;
    q->mark_at = malloc((marks.count + 1) * sizeof *q->mark_at);
    q->mark = malloc((marks.count + 1) * sizeof *q->mark);
    if (!q->mark_at || !q->mark || (o->reading && choice_create(o->reading, &q->choice)))
        return STATUS_NO_MEMORY;
    if (marks.count)
        memcpy(q->mark_at, marks.positions, marks.count * sizeof *q->mark_at);
    q->mark_pair[0] = marks.yes;
    q->mark_pair[1] = marks.no;
    memcpy(q->timeline.items, o->tokens, o->token_count * sizeof *o->tokens);
    q->timeline.count = o->token_count;
    buf_init(&q->text, MAX_TEXT_BYTES);
    render_init(&q->render, q->engine->tokenizer, q->engine->info.prompt_style);
    return STATUS_OK;
}

static enum status start_quotes(struct sequence *q, const struct sequence_options *o, struct error *err)
{
    if (!o->quotes)
        return STATUS_OK;
    return quote_create(o->quotes, o->stop_ids, o->stop_id_count, &q->quote, err);
}

/* --- Pages ----------------------------------------------------------------------------------------------------- */

/* The MTP layer's record of a position holds the token after it. */
static struct hash256 page_key(const struct sequence *q, const int32_t *tokens)
{
    struct hash256 key = kv_cache_key(&q->seal_key, tokens);

    return q->engine->config.mtp ? kv_cache_key_with_next(&key, tokens[CACHE_PAGE_TOKENS]) : key;
}

void sequence_take_pages(struct sequence *q, size_t positions)
{
    while (q->pages.count * CACHE_PAGE_TOKENS < positions) {
        assert(q->reserved > 0);
        q->pages.items[q->pages.count++] = kv_cache_take(q->engine->cache);
        q->reserved--;
    }
}

void sequence_seal_pages(struct sequence *q)
{
    struct engine *e = q->engine;
    size_t complete = e->config.mtp ? q->paired : q->done;

    while ((q->sealed + 1) * CACHE_PAGE_TOKENS <= complete) {
        const int32_t *tokens = q->timeline.items + q->sealed * CACHE_PAGE_TOKENS;
        int32_t page = q->pages.items[q->sealed];

        q->seal_key = page_key(q, tokens);
        q->sealed++;
        kv_cache_seal(e->cache, page, &q->seal_key, tokens);
        if (e->prefix && q->sealed * CACHE_PAGE_TOKENS <= q->prompt_count &&
            prefix_cache_wants(e->prefix, &q->seal_key)) {
            void *bytes = malloc((size_t)kv_cache_page_bytes(e->cache));

            if (bytes && !kv_cache_save_page(e->cache, page, bytes))
                prefix_cache_save(e->prefix, &q->seal_key, tokens, bytes);
            free(bytes);
        }
    }
}

/* The page of positions 64 i … 64 i + 63 from memory, else from disk; false if neither has it. */
static bool reuse_page(struct sequence *q, const int32_t *tokens, void *scratch)
{
    struct engine *e = q->engine;
    struct hash256 key = page_key(q, tokens);
    int32_t page;

    kv_cache_unreserve(e->cache, 1); /* a page found in memory needs no fresh one */
    page = kv_cache_find(e->cache, &key, tokens);
    if (page < 0) {
        (void)!kv_cache_reserve(e->cache, 1); /* cannot fail: it was just given back */
        if (!scratch || prefix_cache_load(e->prefix, &key, tokens, scratch))
            return false;
        page = kv_cache_take(e->cache);
        if (kv_cache_load_page(e->cache, page, scratch)) {
            kv_cache_unref(e->cache, page);
            (void)!kv_cache_reserve(e->cache, 1);
            return false;
        }
        kv_cache_seal(e->cache, page, &key, tokens);
    }
    q->reserved--;
    q->pages.items[q->pages.count++] = page;
    q->seal_key = key;
    q->sealed++;
    return true;
}

/* Batch work that is there already must leave a quarter of the caches to people who wait; alone it may take all. */
static bool room_for_batch(const struct engine *e, int64_t pages)
{
    bool alone = true;

    for (size_t i = 0; i < e->sequences.count; i++)
        alone = alone && !sequence_alive(e->sequences.items[i]);
    return alone || kv_cache_free_pages(e->cache) - pages >= kv_cache_pages(e->cache) / 4;
}

/* Reserves every page the sequence can need, and fills the first ones from the caches. The last position is always
 * computed, and so is every marked one: their logits are needed. */
static enum status admit(struct sequence *q, struct error *err)
{
    struct engine *e = q->engine;
    size_t positions = q->prompt_count + q->max_tokens - 1;
    int64_t pages = (int64_t)((positions + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS);
    size_t reusable = (q->timeline.count - 1) / CACHE_PAGE_TOKENS;
    void *scratch = NULL;

    if (q->mark_count && q->mark_at[0] / CACHE_PAGE_TOKENS < reusable)
        reusable = q->mark_at[0] / CACHE_PAGE_TOKENS;
    if (vec_reserve(&q->pages, (size_t)pages))
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    if (q->class == SEQUENCE_BATCH && !room_for_batch(e, pages))
        return error_set(err, STATUS_BUSY, "batch work holds its share of the caches already");
    if (!kv_cache_reserve(e->cache, pages))
        return error_set(err, STATUS_BUSY, "the caches are full: %lld pages are needed, %lld are free",
                         (long long)pages, (long long)kv_cache_free_pages(e->cache));
    q->reserved = pages;
    q->seal_key = e->root_key;
    if (e->prefix && reusable)
        scratch = malloc((size_t)kv_cache_page_bytes(e->cache));
    while (q->pages.count < reusable &&
           reuse_page(q, q->timeline.items + q->pages.count * CACHE_PAGE_TOKENS, scratch))
        ;
    free(scratch);
    q->done = q->paired = q->pages.count * CACHE_PAGE_TOKENS;
    q->status.prompt_done = q->done < q->prompt_count ? q->done : q->prompt_count;
    q->status.cached_tokens = q->status.prompt_done;
    return STATUS_OK;
}

static void release_pages(struct sequence *q)
{
    for (size_t i = q->pages.count; i-- > 0;) /* the last first: of one prefix the end is forgotten before the start */
        kv_cache_unref(q->engine->cache, q->pages.items[i]);
    q->pages.count = 0;
    kv_cache_unreserve(q->engine->cache, q->reserved);
    q->reserved = 0;
}

void sequence_end(struct sequence *q, enum sequence_reason reason)
{
    if (!sequence_alive(q))
        return;
    q->status.state = SEQUENCE_DONE;
    q->status.reason = reason;
    release_pages(q);
}

void sequence_fail(struct sequence *q, const char *message)
{
    snprintf(q->error, sizeof q->error, "%s", message);
    sequence_end(q, REASON_FAILED);
}

/* --- The public face ------------------------------------------------------------------------------------------- */

static void destroy_parts(struct sequence *q)
{
    sampler_destroy(q->sampler);
    quote_destroy(q->quote);
    choice_destroy(q->choice);
    for (size_t i = 0; i < q->stop_string_count; i++)
        free(q->stop_string[i]);
    free(q->stop_string);
    free(q->stop_id);
    free(q->forced);
    free(q->mark_at);
    free(q->mark);
    buf_finish(&q->text);
    vec_finish(&q->timeline);
    vec_finish(&q->pages);
    vec_finish(&q->output);
    free(q);
}

enum status sequence_create(struct engine *e, const struct sequence_options *o, struct sequence **sequence,
                            struct error *err)
{
    struct sequence *q = NULL;
    enum status s = check_options(e, o, err);

    if (s)
        return s;
    if (e->sequences.count >= MAX_LIVE_SEQUENCES)
        return error_set(err, STATUS_BUSY, "%d sequences are open", MAX_LIVE_SEQUENCES);
    q = calloc(1, sizeof *q);
    if (!q || vec_reserve(&e->sequences, 1)) {
        free(q);
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    q->engine = e;
    if (copy_options(q, o) || sampler_create(&o->sampling, e->config.vocab, &q->sampler)) {
        s = error_set(err, STATUS_NO_MEMORY, "out of memory");
        goto fail;
    }
    s = start_quotes(q, o, err);
    if (!s)
        s = take_forced(q, err);
    if (!s && sequence_alive(q))
        s = admit(q, err);
    if (!s && scheduler_owner_add(e, q->owner)) {
        release_pages(q);
        s = error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    if (s)
        goto fail;
    e->sequences.items[e->sequences.count++] = q;
    *sequence = q;
    return STATUS_OK;

fail:
    destroy_parts(q);
    return s;
}

void sequence_destroy(struct sequence *q)
{
    struct engine *e;
    size_t i = 0;

    if (!q)
        return;
    e = q->engine;
    sequence_end(q, REASON_CANCELLED);
    scheduler_owner_remove(e, q->owner);
    while (e->sequences.items[i] != q)
        i++;
    memmove(e->sequences.items + i, e->sequences.items + i + 1, (e->sequences.count - i - 1) * sizeof q);
    e->sequences.count--;
    destroy_parts(q);
}

void sequence_cancel(struct sequence *q)
{
    atomic_store(&q->cancelled, true);
}

void sequence_get_status(const struct sequence *q, struct sequence_status *status)
{
    *status = q->status;
}

size_t sequence_tokens(const struct sequence *q, size_t from, const struct sequence_token **tokens)
{
    if (from >= q->output.count)
        return 0;
    *tokens = q->output.items + from;
    return q->output.count - from;
}

struct span sequence_text(const struct sequence *q)
{
    return span_of(buf_cstr(&q->text), q->text_shown);
}

size_t sequence_quotes(const struct sequence *q, const struct quote_span **spans)
{
    return q->quote ? quote_spans(q->quote, spans) : 0;
}

size_t sequence_mark_values(const struct sequence *q, const float **values)
{
    *values = q->mark;
    return q->marked;
}

bool sequence_reading(const struct sequence *q, struct reading_result *result)
{
    if (q->choice)
        *result = q->choice->result;
    return q->choice != NULL;
}

const char *sequence_error(const struct sequence *q)
{
    return q->error;
}
