/* sentences.c: where sentences end, by rule. A full stop ends one when white space follows and what comes next looks
 * like a beginning, unless it closes an abbreviation or an initial. An empty line always ends one. */
#include <ctype.h>
#include <string.h>

#include "retrieval/retrieval_internal.h"

static const char *const abbreviations[] = {
    "mr",  "mrs", "ms",  "dr",     "prof", "st",  "sr",  "jr",    "vs",   "etc", "no",   "nos", "vol", "fig", "figs",
    "eq",  "cf",  "ca",  "approx", "inc",  "ltd", "co",  "corp",  "dept", "est", "al",   "jan", "feb", "mar", "apr",
    "jun", "jul", "aug", "sep",    "sept", "oct", "nov", "dec",   "gen",  "col", "capt", "lt",  "sgt", "rev", "hon",
    "gov", "sen", "rep", "pres",   "pp",   "ed",  "eds", "trans", "sec",  "art", "op",   "e.g", "i.e", "u.s", "u.k",
    "c"};

enum { LONGEST_HEADING = 160 }; /* bytes; longer ones are paragraphs without a stop */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v';
}

/* Does the word before the full stop at `stop` take it as its own? */
static bool is_abbreviation(struct span text, size_t begin, size_t stop)
{
    size_t start = stop, len;
    char word[16];

    while (start > begin && !is_space(text.ptr[start - 1]) && text.ptr[start - 1] != '(')
        start--;
    len = stop - start;
    if (len == 1 && isupper((unsigned char)text.ptr[start]))
        return true; /* an initial */
    if (len == 0 || len >= sizeof word)
        return false;
    for (size_t i = 0; i < len; i++)
        word[i] = (char)tolower((unsigned char)text.ptr[start + i]);
    for (size_t i = 0; i < sizeof abbreviations / sizeof abbreviations[0]; i++) {
        if (strlen(abbreviations[i]) == len && memcmp(abbreviations[i], word, len) == 0)
            return true;
    }
    return false;
}

/* Steps over closing quotes and brackets, and the reference marks of encyclopedias: "[12]". */
static size_t skip_closers(struct span text, size_t at)
{
    for (;;) {
        size_t mark = at;

        if (at < text.len &&
            (text.ptr[at] == '"' || text.ptr[at] == '\'' || text.ptr[at] == ')' || text.ptr[at] == ']')) {
            at++;
        } else if (at + 2 < text.len && memcmp(text.ptr + at, "\xe2\x80\x9d", 3) == 0) { /* U+201D */
            at += 3;
        } else if (at < text.len && text.ptr[at] == '[') {
            mark++;
            while (mark < text.len && isdigit((unsigned char)text.ptr[mark]))
                mark++;
            if (mark == at + 1 || mark >= text.len || text.ptr[mark] != ']')
                return at;
            at = mark + 1;
        } else {
            return at;
        }
    }
}

static bool can_begin(struct span text, size_t at)
{
    unsigned char c = (unsigned char)text.ptr[at];

    return isupper(c) || isdigit(c) || c == '"' || c == '\'' || c == '(' || c == '[' || c == '-' || c >= 0x80;
}

static bool same_words(struct span a, struct span b)
{
    size_t i = 0, j = 0;

    for (;;) {
        bool gap_a = i < a.len && is_space(a.ptr[i]), gap_b = j < b.len && is_space(b.ptr[j]);

        while (i < a.len && is_space(a.ptr[i]))
            i++;
        while (j < b.len && is_space(b.ptr[j]))
            j++;
        if (i == a.len || j == b.len)
            return i == a.len && j == b.len;
        if (gap_a != gap_b || tolower((unsigned char)a.ptr[i]) != tolower((unsigned char)b.ptr[j]))
            return false;
        i++;
        j++;
    }
}

bool sentence_is_heading(struct span sentence, const char *title, const char *heading)
{
    if (title && *title && same_words(sentence, span_from_cstr(title)))
        return true;
    while (heading && *heading) {
        const char *end = strstr(heading, " > ");
        size_t len = end ? (size_t)(end - heading) : strlen(heading);

        if (same_words(sentence, span_of(heading, len)))
            return true;
        heading = end ? end + 3 : NULL;
    }
    return false;
}

/* A short line that does not end like a sentence. */
static bool is_heading_block(struct span block)
{
    static const char *const stops[] = {".", "!", "?", ":", ";", "\xE2\x80\xA6", "\xE3\x80\x82", "\xEF\xBC\x81",
                                        "\xEF\xBC\x9F"}; /* the last four: … and CJK's full stop, ! and ? */
    size_t end = block.len;

    if (block.len > LONGEST_HEADING || memchr(block.ptr, '\n', block.len))
        return false;
    while (end && strchr("\"')]", block.ptr[end - 1]))
        end--;
    if (end >= 3 && memcmp(block.ptr + end - 3, "\xe2\x80\x9d", 3) == 0)
        end -= 3;
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        size_t len = strlen(stops[i]);

        if (end >= len && memcmp(block.ptr + end - len, stops[i], len) == 0)
            return false;
    }
    return true;
}

static bool is_border(struct span text, size_t at)
{
    return at + 1 < text.len && text.ptr[at] == '\n' && text.ptr[at + 1] == '\n';
}

/* Where a block of text ends: at the empty line after it, or with the text. */
static size_t block_end(struct span text, size_t at)
{
    while (at < text.len && !is_border(text, at))
        at++;
    return at;
}

bool retrieval_is_heading(struct span text, size_t start, size_t end)
{
    return start < end && (start == 0 || (start >= 2 && is_border(text, start - 2))) && is_border(text, end) &&
           is_heading_block(span_slice(text, start, end));
}

static bool is_row(struct span line)
{
    enum { MOST_WORDS = 4 };
    const char *tab = memrchr(line.ptr, '\t', line.len);
    size_t words = 0;

    if (!tab)
        return false;
    for (const char *at = tab + 1; at < line.ptr + line.len; at++)
        words += *at != ' ' && (at[-1] == '\t' || at[-1] == ' ');
    return words <= MOST_WORDS;
}

bool retrieval_is_rows(struct span text, size_t start, size_t end)
{
    size_t rows = 0;

    for (size_t at = start, next; at < end; at = next + 1) {
        for (next = at; next < end && text.ptr[next] != '\n'; next++)
            ;
        if (next > at && !is_row(span_slice(text, at, next)))
            return false;
        rows += next > at;
    }
    return rows > 0;
}

void retrieval_trim_headings(struct span text, size_t *start, size_t *end)
{
    size_t from = *start, to = *end, next;

    while ((next = block_end(text, from)) < to && is_heading_block(span_slice(text, from, next)))
        for (from = next; from < to && text.ptr[from] == '\n';)
            from++;
    for (;;) { /* the last block, if it is not the first too */
        size_t at = from, before = to;

        while ((next = block_end(text, at)) < to) {
            before = next;
            for (at = next; at < to && text.ptr[at] == '\n';)
                at++;
        }
        if (before == to || !is_heading_block(span_slice(text, at, to)))
            break;
        to = before;
    }
    *start = from;
    *end = to;
}

bool sentence_next(struct span text, size_t *at, size_t *start, size_t *end)
{
    size_t begin = *at, i;

    while (begin < text.len && is_space(text.ptr[begin]))
        begin++;
    if (begin >= text.len) {
        *at = text.len;
        return false;
    }
    for (i = begin; i < text.len; i++) {
        char c = text.ptr[i];
        size_t after = i + 1, next;

        if (c == '\n') { /* an empty line? */
            while (after < text.len && (text.ptr[after] == ' ' || text.ptr[after] == '\t' || text.ptr[after] == '\r'))
                after++;
            if (after < text.len && text.ptr[after] == '\n')
                break;
            continue;
        }
        if (c != '.' && c != '!' && c != '?')
            continue;
        after = skip_closers(text, after);
        if (after >= text.len) {
            i = text.len;
            break;
        }
        if (!is_space(text.ptr[after]))
            continue;
        next = after;
        while (next < text.len && is_space(text.ptr[next]))
            next++;
        if (next < text.len && (!can_begin(text, next) || (c == '.' && is_abbreviation(text, begin, i))))
            continue;
        i = after;
        break;
    }
    *start = begin;
    *at = i;
    while (i > begin && is_space(text.ptr[i - 1]))
        i--;
    *end = i;
    return true;
}
