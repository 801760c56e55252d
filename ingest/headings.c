/* headings.c: the rules of headings.h. */
#include "ingest/headings.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>

#include <xxhash.h>

#include "base/vec.h"
#include "ingest/limits.h"

enum {
    HEADING_MAX_BYTES = 200,
    BOLD_MAX_BYTES = 90, /* about 12 words */
    OUTLINE_LINES = 3,   /* a heading that the outline names may run over so many lines */
    SIZE_STEPS = 2       /* sizes are told apart to half a point */
};
static const float LARGER = 1.15f;

struct outline_key {
    int page, level;
    uint64_t hash, bare_hash; /* of the folded title, with and without its number */
};

/* Letters and digits of ASCII in lower case and everything beyond ASCII; white space and signs are dropped. */
static size_t fold(struct span text, char *out, size_t cap)
{
    size_t len = 0;

    for (size_t i = 0; i < text.len && len < cap; i++) {
        unsigned char c = (unsigned char)text.ptr[i];

        if (c >= 0x80 || isalnum(c))
            out[len++] = (char)tolower(c);
    }
    return len;
}

static uint64_t hash_bare(const char *folded, size_t len)
{
    size_t digits = 0;

    while (digits < len && isdigit((unsigned char)folded[digits]))
        digits++;
    return digits < len ? XXH3_64bits(folded + digits, len - digits) : 0;
}

static int compare_outline(const void *a, const void *b)
{
    const struct outline_key *x = a, *y = b;

    return (x->page > y->page) - (x->page < y->page);
}

static int steps_of(float size)
{
    return (int)lrintf(size * SIZE_STEPS);
}

static bool has_letters(struct span text)
{
    size_t letters = 0;

    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];

        letters += c >= 0x80 || isalpha(c);
    }
    return letters >= 2 && letters * 2 >= text.len / 2;
}

/* The size that half of the text's bytes do not exceed. */
static float find_body_size(const size_t *bytes_of_size, int cap)
{
    size_t total = 0, seen = 0;

    for (int s = 1; s < cap; s++)
        total += bytes_of_size[s];
    for (int s = 1; s < cap; s++) {
        seen += bytes_of_size[s];
        if (total && seen * 2 >= total)
            return (float)s / SIZE_STEPS;
    }
    return 0;
}

static bool is_large(const struct heading_rules *rules, const struct page_line *line)
{
    return rules->body_size > 0 && line->font_size > rules->body_size * LARGER;
}

enum status heading_rules_init(struct heading_rules *rules, const struct page *pages, size_t page_count,
                               const struct outline_entry *outline, size_t outline_count, struct error *err)
{
    enum { SIZES = 200 * SIZE_STEPS };
    size_t *bytes_of_size = calloc(SIZES, sizeof *bytes_of_size), *lines_of_size = calloc(SIZES, sizeof *lines_of_size);
    struct outline_key *keys = calloc(outline_count + 1, sizeof *keys);
    size_t key_count = 0;
    int deepest = 0;

    *rules = (struct heading_rules){0};
    if (!bytes_of_size || !lines_of_size || !keys) {
        free(bytes_of_size);
        free(lines_of_size);
        free(keys);
        return error_set(err, STATUS_NO_MEMORY, "no memory to look for headings");
    }
    for (size_t p = 0; p < page_count; p++) {
        for (size_t i = 0; i < pages[p].line_count; i++) {
            const struct page_line *line = &pages[p].lines[i];
            int steps = steps_of(line->font_size);

            if (line->furniture || steps <= 0 || steps >= SIZES)
                continue;
            bytes_of_size[steps] += line->text.len;
            if (line->text.len <= HEADING_MAX_BYTES && has_letters(line->text))
                lines_of_size[steps]++;
        }
    }
    rules->body_size = find_body_size(bytes_of_size, SIZES);
    for (int s = SIZES - 1; s > 0 && rules->size_count < HEADING_LEVELS; s--) {
        if (lines_of_size[s] && (float)s / SIZE_STEPS > rules->body_size * LARGER)
            rules->sizes[rules->size_count++] = (float)s / SIZE_STEPS;
    }
    for (size_t i = 0; i < outline_count; i++) {
        char folded[HEADING_MAX_BYTES];
        size_t len = fold(span_from_cstr(outline[i].title), folded, sizeof folded);

        if (!len || outline[i].page <= 0)
            continue;
        keys[key_count++] = (struct outline_key){
            .page = outline[i].page,
            .level = outline[i].level < 1 ? 1 : outline[i].level > HEADING_LEVELS ? HEADING_LEVELS : outline[i].level,
            .hash = XXH3_64bits(folded, len),
            .bare_hash = hash_bare(folded, len)};
        deepest = keys[key_count - 1].level > deepest ? keys[key_count - 1].level : deepest;
    }
    if (key_count)
        qsort(keys, key_count, sizeof *keys, compare_outline);
    rules->outline = keys;
    rules->outline_count = key_count;
    rules->first_size_level = deepest + 1;
    free(bytes_of_size);
    free(lines_of_size);
    return STATUS_OK;
}

void heading_rules_finish(struct heading_rules *rules)
{
    free(rules->outline);
    *rules = (struct heading_rules){0};
}

static int outline_level(const struct heading_rules *rules, const struct page *page, size_t index, size_t *lines)
{
    char folded[HEADING_MAX_BYTES];
    size_t len = 0, first = 0, end = rules->outline_count;

    while (first < end) { /* the first entry of this page */
        size_t middle = first + (end - first) / 2;

        if (rules->outline[middle].page < page->number)
            first = middle + 1;
        else
            end = middle;
    }
    if (first == rules->outline_count || rules->outline[first].page != page->number)
        return 0;
    for (size_t n = 0; n < OUTLINE_LINES && index + n < page->line_count; n++) {
        uint64_t hash, bare;

        if (page->lines[index + n].furniture)
            break;
        len += fold(page->lines[index + n].text, folded + len, sizeof folded - len);
        if (!len)
            break;
        hash = XXH3_64bits(folded, len);
        bare = hash_bare(folded, len);
        for (size_t i = first; i < rules->outline_count && rules->outline[i].page == page->number; i++) {
            if (rules->outline[i].hash == hash || (bare && rules->outline[i].bare_hash == bare)) {
                *lines = n + 1;
                return rules->outline[i].level;
            }
        }
    }
    return 0;
}

static int clamp_level(int level)
{
    return level > HEADING_LEVELS ? HEADING_LEVELS : level;
}

int heading_level(const struct heading_rules *rules, const struct page *page, size_t index, size_t *lines)
{
    const struct page_line *line = &page->lines[index];
    int level;
    unsigned char first;
    char last;

    *lines = 1;
    if (line->kind == LINE_HEADING)
        return line->level < 1 ? 1 : clamp_level(line->level);
    if (line->kind != LINE_TEXT || !line->text.len || !line->word_count)
        return 0;
    level = outline_level(rules, page, index, lines);
    if (level)
        return level;
    if (line->text.len > HEADING_MAX_BYTES || !has_letters(line->text))
        return 0;
    if (is_large(rules, line)) {
        for (int s = 0; s < rules->size_count; s++) {
            if (line->font_size >= rules->sizes[s] - 0.5f / SIZE_STEPS)
                return clamp_level(rules->first_size_level + s);
        }
        return clamp_level(rules->first_size_level + rules->size_count);
    }
    first = (unsigned char)line->text.ptr[0];
    last = line->text.ptr[line->text.len - 1];
    if ((line->flags & LINE_BOLD) && line->text.len <= BOLD_MAX_BYTES && line->font_size >= rules->body_size &&
        !strchr(".;,:!?", last) && (isupper(first) || isdigit(first)))
        return clamp_level(rules->first_size_level + rules->size_count);
    return 0;
}
