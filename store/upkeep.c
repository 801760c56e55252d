/* upkeep.c: folding the index together, forgetting for good, checking, backing up. */
#include "store/store_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/schema.h"

enum status store_optimize(struct store *store, struct error *err)
{
    enum status status = store_check_writable(store, err);

    if (!status)
        status = store_flush(store, err);
    if (!status)
        status = db_exec(&store->db, "INSERT INTO chunks_fts(chunks_fts) VALUES('optimize')", err);
    if (!status)
        status =
            db_exec(&store->db, "PRAGMA incremental_vacuum; PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE)", err);
    return status;
}

enum status store_forget(struct store *store, int64_t id, struct error *err)
{
    int64_t busy = 0;
    enum status status = db_exec(&store->db, "PRAGMA secure_delete = ON", err);

    if (!status)
        status = store_document_delete(store, id, err);
    if (!status)
        status = store_flush(store, err);
    /* The old words live on in older segments of the index until all are written anew as one. */
    if (!status)
        status = db_exec(&store->db, "INSERT INTO chunks_fts(chunks_fts) VALUES('optimize');"
                                     "INSERT INTO summaries_fts(summaries_fts) VALUES('optimize');"
                                     "PRAGMA incremental_vacuum", err);
    if (!status)
        status = db_number(&store->db, "PRAGMA wal_checkpoint(TRUNCATE)", &busy, err);
    if (!status && busy)
        status = error_set(err, STATUS_BUSY, "'%s': deleted, but a reader keeps the old text in the WAL", store->dir);
    return status;
}

static enum status check_rows(struct store *store, const char *sql, void (*complain)(void *context, const char *fault),
                              void *context, struct error *err)
{
    struct statement st;
    bool row = true;
    enum status status = statement_begin_own(&store->db, sql, &st, err);

    while (!status && !(status = statement_step(&st, &row, err)) && row)
        complain(context, (const char *)sqlite3_column_text(st.handle, 0));
    statement_end(&st);
    return status;
}

enum status store_check(struct store *store, void (*complain)(void *context, const char *fault), void *context,
                        struct error *err)
{
    static const char *const checks[] = {
        "SELECT integrity_check FROM pragma_integrity_check WHERE integrity_check != 'ok'",
        "SELECT 'chunk ' || id || ' has no document' FROM chunks WHERE document_id NOT IN (SELECT id FROM documents)",
        "SELECT 'page ' || id || ' has no document' FROM pages WHERE document_id NOT IN (SELECT id FROM documents)",
        "SELECT 'chunk ' || id || ' has no spans' FROM chunks WHERE id NOT IN (SELECT chunk_id FROM chunk_spans)",
        "SELECT 'document ' || id || ' has ' || (SELECT count(*) FROM chunks WHERE document_id = d.id) || ' chunks, "
        "not ' "
        "|| chunk_count FROM documents AS d WHERE chunk_count != (SELECT count(*) FROM chunks WHERE id >= "
        "d.first_chunk AND id < d.first_chunk + d.chunk_count AND document_id = d.id)",
        "SELECT 'a span of chunk ' || s.chunk_id || ' is not on its page' FROM chunk_spans AS s JOIN chunks AS c ON "
        "c.id = "
        "s.chunk_id LEFT JOIN pages AS p ON p.document_id = c.document_id AND p.number = s.page WHERE p.id IS NULL OR "
        "s.stop > length(p.text) OR s.start > s.stop"};
    enum status status = STATUS_OK;

    for (size_t i = 0; i < sizeof checks / sizeof checks[0] && !status; i++)
        status = check_rows(store, checks[i], complain, context, err);
    /* The index is checked by an INSERT, which only writers may run. */
    if (!status && store->role != STORE_READ) {
        int rc = sqlite3_exec(store->db.handle, "INSERT INTO chunks_fts(chunks_fts, rank) VALUES('integrity-check', 1)",
                              NULL, NULL, NULL);

        if ((rc & 0xff) == SQLITE_CORRUPT)
            complain(context, "the index does not agree with the text: rebuild it");
        else if (rc)
            status = db_error(&store->db, rc, "cannot be checked", err);
    }
    return status;
}

/* --- Backup ---------------------------------------------------------------------------------------------- */

static enum status back_up_file(const char *dir, const char *to, const struct schema *schema, struct error *err)
{
    struct db db = {0};
    struct statement st;
    char from_path[4096], to_path[4096];
    enum status status;

    if (snprintf(from_path, sizeof from_path, "%s/%s", dir, schema->file) >= (int)sizeof from_path ||
        snprintf(to_path, sizeof to_path, "%s/%s", to, schema->file) >= (int)sizeof to_path)
        return error_set(err, STATUS_LIMIT, "'%.64s…': the path is too long", dir);
    if (access(from_path, F_OK) && errno == ENOENT)
        return STATUS_OK; /* a store without a daemon has no jobs.db yet */
    status = db_open(&db, from_path, SQLITE_OPEN_READWRITE, false, err);
    if (status)
        return status;
    /* VACUUM INTO attaches its target. */
    (void)sqlite3_limit(db.handle, SQLITE_LIMIT_ATTACHED, 1);
    status = schema_check(&db, schema, false, false, err);
    if (!status)
        status = statement_begin_own(&db, "VACUUM INTO ?", &st, err);
    if (!status) {
        statement_text(&st, to_path);
        status = statement_run(&st, err);
    }
    db_close(&db);
    return status;
}

/* VACUUM INTO leaves it to the kernel when its file reaches the disk. */
static enum status sync_directory(const char *path, struct error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool good = fd >= 0 && syncfs(fd) == 0;

    if (fd >= 0)
        (void)close(fd);
    return good ? STATUS_OK : error_set(err, STATUS_IO, "'%s' cannot be synced: %s", path, strerror(errno));
}

enum status store_backup(const char *dir, const char *to, struct error *err)
{
    char path[4096];
    enum status status;

    if (mkdir(to, 0750) && (errno != EEXIST || rmdir(to) || mkdir(to, 0750))) /* rmdir takes an empty one only */
        return error_set(err, errno == EEXIST || errno == ENOTEMPTY ? STATUS_BAD_INPUT : STATUS_IO, "'%s': %s", to,
                         strerror(errno));
    if (snprintf(path, sizeof path, "%s/kv", to) >= (int)sizeof path || mkdir(path, 0750))
        return error_set(err, STATUS_IO, "'%s/kv' cannot be created: %s", to, strerror(errno));
    /* Jobs before streams: what a job says is streamed is in the later copy. */
    status = back_up_file(dir, to, &schema_jobs, err);
    if (!status)
        status = back_up_file(dir, to, &schema_streams, err);
    if (!status)
        status = back_up_file(dir, to, &schema_corpus, err);
    return status ? status : sync_directory(to, err);
}
