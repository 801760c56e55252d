/* ingest/furniture.h: running headers and footers.
 *
 * A line is furniture when the same text, digits apart, stands at the same height in the same size at the top or
 * bottom of most pages, odd and even pages counted apart. It is taken out of the text, where it would cut
 * sentences in two at every page, and kept in the page's `aside`: case numbers and "CONFIDENTIAL" stand there. */
#ifndef INGEST_FURNITURE_H
#define INGEST_FURNITURE_H

#include "ingest/page.h"

/* Sets page_line.furniture on a whole document. Lines must be measured. */
enum status furniture_mark(struct page *pages, size_t page_count, struct error *err) MUST_CHECK;

#endif
