/* markdown_inline.c: a small reading of CommonMark's inline rules (0.30, chapter 6).
 *
 * One pass from left to right. Emphasis is found by a stack of runs of '*', '_' and '~' that could open; a run
 * that can close and finds its opener drops both. Runs without a partner are text, as in "5 * 3" and "a_b". */
#include "ingest/markdown_inline.h"

#include <stdbool.h>
#include <stdlib.h>

#include "base/utf8.h"

enum {
    RUNS_MAX = 64,
    CLOSE_BYTES = 4096 /* how far a link, a tag or a comment may reach: many openings cost no more than this each */
};

struct run {
    size_t at, len; /* in the output */
    char mark;
};

struct inline_state {
    struct span text;
    size_t at;
    struct buf *out;
    struct run runs[RUNS_MAX];
    int run_count;
};

static bool is_space_at(struct span text, size_t at)
{
    return at >= text.len || (unsigned char)text.ptr[at] <= ' ';
}

static bool is_punctuation(char c)
{
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

static bool is_word_at(struct span text, size_t at)
{
    return at < text.len && !is_space_at(text, at) && !is_punctuation(text.ptr[at]);
}

/* Drops `count` bytes of the output at `at`; later runs move with it. */
static void drop(struct inline_state *s, size_t at, size_t count)
{
    memmove(s->out->ptr + at, s->out->ptr + at + count, s->out->len - at - count);
    s->out->len -= count;
    s->out->ptr[s->out->len] = '\0';
}

static enum status take_emphasis(struct inline_state *s)
{
    char mark = s->text.ptr[s->at];
    size_t from = s->at, end = from;
    bool before_space = from == 0 || is_space_at(s->text, from - 1), after_space, before_word, after_word;
    bool can_open, can_close;
    enum status status;

    while (end < s->text.len && s->text.ptr[end] == mark)
        end++;
    s->at = end;
    after_space = is_space_at(s->text, end);
    before_word = from > 0 && is_word_at(s->text, from - 1);
    after_word = is_word_at(s->text, end);
    can_open = !after_space && (after_word || !before_word) && !(mark == '_' && before_word);
    can_close = !before_space && (before_word || !after_word) && !(mark == '_' && after_word);
    if (mark == '~' && end - from != 2)
        can_open = can_close = false;
    for (int i = s->run_count - 1; i >= 0 && can_close; i--) {
        struct run *run = &s->runs[i];

        if (run->mark == mark && run->len == end - from) {
            drop(s, run->at, run->len);
            s->run_count = i;
            return STATUS_OK;
        }
    }
    if (can_open && s->run_count < RUNS_MAX)
        s->runs[s->run_count++] = (struct run){s->out->len, end - from, mark};
    status = buf_append(s->out, s->text.ptr + from, end - from);
    return status;
}

/* `code`, ``co`de``: the bytes between two runs of the same length, as they stand. */
static enum status take_code(struct inline_state *s)
{
    size_t from = s->at, open = from, at;

    while (open < s->text.len && s->text.ptr[open] == '`')
        open++;
    for (at = open; at < s->text.len;) {
        size_t run = at;

        while (run < s->text.len && s->text.ptr[run] == '`')
            run++;
        if (run > at && run - at == open - from) {
            s->at = run;
            return buf_append(s->out, s->text.ptr + open, at - open);
        }
        at = run > at ? run : at + 1;
    }
    s->at = open;
    return buf_append(s->out, s->text.ptr + from, open - from);
}

/* The byte after the `close` that belongs to the `open` at `at`; 0 when there is none. */
static size_t find_close(struct span text, size_t at, char open, char close)
{
    int depth = 0;

    for (size_t i = at; i < text.len && i < at + CLOSE_BYTES; i++) {
        if (text.ptr[i] == '\\')
            i++;
        else if (text.ptr[i] == open)
            depth++;
        else if (text.ptr[i] == close && --depth == 0)
            return i + 1;
    }
    return 0;
}

/* [text](target), [text][label], ![text](picture): the text, whose own marks are taken off too. Nested links
 * do not exist, so this goes one level deep and no further. */
static enum status take_link(struct inline_state *s, size_t bracket)
{
    size_t end = find_close(s->text, bracket, '[', ']'), after = 0;
    struct span label;

    if (end && end < s->text.len && s->text.ptr[end] == '(')
        after = find_close(s->text, end, '(', ')');
    else if (end && end < s->text.len && s->text.ptr[end] == '[')
        after = find_close(s->text, end, '[', ']');
    if (!after) {
        size_t from = s->at;

        s->at = bracket + 1;
        return buf_append(s->out, s->text.ptr + from, s->at - from);
    }
    label = span_slice(s->text, bracket + 1, end - 1);
    s->at = after;
    if (label.len > 1 && label.ptr[0] == '!' && label.ptr[1] == '[') /* a picture as a link: its own text */
        label = span_slice(label, 2, find_close(label, 1, '[', ']') ? find_close(label, 1, '[', ']') - 1 : label.len);
    return buf_append_span(s->out, label);
}

/* <https://…> and <a@b.c> show what is inside; a tag or comment shows nothing. */
static enum status take_angle(struct inline_state *s)
{
    struct span rest = span_slice(s->text, s->at, s->at + CLOSE_BYTES), inside;
    const char *end = memchr(rest.ptr, '>', rest.len), *comment_end = memmem(rest.ptr, rest.len, "-->", 3);
    char first = rest.len > 1 ? rest.ptr[1] : ' ';

    if (rest.len >= 4 && memcmp(rest.ptr, "<!--", 4) == 0 && comment_end) {
        s->at += (size_t)(comment_end - rest.ptr) + 3;
        return STATUS_OK;
    }
    if (!end || !(first == '/' || ((first | 32) >= 'a' && (first | 32) <= 'z'))) {
        s->at++;
        return buf_append_byte(s->out, '<');
    }
    inside = span_of(rest.ptr + 1, (size_t)(end - rest.ptr) - 1);
    s->at += inside.len + 2;
    if (memchr(inside.ptr, ' ', inside.len) == NULL &&
        (memmem(inside.ptr, inside.len, "://", 3) || memchr(inside.ptr, '@', inside.len)))
        return buf_append_span(s->out, inside);
    return STATUS_OK;
}

static enum status take_entity(struct inline_state *s)
{
    static const struct {
        const char *name, *text;
    } entities[] = {
        {"&amp;", "&"}, {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&apos;", "'"}, {"&nbsp;", " "},
        {"&ndash;", "\xE2\x80\x93"}, {"&mdash;", "\xE2\x80\x94"}, {"&hellip;", "\xE2\x80\xA6"},
        {"&copy;", "\xC2\xA9"},
    };
    struct span rest = span_slice(s->text, s->at, s->text.len);

    for (size_t i = 0; i < sizeof entities / sizeof *entities; i++) {
        size_t len = strlen(entities[i].name);

        if (rest.len >= len && memcmp(rest.ptr, entities[i].name, len) == 0) {
            s->at += len;
            return buf_append_cstr(s->out, entities[i].text);
        }
    }
    if (rest.len > 3 && rest.ptr[1] == '#') {
        bool hex = (rest.ptr[2] | 32) == 'x';
        char digits[12] = "", encoded[UTF8_MAX_BYTES], *end;
        size_t from = hex ? 3 : 2, len = rest.len - from < sizeof digits - 1 ? rest.len - from : sizeof digits - 1;
        unsigned long code;

        memcpy(digits, rest.ptr + from, len);
        code = strtoul(digits, &end, hex ? 16 : 10);
        len = code < 0x110000 && code >= ' ' ? utf8_encode((uint32_t)code, encoded) : 0;
        if (*end == ';' && end > digits && len) {
            s->at += from + (size_t)(end - digits) + 1;
            return buf_append(s->out, encoded, len);
        }
    }
    s->at++;
    return buf_append_byte(s->out, '&');
}

enum status markdown_inline(struct span text, struct buf *out)
{
    struct inline_state s = {.text = text, .out = out};
    enum status status = STATUS_OK;

    while (s.at < text.len && !status) {
        char c = text.ptr[s.at];
        size_t plain = s.at;

        while (plain < text.len && !strchr("*_~`[!<&\\", text.ptr[plain]))
            plain++;
        if (plain > s.at) {
            status = buf_append(out, text.ptr + s.at, plain - s.at);
            s.at = plain;
            continue;
        }
        switch (c) {
        case '*':
        case '_':
        case '~': status = take_emphasis(&s); break;
        case '`': status = take_code(&s); break;
        case '[': status = take_link(&s, s.at); break;
        case '<': status = take_angle(&s); break;
        case '&': status = take_entity(&s); break;
        case '!':
            if (s.at + 1 < text.len && text.ptr[s.at + 1] == '[') {
                status = take_link(&s, s.at + 1);
                break;
            }
            status = buf_append_byte(out, c);
            s.at++;
            break;
        default: /* a backslash */
            if (s.at + 1 < text.len && is_punctuation(text.ptr[s.at + 1]))
                s.at++;
            status = buf_append_byte(out, text.ptr[s.at]);
            s.at++;
        }
    }
    return status;
}
