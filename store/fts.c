/* fts.c: the full-text index as a word list: its tokenizer, rows by word, and folding it together. */
#include "store/store_internal.h"

#include <stdlib.h>
#include <string.h>

enum {
    TERM_CACHE_SLOTS = 1 << 12, /* power of two; emptied when 3/4 full */
    TERM_MAX_BYTES = 128
};

/* --- Opening --------------------------------------------------------------------------------------------- */

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
    rc = store_bm25_register(store, api);
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
    store_bm25_finish(store);
}

void store_fts_forget(struct store *store)
{
    if (store->terms)
        store->terms->generation = -1;
    store->lengths.count = 0;
    store->lengths.generation = -1;
}

/* --- Folding words --------------------------------------------------------------------------------------- */

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

/* --- Rows by term ---------------------------------------------------------------------------------------- */

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
