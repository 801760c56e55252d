/* schema.c: corpus.db's tables. A step is never edited once it was released: a change is a new step. */
#include "store/schema.h"

#include <assert.h>
#include <stdio.h>

/* Version 1. A chunk stores where its text stands, not the text: the view chunk_text cuts it out of the pages,
 * so that the index can be checked, rebuilt and deleted from with the text stored once. (FTS5 reads the view with
 * virtual tables forbidden, which rules out a list in JSON.) Chunk ids of one document are consecutive, so that
 * documents needs only the first; ids are never used twice. */
static const char step_1[] =
    "CREATE TABLE state(id INTEGER PRIMARY KEY CHECK(id = 1), generation INTEGER NOT NULL,\n"
    "  next_chunk INTEGER NOT NULL);\n"
    "INSERT INTO state VALUES(1, 0, 1);\n"
    "CREATE TABLE documents(id INTEGER PRIMARY KEY AUTOINCREMENT, collection TEXT NOT NULL, path TEXT NOT NULL,\n"
    "  member TEXT NOT NULL, media_type TEXT NOT NULL, sha256 TEXT NOT NULL, title TEXT NOT NULL,\n"
    "  author TEXT NOT NULL, language TEXT NOT NULL, created TEXT NOT NULL, modified TEXT NOT NULL,\n"
    "  error TEXT NOT NULL, extractor TEXT NOT NULL, status INTEGER NOT NULL, size_bytes INTEGER NOT NULL,\n"
    "  page_count INTEGER NOT NULL, mtime_ms INTEGER NOT NULL, ingested_ms INTEGER NOT NULL,\n"
    "  duplicate_of INTEGER NOT NULL, text_bytes INTEGER NOT NULL, problem_count INTEGER NOT NULL,\n"
    "  first_chunk INTEGER NOT NULL, chunk_count INTEGER NOT NULL);\n"
    "CREATE UNIQUE INDEX documents_source ON documents(collection, path, member);\n"
    "CREATE INDEX documents_bytes ON documents(sha256);\n"
    "CREATE INDEX documents_duplicates ON documents(duplicate_of) WHERE duplicate_of != 0;\n"
    "CREATE TABLE pages(id INTEGER PRIMARY KEY, document_id INTEGER NOT NULL, number INTEGER NOT NULL,\n"
    "  label TEXT NOT NULL, width REAL NOT NULL, height REAL NOT NULL, text BLOB NOT NULL, rects BLOB NOT NULL,\n"
    "  aside BLOB NOT NULL);\n"
    "CREATE UNIQUE INDEX pages_number ON pages(document_id, number);\n"
    "CREATE TABLE chunks(id INTEGER PRIMARY KEY, document_id INTEGER NOT NULL, ordinal INTEGER NOT NULL,\n"
    "  heading TEXT NOT NULL, token_estimate INTEGER NOT NULL, hash INTEGER NOT NULL, simhash INTEGER NOT NULL);\n"
    "CREATE TABLE chunk_spans(chunk_id INTEGER NOT NULL, ordinal INTEGER NOT NULL, page INTEGER NOT NULL,\n"
    "  start INTEGER NOT NULL, stop INTEGER NOT NULL, PRIMARY KEY(chunk_id, ordinal)) WITHOUT ROWID;\n"
    "CREATE TABLE problems(id INTEGER PRIMARY KEY, document_id INTEGER NOT NULL, page INTEGER NOT NULL,\n"
    "  code TEXT NOT NULL, message TEXT NOT NULL);\n"
    "CREATE INDEX problems_document ON problems(document_id);\n"
    "CREATE VIEW chunk_text AS SELECT c.id AS id, d.title AS title, c.heading AS heading,\n"
    "  (SELECT group_concat(part, char(10)) FROM (SELECT CAST(substr(p.text, 1 + s.start, s.stop - s.start) AS TEXT)\n"
    "    AS part FROM chunk_spans AS s JOIN pages AS p ON p.document_id = c.document_id AND p.number = s.page\n"
    "    WHERE s.chunk_id = c.id ORDER BY s.ordinal)) AS body\n"
    "  FROM chunks AS c JOIN documents AS d ON d.id = c.document_id;\n"
    "CREATE VIRTUAL TABLE chunks_fts USING fts5(title, heading, body, content = 'chunk_text', content_rowid = 'id',\n"
    "  detail = full, tokenize = 'porter unicode61 remove_diacritics 2');\n"
    "CREATE TRIGGER chunks_unindex BEFORE DELETE ON chunks BEGIN\n"
    "  INSERT INTO chunks_fts(chunks_fts, rowid, title, heading, body)\n"
    "    SELECT 'delete', id, title, heading, body FROM chunk_text WHERE id = old.id;\n"
    "END;\n";

/* Version 2: summaries, searchable by themselves and never retrieved as evidence. */
static const char step_2[] =
    "CREATE TABLE summaries(id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE,\n"
    "  document_id INTEGER NOT NULL, collection TEXT NOT NULL, title TEXT NOT NULL, body TEXT NOT NULL,\n"
    "  details TEXT NOT NULL, model TEXT NOT NULL, created_ms INTEGER NOT NULL);\n"
    "CREATE INDEX summaries_document ON summaries(document_id);\n"
    "CREATE VIRTUAL TABLE summaries_fts USING fts5(title, body, content = 'summaries', content_rowid = 'id',\n"
    "  detail = full, tokenize = 'porter unicode61 remove_diacritics 2');\n"
    "CREATE TRIGGER summaries_index AFTER INSERT ON summaries BEGIN\n"
    "  INSERT INTO summaries_fts(rowid, title, body) VALUES(new.id, new.title, new.body);\n"
    "END;\n"
    "CREATE TRIGGER summaries_unindex AFTER DELETE ON summaries BEGIN\n"
    "  INSERT INTO summaries_fts(summaries_fts, rowid, title, body) VALUES('delete', old.id, old.title, old.body);\n"
    "END;\n";

static const char *const steps[SCHEMA_VERSION] = {step_1, step_2};

enum status schema_upgrade_to(struct db *db, int from_version, int to_version, struct error *err)
{
    char stamp[96];
    enum status status;

    assert(from_version >= 0 && from_version <= to_version && to_version <= SCHEMA_VERSION);
    status = db_exec(db, "BEGIN IMMEDIATE", err);
    if (status)
        return status;
    for (int i = from_version; i < to_version && !status; i++)
        status = db_exec(db, steps[i], err);
    (void)snprintf(stamp, sizeof stamp, "PRAGMA application_id = %d; PRAGMA user_version = %d; COMMIT",
                   SCHEMA_APPLICATION_ID, to_version);
    if (!status)
        status = db_exec(db, stamp, err);
    if (status)
        db_try(db, "ROLLBACK");
    return status;
}

enum status schema_upgrade(struct db *db, int from_version, struct error *err)
{
    return schema_upgrade_to(db, from_version, SCHEMA_VERSION, err);
}
