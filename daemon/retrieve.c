/* retrieve.c: from a question to everything that its answer is made from. */
#include "daemon/retrieve.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/utf8.h"
#include "daemon/locate.h"
#include "daemon/question.h"
#include "daemon/summary_step.h"

enum {
    HEADER_TOKENS = 48,        /* what a prompt form spends on a block's id, title and label */
    SCAFFOLD_TOKENS = 64,      /* and around all of them */
    LEAST_BUDGET_TOKENS = 64,
    FIT_ATTEMPTS = 6,
    BYTES_A_TOKEN = 4,         /* without a model */
    RANDOM_LEAST_BYTES = 24    /* a random choice of words should at least be readable */
};

static enum status refuse(struct work *work, const char *code, const char *message)
{
    work->code = code;
    (void)snprintf(work->error, sizeof work->error, "%s", message);
    return STATUS_BAD_INPUT;
}

/* What a failing library call means to the one who asked. */
static enum status refuse_status(struct work *work, enum status s, const struct error *err, const char *code)
{
    work->retryable = s == STATUS_BUSY || s == STATUS_NO_MEMORY || s == STATUS_IO || s == STATUS_NO_SPACE;
    work->no_space = s == STATUS_NO_SPACE;
    return refuse(work, code, err->message);
}

static enum status count_tokens(void *context, struct span text, size_t *tokens)
{
    const struct engine *engine = context;

    if (engine)
        return tokenizer_count(engine_tokenizer(engine), text, tokens);
    *tokens = text.len / BYTES_A_TOKEN + 1;
    return STATUS_OK;
}

/* --- Evidence ---------------------------------------------------------------------------------------------------- */

static enum status make_evidence(struct store *store, const struct retrieval_result *result, size_t count,
                                 struct packed *packed, struct error *err)
{
    packed->evidence = arena_alloc_array(&packed->arena, count, sizeof *packed->evidence);
    if (!packed->evidence)
        return error_set(err, STATUS_NO_MEMORY, "no memory for evidence");
    for (size_t i = 0; i < count; i++) {
        enum status s = locate_evidence(store, &result->passages[i], count, &packed->arena, &packed->evidence[i], err);

        if (s)
            return s;
    }
    packed->evidence_count = count;
    return STATUS_OK;
}

/* --- Without a model --------------------------------------------------------------------------------------------- */

/* One block from one passage: its text is the spans' text joined by line feeds. */
static enum status passage_block(const struct retrieval_passage *passage, struct packed *packed, struct error *err)
{
    struct pack_block *block = arena_alloc(&packed->arena, sizeof *block);
    struct pack_segment *segments = arena_alloc_array(&packed->arena, passage->span_count, sizeof *segments);
    char *label = arena_alloc(&packed->arena, 64);
    size_t at = 0;

    if (!block || !segments || !label)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a block");
    for (size_t i = 0; i < passage->span_count; i++) {
        size_t len = passage->spans[i].end - passage->spans[i].start;

        segments[i] = (struct pack_segment){passage->spans[i].page, passage->spans[i].start, at, at + len};
        at += len + 1;
    }
    if (passage->label && *passage->label)
        (void)snprintf(label, 64, "p. %s", passage->label);
    else if (passage->page > 0)
        (void)snprintf(label, 64, "p. %d", passage->page);
    *block = (struct pack_block){.id = 1,
                                 .document_id = passage->document_id,
                                 .title = passage->title,
                                 .path = passage->path,
                                 .member = passage->member,
                                 .heading = passage->heading,
                                 .label = label,
                                 .first_page = passage->page,
                                 .last_page =
                                     passage->span_count ? passage->spans[passage->span_count - 1].page : passage->page,
                                 .text = passage->text,
                                 .segments = segments,
                                 .segment_count = passage->span_count,
                                 .score = passage->score};
    packed->pack = (struct pack){.blocks = block, .count = 1};
    return STATUS_OK;
}

static enum status answer_without_model(struct store *store, const struct request *request,
                                        const struct retrieval_result *result, struct packed *packed, struct error *err)
{
    struct retrieval_sentence best = {0};
    enum status s = retrieval_best_sentence(store, request->question, result, &packed->arena, &best, err);
    struct span quoted;
    char *text;
    int len;

    if (s == STATUS_NOT_FOUND || (!s && best.start >= best.end))
        return STATUS_OK;
    if (!s)
        s = passage_block(&result->passages[best.passage], packed, err);
    if (s)
        return s;
    quoted = span_slice(packed->pack.blocks[0].text, best.start, best.end);
    text = arena_alloc(&packed->arena, quoted.len + 16);
    packed->quotes = arena_alloc(&packed->arena, sizeof *packed->quotes);
    if (!text || !packed->quotes)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an answer");
    len = sprintf(text, "\xE2\x80\x9C"); /* the form of every answer: “quotation” [id] */
    memcpy(text + len, quoted.ptr, quoted.len);
    len += (int)quoted.len;
    len += sprintf(text + len, "\xE2\x80\x9D [1]");
    packed->answer = span_of(text, (size_t)len);
    packed->quotes[0] = (struct packed_quote){0, best.start, best.end};
    packed->quote_count = 1;
    return STATUS_OK;
}

/* --- With a model ------------------------------------------------------------------------------------------------ */

static int compare_scores(const void *a, const void *b)
{
    const struct pack_block *x = *(const struct pack_block *const *)a, *y = *(const struct pack_block *const *)b;

    if (x->score != y->score)
        return x->score < y->score ? 1 : -1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static enum status prompt_blocks(struct packed *packed, struct prompt_block **out)
{
    size_t count = packed->pack.count;
    struct prompt_block *blocks = arena_alloc_array(&packed->arena, count, sizeof *blocks);
    const struct pack_block **order = arena_alloc_array(&packed->arena, count, sizeof *order);

    if (!blocks || !order)
        return STATUS_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        const struct pack_block *block = &packed->pack.blocks[i];
        const char *title = *block->title ? block->title : locate_file_name(block->path, block->member);

        order[i] = block;
        blocks[i] = (struct prompt_block){.id = block->id, .title = span_from_cstr(title),
                                          .label = span_from_cstr(block->label), .text = block->text};
    }
    qsort(order, count, sizeof *order, compare_scores);
    for (size_t i = 0; i < count; i++)
        blocks[order[i] - packed->pack.blocks].rank = (int)i + 1;
    *out = blocks;
    return STATUS_OK;
}

static int64_t window_of(const struct engine *engine)
{
    const struct engine_info *info = engine_info(engine);

    return info->kv_tokens && info->kv_tokens < info->window_tokens ? info->kv_tokens : info->window_tokens;
}

static enum status keep_tokens(struct prompt *prompt, struct packed *packed)
{
    packed->tokens = arena_alloc_array(&packed->arena, prompt->tokens.count, sizeof *packed->tokens);
    if (!packed->tokens)
        return STATUS_NO_MEMORY;
    memcpy(packed->tokens, prompt->tokens.ids, prompt->tokens.count * sizeof *packed->tokens);
    packed->token_count = prompt->tokens.count;
    return STATUS_OK;
}

/* The sentences of the pack and what retrieval says of each, for the rules of a reader model. */
static enum status make_places(const struct retrieve *pool, struct store *store, const struct request *request,
                               const struct retrieval_result *result, const struct prompt *prompt,
                               const struct prompt_block *blocks, struct packed *packed, struct error *err)
{
    const struct reading_rules *rules = engine_info(pool->engine)->reading;
    struct retrieval_sentence *sentences = NULL;
    size_t count = 0;
    enum status s;

    if (!rules)
        return STATUS_OK;
    if (rules->feature_count && rules->feature_count != SENTENCE_FEATURES)
        return error_set(err, STATUS_UNSUPPORTED, "the model's reader.json weighs %d features, retrieval has %d",
                         rules->feature_count, SENTENCE_FEATURES);
    s = retrieval_score_pack(store, request->question, result, &packed->pack, &packed->arena, &sentences, &count, err);
    if (s)
        return s;
    packed->places = arena_alloc_array(&packed->arena, count + 1, sizeof *packed->places);
    if (!packed->places)
        return error_set(err, STATUS_NO_MEMORY, "no memory for %zu sentences", count);
    packed->place_count = count;
    for (size_t i = 0; i < count; i++)
        packed->places[i] = (struct reading_place){.block = sentences[i].passage, .start = sentences[i].start,
                                                   .end = sentences[i].end,
                                                   .bias = rules->retrieval * sentences[i].score +
                                                           retrieval_weigh(&sentences[i], rules->feature)};
    return reading_find(engine_tokenizer(pool->engine), prompt, blocks, packed->places, count, err);
}

/* What a reader model is given is less than what others are: its rules say how much. */
static void obey_rules(const struct reading_rules *rules, const struct request *request, struct pack_options *options)
{
    if (!rules || request->whole_document)
        return;
    options->passages = (size_t)rules->passages;
    if (rules->budget_tokens && rules->budget_tokens < options->budget_tokens)
        options->budget_tokens = rules->budget_tokens;
}

/* Packs and builds the prompt; where the form spends more than was thought, again with less. */
static enum status pack_to_fit(const struct retrieve *pool, struct store *store, struct work *work,
                               const struct retrieval_result *result, struct packed *packed, struct error *err)
{
    const struct request *request = &work->request;
    const struct tokenizer *tokenizer = engine_tokenizer(pool->engine);
    int64_t room = window_of(pool->engine) - request->max_tokens, budget = request->budget_tokens;
    size_t question_tokens = 0;
    enum status s = tokenizer_count(tokenizer, request->question, &question_tokens);

    if (s)
        return error_set(err, s, "the question can't be tokenised");
    /* The reader's form says the question twice. */
    if (budget > room - 2 * (int64_t)question_tokens - SCAFFOLD_TOKENS)
        budget = room - 2 * (int64_t)question_tokens - SCAFFOLD_TOKENS;
    for (int i = 0; i < FIT_ATTEMPTS && budget >= LEAST_BUDGET_TOKENS; i++, budget -= budget / 4) {
        struct pack_options options = {.budget_tokens = (size_t)budget, .header_tokens = HEADER_TOKENS,
                                       .whole_document = request->whole_document, .count_tokens = count_tokens,
                                       .context = (void *)pool->engine};
        struct prompt_block *blocks = NULL;
        struct prompt prompt = {0};

        obey_rules(engine_info(pool->engine)->reading, request, &options);
        s = pack_build(store, result, &options, &packed->arena, &packed->pack, err);
        if (!s)
            s = prompt_blocks(packed, &blocks);
        if (s)
            return s;
        s = prompt_build(tokenizer, engine_info(pool->engine)->prompt_style, PROMPT_ANSWER, blocks, packed->pack.count,
                         request->question, (size_t)room, &prompt, err);
        if (!s)
            s = keep_tokens(&prompt, packed);
        if (!s)
            s = make_places(pool, store, request, result, &prompt, blocks, packed, err);
        prompt_finish(&prompt);
        if (s != STATUS_LIMIT)
            return s;
    }
    return error_set(err, STATUS_LIMIT,
                     "the question and an answer of %" PRId64 " tokens leave no room for documents in %" PRId64
                     " tokens",
                     request->max_tokens, window_of(pool->engine));
}

/* A test checkpoint knows nothing: letting it say that the documents hold no answer would be a claim. */
static struct quote_params quote_params_of(const struct retrieve *pool, const struct work *work)
{
    const struct engine_info *info = engine_info(pool->engine);
    bool small = info->random_weights || info->prompt_style == PROMPT_READER || info->prompt_style == PROMPT_PLAIN;

    if (work->pass)
        return (struct quote_params){.max_quotations = passes_quotations(work->passes), .max_bytes = 600,
                                     .min_bytes = RANDOM_LEAST_BYTES, .word_edges = true,
                                     .free_text = pool->summariser->by == SUMMARISER_TEXT};
    return (struct quote_params){.none = info->random_weights ? NULL : "Not in these documents.",
                                 .max_quotations = info->random_weights ? 1 : 4,
                                 .min_bytes = info->random_weights ? RANDOM_LEAST_BYTES : 0, .max_bytes = 400,
                                 .free_text = !small, .word_edges = true};
}

/* Quotations can't be invented: only verbatim spans of the blocks can be said inside quotation marks. */
static enum status make_quote_index(const struct retrieve *pool, struct work *work, struct error *err)
{
    const struct quote_vocab *vocab = engine_quote_vocab(pool->engine);
    struct packed *packed = work->packed;
    struct quote_params params = quote_params_of(pool, work);
    const struct reading_rules *rules = packed->place_count ? engine_info(pool->engine)->reading : NULL;
    size_t count = packed->pack.count;
    struct quote_block *blocks;
    enum status s;

    if (!vocab || !count)
        return STATUS_OK;
    if (rules) {
        params.max_quotations = rules->quotations;
        params.min_bytes = 0;
        params.max_bytes = rules->max_bytes;
    }
    blocks = arena_alloc_array(&packed->arena, count, sizeof *blocks);
    if (!blocks)
        return error_set(err, STATUS_NO_MEMORY, "no memory for quotations");
    for (size_t i = 0; i < count; i++)
        blocks[i] = (struct quote_block){packed->pack.blocks[i].id, packed->pack.blocks[i].text};
    s = quote_index_create(vocab, blocks, count, &params, &packed->index, err);
    if (!s && rules)
        s = reading_create(vocab, packed->index, rules, packed->places, packed->place_count, &packed->reading, err);
    return s;
}

/* --- One question ------------------------------------------------------------------------------------------------ */

static enum status search(const struct retrieve *pool, struct store *store, struct work *work, struct arena *arena,
                          struct retrieval_result *result, struct error *err)
{
    const struct request *request = &work->request;
    struct retrieval_options options = {.collections = request->collections,
                                        .collection_count = request->collection_count,
                                        .documents = request->documents,
                                        .document_count = request->document_count,
                                        .media_type = request->media_type,
                                        .path_glob = request->path_glob,
                                        .date_from = request->date_from,
                                        .date_to = request->date_to};
    struct store_totals totals = {0};
    enum status s = store_get_totals(store, NULL, &totals, err);

    (void)pool;
    if (s)
        return refuse_status(work, s, err, WIRE_CODE_STORE);
    if (totals.chunks == 0)
        return refuse(work, WIRE_CODE_EMPTY_STORE, "the store holds no text: run dsa-ingest first");
    s = request->narrowed ? STATUS_OK : retrieval_check_collections(store, &options, err);
    if (s)
        return refuse_status(work, s, err, s == STATUS_NOT_FOUND ? WIRE_CODE_NO_COLLECTION : WIRE_CODE_STORE);
    s = retrieval_search(store, request->question, &options, arena, result, err);
    if (s == STATUS_BAD_INPUT) {
        /* No word to search for ("?!", "…"): an honest "nothing found", not an error. */
        *result = (struct retrieval_result){.generation = store_generation(store)};
        return STATUS_OK;
    }
    return s ? refuse_status(work, s, err, WIRE_CODE_STORE) : STATUS_OK;
}

static enum status make_pack(const struct retrieve *pool, struct store *store, struct work *work, struct packed *packed,
                             struct error *err)
{
    struct retrieval_result result = {0};
    size_t shown;
    enum status s = search(pool, store, work, &packed->arena, &result, err);

    if (s)
        return s;
    packed->generation = result.generation;
    shown = result.count < (size_t)work->request.evidence ? result.count : (size_t)work->request.evidence;
    s = make_evidence(store, &result, shown, packed, err);
    if (s)
        return refuse_status(work, s, err, WIRE_CODE_STORE);
    if (result.count == 0)
        return STATUS_OK;
    s = pool->engine ? pack_to_fit(pool, store, work, &result, packed, err)
                     : answer_without_model(store, &work->request, &result, packed, err);
    if (s)
        return refuse_status(work, s, err, s == STATUS_LIMIT ? WIRE_CODE_WINDOW : WIRE_CODE_INTERNAL);
    return STATUS_OK;
}

/* A batch conversation: no documents. */
static enum status make_chat(const struct retrieve *pool, struct work *work, struct packed *packed, struct error *err)
{
    const struct request *request = &work->request;
    struct prompt_message *messages;
    struct prompt prompt = {0};
    enum status s;

    if (!pool->engine)
        return refuse(work, WIRE_CODE_NO_MODEL, "the daemon runs without a model: a conversation needs one");
    messages = arena_alloc_array(&packed->arena, request->message_count, sizeof *messages);
    if (!messages)
        return refuse(work, WIRE_CODE_INTERNAL, "no memory for a conversation");
    for (size_t i = 0; i < request->message_count; i++) {
        messages[i].role = (unsigned)request->messages[i].role;
        messages[i].text = request->messages[i].text;
    }
    s = prompt_build_chat(engine_tokenizer(pool->engine), engine_info(pool->engine)->prompt_style, messages,
                          request->message_count, (size_t)(window_of(pool->engine) - request->max_tokens), &prompt,
                          err);
    if (!s)
        s = keep_tokens(&prompt, packed);
    prompt_finish(&prompt);
    if (s)
        return refuse_status(work, s, err, s == STATUS_LIMIT ? WIRE_CODE_WINDOW : WIRE_CODE_BAD_REQUEST);
    return STATUS_OK;
}

/* What is asked for by number must be in the request's collections, if it has any; one that is not is not told apart
 * from none. */
static enum status check_documents(struct store *store, struct work *work, struct error *err)
{
    const struct request *request = &work->request;

    for (size_t i = 0; i < request->document_count && request->collection_count; i++) {
        struct store_document document = {0};
        bool within = false;
        enum status s = store_document_get(store, request->documents[i], &document, err);

        if (s && s != STATUS_NOT_FOUND)
            return refuse_status(work, s, err, WIRE_CODE_STORE);
        for (size_t k = 0; !s && k < request->collection_count; k++)
            within |= strcmp(request->collections[k], document.collection) == 0;
        if (!within) {
            return refuse(work, WIRE_CODE_BAD_REQUEST, "no such document: by that id");
        }
    }
    return STATUS_OK;
}

/* One document: its summary, or the next pass towards it. */
static enum status make_summary(const struct retrieve *pool, struct store *store, struct work *work, struct error *err)
{
    bool known = true;
    enum status s = summary_step(pool, store, work, &known, err);

    if (!known)
        return refuse(work, WIRE_CODE_BAD_REQUEST, err->message);
    return s ? refuse_status(work, s, err, s == STATUS_LIMIT ? WIRE_CODE_WINDOW : WIRE_CODE_STORE) : STATUS_OK;
}

static void retrieve(const struct retrieve *pool, struct store *store, struct work *work)
{
    int64_t started_ns = clock_monotonic_ns();
    struct error err = {0};
    enum status s;

    if (work->was_kept) {
        s = packed_decode(buf_span(&work->kept), &work->packed, &err);
        if (s)
            (void)refuse(work, WIRE_CODE_INTERNAL, err.message);
        else if (work->request.kind == JOB_SUMMARISE)
            summary_recall(pool, store, work);
    } else {
        packed_unref(work->packed); /* of the pass before */
        work->packed = packed_create();
        s = work->request.kind == JOB_SUMMARISE ? check_documents(store, work, &err) : STATUS_OK;
        if (!work->packed)
            s = refuse(work, WIRE_CODE_INTERNAL, "no memory for a pack");
        else if (s)
            ; /* refused */
        else if (work->request.kind == JOB_BATCH)
            s = make_chat(pool, work, work->packed, &err);
        else if (work->request.kind == JOB_SUMMARISE)
            s = make_summary(pool, store, work, &err);
        else
            s = make_pack(pool, store, work, work->packed, &err);
        if (!s && !work->pass && packed_encode(work->packed, &work->kept))
            s = refuse(work, WIRE_CODE_WINDOW, "the pack is larger than can be kept");
    }
    if (!s && work->packed->token_count && !pool->engine)
        s = refuse(work, WIRE_CODE_NO_MODEL, "this job was packed for a model, and the daemon runs without one");
    if (!s && work->packed->token_count && work->request.kind != JOB_BATCH) {
        s = make_quote_index(pool, work, &err);
        if (s)
            (void)refuse(work, WIRE_CODE_INTERNAL, err.message);
    }
    work->retrieve_ns = clock_monotonic_ns() - started_ns;
}

void *retrieve_run(void *context)
{
    struct retrieve *pool = context;
    struct store *store = NULL;
    struct message *message;
    struct error err = {0};
    enum status opened = store_open(pool->config->store, STORE_READ, false, &store, &err);

    if (opened)
        log_error("a retrieval thread has no store: %s", err.message);
    while ((message = queue_pop(&pool->in, -1))) {
        if (message->kind == MESSAGE_RETRIEVE) {
            message->kind = MESSAGE_PACKED;
            if (opened)
                (void)refuse(message->work, WIRE_CODE_STORE, err.message);
            else
                retrieve(pool, store, message->work);
        } else {
            message->kind = MESSAGE_LOCATED;
            locate_quote(opened ? NULL : store, message);
        }
        if (!queue_push(pool->writer, message))
            message_destroy(message);
    }
    store_close(store);
    return NULL;
}
