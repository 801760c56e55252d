/* writer.c: one document, one transaction: rows, pages, chunks with their index rows, problems.
 *
 * The document of the same source goes first, inside the same transaction. Chunks are indexed as they come, with
 * the title known at begin; a title that only store_document_finish() knows re-indexes them. */
#include "store/store_internal.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

enum { MAX_CHUNK_SPANS = 4096 }; /* a chunk is 300 tokens; a span a line at the very least */

struct store_writer {
    struct store *store;
    int64_t id, first_chunk, chunk_count, page_count, problem_count, text_bytes;
    char *title; /* as indexed so far */
    sqlite3_blob *page_text; /* the page that the last chunk's spans stood on */
    int64_t page_rowid;
};

static void free_writer(struct store_writer *writer)
{
    if (writer) {
        (void)sqlite3_blob_close(writer->page_text);
        writer->store->writer = NULL;
        free(writer->title);
        free(writer);
    }
}

static enum status check_document(const struct store_document *d, struct error *err)
{
    if (!d->collection || !d->collection[0] || !d->path || !d->path[0])
        return error_set(err, STATUS_BAD_INPUT, "a document needs a collection and a path");
    if ((int)d->status < DOCUMENT_OK || d->status > DOCUMENT_DUPLICATE)
        return error_set(err, STATUS_BAD_INPUT, "a document's status is out of range");
    if ((d->status == DOCUMENT_DUPLICATE) != (d->duplicate_of != 0))
        return error_set(err, STATUS_BAD_INPUT, "a duplicate, and only a duplicate, names its original");
    return STATUS_OK;
}

/* The values of INSERT and UPDATE below, from media_type to duplicate_of. */
static void bind_document(struct statement *st, const struct store_document *d)
{
    statement_text(st, d->media_type);
    statement_text(st, d->sha256);
    statement_text(st, d->title);
    statement_text(st, d->author);
    statement_text(st, d->language);
    statement_text(st, d->created);
    statement_text(st, d->modified);
    statement_text(st, d->error);
    statement_text(st, d->extractor);
    statement_int(st, d->status);
    statement_int(st, d->size_bytes);
    statement_int(st, d->page_count);
    statement_int(st, d->mtime_ms);
    statement_int(st, d->duplicate_of);
}

static enum status delete_same_source(struct store *store, const struct store_document *d, struct error *err)
{
    struct statement st;
    int64_t id = 0;
    bool row = false;
    enum status status = statement_begin(&store->db, "SELECT id FROM documents WHERE collection = ? AND path = ? "
                                         "AND member = ?", &st, err);

    if (status)
        return status;
    statement_text(&st, d->collection);
    statement_text(&st, d->path);
    statement_text(&st, d->member);
    status = statement_step(&st, &row, err);
    if (!status && row)
        id = column_int(&st, 0);
    statement_end(&st);
    return status || !id ? status : store_delete_rows(store, id, err);
}

static enum status insert_document(struct store_writer *writer, const struct store_document *d, struct error *err)
{
    struct db *db = &writer->store->db;
    struct statement st;
    enum status status = statement_begin(db, "INSERT INTO documents(collection, path, member, media_type, sha256, "
        "title, author, language, created, modified, error, extractor, status, size_bytes, page_count, mtime_ms, "
        "duplicate_of, ingested_ms, text_bytes, problem_count, first_chunk, chunk_count) "
        "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0, ?, 0)", &st, err);

    if (status)
        return status;
    statement_text(&st, d->collection);
    statement_text(&st, d->path);
    statement_text(&st, d->member);
    bind_document(&st, d);
    statement_int(&st, clock_wall_ms());
    statement_int(&st, writer->first_chunk);
    status = statement_run(&st, err);
    if (!status)
        writer->id = sqlite3_last_insert_rowid(db->handle);
    return status;
}

enum status store_document_begin(struct store *store, const struct store_document *document,
                                 struct store_writer **writer, struct error *err)
{
    struct store_writer *created;
    enum status status = check_document(document, err);

    if (status)
        return status;
    if (store->role != STORE_INGEST)
        return error_set(err, STATUS_BUG, "'%s': only ingest writes documents", store->dir);
    if (store->writer)
        return error_set(err, STATUS_BUG, "'%s': a document is open already", store->dir);
    created = calloc(1, sizeof *created);
    if (!created)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    created->store = store;
    created->title = strdup(document->title ? document->title : "");
    if (!created->title) {
        free_writer(created);
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    status = store_change_begin(store, err);
    if (status) {
        free_writer(created);
        return status;
    }
    status = delete_same_source(store, document, err);
    if (!status)
        status = db_number(&store->db, "SELECT next_chunk FROM state", &created->first_chunk, err);
    if (!status)
        status = insert_document(created, document, err);
    if (status) {
        free_writer(created);
        store_change_rollback(store);
        return status;
    }
    store->writer = created;
    *writer = created;
    return STATUS_OK;
}

static enum status insert_page(struct store_writer *writer, const struct store_page *page, struct error *err)
{
    struct db *db = &writer->store->db;
    struct statement st;
    enum status status = statement_begin(db,
                                         "INSERT INTO pages(document_id, number, label, width, height, text, aside) "
                                         "VALUES(?, ?, ?, ?, ?, ?, ?)",
                                         &st, err);

    if (status)
        return status;
    statement_int(&st, writer->id);
    statement_int(&st, page->number);
    statement_text(&st, page->label);
    statement_real(&st, page->width);
    statement_real(&st, page->height);
    statement_blob(&st, page->text);
    statement_blob(&st, page->aside);
    status = statement_run(&st, err);
    if (!status && page->rects.len) {
        int64_t rowid = sqlite3_last_insert_rowid(db->handle);

        status = statement_begin(db, "INSERT INTO page_rects(page_id, rects) VALUES(?, ?)", &st, err);
        if (status)
            return status;
        statement_int(&st, rowid);
        statement_blob(&st, page->rects);
        status = statement_run(&st, err);
    }
    return status;
}

enum status store_put_page(struct store_writer *writer, const struct store_page *page, struct error *err)
{
    enum status status;

    if (page->number < 1)
        return error_set(err, STATUS_BAD_INPUT, "page numbers start at 1, not %d", page->number);
    status = insert_page(writer, page, err);
    if (status) {
        error_prefix(err, "page %d", page->number);
        return status;
    }
    writer->page_count++;
    writer->text_bytes += (int64_t)page->text.len;
    return STATUS_OK;
}

/* Opens the page's text for reading, unless it is open already. */
static enum status open_page(struct store_writer *writer, int page, struct error *err)
{
    struct db *db = &writer->store->db;
    struct statement st;
    int64_t rowid = 0;
    bool row = false;
    int rc;
    enum status status = statement_begin(db, "SELECT id FROM pages WHERE document_id = ? AND number = ?", &st, err);

    if (status)
        return status;
    statement_int(&st, writer->id);
    statement_int(&st, page);
    status = statement_step(&st, &row, err);
    if (!status && row)
        rowid = column_int(&st, 0);
    statement_end(&st);
    if (status)
        return status;
    if (!rowid)
        return error_set(err, STATUS_BUG, "chunk on page %d, which was not put", page);
    if (writer->page_text && writer->page_rowid == rowid)
        return STATUS_OK;
    rc = writer->page_text ? sqlite3_blob_reopen(writer->page_text, rowid)
                           : sqlite3_blob_open(db->handle, "main", "pages", "text", rowid, 0, &writer->page_text);
    if (rc) {
        (void)sqlite3_blob_close(writer->page_text);
        writer->page_text = NULL;
        return db_error(db, rc, "cannot be read", err);
    }
    writer->page_rowid = rowid;
    return STATUS_OK;
}

/* Do the bytes of the span stand in the page? The index is deleted from by cutting them out again, and quotations
 * are checked against them, so a mismatch must not get in. */
static enum status check_span(struct store_writer *writer, const struct store_chunk_span *span, struct span text,
                              struct error *err)
{
    char block[4096];
    size_t done = 0;
    int rc = 0;
    enum status status = open_page(writer, span->page, err);

    if (status)
        return status;
    if (span->start > span->end || span->end > (uint32_t)sqlite3_blob_bytes(writer->page_text) ||
        text.len != span->end - span->start)
        return error_set(err, STATUS_BUG, "chunk span [%u, %u) is not inside page %d", (unsigned)span->start,
                         (unsigned)span->end, span->page);
    while (done < text.len && !rc) {
        size_t part = text.len - done < sizeof block ? text.len - done : sizeof block;

        rc = sqlite3_blob_read(writer->page_text, block, (int)part, (int)(span->start + done));
        if (!rc && memcmp(block, text.ptr + done, part) != 0)
            return error_set(err, STATUS_BUG, "chunk text differs from page %d at byte %zu", span->page,
                             span->start + done);
        done += part;
    }
    return rc ? db_error(&writer->store->db, rc, "cannot be read", err) : STATUS_OK;
}

static enum status insert_span(struct store_writer *writer, int ordinal, const struct store_chunk_span *span,
                               struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&writer->store->db, "INSERT INTO chunk_spans(chunk_id, ordinal, page, start, "
                                         "stop) VALUES(?, ?, ?, ?, ?)", &st, err);

    if (status)
        return status;
    statement_int(&st, writer->first_chunk + writer->chunk_count);
    statement_int(&st, ordinal);
    statement_int(&st, span->page);
    statement_int(&st, span->start);
    statement_int(&st, span->end);
    return statement_run(&st, err);
}

static enum status check_spans(struct store_writer *writer, const struct store_chunk *chunk, struct error *err)
{
    size_t at = 0;

    for (size_t i = 0; i < chunk->span_count; i++) {
        const struct store_chunk_span *span = &chunk->spans[i];
        size_t len = span->end > span->start ? span->end - span->start : 0;
        enum status status;

        if (i > 0 && (at >= chunk->text.len || chunk->text.ptr[at++] != '\n'))
            return error_set(err, STATUS_BUG, "chunk %d: its spans are not joined by a newline", chunk->ordinal);
        if (at + len > chunk->text.len)
            return error_set(err, STATUS_BUG, "chunk %d: its spans are longer than its text", chunk->ordinal);
        status = check_span(writer, span, span_slice(chunk->text, at, at + len), err);
        if (status)
            return status;
        at += len;
    }
    if (at != chunk->text.len)
        return error_set(err, STATUS_BUG, "chunk %d: its text is longer than its spans", chunk->ordinal);
    return STATUS_OK;
}

static enum status insert_chunk(struct store_writer *writer, const struct store_chunk *chunk, struct error *err)
{
    struct db *db = &writer->store->db;
    int64_t id = writer->first_chunk + writer->chunk_count;
    struct statement st;
    enum status status = statement_begin(db, "INSERT INTO chunks(id, document_id, ordinal, heading, "
                                         "token_estimate, hash, simhash) VALUES(?, ?, ?, ?, ?, ?, ?)", &st, err);

    if (status)
        return status;
    statement_int(&st, id);
    statement_int(&st, writer->id);
    statement_int(&st, chunk->ordinal);
    statement_text(&st, chunk->heading);
    statement_int(&st, chunk->token_estimate);
    statement_int(&st, (int64_t)chunk->hash);
    statement_int(&st, (int64_t)chunk->simhash);
    status = statement_run(&st, err);
    if (status)
        return status;
    status = statement_begin(db, "INSERT INTO chunks_fts(rowid, title, heading, body) VALUES(?, ?, ?, "
                             "CAST(? AS TEXT))", &st, err);
    if (status)
        return status;
    statement_int(&st, id);
    statement_text(&st, writer->title);
    statement_text(&st, chunk->heading);
    statement_blob(&st, chunk->text);
    return statement_run(&st, err);
}

enum status store_put_chunk(struct store_writer *writer, const struct store_chunk *chunk, struct error *err)
{
    enum status status;

    if (chunk->ordinal != writer->chunk_count)
        return error_set(err, STATUS_BUG, "chunk %d comes where %lld was due", chunk->ordinal,
                         (long long)writer->chunk_count);
    if (chunk->span_count == 0 || chunk->span_count > MAX_CHUNK_SPANS)
        return error_set(err, STATUS_BUG, "chunk %d has %zu spans", chunk->ordinal, chunk->span_count);
    status = check_spans(writer, chunk, err);
    for (size_t i = 0; i < chunk->span_count && !status; i++)
        status = insert_span(writer, (int)i, &chunk->spans[i], err);
    if (!status)
        status = insert_chunk(writer, chunk, err);
    if (!status)
        writer->chunk_count++;
    return status;
}

enum status store_put_problem(struct store_writer *writer, const struct store_problem *problem, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&writer->store->db, "INSERT INTO problems(document_id, page, code, message) "
                                         "VALUES(?, ?, ?, ?)", &st, err);

    if (status)
        return status;
    statement_int(&st, writer->id);
    statement_int(&st, problem->page);
    statement_text(&st, problem->code);
    statement_text(&st, problem->message);
    status = statement_run(&st, err);
    if (!status)
        writer->problem_count++;
    return status;
}

static enum status run_with_id(struct store_writer *writer, const char *sql, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&writer->store->db, sql, &st, err);

    if (status)
        return status;
    statement_int(&st, writer->id);
    return statement_run(&st, err);
}

/* Takes the chunks out of the index under the old title; the caller sets the new one and puts them back. */
static enum status unindex_chunks(struct store_writer *writer, struct error *err)
{
    return run_with_id(writer, "INSERT INTO chunks_fts(chunks_fts, rowid, title, heading, body) "
                       "SELECT 'delete', t.id, t.title, t.heading, t.body FROM documents AS d JOIN chunk_text AS t "
                       "ON t.id >= d.first_chunk WHERE d.id = ?", err);
}

static enum status index_chunks(struct store_writer *writer, struct error *err)
{
    return run_with_id(writer, "INSERT INTO chunks_fts(rowid, title, heading, body) SELECT t.id, t.title, t.heading, "
                       "t.body FROM documents AS d JOIN chunk_text AS t ON t.id >= d.first_chunk WHERE d.id = ?", err);
}

static enum status set_title(struct store_writer *writer, const char *title, struct error *err)
{
    struct statement st;
    char *copy = strdup(title);
    bool again = writer->chunk_count > 0;
    enum status status = STATUS_OK;

    if (!copy)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    if (again)
        status = unindex_chunks(writer, err);
    if (!status)
        status = statement_begin(&writer->store->db, "UPDATE documents SET title = ? WHERE id = ?", &st, err);
    if (!status) {
        statement_text(&st, title);
        statement_int(&st, writer->id);
        status = statement_run(&st, err);
    }
    if (!status && again)
        status = index_chunks(writer, err);
    if (status) {
        free(copy);
        return status;
    }
    free(writer->title);
    writer->title = copy;
    return STATUS_OK;
}

enum status store_document_finish(struct store_writer *writer, const struct store_document *document,
                                  struct error *err)
{
    const char *title = document->title ? document->title : "";
    struct statement st;
    enum status status = check_document(document, err);

    if (!status && strcmp(title, writer->title) != 0)
        status = set_title(writer, title, err);
    if (!status)
        status = statement_begin(&writer->store->db, "UPDATE documents SET media_type = ?, sha256 = ?, title = ?, "
            "author = ?, language = ?, created = ?, modified = ?, error = ?, extractor = ?, status = ?, "
            "size_bytes = ?, page_count = ?, mtime_ms = ?, duplicate_of = ? WHERE id = ?", &st, err);
    if (status)
        return status;
    bind_document(&st, document);
    statement_int(&st, writer->id);
    return statement_run(&st, err);
}

static enum status stamp_document(struct store_writer *writer, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(&writer->store->db, "UPDATE documents SET text_bytes = ?, "
        "problem_count = ?, chunk_count = ?, page_count = max(page_count, ?) WHERE id = ?", &st, err);

    if (status)
        return status;
    statement_int(&st, writer->text_bytes);
    statement_int(&st, writer->problem_count);
    statement_int(&st, writer->chunk_count);
    statement_int(&st, writer->page_count);
    statement_int(&st, writer->id);
    status = statement_run(&st, err);
    if (!status)
        status = statement_begin(&writer->store->db, "UPDATE state SET next_chunk = ?", &st, err);
    if (status)
        return status;
    statement_int(&st, writer->first_chunk + writer->chunk_count);
    return statement_run(&st, err);
}

enum status store_document_commit(struct store_writer *writer, int64_t *id, struct error *err)
{
    struct store *store = writer->store;
    int64_t document_id = writer->id;
    enum status status = stamp_document(writer, err);

    if (status) {
        store_document_rollback(writer);
        return status;
    }
    free_writer(writer);
    status = store_change_commit(store, err);
    if (!status)
        *id = document_id;
    return status;
}

void store_document_rollback(struct store_writer *writer)
{
    struct store *store;

    if (!writer)
        return;
    store = writer->store;
    free_writer(writer);
    store_change_rollback(store);
}
