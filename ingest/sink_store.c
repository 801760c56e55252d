/* sink_store.c: the sink that writes to a store. */
#include <stdlib.h>
#include <string.h>

#include "base/vec.h"
#include "ingest/ingest.h"

static enum status find(void *context, const char *path, const char *member, struct ingest_known *known,
                        struct error *err)
{
    struct sink_store *sink = context;
    struct store_document row;
    enum status status;

    if (!sink->store)
        return STATUS_NOT_FOUND;
    status = store_document_find(sink->store, sink->collection, path, member, &row, err);
    if (status)
        return status;
    *known = (struct ingest_known){.id = row.id, .status = row.status, .size_bytes = row.size_bytes,
                                   .mtime_ms = row.mtime_ms,
                                   .encrypted = (row.status == DOCUMENT_FAILED || row.status == DOCUMENT_PARTIAL) &&
                                                strncmp(row.error, "encrypted:", 10) == 0};
    strncpy(known->sha256, row.sha256, sizeof known->sha256 - 1);
    return STATUS_OK;
}

static enum status find_bytes(void *context, const char *sha256, const char *path, const char *member, int64_t *id,
                              struct error *err)
{
    struct sink_store *sink = context;
    struct store_document row;
    enum status status;

    if (!sink->store || !*sha256)
        return STATUS_NOT_FOUND;
    status = store_document_find_bytes(sink->store, sink->collection, sha256, &row, err);
    if (status)
        return status;
    /* An archive has no pages. It is never a duplicate: its members are, one by one, so that each keeps its row and
     * can take over when the other archive goes. */
    if (row.page_count == 0 || (strcmp(row.path, path) == 0 && strcmp(row.member, member) == 0))
        return STATUS_NOT_FOUND;
    *id = row.id;
    return STATUS_OK;
}

/* A duplicate's row tells of its original what a reader of lists wants to see. */
static enum status describe_duplicate(struct sink_store *sink, struct store_document *row, struct error *err)
{
    struct store_document original;
    enum status status = store_document_get(sink->store, row->duplicate_of, &original, err);

    if (status)
        return status;
    /* Borrowed until the next call on the store, and store_document_begin() copies them. */
    row->media_type = original.media_type;
    row->title = original.title;
    row->author = original.author;
    row->language = original.language;
    row->created = original.created;
    row->modified = original.modified;
    row->extractor = original.extractor;
    row->page_count = original.page_count;
    return STATUS_OK;
}

static enum status put(void *context, const struct ingest_document *document, struct error *err)
{
    struct sink_store *sink = context;
    struct store_document row = document->row;
    struct store_writer *writer = NULL;
    int64_t id;
    enum status status = STATUS_OK;

    if (row.status == DOCUMENT_DUPLICATE)
        status = describe_duplicate(sink, &row, err);
    if (!status)
        status = store_document_begin(sink->store, &row, &writer, err);
    for (size_t i = 0; i < document->page_count && !status; i++)
        status = store_put_page(writer, &document->pages[i], err);
    for (size_t i = 0; i < document->chunk_count && !status; i++)
        status = store_put_chunk(writer, &document->chunks[i], err);
    for (size_t i = 0; i < document->problem_count && !status; i++)
        status = store_put_problem(writer, &document->problems[i], err);
    if (!status) {
        status = store_document_commit(writer, &id, err);
        writer = NULL; /* committed or not, it has ended */
    }
    store_document_rollback(writer);
    if (status)
        error_prefix(err, "writing '%s'", row.path);
    return status;
}

static enum status flush(void *context, struct error *err)
{
    struct sink_store *sink = context;

    return sink->store ? store_flush(sink->store, err) : STATUS_OK;
}

struct row_key {
    int64_t id;
    char *path, *member, *sha256;
};

struct collected {
    VEC(struct row_key) rows;
    const char *path;
    bool beneath;
    bool (*gone)(void *context, const char *path, const char *member);
    void *gone_context;
    enum status status;
};

static void collected_finish(struct collected *collected)
{
    for (size_t i = 0; i < collected->rows.count; i++) {
        free(collected->rows.items[i].path);
        free(collected->rows.items[i].member);
        free(collected->rows.items[i].sha256);
    }
    vec_finish(&collected->rows);
}

/* Rows are collected before any is touched: a query must not run over what is being changed. */
static bool collect(void *context, const struct store_document *row)
{
    struct collected *collected = context;
    struct row_key key = {.id = row->id};

    if (collected->path && !collected->beneath && strcmp(row->path, collected->path) != 0)
        return true;
    if (collected->gone && !collected->gone(collected->gone_context, row->path, row->member))
        return true;
    collected->status = vec_reserve(&collected->rows, 1);
    if (collected->status)
        return false;
    if (!collected->gone) {
        key.path = strdup(row->path);
        key.member = strdup(row->member);
        key.sha256 = strdup(row->sha256);
    }
    collected->rows.items[collected->rows.count++] = key;
    if (!collected->gone && (!key.path || !key.member || !key.sha256))
        collected->status = STATUS_NO_MEMORY;
    return !collected->status;
}

static enum status remove_rows(void *context, const char *path, bool beneath,
                               bool (*gone)(void *gone_context, const char *path, const char *member),
                               void *gone_context, int64_t *removed, struct error *err)
{
    struct sink_store *sink = context;
    struct collected collected = {.path = path, .beneath = beneath, .gone = gone, .gone_context = gone_context};
    const struct store_document_filter filter = {.collection = sink->collection, .path_prefix = path, .status = -1};
    enum status status;

    if (!sink->store)
        return STATUS_OK;
    status = store_documents(sink->store, &filter, collect, &collected, err);
    if (!status && collected.status)
        status = error_set(err, collected.status, "no memory for a list of documents");
    for (size_t i = 0; i < collected.rows.count && !status; i++) {
        status = store_document_delete(sink->store, collected.rows.items[i].id, err);
        *removed += !status;
    }
    collected_finish(&collected);
    return status;
}

static enum status orphans(void *context, bool (*visit)(void *visit_context, const char *path, const char *member),
                           void *visit_context, struct error *err)
{
    struct sink_store *sink = context;
    struct collected collected = {0};
    const struct store_document_filter filter = {.collection = sink->collection, .status = DOCUMENT_DUPLICATE};
    enum status status = STATUS_OK;

    if (sink->store)
        status = store_documents(sink->store, &filter, collect, &collected, err);
    if (!status && collected.status)
        status = error_set(err, collected.status, "no memory for a list of documents");
    for (size_t i = 0; i < collected.rows.count && !status; i++) {
        const struct row_key *key = &collected.rows.items[i];
        int64_t original;

        status = find_bytes(sink, key->sha256, key->path, key->member, &original, err);
        if (status == STATUS_NOT_FOUND) {
            status = STATUS_OK;
            if (!visit(visit_context, key->path, key->member))
                break;
        }
    }
    collected_finish(&collected);
    return status;
}

void sink_store_init(struct sink_store *sink, struct store *store, const char *collection, struct ingest_sink *out)
{
    *sink = (struct sink_store){store, collection};
    *out = (struct ingest_sink){.context = sink, .find = find, .find_bytes = find_bytes, .put = put, .flush = flush,
                                .remove = remove_rows, .orphans = orphans};
}
