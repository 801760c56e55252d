/* reader_html.c: HTML by libxml2's SAX parser, streamed: no tree, no network, no entities but HTML's own.
 *
 * Elements are few kinds of thing here: headings, items, rows and code have a line of their own; blocks end the
 * line before and after them; everything else is inline. A table whose cells hold headings or tables is one for
 * layout: its cells are blocks, not a row. Nothing recurses, so depth costs nothing but libxml2's own stack. */
#include <libxml/HTMLparser.h>
#include <stdlib.h>
#include <strings.h>

#include "ingest/block.h"
#include "ingest/limits.h"
#include "ingest/readers.h"
#include "ingest/text_lines.h"

enum { LISTS_MAX = 32, TABLES_MAX = 32, META_TEXT_BYTES = LIMIT_META_BYTES + 1 };

struct html {
    struct block block;
    enum status status;  /* of the first call that failed: nothing is sent after it */
    int skipping;        /* elements open whose text is not text */
    bool in_title, in_pre;
    struct {
        bool numbered;
        int next;
    } lists[LISTS_MAX];
    int list_depth;      /* may exceed LISTS_MAX: then the last one serves */
    struct {
        bool layout, in_cell;
        int cells;
    } tables[TABLES_MAX];
    int table_depth;
    char title[META_TEXT_BYTES], author[META_TEXT_BYTES], created[64], modified[64], language[32];
};

/* --- What elements are ----------------------------------------------------------------------------------------- */

enum element { INLINE, BLOCK, HEADING, LIST, ITEM, TABLE, ROW, CELL, PRE, BREAK, TITLE, SKIPPED, META, HTML };

static const struct {
    const char *name;
    enum element element;
} elements[] = {
    {"address", BLOCK}, {"article", BLOCK}, {"aside", BLOCK}, {"blockquote", BLOCK}, {"body", BLOCK},
    {"br", BREAK}, {"canvas", SKIPPED}, {"caption", BLOCK}, {"center", BLOCK}, {"dd", BLOCK}, {"details", BLOCK},
    {"dialog", BLOCK}, {"dir", LIST}, {"div", BLOCK}, {"dl", BLOCK}, {"dt", BLOCK}, {"fieldset", BLOCK},
    {"figcaption", BLOCK}, {"figure", BLOCK}, {"footer", BLOCK}, {"form", BLOCK}, {"h1", HEADING}, {"h2", HEADING},
    {"h3", HEADING}, {"h4", HEADING}, {"h5", HEADING}, {"h6", HEADING}, {"header", BLOCK}, {"hr", BLOCK},
    {"html", HTML}, {"iframe", SKIPPED}, {"legend", BLOCK}, {"li", ITEM}, {"main", BLOCK}, {"menu", LIST},
    {"meta", META}, {"nav", BLOCK}, {"noscript", SKIPPED}, {"ol", LIST}, {"option", BLOCK},
    {"p", BLOCK}, {"pre", PRE}, {"script", SKIPPED}, {"section", BLOCK}, {"select", SKIPPED}, {"style", SKIPPED},
    {"summary", BLOCK}, {"svg", SKIPPED}, {"table", TABLE}, {"tbody", INLINE}, {"td", CELL}, {"template", SKIPPED},
    {"th", CELL}, {"title", TITLE}, {"tr", ROW}, {"ul", LIST},
};

static int compare_names(const void *name, const void *entry)
{
    return strcmp(name, *(const char *const *)entry);
}

static enum element element_of(const char *name)
{
    const void *found = bsearch(name, elements, sizeof elements / sizeof *elements, sizeof *elements, compare_names);

    return found ? elements[((const char *)found - (const char *)elements) / (ptrdiff_t)sizeof *elements].element
                 : INLINE;
}

/* --- Actions ---------------------------------------------------------------------------------------------------- */

static void keep(struct html *html, enum status status)
{
    if (!html->status)
        html->status = status;
}

/* The innermost table's state, or NULL outside of tables. */
static bool in_row(const struct html *html)
{
    int depth = html->table_depth;

    return depth > 0 && depth <= TABLES_MAX && !html->tables[depth - 1].layout && html->tables[depth - 1].in_cell;
}

/* A heading, a list or a table inside a cell: the tables around it are for layout. */
static void make_layout(struct html *html)
{
    for (int i = 0; i < html->table_depth && i < TABLES_MAX; i++)
        html->tables[i].layout = true;
}

static void end_block(struct html *html)
{
    if (in_row(html))
        block_space(&html->block);
    else
        keep(html, block_end(&html->block));
}

static void begin_item(struct html *html)
{
    char prefix[16] = "- ";

    if (in_row(html)) {
        block_space(&html->block);
        return;
    }
    if (html->list_depth > 0 && html->list_depth <= LISTS_MAX && html->lists[html->list_depth - 1].numbered)
        (void)snprintf(prefix, sizeof prefix, "%d. ", html->lists[html->list_depth - 1].next++);
    keep(html, block_begin(&html->block, LINE_LIST_ITEM, 0, prefix));
}

static void begin_cell(struct html *html)
{
    int at = html->table_depth - 1;

    if (at < 0 || at >= TABLES_MAX || html->tables[at].layout) {
        keep(html, block_end(&html->block));
        return;
    }
    if (html->tables[at].cells++)
        keep(html, block_tab(&html->block));
    else
        keep(html, block_begin(&html->block, LINE_TABLE_ROW, 0, NULL));
    html->tables[at].in_cell = true;
}

static void end_row(struct html *html)
{
    int at = html->table_depth - 1;

    if (at >= 0 && at < TABLES_MAX) {
        html->tables[at].cells = 0;
        html->tables[at].in_cell = false;
    }
    keep(html, block_end(&html->block));
}

static void begin_table(struct html *html)
{
    make_layout(html);
    keep(html, block_end(&html->block));
    if (html->table_depth < TABLES_MAX)
        memset(&html->tables[html->table_depth], 0, sizeof html->tables[0]);
    html->table_depth++;
}

static const char *attribute(const xmlChar **attributes, const char *name)
{
    for (; attributes && attributes[0]; attributes += 2) {
        if (strcasecmp((const char *)attributes[0], name) == 0)
            return (const char *)attributes[1];
    }
    return NULL;
}

static void copy_text(char *to, size_t size, const char *text)
{
    if (text && !to[0])
        (void)snprintf(to, size, "%s", text);
}

static void read_meta(struct html *html, const xmlChar **attributes)
{
    const char *name = attribute(attributes, "name"), *content = attribute(attributes, "content");

    if (!name)
        name = attribute(attributes, "property");
    if (!name || !content)
        return;
    if (strcasecmp(name, "author") == 0 || strcasecmp(name, "dc.creator") == 0)
        copy_text(html->author, sizeof html->author, content);
    else if (strcasecmp(name, "date") == 0 || strcasecmp(name, "dc.date") == 0 ||
             strcasecmp(name, "article:published_time") == 0)
        copy_text(html->created, sizeof html->created, content);
    else if (strcasecmp(name, "article:modified_time") == 0 || strcasecmp(name, "last-modified") == 0)
        copy_text(html->modified, sizeof html->modified, content);
}

/* --- Events of the parser ---------------------------------------------------------------------------------------- */

static void start_element(void *context, const xmlChar *tag, const xmlChar **attributes)
{
    struct html *html = context;
    const char *name = (const char *)tag;
    enum element element = element_of(name);

    if (html->skipping || html->status) {
        html->skipping += element == SKIPPED;
        return;
    }
    switch (element) {
    case INLINE: break;
    case BREAK:
        if (html->in_pre)
            keep(html, block_add(&html->block, span_of("\n", 1)));
        else
            end_block(html);
        break;
    case BLOCK: end_block(html); break;
    case HEADING:
        make_layout(html);
        keep(html, block_begin(&html->block, LINE_HEADING, name[1] - '0', NULL));
        break;
    case LIST:
        end_block(html);
        if (html->list_depth < LISTS_MAX) {
            html->lists[html->list_depth].numbered = name[0] == 'o';
            html->lists[html->list_depth].next = 1;
        }
        html->list_depth++;
        break;
    case ITEM: begin_item(html); break;
    case TABLE: begin_table(html); break;
    case ROW: end_row(html); break;
    case CELL: begin_cell(html); break;
    case PRE:
        make_layout(html);
        keep(html, block_begin(&html->block, LINE_CODE, 0, NULL));
        html->in_pre = true;
        break;
    case TITLE: html->in_title = html->title[0] == '\0'; break;
    case SKIPPED: html->skipping++; break;
    case META: read_meta(html, attributes); break;
    case HTML: copy_text(html->language, sizeof html->language, attribute(attributes, "lang")); break;
    }
}

static void end_element(void *context, const xmlChar *tag)
{
    struct html *html = context;
    enum element element = element_of((const char *)tag);

    if (html->skipping) {
        html->skipping -= element == SKIPPED;
        return;
    }
    switch (element) {
    case BLOCK:
    case ITEM: end_block(html); break;
    case HEADING:
    case HTML: keep(html, block_end(&html->block)); break;
    case LIST:
        html->list_depth -= html->list_depth > 0;
        end_block(html);
        break;
    case PRE:
        html->in_pre = false;
        keep(html, block_end(&html->block));
        break;
    case ROW: end_row(html); break;
    case CELL:
        if (!in_row(html))
            keep(html, block_end(&html->block));
        break;
    case TABLE:
        end_row(html);
        html->table_depth -= html->table_depth > 0;
        break;
    case TITLE: html->in_title = false; break;
    default: break;
    }
}

static void characters(void *context, const xmlChar *text, int len)
{
    struct html *html = context;
    struct span span = span_of((const char *)text, (size_t)len);

    if (html->skipping || html->status)
        return;
    if (html->in_title) {
        size_t used = strlen(html->title), room = sizeof html->title - 1 - used;

        memcpy(html->title + used, text, span.len < room ? span.len : room);
        return;
    }
    keep(html, block_add(&html->block, span));
    keep(html, frame_writer_alive(html->block.out));
}

/* --- Reading ----------------------------------------------------------------------------------------------------- */

static bool has_extension(const char *name, const char *extension)
{
    size_t len = name ? strlen(name) : 0, tail = strlen(extension);

    return len > tail && strcasecmp(name + len - tail, extension) == 0;
}

static bool contains_ignoring_case(struct span text, const char *part)
{
    size_t len = strlen(part);

    for (size_t i = 0; i + len <= text.len; i++) {
        if (strncasecmp(text.ptr + i, part, len) == 0)
            return true;
    }
    return false;
}

static int html_bid(struct span head, const char *name)
{
    bool named = has_extension(name, ".html") || has_extension(name, ".htm") || has_extension(name, ".xhtml");

    if (!text_is_likely(head))
        return 0;
    if (contains_ignoring_case(span_slice(head, 0, 1024), "<!doctype html") ||
        contains_ignoring_case(span_slice(head, 0, 1024), "<html"))
        return 50;
    return named ? 40 : 0;
}

/* <meta charset="x"> or content="text/html; charset=x", in the first bytes. */
static void find_charset(struct span head, char *name, size_t size)
{
    for (size_t i = 0; i + 8 < head.len; i++) {
        size_t len = 0;

        if (strncasecmp(head.ptr + i, "charset=", 8) != 0)
            continue;
        i += 8;
        i += i < head.len && (head.ptr[i] == '"' || head.ptr[i] == '\'');
        while (i + len < head.len && len + 1 < size && strchr("\"'>; /\t\n\r", head.ptr[i + len]) == NULL)
            len++;
        memcpy(name, head.ptr + i, len);
        name[len] = '\0';
        return;
    }
}

static void collapse(char *text)
{
    char *to = text;

    for (const char *from = text; *from; from++) {
        bool space = strchr(" \t\r\n\f", *from) != NULL;

        if (!space)
            *to++ = *from;
        else if (to > text && to[-1] != ' ')
            *to++ = ' ';
    }
    while (to > text && to[-1] == ' ')
        to--;
    *to = '\0';
}

static enum status parse(struct html *html, struct text_lines *lines, struct error *err)
{
    htmlSAXHandler events = {
        .startElement = start_element,
        .endElement = end_element,
        .characters = characters,
        .ignorableWhitespace = characters,
        .cdataBlock = characters,
    };
    htmlParserCtxtPtr parser = htmlCreatePushParserCtxt(&events, html, NULL, 0, NULL, XML_CHAR_ENCODING_UTF8);
    struct span piece;
    enum status status = STATUS_OK;

    if (!parser)
        return error_set(err, STATUS_NO_MEMORY, "no memory for the HTML parser");
    (void)htmlCtxtUseOptions(parser, HTML_PARSE_RECOVER | HTML_PARSE_NONET | HTML_PARSE_IGNORE_ENC |
                                         HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING);
    while (!status && !html->status) {
        status = text_lines_next_piece(lines, &piece, err);
        for (size_t from = 0; !status && !html->status && from < piece.len; from += 1 << 16) {
            struct span part = span_slice(piece, from, from + (1 << 16));

            (void)htmlParseChunk(parser, part.ptr, (int)part.len, 0);
        }
    }
    if (!html->status)
        (void)htmlParseChunk(parser, NULL, 0, 1);
    htmlFreeParserCtxt(parser);
    return status == STATUS_NOT_FOUND ? html->status : status;
}

/* Sends the text into the page that is open; what the head says stays in `html`. */
static enum status send_text(struct html *html, struct source *source, struct frame_writer *out, struct error *err)
{
    struct text_lines *lines = NULL;
    char charset[48] = "";
    enum status status = text_lines_open(source, out, &lines);

    if (status)
        return status;
    block_init(&html->block, out);
    find_charset(source_head(source), charset, sizeof charset);
    text_lines_expect(lines, charset);
    status = parse(html, lines, err);
    if (!status)
        status = block_end(&html->block);
    collapse(html->title);
    block_finish(&html->block);
    text_lines_close(lines);
    return status;
}

enum status html_send_text(struct source *source, struct frame_writer *out, struct error *err)
{
    struct html *html = calloc(1, sizeof *html);
    enum status status;

    if (!html)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an HTML document");
    status = send_text(html, source, out, err);
    free(html);
    return status;
}

static enum status html_read(const struct reader_job *job, struct error *err)
{
    struct frame_page page = {.number = 1};
    struct html *html = calloc(1, sizeof *html);
    enum status status;

    if (!html)
        return error_set(err, STATUS_NO_MEMORY, "no memory for an HTML document");
    status = frame_writer_page_begin(job->out, &page);
    if (!status)
        status = send_text(html, job->source, job->out, err);
    if (!status)
        status = frame_writer_page_end(job->out);
    if (!status) {
        struct frame_meta meta = {html->title, html->author, html->created, html->modified, html->language, 0};

        status = frame_writer_meta(job->out, &meta);
    }
    free(html);
    return status;
}

const struct reader reader_html = {"html", "text/html", html_bid, html_read};
