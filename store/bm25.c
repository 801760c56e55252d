/* bm25.c: scoring one row: our auxiliary function of FTS5.
 *
 * FTS5's own bm25() has k1 = 1.2 and b = 0.75 built in and sets the weight of a word in half of the rows to
 * nothing; ours takes k1, b and the column weights from the search and has Lucene's idf, which stays positive.
 * Rows that the search's filter leaves out get NULL before any work is done for them.
 *
 * FTS5 looks a row's length up in a table of its own, by a statement, which costs more than the scoring. The
 * lengths are kept here instead, two bytes a row: ids ascend and are never used twice, so only those that are new
 * since the last search are read; a change of titles (state.relabelled) starts again.
 * References: Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009;
 * sqlite.org/fts5.html, section 7 (auxiliary functions). */
#include "store/search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    COLUMN_COUNT = 3, /* title, heading, body */
    MAX_PHRASES = 256,
    LENGTH_UNKNOWN = 0, /* a row has a word at least, or it could not match */
    LENGTH_LONG = UINT16_MAX, /* this or more: ask FTS5 */
    LENGTHS_MAX_IDS = 64 << 20 /* 128 MB; rows beyond are asked for */
};

struct bm25 { /* of one query */
    double mean_len;
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

static int start_query(const Fts5ExtensionApi *api, Fts5Context *fts, const struct store_search *search,
                       struct bm25 **out)
{
    struct bm25 *query = calloc(1, sizeof *query);
    sqlite3_int64 all_rows = 0, all_tokens = 0;
    int64_t rows[MAX_PHRASES] = {0};
    bool known;
    int rc;

    if (!query)
        return SQLITE_NOMEM;
    query->weights[0] = search->title_weight;
    query->weights[1] = search->heading_weight;
    query->weights[2] = search->body_weight;
    query->phrase_count = api->xPhraseCount(fts);
    if (query->phrase_count > MAX_PHRASES) {
        free(query);
        return SQLITE_TOOBIG;
    }
    known = search->phrase_rows && search->phrase_count == (size_t)query->phrase_count;
    if (known && query->phrase_count)
        memcpy(rows, search->phrase_rows, (size_t)query->phrase_count * sizeof rows[0]);
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

static int row_length(const Fts5ExtensionApi *api, Fts5Context *fts, const struct row_lengths *lengths, int64_t id,
                      int *len)
{
    if (id < lengths->count && lengths->words[id] != LENGTH_UNKNOWN && lengths->words[id] != LENGTH_LONG) {
        *len = lengths->words[id];
        return SQLITE_OK;
    }
    return api->xColumnSize(fts, -1, len);
}

static void score_row(const Fts5ExtensionApi *api, Fts5Context *fts, sqlite3_context *result, int value_count,
                      sqlite3_value **values)
{
    const struct store *store = api->xUserData(fts);
    const struct store_search *search = store->searching ? store->searching->search : NULL;
    struct bm25 *query = api->xGetAuxdata(fts, 0);
    double score = 0, norm;
    int len = 0, rc = SQLITE_OK;
    int64_t id = api->xRowid(fts);

    (void)value_count;
    (void)values;
    if (!search) {
        sqlite3_result_error(result, "dsa_bm25: only inside a search", -1);
        return;
    }
    if (!store_filter_passes(store->searching, id))
        return; /* NULL */
    if (!query)
        rc = start_query(api, fts, search, &query);
    if (!rc)
        rc = row_length(api, fts, &store->lengths, id, &len);
    if (rc) {
        sqlite3_result_error_code(result, rc);
        return;
    }
    norm = search->k1 * (1.0 - search->b + search->b * (double)len / query->mean_len);
    /* Phrase by phrase: xInst() would merge the positions of all of them by place, which nobody needs here. */
    for (int p = 0; p < query->phrase_count && !rc; p++) {
        Fts5PhraseIter at;
        double tf = 0;
        int column = 0, offset = 0;

        for (rc = api->xPhraseFirst(fts, p, &at, &column, &offset); !rc && column >= 0;
             api->xPhraseNext(fts, &at, &column, &offset)) {
            if (column < COLUMN_COUNT)
                tf += query->weights[column];
        }
        if (tf > 0)
            score += query->idf[p] * tf * (search->k1 + 1.0) / (tf + norm);
    }
    if (rc)
        sqlite3_result_error_code(result, rc);
    else
        sqlite3_result_double(result, score);
}

int store_bm25_register(struct store *store, fts5_api *api)
{
    return api->xCreateFunction(api, "dsa_bm25", store, score_row, NULL);
}

/* --- Lengths --------------------------------------------------------------------------------------------- */

/* FTS5's docsize record: one varint a column, big-endian groups of 7 bits. */
static uint16_t sum_sizes(struct span sizes)
{
    uint64_t total = 0, value = 0;

    for (size_t i = 0; i < sizes.len; i++) {
        unsigned char byte = (unsigned char)sizes.ptr[i];

        value = value << 7 | (byte & 0x7f);
        if (byte & 0x80)
            continue;
        total += value;
        value = 0;
    }
    return total < LENGTH_LONG ? (uint16_t)total : LENGTH_LONG;
}

static enum status read_new_lengths(struct store *store, int64_t next_chunk, struct error *err)
{
    struct row_lengths *lengths = &store->lengths;
    int64_t wanted = next_chunk < LENGTHS_MAX_IDS ? next_chunk : LENGTHS_MAX_IDS;
    struct statement st;
    bool row = true;
    enum status status;

    if (wanted <= lengths->count)
        return STATUS_OK;
    if (wanted > lengths->cap) {
        int64_t cap = wanted + wanted / 4;
        uint16_t *grown = realloc(lengths->words, (size_t)cap * sizeof *grown);

        if (!grown)
            return error_set(err, STATUS_NO_MEMORY, "out of memory");
        lengths->words = grown;
        lengths->cap = cap;
    }
    memset(lengths->words + lengths->count, 0, (size_t)(wanted - lengths->count) * sizeof *lengths->words);
    status = statement_begin(&store->db, "SELECT id, sz FROM chunks_fts_docsize WHERE id >= ? AND id < ?", &st, err);
    if (status)
        return status;
    statement_int(&st, lengths->count);
    statement_int(&st, wanted);
    while (!(status = statement_step(&st, &row, err)) && row)
        lengths->words[column_int(&st, 0)] = sum_sizes(column_span(&st, 1));
    statement_end(&st);
    if (!status)
        lengths->count = wanted;
    return status;
}

enum status store_bm25_refresh(struct store *store, struct error *err)
{
    struct row_lengths *lengths = &store->lengths;
    struct statement st;
    int64_t generation = 0, relabelled = 0, next_chunk = 0;
    bool row = false;
    enum status status = statement_begin(&store->db, "SELECT generation, relabelled, next_chunk FROM state", &st, err);

    if (status)
        return status;
    status = statement_step(&st, &row, err);
    if (!status && row) {
        generation = column_int(&st, 0);
        relabelled = column_int(&st, 1);
        next_chunk = column_int(&st, 2);
    }
    statement_end(&st);
    if (status || (lengths->words && generation == lengths->generation))
        return status;
    if (relabelled != lengths->relabelled || next_chunk < lengths->count)
        lengths->count = 0;
    status = read_new_lengths(store, next_chunk, err);
    if (!status) {
        lengths->generation = generation;
        lengths->relabelled = relabelled;
    }
    return status;
}

void store_bm25_finish(struct store *store)
{
    free(store->lengths.words);
    store->lengths = (struct row_lengths){0};
}
