/* tests/ingest/lines.h: pages made by hand. Every character is half an em wide, a blank too. */
#ifndef TESTS_INGEST_LINES_H
#define TESTS_INGEST_LINES_H

#include "base/arena.h"
#include "ingest/page.h"

enum { SHEET_LINES = 256 };

struct sheet {
    struct page page;
    struct page_line lines[SHEET_LINES];
};

static inline void sheet_init(struct sheet *sheet, int number)
{
    *sheet = (struct sheet){.page = {.number = number, .width = 612, .height = 792, .label = ""}};
    sheet->page.lines = sheet->lines;
}

/* A line at x, y (points, top left) in that size; words are parted at blanks. `|` stands for a gap of 4 em. */
static inline struct page_line *sheet_add(struct sheet *sheet, struct arena *arena, float x, float y, float size,
                                          const char *text)
{
    struct page_line *line = &sheet->lines[sheet->page.line_count++];
    struct frame_word *words = arena_alloc_array(arena, strlen(text) + 1, sizeof *words);
    char *copy = arena_copy_cstr(arena, span_from_cstr(text));
    float step = size / 2 * UNITS_PER_POINT, at = x * UNITS_PER_POINT;

    *line = (struct page_line){.kind = LINE_TEXT, .font_size = size, .words = words, .text = span_from_cstr(copy)};
    for (uint32_t i = 0, start = 0; i <= line->text.len; i++) {
        char c = copy[i];

        if (c == ' ' || c == '|' || c == '\0') {
            if (i > start)
                words[line->word_count++] = (struct frame_word){
                    start, i, (int32_t)(at - step * (float)(i - start)), (int32_t)(y * UNITS_PER_POINT), (int32_t)at,
                    (int32_t)((y + size) * UNITS_PER_POINT)};
            start = i + 1;
        }
        if (c == '|')
            copy[i] = ' ';
        at += c == '|' ? 8 * step : step;
    }
    page_line_measure(line);
    return line;
}

#endif
