/* test_packages.c: OOXML, OpenDocument and EPUB made by hand, with no more parts than a reader needs. */
#include <archive.h>
#include <archive_entry.h>
#include <stdlib.h>
#include <string.h>

#include "tests/harness/check.h"
#include "tests/ingest/fixture_extract.h"

struct part {
    const char *name, *text;
};

enum { ZIP_MAX = 8 << 20 };

/* Zips the parts and reads them; by a pipe too, with the same result. */
static void read_parts(const struct part *parts, size_t count, const char *name, struct fixture_result *got)
{
    char *bytes = malloc(ZIP_MAX);
    size_t used = 0;
    struct archive *zip = archive_write_new();
    struct fixture_result pipe;

    CHECK(bytes && archive_write_set_format_zip(zip) == ARCHIVE_OK);
    CHECK(archive_write_set_bytes_per_block(zip, 0) == ARCHIVE_OK);
    CHECK(archive_write_open_memory(zip, bytes, ZIP_MAX, &used) == ARCHIVE_OK);
    for (size_t i = 0; i < count; i++) {
        struct archive_entry *entry = archive_entry_new();

        archive_entry_set_pathname(entry, parts[i].name);
        archive_entry_set_filetype(entry, AE_IFREG);
        archive_entry_set_size(entry, (la_int64_t)strlen(parts[i].text));
        CHECK(archive_write_header(zip, entry) == ARCHIVE_OK);
        CHECK(archive_write_data(zip, parts[i].text, strlen(parts[i].text)) == (la_ssize_t)strlen(parts[i].text));
        archive_entry_free(entry);
    }
    CHECK(archive_write_close(zip) == ARCHIVE_OK);
    archive_write_free(zip);
    fixture_extract(span_of(bytes, used), name, false, NULL, NULL, got);
    fixture_extract(span_of(bytes, used), name, true, NULL, NULL, &pipe);
    CHECK_EQ_SPAN(buf_span(&pipe.text), buf_span(&got->text));
    CHECK_EQ_INT(got->code, 0);
    check_has_line(got, "end …");
    fixture_result_finish(&pipe);
    free(bytes);
}

#define READ(parts, name, got) read_parts(parts, sizeof(parts) / sizeof *(parts), name, got)
#define RELS(body) \
    "<Relationships xmlns='http://schemas.openxmlformats.org/package/2006/relationships'>" body "</Relationships>"
#define WORD(body) "<w:document xmlns:w='w' xmlns:mc='mc'><w:body>" body "</w:body></w:document>"
#define P(text) "<w:p><w:r><w:t>" text "</w:t></w:r></w:p>"

TEST(docx_paragraphs_headings_lists_tables_and_notes)
{
    static const struct part parts[] = {
        {"docProps/core.xml", "<c xmlns:dc='dc'><dc:title>A &amp; B</dc:title><dc:creator>Me</dc:creator></c>"},
        {"word/styles.xml",
         "<w:styles xmlns:w='w'>"
         "<w:style w:styleId='H2'><w:name w:val='heading 2'/></w:style>"
         "<w:style w:styleId='Mine'><w:name w:val='Mine'/><w:basedOn w:val='H2'/></w:style>"
         "<w:style w:styleId='Loop'><w:name w:val='x'/><w:basedOn w:val='Loop'/></w:style></w:styles>"},
        {"word/document.xml",
         WORD("<w:p><w:pPr><w:pStyle w:val='H2'/></w:pPr><w:r><w:t>Head</w:t></w:r><w:r><w:t>ing</w:t></w:r></w:p>"
              "<w:p><w:pPr><w:pStyle w:val='Mine'/></w:pPr><w:r><w:t>Based</w:t></w:r></w:p>"
              "<w:p><w:pPr><w:pStyle w:val='Loop'/></w:pPr><w:r><w:t>Plain</w:t><w:tab/><w:t>text</w:t></w:r></w:p>"
              "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>an item</w:t></w:r></w:p>"
              "<w:tbl><w:tr><w:tc>" P("a") P("b") "</w:tc><w:tc>" P(
                  "c") "</w:tc></w:tr></w:tbl>"
                       "<w:p><w:ins><w:r><w:t>kept</w:t></w:r></w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></"
                       "w:del></w:p>"
                       "<w:p><mc:AlternateContent><mc:Choice><w:r><w:t>once</w:t></w:r></mc:Choice>"
                       "<mc:Fallback><w:r><w:t>twice</w:t></w:r></mc:Fallback></mc:AlternateContent></w:p>")},
        {"word/footnotes.xml", "<w:footnotes xmlns:w='w'><w:footnote>" P("see page 3") "</w:footnote></w:footnotes>"},
    };
    struct fixture_result got;

    READ(parts, "contract.docx", &got);
    check_has_line(
        &got, "start {\"media_type\":\"application/vnd.openxmlformats-officedocument.wordprocessingml.document\"…");
    check_has_line(&got, "meta {\"title\":\"A & B\",\"author\":\"Me\"}");
    check_has_line(&got, "heading2 Heading");
    check_has_line(&got, "heading2 Based");
    check_has_line(&got, "text Plain text");
    check_has_line(&got, "item - an item");
    check_has_line(&got, "row a b\tc");
    check_has_line(&got, "text kept");
    check_has_line(&got, "text once");
    check_has_line(&got, "text Note: see page 3");
    check_has_line(&got, "problem {\"code\":\"deleted-text\",\"message\":\"4 bytes…");
    check_has_no(&got, "gone");
    check_has_no(&got, "twice");
    fixture_result_finish(&got);
}

TEST(pptx_slides_in_the_order_shown_with_notes)
{
    static const struct part parts[] = {
        {"ppt/presentation.xml",
         "<p:presentation xmlns:p='p' xmlns:r='r'><p:sldIdLst><p:sldId r:id='rId7' id='256'/>"
         "<p:sldId id='257' r:id='rId3'/><p:sldId id='258' r:id='none'/></p:sldIdLst></p:presentation>"},
        {"ppt/_rels/presentation.xml.rels",
         RELS("<Relationship Id='rId3' Type='x/slide' Target='slides/slide1.xml'/>"
              "<Relationship Id='rId7' Type='x/slide' Target='/ppt/slides/slide2.xml'/>")},
        {"ppt/slides/slide1.xml", "<s xmlns:a='a'><sp><txBody><a:p><a:t>shown last</a:t></a:p></txBody></sp></s>"},
        {"ppt/slides/slide2.xml",
         "<s xmlns:a='a'><sp><nvSpPr><ph type='title'/></nvSpPr><a:p><a:t>The title</a:t></a:p></sp>"
         "<sp><nvSpPr><ph type='sldNum'/></nvSpPr><a:p><a:t>17</a:t></a:p></sp>"
         "<a:tbl><a:tr><a:tc><a:p><a:t>x</a:t></a:p></a:tc><a:tc><a:p><a:t>y</a:t></a:p></a:tc></a:tr></a:tbl></s>"},
        {"ppt/slides/_rels/slide2.xml.rels",
         RELS("<Relationship Id='r1' Type='x/notesSlide' Target='../notesSlides/n.xml'/>")},
        {"ppt/notesSlides/n.xml", "<s xmlns:a='a'><sp><a:p><a:t>say hello</a:t></a:p></sp></s>"},
    };
    struct fixture_result got;
    const char *last;

    READ(parts, "talk.pptx", &got);
    check_has_line(&got, "heading1 The title");
    check_has_line(&got, "row x\ty");
    check_has_line(&got, "text Note: say hello");
    check_has_line(&got, "problem {\"code\":\"bad-page\",\"message\":\"the slide can't be found\",\"page\":3}");
    last = strstr(got.text.ptr, "shown last");
    CHECK(last && strstr(got.text.ptr, "page 2 ") < last && strstr(got.text.ptr, "The title") < last);
    check_has_no(&got, "17");
    fixture_result_finish(&got);
}

TEST(xlsx_strings_numbers_dates_and_gaps)
{
    static const struct part parts[] = {
        {"xl/workbook.xml",
         "<workbook xmlns:r='r'><sheets><sheet name='Sales' sheetId='1' r:id='rId1'/></sheets></workbook>"},
        {"xl/_rels/workbook.xml.rels",
         RELS("<Relationship Id='rId1' Type='x/worksheet' Target='worksheets/sheet1.xml'/>")},
        {"xl/styles.xml", "<styleSheet><numFmts><numFmt numFmtId='164' formatCode='yyyy\"year\"'/>"
                          "<numFmt numFmtId='165' formatCode='0.0\"days\"'/></numFmts>"
                          "<cellStyleXfs><xf numFmtId='14'/></cellStyleXfs>"
                          "<cellXfs><xf numFmtId='0'/><xf numFmtId='14'/><xf numFmtId='164'/><xf "
                          "numFmtId='165'/></cellXfs></styleSheet>"},
        {"xl/sharedStrings.xml",
         "<sst><si><t>Name</t></si><si><r><t>rich </t></r><r><t>text</t></r><rPh><t>no</t></rPh></si></sst>"},
        {"xl/worksheets/sheet1.xml",
         "<worksheet><sheetData>"
         "<row><c r='A1' t='s'><v>0</v></c><c r='C1' t='s'><v>1</v></c><c r='D1' t='s'><v>99</v></c></row>"
         "<row><c r='A2'><v>0.30000000000000004</v></c><c r='B2' s='1'><v>45292</v></c><c r='C2' "
         "s='2'><v>45292.5</v></c>"
         "<c r='D2' s='3'><v>2.5</v></c></row>"
         "<row><c r='A3' t='inlineStr'><is><t>in place</t></is></c><c r='B3' t='b'><v>1</v></c>"
         "<c r='C3' t='str'><f>A1</f><v>formula</v></c></row>"
         "</sheetData></worksheet>"},
    };
    struct fixture_result got;

    READ(parts, "book.xlsx", &got);
    check_has_line(&got, "page 1 0x0 'Sales'");
    check_has_line(&got, "heading1 Sales");
    check_has_line(&got, "row Name\t\trich text");
    check_has_line(&got, "row 0.3\t2024-01-01\t2024-01-01 12:00:00\t2.5");
    check_has_line(&got, "row in place\tTRUE\tformula");
    fixture_result_finish(&got);
}

TEST(odt_text_and_ods_sheets)
{
    static const struct part text[] = {
        {"META-INF/manifest.xml", "<m/>"},
        {"meta.xml", "<m xmlns:dc='dc'><dc:title>Open</dc:title></m>"},
        {"content.xml",
         "<c xmlns:text='t' xmlns:table='b'><text:tracked-changes><text:p>gone</text:p></text:tracked-changes>"
         "<text:h text:outline-level='2'>Head</text:h><text:p>one<text:tab/>two<text:s/>three</text:p>"
         "<text:list><text:list-item><text:p>item</text:p><text:p>more</text:p></text:list-item></text:list>"
         "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
         "<table:table-cell/><table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table></"
         "c>"},
    };
    static const struct part sheet[] = {
        {"META-INF/manifest.xml", "<m/>"},
        {"content.xml",
         "<c xmlns:text='t' xmlns:table='b' xmlns:o='o'><o:spreadsheet>"
         "<table:table table:name='S1'><table:table-row><table:table-cell table:number-columns-repeated='3'/>"
         "<table:table-cell><text:p>x</text:p></table:table-cell>"
         "<table:table-cell table:number-columns-repeated='16000'/></table:table-row></table:table>"
         "<table:table table:name='S2'><table:table-row><table:table-cell><text:p>y</text:p></table:table-cell>"
         "</table:table-row></table:table></o:spreadsheet></c>"},
    };
    struct fixture_result got;

    READ(text, "a.odt", &got);
    check_has_line(&got, "meta {\"title\":\"Open\"}");
    check_has_line(&got, "heading2 Head");
    check_has_line(&got, "text one two three");
    check_has_line(&got, "item - item");
    check_has_line(&got, "row a\t\tb");
    check_has_no(&got, "gone");
    fixture_result_finish(&got);
    READ(sheet, "a.ods", &got);
    check_has_line(&got, "page 1 0x0 'S1'");
    check_has_line(&got, "row \t\t\tx");
    check_has_line(&got, "page 2 0x0 'S2'");
    check_has_line(&got, "row y");
    fixture_result_finish(&got);
}

TEST(epub_chapters_in_the_order_of_the_spine)
{
    static const struct part parts[] = {
        {"mimetype", "application/epub+zip"},
        {"META-INF/container.xml", "<container><rootfiles><rootfile full-path='OEBPS/a.opf'/></rootfiles></container>"},
        {"OEBPS/a.opf", "<package xmlns:dc='dc'><dc:title>Book</dc:title><dc:creator>Me</dc:creator><manifest>"
                        "<item id='one' href='text/1.xhtml'/><item id='two' href='text/chapter%202.xhtml'/></manifest>"
                        "<spine><itemref idref='two'/><itemref idref='one'/><itemref idref='lost'/></spine></package>"},
        {"OEBPS/text/1.xhtml", "<html><body><h2>Second</h2></body></html>"},
        {"OEBPS/text/chapter 2.xhtml", "<html><body><h2>First</h2><p>text</p></body></html>"},
    };
    struct fixture_result got;

    READ(parts, "book.epub", &got);
    check_has_line(&got, "meta {\"title\":\"Book\",\"author\":\"Me\"}");
    CHECK(strstr(got.text.ptr, "First") < strstr(got.text.ptr, "Second"));
    check_has_line(&got, "problem {\"code\":\"bad-page\",\"message\":\"the chapter can't be found\",\"page\":3}");
    fixture_result_finish(&got);
}

TEST(hostile_xml_expands_to_nothing)
{
    static const struct part parts[] = {
        {"word/document.xml", "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaaaaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;'>"
                              "<!ENTITY c '&b;&b;&b;&b;&b;&b;'><!ENTITY x SYSTEM 'file:///etc/passwd'>]>"
                              "<w:d xmlns:w='w'><w:p><w:r><w:t>before &c; &x; after</w:t></w:r></w:p></w:d>"},
    };
    struct fixture_result got;

    READ(parts, "evil.docx", &got);
    check_has_no(&got, "aaaa");
    check_has_no(&got, "root:");
    fixture_result_finish(&got);
}

TEST(a_part_that_is_damaged_or_a_bomb)
{
    static const struct part cut[] = {{"word/document.xml", "<w:d xmlns:w='w'>" P("kept") "<w:p><w:r><w:t>cut"}};
    struct part bomb[] = {{"word/document.xml", NULL}};
    char *spaces = malloc((30 << 20) + 1);
    struct fixture_result got;

    READ(cut, "cut.docx", &got);
    check_has_line(&got, "text kept");
    check_has_line(&got, "problem {\"code\":\"damaged-part\"…");
    fixture_result_finish(&got);
    memset(spaces, ' ', 30 << 20);
    spaces[30 << 20] = '\0';
    bomb[0].text = spaces;
    READ(bomb, "bomb.docx", &got);
    check_has_line(&got, "problem {\"code\":\"limit-ratio\"…");
    fixture_result_finish(&got);
    free(spaces);
}

TEST(a_zip_that_is_no_document_is_an_archive)
{
    static const struct part parts[] = {{"x/word/document.xml", "<a/>"}, {"content.xml", "<a/>"}};
    struct fixture_result got;

    READ(parts, "plain.zip", &got);
    check_has_line(&got, "start {\"media_type\":\"application/zip\"…");
    CHECK_EQ_INT(count_lines(&got, "member {"), 2);
    fixture_result_finish(&got);
}
