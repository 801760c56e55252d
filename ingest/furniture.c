/* furniture.c: finds running headers and footers by counting.
 *
 * From each page the first lines of its top and the last of its bottom are candidates: a hash of the text with
 * digits as '#' and blanks dropped, the height, the size. Candidates are sorted so that the same ones lie
 * together, then counted against the number of pages of the same parity, and of all pages. */
#include "ingest/furniture.h"

#include <math.h>
#include <stdlib.h>
#include <strings.h>

#include <xxhash.h>

#include "base/vec.h"
#include "ingest/limits.h"

enum {
    EDGE_LINES = 3,          /* candidates at each edge of a page */
    EDGE_REMOVED = 2,        /* of these, at most so many go */
    MIN_PAGES = 3,           /* fewer repeats prove nothing */
    MAX_BYTES = 300,         /* a running header is short */
    SAME_HEIGHT = 3 * UNITS_PER_POINT
};
static const double MIN_SHARE = 0.75, TOP = 0.15, BOTTOM = 0.10;
/* Larger type than this, against the body's, is a title ("Chapter 3") on every page, not a running header. */
static const float MAX_SIZE = 1.3f;

struct candidate {
    uint64_t hash;
    int32_t y; /* from the top edge, or (negative) from the bottom edge: pages of mixed height */
    int32_t size;
    uint32_t page, line;
    bool bottom;
};

static uint64_t hash_text(struct span text)
{
    char folded[MAX_BYTES];
    size_t len = 0;

    for (size_t i = 0; i < text.len; i++) {
        char c = text.ptr[i];

        if (c == ' ' || c == '\t')
            continue;
        if (c >= '0' && c <= '9') {
            if (len && folded[len - 1] == '#')
                continue; /* page 9 and page 10 are one line */
            c = '#';
        }
        folded[len++] = c;
    }
    return XXH3_64bits(folded, len);
}

static int compare(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    if (x->bottom != y->bottom)
        return x->bottom - y->bottom;
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    if (x->size != y->size)
        return x->size < y->size ? -1 : 1;
    if (x->y != y->y)
        return x->y < y->y ? -1 : 1;
    return (x->page > y->page) - (x->page < y->page);
}

static int compare_lines(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    return (x->y > y->y) - (x->y < y->y);
}

/* The size that half of the document's bytes do not exceed. */
static float find_body_size(const struct page *pages, size_t page_count)
{
    enum { STEPS = 200 }; /* of half a point */
    size_t bytes[STEPS] = {0}, total = 0, seen = 0;

    for (size_t p = 0; p < page_count; p++) {
        for (size_t i = 0; i < pages[p].line_count; i++) {
            long step = lrintf(pages[p].lines[i].font_size * 2);

            if (step > 0 && step < STEPS) {
                bytes[step] += pages[p].lines[i].text.len;
                total += pages[p].lines[i].text.len;
            }
        }
    }
    for (int step = 1; step < STEPS; step++) {
        seen += bytes[step];
        if (total && seen * 2 >= total)
            return (float)step / 2;
    }
    return 0;
}

/* The lines of one edge of a page, outermost first; at most EDGE_LINES. */
static size_t edge_candidates(const struct page *page, uint32_t page_index, bool bottom, float body_size,
                              struct candidate *out)
{
    int32_t height = (int32_t)(page->height * UNITS_PER_POINT);
    int32_t reach = (int32_t)(height * (bottom ? BOTTOM : TOP));
    size_t count = 0;

    for (size_t i = 0; i < page->line_count; i++) {
        const struct page_line *line = &page->lines[i];
        struct candidate candidate = {.page = page_index, .line = (uint32_t)i, .bottom = bottom};

        if (!line->word_count || line->text.len > MAX_BYTES ||
            (body_size > 0 && line->font_size > body_size * MAX_SIZE))
            continue;
        candidate.y = bottom ? height - line->box.y1 : line->box.y0;
        if (candidate.y > reach)
            continue;
        if (count == EDGE_LINES) {
            qsort(out, count, sizeof *out, compare_lines);
            if (candidate.y >= out[count - 1].y)
                continue;
            count--;
        }
        candidate.size = (int32_t)lrintf(line->font_size * 2);
        candidate.hash = hash_text(line->text);
        out[count++] = candidate;
    }
    qsort(out, count, sizeof *out, compare_lines);
    return count;
}

/* Marks the candidates [first, end), which are the same line on several pages, if they are on enough of them. */
static void mark_if_running(struct page *pages, const struct candidate *same, size_t count, const size_t of_parity[2])
{
    size_t on_parity[2] = {0};
    bool running[2];
    size_t all = of_parity[0] + of_parity[1];
    uint32_t previous = UINT32_MAX;

    for (size_t i = 0; i < count; i++) {
        if (same[i].page != previous) /* twice on a page counts once */
            on_parity[same[i].page % 2]++;
        previous = same[i].page;
    }
    for (int p = 0; p < 2; p++) {
        running[p] = on_parity[p] >= MIN_PAGES && (double)on_parity[p] >= MIN_SHARE * (double)of_parity[p];
    }
    if (on_parity[0] + on_parity[1] >= MIN_PAGES &&
        (double)(on_parity[0] + on_parity[1]) >= MIN_SHARE * (double)all)
        running[0] = running[1] = true;
    for (size_t i = 0; i < count; i++) {
        if (running[same[i].page % 2])
            pages[same[i].page].lines[same[i].line].furniture = true;
    }
}

/* --- Outermost lines ---------------------------------------------------------------------------------------------
 *
 * In pages made from HTML the footer follows the text at any height. Where it is the outermost line of most pages
 * and counts up with them, or is the same but for its digits, that is proof enough. */

/* "12", "- 12 -", "Page 12", "Page 12 of 90": the first number, -1 if the line is anything else. */
static int page_number_of(const struct page_line *line)
{
    int number = -1;
    size_t letters = 0;

    if (line->text.len > 24)
        return -1;
    for (size_t i = 0; i < line->text.len; i++) {
        char c = line->text.ptr[i];

        if (c >= '0' && c <= '9') {
            int value = 0;

            for (; i < line->text.len && line->text.ptr[i] >= '0' && line->text.ptr[i] <= '9'; i++)
                value = value > LIMIT_PAGES * 10 ? value : value * 10 + (line->text.ptr[i] - '0');
            number = number < 0 ? value : number;
            i--;
        } else if (c == ' ' || c == '-' || c == '|' || c == '/') {
            continue;
        } else if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) {
            letters++;
        } else {
            return -1;
        }
    }
    return letters && strncasecmp(line->text.ptr, "page", line->text.len < 4 ? line->text.len : 4) != 0 ? -1 : number;
}

/* The line nearest to an edge; SIZE_MAX if there is none. */
static size_t outermost(const struct page *page, bool bottom)
{
    size_t best = SIZE_MAX;

    for (size_t i = 0; i < page->line_count; i++) {
        const struct box *box = &page->lines[i].box;

        if (!page->lines[i].word_count || (page->lines[i].flags & LINE_ROTATED) || page->lines[i].furniture)
            continue;
        if (best == SIZE_MAX || (bottom ? box->y1 > page->lines[best].box.y1 : box->y0 < page->lines[best].box.y0))
            best = i;
    }
    return best;
}

static int compare_hash(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* What the outermost line of a page has in common with those of others: the distance between the number it shows
 * and the page's own, or its text without digits. 0: nothing to go by. */
static uint64_t outermost_key(const struct page *page, size_t line, float body_size)
{
    int number;
    uint64_t hash;

    if (line == SIZE_MAX || page->lines[line].text.len > MAX_BYTES ||
        (body_size > 0 && page->lines[line].font_size > body_size * MAX_SIZE))
        return 0;
    number = page_number_of(&page->lines[line]);
    if (number >= 0)
        return (uint64_t)(number - page->number + LIMIT_PAGES + 1);
    hash = hash_text(page->lines[line].text);
    return hash > 100 * LIMIT_PAGES ? hash : 0;
}

static enum status mark_outermost(struct page *pages, size_t page_count, bool bottom, float body_size)
{
    uint64_t *keys = calloc(page_count, sizeof *keys), best = 0;
    size_t found = 0, run = 0, best_run = 0, with_text = 0;

    if (!keys)
        return STATUS_NO_MEMORY;
    for (size_t p = 0; p < page_count; p++) {
        uint64_t key = outermost_key(&pages[p], outermost(&pages[p], bottom), body_size);

        with_text += pages[p].line_count > 0;
        if (key)
            keys[found++] = key;
    }
    qsort(keys, found, sizeof *keys, compare_hash);
    for (size_t i = 0; i < found; i++) {
        run = i && keys[i] == keys[i - 1] ? run + 1 : 1;
        if (run > best_run) {
            best_run = run;
            best = keys[i];
        }
    }
    free(keys);
    if (best_run < MIN_PAGES || (double)best_run < MIN_SHARE * (double)with_text)
        return STATUS_OK;
    for (size_t p = 0; p < page_count; p++) {
        size_t line = outermost(&pages[p], bottom);

        if (line != SIZE_MAX && outermost_key(&pages[p], line, body_size) == best)
            pages[p].lines[line].furniture = true;
    }
    return STATUS_OK;
}

static int compare_page(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    return (x->page > y->page) - (x->page < y->page);
}

enum status furniture_mark(struct page *pages, size_t page_count, struct error *err)
{
    VEC(struct candidate) found = {0};
    size_t of_parity[2] = {0};
    const float body_size = find_body_size(pages, page_count);
    enum status status = STATUS_OK;

    if (page_count < MIN_PAGES)
        return STATUS_OK;
    for (size_t p = 0; p < page_count; p++) {
        if (!pages[p].line_count)
            continue; /* an empty page neither has the header nor lacks it */
        of_parity[p % 2]++;
        status = vec_reserve(&found, 2 * EDGE_LINES);
        if (status) {
            error_set(err, status, "no memory to look for running headers");
            goto out;
        }
        for (int bottom = 0; bottom < 2; bottom++) {
            size_t count = edge_candidates(&pages[p], (uint32_t)p, bottom, body_size,
                                           found.items + found.count);

            found.count += count < EDGE_REMOVED ? count : EDGE_REMOVED;
        }
    }
    if (found.count)
        qsort(found.items, found.count, sizeof *found.items, compare);
    for (size_t first = 0; first < found.count;) {
        const struct candidate *candidate = &found.items[first];
        size_t end = first + 1;

        while (end < found.count && found.items[end].bottom == candidate->bottom &&
               found.items[end].hash == candidate->hash && found.items[end].size == candidate->size &&
               found.items[end].y - candidate->y <= SAME_HEIGHT)
            end++;
        qsort(found.items + first, end - first, sizeof *found.items, compare_page);
        mark_if_running(pages, found.items + first, end - first, of_parity);
        first = end;
    }
    for (int bottom = 0; bottom < 2 && !status; bottom++) {
        status = mark_outermost(pages, page_count, bottom, body_size);
        if (status)
            error_set(err, status, "no memory to look for page numbers");
    }
out:
    vec_finish(&found);
    return status;
}
