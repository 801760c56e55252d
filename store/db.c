/* db.c: connections, kept statements, and SQLite's result codes in our words. */
#include "store/db.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum status db_status(int rc)
{
    switch (rc & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE: return STATUS_OK;
    case SQLITE_BUSY:
    case SQLITE_LOCKED: return STATUS_BUSY;
    case SQLITE_NOMEM: return STATUS_NO_MEMORY;
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_AUTH: return STATUS_DENIED;
    case SQLITE_INTERRUPT:
    case SQLITE_ABORT: return STATUS_CANCELLED;
    case SQLITE_IOERR:
    case SQLITE_FULL:
    case SQLITE_CANTOPEN:
    case SQLITE_PROTOCOL: return STATUS_IO;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB: return STATUS_CORRUPT;
    case SQLITE_TOOBIG: return STATUS_LIMIT;
    }
    return STATUS_BUG;
}

/* A write to the shared index of a WAL that finds no space is SQLITE_IOERR, not SQLITE_FULL; a file that finds none to
 * be made in is SQLITE_CANTOPEN. */
static bool is_full(const struct db *db, int rc)
{
    bool failed = (rc & 0xff) == SQLITE_IOERR || (rc & 0xff) == SQLITE_CANTOPEN;
    int cause = failed && db->handle ? sqlite3_system_errno(db->handle) : 0;

    return (rc & 0xff) == SQLITE_FULL || cause == ENOSPC || cause == EDQUOT;
}

enum status db_error(struct db *db, int rc, const char *what, struct error *err)
{
    enum status status = db_status(rc);
    const char *path = db->path ? db->path : "store";

    if (is_full(db, rc))
        return error_set(err, STATUS_NO_SPACE, "'%s': %s: the disk is full", path, what);
    switch (rc & 0xff) {
    case SQLITE_READONLY: return error_set(err, status, "'%s': %s: it is read-only", path, what);
    case SQLITE_BUSY: return error_set(err, status, "'%s': %s: locked by another process", path, what);
    case SQLITE_NOTADB: return error_set(err, status, "'%s': %s: not an SQLite database, or damaged", path, what);
    case SQLITE_CORRUPT: return error_set(err, status, "'%s': %s: the file is damaged", path, what);
    }
    return error_set(err, status, "'%s': %s: %s", path, what,
                     db->handle ? sqlite3_errmsg(db->handle) : sqlite3_errstr(rc));
}

/* SQLite's URI form of a path: only these bytes are special in it. */
static char *immutable_uri(const char *path)
{
    static const char hex[] = "0123456789ABCDEF";
    size_t len = strlen(path), used;
    char *uri = malloc(len * 3 + sizeof "file:?immutable=1");

    if (!uri)
        return NULL;
    used = (size_t)sprintf(uri, "file:");
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)path[i];

        if (c == '%' || c == '?' || c == '#') {
            uri[used++] = '%';
            uri[used++] = hex[c >> 4];
            uri[used++] = hex[c & 15];
        } else {
            uri[used++] = (char)c;
        }
    }
    (void)strcpy(uri + used, "?immutable=1");
    return uri;
}

enum status db_open(struct db *db, const char *path, int flags, bool immutable, struct error *err)
{
    char *uri = NULL;
    int rc;

    *db = (struct db){0};
    db->path = strdup(path);
    if (immutable) {
        uri = immutable_uri(path);
        flags |= SQLITE_OPEN_URI;
    }
    if (!db->path || (immutable && !uri)) {
        free(uri);
        db_close(db);
        return error_set(err, STATUS_NO_MEMORY, "out of memory");
    }
    rc = sqlite3_open_v2(uri ? uri : path, &db->handle, flags | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, NULL);
    free(uri);
    if (rc) {
        enum status status = db_error(db, rc, "cannot be opened", err);

        db_close(db);
        return status;
    }
    (void)sqlite3_busy_timeout(db->handle, DB_BUSY_MS);
    /* SQL cannot write the index's shadow tables. The schema stays trusted: in SQLite 3.40 FTS5 may not stand in the
     * triggers of an untrusted one. */
    (void)sqlite3_db_config(db->handle, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)sqlite3_limit(db->handle, SQLITE_LIMIT_ATTACHED, 0);
    return STATUS_OK;
}

void db_close(struct db *db)
{
    for (int i = 0; i < db->cached_count; i++)
        (void)sqlite3_finalize(db->cached[i].handle);
    if (db->handle)
        (void)sqlite3_close_v2(db->handle);
    free(db->path);
    *db = (struct db){0};
}

enum status db_exec(struct db *db, const char *sql, struct error *err)
{
    int rc = sqlite3_exec(db->handle, sql, NULL, NULL, NULL);

    return rc ? db_error(db, rc, "cannot be changed", err) : STATUS_OK;
}

void db_try(struct db *db, const char *sql)
{
    (void)sqlite3_exec(db->handle, sql, NULL, NULL, NULL);
}

enum status db_number(struct db *db, const char *sql, int64_t *value, struct error *err)
{
    struct statement statement;
    bool row;
    enum status status = statement_begin_own(db, sql, &statement, err);

    if (status)
        return status;
    status = statement_step(&statement, &row, err);
    if (!status)
        *value = row ? column_int(&statement, 0) : 0;
    statement_end(&statement);
    return status;
}

static enum status prepare(struct db *db, const char *sql, unsigned flags, sqlite3_stmt **handle, struct error *err)
{
    int rc = sqlite3_prepare_v3(db->handle, sql, -1, flags, handle, NULL);

    return rc ? db_error(db, rc, "cannot be read", err) : STATUS_OK;
}

enum status statement_begin_own(struct db *db, const char *sql, struct statement *statement, struct error *err)
{
    *statement = (struct statement){.db = db, .slot = -1};
    return prepare(db, sql, 0, &statement->handle, err);
}

enum status statement_begin(struct db *db, const char *sql, struct statement *statement, struct error *err)
{
    enum status status;
    int slot = 0;

    while (slot < db->cached_count && db->cached[slot].sql != sql)
        slot++;
    /* In use further up the stack, or no room to keep it: one of its own. */
    if (slot == DB_CACHED_STATEMENTS || (slot < db->cached_count && db->cached[slot].taken))
        return statement_begin_own(db, sql, statement, err);
    *statement = (struct statement){.db = db, .slot = slot};
    if (slot == db->cached_count) {
        status = prepare(db, sql, SQLITE_PREPARE_PERSISTENT, &db->cached[slot].handle, err);
        if (status)
            return status;
        db->cached[slot].sql = sql;
        db->cached_count++;
    }
    db->cached[slot].taken = true;
    statement->handle = db->cached[slot].handle;
    return STATUS_OK;
}

static void note_bind(struct statement *statement, int rc)
{
    if (rc && !statement->rc)
        statement->rc = rc;
}

void statement_int(struct statement *statement, int64_t value)
{
    note_bind(statement, sqlite3_bind_int64(statement->handle, ++statement->bound, value));
}

void statement_real(struct statement *statement, double value)
{
    note_bind(statement, sqlite3_bind_double(statement->handle, ++statement->bound, value));
}

void statement_text(struct statement *statement, const char *value)
{
    note_bind(statement, sqlite3_bind_text(statement->handle, ++statement->bound, value ? value : "", -1,
                                           SQLITE_STATIC));
}

void statement_blob(struct statement *statement, struct span value)
{
    note_bind(statement, sqlite3_bind_blob64(statement->handle, ++statement->bound, value.ptr ? value.ptr : "",
                                             value.len, SQLITE_STATIC));
}

enum status statement_step(struct statement *statement, bool *row, struct error *err)
{
    int rc = statement->rc ? statement->rc : sqlite3_step(statement->handle);

    if (rc != SQLITE_ROW && rc != SQLITE_DONE)
        return db_error(statement->db, rc, sqlite3_stmt_readonly(statement->handle) ? "cannot be read"
                                                                                    : "cannot be changed", err);
    *row = rc == SQLITE_ROW;
    return STATUS_OK;
}

enum status statement_run(struct statement *statement, struct error *err)
{
    enum status status;
    bool row = true;

    do {
        status = statement_step(statement, &row, err);
    } while (!status && row);
    statement_end(statement);
    return status;
}

void statement_end(struct statement *statement)
{
    if (!statement->handle)
        return;
    if (statement->slot < 0) {
        (void)sqlite3_finalize(statement->handle);
    } else {
        (void)sqlite3_reset(statement->handle);
        (void)sqlite3_clear_bindings(statement->handle);
        statement->db->cached[statement->slot].taken = false;
    }
    statement->handle = NULL;
}
