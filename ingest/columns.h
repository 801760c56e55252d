/* ingest/columns.h: reading order by cutting the page along its white gutters (an XY-cut).
 *
 * Columns of prose are read one after the other, everything else row by row, so that a table's numbers stay with
 * their labels. columns.c says how the two are told apart, and when poppler's own order stands. */
#ifndef INGEST_COLUMNS_H
#define INGEST_COLUMNS_H

#include "base/arena.h"
#include "ingest/page.h"

/* Reorders page->lines (furniture and rotated lines go to the end); a line that runs over a gutter is cut in two
 * there. *columns is the number of columns found side by side. */
enum status columns_order(struct page *page, struct arena *arena, int *columns, struct error *err) MUST_CHECK;

#endif
