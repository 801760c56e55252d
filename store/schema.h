/* store/schema.h: the tables of each database, as steps from one version to the next. Internal to store/. */
#ifndef STORE_SCHEMA_H
#define STORE_SCHEMA_H

#include "store/db.h"

struct schema {
    const char *file;          /* "corpus.db" */
    int application_id;        /* tells our file from any other database */
    int version;               /* the one this program writes */
    const char *const *steps;  /* steps[v] leads from version v to v + 1; a released step is never edited */
};

extern const struct schema schema_corpus, schema_jobs, schema_streams;

/* Checks the stamp of an open database and brings an older one up to date in one transaction. An empty file is set
 * up if `create`; without `write` an older version is refused. */
enum status schema_check(struct db *db, const struct schema *schema, bool create, bool write, struct error *err)
    MUST_CHECK;
/* One part of that: from one version to another, for the tests of migration. */
enum status schema_upgrade(struct db *db, const struct schema *schema, int from_version, int to_version,
                           struct error *err) MUST_CHECK;
/* A file shorter than its header says, with no WAL to complete it, was cut off: STATUS_CORRUPT. */
enum status schema_check_length(struct db *db, struct error *err) MUST_CHECK;

#endif
