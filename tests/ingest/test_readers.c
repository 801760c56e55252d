/* test_readers.c: each format through the real extractor. The expected lines are in the form of extract_print.c. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ingest/limits.h"
#include "ingest/mail_decode.h"
#include "ingest/markdown_inline.h"
#include "tests/harness/check.h"
#include "tests/ingest/fixture_extract.h"
#include "tests/ingest/fixture_pdf.h"

static void read_pdf(const struct fixture_pdf *pdf, struct fixture_result *result)
{
    struct buf bytes;

    buf_init(&bytes, 64 << 20);
    fixture_pdf_write(pdf, &bytes);
    fixture_extract(buf_span(&bytes), "test.pdf", false, NULL, NULL, result);
    buf_finish(&bytes);
}

static void read_text(const char *text, const char *name, struct fixture_result *result)
{
    fixture_extract(span_from_cstr(text), name, false, NULL, NULL, result);
}

/* --- PDF ---------------------------------------------------------------------------------------------------- */

TEST(pdf_text_with_rectangles_and_fonts)
{
    struct fixture_pdf pdf;
    struct fixture_result got;

    fixture_pdf_init(&pdf);
    fixture_pdf_page(&pdf, 612, 792,
                     "BT /B 20 Tf 72 700 Td (A Title) Tj ET\n"
                     "BT /F 10 Tf 72 660 Td (Hello world) Tj ET\n"
                     "BT /F 10 Tf 72 640 Td (na\357ve caf\351) Tj ET");
    read_pdf(&pdf, &got);
    CHECK_EQ_INT(got.code, 0);
    check_has_line(&got, "start {\"media_type\":\"application/pdf\"…");
    check_has_line(&got, "page 1 612x792 '1'");
    /* The baseline stands at 792 - 700 = 92 points from the top, the box around it. */
    check_has_line(&got, "text 20 bold [72.0 77…");
    check_has_line(&got, "text 10 [72.0 124…");
    CHECK(strstr(got.text.ptr, "] Hello world\n") && strstr(got.text.ptr, "] A Title\n"));
    CHECK(strstr(got.text.ptr, "] na\xC3\xAFve caf\xC3\xA9\n"));
    check_has_line(&got, "end …");
    check_has_no(&got, "problem");
    fixture_result_finish(&got);
}

TEST(pdf_metadata_labels_and_outline)
{
    struct fixture_pdf pdf;
    struct fixture_result got;

    fixture_pdf_init(&pdf);
    fixture_pdf_page(&pdf, 612, 792, "BT /F 10 Tf 72 700 Td (one) Tj ET");
    fixture_pdf_page(&pdf, 612, 792, "BT /F 10 Tf 72 700 Td (two) Tj ET");
    fixture_pdf_page(&pdf, 200, 100, "BT /F 10 Tf 10 50 Td (three) Tj ET");
    pdf.pages[2].entries = "/Rotate 90";
    /* UTF-16 holds NULs, so the author is written in octal escapes. */
    pdf.info = "/Title (The \\(small\\) book)/Author (\\376\\377\\000\\304)/CreationDate (D:20240131120000Z)";
    pdf.catalog = "/PageLabels<</Nums[0<</S/r/St 4>>2<</S/D>>]>>/Outlines 900 0 R";
    pdf.objects =
        "900 0 obj\n<</Type/Outlines/First 901 0 R/Last 901 0 R/Count 1>>\nendobj\n"
        "901 0 obj\n<</Title (Chapter)/Parent 900 0 R/Dest[12 0 R/Fit]/First 902 0 R/Last 902 0 R/Count 1>>\nendobj\n"
        "902 0 obj\n<</Title (Section)/Parent 901 0 R/Dest[14 0 R/Fit]>>\nendobj\n";
    read_pdf(&pdf, &got);
    check_has_line(&got,
                   "meta {\"title\":\"The (small) book\",\"author\":\"\xC3\x84\",\"created\":\"2024-01-31T12:00:00Z\","
                   "\"page_count\":3}");
    check_has_line(
        &got,
        "outline [{\"title\":\"Chapter\",\"level\":1,\"page\":2},{\"title\":\"Section\",\"level\":2,\"page\":3}]");
    check_has_line(&got, "page 1 612x792 'iv'");
    check_has_line(&got, "page 2 612x792 'v'");
    check_has_line(&got, "page 3 100x200 '1'"); /* as it is shown, turned */
    fixture_result_finish(&got);
}

TEST(pdf_attachments_are_named_and_not_read)
{
    struct fixture_pdf pdf;
    struct fixture_result got;

    fixture_pdf_init(&pdf);
    fixture_pdf_page(&pdf, 612, 792, "BT /F 10 Tf 72 700 Td (cover) Tj ET");
    pdf.catalog = "/Names<</EmbeddedFiles<</Names[(data.csv)900 0 R]>>>>";
    pdf.objects = "900 0 obj\n<</Type/Filespec/F(data.csv)/UF(data.csv)/EF<</F 901 0 R>>>>\nendobj\n"
                  "901 0 obj\n<</Type/EmbeddedFile/Length 4>>\nstream\na,b\n\nendstream\nendobj\n";
    read_pdf(&pdf, &got);
    check_has_line(&got,
                   "problem {\"code\":\"attachment-skipped\",\"message\":\"'data.csv' was not read\",\"page\":0}");
    CHECK(strstr(got.text.ptr, "] cover\n"));
    fixture_result_finish(&got);
}

TEST(pdf_tiny_and_faint_text_is_kept_and_counted)
{
    struct fixture_pdf pdf;
    struct fixture_result got;

    fixture_pdf_init(&pdf);
    fixture_pdf_page(&pdf, 612, 792,
                     "BT /F 10 Tf 72 700 Td (plain) Tj ET\n"
                     "BT /F 1 Tf 72 600 Td (very small words) Tj ET\n"
                     "1 1 1 rg BT /F 10 Tf 72 500 Td (white words) Tj ET");
    read_pdf(&pdf, &got);
    check_has_line(&got, "text 1 tiny […");
    check_has_line(&got, "text 10 faint […");
    check_has_line(&got, "problem {\"code\":\"tiny-text\"…");
    check_has_line(&got, "problem {\"code\":\"faint-text\"…");
    fixture_result_finish(&got);
}

TEST(pdf_pages_that_cannot_be_read_are_reported_and_the_rest_is_kept)
{
    struct fixture_pdf pdf;
    struct fixture_result got;

    fixture_pdf_init(&pdf);
    fixture_pdf_page(&pdf, 612, 792, "BT /F 10 Tf 72 700 Td (first) Tj ET");
    fixture_pdf_page(&pdf, 612, 792, NULL); /* its object is missing: poppler closes ranks, and misses the last */
    fixture_pdf_page(&pdf, 612, 792, "");
    fixture_pdf_page(&pdf, 612, 792, "BT /F 10 Tf 72 700 Td (last) Tj ET");
    read_pdf(&pdf, &got);
    CHECK_EQ_INT(got.code, 0);
    check_has_line(&got, "problem {\"code\":\"bad-page\",\"message\":\"the page can't be read\",\"page\":4}");
    check_has_line(&got,
                   "problem {\"code\":\"no-text\",\"message\":\"1 of 4 pages have no text (pictures?)\",\"page\":2}");
    CHECK(strstr(got.text.ptr, "] first\n") && strstr(got.text.ptr, "] last\n"));
    fixture_result_finish(&got);
}

TEST(pdf_without_pages_or_damaged_or_not_a_pdf)
{
    struct fixture_pdf pdf;
    struct fixture_result got;
    struct buf bytes;

    fixture_pdf_init(&pdf);
    read_pdf(&pdf, &got);
    check_has_line(&got, "problem {\"code\":\"empty\"…");
    CHECK_EQ_INT(got.code, 0); /* the child did its work: the stream is whole */
    fixture_result_finish(&got);

    read_text("%PDF-1.7\nthis is no more a PDF than that\n", "x.pdf", &got);
    check_has_line(&got, "problem {\"code\":\"damaged\"…");
    check_has_line(&got, "end …");
    fixture_result_finish(&got);

    fixture_pdf_page(&pdf, 612, 792, "BT /F 10 Tf 72 700 Td (cut) Tj ET");
    buf_init(&bytes, 1 << 20);
    fixture_pdf_write(&pdf, &bytes);
    for (size_t len = 0; len < 1200; len += 100) { /* cut at any place: an answer, never a crash */
        fixture_extract(span_of(bytes.ptr, len), "cut.pdf", false, NULL, NULL, &got);
        CHECK_EQ_INT(got.code, 0);
        check_has_line(&got, "end …");
        fixture_result_finish(&got);
    }
    buf_finish(&bytes);
}

/* A page of 60 KB whose content stream is named 6,000 times: 100 million characters. */
static void make_bomb(struct buf *out)
{
    struct buf stream;
    struct fixture_pdf pdf;
    char *contents, *at;

    buf_init(&stream, 1 << 20);
    CHECK(buf_printf(&stream, "BT /F 10 Tf 72 700 Td ") == STATUS_OK);
    for (int i = 0; i < 800; i++)
        CHECK(buf_printf(&stream, "(abcdefghij klmnopqrst) Tj 0 -1 Td ") == STATUS_OK);
    CHECK(buf_printf(&stream, "ET") == STATUS_OK);
    contents = malloc(6000 * 8 + 64);
    at = contents + sprintf(contents, "/Contents[");
    for (int i = 0; i < 6000; i++)
        at += sprintf(at, "13 0 R ");
    (void)sprintf(at, "]");
    fixture_pdf_init(&pdf);
    fixture_pdf_page(&pdf, 612, 792, "BT /F 10 Tf 72 700 Td (the first page) Tj ET");
    fixture_pdf_page(&pdf, 612, 792, stream.ptr);
    pdf.pages[1].entries = contents;
    fixture_pdf_write(&pdf, out);
    free(contents);
    buf_finish(&stream);
}

TEST(pdf_that_expands_without_end_costs_itself_alone)
{
    struct fixture_result got;
    struct buf bytes;

#ifdef __SANITIZE_ADDRESS__
    SKIP("no address-space limit in sanitizer builds");
#endif
    buf_init(&bytes, 8 << 20);
    make_bomb(&bytes);
    fixture_extract(buf_span(&bytes), "bomb.pdf", false, "--memory", "48", &got);
    CHECK_EQ_INT(got.code, 65); /* the stream has no END: the child died */
    CHECK(strstr(got.text.ptr, "] the first page\n"));
    fixture_result_finish(&got);
    buf_finish(&bytes);
}

TEST(pdf_from_a_pipe_is_the_same)
{
    struct fixture_pdf pdf;
    struct fixture_result file, pipe;
    struct buf bytes;

    fixture_pdf_init(&pdf);
    for (int i = 0; i < 40; i++)
        fixture_pdf_page(&pdf, 612, 792, "BT /F 10 Tf 72 700 Td (the same on every page) Tj ET");
    buf_init(&bytes, 1 << 20);
    fixture_pdf_write(&pdf, &bytes);
    fixture_extract(buf_span(&bytes), "a.pdf", false, NULL, NULL, &file);
    fixture_extract(buf_span(&bytes), "a.pdf", true, NULL, NULL, &pipe);
    CHECK_EQ_INT(count_lines(&file, "page "), 40);
    CHECK_EQ_SPAN(buf_span(&pipe.text), buf_span(&file.text));
    fixture_result_finish(&file);
    fixture_result_finish(&pipe);
    buf_finish(&bytes);
}

/* --- Plain text ---------------------------------------------------------------------------------------------- */

TEST(text_paragraphs_are_rejoined)
{
    struct fixture_result got;

    read_text("A paragraph that was wrapped by hand at some column,\n"
              "as people do, and goes on here.\n"
              "\n"
              "Short\nlines\n"
              "- an item of a list that is long enough to be wrapped\n"
              "  and goes on\n"
              "- another\n",
              "notes.txt", &got);
    check_has_line(&got, "page 1 0x0 ''");
    check_has_line(&got, "text A paragraph that was wrapped by hand at some column, as people do, and goes on here.");
    check_has_line(&got, "text Short");
    check_has_line(&got, "text lines");
    check_has_line(&got, "item - an item of a list that is long enough to be wrapped and goes on");
    check_has_line(&got, "item - another");
    fixture_result_finish(&got);
}

TEST(text_in_many_encodings)
{
    static const struct {
        const char *bytes;
        size_t len;
    } same[] = {
        {"gr\xC3\xBC\xC3\x9F", 6},                                 /* UTF-8 */
        {"\xEF\xBB\xBFgr\xC3\xBC\xC3\x9F", 9},                     /* with a mark */
        {"\xFF\xFEg\0r\0\xFC\0\xDF\0", 10},                        /* UTF-16LE with a mark */
        {"\xFE\xFF\0g\0r\0\xFC\0\xDF", 10},                        /* UTF-16BE with a mark */
        {"\xFF\xFE\0\0g\0\0\0r\0\0\0\xFC\0\0\0\xDF\0\0\0", 20},     /* UTF-32LE with a mark */
        {"gr\xFC\xDF", 4},                                         /* Latin-1, guessed */
    };

    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        struct fixture_result got;

        fixture_extract(span_of(same[i].bytes, same[i].len), "a.txt", i % 2, NULL, NULL, &got);
        check_has_line(&got, "text gr\xC3\xBC\xC3\x9F");
        CHECK_EQ_INT(count_lines(&got, "problem"), i == 5 ? 1 : 0);
        fixture_result_finish(&got);
    }
}

TEST(text_line_ends_of_every_kind)
{
    struct fixture_result got;

    read_text("one\r\ntwo\rthree\n\nfour\ffive", "a.txt", &got);
    CHECK_EQ_INT(count_lines(&got, "text "), 5);
    check_has_line(&got, "text one");
    check_has_line(&got, "text three");
    check_has_line(&got, "text five");
    fixture_result_finish(&got);
}

TEST(text_late_rubbish_is_repaired_and_reported)
{
    struct fixture_result got;

    read_text("fine \xC3\xA4\xC3\xB6\xC3\xBC here, and a control \x01 character\n", "a.txt", &got);
    check_has_line(&got, "text fine \xC3\xA4\xC3\xB6\xC3\xBC here, and a control   character");
    check_has_line(&got, "problem {\"code\":\"repaired-text\"…");
    fixture_result_finish(&got);
}

TEST(text_source_keeps_its_lines)
{
    struct fixture_result got;

    read_text("int main(void)\n{\n    return 0;\n}\n\nint x;\n", "main.c", &got);
    check_has_line(&got, "code int main(void)\\n{\\n    return 0;\\n}");
    check_has_line(&got, "code int x;");
    fixture_result_finish(&got);
}

TEST(text_without_line_ends_is_cut_into_lines)
{
    size_t len = 10 << 20;
    char *big = malloc(len);
    struct fixture_result got;

    memset(big, 'x', len);
    fixture_extract(span_of(big, len), "big.txt", true, NULL, NULL, &got);
    CHECK_EQ_INT(got.code, 0);
    CHECK_EQ_INT(count_lines(&got, "text "), 10);
    fixture_result_finish(&got);
    free(big);
}

TEST(text_beyond_the_cap_is_cut_and_reported)
{
    size_t len = LIMIT_DOCUMENT_TEXT_BYTES + (3 << 20);
    char *big = malloc(len);
    struct fixture_result got;

    for (size_t i = 0; i < len; i++)
        big[i] = i % 1000 == 999 ? '\n' : 'y';
    fixture_extract(span_of(big, len), "big.txt", false, NULL, NULL, &got);
    CHECK_EQ_INT(got.code, 0);
    CHECK(strstr(got.text.ptr + got.text.len - 300, "\"code\":\"limit-text\""));
    CHECK(got.text.len < (size_t)LIMIT_DOCUMENT_TEXT_BYTES + (1 << 20));
    fixture_result_finish(&got);
    free(big);
}

TEST(empty_and_unknown_files)
{
    static const char noise[] = "\x7F" "ELF\2\1\1\0\0\0\0\0\0\0\0\0\3\0>\0\1\0\0\0";
    struct fixture_result got;

    read_text("", "empty.txt", &got);
    check_has_line(&got, "problem {\"code\":\"empty\"…");
    fixture_result_finish(&got);
    read_text("%!PS-Adobe-3.0\nshowpage\n", "a.ps", &got);
    check_has_line(
        &got, "problem {\"code\":\"unknown-type\",\"message\":\"a PostScript document that no reader here takes\"…");
    fixture_result_finish(&got);
    fixture_extract(span_of(noise, sizeof noise), "program", false, NULL, NULL, &got);
    check_has_line(&got, "problem {\"code\":\"unknown-type\",\"message\":\"a program that no reader here takes\"…");
    check_has_line(&got, "end …");
    fixture_result_finish(&got);
}

/* --- HTML ---------------------------------------------------------------------------------------------------- */

TEST(html_blocks_and_metadata)
{
    struct fixture_result got;

    read_text("<!DOCTYPE html><html lang=en><head><title>The\n title</title><meta name=author content='Me &amp; you'>"
              "<script>var x = '<p>no</p>';</script><style>p{}</style></head><body>"
              "<h1>Big <i>one</i></h1><p>Para &eacute; &#8364; \xC3\xA9<br>second line"
              "<ul><li>a<li>b <b>c</b><ol><li>x<li>y</ol></ul><pre>code\n  more</pre>tail",
              "page.html", &got);
    check_has_line(&got, "start {\"media_type\":\"text/html\"…");
    check_has_line(&got, "heading1 Big one");
    check_has_line(&got, "text Para \xC3\xA9 \xE2\x82\xAC \xC3\xA9");
    check_has_line(&got, "text second line");
    check_has_line(&got, "item - a");
    check_has_line(&got, "item - b c");
    check_has_line(&got, "item 1. x");
    check_has_line(&got, "item 2. y");
    check_has_line(&got, "code code\\n  more");
    check_has_line(&got, "text tail");
    check_has_line(&got, "meta {\"title\":\"The title\",\"author\":\"Me & you\",\"language\":\"en\"}");
    check_has_no(&got, "var x");
    fixture_result_finish(&got);
}

TEST(html_tables_of_data_and_of_layout)
{
    struct fixture_result got;

    read_text(
        "<table><tr><th>H1<th>H2</tr><tr><td>1<td><p>2 x</p><p>y</p></td></tr><tr><td></td><td>3</td></tr></table>"
        "<table><tr><td><h2>Layout</h2><p>words</p></td><td>side</td></tr></table>"
        "<table><tr><td><table><tr><td>inner</td><td>row</td></tr></table></td></tr></table>",
        "t.html", &got);
    check_has_line(&got, "row H1\tH2");
    check_has_line(&got, "row 1\t2 x y");
    check_has_line(&got, "row \t3"); /* an empty cell keeps its column */
    check_has_line(&got, "heading2 Layout");
    check_has_line(&got, "text words");
    check_has_line(&got, "text side");
    check_has_line(&got, "row inner\trow");
    fixture_result_finish(&got);
}

TEST(html_in_the_encoding_it_states_or_has)
{
    static const char *const pages[] = {
        "<html><meta charset=utf-8><p>\xC3\xBC</p>",
        "<html><p>\xC3\xBC</p>",                               /* states nothing */
        "<html><meta charset=iso-8859-1><p>\xC3\xBC</p>",       /* lies: it is UTF-8 */
        "<html><meta charset=\"iso-8859-1\"><p>\xFC</p>",
        "<html><meta http-equiv=content-type content='text/html; charset=windows-1252'><p>\xFC</p>",
    };

    for (size_t i = 0; i < sizeof pages / sizeof *pages; i++) {
        struct fixture_result got;

        read_text(pages[i], "x.html", &got);
        check_has_line(&got, "text \xC3\xBC");
        fixture_result_finish(&got);
    }
}

TEST(html_hostile_nesting_ends)
{
    struct buf page;
    struct fixture_result got;

    buf_init(&page, 8 << 20);
    CHECK(buf_append_cstr(&page, "<html>") == STATUS_OK);
    for (int i = 0; i < 20000; i++)
        CHECK(buf_append_cstr(&page, i % 3 ? "<div><b>" : "<table><tr><td><ul><li>") == STATUS_OK);
    CHECK(buf_append_cstr(&page, "at the bottom") == STATUS_OK);
    fixture_extract(buf_span(&page), "deep.html", false, NULL, NULL, &got);
    CHECK_EQ_INT(got.code, 0);
    CHECK(strstr(got.text.ptr, "at the bottom"));
    check_has_line(&got, "end …");
    fixture_result_finish(&got);
    buf_finish(&page);
}

TEST(html_entities_do_not_expand)
{
    struct fixture_result got;

    read_text("<!DOCTYPE html [<!ENTITY a \"xxxxxxxxxx\"><!ENTITY b \"&a;&a;&a;\"><!ENTITY f SYSTEM \"/etc/passwd\">]>"
              "<html><p>&b; &f; end</p>",
              "e.html", &got);
    check_has_no(&got, "xxxxxxxxxxx");
    check_has_no(&got, "root:");
    fixture_result_finish(&got);
}

/* --- Markdown ------------------------------------------------------------------------------------------------ */

TEST(markdown_blocks)
{
    struct fixture_result got;

    read_text("---\ntitle: \"My doc\"\nauthor: Me\n---\n"
              "# Heading *one* with `code` #\n\nSetext two\n----------\nText goes\non.\n\n"
              "- item one\n  continues\n- item two\n    - nested\n1. first\n2. second\n\n"
              "| A | B |\n|---|:-:|\n| 1 `a|b` | 2 \\| 3 |\n\n"
              "```c\nint x = *p;\n\n   y\n```\n\n    indented\n\n    code\n\n> quote here\n> more\n\n"
              "<!-- a comment\nover lines -->\n***\nlast\n1984 was a year\n",
              "doc.md", &got);
    check_has_line(&got, "start {\"media_type\":\"text/markdown\"…");
    check_has_line(&got, "heading1 Heading one with code");
    check_has_line(&got, "heading2 Setext two");
    check_has_line(&got, "text Text goes on.");
    check_has_line(&got, "item - item one continues");
    check_has_line(&got, "item - nested");
    check_has_line(&got, "item 1. first");
    check_has_line(&got, "row A\tB");
    check_has_line(&got, "row 1 a|b\t2 | 3");
    check_has_line(&got, "code int x = *p;\\n\\n   y");
    check_has_line(&got, "code indented\\n\\ncode");
    check_has_line(&got, "text quote here more");
    check_has_line(&got, "text last 1984 was a year");
    check_has_line(&got, "meta {\"title\":\"My doc\",\"author\":\"Me\"}");
    check_has_no(&got, "comment");
    fixture_result_finish(&got);
}

TEST(markdown_inline_marks)
{
    static const struct {
        const char *source, *text;
    } cases[] = {
        {"**bold** and _em_ and ***both***", "bold and em and both"},
        {"snake_case_name and 5 * 3 * 2 and a*b", "snake_case_name and 5 * 3 * 2 and a*b"},
        {"~~gone~~ and ~ this", "gone and ~ this"},
        {"`a*b*` and ``c`d``", "a*b* and c`d"},
        {"an ` alone", "an ` alone"},
        {"[a link](http://x.y/(z) \"t\"), [b][ref], ![pic](p.png)", "a link, b, pic"},
        {"[not a link] and a[0]", "[not a link] and a[0]"},
        {"[![badge](b.svg)](http://x)", "badge"},
        {"<https://a.b/c> <me@x.y> <b>x</b> 1 < 2 > 0", "https://a.b/c me@x.y x 1 < 2 > 0"},
        {"&amp; &lt; &#8364; &#x41; &nothing; AT&T", "& < \xE2\x82\xAC A &nothing; AT&T"},
        {"\\*not\\* a \\path", "*not* a \\path"},
        {"x <!-- gone --> y", "x  y"},
        {"*", "*"},
        {"", ""},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf out;

        buf_init(&out, 4096);
        CHECK_OK(markdown_inline(span_from_cstr(cases[i].source), &out), (struct error *)NULL);
        CHECK_EQ_STR(buf_cstr(&out), cases[i].text);
        buf_finish(&out);
    }
}

TEST(markdown_inline_survives_anything)
{
    static const char alphabet[] = "**__~~``[]()!<>&;#\\ ab\n-";
    char text[400];

    for (int round = 0; round < 20000; round++) {
        size_t len = check_random() % sizeof text;
        struct buf out;

        for (size_t i = 0; i < len; i++)
            text[i] = alphabet[check_random() % (sizeof alphabet - 1)];
        buf_init(&out, 4096);
        CHECK_OK(markdown_inline(span_of(text, len), &out), (struct error *)NULL);
        CHECK(out.len <= 4 * len + 4);
        buf_finish(&out);
    }
}

/* --- Tables -------------------------------------------------------------------------------------------------- */

TEST(csv_and_tsv)
{
    struct fixture_result got;

    read_text("a,b,\"c \"\"q\"\" d, e\"\n1,\"two\nlines\",3\n,,4\n", "x.csv", &got);
    check_has_line(&got, "row a\tb\tc \"q\" d, e");
    check_has_line(&got, "row 1\ttwo lines\t3");
    check_has_line(&got, "row \t\t4");
    fixture_result_finish(&got);
    read_text("a;b\n1,5;2\n", "x.csv", &got);
    check_has_line(&got, "row 1,5\t2");
    fixture_result_finish(&got);
    read_text("a\tb, c\n", "x.tsv", &got);
    check_has_line(&got, "row a\tb, c");
    fixture_result_finish(&got);
}

/* --- Mail ---------------------------------------------------------------------------------------------------- */

TEST(mail_with_alternatives_and_attachments)
{
    struct fixture_result got;

    read_text(
        "Received: from x\r\nFrom: =?utf-8?Q?J=C3=BCrgen_M?= <j@x.y>\r\nTo: a@b.c,\r\n d@e.f\r\n"
        "Subject: =?iso-8859-1?B?R3L832U=?= =?utf-8?B?w7xi?=er\r\nDate: Wed, 21 Mar 2018 14:14:32 -0800\r\n"
        "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=\"out\"\r\n\r\nignored\r\n"
        "--out\r\nContent-Type: multipart/alternative; boundary=in\r\n\r\n"
        "--in\r\nContent-Type: text/html\r\n\r\n<p>as html</p>\r\n"
        "--in\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
        "caf=E9 is a soft=\r\n line\r\n--in--\r\n"
        "--out\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n\r\nPHA+c2Vjb25kPC9wPg==\r\n"
        "--out\r\nContent-Type: application/pdf; name=a.pdf\r\nContent-Disposition: attachment; filename=\"a "
        "b.pdf\"\r\n\r\nx\r\n"
        "--out--\r\n",
        "mail", &got);
    check_has_line(&got, "start {\"media_type\":\"message/rfc822\"…");
    check_has_line(&got, "heading1 Gr\xC3\xBC\xC3\x9F"
                         "e\xC3\xBC" "ber");
    check_has_line(&got, "text From: J\xC3\xBCrgen M <j@x.y>");
    check_has_line(&got, "text To: a@b.c, d@e.f");
    check_has_line(&got, "text caf\xC3\xA9 is a soft line");
    check_has_line(&got, "text second");
    check_has_line(&got, "problem {\"code\":\"attachment-skipped\",\"message\":\"'a b.pdf' (application/pdf) was not "
                         "read\",\"page\":1}");
    CHECK(strstr(got.text.ptr, "\"created\":\"2018-03-21T22:14:32Z\""));
    check_has_no(&got, "as html");
    check_has_no(&got, "ignored");
    fixture_result_finish(&got);
}

TEST(mailbox_is_one_page_a_message)
{
    struct fixture_result got;

    read_text(
        "From a Mon Jun 1\nFrom: a@b\nDate: x\nMessage-ID: 1\nSubject: One\n\nfirst\n\nFrom here on it is text\nmore\n"
        "\nFrom b Mon Jun 1\nFrom: b@b\nSubject: Two\n\nsecond\n",
        "box.mbox", &got);
    check_has_line(&got, "heading1 One");
    check_has_line(&got, "text first");
    check_has_line(&got, "heading1 Two");
    check_has_line(&got, "text second");
    CHECK(count_lines(&got, "page ") >= 2);
    fixture_result_finish(&got);
}

TEST(mail_decoders_survive_anything)
{
    static const char alphabet[] = "=?QqBb_utf-8ABab01+/ \r\n\t\"; x";
    char text[300], parameter[32];

    for (int round = 0; round < 20000; round++) {
        size_t len = check_random() % sizeof text;
        struct buf out;

        for (size_t i = 0; i < len; i++)
            text[i] = alphabet[check_random() % (sizeof alphabet - 1)];
        buf_init(&out, 1 << 16);
        CHECK_OK(mail_decode_header(span_of(text, len), &out), (struct error *)NULL);
        CHECK_OK(mail_decode_quoted(span_of(text, len), false, &out), (struct error *)NULL);
        CHECK_OK(mail_decode_base64(span_of(text, len), &out), (struct error *)NULL);
        (void)mail_parameter(span_of(text, len), "x", parameter, sizeof parameter);
        buf_finish(&out);
    }
}

/* --- RTF ----------------------------------------------------------------------------------------------------- */

TEST(rtf_text_characters_tables_and_metadata)
{
    struct fixture_result got;

    read_text("{\\rtf1\\ansi\\ansicpg1251\\uc1{\\fonttbl{\\f0 Times;}{\\f7\\fcharset128 Mincho;}}{\\info{\\title The "
              "title}{\\author Me}}"
              "{\\*\\secret hidden}\\pard\\outlinelevel1 A heading\\par\\pard Plain {\\b bold} \\u8364?\\'e4\\emdash "
              "x\\{y\\}{\\f7\\'82\\'a0}\\par "
              "\\u-10179?\\u-8704?\\par{\\pict\\bin5 }}}}}abc\\par}"
              "\\trowd\\intbl a\\cell b\\cell\\row\\pard after\\par}",
              "a.rtf", &got);
    check_has_line(&got, "meta {\"title\":\"The title\",\"author\":\"Me\"}");
    check_has_line(&got, "heading2 A heading");
    check_has_line(&got, "text Plain bold \xE2\x82\xAC\xD0\xB4\xE2\x80\x94x{y}\xE3\x81\x82");
    check_has_line(&got, "text \xF0\x9F\x98\x80");
    check_has_line(&got, "row a\tb");
    check_has_line(&got, "text after");
    check_has_no(&got, "hidden");
    check_has_no(&got, "Times");
    fixture_result_finish(&got);
}

TEST(rtf_rubbish_ends)
{
    static const char alphabet[] = "{}\\\\'*u1-9 abpartintblcellrow\n";
    char text[2000] = "{\\rtf1";

    for (int round = 0; round < 30; round++) {
        struct fixture_result got;

        for (size_t i = 6; i < sizeof text; i++)
            text[i] = alphabet[check_random() % (sizeof alphabet - 1)];
        fixture_extract(span_of(text, sizeof text), "a.rtf", false, NULL, NULL, &got);
        CHECK_EQ_INT(got.code, 0);
        fixture_result_finish(&got);
    }
}
