/* search.c: question → ranked passages, near-duplicates folded into the best of them. */
#include <stdlib.h>
#include <string.h>

#include "retrieval/retrieval_internal.h"

enum {
    DEFAULT_LIMIT = 200,
    MAX_LIMIT = 10000,
    NEAR_DUPLICATE_BITS = 3 /* of 64: SimHash over shingles of five words */
};

/* Measured: README "Parameters". */
#define DEFAULT_K1 1.2
#define DEFAULT_B 0.5
#define DEFAULT_TITLE_WEIGHT 2.0
#define DEFAULT_HEADING_WEIGHT 1.5
#define DEFAULT_BODY_WEIGHT 1.0

static double or_default(double value, double otherwise)
{
    return value > 0 ? value : otherwise;
}

struct name_check {
    const char *name;
    bool found;
};

static bool stop_at_first(void *context, const struct store_document *document)
{
    (void)document;
    ((struct name_check *)context)->found = true;
    return false;
}

enum status retrieval_check_collections(struct store *store, const struct retrieval_options *options,
                                        struct error *err)
{
    for (size_t i = 0; options && i < options->collection_count; i++) {
        struct name_check check = {.name = options->collections[i]};
        struct store_document_filter filter = {.collection = check.name, .status = -1};
        enum status status = check.name && check.name[0]
                                 ? store_documents(store, &filter, stop_at_first, &check, err)
                                 : STATUS_OK;

        if (status)
            return status;
        if (!check.found)
            return error_set(err, STATUS_NOT_FOUND, "there is no collection '%.128s'", check.name ? check.name : "");
    }
    return STATUS_OK;
}

/* The document's strings, copied once for all of its passages. */
struct known_document {
    int64_t id;
    const char *title, *path, *member;
};

static enum status know_document(struct store *store, int64_t id, struct arena *arena, struct known_document *known,
                                 size_t *count, const struct known_document **found, struct error *err)
{
    struct store_document document;
    struct known_document *added = &known[*count];
    enum status status;

    for (size_t i = 0; i < *count; i++) {
        if (known[i].id == id) {
            *found = &known[i];
            return STATUS_OK;
        }
    }
    status = store_document_get(store, id, &document, err);
    if (status)
        return status;
    *added = (struct known_document){.id = id, .title = arena_copy_cstr(arena, span_from_cstr(document.title)),
                                     .path = arena_copy_cstr(arena, span_from_cstr(document.path)),
                                     .member = arena_copy_cstr(arena, span_from_cstr(document.member))};
    if (!added->title || !added->path || !added->member)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    ++*count;
    *found = added;
    return STATUS_OK;
}

static enum status copy_passage(struct store *store, const struct store_chunk *chunk, struct arena *arena,
                                struct retrieval_passage *passage, struct error *err)
{
    struct store_chunk_span *spans = arena_alloc_array(arena, chunk->span_count, sizeof *spans);
    char *text = arena_copy_cstr(arena, chunk->text);
    struct store_page page;
    enum status status;

    passage->heading = arena_copy_cstr(arena, span_from_cstr(chunk->heading));
    if (!spans || !text || !passage->heading)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    memcpy(spans, chunk->spans, chunk->span_count * sizeof *spans);
    passage->spans = spans;
    passage->span_count = chunk->span_count;
    passage->text = span_of(text, chunk->text.len);
    passage->page = spans[0].page;
    status = store_page_info(store, passage->document_id, passage->page, &page, err);
    if (status)
        return status;
    passage->label = arena_copy_cstr(arena, span_from_cstr(page.label));
    return passage->label ? STATUS_OK : error_set(err, STATUS_NO_MEMORY, "out of memory");
}

struct prints { /* of the passages taken so far */
    uint64_t hash, simhash;
    size_t bytes;
};

/* 0 stands for "not computed". Two short texts may agree by chance in a few bits, never in length as well. */
static bool near_duplicate(const struct prints *a, const struct prints *b)
{
    size_t longer = a->bytes > b->bytes ? a->bytes : b->bytes, shorter = a->bytes > b->bytes ? b->bytes : a->bytes;

    if (a->hash && a->hash == b->hash)
        return true;
    return a->simhash && b->simhash && (longer - shorter) * 10 <= longer &&
           __builtin_popcountll(a->simhash ^ b->simhash) <= NEAR_DUPLICATE_BITS;
}

static enum status collect(struct store *store, const struct store_hit *hits, size_t hit_count, struct arena *arena,
                           struct retrieval_result *result, struct error *err)
{
    struct prints *prints = calloc(hit_count + 1, sizeof *prints);
    struct known_document *known = calloc(hit_count + 1, sizeof *known);
    struct retrieval_passage *passages = arena_alloc_array(arena, hit_count + 1, sizeof *passages);
    size_t known_count = 0, count = 0;
    enum status status = STATUS_OK;

    if (!prints || !known || !passages)
        status = error_set(err, STATUS_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < hit_count && !status; i++) {
        struct retrieval_passage *passage = &passages[count];
        const struct known_document *document = NULL;
        struct store_chunk chunk;
        int64_t owner;
        size_t twin = 0;

        status = store_chunk_get(store, hits[i].chunk_id, &owner, &chunk, err);
        if (status)
            break;
        prints[count] = (struct prints){chunk.hash, chunk.simhash, chunk.text.len};
        while (twin < count && !near_duplicate(&prints[twin], &prints[count]))
            twin++;
        if (twin < count) {
            passages[twin].also_in++;
            continue;
        }
        *passage = (struct retrieval_passage){.rank = (int)count + 1, .score = hits[i].score,
                                              .chunk_id = hits[i].chunk_id, .document_id = owner};
        status = copy_passage(store, &chunk, arena, passage, err);
        if (!status)
            status = know_document(store, owner, arena, known, &known_count, &document, err);
        if (status)
            break;
        passage->title = document->title;
        passage->path = document->path;
        passage->member = document->member;
        count++;
    }
    free(prints);
    free(known);
    if (!status) {
        result->passages = passages;
        result->count = count;
    }
    return status;
}

static enum status search_in_snapshot(struct store *store, struct span question,
                                      const struct retrieval_options *options, struct arena *arena,
                                      struct retrieval_result *result, struct error *err)
{
    struct store_search search = {
        .k1 = or_default(options->k1, DEFAULT_K1), .b = or_default(options->b, DEFAULT_B),
        .title_weight = or_default(options->title_weight, DEFAULT_TITLE_WEIGHT),
        .heading_weight = or_default(options->heading_weight, DEFAULT_HEADING_WEIGHT),
        .body_weight = or_default(options->body_weight, DEFAULT_BODY_WEIGHT),
        .collections = options->collections, .collection_count = options->collection_count,
        .documents = options->documents, .document_count = options->document_count,
        .media_type = options->media_type, .path_glob = options->path_glob, .date_from = options->date_from,
        .date_to = options->date_to, .limit = options->limit > 0 ? options->limit : DEFAULT_LIMIT};
    struct store_hit *hits = NULL;
    struct query query;
    size_t count = 0;
    enum status status;

    if (search.limit > MAX_LIMIT)
        search.limit = MAX_LIMIT;
    status = query_build(store, question, arena, &query, err);
    if (status)
        return status;
    result->generation = store_generation(store);
    result->terms_used = query.used;
    result->terms_dropped = query.dropped;
    if (!query.used)
        return STATUS_OK;
    search.match = query.match;
    search.phrase_rows = query.phrase_rows;
    search.phrase_count = query.used;
    status = store_search(store, &search, &hits, &count, err);
    if (!status)
        status = collect(store, hits, count, arena, result, err);
    free(hits);
    return status;
}

enum status retrieval_search(struct store *store, struct span question, const struct retrieval_options *options,
                             struct arena *arena, struct retrieval_result *result, struct error *err)
{
    static const struct retrieval_options defaults = {0};
    struct retrieval_result found = {0};
    enum status status = store_snapshot_begin(store, err);

    if (status)
        return status;
    status = search_in_snapshot(store, question, options ? options : &defaults, arena, &found, err);
    store_snapshot_end(store);
    if (!status)
        *result = found;
    return status;
}
