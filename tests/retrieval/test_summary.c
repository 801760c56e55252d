/* test_summary.c: the quotations that cover a document: verbatim, in order, each thing once, always the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "retrieval/retrieval.h"
#include "tests/store/documents.h"

#define ARENA_BYTES ((size_t)16 << 20)

struct drawn {
    size_t count;
    char text[32768]; /* quotations, a line feed after each */
};

static void summarise(struct store *store, int64_t id, struct drawn *drawn)
{
    struct retrieval_quote *quotes = NULL;
    struct arena arena;
    struct error err = {0};
    size_t used = 0;

    arena_init(&arena, ARENA_BYTES);
    *drawn = (struct drawn){0};
    CHECK_OK(retrieval_summarise(store, id, &arena, &quotes, &drawn->count, &err), &err);
    for (size_t i = 0; i < drawn->count; i++) {
        struct span text = {0};

        CHECK(i == 0 || quotes[i].page > quotes[i - 1].page ||
              (quotes[i].page == quotes[i - 1].page && quotes[i].start >= quotes[i - 1].end));
        CHECK_OK(store_page_slice(store, id, quotes[i].page, quotes[i].start, quotes[i].end, &arena, &text, &err),
                 &err);
        CHECK(text.len >= 30 && text.len <= 600);
        CHECK(used + text.len + 2 < sizeof drawn->text);
        memcpy(drawn->text + used, text.ptr, text.len);
        used += text.len;
        drawn->text[used++] = '\n';
    }
    arena_finish(&arena);
}

static const char *const heron_pages[] = {
    "The grey heron nests in colonies at the edge of lakes. 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26. "
    "The grey heron nests in colonies at the edge of lakes. Its nests are built of branches high in old alders. "
    "It was a day like any other and so they all went on with it.",
    "Herons hunt fish, frogs and voles in shallow water at dawn. The young leave the nests after fifty days. "
    "In hard winters many herons starve because the lakes freeze."};

TEST(covers_a_document_and_says_nothing_twice)
{
    struct store *store = open_new_store(check_temp_dir());
    struct store_document document = named_document("/heron", "Herons");
    struct error err = {0};
    struct drawn drawn, again;
    int64_t id = 0;
    const char *first;

    for (int i = 0; i < 8; i++) {
        char path[16];

        (void)snprintf(path, sizeof path, "/other%d", i);
        (void)put_text(store, path, "", "It was a day like any other in the city, and they went to work.");
    }
    CHECK_OK(put_document(store, &document, heron_pages, 2, &id, &err), &err);
    summarise(store, id, &drawn);
    CHECK(drawn.count >= 3);
    first = strstr(drawn.text, "nests in colonies");
    CHECK(first && !strstr(first + 1, "nests in colonies")); /* the repeated sentence once */
    CHECK(!strstr(drawn.text, "12 13 14"));
    CHECK(!strstr(drawn.text, "a day like any other")); /* common in the store */
    CHECK(strstr(drawn.text, "hunt fish"));
    summarise(store, id, &again);
    CHECK_EQ_STR(again.text, drawn.text);
    store_close(store);
}

TEST(long_documents_go_by_sections)
{
    static const char *const things[] = {"heron", "granite", "clock", "ferry", "violin", "harvest", "glacier", "loom"};
    struct store *store = open_new_store(check_temp_dir());
    struct store_document document = named_document("/long", "");
    struct error err = {0};
    struct drawn drawn;
    const char *pages[8];
    struct buf texts[8];
    int64_t id = 0;

    for (int p = 0; p < 8; p++) {
        buf_init(&texts[p], 1 << 20);
        for (int i = 0; i < 100; i++)
            CHECK_OK(buf_printf(&texts[p], "The %s number %d was seen near station %d by observers of the %s. ",
                                things[p], i, (int)(check_random() % 50), things[p]), NULL);
        pages[p] = buf_cstr(&texts[p]);
    }
    CHECK_OK(put_document(store, &document, pages, 8, &id, &err), &err);
    summarise(store, id, &drawn);
    CHECK_EQ_INT(drawn.count, 24);
    for (int p = 0; p < 8; p++) {
        CHECK(strstr(drawn.text, things[p])); /* every part has its say */
        buf_finish(&texts[p]);
    }
    store_close(store);
}

TEST(documents_without_sentences)
{
    struct store *store = open_new_store(check_temp_dir());
    struct retrieval_quote *quotes = NULL;
    struct arena arena;
    struct error err = {0};
    struct drawn drawn;
    size_t count;

    summarise(store, put_text(store, "/numbers", "", "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18"), &drawn);
    CHECK_EQ_INT(drawn.count, 0);
    arena_init(&arena, ARENA_BYTES);
    CHECK_STATUS(retrieval_summarise(store, 99, &arena, &quotes, &count, &err), STATUS_NOT_FOUND);
    arena_finish(&arena);
    store_close(store);
}

static bool count_summary(void *context, const struct store_summary *summary)
{
    CHECK(summary->document_id == 1);
    ++*(int *)context;
    return true;
}

TEST(a_summary_is_found_among_summaries_and_never_as_evidence)
{
    struct store *store = open_new_store(check_temp_dir());
    struct store_summary summary = {.key = "k", .document_id = 1, .collection = "default", .title = "Zeppelins",
                                    .body = span_from_cstr("The zeppelin crossed the fjord."), .details = "{}",
                                    .model = "m"};
    struct retrieval_options options = {0};
    struct retrieval_result result = {0};
    struct arena arena;
    struct error err = {0};
    int64_t id = 0;
    int found = 0;

    (void)put_text(store, "/1", "", "Nothing of the kind is said here about the fjord.");
    CHECK_OK(store_summary_put(store, &summary, &id, &err), &err);
    arena_init(&arena, ARENA_BYTES);
    CHECK_OK(retrieval_search(store, span_from_cstr("Which zeppelin?"), &options, &arena, &result, &err), &err);
    CHECK_EQ_INT(result.count, 0);
    CHECK_OK(retrieval_search(store, span_from_cstr("fjord"), &options, &arena, &result, &err), &err);
    CHECK_EQ_INT(result.count, 1);
    CHECK(memmem(result.passages[0].text.ptr, result.passages[0].text.len, "zeppelin", 8) == NULL);
    CHECK_OK(store_summaries(store, 0, NULL, "\"zeppelins\"", 10, count_summary, &found, &err), &err);
    CHECK_EQ_INT(found, 1);
    arena_finish(&arena);
    store_close(store);
}

TEST(headings_are_no_part_of_a_quotation)
{
    static const struct {
        const char *chosen, *kept;
    } cases[] = {
        {"The order of a sum\n\nThe result depends on it.", "The result depends on it."},
        {"1 Sums\n\n1.1 Their order\n\nThe result depends on it.", "The result depends on it."},
        {"The result depends on it.\n\nAnother heading", "The result depends on it."},
        {"Sums\n\nOne.\n\nTwo.\n\nMore", "One.\n\nTwo."},
        {"He: \xe2\x80\x9cno.\xe2\x80\x9d\n\nThat was all.", "He: \xe2\x80\x9cno.\xe2\x80\x9d\n\nThat was all."},
        {"Two things follow:\n\none\ntwo", "Two things follow:\n\none\ntwo"},
        {"\xe5\x92\x8c\xe3\x80\x82\n\nIt ends.", "\xe5\x92\x8c\xe3\x80\x82\n\nIt ends."},
        {"A heading alone", "A heading alone"},
        {"One heading\n\nAnother", "Another"},
        {"No heading. One sentence.", "No heading. One sentence."},
        {"", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t start = 0, end = strlen(cases[i].chosen);

        retrieval_trim_headings(span_from_cstr(cases[i].chosen), &start, &end);
        CHECK_EQ_INT(end - start, strlen(cases[i].kept));
        CHECK(memcmp(cases[i].chosen + start, cases[i].kept, end - start) == 0);
    }
}

TEST(rows_have_cells_and_no_sentence_behind_them)
{
    static const struct {
        const char *text;
        bool rows;
    } cases[] = {
        {"1901\t12", true},
        {"Year\tTons\n1901\t12\n", true},
        {"Year\tTons\n\n1901\t12", true},
        {"Year\tTons\nThe harvest rose.", false},
        {"The harvest rose.", false},
        {"Harvest of both years, in tons\t26", true},
        {"1.\tThe tenant shall pay the rent.", false}, /* a numbered sentence after a wide gap */
        {"Year\tTons\n1.\tThe tenant shall pay the rent.", false},
        {"\treturn 0;", true}, /* code */
        {"\n", false},
        {"", false},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK_EQ_INT(retrieval_is_rows(span_from_cstr(cases[i].text), 0, strlen(cases[i].text)), cases[i].rows);
}

TEST(a_heading_is_a_short_line_between_empty_lines)
{
    static const char text[] = "On sums\n\nThe order of a sum\n\nThe result depends on it. It does\n\nnot end";
    const struct span span = span_from_cstr(text);
    size_t order = (size_t)(strstr(text, "The order") - text), result = (size_t)(strstr(text, "The result") - text),
           does = (size_t)(strstr(text, "It does") - text), last = (size_t)(strstr(text, "not end") - text);

    CHECK(retrieval_is_heading(span, 0, 7));
    CHECK(retrieval_is_heading(span, order, result - 2));
    CHECK(!retrieval_is_heading(span, order + 4, result - 2)); /* a part of it */
    CHECK(!retrieval_is_heading(span, order, result - 6));
    CHECK(!retrieval_is_heading(span, result, does - 1)); /* a sentence */
    CHECK(!retrieval_is_heading(span, does, last - 2));   /* begins within a block */
    CHECK(!retrieval_is_heading(span, last, strlen(text))); /* nothing after it */
}
