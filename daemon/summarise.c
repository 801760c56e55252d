/* summarise.c: see summarise.h. Quotations are kept as [page, start, end] in the summary's details: the words are
 * those of the pages, always. */
#include "daemon/summarise.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "daemon/locate.h"
#include "retrieval/retrieval.h"

enum { KEY_BYTES = 1024, MOST_QUOTES = 256, MOST_BODY_BYTES = 1 << 20 };

static const char model_name[] = "extractive";

/* Copies: what the store lends is gone with the next call. */
static enum status copy_document(struct store *store, int64_t id, struct arena *arena, struct store_document *document,
                                 struct error *err)
{
    enum status s = store_document_get(store, id, document, err);
    const char **texts[] = {&document->collection, &document->path, &document->member, &document->title,
                            &document->sha256, &document->extractor};

    for (size_t i = 0; i < sizeof texts / sizeof *texts && !s; i++) {
        *texts[i] = arena_copy_cstr(arena, span_from_cstr(*texts[i]));
        if (!*texts[i])
            s = error_set(err, STATUS_NO_MEMORY, "no memory for a document");
    }
    return s;
}

static bool read_details(const char *details, struct arena *arena, struct retrieval_quote **quotes, size_t *count)
{
    json_t *list = json_loads(details, 0, NULL);
    size_t n = json_array_size(list);
    struct retrieval_quote *out = n <= MOST_QUOTES ? arena_alloc_array(arena, n + 1, sizeof *out) : NULL;
    bool good = json_is_array(list) && out;

    for (size_t i = 0; i < n && good; i++) {
        json_int_t page = 0, start = 0, end = 0;

        good = json_unpack(json_array_get(list, i), "[I, I, I]", &page, &start, &end) == 0 && start < end &&
               end <= UINT32_MAX;
        out[i] = (struct retrieval_quote){(int)page, (uint32_t)start, (uint32_t)end};
    }
    json_decref(list);
    if (good) {
        *quotes = out;
        *count = n;
    }
    return good;
}

static enum status add_block(struct store *store, const struct store_document *document,
                             const struct retrieval_quote *quote, struct packed *packed, struct buf *answer,
                             struct error *err)
{
    struct pack_block *block = &packed->pack.blocks[packed->pack.count];
    struct pack_segment *segment = arena_alloc(&packed->arena, sizeof *segment);
    char *label = arena_alloc(&packed->arena, 96);
    struct store_page page = {0};
    struct span text = {0};
    enum status s = store_page_slice(store, document->id, quote->page, quote->start, quote->end, &packed->arena, &text,
                                     err);

    if (!s)
        s = store_page_info(store, document->id, quote->page, &page, err);
    if (s)
        return s;
    if (!segment || !label)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a block");
    if (*page.label)
        (void)snprintf(label, 96, "p. %s", page.label);
    else
        (void)snprintf(label, 96, "p. %d", quote->page);
    *segment = (struct pack_segment){quote->page, quote->start, 0, text.len};
    *block = (struct pack_block){.id = (int)packed->pack.count + 1, .document_id = document->id,
                                 .title = document->title, .path = document->path, .member = document->member,
                                 .heading = "", .label = label, .first_page = quote->page, .last_page = quote->page,
                                 .text = text, .segments = segment, .segment_count = 1};
    packed->quotes[packed->quote_count++] = (struct packed_quote){packed->pack.count++, 0, text.len};
    s = buf_printf(answer, "%s\xE2\x80\x9C", answer->len ? "\n\n" : ""); /* “quotation” [id] */
    s = s ? s : buf_append_span(answer, text);
    s = s ? s : buf_printf(answer, "\xE2\x80\x9D [%d]", block->id);
    return s ? error_set(err, s, "no memory for a summary") : STATUS_OK;
}

static enum status build(struct store *store, const struct store_document *document,
                         const struct retrieval_quote *quotes, size_t count, struct packed *packed, struct error *err)
{
    struct buf answer;
    enum status s = STATUS_OK;

    packed->pack = (struct pack){.blocks = arena_alloc_array(&packed->arena, count + 1, sizeof *packed->pack.blocks)};
    packed->quotes = arena_alloc_array(&packed->arena, count + 1, sizeof *packed->quotes);
    packed->quote_count = 0;
    if (!packed->pack.blocks || !packed->quotes)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a summary");
    buf_init(&answer, MOST_BODY_BYTES);
    for (size_t i = 0; i < count && !s; i++)
        s = add_block(store, document, &quotes[i], packed, &answer, err);
    if (!s && count) {
        packed->answer = span_of(arena_copy_cstr(&packed->arena, buf_span(&answer)), answer.len);
        if (!packed->answer.ptr)
            s = error_set(err, STATUS_NO_MEMORY, "no memory for a summary");
    }
    buf_finish(&answer);
    return s;
}

static enum status keep(const char *dir, const char *key, const struct store_document *document,
                        const struct retrieval_quote *quotes, size_t count, const struct packed *packed,
                        struct error *err)
{
    struct store *store = NULL;
    json_t *list = json_array();
    char *details;
    int64_t id;
    enum status s = store_open(dir, STORE_ADMIN, false, &store, err);

    for (size_t i = 0; i < count; i++)
        (void)json_array_append_new(list, json_pack("[I, I, I]", (json_int_t)quotes[i].page,
                                                    (json_int_t)quotes[i].start, (json_int_t)quotes[i].end));
    details = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    if (!s && !details)
        s = error_set(err, STATUS_NO_MEMORY, "no memory for a summary");
    if (!s) {
        struct store_summary summary = {.key = key, .document_id = document->id, .collection = document->collection,
                                        .title = *document->title
                                                     ? document->title
                                                     : locate_file_name(document->path, document->member),
                                        .body = packed->answer, .details = details, .model = model_name};

        s = store_summary_put(store, &summary, &id, err);
    }
    free(details);
    store_close(store);
    return s;
}

enum status summarise_document(struct store *store, int64_t document_id, struct packed *packed, bool *cached,
                               struct error *err)
{
    struct store_document document = {0};
    struct store_summary summary = {0};
    struct retrieval_quote *quotes = NULL;
    size_t count = 0;
    char key[KEY_BYTES];
    enum status s = copy_document(store, document_id, &packed->arena, &document, err);

    if (s)
        return s;
    packed->generation = store_generation(store);
    (void)snprintf(key, sizeof key, "summary/" RETRIEVAL_SUMMARY_VERSION "/%s/%lld/%s/%s", model_name,
                   (long long)document.id, document.sha256, document.extractor);
    *cached = store_summary_find(store, key, &summary, NULL) == STATUS_OK &&
              read_details(summary.details, &packed->arena, &quotes, &count) &&
              build(store, &document, quotes, count, packed, NULL) == STATUS_OK;
    if (*cached)
        return STATUS_OK;
    s = retrieval_summarise(store, document_id, &packed->arena, &quotes, &count, err);
    if (!s)
        s = build(store, &document, quotes, count, packed, err);
    return s ? s : keep(store_dir(store), key, &document, quotes, count, packed, err);
}
