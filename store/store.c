/* store.c: opening and closing a store, its transactions, and its generation.
 *
 * A writer's document is a savepoint inside a transaction: one transaction a document, or one for all documents
 * of a group (store_group_commits). A snapshot is one read transaction over several calls. */
#include "store/store_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/lock.h"
#include "store/schema.h"

static char *path_join(const char *dir, const char *name)
{
    size_t bytes = strlen(dir) + strlen(name) + 2;
    char *path = malloc(bytes);

    if (path)
        (void)snprintf(path, bytes, "%s/%s", dir, name);
    return path;
}

static enum status refuse(const char *path, int cause, struct error *err)
{
    bool denied = cause == EACCES || cause == EROFS || cause == EPERM;

    return error_set(err, denied ? STATUS_DENIED : STATUS_IO, "'%s' cannot be created: %s", path, strerror(cause));
}

/* Makes the directory (not its parents) and kv/. */
static enum status make_dirs(const char *dir, struct error *err)
{
    char *kv = path_join(dir, "kv");
    enum status status = STATUS_OK;

    if (!kv)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    if (mkdir(dir, 0750) && errno != EEXIST)
        status = refuse(dir, errno, err);
    else if (mkdir(kv, 0750) && errno != EEXIST)
        status = refuse(kv, errno, err);
    free(kv);
    return status;
}

/* Nothing to open: is the directory missing, or is it no store? */
static enum status check_there(const char *dir, const char *path, struct error *err)
{
    struct stat info;

    if (stat(dir, &info))
        return error_set(err, errno == EACCES ? STATUS_DENIED : STATUS_NOT_FOUND, "'%s': %s", dir, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return error_set(err, STATUS_BAD_INPUT, "'%s' is not a store: not a directory", dir);
    if (stat(path, &info))
        return error_set(err, errno == EACCES ? STATUS_DENIED : STATUS_NOT_FOUND,
                         errno == ENOENT ? "'%s' is not a store: it has no corpus.db" : "'%s': cannot be read", dir);
    if (!S_ISREG(info.st_mode))
        return error_set(err, STATUS_BAD_INPUT, "'%s' is not a store: corpus.db is not a file", dir);
    return STATUS_OK;
}

static bool file_is_empty_or_missing(const char *path, const char *suffix)
{
    size_t bytes = strlen(path) + strlen(suffix) + 1;
    char *name = malloc(bytes);
    struct stat info;
    bool result;

    if (!name)
        return false;
    (void)snprintf(name, bytes, "%s%s", path, suffix);
    result = stat(name, &info) || info.st_size == 0;
    free(name);
    return result;
}

static enum status open_corpus(struct store *store, const char *path, bool create, struct error *err)
{
    bool reading = store->role == STORE_READ;
    int flags = reading ? SQLITE_OPEN_READONLY : SQLITE_OPEN_READWRITE | (create ? SQLITE_OPEN_CREATE : 0);
    int64_t pages = 0;
    enum status status = db_open(&store->db, path, flags, false, err);

    if (!status)
        status = db_number(&store->db, "PRAGMA schema_version", &pages, err);
    /* WAL needs a writable directory even to read. Where there is none and nothing waits in a WAL, the file cannot
     * change under us either. */
    if ((status == STATUS_IO || status == STATUS_DENIED) && reading && access(store->dir, W_OK) &&
        access(path, R_OK) == 0 && file_is_empty_or_missing(path, "-wal")) {
        db_close(&store->db);
        status = db_open(&store->db, path, flags, true, err);
        if (!status)
            status = db_number(&store->db, "PRAGMA schema_version", &pages, err);
    }
    return status;
}

static enum status set_up(struct store *store, bool create, struct error *err)
{
    struct db *db = &store->db;
    enum status status;

    if (store->role != STORE_READ) {
        /* Page size and vacuum mode first: they are fixed with the first page. 16 KiB wastes less of a page of text
         * than 4 KiB; store_optimize() gives back what folding the index together leaves free. */
        status = db_exec(db,
                         "PRAGMA page_size = 16384; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; "
                         "PRAGMA synchronous = NORMAL;"
                         "PRAGMA wal_autocheckpoint = 1000; PRAGMA journal_size_limit = 67108864",
                         err);
        if (status)
            return status;
    }
    status = db_exec(db, "PRAGMA cache_size = -65536; PRAGMA temp_store = MEMORY", err);
    if (!status)
        status = schema_check_length(db, err);
    if (!status)
        status = schema_check(db, &schema_corpus, create, store->role != STORE_READ, err);
    if (!status)
        status = store_fts_open(store, err);
    return status;
}

enum status store_open(const char *dir, enum store_role role, bool create, struct store **store, struct error *err)
{
    struct store *opened = calloc(1, sizeof *opened);
    char *path = NULL;
    enum status status;

    if (!opened)
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    opened->role = role;
    opened->ingest_lock = -1;
    arena_init(&opened->scratch, STORE_SCRATCH_BYTES);
    opened->dir = strdup(dir);
    path = path_join(dir, "corpus.db");
    if (!opened->dir || !path) {
        status = error_set(err, STATUS_NO_MEMORY, "out of memory");
        goto out;
    }
    status = create && role != STORE_READ ? make_dirs(dir, err) : check_there(dir, path, err);
    if (!status && role == STORE_INGEST)
        status = lock_take(dir, LOCK_INGEST, &opened->ingest_lock, err);
    if (!status)
        status = open_corpus(opened, path, create, err);
    if (!status && role != STORE_READ && sqlite3_db_readonly(opened->db.handle, "main") == 1)
        status = error_set(err, STATUS_DENIED, "'%s' is read-only", dir);
    if (!status)
        status = set_up(opened, create, err);
    if (!status) {
        *store = opened;
        opened = NULL;
    }
out:
    free(path);
    store_close(opened);
    return status;
}

/* Replaced documents and merged index segments leave pages free; a twentieth of the file may stay so for later use. */
static void give_back_free_pages(struct store *store)
{
    int64_t free_pages = 0, pages = 0;

    if (!db_number(&store->db, "PRAGMA freelist_count", &free_pages, NULL) &&
        !db_number(&store->db, "PRAGMA page_count", &pages, NULL) && free_pages * 20 > pages)
        db_try(&store->db, "PRAGMA incremental_vacuum");
}

void store_close(struct store *store)
{
    if (!store)
        return;
    store_document_rollback(store->writer);
    if (store->in_group)
        (void)!store_flush(store, NULL);
    if (store->role == STORE_INGEST && store->db.handle)
        give_back_free_pages(store);
    store_fts_close(store);
    db_close(&store->db);
    if (store->ingest_lock >= 0)
        (void)close(store->ingest_lock);
    arena_finish(&store->scratch);
    free(store->dir);
    free(store);
}

const char *store_dir(const struct store *store)
{
    return store->dir;
}

int64_t store_generation(struct store *store)
{
    int64_t generation = 0;

    return db_number(&store->db, "SELECT generation FROM state", &generation, NULL) ? 0 : generation;
}

enum status store_check_writable(const struct store *store, struct error *err)
{
    if (store->role == STORE_READ)
        return error_set(err, STATUS_BUG, "'%s' was opened for reading", store->dir);
    if (store->snapshots)
        return error_set(err, STATUS_BUG, "'%s': a snapshot is open", store->dir);
    return STATUS_OK;
}

/* --- Transactions ---------------------------------------------------------------------------------------- */

enum status store_change_begin(struct store *store, struct error *err)
{
    enum status status = store_check_writable(store, err);

    if (status)
        return status;
    if (store->in_group && sqlite3_get_autocommit(store->db.handle))
        store->in_group = false; /* an earlier failure rolled the group back */
    if (!store->in_group) {
        status = db_exec(&store->db, "BEGIN IMMEDIATE", err);
        if (status)
            return status;
        store->in_group = true;
        store->group_since_ns = clock_monotonic_ns();
    }
    status = db_exec(&store->db, "SAVEPOINT change", err);
    if (status && store->group_ms == 0) {
        db_try(&store->db, "ROLLBACK");
        store->in_group = false;
    }
    return status;
}

enum status store_change_commit(struct store *store, struct error *err)
{
    enum status status = db_exec(&store->db, "UPDATE state SET generation = generation + 1; RELEASE change", err);

    if (status) {
        store_change_rollback(store);
        return status;
    }
    if (clock_monotonic_ns() - store->group_since_ns >= (int64_t)store->group_ms * 1000000)
        status = store_flush(store, err);
    return status;
}

void store_change_rollback(struct store *store)
{
    if (!store->in_group)
        return;
    if (!sqlite3_get_autocommit(store->db.handle)) {
        if (store->group_ms == 0 || db_exec(&store->db, "ROLLBACK TO change; RELEASE change", NULL) != STATUS_OK)
            db_try(&store->db, "ROLLBACK");
    }
    if (sqlite3_get_autocommit(store->db.handle))
        store->in_group = false;
    store_fts_forget(store); /* ids and generations of what was rolled back are given out again */
}

enum status store_flush(struct store *store, struct error *err)
{
    enum status status;

    if (store->writer)
        return error_set(err, STATUS_BUG, "'%s': a document is open", store->dir);
    if (!store->in_group)
        return STATUS_OK;
    status = db_exec(&store->db, "COMMIT", err);
    if (status && !sqlite3_get_autocommit(store->db.handle))
        db_try(&store->db, "ROLLBACK");
    store->in_group = false;
    return status;
}

enum status store_group_commits(struct store *store, int ms, struct error *err)
{
    store->group_ms = ms > 0 ? ms : 0;
    return store->group_ms ? STATUS_OK : store_flush(store, err);
}

enum status store_snapshot_begin(struct store *store, struct error *err)
{
    enum status status = STATUS_OK;

    if (store->snapshots == 0 && !store->in_group)
        status = db_exec(&store->db, "BEGIN", err);
    if (!status)
        store->snapshots++;
    return status;
}

void store_snapshot_end(struct store *store)
{
    if (store->snapshots > 0 && --store->snapshots == 0 && !store->in_group)
        db_try(&store->db, "COMMIT");
}
