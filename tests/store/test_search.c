/* test_search.c: the index's scores against BM25 written down again, filters, words, readers beside a writer. */
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/store/documents.h"

/* --- BM25 again, from the formula, over words that no stemmer changes ------------------------------------ */

enum { WORDS = 30, DOCUMENTS = 120, MAX_LEN = 60 };

struct model {
    int words[DOCUMENTS][MAX_LEN], len[DOCUMENTS];
    int title[DOCUMENTS][4];
};

/* Consonants and one vowel: porter has no suffix to take off. */
static const char *word_name(int word)
{
    static char names[4][16];
    static int next;
    char *name = names[next++ % 4];

    (void)snprintf(name, sizeof names[0], "k%cb%cg", 'a' + word / 26, 'a' + word % 26);
    return name;
}

static int zipf_word(void)
{
    double u = check_random_unit();

    return (int)(WORDS * u * u);
}

static void fill(struct model *model, struct store *store)
{
    for (int d = 0; d < DOCUMENTS; d++) {
        char body[MAX_LEN * 8] = "", title[64] = "", path[32];

        model->len[d] = 5 + (int)(check_random() % (MAX_LEN - 5));
        for (int i = 0; i < model->len[d]; i++) {
            model->words[d][i] = zipf_word();
            (void)strcat(strcat(body, word_name(model->words[d][i])), i % 9 ? " " : ". ");
        }
        for (int i = 0; i < 4; i++) {
            model->title[d][i] = zipf_word();
            (void)strcat(strcat(title, word_name(model->title[d][i])), " ");
        }
        (void)snprintf(path, sizeof path, "/d%d", d);
        CHECK_EQ_INT(put_text(store, path, title, body), d + 1);
    }
}

static double model_score(const struct model *m, const int *query, int query_len, int d, double k1, double b,
                          double title_weight)
{
    double total = 0, score = 0;

    for (int i = 0; i < DOCUMENTS; i++)
        total += m->len[i] + 4;
    for (int q = 0; q < query_len; q++) {
        double tf = 0, rows = 0;

        for (int i = 0; i < DOCUMENTS; i++) {
            int in = 0;

            for (int w = 0; w < m->len[i]; w++)
                in += m->words[i][w] == query[q];
            for (int w = 0; w < 4; w++)
                in += m->title[i][w] == query[q];
            rows += in > 0;
        }
        for (int w = 0; w < m->len[d]; w++)
            tf += m->words[d][w] == query[q];
        for (int w = 0; w < 4; w++)
            tf += (m->title[d][w] == query[q]) * title_weight;
        if (tf > 0)
            score += log(1 + (DOCUMENTS - rows + 0.5) / (rows + 0.5)) * tf * (k1 + 1) /
                     (tf + k1 * (1 - b + b * (m->len[d] + 4) / (total / DOCUMENTS)));
    }
    return score;
}

TEST(scores_equal_the_formula)
{
    static struct model model;
    struct store *store = open_new_store(check_temp_dir());

    fill(&model, store);
    for (int round = 0; round < 40; round++) {
        int query[6], query_len = 1 + (int)(check_random() % 6);
        int64_t rows[6], all = 0;
        char match[256] = "";
        struct store_search search = {.match = match, .k1 = 0.5 + 2 * check_random_unit(), .b = check_random_unit(),
                                      .title_weight = 1 + 4 * check_random_unit(), .heading_weight = 1,
                                      .body_weight = 1, .limit = DOCUMENTS};
        struct store_hit *hits = NULL;
        struct error err = {0};
        size_t count = 0, expected = 0;

        for (int i = 0; i < query_len; i++) {
            query[i] = (int)(check_random() % WORDS);
            (void)strcat(strcat(strcat(match, i ? " OR \"" : "\""), word_name(query[i])), "\"");
            CHECK_OK(store_term_rows(store, span_from_cstr(word_name(query[i])), &rows[i], &all, &err), &err);
        }
        CHECK_EQ_INT(all, DOCUMENTS);
        if (round % 2) { /* with the counts given, and without */
            search.phrase_rows = rows;
            search.phrase_count = (size_t)query_len;
        }
        CHECK_OK(store_search(store, &search, &hits, &count, &err), &err);
        for (int d = 0; d < DOCUMENTS; d++)
            expected += model_score(&model, query, query_len, d, search.k1, search.b, search.title_weight) > 0;
        CHECK_EQ_INT(count, expected);
        for (size_t i = 0; i < count; i++) {
            CHECK_NEAR(hits[i].score, model_score(&model, query, query_len, (int)hits[i].chunk_id - 1, search.k1,
                                                  search.b, search.title_weight), 1e-9);
            CHECK(i == 0 || hits[i - 1].score > hits[i].score ||
                  (hits[i - 1].score == hits[i].score && hits[i - 1].chunk_id < hits[i].chunk_id));
        }
        free(hits);
    }
    store_close(store);
}

/* --- Filters --------------------------------------------------------------------------------------------- */

static size_t search_count(struct store *store, struct store_search search)
{
    struct store_hit *hits = NULL;
    struct error err = {0};
    size_t count = 0;

    search.match = "\"heron\"";
    search.k1 = 1;
    search.body_weight = 1;
    search.limit = 100;
    CHECK_OK(store_search(store, &search, &hits, &count, &err), &err);
    free(hits);
    return count;
}

TEST(filters)
{
    struct store *store = open_new_store(check_temp_dir());
    static const char *const bodies[] = {"a heron"};
    struct store_document documents[] = {
        {.collection = "law",
         .path = "/law/a.pdf",
         .media_type = "application/pdf",
         .modified = "2023-04-05T10:00:00Z"},
        {.collection = "law",
         .path = "/law/z.zip",
         .member = "in/b.txt",
         .media_type = "text/plain",
         .created = "2022-01-01"},
        {.collection = "tax", .path = "/tax/c.pdf", .media_type = "application/pdf", .modified = "2024-12-31"},
        {.collection = "tax", .path = "/tax/d.pdf", .media_type = "application/pdf"}};
    const char *law[] = {"law"}, *both[] = {"tax", "law"}, *none[] = {"nothing"};
    int64_t ids[4];
    struct error err = {0};

    for (int i = 0; i < 4; i++)
        CHECK_OK(put_document(store, &documents[i], bodies, 1, &ids[i], &err), &err);
    CHECK_EQ_INT(search_count(store, (struct store_search){0}), 4);
    CHECK_EQ_INT(search_count(store, (struct store_search){.collections = law, .collection_count = 1}), 2);
    CHECK_EQ_INT(search_count(store, (struct store_search){.collections = both, .collection_count = 2}), 4);
    CHECK_EQ_INT(search_count(store, (struct store_search){.collections = none, .collection_count = 1}), 0);
    CHECK_EQ_INT(search_count(store, (struct store_search){.documents = ids + 1, .document_count = 2}), 2);
    CHECK_EQ_INT(search_count(store, (struct store_search){.media_type = "application/pdf"}), 3);
    CHECK_EQ_INT(search_count(store, (struct store_search){.path_glob = "/law/*"}), 2);
    CHECK_EQ_INT(search_count(store, (struct store_search){.path_glob = "in/*.txt"}), 1);
    CHECK_EQ_INT(search_count(store, (struct store_search){.date_from = "2023"}), 2);
    CHECK_EQ_INT(search_count(store, (struct store_search){.date_from = "2023-04-05", .date_to = "2023-04-05"}), 1);
    CHECK_EQ_INT(search_count(store, (struct store_search){.date_to = "2023"}), 2); /* undated ones are left out */
    CHECK_EQ_INT(search_count(store, (struct store_search){.collections = both, .collection_count = 2,
                                                           .media_type = "application/pdf", .path_glob = "*c*",
                                                           .date_from = "2024"}), 1);
    store_close(store);
}

TEST(bad_match_is_the_callers_fault)
{
    struct store *store = open_new_store(check_temp_dir());
    struct store_search search = {.match = "\"unclosed", .k1 = 1, .limit = 10};
    struct store_hit *hits = NULL;
    struct error err = {0};
    size_t count = 0;

    CHECK_STATUS(store_search(store, &search, &hits, &count, &err), STATUS_BAD_INPUT);
    search.match = "nosuchcolumn : x";
    CHECK_STATUS(store_search(store, &search, &hits, &count, &err), STATUS_BAD_INPUT);
    search.match = "x";
    search.limit = 0;
    CHECK_STATUS(store_search(store, &search, &hits, &count, &err), STATUS_BAD_INPUT);
    search.limit = 5; /* an empty store */
    CHECK_OK(store_search(store, &search, &hits, &count, &err), &err);
    CHECK_EQ_INT(count, 0);
    free(hits);
    store_close(store);
}

struct words {
    char text[256];
    struct span source;
};

static bool join_word(void *context, struct span folded, size_t start, size_t end)
{
    struct words *words = context;

    CHECK(end > start && end <= words->source.len);
    (void)strncat(words->text, folded.ptr, folded.len);
    (void)strcat(words->text, "|");
    return true;
}

TEST(words_fold_as_in_the_index)
{
    struct store *store = open_new_store(check_temp_dir());
    struct words words = {.source = span_from_cstr("Running, ÉCOLES (naïve) U.S. x\xff\xfey \"quote\" 42")};
    struct error err = {0};
    int64_t rows = 0, all = 0;

    CHECK_OK(store_fold_words(store, words.source, join_word, &words, &err), &err);
    CHECK_EQ_STR(words.text, "run|ecol|naiv|u|s|x|y|quot|42|");
    put_text(store, "/1", "", "He runs to the école.");
    CHECK_OK(store_term_rows(store, span_from_cstr("Écoles"), &rows, &all, &err), &err);
    CHECK_EQ_INT(rows, 1);
    CHECK_OK(store_term_rows(store, span_from_cstr("running walks"), &rows, &all, &err), &err);
    CHECK_EQ_INT(rows, 0); /* of the rarest */
    CHECK_EQ_INT(all, 1);
    store_close(store);
}

/* --- A reader beside a writer ---------------------------------------------------------------------------- */

struct reading {
    char dir[4096];
    atomic_bool stop;
    int searches, failures;
};

static void *keep_reading(void *context)
{
    struct reading *reading = context;
    struct store *store = NULL;

    if (store_open(reading->dir, STORE_READ, false, &store, NULL)) {
        reading->failures++;
        return NULL;
    }
    while (!reading->stop) {
        struct store_search search = {.match = "\"version\"", .k1 = 1, .body_weight = 1, .limit = 100};
        struct store_hit *hits = NULL;
        struct store_page page;
        size_t count = 0;

        /* Each document has exactly one version at any moment, and what was found can be read. */
        if (store_snapshot_begin(store, NULL) || store_search(store, &search, &hits, &count, NULL) || count != 5)
            reading->failures++;
        for (size_t i = 0; i < count; i++) {
            if (store_page_get(store, hits[i].document_id, 1, &page, NULL))
                reading->failures++;
        }
        store_snapshot_end(store);
        free(hits);
        reading->searches++;
    }
    store_close(store);
    return NULL;
}

TEST(reader_beside_writer)
{
    struct store *store = open_new_store(check_temp_dir());
    struct reading reading = {0};
    pthread_t thread;
    char path[16], text[64];

    for (int d = 0; d < 5; d++) {
        (void)snprintf(path, sizeof path, "/%d", d);
        put_text(store, path, "", "version none");
    }
    (void)snprintf(reading.dir, sizeof reading.dir, "%s", check_temp_dir());
    CHECK_EQ_INT(pthread_create(&thread, NULL, keep_reading, &reading), 0);
    for (int i = 0; i < 200; i++) {
        (void)snprintf(path, sizeof path, "/%d", i % 5);
        (void)snprintf(text, sizeof text, "version %d of this document", i);
        put_text(store, path, "", text);
    }
    reading.stop = true;
    CHECK_EQ_INT(pthread_join(thread, NULL), 0);
    CHECK_EQ_INT(reading.failures, 0);
    CHECK(reading.searches > 0);
    store_close(store);
}
