/* tests/ingest/fixture_pdf.h: small PDFs written by hand, with a correct xref table.
 *
 *   struct fixture_pdf pdf;
 *   fixture_pdf_init(&pdf);
 *   fixture_pdf_page(&pdf, 612, 792, "BT /F 12 Tf 72 700 Td (Hello) Tj ET");
 *   fixture_pdf_write(&pdf, &bytes);
 *
 * /F is Helvetica, /B Helvetica-Bold, both in WinAnsiEncoding. */
#ifndef TESTS_INGEST_FIXTURE_PDF_H
#define TESTS_INGEST_FIXTURE_PDF_H

#include "base/buf.h"

enum { FIXTURE_PDF_PAGES = 256 };

struct fixture_pdf {
    struct {
        int width, height;
        const char *content; /* borrowed; NULL: the page's object is missing from the file */
        const char *entries; /* more of the page's dictionary, e.g. "/Rotate 90"; may be NULL */
    } pages[FIXTURE_PDF_PAGES];
    int page_count;
    const char *info;    /* of the Info dictionary: "/Title (x)"; may be NULL */
    const char *catalog; /* more of the catalog: "/PageLabels <<…>>"; may be NULL */
    const char *objects; /* more objects, numbered from 900: "900 0 obj … endobj\n"; may be NULL */
};

void fixture_pdf_init(struct fixture_pdf *pdf);
void fixture_pdf_page(struct fixture_pdf *pdf, int width, int height, const char *content);
/* Appends the file. The object of page `i` (from 0) is number 10 + 2 * i. */
void fixture_pdf_write(const struct fixture_pdf *pdf, struct buf *out);

#endif
