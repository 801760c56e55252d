/* ingest/page.h: a page as the child sent it, in memory of the document's arena.
 *
 * The parent's passes work on these lines in turn: furniture.c marks running headers and footers, columns.c
 * puts the rest in reading order, normalize.c makes the canonical text. */
#ifndef INGEST_PAGE_H
#define INGEST_PAGE_H

#include <stdbool.h>

#include "ingest/frames.h"

/* Coordinates of words and boxes are 1/20 point from the page's top left, as in the frames. */
enum { UNITS_PER_POINT = 20 };

struct box {
    int32_t x0, y0, x1, y1;
};

struct page_line {
    enum line_kind kind;
    uint8_t level, flags;           /* enum line_flag */
    bool furniture;                 /* running header or footer: goes aside */
    float font_size;                /* points; 0 unknown */
    uint32_t word_count;            /* 0: the format has no positions */
    const struct frame_word *words; /* borrowed from the arena, like `text` */
    struct span text;
    struct box box;                 /* around the words; meaningless without words */
};

struct page {
    int number; /* physical, from 1 */
    float width, height;
    const char *label;
    struct page_line *lines;
    size_t line_count;
};

/* Computes line->box from its words. */
void page_line_measure(struct page_line *line);

#endif
