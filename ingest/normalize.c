/* normalize.c: from lines to blocks. clean.c does the characters, headings.c knows headings.
 *
 * A line first gets a role by itself (heading, list item, table row, text), then joins the block before it or
 * starts one. Text on paper ends a line because the next word did not fit; so a line that would have had room
 * for the next line's first word was ended on purpose, and a paragraph ends there. Gaps, indents and sizes say
 * the rest. Where in doubt a paragraph is cut: a chunk joins neighbours, but nothing can part what was glued. */
#include "ingest/normalize.h"

#include <ctype.h>
#include <stdlib.h>

#include <xxhash.h>

#include "base/utf8.h"
#include "ingest/clean.h"
#include "ingest/limits.h"

enum {
    HYPHENATED_MAX = 1 << 16, /* more words than any document hyphenates */
    WORD_MAX = 64,
    TYPICAL_GAP_LINES = 400   /* lines looked at for the page's usual gap */
};

void page_text_init(struct page_text *text)
{
    *text = (struct page_text){0};
    /* A page's text shrinks, but for separators: at most two bytes for each of its lines. */
    buf_init(&text->text, 2 * LIMIT_DOCUMENT_TEXT_BYTES);
    buf_init(&text->aside, LIMIT_PAGE_TEXT_BYTES);
}

void page_text_finish(struct page_text *text)
{
    buf_finish(&text->text);
    buf_finish(&text->aside);
    vec_finish(&text->runs);
    vec_finish(&text->blocks);
}

/* --- Hyphens ------------------------------------------------------------------------------------------------ */

static bool is_word_byte(unsigned char c)
{
    return isalpha(c) || c >= 0x80;
}

static uint64_t hash_pair(struct span left, struct span right)
{
    char folded[2 * WORD_MAX + 1];
    size_t len = 0;
    uint64_t hash;

    for (size_t i = 0; i < left.len; i++)
        folded[len++] = (char)tolower((unsigned char)left.ptr[i]);
    folded[len++] = '-';
    for (size_t i = 0; i < right.len; i++)
        folded[len++] = (char)tolower((unsigned char)right.ptr[i]);
    hash = XXH3_64bits(folded, len);
    return hash ? hash : 1;
}

/* The letters that end at `end`, and those that begin at `start`; at most WORD_MAX. */
static struct span word_before(struct span text, size_t end)
{
    size_t start = end;

    while (start > 0 && end - start < WORD_MAX && is_word_byte((unsigned char)text.ptr[start - 1]))
        start--;
    return span_slice(text, start, end);
}

static struct span word_after(struct span text, size_t start)
{
    size_t end = start;

    while (end < text.len && end - start < WORD_MAX && is_word_byte((unsigned char)text.ptr[end]))
        end++;
    return span_slice(text, start, end);
}

static bool hyphenated_has(const struct hyphenated *set, uint64_t hash)
{
    if (!set || !set->cap)
        return false;
    for (size_t at = hash & (set->cap - 1); set->hashes[at]; at = (at + 1) & (set->cap - 1)) {
        if (set->hashes[at] == hash)
            return true;
    }
    return false;
}

static void hyphenated_add(struct hyphenated *set, uint64_t hash)
{
    size_t at = hash & (set->cap - 1);

    while (set->hashes[at] && set->hashes[at] != hash)
        at = (at + 1) & (set->cap - 1);
    if (!set->hashes[at]) {
        set->hashes[at] = hash;
        set->count++;
    }
}

enum status hyphenated_collect(struct hyphenated *set, const struct page *pages, size_t page_count,
                               struct error *err)
{
    *set = (struct hyphenated){0};
    set->hashes = calloc(HYPHENATED_MAX, sizeof *set->hashes);
    if (!set->hashes)
        return error_set(err, STATUS_NO_MEMORY, "no memory for hyphenated words");
    set->cap = HYPHENATED_MAX;
    for (size_t p = 0; p < page_count; p++) {
        for (size_t i = 0; i < pages[p].line_count; i++) {
            struct span text = pages[p].lines[i].text;
            const char *hyphen = text.len ? memchr(text.ptr, '-', text.len) : NULL;

            while (hyphen && set->count < HYPHENATED_MAX / 2) {
                size_t at = (size_t)(hyphen - text.ptr);
                struct span left = word_before(text, at), right = word_after(text, at + 1);

                if (left.len && right.len)
                    hyphenated_add(set, hash_pair(left, right));
                hyphen = memchr(hyphen + 1, '-', text.len - at - 1);
            }
        }
    }
    return STATUS_OK;
}

void hyphenated_finish(struct hyphenated *set)
{
    free(set->hashes);
    *set = (struct hyphenated){0};
}

/* True when `text` begins with a lower-case letter; beyond ASCII, the Latin, Greek and Cyrillic ranges. */
static bool starts_lower(struct span text)
{
    uint32_t code;

    if (!text.len || !utf8_decode(text.ptr, text.len, &code))
        return false;
    return (code >= 'a' && code <= 'z') || (code >= 0xDF && code <= 0xFF && code != 0xF7) ||
           (code >= 0x100 && code <= 0x17F && (code & 1)) || (code >= 0x3B1 && code <= 0x3C9) ||
           (code >= 0x430 && code <= 0x45F) || (code >= 0xFB00 && code <= 0xFB06);
}

/* How the next line joins a block that ends in a hyphen. */
enum hyphen_join {
    JOIN_BLANK, /* no hyphen there: a blank parts the lines     */
    JOIN_GLUE,  /* "Smith-" "Jones": the hyphen belongs, no blank */
    JOIN_DROP   /* "inter-" "national": only the line's end put it there */
};

static enum hyphen_join join_of(const struct page_text *out, size_t block_start, struct span next,
                                const struct hyphenated *set, size_t *hyphen_bytes)
{
    struct span text = span_slice(buf_span(&out->text), block_start, out->text.len), left, right;

    *hyphen_bytes = 0;
    if (text.len > 1 && text.ptr[text.len - 1] == '-')
        *hyphen_bytes = 1;
    else if (text.len > 3 && memcmp(text.ptr + text.len - 3, "\xE2\x80\x90", 3) == 0) /* U+2010 */
        *hyphen_bytes = 3;
    left = word_before(text, text.len - *hyphen_bytes);
    right = word_after(next, 0);
    if (!*hyphen_bytes || !left.len || !right.len)
        return JOIN_BLANK;
    return starts_lower(next) && !hyphenated_has(set, hash_pair(left, right)) ? JOIN_DROP : JOIN_GLUE;
}

/* --- Roles of lines ------------------------------------------------------------------------------------------ */

struct line_shape {
    enum block_kind role;
    int level;
    int32_t cell_gap; /* gaps this wide part cells */
    bool joins_heading; /* the second or third line of a heading that the outline names */
};

static int32_t line_height(const struct page_line *line)
{
    return line->box.y1 - line->box.y0;
}

/* An em, roughly: the font size, or the line's height where it is unknown. */
static int32_t em_of(const struct page_line *line)
{
    return line->font_size > 0 ? (int32_t)(line->font_size * UNITS_PER_POINT) : line_height(line);
}

static int cell_count(const struct page_line *line, int32_t gap)
{
    int cells = 1;

    for (uint32_t w = 1; w < line->word_count; w++)
        cells += line->words[w].x0 - line->words[w - 1].x1 >= gap;
    return cells;
}

/* Two cells, a short one and one of words: "Item 2.    Risk factors" is a heading with a gap, not a table. */
static bool has_number_cell(const struct page_line *line, int32_t gap)
{
    enum { NUMBER_BYTES = 12 };

    if (cell_count(line, gap) != 2)
        return false;
    for (uint32_t w = 1; w < line->word_count; w++) {
        if (line->words[w].x0 - line->words[w - 1].x1 >= gap)
            return line->words[w - 1].end <= NUMBER_BYTES &&
                   isalpha((unsigned char)line->text.ptr[line->words[w].start]);
    }
    return false;
}

/* A bullet, or a number or letter with a bracket or a full stop, and a blank. */
static bool starts_list_item(struct span text)
{
    static const char *const bullets[] = {"\xE2\x80\xA2", "\xE2\x96\xAA", "\xE2\x97\xA6", "\xE2\x97\x8F",
                                          "\xEF\x82\xB7", "\xC2\xB7",     "\xE2\x80\x93", "*", "-"};
    size_t i = 0, digits;

    for (size_t b = 0; b < sizeof bullets / sizeof *bullets; b++) {
        size_t len = strlen(bullets[b]);

        if (text.len > len + 1 && memcmp(text.ptr, bullets[b], len) == 0 && text.ptr[len] == ' ')
            return true;
    }
    i += text.len && text.ptr[0] == '(';
    digits = i;
    while (i < text.len && i < 5 && isalnum((unsigned char)text.ptr[i]))
        i++;
    if (i == digits || i + 1 >= text.len)
        return false;
    if (isalpha((unsigned char)text.ptr[digits]) && i - digits > 1 && strspn(text.ptr + digits, "ivx") < i - digits)
        return false; /* a word, not a letter or a Roman number */
    if (text.ptr[i] == ')' && text.ptr[i + 1] == ' ')
        return true;
    return digits == 0 && text.ptr[i] == '.' && text.ptr[i + 1] == ' ' && isdigit((unsigned char)text.ptr[0]);
}

static void shape_line(const struct page_line *line, struct line_shape *shape)
{
    shape->cell_gap = em_of(line) * 3 / 2;
    switch (line->kind) {
    case LINE_TEXT: shape->role = BLOCK_PARAGRAPH; break;
    case LINE_HEADING: shape->role = BLOCK_HEADING; break;
    case LINE_LIST_ITEM: shape->role = BLOCK_LIST_ITEM; break;
    case LINE_TABLE_ROW: shape->role = BLOCK_TABLE_ROW; break;
    case LINE_CODE: shape->role = BLOCK_CODE; break;
    }
    if (line->kind != LINE_TEXT || !line->word_count)
        return;
    if (starts_list_item(line->text))
        shape->role = BLOCK_LIST_ITEM;
    else if (cell_count(line, shape->cell_gap) >= 2)
        shape->role = BLOCK_TABLE_ROW;
}

static bool on_one_row(const struct page_line *a, const struct page_line *b)
{
    int32_t top = a->box.y0 > b->box.y0 ? a->box.y0 : b->box.y0;
    int32_t bottom = a->box.y1 < b->box.y1 ? a->box.y1 : b->box.y1;
    int32_t height = line_height(a) < line_height(b) ? line_height(a) : line_height(b);

    return bottom - top > height / 2;
}

/* --- Blocks ---------------------------------------------------------------------------------------------------- */

struct builder {
    const struct page *page;
    const struct hyphenated *set;
    struct page_text *out;
    const struct page_line *previous; /* the line before, NULL at the top */
    struct line_shape previous_shape;
    struct text_block block;    /* open while block.end == UINT32_MAX */
    int32_t block_left, block_right; /* extent of its lines */
    int32_t usual_gap;          /* between two lines of a paragraph on this page */
    bool open, soft_hyphen;
};

static bool ends_sentence(struct span text)
{
    while (text.len && strchr("\"')]", text.ptr[text.len - 1]))
        text.len--;
    if (text.len >= 3 && (unsigned char)text.ptr[text.len - 3] == 0xE2 &&
        (unsigned char)text.ptr[text.len - 2] == 0x80) /* closing curly quotes */
        text.len -= 3;
    return text.len && strchr(".!?:;", text.ptr[text.len - 1]);
}

/* Does `line` go on with the open block? */
static bool continues(const struct builder *builder, const struct page_line *line, const struct line_shape *shape)
{
    const struct page_line *previous = builder->previous;
    int32_t gap, em, first_word, right;
    size_t bytes;
    bool hyphen, ended;

    if (!builder->open || !previous || !line->word_count || !previous->word_count)
        return false;
    if (shape->joins_heading)
        return true;
    em = em_of(line);
    if (shape->role == BLOCK_HEADING || builder->block.kind == BLOCK_HEADING) {
        gap = line->box.y0 - previous->box.y1;
        return shape->role == BLOCK_HEADING && builder->block.kind == BLOCK_HEADING &&
               shape->level == builder->block.level && line->font_size == previous->font_size &&
               line->flags == previous->flags && (on_one_row(previous, line) || (gap > -em && gap < em * 7 / 10));
    }
    if (on_one_row(previous, line) && line->box.x0 >= previous->box.x1 - em / 4)
        return true; /* poppler parted one row; a wide gap makes it a row of cells */
    if (shape->role != BLOCK_PARAGRAPH || builder->block.kind == BLOCK_TABLE_ROW || builder->block.kind == BLOCK_CODE)
        return false;
    if (line->font_size > previous->font_size * 1.12f || previous->font_size > line->font_size * 1.12f)
        return false;
    hyphen = builder->soft_hyphen || join_of(builder->out, builder->block.start, line->text, builder->set, &bytes);
    ended = ends_sentence(previous->text);
    if (line->box.y0 < previous->box.y0) /* the next column: the paragraph goes on if it says so */
        return hyphen || (!ended && starts_lower(line->text));
    gap = line->box.y0 - previous->box.y1;
    if (gap > builder->usual_gap + em * 7 / 20)
        return false;
    if (hyphen || (!ended && starts_lower(line->text)))
        return true;
    if (builder->block.kind == BLOCK_LIST_ITEM)
        return line->box.x0 > builder->block_left + em / 4;
    if (line->box.x0 > builder->block_left + em * 4 / 5 && previous->box.x0 < line->box.x0 - em * 4 / 5 && ended)
        return false; /* an indent after a full stop */
    if (line->box.x0 < builder->block_left - em * 4 / 5 && previous != NULL && ended &&
        builder->block_left != previous->box.x0)
        return false; /* a hanging indent's next entry */
    first_word = line->words[0].x1 - line->words[0].x0;
    right = builder->block_right > line->box.x1 ? builder->block_right : line->box.x1;
    return previous->box.x1 + em / 2 + first_word > right;
}

static enum status close_block(struct builder *builder)
{
    enum status status;

    if (!builder->open)
        return STATUS_OK;
    builder->open = false;
    builder->block.end = (uint32_t)builder->out->text.len;
    if (builder->block.end == builder->block.start)
        return STATUS_OK;
    status = vec_reserve(&builder->out->blocks, 1);
    if (!status)
        builder->out->blocks.items[builder->out->blocks.count++] = builder->block;
    return status;
}

static enum status open_block(struct builder *builder, const struct page_line *line, const struct line_shape *shape)
{
    struct page_text *out = builder->out;
    enum status status = close_block(builder);

    if (status)
        return status;
    if (out->blocks.count) {
        enum block_kind before = out->blocks.items[out->blocks.count - 1].kind;
        bool tight = before == shape->role && before != BLOCK_PARAGRAPH && before != BLOCK_HEADING;

        out->text.len = out->blocks.items[out->blocks.count - 1].end;
        status = buf_append_cstr(&out->text, tight ? "\n" : "\n\n");
    }
    builder->open = true;
    builder->block = (struct text_block){shape->role, shape->level, (uint32_t)out->text.len, 0};
    builder->block_left = line->box.x0;
    builder->block_right = line->box.x1;
    return status;
}

/* Takes a line-end hyphen off the text and off the run that held it. */
static void drop_hyphen(struct page_text *out, size_t bytes)
{
    out->text.len -= bytes;
    out->text.ptr[out->text.len] = '\0';
    if (out->runs.count && out->runs.items[out->runs.count - 1].end > out->text.len) {
        struct rectmap_run *run = &out->runs.items[out->runs.count - 1];

        run->end = (uint32_t)out->text.len;
        if (run->start >= run->end)
            out->runs.count--;
    }
}

static enum status add_line(struct builder *builder, const struct page_line *line, const struct line_shape *shape)
{
    struct clean_options options = {.keep_layout = shape->role == BLOCK_CODE,
                                    .keep_tabs = shape->role == BLOCK_TABLE_ROW,
                                    .cell_gap = line->word_count ? shape->cell_gap : 0};
    bool blank = false;
    enum status status = STATUS_OK;

    if (continues(builder, line, shape)) {
        size_t bytes;
        enum hyphen_join join = join_of(builder->out, builder->block.start, line->text, builder->set, &bytes);
        int32_t gap = line->box.x0 - builder->previous->box.x1;

        blank = join == JOIN_BLANK && !builder->soft_hyphen;
        if (join == JOIN_DROP)
            drop_hyphen(builder->out, bytes);
        if (on_one_row(builder->previous, line) && gap >= shape->cell_gap && builder->block.kind != BLOCK_HEADING) {
            status = buf_append_byte(&builder->out->text, '\t');
            blank = false;
            if (builder->block.kind == BLOCK_PARAGRAPH)
                builder->block.kind = BLOCK_TABLE_ROW;
        }
    } else {
        status = open_block(builder, line, shape);
    }
    if (status)
        return status;
    builder->block_left = line->box.x0 < builder->block_left ? line->box.x0 : builder->block_left;
    builder->block_right = line->box.x1 > builder->block_right ? line->box.x1 : builder->block_right;
    builder->previous = line;
    builder->previous_shape = *shape;
    return clean_append(builder->out, line, &options, blank, builder->block.start, &builder->soft_hyphen);
}

static int compare_int32(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

    return (x > y) - (x < y);
}

/* The usual white between a line and the next one below it: the lower quartile, since most larger gaps part
 * paragraphs. */
static int32_t find_usual_gap(const struct page *page)
{
    int32_t gaps[TYPICAL_GAP_LINES];
    size_t count = 0;

    for (size_t i = 1; i < page->line_count && count < TYPICAL_GAP_LINES; i++) {
        const struct page_line *a = &page->lines[i - 1], *b = &page->lines[i];

        if (a->word_count && b->word_count && !a->furniture && !b->furniture && b->box.y0 > a->box.y0 &&
            !on_one_row(a, b) && a->font_size == b->font_size)
            gaps[count++] = b->box.y0 - a->box.y1;
    }
    if (!count)
        return 0;
    qsort(gaps, count, sizeof *gaps, compare_int32);
    return gaps[count / 4];
}

static enum status add_aside(struct page_text *out, const struct page_line *line)
{
    struct page_text scratch;
    const struct clean_options options = {0};
    bool soft_hyphen;
    enum status status;

    page_text_init(&scratch);
    status = clean_append(&scratch, line, &options, false, 0, &soft_hyphen);
    if (!status && out->aside.len && scratch.text.len)
        status = buf_append_byte(&out->aside, '\n');
    if (!status)
        status = buf_append_span(&out->aside, buf_span(&scratch.text));
    page_text_finish(&scratch);
    return status;
}

/* The line at `index` and the next one are parted cells of one row. */
static bool row_goes_on(const struct page *page, size_t index, int32_t cell_gap)
{
    const struct page_line *line = &page->lines[index], *next = line + 1;

    return index + 1 < page->line_count && !next->furniture && line->word_count && next->word_count &&
           on_one_row(line, next) && next->box.x0 - line->box.x1 >= cell_gap;
}

/* Gives a line its role. *heading_lines and *level carry a heading over its further lines. */
static void decide_role(const struct page *page, const struct heading_rules *rules, size_t index,
                        struct line_shape *shape, size_t *heading_lines, int *level)
{
    enum { NUMBER_BYTES = 12 }; /* "Item 2A." in a cell of its own before a heading's words */
    const struct page_line *line = &page->lines[index];
    bool row = row_goes_on(page, index, shape->cell_gap);
    size_t unused;

    if (*heading_lines > 1) { /* a further line of the heading before */
        --*heading_lines;
        shape->role = BLOCK_HEADING;
        shape->level = *level;
        shape->joins_heading = true;
        return;
    }
    *heading_lines = 0;
    if (line->kind == LINE_TEXT && row && line->text.len <= NUMBER_BYTES &&
        !row_goes_on(page, index + 1, shape->cell_gap) &&
        (*level = heading_level(rules, page, index + 1, &unused)) != 0) {
        *heading_lines = 2;
    } else if (!row && (shape->role != BLOCK_TABLE_ROW || has_number_cell(line, shape->cell_gap))) {
        *level = heading_level(rules, page, index, heading_lines);
    } else {
        *level = 0;
    }
    if (*level) {
        shape->role = BLOCK_HEADING;
        shape->level = *level;
    } else if (row && shape->role == BLOCK_PARAGRAPH) {
        shape->role = BLOCK_TABLE_ROW;
    }
}

enum status normalize_page(const struct page *page, const struct heading_rules *rules, const struct hyphenated *set,
                           struct page_text *out, struct error *err)
{
    struct builder builder = {.page = page, .set = set, .out = out, .usual_gap = find_usual_gap(page)};
    size_t heading_lines = 0;
    int level = 0;
    enum status status = STATUS_OK;

    for (size_t i = 0; i < page->line_count && !status; i++) {
        const struct page_line *line = &page->lines[i];
        struct line_shape shape = {0};

        if (line->furniture) {
            status = add_aside(out, line);
            continue;
        }
        shape_line(line, &shape);
        decide_role(page, rules, i, &shape, &heading_lines, &level);
        status = add_line(&builder, line, &shape);
    }
    if (!status)
        status = close_block(&builder);
    /* A last block that turned out empty leaves its separator behind. */
    if (!status) {
        out->text.len = out->blocks.count ? out->blocks.items[out->blocks.count - 1].end : 0;
        if (out->text.ptr)
            out->text.ptr[out->text.len] = '\0';
    }
    return status ? error_set(err, status, "page %d: its text could not be normalised", page->number) : STATUS_OK;
}
