/* columns.c: the XY-cut of columns.h.
 *
 * Lines are first cut into segments at wide gaps. A gutter is a vertical strip that few segments cross: those
 * that do (titles, wide figures' captions) split the page into bands, and inside a band the left side is read
 * before the right one, each cut again the same way (three columns). A strip is a gutter between columns only if
 * both sides look like prose: lines that fill most of their side's width and are longer than a number or a label.
 * Otherwise it is the white between a table's cells.
 *
 * What is left uncut is read row by row, from left to right: poppler would read a table's columns one after the
 * other and part each number from its label. If rows hold two pieces of prose side by side all the same, the page
 * has columns that the cut could not find, and poppler's order stands. */
#include "ingest/columns.h"

#include <stdlib.h>

#include "base/vec.h"
#include "ingest/limits.h"

enum {
    BIN = 2 * UNITS_PER_POINT,        /* width of a histogram bin */
    BINS_MAX = LIMIT_PAGE_POINTS / 2, /* the widest page there is */
    MIN_GUTTER = 5 * UNITS_PER_POINT, /* narrower than any journal's */
    MIN_SIDE_LINES = 4,
    MIN_PROSE_BYTES = 12, /* of the median line: longer than most amounts and dates */
    TWIN_BYTES = 40,      /* two segments as long as this on a row are no cells */
    MAX_DEPTH = 6         /* cuts inside cuts */
};
/* Shares: of the text's height that may cross a gutter; of the page's text width that a side must take; of its
 * side's width that the median line must fill; of the shorter side's height that must stand beside the other one;
 * of a region's rows that may hold two pieces of prose. */
static const double MAX_CROSSING = 0.40, MIN_SIDE = 0.18, MIN_FILL = 0.60, MIN_BESIDE = 0.5, MAX_TWINS = 0.15;

struct segment {
    struct box box;
    size_t line;                   /* index into the page's lines */
    uint32_t first_word, end_word; /* of that line */
    uint32_t bytes;
};

struct cut {
    const struct page *page;
    const struct segment *segments;
    size_t *order; /* the result: segment indexes */
    size_t ordered;
    int columns;
    int32_t space; /* the median gap between words */
    int32_t width; /* of the text on the page */
    enum status status;
};

void page_line_measure(struct page_line *line)
{
    struct box box = {INT32_MAX, INT32_MAX, INT32_MIN, INT32_MIN};

    for (uint32_t i = 0; i < line->word_count; i++) {
        const struct frame_word *word = &line->words[i];

        box.x0 = word->x0 < box.x0 ? word->x0 : box.x0;
        box.y0 = word->y0 < box.y0 ? word->y0 : box.y0;
        box.x1 = word->x1 > box.x1 ? word->x1 : box.x1;
        box.y1 = word->y1 > box.y1 ? word->y1 : box.y1;
    }
    line->box = line->word_count ? box : (struct box){0};
}

static int compare_int32(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

/* The middle one; reorders `values`. 0 of none. */
static int32_t median(int32_t *values, size_t count)
{
    if (!count)
        return 0;
    qsort(values, count, sizeof *values, compare_int32);
    return values[count / 2];
}

static int32_t middle_y(const struct segment *segment)
{
    return segment->box.y0 + (segment->box.y1 - segment->box.y0) / 2;
}

/* qsort_r's argument is the segments; ties keep the given order. */
static int compare_by_y(const void *a, const void *b, void *segments)
{
    const struct segment *x = (const struct segment *)segments + *(const size_t *)a;
    const struct segment *y = (const struct segment *)segments + *(const size_t *)b;

    if (middle_y(x) != middle_y(y))
        return middle_y(x) < middle_y(y) ? -1 : 1;
    return (x > y) - (x < y);
}

static int compare_by_x(const void *a, const void *b, void *segments)
{
    const struct segment *x = (const struct segment *)segments + *(const size_t *)a;
    const struct segment *y = (const struct segment *)segments + *(const size_t *)b;

    if (x->box.x0 != y->box.x0)
        return x->box.x0 < y->box.x0 ? -1 : 1;
    return (x > y) - (x < y);
}

/* `b` is not above `a`. */
static bool same_row(const struct segment *a, const struct segment *b)
{
    int32_t distance = middle_y(b) - middle_y(a);

    return (distance < 0 ? -distance : distance) < (a->box.y1 - a->box.y0) / 3;
}

/* Top to bottom, and left to right what stands on one row. */
static void sort_rows(struct cut *cut, size_t *members, size_t count)
{
    size_t row_start = 0;

    qsort_r(members, count, sizeof *members, compare_by_y, (void *)cut->segments);
    for (size_t i = 1; i <= count; i++) {
        if (i < count && same_row(&cut->segments[members[i - 1]], &cut->segments[members[i]]))
            continue;
        qsort_r(members + row_start, i - row_start, sizeof *members, compare_by_x, (void *)cut->segments);
        row_start = i;
    }
}

/* Segments are numbered in poppler's order. */
static int compare_given(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return (x > y) - (x < y);
}

/* Whether many rows (of members in row order) hold two pieces of prose. */
static bool has_twins(const struct cut *cut, const size_t *members, size_t count)
{
    size_t rows = 0, twins = 0, prose = 0;

    for (size_t i = 0; i < count; i++) {
        const struct segment *segment = &cut->segments[members[i]];
        bool new_row = i == 0 || !same_row(&cut->segments[members[i - 1]], segment);

        rows += new_row;
        prose = (new_row ? 0 : prose) + (segment->bytes >= TWIN_BYTES);
        twins += prose == 2;
    }
    return twins > 2 && (double)twins > MAX_TWINS * (double)rows;
}

/* How much of the vertical the segments cover together; `members` are sorted by y. */
static int64_t covered_height(const struct cut *cut, const size_t *members, size_t count)
{
    int64_t covered = 0;
    int32_t until = INT32_MIN;

    for (size_t i = 0; i < count; i++) {
        const struct box *box = &cut->segments[members[i]].box;
        int32_t from = box->y0 > until ? box->y0 : until;

        if (box->y1 > from) {
            covered += box->y1 - from;
            until = box->y1;
        }
    }
    return covered;
}

struct side {
    size_t *members;
    size_t count;
    struct box box;
};

static void side_add(const struct cut *cut, struct side *side, size_t member)
{
    const struct box *box = &cut->segments[member].box;

    if (!side->count) {
        side->box = *box;
    } else {
        side->box.x0 = box->x0 < side->box.x0 ? box->x0 : side->box.x0;
        side->box.y0 = box->y0 < side->box.y0 ? box->y0 : side->box.y0;
        side->box.x1 = box->x1 > side->box.x1 ? box->x1 : side->box.x1;
        side->box.y1 = box->y1 > side->box.y1 ? box->y1 : side->box.y1;
    }
    side->members[side->count++] = member;
}

/* Finds the strip that the least text crosses, the widest of equals. False: there is none. */
static bool find_gutter(const struct cut *cut, const size_t *members, size_t count, struct box region,
                        int32_t *gutter_x)
{
    static const double slack = 0.05; /* of the height: bins this close to the best one are as good */
    int32_t bins = (region.x1 - region.x0) / BIN + 1, first, last, best_width = 0, best_at = 0, run = 0;
    int64_t height = covered_height(cut, members, count), *cover, least = INT64_MAX;
    int32_t min_bins = MIN_GUTTER / BIN;

    if (cut->space * 3 / 2 / BIN > min_bins)
        min_bins = cut->space * 3 / 2 / BIN;
    if (bins < 8 || bins > 4 * BINS_MAX || height <= 0)
        return false;
    cover = calloc((size_t)bins + 1, sizeof *cover);
    if (!cover)
        return false; /* without memory for the histogram the order stays; the caller's next allocation fails */
    for (size_t i = 0; i < count; i++) {
        const struct box *box = &cut->segments[members[i]].box;

        cover[(box->x0 - region.x0) / BIN] += box->y1 - box->y0;
        cover[(box->x1 - region.x0) / BIN + 1 > bins ? bins : (box->x1 - region.x0) / BIN + 1] -= box->y1 - box->y0;
    }
    for (int32_t i = 1; i < bins; i++)
        cover[i] += cover[i - 1];
    first = (int32_t)(bins * MIN_SIDE);
    last = bins - first;
    for (int32_t i = first; i < last; i++)
        least = cover[i] < least ? cover[i] : least;
    if ((double)least <= MAX_CROSSING * (double)height) {
        for (int32_t i = first; i <= last; i++) {
            if (i < last && (double)cover[i] <= (double)least + slack * (double)height) {
                run++;
                continue;
            }
            if (run > best_width) {
                best_width = run;
                best_at = i - run;
            }
            run = 0;
        }
    }
    free(cover);
    if (best_width < min_bins)
        return false;
    *gutter_x = region.x0 + best_at * BIN + best_width * BIN / 2;
    return true;
}

static bool fills_its_width(struct cut *cut, const struct side *side)
{
    int32_t width = side->box.x1 - side->box.x0, median_width, median_bytes;
    int32_t *values;

    values = malloc(side->count * sizeof *values);
    if (!values) {
        cut->status = STATUS_NO_MEMORY;
        return false;
    }
    for (size_t i = 0; i < side->count; i++) {
        const struct box *box = &cut->segments[side->members[i]].box;

        values[i] = box->x1 - box->x0;
    }
    median_width = median(values, side->count);
    for (size_t i = 0; i < side->count; i++)
        values[i] = (int32_t)cut->segments[side->members[i]].bytes;
    median_bytes = median(values, side->count);
    free(values);
    return median_width >= MIN_FILL * width && median_bytes >= MIN_PROSE_BYTES;
}

/* Parts a region's members at x; `scratch` has room for three times as many. */
static void part(const struct cut *cut, const size_t *members, size_t count, int32_t x, size_t *scratch,
                 struct side sides[2], struct side *spanning)
{
    sides[0] = (struct side){.members = scratch};
    sides[1] = (struct side){.members = scratch + count};
    *spanning = (struct side){.members = scratch + 2 * count};
    for (size_t i = 0; i < count; i++) {
        const struct box *box = &cut->segments[members[i]].box;

        side_add(cut, box->x1 <= x ? &sides[0] : box->x0 >= x ? &sides[1] : spanning, members[i]);
    }
}

/* One side of a gutter: its lines fill it, or it is itself columns that do. */
static bool is_prose(struct cut *cut, const struct side *side, int32_t page_width, int depth)
{
    struct side sides[2], spanning;
    size_t *scratch;
    int32_t gutter;
    bool prose;

    if (side->count < MIN_SIDE_LINES || side->box.x1 - side->box.x0 < MIN_SIDE * page_width)
        return false;
    if (fills_its_width(cut, side))
        return true;
    if (depth >= MAX_DEPTH || !find_gutter(cut, side->members, side->count, side->box, &gutter))
        return false;
    scratch = calloc(side->count * 3, sizeof *scratch);
    if (!scratch) {
        cut->status = STATUS_NO_MEMORY;
        return false;
    }
    part(cut, side->members, side->count, gutter, scratch, sides, &spanning);
    prose = is_prose(cut, &sides[0], page_width, depth + 1) && is_prose(cut, &sides[1], page_width, depth + 1);
    free(scratch);
    return prose;
}

static void cut_region(struct cut *cut, size_t *members, size_t count, int depth, int beside);

/* Left before right between two spanning segments; `sides` are sorted by y and consumed from the front. */
static void cut_band(struct cut *cut, struct side sides[2], size_t done[2], int32_t until_y, int depth, int beside)
{
    for (int s = 0; s < 2; s++) {
        size_t from = done[s];

        while (done[s] < sides[s].count && middle_y(&cut->segments[sides[s].members[done[s]]]) < until_y)
            done[s]++;
        cut_region(cut, sides[s].members + from, done[s] - from, depth + 1, beside);
    }
}

/* Appends the region's members to cut->order, in reading order. `beside` columns stand next to it. */
static void cut_region(struct cut *cut, size_t *members, size_t count, int depth, int beside)
{
    struct box region = {INT32_MAX, INT32_MAX, INT32_MIN, INT32_MIN};
    struct side sides[2] = {0}, spanning = {0};
    size_t done[2] = {0}, *scratch = NULL;
    int32_t gutter;
    int64_t beside_height, shorter = INT64_MAX;

    if (!count || cut->status)
        return;
    sort_rows(cut, members, count);
    for (size_t i = 0; i < count; i++) {
        const struct box *box = &cut->segments[members[i]].box;

        region.x0 = box->x0 < region.x0 ? box->x0 : region.x0;
        region.x1 = box->x1 > region.x1 ? box->x1 : region.x1;
        region.y0 = box->y0 < region.y0 ? box->y0 : region.y0;
        region.y1 = box->y1 > region.y1 ? box->y1 : region.y1;
    }
    if (depth >= MAX_DEPTH || count < 2 * MIN_SIDE_LINES || !find_gutter(cut, members, count, region, &gutter))
        goto leaf;
    scratch = calloc(count * 3, sizeof *scratch);
    if (!scratch) {
        cut->status = STATUS_NO_MEMORY;
        return;
    }
    part(cut, members, count, gutter, scratch, sides, &spanning);
    for (int s = 0; s < 2; s++) {
        const struct box *box = &sides[s].box;

        shorter = box->y1 - box->y0 < shorter ? box->y1 - box->y0 : shorter;
        if (!is_prose(cut, &sides[s], cut->width, depth))
            goto leaf;
    }
    beside_height = (int64_t)(sides[0].box.y1 < sides[1].box.y1 ? sides[0].box.y1 : sides[1].box.y1) -
                    (sides[0].box.y0 > sides[1].box.y0 ? sides[0].box.y0 : sides[1].box.y0);
    if ((double)beside_height < MIN_BESIDE * (double)shorter)
        goto leaf;
    if (beside + 1 > cut->columns)
        cut->columns = beside + 1;
    for (size_t i = 0; i < spanning.count; i++) {
        cut_band(cut, sides, done, middle_y(&cut->segments[spanning.members[i]]), depth, beside + 1);
        cut->order[cut->ordered++] = spanning.members[i];
    }
    cut_band(cut, sides, done, INT32_MAX, depth, beside + 1);
    free(scratch);
    return;
leaf:
    free(scratch);
    if (has_twins(cut, members, count))
        qsort(members, count, sizeof *members, compare_given);
    for (size_t i = 0; i < count; i++)
        cut->order[cut->ordered++] = members[i];
}

/* The median gap between two words of a line; a quarter of 10 points when no line has two. */
static enum status median_space(const struct page *page, int32_t *space)
{
    VEC(int32_t) gaps = {0};
    enum status status = STATUS_OK;

    for (size_t i = 0; i < page->line_count; i++) {
        const struct page_line *line = &page->lines[i];

        if (line->furniture || !line->word_count)
            continue;
        status = vec_reserve(&gaps, line->word_count);
        if (status)
            goto out;
        for (uint32_t w = 1; w < line->word_count; w++) {
            if (line->words[w].x0 > line->words[w - 1].x1)
                gaps.items[gaps.count++] = line->words[w].x0 - line->words[w - 1].x1;
        }
    }
    *space = gaps.count ? median(gaps.items, gaps.count) : 5 * UNITS_PER_POINT / 2;
out:
    vec_finish(&gaps);
    return status;
}

/* Right-to-left text: its columns are read the other way, and poppler knows the direction. */
static bool runs_leftwards(const struct page *page)
{
    size_t left = 0, right = 0;

    for (size_t i = 0; i < page->line_count; i++) {
        const struct page_line *line = &page->lines[i];

        for (uint32_t w = 1; w < line->word_count; w++) {
            left += line->words[w].x0 < line->words[w - 1].x0;
            right += line->words[w].x0 > line->words[w - 1].x0;
        }
    }
    return left > right;
}

/* A line, or a part of it: words [first, end) with the text between them. */
static enum status slice_line(const struct page_line *line, uint32_t first, uint32_t end, struct arena *arena,
                              struct page_line *out)
{
    uint32_t from = first ? line->words[first].start : 0;
    uint32_t until = end < line->word_count ? line->words[end - 1].end : (uint32_t)line->text.len;
    struct frame_word *words = arena_alloc_array(arena, end - first, sizeof *words);

    if (!words)
        return STATUS_NO_MEMORY;
    for (uint32_t i = first; i < end; i++) {
        words[i - first] = line->words[i];
        words[i - first].start -= from;
        words[i - first].end -= from;
    }
    *out = *line;
    out->words = words;
    out->word_count = end - first;
    out->text = span_slice(line->text, from, until);
    page_line_measure(out);
    return STATUS_OK;
}

/* The reader calls a line rotated when it climbs, which cells of several rows in one line do too. Words that are
 * wider than tall stand upright. */
static bool is_rotated(const struct page_line *line)
{
    uint32_t upright = 0;

    for (uint32_t w = 0; w < line->word_count; w++)
        upright += line->words[w].x1 - line->words[w].x0 > line->words[w].y1 - line->words[w].y0;
    return (line->flags & LINE_ROTATED) && upright * 2 < line->word_count;
}

/* Lines that take no part and go to the end: furniture, and what runs up or down the margin. */
static bool stands_apart(const struct page_line *line)
{
    return line->furniture || is_rotated(line) || line->box.x1 <= line->box.x0 || line->box.y1 <= line->box.y0;
}

/* Whether a line is cut between two words: at a wide gap, or where poppler put a cell of another row behind. */
static bool parts(const struct frame_word *a, const struct frame_word *b, int32_t wide)
{
    int32_t top = a->y0 > b->y0 ? a->y0 : b->y0, bottom = a->y1 < b->y1 ? a->y1 : b->y1;
    int32_t height = a->y1 - a->y0 < b->y1 - b->y0 ? a->y1 - a->y0 : b->y1 - b->y0;

    return b->x0 - a->x1 >= wide || bottom - top < height / 4;
}

enum status columns_order(struct page *page, struct arena *arena, int *columns, struct error *err)
{
    VEC(struct segment) segments = {0};
    struct cut cut = {.page = page, .columns = 1};
    struct page_line *lines = NULL;
    size_t *members = NULL, line_count = 0;
    int32_t space = 0, wide, x0 = INT32_MAX, x1 = INT32_MIN;
    enum status status = median_space(page, &space);

    if (status)
        goto out;
    wide = space * 2 > MIN_GUTTER ? space * 2 : MIN_GUTTER;
    for (size_t i = 0; i < page->line_count; i++) {
        const struct page_line *line = &page->lines[i];
        uint32_t first = 0;

        if (!line->word_count)
            goto out; /* a format without positions */
        if (stands_apart(line))
            continue;
        status = vec_reserve(&segments, line->word_count);
        if (status)
            goto out;
        for (uint32_t w = 1; w <= line->word_count; w++) {
            struct page_line part = {.words = line->words + first, .word_count = w - first};

            if (w < line->word_count && !parts(&line->words[w - 1], &line->words[w], wide))
                continue;
            page_line_measure(&part);
            segments.items[segments.count++] =
                (struct segment){.box = part.box,
                                 .line = i,
                                 .first_word = first,
                                 .end_word = w,
                                 .bytes = line->words[w - 1].end - line->words[first].start};
            first = w;
        }
    }
    if (segments.count < 2 || runs_leftwards(page))
        goto out;
    members = calloc(segments.count * 2, sizeof *members);
    lines = arena_alloc_array(arena, segments.count + page->line_count, sizeof *lines);
    if (!members || !lines) {
        status = STATUS_NO_MEMORY;
        goto out;
    }
    for (size_t i = 0; i < segments.count; i++)
        members[i] = i;
    for (size_t i = 0; i < segments.count; i++) {
        x0 = segments.items[i].box.x0 < x0 ? segments.items[i].box.x0 : x0;
        x1 = segments.items[i].box.x1 > x1 ? segments.items[i].box.x1 : x1;
    }
    cut.width = x1 - x0;
    cut.segments = segments.items;
    cut.space = space;
    cut.order = members + segments.count;
    cut_region(&cut, members, segments.count, 0, 1);
    status = cut.status;
    if (status)
        goto out;

    for (size_t i = 0; i < cut.ordered;) {
        const struct segment *segment = &segments.items[cut.order[i]];
        uint32_t end = segment->end_word;

        /* Segments of one line that still follow each other are one line again. */
        for (i++; i < cut.ordered && segments.items[cut.order[i]].line == segment->line &&
                  segments.items[cut.order[i]].first_word == end;
             i++)
            end = segments.items[cut.order[i]].end_word;
        status = slice_line(&page->lines[segment->line], segment->first_word, end, arena, &lines[line_count++]);
        if (status)
            goto out;
    }
    for (size_t i = 0; i < page->line_count; i++) {
        if (stands_apart(&page->lines[i]))
            lines[line_count++] = page->lines[i];
    }
    page->lines = lines;
    page->line_count = line_count;
out:
    if (!status)
        *columns = cut.columns;
    else
        error_set(err, status, "page %d: no memory for its columns", page->number);
    vec_finish(&segments);
    free(members);
    return status;
}
