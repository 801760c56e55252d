/* search.c: a full-text query with filters, best hits first.
 *
 * The full-text query runs alone: in one WHERE with a filter on another table, SQLite may drive the query from the
 * filter and ask the index once a row. Filters become ranges of chunk ids first (a document's are consecutive), and
 * a row outside them is passed over before it is scored. */
#include "store/search.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/vec.h"

enum { MAX_FILTERS = 1024, MAX_SQL_BYTES = 1 << 16, MAX_LIMIT = 1000000 };

/* --- Filters --------------------------------------------------------------------------------------------- */

static bool has_filter(const struct store_search *s)
{
    return s->collection_count || s->document_count || s->media_type || s->path_glob || s->date_from || s->date_to;
}

static enum status append_list(struct buf *sql, const char *column, size_t count)
{
    enum status status = buf_printf(sql, " AND %s IN (?", column);

    for (size_t i = 1; i < count && !status; i++)
        status = buf_append_cstr(sql, ", ?");
    return status ? status : buf_append_byte(sql, ')');
}

static enum status write_filter(const struct store_search *s, struct buf *sql)
{
    static const char date[] = "substr(CASE WHEN modified != '' THEN modified ELSE created END, 1, length(?))";
    enum status status = buf_append_cstr(sql, "SELECT first_chunk, first_chunk + chunk_count FROM documents WHERE "
                                              "chunk_count > 0");

    if (!status && s->collection_count)
        status = append_list(sql, "collection", s->collection_count);
    if (!status && s->document_count)
        status = append_list(sql, "id", s->document_count);
    if (!status && s->media_type)
        status = buf_append_cstr(sql, " AND media_type = ?");
    if (!status && s->path_glob)
        status = buf_append_cstr(sql, " AND (path GLOB ? OR (member != '' AND member GLOB ?))");
    /* A date is compared on as many characters as it was given with: "2023" takes the whole year. */
    if (!status && s->date_from)
        status = buf_printf(sql, " AND %s >= ?", date);
    if (!status && s->date_to)
        status = buf_printf(sql, " AND %s BETWEEN '0' AND ?", date);
    return status ? status : buf_append_cstr(sql, " ORDER BY first_chunk");
}

static void bind_filter(struct statement *st, const struct store_search *s)
{
    for (size_t i = 0; i < s->collection_count; i++)
        statement_text(st, s->collections[i]);
    for (size_t i = 0; i < s->document_count; i++)
        statement_int(st, s->documents[i]);
    if (s->media_type)
        statement_text(st, s->media_type);
    for (int twice = 0; twice < 2; twice++) {
        if (s->path_glob)
            statement_text(st, s->path_glob);
    }
    for (int twice = 0; twice < 2; twice++) {
        if (s->date_from)
            statement_text(st, s->date_from);
    }
    for (int twice = 0; twice < 2; twice++) {
        if (s->date_to)
            statement_text(st, s->date_to);
    }
}

/* Neighbouring ranges become one, so that a filter that lets most through stays small. */
static enum status read_ranges(struct store *store, struct searching *searching, struct error *err)
{
    VEC(struct id_range) ranges = {0};
    struct statement st = {0};
    struct buf sql;
    bool row = true;
    enum status status;

    buf_init(&sql, MAX_SQL_BYTES);
    status = write_filter(searching->search, &sql);
    if (status)
        (void)error_set(err, status, "the filter is too large");
    else
        status = statement_begin_own(&store->db, buf_cstr(&sql), &st, err);
    if (!status)
        bind_filter(&st, searching->search);
    while (!status && !(status = statement_step(&st, &row, err)) && row) {
        struct id_range range = {column_int(&st, 0), column_int(&st, 1)};

        if (ranges.count && ranges.items[ranges.count - 1].end == range.first)
            ranges.items[ranges.count - 1].end = range.end;
        else if (vec_reserve(&ranges, 1))
            status = error_set(err, STATUS_NO_MEMORY, "out of memory");
        else
            ranges.items[ranges.count++] = range;
    }
    statement_end(&st);
    buf_finish(&sql);
    if (status) {
        vec_finish(&ranges);
        return status;
    }
    searching->filtered = true;
    searching->ranges = ranges.items;
    searching->range_count = ranges.count;
    return STATUS_OK;
}

/* --- The best hits --------------------------------------------------------------------------------------- */

/* A heap with the worst hit on top: score, then the higher id is worse. */
static bool worse(const struct store_hit *a, const struct store_hit *b)
{
    return a->score != b->score ? a->score < b->score : a->chunk_id > b->chunk_id;
}

static void sink(struct store_hit *heap, size_t count, size_t at)
{
    struct store_hit moved = heap[at];

    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && worse(&heap[child + 1], &heap[child]))
            child++;
        if (!worse(&heap[child], &moved))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static void rise(struct store_hit *heap, size_t at)
{
    struct store_hit moved = heap[at];

    while (at > 0 && worse(&moved, &heap[(at - 1) / 2])) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = moved;
}

static int best_first(const void *left, const void *right)
{
    return worse(left, right) ? 1 : -1; /* ids differ: never equal */
}

static enum status collect(struct statement *st, struct store_hit *heap, size_t cap, size_t *count, struct error *err)
{
    bool row = true;
    enum status status;

    *count = 0;
    while (!(status = statement_step(st, &row, err)) && row) {
        struct store_hit hit = {.chunk_id = column_int(st, 0)};

        if (sqlite3_column_type(st->handle, 1) == SQLITE_NULL)
            continue; /* filtered */
        hit.score = column_real(st, 1);
        if (*count < cap) {
            heap[*count] = hit;
            rise(heap, (*count)++);
        } else if (worse(&heap[0], &hit)) {
            heap[0] = hit;
            sink(heap, *count, 0);
        }
    }
    /* A match that is no FTS5 expression is the caller's input, not our mistake. */
    if (status == STATUS_BUG)
        status = error_set(err, STATUS_BAD_INPUT, "the full-text query is not valid: %s",
                           sqlite3_errmsg(st->db->handle));
    return status;
}

/* Adds whose chunk it is. One that was deleted since (outside a snapshot) is left out. */
static enum status name_hits(struct store *store, struct store_hit *hits, size_t *count, struct error *err)
{
    size_t kept = 0;

    for (size_t i = 0; i < *count; i++) {
        struct statement st;
        bool row = false;
        enum status status =
            statement_begin(&store->db, "SELECT document_id, ordinal FROM chunks WHERE id = ?", &st, err);

        if (status)
            return status;
        statement_int(&st, hits[i].chunk_id);
        status = statement_step(&st, &row, err);
        if (!status && row) {
            hits[kept] = hits[i];
            hits[kept].document_id = column_int(&st, 0);
            hits[kept++].ordinal = (int)column_int(&st, 1);
        }
        statement_end(&st);
        if (status)
            return status;
    }
    *count = kept;
    return STATUS_OK;
}

static enum status run_search(struct store *store, struct searching *searching, struct store_hit *heap, size_t *count,
                              struct error *err)
{
    struct statement st;
    enum status status = has_filter(searching->search) ? read_ranges(store, searching, err) : STATUS_OK;

    if (!status)
        status = store_bm25_refresh(store, err);
    if (!status)
        status = statement_begin(
            &store->db, "SELECT rowid, dsa_bm25(chunks_fts) FROM chunks_fts WHERE chunks_fts MATCH ?", &st, err);
    if (status)
        return status;
    statement_text(&st, searching->search->match);
    store->searching = searching;
    status = collect(&st, heap, (size_t)searching->search->limit, count, err);
    store->searching = NULL;
    statement_end(&st);
    if (status)
        return status;
    if (*count)
        qsort(heap, *count, sizeof *heap, best_first);
    return name_hits(store, heap, count, err);
}

enum status store_search(struct store *store, const struct store_search *search, struct store_hit **hits,
                         size_t *count, struct error *err)
{
    struct searching searching = {.search = search};
    struct store_hit *heap;
    size_t found = 0;
    enum status status;

    if (search->limit < 1 || search->limit > MAX_LIMIT || search->collection_count > MAX_FILTERS ||
        search->document_count > MAX_FILTERS)
        return error_set(err, STATUS_BAD_INPUT, "the search is out of range: limit %d, %zu collections, %zu documents",
                         search->limit, search->collection_count, search->document_count);
    heap = calloc((size_t)search->limit, sizeof *heap);
    if (!heap)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    status = run_search(store, &searching, heap, &found, err);
    free(searching.ranges);
    if (status) {
        free(heap);
        return status;
    }
    *hits = heap;
    *count = found;
    return STATUS_OK;
}
