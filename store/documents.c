/* documents.c: reading documents rows, problems and totals. */
#include "store/store_internal.h"

#include <assert.h>
#include <string.h>

const char *document_status_name(enum document_status status)
{
    switch (status) {
    case DOCUMENT_OK: return "ok";
    case DOCUMENT_PARTIAL: return "partial";
    case DOCUMENT_FAILED: return "failed";
    case DOCUMENT_SKIPPED: return "skipped";
    case DOCUMENT_DUPLICATE: return "duplicate";
    }
    return "unknown";
}

static const char *column_cstr(const struct statement *statement, int column)
{
    const char *text = (const char *)sqlite3_column_text(statement->handle, column);

    return text ? text : "";
}

void store_document_borrow(const struct statement *st, struct store_document *document)
{
    int64_t status = column_int(st, 13);

    *document = (struct store_document){
        .id = column_int(st, 0), .collection = column_cstr(st, 1), .path = column_cstr(st, 2),
        .member = column_cstr(st, 3), .media_type = column_cstr(st, 4), .sha256 = column_cstr(st, 5),
        .title = column_cstr(st, 6), .author = column_cstr(st, 7), .language = column_cstr(st, 8),
        .created = column_cstr(st, 9), .modified = column_cstr(st, 10), .error = column_cstr(st, 11),
        .extractor = column_cstr(st, 12),
        .status = status >= DOCUMENT_OK && status <= DOCUMENT_DUPLICATE ? (enum document_status)status
                                                                        : DOCUMENT_FAILED,
        .size_bytes = column_int(st, 14), .page_count = column_int(st, 15), .mtime_ms = column_int(st, 16),
        .ingested_ms = column_int(st, 17), .duplicate_of = column_int(st, 18), .chunk_count = column_int(st, 19),
        .problem_count = column_int(st, 20)};
}

/* Copies the strings into the scratch arena, so that the statement can end at once. */
static enum status keep_document(struct store *store, struct store_document *document, struct error *err)
{
    const char **strings[] = {&document->collection, &document->path, &document->member, &document->media_type,
                              &document->sha256, &document->title, &document->author, &document->language,
                              &document->created, &document->modified, &document->error, &document->extractor};

    arena_finish(&store->scratch);
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        *strings[i] = arena_copy_cstr(&store->scratch, span_from_cstr(*strings[i]));
        if (!*strings[i])
            return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    return STATUS_OK;
}

/* Takes the first row of a bound statement and ends it. */
static enum status take_document(struct store *store, struct statement *statement, struct store_document *document,
                                 const char *what, struct error *err)
{
    struct store_document found;
    bool row = false;
    enum status status = statement_step(statement, &row, err);

    if (!status && !row)
        status = error_set(err, STATUS_NOT_FOUND, "no such document: %s", what);
    if (!status) {
        store_document_borrow(statement, &found);
        status = keep_document(store, &found, err);
    }
    statement_end(statement);
    if (!status)
        *document = found;
    return status;
}

enum status store_document_get(struct store *store, int64_t id, struct store_document *document, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&store->db, "SELECT " STORE_DOCUMENT_COLUMNS " FROM documents WHERE id = ?",
                                         &st, err);

    if (status)
        return status;
    statement_int(&st, id);
    return take_document(store, &st, document, "by that id", err);
}

enum status store_document_find(struct store *store, const char *collection, const char *path, const char *member,
                                struct store_document *document, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&store->db, "SELECT " STORE_DOCUMENT_COLUMNS " FROM documents "
                                         "WHERE collection = ? AND path = ? AND member = ?", &st, err);

    if (status)
        return status;
    statement_text(&st, collection);
    statement_text(&st, path);
    statement_text(&st, member);
    return take_document(store, &st, document, "by that path", err);
}

enum status store_document_find_bytes(struct store *store, const char *collection, const char *sha256,
                                      struct store_document *document, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&store->db, "SELECT " STORE_DOCUMENT_COLUMNS " FROM documents "
                                         "WHERE sha256 = ? AND collection = ? AND status <= 1 ORDER BY id LIMIT 1",
                                         &st, err);

    static_assert(DOCUMENT_OK == 0 && DOCUMENT_PARTIAL == 1, "the query above");
    if (status)
        return status;
    statement_text(&st, sha256);
    statement_text(&st, collection);
    return take_document(store, &st, document, "with those bytes", err);
}

enum status store_documents(struct store *store, const struct store_document_filter *filter,
                            bool (*visit)(void *context, const struct store_document *document), void *context,
                            struct error *err)
{
    static const struct store_document_filter all = {.status = -1};
    struct statement st;
    struct store_document document;
    bool row = true;
    enum status status;

    if (!filter)
        filter = &all;
    status = statement_begin_own(&store->db, "SELECT " STORE_DOCUMENT_COLUMNS " FROM documents WHERE id > ?1 "
                                 "AND (?2 = '' OR collection = ?2) AND (?3 < 0 OR status = ?3) "
                                 "AND (?4 = '' OR substr(path, 1, length(?4)) = ?4) ORDER BY id", &st, err);
    if (status)
        return status;
    statement_int(&st, filter->after_id);
    statement_text(&st, filter->collection);
    statement_int(&st, filter->status);
    statement_text(&st, filter->path_prefix);
    while (!(status = statement_step(&st, &row, err)) && row) {
        store_document_borrow(&st, &document);
        if (!visit(context, &document))
            break;
    }
    statement_end(&st);
    return status;
}

enum status store_problems(struct store *store, int64_t document_id,
                           bool (*visit)(void *context, const struct store_document *document,
                                         const struct store_problem *problem),
                           void *context, struct error *err)
{
    struct statement st;
    struct store_document document;
    struct store_problem problem;
    bool row = true;
    enum status status;

    status = statement_begin_own(&store->db, "SELECT d.*, p.page, p.code, p.message FROM (SELECT "
                                 STORE_DOCUMENT_COLUMNS " FROM documents) AS d JOIN problems AS p "
                                 "ON p.document_id = d.id WHERE ?1 = 0 OR d.id = ?1 ORDER BY d.id, p.id", &st, err);
    if (status)
        return status;
    statement_int(&st, document_id);
    while (!(status = statement_step(&st, &row, err)) && row) {
        store_document_borrow(&st, &document);
        problem = (struct store_problem){.page = (int)column_int(&st, STORE_DOCUMENT_COLUMN_COUNT),
                                         .code = column_cstr(&st, STORE_DOCUMENT_COLUMN_COUNT + 1),
                                         .message = column_cstr(&st, STORE_DOCUMENT_COLUMN_COUNT + 2)};
        if (!visit(context, &document, &problem))
            break;
    }
    statement_end(&st);
    return status;
}

enum status store_get_totals(struct store *store, const char *collection, struct store_totals *totals,
                             struct error *err)
{
    struct statement st;
    bool row = false;
    enum status status = statement_begin(&store->db,
        "SELECT count(*), count(*) FILTER (WHERE status = 0), count(*) FILTER (WHERE status = 1), "
        "count(*) FILTER (WHERE status = 2), count(*) FILTER (WHERE status = 3), count(*) FILTER (WHERE status = 4), "
        "total(page_count) FILTER (WHERE status <= 1), total(chunk_count), total(text_bytes), total(size_bytes) "
        "FROM documents WHERE ?1 = '' OR collection = ?1", &st, err);

    if (status)
        return status;
    statement_text(&st, collection);
    status = statement_step(&st, &row, err);
    if (!status)
        *totals = (struct store_totals){
            .documents = column_int(&st, 0), .ok = column_int(&st, 1), .partial = column_int(&st, 2),
            .failed = column_int(&st, 3), .skipped = column_int(&st, 4), .duplicates = column_int(&st, 5),
            .pages = column_int(&st, 6), .chunks = column_int(&st, 7), .text_bytes = column_int(&st, 8),
            .file_bytes = column_int(&st, 9)};
    statement_end(&st);
    return status;
}
