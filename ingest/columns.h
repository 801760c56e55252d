/* ingest/columns.h: reading order by cutting the page along its white gutters (an XY-cut).
 *
 * Poppler orders text by its own rules, which mostly hold and fail on some two-column papers. Where the words'
 * rectangles show columns of prose beyond doubt, they decide; everywhere else poppler's order stands. Tables
 * have gutters too, and must be read along their rows: columns.c says how the two are told apart. */
#ifndef INGEST_COLUMNS_H
#define INGEST_COLUMNS_H

#include "base/arena.h"
#include "ingest/page.h"

/* Reorders page->lines (furniture is left where it is, at the end); a line that runs over a gutter is cut in two
 * there. *columns is the number of columns found side by side, 1 when nothing was changed. */
enum status columns_order(struct page *page, struct arena *arena, int *columns, struct error *err) MUST_CHECK;

#endif
