/* reader_text.c: plain text in any encoding, and formats that are best read as they stand (source, JSON, logs).
 *
 * Prose is often wrapped by hand. A line is taken to go on in the next one when it is long enough to have been
 * wrapped and the next one does not look like the start of something (a bullet, a deeper indent); a paragraph
 * ends at a blank line. */
#include <stdlib.h>
#include <strings.h>

#include "ingest/limits.h"
#include "ingest/readers.h"
#include "ingest/text_lines.h"

enum {
    WRAPPED_BYTES = 48,            /* shorter lines are not taken to be wrapped */
    CODE_BLOCK_BYTES = 4096,       /* a block of preformatted text is cut at a line end after this */
    PARAGRAPH_BYTES = 64 << 10     /* and a paragraph that never ends */
};

static const char *extension(const char *name)
{
    const char *dot = name ? strrchr(name, '.') : NULL;

    return dot && !strchr(dot, '/') ? dot + 1 : "";
}

/* Formats whose line ends mean something. */
static bool is_verbatim(const char *name)
{
    static const char *const kinds[] = {
        "json", "jsonl", "ndjson", "xml",  "yaml", "yml", "toml", "ini", "conf", "cfg", "log", "c",   "h",   "cc",
        "cpp",  "hpp",   "cu",     "cuh",  "py",   "js",  "ts",   "go",  "rs",   "java", "rb", "sh",  "pl",  "sql",
        "css",  "tex",   "bib",    "diff", "patch", "s",  "asm",  "lua", "r",    "m",   "vtt", "srt", "php", "cs",
    };
    const char *kind = extension(name);

    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strcasecmp(kind, kinds[i]) == 0)
            return true;
    }
    return false;
}

/* Text to look at, but no text to read: markup that nothing here takes off. */
static bool is_foreign_markup(struct span head)
{
    return head.len >= 4 && memcmp(head.ptr, "%!PS", 4) == 0;
}

static int text_bid(struct span head, const char *name)
{
    (void)name;
    return text_is_likely(head) && !is_foreign_markup(head) ? 10 : 0;
}

static struct span trim(struct span text)
{
    while (text.len && (unsigned char)text.ptr[0] <= ' ')
        text = span_slice(text, 1, text.len);
    while (text.len && (unsigned char)text.ptr[text.len - 1] <= ' ')
        text.len--;
    return text;
}

static size_t indent_of(struct span line)
{
    size_t columns = 0;

    for (size_t i = 0; i < line.len && (line.ptr[i] == ' ' || line.ptr[i] == '\t'); i++)
        columns += line.ptr[i] == '\t' ? 8 - columns % 8 : 1;
    return columns;
}

/* "- ", "* ", "•", "1. ", "(a) ": the start of an item. */
static bool starts_item(struct span text)
{
    size_t i = 0;

    if (text.len >= 2 && strchr("-*+o", text.ptr[0]) && text.ptr[1] == ' ')
        return true;
    if (text.len >= 3 && memcmp(text.ptr, "\xE2\x80\xA2", 3) == 0)
        return true;
    if (text.len && text.ptr[0] == '(')
        i++;
    while (i < text.len && i < 4 && text.ptr[i] >= '0' && text.ptr[i] <= '9')
        i++;
    if (i < text.len && i <= 1 && ((text.ptr[i] | 32) >= 'a' && (text.ptr[i] | 32) <= 'z'))
        i++;
    return i > 0 && i + 1 < text.len && (text.ptr[i] == '.' || text.ptr[i] == ')') && text.ptr[i + 1] == ' ';
}

struct paragraph {
    struct frame_writer *out;
    struct buf text;
    size_t indent;    /* of its first line but one */
    size_t last_len;  /* bytes of the line added last */
    size_t lines;
    enum line_kind kind;
};

static enum status flush(struct paragraph *p)
{
    struct frame_line line = {.kind = (uint8_t)p->kind, .text = buf_span(&p->text)};
    enum status status = line.text.len ? frame_writer_line(p->out, &line) : STATUS_OK;

    buf_clear(&p->text);
    p->lines = 0;
    p->kind = LINE_TEXT;
    return status;
}

static enum status add_prose(struct paragraph *p, struct span line)
{
    struct span text = trim(line);
    size_t indent = indent_of(line);
    bool item = starts_item(text), goes_on;
    enum status status;

    if (text.len == 0)
        return flush(p);
    goes_on = p->lines && p->last_len >= WRAPPED_BYTES && !item &&
              (p->lines == 1 || indent <= p->indent + 1) && p->text.len < PARAGRAPH_BYTES;
    if (!goes_on) {
        status = flush(p);
        if (status)
            return status;
        p->kind = item ? LINE_LIST_ITEM : LINE_TEXT;
    } else {
        status = buf_append_byte(&p->text, ' ');
        if (status)
            return status;
    }
    if (p->lines++ <= 1)
        p->indent = indent;
    p->last_len = text.len;
    return buf_append_span(&p->text, text);
}

static enum status add_verbatim(struct paragraph *p, struct span line)
{
    enum status status = STATUS_OK;

    p->kind = LINE_CODE;
    if (trim(line).len == 0 || p->text.len + line.len > LIMIT_LINE_BYTES || p->text.len > CODE_BLOCK_BYTES) {
        status = flush(p);
        p->kind = LINE_CODE;
    }
    if (status || trim(line).len == 0)
        return status;
    if (p->text.len)
        status = buf_append_byte(&p->text, '\n');
    return status ? status : buf_append_span(&p->text, line);
}

static enum status send_lines(struct source *source, const char *charset, bool verbatim, struct frame_writer *out,
                              struct error *err)
{
    struct paragraph paragraph = {.out = out};
    struct text_lines *lines = NULL;
    struct span line;
    enum status status = text_lines_open(source, out, &lines);

    buf_init(&paragraph.text, 3 * (size_t)LIMIT_LINE_BYTES);
    if (!status)
        text_lines_expect(lines, charset);
    while (!status) {
        status = text_lines_next(lines, &line, err);
        if (status)
            break;
        status = verbatim ? add_verbatim(&paragraph, line) : add_prose(&paragraph, line);
        if (!status)
            status = frame_writer_alive(out);
    }
    if (status == STATUS_NOT_FOUND)
        status = flush(&paragraph);
    text_lines_close(lines);
    buf_finish(&paragraph.text);
    return status;
}

enum status text_send_prose(struct source *source, const char *charset, struct frame_writer *out, struct error *err)
{
    return send_lines(source, charset, false, out, err);
}

static enum status text_read(const struct reader_job *job, struct error *err)
{
    struct frame_page page = {.number = 1};
    enum status status = frame_writer_page_begin(job->out, &page);

    if (!status)
        status = send_lines(job->source, "", is_verbatim(job->name), job->out, err);
    return status ? status : frame_writer_page_end(job->out);
}

const struct reader reader_text = {"text", "text/plain", text_bid, text_read};
