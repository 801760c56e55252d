/* sentence.c: the rules of sentence.h. They cover what is common in English prose and filings; a wrong cut costs
 * little, since a passage holds several sentences and neighbours are retrieved together. */
#include "ingest/sentence.h"

#include <ctype.h>
#include <stdint.h>

#include "base/utf8.h"

/* Lower case, without the full stop. After these a capital letter starts no sentence. */
static const char *const abbreviations[] = {
    "mr", "mrs", "ms", "dr", "prof", "rev", "hon", "st", "jr", "sr", "messrs", "gen", "col", "sgt", "lt", "capt",
    "no", "nos", "vs", "v", "cf", "e.g", "i.e", "eg", "ie", "viz", "al", "approx", "ca", "fig", "figs", "eq", "eqs",
    "sec", "secs", "ch", "chap", "vol", "pp", "p", "para", "art", "ex", "app", "ref", "refs", "ed", "eds",
    "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec", "u.s", "u.k", "u.n",
    "d.c", "ph.d", "m.d", "b.a", "m.a", "dept", "est", "inc", "ltd", "co", "corp", "llc", "bros"};

/* The word before the full stop at `stop` (letters and inner full stops). */
static bool is_abbreviation(struct span text, size_t stop)
{
    char word[12];
    size_t start = stop, len;

    while (start > 0 && (isalpha((unsigned char)text.ptr[start - 1]) || text.ptr[start - 1] == '.'))
        start--;
    len = stop - start;
    if (len == 0 || len >= sizeof word)
        return false;
    if (len == 1 && isupper((unsigned char)text.ptr[start]))
        return true; /* an initial */
    for (size_t i = 0; i < len; i++)
        word[i] = (char)tolower((unsigned char)text.ptr[start + i]);
    word[len] = '\0';
    for (size_t i = 0; i < sizeof abbreviations / sizeof *abbreviations; i++) {
        if (strcmp(word, abbreviations[i]) == 0)
            return true;
    }
    return false;
}

/* Bytes of a closing quotation mark or bracket at `at`, 0 if there is none. */
static size_t closing_mark(struct span text, size_t at)
{
    if (at >= text.len)
        return 0;
    if (strchr("\"')]", text.ptr[at]))
        return 1;
    if (at + 3 <= text.len &&
        (memcmp(text.ptr + at, "\xE2\x80\x9D", 3) == 0 || memcmp(text.ptr + at, "\xE2\x80\x99", 3) == 0))
        return 3;
    return 0;
}

/* Bytes of an East Asian full stop at `at` (U+3002, U+FF01, U+FF1F, U+FF0E), 0 if there is none. */
static size_t wide_stop(struct span text, size_t at)
{
    static const char *const stops[] = {"\xE3\x80\x82", "\xEF\xBC\x81", "\xEF\xBC\x9F", "\xEF\xBC\x8E"};

    if (at + 3 > text.len)
        return 0;
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        if (memcmp(text.ptr + at, stops[i], 3) == 0)
            return 3;
    }
    return 0;
}

size_t sentence_length(struct span text)
{
    for (size_t i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        size_t end = i + 1, mark;

        if (c >= 0x80) {
            mark = wide_stop(text, i);
            if (!mark)
                continue;
            end = i + mark;
            while ((mark = closing_mark(text, end)) != 0)
                end += mark;
        } else {
            if (c != '.' && c != '!' && c != '?')
                continue;
            while (end < text.len && strchr(".!?", text.ptr[end]))
                end++;
            while ((mark = closing_mark(text, end)) != 0)
                end += mark;
            if (end >= text.len)
                return text.len;
            if (text.ptr[end] != ' ' && text.ptr[end] != '\n' && text.ptr[end] != '\t') {
                i = end - 1;
                continue;
            }
            if (c == '.' && end == i + 1 && is_abbreviation(text, i))
                continue;
        }
        while (end < text.len && (text.ptr[end] == ' ' || text.ptr[end] == '\n' || text.ptr[end] == '\t'))
            end++;
        if (end >= text.len)
            return text.len;
        if (!islower((unsigned char)text.ptr[end]))
            return end;
        i = end - 1;
    }
    return text.len;
}

size_t sentence_cut(struct span text, size_t max)
{
    size_t clause = 0, blank = 0, whole;
    uint32_t code;

    if (text.len <= max)
        return text.len;
    for (size_t i = 0; i < max; i++) {
        char c = text.ptr[i];

        if (c != ' ' && c != '\n' && c != '\t')
            continue;
        blank = i + 1;
        if (i > 0 && strchr(";:,)", text.ptr[i - 1]))
            clause = i + 1;
    }
    /* A clause in the last half is worth a shorter piece; farther forward it is not. */
    if (clause > max / 2)
        return clause;
    if (blank > max / 2)
        return blank;
    whole = utf8_complete_prefix(span_slice(text, 0, max));
    if (whole)
        return whole;
    whole = utf8_decode(text.ptr, text.len, &code);
    return whole ? whole : 1;
}

bool sentence_ends(struct span text)
{
    size_t i = text.len;

    while (i > 0 && (text.ptr[i - 1] == ' ' || text.ptr[i - 1] == '\n' || strchr("\"')]", text.ptr[i - 1])))
        i--;
    while (i >= 3 && closing_mark(text, i - 3) == 3)
        i -= 3;
    return i > 0 && (strchr(".!?", text.ptr[i - 1]) || (i >= 3 && wide_stop(text, i - 3)));
}
