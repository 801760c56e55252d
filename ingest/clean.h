/* ingest/clean.h: the characters of one line, cleaned, with the rectangle of every word.
 *
 * Internal to normalize.c; apart because it is where bytes and rectangles must not drift. */
#ifndef INGEST_CLEAN_H
#define INGEST_CLEAN_H

#include "ingest/normalize.h"

struct clean_options {
    bool keep_layout;    /* code: spaces, tabs and line feeds stay */
    bool keep_tabs;      /* table rows: tabs stay */
    int32_t cell_gap;    /* a gap between words of at least this becomes a tab; 0: never */
};

/* Appends the line to out->text. A blank goes in front if `blank` and there is text before it since `block_start`.
 * *soft_hyphen is set if the line ends in U+00AD. */
enum status clean_append(struct page_text *out, const struct page_line *line, const struct clean_options *options,
                         bool blank, size_t block_start, bool *soft_hyphen) MUST_CHECK;

#endif
