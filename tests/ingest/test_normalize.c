/* The canonical text of a page, and that every word keeps its rectangle. */
#include "ingest/normalize.h"

#include <stdio.h>

#include "tests/harness/check.h"
#include "tests/ingest/lines.h"

struct fixture {
    struct arena arena;
    struct sheet sheet;
    struct page_text text;
    struct heading_rules rules;
    struct hyphenated set;
    struct error *err, err_storage;
};

static void begin(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    arena_init(&f->arena, 16 << 20);
    sheet_init(&f->sheet, 1);
    page_text_init(&f->text);
    f->err = &f->err_storage;
}

static void add(struct fixture *f, float x, float y, const char *text)
{
    sheet_add(&f->sheet, &f->arena, x, y, 10, text);
}

static const char *normalize(struct fixture *f, const struct outline_entry *outline, size_t outline_count)
{
    CHECK_OK(heading_rules_init(&f->rules, &f->sheet.page, 1, outline, outline_count, f->err), f->err);
    CHECK_OK(hyphenated_collect(&f->set, &f->sheet.page, 1, f->err), f->err);
    CHECK_OK(normalize_page(&f->sheet.page, &f->rules, &f->set, &f->text, f->err), f->err);
    for (size_t i = 0; i < f->text.runs.count; i++) {
        const struct rectmap_run *run = &f->text.runs.items[i];

        CHECK(run->start < run->end && run->end <= f->text.text.len);
        CHECK(i == 0 || run->start >= run[-1].end);
    }
    return buf_cstr(&f->text.text);
}

static void end(struct fixture *f)
{
    heading_rules_finish(&f->rules);
    hyphenated_finish(&f->set);
    page_text_finish(&f->text);
    arena_finish(&f->arena);
}

/* The run that holds byte `at`. */
static const struct rectmap_run *run_at(const struct fixture *f, size_t at)
{
    for (size_t i = 0; i < f->text.runs.count; i++) {
        if (f->text.runs.items[i].start <= at && at < f->text.runs.items[i].end)
            return &f->text.runs.items[i];
    }
    FAIL("no run at byte %zu", at);
}

TEST(lines_become_a_paragraph)
{
    struct fixture f;

    begin(&f);
    add(&f, 60, 100, "The first line of a paragraph that goes on to the next");
    add(&f, 60, 112, "line, which ends here.");
    add(&f, 60, 140, "A second paragraph stands after a gap of white.");
    CHECK_EQ_STR(normalize(&f, NULL, 0), "The first line of a paragraph that goes on to the next line, which ends "
                                         "here.\n\nA second paragraph stands after a gap of white.");
    CHECK_EQ_INT(f.text.blocks.count, 2);
    CHECK_EQ_INT(f.text.blocks.items[1].kind, BLOCK_PARAGRAPH);
    end(&f);
}

TEST(words_keep_their_rectangles)
{
    struct fixture f;
    const char *text;
    size_t runs = 0;

    begin(&f);
    add(&f, 60, 100, "Alpha \xEF\xAC\x81sh  o\xEF\xAC\x83" "ce\xC2\xA0" "beta\x01 gamma delta epsilon zeta eta theta");
    add(&f, 60, 112, "iota kappa.");
    text = normalize(&f, NULL, 0);
    CHECK_EQ_STR(text, "Alpha fish office beta gamma delta epsilon zeta eta theta iota kappa.");
    for (size_t i = 0; i < f.sheet.page.line_count; i++) {
        for (uint32_t w = 0; w < f.sheet.lines[i].word_count; w++, runs++) {
            const struct frame_word *word = &f.sheet.lines[i].words[w];

            CHECK_NEAR(f.text.runs.items[runs].rect.x0 * 20, word->x0, 0.01);
            CHECK_NEAR(f.text.runs.items[runs].rect.y1 * 20, word->y1, 0.01);
        }
    }
    CHECK_EQ_INT(runs, f.text.runs.count);
    CHECK_EQ_INT(f.text.runs.items[1].start, 6);
    CHECK_EQ_INT(f.text.runs.items[1].end, 10); /* "fish": two bytes of ligature became two letters */
    CHECK_EQ_INT(run_at(&f, strlen(text) - 1)->start, strlen(text) - 6);
    end(&f);
}

TEST(hyphens_at_line_ends_are_rejoined_with_both_rectangles)
{
    struct fixture f;
    const char *text;
    size_t at;

    begin(&f);
    add(&f, 60, 100, "This is an inter-");
    add(&f, 60, 112, "national treaty.");
    text = normalize(&f, NULL, 0);
    CHECK_EQ_STR(text, "This is an international treaty.");
    at = (size_t)(strstr(text, "international") - text);
    CHECK_EQ_INT(run_at(&f, at)->end, at + 5);
    CHECK_NEAR(run_at(&f, at)->rect.y0, 100, 0.01);
    CHECK_EQ_INT(run_at(&f, at + 5)->start, at + 5);
    CHECK_NEAR(run_at(&f, at + 5)->rect.y0, 112, 0.01);
    CHECK_NEAR(run_at(&f, at + 5)->rect.x0, 60, 0.01);
    end(&f);
}

TEST(hyphens_that_the_document_writes_stay)
{
    struct fixture f;

    begin(&f);
    add(&f, 60, 100, "A long-term view is a long-");
    add(&f, 60, 112, "term view. Mr. Smith-");
    add(&f, 60, 124, "Jones had it.");
    CHECK_EQ_STR(normalize(&f, NULL, 0), "A long-term view is a long-term view. Mr. Smith-Jones had it.");
    end(&f);
}

TEST(soft_hyphens_vanish)
{
    struct fixture f;

    begin(&f);
    add(&f, 60, 100, "co\xC2\xADoperate in an inter\xC2\xAD");
    add(&f, 60, 112, "national way");
    CHECK_EQ_STR(normalize(&f, NULL, 0), "cooperate in an international way");
    end(&f);
}

TEST(invisible_characters_are_counted)
{
    struct fixture f;

    begin(&f);
    add(&f, 60, 100, "ab\xE2\x80\x8B" "cd \xF3\xA0\x81\xA1\xF3\xA0\x81\xA2 ef\xE2\x80\xAE");
    CHECK_EQ_STR(normalize(&f, NULL, 0), "abcd ef");
    CHECK_EQ_INT(f.text.hidden_count, 4);
    CHECK_EQ_INT(f.text.tag_count, 2);
    CHECK_EQ_INT(f.text.runs.count, 2);
    end(&f);
}

TEST(headings_come_from_size_and_weight)
{
    struct fixture f;

    begin(&f);
    sheet_add(&f.sheet, &f.arena, 60, 60, 18, "The report");
    sheet_add(&f.sheet, &f.arena, 60, 90, 14, "1 Introduction");
    for (int i = 0; i < 8; i++)
        add(&f, 60, 120 + 12 * (float)i, "body text of the report, which is set in ten points and fills lines");
    sheet_add(&f.sheet, &f.arena, 60, 240, 10, "Scope")->flags = LINE_BOLD;
    add(&f, 60, 260, "more body text");
    (void)normalize(&f, NULL, 0);
    CHECK_EQ_INT(f.text.blocks.items[0].kind, BLOCK_HEADING);
    CHECK_EQ_INT(f.text.blocks.items[0].level, 1);
    CHECK_EQ_INT(f.text.blocks.items[1].kind, BLOCK_HEADING);
    CHECK_EQ_INT(f.text.blocks.items[1].level, 2);
    CHECK_EQ_INT(f.text.blocks.items[2].kind, BLOCK_PARAGRAPH);
    CHECK_EQ_INT(f.text.blocks.items[3].kind, BLOCK_HEADING);
    CHECK_EQ_INT(f.text.blocks.items[3].level, 3);
    CHECK_EQ_INT(f.text.blocks.count, 5);
    end(&f);
}

TEST(the_outline_names_headings)
{
    struct fixture f;
    const struct outline_entry outline[] = {{"Methods and a very long title over two lines", 1, 1}, {"Data", 2, 1}};

    begin(&f);
    add(&f, 60, 100, "2. Methods and a very long title");
    add(&f, 60, 112, "over two lines");
    add(&f, 60, 140, "2.1 Data");
    add(&f, 60, 160, "The data are these.");
    CHECK_EQ_STR(normalize(&f, outline, 2),
                 "2. Methods and a very long title over two lines\n\n2.1 Data\n\nThe data are these.");
    CHECK_EQ_INT(f.text.blocks.items[0].kind, BLOCK_HEADING);
    CHECK_EQ_INT(f.text.blocks.items[0].level, 1);
    CHECK_EQ_INT(f.text.blocks.items[1].level, 2);
    end(&f);
}

TEST(table_rows_keep_their_cells)
{
    struct fixture f;

    begin(&f);
    add(&f, 60, 100, "Net sales|1,234|5,678");
    add(&f, 60, 112, "Cost of sales|234|678");
    CHECK_EQ_STR(normalize(&f, NULL, 0), "Net sales\t1,234\t5,678\nCost of sales\t234\t678");
    CHECK_EQ_INT(f.text.blocks.items[0].kind, BLOCK_TABLE_ROW);
    CHECK_EQ_INT(f.text.runs.count, 9);
    end(&f);
}

TEST(list_items_are_blocks)
{
    struct fixture f;

    begin(&f);
    add(&f, 60, 100, "\xE2\x80\xA2 the first item, which is long and goes on");
    add(&f, 70, 112, "to a second line");
    add(&f, 60, 124, "\xE2\x80\xA2 the second item");
    CHECK_EQ_STR(normalize(&f, NULL, 0), "\xE2\x80\xA2 the first item, which is long and goes on to a second "
                                         "line\n\xE2\x80\xA2 the second item");
    end(&f);
}

TEST(furniture_goes_aside)
{
    struct fixture f;

    begin(&f);
    sheet_add(&f.sheet, &f.arena, 60, 30, 9, "CONFIDENTIAL  draft")->furniture = true;
    add(&f, 60, 100, "Text.");
    sheet_add(&f.sheet, &f.arena, 60, 760, 9, "Page 3")->furniture = true;
    CHECK_EQ_STR(normalize(&f, NULL, 0), "Text.");
    CHECK_EQ_STR(buf_cstr(&f.text.aside), "CONFIDENTIAL draft\nPage 3");
    CHECK_EQ_INT(f.text.runs.count, 1);
    end(&f);
}

TEST(formats_without_positions_keep_their_lines)
{
    struct fixture f;
    static const struct {
        enum line_kind kind;
        int level;
        const char *text;
    } lines[] = {{LINE_HEADING, 2, "A heading"},       {LINE_TEXT, 0, "A   paragraph."},
                 {LINE_TEXT, 0, "another paragraph."}, {LINE_TABLE_ROW, 0, "a\tb\t c"},
                 {LINE_CODE, 0, "if (x)\n    y();"},   {LINE_LIST_ITEM, 0, "item"}};

    begin(&f);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        f.sheet.lines[f.sheet.page.line_count++] = (struct page_line){
            .kind = lines[i].kind, .level = (uint8_t)lines[i].level, .text = span_from_cstr(lines[i].text)};
    CHECK_EQ_STR(normalize(&f, NULL, 0), "A heading\n\nA paragraph.\n\nanother paragraph.\n\na\tb\tc\n\nif (x)\n    "
                                         "y();\n\nitem");
    CHECK_EQ_INT(f.text.blocks.items[0].level, 2);
    end(&f);
}

TEST(random_lines_never_drift)
{
    static const char *const parts[] = {"alpha", " ", "  ", "\xC2\xAD", "-", "\xEF\xAC\x81", "\x02", "\xE2\x80\x8B",
                                        "beta", "\xE6\xBC\xA2", "|", "x", "Y", "3.14", ".", "\xF0\x9F\x98\x80"};

    for (int round = 0; round < 300; round++) {
        struct fixture f;
        const char *text;

        begin(&f);
        for (int i = 0; i < 12; i++) {
            char line[400] = "";

            for (uint64_t n = 1 + check_random() % 20; n; n--)
                strcat(line, parts[check_random() % (sizeof parts / sizeof *parts)]);
            add(&f, 60 + (float)(check_random() % 100), 100 + 12 * (float)i, line);
        }
        text = normalize(&f, NULL, 0);
        /* Every run holds what its word holds, letter for letter: neither blanks nor a neighbour's bytes. */
        for (size_t i = 0; i < f.text.runs.count; i++) {
            for (size_t b = f.text.runs.items[i].start; b < f.text.runs.items[i].end; b++)
                CHECK(text[b] != ' ' && text[b] != '\n' && text[b] != '\t');
        }
        for (size_t b = 0, i = 0; b < f.text.text.len; b++) {
            while (i < f.text.runs.count && f.text.runs.items[i].end <= b)
                i++;
            if (text[b] != ' ' && text[b] != '\n' && text[b] != '\t')
                CHECK(i < f.text.runs.count && f.text.runs.items[i].start <= b);
        }
        end(&f);
    }
}
