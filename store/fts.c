/* fts.c: the full-text index: our BM25, searching, folding words as the index does, rows by term.
 *
 * FTS5's own bm25() has k1 = 1.2 and b = 0.75 built in and sets the weight of a word in half of the rows to
 * nothing; ours takes k1, b and the column weights as arguments and Lucene's idf, which stays positive.
 * References: Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009;
 * sqlite.org/fts5.html, section 7 (auxiliary functions). */
#include "store/store_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"

enum {
    COLUMN_TITLE, COLUMN_HEADING, COLUMN_BODY, COLUMN_COUNT,
    MAX_PHRASES = 256,
    MAX_FILTERS = 1024,
    MAX_SQL_BYTES = 1 << 16,
    TERM_CACHE_SLOTS = 1 << 12, /* power of two; emptied when 3/4 full */
    TERM_MAX_BYTES = 128
};

/* --- BM25 ------------------------------------------------------------------------------------------------ */

struct bm25 { /* of one query */
    double k1, b, mean_len;
    double weights[COLUMN_COUNT];
    int phrase_count;
    double idf[MAX_PHRASES];
};

static int count_row(const Fts5ExtensionApi *api, Fts5Context *fts, void *context)
{
    (void)api;
    (void)fts;
    ++*(int64_t *)context;
    return SQLITE_OK;
}

static double idf(int64_t rows, int64_t all_rows)
{
    return log(1.0 + ((double)(all_rows - rows) + 0.5) / ((double)rows + 0.5));
}

/* Arguments: k1, b, the three weights, and the rows of each phrase as a blob of int64 (empty: count them). */
static int start_bm25(const Fts5ExtensionApi *api, Fts5Context *fts, sqlite3_value **values, struct bm25 **out)
{
    struct bm25 *query = calloc(1, sizeof *query);
    sqlite3_int64 all_rows = 0, all_tokens = 0;
    int64_t rows[MAX_PHRASES] = {0};
    bool known;
    int rc;

    if (!query)
        return SQLITE_NOMEM;
    query->k1 = sqlite3_value_double(values[0]);
    query->b = sqlite3_value_double(values[1]);
    for (int c = 0; c < COLUMN_COUNT; c++)
        query->weights[c] = sqlite3_value_double(values[2 + c]);
    query->phrase_count = api->xPhraseCount(fts);
    if (query->phrase_count > MAX_PHRASES) {
        free(query);
        return SQLITE_TOOBIG;
    }
    known = sqlite3_value_bytes(values[5]) == query->phrase_count * (int)sizeof rows[0];
    if (known && query->phrase_count)
        memcpy(rows, sqlite3_value_blob(values[5]), (size_t)query->phrase_count * sizeof rows[0]);
    rc = api->xRowCount(fts, &all_rows);
    if (!rc)
        rc = api->xColumnTotalSize(fts, -1, &all_tokens);
    query->mean_len = all_rows > 0 && all_tokens > 0 ? (double)all_tokens / (double)all_rows : 1.0;
    for (int p = 0; p < query->phrase_count && !rc; p++) {
        if (!known)
            rc = api->xQueryPhrase(fts, p, &rows[p], count_row);
        query->idf[p] = idf(rows[p], all_rows);
    }
    if (!rc)
        rc = api->xSetAuxdata(fts, query, free); /* frees the query itself on failure */
    else
        free(query);
    if (!rc)
        *out = query;
    return rc;
}

static void bm25(const Fts5ExtensionApi *api, Fts5Context *fts, sqlite3_context *result, int value_count,
                 sqlite3_value **values)
{
    struct bm25 *query = api->xGetAuxdata(fts, 0);
    double tf[MAX_PHRASES], score = 0, norm;
    int hits = 0, len = 0, rc = SQLITE_OK;

    if (value_count != 3 + COLUMN_COUNT) {
        sqlite3_result_error(result, "dsa_bm25: wrong number of arguments", -1);
        return;
    }
    if (!query)
        rc = start_bm25(api, fts, values, &query);
    if (!rc)
        rc = api->xInstCount(fts, &hits);
    if (!rc)
        rc = api->xColumnSize(fts, -1, &len);
    if (rc) {
        sqlite3_result_error_code(result, rc);
        return;
    }
    memset(tf, 0, (size_t)query->phrase_count * sizeof tf[0]);
    for (int i = 0; i < hits; i++) {
        int phrase, column, offset;

        rc = api->xInst(fts, i, &phrase, &column, &offset);
        if (rc || column >= COLUMN_COUNT) {
            sqlite3_result_error_code(result, rc ? rc : SQLITE_CORRUPT);
            return;
        }
        tf[phrase] += query->weights[column];
    }
    norm = query->k1 * (1.0 - query->b + query->b * (double)len / query->mean_len);
    for (int p = 0; p < query->phrase_count; p++) {
        if (tf[p] > 0)
            score += query->idf[p] * tf[p] * (query->k1 + 1.0) / (tf[p] + norm);
    }
    sqlite3_result_double(result, score);
}

/* --- Opening ---------------------------------------------------------------------------------------------- */

struct term_cache {
    int64_t generation, all_rows;
    size_t used;
    struct {
        uint8_t len; /* 0: free */
        char term[TERM_MAX_BYTES];
        int64_t rows;
    } slots[TERM_CACHE_SLOTS];
};

static enum status fts5_interface(struct db *db, fts5_api **api, struct error *err)
{
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db->handle, "SELECT fts5(?1)", -1, &statement, NULL);

    *api = NULL;
    if (!rc)
        rc = sqlite3_bind_pointer(statement, 1, api, "fts5_api_ptr", NULL);
    if (!rc)
        (void)sqlite3_step(statement);
    (void)sqlite3_finalize(statement);
    if (!*api)
        return error_set(err, STATUS_UNSUPPORTED, "this SQLite was built without FTS5");
    return STATUS_OK;
}

enum status store_fts_open(struct store *store, struct error *err)
{
    const char *arguments[] = {"unicode61", "remove_diacritics", "2"}; /* behind porter, as in the schema */
    fts5_api *api = NULL;
    void *user = NULL;
    enum status status = fts5_interface(&store->db, &api, err);
    int rc;

    if (status)
        return status;
    rc = api->xCreateFunction(api, "dsa_bm25", NULL, bm25, NULL);
    if (!rc)
        rc = api->xFindTokenizer(api, "porter", &user, &store->tokenizer_calls);
    if (!rc)
        rc = store->tokenizer_calls.xCreate(user, arguments, 3, &store->tokenizer);
    if (rc) {
        store->tokenizer = NULL;
        return db_error(&store->db, rc, "cannot be searched", err);
    }
    store->terms = calloc(1, sizeof *store->terms);
    if (!store->terms)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    store->terms->generation = -1;
    return db_exec(&store->db, "CREATE VIRTUAL TABLE temp.terms USING fts5vocab('main', 'chunks_fts', 'row')", err);
}

void store_fts_close(struct store *store)
{
    if (store->tokenizer)
        store->tokenizer_calls.xDelete(store->tokenizer);
    store->tokenizer = NULL;
    free(store->terms);
    store->terms = NULL;
}

/* --- Folding words ------------------------------------------------------------------------------------------ */

struct fold {
    bool (*visit)(void *context, struct span folded, size_t start, size_t end);
    void *context;
};

static int fold_token(void *context, int flags, const char *token, int len, int start, int end)
{
    struct fold *fold = context;

    if (flags & FTS5_TOKEN_COLOCATED)
        return SQLITE_OK;
    return fold->visit(fold->context, span_of(token, (size_t)len), (size_t)start, (size_t)end) ? SQLITE_OK
                                                                                               : SQLITE_DONE;
}

enum status store_fold_words(struct store *store, struct span text,
                             bool (*visit)(void *context, struct span folded, size_t start, size_t end),
                             void *context, struct error *err)
{
    struct fold fold = {visit, context};
    int rc;

    if (text.len > INT32_MAX / 2)
        return error_set(err, STATUS_LIMIT, "a text of %zu bytes cannot be split into words", text.len);
    if (!text.len)
        return STATUS_OK;
    rc = store->tokenizer_calls.xTokenize(store->tokenizer, &fold, FTS5_TOKENIZE_QUERY, text.ptr, (int)text.len,
                                          fold_token);
    return rc && rc != SQLITE_DONE ? db_error(&store->db, rc, "cannot split words", err) : STATUS_OK;
}

/* --- Rows by term ------------------------------------------------------------------------------------------- */

static size_t term_slot(const struct term_cache *cache, struct span term)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    size_t slot;

    for (size_t i = 0; i < term.len; i++)
        hash = (hash ^ (unsigned char)term.ptr[i]) * 0x100000001b3u;
    slot = (size_t)(hash ^ hash >> 32) & (TERM_CACHE_SLOTS - 1);
    while (cache->slots[slot].len && (cache->slots[slot].len != term.len ||
                                      memcmp(cache->slots[slot].term, term.ptr, term.len) != 0))
        slot = (slot + 1) & (TERM_CACHE_SLOTS - 1);
    return slot;
}

static enum status count_term(struct store *store, struct span term, int64_t *rows, struct error *err)
{
    struct statement st;
    bool row = false;
    enum status status = statement_begin(&store->db, "SELECT doc FROM temp.terms WHERE term = CAST(? AS TEXT)", &st,
                                         err);

    if (status)
        return status;
    statement_blob(&st, term);
    status = statement_step(&st, &row, err);
    if (!status)
        *rows = row ? column_int(&st, 0) : 0;
    statement_end(&st);
    return status;
}

static enum status fresh_cache(struct store *store, struct error *err)
{
    struct term_cache *cache = store->terms;
    int64_t generation = 0, all_rows = 0;
    enum status status = db_number(&store->db, "SELECT generation FROM state", &generation, err);

    if (status || (generation == cache->generation && !store->writer && cache->used < TERM_CACHE_SLOTS / 4 * 3))
        return status;
    status = db_number(&store->db, "SELECT total(chunk_count) FROM documents", &all_rows, err);
    if (status)
        return status;
    memset(cache, 0, sizeof *cache);
    cache->generation = generation;
    cache->all_rows = all_rows;
    return STATUS_OK;
}

enum status store_folded_rows(struct store *store, struct span folded, int64_t *rows, int64_t *all_rows,
                              struct error *err)
{
    struct term_cache *cache = store->terms;
    int64_t counted = 0;
    size_t slot;
    enum status status = fresh_cache(store, err);

    if (status)
        return status;
    if (folded.len == 0 || folded.len > TERM_MAX_BYTES) {
        status = folded.len ? count_term(store, folded, &counted, err) : STATUS_OK;
    } else {
        slot = term_slot(cache, folded);
        if (!cache->slots[slot].len) {
            status = count_term(store, folded, &counted, err);
            if (!status) {
                cache->slots[slot].rows = counted;
                memcpy(cache->slots[slot].term, folded.ptr, folded.len);
                cache->slots[slot].len = (uint8_t)folded.len;
                cache->used++;
            }
        }
        counted = cache->slots[slot].rows;
    }
    if (!status) {
        *rows = counted;
        *all_rows = cache->all_rows;
    }
    return status;
}

struct rarest {
    struct store *store;
    int64_t rows, all_rows;
    bool any;
    enum status status;
    struct error *err;
};

static bool visit_rarest(void *context, struct span folded, size_t start, size_t end)
{
    struct rarest *rarest = context;
    int64_t rows = 0;

    (void)start;
    (void)end;
    rarest->status = store_folded_rows(rarest->store, folded, &rows, &rarest->all_rows, rarest->err);
    if (!rarest->any || rows < rarest->rows)
        rarest->rows = rows;
    rarest->any = true;
    return rarest->status == STATUS_OK;
}

enum status store_term_rows(struct store *store, struct span term, int64_t *rows, int64_t *all_rows,
                            struct error *err)
{
    struct rarest rarest = {.store = store, .err = err};
    enum status status = fresh_cache(store, err);

    if (!status) {
        rarest.all_rows = store->terms->all_rows;
        status = store_fold_words(store, term, visit_rarest, &rarest, err);
    }
    if (!status)
        status = rarest.status;
    if (!status) {
        *rows = rarest.rows;
        *all_rows = rarest.all_rows;
    }
    return status;
}

/* --- Searching ------------------------------------------------------------------------------------------------ */

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

/* The full-text query is materialised before any other table is looked at: in one WHERE with a filter SQLite may
 * drive the query from the filter and ask the index once a row. */
static enum status build_sql(const struct store_search *s, struct buf *sql)
{
    static const char dated[] = "substr(CASE WHEN d.modified != '' THEN d.modified ELSE d.created END, 1, ";
    enum status status = buf_append_cstr(sql,
        "WITH hits(id, score) AS MATERIALIZED (SELECT rowid, dsa_bm25(chunks_fts, ?, ?, ?, ?, ?, ?) FROM chunks_fts "
        "WHERE chunks_fts MATCH ?) SELECT c.id, c.document_id, c.ordinal, hits.score FROM ");

    if (!status && !has_filter(s))
        return buf_append_cstr(sql, "(SELECT id, score FROM hits ORDER BY score DESC, id LIMIT ?) AS hits "
                                    "CROSS JOIN chunks AS c ON c.id = hits.id ORDER BY hits.score DESC, hits.id");
    if (!status)
        status = buf_append_cstr(sql, "hits CROSS JOIN chunks AS c ON c.id = hits.id "
                                      "CROSS JOIN documents AS d ON d.id = c.document_id WHERE 1");
    if (!status && s->collection_count)
        status = append_list(sql, "d.collection", s->collection_count);
    if (!status && s->document_count)
        status = append_list(sql, "d.id", s->document_count);
    if (!status && s->media_type)
        status = buf_append_cstr(sql, " AND d.media_type = ?");
    if (!status && s->path_glob)
        status = buf_append_cstr(sql, " AND (d.path GLOB ? OR (d.member != '' AND d.member GLOB ?))");
    /* A date is compared on as many characters as it was given with: "2023" takes the whole year. */
    if (!status && s->date_from)
        status = buf_printf(sql, " AND %slength(?)) >= ?", dated);
    if (!status && s->date_to)
        status = buf_printf(sql, " AND %slength(?)) BETWEEN '0' AND ?", dated);
    return status ? status : buf_append_cstr(sql, " ORDER BY hits.score DESC, hits.id LIMIT ?");
}

static void bind_search(struct statement *st, const struct store_search *s)
{
    statement_real(st, s->k1);
    statement_real(st, s->b);
    statement_real(st, s->title_weight);
    statement_real(st, s->heading_weight);
    statement_real(st, s->body_weight);
    statement_blob(st, span_of((const char *)s->phrase_rows, s->phrase_rows ? s->phrase_count * sizeof(int64_t) : 0));
    statement_text(st, s->match);
    for (size_t i = 0; i < s->collection_count; i++)
        statement_text(st, s->collections[i]);
    for (size_t i = 0; i < s->document_count; i++)
        statement_int(st, s->documents[i]);
    if (s->media_type)
        statement_text(st, s->media_type);
    if (s->path_glob) {
        statement_text(st, s->path_glob);
        statement_text(st, s->path_glob);
    }
    if (s->date_from) {
        statement_text(st, s->date_from);
        statement_text(st, s->date_from);
    }
    if (s->date_to) {
        statement_text(st, s->date_to);
        statement_text(st, s->date_to);
    }
    statement_int(st, s->limit);
}

static enum status collect_hits(struct statement *st, struct store_hit *hits, size_t cap, size_t *count,
                                struct error *err)
{
    bool row = true;
    enum status status = STATUS_OK;

    *count = 0;
    while (*count < cap && !(status = statement_step(st, &row, err)) && row)
        hits[(*count)++] = (struct store_hit){column_int(st, 0), column_int(st, 1), (int)column_int(st, 2),
                                              column_real(st, 3)};
    /* A match that is no FTS5 expression is the caller's input, not our mistake. */
    if (status == STATUS_BUG)
        status = error_set(err, STATUS_BAD_INPUT, "the full-text query is not valid: %s",
                           sqlite3_errmsg(st->db->handle));
    return status;
}

enum status store_search(struct store *store, const struct store_search *search, struct store_hit **hits,
                         size_t *count, struct error *err)
{
    struct store_hit *found = NULL;
    size_t found_count = 0;
    struct statement st = {0};
    struct buf sql;
    enum status status;

    if (search->limit < 1 || search->limit > 1000000 || search->collection_count > MAX_FILTERS ||
        search->document_count > MAX_FILTERS)
        return error_set(err, STATUS_BAD_INPUT, "the search is out of range: limit %d, %zu collections, %zu documents",
                         search->limit, search->collection_count, search->document_count);
    buf_init(&sql, MAX_SQL_BYTES);
    found = calloc((size_t)search->limit, sizeof *found);
    status = found ? build_sql(search, &sql) : STATUS_NO_MEMORY;
    if (status) {
        (void)error_set(err, status, "the search is too large");
        goto out;
    }
    status = statement_begin_own(&store->db, buf_cstr(&sql), &st, err);
    if (status)
        goto out;
    bind_search(&st, search);
    status = collect_hits(&st, found, (size_t)search->limit, &found_count, err);
    if (!status) {
        *hits = found;
        *count = found_count;
        found = NULL;
    }
out:
    statement_end(&st);
    buf_finish(&sql);
    free(found);
    return status;
}

enum status store_optimize(struct store *store, struct error *err)
{
    enum status status = store_check_writable(store, err);

    if (!status)
        status = store_flush(store, err);
    if (!status)
        status = db_exec(&store->db, "INSERT INTO chunks_fts(chunks_fts) VALUES('optimize')", err);
    if (!status)
        status = db_exec(&store->db, "PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)", err);
    return status;
}
