/* engine.c: opening and closing a model on a device, and the plain forward pass. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine_impl.h"

enum { DEFAULT_PREFILL_CHUNK = 512, DEVICE_PREFILL_CHUNK = 4096, MAX_PREFILL_CHUNK = 65536 };
enum { MAX_SWEEP_TOKENS = 131072 };
static const int64_t default_disk_cache_bytes = (int64_t)8 << 30, default_packed_bytes = (int64_t)16 << 30;

/* Bump when the meaning of a cached page's bytes changes: saved prefixes of older programs are then not found. */
static const char cache_format[] = "dsa-kv-2";

static void put_hash(void *hasher, const void *bytes, size_t len)
{
    hasher_put(hasher, bytes, len);
}

static void put_file(struct hasher *h, const char *dir, const char *name)
{
    unsigned char block[4096];
    char path[4096];
    FILE *file;
    size_t n;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    file = fopen(path, "rb");
    if (!file)
        return;
    while ((n = fread(block, 1, sizeof block, file)) > 0)
        hasher_put(h, block, n);
    fclose(file);
}

static void hash_model(struct engine *e, const char *dir, bool plain)
{
    const char *description = e->description, *end = strstr(description, " thread");
    struct hash256 model;
    struct hasher h;

    hasher_init(&h, 0);
    put_file(&h, dir, "config.json");
    put_file(&h, dir, "tokenizer.json");
    safetensors_digest(e->model.files, put_hash, &h);
    model = hasher_finish(&h);
    hash_hex(&model, e->model_hash);
    e->model_key = model;

    /* The number of threads changes no result: "cpu avx512 2 threads" counts as "cpu avx512". */
    while (end && end > description && end[-1] >= '0' && end[-1] <= '9')
        end--;
    hasher_init(&h, 1);
    hasher_put(&h, &model, sizeof model);
    hasher_put(&h, cache_format, sizeof cache_format);
    hasher_put(&h, plain ? "plain" : "fp8", plain ? 5 : 3);
    if (e->config.mtp) /* pages hold one layer more, and are keyed by one token more */
        hasher_put(&h, "mtp", 3);
    hasher_put(&h, description, end ? (size_t)(end - description) : strlen(description));
    e->root_key = hasher_finish(&h);
}

static enum status open_backend(struct engine *e, const struct engine_options *o, struct error *err)
{
    struct ops_options options = {.backend = o->backend, .plugin_dir = o->plugin_dir, .threads = o->threads,
                                  .pin_threads = o->pin_threads, .device = o->device,
                                  .memory_bytes = o->device_bytes};
    enum status s;

    if (o->backend)
        return ops_open(&options, &e->ops, err);
    options.backend = "cuda";
    s = ops_open(&options, &e->ops, err);
    if (s != STATUS_UNSUPPORTED)
        return s; /* a GPU that is there and fails is no reason to be a hundred times slower in silence */
    if (err)
        *err = (struct error){0};
    options.backend = "cpu";
    return ops_open(&options, &e->ops, err);
}

/* Rows of a pass. Only where layers are streamed is it worth keeping more of them than are computed together. */
static void choose_sizes(struct engine *e, const struct engine_options *o, int chunk, bool sweeps)
{
    int64_t logit_rows = LOGIT_BUDGET_BYTES / ((int64_t)e->config.vocab * (int64_t)sizeof(float));
    int64_t sweep = o->sweep_tokens ? o->sweep_tokens : e->config.window;
    int rows = chunk + MAX_DECODE_ROWS;

    e->prefill_chunk = chunk;
    if (sweeps && sweep > chunk)
        e->prefill_chunk = sweep < MAX_SWEEP_TOKENS ? (int)sweep : MAX_SWEEP_TOKENS;
    e->max_rows = e->prefill_chunk + MAX_DECODE_ROWS;
    e->max_logit_rows = logit_rows < 1 ? 1 : logit_rows < rows ? (int)logit_rows : rows;
    e->sizes = (struct forward_sizes){rows, e->max_rows, e->max_logit_rows};
}

/* Tokens of prefill a step. A device reads the weights of all experts once a step, so it takes longer ones where nobody
 * asked: not longer than the caches, and where four times their working memory (scratch may be as much again and more)
 * is free beside everything else, all layers resident. */
static int choose_chunk(struct engine *e, const struct engine_options *o)
{
    const struct engine_memory *m = &e->info.memory;
    int chunk = DEVICE_PREFILL_CHUNK;

    if (o->prefill_chunk || ops_is_host(e->ops))
        return o->prefill_chunk ? o->prefill_chunk : DEFAULT_PREFILL_CHUNK;
    for (; chunk > DEFAULT_PREFILL_CHUNK; chunk /= 2) {
        struct error none = {0};

        choose_sizes(e, o, chunk, false);
        if (chunk <= e->kv_tokens && memory_check(e, &none) == STATUS_OK &&
            m->table_bytes + m->reserve_bytes + m->cache_bytes + m->head_bytes + m->layer_bytes + 4 * m->work_bytes <=
                m->available_bytes)
            break;
    }
    return chunk;
}

/* Caches, working memory and scratch, and which layers are streamed. Twice where some are: they are to be used by
 * sweeps, which take more memory. */
static enum status plan_memory(struct engine *e, const struct engine_options *o, bool *streamed, struct error *err)
{
    int64_t pages;
    int chunk;

    e->kv_tokens = o->kv_tokens ? o->kv_tokens : e->config.window;
    pages = (e->kv_tokens + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;
    chunk = choose_chunk(e, o);
    for (bool sweeps = false;; sweeps = true) {
        enum status s;

        choose_sizes(e, o, chunk, sweeps);
        s = memory_check(e, err);
        if (!s && !e->cache)
            s = kv_cache_create(e->ops, &e->config, e->model.numerics, pages, &e->cache, err);
        if (!s)
            s = forward_create(&e->model, e->cache, &e->sizes, &e->forward, err);
        if (!s)
            s = forward_rehearse(e->forward, err);
        if (!s)
            s = memory_plan(e, streamed, err);
        if (s || sweeps || !e->info.memory.streamed_layers || e->config.mtp)
            return s; /* drafting wants the last hidden states of a whole pass, which a sweep does not keep */
        forward_destroy(e->forward);
        e->forward = NULL;
    }
}

static enum status load_weights(struct engine *e, const struct engine_options *o, struct error *err)
{
    bool *streamed = calloc((size_t)e->config.layers, sizeof *streamed);
    enum status s;

    if (!streamed)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    s = plan_memory(e, o, streamed, err);
    if (!s && o->planned)
        o->planned(o->progress_context, &e->info.memory);
    if (!s)
        s = model_load(&e->model, streamed, o->progress, o->progress_context, err);
    free(streamed);
    return s;
}

static enum status make_room(struct engine *e, struct error *err)
{
    enum status s;

    e->token = calloc((size_t)e->max_rows, sizeof *e->token);
    e->position = calloc((size_t)e->max_rows, sizeof *e->position);
    e->slot = calloc((size_t)e->max_rows, sizeof *e->slot);
    e->row_sequence = calloc((size_t)e->max_rows, sizeof *e->row_sequence);
    s = ops_host_alloc(e->ops, (size_t)e->max_logit_rows * (size_t)e->config.vocab * sizeof *e->logits,
                       (void **)&e->logits);
    if (!ops_is_host(e->ops) && !e->config.mtp) {
        e->row_wanted = calloc((size_t)e->max_logit_rows, sizeof *e->row_wanted);
        e->best = calloc((size_t)e->max_logit_rows, sizeof *e->best);
        e->best_log_probability = calloc((size_t)e->max_logit_rows, sizeof *e->best_log_probability);
        e->temperature = calloc((size_t)e->max_logit_rows, sizeof *e->temperature);
        e->list = calloc((size_t)e->max_logit_rows, sizeof *e->list);
        if (!e->row_wanted || !e->best || !e->best_log_probability || !e->temperature || !e->list)
            return error_set(err, STATUS_NO_MEMORY, "no memory for choices");
    }
    e->mark = calloc((size_t)e->max_rows, sizeof *e->mark);
    e->mark_pair = calloc((size_t)e->max_rows, sizeof *e->mark_pair);
    e->weighed = malloc((size_t)e->config.vocab * sizeof *e->weighed);
    if (e->config.mtp) {
        e->next_token = calloc((size_t)e->max_rows, sizeof *e->next_token);
        e->hidden_row = calloc((size_t)e->max_rows, sizeof *e->hidden_row);
        if (!e->next_token || !e->hidden_row)
            return error_set(err, STATUS_NO_MEMORY, "no memory for drafting");
    }
    if (s || !e->token || !e->position || !e->slot || !e->row_sequence || !e->mark || !e->mark_pair || !e->weighed)
        return error_set(err, STATUS_NO_MEMORY, "no memory for passes of %d rows", e->max_rows);
    return STATUS_OK;
}

static enum status open_prefix_cache(struct engine *e, const struct engine_options *o, struct error *err)
{
    int64_t most = o->disk_cache_bytes ? o->disk_cache_bytes : default_disk_cache_bytes;

    if (!o->cache_dir)
        return STATUS_OK;
    return prefix_cache_open(o->cache_dir, most, kv_cache_page_bytes(e->cache), &e->prefix, err);
}

static enum status open_packed(struct engine *e, const struct engine_options *o, struct error *err)
{
    struct packed_options options = {.dir = o->cache_dir,
                                     .max_bytes = o->packed_bytes ? o->packed_bytes : default_packed_bytes,
                                     .model = &e->model_key,
                                     .numerics = e->model.numerics,
                                     .progress = o->progress,
                                     .progress_context = o->progress_context};

    if (!o->cache_dir || o->packed_bytes < 0)
        return STATUS_OK;
    return packed_weights_open(e->ops, e->model.weights.items, e->model.weights.count, &options, &e->packed, err);
}

static void fill_info(struct engine *e)
{
    e->info = (struct engine_info){.architecture = e->config.architecture,
                                   .backend = e->description,
                                   .prompt_style = e->config.prompt_style,
                                   .vocab_size = e->config.vocab,
                                   .layers = e->config.layers,
                                   .index_topk = e->config.index_topk,
                                   .window_tokens = e->config.window,
                                   .kv_tokens = kv_cache_pages(e->cache) * CACHE_PAGE_TOKENS,
                                   .parameter_count = e->model.parameter_count,
                                   .weight_bytes = safetensors_bytes(e->model.files),
                                   .cache_bytes = kv_cache_bytes(e->cache),
                                   .memory = e->info.memory,
                                   .model_hash = e->model_hash,
                                   .random_weights = e->config.random_weights};
}

static enum status check_options(const struct engine_options *o, struct error *err)
{
    if (!o->model_dir)
        return error_set(err, STATUS_BAD_INPUT, "no model directory is given");
    if (o->prefill_chunk < 0 || o->prefill_chunk > MAX_PREFILL_CHUNK)
        return error_set(err, STATUS_BAD_INPUT, "a prefill chunk of %d tokens is out of range (1 to %d)",
                         o->prefill_chunk, MAX_PREFILL_CHUNK);
    if (o->draft_tokens < 0 || o->draft_tokens > ENGINE_MAX_DRAFT)
        return error_set(err, STATUS_BAD_INPUT, "%d draft tokens are out of range (0 to %d)", o->draft_tokens,
                         ENGINE_MAX_DRAFT);
    if (o->sweep_tokens < 0 || o->sweep_tokens > MAX_SWEEP_TOKENS)
        return error_set(err, STATUS_BAD_INPUT, "a sweep of %d tokens is out of range (1 to %d)", o->sweep_tokens,
                         MAX_SWEEP_TOKENS);
    if (o->kv_tokens < 0 || o->disk_cache_bytes < 0 || o->device_bytes < 0)
        return error_set(err, STATUS_BAD_INPUT, "sizes of memory must not be negative");
    return STATUS_OK;
}

static enum status read_rules(struct engine *e, const char *model_dir, struct error *err)
{
    char path[4200];
    enum status s;

    snprintf(path, sizeof path, "%s/reader.json", model_dir);
    s = reading_rules_read(path, &e->reading, err);
    if (s == STATUS_NOT_FOUND)
        return STATUS_OK;
    if (!s && (!e->quote_vocab || e->quote_vocab->open < 0 || e->quote_vocab->none < 0))
        s = error_set(err, STATUS_UNSUPPORTED, "'%s': the tokenizer beside it has no <|open|> and <|none|>", path);
    if (!s)
        e->info.reading = &e->reading;
    return s;
}

enum status engine_open(const struct engine_options *o, struct engine **engine, struct error *err)
{
    struct engine *e = NULL;
    char path[4096];
    enum status s = check_options(o, err);

    if (s)
        return s;
    e = calloc(1, sizeof *e);
    if (!e)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    s = model_config_load(o->model_dir, &e->config, err);
    if (s)
        goto fail;
    e->draft_tokens = o->draft_tokens;
    if (o->draft_tokens && !e->config.mtp) {
        s = error_set(err, STATUS_UNSUPPORTED, "'%s' has no multi-token prediction layer to draft with", o->model_dir);
        goto fail;
    }
    if (!o->draft_tokens)
        e->config.mtp = 0;
    if (o->kv_tokens && o->kv_tokens < e->config.window)
        e->config.window = o->kv_tokens; /* no sequence can be longer, nor needs a longer rotary table */
    snprintf(path, sizeof path, "%s/tokenizer.json", o->model_dir);
    s = tokenizer_open(path, &e->tokenizer, err);
    if (!s)
        s = open_backend(e, o, err);
    if (s)
        goto fail;
    if (tokenizer_vocab_size(e->tokenizer) > e->config.vocab) {
        s = error_set(err, STATUS_BAD_INPUT, "'%s' has ids up to %d, config.json a vocab_size of %d", path,
                      tokenizer_vocab_size(e->tokenizer) - 1, e->config.vocab);
        goto fail;
    }
    s = quote_vocab_create(e->tokenizer, &e->quote_vocab, err);
    if (s && s != STATUS_UNSUPPORTED)
        goto fail;
    e->description = strdup(ops_description(e->ops));
    if (!e->description) {
        s = error_set(err, STATUS_NO_MEMORY, "out of memory");
        goto fail;
    }
    s = model_open(o->model_dir, &e->config, e->ops, o->plain, o->progress, o->progress_context, &e->model, err);
    if (s)
        goto fail;
    hash_model(e, o->model_dir, o->plain);
    s = load_weights(e, o, err);
    if (!s)
        s = open_packed(e, o, err);
    if (!s)
        s = make_room(e, err);
    if (!s)
        s = open_prefix_cache(e, o, err);
    if (s)
        goto fail;
    fill_info(e);
    s = read_rules(e, o->model_dir, err);
    if (s)
        goto fail;
    *engine = e;
    return STATUS_OK;

fail:
    engine_close(e);
    return s;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    while (e->sequences.count)
        sequence_destroy(e->sequences.items[e->sequences.count - 1]);
    vec_finish(&e->sequences);
    vec_finish(&e->owners);
    vec_finish(&e->page_table);
    free(e->token);
    free(e->position);
    free(e->slot);
    free(e->row_sequence);
    free(e->next_token);
    free(e->hidden_row);
    if (e->ops)
        ops_host_free(e->ops, e->logits);
    free(e->row_wanted);
    free(e->best);
    free(e->best_log_probability);
    free(e->temperature);
    free(e->list);
    free(e->mark);
    free(e->mark_pair);
    free(e->weighed);
    prefix_cache_close(e->prefix);
    forward_destroy(e->forward);
    kv_cache_destroy(e->cache);
    model_close(&e->model);
    packed_weights_close(e->packed);
    quote_vocab_destroy(e->quote_vocab);
    tokenizer_close(e->tokenizer);
    free(e->description);
    ops_close(e->ops);
    free(e);
}

const struct engine_info *engine_info(const struct engine *e)
{
    return &e->info;
}

const struct tokenizer *engine_tokenizer(const struct engine *e)
{
    return e->tokenizer;
}

const struct quote_vocab *engine_quote_vocab(const struct engine *e)
{
    return e->quote_vocab;
}

/* --- The plain forward pass ------------------------------------------------------------------------------------ */

/* The same rows once more through the MTP layer, each with the token after its own. */
static enum status run_mtp(struct engine *e, struct forward_batch *b, const int32_t *next, float *logits,
                           struct error *err)
{
    struct mtp_batch mtp;
    int32_t *hidden_row = malloc((size_t)b->rows * sizeof *hidden_row);
    enum status s;

    if (!hidden_row)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    for (int i = 0; i < b->rows; i++)
        hidden_row[i] = i;
    mtp = (struct mtp_batch){.rows = *b, .hidden_row = hidden_row};
    mtp.rows.token = next;
    mtp.rows.logit_rows = b->rows;
    s = forward_mtp(e->forward, &mtp, logits, err);
    free(hidden_row);
    return s;
}

/* Logits of the positions, or with `mtp` those of the MTP layer at all but the last position. */
static enum status run_logits(struct engine *e, const int32_t *tokens, size_t count, const int32_t *page, bool mtp,
                              const struct forward_trace *trace, float *logits, struct error *err)
{
    size_t chunk = (size_t)(e->prefill_chunk < e->max_logit_rows ? e->prefill_chunk : e->max_logit_rows);
    size_t pages = (count + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;

    for (size_t start = 0; start < count; start += chunk) {
        size_t rows = count - start < chunk ? count - start : chunk;
        struct forward_batch b = {.rows = (int)rows, .token = e->token, .position = e->position, .slot = e->slot,
                                  .sequence = e->row_sequence, .page_table = page, .sequences = 1,
                                  .pages = (int)pages, .logit_rows = mtp ? 0 : (int)rows, .trace = trace};
        float *part = logits + start * (size_t)e->config.vocab;
        enum status s;

        for (size_t i = 0; i < rows; i++) {
            size_t position = start + i;

            e->token[i] = tokens[position];
            e->position[i] = (int32_t)position;
            e->slot[i] = page[position / CACHE_PAGE_TOKENS] * CACHE_PAGE_TOKENS +
                         (int32_t)(position % CACHE_PAGE_TOKENS);
            e->row_sequence[i] = 0;
        }
        s = forward_run(e->forward, &b, mtp ? NULL : part, err);
        if (mtp && start + rows == count)
            b.rows--;
        if (!s && mtp && b.rows)
            s = run_mtp(e, &b, tokens + start + 1, part, err);
        if (s)
            return s;
    }
    return STATUS_OK;
}

static enum status logits_of(struct engine *e, const int32_t *tokens, size_t count, bool mtp, float *logits,
                             const struct forward_trace *trace, struct error *err)
{
    size_t pages = (count + CACHE_PAGE_TOKENS - 1) / CACHE_PAGE_TOKENS;
    int32_t *page;
    enum status s;

    if (count == 0 || count > (size_t)e->info.window_tokens)
        return error_set(err, STATUS_LIMIT, "%zu tokens are outside the window of 1 to %lld", count,
                         (long long)e->info.window_tokens);
    for (size_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || tokens[i] >= e->config.vocab)
            return error_set(err, STATUS_BAD_INPUT, "token %zu is %d, outside the vocabulary of %d", i, tokens[i],
                             e->config.vocab);
    }
    page = malloc(pages * sizeof *page);
    if (!page)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    if (!kv_cache_reserve(e->cache, (int64_t)pages)) {
        free(page);
        return error_set(err, STATUS_BUSY, "the caches are full of admitted work");
    }
    for (size_t i = 0; i < pages; i++)
        page[i] = kv_cache_take(e->cache);
    s = run_logits(e, tokens, count, page, mtp, trace, logits, err);
    for (size_t i = 0; i < pages; i++)
        kv_cache_unref(e->cache, page[i]);
    free(page);
    return s;
}

enum status engine_logits_traced(struct engine *e, const int32_t *tokens, size_t count, float *logits,
                                 const struct forward_trace *trace, struct error *err)
{
    return logits_of(e, tokens, count, false, logits, trace, err);
}

enum status engine_mtp_logits(struct engine *e, const int32_t *tokens, size_t count, float *logits,
                              const struct forward_trace *trace, struct error *err)
{
    if (!e->config.mtp)
        return error_set(err, STATUS_UNSUPPORTED, "the MTP layer is not loaded");
    return logits_of(e, tokens, count, true, logits, trace, err);
}

enum status engine_logits(struct engine *e, const int32_t *tokens, size_t count, float *logits, struct error *err)
{
    return engine_logits_traced(e, tokens, count, logits, NULL, err);
}
