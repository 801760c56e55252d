/* store/db.h: SQLite as the store uses it: opening, statements, errors. Internal to store/.
 *
 * A statement is prepared once a connection and kept; `statement_begin` hands it out reset, and
 * `statement_end` resets it, so that no read transaction outlives the call that needed it. Lists that call
 * back into the store use `statement_begin_own`, which is never shared. Values are bound in order and borrowed
 * until statement_end(). */
#ifndef STORE_DB_H
#define STORE_DB_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/span.h"
#include "base/status.h"

enum { DB_CACHED_STATEMENTS = 96, DB_BUSY_MS = 10000 };

struct db {
    sqlite3 *handle;
    char *path; /* for messages; owned */
    struct {
        const char *sql; /* compared by address: pass string literals */
        sqlite3_stmt *handle;
        bool taken;
    } cached[DB_CACHED_STATEMENTS];
    int cached_count;
};

struct statement {
    struct db *db;
    sqlite3_stmt *handle;
    int slot;  /* in the cache; -1: own */
    int bound; /* values bound so far */
    int rc;    /* first bind error */
};

/* `flags` are SQLITE_OPEN_…; `immutable` is for a store on a read-only file system. */
enum status db_open(struct db *db, const char *path, int flags, bool immutable, struct error *err) MUST_CHECK;
void db_close(struct db *db); /* zeroed and half-open allowed */

/* The status that an SQLite result code stands for. */
enum status db_status(int rc);
/* Fills `err` from the connection's last error: "'path': what: message". */
enum status db_error(struct db *db, int rc, const char *what, struct error *err);

enum status db_exec(struct db *db, const char *sql, struct error *err) MUST_CHECK;
/* For undoing after a failure, where a second one changes nothing. */
void db_try(struct db *db, const char *sql);
/* The first column of the first row as a number; 0 when there is no row. */
enum status db_number(struct db *db, const char *sql, int64_t *value, struct error *err) MUST_CHECK;

enum status statement_begin(struct db *db, const char *sql, struct statement *statement, struct error *err) MUST_CHECK;
enum status statement_begin_own(struct db *db, const char *sql, struct statement *statement, struct error *err)
    MUST_CHECK;
void statement_int(struct statement *statement, int64_t value);
void statement_real(struct statement *statement, double value);
void statement_text(struct statement *statement, const char *value); /* NULL is stored as "" */
void statement_blob(struct statement *statement, struct span value);
/* *row is false at the end. */
enum status statement_step(struct statement *statement, bool *row, struct error *err) MUST_CHECK;
/* Steps to the end and ends the statement, also on failure. */
enum status statement_run(struct statement *statement, struct error *err) MUST_CHECK;
void statement_end(struct statement *statement); /* zeroed allowed */

static inline int64_t column_int(const struct statement *statement, int column)
{
    return sqlite3_column_int64(statement->handle, column);
}

static inline double column_real(const struct statement *statement, int column)
{
    return sqlite3_column_double(statement->handle, column);
}

/* Borrowed until the next step. */
static inline struct span column_span(const struct statement *statement, int column)
{
    const char *bytes = sqlite3_column_blob(statement->handle, column);

    return span_of(bytes, (size_t)sqlite3_column_bytes(statement->handle, column));
}

#endif
