/* fixture_pdf.c: a PDF is a header, numbered objects, a table of where they stand, and a trailer. */
#include "tests/ingest/fixture_pdf.h"

#include <stdlib.h>
#include <string.h>

#include "tests/harness/check.h"

enum { CATALOG = 1, PAGES = 2, FONT = 3, BOLD = 4, INFO = 5, FIRST_PAGE = 10, FIRST_EXTRA = 900, OBJECTS = 1000 };

void fixture_pdf_init(struct fixture_pdf *pdf)
{
    memset(pdf, 0, sizeof *pdf);
}

void fixture_pdf_page(struct fixture_pdf *pdf, int width, int height, const char *content)
{
    CHECK(pdf->page_count < FIXTURE_PDF_PAGES);
    pdf->pages[pdf->page_count].width = width;
    pdf->pages[pdf->page_count].height = height;
    pdf->pages[pdf->page_count++].content = content;
}

#define PUT(...) CHECK(buf_printf(out, __VA_ARGS__) == STATUS_OK)

static void put_pages(const struct fixture_pdf *pdf, struct buf *out, size_t *offsets, size_t start)
{
    for (int i = 0; i < pdf->page_count; i++) {
        int number = FIRST_PAGE + 2 * i;

        if (!pdf->pages[i].content)
            continue;
        offsets[number] = out->len - start;
        PUT("%d 0 obj\n<</Type/Page/Parent 2 0 R/MediaBox[0 0 %d %d]%s"
            "/Resources<</Font<</F 3 0 R/B 4 0 R>>>>",
            number, pdf->pages[i].width, pdf->pages[i].height, pdf->pages[i].entries ? pdf->pages[i].entries : "");
        if (!pdf->pages[i].entries || !strstr(pdf->pages[i].entries, "/Contents"))
            PUT("/Contents %d 0 R", number + 1);
        PUT(">>\nendobj\n");
        offsets[number + 1] = out->len - start;
        PUT("%d 0 obj\n<</Length %zu>>\nstream\n%s\nendstream\nendobj\n", number + 1, strlen(pdf->pages[i].content) + 1,
            pdf->pages[i].content);
    }
}

static void put_extra(const char *objects, struct buf *out, size_t *offsets, size_t start)
{
    for (const char *at = objects; at && *at;) {
        const char *end = strstr(at, "endobj\n");
        int number = atoi(at);

        CHECK(end && number >= FIRST_EXTRA && number < OBJECTS);
        end += strlen("endobj\n");
        offsets[number] = out->len - start;
        PUT("%.*s", (int)(end - at), at);
        at = end;
    }
}

void fixture_pdf_write(const struct fixture_pdf *pdf, struct buf *out)
{
    size_t offsets[OBJECTS] = {0}, start = out->len, table;

    PUT("%%PDF-1.7\n%%\xE2\xE3\xCF\xD3\n");
    offsets[CATALOG] = out->len - start;
    PUT("1 0 obj\n<</Type/Catalog/Pages 2 0 R%s>>\nendobj\n", pdf->catalog ? pdf->catalog : "");
    offsets[PAGES] = out->len - start;
    PUT("2 0 obj\n<</Type/Pages/Count %d/Kids[", pdf->page_count);
    for (int i = 0; i < pdf->page_count; i++)
        PUT("%d 0 R ", FIRST_PAGE + 2 * i);
    PUT("]>>\nendobj\n");
    offsets[FONT] = out->len - start;
    PUT("3 0 obj\n<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>\nendobj\n");
    offsets[BOLD] = out->len - start;
    PUT("4 0 obj\n<</Type/Font/Subtype/Type1/BaseFont/Helvetica-Bold/Encoding/WinAnsiEncoding>>\nendobj\n");
    offsets[INFO] = out->len - start;
    PUT("5 0 obj\n<<%s>>\nendobj\n", pdf->info ? pdf->info : "");
    put_pages(pdf, out, offsets, start);
    put_extra(pdf->objects, out, offsets, start);
    table = out->len - start;
    PUT("xref\n0 %d\n", OBJECTS);
    for (int i = 0; i < OBJECTS; i++)
        PUT("%010zu %05d %c \n", offsets[i], offsets[i] ? 0 : 65535, offsets[i] ? 'n' : 'f');
    PUT("trailer\n<</Size %d/Root 1 0 R/Info 5 0 R>>\nstartxref\n%zu\n%%%%EOF\n", OBJECTS, table);
}
