/* reader_markdown.c: Markdown's blocks: headings (both forms), lists, fences, indented code, tables, quotes.
 *
 * A block parser in one pass with a line of look-back; inline marks are markdown_inline.c's. What it does not
 * know stays as text: no input is an error. */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "ingest/block.h"
#include "ingest/limits.h"
#include "ingest/markdown_inline.h"
#include "ingest/readers.h"
#include "ingest/text_lines.h"

enum { META_VALUE_BYTES = LIMIT_META_BYTES + 1 };

struct markdown {
    struct block block;
    struct buf paragraph;  /* source of the paragraph, item or heading that may go on in the next line */
    struct buf clean;      /* it without its marks */
    enum line_kind kind;   /* of `paragraph` */
    char prefix[16];       /* of an item */
    char fence;            /* '`' or '~' inside a fence */
    size_t fence_len;
    bool front_matter, in_table, in_comment, after_blank, in_list;
    size_t line_count;
    char title[META_VALUE_BYTES], author[META_VALUE_BYTES], created[64], language[32];
};

static struct span trim(struct span text)
{
    while (text.len && (text.ptr[0] == ' ' || text.ptr[0] == '\t'))
        text = span_slice(text, 1, text.len);
    while (text.len && (text.ptr[text.len - 1] == ' ' || text.ptr[text.len - 1] == '\t'))
        text.len--;
    return text;
}

static size_t indent_of(struct span line)
{
    size_t columns = 0;

    for (size_t i = 0; i < line.len && (line.ptr[i] == ' ' || line.ptr[i] == '\t'); i++)
        columns += line.ptr[i] == '\t' ? 4 - columns % 4 : 1;
    return columns;
}

static size_t run_of(struct span text, char c)
{
    size_t len = 0;

    while (len < text.len && text.ptr[len] == c)
        len++;
    return len;
}

/* --- Sending ---------------------------------------------------------------------------------------------------- */

static enum status send_inline(struct markdown *m, enum line_kind kind, int level, const char *prefix,
                               struct span source)
{
    enum status status;

    buf_clear(&m->clean);
    status = markdown_inline(source, &m->clean);
    if (!status)
        status = block_begin(&m->block, kind, level, prefix);
    if (!status)
        status = block_add(&m->block, buf_span(&m->clean));
    if (!status && kind == LINE_HEADING && level == 1 && !m->title[0])
        (void)snprintf(m->title, sizeof m->title, "%s", buf_cstr(&m->block.text));
    return status ? status : block_end(&m->block);
}

static enum status end_paragraph(struct markdown *m)
{
    enum status status = STATUS_OK;

    if (m->paragraph.len)
        status = send_inline(m, m->kind, 0, m->kind == LINE_LIST_ITEM ? m->prefix : NULL, buf_span(&m->paragraph));
    buf_clear(&m->paragraph);
    m->kind = LINE_TEXT;
    return status;
}

static enum status add_to_paragraph(struct markdown *m, struct span text)
{
    enum status status = STATUS_OK;

    if (m->paragraph.len + text.len + 1 > LIMIT_LINE_BYTES)
        status = end_paragraph(m);
    if (!status && m->paragraph.len)
        status = buf_append_byte(&m->paragraph, ' ');
    return status ? status : buf_append_span(&m->paragraph, text);
}

/* --- Blocks: each answers true when the line was its own -------------------------------------------------- */

static bool try_fence(struct markdown *m, struct span line, enum status *status)
{
    struct span text = trim(line);
    char mark = text.len ? text.ptr[0] : ' ';
    size_t len = run_of(text, mark);

    if (m->fence) {
        if (mark == m->fence && len >= m->fence_len && len == text.len) {
            m->fence = 0;
            *status = block_end(&m->block);
        } else {
            *status = block_add(&m->block, line);
            if (!*status)
                *status = block_add(&m->block, span_of("\n", 1));
        }
        return true;
    }
    if ((mark != '`' && mark != '~') || len < 3 || (mark == '`' && memchr(text.ptr + len, '`', text.len - len)))
        return false;
    *status = end_paragraph(m);
    m->fence = mark;
    m->fence_len = len;
    if (!*status)
        *status = block_begin(&m->block, LINE_CODE, 0, NULL);
    return true;
}

static bool try_heading(struct markdown *m, struct span text, enum status *status)
{
    size_t level = run_of(text, '#');

    if (level < 1 || level > 6 || (level < text.len && text.ptr[level] != ' ' && text.ptr[level] != '\t'))
        return false;
    *status = end_paragraph(m);
    text = trim(span_slice(text, level, text.len));
    if (text.len) { /* closing marks: "## Title ##" */
        size_t end = text.len;

        while (end && text.ptr[end - 1] == '#')
            end--;
        if (end == 0 || text.ptr[end - 1] == ' ')
            text = trim(span_slice(text, 0, end));
    }
    if (!*status)
        *status = send_inline(m, LINE_HEADING, (int)level, NULL, text);
    m->in_list = false;
    return true;
}

/* "====" or "----" below a paragraph; "---", "***", "___" alone are rules and show nothing. */
static bool try_underline(struct markdown *m, struct span text, enum status *status)
{
    char mark = text.len ? text.ptr[0] : ' ';
    size_t marks = 0;

    if (mark != '=' && mark != '-' && mark != '*' && mark != '_')
        return false;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] == mark)
            marks++;
        else if (text.ptr[i] != ' ')
            return false;
    }
    if ((mark == '=' || mark == '-') && m->paragraph.len && m->kind == LINE_TEXT && marks == text.len) {
        *status = send_inline(m, LINE_HEADING, mark == '=' ? 1 : 2, NULL, buf_span(&m->paragraph));
        buf_clear(&m->paragraph);
        return true;
    }
    if (marks < 3 || mark == '=')
        return false;
    *status = end_paragraph(m);
    return true;
}

static bool try_item(struct markdown *m, struct span text, enum status *status)
{
    size_t len = 0;

    if (text.len >= 2 && strchr("-*+", text.ptr[0]) && text.ptr[1] == ' ') {
        (void)snprintf(m->prefix, sizeof m->prefix, "- ");
        len = 2;
    } else {
        while (len < text.len && len < 9 && text.ptr[len] >= '0' && text.ptr[len] <= '9')
            len++;
        if (len == 0 || len + 1 >= text.len || (text.ptr[len] != '.' && text.ptr[len] != ')') ||
            text.ptr[len + 1] != ' ')
            return false;
        if (m->paragraph.len && m->kind == LINE_TEXT && !span_equal_cstr(span_slice(text, 0, len), "1"))
            return false; /* a year at the start of a line is no list */
    }
    *status = end_paragraph(m);
    if (text.ptr[0] >= '0' && text.ptr[0] <= '9')
        (void)snprintf(m->prefix, sizeof m->prefix, "%.*s ", (int)len + 1, text.ptr);
    text = trim(span_slice(text, len + (text.ptr[len - 1] != ' '), text.len));
    if (text.len >= 4 && text.ptr[0] == '[' && text.ptr[2] == ']' && text.ptr[3] == ' ') /* a task */
        text = trim(span_slice(text, 3, text.len));
    m->kind = LINE_LIST_ITEM;
    m->in_list = true;
    if (!*status)
        *status = add_to_paragraph(m, text);
    return true;
}

/* "|---|:--:|" */
static bool is_table_rule(struct span text)
{
    bool dash = false, bar = false;

    for (size_t i = 0; i < text.len; i++) {
        if (!strchr("|-: \t", text.ptr[i]))
            return false;
        dash |= text.ptr[i] == '-';
        bar |= text.ptr[i] == '|';
    }
    return dash && bar;
}

static enum status send_row(struct markdown *m, struct span text)
{
    size_t from = 0;
    bool code = false;
    enum status status = block_begin(&m->block, LINE_TABLE_ROW, 0, NULL);

    if (text.len && text.ptr[0] == '|')
        text = span_slice(text, 1, text.len);
    if (text.len && text.ptr[text.len - 1] == '|' && !(text.len > 1 && text.ptr[text.len - 2] == '\\'))
        text.len--;
    for (size_t i = 0; i <= text.len && !status; i++) {
        bool escaped = i > 0 && text.ptr[i - 1] == '\\';

        if (i < text.len && text.ptr[i] == '`')
            code = !code;
        if (i < text.len && (text.ptr[i] != '|' || escaped || code))
            continue;
        if (from)
            status = block_tab(&m->block);
        buf_clear(&m->clean);
        if (!status)
            status = markdown_inline(trim(span_slice(text, from, i)), &m->clean);
        if (!status)
            status = block_add(&m->block, buf_span(&m->clean));
        from = i + 1;
    }
    return status ? status : block_end(&m->block);
}

static bool try_table(struct markdown *m, struct span text, enum status *status)
{
    bool has_bar = text.len && memchr(text.ptr, '|', text.len);

    if (m->in_table) {
        m->in_table = has_bar;
        if (has_bar)
            *status = send_row(m, text);
        return has_bar;
    }
    if (!has_bar || !is_table_rule(text) || !m->paragraph.len || !memchr(m->paragraph.ptr, '|', m->paragraph.len))
        return false;
    *status = send_row(m, trim(buf_span(&m->paragraph)));
    buf_clear(&m->paragraph);
    m->in_table = true;
    return true;
}

static void copy_value(char *to, size_t size, struct span value)
{
    value = trim(value);
    if (value.len >= 2 && (value.ptr[0] == '"' || value.ptr[0] == '\'') && value.ptr[value.len - 1] == value.ptr[0])
        value = span_slice(value, 1, value.len - 1);
    if (!to[0])
        (void)snprintf(to, size, "%.*s", (int)(value.len < size ? value.len : size - 1), value.ptr);
}

/* YAML between two "---" at the very start: the few keys that say what the document is. */
static bool try_front_matter(struct markdown *m, struct span line)
{
    struct span text = trim(line);
    const char *colon = text.len ? memchr(text.ptr, ':', text.len) : NULL;
    struct span key, value;

    if (m->line_count == 1 && span_equal_cstr(text, "---")) {
        m->front_matter = true;
        return true;
    }
    if (!m->front_matter)
        return false;
    if (span_equal_cstr(text, "---") || span_equal_cstr(text, "...") || m->line_count > 200) {
        m->front_matter = false;
        return true;
    }
    if (!colon)
        return true;
    key = span_of(text.ptr, (size_t)(colon - text.ptr));
    value = span_slice(text, key.len + 1, text.len);
    if (span_equal_cstr(key, "title"))
        copy_value(m->title, sizeof m->title, value);
    else if (span_equal_cstr(key, "author"))
        copy_value(m->author, sizeof m->author, value);
    else if (span_equal_cstr(key, "date"))
        copy_value(m->created, sizeof m->created, value);
    else if (span_equal_cstr(key, "lang") || span_equal_cstr(key, "language"))
        copy_value(m->language, sizeof m->language, value);
    return true;
}

/* A comment of several lines; one inside a line is the inline part's. */
static bool try_comment(struct markdown *m, struct span text)
{
    bool ends = text.len && memmem(text.ptr, text.len, "-->", 3);

    if (m->in_comment) {
        m->in_comment = !ends;
        return true;
    }
    if (text.len >= 4 && memcmp(text.ptr, "<!--", 4) == 0 && !ends) {
        m->in_comment = true;
        return true;
    }
    return false;
}

static enum status add_line(struct markdown *m, struct span line)
{
    struct span text = trim(line);
    size_t indent = indent_of(line);
    bool blank = text.len == 0, after_blank = m->after_blank;
    enum status status = STATUS_OK;

    m->line_count++;
    if (try_front_matter(m, line) || try_fence(m, line, &status) || try_comment(m, text))
        return status;
    m->after_blank = blank;
    if (blank) {
        m->in_table = false;
        if (m->block.kind == LINE_CODE && m->block.text.len) /* perhaps indented code goes on */
            return block_add(&m->block, span_of("\n", 1));
        return end_paragraph(m);
    }
    if (indent >= 4 && !m->in_list && !m->paragraph.len) {
        if (m->block.kind != LINE_CODE)
            status = block_begin(&m->block, LINE_CODE, 0, NULL);
        if (!status)
            status = block_add(&m->block, span_slice(line, line.ptr[0] == '\t' ? 1 : 4, line.len));
        return status ? status : block_add(&m->block, span_of("\n", 1));
    }
    if (m->block.kind == LINE_CODE)
        status = block_end(&m->block);
    m->in_list = m->in_list && (indent > 0 || !after_blank || text.ptr[0] == '-' || text.ptr[0] == '*');
    while (text.len && text.ptr[0] == '>') {
        text = trim(span_slice(text, 1, text.len));
        if (!text.len)
            return status ? status : end_paragraph(m);
    }
    if (status || try_table(m, text, &status) || try_heading(m, text, &status) || try_underline(m, text, &status) ||
        try_item(m, text, &status))
        return status;
    return add_to_paragraph(m, text);
}

/* --- Reading ----------------------------------------------------------------------------------------------------- */

static int markdown_bid(struct span head, const char *name)
{
    const char *dot = name ? strrchr(name, '.') : NULL;
    bool named =
        dot && (strcasecmp(dot, ".md") == 0 || strcasecmp(dot, ".markdown") == 0 || strcasecmp(dot, ".mdown") == 0 ||
                strcasecmp(dot, ".mkd") == 0 || strcasecmp(dot, ".mdx") == 0);

    return named && text_is_likely(head) ? 45 : 0;
}

static enum status markdown_read(const struct reader_job *job, struct error *err)
{
    struct frame_page page = {.number = 1};
    struct markdown *m = calloc(1, sizeof *m);
    struct text_lines *lines = NULL;
    struct span line;
    enum status status;

    if (!m)
        return error_set(err, STATUS_NO_MEMORY, "no memory for a Markdown document");
    block_init(&m->block, job->out);
    buf_init(&m->paragraph, 3 * (size_t)LIMIT_LINE_BYTES);
    buf_init(&m->clean, 4 * (size_t)LIMIT_LINE_BYTES);
    status = text_lines_open(job->source, job->out, &lines);
    if (!status)
        status = frame_writer_page_begin(job->out, &page);
    while (!status) {
        status = text_lines_next(lines, &line, err);
        if (!status)
            status = add_line(m, line);
        if (!status)
            status = frame_writer_alive(job->out);
    }
    if (status == STATUS_NOT_FOUND)
        status = end_paragraph(m);
    if (!status)
        status = block_end(&m->block);
    if (!status)
        status = frame_writer_page_end(job->out);
    if (!status) {
        struct frame_meta meta = {m->title, m->author, m->created, NULL, m->language, 0};

        status = frame_writer_meta(job->out, &meta);
    }
    text_lines_close(lines);
    block_finish(&m->block);
    buf_finish(&m->paragraph);
    buf_finish(&m->clean);
    free(m);
    return status;
}

const struct reader reader_markdown = {"markdown", "text/markdown", markdown_bid, markdown_read};
