/* store/store_internal.h: what store/'s own files share. */
#ifndef STORE_STORE_INTERNAL_H
#define STORE_STORE_INTERNAL_H

#include <sqlite3.h>

#include "base/arena.h"
#include "store/db.h"
#include "store/store.h"

/* Memory behind borrowed strings and spans: a page of 4 MiB text, its rectangles and aside, with room. */
#define STORE_SCRATCH_BYTES ((size_t)256 << 20)

struct term_cache; /* fts.c: rows by term, for one generation */
struct searching;  /* search.h */

struct row_lengths {  /* bm25.c: words of each chunk, title and heading included, by id */
    uint16_t *words;
    int64_t count, cap; /* ids below `count` are known */
    int64_t generation, relabelled; /* of the state they were read in */
};

struct store {
    struct db db;
    enum store_role role;
    char *dir;
    int ingest_lock;          /* file descriptor, -1 without */
    struct arena scratch;     /* what is handed out as borrowed; emptied by the next borrowing call */
    struct store_writer *writer; /* the open document, or NULL */
    bool in_group;            /* a group transaction is open */
    int group_ms;             /* 0: each document commits by itself */
    int64_t group_since_ns;   /* when the open group began */
    int snapshots;            /* depth of store_snapshot_begin() */
    Fts5Tokenizer *tokenizer; /* the index's own, to fold words as it does */
    fts5_tokenizer tokenizer_calls;
    struct term_cache *terms;
    struct row_lengths lengths;
    struct searching *searching; /* while store_search() runs */
};

/* fts.c */
enum status store_fts_open(struct store *store, struct error *err) MUST_CHECK;
void store_fts_close(struct store *store);
void store_fts_forget(struct store *store); /* what is remembered about the index */

/* bm25.c */
int store_bm25_register(struct store *store, fts5_api *api); /* an SQLite result code */
enum status store_bm25_refresh(struct store *store, struct error *err) MUST_CHECK;
void store_bm25_finish(struct store *store);

/* store.c: transactions of the writer and of short changes; nested in a group they are savepoints. */
enum status store_change_begin(struct store *store, struct error *err) MUST_CHECK;
enum status store_change_commit(struct store *store, struct error *err) MUST_CHECK;
void store_change_rollback(struct store *store);
enum status store_check_writable(const struct store *store, struct error *err) MUST_CHECK;

/* documents.c */
#define STORE_DOCUMENT_COLUMNS \
    "id, collection, path, member, media_type, sha256, title, author, language, created, modified, error, " \
    "extractor, status, size_bytes, page_count, mtime_ms, ingested_ms, duplicate_of, chunk_count, problem_count"
enum { STORE_DOCUMENT_COLUMN_COUNT = 21 };
/* Strings are the statement's own; good until its next step. */
void store_document_borrow(const struct statement *statement, struct store_document *document);

/* delete.c: inside a transaction. The first document that was the same bytes takes over pages and chunks. */
enum status store_delete_rows(struct store *store, int64_t id, struct error *err) MUST_CHECK;

#endif
