/* test_crash.c: SIGKILL at any moment of an ingest; the store opens clean, holds what was acknowledged, and index and
 * rows agree. */
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/store/documents.h"

enum { PATHS = 7 };

static void ingest_until_killed(const char *dir, int pipe_fd, int round)
{
    struct store *store = NULL;
    struct error err = {0};

    if (store_open(dir, STORE_INGEST, true, &store, &err))
        _exit(1);
    for (int n = 0;; n++) {
        char path[32], first[64], second[64];
        const char *texts[] = {first, second};
        struct store_document document = named_document(path, "Title");
        int64_t id, ack[2];

        (void)snprintf(path, sizeof path, "/%d", n % PATHS);
        (void)snprintf(first, sizeof first, "round%dx%d first page of it", round, n);
        (void)snprintf(second, sizeof second, "round%dx%d second page", round, n);
        if (put_document(store, &document, texts, 2, &id, &err))
            _exit(2);
        ack[0] = n;
        ack[1] = id;
        if (write(pipe_fd, ack, sizeof ack) != sizeof ack)
            _exit(3);
    }
}

static void check_database(const char *dir)
{
    char path[4200];
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;

    (void)snprintf(path, sizeof path, "%s/corpus.db", dir);
    CHECK_EQ_INT(sqlite3_open(path, &db), SQLITE_OK);
    CHECK_EQ_INT(sqlite3_exec(db, "INSERT INTO chunks_fts(chunks_fts, rank) VALUES('integrity-check', 1)", NULL, NULL,
                              NULL), SQLITE_OK);
    CHECK_EQ_INT(sqlite3_prepare_v2(db, "SELECT (SELECT group_concat(integrity_check) FROM pragma_integrity_check), "
                                    "(SELECT count(*) FROM chunks), 2 * (SELECT count(*) FROM documents), "
                                    "(SELECT count(*) FROM pages), (SELECT count(*) FROM chunks_fts_docsize)", -1,
                                    &statement, NULL), SQLITE_OK);
    CHECK_EQ_INT(sqlite3_step(statement), SQLITE_ROW);
    CHECK_EQ_STR((const char *)sqlite3_column_text(statement, 0), "ok");
    for (int i = 2; i < 5; i++)
        CHECK_EQ_INT(sqlite3_column_int64(statement, i), sqlite3_column_int64(statement, 1));
    (void)sqlite3_finalize(statement);
    (void)sqlite3_close(db);
}

TEST(killed_ingest_leaves_a_clean_store)
{
    const char *dir = check_temp_dir();

    for (int round = 0; round < 15; round++) {
        struct store *store = NULL;
        struct store_document found = {0};
        struct error err = {0};
        int64_t ack[2], last[2] = {-1, 0};
        char path[32], word[32];
        int ends[2], status = 0;
        pid_t child;

        CHECK_EQ_INT(pipe(ends), 0);
        child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            (void)close(ends[0]);
            ingest_until_killed(dir, ends[1], round);
        }
        (void)close(ends[1]);
        CHECK(read(ends[0], last, sizeof last) == sizeof last);
        (void)usleep((useconds_t)(check_random() % 40000));
        CHECK_EQ_INT(kill(child, SIGKILL), 0);
        CHECK_EQ_INT(waitpid(child, &status, 0), child);
        CHECK(WIFSIGNALED(status));
        while (read(ends[0], ack, sizeof ack) == sizeof ack)
            memcpy(last, ack, sizeof last);
        (void)close(ends[0]);
        CHECK_OK(store_open(dir, STORE_INGEST, false, &store, &err), &err);
        (void)snprintf(path, sizeof path, "/%d", (int)(last[0] % PATHS));
        CHECK_OK(store_document_find(store, "default", path, "", &found, &err), &err);
        CHECK(found.id >= last[1]); /* the acknowledged one, or one that was committed after it */
        CHECK_EQ_INT(found.chunk_count, 2);
        (void)snprintf(word, sizeof word, "round%dx%d", round, (int)last[0]);
        CHECK_EQ_INT(count_hits(store, word), 2);
        store_close(store);
        check_database(dir);
    }
}
