/* clean.c: see clean.h. */
#include "ingest/clean.h"

#include "base/utf8.h"

enum { SOFT_HYPHEN = 0xAD };

/* What becomes of a character. */
enum char_class { CHAR_KEEP, CHAR_BLANK, CHAR_DROP, CHAR_HIDDEN, CHAR_TAG, CHAR_SOFT_HYPHEN, CHAR_LIGATURE };

static enum char_class classify(uint32_t code)
{
    if (code < 0x80) {
        if (code == ' ' || (code >= '\t' && code <= '\r'))
            return CHAR_BLANK;
        return code < ' ' || code == 0x7F ? CHAR_DROP : CHAR_KEEP;
    }
    if (code < 0x2000) {
        if (code < 0xA0)
            return code == 0x85 ? CHAR_BLANK : CHAR_DROP;
        if (code == 0xA0 || code == 0x1680)
            return CHAR_BLANK;
        if (code == SOFT_HYPHEN)
            return CHAR_SOFT_HYPHEN;
        return code == 0x180E ? CHAR_HIDDEN : CHAR_KEEP;
    }
    if (code <= 0x206F) {
        if (code <= 0x200A || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F)
            return CHAR_BLANK;
        /* The joiners U+200C and U+200D spell Persian and Indic words and stay. */
        if (code == 0x200B || code == 0x200E || code == 0x200F || (code >= 0x202A && code <= 0x202E) ||
            code >= 0x2060)
            return CHAR_HIDDEN;
        return CHAR_KEEP;
    }
    if (code == 0x3000)
        return CHAR_BLANK;
    if (code >= 0xFB00 && code <= 0xFB06)
        return CHAR_LIGATURE;
    if (code == 0xFEFF || (code >= 0xFFF9 && code <= 0xFFFB))
        return CHAR_HIDDEN;
    return code >= 0xE0000 && code <= 0xE007F ? CHAR_TAG : CHAR_KEEP;
}

/* U+FB00..FB06, Unicode's compatibility decompositions; the sixth is long s and t. */
static const char *const ligatures[] = {"ff", "fi", "fl", "ffi", "ffl", "st", "st"};

static struct rect rect_of(const struct frame_word *word)
{
    return (struct rect){(float)word->x0 / UNITS_PER_POINT, (float)word->y0 / UNITS_PER_POINT,
                         (float)word->x1 / UNITS_PER_POINT, (float)word->y1 / UNITS_PER_POINT};
}

enum status clean_append(struct page_text *out, const struct page_line *line, const struct clean_options *options,
                         bool blank, size_t block_start, bool *soft_hyphen)
{
    const char *text = line->text.ptr;
    struct buf *buf = &out->text;
    uint32_t word = 0;          /* the first that does not end before `i` */
    size_t word_start = SIZE_MAX; /* where that word's first byte came to stand */
    char pending = blank ? ' ' : '\0';
    enum status status = vec_reserve(&out->runs, line->word_count);

    *soft_hyphen = false;
    for (size_t i = 0; i < line->text.len && !status;) {
        uint32_t code = (unsigned char)text[i];
        size_t bytes = 1;
        enum char_class class;

        while (word < line->word_count && i >= line->words[word].end) {
            if (word_start != SIZE_MAX)
                out->runs.items[out->runs.count++] = (struct rectmap_run){
                    (uint32_t)word_start, (uint32_t)buf->len, rect_of(&line->words[word])};
            word_start = SIZE_MAX;
            word++;
            if (word < line->word_count && options->cell_gap &&
                line->words[word].x0 - line->words[word - 1].x1 >= options->cell_gap)
                pending = '\t';
        }
        if (code >= 0x80) {
            bytes = utf8_decode(text + i, line->text.len - i, &code);
            if (!bytes)
                return STATUS_BUG; /* the frame decoder lets no other text through */
        }
        class = classify(code);
        if (options->keep_layout && class == CHAR_BLANK && code < 0x80)
            class = code == '\r' || code == '\f' || code == '\v' ? CHAR_DROP : CHAR_KEEP;
        *soft_hyphen = class == CHAR_SOFT_HYPHEN || (*soft_hyphen && class != CHAR_KEEP && class != CHAR_LIGATURE);
        switch (class) {
        case CHAR_BLANK:
            if (pending != '\t')
                pending = options->keep_tabs && code == '\t' ? '\t' : ' ';
            break;
        case CHAR_TAG:
        case CHAR_HIDDEN:
            out->hidden_count++;
            out->tag_count += class == CHAR_TAG;
            break;
        case CHAR_DROP:
        case CHAR_SOFT_HYPHEN: break;
        case CHAR_KEEP:
        case CHAR_LIGATURE:
            if (pending && buf->len > block_start)
                status = buf_append_byte(buf, pending);
            pending = '\0';
            if (word < line->word_count && i >= line->words[word].start && word_start == SIZE_MAX)
                word_start = buf->len;
            if (status)
                break;
            status = class == CHAR_KEEP ? buf_append(buf, text + i, bytes)
                                        : buf_append_cstr(buf, ligatures[code - 0xFB00]);
            break;
        }
        i += bytes;
    }
    if (word < line->word_count && word_start != SIZE_MAX && !status)
        out->runs.items[out->runs.count++] =
            (struct rectmap_run){(uint32_t)word_start, (uint32_t)buf->len, rect_of(&line->words[word])};
    return status;
}
