/* Passages: whole sentences, the right size, never across a heading, spans that give their text back. */
#include "ingest/chunk.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/utf8.h"
#include "ingest/sentence.h"
#include "tests/harness/check.h"

enum { MAX_PAGES = 8, MAX_BLOCKS = 2000, PAGE_BYTES = 1 << 20 };

struct fixture {
    struct arena arena;
    struct chunk_page pages[MAX_PAGES];
    struct text_block *blocks[MAX_PAGES];
    char *texts[MAX_PAGES];
    size_t page_count;
    struct chunk_list list;
    struct error *err, err_storage;
};

static void begin(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    arena_init(&f->arena, 256 << 20);
    f->err = &f->err_storage;
}

static void add_page(struct fixture *f)
{
    size_t p = f->page_count++;

    f->texts[p] = arena_alloc(&f->arena, PAGE_BYTES);
    f->blocks[p] = arena_alloc_array(&f->arena, MAX_BLOCKS, sizeof **f->blocks);
    f->pages[p] = (struct chunk_page){(int)p + 1, {f->texts[p], 0}, f->blocks[p], 0};
}

static void add(struct fixture *f, enum block_kind kind, int level, const char *text)
{
    struct chunk_page *page = &f->pages[f->page_count - 1];
    char *at = f->texts[f->page_count - 1];

    if (page->block_count) {
        memcpy(at + page->text.len, "\n\n", 2);
        page->text.len += 2;
    }
    memcpy(at + page->text.len, text, strlen(text));
    f->blocks[f->page_count - 1][page->block_count++] =
        (struct text_block){kind, level, (uint32_t)page->text.len, (uint32_t)(page->text.len + strlen(text))};
    page->text.len += strlen(text);
}

/* Runs the chunker and checks what must hold of every result. */
static void chunk(struct fixture *f)
{
    size_t page = 0, at = 0;

    CHECK_OK(chunk_document(f->pages, f->page_count, &f->arena, &f->list, f->err), f->err);
    for (size_t i = 0; i < f->list.chunks.count; i++) {
        const struct store_chunk *c = &f->list.chunks.items[i];
        size_t used = 0;

        CHECK_EQ_INT(c->ordinal, i);
        CHECK(c->text.len > 0 && c->text.len <= CHUNK_MAX_BYTES);
        CHECK(utf8_valid(c->text));
        CHECK_EQ_INT(c->token_estimate, (c->text.len + 3) / 4);
        for (size_t s = 0; s < c->span_count; s++) {
            const struct chunk_page *p = &f->pages[c->spans[s].page - 1];
            struct span text = span_slice(p->text, c->spans[s].start, c->spans[s].end);

            if (s)
                CHECK(c->text.ptr[used++] == '\n');
            CHECK_EQ_SPAN(span_slice(c->text, used, used + text.len), text);
            used += text.len;
            /* In order, and nothing but white space between one span and the next. */
            while (page < (size_t)c->spans[s].page - 1) {
                for (; at < f->pages[page].text.len; at++)
                    CHECK(strchr(" \n\t", f->pages[page].text.ptr[at]));
                page++;
                at = 0;
            }
            for (; at < c->spans[s].start; at++)
                CHECK(strchr(" \n\t", p->text.ptr[at]));
            CHECK_EQ_INT(at, c->spans[s].start);
            at = c->spans[s].end;
        }
        CHECK_EQ_INT(used, c->text.len);
    }
}

static void end(struct fixture *f)
{
    chunk_list_finish(&f->list);
    arena_finish(&f->arena);
}

static char *sentences(struct fixture *f, int count, const char *word)
{
    char *text = arena_alloc(&f->arena, (size_t)count * 200);

    for (int i = 0; i < count; i++)
        sprintf(text + strlen(text), "%sSentence %d says that the %s is of some length, and ends.", i ? " " : "", i,
                word);
    return text;
}

TEST(passages_have_the_right_size_and_end_with_sentences)
{
    struct fixture f;

    begin(&f);
    add_page(&f);
    add(&f, BLOCK_PARAGRAPH, 0, sentences(&f, 200, "paragraph"));
    chunk(&f);
    CHECK(f.list.chunks.count >= 10);
    for (size_t i = 0; i < f.list.chunks.count; i++) {
        struct span text = f.list.chunks.items[i].text;

        CHECK(text.len >= CHUNK_MIN_BYTES);
        CHECK(memcmp(text.ptr, "Sentence", 8) == 0);
        CHECK(text.ptr[text.len - 1] == '.');
    }
    end(&f);
}

TEST(headings_open_passages_and_make_the_path)
{
    struct fixture f;

    begin(&f);
    add_page(&f);
    add(&f, BLOCK_HEADING, 1, "2 Methods");
    add(&f, BLOCK_HEADING, 2, "2.1 Data");
    add(&f, BLOCK_PARAGRAPH, 0, sentences(&f, 20, "data"));
    add(&f, BLOCK_HEADING, 2, "2.2 Models");
    add(&f, BLOCK_PARAGRAPH, 0, "Short.");
    add(&f, BLOCK_HEADING, 1, "3 Results");
    add(&f, BLOCK_PARAGRAPH, 0, "None.");
    chunk(&f);
    CHECK_EQ_STR(f.list.chunks.items[0].heading, "2 Methods > 2.1 Data");
    CHECK(memcmp(f.list.chunks.items[0].text.ptr, "2 Methods\n\n2.1 Data\n\nSentence 0", 30) == 0);
    CHECK_EQ_STR(f.list.chunks.items[f.list.chunks.count - 2].heading, "2 Methods > 2.2 Models");
    CHECK_EQ_SPAN(f.list.chunks.items[f.list.chunks.count - 2].text, span_from_cstr("2.2 Models\n\nShort."));
    CHECK_EQ_STR(f.list.chunks.items[f.list.chunks.count - 1].heading, "3 Results");
    end(&f);
}

TEST(a_sentence_over_the_page_break_stays_whole)
{
    struct fixture f;

    begin(&f);
    add_page(&f);
    add(&f, BLOCK_PARAGRAPH, 0, "The parties agree that this sentence");
    add_page(&f);
    add(&f, BLOCK_PARAGRAPH, 0, "ends on the next page. And so on.");
    chunk(&f);
    CHECK_EQ_INT(f.list.chunks.count, 1);
    CHECK_EQ_INT(f.list.chunks.items[0].span_count, 2);
    CHECK_EQ_SPAN(f.list.chunks.items[0].text,
                  span_from_cstr("The parties agree that this sentence\nends on the next page. And so on."));
    end(&f);
}

TEST(an_overlong_sentence_is_cut_at_a_clause)
{
    struct fixture f;
    char *text;

    begin(&f);
    add_page(&f);
    text = arena_alloc(&f.arena, 20000);
    for (int i = 0; i < 400; i++)
        sprintf(text + strlen(text), "%sword number %d", i ? ", " : "", i);
    add(&f, BLOCK_PARAGRAPH, 0, text);
    chunk(&f);
    for (size_t i = 0; i + 1 < f.list.chunks.count; i++) {
        struct span c = f.list.chunks.items[i].text;

        CHECK(c.ptr[c.len - 1] == ',');
        CHECK(c.len > CHUNK_MAX_BYTES / 2);
    }
    end(&f);
}

TEST(text_without_blanks_is_cut_between_characters)
{
    struct fixture f;
    char *text;

    begin(&f);
    add_page(&f);
    text = arena_alloc(&f.arena, 40000);
    for (int i = 0; i < 5000; i++)
        strcpy(text + 3 * i, "\xE6\xBC\xA2");
    add(&f, BLOCK_PARAGRAPH, 0, text);
    chunk(&f);
    CHECK(f.list.chunks.count >= 13);
    end(&f);
}

TEST(random_documents_lose_nothing)
{
    for (int round = 0; round < 60; round++) {
        struct fixture f;

        begin(&f);
        for (uint64_t pages = 1 + check_random() % MAX_PAGES; pages; pages--) {
            add_page(&f);
            for (uint64_t blocks = check_random() % 20; blocks; blocks--) {
                uint64_t kind = check_random() % 8;

                if (kind == 0)
                    add(&f, BLOCK_HEADING, 1 + (int)(check_random() % 6), "A heading of some kind");
                else if (kind == 1)
                    add(&f, BLOCK_TABLE_ROW, 0, "cell\t12\t13");
                else
                    add(&f, BLOCK_PARAGRAPH, 0, sentences(&f, 1 + (int)(check_random() % 40), "thing"));
            }
        }
        chunk(&f);
        end(&f);
    }
}

static void check_first_sentence(const char *text, size_t expected)
{
    size_t len = sentence_length(span_from_cstr(text));

    if (len != expected)
        FAIL("'%s': the first sentence has %zu bytes, expected %zu", text, len, expected);
}

TEST(sentences_end_where_they_should)
{
    check_first_sentence("One. Two.", 5);
    check_first_sentence("Mr. Smith went. He did.", 16);
    check_first_sentence("It cost 3.14 dollars. Cheap.", 22);
    check_first_sentence("See e.g. Fig. 3 of J. Smith et al. 2003. Then go.", 41);
    check_first_sentence("He said \"stop.\" Then he left.", 16);
    check_first_sentence("Really?! Yes.", 9);
    check_first_sentence("no end", 6);
    check_first_sentence("visit example.com. now", 22);
    check_first_sentence("\xE4\xB8\x80\xE3\x80\x82\xE4\xBA\x8C\xE3\x80\x82", 6);
}

TEST(fingerprints)
{
    struct span a = span_from_cstr("The quick brown fox jumps over the lazy dog near the bank of the river today");
    struct span b = span_from_cstr("the  quick brown\nfox jumps over the lazy dog near the bank of the river TODAY");
    struct span c = span_from_cstr("The quick brown fox jumps over the lazy dog near the bank of the river tonight");
    struct span d = span_from_cstr("Completely different words make up this other sentence about filings and reports");

    CHECK(chunk_hash(a) == chunk_hash(b));
    CHECK(chunk_hash(a) != chunk_hash(c));
    CHECK(chunk_simhash(a) == chunk_simhash(b));
    CHECK(__builtin_popcountll(chunk_simhash(a) ^ chunk_simhash(c)) <
          __builtin_popcountll(chunk_simhash(a) ^ chunk_simhash(d)));
    CHECK(chunk_simhash(span_from_cstr("two words")) != 0);
    CHECK_EQ_INT(chunk_simhash(span_from_cstr(" .. ")), 0);
}
