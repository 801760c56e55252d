/* test_nights.c: dsa-batch summarise against a real dsad whose engine has random weights: nights that are interrupted,
 * killed and out of time, and what the next one still has to do. What the passes say is test_passes.c's matter. */
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "store/store.h"
#include "tests/daemon/fixture.h"
#include "tests/store/documents.h"

enum { DOCUMENTS = 20, OUTPUT_BYTES = 1 << 16, WAIT_MS = 100000 };

/* The reader's form chooses quotations even with random weights; a small window makes sections of a few pages. */
static const char config_quotes[] = "[summaries]\nby = quotes\nwindow-tokens = 900\nmax-tokens = 64\n";
static const char config_text[] = "[summaries]\nby = text\nwindow-tokens = 2000\nmax-tokens = 64\n";

/* --- A store ------------------------------------------------------------------------------------------------------ */

static int64_t put_rooms(struct fixture *f, int number, int pages, const char *word)
{
    static char text[64][512];
    const char *texts[64];
    char path[64], sha[80];
    struct store_document document = named_document(path, "Rooms");
    struct store *store = NULL;
    struct error err = {0};
    int64_t id = 0;

    CHECK(pages <= 64);
    (void)snprintf(path, sizeof path, "/archive/rooms%d.txt", number);
    (void)snprintf(sha, sizeof sha, "%032d%.31s", number, word);
    for (int i = 0; i < pages; i++) {
        (void)snprintf(text[i], sizeof text[i],
                       "Room %d of house %d holds a %s and nine chairs. The inventory was made in the spring by the "
                       "steward of the house. Dust lies on the shelves of every corridor that leads to it.",
                       i + 1, number, word);
        texts[i] = text[i];
    }
    document.sha256 = sha;
    document.page_count = pages;
    CHECK_OK(store_open(f->store, STORE_INGEST, false, &store, &err), &err);
    CHECK_OK(put_document(store, &document, texts, pages, &id, &err), &err);
    store_close(store);
    return id;
}

static void open_night(struct fixture *f, const char *model, const char *config)
{
    fixture_store(f, false);
    f->model = model;
    f->config = config;
}

/* --- Runs --------------------------------------------------------------------------------------------------------- */

static pid_t spawn_batch(const struct fixture *f, const char *output, const char *until)
{
    const char *arguments[] = {BATCH_PATH, "summarise", "--store", f->store, "--json", until ? "--until" : NULL, until,
                               NULL};
    pid_t pid = fork();

    if (pid == 0) {
        int fd = open(output, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);

        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        (void)dup2(fd, STDOUT_FILENO);
        (void)execv(arguments[0], (char *const *)arguments);
        _exit(127);
    }
    CHECK(pid > 0);
    return pid;
}

static int wait_end(pid_t pid)
{
    int64_t until = clock_monotonic_ns() + WAIT_MS * INT64_C(1000000);
    int status = 0;

    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (clock_monotonic_ns() > until) {
            (void)kill(pid, SIGKILL);
            FAIL("dsa-batch does not end");
        }
        (void)usleep(5000);
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* Every line is one JSON object; all but the last are about documents. The report, and how many there were before. */
static json_t *parse_lines(const char *output, int *documents)
{
    FILE *file = fopen(output, "r");
    char *line = NULL;
    size_t cap = 0;
    json_t *report = NULL;
    ssize_t len;

    CHECK(file);
    *documents = 0;
    while ((len = getline(&line, &cap, file)) > 0) {
        json_t *json = json_loadb(line, (size_t)len, JSON_REJECT_DUPLICATES, NULL);

        CHECK(json_is_object(json));
        CHECK(!report);
        if (json_is_true(json_object_get(json, "report"))) {
            report = json;
            continue;
        }
        CHECK(json_integer_value(json_object_get(json, "document")) > 0);
        CHECK(json_integer_value(json_object_get(json, "job")) > 0);
        CHECK(json_is_string(json_object_get(json, "state")));
        ++*documents;
        json_decref(json);
    }
    free(line);
    (void)fclose(file);
    return report;
}

static const char *output_path(void)
{
    static char path[300];

    (void)snprintf(path, sizeof path, "%s/night.jsonl", check_temp_dir());
    return path;
}

static int64_t figure(const json_t *report, const char *name)
{
    const json_t *value = json_object_get(report, name);

    CHECK(json_is_integer(value));
    return json_integer_value(value);
}

/* One night from its beginning to its end. Caller frees. */
static json_t *run_night(const struct fixture *f, int expected_documents)
{
    json_t *report;
    int documents;

    CHECK_EQ_INT(wait_end(spawn_batch(f, output_path(), NULL)), 0);
    report = parse_lines(output_path(), &documents);
    CHECK(report);
    CHECK_EQ_INT(documents, expected_documents);
    CHECK(json_is_true(json_object_get(report, "complete")));
    return report;
}

static int count_lines(const char *path)
{
    FILE *file = fopen(path, "r");
    int c, count = 0;

    while (file && (c = fgetc(file)) != EOF)
        count += c == '\n';
    if (file)
        (void)fclose(file);
    return count;
}

struct rows {
    int count;
    int64_t passes, statements;
};

static bool count_row(void *context, const struct store_summary *summary)
{
    struct rows *rows = context;
    json_t *details = json_loads(summary->details, 0, NULL);

    rows->count++;
    rows->statements += (int64_t)json_array_size(json_object_get(details, "statements"));
    CHECK(summary->body.len > 0 || json_array_size(json_object_get(details, "statements")) == 0);
    json_decref(details);
    return true;
}

static struct rows read_rows(const struct fixture *f, const char *match)
{
    struct store *store = NULL;
    struct rows rows = {0};
    struct error err = {0};

    CHECK_OK(store_open(f->store, STORE_READ, false, &store, &err), &err);
    CHECK_OK(store_summaries(store, 0, NULL, match, 1000, count_row, &rows, &err), &err);
    store_close(store);
    return rows;
}

/* --- What is done once is not done again -------------------------------------------------------------------------- */

TEST(a_second_night_does_only_what_changed)
{
    struct fixture f;
    json_t *report;
    int64_t passes;

    open_night(&f, fixture_reader(), config_quotes);
    for (int i = 0; i < DOCUMENTS; i++)
        (void)put_rooms(&f, i, 1 + i % 3, "clock");
    fixture_start(&f);
    report = run_night(&f, DOCUMENTS);
    CHECK_EQ_STR(json_string_value(json_object_get(report, "by")), "quotes");
    CHECK_EQ_INT(figure(report, "done"), DOCUMENTS);
    CHECK_EQ_INT(figure(report, "cached"), 0);
    CHECK_EQ_INT(figure(report, "failed"), 0);
    passes = figure(report, "passes");
    CHECK(passes >= DOCUMENTS);
    CHECK(figure(report, "tokens_in") > 0 && figure(report, "tokens_out") > 0);
    CHECK(json_real_value(json_object_get(report, "tokens_per_second")) > 0);
    json_decref(report);
    CHECK_EQ_INT(read_rows(&f, NULL).count, DOCUMENTS);
    CHECK(read_rows(&f, NULL).statements > 0);
    report = run_night(&f, DOCUMENTS);
    CHECK_EQ_INT(figure(report, "cached"), DOCUMENTS);
    CHECK_EQ_INT(figure(report, "passes"), 0);
    CHECK_EQ_INT(figure(report, "tokens_in"), 0);
    json_decref(report);
    (void)put_rooms(&f, 7, 2, "violin"); /* ingested anew with other words */
    report = run_night(&f, DOCUMENTS);
    CHECK_EQ_INT(figure(report, "done"), DOCUMENTS);
    CHECK_EQ_INT(figure(report, "cached"), DOCUMENTS - 1);
    CHECK_EQ_INT(figure(report, "passes"), 1);
    json_decref(report);
    CHECK_EQ_INT(read_rows(&f, NULL).count, DOCUMENTS);
    /* Jobs are purged some day; what outlives them is found by content. */
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    {
        char path[300];

        (void)snprintf(path, sizeof path, "%s/jobs.db", f.store);
        CHECK(unlink(path) == 0);
        (void)snprintf(path, sizeof path, "%s/streams.db", f.store);
        CHECK(unlink(path) == 0);
    }
    fixture_start(&f);
    report = run_night(&f, DOCUMENTS);
    CHECK_EQ_INT(figure(report, "cached"), DOCUMENTS);
    CHECK_EQ_INT(figure(report, "passes"), 0);
    json_decref(report);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

TEST(a_store_of_before_is_brought_up_to_date_by_the_daemon)
{
    struct fixture f;
    char path[300];
    sqlite3 *db = NULL;

    open_night(&f, NULL, NULL);
    (void)put_rooms(&f, 1, 2, "clock");
    (void)snprintf(path, sizeof path, "%s/corpus.db", f.store);
    CHECK_EQ_INT(sqlite3_open(path, &db), SQLITE_OK); /* as schema 2 left it */
    CHECK_EQ_INT(sqlite3_exec(db, "DROP TABLE summary_parts; PRAGMA user_version = 2", NULL, NULL, NULL), SQLITE_OK);
    (void)sqlite3_close(db);
    fixture_start(&f);
    json_decref(run_night(&f, 1));
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

TEST(another_model_is_another_summary)
{
    struct fixture f;
    json_t *report;

    open_night(&f, fixture_reader(), config_quotes);
    (void)put_rooms(&f, 1, 2, "clock");
    fixture_start(&f);
    json_decref(run_night(&f, 1));
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    f.model = NULL; /* the extractive rules */
    f.config = NULL;
    fixture_start(&f);
    report = run_night(&f, 1);
    CHECK_EQ_STR(json_string_value(json_object_get(report, "by")), "extractive");
    CHECK_EQ_INT(figure(report, "cached"), 0);
    json_decref(report);
    CHECK_EQ_INT(read_rows(&f, NULL).count, 2);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

/* --- Kills -------------------------------------------------------------------------------------------------------- */

TEST(a_killed_dsa_batch_costs_nothing)
{
    struct fixture f;
    json_t *report;
    char status[OUTPUT_BYTES];
    pid_t pid;

    open_night(&f, fixture_reader(), config_quotes);
    for (int i = 0; i < DOCUMENTS; i++)
        (void)put_rooms(&f, i, 2, "clock");
    fixture_start(&f);
    for (int kill_at = 2; kill_at < 14; kill_at += 5) {
        pid = spawn_batch(&f, output_path(), NULL);
        while (count_lines(output_path()) < kill_at && kill(pid, 0) == 0)
            (void)usleep(1000);
        CHECK(kill(pid, SIGKILL) == 0);
        (void)wait_end(pid);
    }
    report = run_night(&f, DOCUMENTS);
    CHECK_EQ_INT(figure(report, "done"), DOCUMENTS);
    json_decref(report);
    CHECK_EQ_INT(read_rows(&f, NULL).count, DOCUMENTS);
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "status", NULL}, status, sizeof status), 0);
    CHECK(strstr(status, "final 20")); /* one job a document, however often it was asked for */
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

/* Waits until the job, which may not have been asked for yet, has made so many of its passes. */
static void wait_for_passes(const struct fixture *f, int64_t job, int64_t most)
{
    int64_t until = clock_monotonic_ns() + WAIT_MS * INT64_C(1000000);
    struct dsa_client *client = fixture_client(f);
    const struct dsa_event *event;
    uint64_t request = 0;

    for (bool attached = false;;) {
        if (clock_monotonic_ns() > until)
            FAIL("no progress");
        if (!attached)
            CHECK_EQ_INT(dsa_attach(client, job, 0, &request), DSA_OK);
        attached = true;
        if (dsa_next_event(client, 100, &event) != DSA_OK || event->request != request)
            continue;
        if (event->type == DSA_EVENT_PROGRESS && strcmp(event->phase, "summarise") == 0 && event->done >= most)
            break;
        if (event->type != DSA_EVENT_ERROR)
            continue;
        CHECK_EQ_STR(event->code, "no-such-job");
        attached = false;
        (void)usleep(5000);
    }
    dsa_close(client);
}

TEST(a_killed_daemon_goes_on_in_the_middle_of_a_document)
{
    struct fixture f;
    json_t *report;
    int documents;
    int64_t before, passes;
    pid_t pid;

    open_night(&f, fixture_reader(), config_quotes);
    (void)put_rooms(&f, 1, 36, "clock");
    fixture_start(&f);
    pid = spawn_batch(&f, output_path(), NULL);
    for (int kills = 1; kills <= 3; kills++) {
        wait_for_passes(&f, 1, 2 * kills);
        CHECK_EQ_INT(fixture_stop(&f, SIGKILL), 128 + SIGKILL);
        fixture_start(&f);
    }
    CHECK_EQ_INT(wait_end(pid), 0); /* it was there all the time */
    report = parse_lines(output_path(), &documents);
    CHECK(report);
    before = figure(report, "passes_before");
    passes = figure(report, "passes");
    CHECK_EQ_INT(figure(report, "done"), 1);
    CHECK(before >= 6);
    json_decref(report);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    /* The same document on a calm night takes as many passes, and comes to the same. */
    {
        struct fixture calm;
        struct rows killed_rows = read_rows(&f, NULL);

        open_night(&calm, fixture_reader(), config_quotes);
        (void)put_rooms(&calm, 1, 36, "clock");
        fixture_start(&calm);
        report = run_night(&calm, 1);
        CHECK_EQ_INT(figure(report, "passes"), before + passes);
        CHECK_EQ_INT(read_rows(&calm, NULL).statements, killed_rows.statements);
        json_decref(report);
        CHECK_EQ_INT(fixture_stop(&calm, SIGTERM), 0);
    }
}

static void clock_after(int seconds, char text[16])
{
    time_t when = time(NULL) + seconds;
    struct tm local;

    CHECK(localtime_r(&when, &local));
    (void)strftime(text, 16, "%H:%M:%S", &local);
}

/* Has the daemon kept anything that a pass said? */
static bool has_parts(const struct fixture *f)
{
    static char bytes[8 << 20];
    bool found = false;

    for (int i = 0; i < 2; i++) {
        char path[300];
        FILE *file;
        size_t len;

        (void)snprintf(path, sizeof path, "%s/corpus.db%s", f->store, i ? "-wal" : "");
        file = fopen(path, "r");
        len = file ? fread(bytes, 1, sizeof bytes, file) : 0;
        if (file)
            (void)fclose(file);
        found |= memmem(bytes, len, "{\"statements\":[", 15) != NULL;
    }
    return found;
}

TEST(a_night_that_is_over_stops_in_the_middle_of_a_document)
{
    struct fixture f;
    json_t *report;
    char until[16], output[OUTPUT_BYTES];
    int documents;

    open_night(&f, fixture_reader(), config_quotes);
    (void)put_rooms(&f, 1, 64, "clock");
    fixture_start(&f);
    for (int seconds = 2; !has_parts(&f); seconds *= 2) { /* a machine in a hurry needs a longer night */
        int64_t started = clock_monotonic_ns();

        clock_after(seconds, until);
        CHECK_EQ_INT(wait_end(spawn_batch(&f, output_path(), until)), 0);
        CHECK(clock_monotonic_ns() - started < (seconds + 12) * INT64_C(1000000000));
        report = parse_lines(output_path(), &documents);
        CHECK(report);
        if (json_is_true(json_object_get(report, "complete")))
            SKIP("this machine reads 64 pages in %d seconds", seconds);
        CHECK_EQ_INT(figure(report, "done"), 0);
        CHECK_EQ_INT(figure(report, "failed"), 0);
        CHECK_EQ_INT(figure(report, "left"), 1);
        json_decref(report);
    }
    CHECK_EQ_INT(fixture_run((const char *[]){CTL_PATH, "--store", f.store, "status", NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "cancelled 1"));
    report = run_night(&f, 1); /* the next night */
    CHECK_EQ_INT(figure(report, "done"), 1);
    /* The last pass may have been kept in the moment in which the job was stopped. */
    CHECK(figure(report, "passes_before") > 0 || figure(report, "cached") == 1);
    json_decref(report);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

/* --- What a model says in its own words --------------------------------------------------------------------------- */

TEST(random_words_are_no_summary)
{
    struct fixture f;
    json_t *report;
    const json_t *dropped;

    open_night(&f, fixture_model(), config_text);
    (void)put_rooms(&f, 1, 2, "clock");
    (void)put_rooms(&f, 2, 12, "violin");
    fixture_start(&f);
    report = run_night(&f, 2);
    CHECK_EQ_STR(json_string_value(json_object_get(report, "by")), "text");
    CHECK_EQ_INT(figure(report, "done"), 2);
    CHECK(figure(report, "passes") >= 3);
    CHECK_EQ_INT(figure(report, "statements"), 0);
    dropped = json_object_get(report, "dropped");
    CHECK(json_integer_value(json_object_get(dropped, "uncited")) > 0);
    json_decref(report);
    report = run_night(&f, 2); /* an empty one is one that was made */
    CHECK_EQ_INT(figure(report, "passes"), 0);
    json_decref(report);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    f.config = NULL; /* unless told so, random weights summarise nothing */
    fixture_start(&f);
    report = run_night(&f, 2);
    CHECK_EQ_STR(json_string_value(json_object_get(report, "by")), "extractive");
    json_decref(report);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
    f.config = "[summaries]\nby = quotes\n"; /* what a model can't do is said at the start */
    f.model = NULL;
    {
        char config[300], output[OUTPUT_BYTES];

        (void)snprintf(config, sizeof config, "%s.conf", f.store);
        CHECK(fclose(fopen(config, "w")) == 0);
        CHECK_EQ_INT(setenv("DSAD_SUMMARIES_BY", "quotes", 1), 0);
        CHECK_EQ_INT(fixture_run((const char *[]){DSAD_PATH, "--store", f.store, "--config", config, "--check", NULL},
                                 output, sizeof output), 78);
        CHECK_EQ_INT(unsetenv("DSAD_SUMMARIES_BY"), 0);
        CHECK(strstr(output, "there is no model"));
    }
}

static bool copy_key(void *context, const struct store_summary *summary)
{
    (void)snprintf(context, 512, "%s", summary->key);
    return false;
}

/* As if the model had been a good one: what it would have kept is put under the key of what it did. */
static void put_statements(const struct fixture *f, int64_t document)
{
    static const char details[] =
        "{\"statements\":[{\"text\":\"The house has a *clock*.\",\"places\":[[1,0,40]]},"
        "{\"text\":\"Dust [sic] lies in both rooms.\",\"places\":[[1,10,60],[2,10,60]]},"
        "{\"text\":\"It is there again.\",\"places\":[[1,0,40]]}],\"claims\":[3,1,0,2,0,0]"
        ",\"sections\":1,\"levels\":1}";
    struct store_summary summary = {.collection = "default", .title = "Rooms", .body = span_from_cstr("Replaced."),
                                    .details = details, .model = "m", .document_id = document};
    struct store *store = NULL;
    struct error err = {0};
    char key[512] = "";
    int64_t id;

    CHECK_OK(store_open(f->store, STORE_ADMIN, false, &store, &err), &err);
    CHECK_OK(store_summaries(store, document, NULL, NULL, 1, copy_key, key, &err), &err);
    summary.key = key;
    CHECK_OK(store_summary_put(store, &summary, &id, &err), &err);
    store_close(store);
}

static void read_whole(const char *directory, const char *name, char *text, size_t cap)
{
    char path[700];
    FILE *file;
    size_t len = 0;

    (void)snprintf(path, sizeof path, "%s/%s", directory, name);
    file = fopen(path, "r");
    CHECK(file);
    len = fread(text, 1, cap - 1, file);
    (void)fclose(file);
    text[len] = '\0';
}

TEST(statements_become_markdown_with_links_to_their_pages)
{
    struct fixture f;
    char directory[400], text[OUTPUT_BYTES], output[OUTPUT_BYTES];
    json_t *line;
    const json_t *citations;

    open_night(&f, fixture_model(), config_text);
    (void)put_rooms(&f, 1, 2, "clock");
    fixture_start(&f);
    json_decref(run_night(&f, 1));
    put_statements(&f, 1);
    (void)snprintf(directory, sizeof directory, "%s-summaries", f.store);
    /* Another collection's name makes another list, and --document another key: the job is new, the summary is not. */
    CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--connect", f.endpoint, "--document", "1",
                                              "--output", directory, NULL}, output, sizeof output), 0);
    CHECK(strstr(output, "1 done (1 of them before), 0 failed, 3 statements"));
    CHECK(strstr(output, "left out, uncited: 1 statements"));
    CHECK(strstr(output, "left out, misquoted: 2 statements"));
    read_whole(directory, "1-document.md", text, sizeof text);
    CHECK_EQ_STR(text, "# Rooms\n"
                       "\n- The house has a \\*clock\\*. [p. 1](</archive/rooms1.txt#page=1>)\n"
                       "\n- Dust \\[sic\\] lies in both rooms. [p. 1](</archive/rooms1.txt#page=1>) "
                       "[p. 2](</archive/rooms1.txt#page=2>)\n"
                       "\n- It is there again. [p. 1](</archive/rooms1.txt#page=1>)\n"
                       "\n3 of the model's statements were left out: what they cite could not be verified.\n");
    read_whole(directory, "summaries.jsonl", text, sizeof text);
    line = json_loads(text, 0, NULL);
    CHECK_EQ_STR(json_string_value(json_object_get(line, "text")),
                 "The house has a *clock*. [1]\nDust [sic] lies in both rooms. [2] [3]\nIt is there again. [1]");
    citations = json_object_get(line, "citations");
    CHECK_EQ_INT(json_array_size(citations), 3);
    for (size_t i = 0; i < 3; i++) {
        const json_t *citation = json_array_get(citations, i);

        CHECK(json_is_true(json_object_get(citation, "verified"))); /* its words, compared with the page */
        CHECK_EQ_INT(json_integer_value(json_object_get(citation, "block")), (int)i + 1);
        CHECK_EQ_INT(json_integer_value(json_object_get(citation, "page")), i == 2 ? 2 : 1);
    }
    json_decref(line);
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

/* --- What a person sees ------------------------------------------------------------------------------------------- */

TEST(a_terminal_shows_a_bar)
{
    static char said[OUTPUT_BYTES];
    struct fixture f;
    size_t len = 0;
    int terminal = -1, status = 0;
    pid_t pid;

    open_night(&f, NULL, NULL);
    for (int i = 0; i < DOCUMENTS; i++)
        (void)put_rooms(&f, i, 2, "clock");
    fixture_start(&f);
    pid = forkpty(&terminal, NULL, NULL, NULL);
    if (pid == 0) {
        (void)execl(BATCH_PATH, BATCH_PATH, "summarise", "--store", f.store, NULL);
        _exit(127);
    }
    CHECK(pid > 0);
    for (;;) {
        ssize_t got = read(terminal, said + len, sizeof said - 1 - len);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break; /* EIO: the other side is gone */
        len += (size_t)got;
    }
    said[len] = '\0';
    (void)close(terminal);
    CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(strstr(said, "\r\033[K[")); /* drawn over itself */
    CHECK(strstr(said, "[##############################] 20/20, 0 failed"));
    CHECK(strstr(said, "20 done (0 of them before), 0 failed"));
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}

TEST(an_estimate_says_what_is_left_and_what_it_does_not_know)
{
    struct fixture f;
    char output[OUTPUT_BYTES];
    json_t *json;

    open_night(&f, fixture_reader(), config_quotes);
    for (int i = 0; i < 4; i++)
        (void)put_rooms(&f, i, 2, "clock");
    fixture_start(&f);
    for (int round = 0; round < 3; round++) {
        CHECK_EQ_INT(fixture_run((const char *[]){BATCH_PATH, "summarise", "--store", f.store, "--estimate", "--json",
                                                  NULL}, output, sizeof output), 0);
        json = json_loads(output, 0, NULL);
        CHECK_EQ_INT(figure(json, "documents"), round < 2 ? 4 : 5);
        CHECK_EQ_INT(figure(json, "left"), round == 0 ? 4 : round == 1 ? 0 : 1);
        CHECK((figure(json, "tokens") > 0) == (round != 1));
        if (round == 0)
            CHECK(json_is_null(json_object_get(json, "hours")));
        else
            CHECK((json_real_value(json_object_get(json, "hours")) > 0) == (round == 2));
        json_decref(json);
        if (round == 0)
            json_decref(run_night(&f, 4));
        else if (round == 1)
            (void)put_rooms(&f, 9, 2, "violin");
    }
    CHECK_EQ_INT(fixture_stop(&f, SIGTERM), 0);
}
