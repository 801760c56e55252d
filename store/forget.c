/* forget.c: what jobs, streams and saved caches hold of a document, removed so that it is gone from the files. */
#include "store/jobs_internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A job has seen the document when a message of its stream or its result cites it, when its pack names the path (a
 * length of 8 bytes, then the path: the daemon's packed.c), or when it was asked about that document. */
static const char find_streams[] =
    "SELECT DISTINCT job_id FROM messages WHERE job_id > ?2 AND CASE WHEN json_valid(CAST(header AS TEXT)) "
    "THEN json_extract(CAST(header AS TEXT), '$.document') = ?1 ELSE 0 END ORDER BY job_id LIMIT 1";
static const char find_jobs[] =
    "SELECT j.id FROM jobs AS j LEFT JOIN packs AS p ON p.job_id = j.id WHERE j.id > ?2 AND (instr(p.pack, ?3) "
    "OR (json_valid(CAST(j.result AS TEXT)) AND EXISTS(SELECT 1 FROM json_each(CAST(j.result AS TEXT), '$.citations') "
    "WHERE json_extract(value, '$.document') = ?1)) "
    "OR (json_valid(CAST(j.request AS TEXT)) AND EXISTS(SELECT 1 FROM json_each(CAST(j.request AS TEXT), "
    "'$.documents') WHERE value = ?1))) ORDER BY j.id LIMIT 1";

struct forgetting {
    struct jobs *jobs;
    int64_t document;
    struct span pattern;
    int64_t removed;
};

static enum status run_with_id(struct db *db, const char *sql, int64_t id, struct error *err)
{
    struct statement st;
    enum status status = statement_begin(db, sql, &st, err);

    if (status)
        return status;
    statement_int(&st, id);
    return statement_run(&st, err);
}

/* One that ended is removed with all it said; one that has not begins anew. */
static enum status forget_job(struct jobs *jobs, int64_t id, struct error *err)
{
    enum status status = run_with_id(&jobs->streams, "DELETE FROM messages WHERE job_id = ?", id, err);

    if (!status)
        status = run_with_id(&jobs->db, "DELETE FROM packs WHERE job_id = ?", id, err);
    if (!status)
        status = run_with_id(&jobs->db, "DELETE FROM jobs WHERE id = ? AND state >= 2", id, err);
    if (!status)
        status = run_with_id(&jobs->db, "UPDATE jobs SET result = x'', progress = 0 WHERE id = ?", id, err);
    return status;
}

/* One at a time: the list changes under a cursor. */
static enum status forget_found(struct forgetting *f, struct db *db, const char *sql, struct error *err)
{
    int64_t id = 0;

    for (;;) {
        struct statement st;
        bool row = false;
        enum status status = statement_begin(db, sql, &st, err);

        if (status)
            return status;
        statement_int(&st, f->document);
        statement_int(&st, id);
        if (sql == find_jobs)
            statement_blob(&st, f->pattern);
        status = statement_step(&st, &row, err);
        id = !status && row ? column_int(&st, 0) : 0;
        statement_end(&st);
        if (status || !row)
            return status;
        status = forget_job(f->jobs, id, err);
        if (status)
            return status;
        f->removed++;
    }
}

/* Written anew, so that nothing is left on free pages, and the WAL is emptied. */
static enum status rewrite(struct db *db, struct error *err)
{
    int64_t busy = 0;
    enum status status;

    (void)sqlite3_limit(db->handle, SQLITE_LIMIT_ATTACHED, 1); /* VACUUM attaches its new file */
    status = db_exec(db, "VACUUM", err);
    if (!status)
        status = db_number(db, "PRAGMA wal_checkpoint(TRUNCATE)", &busy, err);
    if (!status && busy)
        status = error_set(err, STATUS_BUSY, "'%s': removed, but a reader keeps the old text in the WAL", db->path);
    return status;
}

enum status jobs_forget(struct jobs *jobs, int64_t document_id, const char *path, int64_t *removed, struct error *err)
{
    char pattern[8 + 4096];
    size_t len = strlen(path);
    struct forgetting f = {.jobs = jobs, .document = document_id};
    enum status status;

    if (len > sizeof pattern - 8)
        return error_set(err, STATUS_LIMIT, "'%.64s…': the path is too long", path);
    for (int i = 0; i < 8; i++)
        pattern[i] = (char)((uint64_t)len >> 8 * i);
    memcpy(pattern + 8, path, len);
    f.pattern = span_of(pattern, 8 + len);
    status = jobs_begin(jobs, err);
    if (status)
        return status;
    status = forget_found(&f, &jobs->streams, find_streams, err);
    if (!status)
        status = forget_found(&f, &jobs->db, find_jobs, err);
    /* What an ended job was packed from serves nobody any more. */
    if (!status)
        status = db_exec(&jobs->db, "DELETE FROM packs WHERE job_id IN (SELECT id FROM jobs WHERE state >= 2)", err);
    if (status) {
        jobs_rollback(jobs);
        return status;
    }
    status = jobs_commit(jobs, err);
    if (!status)
        status = rewrite(&jobs->streams, err);
    if (!status)
        status = rewrite(&jobs->db, err);
    if (!status)
        *removed = f.removed;
    return status;
}

enum status jobs_clear_caches(const char *store_dir, int64_t *removed, struct error *err)
{
    char path[4096];
    struct dirent *item;
    int64_t count = 0;
    enum status status = STATUS_OK;
    DIR *dir;

    if (snprintf(path, sizeof path, "%s/kv", store_dir) >= (int)sizeof path)
        return error_set(err, STATUS_LIMIT, "'%.64s…': the path is too long", store_dir);
    dir = opendir(path);
    if (!dir && errno != ENOENT)
        return error_set(err, STATUS_IO, "'%s': %s", path, strerror(errno));
    while (dir && !status && (item = readdir(dir))) {
        if (!strstr(item->d_name, ".kv"))
            continue;
        if (unlinkat(dirfd(dir), item->d_name, 0))
            status = error_set(err, STATUS_IO, "'%s/%s': %s", path, item->d_name, strerror(errno));
        else
            count++;
    }
    if (dir)
        (void)closedir(dir);
    if (!status)
        *removed = count;
    return status;
}
