/* test_store.c: opening, writing, replacing, deleting, reading; what bad stores answer. */
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "store/schema.h"
#include "tests/store/documents.h"

static const char *store_path(const char *name)
{
    static char path[4096];

    (void)snprintf(path, sizeof path, "%s/%s", check_temp_dir(), name);
    return path;
}

/* A statement on corpus.db from outside the store. */
static void run_sql(const char *dir, const char *sql)
{
    char path[4200];
    sqlite3 *db = NULL;
    char *message = NULL;

    (void)snprintf(path, sizeof path, "%s/corpus.db", dir);
    CHECK_EQ_INT(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &message))
        FAIL("%s: %s", sql, message);
    CHECK_EQ_INT(sqlite3_close(db), SQLITE_OK);
}

static int64_t sql_number(const char *dir, const char *sql)
{
    char path[4200];
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    int64_t value;

    (void)snprintf(path, sizeof path, "%s/corpus.db", dir);
    CHECK_EQ_INT(sqlite3_open(path, &db), SQLITE_OK);
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL))
        FAIL("%s: %s", sql, sqlite3_errmsg(db));
    CHECK_EQ_INT(sqlite3_step(statement), SQLITE_ROW);
    value = sqlite3_column_int64(statement, 0);
    (void)sqlite3_finalize(statement);
    (void)sqlite3_close(db);
    return value;
}

/* The database and the index agree with themselves and with each other. */
static void check_integrity(const char *dir)
{
    CHECK_EQ_INT(sql_number(dir, "SELECT integrity_check = 'ok' FROM pragma_integrity_check"), 1);
    run_sql(dir, "INSERT INTO chunks_fts(chunks_fts, rank) VALUES('integrity-check', 1)");
    CHECK_EQ_INT(sql_number(dir, "SELECT (SELECT count(*) FROM chunks) = (SELECT count(*) FROM chunks_fts_docsize)"),
                 1);
    CHECK_EQ_INT(sql_number(dir, "SELECT count(*) FROM chunks WHERE document_id NOT IN (SELECT id FROM documents)"), 0);
    CHECK_EQ_INT(sql_number(dir, "SELECT count(*) FROM chunk_spans WHERE chunk_id NOT IN (SELECT id FROM chunks)"), 0);
    CHECK_EQ_INT(sql_number(dir, "SELECT count(*) FROM pages WHERE document_id NOT IN (SELECT id FROM documents)"), 0);
}

TEST(document_round_trip)
{
    struct store *store = open_new_store(store_path("s"));
    struct store_document document = {.collection = "law", .path = "/a/b.pdf", .member = "x/y.pdf",
                                      .media_type = "application/pdf", .sha256 = "00ff", .title = "First Report",
                                      .author = "A. Author", .language = "en", .created = "2001-02-03",
                                      .modified = "2004-05-06", .error = "", .extractor = "dsa-extract 0.1.0",
                                      .status = DOCUMENT_OK, .size_bytes = 12345, .page_count = 2, .mtime_ms = 99};
    struct store_document found = {0};
    struct store_writer *writer = NULL;
    struct store_page page = {.number = 1, .label = "iv", .width = 612, .height = 792,
                              .text = span_of("Alpha beta.\nGamma delta.", 24), .rects = span_of("\1\2\0\3", 4),
                              .aside = span_of("CONFIDENTIAL", 12)};
    struct store_page got = {0};
    struct store_chunk_span spans[2] = {{1, 12, 24}, {2, 0, 5}};
    struct store_chunk chunk = {.ordinal = 0, .spans = spans, .span_count = 2, .heading = "1 Intro > 1.1 Why",
                                .text = span_of("Gamma delta.\nOmega", 18), .token_estimate = 4,
                                .hash = 0xfedcba9876543210u, .simhash = 0x8000000000000001u};
    struct store_chunk read = {0};
    struct store_totals totals = {0};
    struct error err = {0};
    int64_t id = 0, owner = 0, before = store_generation(store);

    CHECK_OK(store_document_begin(store, &document, &writer, &err), &err);
    CHECK_OK(store_put_page(writer, &page, &err), &err);
    page = (struct store_page){.number = 2, .text = span_of("Omega", 5)};
    CHECK_OK(store_put_page(writer, &page, &err), &err);
    CHECK_OK(store_put_chunk(writer, &chunk, &err), &err);
    CHECK_OK(store_put_problem(writer, &(struct store_problem){2, "no-text", "page 2 has little text"}, &err), &err);
    document.title = "The First Report"; /* re-indexes the chunk */
    document.status = DOCUMENT_PARTIAL;
    CHECK_OK(store_document_finish(writer, &document, &err), &err);
    CHECK_OK(store_document_commit(writer, &id, &err), &err);
    CHECK(store_generation(store) > before);

    CHECK_OK(store_document_find(store, "law", "/a/b.pdf", "x/y.pdf", &found, &err), &err);
    CHECK_EQ_INT(found.id, id);
    CHECK_EQ_STR(found.title, "The First Report");
    CHECK_EQ_STR(found.author, "A. Author");
    CHECK_EQ_STR(found.created, "2001-02-03");
    CHECK_EQ_INT(found.status, DOCUMENT_PARTIAL);
    CHECK_EQ_INT(found.size_bytes, 12345);
    CHECK_EQ_INT(found.page_count, 2);
    CHECK_EQ_INT(found.chunk_count, 1);
    CHECK_EQ_INT(found.problem_count, 1);
    CHECK_STATUS(store_document_find(store, "law", "/a/b.pdf", "", &found, &err), STATUS_NOT_FOUND);
    CHECK_OK(store_document_find_bytes(store, "law", "00ff", &found, &err), &err);
    CHECK_STATUS(store_document_find_bytes(store, "tax", "00ff", &found, &err), STATUS_NOT_FOUND);

    CHECK_OK(store_page_get(store, id, 1, &got, &err), &err);
    CHECK_EQ_STR(got.label, "iv");
    CHECK_EQ_SPAN(got.rects, span_of("\1\2\0\3", 4));
    CHECK_EQ_SPAN(got.aside, span_of("CONFIDENTIAL", 12));
    CHECK_NEAR(got.height, 792, 0);
    CHECK_STATUS(store_page_get(store, id, 3, &got, &err), STATUS_NOT_FOUND);

    CHECK_OK(store_chunk_get(store, 1, &owner, &read, &err), &err);
    CHECK_EQ_INT(owner, id);
    CHECK_EQ_SPAN(read.text, span_of("Gamma delta.\nOmega", 18));
    CHECK_EQ_INT(read.span_count, 2);
    CHECK_EQ_INT(read.spans[1].page, 2);
    CHECK_EQ_STR(read.heading, "1 Intro > 1.1 Why");
    CHECK(read.hash == 0xfedcba9876543210u && read.simhash == 0x8000000000000001u);
    CHECK_EQ_INT(count_hits(store, "gamma"), 1);
    CHECK_EQ_INT(count_hits(store, "title : the"), 1);
    CHECK_EQ_INT(count_hits(store, "alpha"), 0); /* on the page, in no chunk */

    CHECK_OK(store_get_totals(store, NULL, &totals, &err), &err);
    CHECK_EQ_INT(totals.documents, 1);
    CHECK_EQ_INT(totals.partial, 1);
    CHECK_EQ_INT(totals.pages, 2);
    CHECK_EQ_INT(totals.chunks, 1);
    CHECK_EQ_INT(totals.text_bytes, 29);
    store_close(store);
    check_integrity(store_path("s"));
}

TEST(chunk_text_must_stand_on_its_pages)
{
    struct store *store = open_new_store(store_path("s"));
    struct store_document document = named_document("/p", "t");
    struct store_writer *writer = NULL;
    struct store_page page = {.number = 1, .text = span_of("one two three", 13)};
    struct store_chunk_span span = {1, 4, 7};
    struct store_chunk chunk = {.spans = &span, .span_count = 1, .text = span_of("tw0", 3)};
    struct error err = {0};

    CHECK_OK(store_document_begin(store, &document, &writer, &err), &err);
    CHECK_OK(store_put_page(writer, &page, &err), &err);
    CHECK_STATUS(store_put_chunk(writer, &chunk, &err), STATUS_BUG);
    chunk.text = span_of("two t", 5);
    CHECK_STATUS(store_put_chunk(writer, &chunk, &err), STATUS_BUG);
    span = (struct store_chunk_span){1, 10, 14};
    chunk.text = span_of("ree?", 4);
    CHECK_STATUS(store_put_chunk(writer, &chunk, &err), STATUS_BUG);
    span = (struct store_chunk_span){2, 0, 1};
    chunk.text = span_of("o", 1);
    CHECK_STATUS(store_put_chunk(writer, &chunk, &err), STATUS_BUG);
    span = (struct store_chunk_span){1, 4, 7};
    chunk.text = span_of("two", 3);
    CHECK_OK(store_put_chunk(writer, &chunk, &err), &err);
    CHECK_STATUS(store_put_chunk(writer, &chunk, &err), STATUS_BUG); /* ordinal 0 again */
    store_document_rollback(writer);
    CHECK_EQ_INT(count_hits(store, "two"), 0);
    store_close(store);
    check_integrity(store_path("s"));
}

TEST(replace_is_atomic)
{
    struct store *store = open_new_store(store_path("s")), *reader = NULL;
    struct store_document document = named_document("/p", "old");
    struct store_writer *writer = NULL;
    struct store_page page = {.number = 1, .text = span_of("second version", 14)};
    struct store_chunk_span span = {1, 0, 14};
    struct store_chunk chunk = {.spans = &span, .span_count = 1, .text = page.text};
    struct error err = {0};
    int64_t first = put_text(store, "/p", "old", "first version"), second = 0;

    CHECK_OK(store_open(store_path("s"), STORE_READ, false, &reader, &err), &err);
    CHECK_OK(store_document_begin(store, &document, &writer, &err), &err);
    CHECK_OK(store_put_page(writer, &page, &err), &err);
    CHECK_OK(store_put_chunk(writer, &chunk, &err), &err);
    CHECK_EQ_INT(count_hits(reader, "first"), 1); /* until the commit readers see the old one */
    CHECK_EQ_INT(count_hits(reader, "second"), 0);
    CHECK_OK(store_document_commit(writer, &second, &err), &err);
    CHECK(second > first);
    CHECK_EQ_INT(count_hits(reader, "first"), 0);
    CHECK_EQ_INT(count_hits(reader, "second"), 1);
    store_close(reader);
    store_close(store);
    check_integrity(store_path("s"));
    CHECK_EQ_INT(sql_number(store_path("s"), "SELECT count(*) FROM pages"), 1);
}

TEST(delete_leaves_no_index_rows)
{
    struct store *store = open_new_store(store_path("s"));
    struct error err = {0};
    int64_t rows = 0, all = 0, ids[20];
    char path[32];

    for (int i = 0; i < 20; i++) {
        (void)snprintf(path, sizeof path, "/d%d", i);
        ids[i] = put_text(store, path, "Title Unique", "body mentions zebra and something else");
    }
    CHECK_OK(store_term_rows(store, span_from_cstr("Zebras"), &rows, &all, &err), &err);
    CHECK_EQ_INT(rows, 20);
    CHECK_EQ_INT(all, 20);
    for (int i = 0; i < 20; i += 2)
        CHECK_OK(store_document_delete(store, ids[i], &err), &err);
    CHECK_OK(store_term_rows(store, span_from_cstr("zebra"), &rows, &all, &err), &err);
    CHECK_EQ_INT(rows, 10);
    CHECK_EQ_INT(all, 10);
    CHECK_STATUS(store_document_delete(store, ids[0], &err), STATUS_NOT_FOUND);
    for (int i = 1; i < 20; i += 2)
        CHECK_OK(store_document_delete(store, ids[i], &err), &err);
    CHECK_EQ_INT(count_hits(store, "zebra OR title"), 0);
    store_close(store);
    check_integrity(store_path("s"));
    CHECK_EQ_INT(sql_number(store_path("s"), "SELECT count(*) FROM chunks_fts_docsize"), 0);
}

TEST(duplicate_takes_over)
{
    struct store *store = open_new_store(store_path("s"));
    struct store_document copy = named_document("/copy", "");
    struct store_document found = {0};
    struct error err = {0};
    int64_t original = put_text(store, "/original", "Heron", "the heron stands in shallow water"), second = 0,
            third = 0;

    copy.status = DOCUMENT_DUPLICATE;
    CHECK_STATUS(put_document(store, &copy, NULL, 0, &second, &err), STATUS_BAD_INPUT);
    copy.duplicate_of = original;
    CHECK_OK(put_document(store, &copy, NULL, 0, &second, &err), &err);
    copy.path = "/copy2";
    CHECK_OK(put_document(store, &copy, NULL, 0, &third, &err), &err);
    CHECK_EQ_INT(count_hits(store, "heron"), 1);
    CHECK_OK(store_document_delete(store, original, &err), &err);
    CHECK_EQ_INT(count_hits(store, "shallow"), 1);
    CHECK_OK(store_document_get(store, second, &found, &err), &err);
    CHECK_EQ_INT(found.status, DOCUMENT_OK);
    CHECK_EQ_INT(found.chunk_count, 1);
    CHECK_EQ_STR(found.title, "Heron");
    CHECK_EQ_STR(found.path, "/copy");
    CHECK_OK(store_document_get(store, third, &found, &err), &err);
    CHECK_EQ_INT(found.status, DOCUMENT_DUPLICATE);
    CHECK_EQ_INT(found.duplicate_of, second);
    CHECK_OK(store_document_delete(store, second, &err), &err);
    CHECK_OK(store_document_delete(store, third, &err), &err);
    CHECK_EQ_INT(count_hits(store, "heron"), 0);
    store_close(store);
    check_integrity(store_path("s"));
}

TEST(locks_exclude)
{
    struct store *store = open_new_store(store_path("s")), *other = NULL;
    struct error err = {0};

    CHECK_STATUS(store_open(store_path("s"), STORE_INGEST, true, &other, &err), STATUS_BUSY);
    CHECK(strstr(err.message, "another ingest") != NULL);
    CHECK_OK(store_open(store_path("s"), STORE_READ, false, &other, &err), &err);
    store_close(other);
    CHECK_OK(store_open(store_path("s"), STORE_ADMIN, false, &other, &err), &err);
    store_close(other);
    store_close(store);
    CHECK_OK(store_open(store_path("s"), STORE_INGEST, false, &store, &err), &err);
    store_close(store);
}

TEST(grouped_commits)
{
    struct store *store = open_new_store(store_path("s")), *reader = NULL;
    struct store_document bad = named_document("/bad", "");
    struct store_writer *writer = NULL;
    struct error err = {0};

    CHECK_OK(store_open(store_path("s"), STORE_READ, false, &reader, &err), &err);
    CHECK_OK(store_group_commits(store, 3600 * 1000, &err), &err);
    put_text(store, "/1", "", "grouped one");
    CHECK_OK(store_document_begin(store, &bad, &writer, &err), &err);
    store_document_rollback(writer); /* takes back its own only */
    put_text(store, "/2", "", "grouped two");
    CHECK_EQ_INT(count_hits(store, "grouped"), 2);
    CHECK_EQ_INT(count_hits(reader, "grouped"), 0);
    CHECK_OK(store_flush(store, &err), &err);
    CHECK_EQ_INT(count_hits(reader, "grouped"), 2);
    put_text(store, "/3", "", "grouped three");
    store_close(store); /* flushes */
    CHECK_EQ_INT(count_hits(reader, "grouped"), 3);
    store_close(reader);
    check_integrity(store_path("s"));
}

TEST(snapshot_stays)
{
    struct store *store = open_new_store(store_path("s")), *reader = NULL;
    struct error err = {0};

    put_text(store, "/1", "", "grouped one");
    CHECK_OK(store_open(store_path("s"), STORE_READ, false, &reader, &err), &err);
    CHECK_OK(store_snapshot_begin(reader, &err), &err);
    CHECK_EQ_INT(count_hits(reader, "grouped"), 1);
    put_text(store, "/2", "", "grouped two");
    CHECK_EQ_INT(count_hits(reader, "grouped"), 1);
    store_snapshot_end(reader);
    CHECK_EQ_INT(count_hits(reader, "grouped"), 2);
    store_close(reader);
    store_close(store);
}

/* --- What is no store ------------------------------------------------------------------------------------ */

TEST(missing_and_foreign)
{
    struct store *store = NULL;
    struct error err = {0};
    char path[4200];

    CHECK_STATUS(store_open(store_path("none"), STORE_READ, false, &store, &err), STATUS_NOT_FOUND);
    CHECK_EQ_INT(mkdir(store_path("empty"), 0700), 0);
    CHECK_STATUS(store_open(store_path("empty"), STORE_READ, false, &store, &err), STATUS_NOT_FOUND);
    CHECK(strstr(err.message, "not a store") != NULL);
    CHECK_STATUS(store_open(store_path("empty"), STORE_ADMIN, false, &store, &err), STATUS_NOT_FOUND);
    CHECK_EQ_INT(mkdir(store_path("foreign"), 0700), 0);
    run_sql(store_path("foreign"), "CREATE TABLE mine(x)");
    CHECK_STATUS(store_open(store_path("foreign"), STORE_READ, false, &store, &err), STATUS_BAD_INPUT);
    CHECK_STATUS(store_open(store_path("foreign"), STORE_INGEST, true, &store, &err), STATUS_BAD_INPUT);
    CHECK(strstr(err.message, "another program") != NULL);
    CHECK_EQ_INT(mkdir(store_path("rubbish"), 0700), 0);
    (void)snprintf(path, sizeof path, "%s/corpus.db", store_path("rubbish"));
    {
        FILE *file = fopen(path, "w");

        CHECK(file != NULL);
        for (int i = 0; i < 40000; i++)
            (void)fputc((int)(check_random() & 0xff), file);
        (void)fclose(file);
    }
    CHECK_STATUS(store_open(store_path("rubbish"), STORE_READ, false, &store, &err), STATUS_CORRUPT);
    CHECK_STATUS(store_open(store_path("rubbish"), STORE_INGEST, true, &store, &err), STATUS_CORRUPT);
    CHECK(store == NULL);
}

TEST(newer_and_older_versions)
{
    struct store *store = open_new_store(store_path("new"));
    struct db db;
    struct error err = {0};
    char path[4200];

    store_close(store);
    store = NULL;
    run_sql(store_path("new"), "PRAGMA user_version = 1000");
    CHECK_STATUS(store_open(store_path("new"), STORE_READ, false, &store, &err), STATUS_UNSUPPORTED);
    CHECK(strstr(err.message, "newer") != NULL);
    CHECK_STATUS(store_open(store_path("new"), STORE_INGEST, true, &store, &err), STATUS_UNSUPPORTED);

    /* A store as version 1 wrote it. */
    CHECK_EQ_INT(mkdir(store_path("old"), 0700), 0);
    (void)snprintf(path, sizeof path, "%s/corpus.db", store_path("old"));
    CHECK_OK(db_open(&db, path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, false, &err), &err);
    CHECK_OK(schema_upgrade(&db, &schema_corpus, 0, 1, &err), &err);
    CHECK_OK(db_exec(&db,
                     "INSERT INTO documents VALUES(1,'default','/x','','','','kept','','','','','','',0,0,0,0,0,0,0,"
                     "0,1,0)",
                     &err),
             &err);
    db_close(&db);
    CHECK_STATUS(store_open(store_path("old"), STORE_READ, false, &store, &err), STATUS_UNSUPPORTED);
    CHECK(strstr(err.message, "older") != NULL);
    CHECK_OK(store_open(store_path("old"), STORE_INGEST, false, &store, &err), &err);
    {
        struct store_document found = {0};

        CHECK_OK(store_document_get(store, 1, &found, &err), &err);
        CHECK_EQ_STR(found.title, "kept");
    }
    store_close(store);
    CHECK_EQ_INT(sql_number(store_path("old"), "PRAGMA user_version"), schema_corpus.version);
    CHECK_EQ_INT(sql_number(store_path("old"), "SELECT count(*) FROM summaries"), 0);
}

/* Runs `body` as a user without rights to the store, for root passes every permission check. */
static void as_nobody(void (*body)(const char *dir), const char *dir)
{
    int status = 0;
    pid_t child = fork();

    CHECK(child >= 0);
    if (child == 0) {
        if (getuid() == 0 && (setgid(65534) || setuid(65534)))
            _exit(90);
        body(dir);
        _exit(91);
    }
    CHECK_EQ_INT(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ_INT(WEXITSTATUS(status), 0);
}

static void use_read_only(const char *dir)
{
    struct store *store = NULL;
    struct store_search search = {.match = "heron", .k1 = 1, .body_weight = 1, .limit = 5};
    struct store_hit *hits = NULL;
    struct error err = {0};
    size_t count = 0;

    if (store_open(dir, STORE_INGEST, false, &store, &err) != STATUS_DENIED)
        _exit(1);
    if (store_open(dir, STORE_ADMIN, false, &store, &err) != STATUS_DENIED)
        _exit(2);
    if (store_open(dir, STORE_READ, false, &store, &err))
        _exit(3);
    if (store_search(store, &search, &hits, &count, &err) || count != 1)
        _exit(4);
    store_close(store);
    _exit(0);
}

TEST(read_only_directory)
{
    char temp[] = "/tmp/dsa-read-only-XXXXXX", dir[64], file[128];
    struct store *store;

    CHECK(mkdtemp(temp) != NULL); /* not in the test's own directory, which others cannot enter */
    (void)snprintf(dir, sizeof dir, "%s/store", temp);
    store = open_new_store(dir);
    put_text(store, "/1", "", "a heron");
    store_close(store);
    (void)snprintf(file, sizeof file, "%s/corpus.db", dir);
    CHECK_EQ_INT(chmod(file, 0444), 0);
    (void)snprintf(file, sizeof file, "%s/lock", dir);
    CHECK_EQ_INT(chmod(file, 0444), 0);
    CHECK_EQ_INT(chmod(dir, 0555), 0);
    CHECK_EQ_INT(chmod(temp, 0755), 0);
    as_nobody(use_read_only, dir);
    CHECK_EQ_INT(chmod(dir, 0755), 0);
    (void)snprintf(file, sizeof file, "rm -r %s", temp);
    CHECK_EQ_INT(system(file), 0);
}

TEST(truncated_and_flipped_files)
{
    struct store *store = open_new_store(store_path("s"));
    struct error err = {0};
    struct stat info;
    char path[4200], name[32];
    long size;
    int refused = 0;

    for (int i = 0; i < 40; i++) {
        (void)snprintf(name, sizeof name, "/%d", i);
        put_text(store, name, "Title", "some text that is long enough to be worth an index row or two");
    }
    store_close(store);
    store = NULL;
    (void)snprintf(path, sizeof path, "%s/corpus.db", store_path("s"));
    CHECK_EQ_INT(stat(path, &info), 0);
    size = (long)info.st_size;
    /* Random bytes over random places: every call must come back, with an answer or with an error. */
    for (int round = 0; round < 60; round++) {
        int file = open(path, O_RDWR);
        unsigned char saved[64], noise[64];
        off_t at = (off_t)(check_random() % (uint64_t)(size - 64));
        struct store_search search = {.match = "text", .k1 = 1, .b = 0.5, .body_weight = 1, .limit = 100};
        struct store_hit *hits = NULL;
        struct store_page page;
        struct store_chunk chunk;
        int64_t owner;
        size_t count = 0;
        enum status status;

        CHECK(file >= 0 && pread(file, saved, sizeof saved, at) == sizeof saved);
        for (size_t i = 0; i < sizeof noise; i++)
            noise[i] = (unsigned char)check_random();
        CHECK(pwrite(file, noise, sizeof noise, at) == sizeof noise);
        status = store_open(store_path("s"), STORE_READ, false, &store, &err);
        for (int i = 1; i <= 40 && !status; i++) {
            if (store_page_get(store, i, 1, &page, &err) || store_chunk_get(store, i, &owner, &chunk, &err))
                refused++;
        }
        if (!status && store_search(store, &search, &hits, &count, &err) == STATUS_OK)
            free(hits);
        refused += status != STATUS_OK;
        store_close(store);
        store = NULL;
        CHECK(pwrite(file, saved, sizeof saved, at) == sizeof saved);
        (void)close(file);
    }
    CHECK(refused > 0);
    CHECK_EQ_INT(truncate(path, size / 2), 0);
    CHECK_STATUS(store_open(store_path("s"), STORE_READ, false, &store, &err), STATUS_CORRUPT);
    CHECK_STATUS(store_open(store_path("s"), STORE_INGEST, false, &store, &err), STATUS_CORRUPT);
    CHECK_EQ_INT(truncate(path, 100), 0);
    CHECK_STATUS(store_open(store_path("s"), STORE_READ, false, &store, &err), STATUS_CORRUPT);
}

/* A file size limit stands in for a full disk: SQLite sees the write fail (EFBIG for ENOSPC). */
static void fill_up(const char *dir)
{
    struct rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
    struct store *store = NULL;
    struct store_document document = named_document("/big", "");
    struct error err = {0};
    char *text = malloc(300001);
    const char *texts[1] = {text};
    int64_t id = 0;
    enum status status = STATUS_OK;
    char name[32];
    int stored = 0;

    if (!text || store_open(dir, STORE_INGEST, false, &store, &err))
        _exit(1);
    memset(text, 'x', 300000);
    text[300000] = '\0';
    (void)signal(SIGXFSZ, SIG_IGN);
    if (setrlimit(RLIMIT_FSIZE, &limit))
        _exit(2);
    for (int i = 0; i < 10 && !status; i++) {
        (void)snprintf(name, sizeof name, "/big%d", i);
        document.path = name;
        status = put_document(store, &document, texts, 1, &id, &err);
        stored += status == STATUS_OK;
    }
    if ((status != STATUS_IO && status != STATUS_NO_SPACE) || !err.message[0])
        _exit(3);
    if (stored == 10)
        _exit(4);
    store_close(store);
    _exit(0);
}

TEST(full_disk)
{
    struct store *store = open_new_store(store_path("s"));
    struct error err = {0};
    struct store_totals totals = {0};
    int status = 0;
    pid_t child;

    put_text(store, "/kept", "", "kept safe");
    store_close(store);
    child = fork();
    CHECK(child >= 0);
    if (child == 0)
        fill_up(store_path("s"));
    CHECK_EQ_INT(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ_INT(WEXITSTATUS(status), 0);
    CHECK_OK(store_open(store_path("s"), STORE_INGEST, false, &store, &err), &err);
    CHECK_EQ_INT(count_hits(store, "kept"), 1);
    CHECK_OK(store_get_totals(store, NULL, &totals, &err), &err);
    CHECK(totals.documents >= 1 && totals.documents < 11);
    put_text(store, "/after", "", "goes on");
    store_close(store);
    check_integrity(store_path("s"));
}
