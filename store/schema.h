/* store/schema.h: the tables of corpus.db, as steps from one version to the next. Internal to store/. */
#ifndef STORE_SCHEMA_H
#define STORE_SCHEMA_H

#include "store/db.h"

enum {
    SCHEMA_APPLICATION_ID = 0x44534131, /* "DSA1": tells our corpus.db from any other database */
    SCHEMA_VERSION = 2
};

/* Brings an empty or older database to SCHEMA_VERSION in one transaction. */
enum status schema_upgrade(struct db *db, int from_version, struct error *err) MUST_CHECK;
/* Only up to `to_version`: for the tests of migration. */
enum status schema_upgrade_to(struct db *db, int from_version, int to_version, struct error *err) MUST_CHECK;

#endif
